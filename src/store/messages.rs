//! Statements about messages and which of their deliveries have ended.

use std::sync::{Arc, LazyLock};

use rusqlite::{CachedStatement, Connection, Result, Row, Statement};

use crate::hub::storage::{AliasId, Owed};
use crate::names::{Alias, Mid};
use crate::protocol::frame::Message;
use crate::store::check::Check;
use crate::store::columns::{
    ReceiversText, altered, as_alias, as_topics, get_mid, get_number, get_receivers, get_text, get_text_or_null, mid, number, topics_text,
    verify,
};
use crate::store::findings::Findings;

/// Bit of `flags`: a delivery report is kept.
const FLAG_RECEIPT: u32 = 1;
/// Bit of `flags`: the row has checks, in the bits of `flags` from [`BODY_CHECK_AT`] and [`HEAD_CHECK_AT`] on.
const FLAG_CHECKED: u32 = 2;
/// Bits of `flags` before the checks.
const FLAGS: u32 = 0xff;
/// 24 bits of the body's check.
const BODY_CHECK_AT: u32 = 8;
const BODY_CHECK: u32 = 0xff_ffff;
/// 31 bits of the check of all other columns: a column has 63 that are no sign.
const HEAD_CHECK_AT: u32 = 32;
const HEAD_CHECK: u32 = 0x7fff_ffff;

/// What the checks of these rows begin with.
const MESSAGE: Check = Check::of("message");
const BODY: Check = Check::of("body");
const ENDED: Check = Check::of("ended");

/// All messages without their bodies, oldest first, for [`get_owed`].
pub(super) const ALL: &str = "SELECT mid, expires, flags, publisher, receivers, topic_of, octet_length(body), ts, topics \
                             FROM message ORDER BY mid";
/// All deliveries that ended before their messages, in the order of [`ALL`].
pub(super) const ALL_ENDED: &str = "SELECT mid, alias, crc FROM ended ORDER BY mid, alias";

/// Rows that one statement saves where many follow on each other: a statement begins, ends and finds its place in the table once.
const ROWS_AT_ONCE: usize = 16;
/// Columns of a row.
const COLUMNS: usize = 9;
static SAVE: LazyLock<String> = LazyLock::new(|| save_sql(1));
static SAVE_MANY: LazyLock<String> = LazyLock::new(|| save_sql(ROWS_AT_ONCE));

/// The statements of the hot path, prepared once for a transaction.
pub(super) struct Messages<'c> {
    connection: &'c Connection,
    save: CachedStatement<'c>,
    delete: CachedStatement<'c>,
    delete_ended: CachedStatement<'c>,
    end: CachedStatement<'c>,
    any_ended: CachedStatement<'c>,
    /// Whether there are endings at all, once somebody wanted to know: mostly there are none, and none need deleting.
    has_endings: Option<bool>,
    receivers: ReceiversText,
}

impl<'c> Messages<'c> {
    /// Prepares the statements.
    pub(super) fn prepare(connection: &'c Connection) -> Result<Messages<'c>> {
        Ok(Messages {
            connection,
            save: connection.prepare_cached(&SAVE)?,
            delete: connection.prepare_cached("DELETE FROM message WHERE mid BETWEEN ?1 AND ?2")?,
            delete_ended: connection.prepare_cached("DELETE FROM ended WHERE mid BETWEEN ?1 AND ?2")?,
            end: connection.prepare_cached("INSERT OR IGNORE INTO ended (mid, alias, crc) VALUES (?1, ?2, ?3)")?,
            any_ended: connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM ended)")?,
            has_endings: None,
            receivers: ReceiversText::default(),
        })
    }

    /// Inserts or replaces a message and who is still owed it.
    pub(super) fn save(&mut self, message: &Message, receivers: &[Owed]) -> Result<()> {
        bind(&mut self.save, 0, &mut self.receivers, message, receivers)?;
        self.save.raw_execute()?;
        Ok(())
    }

    /// Saves messages likewise, in the order given.
    pub(super) fn save_all(&mut self, rows: &[(&Message, &[Owed])]) -> Result<()> {
        let (many, rest) = rows.as_chunks::<ROWS_AT_ONCE>();
        if !many.is_empty() {
            // Not kept beside the others: a transaction that saves but one message has no use for it.
            let mut save = self.connection.prepare_cached(&SAVE_MANY)?;
            for rows in many {
                for (index, (message, receivers)) in rows.iter().enumerate() {
                    bind(&mut save, index, &mut self.receivers, message, receivers)?;
                }
                save.raw_execute()?;
            }
        }
        for (message, receivers) in rest {
            self.save(message, receivers)?;
        }
        Ok(())
    }

    /// Deletes a message and what is known of its deliveries.
    pub(super) fn delete(&mut self, message: Mid) -> Result<()> {
        self.delete_range(message, message)
    }

    /// Deletes messages likewise, in any order: those whose numbers follow on each other at once, and one page of the table after the
    /// other. What waited for many who come back together ends so.
    pub(super) fn delete_all(&mut self, mut messages: Vec<Mid>) -> Result<()> {
        messages.sort_unstable();
        for range in messages.chunk_by(|one, next| next.number() - one.number() <= 1) {
            self.delete_range(range[0], range[range.len() - 1])?;
        }
        Ok(())
    }

    fn delete_range(&mut self, first: Mid, last: Mid) -> Result<()> {
        let range = (mid(first), mid(last));
        let has_endings = match self.has_endings {
            Some(known) => known,
            None => *self.has_endings.insert(self.any_ended.query_row((), |row| row.get(0))?),
        };
        if has_endings {
            self.delete_ended.execute(range)?;
        }
        self.delete.execute(range)?;
        Ok(())
    }

    /// Notes that one of several deliveries has ended.
    pub(super) fn end(&mut self, message: Mid, alias: AliasId) -> Result<()> {
        self.end.execute((mid(message), number(alias.0)?, ended_check(message, alias).end()))?;
        self.has_endings = Some(true);
        Ok(())
    }
}

/// The statement that saves so many messages.
fn save_sql(rows: usize) -> String {
    let marks = ["?"; COLUMNS].join(", ");
    let rows = vec![format!("({marks})"); rows].join(", ");
    format!("INSERT OR REPLACE INTO message (mid, expires, ts, flags, publisher, topics, receivers, topic_of, body) VALUES {rows}")
}

/// Gives a statement of [`save_sql`] the row with that index.
fn bind(to: &mut Statement<'_>, index: usize, text: &mut ReceiversText, message: &Message, receivers: &[Owed]) -> Result<()> {
    text.write(receivers)?;
    let topics = topics_text(&message.topics);
    let head = Head {
        mid: message.mid,
        expires: message.expires,
        ts: message.ts,
        flags: FLAG_CHECKED | if message.receipt { FLAG_RECEIPT } else { 0 },
        publisher: message.publisher.as_ref().map(Alias::as_str),
        topics: topics.as_deref(),
        receivers: &text.ids,
        topic_of: text.topic_of(),
        body_bytes: message.body.len() as u64,
    };
    let first = index * COLUMNS + 1;
    to.raw_bind_parameter(first, mid(head.mid))?;
    to.raw_bind_parameter(first + 1, number(head.expires)?)?;
    to.raw_bind_parameter(first + 2, number(head.ts)?)?;
    to.raw_bind_parameter(first + 3, head.sealed(body_check(&message.body)))?;
    to.raw_bind_parameter(first + 4, head.publisher)?;
    to.raw_bind_parameter(first + 5, head.topics)?;
    to.raw_bind_parameter(first + 6, head.receivers)?;
    to.raw_bind_parameter(first + 7, head.topic_of)?;
    to.raw_bind_parameter(first + 8, message.body.as_ref())
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
    let sealed: i64 = row.get(2)?;
    let head = Head {
        mid: get_mid(row, 0)?,
        expires: get_number(row, 1)?,
        ts: get_number(row, 7)?,
        flags: flags(sealed),
        publisher: get_text_or_null(row, 3)?,
        topics: get_text_or_null(row, 8)?,
        receivers: get_text(row, 4)?,
        topic_of: get_text_or_null(row, 5)?,
        body_bytes: get_number(row, 6)?,
    };
    head.verify(sealed)?;
    Ok(OwedMessage {
        mid: head.mid,
        expires: head.expires,
        ts: head.ts,
        bytes: row.get(6)?,
        receipt: head.flags & FLAG_RECEIPT != 0,
        publisher: head.publisher.map(|name| as_alias(name, 3)).transpose()?,
        receivers: get_receivers(row, 4, 5)?,
    })
}

/// Reads a row of [`ALL_ENDED`].
pub(super) fn get_ended(row: &Row<'_>) -> Result<(Mid, AliasId)> {
    let (message, alias) = (get_mid(row, 0)?, AliasId(get_number(row, 1)?));
    verify(row, 2, ended_check(message, alias))?;
    Ok((message, alias))
}

/// All messages whole, for [`get_whole`].
pub(super) const ALL_WHOLE: &str = "SELECT expires, ts, flags, publisher, topics, receivers, topic_of, body, mid FROM message";

/// Reads a row of [`ALL_WHOLE`], and who was owed it.
pub(super) fn get_whole(row: &Row<'_>) -> Result<(Message, Vec<Owed>)> {
    Ok((get(get_mid(row, 8)?, row)?, get_receivers(row, 5, 6)?))
}

/// Reads messages whole, those whose numbers follow on each other at once. `mids` must ascend, and so do the messages. What has no row is
/// left out, and so is what can't be read.
pub(super) fn read(connection: &Connection, mids: &[Mid], findings: &Findings) -> Result<Vec<Arc<Message>>> {
    let sql = "SELECT expires, ts, flags, publisher, topics, receivers, topic_of, body, mid FROM message WHERE mid BETWEEN ?1 AND ?2 \
               ORDER BY mid";
    let mut statement = connection.prepare_cached(sql)?;
    let mut messages = Vec::with_capacity(mids.len());
    for range in mids.chunk_by(|one, next| next.number() == one.number() + 1) {
        let mut rows = statement.query((mid(range[0]), mid(range[range.len() - 1])))?;
        while let Some(row) = rows.next()? {
            let number = get_mid(row, 8)?;
            messages.extend(findings.readable("message", number, get(number, row))?.map(Arc::new));
        }
    }
    Ok(messages)
}

fn get(mid: Mid, row: &Row<'_>) -> Result<Message> {
    let sealed: i64 = row.get(2)?;
    let body = get_text(row, 7)?;
    let head = Head {
        mid,
        expires: get_number(row, 0)?,
        ts: get_number(row, 1)?,
        flags: flags(sealed),
        publisher: get_text_or_null(row, 3)?,
        topics: get_text_or_null(row, 4)?,
        receivers: get_text(row, 5)?,
        topic_of: get_text_or_null(row, 6)?,
        body_bytes: body.len() as u64,
    };
    head.verify(sealed)?;
    if head.flags & FLAG_CHECKED != 0 && written_body_check(sealed) != body_check(body) {
        return Err(altered(7));
    }
    Ok(Message {
        mid,
        expires: head.expires,
        ts: head.ts,
        receipt: head.flags & FLAG_RECEIPT != 0,
        publisher: head.publisher.map(|name| as_alias(name, 3)).transpose()?,
        topics: head.topics.map_or(Ok(Box::default()), |names| as_topics(names, 4))?,
        body: body.into(),
    })
}

/// All of a row but the body itself, as its check goes over it.
struct Head<'r> {
    mid: Mid,
    expires: u64,
    ts: u64,
    flags: u32,
    publisher: Option<&'r str>,
    topics: Option<&'r str>,
    receivers: &'r str,
    topic_of: Option<&'r str>,
    body_bytes: u64,
}

impl Head<'_> {
    fn check(&self, body_check: u32) -> u32 {
        let check = MESSAGE.number(self.mid.number()).number(self.expires).number(self.ts);
        let check = check.number(u64::from(self.flags) | u64::from(body_check) << BODY_CHECK_AT | self.body_bytes << 32);
        let check = check.text_or_null(self.publisher).text_or_null(self.topics).text(self.receivers);
        check.text_or_null(self.topic_of).end() & HEAD_CHECK
    }

    /// The column `flags`: with both checks.
    fn sealed(&self, body_check: u32) -> i64 {
        i64::from(self.flags) | i64::from(body_check) << BODY_CHECK_AT | i64::from(self.check(body_check)) << HEAD_CHECK_AT
    }

    /// Holds the row against the column `flags`. A row of an older version has no checks, and nothing stands in their place.
    fn verify(&self, sealed: i64) -> Result<()> {
        let is_whole = if self.flags & FLAG_CHECKED == 0 {
            sealed == i64::from(self.flags)
        } else {
            sealed == self.sealed(written_body_check(sealed))
        };
        if is_whole { Ok(()) } else { Err(altered(2)) }
    }
}

fn flags(sealed: i64) -> u32 {
    sealed as u32 & FLAGS
}

fn written_body_check(sealed: i64) -> u32 {
    (sealed >> BODY_CHECK_AT) as u32 & BODY_CHECK
}

fn body_check(body: &str) -> u32 {
    BODY.text(body).end() & BODY_CHECK
}

fn ended_check(message: Mid, alias: AliasId) -> Check {
    ENDED.number(message.number()).number(alias.0)
}
