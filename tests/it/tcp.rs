//! PushServer: every frame over the line protocol (Protocol §2 to §6).

use crate::clients::Client;
use crate::porter::{Folder, Porter};

#[test]
fn a_message_to_a_bound_alias_arrives_and_is_answered_once_acknowledged() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let mut door = Client::bound(porter.tcp, "door-3-1");
    let mut guard = Client::connect(porter.tcp);
    guard.send(r#"{"t":6,"method":"publish_to_alias","alias":["door-3-1"],"msg":{"a": 1.0e2},"num":"7"}"#);
    let push = door.line();
    assert!(push.ends_with(r#","msg":{"a": 1.0e2}}"#), "{push}");
    let mid = push.split('"').nth(5).unwrap().to_owned();
    door.acknowledge(&mid);
    guard.expect(&format!(r#"{{"t":-6,"num":"7","mid":"{mid}","online":1,"stored":0}}"#));
}

#[test]
fn frames_sent_before_a_half_close_are_all_answered() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let mut guard = Client::connect(porter.tcp);
    guard.send_bytes(
        b"{\"t\":1,\"alias\":\"guard\"}\n{\"t\":2,\"topic\":\"x\",\"num\":1}\n{\"t\":6,\"method\":\"publish_to_alias\",\"alias\":\"away\",\"msg\":1,\"num\":2}\n",
    );
    guard.half_close();
    guard.expect(r#"{"t":-1,"alias":"guard"}"#);
    guard.expect(r#"{"t":-2,"num":1}"#);
    assert_eq!(guard.json()["t"], -6);
    guard.expect_end();
}

#[test]
fn an_http_request_is_closed_unanswered_however_it_is_cut() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    for pieces in [&["GET / HTTP/1.1\r\n"][..], &["PO", "ST /x HTTP/1.1\r\n\r\n{\"t\":7}\n"]] {
        let mut client = Client::connect(porter.tcp);
        for piece in pieces {
            client.send_bytes(piece.as_bytes());
            // So that the pieces are mostly read apart; read together they must be known just as well.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        client.expect_end();
    }
    let mut upper = Client::connect(porter.tcp);
    upper.send("GETX");
    assert_eq!(upper.json()["code"], "bad_json");
}
