//! The reading threads: pages of bodies for catch-up and pull, delivery reports, the door log. Each has a read-only
//! connection, opened at its first question, and again after an error or a failure of the disk.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

use crate::hub::storage::{PageRequest, ReportLine, Trouble};
use crate::limits::PAGES_IN_FLIGHT_MAX;
use crate::names::Mid;
use crate::protocol::frame::Message;
use crate::store::cause::{Cause, cause};
use crate::store::connection::open_reader;
use crate::store::database::{ReaderSlot, lock};
use crate::store::door_log::{self, DoorLogPage, DoorLogQuery};
use crate::store::findings::Findings;
use crate::store::folder::Folder;
use crate::store::{Answer, Answers, aside, messages, reports};

/// Pages that one reader reads in one transaction: half of those that may be under way, the other half is the other reader's.
const PAGES_AT_ONCE: usize = PAGES_IN_FLIGHT_MAX / 2;

/// Takes the answer to a question that REST asks.
pub(super) type Reply<T> = Box<dyn FnOnce(Result<T, Trouble>) + Send>;

/// What a reading thread can be asked.
pub(super) enum Question {
    /// A page of bodies; answered through [`Answers`].
    Page(PageRequest),
    /// A delivery report.
    Report(Mid, Reply<Vec<ReportLine>>),
    /// A page of the door log.
    DoorLog(DoorLogQuery, Reply<DoorLogPage>),
}

/// Where the reading threads take their questions from.
pub(super) struct Questions {
    queue: Mutex<Receiver<Question>>,
    /// Reports and pages of the door log that were asked for and not answered.
    lookups: Arc<AtomicUsize>,
}

impl Questions {
    /// `lookups` counts the questions for REST; each is taken off when it is answered.
    pub(super) fn new(queue: Receiver<Question>, lookups: Arc<AtomicUsize>) -> Questions {
        Questions { queue: Mutex::new(queue), lookups }
    }

    /// Waits for the next questions, none when nobody can ask any more: one, or the pages that wait behind a page. A question of
    /// another kind that ends those is the last.
    fn next(&self) -> Vec<Question> {
        // Whoever holds the lock waits for a question, the other reader for the lock.
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut questions: Vec<Question> = queue.recv().into_iter().collect();
        while questions.len() < PAGES_AT_ONCE && matches!(questions.last(), Some(Question::Page(_))) {
            let Ok(question) = queue.try_recv() else { break };
            questions.push(question);
        }
        questions
    }
}

/// Where a reading thread reads, and where it notes what it finds.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) findings: Findings,
}

/// The body of a reading thread: answers until nobody can ask any more.
pub(super) fn run(questions: &Questions, slot: &ReaderSlot, place: &Place, answers: &Answers) {
    let findings = &place.findings;
    let mut pages = VecDeque::new();
    loop {
        let asked = questions.next();
        if asked.is_empty() {
            break;
        }
        for question in asked {
            match question {
                Question::Page(page) => pages.push_back(page),
                Question::Report(mid, reply) => {
                    read_pages(&mut pages, slot, place, answers);
                    let report = read(slot, place, |connection| reports::read(connection, mid, findings));
                    questions.lookups.fetch_sub(1, Ordering::Relaxed);
                    reply(report);
                }
                Question::DoorLog(query, reply) => {
                    read_pages(&mut pages, slot, place, answers);
                    let page = read(slot, place, |connection| door_log::read(connection, &query, findings));
                    questions.lookups.fetch_sub(1, Ordering::Relaxed);
                    reply(page);
                }
            }
        }
        read_pages(&mut pages, slot, place, answers);
    }
    *lock(slot) = None;
}

/// Reads all of `pages` in one transaction and answers each as soon as it is read. SQLite forgets what it holds of the file whenever
/// somebody has written between two transactions, and those who come back together are owed neighbours.
fn read_pages(pages: &mut VecDeque<PageRequest>, slot: &ReaderSlot, place: &Place, answers: &Answers) {
    while !pages.is_empty() {
        let all = read(slot, place, |connection| {
            while let Some(PageRequest { ticket, mids }) = pages.front() {
                let page = messages::read(connection, mids, &place.findings)?;
                answers(Answer::Page { ticket: *ticket, page: Ok(share(page)) });
                pages.pop_front();
            }
            Ok(())
        });
        // The one that could not be read; those behind it are tried anew.
        if let (Err(trouble), Some(PageRequest { ticket, .. })) = (all, pages.pop_front()) {
            answers(Answer::Page { ticket, page: Err(trouble) });
        }
    }
}

impl Place {
    /// Damage that is met here is looked for at the next start.
    fn mark(&self, error: &rusqlite::Error) {
        if let Some(folder) = self.path.parent() {
            aside::mark(&Folder::new(folder), &error.to_string());
        }
    }
}

fn share(messages: Vec<Message>) -> Vec<Arc<Message>> {
    messages.into_iter().map(Arc::new).collect()
}

/// Runs `work` in one read transaction, so that its statements see one state and lock once.
fn read<T>(slot: &ReaderSlot, place: &Place, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Trouble> {
    let mut slot = lock(slot);
    let answer = connect(&mut slot, &place.path).and_then(|connection| {
        let transaction = connection.unchecked_transaction()?;
        let answer = work(&transaction)?;
        transaction.commit()?;
        Ok(answer)
    });
    answer.map_err(|error| {
        log::error!("store event=not_read file={} error=\"{error}\"", place.path.display());
        if cause(&error) == Cause::Damaged {
            place.mark(&error);
        }
        *slot = None;
        Trouble::Disk
    })
}

fn connect<'s>(slot: &'s mut Option<Connection>, path: &Path) -> rusqlite::Result<&'s Connection> {
    if slot.is_none() {
        *slot = Some(open_reader(path)?);
    }
    Ok(slot.as_ref().expect("it was filled two lines above"))
}
