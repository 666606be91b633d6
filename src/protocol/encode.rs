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
            bound(*kind, alias, *ts, out);
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
        Reply::Status { alias, topics, online, num: n } => {
            text(b"{\"alias\":", alias.as_str(), out);
            out.extend_from_slice(b",\"list\":");
            list(topics, out, |topic, out| string(topic.as_str(), out));
            text(b",\"status\":", if *online { "online" } else { "offline" }, out);
            num(n.as_ref(), out);
        }
        // An empty object, should anybody ask for its text: what it says is that there is nothing to say.
        Reply::Done { .. } => out.push(b'{'),
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
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// `t` 0, but for its closing brace.
fn error(refusal: Refusal, n: Option<&Num>, language: Language, out: &mut Vec<u8>) {
    text(b"{\"t\":0,\"error\":", &refusal.text(language), out);
    out.extend_from_slice(b",\"code\":\"");
    out.extend_from_slice(refusal.code.as_str().as_bytes());
    out.push(b'"');
    num(n, out);
}

/// The answer to a frame that binds, but for its `num` and closing brace.
fn bound(kind: BindKind, alias: &Alias, ts: Option<u64>, out: &mut Vec<u8>) {
    let name: &[u8] = match kind {
        BindKind::Heartbeat => b"{\"t\":-1,\"alias\":",
        BindKind::Connect11 => b"{\"t\":-11,\"alias\":",
        BindKind::Connect14 => b"{\"t\":-14,\"alias\":",
    };
    text(name, alias.as_str(), out);
    if let Some(ts) = ts {
        count(b",\"ts\":", ts, out);
    }
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
    if let Some(n) = n.filter(|n| !n.text.is_empty()) {
        out.extend_from_slice(b",\"num\":");
        out.extend_from_slice(n.text.as_bytes());
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::names::{RoomName, UserName};
    use crate::protocol::decode;
    use crate::protocol::frame::{Body, Published, RoomCounts};
    use crate::protocol::refusal::Code;
    use crate::seeded::Seeded;

    fn alias(text: &str) -> Alias {
        Alias::new(text).unwrap()
    }

    fn some(num: &str) -> Option<Num> {
        Some(Num::new(num))
    }

    fn message(mid: u64, body: &str) -> Message {
        let topics = Box::new([Topic::new("m_2").unwrap(), Topic::new("c\"2").unwrap()]);
        Message { mid: Mid::new(mid), ts: 1_700_000_000_123, expires: 7, topics, receipt: false, publisher: None, body: body.into() }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn result(reason: Option<&str>, doors: Option<usize>, num: Option<Num>) -> Reply {
        let (room, user) = (RoomName::new("R\\1").unwrap(), UserName::new("").unwrap());
        Reply::DoorResult { room, user, ok: reason.is_none(), reason: reason.map(Into::into), doors, num }
    }

    /// Every reply, with and without what may be absent.
    fn replies() -> Vec<(Reply, &'static str)> {
        let bound = |kind, ts, num| Reply::Bound { kind, alias: alias("门\"1"), ts, num };
        let error = |code, field, num| Reply::Error { refusal: Refusal::new(code, field), num };
        let topics = vec![Topic::new("a\\b").unwrap(), Topic::new("频道").unwrap()];
        let messages = vec![Arc::new(message(7, "{\"a\": 1.10}")), Arc::new(message(1 << 60, "null"))];
        let published = Published { mid: Mid::new(u64::MAX), online: 2, stored: u32::MAX };
        let counts = RoomCounts { one_to_one: 1, one_to_many: 2, many_to_many: 3, channels: 10_000 };
        vec![
            (error(Code::MissingField, "alias", some("7")), r#"{"t":0,"error":"参数不全: alias","code":"missing_field","num":7}"#),
            (
                error(Code::BadJson, "", None),
                r#"{"t":0,"error":"不是有效的 JSON 对象；每帧须为一个 UTF-8 编码的 JSON 对象","code":"bad_json"}"#,
            ),
            (bound(BindKind::Heartbeat, None, None), r#"{"t":-1,"alias":"门\"1"}"#),
            (bound(BindKind::Heartbeat, Some(5), some("\"\\u0031\"")), r#"{"t":-1,"alias":"门\"1","ts":5,"num":"\u0031"}"#),
            (bound(BindKind::Connect11, None, some("1")), r#"{"t":-11,"alias":"门\"1","num":1}"#),
            (bound(BindKind::Connect14, None, None), r#"{"t":-14,"alias":"门\"1"}"#),
            (Reply::Registered { num: some("\"\"") }, r#"{"t":-2,"num":""}"#),
            (Reply::Registered { num: None }, r#"{"t":-2}"#),
            (Reply::Unregistered { num: some("12345678901234567890.50") }, r#"{"t":-12,"num":12345678901234567890.50}"#),
            (Reply::Topics { num: some("1"), topics }, r#"{"t":-3,"num":1,"topic":["a\\b","频道"]}"#),
            (Reply::Topics { num: None, topics: vec![] }, r#"{"t":-3,"topic":[]}"#),
            (
                Reply::Pulled { messages, more: true, num: some("1") },
                r#"{"t":-4,"msg":[{"a": 1.10},null],"mid":["7","1152921504606846976"],"more":true,"num":1}"#,
            ),
            (Reply::Pulled { messages: vec![], more: false, num: None }, r#"{"t":-4,"msg":[],"mid":[],"more":false}"#),
            (
                Reply::Published(published, some("\"n\"")),
                r#"{"t":-6,"num":"n","mid":"9223372036854775807","online":2,"stored":4294967295}"#,
            ),
            (Reply::Published(published, None), r#"{"t":-6,"mid":"9223372036854775807","online":2,"stored":4294967295}"#),
            (Reply::ServerInfo { counts, num: None }, r#"{"t":-7,"One2OneSize":1,"One2ManySize":2,"Many2ManySize":3,"channelSize":10000}"#),
            (
                Reply::ServerInfo { counts: RoomCounts::default(), num: some("1") },
                r#"{"t":-7,"One2OneSize":0,"One2ManySize":0,"Many2ManySize":0,"channelSize":0,"num":1}"#,
            ),
            (Reply::DoorsReached { doors: 2, num: some("1") }, r#"{"t":-8,"num":1,"doors":2}"#),
            (Reply::DoorsReached { doors: 0, num: None }, r#"{"t":-8,"doors":0}"#),
            (result(None, None, None), r#"{"t":-8,"r":"R\\1","u":"","ok":true}"#),
            (result(Some("no_door"), None, some("1")), r#"{"t":-8,"r":"R\\1","u":"","ok":false,"reason":"no_door","num":1}"#),
            (result(None, Some(1), some("1")), r#"{"t":-8,"num":1,"doors":1,"ok":true}"#),
            (result(Some("锁\n"), Some(3), None), r#"{"t":-8,"doors":3,"ok":false,"reason":"锁\n"}"#),
            (Reply::Receipt { mid: Mid::new(9), alias: alias("a"), at: 12 }, r#"{"t":13,"mid":"9","alias":"a","at":12}"#),
            (Reply::EndedElsewhere { mid: Mid::new(9) }, r#"{"t":15,"mid":"9"}"#),
        ]
    }

    #[test]
    fn replies_have_exactly_the_bytes_of_the_protocol() {
        for (value, expected) in replies() {
            assert_eq!(written(|out| reply(&value, Language::Zh, out)), expected);
            assert!(serde_json::from_str::<Value>(expected).unwrap().is_object(), "{expected}");
        }
    }

    #[test]
    fn replies_are_appended() {
        let mut out = b"before ".to_vec();
        reply(&Reply::EndedElsewhere { mid: Mid::ZERO }, Language::En, &mut out);
        assert_eq!(out, b"before {\"t\":15,\"mid\":\"0\"}");
    }

    #[test]
    fn every_error_is_a_frame_in_both_languages() {
        for (language, code) in [Language::Zh, Language::En].into_iter().flat_map(|language| Code::ALL.map(|code| (language, code))) {
            let refusal = Refusal::new(code, "opts.id");
            let frame = written(|out| reply(&Reply::Error { refusal, num: some("\"n\"") }, language, out));
            let read: Value = serde_json::from_str(&frame).unwrap();
            assert_eq!(read, serde_json::json!({"t": 0, "error": refusal.text(language), "code": code.as_str(), "num": "n"}));
        }
    }

    #[test]
    fn pushes_have_exactly_the_bytes_of_the_protocol() {
        let mut push = Push::new();
        let first = message(42, "{\"b\": 1,\"a\":\"\\u95e8\"}");
        push.render(&first);
        let frame = |push: &Push, to: &str, topic, dup| written(|out| push.write(&alias(to), topic, dup, out));
        let rest = r#""ts":1700000000123,"msg":{"b": 1,"a":"\u95e8"}}"#;
        assert_eq!(frame(&push, "door-3-1", None, false), format!(r#"{{"t":5,"mid":"42","alias":"door-3-1",{rest}"#));
        let expected = format!(r#"{{"t":5,"mid":"42","alias":"门","topic":"m_2",{rest}"#);
        assert_eq!(frame(&push, "门", Some(&first.topics[0]), false), expected);
        assert_eq!(frame(&push, "a\\", None, false), format!(r#"{{"t":5,"mid":"42","alias":"a\\",{rest}"#));
        let expected = r#"{"t":5,"mid":"42","alias":"a\\\"","topic":"c\"2","ts":1700000000123,"dup":true,"msg":{"b": 1,"a":"\u95e8"}}"#;
        assert_eq!(frame(&push, "a\\\"", Some(&first.topics[1]), true), expected);

        push.render(&message(0, "1"));
        let expected = r#"{"t":5,"mid":"0","alias":"a","ts":1700000000123,"dup":true,"msg":1}"#;
        assert_eq!(frame(&push, "a", None, true), expected, "nothing is left of the message before");
    }

    #[test]
    fn a_push_exceeds_its_publish_by_less_than_1_kib() {
        let name = |first: &str| format!("{first}{}", "\"".repeat(127));
        let topic = Topic::new(&name("t")).unwrap();
        let mut push = Push::new();
        push.render(&Message { ts: u64::MAX, ..message(u64::MAX, "1") });
        let frame = written(|out| push.write(&alias(&name("a")), Some(&topic), true, out));
        assert!(frame.len() < 1 << 10, "{} bytes", frame.len());
    }

    #[test]
    fn door_frames_pass_unchanged_but_for_the_servers_time() {
        for text in [r#"{"t":8,"r":"R","u":"U","x":"}"}"#, r#"{ "t":10, "r":"R", "u":"" , "ts":1 }"#] {
            let Body::Door(frame) = decode::request(text.as_bytes()).body else { panic!("no door frame: {text}") };
            assert_eq!(written(|out| door_frame(&frame, None, out)), text);
            let stamped = written(|out| door_frame(&frame, Some(99), out));
            assert_eq!(stamped, format!("{},\"ts\":99}}", &text[..text.len() - 1]));
            let Body::Door(again) = decode::request(stamped.as_bytes()).body else { panic!("no door frame: {stamped}") };
            assert_eq!((again.room, again.user), (frame.room, frame.user));
            assert_eq!(serde_json::from_str::<Value>(&stamped).unwrap()["ts"], 99);
        }
    }

    #[test]
    fn strings_read_back_as_they_were() {
        let every: String = (0..=0x2ff).filter_map(char::from_u32).chain("\u{2028}\u{2029}\u{fffd}\u{1f6aa}\u{10ffff}".chars()).collect();
        let chars: Vec<char> = every.chars().collect();
        let mut random = Seeded(0xe_c0de);
        for round in 0..2_000 {
            let text: String = if round == 0 { every.clone() } else { (0..random.below(20)).map(|_| *random.pick(&chars)).collect() };
            let json = written(|out| string(&text, out));
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
            assert!(!json.contains(|c: char| c < ' '), "{json}");
        }
        assert_eq!(written(|out| string("a\u{1}\u{1f}\u{7f}/\u{2028}", out)), "\"a\\u0001\\u001f\u{7f}/\u{2028}\"");
    }

    #[test]
    fn numbers_are_decimal() {
        let mut random = Seeded(3);
        let edges = (0..20).flat_map(|power| [10_u64.pow(power) - 1, 10_u64.pow(power)]).chain([u64::MAX]).collect::<Vec<_>>();
        for n in edges.into_iter().chain((0..1_000).map(|_| {
            let bits = random.below(64);
            random.next_u64() >> bits
        })) {
            assert_eq!(written(|out| number(n, out)), n.to_string());
        }
    }
}
