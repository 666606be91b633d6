//! Each bound that can be reached over TCP, at it and one past it (Protocol §2 to §6).

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use serde_json::{Value, json};

use crate::clients::{Client, http};
use crate::porter::{DEADLINE, Folder, Porter, manage_token};

fn start(flags: &[&str]) -> (Folder, Porter) {
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, flags);
    (folder, porter)
}

fn to(alias: &str, msg: &str) -> String {
    format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":{msg}}}"#)
}

#[test]
fn names_keys_and_lists_have_their_bounds() {
    let (_folder, porter) = start(&[]);
    let mut client = Client::bound_plain(porter.tcp, "a");
    let name = |bytes: usize| format!("{}{}", "门".repeat(bytes / 3), "x".repeat(bytes % 3));
    let names = |count: usize| (0..count).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(",");
    let topic = |name: &str| format!(r#"{{"t":2,"topic":"{name}"}}"#);
    let info = |bytes: usize| format!(r#"{{"t":2,"topic":"x","info":{{"k":"{}"}}}}"#, "x".repeat(bytes - r#"{"k":""}"#.len()));
    let id = |bytes: usize| format!(r#"{{"t":6,"method":"publish","topic":"none","msg":1,"opts":{{"id":"{}"}}}}"#, "k".repeat(bytes));
    let many = |count: usize| format!(r#"{{"t":6,"method":"publish","topic":[{}],"msg":1}}"#, names(count));
    let to_many = |count: usize| format!(r#"{{"t":6,"method":"publish_to_alias","alias":[{}],"msg":1}}"#, names(count));
    for (at, past, field) in [
        (topic(&name(128)), topic(&name(129)), "topic"),
        (info(1_024), info(1_025), "info"),
        (id(64), id(65), "opts.id"),
        (many(1_000), many(1_001), "topic"),
        (to_many(1_000), to_many(1_001), "alias"),
    ] {
        let answer = client.ask_json(&at);
        assert!(answer["t"] == -2 || answer["t"] == -6, "{at}: {answer}");
        let text = client.expect_refusal(&past, "bad_field");
        assert!(text.contains(field), "{text}");
    }
    let mut named = Client::connect(porter.tcp);
    named.expect_refusal(&format!(r#"{{"t":1,"alias":"{}"}}"#, name(129)), "bad_field");
    assert_eq!(named.ask_json(&format!(r#"{{"t":1,"alias":"{}"}}"#, name(128)))["t"], -1);
}

#[test]
fn the_frame_bound_is_a_setting() {
    let (_folder, porter) = start(&["--limits-frame", "2000"]);
    let mut client = Client::connect(porter.tcp);
    let frame = |bytes: usize| format!(r#"{{"t":7,"x":"{}"}}"#, "x".repeat(bytes - r#"{"t":7,"x":""}"#.len()));
    assert_eq!(client.ask_json(&frame(2_000))["t"], -7);
    client.expect_refusal(&frame(2_001), "too_large");
    client.expect_end();
}

#[test]
fn the_oldest_delivery_of_an_alias_is_dropped_when_it_has_too_many() {
    let (folder, porter) = start(&["--limits-deliveries-per-alias", "3"]);
    let token = manage_token(&folder);
    let mut publisher = Client::connect(porter.tcp);
    let frame = r#"{"t":6,"method":"publish_to_alias","alias":["away","other"],"msg":1,"opts":{"receipt":true}}"#;
    let first = publisher.ask_json(frame)["mid"].as_str().unwrap().to_owned();
    let mids: Vec<Value> = (0..3).map(|_| publisher.ask_json(&to("away", "1"))["mid"].clone()).collect();
    let mut away = Client::bound(porter.tcp, "away");
    for mid in &mids {
        assert_eq!(away.mid(), *mid);
    }
    away.expect_nothing();
    let report = http(porter.rest, "GET", &format!("/info/message/{first}/{token}"), "").json();
    let states: Vec<&Value> = report["list"].as_array().unwrap().iter().map(|line| &line["state"]).collect();
    assert_eq!(states, ["dropped", "waiting"]);
    assert_eq!(Client::bound(porter.tcp, "other").mid(), first);
}

#[test]
fn past_the_quota_of_deliveries_only_who_is_online_is_published_to() {
    for (flag, limit) in [("--limits-deliveries", "2"), ("--limits-bodies", "16")] {
        let (_folder, porter) = start(&[flag, limit]);
        let mut publisher = Client::connect(porter.tcp);
        for _ in 0..2 {
            assert_eq!(publisher.ask_json(&to("away", "\"123456\""))["stored"], 1, "{flag}");
        }
        publisher.expect_refusal(&to("away", "\"123456\""), "quota");
        let mut here = Client::bound(porter.tcp, "here");
        publisher.send(&to("here", "1"));
        let mid = here.mid();
        here.acknowledge(&mid);
        assert_eq!(publisher.json()["mid"], mid);
        // What is acknowledged makes room.
        let mut away = Client::bound(porter.tcp, "away");
        let mid = away.mid();
        away.acknowledge(&mid);
        away.mid();
        drop(away);
        let end = Instant::now() + DEADLINE;
        while publisher.ask_json(&to("away", "\"123456\""))["t"] != -6 {
            assert!(Instant::now() < end, "{flag}: no room");
        }
    }
}

#[test]
fn aliases_and_topics_have_quotas() {
    let (_folder, porter) = start(&["--limits-aliases", "2", "--limits-topics-per-alias", "2"]);
    let mut first = Client::bound(porter.tcp, "first");
    assert_eq!(first.ask(r#"{"t":2,"topic":["a","b"]}"#), r#"{"t":-2}"#);
    first.expect_refusal(r#"{"t":2,"topic":"c","num":1}"#, "quota");
    assert_eq!(first.ask(r#"{"t":2,"topic":["a","b"]}"#), r#"{"t":-2}"#, "those it has cost nothing");
    assert_eq!(first.ask(r#"{"t":12,"topic":"a"}"#), r#"{"t":-12}"#);
    assert_eq!(first.ask(r#"{"t":2,"topic":"c"}"#), r#"{"t":-2}"#);
    assert_eq!(first.ask_json(&to("second", "1"))["stored"], 1);
    Client::connect(porter.tcp).expect_refusal(r#"{"t":1,"alias":"third"}"#, "quota");
    first.expect_refusal(&to("third", "1"), "quota");
    // A known one comes as before.
    assert_eq!(Client::bound(porter.tcp, "second").json()["t"], 5);
    let mut stranger = Client::connect(porter.tcp);
    assert_eq!(stranger.ask_json(r#"{"t":7}"#)["t"], -7);
}

#[test]
fn a_publisher_past_its_rate_is_told_so_and_others_are_not() {
    let (_folder, porter) = start(&["--limits-publish-rate", "5", "--language", "en"]);
    let mut fast = Client::bound(porter.tcp, "fast");
    let frame = r#"{"t":6,"method":"publish","topic":"none","msg":1}"#;
    let begin = Instant::now();
    let mut sent = 0;
    while fast.ask_json(frame)["code"] != "rate_limited" {
        sent += 1;
        assert!(sent <= 5 + 5 * (begin.elapsed().as_secs() + 1), "{sent} a second");
    }
    assert!(sent >= 5, "refused after {sent}");
    assert_eq!(Client::bound(porter.tcp, "other").ask_json(frame)["t"], -6);
    let end = Instant::now() + DEADLINE;
    while fast.ask_json(frame)["t"] != -6 {
        assert!(Instant::now() < end, "refused for ever");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_silent_connection_is_closed_and_one_that_speaks_is_not() {
    let (_folder, porter) = start(&["--tcp-idle", "2"]);
    let begin = Instant::now();
    let mut silent = Client::bound(porter.tcp, "silent");
    let mut speaks = Client::bound(porter.tcp, "speaks");
    let idle = std::thread::spawn(move || {
        silent.expect_end();
        begin.elapsed()
    });
    while !idle.is_finished() {
        assert_eq!(speaks.ask_json(r#"{"t":1,"alias":"speaks"}"#)["t"], -1);
        std::thread::sleep(Duration::from_millis(100));
    }
    let closed_after = idle.join().unwrap();
    assert!(closed_after >= Duration::from_millis(1_900), "closed after {closed_after:?}");
    assert!(closed_after < Duration::from_secs(10), "closed after {closed_after:?}");
    speaks.expect_nothing();
}

#[test]
fn blank_lines_keep_a_connection_as_frames_do() {
    let (_folder, porter) = start(&["--tcp-idle", "2"]);
    let mut client = Client::bound(porter.tcp, "blank");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        client.send_bytes(b"\r\n");
        std::thread::sleep(Duration::from_millis(100));
    }
    client.expect_nothing();
}

/// The server does not read a peer whose answers are not taken, but sees that it takes them.
#[test]
fn a_peer_that_reads_slowly_is_not_idle() {
    const ANSWERS: usize = 80;
    let (_folder, porter) = start(&["--tcp-idle", "8", "--limits-outbox", "2000000"]);
    let topics: Vec<String> = (0..400).map(|n| format!("{n:0128}")).collect();
    let register = json!({"t": 2, "topic": topics}).to_string();
    let mut stream = TcpStream::connect(porter.tcp).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    set_socket_recv_buffer_size(&stream, 16 << 10).unwrap();
    let questions = "{\"t\":3}\n".repeat(ANSWERS);
    stream.write_all(format!("{{\"t\":1,\"alias\":\"slow\"}}\n{register}\n{questions}").as_bytes()).unwrap();
    // Four megabytes of answers, at 20 KB a second: until half of the outbox is taken, and the peer is read again, a minute would pass.
    let begin = Instant::now();
    let mut answers = Vec::new();
    while begin.elapsed() < Duration::from_secs(11) {
        let mut some = [0; 500];
        let bytes = stream.read(&mut some).unwrap();
        answers.extend_from_slice(&some[..bytes]);
        std::thread::sleep(Duration::from_millis(25));
    }
    let mut lines = BufReader::new((&answers[..]).chain(stream)).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().filter(|line| line.starts_with(r#"{"t":-3"#)).take(ANSWERS).count(), ANSWERS);
}

#[test]
fn connections_past_the_cap_are_closed_until_one_leaves() {
    let (_folder, porter) = start(&["--limits-connections", "3"]);
    let mut clients: Vec<Client> = ["a", "b", "c"].iter().map(|alias| Client::bound(porter.tcp, alias)).collect();
    Client::connect(porter.tcp).expect_end();
    clients.iter_mut().for_each(Client::expect_nothing);
    drop(clients.pop());
    let end = Instant::now() + DEADLINE;
    loop {
        let mut next = Client::connect(porter.tcp);
        if next.try_send(r#"{"t":7}"#).and_then(|()| next.try_line()).is_some() {
            break;
        }
        assert!(Instant::now() < end, "no permit comes back");
    }
}

#[test]
fn thousands_of_publishes_in_one_write_are_all_answered() {
    const COUNT: usize = 5_000;
    let (_folder, porter) = start(&[]);
    let mut publisher = Client::connect(porter.tcp);
    let frames: String =
        (0..COUNT).map(|n| format!("{{\"t\":6,\"method\":\"publish_to_alias\",\"alias\":\"away\",\"msg\":{n},\"num\":{n}}}\n")).collect();
    publisher.send_bytes(frames.as_bytes());
    let mut nums: Vec<u64> = (0..COUNT).map(|_| publisher.json()).map(|answer| answer["num"].as_u64().unwrap()).collect();
    nums.sort_unstable();
    assert_eq!(nums, (0..COUNT as u64).collect::<Vec<_>>());
    let mut away = Client::connect(porter.tcp);
    let mut next = 0;
    away.send(r#"{"t":11,"alias":"away"}"#);
    away.line();
    while next < COUNT {
        let push = away.json();
        assert_eq!(push["msg"], json!(next));
        next += 1;
    }
}

#[test]
fn who_does_not_read_its_replies_is_not_read_and_loses_none() {
    let (_folder, porter) = start(&[]);
    let mut stream = TcpStream::connect(porter.tcp).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let frame = |n: usize| format!("{{\"t\":7,\"num\":{n:08}}}\n").replace(":0", ":1");
    let bytes = frame(0).len();
    let mut written = 0;
    // The server stops reading at 256 KiB of replies; the rest of what can be written lies in the two kernels' buffers.
    loop {
        let line = frame(written / bytes);
        match stream.write(&line.as_bytes()[written % bytes..]) {
            Ok(taken) => written += taken,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(written < 64 << 20, "the server reads on and on");
    }
    let memory = porter.memory_kb("VmRSS");
    assert!(memory < 128 << 10, "{memory} KB for one link that does not read");
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for n in 0..written / bytes {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let num = frame(n).trim_end().split("\"num\":").nth(1).unwrap().to_owned();
        assert!(line.trim_end().ends_with(&format!("\"num\":{num}")), "{n}: {line}");
    }
}

/// Sockets that the server has open.
fn sockets(porter: &Porter) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", porter.pid())).unwrap();
    let targets = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn a_session_that_does_not_read_makes_way_for_the_ninth_in_time_too() {
    let (_folder, porter) = start(&[]);
    let stopped = Client::bound_plain(porter.tcp, "flat");
    let mut publisher = Client::connect(porter.tcp);
    let body = format!(r#""{}""#, "x".repeat(60_000));
    for n in 0..150 {
        publisher.publish("flat", &body, n);
    }
    let mut phones = Vec::new();
    for _ in 0..7 {
        phones.push(Client::bound_plain(porter.tcp, "flat"));
    }
    let before = sockets(&porter);
    phones.push(Client::bound_plain(porter.tcp, "flat"));
    let begin = Instant::now();
    while sockets(&porter) > before {
        assert!(begin.elapsed() < Duration::from_secs(5), "its socket is still open");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stopped);
}
