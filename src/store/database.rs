//! The database as the writing thread holds it: the connection, the reserve, the block of mids, and what is done when one
//! of them fails (Design §6). Not a thread itself: it does what it is told, one thing at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::hub::storage::{Batch, Change, Outcome, Restored, Trouble};
use crate::names::Mid;
use crate::store::connection::{CHECKPOINT_PAGES, Cause, Checkpoint, LOG_PAGES_MAX, cause, checkpoint, free_pages, open_writer, vacuum};
use crate::store::fault::{Chain, Fault};
use crate::store::folder::Folder;
use crate::store::mids::{self, Block};
use crate::store::reserve::Reserve;
use crate::store::{load, meta, migrate, transaction};

/// The database's name in the data folder.
const FILE: &str = "porter.db";
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
    /// Pages of the log at which the next cut is tried.
    cut_at: u64,
}

impl Database {
    /// Opens the database in `folder`; creates, migrates and checks it as needed.
    pub(super) fn open(folder: Folder, accept_data_loss: bool, reserve_bytes: u64) -> Result<Database, Fault> {
        let path = folder.file(FILE);
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
        let mut database =
            Database { folder, path, connection: Some(connection), reserve, block, first_mid, readers: Vec::new(), cut_at: LOG_PAGES_MAX };
        database.take_reserve();
        database.save_block()?;
        Ok(database)
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
            return self.outcome(|connection, block| transaction::write(connection, batch, block));
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
                let cut = checkpoint(connection, Checkpoint::Truncate)?;
                if cut.busy {
                    log::warn!("store event=log_long pages={} reason=\"a reader, such as a backup, is in the way\"", cut.pages);
                }
                // Waiting for a long reader at each commit would stop everything.
                *cut_at = if cut.busy { cut.pages + CHECKPOINT_PAGES } else { LOG_PAGES_MAX };
            } else if log.pending >= CHECKPOINT_PAGES {
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
        match open_emptied(&self.path) {
            Ok(connection) => {
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
fn open_current(path: &Path, must_have_data: bool) -> Result<Connection, Fault> {
    let connection = open_writer(path)?;
    let version = migrate::version(&connection, path)?;
    if version == 0 && must_have_data {
        return Err(Fault::DataLost { database: path.to_owned() });
    }
    migrate::migrate(&connection, path, version)?;
    Ok(connection)
}

/// Opens the file and moves the whole log into it.
fn open_emptied(path: &Path) -> Result<Connection, Fault> {
    let connection = open_writer(path)?;
    let log = checkpoint(&connection, Checkpoint::Truncate).map_err(Fault::database(path, "write back the log of"))?;
    if log.busy { Err(Fault::Held { database: path.to_owned() }) } else { Ok(connection) }
}
