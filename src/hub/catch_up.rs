//! Flow: reading what an alias is owed, in pages: for a session that binds or fell behind, and for pulls (Design §6, catch-up).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::hub::Hub;
use crate::hub::aliases::AliasKey;
use crate::hub::effects::{Effect, Effects, Target};
use crate::hub::hash::NumberMap;
use crate::hub::links::{Flow, HoldKind, Link};
use crate::hub::storage::{PageRequest, Trouble};
use crate::limits::{PAGE_BYTES_MAX, PAGE_DELIVERIES_MAX, PAGES_IN_FLIGHT_MAX};
use crate::names::{Alias, LinkId, Mid};
use crate::protocol::frame::{Message, Num, Reply};
use crate::protocol::refusal::{Code, Refusal};

/// Links that have gone and still stand in a queue: so many are not worth looking for.
const GONE_MAX: usize = 1_024;

/// The pages that are being read, and the links that wait to read one.
#[derive(Debug, Default)]
pub(super) struct Pages {
    in_flight: NumberMap<u64, Reading>,
    next_ticket: u64,
    /// Links to be brought on at once. A link stands in one of these three queues at most once: its `queued` says so.
    ready: VecDeque<LinkId>,
    /// Links that wait for a place among the pages in flight.
    waiting: VecDeque<LinkId>,
    /// Sessions whose page could not be read: tried again each second.
    failed: Vec<LinkId>,
    /// Links that have gone while they stood in a queue, since the queues were last cleared of such.
    gone: usize,
}

/// A page that is being read.
#[derive(Debug)]
struct Reading {
    link: LinkId,
    plan: Plan,
}

/// What a page is to hold.
#[derive(Debug)]
struct Plan {
    mids: Vec<Mid>,
    /// Those of them that are on disk only.
    on_disk: Vec<Mid>,
    /// More is owed behind them.
    more: bool,
}

impl Pages {
    pub(super) fn make_ready(&mut self, link: &mut Link) {
        if !std::mem::replace(&mut link.queued, true) {
            self.ready.push_back(link.id);
        }
    }

    fn make_wait(&mut self, link: &mut Link) {
        if !std::mem::replace(&mut link.queued, true) {
            self.waiting.push_back(link.id);
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn retry_failed(&mut self) {
        self.ready.extend(self.failed.drain(..));
    }

    /// A link that stood in a queue is gone. While the store does not answer the queues stand still: links that come and go
    /// must not make them grow.
    pub(super) fn forget(&mut self, is_alive: impl Fn(LinkId) -> bool) {
        self.gone += 1;
        if self.gone > GONE_MAX + self.waiting.len() / 2 {
            self.gone = 0;
            self.ready.retain(|id| is_alive(*id));
            self.waiting.retain(|id| is_alive(*id));
            self.failed.retain(|id| is_alive(*id));
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn has_place(&self) -> bool {
        self.in_flight.len() < PAGES_IN_FLIGHT_MAX
    }

    fn read(&mut self, link: LinkId, plan: Plan, fx: &mut Effects) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        fx.list.push(Effect::Read(PageRequest { ticket, mids: plan.on_disk.clone() }));
        self.in_flight.insert(ticket, Reading { link, plan });
        ticket
    }
}

impl Hub {
    /// Brings the next ready link one page on.
    pub(super) fn advance_ready(&mut self, fx: &mut Effects) {
        if let Some(id) = self.pages.ready.pop_front() {
            self.attend(id, fx);
        }
    }

    /// A link that stood in a queue has its turn: for the pull that waits, or else for its catch-up.
    fn attend(&mut self, id: LinkId, fx: &mut Effects) {
        let Some(link) = self.links.find_mut(id) else { return };
        link.queued = false;
        let pulls = link.hold.as_ref().is_some_and(|hold| hold.kind == HoldKind::PullWaiting);
        if !pulls {
            self.advance(id, fx);
        } else if !self.pages.has_place() {
            self.pages.make_wait(link);
        } else {
            let Some(waited) = link.hold.take() else { return };
            if link.flow == Flow::Waiting {
                self.pages.make_ready(link);
            }
            self.start_pull(id, waited.num, fx);
            // The second that it may hold its link began when it came (Protocol §6).
            if let Some(hold) = self.links.find_mut(id).and_then(|link| link.hold.as_mut()) {
                hold.deadline = waited.deadline;
            }
            self.run_backlog(id, fx);
        }
    }

    fn advance(&mut self, id: LinkId, fx: &mut Effects) {
        let Some((key, link)) = self.links.find(id).and_then(|link| Some((link.alias?, link))) else { return };
        if link.flow != Flow::Waiting {
            return;
        }
        let plan = self.plan(key, link.cursor);
        if plan.mids.is_empty() {
            let end = self.aliases.get(key).owed.back().copied().unwrap_or(Mid::ZERO);
            self.set_flow(id, Flow::Level, Some(end));
        } else if plan.on_disk.is_empty() {
            self.push_page(id, key, &plan, Vec::new(), fx);
        } else if self.pages.has_place() {
            let ticket = self.pages.read(id, plan, fx);
            self.set_flow(id, Flow::Reading(ticket), None);
        } else if let Some(link) = self.links.find_mut(id) {
            self.pages.make_wait(link);
        }
    }

    fn set_flow(&mut self, id: LinkId, flow: Flow, cursor: Option<Mid>) {
        if let Some(link) = self.links.find_mut(id) {
            link.flow = flow;
            link.cursor = cursor.unwrap_or(link.cursor).max(link.cursor);
        }
    }

    /// The next page of what an alias is owed above `cursor`: at most 100 deliveries and 256 KiB, at least one.
    fn plan(&self, key: AliasKey, cursor: Mid) -> Plan {
        let owed = &self.aliases.get(key).owed;
        let start = owed.partition_point(|mid| *mid <= cursor);
        let most = (owed.len() - start).min(PAGE_DELIVERIES_MAX);
        let mut plan = Plan { mids: Vec::with_capacity(most), on_disk: Vec::with_capacity(most), more: false };
        let mut bytes = 0;
        for &mid in owed.range(start..) {
            let (size, on_disk) = match (self.pending.get(mid), self.waiting.get(mid)) {
                (Some(pending), _) if pending.message.expires > self.now.service => (pending.message.body.len(), false),
                (_, Some(stored)) if stored.expires > self.now.service => (stored.bytes as usize, true),
                _ => continue,
            };
            let full = plan.mids.len() == PAGE_DELIVERIES_MAX || bytes + size > PAGE_BYTES_MAX;
            if full && !plan.mids.is_empty() {
                plan.more = true;
                break;
            }
            bytes += size;
            plan.mids.push(mid);
            if on_disk {
                plan.on_disk.push(mid);
            }
        }
        plan
    }

    /// A page has come, or could not be read.
    pub(super) fn page(&mut self, ticket: u64, messages: Result<Vec<Arc<Message>>, Trouble>, fx: &mut Effects) {
        let Some(reading) = self.pages.in_flight.remove(&ticket) else { return };
        self.use_page(ticket, &reading, messages, fx);
        // More than one may have to be asked: who waited may be gone, or have changed its mind.
        while self.pages.has_place()
            && let Some(next) = self.pages.waiting.pop_front()
        {
            self.attend(next, fx);
        }
    }

    fn use_page(&mut self, ticket: u64, reading: &Reading, messages: Result<Vec<Arc<Message>>, Trouble>, fx: &mut Effects) {
        let Some((key, link)) = self.links.find_mut(reading.link).and_then(|link| Some((link.alias?, link))) else { return };
        let id = link.id;
        if link.hold.as_ref().is_some_and(|hold| hold.kind == HoldKind::Pull(ticket)) {
            match messages {
                Ok(messages) => {
                    let num = link.hold.take().and_then(|hold| hold.num);
                    self.answer_pull(id, key, &reading.plan, messages, num, fx);
                }
                Err(_) => self.give_up_hold(id, fx),
            }
            self.run_backlog(id, fx);
        } else if link.flow == Flow::Reading(ticket) {
            link.flow = Flow::Waiting;
            match messages {
                Ok(messages) => self.push_page(id, key, &reading.plan, messages, fx),
                Err(_) if link.queued => {}
                Err(_) => {
                    link.queued = true;
                    self.pages.failed.push(id);
                }
            }
        }
    }

    /// The messages of a page that are still owed, as far as their bodies are at hand, and whether all of the page was looked at.
    fn page_messages(&mut self, key: AliasKey, plan: &Plan, read: Vec<Arc<Message>>, fx: &mut Effects) -> (Vec<Arc<Message>>, bool) {
        let mut messages = Vec::with_capacity(plan.mids.len());
        let (mut lost, mut whole) = (Vec::new(), true);
        // What is owed, what was planned and what was read all ascend.
        let owed = &self.aliases.get(key).owed;
        let first = plan.mids.first().map_or(0, |first| owed.partition_point(|mid| mid < first));
        let (mut owed, mut read) = (owed.range(first..).peekable(), read.into_iter().peekable());
        for &mid in &plan.mids {
            while owed.next_if(|other| **other < mid).is_some() {}
            if owed.next_if(|other| **other == mid).is_none() {
                continue;
            }
            while read.next_if(|message| message.mid < mid).is_some() {}
            let in_memory = self.pending.get(mid).map(|pending| Arc::clone(&pending.message));
            match in_memory.or_else(|| read.next_if(|message| message.mid == mid)) {
                Some(message) => messages.push(message),
                None if !self.waiting.contains(mid) => {}
                None if plan.on_disk.binary_search(&mid).is_ok() => lost.push(mid),
                None => {
                    whole = false;
                    break;
                }
            }
        }
        for mid in lost {
            self.lost_row(key, mid, fx);
        }
        (messages, whole)
    }

    /// A row that must be there is not: nothing can be delivered, so the delivery ends (Design §6).
    fn lost_row(&mut self, key: AliasKey, mid: Mid, fx: &mut Effects) {
        log::error!("message_missing mid={mid} alias={} action=delivery_ended", self.aliases.get(key).name);
        self.end_one(key, mid, crate::hub::storage::DeliveryState::Dropped, fx);
        self.counters.lost += 1;
    }

    fn push_page(&mut self, id: LinkId, key: AliasKey, plan: &Plan, read: Vec<Arc<Message>>, fx: &mut Effects) {
        let (messages, whole) = self.page_messages(key, plan, read, fx);
        let cursor = if whole { plan.mids.last().copied() } else { messages.last().map(|message| message.mid) };
        for message in messages {
            let target = self.target(id, key, &message);
            let start = fx.targets.len();
            fx.targets.push(target);
            fx.push(message, start, false);
        }
        self.set_flow(id, Flow::Waiting, cursor);
        if let Some(link) = self.links.find_mut(id) {
            self.pages.make_ready(link);
        }
    }

    fn target(&mut self, id: LinkId, key: AliasKey, message: &Message) -> Target {
        let topic = message.topics.iter().position(|topic| self.aliases.is_subscribed(key, topic));
        let topic = topic.or((!message.topics.is_empty()).then_some(0)).and_then(|at| u16::try_from(at).ok());
        let entry = self.aliases.get_mut(key);
        let dup = message.mid <= entry.pushed;
        entry.pushed = entry.pushed.max(message.mid);
        Target { link: id, alias: entry.name.clone(), topic, dup }
    }

    /// 4.
    pub(super) fn pull(&mut self, id: LinkId, named: Option<&Alias>, num: Option<Num>, fx: &mut Effects) -> Result<(), Refusal> {
        let (key, _) = self.bind(id, named, fx)?;
        if self.uninformed {
            self.end_binding_pull(id, Mid::ZERO);
            return Err(Refusal::new(Code::Unavailable, ""));
        }
        let seen =
            self.links.find_mut(id).and_then(|link| link.rare.as_mut()).map(|rare| std::mem::take(&mut rare.pulled)).unwrap_or_default();
        for mid in seen {
            self.acknowledge_one(id, key, mid, fx);
        }
        self.start_pull(id, num, fx);
        Ok(())
    }

    fn start_pull(&mut self, id: LinkId, num: Option<Num>, fx: &mut Effects) {
        let Some(key) = self.links.find(id).and_then(|link| link.alias) else { return };
        let plan = self.plan(key, Mid::ZERO);
        if plan.on_disk.is_empty() {
            self.answer_pull(id, key, &plan, Vec::new(), num, fx);
        } else if self.pages.has_place() {
            let ticket = self.pages.read(id, plan, fx);
            self.hold(id, HoldKind::Pull(ticket), num);
        } else {
            self.hold(id, HoldKind::PullWaiting, num);
            if let Some(link) = self.links.find_mut(id) {
                self.pages.make_wait(link);
            }
        }
    }

    fn answer_pull(&mut self, id: LinkId, key: AliasKey, plan: &Plan, read: Vec<Arc<Message>>, num: Option<Num>, fx: &mut Effects) {
        let (messages, whole) = self.page_messages(key, plan, read, fx);
        let Some(link) = self.links.find_mut(id) else { return };
        link.rare.get_or_insert_default().pulled = messages.iter().map(|message| message.mid).collect();
        let end = messages.last().map_or(Mid::ZERO, |message| message.mid);
        let entry = self.aliases.get_mut(key);
        entry.pushed = entry.pushed.max(end);
        self.end_binding_pull(id, end);
        fx.reply(id, Reply::Pulled { messages, more: plan.more || !whole, num });
    }

    /// The pull that bound a session has its answer, or none: what lies above `end` is pushed.
    pub(super) fn end_binding_pull(&mut self, id: LinkId, end: Mid) {
        if let Some(link) = self.links.find_mut(id).filter(|link| link.flow == Flow::Pulling) {
            link.flow = Flow::Waiting;
            link.cursor = end;
            self.pages.make_ready(link);
        }
    }

    /// The outbox of a session is full: it reads on from `from` when there is room.
    pub(super) fn congested(&mut self, id: LinkId, from: Mid) {
        let Some(link) = self.links.find_mut(id) else { return };
        let last = Mid::new(from.number().saturating_sub(1));
        link.cursor = link.cursor.min(last);
        link.flow = Flow::Congested;
        self.counters.congested += 1;
        let Some(key) = link.alias else { return };
        let entry = self.aliases.get_mut(key);
        if entry.sessions.len() == 1 {
            entry.pushed = entry.pushed.min(last);
        }
    }

    /// There is room again.
    pub(super) fn drained(&mut self, id: LinkId) {
        if let Some(link) = self.links.find_mut(id).filter(|link| link.flow == Flow::Congested) {
            link.flow = Flow::Waiting;
            self.pages.make_ready(link);
        }
    }
}
