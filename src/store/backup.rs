//! A copy of the database of a server that may be running (Design §6): one file, whole, read back before it has its name.
//!
//! `VACUUM INTO` copies one state of the database, whatever is committed meanwhile. The server is not asked: it only finds a
//! reader, so that its log grows until the copy is done (`database.rs` says so in the server's log).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::Advice;

use crate::limits::RESERVE_BYTES;
use crate::store::connection::open_reader;
use crate::store::fault::Fault;
use crate::store::folder::{FILE_MODE, free_space};
use crate::store::verify::{self, Contents};
use crate::store::{aside, restore};

/// What a copy is called until it is good.
const UNFINISHED: &str = ".unfinished";
/// Free space that must be left beside the copy, in bytes; on the data folder's own disk as much as the server keeps for itself.
const MARGIN_BYTES: u64 = 16 << 20;
/// How often what is written is sent to the disk: in one piece at the end it would hold up the server's own syncs.
const SYNCED_EVERY: Duration = Duration::from_millis(50);

/// Copies the database in the data folder `folder` to the file `target`, and reads the copy back. A file of that name is
/// replaced only with `overwrite`. Works beside a running server and without one. Rows that are damaged in the database are so in
/// the copy: [`Contents::damaged_rows`] tells how many.
///
/// # Errors
/// If there is no database, no space, or the copy is not what it should be. No file `target` is made or changed then.
pub fn backup(folder: &Path, target: &Path, overwrite: bool) -> Result<Contents, Fault> {
    let source = source_in(folder)?;
    let target = std::path::absolute(target).map_err(Fault::file(target, "use"))?;
    check_target(folder, &target, overwrite)?;
    let connection = open_reader(&source).map_err(Fault::database(&source, "open"))?;
    let before = State::of(&connection).map_err(Fault::database(&source, "read"))?;
    let unfinished = Unfinished::create(&target)?;
    check_space(folder, &target, before.contents.bytes)?;
    unfinished.fill(&connection, &source)?;
    let copy = unfinished.read_back()?;
    let after = State::of(&connection).map_err(Fault::database(&source, "read"))?;
    if !copy.is_between(&before, &after) {
        return Err(Fault::NotWhole { path: unfinished.path.clone(), why: "it does not hold what the database held".to_owned() });
    }
    if copy.damaged_rows > 0 && copy.damaged_rows > before.damaged_rows(&connection).map_err(Fault::database(&source, "read"))? {
        return Err(Fault::NotWhole { path: unfinished.path.clone(), why: "rows of it are not what the database held".to_owned() });
    }
    unfinished.finish(&target)?;
    Ok(copy)
}

/// The database, which must be there.
fn source_in(folder: &Path) -> Result<PathBuf, Fault> {
    let source = folder.join(aside::DATABASE);
    if restore::is_pending(folder) {
        return Err(Fault::RestorePending { folder: folder.to_owned() });
    }
    match fs::metadata(&source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Fault::NoDatabase { database: source }),
        Err(error) => Err(Fault::file(&source, "read")(error)),
        Ok(_) => Ok(source),
    }
}

fn check_target(folder: &Path, target: &Path, overwrite: bool) -> Result<(), Fault> {
    let parent = parent(target);
    let there = fs::canonicalize(parent).map_err(Fault::file(parent, "write to"))?;
    if fs::canonicalize(folder).is_ok_and(|folder| there.starts_with(folder)) {
        return Err(Fault::BackupInside { target: target.to_owned() });
    }
    match fs::symlink_metadata(target) {
        Ok(found) if !found.is_file() || !overwrite => Err(Fault::Exists { target: target.to_owned(), is_file: found.is_file() }),
        _ => Ok(()),
    }
}

fn check_space(folder: &Path, target: &Path, bytes: u64) -> Result<(), Fault> {
    let parent = parent(target);
    let read = |path: &Path| fs::metadata(path).map_err(Fault::file(path, "read"));
    let is_same_disk = read(folder)?.dev() == read(parent)?.dev();
    let needed = bytes + MARGIN_BYTES + if is_same_disk { RESERVE_BYTES } else { 0 };
    let free = free_space(parent).map_err(Fault::file(parent, "read"))?;
    if free < needed { Err(Fault::NoSpace { path: target.to_owned(), needed, free }) } else { Ok(()) }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// What the database held at a moment, and a number that changes with every commit of another connection.
struct State {
    contents: Contents,
    version: i64,
}

impl State {
    fn of(connection: &Connection) -> rusqlite::Result<State> {
        // The number first: a commit between the two must change it.
        let version = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        Ok(State { contents: verify::contents(connection)?, version })
    }

    fn damaged_rows(&self, connection: &Connection) -> rusqlite::Result<u64> {
        verify::damaged_rows(connection, self.contents.version)
    }
}

impl Contents {
    /// Whether a copy made between two looks at its original can be right. Nothing but the same will do if nothing was
    /// committed between them; the empty pages are the only thing that a copy leaves out.
    fn is_between(&self, before: &State, after: &State) -> bool {
        let is_later = before.contents.service <= self.service && self.service <= after.contents.service;
        let same = Contents { bytes: self.bytes, damaged_rows: self.damaged_rows, ..before.contents.clone() };
        is_later && self.version == before.contents.version && (before.version != after.version || *self == same)
    }
}

/// The copy while it is made. It goes with its owner, unless it was finished or the process was killed: then its name tells.
struct Unfinished {
    path: PathBuf,
    /// Locked, so that two backups to one file do not write into each other.
    file: File,
    is_finished: bool,
}

impl Unfinished {
    /// Takes the name, and empties what a killed backup left there.
    fn create(target: &Path) -> Result<Unfinished, Fault> {
        let mut name = OsString::from(target);
        name.push(UNFINISHED);
        let path = PathBuf::from(name);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(FILE_MODE).open(&path);
        let file = file.map_err(Fault::file(&path, "create"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Fault::BackupRuns { path }),
            Err(TryLockError::Error(source)) => return Err(Fault::file(&path, "lock")(source)),
        }
        // Another backup may have finished between the two: then this is its good file.
        let is_same = fs::metadata(&path).and_then(|named| Ok(named.ino() == file.metadata()?.ino()));
        if !is_same.unwrap_or(false) {
            return Err(Fault::BackupRuns { path });
        }
        file.set_len(0).map_err(Fault::file(&path, "empty"))?;
        Ok(Unfinished { path, file, is_finished: false })
    }

    fn fill(&self, connection: &Connection, source: &Path) -> Result<(), Fault> {
        syncing(&self.file, || copy(connection, &self.path)).map_err(Fault::copying(source, &self.path))?;
        self.file.sync_all().map_err(Fault::file(&self.path, "sync"))
    }

    /// Checks what was written, as the disk gives it back.
    fn read_back(&self) -> Result<Contents, Fault> {
        // A file system that can't do this has it read from memory; there is nothing better.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        verify::open_whole(&self.path).map(|(_, contents)| contents)
    }

    fn finish(mut self, target: &Path) -> Result<(), Fault> {
        fs::rename(&self.path, target).map_err(Fault::file(&self.path, "rename"))?;
        self.is_finished = true;
        let folder = parent(target);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Fault::file(folder, "sync"))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            // What can't be removed says by its name that it is no backup.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes one state of the database to an empty file.
pub(super) fn copy(connection: &Connection, to: &Path) -> rusqlite::Result<()> {
    let name = to.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(to.to_owned()))?;
    connection.execute("VACUUM INTO ?1", (name,)).map(drop)
}

/// Does the work while a thread syncs the file now and then.
fn syncing<T>(file: &File, work: impl FnOnce() -> T) -> T {
    let (done, end) = sync_channel::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while end.recv_timeout(SYNCED_EVERY) == Err(RecvTimeoutError::Timeout) {
                // The sync at the end tells what is wrong.
                let _ = file.sync_data();
            }
        });
        let result = work();
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::storage::Change;
    use crate::store::database::Database;
    use crate::store::samples::{Scratch, alias, batch, committed, message, mode, save};

    fn filled(scratch: &Scratch, messages: u64) -> Database {
        let mut database = scratch.open().unwrap();
        let mut changes = vec![Change::SaveAlias(alias(1, "a"))];
        changes.extend((0..messages).map(|n| save(message((1 << 40) + n, &"x".repeat(1_000)), &[(1, None)])));
        assert_eq!(database.commit(&batch(1, changes)), committed());
        database
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_copy_of_an_open_database_is_one_private_file_with_all_that_was_committed() {
        let scratch = Scratch::new();
        let mut database = filled(&scratch, 100);
        let place = Scratch::new();
        fs::create_dir(place.data()).unwrap();
        let contents = backup(&scratch.data(), &place.file("b.db"), false).unwrap();
        assert_eq!((contents.aliases, contents.messages, contents.deliveries), (1, 100, 100));
        assert_eq!((names(&place.data()), mode(&place.file("b.db"))), (vec!["b.db".to_owned()], 0o600));
        // The database goes on as if nothing had been.
        assert_eq!(database.commit(&batch(2, vec![Change::SaveAlias(alias(2, "b"))])), committed());
        database.close();
        let again = backup(&scratch.data(), &place.file("c.db"), false).unwrap();
        assert_eq!((again.aliases, again.messages), (2, 100));
    }

    #[test]
    fn only_what_was_meant_is_written_to() {
        let scratch = Scratch::new();
        filled(&scratch, 1).close();
        let place = Scratch::new();
        fs::create_dir_all(place.file("folder")).unwrap();
        fs::write(place.file("there"), "precious").unwrap();
        let to = |name: &str, overwrite| backup(&scratch.data(), &place.file(name), overwrite).err();
        assert!(matches!(to("there", false), Some(Fault::Exists { is_file: true, .. })));
        assert_eq!(fs::read(place.file("there")).unwrap(), b"precious");
        assert!(matches!(to("folder", true), Some(Fault::Exists { is_file: false, .. })));
        assert!(matches!(to("missing/b.db", true), Some(Fault::File { .. })));
        assert!(to("there", true).is_none());
        assert!(matches!(backup(&scratch.data(), &scratch.file("b.db"), true), Err(Fault::BackupInside { .. })));
        assert!(matches!(backup(&place.data(), &place.file("b.db"), true), Err(Fault::NoDatabase { .. })));
        let mut left = names(&place.data());
        left.sort();
        assert_eq!(left, ["folder", "there"]);
    }

    #[test]
    fn what_a_killed_backup_left_is_replaced_and_a_running_one_is_not_disturbed() {
        let scratch = Scratch::new();
        filled(&scratch, 1).close();
        let place = Scratch::new();
        fs::create_dir(place.data()).unwrap();
        fs::write(place.file("b.db.unfinished"), "half").unwrap();
        let runs = Unfinished::create(&place.file("b.db")).unwrap();
        assert!(matches!(backup(&scratch.data(), &place.file("b.db"), false), Err(Fault::BackupRuns { .. })));
        assert!(runs.path.exists());
        drop(runs);
        fs::write(place.file("b.db.unfinished"), "half").unwrap();
        backup(&scratch.data(), &place.file("b.db"), false).unwrap();
        assert_eq!(names(&place.data()), ["b.db"]);
    }

    #[test]
    fn a_damaged_database_gives_no_backup() {
        let scratch = Scratch::new();
        filled(&scratch, 1_000).close();
        let mut bytes = fs::read(scratch.file("porter.db")).unwrap();
        bytes[20 * 4_096..40 * 4_096].fill(0xa5);
        fs::write(scratch.file("porter.db"), bytes).unwrap();
        let place = Scratch::new();
        fs::create_dir(place.data()).unwrap();
        let fault = backup(&scratch.data(), &place.file("b.db"), false).unwrap_err();
        assert!(fault.to_string().contains("damaged"), "{fault}");
        assert!(names(&place.data()).is_empty());
    }
}
