//! Which sockets of doors have something to read, looked at whenever one likes. async-io looks only when its thread has nothing else to
//! do or has run 200 tasks, and under load that is milliseconds; this can be asked between two pieces of work.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rustix::event::{Timespec, epoll};

use crate::runtime::socket::Socket;

/// Sockets that are reported at one look; what else is ready is at the next.
const READY_MAX: usize = 64;
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The sockets of doors.
#[derive(Debug)]
pub(super) struct DoorWatch {
    poll: OwnedFd,
    sockets: Mutex<Sockets>,
}

/// Each by a number that is given once.
#[derive(Debug, Default)]
struct Sockets {
    states: HashMap<u64, State>,
    given: u64,
}

#[derive(Debug)]
enum State {
    /// Nobody waits.
    Idle,
    /// Somebody waits, and the kernel is to tell once.
    Waits(Waker),
    /// There is something.
    Ready,
}

/// A socket that is watched until this is dropped.
pub struct DoorSocket {
    watch: Arc<DoorWatch>,
    socket: Socket,
    number: u64,
}

impl DoorWatch {
    /// Watches no socket yet.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub(super) fn new() -> io::Result<DoorWatch> {
        Ok(DoorWatch { poll: epoll::create(epoll::CreateFlags::CLOEXEC)?, sockets: Mutex::default() })
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches one more socket.
    ///
    /// # Errors
    /// No memory, or as many as the system lets a user watch.
    pub(super) fn add(self: &Arc<Self>, socket: &Socket) -> io::Result<DoorSocket> {
        let mut sockets = self.sockets();
        sockets.given += 1;
        let number = sockets.given;
        epoll::add(&self.poll, socket, epoll::EventData::new_u64(number), epoll::EventFlags::ONESHOT)?;
        sockets.states.insert(number, State::Idle);
        Ok(DoorSocket { watch: Arc::clone(self), socket: Arc::clone(socket), number })
    }

    /// Wakes those who wait for what has come.
    pub(super) fn look(&self) {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; READY_MAX];
        // Fails only where a signal came between.
        let Ok((ready, _)) = epoll::wait(&self.poll, events.as_mut_slice(), Some(&NO_WAIT)) else { return };
        if ready.is_empty() {
            return;
        }
        let mut sockets = self.sockets();
        for event in ready {
            let number = event.data.u64();
            if let Some(state) = sockets.states.get_mut(&number)
                && let State::Waits(waker) = std::mem::replace(state, State::Ready)
            {
                waker.wake();
            }
        }
    }
}

/// Readable when a look would find something.
impl AsFd for DoorWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }
}

impl DoorSocket {
    /// Ready once there may be something to read, or nothing more comes.
    ///
    /// # Errors
    /// No memory.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sockets = self.watch.sockets();
        let Some(state) = sockets.states.get_mut(&self.number) else { return Poll::Ready(Ok(())) };
        match state {
            State::Ready => {
                *state = State::Idle;
                Poll::Ready(Ok(()))
            }
            State::Waits(waker) => {
                waker.clone_from(context.waker());
                Poll::Pending
            }
            State::Idle => {
                let once = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ONESHOT;
                epoll::modify(&self.watch.poll, &self.socket, epoll::EventData::new_u64(self.number), once)?;
                *state = State::Waits(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for DoorSocket {
    fn drop(&mut self) {
        self.watch.sockets().states.remove(&self.number);
        // Refused only if it is not there, and then there is nothing to take out.
        let _ = epoll::delete(&self.watch.poll, &self.socket);
    }
}

impl fmt::Debug for DoorSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorSocket").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;
    use crate::runtime::socket::take_over;

    fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, take_over(listener.accept().unwrap().0).unwrap())
    }

    fn is_ready(door: &DoorSocket) -> bool {
        door.poll_readable(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_look_finds_what_has_come_and_tells_it_once_for_each_wait() {
        let watch = Arc::new(DoorWatch::new().unwrap());
        let (mut client, socket) = pair();
        let door = watch.add(&socket).unwrap();
        assert!(!is_ready(&door));
        client.write_all(b"12").unwrap();
        assert!(!is_ready(&door), "nobody has looked");
        watch.look();
        assert!(is_ready(&door));
        // What was left is found again; what was taken is not.
        assert!(!is_ready(&door));
        watch.look();
        assert!(is_ready(&door));
        assert_eq!(socket.get_ref().read(&mut [0; 8]).unwrap(), 2);
        assert!(!is_ready(&door));
        watch.look();
        assert!(!is_ready(&door));
    }

    #[test]
    fn an_end_is_something_and_who_is_gone_is_not_told() {
        let watch = Arc::new(DoorWatch::new().unwrap());
        let (client, socket) = pair();
        let door = watch.add(&socket).unwrap();
        assert!(!is_ready(&door));
        drop(client);
        watch.look();
        assert!(is_ready(&door));
        assert!(!is_ready(&door));
        drop(door);
        watch.look();
        assert!(watch.sockets().states.is_empty());
    }
}
