//! The phones' port, byte by byte: what the real clients in `tests/clients` don't show (Protocol §8). Also what clients of other languages
//! do: Java's and Swift's, as SOCKETIO captures have them.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::clients::{Client, http};
use crate::porter::{Folder, Porter, Site, manage_token, token};
use crate::proxy::Proxy;
use crate::socketio_client::{Frame, Polling, Ws, connect, finish, get, packets};

/// Publishes to one alias by REST.
fn publish(site: &Site, alias: &str, msg: &str) {
    let answer = site.push(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":{msg}}}"#));
    assert!(answer.body.starts_with(r#"{"t":-6"#), "{answer:?}");
}

/// The contents of the messages among packets.
fn contents(packets: &[String]) -> Vec<String> {
    let msg =
        |packet: &String| Some(packet.strip_prefix(r#"42["push",{"t":5,"#)?.split(r#""msg":"#).nth(1)?.trim_end_matches("}]").to_owned());
    packets.iter().filter_map(msg).collect()
}

#[test]
fn at_most_sixteen_packets_go_in_one_poll_and_the_rest_with_the_next() {
    let site = Site::start(&[]);
    for n in 0..40 {
        publish(&site, "m_2", &n.to_string());
    }
    let session = Polling::open(site.porter.socketio, "&alias=m_2");
    let polls: Vec<Vec<String>> = (0..3).map(|_| session.poll()).collect();
    assert_eq!(polls.iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
    let came: Vec<String> = polls.iter().flat_map(|packets| contents(packets)).collect();
    assert_eq!(came, (0..40).map(|n: i32| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn without_base64_a_poll_is_binary_and_with_jsonp_a_script() {
    let site = Site::start(&[]);
    let open = connect(site.porter.socketio);
    let mut stream = open;
    stream.write_all(b"GET /socket.io/?EIO=3&transport=polling HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let at = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let (head, body) = (String::from_utf8_lossy(&answer[..at]), &answer[at + 4..]);
    assert!(head.contains("Content-Type: application/octet-stream"), "{head}");
    assert_eq!((&body[..5], &body[5..7]), (&b"\x00\x09\x07\xff0"[..], &b"{\""[..]));
    assert!(body.ends_with(b"\x00\x02\xff40"), "{body:?}");
    // Characters are escaped, so that every client counts the same.
    let session = Polling::open(site.porter.socketio, "&alias=m_2");
    publish(&site, "m_2", "\"中😀\"");
    let [packet] = &session.poll()[..] else { panic!("not one packet") };
    assert!(packet.ends_with(r#""msg":"\u4e2d\ud83d\ude00"}]"#), "{packet}");
    let script = get(site.porter.socketio, "/socket.io/?EIO=3&transport=polling&j=7", "Referer: http://10.0.0.7/page\r\n");
    assert!(script.head.contains("Content-Type: text/javascript; charset=UTF-8"), "{}", script.head);
    assert!(script.body.starts_with(r#"___eio[7]("97:0{\"sid\":\""#) && script.body.ends_with("2:40\");"), "{}", script.body);
}

/// An opening that a poll doesn't carry in time is never handed on.
#[test]
fn an_opening_that_waits_for_a_poll_for_six_seconds_is_never_handed_on() {
    let site = Site::start(&[]);
    let door = Polling::open(site.porter.socketio, "");
    door.post(&[r#"42["door",{"r":"gate","u":"iron"}]"#, r#"42["server_info"]"#]);
    door.poll_until(r#"42["server_info_c""#);
    let mut phone = Client::connect(site.porter.tcp);
    phone.send(r#"{"t":9,"r":"gate","u":"ann","ext":1}"#);
    phone.send(r#"{"t":8,"r":"gate","u":"ann","num":1}"#);
    phone.expect(r#"{"t":-8,"r":"gate","u":"ann","ok":false,"reason":"no_answer","num":1}"#);
    std::thread::sleep(Duration::from_secs(3));
    door.post(&["2"]);
    let came = door.poll();
    assert!(!came.iter().any(|packet| packet.contains(r#""t":8"#)), "a stale opening: {came:?}");
    assert!(came.contains(&"3".to_owned()) || door.poll().contains(&"3".to_owned()), "{came:?}");
    // A fresh one is.
    phone.send(r#"{"t":8,"r":"gate","u":"ann","num":2}"#);
    let came = door.poll_until(r#"42["door",{"t":8,"#);
    assert!(came.last().unwrap().contains(r#""num":2"#), "{came:?}");
}

/// Opens the door "gate" and waits in vain; returns once the opening is ten seconds old.
fn open_and_grow_old(site: &Site, num: u32) {
    let mut opener = Client::bound(site.porter.tcp, "ann");
    let begin = Instant::now();
    opener.send(&format!(r#"{{"t":8,"r":"gate","u":"ann","num":{num}}}"#));
    opener.expect(&format!(r#"{{"t":-8,"r":"gate","u":"ann","ok":false,"reason":"no_answer","num":{num}}}"#));
    std::thread::sleep(Duration::from_secs(10).saturating_sub(begin.elapsed()));
}

/// The numbers of the openings among packets.
fn openings(packets: &[String]) -> Vec<String> {
    let num =
        |packet: &String| Some(packet.strip_prefix(r#"42["door",{"t":8,"#)?.split(r#""num":"#).nth(1)?.trim_end_matches("}]").to_owned());
    packets.iter().filter_map(num).collect()
}

/// Publishes more to the door "gate" than its outbox holds.
fn fall_behind(site: &Site) {
    let body = "x".repeat(60_000);
    for _ in 0..40 {
        publish(site, "gate", &format!("\"{body}\""));
    }
}

#[test]
fn a_polling_door_behind_a_network_that_hangs_gets_no_late_opening() {
    // An answer may be as large as a poll takes, far more than the kernels do.
    let site = Site::start(&["--limits-outbox", "1048576"]);
    let proxy = Proxy::before(site.porter.socketio);
    let door = Polling::open(proxy.address, "&alias=gate");
    let open = |num: u32| assert_eq!(site.push(&format!(r#"{{"t":8,"r":"gate","u":"ann","num":{num}}}"#)).json()["doors"], 1);
    // Its poll does not come through.
    proxy.stop();
    let poll = door.begin_get();
    open_and_grow_old(&site, 1);
    proxy.go_on();
    open(2);
    assert_eq!(openings(&packets(&finish(poll).body)), ["2"]);
    // The answer to its poll does not come through; it is in catch-up.
    fall_behind(&site);
    proxy.stop_after(20_000);
    let poll = door.begin_get();
    proxy.await_stop();
    open_and_grow_old(&site, 3);
    proxy.go_on();
    assert_eq!(openings(&packets(&finish(poll).body)), [""; 0]);
    open(4);
    assert_eq!(openings(&door.poll()), ["4"]);
    // The answer with the opening is on its way and does not come through: it breaks off, and with it the session.
    fall_behind(&site);
    open(5);
    proxy.stop_after(20_000);
    let poll = door.begin_get();
    proxy.await_stop();
    std::thread::sleep(Duration::from_secs(10));
    proxy.go_on();
    let answer = finish(poll);
    let length = answer.head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    assert!(answer.body.len() < length.parse().unwrap(), "an opening that is 10 s old was handed on whole");
    let door = Polling::open(proxy.address, "&alias=gate");
    open(6);
    assert_eq!(openings(&door.poll()), ["6"]);
}

#[test]
fn a_door_in_catch_up_behind_a_network_that_hangs_gets_no_late_opening_and_a_fresh_one_at_once() {
    let site = Site::start(&[]);
    let proxy = Proxy::before(site.porter.socketio);
    let mut door = Ws::open(proxy.address, "&alias=gate");
    proxy.stop();
    for _ in 0..3 {
        fall_behind(&site);
    }
    assert!(!site.get("/metrics").body.contains("porter_congested_total 0\n"), "it is in catch-up");
    open_and_grow_old(&site, 1);
    proxy.go_on();
    // What the kernels hold of this link may still come; then it ends, for it took nothing for five seconds.
    let mut rest = Vec::new();
    let _ = door.stream.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains(r#""t":8"#), "an opening that is 10 s old was handed on");
    let mut door = Ws::open(proxy.address, "&alias=gate");
    site.push(r#"{"t":8,"r":"gate","u":"ann","num":2}"#);
    let came = door.until(r#"42["door""#);
    assert_eq!(openings(&came), ["2"]);
    assert!(came.len() < 100, "the opening came behind the whole backlog");
}

#[test]
fn door_frames_go_ahead_of_a_backlog() {
    let site = Site::start(&[]);
    let door = Polling::open(site.porter.socketio, "&alias=gate");
    for n in 0..100 {
        publish(&site, "gate", &n.to_string());
    }
    let opened = site.push(r#"{"t":8,"r":"gate","u":"office"}"#);
    assert_eq!(opened.body, r#"{"t":-8,"doors":1}"#);
    let first = door.poll();
    assert_eq!(first[0], r#"42["door",{"t":8,"r":"gate","u":"office"}]"#);
    assert_eq!(contents(&first).first().map(String::as_str), Some("0"));
}

/// A phone that reads slowly goes to catch-up; what it is owed comes in order, and once.
#[test]
fn a_slow_reader_loses_nothing_by_either_transport() {
    let site = Site::start(&["--limits-outbox", "131072"]);
    let polling = Polling::open(site.porter.socketio, "&alias=slow");
    let mut ws = Ws::open(site.porter.socketio, "&alias=slow");
    let body = "x".repeat(30_000);
    for n in 0..60 {
        publish(&site, "slow", &format!(r#""{n:03}{body}""#));
    }
    assert!(site.porter.memory_kb("RssAnon") < 64 << 10);
    let expected: Vec<String> = (0..60).map(|n| format!("\"{n:03}")).collect();
    let mut came = Vec::new();
    while came.len() < 60 {
        came.extend(contents(&polling.poll()).into_iter().map(|msg| msg[..4].to_owned()));
    }
    assert_eq!(came, expected);
    came.clear();
    while came.len() < 60 {
        came.extend(contents(&[ws.text().unwrap()]).into_iter().map(|msg| msg[..4].to_owned()));
    }
    assert_eq!(came, expected);
    assert_eq!(ws.settle(), [""; 0]);
}

#[test]
fn the_ninth_session_of_an_alias_ends_the_quietest_which_is_told_so() {
    let site = Site::start(&[]);
    let mut first = Ws::open(site.porter.socketio, "&alias=family");
    let mut others: Vec<Ws> = (0..8).map(|_| Ws::open(site.porter.socketio, "&alias=family")).collect();
    assert_eq!(first.next(), Frame::Text("41".into()));
    assert_eq!(first.text(), None);
    publish(&site, "family", "1");
    for other in &mut others {
        assert_eq!(contents(&other.until(r#"42["push""#)), ["1"]);
    }
}

#[test]
fn a_session_ends_within_a_second_of_its_tokens_revocation() {
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, &["--auth-devices", "token"]);
    let device = token(&folder, &["--role", "device", "--label", "lost phone"]);
    let mut ws = Ws::open(porter.socketio, &format!("&alias=m_2&token={device}"));
    let polling = Polling::open(porter.socketio, &format!("&alias=m_3&token={device}"));
    let waiting = polling.begin_get();
    let output = crate::porter::run(&folder, &["token", "revoke", "lost phone"], &[]);
    assert!(output.status.success());
    let begin = Instant::now();
    for came in [ws.until("41"), packets(&finish(waiting).body)] {
        assert!(came[0].starts_with(r#"44{"t":0,"#) && came[0].contains(r#""code":"bad_token""#) && came[1] == "41", "{came:?}");
    }
    assert!(begin.elapsed() < Duration::from_secs(3), "after {:?}", begin.elapsed());
    let (_, refused) = Polling::handshake(porter.socketio, &format!("&alias=m_2&token={device}"));
    assert!(refused[0].starts_with(r#"44{"t":0,"#) && refused[0].contains(r#""code":"bad_token""#), "{refused:?}");
    assert!(!porter.log().contains(&device));
}

/// Behind a proxy nobody is near, unless the proxy is trusted.
#[test]
fn a_forwarded_request_needs_a_token() {
    let site = Site::start(&[]);
    let path = "/socket.io/?EIO=3&transport=polling&b64=1&alias=m_2";
    for header in ["X-Forwarded-For: 10.0.0.7\r\n", "Forwarded: for=10.0.0.7\r\n", "X-Real-IP: 10.0.0.7\r\n", "Via: 1.1 x\r\n"] {
        let answer = get(site.porter.socketio, path, header);
        assert!(packets(&answer.body)[1].starts_with("44{") && answer.body.contains(r#""code":"bad_token""#), "{header}: {answer:?}");
    }
    assert_eq!(packets(&get(site.porter.socketio, path, "").body)[1], "40");
    let with_token = get(site.porter.socketio, &format!("{path}&token={}", site.token), "X-Forwarded-For: 10.0.0.7\r\n");
    assert_eq!(packets(&with_token.body)[1], "40");
    let trusting = Site::start(&["--auth-trusted-proxies", "127.0.0.1"]);
    for (client, expected) in [("10.0.0.7", "40"), ("203.0.113.9", "44{")] {
        let answer = get(trusting.porter.socketio, path, &format!("X-Forwarded-For: {client}\r\n"));
        assert!(packets(&answer.body)[1].starts_with(expected), "{client}: {answer:?}");
    }
}

#[test]
fn every_answer_to_a_page_lets_it_read_it() {
    let site = Site::start(&[]);
    let origin = "Origin: http://192.168.1.9:8080\r\n";
    let session = Polling::open(site.porter.socketio, "");
    session.post(&["2"]);
    for (path, status) in [
        ("/socket.io/?EIO=3&transport=polling&b64=1".to_owned(), 200),
        (session.path(), 200),
        ("/socket.io/?EIO=3&transport=polling&sid=none".to_owned(), 400),
        ("/socket.io/?EIO=4&transport=polling".to_owned(), 400),
        ("/elsewhere".to_owned(), 404),
    ] {
        let answer = get(site.porter.socketio, &path, origin);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.head.contains("Access-Control-Allow-Origin: http://192.168.1.9:8080"), "{path}: {}", answer.head);
        assert!(answer.head.contains("Access-Control-Allow-Credentials: true"), "{path}: {}", answer.head);
    }
}

#[test]
fn a_shutdown_closes_websockets_with_1001_and_answers_polls() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let mut ws = Ws::open(porter.socketio, "&alias=m_2");
    let polling = Polling::open(porter.socketio, "&alias=m_3");
    let waiting = polling.begin_get();
    for _ in 0..20 {
        polling.post(&["6"]);
    }
    porter.signal(Signal::TERM);
    assert_eq!(ws.next(), Frame::Close(1001));
    let answer = finish(waiting);
    assert!(answer.status == 200 && answer.body.ends_with("1:1"), "{answer:?}");
    let (code, took) = porter.terminate();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "it took {took:?}");
}

/// Each handshake leaves a session for 85 s: their number is bounded, and REST tells who is bound.
#[test]
fn a_flood_of_handshakes_is_bounded_by_the_limit_of_connections() {
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, &["--limits-connections", "100"]);
    let before = porter.memory_kb("RssAnon");
    let sessions: Vec<Polling> = (0..100).map(|n| Polling::open(porter.socketio, &format!("&alias=m_{n}"))).collect();
    let refused = get(porter.socketio, "/socket.io/?EIO=3&transport=polling", "");
    assert_eq!((refused.status, refused.head.contains("Retry-After: ")), (503, true), "{refused:?}");
    for _ in 0..500 {
        assert_eq!(get(porter.socketio, "/socket.io/?EIO=3&transport=polling", "").status, 503);
    }
    let grown = porter.memory_kb("RssAnon").saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} kB");
    let info = http(porter.rest, "GET", &format!("/info/{}", manage_token(&folder)), "");
    assert!(info.body.contains(r#""socketIOSize":100"#) && info.body.contains(r#""onlineAllSize":100"#), "{info:?}");
    // Who leaves makes room.
    sessions[0].post(&["41", "1"]);
    Polling::open(porter.socketio, "");
}

/// An answer that is not written keeps its packets: they go with the WebSocket, or come again after a new handshake.
#[test]
fn a_kill_loses_nothing_of_what_a_poll_was_to_carry() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let management = manage_token(&folder);
    let session = Polling::open(porter.socketio, "&alias=m_2");
    let frame = r#"{"t":6,"method":"publish_to_alias","alias":"m_2","msg":"owed"}"#;
    http(porter.rest, "POST", &format!("/push/{management}"), frame);
    assert_eq!(contents(&session.poll()), ["\"owed\""]);
    porter.kill();
    let porter = Porter::start(&folder);
    let again = Polling::open(porter.socketio, "&alias=m_2");
    assert_eq!(contents(&again.poll()), ["\"owed\""]);
}

/// Java's client upgrades after it has waited for its poll, asks for namespaces with a comma or none, and sends its texts in one POST.
#[test]
fn javas_client_is_served() {
    let site = Site::start(&[]);
    let session = Polling::open(site.porter.socketio, "&alias=m_2");
    session.post(&["40", r#"420["register",{"topic":"news"}]"#, r#"421["get_topic",{}]"#, "2"]);
    let came = session.poll_until("431[");
    assert!(came.contains(&r#"430[{"t":-2}]"#.to_owned()) && came.contains(&r#"431[{"t":-3,"topic":["news"]}]"#.to_owned()), "{came:?}");
    let waiting = session.begin_get();
    let mut ws = session.upgrade();
    ws.say("2probe");
    assert_eq!(ws.text().as_deref(), Some("3probe"));
    assert_eq!(finish(waiting).body, "1:6");
    ws.say("5");
    ws.say("2");
    assert_eq!(ws.text().as_deref(), Some("3"));
    publish(&site, "m_2", "1");
    assert_eq!(contents(&ws.until(r#"42["push""#)), ["1"]);
    ws.say("41");
    ws.say("1");
    assert_eq!(ws.text(), None);
}

/// Swift's client names no version, joins `/` by itself, and sends arguments as JSON in a string.
#[test]
fn swifts_client_is_served() {
    let site = Site::start(&[]);
    let mut ws = Ws::connect(site.porter.socketio, "/socket.io/?transport=websocket&alias=m_2");
    assert!(ws.text().unwrap().starts_with("0{"));
    assert_eq!(ws.text().as_deref(), Some("40"));
    ws.say("40/");
    ws.say("40");
    ws.say(r#"420["heartbeat","{\"alias\":\"m_2\"}"]"#);
    let came = ws.until("430[");
    assert_eq!(came, [r#"42["heartbeat_c",{"t":-1,"alias":"m_2"}]"#, r#"430[{"t":-1,"alias":"m_2"}]"#]);
    ws.say("2");
    assert_eq!(ws.text().as_deref(), Some("3"));
}
