//! Values to frames (Protocol §2, §5, §7): members in the protocol's order, without spaces, without a line end.
//!
//! Everything appends to a buffer it is given. What comes from a client as JSON text (`num`, `msg`, door frames) goes out
//! with that same text. It knows no transport: a line end or an event's name around a frame is its caller's business.

use crate::names::{Alias, Mid, Topic};
use crate::protocol::frame::{BindKind, DoorFrame, Message, Num, Reply};
use crate::protocol::refusal::{Language, Refusal};

/// Appends `reply` as one frame. `language` is that of error texts.
pub fn reply(reply: &Reply, language: Language, out: &mut Vec<u8>) {
    match reply {
        Reply::Error { refusal, num: n } => error(*refusal, n.as_ref(), language, out),
        Reply::Bound { kind, alias, ts, num: n } => {
            let name: &[u8] = match kind {
                BindKind::Heartbeat => b"{\"t\":-1,\"alias\":",
                BindKind::Connect11 => b"{\"t\":-11,\"alias\":",
                BindKind::Connect14 => b"{\"t\":-14,\"alias\":",
            };
            text(name, alias.as_str(), out);
            if let Some(ts) = ts {
                count(b",\"ts\":", *ts, out);
            }
            num(n.as_ref(), out);
        }
        Reply::Registered { num: n } => {
            out.extend_from_slice(b"{\"t\":-2");
            num(n.as_ref(), out);
        }
        Reply::Unregistered { num: n } => {
            out.extend_from_slice(b"{\"t\":-12");
            num(n.as_ref(), out);
        }
        Reply::Topics { num: n, topics } => {
            out.extend_from_slice(b"{\"t\":-3");
            num(n.as_ref(), out);
            out.extend_from_slice(b",\"topic\":");
            list(topics, out, |topic, out| string(topic.as_str(), out));
        }
        Reply::Pulled { messages, more, num: n } => {
            out.extend_from_slice(b"{\"t\":-4,\"msg\":");
            list(messages, out, |message, out| out.extend_from_slice(message.body.as_bytes()));
            out.extend_from_slice(b",\"mid\":");
            list(messages, out, |message, out| mid(b"", message.mid, out));
            flag(b",\"more\":", *more, out);
            num(n.as_ref(), out);
        }
        Reply::Published(published, n) => {
            out.extend_from_slice(b"{\"t\":-6");
            num(n.as_ref(), out);
            mid(b",\"mid\":", published.mid, out);
            count(b",\"online\":", u64::from(published.online), out);
            count(b",\"stored\":", u64::from(published.stored), out);
        }
        Reply::ServerInfo { counts, num: n } => {
            count(b"{\"t\":-7,\"One2OneSize\":", counts.one_to_one as u64, out);
            count(b",\"One2ManySize\":", counts.one_to_many as u64, out);
            count(b",\"Many2ManySize\":", counts.many_to_many as u64, out);
            count(b",\"channelSize\":", counts.channels as u64, out);
            num(n.as_ref(), out);
        }
        Reply::DoorsReached { doors, num: n } => doors_reached(*doors, n.as_ref(), out),
        Reply::DoorResult { ok, reason, doors: Some(doors), num: n, .. } => {
            doors_reached(*doors, n.as_ref(), out);
            outcome(*ok, reason.as_deref(), out);
        }
        Reply::DoorResult { room, user, ok, reason, doors: None, num: n } => {
            text(b"{\"t\":-8,\"r\":", room.as_str(), out);
            text(b",\"u\":", user.as_str(), out);
            outcome(*ok, reason.as_deref(), out);
            num(n.as_ref(), out);
        }
        Reply::Receipt { mid: of, alias, at } => {
            mid(b"{\"t\":13,\"mid\":", *of, out);
            text(b",\"alias\":", alias.as_str(), out);
            count(b",\"at\":", *at, out);
        }
        Reply::EndedElsewhere { mid: of } => mid(b"{\"t\":15,\"mid\":", *of, out),
    }
    out.push(b'}');
}

/// A pushed message, `t` 5, with all that its receivers share rendered once: a fan-out to thousands writes each frame by
/// copying. One `Push` serves publish after publish and keeps its buffers, at most a frame's size.
#[derive(Debug, Default)]
pub struct Push {
    /// From the brace to before the alias's text.
    head: Vec<u8>,
    /// `,"ts":` and the time: what stands between the names and `dup`.
    ts: Vec<u8>,
    /// From `,"msg":` to the closing brace.
    msg: Vec<u8>,
}

impl Push {
    /// One that has rendered nothing yet.
    #[must_use]
    pub fn new() -> Push {
        Push::default()
    }

    /// Makes `message` the one that [`Push::write`] writes.
    pub fn render(&mut self, message: &Message) {
        self.head.clear();
        mid(b"{\"t\":5,\"mid\":", message.mid, &mut self.head);
        self.head.extend_from_slice(b",\"alias\":\"");
        self.ts.clear();
        count(b",\"ts\":", message.ts, &mut self.ts);
        self.msg.clear();
        self.msg.extend_from_slice(b",\"msg\":");
        self.msg.extend_from_slice(message.body.as_bytes());
        self.msg.push(b'}');
    }

    /// Appends the frame for one receiver: the rendered message, owed to `alias`, by its subscription to `topic` if it was
    /// a publish to topics; `dup`: it may have been sent before (Protocol §5).
    pub fn write(&self, alias: &Alias, topic: Option<&Topic>, dup: bool, out: &mut Vec<u8>) {
        const TOPIC: &[u8] = b"\",\"topic\":\"";
        const DUP: &[u8] = b",\"dup\":true";
        let names = alias.as_str().len() + topic.map_or(0, |topic| TOPIC.len() + topic.as_str().len());
        // At once, so that the copies below need not grow the buffer one after the other. Escapes may, they are rare.
        out.reserve(self.head.len() + names + 1 + self.ts.len() + DUP.len() + self.msg.len());
        out.extend_from_slice(&self.head);
        name(alias.as_str(), out);
        if let Some(topic) = topic {
            out.extend_from_slice(TOPIC);
            name(topic.as_str(), out);
        }
        out.push(b'"');
        out.extend_from_slice(&self.ts);
        if dup {
            out.extend_from_slice(DUP);
        }
        out.extend_from_slice(&self.msg);
    }
}

/// Appends a door frame for relaying: its text unchanged, and the server's time, `ts` in ms, as its last member if it goes
/// to an extended door (Protocol §7). The last of two equal members wins, so a sender can't pretend a time.
pub fn door_frame(frame: &DoorFrame, ts: Option<u64>, out: &mut Vec<u8>) {
    let text = frame.text.as_bytes();
    match (ts, text.split_last()) {
        (Some(ts), Some((b'}', members))) => {
            out.extend_from_slice(members);
            count(b",\"ts\":", ts, out);
            out.push(b'}');
        }
        _ => out.extend_from_slice(text),
    }
}

/// Appends `text` as a JSON string. Escaped is only what JSON asks for: quotes, backslashes and control characters.
pub fn string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    escaped(text, out);
    out.push(b'"');
}

/// Appends `n` in decimal digits.
pub fn number(n: u64, out: &mut Vec<u8>) {
    let mut digits = [0; DIGITS_MAX];
    let mut first = DIGITS_MAX;
    let mut left = n;
    loop {
        first -= 1;
        digits[first] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

/// Digits of the largest `u64`.
const DIGITS_MAX: usize = 20;

/// `t` 0, but for its closing brace.
fn error(refusal: Refusal, n: Option<&Num>, language: Language, out: &mut Vec<u8>) {
    text(b"{\"t\":0,\"error\":", &refusal.text(language), out);
    out.extend_from_slice(b",\"code\":\"");
    out.extend_from_slice(refusal.code.as_str().as_bytes());
    out.push(b'"');
    num(n, out);
}

/// The beginning that both answers to a REST opener share.
fn doors_reached(doors: usize, n: Option<&Num>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"t\":-8");
    num(n, out);
    count(b",\"doors\":", doors as u64, out);
}

/// What became of an opening.
fn outcome(ok: bool, reason: Option<&str>, out: &mut Vec<u8>) {
    flag(b",\"ok\":", ok, out);
    if let Some(reason) = reason {
        text(b",\"reason\":", reason, out);
    }
}

/// The member `num`, with the text the caller wrote it in.
fn num(n: Option<&Num>, out: &mut Vec<u8>) {
    if let Some(Num(text)) = n {
        out.extend_from_slice(b",\"num\":");
        out.extend_from_slice(text.as_bytes());
    }
}

/// A member that is a number; `name` is all that stands before it.
fn count(name: &[u8], n: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    number(n, out);
}

/// A member that is true or false; `name` is all that stands before it.
fn flag(name: &[u8], value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// A member that is a string; `name` is all that stands before it.
fn text(name: &[u8], value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    string(value, out);
}

/// A mid after `name`, all that stands before it. It is a string on the wire: it may exceed what a JavaScript number holds.
fn mid(name: &[u8], mid: Mid, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.push(b'"');
    number(mid.number(), out);
    out.push(b'"');
}

/// An array of `items`, each written by `write`.
fn list<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// The text of an alias or a topic inside its quotes. Names have no control characters, so two bytes decide whether it can
/// be copied as it is; it nearly always can.
fn name(text: &str, out: &mut Vec<u8>) {
    if memchr::memchr2(b'"', b'\\', text.as_bytes()).is_none() {
        out.extend_from_slice(text.as_bytes());
    } else {
        escaped(text, out);
    }
}

/// `text` with JSON's escapes, without quotes around it. Runs of plain bytes are copied whole.
fn escaped(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (place, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain..place]);
        plain = place + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
    out.extend_from_slice(&bytes[plain..]);
}
