//! A batch as transactions: whole; row by row where a row is at fault; in small pieces where the disk is full. It decides
//! nothing about what follows from a failure.

use rusqlite::{Connection, Result, Transaction, TransactionBehavior};

use crate::hub::storage::{Batch, Change};
use crate::store::connection::{Cause, Checkpoint, cause, checkpoint, vacuum};
use crate::store::messages::Messages;
use crate::store::{aliases, door_log, keys, meta, reports};

/// Deletions in one transaction while the disk is full: their log is a small part of what the reserve gave back.
const DELETIONS_PER_TRANSACTION: usize = 64;
/// Empty pages that leave the database file after deletions while the disk is full.
const PAGES_FREED: u32 = 1_024;

/// Writes a batch as one transaction, and `mid_block` with it. Returns the indices of the changes that can't be written
/// for their own sake; all others are on disk. Nothing is, if it fails.
pub(super) fn write(connection: &Connection, batch: &Batch, mid_block: u64) -> Result<Vec<usize>> {
    match write_whole(connection, batch, &batch.changes, mid_block) {
        Err(error) if cause(&error) == Cause::Value => write_by_row(connection, batch, mid_block),
        other => other.map(|()| Vec::new()),
    }
}

/// Writes a batch of deletions with as little space as possible, and gives back to the disk what they free. Some of
/// them may be written if it fails.
pub(super) fn write_deletions(connection: &Connection, batch: &Batch, mid_block: u64) -> Result<()> {
    for piece in batch.changes.chunks(DELETIONS_PER_TRANSACTION) {
        write_whole(connection, batch, piece, mid_block)?;
        checkpoint(connection, Checkpoint::Truncate)?;
    }
    vacuum(connection, PAGES_FREED)?;
    checkpoint(connection, Checkpoint::Truncate)?;
    Ok(())
}

fn write_whole(connection: &Connection, batch: &Batch, changes: &[Change], mid_block: u64) -> Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let mut messages = Messages::prepare(&transaction)?;
    for change in changes {
        apply(&transaction, &mut messages, change)?;
    }
    drop(messages);
    meta::save(&transaction, batch.stamp, batch.next_alias, mid_block)?;
    transaction.commit()
}

fn write_by_row(connection: &Connection, batch: &Batch, mid_block: u64) -> Result<Vec<usize>> {
    let mut refused = Vec::new();
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let mut messages = Messages::prepare(&transaction)?;
    for (index, change) in batch.changes.iter().enumerate() {
        transaction.prepare_cached("SAVEPOINT change")?.execute(())?;
        match apply(&transaction, &mut messages, change) {
            Err(error) if cause(&error) == Cause::Value => {
                log::error!("store event=change_refused batch={} index={index} error=\"{error}\"", batch.number);
                transaction.prepare_cached("ROLLBACK TO change")?.execute(())?;
                refused.push(index);
            }
            other => other?,
        }
        transaction.prepare_cached("RELEASE change")?.execute(())?;
    }
    drop(messages);
    meta::save(&transaction, batch.stamp, batch.next_alias, mid_block)?;
    transaction.commit()?;
    Ok(refused)
}

fn apply(connection: &Connection, messages: &mut Messages<'_>, change: &Change) -> Result<()> {
    match change {
        Change::SaveMessage { message, receivers } => messages.save(message, receivers),
        Change::DeleteMessage(mid) => messages.delete(*mid),
        Change::EndDelivery { mid, alias } => messages.end(*mid, *alias),
        Change::SaveAlias(alias) => aliases::save(connection, alias),
        Change::ForgetAlias(alias) => aliases::forget(connection, *alias),
        Change::Subscribe(alias, topic) => aliases::subscribe(connection, *alias, topic),
        Change::Unsubscribe(alias, topic) => aliases::unsubscribe(connection, *alias, topic),
        Change::SaveKey(key) => keys::save(connection, key),
        Change::ForgetKeysBefore { at, mid } => keys::forget_before(connection, *at, *mid),
        Change::SaveReport { mid, line } => reports::save(connection, *mid, line),
        Change::ForgetReportsBelow(mid) => reports::forget_below(connection, *mid),
        Change::LogDoor(entry) => door_log::add(connection, entry),
        Change::SettleDoor { id, ok, reason } => door_log::settle(connection, *id, *ok, reason.as_deref()),
        Change::ForgetDoorLogBefore(at) => door_log::forget_before(connection, *at),
    }
}
