//! The hub's hot paths: values in, values out, no bytes, no disk.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark that can't go on has failed, and speaks")]

mod micro;

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;

use micro::Workload;
use porter::config::{Effective, Layers};
use porter::hub::effects::{Effect, Effects};
use porter::hub::links::Opening;
use porter::hub::storage::{Batch, Outcome};
use porter::hub::{Hub, Input, Now};
use porter::names::{LinkId, Mid, Transport};
use porter::protocol::decode;
use porter::protocol::frame::{Body, Mids, Reply, Request};
use porter::reload::hub_options;

/// Frames that a link hands over at a time.
const BATCH: u64 = 64;

fn main() -> ExitCode {
    micro::main(&[
        Workload { name: "direct", run: direct, size: 500_000 },
        Workload { name: "fanout-1000", run: fan_out, size: 1_000_000 },
        Workload { name: "enqueue", run: enqueue, size: 500_000 },
        Workload { name: "heartbeat", run: heartbeat, size: 2_000_000 },
        Workload { name: "connect", run: connect, size: 200_000 },
    ])
}

/// A hub and whoever carries out its effects, counting.
struct Scene {
    hub: Hub,
    now: Now,
    fx: Effects,
    batch: Option<Arc<Batch>>,
    /// Who was pushed what and has not acknowledged.
    pushed: Vec<(LinkId, Mid)>,
    published: u64,
    heartbeats: u64,
    stored: u64,
}

impl Scene {
    fn new() -> Scene {
        let config = Effective::new(&Layers::default()).unwrap().config;
        let hub = Hub::new(hub_options(&config), Mid::new(1)..Mid::new(1 << 40), true);
        let now = Now { mono: 1_000_000, service: 1_000, wall: 1_700_000_000_000 };
        Scene { hub, now, fx: Effects::default(), batch: None, pushed: Vec::new(), published: 0, heartbeats: 0, stored: 0 }
    }

    fn open(&mut self) -> LinkId {
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        self.hub.open(self.now, Opening { transport: Transport::Tcp, address, claims: None })
    }

    fn bound(&mut self, alias: &str) -> LinkId {
        let link = self.open();
        self.send(link, vec![frame(&format!(r#"{{"t":11,"alias":"{alias}"}}"#))]);
        link
    }

    /// A turn of one link's batch.
    fn send(&mut self, link: LinkId, frames: Vec<Request>) {
        self.input(Input::Frames { link, frames, at: self.now.mono });
        while self.hub.has_work() {
            self.hub.proceed(self.now, &mut self.fx);
            self.carry_out();
        }
    }

    fn input(&mut self, input: Input) {
        self.hub.handle(self.now, input, &mut self.fx);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in self.fx.list.drain(..) {
            match effect {
                Effect::Push { message, targets, .. } => {
                    self.pushed.extend(self.fx.targets[targets].iter().map(|target| (target.link, message.mid)));
                }
                Effect::Reply { reply: Reply::Published(..), .. } => self.published += 1,
                Effect::Reply { reply: Reply::Bound { .. }, .. } => self.heartbeats += 1,
                Effect::Commit(batch) => self.batch = Some(batch),
                _ => {}
            }
        }
        self.fx.clear();
    }

    /// Everybody acknowledges what was pushed, each link in one batch; the receivers stand in a row in `pushed`.
    fn acknowledge_all(&mut self) {
        let mut pushed = std::mem::take(&mut self.pushed);
        pushed.sort_unstable_by_key(|(link, mid)| (link.index, *mid));
        for of_link in pushed.chunk_by(|(one, _), (other, _)| one == other) {
            let frames = of_link.iter().map(|(_, mid)| acknowledgement(*mid)).collect();
            self.send(of_link[0].0, frames);
        }
        pushed.clear();
        self.pushed = pushed;
    }

    fn commit(&mut self) {
        self.hub.begin_batch(self.now, &mut self.fx);
        self.carry_out();
        while let Some(batch) = self.batch.take() {
            self.stored += batch.changes.len() as u64;
            let outcome = Outcome::Committed { refused: Vec::new(), storing: true };
            self.input(Input::Stored { number: batch.number, outcome });
            self.hub.begin_batch(self.now, &mut self.fx);
            self.carry_out();
        }
    }
}

fn frame(text: &str) -> Request {
    decode::request(text.as_bytes())
}

fn acknowledgement(mid: Mid) -> Request {
    Request { body: Body::Acknowledge { alias: None, mids: Mids::One(mid) }, num: None, token: None }
}

/// Clones of one publish, as many as a batch has.
fn publishes(to: &str) -> Vec<Request> {
    vec![frame(&format!(r#"{{"t":6,{to},"msg":"a message of some length: ring, open or a notice","num":17}}"#)); BATCH as usize]
}

/// Publish, push, acknowledgement, `-6`.
fn direct(size: u64) {
    let mut scene = Scene::new();
    for number in 0..BATCH {
        scene.bound(&format!("door-{number}"));
    }
    let publisher = scene.open();
    let to: Vec<Vec<Request>> =
        (0..BATCH).map(|number| publishes(&format!(r#""method":"publish_to_alias","alias":"door-{number}""#))).collect();
    for round in 0..size.div_ceil(BATCH) {
        scene.send(publisher, to[(round % BATCH) as usize].clone());
        scene.acknowledge_all();
    }
    assert_eq!(scene.published, size.div_ceil(BATCH) * BATCH);
}

/// A publish to 1,000 subscribers who acknowledge; an operation is a delivery.
fn fan_out(size: u64) {
    const SUBSCRIBERS: u64 = 1_000;
    let mut scene = Scene::new();
    for number in 0..SUBSCRIBERS {
        let link = scene.bound(&format!("door-{number}"));
        scene.send(link, vec![frame(r#"{"t":2,"topic":"news","num":1}"#)]);
        scene.commit();
    }
    let publisher = scene.open();
    let publish = publishes(r#""method":"publish","topic":"news""#);
    for _ in 0..size.div_ceil(SUBSCRIBERS) {
        scene.send(publisher, publish[..1].to_vec());
        assert_eq!(scene.pushed.len() as u64, SUBSCRIBERS);
        scene.acknowledge_all();
    }
    assert_eq!(scene.published, size.div_ceil(SUBSCRIBERS));
}

/// A publish to an alias that is away, as far as the rows of its transaction, and the answer when it is committed.
fn enqueue(size: u64) {
    const ALIASES: u64 = 1_000;
    let mut scene = Scene::new();
    let publisher = scene.open();
    let to: Vec<Vec<Request>> =
        (0..ALIASES).map(|number| publishes(&format!(r#""method":"publish_to_alias","alias":"door-{number}""#))).collect();
    for round in 0..size.div_ceil(BATCH) {
        scene.send(publisher, to[(round % ALIASES) as usize].clone());
        scene.commit();
    }
    assert_eq!(scene.published, size.div_ceil(BATCH) * BATCH);
    assert!(scene.stored >= scene.published);
}

fn heartbeat(size: u64) {
    let mut scene = Scene::new();
    let link = scene.bound("door-1");
    let frames = vec![frame(r#"{"t":1,"alias":"door-1"}"#); BATCH as usize];
    for _ in 0..size.div_ceil(BATCH) {
        scene.send(link, frames.clone());
    }
    assert_eq!(scene.heartbeats, 1 + size.div_ceil(BATCH) * BATCH);
}

/// A controller that comes, binds and goes; 1,000 are there.
fn connect(size: u64) {
    const ALIASES: usize = 1_000;
    let mut scene = Scene::new();
    let frames: Vec<Request> = (0..ALIASES).map(|number| frame(&format!(r#"{{"t":11,"alias":"door-{number}"}}"#))).collect();
    let mut links = Vec::new();
    for round in 0..size as usize {
        let link = scene.open();
        scene.send(link, vec![frames[round % ALIASES].clone()]);
        links.push(link);
        if links.len() == ALIASES {
            links.drain(..).for_each(|link| scene.input(Input::Gone(link)));
            scene.commit();
        }
    }
    assert_eq!(scene.heartbeats, size);
}
