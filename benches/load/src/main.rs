//! Load for a running Porter over TCP: one thread, one epoll, as many connections as the job asks for.
//!
//! `porter-load ADDRESS JOB PUBLISHERS OUTSTANDING RECEIVERS MESSAGES` prints one JSON line. A publish counts when its own `-6`
//! and all its deliveries have come; anything refused, closed or late marks the run BAD and the exit code is 1.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::epoll;

/// A run that takes longer is BAD.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Bytes of the string that is published.
const BODY_BYTES: usize = 100;
/// Aliases that share what is stored.
const OFFLINE_ALIASES: u64 = 1_000;

#[derive(Clone, Copy, PartialEq)]
enum Job {
    /// publish_to_alias to receivers that acknowledge.
    Direct,
    /// publish to a topic that all receivers subscribe to, who acknowledge.
    FanOut,
    /// publish_to_alias to aliases that are not there.
    Enqueue,
}

struct Plan {
    address: String,
    job: Job,
    publishers: usize,
    outstanding: usize,
    receivers: usize,
    messages: u64,
}

struct Peer {
    stream: TcpStream,
    is_publisher: bool,
    /// An incomplete line.
    rest: Vec<u8>,
    out: Vec<u8>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(plan) = Plan::parse(&arguments) else {
        eprintln!("usage: porter-load ADDRESS direct|fanout|enqueue PUBLISHERS OUTSTANDING RECEIVERS MESSAGES");
        return ExitCode::from(2);
    };
    match run(&plan) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("BAD: {why}");
            ExitCode::FAILURE
        }
    }
}

impl Plan {
    fn parse(arguments: &[String]) -> Option<Plan> {
        let [address, job, publishers, outstanding, receivers, messages] = arguments else { return None };
        let job = match job.as_str() {
            "direct" => Job::Direct,
            "fanout" => Job::FanOut,
            "enqueue" => Job::Enqueue,
            _ => return None,
        };
        Some(Plan {
            address: address.clone(),
            job,
            publishers: publishers.parse().ok()?,
            outstanding: outstanding.parse().ok()?,
            receivers: receivers.parse().ok()?,
            messages: messages.parse().ok()?,
        })
    }

    fn publish(&self, number: u64, out: &mut Vec<u8>) {
        let to = match self.job {
            Job::Direct => format!(r#""publish_to_alias","alias":"load-{}""#, number % self.receivers.max(1) as u64),
            Job::FanOut => r#""publish","topic":"load""#.to_owned(),
            Job::Enqueue => format!(r#""publish_to_alias","alias":"away-{}""#, number % OFFLINE_ALIASES),
        };
        let body = "x".repeat(BODY_BYTES);
        out.extend_from_slice(format!("{{\"t\":6,\"method\":{to},\"msg\":\"{body}\",\"num\":{number}}}\n").as_bytes());
    }

    fn deliveries(&self) -> u64 {
        match self.job {
            Job::Direct => self.messages,
            Job::FanOut => self.messages * self.receivers as u64,
            Job::Enqueue => 0,
        }
    }
}

/// What has happened so far.
#[derive(Default)]
struct Count {
    sent: u64,
    answered: u64,
    delivered: u64,
}

fn run(plan: &Plan) -> io::Result<String> {
    let mut peers = connect(plan)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, peer) in peers.iter().enumerate() {
        peer.stream.set_nonblocking(true)?;
        epoll::add(&poll, &peer.stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
    }
    let begin = Instant::now();
    let mut count = Count::default();
    for peer in peers.iter_mut().filter(|peer| peer.is_publisher) {
        for _ in 0..plan.outstanding {
            count.publish_next(plan, &mut peer.out);
        }
        peer.flush()?;
    }
    let mut buffer = vec![0; 1 << 16];
    let mut events = Vec::with_capacity(1_024);
    let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
    while count.answered < plan.messages || count.delivered < plan.deliveries() {
        if begin.elapsed() > RUN_MAX {
            let (answered, delivered) = (count.answered, count.delivered);
            return Err(io::Error::other(format!("late: {answered} answered, {delivered} delivered")));
        }
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&second))?;
        for event in &events {
            let data = event.data;
            peers[data.u64() as usize].read(plan, &mut count, &mut buffer)?;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(format!(
        r#"{{"job":"{}","publishers":{},"outstanding":{},"receivers":{},"messages_per_s":{:.0},"deliveries_per_s":{:.0}}}"#,
        match plan.job {
            Job::Direct => "direct",
            Job::FanOut => "fanout",
            Job::Enqueue => "enqueue",
        },
        plan.publishers,
        plan.outstanding,
        plan.receivers,
        plan.messages as f64 / seconds,
        plan.deliveries() as f64 / seconds,
    ))
}

/// Connects everybody; receivers bind, and subscribe for a fan-out.
fn connect(plan: &Plan) -> io::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for index in 0..plan.receivers + plan.publishers {
        let stream = TcpStream::connect(&plan.address)?;
        stream.set_nodelay(true)?;
        let mut peer = Peer { stream, is_publisher: index >= plan.receivers, rest: Vec::new(), out: Vec::new() };
        if !peer.is_publisher {
            peer.ask(&format!("{{\"t\":11,\"alias\":\"load-{index}\"}}\n"), "{\"t\":-11")?;
            if plan.job == Job::FanOut {
                peer.ask("{\"t\":2,\"topic\":\"load\",\"num\":1}\n", "{\"t\":-2")?;
            }
        }
        peers.push(peer);
    }
    Ok(peers)
}

impl Count {
    fn publish_next(&mut self, plan: &Plan, out: &mut Vec<u8>) {
        if self.sent < plan.messages {
            plan.publish(self.sent, out);
            self.sent += 1;
        }
    }
}

impl Peer {
    /// Sends a frame and waits for its answer.
    fn ask(&mut self, frame: &str, answer: &str) -> io::Result<()> {
        self.stream.write_all(frame.as_bytes())?;
        let mut buffer = [0; 4_096];
        let read = self.stream.read(&mut buffer)?;
        if !buffer[..read].starts_with(answer.as_bytes()) {
            return Err(io::Error::other(format!("unexpected: {}", String::from_utf8_lossy(&buffer[..read]))));
        }
        Ok(())
    }

    /// Reads what has come, acts on each line, and writes the answers at once.
    fn read(&mut self, plan: &Plan, count: &mut Count, buffer: &mut [u8]) -> io::Result<()> {
        let read = match self.stream.read(buffer) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut data = std::mem::take(&mut self.rest);
        data.extend_from_slice(&buffer[..read]);
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', &data) {
            self.line(plan, count, &data[begin..end])?;
            begin = end + 1;
        }
        self.rest = data.split_off(begin);
        self.flush()
    }

    fn line(&mut self, plan: &Plan, count: &mut Count, line: &[u8]) -> io::Result<()> {
        const PUSH: &[u8] = b"{\"t\":5,\"mid\":\"";
        if self.is_publisher && line.starts_with(b"{\"t\":-6") {
            count.answered += 1;
            count.publish_next(plan, &mut self.out);
        } else if let Some(mid) = line.strip_prefix(PUSH).and_then(|rest| rest.split(|byte| *byte == b'"').next()) {
            count.delivered += 1;
            self.out.extend_from_slice(b"{\"t\":-5,\"mid\":\"");
            self.out.extend_from_slice(mid);
            self.out.extend_from_slice(b"\"}\n");
        } else {
            return Err(io::Error::other(format!("unexpected: {}", String::from_utf8_lossy(line))));
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.write(&self.out[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        Ok(())
    }
}
