//! What the store's tests share: a data folder that goes away, and values to store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::Connection;

use crate::hub::storage::{AliasId, AliasRecord, Batch, Change, KeyRecord, Outcome, Owed, Restored, Stamp};
use crate::names::{Alias, Mid, Topic, Transport};
use crate::protocol::frame::Message;
use crate::store::Options;
use crate::store::database::Database;
use crate::store::fault::Fault;
use crate::store::folder::Folder;

/// A reserve that is quickly written.
pub(super) const RESERVE: u64 = 64 << 10;

/// A door log that is quickly full.
pub(super) const DOOR_LOG: u64 = 200;

/// A folder of one test's own, removed at its end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Scratch {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("porter-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    /// The data folder; not made yet.
    pub(super) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }

    pub(super) fn options(&self) -> Options {
        Options { folder: self.data(), reserve_bytes: RESERVE, door_log_max: DOOR_LOG, wall: || 1_795_640_940_000, mono: || 7 }
    }

    pub(super) fn folder(&self) -> Folder {
        let mut folder = Folder::new(&self.data());
        folder.enter().unwrap();
        folder
    }

    pub(super) fn open(&self) -> Result<Database, Fault> {
        Database::open(&self.options())
    }

    /// A connection beside the store's, as an administrator has it.
    pub(super) fn shell(&self) -> Connection {
        Connection::open(self.file("porter.db")).unwrap()
    }

    /// Runs SQL on the closed database.
    pub(super) fn edit(&self, sql: &str) {
        self.shell().execute_batch(sql).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The permission bits of a file or folder.
pub(super) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

pub(super) fn alias(id: u64, name: &str) -> AliasRecord {
    AliasRecord {
        id: AliasId(id),
        name: Alias::new(name).unwrap(),
        first_seen: 10,
        last_seen: 20,
        last_seen_service: 30,
        transport: Some(Transport::SocketIo),
        info: Some(r#"{"floor":3}"#.into()),
    }
}

pub(super) fn message(mid: u64, body: &str) -> Message {
    Message {
        mid: Mid::new(mid),
        ts: 1_700_000_000_000,
        expires: 900,
        topics: [Topic::new("news").unwrap(), Topic::new("say \"hi\"").unwrap()].into(),
        receipt: true,
        publisher: Some(Alias::new("m_2").unwrap()),
        body: body.into(),
    }
}

pub(super) fn save(message: Message, receivers: &[(u64, Option<u16>)]) -> Change {
    let receivers = receivers.iter().map(|&(alias, topic)| Owed { alias: AliasId(alias), topic }).collect();
    Change::SaveMessage { message: Arc::new(message), receivers }
}

pub(super) fn key(mid: u64, at: u64) -> KeyRecord {
    KeyRecord { publisher: "alias:m_2".into(), id: format!("key-{mid}").into(), at, mid: Mid::new(mid), online: 1, stored: 2 }
}

pub(super) fn batch(number: u64, changes: Vec<Change>) -> Batch {
    Batch { number, stamp: Stamp { service: number * 100, wall: 5_000 + number }, next_alias: AliasId(100), changes }
}

/// The answer to a batch without a hitch.
pub(super) fn committed() -> Outcome {
    Outcome::Committed { refused: Vec::new(), storing: true }
}

/// All that the database knows but the counters.
pub(super) fn load(database: &Database) -> Vec<Restored> {
    let mut all = Vec::new();
    database.stream(&mut |restored| all.push(restored)).unwrap();
    assert!(matches!(all.remove(0), Restored::Counters { .. }));
    all
}

/// The messages among them, with the ids that they are owed to.
pub(super) fn owed(database: &Database) -> Vec<(u64, Vec<u64>)> {
    let all = load(database).into_iter().filter_map(|restored| match restored {
        Restored::Message { mid, receivers, .. } => Some((mid.number(), receivers.iter().map(|owed| owed.alias.0).collect())),
        _ => None,
    });
    all.collect()
}
