//! What the hub can tell about itself: counts, pages and single aliases, for info, console and metrics (Protocol §10).

use crate::hub::Hub;
use crate::hub::gather::Health;
use crate::hub::storage::{DeliveryState, ReportLine};
use crate::names::{Alias, Mid, Topic, Transport};
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

impl Hub {
    /// The counts of frame 7.
    pub(super) fn room_counts(&self) -> RoomCounts {
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

    /// Who is still owed a message; empty if nobody.
    #[must_use]
    pub fn waiting_for(&self, mid: Mid) -> Vec<ReportLine> {
        let at = self.now.wall;
        let keys = self.owing(mid);
        let line = |key| ReportLine { alias: self.aliases.get(key).name.clone(), state: DeliveryState::Waiting, at };
        keys.into_iter().map(line).collect()
    }

    /// Whether nothing waits for the disk: then the store can be closed without loss.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.gather.is_idle() && self.pending.is_empty()
    }
}
