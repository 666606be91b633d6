//! The table of known aliases and the topics they subscribe to, both ways. It knows no link beyond its id.

use std::collections::{HashMap, VecDeque};

use crate::hub::slab::Slab;
use crate::hub::storage::{AliasId, AliasRecord};
use crate::names::{Alias, Few, LinkId, Mid, Topic, Transport};

/// Place of an alias in the table; valid while the alias is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AliasKey(u32);

/// Place of a topic in the table; valid while somebody subscribes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TopicKey(u32);

/// What is known of one alias.
#[derive(Debug)]
pub(super) struct AliasEntry {
    pub name: Alias,
    /// Its number in the store; given when something of it is to be stored.
    pub id: Option<AliasId>,
    /// Its row is committed.
    pub saved: bool,
    /// The last transaction that carried its row.
    pub in_batch: u64,
    /// Wall clock, ms.
    pub first_seen: u64,
    /// Wall clock, ms.
    pub last_seen: u64,
    /// Service time, ms.
    pub last_seen_service: u64,
    /// `last_seen_service` as last sent to the store.
    pub saved_seen: u64,
    pub transport: Option<Transport>,
    pub info: Option<Box<str>>,
    /// At most eight, in the order they came.
    pub sessions: Few<LinkId>,
    /// Sorted.
    pub topics: Vec<TopicKey>,
    /// The mids it is owed, ascending. Mids that have ended for all (expiry) may linger: see `waiting`.
    pub owed: VecDeque<Mid>,
    /// How many messages had expired when its list was last cleared of such.
    pub purged: u64,
    /// The highest mid that was pushed to any of its sessions: what comes again below is a repeat.
    pub pushed: Mid,
}

impl AliasEntry {
    fn new(name: Alias, wall: u64, service: u64) -> AliasEntry {
        AliasEntry {
            name,
            id: None,
            saved: false,
            in_batch: 0,
            first_seen: wall,
            last_seen: wall,
            last_seen_service: service,
            saved_seen: 0,
            transport: None,
            info: None,
            sessions: Few::None,
            topics: Vec::new(),
            owed: VecDeque::new(),
            purged: 0,
            pushed: Mid::ZERO,
        }
    }

    pub(super) fn is_online(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Nothing is known of it that would be missed.
    pub(super) fn is_forgettable(&self) -> bool {
        self.sessions.is_empty() && self.topics.is_empty() && self.owed.is_empty() && self.info.is_none()
    }

    /// What the store keeps of it; `None` while it has no number.
    pub(super) fn record(&self) -> Option<AliasRecord> {
        Some(AliasRecord {
            id: self.id?,
            name: self.name.clone(),
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            last_seen_service: self.last_seen_service,
            transport: self.transport,
            info: self.info.clone(),
        })
    }
}

#[derive(Debug)]
struct TopicEntry {
    name: Topic,
    /// Sorted.
    subscribers: Vec<AliasKey>,
}

/// All known aliases.
#[derive(Debug)]
pub(super) struct Aliases {
    entries: Slab<Box<AliasEntry>>,
    by_name: HashMap<Alias, AliasKey>,
    topics: Slab<TopicEntry>,
    topics_by_name: HashMap<Topic, TopicKey>,
    next_id: AliasId,
}

impl Aliases {
    pub(super) fn new() -> Aliases {
        Aliases { entries: Slab::new(), by_name: HashMap::new(), topics: Slab::new(), topics_by_name: HashMap::new(), next_id: AliasId(1) }
    }

    pub(super) fn count(&self) -> usize {
        self.by_name.len()
    }

    /// How many places the table has: a walk in slices goes over `0..places()`.
    pub(super) fn places(&self) -> usize {
        self.entries.places()
    }

    /// The key at that place, if an alias stands there.
    pub(super) fn at_place(&self, place: usize) -> Option<AliasKey> {
        let place = u32::try_from(place).ok()?;
        self.entries.get(place).map(|_| AliasKey(place))
    }

    pub(super) fn next_id(&self) -> AliasId {
        self.next_id
    }

    pub(super) fn restore_next_id(&mut self, id: AliasId) {
        self.next_id = self.next_id.max(id);
    }

    pub(super) fn find(&self, name: &str) -> Option<AliasKey> {
        self.by_name.get(name).copied()
    }

    /// Adds an alias that is not known yet.
    pub(super) fn add(&mut self, name: &Alias, wall: u64, service: u64) -> AliasKey {
        let key = AliasKey(self.entries.insert(Box::new(AliasEntry::new(name.clone(), wall, service))));
        self.by_name.insert(name.clone(), key);
        key
    }

    /// Adds an alias as the store knew it.
    pub(super) fn restore(&mut self, record: AliasRecord) -> AliasKey {
        let key = self.add(&record.name, record.first_seen, record.last_seen_service);
        let entry = self.get_mut(key);
        entry.id = Some(record.id);
        entry.saved = true;
        entry.last_seen = record.last_seen;
        entry.saved_seen = record.last_seen_service;
        entry.transport = record.transport;
        entry.info = record.info;
        key
    }

    /// Adds what the store knew of an alias that came before that was known.
    pub(super) fn restore_known(&mut self, key: AliasKey, record: AliasRecord) -> AliasKey {
        let entry = self.get_mut(key);
        entry.id = Some(record.id);
        entry.saved = true;
        entry.first_seen = entry.first_seen.min(record.first_seen);
        entry.saved_seen = record.last_seen_service;
        entry.transport = entry.transport.or(record.transport);
        entry.info = entry.info.take().or(record.info);
        if entry.sessions.is_empty() {
            entry.last_seen = record.last_seen;
            entry.last_seen_service = record.last_seen_service;
        }
        key
    }

    /// The entry of a known alias.
    pub(super) fn get(&self, key: AliasKey) -> &AliasEntry {
        self.entries.get(key.0).expect("keys are dropped before their alias is forgotten")
    }

    /// The entry of a known alias.
    pub(super) fn get_mut(&mut self, key: AliasKey) -> &mut AliasEntry {
        self.entries.get_mut(key.0).expect("keys are dropped before their alias is forgotten")
    }

    /// The entry, if the alias is still known.
    pub(super) fn try_get(&self, key: AliasKey) -> Option<&AliasEntry> {
        self.entries.get(key.0).map(|entry| &**entry)
    }

    /// Its number in the store, given out now if it had none.
    pub(super) fn id(&mut self, key: AliasKey) -> AliasId {
        if let Some(id) = self.get(key).id {
            return id;
        }
        let id = self.next_id;
        self.next_id = AliasId(id.0 + 1);
        self.get_mut(key).id = Some(id);
        id
    }

    /// Forgets an alias. The caller has seen that it [`AliasEntry::is_forgettable`].
    pub(super) fn forget(&mut self, key: AliasKey) -> Option<Box<AliasEntry>> {
        let entry = self.entries.remove(key.0)?;
        self.by_name.remove(entry.name.as_str());
        Some(entry)
    }

    /// Subscribes; false if it already was.
    pub(super) fn subscribe(&mut self, alias: AliasKey, topic: &Topic) -> bool {
        let key = self.topic_key(topic);
        let topics = &mut self.get_mut(alias).topics;
        let Err(at) = topics.binary_search(&key) else { return false };
        topics.insert(at, key);
        let subscribers = &mut self.topic_mut(key).subscribers;
        if let Err(at) = subscribers.binary_search(&alias) {
            subscribers.insert(at, alias);
        }
        true
    }

    /// Unsubscribes; false if it was not.
    pub(super) fn unsubscribe(&mut self, alias: AliasKey, topic: &Topic) -> bool {
        let Some(&key) = self.topics_by_name.get(topic) else { return false };
        let topics = &mut self.get_mut(alias).topics;
        let Ok(at) = topics.binary_search(&key) else { return false };
        topics.remove(at);
        let entry = self.topic_mut(key);
        if let Ok(at) = entry.subscribers.binary_search(&alias) {
            entry.subscribers.remove(at);
        }
        if entry.subscribers.is_empty() {
            self.topics_by_name.remove(topic);
            self.topics.remove(key.0);
        }
        true
    }

    /// Who subscribes to `topic`, in the order of their keys.
    pub(super) fn subscribers(&self, topic: &Topic) -> &[AliasKey] {
        self.topics_by_name.get(topic).and_then(|key| self.topics.get(key.0)).map_or(&[], |entry| entry.subscribers.as_slice())
    }

    /// Whether the alias subscribes to `topic`.
    pub(super) fn is_subscribed(&self, alias: AliasKey, topic: &Topic) -> bool {
        self.topics_by_name.get(topic).is_some_and(|key| self.get(alias).topics.binary_search(key).is_ok())
    }

    /// The topics of an alias, sorted by UTF-8 bytes.
    pub(super) fn topics(&self, alias: AliasKey) -> Vec<Topic> {
        let keys = &self.get(alias).topics;
        let mut names: Vec<Topic> = keys.iter().filter_map(|key| self.topics.get(key.0)).map(|entry| entry.name.clone()).collect();
        names.sort_unstable();
        names
    }

    fn topic_key(&mut self, topic: &Topic) -> TopicKey {
        if let Some(&key) = self.topics_by_name.get(topic) {
            return key;
        }
        let key = TopicKey(self.topics.insert(TopicEntry { name: topic.clone(), subscribers: Vec::new() }));
        self.topics_by_name.insert(topic.clone(), key);
        key
    }

    fn topic_mut(&mut self, key: TopicKey) -> &mut TopicEntry {
        self.topics.get_mut(key.0).expect("a topic stays while it has a subscriber")
    }
}
