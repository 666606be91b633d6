//! Frames to values (Protocol §2 to §7): reading never fails, a frame that breaks a rule becomes [`Body::Refused`].
//!
//! A frame is read twice: the outer pass checks that all of it is JSON and notes where the members are (`Members`; `flat`
//! does so for usual frames, serde_json for all others), the inner one reads those that the frame's type has. Nothing is
//! copied before it has proved to be what it must be, and nested values are skipped without recursion, so the depth of a
//! `msg` costs no stack.
//! It knows no link, no alias bound to one, no size limit of a frame (that is `line`'s and the HTTP body's) and no event.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use memchr::{memchr, memchr2};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::{
    IDEMPOTENCY_KEY_BYTES_MAX, INFO_BYTES_MAX, NAMES_PER_FRAME_MAX, NUM_BYTES_MAX, REASON_BYTES_MAX, TIME_TO_LIVE_DEFAULT_S,
    TIME_TO_LIVE_MAX_S,
};
use crate::names::{Alias, BadName, Few, Mid, RoomName, Topic, UserName};
use crate::protocol::flat;
use crate::protocol::frame::{BindKind, Body, DoorAnswer, DoorFrame, DoorKind, Mids, Num, Publish, Receivers, Request};
use crate::protocol::refusal::{Code, Refusal};

/// Reads a frame of TCP: `t` says which it is, or `type` where `t` is missing (Protocol §2).
#[must_use]
pub fn request(text: &[u8]) -> Request {
    acknowledgement(text).unwrap_or_else(|| read(None, |_| true, text))
}

/// Reads a frame of REST, where any but 6 and 8 is an unknown type, be it whole or not (Protocol §2).
#[must_use]
pub fn rest_request(text: &[u8]) -> Request {
    read(None, |t| matches!(t, 6 | 8), text)
}

/// Reads the argument of a Socket.IO event that stands for frame `t`, whatever the frame's own `t` says (Protocol §8).
/// A door frame without a `t` gets that one, as its first member: TCP doors need it.
#[must_use]
pub fn request_as(t: i32, text: &[u8]) -> Request {
    read(Some(t), |_| true, text)
}

/// Recognises the frame that busy links send most, exactly as clients' JSON writers put it: `{"t":-5,"mid":"<digits>"}`.
/// Anything else about it, and `read` takes over.
fn acknowledgement(text: &[u8]) -> Option<Request> {
    let digits = text.strip_prefix(b"{\"t\":-5,\"mid\":\"")?.strip_suffix(b"\"}")?;
    let mid = Mid::parse(std::str::from_utf8(digits).ok()?)?;
    Some(Request { body: Body::Acknowledge { alias: None, mids: Mids::One(mid) }, num: None, token: None })
}

fn read(event: Option<i32>, is_served: fn(i32) -> bool, text: &[u8]) -> Request {
    let mut request = Request { body: Body::Refused(BAD_JSON), num: None, token: None };
    let Ok(text) = std::str::from_utf8(text) else { return request };
    let Some(members) = Members::of(text) else { return request };
    let token = members.token().map(|token| request.token = token);
    let num = members.num().map(|num| request.num = num);
    // Both are read before either may refuse: a refusal carries the num back, and the token counts all the same.
    let body = token.and(num).and_then(|()| members.t(event)).and_then(|t| match is_served(t) {
        true => members.body(t, event.is_some(), text),
        false => Err(Refusal::new(Code::UnknownType, Member::T.name())),
    });
    request.body = body.unwrap_or_else(Body::Refused);
    request
}

const BAD_JSON: Refusal = Refusal::new(Code::BadJson, "");

macro_rules! members {
    ($($member:ident $name:literal),* $(,)?) => {
        /// The members that some frame has, those of `opts` included.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Member { $($member),* }

        impl Member {
            const COUNT: usize = [$($name),*].len();

            fn named(name: &str) -> Option<Member> {
                match name { $($name => Some(Member::$member),)* _ => None }
            }

            const fn name(self) -> &'static str {
                match self { $(Member::$member => $name),* }
            }
        }
    };
}

members! {
    T "t", Type "type", Num "num", Token "token", Alias "alias", Topic "topic", Msg "msg", Method "method", Opts "opts",
    Info "info", Mid "mid", Ext "ext", Wait "wait", R "r", U "u", Ok "ok", Reason "reason",
    TimeToLive "time_to_live", Id "id", Receipt "receipt",
}

/// The known members of one JSON object, as the text they were written in. Others are skipped; of equals the last stays.
struct Members<'a>([Option<&'a str>; Member::COUNT]);

impl<'a> Members<'a> {
    /// Those of an object; `None`: the text is none.
    fn of(text: &'a str) -> Option<Members<'a>> {
        let mut members = Members([None; Member::COUNT]);
        match flat::members(text, |name, value| members.put(name, value)) {
            Some(()) => Some(members),
            None => serde_json::from_str(text).ok(),
        }
    }

    fn put(&mut self, name: &str, value: &'a str) {
        if let Some(member) = Member::named(name) {
            self.0[member as usize] = Some(value);
        }
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members([None; Member::COUNT]);
                // A name is taken raw as well: escapes in it are legal, also those that make no text and so no known name.
                while let Some((name, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    if let Some(name) = string(name.get()) {
                        members.put(&name, value.get());
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The frame's own rules, type by type.
impl Members<'_> {
    /// Which frame it is: `event`'s if an event brought it. A number or a string that is no integer as JSON writes it is a
    /// type that nobody sends, like any other; 0, which is refused, stands for it.
    fn t(&self, event: Option<i32>) -> Result<i32, Refusal> {
        if let Some(t) = event {
            return Ok(t);
        }
        let member = if self.get(Member::T).is_none() && self.get(Member::Type).is_some() { Member::Type } else { Member::T };
        let raw = self.required(member)?;
        let digits = match raw.as_bytes() {
            [b'"', ..] => string(raw).unwrap_or_default(),
            _ if is_number(raw) => Cow::Borrowed(raw),
            _ => return Err(bad(member)),
        };
        // `parse` would take `+6`, `06` and `-05` as well.
        let unsigned = digits.as_bytes().iter().find(|digit| **digit != b'-');
        let canonical = !matches!(unsigned, Some(b'+' | b'0'));
        Ok(digits.parse().ok().filter(|_| canonical).unwrap_or(0))
    }

    fn body(&self, t: i32, from_event: bool, text: &str) -> Result<Body, Refusal> {
        Ok(match t {
            1 => self.bind(BindKind::Heartbeat)?,
            2 => Body::Register { alias: self.alias()?, topics: self.some_topics()?, info: self.info()? },
            3 => Body::GetTopic { alias: self.alias()? },
            4 => Body::Pull { alias: self.alias()? },
            -5 => Body::Acknowledge { alias: self.alias()?, mids: self.mids()? },
            6 => Body::Publish(Box::new(self.publish()?)),
            7 => Body::ServerInfo,
            8 => self.door(DoorKind::Open, from_event, text)?,
            -8 => Body::DoorAnswer(Box::new(self.door_answer()?)),
            9 => self.door(DoorKind::Phone, from_event, text)?,
            10 => self.door(DoorKind::Door, from_event, text)?,
            11 => self.bind(BindKind::Connect11)?,
            12 => Body::Unregister { alias: self.alias()?, topics: self.some_topics()? },
            14 => self.bind(BindKind::Connect14)?,
            _ => return Err(Refusal::new(Code::UnknownType, Member::T.name())),
        })
    }

    fn bind(&self, kind: BindKind) -> Result<Body, Refusal> {
        Ok(Body::Bind { kind, alias: self.alias()?, extended: self.extended() })
    }

    fn publish(&self) -> Result<Publish, Refusal> {
        let method = self.required_string(Member::Method)?;
        let to = match &*method {
            "publish" => Receivers::Topics(self.names(Member::Topic, Topic::new)?),
            "publish_to_alias" => Receivers::Aliases(self.names(Member::Alias, Alias::new)?),
            _ => return Err(bad(Member::Method)),
        };
        let msg = on_one_line(self.required(Member::Msg)?).into();
        let mut publish = Publish { to, msg, time_to_live: TIME_TO_LIVE_DEFAULT_S, id: None, receipt: false };
        match self.get(Member::Opts) {
            Some(raw) if raw != "null" => options(raw, &mut publish)?,
            _ => {}
        }
        Ok(publish)
    }

    fn door(&self, kind: DoorKind, from_event: bool, text: &str) -> Result<Body, Refusal> {
        let room = self.required_name(Member::R, RoomName::new)?;
        let user = self.required_name(Member::U, UserName::new)?;
        let text = self.without_token(text);
        let text = on_one_line(text.trim_ascii());
        let text: Arc<str> = if from_event && self.get(Member::T).is_none() { with_type(kind, &text).into() } else { text.into() };
        let wait = self.get(Member::Wait).is_some_and(|raw| raw == "true");
        Ok(Body::Door(Box::new(DoorFrame { kind, room, user, extended: self.extended(), wait, text })))
    }

    /// The text of a frame with its token blanked: what is relayed to a room must not let its members act as the sender.
    /// Only that member's text goes: the same text elsewhere is part of what is said.
    fn without_token<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(token) = self.get(Member::Token) else { return text.into() };
        // The members are slices of the text.
        let at = token.as_ptr().addr() - text.as_ptr().addr();
        format!("{}\"\"{}", &text[..at], &text[at + token.len()..]).into()
    }

    fn door_answer(&self) -> Result<DoorAnswer, Refusal> {
        let reason = match self.get(Member::Reason) {
            None => None,
            Some(raw) => {
                let reason = string(raw).filter(|reason| reason.len() <= REASON_BYTES_MAX);
                Some(reason.ok_or(bad(Member::Reason))?.into())
            }
        };
        Ok(DoorAnswer {
            room: self.required_name(Member::R, RoomName::new)?,
            user: self.required_name(Member::U, UserName::new)?,
            ok: boolean(self.required(Member::Ok)?).ok_or(bad(Member::Ok))?,
            reason,
        })
    }
}

/// Members that several frames have, and how each is read.
impl<'a> Members<'a> {
    fn get(&self, member: Member) -> Option<&'a str> {
        self.0[member as usize]
    }

    fn required(&self, member: Member) -> Result<&'a str, Refusal> {
        self.get(member).ok_or(missing(member))
    }

    fn required_string(&self, member: Member) -> Result<Cow<'a, str>, Refusal> {
        string(self.required(member)?).ok_or(bad(member))
    }

    fn required_name<N>(&self, member: Member, new: fn(&str) -> Result<N, BadName>) -> Result<N, Refusal> {
        new(&self.required_string(member)?).map_err(|_| bad(member))
    }

    fn num(&self) -> Result<Option<Num>, Refusal> {
        let Some(raw) = self.get(Member::Num) else { return Ok(None) };
        if raw.len() > NUM_BYTES_MAX || !(raw.as_bytes().first() == Some(&b'"') || is_number(raw)) {
            return Err(bad(Member::Num));
        }
        Ok(Some(Num::new(raw)))
    }

    fn token(&self) -> Result<Option<Box<str>>, Refusal> {
        let Some(raw) = self.get(Member::Token) else { return Ok(None) };
        Ok(Some(string(raw).ok_or(bad(Member::Token))?.into()))
    }

    fn alias(&self) -> Result<Option<Alias>, Refusal> {
        self.get(Member::Alias).map(|_| self.required_name(Member::Alias, Alias::new)).transpose()
    }

    fn extended(&self) -> bool {
        self.get(Member::Ext).is_some_and(|raw| matches!(raw, "1" | "\"1\"" | "true"))
    }

    fn info(&self) -> Result<Option<Box<str>>, Refusal> {
        let Some(raw) = self.get(Member::Info) else { return Ok(None) };
        if !raw.starts_with('{') || raw.len() > INFO_BYTES_MAX {
            return Err(bad(Member::Info));
        }
        Ok(Some(on_one_line(raw).into()))
    }

    /// A string or an array of strings as names, each once in the order listed. The bound counts them as listed. An empty
    /// array names nobody, which is fine for a publish: it has no receivers.
    fn names<N: Clone + Eq + Hash>(&self, member: Member, new: fn(&str) -> Result<N, BadName>) -> Result<Few<N>, Refusal> {
        let raw = self.required(member)?;
        if let Some(name) = string(raw) {
            return Ok(Few::One(new(&name).map_err(|_| bad(member))?));
        }
        let (mut names, mut listed) = (Vec::new(), 0);
        let all_fit = each(raw, |item| {
            names.extend(string(item).and_then(|name| new(&name).ok()));
            listed += 1;
            names.len() == listed && listed <= NAMES_PER_FRAME_MAX
        });
        if !all_fit {
            return Err(bad(member));
        }
        if names.len() > 1 {
            let mut seen = HashSet::with_capacity(names.len());
            names.retain(|name| seen.insert(name.clone()));
        }
        Ok(names.into())
    }

    /// `topic` of register and unregister: an empty array is as good as none, and most likely a fault of the client's.
    fn some_topics(&self) -> Result<Few<Topic>, Refusal> {
        let topics = self.names(Member::Topic, Topic::new)?;
        if topics.is_empty() { Err(missing(Member::Topic)) } else { Ok(topics) }
    }

    /// `mid`: digits, as a string or as an integer, or an array of such. An empty array acknowledges nothing.
    fn mids(&self) -> Result<Mids, Refusal> {
        let raw = self.required(Member::Mid)?;
        if let Some(mid) = mid(raw) {
            return Ok(Mids::One(mid));
        }
        let mut mids = Vec::new();
        let all_fit = each(raw, |item| mid(item).map(|mid| mids.push(mid)).is_some());
        match (all_fit, mids.as_slice()) {
            (false, _) => Err(bad(Member::Mid)),
            (true, &[mid]) => Ok(Mids::One(mid)),
            (true, _) => Ok(Mids::Many(mids.into())),
        }
    }
}

/// `opts` of a publish (Protocol §4).
fn options(raw: &str, publish: &mut Publish) -> Result<(), Refusal> {
    const OPTS: Refusal = Refusal::new(Code::BadField, "opts");
    const TIME_TO_LIVE: Refusal = Refusal::new(Code::BadField, "opts.time_to_live");
    const ID: Refusal = Refusal::new(Code::BadField, "opts.id");
    const RECEIPT: Refusal = Refusal::new(Code::BadField, "opts.receipt");
    let opts = Members::of(raw).ok_or(OPTS)?;
    if let Some(raw) = opts.get(Member::TimeToLive) {
        // Digits only: `parse` takes no fraction, exponent, minus or quotes, and JSON no plus.
        let seconds = raw.parse().ok().filter(|&seconds| seconds <= TIME_TO_LIVE_MAX_S);
        publish.time_to_live = seconds.ok_or(TIME_TO_LIVE)?;
    }
    if let Some(raw) = opts.get(Member::Id) {
        let id = string(raw).filter(|id| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&id.len()));
        publish.id = Some(id.ok_or(ID)?.into());
    }
    if let Some(raw) = opts.get(Member::Receipt) {
        publish.receipt = boolean(raw).ok_or(RECEIPT)?;
    }
    Ok(())
}

fn missing(member: Member) -> Refusal {
    Refusal::new(Code::MissingField, member.name())
}

fn bad(member: Member) -> Refusal {
    Refusal::new(Code::BadField, member.name())
}

/// The text of a JSON string; `None` for another value, and for escapes that make no text (half a surrogate pair).
fn string(raw: &str) -> Option<Cow<'_, str>> {
    let [b'"', inner @ .., b'"'] = raw.as_bytes() else { return None };
    if memchr(b'\\', inner).is_none() {
        return Some(Cow::Borrowed(&raw[1..raw.len() - 1]));
    }
    serde_json::from_str(raw).ok().map(Cow::Owned)
}

fn boolean(raw: &str) -> Option<bool> {
    match raw {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn mid(raw: &str) -> Option<Mid> {
    if is_number(raw) { Mid::parse(raw) } else { Mid::parse(&string(raw)?) }
}

fn is_number(raw: &str) -> bool {
    matches!(raw.as_bytes().first(), Some(b'-' | b'0'..=b'9'))
}

/// Gives the elements of a JSON array to `take` until it says no. Whether it was an array and all were taken. One by one:
/// a list of what an element might be takes many times the room of its text.
fn each<'a>(raw: &'a str, take: impl FnMut(&'a str) -> bool) -> bool {
    struct Elements<F>(F);
    impl<'de, F: FnMut(&'de str) -> bool> Visitor<'de> for Elements<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
            while let Some(element) = array.next_element::<&'de RawValue>()? {
                if !(self.0)(element.get()) {
                    return Err(A::Error::custom("not what this array may hold"));
                }
            }
            Ok(())
        }
    }
    serde_json::Deserializer::from_str(raw).deserialize_seq(Elements(take)).is_ok()
}

/// JSON text with the line breaks between its tokens made spaces, so that it fits a line. Inside a string a line break
/// can't be: valid JSON has it escaped there.
fn on_one_line(text: &str) -> Cow<'_, str> {
    if memchr2(b'\r', b'\n', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(['\r', '\n'], " "))
}

/// A door frame's text with its type as the first member. It has others behind it: `r` at least.
fn with_type(kind: DoorKind, text: &str) -> String {
    let t = match kind {
        DoorKind::Open => "8",
        DoorKind::Phone => "9",
        DoorKind::Door => "10",
    };
    format!("{{\"t\":{t},{}", text.strip_prefix('{').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::protocol::encode;
    use crate::protocol::line::Lines;
    use crate::seeded::Seeded;

    const REQUESTS: &str = include_str!("../../fixtures/frames/requests.txt");
    const EVENTS: &str = include_str!("../../fixtures/frames/events.txt");
    const FRAME_MAX: usize = 64 << 10;

    /// The cases of a fixture: frame and meaning.
    fn cases(fixture: &'static str) -> Vec<(&'static str, &'static str)> {
        let lines: Vec<&str> = fixture.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        lines
            .chunks(2)
            .map(|case| match case {
                [frame, meaning] => (frame.strip_prefix("> ").expect(frame), meaning.strip_prefix("= ").expect(meaning)),
                _ => panic!("a frame without its meaning: {case:?}"),
            })
            .collect()
    }

    /// A request in the words of the fixtures.
    fn describe(request: &Request) -> String {
        let mut words = match &request.body {
            Body::Bind { kind, alias, extended } => {
                let word = match kind {
                    BindKind::Heartbeat => "heartbeat",
                    BindKind::Connect11 => "connect11",
                    BindKind::Connect14 => "connect14",
                };
                word.to_owned() + &of(alias) + if *extended { " extended" } else { "" }
            }
            Body::Register { alias, topics, info } => {
                format!("register{} topics={}", of(alias), list(topics))
                    + &info.as_ref().map_or(String::new(), |info| format!(" info={info}"))
            }
            Body::Unregister { alias, topics } => format!("unregister{} topics={}", of(alias), list(topics)),
            Body::GetTopic { alias } => "get_topic".to_owned() + &of(alias),
            Body::Pull { alias } => "pull".to_owned() + &of(alias),
            Body::Acknowledge { alias, mids } => format!("acknowledge{} mids={}", of(alias), list(mids.as_slice())),
            Body::Publish(publish) => describe_publish(publish),
            Body::ServerInfo => "server_info".to_owned(),
            Body::Door(frame) => describe_door(frame),
            Body::DoorAnswer(answer) => {
                format!("door_result r={} u={} ok={}", answer.room, answer.user, answer.ok)
                    + &answer.reason.as_ref().map_or(String::new(), |reason| format!(" reason={reason:?}"))
            }
            Body::Status { alias } => "status".to_owned() + &of(alias),
            Body::Leave => "leave".to_owned(),
            Body::Refused(Refusal { code, field }) => format!("refused {} {field}", code.as_str()).trim_end().to_owned(),
        };
        if let Some(Num { text: num, .. }) = &request.num {
            write!(words, " num={num}").unwrap();
        }
        if let Some(token) = &request.token {
            write!(words, " token={token}").unwrap();
        }
        words
    }

    fn describe_publish(publish: &Publish) -> String {
        let to = match &publish.to {
            Receivers::Topics(topics) => format!("topics={}", list(topics)),
            Receivers::Aliases(aliases) => format!("aliases={}", list(aliases)),
        };
        let id = publish.id.as_ref().map_or(String::new(), |id| format!(" id={id}"));
        let receipt = if publish.receipt { " receipt" } else { "" };
        format!("publish {to} time_to_live={}{id}{receipt} msg={}", publish.time_to_live, publish.msg)
    }

    fn describe_door(frame: &DoorFrame) -> String {
        let word = match frame.kind {
            DoorKind::Open => "open",
            DoorKind::Phone => "phone",
            DoorKind::Door => "door",
        };
        let extended = if frame.extended { " extended" } else { "" };
        let wait = if frame.wait { " wait" } else { "" };
        format!("{word} r={} u={}{extended}{wait} text={}", frame.room, frame.user, frame.text)
    }

    fn of(alias: &Option<Alias>) -> String {
        alias.as_ref().map_or(String::new(), |alias| format!(" alias={alias}"))
    }

    fn list<T: ToString>(items: &[T]) -> String {
        format!("[{}]", items.iter().map(T::to_string).collect::<Vec<_>>().join(","))
    }

    fn refused(code: Code, field: &'static str) -> Body {
        Body::Refused(Refusal::new(code, field))
    }

    /// What requests come of `chunks`, through the line decoder as over TCP.
    fn over_tcp<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
        let mut lines = Lines::new(FRAME_MAX);
        let mut seen = Vec::new();
        for mut chunk in chunks {
            while let Some(line) = lines.next(&mut chunk).unwrap() {
                seen.push(describe(&request(line)));
            }
        }
        seen
    }

    #[test]
    fn frames_mean_what_the_fixture_says_however_they_arrive() {
        for (frame, meaning) in cases(REQUESTS) {
            assert_eq!(describe(&request(frame.as_bytes())), meaning, "{frame}");
            let line = format!("{frame}\n");
            assert_eq!(over_tcp([line.as_bytes()].into_iter()), [meaning], "whole: {frame}");
            assert_eq!(over_tcp(line.as_bytes().chunks(1)), [meaning], "byte by byte: {frame}");
            let followed = format!("\r\n  {frame} \r\n \n{frame}\n{{\"t\":");
            assert_eq!(over_tcp([followed.as_bytes()].into_iter()), [meaning, meaning], "followed by more: {frame}");
            assert_eq!(over_tcp(followed.as_bytes().chunks(7)), [meaning, meaning], "in sevens: {frame}");
        }
    }

    #[test]
    fn events_decide_the_type() {
        for (case, meaning) in cases(EVENTS) {
            let (t, argument) = case.split_once(' ').unwrap();
            assert_eq!(describe(&request_as(t.parse().unwrap(), argument.as_bytes())), meaning, "{case}");
        }
    }

    #[test]
    fn the_fixture_has_every_frame_and_every_refusal_of_this_layer() {
        let meanings: Vec<&str> = cases(REQUESTS).iter().map(|(_, meaning)| *meaning).collect();
        let words = "heartbeat connect11 connect14 register unregister get_topic pull acknowledge publish server_info open phone door \
                     door_result";
        for word in words.split_whitespace() {
            assert!(meanings.iter().any(|meaning| meaning.split(' ').next() == Some(word)), "{word}");
        }
        for code in [Code::BadJson, Code::MissingField, Code::BadField, Code::UnknownType] {
            assert!(meanings.iter().any(|meaning| meaning.starts_with(&format!("refused {}", code.as_str()))), "{code:?}");
        }
        for (t, known) in (-20..=20).map(|t| (t, matches!(t, 1..=4 | 6..=12 | 14 | -5 | -8))) {
            let unknown = request(format!("{{\"t\":{t}}}").as_bytes()).body == refused(Code::UnknownType, "t");
            assert_eq!(unknown, !known, "{t}");
        }
    }

    #[test]
    fn a_door_frame_is_relayed_without_its_token_and_otherwise_unchanged() {
        let first = request(br#"{"t":8,"r":"R","u":"U","token":"abc123","n":1}"#);
        assert_eq!(first.token.as_deref(), Some("abc123"));
        let Body::Door(frame) = first.body else { panic!("{:?}", first.body) };
        assert_eq!(&*frame.text, r#"{"t":8,"r":"R","u":"U","token":"","n":1}"#);
        let Body::Door(frame) = request(br#"{"t":8,"r":"gate","token":"gate","u":"gate"}"#).body else { panic!("no door frame") };
        assert_eq!(&*frame.text, r#"{"t":8,"r":"gate","token":"","u":"gate"}"#, "a fixed string of an older installation");
    }

    #[test]
    fn line_breaks_between_tokens_become_spaces_and_nothing_else_changes() {
        let frame = "\n{\"t\":6,\r\n\"method\":\"publish\",\"topic\":\"a\",\"msg\":{\r\n\t\"a\":\n[1,\r2],\"b\":\"\\r\\n\\u000a\"}}\r\n";
        let Body::Publish(publish) = request(frame.as_bytes()).body else { panic!("no publish") };
        assert_eq!(&*publish.msg, "{  \t\"a\": [1, 2],\"b\":\"\\r\\n\\u000a\"}");

        let Body::Door(frame) = request(b" \r\n{\"t\":8,\n\"r\":\"R\",\r\n\"u\":\"U\"}\n").body else { panic!("no door frame") };
        assert_eq!(&*frame.text, "{\"t\":8, \"r\":\"R\",  \"u\":\"U\"}");
        let Body::Door(frame) = request_as(8, b"\n{\n\"r\":\"R\",\"u\":\"U\"}").body else { panic!("no door frame") };
        assert_eq!(&*frame.text, "{\"t\":8, \"r\":\"R\",\"u\":\"U\"}");

        let Body::Register { info, .. } = request(b"{\"t\":2,\"topic\":\"a\",\"info\":{\"a\":\n1}}").body else { panic!("no register") };
        assert_eq!(info.as_deref(), Some("{\"a\": 1}"));
    }

    #[test]
    fn a_frame_that_is_no_utf_8_is_bad_json() {
        for frame in
            [&b"{\"t\":7,\"x\":\"\xff\"}"[..], b"{\"t\":7,\"\xc3\":1}", b"\xef\xbb\xbf{\"t\":7}", b"{\"t\":-5,\"mid\":\"\xff\"}", b""]
        {
            assert_eq!(request(frame).body, refused(Code::BadJson, ""), "{frame:?}");
        }
    }

    #[test]
    fn bounds_hold_at_one_under_exactly_and_one_over() {
        let fits = |frame: String| !matches!(request(frame.as_bytes()).body, Body::Refused(_));
        let names = |n: usize| (0..n).map(|i| format!("\"n{i}\"")).collect::<Vec<_>>().join(",");
        let x = |n: usize| "x".repeat(n);
        for (over, fit) in [(-1, true), (0, true), (1, false)] {
            let at = |bound: usize| bound.strict_add_signed(over);
            assert_eq!(fits(format!(r#"{{"t":1,"alias":"{}"}}"#, x(at(128)))), fit, "alias");
            assert_eq!(fits(format!(r#"{{"t":2,"topic":[{}]}}"#, names(at(NAMES_PER_FRAME_MAX)))), fit, "topic");
            assert_eq!(fits(format!(r#"{{"t":2,"topic":"a","info":{{"a":"{}"}}}}"#, x(at(INFO_BYTES_MAX) - 8))), fit, "info");
            assert_eq!(fits(format!(r#"{{"t":3,"num":"{}"}}"#, x(at(NUM_BYTES_MAX) - 2))), fit, "num");
            let opts = format!(r#"{{"id":"{}"}}"#, x(at(IDEMPOTENCY_KEY_BYTES_MAX)));
            assert_eq!(fits(format!(r#"{{"t":6,"method":"publish","topic":[],"msg":1,"opts":{opts}}}"#)), fit, "opts.id");
            let reason = x(at(REASON_BYTES_MAX));
            assert_eq!(fits(format!(r#"{{"t":-8,"r":"R","u":"","ok":true,"reason":"{reason}"}}"#)), fit, "reason");
        }
        let repeated = ["\"a\""; NAMES_PER_FRAME_MAX + 1].join(",");
        assert!(!fits(format!(r#"{{"t":2,"topic":[{repeated}]}}"#)), "repeated names count as listed");
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        const DEPTH: usize = 30_000;
        let deep = [("[".repeat(DEPTH), "]".repeat(DEPTH)), ("{\"a\":".repeat(DEPTH / 3), "}".repeat(DEPTH / 3))]
            .map(|(open, close)| (format!("{open}1{close}"), open));
        let check = move || {
            for (value, unclosed) in &deep {
                let publish = format!("{{\"t\":6,\"method\":\"publish\",\"topic\":\"a\",\"msg\":{value}}}");
                let Body::Publish(publish) = request(publish.as_bytes()).body else { panic!("no publish") };
                assert_eq!(&*publish.msg, value);
                assert_eq!(request(format!("{{\"t\":7,\"x\":{value}}}").as_bytes()).body, Body::ServerInfo);
                for member in ["t", "num", "token", "alias", "topic", "info", "mid", "method", "opts", "r", "ok"] {
                    for t in [1, 2, 6, -5, 8, -8] {
                        let frame = format!("{{\"t\":{t},\"topic\":\"a\",\"r\":\"r\",\"u\":\"u\",\"{member}\":{value}}}");
                        std::hint::black_box(request(frame.as_bytes()));
                    }
                }
                assert_eq!(request(format!("{{\"x\":{unclosed}").as_bytes()).body, refused(Code::BadJson, ""));
                assert_eq!(request(unclosed.as_bytes()).body, refused(Code::BadJson, ""));
            }
        };
        // Two bytes of stack a level would not fit.
        std::thread::Builder::new().stack_size(2 * DEPTH).spawn(check).unwrap().join().unwrap();
    }

    #[test]
    fn requests_stay_small() {
        assert!(size_of::<Request>() <= 104, "{}", size_of::<Request>());
    }

    /// Heap bytes that a request holds on to.
    fn held(request: &Request) -> usize {
        fn names<N>(names: &Few<N>, text: fn(&N) -> &str) -> usize {
            let places = if let Few::Many(names) = names { names.capacity() } else { 0 };
            // Each name is shared: two counters beside the text.
            places * size_of::<N>() + names.iter().map(|name| 16 + text(name).len()).sum::<usize>()
        }
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let body = match &request.body {
            Body::Register { topics, info, .. } => names(topics, Topic::as_str) + text(info),
            Body::Unregister { topics, .. } => names(topics, Topic::as_str),
            Body::Acknowledge { mids: Mids::Many(mids), .. } => size_of_val(&**mids),
            Body::Publish(publish) => {
                let to = match &publish.to {
                    Receivers::Topics(topics) => names(topics, Topic::as_str),
                    Receivers::Aliases(aliases) => names(aliases, Alias::as_str),
                };
                size_of::<Publish>() + to + publish.msg.len() + text(&publish.id)
            }
            Body::Door(frame) => size_of::<DoorFrame>() + frame.text.len() + 16,
            Body::DoorAnswer(answer) => size_of::<DoorAnswer>() + text(&answer.reason),
            _ => 0,
        };
        body + request.num.as_ref().map_or(0, |num| num.text.len()) + text(&request.token)
    }

    /// What holds of every frame, however broken.
    fn check(frame: &[u8]) {
        let read = request(frame);
        let object = std::str::from_utf8(frame).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
        let object = object.is_some_and(|object| object.get().starts_with('{'));
        assert_eq!(read.body == refused(Code::BadJson, ""), !object, "{}", String::from_utf8_lossy(frame));
        assert!(held(&read) <= 512 + 16 * frame.len(), "{} bytes for {}", held(&read), frame.len());
        let relayed = match &read.body {
            Body::Publish(publish) => &publish.msg,
            Body::Door(frame) => &*frame.text,
            Body::Register { info: Some(info), .. } => info,
            _ => "0",
        };
        assert!(!relayed.contains(['\r', '\n']) && serde_json::from_str::<&RawValue>(relayed).is_ok(), "{relayed}");
        if let Some(Num { text: num, .. }) = &read.num {
            assert!(!num.contains(['\r', '\n']) && serde_json::from_str::<&RawValue>(num).is_ok(), "{num}");
        }
    }

    #[test]
    fn random_and_mutated_frames_are_read_or_refused() {
        const JSON: &[u8] = b"{}[]\":,\\u-0123456789.eEtrufalsnidm \r\n\t\x00\x7f\xc3\xa9\xff";
        let frames: Vec<&str> = cases(REQUESTS).iter().map(|(frame, _)| *frame).collect();
        let mut random = Seeded(0x0c0d_ec01);
        for _ in 0..60_000 {
            let len = random.below(40);
            check(&random.bytes(len));
            let len = random.below(40);
            check(&(0..len).map(|_| *random.pick(JSON)).collect::<Vec<_>>());

            let mut frame = random.pick(&frames).as_bytes().to_vec();
            for _ in 0..=random.below(4) {
                let at = random.below(frame.len() + 1);
                match random.below(5) {
                    0 => frame.truncate(at),
                    1 => frame.insert(at, *random.pick(JSON)),
                    2 if at < frame.len() => frame[at] = *random.pick(JSON),
                    3 if at < frame.len() => drop(frame.remove(at)),
                    _ => {
                        let other = random.pick(&frames).as_bytes();
                        let from = random.below(other.len());
                        frame.splice(at..at, other[from..].iter().copied());
                    }
                }
            }
            check(&frame);
        }
    }

    #[test]
    fn names_survive_being_written_and_read() {
        let alphabet: Vec<char> = "ab\"\\/ 门é\u{2028}\u{1f6aa}{}[]:,".chars().collect();
        let mut random = Seeded(0x0c0d_ec02);
        for _ in 0..5_000 {
            let names: Vec<String> =
                (0..1 + random.below(12)).map(|_| (0..1 + random.below(6)).map(|_| *random.pick(&alphabet)).collect()).collect();
            let mut frame = b"{\"t\":12,\"topic\":[".to_vec();
            for (place, name) in names.iter().enumerate() {
                frame.extend_from_slice(if place == 0 { b"" } else { b"," });
                encode::string(name, &mut frame);
            }
            frame.extend_from_slice(b"]}");
            let mut once: Vec<&str> = Vec::new();
            for name in &names {
                if !once.contains(&name.as_str()) {
                    once.push(name);
                }
            }
            let Body::Unregister { topics, .. } = request(&frame).body else { panic!("{}", String::from_utf8_lossy(&frame)) };
            assert_eq!(topics.iter().map(Topic::as_str).collect::<Vec<_>>(), once);
        }
    }

    #[test]
    fn the_short_way_of_acknowledgements_agrees_with_the_long_one() {
        for frame in ["{\"t\":-5,\"mid\":\"7\"}", "{\"t\":-5,\"mid\":\"007\"}", "{\"t\":-5,\"mid\":\"99999999999999999999\"}"] {
            assert!(acknowledgement(frame.as_bytes()).is_some(), "{frame}");
            assert_eq!(acknowledgement(frame.as_bytes()), Some(read(None, |_| true, frame.as_bytes())), "{frame}");
        }
        for frame in
            ["{\"t\":-5,\"mid\":\"7\" }", "{\"t\":-5,\"mid\":\"\"}", "{\"t\":-5,\"mid\":\"7\",\"num\":\"1\"}", "{\"t\":-5,\"mid\":\"7"]
        {
            assert_eq!(acknowledgement(frame.as_bytes()), None, "{frame}");
        }
    }
}
