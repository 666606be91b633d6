//! What the clients of a run know together, and what the server must agree with: which mid stands for which message, what was
//! answered with `-6`, what was acknowledged, and so what is still owed to whom (Protocol §4, §5).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::clients::Client;
use crate::seeded::Seeded;

/// A message that a publisher made: its tag says in which round, by whom and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub tag: String,
    pub receivers: BTreeSet<String>,
    /// The frame without its `num`.
    pub frame: String,
    pub id: Option<String>,
    /// time_to_live 0: nothing is owed, and order does not hold. Its tag has a `z`.
    pub live_only: bool,
}

/// What is known of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    Yes,
    No,
    /// A change was under way at the crash.
    Either,
}

/// What all clients know together.
#[derive(Debug, Default)]
pub struct Ledger {
    pub round: usize,
    /// For each round the highest mid that was seen before it.
    pub floors: Vec<u64>,
    pub highest: u64,
    /// Which message a mid stands for: the tag.
    pub tags: HashMap<u64, String>,
    /// What was answered with `-6`.
    pub answered: BTreeMap<u64, Made>,
    /// What an alias has acknowledged, or has begun to.
    pub acknowledged: HashSet<(String, u64)>,
    /// What an alias must still get: answered, and not acknowledged by it.
    pub owed: BTreeMap<String, BTreeSet<u64>>,
    /// What was answered and has an `opts.id`, by publisher.
    pub ids: HashMap<usize, Vec<Made>>,
    pub mids_by_id: HashMap<String, u64>,
    /// Publishes with `opts.id` that a crash has left without an answer, by publisher.
    pub unanswered: HashMap<usize, Vec<Made>>,
    pub subscriptions: BTreeMap<String, BTreeMap<String, Subscribed>>,
    pub deliveries: usize,
    /// Publishes that were answered `unavailable`.
    pub refused: usize,
}

impl Ledger {
    /// A new start of the server.
    pub fn begin_round(&mut self, round: usize) {
        self.round = round;
        self.floors.push(self.highest);
    }

    /// A mid stands for one message in all rounds, and is above all that was seen before its message was made.
    pub fn see(&mut self, mid: u64, tag: &str) {
        let known = self.tags.entry(mid).or_insert_with(|| tag.to_owned());
        assert_eq!(known, tag, "mid {mid} was used twice");
        let round: usize = tag[1..].split('-').next().unwrap().parse().unwrap();
        assert!(mid > self.floors[round], "mid {mid} of {tag} is not above {}, seen before round {round}", self.floors[round]);
        self.highest = self.highest.max(mid);
    }

    pub fn delivered(&mut self, mid: u64, msg: &Value) {
        let text = msg.as_str().unwrap();
        let tag = text.split(' ').next().unwrap();
        assert_eq!(text, body(tag), "the message was altered");
        self.deliveries += 1;
        self.see(mid, tag);
    }

    /// A repeat of an `opts.id` is answered with the mid of the first that was answered.
    pub fn answered(&mut self, publisher: usize, made: Made, mid: u64) {
        self.see(mid, &made.tag);
        if let Some(id) = &made.id {
            let first = *self.mids_by_id.entry(id.clone()).or_insert(mid);
            assert_eq!(first, mid, "{id} was answered with another mid");
            self.ids.entry(publisher).or_default().push(made.clone());
        }
        if !made.live_only {
            for alias in &made.receivers {
                let owed = self.owed.entry(alias.clone()).or_default();
                if !self.acknowledged.contains(&(alias.clone(), mid)) {
                    owed.insert(mid);
                }
            }
        }
        let before = self.answered.insert(mid, made.clone());
        assert!(before.is_none_or(|before| before == made), "two publishes were answered with mid {mid}");
    }

    /// From the moment before it is sent: whether the server takes it is then open.
    pub fn acknowledge(&mut self, alias: &str, mid: u64) {
        self.acknowledged.insert((alias.to_owned(), mid));
        if let Some(owed) = self.owed.get_mut(alias) {
            owed.remove(&mid);
        }
    }
}

/// The text of a message: its tag, and a padding that follows from it.
pub fn body(tag: &str) -> String {
    let sum: usize = tag.bytes().map(usize::from).sum();
    let padding = if sum.is_multiple_of(61) { 9_000 } else { sum % 97 * 5 };
    format!("{tag} {}", "x".repeat(padding))
}

/// What the threads of a run of the server share.
pub struct Run {
    pub address: SocketAddr,
    pub ledger: Mutex<Ledger>,
    /// `-6`s in this run.
    pub answers: AtomicUsize,
    /// The server, and the `-6` at which it is killed on the spot: by whoever reads it, since a moment later the server may have
    /// done what it had promised too early.
    pub victim: Option<(Pid, usize)>,
}

impl Run {
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    fn count_answer(&self) {
        let answers = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((server, _)) = self.victim.filter(|(_, at)| *at == answers) {
            kill_process(server, Signal::KILL).unwrap();
        }
    }
}

pub fn mid_of(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("not a mid: {value}"))
}

/// To one session in mid order, but for time_to_live 0 (Protocol §5).
#[derive(Default)]
pub struct Order(u64);

impl Order {
    pub fn next(&mut self, push: &Value) -> u64 {
        let mid = mid_of(&push["mid"]);
        if !push["msg"].as_str().unwrap().contains('z') {
            assert!(mid > self.0, "mid {mid} came after {}", self.0);
            self.0 = mid;
        }
        mid
    }
}

/// One publisher's connection.
pub struct Publisher {
    pub index: usize,
    pub client: Client,
    /// By `num`: what was sent and is not answered.
    pub sent: BTreeMap<u64, Made>,
    pub next: u64,
    /// The first `num` of a new publish; below are repeats.
    pub first_new: u64,
    /// (`num`, mid) of new publishes: they take effect in order.
    pub mids: Vec<(u64, u64)>,
    /// Repeats among them, which keep the mid of the first.
    pub repeats: BTreeSet<u64>,
}

impl Publisher {
    pub fn new(index: usize, client: Client) -> Publisher {
        Publisher { index, client, sent: BTreeMap::new(), next: 0, first_new: u64::MAX, mids: Vec::new(), repeats: BTreeSet::new() }
    }

    pub fn send(&mut self, made: Made) -> Option<()> {
        let line = format!(r#"{},"num":{}}}"#, made.frame, self.next);
        self.sent.insert(self.next, made);
        self.next += 1;
        self.client.try_send(&line)
    }

    /// Takes one answer, or a receipt.
    pub fn take(&mut self, run: &Run) -> Option<()> {
        let answer = self.client.try_json()?;
        if answer["t"] == 13 {
            return Some(());
        }
        let num = answer["num"].as_u64().unwrap_or_else(|| panic!("no answer to a publish: {answer}"));
        let made = self.sent.remove(&num).unwrap_or_else(|| panic!("answered twice: {answer}"));
        if answer["code"] == "unavailable" {
            run.ledger().refused += 1;
            return Some(());
        }
        assert_eq!(answer["t"], -6, "{answer}");
        let mid = mid_of(&answer["mid"]);
        let reached = answer["online"].as_u64().unwrap() + answer["stored"].as_u64().unwrap();
        let all = made.receivers.len() as u64;
        assert!(reached == all || (made.live_only && reached < all), "{answer} for {:?}", made.receivers);
        if num >= self.first_new && !self.repeats.contains(&num) {
            self.mids.push((num, mid));
        }
        run.ledger().answered(self.index, made, mid);
        run.count_answer();
        Some(())
    }
}

/// Every alias gets what it is owed, by connecting or by pulling.
pub fn verify_deliveries(run: &Run, random: &mut Seeded) {
    let all = run.ledger().owed.clone();
    for (number, (alias, owed)) in all.iter().enumerate() {
        if alias.starts_with("new-") && owed.is_empty() {
            continue;
        }
        assert!(owed.len() < 9_000, "{} owed to {alias}: the cap would be an excuse for a loss", owed.len());
        let came = if random.below(3) == 0 { pull_all(run, alias) } else { connect_for_all(run, alias, number, random.below(2) == 0) };
        let lost: Vec<u64> = owed.difference(&came).copied().collect();
        let ledger = run.ledger();
        let first = lost.first().map(|mid| &ledger.answered[mid]);
        assert!(lost.is_empty(), "{} of {} messages owed to {alias} are lost; the first: {} {first:?}", lost.len(), owed.len(), lost[0]);
    }
}

/// Connects and reads until a message published just now comes: in mid order all else came before. Acknowledges all, or nothing.
fn connect_for_all(run: &Run, alias: &str, number: usize, acknowledges: bool) -> BTreeSet<u64> {
    let mut client = Client::bound(run.address, alias);
    let tag = format!("r{}-v{number}", run.ledger().round);
    let frame = format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":"{}""#, body(&tag));
    client.send(&format!(r#"{frame},"num":1}}"#));
    let marker = Made { tag, receivers: BTreeSet::from([alias.to_owned()]), frame, id: None, live_only: false };
    let (mut came, mut order, mut answered) = (BTreeSet::new(), Order::default(), None);
    while answered.is_none_or(|mid| !came.contains(&mid)) {
        let frame = client.json();
        if frame["t"] == -6 {
            answered = Some(mid_of(&frame["mid"]));
            run.ledger().answered(usize::MAX, marker.clone(), mid_of(&frame["mid"]));
        } else if frame["t"] != 15 {
            assert_eq!(frame["t"], 5, "{frame}");
            let mid = order.next(&frame);
            run.ledger().delivered(mid, &frame["msg"]);
            came.insert(mid);
        }
    }
    if acknowledges {
        came.iter().for_each(|mid| run.ledger().acknowledge(alias, *mid));
        let mids: Vec<String> = came.iter().map(u64::to_string).collect();
        for mids in mids.chunks(100) {
            client.send(&format!(r#"{{"t":-5,"mid":{}}}"#, serde_json::to_string(mids).unwrap()));
        }
        client.expect_nothing();
    }
    came
}

/// Pulls page by page: each pull acknowledges the page before.
fn pull_all(run: &Run, alias: &str) -> BTreeSet<u64> {
    let mut client = Client::connect(run.address);
    let (mut came, mut order) = (BTreeSet::new(), Order::default());
    let (mut page, mut more) = (Vec::new(), true);
    while more {
        page.drain(..).for_each(|mid| run.ledger().acknowledge(alias, mid));
        client.send(&format!(r#"{{"t":4,"alias":"{alias}"}}"#));
        let answer = loop {
            let frame = client.json();
            if frame["t"] == -4 {
                break frame;
            }
            assert_eq!(frame["t"], 5, "{frame}");
            run.ledger().delivered(order.next(&frame), &frame["msg"]);
        };
        page = answer["mid"].as_array().unwrap().iter().map(mid_of).collect();
        for (mid, msg) in page.iter().zip(answer["msg"].as_array().unwrap()) {
            assert!(came.last().is_none_or(|last| last < mid), "a pull returned {mid} after {:?}", came.last());
            run.ledger().delivered(*mid, msg);
            came.insert(*mid);
        }
        more = answer["more"].as_bool().unwrap();
    }
    came
}
