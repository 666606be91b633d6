//! A Socket.IO client on a WebSocket: each packet is a text frame, ours masked.

use crate::driver::{Driver, Event, Request, Who, unexpected};
use crate::phone::Phone;

/// What goes with every request that opens a WebSocket.
pub const UPGRADE: &[u8] =
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// Every frame has the same key; no server looks at it.
const MASK: [u8; 4] = *b"mask";
/// The last frame of a message: text, or bytes; and what asks for a sign of life, and is one.
const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
const IS_MASKED: u8 = 0x80;
/// A second byte of this means that the length is in the next two.
const LENGTH_IN_TWO: u8 = 126;

/// One client.
pub struct Client {
    phone: Phone,
    stage: Stage,
    packet: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The request is not answered.
    Asked {
        probes: bool,
    },
    /// The probe is not answered.
    Probed,
    Open,
}

impl Client {
    /// One that begins a session.
    pub fn new(who: Who) -> Client {
        Client { phone: Phone::new(who), stage: Stage::Asked { probes: false }, packet: Vec::new() }
    }

    /// One that takes a session over from polling; puts its request. One [`Event::Ready`] will say that it has.
    pub fn upgrading(phone: Phone, sid: &str, out: &mut Vec<u8>) -> Client {
        phone.put_request_line("GET", "websocket", sid, out);
        out.extend_from_slice(UPGRADE);
        Client { phone, stage: Stage::Asked { probes: true }, packet: Vec::new() }
    }

    fn opened(&mut self, input: &[u8], probes: bool, out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String> {
        let Some(head) = upgraded(input)? else { return Ok(None) };
        self.stage = if probes { Stage::Probed } else { Stage::Open };
        if probes {
            put_frame(TEXT, b"2probe", out);
        }
        Ok(Some((head, Event::Nothing)))
    }
}

impl Driver for Client {
    fn open(&mut self, out: &mut Vec<u8>) -> usize {
        self.phone.put_request_line("GET", "websocket", "", out);
        out.extend_from_slice(UPGRADE);
        self.phone.openings()
    }

    fn request(&mut self, slot: u32, request: Request, out: &mut Vec<u8>) {
        self.packet.clear();
        self.phone.request(slot, request, &mut self.packet);
        put_frame(TEXT, &self.packet, out);
    }

    fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String> {
        if let Stage::Asked { probes } = self.stage {
            return self.opened(input, probes, out);
        }
        let Some((whole, packet)) = text(input)? else { return Ok(None) };
        if self.stage == Stage::Probed {
            if packet != b"3probe" {
                return Err(unexpected(packet));
            }
            self.stage = Stage::Open;
            put_frame(TEXT, b"5", out);
            return Ok(Some((whole, Event::Ready)));
        }
        self.packet.clear();
        let event = self.phone.hear(packet, &mut self.packet)?;
        if !self.packet.is_empty() {
            put_frame(TEXT, &self.packet, out);
        }
        Ok(Some((whole, event)))
    }
}

/// The bytes of the answer to the request that opens a WebSocket, if it is whole. Any other than 101 is an error.
pub fn upgraded(input: &[u8]) -> Result<Option<usize>, String> {
    let Some(head) = memchr::memmem::find(input, b"\r\n\r\n") else { return Ok(None) };
    if input.starts_with(b"HTTP/1.1 101 ") { Ok(Some(head + 4)) } else { Err(unexpected(input)) }
}

/// What the header of the first frame says, if that is whole.
pub struct Header {
    /// [`BINARY`] and the like.
    pub kind: u8,
    /// Bytes of the header, and of the payload behind it.
    pub bytes: usize,
    pub payload: usize,
}

/// The header of the first frame. One that is masked, or has more than 65,535 bytes, is an error.
pub fn header(input: &[u8]) -> Result<Option<Header>, String> {
    let [kind, length, rest @ ..] = input else { return Ok(None) };
    let (bytes, payload) = match (*length, rest) {
        (LENGTH_IN_TWO, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        (LENGTH_IN_TWO, _) => return Ok(None),
        (length, _) if length < LENGTH_IN_TWO => (2, usize::from(length)),
        _ => return Err(unexpected(input)),
    };
    Ok(Some(Header { kind: *kind, bytes, payload }))
}

/// The first frame, if it is whole: its bytes in all, and its text.
fn text(input: &[u8]) -> Result<Option<(usize, &[u8])>, String> {
    let Some(Header { kind, bytes, payload }) = header(input)? else { return Ok(None) };
    if kind != TEXT {
        return Err(unexpected(input));
    }
    Ok(input.get(bytes..bytes + payload).map(|text| (bytes + payload, text)))
}

/// Puts a frame of at most 65,535 bytes, masked.
pub fn put_frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    if payload.len() < usize::from(LENGTH_IN_TWO) {
        out.push(IS_MASKED | payload.len() as u8);
    } else {
        out.push(IS_MASKED | LENGTH_IN_TWO);
        out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    out.extend_from_slice(&MASK);
    let begin = out.len();
    out.extend_from_slice(payload);
    for four in out[begin..].chunks_mut(MASK.len()) {
        four.iter_mut().zip(MASK).for_each(|(byte, mask)| *byte ^= mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(texts: &[&str]) -> Vec<u8> {
        let mut out = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n".to_vec();
        for text in texts {
            out.push(TEXT);
            if text.len() < 126 {
                out.push(text.len() as u8);
            } else {
                out.extend_from_slice(&[126, (text.len() >> 8) as u8, text.len() as u8]);
            }
            out.extend_from_slice(text.as_bytes());
        }
        out
    }

    fn said(texts: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        texts.iter().for_each(|text| put_frame(TEXT, text.as_bytes(), &mut out));
        out
    }

    #[test]
    fn a_session_opens_registers_and_acknowledges() {
        let push = format!("42[\"push\",{{\"t\":5,\"mid\":\"77\",\"msg\":\"{}\"}}]", "x".repeat(200));
        let input = sent(&["0{\"sid\":\"s\"}", "40", "42[\"register_c\",{\"t\":-2,\"num\":0}]", &push]);
        let events = [Event::Nothing, Event::Ready, Event::Ready, Event::Ready, Event::Delivered];
        let out = said(&["42[\"register\",{\"topic\":\"load\",\"num\":0}]", "42[\"push_c\",{\"mid\":\"77\"}]"]);
        crate::driver::tests::check(&|| Box::new(Client::new(Who::Subscriber(1))), &input, &events, &out);
    }

    #[test]
    fn an_upgrade_probes_first() {
        let make = || Box::new(Client::upgrading(Phone::new(Who::Lasting(1)), "s", &mut Vec::new())) as Box<dyn Driver>;
        let (input, events) = (sent(&["3probe", "42[\"push\",{\"mid\":\"7\"}]"]), [Event::Nothing, Event::Ready, Event::Delivered]);
        crate::driver::tests::check(&make, &input, &events, &said(&["2probe", "5", "42[\"push_c\",{\"mid\":\"7\"}]"]));
    }
}
