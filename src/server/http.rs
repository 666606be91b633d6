//! One HTTP/1.1 connection, for all three HTTP ports: bytes in, requests to a [`Service`], answers out, in order.
//!
//! It owns the socket, the deadlines (G1), the order of answers (G5), and the ways in which a connection ends (G8, G14). What a
//! request means, who may send it and how a refusal reads belong to the service; what is a request belongs to `protocol::http`.
//!
//! Memory: an idle connection is its socket, an empty decoder and a timer. All that requests need lives in one boxed future that is
//! gone soon after the last answer. Hence the rule for whoever edits this file: nothing large across an await in [`serve`] or `wait`.

use std::future::{Future, poll_fn};
use std::io::{IoSlice, Write};
use std::net::{IpAddr, Shutdown as Half};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_std::{future::timeout, task};
use bytes::Bytes;
use futures::future::{self, Either};
use futures::io::AsyncWrite;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use crate::limits::{
    HTTP_AHEAD_BYTES_MAX, HTTP_BODY_WAIT, HTTP_DRAIN_BYTES_MAX, HTTP_DRAIN_WAIT, HTTP_HEAD_WAIT, HTTP_IDLE_WAIT, HTTP_WRITE_WAIT,
};
use crate::protocol::http::Decoder;
use crate::protocol::http::head::{Framing, Head};
use crate::protocol::http::refusal::HttpRefusal;
use crate::protocol::http::response::{Afterwards, CONTINUE, Response};
use crate::protocol::refusal::Code;
use crate::runtime::clock;
use crate::runtime::deadline::Deadline;
use crate::runtime::shutdown::ShutdownSignal;
use crate::runtime::socket::hold_little;
use crate::server::inlet::Inlet;
use crate::server::listener::{Accepted, Permit};
use crate::server::scratch;

#[cfg(test)]
mod tests;

/// What answers the requests of one port.
pub trait Service: Send + Sync + 'static {
    /// What the look at a head has found: dropped where the request breaks off, else it comes with it.
    type Ticket: Send;

    /// Looks at a head before its body is read. It must not wait, for nothing limits its time.
    ///
    /// # Errors
    /// The answer, when the body is not worth reading: a wrong path, method, origin or token.
    fn admit(&self, head: &Head, peer: IpAddr) -> Result<Admission<Self::Ticket>, Response>;

    /// Answers a whole request. A panic in its future is answered 500, and ends only this connection (G2).
    fn respond(&self, request: Request<Self::Ticket>) -> impl Future<Output = Answer> + Send;

    /// The answer that carries a refusal of the framing, of a deadline, or after a panic: its status, and a body in the dialect of
    /// this port.
    fn refuse(&self, refusal: HttpRefusal) -> Response;
}

/// On which terms a request is served.
pub struct Admission<T> {
    /// Bytes that its body may have.
    pub body_limit: usize,
    /// What becomes of it when the client leaves.
    pub departure: Departure,
    /// What the service knows of the request already.
    pub ticket: T,
}

/// What becomes of a request whose client leaves before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It goes on to its end: it changes something, such as a publish (Protocol §10).
    GoesOn,
    /// It is dropped at once: it only waits, such as a long poll (G11). A client that closes only its writing side has left too.
    Ends,
}

/// What a service makes of a request.
pub enum Answer {
    /// A response.
    Whole(Response),
    /// A response whose fate matters.
    Watched {
        /// The response.
        response: Response,
        /// Called once all of it is with the kernel; dropped uncalled where it never gets there.
        written: Box<dyn FnOnce() + Send>,
        /// It must be with the peer within that time, or the connection is cut: an opening is in it (Protocol §7).
        within: Option<Duration>,
    },
    /// The connection changes to another protocol.
    Switch {
        /// The whole head of the 101.
        head: Vec<u8>,
        /// Takes the connection over, in a task of its own: what it awaited here would stay as large as an HTTP request.
        take: Box<dyn FnOnce(Switched) + Send>,
    },
    /// A response whose body goes on until the stream, the peer or the server ends; its end is the connection's.
    Stream {
        /// Its head; it has no body of its own.
        response: Response,
        /// What follows, each item written as a whole within the time of one write.
        body: BoxStream<'static, Bytes>,
    },
}

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        Answer::Whole(response)
    }
}

/// A connection that has left HTTP.
pub struct Switched {
    /// Its socket, to read from.
    pub inlet: Inlet,
    /// What the peer has sent behind its head (G5).
    pub rest: Vec<u8>,
    /// When that came: monotonic, µs.
    pub came_at: u64,
    /// To be held as long as the socket is open.
    pub permit: Permit,
}

/// A whole request.
pub struct Request<T> {
    /// Its head.
    pub head: Head,
    /// Its body, empty where there is none.
    pub body: Vec<u8>,
    /// The address of the socket's other end; a proxy's, where there is one.
    pub peer: IpAddr,
    /// When its last byte came: monotonic, µs. It may have waited for the requests before it.
    pub came_at: u64,
    /// The address of this machine as the peer reached it; none if the connection is gone already.
    pub local: Option<IpAddr>,
    /// That of its admission.
    pub ticket: T,
}

/// The terms of one port. The waits are those of `limits`, unless a test shortens them.
#[derive(Debug)]
pub struct Options {
    /// From the first byte of a head to its last.
    pub head_wait: Duration,
    /// Silence between requests.
    pub idle_wait: Duration,
    /// From a head to the end of its body.
    pub body_wait: Duration,
    /// One write to a peer that does not read.
    pub write_wait: Duration,
    /// From the last answer to the close.
    pub drain_wait: Duration,
    /// Ends idle connections at once, others after their answer.
    pub shutdown: ShutdownSignal,
    /// Of this port.
    pub counters: HttpCounters,
}

/// What the connections of one port count, for the status in the log.
#[derive(Debug, Default)]
pub struct HttpCounters {
    /// Request heads read.
    pub requests: AtomicU64,
    /// Requests refused for their framing, a deadline or a panic.
    pub refused: AtomicU64,
    /// Panics of handlers among them.
    pub panics: AtomicU64,
    /// Requests dropped because their client had left.
    pub abandoned: AtomicU64,
}

impl Options {
    /// The usual waits.
    #[must_use]
    pub fn new(shutdown: ShutdownSignal) -> Options {
        Options {
            head_wait: HTTP_HEAD_WAIT,
            idle_wait: HTTP_IDLE_WAIT,
            body_wait: HTTP_BODY_WAIT,
            write_wait: HTTP_WRITE_WAIT,
            drain_wait: HTTP_DRAIN_WAIT,
            shutdown,
            counters: HttpCounters::default(),
        }
    }
}

/// Serves a connection until it ends. Its permit is held until then.
pub fn serve<S: Service>(accepted: Accepted, options: Arc<Options>, service: Arc<S>) -> impl Future<Output = ()> + Send {
    let Accepted { inlet, peer, permit } = accepted;
    let local = inlet.socket().get_ref().local_addr().ok().map(|address| address.ip().to_canonical());
    let (decoder, peer) = (Decoder::new(), peer.ip());
    let (mut deadline, mut ending) = (Deadline::default(), options.shutdown.begun());
    let mut connection = Connection { decoder, peer, local, inlet, came_at: 0, options, service, permit };
    // No function of its own: its arguments would lie in its future a second time.
    async move {
        while let Ok(true) = connection.wait(connection.options.idle_wait, &mut deadline, &mut ending).await {
            match Box::pin(connection.converse(&mut deadline, &mut ending)).await {
                Ok(Next::Http(Afterwards::Keep)) => {}
                Ok(Next::Http(Afterwards::Close)) => {
                    Box::pin(connection.linger()).await;
                    break;
                }
                Ok(Next::Switch(take)) => {
                    let Connection { inlet, decoder, came_at, permit, .. } = connection;
                    take(Switched { inlet, rest: decoder.into_rest(), came_at, permit });
                    return;
                }
                Err(Gone) => break,
            }
        }
    }
}

struct Connection<S> {
    decoder: Decoder,
    peer: IpAddr,
    local: Option<IpAddr>,
    inlet: Inlet,
    /// When the bytes last read came: monotonic, µs.
    came_at: u64,
    options: Arc<Options>,
    service: Arc<S>,
    /// Behind the socket, so that it is returned after that is closed.
    permit: Permit,
}

/// The peer has left, does not read, or never sent anything: there is nobody to answer.
#[derive(Debug)]
struct Gone;

/// What follows an answer.
enum Next {
    /// The next request, or the end.
    Http(Afterwards),
    /// Another protocol.
    Switch(Box<dyn FnOnce(Switched) + Send>),
}

/// Why a request has no answer of its own.
enum Failure {
    Gone,
    Refused(HttpRefusal),
}

impl<S: Service> Connection<S> {
    /// Waits for the first byte of a request. False: it was silent for so long.
    async fn wait(
        &mut self,
        silence: Duration,
        deadline: &mut Deadline,
        ending: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<bool, Gone> {
        if !self.decoder.is_idle() {
            return Ok(true);
        }
        let until = clock::mono_us() + silence.as_micros() as u64;
        poll_fn(|cx| {
            // The socket is asked first: a request that has come is answered, even if the shutdown has too.
            if let Poll::Ready(arrived) = self.poll_until(cx, |decoder| (!decoder.is_idle()).then_some(())) {
                return Poll::Ready(arrived.map(|()| true));
            }
            if ending.poll_unpin(cx).is_ready() {
                return Poll::Ready(Err(Gone));
            }
            deadline.poll(cx, until).map(|()| Ok(false))
        })
        .await
    }

    /// Reads and answers requests as long as one follows soon after the other. `Close`: the last answer is the connection's last.
    async fn converse(&mut self, deadline: &mut Deadline, ending: &mut (impl Future<Output = ()> + Unpin)) -> Result<Next, Gone> {
        loop {
            match self.exchange().await? {
                // A client that sends ahead takes turns with the others.
                Next::Http(Afterwards::Keep) if !self.decoder.is_idle() => task::yield_now().await,
                Next::Http(Afterwards::Keep) if self.wait(PAUSE.min(self.options.idle_wait), deadline, ending).await? => {}
                next => return Ok(next),
            }
        }
    }

    /// Reads and answers one request. `Close`: the answer is the connection's last.
    async fn exchange(&mut self) -> Result<Next, Gone> {
        match self.receive_and_answer().await {
            Ok(next) => Ok(next),
            Err(Failure::Gone) => Err(Gone),
            Err(Failure::Refused(refusal)) => {
                self.options.counters.refused.fetch_add(1, Ordering::Relaxed);
                self.send(&self.service.refuse(refusal), Afterwards::Close, Part::All).await?;
                Ok(Next::Http(Afterwards::Close))
            }
        }
    }

    async fn receive_and_answer(&mut self) -> Result<Next, Failure> {
        let head = self.read(self.options.head_wait, "head", Decoder::next_head).await?;
        self.options.counters.requests.fetch_add(1, Ordering::Relaxed);
        let part = if head.method() == "HEAD" { Part::Head } else { Part::All };
        let keeps_alive = head.keeps_alive();
        let admission = match catch_unwind(AssertUnwindSafe(|| self.service.admit(&head, self.peer))) {
            Ok(Ok(admission)) => admission,
            Ok(Err(response)) => return self.decline(&head, &response, part).await.map(Next::Http),
            Err(_) => return Err(self.panicked()),
        };
        let Admission { body_limit, departure, ticket } = admission;
        let body = self.read_body(body_limit).await?;
        let request = Request { head, body, peer: self.peer, came_at: self.came_at, local: self.local, ticket };
        let answer = self.respond(request, departure).await?;
        let afterwards = self.afterwards(keeps_alive);
        match answer {
            Answer::Whole(response) => self.send(&response, afterwards, part).await?,
            Answer::Watched { response, written, within } => {
                self.send_within(&response, afterwards, part, within).await?;
                written();
            }
            Answer::Switch { head, take } => {
                self.write(&head, &[]).await?;
                return Ok(Next::Switch(take));
            }
            Answer::Stream { response, body } => {
                self.stream(&response, body, part).await?;
                return Ok(Next::Http(Afterwards::Close));
            }
        }
        Ok(Next::Http(afterwards))
    }

    /// Sends a response that has a time of its own; what the kernel holds of it dies with the connection then too.
    async fn send_within(&mut self, response: &Response, afterwards: Afterwards, part: Part, within: Option<Duration>) -> Result<(), Gone> {
        let Some(within) = within else { return self.send(response, afterwards, part).await };
        hold_little(self.inlet.socket());
        timeout(within, self.send(response, afterwards, part)).await.unwrap_or(Err(Gone))
    }

    /// Sends a head and then what the stream brings, as long as the peer takes it and stays.
    async fn stream(&mut self, response: &Response, mut body: BoxStream<'static, Bytes>, part: Part) -> Result<(), Gone> {
        let mut head = Vec::with_capacity(RESPONSE_HEAD_BYTES);
        response.encode_unbounded_head(&mut head);
        self.write(&head, &[]).await?;
        if part == Part::Head {
            return Ok(());
        }
        let mut ending = self.options.shutdown.begun();
        loop {
            let item = {
                let gone = poll_fn(|cx| self.poll_departure(cx));
                match future::select(body.next(), future::select(gone, &mut ending)).await {
                    Either::Left((Some(item), _)) => item,
                    _ => return Ok(()),
                }
            };
            self.write(&item, &[]).await?;
        }
    }

    /// Answers without the body. Where there is one the connection ends, for its bytes would be taken for the next request.
    async fn decline(&mut self, head: &Head, response: &Response, part: Part) -> Result<Afterwards, Failure> {
        let bodiless = head.framing() == Framing::None;
        if bodiless {
            self.decoder.admit_body(0)?;
            self.decoder.next_body()?;
        }
        let afterwards = self.afterwards(head.keeps_alive() && bodiless);
        self.send(response, afterwards, part).await?;
        Ok(afterwards)
    }

    async fn read_body(&mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        self.decoder.admit_body(limit)?;
        if let Some(body) = self.decoder.next_body()? {
            return Ok(body);
        }
        if self.decoder.awaits_continue() {
            self.write(CONTINUE, &[]).await?;
        }
        self.read(self.options.body_wait, "body", Decoder::next_body).await
    }

    async fn respond(&mut self, request: Request<S::Ticket>, departure: Departure) -> Result<Answer, Failure> {
        let service = Arc::clone(&self.service);
        let work = pin!(AssertUnwindSafe(service.respond(request)).catch_unwind());
        let outcome = match departure {
            Departure::GoesOn => work.await,
            Departure::Ends => match future::select(work, poll_fn(|cx| self.poll_departure(cx))).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(_) => {
                    self.options.counters.abandoned.fetch_add(1, Ordering::Relaxed);
                    return Err(Failure::Gone);
                }
            },
        };
        outcome.map_err(|_| self.panicked())
    }

    fn panicked(&self) -> Failure {
        self.options.counters.panics.fetch_add(1, Ordering::Relaxed);
        Failure::Refused(HttpRefusal::new(Code::Internal, ""))
    }

    fn afterwards(&self, keeps_alive: bool) -> Afterwards {
        if keeps_alive && !self.options.shutdown.has_begun() { Afterwards::Keep } else { Afterwards::Close }
    }

    /// Reads until `next` has its item, at most `wait`. `what` is named in the refusal.
    async fn read<T>(&mut self, wait: Duration, what: &'static str, next: Take<T>) -> Result<T, Failure> {
        // It has nearly always come as a whole.
        if let Some(item) = next(&mut self.decoder)? {
            return Ok(item);
        }
        let reading = poll_fn(|cx| match ready!(self.poll_until(cx, |decoder| next(decoder).transpose())) {
            Ok(item) => Poll::Ready(item.map_err(Failure::Refused)),
            Err(Gone) => Poll::Ready(Err(Failure::Gone)),
        });
        let too_late = Failure::Refused(HttpRefusal::with_status(408, Code::BadField, what));
        timeout(wait, reading).await.unwrap_or(Err(too_late))
    }

    /// Reads into the decoder until `done` finds there what it looks for.
    fn poll_until<T>(&mut self, cx: &mut Context<'_>, mut done: impl FnMut(&mut Decoder) -> Option<T>) -> Poll<Result<T, Gone>> {
        for _ in 0..READS_PER_TURN {
            if let Some(item) = done(&mut self.decoder) {
                return Poll::Ready(Ok(item));
            }
            ready!(self.poll_fill(cx))?;
        }
        // A peer that sends as fast as it is read must not keep the others waiting.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads what there is into the decoder.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        scratch::lend(|scratch| match ready!(self.inlet.poll_read(cx, &mut scratch[..READ_BYTES])) {
            Ok((_, 0)) | Err(_) => Poll::Ready(Err(Gone)),
            Ok((came_at, read)) => {
                self.came_at = came_at;
                self.decoder.push(&scratch[..read]);
                Poll::Ready(Ok(()))
            }
        })
    }

    /// Ready when the peer has left. What it sends ahead meanwhile is kept, to a bound; beyond it nobody looks.
    fn poll_departure(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.poll_until(cx, |decoder| (decoder.bytes_ahead() >= HTTP_AHEAD_BYTES_MAX).then_some(()))) {
            Ok(()) => Poll::Pending,
            Err(Gone) => Poll::Ready(()),
        }
    }

    async fn send(&mut self, response: &Response, afterwards: Afterwards, part: Part) -> Result<(), Gone> {
        let body = if part == Part::All { response.sent_body() } else { &[] };
        let is_small = body.len() <= SMALL_BODY_BYTES;
        let mut head = Vec::with_capacity(RESPONSE_HEAD_BYTES + if is_small { body.len() } else { 0 });
        response.encode_head(afterwards, &mut head);
        if is_small {
            // One piece: copied sooner than the kernel has gathered two.
            head.extend_from_slice(body);
            return self.write(&head, &[]).await;
        }
        self.write(&head, body).await
    }

    /// Writes both in one go, as far as the socket takes them (G13).
    async fn write(&mut self, head: &[u8], body: &[u8]) -> Result<(), Gone> {
        // The kernel nearly always takes all at once. If it takes nothing, or fails, that shows again below.
        let mut socket = self.inlet.socket().get_ref();
        let attempt = if body.is_empty() { socket.write(head) } else { socket.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) };
        let mut sent = attempt.unwrap_or(0);
        if sent < head.len() + body.len() {
            // What comes while this waits lies in the kernel, and nobody is woken.
            self.inlet.pause();
        }
        while sent < head.len() + body.len() {
            let rest = [IoSlice::new(&head[sent.min(head.len())..]), IoSlice::new(&body[sent.saturating_sub(head.len())..])];
            let writing = poll_fn(|cx| Pin::new(&mut &**self.inlet.socket()).poll_write_vectored(cx, &rest));
            match timeout(self.options.write_wait, writing).await {
                Ok(Ok(bytes)) if bytes > 0 => sent += bytes,
                _ => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Closes so that the peer sees the last answer: a close with bytes unread is a reset, which throws the answer away (G8).
    async fn linger(&mut self) {
        if self.inlet.socket().get_ref().shutdown(Half::Write).is_err() {
            return;
        }
        let drain = scratch::drain(&mut self.inlet, HTTP_DRAIN_BYTES_MAX);
        // Whether the peer has closed or not: this was its time.
        let _ = timeout(self.options.drain_wait, drain).await;
    }
}

type Take<T> = fn(&mut Decoder) -> Result<Option<T>, HttpRefusal>;

/// Which part of a response is sent: to HEAD the head alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Head,
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Failure {
        Failure::Gone
    }
}

impl From<HttpRefusal> for Failure {
    fn from(refusal: HttpRefusal) -> Failure {
        Failure::Refused(refusal)
    }
}

/// After so long without a request what the next one needs is made anew: a connection that is busy keeps it.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes that one read may bring: by so many a client may pass the bound of what it sends ahead.
const READ_BYTES: usize = 16 << 10;
/// Reads of one connection before others have their turn.
const READS_PER_TURN: usize = 16;
/// A body of so many bytes goes out in one piece with its head.
const SMALL_BODY_BYTES: usize = 1 << 10;
/// Room for a usual response head.
const RESPONSE_HEAD_BYTES: usize = 256;
