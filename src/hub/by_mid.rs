//! Values by mid, in pages of neighbours. What waits was mostly published in a row: so a page costs one place in the table and one
//! allocation for 64 values, the newest are together in the cache, and growing never moves more than the table of pages.

use crate::hub::hash::NumberMap;
use crate::names::Mid;

/// Mids of a page: the bits of [`Page::present`].
const PAGE_MIDS: u64 = 64;

/// Values by mid. Never iterated.
#[derive(Debug)]
pub(super) struct ByMid<V> {
    pages: NumberMap<u64, Page<V>>,
    len: usize,
}

/// The values of neighbouring mids. At least one.
#[derive(Debug)]
struct Page<V> {
    /// Bit n: the page's nth mid has a value.
    present: u64,
    /// Bit n: it has a place in `values`, though its value may be gone: taking each place out would move all behind it.
    placed: u64,
    /// The places, in the order of their mids.
    values: Vec<V>,
}

impl<V> Default for ByMid<V> {
    fn default() -> ByMid<V> {
        ByMid { pages: NumberMap::default(), len: 0 }
    }
}

impl<V: Copy> ByMid<V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, mid: Mid) -> bool {
        let (page, bit) = place(mid);
        self.pages.get(&page).is_some_and(|page| page.present & bit != 0)
    }

    pub(super) fn get(&self, mid: Mid) -> Option<&V> {
        let (page, bit) = place(mid);
        let page = self.pages.get(&page)?;
        page.values.get(page.find(bit)?)
    }

    /// Sets the value of `mid`; returns the one that it had.
    pub(super) fn insert(&mut self, mid: Mid, value: V) -> Option<V> {
        let (number, bit) = place(mid);
        // A lone value takes the space of one.
        let page = self.pages.entry(number).or_insert_with(|| Page { present: 0, placed: 0, values: Vec::with_capacity(1) });
        let before = page.find(bit).map(|at| page.values[at]);
        page.put(bit, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Changes the value of `mid` by `keep`, and takes it out if that returns false. Returns what it became.
    pub(super) fn change(&mut self, mid: Mid, keep: impl FnOnce(&mut V) -> bool) -> Option<V> {
        let (number, bit) = place(mid);
        let page = self.pages.get_mut(&number)?;
        let at = page.find(bit)?;
        let value = &mut page.values[at];
        let is_kept = keep(value);
        let value = *value;
        if !is_kept {
            page.present &= !bit;
            self.len -= 1;
            if page.present == 0 {
                self.pages.remove(&number);
            } else if page.present.count_ones() as usize <= page.values.capacity() / 4 {
                page.close_up();
            }
        }
        Some(value)
    }

    pub(super) fn remove(&mut self, mid: Mid) -> Option<V> {
        self.change(mid, |_| false)
    }

    /// All values, in no order.
    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.pages.values().flat_map(|page| (0..PAGE_MIDS).filter_map(|at| page.values.get(page.find(1 << at)?)))
    }
}

impl<V: Copy> Page<V> {
    /// Where that bit's place is among the values, or would be.
    fn rank(&self, bit: u64) -> usize {
        (self.placed & (bit - 1)).count_ones() as usize
    }

    fn find(&self, bit: u64) -> Option<usize> {
        (self.present & bit != 0).then(|| self.rank(bit))
    }

    fn put(&mut self, bit: u64, value: V) {
        let at = self.rank(bit);
        if self.placed & bit == 0 {
            self.placed |= bit;
            self.values.insert(at, value);
        }
        self.values[at] = value;
        self.present |= bit;
    }

    /// Takes out the places without a value: one that stays long must not hold the space of all its neighbours.
    fn close_up(&mut self) {
        let (present, mut left) = (self.present, self.placed);
        self.values.retain(|_| {
            let first = left & left.wrapping_neg();
            left ^= first;
            present & first != 0
        });
        self.placed = present;
        self.values.shrink_to(2 * self.values.len());
    }
}

/// The page of a mid, and its bit there.
fn place(mid: Mid) -> (u64, u64) {
    (mid.number() / PAGE_MIDS, 1 << (mid.number() % PAGE_MIDS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn it_is_a_map() {
        for seed in 0..50 {
            let mut seeded = Seeded(seed);
            let span = 1 + seeded.below(400) as u64;
            let (mut ours, mut model) = (ByMid::default(), BTreeMap::new());
            for value in 0..2_000 {
                let mid = Mid::new((1 << 40) - 100 + seeded.next_u64() % span);
                if seeded.below(2) == 0 {
                    assert_eq!(ours.insert(mid, value), model.insert(mid, value));
                } else {
                    assert_eq!(ours.remove(mid), model.remove(&mid));
                }
                let other = Mid::new((1 << 40) - 100 + seeded.next_u64() % span);
                if seeded.below(4) == 0 {
                    let is_kept = seeded.below(2) == 0;
                    let change = |value: &mut i32| {
                        *value += 1;
                        is_kept
                    };
                    assert_eq!(ours.change(other, change), model.get(&other).map(|value| value + 1));
                    if let Some(value) = model.get_mut(&other) {
                        *value += 1;
                    }
                    model.retain(|mid, _| is_kept || *mid != other);
                }
                assert_eq!((ours.get(other), ours.contains(other)), (model.get(&other), model.contains_key(&other)));
                assert_eq!(ours.len(), model.len());
            }
            let mut values: Vec<_> = ours.values().copied().collect();
            values.sort_unstable();
            let mut expected: Vec<_> = model.values().copied().collect();
            expected.sort_unstable();
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn what_is_gone_takes_no_space() {
        let mut all = ByMid::default();
        for number in 0..6_400 {
            all.insert(Mid::new(number), number);
        }
        for number in (0..6_400).filter(|number| number % 64 != 7) {
            all.remove(Mid::new(number));
        }
        assert_eq!(all.len(), 100);
        assert!(all.pages.values().all(|page| page.values.capacity() <= 4));
        for page in 0..100 {
            assert_eq!(all.remove(Mid::new(page * 64 + 7)), Some(page * 64 + 7));
        }
        assert!(all.pages.is_empty());
    }
}
