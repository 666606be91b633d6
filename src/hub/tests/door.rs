//! Doors: roles, relaying, results, deadlines, the log (Protocol §7).

use std::sync::Arc;

use super::scene::*;
use crate::hub::Input;
use crate::hub::access::Openers;
use crate::hub::storage::{Change, Trouble};
use crate::hub::{Hub, Options};
use crate::limits::{DOOR_LOG_WAITING_MAX, OPENINGS_ALIKE_MAX, OPENINGS_PENDING_MAX, ROOMS_PER_LINK_MAX};
use crate::names::{Label, LinkId, Mid, Transport};
use crate::protocol::frame::{DoorFrame, DoorKind, Request};
use crate::token::{Claims, Role};

fn phone(room: &str) -> Request {
    frame_of(door(DoorKind::Phone, room, "u"))
}

fn here(room: &str) -> Request {
    frame_of(door(DoorKind::Door, room, "d"))
}

fn open(room: &str) -> Request {
    frame_of(door(DoorKind::Open, room, "u"))
}

fn door_frame(room: &str, user: &str) -> DoorFrame {
    door(DoorKind::Open, room, user)
}

/// A door of room `r` and an opener that wants the result.
fn scene() -> (Scene, LinkId, LinkId) {
    let mut scene = Scene::new();
    let (door, opener) = (scene.open(), scene.open_over(Transport::SocketIo, None));
    scene.send(door, [here("r")]);
    (scene, door, opener)
}

fn log(effects: &[String]) -> Vec<&str> {
    effects.iter().filter(|effect| !effect.starts_with("commit") && !effect.starts_with("ready")).map(String::as_str).collect()
}

#[test]
fn nine_and_ten_are_relayed_to_the_other_members_and_eight_to_doors_only() {
    let mut scene = Scene::new();
    let (a, b, c) = (scene.open(), scene.open(), scene.open());
    assert_eq!(scene.send(a, [phone("r")]), ["ready 0"]);
    assert_eq!(scene.send(b, [here("r")]), ["relay Door to 0", "ready 1"]);
    assert_eq!(scene.send(c, [phone("r")]), ["relay Phone to 0 1", "ready 2"]);
    assert_eq!(scene.send(c, [phone("r")]), ["relay Phone to 0 1", "ready 2"], "a repeat relays but does not join twice");
    assert_eq!(scene.send(c, [here("r")]), ["relay Door to 0 1", "ready 2"], "a phone and a door at once");
    assert_eq!(log(&scene.send(a, [open("r")])), ["relay Open to 1 2"]);
    assert_eq!(log(&scene.send(c, [open("r")])), ["relay Open to 1"], "never to the link it came from");
    scene.gone(b);
    assert_eq!(log(&scene.send(a, [open("r")])), ["relay Open to 2"]);
}

#[test]
fn sessions_whose_alias_is_the_room_are_doors_too_each_once() {
    let mut scene = Scene::new();
    let named = scene.session("r");
    let extended = scene.open();
    scene.send(extended, [extended_heartbeat("r"), here("r")]);
    let opener = scene.open();
    assert_eq!(log(&scene.send(opener, [open("r")])), ["relay Open to 1ts 0"]);
    assert_eq!(log(&scene.send(named, [open("r")])), ["relay Open to 1ts"]);
}

#[test]
fn a_link_may_join_64_rooms() {
    let mut scene = Scene::new();
    let link = scene.open();
    for room in 0..ROOMS_PER_LINK_MAX {
        assert_eq!(scene.send(link, [phone(&room.to_string())]), ["ready 0"]);
    }
    assert_eq!(scene.send(link, [phone("64")]), ["0: bad_field r", "ready 0"]);
    assert_eq!(scene.send(link, [here("63")]), ["ready 0"], "another role in the same room");
}

#[test]
fn the_first_yes_settles_an_opening_and_a_later_answer_is_nothing() {
    let (mut scene, door, opener) = scene();
    assert_eq!(scene.send(opener, [num("1", open("r"))]), ["relay Open to 0", "ready 1", "commit log 1 r doors=1"]);
    assert_eq!(scene.send(door, [answer("r", "u", true, None)]), ["1: -8 true - #1", "ready 0"]);
    assert_eq!(scene.send(door, [answer("r", "u", false, None)]), ["ready 0"]);
    assert_eq!(scene.commit(), ["commit settle 1 true -"]);
    assert_eq!(log(&scene.ms(3_100)), [""; 0]);
}

#[test]
fn no_counts_when_all_doors_said_so_or_at_the_deadline() {
    let (mut scene, first, opener) = scene();
    let second = scene.open();
    scene.send(second, [here("r")]);
    scene.send(opener, [open("r")]);
    assert_eq!(log(&scene.send(first, [answer("r", "u", false, Some("busy"))])), [""; 0]);
    assert_eq!(log(&scene.send(second, [answer("r", "u", false, Some("stuck"))])), ["1: -8 false stuck"]);
    scene.send(opener, [open("r")]);
    scene.send(first, [answer("r", "u", false, Some("busy"))]);
    assert_eq!(log(&scene.ms(2_999)), [""; 0]);
    assert_eq!(log(&scene.ms(1)), ["1: -8 false busy"]);
    scene.send(opener, [open("r")]);
    assert_eq!(log(&scene.ms(3_000)), ["1: -8 false no_answer"]);
    assert_eq!(log(&scene.send(first, [answer("r", "u", true, None)])), [""; 0], "too late: only logged");
}

#[test]
fn an_answer_counts_for_its_room_and_user_and_from_a_door_that_was_asked() {
    let (mut scene, door, opener) = scene();
    let stranger = scene.open();
    scene.send(opener, [open("r"), open("r")]);
    for frame in [answer("x", "u", true, None), answer("r", "x", true, None)] {
        assert_eq!(log(&scene.send(door, [frame])), [""; 0]);
    }
    assert_eq!(log(&scene.send(stranger, [answer("r", "u", true, None)])), [""; 0]);
    assert_eq!(log(&scene.send(door, [answer("r", "u", true, None)])).len(), 2, "every opening of (R,U) that is pending");
}

#[test]
fn so_many_openings_alike_wait_for_an_answer_and_the_oldest_makes_way() {
    let (mut scene, door, opener) = scene();
    for number in 0..OPENINGS_ALIKE_MAX {
        assert_eq!(log(&scene.send(opener, [num(&number.to_string(), open("r"))])), ["relay Open to 0"]);
    }
    let other = frame_of(door_frame("r", "another"));
    assert_eq!(log(&scene.send(opener, [other])), ["relay Open to 0"], "another user's is not alike");
    assert_eq!(log(&scene.send(opener, [num("64", open("r"))])), ["relay Open to 0", "1: -8 false no_answer #0"]);
    let answers = scene.send(door, [answer("r", "u", true, None)]);
    assert_eq!(log(&answers).len(), OPENINGS_ALIKE_MAX);
    assert_eq!(log(&answers)[0], "1: -8 true - #1", "oldest first");
    assert_eq!(log(&scene.send(door, [answer("r", "another", true, None)])), ["1: -8 true -"]);
    assert_eq!(log(&scene.ms(3_100)), [""; 0], "each has its one result");
}

#[test]
fn so_many_openings_wait_in_all_and_the_oldest_makes_way() {
    let (mut scene, _, opener) = scene();
    let mut ended = 0;
    for user in 0..OPENINGS_PENDING_MAX + 3 {
        let effects = scene.send(opener, [frame_of(door_frame("r", &user.to_string()))]);
        scene.settle();
        ended += effects.iter().filter(|effect| effect.ends_with("-8 false no_answer")).count();
    }
    assert_eq!(ended, 3);
}

#[test]
fn without_a_door_the_result_comes_at_once() {
    let mut scene = Scene::new();
    let (opener, plain, rest) = (scene.open_over(Transport::SocketIo, None), scene.open(), scene.open_over(Transport::Rest, None));
    assert_eq!(scene.send(opener, [open("r")]), ["0: -8 false no_door", "ready 0", "commit log 1 r doors=0; settle 1 false no_door"]);
    assert_eq!(log(&scene.send(plain, [open("r")])), [""; 0], "an opener of the original is told nothing");
    assert_eq!(log(&scene.send(rest, [num("5", open("r"))])), ["2: -8 doors=0 #5"]);
    let waiting = DoorFrame { wait: true, ..door(DoorKind::Open, "r", "u") };
    assert_eq!(log(&scene.send(rest, [frame_of(waiting)])), ["2: -8 false no_door doors=0"]);
}

#[test]
fn an_opening_that_is_too_old_is_never_handed_on() {
    let (mut scene, _, opener) = scene();
    for (age, expected) in [(5_000, "relay Open to 0"), (5_001, "1: unavailable t")] {
        let at = scene.now.mono;
        scene.ms(age);
        scene.settle();
        let effects = scene.turn(Input::Frames { link: opener, frames: vec![open("r")], at });
        assert_eq!(effects[0], expected);
        assert_eq!(effects.iter().any(|effect| effect.ends_with("false stale")), age > 5_000, "{effects:?}");
    }
    assert_eq!(scene.hub.counters().stale_door_frames, 1);
}

#[test]
fn a_configured_list_says_who_may_open() {
    let options = Options { limits: limits(), openers: Openers::new(vec!["guard-*".to_owned()]) };
    let mut scene = Scene::around(Hub::new(options, Mid::new(1)..Mid::new(1 << 40), true));
    let (stranger, guard) = (scene.session("x"), scene.session("guard-1"));
    let claims = |role, label| Some(Arc::new(Claims { role, label: Label::new(label).unwrap(), alias: None, expires: 0 }));
    let manager = scene.open_over(Transport::Tcp, claims(Role::Manage, "m"));
    let labelled = scene.open_over(Transport::Tcp, claims(Role::Device, "guard-2"));
    assert_eq!(
        scene.send(stranger, [open("r")]),
        ["0: forbidden door.openers", "ready 0", "commit log 1 r doors=0; settle 1 false forbidden"]
    );
    scene.settle();
    for link in [guard, manager, labelled] {
        assert_eq!(log(&scene.send(link, [open("r")])), [""; 0]);
    }
    assert_eq!(scene.hub.counters().openings, 3);
}

#[test]
fn while_the_disk_is_down_so_many_entries_of_the_log_wait_and_no_more() {
    let (mut scene, _, opener) = scene();
    scene.send(opener, [open("r")]);
    scene.fail(Trouble::Disk);
    for _ in 0..DOOR_LOG_WAITING_MAX + 9 {
        scene.send(opener, [open("r")]);
    }
    assert_eq!(scene.hub.counters().door_entries_dropped, 10);
    scene.ms(3_000);
    let mut logged = 0;
    let mut settled = 0;
    while let Some(batch) = scene.batch.clone() {
        logged += batch.changes.iter().filter(|change| matches!(change, Change::LogDoor(_))).count();
        settled += batch.changes.iter().filter(|change| matches!(change, Change::SettleDoor { .. })).count();
        scene.commit();
    }
    assert_eq!((logged, settled), (DOOR_LOG_WAITING_MAX, DOOR_LOG_WAITING_MAX));
}
