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
/// The same where openings have to be sent on time.
const EVENTS_PROMPT_MAX: usize = 16;
/// Openings that the door has not heard of yet: if there are more, the next one is late.
const OPENINGS_OUT_MAX: usize = 64;
/// Receivers of [`Aim::Busy`] that are away, in turn.
pub const AWAY: u64 = 1_000;
/// Waits that there is room for from the beginning.
const WAITS_RESERVED_MAX: u64 = 4 << 20;

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
    /// Messages to the callee of each caller.
    Pairs,
    /// Pictures to so many viewers: one is answered when all of them have seen it.
    Viewers(u32),
    /// A message to all subscribers as soon as they have acknowledged the last one, the others to [`AWAY`] receivers that are away,
    /// numbered from there.
    Busy { away_from: u32 },
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub aim: Aim,
    pub operations: u64,
    /// Requests that each publisher has without an answer.
    pub outstanding: u32,
    /// Deliveries that must have come at the end; in [`Aim::Busy`]: of each message to all subscribers.
    pub deliveries: u64,
}

/// Openings at a steady pace, whatever else there is.
#[derive(Debug, Clone, Copy)]
pub struct Openings {
    pub count: u64,
    pub every: Duration,
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub delivered: u64,
    pub sent: u64,
    /// Of those, in [`Aim::Busy`]: to all subscribers.
    pub to_topic: u64,
    /// From request to answer, ns.
    pub waits: Vec<u32>,
    /// From sending to being seen, by each who was to see it, ns.
    pub sights: Vec<u32>,
    /// What is sent to the room and not seen by all yet, each at its number modulo their count.
    shown: Vec<Shown>,
    /// Those of `shown` that all have seen, and that nobody has acted on yet.
    all_seen: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Shown {
    sent_at: Instant,
    /// Who have not seen it yet.
    left: u32,
}

impl Tally {
    /// Within what time so many of a hundred were seen, or where nothing is seen were answered, in µs. Sorts. `None`: neither was.
    pub fn percentile_us(&mut self, percent: usize) -> Option<f64> {
        let times = if self.sights.is_empty() { &mut self.waits } else { &mut self.sights };
        times.sort_unstable();
        times.get(times.len().saturating_sub(1) * percent / 100).map(|ns| f64::from(*ns) / 1e3)
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
    /// Who shows pictures.
    camera: Option<usize>,
    /// The door: whatever else is ready, what it gets is read at once, so that the load does not delay what is measured.
    door: Option<usize>,
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
            camera: None,
            door: None,
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
        self.begin(plan)?;
        self.finish(plan)
    }

    /// Opens the door so many times, and the plan, if there is one, goes on meanwhile: it ends with what it has sent by then.
    pub fn run_openings(&mut self, openings: Openings, beside: Option<&Plan>) -> Outcome<()> {
        let missing = || Bad("there is no door, or nobody to open it".into());
        let opener = self.find(Who::Opener).ok_or_else(missing)?;
        self.door = Some(self.find(Who::Door).ok_or_else(missing)?);
        if let Some(plan) = beside {
            self.begin(plan)?;
        }
        self.deadline = Instant::now() + RUN_MAX;
        let begin = Instant::now();
        self.tally.shown = vec![Shown { sent_at: begin, left: 0 }; OPENINGS_OUT_MAX];
        for number in 0..openings.count {
            let (due, slot) = (begin + openings.every * number as u32, number as usize % OPENINGS_OUT_MAX);
            while Instant::now() < due || self.tally.shown[slot].left > 0 {
                self.turn_until(beside, due)?;
            }
            let peer = &mut self.peers[opener];
            peer.driver.request(0, Request::ToRoom(number as u32), &mut peer.out);
            self.tally.shown[slot] = Shown { sent_at: Instant::now(), left: 1 };
            peer.flush(&self.poll, opener)?;
        }
        while self.tally.sights.len() < openings.count as usize {
            self.turn(beside)?;
        }
        let Some(plan) = beside else { return Ok(()) };
        let Tally { sent, to_topic, .. } = self.tally;
        self.finish(&Plan { operations: sent, deliveries: to_topic * plan.deliveries, ..*plan })
    }

    fn find(&self, who: Who) -> Option<usize> {
        self.peers.iter().position(|peer| peer.who == who)
    }

    fn begin(&mut self, plan: &Plan) -> Outcome<()> {
        self.deadline = Instant::now() + RUN_MAX;
        self.tally.waits.reserve(plan.operations.min(WAITS_RESERVED_MAX) as usize);
        self.camera = self.find(Who::Camera);
        if let Aim::Viewers(viewers) = plan.aim {
            self.tally.sights.reserve((plan.operations * u64::from(viewers)).min(WAITS_RESERVED_MAX) as usize);
            self.tally.shown = vec![Shown { sent_at: Instant::now(), left: 0 }; plan.outstanding as usize];
        }
        for (index, peer) in self.peers.iter_mut().enumerate().filter(|(_, peer)| peer.who.asks() && peer.who != Who::Opener) {
            let now = Instant::now();
            peer.sent_at = vec![now; plan.outstanding as usize];
            for slot in 0..plan.outstanding {
                self.tally.ask_next(plan, peer, slot, now);
            }
            peer.flush(&self.poll, index)?;
        }
        Ok(())
    }

    fn finish(&mut self, plan: &Plan) -> Outcome<()> {
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
    pub fn check_each(&self, expected: impl Fn(Who) -> u64) -> Outcome<()> {
        for peer in self.peers.iter().filter(|peer| !peer.who.asks()) {
            let (who, had) = (peer.who, peer.delivered);
            if had != expected(who) {
                return Err(Bad(format!("{who:?} had {had} deliveries, expected {}", expected(who))));
            }
        }
        Ok(())
    }

    /// One turn: whatever sockets are ready, each once.
    fn turn(&mut self, plan: Option<&Plan>) -> Outcome<()> {
        self.turn_until(plan, Instant::now() + Duration::from_secs(1))
    }

    /// The same, and waits no longer than until then for one to be ready.
    fn turn_until(&mut self, plan: Option<&Plan>, until: Instant) -> Outcome<()> {
        let now = Instant::now();
        if now > self.deadline {
            let Tally { sent, answered, delivered, .. } = self.tally;
            return Err(Bad(format!("late: {sent} sent, {answered} answered, {delivered} delivered, {} not yet open", self.opening)));
        }
        let wait = Timespec::try_from(until.saturating_duration_since(now)).map_err(|_| Bad("too long a wait".into()))?;
        let mut events = Vec::with_capacity(if self.door.is_some() { EVENTS_PROMPT_MAX } else { EVENTS_MAX });
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let (data, flags) = (event.data, event.flags);
            self.serve(data.u64() as usize, flags, plan)?;
            if let Some(door) = self.door {
                self.serve(door, epoll::EventFlags::IN, plan)?;
            }
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
            let is_new = was_opening && peer.opening == 0;
            self.opening -= usize::from(is_new);
            if is_new && matches!(peer.who, Who::Stalled(_)) {
                epoll::delete(&self.poll, &peer.stream)?;
            }
            self.show_next(plan, now)?;
        }
        self.peers[index].flush(&self.poll, index)
    }

    /// The next pictures in place of those that all have seen.
    fn show_next(&mut self, plan: Option<&Plan>, now: Instant) -> Outcome<()> {
        while let Some(slot) = self.tally.all_seen.pop() {
            if let (Some(plan), Some(camera)) = (plan, self.camera) {
                let peer = &mut self.peers[camera];
                self.tally.answered += 1;
                self.tally.ask_next(plan, peer, slot, now);
                peer.flush(&self.poll, camera)?;
            }
        }
        Ok(())
    }
}

impl Tally {
    /// Acts on every whole item of `input`. Returns the bytes used.
    fn take(&mut self, peer: &mut Peer, input: &[u8], plan: Option<&Plan>, now: Instant) -> Outcome<usize> {
        let mut used = 0;
        while let Some((taken, event)) = peer.driver.next(&input[used..], &mut peer.out).map_err(Bad)? {
            used += taken;
            match event {
                Event::Nothing | Event::Part => {}
                Event::Ready => peer.opening = peer.opening.checked_sub(1).ok_or_else(|| Bad("too many answers".into()))?,
                Event::Delivered => {
                    peer.delivered += 1;
                    self.delivered += 1;
                }
                Event::Seen(number) => {
                    peer.delivered += 1;
                    self.see(number, now)?;
                }
                Event::Answered(slot) => {
                    let sent_at = peer.sent_at.get(slot as usize).ok_or_else(|| Bad(format!("an answer to slot {slot}")))?;
                    self.waits.push(nanoseconds(*sent_at, now));
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
            Aim::Busy { .. } if self.delivered == self.to_topic * plan.deliveries => {
                self.to_topic += 1;
                Request::ToTopic
            }
            Aim::Each(receivers) => Request::ToOne((self.sent % u64::from(receivers.max(1))) as u32),
            Aim::Busy { away_from } => Request::ToOne(away_from + (self.sent % AWAY) as u32),
            Aim::Topic => Request::ToTopic,
            Aim::Announcements => Request::Announcement,
            Aim::Ping => Request::Ping,
            Aim::Pairs => Request::ToRoom(self.sent as u32),
            Aim::Viewers(viewers) => {
                self.shown[slot as usize] = Shown { sent_at: now, left: viewers };
                Request::ToRoom(self.sent as u32)
            }
        };
        peer.driver.request(slot, request, &mut peer.out);
        peer.sent_at[slot as usize] = now;
        self.sent += 1;
    }
}

impl Tally {
    /// One more has seen what was sent under that number.
    fn see(&mut self, number: u32, now: Instant) -> Outcome<()> {
        let slot = number as usize % self.shown.len().max(1);
        let shown = self.shown.get_mut(slot).filter(|shown| shown.left > 0);
        let shown = shown.ok_or_else(|| Bad(format!("number {number} was seen too often")))?;
        shown.left -= 1;
        self.sights.push(nanoseconds(shown.sent_at, now));
        if shown.left == 0 {
            self.all_seen.push(slot as u32);
        }
        Ok(())
    }
}

fn nanoseconds(from: Instant, to: Instant) -> u32 {
    to.duration_since(from).as_nanos().try_into().unwrap_or(u32::MAX)
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
