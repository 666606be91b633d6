//! The life of one Engine.IO session (Protocol §8): polls, POSTs, upgrade, pings, timeouts, close. It decides; it holds no packet.
//!
//! # How to drive it
//!
//! One task (or a lock) owns the machine and the session's queue of packets to send, which may be bounded as any outbox is. Whatever
//! happens is an [`Input`], with the time on a monotonic clock in µs; each [`Connection::handle`] appends what is to be done, as
//! [`Output`]s to be carried out in order. [`Connection::deadline`] is when the next [`Input::Tick`] is due. GETs, POSTs and
//! WebSockets are told apart by a [`RequestId`] that the caller gives out and never gives twice in a session.
//!
//! - **A poll**: [`Input::PollArrived`], then sooner or later [`Output::AnswerPoll`] with what to answer. [`fill`] makes the body from the
//!   queue, without taking from it. Once the answer is wholly written, take the packets that were in it from the queue and say
//!   [`Input::PollAnswered`]; if the connection broke, while the poll waited or while it was answered, say [`Input::PollGone`] and take
//!   nothing. So what is not in a finished answer stays queued. While one answer is being written the client's next poll may already
//!   come: it has the answer before this side knows.
//! - **A POST**: [`Input::PostArrived`] with its head; then, when its body is there, [`Input::Packet`] for each packet, or
//!   [`Input::Malformed`] and no more; then [`Input::PostRead`]. If it breaks or is refused before that: [`Input::PostGone`]. Once
//!   [`Output::AnswerPost`] or [`Output::CutPost`] names it, nothing more is to be said of it. Where its packets can't be acted on yet and
//!   [`Connection::may_put_off`] holds, [`Input::PostPutOff`] answers it; the rest of its packets and [`Input::PostRead`] follow, and until
//!   then [`Connection::has_rest`]: nothing that came later is to be given.
//! - **A WebSocket** that asks for a session which exists: [`Input::WebsocketArrived`] once it is open, [`Input::Packet`] for each
//!   frame, [`Input::WebsocketGone`] when it is closed or lost. A session that begins on a WebSocket begins with that id.
//! - **The queue**: [`Input::Queued`] when a packet was added, while the session is on polling. After [`Output::Upgraded`] the caller writes
//!   the queue to the WebSocket by itself, first what is in it, and takes a packet from it once it is written.
//! - **The layer above**: [`Output::Deliver`] hands up the message just given. If it is none there, say [`Input::Malformed`] with the
//!   id it came by. [`Input::Close`] ends the session kindly: what is queued goes out first.
//! - **The end**: [`Output::Ended`] is the last output that is about the session; requests for it that still come are refused.
//!
//! # The phases
//!
//! ```text
//! Polling ⇄ Probing → Probed → (Switching →) Websocket        a broken, foreign or slow probe leads back to Polling
//! Polling, Probing, Probed → Closing                          the server closes: the next poll, or 30 s, ends it
//! any → Ended
//! ```
//!
//! Until `5` comes the session lives on polling: nothing but `3probe` goes by the WebSocket, POSTs count, and polls are answered at once,
//! with what is queued or with noop. If `5` comes before this side knows that the last answer is written, the switch waits for
//! that (`Switching`): else what was in it would be sent twice.

use super::packet::{self, Kind, Packet};
use super::payload::{Answer, Encoding};
use super::request::{BadRequest, Transport};
use crate::limits::{ENGINE_CLOSE_WAIT, ENGINE_PING_INTERVAL, ENGINE_PING_TIMEOUT, ENGINE_UPGRADE_WAIT};

/// One request of a session, as its caller numbers it: a GET, a POST, or a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

/// What has happened.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A GET waits.
    PollArrived(RequestId),
    /// An answer is wholly written, and what was in it is off the queue.
    PollAnswered {
        /// The poll.
        id: RequestId,
        /// Whether packets are queued now.
        left: bool,
        /// Whether it ended with the close packet.
        closed: bool,
    },
    /// A GET's connection broke before its answer was wholly written.
    PollGone(RequestId),
    /// A POST begins.
    PostArrived(RequestId),
    /// All of a POST's packets were given.
    PostRead(RequestId),
    /// A POST is to be answered, though not all of its packets were given.
    PostPutOff(RequestId),
    /// A POST's connection broke before its body was read, or its body was refused for its size.
    PostGone(RequestId),
    /// A WebSocket is open for this session.
    WebsocketArrived(RequestId),
    /// A WebSocket is closed or lost.
    WebsocketGone(RequestId),
    /// A packet, by that POST or WebSocket.
    Packet(RequestId, &'a Packet<'a>),
    /// What came by that POST or WebSocket can't be read.
    Malformed(RequestId),
    /// A packet was queued.
    Queued,
    /// The server ends the session.
    Close,
    /// A deadline may have come.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Answer this poll.
    AnswerPoll(RequestId, PollAnswer),
    /// Answer this POST.
    AnswerPost(RequestId, PostAnswer),
    /// Close the connection of this POST without an answer.
    CutPost(RequestId),
    /// Hand the message that was just given to the layer above.
    Deliver,
    /// Write this packet to the WebSocket, before reading on: so pings without end can't pile up pongs.
    SendWebsocket(RequestId, &'static [u8]),
    /// Close the WebSocket. If the session has ended because the server closed it, what is queued goes first.
    CloseWebsocket(RequestId),
    /// From now on the queue goes by this WebSocket.
    Upgraded(RequestId),
    /// The session is over.
    Ended(End),
}

/// How to answer a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollAnswer {
    /// 200: what [`fill`] makes of the queue.
    Queue {
        /// A pong goes first.
        pong: bool,
        /// The close packet goes last, if all that is queued fits before it.
        close: bool,
    },
    /// 200, with noop alone.
    Noop,
    /// 200, with the close packet alone.
    Close,
    /// The status and body of that refusal.
    Refuse(BadRequest),
    /// 500, empty.
    Failed,
}

/// How to answer a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostAnswer {
    /// 200, `text/html`, `ok`.
    Ok,
    /// The status and body of that refusal.
    Refuse(BadRequest),
    /// 500, empty.
    Failed,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client said so.
    ClientClosed,
    /// The server said so.
    ServerClosed,
    /// No packet came for too long.
    PingTimeout,
    /// A waiting GET's connection broke.
    PollBroken,
    /// A second GET came while one waited.
    PollTwice,
    /// A POST broke before it was read.
    PostBroken,
    /// A second POST came while one was being read.
    PostTwice,
    /// The WebSocket was lost.
    WebsocketGone,
    /// Something that came could not be read.
    Malformed,
}

impl End {
    /// The reason, for the log.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            End::ClientClosed => "the client closed it",
            End::ServerClosed => "the server closed it",
            End::PingTimeout => "no packet came for 85 s",
            End::PollBroken => "a waiting poll's connection broke",
            End::PollTwice => "two polls at once",
            End::PostBroken => "a POST broke off",
            End::PostTwice => "two POSTs at once",
            End::WebsocketGone => "the WebSocket is gone",
            End::Malformed => "what came is not Engine.IO or Socket.IO",
        }
    }
}

/// The body of an answer, and what of the queue is in it.
#[derive(Debug)]
pub struct Filled {
    /// The body.
    pub body: Vec<u8>,
    /// How many packets from the front of the queue are in it.
    pub taken: usize,
    /// Whether the close packet ends it.
    pub closed: bool,
}

/// The body that `answer` asks for, with as much of `queue` as one answer holds; `None` where no 200 is asked for. It is never empty,
/// also if the queue is: a client takes an empty body for an error.
pub fn fill<T: AsRef<[u8]>>(answer: PollAnswer, encoding: Encoding, queue: impl IntoIterator<Item = T>) -> Option<Filled> {
    let mut body = Answer::new(encoding);
    let (mut taken, mut closed) = (0, false);
    match answer {
        PollAnswer::Queue { pong, close } => {
            if pong {
                body.push(packet::PONG);
            }
            let mut fits = true;
            for packet in queue {
                fits = body.push(packet.as_ref());
                if !fits {
                    break;
                }
                taken += 1;
            }
            closed = close && fits && body.push(packet::CLOSE);
        }
        PollAnswer::Close => closed = body.push(packet::CLOSE),
        PollAnswer::Noop => {}
        PollAnswer::Refuse(_) | PollAnswer::Failed => return None,
    }
    if body.packets() == 0 {
        body.push(packet::NOOP);
    }
    Some(Filled { body: body.into_body(), taken, closed })
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It lives on polling.
    Polling,
    /// So it does, and a WebSocket has come of which nothing is known yet.
    Probing { ws: RequestId, until: u64 },
    /// So it does, and the WebSocket has been told that it works.
    Probed { ws: RequestId, until: u64 },
    /// It has moved, but an answer to a poll is still being written. `closing`: it ends once that is done.
    Switching { ws: RequestId, closing: bool },
    /// It lives on the WebSocket.
    Websocket { ws: RequestId },
    /// The server has closed it; a poll is to tell its client.
    Closing { until: u64 },
    /// It is over.
    Ended,
}

/// The session's GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poll {
    None,
    Waiting(RequestId),
    /// An answer is being written; the next GET may wait already.
    Answering(RequestId, Option<RequestId>),
}

/// One session's machine.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    poll: Poll,
    /// The POST that is being read.
    post: Option<RequestId>,
    /// The POST that is answered, and not wholly read.
    rest: Option<RequestId>,
    /// Packets may be queued, as far as this side knows.
    queued: bool,
    /// A ping is not answered yet. Many pings are answered by one pong: it says no more than that this side is there.
    owes_pong: bool,
    /// When the last packet came.
    heard_at: u64,
}

impl Connection {
    /// A session that begins on polling. Its handshake is answered already.
    #[must_use]
    pub fn on_polling(now: u64) -> Connection {
        Connection::begun(Phase::Polling, now)
    }

    /// A session that begins on this WebSocket.
    #[must_use]
    pub fn on_websocket(ws: RequestId, now: u64) -> Connection {
        Connection::begun(Phase::Websocket { ws }, now)
    }

    fn begun(phase: Phase, now: u64) -> Connection {
        Connection { phase, poll: Poll::None, post: None, rest: None, queued: false, owes_pong: false, heard_at: now }
    }

    /// Which transport requests must name.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self.phase {
            Phase::Switching { .. } | Phase::Websocket { .. } => Transport::Websocket,
            _ => Transport::Polling,
        }
    }

    /// The WebSocket that the queue goes by, if it goes by one.
    #[must_use]
    pub fn websocket(&self) -> Option<RequestId> {
        match self.phase {
            Phase::Websocket { ws } => Some(ws),
            _ => None,
        }
    }

    /// Whether the session is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let silent = self.heard_at + SILENCE_US;
        match self.phase {
            Phase::Ended => None,
            Phase::Probing { until, .. } | Phase::Probed { until, .. } | Phase::Closing { until } => Some(silent.min(until)),
            Phase::Polling | Phase::Switching { .. } | Phase::Websocket { .. } => Some(silent),
        }
    }

    /// The short way for a message by the WebSocket that the session lives on, which is what comes most. True: it came by that one, and
    /// is to be handed up. False: it is for [`Connection::handle`].
    #[must_use]
    pub fn takes_message(&mut self, id: RequestId, now: u64) -> bool {
        let takes = self.websocket() == Some(id);
        if takes {
            self.heard_at = now;
        }
        takes
    }

    /// Acts on one input at `now`, monotonic µs, and appends what is to be done.
    pub fn handle(&mut self, input: Input<'_>, now: u64, out: &mut Vec<Output>) {
        use Phase::{Closing, Ended, Polling, Probed, Probing, Switching, Websocket};
        match (self.phase, input) {
            (Ended, input) => refuse(input, BadRequest::UnknownSid, out),
            (Switching { .. } | Websocket { .. }, input @ (Input::PollArrived(_) | Input::PostArrived(_))) => {
                refuse(input, BadRequest::Mismatch, out);
            }
            (_, Input::PollArrived(id)) => self.poll_arrived(id, out),
            (_, Input::PollAnswered { id, left, closed }) => self.poll_answered(id, left, closed, out),
            (_, Input::PollGone(id)) => self.poll_gone(id, out),
            (_, Input::PostArrived(id)) => self.post_arrived(id, out),
            (_, Input::PostRead(id)) => self.post_read(id, out),
            (_, Input::PostPutOff(id)) => self.put_off(id, out),
            (_, Input::PostGone(id)) if self.post == Some(id) => {
                self.post = None;
                self.end(End::PostBroken, out);
            }
            (Polling, Input::WebsocketArrived(ws)) => self.phase = Probing { ws, until: now + micros(ENGINE_UPGRADE_WAIT) },
            (_, Input::WebsocketArrived(ws)) => out.push(Output::CloseWebsocket(ws)),
            (Probing { ws, .. } | Probed { ws, .. }, Input::WebsocketGone(id)) if id == ws => self.phase = Polling,
            (Switching { ws, .. } | Websocket { ws }, Input::WebsocketGone(id)) if id == ws => self.end(End::WebsocketGone, out),
            (Probing { ws, .. } | Probed { ws, .. }, Input::Malformed(id)) if id == ws => self.give_up(ws, out),
            (_, Input::Malformed(id)) if self.carries(id) => self.end(End::Malformed, out),
            (Probing { ws, until }, Input::Packet(id, packet)) if id == ws => self.probe(ws, until, packet, now, out),
            (Probed { ws, until }, Input::Packet(id, packet)) if id == ws => match packet.kind {
                Kind::Upgrade => self.switch(ws, now, out),
                _ => self.probe(ws, until, packet, now, out),
            },
            (_, Input::Packet(id, packet)) if self.carries(id) => self.packet(packet, now, out),
            (_, Input::Queued) => self.queued = true,
            (Polling, Input::Close) => self.phase = Closing { until: now + micros(ENGINE_CLOSE_WAIT) },
            (Probing { ws, .. } | Probed { ws, .. }, Input::Close) => {
                self.give_up(ws, out);
                self.phase = Closing { until: now + micros(ENGINE_CLOSE_WAIT) };
            }
            (Switching { ws, .. }, Input::Close) => self.phase = Switching { ws, closing: true },
            (Websocket { .. }, Input::Close) => self.end(End::ServerClosed, out),
            (_, Input::Tick) => self.tick(now, out),
            // About what is over, or closing what is closing.
            (Closing { .. }, Input::Close)
            | (_, Input::PostGone(_) | Input::WebsocketGone(_) | Input::Malformed(_) | Input::Packet(..)) => {}
        }
        self.answer_waiting(out);
    }

    /// Whether a POST may be answered before it is read: its client has been told that the WebSocket works, and polls no more until its
    /// POST is answered. If that POST waited for a poll to make room, neither would ever end.
    #[must_use]
    pub fn may_put_off(&self) -> bool {
        matches!(self.phase, Phase::Probed { .. }) && self.rest.is_none()
    }

    /// Whether a POST that is answered already has packets that were not given yet.
    #[must_use]
    pub fn has_rest(&self) -> bool {
        self.rest.is_some()
    }

    /// Whether packets that come by `id` are the session's.
    fn carries(&self, id: RequestId) -> bool {
        self.post == Some(id)
            || self.rest == Some(id)
            || matches!(self.phase, Phase::Switching { ws, .. } | Phase::Websocket { ws } if ws == id)
    }

    /// Answers the poll that waits, if there is reason to.
    fn answer_waiting(&mut self, out: &mut Vec<Output>) {
        let Poll::Waiting(id) = self.poll else { return };
        let has_packets = self.queued || self.owes_pong;
        let answer = match self.phase {
            Phase::Closing { .. } => PollAnswer::Queue { pong: self.owes_pong, close: true },
            Phase::Polling | Phase::Probing { .. } | Phase::Probed { .. } if has_packets => {
                PollAnswer::Queue { pong: self.owes_pong, close: false }
            }
            Phase::Probed { .. } => PollAnswer::Noop,
            _ => return,
        };
        self.owes_pong = false;
        self.poll = Poll::Answering(id, None);
        out.push(Output::AnswerPoll(id, answer));
    }

    fn poll_arrived(&mut self, id: RequestId, out: &mut Vec<Output>) {
        self.poll = match self.poll {
            Poll::None => Poll::Waiting(id),
            Poll::Answering(first, None) => Poll::Answering(first, Some(id)),
            Poll::Waiting(_) | Poll::Answering(_, Some(_)) => {
                out.push(Output::AnswerPoll(id, PollAnswer::Failed));
                return self.end(End::PollTwice, out);
            }
        };
    }

    fn poll_answered(&mut self, id: RequestId, left: bool, closed: bool, out: &mut Vec<Output>) {
        let Poll::Answering(answered, next) = self.poll else { return };
        if answered != id {
            return;
        }
        self.queued = left;
        self.poll = next.map_or(Poll::None, Poll::Waiting);
        match self.phase {
            Phase::Switching { ws, closing } => self.move_to(ws, closing, out),
            Phase::Closing { .. } if closed => self.end(End::ServerClosed, out),
            _ => {}
        }
    }

    fn poll_gone(&mut self, id: RequestId, out: &mut Vec<Output>) {
        let is_known = match self.poll {
            Poll::None => false,
            Poll::Waiting(waiting) => waiting == id,
            Poll::Answering(answering, next) => answering == id || next == Some(id),
        };
        if !is_known {
            return;
        }
        if let Poll::Answering(answering, next) = self.poll {
            // Nobody waits for an answer where it can't arrive.
            self.poll = if answering == id { next.map_or(Poll::None, Poll::Waiting) } else { Poll::Answering(answering, None) };
        } else {
            self.poll = Poll::None;
        }
        match self.phase {
            // What was in the answer is still queued.
            Phase::Switching { ws, closing } => self.move_to(ws, closing, out),
            _ => self.end(End::PollBroken, out),
        }
    }

    fn post_arrived(&mut self, id: RequestId, out: &mut Vec<Output>) {
        match self.post {
            None => self.post = Some(id),
            Some(first) => {
                self.post = None;
                out.push(Output::CutPost(first));
                out.push(Output::AnswerPost(id, PostAnswer::Failed));
                self.end(End::PostTwice, out);
            }
        }
    }

    fn post_read(&mut self, id: RequestId, out: &mut Vec<Output>) {
        if self.post == Some(id) {
            self.post = None;
            out.push(Output::AnswerPost(id, PostAnswer::Ok));
        } else if self.rest == Some(id) {
            self.rest = None;
        }
    }

    fn put_off(&mut self, id: RequestId, out: &mut Vec<Output>) {
        if self.post == Some(id) && self.may_put_off() {
            self.post = None;
            self.rest = Some(id);
            out.push(Output::AnswerPost(id, PostAnswer::Ok));
        }
    }

    /// A packet of a WebSocket that has not taken over: the probe, or it is not what it should be.
    fn probe(&mut self, ws: RequestId, until: u64, packet: &Packet<'_>, now: u64, out: &mut Vec<Output>) {
        if packet.is_probe() {
            self.heard_at = now;
            self.phase = Phase::Probed { ws, until };
            out.push(Output::SendWebsocket(ws, packet::PROBE_PONG));
        } else {
            self.give_up(ws, out);
        }
    }

    /// The upgrade fails: the session goes on polling and may try again.
    fn give_up(&mut self, ws: RequestId, out: &mut Vec<Output>) {
        self.phase = Phase::Polling;
        out.push(Output::CloseWebsocket(ws));
    }

    /// The client has said that it uses the WebSocket now. It may have read an answer whose end this side has not heard of yet.
    fn switch(&mut self, ws: RequestId, now: u64, out: &mut Vec<Output>) {
        self.heard_at = now;
        if let Poll::Answering(answering, next) = self.poll {
            if let Some(next) = next {
                out.push(Output::AnswerPoll(next, PollAnswer::Noop));
            }
            self.poll = Poll::Answering(answering, None);
            self.phase = Phase::Switching { ws, closing: false };
        } else {
            self.move_to(ws, false, out);
        }
    }

    fn move_to(&mut self, ws: RequestId, closing: bool, out: &mut Vec<Output>) {
        self.phase = Phase::Websocket { ws };
        out.push(Output::Upgraded(ws));
        if std::mem::take(&mut self.owes_pong) {
            out.push(Output::SendWebsocket(ws, packet::PONG));
        }
        if closing {
            self.end(End::ServerClosed, out);
        }
    }

    /// A packet of the session.
    fn packet(&mut self, packet: &Packet<'_>, now: u64, out: &mut Vec<Output>) {
        self.heard_at = now;
        match (packet.kind, self.phase) {
            (Kind::Close, _) => self.end(End::ClientClosed, out),
            (Kind::Ping, Phase::Websocket { ws }) => out.push(Output::SendWebsocket(ws, packet::PONG)),
            (Kind::Ping, _) => self.owes_pong = true,
            // The server has said its last word; the client's no longer count.
            (Kind::Message, Phase::Closing { .. }) => {}
            (Kind::Message, _) => out.push(Output::Deliver),
            (Kind::Open | Kind::Pong | Kind::Upgrade | Kind::Noop, _) => {}
        }
    }

    fn tick(&mut self, now: u64, out: &mut Vec<Output>) {
        match self.phase {
            _ if now >= self.heard_at + SILENCE_US => self.end(End::PingTimeout, out),
            Phase::Probing { ws, until } | Phase::Probed { ws, until } if now >= until => self.give_up(ws, out),
            Phase::Closing { until } if now >= until => self.end(End::ServerClosed, out),
            _ => {}
        }
    }

    /// Ends the session and answers whoever waits on it.
    fn end(&mut self, end: End, out: &mut Vec<Output>) {
        let said_so = end == End::ClientClosed;
        if let Poll::Waiting(id) | Poll::Answering(_, Some(id)) = self.poll {
            out.push(Output::AnswerPoll(id, if said_so { PollAnswer::Noop } else { PollAnswer::Close }));
        }
        if let Some(id) = self.post.take() {
            let is_fine = said_so || end == End::Malformed;
            out.push(Output::AnswerPost(id, if is_fine { PostAnswer::Ok } else { PostAnswer::Failed }));
        }
        if let Phase::Probing { ws, .. } | Phase::Probed { ws, .. } | Phase::Switching { ws, .. } | Phase::Websocket { ws } = self.phase
            && end != End::WebsocketGone
        {
            out.push(Output::CloseWebsocket(ws));
        }
        self.poll = Poll::None;
        self.rest = None;
        self.phase = Phase::Ended;
        out.push(Output::Ended(end));
    }
}

/// Refuses a request that came for a session where there is none, or by a transport that it has left.
fn refuse(input: Input<'_>, refusal: BadRequest, out: &mut Vec<Output>) {
    match input {
        Input::PollArrived(id) => out.push(Output::AnswerPoll(id, PollAnswer::Refuse(refusal))),
        Input::PostArrived(id) => out.push(Output::AnswerPost(id, PostAnswer::Refuse(refusal))),
        Input::WebsocketArrived(id) => out.push(Output::CloseWebsocket(id)),
        _ => {}
    }
}

const fn micros(duration: std::time::Duration) -> u64 {
    duration.as_micros() as u64
}

/// A session without a packet for so long has ended.
const SILENCE_US: u64 = micros(ENGINE_PING_INTERVAL) + micros(ENGINE_PING_TIMEOUT);
