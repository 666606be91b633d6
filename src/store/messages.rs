//! Statements about messages, which lie in segments, and which of their deliveries have ended.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Result, Row};

use crate::hub::storage::{AliasId, Owed};
use crate::names::{Alias, Mid};
use crate::protocol::frame::Message;
use crate::store::cause::{Cause, cause};
use crate::store::check::Check;
use crate::store::columns::{get_mid, get_number, get_text, mid, number, verify};
use crate::store::findings::Findings;
use crate::store::recent::Recent;
use crate::store::segment::{BODIES, Base, CRC, Draft, HEADS, Item, Segment, Whole};

/// All segments without their bodies, oldest first, for [`each_owed`].
pub(super) const ALL: &str = "SELECT mid, last, expires, ts, heads, crc FROM segment ORDER BY mid";
/// All segments, for [`get_whole`].
pub(super) const ALL_WHOLE: &str = "SELECT mid, last, expires, ts, heads, crc, bodies FROM segment";
/// All deliveries that ended before their messages, in the order of [`ALL`].
pub(super) const ALL_ENDED: &str = "SELECT mid, alias, crc FROM ended ORDER BY mid, alias";

/// The segment in which that message lies, if it is stored: segments do not overlap.
const FIND_WHOLE: &str = "SELECT mid, last, expires, ts, heads, crc, bodies FROM segment \
                          WHERE mid = (SELECT mid FROM segment WHERE mid <= ?1 ORDER BY mid DESC LIMIT 1) AND last >= ?1";

/// What the checks of the rows of `ended` begin with.
const ENDED: Check = Check::of("ended");

/// A message and who is owed it.
pub(super) type Saved<'m> = (&'m Message, &'m [Owed]);

/// Writes messages and endings in one transaction.
pub(super) struct Messages<'c> {
    connection: &'c Connection,
    draft: Draft,
    /// Whether there are endings at all, once somebody wanted to know: mostly there are none, and none need deleting.
    has_endings: Option<bool>,
}

impl<'c> Messages<'c> {
    pub(super) fn new(connection: &'c Connection) -> Messages<'c> {
        Messages { connection, draft: Draft::default(), has_endings: None }
    }

    /// Inserts or replaces messages, in any order: those that are saved together and are neighbours share segments. If it fails for the
    /// sake of a message, perhaps others are written, and no other is touched.
    pub(super) fn save(&mut self, mut messages: Vec<Saved<'_>>) -> Result<()> {
        // The last one of the same number counts.
        messages.reverse();
        messages.sort_by_key(|(message, _)| message.mid);
        messages.dedup_by_key(|(message, _)| message.mid);
        let mut rest = &messages[..];
        while !rest.is_empty() {
            rest = match self.place(rest)? {
                Place::Free(count) => {
                    let (free, behind) = rest.split_at(count);
                    self.insert(free)?;
                    behind
                }
                Place::Within { key, last } => {
                    let (within, behind) = rest.split_at(rest.partition_point(|(message, _)| message.mid <= last));
                    if self.insert_within(key, within)? {
                        behind
                    } else {
                        // That segment is left out wherever it is met, and the next one may be nearer than it says.
                        let (free, behind) = rest.split_at(self.until_next(rest)?);
                        self.insert(free)?;
                        behind
                    }
                }
            };
        }
        Ok(())
    }

    /// The key of the segment in which that message would lie, and its last message: only the key, if the row is damaged there.
    fn find(&self, message: Mid) -> Result<Option<(Mid, Mid)>> {
        let mut find = self.connection.prepare_cached("SELECT mid, last FROM segment WHERE mid <= ?1 ORDER BY mid DESC LIMIT 1")?;
        find.query_row([mid(message)], |row| {
            let key = get_mid(row, 0)?;
            Ok((key, get_mid(row, 1).unwrap_or(key)))
        })
        .optional()
    }

    /// Where the first of `messages` belongs, which ascend.
    fn place(&self, messages: &[Saved<'_>]) -> Result<Place> {
        let first = messages[0].0.mid;
        let mut nearest = self.find(messages[messages.len() - 1].0.mid)?;
        if nearest.is_some_and(|(key, _)| key > first) {
            nearest = self.find(first)?;
        }
        match nearest {
            Some((key, last)) if last >= first => Ok(Place::Within { key, last }),
            _ => self.until_next(messages).map(Place::Free),
        }
    }

    /// How many of `messages`, which ascend, come before the next segment behind the first of them.
    fn until_next(&self, messages: &[Saved<'_>]) -> Result<usize> {
        let mut next = self.connection.prepare_cached("SELECT mid FROM segment WHERE mid > ?1 ORDER BY mid LIMIT 1")?;
        let next = next.query_row([mid(messages[0].0.mid)], |row| get_mid(row, 0)).optional()?;
        Ok(next.map_or(messages.len(), |next| messages.partition_point(|(message, _)| message.mid < next)))
    }

    /// Writes messages, which ascend, into segments of their own.
    fn insert(&mut self, messages: &[Saved<'_>]) -> Result<()> {
        self.draft.clear();
        for (message, receivers) in messages {
            if !self.draft.push(message, receivers)? {
                self.insert_draft()?;
                self.draft.push(message, receivers)?;
            }
        }
        if self.draft.is_empty() { Ok(()) } else { self.insert_draft() }
    }

    fn insert_draft(&mut self) -> Result<()> {
        let sql = "INSERT INTO segment (mid, last, expires, ts, heads, crc, bodies) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let mut insert = self.connection.prepare_cached(sql)?;
        self.draft.finish(|segment, bodies| {
            let Base { mid: key, last, expires, ts } = segment.base;
            let (expires, ts) = (number(expires)?, number(ts)?);
            insert.execute((mid(key), mid(last), expires, ts, segment.heads, segment.check(), bodies)).map(drop)
        })
    }

    /// Writes messages, which ascend, among those of a segment: what waited for acknowledgements is stored after what came later.
    /// False: it can't be read, and nothing was done.
    fn insert_within(&mut self, key: Mid, messages: &[Saved<'_>]) -> Result<bool> {
        // Before anything is changed: nothing may fail for the sake of a message behind that.
        for (message, receivers) in messages {
            self.draft.check(message, receivers)?;
        }
        let read = self.connection.prepare_cached(FIND_WHOLE)?.query_row([mid(key)], get_whole);
        let Some(mut all) = read.optional().or_else(nothing_unreadable)? else { return Ok(false) };
        all.retain(|(stored, _)| messages.binary_search_by_key(&stored.mid, |(message, _)| message.mid).is_err());
        let stored = all.iter().map(|(message, receivers)| (message, receivers.as_slice()));
        let mut all: Vec<Saved<'_>> = messages.iter().copied().chain(stored).collect();
        all.sort_unstable_by_key(|(message, _)| message.mid);
        self.delete_segment(key)?;
        self.insert(&all)?;
        Ok(true)
    }

    /// Deletes messages and what is known of their deliveries, in any order: one segment after the other. What waited for many who come
    /// back together ends so. A segment that can't be read stays, for people to look at.
    pub(super) fn delete(&mut self, mut messages: Vec<Mid>) -> Result<()> {
        messages.sort_unstable();
        messages.dedup();
        self.delete_endings(&messages)?;
        let mut rest = &messages[..];
        while let [first, behind @ ..] = rest {
            let Some((key, last)) = self.find(*first)?.filter(|(_, last)| last >= first) else {
                rest = behind;
                continue;
            };
            let (ended, others) = rest.split_at(rest.partition_point(|message| *message <= last));
            if ended.len() as u64 > last.number() - key.number() {
                // Whatever it holds has ended.
                self.delete_segment(key)?;
                rest = others;
            } else {
                // How far one goes that can't be read is not known either.
                let is_readable = self.delete_of(key, ended).map(|()| true).or_else(nothing_unreadable)?;
                rest = if is_readable { others } else { behind };
            }
        }
        Ok(())
    }

    /// Deletes those of a segment's messages; both ascend.
    fn delete_of(&mut self, key: Mid, mut ended: &[Mid]) -> Result<()> {
        let mut read = self.connection.prepare_cached(FIND_WHOLE)?;
        let mut rows = read.query([mid(key)])?;
        let Some(row) = rows.next()? else { return Ok(()) };
        let segment = get_segment(row)?;
        let mut left: Vec<Item<'_>> = Vec::new();
        let mut is_touched = false;
        for item in segment.items()? {
            let item = item?;
            while let [before, behind @ ..] = ended
                && *before < item.mid
            {
                ended = behind;
            }
            if ended.first() == Some(&item.mid) {
                is_touched = true;
            } else {
                left.push(item);
            }
        }
        if left.is_empty() {
            return self.delete_segment(key);
        }
        if !is_touched {
            return Ok(());
        }
        let bodies = get_text(row, BODIES)?;
        self.draft.begin(&segment);
        for item in &left {
            self.draft.keep(item, bodies)?;
        }
        let mut write = self.connection.prepare_cached("UPDATE segment SET last = ?2, heads = ?3, crc = ?4, bodies = ?5 WHERE mid = ?1")?;
        self.draft.finish(|kept, bodies| write.execute((mid(key), mid(kept.base.last), kept.heads, kept.check(), bodies)).map(drop))
    }

    fn delete_segment(&self, key: Mid) -> Result<()> {
        self.connection.prepare_cached("DELETE FROM segment WHERE mid = ?1")?.execute([mid(key)]).map(drop)
    }

    /// Deletes what is known of these messages' deliveries; they must ascend.
    pub(super) fn delete_endings(&mut self, messages: &[Mid]) -> Result<()> {
        let has_endings = match self.has_endings {
            Some(known) => known,
            None => *self
                .has_endings
                .insert(self.connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM ended)")?.query_row((), |row| row.get(0))?),
        };
        if !has_endings {
            return Ok(());
        }
        let mut delete = self.connection.prepare_cached("DELETE FROM ended WHERE mid BETWEEN ?1 AND ?2")?;
        for range in messages.chunk_by(|one, next| next.number() - one.number() <= 1) {
            delete.execute((mid(range[0]), mid(range[range.len() - 1])))?;
        }
        Ok(())
    }

    /// Notes that one of several deliveries has ended.
    pub(super) fn end(&mut self, message: Mid, alias: AliasId) -> Result<()> {
        let mut end = self.connection.prepare_cached("INSERT OR IGNORE INTO ended (mid, alias, crc) VALUES (?1, ?2, ?3)")?;
        end.execute((mid(message), number(alias.0)?, ended_check(message, alias).end()))?;
        self.has_endings = Some(true);
        Ok(())
    }
}

/// Where a message belongs that is to be stored.
enum Place {
    /// So many of those asked for, the first ones, lie between the same two segments.
    Free(usize),
    /// In the segment of that key, whose last message that is.
    Within { key: Mid, last: Mid },
}

/// What can't be read for its own sake is left as it is: whoever reads it, or the next start, says so.
fn nothing_unreadable<T: Default>(error: rusqlite::Error) -> Result<T> {
    if cause(&error) == Cause::Value { Ok(T::default()) } else { Err(error) }
}

/// A message as the start needs it.
pub(super) struct OwedMessage {
    /// Its number.
    pub(super) mid: Mid,
    /// Service time, ms.
    pub(super) expires: u64,
    /// When it was published: wall clock, ms.
    pub(super) ts: u64,
    /// Bytes of its body.
    pub(super) bytes: u32,
    /// Whether a report is kept.
    pub(super) receipt: bool,
    /// The publisher's alias.
    pub(super) publisher: Option<Alias>,
    /// To whom it was owed when it was stored.
    pub(super) receivers: Vec<Owed>,
}

/// Hands the messages in a row of [`ALL`] to `take`.
pub(super) fn each_owed(row: &Row<'_>, take: &mut dyn FnMut(OwedMessage) -> Result<()>) -> Result<()> {
    let segment = get_segment(row)?;
    for item in segment.items()? {
        let item = item?;
        let head = segment.head(&item)?;
        take(OwedMessage {
            mid: item.mid,
            expires: head.expires,
            ts: head.ts,
            bytes: u32::try_from(item.body.len()).unwrap_or(u32::MAX),
            receipt: head.receipt,
            publisher: head.publisher()?,
            receivers: head.receivers()?,
        })?;
    }
    Ok(())
}

/// Reads a row of [`ALL_ENDED`].
pub(super) fn get_ended(row: &Row<'_>) -> Result<(Mid, AliasId)> {
    let (message, alias) = (get_mid(row, 0)?, AliasId(get_number(row, 1)?));
    verify(row, 2, ended_check(message, alias))?;
    Ok((message, alias))
}

/// Reads a row of [`ALL_WHOLE`]: its messages, and who was owed each.
pub(super) fn get_whole(row: &Row<'_>) -> Result<Vec<(Message, Vec<Owed>)>> {
    let (segment, bodies) = (get_segment(row)?, get_text(row, BODIES)?);
    let whole = |item: Result<Item<'_>>| {
        let item = item?;
        let (message, head) = segment.message(&item, bodies)?;
        Ok((message, head.receivers()?))
    };
    segment.items()?.map(whole).collect()
}

/// Reads messages whole, out of `recent` where it has them. `mids` must ascend, and so do the messages. What is not stored is left out, and
/// so is what can't be read.
pub(super) fn read(connection: &Connection, mids: &[Mid], recent: &mut Recent, findings: &Findings) -> Result<Vec<Arc<Message>>> {
    let mut find = connection.prepare_cached(FIND_WHOLE)?;
    let mut messages = Vec::with_capacity(mids.len());
    let mut segment: Option<Arc<Whole>> = None;
    for number in mids {
        let in_segment = |segment: &Arc<Whole>| segment.message(*number);
        let mut found = segment.as_ref().and_then(in_segment);
        if found.is_none() {
            segment = recent.find(*number);
            found = segment.as_ref().and_then(in_segment);
        }
        if found.is_none() {
            let read = find.query_row([mid(*number)], |row| Whole::new(&get_segment(row)?, get_text(row, BODIES)?));
            segment = findings.readable("segment", format_args!("with message {number}"), read.optional())?.flatten().map(Arc::new);
            found = segment.as_ref().and_then(in_segment);
            if let Some(segment) = segment.as_ref().filter(|_| found.is_some()) {
                recent.add(segment);
            }
        }
        if let Some(message) = found {
            messages.extend(findings.readable("segment, message", number, message)?.map(Arc::new));
        }
    }
    Ok(messages)
}

/// Reads a row of [`ALL`] or [`ALL_WHOLE`] but for the bodies.
fn get_segment<'r>(row: &'r Row<'_>) -> Result<Segment<'r>> {
    let base = Base { mid: get_mid(row, 0)?, last: get_mid(row, 1)?, expires: get_number(row, 2)?, ts: get_number(row, 3)? };
    let segment = Segment { base, heads: get_text(row, HEADS)? };
    segment.verify(row.get(CRC)?)?;
    Ok(segment)
}

fn ended_check(message: Mid, alias: AliasId) -> Check {
    ENDED.number(message.number()).number(alias.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::seeded::Seeded;
    use crate::store::samples::{Scratch, message};

    /// The messages of a database, in the order of its segments.
    fn all(connection: &Connection) -> Vec<(Message, Vec<Owed>)> {
        let mut statement = connection.prepare(&format!("{ALL_WHOLE} ORDER BY mid")).unwrap();
        let segments: Vec<_> = statement.query_map((), get_whole).unwrap().map(Result::unwrap).collect();
        segments.concat()
    }

    fn owed(alias: u64) -> Vec<Owed> {
        vec![Owed { alias: AliasId(alias), topic: None }]
    }

    /// Whatever is saved and deleted in whatever order, against a map; all are found by their numbers, and segments don't overlap.
    #[test]
    fn messages_are_where_they_were_saved_until_they_are_deleted() {
        for seed in 0..20 {
            let mut seeded = Seeded(seed);
            let scratch = Scratch::new();
            scratch.open().unwrap().close();
            let connection = scratch.shell();
            let mut messages = Messages::new(&connection);
            let mut model: BTreeMap<Mid, (Message, Vec<Owed>)> = BTreeMap::new();
            let mut recent = Recent::default();
            // Few numbers, so that they meet; bodies of which some fill a segment.
            let below = *seeded.pick(&[20, 100, 1_000]);
            for step in 0..30 {
                let some: Vec<u64> = (0..seeded.below(40)).map(|_| 1 + seeded.below(below) as u64).collect();
                if seeded.below(3) > 0 {
                    let saved: Vec<_> = some
                        .iter()
                        .map(|mid| (message(*mid, &format!("\"{}\"", "x".repeat(seeded.below(700)))), owed(1 + mid + step)))
                        .collect();
                    messages.save(saved.iter().map(|(message, receivers)| (message, receivers.as_slice())).collect()).unwrap();
                    // What a number stands for never changes, but here.
                    recent.clear();
                    model.extend(saved.into_iter().map(|one| (one.0.mid, one)));
                } else {
                    // Also whole stretches, as those who come back end them.
                    let stretch = (0..seeded.below(60)).map(|n| n as u64 + some.first().unwrap_or(&1));
                    let deleted: Vec<Mid> = some.iter().copied().chain(stretch).map(Mid::new).collect();
                    messages.delete(deleted.clone()).unwrap();
                    model.retain(|mid, _| !deleted.contains(mid));
                }
                let expected: Vec<_> = model.values().cloned().collect();
                assert!(all(&connection) == expected, "seed {seed}, step {step}");
                let every: Vec<Mid> = (1..=below as u64 + 100).map(Mid::new).collect();
                let read = read(&connection, &every, &mut recent, &Findings::default()).unwrap();
                let read: Vec<Mid> = read.iter().map(|message| message.mid).filter(|mid| model.contains_key(mid)).collect();
                assert!(read.iter().eq(model.keys()), "seed {seed}, step {step}");
            }
            let overlaps = "SELECT count(*) FROM segment a JOIN segment b ON a.mid < b.mid AND a.last >= b.mid";
            assert_eq!(connection.query_row(overlaps, (), |row| row.get::<_, u32>(0)).unwrap(), 0);
        }
    }

    #[test]
    fn messages_saved_together_share_segments() {
        let scratch = Scratch::new();
        scratch.open().unwrap().close();
        let connection = scratch.shell();
        let saved: Vec<_> = (1..=1_000).map(|mid| (message(mid, "\"a body as doors send it\""), owed(mid))).collect();
        let mut messages = Messages::new(&connection);
        messages.save(saved.iter().map(|(message, receivers)| (message, receivers.as_slice())).collect()).unwrap();
        let count = |sql: &str| connection.query_row(sql, (), |row| row.get::<_, u32>(0)).unwrap();
        let segments = count("SELECT count(*) FROM segment");
        assert!((10..50).contains(&segments), "{segments}");
        // Each in its page: no overflow pages, and none that is shared by three.
        let pages = count("SELECT count(*) FROM dbstat WHERE name = 'segment' AND pagetype <> 'internal'");
        assert!((segments / 2..=segments + 1).contains(&pages), "{pages} pages for {segments} segments");
    }

    #[test]
    fn a_segment_that_cant_be_read_stays_and_harms_no_other() {
        let scratch = Scratch::new();
        scratch.open().unwrap().close();
        let connection = scratch.shell();
        let mut messages = Messages::new(&connection);
        for mids in [[1, 2, 3], [11, 12, 13], [21, 22, 23]] {
            let saved = mids.map(|mid| (message(mid, "1"), owed(mid)));
            messages.save(saved.iter().map(|(message, receivers)| (message, receivers.as_slice())).collect()).unwrap();
        }
        connection.execute_batch("UPDATE segment SET heads = replace(heads, 'm_2', 'm_3') WHERE mid = 11").unwrap();
        messages.delete([2, 12, 22].map(Mid::new).to_vec()).unwrap();
        let findings = Findings::default();
        let every: Vec<Mid> = (1..30).map(Mid::new).collect();
        let read = read(&connection, &every, &mut Recent::default(), &findings).unwrap();
        assert_eq!(read.iter().map(|message| message.mid.number()).collect::<Vec<_>>(), [1, 3, 21, 23]);
        assert!(!findings.list().is_empty());
        // What is saved where it lies is found, and what has its number is refused.
        let (late, receivers) = (message(12, "1"), owed(1));
        messages.save(vec![(&late, &receivers)]).unwrap();
        let (same, receivers) = (message(11, "1"), owed(1));
        let error = messages.save(vec![(&same, &receivers)]).unwrap_err();
        assert_eq!(cause(&error), Cause::Value, "{error}");
        assert_eq!(mids(&connection, 30), [1, 3, 12, 21, 23]);
    }

    fn mids(connection: &Connection, below: u64) -> Vec<u64> {
        let every: Vec<Mid> = (1..below).map(Mid::new).collect();
        let read = read(connection, &every, &mut Recent::default(), &Findings::default()).unwrap();
        read.iter().map(|message| message.mid.number()).collect()
    }

    /// Wherever a damaged row says that it ends, what is stored behind it and before it is saved, found and deleted.
    #[test]
    fn a_segment_whose_end_is_damaged_harms_no_other() {
        for end in ["last | (1 << 44)", "-1", "'x'", "last + 1", "last - 1", "0"] {
            for damaged in [1, 11, 21] {
                let scratch = Scratch::new();
                scratch.open().unwrap().close();
                let connection = scratch.shell();
                let mut messages = Messages::new(&connection);
                let mut save = |mids: &[u64]| {
                    let saved: Vec<_> = mids.iter().map(|mid| (message(*mid, "1"), owed(*mid))).collect();
                    messages.save(saved.iter().map(|(message, receivers)| (message, receivers.as_slice())).collect()).unwrap();
                };
                for first in [1, 11, 21] {
                    save(&[first, first + 1, first + 2]);
                }
                connection.execute_batch(&format!("UPDATE segment SET last = {end} WHERE mid = {damaged}")).unwrap();
                // Behind all, between two, and on both sides of one.
                save(&[31, 32]);
                save(&[5]);
                save(&[8, 9, 18, 28]);
                let left = |mid: &u64| !(damaged..damaged + 3).contains(mid);
                let all = [1, 2, 3, 5, 8, 9, 11, 12, 13, 18, 21, 22, 23, 28, 31, 32];
                let expected: Vec<u64> = all.into_iter().filter(left).collect();
                assert_eq!(mids(&connection, 40), expected, "{damaged}: {end}");
                Messages::new(&connection).delete([2, 12, 18, 22, 31].map(Mid::new).to_vec()).unwrap();
                let expected: Vec<u64> = expected.into_iter().filter(|mid| ![2, 12, 18, 22, 31].contains(mid)).collect();
                assert_eq!(mids(&connection, 40), expected, "{damaged}: {end}");
            }
        }
    }
}
