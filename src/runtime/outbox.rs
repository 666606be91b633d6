//! What waits for one link: bounded in bytes, taken from only as the kernel takes it, door frames first.
//!
//! The hub's driver appends whole units, lines of TCP or packets of Socket.IO, and writes them at the end of its turn. Only while the
//! socket does not take all does a writer task exist; it goes when the outbox is empty. Nothing here knows what a unit says.
//!
//! Packets are kept as the frames in which a WebSocket carries them. As long as their session polls there is no socket to write to:
//! they are taken one by one for the answer to a poll, and what is left goes by the WebSocket once there is one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::AsyncWrite;
use futures::task::AtomicWaker;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::limits::{DOOR_FRAMES_QUEUED_MAX, HEARD_EVERY, OPENING_AGE_MAX};
use crate::names::LinkId;
use crate::protocol::websocket::{self, Opcode};
use crate::runtime::clock;
use crate::runtime::socket::{Socket, hold_little};

/// A closed link's socket goes after so long, also if the peer neither reads what is left nor closes its side.
const LINGER: Duration = Duration::from_secs(2);
/// A peer that has closed its sending side may take so long to read its last answers.
const LAST_ANSWERS_WAIT: Duration = Duration::from_secs(30);
/// A buffer that has grown beyond this is not kept for reuse.
const SPARE_BYTES_MAX: usize = 32 << 10;

/// What all outboxes share: their bounds, what they hold together, and whom to tell.
pub(super) struct Bounds {
    /// Bytes one link may have waiting.
    pub per_link: AtomicUsize,
    /// Bytes all links may have waiting.
    pub total: AtomicUsize,
    /// Bytes that sockets have not taken.
    pub held: AtomicUsize,
    /// Frames of rooms that lie in files.
    pub files: AtomicUsize,
    /// Door frames that grew too old in an outbox.
    pub stale: AtomicUsize,
    /// Door frames and notices for which there was no room.
    pub dropped: AtomicUsize,
    /// Told when a congested outbox has room again.
    pub drained: Box<dyn Fn(LinkId) + Send + Sync>,
    /// Told now and then that the full outbox of a member of a room moves.
    pub took: Box<dyn Fn(LinkId) + Send + Sync>,
    /// Told now and then that a peer reads what waits for it, while what it sends is not read.
    pub reads: Box<dyn Fn(LinkId) + Send + Sync>,
}

impl Bounds {
    /// Bytes one link, and bytes all links may have waiting from now on. Where more waits already nothing is dropped: it is written
    /// as the peer takes it, and until then nothing is added.
    pub(super) fn reconfigure(&self, per_link: usize, total: usize) {
        self.per_link.store(per_link, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    fn per_link(&self) -> usize {
        self.per_link.load(Ordering::Relaxed)
    }

    /// All links together have more waiting than they may.
    fn is_exceeded(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.total.load(Ordering::Relaxed)
    }
}

/// What the units of an outbox are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Units {
    /// Lines, each with its line feed.
    Lines,
    /// Engine.IO packets, each in a WebSocket text frame.
    Packets,
}

/// The close code of a WebSocket whose session has ended; clients do not look at it.
const CLOSED_NORMALLY: u16 = 1000;
/// The close code of a WebSocket whose server ends.
const GOING_AWAY: u16 = 1001;
/// Bytes of pongs and the like that may wait; over it they are left out, for whoever asks so often does not listen.
const CONTROL_BYTES_MAX: usize = 4 << 10;

/// What waits for one link.
pub struct Outbox {
    link: LinkId,
    units: Units,
    /// None while a Socket.IO session polls.
    stream: OnceLock<Socket>,
    bounds: Arc<Bounds>,
    state: Mutex<State>,
    /// The link may hand over its next batch.
    ready: AtomicBool,
    waits_for_ready: AtomicWaker,
    /// Whoever polls; woken when there is something to take or the link is to end.
    waits_for_units: AtomicWaker,
}

#[derive(Debug)]
struct State {
    units: Units,
    /// Whole units; `sent` bytes of them are written.
    lines: Vec<u8>,
    sent: usize,
    /// Where a packet begins that is at or before `sent`: from here the end of the one being written is found.
    begin: usize,
    /// Nearly no link ever has one: what each would need is not paid for by all.
    doors: Option<Box<Doors>>,
    /// Part of `bounds.held`.
    held: usize,
    /// Lines were added since the last write.
    touched: bool,
    /// A writer task exists.
    writing: bool,
    /// A message was refused; until the hub knows, all are.
    refusing: bool,
    /// The hub waits to hear that there is room again.
    congested: bool,
    /// The link may hand over its next batch once the outbox is below its bound again.
    owes_ready: bool,
    /// When `reads` was last told: monotonic, µs.
    told_at: u64,
    /// The connection is broken: nothing is taken any more.
    broken: bool,
    /// Ends once everything is written.
    closing: bool,
    /// The peer has closed its side: nobody needs to wait for that.
    peer_finished: bool,
    /// It has been sent an 8: the kernel holds little for it.
    is_door: bool,
}

/// Door frames, ahead of all else.
#[derive(Debug, Default)]
struct Doors {
    queue: VecDeque<DoorLine>,
    /// The rest of one of which a part is written: nothing may come between.
    rest: Option<DoorLine>,
}

#[derive(Debug)]
struct DoorLine {
    line: Vec<u8>,
    /// When it is too old: monotonic, µs; `None` for 9 and 10.
    stale_at: Option<u64>,
}

/// Where the next bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// All lines.
    Lines,
    /// The rest of the line that is partly written, and no more, since a door frame waits.
    Line,
    /// The first door frame.
    Door,
    /// The rest of a door frame.
    DoorRest,
}

/// An opening of which a part is written has grown too old: only cutting the connection keeps the rest from the door.
#[derive(Debug)]
struct TooOld;

impl DoorLine {
    fn is_stale(&self) -> bool {
        self.stale_at.is_some_and(|stale_at| clock::mono_us() >= stale_at)
    }

    fn rest(self, taken: usize) -> Option<DoorLine> {
        (taken < self.line.len()).then(|| DoorLine { line: self.line[taken..].to_vec(), stale_at: self.stale_at })
    }
}

/// What a write left behind.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// Nothing: all is with the kernel.
    All,
    /// The socket takes no more now.
    Blocked,
    /// The connection is broken.
    Broken,
}

impl Outbox {
    /// The outbox of a TCP link.
    pub(super) fn of_lines(link: LinkId, stream: Socket, bounds: Arc<Bounds>) -> Outbox {
        Outbox::new(link, Units::Lines, OnceLock::from(stream), bounds)
    }

    /// The outbox of a Socket.IO session, which polls until it has a socket.
    pub(super) fn of_packets(link: LinkId, bounds: Arc<Bounds>) -> Outbox {
        Outbox::new(link, Units::Packets, OnceLock::new(), bounds)
    }

    fn new(link: LinkId, units: Units, stream: OnceLock<Socket>, bounds: Arc<Bounds>) -> Outbox {
        Outbox {
            link,
            units,
            stream,
            bounds,
            state: Mutex::new(State::new(units)),
            ready: AtomicBool::new(true),
            waits_for_ready: AtomicWaker::new(),
            waits_for_units: AtomicWaker::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its units are.
    pub(super) fn units(&self) -> Units {
        self.units
    }

    /// From now on all goes by this socket: what waits, and then all else. Once only.
    pub(super) fn attach(self: &Arc<Self>, stream: Socket) {
        let state = self.state();
        let _ = self.stream.set(stream);
        let is_door = state.is_door;
        drop(state);
        if is_door {
            self.become_door();
        }
        self.flush(&mut Vec::new());
    }

    /// It is a door's, if it has a socket yet.
    fn become_door(&self) {
        if let Some(stream) = self.stream.get() {
            hold_little(stream);
        }
    }

    /// Whoever polls is woken when there is something to take, or the session is to end.
    pub fn register(&self, waker: &Waker) {
        self.waits_for_units.register(waker);
    }

    /// Wakes whoever polls.
    pub fn wake(&self) {
        self.waits_for_units.wake();
    }

    /// Whether anything waits to be written or taken.
    #[must_use]
    pub fn has_units(&self) -> bool {
        let state = self.state();
        // What is stale is dropped when it is its turn: an answer may just be written with it in front.
        state.sent < state.lines.len() || state.door_frames().any(|door| !door.is_stale())
    }

    /// Offers the packets that wait, door frames first, to `fill`, which says how many it took from the front. They stay until
    /// [`Outbox::remove`], and nothing else may be offered before that.
    pub fn offer_packets<T>(&self, fill: impl FnOnce(&mut dyn Iterator<Item = &[u8]>) -> (T, usize)) -> (T, Offered) {
        let mut state = self.state();
        state.drop_stale(&self.bounds);
        let lines = Frames(&state.lines[state.sent..]);
        let (value, taken) = fill(&mut state.door_frames().map(|door| payload(&door.line)).chain(lines));
        let doors = taken.min(state.door_frames().count());
        let stale_at = state.door_frames().take(doors).filter_map(|door| door.stale_at).min();
        (value, Offered { doors, packets: taken - doors, stale_at })
    }

    /// Takes away what was offered and taken.
    pub fn remove(&self, offered: &Offered) {
        let mut state = self.state();
        if offered.doors > 0 {
            state.doors_mut().queue.drain(..offered.doors);
        }
        for _ in 0..offered.packets {
            if let Some((head, length)) = websocket::extent(&state.lines[state.sent..]) {
                state.took_lines(head + length);
            }
        }
        state.account(&self.bounds);
        self.tell_of_room(state);
    }

    /// Adds the answer to a WebSocket's ping or close, ahead of all that is not being written.
    pub fn add_control(self: &Arc<Self>, frame: Vec<u8>) {
        let mut state = self.state();
        let waiting: usize = state.door_frames().map(|door| door.line.len()).sum();
        if waiting + frame.len() <= CONTROL_BYTES_MAX {
            state.doors_mut().queue.push_back(DoorLine { line: frame, stale_at: None });
        }
        drop(state);
        self.flush(&mut Vec::new());
    }

    /// Whether the hub has ended the link: what the peer still sends is of no interest.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Whether the connection is broken: what the peer sent before is of no interest.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.state().broken
    }

    /// Waits until the link may hand over a batch, and takes that right.
    pub async fn ready(&self) {
        poll_fn(|context| {
            if self.ready.swap(false, Ordering::AcqRel) {
                return Poll::Ready(());
            }
            self.waits_for_ready.register(context.waker());
            if self.ready.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The link may hand over its next batch; at once, or when its replies have been taken (Protocol §5).
    pub(super) fn make_ready(&self) {
        let mut state = self.state();
        if state.waiting() > self.bounds.per_link() && !state.closing {
            state.owes_ready = true;
        } else {
            drop(state);
            self.set_ready();
        }
    }

    fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
        self.waits_for_ready.wake();
    }

    /// Adds a unit that must not be lost. True: the outbox was untouched since its last write.
    pub(super) fn add(&self, spare: &mut Vec<Vec<u8>>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.state().add(spare, write)
    }

    /// Adds a unit if there is room. `Err`: there is none, or an earlier one was refused since the hub last heard of it.
    pub(super) fn offer(&self, spare: &mut Vec<Vec<u8>>, write: impl FnOnce(&mut Vec<u8>)) -> Result<bool, Refused> {
        let mut state = self.state();
        if state.refusing {
            return Err(Refused { first: false });
        }
        if self.is_full(&state) {
            self.write_now(&mut state);
            if self.is_full(&state) {
                return Err(Refused { first: true });
            }
        }
        Ok(state.add(spare, write))
    }

    fn is_full(&self, state: &State) -> bool {
        let waiting = state.waiting();
        waiting > self.bounds.per_link() || (waiting > 0 && state.held > 0 && self.bounds.is_exceeded())
    }

    /// Something that may be left out was left out.
    pub(super) fn count_dropped(&self) {
        self.bounds.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on every [`Outbox::offer`] of a message fails, until [`Outbox::congested`].
    pub(super) fn refuse(&self) {
        self.state().refusing = true;
    }

    /// The hub knows: it will push again after it has heard `drained`. False: there is room already.
    pub(super) fn congested(&self) -> bool {
        let mut state = self.state();
        state.refusing = false;
        state.congested = !self.has_room(&state);
        state.congested
    }

    /// Whether a link that was full is read and pushed to again: well below its bound, and not for nothing where all links
    /// together are over theirs. Told apart from [`Outbox::is_full`] so that the two do not take turns without any byte moving.
    fn has_room(&self, state: &State) -> bool {
        let waiting = state.waiting();
        waiting == 0 || (waiting <= self.bounds.per_link() / 2 && !self.bounds.is_exceeded())
    }

    /// Adds a door frame, ahead of all lines that are not being written. True: there was room, and it is to be written.
    pub(super) fn add_door(&self, line: Vec<u8>, opened_at: Option<u64>) -> bool {
        let mut state = self.state();
        if opened_at.is_some() && !state.is_door {
            state.is_door = true;
            self.become_door();
        }
        if state.broken || state.door_frames().count() >= DOOR_FRAMES_QUEUED_MAX {
            self.bounds.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let stale_at = opened_at.map(|at| at + OPENING_AGE_MAX.as_micros() as u64);
        state.doors_mut().queue.push_back(DoorLine { line, stale_at });
        true
    }

    /// Ends the link after what is queued. True: untouched so far.
    pub(super) fn close(&self) -> bool {
        let mut state = self.state();
        if !state.closing && self.units == Units::Packets && self.stream.get().is_some() {
            websocket::close_frame(CLOSED_NORMALLY, &mut state.lines);
        }
        state.closing = true;
        let untouched = !std::mem::replace(&mut state.touched, true);
        drop(state);
        self.set_ready();
        untouched
    }

    /// The peer has closed its sending side.
    pub(super) fn peer_finished(&self) {
        self.state().peer_finished = true;
    }

    /// The process ends: a WebSocket is told so if it takes that at once, and the link is cut.
    pub(super) fn go_away(&self) {
        let mut state = self.state();
        if !state.closing && self.units == Units::Packets && self.stream.get().is_some() {
            websocket::close_frame(GOING_AWAY, &mut state.lines);
            self.write_now(&mut state);
        }
        drop(state);
        self.cut();
    }

    /// Ends the link now, whatever waits.
    pub(super) fn cut(&self) {
        match self.stream.get() {
            // Fails only if it is cut already.
            Some(stream) => drop(stream.get_ref().shutdown(Shutdown::Both)),
            None => {
                self.state().closing = true;
                self.waits_for_units.wake();
            }
        }
    }

    /// Writes what was added; where the socket does not take all, a writer task goes on.
    pub(super) fn flush(self: &Arc<Self>, spare: &mut Vec<Vec<u8>>) {
        self.write_out(self.state(), spare);
    }

    /// The same, unless nothing but door frames was added since the last write.
    pub(super) fn flush_touched(self: &Arc<Self>, spare: &mut Vec<Vec<u8>>) {
        let state = self.state();
        if state.touched {
            self.write_out(state, spare);
        }
    }

    fn write_out(self: &Arc<Self>, mut state: MutexGuard<'_, State>, spare: &mut Vec<Vec<u8>>) {
        state.touched = false;
        let Some(stream) = self.stream.get() else {
            state.account(&self.bounds);
            drop(state);
            return self.waits_for_units.wake();
        };
        if state.closing && (state.writing || !state.peer_finished) {
            self.cut_soon(if state.peer_finished { LAST_ANSWERS_WAIT } else { LINGER });
        }
        if state.writing {
            return;
        }
        match self.write_to(stream, &mut state) {
            Written::All => {
                state.give_back(spare);
                self.end_if_closing(&state);
            }
            Written::Blocked => {
                if state.closing && state.peer_finished {
                    self.cut_soon(LAST_ANSWERS_WAIT);
                }
                state.writing = true;
                async_std::task::spawn(Arc::clone(self).write_on());
            }
            Written::Broken => self.abandon(&mut state),
        }
        // Also when no writer task was needed: the outbox may have been full for a moment within the turn.
        self.tell_of_room(state);
    }

    /// Writes, in the order of the sources, until `take` takes no more; it says how many bytes it took, or why none.
    fn write(&self, state: &mut State, mut take: impl FnMut(&[u8]) -> Result<usize, Written>) -> Written {
        let result = loop {
            let source = match state.next_source(&self.bounds) {
                Ok(Some(source)) => source,
                Ok(None) => break Written::All,
                Err(TooOld) => break Written::Broken,
            };
            match take(state.chunk(source)) {
                Ok(taken) => state.took(source, taken),
                Err(stopped) => break stopped,
            }
        };
        state.account(&self.bounds);
        result
    }

    /// Writes what the socket takes at once, if there is one, and leaves the waiting to others.
    fn write_now(&self, state: &mut State) {
        if let Some(stream) = self.stream.get() {
            self.write_to(stream, state);
        }
    }

    fn write_to(&self, stream: &Socket, state: &mut State) -> Written {
        self.write(state, |chunk| {
            loop {
                match send(stream, chunk, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(taken) => return Ok(taken),
                    Err(Errno::AGAIN) => return Err(Written::Blocked),
                    Err(Errno::INTR) => {}
                    Err(_) => return Err(Written::Broken),
                }
            }
        })
    }

    /// The connection is broken: what waits is dropped, and whoever waits for room goes on and sees it.
    fn abandon(&self, state: &mut State) {
        state.broken = true;
        state.lines = Vec::new();
        state.sent = 0;
        state.begin = 0;
        state.doors = None;
        state.account(&self.bounds);
        if let Some(stream) = self.stream.get() {
            // Fails only if it is cut already.
            let _ = stream.get_ref().shutdown(Shutdown::Both);
        }
    }

    /// The writer task: until everything is written, or the connection breaks.
    async fn write_on(self: Arc<Self>) {
        poll_fn(|context| self.poll_write(context)).await;
    }

    fn poll_write(&self, context: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = self.stream.get() else { return Poll::Ready(()) };
        let mut state = self.state();
        let mut reads = false;
        let written = self.write(&mut state, |chunk| match Pin::new(&mut &**stream).poll_write(context, chunk) {
            Poll::Ready(Ok(taken)) => {
                reads = true;
                Ok(taken)
            }
            Poll::Ready(Err(_)) => Err(Written::Broken),
            Poll::Pending => Err(Written::Blocked),
        });
        let result = if written == Written::Blocked { Poll::Pending } else { Poll::Ready(()) };
        if result.is_ready() {
            state.writing = false;
            state.lines = Vec::new();
            state.sent = 0;
            state.begin = 0;
        }
        match written {
            Written::All => self.end_if_closing(&state),
            Written::Blocked => {}
            Written::Broken => self.abandon(&mut state),
        }
        if reads && state.owes_ready && state.told_at + HEARD_EVERY.as_micros() as u64 <= clock::mono_us() {
            state.told_at = clock::mono_us();
            (self.bounds.reads)(self.link);
        }
        self.tell_of_room(state);
        result
    }

    /// Once there is room the link is read again, and the hub pushes again.
    fn tell_of_room(&self, mut state: MutexGuard<'_, State>) {
        if !self.has_room(&state) {
            return;
        }
        let owes_ready = std::mem::take(&mut state.owes_ready);
        let congested = std::mem::take(&mut state.congested);
        drop(state);
        if owes_ready {
            self.set_ready();
        }
        if congested {
            (self.bounds.drained)(self.link);
        }
    }

    /// Everything is written and the link is to end: FIN.
    fn end_if_closing(&self, state: &State) {
        if state.closing
            && let Some(stream) = self.stream.get()
        {
            // Fails only if the connection is gone already.
            let _ = stream.get_ref().shutdown(Shutdown::Write);
        }
    }

    /// The link is to end: its socket goes soon, whatever the peer reads or sends. A link that ends by itself gives its descriptor
    /// back at once: the wait holds none.
    fn cut_soon(self: &Arc<Self>, wait: Duration) {
        let outbox = Arc::downgrade(self);
        async_std::task::spawn(async move {
            async_std::task::sleep(wait).await;
            if let Some(outbox) = outbox.upgrade() {
                outbox.cut();
            }
        });
    }
}

/// What was taken of what an outbox offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    doors: usize,
    packets: usize,
    /// When the first opening among it is too old to be handed on: monotonic, µs.
    pub stale_at: Option<u64>,
}

/// The payloads of frames that follow one another.
struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (head, length) = websocket::extent(self.0)?;
        let (frame, rest) = self.0.split_at_checked(head + length)?;
        self.0 = rest;
        Some(&frame[head..])
    }
}

/// The payload of a frame that is whole.
fn payload(frame: &[u8]) -> &[u8] {
    websocket::extent(frame).and_then(|(head, length)| frame.get(head..head + length)).unwrap_or_default()
}

/// A unit was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// It is the first since the hub last heard of it.
    pub first: bool,
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let held = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).held;
        self.bounds.held.fetch_sub(held, Ordering::Relaxed);
    }
}

impl State {
    fn new(units: Units) -> State {
        State {
            units,
            lines: Vec::new(),
            sent: 0,
            begin: 0,
            doors: None,
            held: 0,
            touched: false,
            writing: false,
            refusing: false,
            congested: false,
            owes_ready: false,
            told_at: 0,
            broken: false,
            closing: false,
            peer_finished: false,
            is_door: false,
        }
    }

    fn waiting(&self) -> usize {
        self.lines.len() - self.sent
    }

    fn add(&mut self, spare: &mut Vec<Vec<u8>>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.broken {
            return false;
        }
        if self.lines.capacity() == 0
            && let Some(buffer) = spare.pop()
        {
            self.lines = buffer;
        }
        match self.units {
            Units::Lines => {
                write(&mut self.lines);
                self.lines.push(b'\n');
            }
            Units::Packets => websocket::frame(Opcode::Text, &mut self.lines, write),
        }
        !std::mem::replace(&mut self.touched, true)
    }

    /// Door frames of which nothing is written.
    fn door_frames(&self) -> impl Iterator<Item = &DoorLine> {
        self.doors.iter().flat_map(|doors| doors.queue.iter())
    }

    fn doors_mut(&mut self) -> &mut Doors {
        self.doors.get_or_insert_default()
    }

    /// What to write next: a frame that is partly written, then door frames, then all other lines.
    fn next_source(&mut self, bounds: &Bounds) -> Result<Option<Source>, TooOld> {
        let Some(doors) = &self.doors else { return Ok((self.sent < self.lines.len()).then_some(Source::Lines)) };
        if let Some(rest) = &doors.rest {
            return if rest.is_stale() { Err(TooOld) } else { Ok(Some(Source::DoorRest)) };
        }
        if !doors.queue.is_empty() {
            if self.rest_of_unit() > 0 {
                return Ok(Some(Source::Line));
            }
            self.drop_stale(bounds);
            if self.door_frames().next().is_some() {
                return Ok(Some(Source::Door));
            }
        }
        Ok((self.sent < self.lines.len()).then_some(Source::Lines))
    }

    /// Bytes that are left of the unit that is partly written; 0: none is.
    fn rest_of_unit(&mut self) -> usize {
        match self.units {
            Units::Lines if self.sent == 0 || self.lines[self.sent - 1] == b'\n' => 0,
            Units::Lines => {
                let lines = &self.lines[self.sent..];
                memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1)
            }
            Units::Packets => {
                while self.begin < self.sent {
                    let (head, length) = websocket::extent(&self.lines[self.begin..]).unwrap_or((self.lines.len(), 0));
                    if self.begin + head + length > self.sent {
                        return self.begin + head + length - self.sent;
                    }
                    self.begin += head + length;
                }
                0
            }
        }
    }

    fn chunk(&mut self, source: Source) -> &[u8] {
        match source {
            Source::Lines => &self.lines[self.sent..],
            Source::Line => {
                let end = self.sent + self.rest_of_unit();
                &self.lines[self.sent..end]
            }
            Source::Door => self.door_frames().next().map_or(&[], |door| &door.line),
            Source::DoorRest => self.doors.as_ref().and_then(|doors| doors.rest.as_ref()).map_or(&[], |rest| &rest.line),
        }
    }

    fn took(&mut self, source: Source, bytes: usize) {
        match source {
            Source::Lines | Source::Line => self.took_lines(bytes),
            Source::Door => {
                let doors = self.doors_mut();
                doors.rest = doors.queue.pop_front().and_then(|door| door.rest(bytes));
            }
            Source::DoorRest => {
                let doors = self.doors_mut();
                doors.rest = doors.rest.take().and_then(|rest| rest.rest(bytes));
            }
        }
    }

    fn drop_stale(&mut self, bounds: &Bounds) {
        let Some(doors) = &mut self.doors else { return };
        let before = doors.queue.len();
        doors.queue.retain(|door| !door.is_stale());
        let stale = before - doors.queue.len();
        if stale > 0 {
            bounds.stale.fetch_add(stale, Ordering::Relaxed);
            log::warn!("door_stale frames={stale} where=outbox");
        }
    }

    fn took_lines(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.lines.len() {
            self.lines.clear();
            self.sent = 0;
            self.begin = 0;
        } else if self.sent > self.lines.len() / 2 && self.sent > SPARE_BYTES_MAX {
            self.rest_of_unit();
            // What tells whether a unit is partly written stays: a line's last byte that is written, or a packet's beginning.
            let dropped = if self.units == Units::Lines { self.sent - 1 } else { self.begin };
            self.lines.drain(..dropped);
            self.sent -= dropped;
            self.begin = self.begin.saturating_sub(dropped);
        }
    }

    /// Brings what all links hold up to date.
    fn account(&mut self, bounds: &Bounds) {
        let waiting = self.waiting();
        if waiting > self.held {
            bounds.held.fetch_add(waiting - self.held, Ordering::Relaxed);
        } else {
            bounds.held.fetch_sub(self.held - waiting, Ordering::Relaxed);
        }
        self.held = waiting;
    }

    /// The empty buffer serves the next link that has something to say.
    fn give_back(&mut self, spare: &mut Vec<Vec<u8>>) {
        let buffer = std::mem::take(&mut self.lines);
        self.sent = 0;
        self.begin = 0;
        if buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES_MAX && spare.len() < spare.capacity() {
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::net::sockopt;

    use super::*;
    use crate::limits::SEND_BUFFER_BYTES;
    use crate::runtime::socket;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn bounds() -> Arc<Bounds> {
        Arc::new(Bounds {
            per_link: AtomicUsize::new(64 << 20),
            total: AtomicUsize::new(64 << 20),
            held: AtomicUsize::new(0),
            files: AtomicUsize::new(0),
            stale: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            took: Box::new(|_| ()),
            drained: Box::new(|_| ()),
            reads: Box::new(|_| ()),
        })
    }

    fn packets(bounds: &Arc<Bounds>) -> Arc<Outbox> {
        Arc::new(Outbox::of_packets(LinkId { index: 0, generation: 0 }, Arc::clone(bounds)))
    }

    /// A socket's two ends: the server's, and the client's as it is read in tests.
    fn socket() -> (Socket, std::net::TcpStream) {
        let (server, client) = socket::pair();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        sockopt::set_tcp_nodelay(&server, true).unwrap();
        sockopt::set_socket_send_buffer_size(&server, SEND_BUFFER_BYTES).unwrap();
        (server, client)
    }

    fn add(outbox: &Outbox, packet: &str) {
        outbox.add(&mut Vec::new(), |out| out.extend_from_slice(packet.as_bytes()));
    }

    fn add_door(outbox: &Outbox, packet: &str, opened_at: u64) {
        let mut unit = Vec::new();
        websocket::frame(Opcode::Text, &mut unit, |out| out.extend_from_slice(packet.as_bytes()));
        outbox.add_door(unit, Some(opened_at));
    }

    /// Time has passed for the opening that was added last.
    fn age(outbox: &Outbox) {
        outbox.state().doors_mut().queue.back_mut().unwrap().stale_at = Some(0);
    }

    /// What a poll would take, at most so many packets.
    fn poll(outbox: &Outbox, most: usize) -> (Vec<String>, Offered) {
        outbox.offer_packets(|packets| {
            let taken: Vec<String> = packets.take(most).map(|packet| String::from_utf8(packet.to_vec()).unwrap()).collect();
            let count = taken.len();
            (taken, count)
        })
    }

    /// The payloads of all frames that come until the server has closed its side.
    fn received(client: &mut std::net::TcpStream) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        let mut rest = &bytes[..];
        let mut payloads = Vec::new();
        while !rest.is_empty() {
            let (head, length) = websocket::extent(rest).unwrap();
            payloads.push(rest[head..head + length].to_vec());
            rest = &rest[head + length..];
        }
        payloads
    }

    #[test]
    fn what_a_poll_did_not_take_goes_by_the_websocket() {
        let (bounds, long) = (bounds(), "x".repeat(200));
        let outbox = packets(&bounds);
        for packet in ["one", &long, "three", "four"] {
            add(&outbox, packet);
        }
        outbox.flush(&mut Vec::new());
        let (taken, offered) = poll(&outbox, 2);
        assert_eq!(taken, ["one", &long]);
        assert_eq!(poll(&outbox, 2).0, taken, "what was not removed is offered again");
        outbox.remove(&offered);
        assert_eq!(poll(&outbox, 1).0, ["three"]);
        let (server, mut client) = socket();
        outbox.attach(server);
        add(&outbox, "five");
        outbox.close();
        outbox.flush(&mut Vec::new());
        assert_eq!(received(&mut client), [&b"three"[..], b"four", b"five", &1000_u16.to_be_bytes()]);
        assert_eq!(bounds.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn openings_go_first_and_not_when_they_are_old() {
        let (bounds, now) = (bounds(), clock::mono_us());
        let outbox = packets(&bounds);
        add(&outbox, "first");
        add_door(&outbox, "stale", now);
        age(&outbox);
        add_door(&outbox, "open", now);
        let (taken, offered) = poll(&outbox, 9);
        assert_eq!(taken, ["open", "first"]);
        assert_eq!(offered.stale_at, Some(now + OPENING_AGE_MAX.as_micros() as u64));
        assert_eq!(bounds.stale.load(Ordering::Relaxed), 1);
        outbox.remove(&offered);
        add_door(&outbox, "stale too", now);
        age(&outbox);
        assert!(!outbox.has_units());
        assert_eq!(poll(&outbox, 9).0, [""; 0]);
    }

    #[test]
    fn what_went_with_a_door_frame_is_not_written_again() {
        let bounds = bounds();
        let outbox = packets(&bounds);
        let (server, mut client) = socket();
        outbox.attach(server);
        add(&outbox, "one");
        add_door(&outbox, "open", clock::mono_us());
        outbox.flush(&mut Vec::new());
        assert!(!outbox.state().touched && outbox.state().waiting() == 0);
        add_door(&outbox, "open too", clock::mono_us());
        outbox.flush_touched(&mut Vec::new());
        assert_eq!(outbox.state().door_frames().count(), 1, "it is for whoever added it to write it");
        outbox.close();
        outbox.flush_touched(&mut Vec::new());
        assert_eq!(received(&mut client), [&b"open"[..], b"one", b"open too", &1000_u16.to_be_bytes()]);
    }

    #[test]
    fn an_opening_waits_for_the_packet_that_is_partly_written_and_no_longer() {
        let bounds = bounds();
        let outbox = packets(&bounds);
        let (server, mut client) = socket();
        outbox.attach(server);
        // Each more than two sockets hold, and all together soon read though the kernel holds little for a door.
        let large = "x".repeat(512 << 10);
        for _ in 0..3 {
            add(&outbox, &large);
        }
        outbox.flush(&mut Vec::new());
        add_door(&outbox, "open", clock::mono_us());
        outbox.close();
        outbox.flush(&mut Vec::new());
        let frames = received(&mut client);
        let at = frames.iter().position(|frame| frame == b"open").unwrap();
        assert!(at < 3, "it was behind all");
        assert!(frames.iter().filter(|frame| frame.len() == large.len()).count() == 3);
        assert_eq!(frames.last().unwrap(), &1000_u16.to_be_bytes());
    }

    #[test]
    fn whoever_polls_hears_of_packets_and_of_the_end() {
        let bounds = bounds();
        let outbox = packets(&bounds);
        let wait = |outbox: Arc<Outbox>| {
            async_std::task::spawn(poll_fn(move |context| {
                outbox.register(context.waker());
                if outbox.has_units() || outbox.is_closing() { Poll::Ready(()) } else { Poll::Pending }
            }))
        };
        let waiting = wait(Arc::clone(&outbox));
        add(&outbox, "one");
        outbox.flush(&mut Vec::new());
        async_std::task::block_on(async_std::future::timeout(PATIENCE, waiting)).unwrap();
        outbox.remove(&poll(&outbox, 1).1);
        let waiting = wait(Arc::clone(&outbox));
        outbox.cut();
        async_std::task::block_on(async_std::future::timeout(PATIENCE, waiting)).unwrap();
    }
}
