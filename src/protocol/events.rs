//! Events and frames (Protocol §8): which frame an event's argument is, and by which event each answer goes.
//!
//! The name of the event decides, whatever `t` the argument has. `connect` and `disconnect` are events like any other here: some
//! clients emit them. Unknown names are for the caller to ignore. It knows neither packets nor who asks.

use std::borrow::Cow;
use std::num::NonZeroU8;

use crate::names::{Alias, Mid};
use crate::protocol::decode;
use crate::protocol::frame::{BindKind, Body, Call, Mids, Num, Reply, Request};
use crate::protocol::refusal::{Code, Refusal};

/// An event that clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// 1.
    Heartbeat,
    /// 2.
    Register,
    /// 3.
    GetTopic,
    /// 4.
    Pull,
    /// -5, named after the push that it answers.
    PushC,
    /// 6.
    DoPush,
    /// 11.
    Connect,
    /// No frame: the session ends.
    Disconnect,
    /// No frame: whether an alias is online.
    InfoStatus,
    /// 12.
    Unregister,
    /// 7.
    ServerInfo,
    /// 8.
    OpenDoor,
    /// 9.
    Phone,
    /// 10.
    Door,
    /// -8.
    DoorResult,
}

impl Event {
    /// Every one, in the order of Protocol §8.
    pub const ALL: [Event; 15] = [
        Event::Heartbeat,
        Event::Register,
        Event::GetTopic,
        Event::Pull,
        Event::PushC,
        Event::DoPush,
        Event::Connect,
        Event::Disconnect,
        Event::InfoStatus,
        Event::Unregister,
        Event::ServerInfo,
        Event::OpenDoor,
        Event::Phone,
        Event::Door,
        Event::DoorResult,
    ];

    /// The event of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Event> {
        Event::ALL.into_iter().find(|event| event.row().0 == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The type of the frame that its argument is; `None` for those that stand for no frame.
    #[must_use]
    pub const fn t(self) -> Option<i32> {
        self.row().1
    }

    /// The event that carries an error frame back.
    #[must_use]
    pub const fn error_name(self) -> &'static str {
        self.row().2
    }

    /// Name, frame type, and the event of its errors, which but for `push_c` is that of its answer as well.
    const fn row(self) -> (&'static str, Option<i32>, &'static str) {
        match self {
            Event::Heartbeat => ("heartbeat", Some(1), "heartbeat_c"),
            Event::Register => ("register", Some(2), "register_c"),
            Event::GetTopic => ("get_topic", Some(3), "get_topic_c"),
            Event::Pull => ("pull", Some(4), "pull_c"),
            Event::PushC => ("push_c", Some(-5), "push_c_error"),
            Event::DoPush => ("do_push", Some(6), "do_push_c"),
            Event::Connect => ("connect", Some(11), "connect_c"),
            Event::Disconnect => ("disconnect", None, "disconnect_c"),
            Event::InfoStatus => ("info_status", None, "info_status_c"),
            Event::Unregister => ("unregister", Some(12), "unregister_c"),
            Event::ServerInfo => ("server_info", Some(7), "server_info_c"),
            Event::OpenDoor => ("open_door", Some(8), "open_door_c"),
            Event::Phone => ("phone", Some(9), "phone_c"),
            Event::Door => ("door", Some(10), "door_c"),
            Event::DoorResult => ("door_result", Some(-8), "door_result_c"),
        }
    }

    /// Reads the event's argument, as JSON text, as the frame it stands for; for [`Event::InfoStatus`] and [`Event::Disconnect`], which
    /// stand for none, as a frame 3: its `alias` and `num` are all that there is to read. No argument is as good as `{}`. `ack`: the
    /// number by which the client waits for an acknowledgement. The answer carries the event back, for [`Event::asked`].
    #[must_use]
    pub fn read(self, argument: Option<&str>, has_attachments: bool, ack: Option<u64>) -> Request {
        let argument = argument.map_or(Cow::Borrowed("{}"), frame_text);
        let mut request = decode::request_as(self.t().unwrap_or(GET_TOPIC), argument.as_bytes());
        if has_attachments {
            request.body = Body::Refused(ATTACHMENTS);
        }
        request.body = match (self, request.body) {
            (Event::InfoStatus, Body::GetTopic { alias }) => Body::Status { alias },
            (Event::Disconnect, _) => Body::Leave,
            (_, body) => body,
        };
        self.refer(&mut request, ack);
        request
    }

    /// The short way over the two messages that nearly all are, exactly as clients' JSON writers put them: `2["push_c",{"mid":"…"}]`
    /// and `2["heartbeat",{"alias":"…"}]`, each perhaps with a number for its acknowledgement. `None`: it is another, and
    /// [`crate::protocol::socketio`] is to read it.
    #[must_use]
    pub fn usual(message: &str) -> Option<Request> {
        let rest = message.strip_prefix('2')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (event, body) = if let Some(argument) = rest[digits..].strip_prefix("[\"push_c\",{\"mid\":\"") {
            let mid = Mid::parse(argument.strip_suffix("\"}]")?)?;
            (Event::PushC, Body::Acknowledge { alias: None, mids: Mids::One(mid) })
        } else {
            let name = rest[digits..].strip_prefix("[\"heartbeat\",{\"alias\":\"")?.strip_suffix("\"}]")?;
            let alias = Alias::new(name).ok().filter(|_| memchr::memchr2(b'"', b'\\', name.as_bytes()).is_none())?;
            (Event::Heartbeat, Body::Bind { kind: BindKind::Heartbeat, alias: Some(alias), extended: false })
        };
        let ack = if digits == 0 { None } else { Some(rest[..digits].parse().ok()?) };
        let mut request = Request { body, num: None, token: None };
        event.refer(&mut request, ack);
        Some(request)
    }

    /// The event whose argument is over the limit for frames.
    #[must_use]
    pub fn too_large(self, ack: Option<u64>) -> Request {
        let mut request = Request { body: Body::Refused(Refusal::new(Code::TooLarge, "limits.frame")), num: None, token: None };
        self.refer(&mut request, ack);
        request
    }

    /// Notes in a request which event it was.
    fn refer(self, request: &mut Request, ack: Option<u64>) {
        let call = Some(Call { question: NonZeroU8::MIN.saturating_add(self as u8), ack: ack.map(Box::new) });
        match &mut request.num {
            Some(num) => num.call = call,
            None => request.num = Some(Num { text: "".into(), call }),
        }
    }

    /// Which event it was that a reply answers.
    #[must_use]
    pub fn asked(num: &Num) -> Option<Event> {
        Event::ALL.get(usize::from(num.call.as_ref()?.question.get()) - 1).copied()
    }
}

/// The event that carries a pushed message.
pub const PUSH: &str = "push";
/// The event that carries a relayed door frame.
pub const DOOR: &str = "door";

/// The event that carries a reply, and whether the frame is its argument (else it has none). Errors go by
/// [`Event::error_name`] of the event that is refused, as `None` says.
#[must_use]
pub const fn of_reply(reply: &Reply) -> Option<(&'static str, bool)> {
    let event = match reply {
        Reply::Error { .. } => return None,
        Reply::Bound { kind: BindKind::Heartbeat, .. } => Event::Heartbeat,
        Reply::Bound { kind: BindKind::Connect11 | BindKind::Connect14, .. } => return Some((Event::Connect.error_name(), false)),
        Reply::Registered { .. } => Event::Register,
        Reply::Unregistered { .. } => Event::Unregister,
        Reply::Topics { .. } => Event::GetTopic,
        Reply::Pulled { .. } => Event::Pull,
        Reply::Published(..) => Event::DoPush,
        Reply::ServerInfo { .. } => Event::ServerInfo,
        Reply::DoorsReached { .. } | Reply::DoorResult { .. } => Event::OpenDoor,
        Reply::Receipt { .. } => return Some(("receipt", true)),
        Reply::EndedElsewhere { .. } => return Some(("push_done", true)),
        Reply::Status { .. } => Event::InfoStatus,
        Reply::Done { .. } => return None,
    };
    Some((event.error_name(), true))
}

/// The text of a frame: the argument itself, or what stands in it if it is a JSON string.
fn frame_text(argument: &str) -> Cow<'_, str> {
    if argument.starts_with('"') {
        // Escapes that make no text leave the argument as it is: a string, which is no frame.
        serde_json::from_str::<String>(argument).map_or(argument.into(), Cow::Owned)
    } else {
        argument.into()
    }
}

const GET_TOPIC: i32 = 3;
const ATTACHMENTS: Refusal = Refusal::new(Code::BadField, "attachments");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::{Num, Published, RoomCounts};
    use crate::protocol::socketio::{self, Packet};
    use crate::seeded::Seeded;

    const EVENTS: &str = include_str!("../../fixtures/socketio/events.txt");

    #[test]
    fn events_mean_what_the_fixture_says() {
        let lines: Vec<&str> = EVENTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        for case in lines.chunks(2) {
            let [name, argument, binary @ ..] = &case[0].strip_prefix("> ").unwrap().split('\t').collect::<Vec<_>>()[..] else {
                panic!("{}", case[0])
            };
            let argument = Some(*argument).filter(|argument| *argument != "-");
            let meaning = case[1].strip_prefix("= ").unwrap();
            let read = Event::named(name).map(|event| {
                let mut read = event.read(argument, !binary.is_empty(), Some(17));
                let num = read.num.take().unwrap();
                assert_eq!((Event::asked(&num), num.wants_acknowledgement()), (Some(event), true));
                read.num = Some(Num::new(&num.text)).filter(|num| !num.text.is_empty());
                read
            });
            match (read, meaning.strip_prefix("refused ")) {
                (None, _) => assert_eq!(meaning, "ignored", "{}", case[0]),
                (Some(Request { body: Body::Leave, .. }), None) => assert_eq!(meaning, "leave", "{}", case[0]),
                (Some(Request { body: Body::Status { alias }, num, token }), None) => {
                    let asked = Request { body: Body::GetTopic { alias }, num, token };
                    assert_eq!(asked, decode::request(meaning.as_bytes()), "{}", case[0]);
                }
                (Some(read), None) => assert_eq!(read, decode::request(meaning.as_bytes()), "{}", case[0]),
                (Some(Request { body: Body::Refused(Refusal { code, field }), num, .. }), Some(refused)) => {
                    let num = num.map_or(String::new(), |num| num.text.to_string());
                    assert_eq!(format!("{} {field} {num}", code.as_str()).trim_end(), refused, "{}", case[0]);
                }
                (Some(read), Some(_)) => panic!("{}: {read:?}", case[0]),
            }
        }
    }

    /// What the long way makes of a message.
    fn read(message: &str) -> Option<Request> {
        let Ok(Packet::Event(event)) = socketio::Decoder::new().text(message) else { return None };
        Some(Event::named(&event.name)?.read(event.argument, event.has_attachments, event.ack))
    }

    #[test]
    fn the_short_way_knows_acknowledgements_and_heartbeats() {
        let most = u64::MAX.to_string();
        for usual in [
            "2[\"push_c\",{\"mid\":\"17\"}]",
            "20[\"push_c\",{\"mid\":\"0\"}]",
            "2[\"push_c\",{\"mid\":\"99999999999999999999999\"}]",
            "2[\"heartbeat\",{\"alias\":\"门 1\"}]",
            &format!("2{most}[\"heartbeat\",{{\"alias\":\"a\"}}]"),
        ] {
            assert!(Event::usual(usual).is_some(), "{usual}");
            assert_eq!(Event::usual(usual), read(usual), "{usual}");
        }
        for other in [
            "",
            "2",
            "3[\"push_c\",{\"mid\":\"17\"}]",
            "2/x,[\"push_c\",{\"mid\":\"17\"}]",
            "2[\"push_c\",{\"mid\":17}]",
            "2[\"push_c\",{\"mid\":\"\"}]",
            "2[\"push_c\",{\"mid\":\"1\",\"alias\":\"a\"}]",
            "2[\"push_c\",{\"mid\":\"1\"},1]",
            "2[\"heartbeat\"]",
            "2[\"heartbeat\",{\"alias\":\"\"}]",
            "2[\"heartbeat\",{\"alias\":\"a\\n\"}]",
            "2[\"heartbeat\",{\"alias\":\"a\",\"ext\":\"1\"}]",
            "2[\"heartbeat\",{\"alias\":\"a\u{1}\"}]",
            &format!("2{most}0[\"heartbeat\",{{\"alias\":\"a\"}}]"),
            &format!("2[\"heartbeat\",{{\"alias\":\"{}\"}}]", "a".repeat(129)),
        ] {
            assert_eq!(Event::usual(other), None, "{other}");
        }
    }

    #[test]
    fn what_the_short_way_takes_means_what_the_long_way_reads() {
        const PIECES: [&str; 20] = [
            "2",
            "0",
            "17",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            "\"",
            "\\",
            " ",
            "门",
            "\u{1}",
            "push_c",
            "heartbeat",
            "mid",
            "alias",
            "a",
            "/x,",
        ];
        const USUAL: [&str; 2] = ["2[\"push_c\",{\"mid\":\"17\"}]", "23[\"heartbeat\",{\"alias\":\"门a\"}]"];
        let mut seeded = Seeded(5);
        let mut taken = 0;
        for _ in 0..200_000 {
            let mut message: Vec<char> = seeded.pick(&USUAL).chars().collect();
            for _ in 0..seeded.below(3) {
                let at = seeded.below(message.len() + 1);
                match seeded.below(2) {
                    0 if at < message.len() => drop(message.remove(at)),
                    _ => drop(message.splice(at..at, seeded.pick(&PIECES).chars())),
                }
            }
            let message: String = message.into_iter().collect();
            if let Some(request) = Event::usual(&message) {
                assert_eq!(Some(request), read(&message), "{message}");
                taken += 1;
            }
        }
        assert!(taken > 60_000, "{taken}");
    }

    #[test]
    fn names_and_types_are_those_of_the_protocol() {
        for event in Event::ALL {
            assert_eq!(Event::named(event.name()), Some(event));
            assert!(event.error_name().starts_with(event.name()));
            assert_eq!(event.error_name() == "push_c_error", event == Event::PushC);
        }
        let mut types: Vec<i32> = Event::ALL.iter().filter_map(|event| event.t()).collect();
        types.sort_unstable();
        assert_eq!(types, [-8, -5, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn every_reply_has_its_event() {
        let alias = Alias::new("a").unwrap();
        let mid = Mid::new(1);
        let bound = |kind| Reply::Bound { kind, alias: alias.clone(), ts: None, num: None };
        let published = Published { mid, online: 0, stored: 0 };
        for (reply, event) in [
            (bound(BindKind::Heartbeat), Some(("heartbeat_c", true))),
            (bound(BindKind::Connect11), Some(("connect_c", false))),
            (Reply::Registered { num: None }, Some(("register_c", true))),
            (Reply::Unregistered { num: None }, Some(("unregister_c", true))),
            (Reply::Topics { num: None, topics: vec![] }, Some(("get_topic_c", true))),
            (Reply::Pulled { messages: vec![], more: false, num: None }, Some(("pull_c", true))),
            (Reply::Published(published, None), Some(("do_push_c", true))),
            (Reply::ServerInfo { counts: RoomCounts::default(), num: None }, Some(("server_info_c", true))),
            (Reply::DoorsReached { doors: 1, num: None }, Some(("open_door_c", true))),
            (Reply::Receipt { mid, alias: alias.clone(), at: 0 }, Some(("receipt", true))),
            (Reply::EndedElsewhere { mid }, Some(("push_done", true))),
            (Reply::Error { refusal: ATTACHMENTS, num: None }, None),
        ] {
            assert_eq!(of_reply(&reply), event, "{reply:?}");
        }
    }
}
