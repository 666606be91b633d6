//! Where an HTTP stream of pictures waits for the next one: the newest only, since a slow viewer wants no old ones.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures::task::AtomicWaker;

use crate::protocol::room::RoomFrame;

/// The place for one picture.
#[derive(Debug, Default)]
pub(super) struct PictureSlot {
    state: Mutex<State>,
    waiter: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<RoomFrame>,
    closed: bool,
}

impl PictureSlot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the picture that was not taken yet.
    pub(super) fn put(&self, picture: RoomFrame) {
        self.state().newest = Some(picture);
        self.waiter.wake();
    }

    /// The hub has ended the stream.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.waiter.wake();
    }

    /// Waits for the next picture; `None`: the stream is over.
    pub(super) async fn next(&self) -> Option<RoomFrame> {
        poll_fn(|context| {
            self.waiter.register(context.waker());
            let mut state = self.state();
            if state.closed {
                return Poll::Ready(None);
            }
            state.newest.take().map_or(Poll::Pending, |picture| Poll::Ready(Some(picture)))
        })
        .await
    }
}
