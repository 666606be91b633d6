//! Whether this process stood still: stopped, not scheduled, swapped out, or stuck in one task for long. What came meanwhile lay in the
//! kernel and grew old there, though whoever waited for it was woken as soon as anything was again (Protocol §7).

use std::sync::atomic::{AtomicU64, Ordering};

/// While all is well the hub takes a turn each second at least. For longer than this nothing ran: µs.
const SILENCE_MAX: u64 = 1_500_000;
/// For so long after such a silence a socket may be looked at for the first time since; µs.
const AFTERWARDS: u64 = 1_000_000;

/// When something ran. All times are monotonic, µs.
#[derive(Debug, Default)]
pub struct Pulse {
    last: AtomicU64,
    /// The last silence: since when, until when.
    from: AtomicU64,
    until: AtomicU64,
}

/// That of this process.
pub static PULSE: Pulse = Pulse::new();

impl Pulse {
    const fn new() -> Pulse {
        Pulse { last: AtomicU64::new(0), from: AtomicU64::new(0), until: AtomicU64::new(0) }
    }

    /// The hub takes a turn at `now`.
    pub fn beat(&self, now: u64) {
        let last = self.last.fetch_max(now, Ordering::AcqRel);
        if last > 0 && now.saturating_sub(last) > SILENCE_MAX {
            self.from.store(last, Ordering::Release);
            self.until.store(now, Ordering::Release);
        }
    }

    /// When that came at the earliest which is found at `now` and for which somebody waited since `since`.
    #[must_use]
    pub fn earliest(&self, since: u64, now: u64) -> u64 {
        // Whoever reads may run before the hub does. Without a hub nothing beats, and a silence says nothing.
        if self.last.load(Ordering::Acquire) > 0 {
            self.beat(now);
        }
        let until = self.until.load(Ordering::Acquire);
        if until == 0 || now.saturating_sub(until) > AFTERWARDS {
            return now;
        }
        self.from.load(Ordering::Acquire).max(since).min(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn what_is_found_just_after_a_silence_may_have_come_since_it_began() {
        let pulse = Pulse::new();
        for now in [2 * SECOND, 9 * SECOND] {
            assert_eq!(pulse.earliest(SECOND, now), now, "nothing beats");
        }
        pulse.beat(9 * SECOND);
        assert_eq!(pulse.earliest(SECOND, 9 * SECOND), 9 * SECOND, "the start is no silence");
        pulse.beat(10 * SECOND);
        assert_eq!(pulse.earliest(SECOND, 10 * SECOND), 10 * SECOND);
        assert_eq!(pulse.earliest(SECOND, 17 * SECOND), 10 * SECOND);
        pulse.beat(17 * SECOND + 5);
        assert_eq!(pulse.earliest(SECOND, 17 * SECOND + 9), 10 * SECOND);
        assert_eq!(pulse.earliest(17 * SECOND + 3, 17 * SECOND + 9), 17 * SECOND + 3, "it was looked at since");
        let later = 17 * SECOND + AFTERWARDS + 1;
        assert_eq!(pulse.earliest(SECOND, later), later, "all have been looked at since");
    }
}
