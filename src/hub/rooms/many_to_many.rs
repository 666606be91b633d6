//! Many-to-many rooms: each to all others (Protocol §9).

use crate::names::LinkId;
use crate::protocol::room::Place;

/// Who is in a room.
#[derive(Debug, Default)]
pub(super) struct ManyToMany {
    members: Vec<(LinkId, Place)>,
}

impl ManyToMany {
    pub(super) fn enter(&mut self, link: LinkId, place: Place) {
        self.members.push((link, place));
    }

    pub(super) fn leave(&mut self, link: LinkId) {
        self.members.retain(|(other, _)| *other != link);
    }

    /// Who gets a frame of that member.
    pub(super) fn receivers(&self, sender: LinkId) -> impl Iterator<Item = LinkId> {
        self.members.iter().map(|(link, _)| *link).filter(move |link| *link != sender)
    }

    /// All members, with their place.
    pub(super) fn members(&self) -> impl Iterator<Item = (LinkId, Place)> {
        self.members.iter().copied()
    }
}
