//! Whoever watches the server is told the truth: health, figures, and the examples in `examples/` that go by them (Protocol §10).

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use porter::runtime::alarms::Alarm;
use serde_json::{Value, json};

use crate::clients::{Client, HttpAnswer, WebSocket, http};
use crate::clock;
use crate::disk::{self, Disk};
use crate::porter::{DEADLINE, FREE_PORTS, Folder, Porter, Site, command, manage_token, token};

/// A question for health is answered within a second and what a busy machine may add, whatever the disk does.
const ANSWERED_WITHIN: Duration = Duration::from_secs(4);
/// A full disk is noticed: a look each half second, and what a busy machine may add.
const NOTICED_WITHIN: Duration = Duration::from_secs(6);
/// Publishes before a disk of which the last space was taken refuses some.
const PUBLISHES_MAX: u64 = 10_000;
/// Once there is space again.
const READY_AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// What the server exports: the value of each series under its name and labels.
struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn read(address: SocketAddr, token: &str) -> Metrics {
        let answer = http(address, "GET", &format!("/metrics/{token}"), "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let samples = answer.body.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        Metrics(samples.collect())
    }

    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("there is no {series}"))
    }

    #[track_caller]
    fn expect(&self, expected: &[(&str, u32)]) {
        for (series, value) in expected {
            assert_eq!(self.get(series), f64::from(*value), "{series}");
        }
    }
}

impl Site {
    fn metrics(&self) -> Metrics {
        Metrics::read(self.porter.rest, &self.token)
    }

    /// Waits until a series has that value.
    fn await_metric(&self, series: &str, value: u32) {
        let end = Instant::now() + DEADLINE;
        while self.metrics().get(series) != f64::from(value) {
            assert!(Instant::now() < end, "{series} is {} and not {value}", self.metrics().get(series));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn ready(porter: &Porter) -> HttpAnswer {
    let begin = Instant::now();
    let answer = http(porter.rest, "GET", "/health/ready", "");
    assert!(begin.elapsed() < ANSWERED_WITHIN, "it took {:?}", begin.elapsed());
    answer
}

/// Asks until the answer has that status, at most `within`; how long that took.
fn await_ready(porter: &Porter, status: u16, within: Duration) -> (Value, Duration) {
    let begin = Instant::now();
    loop {
        let answer = ready(porter);
        if answer.status == status {
            return (answer.json(), begin.elapsed());
        }
        assert!(begin.elapsed() < within, "still {} after {:?}: {}\n{}", answer.status, begin.elapsed(), answer.body, porter.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn health_needs_no_token_and_shows_nothing_secret() {
    let site = Site::start(&[]);
    for (path, body) in [("/health/live", r#"{"status":"live"}"#), ("/health/ready", r#"{"status":"ready","alarms":[]}"#)] {
        let answer = http(site.porter.rest, "GET", path, "");
        assert_eq!((answer.status, answer.body.as_str()), (200, body));
        for header in ["Content-Type: application/json; charset=utf-8", "Cache-Control: no-store"] {
            assert!(answer.head.contains(header), "{}", answer.head);
        }
        let head = http(site.porter.rest, "HEAD", path, "");
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert!(head.head.contains(&format!("Content-Length: {}", body.len())), "{}", head.head);
        for method in ["POST", "PUT", "DELETE"] {
            let refused = http(site.porter.rest, method, path, "");
            assert_eq!((refused.status, &refused.json()["code"]), (405, &json!("bad_field")));
            assert!(refused.head.contains("Allow: GET, HEAD"), "{}", refused.head);
        }
        assert_eq!(http(site.porter.rest, "GET", path, "x").status, 413, "of those without a token no body is read");
    }
    assert_eq!(http(site.porter.rest, "GET", "/health", "").status, 404);
}

#[test]
fn metrics_need_a_management_token() {
    let site = Site::start(&[]);
    let answer = site.get("/metrics");
    assert_eq!(answer.status, 200);
    for header in ["Content-Type: text/plain; version=0.0.4; charset=utf-8", "Cache-Control: no-store"] {
        assert!(answer.head.contains(header), "{}", answer.head);
    }
    let device = token(&site.folder, &["--role", "device", "--label", "door"]);
    for (token, status, code) in [("00", 401, "bad_token"), ("-", 401, "bad_token"), (&*device, 403, "forbidden")] {
        let refused = http(site.porter.rest, "GET", &format!("/metrics/{token}"), "");
        assert_eq!((refused.status, &refused.json()["code"]), (status, &json!(code)));
    }
    assert_eq!(http(site.porter.rest, "POST", &format!("/metrics/{}", site.token), "").status, 405);
    assert_eq!(http(site.porter.rest, "GET", "/metrics", "").status, 404);
}

fn publish(client: &mut Client, alias: &str, opts: &str) -> String {
    let frame = format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":"hello","opts":{opts}}}"#);
    let answer = client.ask_json(&frame);
    assert_eq!(answer["t"], -6, "{answer}");
    answer["mid"].as_str().unwrap().to_owned()
}

/// An opening that waits in the server behind answers which its link does not read for five seconds.
fn open_too_late(site: &Site) {
    let mut opener = Client::bound(site.porter.tcp, "late");
    for part in 0..3 {
        let topics: Vec<String> = (0..300).map(|n| format!("{part}{n:0120}")).collect();
        assert_eq!(opener.ask(&json!({"t": 2, "topic": topics}).to_string()), r#"{"t":-2}"#);
    }
    let questions = "{\"t\":3}\n".repeat(400);
    opener.send_bytes(format!("{questions}{{\"t\":8,\"r\":\"R 1\",\"u\":\"late\"}}\n").as_bytes());
    std::thread::sleep(Duration::from_millis(5_100));
    while opener.json()["t"] == -3 {}
}

#[test]
fn the_figures_are_those_of_the_traffic() {
    let site = Site::start(&["--limits-deliveries-per-alias", "3"]);
    let (tcp, rest) = (site.porter.tcp, site.porter.rest);
    let mut here = Client::bound(tcp, "flat-302");
    let mut publisher = Client::connect(tcp);
    for _ in 0..5 {
        publisher.send(r#"{"t":6,"method":"publish_to_alias","alias":"flat-302","msg":1}"#);
        let mid = here.mid();
        here.acknowledge(&mid);
        assert_eq!(publisher.json()["t"], -6);
    }
    for _ in 0..5 {
        publish(&mut publisher, "flat-303", "{}");
    }
    publish(&mut publisher, "brief", r#"{"time_to_live":1}"#);
    let recalled = publish(&mut publisher, "board", "{}");
    assert_eq!(http(rest, "DELETE", &format!("/info/message/{recalled}/{}", site.token), "").json()["recalled"], 1);
    publish(&mut publisher, "flat-302", r#"{"time_to_live":0}"#);
    here.mid();

    publisher.expect_refusal("nonsense", "bad_json");
    publisher.expect_refusal(r#"{"t":99}"#, "unknown_type");
    publisher.expect_refusal(r#"{"t":6,"method":"publish","topic":"x"}"#, "missing_field");
    assert_eq!(site.push(r#"{"t":3}"#).json()["code"], "unknown_type");
    let mut thief = Client::connect(tcp);
    thief.expect_refusal(r#"{"t":11,"alias":"door","token":"0123"}"#, "bad_token");
    thief.expect_end();
    assert_eq!(http(rest, "GET", "/info/0123", "").status, 401);
    assert_eq!(http(rest, "GET", "/nowhere", "").status, 404);
    let mut browser = Client::connect(tcp);
    browser.send("GET / HTTP/1.1");
    browser.expect_end();
    assert_eq!(site.push(r#"{"t":8,"r":"no door","u":"office"}"#).json()["doors"], 0);
    open_too_late(&site);
    site.await_metric("porter_expired_total", 1);

    let metrics = site.metrics();
    metrics.expect(&[
        ("porter_publishes_total", 13),
        ("porter_deliveries_total", 13),
        ("porter_acknowledged_total", 5),
        ("porter_expired_total", 1),
        ("porter_dropped_total{reason=\"cap\"}", 2),
        ("porter_dropped_total{reason=\"recalled\"}", 1),
        ("porter_dropped_total{reason=\"row_missing\"}", 0),
        ("porter_dropped_total{reason=\"not_stored\"}", 0),
        ("porter_deliveries_waiting", 3),
        ("porter_messages_stored", 3),
        ("porter_waiting_bytes", 3 * 7),
        ("porter_binds_total", 2),
        ("porter_openings_total", 1),
        ("porter_stale_door_frames_total", 1),
        ("porter_bad_tokens_total", 2),
        ("porter_errors_total{code=\"bad_json\"}", 1),
        ("porter_errors_total{code=\"unknown_type\"}", 2),
        ("porter_errors_total{code=\"missing_field\"}", 1),
        ("porter_errors_total{code=\"bad_token\"}", 2),
        ("porter_errors_total{code=\"not_found\"}", 1),
        ("porter_errors_total{code=\"unavailable\"}", 1),
        ("porter_errors_total{code=\"internal\"}", 0),
        ("porter_connections_refused_total{reason=\"http_on_tcp\"}", 1),
        ("porter_http_requests_total{endpoint=\"push\",status=\"2xx\"}", 1),
        ("porter_http_requests_total{endpoint=\"push\",status=\"4xx\"}", 1),
        ("porter_http_requests_total{endpoint=\"info\",status=\"4xx\"}", 1),
        ("porter_http_requests_total{endpoint=\"recall\",status=\"2xx\"}", 1),
        ("porter_http_requests_total{endpoint=\"none\",status=\"4xx\"}", 1),
        ("porter_failed_commits_total", 0),
        ("porter_clock_steps_total", 0),
        ("porter_ready", 1),
    ]);
    assert_eq!(metrics.get("porter_commit_seconds_count"), metrics.get("porter_commit_seconds_bucket{le=\"+Inf\"}"));
    let age = metrics.get("porter_oldest_delivery_age_seconds");
    assert!((5.0..DEADLINE.as_secs_f64()).contains(&age), "the oldest has waited {age} s: as long as the late opening at least");
    for series in ["porter_commit_seconds_sum", "porter_wal_bytes", "porter_database_bytes", "porter_disk_free_bytes"] {
        assert!(metrics.get(series) > 0.0, "{series}");
    }
    site.await_metric("porter_sessions{transport=\"tcp\"}", 1);
    site.await_metric("porter_aliases_online", 1);
    let phone = http(site.porter.socketio, "GET", "/socket.io/?EIO=3&transport=polling&b64=1&alias=flat-304", "");
    assert_eq!(phone.status, 200, "{}", phone.body);
    site.await_metric("porter_sessions{transport=\"socketio\"}", 1);
    site.metrics().expect(&[("porter_aliases_online", 2), ("porter_http_heads_total{port=\"socketio\"}", 1)]);
    let _members = ["/capture-gate/1", "/capture-gate/1", "/group-yard/1"].map(|path| WebSocket::connect(site.porter.websocket, path));
    assert_eq!(http(site.porter.websocket, "GET", "/nowhere", "").status, 404);
    site.await_metric("porter_room_members", 3);
    site.metrics().expect(&[
        ("porter_rooms{kind=\"one_to_one\"}", 0),
        ("porter_rooms{kind=\"one_to_many\"}", 1),
        ("porter_rooms{kind=\"many_to_many\"}", 1),
        ("porter_http_heads_total{port=\"websocket\"}", 4),
    ]);
    let text = site.get("/metrics").body;
    for secret in [&*site.token, "0123", "flat-303", "flat-302", "127.0.0.1"] {
        assert!(!text.contains(secret), "{secret} is in the figures");
    }
}

#[test]
fn the_oldest_delivery_keeps_its_age_through_a_restart() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let token = manage_token(&folder);
    publish(&mut Client::connect(porter.tcp), "away", "{}");
    let age = |porter: &Porter| Metrics::read(porter.rest, &token).get("porter_oldest_delivery_age_seconds");
    let end = Instant::now() + DEADLINE;
    while age(&porter) < 2.0 {
        assert!(Instant::now() < end, "it does not age");
        std::thread::sleep(Duration::from_millis(50));
    }
    // A later commit: what counts is when it was published, not when the database was last written.
    publish(&mut Client::connect(porter.tcp), "away", "{}");
    porter.kill();
    assert!(age(&Porter::start(&folder)) >= 2.0);
}

/// All that examples and server say of each other, by the parsers of those who read them.
#[test]
fn the_examples_go_by_what_the_server_exports() {
    let site = Site::start(&[]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("tests/clients/.venv/bin/python");
    assert!(python.exists(), "{} is missing: tests/set-up makes it", python.display());
    let file = site.folder.path().join("porter.token");
    std::fs::write(&file, format!("{}\n", site.token)).unwrap();
    let mut watching = Command::new(python);
    watching.arg(root.join("tests/clients/watching.py")).arg(root.join("examples")).arg(site.porter.rest.to_string()).arg(&file);
    let output = watching.output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.ends_with("all on the board\n"), "{said}{errors}");
}

#[test]
fn a_full_disk_is_not_ready_until_there_is_space() {
    let folder = Folder::new();
    let disk = Disk::small(&folder);
    // A watcher looks at the status alone, so `rest.error_status` must not touch it.
    let porter = Porter::start_with(&folder, &["--rest-error-status", "200"]);
    let token = manage_token(&folder);
    await_ready(&porter, 200, NOTICED_WITHIN);
    for publishes in [0, 3] {
        disk.break_for(&porter);
        let (body, took) = await_ready(&porter, 503, NOTICED_WITHIN);
        eprintln!("not ready after {took:?}");
        assert_eq!((&body["status"], &body["reason"], &body["alarms"]), (&json!("not_ready"), &json!("disk_full"), &json!([])));
        assert!(body["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{body}");
        let mut publisher = Client::connect(porter.tcp);
        let big = format!("\"{}\"", "x".repeat(60_000));
        let mut refused = 0;
        for n in 0..PUBLISHES_MAX {
            if refused < publishes {
                refused += usize::from(publisher.publish("away", &big, n)["code"] == "unavailable");
            }
        }
        assert_eq!(refused, publishes, "the disk does not get full");
        let metrics = Metrics::read(porter.rest, &token);
        metrics.expect(&[("porter_ready", 0), ("porter_problem{reason=\"disk_full\"}", 1)]);
        assert_eq!(http(porter.rest, "GET", "/health/live", "").status, 200);
        disk.mend_for(&porter);
        let (_, took) = await_ready(&porter, 200, READY_AGAIN_WITHIN);
        eprintln!("ready again after {took:?}");
    }
    Metrics::read(porter.rest, &token).expect(&[("porter_ready", 1), ("porter_problem{reason=\"disk_full\"}", 0)]);
}

#[test]
fn a_failing_disk_is_not_ready_and_what_it_did_not_take_is_counted() {
    let folder = Folder::new();
    let porter = disk::start_with(&folder, &["--language", "en"]);
    let token = manage_token(&folder);
    assert_eq!(ready(&porter).status, 200);
    Disk::Failing.break_for(&porter);
    let mut publisher = Client::connect(porter.tcp);
    publisher.expect_refusal(r#"{"t":6,"method":"publish_to_alias","alias":["a","b"],"msg":1}"#, "unavailable");
    let (body, _) = await_ready(&porter, 503, Duration::ZERO);
    assert_eq!(body["reason"], "disk_failing");
    assert!(body["hint"].as_str().unwrap().contains("porter check"), "{body}");
    let metrics = Metrics::read(porter.rest, &token);
    metrics.expect(&[
        ("porter_dropped_total{reason=\"not_stored\"}", 2),
        ("porter_problem{reason=\"disk_failing\"}", 1),
        ("porter_errors_total{code=\"unavailable\"}", 1),
    ]);
    assert!(metrics.get("porter_failed_commits_total") >= 1.0);
    Disk::Failing.mend_for(&porter);
    await_ready(&porter, 200, READY_AGAIN_WITHIN);
}

/// A server whose monotonic clock can be moved on: idle for minutes in moments.
struct Idle {
    folder: Folder,
    porter: Porter,
    token: String,
}

impl Idle {
    fn start() -> Idle {
        let folder = Folder::new();
        Idle::wait(&folder, 0);
        let mut command = command(&folder, &["serve"], FREE_PORTS);
        command.env("LD_PRELOAD", clock::library()).env("FAKETIME_TIMESTAMP_FILE", folder.path().join("offset"));
        command.env("FAKETIME_NO_CACHE", "1").env("NO_FAKE_STAT", "1");
        let porter = Porter::start_command(command);
        let token = manage_token(&folder);
        Idle { folder, porter, token }
    }

    /// So many seconds have passed in all.
    fn wait(folder: &Folder, seconds: u32) {
        let new = folder.path().join("offset.new");
        std::fs::write(&new, format!("+{seconds}")).unwrap();
        std::fs::rename(new, folder.path().join("offset")).unwrap();
    }

    fn commits(&self) -> f64 {
        self.metrics().get("porter_commit_seconds_count")
    }

    fn metrics(&self) -> Metrics {
        Metrics::read(self.porter.rest, &self.token)
    }
}

#[test]
fn an_idle_server_stays_ready_by_one_commit_however_many_ask() {
    let idle = Idle::start();
    // What the start leaves to be written is written.
    let end = Instant::now() + DEADLINE;
    while idle.commits() < 1.0 {
        assert!(Instant::now() < end, "the first hour's housekeeping is not committed");
        std::thread::sleep(Duration::from_millis(20));
    }
    for (seconds, commits) in [(20, 0), (55, 1), (600, 1)] {
        let before = idle.commits();
        Idle::wait(&idle.folder, seconds);
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| ready(&idle.porter).status)).collect();
            asking.into_iter().for_each(|asking| assert_eq!(asking.join().unwrap(), 200, "idle for {seconds} s"));
        });
        assert_eq!(idle.commits() - before, f64::from(commits), "idle for {seconds} s");
    }
}

/// The shell of SQLite holds the lock of the database: a commit does not come back, as on a disk that hangs, until it is given up
/// after two seconds.
#[test]
fn a_disk_that_hangs_is_not_ready_and_holds_up_nobody() {
    let idle = Idle::start();
    let mut shell = Command::new("sqlite3");
    shell.arg(idle.folder.data().join("porter.db")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let mut commands = shell.stdin.take().unwrap();
    commands.write_all(b".timeout 5000\nBEGIN IMMEDIATE;\nSELECT 'held';\n").unwrap();
    let mut said = std::io::BufReader::new(shell.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "held\n");

    Idle::wait(&idle.folder, 120);
    let answer = ready(&idle.porter);
    assert_eq!((answer.status, &answer.json()["reason"]), (503, &json!("no_commit")), "{}", answer.body);
    let metrics = idle.metrics();
    metrics.expect(&[("porter_ready", 0)]);
    assert_eq!(http(idle.porter.rest, "GET", "/health/live", "").status, 200);
    let (body, _) = await_ready(&idle.porter, 503, Duration::ZERO);
    assert_eq!(body["status"], "not_ready");

    commands.write_all(b"ROLLBACK;\n").unwrap();
    drop(commands);
    assert!(shell.wait().unwrap().success());
    await_ready(&idle.porter, 200, READY_AGAIN_WITHIN);
}

#[test]
fn what_somebody_must_act_on_is_an_alarm_and_messages_are_stored_all_the_same() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let token = manage_token(&folder);
    let alarms = |porter: &Porter| ready(porter).json()["alarms"].clone();
    let await_alarms = |porter: &Porter, expected: Value| {
        let end = Instant::now() + DEADLINE;
        while alarms(porter) != expected {
            assert!(Instant::now() < end, "{} and not {expected}", alarms(porter));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(ready(porter).status, 200);
    };
    let revoked = folder.data().join("revoked");
    std::fs::write(&revoked, "damaged").unwrap();
    await_alarms(&porter, json!(["keyring_broken"]));
    assert_eq!(http(porter.rest, "GET", &format!("/metrics/{token}"), "").status, 401, "no token is valid");
    // It was there, so its absence is a fault too: the key is needed to make it anew, and a restart.
    std::fs::remove_file(&revoked).unwrap();
    porter.terminate();

    // The last run had a much newer block of mids than the database knows: the database is an old one.
    std::fs::write(folder.data().join("mids"), "9\n").unwrap();
    let porter = Porter::start(&folder);
    await_alarms(&porter, json!(["data_lost"]));
    let metrics = Metrics::read(porter.rest, &token);
    metrics.expect(&[("porter_alarm{kind=\"data_lost\"}", 1), ("porter_alarm{kind=\"keyring_broken\"}", 0), ("porter_ready", 1)]);
    porter.terminate();
    await_alarms(&Porter::start(&folder), json!([]));
}

#[test]
fn the_installers_page_says_what_each_alarm_means() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/installer.md")).unwrap();
    for alarm in Alarm::ALL {
        assert!(page.contains(&format!("| `{}` | ", alarm.as_str())), "no row for {}", alarm.as_str());
    }
}

/// The shortest of three: the machine is shared.
fn best(mut measure: impl FnMut() -> Duration) -> Duration {
    (0..3).map(|_| measure()).min().unwrap()
}

/// What a scrape costs does not grow with what waits, and it holds others up no more than the smallest request does.
#[test]
fn scrapes_cost_the_same_whatever_waits_and_hold_up_nobody() {
    const SCRAPES: u32 = 200;
    const FRAMES: u32 = 2_000;
    /// What a busy machine may add to one of two equal measurements.
    const SLOWER_MAX: u32 = 10;
    let site = Site::start(&[]);
    let scrapes = || {
        let begin = Instant::now();
        (0..SCRAPES).for_each(|_| assert!(site.metrics().get("porter_ready") > 0.0));
        begin.elapsed()
    };
    let empty = best(scrapes);
    let mut publisher = Client::connect(site.porter.tcp);
    let names: Vec<String> = (0..1_000).map(|n| format!("\"away-{n}\"")).collect();
    let frame = format!(r#"{{"t":6,"method":"publish_to_alias","alias":[{}],"msg":1}}"#, names.join(","));
    for _ in 0..100 {
        assert_eq!(publisher.ask_json(&frame)["stored"], 1_000);
    }
    site.metrics().expect(&[("porter_deliveries_waiting", 100_000)]);
    let full = best(scrapes);
    assert!(full < SLOWER_MAX * empty, "{full:?} with 100,000 deliveries waiting against {empty:?} without");

    let mut client = Client::bound(site.porter.tcp, "here");
    let mut frames_beside = |ask: &(dyn Fn() + Sync)| {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    ask();
                }
            });
            let begin = Instant::now();
            (0..FRAMES).for_each(|_| client.expect_nothing());
            over.store(true, Ordering::Relaxed);
            begin.elapsed()
        })
    };
    let beside_small = best(|| frames_beside(&|| assert_eq!(http(site.porter.rest, "GET", "/health/live", "").status, 200)));
    let beside_scrapes = best(|| frames_beside(&|| drop(site.metrics())));
    eprintln!("{SCRAPES} scrapes: {empty:?}, with much that waits {full:?}");
    eprintln!("{FRAMES} frames: {beside_small:?} beside small requests, {beside_scrapes:?} beside scrapes");
    assert!(beside_scrapes < SLOWER_MAX * beside_small, "{FRAMES} frames: {beside_scrapes:?} against {beside_small:?}");
}
