//! The row of counters that each commit carries. Counters never go back, whatever a batch says.

use rusqlite::{Connection, Result};

use crate::hub::storage::{AliasId, Stamp};
use crate::store::columns::{get_number, number};

/// The counters as stored.
pub(super) struct Meta {
    /// Of the last commit.
    pub(super) stamp: Stamp,
    /// The highest wall time of any commit, ms.
    pub(super) newest_wall: u64,
    /// The next alias id to give out.
    pub(super) next_alias: AliasId,
    /// The newest block of mids that the database knows of.
    pub(super) mid_block: u64,
}

/// Reads the counters.
pub(super) fn read(connection: &Connection) -> Result<Meta> {
    connection.query_row("SELECT service, wall, next_alias, mid_block, newest_wall FROM meta", (), |row| {
        Ok(Meta {
            stamp: Stamp { service: get_number(row, 0)?, wall: get_number(row, 1)? },
            next_alias: AliasId(get_number(row, 2)?),
            mid_block: get_number(row, 3)?,
            newest_wall: get_number(row, 4)?,
        })
    })
}

/// Stores the stamp and the counter of a batch.
pub(super) fn save(connection: &Connection, stamp: Stamp, next_alias: AliasId, mid_block: u64) -> Result<()> {
    let sql = "UPDATE meta SET service = max(service, ?1), wall = ?2, newest_wall = max(newest_wall, ?2), \
               next_alias = max(next_alias, ?3), mid_block = max(mid_block, ?4)";
    let values = (number(stamp.service)?, number(stamp.wall)?, number(next_alias.0)?, number(mid_block)?);
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Stores the block of mids alone.
pub(super) fn save_block(connection: &Connection, mid_block: u64) -> Result<()> {
    connection.prepare_cached("UPDATE meta SET mid_block = max(mid_block, ?1)")?.execute((number(mid_block)?,))?;
    Ok(())
}
