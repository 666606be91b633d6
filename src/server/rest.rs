//! RestServer: the management's port (Protocol §10). tide routes; the connection loop, the tokens and the deadlines are Porter's own.
//!
//! A request is looked at twice: its head before the body is read, so that whoever may not ask is not read from, and as a whole, by
//! tide's router. Both go by the one table in `routes`. Types of tide and http-types are met only in this module (G6, G9): what they
//! believe of headers is never asked, and nothing a client sent becomes a header.

use std::borrow::Cow;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use percent_encoding::percent_decode_str;

use crate::protocol::http::head::Head;
use crate::protocol::http::refusal::HttpRefusal;
use crate::protocol::http::response::Response;
use crate::protocol::refusal::{Code, Language, Refusal};
use crate::runtime::clock;
use crate::runtime::current::Current;
use crate::runtime::handle::Handle;
use crate::server::gate::{Gate, forwarded_for};
use crate::server::http::{self, Admission, Answer, Departure, Request, Service};
use crate::server::listener::{Listener, Permits};
use crate::server::rest::answers::{Answered, Asked, Desk};
use crate::server::rest::routes::{Endpoint, Miss, NO_ENDPOINT, ROUTES, Route};
use crate::server::rest::sheets::Sheets;
use crate::server::watch::Watch;
use crate::token::Claims;

mod answers;
mod door_log;
mod page;
pub mod routes;
mod sheets;

/// What the port needs.
pub struct RestOptions {
    /// The hub.
    pub handle: Handle,
    /// Judges tokens.
    pub gate: Arc<Gate>,
    /// How the server does; its tally counts what this port answers.
    pub watch: Arc<Watch>,
    /// What `/info/servers` tells.
    pub ports: Ports,
    /// What may change while the port is served.
    pub terms: RestTerms,
}

/// By which settings requests are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestTerms {
    /// `advertise_host`; `None`: this machine's address as the asker reached it.
    pub advertise_host: Option<String>,
    /// `rest.first_page`: the number of the first page.
    pub first_page: u64,
    /// `rest.error_status`: the status of every error; `None`: as the protocol lists them.
    pub error_status: Option<u16>,
    /// `limits.frame`, in bytes: what a body may have.
    pub frame_max: usize,
    /// The language of error texts.
    pub language: Language,
}

/// The ports that clients are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// RestServer's.
    pub rest: u16,
    /// WebSocketServer's.
    pub websocket: u16,
    /// SocketIoServer's.
    pub socketio: u16,
    /// PushServer's.
    pub tcp: u16,
}

/// Answers the requests of the port.
pub struct Rest {
    desk: Arc<Desk>,
    gate: Arc<Gate>,
    router: tide::Server<Arc<Desk>>,
}

impl Rest {
    /// A server with all its routes.
    #[must_use]
    pub fn new(options: RestOptions) -> Rest {
        let RestOptions { handle, gate, watch, ports, terms } = options;
        let desk = Arc::new(Desk { handle, watch, ports, terms: Current::new(terms), sheets: Sheets::new() });
        Rest { router: router(Arc::clone(&desk)), desk, gate }
    }

    /// From now on answers by these terms; a request that is being answered goes on with what it has looked at.
    pub fn reconfigure(&self, terms: RestTerms) {
        self.desk.terms.set(terms);
    }

    /// Whose request it is.
    fn origin(&self, head: &Head, peer: IpAddr) -> IpAddr {
        // Whether it came past an unknown proxy matters to ports that let some in without a token; here all need one.
        self.gate.origin(peer, &forwarded_for(head), false).0
    }

    /// What the token of a request says, where one is needed.
    fn check(&self, route: &Route, head: &Head, address: IpAddr) -> Result<Option<Arc<Claims>>, Refusal> {
        if route.is_open() {
            return Ok(None);
        }
        let token = token(head).unwrap_or_default();
        self.gate.manage(address, &token, self.desk.handle.token_time_s()).map(Some)
    }

    /// Once more, when the body is there: its token may have ended meanwhile.
    fn recheck(&self, claims: Option<&Claims>) -> Result<(), Refusal> {
        claims.map_or(Ok(()), |claims| self.gate.recheck(claims, self.desk.handle.token_time_s()))
    }

    /// The answer of a route, or to a request without one: counted, with its headers, and with its
    /// status where errors have one of their own.
    fn finish(&self, route: Option<&Route>, answered: Answered) -> Response {
        self.desk.watch.tally.answered(route.map_or(NO_ENDPOINT, |route| route.endpoint as usize), answered.status);
        let own_status = self.desk.terms.get().error_status.filter(|_| answered.status >= 400 && !route.is_some_and(Route::is_open));
        let status = own_status.unwrap_or(answered.status);
        let response = Response::new(status, answered.content_type, answered.body)
            .header("Cache-Control", "no-store")
            .header("X-Content-Type-Options", "nosniff");
        let response = match answered.file_name {
            Some(name) => response.header("Content-Disposition", format!("attachment; filename=\"{name}\"")),
            None => response,
        };
        if status == 401 { response.header("WWW-Authenticate", "Bearer") } else { response }
    }

    /// The answer to a request without a route. Nothing of the request is logged: its token may stand anywhere.
    fn missed(&self, miss: Miss, peer: IpAddr) -> Response {
        let (refusal, allow) = match miss {
            Miss::Path => (HttpRefusal::new(Code::NotFound, "path"), None),
            Miss::Method(allow) => (HttpRefusal::with_status(405, Code::BadField, "HTTP method"), Some(allow)),
        };
        log::debug!("rest_unrouted status={} peer={peer}", refusal.status);
        let response = self.finish(None, self.desk.refused(refusal));
        match allow {
            Some(allow) => response.header("Allow", allow),
            None => response,
        }
    }

    /// Lets tide find the endpoint, and takes the answer out of its response.
    async fn route(&self, request: tide::http::Request) -> Answered {
        let routed: tide::Result<tide::http::Response> = self.router.respond(request).await;
        let answered = routed.ok().and_then(|response| self.desk.sheets.answered(response));
        answered.unwrap_or_else(|| self.desk.refused(UNANSWERED))
    }
}

/// What the look at a head has found.
pub struct Admitted {
    route: &'static Route,
    address: IpAddr,
    claims: Option<Arc<Claims>>,
}

impl Service for Rest {
    type Ticket = Admitted;

    fn admit(&self, head: &Head, peer: IpAddr) -> Result<Admission<Admitted>, Response> {
        let route = routes::find(head.method(), head.path()).map_err(|miss| self.missed(miss, peer))?;
        let address = self.origin(head, peer);
        // Of those who need no token no body is read.
        let body_limit = if route.is_open() { 0 } else { self.desk.terms.get().frame_max };
        match self.check(route, head, address) {
            // No answer takes long but a publish's and a door's, and those go on without their client.
            Ok(claims) => Ok(Admission { body_limit, departure: Departure::GoesOn, ticket: Admitted { route, address, claims } }),
            Err(refusal) => {
                let answered = self.desk.refused(refusal.into());
                Account::open(route, head).close(address, answered.status);
                Err(self.finish(Some(route), answered))
            }
        }
    }

    async fn respond(&self, request: Request<Admitted>) -> Answer {
        let Request { head, body, came_at, local, ticket: Admitted { route, address, claims }, .. } = request;
        let account = Account::open(route, &head);
        let answered = match self.recheck(claims.as_deref()) {
            Ok(()) => {
                let query = head.query().map(Into::into);
                let asked = Asked { address, claims, came_at, local, query, body };
                let request = self.desk.sheets.ask(route.method, route.routed(head.path()), asked);
                // Whoever waits for the hub holds no more than it must.
                drop(head);
                self.route(request).await
            }
            Err(refusal) => self.desk.refused(refusal.into()),
        };
        account.close(address, answered.status);
        self.finish(Some(route), answered).into()
    }

    fn refuse(&self, refusal: HttpRefusal) -> Response {
        log::debug!("rest_refused status={} code={} field={}", refusal.status, refusal.refusal.code.as_str(), refusal.refusal.field);
        self.finish(None, self.desk.refused(refusal))
    }
}

/// Serves the port until the shutdown that `options` names.
pub async fn serve(listener: Listener, permits: Arc<Permits>, options: Arc<http::Options>, rest: Arc<Rest>) {
    let shutdown = options.shutdown.clone();
    listener
        .run(Arc::clone(rest.desk.handle.reactor()), permits, shutdown, |accepted| {
            http::serve(accepted, Arc::clone(&options), Arc::clone(&rest))
        })
        .await;
}

fn router(desk: Arc<Desk>) -> tide::Server<Arc<Desk>> {
    let mut router = tide::with_state(desk);
    for route in &ROUTES {
        let counter = Counter { endpoint: route.endpoint, subject: route.subject() };
        router.at(&route.pattern()).method(route.method, counter);
    }
    router
}

/// One endpoint as tide calls it. Question and answer travel as extensions of tide's: there is nothing for it to parse or to add.
struct Counter {
    endpoint: Endpoint,
    subject: Option<&'static str>,
}

/// Not by tide's macro: its future would hold tide's request, though what it needs of that is a quarter.
impl tide::Endpoint<Arc<Desk>> for Counter {
    fn call<'a, 'b>(&'a self, request: tide::Request<Arc<Desk>>) -> Pin<Box<dyn Future<Output = tide::Result> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let desk = Arc::clone(request.state());
        // Asked only where the path has it: each miss would cost an error with a backtrace.
        let subject = self.subject.and_then(|name| request.param(name).ok()).unwrap_or_default().to_owned();
        let asked = desk.sheets.asked(request.into());
        let endpoint = self.endpoint;
        Box::pin(async move {
            let outcome = match asked {
                Some(asked) => desk.answer(endpoint, &subject, asked).await,
                None => Err(UNANSWERED),
            };
            Ok(desk.sheets.answer(outcome.unwrap_or_else(|refusal| desk.refused(refusal))).into())
        })
    }
}

/// The router and the table disagree: a fault of ours.
const UNANSWERED: HttpRefusal = HttpRefusal::new(Code::Internal, "");

/// The token of a request that has a route: the last segment of its path, or where that is `-`, the Authorization header's.
fn token(head: &Head) -> Option<Cow<'_, str>> {
    let segment = routes::token_segment(head.path());
    if segment == "-" {
        let (scheme, token) = head.header("authorization")?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into());
    }
    // Hexadecimal digits need no escapes.
    if segment.contains('%') { percent_decode_str(segment).decode_utf8().ok() } else { Some(segment.into()) }
}

/// The one line that a request has in the log. Method and path are the table's words, so no token can be in them.
struct Account {
    route: &'static Route,
    is_head: bool,
    /// None: nobody reads it.
    began: Option<Instant>,
}

impl Account {
    fn open(route: &'static Route, head: &Head) -> Account {
        let began = log::log_enabled!(log::Level::Debug).then(clock::mono);
        Account { route, is_head: head.method() == "HEAD", began }
    }

    fn close(&self, address: IpAddr, status: u16) {
        if let Some(began) = self.began {
            let ms = clock::mono().saturating_duration_since(began).as_millis();
            let method = if self.is_head { "HEAD" } else { self.route.method.as_ref() };
            log::debug!("rest method={method} path={} status={status} address={address} ms={ms}", self.route.masked());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::Decoder;

    fn token_of(head: &str) -> Option<String> {
        let mut decoder = Decoder::new();
        decoder.push(format!("{head}\r\nHost: a\r\n\r\n").as_bytes());
        token(&decoder.next_head().unwrap().unwrap()).map(Cow::into_owned)
    }

    #[test]
    fn the_token_is_the_last_segment() {
        assert_eq!(token_of("GET /info/abc HTTP/1.1").as_deref(), Some("abc"));
        assert_eq!(token_of("GET /info/status/x/abc?size=1 HTTP/1.1").as_deref(), Some("abc"));
        assert_eq!(token_of("GET /info/a%2Fb%20c HTTP/1.1").as_deref(), Some("a/b c"));
        assert_eq!(token_of("GET /info/%ff HTTP/1.1"), None);
    }

    #[test]
    fn the_header_counts_only_where_the_path_has_a_dash() {
        assert_eq!(token_of("GET /info/- HTTP/1.1\r\nAuthorization: Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token_of("GET /info/- HTTP/1.1\r\nauthorization: BEARER   abc").as_deref(), Some("abc"));
        assert_eq!(token_of("GET /info/xyz HTTP/1.1\r\nAuthorization: Bearer abc").as_deref(), Some("xyz"));
        for none in ["X: y", "Authorization: abc", "Authorization: Basic abc", "Authorization:"] {
            assert_eq!(token_of(&format!("GET /info/- HTTP/1.1\r\n{none}")), None, "{none}");
        }
    }
}
