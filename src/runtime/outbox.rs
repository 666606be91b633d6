//! What waits to be written to one TCP link: bounded in bytes, taken from only as the kernel takes it, door frames first.
//!
//! The hub's driver appends whole lines and writes them at the end of its turn. Only while the socket does not take all does a
//! writer task exist; it goes when the outbox is empty. Nothing here knows what a line says.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_std::net::TcpStream;
use futures::AsyncWrite;
use futures::task::AtomicWaker;
use rustix::io::Errno;
use rustix::net::{SendFlags, send, sockopt};

use crate::limits::{DOOR_FRAMES_QUEUED_MAX, HEARD_EVERY, OPENING_AGE_MAX};
use crate::names::LinkId;
use crate::runtime::clock;

/// A closed link's socket goes after so long, also if the peer neither reads what is left nor closes its side.
const LINGER: Duration = Duration::from_secs(2);
/// A peer that has closed its sending side may take so long to read its last answers.
const LAST_ANSWERS_WAIT: Duration = Duration::from_secs(30);
/// A buffer that has grown beyond this is not kept for reuse.
const SPARE_BYTES_MAX: usize = 16 << 10;
/// From the first opening on, what the kernel holds for a door dies with the connection after this (Protocol §7).
const DOOR_USER_TIMEOUT_MS: u32 = 5_000;

/// What all outboxes share: their bounds, what they hold together, and whom to tell.
pub(super) struct Bounds {
    /// Bytes one link may have waiting.
    pub per_link: AtomicUsize,
    /// Bytes all links may have waiting.
    pub total: AtomicUsize,
    /// Bytes that sockets have not taken.
    pub held: AtomicUsize,
    /// Door frames that grew too old in an outbox.
    pub stale: AtomicUsize,
    /// Door frames and notices for which there was no room.
    pub dropped: AtomicUsize,
    /// Told when a congested outbox has room again.
    pub drained: Box<dyn Fn(LinkId) + Send + Sync>,
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

/// What waits for one link.
pub struct Outbox {
    link: LinkId,
    stream: TcpStream,
    bounds: Arc<Bounds>,
    state: Mutex<State>,
    /// The link may hand over its next batch.
    ready: AtomicBool,
    waits_for_ready: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines; `sent` bytes of them are written.
    lines: Vec<u8>,
    sent: usize,
    doors: VecDeque<DoorLine>,
    /// The rest of a door frame of which a part is written: nothing may come between.
    door_rest: Option<DoorLine>,
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
    /// TCP_USER_TIMEOUT is set to the doors' 5 s.
    is_door: bool,
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
    pub(super) fn new(link: LinkId, stream: TcpStream, bounds: Arc<Bounds>) -> Outbox {
        Outbox {
            link,
            stream,
            bounds,
            state: Mutex::new(State::default()),
            ready: AtomicBool::new(true),
            waits_for_ready: AtomicWaker::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket, for the reading task.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
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

    /// Adds a line that must not be lost. True: the outbox was untouched since its last write.
    pub(super) fn add(&self, spare: &mut Vec<Vec<u8>>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.state().add(spare, write)
    }

    /// Adds a line if there is room. `Err`: there is none, or an earlier one was refused since the hub last heard of it.
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

    /// Adds a door frame, ahead of all lines that are not being written. True: untouched so far.
    pub(super) fn add_door(&self, line: Vec<u8>, opened_at: Option<u64>) -> bool {
        let mut state = self.state();
        if opened_at.is_some() && !state.is_door {
            state.is_door = true;
            // Refused only if the socket is gone, and then nothing is held for it.
            let _ = sockopt::set_tcp_user_timeout(&self.stream, DOOR_USER_TIMEOUT_MS);
        }
        if state.broken || state.doors.len() >= DOOR_FRAMES_QUEUED_MAX {
            self.bounds.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let stale_at = opened_at.map(|at| at + OPENING_AGE_MAX.as_micros() as u64);
        state.doors.push_back(DoorLine { line, stale_at });
        !std::mem::replace(&mut state.touched, true)
    }

    /// Ends the link after what is queued. True: untouched so far.
    pub(super) fn close(&self) -> bool {
        let mut state = self.state();
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

    /// Ends the link now, whatever waits.
    pub(super) fn cut(&self) {
        // Fails only if it is cut already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Writes what was added; where the socket does not take all, a writer task goes on.
    pub(super) fn flush(self: &Arc<Self>, spare: &mut Vec<Vec<u8>>) {
        let mut state = self.state();
        state.touched = false;
        if state.closing && (state.writing || !state.peer_finished) {
            self.cut_soon(if state.peer_finished { LAST_ANSWERS_WAIT } else { LINGER });
        }
        if state.writing {
            return;
        }
        match self.write_now(&mut state) {
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

    /// Writes what the socket takes at once, and leaves the waiting to others.
    fn write_now(&self, state: &mut State) -> Written {
        self.write(state, |chunk| {
            loop {
                match send(&self.stream, chunk, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
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
        state.doors = VecDeque::new();
        state.door_rest = None;
        state.account(&self.bounds);
        self.cut();
    }

    /// The writer task: until everything is written, or the connection breaks.
    async fn write_on(self: Arc<Self>) {
        poll_fn(|context| self.poll_write(context)).await;
    }

    fn poll_write(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        let mut reads = false;
        let written = self.write(&mut state, |chunk| match Pin::new(&mut &self.stream).poll_write(context, chunk) {
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
        if state.closing {
            // Fails only if the connection is gone already.
            let _ = self.stream.shutdown(Shutdown::Write);
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

/// A line was not taken.
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
        write(&mut self.lines);
        self.lines.push(b'\n');
        !std::mem::replace(&mut self.touched, true)
    }

    /// What to write next: a frame that is partly written, then door frames, then all other lines.
    fn next_source(&mut self, bounds: &Bounds) -> Result<Option<Source>, TooOld> {
        if let Some(rest) = &self.door_rest {
            return if rest.is_stale() { Err(TooOld) } else { Ok(Some(Source::DoorRest)) };
        }
        if !self.doors.is_empty() {
            let within_line = self.sent > 0 && self.lines[self.sent - 1] != b'\n';
            if within_line {
                return Ok(Some(Source::Line));
            }
            self.drop_stale(bounds);
            if !self.doors.is_empty() {
                return Ok(Some(Source::Door));
            }
        }
        Ok((self.sent < self.lines.len()).then_some(Source::Lines))
    }

    fn chunk(&self, source: Source) -> &[u8] {
        let lines = &self.lines[self.sent..];
        match source {
            Source::Lines => lines,
            Source::Line => memchr::memchr(b'\n', lines).map_or(lines, |end| &lines[..=end]),
            Source::Door => self.doors.front().map_or(&[], |door| &door.line),
            Source::DoorRest => self.door_rest.as_ref().map_or(&[], |rest| &rest.line),
        }
    }

    fn took(&mut self, source: Source, bytes: usize) {
        match source {
            Source::Lines | Source::Line => self.took_lines(bytes),
            Source::Door => self.door_rest = self.doors.pop_front().and_then(|door| door.rest(bytes)),
            Source::DoorRest => self.door_rest = self.door_rest.take().and_then(|rest| rest.rest(bytes)),
        }
    }

    fn drop_stale(&mut self, bounds: &Bounds) {
        let before = self.doors.len();
        self.doors.retain(|door| !door.is_stale());
        let stale = before - self.doors.len();
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
        } else if self.sent > self.lines.len() / 2 && self.sent > SPARE_BYTES_MAX {
            // The last byte written stays: it says whether a line is partly written.
            self.lines.drain(..self.sent - 1);
            self.sent = 1;
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
        if buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES_MAX && spare.len() < spare.capacity() {
            spare.push(buffer);
        }
    }
}
