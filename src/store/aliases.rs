//! Statements about aliases and what they are subscribed to.

use rusqlite::{Connection, OptionalExtension, Result, Row};

use crate::hub::storage::{AliasId, AliasRecord};
use crate::names::{Topic, Transport};
use crate::store::check::Check;
use crate::store::columns::{get_alias, get_number, get_text_or_null, get_topic, number, unreadable, verify};

/// All aliases, for [`get`].
pub(super) const ALL: &str = "SELECT id, name, first_seen, last_seen, last_seen_service, transport, info, crc FROM alias ORDER BY id";
/// All subscriptions of known aliases, for [`get_subscription`].
pub(super) const ALL_SUBSCRIPTIONS: &str =
    "SELECT alias, topic, crc FROM subscription WHERE alias IN (SELECT id FROM alias) ORDER BY alias, topic";

/// Inserts or replaces an alias. An older row of the same name gives way: the hub has forgotten it, and on a full disk that is
/// not written in order.
pub(super) fn save(connection: &Connection, alias: &AliasRecord) -> Result<()> {
    let older = "SELECT id FROM alias WHERE name = ?1 AND id <> ?2";
    let key = (alias.name.as_str(), number(alias.id.0)?);
    if let Some(id) = connection.prepare_cached(older)?.query_row(key, |row| get_number(row, 0)).optional()? {
        forget(connection, AliasId(id))?;
    }
    let sql = "INSERT INTO alias (id, name, first_seen, last_seen, last_seen_service, transport, info, crc) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO UPDATE SET name = ?2, first_seen = ?3, \
               last_seen = ?4, last_seen_service = ?5, transport = ?6, info = ?7, crc = ?8";
    connection.prepare_cached(sql)?.execute((
        number(alias.id.0)?,
        alias.name.as_str(),
        number(alias.first_seen)?,
        number(alias.last_seen)?,
        number(alias.last_seen_service)?,
        alias.transport.map(Transport::as_str),
        alias.info.as_deref(),
        check(alias).end(),
    ))?;
    Ok(())
}

/// Deletes an alias and its subscriptions.
pub(super) fn forget(connection: &Connection, alias: AliasId) -> Result<()> {
    let id = number(alias.0)?;
    connection.prepare_cached("DELETE FROM subscription WHERE alias = ?1")?.execute((id,))?;
    connection.prepare_cached("DELETE FROM alias WHERE id = ?1")?.execute((id,))?;
    Ok(())
}

/// Subscribes an alias to a topic.
pub(super) fn subscribe(connection: &Connection, alias: AliasId, topic: &Topic) -> Result<()> {
    // Replaced where it is there: its check may be missing, or wrong.
    let sql = "INSERT OR REPLACE INTO subscription (alias, topic, crc) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute((number(alias.0)?, topic.as_str(), subscription_check(alias, topic).end()))?;
    Ok(())
}

/// Unsubscribes an alias from a topic.
pub(super) fn unsubscribe(connection: &Connection, alias: AliasId, topic: &Topic) -> Result<()> {
    let sql = "DELETE FROM subscription WHERE alias = ?1 AND topic = ?2";
    connection.prepare_cached(sql)?.execute((number(alias.0)?, topic.as_str()))?;
    Ok(())
}

/// Reads a row of [`ALL`].
pub(super) fn get(row: &Row<'_>) -> Result<AliasRecord> {
    let transport = match get_text_or_null(row, 5)? {
        None => None,
        Some(word) => Some(Transport::parse(word).ok_or_else(|| unreadable(5, format_args!("no transport: {word}")))?),
    };
    let alias = AliasRecord {
        id: AliasId(get_number(row, 0)?),
        name: get_alias(row, 1)?,
        first_seen: get_number(row, 2)?,
        last_seen: get_number(row, 3)?,
        last_seen_service: get_number(row, 4)?,
        transport,
        info: get_text_or_null(row, 6)?.map(Into::into),
    };
    verify(row, 7, check(&alias))?;
    Ok(alias)
}

fn check(alias: &AliasRecord) -> Check {
    let check = Check::of("alias").number(alias.id.0).text(alias.name.as_str());
    let check = check.number(alias.first_seen).number(alias.last_seen).number(alias.last_seen_service);
    check.text_or_null(alias.transport.map(Transport::as_str)).text_or_null(alias.info.as_deref())
}

fn subscription_check(alias: AliasId, topic: &Topic) -> Check {
    Check::of("subscription").number(alias.0).text(topic.as_str())
}

/// Reads a row of [`ALL_SUBSCRIPTIONS`].
pub(super) fn get_subscription(row: &Row<'_>) -> Result<(AliasId, Topic)> {
    let (alias, topic) = (AliasId(get_number(row, 0)?), get_topic(row, 1)?);
    verify(row, 2, subscription_check(alias, &topic))?;
    Ok((alias, topic))
}
