//! Whether a file is a whole database of Porter's, and what it holds: for backups, and for whoever looks after the box.
//! It only reads.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Result, Row};

use crate::store::cause::{Cause, cause};
use crate::store::columns::get_number;
use crate::store::connection::open_reader;
use crate::store::fault::Fault;
use crate::store::{aliases, door_log, keys, messages, meta, migrate, reports, rows};

/// The tables that a database of any version has, beside that of its messages: a file without them is not Porter's.
const TABLES: [&str; 7] = ["alias", "door_log", "ended", "meta", "opts_id", "report", "subscription"];
/// That of its messages, before [`migrate::SEGMENTS_FROM`] and since.
const MESSAGES: [&str; 2] = ["message", "segment"];
/// How many messages and deliveries there are. A row that can't be read is left out at the start, so it is here.
const COUNT: &str = "SELECT coalesce(sum(messages), 0), coalesce(sum(deliveries), 0) FROM \
                     (SELECT json_array_length(heads) AS messages, \
                             (SELECT sum(CASE type WHEN 'array' THEN json_array_length(value, '$[6]') END) FROM json_each(heads)) \
                                 AS deliveries \
                      FROM segment WHERE json_valid(heads))";
const COUNT_ROWS: &str = "SELECT count(*), coalesce(sum(json_array_length(receivers)), 0) FROM message WHERE json_valid(receivers)";
/// Contradictions of a damaged database that are told, the first ones: more say nothing more.
const CONTRADICTIONS_MAX: u32 = 3;

/// How often work whose time is over is told to end.
const INTERRUPTED_EVERY: Duration = Duration::from_millis(10);

/// What a database holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The database's version.
    pub version: u32,
    /// The newest block of mids that it knows of.
    pub mid_block: u64,
    /// Service time of its last commit, ms.
    pub service: u64,
    /// The wall clock at its last commit, ms since 1970; 0: it has none.
    pub wall: u64,
    /// Known aliases.
    pub aliases: u64,
    /// Topics subscribed to, each alias's counted.
    pub subscriptions: u64,
    /// Messages that somebody is owed.
    pub messages: u64,
    /// Deliveries that wait.
    pub deliveries: u64,
    /// Entries of the door log.
    pub door_log: u64,
    /// Rows that are not as they were written, if that was looked for; the others can be used.
    pub damaged_rows: u64,
    /// Bytes of the file as far as it holds anything.
    pub bytes: u64,
}

/// Opens a file that should be a database of Porter's and checks all of it.
pub(super) fn open_whole(path: &Path) -> std::result::Result<(Connection, Contents), Fault> {
    let bad = |why: String| Fault::NotWhole { path: path.to_owned(), why };
    let failed = |error: rusqlite::Error| match cause(&error) {
        Cause::Damaged | Cause::Value => bad(error.to_string()),
        Cause::Full | Cause::Disk => Fault::database(path, "read")(error),
    };
    // SQLite would make what is not there.
    std::fs::metadata(path).map_err(Fault::file(path, "read"))?;
    let connection = open_reader(path).map_err(failed)?;
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if !is_porters(&connection).map_err(failed)? {
        return Err(bad("it has not the tables of a porter database".to_owned()));
    }
    if found > migrate::KNOWN {
        return Err(Fault::Newer { database: path.to_owned(), found, known: migrate::KNOWN });
    }
    let contradictions = contradictions(&connection).map_err(failed)?;
    if !contradictions.is_empty() {
        return Err(bad(contradictions.join("; ")));
    }
    if found >= migrate::CHECKS_FROM {
        meta::read(&connection).map_err(failed)?;
    }
    let damaged_rows = damaged_rows(&connection, found).map_err(failed)?;
    let contents = Contents { damaged_rows, ..contents(&connection).map_err(failed)? };
    Ok((connection, contents))
}

/// How many rows are not as they were written, which SQLite's own check does not see.
pub(super) fn damaged_rows(connection: &Connection, version: u32) -> Result<u64> {
    if version < migrate::CHECKS_FROM {
        return Ok(0);
    }
    let messages = if version < migrate::SEGMENTS_FROM {
        unreadable(connection, rows::ALL, rows::get)?
    } else {
        unreadable(connection, messages::ALL_WHOLE, messages::get_whole)? + rows::left_behind(connection)?
    };
    Ok(messages
        + unreadable(connection, aliases::ALL, aliases::get)?
        + unreadable(connection, aliases::ALL_SUBSCRIPTIONS, aliases::get_subscription)?
        + unreadable(connection, messages::ALL_ENDED, messages::get_ended)?
        + unreadable(connection, keys::ALL, keys::get)?
        + unreadable(connection, reports::ALL, reports::get_any)?
        + unreadable(connection, door_log::ALL, door_log::get)?)
}

fn unreadable<T>(connection: &Connection, sql: &str, get: fn(&Row<'_>) -> Result<T>) -> Result<u64> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(())?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        match get(row) {
            Err(error) if cause(&error) == Cause::Value => count += 1,
            read => drop(read?),
        }
    }
    Ok(count)
}

/// Whether the database has Porter's tables and its counters.
pub(super) fn is_porters(connection: &Connection) -> Result<bool> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let messages = MESSAGES[usize::from(version >= migrate::SEGMENTS_FROM)];
    for table in TABLES.into_iter().chain([messages]) {
        if !connection.table_exists(None, table)? {
            return Ok(false);
        }
    }
    connection.query_row("SELECT count(*) = 1 FROM meta", (), |row| row.get(0))
}

/// What is wrong with the pages and indexes of the database, in SQLite's words; empty if nothing is. Reads all of it.
pub(super) fn contradictions(connection: &Connection) -> Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({CONTRADICTIONS_MAX})"))?;
    let lines: Vec<String> = statement.query_map((), |row| row.get(0))?.collect::<Result<_>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// What the database holds, all read from the same state of it.
pub(super) fn contents(connection: &Connection) -> Result<Contents> {
    let transaction = connection.unchecked_transaction()?;
    let sql = "SELECT service, wall, mid_block, (SELECT count(*) FROM alias), (SELECT count(*) FROM subscription), \
               (SELECT count(*) FROM ended), (SELECT count(*) FROM door_log), \
               (SELECT page_size * (page_count - freelist_count) FROM pragma_page_size, pragma_page_count, pragma_freelist_count) \
               FROM meta";
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let count = if version < migrate::SEGMENTS_FROM { COUNT_ROWS } else { COUNT };
    let (messages, deliveries) = transaction.query_row(count, (), |row| Ok((get_number(row, 0)?, get_number(row, 1)?)))?;
    let contents = transaction.query_row(sql, (), |row| {
        Ok(Contents {
            version,
            service: get_number(row, 0)?,
            wall: get_number(row, 1)?,
            mid_block: get_number(row, 2)?,
            aliases: get_number(row, 3)?,
            subscriptions: get_number(row, 4)?,
            messages,
            deliveries: deliveries.saturating_sub(get_number(row, 5)?),
            door_log: get_number(row, 6)?,
            damaged_rows: 0,
            bytes: get_number(row, 7)?,
        })
    })?;
    transaction.finish()?;
    Ok(contents)
}

/// Does what may take long, and breaks it off after `limit`; then the error is [`is_interrupted`].
pub(super) fn within<T>(connection: &Connection, limit: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let handle = connection.get_interrupt_handle();
    let (done, end) = sync_channel::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut wait = limit;
            // Again and again: it is without effect between two statements.
            while end.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                handle.interrupt();
                wait = INTERRUPTED_EVERY;
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// Whether an error says that the time of [`within`] was over.
pub(super) fn is_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::storage::{AliasId, Change};
    use crate::names::Mid;
    use crate::store::samples::{Scratch, alias, batch, committed, message, save};

    fn filled(scratch: &Scratch) {
        let mut database = scratch.open().unwrap();
        let mut changes = vec![Change::SaveAlias(alias(1, "a")), Change::SaveAlias(alias(2, "b"))];
        changes.push(save(message(1 << 40, "1"), &[(1, None), (2, None)]));
        changes.push(save(message((1 << 40) + 1, "2"), &[(1, None)]));
        changes.push(Change::EndDelivery { mid: Mid::new(1 << 40), alias: AliasId(2) });
        assert_eq!(database.commit(&batch(1, changes)), committed());
        database.close();
    }

    #[test]
    fn contents_are_counted() {
        let scratch = Scratch::new();
        filled(&scratch);
        let (_, found) = open_whole(&scratch.file("porter.db")).unwrap();
        assert_eq!((found.version, found.mid_block, found.service, found.wall), (migrate::KNOWN, 1, 100, 5_001));
        assert_eq!((found.aliases, found.messages, found.deliveries, found.door_log), (2, 2, 2, 0));
        assert!(found.bytes > 0 && found.bytes.is_multiple_of(4_096));
    }

    #[test]
    fn rows_that_are_not_as_they_were_written_are_counted() {
        let scratch = Scratch::new();
        filled(&scratch);
        for (damaged, sql) in [
            "UPDATE segment SET bodies = replace(bodies, '2', '3')",
            "UPDATE alias SET last_seen = last_seen + 1 WHERE id = 1",
            "UPDATE ended SET crc = crc + 1",
        ]
        .into_iter()
        .enumerate()
        {
            scratch.edit(sql);
            assert_eq!(open_whole(&scratch.file("porter.db")).unwrap().1.damaged_rows, damaged as u64 + 1, "{sql}");
        }
        // What would be set aside at the next start is no database to go back to.
        scratch.edit("UPDATE meta SET next_alias = next_alias + 1");
        assert!(matches!(open_whole(&scratch.file("porter.db")), Err(Fault::NotWhole { .. })));
    }

    #[test]
    fn what_is_not_there_is_not_made() {
        let scratch = Scratch::new();
        scratch.folder();
        assert!(matches!(open_whole(&scratch.file("porter.db")), Err(Fault::File { .. })));
        assert!(!scratch.file("porter.db").exists());
    }

    #[test]
    fn long_work_is_broken_off() {
        let connection = Connection::open_in_memory().unwrap();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let count = || connection.query_row(endless, (), |row| row.get::<_, i64>(0));
        for limit in [0, 20] {
            assert!(is_interrupted(&within(&connection, Duration::from_millis(limit), count).unwrap_err()));
        }
        let short = || connection.query_row("SELECT 1", (), |row| row.get::<_, i64>(0));
        assert_eq!(within(&connection, Duration::from_secs(60), short), Ok(1));
    }
}
