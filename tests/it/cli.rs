//! The command line as its users type it: what is printed where, exit codes, settings, the data folder, signals.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::clients::{Client, http};
use crate::porter::{FREE_PORTS, Folder, Porter, command, manage_token, run};

/// A server ends within this after SIGTERM (Protocol §9, the command line's promise), and what a busy machine may add.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs `porter serve` where it must not start: what it said.
#[track_caller]
fn expect_no_start(folder: &Folder, flags: &[&str]) -> String {
    let output = command(folder, &[&["serve"], FREE_PORTS].concat(), flags).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert_eq!(out(&output), "");
    err(&output).to_owned()
}

#[test]
fn a_token_stands_alone_on_the_standard_output_and_works_at_once() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let made = run(&folder, &["token", "new"], &["--role", "manage", "--label", "办公室"]);
    let token = out(&made).strip_suffix('\n').unwrap();
    assert!(made.status.success() && !token.is_empty() && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token:?}");
    assert_eq!(http(porter.rest, "GET", &format!("/info/{token}"), "").status, 200);
    let shown = run(&folder, &["token", "inspect"], &[token]);
    assert!(shown.status.success(), "{}", err(&shown));
    assert_eq!(out(&shown), "role     manage\nlabel    办公室\nalias    (any)\nexpires  never\nstate    valid\n");
    let mut child = command(&folder, &["token", "inspect"], &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(made.stdout.as_slice()).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, shown.stdout);
    let wrong = run(&folder, &["token", "inspect"], &["00112233445566778899aabbccddeeff"]);
    assert_eq!(wrong.status.code(), Some(1));
    for (label, said) in [("办公室", "办公室 is revoked\n"), ("办公室", "办公室 was revoked before\n"), ("b", "b is revoked\n")]
    {
        assert_eq!(out(&run(&folder, &["token", "revoke"], &[label])), said);
    }
    assert_eq!(out(&run(&folder, &["token", "revoked"], &[])), "b\n办公室\n");
    let over = run(&folder, &["token", "inspect"], &[token]);
    assert_eq!(over.status.code(), Some(1));
    assert!(out(&over).contains("revoked"), "{}", out(&over));
}

#[test]
fn the_first_start_prints_a_token_that_works_and_later_ones_none() {
    let folder = Folder::new();
    let start = || {
        let mut child = command(&folder, &["serve"], FREE_PORTS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("http://")).unwrap();
        let rest = line.rsplit('/').next().unwrap().to_owned();
        (child, rest, lines)
    };
    let (mut child, rest, mut lines) = start();
    let token = lines.find(|line| line.contains("  token  ")).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(http(rest.parse().unwrap(), "GET", &format!("/info/{token}"), "").status, 200);
    child.kill().unwrap();
    let first = child.wait_with_output().unwrap();
    assert!(!err(&first).contains(&token), "the token is in the log");
    let (mut child, rest, mut lines) = start();
    assert_eq!(http(rest.parse().unwrap(), "GET", &format!("/info/{token}"), "").status, 200);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!lines.any(|line| line.contains("token")), "a second start prints a token");
}

#[test]
fn mistakes_on_the_command_line_are_named_with_what_was_meant() {
    let folder = Folder::new();
    for (words, said) in [
        (
            &["serve", "--rest-prt", "1"][..],
            "porter: 'porter serve' has no option '--rest-prt'; did you mean '--rest-port'?\nporter: Try 'porter help serve'.\n",
        ),
        (&["srve"], "porter: there is no command 'srve'; did you mean 'serve'?\nporter: Try 'porter --help'.\n"),
        (
            &["token", "new", "--role", "boss", "--label", "x"],
            "porter: --role is 'boss', but must be manage or device\nporter: Try 'porter help token new'.\n",
        ),
        (
            &["pub", "--alias", "a", "--tll", "3", "x"],
            "porter: 'porter pub' has no option '--tll'; did you mean '--ttl'?\nporter: Try 'porter help pub'.\n",
        ),
        (&["pub", "x"], "porter: to whom? --alias or --topic is missing\nporter: Try 'porter help pub'.\n"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_porter")).args(words).current_dir(folder.path()).output().unwrap();
        assert_eq!((output.status.code(), out(&output), err(&output)), (Some(2), "", said), "{words:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a mistake left something behind");
    let output = run(&folder, &["config"], &["--rest-port", "70000", "--language", "fr"]);
    assert_eq!((output.status.code(), out(&output)), (Some(1), ""));
    assert!(
        err(&output).contains("flag --rest-port: rest.port is \"70000\", but must be a whole number from 0 to 65535"),
        "{}",
        err(&output)
    );
    assert!(err(&output).contains("language is \"fr\", but must be one of zh, en"), "{}", err(&output));
}

#[test]
fn help_and_version_go_to_the_standard_output() {
    let folder = Folder::new();
    for words in [&["--help"][..], &["help"], &["help", "serve"], &["token", "new", "--help"], &["--version"]] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_porter")).args(words).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success() && err(&output).is_empty() && out(&output).len() > 10, "{words:?}: {}", err(&output));
    }
}

#[test]
fn a_flag_wins_over_a_variable_over_a_file_over_the_default() {
    let folder = Folder::new();
    fs::write(folder.path().join("porter.toml"), "language = \"en\"\n[rest]\nport = 1001\n[tcp]\nport = 1002\nidle = 77\n").unwrap();
    fs::write(folder.path().join("other.toml"), "[tcp]\nidle = 78\n").unwrap();
    let shown = |flags: &[&str], variables: &[(&str, &str)]| {
        let output = command(&folder, &["config"], flags).envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", err(&output));
        out(&output).to_owned()
    };
    let text = shown(&["--rest-port", "3001"], &[("PORTER_REST_PORT", "2001"), ("PORTER_TCP_PORT", "2002")]);
    for line in [
        "port = 3001 # flag --rest-port",
        "port = 2002 # variable PORTER_TCP_PORT",
        "idle = 77 # porter.toml:6",
        "language = \"en\" # porter.toml:1",
        "port = 9000 # default",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    // A file that is named replaces the one that lies there.
    assert!(shown(&["--config", "other.toml"], &[]).contains("idle = 78 # other.toml:2"));
    assert!(shown(&[], &[("PORTER_CONFIG", "other.toml")]).contains("idle = 78 # other.toml:2"));
    // What is printed is a file that gives the same.
    fs::write(folder.path().join("again.toml"), &text).unwrap();
    let again = shown(&["--config", "again.toml"], &[]);
    let bare = |text: &str| text.lines().map(|line| line.split(" # ").next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(bare(&again), bare(&text));
    fs::write(folder.path().join("bad.toml"), "[rest]\nprt = 1\n").unwrap();
    let bad = run(&folder, &["config"], &["--config", "bad.toml"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(err(&bad).contains("bad.toml:2") && err(&bad).contains("did you mean 'rest.port'?"), "{}", err(&bad));
    assert_eq!(run(&folder, &["config"], &["--config", "absent.toml"]).status.code(), Some(1));
}

#[test]
fn sub_prints_what_pub_sends() {
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, &["--limits-aliases", "2"]);
    let server = porter.tcp.to_string();
    let publish = |flags: &[&str]| {
        let words = [&["--server", server.as_str()], flags].concat();
        command(&folder, &["pub"], &[]).args(words).output().unwrap()
    };
    // Its data folder is no setting of `pub`.
    let refused = publish(&["--alias", "me", "x"]);
    assert_eq!(refused.status.code(), Some(2), "{}", out(&refused));
    let client = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_porter"));
        command.args(words).args(["--server", &server]).env_remove("PORTER_TOKEN").current_dir(folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let sent = client(&["pub", "--alias", "me", "--id", "k", "hello \"world\""]).output().unwrap();
    assert!(sent.status.success(), "{}", err(&sent));
    let answer: Value = serde_json::from_str(out(&sent)).unwrap();
    assert_eq!((&answer["t"], answer["stored"].as_u64()), (&Value::from(-6), Some(1)));
    let mut sub = client(&["sub", "--alias", "me", "--topic", "news", "--count", "3"]).spawn().unwrap();
    let mut lines = BufReader::new(sub.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().ends_with(r#","msg":"hello \"world\""}"#));
    let again = client(&["pub", "--alias", "me", "--id", "k", "hello \"world\""]).output().unwrap();
    assert_eq!(serde_json::from_str::<Value>(out(&again)).unwrap()["mid"], answer["mid"]);
    // From the standard input, to a topic once it is there, as JSON.
    let mut published = client(&["pub", "--alias", "me"]).spawn().unwrap();
    published.stdin.take().unwrap().write_all("from a pipe\n".as_bytes()).unwrap();
    assert!(published.wait().unwrap().success());
    assert!(lines.next().unwrap().ends_with(r#","msg":"from a pipe"}"#));
    let mut guard = Client::connect(porter.tcp);
    let subscribed = |guard: &mut Client| {
        guard.ask_json(r#"{"t":6,"method":"publish","topic":"news","msg":0,"opts":{"time_to_live":0}}"#)["online"] == 1
    };
    // The third message: the probe itself.
    while !subscribed(&mut guard) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(lines.next().unwrap().contains(r#""topic":"news""#));
    assert!(sub.wait().unwrap().success());
    assert_eq!(lines.next(), None);
    // All three were acknowledged.
    Client::bound(porter.tcp, "me").expect_nothing();
    let ring = client(&["pub", "--topic", "news", "--json", "--ttl", "30", "{\"a\": [1.0,\n2]}"]).output().unwrap();
    assert!(ring.status.success());
    let mut me = Client::bound(porter.tcp, "me");
    assert!(me.line().ends_with(r#","msg":{"a": [1.0, 2]}}"#));
    // A refusal is printed and is a failure.
    client(&["pub", "--alias", "second", "x"]).output().unwrap();
    let refused = client(&["pub", "--alias", "third", "x"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(out(&refused).contains(r#""code":"quota""#), "{}", out(&refused));
}

#[test]
fn pub_without_a_server_fails_and_says_where() {
    let folder = Folder::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_porter"))
        .args(["pub", "--alias", "a", "--server", &port.to_string(), "x"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), out(&output)), (Some(1), ""));
    assert!(err(&output).contains(&port.to_string()), "{}", err(&output));
}

#[test]
fn a_second_server_on_the_folder_is_refused_and_does_the_first_no_harm() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let said = expect_no_start(&folder, &[]);
    assert!(said.contains("another porter is running on this data folder"), "{said}");
    Client::bound(porter.tcp, "a").expect_nothing();
    porter.kill();
    // A lock dies with its process.
    Client::bound(Porter::start(&folder).tcp, "a").expect_nothing();
}

#[test]
fn a_port_in_use_is_named_with_its_setting() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = expect_no_start(&folder, &["--tcp-port", &port]);
    assert!(said.contains(&port) && said.contains("tcp.port"), "{said}");
}

#[test]
fn a_folder_that_lost_its_database_starts_anew_and_says_so() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let before = Client::connect(porter.tcp).publish("away", "1", 1)["mid"].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(porter.terminate().0, Some(0));
    for name in ["porter.db", "porter.db-wal", "porter.db-shm"] {
        let _ = fs::remove_file(folder.data().join(name));
    }
    let porter = Porter::start(&folder);
    porter.await_log("data_lost reason=");
    let after = Client::connect(porter.tcp).publish("away", "2", 1)["mid"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(after > before, "mids went back with the database");
    Client::bound(porter.tcp, "away").json();
    assert_eq!(porter.terminate().0, Some(0));
    assert!(!Porter::start(&folder).log().contains("data_lost"));
}

#[test]
fn only_the_owner_may_look_into_the_folder() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    Client::connect(porter.tcp).publish("away", "1", 1);
    manage_token(&folder);
    assert!(run(&folder, &["token", "revoke"], &["x"]).status.success());
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&folder.data()), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.data()).unwrap() {
        let path = entry.unwrap().path();
        let only_the_owner = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), only_the_owner, "{}", path.display());
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    for name in ["porter.db", "porter.db-wal", "master.key", "revoked", "mids", "lock", "reserve", "pictures"] {
        assert!(names.iter().any(|there| there == name), "no {name} among {names:?}");
    }
}

#[test]
fn sigterm_ends_in_time_with_everything_answered_for_kept() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    // Who is there when it ends: one idle, one that does not read what it is owed, one in the middle of publishing.
    let mut idle = Client::bound(porter.tcp, "idle");
    let mut stopped = Client::bound_plain(porter.tcp, "stopped");
    let mut publisher = Client::connect(porter.tcp);
    let body = format!(r#""{}""#, "x".repeat(20_000));
    for n in 0..200 {
        publisher.publish("stopped", &body, n);
    }
    let address = porter.tcp;
    let stream = std::thread::spawn(move || {
        let mut publisher = Client::connect(address);
        let mut answered = Vec::new();
        for n in 0_u64.. {
            let frame = format!(r#"{{"t":6,"method":"publish_to_alias","alias":"away","msg":{n},"num":{n}}}"#);
            let Some(answer) = publisher.try_send(&frame).and_then(|()| publisher.try_json()) else { break };
            if answer["t"] == -6 {
                answered.push((n, answer["mid"].as_str().unwrap().to_owned()));
            }
        }
        answered
    });
    while publisher.ask_json(r#"{"t":6,"method":"publish_to_alias","alias":"else","msg":1}"#)["t"] != -6 {}
    let (code, took) = porter.terminate();
    assert_eq!(code, Some(0));
    assert!(took < ENDS_WITHIN, "took {took:?}");
    idle.expect_end();
    stopped.line();
    let answered = stream.join().unwrap();
    let porter = Porter::start(&folder);
    let mut away = Client::bound(porter.tcp, "away");
    for (n, mid) in answered {
        let push = away.json();
        assert_eq!((push["msg"].as_u64(), push["mid"].as_str()), (Some(n), Some(mid.as_str())));
    }
}

#[test]
fn sigterm_ends_an_idle_server_at_once() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    Client::bound(porter.tcp, "a").expect_nothing();
    let (code, took) = porter.terminate();
    assert_eq!(code, Some(0));
    assert!(took < ENDS_WITHIN, "took {took:?}");
}
