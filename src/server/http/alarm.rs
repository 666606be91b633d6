//! A deadline that moves with every request: one timer of the reactor for all of them, set anew only where an earlier time is needed or
//! it has gone off too early. To register a timer and take it back for each request costs more than the request's head.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_io::Timer;

use crate::runtime::clock;

/// One timer.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: Timer,
    /// When it goes off: monotonic, µs; [`NEVER`] while it is not set.
    due: u64,
}

/// Later than all that anybody waits for.
const NEVER: u64 = u64::MAX;

impl Alarm {
    /// A timer that is not set.
    pub(super) fn new() -> Alarm {
        Alarm { timer: Timer::never(), due: NEVER }
    }

    /// Ready once it is `until`: monotonic, µs. It wakes whoever polled it last, perhaps too early.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, until: u64) -> Poll<()> {
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
    async fn wait(alarm: &mut Alarm, us: u64) -> u64 {
        let begin = clock::mono_us();
        poll_fn(|cx| alarm.poll(cx, begin + us)).await;
        clock::mono_us() - begin
    }

    #[test]
    fn it_goes_off_at_the_time_that_was_asked_for_last() {
        async_std::task::block_on(async {
            let mut alarm = Alarm::new();
            let (short, long, past_all) = (5_000, 60_000, 20_000_000);
            let far = clock::mono_us() + past_all;
            for us in [short, long, short, 0] {
                // What was asked for before is given up for an earlier time, and passed over for a later one.
                assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx, far))).await.is_pending());
                assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx, clock::mono_us() + short / 5))).await.is_pending());
                let took = wait(&mut alarm, us).await;
                assert!(took >= us && took < past_all, "{took} for {us}");
            }
        });
    }
}
