//! A backup takes the database's place (Design §6), and a crash in between loses neither.
//!
//! The copy is made, checked and brought up to date beside the database. When it is renamed to `porter.db.restored` it is
//! in force: whoever locks the folder next, this process or a server that starts, sets the old database aside with its log and
//! gives the new one its name ([`finish`]). So no new database ever meets an old log, and whatever the moment of a crash, one
//! of the two is there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::Connection;

use crate::store::connection::{Checkpoint, checkpoint, open_reader, open_writer};
use crate::store::fault::{Chain, Fault};
use crate::store::folder::{Folder, free_space};
use crate::store::opening::open_current;
use crate::store::verify::{self, Contents};
use crate::store::{aside, backup, meta, mids};

/// The new database until it is whole. It means nothing, and the next restore removes it.
const PART: &str = "porter.db.restoring";
/// The new database when it is in force.
const READY: &str = "porter.db.restored";
/// What a database is made of: itself, its log and the log's index. The log first: without it the database is older, but whole.
const PARTS: [&str; 3] = ["-wal", "-shm", ""];
/// Free space that must be left beside the copy, in bytes.
const MARGIN_BYTES: u64 = 16 << 20;

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the backup held.
    pub contents: Contents,
    /// The version that the database now has.
    pub version: u32,
    /// Where the database is that was there before; `None`: there was none.
    pub aside: Option<PathBuf>,
    /// Why it was left as it was, with its log beside it: it is damaged. `None`: it is whole, and one file.
    pub damage: Option<String>,
    /// The block of mids behind which the next start goes on.
    pub mid_block: u64,
}

/// Puts a copy of the file `backup` in place of the database in the data folder `folder`, which is made if there is none.
///
/// # Errors
/// If a server runs on the folder, or the backup is not whole or newer than this program: then nothing is touched. If the disk
/// fails or is full: then the old database is in force, unless the error came behind the last step, which the next start does.
pub fn restore(folder: &Path, backup: &Path) -> Result<Restored, Fault> {
    let (source, contents) = verify::open_whole(backup)?;
    let folder = Folder::open(folder)?;
    finish(&folder)?;
    let new = Part::create(&folder, contents.bytes)?;
    backup::copy(&source, &new.path).map_err(Fault::copying(backup, &new.path))?;
    drop(source);
    let (copy, copied) = verify::open_whole(&new.path)?;
    drop(copy);
    if (Contents { bytes: contents.bytes, ..copied }) != contents {
        return Err(Fault::NotWhole { path: backup.to_owned(), why: "it changed while it was copied".to_owned() });
    }
    let old = Old::look(&folder);
    let known = old.as_ref().map_or(0, |old| old.mid_block);
    let mid_block = mids::after_restore(&folder, contents.mid_block.max(known))?;
    let version = new.update(mid_block)?;
    // From here on more than the new file changes. Mids that are skipped are the only trace of a restore that ends here.
    let damage = old.and_then(|old| old.write_back(mid_block));
    mids::write(&folder, mid_block)?;
    new.put_in_force(&folder)?;
    let aside = finish(&folder)?;
    Ok(Restored { contents, version, aside: aside.filter(|aside| aside.exists()), damage, mid_block })
}

/// Whether a restore was interrupted after its database was in force.
pub(super) fn is_pending(folder: &Path) -> bool {
    folder.join(READY).exists()
}

/// Ends a restore whose database is in force: returns where the old one is, or would be if there had been one. To be called by
/// whoever has locked the folder, before the database is opened. May be interrupted and called again.
pub(super) fn finish(folder: &Folder) -> Result<Option<PathBuf>, Fault> {
    let ready = folder.file(READY);
    let Some(aside) = aside(&folder.file(aside::DATABASE), &ready)? else { return Ok(None) };
    let failed = |path| Fault::file(path, "rename");
    for part in PARTS {
        let (from, to) = (with(&folder.file(aside::DATABASE), part), with(&aside, part));
        match fs::rename(&from, to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&from)(error)),
            _ => {}
        }
    }
    // The old log must be gone for good before there is a new database that it could be taken for.
    folder.sync().map_err(failed(&ready))?;
    fs::rename(&ready, folder.file(aside::DATABASE)).map_err(failed(&ready))?;
    folder.sync().map_err(failed(&ready))?;
    Ok(Some(aside))
}

/// The name for the old database: it carries the time at which the new one was ready, which is the same at each try.
fn aside(database: &Path, ready: &Path) -> Result<Option<PathBuf>, Fault> {
    let modified = match fs::metadata(ready).and_then(|ready| ready.modified()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        modified => modified.map_err(Fault::file(ready, "read"))?,
    };
    let seconds = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let time: String = Connection::open_in_memory()
        .and_then(|sqlite| {
            sqlite.query_row("SELECT strftime('%Y%m%dT%H%M%SZ', ?1, 'unixepoch')", (seconds.cast_signed(),), |row| row.get(0))
        })
        .map_err(Fault::database(ready, "name what is set aside for"))?;
    Ok(Some(with(database, &format!(".before-{time}"))))
}

/// A path with something behind its last letter.
fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The new database until it is in force. It goes with its owner.
struct Part {
    path: PathBuf,
}

impl Part {
    fn create(folder: &Folder, bytes: u64) -> Result<Part, Fault> {
        let part = Part { path: folder.file(PART) };
        part.remove();
        let free = free_space(&folder.file("")).map_err(Fault::file(&part.path, "create"))?;
        if free < bytes + MARGIN_BYTES {
            return Err(Fault::NoSpace { path: folder.file(aside::DATABASE), needed: bytes + MARGIN_BYTES, free });
        }
        folder.create(PART).map_err(Fault::file(&part.path, "create"))?;
        Ok(part)
    }

    /// Brings it to the version and the block of mids that hold from now on; all of it is in one file then. Returns the version.
    fn update(&self, mid_block: u64) -> Result<u32, Fault> {
        let connection = open_current(&self.path)?;
        let write = || {
            meta::save_block(&connection, mid_block)?;
            checkpoint(&connection, Checkpoint::Truncate)?;
            connection.pragma_query_value(None, "user_version", |row| row.get(0))
        };
        write().map_err(Fault::database(&self.path, "write"))
    }

    fn put_in_force(self, folder: &Folder) -> Result<(), Fault> {
        let failed = |action| Fault::file(&self.path, action);
        let file = File::options().write(true).open(&self.path).map_err(failed("open"))?;
        let mut time = file.metadata().and_then(|file| file.modified()).map_err(failed("read"))?;
        // Two restores within a second must not have one name for what they set aside.
        while aside(&folder.file(aside::DATABASE), &self.path)?.is_some_and(|aside| PARTS.iter().any(|part| with(&aside, part).exists())) {
            time += Duration::from_secs(1);
            file.set_modified(time).map_err(failed("set the time of"))?;
        }
        file.sync_all().map_err(failed("sync"))?;
        fs::rename(&self.path, folder.file(READY)).map_err(failed("rename"))?;
        folder.sync().map_err(failed("rename"))
    }

    fn remove(&self) {
        for part in ["-journal", "-wal", "-shm", ""] {
            // There need not be one. One that stays makes the next step fail, which tells more.
            let _ = fs::remove_file(with(&self.path, part));
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The database that is there. One that is damaged is left exactly as it is: whoever wants to rescue something needs all of it.
struct Old {
    path: PathBuf,
    /// Why it can't become one file.
    damage: Option<String>,
    /// The newest block that it knows; 0 if it can't tell.
    mid_block: u64,
}

impl Old {
    /// Looks at it without writing. `None`: there is none.
    fn look(folder: &Folder) -> Option<Old> {
        let path = folder.file(aside::DATABASE);
        if !path.exists() {
            return None;
        }
        match verify::open_whole(&path) {
            Ok((_, contents)) => Some(Old { path, damage: None, mid_block: contents.mid_block }),
            Err(fault) => {
                let mid_block = mid_block_of_damaged(&path).unwrap_or(0);
                Some(Old { path, damage: Some(Chain(&fault).to_string()), mid_block })
            }
        }
    }

    /// Makes one file of it, which knows of the block too: nothing was lost, should it stay in force or be restored one day.
    /// Returns why that can't be done.
    fn write_back(self, mid_block: u64) -> Option<String> {
        let write = || {
            let connection = open_writer(&self.path)?;
            meta::save_block(&connection, mid_block).map_err(Fault::database(&self.path, "write"))?;
            checkpoint(&connection, Checkpoint::Truncate).map_err(Fault::database(&self.path, "write back the log of"))
        };
        self.damage.or_else(|| write().err().map(|fault| Chain(&fault).to_string()))
    }
}

fn mid_block_of_damaged(path: &Path) -> Option<u64> {
    let block: i64 = open_reader(path).ok()?.query_row("SELECT mid_block FROM meta", (), |row| row.get(0)).ok()?;
    u64::try_from(block).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::storage::Change;
    use crate::store::backup::backup;
    use crate::store::database::Database;
    use crate::store::mids::MIDS_PER_BLOCK;
    use crate::store::samples::{Scratch, alias, batch, committed, message, mode, owed, save};

    /// A site: its data, and a place for backups.
    struct Site {
        data: Scratch,
        place: Scratch,
    }

    impl Site {
        fn new() -> Site {
            let site = Site { data: Scratch::new(), place: Scratch::new() };
            fs::create_dir(site.place.data()).unwrap();
            site
        }

        fn open(&self) -> Database {
            self.data.open().unwrap()
        }

        /// A run that stores these mids.
        fn run(&self, mids: std::ops::Range<u64>) {
            let mut database = self.open();
            store(&mut database, mids);
            database.close();
        }

        fn backup(&self, name: &str) -> PathBuf {
            let path = self.place.file(name);
            backup(&self.data.data(), &path, false).unwrap();
            path
        }

        fn restore(&self, backup: &Path) -> Result<Restored, Fault> {
            restore(&self.data.data(), backup)
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> =
                fs::read_dir(self.data.data()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    fn store(database: &mut Database, mids: std::ops::Range<u64>) {
        let mut changes = vec![Change::SaveAlias(alias(1, "a"))];
        changes.extend(mids.map(|mid| save(message(mid, "1"), &[(1, None)])));
        assert_eq!(database.commit(&batch(1, changes)), committed());
    }

    fn stored(database: &Database) -> Vec<u64> {
        owed(database).into_iter().map(|(mid, _)| mid).collect()
    }

    #[test]
    fn the_backup_is_in_force_and_the_old_database_beside_it() {
        let site = Site::new();
        site.run(1..3);
        let kept = site.backup("b.db");
        site.run(3..9);
        let restored = site.restore(&kept).unwrap();
        assert_eq!((restored.contents.messages, restored.damage, restored.mid_block), (2, None, 2 + 1_024));
        let aside = restored.aside.unwrap();
        let name = aside.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.starts_with("porter.db.before-2") && name.ends_with('Z'), "{name}");
        assert_eq!(site.names(), ["lock", "mids", "porter.db", &name, "reserve"]);
        assert_eq!((mode(&aside), mode(&site.data.file("porter.db"))), (0o600, 0o600));
        let database = site.open();
        assert_eq!((stored(&database), database.mids().start.number()), (vec![1, 2], (2 + 1_024 + 1) * MIDS_PER_BLOCK));
        database.close();
        // And back again, to a database of its own although it is the same second.
        let again = site.restore(&aside).unwrap();
        assert!(again.aside.is_some_and(|second| second != aside));
        let database = site.open();
        assert_eq!(stored(&database), (1..9).collect::<Vec<_>>());
        assert!(database.mids().start.number() > (2 + 1_024 + 1 + 1_024) * MIDS_PER_BLOCK);
    }

    #[test]
    fn a_folder_that_is_not_there_is_made() {
        let (site, other) = (Site::new(), Scratch::new());
        site.run(1..3);
        let kept = site.backup("b.db");
        let restored = restore(&other.data(), &kept).unwrap();
        assert_eq!((restored.aside, restored.mid_block), (None, 1 + 1_024));
        assert_eq!((mode(&other.data()), mode(&other.file("mids"))), (0o700, 0o600));
        assert_eq!(stored(&other.open().unwrap()), [1, 2]);
    }

    #[test]
    fn a_log_of_a_killed_server_stays_with_its_database() {
        let site = Site::new();
        site.run(1..3);
        let kept = site.backup("b.db");
        let (db, log) = (site.data.file("porter.db"), site.data.file("porter.db-wal"));
        let mut database = site.open();
        store(&mut database, 3..9);
        let copies = [fs::read(&db).unwrap(), fs::read(&log).unwrap()];
        database.close();
        fs::write(&db, &copies[0]).unwrap();
        fs::write(&log, &copies[1]).unwrap();
        let aside = site.restore(&kept).unwrap().aside.unwrap();
        assert_eq!(verify::open_whole(&aside).unwrap().1.messages, 8, "its log was not written back");
        assert!(!log.exists());
        // One that is too damaged for that takes its log along.
        fs::write(&db, vec![0xa5; 40_960]).unwrap();
        fs::write(&log, &copies[1]).unwrap();
        let restored = site.restore(&kept).unwrap();
        assert!(restored.damage.is_some_and(|why| why.contains("damaged")));
        let aside = restored.aside.unwrap();
        assert_eq!((fs::read(&aside).unwrap(), fs::read(with(&aside, "-wal")).unwrap()), (vec![0xa5; 40_960], copies[1].clone()));
        assert!(!log.exists());
        assert_eq!(stored(&site.open()), [1, 2]);
    }

    #[test]
    fn a_running_server_is_not_disturbed() {
        let site = Site::new();
        site.run(1..3);
        let kept = site.backup("b.db");
        let mut database = site.open();
        let before = site.names();
        assert!(matches!(site.restore(&kept), Err(Fault::InUse { .. })));
        assert_eq!(site.names(), before);
        store(&mut database, 3..4);
        assert_eq!(stored(&database), [1, 2, 3]);
    }

    #[test]
    fn what_is_no_whole_backup_changes_nothing() {
        let site = Site::new();
        site.run(1..900);
        let good = fs::read(site.backup("b.db")).unwrap();
        let bad = site.place.file("bad.db");
        let digest = || site.names().iter().map(|name| fs::read(site.data.file(name)).unwrap()).collect::<Vec<_>>();
        let before = digest();
        let mut damaged = good.clone();
        damaged[good.len() / 2..good.len() / 2 + 8_192].fill(0xa5);
        let foreign = {
            let connection = Connection::open(site.place.file("foreign.db")).unwrap();
            connection.execute_batch("CREATE TABLE meta (a); INSERT INTO meta VALUES (1);").unwrap();
            drop(connection);
            fs::read(site.place.file("foreign.db")).unwrap()
        };
        let cut = good.len() - 4_096;
        for (what, bytes) in [
            ("empty", &[][..]),
            ("text", b"not a database, but long enough to have had a header of one hundred bytes, if it were one, which it is not"),
            ("cut in a page", &good[..good.len() - 100]),
            ("cut by a page", &good[..cut]),
            ("damaged", &damaged),
            ("foreign", &foreign),
        ] {
            fs::write(&bad, bytes).unwrap();
            let fault = site.restore(&bad).unwrap_err();
            assert!(matches!(fault, Fault::NotWhole { .. }), "{what}: {fault:?}");
            assert!(digest() == before, "{what}");
        }
        fs::write(&bad, &good).unwrap();
        Connection::open(&bad).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(site.restore(&bad), Err(Fault::Newer { found: 99, .. })));
        fs::write(&bad, &good).unwrap();
        fs::write(site.data.file("mids"), "damaged").unwrap();
        assert!(matches!(site.restore(&bad), Err(Fault::BadMids { .. })));
        assert!(!site.names().iter().any(|name| name.contains("restor")), "{:?}", site.names());
    }

    #[test]
    fn a_crash_between_any_two_steps_is_ended_by_the_next_start() {
        let site = Site::new();
        site.run(1..3);
        let kept = site.backup("b.db");
        for renamed in 0..=PARTS.len() {
            site.run(3..5);
            fs::write(site.data.file("porter.db-wal"), "an old log").unwrap();
            fs::write(site.data.file("porter.db-shm"), "its index").unwrap();
            // As far as a restore comes before it is killed.
            fs::copy(&kept, site.data.file(READY)).unwrap();
            let aside = aside(&site.data.file("porter.db"), &site.data.file(READY)).unwrap().unwrap();
            for part in &PARTS[..renamed] {
                fs::rename(with(&site.data.file("porter.db"), part), with(&aside, part)).unwrap();
            }
            if renamed > 0 {
                assert!(matches!(backup(&site.data.data(), &site.place.file("c.db"), false), Err(Fault::RestorePending { .. })));
            }
            assert_eq!(stored(&site.open()), [1, 2], "{renamed} of its parts were set aside");
            assert_eq!(fs::read(with(&aside, "-wal")).unwrap(), b"an old log");
            assert!(aside.exists() && !site.data.file(READY).exists());
            PARTS.iter().for_each(|part| fs::remove_file(with(&aside, part)).unwrap());
        }
    }
}
