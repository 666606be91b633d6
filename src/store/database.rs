//! The database as the writing thread holds it: the connection, the reserve, the block of mids, and what is done when one
//! of them fails (Design §6). Not a thread itself: it does what it is told, one thing at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::hub::storage::{Batch, Change, Outcome, Restored, Trouble};
use crate::names::Mid;
use crate::store::cause::{Cause, cause};
use crate::store::connection::{CHECKPOINT_PAGES, Checkpoint, LOG_PAGES_MAX, checkpoint, cut_log, free_pages, open_writer, vacuum};
use crate::store::fault::{Chain, Fault};
use crate::store::folder::Folder;
use crate::store::mids::{self, Block};
use crate::store::reserve::Reserve;
use crate::store::{load, meta, migrate, restore, transaction};

/// The database's name in the data folder.
pub(super) const FILE: &str = "porter.db";
/// The reserve's name in the data folder.
const RESERVE_FILE: &str = "reserve";
/// Empty pages that the database file keeps for what comes next, about 8 MB: giving them back and taking them again costs
/// two writes each.
const FREE_PAGES_KEPT: u64 = 2_000;
/// Empty pages given back in one step while nothing else is to do: a step is short, since a batch may come meanwhile.
const VACUUM_STEP_PAGES: u32 = 256;

/// A reader's connection. Its lock is held while it reads; the database takes it away when the disk fails.
pub(super) type ReaderSlot = Arc<Mutex<Option<Connection>>>;

/// Locks a reader's connection.
pub(super) fn lock(slot: &Mutex<Option<Connection>>) -> MutexGuard<'_, Option<Connection>> {
    // A reader that panicked leaves a connection without a transaction of its own: it is as good as before.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The open database.
pub(super) struct Database {
    folder: Folder,
    path: PathBuf,
    /// Nothing after a failure of the disk, until it could be opened anew.
    connection: Option<Connection>,
    reserve: Reserve,
    block: Block,
    first_mid: Mid,
    readers: Vec<ReaderSlot>,
    /// The messages of a batch that failed with the disk: the log may hold them all the same.
    doubtful: Vec<Mid>,
    /// Pages of the log at which the next cut is tried.
    cut_at: u64,
}

impl Database {
    /// Opens the database in `folder`; creates, migrates and checks it as needed.
    pub(super) fn open(folder: Folder, accept_data_loss: bool, reserve_bytes: u64) -> Result<Database, Fault> {
        let path = folder.file(FILE);
        if let Some(aside) = restore::finish(&folder)? {
            log::warn!("store event=restore_finished file={} set_aside={}", path.display(), aside.display());
        }
        let mut reserve = Reserve::new(folder.file(RESERVE_FILE), reserve_bytes);
        let must_have_data = mids::is_present(&folder) && !accept_data_loss;
        if must_have_data && !path.exists() {
            return Err(Fault::DataLost { database: path });
        }
        folder.create(FILE).map_err(Fault::file(&path, "create"))?;
        let connection = match open_current(&path, must_have_data) {
            Err(fault) if fault.trouble() == Trouble::Full => {
                log::warn!("store event=disk_full file={} action=open", path.display());
                reserve.release();
                open_current(&path, must_have_data)?
            }
            other => other?,
        };
        let known = meta::read(&connection).map_err(Fault::database(&path, "read"))?.mid_block;
        let mut block = Block::next(&folder, known)?;
        if let Err(error) = block.claim(&folder) {
            log::error!("store event=mids_not_written file={} error=\"{error}\"", folder.file("mids").display());
        }
        let first_mid = block.mids().start;
        let mut database = Database {
            folder,
            path,
            connection: Some(connection),
            reserve,
            block,
            first_mid,
            readers: Vec::new(),
            doubtful: Vec::new(),
            cut_at: LOG_PAGES_MAX,
        };
        database.take_reserve();
        database.save_block()?;
        Ok(database)
    }

    /// Whether it was older than the last run when it was opened.
    pub(super) fn has_lost_data(&self) -> bool {
        self.block.has_lost_data()
    }

    /// Where the database is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The mids that this run may give out so far.
    pub(super) fn mids(&self) -> Range<Mid> {
        self.first_mid..self.block.mids().end
    }

    /// Whether more than deletions can be written.
    pub(super) fn is_storing(&self) -> bool {
        self.reserve.is_held() && self.block.is_claimed()
    }

    /// Makes the connection of one more reader known, so that it is closed when the disk fails.
    pub(super) fn add_reader(&mut self) -> ReaderSlot {
        let slot = ReaderSlot::default();
        self.readers.push(slot.clone());
        slot
    }

    /// Streams what the database knows.
    pub(super) fn load(&self, take: &mut dyn FnMut(Restored)) -> Result<(), Fault> {
        let Some(connection) = &self.connection else { return Ok(()) };
        load::load(connection, self.first_mid, take).map_err(Fault::database(&self.path, "load"))
    }

    /// Writes a batch.
    pub(super) fn commit(&mut self, batch: &Batch) -> Outcome {
        if let Err(trouble) = self.reopen() {
            return Outcome::Failed(trouble);
        }
        if self.is_storing() {
            let outcome = self.outcome(|connection, block| transaction::write(connection, batch, block));
            if outcome == Outcome::Failed(Trouble::Disk) {
                self.doubt(batch);
            }
            return outcome;
        }
        if !batch.changes.iter().all(Change::is_deletion) {
            return Outcome::Failed(Trouble::Full);
        }
        let outcome = self.outcome(|connection, block| transaction::write_deletions(connection, batch, block).map(|()| Vec::new()));
        match outcome {
            Outcome::Committed { refused, .. } => Outcome::Committed { refused, storing: self.resume() },
            failed @ Outcome::Failed(_) => failed,
        }
    }

    /// Takes the next block of mids: all below the returned one may be given out.
    pub(super) fn take_block(&mut self) -> Result<Mid, Trouble> {
        if let Err(error) = self.block.advance(&self.folder) {
            log::error!("store event=mids_not_written error=\"{error}\"");
            return Err(if error.kind() == std::io::ErrorKind::StorageFull { Trouble::Full } else { Trouble::Disk });
        }
        log::info!("store event=block_taken block={}", self.block.number());
        if let Err(fault) = self.save_block() {
            log::warn!("store event=block_not_copied error=\"{}\"", Chain(&fault));
        }
        Ok(self.block.mids().end)
    }

    /// What need not be done before a commit is confirmed: keeps the log short.
    pub(super) fn after_commit(&mut self) {
        self.tend(|connection, cut_at| {
            let log = checkpoint(connection, Checkpoint::Look)?;
            if log.pages >= *cut_at {
                let cut = cut_log(connection)?;
                if cut.busy {
                    log::warn!("store event=log_long pages={} reason=\"a reader, such as a backup, is in the way\"", cut.pages);
                }
                // Even a short wait for a long reader is too much at each commit.
                *cut_at = if cut.busy { cut.pages + CHECKPOINT_PAGES } else { LOG_PAGES_MAX };
                return Ok(());
            }
            // The reader is gone and the log has begun anew: the usual bound is in force again.
            if log.pages < LOG_PAGES_MAX && *cut_at != LOG_PAGES_MAX {
                log::info!("store event=log_short pages={}", log.pages);
                *cut_at = LOG_PAGES_MAX;
            }
            if log.pending >= CHECKPOINT_PAGES {
                checkpoint(connection, Checkpoint::Passive)?;
            }
            Ok(())
        });
    }

    /// One step of what can be done while nothing else is: returns whether more is left.
    pub(super) fn idle(&mut self) -> bool {
        let mut more = false;
        self.tend(|connection, _| {
            if checkpoint(connection, Checkpoint::Look)?.pending > 0 {
                checkpoint(connection, Checkpoint::Passive)?;
            }
            let free = free_pages(connection)?;
            if free > FREE_PAGES_KEPT {
                vacuum(connection, VACUUM_STEP_PAGES)?;
                more = free - FREE_PAGES_KEPT > u64::from(VACUUM_STEP_PAGES);
                return Ok(());
            }
            connection.execute_batch("PRAGMA shrink_memory")
        });
        more
    }

    /// Moves the whole log into the database and closes it. The readers must be gone.
    pub(super) fn close(mut self) {
        self.tend(|connection, _| checkpoint(connection, Checkpoint::Truncate).map(drop));
        self.close_connections();
    }

    fn outcome(&mut self, write: impl FnOnce(&Connection, u64) -> rusqlite::Result<Vec<usize>>) -> Outcome {
        let Some(connection) = &self.connection else { return Outcome::Failed(Trouble::Disk) };
        // Until the file names the block, the database must not either.
        let block = if self.block.is_claimed() { self.block.number() } else { 0 };
        match write(connection, block) {
            Ok(refused) => Outcome::Committed { refused, storing: self.is_storing() },
            Err(error) => Outcome::Failed(self.fail("write", &error)),
        }
    }

    /// Remembers what must be deleted when the database is opened anew, so that a failed batch is rolled back whole even if
    /// all of it had reached the log before the sync failed.
    fn doubt(&mut self, batch: &Batch) {
        self.doubtful.extend(batch.changes.iter().filter_map(|change| match change {
            Change::SaveMessage { message, .. } => Some(message.mid),
            _ => None,
        }));
    }

    /// Does something that nobody waits for, if there is a connection.
    fn tend(&mut self, work: impl FnOnce(&Connection, &mut u64) -> rusqlite::Result<()>) {
        let Some(connection) = &self.connection else { return };
        if let Err(error) = work(connection, &mut self.cut_at) {
            self.fail("tend", &error);
        }
    }

    /// What follows from an error. Nothing of the statement's transaction is left.
    fn fail(&mut self, action: &str, error: &rusqlite::Error) -> Trouble {
        let is_rolled_back = self.connection.as_ref().is_some_and(Connection::is_autocommit);
        if cause(error) == Cause::Full && is_rolled_back {
            log::error!("store event=disk_full file={} action={action} error=\"{error}\"", self.path.display());
            self.reserve.release();
            return Trouble::Full;
        }
        log::error!("store event=disk_failed file={} action={action} error=\"{error}\"", self.path.display());
        self.close_connections();
        Trouble::Disk
    }

    fn close_connections(&mut self) {
        for slot in &self.readers {
            *lock(slot) = None;
        }
        self.connection = None;
    }

    /// Opens the database anew if it was closed by a failure. Nothing counts before the whole log is in the database and
    /// synced: no new frame may stand behind one of unknown fate.
    fn reopen(&mut self) -> Result<(), Trouble> {
        if self.connection.is_some() {
            return Ok(());
        }
        // Held until the end: a reader that opens meanwhile would keep the old log's index alive.
        let mut readers: Vec<_> = self.readers.iter().map(|slot| lock(slot)).collect();
        for reader in &mut readers {
            **reader = None;
        }
        match open_emptied(&self.path, &self.doubtful) {
            Ok(connection) => {
                self.doubtful.clear();
                log::info!("store event=reopened file={}", self.path.display());
                self.connection = Some(connection);
                Ok(())
            }
            Err(fault) => {
                log::error!("store event=not_reopened error=\"{}\"", Chain(&fault));
                if fault.trouble() == Trouble::Full {
                    self.reserve.release();
                }
                Err(fault.trouble())
            }
        }
    }

    /// Tries to get back what storing needs; returns whether it is all there.
    fn resume(&mut self) -> bool {
        if let Err(error) = self.block.claim(&self.folder) {
            log::warn!("store event=mids_not_written error=\"{error}\"");
        }
        if !self.reserve.is_held() && self.reserve.hold().is_ok() {
            log::info!("store event=reserve_taken");
        }
        self.is_storing()
    }

    fn take_reserve(&mut self) {
        if let Err(error) = self.reserve.hold() {
            log::error!("store event=no_reserve error=\"{error}\" effect=\"nothing is stored until there is space\"");
        }
    }

    /// Writes the database's own copy of the block. On a full disk the next commit does it.
    fn save_block(&mut self) -> Result<(), Fault> {
        let Some(connection) = self.connection.as_ref().filter(|_| self.block.is_claimed()) else { return Ok(()) };
        match meta::save_block(connection, self.block.number()) {
            Err(error) if cause(&error) == Cause::Full => {
                self.fail("write", &error);
                Ok(())
            }
            other => other.map_err(Fault::database(&self.path, "write")),
        }
    }
}

/// Opens the file and brings it to the version that this program knows.
pub(super) fn open_current(path: &Path, must_have_data: bool) -> Result<Connection, Fault> {
    let connection = open_writer(path)?;
    let version = migrate::version(&connection, path)?;
    if version == 0 && must_have_data {
        return Err(Fault::DataLost { database: path.to_owned() });
    }
    migrate::migrate(&connection, path, version)?;
    Ok(connection)
}

/// Opens the file, moves the whole log into it and deletes the messages of a failed batch.
fn open_emptied(path: &Path, doubtful: &[Mid]) -> Result<Connection, Fault> {
    let connection = open_writer(path)?;
    let log = checkpoint(&connection, Checkpoint::Truncate).map_err(Fault::database(path, "write back the log of"))?;
    if log.busy {
        return Err(Fault::Held { database: path.to_owned() });
    }
    transaction::undo(&connection, doubtful).map_err(Fault::database(path, "write"))?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;
    use crate::store::samples::{RESERVE, Scratch, alias, batch, committed, key, message, mode, owed, save};

    const FULL: Outcome = Outcome::Failed(Trouble::Full);
    const BROKEN: Outcome = Outcome::Failed(Trouble::Disk);

    fn saves(mids: Range<u64>) -> Vec<Change> {
        let mut changes = vec![Change::SaveAlias(alias(1, "a"))];
        changes.extend(mids.map(|mid| save(message(mid, &"x".repeat(1_000)), &[(1, None)])));
        changes
    }

    fn deletes(mids: Range<u64>) -> Vec<Change> {
        mids.map(|mid| Change::DeleteMessage(Mid::new(mid))).collect()
    }

    fn limit_pages(database: &Database, pages: u32) {
        let connection = database.connection.as_ref().unwrap();
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), (), |_| Ok(())).unwrap();
    }

    #[test]
    fn files_belong_to_their_owner_alone() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..3))), committed());
        for name in ["porter.db", "porter.db-wal", "porter.db-shm", "mids", "reserve", "lock"] {
            assert_eq!(mode(&scratch.file(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn mids_are_never_given_twice() {
        let scratch = Scratch::new();
        let mut highest = Mid::ZERO;
        for start in 0..6 {
            let mut database = scratch.open().unwrap();
            let mids = database.mids();
            assert!(highest <= mids.start && mids.start < mids.end, "start {start}");
            highest = database.take_block().unwrap();
            assert!(highest > mids.end);
            database.close();
            match start {
                1 => std::fs::write(scratch.file("mids"), "1\n").unwrap(),
                2 => std::fs::remove_file(scratch.file("mids")).unwrap(),
                3 => scratch.edit("UPDATE meta SET mid_block = 0"),
                _ => {}
            }
        }
    }

    #[test]
    fn nothing_is_stored_before_the_file_mids_says_so() {
        let scratch = Scratch::new();
        scratch.open().unwrap().close();
        std::fs::create_dir(scratch.file("mids.new")).unwrap();
        let mut database = scratch.open().unwrap();
        assert!(!database.is_storing());
        let first = database.mids().start;
        assert_eq!(first.number() >> 40, 2);
        assert_eq!(database.commit(&batch(1, saves(1..2))), FULL);
        assert_eq!(database.commit(&batch(2, vec![])), Outcome::Committed { refused: vec![], storing: false });
        assert_eq!(meta::read(&scratch.shell()).unwrap().mid_block, 1);
        std::fs::remove_dir(scratch.file("mids.new")).unwrap();
        assert_eq!(database.commit(&batch(3, vec![])), committed());
        assert_eq!(database.commit(&batch(4, saves(1..2))), committed());
        assert_eq!(database.mids().start, first);
        assert_eq!(meta::read(&scratch.shell()).unwrap().mid_block, 2);
    }

    #[test]
    fn a_folder_that_lost_its_data_is_refused_unless_told() {
        let scratch = Scratch::new();
        scratch.open().unwrap().close();
        let refused = |scratch: &Scratch| matches!(scratch.open(), Err(Fault::DataLost { .. }));
        std::fs::remove_file(scratch.file("porter.db")).unwrap();
        assert!(refused(&scratch));
        assert!(!scratch.file("porter.db").exists(), "the second try must be refused as well");
        std::fs::write(scratch.file("porter.db"), "").unwrap();
        assert!(refused(&scratch));
        let database = Database::open(scratch.folder(), true, RESERVE).unwrap();
        assert_eq!(database.mids().start, Mid::new(2 << 40));
        drop(database);
        assert!(scratch.open().is_ok());
    }

    #[test]
    fn a_folder_with_other_files_is_fresh() {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.data()).unwrap();
        std::fs::write(scratch.file("master.key"), "x").unwrap();
        assert!(scratch.open().is_ok());
    }

    #[test]
    fn a_damaged_database_is_refused_with_advice() {
        let scratch = Scratch::new();
        scratch.open().unwrap().close();
        std::fs::write(scratch.file("porter.db"), "this is no database".repeat(1_000)).unwrap();
        let fault = scratch.open().err().unwrap();
        assert!(fault.to_string().ends_with("or move it away with its -wal and -shm and start with --accept-data-loss"), "{fault}");
    }

    #[test]
    fn a_full_disk_takes_deletions_until_the_reserve_is_back() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..100))), committed());
        limit_pages(&database, 60);
        assert_eq!(database.commit(&batch(2, saves(100..300))), FULL);
        assert!(!scratch.file("reserve").exists());
        // The reserve can't be had as long as its name is taken.
        std::fs::create_dir(scratch.file("reserve")).unwrap();
        assert_eq!(database.commit(&batch(3, saves(100..101))), FULL);
        let not_storing = Outcome::Committed { refused: vec![], storing: false };
        assert_eq!(database.commit(&batch(4, deletes(1..90))), not_storing);
        assert_eq!(owed(&database).len(), 10);
        assert_eq!(std::fs::metadata(scratch.file("porter.db-wal")).unwrap().len(), 0, "the log is cut at once");
        std::fs::remove_dir(scratch.file("reserve")).unwrap();
        assert_eq!(database.commit(&batch(5, vec![])), committed());
        assert!(scratch.file("reserve").is_file());
        assert_eq!(database.commit(&batch(6, saves(300..310))), committed());
        assert_eq!(owed(&database).len(), 20);
    }

    #[test]
    fn deletions_on_a_full_disk_give_their_pages_back() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..400))), committed());
        database.after_commit();
        database.reserve.release();
        assert_eq!(database.commit(&batch(2, deletes(1..400))), committed());
        let bytes = std::fs::metadata(scratch.file("porter.db")).unwrap().len();
        assert!(bytes < 100 << 10, "{bytes}");
    }

    #[test]
    fn a_batch_that_failed_with_the_disk_is_gone_even_if_it_reached_the_log() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..3))), committed());
        let mut changes = saves(3..5);
        changes.push(Change::SaveKey(key(4, 1)));
        let failed = batch(2, changes);
        assert_eq!(database.commit(&failed), committed());
        // What an error of the sync behind the last frame looks like from here.
        database.doubt(&failed);
        database.close_connections();
        assert_eq!(database.commit(&batch(3, vec![])), committed());
        assert_eq!(owed(&database), [(1, vec![1]), (2, vec![1])]);
        let keys: u32 = scratch.shell().query_row("SELECT count(*) FROM opts_id", (), |row| row.get(0)).unwrap();
        assert_eq!(keys, 0);
    }

    #[test]
    fn nothing_is_confirmed_while_a_reader_holds_the_old_log() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..3))), committed());
        let shell = scratch.shell();
        shell.execute_batch("BEGIN; SELECT * FROM message;").unwrap();
        assert_eq!(database.commit(&batch(2, saves(3..4))), committed());
        database.close_connections();
        assert_eq!(database.commit(&batch(3, vec![])), BROKEN);
        shell.execute_batch("ROLLBACK").unwrap();
        assert_eq!(database.commit(&batch(4, vec![])), committed());
        assert_eq!(owed(&database).len(), 3);
    }

    #[test]
    fn readers_lose_their_connections_with_the_writer() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let slot = database.add_reader();
        *lock(&slot) = Some(scratch.shell());
        database.close_connections();
        assert!(lock(&slot).is_none());
    }

    #[test]
    fn the_log_stays_short_and_the_file_shrinks_when_idle() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let rows = 3_000;
        for round in 0..20 {
            let first = round * rows + 1;
            assert_eq!(database.commit(&batch(1, saves(first..first + rows))), committed());
            database.after_commit();
            let log = std::fs::metadata(scratch.file("porter.db-wal")).unwrap().len();
            assert!(log < 64 << 20, "round {round}: {log}");
        }
        assert_eq!(database.commit(&batch(2, deletes(1..20 * rows + 1))), committed());
        let before = std::fs::metadata(scratch.file("porter.db")).unwrap().len();
        let mut steps = 0;
        while database.idle() {
            steps += 1;
        }
        assert!(steps > 10);
        database.close();
        let after = std::fs::metadata(scratch.file("porter.db")).unwrap().len();
        assert!(before > 60 << 20 && after < 10 << 20, "{before} {after}");
    }

    #[test]
    fn a_long_reader_delays_the_cut_of_the_log_and_nothing_else() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..2))), committed());
        let shell = scratch.shell();
        shell.execute_batch("BEGIN; SELECT * FROM message;").unwrap();
        let body = "x".repeat(2_000);
        let mut mid = 1;
        while database.cut_at == LOG_PAGES_MAX {
            mid += 4_000;
            let changes = (mid..mid + 4_000).map(|mid| save(message(mid, &body), &[(1, None)])).collect();
            assert_eq!(database.commit(&batch(1, changes)), committed());
            database.after_commit();
            assert!(mid < 100_000, "the log is never cut");
        }
        let log = || std::fs::metadata(scratch.file("porter.db-wal")).unwrap().len();
        assert!(log() > LOG_PAGES_MAX * 4_096);
        shell.execute_batch("ROLLBACK").unwrap();
        // The next commit finds all of it moved and begins the log anew: from there on the usual bound holds.
        database.idle();
        assert_eq!(database.commit(&batch(2, saves(1..2))), committed());
        database.after_commit();
        assert_eq!(database.cut_at, LOG_PAGES_MAX);
        database.cut_at = 1;
        database.after_commit();
        assert_eq!((log(), database.cut_at), (0, LOG_PAGES_MAX));
    }

    /// Runs in a process of its own, since a limit on the size of files holds for all threads. The shell makes the signal
    /// that comes with it ignored, so that writes fail as on a broken disk.
    #[test]
    fn a_failing_disk_is_survived() {
        const CHILD: &str = "PORTER_TEST_FAILING_DISK";
        if std::env::var_os(CHILD).is_some() {
            return write_to_a_failing_disk();
        }
        let test = "store::database::tests::a_failing_disk_is_survived";
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\""]).arg(std::env::current_exe().unwrap()).arg(test);
        let output = shell.env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    fn write_to_a_failing_disk() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..10))), committed());
        let log = std::fs::metadata(scratch.file("porter.db-wal")).unwrap().len();
        let no_limit = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(log + 20_000), maximum: no_limit.maximum }).unwrap();
        assert_eq!(database.commit(&batch(2, saves(10..400))), BROKEN);
        assert!(database.connection.is_none());
        let (there, away) = (scratch.file("porter.db"), scratch.file("away.db"));
        std::fs::rename(&there, &away).unwrap();
        assert_eq!(database.commit(&batch(3, vec![])), BROKEN);
        std::fs::rename(&away, &there).unwrap();
        setrlimit(Resource::Fsize, no_limit).unwrap();
        assert_eq!(database.commit(&batch(4, saves(400..401))), committed());
        let mids: Vec<u64> = owed(&database).iter().map(|(mid, _)| *mid).collect();
        assert_eq!(mids, [1, 2, 3, 4, 5, 6, 7, 8, 9, 400]);
    }
}
