//! A wall clock that steps, starts in 1970 or stands decades ahead: what lives goes on, what is over stays over (Protocol §4).
//!
//! The server runs under libfaketime, which moves the wall clock by what a file says, from one look at it to the next; the
//! monotonic clock stays the machine's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::clients::{Client, http};
use crate::porter::{DEADLINE, FREE_PORTS, Folder, Porter, command, manage_token, token};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;
/// What a busy machine may add between two looks at a clock, ms.
const TOLERANCE_MS: u64 = 20_000;
/// Lines about steps that the server may log in ten minutes.
const STEPS_LOGGED_MAX: usize = 10;
/// The last minute of the year 9999, s since 1970.
const YEARS_END_9999: i64 = 253_402_300_740;

/// The wall clock of a server, and the folder that it keeps.
struct Site {
    folder: Folder,
    offset: PathBuf,
}

impl Site {
    fn new() -> Site {
        let folder = Folder::new();
        let offset = folder.path().join("offset");
        let site = Site { folder, offset };
        site.step(0);
        site
    }

    /// Moves the wall clock to so many seconds after the real one.
    fn step(&self, offset_s: i64) {
        // Renamed: the server may look at any moment.
        let new = self.offset.with_extension("new");
        fs::write(&new, format!("{offset_s:+}")).unwrap();
        fs::rename(new, &self.offset).unwrap();
    }

    fn start(&self, flags: &[&str]) -> Porter {
        let mut command = command(&self.folder, &["serve"], FREE_PORTS);
        command.args(flags).env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", &self.offset);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
        Porter::start_command(command)
    }

    /// What the sqlite3 shell says.
    fn shell(&self, sql: &str) -> String {
        let output = Command::new("sqlite3").arg(self.folder.data().join("porter.db")).arg(sql).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Debian's libfaketime, in the folder of this machine's architecture.
pub fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists());
    found.expect("libfaketime is missing: tests/set-up installs it")
}

/// The real wall clock, s.
fn real_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Publishes to an alias that is away; the mid.
fn store(client: &mut Client, alias: &str, opts: &str) -> u64 {
    let frame = format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":"hello","opts":{{{opts}}}}}"#);
    let answer = client.ask_json(&frame);
    assert_eq!(answer["t"], -6, "{answer}");
    answer["mid"].as_str().unwrap().parse().unwrap()
}

/// The server's time as a heartbeat tells it must be the real one and `offset_s`.
#[track_caller]
fn expect_time(client: &mut Client, alias: &str, offset_s: i64) {
    let ts = client.ask_json(&format!(r#"{{"t":1,"alias":"{alias}"}}"#))["ts"].as_u64().unwrap();
    let expected = ((real_now() + offset_s) * 1_000) as u64;
    assert!(ts.abs_diff(expected) < TOLERANCE_MS, "{ts} is not {expected}, at {offset_s:+} s");
}

/// A door opens at once, and says so.
#[track_caller]
fn expect_door_opens(phone: &mut Client, door: &mut Client) {
    phone.send(r#"{"t":8,"r":"door","u":"phone"}"#);
    assert_eq!(door.json()["t"], 8);
    door.send(r#"{"t":-8,"r":"door","u":"phone","ok":true}"#);
    let result = phone.json();
    assert!(result["t"] == -8 && result["ok"] == true, "{result}");
}

/// What waits for an alias: its mids, as a new session is sent them. Acknowledges nothing.
#[track_caller]
fn waiting(porter: &Porter, alias: &str) -> Vec<u64> {
    let mut session = Client::bound(porter.tcp, alias);
    session.send(r#"{"t":7,"num":"end"}"#);
    let mut mids = Vec::new();
    loop {
        let frame = session.json();
        match frame["t"].as_i64() {
            Some(5) => mids.push(frame["mid"].as_str().unwrap().parse().unwrap()),
            // Pages may come behind the answer to a later frame: all have come when a pull finds what was pushed and no more.
            Some(-7) => session.send(r#"{"t":4,"num":"all"}"#),
            Some(-4) => {
                let all: Vec<u64> = frame["mid"].as_array().unwrap().iter().map(|mid| mid.as_str().unwrap().parse().unwrap()).collect();
                assert!(mids.iter().all(|mid| all.contains(mid)), "pushed {mids:?}, pulled {all:?}");
                return all;
            }
            _ => panic!("{frame}"),
        }
    }
}

fn has_report(porter: &Porter, token: &str, mid: u64) -> bool {
    let answer = http(porter.rest, "GET", &format!("/info/message/{mid}/{token}"), "");
    assert!(matches!(answer.status, 200 | 404), "{} {}", answer.status, answer.body);
    answer.status == 200
}

/// Waits until a message that was published at `since` with that time to live is gone; it must not go earlier.
#[track_caller]
fn expect_expiry(porter: &Porter, token: &str, mid: u64, since: Instant, life: Duration) {
    while has_report(porter, token, mid) {
        assert!(since.elapsed() < life + DEADLINE, "it is {:?} old and still there", since.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(since.elapsed() >= life, "gone after {:?}", since.elapsed());
}

#[test]
fn steps_change_the_time_that_is_shown_and_nothing_else() {
    let site = Site::new();
    let token = manage_token(&site.folder);
    let porter = site.start(&[]);
    let patient = store(&mut Client::connect(porter.tcp), "away", r#""time_to_live":3600"#);
    porter.kill();

    let porter = site.start(&[]);
    // The first step is the clock being set. It must not be one of those below.
    site.step(2);
    porter.await_log("clock_step");
    let mut quiet = Client::bound(porter.tcp, "quiet");
    let (mut phone, mut door) = (Client::bound(porter.tcp, "phone"), Client::bound(porter.tcp, "door"));
    let repeated = store(&mut phone, "away", r#""time_to_live":3600,"id":"mine""#);
    let lives = [Duration::from_secs(2), Duration::from_secs(4)];
    let published = Instant::now();
    let short = lives.map(|life| store(&mut phone, "brief", &format!(r#""time_to_live":{}"#, life.as_secs())));
    let mut newest = short[1];
    let steps = [10 * YEAR, -10 * YEAR, YEAR, -YEAR, DAY, -DAY, HOUR, -HOUR, MINUTE, -MINUTE, 1, -1];
    for offset in steps {
        for at in [offset, 0] {
            site.step(at);
            expect_time(&mut phone, "phone", at);
            expect_door_opens(&mut phone, &mut door);
            let mid = store(&mut phone, "door", "");
            assert!(mid > newest, "{mid} after {newest}, at {at:+} s");
            newest = mid;
            let pushed = door.json();
            let expected = ((real_now() + at) * 1_000) as u64;
            assert!(pushed["ts"].as_u64().unwrap().abs_diff(expected) < TOLERANCE_MS, "{pushed} at {at:+} s");
            door.acknowledge(pushed["mid"].as_str().unwrap());
            assert_eq!(store(&mut phone, "away", r#""id":"mine""#), repeated, "{at:+} s");
            assert!(has_report(&porter, &token, patient), "expired at {at:+} s");
        }
    }
    // What looks at the time by itself has looked, too: a decade ahead, and a decade behind.
    for (offset, mid, life) in [(10 * YEAR, short[0], lives[0]), (-10 * YEAR, short[1], lives[1])] {
        site.step(offset);
        expect_expiry(&porter, &token, mid, published, life);
        assert_eq!(waiting(&porter, "away"), [patient, repeated]);
    }
    expect_time(&mut quiet, "quiet", -10 * YEAR);

    for jump in 0..100 {
        site.step(jump % 2 * HOUR);
        expect_time(&mut phone, "phone", jump % 2 * HOUR);
    }
    let log = porter.log();
    let logged = log.lines().filter(|line| line.contains("clock_step")).count();
    assert!((2..=STEPS_LOGGED_MAX).contains(&logged), "{logged} of more than 100 steps were logged:\n{log}");
    let decade_on = 1970 + (real_now() + 10 * YEAR) / (YEAR + DAY / 4);
    let of_then = |line: &str| (decade_on - 1..=decade_on + 1).any(|year| line.starts_with(&format!("{year}-")));
    assert!(log.lines().any(|line| line.contains("clock_step") && of_then(line)), "no line in a decade's time:\n{log}");
}

#[test]
fn a_token_that_was_over_stays_so_when_the_clock_goes_back() {
    let site = Site::new();
    let porter = site.start(&["--auth-devices", "token"]);
    let forever = manage_token(&site.folder);
    let [device, manage] =
        ["device", "manage"].map(|role| token(&site.folder, &["--role", role, "--label", role, "--alias", "a", "--expires", "24h"]));
    let bind = format!(r#"{{"t":11,"alias":"a","token":"{device}"}}"#);
    let info = |porter: &Porter, token: &str| http(porter.rest, "GET", &format!("/info/{token}"), "").status;
    let commit = |porter: &Porter| {
        let frame = r#"{"t":6,"method":"publish_to_alias","alias":"b","msg":1}"#;
        assert_eq!(http(porter.rest, "POST", &format!("/push/{forever}"), frame).json()["t"], -6);
    };
    let expect_over = |porter: &Porter| {
        let mut late = Client::connect(porter.tcp);
        late.expect_refusal(&bind, "bad_token");
        late.expect_end();
        assert_eq!((info(porter, &manage), info(porter, &forever)), (401, 200));
    };
    let mut link = Client::connect(porter.tcp);
    assert_eq!(link.ask_json(&bind)["t"], -11);
    assert_eq!(info(&porter, &manage), 200);

    site.step(2 * DAY);
    while let Some(line) = link.try_line() {
        assert!(line.contains("bad_token"), "{line}");
    }
    expect_over(&porter);
    commit(&porter);
    site.step(0);
    expect_over(&porter);
    porter.await_log("clock_behind");
    // The pair stored last is that of the clock as it stands now.
    commit(&porter);
    porter.kill();

    let porter = site.start(&["--auth-devices", "token"]);
    expect_over(&porter);
    // If it was the stored time that was wrong, what the log says mends it.
    porter.await_log("sqlite3 porter.db 'UPDATE meta SET newest_wall = 0, wall = 0, crc = NULL'");
    assert_eq!(porter.terminate().0, Some(0));
    site.shell("UPDATE meta SET newest_wall = 0, wall = 0, crc = NULL");
    let porter = site.start(&["--auth-devices", "token"]);
    assert_eq!(Client::connect(porter.tcp).ask_json(&bind)["t"], -11);
    assert_eq!(info(&porter, &manage), 200);
    assert!(!porter.log().contains("clock_behind"), "{}", porter.log());
}

#[test]
fn a_clock_that_starts_in_1970_ends_what_was_over_when_it_is_set() {
    let site = Site::new();
    let token = manage_token(&site.folder);
    let porter = site.start(&[]);
    let mut phone = Client::bound(porter.tcp, "phone");
    let over = store(&mut phone, "away", r#""time_to_live":100"#);
    let long = store(&mut phone, "away", r#""id":"mine""#);
    porter.kill();

    let in_1970 = 3_600 - real_now();
    site.step(in_1970);
    let porter = site.start(&[]);
    assert_eq!(waiting(&porter, "away"), [over, long]);
    let mut phone = Client::bound(porter.tcp, "phone");
    expect_time(&mut phone, "phone", in_1970);
    expect_door_opens(&mut phone, &mut Client::bound(porter.tcp, "door"));
    let later = store(&mut phone, "away", r#""time_to_live":3600"#);
    assert!(later > long);
    assert_eq!(store(&mut phone, "away", r#""id":"mine""#), long);
    assert!(porter.log().lines().all(|line| line.starts_with("1970-01-01T01:0")), "{}", porter.log());

    site.step(200);
    porter.await_log("clock_step from=1970-01-01T01:0");
    expect_time(&mut phone, "phone", 200);
    assert_eq!(waiting(&porter, "away"), [long, later], "the time that the server was down counts");
    let asked = Instant::now();
    while has_report(&porter, &token, over) {
        assert!(asked.elapsed() < DEADLINE, "its deliveries are not ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Another step is somebody playing with the clock.
    site.step(20 * DAY);
    expect_time(&mut phone, "phone", 20 * DAY);
    assert_eq!(waiting(&porter, "away"), [long, later]);
    assert_eq!(store(&mut phone, "away", r#""id":"mine""#), long);
    porter.kill();

    site.step(0);
    let porter = site.start(&[]);
    assert_eq!(waiting(&porter, "away"), [long, later]);
    assert!(store(&mut Client::connect(porter.tcp), "away", "") > later);
}

#[test]
fn a_new_folder_and_a_full_one_serve_in_1970_in_twenty_years_and_in_9999() {
    let site = Site::new();
    site.step(-real_now());
    let porter = site.start(&[]);
    let token = manage_token(&site.folder);
    let year = crate::porter::token(&site.folder, &["--role", "manage", "--label", "year", "--expires", "365d"]);
    let info = |porter: &Porter, token: &str| http(porter.rest, "GET", &format!("/info/{token}"), "").status;
    let mut phone = Client::bound(porter.tcp, "phone");
    expect_time(&mut phone, "phone", -real_now());
    let owed = store(&mut phone, "away", r#""time_to_live":3600,"receipt":true,"id":"mine""#);
    assert_eq!((info(&porter, &token), info(&porter, &year)), (200, 200));
    site.step(0);
    expect_time(&mut phone, "phone", 0);
    assert_eq!(waiting(&porter, "away"), [owed], "a clock that is set ends nothing that is new");
    expect_door_opens(&mut phone, &mut Client::bound(porter.tcp, "door"));
    porter.kill();

    let mut newest = owed;
    for offset in [20 * YEAR, YEARS_END_9999 - real_now(), 0] {
        site.step(offset);
        let porter = site.start(&[]);
        let mut phone = Client::bound(porter.tcp, "phone");
        let mut door = Client::bound(porter.tcp, "door");
        expect_time(&mut phone, "phone", offset);
        expect_door_opens(&mut phone, &mut door);
        assert_eq!(waiting(&porter, "away"), [owed], "{offset:+} s");
        assert_eq!(store(&mut phone, "away", r#""id":"mine""#), owed);
        let mid = store(&mut phone, "gone", r#""time_to_live":3600"#);
        assert!(mid > newest, "{mid} after {newest}, at {offset:+} s");
        newest = mid;
        // The housekeeping of this start is committed before that publish: it must not have taken what is young.
        assert!(has_report(&porter, &token, owed), "{offset:+} s");
        assert_ne!(site.shell("SELECT count(*) FROM door_log"), "0", "{offset:+} s");
        assert_eq!(site.shell(&format!("SELECT count(*) FROM report WHERE mid = {owed}")), "1", "{offset:+} s");
        assert_eq!((info(&porter, &token), info(&porter, &year)), (200, 401), "{offset:+} s");
        if offset > 20 * YEAR {
            // Over the end of the year.
            site.step(offset + 2 * MINUTE);
            expect_time(&mut phone, "phone", offset + 2 * MINUTE);
            expect_door_opens(&mut phone, &mut door);
            porter.await_log("10000-01-01T00:");
        }
        porter.kill();
    }
    let newest_wall: i64 = site.shell("SELECT newest_wall FROM meta").parse().unwrap();
    assert!(newest_wall > YEARS_END_9999 * 1_000, "{newest_wall}");
}
