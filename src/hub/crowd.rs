//! Deletions that wait for those of their neighbours. Where many come back who are owed messages, what lies together in the store
//! ends within a moment of each other, and is then deleted at once and not written anew for each. It decides nothing about messages.

use std::collections::BTreeMap;

use crate::names::Mid;

/// A deletion waits so long at most until it is due; µs. A crash meanwhile repeats deliveries (Protocol §5), and loses none.
const WAIT_US: u64 = 250_000;
/// So many are no crowd, and wait for nothing.
pub(super) const FEW: usize = 256;
/// With so many they are due.
const MAX: usize = 131_072;
/// Messages are neighbours whose numbers differ in these bits only: so many are sorted at once.
const NEIGHBOUR_BITS: u32 = 10;

/// Deletions that wait, and those that are due and wait for their transaction.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    waiting: Neighbours,
    due: Neighbours,
}

/// Messages by neighbourhood.
#[derive(Debug, Default)]
struct Neighbours {
    places: BTreeMap<u64, Vec<Mid>>,
    count: usize,
    /// When the first of them came: monotonic, µs.
    since: u64,
}

impl Crowd {
    /// A message has ended now.
    pub(super) fn add(&mut self, mid: Mid, now: u64) {
        if self.waiting.count == 0 {
            self.waiting.since = now;
        }
        self.waiting.count += 1;
        self.waiting.places.entry(mid.number() >> NEIGHBOUR_BITS).or_default().push(mid);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.waiting.count + self.due.count
    }

    /// When the first of them came: monotonic, µs.
    pub(super) fn since(&self) -> Option<u64> {
        [&self.due, &self.waiting].into_iter().find(|some| some.count > 0).map(|some| some.since)
    }

    /// The next neighbours that are due, ascending. `hurries`: all are.
    pub(super) fn next_due(&mut self, now: u64, hurries: bool) -> Option<Vec<Mid>> {
        let Neighbours { count, since, .. } = self.waiting;
        if self.due.count == 0 && (hurries || count <= FEW || count >= MAX || since + WAIT_US <= now) {
            self.due = std::mem::take(&mut self.waiting);
        }
        let (_, mut mids) = self.due.places.pop_first()?;
        self.due.count -= mids.len();
        mids.sort_unstable();
        Some(mids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(mids: Option<Vec<Mid>>) -> Vec<u64> {
        mids.into_iter().flatten().map(Mid::number).collect()
    }

    #[test]
    fn a_few_are_due_at_once_and_a_crowd_after_its_time() {
        let mut crowd = Crowd::default();
        assert_eq!((numbers(crowd.next_due(0, true)), crowd.since()), (vec![], None));
        for mid in [3, 1, 5_000] {
            crowd.add(Mid::new(mid), 7);
        }
        assert_eq!((crowd.len(), crowd.since()), (3, Some(7)));
        assert_eq!([0; 3].map(|_| numbers(crowd.next_due(7, false))), [vec![1, 3], vec![5_000], vec![]]);
        for mid in (0..=FEW as u64).rev() {
            crowd.add(Mid::new(mid), 10 + mid);
        }
        let first = 10 + FEW as u64;
        assert_eq!((numbers(crowd.next_due(first + WAIT_US - 1, false)), crowd.since()), (vec![], Some(first)));
        assert!(numbers(crowd.next_due(first + WAIT_US, false)).iter().copied().eq(0..=FEW as u64));
        assert_eq!(crowd.len(), 0);
    }

    #[test]
    fn what_is_due_goes_before_what_came_since() {
        let mut crowd = Crowd::default();
        for mid in 0..5_000 {
            crowd.add(Mid::new(mid * 2), 0);
        }
        assert_eq!(numbers(crowd.next_due(WAIT_US, false)).len(), 512);
        for mid in 0..5_000 {
            crowd.add(Mid::new(mid * 2 + 1), WAIT_US);
        }
        let mut due = Vec::new();
        while let Some(mids) = crowd.next_due(WAIT_US + 1, false) {
            due.extend(mids);
        }
        assert!(due.iter().all(|mid| mid.number().is_multiple_of(2)) && due.is_sorted() && due.len() == 4_488);
        assert_eq!((crowd.len(), crowd.since()), (5_000, Some(WAIT_US)));
        assert_eq!(numbers(crowd.next_due(WAIT_US + 1, true))[..3], [1, 3, 5]);
    }

    #[test]
    fn too_many_wait_no_longer() {
        let mut crowd = Crowd::default();
        for mid in 0..MAX as u64 - 1 {
            crowd.add(Mid::new(mid), 0);
        }
        assert!(crowd.next_due(1, false).is_none());
        crowd.add(Mid::ZERO, 0);
        assert!(crowd.next_due(1, false).is_some());
    }
}
