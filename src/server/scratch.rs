//! One buffer a thread into which all links read, so that none holds one of its own while it is idle.
//!
//! Nothing that runs the tasks of other links may be called while it is lent. A link that is no door's calls `DoorTasks::run_ready`
//! before it reads, so it does that first and borrows afterwards: a door's task, run inside, would find the buffer gone and make one anew.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::task::{Poll, ready};

use crate::server::inlet::Inlet;

/// Bytes of the buffer: one read fills so many at most.
pub const SCRATCH_BYTES: usize = 64 << 10;

/// Lends this thread's buffer, all [`SCRATCH_BYTES`] of it; what is in it means nothing. `read` may give it away for that time, as to a
/// WebSocket's decoder. If it panics, or does not put the buffer back, the next loan is a new one.
pub fn lend<T>(read: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    thread_local! {
        static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut scratch = SCRATCH.take();
    scratch.resize(SCRATCH_BYTES, 0);
    let result = read(&mut scratch);
    SCRATCH.set(scratch);
    result
}

/// Reads and throws away what a peer still sends, so that it sees the last it was told and no reset (G8): until it closes, or has sent
/// more than `bytes_max`.
pub fn drain(inlet: &mut Inlet, bytes_max: usize) -> impl Future<Output = ()> {
    let mut left = bytes_max;
    poll_fn(move |context| {
        lend(|scratch| {
            loop {
                match ready!(inlet.poll_read(context, scratch)) {
                    Ok((_, read)) if read > 0 && read <= left => left -= read,
                    _ => return Poll::Ready(()),
                }
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loan_has_its_full_length_whatever_became_of_the_one_before() {
        lend(|scratch| assert_eq!(scratch.len(), SCRATCH_BYTES));
        lend(std::mem::take);
        let panicked = std::panic::catch_unwind(|| lend(|scratch| panic!("{} bytes", std::mem::take(scratch).len())));
        assert!(panicked.is_err());
        lend(|scratch| {
            lend(|inner| assert_eq!(inner.len(), SCRATCH_BYTES));
            assert_eq!(scratch.len(), SCRATCH_BYTES);
        });
    }
}
