//! Connections to the database with the settings that the promise of Protocol §4 rests on.
//! It knows no table.

use std::path::Path;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rusqlite::{Connection, OpenFlags};

use crate::store::fault::Fault;

/// Pages that wait in the log before they are moved into the database, about 16 MB: low, so that a start is quick and the
/// log small; high, so that a page which changes often is moved once.
pub(super) const CHECKPOINT_PAGES: u64 = 4_000;
/// Pages of the log at which it is cut, about 49 MB: with the largest transaction
/// on top it stays under 64 MB.
pub(super) const LOG_PAGES_MAX: u64 = 12_000;
/// What is left of the log file when it starts anew, in bytes: overwriting is cheaper to sync than appending.
const LOG_BYTES_KEPT: i64 = 32 << 20;
/// How long a statement waits for a lock of another program: below the 5 s after which a publish is given up.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Page cache of the writer, in KiB (negative: SQLite's way to say KiB). A larger transaction goes into the log before its
/// end, at the same speed; what is held here is missing elsewhere.
const WRITER_CACHE: i64 = -2_000;
/// How long cutting the log waits for a reader, and all commits with it.
pub(super) const CUT_WAIT: Duration = Duration::from_millis(50);
/// Page cache of a reader, in KiB: what the messages of the pages that wait are spread over.
const READER_CACHE: i64 = -2_000;
/// Prepared statements that a connection keeps: all that there are.
const STATEMENTS: usize = 48;

/// Opens the connection that writes. The file must exist; an empty one becomes a database.
pub(super) fn open_writer(path: &Path) -> Result<Connection, Fault> {
    let open = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(LOCK_WAIT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // The first two take effect in an empty file only, and must come before WAL.
        connection.pragma_update(None, "page_size", 4_096)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
        connection.pragma_update(None, "cache_size", WRITER_CACHE)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        Ok(connection)
    };
    let connection = open().map_err(Fault::database(path, "open"))?;
    check_setting(&connection, path, "journal_mode", "wal")?;
    check_setting(&connection, path, "synchronous", "2")?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(LOCK_WAIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", READER_CACHE)?;
    Ok(connection)
}

/// Opens a connection that only reads a database that nobody has open and that has no log. Unlike [`open_reader`] it makes no
/// file beside it; but it sees nothing of what another process changes meanwhile, or half of it.
pub(super) fn open_untouched(path: &Path) -> rusqlite::Result<Connection> {
    let path = path.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(path.to_owned()))?;
    let uri = format!("file:{}?immutable=1", utf8_percent_encode(path, NON_ALPHANUMERIC));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri, flags)
}

fn check_setting(connection: &Connection, path: &Path, pragma: &'static str, wanted: &'static str) -> Result<(), Fault> {
    let found: rusqlite::types::Value =
        connection.pragma_query_value(None, pragma, |row| row.get(0)).map_err(Fault::database(path, "open"))?;
    let found = match found {
        rusqlite::types::Value::Integer(number) => number.to_string(),
        rusqlite::types::Value::Text(text) => text,
        other => format!("{other:?}"),
    };
    if found == wanted { Ok(()) } else { Err(Fault::Setting { database: path.to_owned(), pragma, wanted, found }) }
}

/// How much of the log a checkpoint is to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checkpoint {
    /// Nothing: only tell.
    Look,
    /// What no reader is in the way of.
    Passive,
    /// All, waiting for readers, and cut the log file to nothing.
    Truncate,
}

/// The log after a checkpoint, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Log {
    /// A reader was in the way.
    pub(super) busy: bool,
    /// Pages in the log.
    pub(super) pages: u64,
    /// Pages that are not in the database yet.
    pub(super) pending: u64,
}

/// Moves pages from the log into the database and syncs it.
pub(super) fn checkpoint(connection: &Connection, how: Checkpoint) -> rusqlite::Result<Log> {
    let sql = match how {
        Checkpoint::Look => "PRAGMA wal_checkpoint(NOOP)",
        Checkpoint::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Checkpoint::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    connection.prepare_cached(sql)?.query_row((), |row| {
        // Both are -1 where there is no log yet.
        let pages = row.get::<_, i64>(1)?.max(0).unsigned_abs();
        let moved = row.get::<_, i64>(2)?.max(0).unsigned_abs();
        Ok(Log { busy: row.get::<_, i64>(0)? != 0, pages, pending: pages.saturating_sub(moved) })
    })
}

/// Cuts the log file to nothing, unless a reader stays in the way for a moment.
pub(super) fn cut_log(connection: &Connection) -> rusqlite::Result<Log> {
    connection.busy_timeout(CUT_WAIT)?;
    let log = checkpoint(connection, Checkpoint::Truncate);
    connection.busy_timeout(LOCK_WAIT)?;
    log
}

/// Pages of the database file that hold nothing.
pub(super) fn free_pages(connection: &Connection) -> rusqlite::Result<u64> {
    let pages: i64 = connection.prepare_cached("PRAGMA freelist_count")?.query_row((), |row| row.get(0))?;
    Ok(pages.unsigned_abs())
}

/// Takes up to `pages` empty pages off the end of the database file. The file shrinks at the next checkpoint.
pub(super) fn vacuum(connection: &Connection, pages: u32) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query(())?;
    // Each step frees one page.
    while rows.next()?.is_some() {}
    Ok(())
}
