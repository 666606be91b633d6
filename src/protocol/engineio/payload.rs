//! Polling bodies (Protocol §8): several packets in one POST or in the answer to one GET.
//!
//! In: a string payload, a binary one, or a form that holds a string payload. Lengths in a string payload count UTF-16 units, and
//! 1.x clients encode such a payload to UTF-8 twice. Packets are cut off one by one and borrow from the body, so a body of a million
//! packets costs no memory but its own.
//!
//! Out: text only, and in pure ASCII, so that bytes, characters and UTF-16 units are one count for whoever counts. At most
//! `POLL_PACKETS_MAX` packets and `POLL_BYTES_MAX` bytes an answer; what does not fit stays with the caller.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::Malformed;
use super::packet::Packet;
use crate::limits::{PACKET_LENGTH_DIGITS_MAX, POLL_BYTES_MAX, POLL_PACKETS_MAX};

/// How the body of a POST is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A string payload in UTF-8.
    Text,
    /// A binary payload.
    Binary,
    /// A form whose field `d` is a string payload: JSONP.
    Form,
}

impl Format {
    /// The format that a POST's Content-Type tells; `is_jsonp`: whether the session or the request is JSONP's. Parameters are ignored.
    #[must_use]
    pub fn of(content_type: Option<&str>, is_jsonp: bool) -> Format {
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/octet-stream") {
            Format::Binary
        } else if is_jsonp && media.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Format::Form
        } else {
            Format::Text
        }
    }
}

/// The body of a POST, freed of what is around the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// A string payload.
    Text(Cow<'a, str>),
    /// A binary payload.
    Binary(&'a [u8]),
}

impl<'a> Body<'a> {
    /// Takes the whole body of a POST.
    ///
    /// # Errors
    /// An empty body, text that is no UTF-8, or a form without `d`.
    pub fn new(format: Format, body: &'a [u8]) -> Result<Body<'a>, Malformed> {
        let body = match format {
            Format::Text => Body::Text(std::str::from_utf8(body).map_err(|_| Malformed::Utf8)?.into()),
            Format::Binary => Body::Binary(body),
            Format::Form => Body::Text(form(body)?.into()),
        };
        if body.is_empty() { Err(Malformed::Framing) } else { Ok(body) }
    }

    /// The packets in it, in order. After an error there are no more.
    #[must_use]
    pub fn packets(&self) -> Packets<'_> {
        Packets(match self {
            Body::Text(text) => Rest::Text(text),
            Body::Binary(bytes) => Rest::Binary(bytes),
        })
    }

    fn is_empty(&self) -> bool {
        match self {
            Body::Text(text) => text.is_empty(),
            Body::Binary(bytes) => bytes.is_empty(),
        }
    }
}

/// The packets of a body.
#[derive(Debug, Clone)]
pub struct Packets<'a>(Rest<'a>);

/// What has not been cut yet.
#[derive(Debug, Clone, Copy)]
enum Rest<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let packet = match &mut self.0 {
            Rest::Text(rest) => next_in_text(rest),
            Rest::Binary(rest) => next_in_binary(rest),
        };
        if packet.is_err() {
            self.0 = Rest::Binary(&[]);
        }
        packet.transpose()
    }
}

/// The next packet of a string payload. Empty ones (`0:`) are passed over, as the stock server does.
fn next_in_text<'a>(rest: &mut &'a str) -> Result<Option<Packet<'a>>, Malformed> {
    while !rest.is_empty() {
        let (units, at) = length(rest.as_bytes(), b':', |byte| byte.checked_sub(b'0'))?;
        let from = &rest[at..];
        let end = utf16_prefix(from, units).ok_or(Malformed::Framing)?;
        *rest = &from[end..];
        if end > 0 {
            return Packet::from_text(encoded_once(&from[..end])).map(Some);
        }
    }
    Ok(None)
}

/// The next packet of a binary payload.
fn next_in_binary<'a>(rest: &mut &'a [u8]) -> Result<Option<Packet<'a>>, Malformed> {
    while let Some((&marker, behind)) = rest.split_first() {
        let (bytes, at) = length(behind, 0xff, Some)?;
        let (packet, after) = behind[at..].split_at_checked(bytes).ok_or(Malformed::Framing)?;
        *rest = after;
        return match marker {
            0 | 1 if packet.is_empty() => continue,
            0 => Packet::from_text(std::str::from_utf8(packet).map_err(|_| Malformed::Utf8)?).map(Some),
            1 => Packet::from_binary(packet).map(Some),
            _ => Err(Malformed::Framing),
        };
    }
    Ok(None)
}

/// A length in decimal digits up to `end`, and where the packet begins. `digit` gives a byte's value, 0 to 9 if it is a digit.
fn length(bytes: &[u8], end: u8, digit: impl Fn(u8) -> Option<u8>) -> Result<(usize, usize), Malformed> {
    let mut length: u64 = 0;
    for (place, &byte) in bytes.iter().enumerate().take(PACKET_LENGTH_DIGITS_MAX + 1) {
        if byte == end && place > 0 {
            return Ok((usize::try_from(length).map_err(|_| Malformed::Framing)?, place + 1));
        }
        let value = digit(byte).filter(|value| *value <= 9).ok_or(Malformed::Framing)?;
        length = length * 10 + u64::from(value);
    }
    Err(Malformed::Framing)
}

/// The bytes that the first `units` UTF-16 units of `text` take; `None` if it has fewer, or if they end inside a character.
fn utf16_prefix(text: &str, units: usize) -> Option<usize> {
    // No character has more units than bytes.
    if units > text.len() {
        return None;
    }
    let mut left = units;
    for (at, byte) in text.bytes().enumerate() {
        // A character's first byte counts for all of it: two units from four bytes on.
        let units = match byte {
            0x80..=0xbf => continue,
            0xf0.. => 2,
            _ => 1,
        };
        if left == 0 {
            return Some(at);
        }
        left = left.checked_sub(units)?;
    }
    (left == 0).then_some(text.len())
}

/// 1.x clients encode a string payload's packets to UTF-8 before the payload as a whole is: such a packet has characters from
/// U+0080 to U+00FF, none above, and they read as bytes are UTF-8. That is undone here.
fn encoded_once(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || text.chars().any(|c| c > '\u{ff}') {
        return text.into();
    }
    let bytes = text.chars().map(|c| c as u8).collect();
    String::from_utf8(bytes).map_or(text.into(), Cow::Owned)
}

/// The field `d` of a form. JSONP clients double the backslash of an escaped line feed, so that a textarea's own line ends can be
/// told from it: `\n` with one backslash is a line feed, with two it is an escape.
fn form(body: &[u8]) -> Result<String, Malformed> {
    let field = body.split(|byte| *byte == b'&').find_map(|field| field.strip_prefix(b"d=")).ok_or(Malformed::Form)?;
    let spaced: Vec<u8> = field.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    let text = percent_decode(&spaced).decode_utf8().map_err(|_| Malformed::Utf8)?;
    let mut payload = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find("\\n") {
        let before = &rest[..at];
        if let Some(before) = before.strip_suffix('\\') {
            payload.push_str(before);
            payload.push_str("\\n");
        } else {
            payload.push_str(before);
            payload.push('\n');
        }
        rest = &rest[at + 2..];
    }
    payload.push_str(rest);
    Ok(payload)
}

/// How the answers to a session's polls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A string payload: sessions that asked for base64.
    Text,
    /// A binary payload: all others. Every client without base64 reads it, some read nothing else.
    Binary,
    /// A string payload as the argument of a call to `___eio[…]`: JSONP, with the request's own `j`.
    Jsonp(u32),
}

impl Encoding {
    /// The Content-Type of an answer. Java's clients compare that of a binary one as a whole: it has no parameters.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Encoding::Text => "text/plain; charset=UTF-8",
            Encoding::Binary => "application/octet-stream",
            Encoding::Jsonp(_) => "text/javascript; charset=UTF-8",
        }
    }
}

/// The answer to a poll, packet by packet.
#[derive(Debug)]
pub struct Answer {
    encoding: Encoding,
    body: Vec<u8>,
    packets: usize,
}

impl Answer {
    /// An answer without packets.
    #[must_use]
    pub fn new(encoding: Encoding) -> Answer {
        let mut body = Vec::new();
        if let Encoding::Jsonp(index) = encoding {
            body.extend_from_slice(format!("___eio[{index}](\"").as_bytes());
        }
        Answer { encoding, body, packets: 0 }
    }

    /// Appends a text packet, its type included, in ASCII: what is not yet is escaped as by [`ascii`]. `false`: the answer is full
    /// and nothing was appended. The first packet always fits.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        if packet.is_ascii() {
            return self.push_ascii(packet);
        }
        let mut escaped = Vec::with_capacity(packet.len() * 2);
        ascii(&String::from_utf8_lossy(packet), &mut escaped);
        self.push_ascii(&escaped)
    }

    /// How many packets it has.
    #[must_use]
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// The body.
    #[must_use]
    pub fn into_body(mut self) -> Vec<u8> {
        if matches!(self.encoding, Encoding::Jsonp(_)) {
            self.body.extend_from_slice(b"\");");
        }
        self.body
    }

    fn push_ascii(&mut self, packet: &[u8]) -> bool {
        let bytes = self.body.len() + packet.len() + FRAMING_BYTES_MAX;
        if self.packets == POLL_PACKETS_MAX || (self.packets > 0 && bytes > POLL_BYTES_MAX) {
            return false;
        }
        self.packets += 1;
        let digits = packet.len().to_string();
        match self.encoding {
            Encoding::Text => {
                self.body.extend_from_slice(digits.as_bytes());
                self.body.push(b':');
                self.body.extend_from_slice(packet);
            }
            Encoding::Binary => {
                self.body.push(0);
                self.body.extend(digits.bytes().map(|digit| digit - b'0'));
                self.body.push(0xff);
                self.body.extend_from_slice(packet);
            }
            Encoding::Jsonp(_) => {
                self.body.extend_from_slice(digits.as_bytes());
                self.body.push(b':');
                quoted(packet, &mut self.body);
            }
        }
        true
    }
}

/// A packet's length and what is around it.
const FRAMING_BYTES_MAX: usize = 22;

/// Appends `text` with every UTF-16 unit beyond ASCII as `\uXXXX`. In JSON that is the same text, since all such characters stand
/// in strings there; nothing else is sent by polling but a namespace that a client itself made up.
pub fn ascii(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len());
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| !byte.is_ascii()) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let mut chars = rest[at..].chars();
        if let Some(c) = chars.next() {
            for unit in c.encode_utf16(&mut [0; 2]) {
                unit_escape(*unit, out);
            }
        }
        rest = chars.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

/// `packet` as it stands inside a JavaScript string.
fn quoted(packet: &[u8], out: &mut Vec<u8>) {
    for &byte in packet {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            ..b' ' => unit_escape(u16::from(byte), out),
            _ => out.push(byte),
        }
    }
}

fn unit_escape(unit: u16, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| HEX[usize::from(unit >> shift & 15)]));
}
