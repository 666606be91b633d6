//! The row of counters that each commit carries. Counters never go back, whatever a batch says.

use rusqlite::{Connection, Error, Result};

use crate::hub::storage::{AliasId, Stamp};
use crate::store::cause::{Cause, cause};
use crate::store::check::Check;
use crate::store::columns::{damaged, get_number, number, verify};

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

impl Meta {
    fn check(&self) -> Check {
        let check = Check::of("meta").number(self.stamp.service).number(self.stamp.wall).number(self.newest_wall);
        check.number(self.next_alias.0).number(self.mid_block)
    }
}

/// Reads the counters. A wrong one would be worse than none: numbers would be given out twice, and lives would be of any length.
pub(super) fn read(connection: &Connection) -> Result<Meta> {
    let sql = "SELECT service, wall, next_alias, mid_block, newest_wall, crc FROM meta";
    let meta = connection.prepare_cached(sql)?.query_row((), |row| {
        let meta = Meta {
            stamp: Stamp { service: get_number(row, 0)?, wall: get_number(row, 1)? },
            next_alias: AliasId(get_number(row, 2)?),
            mid_block: get_number(row, 3)?,
            newest_wall: get_number(row, 4)?,
        };
        verify(row, 5, meta.check())?;
        Ok(meta)
    });
    meta.map_err(|error| match error {
        Error::QueryReturnedNoRows => damaged("the row of counters is gone"),
        other if cause(&other) == Cause::Value => damaged(&format!("the row of counters can't be read: {other}")),
        other => other,
    })
}

/// Stores the stamp and the counter of a batch.
pub(super) fn save(connection: &Connection, stamp: Stamp, next_alias: AliasId, mid_block: u64) -> Result<()> {
    let before = read(connection)?;
    let after = Meta {
        stamp: Stamp { service: before.stamp.service.max(stamp.service), wall: stamp.wall },
        newest_wall: before.newest_wall.max(stamp.wall),
        next_alias: before.next_alias.max(next_alias),
        mid_block: before.mid_block.max(mid_block),
    };
    write(connection, &after)
}

/// Stores the block of mids alone.
pub(super) fn save_block(connection: &Connection, mid_block: u64) -> Result<()> {
    let before = read(connection)?;
    write(connection, &Meta { mid_block: before.mid_block.max(mid_block), ..before })
}

fn write(connection: &Connection, meta: &Meta) -> Result<()> {
    let sql = "UPDATE meta SET service = ?1, wall = ?2, newest_wall = ?3, next_alias = ?4, mid_block = ?5, crc = ?6";
    connection.prepare_cached(sql)?.execute((
        number(meta.stamp.service)?,
        number(meta.stamp.wall)?,
        number(meta.newest_wall)?,
        number(meta.next_alias.0)?,
        number(meta.mid_block)?,
        meta.check().end(),
    ))?;
    Ok(())
}
