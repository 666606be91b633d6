//! The segments that were read last, so that those who come back together and are owed neighbours read each of them once, whatever
//! was written meanwhile: what a number stands for never changes. It may still have what has been deleted; whoever asks knows what is
//! owed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::names::Mid;
use crate::store::segment::Whole;

/// Bytes that they may have together. The oldest goes first.
const BYTES_MAX: usize = 4 << 20;

/// Segments by their keys.
#[derive(Default)]
pub(super) struct Recent {
    segments: BTreeMap<Mid, Arc<Whole>>,
    /// Their keys, oldest first.
    order: VecDeque<Mid>,
    bytes: usize,
}

impl Recent {
    /// The segment in which that message would lie, if it was read.
    pub(super) fn find(&self, mid: Mid) -> Option<Arc<Whole>> {
        let (_, segment) = self.segments.range(..=mid).next_back()?;
        (segment.last() >= mid).then(|| Arc::clone(segment))
    }

    /// Adds one, in place of what it was before.
    pub(super) fn add(&mut self, segment: &Arc<Whole>) {
        let key = segment.key();
        self.bytes += segment.bytes();
        match self.segments.insert(key, Arc::clone(segment)) {
            Some(former) => self.bytes -= former.bytes(),
            None => self.order.push_back(key),
        }
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.segments.remove(&oldest).map_or(0, |segment| segment.bytes());
        }
    }

    /// Gives all back.
    pub(super) fn clear(&mut self) {
        *self = Recent::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::samples::message;
    use crate::store::segment::Draft;

    /// A segment with a message of each of these numbers.
    fn segment(mids: &[u64], body_bytes: usize) -> Arc<Whole> {
        let mut draft = Draft::default();
        for mid in mids {
            assert!(draft.push(&message(*mid, &"x".repeat(body_bytes)), &[]).unwrap());
        }
        Arc::new(draft.finish(Whole::new).unwrap())
    }

    #[test]
    fn a_segment_is_found_by_any_number_that_it_may_have() {
        let mut recent = Recent::default();
        for mids in [[10, 15, 20], [30, 35, 40]] {
            recent.add(&segment(&mids, 1));
        }
        let found = |recent: &Recent, mid| recent.find(Mid::new(mid)).map(|segment| segment.key().number());
        let expected = [(9, None), (10, Some(10)), (17, Some(10)), (20, Some(10)), (21, None), (30, Some(30)), (41, None)];
        for (mid, key) in expected {
            assert_eq!(found(&recent, mid), key, "{mid}");
        }
        // As it is after a message was saved among its own.
        recent.add(&segment(&[10, 15, 17, 20], 1));
        assert!(recent.find(Mid::new(17)).unwrap().message(Mid::new(17)).is_some());
        recent.clear();
        assert_eq!((found(&recent, 10), recent.bytes), (None, 0));
    }

    #[test]
    fn it_keeps_the_newest_within_its_bound() {
        let mut recent = Recent::default();
        for number in 1..200 {
            recent.add(&segment(&[number * 10], 60_000));
            recent.add(&segment(&[number * 10], 60_000));
            assert!(recent.bytes <= BYTES_MAX);
            assert_eq!(recent.bytes, recent.segments.values().map(|segment| segment.bytes()).sum::<usize>());
            assert_eq!(recent.order.len(), recent.segments.len());
        }
        assert!(recent.find(Mid::new(1_990)).is_some() && recent.find(Mid::new(10)).is_none());
        assert!(recent.bytes > BYTES_MAX / 2);
    }
}
