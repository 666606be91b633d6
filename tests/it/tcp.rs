//! PushServer: every frame over the line protocol (Protocol §2 to §6).

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::clients::{Client, http};
use crate::porter::{DEADLINE, Folder, Porter, manage_token};
use crate::seeded::Seeded;

fn start() -> (Folder, Porter) {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    (folder, porter)
}

fn number(mid: &str) -> u64 {
    mid.parse().unwrap()
}

/// Publishes `count` numbers from 0 to an alias that does not acknowledge; returns when all are stored.
fn publish_numbers(address: SocketAddr, alias: &str, count: u64) -> Vec<String> {
    let mut publisher = Client::connect(address);
    (0..count).map(|n| publisher.publish(alias, &n.to_string(), n)["mid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn of_many_links_that_send_at_the_same_moment_each_is_answered() {
    let (_folder, porter) = start();
    let mut clients: Vec<Client> = (0..400).map(|_| Client::connect(porter.tcp)).collect();
    for round in 0..3 {
        for client in &mut clients {
            client.send(r#"{"t":7}"#);
        }
        // Some are gone before it is their turn.
        clients.truncate(400 - 50 * (round + 1));
        for client in &mut clients {
            client.expect(r#"{"t":-7,"One2OneSize":0,"One2ManySize":0,"Many2ManySize":0,"channelSize":0}"#);
        }
    }
}

#[test]
fn every_frame_is_answered_with_exactly_its_bytes() {
    let (_folder, porter) = start();
    let mut client = Client::connect(porter.tcp);
    for (sent, answer) in [
        (r#"{"t":7}"#, r#"{"t":-7,"One2OneSize":0,"One2ManySize":0,"Many2ManySize":0,"channelSize":0}"#),
        (r#"{"t":1,"alias":"a","num":9007199254740993}"#, r#"{"t":-1,"alias":"a","num":9007199254740993}"#),
        (r#"{"t":"2","topic":["x","y"],"info":{"k": 1.0},"num":"n"}"#, r#"{"t":-2,"num":"n"}"#),
        (r#"{"t":2,"topic":"频道","num":1.50}"#, r#"{"t":-2,"num":1.50}"#),
        (r#"{"t":2,"topic":["Z"]}"#, r#"{"t":-2}"#),
        (r#"{"t":12,"topic":["x","never"],"num":18446744073709551617}"#, r#"{"t":-12,"num":18446744073709551617}"#),
        (r#"{"type":3,"num":"\u0033"}"#, r#"{"t":-3,"num":"\u0033","topic":["Z","y","频道"]}"#),
        (r#"{"t":12,"topic":"y"}"#, r#"{"t":-12}"#),
        (r#"{"t":3}"#, r#"{"t":-3,"topic":["Z","频道"]}"#),
        (r#"{"t":4,"num":4}"#, r#"{"t":-4,"msg":[],"mid":[],"more":false,"num":4}"#),
        (r#"{"t":4}"#, r#"{"t":-4,"msg":[],"mid":[],"more":false}"#),
        (r#"{"t":7,"num":""}"#, r#"{"t":-7,"One2OneSize":0,"One2ManySize":0,"Many2ManySize":0,"channelSize":1,"num":""}"#),
        (r#"{"t":11,"alias":"a"}"#, r#"{"t":-11,"alias":"a"}"#),
        (r#"{"t":14,"alias":"a","num":7}"#, r#"{"t":-14,"alias":"a","num":7}"#),
        (r#"{"t":7,"t":1,"alias":"b","alias":"a","unknown":{}}"#, r#"{"t":-1,"alias":"a"}"#),
        (r#"{"t":1,"type":7,"alias":"a"}"#, r#"{"t":-1,"alias":"a"}"#),
    ] {
        assert_eq!(client.ask(sent), answer, "{sent}");
    }
    let answer = client.ask(r#"{"t":6,"method":"publish","topic":["nobody"],"msg":null,"num":"p"}"#);
    let mid = answer.split('"').nth(9).unwrap();
    assert_eq!(answer, format!(r#"{{"t":-6,"num":"p","mid":"{mid}","online":0,"stored":0}}"#));
    assert!(number(mid) > 0);
}

#[test]
fn an_extended_session_is_told_the_time_and_a_push_has_its_members_in_order() {
    let (_folder, porter) = start();
    let mut client = Client::connect(porter.tcp);
    let answer = client.ask(r#"{"t":1,"alias":"门","ext":1,"num":1}"#);
    let ts = answer.strip_prefix(r#"{"t":-1,"alias":"门","ts":"#).unwrap().strip_suffix(r#","num":1}"#).unwrap();
    assert!(ts.parse::<u64>().unwrap() > 1_500_000_000_000, "{ts}");
    client.ask(r#"{"t":2,"topic":"top\"ic"}"#);
    let msg = r#"{"b":1.0e2, "a":"\u00e9\/门","b":[ 12345678901234567890 ]}"#;
    Client::connect(porter.tcp).send(&format!(r#"{{"t":6,"method":"publish","topic":"top\"ic","msg":{msg}}}"#));
    let push = client.line();
    let parts: Vec<&str> = push.splitn(5, ',').collect();
    assert!(parts[0].starts_with(r#"{"t":5"#) && parts[1].starts_with(r#""mid":""#), "{push}");
    assert_eq!(parts[2..4], [r#""alias":"门""#, r#""topic":"top\"ic""#]);
    let digits: String = parts[4].strip_prefix(r#""ts":"#).unwrap().chars().take_while(char::is_ascii_digit).collect();
    assert_eq!(parts[4], format!(r#""ts":{digits},"msg":{msg}}}"#));
}

/// What is sent to a link bound to `a`, the code that refuses it, the field that the text names.
const REFUSED: &[(&str, &str, &str)] = &[
    ("x", "bad_json", ""),
    ("[1]", "bad_json", ""),
    (r#"{"t":1"#, "bad_json", ""),
    (r#"{"t":6,"method":"publish","topic":"x"}"#, "missing_field", "msg"),
    (r#"{"t":6,"topic":"x","msg":1}"#, "missing_field", "method"),
    (r#"{"t":6,"method":"publish","msg":1}"#, "missing_field", "topic"),
    (r#"{"t":6,"method":"publish_to_alias","msg":1}"#, "missing_field", "alias"),
    (r#"{"t":2}"#, "missing_field", "topic"),
    (r#"{"t":12}"#, "missing_field", "topic"),
    (r#"{"t":-5}"#, "missing_field", "mid"),
    (r#"{"t":8,"u":"u"}"#, "missing_field", "r"),
    (r#"{"t":9,"r":"r"}"#, "missing_field", "u"),
    (r#"{"t":10}"#, "missing_field", "r"),
    (r#"{"t":1,"alias":""}"#, "bad_field", "alias"),
    (r#"{"t":1,"alias":7}"#, "bad_field", "alias"),
    (r#"{"t":1,"alias":"a","num":true}"#, "bad_field", "num"),
    (r#"{"t":1,"alias":"a","num":null}"#, "bad_field", "num"),
    (r#"{"t":2,"topic":[7]}"#, "bad_field", "topic"),
    (r#"{"t":2,"topic":["a\u0000b"]}"#, "bad_field", "topic"),
    (r#"{"t":2,"topic":"x","info":[]}"#, "bad_field", "info"),
    (r#"{"t":-5,"mid":{}}"#, "bad_field", "mid"),
    (r#"{"t":6,"method":"publsh","topic":"x","msg":1}"#, "bad_field", "method"),
    (r#"{"t":6,"method":"publish","topic":"x","msg":1,"opts":[]}"#, "bad_field", "opts"),
    (r#"{"t":6,"method":"publish","topic":"x","msg":1,"opts":{"time_to_live":-1}}"#, "bad_field", "opts.time_to_live"),
    (r#"{"t":6,"method":"publish","topic":"x","msg":1,"opts":{"time_to_live":2592001}}"#, "bad_field", "opts.time_to_live"),
    (r#"{"t":6,"method":"publish","topic":"x","msg":1,"opts":{"time_to_live":1.5}}"#, "bad_field", "opts.time_to_live"),
    (r#"{"t":6,"method":"publish","topic":"x","msg":1,"opts":{"id":""}}"#, "bad_field", "opts.id"),
    (r#"{"t":6,"method":"publish","topic":"x","msg":1,"opts":{"receipt":1}}"#, "bad_field", "opts.receipt"),
    (r#"{"t":0}"#, "unknown_type", ""),
    (r#"{"t":5}"#, "unknown_type", ""),
    (r#"{"t":13}"#, "unknown_type", ""),
    (r#"{"t":15}"#, "unknown_type", ""),
    (r#"{"t":-1}"#, "unknown_type", ""),
    (r#"{"t":-6}"#, "unknown_type", ""),
    (r#"{"t":99}"#, "unknown_type", ""),
    (r#"{"t":1,"alias":"b"}"#, "alias_mismatch", ""),
    (r#"{"t":11,"alias":"b"}"#, "alias_mismatch", ""),
    (r#"{"t":4,"alias":"b"}"#, "alias_mismatch", ""),
    (r#"{"t":-5,"mid":"1","alias":"b"}"#, "alias_mismatch", ""),
    (r#"{"t":2,"topic":"x","alias":"b"}"#, "alias_mismatch", ""),
];

#[test]
fn each_mistake_has_its_code_and_a_text_in_the_language_set_and_closes_nothing() {
    for language in ["zh", "en"] {
        let folder = Folder::new();
        let porter = Porter::start_with(&folder, &["--language", language]);
        let mut client = Client::bound_plain(porter.tcp, "a");
        for (sent, code, field) in REFUSED {
            let text = client.expect_refusal(sent, code);
            assert!(text.contains(field), "{sent}: {text}");
            assert_eq!(text.chars().any(|c| c > '\u{2e80}'), language == "zh", "{sent}: {text}");
            if language == "zh" && *code == "missing_field" {
                assert_eq!(text, format!("参数不全: {field}"));
            }
        }
        client.send(r#"{"t":99,"num":12345678901234567890}"#);
        let refused = client.line();
        assert!(refused.starts_with(r#"{"t":0,"error":""#), "{refused}");
        assert!(refused.ends_with(r#"","code":"unknown_type","num":12345678901234567890}"#), "{refused}");
        client.expect_nothing();
        let mut unbound = Client::connect(porter.tcp);
        for sent in [r#"{"t":2,"topic":"x"}"#, r#"{"t":3}"#, r#"{"t":4}"#, r#"{"t":12,"topic":"x"}"#, r#"{"t":-5,"mid":"1"}"#] {
            let text = unbound.expect_refusal(sent, "no_alias");
            assert_eq!(text.chars().any(|c| c > '\u{2e80}'), language == "zh", "{text}");
        }
        unbound.expect_nothing();
    }
}

#[test]
fn too_large_and_bad_token_end_the_link_after_their_error() {
    for (language, too_large, bad_token) in [("zh", "数据过大", "令牌无效"), ("en", "too large", "bad token")] {
        let folder = Folder::new();
        let porter = Porter::start_with(&folder, &["--language", language]);
        let mut client = Client::connect(porter.tcp);
        client.send(r#"{"t":7}"#);
        client.send(&"x".repeat(65_537));
        assert_eq!(client.json()["t"], -7);
        let error = client.json();
        assert_eq!(error["code"], "too_large");
        assert!(error["error"].as_str().unwrap().starts_with(too_large), "{error}");
        client.expect_end();
        let mut client = Client::connect(porter.tcp);
        let text = client.expect_refusal(r#"{"t":1,"alias":"a","token":"00","num":1}"#, "bad_token");
        assert!(text.starts_with(bad_token), "{text}");
        client.expect_end();
    }
}

#[test]
fn heartbeat_connect_pull_and_acknowledgement_bind_and_nothing_else_does() {
    let (_folder, porter) = start();
    for bind in [r#"{"t":1,"alias":"A"}"#, r#"{"t":11,"alias":"A"}"#, r#"{"t":14,"alias":"A"}"#, r#"{"t":4,"alias":"A"}"#] {
        let mut client = Client::connect(porter.tcp);
        client.ask(bind);
        assert_eq!(client.ask(r#"{"t":3}"#), r#"{"t":-3,"topic":[]}"#, "{bind}");
    }
    let mut client = Client::connect(porter.tcp);
    client.send(r#"{"t":-5,"mid":"1","alias":"B"}"#);
    assert_eq!(client.ask(r#"{"t":3}"#), r#"{"t":-3,"topic":[]}"#);
    let mut client = Client::connect(porter.tcp);
    client.ask(r#"{"t":6,"method":"publish_to_alias","alias":"A","msg":1,"opts":{"time_to_live":0}}"#);
    client.expect_refusal(r#"{"t":3}"#, "no_alias");
    client.expect_refusal(r#"{"t":2,"topic":"x","alias":"A"}"#, "no_alias");
    client.expect_refusal(r#"{"t":3,"alias":"A"}"#, "no_alias");
    // The frames that need no alias.
    client.send(r#"{"t":9,"r":"R","u":""}"#);
    client.send(r#"{"t":10,"r":"R","u":""}"#);
    client.send(r#"{"t":8,"r":"R","u":""}"#);
    client.expect_nothing();
}

#[test]
fn what_waits_comes_after_the_answer_to_whatever_binds() {
    let (_folder, porter) = start();
    let mids = publish_numbers(porter.tcp, "away", 3);
    for bind in
        [r#"{"t":1,"alias":"away"}"#, r#"{"t":11,"alias":"away"}"#, r#"{"t":14,"alias":"away"}"#, r#"{"t":-5,"mid":"1","alias":"away"}"#]
    {
        let mut client = Client::connect(porter.tcp);
        client.send(bind);
        if !bind.contains("-5") {
            assert!(client.json()["t"].as_i64().unwrap() < 0);
        }
        for mid in &mids {
            assert_eq!(client.mid(), *mid, "{bind}");
        }
        client.expect_nothing();
    }
}

#[test]
fn a_publish_to_topics_reaches_each_subscriber_once_named_by_the_first_it_has() {
    let (_folder, porter) = start();
    let mut clients: Vec<Client> = ["x", "y", "both"].iter().map(|alias| Client::bound(porter.tcp, alias)).collect();
    for (client, topics) in clients.iter_mut().zip([r#"["x"]"#, r#"["y"]"#, r#"["x","y"]"#]) {
        client.ask(&format!(r#"{{"t":2,"topic":{topics}}}"#));
    }
    // A subscriber publishes: it is a receiver too, and its -6 comes when all have acknowledged.
    clients[2].send(r#"{"t":6,"method":"publish","topic":["none","y","x","y"],"msg":"m","num":1}"#);
    let pushes: Vec<Value> = clients.iter_mut().map(Client::json).collect();
    assert_eq!(pushes.iter().map(|push| push["topic"].as_str().unwrap()).collect::<Vec<_>>(), ["x", "y", "y"]);
    let mid = pushes[0]["mid"].as_str().unwrap();
    assert!(pushes.iter().all(|push| push["mid"] == mid));
    clients.iter_mut().for_each(|client| client.acknowledge(mid));
    clients[2].expect(&format!(r#"{{"t":-6,"num":1,"mid":"{mid}","online":3,"stored":0}}"#));
    // Unsubscribed is unsubscribed; an alias named twice gets it once, without a topic.
    clients[0].ask(r#"{"t":12,"topic":"x"}"#);
    let mut guard = Client::connect(porter.tcp);
    guard.send(r#"{"t":6,"method":"publish","topic":"x","msg":1,"num":2}"#);
    let mid = clients[2].mid();
    clients[2].acknowledge(&mid);
    guard.expect(&format!(r#"{{"t":-6,"num":2,"mid":"{mid}","online":1,"stored":0}}"#));
    guard.send(r#"{"t":6,"method":"publish_to_alias","alias":["x","x"],"msg":1,"num":3}"#);
    let push = clients[0].json();
    assert!(push.get("topic").is_none(), "{push}");
    clients[0].acknowledge(push["mid"].as_str().unwrap());
    assert_eq!(guard.json()["online"], 1);
    clients.iter_mut().for_each(Client::expect_nothing);
}

#[test]
fn an_unknown_alias_is_waited_for_and_time_to_live_decides_how_long() {
    let (folder, porter) = start();
    let token = manage_token(&folder);
    let mut guard = Client::connect(porter.tcp);
    let mut publish = |opts: &str| guard.ask_json(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"new","msg":1,"opts":{opts}}}"#));
    assert_eq!(publish(r#"{"time_to_live":0}"#)["stored"], 0);
    let short = publish(r#"{"time_to_live":1}"#);
    assert_eq!((&short["online"], &short["stored"]), (&json!(0), &json!(1)));
    let long = publish(r#"{"time_to_live":2592000}"#)["mid"].as_str().unwrap().to_owned();
    let path = format!("/info/message/{}/{token}", short["mid"].as_str().unwrap());
    let end = Instant::now() + DEADLINE;
    while http(porter.rest, "GET", &path, "").status == 200 {
        assert!(Instant::now() < end, "the message does not expire");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut client = Client::bound(porter.tcp, "new");
    assert_eq!(client.mid(), long);
    client.expect_nothing();
}

#[test]
fn time_to_live_0_goes_to_live_sessions_only_and_its_acknowledgement_is_known() {
    let (_folder, porter) = start();
    let mut phones = [Client::bound(porter.tcp, "flat"), Client::bound(porter.tcp, "flat")];
    let mut door = Client::bound(porter.tcp, "door");
    door.send(
        r#"{"t":6,"method":"publish_to_alias","alias":["flat","away"],"msg":"ring","opts":{"time_to_live":0,"receipt":true},"num":1}"#,
    );
    let answer = door.json();
    assert_eq!((&answer["t"], &answer["online"], &answer["stored"]), (&json!(-6), &json!(1), &json!(0)));
    let mid = answer["mid"].as_str().unwrap();
    assert_eq!(phones.each_mut().map(Client::mid), [mid, mid]);
    phones[0].acknowledge(mid);
    phones[1].expect(&format!(r#"{{"t":15,"mid":"{mid}"}}"#));
    let receipt = door.json();
    assert_eq!((&receipt["t"], &receipt["mid"], &receipt["alias"]), (&json!(13), &json!(mid), &json!("flat")));
    // Nothing is owed: not to who was away, nor again to who was here.
    assert_eq!(phones[1].ask(r#"{"t":11,"alias":"flat"}"#), r#"{"t":-11,"alias":"flat"}"#);
    phones[1].expect_nothing();
    Client::bound(porter.tcp, "away").expect_nothing();
}

#[test]
fn a_repeated_key_is_answered_alike_from_every_link_of_its_publisher_and_after_a_crash() {
    let (folder, porter) = start();
    let frame = r#"{"t":6,"method":"publish_to_alias","alias":"away","msg":MSG,"opts":{"id":"k"},"num":NUM}"#;
    let publish = |client: &mut Client, msg: &str, num: &str| client.ask_json(&frame.replace("MSG", msg).replace("NUM", num));
    let mut guard = Client::bound(porter.tcp, "guard");
    let first = publish(&mut guard, "1", "1");
    assert_eq!(first["stored"], 1);
    let again = publish(&mut guard, "2", "\"x\"");
    assert_eq!((&again["mid"], &again["stored"], &again["num"]), (&first["mid"], &json!(1), &json!("x")));
    let other_link = publish(&mut Client::bound(porter.tcp, "guard"), "3", "3");
    assert_eq!(other_link["mid"], first["mid"]);
    let other_publisher = publish(&mut Client::bound(porter.tcp, "other"), "4", "4");
    assert_ne!(other_publisher["mid"], first["mid"]);
    porter.kill();
    let porter = Porter::start(&folder);
    let after = publish(&mut Client::bound(porter.tcp, "guard"), "5", "5");
    assert_eq!((&after["mid"], &after["online"], &after["stored"]), (&first["mid"], &json!(0), &json!(1)));
    let mut away = Client::bound(porter.tcp, "away");
    assert_eq!(json!([away.json()["msg"], away.json()["msg"]]), json!([1, 4]));
    away.expect_nothing();
}

#[test]
fn a_receipt_comes_for_each_acknowledgement_also_on_a_later_link() {
    let (_folder, porter) = start();
    let mut sender = Client::bound(porter.tcp, "sender");
    let mut plain = Client::bound_plain(porter.tcp, "sender");
    let mut here = Client::bound(porter.tcp, "here");
    sender.send(r#"{"t":6,"method":"publish_to_alias","alias":["here","away"],"msg":1,"opts":{"receipt":true},"num":1}"#);
    let mid = here.mid();
    assert_eq!(sender.json()["mid"], mid);
    here.acknowledge(&mid);
    let receipt = sender.line();
    assert!(receipt.starts_with(&format!(r#"{{"t":13,"mid":"{mid}","alias":"here","at":"#)), "{receipt}");
    drop(sender);
    let mut sender = Client::bound(porter.tcp, "sender");
    let mut away = Client::bound(porter.tcp, "away");
    assert_eq!(away.mid(), mid);
    away.acknowledge(&mid);
    assert_eq!(sender.json()["alias"], "away");
    plain.expect_nothing();
}

#[test]
fn what_is_not_acknowledged_comes_again_on_connect_and_not_on_a_heartbeat() {
    let (_folder, porter) = start();
    let mut door = Client::bound_plain(porter.tcp, "door");
    let mids = publish_numbers(porter.tcp, "door", 4);
    for mid in &mids {
        let push = door.json();
        assert_eq!((&push["mid"], push.get("dup")), (&json!(mid), None));
    }
    door.send(&format!(r#"{{"t":-5,"mid":["{}","77","{}"]}}"#, mids[1], mids[3]));
    assert_eq!(door.ask(r#"{"t":1,"alias":"door"}"#), r#"{"t":-1,"alias":"door"}"#);
    door.expect_nothing();
    for kind in ["11", "14"] {
        assert_eq!(door.ask(&format!(r#"{{"t":{kind},"alias":"door"}}"#)), format!(r#"{{"t":-{kind},"alias":"door"}}"#));
        for mid in [&mids[0], &mids[2]] {
            let push = door.json();
            assert_eq!((&push["mid"], &push["dup"]), (&json!(mid), &json!(true)));
        }
    }
    // A mid as a number ends a delivery too; an ended or unknown one is fine.
    door.send(&format!(r#"{{"t":-5,"mid":{}}}"#, mids[0]));
    door.acknowledge(&mids[0]);
    door.acknowledge("5");
    door.acknowledge(&mids[2]);
    assert_eq!(door.ask(r#"{"t":11,"alias":"door"}"#), r#"{"t":-11,"alias":"door"}"#);
    door.expect_nothing();
}

#[test]
fn the_other_extended_sessions_of_the_alias_alone_hear_that_it_has_ended() {
    let (_folder, porter) = start();
    let mut flat = [Client::bound(porter.tcp, "flat"), Client::bound(porter.tcp, "flat")];
    let mut old = Client::bound_plain(porter.tcp, "flat");
    let mut neighbour = Client::bound(porter.tcp, "neighbour");
    let mut door = Client::connect(porter.tcp);
    door.send(r#"{"t":6,"method":"publish_to_alias","alias":["flat","neighbour"],"msg":"ring","num":1}"#);
    let mid = old.mid();
    assert_eq!((flat[0].mid(), flat[1].mid(), neighbour.mid()), (mid.clone(), mid.clone(), mid.clone()));
    old.acknowledge(&mid);
    for phone in &mut flat {
        phone.expect(&format!(r#"{{"t":15,"mid":"{mid}"}}"#));
    }
    flat[0].acknowledge(&mid);
    neighbour.acknowledge(&mid);
    assert_eq!(door.json()["mid"], mid);
    flat.iter_mut().chain([&mut old, &mut neighbour]).for_each(Client::expect_nothing);
}

#[test]
fn a_pull_pages_by_100_and_the_next_one_acknowledges() {
    let (_folder, porter) = start();
    let mids = publish_numbers(porter.tcp, "away", 205);
    let mut client = Client::connect(porter.tcp);
    let page = client.ask_json(r#"{"t":4,"alias":"away","num":1}"#);
    assert_eq!((page["mid"].as_array().unwrap().len(), &page["more"]), (100, &json!(true)));
    assert_eq!(page["mid"], json!(mids[..100]));
    assert_eq!(page["msg"], json!((0..100).collect::<Vec<u64>>()));
    // What the pull that binds does not carry is pushed.
    for mid in &mids[100..] {
        assert_eq!(client.mid(), *mid);
    }
    let page = client.ask_json(r#"{"t":4,"num":2}"#);
    assert_eq!((&page["mid"], &page["more"]), (&json!(mids[100..200]), &json!(true)));
    // A link that goes after a page has acknowledged only the pages before it.
    drop(client);
    let mut client = Client::connect(porter.tcp);
    let page = client.ask_json(r#"{"t":4,"alias":"away","num":3}"#);
    assert_eq!((&page["mid"], &page["more"]), (&json!(mids[100..200]), &json!(true)));
    for mid in &mids[200..] {
        assert_eq!(client.mid(), *mid);
    }
    let page = client.ask_json(r#"{"t":4}"#);
    assert_eq!((&page["mid"], &page["more"]), (&json!(mids[200..]), &json!(false)));
    assert_eq!(client.ask(r#"{"t":4}"#), r#"{"t":-4,"msg":[],"mid":[],"more":false}"#);
    drop(client);
    Client::bound(porter.tcp, "away").expect_nothing();
}

#[test]
fn a_page_ends_at_256_kib() {
    let (_folder, porter) = start();
    let mut publisher = Client::connect(porter.tcp);
    let body = format!(r#""{}""#, "x".repeat(59_998));
    for n in 0..5 {
        publisher.publish("away", &body, n);
    }
    let mut client = Client::connect(porter.tcp);
    let page = client.ask_json(r#"{"t":4,"alias":"away"}"#);
    assert_eq!((page["mid"].as_array().unwrap().len(), &page["more"]), (4, &json!(true)));
    client.mid();
    let page = client.ask_json(r#"{"t":4}"#);
    assert_eq!((page["mid"].as_array().unwrap().len(), &page["more"]), (1, &json!(false)));
}

#[test]
fn the_ninth_session_closes_the_one_heard_from_longest_ago() {
    let (_folder, porter) = start();
    let mut phones: Vec<Client> = (0..8).map(|_| Client::bound(porter.tcp, "flat")).collect();
    for quiet in [0, 1, 2, 4, 5, 6, 7] {
        phones[quiet].expect_nothing();
    }
    let begin = Instant::now();
    let mut ninth = Client::bound(porter.tcp, "flat");
    phones[3].expect_end();
    // Two seconds, and what a busy machine may add.
    assert!(begin.elapsed() < Duration::from_secs(10), "closed only after {:?}", begin.elapsed());
    phones.remove(3);
    phones.iter_mut().for_each(Client::expect_nothing);
    ninth.expect_nothing();
}

#[test]
fn line_ends_blanks_and_pipelining() {
    let (_folder, porter) = start();
    let mut client = Client::connect(porter.tcp);
    client.send_bytes(b"\r\n  \n\t\r\n  {\"t\":1,\"alias\":\"a\"} \r\n\n{\"t\":2,\"topic\":\"x\",\"num\":1}\n{\"t\":3}\n");
    client.expect(r#"{"t":-1,"alias":"a"}"#);
    client.expect(r#"{"t":-2,"num":1}"#);
    client.expect(r#"{"t":-3,"topic":["x"]}"#);
    // A hundred of each kind in one write: answered in order, those that wait for the disk too.
    let mut sent = String::new();
    let mut expected = Vec::new();
    for n in 0..100 {
        sent += &format!(
            "{{\"t\":2,\"topic\":\"t{n:03}\",\"num\":{n}}}\n{{\"t\":3,\"num\":{n}}}\n{{\"t\":99,\"num\":{n}}}\n{{\"t\":12,\"topic\":\"t{n:03}\",\"num\":{n}}}\n"
        );
        expected.push(format!(r#"{{"t":-2,"num":{n}}}"#));
        expected.push(format!(r#"{{"t":-3,"num":{n},"topic":["t{n:03}","x"]}}"#));
        expected.push(format!(r#"","code":"unknown_type","num":{n}}}"#));
        expected.push(format!(r#"{{"t":-12,"num":{n}}}"#));
    }
    client.send_bytes(sent.as_bytes());
    for line in expected {
        assert!(client.line().ends_with(&line), "{line}");
    }
    // Byte by byte.
    for byte in b"{\"t\":1,\"alias\":\"a\",\"num\":\"\xe9\x97\xa8\"}\r\n" {
        client.send_bytes(&[*byte]);
    }
    client.expect(r#"{"t":-1,"alias":"a","num":"门"}"#);
    client.expect_nothing();
}

#[test]
fn a_frame_of_65536_bytes_is_taken_and_one_more_is_not() {
    let (_folder, porter) = start();
    let frame = |bytes: usize| {
        let around = r#"{"t":1,"alias":"a","x":""}"#.len();
        format!(r#"{{"t":1,"alias":"a","x":"{}"}}"#, "x".repeat(bytes - around))
    };
    let mut client = Client::connect(porter.tcp);
    client.send(&frame(65_535));
    client.expect(r#"{"t":-1,"alias":"a"}"#);
    // The line's end and the spaces around it are not counted.
    client.send_bytes(format!("  {} \r\n", frame(65_536)).as_bytes());
    client.expect(r#"{"t":-1,"alias":"a"}"#);
    client.expect_refusal(&frame(65_537), "too_large");
    client.expect_end();
    // Refused before its end has come.
    let mut client = Client::connect(porter.tcp);
    client.send_bytes(frame(65_537).as_bytes());
    assert_eq!(client.json()["code"], "too_large");
    client.expect_end();
}

#[test]
fn an_http_request_is_closed_unanswered_however_it_arrives() {
    let (_folder, porter) = start();
    for pieces in [&["GET / HTTP/1.1\r\nHost: x\r\n\r\n"][..], &["POST /push HTTP/1.1\r\n"], &["GE", "T / HTTP/1.1\r\n"], &["OPTIONS", " "]]
    {
        let mut client = Client::connect(porter.tcp);
        for piece in pieces {
            client.send_bytes(piece.as_bytes());
            // So that the pieces are read apart: an answer on another link comes after what was read on this one.
            Client::connect(porter.tcp).expect_nothing();
        }
        client.expect_end();
    }
    // Lower case, too short: a line that is no frame.
    for line in ["get /", "AB /", "ABCDEFGHIJKLMNOPQ /"] {
        Client::connect(porter.tcp).expect_refusal(line, "bad_json");
    }
}

#[test]
fn answers_still_come_to_a_peer_that_has_closed_its_side() {
    let (_folder, porter) = start();
    let mut client = Client::connect(porter.tcp);
    client.send_bytes(
        concat!(
            r#"{"t":1,"alias":"a"}"#,
            "\n",
            r#"{"t":2,"topic":"x","num":1}"#,
            "\n",
            r#"{"t":6,"method":"publish_to_alias","alias":"away","msg":1,"num":2}"#,
            "\n",
            r#"{"t":3,"num":3}"#,
            "\n"
        )
        .as_bytes(),
    );
    client.half_close();
    let mut answers: Vec<String> = (0..4).map(|_| client.line()).collect();
    let published = answers.remove(answers.iter().position(|line| line.starts_with(r#"{"t":-6"#)).expect("no -6"));
    assert!(published.contains(r#""stored":1"#), "{published}");
    assert_eq!(answers, [r#"{"t":-1,"alias":"a"}"#, r#"{"t":-2,"num":1}"#, r#"{"t":-3,"num":3,"topic":["x"]}"#]);
    client.expect_end();
}

#[test]
fn a_reader_that_pauses_with_megabytes_owed_gets_all_in_order() {
    const MESSAGES: u64 = 600;
    let (_folder, porter) = start();
    let mut slow = Client::bound_plain(porter.tcp, "slow");
    let address = porter.tcp;
    let publish = move |range: std::ops::Range<u64>| {
        let mut publisher = Client::connect(address);
        for n in range.clone() {
            publisher
                .send(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"slow","msg":[{n},"{}"],"num":{n}}}"#, "x".repeat(10_000)));
        }
        for _ in range {
            assert_eq!(publisher.json()["t"], -6);
        }
    };
    publish(0..MESSAGES);
    // More comes while it reads.
    let more = std::thread::spawn(move || publish(MESSAGES..MESSAGES + 50));
    let mut seen = BTreeSet::new();
    let mut last = 0;
    while seen.len() < MESSAGES as usize + 50 {
        let push = slow.json();
        let mid = push["mid"].as_str().unwrap().to_owned();
        if seen.insert(push["msg"][0].as_u64().unwrap()) {
            assert!(number(&mid) > last, "{mid} after {last}");
            last = number(&mid);
        } else {
            assert_eq!(push["dup"], true, "{mid} came twice");
        }
        slow.acknowledge(&mid);
    }
    more.join().unwrap();
    drop(slow);
    Client::bound(porter.tcp, "slow").expect_nothing();
}

#[test]
fn mids_ascend_per_session_under_concurrent_publishers() {
    const EACH: u64 = 250;
    let (_folder, porter) = start();
    let mut sessions = [Client::bound(porter.tcp, "door"), Client::bound_plain(porter.tcp, "door")];
    let publishers: Vec<_> = (0..4)
        .map(|_| {
            let address = porter.tcp;
            std::thread::spawn(move || {
                let mut publisher = Client::connect(address);
                for n in 0..EACH {
                    publisher.send(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"door","msg":{n},"num":{n}}}"#));
                }
                let answers = (0..EACH).map(|_| publisher.json());
                let mut mids: Vec<(u64, u64)> =
                    answers.map(|answer| (answer["num"].as_u64().unwrap(), number(answer["mid"].as_str().unwrap()))).collect();
                mids.sort_unstable();
                assert!(mids.is_sorted_by_key(|(_, mid)| *mid), "one publisher's frames took effect out of order");
                mids.into_iter().map(|(_, mid)| mid).collect::<Vec<u64>>()
            })
        })
        .collect();
    let mut seen: [Vec<u64>; 2] = Default::default();
    for (session, seen) in sessions.iter_mut().zip(&mut seen) {
        while (seen.len() as u64) < 4 * EACH {
            seen.push(number(&session.mid()));
        }
        assert!(seen.is_sorted_by(|a, b| a < b), "mids out of order");
    }
    let published: BTreeSet<u64> = publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
    assert_eq!(published, seen[0].iter().copied().collect());
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn subscriptions_and_what_waits_survive_sigkill_in_order() {
    let (folder, porter) = start();
    let mut door = Client::bound(porter.tcp, "door");
    door.ask(r#"{"t":2,"topic":["b","a","gone"],"info":{"model":"x"}}"#);
    door.ask(r#"{"t":12,"topic":"gone"}"#);
    drop(door);
    let mut guard = Client::connect(porter.tcp);
    let mut mids: Vec<String> = Vec::new();
    for n in 0..5 {
        mids.push(guard.publish("door", &format!("[{n}]"), n)["mid"].as_str().unwrap().to_owned());
        let topic = format!(r#"{{"t":6,"method":"publish","topic":"a","msg":"{n}"}}"#);
        mids.push(guard.ask_json(&topic)["mid"].as_str().unwrap().to_owned());
    }
    porter.kill();
    let porter = Porter::start(&folder);
    let mut door = Client::bound(porter.tcp, "door");
    for (n, mid) in mids.iter().enumerate() {
        let push = door.json();
        assert_eq!((&push["mid"], push.get("topic")), (&json!(mid), (n % 2 == 1).then_some(&json!("a"))));
    }
    assert_eq!(door.ask(r#"{"t":3}"#), r#"{"t":-3,"topic":["a","b"]}"#);
    door.acknowledge(&mids[0]);
    door.expect_nothing();
    let newest = Client::connect(porter.tcp).publish("other", "1", 1)["mid"].as_str().unwrap().to_owned();
    assert!(number(&newest) > number(mids.last().unwrap()), "mids went back");
    drop(door);
    // In an orderly way, and once more: what was acknowledged stays so.
    assert_eq!(porter.terminate().0, Some(0));
    let porter = Porter::start(&folder);
    let mut door = Client::bound(porter.tcp, "door");
    for mid in &mids[1..] {
        assert_eq!(door.mid(), *mid);
    }
    door.expect_nothing();
}

/// How many descriptors the server may have (G12).
pub fn limit_descriptors(porter: &Porter, current: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(porter.pid()).unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current, maximum: getrlimit(Resource::Nofile).maximum }).unwrap();
}

#[test]
fn without_descriptors_who_is_in_is_served_and_who_comes_waits_until_there_are_some() {
    let (_folder, porter) = start();
    let mut inside = Client::bound(porter.tcp, "inside");
    limit_descriptors(&porter, Some(1));
    let mut outside = Client::connect(porter.tcp);
    outside.send(r#"{"t":11,"alias":"outside"}"#);
    porter.await_log("accept_failed");
    inside.send(r#"{"t":3}"#);
    inside.expect(r#"{"t":-3,"topic":[]}"#);
    limit_descriptors(&porter, getrlimit(Resource::Nofile).maximum);
    outside.expect(r#"{"t":-11,"alias":"outside"}"#);
    assert_eq!(porter.log().matches("accept_failed").count(), 1, "one line for a want that lasts");
}

#[test]
fn a_peer_that_resets_leaves_nothing_behind() {
    let (_folder, porter) = start();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(porter.tcp).unwrap();
        stream.write_all(b"{\"t\":1,\"alias\":\"a\"}\n{\"t\":7}\n").unwrap();
        // With answers unread, closing resets the connection.
        drop(stream);
    }
    let mut client = Client::connect(porter.tcp);
    let end = Instant::now() + DEADLINE;
    while client.ask_json(r#"{"t":7}"#)["channelSize"] != 0 {
        assert!(Instant::now() < end, "sessions stay behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_fan_out_larger_than_a_turn_reaches_everyone_and_keeps_the_order_of_its_link() {
    const SUBSCRIBERS: usize = 1_200;
    let (_folder, porter) = start();
    for n in 0..SUBSCRIBERS {
        let mut client = Client::connect(porter.tcp);
        client.send_bytes(format!("{{\"t\":1,\"alias\":\"s{n}\"}}\n{{\"t\":2,\"topic\":\"all\"}}\n").as_bytes());
        client.line();
        client.expect(r#"{"t":-2}"#);
    }
    let mut here = Client::bound_plain(porter.tcp, "s7");
    let mut publisher = Client::connect(porter.tcp);
    let to_all = r#"{"t":6,"method":"publish","topic":"all","msg":MSG,"num":MSG}"#;
    let to_one = r#"{"t":6,"method":"publish_to_alias","alias":["s7","s1199"],"msg":MSG,"num":MSG}"#;
    let frames: Vec<String> =
        (0..6).map(|n: usize| if n.is_multiple_of(2) { to_all } else { to_one }.replace("MSG", &n.to_string())).collect();
    publisher.send_bytes((frames.join("\n") + "\n").as_bytes());
    let mut answers: Vec<Value> = (0..6).map(|_| publisher.json()).collect();
    answers.sort_by_key(|answer| answer["num"].as_u64());
    for (n, answer) in answers.iter().enumerate() {
        let stored = if n.is_multiple_of(2) { SUBSCRIBERS - 1 } else { 1 };
        assert_eq!((answer["online"].as_u64(), answer["stored"].as_u64()), (Some(1), Some(stored as u64)), "{answer}");
    }
    let mut last = Client::bound_plain(porter.tcp, "s1199");
    for client in [&mut here, &mut last] {
        for (n, answer) in answers.iter().enumerate() {
            let push = client.json();
            assert_eq!((push["msg"].as_u64(), &push["mid"]), (Some(n as u64), &answer["mid"]));
        }
        client.expect_nothing();
    }
}

/// Frames of every kind, to be spoilt.
const SAMPLES: &[&str] = &[
    r#"{"t":1,"alias":"fuzz","ext":1,"num":1}"#,
    r#"{"t":2,"topic":["a","b"],"info":{"k":[1,2]},"num":"x"}"#,
    r#"{"t":3,"num":3}"#,
    r#"{"t":4,"alias":"fuzz"}"#,
    r#"{"t":-5,"mid":["1","2",3]}"#,
    r#"{"t":6,"method":"publish","topic":["a"],"msg":{"\u95e8":1.5e3},"opts":{"time_to_live":0,"id":"k","receipt":true},"num":2}"#,
    r#"{"t":6,"method":"publish_to_alias","alias":"fuzz","msg":"m"}"#,
    r#"{"t":8,"r":"R","u":"U","num":8}"#,
    r#"{"t":-8,"r":"R","u":"U","ok":true,"reason":"r"}"#,
    r#"{"t":10,"r":"R","u":"","ext":1}"#,
    r#"{"t":12,"topic":"a"}"#,
    r#"{"t":14,"alias":"fuzz"}"#,
];

#[test]
fn spoilt_frames_are_answered_and_neither_hang_nor_break_anything() {
    let (_folder, porter) = start();
    for seed in 0..150 {
        let mut random = Seeded(seed);
        let mut bytes = Vec::new();
        for _ in 0..20 {
            let mut frame = random.pick(SAMPLES).as_bytes().to_vec();
            for _ in 0..random.below(4) {
                let at = random.below(frame.len());
                match random.below(4) {
                    0 => frame[at] = *random.pick(b"{}[]\",:\\-0e\n\0\xff t"),
                    1 => frame.truncate(at.max(1)),
                    2 => frame.splice(at..at, random.bytes(3)).for_each(drop),
                    _ => drop(frame.drain(at..=at)),
                }
                if frame.is_empty() {
                    frame.push(b' ');
                }
            }
            bytes.extend_from_slice(&frame);
            bytes.push(b'\n');
        }
        let mut client = Client::connect(porter.tcp);
        client.send_bytes(&bytes);
        let _ = client.try_send(r#"{"t":7,"num":"end"}"#);
        // Either the end of what was sent is answered, or the link was ended by one of the frames.
        while client.try_line().is_some_and(|line| !line.ends_with(r#","num":"end"}"#)) {}
    }
    assert!(!porter.log().contains("panic"), "{}", porter.log());
    Client::bound(porter.tcp, "after").expect_nothing();
}
