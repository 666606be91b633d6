//! The two reading threads: one for pages of bodies, for catch-up and pull, and one for what REST looks up, delivery reports and the
//! door log, which may take long. Each has a read-only connection, opened at its first question, and again after an error or a failure
//! of the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;

use crate::hub::storage::{PageRequest, ReportLine, Trouble};
use crate::limits::PAGES_IN_FLIGHT_MAX;
use crate::names::Mid;
use crate::protocol::frame::Message;
use crate::store::cause::{Cause, cause};
use crate::store::connection::{CUT_WAIT, open_reader};
use crate::store::database::{ReaderSlot, lock};
use crate::store::door_log::{self, DoorLogPage, DoorLogQuery};
use crate::store::findings::Findings;
use crate::store::folder::Folder;
use crate::store::recent::Recent;
use crate::store::{Answer, Answers, aside, messages, reports};

/// For so long one snapshot of the database is read from: SQLite forgets what it holds of the file between two snapshots if somebody
/// has written meanwhile, and those who come back together are owed neighbours. The log can't begin anew in that time.
const SNAPSHOT_MAX: Duration = Duration::from_millis(20);

/// Ends a snapshot; and gives back what SQLite holds of the file.
const END: &str = "COMMIT";
const END_AND_REST: &str = "COMMIT; PRAGMA shrink_memory";

const _: () = assert!(SNAPSHOT_MAX.as_millis() < CUT_WAIT.as_millis(), "cutting the log waits for the snapshot's end");

/// Takes the answer to a question that REST asks.
pub(super) type Reply<T> = Box<dyn FnOnce(Result<T, Trouble>) + Send>;

/// What REST asks.
pub(super) enum Lookup {
    /// A delivery report.
    Report(Mid, Reply<Vec<ReportLine>>),
    /// A page of the door log.
    DoorLog(DoorLogQuery, Reply<DoorLogPage>),
}

/// Where a reading thread reads, and where it notes what it finds.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) slot: ReaderSlot,
    pub(super) findings: Findings,
    /// The monotonic clock, µs.
    pub(super) mono: fn() -> u64,
}

/// The body of the thread that answers REST, until nobody can ask any more.
pub(super) fn run_lookups(asked: &Receiver<Lookup>, place: &Place) {
    let findings = &place.findings;
    for lookup in asked {
        match lookup {
            Lookup::Report(mid, reply) => reply(place.read_once(|connection| reports::read(connection, mid, findings))),
            Lookup::DoorLog(query, reply) => reply(place.read_once(|connection| door_log::read(connection, &query, findings))),
        }
    }
    place.close();
}

/// The body of the thread that reads pages, until nobody can ask any more.
pub(super) fn run_pages(asked: &Receiver<PageRequest>, place: Place, answers: &Answers) {
    let mut reader = PageReader::new(place);
    let mut pages = Vec::with_capacity(PAGES_IN_FLIGHT_MAX);
    while let Some(first) = reader.next(asked) {
        pages.push(first);
        pages.extend(asked.try_iter().take(PAGES_IN_FLIGHT_MAX - 1));
        reader.read_pages(&mut pages, answers);
    }
    reader.place.close();
}

/// Reads pages, those that are asked for one after the other from one snapshot.
struct PageReader {
    place: Place,
    recent: Recent,
    /// When the snapshot must end, if there is one: monotonic, µs.
    snapshot_until: Option<u64>,
}

impl PageReader {
    fn new(place: Place) -> PageReader {
        PageReader { place, recent: Recent::default(), snapshot_until: None }
    }

    /// Waits for the next page, and ends the snapshot in time.
    fn next(&mut self, asked: &Receiver<PageRequest>) -> Option<PageRequest> {
        if let Some(until) = self.snapshot_until {
            let left = Duration::from_micros(until.saturating_sub((self.place.mono)()));
            match asked.recv_timeout(left) {
                Ok(page) => {
                    if left.is_zero() {
                        self.end_snapshot(END);
                    }
                    return Some(page);
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    self.end_snapshot(END_AND_REST);
                    self.recent.clear();
                }
            }
        }
        asked.recv().ok()
    }

    fn end_snapshot(&mut self, how: &str) {
        if self.snapshot_until.take().is_some() {
            self.place.end_snapshot(how);
        }
    }

    /// Reads all of `pages` at once and answers them: those who come back together are owed neighbours, or the same messages. If that
    /// fails each is read alone, so that only those fail which can't be read.
    fn read_pages(&mut self, pages: &mut Vec<PageRequest>, answers: &Answers) {
        // Who asked for which message, in the order of the messages.
        let mut asked: Vec<(Mid, usize)> =
            pages.iter().enumerate().flat_map(|(at, page)| page.mids.iter().map(move |mid| (*mid, at))).collect();
        // A stable sort finds that each page ascends.
        asked.sort();
        let mut mids: Vec<Mid> = asked.iter().map(|(mid, _)| *mid).collect();
        mids.dedup();
        match self.read_messages(&mids) {
            Ok(messages) => {
                let mut found: Vec<Vec<Arc<Message>>> = pages.iter().map(|page| Vec::with_capacity(page.mids.len())).collect();
                let mut asked = asked.into_iter().peekable();
                for message in &messages {
                    while let Some((mid, at)) = asked.next_if(|(mid, _)| *mid <= message.mid) {
                        if mid == message.mid {
                            found[at].push(Arc::clone(message));
                        }
                    }
                }
                for (PageRequest { ticket, .. }, page) in pages.drain(..).zip(found) {
                    answers(Answer::Page { ticket, page: Ok(page) });
                }
            }
            Err(trouble) => {
                let is_alone = pages.len() == 1;
                for PageRequest { ticket, mids } in pages.drain(..) {
                    let page = if is_alone { Err(trouble) } else { self.read_messages(&mids) };
                    answers(Answer::Page { ticket, page });
                }
            }
        }
    }

    /// Reads the messages of those numbers. Both ascend.
    fn read_messages(&mut self, mids: &[Mid]) -> Result<Vec<Arc<Message>>, Trouble> {
        let is_fresh = self.snapshot_until.is_none();
        let messages = self.read_snapshot(mids)?;
        if is_fresh || messages.len() == mids.len() {
            return Ok(messages);
        }
        // What was committed since the snapshot began is not in it.
        self.end_snapshot(END);
        self.read_snapshot(mids)
    }

    fn read_snapshot(&mut self, mids: &[Mid]) -> Result<Vec<Arc<Message>>, Trouble> {
        let until = self.snapshot_until.unwrap_or_else(|| (self.place.mono)() + SNAPSHOT_MAX.as_micros() as u64);
        let messages = self.place.read(|connection| messages::read(connection, mids, &mut self.recent, &self.place.findings));
        self.snapshot_until = messages.is_ok().then_some(until);
        messages
    }
}

impl Place {
    /// Runs `work` in the snapshot that there is, or in a new one, which stays: so its statements see one state and lock once.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Trouble> {
        let mut slot = lock(&self.slot);
        // Taken out for this time: whatever ends the work but its success ends the connection with its snapshot.
        let answer = slot.take().map_or_else(|| open_reader(&self.path), Ok).and_then(|connection| {
            if connection.is_autocommit() {
                connection.execute_batch("BEGIN")?;
            }
            let answer = work(&connection)?;
            *slot = Some(connection);
            Ok(answer)
        });
        answer.map_err(|error| {
            log::error!("store event=not_read file={} error=\"{error}\"", self.path.display());
            if cause(&error) == Cause::Damaged {
                self.mark(&error);
            }
            Trouble::Disk
        })
    }

    /// Runs `work` in a snapshot of its own.
    fn read_once<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Trouble> {
        let answer = self.read(work);
        self.end_snapshot(END_AND_REST);
        answer
    }

    /// What is read next sees what was committed meanwhile.
    fn end_snapshot(&self, how: &str) {
        let mut slot = lock(&self.slot);
        if let Some(connection) = &*slot
            && !connection.is_autocommit()
            && let Err(error) = connection.execute_batch(how)
        {
            log::error!("store event=not_read file={} error=\"{error}\"", self.path.display());
            *slot = None;
        }
    }

    fn close(&self) {
        *lock(&self.slot) = None;
    }

    /// Damage that is met here is looked for at the next start.
    fn mark(&self, error: &rusqlite::Error) {
        if let Some(folder) = self.path.parent() {
            aside::mark(&Folder::new(folder), &error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::hub::storage::Change;
    use crate::store::connection::{Log, cut_log};
    use crate::store::database::Database;
    use crate::store::samples::{Scratch, alias, batch, committed, message, save};

    fn place(database: &mut Database) -> Place {
        let mono = || NOW.get();
        Place { path: database.path().to_owned(), slot: database.add_reader(), findings: database.findings().clone(), mono }
    }

    thread_local! {
        /// Monotonic, µs.
        static NOW: Cell<u64> = const { Cell::new(7) };
    }

    #[test]
    fn pages_that_are_read_at_once_each_get_what_they_asked_for() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let mut changes = vec![Change::SaveAlias(alias(1, "a"))];
        changes.extend([10, 11, 12, 14, 20].map(|mid| save(message(mid, &mid.to_string()), &[(1, None)])));
        assert_eq!(database.commit(&batch(1, changes)), committed());

        let (send, answered) = sync_channel(10);
        let answers: Answers = Arc::new(move |answer| send.try_send(answer).unwrap());
        let mut reader = PageReader::new(place(&mut database));
        let asked = [vec![10, 12, 20], vec![11, 13, 14], vec![], vec![12, 15, 99]];
        let pages = || -> Vec<PageRequest> {
            let page = |(ticket, mids): (usize, &Vec<u64>)| PageRequest {
                ticket: ticket as u64,
                mids: mids.iter().map(|mid| Mid::new(*mid)).collect(),
            };
            asked.iter().enumerate().map(page).collect()
        };
        let answers_now = || -> Vec<(u64, Result<Vec<u64>, Trouble>)> {
            let of_page = |answer| match answer {
                Answer::Page { ticket, page } => (ticket, page.map(|page| page.iter().map(|message| message.mid.number()).collect())),
                other => panic!("{other:?}"),
            };
            answered.try_iter().map(of_page).collect()
        };
        reader.read_pages(&mut pages(), &answers);
        assert_eq!(answers_now(), [(0, Ok(vec![10, 12, 20])), (1, Ok(vec![11, 14])), (2, Ok(vec![])), (3, Ok(vec![12]))]);

        // A row that can't be read is missing in the pages that asked for it, and only there.
        reader.end_snapshot(END);
        reader.recent.clear();
        scratch.edit("UPDATE segment SET bodies = replace(bodies, '12', '13')");
        reader.read_pages(&mut pages(), &answers);
        assert_eq!(answers_now(), [(0, Ok(vec![10, 20])), (1, Ok(vec![11, 14])), (2, Ok(vec![])), (3, Ok(vec![]))]);

        reader.recent.clear();
        reader.place.close();
        reader.place.path = scratch.file("none.db");
        reader.read_pages(&mut pages(), &answers);
        assert_eq!(answers_now(), [0, 1, 2, 3].map(|ticket| (ticket, Err(Trouble::Disk))));
    }

    /// A reader whose snapshot began before `mid` 11 was committed, and the database.
    fn reader_behind(scratch: &Scratch) -> (PageReader, Database) {
        let mut database = scratch.open().unwrap();
        let changes = vec![Change::SaveAlias(alias(1, "a")), save(message(10, "1"), &[(1, None)])];
        assert_eq!(database.commit(&batch(1, changes)), committed());
        let mut reader = PageReader::new(place(&mut database));
        assert_eq!(numbers(&mut reader, &[10]), [10]);
        let changes = vec![save(message(11, "1"), &[(1, None)]), Change::DeleteMessage(Mid::new(10))];
        assert_eq!(database.commit(&batch(2, changes)), committed());
        (reader, database)
    }

    fn numbers(reader: &mut PageReader, mids: &[u64]) -> Vec<u64> {
        let mids: Vec<Mid> = mids.iter().copied().map(Mid::new).collect();
        reader.read_messages(&mids).unwrap().iter().map(|message| message.mid.number()).collect()
    }

    #[test]
    fn what_was_committed_after_the_snapshot_began_is_found() {
        let scratch = Scratch::new();
        let (mut reader, _database) = reader_behind(&scratch);
        assert_eq!(numbers(&mut reader, &[10]), [10], "the snapshot is held");
        assert_eq!(numbers(&mut reader, &[10, 11]), [10, 11], "what is kept of 10 does no harm: nobody is owed it");
        reader.recent.clear();
        assert!(numbers(&mut reader, &[10]).is_empty());
    }

    #[test]
    fn the_snapshot_ends_in_time_whether_pages_are_asked_for_or_not() {
        for asks in [false, true] {
            let scratch = Scratch::new();
            let (mut reader, _database) = reader_behind(&scratch);
            let cut = || cut_log(&scratch.shell()).unwrap();
            assert!(cut().busy, "the snapshot keeps the log");
            let (send, asked) = sync_channel(1);
            let page = PageRequest { ticket: 1, mids: vec![] };
            if asks {
                NOW.set(NOW.get() + SNAPSHOT_MAX.as_micros() as u64);
                send.send(page.clone()).unwrap();
                assert_eq!(reader.next(&asked), Some(page));
                assert_eq!(cut(), Log { busy: false, pages: 0, pending: 0 });
                continue;
            }
            std::thread::scope(|scope| {
                // Dropped here at the latest, so that the reader waits no longer if this fails.
                let _send = send;
                scope.spawn(move || assert_eq!(reader.next(&asked), None));
                while cut().busy {}
            });
        }
    }
}
