//! How messages lay in the database up to version 3, a row for each: read once, when such a database is opened, and moved into segments.

use rusqlite::{Connection, Result, Row};

use crate::hub::storage::Owed;
use crate::limits::TRANSACTION_BYTES_MAX;
use crate::names::Mid;
use crate::protocol::frame::Message;
use crate::store::cause::{Cause, cause};
use crate::store::check::Check;
use crate::store::columns::{altered, as_alias, as_receivers, as_topics, get_mid, get_number, get_text, get_text_or_null, unreadable};
use crate::store::messages::{Messages, Saved};

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

/// What the checks begin with.
const MESSAGE: Check = Check::of("message");
const BODY: Check = Check::of("body");

/// Messages that are moved at once, and bytes of their bodies.
const MOVED_AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = TRANSACTION_BYTES_MAX;

/// All messages whole, for [`get`].
pub(super) const ALL: &str = "SELECT mid, expires, ts, flags, publisher, topics, receivers, topic_of, body FROM message ORDER BY mid";

/// Moves all messages into segments, within the transaction that is open. What can't be read stays where it is, for people to look at.
pub(super) fn into_segments(connection: &Connection) -> Result<()> {
    let mut statement = connection.prepare(ALL)?;
    let mut rows = statement.query(())?;
    let mut messages = Messages::new(connection);
    let mut moved: Vec<(Message, Vec<Owed>)> = Vec::with_capacity(MOVED_AT_ONCE);
    let mut bytes = 0;
    let mut left: Vec<i64> = Vec::new();
    loop {
        let row = rows.next()?;
        if moved.len() == MOVED_AT_ONCE || bytes >= BYTES_AT_ONCE || row.is_none() {
            messages.save(moved.iter().map(|(message, receivers)| -> Saved<'_> { (message, receivers) }).collect())?;
            moved.clear();
            bytes = 0;
        }
        let Some(row) = row else { break };
        match get(row) {
            Err(error) if cause(&error) == Cause::Value => left.push(row.get(0)?),
            read => {
                let read = read?;
                bytes += read.0.body.len();
                moved.push(read);
            }
        }
    }
    drop(rows);
    if left.is_empty() {
        return connection.execute_batch("DROP TABLE message");
    }
    connection.execute_batch("CREATE TEMP TABLE damaged (mid INTEGER PRIMARY KEY)")?;
    for number in left {
        connection.execute("INSERT INTO damaged VALUES (?1)", [number])?;
    }
    connection.execute_batch("DELETE FROM message WHERE mid NOT IN (SELECT mid FROM damaged); DROP TABLE damaged")
}

/// How many were left behind, since they can't be read.
pub(super) fn left_behind(connection: &Connection) -> Result<u64> {
    if !connection.table_exists(None, "message")? {
        return Ok(0);
    }
    connection.query_row("SELECT count(*) FROM message", (), |row| get_number(row, 0))
}

/// Reads a row of [`ALL`], and who is owed it.
pub(super) fn get(row: &Row<'_>) -> Result<(Message, Vec<Owed>)> {
    let mid = get_mid(row, 0)?;
    let sealed: i64 = row.get(3)?;
    let body = get_text(row, 8)?;
    let head = Head {
        mid,
        expires: get_number(row, 1)?,
        ts: get_number(row, 2)?,
        flags: flags(sealed),
        publisher: get_text_or_null(row, 4)?,
        topics: get_text_or_null(row, 5)?,
        receivers: get_text(row, 6)?,
        topic_of: get_text_or_null(row, 7)?,
        body_bytes: body.len() as u64,
    };
    head.verify(sealed)?;
    if head.flags & FLAG_CHECKED != 0 && written_body_check(sealed) != body_check(body) {
        return Err(altered(8));
    }
    let receivers = as_receivers(head.receivers, head.topic_of, 6)?;
    if !receivers.is_sorted_by(|one, next| one.alias < next.alias) {
        return Err(unreadable(6, "receivers are not in the order of their ids"));
    }
    let message = Message {
        mid,
        expires: head.expires,
        ts: head.ts,
        receipt: head.flags & FLAG_RECEIPT != 0,
        publisher: head.publisher.map(|name| as_alias(name, 4)).transpose()?,
        topics: head.topics.map_or(Ok(Box::default()), |names| as_topics(names, 5))?,
        body: body.into(),
    };
    Ok((message, receivers))
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
        if is_whole { Ok(()) } else { Err(altered(3)) }
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
