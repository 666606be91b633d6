//! A few hundred clients of all kinds at once, some well-behaved: each delivery comes at least once, in mid order, and each
//! publish gets its `-6` (Protocol §4, §5).

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clients::Client;
use crate::ledger::{Ledger, Made, Order, Publisher, Run, body, mid_of, verify_deliveries};
use crate::porter::{Folder, Porter};
use crate::seeded::Seeded;

const RECEIVERS: usize = 180;
const PUBLISHERS: usize = 60;
/// Publishes of each publisher, and how many of them it has without an answer.
const PUBLISHES: usize = 600;
const OUTSTANDING: usize = 24;
const TOPICS: usize = 24;
/// Topics that a receiver subscribes to.
const TOPICS_EACH: usize = 3;
/// A connection that comes and goes ends after so many frames at most.
const STAY_MAX: usize = 200;

/// What a receiver does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Acknowledges at once.
    Prompt,
    /// Acknowledges every other message.
    Careless,
    /// Never acknowledges.
    Silent,
    /// Stops reading for a moment now and then, and acknowledges.
    Slow,
    /// Comes and goes.
    Restless,
    /// Only ever pulls.
    Pulling,
    /// Comes when all is over.
    Absent,
}

const MANNERS: [Manner; 10] = [
    Manner::Prompt,
    Manner::Prompt,
    Manner::Prompt,
    Manner::Prompt,
    Manner::Careless,
    Manner::Silent,
    Manner::Slow,
    Manner::Restless,
    Manner::Pulling,
    Manner::Absent,
];

fn manner(receiver: usize) -> Manner {
    MANNERS[receiver % MANNERS.len()]
}

fn alias(receiver: usize) -> String {
    format!("receiver-{receiver}")
}

fn topic(topic: usize) -> String {
    format!("topic-{}", topic % TOPICS)
}

/// The topics of a receiver.
fn topics(receiver: usize) -> BTreeSet<String> {
    (0..TOPICS_EACH).map(|step| topic(receiver + step * 7)).collect()
}

/// The message behind which nothing comes, for one receiver.
fn farewell(receiver: usize) -> String {
    format!("r0-end-{receiver}")
}

fn make(random: &mut Seeded, subscribers: &HashMap<String, BTreeSet<String>>, tag: String, live_only: bool) -> Made {
    let mut receivers = BTreeSet::new();
    let to = if random.below(6) == 0 {
        let topics: BTreeSet<String> = (0..=random.below(2)).map(|_| topic(random.below(TOPICS))).collect();
        receivers.extend(topics.iter().flat_map(|topic| subscribers[topic].iter().cloned()));
        format!(r#""method":"publish","topic":{}"#, serde_json::to_string(&topics).unwrap())
    } else {
        receivers.extend((0..=random.below(4)).map(|_| alias(random.below(RECEIVERS))));
        format!(r#""method":"publish_to_alias","alias":{}"#, serde_json::to_string(&receivers).unwrap())
    };
    let id = (!live_only && random.below(8) == 0).then(|| tag.clone());
    let mut opts: Vec<String> = id.iter().map(|id| format!(r#""id":"{id}""#)).collect();
    if random.below(8) == 0 {
        opts.push(r#""receipt":true"#.to_owned());
    }
    if live_only {
        opts.push(r#""time_to_live":0"#.to_owned());
    }
    let frame = format!(r#"{{"t":6,{to},"msg":"{}","opts":{{{}}}"#, body(&tag), opts.join(","));
    Made { tag, receivers, frame, id, live_only }
}

/// Publishes everything, some of it twice, and waits for all answers.
fn publish(run: &Run, index: usize, subscribers: &HashMap<String, BTreeSet<String>>, random: &mut Seeded) {
    let mut publisher = Publisher::new(index, Client::bound(run.address, &format!("publisher-{index}")));
    publisher.first_new = 0;
    for number in 0..PUBLISHES {
        let live_only = random.below(10) == 0;
        let made = make(random, subscribers, format!("r0-{}{index}-{number}", if live_only { 'z' } else { 'p' }), live_only);
        let twice = made.id.is_some() && random.below(2) == 0;
        publisher.send(made.clone()).unwrap();
        if twice {
            publisher.send(made).unwrap();
            let repeat = publisher.next - 1;
            publisher.repeats.insert(repeat);
        }
        while publisher.sent.len() >= OUTSTANDING {
            publisher.take(run).expect("the connection has ended");
        }
    }
    while !publisher.sent.is_empty() {
        publisher.take(run).expect("the connection has ended");
    }
}

/// Receives until the farewell comes.
fn receive(run: &Run, receiver: usize, random: &mut Seeded) {
    match manner(receiver) {
        Manner::Absent => {}
        Manner::Pulling => pull(run, receiver),
        _ => while !receive_session(run, receiver, random) {},
    }
}

/// One session. True: the farewell came, and so all that was owed before it.
fn receive_session(run: &Run, receiver: usize, random: &mut Seeded) -> bool {
    let (alias, manner, farewell) = (alias(receiver), manner(receiver), farewell(receiver));
    let mut client = Client::bound(run.address, &alias);
    let mut order = Order::default();
    let stay = if manner == Manner::Restless { 1 + random.below(STAY_MAX) } else { usize::MAX };
    for _ in 0..stay {
        let frame = client.json();
        if frame["t"] == 15 {
            // What a connection before this one acknowledged at its end.
            continue;
        }
        assert_eq!(frame["t"], 5, "{frame}");
        let mid = order.next(&frame);
        let acknowledges = manner != Manner::Silent && (manner != Manner::Careless || random.below(2) == 0);
        let mut ledger = run.ledger();
        ledger.delivered(mid, &frame["msg"]);
        if frame["msg"] == body(&farewell).as_str() {
            return true;
        }
        if acknowledges {
            ledger.acknowledge(&alias, mid);
            drop(ledger);
            client.acknowledge(&mid.to_string());
        }
        if manner == Manner::Slow && random.below(50) == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    false
}

/// Pulls page by page until the farewell comes. Nothing is pushed to it but what came between two pulls.
fn pull(run: &Run, receiver: usize) {
    let (alias, farewell) = (alias(receiver), body(&farewell(receiver)));
    let mut client = Client::connect(run.address);
    let (mut page, mut last): (Vec<u64>, u64) = (Vec::new(), 0);
    loop {
        page.drain(..).for_each(|mid| run.ledger().acknowledge(&alias, mid));
        client.send(&format!(r#"{{"t":4,"alias":"{alias}"}}"#));
        let answer = loop {
            let frame = client.json();
            if frame["t"] == -4 {
                break frame;
            }
            run.ledger().delivered(mid_of(&frame["mid"]), &frame["msg"]);
        };
        page = answer["mid"].as_array().unwrap().iter().map(mid_of).collect();
        for (mid, msg) in page.iter().zip(answer["msg"].as_array().unwrap()) {
            assert!(*mid > last, "a pull returned {mid} after {last}");
            last = *mid;
            run.ledger().delivered(*mid, msg);
            if *msg == farewell.as_str() {
                return;
            }
        }
        if page.is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn subscribe(run: &Run) -> HashMap<String, BTreeSet<String>> {
    let mut subscribers: HashMap<String, BTreeSet<String>> = (0..TOPICS).map(|number| (topic(number), BTreeSet::new())).collect();
    for receiver in 0..RECEIVERS {
        let mut client = Client::bound(run.address, &alias(receiver));
        client.send(&format!(r#"{{"t":2,"topic":{}}}"#, serde_json::to_string(&topics(receiver)).unwrap()));
        client.expect(r#"{"t":-2}"#);
        for topic in topics(receiver) {
            subscribers.get_mut(&topic).unwrap().insert(alias(receiver));
        }
    }
    subscribers
}

/// Sends every receiver the message behind which nothing comes.
fn say_farewell(run: &Run) {
    let mut publisher = Publisher::new(PUBLISHERS, Client::connect(run.address));
    for receiver in 0..RECEIVERS {
        let tag = farewell(receiver);
        let alias = alias(receiver);
        let frame = format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":"{}""#, body(&tag));
        publisher.send(Made { tag, receivers: BTreeSet::from([alias]), frame, id: None, live_only: false }).unwrap();
    }
    while !publisher.sent.is_empty() {
        publisher.take(run).expect("the connection has ended");
    }
}

#[test]
fn hundreds_of_mixed_clients_lose_nothing() {
    let seed = std::env::var("PORTER_LOAD_SEED").map_or_else(|_| RandomState::new().hash_one(0), |text| text.parse().unwrap());
    eprintln!("PORTER_LOAD_SEED={seed}");
    let mut random = Seeded(seed);
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let mut ledger = Ledger::default();
    ledger.begin_round(0);
    let run = Arc::new(Run { address: porter.tcp, ledger: Mutex::new(ledger), answers: AtomicUsize::new(0), victim: None });
    let subscribers = Arc::new(subscribe(&run));
    let mut receivers = Vec::new();
    for receiver in 0..RECEIVERS {
        let (run, seed) = (Arc::clone(&run), random.next_u64());
        receivers.push(std::thread::spawn(move || receive(&run, receiver, &mut Seeded(seed))));
    }
    let mut publishers = Vec::new();
    for index in 0..PUBLISHERS {
        let (run, subscribers, seed) = (Arc::clone(&run), Arc::clone(&subscribers), random.next_u64());
        publishers.push(std::thread::spawn(move || publish(&run, index, &subscribers, &mut Seeded(seed))));
    }
    publishers.into_iter().for_each(|thread| thread.join().unwrap());
    say_farewell(&run);
    receivers.into_iter().for_each(|thread| thread.join().unwrap());
    verify_deliveries(&run, &mut random);
    let ledger = run.ledger();
    eprintln!("answered={} delivered={} acknowledged={}", ledger.answered.len(), ledger.deliveries, ledger.acknowledged.len());
    assert_eq!(ledger.refused, 0, "every publish gets its -6");
    assert!(run.answers.load(Ordering::Relaxed) >= PUBLISHERS * PUBLISHES);
    assert!(!porter.log().contains("ERROR"), "{}", porter.log());
}
