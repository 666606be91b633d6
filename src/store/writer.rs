//! The writing thread: one batch at a time, confirmed before anything else is done; tidying when nothing comes.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use std::sync::Arc;

use crate::hub::storage::Batch;
use crate::store::database::Database;
use crate::store::{Answer, Answers};

/// Without a batch for so long, the thread tidies. Long enough not to come between the batches of a busy hub.
const IDLE_AFTER: Duration = Duration::from_millis(200);
/// Between two steps of tidying.
const IDLE_STEP: Duration = Duration::from_millis(20);

/// What the writing thread can be told.
pub(super) enum Command {
    /// Write this.
    Commit(Arc<Batch>),
    /// Take the next block of mids.
    TakeBlock,
}

/// How long to wait for the next command.
enum Rest {
    /// As long as it takes: all is tidy.
    Long,
    /// So long, then tidy.
    Until(Duration),
}

/// Does something that nobody waits for. Should the disk be found full by it, the hub hears of that, or it would first hear of it
/// from a message that can't be stored.
fn tend<T>(database: &mut Database, answers: &Answers, work: impl FnOnce(&mut Database) -> T) -> T {
    let was_storing = database.is_storing();
    let result = work(database);
    if was_storing && !database.is_storing() {
        answers(Answer::Full);
    }
    result
}

/// The body of the writing thread: until nobody can command any more; then it closes the database.
pub(super) fn run(mut database: Database, commands: &Receiver<Command>, answers: &Answers) {
    let mut rest = Rest::Until(IDLE_AFTER);
    loop {
        let command = match rest {
            Rest::Long => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Rest::Until(wait) => commands.recv_timeout(wait),
        };
        rest = match command {
            Ok(Command::Commit(batch)) => {
                let (number, outcome) = (batch.number, database.commit(&batch));
                // So that the hub, who made the changes, is the one who drops them: memory goes back where it came from.
                drop(batch);
                answers(Answer::Batch { number, outcome });
                tend(&mut database, answers, Database::after_commit);
                Rest::Until(IDLE_AFTER)
            }
            Ok(Command::TakeBlock) => {
                answers(Answer::Block(database.take_block()));
                Rest::Until(IDLE_AFTER)
            }
            Err(RecvTimeoutError::Timeout) => {
                if tend(&mut database, answers, Database::idle) {
                    Rest::Until(IDLE_STEP)
                } else {
                    Rest::Long
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
    }
    database.close();
}
