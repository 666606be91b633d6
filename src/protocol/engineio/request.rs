//! Requests to `/socket.io/` (Protocol §8): the query, the checks in their order with the bodies of their refusals, and the packet
//! that opens a session.
//!
//! `OPTIONS` is answered before any of this: it touches no session and needs no query. Whether an Origin, an alias or a token may
//! come in is decided elsewhere; `alias`, `token` and `ext` in the query are the application's.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::limits::{ENGINE_PING_INTERVAL, ENGINE_PING_TIMEOUT};

/// How a session's packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// GETs that wait, and POSTs.
    Polling,
    /// One WebSocket.
    Websocket,
}

/// The name of a session: unguessable, since whoever knows it is the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid([u8; Sid::CHARS]);

impl Sid {
    /// Random bytes that one is made of.
    pub const RANDOM_BYTES: usize = 15;
    /// Characters of its text: four for three bytes.
    const CHARS: usize = Sid::RANDOM_BYTES / 3 * 4;

    /// The session of these random bytes.
    #[must_use]
    pub fn new(random: [u8; Sid::RANDOM_BYTES]) -> Sid {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = [0; Sid::CHARS];
        for (from, to) in random.chunks(3).zip(text.chunks_mut(4)) {
            let bits = from.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
            for (place, digit) in to.iter_mut().enumerate() {
                *digit = DIGITS[bits >> (18 - 6 * place) & 63];
            }
        }
        Sid(text)
    }

    /// The session of that name, if one can have it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Sid> {
        let text: [u8; Sid::CHARS] = text.as_bytes().try_into().ok()?;
        text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')).then_some(Sid(text))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Sid {
    /// Not the name itself: it must not come into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sid(…)")
    }
}

/// Why a request is refused before it reaches a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// No `transport`, an unknown one, or several.
    UnknownTransport,
    /// No session of that name.
    UnknownSid,
    /// A handshake is a GET.
    HandshakeMethod,
    /// The transport does not fit the session or the request, or `j` is no number.
    Mismatch,
    /// The Origin may not come in.
    Origin,
    /// `EIO` is there and is not 3.
    Version,
    /// A session takes GET and POST.
    Method,
}

impl BadRequest {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            BadRequest::Origin => 403,
            BadRequest::Method => 500,
            _ => 400,
        }
    }

    /// The JSON body of the answer, `application/json`; empty for [`BadRequest::Method`].
    #[must_use]
    pub const fn json(self) -> &'static str {
        match self {
            BadRequest::UnknownTransport => r#"{"code":0,"message":"Transport unknown"}"#,
            BadRequest::UnknownSid => r#"{"code":1,"message":"Session ID unknown"}"#,
            BadRequest::HandshakeMethod => r#"{"code":2,"message":"Bad handshake method"}"#,
            BadRequest::Mismatch => r#"{"code":3,"message":"Bad request"}"#,
            BadRequest::Origin => r#"{"code":4,"message":"Forbidden"}"#,
            BadRequest::Version => r#"{"code":5,"message":"Unsupported protocol version"}"#,
            BadRequest::Method => "",
        }
    }

    /// The message alone: the `text/html` body of the answer to a WebSocket upgrade.
    #[must_use]
    pub fn message(self) -> &'static str {
        self.json().split('"').nth(5).unwrap_or_default()
    }
}

/// The members of a query that are Engine.IO's. Repeated ones are refused: two servers might take one or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// `transport`.
    pub transport: Transport,
    /// `sid`; none: a handshake.
    pub sid: Option<Sid>,
    /// `b64`: no binary framing. What the handshake says holds for the session.
    pub base64: bool,
    /// `j`: JSONP, and which callback; the request's own counts.
    pub jsonp: Option<u32>,
}

/// What a request wants of Engine.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// A new session, on this transport.
    Handshake(Transport),
    /// A GET that waits for packets.
    Poll(Sid),
    /// A POST with packets.
    Post(Sid),
    /// A WebSocket that a session would move to.
    Upgrade(Sid),
}

impl Query {
    /// Reads the query of a request, percent-encoded as it came.
    ///
    /// # Errors
    /// In this order: version, transport, sid, `j`.
    pub fn parse(query: &str) -> Result<Query, BadRequest> {
        let (mut version, mut transport, mut sid, mut index) = (Once::Absent, Once::Absent, Once::Absent, Once::Absent);
        let mut base64 = false;
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match &*decoded(name) {
                "EIO" => version.note(value),
                "transport" => transport.note(value),
                "sid" => sid.note(value),
                "j" => index.note(value),
                "b64" => base64 |= !value.is_empty(),
                _ => {}
            }
        }
        // Swift's clients name no version; those of another one always do.
        if version != Once::Absent && version != Once::Value("3".into()) {
            return Err(BadRequest::Version);
        }
        let transport = match &transport {
            Once::Value(name) if name == "polling" => Transport::Polling,
            Once::Value(name) if name == "websocket" => Transport::Websocket,
            _ => return Err(BadRequest::UnknownTransport),
        };
        let sid = match &sid {
            Once::Absent => None,
            Once::Value(text) if text.is_empty() => None,
            Once::Value(text) => Some(Sid::parse(text).ok_or(BadRequest::UnknownSid)?),
            Once::Repeated => return Err(BadRequest::UnknownSid),
        };
        let jsonp = match &index {
            Once::Absent => None,
            Once::Value(text) if text.is_empty() => None,
            Once::Value(text) => Some(digits(text).ok_or(BadRequest::Mismatch)?),
            Once::Repeated => return Err(BadRequest::Mismatch),
        };
        Ok(Query { transport, sid, base64: base64 || jsonp.is_some(), jsonp })
    }

    /// What the request wants. `is_upgrade`: it asks to change to WebSocket. `session`: which transport the session named by `sid`
    /// lives on; `None`: there is none.
    ///
    /// # Errors
    /// See [`BadRequest`].
    pub fn route(&self, method: &str, is_upgrade: bool, session: Option<Transport>) -> Result<Route, BadRequest> {
        let Some(sid) = self.sid else {
            return match self.transport {
                _ if method != "GET" => Err(BadRequest::HandshakeMethod),
                Transport::Websocket if !is_upgrade => Err(BadRequest::Mismatch),
                transport => Ok(Route::Handshake(transport)),
            };
        };
        match (self.transport, session.ok_or(BadRequest::UnknownSid)?) {
            (Transport::Websocket, _) if is_upgrade => Ok(Route::Upgrade(sid)),
            (Transport::Websocket, _) | (Transport::Polling, Transport::Websocket) => Err(BadRequest::Mismatch),
            (Transport::Polling, Transport::Polling) => match method {
                "GET" => Ok(Route::Poll(sid)),
                "POST" => Ok(Route::Post(sid)),
                _ => Err(BadRequest::Method),
            },
        }
    }
}

/// A member of a query that may stand there once.
#[derive(Debug, PartialEq, Eq)]
enum Once<'a> {
    Absent,
    Value(Cow<'a, str>),
    Repeated,
}

impl<'a> Once<'a> {
    fn note(&mut self, value: &'a str) {
        *self = if *self == Once::Absent { Once::Value(decoded(value)) } else { Once::Repeated };
    }
}

/// A name or value of a query, percent-decoded. `+` is left: nothing that is looked for has a space.
fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// The digits of `text`, other characters left out, as a number: `alert(1)` is 1.
fn digits(text: &str) -> Option<u32> {
    let mut digits = text.bytes().filter(u8::is_ascii_digit).map(|digit| u32::from(digit - b'0'));
    let first = digits.next()?;
    digits.try_fold(first, |number, digit| number.checked_mul(10)?.checked_add(digit))
}

/// Appends the packet that opens a session. `transport`: the one it is opened on; only from polling can it move on.
pub fn open(sid: &Sid, transport: Transport, out: &mut Vec<u8>) {
    let upgrades = match transport {
        Transport::Polling => r#"["websocket"]"#,
        Transport::Websocket => "[]",
    };
    let (interval, timeout) = (ms(ENGINE_PING_INTERVAL), ms(ENGINE_PING_TIMEOUT));
    let sid = sid.as_str();
    let packet = format!(r#"0{{"sid":"{sid}","upgrades":{upgrades},"pingInterval":{interval},"pingTimeout":{timeout}}}"#);
    out.extend_from_slice(packet.as_bytes());
}

fn ms(duration: Duration) -> u128 {
    duration.as_millis()
}
