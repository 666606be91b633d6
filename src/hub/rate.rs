//! `limits.publish_rate`: a token bucket for each publisher, only where the setting asks for it.

use std::collections::HashMap;

/// Publishers that are remembered at once; over it all buckets are full again, which only ever lets more through.
const PUBLISHERS_MAX: usize = 100_000;
const SECOND_US: u64 = 1_000_000;

/// The buckets.
#[derive(Debug)]
pub(super) struct Rates {
    per_second: u32,
    /// Publisher to the monotonic time, µs, at which its bucket is full again.
    full_at: HashMap<Box<str>, u64>,
}

impl Rates {
    pub(super) fn new(per_second: u32) -> Rates {
        Rates { per_second, full_at: HashMap::new() }
    }

    /// Another rate; `0`: none, and nobody is remembered.
    pub(super) fn set_rate(&mut self, per_second: u32) {
        self.per_second = per_second;
        if per_second == 0 {
            self.full_at = HashMap::new();
        }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.per_second > 0
    }

    /// Whether `publisher` may publish now. A bucket holds one second's worth.
    pub(super) fn take(&mut self, publisher: Box<str>, now: u64) -> bool {
        if self.full_at.len() >= PUBLISHERS_MAX {
            self.full_at.clear();
        }
        let cost = SECOND_US / u64::from(self.per_second.max(1));
        let full_at = self.full_at.entry(publisher).or_insert(now);
        let after = (*full_at).max(now) + cost;
        if after > now + SECOND_US {
            return false;
        }
        *full_at = after;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_as_many_as_the_rate_and_no_more() {
        let mut rates = Rates::new(10);
        let taken = |rates: &mut Rates, now| (0..30).filter(|_| rates.take("a".into(), now)).count();
        assert_eq!(taken(&mut rates, 0), 10);
        assert_eq!(taken(&mut rates, 99_999), 0);
        assert_eq!(taken(&mut rates, 100_000), 1);
        assert_eq!(taken(&mut rates, 10_000_000), 10);
        assert!(rates.take("b".into(), 0), "another publisher has a bucket of its own");
    }
}
