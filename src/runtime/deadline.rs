//! A deadline that moves with every request, or every turn of the hub: one timer for all of them, set anew only where an earlier time is
//! needed or it has gone off too early. To register a timer and take it back each time costs more than a turn.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_io::Timer;

use crate::runtime::clock;

/// One timer, for one that waits.
#[derive(Debug)]
pub struct Deadline {
    timer: Timer,
    /// When it goes off: monotonic, µs; [`NEVER`] while it is not set.
    due: u64,
}

/// Later than all that anybody waits for.
const NEVER: u64 = u64::MAX;

/// A timer that is not set.
impl Default for Deadline {
    fn default() -> Deadline {
        Deadline { timer: Timer::never(), due: NEVER }
    }
}

impl Deadline {
    /// Ready once it is `until`: monotonic, µs. It wakes whoever polled it last, perhaps too early.
    pub fn poll(&mut self, cx: &mut Context<'_>, until: u64) -> Poll<()> {
        loop {
            if self.due > until {
                let now = clock::mono_us();
                if now >= until {
                    return Poll::Ready(());
                }
                self.timer.set_after(Duration::from_micros(until - now));
                self.due = until;
            }
            ready!(Pin::new(&mut self.timer).poll(cx));
            self.due = NEVER;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Waits until so many µs from now. Returns how long it took.
    async fn wait(deadline: &mut Deadline, us: u64) -> u64 {
        let begin = clock::mono_us();
        poll_fn(|cx| deadline.poll(cx, begin + us)).await;
        clock::mono_us() - begin
    }

    #[test]
    fn it_goes_off_at_the_time_that_was_asked_for_last() {
        async_std::task::block_on(async {
            let mut deadline = Deadline::default();
            let (short, long, past_all) = (5_000, 60_000, 20_000_000);
            let far = clock::mono_us() + past_all;
            for us in [short, long, short, 0] {
                // What was asked for before is given up for an earlier time, and passed over for a later one.
                assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx, far))).await.is_pending());
                assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx, clock::mono_us() + short / 5))).await.is_pending());
                let took = wait(&mut deadline, us).await;
                assert!(took >= us && took < past_all, "{took} for {us}");
            }
        });
    }
}
