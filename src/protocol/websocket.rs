//! WebSocket: the handshake, messages from bytes, frames to bytes. No sockets, no waiting.
//!
//! Nearly all messages are one frame that lies whole in the bytes of one read: such a frame is unmasked where it lies and lent to
//! whoever reads. All else goes the `long_way`, by tungstenite (Dependencies §5), which is there only as long as it has something: a
//! connection that is idle holds no buffer. Frames are written past it, since a frame for many is made once and shared, and
//! tungstenite's own buffer for what goes out never shrinks. What it answers by itself, pongs and closes, is taken from the decoder
//! by [`Decoder::take_control`].

use std::ops::Deref;

use async_tungstenite::tungstenite::Utf8Bytes;
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use bytes::Bytes;

use crate::protocol::http::head::Head;
use crate::protocol::http::refusal::HttpRefusal;
use crate::protocol::refusal::Code;
use crate::protocol::websocket::long_way::LongWay;

mod long_way;

/// Bytes of the longest header of a frame from the server: no mask.
pub const HEADER_BYTES_MAX: usize = 10;
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
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole text message, fragments joined.
    Text(Payload<'a, str, Utf8Bytes>),
    /// A whole binary message, fragments joined.
    Binary(Payload<'a, [u8], Bytes>),
    /// Any answer to a ping.
    Pong,
    /// The peer's last frame, with its code if it gave one: nothing is read behind it. The answer to it is in [`Decoder::take_control`].
    Close(Option<u16>),
}

impl Item<'_> {
    /// The same with a payload in a buffer of its own, which outlives the bytes that it was read from.
    #[must_use]
    pub fn into_owned(self) -> Item<'static> {
        match self {
            Item::Text(text) => Item::Text(Payload::Own((*text).into())),
            Item::Binary(bytes) => Item::Binary(Payload::Own(bytes.into())),
            Item::Pong => Item::Pong,
            Item::Close(code) => Item::Close(code),
        }
    }
}

/// What a message says. Two are equal if they say the same.
#[derive(Debug)]
pub enum Payload<'a, T: ?Sized, O> {
    /// It lies in the bytes that were lent to the decoder.
    Lent(&'a T),
    /// It has a buffer of its own, which may be larger: copy what is small and kept long.
    Own(O),
}

impl<T: ?Sized, O: Deref<Target = T>> Deref for Payload<'_, T, O> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Payload::Lent(lent) => lent,
            Payload::Own(own) => own,
        }
    }
}

impl<T: ?Sized + PartialEq, O: Deref<Target = T>> PartialEq for Payload<'_, T, O> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: ?Sized + Eq, O: Deref<Target = T>> Eq for Payload<'_, T, O> {}

impl<T: ?Sized + AsRef<[u8]>, O: Into<Bytes>> From<Payload<'_, T, O>> for Bytes {
    fn from(payload: Payload<'_, T, O>) -> Bytes {
        match payload {
            Payload::Lent(lent) => Bytes::copy_from_slice(lent.as_ref()),
            Payload::Own(own) => own.into(),
        }
    }
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
    /// Bytes of the buffer that a connection holds while it has sent a part of a message. Larger: fewer steps for large frames.
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
    options: Options,
    input: Input,
    /// Frames that answer the peer.
    control: Vec<u8>,
    /// While the peer is in the middle of a frame or of a message, and once it has closed.
    long_way: Option<Box<LongWay>>,
}

/// Bytes that were lent: those from `taken` to `end` are to be read.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    taken: usize,
    end: usize,
}

impl Input {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..self.end]
    }

    fn is_empty(&self) -> bool {
        self.taken == self.end
    }
}

impl Decoder {
    /// A decoder for a connection whose handshake is answered.
    #[must_use]
    pub fn new(options: Options) -> Decoder {
        Decoder { options, input: Input::default(), control: Vec::new(), long_way: None }
    }

    /// Lends the `filled` first bytes of `scratch`, which were just read, until [`Decoder::take_back`]. There must be none left of
    /// an earlier loan.
    pub fn lend(&mut self, scratch: Vec<u8>, filled: usize) {
        debug_assert!(self.input.is_empty(), "what was lent before is read first");
        self.input = Input { end: filled.min(scratch.len()), bytes: scratch, taken: 0 };
    }

    /// Gives the scratch back. Bytes of it that were not read yet are kept in a buffer of their own.
    pub fn take_back(&mut self) -> Vec<u8> {
        let rest = self.input.rest().to_vec();
        let rest = Input { taken: 0, end: rest.len(), bytes: rest };
        std::mem::replace(&mut self.input, rest).bytes
    }

    /// Whether bytes were kept: they are read before anything else is lent.
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// How many bytes were lent or kept and are not read yet.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        self.input.rest().len()
    }

    /// The next message; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What broke the connection; nothing more can be read.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, Broken> {
        while self.long_way.is_some() || !self.input.is_empty() {
            if self.long_way.is_none()
                && let Some(frame) = UsualFrame::at_front(self.input.rest(), self.options.message_max)
            {
                return self.take_usual(frame).map(Some);
            }
            let options = self.options;
            let long_way = self.long_way.get_or_insert_with(|| Box::new(LongWay::new(options)));
            let item = long_way.next_item(&mut self.input, &mut self.control)?;
            let is_at_rest = long_way.is_at_rest();
            if is_at_rest {
                self.long_way = None;
            }
            if item.is_some() || !is_at_rest {
                return Ok(item);
            }
        }
        Ok(None)
    }

    /// Takes the frame at the front of the input, and unmasks it there.
    fn take_usual(&mut self, frame: UsualFrame) -> Result<Item<'_>, Broken> {
        let begin = self.input.taken + frame.head;
        self.input.taken = begin + frame.length;
        let payload = &mut self.input.bytes[begin..begin + frame.length];
        unmask(payload, frame.mask);
        match frame.is_text {
            true => Ok(Item::Text(Payload::Lent(std::str::from_utf8(payload).map_err(|_| Broken::Utf8)?))),
            false => Ok(Item::Binary(Payload::Lent(payload))),
        }
    }

    /// The frames that answer pings and a close; empty where there is nothing to answer.
    #[must_use]
    pub fn take_control(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.control)
    }
}

/// A frame that is a whole message and lies whole in the input.
struct UsualFrame {
    is_text: bool,
    mask: [u8; 4],
    /// Bytes of its header, with the mask.
    head: usize,
    /// Bytes of its payload.
    length: usize,
}

impl UsualFrame {
    /// `None`: it is no such frame, or one that breaks a rule.
    fn at_front(bytes: &[u8], message_max: usize) -> Option<UsualFrame> {
        let &[first, second, ..] = bytes else { return None };
        let is_text = match first {
            0x81 => true,
            0x82 => false,
            _ => return None,
        };
        let (head, length) = match second.checked_sub(0x80)? {
            126 => (8, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
            // Longer than what is read at once.
            127 => return None,
            short => (6, usize::from(short)),
        };
        let mask = *bytes.get(head - 4..head)?.as_array()?;
        (length <= message_max && head + length <= bytes.len()).then_some(UsualFrame { is_text, mask, head, length })
    }
}

/// Undoes the mask of a payload.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut();
    let word_mask = u32::from_ne_bytes(mask);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ word_mask).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
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
    fn read(bytes: &[u8], piece: usize) -> (Vec<Item<'static>>, Option<Broken>, Vec<u8>) {
        let mut decoder = Decoder::new(OPTIONS);
        let (mut items, mut control): (Vec<Item<'static>>, _) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.lend(piece.to_vec(), piece.len());
            loop {
                let next = decoder.next_item().map(|next| next.map(Item::into_owned));
                control.extend(decoder.take_control());
                match next {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => break,
                    Err(broken) => return (items, Some(broken), control),
                }
                if let Some(Item::Close(_)) = items.last() {
                    return (items, None, control);
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
        let (text, binary) = (|text| Item::Text(Payload::Lent(text)), Item::Binary(Payload::Lent(&large)));
        let expected = vec![text("门"), text("in two"), binary, Item::Pong, Item::Close(Some(1001))];
        for piece in [1, 2, 3, 7, 500, 512, 5_000, bytes.len()] {
            let (items, broken, control) = read(&bytes, piece);
            assert!(items == expected && broken.is_none(), "{piece}");
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
            assert_eq!((items.len(), broken.map(Broken::close_code)), (0, Some(code)), "{:?}", &bytes[..2]);
        }
    }

    #[test]
    fn what_is_not_read_of_a_loan_is_kept() {
        let bytes: Vec<u8> = (0..100).flat_map(|n: u8| client_frame(0x82, &[n; 50])).collect();
        let mut decoder = Decoder::new(OPTIONS);
        decoder.lend(bytes.clone(), bytes.len());
        assert_eq!(decoder.next_item(), Ok(Some(Item::Binary(Payload::Lent(&[0; 50])))));
        assert_eq!(decoder.take_back().len(), bytes.len());
        assert!(decoder.has_input());
        for n in 1..100 {
            assert_eq!(decoder.next_item(), Ok(Some(Item::Binary(Payload::Lent(&[n; 50])))));
        }
        assert_eq!(decoder.next_item(), Ok(None));
        assert!(!decoder.has_input());
    }

    #[test]
    fn nothing_is_held_between_messages() {
        let frames = [client_frame(0x01, b"in "), client_frame(0x89, b"ping"), client_frame(0x80, b"two"), client_frame(0x82, &[1; 300])];
        let (bytes, whole): (Vec<u8>, Vec<usize>) = (frames.concat(), vec![0, 28]);
        let mut decoder = Decoder::new(OPTIONS);
        for (at, byte) in bytes.iter().enumerate() {
            assert_eq!(decoder.long_way.is_none(), whole.contains(&at), "{at}");
            decoder.lend(vec![*byte], 1);
            while decoder.next_item().unwrap().is_some() {}
            assert!(decoder.take_back().len() == 1 && decoder.input.bytes.capacity() == 0);
        }
        assert!(decoder.long_way.is_none());
    }

    /// Frames of all kinds, whole or with a few bytes that are wrong.
    fn noise(seeded: &mut Seeded) -> Vec<u8> {
        const FIRSTS: [u8; 8] = [0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a];
        let mut bytes = client_frame(0x81, b"{\"a\":1}");
        for _ in 0..seeded.below(6) {
            let first = *seeded.pick(&FIRSTS);
            bytes.extend(client_frame(first, &vec![b'7'; seeded.below(300)]));
        }
        for _ in 0..seeded.below(4) {
            let at = seeded.below(bytes.len());
            bytes[at] = seeded.next_u64() as u8;
        }
        bytes
    }

    #[test]
    fn noise_breaks_a_connection_and_nothing_else() {
        let mut seeded = Seeded(7);
        for _ in 0..20_000 {
            let bytes = noise(&mut seeded);
            read(&bytes, 1 + seeded.below(bytes.len()));
        }
    }

    /// What tungstenite alone makes of the bytes, by which the short way is judged.
    fn read_by_tungstenite(bytes: &[u8]) -> (Vec<Item<'static>>, Option<Broken>, Vec<u8>) {
        let mut long_way = LongWay::new(OPTIONS);
        let mut input = Input { bytes: bytes.to_vec(), taken: 0, end: bytes.len() };
        let (mut items, mut control) = (Vec::new(), Vec::new());
        while !input.is_empty() && !matches!(items.last(), Some(Item::Close(_))) {
            match long_way.next_item(&mut input, &mut control) {
                Ok(item) => items.extend(item),
                Err(broken) => return (items, Some(broken), control),
            }
        }
        (items, None, control)
    }

    #[test]
    fn the_short_way_says_what_tungstenite_says() {
        let mut seeded = Seeded(8);
        for _ in 0..20_000 {
            let bytes = noise(&mut seeded);
            assert_eq!(read(&bytes, bytes.len()), read_by_tungstenite(&bytes), "{bytes:?}");
            assert_eq!(read(&bytes, 1 + seeded.below(bytes.len())), read_by_tungstenite(&bytes), "{bytes:?}");
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
