//! Where the bytes of one connection come in: waits for them, lets others go first where it must, reads them, and dates them.

use std::io::{self, Read};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use crate::runtime::door_tasks::DoorTasks;
use crate::runtime::reactor::{Reactor, Watched};
use crate::runtime::socket::Socket;
use crate::server::arrival::Arrival;

/// Tries of one poll: what seemed to be there may not be, and then it is waited for.
const TRIES_MAX: usize = 2;

/// The reading side of a socket.
#[derive(Debug)]
pub struct Inlet {
    watched: Watched,
    arrival: Arrival,
}

impl Inlet {
    /// For a socket in which nothing lay at `empty_at`: monotonic, µs.
    ///
    /// # Errors
    /// See [`Reactor::watch`].
    pub fn new(reactor: &Arc<Reactor>, socket: &Socket, empty_at: u64) -> io::Result<Inlet> {
        Ok(Inlet { watched: reactor.watch(socket)?, arrival: Arrival::since(empty_at) })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        self.watched.socket()
    }

    /// From now on it is a door's: watched with those, and read as soon as something comes. False: it is so already, or the system
    /// watches no more, and then it is read as all others are.
    pub fn join_doors(&mut self, doors: &DoorTasks) -> bool {
        if self.is_door() {
            return false;
        }
        let Ok(watched) = doors.watch(self.socket()) else { return false };
        self.watched = watched;
        true
    }

    /// Whether it is a door's.
    #[must_use]
    pub fn is_door(&self) -> bool {
        self.watched.is_door()
    }

    /// From now on nobody waits: what is read next may have come at any time since.
    pub fn pause(&mut self) {
        self.arrival.pause();
    }

    /// Reads what there is into `buffer`. Returns when it came at the earliest, monotonic, µs, and how many bytes; 0: no more come.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(u64, usize)>> {
        self.poll_read_in_turn(|_| true, cx, buffer)
    }

    /// The same, once `may_read` says so: asked when there seems to be something to read, and again each time it has woken the waker.
    /// What waits for that is as old as it was when it was found. A door is not asked: it reads as soon as something comes.
    pub fn poll_read_in_turn(
        &mut self,
        mut may_read: impl FnMut(&Waker) -> bool,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(u64, usize)>> {
        let mut is_empty = self.arrival.begin_to_wait();
        for _ in 0..TRIES_MAX {
            if is_empty {
                ready!(self.watched.poll_readable(cx))?;
            }
            if !self.is_door() && !may_read(cx.waker()) {
                // That something has come is said once only: from now on it is tried without asking.
                self.pause();
                return Poll::Pending;
            }
            let mut stream = self.socket().get_ref();
            let attempt = match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                read => Poll::Ready(read),
            };
            let came = self.arrival.date(&attempt, |read| read.as_ref().is_ok_and(|read| *read < buffer.len()));
            if let Poll::Ready(read) = attempt {
                return Poll::Ready(read.map(|read| (came, read)));
            }
            is_empty = true;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock;
    use crate::runtime::socket;

    /// A client, and the inlet of its connection. Nobody looks by himself.
    fn pair() -> (TcpStream, Arc<Reactor>, Inlet) {
        let (socket, client) = socket::pair();
        let reactor = Arc::new(Reactor::new().unwrap());
        let inlet = Inlet::new(&reactor, &socket, clock::mono_us()).unwrap();
        (client, reactor, inlet)
    }

    fn poll(inlet: &mut Inlet, may_read: bool, buffer: &mut [u8]) -> Poll<(u64, usize)> {
        inlet.poll_read_in_turn(|_| may_read, &mut Context::from_waker(Waker::noop()), buffer).map(Result::unwrap)
    }

    #[test]
    fn all_that_comes_is_read_whatever_its_pieces_and_then_the_end() {
        let (mut client, reactor, mut inlet) = pair();
        async_std::task::spawn(async move { reactor.run(|| ()).await });
        let sent: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        let sending = std::thread::spawn({
            let sent = sent.clone();
            move || sent.chunks(777).for_each(|piece| client.write_all(piece).unwrap())
        });
        let (mut got, mut buffer) = (Vec::new(), [0; 512]);
        loop {
            let read = poll_fn(|cx| inlet.poll_read(cx, &mut buffer));
            let (_, read) = async_std::task::block_on(async_std::future::timeout(Duration::from_secs(60), read)).unwrap().unwrap();
            if read == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..read]);
        }
        sending.join().unwrap();
        assert!(got == sent);
    }

    #[test]
    fn what_waited_for_its_turn_came_before_that() {
        let (mut client, reactor, mut inlet) = pair();
        let mut buffer = [0; 8];
        assert!(poll(&mut inlet, true, &mut buffer).is_pending());
        client.write_all(b"345").unwrap();
        reactor.look();
        assert!(poll(&mut inlet, false, &mut buffer).is_pending());
        let asked = clock::mono_us();
        std::thread::sleep(Duration::from_millis(2));
        assert!(poll(&mut inlet, false, &mut buffer).is_pending());
        let Poll::Ready((came, bytes)) = poll(&mut inlet, true, &mut buffer) else { panic!("it has come") };
        assert!(came <= asked, "{came} {asked}");
        assert_eq!(bytes, 3);
    }

    #[test]
    fn what_came_in_a_pause_is_as_old_as_that_may_be() {
        let (mut client, reactor, mut inlet) = pair();
        let mut buffer = [0; 8];
        assert!(poll(&mut inlet, true, &mut buffer).is_pending());
        inlet.pause();
        let paused = clock::mono_us();
        std::thread::sleep(Duration::from_millis(2));
        client.write_all(b"1").unwrap();
        reactor.look();
        let Poll::Ready((came, _)) = poll(&mut inlet, true, &mut buffer) else { panic!("it has come") };
        assert!(came <= paused, "{came} {paused}");
    }

    #[test]
    fn a_door_does_not_wait_for_its_turn_and_misses_nothing_on_its_way() {
        let (mut client, _reactor, mut inlet) = pair();
        let mut buffer = [0; 8];
        assert!(poll(&mut inlet, true, &mut buffer).is_pending());
        client.write_all(b"1").unwrap();
        let doors = DoorTasks::new().unwrap();
        assert!(inlet.join_doors(&doors));
        assert!(!inlet.join_doors(&doors));
        // Nobody looks at doors before there is the first task of one.
        doors.spawn(async {});
        doors.run_ready();
        assert!(matches!(poll(&mut inlet, false, &mut buffer), Poll::Ready((_, 1))));
    }
}
