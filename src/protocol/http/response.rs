//! An HTTP/1 response: from a value to the bytes of its head.
//!
//! The encoder alone writes Content-Length, Connection and the like, so that no handler can contradict the framing, and no header
//! value, wherever it came from, can end its line and begin another.

use std::borrow::Cow;

use bytes::Bytes;

/// A whole response, its body in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// In the order in which they are written; the encoder leaves out those that frame the message, since it writes them itself.
    pub headers: Vec<Header>,
    /// The body. It is not sent to HEAD, nor with 204 and 304.
    pub body: Bytes,
}

/// One header: its name, then its value.
pub type Header = (Cow<'static, str>, Cow<'static, str>);

/// What becomes of the connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// The next request is awaited.
    Keep,
    /// The server closes, and says so.
    Close,
}

impl Response {
    /// A response with a body of that type.
    #[must_use]
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response {
        let mut headers = Vec::with_capacity(USUAL_HEADERS);
        headers.push(("Content-Type".into(), content_type.into()));
        Response { status, headers, body: body.into() }
    }

    /// A response without a body.
    #[must_use]
    pub fn empty(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// Appends one header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Response {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body as it is sent: nothing with a status that has none.
    #[must_use]
    pub fn sent_body(&self) -> &[u8] {
        if self.has_length() { &self.body } else { &[] }
    }

    /// Appends the head, its blank line included. Names given in lower case go out in their usual case (G13); a header whose name or
    /// value can't stand in a line is left out.
    pub fn encode_head(&self, afterwards: Afterwards, out: &mut Vec<u8>) {
        self.encode_headers(out);
        if self.has_length() {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(self.body.len()).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if afterwards == Afterwards::Close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The same for a response whose body has no end that is known: it ends with the connection.
    pub fn encode_unbounded_head(&self, out: &mut Vec<u8>) {
        self.encode_headers(out);
        out.extend_from_slice(b"Connection: close\r\n\r\n");
    }

    /// The status line and the response's own headers.
    fn encode_headers(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(self.status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in &self.headers {
            if is_name(name) && is_value(value) && !FRAMING.iter().any(|framing| framing.eq_ignore_ascii_case(name)) {
                push_name(name, out);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// 204 and 304 have no body by their definition, and so no length.
    fn has_length(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }
}

/// The interim answer that asks for the body (G10).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| IN_NAMES[usize::from(b)])
}

/// Without a way out at the first bad byte, so that it is many bytes at a time: nearly all values are good.
fn is_value(value: &str) -> bool {
    value.bytes().fold(true, |good, b| good & (b == b'\t' || (b' '..=b'~').contains(&b)))
}

/// The bytes that a name may have.
static IN_NAMES: [bool; 256] = {
    let mut is_in = [false; 256];
    let mut b = 0_u8;
    while b < 128 {
        is_in[b as usize] =
            b.is_ascii_alphanumeric() || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        b += 1;
    }
    is_in
};

/// A name with a capital in it is written as it is.
fn push_name(name: &str, out: &mut Vec<u8>) {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return out.extend_from_slice(name.as_bytes());
    }
    for (index, word) in name.split('-').enumerate() {
        if index > 0 {
            out.push(b'-');
        }
        match UNUSUAL_WORDS.iter().find(|unusual| unusual.eq_ignore_ascii_case(word)) {
            Some(unusual) => out.extend_from_slice(unusual.as_bytes()),
            None => {
                let start = out.len();
                out.extend_from_slice(word.as_bytes());
                out[start..].iter_mut().take(1).for_each(|first| first.make_ascii_uppercase());
            }
        }
    }
}

/// The phrase that the standard gives a status; empty for others, which the grammar allows.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "",
    }
}

/// Room for the headers that most responses have.
const USUAL_HEADERS: usize = 4;
/// Headers that belong to the encoder.
const FRAMING: [&str; 5] = ["Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Trailer"];
/// Words of header names that are not simply capitalised.
const UNUSUAL_WORDS: [&str; 4] = ["ETag", "MD5", "WebSocket", "WWW"];

#[cfg(test)]
mod tests {
    use super::*;

    fn head(response: &Response, afterwards: Afterwards) -> String {
        let mut out = Vec::new();
        response.encode_head(afterwards, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_whole_response() {
        let response = Response::new(200, "application/json", "{}").header("Cache-Control", "no-store");
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: 2\r\n";
        assert_eq!(head(&response, Afterwards::Keep), format!("{expected}\r\n"));
        assert_eq!(head(&response, Afterwards::Close), format!("{expected}Connection: close\r\n\r\n"));
        assert_eq!(response.sent_body(), b"{}");
    }

    #[test]
    fn an_empty_response_has_a_length_unless_its_status_has_no_body() {
        assert_eq!(head(&Response::empty(404), Afterwards::Keep), "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        for (status, phrase) in [(204, "No Content"), (304, "Not Modified")] {
            let response = Response { body: "ignored".into(), ..Response::empty(status) };
            assert_eq!(head(&response, Afterwards::Keep), format!("HTTP/1.1 {status} {phrase}\r\n\r\n"));
            assert_eq!(response.sent_body(), b"");
        }
    }

    #[test]
    fn a_status_without_a_phrase_keeps_its_space() {
        assert_eq!(head(&Response::empty(299), Afterwards::Keep), "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn a_handler_can_not_contradict_the_framing() {
        let response = Response::new(200, "text/plain", "abc")
            .header("content-length", "7")
            .header("Transfer-Encoding", "chunked")
            .header("CONNECTION", "keep-alive");
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";
        assert_eq!(head(&response, Afterwards::Close), expected);
    }

    #[test]
    fn a_header_that_would_break_its_line_is_left_out() {
        for (name, value) in
            [("X", "a\r\nB: c"), ("X", "a\nb"), ("X", "a\0"), ("X", "é"), ("X Y", "a"), ("", "a"), ("X:", "a"), ("X\r\nY", "a")]
        {
            let response = Response::empty(200).header(name, value).header("Y", "z");
            assert_eq!(head(&response, Afterwards::Keep), "HTTP/1.1 200 OK\r\nY: z\r\nContent-Length: 0\r\n\r\n", "{name:?}: {value:?}");
        }
    }

    #[test]
    fn names_go_out_in_their_usual_case() {
        for (given, written) in [
            ("cache-control", "Cache-Control"),
            ("etag", "ETag"),
            ("www-authenticate", "WWW-Authenticate"),
            ("sec-websocket-accept", "Sec-WebSocket-Accept"),
            ("content-md5", "Content-MD5"),
            ("x--y", "X--Y"),
            ("X-lower", "X-lower"),
        ] {
            let expected = format!("HTTP/1.1 200 OK\r\n{written}: a\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(head(&Response::empty(200).header(given, "a"), Afterwards::Keep), expected);
        }
    }
}
