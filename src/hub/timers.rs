//! Flow: everything that happens because time passed. The driver asks when to call, and calls.

use std::collections::VecDeque;

use crate::hub::aliases::AliasKey;
use crate::hub::effects::{Closing, Effect, Effects};
use crate::hub::storage::Change;
use crate::hub::{Hub, Now};
use crate::limits::{BIND_WAIT, DELIVERIES_PER_TURN_MAX, DOOR_LOG_LIFE, IDEMPOTENCY_KEY_LIFE, REPORT_LIFE, REPORTS_MAX};
use crate::names::{LinkId, Mid, Transport};

/// Deadlines of links are looked at this often.
const SWEEP_EVERY_US: u64 = 1_000_000;
/// While something waits for the disk: how often its deadlines are looked at.
const WAITS_EVERY_US: u64 = 100_000;
/// Aliases looked at in one sweep: 100,000 take half an hour.
const ALIASES_PER_SWEEP: usize = 64;
/// The last time seen of an alias that is online is written when it has moved by this much: after a crash it must not look as if
/// it had been gone since its session began.
const ONLINE_SAVED_EVERY_MS: u64 = 24 * 3_600_000;
/// Old reports and door log entries are deleted this often.
const HOUSEKEEPING_EVERY_US: u64 = 3_600 * 1_000_000;

/// What is due when.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Links that something held, and until when at most (monotonic, µs): all are held equally long, so earliest first.
    /// What held them may be over.
    pub holding: VecDeque<(u64, LinkId)>,
    /// Those among them that wait until so many changes are committed, in that order.
    pub unstored: VecDeque<(u64, LinkId)>,
    /// A buffer for graces that are over.
    pub due: Vec<Mid>,
    next_sweep: u64,
    next_waits: u64,
    next_housekeeping: u64,
    /// Where the walk over the aliases goes on.
    alias_place: usize,
}

impl Hub {
    /// When [`Hub::tick`] must be called again: monotonic, µs.
    #[must_use]
    pub fn next_tick(&self) -> u64 {
        let mut next = self.timers.next_sweep;
        if !self.timers.holding.is_empty() || !self.gather.is_idle() {
            next = next.min(self.timers.next_waits);
        }
        for due in [self.pending.next_due(), self.doors.next_deadline(), self.rooms.next_deadline()].into_iter().flatten() {
            next = next.min(due);
        }
        next
    }

    /// Does what is due. Each kind of work is bounded; what is left over is done at the next call.
    pub fn tick(&mut self, now: Now, fx: &mut Effects) {
        self.now = now;
        self.end_graces();
        self.end_openings(fx);
        self.rooms.end_contests(now.mono);
        if now.mono >= self.timers.next_waits {
            self.timers.next_waits = now.mono + WAITS_EVERY_US;
            self.give_up_waits(fx);
            self.give_up_holds(fx);
            self.expire(DELIVERIES_PER_TURN_MAX);
        }
        if now.mono >= self.timers.next_sweep {
            self.timers.next_sweep = now.mono + SWEEP_EVERY_US;
            self.sweep_links(fx);
            self.rooms.sweep(now.mono, fx);
            if self.fan_out.is_none() {
                self.sweep_aliases();
            }
            self.live_only.prune(now.mono);
            self.prune_keys();
            self.pages.retry_failed();
        }
        if now.mono >= self.timers.next_housekeeping {
            self.timers.next_housekeeping = now.mono + HOUSEKEEPING_EVERY_US;
            let before = |life: std::time::Duration| now.service.saturating_sub(life.as_millis() as u64);
            self.gather.queue(Change::ForgetReports { before: before(REPORT_LIFE), keep: REPORTS_MAX });
            self.gather.queue(Change::ForgetDoorLogBefore(before(DOOR_LOG_LIFE)));
            fx.list.push(Effect::SweepPictures(now.service));
        }
        self.close_members(fx);
    }

    fn give_up_holds(&mut self, fx: &mut Effects) {
        while let Some((deadline, id)) = self.timers.holding.pop_front_if(|(deadline, _)| *deadline <= self.now.mono) {
            let holds = self.link(id).and_then(|link| link.hold.as_ref()).is_some_and(|hold| hold.deadline == deadline);
            if holds {
                self.give_up_hold(id, fx);
                self.run_backlog(id, fx);
            }
        }
    }

    /// Idle links, links that never bound, tokens that have expired.
    fn sweep_links(&mut self, fx: &mut Effects) {
        let now = self.now;
        let idle = self.options.limits.tcp_idle.as_micros() as u64;
        let unbound = BIND_WAIT.as_micros() as u64;
        let mut ending = Vec::new();
        for link in self.links.iter() {
            let is_tcp = link.transport == Transport::Tcp;
            if link.claims.as_ref().is_some_and(|claims| claims.expired(now.wall / 1_000)) {
                ending.push((link.id, Closing::BadToken));
            } else if is_tcp && now.mono.saturating_sub(link.heard) >= idle {
                ending.push((link.id, Closing::Idle));
            } else if is_tcp && !link.settled && now.mono.saturating_sub(link.opened) >= unbound {
                ending.push((link.id, Closing::Unbound));
            }
        }
        for (id, why) in ending {
            self.close(id, why, fx);
        }
    }

    /// A few aliases: what has ended is taken from their lists; who was not here for half a year is forgotten.
    fn sweep_aliases(&mut self) {
        for _ in 0..ALIASES_PER_SWEEP.min(self.aliases.places()) {
            self.timers.alias_place = (self.timers.alias_place + 1) % self.aliases.places();
            let Some(key) = self.aliases.at_place(self.timers.alias_place) else { continue };
            self.purge_owed(key);
            let entry = self.aliases.get_mut(key);
            if entry.is_online() {
                entry.last_seen = self.now.wall;
                entry.last_seen_service = self.now.service;
                if entry.saved && entry.saved_seen + ONLINE_SAVED_EVERY_MS <= self.now.service {
                    self.save_alias(key);
                }
                continue;
            }
            let gone_for = self.now.service.saturating_sub(entry.last_seen_service);
            let is_known = !entry.topics.is_empty() || entry.info.is_some();
            if is_known && gone_for >= self.options.limits.alias_life.as_millis() as u64 && self.gather.has_room() {
                self.lapse(key);
            }
            self.forget_if_empty(key);
        }
    }

    /// Takes from an alias what would keep it known. What still waits for it ends by itself: new messages to its topics must not
    /// keep it for ever.
    fn lapse(&mut self, key: AliasKey) {
        let entry = self.aliases.get_mut(key);
        entry.info = None;
        let waits = !entry.owed.is_empty();
        let name = entry.name.clone();
        let topics = self.aliases.topics(key);
        log::info!("alias_forgotten alias={name} topics={} days={}", topics.len(), self.options.limits.alias_life.as_secs() / 86_400);
        let id = self.aliases.id(key);
        for topic in topics {
            self.aliases.unsubscribe(key, &topic);
            if waits {
                self.gather.queue(Change::Unsubscribe(id, topic));
            }
        }
        if waits {
            self.save_alias(key);
        }
    }

    fn prune_keys(&mut self) {
        let before = self.now.service.saturating_sub(IDEMPOTENCY_KEY_LIFE.as_millis() as u64);
        if let Some(mid) = self.keys.prune(before, DELIVERIES_PER_TURN_MAX) {
            self.gather.queue(Change::ForgetKeysBefore { at: before, mid: Mid::new(mid.number() + 1) });
        }
    }
}
