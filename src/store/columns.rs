//! Values as columns hold them: numbers, names, lists of topics and of receivers. It knows no statement.

use std::fmt::Display;

use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};

use crate::hub::storage::{AliasId, Owed};
use crate::names::{Alias, BadName, Mid, Topic};
use crate::store::check::Check;

/// A number for a column, which holds 63 bits.
pub(super) fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))
}

/// A mid for a column.
pub(super) fn mid(mid: Mid) -> i64 {
    // A mid has 63 bits.
    mid.number().cast_signed()
}

/// The number in a column.
pub(super) fn get_number(row: &Row<'_>, column: usize) -> Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| Error::IntegralValueOutOfRange(column, value))
}

/// The mid in a column.
pub(super) fn get_mid(row: &Row<'_>, column: usize) -> Result<Mid> {
    get_number(row, column).map(Mid::new)
}

/// Holds a row against the check in `column`; rows of an older version have none.
pub(super) fn verify(row: &Row<'_>, column: usize, check: Check) -> Result<()> {
    match row.get::<_, Option<u32>>(column)? {
        Some(written) if written != check.end() => Err(altered(column)),
        _ => Ok(()),
    }
}

/// A row is not as it was written.
pub(super) fn altered(column: usize) -> Error {
    Error::FromSqlConversionFailure(column, Type::Integer, "its check does not fit: the row is not as it was written".into())
}

/// A table or the whole file is not as it was written.
pub(super) fn damaged(what: &str) -> Error {
    Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(what.to_owned()))
}

/// The alias in a column.
pub(super) fn get_alias(row: &Row<'_>, column: usize) -> Result<Alias> {
    get_text(row, column).and_then(|text| as_alias(text, column))
}

/// The alias of that name, which stands in `column`.
pub(super) fn as_alias(name: &str, column: usize) -> Result<Alias> {
    Alias::new(name).map_err(|error| bad_name(column, error))
}

/// The topic in a column.
pub(super) fn get_topic(row: &Row<'_>, column: usize) -> Result<Topic> {
    get_text(row, column).and_then(|text| Topic::new(text).map_err(|error| bad_name(column, error)))
}

/// The text in a column.
pub(super) fn get_text<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r str> {
    row.get_ref(column)?.as_str().map_err(|error| Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// The text in a column, if there is one.
pub(super) fn get_text_or_null<'r>(row: &'r Row<'_>, column: usize) -> Result<Option<&'r str>> {
    row.get_ref(column)?.as_str_or_null().map_err(|error| Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// A column's text is not what it should be.
pub(super) fn unreadable(column: usize, what: impl Display) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, what.to_string().into())
}

fn bad_name(column: usize, error: BadName) -> Error {
    unreadable(column, format_args!("a name {error}"))
}

/// Topics as a JSON array; nothing for none.
pub(super) fn topics_text(topics: &[Topic]) -> Option<String> {
    if topics.is_empty() {
        return None;
    }
    let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
    Some(serde_json::to_string(&names).expect("strings are always written"))
}

/// Reads back the topics that stand in `column`.
pub(super) fn as_topics(text: &str, column: usize) -> Result<Box<[Topic]>> {
    let names: Vec<String> = serde_json::from_str(text).map_err(|error| unreadable(column, error))?;
    names.iter().map(|name| Topic::new(name).map_err(|error| bad_name(column, error))).collect()
}

/// Receivers as two texts; the buffers are kept from one row to the next.
#[derive(Default)]
pub(super) struct ReceiversText {
    /// The ids as differences.
    pub(super) ids: String,
    topics: String,
    has_topics: bool,
}

impl ReceiversText {
    /// Writes `receivers`, which must be in the order of their ids, each once.
    pub(super) fn write(&mut self, receivers: &[Owed]) -> Result<()> {
        self.ids.clear();
        self.topics.clear();
        let mut last = None;
        for owed in receivers {
            let step = match last {
                None => Some(owed.alias.0),
                Some(last) => owed.alias.0.checked_sub(last).filter(|step| *step > 0),
            };
            let step = step.ok_or_else(|| Error::ToSqlConversionFailure("receivers are not in the order of their ids".into()))?;
            self.ids.push(if last.is_none() { '[' } else { ',' });
            push_number(&mut self.ids, step);
            last = Some(owed.alias.0);
        }
        self.ids.push_str(if last.is_none() { "[]" } else { "]" });
        self.write_topics(receivers);
        Ok(())
    }

    /// Under which topic each gets it.
    pub(super) fn topic_of(&self) -> Option<&str> {
        self.has_topics.then_some(&self.topics)
    }

    fn write_topics(&mut self, receivers: &[Owed]) {
        self.has_topics = receivers.iter().any(|owed| owed.topic.is_some());
        let Some(first) = receivers.first().filter(|_| self.has_topics) else { return };
        if let Some(topic) = first.topic
            && receivers.iter().all(|owed| owed.topic == first.topic)
        {
            push_number(&mut self.topics, topic.into());
            return;
        }
        for (index, owed) in receivers.iter().enumerate() {
            self.topics.push(if index == 0 { '[' } else { ',' });
            match owed.topic {
                Some(topic) => push_number(&mut self.topics, topic.into()),
                None => self.topics.push_str("null"),
            }
        }
        self.topics.push(']');
    }
}

/// Reads the receivers back from the texts that [`ReceiversText`] wrote; `column`: where they stand.
pub(super) fn as_receivers(ids: &str, topics: Option<&str>, column: usize) -> Result<Vec<Owed>> {
    let mut topic_of = TopicOf::read(topics).ok_or_else(|| unreadable(column, "no list of topics"))?;
    let inner = list(ids).ok_or_else(|| unreadable(column, "no list of receivers"))?;
    let mut receivers = Vec::with_capacity(inner.len() / 2 + 1);
    let mut id = 0_u64;
    for step in items(inner) {
        let step: u64 = step.parse().map_err(|error| unreadable(column, error))?;
        id = id.checked_add(step).ok_or_else(|| unreadable(column, "an id is too large"))?;
        let topic = topic_of.next().ok_or_else(|| unreadable(column, "not a topic for each receiver"))?;
        receivers.push(Owed { alias: AliasId(id), topic });
    }
    receivers.shrink_to_fit();
    Ok(receivers)
}

enum TopicOf<'t> {
    Same(Option<u16>),
    Each(std::str::Split<'t, char>),
}

impl<'t> TopicOf<'t> {
    fn read(text: Option<&'t str>) -> Option<TopicOf<'t>> {
        match text {
            None => Some(TopicOf::Same(None)),
            Some(text) => match list(text) {
                Some(inner) => Some(TopicOf::Each(inner.split(','))),
                None => text.parse().ok().map(|topic| TopicOf::Same(Some(topic))),
            },
        }
    }

    /// The next receiver's topic; the outer `None` if there is no more or it can't be read.
    fn next(&mut self) -> Option<Option<u16>> {
        match self {
            TopicOf::Same(topic) => Some(*topic),
            TopicOf::Each(items) => match items.next()? {
                "null" => Some(None),
                digits => digits.parse().ok().map(Some),
            },
        }
    }
}

fn list(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

fn items(inner: &str) -> impl Iterator<Item = &str> {
    inner.split(',').filter(|item| !item.is_empty())
}

/// Appends decimal digits: a fan-out has a thousand of them, and `write!` takes several times as long.
pub(super) fn push_number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    fn owed(alias: u64, topic: Option<u16>) -> Owed {
        Owed { alias: AliasId(alias), topic }
    }

    fn read(ids: &str, topics: Option<&str>) -> Result<Vec<Owed>> {
        as_receivers(ids, topics, 0)
    }

    #[test]
    fn receivers_are_written_as_the_migration_says() {
        let mut text = ReceiversText::default();
        let cases: [(&[Owed], &str, Option<&str>); 5] = [
            (&[], "[]", None),
            (&[owed(7, None), owed(8, None), owed(12, None)], "[7,1,4]", None),
            (&[owed(7, Some(2)), owed(9, Some(2))], "[7,2]", Some("2")),
            (&[owed(7, Some(0)), owed(8, None), owed(12, Some(999))], "[7,1,4]", Some("[0,null,999]")),
            (&[owed(u64::MAX, None)], "[18446744073709551615]", None),
        ];
        for (receivers, ids, topics) in cases {
            text.write(receivers).unwrap();
            assert_eq!((text.ids.as_str(), text.topic_of()), (ids, topics));
            assert_eq!(read(ids, topics).unwrap(), receivers);
        }
    }

    #[test]
    fn receivers_come_back_as_they_went() {
        for seed in 0..300 {
            let mut seeded = Seeded(seed);
            let topics = [None, Some(0), Some(1), Some(999)];
            let kinds = &topics[..1 + seeded.below(topics.len())];
            let mut id = 0;
            let receivers: Vec<Owed> = (0..seeded.below(40))
                .map(|_| {
                    id += 1 + seeded.next_u64() % (1 << *seeded.pick(&[1, 8, 40]));
                    owed(id, *seeded.pick(kinds))
                })
                .collect();
            let mut text = ReceiversText::default();
            text.write(&receivers).unwrap();
            assert_eq!(read(&text.ids, text.topic_of()).unwrap(), receivers, "seed {seed}");
        }
    }

    #[test]
    fn receivers_out_of_order_or_twice_are_refused() {
        let mut text = ReceiversText::default();
        for ids in [[5, 4], [5, 5]] {
            let error = text.write(&ids.map(|id| owed(id, None))).unwrap_err();
            assert!(matches!(error, Error::ToSqlConversionFailure(_)), "{error}");
        }
    }

    #[test]
    fn unreadable_lists_are_errors() {
        let cases = [
            ("", None),
            ("7", None),
            ("[7", None),
            ("[x]", None),
            ("[-1]", None),
            ("[18446744073709551615,1]", None),
            ("[7]", Some("x")),
            ("[7]", Some("[x]")),
            ("[7,1]", Some("[0]")),
            ("[7]", Some("65536")),
        ];
        for (ids, topics) in cases {
            assert!(read(ids, topics).is_err(), "{ids} {topics:?}");
        }
        let mut seeded = Seeded(1);
        for _ in 0..2_000 {
            let len = seeded.below(12);
            let noise: String = seeded.bytes(len).iter().map(|byte| char::from(b"[],0123456789nul"[usize::from(byte % 16)])).collect();
            // Any answer but a panic.
            let _ = read(&noise, Some(&noise));
        }
    }
}
