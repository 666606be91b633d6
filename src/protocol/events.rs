//! Events and frames (Protocol §8): which frame an event's argument is, and by which event each answer goes.
//!
//! The name of the event decides, whatever `t` the argument has. `connect` and `disconnect` are events like any other here: some
//! clients emit them. Unknown names are for the caller to ignore. It knows neither packets nor who asks.

use std::borrow::Cow;

use crate::protocol::decode;
use crate::protocol::frame::{BindKind, Body, Call, Num, Reply, Request};
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

    /// The event whose argument is over the limit for frames.
    #[must_use]
    pub fn too_large(self, ack: Option<u64>) -> Request {
        let mut request = Request { body: Body::Refused(Refusal::new(Code::TooLarge, "limits.frame")), num: None, token: None };
        self.refer(&mut request, ack);
        request
    }

    /// Notes in a request which event it was.
    fn refer(self, request: &mut Request, ack: Option<u64>) {
        let call = Some(Box::new(Call { question: self as u8, ack }));
        match &mut request.num {
            Some(num) => num.call = call,
            None => request.num = Some(Num { text: "".into(), call }),
        }
    }

    /// Which event it was that a reply answers.
    #[must_use]
    pub fn asked(num: &Num) -> Option<Event> {
        Event::ALL.get(usize::from(num.call.as_ref()?.question)).copied()
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
    use crate::names::{Alias, Mid};
    use crate::protocol::frame::{Num, Published, RoomCounts};

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
