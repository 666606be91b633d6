//! What can be told of a data folder without changing anything in it, beside a running server too: for `porter check`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::store::connection::{open_reader, open_untouched};
use crate::store::fault::Fault;
use crate::store::{aside, meta, mids, migrate, restore, verify};

/// The log of the database: it is there as long as a server runs, and after one that was killed.
const LOG: &str = "porter.db-wal";

/// The database as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its version, not above that of this program.
    pub version: u32,
    /// The version to which the next start brings it.
    pub known: u32,
    /// The newest block of mids that it knows of.
    pub mid_block: u64,
    /// The highest wall time of any commit, ms since 1970; 0: it has none.
    pub newest_wall: u64,
    /// Whether its pages and indexes fit each other.
    pub integrity: Integrity,
}

/// What reading the whole database has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Integrity {
    /// All is well.
    Whole,
    /// It contradicts itself, in SQLite's words.
    Damaged(String),
    /// It is whole, but so many rows are not as they were written: they are left out.
    Rows(u64),
    /// It takes longer than it may.
    Unknown,
}

/// Looks at the database of the data folder `folder`, and reads it whole if that is done within `limit`. `None`: there is none.
///
/// # Errors
/// If it can't be opened, is not Porter's or of a newer version, or a restore was interrupted.
pub fn examine(folder: &Path, limit: Duration) -> Result<Option<Facts>, Fault> {
    if restore::is_pending(folder) {
        return Err(Fault::RestorePending { folder: folder.to_owned() });
    }
    let path = folder.join(aside::DATABASE);
    // An empty one holds as much as none: SQLite makes it so before its first page.
    if std::fs::metadata(&path).map_or(0, |found| found.len()) == 0 {
        return Ok(None);
    }
    let log = folder.join(LOG);
    if !log.exists() {
        let found = open_untouched(&path).map_err(Fault::database(&path, "open")).and_then(|connection| facts(&connection, &path, limit));
        // A server that has started meanwhile may have changed what was being read.
        if !log.exists() {
            return found.map(Some);
        }
    }
    let connection = open_reader(&path).map_err(Fault::database(&path, "open"))?;
    facts(&connection, &path, limit).map(Some)
}

fn facts(connection: &Connection, path: &Path, limit: Duration) -> Result<Facts, Fault> {
    let failed = |error| Fault::database(path, "read")(error);
    let version = migrate::version(connection, path)?;
    let (mid_block, newest_wall) = counters(connection, path, version)?;
    let integrity = match verify::within(connection, limit, || integrity(connection, version)) {
        Ok(found) => found,
        Err(error) if verify::is_interrupted(&error) => Integrity::Unknown,
        Err(error) => return Err(failed(error)),
    };
    Ok(Facts { version, known: migrate::KNOWN, mid_block, newest_wall, integrity })
}

fn integrity(connection: &Connection, version: u32) -> rusqlite::Result<Integrity> {
    let contradictions = verify::contradictions(connection)?;
    if !contradictions.is_empty() {
        return Ok(Integrity::Damaged(contradictions.join("; ")));
    }
    match verify::damaged_rows(connection, version)? {
        0 => Ok(Integrity::Whole),
        rows => Ok(Integrity::Rows(rows)),
    }
}

fn counters(connection: &Connection, path: &Path, version: u32) -> Result<(u64, u64), Fault> {
    let failed = |error| Fault::database(path, "read")(error);
    if !verify::is_porters(connection).map_err(failed)? {
        return Err(Fault::NotWhole { path: path.to_owned(), why: "it has not the tables of a porter database".to_owned() });
    }
    if version < migrate::KNOWN {
        let contents = verify::contents(connection).map_err(failed)?;
        return Ok((contents.mid_block, contents.wall));
    }
    let meta = meta::read(connection).map_err(failed)?;
    Ok((meta.mid_block, meta.newest_wall))
}

/// The block that the file `mids` of a data folder names; `None`: there is no such file.
///
/// # Errors
/// If it is damaged or can't be read.
pub fn mids(folder: &Path) -> Result<Option<u64>, Fault> {
    mids::look(folder)
}

/// The damaged databases that were set aside in a data folder, oldest first; none if it can't be read.
#[must_use]
pub fn copies(folder: &Path) -> Vec<PathBuf> {
    aside::copies(folder).unwrap_or_default().iter().map(|name| folder.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::{Scratch, batch, committed};

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_database_tells_its_state_beside_a_server() {
        let scratch = Scratch::new();
        scratch.folder();
        assert_eq!(examine(&scratch.data(), LIMIT).unwrap(), None);
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, vec![])), committed());
        let facts = examine(&scratch.data(), LIMIT).unwrap().unwrap();
        assert_eq!((facts.version, facts.mid_block, facts.newest_wall, facts.integrity), (facts.known, 1, 5_001, Integrity::Whole));
        assert_eq!(mids(&scratch.data()).unwrap(), Some(1));
        database.close();
        assert!(examine(&scratch.data(), LIMIT).unwrap().is_some());
        assert!(!scratch.file(LOG).exists() && !scratch.file("porter.db-shm").exists(), "looking left files behind");
    }

    #[test]
    fn an_older_database_is_looked_at_too() {
        let scratch = Scratch::new();
        scratch.folder();
        let old = include_str!("../../migrations/0001_init.sql");
        scratch.edit(&format!("{old} UPDATE meta SET wall = 7, mid_block = 3; PRAGMA user_version = 1;"));
        let facts = examine(&scratch.data(), LIMIT).unwrap().unwrap();
        assert_eq!((facts.version, facts.mid_block, facts.newest_wall), (1, 3, 7));
    }
}
