//! What waits to be written to one member of a WebSocket room: frames that all receivers share, written as the kernel takes them.
//!
//! The hub's driver queues and writes at the end of its turn; only while the socket does not take all does a writer task exist. The
//! order: the rest of a frame that is partly written, then pings and pongs, then door frames, then all else. For a phone in a
//! one-to-many room a picture replaces the one before it that has not begun to be written (Protocol §9).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;

use crate::limits::{DOOR_FRAMES_QUEUED_MAX, OPENING_AGE_MAX, ROOM_OUTBOX_BYTES};
use crate::names::LinkId;
use crate::protocol::websocket::{self, Opcode};
use crate::runtime::clock;
use crate::runtime::credit::Credit;
use crate::runtime::outbox::Bounds;
use crate::runtime::shared_frame::{Chunk, SharedFrame};
use crate::runtime::socket::{Socket, hold_little};

/// After a close frame the socket goes within this time, whatever the peer does (Dependencies §5).
const LINGER: Duration = Duration::from_secs(2);
/// Pongs and the like that may wait: a peer that asks for more and reads none of them is cut.
const CONTROL_FRAMES_MAX: usize = 64;
/// The hub is told this often that the peer takes what waits.
const TOOK_TOLD_EVERY_US: u64 = 1_000_000;
/// Pieces of one write, and the bytes after which no more are gathered: the kernel takes no more at once.
const PIECES_MAX: usize = 32;
const GATHERED_BYTES: usize = 256 << 10;

/// How a member's outbox takes frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// All of them; the hub hears when they are too many.
    All,
    /// All texts, and the newest picture.
    NewestPicture,
}

/// What waits for one member.
pub(super) struct RoomOutbox {
    link: LinkId,
    stream: Socket,
    pace: Pace,
    bounds: Arc<Bounds>,
    state: Mutex<State>,
    /// It may hand over its next batch.
    pub(super) credit: Credit,
}

#[derive(Default)]
struct State {
    /// A frame of which so many bytes are written: nothing may come between.
    current: Option<(Piece, usize)>,
    control: VecDeque<Own>,
    doors: VecDeque<Own>,
    queue: VecDeque<Arc<SharedFrame>>,
    /// The close frame: the last of all.
    last: Option<Own>,
    /// Bytes of `queue`, and of the frame that is being written.
    waiting: usize,
    /// Added to since the last write.
    touched: bool,
    /// A writer task exists.
    writing: bool,
    /// The hub knows that it is full, and waits to hear that it is not.
    full: bool,
    /// When the hub was told last that it moves: monotonic, µs.
    took_told: u64,
    closing: bool,
    /// It has been sent an 8: the kernel holds little for it.
    is_door: bool,
}

/// A frame of this member alone, header and all.
struct Own {
    bytes: Vec<u8>,
    /// When it is too old: monotonic, µs; only of openings.
    stale_at: Option<u64>,
}

enum Piece {
    Own(Own),
    Shared(Arc<SharedFrame>),
}

/// What a write left behind.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// Nothing: all is with the kernel.
    All,
    /// The socket takes no more now.
    Blocked,
    /// The connection is broken, or has to be.
    Broken,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Added {
    /// The outbox was untouched since its last write.
    pub untouched: bool,
    /// It is full now: the hub must hear.
    pub full: bool,
}

impl Own {
    fn is_stale(&self) -> bool {
        self.stale_at.is_some_and(|stale_at| clock::mono_us() >= stale_at)
    }
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Own(own) => own.bytes.len(),
            Piece::Shared(frame) => frame.len(),
        }
    }
}

impl RoomOutbox {
    pub(super) fn new(link: LinkId, stream: Socket, pace: Pace, bounds: Arc<Bounds>) -> RoomOutbox {
        RoomOutbox { link, stream, pace, bounds, state: Mutex::default(), credit: Credit::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Adds a frame of the room.
    pub(super) fn add(&self, frame: &Arc<SharedFrame>) -> Added {
        let mut state = self.state();
        if state.closing {
            return Added::default();
        }
        // What was added in the same turn may be waiting for nothing but its end.
        let skips = self.pace == Pace::NewestPicture && !frame.is_text;
        if !state.writing && (skips && !state.queue.is_empty() || self.is_full(&state)) {
            self.write_now(&mut state);
        }
        if skips {
            state.drop_picture();
            if self.is_over_total(&state) {
                self.bounds.dropped.fetch_add(1, Ordering::Relaxed);
                return Added::default();
            }
        }
        state.waiting += frame.len();
        state.queue.push_back(Arc::clone(frame));
        let untouched = !std::mem::replace(&mut state.touched, true);
        let full = !state.full && self.is_full(&state);
        state.full |= full;
        Added { untouched, full }
    }

    fn is_full(&self, state: &State) -> bool {
        state.waiting > ROOM_OUTBOX_BYTES && !self.waits_for_a_picture_alone(state) || self.pace == Pace::All && self.is_over_total(state)
    }

    /// A single picture may be larger than the bound.
    fn waits_for_a_picture_alone(&self, state: &State) -> bool {
        self.pace == Pace::NewestPicture && state.text_bytes() <= ROOM_OUTBOX_BYTES
    }

    fn is_over_total(&self, state: &State) -> bool {
        state.waiting > 0 && self.bounds.held.load(Ordering::Relaxed) > self.bounds.total.load(Ordering::Relaxed)
    }

    /// Adds a door frame, ahead of all that has not begun to be written. False: there is no room for it.
    pub(super) fn add_door(&self, text: &[u8], opened_at: Option<u64>) -> bool {
        let mut state = self.state();
        if opened_at.is_some() && !state.is_door {
            state.is_door = true;
            hold_little(&self.stream);
        }
        if state.closing || state.doors.len() >= DOOR_FRAMES_QUEUED_MAX {
            self.bounds.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let mut bytes = Vec::with_capacity(websocket::HEADER_BYTES_MAX + text.len());
        websocket::frame(Opcode::Text, &mut bytes, |out| out.extend_from_slice(text));
        let stale_at = opened_at.map(|at| at + OPENING_AGE_MAX.as_micros() as u64);
        state.doors.push_back(Own { bytes, stale_at });
        true
    }

    /// Adds a ping. True: untouched so far.
    pub(super) fn ping(&self) -> bool {
        let mut bytes = Vec::new();
        websocket::frame(Opcode::Ping, &mut bytes, |_| ());
        self.add_control(bytes)
    }

    /// Adds whole control frames. True: untouched so far.
    fn add_control(&self, bytes: Vec<u8>) -> bool {
        let mut state = self.state();
        if state.closing {
            return false;
        }
        if state.control.len() >= CONTROL_FRAMES_MAX {
            drop(state);
            self.cut();
            return false;
        }
        state.control.push_back(Own { bytes, stale_at: None });
        !std::mem::replace(&mut state.touched, true)
    }

    /// Answers the peer's pings at once.
    pub(super) fn answer(self: &Arc<Self>, control: Vec<u8>) {
        if !control.is_empty() && self.add_control(control) {
            self.flush();
        }
    }

    /// Ends the link after what is queued; with `drops` what is queued goes nowhere. True: untouched so far.
    pub(super) fn close(&self, code: u16, drops: bool) -> bool {
        let mut bytes = Vec::new();
        websocket::close_frame(code, &mut bytes);
        self.end(bytes, drops)
    }

    /// Ends the link with these last frames: the answer to the peer's close.
    pub(super) fn finish(self: &Arc<Self>, last: Vec<u8>) {
        self.end(last, false);
        self.flush();
    }

    fn end(&self, last: Vec<u8>, drops: bool) -> bool {
        let mut state = self.state();
        if state.closing {
            return false;
        }
        state.closing = true;
        state.doors.clear();
        if drops {
            state.queue.clear();
            state.waiting = 0;
        }
        state.last = Some(Own { bytes: last, stale_at: None });
        let untouched = !std::mem::replace(&mut state.touched, true);
        drop(state);
        self.credit.give();
        untouched
    }

    /// Ends the link now, whatever waits.
    pub(super) fn cut(&self) {
        // Fails only if it is cut already.
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }

    /// Writes what it has if that was not done since something was added.
    pub(super) fn flush_touched(self: &Arc<Self>) {
        if self.state().touched {
            self.flush();
        }
    }

    /// Writes what was added; where the socket does not take all, a writer task goes on.
    pub(super) fn flush(self: &Arc<Self>) {
        let mut state = self.state();
        state.touched = false;
        if state.closing {
            self.cut_soon();
        }
        if state.writing {
            return;
        }
        match self.write_now(&mut state) {
            Written::All => self.end_if_closing(&state),
            Written::Blocked => {
                state.writing = true;
                async_std::task::spawn(Arc::clone(self).write_on());
            }
            Written::Broken => {
                drop(state);
                return self.cut();
            }
        }
        self.tell_of_room(state);
    }

    /// Gathers what is to be written next and has it taken, until `take` takes no more.
    fn write(&self, state: &mut State, mut take: impl FnMut(&Chunk<'_>) -> Result<usize, Written>) -> Written {
        loop {
            if state.drop_stale(&self.bounds) {
                return Written::Broken;
            }
            let mut slices = [IoSlice::new(&[]); 2 * PIECES_MAX];
            let chunk = match state.file() {
                Some(chunk) => chunk,
                None => match state.gather(&mut slices) {
                    0 => return Written::All,
                    gathered => Chunk::Pieces(&slices[..gathered]),
                },
            };
            match take(&chunk) {
                Ok(taken) => state.took(taken),
                Err(stopped) => return stopped,
            }
        }
    }

    /// Writes what the socket takes at once, and leaves the waiting to others.
    fn write_now(&self, state: &mut State) -> Written {
        self.write(state, |chunk| {
            chunk.send(&self.stream).map_err(|error| if error == Errno::AGAIN { Written::Blocked } else { Written::Broken })
        })
    }

    /// The writer task: until everything is written, or the connection breaks.
    async fn write_on(self: Arc<Self>) {
        if poll_fn(|context| self.poll_write(context)).await == Written::Broken {
            self.cut();
        }
    }

    fn poll_write(&self, context: &mut Context<'_>) -> Poll<Written> {
        let mut state = self.state();
        let before = state.waiting;
        let written = self.write(&mut state, |chunk| {
            loop {
                match chunk.send(&self.stream) {
                    Ok(taken) => return Ok(taken),
                    Err(Errno::AGAIN) => match self.stream.poll_writable(context) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => return Err(Written::Broken),
                        Poll::Pending => return Err(Written::Blocked),
                    },
                    Err(_) => return Err(Written::Broken),
                }
            }
        });
        let moved = state.waiting != before;
        let result = if written == Written::Blocked { Poll::Pending } else { Poll::Ready(written) };
        if result.is_ready() {
            state.writing = false;
            self.end_if_closing(&state);
        }
        if moved && clock::mono_us() >= state.took_told + TOOK_TOLD_EVERY_US {
            state.took_told = clock::mono_us();
            (self.bounds.took)(self.link);
        }
        self.tell_of_room(state);
        result
    }

    /// Once half is written, who waited for that goes on.
    fn tell_of_room(&self, mut state: MutexGuard<'_, State>) {
        if state.full && (state.waiting == 0 || state.waiting <= ROOM_OUTBOX_BYTES / 2 && !self.is_over_total(&state)) {
            state.full = false;
            drop(state);
            (self.bounds.drained)(self.link);
        }
    }

    /// Everything is written and the link is to end: FIN.
    fn end_if_closing(&self, state: &State) {
        if state.closing {
            // Fails only if the connection is gone already.
            let _ = self.stream.get_ref().shutdown(Shutdown::Write);
        }
    }

    /// Its socket goes soon, whatever the peer reads or sends; the wait holds no descriptor.
    fn cut_soon(self: &Arc<Self>) {
        let outbox = Arc::downgrade(self);
        async_std::task::spawn(async move {
            async_std::task::sleep(LINGER).await;
            if let Some(outbox) = outbox.upgrade() {
                outbox.cut();
            }
        });
    }
}

impl State {
    /// Drops openings that are too old. True: a part of one is written, and only cutting the connection keeps the rest from the door.
    fn drop_stale(&mut self, bounds: &Bounds) -> bool {
        if !self.doors.is_empty() {
            let before = self.doors.len();
            self.doors.retain(|door| !door.is_stale());
            let stale = before - self.doors.len();
            if stale > 0 {
                bounds.stale.fetch_add(stale, Ordering::Relaxed);
                log::warn!("door_stale frames={stale} where=room_outbox");
            }
        }
        matches!(&self.current, Some((Piece::Own(own), _)) if own.is_stale())
    }

    /// The picture that waits and has not begun to be written: one at most.
    fn drop_picture(&mut self) {
        if let Some(at) = self.queue.iter().rposition(|frame| !frame.is_text)
            && let Some(picture) = self.queue.remove(at)
        {
            self.waiting -= picture.len();
        }
    }

    fn text_bytes(&self) -> usize {
        self.queue.iter().filter(|frame| frame.is_text).map(|frame| frame.len()).sum()
    }

    /// What is to be written next, if that lies in a file.
    fn file(&self) -> Option<Chunk<'_>> {
        let (frame, sent) = match &self.current {
            Some((Piece::Shared(frame), sent)) => (frame, *sent),
            None if self.control.is_empty() && self.doors.is_empty() => (self.queue.front()?, 0),
            _ => return None,
        };
        frame.file().map(|file| Chunk::File(file, sent, frame.len()))
    }

    /// What is to be written next, in order and up to what lies in a file. Returns the number of slices.
    fn gather<'s>(&'s self, slices: &mut [IoSlice<'s>; 2 * PIECES_MAX]) -> usize {
        let (mut used, mut bytes) = (0, 0);
        let mut add = |piece: &'s [u8]| {
            if !piece.is_empty() && used < slices.len() && bytes < GATHERED_BYTES {
                slices[used] = IoSlice::new(piece);
                used += 1;
                bytes += piece.len();
                true
            } else {
                piece.is_empty()
            }
        };
        match &self.current {
            Some((Piece::Own(own), sent)) => drop(add(&own.bytes[*sent..])),
            Some((Piece::Shared(frame), sent)) => {
                let [header, payload] = frame.pieces(*sent);
                let _ = add(header) && add(payload);
            }
            None => {}
        }
        for own in self.control.iter().chain(&self.doors) {
            if !add(&own.bytes) {
                return used;
            }
        }
        for frame in &self.queue {
            let [header, payload] = frame.pieces(0);
            if frame.file().is_some() || !add(header) || !add(payload) {
                return used;
            }
        }
        if let Some(last) = &self.last {
            add(&last.bytes);
        }
        used
    }

    /// So many bytes of what was gathered are written.
    fn took(&mut self, mut taken: usize) {
        while taken > 0 {
            let Some((piece, sent)) = self.current.take().or_else(|| self.next_piece().map(|piece| (piece, 0))) else { return };
            let step = taken.min(piece.len() - sent);
            taken -= step;
            if matches!(piece, Piece::Shared(_)) {
                self.waiting -= step.min(self.waiting);
            }
            if sent + step < piece.len() {
                self.current = Some((piece, sent + step));
            }
        }
    }

    fn next_piece(&mut self) -> Option<Piece> {
        let own = self.control.pop_front().or_else(|| self.doors.pop_front());
        if let Some(own) = own {
            return Some(Piece::Own(own));
        }
        self.queue.pop_front().map(Piece::Shared).or_else(|| self.last.take().map(Piece::Own))
    }
}
