//! What the store knew, streamed to the hub at the start. A row that can't be read is noted and left out: a few messages lost
//! are better than all of them set aside with them. A file that contradicts itself is an error.

use std::collections::HashSet;

use rusqlite::{Connection, Result, Row, Rows};

use crate::hub::storage::{AliasId, Owed, Restored};
use crate::names::Mid;
use crate::store::columns::damaged;
use crate::store::findings::{Findings, Kind};
use crate::store::messages::{self, Messages, OwedMessage};
use crate::store::{aliases, keys, meta, rows};

/// Gives all to `take` in the order that [`Restored`] names. `first_mid`: the first one that this run may give out.
/// Deletes the endings whose message is gone, and the messages whose deliveries have all ended.
pub(super) fn load(connection: &Connection, first_mid: Mid, findings: &Findings, take: &mut dyn FnMut(Restored)) -> Result<()> {
    let meta = meta::read(connection)?;
    let (stamp, newest_wall, next_alias) = (meta.stamp, meta.newest_wall, meta.next_alias);
    take(Restored::Counters { stamp, newest_wall, next_alias, first_mid });

    let mut known = HashSet::new();
    each_row(connection, aliases::ALL, "alias", findings, &mut |row| {
        let alias = aliases::get(row)?;
        known.insert(alias.id);
        take(Restored::Alias(alias));
        Ok(())
    })?;
    each_row(connection, aliases::ALL_SUBSCRIPTIONS, "subscription", findings, &mut |row| {
        let (alias, topic) = aliases::get_subscription(row)?;
        if known.contains(&alias) {
            take(Restored::Subscription(alias, topic));
        }
        Ok(())
    })?;
    let left_behind = rows::left_behind(connection)?;
    if left_behind > 0 {
        let text = format!("table message: {left_behind} rows of an older version could not be read; they are left out and stay in it");
        findings.note(Kind::RowsDamaged, text);
    }
    let Left { ended, orphans } = load_messages(connection, &known, findings, take)?;
    tidy("orphans", delete(connection, orphans.len(), |messages| messages.delete_endings(&orphans)));
    tidy("ended", delete(connection, ended.len(), |messages| messages.delete(ended)));
    each_row(connection, keys::ALL, "opts_id", findings, &mut |row| {
        take(Restored::Key(keys::get(row)?));
        Ok(())
    })
}

/// What the start finds that is of no use any more.
struct Left {
    /// The messages that nobody is owed.
    ended: Vec<Mid>,
    /// The messages that are gone, of endings that are not.
    orphans: Vec<Mid>,
}

fn load_messages(connection: &Connection, known: &HashSet<AliasId>, findings: &Findings, take: &mut dyn FnMut(Restored)) -> Result<Left> {
    let mut statement = connection.prepare(messages::ALL_ENDED)?;
    let mut endings = Endings::start(statement.query(())?, findings)?;
    let mut ended = Vec::new();
    let mut last = None;
    let mut load = |owed: OwedMessage| {
        let OwedMessage { mid, expires, ts, bytes, receipt, publisher, mut receivers } = owed;
        if last.replace(mid).is_some_and(|last| last >= mid) {
            return Err(damaged("the messages are not in the order of their numbers"));
        }
        endings.strike(mid, &mut receivers)?;
        if receivers.is_empty() {
            ended.push(mid);
            return Ok(());
        }
        receivers.retain(|owed| {
            let is_known = known.contains(&owed.alias);
            if !is_known {
                log::error!("store event=unknown_alias mid={mid} alias_id={}", owed.alias.0);
            }
            is_known
        });
        if !receivers.is_empty() {
            let publisher = publisher.filter(|_| receipt);
            take(Restored::Message { mid, expires, ts, bytes, receipt, publisher, receivers });
        }
        Ok(())
    };
    each_row(connection, messages::ALL, "segment", findings, &mut |row| messages::each_owed(row, &mut load))?;
    let orphans = endings.finish()?;
    Ok(Left { ended, orphans })
}

/// The rows of `ended`, read beside the messages: both ascend by mid.
struct Endings<'s> {
    rows: Rows<'s>,
    findings: &'s Findings,
    next: Option<(u64, AliasId)>,
    /// Of one message; kept for its space.
    struck: Vec<AliasId>,
    /// The messages of those that were passed: they are not among those read.
    orphans: Vec<Mid>,
}

impl<'s> Endings<'s> {
    fn start(rows: Rows<'s>, findings: &'s Findings) -> Result<Endings<'s>> {
        let mut endings = Endings { rows, findings, next: None, struck: Vec::new(), orphans: Vec::new() };
        endings.step()?;
        Ok(endings)
    }

    /// The next that can be read: a delivery whose ending can't be comes again, which is allowed.
    fn step(&mut self) -> Result<()> {
        self.next = None;
        while self.next.is_none() {
            let Some(row) = self.rows.next()? else { return Ok(()) };
            let ended = self.findings.readable("ended", format_args!("{:?}", row.get_ref(0)?), messages::get_ended(row))?;
            self.next = ended.map(|(mid, alias)| (mid.number(), alias));
        }
        Ok(())
    }

    /// Takes those out of `receivers` whose delivery of that message has ended.
    fn strike(&mut self, mid: Mid, receivers: &mut Vec<Owed>) -> Result<()> {
        self.struck.clear();
        while let Some((of, alias)) = self.next.filter(|(of, _)| *of <= mid.number()) {
            if of == mid.number() {
                self.struck.push(alias);
            } else {
                self.orphans.push(Mid::new(of));
            }
            self.step()?;
        }
        if !self.struck.is_empty() {
            // They ascend, as the table's key does.
            receivers.retain(|owed| self.struck.binary_search(&owed.alias).is_err());
        }
        Ok(())
    }

    /// All messages are read. Those that the endings passed or left name.
    fn finish(mut self) -> Result<Vec<Mid>> {
        while let Some((of, _)) = self.next {
            self.orphans.push(Mid::new(of));
            self.step()?;
        }
        Ok(self.orphans)
    }
}

fn each_row(
    connection: &Connection,
    sql: &str,
    table: &str,
    findings: &Findings,
    take: &mut dyn FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        let taken = take(row);
        findings.readable(table, format_args!("{:?}", row.get_ref(0)?), taken)?;
    }
    Ok(())
}

fn delete(connection: &Connection, count: usize, work: impl FnOnce(&mut Messages<'_>) -> Result<()>) -> Result<usize> {
    if count == 0 {
        return Ok(0);
    }
    let transaction = connection.unchecked_transaction()?;
    work(&mut Messages::new(&transaction))?;
    transaction.commit()?;
    Ok(count)
}

/// What is left over may stay when the disk is full: it does no harm.
fn tidy(what: &str, deleted: Result<usize>) {
    match deleted {
        Ok(0) => {}
        Ok(rows) => log::info!("store event=tidied what={what} rows={rows}"),
        Err(error) => log::warn!("store event=not_tidied what={what} error=\"{error}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::storage::{Change, Stamp};
    use crate::names::{Alias, Topic};
    use crate::store::samples::{Scratch, alias, batch, committed, key, load, message, owed, save};

    #[test]
    fn a_new_database_knows_nothing() {
        let scratch = Scratch::new();
        let mut all = Vec::new();
        scratch.open().unwrap().stream(&mut |restored| all.push(restored)).unwrap();
        let first_mid = Mid::new(1 << 40);
        assert_eq!(all, [Restored::Counters { stamp: Stamp::default(), newest_wall: 0, next_alias: AliasId(1), first_mid }]);
    }

    #[test]
    fn what_was_stored_comes_back_in_order() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let (door, phone) = (alias(3, "door-3-1"), alias(9, "门"));
        let bare = crate::hub::storage::AliasRecord { transport: None, info: None, ..alias(12, "new") };
        let topic = Topic::new("news").unwrap();
        let quiet = crate::protocol::frame::Message { receipt: false, ..message(8, "\"é\"") };
        let changes = vec![
            save(quiet, &[(3, None)]),
            save(message(5, "{\"a\": 1.50}"), &[(3, Some(0)), (9, Some(1))]),
            Change::SaveKey(key(5, 40)),
            Change::SaveAlias(phone.clone()),
            Change::Subscribe(AliasId(9), topic.clone()),
            Change::SaveAlias(door.clone()),
            Change::SaveAlias(bare.clone()),
        ];
        assert_eq!(database.commit(&batch(2, changes)), committed());
        database.close();

        let mut all = Vec::new();
        scratch.open().unwrap().stream(&mut |restored| all.push(restored)).unwrap();
        let receivers = |list: &[(u64, Option<u16>)]| list.iter().map(|&(id, topic)| Owed { alias: AliasId(id), topic }).collect();
        let expected = [
            Restored::Counters {
                stamp: Stamp { service: 200, wall: 5_002 },
                newest_wall: 5_002,
                next_alias: AliasId(100),
                first_mid: Mid::new(2 << 40),
            },
            Restored::Alias(door),
            Restored::Alias(phone),
            Restored::Alias(bare),
            Restored::Subscription(AliasId(9), topic),
            Restored::Message {
                mid: Mid::new(5),
                expires: 900,
                ts: 1_700_000_000_000,
                bytes: 11,
                receipt: true,
                publisher: Some(Alias::new("m_2").unwrap()),
                receivers: receivers(&[(3, Some(0)), (9, Some(1))]),
            },
            Restored::Message {
                mid: Mid::new(8),
                expires: 900,
                ts: 1_700_000_000_000,
                bytes: 4,
                receipt: false,
                publisher: None,
                receivers: receivers(&[(3, None)]),
            },
            Restored::Key(key(5, 40)),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn ended_deliveries_are_left_out_and_what_nobody_is_owed_is_deleted() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let end = |mid, alias| Change::EndDelivery { mid: Mid::new(mid), alias: AliasId(alias) };
        let mut changes: Vec<Change> = [1, 2, 3].iter().map(|id| Change::SaveAlias(alias(*id, &format!("a{id}")))).collect();
        changes.extend([4, 5, 6].map(|mid| save(message(mid, "1"), &[(1, None), (2, None), (3, None)])));
        // An ending before the first message, one between, two with a message, one for each receiver of the last, one behind.
        changes.extend([end(1, 1), end(4, 2), end(5, 3), end(5, 1), end(6, 1), end(6, 2), end(6, 3), end(9, 1)]);
        changes.push(Change::SaveKey(key(6, 1)));
        assert_eq!(database.commit(&batch(1, changes)), committed());
        assert_eq!(owed(&database), [(4, vec![1, 3]), (5, vec![2])]);
        assert!(load(&database).contains(&Restored::Key(key(6, 1))), "its key is still remembered");
        database.close();
        let shell = scratch.shell();
        let count = |sql: &str| shell.query_row(sql, (), |row| row.get::<_, u32>(0)).unwrap();
        assert_eq!(count("SELECT sum(json_array_length(heads)) FROM segment"), 2);
        assert_eq!(count("SELECT count(*) FROM ended"), 3);
    }

    #[test]
    fn rows_that_name_unknown_aliases_or_cant_be_read_are_left_out() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let changes = vec![
            Change::SaveAlias(alias(1, "a")),
            Change::SaveAlias(alias(2, "b")),
            Change::Subscribe(AliasId(1), Topic::new("t").unwrap()),
            Change::Subscribe(AliasId(7), Topic::new("t").unwrap()),
            save(message(4, "1"), &[(1, None), (7, None)]),
            save(message(5, "1"), &[(7, None)]),
        ];
        assert_eq!(database.commit(&batch(1, changes)), committed());
        for mid in [6, 7] {
            assert_eq!(database.commit(&batch(mid, vec![save(message(mid, "1"), &[(1, None)])])), committed());
        }
        database.close();
        scratch.edit(
            "UPDATE segment SET heads = 'damaged' WHERE mid = 6; UPDATE alias SET name = 'b' || char(7) WHERE id = 2;
             UPDATE segment SET expires = -1 WHERE mid = 7; INSERT INTO subscription VALUES (1, '', NULL);",
        );
        let database = scratch.open().unwrap();
        assert_eq!(owed(&database), [(4, vec![1])]);
        let names: Vec<Restored> = load(&database).into_iter().filter(|one| !matches!(one, Restored::Message { .. })).collect();
        assert_eq!(names, [Restored::Alias(alias(1, "a")), Restored::Subscription(AliasId(1), Topic::new("t").unwrap())]);
        database.close();
        let kept: u32 = scratch.shell().query_row("SELECT count(*) FROM segment", (), |row| row.get(0)).unwrap();
        assert_eq!(kept, 3, "what can't be read is left for people");
    }

    /// A row of each table, altered where only its check can tell.
    #[test]
    fn a_row_that_is_not_as_it_was_written_is_left_out_and_noted() {
        let altered = [
            "UPDATE segment SET heads = replace(heads, ',[1],', ',[2],') WHERE mid = 4",
            "UPDATE segment SET expires = expires + 1 WHERE mid = 4",
            "UPDATE segment SET ts = ts + 1 WHERE mid = 4",
            "UPDATE segment SET heads = replace(heads, 'news', 'newt') WHERE mid = 4",
            "UPDATE segment SET heads = replace(heads, ',1,[', ',0,[') WHERE mid = 4",
            "UPDATE segment SET mid = 3 WHERE mid = 4",
            "UPDATE segment SET last = 9 WHERE mid = 4",
            "UPDATE segment SET crc = crc + 1 WHERE mid = 4",
            "UPDATE alias SET name = 'c' WHERE id = 1",
            "UPDATE alias SET id = 7 WHERE id = 1",
            "UPDATE subscription SET topic = 'u'",
            "UPDATE ended SET alias = 1",
            "UPDATE opts_id SET online = online + 1",
        ];
        for sql in altered {
            let scratch = Scratch::new();
            let mut database = scratch.open().unwrap();
            let changes = vec![
                Change::SaveAlias(alias(1, "a")),
                Change::SaveAlias(alias(2, "b")),
                Change::Subscribe(AliasId(1), Topic::new("t").unwrap()),
                save(message(5, "1"), &[(1, None), (2, None)]),
                Change::EndDelivery { mid: Mid::new(5), alias: AliasId(2) },
                Change::SaveKey(key(5, 1)),
            ];
            assert_eq!(database.commit(&batch(1, changes)), committed());
            assert_eq!(database.commit(&batch(2, vec![save(message(4, "1"), &[(1, Some(0))])])), committed());
            let whole = load(&database);
            database.close();
            scratch.edit(sql);
            let database = scratch.open().unwrap();
            let left = load(&database);
            let [found] = &database.findings().list()[..] else { panic!("{sql}: {:?}", database.findings()) };
            assert_eq!(found.name(), "rows_damaged", "{sql}");
            // An ending that does not count brings its delivery again.
            let comes_again = |one: &Restored| matches!(one, Restored::Message { receivers, .. } if receivers.len() == 2);
            assert!(left.iter().all(|one| whole.contains(one) || comes_again(one)), "{sql}: {left:?}");
        }
    }

    #[test]
    fn rows_of_an_older_version_have_no_check_and_are_taken() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let changes = vec![Change::SaveAlias(alias(1, "a")), save(message(4, "1"), &[(1, None)]), Change::SaveKey(key(4, 1))];
        assert_eq!(database.commit(&batch(1, changes)), committed());
        let whole = load(&database);
        database.close();
        scratch.edit("UPDATE alias SET crc = NULL; UPDATE opts_id SET crc = NULL; UPDATE meta SET crc = NULL");
        let database = scratch.open().unwrap();
        assert_eq!(load(&database), whole);
        assert!(database.findings().list().is_empty());
        database.close();
        // What could not be moved into segments is told at each start.
        scratch.edit("CREATE TABLE message (mid INTEGER PRIMARY KEY); INSERT INTO message VALUES (7)");
        let database = scratch.open().unwrap();
        assert_eq!(load(&database), whole);
        let [found] = &database.findings().list()[..] else { panic!("{:?}", database.findings()) };
        assert_eq!(found.name(), "rows_damaged");
    }

    #[test]
    fn the_view_says_who_waits_for_what() {
        let scratch = Scratch::new();
        let mut database = scratch.open().unwrap();
        let mut changes: Vec<Change> = [2, 5, 9].iter().map(|id| Change::SaveAlias(alias(*id, &format!("a{id}")))).collect();
        changes.push(save(message(4, "1"), &[(2, Some(1)), (5, Some(0)), (9, None)]));
        changes.push(save(message(6, "2"), &[(5, Some(0)), (9, Some(0))]));
        changes.push(save(message(7, "true"), &[(9, None)]));
        changes.push(save(message(8, r#"{"say":["\"hi\"",null]}"#), &[(9, None)]));
        changes.push(Change::EndDelivery { mid: Mid::new(4), alias: AliasId(5) });
        assert_eq!(database.commit(&batch(1, changes)), committed());
        // One that can't be read is left out, as it is at the start.
        assert_eq!(database.commit(&batch(2, vec![save(message(10, "1"), &[(9, None)])])), committed());
        scratch.shell().execute_batch("UPDATE segment SET heads = '[' || heads WHERE mid = 10").unwrap();
        let shell = scratch.shell();
        let mut statement = shell.prepare("SELECT mid, alias, topic, body FROM waiting ORDER BY mid, alias").unwrap();
        let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
        let rows: Vec<(u32, String, Option<String>, String)> = rows.map(Result::unwrap).collect();
        let row = |mid, alias: &str, topic: Option<&str>, body: &str| (mid, alias.to_owned(), topic.map(str::to_owned), body.to_owned());
        let expected = [
            row(4, "a2", Some("say \"hi\""), "1"),
            row(4, "a9", None, "1"),
            row(6, "a5", Some("news"), "2"),
            row(6, "a9", Some("news"), "2"),
            row(7, "a9", None, "true"),
            row(8, "a9", None, r#"{"say":["\"hi\"",null]}"#),
        ];
        assert_eq!(rows, expected);
    }
}
