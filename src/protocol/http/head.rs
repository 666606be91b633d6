//! The head of one HTTP/1 request: from its bytes to a value whose every part has been checked (G1, G3, G6).
//!
//! httparse reads the syntax; the rules that decide where a request ends, and so what the next one is, stand here. Where two
//! servers could read a head in two ways it is refused, not guessed at: guessing lets one request hide inside another.
//! This file knows nothing of routes, and never lets the Host header near the target.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::refusal::HttpRefusal;
use crate::limits::HTTP_HEADERS_MAX;
use crate::protocol::refusal::Code;

/// The version of a request. All other versions are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: answered and closed, never chunked.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body follows the head.
    None,
    /// So many bytes follow; digits beyond 64 bits count as the largest number.
    Length(u64),
    /// Chunks follow, HTTP/1.1 only.
    Chunked,
}

/// A request head. All its text is ASCII; a header with another byte in its value is left out, unless it is one that frames the
/// request, which is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Method, target, then each header's name and value, one behind the other.
    text: String,
    method_end: u16,
    path_end: u16,
    target_end: u16,
    fields: Vec<Field>,
    version: Version,
    framing: Framing,
    connection: Connection,
}

/// Where the name and the value of one header end in `text`; each begins where the one before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    name_end: u16,
    value_end: u16,
}

/// What the head asks of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connection {
    keep_alive: bool,
    expects_continue: bool,
    upgrade: bool,
}

impl Head {
    /// Reads one whole head, its blank line included, without line breaks before it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Head, HttpRefusal> {
        let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(HttpRefusal::new(Code::TooLarge, "headers")),
            Ok(_) | Err(_) => return Err(BAD_HEAD),
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(BAD_HEAD);
        };
        let path = check_target(method, target)?;
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        let facts = Facts::gather(request.headers)?;
        facts.check_host(version)?;
        let framing = facts.framing(version)?;
        let connection = facts.connection(version);
        let (text, fields) = pack(bytes.len(), method, target, request.headers);
        let method_end = offset(method.len());
        let path_end = offset(method.len() + path.len());
        let target_end = offset(method.len() + target.len());
        Ok(Head { text, method_end, path_end, target_end, fields, version, framing, connection })
    }

    /// The method as sent; methods are case-sensitive.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.text[..usize::from(self.method_end)]
    }

    /// The whole target, path and query, as sent: nothing is decoded. It begins with `/`.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.text[usize::from(self.method_end)..usize::from(self.target_end)]
    }

    /// The path, still percent-encoded: no segment is `.` or `..` in any spelling, and it has no backslash (G6).
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.method_end)..usize::from(self.path_end)]
    }

    /// What follows the first `?`, still percent-encoded.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text[usize::from(self.path_end)..usize::from(self.target_end)].strip_prefix('?')
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// How the body is delimited.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The headers in their order, names as sent, values without spaces around them.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = usize::from(self.target_end);
        self.fields.iter().map(move |field| {
            let (name_end, value_end) = (usize::from(field.name_end), usize::from(field.value_end));
            let header = (&self.text[start..name_end], &self.text[name_end..value_end]);
            start = value_end;
            header
        })
    }

    /// The value of the first header of that name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether the peer would send another request on this connection.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        self.connection.keep_alive
    }

    /// Whether the peer waits for `100 Continue` before it sends the body.
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.connection.expects_continue
    }

    /// The protocols that the peer would change to, if it asks for that in both Upgrade and Connection.
    #[must_use]
    pub fn upgrade(&self) -> Option<&str> {
        if self.connection.upgrade { self.header("upgrade") } else { None }
    }
}

/// What the headers that frame a request say, before it is decided whether that makes sense together.
#[derive(Default)]
struct Facts<'a> {
    hosts: usize,
    length: Option<&'a str>,
    coding: Option<&'a str>,
    close: bool,
    expects_continue: bool,
    upgrade_listed: bool,
    upgrade_named: bool,
}

impl<'a> Facts<'a> {
    fn gather(headers: &[httparse::Header<'a>]) -> Result<Facts<'a>, HttpRefusal> {
        let mut facts = Facts::default();
        for header in headers {
            if let Some(framing) = FramingHeader::of(header.name) {
                let value = ascii(header.value).ok_or(HttpRefusal::new(Code::BadField, framing.name()))?;
                facts.note(framing, value)?;
            }
        }
        Ok(facts)
    }

    fn note(&mut self, header: FramingHeader, value: &'a str) -> Result<(), HttpRefusal> {
        match header {
            FramingHeader::Host => self.hosts += 1,
            FramingHeader::ContentLength if self.length.replace(value).is_some() => return Err(BAD_LENGTH),
            FramingHeader::TransferEncoding if self.coding.replace(value).is_some() => return Err(BAD_CODING),
            FramingHeader::ContentLength | FramingHeader::TransferEncoding => {}
            FramingHeader::Connection => {
                for option in value.split(',').map(str::trim) {
                    self.close |= option.eq_ignore_ascii_case("close");
                    self.upgrade_listed |= option.eq_ignore_ascii_case("upgrade");
                }
            }
            FramingHeader::Expect => self.expects_continue |= value.eq_ignore_ascii_case("100-continue"),
            FramingHeader::Upgrade => self.upgrade_named = true,
        }
        Ok(())
    }

    fn check_host(&self, version: Version) -> Result<(), HttpRefusal> {
        match (version, self.hosts) {
            (_, 1) | (Version::Http10, 0) => Ok(()),
            _ => Err(HttpRefusal::new(Code::BadField, "Host")),
        }
    }

    fn framing(&self, version: Version) -> Result<Framing, HttpRefusal> {
        match (self.coding, self.length) {
            (Some(_), Some(_)) => Err(BAD_CODING),
            (Some(_), None) if version == Version::Http10 => Err(BAD_CODING),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            (Some(_), None) => Err(HttpRefusal::with_status(501, Code::BadField, "Transfer-Encoding")),
            (None, Some(digits)) if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) => Err(BAD_LENGTH),
            (None, Some(digits)) => Ok(match digits.parse().unwrap_or(u64::MAX) {
                0 => Framing::None,
                length => Framing::Length(length),
            }),
            (None, None) => Ok(Framing::None),
        }
    }

    fn connection(&self, version: Version) -> Connection {
        let current = version == Version::Http11;
        Connection {
            keep_alive: current && !self.close,
            expects_continue: current && self.expects_continue,
            upgrade: current && self.upgrade_listed && self.upgrade_named,
        }
    }
}

/// The headers that decide where a request ends and what becomes of its connection.
#[derive(Clone, Copy)]
enum FramingHeader {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    Upgrade,
}

impl FramingHeader {
    const ALL: [FramingHeader; 6] = [
        FramingHeader::Host,
        FramingHeader::ContentLength,
        FramingHeader::TransferEncoding,
        FramingHeader::Connection,
        FramingHeader::Expect,
        FramingHeader::Upgrade,
    ];

    fn of(name: &str) -> Option<FramingHeader> {
        Self::ALL.into_iter().find(|header| header.name().eq_ignore_ascii_case(name))
    }

    const fn name(self) -> &'static str {
        match self {
            FramingHeader::Host => "Host",
            FramingHeader::ContentLength => "Content-Length",
            FramingHeader::TransferEncoding => "Transfer-Encoding",
            FramingHeader::Connection => "Connection",
            FramingHeader::Expect => "Expect",
            FramingHeader::Upgrade => "Upgrade",
        }
    }
}

/// Only origin-form is served: an absolute target or CONNECT asks for a proxy, and `*` names nothing here. Whatever a URL library
/// folds away (`.`, `..`, their encoded spellings, backslashes) could change the route after it was checked (G6). Returns the path.
fn check_target<'a>(method: &str, target: &'a str) -> Result<&'a str, HttpRefusal> {
    let bytes = target.as_bytes();
    let path_end = memchr::memchr(b'?', bytes).unwrap_or(bytes.len());
    let path = &bytes[..path_end];
    if method == "CONNECT" || !target.is_ascii() || !path.starts_with(b"/") || memchr::memchr2(b'#', b'\\', path).is_some() {
        return Err(BAD_TARGET);
    }
    let has_fragment = memchr::memchr(b'#', &bytes[path_end..]).is_some();
    if has_fragment || path.split(|byte| *byte == b'/').any(is_dot_segment) { Err(BAD_TARGET) } else { Ok(&target[..path_end]) }
}

/// Whether a segment is `.` or `..` in any spelling. A long one is none: a token is not looked at by the byte.
fn is_dot_segment(segment: &[u8]) -> bool {
    if segment.len() > "%2e%2e".len() {
        return false;
    }
    let decoded: Cow<'_, [u8]> = percent_decode(segment).into();
    matches!(decoded.as_ref(), b"." | b"..")
}

/// The value without spaces around it, if it is ASCII.
fn ascii(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.trim_ascii()).ok().filter(|text| text.is_ascii())
}

/// Copies what is kept of a head into one text. `bytes_max` is the length of the head, which the text can't exceed.
fn pack(bytes_max: usize, method: &str, target: &str, headers: &[httparse::Header<'_>]) -> (String, Vec<Field>) {
    let mut text = String::with_capacity(bytes_max);
    let mut fields = Vec::with_capacity(headers.len());
    text.push_str(method);
    text.push_str(target);
    for header in headers {
        if let Some(value) = ascii(header.value) {
            text.push_str(header.name);
            let name_end = offset(text.len());
            text.push_str(value);
            fields.push(Field { name_end, value_end: offset(text.len()) });
        }
    }
    (text, fields)
}

fn offset(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("the decoder refuses a head over HTTP_HEAD_BYTES_MAX, which fits 16 bits")
}

const BAD_HEAD: HttpRefusal = HttpRefusal::new(Code::BadField, "head");
const BAD_TARGET: HttpRefusal = HttpRefusal::new(Code::BadField, "target");
const BAD_LENGTH: HttpRefusal = HttpRefusal::new(Code::BadField, "Content-Length");
const BAD_CODING: HttpRefusal = HttpRefusal::new(Code::BadField, "Transfer-Encoding");
