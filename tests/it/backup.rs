//! `porter backup` of a running server and `porter restore`: what was promised before a backup is in it, message numbers only
//! grow, and neither a full disk nor a kill leaves anything that only looks good (Protocol §1, Design §6).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::clients::Client;
use crate::porter::{DEADLINE, Folder, Porter, command, run};
use crate::seeded::Seeded;

/// What the database holds before a backup is made under load: so much that the copy takes a while.
const FILLED: u64 = 6_000;
/// Bytes of each of those messages.
const BODY_BYTES: usize = 8_000;
/// Aliases that they wait for: below the cap of one.
const ALIASES: u64 = 4;
/// While a backup runs, publishes are answered at least this fraction as often as before it.
const SLOWER_AT_MOST: u32 = 20;
/// Restores that are killed.
const KILLS: usize = 30;

/// A file system of its own in memory, so small that it can be full; unmounted at its end.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(at: PathBuf, bytes: u64) -> SmallDisk {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=700"), "porter-test"]).arg(&at).output();
        let mounted = mounted.unwrap();
        let why = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "a full disk can only be tested with the right to mount one (root or CAP_SYS_ADMIN): {why}");
        SmallDisk(at)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Makes a backup, which must be good.
#[track_caller]
pub fn backup(folder: &Folder, name: &str) -> PathBuf {
    let target = folder.path().join(name);
    expect_done(&run(folder, &["backup", target.to_str().unwrap()], &[]));
    target
}

#[track_caller]
fn expect_done(output: &Output) {
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

fn restore(folder: &Folder, backup: &Path) -> Output {
    run(folder, &["restore", backup.to_str().unwrap()], &[])
}

/// What it must have failed with.
#[track_caller]
fn expect_failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Publishes to an alias that is away; the mid.
#[track_caller]
fn publish(porter: &Porter, alias: &str) -> u64 {
    let answer = Client::connect(porter.tcp).publish(alias, "1", 1);
    answer["mid"].as_str().unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
}

fn alias(number: u64) -> String {
    format!("away-{}", number % ALIASES)
}

/// Stores many messages, quickly.
fn fill(porter: &Porter, messages: u64) {
    let mut client = Client::connect(porter.tcp);
    let body = "x".repeat(BODY_BYTES);
    for first in (0..messages).step_by(100) {
        for number in first..first + 100 {
            let alias = alias(number);
            client.send(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":"{body}","num":{number}}}"#));
        }
        (0..100).for_each(|_| assert_eq!(client.json()["t"], -6));
    }
}

/// A publisher with one publish outstanding, until it is stopped. What it was answered, in order, with the time.
struct Stream {
    answered: Arc<Mutex<Vec<(String, Instant)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    fn start(porter: &Porter) -> Stream {
        let (answered, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (mut client, kept, stopped) = (Client::connect(porter.tcp), Arc::clone(&answered), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let answer = client.publish(&alias(number), "1", number);
                kept.lock().unwrap().push((answer["mid"].as_str().unwrap().to_owned(), Instant::now()));
            }
        });
        Stream { answered, stop, thread: Some(thread) }
    }

    fn answered(&self) -> Vec<(String, Instant)> {
        self.answered.lock().unwrap().clone()
    }

    fn await_answers(&self, count: usize) {
        let end = Instant::now() + DEADLINE;
        while self.answered.lock().unwrap().len() < count {
            assert!(Instant::now() < end, "no {count} answers");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The mids that wait for the aliases of [`alias`].
fn waiting(porter: &Porter) -> BTreeSet<String> {
    let all = (0..ALIASES).flat_map(|number| waiting_for(porter, &alias(number)));
    all.collect()
}

/// The mids that wait for an alias, by pulling.
fn waiting_for(porter: &Porter, alias: &str) -> BTreeSet<String> {
    let mut client = Client::connect(porter.tcp);
    let mut mids = BTreeSet::new();
    client.send(&format!(r#"{{"t":4,"alias":"{alias}","num":"pull"}}"#));
    loop {
        let frame = client.json();
        match frame["t"].as_i64() {
            Some(5) => drop(mids.insert(frame["mid"].as_str().unwrap().to_owned())),
            Some(-4) => {
                let page: Vec<String> = frame["mid"].as_array().unwrap().iter().map(|mid| mid.as_str().unwrap().to_owned()).collect();
                client.send(&format!(r#"{{"t":-5,"mid":{}}}"#, serde_json::to_string(&page).unwrap()));
                mids.extend(page);
                if frame["more"] != true {
                    return mids;
                }
                client.send(r#"{"t":4,"num":"pull"}"#);
            }
            _ => panic!("{frame}"),
        }
    }
}

#[test]
fn a_backup_of_a_busy_server_holds_all_that_was_answered_before_and_does_not_hold_it_up() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    fill(&porter, FILLED);
    let stream = Stream::start(&porter);
    stream.await_answers(200);
    let before = stream.answered();
    let begin = Instant::now();
    let kept = backup(&folder, "b.db");
    let took = begin.elapsed();
    let after = stream.answered();
    stream.end();

    let pace_before = before[before.len() - 1].1.duration_since(before[0].1) / u32::try_from(before.len()).unwrap();
    let pace = took / u32::try_from(after.len() - before.len()).expect("none was answered during the backup");
    eprintln!("backup of {} MB took {took:?}; a publish took {pace:?}, before it {pace_before:?}", kept.metadata().unwrap().len() >> 20);
    assert!(pace < pace_before * SLOWER_AT_MOST, "a publish took {pace:?}, before the backup {pace_before:?}");
    assert_eq!(kept.metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(porter.terminate().0, Some(0));

    let other = Folder::new();
    let restored = restore(&other, &kept);
    expect_done(&restored);
    let said = String::from_utf8(restored.stdout).unwrap();
    assert!(said.contains("old database   there was none") && said.contains("next           start porter"), "{said}");
    let porter = Porter::start(&other);
    let there = waiting(&porter);
    let lost: Vec<&String> = before.iter().map(|(mid, _)| mid).filter(|mid| !there.contains(*mid)).collect();
    assert!(lost.is_empty(), "answered before the backup and not in it: {lost:?}");
    let in_all = u64::try_from(there.len()).unwrap();
    assert!(in_all >= FILLED + 200 && in_all <= FILLED + u64::try_from(after.len()).unwrap() + 1, "{in_all} are in it");
    assert!(said.contains(&format!("messages       {in_all}\n")), "{said}");
    assert!(!porter.log().contains("data_lost"), "{}", porter.log());
}

#[test]
fn numbers_grow_above_all_that_were_given_out_whatever_is_restored() {
    let folder = Folder::new();
    let mut given = BTreeSet::new();
    let mut store = |porter: &Porter| {
        let mid = publish(porter, "away");
        assert!(given.last().is_none_or(|last| mid > *last), "{mid} after {:?}", given.last());
        given.insert(mid);
    };
    let porter = Porter::start(&folder);
    store(&porter);
    let old = backup(&folder, "old.db");
    for _ in 0..3 {
        store(&porter);
    }
    porter.kill();
    for _ in 0..3 {
        let porter = Porter::start(&folder);
        store(&porter);
        porter.kill();
    }
    // A folder that knows nothing but the backup leaves room for the starts that the backup has missed.
    let other = Folder::new();
    expect_done(&restore(&other, &old));
    store(&Porter::start(&other));
    expect_done(&restore(&folder, &old));
    let porter = Porter::start(&folder);
    store(&porter);
    assert!(!porter.log().contains("data_lost"), "{}", porter.log());
    let newer = backup(&folder, "newer.db");
    porter.kill();
    // The older one once more, over the newer; then the newer one, though the file `mids` is lost.
    expect_done(&restore(&folder, &old));
    let porter = Porter::start(&folder);
    store(&porter);
    assert_eq!(porter.terminate().0, Some(0));
    fs::remove_file(folder.data().join("mids")).unwrap();
    expect_done(&restore(&folder, &newer));
    store(&Porter::start(&folder));
}

#[test]
fn a_restore_beside_a_running_server_is_refused_and_touches_nothing() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    publish(&porter, "away");
    let kept = backup(&folder, "b.db");
    publish(&porter, "away");
    let before = state(&folder);
    let said = expect_failed(&restore(&folder, &kept));
    assert!(said.contains("another porter is running on this data folder") && said.contains("stop it first"), "{said}");
    assert_eq!(state(&folder), before);
    assert_eq!(waiting_for(&porter, "away").len(), 2);
}

/// All files of the data folder with their bytes.
fn state(folder: &Folder) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder.data()).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file() && !path.ends_with("reserve")).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn what_is_no_good_backup_is_refused_with_a_reason_and_touches_nothing() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    fill(&porter, 500);
    let good = fs::read(backup(&folder, "b.db")).unwrap();
    assert_eq!(porter.terminate().0, Some(0));
    let bad = folder.path().join("bad.db");
    let sqlite = |sql: &str| expect_done(&Command::new("sqlite3").arg(&bad).arg(sql).output().unwrap());
    let cases: [(&str, &dyn Fn(), &str); 6] = [
        ("missing", &|| {}, "No such file"),
        ("text", &|| fs::write(&bad, "not a database at all\n".repeat(100)).unwrap(), "damaged or no database of porter's"),
        ("cut", &|| fs::write(&bad, &good[..good.len() / 2]).unwrap(), "damaged or no database of porter's"),
        (
            "damaged",
            &|| {
                let mut bytes = good.clone();
                bytes[good.len() / 2..good.len() / 2 + 8_192].fill(0xa5);
                fs::write(&bad, bytes).unwrap();
            },
            "damaged or no database of porter's",
        ),
        ("foreign", &|| sqlite("CREATE TABLE phones (number); INSERT INTO phones VALUES (1)"), "has not the tables of a porter database"),
        (
            "newer",
            &|| {
                fs::write(&bad, &good).unwrap();
                sqlite("PRAGMA user_version = 99");
            },
            "has version 99, but this porter knows versions up to",
        ),
    ];
    let before = state(&folder);
    for (what, make, reason) in cases {
        let _ = fs::remove_file(&bad);
        make();
        let said = expect_failed(&restore(&folder, &bad));
        assert!(said.contains(reason) && said.contains("bad.db"), "{what}: {said}");
        assert!(state(&folder) == before, "{what}");
        let empty = Folder::new();
        expect_failed(&restore(&empty, &bad));
        assert!(!empty.data().exists(), "{what}");
    }
}

#[test]
fn a_restore_killed_at_any_moment_leaves_a_folder_that_starts_with_one_of_the_two() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    fill(&porter, 2_000);
    publish(&porter, "backed-up");
    let kept = backup(&folder, "b.db");
    porter.kill();
    let begin = Instant::now();
    expect_done(&restore(&folder, &kept));
    let whole = begin.elapsed();
    let random = &mut Seeded(u64::from(std::process::id()));
    let (mut last, mut olds, mut news) = (0, 0, 0);
    for round in 0..KILLS {
        let porter = Porter::start(&folder);
        let mid = publish(&porter, "since");
        assert!(mid > last, "{mid} after {last}");
        last = mid;
        // Its log stays behind.
        porter.kill();
        let mut restoring = command(&folder, &["restore", kept.to_str().unwrap()], &[]);
        let mut restoring = restoring.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        match round % 3 {
            0 => std::thread::sleep(whole.mul_f64(random.below(1_000) as f64 / 1_000.0)),
            // Around the step by which it comes into force.
            1 => await_file(&folder.data().join("porter.db.restored"), &mut restoring),
            _ => await_file(&folder.data().join("porter.db.restoring-wal"), &mut restoring),
        }
        std::thread::sleep(Duration::from_micros(random.below(2_000) as u64));
        restoring.kill().unwrap();
        restoring.wait().unwrap();
        let porter = Porter::start(&folder);
        let (since, backed_up) = (waiting_for_unacknowledged(&porter, "since"), waiting_for_unacknowledged(&porter, "backed-up"));
        assert_eq!(backed_up, 1, "round {round}");
        if since == 0 {
            news += 1
        } else {
            olds += 1
        }
        assert!(!porter.log().contains("data_lost"), "round {round}: {}", porter.log());
        porter.kill();
        let left: Vec<_> = state(&folder).into_keys().filter(|path| path.to_string_lossy().contains("porter.db.restored")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    eprintln!("killed {KILLS} restores of {whole:?}: {olds} times the old database was in force, {news} times the new one");
    assert!(olds > 0 && news > 0, "the kills missed a side: {olds} old, {news} new");
    // What killed restores left is gone with one that ends.
    expect_done(&restore(&folder, &kept));
    assert!(state(&folder).keys().all(|path| !path.to_string_lossy().contains("restor")));
}

/// Waits until a file is there, or the process has ended.
fn await_file(path: &Path, process: &mut std::process::Child) {
    let end = Instant::now() + DEADLINE;
    while !path.exists() && process.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "no {}", path.display());
    }
}

/// How many messages wait for an alias, which stays as it is.
fn waiting_for_unacknowledged(porter: &Porter, alias: &str) -> usize {
    let mut client = Client::connect(porter.tcp);
    client.send(&format!(r#"{{"t":4,"alias":"{alias}","num":"pull"}}"#));
    loop {
        let frame = client.json();
        if frame["t"] == -4 {
            return frame["mid"].as_array().unwrap().len();
        }
    }
}

#[test]
fn a_backup_that_finds_no_space_leaves_no_file_that_looks_good() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    fill(&porter, 1_500);
    let disk = SmallDisk::mount(folder.path().join("usb"), 8 << 20);
    let target = disk.path().join("b.db");
    let said = expect_failed(&run(&folder, &["backup", target.to_str().unwrap()], &[]));
    assert!(said.contains("too little space for") && said.contains("b.db"), "{said}");
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
    // A disk that fails in the middle: a limit on the size of files, whose signal the shell has ignored. The old backup stays.
    let kept = backup(&folder, "b.db");
    let old = fs::read(&kept).unwrap();
    let failing = command(&folder, &["backup", kept.to_str().unwrap(), "--overwrite"], &[]);
    let script = "trap '' XFSZ; ulimit -f 4000; exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(failing.get_program()).args(failing.get_args()).current_dir(folder.path());
    let said = expect_failed(&shell.output().unwrap());
    assert!(said.contains("can't copy") && said.contains("b.db.unfinished"), "{said}");
    assert!(fs::read(&kept).unwrap() == old && !kept.with_extension("db.unfinished").exists());
    // The server has noticed nothing.
    publish(&porter, "away");
    assert!(!porter.log().contains("disk_"), "{}", porter.log());
}

#[test]
fn an_interrupted_backup_leaves_at_most_a_file_that_says_so() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    fill(&porter, 3_000);
    let (target, unfinished) = (folder.path().join("b.db"), folder.path().join("b.db.unfinished"));
    let mut running = command(&folder, &["backup", target.to_str().unwrap()], &[]).stdout(Stdio::null()).spawn().unwrap();
    await_file(&unfinished, &mut running);
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    assert!(!running.wait().unwrap().success() && !target.exists());
    assert_eq!(backup(&folder, "b.db"), target);
    assert!(!unfinished.exists());
}

#[test]
fn what_root_restores_belongs_to_the_account_that_the_folder_belongs_to() {
    const ACCOUNT: u32 = 12_345;
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    publish(&porter, "away");
    let kept = backup(&folder, "b.db");
    porter.kill();
    std::os::unix::fs::chown(folder.data(), Some(ACCOUNT), Some(ACCOUNT)).unwrap();
    for entry in fs::read_dir(folder.data()).unwrap() {
        std::os::unix::fs::chown(entry.unwrap().path(), Some(ACCOUNT), Some(ACCOUNT)).unwrap();
    }
    expect_done(&restore(&folder, &kept));
    for entry in fs::read_dir(folder.data()).unwrap() {
        let entry = entry.unwrap();
        let file = entry.metadata().unwrap();
        let mode = if file.is_dir() { 0o700 } else { 0o600 };
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (ACCOUNT, ACCOUNT, mode), "{:?}", entry.file_name());
    }
}
