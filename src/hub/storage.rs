//! The port between hub and store: what the hub asks and what it hears back, as values. No SQL here, no policy there.

use std::sync::Arc;

use crate::names::{Alias, Few, Mid, Topic, Transport};
use crate::protocol::frame::Message;

/// The number under which the store knows an alias. Given out by the hub from a counter that never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasId(pub u64);

/// One receiver of a stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    /// To whom.
    pub alias: AliasId,
    /// Which of the message's topics it is subscribed to; `None` for publish_to_alias.
    pub topic: Option<u16>,
}

/// What is kept of an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasRecord {
    /// Its number.
    pub id: AliasId,
    /// Its name.
    pub name: Alias,
    /// First time it was bound or named: wall clock, ms.
    pub first_seen: u64,
    /// Last time it had a session: wall clock, ms.
    pub last_seen: u64,
    /// Last time it had a session: service time, ms (rules when it is forgotten).
    pub last_seen_service: u64,
    /// The transport of its last session; `None` if it never had one.
    pub transport: Option<Transport>,
    /// `info` of its last register that had one: the JSON text of an object.
    pub info: Option<Box<str>>,
}

/// A remembered `opts.id` and the `-6` that answers its repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Whose key: the publisher, its kind first (`alias:`, `label:` or `address:`).
    pub publisher: Box<str>,
    /// The key.
    pub id: Box<str>,
    /// When it was used: service time, ms.
    pub at: u64,
    /// The answer.
    pub mid: Mid,
    /// The answer.
    pub online: u32,
    /// The answer.
    pub stored: u32,
}

/// The state of one delivery in a report (Protocol §10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// Still owed.
    Waiting,
    /// A session acknowledged it.
    Acknowledged,
    /// Its time to live was over.
    Expired,
    /// The cap of its alias dropped it.
    Dropped,
    /// Recalled over REST.
    Recalled,
}

impl DeliveryState {
    /// The word on the wire and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Waiting => "waiting",
            DeliveryState::Acknowledged => "acknowledged",
            DeliveryState::Expired => "expired",
            DeliveryState::Dropped => "dropped",
            DeliveryState::Recalled => "recalled",
        }
    }
}

/// One line of a delivery report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportLine {
    /// Whose delivery.
    pub alias: Alias,
    /// Its state.
    pub state: DeliveryState,
    /// Since when: wall clock, ms.
    pub at: u64,
}

/// One entry of the door log (Protocol §7). `result` comes later, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorEntry {
    /// Its number, growing: the hub takes it from the mids' counter, so it is never used twice.
    pub id: u64,
    /// When the frame came: wall clock, ms.
    pub at: u64,
    /// R.
    pub room: Box<str>,
    /// U.
    pub user: Box<str>,
    /// The opener's bound alias; may be empty.
    pub alias: Box<str>,
    /// The label of the opener's token; may be empty.
    pub label: Box<str>,
    /// The opener's address.
    pub address: Box<str>,
    /// Doors that the frame reached.
    pub doors: u32,
}

/// One change that a batch asks of the store. All are idempotent: a batch may be written again after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Insert or replace one message. `receivers` are those still owed.
    SaveMessage {
        /// The message.
        message: Arc<Message>,
        /// Who is owed it, in the order of their aliases' numbers.
        receivers: Few<Owed>,
    },
    /// The last delivery has ended: delete the message and its endings.
    DeleteMessage(Mid),
    /// One of several deliveries has ended.
    EndDelivery {
        /// Of which message.
        mid: Mid,
        /// Whose.
        alias: AliasId,
    },
    /// Insert or replace an alias.
    SaveAlias(AliasRecord),
    /// Delete an alias and its subscriptions.
    ForgetAlias(AliasId),
    /// Subscribe; fine if it already is.
    Subscribe(AliasId, Topic),
    /// Unsubscribe; fine if it is not.
    Unsubscribe(AliasId, Topic),
    /// Remember an `opts.id`.
    SaveKey(KeyRecord),
    /// Forget the `opts.id`s used before that service time, ms, or whose mid is below the given one.
    ForgetKeysBefore {
        /// Service time, ms.
        at: u64,
        /// The oldest mid that is kept.
        mid: Mid,
    },
    /// Set one line of a delivery report.
    SaveReport {
        /// Of which message.
        mid: Mid,
        /// The line.
        line: ReportLine,
    },
    /// The message has ended for all who were still owed it: set every line that says `waiting`.
    CloseReport {
        /// Which message.
        mid: Mid,
        /// How it ended.
        state: DeliveryState,
        /// When: wall clock, ms.
        at: u64,
    },
    /// Forget the reports without news since that service time, and all but the newest `keep` messages'.
    ForgetReports {
        /// Service time, ms.
        before: u64,
        /// How many messages' reports stay at most.
        keep: usize,
    },
    /// Add an entry to the door log.
    LogDoor(DoorEntry),
    /// Set the result of an entry.
    SettleDoor {
        /// Which entry.
        id: u64,
        /// Whether a door opened.
        ok: bool,
        /// Why not.
        reason: Option<Box<str>>,
    },
    /// Forget the entries of the door log written before that service time, ms.
    ForgetDoorLogBefore(u64),
}

impl Change {
    /// Whether the change frees space: the only kind that is written while the disk is full.
    #[must_use]
    pub const fn is_deletion(&self) -> bool {
        matches!(
            self,
            Change::DeleteMessage(_)
                | Change::EndDelivery { .. }
                | Change::ForgetAlias(_)
                | Change::Unsubscribe(..)
                | Change::ForgetKeysBefore { .. }
                | Change::ForgetReports { .. }
                | Change::ForgetDoorLogBefore(_)
        )
    }
}

/// Service time and the wall clock, read together (Protocol §4). Both in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Service time.
    pub service: u64,
    /// Wall clock since 1970.
    pub wall: u64,
}

/// One transaction. At most one is in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its number; the answer carries it back.
    pub number: u64,
    /// Stored with the commit.
    pub stamp: Stamp,
    /// The counter of alias ids, stored with the commit.
    pub next_alias: AliasId,
    /// In order. May be empty: then it is a probe.
    pub changes: Vec<Change>,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// On disk, synced.
    Committed {
        /// Indices of changes that can't be written for their own sake and were left out (retried row by row).
        refused: Vec<usize>,
        /// False while the disk is full and the reserve is spent: the next batches may hold deletions only.
        storing: bool,
    },
    /// Rolled back whole.
    Failed(Trouble),
}

/// Why the store can't write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No space left. The next batch may hold deletions only, until `storing` is true again.
    Full,
    /// The disk or the database fails.
    Disk,
}

/// A page of bodies to read. Found ones come back in the order asked; what is not stored is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Carried back.
    pub ticket: u64,
    /// Ascending; at most [`crate::limits::PAGE_DELIVERIES_MAX`].
    pub mids: Vec<Mid>,
}

/// What the store knew at the start, in this order: counters, aliases, subscriptions, messages (ascending mids), keys (ascending time).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// First of all.
    Counters {
        /// The stamp of the last commit; zero in a new database.
        stamp: Stamp,
        /// The highest wall time of any commit, ms: tokens are judged by no earlier one (Protocol §4).
        newest_wall: u64,
        /// The next alias id to give out.
        next_alias: AliasId,
        /// The first mid to give out.
        first_mid: Mid,
    },
    /// An alias.
    Alias(AliasRecord),
    /// A subscription of an alias that came before.
    Subscription(AliasId, Topic),
    /// A message and who is still owed it.
    Message {
        /// Its number.
        mid: Mid,
        /// Service time, ms.
        expires: u64,
        /// When it was published: wall clock, ms.
        ts: u64,
        /// Bytes of its body.
        bytes: u32,
        /// Whether a report is kept.
        receipt: bool,
        /// The publisher's alias, if a report is kept.
        publisher: Option<Alias>,
        /// Who is still owed it.
        receivers: Vec<Owed>,
    },
    /// A remembered `opts.id`.
    Key(KeyRecord),
}
