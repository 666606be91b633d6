//! The promise (Protocol §4): SIGKILL at random moments under load, and nothing that was answered with `-6` is lost.
//!
//! All rounds share one data folder. A ledger keeps what the clients know: what was answered, what was acknowledged, which mid
//! stood for which message. After each restart every alias is asked for what it is owed, and the ledger must agree.
//! `PORTER_CRASH_ROUNDS` and `PORTER_CRASH_SEED` run more rounds, or the same again as far as the machine's timing allows.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;

use crate::clients::Client;
use crate::ledger::{Ledger, Made, Order, Publisher, Run, Subscribed, body, verify_deliveries};
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

fn is_subscribed(receiver: usize, topic: usize) -> bool {
    !(receiver + topic).is_multiple_of(3)
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
    Made { tag, receivers, frame, id, live_only: false }
}

/// Repeats what the last crash left open and some of what was answered, then publishes.
fn publish_all(publisher: &mut Publisher, run: &Run, random: &mut Seeded) -> Option<()> {
    let number = run.ledger().round;
    let unanswered = run.ledger().unanswered.remove(&publisher.index).unwrap_or_default();
    for made in unanswered {
        publisher.send(made)?;
    }
    let known = run.ledger().ids.get(&publisher.index).cloned().unwrap_or_default();
    for _ in 0..REPEATS.min(known.len()) {
        publisher.send(random.pick(&known).clone())?;
    }
    publisher.first_new = publisher.next;
    for publish in 0..PUBLISHES_PER_ROUND {
        publisher.send(make(random, number, publisher.index, publish))?;
        while publisher.sent.len() >= OUTSTANDING {
            publisher.take(run)?;
        }
    }
    while !publisher.sent.is_empty() {
        publisher.take(run)?;
    }
    Some(())
}

fn publish(run: &Run, index: usize, random: &mut Seeded) {
    let Some(mut client) = Client::try_connect(run.address) else { return };
    let bind = format!(r#"{{"t":1,"alias":"pub-{index}"}}"#);
    if index + 1 < PUBLISHERS && (client.try_send(&bind).is_none() || client.try_json().is_none()) {
        return;
    }
    let mut publisher = Publisher::new(index, client);
    publish_all(&mut publisher, run, random);
    // What was answered before the end may still be on its way.
    while !publisher.sent.is_empty() && publisher.take(run).is_some() {}
    publisher.mids.sort_unstable();
    assert!(publisher.mids.is_sorted_by(|a, b| a.1 < b.1), "one link's publishes got mids in another order: {:?}", publisher.mids);
    let mut ledger = run.ledger();
    let open = publisher.sent.into_values().filter(|made| made.id.as_ref().is_some_and(|id| !ledger.mids_by_id.contains_key(id)));
    let open: Vec<Made> = open.collect();
    ledger.unanswered.entry(index).or_default().extend(open);
}

/// Receives until the server is gone; now and then on a new connection.
fn receive(run: &Run, alias: &str, random: &mut Seeded) {
    while receive_session(run, alias, random).is_some() {}
}

/// One session of a receiver. `None`: the server is gone.
fn receive_session(run: &Run, alias: &str, random: &mut Seeded) -> Option<()> {
    let mut client = Client::try_connect(run.address)?;
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
        let mut ledger = run.ledger();
        ledger.delivered(mid, &frame["msg"]);
        let acknowledges = alias.starts_with("all") || (alias.starts_with("half") && random.below(2) == 0);
        if acknowledges {
            ledger.acknowledge(alias, mid);
            drop(ledger);
            client.try_send(&format!(r#"{{"t":-5,"mid":"{mid}"}}"#))?;
        }
    }
    Some(())
}

/// Registers and unregisters, each alias new, until the server is gone.
fn register(run: &Run) -> Option<()> {
    let number = run.ledger().round;
    for next in 0.. {
        let alias = format!("reg-{number}-{next}");
        let mut client = Client::try_connect(run.address)?;
        client.try_send(&format!(r#"{{"t":1,"alias":"{alias}"}}"#))?;
        client.try_json()?;
        change_topics(run, &mut client, &alias, 2, &["g-0", "g-1", &format!("g-{next}")])?;
        if next % 3 == 0 {
            change_topics(run, &mut client, &alias, 12, &["g-1", "g-never"])?;
        }
    }
    Some(())
}

/// One frame 2 or 12 and its answer. What it changes is open while it is under way.
fn change_topics(run: &Run, client: &mut Client, alias: &str, request: i64, topics: &[&str]) -> Option<()> {
    let note = |state| {
        let mut ledger = run.ledger();
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
fn subscribe_receivers(run: &Run) {
    for (index, alias) in RECEIVERS.iter().enumerate() {
        let mut client = Client::bound(run.address, alias);
        let topics: Vec<&str> = (0..TOPICS.len()).filter(|topic| is_subscribed(index, *topic)).map(|topic| TOPICS[topic]).collect();
        change_topics(run, &mut client, alias, 2, &topics).unwrap();
    }
}

/// The subscriptions of the last round and a few older ones are as they were answered.
fn verify_subscriptions(run: &Run, random: &mut Seeded) {
    let (last, known) = {
        let ledger = run.ledger();
        (format!("reg-{}-", ledger.round.saturating_sub(1)), ledger.subscriptions.clone())
    };
    for (alias, topics) in known {
        if alias.starts_with("reg-") && !alias.starts_with(&last) && random.below(20) > 0 {
            continue;
        }
        let mut client = Client::bound(run.address, &alias);
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

/// What a thread of the load does.
type Body = Box<dyn FnOnce(&Run, &mut Seeded) + Send>;

/// Load on all sides until so many `-6`s have come and, unless the last was the server's end, a little longer; then SIGKILL.
fn load_and_kill(porter: Porter, run: &Arc<Run>, answers: usize, random: &mut Seeded) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut spawn = |seed: u64, body: Body| {
        let run = Arc::clone(run);
        threads.push(std::thread::spawn(move || body(&run, &mut Seeded(seed))));
    };
    for alias in RECEIVERS.into_iter().filter(|alias| !alias.starts_with("off")) {
        spawn(random.next_u64(), Box::new(move |run, random| receive(run, alias, random)));
    }
    spawn(
        0,
        Box::new(|run, _| {
            let _ = register(run);
        }),
    );
    for index in 0..PUBLISHERS {
        spawn(random.next_u64(), Box::new(move |run, random| publish(run, index, random)));
    }
    let longer = random.below(5_000);
    let end = Instant::now() + DEADLINE;
    while run.answers.load(Ordering::Relaxed) < answers && !threads.iter().any(JoinHandle::is_finished) {
        assert!(Instant::now() < end, "{} of {answers} answers came", run.answers.load(Ordering::Relaxed));
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
    eprintln!("PORTER_CRASH_ROUNDS={rounds} PORTER_CRASH_SEED={seed}");
    let random = &mut Seeded(seed);
    let folder = Folder::new();
    let mut ledger = Ledger::default();
    for number in 0..=rounds {
        let porter = Porter::start(&folder);
        ledger.begin_round(number);
        let answers = 1 + random.below(PUBLISHERS * PUBLISHES_PER_ROUND * 3 / 4);
        let pid = Pid::from_raw(i32::try_from(porter.pid()).unwrap()).unwrap();
        let victim = (number % 2 == 0).then_some((pid, answers));
        let run = Arc::new(Run { address: porter.tcp, ledger: Mutex::new(ledger), answers: AtomicUsize::new(0), victim });
        if number == 0 {
            subscribe_receivers(&run);
        }
        verify_subscriptions(&run, random);
        verify_deliveries(&run, random);
        if number < rounds {
            load_and_kill(porter, &run, answers, random);
        }
        ledger = Arc::into_inner(run).unwrap().ledger.into_inner().unwrap();
        eprintln!(
            "round {number}: answered={} acknowledged={} delivered={} subscriptions={}",
            ledger.answered.len(),
            ledger.acknowledged.len(),
            ledger.deliveries,
            ledger.subscriptions.len()
        );
    }
    assert!(ledger.answered.len() > rounds * 100, "too little load to prove anything: {}", ledger.answered.len());
}
