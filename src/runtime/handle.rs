//! All that a front-end can ask: open a link, hand over frames, wait for an answer, look at the counts.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_std::net::TcpStream;
use futures::channel::oneshot;

use crate::hub::links::Opening;
use crate::hub::status::{Counters, Load, Sizes};
use crate::hub::storage::ReportLine;
use crate::hub::{Hub, Input, Options};
use crate::limits::{DISK_HOLD_MAX, Limits};
use crate::names::{Alias, LinkId, Mid, Topic, Transport};
use crate::protocol::frame::{Reply, Request};
use crate::protocol::refusal::{Code, Language, Refusal};
use crate::runtime::answer::Answer;
use crate::runtime::clock::{self, Clock};
use crate::runtime::driver::{self, Core, Outlet, Shared, drive};
use crate::runtime::outbox::{Bounds, Outbox};
use crate::store::StoreHandle;
use crate::token::Claims;

/// The hub, for those who talk to it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
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

/// A TCP link; dropping it tells the hub that it is gone.
pub struct TcpLink {
    shared: Arc<Shared>,
    id: LinkId,
    outbox: Arc<Outbox>,
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
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox::new()
    }
}

impl Handle {
    /// Starts the hub's task.
    #[must_use]
    pub fn start(hub: Hub, limits: &Limits, language: Language, clock: Clock, store: StoreHandle, inbox: &Inbox) -> Handle {
        let (drained, reads) = (inbox.clone(), inbox.clone());
        let bounds = Arc::new(Bounds {
            per_link: AtomicUsize::new(limits.outbox),
            total: AtomicUsize::new(limits.outbox_total),
            held: AtomicUsize::new(0),
            stale: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            drained: Box::new(move |link| drained.submit(Input::Drained(link))),
            reads: Box::new(move |link| reads.submit(Input::Heard(link))),
        });
        let shared = Arc::new(Shared::new(Core::new(hub, language, store), clock, bounds));
        let shared = Arc::clone(inbox.0.get_or_init(|| shared));
        async_std::task::spawn(drive(Arc::clone(&shared)));
        Handle { shared }
    }

    /// From now on the hub decides by `options`, the outboxes keep its bounds, and errors read in `language`.
    pub fn reconfigure(&self, options: Options, language: Language) {
        self.shared.bounds.reconfigure(options.limits.outbox, options.limits.outbox_total);
        self.shared.core().reconfigure(options, language);
    }

    /// A new TCP link.
    #[must_use]
    pub fn open_tcp(&self, stream: TcpStream, address: IpAddr) -> TcpLink {
        let now = self.shared.clock.now();
        let mut core = self.shared.core();
        let id = core.hub.open(now, Opening { transport: Transport::Tcp, address, claims: None });
        let outbox = Arc::new(Outbox::new(id, stream, Arc::clone(&self.shared.bounds)));
        core.connect(id, Outlet::Line(Arc::clone(&outbox)));
        drop(core);
        TcpLink { shared: Arc::clone(&self.shared), id, outbox }
    }

    /// One request over REST that came at `at` (monotonic, µs), from the frame to its answer; `unavailable` if the process ends before there is one. If the caller
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

    /// Recalls a message: how many deliveries ended, `None` if nothing was owed.
    #[must_use]
    pub fn recall(&self, mid: Mid) -> Option<usize> {
        self.shared.act(|hub, now, fx| hub.recall(now, mid, fx))
    }

    /// Waits until what was queued for the store so far is committed, at most a second.
    pub async fn settle(&self) {
        let answer = Arc::new(Answer::default());
        self.shared.core().barrier(Arc::clone(&answer));
        // A disk that is slow or dead is not waited for: what is there is shown.
        let _ = async_std::future::timeout(DISK_HOLD_MAX, answer.take()).await;
    }

    /// Who is still owed a message.
    #[must_use]
    pub fn waiting_for(&self, mid: Mid) -> Vec<ReportLine> {
        self.shared.core().hub.waiting_for(mid)
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

    /// What waits.
    #[must_use]
    pub fn load(&self) -> Load {
        self.shared.core().hub.load()
    }

    /// What has happened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.core().hub.counters().clone()
    }

    /// What all outboxes hold and have left out.
    #[must_use]
    pub fn outboxes(&self) -> OutboxCounts {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let bounds = &self.shared.bounds;
        OutboxCounts { held: read(&bounds.held), stale: read(&bounds.stale) as u64, dropped: read(&bounds.dropped) as u64 }
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

    /// How often the wall clock was stepped since the start.
    #[must_use]
    pub fn clock_steps(&self) -> u64 {
        self.shared.clock.steps()
    }

    /// Ends the links whose claims no longer hold.
    pub fn end_void(&self, is_void: impl Fn(&Claims) -> bool) {
        self.shared.act(|hub, now, fx| hub.end_void(now, is_void, fx));
    }

    /// Takes no more frames, waits until nothing waits for the disk, at most `within`; then cuts all links and closes the store.
    pub async fn finish(&self, within: Duration) {
        self.shared.ending.store(true, Ordering::Relaxed);
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

    /// Its socket, to read from.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.outbox.stream()
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

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.shared.submit(Input::Gone(self.id));
    }
}
