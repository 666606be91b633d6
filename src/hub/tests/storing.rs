//! A store that is slow, full or broken (Protocol §4, Design §6).

use super::scene::*;
use crate::hub::Input;
use crate::hub::gather::Health;
use crate::hub::storage::{Outcome, Trouble};
use crate::limits::{PROOF_AFTER, PROOF_AGE_MAX};

const NONE: [&str; 0] = [];

#[test]
fn a_failed_batch_fails_its_publishes_and_those_that_need_the_disk() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    scene.send(publisher, [num("1", to(&["off", "a"]).frame())]);
    scene.send(publisher, [num("2", to(&["off"]).frame()), num("3", to(&["a"]).frame()), num("4", to(&["a"]).receipt().frame())]);
    scene.ms(3);
    assert_eq!(scene.fail(Trouble::Disk), ["1: unavailable #1", "1: unavailable #2", "1: unavailable #4"]);
    assert_eq!(scene.hub.load().deliveries, 1);
    assert_eq!(scene.send(a, [ack(&[3])]), ["1: -6 3 online=1 stored=0 #3", "ready 0"]);
    assert_eq!((scene.hub.load().deliveries, scene.hub.load().bodies), (0, 0));
}

#[test]
fn without_a_disk_what_is_live_goes_on() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    scene.send(publisher, [to(&["off"]).frame()]);
    scene.fail(Trouble::Disk);
    assert_eq!(scene.send(publisher, [to(&["off"]).frame()]), ["1: unavailable", "ready 1"]);
    assert_eq!(scene.send(publisher, [to(&["off", "a"]).frame()]), ["1: unavailable", "ready 1"], "before anything is sent");
    assert_eq!(scene.send(publisher, [to(&["a"]).id("k").frame()]), ["1: unavailable", "ready 1"]);
    assert_eq!(scene.send(publisher, [to(&["a"]).ttl(0).frame()]), ["push live 2 to 0", "1: -6 2 online=1 stored=0", "ready 1"]);
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()]), ["push 3 to 0", "ready 1"]);
    assert_eq!(scene.send(a, [ack(&[3])]), ["1: -6 3 online=1 stored=0", "ready 0"]);
    scene.send(publisher, [to(&["a"]).frame()]);
    assert_eq!(scene.ms(900), NONE);
    assert_eq!(scene.ms(100), ["commit forget a1"], "a probe a second");
    assert_eq!(scene.fail(Trouble::Disk), NONE);
    assert_eq!(scene.ms(3_900), ["commit forget a1"]);
    scene.fail(Trouble::Disk);
    let effects: Vec<String> = (0..12).flat_map(|_| scene.ms(100)).collect();
    assert!(effects.contains(&"1: unavailable".to_owned()), "not acknowledged within 5 s: {effects:?}");
    assert_eq!(scene.hub.load().deliveries, 0);
}

#[test]
fn a_full_disk_is_written_deletions_only_until_it_stores_again() {
    let mut scene = Scene::new();
    let (a, publisher) = (scene.session("a"), scene.open());
    scene.send(publisher, [to(&["a", "b"]).frame(), to(&["b"]).frame()]);
    scene.settle();
    scene.ms(10);
    scene.settle();
    scene.send(publisher, [to(&["b"]).receipt().frame()]);
    scene.send(a, [ack(&[1])]);
    assert_eq!(scene.fail(Trouble::Full), ["1: unavailable"]);
    assert_eq!(scene.hub.load().health, Health::Full);
    assert_eq!(scene.ms(1_000), ["commit end 1 a1"]);
    assert_eq!(scene.outcome(Outcome::Committed { refused: Vec::new(), storing: false }), NONE);
    assert_eq!(scene.send(publisher, [to(&["b"]).frame()]), ["1: unavailable", "ready 1"]);
    assert_eq!(scene.ms(1_000), ["commit "]);
    assert_eq!(scene.commit(), NONE);
    assert_eq!(scene.hub.load().health, Health::Storing);
    assert_eq!(scene.send(publisher, [to(&["b"]).frame()])[1], "commit save 4 to a2");
}

#[test]
fn no_commit_within_5_s_is_unavailable_and_may_still_arrive() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    scene.send(publisher, [num("1", to(&["a"]).frame())]);
    scene.ms(1_000);
    scene.send(publisher, [num("2", to(&["a"]).frame())]);
    assert_eq!(scene.ms(3_999), NONE);
    assert_eq!(scene.ms(101), ["0: unavailable #1"], "in flight: its fate is unknown");
    assert_eq!(scene.ms(900), ["0: unavailable #2"], "gathered: it ends");
    assert_eq!(scene.hub.load().deliveries, 1);
    assert_eq!(scene.commit(), NONE);
    assert_eq!(scene.model.messages.len(), 1);
    assert_eq!(scene.hub.load().deliveries, 1);
}

#[test]
fn a_repeat_of_what_was_given_up_is_answered_when_it_is_committed_after_all() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    scene.send(publisher, [num("1", to(&["a"]).id("k").frame())]);
    assert_eq!(scene.ms(5_100), ["0: unavailable #1"]);
    assert_eq!(scene.send(publisher, [num("2", to(&["a"]).id("k").frame())]), ["ready 0"]);
    assert_eq!(scene.commit(), ["0: -6 1 online=0 stored=1 #2"]);
}

#[test]
fn changes_that_failed_come_first_in_the_next_batch() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    let link = scene.session("a");
    scene.send(publisher, [to(&["a", "b"]).frame(), to(&["a", "b"]).frame()]);
    scene.settle();
    scene.send(link, [ack(&[1])]);
    scene.send(link, [ack(&[2])]);
    assert_eq!(scene.fail(Trouble::Disk), NONE);
    assert_eq!(scene.ms(1_000), ["commit end 1 a1; end 2 a1"]);
    assert_eq!(scene.commit(), NONE);
    assert_eq!(scene.model.owed().len(), 2);
}

#[test]
fn a_hub_that_starts_without_room_probes_at_once() {
    let options = crate::hub::Options { limits: limits(), openers: crate::hub::access::Openers::default() };
    let first = crate::names::Mid::new(1);
    let mut hub = crate::hub::Hub::new(options, first..crate::names::Mid::new(1 << 40), false);
    let mut fx = crate::hub::effects::Effects::default();
    hub.begin_batch(crate::hub::Now::default(), &mut fx);
    assert_eq!(fx.list.len(), 1, "an empty batch: {:?}", fx.list);
}

#[test]
fn acknowledgements_without_end_leave_half_of_a_batch_to_messages() {
    let mut scene = Scene::new();
    let (publisher, a) = (scene.open(), scene.session("a"));
    let count = 5_000;
    for _ in 0..count {
        scene.send(publisher, [to(&["a"]).receipt().frame()]);
    }
    scene.settle();
    scene.send(publisher, [to(&["b"]).frame()]);
    for mid in 1..=count {
        scene.send(a, [ack(&[mid])]);
    }
    scene.send(publisher, [to(&["b"]).frame()]);
    let effects = scene.commit();
    let commit = effects.last().unwrap();
    assert!(commit.ends_with(&format!("save {} to a2", count + 2)), "{}", &commit[commit.len() - 60..]);
    assert_eq!(commit.matches("delete ").count() + commit.matches("report ").count(), crate::limits::TRANSACTION_ROWS_MAX / 2);
}

/// Longer than anything here is under way: then the store is asked to prove itself.
fn ask(scene: &mut Scene) -> (bool, Vec<String>) {
    let lacks = scene.hub.prove_storing(scene.now);
    (lacks, scene.ms(0))
}

#[test]
fn an_idle_hub_writes_one_empty_transaction_when_asked_and_only_then() {
    let mut scene = Scene::new();
    assert_eq!(ask(&mut scene), (false, vec![]), "the scene has begun with a commit");
    assert_eq!(scene.wait(PROOF_AFTER - std::time::Duration::from_millis(1)), NONE);
    assert_eq!(ask(&mut scene), (false, vec![]));
    assert_eq!(scene.ms(1), NONE, "nobody has asked");
    assert_eq!(ask(&mut scene), (true, vec!["commit ".to_owned()]));
    for _ in 0..100 {
        assert_eq!(ask(&mut scene), (true, vec![]), "one is under way");
    }
    scene.settle();
    assert_eq!(ask(&mut scene), (false, vec![]));
    assert_eq!(scene.hub.store_state(scene.now).proved, Some(std::time::Duration::ZERO));
    // Asked every 15 seconds, it is always proved recently enough, by a commit every 30.
    let before = scene.hub.counters().commits;
    for _ in 0..40 {
        scene.wait(PROOF_AFTER / 2);
        if ask(&mut scene).0 {
            scene.settle();
        }
        assert!(scene.hub.store_state(scene.now).proved.unwrap() < PROOF_AGE_MAX);
    }
    assert_eq!(scene.hub.counters().commits - before, 20);
}

#[test]
fn a_proof_that_fails_is_a_failing_disk_and_one_that_hangs_is_seen_to() {
    let mut scene = Scene::new();
    scene.wait(PROOF_AFTER);
    assert!(ask(&mut scene).0);
    scene.ms(7_000);
    assert_eq!(scene.hub.store_state(scene.now).in_flight, Some(std::time::Duration::from_secs(7)));
    scene.fail(Trouble::Disk);
    assert_eq!(scene.hub.load().health, Health::Failing);
    assert_eq!(ask(&mut scene), (false, vec![]), "it is tried each second anyway");
    let times: Vec<u64> = scene.hub.counters().commit_time.up_to().map(|(_, count)| count).collect();
    assert_eq!((times[0], times[11], scene.hub.counters().commit_time.count()), (1, 1, 2), "the one at the start, and one beyond 5 s");
}

#[test]
fn the_oldest_delivery_ages_also_through_a_crash() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    scene.send(publisher, [to(&["off"]).frame()]);
    scene.settle();
    scene.wait(std::time::Duration::from_secs(100));
    scene.send(publisher, [to(&["off"]).frame()]);
    scene.settle();
    let age = |scene: &Scene| scene.hub.oldest_waits(scene.now).as_secs();
    assert_eq!(age(&scene), 100);
    let mut next = scene.crashed();
    next.pass(std::time::Duration::from_secs(200));
    assert_eq!(age(&next), 200, "it begins again at the scene's time, a hundred seconds before the last commit");
    let off = next.session("off");
    next.settle();
    next.send(off, [ack(&[1, 2])]);
    assert_eq!(age(&next), 0);
}

#[test]
fn deliveries_that_could_not_be_stored_are_counted() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    scene.send(publisher, [to(&["a", "b"]).frame()]);
    scene.fail(Trouble::Disk);
    assert_eq!((scene.hub.counters().deliveries, scene.hub.counters().not_stored), (2, 2));
}

#[test]
fn a_disk_that_the_store_finds_full_while_idle_is_tried_each_second() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    assert_eq!(scene.turn(Input::StoreFull), NONE);
    assert_eq!(scene.send(publisher, [to(&["off"]).frame()]), ["0: unavailable", "ready 0"]);
    assert_eq!(scene.ms(1_000), ["commit "]);
    assert_eq!(scene.turn(Input::StoreFull), NONE, "what is in flight tells");
    scene.commit();
    assert_eq!(scene.hub.load().health, Health::Storing);
}
