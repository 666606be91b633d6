//! Which sockets have something to read. async-io asks the kernel anew for each read, which is a call of the system, and looks only when
//! its thread has nothing else to do or has run 200 tasks; here the kernel is asked once for each socket, and tells by itself whenever
//! more comes. One look finds all that came, and may be taken between two pieces of work.
//!
//! The kernel tells of what comes, not of what is there: whoever is told reads until nothing is left. A read that does not fill its
//! buffer has left nothing, but where it stopped at urgent data: no protocol of ours has such, and whoever sends it is not read any more.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_io::Async;
use rustix::event::{Timespec, epoll};

use crate::runtime::socket::Socket;

/// Sockets that are reported at one look; what else is ready is at the next.
const READY_MAX: usize = 128;
/// Places that are added at once, at least.
const PLACES_MORE_MIN: usize = 64;
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Watches sockets for whoever reads from them.
#[derive(Debug)]
pub struct Reactor {
    poll: OwnedFd,
    sockets: Mutex<Sockets>,
    of_doors: bool,
}

/// What is known of each, by its number. Places that are free stand in a row; there are as many as there once were connections.
#[derive(Debug, Default)]
struct Sockets {
    states: Vec<State>,
    first_free: Option<u32>,
}

#[derive(Debug)]
enum State {
    /// No socket; the next such place.
    Free(Option<u32>),
    /// Nothing has come since it was last told.
    Idle,
    /// Nor has it, and somebody waits.
    Waits(Waker),
    /// Something has come.
    Ready,
    /// Behind what is there nothing more will come.
    Over,
    /// Urgent data has come.
    Urgent,
}

/// A socket that is watched until this is dropped.
pub struct Watched {
    reactor: Arc<Reactor>,
    socket: Socket,
    number: u32,
}

impl Reactor {
    /// Watches no socket yet.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub fn new() -> io::Result<Reactor> {
        Ok(Reactor { poll: epoll::create(epoll::CreateFlags::CLOEXEC)?, sockets: Mutex::default(), of_doors: false })
    }

    /// Watches none yet; those that it will are doors'.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub fn of_doors() -> io::Result<Reactor> {
        Ok(Reactor { of_doors: true, ..Reactor::new()? })
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches one more socket.
    ///
    /// # Errors
    /// No memory, or as many as the system lets a user watch.
    pub fn watch(self: &Arc<Self>, socket: &Socket) -> io::Result<Watched> {
        let number = self.sockets().take();
        let watched = Watched { reactor: Arc::clone(self), socket: Arc::clone(socket), number };
        let whenever = epoll::EventFlags::IN | epoll::EventFlags::PRI | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.poll, socket, epoll::EventData::new_u64(number.into()), whenever)?;
        Ok(watched)
    }

    /// Wakes those who wait for what has come. Returns whether there may be more of them.
    pub fn look(&self) -> bool {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; READY_MAX];
        // Locked before, so that no place changes hands between what is told of it and its change.
        let mut sockets = self.sockets();
        // Fails only where a signal came between.
        let Ok((told, _)) = epoll::wait(&self.poll, events.as_mut_slice(), Some(&NO_WAIT)) else { return true };
        for event in &*told {
            let flags = event.flags;
            sockets.tell(event.data.u64(), flags);
        }
        told.len() == READY_MAX
    }

    /// The same for all of them, at most as often as it takes if each is told of once; calls `between` behind each look. Whoever waits for
    /// its turn to read is as old as it was when it was found, so none may be left in the kernel.
    pub fn look_for_all(&self, mut between: impl FnMut()) {
        let looks_max = self.sockets().states.len() / READY_MAX + 1;
        for _ in 0..looks_max {
            let is_all = !self.look();
            between();
            if is_all {
                return;
            }
        }
    }

    /// Looks whenever something has come, and calls `between` behind each look; ends only if it fails.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub async fn run(&self, mut between: impl FnMut()) -> io::Result<()> {
        let some_have = Async::new_nonblocking(self.poll.as_fd())?;
        poll_fn(|cx| {
            // Whatever async-io says of why: its own thread can wake for an event and say nothing of it.
            self.look_for_all(&mut between);
            // What has come since is said again, for as long as somebody must look the kernel says so.
            while some_have.poll_readable(cx)?.is_ready() {}
            Poll::Pending
        })
        .await
    }
}

impl Sockets {
    /// A place for one more.
    fn take(&mut self) -> u32 {
        let Some(number) = self.first_free else {
            // A few more than there are: twice as many would be memory that each link pays for.
            if self.states.len() == self.states.capacity() {
                self.states.reserve_exact(PLACES_MORE_MIN + self.states.len() / 8);
            }
            self.states.push(State::Idle);
            return u32::try_from(self.states.len() - 1).expect("fewer sockets than a process may have descriptors");
        };
        if let State::Free(next) = std::mem::replace(&mut self.states[number as usize], State::Idle) {
            self.first_free = next;
        }
        number
    }

    /// Something has come to that socket.
    fn tell(&mut self, number: u64, flags: epoll::EventFlags) {
        let over = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        let now = if flags.contains(epoll::EventFlags::PRI) {
            State::Urgent
        } else if flags.intersects(over) {
            State::Over
        } else {
            State::Ready
        };
        let Some(state) = usize::try_from(number).ok().and_then(|number| self.states.get_mut(number)) else { return };
        match state {
            State::Free(_) | State::Over | State::Urgent => {}
            State::Idle | State::Ready => *state = now,
            State::Waits(_) => {
                if let State::Waits(waker) = std::mem::replace(state, now) {
                    waker.wake();
                }
            }
        }
    }
}

impl Watched {
    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether it is a door's.
    #[must_use]
    pub fn is_door(&self) -> bool {
        self.reactor.of_doors
    }

    /// Ready once something has come since this was last ready, or when nothing more comes. Whoever asks has taken all there was.
    ///
    /// # Errors
    /// The peer has sent urgent data.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sockets = self.reactor.sockets();
        match &mut sockets.states[self.number as usize] {
            State::Over => return Poll::Ready(Ok(())),
            State::Urgent => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "urgent data has come"))),
            state @ State::Ready => {
                *state = State::Idle;
                return Poll::Ready(Ok(()));
            }
            State::Waits(waker) => waker.clone_from(context.waker()),
            state => *state = State::Waits(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut sockets = self.reactor.sockets();
        // Refused only if it is not there, and then there is nothing to take out.
        let _ = epoll::delete(&self.reactor.poll, &self.socket);
        let free = State::Free(sockets.first_free.replace(self.number));
        sockets.states[self.number as usize] = free;
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::runtime::socket::pair;

    fn watched(socket: &Socket) -> (Arc<Reactor>, Watched) {
        let reactor = Arc::new(Reactor::new().unwrap());
        let watched = reactor.watch(socket).unwrap();
        (reactor, watched)
    }

    fn is_ready(watched: &Watched) -> bool {
        watched.poll_readable(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_look_finds_what_has_come_and_tells_it_once() {
        let (socket, mut client) = pair();
        let (reactor, watched) = watched(&socket);
        reactor.look();
        assert!(!is_ready(&watched));
        client.write_all(b"12").unwrap();
        assert!(!is_ready(&watched), "nobody has looked");
        reactor.look();
        assert!(is_ready(&watched));
        reactor.look();
        assert!(!is_ready(&watched), "nothing more has come");
        client.write_all(b"3").unwrap();
        reactor.look();
        assert!(is_ready(&watched), "though the first is not taken");
        assert_eq!(socket.get_ref().read(&mut [0; 8]).unwrap(), 3);
    }

    #[test]
    fn what_was_there_before_it_was_watched_is_found() {
        let (socket, mut client) = pair();
        client.write_all(b"12").unwrap();
        let (reactor, watched) = watched(&socket);
        reactor.look();
        assert!(is_ready(&watched));
    }

    #[test]
    fn the_end_is_told_for_ever_also_where_it_came_with_the_last_bytes() {
        let (socket, mut client) = pair();
        let (reactor, watched) = watched(&socket);
        client.write_all(b"12").unwrap();
        drop(client);
        reactor.look();
        let mut buffer = [0; 8];
        for bytes in [2, 0, 0] {
            assert!(is_ready(&watched));
            assert_eq!(socket.get_ref().read(&mut buffer).unwrap(), bytes);
            reactor.look();
        }
    }

    #[test]
    fn urgent_data_is_an_error_for_a_read_would_stop_before_it() {
        let (socket, mut client) = pair();
        let (reactor, watched) = watched(&socket);
        client.write_all(b"12").unwrap();
        rustix::net::send(&client, b"!", rustix::net::SendFlags::OOB).unwrap();
        client.write_all(b"34").unwrap();
        reactor.look();
        let asked = watched.poll_readable(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(asked, Poll::Ready(Err(_))));
    }

    #[test]
    fn one_look_finds_so_many_and_a_look_for_all_the_rest() {
        let reactor = Arc::new(Reactor::new().unwrap());
        let mut open: Vec<_> =
            (0..READY_MAX + 3).map(|_| pair()).map(|(socket, client)| (client, reactor.watch(&socket).unwrap())).collect();
        let mut write_to_all = || open.iter_mut().for_each(|(client, _)| client.write_all(b"1").unwrap());
        write_to_all();
        assert!(reactor.look());
        assert!(!reactor.look());
        write_to_all();
        let mut looks = 0;
        reactor.look_for_all(|| looks += 1);
        assert_eq!(looks, 2);
        assert!(open.iter().all(|(_, watched)| is_ready(watched)));
    }

    #[test]
    fn places_are_used_again_and_who_has_gone_is_not_told() {
        let (reactor, mut open) = (Arc::new(Reactor::new().unwrap()), Vec::new());
        for _ in 0..3 {
            let pairs: Vec<_> = (0..4).map(|_| pair()).collect();
            open = pairs.into_iter().map(|(socket, client)| (client, reactor.watch(&socket).unwrap(), socket)).collect();
            assert!(open.iter().all(|(_, watched, _)| !is_ready(watched)));
        }
        assert_eq!(reactor.sockets().states.len(), 8, "four were open while the next four came");
        let (mut client, gone, _socket) = open.remove(1);
        drop(gone);
        client.write_all(b"1").unwrap();
        let (socket, _other) = pair();
        let newcomer = reactor.watch(&socket).unwrap();
        reactor.look();
        assert!(!is_ready(&newcomer));
    }

    /// One thread looks while another ends and begins. Where the places were not held while they were told of, this mostly failed.
    #[test]
    fn an_end_is_never_told_to_whoever_took_the_place() {
        let (reactor, over) = (Arc::new(Reactor::new().unwrap()), AtomicBool::new(false));
        let (idle, _client) = pair();
        let mut told = false;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    reactor.look();
                }
            });
            for _ in 0..2_000 {
                let (socket, client) = pair();
                let ends = reactor.watch(&socket).unwrap();
                drop(client);
                drop(ends);
                let newcomer = reactor.watch(&idle).unwrap();
                told |= (0..20).any(|_| is_ready(&newcomer));
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(!told);
    }

    #[test]
    fn whoever_waits_is_woken_by_a_reactor_that_runs() {
        let (socket, mut client) = pair();
        let (reactor, watched) = watched(&socket);
        async_std::task::spawn(async move { reactor.run(|| ()).await });
        for _ in 0..100 {
            client.write_all(b"1").unwrap();
            async_std::task::block_on(poll_fn(|cx| watched.poll_readable(cx))).unwrap();
            assert_eq!(socket.get_ref().read(&mut [0; 8]).unwrap(), 1);
        }
    }
}
