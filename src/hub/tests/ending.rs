//! Deliveries that end: acknowledgement, expiry, cap, recall; what others are told of it (Protocol §5, §10).

use std::time::Duration;

use super::scene::*;
use crate::hub::owing::Walk;
use crate::limits::{DELIVERIES_PER_TURN_MAX, Limits};
use crate::names::{LinkId, Mid};
use crate::protocol::frame::DoorKind;
use crate::protocol::refusal::{Code, Refusal};

const NONE: [&str; 0] = [];

#[test]
fn the_other_sessions_that_were_sent_it_stop_ringing() {
    let mut scene = Scene::new();
    let (old, phone, acking) = (scene.session("a"), scene.phone("a"), scene.phone("a"));
    let extended = scene.open();
    scene.send(extended, [extended_heartbeat("a")]);
    let publisher = scene.open();
    scene.send(publisher, [to(&["a"]).frame()]);
    let late = scene.phone("a");
    assert_eq!(late.index, 5);
    scene.turn(crate::hub::Input::Congested { link: late, from: Mid::new(1) });
    assert_eq!(scene.send(acking, [ack(&[1])]), ["1? 15 1", "3? 15 1", "4: -6 1 online=1 stored=0", "ready 2"]);
    assert_eq!(scene.send(phone, [ack(&[1])]), ["ready 1"], "an ended mid is silently fine");
    assert_eq!(scene.send(old, [ack(&[99]), ack(&[])]), ["ready 0"], "an unknown one too");
}

#[test]
fn an_acknowledgement_of_many_and_one_that_binds() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    scene.send(publisher, [to(&["a"]).frame(), to(&["a"]).frame(), to(&["a"]).frame()]);
    scene.settle();
    let link = scene.open();
    assert_eq!(scene.send(link, [ack_as("a", &[1, 3])]), ["ready 1", "read 2", "commit delete 1; delete 3"]);
}

#[test]
fn an_ending_is_written_unless_the_others_of_its_message_follow_soon() {
    let mut scene = Scene::new();
    let (a, b, publisher) = (scene.session("a"), scene.session("b"), scene.open());
    scene.send(publisher, [to(&["a", "b", "off"]).frame(), to(&["a", "b"]).receipt().frame()]);
    scene.settle();
    assert_eq!(scene.send(a, [ack(&[1])]), ["ready 0"]);
    assert_eq!(scene.ms(900), NONE);
    assert_eq!(scene.send(b, [ack(&[1])]), ["ready 1"]);
    assert_eq!(scene.ms(100), ["commit end 1 a1"]);
    assert_eq!(scene.commit(), NONE);
    assert!(!scene.hub.is_settled());
    // Of the other message nobody is left: its row goes, and so does what waits to be said of it.
    scene.send(a, [ack(&[2])]);
    scene.commit();
    assert_eq!(scene.send(b, [ack(&[2])]), ["ready 1", "commit report 2 b acknowledged; delete 2"]);
    assert_eq!(scene.commit(), NONE);
    assert_eq!(scene.ms(2_000), ["commit end 1 a2"]);
    assert_eq!(scene.commit(), NONE);
    assert!(scene.hub.is_settled());
}

#[test]
fn no_ending_waits_while_the_process_ends() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    scene.send(publisher, [to(&["a", "off"]).frame()]);
    scene.settle();
    scene.send(a, [ack(&[1])]);
    let ((), effects) = scene.call(|hub, _, _| hub.hurry());
    assert_eq!(effects, ["commit end 1 a1"]);
}

#[test]
fn an_alias_is_forgotten_behind_its_endings() {
    let mut scene = Scene::with(Limits { alias_life: Duration::ZERO, ..limits() });
    let (publisher, link) = (scene.open(), scene.open());
    scene.send(publisher, [to(&["a", "off"]).frame()]);
    scene.settle();
    scene.send(link, [ack_as("a", &[1])]);
    scene.settle();
    scene.gone(link);
    assert_eq!(scene.ms(900), NONE);
    assert_eq!(scene.ms(1_100), ["commit end 1 a1; forget a1"]);
}

/// So many messages that are stored for `a`, numbered from 1 on and pushed to the session that has come since.
fn pushed(count: u64) -> (Scene, LinkId) {
    let mut scene = Scene::new();
    let publisher = scene.open();
    for _ in 0..count {
        scene.send(publisher, [to(&["a"]).frame()]);
    }
    scene.settle();
    let a = scene.session("a");
    scene.settle();
    (scene, a)
}

/// The deletions among the changes of a commit.
fn deleted(effects: &[String]) -> Vec<String> {
    let commits = effects.iter().filter_map(|effect| effect.strip_prefix("commit "));
    commits.flat_map(|changes| changes.split("; ").filter(|change| change.starts_with("delete "))).map(str::to_owned).collect()
}

#[test]
fn a_crowd_of_deletions_waits_for_those_of_its_neighbours_and_a_few_do_not() {
    let (mut scene, a) = pushed(700);
    // Few at once.
    let few: Vec<u64> = (1..=256).collect();
    assert_eq!(deleted(&scene.send(a, [ack(&few)])).len(), 256);
    scene.settle();
    // A crowd, in two parts and out of order.
    let crowd: Vec<u64> = (301..=600).collect();
    assert_eq!(deleted(&scene.send(a, [ack(&crowd)])).len(), 0);
    assert_eq!(scene.ms(249), NONE);
    assert_eq!(deleted(&scene.send(a, [ack(&[257, 300])])).len(), 0);
    let expected: Vec<String> = [257].into_iter().chain(300..=600).map(|mid| format!("delete {mid}")).collect();
    assert_eq!(deleted(&scene.ms(1)), expected);
    scene.settle();
    // The others are few again.
    let rest: Vec<u64> = (258..=299).chain(601..=699).collect();
    scene.send(a, [ack(&rest)]);
    scene.settle();
    assert_eq!((scene.hub.load().messages, scene.model.messages.len()), (1, 1));
    scene.send(a, [ack(&[700])]);
    scene.settle();
    assert!(scene.model.messages.is_empty());
}

#[test]
fn what_waits_for_the_crowd_is_written_for_a_barrier_at_the_end_and_before_its_alias_is_forgotten() {
    for how in ["barrier", "end", "forgotten"] {
        let (mut scene, a) = pushed(300);
        let all: Vec<u64> = (1..=300).collect();
        assert_eq!(scene.send(a, [ack(&all)]), ["ready 1"]);
        assert!(!scene.hub.is_settled());
        let effects = match how {
            "barrier" => {
                let count = scene.hub.queued_changes();
                let effects = scene.ms(1);
                assert!(!scene.hub.has_committed(count));
                scene.settle();
                assert!(scene.hub.has_committed(count));
                effects
            }
            "end" => {
                scene.hub.hurry();
                scene.ms(1)
            }
            _ => {
                scene.gone(a);
                let effects = scene.ms(2_000);
                scene.settle();
                assert!(scene.model.messages.is_empty());
                effects
            }
        };
        assert_eq!(deleted(&effects).len(), 300, "{how}");
        assert!(!effects.concat().contains("forget") || effects.concat().ends_with("forget a1"), "{effects:?}");
    }
}

#[test]
fn receipts_go_to_the_sessions_of_the_publishing_alias_and_a_report_is_kept() {
    let mut scene = Scene::new();
    let (publisher, a) = (scene.phone("p"), scene.session("a"));
    assert_eq!(
        scene.send(publisher, [to(&["a", "b"]).receipt().frame()]),
        ["push 1 to 1", "ready 0", "commit alias a1=a; report 1 a waiting; alias a2=b; report 1 b waiting; save 1 to a1 a2"]
    );
    assert_eq!(scene.send(a, [ack(&[1])]), ["0? 13 1 a", "ready 1"]);
    assert_eq!(scene.commit(), ["0: -6 1 online=1 stored=1", "commit report 1 a acknowledged"]);
    scene.commit();
    let (ended, effects) = scene.recall(1);
    assert_eq!((ended, effects.as_slice()), (Ok(1), &["commit report 1 b recalled; delete 1".to_owned()][..]));
}

#[test]
fn a_line_of_a_report_names_who_acknowledged_even_if_it_is_forgotten_before_the_commit() {
    let mut scene = Scene::new();
    let (publisher, quick) = (scene.open(), scene.session("quick"));
    scene.send(publisher, [to(&["off"]).frame()]);
    scene.send(publisher, [to(&["quick"]).receipt().frame()]);
    scene.send(quick, [ack(&[2])]);
    scene.gone(quick);
    scene.session("other");
    assert_eq!(scene.commit(), ["0: -6 1 online=0 stored=1", "commit report 2 quick acknowledged"]);
    assert_eq!(scene.commit(), ["0: -6 2 online=1 stored=0"]);
}

#[test]
fn time_to_live_ends_deliveries_in_slices_and_no_page_carries_them() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    let count = DELIVERIES_PER_TURN_MAX + 100;
    for _ in 0..count {
        scene.send(publisher, [to(&["a", "b"]).ttl(60).frame()]);
    }
    scene.send(publisher, [to(&["a"]).frame()]);
    scene.settle();
    scene.pass(Duration::from_secs(60));
    let link = scene.open();
    assert_eq!(scene.send(link, [heartbeat("a")])[2], format!("read {}", count + 1), "over, though not yet taken out");
    assert_eq!(scene.tick(), NONE, "a crowd of deletions waits for others");
    assert_eq!(scene.hub.load().deliveries, 201);
    scene.settle();
    scene.ms(100);
    scene.ms(250);
    scene.settle();
    assert_eq!((scene.hub.load().deliveries, scene.hub.load().messages), (1, 1));
    assert_eq!(scene.hub.counters().expired, 2 * count as u64);
    assert_eq!(scene.model.messages.len(), 1);
}

#[test]
fn an_expired_report_is_closed() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    scene.send(publisher, [to(&["a"]).ttl(1).receipt().frame()]);
    scene.settle();
    assert_eq!(scene.ms(1_000), ["commit close_report 1 expired; delete 1; forget a1"]);
}

#[test]
fn over_the_cap_the_oldest_is_dropped_but_not_for_what_has_expired() {
    let mut scene = Scene::with(Limits { deliveries_per_alias: 3, ..limits() });
    let publisher = scene.open();
    scene.send(publisher, [to(&["a"]).frame(), to(&["a"]).ttl(1).frame(), to(&["a"]).frame()]);
    scene.settle();
    scene.ms(1_000);
    scene.settle();
    scene.send(publisher, [to(&["a"]).frame()]);
    scene.settle();
    assert_eq!(scene.hub.counters().dropped, 0);
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()]), ["ready 0", "commit delete 1; save 5 to a1"]);
    assert_eq!(scene.hub.counters().dropped, 1);
    assert_eq!(scene.hub.load().deliveries, 3);
}

#[test]
fn the_cap_may_drop_what_is_not_committed() {
    let mut scene = Scene::with(Limits { deliveries_per_alias: 1, ..limits() });
    let publisher = scene.open();
    scene.send(publisher, [to(&["a"]).frame()]);
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()]), ["0: -6 1 online=0 stored=1", "ready 0"], "its last delivery ended");
    assert_eq!(scene.commit(), ["commit delete 1; save 2 to a1"]);
}

#[test]
fn recall_ends_what_is_not_acknowledged_and_tells_the_phones() {
    let mut scene = Scene::new();
    let (a, _phone, publisher) = (scene.session("a"), scene.phone("b"), scene.open());
    scene.send(publisher, [to(&["a", "b", "c"]).frame()]);
    scene.settle();
    scene.send(a, [ack(&[1])]);
    scene.settle();
    let mut lines: Vec<String> = scene.hub.waiting_for(Mid::new(1)).iter().map(|line| line.alias.to_string()).collect();
    lines.sort();
    assert_eq!(lines, ["b", "c"]);
    let (ended, effects) = scene.recall(1);
    assert_eq!(ended, Ok(2));
    assert_eq!(effects, ["1? 15 1", "commit delete 1"]);
    assert_eq!(scene.recall(1).0, Err(Refusal::new(Code::NotFound, "mid")));
    assert_eq!(scene.hub.load().deliveries, 0);
}

#[test]
fn a_recall_before_the_commit_answers_the_publish() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    scene.send(publisher, [to(&["a"]).frame()]);
    let (_, effects) = scene.recall(1);
    assert_eq!(effects, ["0: -6 1 online=0 stored=1"]);
    assert_eq!(scene.commit(), ["commit delete 1"]);
    assert_eq!(scene.commit(), NONE);
}

/// A walk over many aliases is nobody's business but the asker's: between two slices doors open, and others acknowledge.
#[test]
fn a_recall_goes_in_slices_between_which_doors_open() {
    const ALIASES: usize = 5_000;
    let mut scene = Scene::new();
    let (publisher, opener, last) = (scene.open(), scene.open(), scene.session("last"));
    let names: Vec<String> = (0..ALIASES - 2).map(|number| format!("a{number}")).collect();
    for some in names.chunks(1_000) {
        scene.send(publisher, [to(&some.iter().map(String::as_str).collect::<Vec<_>>()).frame()]);
        scene.settle();
    }
    // The first and two of the last places, the last of which acknowledges before the walk is there.
    let late = scene.session("late");
    let mid = scene.hub.load().messages as u64 + 1;
    scene.send(publisher, [to(&["last", "a4997", "late"]).frame()]);
    scene.settle();
    assert_eq!(scene.hub.load().aliases, ALIASES);
    let mut walk = Walk::new(Mid::new(mid));
    let mut slices = 0;
    let ended = loop {
        let (ended, effects) = scene.call(|hub, now, fx| hub.recall(now, &mut walk, fx));
        if let Some(ended) = ended {
            break ended;
        }
        slices += 1;
        assert_eq!(effects, NONE);
        let opened = scene.send(opener, [frame_of(door(DoorKind::Open, "last", &slices.to_string()))]);
        assert!(opened.contains(&"ready 1".to_owned()), "{opened:?}");
        if slices == 3 {
            scene.send(late, [ack(&[mid])]);
        }
    };
    assert_eq!((ended, slices), (Ok(2), ALIASES.div_ceil(1_024)));
    scene.settle();
    assert_eq!((scene.hub.load().deliveries, scene.hub.counters().recalled), (ALIASES - 2, 2));
    assert_eq!(scene.recall(mid).0, Err(Refusal::new(Code::NotFound, "mid")));
    assert_eq!(last.index, 2);
}

#[test]
fn a_walk_ends_as_soon_as_all_are_found() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    for name in ["a", "b", "c", "d"] {
        scene.send(publisher, [to(&[name]).frame()]);
    }
    scene.send(publisher, [to(&["a", "b"]).frame()]);
    scene.settle();
    let mut walk = Walk::in_slices_of(Mid::new(5), 1);
    let mut lines = Vec::new();
    let slices = std::iter::from_fn(|| scene.hub.list_owing(&mut walk, &mut lines).then_some(())).count();
    assert_eq!((slices, lines.len()), (2, 2));
}
