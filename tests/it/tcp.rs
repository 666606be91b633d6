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
