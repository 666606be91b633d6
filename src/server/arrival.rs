//! When bytes came, as far as that can be known: an opening that lay unread in the kernel has grown old there (Protocol §7).
//!
//! The kernel does not tell the time at which something came. What is known is when there was nothing: what is taken next came
//! later. So it is dated by then, which may be too early, and never too late.

use std::io::{self, Read};
use std::net::TcpStream;
use std::task::{Context, Poll, Waker};

use async_io::Async;

use crate::runtime::clock;
use crate::runtime::door_watch::DoorSocket;
use crate::runtime::pulse::PULSE;

/// For so long a read that took all there was counts: after it nothing is tried again before waiting. What comes in between is dated
/// too early by so much at most; µs.
const EMPTIED_LATELY: u64 = 10_000;

/// Dates what comes through one socket.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// There was nothing to take: monotonic, µs.
    empty_at: u64,
    /// Nor was there since, but for so long before the wait began, for what comes wakes whoever waits; µs.
    lag: u32,
    known: Known,
}

/// What is known of the time since `empty_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing.
    Nothing,
    /// All was taken then; nobody waits yet.
    Emptied,
    /// Someone waits.
    Waits,
    /// The same, and whoever it was asked of will wake.
    Asked,
}

impl Known {
    fn is_waiting(self) -> bool {
        matches!(self, Known::Waits | Known::Asked)
    }
}

impl Arrival {
    /// For a socket in which nothing lay at that time: monotonic, µs.
    #[must_use]
    pub const fn since(empty_at: u64) -> Arrival {
        Arrival { empty_at, lag: 0, known: Known::Nothing }
    }

    /// Looks at an attempt to take something. Returns when it came at the earliest: monotonic, µs. `is_all`: nothing is left behind it.
    pub fn date<T>(&mut self, attempt: &Poll<T>, is_all: impl FnOnce(&T) -> bool) -> u64 {
        let now = clock::mono_us();
        // Whoever waits is woken at once, unless the process stood still.
        let came =
            if self.known.is_waiting() { PULSE.earliest(self.empty_at, now).saturating_sub(u64::from(self.lag)) } else { self.empty_at };
        *self = match attempt {
            Poll::Pending => Arrival { empty_at: now, lag: 0, known: Known::Waits },
            Poll::Ready(taken) if is_all(taken) => Arrival { empty_at: now, lag: 0, known: Known::Emptied },
            Poll::Ready(_) => Arrival::since(came),
        };
        came
    }

    /// Reads what there is into `buffer`. Returns when it came at the earliest, monotonic, µs, and how many bytes; 0: no more come.
    pub fn poll_read(&mut self, stream: &Async<TcpStream>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(u64, usize)>> {
        self.poll_read_in_turn(stream, None, |_| true, cx, buffer)
    }

    /// The same, once `may_read` says so: asked when there seems to be something to read, and again each time it has woken the waker.
    /// What waits for that is as old as it was when it was found. A door is not asked: it reads as soon as something comes.
    pub fn poll_read_in_turn(
        &mut self,
        stream: &Async<TcpStream>,
        door: Option<&DoorSocket>,
        may_read: impl FnMut(&Waker) -> bool,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(u64, usize)>> {
        match door {
            Some(door) => self.poll_read_from(stream.get_ref(), |cx| door.poll_readable(cx), |_| true, cx, buffer),
            None => self.poll_read_from(stream.get_ref(), |cx| stream.poll_readable(cx), may_read, cx, buffer),
        }
    }

    fn poll_read_from(
        &mut self,
        mut stream: &TcpStream,
        mut poll_readable: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
        mut may_read: impl FnMut(&Waker) -> bool,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(u64, usize)>> {
        let mut is_empty = self.begin_to_wait();
        loop {
            // async-io drops what its own thread has seen while it saw us ask. Then it wakes and says nothing, over and over as long as no
            // other thread looks at the sockets: whoever is woken tries all the same.
            if is_empty && poll_readable(cx)?.is_pending() && self.known != Known::Asked {
                self.known = Known::Asked;
                return Poll::Pending;
            }
            if !may_read(cx.waker()) {
                // That it is readable is said once only: from now on it is tried without asking.
                self.date(&Poll::Ready(()), |()| false);
                return Poll::Pending;
            }
            let attempt = match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => Poll::Ready(read),
            };
            let came = self.date(&attempt, |read| read.as_ref().is_ok_and(|read| *read < buffer.len()));
            if let Poll::Ready(read) = attempt {
                return Poll::Ready(read.map(|read| (came, read)));
            }
            is_empty = true;
        }
    }

    /// Whether there is nothing to read as far as is known, and one waits from now on.
    fn begin_to_wait(&mut self) -> bool {
        if self.known == Known::Emptied {
            let since = clock::mono_us() - self.empty_at;
            if since <= EMPTIED_LATELY {
                *self = Arrival { lag: since as u32, known: Known::Waits, ..*self };
            }
        }
        self.known.is_waiting()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    const NOTHING: Poll<bool> = Poll::Pending;
    const SOME: Poll<bool> = Poll::Ready(false);
    const ALL: Poll<bool> = Poll::Ready(true);

    /// Some time passes. Returns the time then.
    fn later() -> u64 {
        std::thread::sleep(Duration::from_millis(2));
        clock::mono_us()
    }

    #[test]
    fn what_is_waited_for_came_just_now() {
        let mut arrival = Arrival::since(later());
        arrival.date(&NOTHING, |all| *all);
        let before = later();
        assert!(arrival.date(&ALL, |all| *all) >= before);
    }

    #[test]
    fn what_waited_for_its_turn_came_before_that() {
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = Async::new(listener.accept().unwrap().0).unwrap();
        let mut arrival = Arrival::since(clock::mono_us());
        let mut buffer = [0; 8];
        let mut read = |may_read: bool| {
            async_std::task::block_on(std::future::poll_fn(|cx| {
                let mut asked = false;
                let may = |_: &Waker| {
                    asked = true;
                    may_read
                };
                let read = arrival.poll_read_in_turn(&server, None, may, cx, &mut buffer);
                match read {
                    Poll::Ready(read) => Poll::Ready(Some(read.unwrap())),
                    Poll::Pending if asked && !may_read => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            }))
        };
        client.write_all(b"12").unwrap();
        assert_eq!(read(true).map(|(_, bytes)| bytes), Some(2));
        client.write_all(b"345").unwrap();
        assert_eq!(read(false), None);
        let asked = clock::mono_us();
        later();
        assert_eq!(read(false), None);
        let (came, bytes) = read(true).unwrap();
        assert!(came <= asked, "{came} {asked}");
        assert_eq!(bytes, 3);
    }

    #[test]
    fn whoever_is_woken_tries_whatever_the_reactor_says() {
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut arrival = Arrival::since(clock::mono_us());
        let mut buffer = [0; 8];
        let mut cx = Context::from_waker(Waker::noop());
        let mut asked = 0;
        let mut read = |arrival: &mut Arrival| {
            let says_nothing = |_: &mut Context<'_>| {
                asked += 1;
                Poll::Pending
            };
            let read = arrival.poll_read_from(&server, says_nothing, |_| true, &mut cx, &mut buffer);
            (asked, read.map(|read| read.unwrap().1))
        };
        assert_eq!(read(&mut arrival), (1, Poll::Pending), "there was nothing, so it was asked");
        assert_eq!(read(&mut arrival), (3, Poll::Pending), "woken for nothing it asks, tries, and asks again");
        client.write_all(b"12").unwrap();
        let deadline = clock::mono_us() + 10_000_000;
        let bytes = loop {
            match read(&mut arrival) {
                (_, Poll::Ready(bytes)) => break bytes,
                _ => assert!(clock::mono_us() < deadline),
            }
        };
        assert_eq!(bytes, 2);
    }

    #[test]
    fn what_nobody_waited_for_came_since_there_was_nothing() {
        let opened = later();
        let mut arrival = Arrival::since(opened);
        later();
        assert_eq!(arrival.date(&SOME, |all| *all), opened);
        later();
        assert_eq!(arrival.date(&ALL, |all| *all), opened, "it may have lain behind the first");
        let emptied = later();
        later();
        let came = arrival.date(&ALL, |all| *all);
        assert!(came > opened && came < emptied, "{opened} {came} {emptied}");
    }
}
