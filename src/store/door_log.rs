//! Statements about the door log, and the pages in which it is read (Protocol §7, §10).

use rusqlite::{Connection, OptionalExtension, Result, Row};

use crate::hub::storage::DoorEntry;
use crate::store::check::Check;
use crate::store::columns::{get_number, get_text, get_text_or_null, number, verify};
use crate::store::findings::Findings;

/// Which part of the door log to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorLogQuery {
    /// Not before this wall clock time, ms.
    pub from: u64,
    /// Before this wall clock time, ms.
    pub to: u64,
    /// Only this R.
    pub room: Option<Box<str>>,
    /// How many of the newest to leave out.
    pub skip: u64,
    /// At most so many entries.
    pub count: u32,
}

/// One entry with what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorLine {
    /// The opening.
    pub entry: DoorEntry,
    /// Whether a door opened; `None` until that is known.
    pub ok: Option<bool>,
    /// Why not.
    pub reason: Option<Box<str>>,
}

/// A page of the door log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorLogPage {
    /// How many entries the query fits, on all pages.
    pub total: u64,
    /// This page, newest first.
    pub lines: Vec<DoorLine>,
}

/// All entries, for [`get`].
pub(super) const ALL: &str = "SELECT id, at, room, user, alias, label, address, doors, ok, reason, crc FROM door_log";
/// One entry, for [`get`].
const ONE: &str = "SELECT id, at, room, user, alias, label, address, doors, ok, reason, crc FROM door_log WHERE id = ?1";

/// Entries that one transaction forgets at most for their age: they are forgotten every hour, and no commit is to wait for it.
const OLD_AT_ONCE: u32 = 10_000;
/// Entries over the bound that a transaction forgets at most, if it adds fewer than half as many.
const SURPLUS_AT_ONCE: u64 = 1_000;

/// Keeps the number of entries within its bound. It counts them once; then it is told of each change.
pub(super) struct Bound {
    max: u64,
    entries: Option<u64>,
    added: u64,
    has_told: bool,
}

impl Bound {
    /// At most `max` entries.
    pub(super) fn new(max: u64) -> Bound {
        Bound { max, entries: None, added: 0, has_told: false }
    }

    /// A transaction failed: what it had changed is unknown.
    pub(super) fn recount(&mut self) {
        (self.entries, self.added) = (None, 0);
    }

    /// So many entries were added.
    pub(super) fn add(&mut self, added: usize) {
        self.entries = self.entries.map(|entries| entries + added as u64);
        self.added += added as u64;
    }

    /// So many entries were forgotten.
    pub(super) fn remove(&mut self, removed: usize) {
        self.entries = self.entries.map(|entries| entries.saturating_sub(removed as u64));
    }

    /// Before the commit of a transaction: forgets the oldest entries over the bound, in proportion to what it added, so that no
    /// commit takes much longer for it.
    pub(super) fn keep(&mut self, connection: &Connection) -> Result<()> {
        let added = std::mem::take(&mut self.added);
        if added == 0 {
            return Ok(());
        }
        let entries = match self.entries {
            Some(entries) => entries,
            None => connection.query_row("SELECT count(*) FROM door_log", (), |row| get_number(row, 0))?,
        };
        self.entries = Some(entries);
        let surplus = entries.saturating_sub(self.max).min((2 * added).max(SURPLUS_AT_ONCE));
        if surplus > 0 {
            let sql = "DELETE FROM door_log WHERE id IN (SELECT id FROM door_log ORDER BY id LIMIT ?1)";
            let removed = connection.prepare_cached(sql)?.execute((number(surplus)?,))?;
            self.remove(removed);
            if !std::mem::replace(&mut self.has_told, true) {
                log::warn!("door_log_full entries={} action=the_oldest_are_forgotten", self.max);
            }
        }
        Ok(())
    }
}

/// Adds an entry, at a service time, ms; returns how many were added. Written again, it keeps the result that it may have by then.
pub(super) fn add(connection: &Connection, entry: &DoorEntry, service: u64) -> Result<usize> {
    let sql = "INSERT OR IGNORE INTO door_log (id, at, room, user, alias, label, address, doors, service, crc) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    connection.prepare_cached(sql)?.execute((
        number(entry.id)?,
        number(entry.at)?,
        entry.room.as_ref(),
        entry.user.as_ref(),
        entry.alias.as_ref(),
        entry.label.as_ref(),
        entry.address.as_ref(),
        entry.doors,
        number(service)?,
        check(entry, None, None).end(),
    ))
}

/// Sets the result of an entry. One that can't be read keeps the check that does not fit.
pub(super) fn settle(connection: &Connection, id: u64, ok: bool, reason: Option<&str>) -> Result<()> {
    let row = connection.prepare_cached(ONE)?.query_row((number(id)?,), |row| Ok(get(row))).optional()?;
    let Some(Ok(line)) = row else { return Ok(()) };
    let sql = "UPDATE door_log SET ok = ?2, reason = ?3, crc = ?4 WHERE id = ?1";
    let crc = check(&line.entry, Some(ok), reason).end();
    connection.prepare_cached(sql)?.execute((number(id)?, ok, reason, crc))?;
    Ok(())
}

/// Forgets entries written before that service time, ms, of the oldest [`OLD_AT_ONCE`]: both it and the ids grow. Returns how many.
pub(super) fn forget_before(connection: &Connection, service: u64) -> Result<usize> {
    let sql = "DELETE FROM door_log WHERE id IN (
                   SELECT id FROM (SELECT id, service FROM door_log ORDER BY id LIMIT ?2) WHERE service < ?1)";
    connection.prepare_cached(sql)?.execute((number(service)?, OLD_AT_ONCE))
}

/// Reads a page. What can't be read is left out.
pub(super) fn read(connection: &Connection, query: &DoorLogQuery, findings: &Findings) -> Result<DoorLogPage> {
    // Two texts of each, so that either finds its index.
    let (count, page) = match query.room {
        None => (
            "SELECT count(*) FROM door_log WHERE at >= ?1 AND at < ?2 AND ?3 IS NULL",
            "SELECT id, at, room, user, alias, label, address, doors, ok, reason, crc FROM door_log \
             WHERE at >= ?1 AND at < ?2 AND ?3 IS NULL ORDER BY at DESC, id DESC LIMIT ?4 OFFSET ?5",
        ),
        Some(_) => (
            "SELECT count(*) FROM door_log WHERE at >= ?1 AND at < ?2 AND room = ?3",
            "SELECT id, at, room, user, alias, label, address, doors, ok, reason, crc FROM door_log \
             WHERE at >= ?1 AND at < ?2 AND room = ?3 ORDER BY at DESC, id DESC LIMIT ?4 OFFSET ?5",
        ),
    };
    let (from, to) = (clamped(query.from), clamped(query.to));
    let room = query.room.as_deref();
    let total = connection.prepare_cached(count)?.query_row((from, to, room), |row| get_number(row, 0))?;
    let mut statement = connection.prepare_cached(page)?;
    let mut rows = statement.query((from, to, room, query.count, clamped(query.skip)))?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        lines.extend(findings.readable("door_log", format_args!("{:?}", row.get_ref(0)?), get(row))?);
    }
    Ok(DoorLogPage { total, lines })
}

/// A bound beyond what a column can hold is as good as the largest.
fn clamped(bound: u64) -> i64 {
    i64::try_from(bound).unwrap_or(i64::MAX)
}

/// Reads a row of [`ALL`].
pub(super) fn get(row: &Row<'_>) -> Result<DoorLine> {
    let text = |column| get_text(row, column).map(Box::from);
    let line = DoorLine {
        entry: DoorEntry {
            id: get_number(row, 0)?,
            at: get_number(row, 1)?,
            room: text(2)?,
            user: text(3)?,
            alias: text(4)?,
            label: text(5)?,
            address: text(6)?,
            doors: row.get(7)?,
        },
        ok: row.get(8)?,
        reason: get_text_or_null(row, 9)?.map(Into::into),
    };
    verify(row, 10, check(&line.entry, line.ok, line.reason.as_deref()))?;
    Ok(line)
}

/// Of all but the service time, which rules only when the entry is forgotten.
fn check(entry: &DoorEntry, ok: Option<bool>, reason: Option<&str>) -> Check {
    let check = Check::of("door_log").number(entry.id).number(entry.at).text(&entry.room).text(&entry.user);
    let check = check.text(&entry.alias).text(&entry.label).text(&entry.address).number(entry.doors.into());
    check.number(ok.map_or(2, u64::from)).text_or_null(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrate;

    fn entry(id: u64, room: &str) -> DoorEntry {
        DoorEntry {
            id,
            at: id * 10,
            room: room.into(),
            user: "".into(),
            alias: "m_2".into(),
            label: "front desk".into(),
            address: "127.0.0.1".into(),
            doors: 2,
        }
    }

    fn filled() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        migrate::migrate(&connection, std::path::Path::new(""), 0).unwrap();
        for id in 1..=6 {
            add(&connection, &entry(id, if id % 2 == 0 { "gate" } else { "garage" }), id * 100).unwrap();
        }
        connection
    }

    fn ids(connection: &Connection, query: &DoorLogQuery) -> (u64, Vec<u64>) {
        let page = read(connection, query, &Findings::default()).unwrap();
        (page.total, page.lines.iter().map(|line| line.entry.id).collect())
    }

    #[test]
    fn pages_are_newest_first_and_filtered() {
        let connection = filled();
        let all = DoorLogQuery { from: 0, to: u64::MAX, room: None, skip: 0, count: 100 };
        assert_eq!(ids(&connection, &all), (6, vec![6, 5, 4, 3, 2, 1]));
        assert_eq!(ids(&connection, &DoorLogQuery { skip: 1, count: 2, ..all.clone() }), (6, vec![5, 4]));
        assert_eq!(ids(&connection, &DoorLogQuery { from: 20, to: 50, ..all.clone() }), (3, vec![4, 3, 2]));
        assert_eq!(ids(&connection, &DoorLogQuery { room: Some("gate".into()), skip: 1, ..all.clone() }), (3, vec![4, 2]));
        assert_eq!(ids(&connection, &DoorLogQuery { skip: u64::MAX, ..all.clone() }), (6, vec![]));
        forget_before(&connection, 400).unwrap();
        assert_eq!(ids(&connection, &all), (3, vec![6, 5, 4]));
    }

    #[test]
    fn the_oldest_give_way_to_the_newest_in_slices() {
        let connection = filled();
        let mut bound = Bound::new(4);
        let left = || ids(&connection, &DoorLogQuery { from: 0, to: u64::MAX, room: None, skip: 0, count: 10_000 });
        let write = |bound: &mut Bound, id| {
            bound.add(add(&connection, &entry(id, "gate"), id * 100).unwrap());
            bound.keep(&connection).unwrap();
        };
        bound.keep(&connection).unwrap();
        assert_eq!(left().0, 6, "nothing was added");
        write(&mut bound, 7);
        assert_eq!(left(), (4, vec![7, 6, 5, 4]));
        write(&mut bound, 7);
        assert_eq!(left(), (4, vec![7, 6, 5, 4]), "it was there");
        bound.remove(forget_before(&connection, 600).unwrap());
        write(&mut bound, 8);
        assert_eq!(left(), (3, vec![8, 7, 6]));
        bound.recount();
        for id in 9..=5_000 {
            bound.add(add(&connection, &entry(id, "gate"), id).unwrap());
        }
        bound.keep(&connection).unwrap();
        assert_eq!(left(), (4, vec![5_000, 4_999, 4_998, 4_997]));
        // One that begins far above the bound, such as after a newer version lowered it.
        let mut bound = Bound::new(4);
        for id in 5_001..=9_000 {
            add(&connection, &entry(id, "gate"), id).unwrap();
        }
        write(&mut bound, 9_001);
        assert_eq!(left().0, 4 + 4_001 - SURPLUS_AT_ONCE);
    }

    #[test]
    fn a_result_stays_when_the_entry_is_written_again() {
        let connection = filled();
        settle(&connection, 6, false, Some("no_answer")).unwrap();
        settle(&connection, 5, true, None).unwrap();
        add(&connection, &entry(6, "gate"), 700).unwrap();
        let query = DoorLogQuery { from: 40, to: u64::MAX, room: None, skip: 0, count: 3 };
        let lines = read(&connection, &query, &Findings::default()).unwrap().lines;
        assert_eq!(lines[0], DoorLine { entry: entry(6, "gate"), ok: Some(false), reason: Some("no_answer".into()) });
        assert_eq!(lines[1], DoorLine { entry: entry(5, "garage"), ok: Some(true), reason: None });
        assert_eq!(lines[2], DoorLine { entry: entry(4, "gate"), ok: None, reason: None });
    }
}
