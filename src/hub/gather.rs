//! What waits for the next transaction, and the one in flight (Design §6, batches). It decides nothing about messages.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::hub::crowd::{Crowd, FEW};
use crate::hub::storage::{AliasId, Batch, Change, Trouble};
use crate::limits::TRANSACTION_ROWS_MAX;
use crate::names::Mid;

/// Changes that wait while the disk is slow; over it nothing is queued that a peer can be refused.
const CHANGES_WAITING_MAX: usize = 1_000_000;

/// For so long an ending waits for those of the same message's other deliveries: mostly they follow at once, and then one deletion is
/// written in place of a row for each. A crash meanwhile repeats deliveries (Protocol §5), and loses none; µs.
const ENDING_WAIT_US: u64 = 1_000_000;
/// Of those, in one transaction: so that writing them never holds the processor for long.
const LATE_PER_TRANSACTION: usize = 512;
/// Looked at for one transaction: most need no row.
const LATE_PASSED_MAX: usize = 4_096;
/// What waits so; over it the oldest no longer do, once no transaction is in flight.
const LATE_MAX: usize = 65_536;

/// Whether the store can be written, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Storing,
    /// No space: only deletions are written.
    Full,
    /// The disk or the database fails: one probe a second.
    Failing,
}

impl From<Trouble> for Health {
    fn from(trouble: Trouble) -> Health {
        match trouble {
            Trouble::Full => Health::Full,
            Trouble::Disk => Health::Failing,
        }
    }
}

/// The transaction in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub batch: Arc<Batch>,
    /// The messages it holds.
    pub mids: Vec<Mid>,
    /// How many of its changes, the first ones, came from [`Gather::queue`].
    pub queued: usize,
    /// Monotonic, µs.
    pub since: u64,
}

/// A change that is queued later.
#[derive(Debug)]
struct Late {
    change: Change,
    /// Since when: monotonic, µs.
    since: u64,
}

impl Late {
    /// Whether it is still to be written: an ending only while its message has a row, by `has_row`.
    fn is_needed(&self, has_row: impl Fn(Mid) -> bool) -> bool {
        !matches!(self.change, Change::EndDelivery { mid, .. } if !has_row(mid))
    }
}

/// What waits for the next transaction.
#[derive(Debug)]
pub(super) struct Gather {
    /// Messages, and since when (monotonic, µs). Those that have ended meanwhile are struck out when taken.
    pub messages: VecDeque<(Mid, u64)>,
    changes: VecDeque<Change>,
    /// Endings, which perhaps need not be written, and behind them the aliases that were forgotten meanwhile.
    late: VecDeque<Late>,
    /// Messages that have ended and are to be deleted.
    crowd: Crowd,
    /// [`LATE_MAX`], less in tests.
    pub late_max: usize,
    /// No ending waits any more: the process is about to end.
    pub ends_at_once: bool,
    /// How many changes were ever queued, and how many of them are committed: what a 2 or 12 waits for.
    queued: u64,
    committed: u64,
    pub in_flight: Option<InFlight>,
    pub next_number: u64,
    pub health: Health,
    /// While not storing: when the next probe is due. Monotonic, µs.
    pub probe_at: u64,
    /// Door log entries among `changes`.
    door_entries: usize,
    /// When a transaction was last committed and more than deletions could be written: monotonic, µs. Opening the store wrote one.
    pub proved_at: Option<u64>,
    /// The next transaction is written also if it is empty.
    pub proof_wanted: bool,
}

impl Gather {
    pub(super) fn new(is_storing: bool) -> Gather {
        Gather {
            messages: VecDeque::new(),
            changes: VecDeque::new(),
            late: VecDeque::new(),
            crowd: Crowd::default(),
            late_max: LATE_MAX,
            ends_at_once: false,
            queued: 0,
            committed: 0,
            in_flight: None,
            next_number: 1,
            health: if is_storing { Health::Storing } else { Health::Full },
            probe_at: 0,
            door_entries: 0,
            proved_at: is_storing.then_some(0),
            proof_wanted: false,
        }
    }

    pub(super) fn is_storing(&self) -> bool {
        self.health == Health::Storing
    }

    /// Whether a change may be queued that could as well be refused: those that must be kept are bounded by what waits.
    pub(super) fn has_room(&self) -> bool {
        self.is_storing() && self.changes.len() < CHANGES_WAITING_MAX
    }

    /// Nothing waits and nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.messages.is_empty() && self.changes.is_empty() && self.crowd.len() == 0 && self.late.is_empty() && self.in_flight.is_none()
    }

    /// Changes that can be written now.
    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// All changes that are to be written.
    pub(super) fn waiting_changes(&self) -> usize {
        self.changes.len() + self.crowd.len()
    }

    /// Queues a change. Returns the count that [`Gather::is_committed`] waits for.
    pub(super) fn queue(&mut self, change: Change) -> u64 {
        self.door_entries += usize::from(matches!(change, Change::LogDoor(_)));
        self.changes.push_back(change);
        self.queued += 1;
        self.queued
    }

    /// A message that is stored, or is by the transaction in flight, has ended now.
    pub(super) fn delete(&mut self, mid: Mid, now: u64) {
        self.crowd.add(mid, now);
    }

    /// Queues the deletions, all of them: somebody waits for what was ever asked for.
    pub(super) fn queue_deletions(&mut self) {
        while let Some(mids) = self.crowd.next_due(0, true) {
            self.queue_neighbours(mids);
        }
    }

    fn queue_neighbours(&mut self, mids: Vec<Mid>) {
        for mid in mids {
            self.queue(Change::DeleteMessage(mid));
        }
    }

    /// One of several deliveries of a message that has a row, or gets one by the transaction in flight, has ended now. That waits for
    /// others of its message.
    pub(super) fn end_later(&mut self, mid: Mid, alias: AliasId, now: u64) {
        self.late.push_back(Late { change: Change::EndDelivery { mid, alias }, since: now });
    }

    /// An alias is forgotten now. Its endings and deletions are written first: without it nobody could tell whose they are.
    pub(super) fn forget_alias(&mut self, alias: AliasId, now: u64) {
        let change = Change::ForgetAlias(alias);
        if self.late.is_empty() && self.crowd.len() <= FEW {
            self.queue_deletions();
            self.queue(change);
        } else {
            self.late.push_back(Late { change, since: now });
        }
    }

    /// Queues what has waited long enough, as much as a transaction takes: deletions, and endings that are still to be written, by
    /// `has_row`. Not while one is in flight: whether the messages in it are stored is not known, and an ending without a message, or
    /// behind its deletion, stays.
    pub(super) fn queue_late(&mut self, now: u64, has_row: impl Fn(Mid) -> bool) {
        let ends_at_once = self.ends_at_once;
        while self.changes.len() < TRANSACTION_ROWS_MAX
            && let Some(mids) = self.crowd.next_due(now, ends_at_once || !self.is_storing())
        {
            self.queue_neighbours(mids);
        }
        for _ in 0..LATE_PASSED_MAX {
            let are_too_many = self.late.len() > self.late_max;
            if self.changes.len() >= LATE_PER_TRANSACTION && !are_too_many {
                break;
            }
            let hurries = ends_at_once || are_too_many;
            let oldest_deletion = self.crowd.since().unwrap_or(u64::MAX);
            let is_due = |late: &mut Late| {
                // Without an alias nobody could tell whose the messages are that are deleted later.
                let comes_first = !matches!(late.change, Change::ForgetAlias(_)) || late.since < oldest_deletion;
                hurries || (late.since + ENDING_WAIT_US <= now && comes_first)
            };
            let Some(late) = self.late.pop_front_if(is_due) else { break };
            if late.is_needed(&has_row) {
                if hurries && matches!(late.change, Change::ForgetAlias(_)) {
                    self.queue_deletions();
                }
                self.queue(late.change);
            }
        }
    }

    /// The count of the change queued last.
    pub(super) fn last_queued(&self) -> u64 {
        self.queued
    }

    pub(super) fn is_committed(&self, count: u64) -> bool {
        self.committed >= count
    }

    pub(super) fn door_entries(&self) -> usize {
        self.door_entries
    }

    /// Takes up to `most` changes for a transaction; with the disk full only deletions, the others stay in order.
    pub(super) fn take(&mut self, most: usize) -> Vec<Change> {
        let taken = if self.health == Health::Full {
            self.take_deletions(most)
        } else {
            self.changes.drain(..most.min(self.changes.len())).collect()
        };
        self.door_entries -= door_entries(&taken);
        taken
    }

    /// What is kept of an alias stays in order: a subscription that waits must not be written after its own end.
    fn take_deletions(&mut self, most: usize) -> Vec<Change> {
        let (mut taken, mut kept) = (Vec::new(), VecDeque::new());
        let mut held = HashSet::new();
        for change in self.changes.drain(..) {
            let is_held = alias_of(&change).is_some_and(|alias| held.contains(&alias));
            if taken.len() < most && change.is_deletion() && !is_held {
                taken.push(change);
            } else {
                held.extend(alias_of(&change));
                kept.push_back(change);
            }
        }
        self.changes = kept;
        taken
    }

    /// The changes of the batch in flight are on disk.
    pub(super) fn commit(&mut self, changes: usize) {
        self.committed += changes as u64;
    }

    /// The changes of the batch in flight go into the next one.
    pub(super) fn put_back(&mut self, changes: Vec<Change>) {
        self.door_entries += door_entries(&changes);
        for change in changes.into_iter().rev() {
            self.changes.push_front(change);
        }
    }
}

fn door_entries(changes: &[Change]) -> usize {
    changes.iter().filter(|change| matches!(change, Change::LogDoor(_))).count()
}

/// Whose row or subscription a change is about.
fn alias_of(change: &Change) -> Option<AliasId> {
    match change {
        Change::SaveAlias(record) => Some(record.id),
        Change::ForgetAlias(alias) | Change::Subscribe(alias, _) | Change::Unsubscribe(alias, _) => Some(*alias),
        _ => None,
    }
}
