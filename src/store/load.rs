//! What the store knew, streamed to the hub at the start. A row that can't be read is logged and left out; the start goes on.

use std::collections::HashSet;

use rusqlite::{Connection, Result, Row, Rows};

use crate::hub::storage::{AliasId, Owed, Restored};
use crate::names::Mid;
use crate::store::columns::get_number;
use crate::store::connection::{Cause, cause};
use crate::store::messages::{self, OwedMessage};
use crate::store::{aliases, keys, meta};

/// Gives all to `take` in the order that [`Restored`] names. `first_mid`: the first one that this run may give out.
/// Deletes the endings whose message is gone, and the messages whose deliveries have all ended.
pub(super) fn load(connection: &Connection, first_mid: Mid, take: &mut dyn FnMut(Restored)) -> Result<()> {
    let meta = meta::read(connection)?;
    take(Restored::Counters { stamp: meta.stamp, next_alias: meta.next_alias, first_mid });

    let mut known = HashSet::new();
    each_row(connection, aliases::ALL, "alias", &mut |row| {
        let alias = aliases::get(row)?;
        known.insert(alias.id);
        take(Restored::Alias(alias));
        Ok(())
    })?;
    each_row(connection, aliases::ALL_SUBSCRIPTIONS, "subscription", &mut |row| {
        let (alias, topic) = aliases::get_subscription(row)?;
        if known.contains(&alias) {
            take(Restored::Subscription(alias, topic));
        }
        Ok(())
    })?;
    tidy("orphans", messages::delete_orphans(connection));
    let ended = load_messages(connection, &known, take)?;
    tidy("ended", delete(connection, &ended));
    each_row(connection, keys::ALL, "opts_id", &mut |row| {
        take(Restored::Key(keys::get(row)?));
        Ok(())
    })
}

/// Returns the messages that nobody is owed any more.
fn load_messages(connection: &Connection, known: &HashSet<AliasId>, take: &mut dyn FnMut(Restored)) -> Result<Vec<Mid>> {
    let mut statement = connection.prepare(messages::ALL_ENDED)?;
    let mut endings = Endings::start(statement.query(())?)?;
    let mut ended = Vec::new();
    each_row(connection, messages::ALL, "message", &mut |row| {
        let OwedMessage { mid, expires, bytes, receipt, publisher, mut receivers } = messages::get_owed(row)?;
        endings.strike(mid, &mut receivers)?;
        if receivers.is_empty() {
            ended.push(mid);
            return Ok(());
        }
        receivers.retain(|owed| {
            let is_known = known.contains(&owed.alias);
            if !is_known {
                log::error!("store event=unknown_alias mid={mid} alias_id={}", owed.alias.0);
            }
            is_known
        });
        if !receivers.is_empty() {
            let publisher = publisher.filter(|_| receipt);
            take(Restored::Message { mid, expires, bytes, receipt, publisher, receivers });
        }
        Ok(())
    })?;
    Ok(ended)
}

/// The rows of `ended`, read beside those of `message`: both ascend by mid.
struct Endings<'s> {
    rows: Rows<'s>,
    next: Option<(u64, AliasId)>,
    /// Of one message; kept for its space.
    struck: Vec<AliasId>,
}

impl<'s> Endings<'s> {
    fn start(rows: Rows<'s>) -> Result<Endings<'s>> {
        let mut endings = Endings { rows, next: None, struck: Vec::new() };
        endings.step()?;
        Ok(endings)
    }

    fn step(&mut self) -> Result<()> {
        self.next = match self.rows.next()? {
            Some(row) => Some((get_number(row, 0)?, AliasId(get_number(row, 1)?))),
            None => None,
        };
        Ok(())
    }

    /// Takes those out of `receivers` whose delivery of that message has ended.
    fn strike(&mut self, mid: Mid, receivers: &mut Vec<Owed>) -> Result<()> {
        self.struck.clear();
        while let Some((of, alias)) = self.next.filter(|(of, _)| *of <= mid.number()) {
            if of == mid.number() {
                self.struck.push(alias);
            }
            self.step()?;
        }
        if !self.struck.is_empty() {
            // They ascend, as the table's key does.
            receivers.retain(|owed| self.struck.binary_search(&owed.alias).is_err());
        }
        Ok(())
    }
}

fn each_row(connection: &Connection, sql: &str, table: &str, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        match take(row) {
            Err(error) if cause(&error) == Cause::Value => {
                log::error!("store event=bad_row table={table} key={:?} error=\"{error}\"", row.get_ref(0)?);
            }
            other => other?,
        }
    }
    Ok(())
}

fn delete(connection: &Connection, mids: &[Mid]) -> Result<usize> {
    if mids.is_empty() {
        return Ok(0);
    }
    let transaction = connection.unchecked_transaction()?;
    let mut messages = messages::Messages::prepare(&transaction)?;
    for mid in mids {
        messages.delete(*mid)?;
    }
    drop(messages);
    transaction.commit()?;
    Ok(mids.len())
}

/// What is left over may stay when the disk is full: it does no harm.
fn tidy(what: &str, deleted: Result<usize>) {
    match deleted {
        Ok(0) => {}
        Ok(rows) => log::info!("store event=tidied what={what} rows={rows}"),
        Err(error) => log::warn!("store event=not_tidied what={what} error=\"{error}\""),
    }
}
