//! Flow: who is still owed a message, for the two rare requests that must know it (Protocol §10): recall, and the report of a message
//! that asked for none.
//!
//! No list of receivers is kept in memory for what waits on disk, so this is a walk over all aliases. It goes in slices, one a call,
//! between which everybody else is served.

use crate::hub::aliases::AliasKey;
use crate::hub::effects::Effects;
use crate::hub::pending::Stage;
use crate::hub::storage::{DeliveryState, ReportLine};
use crate::hub::{Hub, Now};
use crate::names::Mid;
use crate::protocol::refusal::{Code, Refusal};

/// Aliases looked at in one slice, which takes a tenth of a millisecond: a door waits for one at most.
const ALIASES_PER_SLICE: usize = 1_024;

/// A walk to those who are owed a message, as far as it has come. Who is owed it can only become fewer meanwhile.
#[derive(Debug)]
pub struct Walk {
    mid: Mid,
    per_slice: usize,
    /// Where the next slice begins.
    place: usize,
    /// How many of those who were owed it at the first slice are not found yet; they may have acknowledged meanwhile.
    missing: Option<u32>,
    /// Deliveries that this walk has ended.
    ended: usize,
}

impl Walk {
    /// A walk that has not begun.
    #[must_use]
    pub fn new(mid: Mid) -> Walk {
        Walk { mid, per_slice: ALIASES_PER_SLICE, place: 0, missing: None, ended: 0 }
    }

    /// The same in slices of so many aliases.
    #[cfg(test)]
    pub(super) fn in_slices_of(mid: Mid, per_slice: usize) -> Walk {
        Walk { per_slice, ..Walk::new(mid) }
    }
}

impl Hub {
    /// Who of the next slice is still owed the message. `None`: the walk is over.
    fn owing_slice(&self, walk: &mut Walk) -> Option<Vec<AliasKey>> {
        let pending = self.pending.get(walk.mid);
        if pending.is_some_and(|pending| pending.stage == Stage::FanOut) {
            // Not all of them are owed it yet; soon they are.
            return Some(Vec::new());
        }
        let left = pending.map(|pending| pending.left).or_else(|| self.waiting.get(walk.mid).map(|stored| stored.left));
        let left = left.filter(|left| *left > 0)?;
        let missing = walk.missing.get_or_insert(left);
        if *missing == 0 || walk.place >= self.aliases.places() {
            return None;
        }
        let places = walk.place..self.aliases.places().min(walk.place + walk.per_slice);
        walk.place = places.end;
        let keys = places.filter_map(|place| self.aliases.at_place(place));
        let owing: Vec<AliasKey> = keys.filter(|key| self.aliases.get(*key).owed.binary_search(&walk.mid).is_ok()).collect();
        *missing = missing.saturating_sub(owing.len() as u32);
        Some(owing)
    }

    /// One slice of the answer to who is still owed a message: adds them to `lines`. True: there are more slices.
    #[must_use]
    pub fn list_owing(&self, walk: &mut Walk, lines: &mut Vec<ReportLine>) -> bool {
        let Some(owing) = self.owing_slice(walk) else { return false };
        let line = |key| ReportLine { alias: self.aliases.get(key).name.clone(), state: DeliveryState::Waiting, at: self.now.wall };
        lines.extend(owing.into_iter().map(line));
        true
    }

    /// One slice of a recall: deliveries not yet acknowledged end. `None`: there are more slices; else how many have ended.
    ///
    /// # Errors
    /// `not_found`: nothing was owed of that message; `unavailable`: what is stored is not known yet, and it may be of that.
    pub fn recall(&mut self, now: Now, walk: &mut Walk, fx: &mut Effects) -> Option<Result<usize, Refusal>> {
        self.now = now;
        let mid = walk.mid;
        let Some(owing) = self.owing_slice(walk) else {
            let none = if self.uninformed { Refusal::new(Code::Unavailable, "") } else { Refusal::new(Code::NotFound, "mid") };
            return Some(if walk.ended > 0 { Ok(walk.ended) } else { Err(none) });
        };
        for key in owing {
            self.tell_ended_elsewhere(key, mid, None, fx);
            if self.end_one(key, mid, DeliveryState::Recalled, fx).is_some() {
                walk.ended += 1;
                self.counters.recalled += 1;
            }
        }
        None
    }

    /// All who are still owed a message; while it is being handed out nobody.
    #[cfg(test)]
    pub(super) fn waiting_for(&self, mid: Mid) -> Vec<ReportLine> {
        let mut lines = Vec::new();
        let mut walk = Walk::in_slices_of(mid, 5);
        while self.list_owing(&mut walk, &mut lines) && walk.missing.is_some() {}
        lines
    }
}
