//! Who is here, who is owed what, who may do what: pure, single-threaded, told the time.
//!
//! Inputs go in with a time, [`Effects`] come out. There is no `async`, no SQL, no socket and no clock here, and JSON is neither
//! read nor written. Two kinds of files: *parts* own one piece of state and know no other part (`links`, `aliases`, `waiting`,
//! `pending`, `gather`, `keys`, `live_only`, `openings`, `presence`, `durations`, `rooms`); *flows* are what the [`Hub`], who alone sees
//! all parts, does with them (`sessions`, `publish`, `deliveries`, `owing`, `catch_up`, `commits`, `door`, `timers`,
//! `status`).

pub mod access;
mod aliases;
mod by_mid;
mod catch_up;
mod commits;
mod crowd;
mod deliveries;
mod door;
pub mod durations;
pub mod effects;
pub mod gather;
mod hash;
mod keys;
pub mod links;
mod live_only;
mod openings;
pub mod owing;
mod pending;
mod presence;
mod publish;
mod rate;
pub mod restore;
pub mod rooms;
mod sessions;
mod slab;
pub mod status;
pub mod storage;
mod timers;
mod waiting;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::hub::access::Openers;
use crate::hub::aliases::Aliases;
use crate::hub::catch_up::Pages;
use crate::hub::door::Doors;
use crate::hub::effects::{Closing, Effect, Effects};
use crate::hub::gather::Gather;
use crate::hub::keys::Keys;
use crate::hub::links::{Link, Links, Opening};
use crate::hub::live_only::LiveOnly;
use crate::hub::pending::Pendings;
use crate::hub::presence::Presence;
use crate::hub::publish::FanOut;
use crate::hub::rate::Rates;
use crate::hub::rooms::{Picture, Rooms};
use crate::hub::status::Counters;
use crate::hub::storage::{Outcome, Trouble};
use crate::hub::timers::Timers;
use crate::hub::waiting::Waiting;
use crate::limits::{Limits, UNANSWERED_PER_LINK_MAX};
use crate::names::{LinkId, Mid, RoomName, Transport};
use crate::protocol::frame::{Body, Message, Num, Reply, Request};
use crate::protocol::refusal::{Code, Refusal};
use crate::protocol::room::{RoomFrame, RoomPath};

/// The three clocks, read together (Protocol §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic, µs since the process began.
    pub mono: u64,
    /// Service time, ms: rules lifetimes.
    pub service: u64,
    /// Wall clock, ms since 1970: `ts`, `at`, logs and token expiry.
    pub wall: u64,
}

/// What the hub is told.
#[derive(Debug)]
pub enum Input {
    /// A batch of frames of one link, in order. The link hands over the next after [`Effect::Ready`].
    Frames {
        /// Which link.
        link: LinkId,
        /// At most [`crate::limits::BATCH_FRAMES_MAX`].
        frames: Vec<Request>,
        /// When they came: monotonic, µs.
        at: u64,
    },
    /// The peer has closed its sending side: the link ends when all its frames are answered.
    Finished(LinkId),
    /// The link is gone.
    Gone(LinkId),
    /// Its peer has said something that is no frame, such as a ping, a blank line or a part of a frame, or reads what waits for it: it is
    /// there.
    Heard(LinkId),
    /// The outbox of the link is full: this push was not taken, nor any after it.
    Congested {
        /// Which link.
        link: LinkId,
        /// The first message not taken.
        from: Mid,
    },
    /// A congested outbox has room again.
    Drained(LinkId),
    /// What a member of a room sent, in order. It hands over the next batch after [`Effect::Ready`].
    RoomFrames {
        /// Which member.
        link: LinkId,
        /// At most [`crate::limits::BATCH_FRAMES_MAX`] frames or [`crate::limits::BATCH_BYTES_MAX`], or one larger frame. None: only
        /// a sign of life.
        frames: Vec<RoomFrame>,
        /// A pong was among them.
        pong: bool,
    },
    /// More waits in the outbox of a member of a room than may.
    RoomFull(LinkId),
    /// A member of a room took something of what waits for it.
    RoomTook(LinkId),
    /// What became of a batch.
    Stored {
        /// Which batch.
        number: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// A page that was asked for.
    Page {
        /// Which.
        ticket: u64,
        /// In the order asked; what has no row is absent.
        messages: Result<Vec<Arc<Message>>, Trouble>,
    },
    /// A new block of mids is reserved: all below this one may be given out. `None`: it could not be written.
    Block(Option<Mid>),
    /// The store has found the disk full between two transactions.
    StoreFull,
}

/// What the hub decides by, from the configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// The bounds.
    pub limits: Limits,
    /// Who may open doors.
    pub openers: Openers,
}

/// The owner of all state. See the module's text.
#[derive(Debug)]
pub struct Hub {
    options: Options,
    now: Now,
    links: Links,
    aliases: Aliases,
    waiting: Waiting,
    pending: Pendings,
    gather: Gather,
    keys: Keys,
    live_only: LiveOnly,
    pages: Pages,
    doors: Doors,
    rooms: Rooms,
    presence: Presence,
    rates: Rates,
    timers: Timers,
    mids: Mids,
    /// Deliveries that have not ended, and the bytes of their bodies.
    deliveries: usize,
    bodies: u64,
    /// A publish that is handed out in slices; all but acknowledgements and door frames waits for its end.
    fan_out: Option<FanOut>,
    /// Links whose frames wait for that.
    deferred: VecDeque<LinkId>,
    counters: Counters,
    /// What is stored is not known yet: see `restore`.
    uninformed: bool,
}

/// The mids that may be given out (Design §6, mids).
#[derive(Debug, Clone, Copy)]
struct Mids {
    next: u64,
    /// The first that may not.
    end: u64,
    /// More are asked for from here on: at three quarters.
    ask_at: u64,
    asked: bool,
}

impl Hub {
    /// A hub that knows nobody and gives out `mids`; `is_storing`: whether the store can be written at the start.
    #[must_use]
    pub fn new(options: Options, mids: Range<Mid>, is_storing: bool) -> Hub {
        Hub {
            now: Now::default(),
            links: Links::default(),
            aliases: Aliases::new(),
            waiting: Waiting::default(),
            pending: Pendings::new(),
            gather: Gather::new(is_storing),
            keys: Keys::new(),
            live_only: LiveOnly::default(),
            pages: Pages::default(),
            doors: Doors::default(),
            rooms: Rooms::new(),
            presence: Presence::default(),
            rates: Rates::new(options.limits.publish_rate),
            timers: Timers::default(),
            mids: Mids::new(&mids),
            deliveries: 0,
            bodies: 0,
            fan_out: None,
            deferred: VecDeque::new(),
            counters: Counters::default(),
            uninformed: false,
            options,
        }
    }

    /// From now on decides by these options. What is there already stays, also where it is more than they allow: each bound is
    /// looked at when something new would go over it.
    pub fn reconfigure(&mut self, options: Options) {
        self.rates.set_rate(options.limits.publish_rate);
        self.options = options;
    }

    /// A new link. It may hand over its first batch at once.
    pub fn open(&mut self, now: Now, opening: Opening) -> LinkId {
        self.now = now;
        self.links.open(opening, now.mono)
    }

    /// Acts on one input.
    pub fn handle(&mut self, now: Now, input: Input, fx: &mut Effects) {
        self.now = now;
        match input {
            Input::Frames { link, frames, at } => self.take_batch(link, frames, at, fx),
            Input::Finished(link) => self.finish(link, fx),
            Input::Heard(link) => {
                self.heard(link);
                self.rooms.heard(link, now.mono);
            }
            Input::Gone(link) => self.end_link(link, fx),
            Input::Congested { link, from } => self.congested(link, from),
            Input::Drained(link) => {
                self.drained(link);
                self.rooms.drained(link);
            }
            Input::RoomFrames { link, frames, pong } => self.rooms.frames(link, frames, pong, now.mono, now.wall, fx),
            Input::RoomFull(link) => self.rooms.full(link, now.mono),
            Input::RoomTook(link) => self.rooms.took(link, now.mono),
            Input::Stored { number, outcome } => self.stored(number, outcome, fx),
            Input::Page { ticket, messages } => self.page(ticket, messages, fx),
            Input::Block(end) => self.mids.extend(end),
            Input::StoreFull => self.store_full(),
        }
        self.close_members(fx);
    }

    /// Whether [`Hub::proceed`] has something to do at once.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.fan_out.is_some() || !self.deferred.is_empty() || self.pages.has_ready() || self.rooms.has_work()
    }

    /// Goes on with work that was cut into slices: one slice.
    pub fn proceed(&mut self, now: Now, fx: &mut Effects) {
        self.now = now;
        if self.fan_out.is_some() {
            self.fan_out_slice(fx);
            return;
        }
        self.advance_ready(fx);
        self.rooms.proceed(fx);
        if let Some(link) = self.deferred.pop_front() {
            self.run_backlog(link, fx);
        }
    }

    fn take_batch(&mut self, id: LinkId, frames: Vec<Request>, at: u64, fx: &mut Effects) {
        let now = self.now.mono;
        let Some(link) = self.links.find_mut(id) else { return };
        link.heard = now;
        link.batch_at = at;
        link.owes_ready = true;
        if link.backlog.is_empty() && link.hold.is_none() {
            self.run_frames(id, &mut frames.into_iter(), fx);
        } else {
            link.backlog.extend(frames);
        }
    }

    /// Acts on frames until one holds the link; the rest goes to its backlog.
    fn run_frames(&mut self, id: LinkId, frames: &mut std::vec::IntoIter<Request>, fx: &mut Effects) {
        while let Some(request) = frames.next() {
            let Some(link) = self.links.find_mut(id) else { return };
            let is_held = link.hold.is_some();
            if !is_held && self.may_run(&request.body, fx) {
                self.frame(id, request, fx);
                continue;
            }
            if !is_held {
                self.deferred.push_back(id);
            }
            if let Some(link) = self.links.find_mut(id) {
                link.backlog.push_back(request);
                link.backlog.extend(frames);
            }
            return;
        }
        self.batch_done(id, fx);
    }

    /// Goes on with the frames that a link had to hold back.
    fn run_backlog(&mut self, id: LinkId, fx: &mut Effects) {
        let Some(link) = self.links.find_mut(id) else { return };
        if link.hold.is_some() {
            return;
        }
        let frames: Vec<Request> = std::mem::take(&mut link.backlog).into();
        self.run_frames(id, &mut frames.into_iter(), fx);
    }

    /// The batch is done: the link may hand over the next, unless too many publishes wait or its replies do.
    fn batch_done(&mut self, id: LinkId, fx: &mut Effects) {
        let Some(link) = self.links.find_mut(id) else { return };
        let idle = link.hold.is_none() && link.backlog.is_empty();
        if link.finished && idle && link.unanswered == 0 && link.openings == 0 {
            self.close(id, Closing::Finished, fx);
            return;
        }
        if link.owes_ready && idle && (link.unanswered as usize) < UNANSWERED_PER_LINK_MAX {
            link.owes_ready = false;
            fx.list.push(Effect::Ready(id));
        }
    }

    /// The peer will send nothing more.
    fn finish(&mut self, id: LinkId, fx: &mut Effects) {
        if let Some(link) = self.links.find_mut(id) {
            link.finished = true;
            self.batch_done(id, fx);
        }
    }

    fn heard(&mut self, id: LinkId) {
        if let Some(link) = self.links.find_mut(id) {
            link.heard = self.now.mono;
        }
    }

    fn frame(&mut self, id: LinkId, request: Request, fx: &mut Effects) {
        let num = request.num;
        let has_no_answer = request.body.has_no_answer();
        let refused = match request.body {
            Body::Acknowledge { alias, mids } => self.acknowledge(id, alias.as_ref(), &mids, fx),
            Body::Bind { kind, alias, extended } => self.bind_frame(id, kind, alias.as_ref(), extended, num.clone(), fx),
            Body::Publish(publish) => self.publish(id, *publish, num.clone(), fx),
            Body::Door(frame) => self.door_frame(id, *frame, num.clone(), fx),
            Body::DoorAnswer(answer) => self.door_answer(id, &answer, fx),
            Body::Pull { alias } => self.pull(id, alias.as_ref(), num.clone(), fx),
            Body::Register { alias, topics, info } => self.register(id, alias.as_ref(), &topics, info, num.clone(), fx),
            Body::Unregister { alias, topics } => self.unregister(id, alias.as_ref(), &topics, num.clone(), fx),
            Body::GetTopic { alias } => self.topics(id, alias.as_ref(), num.clone(), fx),
            Body::ServerInfo => {
                fx.reply(id, Reply::ServerInfo { counts: self.room_counts(), num: num.clone() });
                Ok(())
            }
            Body::Status { alias } => self.tell_status(id, alias, num.clone(), fx),
            Body::Leave => {
                fx.reply(id, Reply::Done { num });
                return self.close(id, Closing::Left, fx);
            }
            Body::Refused(refusal) => Err(refusal),
        };
        match refused {
            Err(refusal) => self.refuse(id, refusal, num, fx),
            Ok(()) if has_no_answer && num.as_ref().is_some_and(Num::wants_acknowledgement) => fx.reply(id, Reply::Done { num }),
            Ok(()) => {}
        }
    }

    /// Answers with an error; two of them also end a TCP link (Protocol §2).
    fn refuse(&mut self, id: LinkId, refusal: Refusal, num: Option<Num>, fx: &mut Effects) {
        self.counters.count_refusal(refusal.code);
        fx.reply(id, Reply::Error { refusal, num });
        let Some(link) = self.links.find(id) else { return };
        match refusal.code {
            Code::BadToken if link.transport != Transport::Rest => self.close(id, Closing::BadToken, fx),
            Code::TooLarge if link.transport == Transport::Tcp => self.close(id, Closing::TooLarge, fx),
            _ => {}
        }
    }

    /// Ends a link of our own accord.
    fn close(&mut self, id: LinkId, why: Closing, fx: &mut Effects) {
        // A request whose token ends while it waits is answered with that.
        if why == Closing::BadToken && self.link(id).is_some_and(|link| link.transport == Transport::Rest) {
            self.counters.count_refusal(Code::BadToken);
        }
        self.end_link(id, fx);
        fx.list.push(Effect::Close(id, why));
    }

    /// A link takes its place in a room, or waits for it.
    pub fn enter_room(&mut self, now: Now, id: LinkId, path: &RoomPath, fx: &mut Effects) {
        self.now = now;
        self.rooms.enter(id, path, now.mono, fx);
        self.close_members(fx);
    }

    /// An HTTP request sees the pictures of a room from now on. False: the room has none.
    #[must_use]
    pub fn watch_room(&mut self, now: Now, id: LinkId, room: &RoomName, fx: &mut Effects) -> bool {
        self.now = now;
        self.rooms.watch(id, room, now.mono, fx)
    }

    /// A picture came by POST.
    pub fn post_picture(&mut self, now: Now, room: &RoomName, picture: RoomFrame, fx: &mut Effects) {
        self.now = now;
        self.rooms.post(room, picture, now.mono, now.wall, fx);
    }

    /// The newest picture of a room.
    #[must_use]
    pub fn picture(&self, room: &RoomName) -> Option<&Picture> {
        self.rooms.picture(room)
    }

    /// Closes those whom the rooms turn away; a place that this empties may go to somebody, so it may turn away more.
    fn close_members(&mut self, fx: &mut Effects) {
        while let Some((id, why)) = self.rooms.closing.pop_front() {
            if self.link(id).is_some() {
                self.close(id, why, fx);
            }
        }
    }

    fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.find(id)
    }

    /// The next mid; asks for a new block at three quarters of this one. `None`: all are given out.
    fn next_mid(&mut self, fx: &mut Effects) -> Option<Mid> {
        let mids = &mut self.mids;
        if mids.next >= mids.ask_at && !mids.asked {
            mids.asked = true;
            fx.list.push(Effect::TakeBlock);
        }
        let mid = (mids.next < mids.end).then(|| Mid::new(mids.next))?;
        mids.next += 1;
        Some(mid)
    }
}

impl Mids {
    fn new(range: &Range<Mid>) -> Mids {
        let (next, end) = (range.start.number(), range.end.number());
        Mids { next, end, ask_at: end - (end - next) / 4, asked: false }
    }

    /// More mids, or none: then they are asked for again at the next publish.
    fn extend(&mut self, end: Option<Mid>) {
        if let Some(end) = end {
            *self = Mids::new(&(Mid::new(self.next)..end));
        }
        self.asked = false;
    }
}
