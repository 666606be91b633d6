//! Tokens in use: who needs one, what each role may, and how its end ends links (Protocol §11).

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::clients::{Client, HttpAnswer, http, http_raw};
use crate::porter::{DEADLINE, Folder, Porter, command, manage_token, run, token};

/// Longer than the server may take to see that a token is over, by as much as a busy machine may add.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

fn device(folder: &Folder, label: &str) -> String {
    token(folder, &["--role", "device", "--label", label])
}

fn with_token(frame: &str, token: &str) -> String {
    format!(r#"{},"token":"{token}"}}"#, frame.strip_suffix('}').unwrap())
}

fn info(rest: SocketAddr, token: &str) -> HttpAnswer {
    http(rest, "GET", &format!("/info/{token}"), "")
}

#[track_caller]
fn assert_refused(rest: SocketAddr, token: &str, status: u16, code: &str) {
    let answer = info(rest, token);
    assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{}", answer.body);
}

/// The link must end soon, after a `bad_token` or none.
#[track_caller]
fn expect_end_of_token(client: &mut Client) {
    let begin = Instant::now();
    while let Some(line) = client.try_line() {
        assert!(line.contains("bad_token"), "{line}");
    }
    assert!(begin.elapsed() < SEEN_WITHIN, "ended only after {:?}", begin.elapsed());
}

/// A file of the keyring is damaged while the server runs, then put back: nobody is let in meanwhile, nobody is counted as an
/// attacker for it, and the log says which file it is and what to do.
#[test]
fn a_damaged_key_file_shuts_everybody_out_until_it_is_put_back() {
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, &["--auth-devices", "token", "--language", "en"]);
    let (manage, gate) = (manage_token(&folder), device(&folder, "gate"));
    assert!(run(&folder, &["token", "revoke"], &["somebody"]).status.success());
    import(&folder, "fixed", &["--role", "device", "--label", "old"]);
    let heartbeat = |token: &str| Client::connect(porter.tcp).ask_json(&with_token(r#"{"t":1,"alias":"a"}"#, token));
    for (damaged, name) in ["master.key", "revoked", "imported"].into_iter().enumerate() {
        assert_eq!((info(porter.rest, &manage).status, heartbeat(&gate)["t"].as_i64()), (200, Some(-1)), "{name}");
        let mut link = Client::connect(porter.tcp);
        assert_eq!(link.ask_json(&with_token(r#"{"t":7}"#, &gate))["t"], -7);
        let path = folder.data().join(name);
        let whole = fs::read(&path).unwrap();
        let mut altered = whole.clone();
        altered[3] ^= 1;
        fs::write(&path, altered).unwrap();
        expect_end_of_token(&mut link);
        // Far more often than the ten bad tokens for which an address is shut out.
        for _ in 0..15 {
            let answer = info(porter.rest, &manage);
            assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some("bad_token")), "{name}: {}", answer.body);
            assert!(answer.body.contains("the server's key files are damaged"), "{name}: {}", answer.body);
            assert_eq!(heartbeat(&gate)["code"], "bad_token", "{name}");
        }
        let begin = Instant::now();
        let told = loop {
            let log = porter.log();
            if let Some(line) = log.lines().filter(|line| line.contains("keyring_broken reason=")).nth(damaged) {
                break line.to_owned();
            }
            assert!(begin.elapsed() < SEEN_WITHIN, "{name}:\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(told.contains("bring back the copy of the file") && (told.contains(name) || name == "master.key"), "{told}");
        fs::write(&path, whole).unwrap();
        let begin = Instant::now();
        while info(porter.rest, &manage).status != 200 {
            assert!(begin.elapsed() < SEEN_WITHIN, "{name} is put back:\n{}", porter.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(!porter.log().contains("bad_tokens address="), "{}", porter.log());
}

#[test]
fn where_all_devices_need_a_token_the_first_frame_carries_it_for_the_link() {
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, &["--auth-devices", "token"]);
    let token = device(&folder, "gate");
    for frame in [r#"{"t":1,"alias":"a"}"#, r#"{"t":7}"#, r#"{"t":6,"method":"publish","topic":"x","msg":1}"#, "x", r#"{"t":99}"#] {
        let mut client = Client::connect(porter.tcp);
        client.expect_refusal(frame, "bad_token");
        client.expect_end();
    }
    // A good token behind the first frame comes too late.
    let mut client = Client::connect(porter.tcp);
    client.send_bytes(format!("{{\"t\":7}}\n{}\n", with_token(r#"{"t":7}"#, &token)).as_bytes());
    assert_eq!(client.json()["code"], "bad_token");
    client.expect_end();
    let publish = r#"{"t":6,"method":"publish_to_alias","alias":"b","msg":1}"#;
    for (first, answer) in [(r#"{"t":1,"alias":"a"}"#, -1), (r#"{"t":7}"#, -7), (publish, -6), (r#"{"t":4,"alias":"c"}"#, -4)] {
        let mut client = Client::connect(porter.tcp);
        assert_eq!(client.ask_json(&with_token(first, &token))["t"], answer);
        assert_eq!(client.ask_json(r#"{"t":7}"#)["t"], -7);
        assert_eq!(client.ask_json(publish)["t"], -6);
    }
    // A frame that is refused may bring the token too.
    let mut client = Client::connect(porter.tcp);
    client.expect_refusal(&with_token(r#"{"t":3}"#, &token), "no_alias");
    assert_eq!(client.ask_json(r#"{"t":1,"alias":"a"}"#)["t"], -1);
}

#[test]
fn from_this_machine_no_token_is_needed_by_default_but_a_wrong_one_is_wrong() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    Client::bound(porter.tcp, "a").expect_nothing();
    let good = device(&folder, "gate");
    let damaged = format!("{}{}", &good[..good.len() - 1], if good.ends_with('0') { '1' } else { '0' });
    for wrong in [damaged.as_str(), &good.to_uppercase(), &good[2..], "", "门", &"0".repeat(2_000)] {
        let mut client = Client::connect(porter.tcp);
        client.expect_refusal(&with_token(r#"{"t":7}"#, wrong), "bad_token");
        client.expect_end();
    }
}

#[test]
fn a_device_binds_its_own_alias_alone_and_does_all_else() {
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, &["--auth-devices", "token"]);
    let own = token(&folder, &["--role", "device", "--label", "own", "--alias", "door|3"]);
    let any = device(&folder, "any");
    let manage = manage_token(&folder);
    let mut client = Client::connect(porter.tcp);
    client.expect_refusal(&with_token(r#"{"t":1,"alias":"other"}"#, &own), "forbidden");
    client.expect_refusal(r#"{"t":4,"alias":"other"}"#, "forbidden");
    client.expect_refusal(r#"{"t":-5,"mid":"1","alias":"other"}"#, "forbidden");
    client.expect_refusal(r#"{"t":11,"alias":"door"}"#, "forbidden");
    assert_eq!(client.ask(r#"{"t":11,"alias":"door|3"}"#), r#"{"t":-11,"alias":"door|3"}"#);
    assert_eq!(client.ask_json(r#"{"t":6,"method":"publish_to_alias","alias":"other","msg":1}"#)["stored"], 1);
    client.send(r#"{"t":9,"r":"other","u":"u"}"#);
    client.send(r#"{"t":8,"r":"other","u":"u"}"#);
    client.expect_nothing();
    for token in [&any, &manage] {
        for alias in ["x", "y"] {
            let mut client = Client::connect(porter.tcp);
            assert_eq!(client.ask_json(&with_token(&format!(r#"{{"t":1,"alias":"{alias}"}}"#), token))["alias"], alias);
        }
    }
    for token in [&own, &any] {
        assert_refused(porter.rest, token, 403, "forbidden");
        let push = http(porter.rest, "POST", &format!("/push/{token}"), r#"{"t":6,"method":"publish","topic":"x","msg":1}"#);
        assert_eq!((push.status, push.json()["code"].as_str()), (403, Some("forbidden")));
    }
    assert_eq!(info(porter.rest, &manage).status, 200);
    let header = format!("GET /info/- HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {manage}\r\nConnection: close\r\n\r\n");
    assert_eq!(http_raw(porter.rest, header.as_bytes()).status, 200);
}

#[test]
fn revoking_a_label_ends_its_links_and_requests_and_no_others() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let gone = device(&folder, "gone");
    let stays = device(&folder, "stays");
    let office = token(&folder, &["--role", "manage", "--label", "gone"]);
    let mut bound = Client::connect(porter.tcp);
    bound.ask(&with_token(r#"{"t":1,"alias":"a"}"#, &gone));
    let mut unbound = Client::connect(porter.tcp);
    unbound.ask(&with_token(r#"{"t":7}"#, &gone));
    let mut other = Client::connect(porter.tcp);
    other.ask(&with_token(r#"{"t":1,"alias":"b"}"#, &stays));
    assert_eq!(info(porter.rest, &office).status, 200);
    let revoked = run(&folder, &["token", "revoke"], &["gone"]);
    assert!(revoked.status.success());
    expect_end_of_token(&mut bound);
    expect_end_of_token(&mut unbound);
    other.expect_nothing();
    assert_refused(porter.rest, &office, 401, "bad_token");
    Client::connect(porter.tcp).expect_refusal(&with_token(r#"{"t":7}"#, &gone), "bad_token");
    // For good: no new token of that label, also after a restart.
    let again = run(&folder, &["token", "new"], &["--role", "device", "--label", "gone"]);
    assert_eq!((again.status.code(), again.stdout.len()), (Some(1), 0));
    porter.kill();
    let porter = Porter::start(&folder);
    assert_refused(porter.rest, &office, 401, "bad_token");
}

#[test]
fn a_request_that_waits_ends_when_its_token_does() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let office = token(&folder, &["--role", "manage", "--label", "office"]);
    let mut door = Client::bound(porter.tcp, "R");
    let rest = porter.rest;
    let open = r#"{"t":8,"r":"R","u":"","wait":true}"#;
    let path = format!("/push/{office}");
    let waiting = std::thread::spawn(move || http(rest, "POST", &path, open));
    door.line();
    assert!(run(&folder, &["token", "revoke"], &["office"]).status.success());
    let answer = waiting.join().unwrap();
    assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some("bad_token")), "{}", answer.body);
}

#[test]
fn a_token_that_expires_ends_its_link() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let short = token(&folder, &["--role", "manage", "--label", "short", "--expires", "2s"]);
    let mut client = Client::connect(porter.tcp);
    assert_eq!(client.ask_json(&with_token(r#"{"t":1,"alias":"a"}"#, &short))["t"], -1);
    while let Some(line) = client.try_line() {
        assert!(line.contains("bad_token"), "{line}");
    }
    assert_refused(porter.rest, &short, 401, "bad_token");
    Client::connect(porter.tcp).expect_refusal(&with_token(r#"{"t":7}"#, &short), "bad_token");
}

#[test]
fn a_token_of_another_key_is_worth_nothing() {
    let (folder, other) = (Folder::new(), Folder::new());
    let porter = Porter::start(&folder);
    let foreign = manage_token(&other);
    assert_refused(porter.rest, &foreign, 401, "bad_token");
    Client::connect(porter.tcp).expect_refusal(&with_token(r#"{"t":7}"#, &foreign), "bad_token");
}

/// Runs `porter token import` with `fixed` on its standard input.
fn import(folder: &Folder, fixed: &str, flags: &[&str]) {
    let mut child = command(folder, &["token", "import"], flags).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(fixed.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Waits until REST answers a token with that status: files are looked at twice a second.
fn await_status(porter: &Porter, token: &str, status: u16) {
    let end = Instant::now() + DEADLINE;
    while info(porter.rest, token).status != status {
        assert!(Instant::now() < end, "no {status} for a token");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_imported_string_is_a_token_until_it_is_revoked() {
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, &["--auth-devices", "token"]);
    import(&folder, "old-management-string\n", &["--role", "manage", "--label", "old office"]);
    import(&folder, "old device \"string\"", &["--role", "device", "--label", "old gates", "--alias", "gate"]);
    await_status(&porter, "old-management-string", 200);
    let mut gate = Client::connect(porter.tcp);
    assert_eq!(gate.ask_json(r#"{"t":1,"alias":"gate","token":"old device \"string\""}"#)["t"], -1);
    let files: String = fs::read_dir(folder.data())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned())
        .collect();
    assert!(!files.contains("old-management-string") && !files.contains("old device"), "the string itself is kept");
    assert!(run(&folder, &["token", "revoke"], &["old gates"]).status.success());
    expect_end_of_token(&mut gate);
    assert_eq!(info(porter.rest, "old-management-string").status, 200);
}

#[test]
fn while_a_key_file_is_damaged_or_gone_no_token_is_valid() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let (manage, gate) = (manage_token(&folder), device(&folder, "gate"));
    assert!(run(&folder, &["token", "revoke"], &["somebody"]).status.success());
    await_status(&porter, &manage, 200);
    for name in ["revoked", "master.key"] {
        let path = folder.data().join(name);
        let whole = fs::read(&path).unwrap();
        for damaged in [Some(&whole[..whole.len() / 2]), Some(&b"\0\xff"[..]), None] {
            let mut client = Client::connect(porter.tcp);
            assert_eq!(client.ask_json(&with_token(r#"{"t":1,"alias":"a"}"#, &gate))["t"], -1);
            let mut tokenless = Client::bound(porter.tcp, "b");
            match damaged {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            expect_end_of_token(&mut client);
            // 429 once this test has been refused too often within the minute.
            assert!([401, 429].contains(&info(porter.rest, &manage).status));
            // Who needs no token is served.
            tokenless.expect_nothing();
            fs::write(&path, &whole).unwrap();
            await_status(&porter, &manage, 200);
        }
    }
}

#[test]
fn after_ten_bad_tokens_the_bad_ones_are_slowed_and_good_ones_are_not() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let manage = manage_token(&folder);
    for _ in 0..9 {
        assert_refused(porter.rest, "0123456789abcdef", 401, "bad_token");
    }
    let statuses: Vec<u16> = (0..5).map(|_| info(porter.rest, "0123456789abcdef").status).collect();
    assert_eq!(statuses[1..], [429; 4]);
    assert_eq!(info(porter.rest, &manage).status, 200);
    porter.await_log("bad_tokens address=127.0.0.1");
    assert_eq!(porter.log().matches("bad_tokens address=").count(), 1);
    // On TCP the link ends all the same.
    let mut client = Client::connect(porter.tcp);
    client.send(&with_token(r#"{"t":7}"#, "00"));
    assert_eq!(client.json()["code"], "bad_token");
    expect_end_of_token(&mut client);
    let mut good = Client::connect(porter.tcp);
    assert_eq!(good.ask_json(&with_token(r#"{"t":7}"#, &manage))["t"], -7);
}

#[test]
fn no_token_is_ever_in_the_log() {
    let folder = Folder::new();
    let porter = Porter::start_with(&folder, &["--log-level", "trace", "--auth-devices", "token"]);
    let (manage, gate) = (manage_token(&folder), device(&folder, "gate"));
    let bad = "deadbeef".repeat(6);
    for token in [&manage, &gate, &bad] {
        for path in ["/info", "/info/status/a", "/nothing/at/all", "/info/servers", "/push", "/info/message/1", "/info/%zz"] {
            for method in ["GET", "POST", "DELETE", "PUT"] {
                http(porter.rest, method, &format!("{path}/{token}"), "{}");
            }
        }
        http_raw(porter.rest, format!("GET /info/{token} HTTP/9.9\r\n\r\n").as_bytes());
        http_raw(
            porter.rest,
            format!("GET /info/- HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        let mut client = Client::connect(porter.tcp);
        client.ask(&with_token(r#"{"t":1,"alias":"a"}"#, token));
        drop(client);
        let mut client = Client::connect(porter.tcp);
        client.ask(&format!(r#"{{"t":7,"token":"{token}"#));
    }
    // The log is written in order: with this request it has all before it.
    http(porter.rest, "GET", &format!("/info/allChannelAlias/1/{manage}"), "");
    porter.await_log("path=/info/allChannelAlias");
    let log = porter.log();
    for token in [&manage, &gate, &bad] {
        assert!(!log.contains(token.as_str()), "a token is in the log:\n{log}");
        assert!(!log.contains(&token[..16]), "half a token is in the log:\n{log}");
    }
}
