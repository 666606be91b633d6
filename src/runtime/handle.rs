//! All that a front-end can ask: open a link, hand over frames, wait for an answer, look at the counts.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures::channel::oneshot;
use futures::lock::Mutex;

use crate::hub::effects::Effect;
use crate::hub::links::Opening;
use crate::hub::owing::Walk;
use crate::hub::restore::Numbers;
use crate::hub::rooms::Picture;
use crate::hub::status::{Counters, Load, Queues, Sizes, StoreState};
use crate::hub::storage::{DoorEntry, ReportLine, Restored};
use crate::hub::{Hub, Input, Options};
use crate::limits::{DISK_HOLD_MAX, HEALTH_WAIT, Limits};
use crate::names::{Alias, LinkId, Mid, RoomName, Topic, Transport};
use crate::protocol::frame::{Reply, Request, RoomCounts};
use crate::protocol::refusal::{Code, Language, Refusal};
use crate::protocol::room::{RoomFrame, RoomKind, RoomPath};
use crate::runtime::answer::Answer;
use crate::runtime::clock::{self, Clock};
use crate::runtime::door_tasks::DoorTasks;
use crate::runtime::driver::{self, Core, Outlet, Shared, drive};
use crate::runtime::outbox::{Bounds, Outbox};
use crate::runtime::packets;
use crate::runtime::picture_slot::PictureSlot;
use crate::runtime::pictures::{self, DoorPictures, KeptPicture};
use crate::runtime::reactor::Reactor;
use crate::runtime::room_outbox::{Pace, RoomOutbox};
use crate::runtime::socket::Socket;
use crate::runtime::turnstile::Ticket;
use crate::store::StoreHandle;
use crate::store::door_log::{DoorLine, DoorLogQuery};
use crate::token::Claims;

/// The hub, for those who talk to it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    /// Held by whoever walks over all aliases: however many ask, it is one walk at a time.
    walks: Arc<Mutex<()>>,
}

/// Between two looks at whether what health waits for has come.
const HEALTH_POLL: Duration = Duration::from_millis(5);

/// Between two slices of a walk over all aliases, as long as one takes: so a walk has half of the processor at most, and sockets are
/// looked at in between.
const WALK_PAUSE: Duration = Duration::from_micros(100);

/// All that the hub and those around it count, read together.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Since the process began.
    pub uptime: Duration,
    /// What waits, as the whole.
    pub load: Load,
    /// Who is there.
    pub sizes: Sizes,
    /// Rooms with a member.
    pub rooms: RoomCounts,
    /// What has happened.
    pub counters: Counters,
    /// What is under way.
    pub queues: Queues,
    /// Inputs that wait for the hub: batches with door frames.
    pub door_inputs: usize,
    /// Inputs that wait for the hub: all others.
    pub inputs: usize,
    /// How the store does.
    pub store: StoreState,
    /// How long ago the oldest delivery that waits in the store was published; zero if none waits.
    pub oldest_waits: Duration,
    /// What all outboxes hold and have left out.
    pub outboxes: OutboxCounts,
    /// How often the wall clock was stepped since the start.
    pub clock_steps: u64,
}

/// What all outboxes hold and have left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxCounts {
    /// Bytes that sockets have not taken.
    pub held: usize,
    /// Openings that grew too old.
    pub stale: u64,
    /// Door frames and notices for which there was no room.
    pub dropped: u64,
}

/// A Socket.IO session's link; dropping it tells the hub that it is gone.
pub struct SocketIoLink {
    shared: Arc<Shared>,
    id: LinkId,
    outbox: Arc<Outbox>,
}

/// A TCP link; dropping it tells the hub that it is gone.
pub struct TcpLink {
    shared: Arc<Shared>,
    id: LinkId,
    outbox: Arc<Outbox>,
}

/// A member of a WebSocket room; dropping it tells the hub that it is gone.
pub struct RoomLink {
    shared: Arc<Shared>,
    id: LinkId,
    outbox: Arc<RoomOutbox>,
}

/// An HTTP request that sees the pictures of a room; dropping it tells the hub that it is gone.
pub struct PictureStream {
    shared: Arc<Shared>,
    id: LinkId,
    slot: Arc<PictureSlot>,
}

/// Which part of the door log is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorLogPart {
    /// Not before this wall clock time, ms.
    pub from: u64,
    /// Before this wall clock time, ms.
    pub to: u64,
    /// Only this R.
    pub room: Option<RoomName>,
    /// How many of the newest to leave out.
    pub skip: usize,
    /// At most so many entries.
    pub count: usize,
}

/// An entry of the door log with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownDoor {
    /// Its number.
    pub id: u64,
    /// When: wall clock, ms.
    pub at: u64,
    /// R.
    pub room: Box<str>,
    /// U.
    pub user: Box<str>,
    /// The opener's alias; may be empty.
    pub alias: Box<str>,
    /// The label of the opener's token; may be empty.
    pub label: Box<str>,
    /// The opener's address.
    pub address: Box<str>,
    /// Doors that were reached.
    pub doors: u32,
    /// Whether one opened; `None` until that is known.
    pub ok: Option<bool>,
    /// Why not.
    pub reason: Option<Box<str>>,
    /// Whether a picture is kept of it.
    pub has_picture: bool,
}

impl ShownDoor {
    fn new(line: DoorLine, has_picture: impl Fn(u64) -> bool) -> ShownDoor {
        let DoorLine { entry: DoorEntry { id, at, room, user, alias, label, address, doors }, ok, reason } = line;
        ShownDoor { id, at, room, user, alias, label, address, doors, ok, reason, has_picture: has_picture(id) }
    }
}

impl From<DoorLogPart> for DoorLogQuery {
    fn from(part: DoorLogPart) -> DoorLogQuery {
        let DoorLogPart { from, to, room, skip, count } = part;
        let room = room.map(|room| room.as_str().into());
        DoorLogQuery { from, to, room, skip: skip as u64, count: u32::try_from(count).unwrap_or(u32::MAX) }
    }
}

/// The inputs of a hub that does not run yet: what the store reports goes through it.
#[derive(Clone)]
pub struct Inbox(Arc<std::sync::OnceLock<Arc<Shared>>>);

impl Inbox {
    /// An inbox that takes nothing before the hub runs; the store is asked nothing before that either.
    #[must_use]
    pub fn new() -> Inbox {
        Inbox(Arc::default())
    }

    /// Hands the hub an input.
    pub fn submit(&self, input: Input) {
        if let Some(shared) = self.0.get() {
            shared.submit(input);
        }
    }

    /// Tells the hub a piece of what was stored and could not be read at the start; true: the last. Waits until the hub has taken it.
    pub fn restore(&self, numbers: &mut Numbers, piece: Vec<Restored>, last: bool) {
        let Some(shared) = self.0.get() else { return };
        for one in &piece {
            if let Restored::Counters { stamp, newest_wall, .. } = one {
                shared.clock.restore(*stamp, *newest_wall);
            }
        }
        shared.act(|hub, now, _| hub.restore(now, numbers, piece, last));
    }
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox::new()
    }
}

impl Handle {
    /// Starts the hub's task.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub fn start(
        hub: Hub,
        limits: &Limits,
        language: Language,
        clock: Clock,
        store: StoreHandle,
        pictures: Arc<DoorPictures>,
        inbox: &Inbox,
    ) -> io::Result<Handle> {
        let (drained, took, reads) = (inbox.clone(), inbox.clone(), inbox.clone());
        let bounds = Arc::new(Bounds {
            per_link: AtomicUsize::new(limits.outbox),
            total: AtomicUsize::new(limits.outbox_total),
            held: AtomicUsize::new(0),
            files: AtomicUsize::new(0),
            stale: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            drained: Box::new(move |link| drained.submit(Input::Drained(link))),
            took: Box::new(move |link| took.submit(Input::RoomTook(link))),
            reads: Box::new(move |link| reads.submit(Input::Heard(link))),
        });
        let core = Core::new(hub, language, store, pictures, Arc::clone(&bounds));
        let shared = Arc::new(Shared::new(core, clock, bounds, Arc::new(Reactor::new()?), Arc::new(DoorTasks::new()?)));
        let shared = Arc::clone(inbox.0.get_or_init(|| shared));
        async_std::task::spawn(drive(Arc::clone(&shared)));
        async_std::task::spawn(driver::watch(Arc::clone(&shared)));
        async_std::task::spawn(driver::run_doors(Arc::clone(&shared)));
        Ok(Handle { shared, walks: Arc::default() })
    }

    /// What watches the sockets of those that are no doors.
    #[must_use]
    pub fn reactor(&self) -> &Arc<Reactor> {
        &self.shared.reactor
    }

    /// From now on the hub decides by `options`, the outboxes keep its bounds, and errors read in `language`.
    pub fn reconfigure(&self, options: Options, language: Language) {
        self.shared.bounds.reconfigure(options.limits.outbox, options.limits.outbox_total);
        self.shared.core().reconfigure(options, language);
    }

    /// A new TCP link.
    #[must_use]
    pub fn open_tcp(&self, stream: Socket, address: IpAddr) -> TcpLink {
        let now = self.shared.clock.now();
        let mut core = self.shared.core();
        let id = core.hub.open(now, Opening { transport: Transport::Tcp, address, claims: None });
        let outbox = Arc::new(Outbox::of_lines(id, stream, Arc::clone(&self.shared.bounds)));
        core.connect(id, Outlet::Outbox(Arc::clone(&outbox)));
        drop(core);
        TcpLink { shared: Arc::clone(&self.shared), id, outbox }
    }

    /// A new member of a room.
    #[must_use]
    pub fn open_room(&self, stream: Socket, address: IpAddr, claims: Option<Arc<Claims>>, path: &RoomPath) -> RoomLink {
        let pace = if path.key.kind == RoomKind::OneToMany { Pace::NewestPicture } else { Pace::All };
        let opening = Opening { transport: Transport::WebSocket, address, claims };
        let bounds = Arc::clone(&self.shared.bounds);
        let mut made = None;
        let outlet = |id| {
            let outbox = made.insert(Arc::new(RoomOutbox::new(id, stream, pace, bounds)));
            Outlet::Room(Arc::clone(outbox))
        };
        let (id, ()) = self.shared.open_with(opening, outlet, |hub, now, id, fx| hub.enter_room(now, id, path, fx));
        let outbox = made.expect("every new link is given its outlet");
        RoomLink { shared: Arc::clone(&self.shared), id, outbox }
    }

    /// A picture that came by POST, as if from a door of the room.
    pub fn post_picture(&self, room: &RoomName, picture: RoomFrame) {
        self.shared.act(|hub, now, fx| hub.post_picture(now, room, picture, fx));
    }

    /// The newest picture of a room, and its age in seconds.
    #[must_use]
    pub fn picture(&self, room: &RoomName) -> Option<(Picture, u64)> {
        let picture = self.shared.core().hub.picture(room)?.clone();
        let age = clock::mono_us().saturating_sub(picture.since) / 1_000_000;
        Some((picture, age))
    }

    /// The pictures of a room, from the newest on; `None`: there is none.
    #[must_use]
    pub fn watch_pictures(&self, address: IpAddr, claims: Option<Arc<Claims>>, room: &RoomName) -> Option<PictureStream> {
        let slot = Arc::new(PictureSlot::default());
        let outlet = |_| Outlet::Pictures(Arc::clone(&slot));
        let opening = Opening { transport: Transport::WebSocket, address, claims };
        let (id, watches) = self.shared.open_with(opening, outlet, |hub, now, id, fx| hub.watch_room(now, id, room, fx));
        let stream = PictureStream { shared: Arc::clone(&self.shared), id, slot };
        watches.then_some(stream)
    }

    /// A page of the door log, newest first: how many entries fit on all pages, and those on this one.
    ///
    /// # Errors
    /// `unavailable`: the store can't be read or has too much to do.
    pub async fn door_log(&self, part: DoorLogPart) -> Result<(u64, Vec<ShownDoor>), Refusal> {
        let (reply, page) = oneshot::channel();
        match &self.shared.core().store {
            Some(store) => drop(store.door_log(part.into(), move |page| drop(reply.send(page)))),
            None => drop(reply),
        }
        let Ok(Ok(page)) = page.await else { return Err(Refusal::new(Code::Unavailable, "")) };
        let shown = |line: DoorLine| ShownDoor::new(line, |id| self.shared.pictures.has(id));
        Ok((page.total, page.lines.into_iter().map(shown).collect()))
    }

    /// From now on the door log keeps so many pictures.
    pub fn keep_pictures(&self, bounds: pictures::Bounds) {
        self.shared.pictures.reconfigure(bounds);
    }

    /// The picture of an entry of the door log.
    pub async fn door_picture(&self, id: u64) -> Option<KeptPicture> {
        let pictures = Arc::clone(&self.shared.pictures);
        // Files are read on a thread of their own: a disk may be slow.
        async_std::task::spawn_blocking(move || pictures.read(id)).await
    }

    /// A new Socket.IO session. It is let in by [`SocketIoLink::enter`].
    #[must_use]
    pub fn open_socketio(&self, address: IpAddr, claims: Option<Arc<Claims>>) -> SocketIoLink {
        let now = self.shared.clock.now();
        let mut core = self.shared.core();
        let id = core.hub.open(now, Opening { transport: Transport::SocketIo, address, claims });
        let outbox = Arc::new(Outbox::of_packets(id, Arc::clone(&self.shared.bounds)));
        core.connect(id, Outlet::Outbox(Arc::clone(&outbox)));
        drop(core);
        SocketIoLink { shared: Arc::clone(&self.shared), id, outbox }
    }

    /// One request over REST that came at `at` (monotonic, µs), from the frame to its answer; `unavailable` if the process ends before
    /// there is one. If the caller
    /// stops waiting, what it asked goes on.
    pub async fn request(&self, address: IpAddr, claims: Arc<Claims>, request: Request, at: u64) -> Reply {
        let now = self.shared.clock.now();
        let answer = Arc::new(Answer::default());
        let opening = Opening { transport: Transport::Rest, address, claims: Some(claims) };
        let id = {
            let mut core = self.shared.core();
            // Looked at under the lock: whoever connects before it is set is answered when all links are cut.
            if self.shared.ending.load(Ordering::Relaxed) {
                return driver::ending();
            }
            core.open(now, opening, Outlet::Answer(Arc::clone(&answer)))
        };
        let _gone = Gone { shared: &self.shared, id };
        self.shared.submit(Input::Frames { link: id, frames: vec![request], at });
        answer.take().await
    }

    /// Recalls a message: how many deliveries ended. Goes on to its end also if the asker leaves.
    ///
    /// # Errors
    /// `not_found`: nothing was owed; `unavailable`: it is not known yet what is stored.
    pub async fn recall(&self, mid: Mid) -> Result<usize, Refusal> {
        let handle = self.clone();
        let recalled = async move {
            let _alone = handle.walks.lock().await;
            let mut walk = Walk::new(mid);
            loop {
                if let Some(ended) = handle.shared.act(|hub, now, fx| hub.recall(now, &mut walk, fx)) {
                    return ended;
                }
                async_std::task::sleep(WALK_PAUSE).await;
            }
        };
        async_std::task::spawn(recalled).await
    }

    /// Waits until what was queued for the store so far is committed, at most a second.
    pub async fn settle(&self) {
        let answer = Arc::new(Answer::default());
        self.shared.core().barrier(Arc::clone(&answer));
        // A disk that is slow or dead is not waited for: what is there is shown.
        let _ = async_std::future::timeout(DISK_HOLD_MAX, answer.take()).await;
    }

    /// Who is still owed a message; empty if nobody.
    pub async fn waiting_for(&self, mid: Mid) -> Vec<ReportLine> {
        let _alone = self.walks.lock().await;
        let (mut walk, mut lines) = (Walk::new(mid), Vec::new());
        while self.shared.core().hub.list_owing(&mut walk, &mut lines) {
            async_std::task::sleep(WALK_PAUSE).await;
        }
        lines
    }

    /// The delivery report of a message, by alias; empty if none is kept.
    ///
    /// # Errors
    /// `unavailable`: the store can't be read or has too much to do.
    pub async fn report(&self, mid: Mid) -> Result<Vec<ReportLine>, Refusal> {
        let (reply, report) = oneshot::channel();
        // Without a store the sender is dropped here and now, or the wait below would have no end.
        match &self.shared.core().store {
            // The asker may have gone meanwhile; then nobody misses the report.
            Some(store) => drop(store.report(mid, move |lines| drop(reply.send(lines)))),
            None => drop(reply),
        }
        match report.await {
            Ok(Ok(lines)) => Ok(lines),
            _ => Err(Refusal::new(Code::Unavailable, "")),
        }
    }

    /// The counts of `/info`.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.shared.core().hub.sizes()
    }

    /// All that is counted, in constant time.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let bounds = &self.shared.bounds;
        let outboxes = OutboxCounts { held: read(&bounds.held), stale: read(&bounds.stale) as u64, dropped: read(&bounds.dropped) as u64 };
        let (door_inputs, inputs) = self.shared.inputs();
        let core = self.shared.core();
        let (hub, now) = (&core.hub, self.shared.clock.now());
        Figures {
            uptime: Duration::from_micros(now.mono),
            load: hub.load(),
            sizes: hub.sizes(),
            rooms: hub.room_counts(),
            counters: hub.counters().clone(),
            queues: hub.queues(),
            door_inputs,
            inputs,
            store: hub.store_state(now),
            oldest_waits: hub.oldest_waits(now),
            outboxes,
            clock_steps: self.shared.clock.steps(),
        }
    }

    /// How the store does. Where nothing was committed lately, an empty transaction is written first and waited for, at most
    /// [`HEALTH_WAIT`]; however many ask, it is one.
    pub async fn prove_storing(&self) -> StoreState {
        let lacks_proof = || self.shared.core().hub.lacks_proof(self.shared.clock.now());
        if lacks_proof() && self.shared.act(|hub, now, _| hub.prove_storing(now)) {
            wait_until(|| !lacks_proof()).await;
        }
        self.shared.core().hub.store_state(self.shared.clock.now())
    }

    /// Whether the hub's task takes turns; waited for at most [`HEALTH_WAIT`].
    pub async fn is_turning(&self) -> bool {
        let turns = || self.shared.turns.load(Ordering::Relaxed);
        let before = turns();
        self.shared.nudge();
        wait_until(|| turns() != before).await
    }

    /// The topics of an alias, sorted, and whether it is online.
    #[must_use]
    pub fn alias_status(&self, alias: &Alias) -> (Vec<Topic>, bool) {
        self.shared.core().hub.alias_status(alias)
    }

    /// How many aliases are online over `transport`, and a page of them, sorted.
    #[must_use]
    pub fn online(&self, transport: Transport, from: usize, size: usize) -> (usize, Vec<Alias>) {
        self.shared.core().hub.online(transport, from, size)
    }

    /// The time by which tokens are judged, in seconds since 1970.
    #[must_use]
    pub fn token_time_s(&self) -> u64 {
        self.shared.clock.token_time_s()
    }

    /// Ends the links whose claims no longer hold.
    pub fn end_void(&self, is_void: impl Fn(&Claims) -> bool) {
        self.shared.act(|hub, now, fx| hub.end_void(now, is_void, fx));
    }

    /// Takes no more frames, waits until nothing waits for the disk, at most `within`; then cuts all links and closes the store.
    pub async fn finish(&self, within: Duration) {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.shared.act(|hub, _, _| hub.hurry());
        let deadline = clock::mono() + within;
        while !self.shared.core().hub.is_settled() && clock::mono() < deadline {
            self.settle().await;
            async_std::task::sleep(Duration::from_millis(5)).await;
        }
        let store = {
            let mut core = self.shared.core();
            core.cut_all();
            core.store.take()
        };
        if let Some(store) = store {
            store.close();
        }
    }
}

/// Waits for something, at most [`HEALTH_WAIT`]; whether it has come. Looks at it, so that there is no list of those who wait.
async fn wait_until(has_come: impl Fn() -> bool) -> bool {
    let end = clock::mono() + HEALTH_WAIT;
    async_std::task::yield_now().await;
    while !has_come() {
        if clock::mono() >= end {
            return false;
        }
        async_std::task::sleep(HEALTH_POLL).await;
    }
    true
}

/// Tells the hub of the end of a REST request's link, also when its waiting is given up.
struct Gone<'a> {
    shared: &'a Shared,
    id: LinkId,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.shared.submit(Input::Gone(self.id));
    }
}

impl TcpLink {
    /// Where the tasks of doors run.
    #[must_use]
    pub fn doors(&self) -> &Arc<DoorTasks> {
        &self.shared.door_tasks
    }

    /// Whether it may read what has come, by [`Turnstile::may_read`]. Doors need not ask.
    ///
    /// [`Turnstile::may_read`]: crate::runtime::turnstile::Turnstile::may_read
    pub fn may_read(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        self.shared.may_read(ticket, waker)
    }

    /// Waits until the link may hand over a batch; each `true` of it is one batch's right.
    pub async fn ready(&self) {
        self.outbox.ready().await;
    }

    /// Hands over a batch: at most [`crate::limits::BATCH_FRAMES_MAX`] frames, after [`TcpLink::ready`]. `at`: when they
    /// came, monotonic, µs.
    pub fn submit(&self, frames: Vec<Request>, at: u64) {
        self.shared.submit(Input::Frames { link: self.id, frames, at });
    }

    /// The peer sends something that is no frame, such as blank lines. To be called no more often than
    /// [`crate::limits::HEARD_EVERY`].
    pub fn heard(&self) {
        self.shared.submit(Input::Heard(self.id));
    }

    /// The peer has closed its sending side. Waits until its frames are answered, as far as they will be, and the link is ended.
    pub async fn finish(&self) {
        self.outbox.peer_finished();
        self.shared.submit(Input::Finished(self.id));
        self.closed().await;
    }

    /// Waits until the hub has ended the link.
    pub async fn closed(&self) {
        while !self.outbox.is_closing() {
            self.outbox.ready().await;
        }
    }

    /// What its first frame's token allows.
    pub fn set_claims(&self, claims: Arc<Claims>) {
        self.shared.act(|hub, _, _| hub.set_claims(self.id, claims));
    }

    /// Whether its connection is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.outbox.is_broken()
    }

    /// Whether the hub has ended it.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.outbox.is_closing()
    }
}

impl SocketIoLink {
    /// Where the tasks of doors run.
    #[must_use]
    pub fn doors(&self) -> &Arc<DoorTasks> {
        &self.shared.door_tasks
    }

    /// Lets the session in: the packet that says so is the first to go out. `alias`: what it binds at once; `extended`: it gets the
    /// frames marked (ext).
    ///
    /// # Errors
    /// The alias is refused. Then nothing is let in: say so by [`SocketIoLink::refuse`].
    pub fn enter(&self, alias: Option<&Alias>, extended: bool) -> Result<(), Refusal> {
        self.shared.act(|hub, now, fx| {
            if let Some(alias) = alias {
                hub.bind_at_opening(now, self.id, alias, fx)?;
            }
            if extended {
                hub.extend(self.id);
            }
            // Under the lock that what is owed is pushed under: nothing can come before it.
            self.outbox.add(&mut Vec::new(), packets::connect);
            // Or it would count as touched, and nothing that comes later would wake a poll.
            self.outbox.flush(&mut Vec::new());
            Ok(())
        })
    }

    /// Says that the session is not let in, and why, as its first and last packet.
    pub fn refuse(&self, refusal: Refusal) {
        let (link, reply) = (self.id, Reply::Error { refusal, num: None });
        self.shared.act(|_, _, fx| fx.list.push(Effect::Reply { link, reply }));
    }

    /// Whether it may read what has come, by [`Turnstile::may_read`]. Doors need not ask.
    ///
    /// [`Turnstile::may_read`]: crate::runtime::turnstile::Turnstile::may_read
    pub fn may_read(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        self.shared.may_read(ticket, waker)
    }

    /// Waits until the session may hand over a batch; each is one batch's right.
    pub async fn ready(&self) {
        self.outbox.ready().await;
    }

    /// Hands over a batch, as [`TcpLink::submit`] does.
    pub fn submit(&self, frames: Vec<Request>, at: u64) {
        self.shared.submit(Input::Frames { link: self.id, frames, at });
    }

    /// Its peer is there: it has pinged.
    pub fn heard(&self) {
        self.shared.submit(Input::Heard(self.id));
    }

    /// Adds an Engine.IO packet behind what waits.
    pub fn add(&self, packet: &[u8]) {
        self.outbox.add(&mut Vec::new(), |out| out.extend_from_slice(packet));
        self.outbox.flush(&mut Vec::new());
    }

    /// From now on everything goes by this WebSocket, beginning with what waits.
    pub fn attach(&self, stream: Socket) {
        self.outbox.attach(stream);
    }

    /// Its client has left: the hub forgets it, once the frames handed over are acted on.
    pub fn part(&self) {
        self.shared.submit(Input::Gone(self.id));
    }

    /// It is over: the hub forgets it, and what waits goes out if there is a socket to write it to.
    pub fn leave(&self) {
        self.outbox.close();
        self.outbox.flush(&mut Vec::new());
        self.part();
    }

    /// What waits for it.
    #[must_use]
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Whether the hub has ended it.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.outbox.is_closing()
    }
}

impl Drop for SocketIoLink {
    fn drop(&mut self) {
        self.shared.submit(Input::Gone(self.id));
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.shared.submit(Input::Gone(self.id));
    }
}

impl RoomLink {
    /// Where the tasks of doors run.
    #[must_use]
    pub fn doors(&self) -> &Arc<DoorTasks> {
        &self.shared.door_tasks
    }

    /// Waits until the member may hand over a batch, and takes that right. Also when the hub has ended it.
    pub async fn ready(&self) {
        self.outbox.credit.take().await;
    }

    /// Hands over what the member sent, in order, after [`RoomLink::ready`]; without frames only a sign of life.
    pub fn submit(&self, frames: Vec<RoomFrame>, pong: bool) {
        self.shared.submit(Input::RoomFrames { link: self.id, frames, pong });
    }

    /// Its peer has sent a part of a frame. To be called no more often than [`crate::limits::HEARD_EVERY`].
    pub fn heard(&self) {
        self.shared.submit(Input::Heard(self.id));
    }

    /// Hands over a door's result, after [`RoomLink::ready`].
    pub fn submit_answer(&self, answer: Request) {
        self.shared.submit(Input::Frames { link: self.id, frames: vec![answer], at: clock::mono_us() });
    }

    /// Sends whole control frames, ahead of what waits.
    pub fn answer(&self, control: Vec<u8>) {
        self.outbox.answer(control);
    }

    /// Ends the link with that close code, behind what waits.
    pub fn close(&self, code: u16) {
        if self.outbox.close(code, false) {
            self.outbox.flush();
        }
    }

    /// Ends the link with these control frames, behind what waits: the answer to the peer's close.
    pub fn finish(&self, control: Vec<u8>) {
        self.outbox.finish(control);
    }

    /// It is no member any longer, though its socket may still be open for its last frames.
    pub fn leave(&self) {
        self.shared.submit(Input::Gone(self.id));
    }

    /// Whether it has been ended.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.outbox.is_closing()
    }
}

impl Drop for RoomLink {
    fn drop(&mut self) {
        // What still waits for it must not keep the socket open.
        self.outbox.cut();
        self.shared.submit(Input::Gone(self.id));
    }
}

impl PictureStream {
    /// Waits for the next picture; `None`: the hub has ended the stream.
    pub async fn next(&self) -> Option<RoomFrame> {
        self.slot.next().await
    }
}

impl Drop for PictureStream {
    fn drop(&mut self) {
        self.shared.submit(Input::Gone(self.id));
    }
}
