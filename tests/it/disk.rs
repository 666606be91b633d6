//! A disk that is full, and one that fails: what can be promised still is, and what was promised holds (Protocol §4, Design §6).
//!
//! The full disk is a small file system of its own, which needs the right to mount. The failing one is a limit on the size of
//! files, set on the running server: each write beyond it is an error other than "no space". Neither is ever left out.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::clients::{Client, http};
use crate::porter::{FREE_PORTS, Folder, Porter, command, manage_token};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

/// Within this time a publish that can't be kept is refused: at once, and what a busy machine may add; well before the 5 s of a
/// commit that does not come (Protocol §4).
const REFUSED_WITHIN: Duration = Duration::from_secs(4);
/// Within this time storing goes on after there is space again: a probe a second, and what a busy machine may add.
pub const RESUMED_WITHIN: Duration = Duration::from_secs(20);
/// Publishes before a disk of which the last space was taken is seen to be full.
const PUBLISHES_MAX: u64 = 10_000;
/// Messages stored before the disk breaks, and how many of them are acknowledged while it is broken.
const PROMISED: usize = 100;
const ACKNOWLEDGED: usize = 40;
/// Bytes of the small file system: the reserve, what must be free beside it, and some room.
const SMALL_DISK_BYTES: u64 = 112 << 20;

/// What the data folder lies on, and how to take its space away.
pub enum Disk {
    /// A file system of its own, unmounted at the end; `filler` takes its space.
    Small { filler: PathBuf },
    /// The limit on the size of files.
    Failing,
}

impl Disk {
    pub fn small(folder: &Folder) -> Disk {
        let data = folder.data();
        std::fs::create_dir_all(&data).unwrap();
        let size = format!("size={SMALL_DISK_BYTES},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "porter-test"]).arg(&data).output().unwrap();
        let why = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "a full disk can only be tested with the right to mount one (root or CAP_SYS_ADMIN): {why}");
        Disk::Small { filler: data.join("filler") }
    }

    /// Takes all space, or makes every write to a file fail.
    pub fn break_for(&self, porter: &Porter) {
        match self {
            Disk::Small { filler } => {
                let mut file = OpenOptions::new().create(true).append(true).open(filler).unwrap();
                let zeros = vec![0; 64 << 10];
                let error = std::iter::repeat_with(|| file.write_all(&zeros)).find_map(Result::err).unwrap();
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
            }
            Disk::Failing => limit_files(porter, Some(0)),
        }
    }

    pub fn mend_for(&self, porter: &Porter) {
        match self {
            Disk::Small { filler } => std::fs::remove_file(filler).unwrap(),
            Disk::Failing => limit_files(porter, None),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Disk::Small { filler } = self {
            let _ = Command::new("umount").arg("--lazy").arg(filler.parent().unwrap()).status();
        }
    }
}

/// How large a file the server may write; `None`: as it was.
pub fn limit_files(porter: &Porter, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(porter.pid()).unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// The server. The shell has the signal ignored that would end it at the limit: the write then fails, as on a broken disk.
pub fn start(folder: &Folder) -> Porter {
    start_with(folder, &[])
}

/// The same with flags.
pub fn start_with(folder: &Folder, flags: &[&str]) -> Porter {
    let mut porter = command(folder, &["serve"], FREE_PORTS);
    porter.args(flags);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(porter.get_program()).args(porter.get_args());
    shell.current_dir(folder.path());
    for (name, value) in porter.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    Porter::start_command(shell)
}

/// The clients of one run of the server.
pub struct Site {
    publisher: Client,
    /// Reads and acknowledges.
    live: Client,
    door: Client,
    /// Who is published to and is not there.
    absent: &'static str,
    next: u64,
}

impl Site {
    pub fn new(porter: &Porter) -> Site {
        let mut door = Client::connect(porter.tcp);
        door.send(r#"{"t":10,"r":"gate","u":"door"}"#);
        door.expect_nothing();
        Site { publisher: Client::connect(porter.tcp), live: Client::bound(porter.tcp, "live"), door, absent: "away", next: 0 }
    }

    /// Publishes to an alias that is not there: the mid, or none if it was refused. Either comes in time.
    fn publish_offline(&mut self) -> Option<String> {
        self.publish_offline_within(REFUSED_WITHIN)
    }

    /// The same, with a time of the caller's.
    pub fn publish_offline_within(&mut self, within: Duration) -> Option<String> {
        self.next += 1;
        let begin = Instant::now();
        let answer = self.publisher.publish(self.absent, &format!("\"{}\"", "x".repeat(1_000)), self.next);
        assert!(begin.elapsed() < within, "it took {:?}: {answer}", begin.elapsed());
        let mid = answer["mid"].as_str().map(ToOwned::to_owned);
        assert!(mid.is_some() || answer["code"] == "unavailable", "{answer}");
        mid
    }

    fn expect_refused(&mut self) {
        assert_eq!(self.publish_offline(), None);
        self.live.send(r#"{"t":2,"topic":["news"],"num":3}"#);
        let answer = self.live.json();
        assert_eq!((&answer["code"], &answer["num"]), (&"unavailable".into(), &3.into()), "{answer}");
    }

    /// Live traffic goes on: with an acknowledgement, without one, and to a door.
    pub fn expect_live(&mut self) {
        let begin = Instant::now();
        self.publisher.send(r#"{"t":6,"method":"publish_to_alias","alias":"live","msg":1,"num":"live"}"#);
        let push = self.live.json();
        assert_eq!((&push["t"], &push["msg"]), (&5.into(), &1.into()));
        self.live.acknowledge(push["mid"].as_str().unwrap());
        let answer = self.publisher.json();
        assert_eq!((&answer["t"], &answer["num"], &answer["mid"]), (&(-6).into(), &"live".into(), &push["mid"]), "{answer}");

        self.publisher.send(r#"{"t":6,"method":"publish_to_alias","alias":"live","msg":2,"opts":{"time_to_live":0}}"#);
        assert_eq!(self.publisher.json()["t"], -6);
        assert_eq!(self.live.json()["msg"], 2);

        self.live.send(r#"{"t":8,"r":"gate","u":"u1"}"#);
        self.door.expect(r#"{"t":8,"r":"gate","u":"u1"}"#);
        self.door.send(r#"{"t":-8,"r":"gate","u":"u1","ok":true}"#);
        let result = self.live.json();
        assert_eq!((&result["t"], &result["ok"]), (&(-8).into(), &true.into()), "{result}");
        assert!(begin.elapsed() < REFUSED_WITHIN, "live traffic took {:?}", begin.elapsed());
    }
}

/// Publishes until the disk is seen to be broken. What is answered with a mid is a promise.
fn publish_until_refused(site: &mut Site, promised: &mut BTreeSet<String>) {
    while let Some(mid) = site.publish_offline() {
        promised.insert(mid);
        assert!(site.next < PUBLISHES_MAX, "the disk does not get full");
    }
}

/// All promises reach the alias that was away; nothing that it acknowledged comes again.
fn expect_promised(porter: &Porter, promised: &BTreeSet<String>, acknowledged: &BTreeSet<String>) {
    let mut away = Client::bound(porter.tcp, "away");
    let mut left = promised.clone();
    while !left.is_empty() {
        let push = away.json();
        let mid = push["mid"].as_str().unwrap();
        assert!(!acknowledged.contains(mid), "{mid} was acknowledged and came again");
        left.remove(mid);
    }
}

/// Acknowledges a few of the promises for the alias that was away.
fn acknowledge(porter: &Porter, promised: &mut BTreeSet<String>) -> BTreeSet<String> {
    let some: BTreeSet<String> = promised.iter().take(ACKNOWLEDGED).cloned().collect();
    promised.retain(|mid| !some.contains(mid));
    let mut away = Client::connect(porter.tcp);
    away.send(&format!(r#"{{"t":-5,"alias":"away","mid":{}}}"#, serde_json::to_string(&some).unwrap()));
    away.send(r#"{"t":7}"#);
    while away.json()["t"] != -7 {}
    some
}

fn lives_through(folder: &Folder, disk: &Disk) {
    let mut porter = start(folder);
    let mut site = Site::new(&porter);
    let mut promised: BTreeSet<String> = (0..PROMISED).map(|_| site.publish_offline().unwrap()).collect();
    disk.break_for(&porter);
    publish_until_refused(&mut site, &mut promised);
    for _ in 0..3 {
        site.expect_refused();
        site.expect_live();
    }
    porter.kill();

    porter = start(folder);
    expect_promised(&porter, &promised, &BTreeSet::new());
    site = Site::new(&porter);
    disk.break_for(&porter);
    publish_until_refused(&mut site, &mut promised);
    site.expect_refused();
    let acknowledged = acknowledge(&porter, &mut promised);
    site.expect_live();
    disk.mend_for(&porter);
    let mended = Instant::now();
    let first = loop {
        match site.publish_offline() {
            Some(mid) => break mid,
            None => assert!(mended.elapsed() < RESUMED_WITHIN, "nothing is stored after {:?}:\n{}", mended.elapsed(), porter.log()),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    eprintln!("storing again after {:?}", mended.elapsed());
    promised.insert(first);
    site.expect_live();
    porter.kill();

    expect_promised(&start(folder), &promised, &acknowledged);
}

/// The server can't open its database: it is up all the same, and what it can't know it refuses. `mend` makes the disk good again.
fn comes_up_without_a_store(folder: &Folder, promised: &BTreeSet<String>, mend: impl FnOnce()) {
    let porter = start(folder);
    porter.await_log("database_not_open reason=");
    let mut site = Site::new(&porter);
    site.absent = "nobody";
    let mut away = Client::bound(porter.tcp, "away");
    for _ in 0..2 {
        site.expect_refused();
        site.expect_live();
    }
    for frame in [
        r#"{"t":6,"method":"publish","topic":"news","msg":1,"num":1}"#,
        r#"{"t":6,"method":"publish_to_alias","alias":"away","msg":1,"opts":{"id":"a"},"num":1}"#,
        r#"{"t":3,"num":1}"#,
        r#"{"t":4,"num":1}"#,
    ] {
        away.expect_refusal(frame, "unavailable");
    }
    // What it can't know is not told as if it were not.
    let mid = promised.first().unwrap();
    let recalled = http(porter.rest, "DELETE", &format!("/info/message/{mid}/{}", manage_token(folder)), "");
    assert_eq!((recalled.status, &recalled.json()["code"]), (503, &json!("unavailable")));
    mend();
    let mended = Instant::now();
    // Whoever came before the database did gets what it is owed, without asking.
    let mut left = promised.clone();
    while !left.is_empty() {
        left.remove(&away.mid());
    }
    eprintln!("delivered from the database {:?} after there is a disk", mended.elapsed());
    assert!(mended.elapsed() < RESUMED_WITHIN, "{}", porter.log());
    while site.publish_offline_within(RESUMED_WITHIN).is_none() {
        assert!(mended.elapsed() < RESUMED_WITHIN, "{}", porter.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    away.send(r#"{"t":3,"num":1}"#);
    while away.json()["t"] != -3 {}
    site.expect_live();
    porter.kill();
    // Nobody acknowledged.
    expect_promised(&start(folder), promised, &BTreeSet::new());
}

#[test]
fn a_start_on_a_disk_that_is_full_to_the_last_byte_opens_doors_and_the_rest_when_there_is_space() {
    let folder = Folder::new();
    let disk = Disk::small(&folder);
    let porter = start(&folder);
    let mut site = Site::new(&porter);
    let mut promised: BTreeSet<String> = (0..PROMISED).map(|_| site.publish_offline().unwrap()).collect();
    disk.break_for(&porter);
    publish_until_refused(&mut site, &mut promised);
    porter.kill();
    // Somebody else takes what the reserve gave back as well, and a power cut takes the log's index.
    let _ = std::fs::remove_file(folder.data().join("porter.db-shm"));
    let filling = || {
        let Disk::Small { filler } = &disk else { return };
        let mut file = OpenOptions::new().append(true).open(filler).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    };
    filling();
    comes_up_without_a_store(&folder, &promised, || {
        let Disk::Small { filler } = &disk else { return };
        std::fs::remove_file(filler).unwrap();
    });
}

#[test]
fn a_start_on_a_disk_that_can_only_be_read_opens_doors_and_the_rest_when_it_can_be_written() {
    let folder = Folder::new();
    let disk = Disk::small(&folder);
    let porter = start(&folder);
    let mut site = Site::new(&porter);
    let promised: BTreeSet<String> = (0..PROMISED).map(|_| site.publish_offline().unwrap()).collect();
    porter.kill();
    let remount = |how: &str| {
        let Disk::Small { filler } = &disk else { return };
        let done = Command::new("mount").args(["-o", how]).arg(filler.parent().unwrap()).status().unwrap();
        assert!(done.success(), "{how}");
    };
    remount("remount,ro");
    comes_up_without_a_store(&folder, &promised, || remount("remount,rw"));
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_nothing_else() {
    let folder = Folder::new();
    let disk = Disk::small(&folder);
    lives_through(&folder, &disk);
}

#[test]
fn a_failing_disk_refuses_what_it_cannot_keep_and_nothing_else() {
    lives_through(&Folder::new(), &Disk::Failing);
}
