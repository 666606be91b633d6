//! What hostile and broken clients of Socket.IO send, over the real sockets: engine.io's own answer where it has one, the end of that one
//! session where the bytes make no sense, bounded memory, and nobody else notices. The tables stand in `fixtures/socketio`, whose README
//! tells their form.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bad_input::{Case, assert_none_failed, cases};
use crate::hostile::MemoryWatch;
use crate::porter::{DEADLINE, Porter, Site};
use crate::socketio_client::{Frame, Polling, Ws, connect, finish, frame, reset};

const REQUESTS: &str = include_str!("../../fixtures/socketio/requests.txt");
const POLLING: &str = include_str!("../../fixtures/socketio/polling.txt");
const WEBSOCKET: &str = include_str!("../../fixtures/socketio/websocket.txt");
/// Kilobytes that a table, or one attack, may cost the server at any moment.
const GROWTH_KB_MAX: u64 = 16 << 10;

/// Phones that have nothing to do with it: one on each transport.
struct Bystanders(Ws, Polling);

impl Bystanders {
    fn new(porter: &Porter) -> Bystanders {
        Bystanders(Ws::open(porter.socketio, "&alias=near"), Polling::open(porter.socketio, "&alias=far"))
    }

    #[track_caller]
    fn are_served(&mut self) {
        assert_eq!(self.0.settle(), [""; 0]);
        self.1.post(&[r#"42["server_info"]"#]);
        assert_eq!(self.1.poll_until(r#"42["server_info_c","#).len(), 1);
    }
}

/// Runs something hostile; the server's memory may grow a little meanwhile, and the others are served afterwards.
fn withstand(act: impl FnOnce(&Site)) {
    let site = Site::start(&["--language", "en"]);
    let mut bystanders = Bystanders::new(&site.porter);
    bystanders.are_served();
    let (before, watch) = (site.porter.memory_kb("RssAnon"), MemoryWatch::begin(&site.porter));
    act(&site);
    let highest = watch.end();
    bystanders.are_served();
    assert!(highest < before + GROWTH_KB_MAX, "grew from {before} to {highest} kB");
    assert!(!site.porter.log().contains("panic"), "{}", site.porter.log());
}

/// Tries all cases of a table.
fn withstand_all(table: &'static str, try_one: fn(SocketAddr, &Case) -> Result<(), String>) {
    withstand(|site| {
        let mut bystanders = Bystanders::new(&site.porter);
        let mut failures = Vec::new();
        for case in cases(table, "no token") {
            if let Err(why) = try_one(site.porter.socketio, &case) {
                failures.push(format!("{}: {why}", case.name));
            }
            bystanders.are_served();
        }
        assert_none_failed(&failures);
    });
}

#[test]
fn each_bad_request_has_engine_ios_own_answer() {
    withstand_all(REQUESTS, try_request);
}

fn try_request(address: SocketAddr, case: &Case) -> Result<(), String> {
    let session = Polling::open(address, "");
    let sent = String::from_utf8(case.sent.clone()).unwrap().replace("{sid}", &session.sid);
    let mut stream = connect(address);
    stream.write_all(sent.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    // A whole head, and as much of a body as it says.
    let (head, body) = loop {
        let read = stream.read(&mut chunk).map_err(|error| error.to_string())?;
        answer.extend(&chunk[..read]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                break (head.to_owned(), body.to_owned());
            }
        }
        if read == 0 {
            return Err(format!("it ended behind {text:?}"));
        }
    };
    let (status, expected) = case.expected[0].split_once(' ').unwrap_or((case.expected[0], ""));
    if head.split(' ').nth(1) != Some(status) || !body.starts_with(expected) {
        return Err(format!("{head} {body}, not {:?}", case.expected));
    }
    let is_jsonp = sent.lines().next().unwrap().contains("&j=");
    let is_upgrade = sent.contains("Upgrade: websocket");
    if !is_jsonp && !is_upgrade && !head.contains("Access-Control-Allow-Origin: ") {
        return Err(format!("no CORS in {head}"));
    }
    if head.contains("Sec-WebSocket-Extensions") {
        return Err(format!("an extension was taken: {head}"));
    }
    if session.lives() { Ok(()) } else { Err("the session that it named has ended".into()) }
}

#[test]
fn a_body_that_makes_no_sense_ends_its_session_alone() {
    withstand_all(POLLING, try_body);
}

fn try_body(address: SocketAddr, case: &Case) -> Result<(), String> {
    let session = Polling::open(address, "");
    let content_type = if case.name.starts_with("binary:") { "application/octet-stream" } else { "text/plain;charset=UTF-8" };
    let answer = session.post_body(content_type, &case.sent);
    if (answer.status, answer.body.as_str()) != (200, "ok") {
        return Err(format!("answered {} {}", answer.status, answer.body));
    }
    for expected in &case.expected {
        let came = session.poll();
        if !came.first().is_some_and(|packet| packet.starts_with(expected)) {
            return Err(format!("{came:?}, not {expected}"));
        }
    }
    match session.lives() {
        lives if lives == case.stays => Ok(()),
        lives => Err(format!("lives: {lives}")),
    }
}

#[test]
fn frames_that_make_no_sense_end_their_session_alone() {
    withstand_all(WEBSOCKET, try_frames);
}

fn try_frames(address: SocketAddr, case: &Case) -> Result<(), String> {
    let mut ws = Ws::open(address, "");
    ws.try_send(&case.sent);
    for expected in &case.expected {
        let came = ws.text();
        if !came.as_ref().is_some_and(|text| text.starts_with(expected)) {
            return Err(format!("{came:?}, not {expected}"));
        }
    }
    if case.stays {
        ws.settle();
        return Ok(());
    }
    match ws.next() {
        Frame::Close(_) | Frame::End => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn a_body_over_the_limit_ends_its_session() {
    withstand(|site| {
        for body in ["1:2".repeat(1_000_000), format!("{}:4{}", 2 << 20, "x".repeat((2 << 20) - 1))] {
            let session = Polling::open(site.porter.socketio, "");
            let mut stream = connect(site.porter.socketio);
            let head = format!("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", session.path(), body.len());
            stream.write_all(head.as_bytes()).unwrap();
            // It may be cut off before it has said everything.
            let _ = stream.write_all(body.as_bytes());
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));
            assert!(!session.lives());
        }
    });
}

#[test]
fn two_polls_at_once_end_the_session() {
    withstand(|site| {
        let session = Polling::open(site.porter.socketio, "");
        let first = session.begin_get();
        // It waits, once a POST behind it has been answered.
        session.post(&["6"]);
        wait_for_poll(&session);
        let second = session.get();
        assert_eq!((second.status, second.body.as_str()), (500, ""));
        assert_eq!(finish(first).body, "1:1");
        assert!(!session.lives());
    });
}

/// Gives a poll that was begun on another connection the time to be known to the server.
fn wait_for_poll(session: &Polling) {
    for _ in 0..20 {
        session.post(&["6"]);
    }
}

#[test]
fn a_post_during_a_post_ends_the_session() {
    withstand(|site| {
        let session = Polling::open(site.porter.socketio, "");
        let waiting = session.begin_get();
        wait_for_poll(&session);
        let mut first = connect(site.porter.socketio);
        write!(first, "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n1:6", session.path()).unwrap();
        // The head of the first is read before the second comes, or the second is answered and the first then ends it.
        std::thread::sleep(Duration::from_millis(300));
        let second = session.post_body("text/plain", b"1:6");
        assert_eq!(second.status, 500);
        assert_eq!(finish(waiting).body, "1:1");
        assert!(!session.lives());
    });
}

#[test]
fn a_poll_or_a_post_that_breaks_off_ends_the_session() {
    withstand(|site| {
        let session = Polling::open(site.porter.socketio, "");
        let poll = session.begin_get();
        wait_for_poll(&session);
        reset(poll);
        await_end(&session);
        let session = Polling::open(site.porter.socketio, "");
        let mut post = connect(site.porter.socketio);
        write!(post, "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n1:6", session.path()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        reset(post);
        await_end(&session);
    });
}

fn await_end(session: &Polling) {
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = session.post_body("text/plain", b"1:6");
        if answer.status == 400 {
            return;
        }
        assert!(Instant::now() < end, "the session goes on: {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_second_upgrade_is_closed_and_the_first_goes_on() {
    withstand(|site| {
        let session = Polling::open(site.porter.socketio, "&alias=m_2");
        let mut first = session.upgrade();
        first.say("2probe");
        assert_eq!(first.text().as_deref(), Some("3probe"));
        let mut second = session.upgrade();
        assert_eq!(second.text(), None);
        // Every poll ends at once until the WebSocket has taken over.
        for _ in 0..3 {
            assert_eq!(session.poll(), ["6"]);
        }
        first.say("5");
        first.settle();
        let after = session.get();
        assert_eq!((after.status, after.body.as_str()), (400, r#"{"code":3,"message":"Bad request"}"#));
        let mut third = session.upgrade();
        assert_eq!(third.text(), None);
        first.settle();
        first.say("41");
        first.say("1");
        assert_eq!(first.text(), None);
        assert!(!session.lives());
    });
}

#[test]
fn a_probe_that_is_none_or_breaks_off_leaves_the_session_polling() {
    withstand(|site| {
        let session = Polling::open(site.porter.socketio, "");
        for first in [frame(0x81, b"5"), frame(0x81, b"2"), frame(0x81, b"42[\"x\"]"), vec![0xff; 64], Vec::new()] {
            let mut ws = session.upgrade();
            ws.send(&first);
            if first.is_empty() {
                reset(ws.stream);
            } else {
                assert_eq!(ws.text(), None, "{first:?}");
            }
            session.post(&["2"]);
            assert_eq!(session.poll(), ["3"]);
        }
        // RST between the probe and the switch, and between the request and its answer.
        reset(probed(&session).stream);
        for path in [format!("/socket.io/?EIO=3&transport=websocket&sid={}", session.sid), "/socket.io/?EIO=3&transport=websocket".into()] {
            let mut half = connect(site.porter.socketio);
            write!(half, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n").unwrap();
            reset(half);
        }
        let mut ws = probed(&session);
        ws.say("5");
        ws.settle();
    });
}

/// A WebSocket that has been told that it works: as soon as the server knows that the last one is lost.
fn probed(session: &Polling) -> Ws {
    let end = Instant::now() + DEADLINE;
    loop {
        let mut ws = session.upgrade();
        ws.try_send(&frame(0x81, b"2probe"));
        if ws.text().as_deref() == Some("3probe") {
            return ws;
        }
        assert!(Instant::now() < end, "it can't try again");
    }
}

#[test]
fn a_probe_that_is_never_finished_is_given_up_and_polling_goes_on() {
    withstand(|site| {
        let session = Polling::open(site.porter.socketio, "");
        let begin = Instant::now();
        let mut ws = session.upgrade();
        ws.say("2probe");
        assert_eq!(ws.text().as_deref(), Some("3probe"));
        assert_eq!(ws.text(), None);
        assert!(begin.elapsed() >= Duration::from_secs(9), "given up after {:?}", begin.elapsed());
        session.post(&["2"]);
        assert_eq!(session.poll(), ["3"]);
    });
}

#[test]
fn a_client_that_never_pings_is_ended_after_85_seconds() {
    let site = Site::start(&[]);
    let begin = Instant::now();
    let session = Polling::open(site.porter.socketio, "&alias=quiet");
    let mut ws = Ws::open(site.porter.socketio, "&alias=quiet");
    let poll = session.begin_get();
    poll.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    assert_eq!(finish(poll).body, "1:1");
    assert!(begin.elapsed() >= Duration::from_secs(84), "ended after {:?}", begin.elapsed());
    assert_eq!(ws.text(), None);
    assert!(!session.lives());
    assert_eq!(site.get("/info/status/quiet").json()["status"], "offline");
}

#[test]
fn pings_without_end_cost_bounded_memory() {
    withstand(|site| {
        // By Engine.IO's pings and by WebSocket's own, from peers that never read.
        for ping in [frame(0x81, b"2"), frame(0x89, &[7; 125])] {
            let mut ws = Ws::open(site.porter.socketio, "");
            ws.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let flood = ping.repeat(100_000);
            // Where the server reads no more, that is an answer as well.
            ws.try_send(&flood);
            reset(ws.stream);
        }
        let mut ws = Ws::open(site.porter.socketio, "");
        ws.send(&frame(0x89, b"there?"));
        assert_eq!(ws.next(), Frame::Pong(b"there?".into()));
    });
}

#[test]
fn a_post_that_must_wait_is_answered_while_its_client_upgrades() {
    let site = Site::start(&["--limits-outbox", "131072"]);
    let session = Polling::open(site.porter.socketio, "&alias=m_2");
    let mut ws = session.upgrade();
    ws.say("2probe");
    assert_eq!(ws.text().as_deref(), Some("3probe"));
    // Each is answered by as much as it sends, twice: by the event and by the acknowledgement.
    let num = "n".repeat(1_000);
    let events: Vec<String> = (0..500).map(|n| format!(r#"42{n}["server_info",{{"num":"{num}{n}"}}]"#)).collect();
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    // No poll takes anything meanwhile: clients wait for the answer first.
    session.post(&events);
    ws.say("5");
    ws.say(r#"42501["server_info"]"#);
    let said = ws.until("43501[");
    let acks: Vec<&str> = said.iter().filter_map(|text| text.strip_prefix("43")?.split('[').next()).collect();
    let expected: Vec<String> = (0..500).chain([501]).map(|n| n.to_string()).collect();
    assert_eq!(acks, expected);
}
