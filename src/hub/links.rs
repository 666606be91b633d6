//! The table of links: what the hub knows of one live connection. It knows no other part of the hub.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crate::hub::aliases::AliasKey;
use crate::names::{LinkId, Mid, RoomName, Transport};
use crate::protocol::frame::{Num, Request};
use crate::token::Claims;

/// What a front-end says of a new link.
#[derive(Debug, Clone)]
pub struct Opening {
    /// What kind it is.
    pub transport: Transport,
    /// Who is at the other end.
    pub address: IpAddr,
    /// What its token allows; `None` where no token is needed and none was given.
    pub claims: Option<Arc<Claims>>,
}

/// One live connection.
#[derive(Debug)]
pub(super) struct Link {
    pub id: LinkId,
    pub transport: Transport,
    pub address: IpAddr,
    pub claims: Option<Arc<Claims>>,
    /// Gets the frames marked (ext).
    pub extended: bool,
    /// Bound, published or joined a room: the bind deadline is met.
    pub settled: bool,
    /// The bound alias: the link is a session.
    pub alias: Option<AliasKey>,
    /// Monotonic, µs.
    pub opened: u64,
    /// Monotonic, µs: the last frame, or another sign of life.
    pub heard: u64,
    /// Everything owed up to here was pushed to it.
    pub cursor: Mid,
    pub flow: Flow,
    /// It stands in one of the queues of `catch_up`, once.
    pub queued: bool,
    /// Moving mean of the time its acknowledgements take, µs.
    pub ack_mean: u32,
    /// Messages in a row whose grace it let pass.
    pub missed: u8,
    /// Publishes without an answer.
    pub unanswered: u32,
    /// Openings whose result it is owed.
    pub openings: u32,
    /// What only few links have.
    pub rare: Option<Box<Rare>>,
    /// What the link waits for before its next frame, and the frames behind it.
    pub hold: Option<Box<Hold>>,
    /// Frames of the batch that was handed over, not yet acted on.
    pub backlog: VecDeque<Request>,
    /// A batch was handed over and the link has not been told that it is done.
    pub owes_ready: bool,
    /// When the batch came: monotonic, µs.
    pub batch_at: u64,
    /// No further frame will come: it ends when all are answered.
    pub finished: bool,
}

/// What an idle link should not pay for.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Door rooms it has joined.
    pub rooms: Vec<RoomName>,
    /// What the previous pull returned: the next one acknowledges it.
    pub pulled: Vec<Mid>,
}

/// Whether new messages go to a session at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Yes: its cursor is at the end of what its alias is owed.
    Level,
    /// No: it reads pages. `Waiting` for a place among the pages in flight.
    Waiting,
    /// No: that page is being read.
    Reading(u64),
    /// No: its outbox is full.
    Congested,
    /// No: a pull that binds answers first.
    Pulling,
}

/// What holds the later frames of a link (Protocol §6).
#[derive(Debug)]
pub(super) struct Hold {
    pub kind: HoldKind,
    pub num: Option<Num>,
    /// Monotonic, µs: then the link goes on with `unavailable`.
    pub deadline: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldKind {
    /// 2, until the changes up to that count are committed.
    Register(u64),
    /// 12, likewise.
    Unregister(u64),
    /// 4, until that page is there.
    Pull(u64),
    /// 4, until there is a place among the pages in flight.
    PullWaiting,
}

impl Link {
    fn new(id: LinkId, opening: Opening, now: u64) -> Link {
        Link {
            id,
            transport: opening.transport,
            address: opening.address,
            claims: opening.claims,
            extended: false,
            settled: false,
            alias: None,
            opened: now,
            heard: now,
            cursor: Mid::ZERO,
            flow: Flow::Level,
            queued: false,
            ack_mean: 0,
            missed: 0,
            unanswered: 0,
            openings: 0,
            rare: None,
            hold: None,
            backlog: VecDeque::new(),
            owes_ready: false,
            batch_at: now,
            finished: false,
        }
    }

    /// Whether it gets receipts and endings elsewhere (Protocol §4, §5).
    pub(super) fn gets_notices(&self) -> bool {
        self.extended || self.transport == Transport::SocketIo
    }
}

/// All links, by place.
#[derive(Debug, Default)]
pub(super) struct Links {
    places: Vec<Place>,
    free: Vec<u32>,
    count: usize,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    link: Option<Box<Link>>,
}

impl Links {
    pub(super) fn open(&mut self, opening: Opening, now: u64) -> LinkId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("the connection cap is below 2^32")
        });
        let place = &mut self.places[index as usize];
        let id = LinkId { index, generation: place.generation };
        place.link = Some(Box::new(Link::new(id, opening, now)));
        self.count += 1;
        id
    }

    /// Takes a link out; its id is never valid again.
    pub(super) fn close(&mut self, id: LinkId) -> Option<Box<Link>> {
        self.find(id)?;
        let place = &mut self.places[id.index as usize];
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index);
        self.count -= 1;
        place.link.take()
    }

    pub(super) fn find(&self, id: LinkId) -> Option<&Link> {
        self.places.get(id.index as usize)?.link.as_deref().filter(|link| link.id == id)
    }

    pub(super) fn find_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.places.get_mut(id.index as usize)?.link.as_deref_mut().filter(|link| link.id == id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.places.iter().filter_map(|place| place.link.as_deref())
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}
