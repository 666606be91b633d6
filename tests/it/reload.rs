//! SIGHUP: what can change does, at once and under open links; a mistake changes nothing; nobody loses anything.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::clients::{Client, HttpAnswer, http, http_raw};
use crate::porter::{DEADLINE, FREE_PORTS, Folder, Porter, command, manage_token};

/// A server that reads `porter.toml` of its folder, and a link that must outlive every reload.
struct Site {
    folder: Folder,
    porter: Porter,
    token: String,
    held: Client,
}

impl Site {
    fn start(settings: &str) -> Site {
        let folder = Folder::new();
        fs::write(folder.path().join("porter.toml"), settings).unwrap();
        let porter = Porter::start(&folder);
        let token = manage_token(&folder);
        let held = Client::bound(porter.tcp, "held");
        Site { folder, porter, token, held }
    }

    fn write(&self, settings: &str) {
        fs::write(self.folder.path().join("porter.toml"), settings).unwrap();
    }

    /// SIGHUP; what the log says of it. The held link must still be there.
    #[track_caller]
    fn hang_up(&mut self) -> String {
        let before = self.porter.log();
        let ends = |log: &str| log.matches("settings_reloaded").count() + log.matches("reload_failed").count();
        self.porter.signal(Signal::HUP);
        let begin = Instant::now();
        while ends(&self.porter.log()) == ends(&before) {
            assert!(begin.elapsed() < DEADLINE, "no reload:\n{}", self.porter.log());
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(self.held.ask_json(r#"{"t":1,"alias":"held"}"#)["t"], -1);
        self.porter.log()[before.len()..].to_owned()
    }

    /// Reloads with these settings alone, which must change `key`.
    #[track_caller]
    fn change(&mut self, key: &str, settings: &str) {
        self.write(settings);
        let log = self.hang_up();
        assert!(log.contains(&format!("setting_changed key={key} from=")), "{settings}: {log}");
    }

    fn get(&self, path: &str) -> HttpAnswer {
        http(self.porter.rest, "GET", &format!("{path}/{}", self.token), "")
    }

    fn connect(&self) -> Client {
        Client::connect(self.porter.tcp)
    }
}

const HEARTBEAT: &str = r#"{"t":1,"alias":"other"}"#;

fn to(alias: &str) -> String {
    format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":"hello"}}"#)
}

fn frame_of(bytes: usize) -> String {
    format!(r#"{{"t":7,"x":"{}"}}"#, "x".repeat(bytes - r#"{"t":7,"x":""}"#.len()))
}

#[test]
fn texts_log_and_rest_change_at_once() {
    let mut site = Site::start("");
    let zh = site.held.expect_refusal(r#"{"t":99}"#, "unknown_type");
    let missing = |site: &Site| site.get("/info/nowhere").json()["error"].as_str().unwrap().to_owned();
    let missing_zh = missing(&site);
    site.change("language", "language = 'en'");
    let en = site.held.expect_refusal(r#"{"t":99}"#, "unknown_type");
    assert!(zh != en && en.is_ascii(), "{zh} {en}");
    assert!(missing(&site) != missing_zh && missing(&site).is_ascii());

    assert!(!site.porter.log().contains("rest method=GET"));
    site.change("log.level", "[log]\nlevel = 'debug'");
    assert_eq!(site.held.expect_refusal(r#"{"t":99}"#, "unknown_type"), zh, "a key that is gone has its default again");
    assert_eq!(site.get("/info").status, 200);
    site.porter.await_log("rest method=GET");

    site.change("auth.trusted_proxies", "log.level = 'debug'\nauth.trusted_proxies = ['127.0.0.0/8']");
    let request = format!("GET /info/{} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n", site.token);
    assert_eq!(http_raw(site.porter.rest, request.as_bytes()).status, 200);
    site.porter.await_log("address=203.0.113.9");

    site.change("log.level", "log.level = 'error'");
    site.change("advertise_host", "advertise_host = 'push.example.org'");
    assert_eq!(site.get("/info/servers").json()["host"], "push.example.org");
    assert_eq!(site.get("/info/allChannelAlias/0").status, 400);
    site.change("rest.first_page", "rest.first_page = 0");
    assert_eq!(site.get("/info/allChannelAlias/0").status, 200);
    site.change("rest.error_status", "rest.error_status = 200");
    let refused = site.get("/info/allChannelAlias/0");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (200, Some("bad_field")));
    site.change("rest.error_status", "");
    assert_eq!(site.get("/info/allChannelAlias/0").status, 400);
}

#[test]
fn who_may_come_in_and_open_doors_changes_at_once() {
    let mut site = Site::start("");
    site.change("auth.devices", "auth.devices = 'token'");
    let mut newcomer = site.connect();
    newcomer.expect_refusal(HEARTBEAT, "bad_token");
    newcomer.expect_end();
    site.change("auth.devices", "auth.devices = 'open'");
    assert_eq!(site.connect().ask_json(HEARTBEAT)["t"], -1);

    let open = r#"{"t":8,"r":"gate","u":"x"}"#;
    assert_eq!(site.held.ask_json(open)["reason"], "no_door");
    site.change("door.openers", "door.openers = ['guard-*']");
    site.held.expect_refusal(open, "forbidden");
    site.change("door.openers", "door.openers = ['guard-*', 'held']");
    assert_eq!(site.held.ask_json(open)["reason"], "no_door");

    site.change("limits.connections", "limits.connections = 1");
    let mut refused = site.connect();
    // Perhaps it is closed before it has spoken.
    let _ = refused.try_send(HEARTBEAT);
    refused.expect_end();
    site.change("limits.connections", "");
    assert_eq!(site.connect().ask_json(HEARTBEAT)["t"], -1);

    let mut silent = site.connect();
    assert_eq!(silent.ask_json(HEARTBEAT)["t"], -1);
    site.change("tcp.idle", "tcp.idle = 3");
    std::thread::scope(|scope| {
        let silent = scope.spawn(|| silent.expect_end());
        let begin = Instant::now();
        while !silent.is_finished() {
            assert!(begin.elapsed() < DEADLINE, "a silent link is not closed");
            assert_eq!(site.held.ask_json(r#"{"t":1,"alias":"held"}"#)["t"], -1);
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn bounds_change_at_once_also_below_what_is_there() {
    let mut site = Site::start("");
    let mut before = site.connect();
    assert_eq!(before.ask_json(HEARTBEAT)["t"], -1);
    site.change("limits.frame", "limits.frame = 200_000\nlimits.outbox = 400_000");
    assert_eq!(site.held.ask_json(&frame_of(200_000))["t"], -7, "for links that are open, too");
    let large = format!(r#"{{"t":6,"method":"publish","topic":"none","msg":"{}"}}"#, "x".repeat(100_000));
    let push = |site: &Site| http(site.porter.rest, "POST", &format!("/push/{}", site.token), &large).status;
    assert_eq!(push(&site), 200);
    site.change("limits.frame", "");
    assert_eq!(push(&site), 413);
    before.expect_refusal(&frame_of(65_537), "too_large");
    before.expect_end();

    // Lowered below what waits: nothing goes at once, and each publish takes only some.
    let mids: Vec<String> = (0..40).map(|_| site.held.ask_json(&to("away"))["mid"].as_str().unwrap().to_owned()).collect();
    site.change("limits.deliveries_per_alias", "limits.deliveries_per_alias = 3");
    let waiting = |site: &Site| {
        let mut away = Client::bound(site.porter.tcp, "away");
        away.send(r#"{"t":4,"num":"all"}"#);
        loop {
            let frame = away.json();
            if frame["t"] == -4 {
                return frame["mid"].as_array().unwrap().len();
            }
        }
    };
    assert_eq!(waiting(&site), mids.len());
    for left in [25, 10, 3, 3] {
        assert_eq!(site.held.ask_json(&to("away"))["t"], -6);
        assert_eq!(waiting(&site), left);
    }

    for (key, settings, field) in [
        ("limits.deliveries", "limits.deliveries = 2", "limits.deliveries"),
        ("limits.bodies", "limits.bodies = 10", "limits.deliveries"),
        ("limits.aliases", "limits.aliases = 1", "limits.aliases"),
    ] {
        site.change(key, settings);
        let text = site.held.expect_refusal(&to("nobody-yet"), "quota");
        assert!(text.contains(field), "{text}");
    }
    site.change("limits.topics_per_alias", "limits.topics_per_alias = 1");
    site.held.expect_refusal(r#"{"t":2,"topic":["a","b"]}"#, "quota");
    site.change("limits.topics_per_alias", "limits.topics_per_alias = 2");
    assert_eq!(site.held.ask_json(r#"{"t":2,"topic":["a","b"]}"#)["t"], -2);
    site.change("limits.publish_rate", "limits.publish_rate = 1");
    let answers: Vec<i64> = (0..3).map(|_| site.held.ask_json(&to("away"))["t"].as_i64().unwrap()).collect();
    assert_eq!((answers[0], answers.contains(&0)), (-6, true), "{answers:?}");
    site.change("limits.publish_rate", "");
    assert!((0..20).all(|_| site.held.ask_json(&to("away"))["t"] == -6));
    for (key, settings) in [
        ("limits.alias_days", "limits.alias_days = 1"),
        ("limits.connections_per_address", "limits.connections_per_address = 1"),
        ("limits.outbox_total", "limits.outbox_total = 262144"),
        ("origins", "origins = ['*']"),
    ] {
        site.change(key, settings);
    }
}

/// What is sent live and finds no room is left out: so the outbox shows in how much of it a link gets that did not read.
#[test]
fn a_larger_outbox_holds_more_for_a_link_that_does_not_read() {
    const MESSAGES: usize = 600;
    let mut site = Site::start("");
    let body = "x".repeat(40_000);
    let live = format!(r#"{{"t":6,"method":"publish_to_alias","alias":"slow","msg":"{body}","opts":{{"time_to_live":0}}}}"#);
    let got = |site: &mut Site| {
        let mut slow = Client::bound(site.porter.tcp, "slow");
        (0..MESSAGES).for_each(|_| assert_eq!(site.held.ask_json(&live)["t"], -6));
        slow.send(r#"{"t":7}"#);
        (0..).take_while(|_| slow.json()["t"] == 5).count()
    };
    assert!(got(&mut site) < MESSAGES, "the kernel holds it all: this proves nothing");
    site.change("limits.outbox", "limits.outbox = 40_000_000");
    assert_eq!(got(&mut site), MESSAGES);
    site.change("limits.outbox", "");
    assert!(got(&mut site) < MESSAGES);
}

#[test]
fn a_mistake_changes_nothing_and_is_named_with_its_line() {
    let mut site = Site::start("language = 'en'\n");
    for (text, reason) in [
        ("language = 'zh'\n\n[rest]\nfirst_page = 7\n", "porter.toml:4: rest.first_page is 7, but must be a whole number from 0 to 1"),
        ("language = 'zh'\nlimits.frame = \n", "porter.toml:2: not TOML"),
        ("language = 'zh'\nlangauge = 'zh'\n", "porter.toml:2: there is no setting 'langauge'; did you mean 'language'?"),
        ("language = 'zh'\nlimits.outbox = 4000\n", "porter.toml:2: limits.outbox is 4000, but must be at least twice limits.frame"),
        ("language = 'de'\nlog.level = 'loud'\n", "porter.toml:2: log.level is \"loud\""),
    ] {
        site.write(text);
        let log = site.hang_up();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(errors.len() == 1 && errors[0].contains("reload_failed") && errors[0].contains(reason), "{text}: {log}");
        assert!(!log.contains("setting_changed"), "{log}");
        assert!(site.held.expect_refusal(r#"{"t":99}"#, "unknown_type").is_ascii(), "the old language after {text}");
    }
    fs::write(site.folder.path().join("porter.toml"), b"\xff\xfe").unwrap();
    assert!(site.hang_up().contains("reload_failed reason=\"porter.toml: "));
    fs::remove_file(site.folder.path().join("porter.toml")).unwrap();
    let log = site.hang_up();
    assert!(log.contains("reload_failed reason=\"porter.toml: it was there and is gone"), "{log}");
    assert!(site.held.expect_refusal(r#"{"t":99}"#, "unknown_type").is_ascii());
    // And on it goes when the file is whole again, or says the same as before.
    site.write("language = 'en'\n");
    assert!(site.hang_up().contains("settings_reloaded changed=0 waiting=0"));
    site.change("language", "language = 'zh'");
    assert!(!site.held.expect_refusal(r#"{"t":99}"#, "unknown_type").is_ascii());
}

#[test]
fn what_needs_a_restart_is_named_and_waits_and_a_flag_stays() {
    let mut site = Site::start("");
    let tcp = site.porter.tcp;
    // The flags of the start win over the file: no port changes.
    site.write(
        "bind = '0.0.0.0'\ndata_dir = 'elsewhere'\nruntime.threads = 2\nwebsocket.port = 9001\nsocketio.port = 9907\ntcp.port = 9801\n",
    );
    for _ in 0..2 {
        let log = site.hang_up();
        for (key, from, to) in [("bind", "\"127.0.0.1\"", "\"0.0.0.0\""), ("runtime.threads", "1", "2")] {
            let told = format!("setting_waits key={key} from={from} to={to} source=\"porter.toml:");
            assert!(log.contains(&told) && log.contains("effect=takes_effect_at_the_next_start"), "{key}: {log}");
        }
        assert!(log.contains("settings_reloaded changed=0 waiting=2"), "data_dir and all ports are flags here: {log}");
    }
    assert_eq!(Client::bound(tcp, "a").ask_json(r#"{"t":7}"#)["t"], -7);
    assert_eq!(site.get("/info/servers").json()["service"]["webSocket"], site.porter.websocket.port());
    assert!(!site.folder.path().join("elsewhere").exists());
}

#[test]
fn many_signals_at_once_are_one_and_those_at_start_and_end_do_no_harm() {
    let mut site = Site::start("");
    site.write("language = 'en'\n");
    (0..10).for_each(|_| site.porter.signal(Signal::HUP));
    site.porter.await_log("setting_changed key=language");
    site.hang_up();
    let reloads = site.porter.log().matches("settings_reloaded").count();
    assert!((2..=11).contains(&reloads), "{reloads}");
    // A pipe whose reader is gone is no reason to end either.
    site.porter.signal(Signal::PIPE);
    site.hang_up();

    let starting = command(&site.folder, &["serve"], FREE_PORTS);
    assert_eq!(hang_up_while_it_ends(site.porter), Some(0));
    let porter = start_under_signals(starting);
    let mut client = Client::bound(porter.tcp, "a");
    porter.await_log("settings_reloaded");
    assert_eq!(client.ask_json(r#"{"t":7}"#)["t"], -7);
    assert_eq!(porter.terminate().0, Some(0));
}

/// SIGTERM among SIGHUPs: the exit code.
fn hang_up_while_it_ends(porter: Porter) -> Option<i32> {
    (0..5).for_each(|_| porter.signal(Signal::HUP));
    porter.signal(Signal::TERM);
    (0..5).for_each(|_| porter.signal(Signal::HUP));
    porter.terminate().0
}

/// Starts a server that gets SIGHUP from the moment on at which it can take one, until it is ready.
fn start_under_signals(mut starting: Command) -> Porter {
    let marker = format!("reload-{}", std::process::id());
    starting.env("MARKER", &marker);
    let ready = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = 0;
            while !(ready.load(Ordering::Relaxed) && sent > 0) {
                if let Some(pid) = process_with(&marker).filter(|pid| catches_hangups(*pid)) {
                    rustix::process::kill_process(pid, Signal::HUP).unwrap();
                    sent += 1;
                }
            }
        });
        let porter = Porter::start_command(starting);
        ready.store(true, Ordering::Relaxed);
        porter
    })
}

/// The process that was started with this in its environment.
fn process_with(marker: &str) -> Option<rustix::process::Pid> {
    let wanted = format!("MARKER={marker}");
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pid = pids.find(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let is_porter = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("porter"));
        is_porter && environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    })?;
    rustix::process::Pid::from_raw(pid)
}

/// Whether SIGHUP has a handler there: before, it would end the process as it does any other.
fn catches_hangups(pid: rustix::process::Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & 1 == 1)
}

#[test]
fn a_log_that_nobody_reads_is_no_reason_to_stop() {
    let folder = Folder::new();
    let server = command(&folder, &["serve"], FREE_PORTS);
    // The other end of its standard error ends at once.
    let mut deaf = Command::new("bash");
    deaf.args(["-c", "exec \"$@\" 2> >(exec true)", "bash"]).arg(server.get_program()).args(server.get_args());
    deaf.current_dir(folder.path());
    for (name, _) in server.get_envs().filter(|(_, value)| value.is_none()) {
        deaf.env_remove(name);
    }
    let porter = Porter::start_command(deaf);
    let mut client = Client::bound(porter.tcp, "a");
    for _ in 0..5 {
        porter.signal(Signal::HUP);
        assert_eq!(client.ask_json(&to("away"))["t"], -6);
    }
    assert_eq!(porter.terminate().0, Some(0));
}

#[test]
fn reloads_under_load_lose_nothing() {
    const PUBLISHES: usize = 4_000;
    const WINDOW: usize = 50;
    let mut site = Site::start("");
    let (tcp, done) = (site.porter.tcp, AtomicBool::new(false));
    let mut online = Client::bound(tcp, "online");
    let frame = r#"{"t":6,"method":"publish_to_alias","alias":["online","away"],"msg":1}"#;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let mids: Vec<String> = (0..PUBLISHES).map(|_| online.mid()).collect();
            mids.iter().for_each(|mid| online.acknowledge(mid));
            online.expect_nothing();
            mids
        });
        let publisher = scope.spawn(|| {
            let mut publisher = Client::connect(tcp);
            let mut mids = Vec::new();
            for _ in 0..PUBLISHES / WINDOW {
                (0..WINDOW).for_each(|_| publisher.send(frame));
                for _ in 0..WINDOW {
                    let answer = publisher.json();
                    assert_eq!(answer["t"], -6, "{answer}");
                    mids.push(answer["mid"].as_str().unwrap().to_owned());
                }
            }
            done.store(true, Ordering::Relaxed);
            mids
        });
        let mut reloads = 0;
        while !done.load(Ordering::Relaxed) && !publisher.is_finished() {
            reloads += 1;
            // The log leaves lines out of a server that says too many in a second, and this waits for each.
            std::thread::sleep(Duration::from_millis(50));
            site.change(
                "language",
                if reloads % 2 == 0 { "" } else { "language = 'en'\nlimits.frame = 30000\nlimits.outbox = 100000\ntcp.idle = 60" },
            );
        }
        let (mut published, received) = (publisher.join().unwrap(), receiver.join().unwrap());
        published.sort_by_key(|mid| mid.parse::<u64>().unwrap());
        assert!(reloads > 1, "the load was over before the second reload");
        assert_eq!(received, published);
        let mut away = Client::bound(tcp, "away");
        let waiting: Vec<String> = (0..PUBLISHES).map(|_| away.mid()).collect();
        assert_eq!(waiting, published);
    });
}
