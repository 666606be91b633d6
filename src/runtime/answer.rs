//! Where one REST request waits for what the hub answers.

use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use futures::task::AtomicWaker;

use crate::protocol::frame::Reply;

/// The place for one reply.
#[derive(Debug, Default)]
pub(super) struct Answer {
    reply: Mutex<Option<Reply>>,
    waiter: AtomicWaker,
}

impl Answer {
    /// Hands over the reply; a second one is of no interest.
    pub(super) fn give(&self, reply: Reply) {
        let mut place = self.reply.lock().unwrap_or_else(PoisonError::into_inner);
        place.get_or_insert(reply);
        drop(place);
        self.waiter.wake();
    }

    /// Waits for the reply.
    pub(super) async fn take(&self) -> Reply {
        poll_fn(|context| {
            self.waiter.register(context.waker());
            match self.reply.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(reply) => Poll::Ready(reply),
                None => Poll::Pending,
            }
        })
        .await
    }
}
