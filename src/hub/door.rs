//! Doors: who stands in which door room, who is told to open, and what came of it (Protocol §7). Live only: nothing is replayed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::hub::Hub;
use crate::hub::effects::{DoorTarget, Effect, Effects};
use crate::hub::links::Link;
use crate::hub::openings::{OpenedDoor, Opener, Openings};
use crate::hub::storage::{Change, DoorEntry};
use crate::limits::{DOOR_ANSWER_WAIT, DOOR_LOG_WAITING_MAX, OPENING_AGE_MAX, ROOMS_PER_LINK_MAX};
use crate::names::{LinkId, RoomName, Transport};
use crate::protocol::frame::{DoorAnswer, DoorFrame, DoorKind, Num, Reply};
use crate::protocol::refusal::{Code, Refusal};

/// What an opening that is too old to hand on is answered with.
const STALE: Refusal = Refusal::new(Code::Unavailable, "t");

/// Who stands in the door rooms, and the openings without a result.
#[derive(Debug, Default)]
pub(super) struct Doors {
    rooms: HashMap<RoomName, Vec<Member>>,
    openings: Openings,
}

/// One member of a door room, once, be it as a phone, as a door or as both.
#[derive(Debug, Clone, Copy)]
struct Member {
    link: LinkId,
    is_door: bool,
}

impl Doors {
    /// Adds a member, or a role to one. A link may be a phone and a door of a room.
    fn join(&mut self, room: &RoomName, member: Member) {
        let members = self.rooms.entry(room.clone()).or_default();
        match members.iter_mut().find(|other| other.link == member.link) {
            Some(known) => known.is_door |= member.is_door,
            None => members.push(member),
        }
    }

    fn members(&self, room: &RoomName) -> &[Member] {
        self.rooms.get(room).map_or(&[], Vec::as_slice)
    }

    /// Openings without a result.
    pub(super) fn pending(&self) -> usize {
        self.openings.len()
    }

    /// When the oldest opening is answered `no_answer`: monotonic, µs.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.openings.next_deadline()
    }
}

impl Hub {
    /// 8, 9, 10.
    pub(super) fn door_frame(&mut self, id: LinkId, frame: DoorFrame, num: Option<Num>, fx: &mut Effects) -> Result<(), Refusal> {
        let at = self.link(id).map_or(self.now.mono, |link| link.batch_at);
        match frame.kind {
            DoorKind::Open => self.open_door(id, frame, at, num, fx),
            DoorKind::Phone | DoorKind::Door => self.join_room(id, frame, at, fx),
        }
    }

    fn join_room(&mut self, id: LinkId, frame: DoorFrame, at: u64, fx: &mut Effects) -> Result<(), Refusal> {
        let Some(link) = self.links.find_mut(id) else { return Ok(()) };
        let rooms = &mut link.rare.get_or_insert_default().rooms;
        if !rooms.contains(&frame.room) {
            if rooms.len() >= ROOMS_PER_LINK_MAX {
                return Err(Refusal::new(Code::BadField, "r"));
            }
            rooms.push(frame.room.clone());
        }
        link.settled = true;
        link.extended |= frame.extended;
        self.doors.join(&frame.room, Member { link: id, is_door: frame.kind == DoorKind::Door });
        let start = fx.doors.len();
        for member in self.doors.members(&frame.room).iter().filter(|member| member.link != id) {
            self.add_door_target(*member, fx);
        }
        for (member, is_door) in self.rooms.of_name(&frame.room) {
            self.add_door_target(Member { link: member, is_door }, fx);
        }
        self.relay(frame, start, at, fx);
        Ok(())
    }

    fn add_door_target(&self, member: Member, fx: &mut Effects) {
        let stamped = member.is_door && self.link(member.link).is_some_and(|link| link.extended);
        fx.doors.push(DoorTarget { link: member.link, stamped });
    }

    fn relay(&self, frame: DoorFrame, start: usize, at: u64, fx: &mut Effects) {
        let targets = start..fx.doors.len();
        if !targets.is_empty() {
            fx.list.push(Effect::Relay { frame: Arc::new(frame), targets, at, ts: self.now.wall });
        }
    }

    fn open_door(&mut self, id: LinkId, frame: DoorFrame, at: u64, num: Option<Num>, fx: &mut Effects) -> Result<(), Refusal> {
        let Some(link) = self.link(id) else { return Ok(()) };
        let entry = self.door_entry(link, &frame);
        if let Err(refusal) = self.judge_opening(link, &entry, at) {
            self.counters.stale_door_frames += u64::from(refusal == STALE);
            if let Some(id) = self.log_opening(entry, 0, fx) {
                let reason = if refusal == STALE { "stale" } else { "forbidden" };
                self.gather.queue(Change::SettleDoor { id, ok: false, reason: Some(reason.into()) });
            }
            return Err(refusal);
        }
        let is_rest = link.transport == Transport::Rest;
        let wants_result = if is_rest { frame.wait } else { link.gets_notices() };
        let opener = wants_result.then(|| Opener { link: id, num: num.clone(), is_rest });
        if opener.is_some()
            && let Some(link) = self.links.find_mut(id)
        {
            link.openings += 1;
        }
        let doors = self.reach_doors(id, &frame, fx);
        if is_rest && !frame.wait {
            fx.reply(id, Reply::DoorsReached { doors: doors.len(), num });
        }
        let (room, user) = (frame.room.clone(), frame.user.clone());
        let start = fx.doors.len() - doors.len();
        self.relay(frame, start, at, fx);
        self.counters.openings += 1;
        let log_id = self.log_opening(entry, doors.len(), fx);
        let deadline = self.now.mono + DOOR_ANSWER_WAIT.as_micros() as u64;
        let opening = OpenedDoor { room, user, log_id, opener, reached: doors.len(), doors, reason: None, refused: false, deadline };
        if opening.reached == 0 {
            self.settle(opening, false, Some("no_door".into()), fx);
        } else {
            let evicted = self.doors.openings.add(opening);
            self.settle_unanswered(evicted, fx);
        }
        Ok(())
    }

    /// Who wants to open what, as the door log keeps it.
    fn door_entry(&self, link: &Link, frame: &DoorFrame) -> DoorEntry {
        let alias = link.alias.map(|key| self.aliases.get(key).name.as_str());
        DoorEntry {
            id: 0,
            at: self.now.wall,
            room: frame.room.as_str().into(),
            user: frame.user.as_str().into(),
            alias: alias.unwrap_or_default().into(),
            label: link.claims.as_ref().map(|claims| claims.label.as_str()).unwrap_or_default().into(),
            address: link.address.to_string().into(),
            doors: 0,
        }
    }

    /// Whether a link may open doors at all, and in time (Protocol §7).
    fn judge_opening(&self, link: &Link, entry: &DoorEntry, at: u64) -> Result<(), Refusal> {
        let DoorEntry { room, alias, label, address, .. } = entry;
        let known = link.alias.map(|key| &self.aliases.get(key).name);
        if !self.options.openers.allow(known, link.claims.as_deref()) {
            log::warn!("door_forbidden room={room} alias={alias} label={label} address={address}");
            return Err(Refusal::new(Code::Forbidden, "door.openers"));
        }
        let age = self.now.mono.saturating_sub(at);
        if age > OPENING_AGE_MAX.as_micros() as u64 {
            log::warn!("door_stale room={room} alias={alias} age_ms={}", age / 1_000);
            return Err(STALE);
        }
        Ok(())
    }

    /// The doors of a room: members in the door role and sessions whose alias is the room, but not the link it came from.
    fn reach_doors(&mut self, id: LinkId, frame: &DoorFrame, fx: &mut Effects) -> Vec<LinkId> {
        let start = fx.doors.len();
        let members = self.doors.members(&frame.room);
        for member in members.iter().filter(|member| member.is_door && member.link != id) {
            self.add_door_target(*member, fx);
        }
        for (member, _) in self.rooms.of_name(&frame.room).filter(|(_, is_door)| *is_door) {
            self.add_door_target(Member { link: member, is_door: true }, fx);
        }
        let joined = fx.doors.len();
        let named = self.aliases.find(frame.room.as_str()).map_or(&[][..], |key| &self.aliases.get(key).sessions);
        for session in named.iter().filter(|session| **session != id) {
            if !fx.doors[start..joined].iter().any(|door| door.link == *session) {
                self.add_door_target(Member { link: *session, is_door: true }, fx);
            }
        }
        fx.doors[start..].iter().map(|door| door.link).collect()
    }

    /// Writes an opening to the door log; the disk is never waited for. `None`: too many entries wait for it already.
    fn log_opening(&mut self, mut entry: DoorEntry, doors: usize, fx: &mut Effects) -> Option<u64> {
        if self.gather.door_entries() >= DOOR_LOG_WAITING_MAX {
            self.counters.door_entries_dropped += 1;
            return None;
        }
        entry.id = self.next_mid(fx)?.number();
        entry.doors = u32::try_from(doors).unwrap_or(u32::MAX);
        let id = entry.id;
        if let Ok(room) = RoomName::new(&entry.room)
            && let Some(picture) = self.rooms.picture(&room)
        {
            let picture = picture.frame.clone();
            fx.list.push(Effect::KeepPicture { id, picture, service: self.now.service });
        }
        self.gather.queue(Change::LogDoor(entry));
        Some(id)
    }

    /// -8 from a door: answers every pending opening of (R, U) that reached it.
    pub(super) fn door_answer(&mut self, id: LinkId, answer: &DoorAnswer, fx: &mut Effects) -> Result<(), Refusal> {
        let mut settled = Vec::new();
        let mut matched = false;
        for number in self.doors.openings.alike(&answer.room, &answer.user) {
            let Some(opening) = self.doors.openings.get_mut(number).filter(|opening| opening.doors.contains(&id)) else { continue };
            matched = true;
            if !answer.ok {
                opening.refused = true;
                opening.reason = answer.reason.clone();
                opening.doors.retain(|door| *door != id);
            }
            if answer.ok || opening.doors.is_empty() {
                settled.push(number);
            }
        }
        if !matched {
            log::info!("door_answer_unasked room={} user={} ok={}", answer.room, answer.user, answer.ok);
        }
        for number in settled {
            if let Some(opening) = self.doors.openings.take(number) {
                self.settle(opening, answer.ok, answer.reason.clone(), fx);
            }
        }
        Ok(())
    }

    /// The opening has its result: to the opener, exactly once, and to the log.
    fn settle(&mut self, opening: OpenedDoor, ok: bool, reason: Option<Box<str>>, fx: &mut Effects) {
        if let Some(id) = opening.log_id {
            self.gather.queue(Change::SettleDoor { id, ok, reason: reason.clone() });
        }
        let Some(Opener { link, num, is_rest }) = opening.opener else { return };
        let doors = is_rest.then_some(opening.reached);
        fx.reply(link, Reply::DoorResult { room: opening.room, user: opening.user, ok, reason, doors, num });
        let Some(opener) = self.links.find_mut(link) else { return };
        opener.openings -= 1;
        // Perhaps its last answer; looked at after this turn's frames, since some of them may be its own.
        if opener.finished {
            self.deferred.push_back(link);
        }
    }

    /// An opening that no door has settled has waited long enough, or must make way for others.
    fn settle_unanswered(&mut self, opening: Option<OpenedDoor>, fx: &mut Effects) {
        if let Some(mut opening) = opening {
            let reason = if opening.refused { opening.reason.take() } else { Some("no_answer".into()) };
            self.settle(opening, false, reason, fx);
        }
    }

    /// Openings that no door answered in time.
    pub(super) fn end_openings(&mut self, fx: &mut Effects) {
        while self.doors.next_deadline().is_some_and(|deadline| deadline <= self.now.mono) {
            let oldest = self.doors.openings.take_oldest();
            self.settle_unanswered(oldest, fx);
        }
    }

    /// The link is gone from its rooms.
    pub(super) fn leave_rooms(&mut self, id: LinkId, rooms: &[RoomName]) {
        for room in rooms {
            if let Some(members) = self.doors.rooms.get_mut(room) {
                members.retain(|member| member.link != id);
                if members.is_empty() {
                    self.doors.rooms.remove(room);
                }
            }
        }
    }
}
