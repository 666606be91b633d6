//! Flow: deliveries that end, by acknowledgement, expiry or cap (Protocol §5); recall is in `owing`.

use crate::hub::Hub;
use crate::hub::aliases::AliasKey;
use crate::hub::effects::Effects;
use crate::hub::pending::Stage;
use crate::hub::storage::{Change, DeliveryState, ReportLine};
use crate::hub::waiting;
use crate::names::{Alias, LinkId, Mid};
use crate::protocol::frame::{Mids, Reply};
use crate::protocol::refusal::Refusal;

/// Deliveries of one alias that one publish drops at most. One is enough where the cap stays what it was; after it was lowered the
/// next publishes shrink what waits, none of them for long.
const DROPPED_AT_ONCE_MAX: usize = 16;
/// Longer times of acknowledgement are all the same: too long for a grace.
const ACK_TIME_MAX_US: u64 = 1_000_000;

impl Hub {
    /// -5.
    pub(super) fn acknowledge(&mut self, id: LinkId, named: Option<&Alias>, mids: &Mids, fx: &mut Effects) -> Result<(), Refusal> {
        let (key, fresh) = self.bind(id, named, fx)?;
        for mid in mids.as_slice() {
            self.acknowledge_one(id, key, *mid, fx);
        }
        if fresh {
            self.resend(id);
        }
        Ok(())
    }

    pub(super) fn acknowledge_one(&mut self, id: LinkId, key: AliasKey, mid: Mid, fx: &mut Effects) {
        let entry = self.aliases.get(key);
        if entry.sessions.len() > 1 {
            self.tell_ended_elsewhere(key, mid, Some(id), fx);
        }
        if let Some(sent) = self.end_one(key, mid, DeliveryState::Acknowledged, fx) {
            self.counters.acknowledged += 1;
            self.note_ack_time(id, sent);
            return;
        }
        let sent = self.pending.get(mid).map(|pending| pending.sent).or_else(|| self.waiting.get(mid).map(|stored| stored.sent));
        if let Some(sent) = sent {
            self.note_ack_time(id, sent);
        }
        self.acknowledge_live_only(id, key, mid, fx);
    }

    /// Keeps the moving mean by which the grace adapts. Also of what is committed: else a mean that is too short would see
    /// no acknowledgement that is longer. What the session was not sent at once says nothing about it.
    fn note_ack_time(&mut self, id: LinkId, sent: u64) {
        let Some(link) = self.links.find_mut(id).filter(|link| link.opened <= sent) else { return };
        let took = self.now.mono.saturating_sub(sent).min(ACK_TIME_MAX_US) as u32;
        link.ack_mean = link.ack_mean - link.ack_mean / 8 + took / 8;
        link.missed = 0;
    }

    /// The alias's other sessions that were sent that mid stop ringing.
    pub(super) fn tell_ended_elsewhere(&self, key: AliasKey, mid: Mid, but: Option<LinkId>, fx: &mut Effects) {
        let entry = self.aliases.get(key);
        if entry.owed.binary_search(&mid).is_err() {
            return;
        }
        for session in &entry.sessions {
            let sent = self.link(*session).is_some_and(|link| link.gets_notices() && link.cursor >= mid);
            if sent && Some(*session) != but {
                fx.notice(*session, Reply::EndedElsewhere { mid });
            }
        }
    }

    /// Ends one delivery, and tells when it was pushed: monotonic, µs. `None`: that alias is not owed that message.
    pub(super) fn end_one(&mut self, key: AliasKey, mid: Mid, state: DeliveryState, fx: &mut Effects) -> Option<u64> {
        if !waiting::remove(&mut self.aliases.get_mut(key).owed, mid) {
            return None;
        }
        let sent = match self.pending.get(mid).map(|pending| pending.sent) {
            Some(sent) => {
                self.end_pending(key, mid, state, fx);
                sent
            }
            None => self.end_stored(key, mid, state, fx)?,
        };
        self.deliveries -= 1;
        Some(sent)
    }

    fn end_pending(&mut self, key: AliasKey, mid: Mid, state: DeliveryState, fx: &mut Effects) {
        let Some(pending) = self.pending.get_mut(mid) else { return };
        pending.left -= 1;
        let (left, stage, needs_commit) = (pending.left, pending.stage, pending.needs_commit);
        let receipt = pending.message.receipt.then(|| pending.message.publisher.clone());
        if receipt.is_some() && stage != Stage::Writing {
            pending.ended.push(ReportLine { alias: self.aliases.get(key).name.clone(), state, at: self.now.wall });
        }
        if stage == Stage::Writing {
            self.end_row(key, mid, left);
        }
        if let Some(publisher) = receipt {
            self.note_ending(key, mid, state, publisher.as_ref(), stage == Stage::Writing, fx);
        }
        if left == 0 && !needs_commit && stage != Stage::FanOut {
            self.delivered(mid, fx);
        }
    }

    fn end_stored(&mut self, key: AliasKey, mid: Mid, state: DeliveryState, fx: &mut Effects) -> Option<u64> {
        let receipt = self.waiting.receipt(mid).cloned();
        let stored = self.waiting.end_one(mid)?;
        if stored.left == 0 {
            self.bodies -= u64::from(stored.bytes);
        }
        self.end_row(key, mid, stored.left);
        if let Some(publisher) = receipt {
            self.note_ending(key, mid, state, publisher.as_ref(), true, fx);
        }
        Some(stored.sent)
    }

    /// The message is stored: the last ending deletes it, an earlier one is a row of its own unless the last one follows soon.
    fn end_row(&mut self, key: AliasKey, mid: Mid, left: u32) {
        if left == 0 {
            self.gather.delete(mid, self.now.mono);
        } else {
            let alias = self.aliases.id(key);
            self.gather.end_later(mid, alias, self.now.mono);
        }
    }

    /// A delivery of a message with `opts.receipt` has ended: its report's line, and the receipt.
    fn note_ending(&mut self, key: AliasKey, mid: Mid, state: DeliveryState, publisher: Option<&Alias>, has_rows: bool, fx: &mut Effects) {
        let alias = self.aliases.get(key).name.clone();
        let at = self.now.wall;
        if state == DeliveryState::Acknowledged {
            self.send_receipts(publisher, mid, &alias, fx);
        }
        if has_rows {
            self.gather.queue(Change::SaveReport { mid, line: ReportLine { alias, state, at } });
        }
    }

    fn send_receipts(&self, publisher: Option<&Alias>, mid: Mid, alias: &Alias, fx: &mut Effects) {
        let Some(key) = publisher.and_then(|name| self.aliases.find(name.as_str())) else { return };
        for session in &self.aliases.get(key).sessions {
            if self.link(*session).is_some_and(|link| link.gets_notices()) {
                fx.notice(*session, Reply::Receipt { mid, alias: alias.clone(), at: self.now.wall });
            }
        }
    }

    fn acknowledge_live_only(&mut self, id: LinkId, key: AliasKey, mid: Mid, fx: &mut Effects) {
        let entry = self.aliases.get(key);
        let alias = entry.name.clone();
        let Some(message) = self.live_only.acknowledge(mid, key) else { return };
        let (receipt, publisher, sent) = (message.receipt, message.publisher.clone(), message.at);
        self.counters.acknowledged += 1;
        for session in &entry.sessions {
            let sent = self.links.find(*session).is_some_and(|link| link.gets_notices() && link.opened <= sent);
            if sent && *session != id {
                fx.notice(*session, Reply::EndedElsewhere { mid });
            }
        }
        if receipt {
            self.send_receipts(publisher.as_ref(), mid, &alias, fx);
            if self.gather.has_room() {
                let line = ReportLine { alias, state: DeliveryState::Acknowledged, at: self.now.wall };
                self.gather.queue(Change::SaveReport { mid, line });
            }
        }
    }

    /// The last delivery of a pending message has ended and nothing of it must be kept: `-6` is true.
    pub(super) fn delivered(&mut self, mid: Mid, fx: &mut Effects) {
        let Some(mut pending) = self.pending.remove(mid) else { return };
        self.bodies -= pending.message.body.len() as u64;
        self.answer_publishers(&mut pending, fx);
    }

    /// Over the cap of an alias its oldest deliveries are dropped, a few at a time.
    pub(super) fn drop_oldest(&mut self, key: AliasKey, fx: &mut Effects) {
        self.purge_owed(key);
        for _ in 0..DROPPED_AT_ONCE_MAX {
            if self.aliases.get(key).owed.len() <= self.options.limits.deliveries_per_alias {
                return;
            }
            let Some(&oldest) = self.aliases.get(key).owed.front() else { return };
            self.end_one(key, oldest, DeliveryState::Dropped, fx);
            self.counters.dropped += 1;
        }
    }

    /// Takes out of an alias's list what has ended for everybody; looks only if there has been such an end since it last did.
    pub(super) fn purge_owed(&mut self, key: AliasKey) {
        let (pending, stored) = (&self.pending, &self.waiting);
        let entry = self.aliases.get_mut(key);
        if entry.purged != stored.expired() {
            entry.purged = stored.expired();
            waiting::purge(&mut entry.owed, |mid| pending.contains(mid) || stored.contains(mid));
        }
    }

    /// Ends messages whose time to live is over, at most `most`.
    pub(super) fn expire(&mut self, most: usize) {
        for _ in 0..most {
            let Some((mid, stored, receipt)) = self.waiting.expire(self.now.service) else { return };
            self.deliveries -= stored.left as usize;
            self.bodies -= u64::from(stored.bytes);
            self.counters.expired += u64::from(stored.left);
            self.gather.delete(mid, self.now.mono);
            if receipt {
                self.gather.queue(Change::CloseReport { mid, state: DeliveryState::Expired, at: self.now.wall });
            }
        }
    }
}
