//! The end of the process, announced once and heard by everybody at once (G14).
//!
//! A flag for those who look, an event for those who wait: no polling. It knows nothing of what is shut down, or in which order.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

/// The switch. Dropping it announces the shutdown too: with nobody left to do it, it has come.
#[derive(Debug)]
pub struct Shutdown {
    begun: Arc<AtomicBool>,
    /// Its end is the event; nothing is ever sent.
    _event: oneshot::Sender<()>,
}

/// What everybody else holds.
#[derive(Debug, Clone)]
pub struct ShutdownSignal {
    begun: Arc<AtomicBool>,
    event: Shared<oneshot::Receiver<()>>,
}

/// A switch and its signal.
#[must_use]
pub fn shutdown() -> (Shutdown, ShutdownSignal) {
    let begun = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = oneshot::channel();
    (Shutdown { begun: begun.clone(), _event: sender }, ShutdownSignal { begun, event: receiver.shared() })
}

impl Shutdown {
    /// Announces the shutdown: it can't be taken back.
    pub fn begin(self) {
        drop(self);
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        // Before the event, so that whoever is woken by it sees the flag.
        self.begun.store(true, Ordering::Release);
    }
}

impl ShutdownSignal {
    /// Whether it has been announced.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Waits until it is announced; any number may wait, and stop waiting, at any time.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + Unpin + use<> {
        self.event.clone().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Wake, Waker};

    use super::*;

    #[test]
    fn flag_and_event_reach_all_clones_and_latecomers() {
        let (switch, signal) = shutdown();
        let other = signal.clone();
        let mut waiting = [signal.begun(), other.begun()];
        assert!(waiting.iter_mut().all(|wait| wait.now_or_never().is_none()));
        assert!(!other.has_begun());
        switch.begin();
        assert!(signal.has_begun() && other.has_begun());
        assert!(waiting.iter_mut().all(|wait| wait.now_or_never().is_some()));
        assert!(signal.begun().now_or_never().is_some());
    }

    #[test]
    fn a_lost_switch_counts_as_shutdown() {
        let (switch, signal) = shutdown();
        drop(switch);
        assert!(signal.has_begun());
        assert!(signal.begun().now_or_never().is_some());
    }

    #[test]
    fn waiters_are_woken() {
        #[derive(Default)]
        struct Woken(AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Release);
            }
        }
        let (switch, signal) = shutdown();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut waiting = signal.begun();
        assert!(Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(!woken.0.load(Ordering::Acquire));
        switch.begin();
        assert!(woken.0.load(Ordering::Acquire));
    }
}
