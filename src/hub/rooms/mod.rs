//! WebSocket rooms: who is in which, and who gets whose frames (Protocol §9, Design §6). A part: it knows no other part of the hub.
//!
//! A member hands over one batch of frames and the next after [`Effect::Ready`], its credit. In one-to-one and group rooms a batch
//! is relayed when every receiver has room in its outbox, and waits with its sender until then; in one-to-many rooms at once, for
//! there a phone that is slow skips to the newest picture. Links that are to be closed are named in `closing`: the hub closes them.

mod many_to_many;
mod one_to_many;
mod one_to_one;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

pub use self::one_to_many::Picture;

use self::many_to_many::ManyToMany;
use self::one_to_many::OneToMany;
use self::one_to_one::{Entry, OneToOne};
use crate::hub::effects::{Closing, Effect, Effects};
use crate::hub::slab::Slab;
use crate::limits::{
    PICTURE_LIFE, PICTURES_BYTES_MAX, PICTURES_UNATTENDED_MAX, ROOM_EARLY_BYTES_MAX, ROOM_EARLY_BYTES_TOTAL_MAX, ROOM_EARLY_FRAMES_MAX,
    ROOM_GONE_AFTER, ROOM_PING_EVERY, ROOM_STALL_MAX, ROOM_TAKEOVER_WAIT,
};
use crate::names::{LinkId, RoomName};
use crate::protocol::frame::RoomCounts;
use crate::protocol::room::{Place, RoomFrame, RoomKey, RoomKind, RoomPath};

/// All rooms and their members.
#[derive(Debug)]
pub(super) struct Rooms {
    by_key: HashMap<RoomKey, u32>,
    rooms: Slab<Room>,
    /// By the place of the link.
    members: Vec<Option<Box<Member>>>,
    /// Members that have a place.
    seated: usize,
    /// Rooms with a member.
    counts: RoomCounts,
    /// Bytes that are kept of members who have not met anybody.
    early: usize,
    /// Bytes of the newest pictures.
    pictures: usize,
    /// Rooms whose picture is forgotten, earliest first.
    forgetting: BTreeSet<(u64, u32)>,
    /// Contests for places, earliest first: all take equally long. They may be over.
    contests: VecDeque<(u64, u32, Place)>,
    /// Rooms in which a held batch may go on.
    ready: VecDeque<u32>,
    /// Links that the hub is to close.
    pub closing: VecDeque<(LinkId, Closing)>,
}

#[derive(Debug)]
struct Room {
    key: RoomKey,
    seated: usize,
    /// Members whose outbox is full.
    full: usize,
    /// Members whose batch waits for that, longest first.
    held: VecDeque<LinkId>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    OneToOne(OneToOne),
    OneToMany(OneToMany),
    ManyToMany(ManyToMany),
}

/// A link in a room.
#[derive(Debug)]
struct Member {
    link: LinkId,
    room: u32,
    place: Place,
    standing: Standing,
    /// It has had somebody to speak to.
    met: bool,
    /// What it said before, or while it waited for its place.
    early: Early,
    /// Its batch that waits until its receivers have room.
    held: Vec<RoomFrame>,
    /// Its outbox is full, and it took nothing since then: monotonic, µs.
    full_since: Option<u64>,
    /// Monotonic, µs.
    heard: u64,
    pinged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has a place and counts.
    Seated,
    /// It waits for one.
    Waiting,
    /// It only sees pictures: an HTTP request.
    Watching,
}

#[derive(Debug, Default)]
struct Early {
    frames: Vec<RoomFrame>,
    bytes: usize,
    /// One did not fit: what comes behind it is dropped as well, so that there is no gap.
    cut: bool,
}

impl Kind {
    fn new(kind: RoomKind) -> Kind {
        match kind {
            RoomKind::OneToOne => Kind::OneToOne(OneToOne::default()),
            RoomKind::OneToMany => Kind::OneToMany(OneToMany::default()),
            RoomKind::ManyToMany => Kind::ManyToMany(ManyToMany::default()),
        }
    }
}

impl Room {
    /// Sends a frame of that member to all who get it.
    fn send(&self, sender: LinkId, place: Place, frame: RoomFrame, fx: &mut Effects) {
        match &self.kind {
            Kind::OneToOne(room) => fx.send(frame, room.other(place)),
            Kind::OneToMany(room) => fx.send(frame.clone(), room.receivers(place, &frame)),
            Kind::ManyToMany(room) => fx.send(frame, room.receivers(sender)),
        }
    }

    /// All members, with their place.
    fn members(&self) -> Box<dyn Iterator<Item = (LinkId, Place)> + '_> {
        match &self.kind {
            Kind::OneToOne(room) => Box::new(room.members()),
            Kind::OneToMany(room) => Box::new(room.members()),
            Kind::ManyToMany(room) => Box::new(room.members()),
        }
    }

    /// Whether its senders go by how fast its receivers take.
    fn is_paced(&self) -> bool {
        !matches!(self.kind, Kind::OneToMany(_))
    }
}

impl Rooms {
    pub(super) fn new() -> Rooms {
        Rooms {
            by_key: HashMap::new(),
            rooms: Slab::new(),
            members: Vec::new(),
            seated: 0,
            counts: RoomCounts::default(),
            early: 0,
            pictures: 0,
            forgetting: BTreeSet::new(),
            contests: VecDeque::new(),
            ready: VecDeque::new(),
            closing: VecDeque::new(),
        }
    }

    /// Members that have a place.
    pub(super) fn seated(&self) -> usize {
        self.seated
    }

    /// Rooms with a member, by kind.
    pub(super) fn counts(&self) -> RoomCounts {
        self.counts
    }

    /// The members of all rooms of that name, each with whether it is a door: WebSocket rooms belong to the door room (Protocol §1).
    pub(super) fn of_name(&self, name: &RoomName) -> impl Iterator<Item = (LinkId, bool)> {
        let kinds = [RoomKind::OneToOne, RoomKind::OneToMany, RoomKind::ManyToMany];
        let rooms = kinds.into_iter().filter_map(|kind| self.find(&RoomKey { kind, name: name.clone() }));
        rooms.flat_map(Room::members).map(|(link, place)| (link, place == Place::Door))
    }

    /// The newest picture of a one-to-many room.
    pub(super) fn picture(&self, name: &RoomName) -> Option<&Picture> {
        match &self.find(&RoomKey { kind: RoomKind::OneToMany, name: name.clone() })?.kind {
            Kind::OneToMany(room) => room.picture.as_ref(),
            _ => None,
        }
    }

    fn find(&self, key: &RoomKey) -> Option<&Room> {
        self.rooms.get(*self.by_key.get(key)?)
    }

    fn member(&self, link: LinkId) -> Option<&Member> {
        self.members.get(link.index as usize)?.as_deref().filter(|member| member.link == link)
    }

    fn member_mut(&mut self, link: LinkId) -> Option<&mut Member> {
        self.members.get_mut(link.index as usize)?.as_deref_mut().filter(|member| member.link == link)
    }

    fn one_to_one(&mut self, room: u32) -> Option<&mut OneToOne> {
        match &mut self.rooms.get_mut(room)?.kind {
            Kind::OneToOne(room) => Some(room),
            _ => None,
        }
    }

    fn one_to_many(&mut self, room: u32) -> Option<&mut OneToMany> {
        match &mut self.rooms.get_mut(room)?.kind {
            Kind::OneToMany(room) => Some(room),
            _ => None,
        }
    }

    /// The room of that key, made if there is none.
    fn open(&mut self, key: &RoomKey) -> u32 {
        if let Some(room) = self.by_key.get(key) {
            return *room;
        }
        let room = Room { key: key.clone(), seated: 0, full: 0, held: VecDeque::new(), kind: Kind::new(key.kind) };
        let room = self.rooms.insert(room);
        self.by_key.insert(key.clone(), room);
        room
    }

    /// A link comes into a room.
    pub(super) fn enter(&mut self, link: LinkId, path: &RoomPath, now: u64, fx: &mut Effects) {
        let room = self.open(&path.key);
        let mut standing = Standing::Seated;
        if let Some(places) = self.one_to_one(room) {
            let deadline = now + us(ROOM_TAKEOVER_WAIT);
            match places.enter(link, path.place, deadline) {
                Entry::Seated => {}
                Entry::Waits { ping } => {
                    standing = Standing::Waiting;
                    if let Some(incumbent) = ping {
                        self.contests.push_back((deadline, room, path.place));
                        fx.list.push(Effect::RoomPing(incumbent));
                    }
                }
                Entry::Busy => return self.closing.push_back((link, Closing::Busy)),
            }
        }
        self.add(link, room, path.place, standing, now);
        if standing == Standing::Seated {
            self.seat(link, room, path.place, fx);
        }
    }

    /// An HTTP request sees the pictures of a room. False: there is none.
    pub(super) fn watch(&mut self, link: LinkId, name: &RoomName, now: u64, fx: &mut Effects) -> bool {
        let Some(picture) = self.picture(name).map(|picture| picture.frame.clone()) else { return false };
        let room = self.open(&RoomKey { kind: RoomKind::OneToMany, name: name.clone() });
        self.add(link, room, Place::Phone, Standing::Watching, now);
        if let Some(room) = self.one_to_many(room) {
            room.watchers.push(link);
        }
        fx.send(picture, [link]);
        true
    }

    fn add(&mut self, link: LinkId, room: u32, place: Place, standing: Standing, now: u64) {
        let index = link.index as usize;
        if self.members.len() <= index {
            self.members.resize_with(index + 1, || None);
        }
        self.members[index] = Some(Box::new(Member {
            link,
            room,
            place,
            standing,
            met: false,
            early: Early::default(),
            held: Vec::new(),
            full_since: None,
            heard: now,
            pinged: now,
        }));
    }

    /// A member has its place.
    fn seat(&mut self, link: LinkId, at: u32, place: Place, fx: &mut Effects) {
        let Some(room) = self.rooms.get_mut(at) else { return };
        room.seated += 1;
        self.seated += 1;
        if room.seated == 1 {
            *count_of(&mut self.counts, room.key.kind) += 1;
        }
        match &mut room.kind {
            Kind::OneToOne(room) => {
                if let Some(other) = room.other(place) {
                    self.meet(link, other, fx);
                }
            }
            Kind::OneToMany(room) => {
                room.enter(link, place);
                if let Some(due) = room.forget_at.take() {
                    self.forgetting.remove(&(due, at));
                }
                if let (Place::Phone, Some(picture)) = (place, &room.picture) {
                    fx.send(picture.frame.clone(), [link]);
                }
            }
            Kind::ManyToMany(room) => room.enter(link, place),
        }
    }

    /// Two who have met get what the other said before.
    fn meet(&mut self, link: LinkId, other: LinkId, fx: &mut Effects) {
        for (from, to) in [(other, link), (link, other)] {
            let Some(member) = self.member_mut(from) else { continue };
            member.met = true;
            let early = std::mem::take(&mut member.early);
            self.early -= early.bytes;
            for frame in early.frames {
                fx.send(frame, [to]);
            }
        }
    }

    /// A batch of a member, or only a sign of life: frames in order, and whether a pong was among what was read.
    pub(super) fn frames(&mut self, link: LinkId, frames: Vec<RoomFrame>, pong: bool, now: u64, wall: u64, fx: &mut Effects) {
        let Some(member) = self.member_mut(link) else { return };
        member.heard = now;
        let (room, place, standing) = (member.room, member.place, member.standing);
        if pong && standing == Standing::Seated {
            self.turn_away(room, place);
        }
        if frames.is_empty() {
            // Only a sign of life: there is nothing to wait with.
        } else if standing == Standing::Waiting {
            self.keep(link, frames);
        } else if self.rooms.get(room).is_some_and(Room::is_paced) {
            if let Some(member) = self.member_mut(link) {
                member.held = frames;
            }
            if !self.go_on(link, fx) {
                if let Some(room) = self.rooms.get_mut(room) {
                    room.held.push_back(link);
                }
                return;
            }
        } else {
            self.relay(link, room, place, frames, (now, wall), fx);
        }
        fx.list.push(Effect::Ready(link));
    }

    /// The incumbent is there: who waits for its place does so in vain.
    fn turn_away(&mut self, room: u32, place: Place) {
        let waiting = self.one_to_one(room).map(|room| room.hold(place)).unwrap_or_default();
        self.closing.extend(waiting.into_iter().map(|link| (link, Closing::Busy)));
    }

    /// Relays in a one-to-many room.
    fn relay(&mut self, link: LinkId, at: u32, place: Place, frames: Vec<RoomFrame>, (now, wall): (u64, u64), fx: &mut Effects) {
        for frame in frames {
            let Some(room) = self.rooms.get(at) else { return };
            room.send(link, place, frame.clone(), fx);
            if place == Place::Door && !frame.is_text {
                self.show(at, Picture { frame, at: wall, since: now });
            }
        }
    }

    /// A picture that came by POST.
    pub(super) fn post(&mut self, name: &RoomName, frame: RoomFrame, now: u64, wall: u64, fx: &mut Effects) {
        let at = self.open(&RoomKey { kind: RoomKind::OneToMany, name: name.clone() });
        let Some(room) = self.one_to_many(at) else { return };
        fx.send(frame.clone(), room.receivers(Place::Door, &frame));
        self.show(at, Picture { frame, at: wall, since: now });
        self.forget_later(at, now);
    }

    /// Makes that the newest picture of a room, if there is space for it.
    fn show(&mut self, at: u32, picture: Picture) {
        let bytes = picture.frame.payload.len();
        self.pictures += bytes;
        self.drop_picture(at);
        while self.pictures > PICTURES_BYTES_MAX && self.forget_first(u64::MAX, at) {}
        if self.pictures > PICTURES_BYTES_MAX {
            self.pictures -= bytes;
        } else if let Some(room) = self.one_to_many(at) {
            room.picture = Some(picture);
        }
    }

    fn drop_picture(&mut self, at: u32) {
        if let Some(picture) = self.one_to_many(at).and_then(|room| room.picture.take()) {
            self.pictures -= picture.frame.payload.len();
        }
    }

    /// With nobody there, a room's picture goes after a while, and the room with it.
    fn forget_later(&mut self, at: u32, now: u64) {
        let Some(room) = self.rooms.get_mut(at) else { return };
        let is_empty = room.seated == 0;
        let Kind::OneToMany(room) = &mut room.kind else { return };
        if let Some(due) = room.forget_at.take() {
            self.forgetting.remove(&(due, at));
        }
        if is_empty && room.is_over() {
            self.remove(at);
        } else if is_empty {
            let due = now + us(PICTURE_LIFE);
            room.forget_at = Some(due);
            self.forgetting.insert((due, at));
            if self.forgetting.len() > PICTURES_UNATTENDED_MAX {
                self.forget_first(u64::MAX, at);
            }
        }
    }

    /// Forgets the picture that is to go first, if that is due by `until`; never that of `but`. False: there is none.
    fn forget_first(&mut self, until: u64, but: u32) -> bool {
        let first = self.forgetting.iter().find(|(_, at)| *at != but).copied();
        let Some((due, at)) = first.filter(|(due, _)| *due <= until) else { return false };
        self.forgetting.remove(&(due, at));
        self.drop_picture(at);
        if let Some(room) = self.one_to_many(at) {
            room.forget_at = None;
            // Streams that are open go on with the next picture.
            if room.is_over() {
                self.remove(at);
            }
        }
        true
    }

    fn remove(&mut self, at: u32) {
        if let Some(room) = self.rooms.remove(at) {
            self.by_key.remove(&room.key);
        }
    }

    /// Keeps what a member says that nobody can hear yet.
    fn keep(&mut self, link: LinkId, frames: Vec<RoomFrame>) {
        for frame in frames {
            let (bytes, all) = (frame.payload.len(), self.early);
            let Some(member) = self.member_mut(link) else { return };
            let early = &mut member.early;
            let fits = early.frames.len() < ROOM_EARLY_FRAMES_MAX
                && early.bytes + bytes <= ROOM_EARLY_BYTES_MAX
                && all + bytes <= ROOM_EARLY_BYTES_TOTAL_MAX;
            early.cut |= !fits;
            if !early.cut {
                early.frames.push(frame);
                early.bytes += bytes;
                self.early += bytes;
            }
        }
    }

    /// Relays what a member of a paced room has handed over, if its receivers have room. False: it waits.
    fn go_on(&mut self, link: LinkId, fx: &mut Effects) -> bool {
        let Some((member, room)) = self.member(link).and_then(|member| Some((member, self.rooms.get(member.room)?))) else { return true };
        let full = match &room.kind {
            Kind::OneToOne(room) => usize::from(room.other(member.place).is_some_and(|other| self.is_full(other))),
            _ => room.full - usize::from(member.full_since.is_some()),
        };
        if full > 0 {
            return false;
        }
        let (place, met) = (member.place, member.met);
        let frames = self.member_mut(link).map(|member| std::mem::take(&mut member.held)).unwrap_or_default();
        let Some(room) = self.member(link).and_then(|member| self.rooms.get(member.room)) else { return true };
        if let Kind::OneToOne(places) = &room.kind
            && places.other(place).is_none()
        {
            if !met {
                self.keep(link, frames);
            }
            return true;
        }
        for frame in frames {
            room.send(link, place, frame, fx);
        }
        true
    }

    fn is_full(&self, link: LinkId) -> bool {
        self.member(link).is_some_and(|member| member.full_since.is_some())
    }

    /// The outbox of a member is full.
    pub(super) fn full(&mut self, link: LinkId, now: u64) {
        let Some(member) = self.member_mut(link) else { return };
        let at = member.room;
        let was_full = member.full_since.replace(now).is_some();
        let Some(room) = self.rooms.get_mut(at) else { return };
        if !room.is_paced() {
            // Pictures are skipped: so many texts wait.
            self.closing.push_back((link, Closing::Overloaded));
        } else if !was_full {
            room.full += 1;
        }
    }

    /// It took something: it is there, though its pong may have to wait behind a long frame.
    pub(super) fn took(&mut self, link: LinkId, now: u64) {
        let Some(member) = self.member_mut(link) else { return };
        member.heard = now;
        if let Some(since) = &mut member.full_since {
            *since = now;
        }
    }

    /// It has said something that is no whole frame yet.
    pub(super) fn heard(&mut self, link: LinkId, now: u64) {
        if let Some(member) = self.member_mut(link) {
            member.heard = now;
        }
    }

    /// It has room again.
    pub(super) fn drained(&mut self, link: LinkId) {
        let Some(member) = self.member_mut(link) else { return };
        let at = member.room;
        if member.full_since.take().is_some()
            && let Some(room) = self.rooms.get_mut(at)
            && room.is_paced()
        {
            room.full -= 1;
            self.wake(at);
        }
    }

    /// Batches that wait in that room may go on.
    fn wake(&mut self, at: u32) {
        if self.rooms.get(at).is_some_and(|room| !room.held.is_empty()) {
            self.ready.push_back(at);
        }
    }

    /// Whether [`Rooms::proceed`] has something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Lets one batch that was held go on: what it fills is known before the next.
    pub(super) fn proceed(&mut self, fx: &mut Effects) {
        let Some(at) = self.ready.pop_front() else { return };
        let waiting = self.rooms.get(at).map_or(0, |room| room.held.len());
        for _ in 0..waiting {
            let Some(link) = self.rooms.get_mut(at).and_then(|room| room.held.pop_front()) else { return };
            if self.go_on(link, fx) {
                fx.list.push(Effect::Ready(link));
                return self.wake(at);
            }
            if let Some(room) = self.rooms.get_mut(at) {
                room.held.push_back(link);
            }
        }
    }

    /// A link is gone from its room.
    pub(super) fn leave(&mut self, link: LinkId, now: u64, fx: &mut Effects) {
        if self.member(link).is_none() {
            return;
        }
        let Some(member) = self.members[link.index as usize].take() else { return };
        self.early -= member.early.bytes;
        let Member { room: at, place, standing, .. } = *member;
        let Some(room) = self.rooms.get_mut(at) else { return };
        room.held.retain(|other| *other != link);
        if standing == Standing::Seated {
            room.full -= usize::from(member.full_since.is_some() && room.is_paced());
            room.seated -= 1;
            self.seated -= 1;
            if room.seated == 0 {
                *count_of(&mut self.counts, room.key.kind) -= 1;
            }
        }
        match &mut room.kind {
            Kind::OneToOne(places) => {
                let (next, turned_away) = places.leave(link, place);
                self.closing.extend(turned_away.into_iter().map(|link| (link, Closing::Busy)));
                if let Some(next) = next {
                    self.promote(next, at, place, fx);
                }
                self.end_if_empty(at);
            }
            Kind::OneToMany(room) if standing == Standing::Watching => {
                room.watchers.retain(|other| *other != link);
                // It is no member: what others wait for goes on.
                if room.forget_at.is_none() {
                    self.forget_later(at, now);
                }
            }
            Kind::OneToMany(room) => {
                room.leave(link, place);
                self.forget_later(at, now);
            }
            Kind::ManyToMany(room) => {
                room.leave(link);
                self.end_if_empty(at);
            }
        }
        self.wake(at);
    }

    /// A newcomer gets the place that it waited for.
    fn promote(&mut self, link: LinkId, at: u32, place: Place, fx: &mut Effects) {
        if let Some(member) = self.member_mut(link) {
            member.standing = Standing::Seated;
        }
        self.seat(link, at, place, fx);
    }

    fn end_if_empty(&mut self, at: u32) {
        // Whoever waits for a place has it once it is empty: with nobody seated nobody waits.
        if self.rooms.get(at).is_some_and(|room| room.seated == 0) {
            self.remove(at);
        }
    }

    /// When the oldest contest for a place is decided: monotonic, µs.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.contests.front().map(|(deadline, ..)| *deadline)
    }

    /// Decides the contests whose time is over: who did not answer is closed.
    pub(super) fn end_contests(&mut self, now: u64) {
        while let Some((deadline, at, place)) = self.contests.pop_front_if(|(deadline, ..)| *deadline <= now) {
            let Some(incumbent) = self.one_to_one(at).filter(|room| room.is_contested(place, deadline)).and_then(|room| room.at(place))
            else {
                continue;
            };
            // One that is held is not read, so its pong may well be there.
            let is_held = self.rooms.get(at).is_some_and(|room| room.held.contains(&incumbent));
            if is_held {
                self.turn_away(at, place);
            } else {
                self.closing.push_back((incumbent, Closing::Replaced));
            }
        }
    }

    /// Once a second: pings, members that are gone or take nothing, pictures that are forgotten.
    pub(super) fn sweep(&mut self, now: u64, fx: &mut Effects) {
        let rooms = &self.rooms;
        for member in self.members.iter_mut().flatten().filter(|member| member.standing != Standing::Watching) {
            let stalls = member.full_since.is_some_and(|since| now.saturating_sub(since) >= us(ROOM_STALL_MAX));
            if !member.held.is_empty() {
                // It is not read meanwhile, so its pongs can't be either.
                member.heard = now;
            }
            if now.saturating_sub(member.heard) >= us(ROOM_GONE_AFTER) {
                self.closing.push_back((member.link, Closing::Dead));
            } else if stalls && rooms.get(member.room).is_some_and(Room::is_paced) {
                self.closing.push_back((member.link, Closing::Overloaded));
            } else if now.saturating_sub(member.pinged) >= us(ROOM_PING_EVERY) {
                member.pinged = now;
                fx.list.push(Effect::RoomPing(member.link));
            }
        }
        while self.forget_first(now, u32::MAX) {}
    }
}

fn count_of(counts: &mut RoomCounts, kind: RoomKind) -> &mut usize {
    match kind {
        RoomKind::OneToOne => &mut counts.one_to_one,
        RoomKind::OneToMany => &mut counts.one_to_many,
        RoomKind::ManyToMany => &mut counts.many_to_many,
    }
}

const fn us(time: Duration) -> u64 {
    time.as_micros() as u64
}
