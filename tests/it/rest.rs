//! RestServer: every endpoint and status over real HTTP (Protocol §10), alone and behind the real nginx.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{Client, HttpAnswer, http, http_raw};
use crate::nginx::Nginx;
use crate::porter::{DEADLINE, Folder, Porter, Site, manage_token, token};

impl Site {
    /// Waits until `path` answers with `body`: what a peer's closing changes is seen a moment later.
    fn await_body(&self, path: &str, body: &Value) {
        let end = Instant::now() + DEADLINE;
        loop {
            let answer = self.get(path).json();
            if answer == *body {
                return;
            }
            assert!(Instant::now() < end, "{path} answers {answer}, not {body}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[track_caller]
fn assert_error(answer: &HttpAnswer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{}", answer.body);
    assert_eq!(answer.json()["t"], 0);
}

#[test]
fn a_push_reaches_who_is_online_and_waits_for_who_is_not() {
    let site = Site::start(&[]);
    let mut door = Client::bound(site.porter.tcp, "door-3-1");
    let address = site.porter.rest;
    let path = format!("/push/{}", site.token);
    let frame = r#"{"t":6,"method":"publish_to_alias","alias":["door-3-1","phone"],"msg":[1,"门"],"num":9007199254740993}"#;
    let push = std::thread::spawn(move || http(address, "POST", &path, frame));
    let pushed = door.json();
    assert_eq!(pushed["msg"], json!([1, "门"]));
    let answer = push.join().unwrap();
    assert_eq!(answer.status, 200);
    let mid = pushed["mid"].as_str().unwrap();
    assert_eq!(answer.body, format!(r#"{{"t":-6,"num":9007199254740993,"mid":"{mid}","online":1,"stored":1}}"#));
    assert!(answer.head.contains("Content-Type: application/json"), "{}", answer.head);
    let mut phone = Client::bound(site.porter.tcp, "phone");
    assert_eq!(phone.json()["mid"], mid);
}

#[test]
fn only_frames_6_and_8_are_taken_and_bad_ones_say_what_is_wrong() {
    let site = Site::start(&["--language", "en"]);
    for (frame, status, code) in [
        ("", 400, "bad_json"),
        ("[]", 400, "bad_json"),
        (r#"{"t":6"#, 400, "bad_json"),
        (r#"{"t":1,"alias":"a"}"#, 400, "unknown_type"),
        (r#"{"t":7}"#, 400, "unknown_type"),
        (r#"{"t":2}"#, 400, "unknown_type"),
        (r#"{"t":99}"#, 400, "unknown_type"),
        (r#"{"method":"publish"}"#, 400, "missing_field"),
        (r#"{"t":6,"method":"publish","topic":"x"}"#, 400, "missing_field"),
        (r#"{"t":6,"method":"publish","topic":7,"msg":1}"#, 400, "bad_field"),
        (r#"{"t":6,"method":"publish","topic":"x","msg":1,"opts":{"time_to_live":-1}}"#, 400, "bad_field"),
        (r#"{"t":6,"method":"publish","topic":"x","msg":1,"opts":{"time_to_live":2592001}}"#, 400, "bad_field"),
        (r#"{"t":8,"r":"x"}"#, 400, "missing_field"),
    ] {
        assert_error(&site.push(frame), status, code);
    }
    assert_error(&site.push(&format!(r#"{{"t":6,"msg":"{}"}}"#, "x".repeat(65_536))), 413, "too_large");
    assert_eq!(site.push(r#"{"type":"6","method":"publish","topic":"x","msg":null}"#).json()["t"], -6, "`type` stands in for `t`");
}

#[test]
fn a_bad_token_is_401_a_devices_403_and_ten_bad_ones_429() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let device = token(&folder, &["--role", "device", "--label", "gate"]);
    let manage = manage_token(&folder);
    assert_error(&http(porter.rest, "GET", &format!("/info/{device}"), ""), 403, "forbidden");
    for _ in 0..10 {
        assert_error(&http(porter.rest, "GET", "/info/0123", ""), 401, "bad_token");
    }
    assert_error(&http(porter.rest, "GET", "/info/0123", ""), 429, "rate_limited");
    assert_eq!(http(porter.rest, "GET", &format!("/info/{manage}"), "").status, 200, "a good token is never refused for that");
    porter.await_log("bad_tokens address=127.0.0.1");
    assert!(!porter.log().contains(&manage) && !porter.log().contains(&device), "a token is in the log");
}

#[test]
fn who_is_no_trusted_proxy_can_not_blame_others_for_its_bad_tokens() {
    let site = Site::start(&[]);
    let mut statuses = Vec::new();
    for number in 0..12 {
        let request = format!("GET /info/00 HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.{number}\r\nConnection: close\r\n\r\n");
        statuses.push(http_raw(site.porter.rest, request.as_bytes()).status);
    }
    assert_eq!((&statuses[..10], &statuses[10..]), (&[401; 10][..], &[429; 2][..]));
    site.porter.await_log("bad_tokens address=127.0.0.1");
    assert!(!site.porter.log().contains("203.0.113."), "{}", site.porter.log());
}

#[test]
fn bearer_stands_in_for_the_last_segment() {
    let site = Site::start(&[]);
    let request = format!("GET /info/- HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n", site.token);
    assert_eq!(http_raw(site.porter.rest, request.as_bytes()).status, 200);
    let request = "GET /info/- HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer 00\r\n\r\n";
    assert_error(&http_raw(site.porter.rest, request.as_bytes()), 401, "bad_token");
}

#[test]
fn info_counts_who_is_online_and_tells_where_to_connect() {
    let site = Site::start(&["--advertise-host", "porter.example"]);
    assert_eq!(site.get("/info").body, r#"{"porter.example":{"webSocketSize":0,"channelSize":0,"onlineAllSize":0,"socketIOSize":0}}"#);
    let _a = Client::bound(site.porter.tcp, "a");
    let _a2 = Client::bound(site.porter.tcp, "a");
    let b = Client::bound(site.porter.tcp, "b");
    let expected = json!({"porter.example": {"webSocketSize": 0, "channelSize": 3, "onlineAllSize": 2, "socketIOSize": 0}});
    assert_eq!(site.get("/info").json(), expected);
    drop(b);
    let expected = json!({"porter.example": {"webSocketSize": 0, "channelSize": 2, "onlineAllSize": 1, "socketIOSize": 0}});
    site.await_body("/info", &expected);
    let Porter { rest, tcp, websocket, socketio, .. } = &site.porter;
    let [rest, tcp, rooms, phones] = [rest, tcp, websocket, socketio].map(|address| address.port());
    let expected = format!(r#"{{"service":{{"rest":{rest},"webSocket":{rooms},"socket":{phones},"push":{tcp}}},"host":"porter.example"}}"#);
    assert_eq!(site.get("/info/servers").body, expected);
}

#[test]
fn without_advertise_host_the_address_that_the_asker_reached_is_told() {
    let site = Site::start(&[]);
    assert_eq!(site.get("/info/servers").json()["host"], "127.0.0.1");
    assert!(site.get("/info").json().get("127.0.0.1").is_some());
}

#[test]
fn status_tells_topics_and_presence_of_any_alias() {
    let site = Site::start(&[]);
    assert_eq!(site.get("/info/status/nobody").body, r#"{"list":[],"status":"offline"}"#);
    let alias = "门/3%1 a";
    let mut door = Client::bound(site.porter.tcp, alias);
    door.send(r#"{"t":2,"topic":["m_2","c_2","楼"],"num":1}"#);
    door.expect(r#"{"t":-2,"num":1}"#);
    let path = "/info/status/%E9%97%A8%2F3%251%20a";
    assert_eq!(site.get(path).body, r#"{"list":["c_2","m_2","楼"],"status":"online"}"#);
    drop(door);
    site.await_body(path, &json!({"list": ["c_2", "m_2", "楼"], "status": "offline"}));
    assert_error(&site.get("/info/status/%FF"), 400, "bad_field");
    assert_error(&site.get(&format!("/info/status/{}", "a".repeat(129))), 400, "bad_field");
}

#[test]
fn pages_hold_a_hundred_sorted_and_end_in_an_empty_list() {
    let site = Site::start(&[]);
    let clients: Vec<Client> = (0..130).map(|n| Client::bound(site.porter.tcp, &format!("a{n:03}"))).collect();
    let _twice = Client::bound(site.porter.tcp, "a000");
    let page = |path: &str| site.get(path).json();
    let first = page("/info/allChannelAlias/1");
    assert_eq!((first["total"].as_u64(), first["list"].as_array().unwrap().len()), (Some(130), 100));
    assert_eq!(first["list"][0], "a000");
    let second = page("/info/allChannelAlias/2");
    assert_eq!(second["list"].as_array().unwrap().len(), 30);
    assert_eq!(second["list"][29], "a129");
    assert_eq!(page("/info/allChannelAlias/3"), json!({"total": 130, "list": []}));
    assert_eq!(page("/info/allSocketIOAlias/1"), json!({"total": 0, "list": []}));
    for bad in ["0", "-1", "abc", "1e30", "1.0", "%20"] {
        assert_error(&site.get(&format!("/info/allChannelAlias/{bad}")), 400, "bad_field");
    }
    let sized = http(site.porter.rest, "GET", &format!("/info/allChannelAlias/2/{}?size=3", site.token), "");
    assert_eq!(sized.json()["list"], json!(["a003", "a004", "a005"]));
    assert_eq!(clients.len(), 130);
}

#[test]
fn pages_count_from_0_and_errors_are_200_where_the_settings_say_so() {
    let site = Site::start(&["--rest-first-page", "0", "--rest-error-status", "200"]);
    let _a = Client::bound(site.porter.tcp, "a");
    assert_eq!(site.get("/info/allChannelAlias/0").json(), json!({"total": 1, "list": ["a"]}));
    assert_error(&site.get("/info/allChannelAlias/-1"), 200, "bad_field");
    assert_error(&http(site.porter.rest, "GET", "/info/bad", ""), 200, "bad_token");
    assert_error(&site.get("/nothing/here"), 200, "not_found");
}

#[test]
fn unknown_paths_are_404_and_other_methods_405() {
    let site = Site::start(&[]);
    for path in ["", "/", "/push/a/b", "/info/status", "/info/a/b/c", "/infos"] {
        let answer = http(site.porter.rest, "GET", &format!("{path}/{}", site.token), "");
        assert!([404, 405].contains(&answer.status), "{path}: {}", answer.status);
    }
    assert_error(&site.get("/nothing"), 404, "not_found");
    let answer = http(site.porter.rest, "PUT", &format!("/info/{}", site.token), "");
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("Allow: "), "{}", answer.head);
}

#[test]
fn the_host_header_changes_no_route() {
    let site = Site::start(&[]);
    for host in ["x", "h/info/servers", "h/info/servers/x?", "user@h:1/push"] {
        let request = format!("GET /info/status/a/{} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", site.token);
        assert_eq!(http_raw(site.porter.rest, request.as_bytes()).body, r#"{"list":[],"status":"offline"}"#, "{host}");
    }
}

#[test]
fn a_report_shows_who_acknowledged_and_recall_ends_what_waits() {
    let site = Site::start(&[]);
    let mut done = Client::bound(site.porter.tcp, "done");
    let mut rings = Client::bound(site.porter.tcp, "rings");
    let frame = r#"{"t":6,"method":"publish_to_alias","alias":["done","rings","away"],"msg":"m","opts":{"receipt":true}}"#;
    let published = site.push(frame).json();
    let mid = published["mid"].as_str().unwrap();
    assert_eq!(done.json()["mid"], mid);
    done.acknowledge(mid);
    done.expect_nothing();
    assert_eq!(rings.json()["mid"], mid);
    let states = |site: &Site| {
        let report = site.get(&format!("/info/message/{mid}")).json();
        let list = report["list"].as_array().unwrap().clone();
        let state = |alias: &str| list.iter().find(|line| line["alias"] == alias).unwrap()["state"].as_str().unwrap().to_owned();
        assert!(list.iter().all(|line| line["at"].as_u64().unwrap() > 1_500_000_000_000));
        ["done", "rings", "away"].map(state)
    };
    assert_eq!(states(&site), ["acknowledged", "waiting", "waiting"]);
    let path = format!("/info/message/{mid}/{}", site.token);
    assert_eq!(http(site.porter.rest, "DELETE", &path, "").json()["recalled"], 2);
    rings.expect(&format!(r#"{{"t":15,"mid":"{mid}"}}"#));
    assert_eq!(states(&site), ["acknowledged", "recalled", "recalled"]);
    assert_error(&http(site.porter.rest, "DELETE", &path, ""), 404, "not_found");
    let mut away = Client::bound(site.porter.tcp, "away");
    away.expect_nothing();
}

#[test]
fn a_message_without_receipt_is_reported_while_it_waits_only() {
    let site = Site::start(&[]);
    let mid = site.push(r#"{"t":6,"method":"publish_to_alias","alias":"away","msg":1}"#).json()["mid"].as_str().unwrap().to_owned();
    let report = site.get(&format!("/info/message/{mid}")).json();
    assert_eq!(
        (&report["mid"], &report["list"][0]["alias"], &report["list"][0]["state"]),
        (&json!(mid), &json!("away"), &json!("waiting"))
    );
    let mut away = Client::bound(site.porter.tcp, "away");
    away.json();
    away.acknowledge(&mid);
    away.expect_nothing();
    assert_error(&site.get(&format!("/info/message/{mid}")), 404, "not_found");
    assert_error(&site.get("/info/message/abc"), 400, "bad_field");
}

#[test]
fn a_repeat_with_the_same_id_gets_the_same_answer_and_is_not_sent_again() {
    let site = Site::start(&[]);
    let frame = r#"{"t":6,"method":"publish_to_alias","alias":"away","msg":1,"opts":{"id":"k1"},"num":NUM}"#;
    let first = site.push(&frame.replace("NUM", "1")).json();
    let again = site.push(&frame.replace("NUM", "\"x\"")).json();
    assert_eq!((&first["mid"], &again["num"]), (&again["mid"], &json!("x")));
    let mut away = Client::bound(site.porter.tcp, "away");
    assert_eq!(away.json()["mid"], first["mid"]);
    away.expect_nothing();
}

#[test]
fn a_client_that_leaves_does_not_take_its_publish_with_it() {
    let site = Site::start(&[]);
    let frame = r#"{"t":6,"method":"publish_to_alias","alias":"away","msg":"stays"}"#;
    let head = format!("POST /push/{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", site.token, frame.len());
    let mut stream = TcpStream::connect(site.porter.rest).unwrap();
    stream.write_all(format!("{head}{frame}").as_bytes()).unwrap();
    drop(stream);
    let mut away = Client::bound(site.porter.tcp, "away");
    assert_eq!(away.json()["msg"], "stays");
}

#[test]
fn a_request_that_waits_when_the_server_ends_is_answered() {
    let Site { folder: _folder, porter, token } = Site::start(&[]);
    let mut door = Client::connect(porter.tcp);
    door.send(r#"{"t":10,"r":"R 1","u":"gate"}"#);
    door.ask_json(r#"{"t":7}"#);
    let (rest, path) = (porter.rest, format!("/push/{token}"));
    let opening = r#"{"t":8,"r":"R 1","u":"office","wait":true}"#;
    let waiting = std::thread::spawn(move || http(rest, "POST", &path, opening));
    door.expect(opening);
    assert_eq!(porter.terminate().0, Some(0));
    assert_error(&waiting.join().unwrap(), 503, "unavailable");
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let site = Site::start(&[]);
    let mut stream = TcpStream::connect(site.porter.rest).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let one = |alias: &str| format!("GET /info/status/{alias}/{} HTTP/1.1\r\nHost: x\r\n\r\n", site.token);
    let last = format!("GET /info/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", site.token);
    stream.write_all(format!("{}{}{last}", one("a"), one("b")).as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let bodies: Vec<&str> = answers.split("\r\n\r\n").skip(1).map(|rest| rest.split("HTTP/1.1").next().unwrap()).collect();
    assert_eq!(bodies[..2], [r#"{"list":[],"status":"offline"}"#; 2]);
    assert!(bodies[2].contains("channelSize"), "{answers}");
}

/// Small clients take one read for one answer (G13). Head and body in two writes would mostly be read apart.
#[test]
fn an_answer_comes_in_one_piece() {
    let site = Site::start(&[]);
    let mut stream = TcpStream::connect(site.porter.rest).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    for _ in 0..200 {
        stream.write_all(format!("GET /info/{} HTTP/1.1\r\nHost: x\r\n\r\n", site.token).as_bytes()).unwrap();
        let mut answer = [0; 4 << 10];
        let bytes = stream.read(&mut answer).unwrap();
        assert!(answer[..bytes].ends_with(b"}}"), "{}", String::from_utf8_lossy(&answer[..bytes]));
    }
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let site = Site::start(&[]);
    let frame = r#"{"t":6,"method":"publish","topic":"x","msg":1}"#;
    let request = format!("POST /push/{} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{frame}", site.token, frame.len());
    let answer = http_raw(site.porter.rest, request.as_bytes());
    assert_eq!(answer.json()["t"], -6);
    assert!(!answer.head.to_ascii_lowercase().contains("chunked"));
}

#[test]
fn nginx_with_its_defaults_works_in_front() {
    let site = Site::start(&["--auth-trusted-proxies", "127.0.0.1"]);
    let folder = Folder::new();
    let upstream = site.porter.rest;
    let (_nginx, proxy) =
        Nginx::start(&folder, |port| format!("server {{ listen {port}; location / {{ proxy_pass http://{upstream}; }} }}"));
    let frame = format!(r#"{{"t":6,"method":"publish_to_alias","alias":"away","msg":"{}"}}"#, "门".repeat(10_000));
    for round in 0..20 {
        let answer = http(proxy, "POST", &format!("/push/{}", site.token), &frame);
        assert_eq!((answer.status, answer.json()["stored"].as_u64()), (200, Some(1)), "round {round}");
    }
    assert_eq!(http(proxy, "GET", &format!("/info/status/away/{}", site.token), "").json()["status"], "offline");
    assert_error(&http(proxy, "GET", "/info/00", ""), 401, "bad_token");
}
