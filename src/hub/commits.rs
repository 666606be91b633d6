//! Flow: transactions out, their outcome in, and the `-6`s that become true by it (Protocol §4, Design §6).

use std::sync::Arc;

use crate::hub::Hub;
use crate::hub::aliases::{AliasKey, Aliases};
use crate::hub::effects::{Effect, Effects};
use crate::hub::gather::{Health, InFlight};
use crate::hub::links::HoldKind;
use crate::hub::pending::{Pending, Publisher, Stage};
use crate::hub::publish::key_record;
use crate::hub::storage::{Batch, Change, DeliveryState, Outcome, Owed, ReportLine, Stamp, Trouble};
use crate::hub::waiting::{self, Stored};
use crate::limits::{COMMIT_WAIT_MAX, PROOF_AFTER, TRANSACTION_BYTES_MAX, TRANSACTION_ROWS_MAX};
use crate::names::{Few, LinkId, Mid};
use crate::protocol::frame::Reply;
use crate::protocol::refusal::{Code, Refusal};

/// While the store can't be written: how often it is tried.
const PROBE_EVERY_US: u64 = 1_000_000;

impl Hub {
    /// The message waits for the next transaction.
    pub(super) fn gather_message(&mut self, mid: Mid) {
        if let Some(pending) = self.pending.get_mut(mid) {
            pending.stage = Stage::Gathered;
            self.gather.messages.push_back((mid, self.now.mono));
        }
    }

    /// Graces that are over: whoever let one pass is remembered, and the messages go to the store.
    pub(super) fn end_graces(&mut self) {
        let mut due = std::mem::take(&mut self.timers.due);
        self.pending.take_due(self.now.mono, &mut due);
        for mid in due.drain(..) {
            let Some(pending) = self.pending.get(mid).filter(|pending| pending.stage == Stage::Grace) else { continue };
            for receiver in &pending.receivers {
                // Who has acknowledged may be gone and forgotten.
                let Some(entry) = self.aliases.try_get(receiver.alias) else { continue };
                if entry.owed.binary_search(&mid).is_err() {
                    continue;
                }
                for session in &entry.sessions {
                    if let Some(link) = self.links.find_mut(*session) {
                        link.missed = link.missed.saturating_add(1);
                    }
                }
            }
            self.gather_message(mid);
        }
        self.timers.due = due;
    }

    /// Its last session has ended: no acknowledgement will come in time.
    pub(super) fn end_grace_of(&mut self, key: AliasKey) {
        let owed = &self.aliases.get(key).owed;
        let in_grace = |mid: &Mid| self.pending.get(*mid).is_some_and(|pending| pending.stage == Stage::Grace);
        let mids: Vec<Mid> = owed.iter().copied().filter(in_grace).collect();
        for mid in mids {
            self.gather_message(mid);
        }
    }

    /// Hands the store the next transaction, if it is idle and something waits. Called at the end of each turn.
    pub fn begin_batch(&mut self, now: crate::hub::Now, fx: &mut Effects) {
        self.now = now;
        if self.gather.in_flight.is_some() {
            return;
        }
        self.gather.queue_late(now.mono, |mid| self.waiting.contains(mid));
        let gather = &self.gather;
        let something = !gather.messages.is_empty() || gather.has_changes() || gather.proof_wanted;
        let due = if gather.is_storing() { something } else { self.now.mono >= gather.probe_at };
        if !due {
            return;
        }
        let number = self.gather.next_number;
        self.gather.next_number += 1;
        // Half of it is left to messages, so that many acknowledgements at once can't keep new ones from the disk.
        let most = if self.gather.messages.is_empty() { TRANSACTION_ROWS_MAX } else { TRANSACTION_ROWS_MAX / 2 };
        let mut changes = self.gather.take(most);
        let queued = changes.len();
        let mids = if self.gather.is_storing() { self.take_messages(number, &mut changes) } else { Vec::new() };
        let proves = std::mem::take(&mut self.gather.proof_wanted);
        if changes.is_empty() && self.gather.is_storing() && !proves {
            return;
        }
        let stamp = Stamp { service: self.now.service, wall: self.now.wall };
        let batch = Arc::new(Batch { number, stamp, next_alias: self.aliases.next_id(), changes });
        self.gather.in_flight = Some(InFlight { batch: Arc::clone(&batch), mids, queued, since: self.now.mono });
        fx.list.push(Effect::Commit(batch));
    }

    /// Adds the rows of gathered messages, as many as a transaction takes.
    fn take_messages(&mut self, number: u64, changes: &mut Vec<Change>) -> Vec<Mid> {
        let most = self.gather.messages.len().min(TRANSACTION_ROWS_MAX.saturating_sub(changes.len()));
        let mut mids = Vec::with_capacity(most);
        changes.reserve(most);
        let mut bytes = 0;
        while changes.len() < TRANSACTION_ROWS_MAX && bytes < TRANSACTION_BYTES_MAX {
            let Some((mid, _)) = self.gather.messages.pop_front() else { break };
            let Some(pending) = self.pending.get_mut(mid) else { continue };
            bytes += pending.message.body.len();
            pending.stage = Stage::Writing;
            add_rows(&mut self.aliases, number, self.now.service, pending, changes);
            mids.push(mid);
        }
        mids
    }

    /// What became of the batch in flight.
    pub(super) fn stored(&mut self, number: u64, outcome: Outcome, fx: &mut Effects) {
        let Some(flight) = self.gather.in_flight.take_if(|flight| flight.batch.number == number) else { return };
        self.counters.commit_time.add(self.now.mono.saturating_sub(flight.since));
        match outcome {
            Outcome::Committed { refused, storing } => self.committed(&flight, &refused, storing, fx),
            Outcome::Failed(trouble) => self.failed(flight, trouble, fx),
        }
        self.release_all_committed(fx);
    }

    fn committed(&mut self, flight: &InFlight, refused: &[usize], storing: bool, fx: &mut Effects) {
        self.counters.commits += 1;
        self.gather.commit(flight.queued);
        let mut bad = Vec::new();
        for &index in refused {
            match flight.batch.changes.get(index) {
                Some(Change::SaveMessage { message, .. }) => bad.push(message.mid),
                Some(Change::SaveKey(key)) => bad.push(key.mid),
                other => log::error!("row_refused change={other:?} action=left_out"),
            }
        }
        for (index, change) in flight.batch.changes.iter().enumerate() {
            if let Change::SaveAlias(record) = change
                && !refused.contains(&index)
                && let Some(key) = self.aliases.find(record.name.as_str())
            {
                let entry = self.aliases.get_mut(key);
                entry.saved |= entry.id == Some(record.id);
            }
        }
        for &mid in &flight.mids {
            if bad.contains(&mid) {
                self.fail(mid, fx);
            } else {
                self.message_committed(mid, fx);
            }
        }
        if storing {
            self.gather.proved_at = Some(self.now.mono);
        }
        self.set_health(if storing { Health::Storing } else { Health::Full });
    }

    /// Has an empty transaction written where none was committed for [`PROOF_AFTER`]: that the store can be written is only known by
    /// writing. Returns whether that is still to be shown. However many ask, one is under way at most, and none follows a commit
    /// before that time is over again: an idle server must not wear its disk out.
    pub fn prove_storing(&mut self, now: crate::hub::Now) -> bool {
        self.now = now;
        let wanted = self.lacks_proof(now);
        self.gather.proof_wanted |= wanted && self.gather.in_flight.is_none();
        wanted
    }

    /// Whether nothing was committed for so long that it is unknown whether the store can be written. A store that is known to fail
    /// is tried each second anyway.
    #[must_use]
    pub fn lacks_proof(&self, now: crate::hub::Now) -> bool {
        let is_recent = |at: u64| now.mono.saturating_sub(at) < PROOF_AFTER.as_micros() as u64;
        self.gather.is_storing() && !self.gather.proved_at.is_some_and(is_recent)
    }

    fn message_committed(&mut self, mid: Mid, fx: &mut Effects) {
        let Some(mut pending) = self.pending.remove(mid) else { return };
        let message = &pending.message;
        if pending.left == 0 {
            self.bodies -= message.body.len() as u64;
        } else {
            let bytes = u32::try_from(message.body.len()).unwrap_or(u32::MAX);
            let waited_ms = self.now.mono.saturating_sub(pending.sent) / 1_000;
            let since = u32::try_from(self.now.service.saturating_sub(waited_ms) / 1_000).unwrap_or(u32::MAX);
            self.waiting.add(mid, Stored { expires: message.expires, left: pending.left, bytes, sent: pending.sent, since });
            if message.receipt {
                self.waiting.set_receipt(mid, message.publisher.clone());
            }
        }
        self.answer_publishers(&mut pending, fx);
    }

    /// Sends the `-6`, to those who repeated the publish as well.
    pub(super) fn answer_publishers(&mut self, pending: &mut Pending, fx: &mut Effects) {
        if let Some(key) = &pending.key {
            self.keys.answer(key.hash, pending.published);
        }
        for Publisher { link, num } in std::mem::take(&mut pending.publishers) {
            fx.reply(link, Reply::Published(pending.published, num));
            self.answered(link, fx);
        }
    }

    fn answered(&mut self, id: LinkId, fx: &mut Effects) {
        if let Some(link) = self.links.find_mut(id) {
            link.unanswered = link.unanswered.saturating_sub(1);
            if link.owes_ready || link.finished {
                self.batch_done(id, fx);
            }
        }
    }

    /// The message can't be kept: its publishers are told, what is owed of it ends, its `opts.id` is forgotten.
    fn fail(&mut self, mid: Mid, fx: &mut Effects) {
        let Some(mut pending) = self.pending.remove(mid) else { return };
        self.bodies -= pending.message.body.len() as u64;
        for receiver in &pending.receivers {
            if self.aliases.try_get(receiver.alias).is_some() && waiting::remove(&mut self.aliases.get_mut(receiver.alias).owed, mid) {
                self.deliveries -= 1;
                self.counters.not_stored += 1;
            }
            self.forget_if_empty(receiver.alias);
        }
        if let Some(key) = &pending.key {
            self.keys.forget(key.hash);
        }
        self.tell_unavailable(&mut pending, fx);
    }

    fn tell_unavailable(&mut self, pending: &mut Pending, fx: &mut Effects) {
        for publisher in std::mem::take(&mut pending.publishers) {
            let refusal = Refusal::new(Code::Unavailable, "");
            self.counters.count_refusal(refusal.code);
            fx.reply(publisher.link, Reply::Error { refusal, num: publisher.num });
            self.answered(publisher.link, fx);
        }
    }

    fn failed(&mut self, flight: InFlight, trouble: Trouble, fx: &mut Effects) {
        self.counters.failed_commits += 1;
        self.set_health(trouble.into());
        for mid in &flight.mids {
            self.fail(*mid, fx);
        }
        let gathered: Vec<Mid> = self.gather.messages.iter().map(|(mid, _)| *mid).collect();
        for mid in gathered {
            if self.pending.get(mid).is_some_and(|pending| pending.needs_commit || pending.published.stored > 0) {
                self.fail(mid, fx);
            }
        }
        let queued = flight.batch.changes[..flight.queued].to_vec();
        self.gather.put_back(queued);
        for (_, id) in std::mem::take(&mut self.timers.unstored) {
            let waits = self.link(id).and_then(|link| link.hold.as_ref()).map(|hold| hold.kind);
            if matches!(waits, Some(HoldKind::Register(_) | HoldKind::Unregister(_))) {
                self.give_up_hold(id, fx);
                self.run_backlog(id, fx);
            }
        }
    }

    /// The store has found the disk full by itself. Of a transaction in flight the outcome will tell.
    pub(super) fn store_full(&mut self) {
        if self.gather.in_flight.is_none() {
            self.set_health(Health::Full);
        }
    }

    fn set_health(&mut self, health: Health) {
        if health != self.gather.health {
            match health {
                Health::Storing => log::info!("store state=storing"),
                Health::Full => log::error!("store state=disk_full action=deletions_only hint=free_space_on_the_data_folder's_disk"),
                Health::Failing => log::error!("store state=failing action=probe_each_second hint=check_the_disk"),
            }
        }
        self.gather.health = health;
        self.gather.probe_at = self.now.mono + PROBE_EVERY_US;
    }

    /// A commit that does not come: after 5 s `unavailable`, outcome unknown. What has not reached the store ends.
    pub(super) fn give_up_waits(&mut self, fx: &mut Effects) {
        let wait = COMMIT_WAIT_MAX.as_micros() as u64;
        let now = self.now.mono;
        while let Some(&(mid, since)) = self.gather.messages.front() {
            let ended = !self.pending.contains(mid);
            if !ended && since + wait > now {
                break;
            }
            self.gather.messages.pop_front();
            self.fail(mid, fx);
        }
        let late = self.gather.in_flight.as_ref().filter(|flight| flight.since + wait <= now).map(|flight| flight.mids.clone());
        for mid in late.unwrap_or_default() {
            if let Some(mut pending) = self.pending.remove(mid) {
                self.tell_unavailable(&mut pending, fx);
                self.pending.add(pending);
            }
        }
    }

    /// Answers the 2 or 12 that holds a link if its change is committed.
    pub(super) fn release_committed(&mut self, id: LinkId, fx: &mut Effects) -> bool {
        let Some(link) = self.links.find_mut(id) else { return false };
        let reached = link.hold.as_ref().is_some_and(|hold| match hold.kind {
            HoldKind::Register(count) | HoldKind::Unregister(count) => self.gather.is_committed(count),
            HoldKind::Pull(_) | HoldKind::PullWaiting => false,
        });
        let Some(hold) = link.hold.take_if(|_| reached) else { return false };
        let reply = match hold.kind {
            HoldKind::Unregister(_) => Reply::Unregistered { num: hold.num },
            _ => Reply::Registered { num: hold.num },
        };
        fx.reply(id, reply);
        true
    }

    /// How many changes were ever queued for the store, with those that would have waited for company.
    #[must_use]
    pub fn queued_changes(&mut self) -> u64 {
        self.gather.queue_deletions();
        self.gather.last_queued()
    }

    /// Whether the first `count` of them are committed.
    #[must_use]
    pub fn has_committed(&self, count: u64) -> bool {
        self.gather.is_committed(count)
    }

    fn release_all_committed(&mut self, fx: &mut Effects) {
        while let Some((_, id)) = self.timers.unstored.pop_front_if(|(count, _)| self.gather.is_committed(*count)) {
            if self.release_committed(id, fx) {
                self.run_backlog(id, fx);
            }
        }
    }

    /// What holds a link did not come in time: `unavailable`, the change may still hold (Protocol §6).
    pub(super) fn give_up_hold(&mut self, id: LinkId, fx: &mut Effects) {
        if let Some(hold) = self.links.find_mut(id).and_then(|link| link.hold.take()) {
            let refusal = Refusal::new(Code::Unavailable, "");
            self.counters.count_refusal(refusal.code);
            fx.reply(id, Reply::Error { refusal, num: hold.num });
            self.end_binding_pull(id, Mid::ZERO);
        }
    }
}

/// Adds the rows of one message to batch `number`, begun at that service time, ms.
fn add_rows(aliases: &mut Aliases, number: u64, service: u64, pending: &Pending, changes: &mut Vec<Change>) {
    let mid = pending.message.mid;
    let none_ended = pending.left as usize == pending.receivers.len();
    let mut receivers = if pending.left > 1 { Few::Many(Vec::with_capacity(pending.left as usize)) } else { Few::None };
    for receiver in &pending.receivers {
        let is_owed = none_ended || aliases.try_get(receiver.alias).is_some_and(|entry| entry.owed.binary_search(&mid).is_ok());
        if !is_owed {
            continue;
        }
        let alias = aliases.id(receiver.alias);
        let entry = aliases.get_mut(receiver.alias);
        if !entry.saved && entry.in_batch != number {
            entry.in_batch = number;
            changes.extend(entry.record().map(Change::SaveAlias));
        }
        receivers.push(Owed { alias, topic: receiver.topic });
        if pending.message.receipt {
            let line = ReportLine { alias: entry.name.clone(), state: DeliveryState::Waiting, at: pending.message.ts };
            changes.push(Change::SaveReport { mid, line });
        }
    }
    changes.extend(pending.ended.iter().map(|line| Change::SaveReport { mid, line: line.clone() }));
    if !receivers.is_empty() {
        receivers.sort_unstable_by_key(|owed| owed.alias);
        changes.push(Change::SaveMessage { message: Arc::clone(&pending.message), receivers });
    }
    if let Some(key) = &pending.key {
        changes.push(Change::SaveKey(key_record(key, pending.published, service)));
    }
}
