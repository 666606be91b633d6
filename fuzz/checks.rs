//! What must hold of whatever bytes a peer sends, decoder by decoder: an item, a refusal, or more please; never a panic, never a
//! hang, and never more memory than the input is worth.
//!
//! The fuzz targets feed these with bytes of libFuzzer's making; the unit tests replay `fixtures/fuzz` through the same ones.

use porter::protocol::decode;
use porter::protocol::engineio::packet::{Data, Packet};
use porter::protocol::engineio::payload::{Answer, Body, Encoding, Format};
use porter::protocol::engineio::request::Query;
use porter::protocol::events::Event;
use porter::protocol::http::Decoder as Http;
use porter::protocol::line::{Lines, Overlong};
use porter::protocol::socketio::{self, Decoder};
use porter::protocol::websocket::{self, Broken, Item};

/// What must hold of some bytes: it panics where it does not.
pub type Check = fn(&[u8]);

/// Every check by the name of its target.
pub const CHECKS: [(&str, Check); 10] = [
    ("engineio_packet", engineio_packet),
    ("payload_text", payload_text),
    ("payload_binary", payload_binary),
    ("payload_form", payload_form),
    ("socketio", socketio),
    ("http", http),
    ("line", line),
    ("frame", frame),
    ("request", request),
    ("websocket", websocket),
];

/// One Engine.IO packet, as a text and as a binary frame.
pub fn engineio_packet(bytes: &[u8]) {
    if let Ok(packet) = Packet::from_binary(bytes) {
        assert_eq!(size(&packet), bytes.len() - 1);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(packet) = Packet::from_text(text) {
        assert!(size(&packet) < text.len());
        assert_eq!(Ok(&packet), Packet::from_text(text.to_owned()).as_ref());
    }
}

/// A string payload; what it holds makes an answer that reads back.
pub fn payload_text(bytes: &[u8]) {
    packets(Format::Text, bytes);
}

/// A binary payload.
pub fn payload_binary(bytes: &[u8]) {
    packets(Format::Binary, bytes);
}

/// The form of a JSONP client.
pub fn payload_form(bytes: &[u8]) {
    packets(Format::Form, bytes);
}

/// Messages of one session, each ended by a line feed; an empty one is binary.
pub fn socketio(bytes: &[u8]) {
    let mut decoder = Decoder::new();
    for message in bytes.split(|byte| *byte == b'\n') {
        let Ok(text) = std::str::from_utf8(message) else { return };
        let read = if text.is_empty() { decoder.binary().map(|()| socketio::Packet::Ignored) } else { decoder.text(text) };
        match read {
            Err(_) => return,
            Ok(socketio::Packet::Event(event)) => {
                assert!(event.name.len() + event.argument.map_or(0, str::len) <= text.len());
                if let Some(known) = Event::named(&event.name) {
                    std::hint::black_box(known.read(event.argument, event.has_attachments, event.ack));
                }
            }
            Ok(socketio::Packet::Join(namespace)) => assert!(namespace.len() < text.len() && namespace != "/"),
            Ok(socketio::Packet::Disconnect | socketio::Packet::Ignored) => {}
        }
    }
}

/// Requests of one connection, whole and byte by byte: they must be the same.
pub fn http(bytes: &[u8]) {
    assert_eq!(requests(bytes.chunks(bytes.len().max(1))), requests(bytes.chunks(1)));
}

/// Lines, whole and byte by byte: they must be the same.
pub fn line(bytes: &[u8]) {
    assert_eq!(lines(bytes.chunks(bytes.len().max(1))), lines(bytes.chunks(1)));
}

/// One frame, by every way that frames come.
pub fn frame(bytes: &[u8]) {
    std::hint::black_box((decode::request(bytes), decode::rest_request(bytes)));
    for t in -8..=15 {
        std::hint::black_box(decode::request_as(t, bytes));
    }
}

/// The query of a request to `/socket.io/`.
pub fn request(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    std::hint::black_box(Query::parse(text).is_ok());
    std::hint::black_box(Query::parse(&format!("EIO=3&transport=polling&{text}")).is_ok());
}

/// Messages of one WebSocket, whole and byte by byte: they must be the same.
pub fn websocket(bytes: &[u8]) {
    assert_eq!(messages(bytes.chunks(bytes.len().max(1))), messages(bytes.chunks(1)));
}

/// Bytes that a packet carries.
fn size(packet: &Packet<'_>) -> usize {
    match &packet.data {
        Data::Text(text) => text.len(),
        Data::Binary(bytes) => bytes.len(),
    }
}

fn packets(format: Format, bytes: &[u8]) {
    let Ok(body) = Body::new(format, bytes) else { return };
    let mut carried = 0;
    for packet in body.packets() {
        let Ok(packet) = packet else { return };
        carried += 1 + size(&packet);
        assert!(carried <= bytes.len());
        if let Data::Text(text) = &packet.data {
            answers(&format!("4{text}"));
        }
    }
}

/// A packet in an answer of every encoding is ASCII, and reads back as one packet of the same characters.
fn answers(packet: &str) {
    for (encoding, format) in [(Encoding::Text, Format::Text), (Encoding::Binary, Format::Binary)] {
        let mut answer = Answer::new(encoding);
        assert!(answer.push(packet.as_bytes()));
        let body = answer.into_body();
        let body = Body::new(format, &body).expect("an answer is a payload");
        let read: Vec<_> = body.packets().collect();
        let [Ok(Packet { data: Data::Text(text), .. })] = &read[..] else { panic!("{read:?}") };
        assert!(text.is_ascii() && (text == &packet[1..] || !packet.is_ascii()));
    }
}

/// What an HTTP decoder makes of `chunks`: heads, bodies, and the refusal that ends them.
fn requests<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    const BODY_MAX: usize = 1 << 10;
    let mut decoder = Http::new();
    let mut seen = Vec::new();
    let mut in_body = false;
    for chunk in chunks {
        decoder.push(chunk);
        loop {
            let step = if in_body {
                decoder.next_body().map(|body| body.map(|body| format!("{body:?}")))
            } else {
                decoder.next_head().map(|head| head.map(|head| format!("{head:?}")))
            };
            match step {
                Ok(None) => break,
                Ok(Some(item)) => seen.push(item),
                Err(refusal) => {
                    seen.push(format!("{refusal:?}"));
                    return seen;
                }
            }
            in_body = !in_body;
            if in_body && let Err(refusal) = decoder.admit_body(BODY_MAX) {
                seen.push(format!("{refusal:?}"));
                return seen;
            }
        }
    }
    seen
}

/// What a line decoder makes of `chunks`.
fn lines<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Vec<u8>, Overlong>> {
    const FRAME_MAX: usize = 64;
    let mut lines = Lines::new(FRAME_MAX);
    let mut seen = Vec::new();
    for mut chunk in chunks {
        loop {
            match lines.next(&mut chunk) {
                Ok(None) => break,
                Ok(Some(line)) => {
                    assert!(!line.is_empty() && line.len() <= FRAME_MAX);
                    seen.push(Ok(line.to_vec()));
                }
                Err(overlong) => {
                    seen.push(Err(overlong));
                    return seen;
                }
            }
        }
    }
    seen
}

/// What a WebSocket decoder makes of `chunks`, up to the close.
fn messages<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Item<'static>>, Option<Broken>) {
    const OPTIONS: websocket::Options = websocket::Options { message_max: 300, buffer: 64 };
    const CONTROL_FRAME_BYTES_MAX: usize = 2 + 125;
    let mut decoder = websocket::Decoder::new(OPTIONS);
    let mut seen = Vec::new();
    for chunk in chunks {
        decoder.lend(chunk.to_vec(), chunk.len());
        loop {
            let item = decoder.next_item().map(|item| item.map(Item::into_owned));
            // Answers are no longer than what they answer, of which only the last byte may be in this chunk.
            assert!(decoder.take_control().len() <= chunk.len() + CONTROL_FRAME_BYTES_MAX);
            match item {
                Ok(None) => break,
                Ok(Some(item)) => {
                    let closes = matches!(item, Item::Close(_));
                    seen.push(item);
                    if closes {
                        return (seen, None);
                    }
                }
                Err(broken) => return (seen, Some(broken)),
            }
        }
        assert!(!decoder.has_input());
        decoder.take_back();
    }
    (seen, None)
}
