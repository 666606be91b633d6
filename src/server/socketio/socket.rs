//! The reading side of a Socket.IO session's WebSocket. What goes out is the outbox's; here frames come in, are read as packets, and
//! become batches for the hub. While nothing comes it holds no buffer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::limits::SOCKETIO_BODY_BYTES_MAX;
use crate::protocol::engineio::connection::{Input, RequestId};
use crate::protocol::engineio::packet::Packet;
use crate::protocol::refusal::Refusal;
use crate::protocol::websocket::{Decoder, Item, Options};
use crate::runtime::turnstile::Ticket;
use crate::server::http::Switched;
use crate::server::inlet::Inlet;
use crate::server::listener::Permit;
use crate::server::scratch;
use crate::server::socketio::session::{Batch, OPENING, Session};

/// Bytes of the buffer for a message that has come in part (Dependencies §5).
const BUFFER_BYTES: usize = 512;
/// Reads of one connection before others have their turn.
const READS_PER_TURN: usize = 16;

/// A session begins on this WebSocket. `refused`: it is not let in.
pub(super) fn open(session: Arc<Session>, switched: Switched, frame_max: usize, refused: Option<Refusal>) {
    let socket = Socket::new(session, switched, frame_max, OPENING);
    let session = &socket.session;
    session.link().attach(Arc::clone(socket.inlet.socket()));
    if let Some(refusal) = refused {
        session.link().refuse(refusal);
        session.handle(Input::Close);
    }
    socket.spawn();
}

/// A WebSocket has come for a session that polls.
pub(super) fn probe(session: Arc<Session>, switched: Switched, frame_max: usize) {
    if let Some(id) = session.probe(switched.inlet.socket()) {
        Socket::new(session, switched, frame_max, id).spawn();
    }
}

struct Socket {
    session: Arc<Session>,
    id: RequestId,
    decoder: Decoder,
    inlet: Inlet,
    /// Something has come, and the turn to read it has not.
    ticket: Option<Ticket>,
    /// When the bytes last read came: monotonic, µs.
    came_at: u64,
    frame_max: usize,
    _permit: Permit,
}

impl Socket {
    fn new(session: Arc<Session>, switched: Switched, frame_max: usize, id: RequestId) -> Socket {
        let Switched { inlet, rest, came_at, permit } = switched;
        let mut decoder = Decoder::new(Options { message_max: SOCKETIO_BODY_BYTES_MAX.max(2 * frame_max), buffer: BUFFER_BYTES });
        if !rest.is_empty() {
            let filled = rest.len();
            decoder.lend(rest, filled);
        }
        Socket { session, id, decoder, inlet, came_at, frame_max, ticket: None, _permit: permit }
    }

    /// Serves it until it ends, by a task of its own. All that is kept while it is idle is in the socket: an `async fn` would keep its
    /// arguments a second time.
    fn spawn(mut self) {
        async_std::task::spawn(async move {
            if self.run().await {
                let doors = Arc::clone(self.session.link().doors());
                doors.spawn(async move {
                    self.run().await;
                });
            }
        });
    }

    /// Until it ends, or true: from now on it is a door's, and is to be run again as such.
    async fn run(&mut self) -> bool {
        loop {
            let (mut batch, is_over) = poll_fn(|context| self.poll_batch(context)).await;
            let is_door = batch.has_door_frame();
            if !self.session.hand_over(&mut batch, self.came_at).await || is_over {
                break;
            }
            if is_door && self.inlet.join_doors(self.session.link().doors()) {
                return true;
            }
        }
        self.session.handle(Input::WebsocketGone(self.id));
        false
    }

    /// Reads until a batch of frames is there, or no more can come.
    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<(Batch, bool)> {
        if !self.inlet.is_door() {
            self.session.link().doors().run_ready();
        }
        let mut batch = Batch::default();
        for _ in 0..READS_PER_TURN {
            if self.session.holds(self.id, context) {
                return Poll::Pending;
            }
            let goes_on = if self.decoder.has_input() { self.decode(&mut batch) } else { ready!(self.poll_read(context, &mut batch)) };
            if !goes_on || batch.is_something() {
                return Poll::Ready((batch, !goes_on));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads what has come, and decodes it while it is in the scratch. False: nothing more can come.
    fn poll_read(&mut self, context: &mut Context<'_>, batch: &mut Batch) -> Poll<bool> {
        scratch::lend(|scratch| {
            let (link, ticket) = (self.session.link(), &mut self.ticket);
            let may_read = |waker: &_| link.may_read(ticket, waker);
            let read = match ready!(self.inlet.poll_read_in_turn(may_read, context, scratch)) {
                Ok((_, 0)) | Err(_) => return Poll::Ready(false),
                Ok((came_at, read)) => {
                    self.came_at = came_at;
                    read
                }
            };
            self.decoder.lend(std::mem::take(scratch), read);
            let goes_on = self.decode(batch);
            *scratch = self.decoder.take_back();
            Poll::Ready(goes_on)
        })
    }

    /// Decodes what is there until the batch is full. False: nothing more is to be read.
    fn decode(&mut self, batch: &mut Batch) -> bool {
        let mut reading = self.session.reading(self.id, self.frame_max);
        batch.expect(self.decoder.input_bytes());
        let goes_on = loop {
            if batch.is_full() || reading.is_held() {
                break true;
            }
            let goes_on = match self.decoder.next_item() {
                Ok(Some(Item::Text(text))) => reading.packet(Packet::from_text(&*text), batch),
                Ok(Some(Item::Binary(bytes))) => reading.packet(Packet::from_binary(&bytes), batch),
                Ok(Some(Item::Pong)) => true,
                Ok(Some(Item::Close(_))) => false,
                Ok(None) => break true,
                Err(_) => {
                    reading.malformed();
                    false
                }
            };
            if !goes_on {
                break false;
            }
        };
        let control = self.decoder.take_control();
        // The answer to a close is the outbox's last word.
        if goes_on && !control.is_empty() {
            reading.control(control);
        }
        goes_on
    }
}
