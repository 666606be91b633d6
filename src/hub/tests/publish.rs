//! One publish from its frame to its `-6` (Protocol §4): receivers, grace, fan-out, `opts.id`, bounds.

use super::scene::*;
use crate::hub::Input;
use crate::hub::owing::Walk;
use crate::hub::storage::{Outcome, Trouble};
use crate::limits::{IDEMPOTENCY_KEYS_MAX, Limits, UNANSWERED_PER_LINK_MAX, UNCOMMITTED_BYTES_MAX};
use crate::names::{LinkId, Mid};
use crate::protocol::frame::{DoorKind, Request};

const NONE: [&str; 0] = [];

/// `count` sessions that subscribe to `t`, each of its own alias. Committed.
fn crowd(scene: &mut Scene, count: usize) -> Vec<LinkId> {
    let links: Vec<LinkId> = (0..count).map(|n| scene.session(&format!("s{n}"))).collect();
    for link in &links {
        scene.send(*link, [register(&["t"])]);
    }
    scene.settle();
    links
}

#[test]
fn receivers_are_the_union_of_the_topics_each_once_under_the_first_that_it_has() {
    let mut scene = Scene::new();
    let (a, b, publisher) = (scene.session("a"), scene.session("b"), scene.session("p"));
    scene.send(a, [register(&["t", "u"])]);
    scene.send(b, [register(&["u"])]);
    scene.send(publisher, [register(&["v"])]);
    scene.settle();
    assert_eq!(scene.send(publisher, [on(&["x", "u", "t", "v"]).frame()]), ["push 1 to 0@1 1@1 2@3", "ready 2"]);
    assert_eq!(scene.send(publisher, [on(&["x"]).frame()]), ["2: -6 2 online=0 stored=0", "ready 2"], "no receivers: at once");
}

#[test]
fn named_receivers_need_not_be_known_and_what_is_sent_to_them_waits() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    assert_eq!(
        scene.send(publisher, [num("1", to(&["new", "other"]).frame())]),
        ["ready 0", "commit alias a1=new; alias a2=other; save 1 to a1 a2"]
    );
    assert_eq!(scene.commit(), ["0: -6 1 online=0 stored=2 #1"]);
    let link = scene.open();
    assert_eq!(scene.send(link, [heartbeat("new")]), ["1: -1 new", "ready 1", "read 1"]);
    assert_eq!(scene.page(), ["push 1 to 1"]);
    assert_eq!(scene.send(link, [ack(&[1])]), ["ready 1"]);
    assert_eq!(scene.ms(1_000), ["commit end 1 a1"]);
}

#[test]
fn acknowledgements_beat_the_commit_within_the_grace() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()]), ["push 1 to 0", "ready 1"]);
    assert_eq!(scene.ms(1), NONE);
    assert_eq!(scene.send(a, [ack(&[1])]), ["1: -6 1 online=1 stored=0", "ready 0"]);
    assert_eq!(scene.ms(100), NONE, "nothing is left to write");
    scene.send(publisher, [to(&["a"]).frame()]);
    assert_eq!(scene.ms(3), ["commit alias a1=a; save 2 to a1"]);
    assert_eq!(scene.commit(), ["1: -6 2 online=1 stored=0"]);
    assert_eq!(scene.send(a, [ack(&[2])]), ["ready 0", "commit delete 2"]);
}

#[test]
fn the_grace_adapts_to_acknowledgements_also_those_that_come_after_the_commit() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    let mut beaten = Vec::new();
    for mid in 1..=60 {
        scene.send(publisher, [to(&["a"]).frame()]);
        for _ in 0..10 {
            scene.ms(1);
            scene.settle();
        }
        let before = scene.hub.counters().commits;
        scene.send(a, [ack(&[mid])]);
        scene.settle();
        beaten.push(scene.hub.counters().commits == before);
    }
    assert!(!beaten[0] && beaten[30..].iter().all(|beaten| *beaten), "{beaten:?}");
}

#[test]
fn the_grace_is_at_most_50_ms_and_who_is_slower_has_none() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    let mut waits = Vec::new();
    for mid in 1..=100 {
        scene.send(publisher, [to(&["a"]).frame()]);
        let mut waited = 0;
        while scene.batch.is_none() && waited < 120 {
            scene.ms(1);
            waited += 1;
        }
        scene.settle();
        for _ in waited..120 {
            scene.ms(1);
        }
        scene.send(a, [ack(&[mid])]);
        scene.settle();
        waits.push(waited);
    }
    assert!(waits.iter().all(|waited| *waited <= 51), "{waits:?}");
    assert!(waits.iter().any(|waited| *waited >= 45), "{waits:?}");
    assert_eq!(waits[99], 0, "it never acknowledges within 50 ms: {waits:?}");
}

#[test]
fn who_missed_four_graces_counts_as_offline_until_it_acknowledges() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    for _ in 0..4 {
        assert_eq!(scene.send(publisher, [to(&["a"]).frame()]).len(), 2);
        scene.ms(3);
        scene.settle();
    }
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()]), ["push 5 to 0", "ready 1", "commit save 5 to a1"]);
    scene.commit();
    scene.send(a, [ack(&[5])]);
    scene.settle();
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()]), ["push 6 to 0", "ready 1"]);
}

#[test]
fn an_offline_receiver_has_no_grace_and_the_other_is_struck_out_if_it_was_quick() {
    let mut scene = Scene::new();
    scene.subscriber("off", "t");
    let (on_line, publisher) = (scene.session("on"), scene.open());
    scene.send(on_line, [register(&["t"])]);
    scene.settle();
    scene.send(publisher, [on(&["t"]).frame()]);
    assert!(scene.batch.is_some());
    assert_eq!(scene.send(publisher, [on(&["t"]).frame()]), ["push 2 to 0@0", "ready 1"], "the next waits for the writer");
    assert_eq!(scene.send(on_line, [ack(&[1]), ack(&[2])]), ["ready 0"]);
    assert_eq!(scene.commit(), ["1: -6 1 online=1 stored=1", "commit save 2 to a1"]);
    assert_eq!(scene.commit(), ["1: -6 2 online=1 stored=1"]);
}

#[test]
fn the_grace_ends_with_the_last_session() {
    let mut scene = Scene::new();
    let (first, second, publisher) = (scene.session("a"), scene.session("a"), scene.open());
    scene.send(publisher, [to(&["a"]).frame()]);
    assert_eq!(scene.gone(first), NONE);
    assert_eq!(scene.gone(second), ["commit alias a1=a; save 1 to a1"]);
}

#[test]
fn a_grace_may_outlive_a_receiver_that_acknowledged_and_left() {
    let mut scene = Scene::new();
    let (a, _b, publisher) = (scene.session("a"), scene.session("b"), scene.open());
    scene.send(publisher, [to(&["a", "b"]).frame()]);
    scene.send(a, [ack(&[1])]);
    scene.gone(a);
    assert_eq!(scene.hub.load().aliases, 1);
    assert_eq!(scene.ms(3), ["commit alias a1=b; save 1 to a1"]);
}

#[test]
fn a_message_acknowledged_while_it_is_gathered_is_struck_out() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    scene.send(publisher, [to(&["b"]).frame()]);
    scene.send(publisher, [to(&["a"]).frame()]);
    assert_eq!(scene.ms(3), NONE, "gathered, while another transaction is in flight");
    assert_eq!(scene.send(a, [ack(&[2])]), ["1: -6 2 online=1 stored=0", "ready 0"]);
    assert_eq!(scene.commit(), ["1: -6 1 online=0 stored=1"]);
}

#[test]
fn a_message_acknowledged_while_it_is_written_is_answered_and_deleted_after() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    scene.send(publisher, [to(&["a"]).frame()]);
    scene.ms(3);
    assert_eq!(scene.send(a, [ack(&[1])]), ["1: -6 1 online=1 stored=0", "ready 0"]);
    assert_eq!(scene.commit(), ["commit delete 1"]);
    scene.commit();
    assert!(scene.model.messages.is_empty());
    assert_eq!((scene.hub.load().deliveries, scene.hub.load().bodies), (0, 0));
}

#[test]
fn time_to_live_0_goes_to_live_sessions_only_and_nothing_is_owed() {
    let mut scene = Scene::new();
    scene.subscriber("off", "t");
    let (a, also_a, publisher) = (scene.phone("a"), scene.phone("a"), scene.open());
    scene.send(a, [register(&["t"])]);
    scene.settle();
    assert_eq!(
        scene.send(publisher, [on(&["t"]).ttl(0).frame(), to(&["off", "unknown"]).ttl(0).frame()]),
        ["push live 1 to 0@0 1@0", "2: -6 1 online=1 stored=0", "2: -6 2 online=0 stored=0", "ready 2"]
    );
    assert_eq!(scene.hub.load().deliveries, 0);
    assert_eq!(scene.hub.load().aliases, 2, "an alias that nothing waits for is not made known");
    assert_eq!(scene.send(also_a, [ack(&[1])]), ["0? 15 1", "ready 1"]);
    assert_eq!(scene.send(a, [ack(&[1])]), ["ready 0"], "once");
}

#[test]
fn time_to_live_0_is_remembered_for_a_minute() {
    for (waits, receipts) in [(59_900, 1), (61_000, 0)] {
        let mut scene = Scene::new();
        let (a, publisher) = (scene.phone("a"), scene.phone("p"));
        scene.send(publisher, [to(&["a"]).ttl(0).receipt().frame()]);
        scene.ms(waits);
        let effects = scene.send(a, [ack(&[1])]);
        assert_eq!(effects.iter().filter(|effect| *effect == "1? 13 1 a").count(), receipts, "{effects:?}");
    }
}

#[test]
fn the_repeat_of_an_id_is_answered_as_the_first_was_and_not_sent_again() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.session("p"));
    let frame = |number: &str| num(number, to(&["a"]).id("k").frame());
    assert_eq!(scene.send(publisher, [frame("1")]), ["push 1 to 0", "ready 1", "commit alias a1=a; save 1 to a1; key alias:p k 1"]);
    assert_eq!(scene.send(publisher, [frame("2")]), ["ready 1"], "it waits for the first");
    assert_eq!(scene.send(a, [ack(&[1])]), ["ready 0"], "and the first for its commit");
    assert_eq!(scene.commit(), ["1: -6 1 online=1 stored=0 #1", "1: -6 1 online=1 stored=0 #2", "commit delete 1"]);
    assert_eq!(scene.send(publisher, [frame("3")]), ["1: -6 1 online=1 stored=0 #3", "ready 1"]);
    let other = scene.session("q");
    assert_eq!(scene.send(other, [frame("4")])[0], "push 2 to 0", "another publisher's key is another key");
    scene.settle();
    let mut scene = scene.crashed();
    let publisher = scene.session("p");
    assert_eq!(scene.send(publisher, [frame("5")]), ["0: -6 1 online=1 stored=0 #5", "ready 0"]);
}

#[test]
fn the_publisher_of_an_id_is_its_alias_else_its_address() {
    let mut scene = Scene::new();
    let (first, second) = (scene.open(), scene.open());
    assert_eq!(scene.send(first, [to(&[]).id("k").frame()]), ["ready 0", "commit key address:10.0.0.1 k 1"]);
    assert_eq!(scene.commit(), ["0: -6 1 online=0 stored=0"]);
    assert_eq!(scene.send(second, [to(&[]).id("k").frame()]), ["ready 1", "commit key address:10.0.0.2 k 2"]);
    assert_eq!(scene.send(first, [to(&[]).id("k").frame()]), ["0: -6 1 online=0 stored=0", "ready 0"]);
}

#[test]
fn a_failed_publish_forgets_its_id() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    let frame = || to(&["off"]).id("k").frame();
    scene.send(publisher, [frame(), frame()]);
    assert_eq!(scene.fail(Trouble::Disk), ["0: unavailable", "0: unavailable"]);
    assert_eq!(scene.hub.load().deliveries, 0);
    assert_eq!(scene.hub.load().aliases, 0);
    assert_eq!(scene.ms(1_000), ["commit forget a1"], "the probe");
    scene.commit();
    assert_eq!(scene.send(publisher, [frame()])[1], "commit alias a2=off; save 2 to a2; key address:10.0.0.1 k 2");
}

#[test]
fn an_id_is_remembered_for_24_hours_also_when_one_was_used_again_after_a_failure() {
    let mut scene = Scene::new();
    let publisher = scene.open_over(crate::names::Transport::Rest, None);
    let used = |id: &str| to(&[]).id(id).frame();
    scene.send(publisher, [used("failed")]);
    scene.fail(Trouble::Disk);
    scene.send(publisher, [used("old")]);
    scene.ms(1_000);
    scene.settle();
    scene.send(publisher, [used("old")]);
    scene.settle();
    scene.ms(3_600_000);
    scene.send(publisher, [used("failed")]);
    scene.settle();
    scene.ms(22 * 3_600_000);
    scene.settle();
    assert_eq!(scene.model.keys.len(), 2);
    scene.ms(3_601_000);
    scene.settle();
    assert_eq!(scene.model.keys.values().map(|key| &*key.id).collect::<Vec<_>>(), ["failed"]);
    assert_eq!(scene.send(publisher, [used("old")]).len(), 2, "forgotten, so sent again");
}

#[test]
fn ids_are_bounded_in_number() {
    let mut keys = crate::hub::keys::Keys::new();
    let more = 5_000;
    for n in 0..IDEMPOTENCY_KEYS_MAX + more {
        let published = crate::protocol::frame::Published { mid: Mid::new(n as u64 + 1), online: 0, stored: 0 };
        keys.begin(n as u128, published, 10);
        keys.answer(n as u128, published);
    }
    assert_eq!(keys.prune(0, 1_024), Some(Mid::new(more as u64)), "all that are over, at once");
    assert_eq!(keys.prune(0, 1_024), None);
    assert!(keys.find(more as u128 - 1).is_none() && keys.find(more as u128).is_some());
}

#[test]
fn a_large_fan_out_goes_in_slices_between_which_only_acknowledgements_and_doors_run() {
    let mut scene = Scene::new();
    let links = crowd(&mut scene, 3_000);
    let (publisher, other, opener, asker) = (scene.open(), scene.open(), scene.open(), scene.open());
    let batch = |frames: Vec<Request>, link: LinkId, scene: &Scene| Input::Frames { link, frames, at: scene.now.mono };
    let input = batch(vec![on(&["t"]).frame(), to(&["s0"]).frame()], publisher, &scene);
    let targets =
        |effects: &[String]| effects.iter().map(|effect| effect.split(' ').filter(|word| word.ends_with("@0")).count()).sum::<usize>();
    let first = scene.only(input);
    assert_eq!((first.len(), targets(&first)), (1, 1_024));
    let input = batch(vec![ack(&[1]), server_info()], links[0], &scene);
    assert_eq!(scene.only(input), NONE, "its acknowledgement counts, its request waits");
    assert_eq!(scene.hub.load().deliveries, 2_999);
    let mut asked = Walk::in_slices_of(Mid::new(1), 10_000);
    let mut lines = Vec::new();
    assert!(scene.hub.list_owing(&mut asked, &mut lines) && lines.is_empty(), "who asks whom it waits for waits for its end");
    let input = batch(vec![on(&["t"]).frame()], other, &scene);
    assert_eq!(scene.only(input), NONE);
    let input = batch(vec![heartbeat("z")], asker, &scene);
    assert_eq!(scene.only(input), NONE);
    let input = batch(vec![frame_of(door(DoorKind::Open, "s1", "u"))], opener, &scene);
    assert_eq!(scene.only(input), ["relay Open to 1", "ready 3002"]);
    assert_eq!(targets(&scene.slice()), 1_024);
    assert_eq!(targets(&scene.slice()), 3_000 - 2_048);
    while scene.hub.list_owing(&mut asked, &mut lines) {}
    assert_eq!(lines.len(), 2_999);
    let rest = scene.rest();
    let pushed: Vec<&str> = rest.iter().filter_map(|effect| effect.strip_prefix("push ")).map(|push| &push[..1]).collect();
    assert_eq!(pushed, ["3", "4", "4", "4"], "in the order of their links' turns; 2 is the opening's");
    assert!(rest.contains(&format!("{}: -1 z", asker.index)));
}

#[test]
fn publishes_to_the_same_many_are_handed_out_together() {
    let mut scene = Scene::new();
    let links = crowd(&mut scene, 100);
    let (publisher, other) = (scene.open(), scene.open());
    let at = scene.now.mono;
    let pushes = |effects: &[String]| -> Vec<(String, usize)> {
        let pushes = effects.iter().filter_map(|effect| effect.strip_prefix("push "));
        pushes.map(|push| (push[..1].to_owned(), push.split(' ').filter(|word| word.ends_with("@0")).count())).collect()
    };
    let all = |mids: &[u32]| -> Vec<(String, usize)> { mids.iter().map(|mid| (mid.to_string(), 100)).collect() };
    // Both wait for others of the same turn, and go in one slice.
    let first = scene.only(Input::Frames { link: publisher, frames: vec![on(&["t"]).frame(), on(&["t"]).frame()], at });
    assert_eq!(pushes(&first), []);
    let third = scene.only(Input::Frames { link: other, frames: vec![on(&["t"]).frame()], at });
    assert_eq!(pushes(&third), []);
    assert_eq!(pushes(&scene.slice()), all(&[1, 2, 3]));
    let last = links[99];
    let acknowledged = scene.only(Input::Frames { link: last, frames: vec![ack(&[1, 2, 3])], at });
    assert_eq!(acknowledged.len(), 1, "the right to go on: {acknowledged:?}");
    assert_eq!(scene.hub.waiting_for(Mid::new(3)).len(), 99);
    // What is for others, or for live sessions only, does not join; what came before it goes before it.
    let frames = vec![on(&["t"]).frame(), on(&["t"]).ttl(0).frame(), on(&["t"]).frame(), to(&["s0"]).frame()];
    let mixed = scene.only(Input::Frames { link: publisher, frames, at });
    let order: Vec<String> = pushes(&mixed).into_iter().map(|(push, _)| push).collect();
    assert_eq!(order, ["4", "l", "6", "7"], "the second is live");
}

#[test]
fn a_large_fan_out_with_time_to_live_0_is_answered_at_once_and_goes_in_slices_too() {
    let mut scene = Scene::new();
    crowd(&mut scene, 2_000);
    let (publisher, opener) = (scene.open(), scene.open());
    let targets =
        |effects: &[String]| effects.iter().map(|effect| effect.split(' ').filter(|word| word.ends_with("@0")).count()).sum::<usize>();
    let at = scene.now.mono;
    let first = scene.only(Input::Frames { link: publisher, frames: vec![on(&["t"]).ttl(0).frame()], at });
    assert_eq!((targets(&first), first.len()), (1_024, 3), "a slice, the -6 and the right to go on: {:?}", &first[1..]);
    let opened = scene.only(Input::Frames { link: opener, frames: vec![frame_of(door(DoorKind::Open, "s1", "u"))], at });
    assert_eq!(opened.first().map(String::as_str), Some("relay Open to 1"));
    assert_eq!(targets(&scene.slice()), 2_000 - 1_024);
    assert_eq!(targets(&scene.rest()), 0);
}

#[test]
fn nobody_is_forgotten_while_a_fan_out_may_name_them() {
    let mut scene = Scene::new();
    let links = crowd(&mut scene, 2_000);
    for link in &links {
        scene.gone(*link);
    }
    scene.settle();
    scene.wait(std::time::Duration::from_secs(179 * 86_400));
    scene.settle();
    let publisher = scene.open();
    let frames = vec![on(&["t"]).frame()];
    scene.pass(std::time::Duration::from_secs(2 * 86_400));
    let at = scene.now.mono;
    scene.only(Input::Frames { link: publisher, frames, at });
    for _ in 0..100 {
        scene.pass(std::time::Duration::from_secs(1));
        let Scene { hub, now, .. } = &mut scene;
        hub.tick(*now, &mut crate::hub::effects::Effects::default());
    }
    assert_eq!(scene.hub.load().aliases, 2_000);
    scene.settle();
    assert_eq!(scene.model.messages.values().next().unwrap().1.len(), 2_000);
}

#[test]
fn over_1024_unanswered_publishes_a_link_is_not_read_on() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    let frames = || (0..64).map(|_| to(&["off"]).frame()).collect::<Vec<_>>();
    for _ in 1..UNANSWERED_PER_LINK_MAX / 64 {
        let at = scene.now.mono;
        assert!(scene.turn(Input::Frames { link: publisher, frames: frames(), at }).contains(&"ready 0".to_owned()));
    }
    let at = scene.now.mono;
    assert_eq!(scene.turn(Input::Frames { link: publisher, frames: frames(), at }), NONE);
    let effects = scene.commit();
    assert_eq!(effects.iter().filter(|effect| *effect == "ready 0").count(), 1);
}

#[test]
fn quotas_refuse_before_anything_is_sent_or_anybody_becomes_known() {
    let limits = Limits { deliveries: 3, bodies: 100, aliases: 3, ..limits() };
    let mut scene = Scene::with(limits);
    let (a, publisher) = (scene.session("a"), scene.open());
    assert_eq!(scene.send(publisher, [to(&["x", "y", "z"]).frame()]), ["1: quota limits.aliases", "ready 1"]);
    assert_eq!(scene.send(publisher, [to(&["x"]).body(101).frame()]), ["1: quota limits.deliveries", "ready 1"]);
    assert_eq!(scene.hub.load().aliases, 1, "a refusal makes nobody known");
    scene.send(publisher, [to(&["x", "y"]).body(10).frame()]);
    scene.settle();
    assert_eq!(scene.send(publisher, [to(&["x", "y"]).frame()]), ["1: quota limits.deliveries", "ready 1"]);
    assert_eq!(scene.send(publisher, [to(&["a"]).body(90).frame()]), ["push 4 to 0", "ready 1"].map(|text| text.replace('4', "2")));
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()]), ["push 3 to 0", "ready 1"], "all online: it is sent");
    scene.send(a, [ack(&[2, 3])]);
    assert_eq!(scene.hub.load().deliveries, 2);
    assert_eq!(scene.hub.load().bodies, 10);
}

#[test]
fn uncommitted_bodies_are_bounded() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    let size = 1 << 20;
    for _ in 0..UNCOMMITTED_BYTES_MAX / size {
        scene.send(publisher, [to(&["off"]).body(size).frame()]);
    }
    assert_eq!(scene.send(publisher, [to(&["off"]).frame()]), ["0: unavailable", "ready 0"]);
    let effects = scene.commit();
    assert!(effects[0].starts_with("0: -6 1 "), "{effects:?}");
    assert_eq!(scene.batch.as_ref().unwrap().changes.len(), 8, "8 MiB a transaction");
}

#[test]
fn mids_run_out_and_come_again() {
    let options = crate::hub::Options { limits: limits(), openers: crate::hub::access::Openers::default() };
    let mut scene = Scene::around(crate::hub::Hub::new(options, Mid::new(1)..Mid::new(5), true));
    let publisher = scene.open();
    let none = || to(&[]).frame();
    let answers = ["0: -6 1 online=0 stored=0", "0: -6 2 online=0 stored=0", "0: -6 3 online=0 stored=0"];
    assert_eq!(scene.send(publisher, [none(), none(), none()])[..3], answers);
    assert_eq!(scene.send(publisher, [none()]), ["take_block", "0: -6 4 online=0 stored=0", "ready 0"]);
    assert_eq!(scene.send(publisher, [none()]), ["0: unavailable", "ready 0"]);
    scene.turn(Input::Block(None));
    assert_eq!(scene.send(publisher, [none()]), ["take_block", "0: unavailable", "ready 0"], "asked for again");
    scene.turn(Input::Block(Some(Mid::new(100))));
    assert_eq!(scene.send(publisher, [none()]), ["0: -6 5 online=0 stored=0", "ready 0"]);
}

#[test]
fn a_rate_is_kept_where_one_is_set() {
    let mut scene = Scene::with(Limits { publish_rate: 1, ..limits() });
    let publisher = scene.open();
    let effects = scene.send(publisher, [to(&[]).frame(), to(&[]).frame()]);
    assert_eq!(effects, ["0: -6 1 online=0 stored=0", "0: rate_limited limits.publish_rate", "ready 0"]);
}

#[test]
fn a_row_that_cant_be_written_fails_its_own_publish_only() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    scene.send(publisher, [to(&["x"]).frame()]);
    scene.send(publisher, [num("1", to(&["x"]).frame()), num("2", to(&["x"]).frame())]);
    assert_eq!(scene.commit(), ["0: -6 1 online=0 stored=1", "commit save 2 to a1; save 3 to a1"]);
    let outcome = Outcome::Committed { refused: vec![0], storing: true };
    assert_eq!(scene.outcome(outcome), ["0: unavailable #1", "0: -6 3 online=0 stored=1 #2"]);
    assert_eq!(scene.hub.load().deliveries, 2);
}
