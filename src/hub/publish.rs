//! Flow: one publish from its frame to its receivers (Protocol §4). Its `-6` comes from `commits` or `deliveries`.

use std::sync::Arc;

use crate::hub::Hub;
use crate::hub::effects::{Effects, Target};
use crate::hub::links::Flow;
use crate::hub::live_only::LiveMessage;
use crate::hub::pending::{Pending, PendingKey, Publisher, Receiver, Stage};
use crate::hub::storage::{Change, KeyRecord};
use crate::limits::{DELIVERIES_PER_TURN_MAX, GRACE_MAX, GRACE_MIN, UNCOMMITTED_BYTES_MAX};
use crate::names::{Alias, Few, LinkId, Mid, Topic};
use crate::protocol::frame::{Body, Message, Num, Publish, Published, Receivers, Reply};
use crate::protocol::refusal::{Code, Refusal};

/// A session that let so many graces pass in a row counts as offline for the grace (Design §6).
const MISSED_MAX: u8 = 4;

/// Publishes to the same topics that are handed out together. A deletion of the oldest makes room for as many at once
/// (`deliveries`).
const JOINED_MAX: usize = 16;
/// From so many receivers on a publish waits for others that come in the same turn: then whoever gets them all gets them in one
/// write. Below it a turn holds as many anyway.
const JOINED_FROM: usize = DELIVERIES_PER_TURN_MAX / JOINED_MAX;

/// Publishes that are being handed to their receivers, a slice a turn.
#[derive(Debug)]
pub(super) enum FanOut {
    /// Their deliveries are owed.
    Owed(OwedFanOut),
    /// time_to_live 0: whom it still goes to.
    Live(Arc<Message>, std::vec::IntoIter<Target>),
}

/// Publishes whose deliveries are owed, all to the same receivers.
#[derive(Debug)]
pub(super) struct OwedFanOut {
    /// Ascending; at least one.
    mids: Few<Mid>,
    /// The next receiver's index.
    next: usize,
    /// Receivers handed to so far that can't be expected to acknowledge within a grace.
    offline: u32,
    /// The longest mean time of acknowledgement among the others, µs.
    ack_mean: u32,
}

impl FanOut {
    /// Nobody was handed anything yet.
    fn has_not_begun(&self) -> bool {
        matches!(self, FanOut::Owed(fan) if fan.next == 0)
    }
}

impl Hub {
    /// 6.
    pub(super) fn publish(&mut self, id: LinkId, publish: Publish, num: Option<Num>, fx: &mut Effects) -> Result<(), Refusal> {
        let Some(link) = self.links.find_mut(id) else { return Ok(()) };
        link.settled = true;
        if self.rates.is_limited() {
            let publisher = self.publisher_name(id);
            if !self.rates.take(publisher, self.now.mono) {
                return Err(Refusal::new(Code::RateLimited, "limits.publish_rate"));
            }
        }
        let is_to_topics = matches!(publish.to, Receivers::Topics(_));
        if self.uninformed && (is_to_topics || publish.id.is_some()) {
            // Who subscribes, and which keys were used, is not known.
            return Err(Refusal::new(Code::Unavailable, ""));
        }
        let key = publish.id.as_deref().map(|key| self.key_of(id, key));
        if let Some(key) = &key
            && self.is_repeat(id, key.hash, &num, fx)
        {
            return Ok(());
        }
        let (mut receivers, new, topics) = self.receivers(&publish);
        if publish.time_to_live == 0 {
            return self.publish_live_only(id, publish, receivers, topics, key, num, fx);
        }
        self.admit(&receivers, new.len(), publish.msg.len(), publish.receipt || key.is_some())?;
        let mid = self.next_mid(fx).ok_or(Refusal::new(Code::Unavailable, ""))?;
        for name in new {
            let alias = self.aliases.add(&name, self.now.wall, self.now.service);
            receivers.push(Receiver { alias, topic: None });
        }
        let online = receivers.iter().filter(|receiver| self.aliases.get(receiver.alias).is_online()).count() as u32;
        let published = Published { mid, online, stored: receivers.len() as u32 - online };
        self.counters.publishes += 1;
        if receivers.is_empty() && key.is_none() {
            fx.reply(id, Reply::Published(published, num));
            return Ok(());
        }
        if let Some(key) = &key {
            self.keys.begin(key.hash, published, self.now.service);
        }
        let message = Arc::new(self.message(id, mid, publish, topics));
        let count = receivers.len();
        self.deliveries += count;
        self.bodies += message.body.len() as u64;
        if let Some(link) = self.links.find_mut(id) {
            link.unanswered += 1;
        }
        self.pending.add(Box::new(Pending {
            left: count as u32,
            receivers,
            stage: Stage::FanOut,
            needs_commit: message.receipt || key.is_some(),
            publishers: Few::One(Publisher { link: id, num }),
            published,
            key,
            ended: Vec::new(),
            sent: self.now.mono,
            message,
        }));
        if let Some(FanOut::Owed(fan)) = &mut self.fan_out {
            // It would have had to wait if it could not join.
            fan.mids.push(mid);
            return Ok(());
        }
        self.fan_out = Some(FanOut::Owed(OwedFanOut { mids: Few::One(mid), next: 0, offline: 0, ack_mean: 0 }));
        if !is_to_topics || count < JOINED_FROM {
            self.fan_out_slice(fx);
        }
        Ok(())
    }

    /// Whether a frame may run now, as far as a fan-out is concerned: between its slices only acknowledgements and the door lane run
    /// (Design §6). One that has not begun takes in publishes to the same topics, and for all others begins, which may be its end.
    pub(super) fn may_run(&mut self, body: &Body, fx: &mut Effects) -> bool {
        if self.fan_out.is_none() || matches!(body, Body::Acknowledge { .. } | Body::Door(_) | Body::DoorAnswer(_) | Body::Refused(_)) {
            return true;
        }
        let Some(FanOut::Owed(fan)) = self.fan_out.as_ref().filter(|fan| fan.has_not_begun()) else { return false };
        if self.joins(fan, body) {
            return true;
        }
        self.fan_out_slice(fx);
        self.fan_out.is_none()
    }

    /// Whether a frame is a publish with the receivers of `fan`: while that waits nobody subscribes or unsubscribes.
    fn joins(&self, fan: &OwedFanOut, body: &Body) -> bool {
        let Body::Publish(publish) = body else { return false };
        let Receivers::Topics(topics) = &publish.to else { return false };
        let first = self.pending.get(fan.mids[0]);
        fan.mids.len() < JOINED_MAX && publish.time_to_live > 0 && first.is_some_and(|first| *first.message.topics == **topics)
    }

    fn message(&self, id: LinkId, mid: Mid, publish: Publish, topics: Box<[Topic]>) -> Message {
        Message {
            mid,
            ts: self.now.wall,
            expires: self.now.service + u64::from(publish.time_to_live) * 1_000,
            topics,
            receipt: publish.receipt,
            publisher: if publish.receipt { self.alias_of(id) } else { None },
            body: publish.msg,
        }
    }

    fn alias_of(&self, id: LinkId) -> Option<Alias> {
        self.link(id)?.alias.map(|key| self.aliases.get(key).name.clone())
    }

    /// Whose `opts.id` and rate it is: the bound alias, else the token's label, else the address (Protocol §4).
    fn publisher_name(&self, id: LinkId) -> Box<str> {
        let Some(link) = self.link(id) else { return "".into() };
        match (link.alias, &link.claims) {
            (Some(key), _) => format!("alias:{}", self.aliases.get(key).name).into(),
            (None, Some(claims)) => format!("label:{}", claims.label.as_str()).into(),
            (None, None) => format!("address:{}", link.address).into(),
        }
    }

    fn key_of(&self, id: LinkId, key: &str) -> Box<PendingKey> {
        let publisher = self.publisher_name(id);
        Box::new(PendingKey { hash: self.keys.hash(&publisher, key), publisher, id: key.into() })
    }

    /// Answers a repeat as the first was answered, or lets it wait for that.
    fn is_repeat(&mut self, id: LinkId, hash: u128, num: &Option<Num>, fx: &mut Effects) -> bool {
        let Some(key) = self.keys.find(hash) else { return false };
        if key.answered {
            fx.reply(id, Reply::Published(key.published, num.clone()));
        } else if let Some(pending) = self.pending.get_mut(key.published.mid) {
            pending.publishers.push(Publisher { link: id, num: num.clone() });
            if let Some(link) = self.links.find_mut(id) {
                link.unanswered += 1;
            }
        } else {
            return false;
        }
        true
    }

    /// Which known aliases get it, each once; the named ones that are not known yet, for whom it waits; and the topics that their `t:5`
    /// can name.
    fn receivers(&self, publish: &Publish) -> (Few<Receiver>, Vec<Alias>, Box<[Topic]>) {
        match &publish.to {
            Receivers::Aliases(names) => {
                let mut new = Vec::new();
                let find = |name: &Alias| {
                    let known = self.aliases.find(name.as_str());
                    if known.is_none() {
                        new.push(name.clone());
                    }
                    known.map(|alias| Receiver { alias, topic: None })
                };
                (names.iter().filter_map(find).collect(), new, Box::default())
            }
            Receivers::Topics(topics) => (self.subscribed_receivers(topics).into(), Vec::new(), topics.to_vec().into()),
        }
    }

    fn subscribed_receivers(&self, topics: &[Topic]) -> Vec<Receiver> {
        let mut receivers: Vec<Receiver> = Vec::new();
        for (index, topic) in topics.iter().enumerate() {
            let topic_index = u16::try_from(index).ok();
            receivers.extend(self.aliases.subscribers(topic).iter().map(|alias| Receiver { alias: *alias, topic: topic_index }));
        }
        if topics.len() > 1 {
            receivers.sort_unstable_by_key(|receiver| (receiver.alias, receiver.topic));
            receivers.dedup_by_key(|receiver| receiver.alias);
        }
        receivers
    }

    /// Refuses what could not be kept, before anything is sent or anybody becomes known. `new` receivers are not known yet.
    fn admit(&self, receivers: &[Receiver], new: usize, bytes: usize, needs_commit: bool) -> Result<(), Refusal> {
        let limits = &self.options.limits;
        let unavailable = Refusal::new(Code::Unavailable, "");
        if self.pending.bytes() + bytes > UNCOMMITTED_BYTES_MAX {
            return Err(unavailable);
        }
        if new > 0 && self.aliases.count() + new > limits.aliases {
            return Err(Refusal::new(Code::Quota, "limits.aliases"));
        }
        let is_full = self.deliveries + receivers.len() + new > limits.deliveries || self.bodies + bytes as u64 > limits.bodies;
        let has_offline = new > 0 || receivers.iter().any(|receiver| !self.aliases.get(receiver.alias).is_online());
        if is_full && has_offline {
            return Err(Refusal::new(Code::Quota, "limits.deliveries"));
        }
        if !self.gather.is_storing() && (needs_commit || has_offline) {
            return Err(unavailable);
        }
        Ok(())
    }

    /// Hands the message to the next slice of its receivers.
    pub(super) fn fan_out_slice(&mut self, fx: &mut Effects) {
        match self.fan_out.take() {
            None => {}
            Some(FanOut::Owed(fan)) => self.owed_slice(fan, fx),
            Some(FanOut::Live(message, mut targets)) => {
                let start = fx.targets.len();
                fx.targets.extend(targets.by_ref().take(DELIVERIES_PER_TURN_MAX));
                fx.push(Arc::clone(&message), start, true);
                if targets.len() > 0 {
                    self.fan_out = Some(FanOut::Live(message, targets));
                }
            }
        }
    }

    fn owed_slice(&mut self, mut fan: OwedFanOut, fx: &mut Effects) {
        let Some(pending) = self.pending.get(fan.mids[0]) else { return };
        let (links, aliases) = (&mut self.links, &mut self.aliases);
        let end = pending.receivers.len().min(fan.next + DELIVERIES_PER_TURN_MAX / fan.mids.len());
        let last = fan.mids[fan.mids.len() - 1];
        let start = fx.targets.len();
        let mut over = Vec::new();
        for receiver in &pending.receivers[fan.next..end] {
            let entry = aliases.get_mut(receiver.alias);
            entry.owed.extend(&fan.mids);
            if entry.owed.len() > self.options.limits.deliveries_per_alias {
                over.push(receiver.alias);
            }
            let mut ack_mean = u32::MAX;
            for session in &entry.sessions {
                let Some(link) = links.find_mut(*session).filter(|link| link.flow == Flow::Level) else { continue };
                link.cursor = last;
                entry.pushed = last;
                if link.missed < MISSED_MAX && u64::from(link.ack_mean) <= GRACE_MAX.as_micros() as u64 {
                    ack_mean = ack_mean.min(link.ack_mean);
                }
                fx.targets.push(Target { link: *session, alias: entry.name.clone(), topic: receiver.topic, dup: false });
            }
            match ack_mean {
                u32::MAX => fan.offline += 1,
                ack_mean => fan.ack_mean = fan.ack_mean.max(ack_mean),
            }
        }
        self.counters.deliveries += ((end - fan.next) * fan.mids.len()) as u64;
        let done = end == pending.receivers.len();
        fan.next = end;
        let targets = start..fx.targets.len();
        fx.push(Arc::clone(&pending.message), start, false);
        for mid in &fan.mids[1..] {
            let start = fx.targets.len();
            fx.targets.extend_from_within(targets.clone());
            if let Some(pending) = self.pending.get(*mid) {
                fx.push(Arc::clone(&pending.message), start, false);
            }
        }
        for alias in over {
            self.drop_oldest(alias, fx);
        }
        if done {
            for mid in &fan.mids {
                self.fanned_out(*mid, &fan, fx);
            }
        } else {
            self.fan_out = Some(FanOut::Owed(fan));
        }
    }

    /// Everybody online has it: lets acknowledgements beat the commit, or goes to the store (Design §1b).
    fn fanned_out(&mut self, mid: Mid, fan: &OwedFanOut, fx: &mut Effects) {
        let now = self.now.mono;
        let Some(pending) = self.pending.get_mut(mid) else { return };
        if pending.left == 0 && !pending.needs_commit {
            self.delivered(mid, fx);
        } else if fan.offline == 0 && !pending.needs_commit {
            pending.stage = Stage::Grace;
            let grace = (u64::from(fan.ack_mean) * 4).clamp(GRACE_MIN.as_micros() as u64, GRACE_MAX.as_micros() as u64);
            self.pending.wait(mid, now, now + grace);
        } else {
            self.gather_message(mid);
        }
    }

    /// time_to_live 0: to live sessions only, nothing owed, answered at once.
    #[allow(clippy::too_many_arguments, reason = "the parts of one publish, taken apart by its only caller")]
    fn publish_live_only(
        &mut self,
        id: LinkId,
        publish: Publish,
        receivers: Few<Receiver>,
        topics: Box<[Topic]>,
        key: Option<Box<PendingKey>>,
        num: Option<Num>,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let mid = self.next_mid(fx).ok_or(Refusal::new(Code::Unavailable, ""))?;
        self.counters.publishes += 1;
        let message = Arc::new(self.message(id, mid, publish, topics));
        let (mut online, mut targets) = (Vec::new(), Vec::new());
        for receiver in receivers {
            let entry = self.aliases.get(receiver.alias);
            if !entry.is_online() {
                continue;
            }
            online.push(receiver.alias);
            targets.extend(entry.sessions.iter().map(|session| Target {
                link: *session,
                alias: entry.name.clone(),
                topic: receiver.topic,
                dup: false,
            }));
        }
        let (receipt, publisher) = (message.receipt, message.publisher.clone());
        self.fan_out = Some(FanOut::Live(message, targets.into_iter()));
        self.fan_out_slice(fx);
        let published = Published { mid, online: online.len() as u32, stored: 0 };
        self.counters.deliveries += online.len() as u64;
        if !online.is_empty() {
            online.sort_unstable();
            let remembered = LiveMessage { receivers: online, receipt, publisher, at: self.now.mono };
            self.live_only.remember(mid, remembered);
        }
        if let Some(key) = key {
            self.keys.begin(key.hash, published, self.now.service);
            self.keys.answer(key.hash, published);
            if self.gather.has_room() {
                self.gather.queue(Change::SaveKey(key_record(&key, published, self.now.service)));
            }
        }
        fx.reply(id, Reply::Published(published, num));
        Ok(())
    }
}

/// The row of a key.
pub(super) fn key_record(key: &PendingKey, published: Published, at: u64) -> KeyRecord {
    KeyRecord {
        publisher: key.publisher.clone(),
        id: key.id.clone(),
        at,
        mid: published.mid,
        online: published.online,
        stored: published.stored,
    }
}
