//! The database's version: which steps it has behind it, and those that are left. Each step is a numbered file, applied
//! in one transaction with the number.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::store::columns::damaged;
use crate::store::fault::Fault;
use crate::store::rows;

/// The steps in order: step n leads to version n. Never edited after a release.
const STEPS: [&str; 4] = [
    include_str!("../../migrations/0001_init.sql"),
    include_str!("../../migrations/0002_clock.sql"),
    include_str!("../../migrations/0003_checks.sql"),
    include_str!("../../migrations/0004_segments.sql"),
];

/// The version that this program reads and writes.
pub(super) const KNOWN: u32 = STEPS.len() as u32;

/// From this version on rows have checks.
pub(super) const CHECKS_FROM: u32 = 3;
/// From this version on messages lie in segments: its step moves them, which SQL alone can't.
pub(super) const SEGMENTS_FROM: u32 = 4;
/// From this version on the number stands in the file twice: `user_version`, and `application_id` as [`APPLICATION`] plus the number.
/// A newer Porter keeps to that, so that a flipped bit is told from a newer version.
const TWICE_FROM: u32 = 3;
/// "Po".
const APPLICATION: u32 = 0x506f_0000;

/// The database's version; 0: it is empty. A newer one than this program knows is refused.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<u32, Fault> {
    let number = |pragma| {
        let number = connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
        number.map(i32::cast_unsigned).map_err(Fault::database(path, "open"))
    };
    let (found, application) = (number("user_version")?, number("application_id")?);
    if application != if found < TWICE_FROM { 0 } else { APPLICATION.wrapping_add(found) } {
        return Err(Fault::database(path, "open")(damaged("its version stands in it twice, and not the same")));
    }
    if found > KNOWN {
        return Err(Fault::Newer { database: path.to_owned(), found, known: KNOWN });
    }
    Ok(found)
}

/// Takes the steps from `version` to [`KNOWN`].
pub(super) fn migrate(connection: &Connection, path: &Path, version: u32) -> Result<(), Fault> {
    for (step, number) in STEPS.iter().zip(1..).filter(|(_, number)| *number > version) {
        apply(connection, step, number).map_err(Fault::database(path, "migrate"))?;
        log::info!("store event=migrated file={} version={number}", path.display());
    }
    Ok(())
}

fn apply(connection: &Connection, step: &str, number: u32) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    transaction.execute_batch(step)?;
    if number == SEGMENTS_FROM {
        rows::into_segments(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", number)?;
    if number >= TWICE_FROM {
        transaction.pragma_update(None, "application_id", APPLICATION + number)?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::connection::open_writer;
    use crate::store::samples::Scratch;
    use crate::store::verify;

    #[test]
    fn a_new_database_has_the_settings_that_the_promise_rests_on() {
        let scratch = Scratch::new();
        scratch.open().unwrap().close();
        let connection = open_writer(&scratch.file("porter.db")).unwrap();
        let value = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(value("synchronous"), 2);
        assert_eq!(value("auto_vacuum"), 2);
        assert_eq!(value("page_size"), 4_096);
        assert_eq!(value("wal_autocheckpoint"), 0);
        assert_eq!(value("user_version"), i64::from(KNOWN));
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
    }

    #[test]
    fn a_newer_database_is_refused_and_left_alone() {
        let scratch = Scratch::new();
        scratch.open().unwrap().close();
        let newer = KNOWN + 6;
        scratch.edit(&format!("PRAGMA user_version = {newer}; PRAGMA application_id = {}", APPLICATION + newer));
        let fault = scratch.open().err().unwrap();
        assert!(matches!(fault, Fault::Newer { found, known: KNOWN, .. } if found == KNOWN + 6));
        let text = format!("has version {}, but this porter knows versions up to {KNOWN}", KNOWN + 6);
        assert!(fault.to_string().contains(&text), "{fault}");
        let kept: u32 = scratch.shell().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(kept, KNOWN + 6);
    }

    #[test]
    fn a_flipped_bit_in_the_version_is_damage_and_no_newer_version() {
        for bit in 0..32 {
            let scratch = Scratch::new();
            scratch.open().unwrap().close();
            scratch.edit(&format!("PRAGMA user_version = {}", (KNOWN ^ (1 << bit)).cast_signed()));
            let fault = version(&scratch.shell(), &scratch.file("porter.db")).unwrap_err();
            assert!(fault.is_damage(), "bit {bit}: {fault}");
        }
    }

    #[test]
    fn what_an_older_version_stored_is_as_old_by_service_time_as_it_was_by_the_wall_clock() {
        let connection = Connection::open_in_memory().unwrap();
        apply(&connection, STEPS[0], 1).unwrap();
        let old = "UPDATE meta SET service = 1000, wall = 50000;
             INSERT INTO report VALUES (1, 'a', 'waiting', 49900), (2, 'a', 'waiting', 10), (3, 'a', 'waiting', 90000);
             INSERT INTO door_log VALUES (1, 49900, 'r', '', '', '', '', 0, NULL, NULL);";
        connection.execute_batch(old).unwrap();
        migrate(&connection, Path::new(""), 1).unwrap();
        let numbers = |sql: &str| {
            let mut statement = connection.prepare(sql).unwrap();
            statement.query_map((), |row| row.get::<_, i64>(0)).unwrap().map(Result::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(numbers("SELECT newest_wall FROM meta"), [50_000]);
        assert_eq!(
            numbers("SELECT service FROM report ORDER BY mid"),
            [900, 0, 1_000],
            "none from before service time began, or ahead of it"
        );
        assert_eq!(numbers("SELECT service FROM door_log"), [900]);
    }

    /// A database as version 2 left it, opened as a whole.
    #[test]
    fn an_older_database_opens_with_all_that_is_in_it() {
        let scratch = Scratch::new();
        let _folder = scratch.folder();
        let old = Connection::open(scratch.file("porter.db")).unwrap();
        old.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;").unwrap();
        apply(&old, STEPS[0], 1).unwrap();
        apply(&old, STEPS[1], 2).unwrap();
        let rows = "UPDATE meta SET service = 1000, wall = 50000, next_alias = 3, mid_block = 1;
             INSERT INTO alias VALUES (1, 'a', 1, 2, 3, 'tcp', NULL), (2, 'b', 1, 2, 3, NULL, '{}');
             INSERT INTO subscription VALUES (1, 'news');
             INSERT INTO message VALUES (5, 9000, 7, 1, 'p', '[\"news\"]', '[1,1]', '0', '\"x\"');
             INSERT INTO ended VALUES (5, 2);
             INSERT INTO opts_id VALUES (5, 1, 'alias:p', 'k', 0, 2);";
        old.execute_batch(rows).unwrap();
        drop((old, _folder));
        std::fs::write(scratch.file("mids"), "1\n").unwrap();
        let database = scratch.open().unwrap();
        let all = crate::store::samples::load(&database);
        assert!(database.findings().list().is_empty(), "{:?}", database.findings());
        assert_eq!(all.len(), 2 + 1 + 1 + 1, "{all:?}");
        assert_eq!(crate::store::samples::owed(&database), [(5, vec![1])]);
        database.close();
        let database = scratch.open().unwrap();
        assert!(database.findings().list().is_empty());
    }

    /// Of a database as version 3 left it only the rows that are whole are moved; the others stay for people to look at.
    #[test]
    fn messages_move_into_segments_and_damaged_rows_stay() {
        for damaged in [0, 1, 3] {
            let connection = Connection::open_in_memory().unwrap();
            for (step, number) in STEPS[..3].iter().zip(1..) {
                apply(&connection, step, number).unwrap();
            }
            let insert = "INSERT INTO message (mid, expires, ts, flags, publisher, topics, receivers, topic_of, body)
                 VALUES (?1, 9000, 7, 1, 'p', '[\"news\"]', '[1,1]', '0', '\"x\"')";
            for mid in 1..=2_500 {
                connection.execute(insert, [mid]).unwrap();
            }
            // Rows with checks, of which these don't fit.
            connection.execute("UPDATE message SET flags = 3 | (7 << 8) WHERE mid BETWEEN 1000 AND 999 + ?1", [damaged]).unwrap();
            if damaged > 0 {
                // What reading took, and writing would not.
                let odd = "UPDATE message SET receivers = '[1,0]' WHERE mid = 2000; UPDATE message SET mid = -5 WHERE mid = 2001";
                connection.execute_batch(odd).unwrap();
            }
            let damaged = if damaged > 0 { damaged + 2 } else { 0 };
            assert_eq!(verify::damaged_rows(&connection, 3).unwrap(), u64::from(damaged));
            migrate(&connection, Path::new(""), 3).unwrap();
            assert_eq!(verify::damaged_rows(&connection, KNOWN).unwrap(), u64::from(damaged), "they are not forgotten");
            let count = |sql: &str| connection.query_row(sql, (), |row| row.get::<_, u32>(0)).unwrap();
            assert_eq!(count("SELECT sum(json_array_length(heads)) FROM segment"), 2_500 - damaged);
            assert_eq!(connection.table_exists(None, "message").unwrap(), damaged > 0);
            if damaged > 0 {
                assert_eq!(count("SELECT count(*) FROM message WHERE mid BETWEEN 1000 AND 1010"), damaged - 2);
                assert_eq!(count("SELECT count(*) FROM message"), damaged);
            }
            let (mid, body, publisher) = ("SELECT count(DISTINCT mid)", "SELECT min(body)", "SELECT max(publisher)");
            connection
                .execute_batch("INSERT INTO alias (id, name, first_seen, last_seen, last_seen_service) VALUES (1, 'a', 1, 1, 1)")
                .unwrap();
            let of_view = |what| connection.query_row(&format!("{what} FROM waiting"), (), |row| row.get::<_, rusqlite::types::Value>(0));
            assert_eq!(of_view(mid).unwrap(), rusqlite::types::Value::Integer(i64::from(2_500 - damaged)));
            assert_eq!(of_view(body).unwrap(), rusqlite::types::Value::Text("\"x\"".into()));
            assert_eq!(of_view(publisher).unwrap(), rusqlite::types::Value::Text("p".into()));
        }
    }

    #[test]
    fn a_step_that_fails_leaves_the_version() {
        let connection = Connection::open_in_memory().unwrap();
        assert!(apply(&connection, "CREATE TABLE a (b); CREATE TABLE a (b);", 1).is_err());
        assert_eq!(version(&connection, Path::new("")).unwrap(), 0);
        assert!(!connection.table_exists(None, "a").unwrap());
    }
}
