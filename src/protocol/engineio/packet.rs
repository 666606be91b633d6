//! One Engine.IO packet: a type, then data, as text or binary (Protocol §8).
//!
//! A WebSocket frame is one packet; polling bodies hold several (`payload`). Text is borrowed from the input wherever it can be.

use std::borrow::Cow;

use super::Malformed;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 0: the server's first packet of a session.
    Open,
    /// 1: ends the session.
    Close,
    /// 2: from clients; with the data `probe` while upgrading.
    Ping,
    /// 3: the answer to a ping.
    Pong,
    /// 4: carries a message of the layer above.
    Message,
    /// 5: from a client on its new WebSocket: switch now.
    Upgrade,
    /// 6: ends a poll that has nothing to say.
    Noop,
}

impl Kind {
    /// The ASCII digit that a text packet begins with.
    #[must_use]
    pub const fn digit(self) -> u8 {
        b'0' + self as u8
    }

    /// The type of that number; a binary packet begins with it as a byte.
    const fn numbered(number: u8) -> Result<Kind, Malformed> {
        Ok(match number {
            0 => Kind::Open,
            1 => Kind::Close,
            2 => Kind::Ping,
            3 => Kind::Pong,
            4 => Kind::Message,
            5 => Kind::Upgrade,
            6 => Kind::Noop,
            _ => return Err(Malformed::Type),
        })
    }
}

/// A packet from a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it is for.
    pub kind: Kind,
    /// What follows the type.
    pub data: Data<'a>,
}

/// What a packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes, from a binary packet or from base64.
    Binary(Cow<'a, [u8]>),
}

/// The packet that ends a session.
pub const CLOSE: &[u8] = b"1";
/// The answer to a ping.
pub const PONG: &[u8] = b"3";
/// The answer to the ping that probes a WebSocket.
pub const PROBE_PONG: &[u8] = b"3probe";
/// The packet that ends a poll with nothing to say.
pub const NOOP: &[u8] = b"6";
/// The data of the ping that probes a WebSocket, and of its answer.
pub const PROBE: &str = "probe";

impl<'a> Packet<'a> {
    /// Reads a text packet: a WebSocket text frame, or one cut from a polling body. `b` and a type before base64 is binary.
    ///
    /// # Errors
    /// No type from 0 to 6 first, nothing at all, or bad base64.
    pub fn from_text(text: impl Into<Cow<'a, str>>) -> Result<Packet<'a>, Malformed> {
        let text = text.into();
        let mut bytes = text.bytes();
        match bytes.next() {
            Some(digit @ b'0'..=b'6') => {
                let data = match text {
                    Cow::Borrowed(text) => Cow::Borrowed(&text[1..]),
                    Cow::Owned(mut text) => {
                        text.remove(0);
                        Cow::Owned(text)
                    }
                };
                Ok(Packet { kind: Kind::numbered(digit - b'0')?, data: Data::Text(data) })
            }
            Some(b'b') => {
                let digit = bytes.next().ok_or(Malformed::Type)?;
                let kind = Kind::numbered(digit.wrapping_sub(b'0'))?;
                let data = from_base64(&text.as_bytes()[2..]).ok_or(Malformed::Base64)?;
                Ok(Packet { kind, data: Data::Binary(Cow::Owned(data)) })
            }
            _ => Err(Malformed::Type),
        }
    }

    /// Reads a binary packet: a WebSocket binary frame, or one cut from a binary polling body.
    ///
    /// # Errors
    /// No type from 0 to 6 first, or nothing at all.
    pub fn from_binary(bytes: &'a [u8]) -> Result<Packet<'a>, Malformed> {
        let (&number, data) = bytes.split_first().ok_or(Malformed::Type)?;
        Ok(Packet { kind: Kind::numbered(number)?, data: Data::Binary(Cow::Borrowed(data)) })
    }

    /// Whether it is the ping that probes a WebSocket.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.kind == Kind::Ping && matches!(&self.data, Data::Text(text) if text == PROBE)
    }
}

/// Standard alphabet, padded, nothing between: as all clients write it.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = match text {
        [digits @ .., b'=', b'='] | [digits @ .., b'='] => digits,
        digits => digits,
    };
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for quad in digits.chunks(4) {
        let mut bits = 0;
        for place in 0..4 {
            bits = bits << 6 | quad.get(place).map_or(Some(0), |&digit| sextet(digit))?;
        }
        // Four digits are three bytes, three are two, two are one; the length rules out a lone digit.
        bytes.extend_from_slice(&bits.to_be_bytes()[1..quad.len()]);
    }
    Some(bytes)
}

/// The value of a base64 digit.
const fn sextet(digit: u8) -> Option<u32> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    } as u32)
}
