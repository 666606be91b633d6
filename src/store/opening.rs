//! Opening the database for the first time in a run: what was left behind is looked at before it is trusted, and where it is
//! damaged it is set aside and a new one begun, since doors must open and nobody may be near (Design §6).
//!
//! Found at every start: damage to the head, the log, the structure (SQLite's own quick check, unless the file is very large), the
//! counters; what rows say is checked as they are read (`load`). What was met while running has left a mark, and then the indexes
//! are held against their tables as well.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::store::aside;
use crate::store::columns::damaged;
use crate::store::connection::open_writer;
use crate::store::fault::{Chain, Fault};
use crate::store::findings::{Findings, Kind};
use crate::store::folder::Folder;
use crate::store::mids::{self, InDatabase};
use crate::store::wal::{self, Log};
use crate::store::{meta, migrate, restore};

/// A larger database is not checked as a whole at each start, but only after damage was met: it would hold up doors for seconds.
const CHECKED_BYTES_MAX: u64 = 512 << 20;
/// Bytes of the database file's head.
const HEAD_BYTES: usize = 100;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// An open database that can be trusted.
pub(super) struct Opened {
    pub(super) connection: Connection,
    /// What it knows of the blocks of mids.
    pub(super) block: InDatabase,
}

/// Opens the database of a folder that is entered; begins a new one where there is none or it is damaged. `wall`: ms since 1970.
pub(super) fn open(folder: &Folder, wall: u64, findings: &Findings) -> Result<Opened, Fault> {
    let path = folder.file(aside::DATABASE);
    if let Some(aside) = restore::finish(folder)? {
        log::warn!("store event=restore_finished file={} set_aside={}", path.display(), aside.display());
    }
    aside::finish(folder, wall).map_err(Fault::file(&path, "set aside the log of"))?;
    let is_there = std::fs::metadata(&path).is_ok_and(|file| file.len() > 0);
    if !is_there {
        let block = if mids::is_present(folder) { lost(&path, findings) } else { InDatabase::Known(0) };
        return begin(folder, block);
    }
    match open_known(folder, wall, findings) {
        Ok(opened) => {
            aside::unmark(folder);
            Ok(opened)
        }
        Err(fault) if fault.is_damage() => start_anew(folder, wall, &fault, findings),
        Err(fault) => Err(fault),
    }
}

/// Sets the damaged database aside and begins a new one. No connection to it may be open.
pub(super) fn start_anew(folder: &Folder, wall: u64, why: &Fault, findings: &Findings) -> Result<Opened, Fault> {
    let path = folder.file(aside::DATABASE);
    let rescued = rescue_block(&path);
    let kept = aside::set_aside(folder, wall).map_err(Fault::file(&path, "set aside"))?;
    aside::unmark(folder);
    let text = format!(
        "{}; it is kept as {}, and a new one is begun: restore a backup (porter restore), or rescue what can be read (sqlite3 {} .recover)",
        Chain(why),
        kept.display(),
        kept.display()
    );
    findings.note(Kind::DatabaseSetAside, text);
    begin(folder, InDatabase::Lost(rescued))
}

/// The database is gone, but `mids` says that there was one. Waiting for somebody to bring it back would keep doors shut and would
/// save nothing; going on gives out no number twice, since `mids` is there, and can be undone with `porter restore`. (A disk that is
/// not mounted looks otherwise: then `mids` is not there either.)
fn lost(path: &Path, findings: &Findings) -> InDatabase {
    let text = format!(
        "{} is missing or empty, but the file mids beside it says that there was one: what waited in it is gone, and a new one is begun; \
         restore a backup (porter restore)",
        path.display()
    );
    findings.note(Kind::DataLost, text);
    InDatabase::Lost(0)
}

fn begin(folder: &Folder, block: InDatabase) -> Result<Opened, Fault> {
    let path = folder.file(aside::DATABASE);
    folder.create(aside::DATABASE).map_err(Fault::file(&path, "create"))?;
    let connection = open_writer(&path)?;
    migrate::migrate(&connection, &path, 0)?;
    Ok(Opened { connection, block })
}

fn open_known(folder: &Folder, wall: u64, findings: &Findings) -> Result<Opened, Fault> {
    let path = folder.file(aside::DATABASE);
    check_head(&path)?;
    let is_suspect = look_at_log(folder, wall, findings)? || aside::is_marked(folder);
    let connection = open_writer(&path)?;
    // Until it is trusted its log stays as it is: it may have to be set aside with it.
    let keep_log = |keep| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep).map(drop);
    keep_log(true).map_err(Fault::database(&path, "open"))?;
    let version = migrate::version(&connection, &path)?;
    check_structure(&connection, &path, is_suspect)?;
    migrate::migrate(&connection, &path, version)?;
    let meta = meta::read(&connection).map_err(Fault::database(&path, "read"))?;
    keep_log(false).map_err(Fault::database(&path, "open"))?;
    Ok(Opened { connection, block: InDatabase::Known(meta.mid_block) })
}

/// Opens a file that was looked at, and brings it to the version that this program knows.
pub(super) fn open_current(path: &Path) -> Result<Connection, Fault> {
    let connection = open_writer(path)?;
    let version = migrate::version(&connection, path)?;
    migrate::migrate(&connection, path, version)?;
    Ok(connection)
}

/// What SQLite takes from the head without a question, and would then misread the rest by.
fn check_head(path: &Path) -> Result<(), Fault> {
    let mut head = [0; HEAD_BYTES];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    match read {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(Fault::database(path, "open")(damaged("it is cut off"))),
        other => other.map_err(Fault::file(path, "read"))?,
    }
    // Page size 4,096; rollback or WAL; nothing reserved; the fractions that all have; schema format 4; UTF-8.
    let is_mode = |byte| byte == 1 || byte == 2;
    let is_whole = head[..16] == *MAGIC
        && head[16..18] == [16, 0]
        && is_mode(head[18])
        && is_mode(head[19])
        && head[20..24] == [0, 64, 32, 32]
        && (head[44..48] == [0, 0, 0, 4] || head[44..48] == [0; 4])
        && (head[56..60] == [0, 0, 0, 1] || head[56..60] == [0; 4]);
    if is_whole { Ok(()) } else { Err(Fault::database(path, "open")(damaged("its head is not one of Porter's databases"))) }
}

/// Whether the database must be looked at more closely for what its log is.
fn look_at_log(folder: &Folder, wall: u64, findings: &Findings) -> Result<bool, Fault> {
    let [wal, shm] = ["-wal", "-shm"].map(|end| folder.file(&format!("{}{end}", aside::DATABASE)));
    match wal::look(&wal, &shm, folder.is_same_boot()).map_err(Fault::file(&wal, "read"))? {
        Log::Whole => Ok(false),
        Log::Torn => {
            log::warn!(
                "log_torn file={} reason=\"its last transaction is not whole: the power went before it was confirmed, and nothing is \
                 lost; or the disk has damaged it\"",
                wal.display()
            );
            Ok(false)
        }
        Log::Spent => {
            let kept = aside::set_log_aside(folder, wall).map_err(Fault::file(&wal, "set aside"))?;
            log::warn!("store event=log_damaged kept={} reason=\"all of it was in the database: nothing is lost\"", kept.display());
            Ok(true)
        }
        Log::Lost(why) => {
            let text = format!("{}: {why}; messages that were answered with -6 may be gone: check the disk", wal.display());
            findings.note(Kind::DataLost, text);
            Ok(true)
        }
    }
}

/// SQLite's own check of pages, trees and order; if the database is suspect, of the indexes as well, which reads it more than once.
fn check_structure(connection: &Connection, path: &Path, is_suspect: bool) -> Result<(), Fault> {
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    if bytes > CHECKED_BYTES_MAX && !is_suspect {
        log::info!("store event=not_checked file={} bytes={bytes} reason=\"larger than {CHECKED_BYTES_MAX}\"", path.display());
        return Ok(());
    }
    let sql = if is_suspect { "PRAGMA integrity_check(1)" } else { "PRAGMA quick_check(1)" };
    let found: String = connection.query_row(sql, (), |row| row.get(0)).map_err(Fault::database(path, "check"))?;
    if found == "ok" { Ok(()) } else { Err(Fault::database(path, "check")(damaged(&found.replace('\n', " ")))) }
}

/// The newest block that a damaged database still tells of; 0 for none.
fn rescue_block(path: &Path) -> u64 {
    let Ok(connection) = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX) else {
        return 0;
    };
    let number = |sql: &str| connection.query_row(sql, (), |row| row.get::<_, i64>(0)).ok().and_then(|number| u64::try_from(number).ok());
    let by_counter = meta::read(&connection).ok().map(|meta| meta.mid_block);
    let by_mids = [
        "SELECT max(max(mid, last)) FROM segment",
        "SELECT max(mid) FROM message",
        "SELECT max(mid) FROM opts_id",
        "SELECT max(id) FROM door_log",
    ];
    by_mids.into_iter().filter_map(|sql| number(sql).map(|mid| mid / mids::MIDS_PER_BLOCK)).chain(by_counter).max().unwrap_or(0)
}
