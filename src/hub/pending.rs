//! Messages whose `-6` is not true yet: neither all their deliveries have ended nor are the rest committed.
//! Each is in its grace, gathered for the next transaction, or in the one that is being written. It knows no link.

use std::sync::Arc;

use crate::hub::aliases::AliasKey;
use crate::hub::hash::NumberMap;
use crate::hub::storage::ReportLine;
use crate::names::{Few, LinkId, Mid};
use crate::protocol::frame::{Message, Num, Published};

/// One receiver of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Receiver {
    pub alias: AliasKey,
    /// Which of the message's topics.
    pub topic: Option<u16>,
}

/// Who waits for a `-6`.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    pub link: LinkId,
    pub num: Option<Num>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is still being handed to its receivers, a slice a turn.
    FanOut,
    /// It waits for its acknowledgements to beat the commit.
    Grace,
    /// It waits for the next transaction.
    Gathered,
    /// It is in the transaction in flight.
    Writing,
}

/// One message whose `-6` is not true yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub message: Arc<Message>,
    pub receivers: Few<Receiver>,
    /// Deliveries that have not ended.
    pub left: u32,
    pub stage: Stage,
    /// It has an `opts.id` or a receipt: `-6` waits for the commit even if all have acknowledged.
    pub needs_commit: bool,
    /// The publisher and those who repeated its `opts.id`; empty once answered.
    pub publishers: Few<Publisher>,
    pub published: Published,
    /// Its `opts.id`: hash, publisher, id.
    pub key: Option<Box<PendingKey>>,
    /// With a receipt: the report's lines of the deliveries that ended before the commit. Names, for their aliases may be
    /// forgotten by then.
    pub ended: Vec<ReportLine>,
    /// When it was pushed: monotonic, µs.
    pub sent: u64,
}

/// The `opts.id` of a pending message.
#[derive(Debug, Clone)]
pub(super) struct PendingKey {
    pub hash: u128,
    pub publisher: Box<str>,
    pub id: Box<str>,
}

/// Slots of the grace wheel, a millisecond each: more than the longest grace.
const WHEEL_SLOTS: usize = 64;
const SLOT_US: u64 = 1_000;

/// All pending messages.
#[derive(Debug)]
pub(super) struct Pendings {
    by_mid: NumberMap<Mid, Box<Pending>>,
    wheel: Vec<Vec<Mid>>,
    /// How many mids the wheel holds, acknowledged ones included.
    in_wheel: usize,
    /// The slot that is looked at next: monotonic, ms.
    hand: u64,
    /// Bytes of all bodies here.
    bytes: usize,
}

impl Pendings {
    pub(super) fn new() -> Pendings {
        Pendings { by_mid: NumberMap::default(), wheel: vec![Vec::new(); WHEEL_SLOTS], in_wheel: 0, hand: 0, bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_mid.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_mid.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn contains(&self, mid: Mid) -> bool {
        self.by_mid.contains_key(&mid)
    }

    pub(super) fn get(&self, mid: Mid) -> Option<&Pending> {
        self.by_mid.get(&mid).map(|pending| &**pending)
    }

    pub(super) fn get_mut(&mut self, mid: Mid) -> Option<&mut Pending> {
        self.by_mid.get_mut(&mid).map(|pending| &mut **pending)
    }

    pub(super) fn add(&mut self, pending: Box<Pending>) {
        self.bytes += pending.message.body.len();
        self.by_mid.insert(pending.message.mid, pending);
    }

    pub(super) fn remove(&mut self, mid: Mid) -> Option<Box<Pending>> {
        let pending = self.by_mid.remove(&mid)?;
        self.bytes -= pending.message.body.len();
        Some(pending)
    }

    /// Lets `mid` wait until `deadline` (monotonic, µs; at most the wheel's span ahead of `now`).
    pub(super) fn wait(&mut self, mid: Mid, now: u64, deadline: u64) {
        if self.in_wheel == 0 {
            self.hand = now / SLOT_US;
        }
        let slot = deadline.div_ceil(SLOT_US).clamp(self.hand, self.hand + WHEEL_SLOTS as u64 - 1);
        self.wheel[slot as usize % WHEEL_SLOTS].push(mid);
        self.in_wheel += 1;
    }

    /// Moves the mids whose grace is over at `now` to `due`; some of them may have ended meanwhile.
    pub(super) fn take_due(&mut self, now: u64, due: &mut Vec<Mid>) {
        let mut slots = 0;
        while self.in_wheel > 0 && self.hand <= now / SLOT_US && slots < WHEEL_SLOTS {
            let slot = &mut self.wheel[self.hand as usize % WHEEL_SLOTS];
            self.in_wheel -= slot.len();
            due.append(slot);
            self.hand += 1;
            slots += 1;
        }
        if slots == WHEEL_SLOTS {
            self.hand = now / SLOT_US + 1;
        }
    }

    /// When the next grace ends: monotonic, µs.
    pub(super) fn next_due(&self) -> Option<u64> {
        if self.in_wheel == 0 {
            return None;
        }
        (self.hand..self.hand + WHEEL_SLOTS as u64)
            .find(|slot| !self.wheel[*slot as usize % WHEEL_SLOTS].is_empty())
            .map(|slot| slot * SLOT_US)
    }
}
