//! The reading threads: pages of bodies for catch-up and pull, delivery reports, the door log. Each has a read-only
//! connection, opened at its first question, and again after an error or a failure of the disk.

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

/// Pages that one reader reads at once: half of those that may be under way, the other half is the other reader's.
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
    let mut pages = Vec::new();
    loop {
        let asked = questions.next();
        if asked.is_empty() {
            break;
        }
        for question in asked {
            match question {
                Question::Page(page) => pages.push(page),
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

/// Reads all of `pages` at once and answers them: those who come back together are owed neighbours, or the same messages, and SQLite
/// forgets what it holds of the file whenever somebody has written between two transactions. If that fails each is read alone, so
/// that only those fail which can't be read.
fn read_pages(pages: &mut Vec<PageRequest>, slot: &ReaderSlot, place: &Place, answers: &Answers) {
    if pages.is_empty() {
        return;
    }
    let all = read_page(pages.iter().flat_map(|page| &page.mids).copied().collect(), slot, place);
    let is_alone = pages.len() == 1;
    for PageRequest { ticket, mids } in pages.drain(..) {
        let page = match &all {
            Ok(messages) => Ok(share(messages, &mids)),
            Err(trouble) if is_alone => Err(*trouble),
            Err(_) => read_page(mids, slot, place),
        };
        answers(Answer::Page { ticket, page });
    }
}

/// Reads the messages of those numbers. They ascend.
fn read_page(mut mids: Vec<Mid>, slot: &ReaderSlot, place: &Place) -> Result<Vec<Arc<Message>>, Trouble> {
    mids.sort_unstable();
    mids.dedup();
    read(slot, place, |connection| messages::read(connection, &mids, &place.findings))
}

/// Those of `messages`, which ascend, that have the numbers `mids`.
fn share(messages: &[Arc<Message>], mids: &[Mid]) -> Vec<Arc<Message>> {
    let find = |mid: &Mid| messages.binary_search_by_key(mid, |message| message.mid).ok();
    mids.iter().filter_map(find).map(|at| Arc::clone(&messages[at])).collect()
}

impl Place {
    /// Damage that is met here is looked for at the next start.
    fn mark(&self, error: &rusqlite::Error) {
        if let Some(folder) = self.path.parent() {
            aside::mark(&Folder::new(folder), &error.to_string());
        }
    }
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::hub::storage::Change;
    use crate::store::samples::{Scratch, alias, batch, committed, message, save};

    #[test]
    fn pages_that_are_read_at_once_each_get_what_they_asked_for() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let mut changes = vec![Change::SaveAlias(alias(1, "a"))];
        changes.extend([10, 11, 12, 14, 20].map(|mid| save(message(mid, "1"), &[(1, None)])));
        assert_eq!(database.commit(&batch(1, changes)), committed());

        let (send, answered) = sync_channel(10);
        let answers: Answers = Arc::new(move |answer| send.try_send(answer).unwrap());
        let place = Place { path: database.path().to_owned(), findings: database.findings().clone() };
        let slot = ReaderSlot::default();
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
        read_pages(&mut pages(), &slot, &place, &answers);
        assert_eq!(answers_now(), [(0, Ok(vec![10, 12, 20])), (1, Ok(vec![11, 14])), (2, Ok(vec![])), (3, Ok(vec![12]))]);

        // A row that can't be read is missing in the pages that asked for it, and only there.
        scratch.edit("UPDATE message SET body = '2' WHERE mid = 12");
        read_pages(&mut pages(), &slot, &place, &answers);
        assert_eq!(answers_now(), [(0, Ok(vec![10, 20])), (1, Ok(vec![11, 14])), (2, Ok(vec![])), (3, Ok(vec![]))]);

        *lock(&slot) = None;
        let gone = Place { path: scratch.file("none.db"), findings: place.findings };
        read_pages(&mut pages(), &slot, &gone, &answers);
        assert_eq!(answers_now(), [0, 1, 2, 3].map(|ticket| (ticket, Err(Trouble::Disk))));
    }
}
