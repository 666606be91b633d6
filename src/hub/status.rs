//! What the hub can tell about itself: counts, pages and single aliases, for info, console and metrics (Protocol §10).

use std::time::Duration;

use crate::hub::durations::Durations;
use crate::hub::gather::{Gather, Health};
use crate::hub::{Hub, Now};
use crate::names::{Alias, Topic, Transport};
use crate::protocol::frame::RoomCounts;
use crate::protocol::refusal::Code;

/// What has happened since the process began.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Links that bound an alias.
    pub binds: u64,
    /// Publishes accepted.
    pub publishes: u64,
    /// Deliveries made owed or sent live.
    pub deliveries: u64,
    /// Deliveries acknowledged.
    pub acknowledged: u64,
    /// Deliveries whose time to live was over.
    pub expired: u64,
    /// Deliveries dropped by the cap of their alias.
    pub dropped: u64,
    /// Deliveries recalled.
    pub recalled: u64,
    /// Deliveries whose row was missing.
    pub lost: u64,
    /// Deliveries that ended because the store did not take their message: its publisher heard `unavailable`.
    pub not_stored: u64,
    /// Door frames 8 handed on.
    pub openings: u64,
    /// Door frames 8 that were too old to hand on.
    pub stale_door_frames: u64,
    /// Entries of the door log dropped while the disk was down.
    pub door_entries_dropped: u64,
    /// Sessions sent to catch-up by a full outbox.
    pub congested: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Transactions that failed.
    pub failed_commits: u64,
    /// How long transactions took, failed ones as well, from the hub's handing them over to its hearing their outcome.
    pub commit_time: Durations,
    /// Refusals by code.
    refusals: [u64; 14],
}

impl Counters {
    pub(super) fn count_refusal(&mut self, code: Code) {
        self.refusals[code as usize] += 1;
    }

    /// How often that code was answered.
    #[must_use]
    pub fn refusals(&self, code: Code) -> u64 {
        self.refusals[code as usize]
    }
}

/// `/info/{token}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Members of WebSocket rooms.
    pub web_socket: usize,
    /// Bound TCP sessions.
    pub channel: usize,
    /// Aliases online over any transport.
    pub online_all: usize,
    /// Bound Socket.IO sessions.
    pub socket_io: usize,
}

/// What waits, as the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Live connections.
    pub links: usize,
    /// Known aliases.
    pub aliases: usize,
    /// Deliveries that have not ended.
    pub deliveries: usize,
    /// Bytes of their bodies.
    pub bodies: u64,
    /// Committed messages that somebody is owed.
    pub messages: usize,
    /// Whether the store can be written.
    pub health: Health,
}

/// What is under way, each within its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queues {
    /// Publishes without their `-6`.
    pub publishes: usize,
    /// Messages that wait for the next transaction.
    pub commit_messages: usize,
    /// Changes other than messages that wait for it.
    pub commit_changes: usize,
    /// Entries of the door log among those.
    pub door_log: usize,
    /// Pages that are being read from the store.
    pub pages: usize,
    /// Links that a slice of a large fan-out holds back.
    pub deferred_links: usize,
    /// Openings without a result.
    pub openings: usize,
}

/// How the store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreState {
    /// Whether it can be written, as far as is known.
    pub health: Health,
    /// How long ago a transaction was last committed while more than deletions could be written; `None`: never.
    pub proved: Option<Duration>,
    /// How long the transaction in flight has taken so far.
    pub in_flight: Option<Duration>,
}

impl Hub {
    /// How the store does.
    #[must_use]
    pub fn store_state(&self, now: Now) -> StoreState {
        let since = |at: u64| Duration::from_micros(now.mono.saturating_sub(at));
        let Gather { health, proved_at, in_flight, .. } = &self.gather;
        StoreState { health: *health, proved: proved_at.map(since), in_flight: in_flight.as_ref().map(|flight| since(flight.since)) }
    }

    /// What is under way.
    #[must_use]
    pub fn queues(&self) -> Queues {
        Queues {
            publishes: self.pending.len(),
            commit_messages: self.gather.messages.len(),
            commit_changes: self.gather.waiting_changes(),
            door_log: self.gather.door_entries(),
            pages: self.pages.in_flight(),
            deferred_links: self.deferred.len(),
            openings: self.doors.pending(),
        }
    }

    /// How long ago the oldest stored message that somebody is still owed was published, in service time and whole seconds; zero if
    /// there is none.
    #[must_use]
    pub fn oldest_waits(&self, now: Now) -> Duration {
        let age = |since: u32| (now.service / 1_000).saturating_sub(u64::from(since));
        Duration::from_secs(self.waiting.oldest().map_or(0, age))
    }

    /// The counts of frame 7.
    #[must_use]
    pub fn room_counts(&self) -> RoomCounts {
        RoomCounts { channels: self.sizes().channel, ..self.rooms.counts() }
    }

    /// The counts of `/info`.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let over = |transport| self.presence.over(transport).map_or(0, super::presence::Online::sessions);
        let (channel, socket_io) = (over(Transport::Tcp), over(Transport::SocketIo));
        Sizes { web_socket: self.rooms.seated(), channel, online_all: self.presence.online_all(), socket_io }
    }

    /// What has happened.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What waits.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            links: self.links.count(),
            aliases: self.aliases.count(),
            deliveries: self.deliveries,
            bodies: self.bodies,
            messages: self.waiting.len(),
            health: self.gather.health,
        }
    }

    /// The topics of an alias, sorted, and whether it is online. One never seen has none and is offline.
    #[must_use]
    pub fn alias_status(&self, alias: &Alias) -> (Vec<Topic>, bool) {
        match self.aliases.find(alias.as_str()) {
            Some(key) => (self.aliases.topics(key), self.aliases.get(key).is_online()),
            None => (Vec::new(), false),
        }
    }

    /// How many aliases are online over `transport`, and `size` of them from the one numbered `from` on, sorted.
    #[must_use]
    pub fn online(&self, transport: Transport, from: usize, size: usize) -> (usize, Vec<Alias>) {
        self.presence.over(transport).map_or((0, Vec::new()), |online| online.page(from, size))
    }

    /// The process is about to end: what could wait for the disk a while longer no longer does.
    pub fn hurry(&mut self) {
        self.gather.ends_at_once = true;
    }

    /// Whether nothing waits for the disk: then the store can be closed without loss.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.gather.is_idle() && self.pending.is_empty()
    }
}
