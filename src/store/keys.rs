//! Statements about remembered `opts.id`s (Protocol §4).

use rusqlite::{Connection, OptionalExtension, Result, Row};

use crate::hub::storage::KeyRecord;
use crate::names::Mid;
use crate::store::check::Check;
use crate::store::columns::{get_mid, get_number, get_text, mid, number, verify};

/// All keys, oldest first, for [`get`].
pub(super) const ALL: &str = "SELECT mid, at, publisher, id, online, stored, crc FROM opts_id ORDER BY mid";

/// Remembers a key.
pub(super) fn save(connection: &Connection, key: &KeyRecord) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO opts_id (mid, at, publisher, id, online, stored, crc) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    connection.prepare_cached(sql)?.execute((
        mid(key.mid),
        number(key.at)?,
        key.publisher.as_ref(),
        key.id.as_ref(),
        key.online,
        key.stored,
        check(key).end(),
    ))?;
    Ok(())
}

/// Forgets the keys used before the service time `at`, in ms, and those of mids below `oldest`.
pub(super) fn forget_before(connection: &Connection, at: u64, oldest: Mid) -> Result<()> {
    // Time grows with the mid, so the first key that is young enough ends the search: no index on the time is needed.
    let sql = "SELECT mid FROM opts_id WHERE at >= ?1 ORDER BY mid LIMIT 1";
    let first_kept: Option<i64> = connection.prepare_cached(sql)?.query_row((number(at)?,), |row| row.get(0)).optional()?;
    let below = first_kept.unwrap_or(i64::MAX).max(mid(oldest));
    connection.prepare_cached("DELETE FROM opts_id WHERE mid < ?1")?.execute((below,))?;
    Ok(())
}

/// Forgets the key of a message, if it had one.
pub(super) fn forget(connection: &Connection, message: Mid) -> Result<()> {
    connection.prepare_cached("DELETE FROM opts_id WHERE mid = ?1")?.execute((mid(message),))?;
    Ok(())
}

/// Reads a row of [`ALL`].
pub(super) fn get(row: &Row<'_>) -> Result<KeyRecord> {
    let key = KeyRecord {
        mid: get_mid(row, 0)?,
        at: get_number(row, 1)?,
        publisher: get_text(row, 2)?.into(),
        id: get_text(row, 3)?.into(),
        online: row.get(4)?,
        stored: row.get(5)?,
    };
    verify(row, 6, check(&key))?;
    Ok(key)
}

fn check(key: &KeyRecord) -> Check {
    let check = Check::of("opts_id").number(key.mid.number()).number(key.at).text(&key.publisher).text(&key.id);
    check.number(key.online.into()).number(key.stored.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrate;
    use crate::store::samples::key;

    #[test]
    fn keys_are_forgotten_by_age_or_by_number_whichever_is_more() {
        let connection = Connection::open_in_memory().unwrap();
        migrate::migrate(&connection, std::path::Path::new(""), 0).unwrap();
        let left = |at, oldest| {
            for mid in 1..=6 {
                save(&connection, &key(mid, mid * 10)).unwrap();
            }
            forget_before(&connection, at, Mid::new(oldest)).unwrap();
            let mut statement = connection.prepare(ALL).unwrap();
            let left: Result<Vec<KeyRecord>> = statement.query_map((), get).unwrap().collect();
            left.unwrap().iter().map(|key| key.mid.number()).collect::<Vec<u64>>()
        };
        assert_eq!(left(0, 0), [1, 2, 3, 4, 5, 6]);
        assert_eq!(left(30, 0), [3, 4, 5, 6]);
        assert_eq!(left(31, 0), [4, 5, 6]);
        assert_eq!(left(30, 5), [5, 6]);
        assert!(left(61, 0).is_empty());
    }
}
