//! A batch as transactions: whole; row by row where a row is at fault; in small pieces where the disk is full. It decides
//! nothing about what follows from a failure.

use rusqlite::{Connection, Result};

use crate::hub::storage::{Batch, Change};
use crate::names::Mid;
use crate::store::cause::{Cause, cause};
use crate::store::connection::{Checkpoint, checkpoint, vacuum};
use crate::store::door_log::Bound;
use crate::store::messages::{Messages, Saved};
use crate::store::meta::Counters;
use crate::store::{aliases, door_log, keys, reports};

/// Deletions in one transaction while the disk is full: their log is a small part of what the reserve gave back.
const DELETIONS_PER_TRANSACTION: usize = 64;
/// Empty pages that leave the database file after each batch while the disk is full, 8 MB: as much as a batch may free.
const PAGES_FREED: u32 = 2_048;

/// What is known of the database from one transaction to the next. True as long as each is committed.
pub(super) struct Kept {
    pub(super) doors: Bound,
    pub(super) counters: Counters,
}

impl Kept {
    /// `door_log_max`: the entries that the door log may hold.
    pub(super) fn new(door_log_max: u64) -> Kept {
        Kept { doors: Bound::new(door_log_max), counters: Counters::default() }
    }

    /// A transaction was not committed.
    pub(super) fn forget(&mut self) {
        self.doors.recount();
        self.counters.forget();
    }
}

/// A transaction: rolled back unless it is committed. As rusqlite's own, but SQLite reads its two statements once and not for each commit.
struct Begun<'c>(&'c Connection);

impl Begun<'_> {
    fn new(connection: &Connection) -> Result<Begun<'_>> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
        Ok(Begun(connection))
    }

    fn commit(self) -> Result<()> {
        self.0.prepare_cached("COMMIT")?.execute(()).map(drop)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        // Some errors have rolled it back already. One that can't be rolled back now is, when the connection is closed.
        if !self.0.is_autocommit() {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}

/// Writes a batch as one transaction, and `mid_block` with it. Returns the indices of the changes that can't be written
/// for their own sake; all others are on disk. Nothing is, if it fails.
pub(super) fn write(connection: &Connection, batch: &Batch, mid_block: u64, kept: &mut Kept) -> Result<Vec<usize>> {
    match write_whole(connection, batch, &batch.changes, mid_block, kept) {
        Err(error) if cause(&error) == Cause::Value => {
            kept.forget();
            write_by_row(connection, batch, mid_block, kept)
        }
        other => other.map(|()| Vec::new()),
    }
}

/// Writes a batch of deletions with as little space as possible, and gives back to the disk what they free. Some of
/// them may be written if it fails.
pub(super) fn write_deletions(connection: &Connection, batch: &Batch, mid_block: u64, kept: &mut Kept) -> Result<()> {
    for piece in batch.changes.chunks(DELETIONS_PER_TRANSACTION) {
        write_whole(connection, batch, piece, mid_block, kept)?;
        checkpoint(connection, Checkpoint::Truncate)?;
    }
    vacuum(connection, PAGES_FREED)?;
    checkpoint(connection, Checkpoint::Truncate)?;
    Ok(())
}

/// Deletes messages with their `opts.id`s, as if their batch had never been.
pub(super) fn undo(connection: &Connection, mids: &[Mid]) -> Result<()> {
    if mids.is_empty() {
        return Ok(());
    }
    let transaction = Begun::new(connection)?;
    Messages::new(connection).delete(mids.to_vec())?;
    for mid in mids {
        keys::forget(connection, *mid)?;
    }
    transaction.commit()
}

fn write_whole(connection: &Connection, batch: &Batch, changes: &[Change], mid_block: u64, kept: &mut Kept) -> Result<()> {
    let transaction = Begun::new(connection)?;
    let mut messages = Messages::new(connection);
    // Together, so that they share segments, and before deletions, which may be of them.
    let mut saves: Vec<Saved<'_>> = Vec::new();
    for run in changes.chunk_by(|one, next| deleted(one).and(deleted(next)).is_some()) {
        match run {
            [Change::SaveMessage { message, receivers }] => saves.push((message, receivers)),
            [Change::DeleteMessage(_), ..] => {
                messages.save(std::mem::take(&mut saves))?;
                messages.delete(run.iter().filter_map(deleted).collect())?;
            }
            changes => {
                for change in changes {
                    apply(connection, &mut messages, change, batch.stamp.service, &mut kept.doors)?;
                }
            }
        }
    }
    messages.save(saves)?;
    kept.doors.keep(connection)?;
    kept.counters.save(connection, batch, mid_block)?;
    transaction.commit()
}

fn write_by_row(connection: &Connection, batch: &Batch, mid_block: u64, kept: &mut Kept) -> Result<Vec<usize>> {
    let mut refused = Vec::new();
    let transaction = Begun::new(connection)?;
    let mut messages = Messages::new(connection);
    for (index, change) in batch.changes.iter().enumerate() {
        // No savepoint: a statement that fails for the sake of its values leaves nothing behind, and none comes behind another of the
        // same change: what a message is refused for is looked at first.
        match apply(connection, &mut messages, change, batch.stamp.service, &mut kept.doors) {
            Err(error) if cause(&error) == Cause::Value => {
                log::error!("store event=change_refused batch={} index={index} error=\"{error}\"", batch.number);
                refused.push(index);
            }
            other => other?,
        }
    }
    kept.doors.keep(connection)?;
    kept.counters.save(connection, batch, mid_block)?;
    transaction.commit()?;
    Ok(refused)
}

/// The message that a change deletes.
fn deleted(change: &Change) -> Option<Mid> {
    if let Change::DeleteMessage(mid) = change { Some(*mid) } else { None }
}

/// `service`: the service time of the batch, ms.
fn apply(connection: &Connection, messages: &mut Messages<'_>, change: &Change, service: u64, doors: &mut Bound) -> Result<()> {
    match change {
        Change::SaveMessage { message, receivers } => messages.save(vec![(message, receivers)]),
        Change::DeleteMessage(mid) => messages.delete(vec![*mid]),
        Change::EndDelivery { mid, alias } => messages.end(*mid, *alias),
        Change::SaveAlias(alias) => aliases::save(connection, alias),
        Change::ForgetAlias(alias) => aliases::forget(connection, *alias),
        Change::Subscribe(alias, topic) => aliases::subscribe(connection, *alias, topic),
        Change::Unsubscribe(alias, topic) => aliases::unsubscribe(connection, *alias, topic),
        Change::SaveKey(key) => keys::save(connection, key),
        Change::ForgetKeysBefore { at, mid } => keys::forget_before(connection, *at, *mid),
        Change::SaveReport { mid, line } => reports::save(connection, *mid, line, service),
        Change::CloseReport { mid, state, at } => reports::close(connection, *mid, *state, *at, service),
        Change::ForgetReports { before, keep } => reports::forget(connection, *before, *keep),
        Change::LogDoor(entry) => door_log::add(connection, entry, service).map(|added| doors.add(added)),
        Change::SettleDoor { id, ok, reason } => door_log::settle(connection, *id, *ok, reason.as_deref()),
        Change::ForgetDoorLogBefore(service) => door_log::forget_before(connection, *service).map(|removed| doors.remove(removed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::storage::{AliasId, DoorEntry, Owed, Restored};
    use crate::hub::storage::{DeliveryState, Outcome, ReportLine};
    use crate::names::{Alias, Topic};
    use crate::seeded::Seeded;
    use crate::store::messages;
    use crate::store::samples::{Scratch, alias, batch, committed, key, load, message, owed, save};

    /// Any change, on a few aliases and messages, so that they meet.
    fn any(seeded: &mut Seeded) -> Change {
        let id = 1 + seeded.next_u64() % 6;
        let mid = 1 + seeded.next_u64() % 12;
        let topic = Topic::new(["a", "b", "门"][seeded.below(3)]).unwrap();
        match seeded.below(15) {
            0..=2 => save(message(mid, "[1]"), &[(id, None), (id + 1, Some(1))]),
            3 => Change::DeleteMessage(Mid::new(mid)),
            4 => Change::EndDelivery { mid: Mid::new(mid), alias: AliasId(id) },
            5 => Change::SaveAlias(alias(id, &format!("a{id}"))),
            6 => Change::ForgetAlias(AliasId(id)),
            7 => Change::Subscribe(AliasId(id), topic),
            8 => Change::Unsubscribe(AliasId(id), topic),
            9 => Change::SaveKey(key(mid, mid)),
            10 => Change::ForgetKeysBefore { at: mid, mid: Mid::new(id) },
            11 => Change::SaveReport { mid: Mid::new(mid), line: report("m", DeliveryState::Expired) },
            // With a `keep` that counts, writing twice may forget less: that is housekeeping, not a promise.
            12 => Change::ForgetReports { before: mid, keep: 1_000 },
            13 => Change::CloseReport { mid: Mid::new(mid), state: DeliveryState::Recalled, at: id },
            _ => Change::SettleDoor { id, ok: true, reason: None },
        }
    }

    /// However many follow on each other, and whether they are there already.
    #[test]
    fn messages_saved_together_are_as_if_saved_one_by_one() {
        let row = |mid: u64, round: u64| {
            let receivers: &[(u64, Option<u16>)] = if mid.is_multiple_of(3) { &[(1, None)] } else { &[(1, Some(1)), (mid + 1, None)] };
            let mut message = message(mid, &"门".repeat((mid * 7 + round) as usize));
            message.receipt = mid.is_multiple_of(2);
            message.publisher = message.publisher.filter(|_| !mid.is_multiple_of(5));
            message.topics = if mid.is_multiple_of(4) { Box::default() } else { message.topics };
            save(message, receivers)
        };
        for count in [1, 2, 7, 8, 9, 15, 16, 17, 25] {
            let scratches = [Scratch::new(), Scratch::new()];
            let [together, one_by_one] = scratches.each_ref().map(|scratch| {
                scratch.open().unwrap().close();
                scratch.shell()
            });
            let mut kept = [Kept::new(100), Kept::new(100)];
            for round in 0..2 {
                let batch = batch(round, (1..=count).map(|mid| row(mid + round * 3, round)).collect());
                assert_eq!(write(&together, &batch, 1, &mut kept[0]).unwrap(), Vec::<usize>::new());
                assert_eq!(write_by_row(&one_by_one, &batch, 1, &mut kept[1]).unwrap(), Vec::<usize>::new());
            }
            let all = |connection: &Connection| {
                let mut statement = connection.prepare(messages::ALL_WHOLE).unwrap();
                let segments: Vec<_> = statement.query_map((), messages::get_whole).unwrap().map(Result::unwrap).collect();
                segments.concat()
            };
            assert_eq!(all(&together).len() as u64, count + count.min(3));
            assert_eq!(all(&together), all(&one_by_one), "{count} messages");
        }
    }

    #[test]
    fn a_transaction_that_is_not_committed_leaves_nothing() {
        let scratch = Scratch::new();
        scratch.open().unwrap().close();
        let connection = scratch.shell();
        let begun = Begun::new(&connection).unwrap();
        aliases::save(&connection, &alias(1, "a")).unwrap();
        drop(begun);
        assert!(connection.is_autocommit());
        let count = || connection.query_row("SELECT count(*) FROM alias", (), |row| row.get::<_, u32>(0)).unwrap();
        assert_eq!(count(), 0);
        let begun = Begun::new(&connection).unwrap();
        aliases::save(&connection, &alias(1, "a")).unwrap();
        begun.commit().unwrap();
        assert_eq!((connection.is_autocommit(), count()), (true, 1));
    }

    fn report(name: &str, state: DeliveryState) -> ReportLine {
        ReportLine { alias: Alias::new(name).unwrap(), state, at: 7 }
    }

    #[test]
    fn a_batch_written_twice_is_as_if_written_once() {
        for seed in 0..30 {
            let mut seeded = Seeded(seed);
            let (once, twice) = (Scratch::new(), Scratch::new());
            let (mut one, mut two) = (once.open().unwrap(), twice.open().unwrap());
            for number in 1..4 {
                let changes = (0..1 + seeded.below(40)).map(|_| any(&mut seeded)).collect();
                let batch = batch(number, changes);
                assert_eq!(one.commit(&batch), committed(), "seed {seed}");
                assert_eq!(two.commit(&batch), committed(), "seed {seed}");
                assert_eq!(two.commit(&batch), committed(), "seed {seed}");
            }
            assert_eq!(load(&one), load(&two), "seed {seed}");
            one.close();
            two.close();
            let rows = |scratch: &Scratch| {
                let shell = scratch.shell();
                let mut statement = shell.prepare("SELECT mid || alias || state || at FROM report ORDER BY 1").unwrap();
                statement.query_map((), |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap).collect::<Vec<_>>()
            };
            assert_eq!(rows(&once), rows(&twice), "seed {seed}");
        }
    }

    #[test]
    fn reports_are_closed_where_they_wait_and_forgotten_by_age_and_number() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let line = |name: &str, state, at| ReportLine { alias: Alias::new(name).unwrap(), state, at };
        let save = |mid: u64, line| Change::SaveReport { mid: Mid::new(mid), line };
        let waiting = |mid: u64| save(mid, line("a", DeliveryState::Waiting, mid * 10));
        assert_eq!(database.commit(&batch(1, [1, 2].map(waiting).into())), committed());
        // Written in the second batch, at service time 200.
        let mut changes: Vec<Change> = (3..=6).map(waiting).collect();
        changes.push(save(6, line("b", DeliveryState::Acknowledged, 60)));
        changes.push(Change::CloseReport { mid: Mid::new(6), state: DeliveryState::Expired, at: 65 });
        changes.push(Change::ForgetReports { before: 150, keep: 3 });
        assert_eq!(database.commit(&batch(2, changes)), committed());
        database.close();
        let shell = scratch.shell();
        let mut statement = shell.prepare("SELECT mid || alias || state || at FROM report ORDER BY mid, alias").unwrap();
        let rows: Vec<String> = statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows, ["4awaiting40", "5awaiting50", "6aexpired65", "6backnowledged60"]);
    }

    #[test]
    fn changes_do_what_they_say() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let topic = Topic::new("t").unwrap();
        let changes = vec![
            Change::SaveAlias(alias(1, "a")),
            Change::SaveAlias(alias(2, "b")),
            Change::Subscribe(AliasId(1), topic.clone()),
            Change::Subscribe(AliasId(2), topic.clone()),
            Change::Subscribe(AliasId(2), Topic::new("u").unwrap()),
            Change::Unsubscribe(AliasId(2), topic),
            save(message(4, "1"), &[(1, None), (2, None)]),
            save(message(5, "1"), &[(2, None)]),
            save(message(5, "1"), &[(1, None), (2, None)]),
            Change::EndDelivery { mid: Mid::new(5), alias: AliasId(2) },
            Change::DeleteMessage(Mid::new(4)),
            Change::SaveKey(key(4, 10)),
            Change::SaveKey(key(5, 20)),
            Change::ForgetKeysBefore { at: 15, mid: Mid::ZERO },
            Change::ForgetAlias(AliasId(1)),
            Change::SaveAlias(alias(3, "a")),
            save(message(6, "1"), &[(3, None)]),
        ];
        assert_eq!(database.commit(&batch(1, changes)), committed());
        let expected = [
            Restored::Alias(alias(2, "b")),
            Restored::Alias(alias(3, "a")),
            Restored::Subscription(AliasId(2), Topic::new("u").unwrap()),
            Restored::Message {
                mid: Mid::new(6),
                expires: 900,
                ts: 1_700_000_000_000,
                bytes: 1,
                receipt: true,
                publisher: Some(Alias::new("m_2").unwrap()),
                receivers: vec![Owed { alias: AliasId(3), topic: None }],
            },
            Restored::Key(key(5, 20)),
        ];
        assert_eq!(load(&database), expected);
    }

    #[test]
    fn deletions_in_a_row_take_their_messages_and_endings_and_no_others() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let end = |mid| Change::EndDelivery { mid: Mid::new(mid), alias: AliasId(1) };
        let mut changes = vec![Change::SaveAlias(alias(1, "a")), Change::SaveAlias(alias(2, "b"))];
        changes.extend((10..30).map(|mid| save(message(mid, "1"), &[(1, None), (2, None)])));
        changes.extend([11, 12, 14, 29].map(end));
        assert_eq!(database.commit(&batch(1, changes)), committed());
        // Neighbours in any order, one twice, one that is not there, lone ones, and the endings of the same batch.
        let deleted = [13, 11, 12, 12, 40, 20, 29, 10].map(|mid| Change::DeleteMessage(Mid::new(mid)));
        let mut changes = vec![end(13)];
        changes.extend(deleted);
        assert_eq!(database.commit(&batch(2, changes)), committed());
        let both = |mid: &u64| if *mid == 14 { (14, vec![2]) } else { (*mid, vec![1, 2]) };
        let left: Vec<u64> = (14..30).filter(|mid| ![20, 29].contains(mid)).collect();
        assert_eq!(owed(&database), left.iter().map(both).collect::<Vec<_>>());
        let endings = scratch.shell().query_row("SELECT group_concat(mid) FROM ended", (), |row| row.get::<_, String>(0));
        assert_eq!(endings.unwrap(), "14");
    }

    #[test]
    fn one_bad_row_does_not_stop_the_rest() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let beyond = DoorEntry {
            id: u64::MAX,
            at: 1,
            room: "r".into(),
            user: "".into(),
            alias: "".into(),
            label: "".into(),
            address: "".into(),
            doors: 0,
        };
        let changes = vec![
            Change::SaveAlias(alias(1, "a")),
            Change::SaveAlias(alias(u64::MAX, "b")),
            save(message(4, "1"), &[(1, None)]),
            save(message(5, "1"), &[(2, None), (1, None)]),
            Change::LogDoor(beyond),
            save(message(6, "1"), &[(1, None)]),
        ];
        let outcome = database.commit(&batch(1, changes));
        assert_eq!(outcome, Outcome::Committed { refused: vec![1, 3, 4], storing: true });
        assert_eq!(owed(&database), [(4, vec![1]), (6, vec![1])]);
        assert_eq!(database.commit(&batch(2, vec![Change::DeleteMessage(Mid::new(4))])), committed());
    }

    #[test]
    fn an_older_alias_of_the_same_name_gives_way() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let subscribed = Change::Subscribe(AliasId(1), Topic::new("t").unwrap());
        assert_eq!(database.commit(&batch(1, vec![Change::SaveAlias(alias(1, "a")), subscribed])), committed());
        assert_eq!(database.commit(&batch(2, vec![Change::SaveAlias(alias(2, "a"))])), committed());
        assert_eq!(load(&database), [Restored::Alias(alias(2, "a"))]);
        // The forgetting that comes late, out of order, finds nothing and takes nothing.
        assert_eq!(database.commit(&batch(3, vec![Change::ForgetAlias(AliasId(1))])), committed());
        assert_eq!(load(&database), [Restored::Alias(alias(2, "a"))]);
    }

    #[test]
    fn counters_never_go_back() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        database.commit(&batch(5, vec![]));
        // The wall clock does go back, but not the newest it ever was.
        database.commit(&Batch { next_alias: AliasId(3), ..batch(2, vec![]) });
        let mut counters = Vec::new();
        database.stream(&mut |restored| counters.push(restored)).unwrap();
        let Restored::Counters { stamp, newest_wall, next_alias, .. } = counters[0] else { panic!("{counters:?}") };
        assert_eq!((stamp.service, stamp.wall, newest_wall, next_alias), (500, 5_002, 5_005, AliasId(100)));
    }
}
