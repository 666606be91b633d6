//! Socket.IO packets, protocol revision 4 (Protocol §8): what an Engine.IO message says, and how answers are written.
//!
//! `<type>[<attachments>-][<namespace>[?query],][<ack id>][<JSON>]`. Only the default namespace is served. Binary is of no use here:
//! attachments are counted and dropped, and whoever acts on an event learns that it had some. So between packets nothing is kept but
//! how many are still to come. JSON is checked without recursion and read no further than an event's name and first argument.
//! It knows neither events nor how a message travels.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::{ATTACHMENTS_MAX, JSON_DEPTH_MAX, NAMESPACE_BYTES_MAX};
use crate::protocol::encode::{number, string};

/// A message that is not Socket.IO. It ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(
    /// What is wrong, for the log.
    pub &'static str,
);

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// An event in the default namespace.
    Event(Event<'a>),
    /// It would join this namespace, which is not the default one: answer with [`invalid_namespace`].
    Join(&'a str),
    /// It leaves the default namespace.
    Disconnect,
    /// Nothing to act on: acknowledgements, errors, an attachment, a join of the default namespace, other namespaces, unknown types.
    Ignored,
}

/// An event and what came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its name; a number is a name as well, as its digits.
    pub name: Cow<'a, str>,
    /// The JSON text of its first argument; further ones are dropped.
    pub argument: Option<&'a str>,
    /// It asks for an acknowledgement with this number.
    pub ack: Option<u64>,
    /// Binary is attached to it.
    pub has_attachments: bool,
}

/// Reads one session's messages in their order.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Attachments of the last packet that have not come.
    due: u8,
}

impl Decoder {
    /// One to which no attachments are due.
    #[must_use]
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Whether the next message begins a packet: no attachment is due.
    #[must_use]
    pub fn may_begin(&self) -> bool {
        self.due == 0
    }

    /// Takes a text message, without Engine.IO's `4`.
    ///
    /// # Errors
    /// It is no packet, or an attachment was due. That is final for the session.
    pub fn text<'a>(&mut self, text: &'a str) -> Result<Packet<'a>, Malformed> {
        if self.due > 0 {
            return Err(Malformed("text where an attachment was due"));
        }
        let parts = Parts::split(text)?;
        self.due = parts.attachments;
        parts.packet()
    }

    /// Takes a binary message: an attachment, which is dropped.
    ///
    /// # Errors
    /// None was announced. That is final for the session.
    pub fn binary(&mut self) -> Result<(), Malformed> {
        self.due = self.due.checked_sub(1).ok_or(Malformed("an attachment that was not announced"))?;
        Ok(())
    }
}

/// The types that clients send, but for unknown ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connect,
    Disconnect,
    Event,
    Ack,
    Error,
    BinaryEvent,
    BinaryAck,
    Unknown,
}

/// A packet cut into its parts.
struct Parts<'a> {
    kind: Kind,
    attachments: u8,
    namespace: &'a str,
    ack: Option<u64>,
    /// Empty: none.
    json: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, Malformed> {
        let kind = match text.as_bytes().first() {
            Some(b'0') => Kind::Connect,
            Some(b'1') => Kind::Disconnect,
            Some(b'2') => Kind::Event,
            Some(b'3') => Kind::Ack,
            Some(b'4') => Kind::Error,
            Some(b'5') => Kind::BinaryEvent,
            Some(b'6') => Kind::BinaryAck,
            Some(b'7'..=b'9') => Kind::Unknown,
            _ => return Err(Malformed("a message without a packet type")),
        };
        let mut parts = Parts { kind, attachments: 0, namespace: DEFAULT_NAMESPACE, ack: None, json: "" };
        if kind == Kind::Unknown {
            return Ok(parts);
        }
        let mut rest = &text[1..];
        if matches!(kind, Kind::BinaryEvent | Kind::BinaryAck) {
            (parts.attachments, rest) = attachments(rest)?;
        }
        if rest.starts_with('/') {
            let (namespace, behind) = rest.split_once(',').unwrap_or((rest, ""));
            parts.namespace = namespace.split_once('?').map_or(namespace, |(name, _query)| name);
            rest = behind;
            if parts.namespace.len() > NAMESPACE_BYTES_MAX {
                return Err(Malformed("a namespace that is too long"));
            }
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            parts.ack = Some(rest[..digits].parse().map_err(|_| Malformed("an ack id beyond 64 bits"))?);
        }
        parts.json = &rest[digits..];
        Ok(parts)
    }

    fn packet(self) -> Result<Packet<'a>, Malformed> {
        let is_default = self.namespace == DEFAULT_NAMESPACE;
        if !self.json.is_empty() {
            check_depth(self.json)?;
        }
        match self.kind {
            Kind::Event | Kind::BinaryEvent => {
                let (name, argument) = name_and_argument(self.json)?;
                let event = Event { name, argument, ack: self.ack, has_attachments: self.attachments > 0 };
                Ok(if is_default { Packet::Event(event) } else { Packet::Ignored })
            }
            Kind::Ack | Kind::BinaryAck if !self.json.starts_with('[') => Err(NO_ARRAY),
            Kind::Connect | Kind::Disconnect | Kind::Ack | Kind::Error | Kind::BinaryAck => {
                if !self.json.is_empty() {
                    serde_json::from_str::<&RawValue>(self.json).map_err(|_| BAD_JSON)?;
                }
                Ok(match self.kind {
                    Kind::Connect if !is_default => Packet::Join(self.namespace),
                    Kind::Disconnect if is_default => Packet::Disconnect,
                    _ => Packet::Ignored,
                })
            }
            Kind::Unknown => Ok(Packet::Ignored),
        }
    }
}

/// `<digits>-`, and what follows it.
fn attachments(text: &str) -> Result<(u8, &str), Malformed> {
    let (digits, rest) = text.split_at_checked(text.find('-').unwrap_or(0)).ok_or(BAD_COUNT)?;
    let is_number = (1..=ATTACHMENT_DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count = digits.parse().ok().filter(|count| is_number && (1..=ATTACHMENTS_MAX).contains(count)).ok_or(BAD_COUNT)?;
    Ok((count, &rest[1..]))
}

/// An event's name and the text of its first argument. The others are read over: a list of them might take many times their room.
fn name_and_argument(json: &str) -> Result<(Cow<'_, str>, Option<&str>), Malformed> {
    struct Arguments;
    impl<'de> Visitor<'de> for Arguments {
        type Value = (&'de RawValue, Option<&'de RawValue>);

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
            let name = array.next_element()?.ok_or(A::Error::custom("no name"))?;
            let argument = array.next_element()?;
            while array.next_element::<IgnoredAny>()?.is_some() {}
            Ok((name, argument))
        }
    }
    if !json.starts_with('[') {
        return Err(NO_ARRAY);
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    let (name, argument) = reader.deserialize_seq(Arguments).map_err(|_| BAD_JSON)?;
    reader.end().map_err(|_| BAD_JSON)?;
    let name = match name.get().as_bytes() {
        // Half a surrogate pair makes no text, and so no name that is known.
        [b'"', ..] => serde_json::from_str::<Text<'_>>(name.get()).map_or(Cow::Borrowed(""), |text| text.0),
        [b'-' | b'0'..=b'9', ..] => Cow::Borrowed(name.get()),
        _ => return Err(Malformed("an event whose name is no string")),
    };
    Ok((name, argument.map(RawValue::get)))
}

/// A string, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// That the arrays and objects of a JSON text do not nest too deep.
fn check_depth(json: &str) -> Result<(), Malformed> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return Err(Malformed("JSON that nests too deep"));
        }
    }
    Ok(())
}

/// The namespace that is not written.
const DEFAULT_NAMESPACE: &str = "/";
/// Digits of `ATTACHMENTS_MAX`.
const ATTACHMENT_DIGITS_MAX: usize = 2;
const BAD_COUNT: Malformed = Malformed("a count of attachments that is not from 1 to 10");
const BAD_JSON: Malformed = Malformed("bad JSON");
const NO_ARRAY: Malformed = Malformed("no array where one must be");

/// The packet that says a client is in the default namespace; the server sends it unasked.
pub const CONNECT: &[u8] = b"0";
/// The packet that says a client is out. JavaScript's clients do not come back by themselves after it.
pub const DISCONNECT: &[u8] = b"1";

/// Appends an event; `argument` appends the JSON of its argument, or nothing for none.
pub fn event(name: &str, argument: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    out.extend_from_slice(b"2[");
    string(name, out);
    out.push(b',');
    let before = out.len();
    argument(out);
    if out.len() == before {
        out.pop();
    }
    out.push(b']');
}

/// Appends the acknowledgement of event `id`; `argument` as with [`event`].
pub fn ack(id: u64, argument: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    out.push(b'3');
    number(id, out);
    out.push(b'[');
    argument(out);
    out.push(b']');
}

/// Appends an error packet: in place of [`CONNECT`] a refusal. `value` appends its JSON.
pub fn error(value: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    out.push(b'4');
    value(out);
}

/// Appends the answer to a [`Packet::Join`].
pub fn invalid_namespace(namespace: &str, out: &mut Vec<u8>) {
    out.push(b'4');
    out.extend_from_slice(namespace.as_bytes());
    out.extend_from_slice(b",\"Invalid namespace\"");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    const PACKETS: &str = include_str!("../../fixtures/socketio/packets.txt");

    /// The cases of the fixture: messages, and what each means.
    fn cases() -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
        let mut cases: Vec<(Vec<&str>, Vec<&str>)> = vec![Default::default()];
        for line in PACKETS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(meaning) = line.strip_prefix("= ") {
                cases.last_mut().unwrap().1.push(meaning);
                continue;
            }
            if !cases.last().unwrap().1.is_empty() {
                cases.push(Default::default());
            }
            let message = line.strip_prefix('>').unwrap();
            cases.last_mut().unwrap().0.push(message.strip_prefix(' ').unwrap_or(message));
        }
        cases
    }

    fn take(decoder: &mut Decoder, message: &str) -> String {
        let packet = match message {
            "<binary>" => decoder.binary().map(|()| Packet::Ignored),
            text => decoder.text(text),
        };
        match packet {
            Err(Malformed(what)) => format!("malformed {what}"),
            Ok(Packet::Ignored) => "ignored".into(),
            Ok(Packet::Disconnect) => "disconnect".into(),
            Ok(Packet::Join(namespace)) => format!("join {namespace}"),
            Ok(Packet::Event(Event { name, argument, ack, has_attachments })) => {
                let mut words = format!("event {name:?}");
                words += &argument.map_or(String::new(), |argument| format!(" {argument}"));
                words += &ack.map_or(String::new(), |ack| format!(" ack {ack}"));
                words + if has_attachments { " binary" } else { "" }
            }
        }
    }

    #[test]
    fn messages_mean_what_the_fixture_says() {
        for (messages, expected) in cases() {
            let mut decoder = Decoder::new();
            let seen: Vec<String> = messages.iter().map(|message| take(&mut decoder, message)).collect();
            assert_eq!(seen, expected, "{messages:?}");
        }
    }

    #[test]
    fn namespaces_and_json_are_bounded() {
        for (over, fits) in [(-1, true), (0, true), (1, false)] {
            let at = |bound: usize| bound.strict_add_signed(over);
            let namespace = format!("0/{}", "n".repeat(at(NAMESPACE_BYTES_MAX) - 1));
            assert_eq!(Decoder::new().text(&namespace).is_ok(), fits, "namespace");
            let with_query = format!("{namespace}?token={}", "x".repeat(10_000));
            assert_eq!(Decoder::new().text(&with_query).is_ok(), fits, "namespace with a query");
            let depth = at(JSON_DEPTH_MAX) - 1;
            let event = format!("2[\"[[\\\"[\",{}{}]", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(Decoder::new().text(&event).is_ok(), fits, "depth");
        }
        assert!(Decoder::new().text(&format!("0/{}", "n".repeat(64 << 10))).is_err());
    }

    #[test]
    fn json_100_000_deep_costs_no_stack() {
        let check = || {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                for kind in ["0", "2", "3", "4", "51-"] {
                    let deep = format!("{kind}[\"a\",{}1{}]", open.repeat(100_000), close.repeat(100_000));
                    assert!(Decoder::new().text(&deep).is_err());
                    let unclosed = format!("{kind}{}", open.repeat(100_000));
                    assert!(Decoder::new().text(&unclosed).is_err());
                }
            }
        };
        std::thread::Builder::new().stack_size(64 << 10).spawn(check).unwrap().join().unwrap();
    }

    #[test]
    fn a_million_arguments_take_no_room() {
        let event = format!("2[\"a\"{}]", ",1".repeat(1_000_000));
        assert_eq!(take(&mut Decoder::new(), &event), "event \"a\" 1");
    }

    #[test]
    fn random_and_mutated_messages_are_packets_or_refused() {
        const BYTES: &[u8] = b"0123456789-/?,[]{}\":\\u \xc3\xa9\xff_placehdrnum";
        let messages: Vec<&str> = cases().iter().flat_map(|(messages, _)| messages.clone()).collect();
        let mut random = Seeded(0x50c_0001);
        let mut decoder = Decoder::new();
        for _ in 0..60_000 {
            let mut message = random.pick(&messages).as_bytes().to_vec();
            for _ in 0..random.below(4) {
                let at = random.below(message.len() + 1);
                match random.below(3) {
                    0 => message.truncate(at),
                    1 => message.insert(at, *random.pick(BYTES)),
                    _ if at < message.len() => message[at] = *random.pick(BYTES),
                    _ => {}
                }
            }
            let message = String::from_utf8_lossy(&message);
            let due = decoder.due;
            match decoder.text(&message) {
                Ok(Packet::Event(event)) => {
                    assert_eq!(event.has_attachments, decoder.due > 0);
                    assert!(event.argument.is_none_or(|argument| serde_json::from_str::<&RawValue>(argument).is_ok()), "{message}");
                    assert!(event.name.len() + event.argument.map_or(0, str::len) <= message.len());
                }
                Ok(Packet::Join(namespace)) => assert!(namespace.starts_with('/') && !namespace.contains(['?', ','])),
                Ok(_) => {}
                Err(_) if due > 0 => assert_eq!(decoder.due, due),
                Err(_) => {}
            }
            assert!(decoder.due <= ATTACHMENTS_MAX);
            if random.below(2) == 0 {
                assert_eq!(decoder.due > 0, decoder.binary().is_ok());
            }
            if random.below(8) == 0 {
                decoder = Decoder::new();
            }
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let frame = |out: &mut Vec<u8>| out.extend_from_slice(br#"{"t":5}"#);
        assert_eq!(written(&|out| event("push", frame, out)), r#"2["push",{"t":5}]"#);
        assert_eq!(written(&|out| event("connect_c", |_| {}, out)), r#"2["connect_c"]"#);
        assert_eq!(written(&|out| ack(17, frame, out)), r#"317[{"t":5}]"#);
        assert_eq!(written(&|out| ack(u64::MAX, |_| {}, out)), "318446744073709551615[]");
        assert_eq!(written(&|out| error(frame, out)), r#"4{"t":5}"#);
        assert_eq!(written(&|out| invalid_namespace("/nope", out)), r#"4/nope,"Invalid namespace""#);
        assert_eq!(take(&mut Decoder::new(), &written(&|out| event("a", frame, out))), r#"event "a" {"t":5}"#);
    }
}
