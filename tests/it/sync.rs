//! A disk whose syncs fail, and one whose writes hang: the real server with a library before it that stands for the disk
//! (`failing_sync.c`). Nothing is confirmed that is not on disk, nobody waits who need not, and storing goes on by itself
//! (Protocol §4, Design §6).

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::clients::Client;
use crate::disk::{RESUMED_WITHIN, Site};
use crate::porter::{FREE_PORTS, Folder, Porter, command};

/// `unavailable` comes within this time where the disk says that it fails (Protocol §4).
const FAILED_WITHIN: Duration = Duration::from_secs(1);
/// And where it says nothing: 5 s, and what a busy machine may add.
const HANGING_WITHIN: Duration = Duration::from_secs(7);
/// Round trips of live traffic that are measured, and how many times their usual median they may take while the disk fails: other
/// programs run on the machine as well.
const ROUND_TRIPS: usize = 300;
const SLOWER_MAX: f64 = 3.0;

/// A disk that does as it is told.
struct Disk {
    faults: PathBuf,
    library: PathBuf,
}

impl Disk {
    fn new(folder: &Folder) -> Disk {
        let faults = folder.path().join("faults");
        fs::create_dir(&faults).unwrap();
        let library = folder.path().join("failing_sync.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/failing_sync.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Disk { faults, library }
    }

    fn start(&self, folder: &Folder) -> Porter {
        let mut porter = command(folder, &["serve"], FREE_PORTS);
        porter.env("LD_PRELOAD", &self.library).env("DISK_FAULTS", &self.faults);
        Porter::start_command(porter)
    }

    fn begin(&self, fault: &str) {
        fs::write(self.faults.join(fault), "").unwrap();
    }

    fn end(&self, fault: &str) {
        fs::remove_file(self.faults.join(fault)).unwrap();
    }
}

/// The median time of a publish to an alias that is here and acknowledges, and of an opening with its result.
fn round_trip(site: &mut Site) -> f64 {
    let mut times: Vec<f64> = (0..ROUND_TRIPS)
        .map(|_| {
            let begin = Instant::now();
            site.expect_live();
            begin.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUND_TRIPS / 2]
}

fn expect_as_fast(site: &mut Site, before: f64, when: &str) {
    let now = round_trip(site);
    eprintln!("a round trip {when}: {:.3} of before", now / before);
    assert!(now / before < SLOWER_MAX, "{when}: {now} s, before {before} s");
}

/// Publishes to who is not there; the answer must come within `within`.
fn publish(site: &mut Site, promised: &mut BTreeSet<String>, within: Duration) -> bool {
    let begin = Instant::now();
    let mid = site.publish_offline_within(within);
    assert!(begin.elapsed() < within, "it took {:?}", begin.elapsed());
    let is_taken = mid.is_some();
    promised.extend(mid);
    is_taken
}

fn await_storing(site: &mut Site, promised: &mut BTreeSet<String>, porter: &Porter) {
    let begin = Instant::now();
    while !publish(site, promised, HANGING_WITHIN) {
        assert!(begin.elapsed() < RESUMED_WITHIN, "nothing is stored after {:?}:\n{}", begin.elapsed(), porter.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    eprintln!("storing again after {:?}", begin.elapsed());
}

/// What came to the alias that was away, up to a message published now.
fn delivered(porter: &Porter) -> Vec<String> {
    let mut away = Client::bound(porter.tcp, "away");
    let mut publisher = Client::connect(porter.tcp);
    let last = publisher.publish("away", "\"last\"", 1);
    assert_eq!(last["t"], -6, "{last}");
    let mut mids = Vec::new();
    loop {
        let mid = away.mid();
        if last["mid"] == mid.as_str() {
            return mids;
        }
        mids.push(mid);
    }
}

#[test]
fn after_a_failed_sync_nothing_counts_before_the_log_is_in_the_database() {
    let folder = Folder::new();
    let disk = Disk::new(&folder);
    let porter = disk.start(&folder);
    let mut site = Site::new(&porter);
    let mut promised = BTreeSet::new();
    for _ in 0..50 {
        assert!(publish(&mut site, &mut promised, HANGING_WITHIN));
    }
    let before = round_trip(&mut site);

    disk.begin("fail-sync");
    assert!(!publish(&mut site, &mut promised, FAILED_WITHIN), "a batch that was not synced is confirmed");
    porter.await_log("store event=disk_failed");
    porter.await_log("store event=not_reopened");
    expect_as_fast(&mut site, before, "while syncs fail");
    assert!(!publish(&mut site, &mut promised, FAILED_WITHIN));

    // Now the log could be synced, and a commit would succeed; but what stands in the log before it is of unknown fate.
    disk.begin("fail-checkpoint");
    disk.end("fail-sync");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        assert!(!publish(&mut site, &mut promised, FAILED_WITHIN), "confirmed behind frames of unknown fate");
        site.expect_live();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!porter.log().contains("store event=reopened"), "{}", porter.log());

    disk.end("fail-checkpoint");
    await_storing(&mut site, &mut promised, &porter);
    assert!(porter.log().contains("store event=reopened"), "{}", porter.log());
    for _ in 0..50 {
        assert!(publish(&mut site, &mut promised, HANGING_WITHIN));
    }
    porter.kill();
    let got: BTreeSet<String> = delivered(&Porter::start(&folder)).into_iter().collect();
    assert_eq!(got, promised, "what was answered with -6, and nothing that was refused");
}

#[test]
fn while_writes_hang_nobody_waits_but_who_asked_for_the_disk_and_that_not_for_long() {
    let folder = Folder::new();
    let disk = Disk::new(&folder);
    let porter = disk.start(&folder);
    let mut site = Site::new(&porter);
    let mut promised = BTreeSet::new();
    assert!(publish(&mut site, &mut promised, HANGING_WITHIN));
    let before = round_trip(&mut site);

    disk.begin("hang");
    let (address, begin) = (porter.tcp, Instant::now());
    let waiting = std::thread::spawn(move || Client::connect(address).publish("away", "\"hung\"", 1));
    expect_as_fast(&mut site, before, "while writes hang");
    let answer = waiting.join().unwrap();
    assert_eq!(answer["code"], "unavailable", "{answer}");
    assert!(begin.elapsed() < HANGING_WITHIN, "it took {:?}", begin.elapsed());
    site.expect_live();

    disk.end("hang");
    await_storing(&mut site, &mut promised, &porter);
    porter.kill();
    let got: BTreeSet<String> = delivered(&Porter::start(&folder)).into_iter().collect();
    assert!(got.is_superset(&promised), "{promised:?} was promised, {got:?} came");
}
