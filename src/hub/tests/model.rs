//! What a store that never fails would know: batches applied to plain maps. It is the yardstick of the tests and the simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::hub::restore::Restorer;
use crate::hub::storage::{AliasId, AliasRecord, Batch, Change, KeyRecord, Owed, PageRequest, Restored, Stamp};
use crate::names::{Mid, Topic};
use crate::protocol::frame::Message;

/// Everything that is committed.
#[derive(Debug, Default, Clone)]
pub(in crate::hub) struct Model {
    pub stamp: Stamp,
    pub next_alias: u64,
    pub aliases: BTreeMap<AliasId, AliasRecord>,
    pub subscriptions: BTreeSet<(AliasId, Topic)>,
    pub messages: BTreeMap<Mid, (Arc<Message>, Vec<Owed>)>,
    pub ended: BTreeSet<(Mid, AliasId)>,
    pub keys: BTreeMap<Mid, KeyRecord>,
}

impl Model {
    /// Applies a batch whole.
    pub(in crate::hub) fn commit(&mut self, batch: &Batch) {
        self.stamp = batch.stamp;
        self.next_alias = batch.next_alias.0;
        for change in &batch.changes {
            self.apply(change);
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::SaveMessage { message, receivers } => {
                self.messages.insert(message.mid, (Arc::clone(message), receivers.to_vec()));
            }
            Change::DeleteMessage(mid) => {
                self.messages.remove(mid);
                self.ended.retain(|(ended, _)| ended != mid);
            }
            Change::EndDelivery { mid, alias } => {
                self.ended.insert((*mid, *alias));
            }
            Change::SaveAlias(record) => {
                let older: Vec<AliasId> = self
                    .aliases
                    .values()
                    .filter(|other| other.name == record.name && other.id != record.id)
                    .map(|other| other.id)
                    .collect();
                older.into_iter().for_each(|id| self.forget(id));
                self.aliases.insert(record.id, record.clone());
            }
            Change::ForgetAlias(id) => self.forget(*id),
            Change::Subscribe(id, topic) => {
                self.subscriptions.insert((*id, topic.clone()));
            }
            Change::Unsubscribe(id, topic) => {
                self.subscriptions.remove(&(*id, topic.clone()));
            }
            Change::SaveKey(key) => {
                self.keys.insert(key.mid, key.clone());
            }
            Change::ForgetKeysBefore { at, mid } => self.keys.retain(|_, key| key.at >= *at && key.mid >= *mid),
            Change::SaveReport { .. }
            | Change::CloseReport { .. }
            | Change::ForgetReports { .. }
            | Change::LogDoor(_)
            | Change::SettleDoor { .. }
            | Change::ForgetDoorLogBefore(_) => {}
        }
    }

    fn forget(&mut self, id: AliasId) {
        self.aliases.remove(&id);
        self.subscriptions.retain(|(alias, _)| *alias != id);
    }

    /// Who is owed what, by the rows alone.
    pub(in crate::hub) fn owed(&self) -> BTreeSet<(Mid, AliasId)> {
        let all = self.messages.iter().flat_map(|(mid, (_, owed))| owed.iter().map(|owed| (*mid, owed.alias)));
        all.filter(|owed| !self.ended.contains(owed)).collect()
    }

    /// The bodies of a page.
    pub(in crate::hub) fn read(&self, request: &PageRequest) -> Vec<Arc<Message>> {
        request.mids.iter().filter_map(|mid| self.messages.get(mid)).map(|(message, _)| Arc::clone(message)).collect()
    }

    /// Tells a new hub everything, as the store does at the start.
    pub(in crate::hub) fn restore(&self, restorer: &mut Restorer<'_>, first_mid: Mid) {
        let (stamp, next_alias) = (self.stamp, AliasId(self.next_alias));
        restorer.take(Restored::Counters { stamp, newest_wall: stamp.wall, next_alias, first_mid });
        self.aliases.values().for_each(|record| restorer.take(Restored::Alias(record.clone())));
        for (alias, topic) in &self.subscriptions {
            restorer.take(Restored::Subscription(*alias, topic.clone()));
        }
        for (mid, (message, owed)) in &self.messages {
            restorer.take(Restored::Message {
                mid: *mid,
                expires: message.expires,
                ts: message.ts,
                bytes: message.body.len() as u32,
                receipt: message.receipt,
                publisher: message.publisher.clone(),
                receivers: owed.iter().filter(|owed| !self.ended.contains(&(*mid, owed.alias))).copied().collect(),
            });
        }
        self.keys.values().for_each(|key| restorer.take(Restored::Key(key.clone())));
    }
}
