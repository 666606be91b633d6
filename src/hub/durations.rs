//! How long something took, counted by fixed bounds: what a histogram of the metrics shows. It knows not what took so long.

/// The bounds, in µs, each with its text in seconds. They reach from a good disk's commit to the wait after which a publish is given up.
pub const BOUNDS: [(u64, &str); 12] = [
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
];

/// Durations since the process began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// By the smallest bound that each does not exceed; the last: beyond all.
    counts: [u64; BOUNDS.len() + 1],
    sum_us: u64,
}

impl Durations {
    pub(super) fn add(&mut self, us: u64) {
        let place = BOUNDS.iter().position(|(bound, _)| us <= *bound).unwrap_or(BOUNDS.len());
        self.counts[place] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// For each of [`BOUNDS`], in order: its text, and how many did not exceed it.
    pub fn up_to(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let mut total = 0;
        BOUNDS.iter().zip(self.counts).map(move |((_, text), count)| {
            total += count;
            (*text, total)
        })
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All together, in µs.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_for_every_bound_that_it_does_not_exceed() {
        let mut durations = Durations::default();
        for us in [0, 1_000, 1_001, 5_000_000, 5_000_001] {
            durations.add(us);
        }
        let counts: Vec<u64> = durations.up_to().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert_eq!((durations.count(), durations.sum_us()), (5, 10_002_002));
    }

    #[test]
    fn the_bounds_ascend_and_their_texts_say_the_same() {
        assert!(BOUNDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (us, text) in BOUNDS {
            assert_eq!((text.parse::<f64>().unwrap() * 1e6).round(), us as f64);
        }
    }
}
