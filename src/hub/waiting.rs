//! The index of what waits: per message one small entry, per alias a list of mids. It knows no link and no publish.
//!
//! A message that ends for everybody at once, by expiry, only loses its entry here; its mid stays in the lists of its
//! receivers until they are next looked at ([`purge`]), so that ending a message costs the same for one receiver and a thousand.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::hub::hash::NumberMap;
use crate::names::{Alias, Mid};

/// A committed message that somebody is still owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Service time, ms.
    pub expires: u64,
    /// Deliveries that have not ended.
    pub left: u32,
    /// Bytes of the body.
    pub bytes: u32,
    /// When it was pushed: monotonic, µs; 0: by an earlier process.
    pub sent: u64,
}

/// All committed messages that somebody is still owed.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    stored: NumberMap<Mid, Stored>,
    /// May name messages that have ended; rebuilt when those are the more.
    expiry: BinaryHeap<Reverse<(u64, Mid)>>,
    /// Whose receipts: the few messages that asked for them.
    receipts: NumberMap<Mid, Option<Alias>>,
    /// Messages that have expired.
    expired: u64,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.stored.len()
    }

    /// How many messages have expired so far: an alias's list that was cleared at this count has nothing to clear.
    pub(super) fn expired(&self) -> u64 {
        self.expired
    }

    pub(super) fn get(&self, mid: Mid) -> Option<Stored> {
        self.stored.get(&mid).copied()
    }

    pub(super) fn contains(&self, mid: Mid) -> bool {
        self.stored.contains_key(&mid)
    }

    pub(super) fn add(&mut self, mid: Mid, stored: Stored) {
        self.stored.insert(mid, stored);
        if self.expiry.len() > 2 * self.stored.len() + 1_024 {
            let stored = &self.stored;
            self.expiry.retain(|Reverse((_, mid))| stored.contains_key(mid));
        }
        self.expiry.push(Reverse((stored.expires, mid)));
    }

    /// Whether a report is kept of the message, and whose alias gets the receipts.
    pub(super) fn receipt(&self, mid: Mid) -> Option<&Option<Alias>> {
        self.receipts.get(&mid)
    }

    pub(super) fn set_receipt(&mut self, mid: Mid, publisher: Option<Alias>) {
        self.receipts.insert(mid, publisher);
    }

    /// One delivery has ended: what is left of the message. At none left the entry is gone.
    pub(super) fn end_one(&mut self, mid: Mid) -> Option<Stored> {
        let stored = self.stored.get_mut(&mid)?;
        stored.left -= 1;
        let after = *stored;
        if after.left == 0 {
            self.remove(mid);
        }
        Some(after)
    }

    pub(super) fn remove(&mut self, mid: Mid) -> Option<Stored> {
        self.receipts.remove(&mid);
        self.stored.remove(&mid)
    }

    /// Takes out one message whose time was over at `service`, if there is one; with it, whether a report is kept.
    pub(super) fn expire(&mut self, service: u64) -> Option<(Mid, Stored, bool)> {
        while let Some(&Reverse((expires, mid))) = self.expiry.peek() {
            if expires > service {
                return None;
            }
            self.expiry.pop();
            if let Some(stored) = self.stored.remove(&mid) {
                self.expired += 1;
                return Some((mid, stored, self.receipts.remove(&mid).is_some()));
            }
        }
        None
    }
}

/// Takes `mid` out of a sorted list; false if it was not in it.
pub(super) fn remove(owed: &mut VecDeque<Mid>, mid: Mid) -> bool {
    if owed.front() == Some(&mid) {
        owed.pop_front();
    } else {
        let Ok(at) = owed.binary_search(&mid) else { return false };
        owed.remove(at);
    }
    if owed.is_empty() && owed.capacity() > 64 {
        *owed = VecDeque::new();
    }
    true
}

/// Takes out the mids that have ended for everybody.
pub(super) fn purge(owed: &mut VecDeque<Mid>, is_alive: impl Fn(Mid) -> bool) {
    owed.retain(|&mid| is_alive(mid));
    owed.shrink_to(2 * owed.len());
}
