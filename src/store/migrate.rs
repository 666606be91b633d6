//! The database's version: which steps it has behind it, and those that are left. Each step is a numbered file, applied
//! in one transaction with the number.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::store::fault::Fault;

/// The steps in order: step n leads to version n. Never edited after a release.
const STEPS: [&str; 1] = [include_str!("../../migrations/0001_init.sql")];

/// The version that this program reads and writes.
pub(super) const KNOWN: u32 = STEPS.len() as u32;

/// The database's version; 0: it is empty. A newer one than this program knows is refused.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<u32, Fault> {
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(Fault::database(path, "open"))?;
    if found > KNOWN {
        return Err(Fault::Newer { database: path.to_owned(), found, known: KNOWN });
    }
    Ok(found)
}

/// Takes the steps from `version` to [`KNOWN`].
pub(super) fn migrate(connection: &Connection, path: &Path, version: u32) -> Result<(), Fault> {
    for (step, number) in STEPS.iter().zip(1..).filter(|(_, number)| *number > version) {
        apply(connection, step, number).map_err(Fault::database(path, "migrate"))?;
        log::info!("store event=migrated file={} version={number}", path.display());
    }
    Ok(())
}

fn apply(connection: &Connection, step: &str, number: u32) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    transaction.execute_batch(step)?;
    transaction.pragma_update(None, "user_version", number)?;
    transaction.commit()
}
