//! A hub with a clock that is told, a store that answers when told to, and effects as short texts, one a line of a table.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::hub::access::Openers;
use crate::hub::effects::{Effect, Effects};
use crate::hub::links::Opening;
use crate::hub::owing::Walk;
use crate::hub::restore::Restorer;
use crate::hub::storage::{AliasId, Batch, Change, Outcome, PageRequest, Trouble};
use crate::hub::tests::model::Model;
use crate::hub::{Hub, Input, Now, Options};
use crate::limits::Limits;
use crate::names::{Alias, Few, LinkId, Mid, RoomName, Topic, Transport, UserName};
use crate::protocol::frame::{BindKind, Body, DoorAnswer, DoorFrame, DoorKind, Mids, Num, Publish, Receivers, Reply, Request};
use crate::protocol::refusal::{Code, Refusal};
use crate::protocol::room::RoomFrame;
use crate::token::Claims;

/// Service time and wall clock at the start of every scene, ms.
pub(in crate::hub) const SERVICE: u64 = 1_000_000;
pub(in crate::hub) const WALL: u64 = 1_700_000_000_000;
/// Monotonic time at the start, µs.
pub(in crate::hub) const MONO: u64 = 5_000_000;

/// The bounds as configured by default.
pub(in crate::hub) fn limits() -> Limits {
    Limits {
        frame: 64 << 10,
        outbox: 256 << 10,
        outbox_total: 256 << 20,
        deliveries_per_alias: 10_000,
        deliveries: 1_000_000,
        bodies: 1 << 30,
        aliases: 100_000,
        topics_per_alias: 1_000,
        alias_life: Duration::from_secs(180 * 24 * 3_600),
        publish_rate: 0,
        connections: 20_000,
        connections_per_address: 1_000,
        tcp_idle: Duration::from_secs(180),
    }
}

/// A hub, its clock and its store.
pub(in crate::hub) struct Scene {
    pub hub: Hub,
    pub now: Now,
    fx: Effects,
    /// What is committed.
    pub model: Model,
    /// The transaction that waits for its outcome.
    pub batch: Option<Arc<Batch>>,
    /// Pages that wait for their bodies, oldest first.
    pub reads: Vec<PageRequest>,
    /// Where texts show a sender's own number of a link.
    opened: u8,
}

impl Scene {
    pub(in crate::hub) fn new() -> Scene {
        Scene::with(limits())
    }

    pub(in crate::hub) fn with(limits: Limits) -> Scene {
        let hub = Hub::new(Options { limits, openers: Openers::default() }, Mid::new(1)..Mid::new(1 << 40), true);
        Scene::around(hub)
    }

    pub(in crate::hub) fn around(hub: Hub) -> Scene {
        let mut scene = Scene::bare(hub);
        // The first tick queues the hourly housekeeping: it is no test's business.
        scene.tick();
        scene.commit();
        scene
    }

    /// A hub that does not know what is stored, and whose store can't be written.
    pub(in crate::hub) fn late() -> Scene {
        let mids = Mid::new(1 << 40)..Mid::new(1 << 41);
        let mut hub = Hub::new(Options { limits: limits(), openers: Openers::default() }, mids, false);
        hub.begin_uninformed();
        let mut scene = Scene::bare(hub);
        scene.tick();
        scene.fail(Trouble::Disk);
        scene
    }

    fn bare(hub: Hub) -> Scene {
        let now = Now { mono: MONO, service: SERVICE, wall: WALL };
        Scene { hub, now, fx: Effects::default(), model: Model::default(), batch: None, reads: Vec::new(), opened: 0 }
    }

    /// A new hub that knows what is committed, as after a crash.
    pub(in crate::hub) fn crashed(&self) -> Scene {
        let first = Mid::new(1 << 41);
        let options = Options { limits: limits(), openers: Openers::default() };
        let mut hub = Hub::new(options, first..Mid::new(1 << 42), true);
        self.model.restore(&mut Restorer::new(&mut hub), first);
        let mut scene = Scene::around(hub);
        scene.model = self.model.clone();
        scene
    }

    /// A new TCP link, each from an address of its own.
    pub(in crate::hub) fn open(&mut self) -> LinkId {
        self.open_over(Transport::Tcp, None)
    }

    pub(in crate::hub) fn open_over(&mut self, transport: Transport, claims: Option<Arc<Claims>>) -> LinkId {
        self.opened = self.opened.wrapping_add(1);
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.opened));
        self.hub.open(self.now, Opening { transport, address, claims })
    }

    /// A TCP session of `alias`; what binding does is another test's business.
    pub(in crate::hub) fn session(&mut self, alias: &str) -> LinkId {
        let link = self.open();
        self.send(link, [heartbeat(alias)]);
        link
    }

    /// A Socket.IO session of `alias`.
    pub(in crate::hub) fn phone(&mut self, alias: &str) -> LinkId {
        let link = self.open_over(Transport::SocketIo, None);
        self.send(link, [heartbeat(alias)]);
        link
    }

    /// An alias with no session that subscribes to `topic`, committed.
    pub(in crate::hub) fn subscriber(&mut self, alias: &str, topic: &str) {
        let link = self.session(alias);
        self.send(link, [register(&[topic])]);
        self.commit();
        self.gone(link);
        self.commit();
    }

    pub(in crate::hub) fn pass(&mut self, time: Duration) {
        self.now.mono += time.as_micros() as u64;
        self.now.service += time.as_millis() as u64;
        self.now.wall += time.as_millis() as u64;
    }

    /// Time passes and what is due is done.
    pub(in crate::hub) fn wait(&mut self, time: Duration) -> Vec<String> {
        self.pass(time);
        self.tick()
    }

    pub(in crate::hub) fn ms(&mut self, ms: u64) -> Vec<String> {
        self.wait(Duration::from_millis(ms))
    }

    /// A turn in which a link hands over a batch.
    pub(in crate::hub) fn send<const N: usize>(&mut self, link: LinkId, frames: [Request; N]) -> Vec<String> {
        self.turn(Input::Frames { link, frames: frames.into(), at: self.now.mono })
    }

    pub(in crate::hub) fn gone(&mut self, link: LinkId) -> Vec<String> {
        self.turn(Input::Gone(link))
    }

    /// A whole turn: the input, all that was cut into slices, the next transaction.
    pub(in crate::hub) fn turn(&mut self, input: Input) -> Vec<String> {
        let mut effects = self.only(input);
        effects.extend(self.rest());
        effects
    }

    /// The input alone: what is cut into slices stays.
    pub(in crate::hub) fn only(&mut self, input: Input) -> Vec<String> {
        self.hub.handle(self.now, input, &mut self.fx);
        self.take()
    }

    /// One slice of what was cut.
    pub(in crate::hub) fn slice(&mut self) -> Vec<String> {
        self.hub.proceed(self.now, &mut self.fx);
        self.take()
    }

    /// All slices, then the next transaction.
    pub(in crate::hub) fn rest(&mut self) -> Vec<String> {
        while self.hub.has_work() {
            self.hub.proceed(self.now, &mut self.fx);
        }
        self.hub.begin_batch(self.now, &mut self.fx);
        self.take()
    }

    pub(in crate::hub) fn tick(&mut self) -> Vec<String> {
        self.hub.tick(self.now, &mut self.fx);
        let mut effects = self.take();
        effects.extend(self.rest());
        effects
    }

    /// A direct call on the hub, as a front-end makes.
    pub(in crate::hub) fn call<T>(&mut self, call: impl FnOnce(&mut Hub, Now, &mut Effects) -> T) -> (T, Vec<String>) {
        let result = call(&mut self.hub, self.now, &mut self.fx);
        let mut effects = self.take();
        effects.extend(self.rest());
        (result, effects)
    }

    /// A recall to its end, an alias at a time: what came of it, and all effects.
    pub(in crate::hub) fn recall(&mut self, mid: u64) -> (Result<usize, Refusal>, Vec<String>) {
        let mut walk = Walk::in_slices_of(Mid::new(mid), 1);
        let ended = loop {
            if let Some(ended) = self.hub.recall(self.now, &mut walk, &mut self.fx) {
                break ended;
            }
        };
        let mut effects = self.take();
        effects.extend(self.rest());
        (ended, effects)
    }

    /// The transaction in flight is on disk.
    pub(in crate::hub) fn commit(&mut self) -> Vec<String> {
        self.outcome(Outcome::Committed { refused: Vec::new(), storing: true })
    }

    pub(in crate::hub) fn fail(&mut self, trouble: Trouble) -> Vec<String> {
        self.outcome(Outcome::Failed(trouble))
    }

    pub(in crate::hub) fn outcome(&mut self, outcome: Outcome) -> Vec<String> {
        let Some(batch) = self.batch.take() else { return Vec::new() };
        if let Outcome::Committed { refused, .. } = &outcome {
            let mut kept = Batch::clone(&batch);
            let mut index = 0;
            kept.changes.retain(|_| {
                index += 1;
                !refused.contains(&(index - 1))
            });
            self.model.commit(&kept);
        }
        self.turn(Input::Stored { number: batch.number, outcome })
    }

    /// Commits until nothing waits for the disk.
    pub(in crate::hub) fn settle(&mut self) -> Vec<String> {
        let mut effects = self.rest();
        while self.batch.is_some() {
            effects.extend(self.commit());
        }
        effects
    }

    /// The oldest page asked for comes.
    pub(in crate::hub) fn page(&mut self) -> Vec<String> {
        let request = self.reads.remove(0);
        let messages = Ok(self.model.read(&request));
        self.turn(Input::Page { ticket: request.ticket, messages })
    }

    /// The oldest page asked for can't be read.
    pub(in crate::hub) fn no_page(&mut self) -> Vec<String> {
        let request = self.reads.remove(0);
        self.turn(Input::Page { ticket: request.ticket, messages: Err(Trouble::Disk) })
    }

    /// The effects so far as texts.
    fn take(&mut self) -> Vec<String> {
        let mut fx = std::mem::take(&mut self.fx);
        let mut texts = Vec::new();
        for effect in fx.list.drain(..) {
            texts.extend(match effect {
                Effect::RoomSend { frame, targets } => Some(room_text(&frame, &fx.members[targets])),
                // Hourly, and no test's business.
                Effect::SweepPictures(_) => None,
                effect => Some(self.text(effect, &fx.targets, &fx.doors)),
            });
        }
        fx.clear();
        self.fx = fx;
        texts
    }

    fn text(&mut self, effect: Effect, targets: &[crate::hub::effects::Target], doors: &[crate::hub::effects::DoorTarget]) -> String {
        match effect {
            Effect::Reply { link, reply } => format!("{}: {}", link.index, reply_text(&reply)),
            Effect::Notice { link, reply } => format!("{}? {}", link.index, reply_text(&reply)),
            Effect::Push { message, targets: range, live_only } => {
                let to: Vec<String> = targets[range]
                    .iter()
                    .map(|target| {
                        let topic = target.topic.map(|topic| format!("@{topic}")).unwrap_or_default();
                        format!("{}{topic}{}", target.link.index, if target.dup { "dup" } else { "" })
                    })
                    .collect();
                format!("push{} {} to {}", if live_only { " live" } else { "" }, message.mid, to.join(" "))
            }
            Effect::Relay { frame, targets: range, .. } => {
                let to: Vec<String> =
                    doors[range].iter().map(|door| format!("{}{}", door.link.index, if door.stamped { "ts" } else { "" })).collect();
                format!("relay {:?} to {}", frame.kind, to.join(" "))
            }
            Effect::RoomPing(link) => format!("ping {}", link.index),
            Effect::KeepPicture { id, picture, .. } => format!("keep {id} {}", String::from_utf8_lossy(&picture.payload)),
            Effect::RoomSend { .. } | Effect::SweepPictures(_) => unreachable!("shown by the caller"),
            Effect::Ready(link) => format!("ready {}", link.index),
            Effect::Close(link, why) => format!("close {} {}", link.index, why.as_str()),
            Effect::Commit(batch) => {
                let changes: Vec<String> = batch.changes.iter().map(change_text).collect();
                assert!(self.batch.replace(batch).is_none(), "two transactions in flight");
                format!("commit {}", changes.join("; "))
            }
            Effect::Read(request) => {
                let text = format!("read {}", numbers(&request.mids));
                self.reads.push(request);
                text
            }
            Effect::TakeBlock => "take_block".to_owned(),
        }
    }
}

/// Text in quotes, binary without.
fn room_text(frame: &RoomFrame, members: &[LinkId]) -> String {
    let to: Vec<String> = members.iter().map(|link| link.index.to_string()).collect();
    let payload = String::from_utf8_lossy(&frame.payload);
    let payload = if frame.is_text { format!("'{payload}'") } else { payload.into_owned() };
    format!("{payload} to {}", to.join(" "))
}

pub(in crate::hub) fn numbers(mids: &[Mid]) -> String {
    mids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn reply_text(reply: &Reply) -> String {
    let with = |num: &Option<Num>| num.as_ref().map(|num| format!(" #{}", num.text)).unwrap_or_default();
    match reply {
        Reply::Error { refusal, num } => format!("{} {}", refusal.code.as_str(), refusal.field).trim_end().to_owned() + &with(num),
        Reply::Bound { kind, alias, ts, num } => {
            let ts = ts.map(|_| " ts").unwrap_or_default();
            format!(
                "{} {alias}{ts}",
                match kind {
                    BindKind::Heartbeat => "-1",
                    BindKind::Connect11 => "-11",
                    BindKind::Connect14 => "-14",
                }
            ) + &with(num)
        }
        Reply::Registered { num } => "-2".to_owned() + &with(num),
        Reply::Unregistered { num } => "-12".to_owned() + &with(num),
        Reply::Topics { num, topics } => format!("-3 {}", topics.iter().map(Topic::as_str).collect::<Vec<_>>().join(",")) + &with(num),
        Reply::Pulled { messages, more, num } => {
            let mids: Vec<Mid> = messages.iter().map(|message| message.mid).collect();
            format!("-4 [{}]{}", numbers(&mids), if *more { " more" } else { "" }) + &with(num)
        }
        Reply::Published(published, num) => {
            format!("-6 {} online={} stored={}", published.mid, published.online, published.stored) + &with(num)
        }
        Reply::ServerInfo { counts, num } => format!("-7 channels={}", counts.channels) + &with(num),
        Reply::DoorsReached { doors, num } => format!("-8 doors={doors}") + &with(num),
        Reply::DoorResult { ok, reason, doors, num, .. } => {
            let doors = doors.map(|doors| format!(" doors={doors}")).unwrap_or_default();
            format!("-8 {ok} {}{doors}", reason.as_deref().unwrap_or("-")) + &with(num)
        }
        Reply::Receipt { mid, alias, .. } => format!("13 {mid} {alias}"),
        Reply::EndedElsewhere { mid } => format!("15 {mid}"),
        Reply::Status { alias, topics, online, num } => {
            let topics = topics.iter().map(Topic::as_str).collect::<Vec<_>>().join(",");
            format!("status {alias} [{topics}] {}", if *online { "online" } else { "offline" }) + &with(num)
        }
        Reply::Done { num } => "done".to_owned() + &with(num),
    }
}

fn change_text(change: &Change) -> String {
    let id = |id: &AliasId| format!("a{}", id.0);
    match change {
        Change::SaveMessage { message, receivers } => {
            let to: Vec<String> = receivers.iter().map(|owed| id(&owed.alias)).collect();
            format!("save {} to {}", message.mid, to.join(" "))
        }
        Change::DeleteMessage(mid) => format!("delete {mid}"),
        Change::EndDelivery { mid, alias } => format!("end {mid} {}", id(alias)),
        Change::SaveAlias(record) => format!("alias {}={}", id(&record.id), record.name),
        Change::ForgetAlias(alias) => format!("forget {}", id(alias)),
        Change::Subscribe(alias, topic) => format!("subscribe {} {topic}", id(alias)),
        Change::Unsubscribe(alias, topic) => format!("unsubscribe {} {topic}", id(alias)),
        Change::SaveKey(key) => format!("key {} {} {}", key.publisher, key.id, key.mid),
        Change::ForgetKeysBefore { mid, .. } => format!("forget_keys {mid}"),
        Change::SaveReport { mid, line } => format!("report {mid} {} {}", line.alias, line.state.as_str()),
        Change::CloseReport { mid, state, .. } => format!("close_report {mid} {}", state.as_str()),
        Change::ForgetReports { .. } => "forget_reports".to_owned(),
        Change::LogDoor(entry) => format!("log {} {} doors={}", entry.id, entry.room, entry.doors),
        Change::SettleDoor { id, ok, reason } => format!("settle {id} {ok} {}", reason.as_deref().unwrap_or("-")),
        Change::ForgetDoorLogBefore(_) => "forget_door_log".to_owned(),
    }
}

pub(in crate::hub) fn alias(name: &str) -> Alias {
    Alias::new(name).unwrap()
}

pub(in crate::hub) fn topics(names: &[&str]) -> Few<Topic> {
    names.iter().map(|name| Topic::new(name).unwrap()).collect()
}

fn request(body: Body) -> Request {
    Request { body, num: None, token: None }
}

/// The same frame with a `num`.
pub(in crate::hub) fn num(number: &str, frame: Request) -> Request {
    Request { num: Some(Num::new(number)), ..frame }
}

fn bind(kind: BindKind, name: &str, extended: bool) -> Request {
    request(Body::Bind { kind, alias: (!name.is_empty()).then(|| alias(name)), extended })
}

/// A heartbeat; without an alias if the name is empty.
pub(in crate::hub) fn heartbeat(name: &str) -> Request {
    bind(BindKind::Heartbeat, name, false)
}

pub(in crate::hub) fn extended_heartbeat(name: &str) -> Request {
    bind(BindKind::Heartbeat, name, true)
}

pub(in crate::hub) fn connect(name: &str) -> Request {
    bind(BindKind::Connect11, name, false)
}

pub(in crate::hub) fn connect_14(name: &str) -> Request {
    bind(BindKind::Connect14, name, false)
}

pub(in crate::hub) fn register(names: &[&str]) -> Request {
    request(Body::Register { alias: None, topics: topics(names), info: None })
}

pub(in crate::hub) fn register_info(names: &[&str], info: &str) -> Request {
    request(Body::Register { alias: None, topics: topics(names), info: Some(info.into()) })
}

pub(in crate::hub) fn unregister(names: &[&str]) -> Request {
    request(Body::Unregister { alias: None, topics: topics(names) })
}

pub(in crate::hub) fn get_topic() -> Request {
    request(Body::GetTopic { alias: None })
}

/// A pull; without an alias if the name is empty.
pub(in crate::hub) fn pull(name: &str) -> Request {
    request(Body::Pull { alias: (!name.is_empty()).then(|| alias(name)) })
}

pub(in crate::hub) fn ack(mids: &[u64]) -> Request {
    ack_as("", mids)
}

pub(in crate::hub) fn ack_as(name: &str, mids: &[u64]) -> Request {
    let mids: Box<[Mid]> = mids.iter().map(|mid| Mid::new(*mid)).collect();
    let mids = if let [mid] = &*mids { Mids::One(*mid) } else { Mids::Many(mids) };
    request(Body::Acknowledge { alias: (!name.is_empty()).then(|| alias(name)), mids })
}

pub(in crate::hub) fn server_info() -> Request {
    request(Body::ServerInfo)
}

pub(in crate::hub) fn refused(code: Code, field: &'static str) -> Request {
    request(Body::Refused(Refusal::new(code, field)))
}

/// A publish to be made more of.
pub(in crate::hub) struct Draft(Publish);

fn draft(to: Receivers) -> Draft {
    Draft(Publish { to, msg: "\"body\"".into(), time_to_live: 432_000, id: None, receipt: false })
}

/// publish_to_alias.
pub(in crate::hub) fn to(names: &[&str]) -> Draft {
    draft(Receivers::Aliases(names.iter().map(|name| alias(name)).collect()))
}

/// publish.
pub(in crate::hub) fn on(names: &[&str]) -> Draft {
    draft(Receivers::Topics(topics(names)))
}

impl Draft {
    pub(in crate::hub) fn ttl(mut self, seconds: u32) -> Draft {
        self.0.time_to_live = seconds;
        self
    }

    pub(in crate::hub) fn id(mut self, id: &str) -> Draft {
        self.0.id = Some(id.into());
        self
    }

    pub(in crate::hub) fn receipt(mut self) -> Draft {
        self.0.receipt = true;
        self
    }

    pub(in crate::hub) fn body(mut self, bytes: usize) -> Draft {
        self.0.msg = "1".repeat(bytes).into();
        self
    }

    pub(in crate::hub) fn frame(self) -> Request {
        request(Body::Publish(Box::new(self.0)))
    }
}

pub(in crate::hub) fn door(kind: DoorKind, room: &str, user: &str) -> DoorFrame {
    let (room, user) = (RoomName::new(room).unwrap(), UserName::new(user).unwrap());
    DoorFrame { kind, room, user, extended: false, wait: false, text: "{}".into() }
}

pub(in crate::hub) fn frame_of(frame: DoorFrame) -> Request {
    request(Body::Door(Box::new(frame)))
}

pub(in crate::hub) fn answer(room: &str, user: &str, ok: bool, reason: Option<&str>) -> Request {
    let (room, user) = (RoomName::new(room).unwrap(), UserName::new(user).unwrap());
    request(Body::DoorAnswer(Box::new(DoorAnswer { room, user, ok, reason: reason.map(Into::into) })))
}
