//! One measurement: a server of its own, what has to be there first, the work, and what it took.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::driver::Who;
use crate::fleet::{Aim, Bad, Fleet, Openings, Outcome, Plan};
use crate::jobs::{Figure, Job, Work};
use crate::machine::{self, Disturbance, Usage, Watch};
use crate::server::{By, Kind, Places, Server};

/// Connections that are opened at a time where that is not what is measured.
const AT_ONCE: usize = 64;
/// For a server to notice who has left, and to finish what it does behind its answers.
const SETTLE: Duration = Duration::from_millis(300);
/// Publishers that prepare what waits, and what each has without an answer.
const FILLERS: u32 = 4;
const FILLERS_OUTSTANDING: u32 = 256;
/// Between two openings; and what the publisher beside them has without an answer.
const OPENING_EVERY: Duration = Duration::from_millis(2);
const BESIDE_OUTSTANDING: u32 = 64;
/// A start that takes longer is bad.
const START_MAX: Duration = Duration::from_secs(60);

pub type Figures = BTreeMap<Figure, f64>;

/// What came out, and what others did meanwhile.
pub struct Measured {
    pub figures: Figures,
    pub disturbance: Disturbance,
}

/// Measures a job once on a server that is started for it.
pub fn measure(places: &Places, kind: Kind, job: &Job) -> Outcome<Measured> {
    let server = Server::start(places, kind, job.settings)?;
    let run = Run { places, server, by: job.by, operations: job.operations };
    match job.work {
        Work::Direct { publishers, outstanding, receivers } => run.direct(publishers, outstanding, receivers),
        Work::FanOut { outstanding, subscribers } => run.fan_out(outstanding, subscribers),
        Work::Announce { outstanding, listeners } => run.announce(outstanding, listeners),
        Work::Enqueue { publishers, outstanding, receivers, before } => run.enqueue(publishers, outstanding, receivers, before),
        Work::EnqueueTopic { outstanding, subscribers } => run.enqueue_topic(outstanding, subscribers),
        Work::Drain { receivers } => run.drain(receivers, job.operations, AT_ONCE),
        Work::Storm { waiting } => run.drain(job.operations as u32, job.operations * u64::from(waiting), job.operations as usize),
        Work::Heartbeat { clients, outstanding } => run.heartbeat(clients, outstanding),
        Work::Connect { at_once } => run.arrive(at_once as usize),
        Work::Idle => run.idle(),
        Work::Pictures { outstanding, viewers, stalled } => run.pictures(outstanding, viewers, stalled),
        Work::Echo { rooms } => run.echo(rooms),
        Work::Openings { subscribers } => run.openings(subscribers),
        Work::Push { clients } => run.push(clients),
        Work::Start { receivers } => run.start(receivers),
        Work::Rest => run.rest(),
    }
}

struct Run<'a> {
    places: &'a Places,
    server: Server,
    by: By,
    operations: u64,
}

/// What the server had used, and what others did, since the work began.
struct Stopwatch {
    pid: u32,
    before: Usage,
    watch: Watch,
    begin: Instant,
}

impl Stopwatch {
    fn begin(server: &Server) -> Outcome<Stopwatch> {
        let pid = server.pid();
        Ok(Stopwatch { pid, watch: Watch::begin(&[pid]), before: machine::usage(pid)?, begin: Instant::now() })
    }

    /// `units`: what the figures are counted in.
    fn end(self, fleet: &mut Fleet, units: u64, operations: u64) -> Outcome<Measured> {
        let seconds = self.begin.elapsed().as_secs_f64();
        let after = machine::usage(self.pid)?;
        let disturbance = self.watch.end();
        let mut figures = Figures::new();
        figures.insert(Figure::PerS, units as f64 / seconds);
        figures.insert(Figure::CpuUs, (after.cpu_s - self.before.cpu_s) * 1e6 / units as f64);
        figures.insert(Figure::WrittenBytes, (after.written - self.before.written) as f64 / operations as f64);
        figures.insert(Figure::ResidentMb, machine::memory_kb(self.pid, "VmRSS:")? as f64 / 1024.0);
        for (figure, percent) in [(Figure::P50Us, 50), (Figure::P99Us, 99)] {
            figures.extend(fleet.tally.percentile_us(percent).map(|time| (figure, time)));
        }
        Ok(Measured { figures, disturbance })
    }
}

impl Run<'_> {
    /// Connects `count` of a kind, numbered from 0.
    fn connect_all(&self, fleet: &mut Fleet, count: u32, who: fn(u32) -> Who) -> Outcome<()> {
        self.connect(fleet, (0..count).map(who), AT_ONCE)
    }

    fn connect(&self, fleet: &mut Fleet, who: impl Iterator<Item = Who>, at_once: usize) -> Outcome<()> {
        fleet.connect(self.server.address_for(self.by), who.map(|who| (who, self.server.driver(self.by, who))), at_once)
    }

    /// Carries out `plan` on a fleet that is connected; its unit is a delivery if `by_delivery`.
    fn timed(&self, mut fleet: Fleet, plan: &Plan, each: impl Fn(Who) -> u64, by_delivery: bool) -> Outcome<Measured> {
        let watch = Stopwatch::begin(&self.server)?;
        fleet.run(plan)?;
        let units = if by_delivery { plan.deliveries } else { plan.operations };
        let measured = watch.end(&mut fleet, units, plan.operations)?;
        fleet.check_each(each)?;
        Ok(measured)
    }

    fn direct(&self, publishers: u32, outstanding: u32, receivers: u32) -> Outcome<Measured> {
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, receivers, Who::Receiver)?;
        self.connect_all(&mut fleet, publishers, Who::Publisher)?;
        let plan = Plan { aim: Aim::Each(receivers), operations: self.operations, outstanding, deliveries: self.operations };
        self.timed(fleet, &plan, |who| share(self.operations, receivers, who.number()), false)
    }

    fn fan_out(&self, outstanding: u32, subscribers: u32) -> Outcome<Measured> {
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, subscribers, Who::Subscriber)?;
        self.connect_all(&mut fleet, 1, Who::Publisher)?;
        let deliveries = self.operations * u64::from(subscribers);
        let plan = Plan { aim: Aim::Topic, operations: self.operations, outstanding, deliveries };
        self.timed(fleet, &plan, |_| self.operations, true)
    }

    fn announce(&self, outstanding: u32, listeners: u32) -> Outcome<Measured> {
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, listeners, Who::Listener)?;
        self.connect_all(&mut fleet, 1, Who::Publisher)?;
        let deliveries = self.operations * u64::from(listeners);
        let plan = Plan { aim: Aim::Announcements, operations: self.operations, outstanding, deliveries };
        self.timed(fleet, &plan, |_| self.operations, true)
    }

    fn enqueue(&self, publishers: u32, outstanding: u32, receivers: u32, before: u64) -> Outcome<Measured> {
        self.introduce(receivers)?;
        self.fill(before, receivers)?;
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, publishers, Who::Publisher)?;
        let plan = Plan { aim: Aim::Each(receivers), operations: self.operations, outstanding, deliveries: 0 };
        self.timed(fleet, &plan, |_| 0, false)
    }

    fn enqueue_topic(&self, outstanding: u32, subscribers: u32) -> Outcome<Measured> {
        self.come_and_go(subscribers, Who::LastingSubscriber)?;
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, 1, Who::Publisher)?;
        let plan = Plan { aim: Aim::Topic, operations: self.operations, outstanding, deliveries: 0 };
        let watch = Stopwatch::begin(&self.server)?;
        fleet.run(&plan)?;
        watch.end(&mut fleet, self.operations * u64::from(subscribers), self.operations)
    }

    fn drain(&self, receivers: u32, messages: u64, at_once: usize) -> Outcome<Measured> {
        self.introduce(receivers)?;
        self.fill(messages, receivers)?;
        std::thread::sleep(SETTLE);
        let mut fleet = Fleet::new()?;
        let watch = Stopwatch::begin(&self.server)?;
        self.connect(&mut fleet, (0..receivers).map(Who::Lasting), at_once)?;
        fleet.await_deliveries(messages)?;
        let measured = watch.end(&mut fleet, messages, messages)?;
        fleet.check_each(|who| share(messages, receivers, who.number()))?;
        Ok(measured)
    }

    fn heartbeat(&self, clients: u32, outstanding: u32) -> Outcome<Measured> {
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, clients, Who::Present)?;
        let plan = Plan { aim: Aim::Ping, operations: self.operations, outstanding, deliveries: 0 };
        self.timed(fleet, &plan, |_| 0, false)
    }

    fn arrive(&self, at_once: usize) -> Outcome<Measured> {
        let mut fleet = Fleet::new()?;
        let watch = Stopwatch::begin(&self.server)?;
        self.connect(&mut fleet, (0..self.operations as u32).map(Who::Present), at_once)?;
        watch.end(&mut fleet, self.operations, self.operations)
    }

    fn idle(&self) -> Outcome<Measured> {
        let pid = self.server.pid();
        let (before, watch) = (machine::memory_kb(pid, "VmRSS:")?, Watch::begin(&[pid]));
        // A few at a time: what all hold is meant, not what ten thousand heartbeats in one moment leave behind.
        let mut fleets = Vec::new();
        for first in (0..self.operations as u32).step_by(AT_ONCE) {
            let numbers = first..(first + AT_ONCE as u32).min(self.operations as u32);
            let mut fleet = Fleet::new()?;
            let operations = numbers.len() as u64;
            self.connect(&mut fleet, numbers.map(Who::Present), AT_ONCE)?;
            fleet.run(&Plan { aim: Aim::Ping, operations, outstanding: 1, deliveries: 0 })?;
            fleets.push(fleet);
        }
        std::thread::sleep(SETTLE);
        let grown = machine::memory_kb(pid, "VmRSS:")?.saturating_sub(before) * 1024;
        let figures = Figures::from([(Figure::LinkBytes, grown as f64 / self.operations as f64)]);
        Ok(Measured { figures, disturbance: watch.end() })
    }

    fn pictures(&self, outstanding: u32, viewers: u32, stalled: u32) -> Outcome<Measured> {
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, viewers, Who::Viewer)?;
        self.connect_all(&mut fleet, stalled, Who::Stalled)?;
        self.connect(&mut fleet, std::iter::once(Who::Camera), 1)?;
        let (pid, units) = (self.server.pid(), self.operations * u64::from(viewers));
        let plan = Plan { aim: Aim::Viewers(viewers), operations: self.operations, outstanding, deliveries: 0 };
        let (before, watch) = (machine::memory_kb(pid, "VmRSS:")?, Stopwatch::begin(&self.server)?);
        fleet.run(&plan)?;
        let mut measured = watch.end(&mut fleet, units, self.operations)?;
        let grown = machine::memory_kb(pid, "VmRSS:")?.saturating_sub(before);
        measured.figures.insert(Figure::GrownMb, grown as f64 / 1024.0);
        fleet.check_each(|who| if matches!(who, Who::Viewer(_)) { self.operations } else { 0 })?;
        Ok(measured)
    }

    fn echo(&self, rooms: u32) -> Outcome<Measured> {
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, rooms, Who::Callee)?;
        self.connect_all(&mut fleet, rooms, Who::Caller)?;
        let plan = Plan { aim: Aim::Pairs, operations: self.operations, outstanding: 1, deliveries: self.operations };
        let watch = Stopwatch::begin(&self.server)?;
        fleet.run(&plan)?;
        let measured = watch.end(&mut fleet, self.operations, self.operations)?;
        let heard = fleet.tally.delivered;
        if heard == self.operations { Ok(measured) } else { Err(Bad(format!("{heard} messages were heard"))) }
    }

    fn openings(&self, subscribers: u32) -> Outcome<Measured> {
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, subscribers, Who::Subscriber)?;
        let publishers = u32::from(subscribers > 0);
        self.connect_all(&mut fleet, publishers, Who::Publisher)?;
        self.connect(&mut fleet, [Who::Door, Who::Opener].into_iter(), 1)?;
        let openings = Openings { count: self.operations, every: OPENING_EVERY };
        let plan = Plan {
            aim: Aim::Busy { away_from: subscribers },
            operations: u64::MAX,
            outstanding: BESIDE_OUTSTANDING,
            deliveries: u64::from(subscribers),
        };
        let watch = Stopwatch::begin(&self.server)?;
        fleet.run_openings(openings, (subscribers > 0).then_some(&plan))?;
        let measured = watch.end(&mut fleet, self.operations, self.operations)?;
        let messages = fleet.tally.to_topic;
        fleet.check_each(|who| if who == Who::Door { self.operations } else { messages })?;
        Ok(measured)
    }

    fn push(&self, clients: u32) -> Outcome<Measured> {
        let mut fleet = Fleet::new()?;
        let delivers = self.server.kind == Kind::Porter;
        if delivers {
            self.connect_all(&mut fleet, 1, Who::Receiver)?;
        }
        let pushers = (0..clients).map(|number| (Who::Publisher(number), self.server.http_driver()));
        fleet.connect(self.server.rest, pushers, AT_ONCE)?;
        let deliveries = if delivers { self.operations } else { 0 };
        let plan = Plan { aim: Aim::Each(1), operations: self.operations, outstanding: 1, deliveries };
        self.timed(fleet, &plan, |_| deliveries, false)
    }

    fn start(mut self, receivers: u32) -> Outcome<Measured> {
        self.fill(self.operations, receivers)?;
        let begin = Instant::now();
        self.server.restart(self.places)?;
        let pid = self.server.pid();
        let watch = Watch::begin(&[pid]);
        loop {
            let mut fleet = Fleet::new()?;
            if self.connect_all(&mut fleet, 1, Who::Present).is_ok() {
                break;
            }
            if begin.elapsed() > START_MAX {
                return Err(Bad("did not start in time".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let seconds = begin.elapsed().as_secs_f64();
        let highest = machine::memory_kb(pid, "VmHWM:")? as f64 / 1024.0;
        let figures = Figures::from([(Figure::StartS, seconds), (Figure::ResidentMb, highest)]);
        Ok(Measured { figures, disturbance: watch.end() })
    }

    fn rest(&self) -> Outcome<Measured> {
        let watch = Watch::begin(&[self.server.pid()]);
        std::thread::sleep(SETTLE);
        let resident = machine::memory_kb(self.server.pid(), "VmRSS:")? as f64 / 1024.0;
        let binary = fs::metadata(self.places.of("target/release/porter"))?.len() as f64 / f64::from(1 << 20);
        let figures = Figures::from([(Figure::ResidentMb, resident), (Figure::BinaryMb, binary)]);
        Ok(Measured { figures, disturbance: watch.end() })
    }

    /// Mosquitto keeps messages only for sessions that it has seen; Porter and redis need no introduction.
    fn introduce(&self, receivers: u32) -> Outcome<()> {
        if self.server.kind == Kind::Mosquitto { self.come_and_go(receivers, Who::Lasting) } else { Ok(()) }
    }

    fn come_and_go(&self, count: u32, who: fn(u32) -> Who) -> Outcome<()> {
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, count, who)?;
        drop(fleet);
        std::thread::sleep(SETTLE);
        Ok(())
    }

    /// Lets so many messages wait.
    fn fill(&self, messages: u64, receivers: u32) -> Outcome<()> {
        if messages == 0 {
            return Ok(());
        }
        let mut fleet = Fleet::new()?;
        self.connect_all(&mut fleet, FILLERS, Who::Publisher)?;
        fleet.run(&Plan { aim: Aim::Each(receivers), operations: messages, outstanding: FILLERS_OUTSTANDING, deliveries: 0 })
    }
}

/// Of `messages` sent to `receivers` in turn, how many are the one's.
fn share(messages: u64, receivers: u32, number: u32) -> u64 {
    messages / u64::from(receivers) + u64::from(u64::from(number) < messages % u64::from(receivers))
}

#[cfg(test)]
mod tests {
    #[test]
    fn shares_add_up() {
        assert_eq!((0..7).map(|number| super::share(100, 7, number)).sum::<u64>(), 100);
    }
}
