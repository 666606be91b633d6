//! Frames as values (Protocol §2): what a peer asks, and what it is told. Reading them is `decode`, writing them `encode`.

use std::num::NonZeroU8;
use std::sync::Arc;

use crate::names::{Alias, Few, Mid, RoomName, ShortText, Topic, UserName};
use crate::protocol::refusal::Refusal;

/// What a reply carries back to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Num {
    /// The caller's correlation value, as the JSON text it was written in: a string with its quotes, or a number. Empty: none.
    /// It is held while its publish waits, and goes back with the answer.
    pub text: ShortText,
    /// Which question it was, where replies name theirs.
    pub call: Option<Call>,
}

/// A question of a dialect whose replies name the question (Protocol §8).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    /// The dialect's own number for it.
    pub question: NonZeroU8,
    /// The number under which the caller waits for an acknowledgement besides the reply: few do, so it takes room only then.
    pub ack: Option<Box<u64>>,
}

impl Num {
    /// A correlation value of that JSON text.
    #[must_use]
    pub fn new(text: &str) -> Num {
        Num { text: text.into(), call: None }
    }

    /// Whether the caller waits for an answer also to what has none in the protocol.
    #[must_use]
    pub fn wants_acknowledgement(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.ack.is_some())
    }
}

/// One frame from a peer. A frame that can't be read is one too: [`Body::Refused`], so that replies keep their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub body: Body,
    /// The correlation value, carried back by the reply.
    pub num: Option<Num>,
    /// The token that the frame carried; only a TCP link's first frame may (Protocol §11).
    pub token: Option<Box<str>>,
}

/// What a frame asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// 1, 11 or 14.
    Bind {
        /// Which of the three.
        kind: BindKind,
        /// The alias to bind; a heartbeat on a bound session may leave it out.
        alias: Option<Alias>,
        /// `"ext":1`.
        extended: bool,
    },
    /// 2: subscribe to topics.
    Register {
        /// Only checked against the bound alias; never binds.
        alias: Option<Alias>,
        /// At least one topic.
        topics: Few<Topic>,
        /// The JSON text of an object of at most 1 KiB.
        info: Option<Box<str>>,
    },
    /// 3: list the topics.
    GetTopic {
        /// Only checked against the bound alias.
        alias: Option<Alias>,
    },
    /// 4: up to a page of what is owed.
    Pull {
        /// Binds an unbound link.
        alias: Option<Alias>,
    },
    /// -5: acknowledge.
    Acknowledge {
        /// Binds an unbound link.
        alias: Option<Alias>,
        /// Which messages.
        mids: Mids,
    },
    /// 6: publish.
    Publish(Box<Publish>),
    /// 7: the counts.
    ServerInfo,
    /// 8, 9 or 10.
    Door(Box<DoorFrame>),
    /// -8: a door's answer to an opening.
    DoorAnswer(Box<DoorAnswer>),
    /// 12: unsubscribe.
    Unregister {
        /// Only checked against the bound alias.
        alias: Option<Alias>,
        /// At least one topic.
        topics: Few<Topic>,
    },
    /// Whether an alias is online, and its topics; only Socket.IO asks so.
    Status {
        /// Which; absent: the bound one.
        alias: Option<Alias>,
    },
    /// The session ends; only Socket.IO says so.
    Leave,
    /// A frame that is refused for its own sake.
    Refused(Refusal),
}

impl Body {
    /// Whether it is answered only when it is refused: -5, -8, 9 and 10.
    #[must_use]
    pub fn has_no_answer(&self) -> bool {
        match self {
            Body::Acknowledge { .. } | Body::DoorAnswer(_) => true,
            Body::Door(frame) => frame.kind != DoorKind::Open,
            _ => false,
        }
    }

    /// Whether it is an 8, -8, 9 or 10.
    #[must_use]
    pub const fn is_door_frame(&self) -> bool {
        matches!(self, Body::Door(_) | Body::DoorAnswer(_))
    }
}

/// Whether there is an 8, -8, 9 or 10 among frames that came together: they go to the door lane (Design §6).
#[must_use]
pub fn has_door_frame(frames: &[Request]) -> bool {
    frames.iter().any(|frame| frame.body.is_door_frame())
}

/// The three frames that bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindKind {
    /// 1.
    Heartbeat,
    /// 11.
    Connect11,
    /// 14: the number in the original's example.
    Connect14,
}

/// The mids of one acknowledgement: nearly always one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mids {
    /// `"mid":"1"`.
    One(Mid),
    /// `"mid":["1","2"]`.
    Many(Box<[Mid]>),
}

impl Mids {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Mid] {
        match self {
            Mids::One(mid) => std::slice::from_ref(mid),
            Mids::Many(mids) => mids,
        }
    }
}

/// A publish (Protocol §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// To whom.
    pub to: Receivers,
    /// The JSON text of `msg`, line breaks between tokens made spaces.
    pub msg: Box<str>,
    /// Seconds; 0: live sessions only.
    pub time_to_live: u32,
    /// `opts.id`, 1 to 64 bytes.
    pub id: Option<Box<str>>,
    /// `opts.receipt`.
    pub receipt: bool,
}

/// Whom a publish names, each at most once, in the order listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receivers {
    /// `publish`: everybody subscribed to one of them.
    Topics(Few<Topic>),
    /// `publish_to_alias`: exactly these.
    Aliases(Few<Alias>),
}

/// Which door frame it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorKind {
    /// 8: open.
    Open,
    /// 9: a phone is here.
    Phone,
    /// 10: a door is here.
    Door,
}

/// Frame 8, 9 or 10 (Protocol §7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorFrame {
    /// Which of the three.
    pub kind: DoorKind,
    /// R.
    pub room: RoomName,
    /// U.
    pub user: UserName,
    /// `"ext":1`.
    pub extended: bool,
    /// `"wait":true`: a REST opener that waits for the result.
    pub wait: bool,
    /// The frame as it came, on one line: what is relayed.
    pub text: Arc<str>,
}

/// Frame -8 from a door (Protocol §7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorAnswer {
    /// R of the opening.
    pub room: RoomName,
    /// U of the opening.
    pub user: UserName,
    /// Whether the door opened.
    pub ok: bool,
    /// Why not, for people.
    pub reason: Option<Box<str>>,
}

/// One published message as every receiver shares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub mid: Mid,
    /// When it was published: wall clock, ms since 1970.
    pub ts: u64,
    /// When it expires: service time, ms.
    pub expires: u64,
    /// The topics of the publish, in the order listed; empty for publish_to_alias.
    pub topics: Box<[Topic]>,
    /// Whether a delivery report is kept.
    pub receipt: bool,
    /// The alias bound to the publisher's link, if any: it gets the receipts.
    pub publisher: Option<Alias>,
    /// The JSON text of `msg`.
    pub body: Box<str>,
}

/// What a peer is told, other than pushes and relayed door frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `t` 0.
    Error {
        /// What is refused.
        refusal: Refusal,
        /// Carried back.
        num: Option<Num>,
    },
    /// -1, -11 or -14.
    Bound {
        /// Which frame is answered.
        kind: BindKind,
        /// The bound alias.
        alias: Alias,
        /// Wall clock in ms; only to extended sessions, only in -1.
        ts: Option<u64>,
        /// Carried back.
        num: Option<Num>,
    },
    /// -2.
    Registered {
        /// Carried back.
        num: Option<Num>,
    },
    /// -12.
    Unregistered {
        /// Carried back.
        num: Option<Num>,
    },
    /// -3.
    Topics {
        /// Carried back, before the topics.
        num: Option<Num>,
        /// Sorted by UTF-8 bytes.
        topics: Vec<Topic>,
    },
    /// -4.
    Pulled {
        /// Oldest first: contents and mids.
        messages: Vec<Arc<Message>>,
        /// Whether more is owed than this page holds.
        more: bool,
        /// Carried back.
        num: Option<Num>,
    },
    /// -6.
    Published(Published, Option<Num>),
    /// -7.
    ServerInfo {
        /// The counts.
        counts: RoomCounts,
        /// Carried back.
        num: Option<Num>,
    },
    /// -8 to a REST opener that does not wait: how many doors were reached.
    DoorsReached {
        /// Doors that got the frame.
        doors: usize,
        /// Carried back, before `doors`.
        num: Option<Num>,
    },
    /// -8 to an opener: the result. `doors` is shown to REST openers only.
    DoorResult {
        /// R of the opening.
        room: RoomName,
        /// U of the opening.
        user: UserName,
        /// Whether a door opened.
        ok: bool,
        /// Why not: a door's own words, `no_answer` or `no_door`.
        reason: Option<Box<str>>,
        /// For REST: how many doors were reached.
        doors: Option<usize>,
        /// Carried back.
        num: Option<Num>,
    },
    /// 13.
    Receipt {
        /// Which message.
        mid: Mid,
        /// Who acknowledged.
        alias: Alias,
        /// When: wall clock, ms.
        at: u64,
    },
    /// 15.
    EndedElsewhere {
        /// Which message.
        mid: Mid,
    },
    /// Whether an alias is online.
    Status {
        /// Which.
        alias: Alias,
        /// Its topics, sorted by UTF-8 bytes.
        topics: Vec<Topic>,
        /// Whether it has a session.
        online: bool,
        /// Carried back.
        num: Option<Num>,
    },
    /// What was asked is done, and has no answer but the acknowledgement that was asked for.
    Done {
        /// Carried back.
        num: Option<Num>,
    },
}

impl Reply {
    /// What it carries back.
    #[must_use]
    pub fn num(&self) -> Option<&Num> {
        match self {
            Reply::Error { num, .. }
            | Reply::Bound { num, .. }
            | Reply::Registered { num }
            | Reply::Unregistered { num }
            | Reply::Topics { num, .. }
            | Reply::Pulled { num, .. }
            | Reply::Published(_, num)
            | Reply::ServerInfo { num, .. }
            | Reply::DoorsReached { num, .. }
            | Reply::DoorResult { num, .. }
            | Reply::Status { num, .. }
            | Reply::Done { num } => num.as_ref(),
            Reply::Receipt { .. } | Reply::EndedElsewhere { .. } => None,
        }
    }
}

/// What `-6` says of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The message's number.
    pub mid: Mid,
    /// Receivers with a live session when it was published.
    pub online: u32,
    /// The other receivers; 0 when time_to_live is 0.
    pub stored: u32,
}

/// The counts of frame 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoomCounts {
    /// One-to-one rooms with a member.
    pub one_to_one: usize,
    /// One-to-many rooms with a member.
    pub one_to_many: usize,
    /// Many-to-many rooms with a member.
    pub many_to_many: usize,
    /// Bound TCP sessions.
    pub channels: usize,
}
