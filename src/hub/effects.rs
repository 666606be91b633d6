//! What the hub wants done, as values. Whoever drives it carries them out in order.

use std::ops::Range;
use std::sync::Arc;

use crate::hub::storage::{Batch, PageRequest};
use crate::names::{Alias, LinkId};
use crate::protocol::frame::{DoorFrame, Message, Reply};
use crate::protocol::room::RoomFrame;

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell a link. Never left out: what can be many is bounded by what the link asked.
    Reply {
        /// Whom.
        link: LinkId,
        /// What.
        reply: Reply,
    },
    /// Tell a link if there is room: a receipt or an ending elsewhere, dropped and counted otherwise (Protocol §5).
    Notice {
        /// Whom.
        link: LinkId,
        /// What.
        reply: Reply,
    },
    /// Push one message to [`Effects::targets`]`[range]`. A target whose outbox is full is left out and reported:
    /// `Input::Congested`, or only counted if the message is for live sessions only.
    Push {
        /// The message, the same for all.
        message: Arc<Message>,
        /// Which targets.
        targets: Range<usize>,
        /// time_to_live 0.
        live_only: bool,
    },
    /// Relay a door frame to [`Effects::doors`]`[range]`, ahead of everything else; never later than
    /// [`crate::limits::OPENING_AGE_MAX`] after `at` if it is an opening.
    Relay {
        /// The frame.
        frame: Arc<DoorFrame>,
        /// Which targets.
        targets: Range<usize>,
        /// When it was read: monotonic, µs.
        at: u64,
        /// The wall clock for extended doors, ms.
        ts: u64,
    },
    /// Send one room frame to [`Effects::members`]`[range]`. A member that has more waiting than it may is reported:
    /// `Input::RoomFull`.
    RoomSend {
        /// The frame, the same for all.
        frame: RoomFrame,
        /// Which members.
        targets: Range<usize>,
    },
    /// Ping a member of a room; its pong comes with `Input::RoomFrames`.
    RoomPing(LinkId),
    /// Keep the picture of a room for an entry of the door log.
    KeepPicture {
        /// The entry.
        id: u64,
        /// The picture.
        picture: RoomFrame,
        /// Service time, ms.
        service: u64,
    },
    /// Forget the kept pictures that are too old or too many, at a service time, ms.
    SweepPictures(u64),
    /// The link's batch is done: it may hand over the next.
    Ready(LinkId),
    /// End a link after what was queued for it. The hub has forgotten it already.
    Close(LinkId, Closing),
    /// Write a transaction; answered by `Input::Stored`.
    Commit(Arc<Batch>),
    /// Read bodies; answered by `Input::Page`.
    Read(PageRequest),
    /// Reserve the next block of mids; answered by `Input::Block`.
    TakeBlock,
}

/// Why the hub ends a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Nothing was heard for `tcp.idle`.
    Idle,
    /// It neither bound, published nor joined a room in time.
    Unbound,
    /// A ninth session of its alias came, or another for its place in a room, and it did not answer.
    Replaced,
    /// Its place in a room is taken.
    Busy,
    /// It took nothing for too long, or less than came for it.
    Overloaded,
    /// Nothing was heard of a member of a room for 60 s.
    Dead,
    /// Its token is wrong, has expired or was revoked.
    BadToken,
    /// A line over the limit.
    TooLarge,
    /// It asked for its end.
    Left,
    /// Its peer has sent its last frame, and all of them are answered.
    Finished,
}

impl Closing {
    /// The word in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Closing::Idle => "idle",
            Closing::Unbound => "unbound",
            Closing::Replaced => "replaced",
            Closing::Busy => "busy",
            Closing::Overloaded => "overloaded",
            Closing::Dead => "dead",
            Closing::BadToken => "bad_token",
            Closing::TooLarge => "too_large",
            Closing::Left => "left",
            Closing::Finished => "finished",
        }
    }
}

/// One receiver of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Through which link.
    pub link: LinkId,
    /// The receiver's alias.
    pub alias: Alias,
    /// Which of the message's topics; `None` for publish_to_alias.
    pub topic: Option<u16>,
    /// It was pushed to this alias before.
    pub dup: bool,
}

/// One receiver of a relayed door frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorTarget {
    /// Through which link.
    pub link: LinkId,
    /// Add `"ts"`: it is an extended door.
    pub stamped: bool,
}

/// A list of effects; its buffers are reused from turn to turn.
#[derive(Debug, Default)]
pub struct Effects {
    /// In order.
    pub list: Vec<Effect>,
    /// The receivers that [`Effect::Push`] names by range.
    pub targets: Vec<Target>,
    /// The receivers that [`Effect::Relay`] names by range.
    pub doors: Vec<DoorTarget>,
    /// The receivers that [`Effect::RoomSend`] names by range.
    pub members: Vec<LinkId>,
}

impl Effects {
    /// Forgets all, keeps the buffers.
    pub fn clear(&mut self) {
        self.list.clear();
        self.targets.clear();
        self.doors.clear();
        self.members.clear();
    }

    pub(super) fn reply(&mut self, link: LinkId, reply: Reply) {
        self.list.push(Effect::Reply { link, reply });
    }

    pub(super) fn notice(&mut self, link: LinkId, reply: Reply) {
        self.list.push(Effect::Notice { link, reply });
    }

    /// Sends a room frame to `members`; nothing if there are none.
    pub(super) fn send(&mut self, frame: RoomFrame, members: impl IntoIterator<Item = LinkId>) {
        let start = self.members.len();
        self.members.extend(members);
        let targets = start..self.members.len();
        if !targets.is_empty() {
            self.list.push(Effect::RoomSend { frame, targets });
        }
    }

    /// Pushes `message` to the targets added since `start`; nothing if there are none.
    pub(super) fn push(&mut self, message: Arc<Message>, start: usize, live_only: bool) {
        let targets = start..self.targets.len();
        if !targets.is_empty() {
            self.list.push(Effect::Push { message, targets, live_only });
        }
    }
}
