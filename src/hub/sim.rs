//! A simulated life of the hub: a seed decides who connects, publishes, acknowledges, pulls and leaves, how fast the store is and
//! when it fails, when outboxes are full and when the process dies. After each step the promises must hold. A failure names its seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::hub::access::Openers;
use crate::hub::effects::{Effect, Effects};
use crate::hub::gather::Health;
use crate::hub::links::Opening;
use crate::hub::owing::Walk;
use crate::hub::restore::Restorer;
use crate::hub::storage::{Batch, Outcome, PageRequest, Trouble};
use crate::hub::tests::model::Model;
use crate::hub::tests::scene;
use crate::hub::{Hub, Input, Now, Options};
use crate::limits::{Limits, PAGES_IN_FLIGHT_MAX, UNCOMMITTED_BYTES_MAX};
use crate::names::{LinkId, Mid, Transport};
use crate::protocol::frame::{BindKind, Num, Reply, Request};
use crate::seeded::Seeded;

const ALIASES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
const TOPICS: [&str; 3] = ["x", "y", "z"];
/// Endings that wait, in the smallest of worlds.
const LATE_MAX: usize = 4;
const STEPS: usize = 1_000;
const SEEDS: u64 = 400;

/// One connection, as its client and its socket see it.
#[derive(Debug)]
struct Client {
    link: LinkId,
    alias: Option<&'static str>,
    /// It may hand over a batch.
    ready: bool,
    /// Its outbox is full: nothing is taken before it is drained.
    full: bool,
    /// The highest mid it was pushed since it last connected.
    highest: Mid,
    /// What it was sent and has not acknowledged.
    unacknowledged: Vec<Mid>,
    /// How many `-6` or errors it still has to get, by its `num`.
    asked: BTreeSet<u64>,
}

/// A publish as the world sees it.
#[derive(Debug)]
struct Sent {
    ttl: u32,
    /// Who must get it: fixed when its mid is known.
    receivers: Vec<&'static str>,
    id: Option<u8>,
    publisher: String,
}

struct World {
    seeded: Seeded,
    hub: Hub,
    now: Now,
    fx: Effects,
    model: Model,
    batch: Option<Arc<Batch>>,
    reads: VecDeque<PageRequest>,
    clients: Vec<Client>,
    next_num: u64,
    /// Publishes by `num`, until they are answered.
    sent: BTreeMap<u64, Sent>,
    /// Deliveries that were promised: `-6` was seen and the receiver has not acknowledged. With the time it expires.
    promised: BTreeMap<(Mid, &'static str), u64>,
    /// What was acknowledged by anybody of that alias, or may have been by a pull.
    ended: BTreeSet<(Mid, &'static str)>,
    /// The answer that an id had, per publisher.
    answers: BTreeMap<(String, u8), Mid>,
    /// A recall that is under way.
    recall: Option<(Mid, Walk)>,
    disk_full: bool,
    block: u64,
    delivered: usize,
}

fn limits() -> Limits {
    Limits { deliveries_per_alias: 1_000_000, ..scene::limits() }
}

fn new_hub(block: u64) -> Hub {
    let options = Options { limits: limits(), openers: Openers::default() };
    let mut hub = Hub::new(options, Mid::new(block << 20)..Mid::new((block + 1) << 20), true);
    hub.gather.late_max = LATE_MAX;
    hub
}

impl World {
    fn new(seed: u64) -> World {
        World {
            seeded: Seeded(seed),
            hub: new_hub(1),
            now: Now { mono: scene::MONO, service: scene::SERVICE, wall: scene::WALL },
            fx: Effects::default(),
            model: Model::default(),
            batch: None,
            reads: VecDeque::new(),
            clients: Vec::new(),
            next_num: 0,
            sent: BTreeMap::new(),
            promised: BTreeMap::new(),
            ended: BTreeSet::new(),
            answers: BTreeMap::new(),
            recall: None,
            disk_full: false,
            block: 1,
            delivered: 0,
        }
    }

    fn step(&mut self) {
        match self.seeded.below(100) {
            0..=5 => self.open(),
            6..=9 => self.leave(),
            10..=54 => self.speak(),
            55..=69 => self.store_answers(),
            70..=79 => self.page_comes(),
            80..=83 => self.drain(),
            84..=85 => self.disk_full = !self.disk_full,
            86 if self.seeded.below(8) == 0 => self.crash(),
            87..=89 => self.recall(),
            _ => self.pass(),
        }
        self.turn();
        self.check();
    }

    /// Ends a turn as the driver does, though perhaps with work left over.
    fn turn(&mut self) {
        for _ in 0..self.seeded.below(4) {
            if self.hub.has_work() {
                self.hub.proceed(self.now, &mut self.fx);
                self.carry_out();
            }
        }
        if self.now.mono >= self.hub.next_tick() {
            self.hub.tick(self.now, &mut self.fx);
            self.carry_out();
        }
        self.hub.begin_batch(self.now, &mut self.fx);
        self.carry_out();
    }

    fn input(&mut self, input: Input) {
        self.hub.handle(self.now, input, &mut self.fx);
        self.carry_out();
    }

    fn open(&mut self) {
        if self.clients.len() < 30 {
            let transport = if self.seeded.below(2) == 0 { Transport::Tcp } else { Transport::SocketIo };
            let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let link = self.hub.open(self.now, Opening { transport, address, claims: None });
            self.clients.push(Client {
                link,
                alias: None,
                ready: true,
                full: false,
                highest: Mid::ZERO,
                unacknowledged: Vec::new(),
                asked: BTreeSet::new(),
            });
        }
    }

    fn any_client(&mut self) -> Option<usize> {
        (!self.clients.is_empty()).then(|| self.seeded.below(self.clients.len()))
    }

    fn leave(&mut self) {
        if let Some(at) = self.any_client() {
            let link = self.clients.swap_remove(at).link;
            self.input(Input::Gone(link));
        }
    }

    fn crash(&mut self) {
        // What was in flight may have reached the disk.
        if let Some(batch) = self.batch.take().filter(|_| self.seeded.below(2) == 0 && !self.disk_full) {
            self.model.commit(&batch);
        }
        self.block += 1;
        self.hub = new_hub(self.block);
        self.model.restore(&mut Restorer::new(&mut self.hub), Mid::new(self.block << 20));
        self.reads.clear();
        self.clients.clear();
        self.sent.clear();
        self.recall = None;
        self.fx.clear();
    }

    /// A slice of a recall of something that was promised.
    fn recall(&mut self) {
        let Some((mid, mut walk)) = self.recall.take().or_else(|| self.begin_recall()) else { return };
        let over = self.hub.recall(self.now, &mut walk, &mut self.fx);
        self.carry_out();
        if over.is_some() {
            assert!(self.hub.waiting_for(mid).is_empty(), "{mid} is recalled and still owed");
        } else {
            self.recall = Some((mid, walk));
        }
    }

    fn begin_recall(&mut self) -> Option<(Mid, Walk)> {
        let mids: BTreeSet<Mid> = self.promised.keys().map(|(mid, _)| *mid).collect();
        let mids: Vec<Mid> = mids.into_iter().collect();
        let mid = *(!mids.is_empty()).then(|| self.seeded.pick(&mids))?;
        self.promised.retain(|(promised, _), _| *promised != mid);
        self.ended.extend(ALIASES.map(|alias| (mid, alias)));
        Some((mid, Walk::in_slices_of(mid, 1 + self.seeded.below(5))))
    }

    fn pass(&mut self) {
        let us = *self.seeded.pick(&[100, 1_000, 10_000, 100_000, 1_000_000, 6_000_000]);
        self.now.mono += us;
        self.now.service += us / 1_000;
        self.now.wall += us / 1_000;
    }

    /// A client that may sends a batch of frames.
    fn speak(&mut self) {
        let Some(at) = self.any_client() else { return };
        if !std::mem::take(&mut self.clients[at].ready) {
            return;
        }
        let frames = (0..1 + self.seeded.below(4)).map(|_| self.frame(at)).collect();
        self.input(Input::Frames { link: self.clients[at].link, frames, at: self.now.mono });
    }

    fn frame(&mut self, at: usize) -> Request {
        let Some(alias) = self.clients[at].alias else {
            return match self.seeded.below(4) {
                0 => self.publish(at),
                _ => self.bind(at),
            };
        };
        match self.seeded.below(12) {
            0 => scene::heartbeat(alias),
            1 => scene::connect(alias),
            2 => scene::register(&[*self.seeded.pick(&TOPICS)]),
            3 if self.seeded.below(3) == 0 => scene::unregister(&[*self.seeded.pick(&TOPICS)]),
            4 => scene::pull(""),
            5..=8 => self.acknowledge(at, alias),
            _ => self.publish(at),
        }
    }

    fn bind(&mut self, at: usize) -> Request {
        let alias = *self.seeded.pick(&ALIASES);
        self.clients[at].alias = Some(alias);
        match self.seeded.below(4) {
            0 => scene::connect(alias),
            1 => scene::pull(alias),
            _ => scene::heartbeat(alias),
        }
    }

    /// All that it was sent, some or none.
    fn acknowledge(&mut self, at: usize, alias: &'static str) -> Request {
        let client = &mut self.clients[at];
        let keep = match self.seeded.below(3) {
            0 => 0,
            1 => client.unacknowledged.len() / 2,
            _ => client.unacknowledged.len(),
        };
        let mids = client.unacknowledged.split_off(keep);
        for mid in &mids {
            self.ended.insert((*mid, alias));
            self.promised.remove(&(*mid, alias));
        }
        scene::ack(&mids.iter().map(|mid| mid.number()).collect::<Vec<_>>())
    }

    fn publish(&mut self, at: usize) -> Request {
        self.next_num += 1;
        let number = self.next_num;
        let count = 1 + self.seeded.below(3);
        let receivers: BTreeSet<&'static str> = (0..count).map(|_| *self.seeded.pick(&ALIASES)).collect();
        let receivers: Vec<&'static str> = receivers.into_iter().collect();
        let on_topic = self.seeded.below(4) == 0;
        let ttl = *self.seeded.pick(&[0, 5, 432_000, 432_000, 432_000]);
        // With time_to_live 0 an answer comes before the commit: such an id may be forgotten by a crash.
        let id = (ttl > 0 && self.seeded.below(4) == 0).then(|| self.seeded.below(20) as u8);
        let mut draft = if on_topic { scene::on(&[*self.seeded.pick(&TOPICS)]) } else { scene::to(&receivers) };
        draft = draft.ttl(ttl).body(1 + self.seeded.below(5_000));
        if let Some(id) = id {
            draft = draft.id(&id.to_string());
        }
        if self.seeded.below(8) == 0 {
            draft = draft.receipt();
        }
        let client = &mut self.clients[at];
        client.asked.insert(number);
        let publisher = client.alias.unwrap_or("").to_owned();
        let receivers = if on_topic { Vec::new() } else { receivers };
        self.sent.insert(number, Sent { ttl, receivers, id, publisher });
        scene::num(&number.to_string(), draft.frame())
    }

    fn store_answers(&mut self) {
        let Some(batch) = self.batch.take() else { return };
        let outcome = match self.seeded.below(12) {
            0 => Outcome::Failed(Trouble::Disk),
            _ if !self.disk_full => Outcome::Committed { refused: Vec::new(), storing: true },
            _ if batch.changes.iter().all(crate::hub::storage::Change::is_deletion) => {
                Outcome::Committed { refused: Vec::new(), storing: false }
            }
            _ => Outcome::Failed(Trouble::Full),
        };
        if matches!(outcome, Outcome::Committed { .. }) {
            self.model.commit(&batch);
        }
        self.input(Input::Stored { number: batch.number, outcome });
    }

    fn page_comes(&mut self) {
        let at = self.seeded.below(self.reads.len().max(1));
        let Some(request) = self.reads.remove(at) else { return };
        let messages = if self.seeded.below(10) == 0 { Err(Trouble::Disk) } else { Ok(self.model.read(&request)) };
        self.input(Input::Page { ticket: request.ticket, messages });
    }

    fn drain(&mut self) {
        for at in 0..self.clients.len() {
            if std::mem::take(&mut self.clients[at].full) {
                self.input(Input::Drained(self.clients[at].link));
            }
        }
    }

    fn carry_out(&mut self) {
        let mut fx = std::mem::take(&mut self.fx);
        let mut congested = Vec::new();
        for effect in fx.list.drain(..) {
            match effect {
                Effect::Reply { link, reply } => self.reply(link, reply),
                Effect::Push { message, targets, live_only } => {
                    for target in &fx.targets[targets] {
                        if live_only {
                            assert!(!message.topics.is_empty() || target.topic.is_none());
                        } else if self.pushed(target.link, target.alias.as_str(), message.mid) {
                            congested.push((target.link, message.mid));
                        }
                    }
                }
                Effect::Ready(link) => {
                    if let Some(client) = self.clients.iter_mut().find(|client| client.link == link) {
                        assert!(!std::mem::replace(&mut client.ready, true), "told twice that it may go on");
                    }
                }
                Effect::Close(link, _) => self.clients.retain(|client| client.link != link),
                Effect::Commit(batch) => assert!(self.batch.replace(batch).is_none(), "two batches in flight"),
                Effect::Read(request) => self.reads.push_back(request),
                Effect::TakeBlock => {}
                Effect::Notice { .. } | Effect::Relay { .. } | Effect::SweepPictures(_) => {}
                Effect::RoomSend { .. } | Effect::RoomPing(_) | Effect::KeepPicture { .. } => unreachable!("nobody is in a room"),
            }
        }
        fx.clear();
        self.fx = fx;
        for (link, from) in congested {
            self.hub.handle(self.now, Input::Congested { link, from }, &mut self.fx);
        }
    }

    /// A push reaches an outbox. True: it is the first that is not taken.
    fn pushed(&mut self, link: LinkId, alias: &str, mid: Mid) -> bool {
        let becomes_full = self.seeded.below(40) == 0;
        let client = self.clients.iter_mut().find(|client| client.link == link).expect("nothing is pushed to a link that is gone");
        assert_eq!(client.alias, Some(alias), "another's message");
        if client.full {
            return false;
        }
        if becomes_full {
            client.full = true;
            return true;
        }
        assert!(mid > client.highest, "{mid} after {}", client.highest);
        client.highest = mid;
        client.unacknowledged.push(mid);
        self.delivered += 1;
        false
    }

    fn reply(&mut self, link: LinkId, reply: Reply) {
        let number = |num: &Option<Num>| num.as_ref().map(|num| num.text.parse::<u64>().unwrap());
        match reply {
            Reply::Published(published, num) => {
                let number = number(&num).expect("each publish has one");
                let Some(sent) = self.sent.remove(&number) else { return };
                if let Some(client) = self.clients.iter_mut().find(|client| client.link == link) {
                    assert!(client.asked.remove(&number), "answered twice");
                }
                self.promise(&sent, published.mid);
            }
            Reply::Error { num: Some(num), .. } => {
                let number = number(&Some(num)).expect("it is there");
                assert!(self.sent.remove(&number).is_some() || self.clients.iter().all(|client| client.link != link));
                if let Some(client) = self.clients.iter_mut().find(|client| client.link == link) {
                    assert!(client.asked.remove(&number), "answered twice");
                }
            }
            Reply::Bound { kind: BindKind::Connect11, .. } => {
                if let Some(client) = self.clients.iter_mut().find(|client| client.link == link) {
                    client.highest = Mid::ZERO;
                }
            }
            Reply::Pulled { messages, .. } => {
                // The next pull acknowledges them, whenever it comes: from here on they count as possibly ended.
                let Some(client) = self.clients.iter().find(|client| client.link == link) else { return };
                let Some(alias) = client.alias else { return };
                for message in messages {
                    self.ended.insert((message.mid, alias));
                    self.promised.remove(&(message.mid, alias));
                }
            }
            _ => {}
        }
    }

    fn promise(&mut self, sent: &Sent, mid: Mid) {
        if let Some(id) = sent.id {
            let key = (sent.publisher.clone(), id);
            let first = *self.answers.entry(key).or_insert(mid);
            assert_eq!(first, mid, "the repeat of an id has another answer");
            if first != mid {
                return;
            }
        }
        if sent.ttl == 0 || sent.id.is_some() {
            return;
        }
        for alias in &sent.receivers {
            if !self.ended.contains(&(mid, *alias)) {
                // No later than this it was published, so it expires no earlier than its whole life after it was sent.
                self.promised.insert((mid, *alias), self.now.service + u64::from(sent.ttl) * 1_000);
            }
        }
    }

    fn check(&mut self) {
        let (now, hub, model) = (self.now.service, &self.hub, &self.model);
        self.promised.retain(|_, expires| *expires > now + 60_000);
        let on_disk: BTreeSet<(Mid, &str)> =
            model.owed().into_iter().filter_map(|(mid, id)| model.aliases.get(&id).map(|record| (mid, record.name.as_str()))).collect();
        for (mid, alias) in self.promised.keys() {
            assert!(hub.waiting_for(*mid).iter().any(|line| line.alias.as_str() == *alias), "{mid} of {alias} was promised and is lost");
            assert!(on_disk.contains(&(*mid, *alias)), "{mid} of {alias} was promised and is not on disk");
        }
        hub.check_accounts();
        for (mid, alias) in &model.ended {
            assert!(model.messages.contains_key(mid), "the ending of {mid} for {alias:?} outlives its message");
        }
        assert!(self.reads.len() <= PAGES_IN_FLIGHT_MAX, "{} pages", self.reads.len());
    }

    /// The storm is over: all that was asked is answered, all that is owed reaches whoever comes.
    fn calm(&mut self) {
        self.disk_full = false;
        for _ in 0..400 {
            self.now.mono += 100_000;
            self.now.service += 100;
            self.now.wall += 100;
            self.drain();
            while let Some(batch) = self.batch.take() {
                self.model.commit(&batch);
                self.input(Input::Stored { number: batch.number, outcome: Outcome::Committed { refused: Vec::new(), storing: true } });
            }
            while let Some(request) = self.reads.pop_front() {
                let messages = Ok(self.model.read(&request));
                self.input(Input::Page { ticket: request.ticket, messages });
            }
            for _ in 0..4 {
                self.turn();
            }
            self.check();
        }
        assert_eq!(self.hub.load().health, Health::Storing);
        assert!(self.hub.is_settled(), "something waits for nothing");
        for client in &self.clients {
            assert!(client.asked.is_empty(), "{} has no answer to {:?}", client.link, client.asked);
            assert!(client.ready, "{} is not read on", client.link);
        }
        let owed: BTreeSet<(Mid, String)> =
            self.model.owed().into_iter().map(|(mid, id)| (mid, self.model.aliases[&id].name.to_string())).collect();
        for client in &self.clients {
            let Some(alias) = client.alias else { continue };
            let last = owed.iter().rev().find(|(_, owner)| owner == alias).map_or(Mid::ZERO, |(mid, _)| *mid);
            assert!(client.highest >= last || self.ended.contains(&(last, alias)), "{alias} is level at {}, not at {last}", client.highest);
        }
        assert_eq!(self.hub.load().deliveries, owed.len(), "hub and disk differ");
    }
}

impl Hub {
    /// Counts again what is kept as a number.
    fn check_accounts(&self) {
        let keys = (0..self.aliases.places()).filter_map(|place| self.aliases.at_place(place));
        let mut owed: BTreeMap<Mid, usize> = BTreeMap::new();
        for key in keys {
            let entry = self.aliases.get(key);
            assert!(entry.owed.iter().is_sorted(), "mids not ascending");
            entry.owed.iter().for_each(|mid| *owed.entry(*mid).or_default() += 1);
        }
        owed.retain(|mid, _| self.pending.contains(*mid) || self.waiting.contains(*mid));
        assert_eq!(self.deliveries, owed.values().sum::<usize>(), "deliveries");
        for (mid, count) in &owed {
            let left = self.pending.get(*mid).map(|pending| pending.left).or(self.waiting.get(*mid).map(|stored| stored.left));
            assert_eq!(left, Some(*count as u32), "left of {mid}");
        }
        let bytes = |mid: &Mid| match (self.pending.get(*mid), self.waiting.get(*mid)) {
            (None, Some(stored)) => u64::from(stored.bytes),
            _ => 0,
        };
        let pending = self.pending.bytes() as u64;
        assert_eq!(self.bodies, owed.keys().map(bytes).sum::<u64>() + pending, "bodies");
        assert!(self.pending.bytes() <= UNCOMMITTED_BYTES_MAX);
        self.waiting.check_ages();
    }
}

#[test]
fn promises_hold_whatever_happens() {
    let mut delivered = 0;
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..STEPS).for_each(|_| world.step());
            world.calm();
            world.delivered
        });
        delivered += outcome.unwrap_or_else(|panic| {
            println!("seed {seed}");
            std::panic::resume_unwind(panic)
        });
    }
    assert!(delivered > 10_000, "the world is too quiet: {delivered}");
}
