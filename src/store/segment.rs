//! A segment: messages that were stored together, as the columns of one row. Statements about it are in `messages.rs`.
//!
//! A row for each message costs more than the message, and a session that catches up reads many. A segment fills a page of the file, so
//! that it is read, and deleted, with one.
//!
//! `heads` and `bodies` are JSON arrays, an item a line, so that people can read them with SQLite alone and this program skips lines.
//! An item of `heads` says `[mid, bytes, expires, ts, check, receipt, receivers, publisher, topics, topic_of]`: mid, expiry and time
//! as differences to the row's columns, the bytes of the body and its check, 1 if a report is kept; the last ones, where they are
//! `null`, are left out. `receivers` and `topic_of` are as [`ReceiversText`] writes them.

use std::ops::Range;

use rusqlite::Result;

use crate::hub::storage::Owed;
use crate::names::{Alias, Mid};
use crate::protocol::frame::Message;
use crate::store::check::Check;
use crate::store::columns::{ReceiversText, altered, as_alias, as_receivers, as_topics, number, push_number, topics_text, unreadable};

/// Bytes of `heads` and `bodies` together, unless one message needs more: with the other columns they fill a page of the file.
const BYTES_MAX: usize = 4_000;

/// Where columns stand in a row that is read.
pub(super) const HEADS: usize = 4;
pub(super) const CRC: usize = 5;
pub(super) const BODIES: usize = 6;

/// What an array begins with, what stands between its items, and its end.
const OPEN: &str = "[\n";
const NEXT: &str = ",\n";
const CLOSE: &str = "\n]";

/// What the checks begin with.
const SEGMENT: Check = Check::of("segment");
const BODY: Check = Check::of("body");

/// The numbers of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Base {
    /// Its key: none of its messages has a lower number.
    pub(super) mid: Mid,
    /// The number of its last message.
    pub(super) last: Mid,
    /// What the heads count from: service time, ms.
    pub(super) expires: u64,
    /// Likewise, wall clock, ms.
    pub(super) ts: u64,
}

/// A row without its bodies, as read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'r> {
    /// Its numbers.
    pub(super) base: Base,
    /// An item for each message, ascending.
    pub(super) heads: &'r str,
}

impl<'r> Segment<'r> {
    /// The check of all columns but the bodies, each of which has its own in its head.
    pub(super) fn check(&self) -> u32 {
        let Base { mid, last, expires, ts } = self.base;
        SEGMENT.number(mid.number()).number(last.number()).number(expires).number(ts).text(self.heads).end()
    }

    /// Holds it against the check that was read with it.
    pub(super) fn verify(&self, crc: u32) -> Result<()> {
        if self.check() == crc { Ok(()) } else { Err(altered(CRC)) }
    }

    /// Its items.
    pub(super) fn items(&self) -> Result<Items<'r>> {
        let inner = self.heads.strip_prefix(OPEN).and_then(|heads| heads.strip_suffix(CLOSE));
        let lines = inner.ok_or_else(|| unreadable(HEADS, "no list of heads"))?.split('\n');
        Ok(Items { lines, first: self.base.mid, body_at: OPEN.len() })
    }

    /// Reads the whole of an item.
    pub(super) fn head(&self, item: &Item<'r>) -> Result<Head<'r>> {
        self.try_head(item).ok_or_else(|| bad_head(item.line))
    }

    fn try_head(&self, item: &Item<'r>) -> Option<Head<'r>> {
        let mut rest = item.rest;
        let expires = self.base.expires.checked_add_signed(signed(&mut rest)?)?;
        let ts = self.base.ts.checked_add_signed(signed(&mut rest)?)?;
        let check = u32::try_from(unsigned(&mut rest)?).ok()?;
        let receipt = unsigned(&mut rest)? == 1;
        let receivers = value(&mut rest)?;
        let mut optional = || -> Option<Option<&'r str>> {
            if rest.is_empty() {
                return Some(None);
            }
            value(&mut rest).map(|text| Some(text).filter(|text| *text != "null"))
        };
        let (publisher, topics, topic_of) = (optional()?, optional()?, optional()?);
        rest.is_empty().then_some(Head { expires, ts, check, receipt, receivers, publisher, topics, topic_of })
    }

    /// A message whole and what else its head says, its body out of the row's bodies.
    pub(super) fn message(&self, item: &Item<'r>, bodies: &str) -> Result<(Message, Head<'r>)> {
        let head = self.head(item)?;
        let body = bodies.get(item.body.clone()).ok_or_else(|| unreadable(BODIES, "a body is missing"))?;
        if body_check(body) != head.check {
            return Err(altered(BODIES));
        }
        let message = Message {
            mid: item.mid,
            expires: head.expires,
            ts: head.ts,
            receipt: head.receipt,
            publisher: head.publisher()?,
            topics: head.topics.map_or(Ok(Box::default()), |names| as_topics(names, HEADS))?,
            body: body.into(),
        };
        Ok((message, head))
    }
}

/// The items of a segment, in order. An error ends them.
pub(super) struct Items<'r> {
    lines: std::str::Split<'r, char>,
    first: Mid,
    /// Where the next body begins.
    body_at: usize,
}

impl<'r> Iterator for Items<'r> {
    type Item = Result<Item<'r>>;

    fn next(&mut self) -> Option<Result<Item<'r>>> {
        let line = self.lines.next()?;
        Some(self.item(line).ok_or_else(|| bad_head(line)))
    }
}

impl<'r> Items<'r> {
    fn item(&mut self, line: &'r str) -> Option<Item<'r>> {
        let item = Item::read(line.strip_suffix(',').unwrap_or(line), self.first, self.body_at)?;
        self.body_at = item.body.end.checked_add(NEXT.len())?;
        Some(item)
    }
}

/// One message of a segment, read as far as it takes to find it.
#[derive(Debug, Clone)]
pub(super) struct Item<'r> {
    /// Its number.
    pub(super) mid: Mid,
    /// Where its body stands in the bodies, in bytes.
    pub(super) body: Range<usize>,
    /// All of it.
    line: &'r str,
    /// What is not read yet.
    rest: &'r str,
}

impl<'r> Item<'r> {
    /// `first`: what mids are counted from; `body_at`: where the body begins.
    fn read(line: &'r str, first: Mid, body_at: usize) -> Option<Item<'r>> {
        let mut rest = line.strip_prefix('[')?.strip_suffix(']')?;
        let mid = Mid::new(first.number().checked_add(unsigned(&mut rest)?)?);
        let body_end = body_at.checked_add(usize::try_from(unsigned(&mut rest)?).ok()?)?;
        Some(Item { mid, body: body_at..body_end, line, rest })
    }
}

/// A segment as it is kept for some time.
pub(super) struct Whole {
    base: Base,
    heads: Box<str>,
    bodies: Box<str>,
    places: Box<[Place]>,
}

/// Where a message stands in a segment.
struct Place {
    mid: Mid,
    /// In the heads.
    line: Range<usize>,
    /// Where its body begins.
    body_at: usize,
}

impl Whole {
    /// Copies what was read.
    pub(super) fn new(segment: &Segment<'_>, bodies: &str) -> Result<Whole> {
        let mut line_at = OPEN.len();
        let place = |item: Result<Item<'_>>| {
            let item = item?;
            let line = line_at..line_at + item.line.len();
            line_at = line.end + NEXT.len();
            Ok(Place { mid: item.mid, line, body_at: item.body.start })
        };
        let places = segment.items()?.map(place).collect::<Result<_>>()?;
        Ok(Whole { base: segment.base, heads: segment.heads.into(), bodies: bodies.into(), places })
    }

    /// The message of that number, if it has it.
    pub(super) fn message(&self, mid: Mid) -> Option<Result<Message>> {
        let place = &self.places[self.places.binary_search_by_key(&mid, |place| place.mid).ok()?];
        let segment = Segment { base: self.base, heads: &self.heads };
        let item = Item::read(self.heads.get(place.line.clone())?, self.base.mid, place.body_at)?;
        Some(segment.message(&item, &self.bodies).map(|(message, _)| message))
    }

    /// Its key.
    pub(super) fn key(&self) -> Mid {
        self.base.mid
    }

    /// The number of its last message.
    pub(super) fn last(&self) -> Mid {
        self.base.last
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Whole>() + self.heads.len() + self.bodies.len() + size_of_val(&*self.places)
    }
}

/// What is known of a message beside its number and its body.
pub(super) struct Head<'r> {
    /// Service time, ms.
    pub(super) expires: u64,
    /// When it was published: wall clock, ms.
    pub(super) ts: u64,
    check: u32,
    /// Whether a report is kept.
    pub(super) receipt: bool,
    receivers: &'r str,
    /// The publisher's alias, as JSON.
    publisher: Option<&'r str>,
    topics: Option<&'r str>,
    topic_of: Option<&'r str>,
}

impl Head<'_> {
    /// To whom it was owed when it was stored.
    pub(super) fn receivers(&self) -> Result<Vec<Owed>> {
        as_receivers(self.receivers, self.topic_of, HEADS)
    }

    /// The publisher's alias.
    pub(super) fn publisher(&self) -> Result<Option<Alias>> {
        let Some(text) = self.publisher else { return Ok(None) };
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).filter(|text| !text.contains('\\'));
        match inner {
            Some(name) => as_alias(name, HEADS).map(Some),
            None => {
                let name: String = serde_json::from_str(text).map_err(|error| unreadable(HEADS, error))?;
                as_alias(&name, HEADS).map(Some)
            }
        }
    }
}

/// A segment that is being put together. Its buffers are kept from one to the next.
#[derive(Default)]
pub(super) struct Draft {
    base: Base,
    heads: String,
    bodies: String,
    receivers: ReceiversText,
}

impl Draft {
    /// Adds a message, which must have a higher number than those before. False: the segment is full, and it was not added.
    pub(super) fn push(&mut self, message: &Message, receivers: &[Owed]) -> Result<bool> {
        self.check(message, receivers)?;
        let (heads, bodies) = (self.heads.len(), self.bodies.len());
        let is_first = heads == 0;
        if is_first {
            self.heads.reserve(BYTES_MAX / 2);
            self.bodies.reserve(BYTES_MAX);
            self.base = Base { mid: message.mid, last: message.mid, expires: message.expires, ts: message.ts };
        }
        self.push_head(message);
        self.push_body(&message.body);
        if !is_first && self.heads.len() + self.bodies.len() + 2 * CLOSE.len() > BYTES_MAX {
            self.heads.truncate(heads);
            self.bodies.truncate(bodies);
            return Ok(false);
        }
        self.base.last = message.mid;
        Ok(true)
    }

    /// Whether a message can be stored: an error for its own sake.
    pub(super) fn check(&mut self, message: &Message, receivers: &[Owed]) -> Result<()> {
        let _ = (number(message.expires)?, number(message.ts)?);
        self.receivers.write(receivers)
    }

    fn push_head(&mut self, message: &Message) {
        let heads = &mut self.heads;
        heads.push_str(if heads.is_empty() { OPEN } else { NEXT });
        heads.push('[');
        push_number(heads, message.mid.number() - self.base.mid.number());
        heads.push(',');
        push_number(heads, message.body.len() as u64);
        push_difference(heads, message.expires, self.base.expires);
        push_difference(heads, message.ts, self.base.ts);
        heads.push(',');
        push_number(heads, body_check(&message.body).into());
        heads.push_str(if message.receipt { ",1," } else { ",0," });
        heads.push_str(&self.receivers.ids);
        let (publisher, topics, topic_of) =
            (message.publisher.as_ref().map(Alias::as_str), topics_text(&message.topics), self.receivers.topic_of());
        if publisher.is_some() || topics.is_some() || topic_of.is_some() {
            heads.push(',');
            push_string(heads, publisher);
        }
        if topics.is_some() || topic_of.is_some() {
            heads.push(',');
            heads.push_str(topics.as_deref().unwrap_or("null"));
        }
        if let Some(topic_of) = topic_of {
            heads.push(',');
            heads.push_str(topic_of);
        }
        heads.push(']');
    }

    fn push_body(&mut self, body: &str) {
        self.bodies.push_str(if self.bodies.is_empty() { OPEN } else { NEXT });
        self.bodies.push_str(body);
    }

    /// Begins a segment that holds some of another's messages, added by [`Draft::keep`], in its place.
    pub(super) fn begin(&mut self, of: &Segment<'_>) {
        self.clear();
        self.base = of.base;
    }

    /// Adds a message of the other segment as it stands there.
    pub(super) fn keep(&mut self, item: &Item<'_>, bodies: &str) -> Result<()> {
        let body = bodies.get(item.body.clone()).ok_or_else(|| unreadable(BODIES, "a body is missing"))?;
        self.heads.push_str(if self.heads.is_empty() { OPEN } else { NEXT });
        self.heads.push_str(item.line);
        self.push_body(body);
        self.base.last = item.mid;
        Ok(())
    }

    /// Drops what was added.
    pub(super) fn clear(&mut self) {
        self.heads.clear();
        self.bodies.clear();
    }

    /// Whether nothing was added.
    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Hands its row and its bodies to `write` and is empty again.
    pub(super) fn finish<T>(&mut self, write: impl FnOnce(&Segment<'_>, &str) -> T) -> T {
        self.heads.push_str(CLOSE);
        self.bodies.push_str(CLOSE);
        let written = write(&Segment { base: self.base, heads: &self.heads }, &self.bodies);
        self.clear();
        written
    }
}

fn body_check(body: &str) -> u32 {
    BODY.text(body).end()
}

fn bad_head(line: &str) -> rusqlite::Error {
    unreadable(HEADS, format_args!("no head of a message: {line:.100}"))
}

/// Appends a comma and how far `number` is from `base`.
fn push_difference(text: &mut String, number: u64, base: u64) {
    text.push_str(if number < base { ",-" } else { "," });
    push_number(text, number.abs_diff(base));
}

/// Appends a JSON string.
fn push_string(text: &mut String, string: Option<&str>) {
    match string {
        None => text.push_str("null"),
        Some(string) if string.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') => {
            text.push('"');
            text.push_str(string);
            text.push('"');
        }
        Some(string) => text.push_str(&serde_json::to_string(string).expect("strings are always written")),
    }
}

/// Takes a number and the comma behind it.
fn unsigned(rest: &mut &str) -> Option<u64> {
    let bytes = rest.as_bytes();
    let mut number = 0_u64;
    let mut len = 0;
    while let Some(digit @ b'0'..=b'9') = bytes.get(len) {
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        len += 1;
    }
    if len == 0 {
        return None;
    }
    end_value(rest, len)?;
    Some(number)
}

/// Takes a number that may be below zero, and the comma behind it.
fn signed(rest: &mut &str) -> Option<i64> {
    match rest.strip_prefix('-') {
        Some(behind) => {
            *rest = behind;
            0_i64.checked_sub_unsigned(unsigned(rest)?)
        }
        None => 0_i64.checked_add_unsigned(unsigned(rest)?),
    }
}

/// Takes a value of any kind this program writes, a list in no list, and the comma behind it.
fn value<'r>(rest: &mut &'r str) -> Option<&'r str> {
    let text = *rest;
    let len = value_len(text.as_bytes())?;
    end_value(rest, len)?;
    text.get(..len)
}

fn value_len(bytes: &[u8]) -> Option<usize> {
    let is_list = bytes.first() == Some(&b'[');
    let mut at = usize::from(is_list);
    loop {
        match bytes.get(at) {
            Some(b'"') => at += string_len(&bytes[at..])?,
            Some(b']') if is_list => return Some(at + 1),
            None | Some(b',') if !is_list => return (at > 0).then_some(at),
            None => return None,
            Some(_) => at += 1,
        }
    }
}

/// How long the JSON string is that `bytes` begin with.
fn string_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Goes on behind a value of that length: there a comma stands, or nothing.
fn end_value(rest: &mut &str, len: usize) -> Option<()> {
    let behind = rest.get(len..)?;
    *rest = match behind.strip_prefix(',') {
        Some(next) if !next.is_empty() => next,
        Some(_) => return None,
        None if behind.is_empty() => behind,
        None => return None,
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::storage::AliasId;
    use crate::names::Topic;
    use crate::seeded::Seeded;
    use crate::store::samples::message;

    /// What a row holds.
    struct Row {
        base: Base,
        heads: String,
        bodies: String,
    }

    impl Row {
        fn segment(&self) -> Segment<'_> {
            Segment { base: self.base, heads: &self.heads }
        }

        /// Its messages and who is owed each.
        fn all(&self) -> Result<Vec<(Message, Vec<Owed>)>> {
            let segment = self.segment();
            let whole = |item: Result<Item<'_>>| {
                let item = item?;
                let (message, head) = segment.message(&item, &self.bodies)?;
                Ok((message, head.receivers()?))
            };
            segment.items()?.map(whole).collect()
        }
    }

    fn finish(draft: &mut Draft) -> Row {
        draft.finish(|segment, bodies| Row { base: segment.base, heads: segment.heads.to_owned(), bodies: bodies.to_owned() })
    }

    fn rows(messages: &[(Message, Vec<Owed>)]) -> Vec<Row> {
        let (mut draft, mut rows) = (Draft::default(), Vec::new());
        for (message, receivers) in messages {
            if !draft.push(message, receivers).unwrap() {
                rows.push(finish(&mut draft));
                assert!(draft.push(message, receivers).unwrap());
            }
        }
        if !draft.is_empty() {
            rows.push(finish(&mut draft));
        }
        rows
    }

    /// Ascending messages of all kinds.
    fn any(seeded: &mut Seeded) -> Vec<(Message, Vec<Owed>)> {
        let mut mid = seeded.next_u64() >> 2;
        let count = 1 + seeded.below(60);
        let mut one = |_| {
            mid += 1 + seeded.next_u64() % *seeded.pick(&[1, 1, 1 << 40]);
            let length = *seeded.pick(&[0, 1, 20, 3_990, 9_000]);
            let mut message = message(mid, &format!("\"{}\"", "门".repeat(seeded.below(length + 1) / 3)));
            message.expires = *seeded.pick(&[0, 900, 901, 1 << 62]);
            message.ts = *seeded.pick(&[0, 1_700_000_000_000, 1_700_000_000_123]);
            message.receipt = seeded.below(2) == 0;
            let publisher = *seeded.pick(&["p", "a\"b", "back\\slash", "门, 3]"]);
            message.publisher = Some(Alias::new(publisher).unwrap()).filter(|_| seeded.below(3) > 0);
            let topics = [Topic::new("news").unwrap(), Topic::new("say \"],[\" \\").unwrap()];
            message.topics = topics[..seeded.below(3)].into();
            let receivers = 1 + seeded.below(3) as u64;
            let topic = *seeded.pick(&[None, Some(0), Some(1)]);
            let owed = |id: u64| Owed { alias: AliasId(id * 7), topic: topic.filter(|_| id != 2) };
            (message, (1..=receivers).map(owed).collect())
        };
        (0..count).map(&mut one).collect()
    }

    #[test]
    fn messages_come_back_as_they_went_and_fill_a_page_at_most() {
        for seed in 0..300 {
            let messages = any(&mut Seeded(seed));
            let rows = rows(&messages);
            let read: Vec<_> = rows.iter().flat_map(|row| row.all().unwrap()).collect();
            assert!(read == messages, "seed {seed}");
            for row in &rows {
                let count = row.all().unwrap().len();
                assert!(count == 1 || row.heads.len() + row.bodies.len() <= BYTES_MAX, "seed {seed}: {count}");
                for array in [&row.heads, &row.bodies] {
                    let items: Vec<serde_json::Value> = serde_json::from_str(array).unwrap();
                    assert_eq!(items.len(), count, "people read it with SQLite");
                }
            }
            assert!(rows.windows(2).all(|pair| pair[0].base.last < pair[1].base.mid), "seed {seed}: they do not overlap");
        }
    }

    #[test]
    fn each_message_is_found_by_its_number_in_what_is_kept() {
        for seed in 0..100 {
            for row in rows(&any(&mut Seeded(seed))) {
                let whole = Whole::new(&row.segment(), &row.bodies).unwrap();
                for (message, _) in row.all().unwrap() {
                    let mid = message.mid;
                    assert!(whole.message(mid).unwrap().unwrap() == message, "seed {seed}");
                    assert!(whole.message(Mid::new(mid.number() - 1)).is_none_or(|before| before.unwrap().mid < mid));
                }
                assert!(whole.message(Mid::ZERO).is_none());
                assert!(whole.bytes() >= row.heads.len() + row.bodies.len());
            }
        }
    }

    #[test]
    fn what_is_kept_of_a_segment_stays_as_it_is() {
        for seed in 0..100 {
            let mut seeded = Seeded(seed);
            for row in rows(&any(&mut seeded)) {
                let all = row.all().unwrap();
                let keep: Vec<bool> = all.iter().map(|_| seeded.below(2) == 0).collect();
                let mut draft = Draft::default();
                draft.begin(&row.segment());
                for (item, _) in row.segment().items().unwrap().zip(&keep).filter(|(_, keep)| **keep) {
                    draft.keep(&item.unwrap(), &row.bodies).unwrap();
                }
                if draft.is_empty() {
                    continue;
                }
                let left = finish(&mut draft);
                let expected: Vec<_> = all.into_iter().zip(&keep).filter(|(_, keep)| **keep).map(|(one, _)| one).collect();
                assert!(left.all().unwrap() == expected, "seed {seed}");
                assert_eq!(left.base.mid, row.base.mid, "the key stays");
                assert_eq!(left.base.last, expected[expected.len() - 1].0.mid);
            }
        }
    }

    #[test]
    fn whatever_stands_in_a_row_is_an_answer_or_an_error() {
        for seed in 0..3_000 {
            let mut seeded = Seeded(seed);
            let mut row = rows(&any(&mut seeded)).swap_remove(0);
            for text in [&mut row.heads, &mut row.bodies] {
                let mut bytes = std::mem::take(text).into_bytes();
                for _ in 0..seeded.below(4) {
                    let at = seeded.below(bytes.len().max(1));
                    match seeded.below(3) {
                        0 | 1 if bytes.is_empty() => {}
                        0 => drop(bytes.remove(at)),
                        1 => bytes[at] = b"[],\"\\-019n\n"[seeded.below(11)],
                        _ => bytes.truncate(at),
                    }
                }
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
            let _ = row.all();
            if let Ok(whole) = Whole::new(&row.segment(), &row.bodies) {
                let _ = whole.message(row.base.last);
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_row_is_found() {
        let receivers = [Owed { alias: AliasId(7), topic: Some(1) }];
        let row = rows(&[(message(5, "\"a\""), receivers.to_vec()), (message(6, "\"b\""), receivers.to_vec())]).swap_remove(0);
        let crc = row.segment().check();
        assert!(row.segment().verify(crc).is_ok() && row.segment().verify(crc ^ 1).is_err());
        for bit in 0..row.heads.len() * 8 {
            let mut altered = row.heads.clone().into_bytes();
            altered[bit / 8] ^= 1 << (bit % 8);
            if let Ok(heads) = std::str::from_utf8(&altered) {
                assert!(Segment { heads, ..row.segment() }.verify(crc).is_err(), "bit {bit}");
            }
        }
        for altered in [
            Base { mid: Mid::new(4), ..row.base },
            Base { last: Mid::new(7), ..row.base },
            Base { expires: 901, ..row.base },
            Base { ts: 1, ..row.base },
        ] {
            assert!(Segment { base: altered, heads: &row.heads }.verify(crc).is_err());
        }
        let bodies = row.bodies.replace('a', "c");
        let item = row.segment().items().unwrap().next().unwrap().unwrap();
        assert!(row.segment().message(&item, &bodies).is_err());
    }

    #[test]
    fn a_message_that_cant_be_stored_leaves_the_draft() {
        let mut draft = Draft::default();
        let owed = |id| Owed { alias: AliasId(id), topic: None };
        assert!(draft.push(&message(5, "1"), &[owed(1)]).unwrap());
        assert!(draft.push(&message(6, "1"), &[owed(2), owed(1)]).is_err());
        assert!(draft.push(&message(7, "1"), &[owed(1)]).unwrap());
        let mids: Vec<u64> = finish(&mut draft).all().unwrap().iter().map(|(message, _)| message.mid.number()).collect();
        assert_eq!(mids, [5, 7]);
        assert!(draft.is_empty());
    }
}
