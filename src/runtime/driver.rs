//! The hub's task: inputs in, effects out. Door lane first, then whoever came first, a bounded piece of work each turn.
//!
//! A turn: act on the inputs that have gathered, write each touched outbox once, hand the store its next transaction. Between
//! turns every task that is ready runs, so that what many links read at the same time is one turn's work (Design §1a).
//!
//! No door opens late. Links that open doors have a queue of their own ([`DoorTasks`]), and a turn comes in pieces between which their
//! tasks run. A batch with door frames is acted on where it was read, and what it has for doors is written there and then.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use futures::task::AtomicWaker;

use crate::hub::effects::{Closing, DoorTarget, Effect, Effects, Target};
use crate::hub::links::Opening;
use crate::hub::storage::Outcome;
use crate::hub::{Hub, Input, Now, Options};
use crate::limits::{DELIVERIES_PER_TURN_MAX, ROOM_BYTES_PER_TURN_MAX, ROOM_FRAMES_PER_TURN_MAX};
use crate::names::{LinkId, Mid};
use crate::protocol::frame::{DoorFrame, DoorKind, Message, Reply, has_door_frame};
use crate::protocol::refusal::{Code, Language, Refusal};
use crate::protocol::room::{RoomFrame, close_code};
use crate::protocol::websocket::{self, Opcode};
use crate::protocol::{encode, events};
use crate::runtime::answer::Answer;
use crate::runtime::clock::{self, Clock};
use crate::runtime::deadline::Deadline;
use crate::runtime::door_tasks::DoorTasks;
use crate::runtime::outbox::{Bounds, Outbox, Units};
use crate::runtime::packets;
use crate::runtime::picture_slot::PictureSlot;
use crate::runtime::pictures::DoorPictures;
use crate::runtime::pulse::PULSE;
use crate::runtime::reactor::Reactor;
use crate::runtime::room_outbox::RoomOutbox;
use crate::runtime::shared_frame::SharedFrame;
use crate::runtime::turnstile::{MayRead, Ticket, Turnstile};
use crate::store::{NotAsked, StoreHandle};

/// Inputs of the normal lane acted on before a turn ends.
const INPUTS_PER_TURN_MAX: usize = 256;
/// Outboxes written in one turn: a third of a millisecond, so that whoever is read between turns does not wait for longer.
const WRITES_PER_TURN_MAX: usize = 128;
/// What a piece of a turn takes, µs, and outboxes written in one: for so long a door waits.
const PIECE_TIME: u64 = 50;
const WRITES_PER_PIECE_MAX: usize = 8;
/// Of a turn's time, how much doors have before all others have as much, µs: a flood of door frames must leave turns to others.
const DOORS_TIME_PER_TURN: u64 = 1_000;
/// Inputs that a lane keeps room for while it is empty: what a storm made of it is given back.
const LANE_KEPT: usize = 4 * INPUTS_PER_TURN_MAX;
/// Places for touched outboxes that are kept while there are none.
const TOUCHED_KEPT: usize = 2 * DELIVERIES_PER_TURN_MAX;
/// Empty buffers kept for the next outboxes.
const SPARE_BUFFERS: usize = 64;
/// The exit code after a panic in the hub: the state may be wrong, the store is whole, a supervisor restarts.
const EXIT_BROKEN: i32 = 70;

/// What the driver's task and the front-ends share.
pub(super) struct Shared {
    pub core: Mutex<Core>,
    lanes: Mutex<Lanes>,
    wake: AtomicWaker,
    /// The door lane is not empty: looked at between pieces of a turn.
    door_waits: AtomicBool,
    /// The process is ending: frames are no longer taken.
    pub ending: AtomicBool,
    /// Turns begun: while the task lives, one follows each nudge.
    pub turns: AtomicU64,
    pub clock: Clock,
    pub bounds: Arc<Bounds>,
    /// What watches the sockets of the links that are no door's.
    pub reactor: Arc<Reactor>,
    /// Where those links wait to read.
    pub turnstile: Turnstile,
    /// The tasks of those that are.
    pub door_tasks: Arc<DoorTasks>,
    /// The pictures of the door log: looked at without the hub.
    pub pictures: Arc<DoorPictures>,
}

#[derive(Default)]
struct Lanes {
    door: VecDeque<Input>,
    normal: VecDeque<Input>,
    /// Frames of rooms, after all else: one batch a member at most.
    rooms: VecDeque<Input>,
    /// What is left of the time that doors have in a turn, µs.
    door_time: u64,
    /// A front-end's direct call had effects: outboxes are to be written and timers looked at.
    acted: bool,
}

impl Lanes {
    /// Takes from the time that doors have. False: none is left.
    fn spend_on_doors(&mut self, time: u64) -> bool {
        self.door_time = self.door_time.saturating_sub(time);
        self.door_time > 0
    }

    fn is_empty(&self) -> bool {
        self.door.is_empty() && self.normal.is_empty() && self.rooms.is_empty() && !self.acted
    }
}

/// The hub and what its effects need. One task turns it; a front-end may look into it between turns.
pub(super) struct Core {
    pub hub: Hub,
    fx: Effects,
    outlets: Outlets,
    /// In the order in which they were touched. Perhaps twice: what is written already is passed over.
    touched: VecDeque<Arc<Outbox>>,
    /// So many of them, the first ones, were left over by a turn: they go before what would touch more. Those that doors touch
    /// meanwhile do not count, or a flood of door frames would keep all others waiting for ever.
    behind: usize,
    /// Those with door frames that are not written yet, or with answers to such.
    doors: Vec<Arc<Outbox>>,
    /// What is acted on is a batch with door frames: its answers are written with what it has for doors.
    acts_for_door: bool,
    congested: Vec<(LinkId, Mid)>,
    /// Of rooms, likewise.
    touched_rooms: VecDeque<Arc<RoomOutbox>>,
    /// Of rooms, those with door frames that are not written yet.
    door_rooms: Vec<Arc<RoomOutbox>>,
    /// Members of rooms whose outbox is full now.
    full: Vec<LinkId>,
    /// What the frames of rooms came to in this turn, over all who get them.
    room_bytes: usize,
    bounds: Arc<Bounds>,
    push: encode::Push,
    spare: Vec<Vec<u8>>,
    language: Language,
    /// The pictures of the door log.
    pictures: Arc<DoorPictures>,
    /// Taken out when the process ends.
    pub store: Option<StoreHandle>,
    /// The wall time that the batch in flight carries, ms.
    committing: u64,
    /// Who waits until the changes up to a count are committed.
    barriers: Vec<(u64, Arc<Answer>)>,
}

/// Where what the hub says to a link goes.
pub(super) enum Outlet {
    /// A TCP link or a Socket.IO session.
    Outbox(Arc<Outbox>),
    /// A REST request.
    Answer(Arc<Answer>),
    /// A member of a WebSocket room.
    Room(Arc<RoomOutbox>),
    /// An HTTP stream of pictures.
    Pictures(Arc<PictureSlot>),
}

/// The outlets of all links, each with its link's generation, in the places that the hub gave the links.
#[derive(Default)]
struct Outlets(Vec<Option<(u32, Outlet)>>);

impl Outlets {
    fn connect(&mut self, link: LinkId, outlet: Outlet) {
        let index = link.index as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some((link.generation, outlet));
    }

    fn disconnect(&mut self, link: LinkId) -> Option<Outlet> {
        let place = self.0.get_mut(link.index as usize)?;
        place.take_if(|(generation, _)| *generation == link.generation).map(|(_, outlet)| outlet)
    }

    fn of(&self, link: LinkId) -> Option<&Outlet> {
        let (generation, outlet) = self.0.get(link.index as usize)?.as_ref()?;
        (*generation == link.generation).then_some(outlet)
    }

    fn outbox(&self, link: LinkId) -> Option<&Arc<Outbox>> {
        match self.of(link)? {
            Outlet::Outbox(outbox) => Some(outbox),
            Outlet::Answer(_) | Outlet::Room(_) | Outlet::Pictures(_) => None,
        }
    }

    fn room(&self, link: LinkId) -> Option<&Arc<RoomOutbox>> {
        match self.of(link)? {
            Outlet::Room(outbox) => Some(outbox),
            _ => None,
        }
    }
}

impl Shared {
    pub(super) fn new(core: Core, clock: Clock, bounds: Arc<Bounds>, reactor: Arc<Reactor>, door_tasks: Arc<DoorTasks>) -> Shared {
        Shared {
            pictures: Arc::clone(&core.pictures),
            core: Mutex::new(core),
            lanes: Mutex::default(),
            wake: AtomicWaker::new(),
            door_waits: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            clock,
            bounds,
            reactor,
            turnstile: Turnstile::default(),
            door_tasks,
        }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an input. Bounded: a link has one batch there at most and a sign of life now and then, the store one batch and its pages.
    pub(super) fn submit(&self, input: Input) {
        if matches!(input, Input::Frames { .. } | Input::RoomFrames { .. }) && self.ending.load(Ordering::Relaxed) {
            return;
        }
        let is_door = matches!(&input, Input::Frames { frames, .. } if has_door_frame(frames));
        let mut lanes = self.lanes();
        let mut at_once = false;
        if is_door {
            lanes.door.push_back(input);
            self.door_waits.store(true, Ordering::Release);
            at_once = lanes.door_time > 0;
        } else if matches!(input, Input::RoomFrames { .. }) {
            lanes.rooms.push_back(input);
        } else {
            lanes.normal.push_back(input);
        }
        drop(lanes);
        if at_once {
            self.open_doors();
        }
        self.wake.wake();
    }

    /// Acts on the door lane without waiting for the turn that follows. If one is under way on another thread, it looks there itself.
    fn open_doors(&self) {
        let Ok(mut core) = self.core.try_lock() else { return };
        unless_broken(|| act_on_doors(self, &mut core, self.clock.now()));
        drop(core);
        // The turn writes what else it had for anybody, and looks at the timers.
        self.lanes().acted = true;
    }

    /// A new link whose outlet is there before the hub's first word to it.
    pub(super) fn open_with<T>(
        &self,
        opening: Opening,
        outlet: impl FnOnce(LinkId) -> Outlet,
        then: impl FnOnce(&mut Hub, Now, LinkId, &mut Effects) -> T,
    ) -> (LinkId, T) {
        let now = self.clock.now();
        let mut core = self.core();
        let id = core.hub.open(now, opening);
        let outlet = outlet(id);
        core.connect(id, outlet);
        let Core { hub, fx, .. } = &mut *core;
        let result = then(hub, now, id, fx);
        core.apply(now);
        drop(core);
        self.lanes().acted = true;
        self.wake.wake();
        (id, result)
    }

    /// Carries out effects that a front-end's direct call had, and lets the driver write.
    pub(super) fn act<T>(&self, call: impl FnOnce(&mut Hub, Now, &mut Effects) -> T) -> T {
        let now = self.clock.now();
        let mut core = self.core();
        let Core { hub, fx, .. } = &mut *core;
        let result = call(hub, now, fx);
        core.apply(now);
        drop(core);
        self.nudge();
        result
    }

    /// Has the task take a turn soon, also if there is nothing to do.
    pub(super) fn nudge(&self) {
        self.lanes().acted = true;
        self.wake.wake();
    }

    /// Whether a link that is no door's may read what has come, by [`Turnstile::may_read`].
    pub(super) fn may_read(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        let may = self.turnstile.may_read(ticket, waker);
        if may == MayRead::WaitsFirst {
            // Those behind it are let in by the turns that follow as long as anybody waits.
            self.nudge();
        }
        may == MayRead::Now
    }

    /// Inputs that wait for the hub: of the door lane, and of the other.
    pub(super) fn inputs(&self) -> (usize, usize) {
        let lanes = self.lanes();
        (lanes.door.len(), lanes.normal.len())
    }
}

/// Runs until the process ends.
pub(super) async fn drive(shared: Arc<Shared>) {
    let mut deadline = Deadline::default();
    loop {
        match unless_broken(|| turn(&shared)) {
            Turn::Again => async_std::task::yield_now().await,
            Turn::Idle { until } => wait(&shared, &mut deadline, until).await,
        }
    }
}

/// Watches the sockets of the links that are no door's until the process ends.
pub(super) async fn watch(shared: Arc<Shared>) {
    goes_on("links", shared.reactor.run(|| shared.door_tasks.run_ready()).await);
}

/// Runs the tasks of doors until the process ends.
pub(super) async fn run_doors(shared: Arc<Shared>) {
    goes_on("doors", shared.door_tasks.run().await);
}

/// Without it nothing is read any more.
fn goes_on(what: &str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        log::error!("{what}_broken error=\"{error}\" action=exit code={EXIT_BROKEN}");
        exit_broken();
    }
}

/// Lets the hub act. A panic in it ends the process.
fn unless_broken<T>(act: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
        log::error!("hub_broken action=exit code={EXIT_BROKEN}");
        exit_broken();
    })
}

/// Ends the process for the supervisor to start it anew: guessing on would be worse, and what is stored is whole.
fn exit_broken() -> ! {
    log::logger().flush();
    std::process::exit(EXIT_BROKEN)
}

enum Turn {
    /// There is more to do at once.
    Again,
    /// Nothing to do before that time, monotonic µs, unless an input comes.
    Idle { until: u64 },
}

fn turn(shared: &Shared) -> Turn {
    shared.turns.fetch_add(1, Ordering::Relaxed);
    PULSE.beat(clock::mono_us());
    shared.door_tasks.begin_turn();
    // What was done meanwhile by direct calls is written by this turn.
    {
        let mut lanes = shared.lanes();
        lanes.acted = false;
        lanes.door_time = DOORS_TIME_PER_TURN;
    }
    piece(shared, |core, now| act_on_doors(shared, core, now));
    let mut left = Left { inputs: INPUTS_PER_TURN_MAX, deliveries: DELIVERIES_PER_TURN_MAX, time: DOORS_TIME_PER_TURN };
    while piece(shared, |core, now| core.behind == 0 && act_on_others(shared, core, now, &mut left)) {}
    piece(shared, |core, now| relay_rooms(shared, core, now));
    piece(shared, |core, now| {
        if core.behind == 0 {
            go_on(core, now, &shared.door_waits);
        }
    });
    piece(shared, |core, now| {
        let Core { hub, fx, .. } = core;
        if now.mono >= hub.next_tick() {
            hub.tick(now, fx);
        }
        hub.begin_batch(now, fx);
        core.apply(now);
        core.begin_to_write();
    });
    for _ in 0..WRITES_PER_TURN_MAX / WRITES_PER_PIECE_MAX {
        if !piece(shared, |core, _| core.flush(WRITES_PER_PIECE_MAX)) {
            break;
        }
    }
    // Between turns others read; async-io would look for them once in 200 tasks.
    shared.reactor.look_for_all(|| shared.door_tasks.run_ready());
    let some_wait_to_read = shared.turnstile.turn();
    let core = shared.core();
    if some_wait_to_read || core.has_to_write() || core.hub.has_work() || !shared.lanes().is_empty() {
        return Turn::Again;
    }
    Turn::Idle { until: core.hub.next_tick() }
}

/// A piece of a turn: the hub is held for it, and let go for the tasks of doors to run.
fn piece<T>(shared: &Shared, act: impl FnOnce(&mut Core, Now) -> T) -> T {
    let done = act(&mut shared.core(), shared.clock.now());
    shared.door_tasks.run_ready();
    done
}

/// Acts on the frames of rooms that have gathered, within the bounds of a turn; a door waits for one batch at most.
fn relay_rooms(shared: &Shared, core: &mut Core, now: Now) {
    core.room_bytes = 0;
    let mut frames = 0;
    if !core.touched_rooms.is_empty() {
        // Nothing more to rooms before what they have is written.
        return;
    }
    while frames < ROOM_FRAMES_PER_TURN_MAX && core.room_bytes < ROOM_BYTES_PER_TURN_MAX {
        let Some(input) = next_input(shared, |lanes| &mut lanes.rooms) else { return };
        if let Input::RoomFrames { frames: batch, .. } = &input {
            frames += batch.len().max(1);
        }
        core.handle(now, input);
        if shared.door_waits.load(Ordering::Acquire) {
            return;
        }
    }
}

/// Acts on the batches with door frames, in the time that this turn has for them; at least on one. What each has for doors, and its
/// answers, are written at once.
fn act_on_doors(shared: &Shared, core: &mut Core, now: Now) {
    let mut begin = clock::mono_us();
    while let Some(input) = next_input(shared, |lanes| &mut lanes.door) {
        core.acts_for_door = true;
        core.handle(now, input);
        core.acts_for_door = false;
        core.flush_doors();
        let end = clock::mono_us();
        if !shared.lanes().spend_on_doors(end - begin) {
            return;
        }
        begin = end;
    }
}

/// What a turn may still do of all else.
struct Left {
    inputs: usize,
    deliveries: usize,
    /// µs, while a door waits.
    time: u64,
}

/// Acts on what else has gathered, for about [`PIECE_TIME`]. True if there may be more for this turn: a door that waits ends it, but not
/// before all others had as much time as doors have. A flood of door frames must not keep them waiting.
fn act_on_others(shared: &Shared, core: &mut Core, now: Now, left: &mut Left) -> bool {
    let begin = clock::mono_us();
    loop {
        let Some(input) = next_input(shared, |lanes| &mut lanes.normal) else { return false };
        if let Input::Stored { outcome: Outcome::Committed { .. }, .. } = input {
            shared.clock.committed(core.committing);
        }
        left.inputs -= 1;
        left.deliveries = left.deliveries.saturating_sub(core.handle(now, input));
        if left.inputs == 0 || left.deliveries == 0 {
            return false;
        }
        let spent = clock::mono_us() - begin;
        if spent >= PIECE_TIME {
            left.time = left.time.saturating_sub(spent);
            return left.time > 0 || !shared.door_waits.load(Ordering::Acquire);
        }
    }
}

/// Goes on with work that was cut into slices: at least one, and as many deliveries as inputs may cause, so that neither
/// starves the other. A door waits for one slice at most.
fn go_on(core: &mut Core, now: Now, door_waits: &AtomicBool) {
    let mut deliveries = 0;
    while core.hub.has_work() && deliveries < DELIVERIES_PER_TURN_MAX {
        let Core { hub, fx, .. } = &mut *core;
        hub.proceed(now, fx);
        deliveries += core.apply(now);
        if door_waits.load(Ordering::Acquire) {
            return;
        }
    }
}

fn next_input(shared: &Shared, lane: impl Fn(&mut Lanes) -> &mut VecDeque<Input>) -> Option<Input> {
    let mut lanes = shared.lanes();
    let lane = lane(&mut lanes);
    let input = lane.pop_front();
    // Only where it is empty: a lane that fills just now would be copied for nothing.
    if input.is_none() {
        lane.shrink_to(LANE_KEPT);
    }
    shared.door_waits.store(!lanes.door.is_empty(), Ordering::Release);
    input
}

async fn wait(shared: &Shared, deadline: &mut Deadline, until: u64) {
    let mut first = true;
    poll_fn(|context| {
        shared.wake.register(context.waker());
        if !std::mem::take(&mut first) {
            return Poll::Ready(());
        }
        if !shared.lanes().is_empty() {
            return Poll::Ready(());
        }
        deadline.poll(context, until)
    })
    .await;
}

impl Core {
    pub(super) fn new(hub: Hub, language: Language, store: StoreHandle, pictures: Arc<DoorPictures>, bounds: Arc<Bounds>) -> Core {
        Core {
            hub,
            fx: Effects::default(),
            outlets: Outlets::default(),
            touched: VecDeque::new(),
            behind: 0,
            doors: Vec::new(),
            acts_for_door: false,
            congested: Vec::new(),
            touched_rooms: VecDeque::new(),
            door_rooms: Vec::new(),
            full: Vec::new(),
            room_bytes: 0,
            bounds,
            pictures,
            push: encode::Push::new(),
            spare: Vec::with_capacity(SPARE_BUFFERS),
            language,
            store: Some(store),
            committing: 0,
            barriers: Vec::new(),
        }
    }

    /// From now on the hub decides by `options`, and errors read in `language`.
    pub(super) fn reconfigure(&mut self, options: Options, language: Language) {
        self.hub.reconfigure(options);
        self.language = language;
    }

    /// A new link whose outlet needs no id.
    pub(super) fn open(&mut self, now: Now, opening: Opening, outlet: Outlet) -> LinkId {
        let id = self.hub.open(now, opening);
        self.connect(id, outlet);
        id
    }

    /// Gives a new link its outlet.
    pub(super) fn connect(&mut self, link: LinkId, outlet: Outlet) {
        self.outlets.connect(link, outlet);
    }

    /// Answers `answer` when what is queued for the store now is committed.
    pub(super) fn barrier(&mut self, answer: Arc<Answer>) {
        self.barriers.push((self.hub.queued_changes(), answer));
        self.release_barriers();
    }

    fn release_barriers(&mut self) {
        let hub = &self.hub;
        self.barriers.retain(|(count, answer)| {
            let waits = !hub.has_committed(*count);
            if !waits {
                answer.give(Reply::Registered { num: None });
            }
            waits
        });
    }

    /// Acts on one input. Returns how many deliveries it caused.
    fn handle(&mut self, now: Now, input: Input) -> usize {
        let gone = if let Input::Gone(link) = &input { Some(*link) } else { None };
        let stored = matches!(input, Input::Stored { .. });
        self.hub.handle(now, input, &mut self.fx);
        let deliveries = self.apply(now);
        if let Some(link) = gone {
            self.outlets.disconnect(link);
        }
        if stored && !self.barriers.is_empty() {
            self.release_barriers();
        }
        deliveries
    }

    /// Carries out all effects. Returns how many deliveries were among them, those of door frames included.
    fn apply(&mut self, now: Now) -> usize {
        let mut fx = std::mem::take(&mut self.fx);
        let deliveries = fx.targets.len() + fx.doors.len();
        for effect in fx.list.drain(..) {
            match effect {
                Effect::RoomSend { frame, targets } => self.send(&frame, &fx.members[targets]),
                effect => self.carry_out(effect, &fx.targets, &fx.doors),
            }
        }
        fx.clear();
        self.fx = fx;
        // Neither has effects of its own: what is read on comes from `proceed`.
        while let Some((link, from)) = self.congested.pop() {
            self.hub.handle(now, Input::Congested { link, from }, &mut self.fx);
            let has_room = self.outlets.outbox(link).is_some_and(|outbox| !outbox.congested());
            if has_room {
                self.hub.handle(now, Input::Drained(link), &mut self.fx);
            }
        }
        while let Some(link) = self.full.pop() {
            self.hub.handle(now, Input::RoomFull(link), &mut self.fx);
        }
        if !self.fx.list.is_empty() {
            return deliveries + self.apply(now);
        }
        deliveries
    }

    fn carry_out(&mut self, effect: Effect, targets: &[Target], doors: &[DoorTarget]) {
        match effect {
            Effect::Reply { link, reply } => self.reply(link, reply),
            Effect::Notice { link, reply } => self.notice(link, &reply),
            Effect::Push { message, targets: range, live_only } => self.push(&message, &targets[range], live_only),
            Effect::Relay { frame, targets: range, at, ts } => self.relay(&frame, &doors[range], at, ts),
            Effect::RoomSend { .. } => {}
            Effect::RoomPing(link) => {
                if let Some(outbox) = self.outlets.room(link)
                    && outbox.ping()
                {
                    self.touched_rooms.push_back(Arc::clone(outbox));
                }
            }
            Effect::KeepPicture { id, picture, service } => self.pictures.keep(id, picture, service),
            Effect::SweepPictures(service) => self.pictures.sweep(service),
            Effect::Ready(link) => match self.outlets.of(link) {
                Some(Outlet::Outbox(outbox)) => outbox.make_ready(),
                Some(Outlet::Room(outbox)) => outbox.credit.give(),
                Some(Outlet::Answer(_) | Outlet::Pictures(_)) | None => {}
            },
            Effect::Close(link, why) => self.close(link, why),
            Effect::Commit(batch) => {
                self.committing = batch.stamp.wall;
                self.ask_store(|store| store.commit(batch));
            }
            Effect::Read(request) => self.ask_store(|store| store.read(request)),
            Effect::TakeBlock => self.ask_store(StoreHandle::take_block),
        }
    }

    /// The hub keeps the store's bounds, so a question that is not taken means that a thread of the store is gone.
    fn ask_store(&self, ask: impl FnOnce(&StoreHandle) -> Result<(), NotAsked>) {
        let Some(store) = &self.store else { return };
        if let Err(why) = ask(store) {
            log::error!("store_gone reason=\"{why}\" action=exit code={EXIT_BROKEN}");
            exit_broken();
        }
    }

    fn reply(&mut self, link: LinkId, reply: Reply) {
        let Some(outlet) = self.outlets.of(link) else { return };
        match outlet {
            Outlet::Answer(answer) => answer.give(reply),
            // They ask nothing; a refusal comes with their end.
            Outlet::Room(_) | Outlet::Pictures(_) => {}
            Outlet::Outbox(outbox) => {
                let (spare, language) = (&mut self.spare, self.language);
                let untouched = match outbox.units() {
                    Units::Lines => outbox.add(spare, |line| encode::reply(&reply, language, line)),
                    Units::Packets => {
                        let mut untouched = false;
                        packets::reply(&reply, language, |write| untouched |= outbox.add(spare, write));
                        untouched
                    }
                };
                if self.acts_for_door {
                    if !self.doors.last().is_some_and(|last| Arc::ptr_eq(last, outbox)) {
                        self.doors.push(Arc::clone(outbox));
                    }
                } else if untouched {
                    self.touched.push_back(Arc::clone(outbox));
                }
            }
        }
    }

    fn notice(&mut self, link: LinkId, reply: &Reply) {
        let Some(outbox) = self.outlets.outbox(link) else { return };
        let language = self.language;
        let frame = |out: &mut Vec<u8>| encode::reply(reply, language, out);
        let offered = match (outbox.units(), events::of_reply(reply)) {
            (Units::Packets, Some((name, _))) => outbox.offer(&mut self.spare, |out| packets::event(name, frame, out)),
            _ => outbox.offer(&mut self.spare, frame),
        };
        match offered {
            Ok(true) => self.touched.push_back(Arc::clone(outbox)),
            Ok(false) => {}
            Err(_) => outbox.count_dropped(),
        }
    }

    fn push(&mut self, message: &Message, targets: &[Target], live_only: bool) {
        self.push.render(message);
        for target in targets {
            let Some(outbox) = self.outlets.outbox(target.link) else { continue };
            let topic = target.topic.and_then(|at| message.topics.get(usize::from(at)));
            let frame = |out: &mut Vec<u8>| self.push.write(&target.alias, topic, target.dup, out);
            let offered = match outbox.units() {
                Units::Lines => outbox.offer(&mut self.spare, frame),
                Units::Packets => outbox.offer(&mut self.spare, |out| packets::event(events::PUSH, frame, out)),
            };
            match offered {
                Ok(true) => self.touched.push_back(Arc::clone(outbox)),
                Ok(false) => {}
                Err(_) if live_only => outbox.count_dropped(),
                Err(refused) => {
                    if refused.first {
                        outbox.refuse();
                        self.congested.push((target.link, message.mid));
                    }
                }
            }
        }
    }

    fn relay(&mut self, frame: &DoorFrame, targets: &[DoorTarget], at: u64, ts: u64) {
        let opened_at = (frame.kind == DoorKind::Open).then_some(at);
        for target in targets {
            if let Some(outbox) = self.outlets.room(target.link) {
                if outbox.add_door(frame.text.as_bytes(), opened_at) {
                    self.door_rooms.push(Arc::clone(outbox));
                }
                continue;
            }
            let Some(outbox) = self.outlets.outbox(target.link).map(Arc::clone) else { continue };
            let mut unit = Vec::with_capacity(frame.text.len() + 48);
            let text = |out: &mut Vec<u8>| encode::door_frame(frame, target.stamped.then_some(ts), out);
            match outbox.units() {
                Units::Lines => {
                    text(&mut unit);
                    unit.push(b'\n');
                }
                Units::Packets => websocket::frame(Opcode::Text, &mut unit, |out| packets::event(events::DOOR, text, out)),
            }
            if outbox.add_door(unit, opened_at) {
                self.doors.push(outbox);
            }
        }
    }

    /// A frame of a room, to all who get it: made once.
    fn send(&mut self, frame: &RoomFrame, members: &[LinkId]) {
        let shared = SharedFrame::new(frame, members.len(), &self.bounds);
        self.room_bytes += frame.payload.len() * members.len();
        for link in members {
            match self.outlets.of(*link) {
                Some(Outlet::Room(outbox)) => {
                    let added = outbox.add(&shared);
                    if added.untouched {
                        self.touched_rooms.push_back(Arc::clone(outbox));
                    }
                    if added.full {
                        self.full.push(*link);
                    }
                }
                Some(Outlet::Pictures(slot)) => slot.put(frame.clone()),
                Some(Outlet::Outbox(_) | Outlet::Answer(_)) | None => {}
            }
        }
    }

    fn close(&mut self, link: LinkId, why: Closing) {
        match self.outlets.disconnect(link) {
            Some(Outlet::Outbox(outbox)) => {
                if why != Closing::Finished {
                    log::info!("link_closed link={link} reason={}", why.as_str());
                }
                if outbox.units() == Units::Packets {
                    outbox.add(&mut self.spare, packets::disconnect);
                }
                if outbox.close() {
                    self.touched.push_back(outbox);
                }
            }
            Some(Outlet::Answer(answer)) => {
                answer.give(Reply::Error { refusal: Refusal::new(Code::BadToken, "token"), num: None });
            }
            Some(Outlet::Room(outbox)) => {
                // What only the peer's own doing brings about is no news: anybody could fill the log with it.
                let level = if matches!(why, Closing::Busy | Closing::Dead) { log::Level::Debug } else { log::Level::Info };
                log::log!(level, "link_closed link={link} reason={}", why.as_str());
                match room_close_code(why) {
                    Some(code) => {
                        if outbox.close(code, why == Closing::Overloaded) {
                            self.touched_rooms.push_back(outbox);
                        }
                    }
                    None => outbox.cut(),
                }
            }
            Some(Outlet::Pictures(slot)) => slot.close(),
            None => {}
        }
    }

    /// Writes the door frames, wherever what else was touched stands. What waits for those links is behind them, and written too.
    fn flush_doors(&mut self) {
        for outbox in self.doors.drain(..) {
            outbox.flush(&mut self.spare);
        }
        for outbox in self.door_rooms.drain(..) {
            outbox.flush();
        }
    }

    /// All that is touched now goes before what the next turns touch.
    fn begin_to_write(&mut self) {
        if self.behind == 0 {
            self.behind = self.touched.len();
        }
    }

    /// Writes every touched outbox once, but no more than `most` of rooms and of all others: the rest goes first the next time. True if
    /// there is any.
    fn flush(&mut self, most: usize) -> bool {
        self.flush_doors();
        let written = self.touched.len().min(most);
        for outbox in self.touched.drain(..written) {
            outbox.flush_touched(&mut self.spare);
        }
        self.behind = self.behind.saturating_sub(written);
        if self.touched.is_empty() {
            self.touched.shrink_to(TOUCHED_KEPT);
        }
        let written = self.touched_rooms.len().min(most);
        for outbox in self.touched_rooms.drain(..written) {
            outbox.flush_touched();
        }
        if self.touched_rooms.is_empty() {
            self.touched_rooms.shrink_to(TOUCHED_KEPT);
        }
        self.has_to_write()
    }

    fn has_to_write(&self) -> bool {
        !self.touched.is_empty() || !self.touched_rooms.is_empty()
    }

    /// Cuts every link, and answers every request that has no answer: the process is ending.
    pub(super) fn cut_all(&mut self) {
        self.flush(usize::MAX);
        for (_, outlet) in self.outlets.0.iter().flatten() {
            match outlet {
                Outlet::Outbox(outbox) => outbox.go_away(),
                Outlet::Answer(answer) => answer.give(ending()),
                Outlet::Room(outbox) => {
                    outbox.close(close_code::SHUTDOWN, true);
                    outbox.flush();
                }
                Outlet::Pictures(slot) => slot.close(),
            }
        }
    }
}

/// What a member of a room is told as it is closed; `None`: it is not there to be told.
fn room_close_code(why: Closing) -> Option<u16> {
    match why {
        Closing::Replaced => Some(close_code::REPLACED),
        Closing::Busy => Some(close_code::BUSY),
        Closing::Overloaded => Some(close_code::OVERLOADED),
        Closing::BadToken => Some(close_code::FORBIDDEN),
        Closing::Idle | Closing::Unbound | Closing::TooLarge | Closing::Finished | Closing::Left | Closing::Dead => None,
    }
}

/// The answer to a request that finds the process ending: its outcome is unknown.
pub(super) fn ending() -> Reply {
    Reply::Error { refusal: Refusal::new(Code::Unavailable, ""), num: None }
}
