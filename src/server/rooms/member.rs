//! One member of a room: what it sends, from bytes to batches for the hub (Protocol §9). What it gets goes through its outbox.
//!
//! A batch is read when the hub has taken the one before: so a sender is read as fast as its receivers take. While it is idle a
//! member holds no buffer; bytes are read into a scratch ([`scratch`]).

use std::future::poll_fn;
use std::net::Shutdown;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_std::future::timeout;
use bytes::Bytes;
use futures::AsyncWriteExt;

use crate::limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX, DOOR_ANSWER_BYTES_MAX, HEARD_EVERY, HTTP_DRAIN_WAIT};
use crate::protocol::decode;
use crate::protocol::frame::{Body, Request};
use crate::protocol::room::{Place, RoomFrame, RoomPath};
use crate::protocol::websocket::{self, Decoder, Item, Payload};
use crate::runtime::clock;
use crate::runtime::handle::RoomLink;
use crate::server::inlet::Inlet;
use crate::server::listener::Permit;
use crate::server::scratch::{self, SCRATCH_BYTES};

/// Bytes of one read: the small one for those who send little, the large one behind a read that was full.
const READ_BYTES: [usize; 2] = [4 << 10, SCRATCH_BYTES];
/// The buffer that a member holds while it has sent a part of a frame: doors send pictures, others mostly little.
const DOOR_BUFFER_BYTES: usize = 16 << 10;
const BUFFER_BYTES: usize = 2 << 10;
/// Bytes behind a close frame that are read and dropped, so that the peer sees it and no reset. The outbox cuts that soon.
const DRAIN_BYTES_MAX: usize = 16 << 20;

/// A member and its reading side.
pub(super) struct Member {
    link: RoomLink,
    decoder: Decoder,
    /// Bytes of the largest payload that is copied.
    copied_max: usize,
    is_door: bool,
    /// The decoder may have more without another read.
    has_more: bool,
    /// The last read was full.
    reads_large: bool,
    /// What was read behind the batch that was handed over.
    behind: Option<Read>,
    inlet: Inlet,
    /// When the hub was last told that a part of a frame has come: monotonic, µs.
    heard_told: u64,
    _permit: Permit,
}

/// What was read.
enum Read {
    /// Frames for the room, and whether a pong was among them.
    Batch(Vec<RoomFrame>, bool),
    /// A door's result.
    Answer(Request),
    /// Nothing more will be.
    End(End),
}

/// Why nothing more is read.
enum End {
    /// The peer has closed: what it is answered.
    Closed(Vec<u8>),
    /// It broke the protocol: the code it is told.
    Broken(u16),
    /// The connection is gone.
    Gone,
}

impl Member {
    /// A member that has just come; `rest` is what it sent behind its handshake.
    pub(super) fn new(link: RoomLink, inlet: Inlet, path: &RoomPath, frame_max: usize, rest: &[u8], permit: Permit) -> Member {
        let is_door = path.place == Place::Door;
        let buffer = if is_door { DOOR_BUFFER_BYTES } else { BUFFER_BYTES };
        let mut decoder = Decoder::new(websocket::Options { message_max: frame_max, buffer });
        decoder.lend(rest.to_vec(), rest.len());
        let has_more = !rest.is_empty();
        let now = clock::mono_us();
        Member {
            link,
            decoder,
            copied_max: buffer / 2,
            is_door,
            has_more,
            reads_large: false,
            behind: None,
            inlet,
            heard_told: now,
            _permit: permit,
        }
    }

    /// Serves the member until it ends.
    pub(super) async fn run(&mut self) {
        let end = loop {
            self.link.ready().await;
            if self.link.is_closing() {
                break None;
            }
            match poll_fn(|context| self.poll_read(context)).await {
                Read::Batch(frames, pong) => self.link.submit(frames, pong),
                Read::Answer(request) => self.link.submit_answer(request),
                Read::End(end) => break Some(end),
            }
        };
        match end {
            Some(End::Closed(control)) => self.link.finish(control),
            Some(End::Broken(code)) => self.link.close(code),
            Some(End::Gone) => return,
            None => {}
        }
        // Its place is free from here on, though it may still have to read its close frame.
        self.link.leave();
        scratch::drain(&mut self.inlet, DRAIN_BYTES_MAX).await;
    }

    /// Reads until there is something to hand over.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Read> {
        self.link.doors().run_ready();
        loop {
            if let Some(read) = self.behind.take() {
                return Poll::Ready(read);
            }
            if self.has_more
                && let Some(read) = self.take()
            {
                return Poll::Ready(read);
            }
            if let Some(read) = ready!(self.poll_fill(context)) {
                return Poll::Ready(read);
            }
        }
    }

    /// Reads once, into a scratch that is lent to the decoder for that time.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Option<Read>> {
        let most = READ_BYTES[usize::from(self.reads_large)];
        scratch::lend(|scratch| {
            let filled = match ready!(self.inlet.poll_read(context, &mut scratch[..most])) {
                Ok((_, filled)) if filled > 0 => filled,
                _ => return Poll::Ready(Some(Read::End(End::Gone))),
            };
            self.reads_large = filled == most;
            self.decoder.lend(std::mem::take(scratch), filled);
            let read = self.take();
            *scratch = self.decoder.take_back();
            if read.is_none() {
                self.tell_that_it_is_there();
            }
            Poll::Ready(read)
        })
    }

    /// A long frame on a slow line: the pong waits behind it.
    fn tell_that_it_is_there(&mut self) {
        let now = clock::mono_us();
        if now >= self.heard_told + HEARD_EVERY.as_micros() as u64 {
            self.heard_told = now;
            self.link.heard();
        }
    }

    /// A batch of what the decoder has. `None`: it needs more bytes.
    fn take(&mut self) -> Option<Read> {
        let (mut frames, mut bytes, mut pong) = (Vec::new(), 0, false);
        self.has_more = true;
        while self.has_more && frames.len() < BATCH_FRAMES_MAX && bytes < BATCH_BYTES_MAX && self.behind.is_none() {
            match self.decoder.next_item() {
                Ok(None) => self.has_more = false,
                Ok(Some(Item::Pong)) => pong = true,
                Ok(Some(Item::Text(text))) => match if self.is_door { door_answer(&text) } else { None } {
                    Some(answer) => self.behind = Some(Read::Answer(answer)),
                    None => {
                        bytes += text.len();
                        frames.push(frame(true, text, self.copied_max));
                    }
                },
                Ok(Some(Item::Binary(payload))) => {
                    bytes += payload.len();
                    frames.push(frame(false, payload, self.copied_max));
                }
                Ok(Some(Item::Close(_))) => self.behind = Some(Read::End(End::Closed(self.decoder.take_control()))),
                Err(broken) => self.behind = Some(Read::End(End::Broken(broken.close_code()))),
            }
            // Pings on the way to it.
            self.link.answer(self.decoder.take_control());
        }
        if frames.is_empty() && !pong { self.behind.take() } else { Some(Read::Batch(frames, pong)) }
    }
}

/// A frame for the room. A payload up to `copied_max` bytes is copied: a slice of the decoder's buffer would keep all of that.
fn frame<T, O>(is_text: bool, payload: Payload<'_, T, O>, copied_max: usize) -> RoomFrame
where
    T: ?Sized + AsRef<[u8]>,
    O: Deref<Target = T> + Into<Bytes>,
{
    let bytes: &[u8] = (*payload).as_ref();
    let payload = if bytes.len() <= copied_max { Bytes::copy_from_slice(bytes) } else { payload.into() };
    RoomFrame { is_text, payload, image: None }
}

/// A text frame of a door that is a result: the only one that is read (Protocol §7).
fn door_answer(text: &str) -> Option<Request> {
    if text.len() > DOOR_ANSWER_BYTES_MAX || memchr::memmem::find(text.as_bytes(), b"-8").is_none() {
        return None;
    }
    let request = decode::request(text.as_bytes());
    matches!(request.body, Body::DoorAnswer(_)).then_some(request)
}

/// Tells a peer that it is no member, and why.
pub(super) async fn turn_away(inlet: &mut Inlet, code: u16) {
    let mut frame = Vec::new();
    websocket::close_frame(code, &mut frame);
    let stream = Arc::clone(inlet.socket());
    let mut writer = &*stream;
    // A peer that does not take the few bytes is not told.
    let tell = async {
        if writer.write_all(&frame).await.is_ok() && stream.get_ref().shutdown(Shutdown::Write).is_ok() {
            scratch::drain(inlet, DRAIN_BYTES_MAX).await;
        }
    };
    let _ = timeout(HTTP_DRAIN_WAIT, tell).await;
}
