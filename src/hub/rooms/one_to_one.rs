//! One-to-one rooms: two places, and who waits for one that is taken (Protocol §9). It knows no frames.

use crate::limits::ROOM_NEWCOMERS_MAX;
use crate::names::LinkId;
use crate::protocol::room::Place;

/// The two places of a room.
#[derive(Debug, Default)]
pub(super) struct OneToOne {
    caller: Seat,
    callee: Seat,
}

/// A place.
#[derive(Debug, Default)]
struct Seat {
    taken_by: Option<LinkId>,
    /// Newcomers, oldest first; only while it is taken.
    waiting: Vec<LinkId>,
    /// Until when the incumbent may show that it is there: monotonic, µs. Set while somebody waits.
    contest: Option<u64>,
}

/// What becomes of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// It has the place.
    Seated,
    /// It waits. The incumbent is to be pinged if the contest began with it.
    Waits { ping: Option<LinkId> },
    /// Too many wait already.
    Busy,
}

impl OneToOne {
    fn seat(&self, place: Place) -> &Seat {
        match place {
            Place::Door => &self.caller,
            Place::Phone => &self.callee,
        }
    }

    fn seat_mut(&mut self, place: Place) -> &mut Seat {
        match place {
            Place::Door => &mut self.caller,
            Place::Phone => &mut self.callee,
        }
    }

    /// Takes the place, or waits for it until `deadline`.
    pub(super) fn enter(&mut self, link: LinkId, place: Place, deadline: u64) -> Entry {
        let seat = self.seat_mut(place);
        let Some(incumbent) = seat.taken_by else {
            seat.taken_by = Some(link);
            return Entry::Seated;
        };
        if seat.waiting.len() >= ROOM_NEWCOMERS_MAX {
            return Entry::Busy;
        }
        seat.waiting.push(link);
        let begins = seat.contest.is_none();
        seat.contest.get_or_insert(deadline);
        Entry::Waits { ping: begins.then_some(incumbent) }
    }

    /// Who has that place.
    pub(super) fn at(&self, place: Place) -> Option<LinkId> {
        self.seat(place).taken_by
    }

    /// Who has the other place.
    pub(super) fn other(&self, place: Place) -> Option<LinkId> {
        self.seat(opposite(place)).taken_by
    }

    /// Whether the contest for that place is the one with that deadline.
    pub(super) fn is_contested(&self, place: Place, deadline: u64) -> bool {
        self.seat(place).contest == Some(deadline)
    }

    /// The incumbent is there: the contest is over, and these are turned away.
    pub(super) fn hold(&mut self, place: Place) -> Vec<LinkId> {
        let seat = self.seat_mut(place);
        seat.contest = None;
        std::mem::take(&mut seat.waiting)
    }

    /// A link leaves. If that empties a place for which others wait, the first has it now, and the others are turned away.
    pub(super) fn leave(&mut self, link: LinkId, place: Place) -> (Option<LinkId>, Vec<LinkId>) {
        let seat = self.seat_mut(place);
        if seat.taken_by != Some(link) {
            seat.waiting.retain(|other| *other != link);
            if seat.waiting.is_empty() {
                seat.contest = None;
            }
            return (None, Vec::new());
        }
        seat.contest = None;
        let mut waiting = std::mem::take(&mut seat.waiting).into_iter();
        seat.taken_by = waiting.next();
        (seat.taken_by, waiting.collect())
    }

    /// All who have a place, with it.
    pub(super) fn members(&self) -> impl Iterator<Item = (LinkId, Place)> {
        [Place::Door, Place::Phone].into_iter().filter_map(|place| Some((self.at(place)?, place)))
    }
}

fn opposite(place: Place) -> Place {
    match place {
        Place::Door => Place::Phone,
        Place::Phone => Place::Door,
    }
}
