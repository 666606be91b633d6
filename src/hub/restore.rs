//! Flow: what the store knew at the start becomes the hub's state.

use std::collections::HashMap;

use crate::hub::Hub;
use crate::hub::aliases::AliasKey;
use crate::hub::storage::{AliasId, Owed, Restored, Stamp};
use crate::hub::waiting::Stored;
use crate::limits::TIME_TO_LIVE_MAX_S;
use crate::names::{Alias, Mid};

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
                let key = self.hub.aliases.restore(record);
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
        for owed in receivers {
            let Some(&key) = self.by_id.get(&owed.alias) else { continue };
            hub.aliases.get_mut(key).owed.push_back(mid);
            stored.left += 1;
        }
        if stored.left == 0 {
            hub.gather.queue(crate::hub::storage::Change::DeleteMessage(mid));
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
