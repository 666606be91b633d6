//! The right to hand over one more batch: given by the hub, taken by the task that reads.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures::task::AtomicWaker;

/// At most one right; there at the beginning.
#[derive(Debug)]
pub(super) struct Credit {
    is_there: AtomicBool,
    waiter: AtomicWaker,
}

impl Credit {
    pub(super) fn new() -> Credit {
        Credit { is_there: AtomicBool::new(true), waiter: AtomicWaker::new() }
    }

    pub(super) fn give(&self) {
        self.is_there.store(true, Ordering::Release);
        self.waiter.wake();
    }

    /// Waits until it is there, and takes it.
    pub(super) async fn take(&self) {
        poll_fn(|context| {
            if self.is_there.swap(false, Ordering::AcqRel) {
                return Poll::Ready(());
            }
            self.waiter.register(context.waker());
            if self.is_there.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
