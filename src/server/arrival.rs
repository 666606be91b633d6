//! When bytes came, as far as that can be known: an opening that lay unread in the kernel has grown old there (Protocol §7).
//!
//! The kernel does not tell the time at which something came. What is known is when there was nothing: what is taken next came
//! later. So it is dated by then, which may be too early, and never too late.

use std::task::Poll;

use crate::runtime::clock;
use crate::runtime::pulse::PULSE;

/// For so long a read that took all there was counts: after it nothing is tried again before waiting. What comes in between is dated
/// too early by so much at most; µs.
const EMPTIED_LATELY: u64 = 10_000;

/// Dates what comes through one socket.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// There was nothing to take: monotonic, µs.
    empty_at: u64,
    /// Nor was there since, but for so long before the wait began, for what comes wakes whoever waits; µs.
    lag: u32,
    known: Known,
}

/// What is known of the time since `empty_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing.
    Nothing,
    /// All was taken then; nobody waits yet.
    Emptied,
    /// Someone waits.
    Waits,
}

impl Arrival {
    /// For a socket in which nothing lay at that time: monotonic, µs.
    #[must_use]
    pub const fn since(empty_at: u64) -> Arrival {
        Arrival { empty_at, lag: 0, known: Known::Nothing }
    }

    /// Looks at an attempt to take something. Returns when it came at the earliest: monotonic, µs. `is_all`: nothing is left behind it.
    pub fn date<T>(&mut self, attempt: &Poll<T>, is_all: impl FnOnce(&T) -> bool) -> u64 {
        let now = clock::mono_us();
        // Whoever waits is woken at once, unless the process stood still.
        let came = match self.known {
            Known::Waits => PULSE.earliest(self.empty_at, now).saturating_sub(u64::from(self.lag)),
            Known::Nothing | Known::Emptied => self.empty_at,
        };
        *self = match attempt {
            Poll::Pending => Arrival { empty_at: now, lag: 0, known: Known::Waits },
            Poll::Ready(taken) if is_all(taken) => Arrival { empty_at: now, lag: 0, known: Known::Emptied },
            Poll::Ready(_) => Arrival::since(came),
        };
        came
    }

    /// From now on nobody waits: what is taken next may have come at any time since.
    pub(super) fn pause(&mut self) {
        self.date(&Poll::Ready(()), |()| false);
    }

    /// Whether there is nothing to read as far as is known, and one waits from now on.
    pub(super) fn begin_to_wait(&mut self) -> bool {
        if self.known == Known::Emptied {
            let since = clock::mono_us() - self.empty_at;
            if since <= EMPTIED_LATELY {
                *self = Arrival { lag: since as u32, known: Known::Waits, ..*self };
            }
        }
        self.known == Known::Waits
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOTHING: Poll<bool> = Poll::Pending;
    const SOME: Poll<bool> = Poll::Ready(false);
    const ALL: Poll<bool> = Poll::Ready(true);

    /// Some time passes. Returns the time then.
    fn later() -> u64 {
        std::thread::sleep(Duration::from_millis(2));
        clock::mono_us()
    }

    #[test]
    fn what_is_waited_for_came_just_now() {
        let mut arrival = Arrival::since(later());
        arrival.date(&NOTHING, |all| *all);
        let before = later();
        assert!(arrival.date(&ALL, |all| *all) >= before);
    }

    #[test]
    fn what_nobody_waited_for_came_since_there_was_nothing() {
        let opened = later();
        let mut arrival = Arrival::since(opened);
        later();
        assert_eq!(arrival.date(&SOME, |all| *all), opened);
        later();
        assert_eq!(arrival.date(&ALL, |all| *all), opened, "it may have lain behind the first");
        let emptied = later();
        later();
        let came = arrival.date(&ALL, |all| *all);
        assert!(came > opened && came < emptied, "{opened} {came} {emptied}");
    }
}
