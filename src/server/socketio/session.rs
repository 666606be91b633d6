//! One Socket.IO session: the machine that decides, the link to the hub whose outbox holds the packets, and those who wait on either.
//!
//! Nothing here waits but a poll for its answer and a POST for its turn. Whatever happens is told to the machine under the lock;
//! what it decides is carried out there too, since none of it waits: an answer is laid down for the request that fetches it.

use std::future::poll_fn;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::{SendFlags, send};

use crate::limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX};
use crate::names::Alias;
use crate::protocol::engineio::Malformed;
use crate::protocol::engineio::connection::{Connection, Filled, Input, Output, PollAnswer, PostAnswer, RequestId, fill};
use crate::protocol::engineio::packet::{self, Data, Kind, Packet};
use crate::protocol::engineio::payload::{self, Body, Encoding, Format};
use crate::protocol::engineio::request::{self, BadRequest, Query, Sid, Transport};
use crate::protocol::events::Event;
use crate::protocol::frame::{Request, has_door_frame};
use crate::protocol::refusal::Refusal;
use crate::protocol::{socketio, websocket};
use crate::runtime::clock;
use crate::runtime::handle::SocketIoLink;
use crate::runtime::outbox::Offered;
use crate::runtime::socket::Socket;
use crate::server::socketio::table::Sessions;

/// The answer that carries packets and nothing else.
const NOTHING_MORE: PollAnswer = PollAnswer::Queue { pong: false, close: false };
const NO_PACKETS: [&[u8]; 0] = [];
/// The request that opened a session.
pub(super) const OPENING: RequestId = RequestId(0);
/// Pings are passed on to the hub at most this often: it wants to know who was heard from longest ago, not each ping.
const HEARD_TOLD_EVERY_US: u64 = 5_000_000;
/// Bytes of a short message in a WebSocket frame.
const USUAL_BYTES: usize = 32;
/// Bytes of an event around its argument: a frame at its limit must fit with the name of its event.
const EVENT_BYTES_MAX: usize = 64;

/// One session.
pub(super) struct Session {
    sid: Sid,
    /// It takes no binary framing.
    base64: bool,
    link: SocketIoLink,
    requests: AtomicU64,
    state: Mutex<State>,
    table: Weak<Sessions>,
}

struct State {
    machine: Connection,
    messages: socketio::Decoder,
    /// The client has left: what it says no longer counts.
    has_left: bool,
    /// Answers laid down for those who wait: at most two polls and a POST at a time.
    polls: Vec<(RequestId, PollAnswer)>,
    posts: Vec<(RequestId, PostAnswer)>,
    /// A WebSocket that is not the session's yet.
    probing: Option<(RequestId, Socket)>,
    /// Who waits for the rest of a POST to be read, and the POST that waits for an upgrade to begin: three at most.
    waiting: Vec<Waker>,
    /// When the hub was last told of a ping: monotonic, µs.
    heard_told: u64,
}

impl State {
    fn holds(&self, id: RequestId) -> bool {
        self.machine.has_rest() && self.machine.websocket() == Some(id)
    }

    fn wait(&mut self, context: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            self.waiting.push(context.waker().clone());
        }
    }

    /// Those who wait look again whether they still must.
    fn wake_waiting(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

/// Frames that came together.
#[derive(Default)]
pub(super) struct Batch {
    frames: Vec<Request>,
    /// As many frames are likely.
    expected: usize,
    bytes: usize,
    /// Behind them the client has left; its transport is for itself to close.
    leaves: bool,
}

impl Batch {
    /// Messages of so many bytes follow: room for their frames is made at once, and no more than they are likely to need.
    pub(super) fn expect(&mut self, bytes: usize) {
        self.expected = (bytes / USUAL_BYTES).clamp(1, BATCH_FRAMES_MAX);
    }

    /// Adds a frame whose message has that many bytes.
    fn push(&mut self, frame: Request, bytes: usize) {
        if self.frames.is_empty() {
            self.frames.reserve_exact(self.expected);
        }
        self.frames.push(frame);
        self.bytes += bytes;
    }

    /// Whether it is to be handed over before more is read.
    pub(super) fn is_full(&self) -> bool {
        self.frames.len() >= BATCH_FRAMES_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// Whether there is a door frame among it.
    pub(super) fn has_door_frame(&self) -> bool {
        has_door_frame(&self.frames)
    }

    /// Whether there is something to hand over.
    pub(super) fn is_something(&self) -> bool {
        !self.frames.is_empty() || self.leaves
    }
}

/// What a poll is answered with.
pub(super) struct Polled {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    /// To be told when the answer is written; dropped untold, the poll broke off.
    pub guard: Option<PollGuard>,
    /// The time in which it must be written.
    pub within: Option<Duration>,
}

impl Session {
    /// A session whose handshake is being answered.
    pub(super) fn new(sid: Sid, link: SocketIoLink, base64: bool, transport: Transport, table: Weak<Sessions>) -> Session {
        let now = clock::mono_us();
        let machine = match transport {
            Transport::Polling => Connection::on_polling(now),
            Transport::Websocket => Connection::on_websocket(OPENING, now),
        };
        let state = State {
            machine,
            messages: socketio::Decoder::new(),
            has_left: false,
            polls: Vec::new(),
            posts: Vec::new(),
            probing: None,
            waiting: Vec::new(),
            heard_told: now,
        };
        Session { sid, base64, link, requests: AtomicU64::new(OPENING.0 + 1), state: Mutex::new(state), table }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a request.
    pub(super) fn number(&self) -> RequestId {
        RequestId(self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// The transport that requests must name.
    pub(super) fn transport(&self) -> Transport {
        self.state().machine.transport()
    }

    /// Lets the client in.
    pub(super) fn enter(&self, alias: Option<&Alias>, extended: bool) -> Result<(), Refusal> {
        self.link.enter(alias, extended)
    }

    /// Its link to the hub.
    pub(super) fn link(&self) -> &SocketIoLink {
        &self.link
    }

    /// The body that opens a session on polling: the open packet, and the one that lets the client in or says why not. Nothing else,
    /// since some clients drop what follows.
    pub(super) fn open_by_poll(&self, entered: Result<(), Refusal>, query: &Query) -> (Vec<u8>, Encoding) {
        let encoding = self.encoding(query);
        let mut answer = payload::Answer::new(encoding);
        let mut open = Vec::new();
        request::open(&self.sid, Transport::Polling, &mut open);
        answer.push(&open);
        if let Err(refusal) = entered {
            self.link.refuse(refusal);
        }
        let ((), offered) =
            self.link.outbox().offer_packets(|packets| ((), packets.next().map_or(0, |first| usize::from(answer.push(first)))));
        self.link.outbox().remove(&offered);
        if entered.is_err() {
            self.handle(Input::Close);
        }
        (answer.into_body(), encoding)
    }

    /// The packet that opens a session on a WebSocket, ahead of all others.
    pub(super) fn open_packet(&self) -> Vec<u8> {
        let mut open = Vec::new();
        request::open(&self.sid, Transport::Websocket, &mut open);
        open
    }

    /// How polls are answered.
    fn encoding(&self, query: &Query) -> Encoding {
        match query.jsonp {
            Some(index) => Encoding::Jsonp(index),
            None if self.base64 || query.base64 => Encoding::Text,
            None => Encoding::Binary,
        }
    }

    /// Tells the machine that something has happened.
    pub(super) fn handle(&self, input: Input<'_>) {
        let mut state = self.state();
        self.act(&mut state, input, clock::mono_us());
    }

    /// Tells it at `now`, monotonic µs, and carries out what it decides. True: the packet is a message for the layer above.
    fn act(&self, state: &mut State, input: Input<'_>, now: u64) -> bool {
        let mut outputs = Vec::new();
        let mut delivers = false;
        state.machine.handle(input, now, &mut outputs);
        if let Input::WebsocketGone(id) = input {
            // Lost before it was the session's: another may come.
            state.probing.take_if(|(probing, _)| *probing == id);
        }
        for output in outputs {
            match output {
                Output::AnswerPoll(id, answer) => {
                    state.polls.push((id, answer));
                    self.link.outbox().wake();
                }
                Output::AnswerPost(id, answer) => state.posts.push((id, answer)),
                // It finds its session ended when its body is there.
                Output::CutPost(_) => {}
                Output::Deliver => delivers = true,
                Output::SendWebsocket(id, packet) => {
                    self.send(state, id, packet);
                    state.wake_waiting();
                }
                Output::CloseWebsocket(id) => self.close_websocket(state, id),
                Output::Upgraded(id) => {
                    if let Some((_, stream)) = state.probing.take_if(|(probing, _)| *probing == id) {
                        self.link.attach(stream);
                    }
                }
                Output::Ended(end) => {
                    log::debug!("socketio_ended reason=\"{}\"", end.reason());
                    self.link.leave();
                    self.link.outbox().wake();
                    state.wake_waiting();
                    if let Some(table) = self.table.upgrade() {
                        table.remove(&self.sid);
                    }
                }
            }
        }
        delivers
    }

    fn send(&self, state: &State, id: RequestId, packet: &[u8]) {
        match &state.probing {
            Some((probing, stream)) if *probing == id => {
                let mut frame = Vec::new();
                websocket::frame(websocket::Opcode::Text, &mut frame, |out| out.extend_from_slice(packet));
                // The first bytes on this socket after its handshake: the kernel takes them, or the socket is gone.
                let _ = send(stream, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
            _ => self.link.add(packet),
        }
    }

    fn close_websocket(&self, state: &mut State, id: RequestId) {
        match state.probing.take_if(|(probing, _)| *probing == id) {
            Some((_, stream)) => close_politely(&stream),
            None if state.machine.websocket() == Some(id) || state.machine.has_ended() => self.link.leave(),
            None => {}
        }
    }

    /// What waits too long, and what the hub has ended meanwhile.
    pub(super) fn look_at_deadlines(&self) {
        let mut state = self.state();
        let now = clock::mono_us();
        if self.link.is_closing() && !state.machine.has_ended() {
            self.act(&mut state, Input::Close, now);
        }
        if state.machine.deadline().is_some_and(|deadline| deadline <= now) {
            self.act(&mut state, Input::Tick, now);
        }
    }

    /// Begins to read packets that came together by a POST or a WebSocket. `frame_max`: `limits.frame`.
    pub(super) fn reading(&self, id: RequestId, frame_max: usize) -> Reading<'_> {
        Reading { session: self, state: self.state(), id, now: clock::mono_us(), frame_max }
    }

    /// Whether a POST that came earlier is still being read; `context` is woken when that may have changed.
    fn has_rest(&self, context: &Context<'_>) -> bool {
        let mut state = self.state();
        let has_rest = state.machine.has_rest();
        if has_rest {
            state.wait(context);
        }
        has_rest
    }

    /// Whether what comes by this WebSocket is to wait until an earlier POST is read; `context` is woken when that may have changed.
    pub(super) fn holds(&self, id: RequestId, context: &Context<'_>) -> bool {
        let mut state = self.state();
        let holds = state.holds(id);
        if holds {
            state.wait(context);
        }
        holds
    }

    /// Answers a POST whose packets must wait, if that must be; `context` is woken when that may have changed.
    fn puts_off(&self, id: RequestId, context: &Context<'_>) -> bool {
        let mut state = self.state();
        let puts_off = state.machine.may_put_off();
        if puts_off {
            self.act(&mut state, Input::PostPutOff(id), clock::mono_us());
        } else {
            state.wait(context);
        }
        puts_off
    }

    /// Hands a batch to the hub when it is its turn. `at`: when it came, monotonic, µs. False: the session is over.
    pub(super) async fn hand_over(&self, batch: &mut Batch, at: u64) -> bool {
        let Batch { frames, leaves, .. } = std::mem::take(batch);
        if !frames.is_empty() {
            self.link.ready().await;
            if self.link.is_closing() {
                return false;
            }
            self.link.submit(frames, at);
        }
        if leaves {
            self.link.part();
        }
        true
    }

    /// Waits for the answer to a poll.
    pub(super) async fn poll(self: Arc<Self>, query: &Query) -> Polled {
        let encoding = self.encoding(query);
        let guard = PollGuard::arrived(Arc::clone(&self));
        let answer = poll_fn(|context| {
            self.link.outbox().register(context.waker());
            match self.look_at_poll(guard.id) {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            }
        })
        .await;
        self.answer_poll(answer, encoding, guard)
    }

    /// The answer to a poll, if there is one now.
    fn look_at_poll(&self, id: RequestId) -> Option<PollAnswer> {
        let mut state = self.state();
        if self.link.is_closing() && !state.machine.has_ended() {
            self.act(&mut state, Input::Close, clock::mono_us());
        } else if self.link.outbox().has_units() {
            self.act(&mut state, Input::Queued, clock::mono_us());
        }
        let at = state.polls.iter().position(|(waiting, _)| *waiting == id)?;
        Some(state.polls.swap_remove(at).1)
    }

    fn answer_poll(&self, answer: PollAnswer, encoding: Encoding, mut guard: PollGuard) -> Polled {
        let content_type = encoding.content_type();
        let outbox = self.link.outbox();
        let (filled, offered) = outbox.offer_packets(|packets| {
            let filled = fill(answer, encoding, packets).map(|filled| match filled {
                // What waited has grown too old just now: a body without a packet is none.
                Filled { taken: 0, closed: false, .. } if answer == NOTHING_MORE => {
                    fill(PollAnswer::Noop, encoding, NO_PACKETS).unwrap_or(filled)
                }
                filled => filled,
            });
            let taken = filled.as_ref().map_or(0, |filled| filled.taken);
            (filled, taken)
        });
        let Some(filled) = filled else {
            guard.forget();
            let (status, body) = match answer {
                PollAnswer::Refuse(why) => (why.status(), why.json()),
                _ => (BadRequest::Method.status(), ""),
            };
            return Polled { status, content_type: "application/json", body: body.into(), guard: None, within: None };
        };
        let within = offered.stale_at.map(|stale_at| Duration::from_micros(stale_at.saturating_sub(clock::mono_us())));
        guard.answers(offered, filled.closed);
        Polled { status: 200, content_type, body: filled.body, guard: Some(guard), within }
    }

    /// A WebSocket is open that would carry the session. `None`: it may not, and is closed.
    pub(super) fn probe(&self, stream: &Socket) -> Option<RequestId> {
        let id = self.number();
        let mut state = self.state();
        if state.probing.is_some() || state.machine.transport() == Transport::Websocket || state.machine.has_ended() {
            self.act(&mut state, Input::WebsocketArrived(id), clock::mono_us());
            close_politely(stream);
            return None;
        }
        state.probing = Some((id, stream.clone()));
        self.act(&mut state, Input::WebsocketArrived(id), clock::mono_us());
        state.probing.is_some().then_some(id)
    }
}

/// A session that packets are read for: under one lock and at one time, however many they are.
pub(super) struct Reading<'a> {
    session: &'a Session,
    state: MutexGuard<'a, State>,
    /// What they came by.
    id: RequestId,
    /// Monotonic, µs.
    now: u64,
    frame_max: usize,
}

impl Reading<'_> {
    /// Whether what comes by this WebSocket is to wait until an earlier POST is read.
    pub(super) fn is_held(&self) -> bool {
        self.state.holds(self.id)
    }

    /// Reads a packet. False: nothing more is to be read there.
    pub(super) fn packet(&mut self, packet: Result<Packet<'_>, Malformed>, batch: &mut Batch) -> bool {
        let Ok(packet) = packet else { return self.malformed() };
        let is_message = packet.kind == Kind::Message && self.state.machine.takes_message(self.id, self.now);
        if !is_message {
            self.note_ping(&packet);
        }
        if (is_message || self.act(Input::Packet(self.id, &packet))) && !self.message(&packet.data, batch) {
            return self.malformed();
        }
        !self.state.machine.has_ended()
    }

    /// Reads packets until the batch is full. False: there are no more, or nothing more is to be read.
    fn packets<'p>(&mut self, packets: &mut impl Iterator<Item = Result<Packet<'p>, Malformed>>, batch: &mut Batch) -> bool {
        while !batch.is_full() {
            if !packets.next().is_some_and(|packet| self.packet(packet, batch)) {
                return false;
            }
        }
        true
    }

    /// What came can't be read. False: nothing more is to be read there.
    pub(super) fn malformed(&mut self) -> bool {
        self.act(Input::Malformed(self.id));
        !self.state.machine.has_ended()
    }

    /// Answers pings and a close on a WebSocket.
    pub(super) fn control(&self, frames: Vec<u8>) {
        if self.state.machine.websocket() == Some(self.id) {
            self.session.link.outbox().add_control(frames);
        }
    }

    fn act(&mut self, input: Input<'_>) -> bool {
        self.session.act(&mut self.state, input, self.now)
    }

    fn note_ping(&mut self, packet: &Packet<'_>) {
        if packet.kind == Kind::Ping && self.now >= self.state.heard_told + HEARD_TOLD_EVERY_US {
            self.state.heard_told = self.now;
            self.session.link.heard();
        }
    }

    /// Reads a message as a Socket.IO packet. False: it is none.
    fn message(&mut self, data: &Data<'_>, batch: &mut Batch) -> bool {
        let messages = &mut self.state.messages;
        let text = match data {
            Data::Text(text) => text,
            Data::Binary(_) => return messages.binary().is_ok(),
        };
        // A usual message is smaller than any limit for frames.
        if messages.may_begin()
            && text.len() <= self.frame_max
            && let Some(request) = Event::usual(text)
        {
            if !self.state.has_left {
                batch.push(request, text.len());
            }
            return true;
        }
        match messages.text(text) {
            Ok(_) if self.state.has_left => {}
            Ok(socketio::Packet::Event(event)) => {
                if let Some(known) = Event::named(&event.name) {
                    let is_too_large = event.argument.is_some_and(|argument| argument.len() > self.frame_max + EVENT_BYTES_MAX);
                    let request = match is_too_large {
                        true => known.too_large(event.ack),
                        false => known.read(event.argument, event.has_attachments, event.ack),
                    };
                    batch.push(request, text.len());
                }
            }
            Ok(socketio::Packet::Join(namespace)) => {
                let mut packet = vec![Kind::Message.digit()];
                socketio::invalid_namespace(namespace, &mut packet);
                self.session.link.add(&packet);
            }
            Ok(socketio::Packet::Disconnect) => {
                self.state.has_left = true;
                batch.leaves = true;
            }
            Ok(socketio::Packet::Ignored) => {}
            Err(why) => {
                log::debug!("socketio_malformed reason=\"{}\"", why.0);
                return false;
            }
        }
        true
    }
}

/// Tells a WebSocket that it is over; its other end does not look at the code.
fn close_politely(stream: &Socket) {
    let mut frame = Vec::new();
    websocket::close_frame(1000, &mut frame);
    // Whether it hears of it or not, it is over.
    let _ = send(stream, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let _ = stream.get_ref().shutdown(Shutdown::Both);
}

/// A poll from its arrival until its answer is written. Dropped before that, the poll broke off.
pub(super) struct PollGuard {
    session: Arc<Session>,
    id: RequestId,
    answer: Option<(Offered, bool)>,
    over: bool,
}

impl PollGuard {
    fn arrived(session: Arc<Session>) -> PollGuard {
        let id = session.number();
        session.handle(Input::PollArrived(id));
        PollGuard { session, id, answer: None, over: false }
    }

    /// The handshake, which is no poll to the machine: if it breaks off, so does the session.
    pub(super) fn opening(session: Arc<Session>) -> PollGuard {
        PollGuard { session, id: OPENING, answer: None, over: false }
    }

    fn answers(&mut self, offered: Offered, closed: bool) {
        self.answer = Some((offered, closed));
    }

    /// It was refused: the machine knows nothing of it.
    fn forget(&mut self) {
        self.over = true;
    }

    /// The answer is written.
    pub(super) fn done(mut self) {
        self.over = true;
        let Some((offered, closed)) = self.answer.take() else { return };
        let outbox = self.session.link.outbox();
        outbox.remove(&offered);
        let left = outbox.has_units();
        self.session.handle(Input::PollAnswered { id: self.id, left, closed });
    }
}

impl Drop for PollGuard {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if self.id == OPENING {
            self.session.handle(Input::Malformed(OPENING));
            self.session.end();
        } else {
            self.session.handle(Input::PollGone(self.id));
        }
    }
}

impl Session {
    /// Nobody knows its name: it ends at once.
    fn end(&self) {
        self.link.leave();
        if let Some(table) = self.table.upgrade() {
            table.remove(&self.sid);
        }
    }
}

/// A POST from its head until it is answered.
pub(super) struct PostGuard {
    session: Arc<Session>,
    id: RequestId,
    over: bool,
}

impl PostGuard {
    /// Its head has come.
    pub(super) fn arrived(session: Arc<Session>) -> PostGuard {
        let id = session.number();
        session.handle(Input::PostArrived(id));
        PostGuard { session, id, over: false }
    }

    /// Reads its body, which came at that time: monotonic, µs. Where the hub takes no more just now it is put off: answered at once and
    /// read on by a task of its own, if its client would else wait for the answer and this side for its polls.
    ///
    /// # Errors
    /// What it is answered instead of `ok`.
    pub(super) async fn post(mut self, body: Vec<u8>, format: Format, came_at: u64, frame_max: usize) -> Result<(), BadRequest> {
        self.over = true;
        let (session, id) = (Arc::clone(&self.session), self.id);
        let mut reading = Box::pin(read_body(Arc::clone(&session), id, body, format, came_at, frame_max));
        let is_read = poll_fn(|context| {
            let is_read = reading.as_mut().poll(context).is_ready();
            if is_read || session.puts_off(id, context) { Poll::Ready(is_read) } else { Poll::Pending }
        })
        .await;
        if !is_read {
            async_std::task::spawn(reading);
        }
        let mut state = session.state();
        let at = state.posts.iter().position(|(waiting, _)| *waiting == id);
        match at.map(|at| state.posts.swap_remove(at).1) {
            Some(PostAnswer::Ok) => Ok(()),
            Some(PostAnswer::Refuse(why)) => Err(why),
            Some(PostAnswer::Failed) | None => Err(BadRequest::Method),
        }
    }
}

/// Reads the packets of a POST's body and hands them over, behind those of an earlier one.
async fn read_body(session: Arc<Session>, id: RequestId, body: Vec<u8>, format: Format, came_at: u64, frame_max: usize) {
    poll_fn(|context| if session.has_rest(context) { Poll::Pending } else { Poll::Ready(()) }).await;
    let Ok(body) = Body::new(format, &body) else { return session.handle(Input::Malformed(id)) };
    let mut packets = body.packets();
    loop {
        let mut batch = Batch::default();
        let goes_on = session.reading(id, frame_max).packets(&mut packets, &mut batch);
        if !session.hand_over(&mut batch, came_at).await || !goes_on {
            break;
        }
    }
    session.handle(Input::PostRead(id));
    session.state().wake_waiting();
}

impl Drop for PostGuard {
    fn drop(&mut self) {
        if !self.over {
            self.session.handle(Input::PostGone(self.id));
        }
    }
}

/// The packet that answers a probe is the only one a WebSocket carries before it is the session's.
const _: () = assert!(packet::PROBE_PONG.len() < 126);
