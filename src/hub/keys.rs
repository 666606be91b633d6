//! Remembered `opts.id`s (Protocol §4): what a repeat is answered with. Texts are kept on disk, here only their hashes.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use crate::hub::hash::NumberMap;
use crate::hub::storage::KeyRecord;
use crate::limits::IDEMPOTENCY_KEYS_MAX;
use crate::names::Mid;
use crate::protocol::frame::Published;

/// One remembered key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Remembered {
    pub published: Published,
    /// Service time, ms.
    pub at: u64,
    /// Its first publish is answered; until then repeats wait for it.
    pub answered: bool,
}

/// All remembered keys.
#[derive(Debug)]
pub(super) struct Keys {
    by_hash: NumberMap<u128, Remembered>,
    /// Oldest first, each with its mid; may name keys that were forgotten since, and perhaps used again under another mid.
    order: VecDeque<(u128, Mid)>,
    low: RandomState,
    high: RandomState,
}

impl Keys {
    pub(super) fn new() -> Keys {
        Keys { by_hash: NumberMap::default(), order: VecDeque::new(), low: RandomState::new(), high: RandomState::new() }
    }

    /// 128 bits of keyed hash: no peer can make two keys collide.
    pub(super) fn hash(&self, publisher: &str, id: &str) -> u128 {
        u128::from(self.low.hash_one((publisher, id))) | u128::from(self.high.hash_one((publisher, id))) << 64
    }

    pub(super) fn find(&self, hash: u128) -> Option<Remembered> {
        self.by_hash.get(&hash).copied()
    }

    pub(super) fn begin(&mut self, hash: u128, published: Published, at: u64) {
        self.by_hash.insert(hash, Remembered { published, at, answered: false });
        self.order.push_back((hash, published.mid));
    }

    pub(super) fn answer(&mut self, hash: u128, published: Published) {
        if let Some(key) = self.by_hash.get_mut(&hash) {
            key.published = published;
            key.answered = true;
        }
    }

    pub(super) fn forget(&mut self, hash: u128) {
        self.by_hash.remove(&hash);
    }

    pub(super) fn restore(&mut self, record: &KeyRecord) {
        let hash = self.hash(&record.publisher, &record.id);
        if self.by_hash.contains_key(&hash) {
            return;
        }
        let published = Published { mid: record.mid, online: record.online, stored: record.stored };
        self.begin(hash, published, record.at);
        self.answer(hash, published);
    }

    /// Forgets keys: up to `most` of those used before `before` (service time, ms), and all over the bound on their number.
    /// Returns the newest mid forgotten.
    pub(super) fn prune(&mut self, before: u64, most: usize) -> Option<Mid> {
        let mut newest = None;
        let mut looked_at = 0;
        while let Some(&(hash, mid)) = self.order.front() {
            let is_over = self.by_hash.len() > IDEMPOTENCY_KEYS_MAX;
            match self.by_hash.get(&hash).filter(|key| key.published.mid == mid) {
                _ if looked_at == most && !is_over => break,
                Some(key) if key.answered && (is_over || key.at < before) => {
                    newest = Some(mid);
                    self.by_hash.remove(&hash);
                }
                Some(_) => break,
                None => {}
            }
            self.order.pop_front();
            looked_at = most.min(looked_at + 1);
        }
        newest
    }
}
