//! WebSocketServer: rooms (Protocol §9). Handshakes, and pictures by plain HTTP; what members send and get is in `rooms/member`.
//!
//! Whoever may not come in is told so where it can hear it: a browser's script sees close codes but no status of a handshake, so a
//! bad path or token is answered after the upgrade. A web page from elsewhere gets nothing but 403.

use std::net::IpAddr;
use std::sync::Arc;

use async_std::task;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use percent_encoding::percent_decode_str;

use crate::names::RoomName;
use crate::protocol::encode;
use crate::protocol::frame::Reply;
use crate::protocol::http::head::Head;
use crate::protocol::http::refusal::HttpRefusal;
use crate::protocol::http::response::Response;
use crate::protocol::multipart::{self, Parts};
use crate::protocol::refusal::{Code, Language, Refusal};
use crate::protocol::room::{Place, RoomFrame, RoomKind, RoomPath, close_code, image_type, sniff_image};
use crate::protocol::websocket;
use crate::runtime::clock;
use crate::runtime::current::Current;
use crate::runtime::handle::{Handle, PictureStream};
use crate::server::gate::Gate;
use crate::server::http::{self, Admission, Answer, Departure, Request, Service, Switched};
use crate::server::listener::{Listener, Permits};
use crate::server::origin::{OriginRule, Verdict};
use crate::server::rooms::member::Member;
use crate::token::Claims;

mod member;

/// What the port needs.
pub struct RoomsOptions {
    /// The hub.
    pub handle: Handle,
    /// Judges tokens.
    pub gate: Arc<Gate>,
    /// What may change while the port is served.
    pub terms: RoomTerms,
}

/// By which settings rooms are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomTerms {
    /// From which web pages a browser may come.
    pub origins: OriginRule,
    /// `websocket.frame`: bytes of one frame.
    pub frame_max: usize,
    /// The language of error texts.
    pub language: Language,
}

/// Answers the requests of the port.
pub struct Rooms {
    handle: Handle,
    gate: Arc<Gate>,
    terms: Current<RoomTerms>,
}

/// What a request comes to, before its body is read and after.
pub enum Asked {
    /// A place in a room.
    Enter(RoomPath, IpAddr, Option<Arc<Claims>>),
    /// To be told why not, by a close code.
    TurnedAway(u16),
    /// To show a picture.
    Post(RoomName),
    /// To see the newest picture.
    See(RoomName),
    /// To see pictures as they come.
    Watch(RoomName, IpAddr, Option<Arc<Claims>>),
}

impl Rooms {
    /// A server without members.
    #[must_use]
    pub fn new(options: RoomsOptions) -> Rooms {
        Rooms { handle: options.handle, gate: options.gate, terms: Current::new(options.terms) }
    }

    /// From now on serves by these terms; members go on with the bounds that they came under.
    pub fn reconfigure(&self, terms: RoomTerms) {
        self.terms.set(terms);
    }

    /// What is asked, and whether that may be.
    fn judge(&self, head: &Head, peer: IpAddr) -> Result<Asked, HttpRefusal> {
        if self.terms.get().origins.judge(head) == Verdict::Refused {
            log::debug!("origin_refused port=websocket peer={peer}");
            return Err(HttpRefusal::new(Code::Forbidden, "Origin"));
        }
        let path = RoomPath::parse(head.path());
        let upgrades = head.upgrade().is_some();
        if path.is_none() && !upgrades {
            return Err(HttpRefusal::new(Code::NotFound, "path"));
        }
        let token = query(head, "token");
        let visitor = self.gate.admit_request(peer, head, token.as_deref(), false, self.handle.token_time_s());
        let (address, claims) = match visitor {
            Ok(visitor) => (visitor.address, visitor.claims),
            Err(refusal) if upgrades && refusal.code == Code::BadToken => return Ok(Asked::TurnedAway(close_code::FORBIDDEN)),
            Err(Refusal { code, field, .. }) => return Err(HttpRefusal::new(code, field)),
        };
        match path {
            None => Ok(Asked::TurnedAway(close_code::BAD_PATH)),
            Some(path) if upgrades => Ok(Asked::Enter(path, address, claims)),
            Some(path) => plain(head, path, address, claims),
        }
    }

    /// Changes to the WebSocket protocol; a member reads in a task of its own.
    fn switch(&self, head: Vec<u8>, asked: Asked) -> Answer {
        let (handle, frame_max) = (self.handle.clone(), self.terms.get().frame_max);
        let take = Box::new(move |switched: Switched| {
            let Switched { mut inlet, rest, permit, .. } = switched;
            if let Asked::Enter(path, address, claims) = asked {
                let link = handle.open_room(Arc::clone(inlet.socket()), address, claims, &path);
                let mut member = Member::new(link, inlet, &path, frame_max, &rest, permit);
                drop(task::spawn(async move { member.run().await }));
            } else if let Asked::TurnedAway(code) = asked {
                drop(task::spawn(async move {
                    member::turn_away(&mut inlet, code).await;
                    drop((inlet, permit));
                }));
            }
        });
        Answer::Switch { head, take }
    }

    /// A picture by POST. Its content type is the one it came with, else what its bytes say.
    fn post(&self, room: &RoomName, head: &Head, body: Vec<u8>) -> Result<Response, HttpRefusal> {
        let declared = head.header("content-type").and_then(image_type);
        if body.is_empty() || declared.or_else(|| sniff_image(&body)).is_none() {
            return Err(HttpRefusal::new(Code::BadField, "Content-Type"));
        }
        self.handle.post_picture(room, RoomFrame { is_text: false, payload: body.into(), image: declared.map(Into::into) });
        Ok(Response::empty(204))
    }

    fn see(&self, room: &RoomName) -> Result<Response, HttpRefusal> {
        let (picture, age) = self.handle.picture(room).ok_or(NO_PICTURE)?;
        let mut response = guarded(picture.frame.content_type());
        response.headers.push(("Last-Modified".into(), clock::http_date(picture.at).into()));
        response.headers.push(("Age".into(), age.to_string().into()));
        response.body = picture.frame.payload;
        Ok(response)
    }

    fn watch(&self, room: &RoomName, address: IpAddr, claims: Option<Arc<Claims>>) -> Result<Answer, HttpRefusal> {
        let pictures = self.handle.watch_pictures(address, claims, room).ok_or(NO_PICTURE)?;
        Ok(Answer::Stream { response: guarded(multipart::CONTENT_TYPE), body: parts(pictures) })
    }

    fn refused(&self, refusal: HttpRefusal) -> Response {
        let mut body = Vec::new();
        encode::reply(&Reply::Error { refusal: refusal.refusal, num: None }, self.terms.get().language, &mut body);
        let response = Response::new(refusal.status, "application/json; charset=utf-8", body)
            .header("Cache-Control", "no-store")
            .header("X-Content-Type-Options", "nosniff");
        match refusal.status {
            401 => response.header("WWW-Authenticate", "Bearer"),
            405 if refusal.refusal.field == POST_ONLY => response.header("Allow", "POST"),
            405 => response.header("Allow", "GET, HEAD"),
            _ => response,
        }
    }

    fn answer(&self, request: Request<Option<Asked>>) -> Result<Answer, HttpRefusal> {
        let Request { head, body, peer, ticket, .. } = request;
        let asked = match ticket {
            Some(asked) => asked,
            // Once more, for the token may have ended while the body came.
            None => self.judge(&head, peer)?,
        };
        match asked {
            Asked::Post(room) => Ok(self.post(&room, &head, body)?.into()),
            Asked::See(room) => Ok(self.see(&room)?.into()),
            Asked::Watch(room, address, claims) => self.watch(&room, address, claims),
            asked => Ok(self.switch(websocket::accept(&head)?, asked)),
        }
    }
}

impl Service for Rooms {
    /// What is asked; nothing if a body is still to come.
    type Ticket = Option<Asked>;

    fn admit(&self, head: &Head, peer: IpAddr) -> Result<Admission<Option<Asked>>, Response> {
        let asked = self.judge(head, peer).map_err(|refusal| self.refused(refusal))?;
        let (body_limit, ticket) = match asked {
            Asked::Post(_) => (self.terms.get().frame_max, None),
            // Judged this once: a bad token counts against its address each time.
            asked => (0, Some(asked)),
        };
        Ok(Admission { body_limit, departure: Departure::GoesOn, ticket })
    }

    async fn respond(&self, request: Request<Option<Asked>>) -> Answer {
        self.answer(request).unwrap_or_else(|refusal| self.refused(refusal).into())
    }

    fn refuse(&self, refusal: HttpRefusal) -> Response {
        log::debug!("rooms_refused status={} code={} field={}", refusal.status, refusal.refusal.code.as_str(), refusal.refusal.field);
        self.refused(refusal)
    }
}

/// Serves the port until the shutdown that `options` names.
pub async fn serve(listener: Listener, permits: Arc<Permits>, options: Arc<http::Options>, rooms: Arc<Rooms>) {
    let shutdown = options.shutdown.clone();
    listener
        .run(Arc::clone(rooms.handle.reactor()), permits, shutdown, |accepted| {
            http::serve(accepted, Arc::clone(&options), Arc::clone(&rooms))
        })
        .await;
}

const NO_PICTURE: HttpRefusal = HttpRefusal::new(Code::NotFound, "picture");
/// What a 405 names where only POST is served, and where only GET is.
const POST_ONLY: &str = "HTTP method (POST)";
const GET_ONLY: &str = "HTTP method (GET)";

/// A request without an upgrade: pictures of one-to-many rooms.
fn plain(head: &Head, path: RoomPath, address: IpAddr, claims: Option<Arc<Claims>>) -> Result<Asked, HttpRefusal> {
    if path.key.kind != RoomKind::OneToMany {
        return Err(HttpRefusal::new(Code::BadField, "Upgrade"));
    }
    let room = path.key.name;
    match (path.place, head.method()) {
        (Place::Door, "POST") => Ok(Asked::Post(room)),
        (Place::Door, _) => Err(HttpRefusal::with_status(405, Code::BadField, POST_ONLY)),
        // To HEAD a stream has no end and nothing to say.
        (Place::Phone, "GET") if query(head, "stream").as_deref() == Some("1") => Ok(Asked::Watch(room, address, claims)),
        (Place::Phone, "GET" | "HEAD") => Ok(Asked::See(room)),
        (Place::Phone, _) => Err(HttpRefusal::with_status(405, Code::BadField, GET_ONLY)),
    }
}

/// The value of a parameter of the query, the last if there are several.
fn query(head: &Head, name: &str) -> Option<String> {
    let pairs = head.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()?;
    percent_decode_str(value).decode_utf8().ok().map(Into::into)
}

/// A response that shows what somebody sent: never kept, never taken for anything else than it says, never run.
fn guarded(content_type: &str) -> Response {
    Response::empty(200)
        .header("Content-Type", content_type.to_owned())
        .header("Cache-Control", "no-store")
        .header("X-Content-Type-Options", "nosniff")
        .header("Content-Security-Policy", "default-src 'none'; sandbox")
}

/// The parts of a stream of pictures. The picture itself is shared with all who see it.
fn parts(pictures: PictureStream) -> BoxStream<'static, Bytes> {
    let parts = stream::unfold((pictures, Parts::default()), |(pictures, mut parts)| async {
        let frame = pictures.next().await?;
        let (before, behind) = parts.around(frame.content_type());
        Some((stream::iter([before, frame.payload, behind]), (pictures, parts)))
    });
    parts.flatten().boxed()
}
