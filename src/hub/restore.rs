//! Flow: what the store knew at the start becomes the hub's state: at once, or late, where the disk did not allow it at the start.
//! Late, the hub has lived without: it has sessions of aliases that it took for new, and refused whatever it could not know.

use std::collections::HashMap;

use crate::hub::aliases::AliasKey;
use crate::hub::storage::{AliasId, Owed, Restored, Stamp};
use crate::hub::waiting::Stored;
use crate::hub::{Hub, Now};
use crate::limits::TIME_TO_LIVE_MAX_S;
use crate::names::{Alias, LinkId, Mid};

/// What is kept from one piece to the next: which alias has which number, and the stamp of the last commit.
#[derive(Debug, Default)]
pub struct Numbers(HashMap<AliasId, AliasKey>, Stamp);

impl Hub {
    /// What is stored is not known yet: topics have subscribers that are not known, and aliases are owed what can't be read. What
    /// depends on it is refused until [`Hub::restore`] has told all.
    pub fn begin_uninformed(&mut self) {
        self.uninformed = true;
    }

    /// Takes over a piece of what was stored, `last` with the last. A piece that comes again changes nothing.
    pub fn restore(&mut self, now: Now, numbers: &mut Numbers, piece: Vec<Restored>, last: bool) {
        self.now = now;
        let Numbers(by_id, stamp) = std::mem::take(numbers);
        let mut restorer = Restorer { hub: self, by_id, stamp };
        piece.into_iter().for_each(|one| restorer.take(one));
        *numbers = Numbers(restorer.by_id, restorer.stamp);
        if last {
            self.uninformed = false;
            *numbers = Numbers::default();
            log::info!("store event=restored_late messages={} aliases={}", self.waiting.len(), self.aliases.count());
        }
    }
}

/// Fills a new hub, one thing after another.
#[derive(Debug)]
pub struct Restorer<'a> {
    hub: &'a mut Hub,
    by_id: HashMap<AliasId, AliasKey>,
    /// Of the last commit.
    stamp: Stamp,
}

impl<'a> Restorer<'a> {
    /// For a hub that has not been told anything yet.
    pub fn new(hub: &'a mut Hub) -> Restorer<'a> {
        Restorer { hub, by_id: HashMap::new(), stamp: Stamp::default() }
    }

    /// Takes one thing over. The store gives them in the order that [`Restored`] states.
    pub fn take(&mut self, restored: Restored) {
        match restored {
            Restored::Counters { stamp, next_alias, .. } => {
                self.stamp = stamp;
                self.hub.aliases.restore_next_id(next_alias);
            }
            Restored::Alias(record) => {
                let id = record.id;
                let key = match self.hub.aliases.find(record.name.as_str()) {
                    Some(key) => self.hub.aliases.restore_known(key, record),
                    None => self.hub.aliases.restore(record),
                };
                self.by_id.insert(id, key);
            }
            Restored::Subscription(alias, topic) => {
                if let Some(&key) = self.by_id.get(&alias) {
                    self.hub.aliases.subscribe(key, &topic);
                }
            }
            Restored::Message { mid, expires, ts, bytes, receipt, publisher, receivers } => {
                let since = self.published_at(ts, expires);
                self.message(mid, Stored { expires, left: 0, bytes, sent: 0, since }, receipt.then_some(publisher), &receivers);
            }
            Restored::Key(record) => self.hub.keys.restore(&record),
        }
    }

    /// When a message of that wall time was published, in seconds of service time: as far before the last commit as its wall time is
    /// before that commit's. Should the wall clock have stepped between the two, it is at least within the longest time to live.
    fn published_at(&self, ts: u64, expires: u64) -> u32 {
        let since = self.stamp.service.saturating_sub(self.stamp.wall.saturating_sub(ts));
        let earliest = expires.saturating_sub(u64::from(TIME_TO_LIVE_MAX_S) * 1_000);
        u32::try_from(since.max(earliest) / 1_000).unwrap_or(u32::MAX)
    }

    fn message(&mut self, mid: Mid, mut stored: Stored, receipt: Option<Option<Alias>>, receivers: &[Owed]) {
        let hub = &mut *self.hub;
        if hub.waiting.contains(mid) {
            return;
        }
        for owed in receivers {
            let Some(&key) = self.by_id.get(&owed.alias) else { continue };
            // Whoever bound before the hub knew of this gets it now, from the oldest on.
            for session in hub.owe_restored(key, mid) {
                hub.resend(session);
            }
            stored.left += 1;
        }
        if stored.left == 0 {
            hub.gather.delete(mid, hub.now.mono);
            return;
        }
        hub.deliveries += stored.left as usize;
        hub.bodies += u64::from(stored.bytes);
        hub.waiting.add(mid, stored);
        if let Some(publisher) = receipt {
            hub.waiting.set_receipt(mid, publisher);
        }
    }
}

impl Hub {
    /// Puts the mid into the alias's list; returns the sessions that it already has.
    fn owe_restored(&mut self, key: AliasKey, mid: Mid) -> Vec<LinkId> {
        let entry = self.aliases.get_mut(key);
        // All that was stored before comes in order; what came since is above it.
        if entry.owed.back().is_none_or(|last| *last < mid) {
            entry.owed.push_back(mid);
        } else if let Err(at) = entry.owed.binary_search(&mid) {
            entry.owed.insert(at, mid);
        }
        if !entry.sessions.is_empty() {
            entry.pushed = Mid::ZERO;
        }
        entry.sessions.to_vec()
    }
}
