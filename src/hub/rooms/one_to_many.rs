//! One-to-many rooms: doors, phones, streams of pictures, and the newest picture (Protocol §9). It knows no outboxes.

use crate::names::LinkId;
use crate::protocol::room::{Place, RoomFrame};

/// A room's newest picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The frame it came in.
    pub frame: RoomFrame,
    /// When: wall clock, ms.
    pub at: u64,
    /// When: monotonic, µs.
    pub since: u64,
}

/// Who is in a room, and what it shows.
#[derive(Debug, Default)]
pub(super) struct OneToMany {
    pub doors: Vec<LinkId>,
    pub phones: Vec<LinkId>,
    /// HTTP streams: they see pictures and are no members.
    pub watchers: Vec<LinkId>,
    pub picture: Option<Picture>,
    /// When the picture is forgotten, since nobody is there: monotonic, µs.
    pub forget_at: Option<u64>,
}

impl OneToMany {
    fn side(&mut self, place: Place) -> &mut Vec<LinkId> {
        match place {
            Place::Door => &mut self.doors,
            Place::Phone => &mut self.phones,
        }
    }

    pub(super) fn enter(&mut self, link: LinkId, place: Place) {
        self.side(place).push(link);
    }

    pub(super) fn leave(&mut self, link: LinkId, place: Place) {
        self.side(place).retain(|other| *other != link);
    }

    /// Who gets a frame of a member at that place.
    pub(super) fn receivers(&self, place: Place, frame: &RoomFrame) -> impl Iterator<Item = LinkId> {
        let (members, watchers) = match place {
            Place::Door if frame.is_text => (&self.phones, &[][..]),
            Place::Door => (&self.phones, &self.watchers[..]),
            Place::Phone => (&self.doors, &[][..]),
        };
        members.iter().chain(watchers).copied()
    }

    /// All members, with their place.
    pub(super) fn members(&self) -> impl Iterator<Item = (LinkId, Place)> {
        let doors = self.doors.iter().map(|link| (*link, Place::Door));
        doors.chain(self.phones.iter().map(|link| (*link, Place::Phone)))
    }

    /// Whether nothing of it need be known any longer.
    pub(super) fn is_over(&self) -> bool {
        self.picture.is_none() && self.watchers.is_empty()
    }
}
