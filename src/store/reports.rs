//! Statements about delivery reports (Protocol §10).

use rusqlite::{Connection, Result};

use crate::hub::storage::{DeliveryState, ReportLine};
use crate::names::Mid;
use crate::store::columns::{get_alias, get_number, get_text, mid, number, unreadable};

/// Sets one line of a message's report, at a service time, ms.
pub(super) fn save(connection: &Connection, message: Mid, line: &ReportLine, service: u64) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO report (mid, alias, state, at, service) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = (mid(message), line.alias.as_str(), line.state.as_str(), number(line.at)?, number(service)?);
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Sets every line of a message's report that says `waiting`, at a service time, ms.
pub(super) fn close(connection: &Connection, message: Mid, state: DeliveryState, at: u64, service: u64) -> Result<()> {
    let sql = "UPDATE report SET state = ?2, at = ?3, service = ?4 WHERE mid = ?1 AND state = 'waiting'";
    connection.prepare_cached(sql)?.execute((mid(message), state.as_str(), number(at)?, number(service)?))?;
    Ok(())
}

/// Forgets the oldest reports: up to the first with news since `before` (service time, ms), and all but the newest `keep` messages'.
/// Reads from the oldest on, so that it costs what it deletes.
pub(super) fn forget(connection: &Connection, before: u64, keep: usize) -> Result<()> {
    let old = "DELETE FROM report WHERE mid < coalesce(
                   (SELECT mid FROM report WHERE service >= ?1 ORDER BY mid LIMIT 1), 9223372036854775807)";
    connection.prepare_cached(old)?.execute((number(before)?,))?;
    let many = "DELETE FROM report WHERE mid <= (SELECT DISTINCT mid FROM report ORDER BY mid DESC LIMIT 1 OFFSET ?1)";
    connection.prepare_cached(many)?.execute((number(keep as u64)?,))?;
    Ok(())
}

/// The report of one message, by alias; empty if none is kept.
pub(super) fn read(connection: &Connection, message: Mid) -> Result<Vec<ReportLine>> {
    let mut statement = connection.prepare_cached("SELECT alias, state, at FROM report WHERE mid = ?1 ORDER BY alias")?;
    let lines = statement.query_map((mid(message),), |row| {
        let word = get_text(row, 1)?;
        let state = state(word).ok_or_else(|| unreadable(1, format_args!("no state: {word}")))?;
        Ok(ReportLine { alias: get_alias(row, 0)?, state, at: get_number(row, 2)? })
    })?;
    lines.collect()
}

fn state(word: &str) -> Option<DeliveryState> {
    use DeliveryState::{Acknowledged, Dropped, Expired, Recalled, Waiting};
    [Waiting, Acknowledged, Expired, Dropped, Recalled].into_iter().find(|state| state.as_str() == word)
}
