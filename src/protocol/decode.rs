//! Frames to values (Protocol §2 to §7): reading never fails, a frame that breaks a rule becomes [`Body::Refused`].
//!
//! A frame is read twice: the outer pass checks that all of it is JSON and notes where the members are (`Members`), the
//! inner one reads those that the frame's type has. Nothing is copied before it has proved to be what it must be, and
//! nested values are skipped without recursion, so the depth of a `msg` costs no stack.
//! It knows no link, no alias bound to one, no size limit of a frame (that is `line`'s and the HTTP body's) and no event.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::{
    IDEMPOTENCY_KEY_BYTES_MAX, INFO_BYTES_MAX, NAMES_PER_FRAME_MAX, NUM_BYTES_MAX, REASON_BYTES_MAX, TIME_TO_LIVE_DEFAULT_S,
    TIME_TO_LIVE_MAX_S,
};
use crate::names::{Alias, BadName, Mid, RoomName, Topic, UserName};
use crate::protocol::frame::{BindKind, Body, DoorAnswer, DoorFrame, DoorKind, Mids, Num, Publish, Receivers, Request};
use crate::protocol::refusal::{Code, Refusal};

/// Reads a frame of TCP or REST: `t` says which it is, or `type` where `t` is missing (Protocol §2).
#[must_use]
pub fn request(text: &[u8]) -> Request {
    acknowledgement(text).unwrap_or_else(|| read(None, text))
}

/// Reads the argument of a Socket.IO event that stands for frame `t`, whatever the frame's own `t` says (Protocol §8).
/// A door frame without a `t` gets that one, as its first member: TCP doors need it.
#[must_use]
pub fn request_as(t: i32, text: &[u8]) -> Request {
    read(Some(t), text)
}

/// Recognises the frame that busy links send most, exactly as clients' JSON writers put it: `{"t":-5,"mid":"<digits>"}`.
/// Anything else about it, and `read` takes over.
fn acknowledgement(text: &[u8]) -> Option<Request> {
    let digits = text.strip_prefix(b"{\"t\":-5,\"mid\":\"")?.strip_suffix(b"\"}")?;
    let mid = Mid::parse(std::str::from_utf8(digits).ok()?)?;
    Some(Request { body: Body::Acknowledge { alias: None, mids: Mids::One(mid) }, num: None, token: None })
}

fn read(event: Option<i32>, text: &[u8]) -> Request {
    let mut request = Request { body: Body::Refused(BAD_JSON), num: None, token: None };
    let Ok(text) = std::str::from_utf8(text) else { return request };
    let Ok(members) = serde_json::from_str::<Members<'_>>(text) else { return request };
    let token = members.token().map(|token| request.token = token);
    let num = members.num().map(|num| request.num = num);
    // Both are read before either may refuse: a refusal carries the num back, and the token counts all the same.
    let body = token.and(num).and_then(|()| members.t(event)).and_then(|t| members.body(t, event.is_some(), text));
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
struct Members<'a>([Option<&'a RawValue>; Member::COUNT]);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = [None; Member::COUNT];
                // A name is taken raw as well: escapes in it are legal, also those that make no text and so no known name.
                while let Some((name, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    if let Some(member) = string(name).and_then(|name| Member::named(&name)) {
                        members[member as usize] = Some(value);
                    }
                }
                Ok(Members(members))
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
        let digits = match raw.get().as_bytes() {
            [b'"', ..] => string(raw).unwrap_or_default(),
            _ if is_number(raw) => Cow::Borrowed(raw.get()),
            _ => return Err(bad(member)),
        };
        // `parse` would take `+6`, `06` and `-05` as well.
        let canonical = !digits.trim_start_matches('-').starts_with(['+', '0']);
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
        let msg = on_one_line(self.required(Member::Msg)?.get()).into();
        let mut publish = Publish { to, msg, time_to_live: TIME_TO_LIVE_DEFAULT_S, id: None, receipt: false };
        match self.get(Member::Opts) {
            Some(raw) if raw.get() != "null" => options(raw, &mut publish)?,
            _ => {}
        }
        Ok(publish)
    }

    fn door(&self, kind: DoorKind, from_event: bool, text: &str) -> Result<Body, Refusal> {
        let room = self.required_name(Member::R, RoomName::new)?;
        let user = self.required_name(Member::U, UserName::new)?;
        let text = on_one_line(text.trim_ascii());
        let text: Arc<str> = if from_event && self.get(Member::T).is_none() { with_type(kind, &text).into() } else { text.into() };
        let wait = self.get(Member::Wait).is_some_and(|raw| raw.get() == "true");
        Ok(Body::Door(Box::new(DoorFrame { kind, room, user, extended: self.extended(), wait, text })))
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
    fn get(&self, member: Member) -> Option<&'a RawValue> {
        self.0[member as usize]
    }

    fn required(&self, member: Member) -> Result<&'a RawValue, Refusal> {
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
        let text = raw.get();
        if text.len() > NUM_BYTES_MAX || !(text.starts_with('"') || is_number(raw)) {
            return Err(bad(Member::Num));
        }
        Ok(Some(Num(text.into())))
    }

    fn token(&self) -> Result<Option<Box<str>>, Refusal> {
        let Some(raw) = self.get(Member::Token) else { return Ok(None) };
        Ok(Some(string(raw).ok_or(bad(Member::Token))?.into()))
    }

    fn alias(&self) -> Result<Option<Alias>, Refusal> {
        self.get(Member::Alias).map(|_| self.required_name(Member::Alias, Alias::new)).transpose()
    }

    fn extended(&self) -> bool {
        self.get(Member::Ext).is_some_and(|raw| matches!(raw.get(), "1" | "\"1\"" | "true"))
    }

    fn info(&self) -> Result<Option<Box<str>>, Refusal> {
        let Some(raw) = self.get(Member::Info) else { return Ok(None) };
        if !raw.get().starts_with('{') || raw.get().len() > INFO_BYTES_MAX {
            return Err(bad(Member::Info));
        }
        Ok(Some(on_one_line(raw.get()).into()))
    }

    /// A string or an array of strings as names, each once in the order listed. The bound counts them as listed. An empty
    /// array names nobody, which is fine for a publish: it has no receivers.
    fn names<N: Clone + Eq + Hash>(&self, member: Member, new: fn(&str) -> Result<N, BadName>) -> Result<Vec<N>, Refusal> {
        let raw = self.required(member)?;
        if let Some(name) = string(raw) {
            return Ok(vec![new(&name).map_err(|_| bad(member))?]);
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
        Ok(names)
    }

    /// `topic` of register and unregister: an empty array is as good as none, and most likely a fault of the client's.
    fn some_topics(&self) -> Result<Vec<Topic>, Refusal> {
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
fn options(raw: &RawValue, publish: &mut Publish) -> Result<(), Refusal> {
    const OPTS: Refusal = Refusal::new(Code::BadField, "opts");
    const TIME_TO_LIVE: Refusal = Refusal::new(Code::BadField, "opts.time_to_live");
    const ID: Refusal = Refusal::new(Code::BadField, "opts.id");
    const RECEIPT: Refusal = Refusal::new(Code::BadField, "opts.receipt");
    let opts: Members<'_> = serde_json::from_str(raw.get()).map_err(|_| OPTS)?;
    if let Some(raw) = opts.get(Member::TimeToLive) {
        // Digits only: `parse` takes no fraction, exponent, minus or quotes, and JSON no plus.
        let seconds = raw.get().parse().ok().filter(|&seconds| seconds <= TIME_TO_LIVE_MAX_S);
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
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(raw.get()).ok().map(Cow::Owned)
}

fn boolean(raw: &RawValue) -> Option<bool> {
    match raw.get() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn mid(raw: &RawValue) -> Option<Mid> {
    if is_number(raw) { Mid::parse(raw.get()) } else { Mid::parse(&string(raw)?) }
}

fn is_number(raw: &RawValue) -> bool {
    raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// Gives the elements of a JSON array to `take` until it says no. Whether it was an array and all were taken. One by one:
/// a list of what an element might be takes many times the room of its text.
fn each<'a>(raw: &'a RawValue, take: impl FnMut(&'a RawValue) -> bool) -> bool {
    struct Elements<F>(F);
    impl<'de, F: FnMut(&'de RawValue) -> bool> Visitor<'de> for Elements<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
            while let Some(element) = array.next_element()? {
                if !(self.0)(element) {
                    return Err(A::Error::custom("not what this array may hold"));
                }
            }
            Ok(())
        }
    }
    serde_json::Deserializer::from_str(raw.get()).deserialize_seq(Elements(take)).is_ok()
}

/// JSON text with the line breaks between its tokens made spaces, so that it fits a line. Inside a string a line break
/// can't be: valid JSON has it escaped there.
fn on_one_line(text: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'\r', b'\n', text.as_bytes()).is_none() {
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
