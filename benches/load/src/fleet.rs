//! The connections of one measurement and the one epoll loop that moves them.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use crate::driver::{Driver, Event, Request, Who};

/// A measurement that takes longer is bad.
const RUN_MAX: Duration = Duration::from_secs(180);
/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 << 10;
/// Events that one turn of the loop takes at most.
const EVENTS_MAX: usize = 1_024;

/// Why a measurement does not count: something was lost, closed, refused or late.
#[derive(Debug)]
pub struct Bad(pub String);

pub type Outcome<T> = Result<T, Bad>;

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Bad {
        Bad(error.to_string())
    }
}

impl From<rustix::io::Errno> for Bad {
    fn from(error: rustix::io::Errno) -> Bad {
        Bad(error.to_string())
    }
}

/// What the publishers ask.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    /// Messages to the receivers from 0 up to that number, each in its turn.
    Each(u32),
    /// Messages to all subscribers.
    Topic,
    /// Messages to all subscribers that nobody acknowledges.
    Announcements,
    /// Signs of life.
    Ping,
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub aim: Aim,
    pub operations: u64,
    /// Requests that each publisher has without an answer.
    pub outstanding: u32,
    /// Deliveries that must have come at the end.
    pub deliveries: u64,
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub delivered: u64,
    sent: u64,
    /// From request to answer, ns.
    pub waits: Vec<u32>,
}

impl Tally {
    /// The wait that so many of a hundred answers took at most, in µs. Sorts the waits.
    pub fn percentile_us(&mut self, percent: usize) -> f64 {
        self.waits.sort_unstable();
        let last = self.waits.len().saturating_sub(1);
        self.waits.get(last * percent / 100).map_or(0.0, |ns| f64::from(*ns) / 1e3)
    }
}

struct Peer {
    stream: TcpStream,
    driver: Box<dyn Driver>,
    who: Who,
    /// Answers to the opening words that have not come yet.
    opening: usize,
    /// An incomplete item.
    rest: Vec<u8>,
    /// What the socket has not taken yet.
    out: Vec<u8>,
    /// The loop waits for the socket to take more.
    blocked: bool,
    /// When the request of each slot was sent.
    sent_at: Vec<Instant>,
    delivered: u64,
}

/// All connections of a measurement.
pub struct Fleet {
    poll: OwnedFd,
    peers: Vec<Peer>,
    /// Peers whose opening words are not all answered.
    opening: usize,
    pub tally: Tally,
    buffer: Vec<u8>,
    input: Vec<u8>,
    deadline: Instant,
}

impl Fleet {
    pub fn new() -> Outcome<Fleet> {
        Ok(Fleet {
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            peers: Vec::new(),
            opening: 0,
            tally: Tally::default(),
            buffer: vec![0; READ_BYTES],
            input: Vec::new(),
            deadline: Instant::now() + RUN_MAX,
        })
    }

    /// Connects, at most `at_once` that are not answered at a time, and waits for all answers.
    pub fn connect(&mut self, to: SocketAddr, peers: impl IntoIterator<Item = (Who, Box<dyn Driver>)>, at_once: usize) -> Outcome<()> {
        let mut coming = peers.into_iter();
        loop {
            while self.opening < at_once {
                let Some((who, driver)) = coming.next() else { break };
                self.open(to, who, driver)?;
            }
            if self.opening == 0 {
                return Ok(());
            }
            self.turn(None)?;
        }
    }

    fn open(&mut self, to: SocketAddr, who: Who, driver: Box<dyn Driver>) -> Outcome<()> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&self.poll, &stream, epoll::EventData::new_u64(self.peers.len() as u64), epoll::EventFlags::IN)?;
        let mut peer =
            Peer { stream, driver, who, opening: 0, rest: Vec::new(), out: Vec::new(), blocked: false, sent_at: Vec::new(), delivered: 0 };
        peer.opening = peer.driver.open(&mut peer.out);
        self.opening += usize::from(peer.opening > 0);
        peer.flush(&self.poll, self.peers.len())?;
        self.peers.push(peer);
        Ok(())
    }

    /// Carries out the plan: until every answer and every delivery has come.
    pub fn run(&mut self, plan: &Plan) -> Outcome<()> {
        self.deadline = Instant::now() + RUN_MAX;
        self.tally.waits.reserve(plan.operations as usize);
        for (index, peer) in self.peers.iter_mut().enumerate().filter(|(_, peer)| peer.who.asks()) {
            let now = Instant::now();
            peer.sent_at = vec![now; plan.outstanding as usize];
            for slot in 0..plan.outstanding {
                self.tally.ask_next(plan, peer, slot, now);
            }
            peer.flush(&self.poll, index)?;
        }
        while self.tally.answered < plan.operations || self.tally.delivered < plan.deliveries {
            self.turn(Some(plan))?;
        }
        Ok(())
    }

    /// Waits until so many deliveries have come.
    pub fn await_deliveries(&mut self, count: u64) -> Outcome<()> {
        while self.tally.delivered < count {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Bad unless every receiver has had exactly what was sent to it.
    pub fn check_each(&self, expected: impl Fn(u32) -> u64) -> Outcome<()> {
        for peer in self.peers.iter().filter(|peer| !peer.who.asks()) {
            let (number, had) = (peer.who.number(), peer.delivered);
            if had != expected(number) {
                return Err(Bad(format!("receiver {number} had {had} deliveries, expected {}", expected(number))));
            }
        }
        Ok(())
    }

    /// One turn: whatever sockets are ready, each once.
    fn turn(&mut self, plan: Option<&Plan>) -> Outcome<()> {
        const SECOND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
        if Instant::now() > self.deadline {
            let Tally { sent, answered, delivered, .. } = self.tally;
            return Err(Bad(format!("late: {sent} sent, {answered} answered, {delivered} delivered, {} not yet open", self.opening)));
        }
        let mut events = Vec::with_capacity(EVENTS_MAX);
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&SECOND)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let (data, flags) = (event.data, event.flags);
            self.serve(data.u64() as usize, flags, plan)?;
        }
        Ok(())
    }

    fn serve(&mut self, index: usize, flags: epoll::EventFlags, plan: Option<&Plan>) -> Outcome<()> {
        let peer = &mut self.peers[index];
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            let read = match peer.stream.read(&mut self.buffer) {
                Ok(0) => return Err(Bad(format!("the server closed the connection of {:?}", peer.who))),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            let was_opening = peer.opening > 0;
            if peer.rest.is_empty() {
                let used = self.tally.take(peer, &self.buffer[..read], plan, now)?;
                peer.rest.extend_from_slice(&self.buffer[used..read]);
            } else {
                self.input.clear();
                self.input.append(&mut peer.rest);
                self.input.extend_from_slice(&self.buffer[..read]);
                let used = self.tally.take(peer, &self.input, plan, now)?;
                peer.rest.extend_from_slice(&self.input[used..]);
            }
            self.opening -= usize::from(was_opening && peer.opening == 0);
        }
        peer.flush(&self.poll, index)
    }
}

impl Tally {
    /// Acts on every whole item of `input`. Returns the bytes used.
    fn take(&mut self, peer: &mut Peer, input: &[u8], plan: Option<&Plan>, now: Instant) -> Outcome<usize> {
        let mut used = 0;
        while let Some((taken, event)) = peer.driver.next(&input[used..], &mut peer.out).map_err(Bad)? {
            used += taken;
            match event {
                Event::Nothing => {}
                Event::Ready => peer.opening = peer.opening.checked_sub(1).ok_or_else(|| Bad("too many answers".into()))?,
                Event::Delivered => {
                    peer.delivered += 1;
                    self.delivered += 1;
                }
                Event::Answered(slot) => {
                    let sent_at = peer.sent_at.get(slot as usize).ok_or_else(|| Bad(format!("an answer to slot {slot}")))?;
                    self.waits.push(now.duration_since(*sent_at).as_nanos().try_into().unwrap_or(u32::MAX));
                    self.answered += 1;
                    if let Some(plan) = plan {
                        self.ask_next(plan, peer, slot, now);
                    }
                }
            }
        }
        Ok(used)
    }

    fn ask_next(&mut self, plan: &Plan, peer: &mut Peer, slot: u32, now: Instant) {
        if self.sent == plan.operations {
            return;
        }
        let request = match plan.aim {
            Aim::Each(receivers) => Request::ToOne((self.sent % u64::from(receivers.max(1))) as u32),
            Aim::Topic => Request::ToTopic,
            Aim::Announcements => Request::Announcement,
            Aim::Ping => Request::Ping,
        };
        peer.driver.request(slot, request, &mut peer.out);
        peer.sent_at[slot as usize] = now;
        self.sent += 1;
    }
}

impl Peer {
    /// Writes what there is; what the socket does not take is written when it is ready again.
    fn flush(&mut self, poll: &OwnedFd, index: usize) -> Outcome<()> {
        let mut written = 0;
        while written < self.out.len() {
            match self.stream.write(&self.out[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.out.drain(..written);
        let blocked = !self.out.is_empty();
        if blocked != self.blocked {
            let wanted = if blocked { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            epoll::modify(poll, &self.stream, epoll::EventData::new_u64(index as u64), wanted)?;
            self.blocked = blocked;
        }
        Ok(())
    }
}
