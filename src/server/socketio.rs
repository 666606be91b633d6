//! SocketIoServer: the phones' port (Protocol §8). Here is what a request is and whether it may come in; what a session does with it
//! is `session`'s, a WebSocket's reading side `socket`'s. The bytes are `protocol::engineio`'s and `protocol::socketio`'s.
//!
//! Whoever knows a session's name is the session: it is never logged, and what came in with the handshake holds for its life.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::limits::SOCKETIO_BODY_BYTES_MAX;
use crate::names::Alias;
use crate::protocol::engineio::payload::Format;
use crate::protocol::engineio::request::{BadRequest, Query, Route, Transport};
use crate::protocol::http::head::Head;
use crate::protocol::http::refusal::HttpRefusal;
use crate::protocol::http::response::Response;
use crate::protocol::refusal::{Code, Language, Refusal};
use crate::protocol::websocket;
use crate::runtime::current::Current;
use crate::runtime::handle::Handle;
use crate::server::gate::{Gate, Visitor};
use crate::server::http::{self, Admission, Answer, Departure, Request, Service, Switched};
use crate::server::listener::{Listener, Permits};
use crate::server::origin::{OriginRule, Verdict};
use crate::server::socketio::session::{PollGuard, PostGuard, Session};
use crate::server::socketio::table::Sessions;

mod session;
mod socket;
mod table;

/// What the port needs.
pub struct SocketIoOptions {
    /// The hub.
    pub handle: Handle,
    /// Judges tokens.
    pub gate: Arc<Gate>,
    /// What may change while the port is served.
    pub terms: SocketIoTerms,
}

/// By which settings the port serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketIoTerms {
    /// From which pages browsers may come.
    pub origins: OriginRule,
    /// `limits.frame`, in bytes: what an event's argument may have.
    pub frame_max: usize,
    /// `limits.connections`: sessions that there may be, for one that polls holds no connection between its polls.
    pub sessions_max: usize,
    /// The language of error texts.
    pub language: Language,
}

/// Serves the port.
pub struct SocketIo {
    handle: Handle,
    gate: Arc<Gate>,
    sessions: Arc<Sessions>,
    terms: Current<SocketIoTerms>,
}

impl SocketIo {
    /// A server without sessions.
    #[must_use]
    pub fn new(options: SocketIoOptions) -> SocketIo {
        let SocketIoOptions { handle, gate, terms } = options;
        SocketIo { handle, gate, sessions: Arc::default(), terms: Current::new(terms) }
    }

    /// From now on serves by these terms; sessions that are open stay.
    pub fn reconfigure(&self, terms: SocketIoTerms) {
        self.terms.set(terms);
    }

    /// What a request wants, and the answer if it gets nothing.
    fn judge(&self, head: &Head) -> Result<Wish, Response> {
        if !matches!(head.path(), "/socket.io/" | "/socket.io") {
            let response = refused_frame(HttpRefusal::new(Code::NotFound, "path"), self.terms.get().language);
            return Err(with_cors(response, head));
        }
        if head.method() == "OPTIONS" {
            return Err(preflight(head));
        }
        let query = head.query().unwrap_or_default();
        let refuse = |why| Err(self.refusal(head, why));
        let parsed = match Query::parse(query) {
            Ok(parsed) => parsed,
            Err(why) => return refuse(why),
        };
        let session = parsed.sid.and_then(|sid| self.sessions.find(&sid));
        let route = match parsed.route(head.method(), is_upgrade(head), session.as_deref().map(Session::transport)) {
            Ok(route) => route,
            Err(why) => return refuse(why),
        };
        let verdict =
            if parsed.jsonp.is_some() { self.terms.get().origins.judge_jsonp(head) } else { self.terms.get().origins.judge(head) };
        if verdict == Verdict::Refused {
            return refuse(BadRequest::Origin);
        }
        // What says nothing of its page by JSONP may be any page: its token must speak for it.
        let needs_token = parsed.jsonp.is_some() && verdict == Verdict::Unsaid;
        match (route, session) {
            (Route::Handshake(transport), _) => Ok(Wish::Handshake { transport, query: parsed, needs_token }),
            (Route::Poll(_), Some(session)) => Ok(Wish::Poll { session, query: parsed }),
            // From its head on: a second POST while one is being read ends the session, however slow the first is.
            (Route::Post(_), Some(session)) => Ok(Wish::Post { guard: PostGuard::arrived(session), query: parsed }),
            (Route::Upgrade(_), Some(session)) => Ok(Wish::Upgrade { session }),
            (_, None) => refuse(BadRequest::UnknownSid),
        }
    }

    /// A refusal as engine.io words it: JSON, or for an upgrade the message alone.
    fn refusal(&self, head: &Head, why: BadRequest) -> Response {
        log::debug!("socketio_refused reason=\"{}\"", why.message());
        if is_upgrade(head) {
            return Response::new(why.status(), "text/html", why.message());
        }
        let response = match why.json() {
            "" => Response::empty(why.status()),
            json => Response::new(why.status(), "application/json", json),
        };
        with_cors(response, head)
    }

    /// Opens a session: who it is, and whether it is let in.
    fn open(&self, head: &Head, peer: IpAddr, query: &Query, needs_token: bool) -> (Arc<Session>, Result<(), Refusal>) {
        let members = Members::of(head.query().unwrap_or_default());
        let now_s = self.handle.token_time_s();
        let (visitor, admitted) = match self.gate.admit_request(peer, head, members.token.as_deref(), needs_token, now_s) {
            Ok(visitor) => (visitor, Ok(())),
            Err(refusal) => (Visitor { address: peer, claims: None }, Err(refusal)),
        };
        let link = self.handle.open_socketio(visitor.address, visitor.claims);
        let session = self.sessions.add(link, query.base64, query.transport);
        if query.transport == Transport::Websocket {
            session.link().add(&session.open_packet());
        }
        let entered = admitted.and_then(|()| {
            let alias = members.alias.as_deref().filter(|name| !name.is_empty()).map(Alias::new).transpose();
            let alias = alias.map_err(|_| Refusal::new(Code::BadField, "alias"))?;
            session.enter(alias.as_ref(), members.extended)
        });
        (session, entered)
    }

    fn open_polling(&self, head: &Head, peer: IpAddr, query: &Query, needs_token: bool) -> Answer {
        let (session, entered) = self.open(head, peer, query, needs_token);
        let (body, encoding) = session.open_by_poll(entered, query);
        let response = with_cors(Response::new(200, encoding.content_type(), body), head);
        // A client that never reads its name can't come back.
        let guard = PollGuard::opening(session);
        Answer::Watched { response: uncached(response), written: Box::new(move || guard.done()), within: None }
    }

    fn open_websocket(&self, head: &Head, peer: IpAddr, query: &Query, needs_token: bool) -> Answer {
        let handshake = match websocket::accept(head) {
            Ok(handshake) => handshake,
            Err(refusal) => return bad_upgrade(&refusal).into(),
        };
        let (session, entered) = self.open(head, peer, query, needs_token);
        let frame_max = self.terms.get().frame_max;
        let take = move |switched: Switched| socket::open(session, switched, frame_max, entered.err());
        Answer::Switch { head: handshake, take: Box::new(take) }
    }

    fn upgrade(&self, head: &Head, session: Arc<Session>) -> Answer {
        match websocket::accept(head) {
            Ok(handshake) => {
                let frame_max = self.terms.get().frame_max;
                Answer::Switch { head: handshake, take: Box::new(move |switched| socket::probe(session, switched, frame_max)) }
            }
            Err(refusal) => bad_upgrade(&refusal).into(),
        }
    }

    async fn poll(&self, head: &Head, session: Arc<Session>, query: &Query) -> Answer {
        let polled = session.poll(query).await;
        let response = match polled.status {
            200 => uncached(Response::new(200, polled.content_type, polled.body)),
            status => Response::new(status, polled.content_type, polled.body),
        };
        let response = if query.jsonp.is_some() { response } else { with_cors(response, head) };
        match polled.guard {
            Some(guard) => Answer::Watched { response, written: Box::new(move || guard.done()), within: polled.within },
            None => response.into(),
        }
    }

    async fn post(&self, head: &Head, body: Vec<u8>, came_at: u64, guard: PostGuard, query: &Query) -> Answer {
        let format = Format::of(head.header("content-type"), query.jsonp.is_some());
        let posted = guard.post(body, format, came_at, self.terms.get().frame_max).await;
        let response = match posted {
            Ok(()) => Response::new(200, "text/html", "ok"),
            Err(why) => Response::new(why.status(), "application/json", why.json()),
        };
        with_cors(response, head).into()
    }
}

/// A request that has been judged. Its session may have moved or ended while its body came: the session's machine refuses it then.
pub struct Judged(Wish);

/// What a request wants that may have it.
enum Wish {
    Handshake { transport: Transport, query: Query, needs_token: bool },
    Poll { session: Arc<Session>, query: Query },
    Post { guard: PostGuard, query: Query },
    Upgrade { session: Arc<Session> },
}

/// The application's members of a query.
#[derive(Debug, Default)]
struct Members<'a> {
    alias: Option<Cow<'a, str>>,
    token: Option<Cow<'a, str>>,
    extended: bool,
}

impl<'a> Members<'a> {
    /// The last of each; `+` is a space as browsers write forms, and `%2B` a plus.
    fn of(query: &'a str) -> Members<'a> {
        let mut members = Members::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "alias" => members.alias = Some(decoded(value)),
                "token" => members.token = Some(decoded(value)),
                "ext" => members.extended = value == "1",
                _ => {}
            }
        }
        members
    }
}

/// Text that is no UTF-8 comes out with a character that no token has, and as an alias it is what it looks like.
fn decoded(value: &str) -> Cow<'_, str> {
    percent_decode_str(value).decode_utf8_lossy()
}

fn is_upgrade(head: &Head) -> bool {
    head.upgrade().is_some_and(|name| name.eq_ignore_ascii_case("websocket"))
}

fn bad_upgrade(refusal: &HttpRefusal) -> Response {
    let response = Response::new(refusal.status, "text/html", BadRequest::Mismatch.message());
    if refusal.status == 426 { response.header("Sec-WebSocket-Version", "13") } else { response }
}

/// The clients send credentials, so browsers refuse a `*`: whoever asks is named.
fn with_cors(response: Response, head: &Head) -> Response {
    match head.header("origin") {
        Some(origin) => response
            .header("Access-Control-Allow-Origin", origin.to_owned())
            .header("Access-Control-Allow-Credentials", "true")
            .header("Vary", "Origin"),
        None => response.header("Access-Control-Allow-Origin", "*"),
    }
}

/// The answer to any OPTIONS; it touches no session.
fn preflight(head: &Head) -> Response {
    let asked = head.header("access-control-request-headers").unwrap_or("Content-Type").to_owned();
    with_cors(Response::empty(204), head)
        .header("Access-Control-Allow-Methods", "GET,POST,OPTIONS")
        .header("Access-Control-Allow-Headers", asked)
        .header("Access-Control-Max-Age", "600")
}

fn uncached(response: Response) -> Response {
    response.header("Cache-Control", "no-store")
}

fn refused_frame(refusal: HttpRefusal, language: Language) -> Response {
    let mut body = Vec::new();
    let reply = crate::protocol::frame::Reply::Error { refusal: refusal.refusal, num: None };
    crate::protocol::encode::reply(&reply, language, &mut body);
    Response::new(refusal.status, "application/json; charset=utf-8", body)
}

fn full(head: &Head, language: Language) -> Response {
    log::warn!("socketio_full action=refused hint=raise_limits.connections");
    let refusal = HttpRefusal::with_status(503, Code::Quota, "limits.connections");
    with_cors(refused_frame(refusal, language), head).header("Retry-After", "5")
}

impl Service for SocketIo {
    type Ticket = Judged;

    fn admit(&self, head: &Head, _peer: IpAddr) -> Result<Admission<Judged>, Response> {
        let wish = self.judge(head)?;
        let (body_limit, departure) = match wish {
            Wish::Post { .. } => (SOCKETIO_BODY_BYTES_MAX, Departure::GoesOn),
            Wish::Poll { .. } => (0, Departure::Ends),
            Wish::Handshake { .. } | Wish::Upgrade { .. } => (0, Departure::GoesOn),
        };
        Ok(Admission { body_limit, departure, ticket: Judged(wish) })
    }

    async fn respond(&self, request: Request<Judged>) -> Answer {
        let Request { head, body, peer, came_at, ticket: Judged(wish), .. } = request;
        match wish {
            // Counted now, when it becomes a session: any number may have been judged and wait for the end of their body.
            Wish::Handshake { .. } if self.sessions.count() >= self.terms.get().sessions_max => {
                full(&head, self.terms.get().language).into()
            }
            Wish::Handshake { transport: Transport::Polling, query, needs_token } => self.open_polling(&head, peer, &query, needs_token),
            Wish::Handshake { transport: Transport::Websocket, query, needs_token } => {
                self.open_websocket(&head, peer, &query, needs_token)
            }
            Wish::Poll { session, query } => self.poll(&head, session, &query).await,
            Wish::Post { guard, query } => self.post(&head, body, came_at, guard, &query).await,
            Wish::Upgrade { session } => self.upgrade(&head, session),
        }
    }

    fn refuse(&self, refusal: HttpRefusal) -> Response {
        log::debug!("socketio_refused status={} field={}", refusal.status, refusal.refusal.field);
        refused_frame(refusal, self.terms.get().language).header("Access-Control-Allow-Origin", "*")
    }
}

/// Serves the port until the shutdown that `options` names, and looks after the sessions' deadlines.
pub async fn serve(listener: Listener, permits: Arc<Permits>, options: Arc<http::Options>, server: Arc<SocketIo>) {
    let shutdown = options.shutdown.clone();
    async_std::task::spawn(table::sweep(Arc::clone(&server.sessions), shutdown.clone()));
    listener
        .run(Arc::clone(server.handle.reactor()), permits, shutdown, |accepted| {
            http::serve(accepted, Arc::clone(&options), Arc::clone(&server))
        })
        .await;
}
