//! Openings without a result, in the order they came and by what a door's answer names (Protocol §7). It knows no other part.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::limits::{OPENINGS_ALIKE_MAX, OPENINGS_PENDING_MAX};
use crate::names::{LinkId, RoomName, UserName};
use crate::protocol::frame::Num;

/// An opening without a result.
#[derive(Debug)]
pub(super) struct OpenedDoor {
    pub room: RoomName,
    pub user: UserName,
    /// Its number in the door log, if it has an entry there.
    pub log_id: Option<u64>,
    /// Who wants the result.
    pub opener: Option<Opener>,
    /// Doors that got the frame and have not said no.
    pub doors: Vec<LinkId>,
    /// How many there were.
    pub reached: usize,
    /// What the last door that said no gave as its reason.
    pub reason: Option<Box<str>>,
    pub refused: bool,
    /// Monotonic, µs.
    pub deadline: u64,
}

#[derive(Debug)]
pub(super) struct Opener {
    pub link: LinkId,
    pub num: Option<Num>,
    /// REST is told how many doors were reached.
    pub is_rest: bool,
}

/// All of them. An answer is looked up by what it names, so that its cost does not grow with what others have open.
#[derive(Debug, Default)]
pub(super) struct Openings {
    /// Oldest first: all wait equally long.
    by_number: BTreeMap<u64, OpenedDoor>,
    alike: HashMap<(RoomName, UserName), VecDeque<u64>>,
    next: u64,
}

impl Openings {
    /// Adds an opening. Returns the one that must make way for it: the oldest alike, or the oldest of all.
    pub(super) fn add(&mut self, opening: OpenedDoor) -> Option<OpenedDoor> {
        let number = self.next;
        self.next += 1;
        let alike = self.alike.entry((opening.room.clone(), opening.user.clone())).or_default();
        alike.push_back(number);
        let oldest_alike = (alike.len() > OPENINGS_ALIKE_MAX).then(|| alike[0]);
        self.by_number.insert(number, opening);
        match oldest_alike {
            Some(oldest) => self.take(oldest),
            None if self.by_number.len() > OPENINGS_PENDING_MAX => self.take_oldest(),
            None => None,
        }
    }

    /// The numbers of those of one user in one room, oldest first.
    pub(super) fn alike(&self, room: &RoomName, user: &UserName) -> Vec<u64> {
        self.alike.get(&(room.clone(), user.clone())).map_or_else(Vec::new, |numbers| numbers.iter().copied().collect())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut OpenedDoor> {
        self.by_number.get_mut(&number)
    }

    pub(super) fn take(&mut self, number: u64) -> Option<OpenedDoor> {
        let opening = self.by_number.remove(&number)?;
        let place = (opening.room.clone(), opening.user.clone());
        if let Some(numbers) = self.alike.get_mut(&place) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.alike.remove(&place);
            }
        }
        Some(opening)
    }

    pub(super) fn take_oldest(&mut self) -> Option<OpenedDoor> {
        let oldest = *self.by_number.first_key_value()?.0;
        self.take(oldest)
    }

    /// When the oldest is answered `no_answer`: monotonic, µs.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.by_number.first_key_value().map(|(_, opening)| opening.deadline)
    }
}
