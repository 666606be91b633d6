//! WebSocket rooms: places, relaying, pace, pictures, deadlines (Protocol §9).

use std::time::Duration;

use bytes::Bytes;

use super::scene::*;
use crate::hub::Input;
use crate::limits::{PICTURES_UNATTENDED_MAX, ROOM_EARLY_BYTES_MAX, ROOM_EARLY_FRAMES_MAX, ROOM_NEWCOMERS_MAX};
use crate::names::{LinkId, RoomName, Transport};
use crate::protocol::frame::DoorKind;
use crate::protocol::room::{RoomFrame, RoomPath};
use crate::seeded::Seeded;

const NOTHING: [&str; 0] = [];

fn text(payload: &str) -> RoomFrame {
    RoomFrame { is_text: true, payload: Bytes::copy_from_slice(payload.as_bytes()), image: None }
}

fn binary(payload: &str) -> RoomFrame {
    RoomFrame { is_text: false, ..text(payload) }
}

impl Scene {
    fn enter(&mut self, path: &str) -> (LinkId, Vec<String>) {
        let link = self.open_over(Transport::WebSocket, None);
        let path = RoomPath::parse(path).unwrap();
        let ((), effects) = self.call(|hub, now, fx| hub.enter_room(now, link, &path, fx));
        (link, effects)
    }

    /// A member whose coming had no effect.
    #[track_caller]
    fn member(&mut self, path: &str) -> LinkId {
        let (link, effects) = self.enter(path);
        assert_eq!(effects, NOTHING, "{path}");
        link
    }

    fn says<const N: usize>(&mut self, link: LinkId, frames: [RoomFrame; N]) -> Vec<String> {
        self.turn(Input::RoomFrames { link, frames: frames.into(), pong: false })
    }

    fn pong(&mut self, link: LinkId) -> Vec<String> {
        self.turn(Input::RoomFrames { link, frames: Vec::new(), pong: true })
    }

    fn full(&mut self, link: LinkId) -> Vec<String> {
        self.turn(Input::RoomFull(link))
    }

    fn drained(&mut self, link: LinkId) -> Vec<String> {
        self.turn(Input::Drained(link))
    }

    fn post(&mut self, room: &str, payload: &str) -> Vec<String> {
        let room = RoomName::new(room).unwrap();
        self.call(|hub, now, fx| hub.post_picture(now, &room, binary(payload), fx)).1
    }

    fn picture(&self, room: &str) -> Option<String> {
        let picture = self.hub.picture(&RoomName::new(room).unwrap())?;
        Some(String::from_utf8(picture.frame.payload.to_vec()).unwrap())
    }

    /// Members, and rooms by kind: one-to-one, one-to-many, many-to-many.
    fn sizes(&self) -> (usize, [usize; 3]) {
        let counts = self.hub.room_counts();
        (self.hub.sizes().web_socket, [counts.one_to_one, counts.one_to_many, counts.many_to_many])
    }

    /// Members that answer each ping, for so many seconds.
    fn seconds(&mut self, seconds: u64) -> Vec<String> {
        (0..seconds).flat_map(|_| self.wait(Duration::from_secs(1))).collect()
    }
}

#[test]
fn in_a_one_to_one_room_each_speaks_to_the_other() {
    let mut scene = Scene::new();
    let caller = scene.member("/r/0/android");
    let callee = scene.member("/r/1/door");
    assert_eq!(scene.says(caller, [text("a"), binary("b")]), ["'a' to 1", "b to 1", "ready 0"]);
    assert_eq!(scene.says(callee, [text("c")]), ["'c' to 0", "ready 1"]);
    assert_eq!(scene.sizes(), (2, [1, 0, 0]));
    // Another room of that name, and another of that kind, hear nothing.
    let other = scene.member("/s/1/x");
    assert_eq!(scene.says(other, [text("d")]), ["ready 2"]);
    assert_eq!(scene.sizes(), (3, [2, 0, 0]));
    scene.gone(caller);
    assert_eq!(scene.sizes(), (2, [2, 0, 0]));
    scene.gone(callee);
    scene.gone(other);
    assert_eq!(scene.sizes(), (0, [0, 0, 0]));
}

#[test]
fn what_the_first_says_is_kept_until_the_two_meet_and_later_frames_to_nobody_are_dropped() {
    let mut scene = Scene::new();
    let caller = scene.member("/r/0/a");
    assert_eq!(scene.says(caller, [text("a"), binary("b")]), ["ready 0"]);
    let (callee, met) = scene.enter("/r/1/b");
    assert_eq!(met, ["'a' to 1", "b to 1"]);
    scene.gone(callee);
    assert_eq!(scene.says(caller, [text("lost")]), ["ready 0"]);
    let (_, met) = scene.enter("/r/1/b");
    assert_eq!(met, NOTHING, "they have met before");
}

#[test]
fn early_frames_go_with_their_sender() {
    let mut scene = Scene::new();
    let caller = scene.member("/r/0/a");
    scene.says(caller, [text("a")]);
    scene.gone(caller);
    assert_eq!(scene.sizes(), (0, [0, 0, 0]), "with both gone the room is");
    scene.member("/r/1/b");
    let (_, met) = scene.enter("/r/0/a");
    assert_eq!(met, NOTHING);
}

#[test]
fn the_first_64_frames_or_1_mib_are_kept_without_a_gap() {
    let mut scene = Scene::new();
    let caller = scene.member("/r/0/a");
    for number in 0..ROOM_EARLY_FRAMES_MAX + 5 {
        scene.says(caller, [text(&number.to_string())]);
    }
    let (_, met) = scene.enter("/r/1/b");
    assert_eq!((met.len(), met.last().unwrap().as_str()), (ROOM_EARLY_FRAMES_MAX, "'63' to 1"));

    let caller = scene.member("/s/0/a");
    let large = "x".repeat(ROOM_EARLY_BYTES_MAX - 1);
    scene.says(caller, [text(&large), text("yy"), text("z")]);
    let (_, met) = scene.enter("/s/1/b");
    assert_eq!(met, [format!("'{large}' to 3")], "the last would fit, but not without the one before");
}

#[test]
fn a_newcomer_is_turned_away_when_the_incumbent_answers() {
    let mut scene = Scene::new();
    let caller = scene.member("/r/0/a");
    scene.member("/r/1/b");
    let (newcomer, effects) = scene.enter("/r/0/c");
    assert_eq!(effects, ["ping 0"]);
    assert_eq!(scene.says(newcomer, [text("lost")]), ["ready 2"]);
    assert_eq!(scene.sizes(), (2, [1, 0, 0]), "it is no member while it waits");
    assert_eq!(scene.ms(1_999), NOTHING);
    assert_eq!(scene.pong(caller), ["ready 0", "close 2 busy"]);
    assert_eq!(scene.ms(5_000), NOTHING);
    assert_eq!(scene.says(caller, [text("a")]), ["'a' to 1", "ready 0"]);
}

#[test]
fn a_newcomer_has_the_place_when_the_incumbent_does_not_answer() {
    let mut scene = Scene::new();
    let caller = scene.member("/r/0/a");
    let callee = scene.member("/r/1/b");
    let (newcomer, _) = scene.enter("/r/0/c");
    scene.says(newcomer, [text("hello")]);
    // Only a pong counts.
    scene.says(caller, [text("from before")]);
    assert_eq!(scene.ms(1_999), NOTHING);
    assert_eq!(scene.ms(1), ["'hello' to 1", "close 0 replaced"]);
    assert_eq!(scene.says(callee, [text("hi")]), ["'hi' to 2", "ready 1"]);
    assert_eq!(scene.says(caller, [text("ghost")]), NOTHING);
    assert_eq!(scene.sizes(), (2, [1, 0, 0]));
}

#[test]
fn a_newcomer_has_the_place_when_the_incumbent_leaves_and_the_others_are_busy() {
    let mut scene = Scene::new();
    let caller = scene.member("/r/0/a");
    let (first, _) = scene.enter("/r/0/b");
    let (_, effects) = scene.enter("/r/0/c");
    assert_eq!(effects, NOTHING, "it is pinged already");
    scene.says(first, [text("early")]);
    assert_eq!(scene.gone(caller), ["close 2 busy"]);
    let (callee, met) = scene.enter("/r/1/d");
    assert_eq!(met, [format!("'early' to {}", callee.index)], "it has met nobody yet");
    assert_eq!(scene.ms(3_000), NOTHING, "the contest is over");
}

#[test]
fn a_newcomer_that_leaves_ends_the_contest() {
    let mut scene = Scene::new();
    scene.member("/r/0/a");
    let (newcomer, _) = scene.enter("/r/0/b");
    scene.gone(newcomer);
    assert_eq!(scene.ms(2_000), NOTHING);
    let (_, effects) = scene.enter("/r/0/b");
    assert_eq!(effects, ["ping 0"], "a contest of its own");
}

#[test]
fn so_many_newcomers_wait_and_no_more() {
    let mut scene = Scene::new();
    scene.member("/r/0/a");
    for _ in 0..ROOM_NEWCOMERS_MAX {
        scene.enter("/r/0/b");
    }
    let (last, effects) = scene.enter("/r/0/b");
    assert_eq!(effects, [format!("close {} busy", last.index)]);
}

#[test]
fn two_callers_at_once_one_is_in() {
    let mut scene = Scene::new();
    let first = scene.member("/r/0/a");
    let (_, effects) = scene.enter("/r/0/b");
    assert_eq!(effects, ["ping 0"]);
    assert_eq!(scene.pong(first), ["ready 0", "close 1 busy"]);
}

#[test]
fn in_a_one_to_many_room_doors_speak_to_phones_and_phones_to_doors() {
    let mut scene = Scene::new();
    let (door, second) = (scene.member("/capture-x/0"), scene.member("/capture-x/0"));
    let (phone, other) = (scene.member("/capture-x/1"), scene.member("/capture-x/1"));
    assert_eq!(scene.says(door, [text("a"), binary("b")]), ["'a' to 2 3", "b to 2 3", "ready 0"]);
    assert_eq!(scene.says(phone, [text("c")]), ["'c' to 0 1", "ready 2"]);
    assert_eq!(scene.sizes(), (4, [0, 1, 0]));
    for link in [door, second, phone, other] {
        scene.gone(link);
    }
    assert_eq!(scene.sizes(), (0, [0, 0, 0]), "a picture alone is no room with a member");
}

#[test]
fn a_new_phone_at_once_gets_the_newest_picture() {
    let mut scene = Scene::new();
    let door = scene.member("/capture-x/0");
    scene.says(door, [binary("one"), text("no picture"), binary("two")]);
    let (phone, effects) = scene.enter("/capture-x/1");
    assert_eq!(effects, ["two to 1"]);
    scene.says(phone, [binary("no picture either")]);
    scene.member("/capture-x/0");
    assert_eq!(scene.picture("capture-x").as_deref(), Some("two"));
    scene.gone(door);
    let (late, effects) = scene.enter("/capture-x/1");
    assert_eq!(effects, [format!("two to {}", late.index)], "the picture stays");
}

#[test]
fn a_picture_is_forgotten_10_minutes_after_the_last_member_or_post() {
    let mut scene = Scene::new();
    assert_eq!(scene.post("capture-x", "one"), NOTHING);
    scene.seconds(599);
    assert_eq!(scene.picture("capture-x").as_deref(), Some("one"));
    let phone = scene.enter("/capture-x/1").0;
    for _ in 0..50 {
        scene.seconds(20);
        scene.pong(phone);
    }
    assert_eq!(scene.picture("capture-x").as_deref(), Some("one"), "as long as somebody is there");
    scene.gone(phone);
    scene.seconds(300);
    assert_eq!(scene.post("capture-x", "two"), NOTHING);
    scene.seconds(599);
    assert_eq!(scene.picture("capture-x").as_deref(), Some("two"));
    scene.seconds(2);
    assert_eq!(scene.picture("capture-x"), None);
}

#[test]
fn so_many_pictures_are_kept_without_a_member() {
    let mut scene = Scene::new();
    let (_, _) = scene.enter("/capture-kept/0");
    scene.post("capture-kept", "k");
    for number in 0..=PICTURES_UNATTENDED_MAX {
        scene.post(&format!("capture-{number}"), "x");
    }
    assert_eq!(scene.picture("capture-0"), None);
    assert!(scene.picture("capture-1").is_some() && scene.picture("capture-kept").is_some());
}

#[test]
fn streams_see_pictures_and_are_no_members() {
    let mut scene = Scene::new();
    let room = RoomName::new("capture-x").unwrap();
    let stream = scene.open_over(Transport::Rest, None);
    assert!(!scene.call(|hub, now, fx| hub.watch_room(now, stream, &room, fx)).0);
    scene.post("capture-x", "one");
    let (watches, effects) = scene.call(|hub, now, fx| hub.watch_room(now, stream, &room, fx));
    assert_eq!((watches, effects), (true, vec!["one to 0".to_owned()]));
    assert_eq!(scene.sizes(), (0, [0, 0, 0]));
    let door = scene.member("/capture-x/0");
    assert_eq!(scene.says(door, [text("t"), binary("two")]), ["two to 0", "ready 1"]);
    scene.gone(door);
    assert_eq!(scene.seconds(700), NOTHING);
    assert_eq!(scene.picture("capture-x"), None);
    assert_eq!(scene.post("capture-x", "three"), ["three to 0"], "it goes on with the next");
    scene.gone(stream);
    assert_eq!(scene.post("capture-x", "four"), NOTHING);
}

#[test]
fn in_a_group_each_speaks_to_all_others() {
    let mut scene = Scene::new();
    let a = scene.member("/group-x/0");
    assert_eq!(scene.says(a, [text("to nobody")]), ["ready 0"]);
    let (b, _) = (scene.member("/group-x/1"), scene.member("/group-x/1"));
    assert_eq!(scene.says(b, [text("hi"), binary("x")]), ["'hi' to 0 2", "x to 0 2", "ready 1"]);
    assert_eq!(scene.sizes(), (3, [0, 0, 1]));
}

#[test]
fn a_sender_goes_by_how_fast_its_receivers_take() {
    let mut scene = Scene::new();
    let (a, b, c) = (scene.member("/group-x/0"), scene.member("/group-x/0"), scene.member("/group-x/0"));
    assert_eq!(scene.full(b), NOTHING);
    assert_eq!(scene.says(a, [text("a")]), NOTHING, "held, without credit");
    assert_eq!(scene.says(c, [text("c")]), NOTHING);
    assert_eq!(scene.says(b, [text("b")]), ["'b' to 0 2", "ready 1"], "its own outbox does not hold it");
    assert_eq!(scene.drained(b), ["'a' to 1 2", "ready 0", "'c' to 0 1", "ready 2"]);
    // Nobody is kept waiting by one who has left.
    scene.full(b);
    assert_eq!(scene.says(a, [text("d")]), NOTHING);
    assert_eq!(scene.gone(b), ["'d' to 2", "ready 0"]);
}

#[test]
fn held_batches_go_on_one_by_one_so_that_none_overfills() {
    let mut scene = Scene::new();
    let (a, b, c) = (scene.member("/group-x/0"), scene.member("/group-x/0"), scene.member("/group-x/0"));
    scene.full(b);
    scene.says(a, [text("a")]);
    scene.says(c, [text("c")]);
    assert_eq!(scene.only(Input::Drained(b)), NOTHING);
    assert_eq!(scene.slice(), ["'a' to 1 2", "ready 0"]);
    assert_eq!(scene.only(Input::RoomFull(b)), NOTHING);
    assert_eq!(scene.rest(), NOTHING, "the first has filled it again");
    assert_eq!(scene.drained(b), ["'c' to 0 1", "ready 2"]);
}

#[test]
fn a_receiver_that_takes_nothing_for_10_s_is_closed() {
    let mut scene = Scene::new();
    let (caller, callee) = (scene.member("/r/0/a"), scene.member("/r/1/b"));
    scene.full(callee);
    assert_eq!(scene.says(caller, [text("a")]), NOTHING);
    scene.seconds(9);
    assert_eq!(scene.turn(Input::RoomTook(callee)), NOTHING);
    assert_eq!(scene.seconds(9), NOTHING, "slow, but it takes");
    assert_eq!(scene.seconds(1), ["close 1 overloaded", "ready 0"], "what was held has nobody to go to");
}

#[test]
fn in_a_one_to_many_room_nobody_waits_and_too_many_texts_close() {
    let mut scene = Scene::new();
    let (door, slow, fast) = (scene.member("/capture-x/0"), scene.member("/capture-x/1"), scene.member("/capture-x/1"));
    assert_eq!(scene.full(slow), ["close 1 overloaded"]);
    assert_eq!(scene.says(door, [text("a")]), ["'a' to 2", "ready 0"]);
    scene.gone(fast);
    assert_eq!(scene.sizes(), (1, [0, 1, 0]));
}

#[test]
fn members_are_pinged_each_25_s_and_gone_after_60() {
    let mut scene = Scene::new();
    let (quiet, _dead) = (scene.member("/group-x/0"), scene.member("/group-x/0"));
    assert_eq!(scene.seconds(24), NOTHING);
    assert_eq!(scene.seconds(1), ["ping 0", "ping 1"]);
    assert_eq!(scene.pong(quiet), ["ready 0"]);
    assert_eq!(scene.seconds(25), ["ping 0", "ping 1"]);
    scene.pong(quiet);
    assert_eq!(scene.seconds(10), ["close 1 dead"]);
    assert_eq!(scene.sizes(), (1, [0, 0, 1]));
}

#[test]
fn whoever_is_held_is_not_taken_for_dead() {
    let mut scene = Scene::new();
    let (caller, callee) = (scene.member("/r/0/a"), scene.member("/r/1/b"));
    scene.full(callee);
    scene.says(caller, [text("a")]);
    let (_, effects) = scene.enter("/r/0/c");
    assert_eq!(effects, ["ping 0"]);
    assert_eq!(scene.ms(2_000), ["close 2 busy"], "it is not read, so its pong can't be either");
}

#[test]
fn a_sign_of_life_is_never_held_and_time_that_one_is_held_is_no_silence() {
    let mut scene = Scene::new();
    let (caller, callee) = (scene.member("/r/0/a"), scene.member("/r/1/b"));
    scene.full(callee);
    assert_eq!(scene.pong(caller), ["ready 0"]);
    assert_eq!(scene.says(caller, [text("a")]), NOTHING);
    let closes = |effects: Vec<String>| effects.iter().any(|effect| effect.starts_with("close"));
    for _ in 0..20 {
        scene.turn(Input::RoomTook(callee));
        assert!(!closes(scene.ms(5_000)), "what takes and what is held are there");
    }
    assert_eq!(scene.drained(callee), ["'a' to 1", "ready 0"]);
    assert!(!closes(scene.ms(1_000)), "its pongs are still to be read");
}

#[test]
fn parts_of_long_frames_are_signs_of_life() {
    let mut scene = Scene::new();
    let (door, phone) = (scene.member("/capture-x/0"), scene.member("/capture-x/1"));
    for _ in 0..20 {
        scene.turn(Input::Heard(door));
        scene.turn(Input::RoomTook(phone));
        assert!(scene.ms(5_000).iter().all(|effect| effect.starts_with("ping")));
    }
    let closed = (0..12).flat_map(|_| scene.ms(5_000)).filter(|effect| !effect.starts_with("ping"));
    assert_eq!(closed.collect::<Vec<_>>(), ["close 0 dead", "close 1 dead"]);
}

#[test]
fn rooms_of_a_door_rooms_name_belong_to_it() {
    let mut scene = Scene::new();
    let door = scene.member("/capture-x/0");
    let phone = scene.member("/capture-x/1");
    let caller = scene.member("/capture-x/0/intercom");
    let tcp = scene.open();
    let join = |kind| frame_of(super::scene::door(kind, "capture-x", "u"));
    assert_eq!(scene.send(tcp, [join(DoorKind::Phone)]), ["relay Phone to 2 0 1", "ready 3"]);
    scene.says(door, [binary("face")]);
    let opened = scene.send(tcp, [join(DoorKind::Open)]);
    assert_eq!(opened[..2], ["relay Open to 2 0", "keep 1 face"]);
    assert!(opened[3].starts_with("commit log 1 capture-x doors=2"), "{opened:?}");
    let rest = scene.open_over(Transport::SocketIo, None);
    scene.settle();
    scene.send(rest, [join(DoorKind::Open)]);
    assert_eq!(scene.send(phone, [answer("capture-x", "u", true, None)]), ["ready 1"], "no door");
    assert_eq!(scene.send(caller, [answer("capture-x", "u", true, None)])[0], "4: -8 true -");
}

/// Whatever happens in whatever order: counts are those of who is there, credit comes back, nothing is heard in another room.
#[test]
fn random_rooms_keep_their_counts_and_their_credit() {
    const PATHS: [&str; 9] =
        ["/r/0/a", "/r/1/a", "/s/0/a", "/s/1/a", "/capture-x/0", "/capture-x/1", "/group-x/0", "/group-x/1", "/group-y/0"];
    for seed in 0..300 {
        let mut seeded = Seeded(seed);
        let mut scene = Scene::new();
        // Path, whether its batch waits for credit.
        let mut links: Vec<(LinkId, &str, bool)> = Vec::new();
        let mut full: Vec<LinkId> = Vec::new();
        for step in 0..200 {
            let effects = match seeded.below(8) {
                0 | 1 if links.len() < 40 => {
                    let path = *seeded.pick(&PATHS);
                    let (link, effects) = scene.enter(path);
                    links.push((link, path, false));
                    effects
                }
                2 if !links.is_empty() => {
                    let (link, ..) = links.swap_remove(seeded.below(links.len()));
                    scene.gone(link)
                }
                3 | 4 if !links.is_empty() => {
                    let at = seeded.below(links.len());
                    if links[at].2 {
                        continue;
                    }
                    links[at].2 = true;
                    let (link, path, _) = links[at];
                    let pong = seeded.below(3) == 0;
                    let frames = vec![text(path.split('/').nth(1).unwrap()); seeded.below(3)];
                    scene.turn(Input::RoomFrames { link, frames, pong })
                }
                5 if !links.is_empty() => {
                    let (link, path, _) = *seeded.pick(&links);
                    if path.starts_with("/capture") {
                        continue;
                    }
                    full.push(link);
                    scene.full(link)
                }
                6 if !full.is_empty() => {
                    let link = full.swap_remove(seeded.below(full.len()));
                    scene.drained(link)
                }
                _ => scene.ms(700),
            };
            for effect in &effects {
                let words: Vec<&str> = effect.split(' ').collect();
                let find = |links: &[(LinkId, &str, bool)], index: &str| {
                    links.iter().position(|(link, ..)| link.index.to_string() == index).unwrap()
                };
                match words[..] {
                    ["ready", link] => {
                        let at = find(&links, link);
                        links[at].2 = false;
                    }
                    ["close", link, _] => {
                        let at = find(&links, link);
                        links.swap_remove(at);
                    }
                    [payload, "to", ..] => {
                        for receiver in &words[2..] {
                            let room = links[find(&links, receiver)].1.split('/').nth(1).unwrap();
                            assert_eq!(payload, format!("'{room}'"), "seed {seed} step {step}");
                        }
                    }
                    _ => assert_eq!(words[0], "ping", "seed {seed} step {step}: {effect}"),
                }
            }
            let present = |prefix: &str| links.iter().filter(|(_, path, _)| path.starts_with(prefix)).count();
            let (seated, counts) = scene.sizes();
            let one_to_one: usize = ["/r/0", "/r/1", "/s/0", "/s/1"].iter().map(|place| present(place).min(1)).sum();
            assert_eq!(seated, one_to_one + present("/capture") + present("/group"), "seed {seed} step {step}");
            let rooms = [
                present("/r").min(1) + present("/s").min(1),
                present("/capture").min(1),
                present("/group-x").min(1) + present("/group-y").min(1),
            ];
            assert_eq!(counts, rooms, "seed {seed} step {step}");
        }
        // With nobody full, everybody gets its credit.
        for link in full {
            for effect in scene.drained(link) {
                if let Some(index) = effect.strip_prefix("ready ")
                    && let Some(at) = links.iter().position(|(link, ..)| link.index.to_string() == index)
                {
                    links[at].2 = false;
                }
            }
        }
        assert!(links.iter().all(|(.., waits)| !waits), "seed {seed}: {links:?}");
    }
}
