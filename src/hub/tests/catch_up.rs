//! Pages: what binds or fell behind reads what it is owed; pulls (Protocol §5, Design §6).

use super::scene::*;
use crate::hub::Input;
use crate::limits::PAGES_IN_FLIGHT_MAX;
use crate::names::{LinkId, Mid};

const NONE: [&str; 0] = [];

/// `count` messages of `bytes` wait on disk for `name`: mids 1 and up.
fn waiting(name: &str, count: usize, bytes: usize) -> (Scene, LinkId) {
    let mut scene = Scene::new();
    let publisher = scene.open();
    for _ in 0..count {
        scene.send(publisher, [to(&[name]).body(bytes).frame()]);
        scene.settle();
    }
    (scene, publisher)
}

fn list(from: u64, to: u64) -> String {
    numbers(&(from..=to).map(Mid::new).collect::<Vec<_>>())
}

fn pushes(effects: &[String]) -> usize {
    effects.iter().filter(|effect| effect.starts_with("push ")).count()
}

#[test]
fn binding_reads_pages_of_100_until_it_is_level() {
    let (mut scene, publisher) = waiting("a", 250, 10);
    let link = scene.open();
    assert_eq!(scene.send(link, [heartbeat("a")]), ["1: -1 a".into(), "ready 1".into(), format!("read {}", list(1, 100))]);
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()])[0], "ready 0", "new messages wait until it is level");
    let page = scene.page();
    assert_eq!((pushes(&page), page[0].as_str(), page[99].as_str()), (100, "push 1 to 1", "push 100 to 1"));
    assert_eq!(page[100], format!("read {}", list(101, 200)));
    scene.page();
    scene.settle();
    let page = scene.page();
    assert_eq!((pushes(&page), page[49].as_str()), (51 - 1, "push 250 to 1"));
    assert_eq!(scene.page(), ["push 251 to 1"]);
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()])[0], "push 252 to 1");
}

#[test]
fn a_page_holds_256_kib_but_at_least_one() {
    let (mut scene, _) = waiting("a", 3, 128 << 10);
    let link = scene.open();
    assert_eq!(scene.send(link, [heartbeat("a")])[2], "read 1,2");
    let (mut scene, _) = waiting("a", 2, 300 << 10);
    let link = scene.open();
    assert_eq!(scene.send(link, [heartbeat("a")])[2], "read 1");
    assert_eq!(scene.page(), ["push 1 to 1", "read 2"]);
}

#[test]
fn connect_sends_all_again_and_a_heartbeat_does_not() {
    let (mut scene, _) = waiting("a", 2, 10);
    let link = scene.open();
    scene.send(link, [heartbeat("a")]);
    scene.page();
    assert_eq!(scene.send(link, [heartbeat("a")]), ["1: -1 a", "ready 1"]);
    scene.send(link, [ack(&[1])]);
    scene.settle();
    assert_eq!(scene.send(link, [connect("")]), ["1: -11 a", "ready 1", "read 2"]);
    assert_eq!(scene.send(link, [connect("")]), ["1: -11 a", "ready 1", "read 2"], "the page asked for before is stale");
    assert_eq!(scene.page(), NONE);
    assert_eq!(scene.page(), ["push 2 to 1dup"]);
}

#[test]
fn what_ended_between_plan_and_arrival_is_left_out() {
    let (mut scene, _) = waiting("a", 3, 10);
    let (first, second) = (scene.open(), scene.open());
    scene.send(first, [heartbeat("a")]);
    scene.send(second, [ack_as("a", &[2])]);
    assert_eq!(scene.page(), ["push 1 to 1", "push 3 to 1"]);
}

#[test]
fn bodies_that_are_not_committed_come_from_memory() {
    let (mut scene, publisher) = waiting("a", 1, 10);
    scene.send(publisher, [to(&["a"]).frame()]);
    let link = scene.open();
    assert_eq!(scene.send(link, [heartbeat("a")])[2], "read 1");
    assert_eq!(scene.page(), ["push 1 to 1", "push 2 to 1"]);
    let second = scene.open();
    scene.send(second, [heartbeat("a")]);
    scene.commit();
    assert_eq!(scene.page(), ["push 1 to 2dup", "read 2"], "the second was stored between plan and arrival");
    assert_eq!(scene.page(), ["push 2 to 2dup"]);
}

#[test]
fn a_row_that_is_missing_ends_its_delivery() {
    let (mut scene, _) = waiting("a", 2, 10);
    scene.model.messages.remove(&Mid::new(1));
    let link = scene.open();
    scene.send(link, [heartbeat("a")]);
    assert_eq!(scene.page(), ["push 2 to 1", "commit delete 1"]);
    assert_eq!(scene.hub.counters().lost, 1);
    assert_eq!(scene.hub.load().deliveries, 1);
}

#[test]
fn a_congested_session_reads_on_from_what_was_not_taken() {
    let mut scene = Scene::new();
    let (link, publisher) = (scene.session("a"), scene.open());
    for _ in 0..3 {
        scene.send(publisher, [to(&["a"]).frame()]);
    }
    assert_eq!(scene.turn(Input::Congested { link, from: Mid::new(2) }), NONE);
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()])[0], "ready 1", "nothing is pushed to it");
    scene.settle();
    scene.ms(60);
    scene.settle();
    assert_eq!(scene.turn(Input::Drained(link)), ["read 2,3,4"]);
    assert_eq!(scene.page(), ["push 2 to 0", "push 3 to 0", "push 4 to 0"], "no repeats: they were never sent");
    assert_eq!(scene.send(publisher, [to(&["a"]).frame()])[0], "push 5 to 0");
    assert_eq!(scene.turn(Input::Drained(link)), NONE);
}

#[test]
fn a_page_that_comes_while_congested_is_read_again_later() {
    let (mut scene, _) = waiting("a", 2, 10);
    let link = scene.open();
    scene.send(link, [heartbeat("a")]);
    scene.turn(Input::Congested { link, from: Mid::new(1) });
    assert_eq!(scene.page(), NONE);
    assert_eq!(scene.turn(Input::Drained(link)), ["read 1,2"]);
}

#[test]
fn a_page_that_cant_be_read_is_tried_again_each_second() {
    let (mut scene, _) = waiting("a", 1, 10);
    let link = scene.open();
    scene.send(link, [heartbeat("a")]);
    assert_eq!(scene.no_page(), NONE);
    assert_eq!(scene.ms(1_000), ["read 1"]);
    assert_eq!(scene.page(), ["push 1 to 1"]);
}

#[test]
fn pages_in_flight_are_bounded_and_a_place_goes_to_who_still_wants_it() {
    let (mut scene, _) = waiting("a", 1, 10);
    let publisher = scene.open();
    let mut links = Vec::new();
    for n in 0..2 * PAGES_IN_FLIGHT_MAX + 2 {
        scene.send(publisher, [to(&[&format!("b{n}")]).frame()]);
        scene.settle();
        links.push(scene.open());
    }
    for (n, link) in links.iter().enumerate() {
        scene.send(*link, [heartbeat(&format!("b{n}"))]);
    }
    assert_eq!(scene.reads.len(), PAGES_IN_FLIGHT_MAX);
    // All who read and all who wait but the last are gone.
    let last = links.pop().unwrap();
    links.drain(..).for_each(|link| drop(scene.gone(link)));
    let effects = scene.page();
    assert_eq!(effects, [format!("read {}", 2 * PAGES_IN_FLIGHT_MAX + 3)]);
    for _ in 0..PAGES_IN_FLIGHT_MAX - 1 {
        assert_eq!(scene.page(), NONE);
    }
    assert_eq!(scene.page(), [format!("push {} to {}", 2 * PAGES_IN_FLIGHT_MAX + 3, last.index)]);
}

#[test]
fn connects_without_end_queue_a_link_once() {
    let (mut scene, _) = waiting("a", 1, 10);
    let link = scene.session("a");
    for _ in 0..PAGES_IN_FLIGHT_MAX + 100 {
        scene.send(link, [connect("")]);
    }
    assert_eq!(scene.reads.len(), PAGES_IN_FLIGHT_MAX);
    let mut pushed = 0;
    let mut pages = 0;
    while !scene.reads.is_empty() {
        pushed += pushes(&scene.page());
        pages += 1;
    }
    assert_eq!((pushed, pages), (1, PAGES_IN_FLIGHT_MAX + 1), "one page more, for the last connect");
}

#[test]
fn pull_returns_a_page_and_the_next_acknowledges_it() {
    let (mut scene, _) = waiting("a", 150, 10);
    let link = scene.open();
    assert_eq!(scene.send(link, [num("1", pull("a")), num("2", pull(""))]), [format!("read {}", list(1, 100))]);
    let effects = scene.page();
    assert_eq!(effects[0], format!("1: -4 [{}] more #1", list(1, 100)));
    assert_eq!(effects[1], format!("read {}", list(101, 150)), "the second pull");
    assert_eq!(scene.hub.load().deliveries, 50);
    assert_eq!(scene.page()[..2], [format!("1: -4 [{}] #2", list(101, 150)), "ready 1".to_owned()]);
    scene.settle();
    assert_eq!(scene.send(link, [pull("")])[0], "1: -4 []");
    assert_eq!(scene.hub.load().deliveries, 0);
}

#[test]
fn a_pull_that_binds_pushes_only_what_its_reply_does_not_carry() {
    let (mut scene, publisher) = waiting("a", 101, 10);
    let link = scene.open();
    scene.send(link, [pull("a")]);
    scene.send(publisher, [to(&["a"]).frame()]);
    let effects = scene.page();
    assert_eq!(effects[0], format!("1: -4 [{}] more", list(1, 100)));
    assert_eq!(effects[1..], ["ready 1", "read 101"]);
    assert_eq!(scene.page(), ["push 101 to 1", "push 102 to 1"]);
}

#[test]
fn a_pull_whose_page_does_not_come_is_unavailable_and_the_session_goes_on() {
    for late in [false, true] {
        let (mut scene, publisher) = waiting("a", 1, 10);
        let link = scene.open();
        scene.send(link, [pull("a"), server_info()]);
        let effects = if late { scene.ms(1_050) } else { scene.no_page() };
        assert_eq!(effects[..3], ["1: unavailable", "1: -7 channels=1", "ready 1"]);
        assert_eq!(effects[3..], ["read 1"], "what the reply does not carry is pushed");
        if late {
            assert_eq!(scene.page(), NONE, "the pull's page is of no use any more");
        }
        assert_eq!(scene.page(), ["push 1 to 1"]);
        assert_eq!(scene.send(publisher, [to(&["a"]).frame()])[0], "push 2 to 1");
    }
}

#[test]
fn a_pull_waits_for_a_place_and_both_it_and_the_catch_up_get_one() {
    let (mut scene, publisher) = waiting("b", 1, 10);
    for n in 0..PAGES_IN_FLIGHT_MAX {
        scene.send(publisher, [to(&[&format!("o{n}")]).frame()]);
        scene.settle();
        scene.session(&format!("o{n}"));
    }
    let link = scene.session("b");
    assert_eq!(scene.send(link, [num("1", pull(""))]), NONE);
    assert!(!scene.hub.has_work(), "waiting costs nothing");
    let effects: Vec<String> = (0..PAGES_IN_FLIGHT_MAX + 2).flat_map(|_| scene.page()).collect();
    assert!(effects.contains(&format!("{}: -4 [1] #1", link.index)), "{effects:?}");
    assert!(
        effects.contains(&format!("push 1 to {}dup", link.index)) || effects.contains(&format!("push 1 to {}", link.index)),
        "{effects:?}"
    );
}

#[test]
fn after_a_crash_all_that_was_committed_is_there() {
    let (mut scene, publisher) = waiting("a", 2, 10);
    scene.send(publisher, [to(&["a"]).frame()]);
    let link = scene.open();
    scene.send(link, [ack_as("a", &[1])]);
    scene.settle();
    let mut scene = scene.crashed();
    assert_eq!((scene.hub.load().deliveries, scene.hub.load().messages), (2, 2));
    let link = scene.open();
    assert_eq!(scene.send(link, [heartbeat("a")])[2], "read 2,3");
    assert_eq!(scene.page(), ["push 2 to 0", "push 3 to 0"]);
}

#[test]
fn a_pull_that_waited_for_a_place_holds_its_link_no_longer_than_any_other() {
    let mut scene = Scene::new();
    let publisher = scene.open();
    let names: Vec<String> = (0..=PAGES_IN_FLIGHT_MAX).map(|n| format!("a{n}")).collect();
    for name in &names {
        scene.send(publisher, [to(&[name]).frame()]);
    }
    scene.settle();
    for name in &names[1..] {
        scene.session(name);
    }
    assert_eq!(scene.reads.len(), PAGES_IN_FLIGHT_MAX);
    let link = scene.open();
    scene.send(link, [num("1", pull("a0"))]);
    scene.ms(600);
    scene.page();
    assert_eq!(scene.reads.len(), PAGES_IN_FLIGHT_MAX, "the pull has the place");
    let refusal = format!("{}: unavailable #1", link.index);
    assert!(!scene.ms(399).contains(&refusal));
    assert!(scene.ms(101).contains(&refusal));
}
