//! The reading threads: pages of bodies for catch-up and pull, delivery reports, the door log. Each has a read-only
//! connection, opened at its first question, and again after an error or a failure of the disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

use crate::hub::storage::{PageRequest, ReportLine, Trouble};
use crate::names::Mid;
use crate::protocol::frame::Message;
use crate::store::cause::{Cause, cause};
use crate::store::connection::open_reader;
use crate::store::database::{ReaderSlot, lock};
use crate::store::door_log::{self, DoorLogPage, DoorLogQuery};
use crate::store::findings::Findings;
use crate::store::folder::Folder;
use crate::store::{Answer, Answers, aside, messages, reports};

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

    /// Waits for the next question; nothing when nobody can ask any more.
    fn next(&self) -> Option<Question> {
        // Whoever holds the lock waits for a question, the other reader for the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
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
    while let Some(question) = questions.next() {
        match question {
            Question::Page(PageRequest { ticket, mids }) => {
                let page = read(slot, place, |connection| messages::read(connection, &mids, findings));
                answers(Answer::Page { ticket, page: page.map(share) });
            }
            Question::Report(mid, reply) => {
                let report = read(slot, place, |connection| reports::read(connection, mid, findings));
                questions.lookups.fetch_sub(1, Ordering::Relaxed);
                reply(report);
            }
            Question::DoorLog(query, reply) => {
                let page = read(slot, place, |connection| door_log::read(connection, &query, findings));
                questions.lookups.fetch_sub(1, Ordering::Relaxed);
                reply(page);
            }
        }
    }
    *lock(slot) = None;
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
