//! Statements about messages and which of their deliveries have ended.

use rusqlite::{CachedStatement, Connection, Result, Row};

use crate::hub::storage::{AliasId, Owed};
use crate::names::{Alias, Mid};
use crate::protocol::frame::Message;
use crate::store::cause::{Cause, cause};
use crate::store::columns::{
    ReceiversText, get_alias_or_null, get_mid, get_number, get_receivers, get_text, get_topics, mid, number, topics_text,
};

/// Bit of `flags`: a delivery report is kept.
const FLAG_RECEIPT: u32 = 1;

/// All messages without their bodies, oldest first, for [`get_owed`].
pub(super) const ALL: &str = "SELECT mid, expires, flags, publisher, receivers, topic_of, octet_length(body), ts FROM message ORDER BY mid";
/// All deliveries that ended before their messages, in the order of [`ALL`].
pub(super) const ALL_ENDED: &str = "SELECT mid, alias FROM ended ORDER BY mid, alias";

/// The statements of the hot path, prepared once for a transaction.
pub(super) struct Messages<'c> {
    save: CachedStatement<'c>,
    delete: CachedStatement<'c>,
    delete_ended: CachedStatement<'c>,
    end: CachedStatement<'c>,
    receivers: ReceiversText,
}

impl<'c> Messages<'c> {
    /// Prepares the statements.
    pub(super) fn prepare(connection: &'c Connection) -> Result<Messages<'c>> {
        let save = "INSERT OR REPLACE INTO message (mid, expires, ts, flags, publisher, topics, receivers, topic_of, body) \
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        Ok(Messages {
            save: connection.prepare_cached(save)?,
            delete: connection.prepare_cached("DELETE FROM message WHERE mid = ?1")?,
            delete_ended: connection.prepare_cached("DELETE FROM ended WHERE mid = ?1")?,
            end: connection.prepare_cached("INSERT OR IGNORE INTO ended (mid, alias) VALUES (?1, ?2)")?,
            receivers: ReceiversText::default(),
        })
    }

    /// Inserts or replaces a message and who is still owed it.
    pub(super) fn save(&mut self, message: &Message, receivers: &[Owed]) -> Result<()> {
        self.receivers.write(receivers)?;
        self.save.execute((
            mid(message.mid),
            number(message.expires)?,
            number(message.ts)?,
            if message.receipt { FLAG_RECEIPT } else { 0 },
            message.publisher.as_ref().map(Alias::as_str),
            topics_text(&message.topics),
            &self.receivers.ids,
            self.receivers.topic_of(),
            message.body.as_ref(),
        ))?;
        Ok(())
    }

    /// Deletes a message and what is known of its deliveries.
    pub(super) fn delete(&mut self, message: Mid) -> Result<()> {
        self.delete_ended.execute((mid(message),))?;
        self.delete.execute((mid(message),))?;
        Ok(())
    }

    /// Notes that one of several deliveries has ended.
    pub(super) fn end(&mut self, message: Mid, alias: AliasId) -> Result<()> {
        self.end.execute((mid(message), number(alias.0)?))?;
        Ok(())
    }
}

/// Deletes the endings of deliveries whose message is gone; returns how many there were.
pub(super) fn delete_orphans(connection: &Connection) -> Result<usize> {
    let sql = "DELETE FROM ended WHERE NOT EXISTS (SELECT 1 FROM message WHERE message.mid = ended.mid)";
    connection.execute(sql, ())
}

/// A message as the start needs it.
pub(super) struct OwedMessage {
    /// Its number.
    pub(super) mid: Mid,
    /// Service time, ms.
    pub(super) expires: u64,
    /// When it was published: wall clock, ms.
    pub(super) ts: u64,
    /// Bytes of its body.
    pub(super) bytes: u32,
    /// Whether a report is kept.
    pub(super) receipt: bool,
    /// The publisher's alias.
    pub(super) publisher: Option<Alias>,
    /// To whom it was owed when its row was written.
    pub(super) receivers: Vec<Owed>,
}

/// Reads a row of [`ALL`].
pub(super) fn get_owed(row: &Row<'_>) -> Result<OwedMessage> {
    let flags: u32 = row.get(2)?;
    Ok(OwedMessage {
        mid: get_mid(row, 0)?,
        expires: get_number(row, 1)?,
        ts: get_number(row, 7)?,
        bytes: row.get(6)?,
        receipt: flags & FLAG_RECEIPT != 0,
        publisher: get_alias_or_null(row, 3)?,
        receivers: get_receivers(row, 4, 5)?,
    })
}

/// Reads messages whole, in the order of `mids`. What has no row is left out, and so is, with an error in the log, what
/// can't be read.
pub(super) fn read(connection: &Connection, mids: &[Mid]) -> Result<Vec<Message>> {
    let sql = "SELECT expires, ts, flags, publisher, topics, body FROM message WHERE mid = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut messages = Vec::with_capacity(mids.len());
    for number in mids {
        let mut rows = statement.query((mid(*number),))?;
        match rows.next()?.map(|row| get(*number, row)) {
            Some(Err(error)) if cause(&error) == Cause::Value => {
                log::error!("store event=bad_row table=message key={number} error=\"{error}\"");
            }
            Some(message) => messages.push(message?),
            None => {}
        }
    }
    Ok(messages)
}

fn get(mid: Mid, row: &Row<'_>) -> Result<Message> {
    let flags: u32 = row.get(2)?;
    Ok(Message {
        mid,
        expires: get_number(row, 0)?,
        ts: get_number(row, 1)?,
        receipt: flags & FLAG_RECEIPT != 0,
        publisher: get_alias_or_null(row, 3)?,
        topics: get_topics(row, 4)?,
        body: get_text(row, 5)?.into(),
    })
}
