//! The tasks of links that open doors have a queue of their own, so that a door never stands behind a crowd (Design §6): all other
//! tasks share one queue, in which hundreds may be ahead. Whoever does long work runs what is ready here after each short piece of it.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use async_executor::Executor;
use futures::FutureExt;

use crate::runtime::clock;
use crate::runtime::reactor::{Reactor, Watched};
use crate::runtime::socket::Socket;

/// Steps of door tasks in a turn of the hub: a flood of door frames must leave some time to others.
const STEPS_PER_TURN_MAX: usize = 16;
/// Between two looks at the doors' sockets, µs: each is a call of the system.
const LOOK_EVERY: u64 = 50;

/// The tasks of links that open doors.
#[derive(Debug)]
pub struct DoorTasks {
    executor: Executor<'static>,
    reactor: Arc<Reactor>,
    /// There has been one: before it nobody needs to look.
    any: AtomicBool,
    /// The last look: monotonic, µs.
    looked_at: AtomicU64,
    /// Steps that are left until the next turn.
    steps_left: AtomicUsize,
}

impl DoorTasks {
    /// None yet.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub fn new() -> io::Result<DoorTasks> {
        let reactor = Arc::new(Reactor::of_doors()?);
        let steps_left = AtomicUsize::new(STEPS_PER_TURN_MAX);
        Ok(DoorTasks { executor: Executor::new(), reactor, any: AtomicBool::new(false), looked_at: AtomicU64::new(0), steps_left })
    }

    /// Watches the socket of a link whose task is to run here.
    ///
    /// # Errors
    /// No memory, or as many as the system lets a user watch.
    pub fn watch(&self, socket: &Socket) -> io::Result<Watched> {
        self.reactor.watch(socket)
    }

    /// Runs `task` from here, to its end.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.any.store(true, Ordering::Release);
        self.executor.spawn(task).detach();
    }

    /// A turn begins.
    pub(super) fn begin_turn(&self) {
        self.steps_left.store(STEPS_PER_TURN_MAX, Ordering::Relaxed);
    }

    /// Runs those for which something has come, as far as a turn's bound allows. Whoever calls must hold no lock and have borrowed nothing
    /// that a link's task needs.
    pub fn run_ready(&self) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let now = clock::mono_us();
        if now.saturating_sub(self.looked_at.load(Ordering::Relaxed)) >= LOOK_EVERY {
            self.looked_at.store(now, Ordering::Relaxed);
            self.reactor.look();
        }
        let may_step = || self.steps_left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        // A task that panics ends; it is logged by the hook, and nobody else is harmed.
        let step = || catch_unwind(AssertUnwindSafe(|| self.executor.try_tick())).unwrap_or(true);
        while may_step() {
            if !step() {
                self.steps_left.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Runs them whenever nobody else does; never ends.
    ///
    /// # Errors
    /// No memory.
    pub(super) async fn run(&self) -> io::Result<()> {
        let some_come = self.reactor.run(|| self.run_ready());
        let some_are_woken = async {
            loop {
                for _ in 0..STEPS_PER_TURN_MAX {
                    let _ = AssertUnwindSafe(self.executor.tick()).catch_unwind().await;
                }
                async_std::task::yield_now().await;
            }
        };
        futures::future::try_join(some_come, some_are_woken).await.map(|((), ())| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ready_runs_as_far_as_a_turn_allows_and_a_panic_ends_only_its_own_task() {
        let tasks = DoorTasks::new().unwrap();
        tasks.run_ready();
        let done = Arc::new(AtomicUsize::new(0));
        for number in 0..STEPS_PER_TURN_MAX + 2 {
            let done = Arc::clone(&done);
            tasks.spawn(async move {
                assert_ne!(number, 1, "one of them fails");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        tasks.run_ready();
        tasks.run_ready();
        assert_eq!(done.load(Ordering::Relaxed), STEPS_PER_TURN_MAX - 1);
        tasks.begin_turn();
        tasks.run_ready();
        assert_eq!(done.load(Ordering::Relaxed), STEPS_PER_TURN_MAX + 1);
    }

    #[test]
    fn they_run_by_themselves_when_nobody_looks() {
        let tasks = Arc::new(DoorTasks::new().unwrap());
        let runs = Arc::clone(&tasks);
        async_std::task::spawn(async move { runs.run().await });
        let (tell, told) = futures::channel::oneshot::channel();
        tasks.spawn(async move { panic!("the runner goes on") });
        tasks.spawn(async move { tell.send(7).unwrap() });
        assert_eq!(async_std::task::block_on(told), Ok(7));
    }
}
