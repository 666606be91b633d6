//! The row of counters: the stamp of the last commits, and the numbers that may be given out next. Counters never go back, whatever a
//! batch says.

use rusqlite::{Connection, Error, Result};

use crate::hub::storage::{AliasId, Batch, Stamp};
use crate::store::cause::{Cause, cause};
use crate::store::check::Check;
use crate::store::columns::{damaged, get_number, number, verify};

/// How far a commit's stamp may be from the one that is stored, ms: a row that each commit wrote would be half of what a commit with
/// one message writes. What goes on from the stamp at the start adds the wall time since.
const STAMP_AGE_MAX: u64 = 100;

/// The counters as stored.
#[derive(Debug)]
pub(super) struct Meta {
    /// Of a commit that the last one was no more than [`STAMP_AGE_MAX`] behind.
    pub(super) stamp: Stamp,
    /// The highest wall time that was stored, ms.
    pub(super) newest_wall: u64,
    /// The next alias id to give out.
    pub(super) next_alias: AliasId,
    /// The newest block of mids that the database knows of.
    pub(super) mid_block: u64,
}

impl Meta {
    /// Whether a batch needs no other counters: the next start would give out nothing twice, and both clocks are about where they were.
    fn serves(&self, batch: &Batch, mid_block: u64) -> bool {
        let is_near = |stored: u64, now: u64| now.checked_sub(stored).is_some_and(|age| age < STAMP_AGE_MAX);
        is_near(self.stamp.service, batch.stamp.service)
            && is_near(self.stamp.wall, batch.stamp.wall)
            && batch.next_alias <= self.next_alias
            && mid_block <= self.mid_block
    }

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

/// What the row says, as far as the writing connection knows: it is written only where it must say something else.
#[derive(Debug, Default)]
pub(super) struct Counters(Option<Meta>);

impl Counters {
    /// Stores the stamp and the counter of a batch, if what is stored is not good enough. A batch without changes is there to show that
    /// the database can be written, so it always is.
    pub(super) fn save(&mut self, connection: &Connection, batch: &Batch, mid_block: u64) -> Result<()> {
        if !batch.changes.is_empty() && self.0.as_ref().is_some_and(|stored| stored.serves(batch, mid_block)) {
            return Ok(());
        }
        let before = read(connection)?;
        let after = Meta {
            stamp: Stamp { service: before.stamp.service.max(batch.stamp.service), wall: batch.stamp.wall },
            newest_wall: before.newest_wall.max(batch.stamp.wall),
            next_alias: before.next_alias.max(batch.next_alias),
            mid_block: before.mid_block.max(mid_block),
        };
        write(connection, &after)?;
        self.0 = Some(after);
        Ok(())
    }

    /// A transaction may not have been committed, or the row was written without this: what it says is not known.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::storage::Change;
    use crate::names::Mid;
    use crate::store::samples::{Scratch, committed};

    #[test]
    fn the_row_is_written_when_a_start_would_miss_it() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let mut commit = |service, wall, next_alias, changes: Vec<Change>| {
            let batch = Batch { number: 1, stamp: Stamp { service, wall }, next_alias: AliasId(next_alias), changes };
            assert_eq!(database.commit(&batch), committed());
            let stored = read(&scratch.shell()).unwrap();
            (stored.stamp.service, stored.stamp.wall, stored.newest_wall, stored.next_alias.0)
        };
        let some = || vec![Change::DeleteMessage(Mid::new(1))];
        assert_eq!(commit(1_000, 5_000, 3, some()), (1_000, 5_000, 5_000, 3), "nothing was known");
        assert_eq!(commit(1_099, 5_099, 3, some()), (1_000, 5_000, 5_000, 3), "near enough");
        assert_eq!(commit(1_099, 5_099, 4, some()), (1_099, 5_099, 5_099, 4), "an alias was given its number");
        assert_eq!(commit(1_150, 5_198, 2, some()), (1_099, 5_099, 5_099, 4));
        assert_eq!(commit(1_150, 5_199, 4, some()), (1_150, 5_199, 5_199, 4), "too long ago by the wall clock");
        assert_eq!(commit(1_250, 5_200, 4, some()), (1_250, 5_200, 5_200, 4), "by service time");
        assert_eq!(commit(1_251, 5_100, 4, some()), (1_251, 5_100, 5_200, 4), "the wall clock went back");
        assert_eq!(commit(1_252, 5_101, 4, vec![]), (1_252, 5_101, 5_200, 4), "there is nothing else to write");
    }
}
