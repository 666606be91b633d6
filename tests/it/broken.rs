//! Broken files: of a data folder with all kinds of content, left by SIGKILL, 200 copies are damaged, each in another way, and the real
//! server is started on each, twice. It must come up, open doors, deliver nothing that was not published to that very alias, say
//! so if something is missing, and give out no number twice (Protocol §4, §11, Design §6).
//!
//! `PORTER_BROKEN_SEED` and `PORTER_BROKEN_COPY` repeat a run or one copy of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clients::{Client, http};
use crate::porter::{DEADLINE, Folder, Porter, run, token};
use crate::seeded::Seeded;

const COPIES: usize = 200;
/// Servers at a time.
const AT_ONCE: usize = 4;
const ALIASES: usize = 10;
const TOPICS: usize = 4;
const MESSAGES: usize = 260;
const PAGE_BYTES: usize = 4_096;
const RESERVE_BYTES: u64 = 64 << 20;
/// A string of an older installation that is admitted as a token.
const FIXED: &str = "fixed-string-of-an-older-installation";
/// What in the log tells that something is missing.
const ANNOUNCED: [&str; 5] =
    ["database_set_aside reason=", "data_lost reason=", "rows_damaged reason=", "message_missing ", "database_not_open reason="];

/// The files that are damaged, each as often as its number says.
const FILES: [(&str, usize); 9] = [
    ("porter.db", 44),
    ("porter.db-wal", 26),
    ("porter.db-shm", 7),
    ("mids", 7),
    ("master.key", 4),
    ("revoked", 4),
    ("imported", 3),
    ("reserve", 2),
    ("lock", 3),
];

fn alias(number: usize) -> String {
    format!("door-{number}")
}

/// What the clients of the folder know.
#[derive(Default)]
struct Known {
    /// By mid: the text, and to whom it was published.
    messages: BTreeMap<u64, (String, BTreeSet<String>)>,
    owed: BTreeMap<String, BTreeSet<u64>>,
    /// By alias.
    topics: HashMap<String, Vec<String>>,
    /// By `opts.id`.
    ids: BTreeMap<String, u64>,
    reports: Vec<u64>,
    manage: String,
    /// Its label is revoked.
    revoked: String,
}

impl Known {
    fn highest(&self) -> u64 {
        *self.messages.last_key_value().unwrap().0
    }
}

/// A folder with all kinds of content, half of it only in the log.
fn fill(folder: &Folder, random: &mut Seeded) -> Known {
    let mut known = Known::default();
    let porter = Porter::start(folder);
    known.manage = token(folder, &["--role", "manage", "--label", "guard"]);
    known.revoked = token(folder, &["--role", "manage", "--label", "thief"]);
    assert!(run(folder, &["token", "revoke"], &["thief"]).status.success());
    import(folder);
    subscribe(&porter, &mut known);
    let mut publisher = Client::bound(porter.tcp, "publisher");
    for number in 0..MESSAGES {
        if number == MESSAGES / 2 {
            // What was committed so far goes into the database, once the store has nothing else to do.
            await_checkpoint(folder);
        }
        publish(&mut publisher, &mut known, number, random);
        if number % 8 == 0 {
            publisher.send(r#"{"t":8,"r":"gate","u":"m_1"}"#);
        }
        if number % 20 == 19 {
            acknowledge(&porter, &mut known, random);
        }
    }
    porter.kill();
    known
}

fn import(folder: &Folder) {
    use std::io::Write;
    use std::process::Stdio;
    let mut command = crate::porter::command(folder, &["token", "import"], &["--role", "manage", "--label", "old"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(FIXED.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn subscribe(porter: &Porter, known: &mut Known) {
    for number in 0..ALIASES {
        let topics: Vec<String> = (0..TOPICS).filter(|topic| (number + topic) % 3 > 0).map(|topic| format!("topic-{topic}")).collect();
        let mut client = Client::bound(porter.tcp, &alias(number));
        client.send(&format!(r#"{{"t":2,"topic":{},"info":{{"floor":{number}}}}}"#, serde_json::to_string(&topics).unwrap()));
        client.expect(r#"{"t":-2}"#);
        known.topics.insert(alias(number), topics);
    }
}

/// Waits until the log is in the database.
fn await_checkpoint(folder: &Folder) {
    let backfilled = || {
        let shm = fs::read(folder.data().join("porter.db-shm")).unwrap();
        let number = |at: usize| u32::from_ne_bytes(shm[at..at + 4].try_into().unwrap());
        number(16) > 0 && number(96) == number(16)
    };
    while !backfilled() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn publish(publisher: &mut Client, known: &mut Known, number: usize, random: &mut Seeded) {
    let text = format!("message {number} {}", "x".repeat(*random.pick(&[0, 30, 200, 900, 5_000])));
    let (to, receivers): (String, BTreeSet<String>) = if random.below(3) == 0 {
        let topic = format!("topic-{}", random.below(TOPICS));
        let to = format!(r#""method":"publish","topic":"{topic}""#);
        (to, known.topics.iter().filter(|(_, topics)| topics.contains(&topic)).map(|(alias, _)| alias.clone()).collect())
    } else {
        let receivers: BTreeSet<String> = (0..1 + random.below(4)).map(|_| alias(random.below(ALIASES))).collect();
        (format!(r#""method":"publish_to_alias","alias":{}"#, serde_json::to_string(&receivers).unwrap()), receivers)
    };
    let opts = match number % 5 {
        0 => format!(r#","opts":{{"id":"id-{number}"}}"#),
        1 => r#","opts":{"receipt":true}"#.into(),
        _ => String::new(),
    };
    publisher.send(&format!(r#"{{"t":6,{to},"msg":"{text}"{opts},"num":{number}}}"#));
    let answer = loop {
        let frame = publisher.json();
        if frame["t"] != -8 && frame["t"] != 13 {
            break frame;
        }
    };
    assert_eq!((&answer["t"], &answer["num"]), (&(-6).into(), &number.into()), "{answer}");
    let mid = mid_of(&answer);
    for alias in &receivers {
        known.owed.entry(alias.clone()).or_default().insert(mid);
    }
    known.messages.insert(mid, (text, receivers));
    match number % 5 {
        0 => drop(known.ids.insert(format!("id-{number}"), mid)),
        1 => known.reports.push(mid),
        _ => {}
    }
}

fn mid_of(frame: &Value) -> u64 {
    frame["mid"].as_str().unwrap_or_else(|| panic!("no mid: {frame}")).parse().unwrap()
}

/// One alias acknowledges a few; what it gets meanwhile is not read.
fn acknowledge(porter: &Porter, known: &mut Known, random: &mut Seeded) {
    let name = alias(random.below(ALIASES));
    let Some(owed) = known.owed.get_mut(&name) else { return };
    let some: Vec<u64> = owed.iter().copied().take(6).collect();
    owed.retain(|mid| !some.contains(mid));
    let texts: Vec<String> = some.iter().map(u64::to_string).collect();
    let mut client = Client::connect(porter.tcp);
    client.send(&format!(r#"{{"t":-5,"alias":"{name}","mid":{}}}"#, serde_json::to_string(&texts).unwrap()));
    client.send(r#"{"t":7}"#);
    while client.json()["t"] != -7 {}
}

/// What is done to a file, as a text for whoever looks for the cause.
fn damage(path: &Path, random: &mut Seeded) -> String {
    let mut bytes = fs::read(path).unwrap();
    let len = bytes.len();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    if len == 0 {
        return format!("{name} is empty");
    }
    // Heads and the first tables are a small part of a file, and the most is to be broken there.
    let at = if random.below(4) == 0 { random.below(len.min(100)) } else { random.below(len) };
    let block = |size: usize| (at / size * size)..(at / size * size + size).min(len);
    let done = match random.below(10) {
        0..=3 => {
            bytes[at] ^= 1 << random.below(8);
            format!("one bit at {at}")
        }
        4 | 5 => {
            let places: Vec<usize> = (0..2 + random.below(30)).map(|_| random.below(len)).collect();
            places.iter().for_each(|place| bytes[*place] ^= 1 << random.below(8));
            format!("bits at {places:?}")
        }
        6 => {
            let end = len.min(at + 16);
            bytes[at..end].iter_mut().for_each(|byte| *byte ^= random.next_u64() as u8);
            format!("bytes at {at}..{end}")
        }
        7 => {
            bytes[block(PAGE_BYTES)].fill(0);
            format!("zeros at {:?}", block(PAGE_BYTES))
        }
        8 => {
            bytes[block(512)].iter_mut().for_each(|byte| *byte = random.next_u64() as u8);
            format!("noise at {:?}", block(512))
        }
        _ => {
            let left = random.below(len);
            bytes.truncate(left);
            format!("cut to {left} of {len}")
        }
    };
    fs::write(path, bytes).unwrap();
    format!("{name}: {done}")
}

fn copy(of: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(of).unwrap() {
        let from = entry.unwrap().path();
        let name = from.file_name().unwrap().to_owned();
        if name == "reserve" {
            // A hole: 200 of them would fill the disk.
            fs::File::create(to.join(name)).unwrap().set_len(RESERVE_BYTES).unwrap();
        } else if from.is_file() {
            fs::copy(&from, to.join(name)).unwrap();
        }
    }
}

fn pick_file(random: &mut Seeded) -> &'static str {
    let mut ticket = random.below(FILES.iter().map(|(_, weight)| weight).sum());
    for (name, weight) in FILES {
        if ticket < weight {
            return name;
        }
        ticket -= weight;
    }
    unreachable!("the ticket is below the sum")
}

/// Whether one of the words comes in the log: it is written by a thread of its own, which may be late.
fn is_logged(porter: &Porter, words: &[&str]) -> bool {
    let end = Instant::now() + DEADLINE;
    while !words.iter().any(|words| porter.log().contains(words)) {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// One start on a damaged folder.
struct Start<'a> {
    porter: &'a Porter,
    known: &'a Known,
    what: &'a str,
    /// The first or the second.
    number: usize,
    is_keyring_whole: bool,
    /// What has to be above.
    floor: u64,
    /// An earlier start has told that something is missing.
    is_announced: bool,
    missing: Vec<String>,
}

impl Start<'_> {
    fn expect_alive(&self) {
        let mut door = Client::bound(self.porter.tcp, "gate-controller");
        door.send(r#"{"t":10,"r":"gate","u":"door"}"#);
        door.expect_nothing();
        let mut phone = Client::connect(self.porter.tcp);
        phone.send(r#"{"t":8,"r":"gate","u":"m_1"}"#);
        while door.json()["t"] != 8 {}
    }

    /// All that an alias gets, up to a message that is published now.
    fn receive(&mut self, alias: &str) {
        let mut receiver = Client::bound(self.porter.tcp, alias);
        let mut publisher = Client::connect(self.porter.tcp);
        let farewell = format!("farewell {}", self.number);
        publisher.send(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":"{farewell}"}}"#));
        let mut got = BTreeSet::new();
        loop {
            let push = receiver.json();
            assert_eq!(push["t"], 5, "{}: {push}", self.what);
            let mid = mid_of(&push);
            if push["msg"] == farewell.as_str() {
                assert!(mid > self.floor, "{}: {mid} is not above {}", self.what, self.floor);
                receiver.acknowledge(&mid.to_string());
                self.floor = mid;
                break;
            }
            if push["msg"].as_str().is_some_and(|text| text.starts_with("farewell")) {
                // Of the start before, whose acknowledgement had not come to the disk.
                receiver.acknowledge(&mid.to_string());
                continue;
            }
            let Some((text, receivers)) = self.known.messages.get(&mid) else { panic!("{}: never published: {push}", self.what) };
            assert!(push["msg"] == text.as_str() && push["alias"] == alias, "{}: altered: {push}", self.what);
            assert!(receivers.contains(alias), "{}: {alias} got what was for {receivers:?}", self.what);
            got.insert(mid);
        }
        assert_eq!(publisher.json()["t"], -6, "{}", self.what);
        let owed = self.known.owed.get(alias).cloned().unwrap_or_default();
        self.missing.extend(owed.difference(&got).map(|mid| format!("{alias} misses {mid}")));
        receiver.send(r#"{"t":3}"#);
        let topics = receiver.json();
        if topics["topic"] != serde_json::json!(self.known.topics[alias]) {
            self.missing.push(format!("{alias} has {topics}"));
        }
    }

    fn repeat_ids(&mut self) {
        let mut publisher = Client::bound(self.porter.tcp, "publisher");
        for (id, first) in self.known.ids.iter().take(5) {
            publisher.send(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"nobody","msg":"again","opts":{{"id":"{id}"}}}}"#));
            let answer = loop {
                let frame = publisher.json();
                if frame["t"] != 13 {
                    break frame;
                }
            };
            if answer["code"] == "unavailable" || mid_of(&answer) != *first {
                self.missing.push(format!("{id} is not known"));
            }
        }
    }

    fn use_tokens(&self) {
        let status = |token: &str| http(self.porter.rest, "GET", &format!("/info/{token}"), "").status;
        let altered = format!("{}{}", if self.known.manage.starts_with('0') { '1' } else { '0' }, &self.known.manage[1..]);
        for bad in [&self.known.revoked, &altered] {
            assert_eq!(status(bad), 401, "{}: a bad token is taken", self.what);
        }
        for good in [&*self.known.manage, FIXED] {
            let found = status(good);
            let is_told = found == 401 && is_logged(self.porter, &["keyring_broken reason="]);
            assert!(found == 200 || (is_told && !self.is_keyring_whole), "{}: {found} for a good token", self.what);
        }
        for mid in self.known.reports.iter().take(3) {
            let answer = http(self.porter.rest, "GET", &format!("/info/message/{mid}/{}", self.known.manage), "");
            assert!([200, 401, 404].contains(&answer.status), "{}: {answer:?}", self.what);
        }
    }

    /// Returns the highest mid seen, and whether it was told that something is missing.
    fn check(mut self) -> (u64, bool) {
        self.expect_alive();
        for number in 0..ALIASES {
            self.receive(&alias(number));
        }
        self.repeat_ids();
        self.use_tokens();
        self.expect_alive();
        let is_announced = self.is_announced || ANNOUNCED.iter().any(|words| self.porter.log().contains(words));
        let is_announced = is_announced || (!self.missing.is_empty() && is_logged(self.porter, &ANNOUNCED));
        let log = self.porter.log();
        assert!(!log.contains("panic at="), "{}:\n{log}", self.what);
        let some = &self.missing[..self.missing.len().min(5)];
        assert!(some.is_empty() || is_announced, "{}: {some:?} and not a word of it:\n{log}", self.what);
        (self.floor, is_announced)
    }
}

/// Damages a copy and starts on it twice. Returns whether anything was missing or set aside.
fn survive(master: &Path, known: &Known, seed: u64, number: usize) -> &'static str {
    let mut random = Seeded(seed.wrapping_add(number as u64));
    let folder = Folder::new();
    copy(master, &folder.data());
    let file = pick_file(&mut random);
    let what = format!("copy {number}, {}", damage(&folder.data().join(file), &mut random));
    let is_keyring_whole = !["master.key", "revoked", "imported"].contains(&file);
    let (mut floor, mut is_announced) = (known.highest(), false);
    let mut told = "whole";
    for start in 1..=2 {
        let porter = Porter::start(&folder);
        let what = format!("{what}, start {start}");
        let run = Start { porter: &porter, known, what: &what, number: start, is_keyring_whole, floor, is_announced, missing: Vec::new() };
        (floor, is_announced) = run.check();
        let log = porter.log();
        for name in ["rows_damaged", "mids_damaged", "data_lost", "database_set_aside", "keyring_broken"] {
            if start == 1 && log.contains(&format!("{name} reason=")) {
                told = name;
            }
        }
        if number.is_multiple_of(2) {
            porter.kill();
        } else {
            assert_eq!(porter.terminate().0, Some(0), "{what}");
        }
    }
    told
}

#[test]
fn of_200_broken_folders_every_one_starts_and_none_lies() {
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = setting("PORTER_BROKEN_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("PORTER_BROKEN_SEED={seed}");
    let folder = Folder::new();
    let known = fill(&folder, &mut Seeded(seed));
    let master: PathBuf = folder.data();
    let copies = setting("PORTER_BROKEN_COPY").map_or(0..COPIES, |copy| copy as usize..copy as usize + 1);
    let next = AtomicUsize::new(copies.start);
    let told = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= copies.end {
                        return;
                    }
                    let result = survive(&master, &known, seed, number);
                    *told.lock().unwrap().entry(result).or_insert(0) += 1;
                }
            });
        }
    });
    let told = told.into_inner().unwrap();
    eprintln!("{told:?}");
    assert_eq!(told.values().sum::<usize>(), copies.len());
    // Not all damage matters, but a test in which none does tests nothing.
    assert!(copies.len() < COPIES || (told["database_set_aside"] > 10 && told["data_lost"] > 10), "{told:?}");
}
