//! The store: SQLite, and nothing that isn't. It keeps what the hub decides to keep, as [`crate::hub::storage`] puts it.
//!
//! One thread writes, a batch at a time, each batch one transaction that is synced before it is confirmed; one reads pages, and one what
//! REST asks. All that this module knows of messages it knows as rows: who is owed what, and until when, is the hub's affair.
//!
//! The data folder holds `porter.db` (with `-wal` and `-shm`), `mids`, `reserve`, `lock` and `damaged`, if damage was met. The order on disk is that of
//! arrival: neighbours share a row, with the receivers of each inside it; the order by alias lives in the hub's memory.

mod aliases;
mod aside;
pub mod backup;
mod cause;
mod check;
mod columns;
mod connection;
mod database;
pub mod door_log;
pub mod fault;
pub mod findings;
mod folder;
pub mod health;
mod keys;
mod load;
mod messages;
mod meta;
pub mod mids;
mod migrate;
mod opening;
mod reader;
mod recent;
mod reports;
mod reserve;
pub mod restore;
mod rows;
#[cfg(test)]
mod samples;
mod segment;
mod transaction;
pub mod verify;
mod wal;
mod writer;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::hub::storage::{Batch, Outcome, PageRequest, ReportLine, Restored, Trouble};
use crate::limits::{DOOR_LOG_MAX, PAGES_IN_FLIGHT_MAX, RESERVE_BYTES};
use crate::names::Mid;
use crate::protocol::frame::Message;
use crate::store::database::Database;
use crate::store::door_log::{DoorLogPage, DoorLogQuery};
use crate::store::fault::Fault;
use crate::store::findings::Findings;
use crate::store::reader::{Lookup, Place};
use crate::store::writer::Command;

/// Reports and pages of the door log that may wait; over it REST is told to come again.
const LOOKUPS_MAX: usize = 16;
/// One batch and one block at most are under way, so the writing thread's queue never holds more.
const COMMANDS_MAX: usize = 2;

/// Where the data is and how careful to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data folder; made if there is none.
    pub folder: PathBuf,
    /// Size of the file `reserve`, in bytes.
    pub reserve_bytes: u64,
    /// Entries that the door log may hold; over it the oldest are forgotten.
    pub door_log_max: u64,
    /// The wall clock, ms since 1970: for the names of what is set aside, and for mids where nothing else is left.
    pub wall: fn() -> u64,
    /// The monotonic clock, µs.
    pub mono: fn() -> u64,
}

impl Options {
    /// The usual options for a data folder.
    #[must_use]
    pub fn new(folder: PathBuf, wall: fn() -> u64, mono: fn() -> u64) -> Options {
        Options { folder, reserve_bytes: RESERVE_BYTES, door_log_max: DOOR_LOG_MAX, wall, mono }
    }
}

/// What the store tells the hub, from a thread of its own.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// What became of a batch.
    Batch {
        /// The batch's number.
        number: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// The bodies that a page asked for, in the order asked; those without a row are absent.
    Page {
        /// The page's ticket.
        ticket: u64,
        /// The bodies.
        page: Result<Vec<Arc<Message>>, Trouble>,
    },
    /// The next block of mids: all mids below this one may be given out.
    Block(Result<Mid, Trouble>),
    /// The disk was found full while tidying: the next batches may hold deletions only (see [`Outcome::Committed`]).
    Full,
}

/// Takes what a database knows that could not be opened at the start, in the order that [`Restored`] names, in pieces; `true` with
/// the last. If that fails midway it begins again. Called on the writing thread; the next piece comes when it has returned.
pub type Restore = Box<dyn FnMut(Vec<Restored>, bool) + Send>;

/// Takes the store's answers. It is called on the store's threads, and must neither wait nor panic.
pub type Answers = Arc<dyn Fn(Answer) + Send + Sync>;

/// Why a question was not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAsked {
    /// Too many are waiting. For a batch or a page of the hub: it broke its bounds.
    Busy,
    /// The store's thread is gone: it panicked, and the process must end.
    Stopped,
}

impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotAsked::Busy => "the store has too much to do",
            NotAsked::Stopped => "the store has stopped",
        })
    }
}

impl std::error::Error for NotAsked {}

/// The opened data folder, before its threads run. Load it, then start it.
pub struct Store {
    database: Database,
    mono: fn() -> u64,
}

impl Store {
    /// Locks the data folder, opens or creates the database, and takes a block of mids.
    ///
    /// # Errors
    /// If a person has to choose first: another server runs, or a newer Porter wrote the database. A damaged database is set aside, and
    /// a disk that is full or fails is no error: see [`Store::findings`] and [`Store::is_open`].
    pub fn open(options: &Options) -> Result<Store, Fault> {
        Ok(Store { database: Database::open(options)?, mono: options.mono })
    }

    /// What was found wrong, now and later.
    #[must_use]
    pub fn findings(&self) -> Findings {
        self.database.findings().clone()
    }

    /// Whether [`Store::load`] gives what is stored. Else the disk does not allow it now: it is tried each time that a batch comes,
    /// and what is stored then goes to the [`Restore`].
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.database.is_trusted()
    }

    /// The mids that may be given out. Ask for more ([`StoreHandle::take_block`]) when three quarters are used.
    #[must_use]
    pub fn mids(&self) -> Range<Mid> {
        self.database.mids()
    }

    /// Whether the first batch may hold more than deletions (see [`Outcome::Committed`]).
    #[must_use]
    pub fn is_storing(&self) -> bool {
        self.database.is_storing()
    }

    /// The database's file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.database.path().to_owned()
    }

    /// The file of its log, the WAL.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        let mut path = self.database.path().as_os_str().to_owned();
        path.push("-wal");
        path.into()
    }

    /// Gives all that is stored to `take`, in the order that [`Restored`] names. Single rows that can't be read are noted and left out.
    /// False: it could not be read to its end, so that all that was given must be thrown away; call again, at most twice.
    #[must_use]
    pub fn load(&mut self, take: &mut dyn FnMut(Restored)) -> bool {
        self.database.load(take)
    }

    /// Starts the threads. `answers` is called on them; `restore` is, if the database is not open yet.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn start(self, answers: Answers, restore: Restore) -> Result<StoreHandle, Fault> {
        let Store { mut database, mono } = self;
        if !database.is_trusted() {
            database.restore_to(restore);
        }
        let mut place = || {
            let (path, findings) = (database.path().to_owned(), database.findings().clone());
            Place { path, slot: database.add_reader(), findings, mono }
        };
        let (place_of_pages, place_of_lookups) = (place(), place());
        let (page, pages) = sync_channel(PAGES_IN_FLIGHT_MAX);
        let (lookup, lookups) = sync_channel(LOOKUPS_MAX);
        let to_hub = Arc::clone(&answers);
        let readers = [
            spawn("store-pages", move || reader::run_pages(&pages, place_of_pages, &to_hub))?,
            spawn("store-lookups", move || reader::run_lookups(&lookups, &place_of_lookups))?,
        ];
        let (command, commands) = sync_channel(COMMANDS_MAX);
        let writer = spawn("store-write", move || writer::run(database, &commands, &answers))?;
        Ok(StoreHandle { command, page, lookup, readers, writer })
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Fault> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|source| Fault::Thread { source })
}

/// The running store. No method waits but [`StoreHandle::close`].
pub struct StoreHandle {
    command: SyncSender<Command>,
    page: SyncSender<PageRequest>,
    lookup: SyncSender<Lookup>,
    readers: [JoinHandle<()>; 2],
    writer: JoinHandle<()>,
}

impl StoreHandle {
    /// Writes a batch; answered by [`Answer::Batch`]. At most one may be under way.
    ///
    /// # Errors
    /// See [`NotAsked`].
    pub fn commit(&self, batch: Arc<Batch>) -> Result<(), NotAsked> {
        sent(self.command.try_send(Command::Commit(batch)))
    }

    /// Takes the next block of mids; answered by [`Answer::Block`]. At most one may be under way.
    ///
    /// # Errors
    /// See [`NotAsked`].
    pub fn take_block(&self) -> Result<(), NotAsked> {
        sent(self.command.try_send(Command::TakeBlock))
    }

    /// Reads a page of bodies; answered by [`Answer::Page`]. At most [`PAGES_IN_FLIGHT_MAX`] may be under way.
    ///
    /// # Errors
    /// See [`NotAsked`].
    pub fn read(&self, page: PageRequest) -> Result<(), NotAsked> {
        sent(self.page.try_send(page))
    }

    /// Reads the delivery report of a message, by alias; empty if none is kept. `reply` is called on a thread of the store.
    ///
    /// # Errors
    /// See [`NotAsked`].
    pub fn report(&self, mid: Mid, reply: impl FnOnce(Result<Vec<ReportLine>, Trouble>) + Send + 'static) -> Result<(), NotAsked> {
        sent(self.lookup.try_send(Lookup::Report(mid, Box::new(reply))))
    }

    /// Reads a page of the door log, newest first. `reply` is called on a thread of the store.
    ///
    /// # Errors
    /// See [`NotAsked`].
    pub fn door_log(&self, query: DoorLogQuery, reply: impl FnOnce(Result<DoorLogPage, Trouble>) + Send + 'static) -> Result<(), NotAsked> {
        sent(self.lookup.try_send(Lookup::DoorLog(query, Box::new(reply))))
    }

    /// Finishes what is under way, moves the log into the database, closes the files and unlocks the folder.
    pub fn close(self) {
        drop((self.page, self.lookup));
        let readers = self.readers.into_iter().all(|reader| reader.join().is_ok());
        drop(self.command);
        if self.writer.join().is_err() || !readers {
            log::error!("store event=thread_panicked");
        }
    }
}

fn sent<T>(result: Result<(), TrySendError<T>>) -> Result<(), NotAsked> {
    result.map_err(|error| match error {
        TrySendError::Full(_) => NotAsked::Busy,
        TrySendError::Disconnected(_) => NotAsked::Stopped,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;
    use std::time::Duration;

    use super::*;
    use crate::hub::storage::{Change, DeliveryState, DoorEntry};
    use crate::names::Alias;
    use crate::store::samples::{Scratch, alias, batch, committed, message, save};

    /// Longer than anything here can take: a test that waits so long has failed.
    const DEADLINE: Duration = Duration::from_secs(60);

    fn start(scratch: &Scratch) -> (StoreHandle, Receiver<Answer>) {
        let (send, receive) = sync_channel(100);
        let answers: Answers = Arc::new(move |answer| send.try_send(answer).unwrap());
        let handle = Store::open(&scratch.options()).unwrap().start(answers, Box::new(|_, _| {})).unwrap();
        (handle, receive)
    }

    fn sent_batch(number: u64, changes: Vec<Change>) -> Arc<Batch> {
        Arc::new(batch(number, changes))
    }

    fn next(answers: &Receiver<Answer>) -> Answer {
        answers.recv_timeout(DEADLINE).unwrap()
    }

    #[test]
    fn a_batch_is_answered_and_its_bodies_can_be_read() {
        let scratch = Scratch::new();
        let (store, answers) = start(&scratch);
        let messages = [message(3, "{\"a\":\"门\"}"), message(5, "null")];
        let mut changes = vec![Change::SaveAlias(alias(1, "a"))];
        changes.extend(messages.iter().map(|message| save(message.clone(), &[(1, None)])));
        store.commit(sent_batch(7, changes)).unwrap();
        assert_eq!(next(&answers), Answer::Batch { number: 7, outcome: committed() });

        store.read(PageRequest { ticket: 1, mids: [3, 4, 5].map(Mid::new).to_vec() }).unwrap();
        let [three, five] = messages.map(Arc::new);
        assert_eq!(next(&answers), Answer::Page { ticket: 1, page: Ok(vec![three, five]) });

        store.commit(sent_batch(8, vec![Change::DeleteMessage(Mid::new(3))])).unwrap();
        assert_eq!(next(&answers), Answer::Batch { number: 8, outcome: committed() });
        // Until the reader's snapshot ends the row is still read.
        let is_gone = |ticket| {
            store.read(PageRequest { ticket, mids: vec![Mid::new(3)] }).unwrap();
            thread::sleep(Duration::from_millis(40));
            next(&answers) == Answer::Page { ticket, page: Ok(vec![]) }
        };
        assert!((2..1_000).any(is_gone));
        store.close();
    }

    #[test]
    fn reports_and_the_door_log_can_be_read() {
        let scratch = Scratch::new();
        let (store, answers) = start(&scratch);
        let states =
            [DeliveryState::Waiting, DeliveryState::Acknowledged, DeliveryState::Expired, DeliveryState::Dropped, DeliveryState::Recalled];
        let lines = states.map(|state| ReportLine { alias: Alias::new(state.as_str()).unwrap(), state, at: 9 });
        let mut changes: Vec<Change> = lines.iter().map(|line| Change::SaveReport { mid: Mid::new(4), line: line.clone() }).collect();
        changes.push(Change::SaveReport { mid: Mid::new(3), line: lines[0].clone() });
        let entry = DoorEntry {
            id: 1 << 40,
            at: 10,
            room: "gate".into(),
            user: "u".into(),
            alias: "m_2".into(),
            label: "".into(),
            address: "127.0.0.1".into(),
            doors: 1,
        };
        changes.push(Change::LogDoor(entry.clone()));
        changes.push(Change::SettleDoor { id: 1 << 40, ok: false, reason: Some("no_answer".into()) });
        store.commit(sent_batch(1, changes)).unwrap();
        assert_eq!(next(&answers), Answer::Batch { number: 1, outcome: committed() });

        let (send, report) = sync_channel(1);
        store.report(Mid::new(4), move |report| send.send(report).unwrap()).unwrap();
        let mut expected = lines.to_vec();
        expected.sort_by(|a, b| a.alias.cmp(&b.alias));
        assert_eq!(report.recv_timeout(DEADLINE).unwrap(), Ok(expected));

        let (send, page) = sync_channel(1);
        let query = DoorLogQuery { from: 0, to: 11, room: None, skip: 0, count: 10 };
        store.door_log(query, move |page| send.send(page).unwrap()).unwrap();
        let line = door_log::DoorLine { entry, ok: Some(false), reason: Some("no_answer".into()) };
        assert_eq!(page.recv_timeout(DEADLINE).unwrap(), Ok(DoorLogPage { total: 1, lines: vec![line] }));
        store.close();
    }

    #[test]
    fn lookups_do_not_hold_up_the_pages_of_the_hub() {
        let scratch = Scratch::new();
        let (store, answers) = start(&scratch);
        let (open, gate) = sync_channel::<()>(0);
        let (send, busy) = sync_channel(1);
        // One reply holds up all lookups until the gate opens; the others wait behind it.
        store
            .report(Mid::new(1), move |_| {
                send.send(()).unwrap();
                let _ = gate.recv();
            })
            .unwrap();
        busy.recv_timeout(DEADLINE).unwrap();
        let waiting = (0..).take_while(|_| store.report(Mid::new(1), |_| {}) != Err(NotAsked::Busy)).count();
        assert_eq!(waiting, LOOKUPS_MAX);
        for ticket in 0..PAGES_IN_FLIGHT_MAX as u64 {
            store.read(PageRequest { ticket, mids: vec![] }).unwrap();
        }
        for ticket in 0..PAGES_IN_FLIGHT_MAX as u64 {
            assert_eq!(next(&answers), Answer::Page { ticket, page: Ok(vec![]) });
        }
        drop(open);
        store.close();
    }

    #[test]
    fn a_reader_reports_trouble_and_recovers() {
        let scratch = Scratch::new();
        let (store, answers) = start(&scratch);
        let (there, away) = (scratch.file("porter.db"), scratch.file("away.db"));
        std::fs::rename(&there, &away).unwrap();
        store.read(PageRequest { ticket: 1, mids: vec![] }).unwrap();
        assert_eq!(next(&answers), Answer::Page { ticket: 1, page: Err(Trouble::Disk) });
        std::fs::rename(&away, &there).unwrap();
        store.read(PageRequest { ticket: 2, mids: vec![] }).unwrap();
        assert_eq!(next(&answers), Answer::Page { ticket: 2, page: Ok(vec![]) });
        store.close();
    }

    #[test]
    fn more_mids_are_contiguous_and_survive() {
        let scratch = Scratch::new();
        let store = Store::open(&scratch.options()).unwrap();
        let mids = store.mids();
        assert_eq!(mids, Mid::new(1 << 40)..Mid::new(2 << 40));
        assert!(store.is_storing());
        let (send, receive) = sync_channel(1);
        let store = store.start(Arc::new(move |answer| send.try_send(answer).unwrap()), Box::new(|_, _| {})).unwrap();
        store.take_block().unwrap();
        assert_eq!(next(&receive), Answer::Block(Ok(Mid::new(3 << 40))));
        store.close();
        assert_eq!(Store::open(&scratch.options()).unwrap().mids().start, Mid::new(3 << 40));
    }

    #[test]
    fn closing_finishes_the_batch_and_leaves_one_file_of_data() {
        let scratch = Scratch::new();
        let (store, answers) = start(&scratch);
        store.commit(sent_batch(1, vec![Change::SaveAlias(alias(1, "a"))])).unwrap();
        store.close();
        assert_eq!(next(&answers), Answer::Batch { number: 1, outcome: committed() });
        assert!(!scratch.file("porter.db-wal").exists());
        let mut restored = 0;
        assert!(Store::open(&scratch.options()).unwrap().load(&mut |_| restored += 1));
        assert_eq!(restored, 2);
    }
}
