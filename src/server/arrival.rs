//! When bytes came, as far as that can be known: an opening that lay unread in the kernel has grown old there (Protocol §7).
//!
//! The kernel does not tell the time at which something came. What is known is when there was nothing: what is taken next came
//! later. So it is dated by then, which may be too early, and never too late.

use std::task::Poll;

use crate::runtime::clock;

/// Dates what comes through one socket.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// There was nothing to take: monotonic, µs.
    empty_at: u64,
    /// Nor was there since, for what comes wakes whoever waits.
    waits: bool,
}

impl Arrival {
    /// For a socket in which nothing lay at that time: monotonic, µs.
    #[must_use]
    pub const fn since(empty_at: u64) -> Arrival {
        Arrival { empty_at, waits: false }
    }

    /// Looks at an attempt to take something. Returns when it came at the earliest: monotonic, µs. `is_all`: nothing is left behind it.
    pub fn date<T>(&mut self, attempt: &Poll<T>, is_all: impl FnOnce(&T) -> bool) -> u64 {
        let now = clock::mono_us();
        let came = if self.waits { now } else { self.empty_at };
        match attempt {
            Poll::Pending => *self = Arrival { empty_at: now, waits: true },
            Poll::Ready(taken) => *self = Arrival::since(if is_all(taken) { now } else { came }),
        }
        came
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
