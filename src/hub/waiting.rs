//! The index of what waits: per message one small entry, per alias a list of mids. It knows no link and no publish.
//!
//! A message that ends for everybody at once, by expiry, only loses its entry here; its mid stays in the lists of its
//! receivers until they are next looked at ([`purge`]), so that ending a message costs the same for one receiver and a thousand.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::hub::by_mid::ByMid;
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
    /// When it was published: service time, s.
    pub since: u32,
}

const _: () = assert!(size_of::<Stored>() <= 32, "there may be a million of them (Design §6)");

/// All committed messages that somebody is still owed.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    stored: ByMid<Stored>,
    /// May name messages that have ended; rebuilt when those are the more.
    expiry: BinaryHeap<Reverse<(u64, Mid)>>,
    /// How many messages were published in which second: the first is that of the oldest.
    ages: BTreeMap<u32, u32>,
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
        self.stored.get(mid).copied()
    }

    pub(super) fn contains(&self, mid: Mid) -> bool {
        self.stored.contains(mid)
    }

    pub(super) fn add(&mut self, mid: Mid, stored: Stored) {
        if let Some(before) = self.stored.insert(mid, stored) {
            self.count_out(before);
        }
        *self.ages.entry(stored.since).or_default() += 1;
        if self.expiry.len() > 2 * self.stored.len() + 1_024 {
            let stored = &self.stored;
            self.expiry.retain(|Reverse((_, mid))| stored.contains(*mid));
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
        let after = self.stored.change(mid, |stored| {
            stored.left -= 1;
            stored.left > 0
        })?;
        if after.left == 0 {
            self.receipts.remove(&mid);
            self.count_out(after);
        }
        Some(after)
    }

    fn count_out(&mut self, stored: Stored) {
        if let Some(count) = self.ages.get_mut(&stored.since) {
            *count -= 1;
            if *count == 0 {
                self.ages.remove(&stored.since);
            }
        }
    }

    /// Counts the ages again.
    #[cfg(test)]
    pub(super) fn check_ages(&self) {
        let mut ages: BTreeMap<u32, u32> = BTreeMap::new();
        self.stored.values().for_each(|stored| *ages.entry(stored.since).or_default() += 1);
        assert_eq!(self.ages, ages);
    }

    /// When the oldest was published: service time, s.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.ages.first_key_value().map(|(since, _)| *since)
    }

    /// Takes out one message whose time was over at `service`, if there is one; with it, whether a report is kept.
    pub(super) fn expire(&mut self, service: u64) -> Option<(Mid, Stored, bool)> {
        while let Some(&Reverse((expires, mid))) = self.expiry.peek() {
            if expires > service {
                return None;
            }
            self.expiry.pop();
            if let Some(stored) = self.stored.remove(mid) {
                self.count_out(stored);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(since: u32, expires: u64) -> Stored {
        Stored { expires, left: 2, bytes: 1, sent: 0, since }
    }

    #[test]
    fn the_oldest_is_known_however_messages_end() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.oldest(), None);
        for (mid, since, expires) in [(1, 7, 500), (2, 5, 900), (3, 5, 100), (4, 9, 900)] {
            waiting.add(Mid::new(mid), stored(since, expires));
        }
        assert_eq!(waiting.oldest(), Some(5));
        assert_eq!(waiting.expire(100).unwrap().0, Mid::new(3));
        waiting.end_one(Mid::new(2));
        assert_eq!(waiting.oldest(), Some(5), "one of its two deliveries is left");
        waiting.end_one(Mid::new(2));
        assert_eq!(waiting.oldest(), Some(7));
        let end = |waiting: &mut Waiting, mid| [1, 0].map(|left| assert_eq!(waiting.end_one(Mid::new(mid)).unwrap().left, left));
        end(&mut waiting, 1);
        waiting.add(Mid::new(4), stored(8, 900));
        assert_eq!(waiting.oldest(), Some(8), "written anew");
        end(&mut waiting, 4);
        assert_eq!((waiting.oldest(), waiting.ages.len()), (None, 0));
    }
}
