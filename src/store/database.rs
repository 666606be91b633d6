//! The database as the writing thread holds it: the connection, the reserve, the block of mids, and what is done when one
//! of them fails (Design §6). Not a thread itself: it does what it is told, one thing at a time.

use std::ffi::c_int;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use crate::hub::storage::{Batch, Change, Outcome, Restored, Trouble};
use crate::names::Mid;
use crate::store::cause::{Cause, cause};
use crate::store::connection::{CHECKPOINT_PAGES, Checkpoint, LOG_PAGES_MAX, checkpoint, cut_log, free_pages, open_writer, vacuum};
use crate::store::fault::{Chain, Fault};
use crate::store::findings::{Findings, Kind};
use crate::store::folder::Folder;
use crate::store::mids::{Block, InDatabase};
use crate::store::opening::{self, Opened};
use crate::store::reserve::Reserve;
use crate::store::transaction::Kept;
use crate::store::{Options, Restore, aside, load, meta, transaction};

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
    // A reader that panicked has taken its connection with it.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What it means that the database is not open.
const NOT_OPEN: &str = "; doors and everything live go on, what must be stored is refused until the database can be opened";
/// Failures to open that are logged alike: the first, and then one in so many, a minute of probes.
const COMPLAIN_EVERY: u32 = 60;
/// What a late opening hands to the hub at once.
const RESTORED_AT_ONCE: usize = 512;

/// The database, open or to be opened as soon as the disk allows.
pub(super) struct Database {
    folder: Folder,
    path: PathBuf,
    wall: fn() -> u64,
    findings: Findings,
    /// Nothing after a failure of the disk, until it could be opened anew.
    connection: Option<Connection>,
    /// It was opened in this run and looked at, and the hub knows what is in it.
    trusted: bool,
    /// Takes what a late opening finds.
    restore: Option<Restore>,
    /// Failures to open since the last success.
    failures: u32,
    reserve: Reserve,
    block: Block,
    mids: Range<Mid>,
    readers: Vec<ReaderSlot>,
    /// The messages of a batch that failed with the disk: the log may hold them all the same.
    doubtful: Vec<Mid>,
    kept: Kept,
    /// Pages in the log after the last commit, as SQLite tells then: asking for them took 3 µs, with which the hub waited for its turn on
    /// the core.
    log_pages: Arc<AtomicU64>,
    /// Pages of the log at which the next cut is tried.
    cut_at: u64,
}

impl Database {
    /// Opens the database in the folder; creates, migrates and checks it as needed, and sets a damaged one aside. If the disk does not
    /// allow that now, it is tried again with each batch, and what is found then goes to [`Database::restore_to`].
    pub(super) fn open(options: &Options) -> Result<Database, Fault> {
        let mut folder = Folder::new(&options.folder);
        let findings = Findings::default();
        let mut reserve = Reserve::new(folder.file(RESERVE_FILE), options.reserve_bytes);
        let opened = open_with_reserve(&mut folder, (options.wall)(), &findings, &mut reserve);
        let (connection, in_database) = match opened {
            Ok(Opened { connection, block }) => (Some(connection), block),
            Err(fault) if fault.ends_start() => return Err(fault),
            Err(fault) => {
                findings.note(Kind::DatabaseNotOpen, not_open(&fault));
                (None, InDatabase::Unknown)
            }
        };
        let block = Block::next(&folder, in_database, (options.wall)(), &findings)?;
        let trusted = connection.is_some();
        let mut database = Database {
            path: folder.file(aside::DATABASE),
            folder,
            wall: options.wall,
            findings,
            connection: None,
            trusted,
            restore: None,
            failures: 0,
            reserve,
            mids: block.mids(),
            block,
            readers: Vec::new(),
            doubtful: Vec::new(),
            kept: Kept::new(options.door_log_max),
            log_pages: Arc::default(),
            cut_at: LOG_PAGES_MAX,
        };
        if let Some(connection) = connection {
            database.hold(connection);
        }
        if trusted {
            database.claim_block();
            database.mids = database.block.mids();
            database.take_reserve();
            database.save_block();
            database.give_up_if_closed();
        }
        Ok(database)
    }

    /// What was found wrong so far.
    pub(super) fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Whether what is stored is known; else it comes later.
    pub(super) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Who is told what a late opening finds.
    pub(super) fn restore_to(&mut self, restore: Restore) {
        self.restore = Some(restore);
    }

    /// Where the database is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The mids that this run may give out so far.
    pub(super) fn mids(&self) -> Range<Mid> {
        self.mids.start..self.mids.end.max(self.block.end())
    }

    /// Whether more than deletions can be written.
    pub(super) fn is_storing(&self) -> bool {
        self.trusted && self.reserve.is_held() && self.block.is_claimed()
    }

    /// Makes the connection of one more reader known, so that it is closed when the disk fails.
    pub(super) fn add_reader(&mut self) -> ReaderSlot {
        let slot = ReaderSlot::default();
        self.readers.push(slot.clone());
        slot
    }

    /// Streams what the database knows; nothing if it is not open. False: it could not be read to its end; what `take` was given must
    /// be thrown away, and the next call streams what is there now: a new database, or nothing.
    pub(super) fn load(&mut self, take: &mut dyn FnMut(Restored)) -> bool {
        let Err(error) = self.stream(take) else { return true };
        let mut fault = Fault::database(&self.path, "load")(error);
        self.close_connections();
        // Once: a disk that damages a new database as well is left alone.
        if fault.is_damage() && !self.findings.has(Kind::DatabaseSetAside) {
            match opening::start_anew(&self.folder, (self.wall)(), &fault, &self.findings) {
                Ok(Opened { connection, .. }) => {
                    self.hold(connection);
                    self.save_block();
                }
                Err(why) => fault = why,
            }
        }
        if self.connection.is_none() {
            log::error!("store event=not_loaded error=\"{}\"", Chain(&fault));
        }
        self.give_up_if_closed();
        false
    }

    /// Streams what stands in the open database.
    pub(super) fn stream(&self, take: &mut dyn FnMut(Restored)) -> rusqlite::Result<()> {
        let Some(connection) = &self.connection else { return Ok(()) };
        load::load(connection, self.mids.start, &self.findings, take)
    }

    /// At the start: without a connection it is not known what is stored. It is opened later.
    fn give_up_if_closed(&mut self) {
        if self.connection.is_none() && self.trusted {
            self.trusted = false;
            self.findings.note(Kind::DatabaseNotOpen, format!("{}: the disk fails{NOT_OPEN}", self.path.display()));
        }
    }

    /// Writes a batch.
    pub(super) fn commit(&mut self, batch: &Batch) -> Outcome {
        if let Err(trouble) = self.reopen() {
            return Outcome::Failed(trouble);
        }
        if self.is_storing() {
            let outcome = self.outcome(|connection, block, kept| transaction::write(connection, batch, block, kept));
            if outcome == Outcome::Failed(Trouble::Disk) {
                self.doubt(batch);
            }
            return outcome;
        }
        if !batch.changes.iter().all(Change::is_deletion) {
            return Outcome::Failed(Trouble::Full);
        }
        let outcome =
            self.outcome(|connection, block, kept| transaction::write_deletions(connection, batch, block, kept).map(|()| Vec::new()));
        match outcome {
            Outcome::Committed { refused, .. } => Outcome::Committed { refused, storing: self.resume() },
            failed @ Outcome::Failed(_) => failed,
        }
    }

    /// Takes the next block of mids: all below the returned one may be given out.
    pub(super) fn take_block(&mut self) -> Result<Mid, Trouble> {
        if !self.trusted {
            return Err(Trouble::Disk);
        }
        if let Err(error) = self.block.advance(&self.folder) {
            log::error!("store event=mids_not_written error=\"{error}\"");
            return Err(if error.kind() == std::io::ErrorKind::StorageFull { Trouble::Full } else { Trouble::Disk });
        }
        self.mids.end = self.block.end();
        log::info!("store event=block_taken block={}", self.block.number());
        self.save_block();
        Ok(self.block.end())
    }

    /// What need not be done before a commit is confirmed: keeps the log short.
    pub(super) fn after_commit(&mut self) {
        let is_short = self.log_pages.load(Ordering::Relaxed) < CHECKPOINT_PAGES;
        if is_short && self.cut_at == LOG_PAGES_MAX {
            return;
        }
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

    /// From now on this is the connection.
    fn hold(&mut self, mut connection: Connection) {
        // Not known yet; and it stays so if SQLite can't tell, so that the log is looked at after each commit.
        self.log_pages.store(u64::MAX, Ordering::Relaxed);
        let log_pages = Arc::clone(&self.log_pages);
        let _ = connection.wal_hook(Some(move |_: &mut Wal, pages: c_int| {
            log_pages.store(u64::from(pages.unsigned_abs()), Ordering::Relaxed);
            Ok(())
        }));
        self.connection = Some(connection);
    }

    fn outcome(&mut self, write: impl FnOnce(&Connection, u64, &mut Kept) -> rusqlite::Result<Vec<usize>>) -> Outcome {
        let Some(connection) = &self.connection else { return Outcome::Failed(Trouble::Disk) };
        // Until the file names the block, the database must not either.
        let block = if self.block.is_claimed() { self.block.number() } else { 0 };
        match write(connection, block, &mut self.kept) {
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
        self.kept.forget();
        let is_rolled_back = self.connection.as_ref().is_some_and(Connection::is_autocommit);
        if cause(error) == Cause::Full && is_rolled_back {
            log::error!("store event=disk_full file={} action={action} error=\"{error}\"", self.path.display());
            self.reserve.release();
            return Trouble::Full;
        }
        log::error!("store event=disk_failed file={} action={action} error=\"{error}\"", self.path.display());
        if cause(error) == Cause::Damaged {
            aside::mark(&self.folder, &error.to_string());
        }
        self.close_connections();
        Trouble::Disk
    }

    fn close_connections(&mut self) {
        for slot in &self.readers {
            *lock(slot) = None;
        }
        self.connection = None;
    }

    /// Opens the database anew if it was closed by a failure, or for the first time if the start could not. Nothing counts before the
    /// whole log is in the database and synced: no new frame may stand behind one of unknown fate.
    fn reopen(&mut self) -> Result<(), Trouble> {
        if self.connection.is_some() {
            return Ok(());
        }
        // Held until the end: a reader that opens meanwhile would keep the old log's index alive.
        let slots = self.readers.clone();
        let mut readers: Vec<_> = slots.iter().map(|slot| lock(slot)).collect();
        for reader in &mut readers {
            **reader = None;
        }
        let opened = if self.trusted { self.open_emptied() } else { self.open_late() };
        let Err(fault) = opened else {
            self.failures = 0;
            log::info!("store event=reopened file={}", self.path.display());
            return Ok(());
        };
        if self.failures.is_multiple_of(COMPLAIN_EVERY) {
            log::error!("store event=not_reopened error=\"{}\"", Chain(&fault));
        }
        self.failures += 1;
        if fault.trouble() == Trouble::Full {
            self.reserve.release();
        }
        if fault.is_damage() && self.trusted {
            aside::mark(&self.folder, &Chain(&fault).to_string());
        }
        Err(fault.trouble())
    }

    fn open_emptied(&mut self) -> Result<(), Fault> {
        self.hold(open_emptied(&self.path, &self.doubtful)?);
        self.doubtful.clear();
        Ok(())
    }

    /// What the start could not do. The hub has run without knowing what is stored; it is told now.
    fn open_late(&mut self) -> Result<(), Fault> {
        self.folder.enter()?;
        let Opened { connection, block } = opening::open(&self.folder, (self.wall)(), &self.findings)?;
        let on_disk = Block::next(&self.folder, block, (self.wall)(), &self.findings)?;
        if on_disk.number() > self.block.number() {
            return Err(Fault::LateMids { path: self.path.clone() });
        }
        if let Some(restore) = &mut self.restore {
            let mut gathered = Vec::with_capacity(RESTORED_AT_ONCE);
            let loaded = load::load(&connection, self.mids.start, &self.findings, &mut |one| {
                gathered.push(one);
                if gathered.len() == RESTORED_AT_ONCE {
                    restore(std::mem::take(&mut gathered), false);
                }
            });
            if let Err(error) = loaded {
                let fault = Fault::database(&self.path, "load")(error);
                if fault.is_damage() {
                    aside::mark(&self.folder, &Chain(&fault).to_string());
                }
                return Err(fault);
            }
            restore(gathered, true);
        }
        self.hold(connection);
        self.trusted = true;
        self.findings.clear(Kind::DatabaseNotOpen);
        self.resume();
        self.save_block();
        Ok(())
    }

    fn claim_block(&mut self) {
        if let Err(error) = self.block.claim(&self.folder) {
            log::error!("store event=mids_not_written file={} error=\"{error}\"", self.folder.file("mids").display());
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

    /// Writes the database's own copy of the block. If that fails, the next commit does it.
    fn save_block(&mut self) {
        let Some(connection) = self.connection.as_ref().filter(|_| self.block.is_claimed()) else { return };
        self.kept.counters.forget();
        if let Err(error) = meta::save_block(connection, self.block.number()) {
            self.fail("write", &error);
        }
    }
}

/// Opens the database for the first time; on a full disk, with the space of the reserve.
fn open_with_reserve(folder: &mut Folder, wall: u64, findings: &Findings, reserve: &mut Reserve) -> Result<Opened, Fault> {
    folder.enter()?;
    match opening::open(folder, wall, findings) {
        Err(fault) if fault.trouble() == Trouble::Full => {
            log::warn!("store event=disk_full file={} action=open", folder.file(aside::DATABASE).display());
            reserve.release();
            opening::open(folder, wall, findings)
        }
        other => other,
    }
}

fn not_open(fault: &Fault) -> String {
    format!("{}{NOT_OPEN}", Chain(fault))
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
    use crate::store::samples::{Scratch, alias, batch, committed, key, message, mode, owed, save};

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
                3 => scratch.edit("UPDATE meta SET mid_block = 0, crc = NULL"),
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

    fn found(database: &Database) -> Vec<&'static str> {
        database.findings().list().iter().map(|finding| finding.name()).collect()
    }

    #[test]
    fn a_folder_that_lost_its_data_starts_anew_and_says_so() {
        let scratch = Scratch::new();
        scratch.open().unwrap().close();
        for (start, is_empty) in [false, true].into_iter().enumerate() {
            std::fs::remove_file(scratch.file("porter.db")).unwrap();
            if is_empty {
                std::fs::write(scratch.file("porter.db"), "").unwrap();
            }
            let mut database = scratch.open().unwrap();
            assert_eq!(found(&database), ["data_lost"]);
            assert_eq!(database.mids().start, Mid::new((start as u64 + 2) << 40));
            assert_eq!(database.commit(&batch(1, saves(1..2))), committed());
            database.close();
            let database = scratch.open().unwrap();
            assert!(found(&database).is_empty() && owed(&database).len() == 1);
            database.close();
            std::fs::write(scratch.file("mids"), format!("{}\n", start + 2)).unwrap();
        }
    }

    #[test]
    fn a_folder_with_other_files_is_fresh() {
        let scratch = Scratch::new();
        std::fs::create_dir(scratch.data()).unwrap();
        std::fs::write(scratch.file("master.key"), "x").unwrap();
        assert!(scratch.open().is_ok());
    }

    #[test]
    fn a_damaged_database_is_set_aside_with_its_log_and_a_new_one_begun() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..100))), committed());
        database.close();
        std::fs::write(scratch.file("porter.db"), "this is no database".repeat(1_000)).unwrap();
        let mut database = scratch.open().unwrap();
        assert_eq!(found(&database), ["database_set_aside"]);
        let text = database.findings().list()[0].text.clone();
        assert!(text.contains("porter.db.corrupt-20261125T") && text.contains("porter restore") && text.contains(".recover"), "{text}");
        assert_eq!(database.mids().start, Mid::new(2 << 40), "mids goes on, whatever became of the database");
        assert!(owed(&database).is_empty());
        assert_eq!(database.commit(&batch(2, saves(100..101))), committed());
        database.close();
        let database = scratch.open().unwrap();
        assert!(found(&database).is_empty() && owed(&database).len() == 1);
    }

    #[test]
    fn with_the_file_mids_damaged_too_what_can_still_be_read_tells_the_block() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let changes = vec![Change::SaveAlias(alias(1, "a")), save(message(6_000_000 << 40, "1"), &[(1, None)])];
        assert_eq!(database.commit(&batch(1, changes)), committed());
        database.close();
        scratch.edit("UPDATE meta SET next_alias = next_alias + 1");
        std::fs::write(scratch.file("mids"), "2").unwrap();
        let database = scratch.open().unwrap();
        assert_eq!(found(&database), ["database_set_aside", "mids_damaged"]);
        assert!(database.mids().start.number() > 6_000_001 << 40);
    }

    #[test]
    fn damage_met_while_running_is_found_at_the_next_start() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let entry = |id| {
            Change::LogDoor(crate::hub::storage::DoorEntry {
                id,
                at: 100 - id,
                room: "gate".into(),
                user: "".into(),
                alias: "".into(),
                label: "".into(),
                address: "".into(),
                doors: 1,
            })
        };
        assert_eq!(database.commit(&batch(1, (1..50).map(entry).collect())), committed());
        database.close();
        // An index that is not in step with its table: SQLite's quick check does not look there.
        scratch.edit("PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, '(at)', '(id)') WHERE name = 'door_log_at'");
        let mut database = scratch.open().unwrap();
        assert!(found(&database).is_empty());
        database.fail("write", &crate::store::columns::damaged("as a statement would say"));
        drop(database);
        assert!(scratch.file("damaged").exists());
        let database = scratch.open().unwrap();
        assert_eq!((found(&database), scratch.file("damaged").exists()), (vec!["database_set_aside"], false));
    }

    #[test]
    fn the_door_log_is_bounded_across_runs_and_failures() {
        let scratch = Scratch::new();
        let entries = |ids: Range<u64>| {
            let entry = |id| crate::hub::storage::DoorEntry {
                id,
                at: id,
                room: "gate".into(),
                user: "".into(),
                alias: "".into(),
                label: "".into(),
                address: "".into(),
                doors: 1,
            };
            ids.map(|id| Change::LogDoor(entry(id))).collect::<Vec<_>>()
        };
        let left = || scratch.shell().query_row("SELECT count(*), min(id) FROM door_log", (), |row| Ok((row.get(0)?, row.get(1)?)));
        for run in 0..3 {
            let mut database = scratch.open().unwrap();
            assert_eq!(database.commit(&batch(1, entries(1 + run * 150..151 + run * 150))), committed());
            if run == 1 {
                assert_eq!(left(), Ok((200, 101)));
                limit_pages(&database, 1);
                let mut changes = entries(500..600);
                changes.extend(saves(1..500));
                assert_eq!(database.commit(&batch(2, changes)), FULL);
                assert_eq!(left(), Ok((200, 101)));
            }
            database.close();
        }
        assert_eq!(left(), Ok((200, 251)));
    }

    #[test]
    fn a_mark_on_a_database_that_is_whole_is_taken_away() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..10))), committed());
        database.fail("write", &crate::store::columns::damaged("a cable was loose"));
        drop(database);
        let database = scratch.open().unwrap();
        assert!(found(&database).is_empty() && owed(&database).len() == 9 && !scratch.file("damaged").exists());
    }

    /// What the start can't open is told later, and nothing is stored before.
    #[test]
    fn a_database_that_opens_late_is_told_then() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..2_000))), committed());
        database.close();
        std::fs::rename(scratch.file("porter.db"), scratch.file("away.db")).unwrap();
        std::fs::create_dir(scratch.file("porter.db")).unwrap();
        let mut database = scratch.open().unwrap();
        assert_eq!(found(&database), ["database_not_open"]);
        assert!(!database.is_trusted() && !database.is_storing());
        let first = database.mids().start;
        assert_eq!(first.number() >> 40, 2);
        let (send, told) = std::sync::mpsc::sync_channel(100);
        database.restore_to(Box::new(move |piece, last| send.send((piece, last)).unwrap()));
        assert_eq!(database.commit(&batch(2, saves(9_000..9_001))), BROKEN);
        assert!(database.take_block().is_err());
        std::fs::remove_dir(scratch.file("porter.db")).unwrap();
        std::fs::rename(scratch.file("away.db"), scratch.file("porter.db")).unwrap();
        assert_eq!(database.commit(&batch(3, vec![])), Outcome::Committed { refused: vec![], storing: true });
        assert_eq!(database.commit(&batch(4, saves(9_000..9_001))), committed());
        assert!(found(&database).is_empty());
        assert_eq!(database.mids().start, first);
        let pieces: Vec<(Vec<Restored>, bool)> = told.try_iter().collect();
        assert_eq!(pieces.iter().map(|(piece, _)| piece.len()).sum::<usize>(), 1 + 1 + 1_999);
        assert!(pieces.len() > 3 && pieces.iter().rev().skip(1).all(|(_, last)| !last) && pieces.last().unwrap().1);
        assert_eq!(meta::read(&scratch.shell()).unwrap().mid_block, 2);
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
        shell.execute_batch("BEGIN; SELECT * FROM segment;").unwrap();
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
    fn the_log_is_moved_before_it_is_long_on_each_connection() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let (body, mut mid) = ("x".repeat(3_000), 0);
        for _ in 0..2 {
            let (mut longest, mut moved) = (0, false);
            while !moved {
                mid += 300;
                let changes = (mid..mid + 300).map(|mid| save(message(mid, &body), &[(1, None)])).collect();
                assert_eq!(database.commit(&batch(1, changes)), committed());
                let log = checkpoint(database.connection.as_ref().unwrap(), Checkpoint::Look).unwrap();
                assert_eq!(database.log_pages.load(Ordering::Relaxed), log.pages);
                database.after_commit();
                moved = checkpoint(database.connection.as_ref().unwrap(), Checkpoint::Look).unwrap().pending == 0;
                longest = longest.max(log.pages);
                assert!(longest < 2 * CHECKPOINT_PAGES, "it is never moved");
            }
            assert!(longest >= CHECKPOINT_PAGES, "moved at {longest}");
            database.close_connections();
        }
    }

    #[test]
    fn a_long_reader_delays_the_cut_of_the_log_and_nothing_else() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        assert_eq!(database.commit(&batch(1, saves(1..2))), committed());
        let shell = scratch.shell();
        shell.execute_batch("BEGIN; SELECT * FROM segment;").unwrap();
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
