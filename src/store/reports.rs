//! Statements about delivery reports (Protocol §10).

use rusqlite::{Connection, Result, Row};

use crate::hub::storage::{DeliveryState, ReportLine};
use crate::names::Mid;
use crate::store::check::Check;
use crate::store::columns::{get_alias, get_mid, get_number, get_text, mid, number, unreadable, verify};
use crate::store::findings::Findings;

/// All lines of all reports, for [`get_any`].
pub(super) const ALL: &str = "SELECT alias, state, at, crc, mid FROM report";

/// Reads a row of [`ALL`].
pub(super) fn get_any(row: &Row<'_>) -> Result<ReportLine> {
    get(get_mid(row, 4)?, row)
}

/// Sets one line of a message's report, at a service time, ms.
pub(super) fn save(connection: &Connection, message: Mid, line: &ReportLine, service: u64) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO report (mid, alias, state, at, service, crc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let crc = check(message, line).end();
    let values = (mid(message), line.alias.as_str(), line.state.as_str(), number(line.at)?, number(service)?, crc);
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Sets every line of a message's report that says `waiting`, at a service time, ms.
pub(super) fn close(connection: &Connection, message: Mid, state: DeliveryState, at: u64, service: u64) -> Result<()> {
    // What can't be read is told of when it is asked for.
    for line in lines(connection, message)?.into_iter().flatten() {
        if line.state == DeliveryState::Waiting {
            save(connection, message, &ReportLine { state, at, ..line }, service)?;
        }
    }
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

/// The report of one message, by alias; empty if none is kept. What can't be read is left out.
pub(super) fn read(connection: &Connection, message: Mid, findings: &Findings) -> Result<Vec<ReportLine>> {
    let mut readable = Vec::new();
    for line in lines(connection, message)? {
        readable.extend(findings.readable("report", message, line)?);
    }
    Ok(readable)
}

fn lines(connection: &Connection, message: Mid) -> Result<Vec<Result<ReportLine>>> {
    let mut statement = connection.prepare_cached("SELECT alias, state, at, crc FROM report WHERE mid = ?1 ORDER BY alias")?;
    let mut rows = statement.query((mid(message),))?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        lines.push(get(message, row));
    }
    Ok(lines)
}

fn get(message: Mid, row: &Row<'_>) -> Result<ReportLine> {
    let word = get_text(row, 1)?;
    let state = state(word).ok_or_else(|| unreadable(1, format_args!("no state: {word}")))?;
    let line = ReportLine { alias: get_alias(row, 0)?, state, at: get_number(row, 2)? };
    verify(row, 3, check(message, &line))?;
    Ok(line)
}

/// Of all but the service time, which rules only when the line is forgotten.
fn check(message: Mid, line: &ReportLine) -> Check {
    Check::of("report").number(message.number()).text(line.alias.as_str()).text(line.state.as_str()).number(line.at)
}

fn state(word: &str) -> Option<DeliveryState> {
    use DeliveryState::{Acknowledged, Dropped, Expired, Recalled, Waiting};
    [Waiting, Acknowledged, Expired, Dropped, Recalled].into_iter().find(|state| state.as_str() == word)
}
