//! What a hostile or broken client sends, over the real sockets: each mistake has its code and its field, costs nobody else anything,
//! and closes the connection only where that is the rule. The cases stand in `fixtures/bad-input`, whose README tells their form.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::clients::Client;
use crate::porter::{DEADLINE, Folder, Porter, Site};
use rustix::net::sockopt::set_socket_linger;

const TCP: &str = include_str!("../../fixtures/bad-input/tcp.txt");
const REST: &str = include_str!("../../fixtures/bad-input/rest.txt");

pub struct Case {
    pub name: &'static str,
    pub sent: Vec<u8>,
    pub expected: Vec<&'static str>,
    pub stays: bool,
}

pub fn cases(fixture: &'static str, token: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in fixture.lines().filter(|line| !line.is_empty()) {
        match (line.split_once(' ').unwrap(), cases.last_mut()) {
            (("#", _), _) => {}
            (("##", name), _) => cases.push(Case { name, sent: Vec::new(), expected: Vec::new(), stays: false }),
            ((">", text), Some(case)) => case.sent.extend(unquote(text, token)),
            (("=", "open"), Some(case)) => case.stays = true,
            (("=", "end"), Some(case)) => case.stays = false,
            (("=", expected), Some(case)) => case.expected.push(expected),
            _ => panic!("not a line of a case: {line}"),
        }
    }
    cases
}

/// `"text"` or `"text" * n`, its escapes resolved and the token put in.
fn unquote(text: &str, token: &str) -> Vec<u8> {
    let (quoted, times) = match text.rsplit_once("\" * ") {
        Some((quoted, times)) => (quoted, times.parse().unwrap()),
        None => (text.strip_suffix('"').unwrap(), 1),
    };
    let text = quoted.strip_prefix('"').unwrap().replace("{token}", token).replace("{token:-2}", &token[..token.len() - 2]);
    let mut bytes = Vec::new();
    let mut rest = text.as_str();
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend(plain.bytes());
        let (byte, len) = match escape.as_bytes()[0] {
            b'r' => (b'\r', 1),
            b'n' => (b'\n', 1),
            b't' => (b'\t', 1),
            b'x' => (u8::from_str_radix(&escape[1..3], 16).unwrap(), 3),
            other => (other, 1),
        };
        bytes.push(byte);
        rest = &escape[len..];
    }
    bytes.extend(rest.bytes());
    bytes.repeat(times)
}

/// Whether an answer is what a case expects: `code field`, or `reply "beginning"`.
fn is_as_expected(answer: &str, expected: &str) -> bool {
    if let Some(reply) = expected.strip_prefix("reply ") {
        return answer.as_bytes().starts_with(&unquote(reply, "no token"));
    }
    let (code, field) = expected.split_once(' ').unwrap_or((expected, ""));
    let text = answer.strip_prefix(r#"{"t":0,"error":""#).and_then(|rest| rest.split_once(&format!(r#"","code":"{code}""#)));
    text.is_some_and(|(text, _)| text.contains(field))
}

/// Puts the length of the body where the head has `{length}`.
fn with_length(sent: Vec<u8>) -> Vec<u8> {
    let Some(at) = sent.windows(8).position(|bytes| bytes == b"{length}") else { return sent };
    let head_end = sent.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    [&sent[..at], (sent.len() - head_end).to_string().as_bytes(), &sent[at + 8..]].concat()
}

/// All cases are tried, and then those that failed are told.
pub fn assert_none_failed(failures: &[String]) {
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
}

/// A client that has nothing to do with it must still be served.
struct Bystander(Client);

impl Bystander {
    fn new(porter: &Porter) -> Bystander {
        Bystander(Client::bound(porter.tcp, "bystander"))
    }

    fn is_served(&mut self) {
        self.0.expect_nothing();
    }
}

#[test]
fn over_tcp_each_mistake_has_its_code_and_nobody_else_notices() {
    let site = Site::start(&["--language", "en"]);
    let mut bystander = Bystander::new(&site.porter);
    let mut failures = Vec::new();
    for case in cases(TCP, &site.token) {
        if let Err(why) = try_over_tcp(site.porter.tcp, &case) {
            failures.push(format!("{}: {why}", case.name));
        }
        bystander.is_served();
    }
    assert_none_failed(&failures);
    assert!(!site.porter.log().contains("panic"), "{}", site.porter.log());
}

fn try_over_tcp(address: SocketAddr, case: &Case) -> Result<(), String> {
    let mut client = Client::connect(address);
    client.send_bytes(&case.sent);
    for expected in &case.expected {
        let answer = client.try_line().ok_or("the connection ended")?;
        if !is_as_expected(&answer, expected) {
            return Err(format!("{answer}, not {expected}"));
        }
    }
    if case.stays {
        client.send(r#"{"t":7,"num":"marker"}"#);
    }
    match client.try_line() {
        Some(line) if case.stays && line.ends_with(r#""num":"marker"}"#) => Ok(()),
        None if !case.stays => Ok(()),
        other => Err(format!("then came {other:?}")),
    }
}

/// Reads one HTTP response: its status and its body.
fn response(stream: &mut TcpStream) -> Result<(u16, String), String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(|error| format!("{error} behind {:?}", String::from_utf8_lossy(&head)))?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).ok_or_else(|| head.clone())?;
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).map_err(|error| error.to_string())?;
    Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), String::from_utf8(body).unwrap()))
}

#[test]
fn over_rest_each_mistake_has_its_status_and_code_and_nobody_else_notices() {
    let site = Site::start(&["--language", "en"]);
    let mut bystander = Bystander::new(&site.porter);
    let mut failures = Vec::new();
    for case in cases(REST, &site.token) {
        if let Err(why) = try_over_rest(site.porter.rest, &case) {
            failures.push(format!("{}: {why}", case.name));
        }
        bystander.is_served();
    }
    assert_none_failed(&failures);
    assert!(!site.porter.log().contains("panic"), "{}", site.porter.log());
}

fn try_over_rest(address: SocketAddr, case: &Case) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&with_length(case.sent.clone())).map_err(|error| error.to_string())?;
    for expected in &case.expected {
        let (status, answer) = expected.split_once(' ').unwrap_or((expected, ""));
        let (answered, body) = response(&mut stream)?;
        if answered.to_string() != status || !(answer.is_empty() || is_as_expected(&body, answer)) {
            return Err(format!("{answered} {body}, not {expected}"));
        }
    }
    if case.stays {
        stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").map_err(|error| error.to_string())?;
        let (status, body) = response(&mut stream)?;
        return if status == 404 { Ok(()) } else { Err(format!("then came {status} {body}")) };
    }
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(0) => Ok(()),
        other => Err(format!("{other:?}, then came {:?}", String::from_utf8_lossy(&rest))),
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_given_up_after_ten_seconds() {
    let site = Site::start(&[]);
    let mut stream = TcpStream::connect(site.porter.rest).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let begin = Instant::now();
    let mut answer = Vec::new();
    for byte in b"GET /info/servers/".iter().chain([b'a'; 100].iter()) {
        stream.write_all(&[*byte]).unwrap();
        if stream.read_to_end(&mut answer).is_ok() {
            break;
        }
        assert!(begin.elapsed() < DEADLINE, "it is never given up");
    }
    assert!(begin.elapsed() >= Duration::from_secs(10), "given up after {:?}", begin.elapsed());
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
}

/// Connected, something sent, and gone: by FIN, or by a reset.
fn send_and_go(address: SocketAddr, bytes: &[u8], resets: bool) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    if resets {
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn half_a_line_or_half_a_request_and_then_the_end_means_nothing() {
    let site = Site::start(&[]);
    let mut bystander = Bystander::new(&site.porter);
    let frame = br#"{"t":6,"method":"publish_to_alias","alias":"bystander","msg":1}"#;
    let whole = format!("POST /push/{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", site.token, frame.len() + 1);
    for resets in [false, true] {
        for length in [1, 10, frame.len() - 1, frame.len()] {
            send_and_go(site.porter.tcp, &frame[..length], resets);
            send_and_go(site.porter.rest, &[whole.as_bytes(), &frame[..length]].concat(), resets);
            send_and_go(site.porter.rest, &whole.as_bytes()[..length], resets);
        }
    }
    let begin = Instant::now();
    while site.get("/info").json()["127.0.0.1"]["channelSize"] != 1 {
        assert!(begin.elapsed() < DEADLINE, "links stay behind");
    }
    bystander.is_served();
}

#[test]
fn a_message_100_000_deep_passes_unchanged_and_a_broken_one_is_refused() {
    const DEEP: usize = 100_000;
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, &["--limits-frame", "1000000", "--limits-outbox", "2000000"]);
    let mut client = Client::bound_plain(porter.tcp, "deep");
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let msg = format!("{}1{}", open.repeat(DEEP), close.repeat(DEEP));
        client.send(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"deep","msg":{msg},"num":1}}"#));
        let push = client.line();
        assert!(push.ends_with(&format!("\"msg\":{msg}}}")), "{} bytes came", push.len());
        client.acknowledge(push.split('"').nth(5).unwrap());
        assert!(client.line().starts_with(r#"{"t":-6,"num":1,"#));
        let broken = &msg[..msg.len() - 1];
        client.expect_refusal(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"deep","msg":{broken}}}"#), "bad_json");
    }
    client.expect_nothing();
}

#[test]
fn a_message_is_the_text_that_its_publisher_wrote() {
    let site = Site::start(&[]);
    let mut client = Client::bound_plain(site.porter.tcp, "a");
    for msg in [
        "9007199254740993",
        "-0.0",
        "1e400",
        "123456789012345678901234567890.10",
        r#""\ud83d""#,
        r#""\ud83d\ude00 \u0000 \u2028""#,
        r#"{"a":1,"a":2,"":[ ] }"#,
        "\"\u{2028}\u{feff}\u{202e}\"",
        r#"{"t":1,"alias":"b"}"#,
    ] {
        client.send(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"a","msg":{msg},"num":1}}"#));
        let push = client.line();
        assert!(push.ends_with(&format!("\"msg\":{msg}}}")), "{push}");
        client.acknowledge(push.split('"').nth(5).unwrap());
        assert!(client.line().starts_with(r#"{"t":-6"#));
        let answer = site.push(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"b","msg":{msg}}}"#));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}
