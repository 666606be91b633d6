//! The promise (Protocol §4): SIGKILL at random moments under load, and nothing that was answered with `-6` is lost.
//!
//! All rounds share one data folder. A ledger keeps what the clients know: what was answered, what was acknowledged, which mid
//! stood for which message. After each restart every alias is asked for what it is owed, and the ledger must agree.
//! `PORTER_CRASH_ROUNDS` and `PORTER_CRASH_SEED` run more rounds, or the same again as far as the machine's timing allows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clients::Client;
use crate::porter::{DEADLINE, Folder, Porter};
use crate::seeded::Seeded;

/// Rounds unless `PORTER_CRASH_ROUNDS` says otherwise.
const ROUNDS: usize = 20;
/// New publishes of one publisher in a round: with all rounds' backlog well below the cap of one alias.
const PUBLISHES_PER_ROUND: usize = 1_500;
/// Publishes that a publisher has without an answer.
const OUTSTANDING: usize = 128;
/// Publishers: the last one has no alias, so its `opts.id`s are its address's.
const PUBLISHERS: usize = 3;
/// What the receivers' names begin with says how they acknowledge during the load.
const RECEIVERS: [&str; 8] = ["never-0", "never-1", "half-0", "half-1", "all-0", "all-1", "off-0", "off-1"];
const TOPICS: [&str; 4] = ["t-0", "t-1", "t-2", "t-3"];
/// Answered `opts.id`s that are repeated after a crash, at most, by each publisher.
const REPEATS: usize = 40;

/// A message that a publisher made: its tag says in which round, by whom and which.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    tag: String,
    receivers: BTreeSet<String>,
    /// The frame without its `num`.
    frame: String,
    id: Option<String>,
}

/// What is known of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscribed {
    Yes,
    No,
    /// A change was under way at the crash.
    Either,
}

/// What all clients know together.
#[derive(Debug, Default)]
struct Ledger {
    round: usize,
    /// For each round the highest mid that was seen before it.
    floors: Vec<u64>,
    highest: u64,
    /// Which message a mid stands for: the tag.
    tags: HashMap<u64, String>,
    /// What was answered with `-6`.
    answered: BTreeMap<u64, Made>,
    /// What an alias has acknowledged, or has begun to.
    acknowledged: HashSet<(String, u64)>,
    /// The answers to `opts.id`s, by publisher.
    ids: Vec<Vec<(Made, u64)>>,
    /// Publishes with `opts.id` that a crash has left without an answer, by publisher.
    unanswered: Vec<Vec<Made>>,
    subscriptions: BTreeMap<String, BTreeMap<String, Subscribed>>,
    deliveries: usize,
}

impl Ledger {
    fn new() -> Ledger {
        Ledger { ids: vec![Vec::new(); PUBLISHERS], unanswered: vec![Vec::new(); PUBLISHERS], ..Ledger::default() }
    }

    /// A new start of the server.
    fn begin_round(&mut self, round: usize) {
        self.round = round;
        self.floors.push(self.highest);
    }

    /// A mid stands for one message in all rounds, and is above all that was seen before its message was made.
    fn see(&mut self, mid: u64, tag: &str) {
        let known = self.tags.entry(mid).or_insert_with(|| tag.to_owned());
        assert_eq!(known, tag, "mid {mid} was used twice");
        let round: usize = tag[1..].split('-').next().unwrap().parse().unwrap();
        assert!(mid > self.floors[round], "mid {mid} of {tag} is not above {}, seen before round {round}", self.floors[round]);
        self.highest = self.highest.max(mid);
    }

    fn delivered(&mut self, mid: u64, msg: &Value) {
        let text = msg.as_str().unwrap();
        let tag = text.split(' ').next().unwrap();
        assert_eq!(text, body(tag), "the message was altered");
        self.deliveries += 1;
        self.see(mid, tag);
    }

    fn answered(&mut self, made: Made, mid: u64) {
        self.see(mid, &made.tag);
        let before = self.answered.insert(mid, made.clone());
        assert!(before.is_none_or(|before| before == made), "two publishes were answered with mid {mid}");
    }

    /// What an alias must still get.
    fn owed(&self, alias: &str) -> BTreeSet<u64> {
        let open = |mid: &u64| !self.acknowledged.contains(&(alias.to_owned(), *mid));
        self.answered.iter().filter(|(_, made)| made.receivers.contains(alias)).map(|(mid, _)| *mid).filter(open).collect()
    }

    fn receivers(&self) -> BTreeSet<String> {
        self.answered.values().flat_map(|made| made.receivers.iter().cloned()).collect()
    }
}

/// The text of a message: its tag, and a padding that follows from it.
fn body(tag: &str) -> String {
    let sum: usize = tag.bytes().map(usize::from).sum();
    let padding = if sum.is_multiple_of(61) { 9_000 } else { sum % 97 * 5 };
    format!("{tag} {}", "x".repeat(padding))
}

fn is_subscribed(receiver: usize, topic: usize) -> bool {
    !(receiver + topic).is_multiple_of(3)
}

/// What the threads of a round share.
struct Round {
    address: SocketAddr,
    ledger: Mutex<Ledger>,
    /// `-6`s in this round.
    answers: AtomicUsize,
}

impl Round {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }
}

fn mid_of(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("not a mid: {value}"))
}

/// The next publish of a publisher.
fn make(random: &mut Seeded, round: usize, publisher: usize, number: usize) -> Made {
    let tag = format!("r{round}-p{publisher}-{number}");
    let mut receivers = BTreeSet::new();
    let to = if random.below(3) == 0 {
        let topics: BTreeSet<usize> = (0..=random.below(2)).map(|_| random.below(TOPICS.len())).collect();
        let hit = |receiver: &usize| topics.iter().any(|topic| is_subscribed(*receiver, *topic));
        receivers.extend((0..RECEIVERS.len()).filter(hit).map(|receiver| RECEIVERS[receiver].to_owned()));
        let names: Vec<&str> = topics.iter().map(|topic| TOPICS[*topic]).collect();
        format!(r#""method":"publish","topic":{}"#, serde_json::to_string(&names).unwrap())
    } else {
        receivers.extend((0..=random.below(3)).map(|_| (*random.pick(&RECEIVERS)).to_owned()));
        if random.below(100) == 0 {
            receivers.insert(format!("new-{tag}"));
        }
        format!(r#""method":"publish_to_alias","alias":{}"#, serde_json::to_string(&receivers).unwrap())
    };
    let id = (random.below(8) == 0).then(|| format!("id-{tag}"));
    let opts = id.as_ref().map_or(String::new(), |id| format!(r#","opts":{{"id":"{id}"}}"#));
    let frame = format!(r#"{{"t":6,{to},"msg":"{}"{opts}"#, body(&tag));
    Made { tag, receivers, frame, id }
}

/// One publisher's connection.
struct Publisher {
    index: usize,
    client: Client,
    /// By `num`: what was sent, and the mid it must be answered with.
    sent: BTreeMap<u64, (Made, Option<u64>)>,
    next: u64,
    /// The first `num` of a new publish; below are repeats.
    first_new: u64,
    /// (`num`, mid) of new publishes: they take effect in order.
    mids: Vec<(u64, u64)>,
}

impl Publisher {
    fn send(&mut self, made: Made, expected: Option<u64>) -> Option<()> {
        let line = format!(r#"{},"num":{}}}"#, made.frame, self.next);
        self.sent.insert(self.next, (made, expected));
        self.next += 1;
        self.client.try_send(&line)
    }

    /// Takes one answer.
    fn take(&mut self, round: &Round) -> Option<()> {
        let answer = self.client.try_json()?;
        let num = answer["num"].as_u64().unwrap_or_else(|| panic!("no answer to a publish: {answer}"));
        let (made, expected) = self.sent.remove(&num).unwrap_or_else(|| panic!("answered twice: {answer}"));
        if answer["code"] == "unavailable" {
            return Some(());
        }
        assert_eq!(answer["t"], -6, "{answer}");
        let mid = mid_of(&answer["mid"]);
        assert!(expected.is_none_or(|expected| expected == mid), "{:?} was answered with {expected:?} before, now {mid}", made.id);
        let reached = answer["online"].as_u64().unwrap() + answer["stored"].as_u64().unwrap();
        assert_eq!(reached, made.receivers.len() as u64, "{answer} for {:?}", made.receivers);
        if num >= self.first_new {
            self.mids.push((num, mid));
        }
        let mut ledger = round.ledger();
        if made.id.is_some() && expected.is_none() {
            ledger.ids[self.index].push((made.clone(), mid));
        }
        ledger.answered(made, mid);
        round.answers.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    /// Repeats what the last crash left open and some of what was answered, then publishes.
    fn run(&mut self, round: &Round, random: &mut Seeded) -> Option<()> {
        let number = round.ledger().round;
        for made in round.ledger().unanswered[self.index].drain(..).collect::<Vec<_>>() {
            self.send(made, None)?;
        }
        let known = round.ledger().ids[self.index].clone();
        for _ in 0..REPEATS.min(known.len()) {
            let (made, mid) = random.pick(&known).clone();
            self.send(made, Some(mid))?;
        }
        self.first_new = self.next;
        for publish in 0..PUBLISHES_PER_ROUND {
            self.send(make(random, number, self.index, publish), None)?;
            while self.sent.len() >= OUTSTANDING {
                self.take(round)?;
            }
        }
        while !self.sent.is_empty() {
            self.take(round)?;
        }
        Some(())
    }
}

fn publish(round: &Round, index: usize, random: &mut Seeded) {
    let Some(mut client) = Client::try_connect(round.address) else { return };
    if index + 1 < PUBLISHERS {
        if client.try_send(&format!(r#"{{"t":1,"alias":"pub-{index}"}}"#)).is_none() || client.try_json().is_none() {
            return;
        }
    }
    let mut publisher = Publisher { index, client, sent: BTreeMap::new(), next: 0, first_new: u64::MAX, mids: Vec::new() };
    publisher.run(round, random);
    // What was answered before the end may still be on its way.
    while !publisher.sent.is_empty() && publisher.take(round).is_some() {}
    publisher.mids.sort_unstable();
    assert!(publisher.mids.is_sorted_by(|a, b| a.1 < b.1), "one link's publishes got mids in another order: {:?}", publisher.mids);
    let open = publisher.sent.into_values().filter(|(made, expected)| made.id.is_some() && expected.is_none());
    round.ledger().unanswered[index].extend(open.map(|(made, _)| made));
}

/// Receives until the server is gone; now and then on a new connection.
fn receive(round: &Round, alias: &str, random: &mut Seeded) {
    while receive_session(round, alias, random).is_some() {}
}

/// One session of a receiver. `None`: the server is gone.
fn receive_session(round: &Round, alias: &str, random: &mut Seeded) -> Option<()> {
    let mut client = Client::try_connect(round.address)?;
    client.try_send(&format!(r#"{{"t":11,"alias":"{alias}"}}"#))?;
    let mut order = Order::default();
    let stay = if alias.starts_with("half") { 1 + random.below(400) } else { usize::MAX };
    for _ in 0..stay {
        let frame = client.try_json()?;
        if frame["t"] != 5 {
            assert_eq!(frame["t"], -11, "{frame}");
            continue;
        }
        let mid = order.next(&frame);
        let mut ledger = round.ledger();
        ledger.delivered(mid, &frame["msg"]);
        let acknowledges = alias.starts_with("all") || (alias.starts_with("half") && random.below(2) == 0);
        if acknowledges {
            ledger.acknowledged.insert((alias.to_owned(), mid));
            drop(ledger);
            client.try_send(&format!(r#"{{"t":-5,"mid":"{mid}"}}"#))?;
        }
    }
    Some(())
}

/// To one session in mid order (Protocol §5).
#[derive(Default)]
struct Order(u64);

impl Order {
    fn next(&mut self, push: &Value) -> u64 {
        let mid = mid_of(&push["mid"]);
        assert!(mid > self.0, "mid {mid} came after {}", self.0);
        self.0 = mid;
        mid
    }
}

/// Registers and unregisters, each alias new, until the server is gone.
fn register(round: &Round) -> Option<()> {
    let number = round.ledger().round;
    for next in 0.. {
        let alias = format!("reg-{number}-{next}");
        let mut client = Client::try_connect(round.address)?;
        client.try_send(&format!(r#"{{"t":1,"alias":"{alias}"}}"#))?;
        client.try_json()?;
        change_topics(round, &mut client, &alias, 2, &["g-0", "g-1", &format!("g-{next}")])?;
        if next % 3 == 0 {
            change_topics(round, &mut client, &alias, 12, &["g-1", "g-never"])?;
        }
    }
    Some(())
}

/// One frame 2 or 12 and its answer. What it changes is open while it is under way.
fn change_topics(round: &Round, client: &mut Client, alias: &str, request: i64, topics: &[&str]) -> Option<()> {
    let note = |state| {
        let mut ledger = round.ledger();
        let known = ledger.subscriptions.entry(alias.to_owned()).or_default();
        known.extend(topics.iter().map(|topic| ((*topic).to_owned(), state)));
    };
    note(Subscribed::Either);
    client.try_send(&format!(r#"{{"t":{request},"topic":{}}}"#, serde_json::to_string(topics).unwrap()))?;
    let answer = client.try_json()?;
    assert_eq!(answer["t"], -request, "{answer}");
    note(if request == 2 { Subscribed::Yes } else { Subscribed::No });
    Some(())
}

/// Before the first round: the receivers' subscriptions, by which the publishers' receivers are known.
fn subscribe_receivers(round: &Round) {
    for (index, alias) in RECEIVERS.iter().enumerate() {
        let mut client = Client::bound(round.address, alias);
        let topics: Vec<&str> = (0..TOPICS.len()).filter(|topic| is_subscribed(index, *topic)).map(|topic| TOPICS[topic]).collect();
        change_topics(round, &mut client, alias, 2, &topics).unwrap();
    }
}

/// The subscriptions of the last round and a few older ones are as they were answered.
fn verify_subscriptions(round: &Round, random: &mut Seeded) {
    let (last, known) = {
        let ledger = round.ledger();
        (format!("reg-{}-", ledger.round.saturating_sub(1)), ledger.subscriptions.clone())
    };
    for (alias, topics) in known {
        if alias.starts_with("reg-") && !alias.starts_with(&last) && random.below(20) > 0 {
            continue;
        }
        let mut client = Client::bound(round.address, &alias);
        client.send(r#"{"t":3}"#);
        let answer = loop {
            let frame = client.json();
            if frame["t"] == -3 {
                break frame;
            }
        };
        let held: BTreeSet<&str> = answer["topic"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        for (topic, state) in topics {
            let holds = held.contains(topic.as_str());
            let right = state == Subscribed::Either || holds == (state == Subscribed::Yes);
            assert!(right, "{alias} was answered that {topic} is {state:?}, now it has {held:?}");
        }
    }
}

/// Every alias gets what it is owed, by connecting or by pulling.
fn verify_deliveries(round: &Round, random: &mut Seeded) {
    let receivers = round.ledger().receivers();
    for (number, alias) in receivers.iter().enumerate() {
        let owed = round.ledger().owed(alias);
        if alias.starts_with("new-") && owed.is_empty() {
            continue;
        }
        assert!(owed.len() < 9_000, "{} owed to {alias}: the cap would be an excuse for a loss", owed.len());
        let came = if random.below(3) == 0 { pull_all(round, alias) } else { connect_for_all(round, alias, number, random.below(2) == 0) };
        let lost: Vec<u64> = owed.difference(&came).copied().collect();
        let ledger = round.ledger();
        let first = lost.first().map(|mid| &ledger.answered[mid]);
        assert!(lost.is_empty(), "{} of {} messages owed to {alias} are lost; the first: {} {first:?}", lost.len(), owed.len(), lost[0]);
    }
}

/// Connects and reads until a message published just now comes: in mid order all else came before. Acknowledges all, or nothing.
fn connect_for_all(round: &Round, alias: &str, number: usize, acknowledges: bool) -> BTreeSet<u64> {
    let mut client = Client::bound(round.address, alias);
    let tag = format!("r{}-v{number}", round.ledger().round);
    let frame = format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":"{}""#, body(&tag));
    client.send(&format!(r#"{frame},"num":1}}"#));
    let marker = Made { tag, receivers: BTreeSet::from([alias.to_owned()]), frame, id: None };
    let (mut came, mut order, mut answered) = (BTreeSet::new(), Order::default(), None);
    while answered.is_none_or(|mid| !came.contains(&mid)) {
        let frame = client.json();
        if frame["t"] == -6 {
            answered = Some(mid_of(&frame["mid"]));
            round.ledger().answered(marker.clone(), mid_of(&frame["mid"]));
        } else {
            assert_eq!(frame["t"], 5, "{frame}");
            let mid = order.next(&frame);
            round.ledger().delivered(mid, &frame["msg"]);
            came.insert(mid);
        }
    }
    if acknowledges {
        round.ledger().acknowledged.extend(came.iter().map(|mid| (alias.to_owned(), *mid)));
        let mids: Vec<String> = came.iter().map(u64::to_string).collect();
        for mids in mids.chunks(100) {
            client.send(&format!(r#"{{"t":-5,"mid":{}}}"#, serde_json::to_string(mids).unwrap()));
        }
        client.expect_nothing();
    }
    came
}

/// Pulls page by page: each pull acknowledges the page before.
fn pull_all(round: &Round, alias: &str) -> BTreeSet<u64> {
    let mut client = Client::connect(round.address);
    let (mut came, mut order) = (BTreeSet::new(), Order::default());
    let (mut page, mut more) = (Vec::new(), true);
    while more {
        round.ledger().acknowledged.extend(page.drain(..).map(|mid| (alias.to_owned(), mid)));
        client.send(&format!(r#"{{"t":4,"alias":"{alias}"}}"#));
        let answer = loop {
            let frame = client.json();
            if frame["t"] == -4 {
                break frame;
            }
            assert_eq!(frame["t"], 5, "{frame}");
            round.ledger().delivered(order.next(&frame), &frame["msg"]);
        };
        page = answer["mid"].as_array().unwrap().iter().map(mid_of).collect();
        for (mid, msg) in page.iter().zip(answer["msg"].as_array().unwrap()) {
            assert!(came.last().is_none_or(|last| last < mid), "a pull returned {mid} after {:?}", came.last());
            round.ledger().delivered(*mid, msg);
            came.insert(*mid);
        }
        more = answer["more"].as_bool().unwrap();
    }
    came
}

/// Load on all sides until so many `-6`s have come and a little longer; then SIGKILL.
fn load_and_kill(porter: Porter, round: &Arc<Round>, random: &mut Seeded) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut spawn = |seed: u64, body: Box<dyn FnOnce(&Round, &mut Seeded) + Send>| {
        let round = Arc::clone(round);
        threads.push(std::thread::spawn(move || body(&round, &mut Seeded(seed))));
    };
    for alias in RECEIVERS.into_iter().filter(|alias| !alias.starts_with("off")) {
        spawn(random.next_u64(), Box::new(move |round, random| receive(round, alias, random)));
    }
    spawn(
        0,
        Box::new(|round, _| {
            let _ = register(round);
        }),
    );
    for index in 0..PUBLISHERS {
        spawn(random.next_u64(), Box::new(move |round, random| publish(round, index, random)));
    }
    let (answers, longer) = (random.below(PUBLISHERS * PUBLISHES_PER_ROUND * 3 / 4), random.below(5_000));
    let end = Instant::now() + DEADLINE;
    while round.answers.load(Ordering::Relaxed) < answers && !threads.iter().any(JoinHandle::is_finished) {
        assert!(Instant::now() < end, "{} of {answers} answers came", round.answers.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_micros(200));
    }
    // The moment within a commit, a write or a page is the machine's choice.
    std::thread::sleep(Duration::from_micros(longer as u64));
    porter.kill();
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn nothing_answered_is_lost_by_sigkill_under_load() {
    let rounds = setting("PORTER_CRASH_ROUNDS", ROUNDS as u64) as usize;
    let seed = setting("PORTER_CRASH_SEED", RandomState::new().hash_one(0));
    println!("PORTER_CRASH_ROUNDS={rounds} PORTER_CRASH_SEED={seed}");
    let random = &mut Seeded(seed);
    let folder = Folder::new();
    let mut ledger = Ledger::new();
    for number in 0..=rounds {
        let porter = Porter::start(&folder);
        ledger.begin_round(number);
        let round = Arc::new(Round { address: porter.tcp, ledger: Mutex::new(ledger), answers: AtomicUsize::new(0) });
        if number == 0 {
            subscribe_receivers(&round);
        }
        verify_subscriptions(&round, random);
        verify_deliveries(&round, random);
        if number < rounds {
            load_and_kill(porter, &round, random);
        }
        ledger = Arc::into_inner(round).unwrap().ledger.into_inner().unwrap();
        println!(
            "round {number}: answered={} acknowledged={} delivered={} subscriptions={}",
            ledger.answered.len(),
            ledger.acknowledged.len(),
            ledger.deliveries,
            ledger.subscriptions.len()
        );
    }
    assert!(ledger.answered.len() > rounds * 100, "too little load to prove anything: {}", ledger.answered.len());
}
