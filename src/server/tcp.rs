//! PushServer: the line protocol (Protocol §6). Bytes to lines, lines to frames, frames to the hub in batches.
//!
//! What the hub says goes out through the link's outbox; here is only the reading side. While a link is idle it holds no buffer:
//! bytes are read into a scratch ([`scratch`]), and only an incomplete rest is kept.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use memchr::memchr_iter;

use crate::limits::{BATCH_BYTES_MAX, BATCH_DOOR_FRAMES_MAX, BATCH_FRAMES_MAX, HEARD_EVERY};
use crate::protocol::decode;
use crate::protocol::frame::{Body, Request, has_door_frame};
use crate::protocol::line::{self, Lines};
use crate::protocol::refusal::{Code, Refusal};
use crate::runtime::handle::{Handle, TcpLink};
use crate::runtime::reactor::Reactor;
use crate::runtime::turnstile::Ticket;
use crate::server::gate::Gate;
use crate::server::inlet::Inlet;
use crate::server::listener::{Accepted, Permit};
use crate::server::scratch;

/// Bytes of a closed link that are read and thrown away, so that its peer sees the error and no reset (G8).
const DRAIN_BYTES_MAX: usize = 64 << 10;

/// A method of 16 letters and the space behind it: what must have come to tell an HTTP request.
const METHOD_BYTES_MAX: usize = 17;

/// What every link of the port needs.
pub struct TcpServer {
    handle: Handle,
    gate: Arc<Gate>,
    /// `limits.frame`.
    frame_max: AtomicUsize,
    /// Connections that began like an HTTP request: a browser was made to speak to this port.
    http_closed: AtomicU64,
}

impl TcpServer {
    /// The server's options.
    #[must_use]
    pub fn new(handle: Handle, gate: Arc<Gate>, frame_max: usize) -> TcpServer {
        TcpServer { handle, gate, frame_max: AtomicUsize::new(frame_max), http_closed: AtomicU64::new(0) }
    }

    /// From now on frames may have at most so many bytes, also those of links that are open.
    pub fn reconfigure(&self, frame_max: usize) {
        self.frame_max.store(frame_max, Ordering::Relaxed);
    }

    fn frame_max(&self) -> usize {
        self.frame_max.load(Ordering::Relaxed)
    }

    /// What watches the sockets of its links.
    #[must_use]
    pub fn reactor(&self) -> &Arc<Reactor> {
        self.handle.reactor()
    }

    /// Connections closed because they spoke HTTP.
    #[must_use]
    pub fn http_closed(&self) -> u64 {
        self.http_closed.load(Ordering::Relaxed)
    }

    /// Serves one connection until it ends. All that a link keeps while it is idle is in its [`Connection`]: an `async fn` would
    /// keep its arguments a second time.
    pub fn serve(self: &Arc<TcpServer>, accepted: Accepted) -> impl Future<Output = ()> + Send + use<> {
        let Accepted { inlet, peer, permit } = accepted;
        let mut connection = Connection {
            link: self.handle.open_tcp(Arc::clone(inlet.socket()), peer.ip()),
            reader: Reader {
                lines: Lines::new(self.frame_max()),
                kept: None,
                inlet,
                came_at: 0,
                told_at: 0,
                ticket: None,
                begun: false,
                admitted: false,
            },
            server: Arc::clone(self),
            permit,
        };
        async move {
            if connection.run().await {
                let doors = Arc::clone(connection.link.doors());
                doors.spawn(async move {
                    connection.run().await;
                });
            }
        }
    }
}

/// One connection and its reading side.
struct Connection {
    link: TcpLink,
    reader: Reader,
    server: Arc<TcpServer>,
    permit: Permit,
}

impl Connection {
    /// Until it ends, or true: from now on it is a door's, and is to be run again as such.
    async fn run(&mut self) -> bool {
        let end = loop {
            // Not matched below: what is matched would be kept while this waits, and every idle link pays for that.
            let mut batch = match poll_fn(|context| self.poll_batch(context)).await {
                Read::Batch(batch) => batch,
                Read::End(end) => break end,
            };
            let is_last = !self.admit(&mut batch.frames) || batch.overlong;
            let is_door = has_door_frame(&batch.frames);
            self.link.ready().await;
            self.link.submit(batch.frames, batch.at);
            if is_last {
                self.link.closed().await;
                break End::Closing;
            }
            if is_door && self.reader.inlet.join_doors(self.link.doors()) {
                return true;
            }
        };
        match end {
            End::Finished => self.link.finish().await,
            End::Closing => scratch::drain(&mut self.reader.inlet, DRAIN_BYTES_MAX).await,
            End::Broken => {}
        }
        false
    }

    /// Reads until a batch of frames is there, or no more can come.
    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Read> {
        if !self.reader.inlet.is_door() {
            self.link.doors().run_ready();
        }
        if self.link.is_broken() {
            return Poll::Ready(Read::End(End::Broken));
        }
        if let Some(kept) = self.reader.kept.take() {
            return Poll::Ready(Read::Batch(self.reader.take_kept(kept)));
        }
        scratch::lend(|scratch| {
            let (link, Reader { inlet, ticket, .. }) = (&self.link, &mut self.reader);
            let may_read = |waker: &_| link.may_read(ticket, waker);
            let read = match ready!(inlet.poll_read_in_turn(may_read, context, scratch)) {
                Ok((_, 0)) => return Poll::Ready(Read::End(End::Finished)),
                Err(_) => return Poll::Ready(Read::End(End::Broken)),
                Ok((came_at, read)) => {
                    self.reader.came_at = came_at;
                    read
                }
            };
            if self.link.is_closing() {
                return Poll::Ready(Read::End(End::Closing));
            }
            let bytes = &scratch[..read];
            if !self.reader.begun && self.is_http(bytes) {
                return Poll::Ready(Read::End(End::Broken));
            }
            self.reader.lines.set_frame_max(self.server.frame_max());
            let batch = self.reader.take(bytes);
            if !batch.frames.is_empty() {
                return Poll::Ready(Read::Batch(batch));
            }
            if self.reader.must_tell() {
                self.link.heard();
            }
            // Once more, but in turn: a peer that sends blanks as fast as they are read must not keep the others waiting.
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// An HTTP request to this port is closed unanswered (Protocol §6), however its first bytes were cut into packets.
    fn is_http(&mut self, bytes: &[u8]) -> bool {
        let begin: Vec<u8> = self.reader.lines.pending().iter().chain(bytes).copied().take(METHOD_BYTES_MAX).collect();
        self.reader.begun = begin.len() == METHOD_BYTES_MAX || begin.contains(&b'\n');
        let is_http = line::is_http(&begin);
        if is_http {
            self.server.http_closed.fetch_add(1, Ordering::Relaxed);
        }
        is_http
    }

    /// Looks at the token in the first frame of all. False: the link is refused, as the only answer to that frame.
    fn admit(&mut self, frames: &mut Vec<Request>) -> bool {
        if std::mem::replace(&mut self.reader.admitted, true) {
            return true;
        }
        let token = frames.first_mut().and_then(|first| first.token.take());
        match self.server.gate.admit(self.permit.address(), token.as_deref(), self.server.handle.token_time_s()) {
            Ok(None) => true,
            Ok(Some(claims)) => {
                self.link.set_claims(claims);
                true
            }
            // Also after too many bad ones: here a link with a bad token ends, so that it has nothing to slow down.
            Err(_) => {
                frames.truncate(1);
                for first in frames {
                    first.body = Body::Refused(Refusal::new(Code::BadToken, "token"));
                }
                false
            }
        }
    }
}

/// What reading came to.
enum Read {
    /// Frames.
    Batch(Batch),
    /// Nothing more is read.
    End(End),
}

/// Why nothing more is read.
enum End {
    /// The peer has closed its sending side.
    Finished,
    /// The hub has ended the link.
    Closing,
    /// The connection is broken, or not worth an answer.
    Broken,
}

/// Frames that were read together.
struct Batch {
    frames: Vec<Request>,
    /// When their last byte came: monotonic, µs. They may wait long for their turn, and an opening must not (Protocol §7).
    at: u64,
    /// Behind them a line was too long: nothing more can be read.
    overlong: bool,
}

/// The reading side of one link.
struct Reader {
    lines: Lines,
    /// Bytes read beyond the last batch.
    kept: Option<Box<Kept>>,
    inlet: Inlet,
    /// Something has come, and the turn to read it has not.
    ticket: Option<Ticket>,
    /// When the bytes last read came: monotonic, µs.
    came_at: u64,
    /// When the hub was last told of bytes that are no frame: monotonic, µs.
    told_at: u64,
    /// The first bytes have been looked at: it is no HTTP request.
    begun: bool,
    /// The first frame's token has been looked at.
    admitted: bool,
}

impl Reader {
    /// A batch from bytes just read; what does not fit in it is kept.
    fn take(&mut self, bytes: &[u8]) -> Batch {
        let mut input = bytes;
        let batch = next_batch(&mut self.lines, &mut input, self.came_at);
        if !input.is_empty() && !batch.overlong {
            self.kept = Some(Box::new(Kept { bytes: input.into(), used: 0 }));
        }
        batch
    }

    /// Whether the hub is to be told that something came that is no frame. True at most once in [`HEARD_EVERY`].
    fn must_tell(&mut self) -> bool {
        let is_due = self.told_at + HEARD_EVERY.as_micros() as u64 <= self.came_at;
        if is_due {
            self.told_at = self.came_at;
        }
        is_due
    }

    /// A batch from the bytes kept; perhaps empty, if only the beginning of a line is left.
    fn take_kept(&mut self, mut kept: Box<Kept>) -> Batch {
        let mut input = &kept.bytes[kept.used..];
        let batch = next_batch(&mut self.lines, &mut input, self.came_at);
        let left = input.len();
        if left > 0 && !batch.overlong {
            kept.used = kept.bytes.len() - left;
            self.kept = Some(kept);
        }
        batch
    }
}

/// Bytes that were read and are not yet frames, the first `used` of them aside.
struct Kept {
    bytes: Box<[u8]>,
    used: usize,
}

/// Whether a batch must end behind that frame: its answer may fill an outbox alone, and the next batch waits until there is room
/// (Protocol §5).
fn ends_batch(body: &Body) -> bool {
    matches!(body, Body::Pull { .. } | Body::GetTopic { .. })
}

/// As many frames as a batch may have, of bytes that came at that time.
fn next_batch(lines: &mut Lines, input: &mut &[u8], at: u64) -> Batch {
    // Exactly as many as there are: an idle link's batch is one frame, and all of them may send theirs at the same moment.
    let mut frames = Vec::with_capacity(memchr_iter(b'\n', input).take(BATCH_FRAMES_MAX).count());
    let (mut bytes, mut doors) = (0, 0);
    while frames.len() < BATCH_FRAMES_MAX && bytes < BATCH_BYTES_MAX && doors < BATCH_DOOR_FRAMES_MAX {
        match lines.next(input) {
            Ok(None) => break,
            Ok(Some(line)) => {
                bytes += line.len();
                let frame = decode::request(line);
                let is_last = ends_batch(&frame.body);
                doors += usize::from(frame.body.is_door_frame());
                frames.push(frame);
                if is_last {
                    break;
                }
            }
            Err(_) => {
                let body = Body::Refused(Refusal::new(Code::TooLarge, "limits.frame"));
                frames.push(Request { body, num: None, token: None });
                return Batch { frames, at, overlong: true };
            }
        }
    }
    Batch { frames, at, overlong: false }
}
