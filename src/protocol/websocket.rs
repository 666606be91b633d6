//! WebSocket: the handshake, messages from bytes, frames to bytes. No sockets, no waiting.
//!
//! Messages are read by tungstenite, which is lent the bytes that were read (Dependencies §5): a connection that is idle holds one
//! small buffer. Frames are written past it, since a frame for many is made once and shared, and tungstenite's own buffer for what
//! goes out never shrinks. What it wants to answer by itself, pongs and closes, is taken from it by [`Decoder::take_control`].
//!
//! Its buffer for what comes in never shrinks either, and can't be seen. So behind a large frame it is given up, with all of its
//! tungstenite: the bytes that go in are followed from frame to frame, and where a message ends with nothing behind it there is
//! nothing to lose.

use std::io::{self, Read, Write};

use async_tungstenite::tungstenite::error::{CapacityError, Error};
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use async_tungstenite::tungstenite::{Message, Utf8Bytes};
use bytes::Bytes;

use crate::protocol::http::head::Head;
use crate::protocol::http::refusal::HttpRefusal;
use crate::protocol::refusal::Code;

/// Bytes of the longest header of a frame from the server: no mask.
pub const HEADER_BYTES_MAX: usize = 10;
/// Bytes of the longest header of a frame from a client.
const CLIENT_HEADER_BYTES_MAX: usize = 14;
/// Behind a frame with more bytes of payload its buffer is given up: a large picture costs its sender's idle connection nothing.
const KEPT_FRAME_BYTES_MAX: u64 = 16 << 10;
/// Bytes of the text of a `Sec-WebSocket-Key`: 16 random bytes in base64.
const KEY_BYTES: usize = 24;
/// The only version there is (RFC 6455).
const VERSION: &str = "13";

/// The kinds of frames that the server writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A whole text message.
    Text,
    /// A whole binary message.
    Binary,
    /// The last frame; its payload begins with the close code.
    Close,
    /// Asks the peer for a pong.
    Ping,
    /// The answer to a ping.
    Pong,
}

impl Opcode {
    /// The first byte of an unfragmented frame.
    const fn first_byte(self) -> u8 {
        0x80 | match self {
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }
}

/// What a peer has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A whole text message, fragments joined.
    Text(Utf8Bytes),
    /// A whole binary message, fragments joined. It may be a slice of a larger buffer: copy what is small and kept long.
    Binary(Bytes),
    /// Any answer to a ping.
    Pong,
    /// The peer's last frame, with its code if it gave one: nothing is read behind it. The answer to it is in [`Decoder::take_control`].
    Close(Option<u16>),
}

/// Why nothing more can be read from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It broke the protocol: close code 1002.
    Protocol,
    /// Text that is not UTF-8: close code 1007.
    Utf8,
    /// A frame or message over the limit: close code 1009.
    TooLarge,
}

impl Broken {
    /// The close code that the peer is told.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Broken::Protocol => 1002,
            Broken::Utf8 => 1007,
            Broken::TooLarge => 1009,
        }
    }
}

/// How a decoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes of one message, all its fragments together; a larger one breaks the connection.
    pub message_max: usize,
    /// Bytes of the buffer that a connection holds while it is idle. Larger: fewer copies of large frames.
    pub buffer: usize,
}

/// Answers the handshake: the whole head of the 101. By GET or, as some controllers do, by POST (Protocol §9).
///
/// # Errors
/// What is wrong with the request: 400, or 426 for another version.
pub fn accept(head: &Head) -> Result<Vec<u8>, HttpRefusal> {
    if !head.upgrade().is_some_and(|name| name.eq_ignore_ascii_case("websocket")) || !matches!(head.method(), "GET" | "POST") {
        return Err(HttpRefusal::new(Code::BadField, "Upgrade"));
    }
    if head.header("sec-websocket-version") != Some(VERSION) {
        return Err(HttpRefusal::with_status(426, Code::BadField, "Sec-WebSocket-Version"));
    }
    let key = head.header("sec-websocket-key").filter(|key| is_key(key));
    let key = key.ok_or(HttpRefusal::new(Code::BadField, "Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let text =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
    Ok(text.into_bytes())
}

fn is_key(key: &str) -> bool {
    key.len() == KEY_BYTES && key.ends_with("==") && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
}

/// Reads the messages of one connection.
#[derive(Debug)]
pub struct Decoder {
    socket: WebSocket<Pipe>,
}

/// What tungstenite takes for its socket: bytes that were lent, and bytes that it wants to send.
#[derive(Debug, Default)]
struct Pipe {
    /// Of it the bytes from `taken` to `end` are to be read.
    input: Vec<u8>,
    taken: usize,
    end: usize,
    output: Vec<u8>,
    passed: Passed,
}

/// Where in its frames a peer's stream is: as far as bytes have passed to tungstenite.
#[derive(Debug, Default)]
struct Passed {
    /// The header that bytes pass of, and how many have.
    header: [u8; CLIENT_HEADER_BYTES_MAX],
    known: u8,
    /// Bytes of payload that are still to pass; `None`: the header is not whole.
    left: Option<u64>,
    /// A fragment has passed and its message goes on.
    in_message: bool,
    /// Messages that have passed whole and were not read from tungstenite.
    unread: u32,
    /// A frame has begun for which the buffer grows beyond what is kept.
    is_large: bool,
}

impl Decoder {
    /// A decoder for a connection whose handshake is answered.
    #[must_use]
    pub fn new(options: Options) -> Decoder {
        let config = WebSocketConfig::default()
            .read_buffer_size(options.buffer)
            .write_buffer_size(0)
            .max_message_size(Some(options.message_max))
            .max_frame_size(Some(options.message_max));
        Decoder { socket: WebSocket::from_raw_socket(Pipe::default(), Role::Server, Some(config)) }
    }

    /// Lends the `filled` first bytes of `scratch`, which were just read, until [`Decoder::take_back`]. There must be none left of
    /// an earlier loan.
    pub fn lend(&mut self, scratch: Vec<u8>, filled: usize) {
        let pipe = self.socket.get_mut();
        debug_assert!(!pipe.has_input(), "what was lent before is read first");
        (pipe.taken, pipe.end) = (0, filled.min(scratch.len()));
        pipe.input = scratch;
    }

    /// Gives the scratch back. Bytes of it that were not read yet are kept in a buffer of their own.
    pub fn take_back(&mut self) -> Vec<u8> {
        let pipe = self.socket.get_mut();
        let rest = pipe.input[pipe.taken..pipe.end].to_vec();
        (pipe.taken, pipe.end) = (0, rest.len());
        std::mem::replace(&mut pipe.input, rest)
    }

    /// Whether bytes were kept: they are read before anything else is lent.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.socket.get_ref().has_input()
    }

    /// The next message; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What broke the connection; nothing more can be read.
    pub fn next_item(&mut self) -> Result<Option<Item>, Broken> {
        loop {
            return match self.socket.read() {
                Ok(Message::Text(text)) => {
                    self.note_read();
                    Ok(Some(Item::Text(text)))
                }
                Ok(Message::Binary(bytes)) => {
                    self.note_read();
                    Ok(Some(Item::Binary(bytes)))
                }
                Ok(Message::Pong(_)) => Ok(Some(Item::Pong)),
                Ok(Message::Close(frame)) => {
                    // Its answer is written by the next look.
                    let _ = self.socket.flush();
                    Ok(Some(Item::Close(frame.map(|frame| frame.code.into()))))
                }
                Ok(Message::Ping(_) | Message::Frame(_)) => continue,
                // The pipe is empty, or nothing follows a close.
                Err(Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed) => Ok(None),
                Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => Err(Broken::TooLarge),
                Err(Error::Utf8(_)) => Err(Broken::Utf8),
                Err(_) => Err(Broken::Protocol),
            };
        }
    }

    /// A message was read. Behind a large one tungstenite is made anew: it has read all that has passed, and has nothing to send, since
    /// it sends before it reads on.
    fn note_read(&mut self) {
        let pipe = self.socket.get_mut();
        pipe.passed.unread -= 1;
        if pipe.passed.is_large && pipe.passed.is_all_read() {
            pipe.passed.is_large = false;
            let pipe = std::mem::take(pipe);
            let config = *self.socket.get_config();
            self.socket = WebSocket::from_raw_socket(pipe, Role::Server, Some(config));
        }
    }

    /// The frames that answer pings and a close; empty where there is nothing to answer.
    #[must_use]
    pub fn take_control(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.socket.get_mut().output)
    }
}

impl Pipe {
    fn has_input(&self) -> bool {
        self.taken < self.end
    }
}

impl Passed {
    /// Goes on through bytes that come next: how many of them may pass now. All, but with a large frame none behind the end of a
    /// frame, so that nothing is lost with its buffer.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() {
            match self.left {
                None => {
                    self.header[usize::from(self.known)] = bytes[passed];
                    self.known += 1;
                    passed += 1;
                    self.left = self.payload_bytes();
                    self.is_large |= self.left > Some(KEPT_FRAME_BYTES_MAX);
                }
                Some(left) => {
                    let part = left.min((bytes.len() - passed) as u64);
                    self.left = Some(left - part);
                    passed += part as usize;
                }
            }
            if self.left == Some(0) {
                self.end_frame();
                if self.is_large {
                    break;
                }
            }
        }
        passed
    }

    /// The length in a header that is whole.
    fn payload_bytes(&self) -> Option<u64> {
        let known = usize::from(self.known);
        let header = &self.header[..known];
        let second = *header.get(1)?;
        let (length_end, length) = match second & 0x7f {
            126 => (4, u64::from(u16::from_be_bytes(header.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(header.get(2..10)?.try_into().ok()?)),
            short => (2, u64::from(short)),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        (known == length_end + mask).then_some(length)
    }

    fn end_frame(&mut self) {
        let (is_final, is_control) = (self.header[0] & 0x80 != 0, self.header[0] & 0x08 != 0);
        if !is_control {
            self.in_message = !is_final;
            self.unread += u32::from(is_final);
        }
        (self.known, self.left) = (0, None);
    }

    /// Whether tungstenite holds nothing of what has passed.
    fn is_all_read(&self) -> bool {
        self.known == 0 && !self.in_message && self.unread == 0
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.input[self.taken..self.end];
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = self.passed.pass(&rest[..rest.len().min(buffer.len())]);
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        self.taken += bytes;
        Ok(bytes)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The header of an unfragmented, unmasked frame with `length` bytes of payload; it is as short as the standard asks.
#[must_use]
pub fn header(opcode: Opcode, length: usize) -> Header {
    let mut bytes = [0; HEADER_BYTES_MAX];
    bytes[0] = opcode.first_byte();
    let used = match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => {
            bytes[1] = short;
            2
        }
        (_, Ok(medium)) => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    };
    Header { bytes, used }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    used: usize,
}

impl Header {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

/// Appends a frame whose payload `write` appends.
pub fn frame(opcode: Opcode, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    /// The header of nearly all frames; a shorter or longer one moves the payload.
    const USUAL: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; USUAL]);
    write(out);
    let header = header(opcode, out.len() - start - USUAL);
    let header = header.as_bytes();
    if header.len() == USUAL {
        out[start..start + USUAL].copy_from_slice(header);
    } else {
        out.splice(start..start + USUAL, header.iter().copied());
    }
}

/// Appends a close frame with that code and no reason.
pub fn close_frame(code: u16, out: &mut Vec<u8>) {
    frame(Opcode::Close, out, |out| out.extend_from_slice(&code.to_be_bytes()));
}

/// How many bytes the header and the payload of the frame at the front of `bytes` have. `None`: not even its header is whole. The
/// frames are the server's own, so lengths fit and there is no mask.
#[must_use]
pub fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes.get(1)? {
        126 => Some((4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)))),
        127 => Some((10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?)),
        short => Some((2, usize::from(short))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http;
    use crate::seeded::Seeded;

    const OPTIONS: Options = Options { message_max: 70_000, buffer: 512 };

    fn head(text: &str) -> Head {
        let mut decoder = http::Decoder::new();
        decoder.push(text.as_bytes());
        decoder.next_head().unwrap().unwrap()
    }

    fn request(lines: &str) -> Head {
        head(&format!("GET /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
    }

    /// A frame as a client sends it: masked.
    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header(Opcode::Text, payload.len()).as_bytes().to_vec();
        bytes[0] = first;
        bytes[1] |= 0x80;
        let mask = [1, 2, 3, 4];
        bytes.extend(mask);
        bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        bytes
    }

    /// Everything that a connection says, the bytes read in pieces of that size.
    fn read(bytes: &[u8], piece: usize) -> (Vec<Item>, Option<Broken>, Vec<u8>) {
        let mut decoder = Decoder::new(OPTIONS);
        let (mut items, mut control) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.lend(piece.to_vec(), piece.len());
            loop {
                let next = decoder.next_item();
                control.extend(decoder.take_control());
                match next {
                    Ok(Some(item @ Item::Close(_))) => return ([items, vec![item]].concat(), None, control),
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => break,
                    Err(broken) => return (items, Some(broken), control),
                }
            }
            assert!(!decoder.has_input());
            decoder.take_back();
        }
        (items, None, control)
    }

    #[test]
    fn the_handshake_of_the_standard_is_answered() {
        let lines = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
        let answer = String::from_utf8(accept(&request(lines)).unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n") && answer.ends_with("\r\n\r\n"));
        assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(accept(&head(&format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))).is_ok());
    }

    #[test]
    fn a_handshake_that_lacks_something_is_refused() {
        let whole =
            ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"];
        for (at, instead, status) in [
            (0, "X: y", 400),
            (0, "Upgrade: h2c", 400),
            (1, "Connection: close", 400),
            (2, "X: y", 400),
            (2, "Sec-WebSocket-Key: short==", 400),
            (2, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=!", 400),
            (3, "Sec-WebSocket-Version: 8", 426),
        ] {
            let mut lines = whole;
            lines[at] = instead;
            assert_eq!(accept(&request(&(lines.join("\r\n") + "\r\n"))).unwrap_err().status, status, "{instead}");
        }
    }

    #[test]
    fn messages_are_read_however_the_bytes_are_cut() {
        let large = vec![b'x'; 66_000];
        let mut bytes = client_frame(0x81, "门".as_bytes());
        bytes.extend(client_frame(0x01, b"in "));
        bytes.extend(client_frame(0x89, b"are you there"));
        bytes.extend(client_frame(0x80, b"two"));
        bytes.extend(client_frame(0x82, &large));
        bytes.extend(client_frame(0x8a, b""));
        bytes.extend(client_frame(0x88, &1001_u16.to_be_bytes()));
        let expected =
            vec![Item::Text("门".into()), Item::Text("in two".into()), Item::Binary(large.into()), Item::Pong, Item::Close(Some(1001))];
        for piece in [1, 2, 3, 7, 500, 512, 5_000, bytes.len()] {
            let (items, broken, control) = read(&bytes, piece);
            assert!((items, broken) == (expected.clone(), None), "{piece}");
            let mut answers = Vec::new();
            frame(Opcode::Pong, &mut answers, |out| out.extend_from_slice(b"are you there"));
            close_frame(1001, &mut answers);
            assert_eq!(control, answers, "{piece}");
        }
    }

    #[test]
    fn what_breaks_a_connection_has_its_code() {
        for (bytes, code) in [
            (client_frame(0x81, &[0xff]), 1007),
            (client_frame(0xc1, b"reserved bit"), 1002),
            (client_frame(0x89, &[0; 126]), 1002),
            (client_frame(0x83, b"unknown opcode"), 1002),
            (client_frame(0x80, b"no message to go on with"), 1002),
            (client_frame(0x82, &[0; 70_001]), 1009),
            ([client_frame(0x02, &[0; 40_000]), client_frame(0x80, &[0; 40_000])].concat(), 1009),
            (vec![0x81, 0x01, b'x'], 1002),
            (vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], 1009),
        ] {
            let (items, broken, _) = read(&bytes, bytes.len());
            assert_eq!((items.as_slice(), broken.map(Broken::close_code)), (&[][..], Some(code)), "{:?}", &bytes[..2]);
        }
    }

    #[test]
    fn what_is_not_read_of_a_loan_is_kept() {
        let bytes: Vec<u8> = (0..100).flat_map(|n: u8| client_frame(0x82, &[n; 50])).collect();
        let mut decoder = Decoder::new(OPTIONS);
        decoder.lend(bytes.clone(), bytes.len());
        assert_eq!(decoder.next_item(), Ok(Some(Item::Binary(vec![0; 50].into()))));
        assert_eq!(decoder.take_back().len(), bytes.len());
        assert!(decoder.has_input());
        for n in 1..100 {
            assert_eq!(decoder.next_item(), Ok(Some(Item::Binary(vec![n; 50].into()))));
        }
        assert_eq!(decoder.next_item(), Ok(None));
        assert!(!decoder.has_input());
    }

    /// Whether a decoder that has nothing left to read holds a buffer that grew.
    fn holds_a_large_buffer(decoder: &Decoder) -> bool {
        decoder.socket.get_ref().passed.is_large
    }

    #[test]
    fn the_buffer_of_a_large_message_is_given_up_with_it() {
        let large = vec![b'x'; 60_000];
        let parts = [client_frame(0x01, &large[..30_000]), client_frame(0x89, b"ping"), client_frame(0x80, &large[30_000..])].concat();
        for (sent, is_one_frame) in [(client_frame(0x81, &large), true), (client_frame(0x82, &large), true), (parts, false)] {
            for (before, behind) in [(&b""[..], &b""[..]), (b"a", b""), (b"", b"b"), (b"a", b"b")] {
                let small = |text: &[u8]| if text.is_empty() { Vec::new() } else { client_frame(0x82, text) };
                let bytes = [small(before), sent.clone(), small(behind)].concat();
                let mut decoder = Decoder::new(OPTIONS);
                decoder.lend(bytes.clone(), bytes.len());
                let mut lengths = Vec::new();
                while let Some(item) = decoder.next_item().unwrap() {
                    let payload: Bytes = match item {
                        Item::Text(text) => text.into(),
                        Item::Binary(payload) => payload,
                        other => panic!("{other:?}"),
                    };
                    // Nobody but its reader holds it, or a part of what it stands in.
                    assert!(payload.len() < 60_000 || !is_one_frame || payload.is_unique());
                    lengths.push(payload.len());
                }
                let expected: Vec<usize> = [before.len(), 60_000, behind.len()].into_iter().filter(|length| *length > 0).collect();
                assert_eq!(lengths, expected);
                assert!(!holds_a_large_buffer(&decoder));
                let mut pong = Vec::new();
                frame(Opcode::Pong, &mut pong, |out| out.extend_from_slice(b"ping"));
                assert_eq!(decoder.take_control(), if is_one_frame { Vec::new() } else { pong });
            }
        }
    }

    #[test]
    fn nothing_is_lost_between_large_and_small_frames() {
        let mut seeded = Seeded(11);
        for round in 0..300 {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..=seeded.below(12) {
                let sizes = [0, 1, 125, 126, 16_383, 16_384, 16_385, 20_000];
                let (mut whole, fragments) = (Vec::new(), seeded.below(3));
                for at in 0..=fragments {
                    if seeded.below(3) == 0 {
                        bytes.extend(client_frame(0x8a, b""));
                        expected.push(Item::Pong);
                    }
                    let payload = vec![seeded.next_u64() as u8; sizes[seeded.below(sizes.len())]];
                    let first = if at == 0 { 2 } else { 0 } | if at == fragments { 0x80 } else { 0 };
                    bytes.extend(client_frame(first, &payload));
                    whole.extend(payload);
                }
                expected.push(Item::Binary(whole.into()));
            }
            let piece = [7, 100, 4_096, 20_000, 65_536][seeded.below(5)];
            let (items, broken, control) = read(&bytes, piece);
            assert!((items, broken, control.len()) == (expected, None, 0), "round {round}");
        }
    }

    #[test]
    fn noise_breaks_a_connection_and_nothing_else() {
        let mut seeded = Seeded(7);
        for _ in 0..20_000 {
            let mut bytes = client_frame(0x81, b"{\"a\":1}");
            bytes.extend(client_frame(0x82, &vec![7; seeded.below(300)]));
            for _ in 0..=seeded.below(4) {
                let at = seeded.below(bytes.len());
                bytes[at] = seeded.next_u64() as u8;
            }
            let length = bytes.len();
            read(&bytes, 1 + seeded.below(length));
        }
    }

    #[test]
    fn a_frame_s_extent_is_read_from_its_header() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let mut out = b"before".to_vec();
            frame(Opcode::Text, &mut out, |out| out.resize(out.len() + length, b'x'));
            let bytes = &out[6..];
            let (head, payload) = extent(bytes).unwrap();
            assert_eq!((head, payload, head + payload), (header(Opcode::Text, length).as_bytes().len(), length, bytes.len()));
            assert!((0..head).all(|cut| extent(&bytes[..cut]).is_none() || cut >= 2 && head == 2));
        }
    }
}
