//! Binding, subscribing, leaving, deadlines, forgetting (Protocol §1, §2, §3, §6).

use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use super::scene::*;
use crate::hub::Input;
use crate::hub::storage::{Outcome, Trouble};
use crate::limits::TIME_TO_LIVE_MAX_S;
use crate::names::{Label, LinkId, Transport};
use crate::protocol::frame::{BindKind, Body, Call, DoorKind, Num, Request};
use crate::protocol::refusal::Code;
use crate::token::{Claims, Role};

const NONE: [&str; 0] = [];

fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

#[test]
fn each_of_the_three_frames_binds_and_is_answered_with_its_own_negative() {
    for (frame, expected) in
        [(heartbeat("a"), "0: -1 a"), (extended_heartbeat("a"), "0: -1 a ts"), (connect("a"), "0: -11 a"), (connect_14("a"), "0: -14 a")]
    {
        let mut scene = Scene::new();
        let link = scene.open();
        assert_eq!(scene.send(link, [num("7", frame)]), [format!("{expected} #7").as_str(), "ready 0"]);
    }
}

#[test]
fn frames_that_need_an_alias_are_refused_without_one_and_with_another() {
    for (frame, needs) in [
        (register(&["t"]), true),
        (unregister(&["t"]), true),
        (get_topic(), true),
        (pull(""), true),
        (ack(&[1]), true),
        (server_info(), false),
        (to(&[]).frame(), false),
        (frame_of(door(DoorKind::Phone, "r", "u")), false),
    ] {
        let mut scene = Scene::new();
        let link = scene.open();
        let effects = scene.send(link, [frame]);
        assert_eq!(effects.iter().any(|effect| effect.starts_with("0: no_alias")), needs, "{effects:?}");
    }
    let mut scene = Scene::new();
    let link = scene.session("a");
    let other = |body| Request { body, num: None, token: None };
    for frame in [
        heartbeat("b"),
        pull("b"),
        ack_as("b", &[1]),
        other(Body::GetTopic { alias: Some(alias("b")) }),
        other(Body::Register { alias: Some(alias("b")), topics: topics(&["t"]), info: None }),
        other(Body::Unregister { alias: Some(alias("b")), topics: topics(&["t"]) }),
        other(Body::Bind { kind: BindKind::Connect11, alias: Some(alias("b")), extended: false }),
    ] {
        assert_eq!(scene.send(link, [frame]), ["0: alias_mismatch alias", "ready 0"]);
    }
    assert_eq!(scene.send(link, [heartbeat("")]), ["0: -1 a", "ready 0"]);
}

#[test]
fn the_ninth_session_ends_the_one_heard_from_longest_ago() {
    let mut scene = Scene::new();
    let links: Vec<LinkId> = (0..8)
        .map(|_| {
            scene.ms(10);
            scene.session("a")
        })
        .collect();
    scene.send(links[0], [heartbeat("")]);
    scene.ms(10);
    let ninth = scene.open();
    assert_eq!(scene.send(ninth, [heartbeat("a")]), ["close 1 replaced", "8: -1 a", "ready 8"]);
    assert_eq!(scene.send(links[1], [heartbeat("a")]), NONE, "it is gone");
    assert_eq!(scene.hub.sizes().channel, 8);
    assert_eq!(scene.gone(links[1]), NONE, "its end is known");
    assert_eq!(scene.hub.sizes().channel, 8);
}

#[test]
fn a_device_token_binds_only_its_alias() {
    let claims = |alias_of| Some(Arc::new(Claims { role: Role::Device, label: Label::new("l").unwrap(), alias: alias_of, expires: 0 }));
    let mut scene = Scene::new();
    let own = scene.open_over(Transport::Tcp, claims(Some(alias("a"))));
    assert_eq!(scene.send(own, [heartbeat("b"), heartbeat("a")]), ["0: forbidden alias", "0: -1 a", "ready 0"]);
    let any = scene.open_over(Transport::Tcp, claims(None));
    assert_eq!(scene.send(any, [heartbeat("b")]), ["1: -1 b", "ready 1"]);
}

#[test]
fn register_and_unregister_hold_their_link_and_no_other_until_the_commit() {
    let mut scene = Scene::new();
    let (link, other) = (scene.session("a"), scene.session("b"));
    assert_eq!(
        scene.send(link, [num("1", register(&["u", "t"])), num("2", get_topic()), server_info()]),
        ["commit alias a1=a; subscribe a1 u; subscribe a1 t"]
    );
    assert_eq!(scene.send(other, [server_info()]), ["1: -7 channels=2", "ready 1"]);
    assert_eq!(scene.commit(), ["0: -2 #1", "0: -3 t,u #2", "0: -7 channels=2", "ready 0"]);
    assert_eq!(scene.send(link, [register(&["t"])]), ["0: -2", "ready 0"], "nothing new, nothing waited for");
    assert_eq!(scene.send(link, [num("3", unregister(&["t", "x"])), get_topic()]), ["commit unsubscribe a1 t"]);
    assert_eq!(scene.commit(), ["0: -12 #3", "0: -3 u", "ready 0"]);
}

#[test]
fn a_hold_ends_after_a_second_with_unavailable_and_the_change_may_still_hold() {
    let mut scene = Scene::new();
    let link = scene.session("a");
    scene.send(link, [num("1", register(&["t"])), num("2", get_topic())]);
    assert_eq!(scene.ms(999), NONE);
    assert_eq!(scene.ms(101), ["0: unavailable #1", "0: -3 t #2", "ready 0"]);
    assert_eq!(scene.commit(), NONE);
    assert_eq!(scene.crashed().hub.alias_status(&alias("a")).0, topics(&["t"])[..]);
}

#[test]
fn each_hold_waits_for_its_own_change_only() {
    let mut scene = Scene::new();
    let (a, b) = (scene.session("a"), scene.session("b"));
    scene.send(a, [register(&["t"])]);
    scene.ms(600);
    assert_eq!(scene.send(b, [register(&["t"])]), NONE, "it waits for the next transaction");
    assert_eq!(scene.ms(500), ["0: unavailable", "ready 0"]);
    assert_eq!(scene.send(a, [register(&["u"])]), NONE);
    assert_eq!(scene.commit(), ["commit alias a2=b; subscribe a2 t; alias a1=a; subscribe a1 u"]);
    assert_eq!(scene.commit(), ["1: -2", "ready 1", "0: -2", "ready 0"]);
}

#[test]
fn a_failed_commit_ends_the_holds_and_the_changes_are_written_later() {
    let mut scene = Scene::new();
    let link = scene.session("a");
    scene.send(link, [register(&["t"])]);
    assert_eq!(scene.fail(Trouble::Disk), ["0: unavailable", "ready 0"]);
    assert_eq!(scene.send(link, [register(&["u"])]), ["0: unavailable", "ready 0"]);
    assert_eq!(scene.ms(1_000), ["commit alias a1=a; subscribe a1 t"], "the probe");
    scene.commit();
    assert_eq!(scene.send(link, [get_topic(), register(&["u"])]), ["0: -3 t", "commit subscribe a1 u"]);
}

#[test]
fn a_full_disk_takes_deletions_first_but_those_of_one_alias_in_order() {
    let mut scene = Scene::new();
    let (a, b) = (scene.session("a"), scene.session("b"));
    scene.send(b, [register(&["t"])]);
    scene.commit();
    scene.send(a, [register(&["t"])]);
    scene.fail(Trouble::Full);
    // Subscribed in memory; what ends it must not be written before it.
    let mut link = scene.session("x");
    scene.gone(link);
    assert_eq!(scene.ms(1_000), ["commit "], "nothing but deletions");
    assert_eq!(scene.outcome(Outcome::Committed { refused: Vec::new(), storing: true }), ["commit alias a2=a; subscribe a2 t"]);
    scene.commit();
    scene.send(a, [unregister(&["t"])]);
    scene.fail(Trouble::Full);
    assert_eq!(scene.ms(1_000), ["commit unsubscribe a2 t"]);
    scene.outcome(Outcome::Committed { refused: Vec::new(), storing: false });
    link = scene.session("y");
    assert_eq!(scene.send(link, [register(&["t"])]), ["2: unavailable", "ready 2"]);
}

#[test]
fn info_is_kept_and_the_last_wins() {
    let mut scene = Scene::new();
    let link = scene.session("a");
    scene.send(link, [register_info(&["t"], "{\"n\":1}")]);
    scene.commit();
    assert_eq!(scene.send(link, [register_info(&["t"], "{\"n\":1}")]), ["0: -2", "ready 0"]);
    assert_eq!(scene.send(link, [register_info(&["t"], "{\"n\":2}")]), ["commit alias a1=a"]);
    scene.commit();
    assert_eq!(scene.model.aliases.values().next().unwrap().info.as_deref(), Some("{\"n\":2}"));
}

#[test]
fn topics_and_aliases_are_bounded() {
    let mut scene = Scene::with(crate::limits::Limits { topics_per_alias: 2, aliases: 2, ..limits() });
    let link = scene.session("a");
    assert_eq!(scene.send(link, [register(&["1", "2", "3"])]), ["0: quota topic", "ready 0"]);
    scene.send(link, [register(&["1", "2"])]);
    scene.commit();
    assert_eq!(scene.send(link, [register(&["3"])]), ["0: quota topic", "ready 0"]);
    assert_eq!(scene.send(link, [register(&["2"])]), ["0: -2", "ready 0"]);
    scene.session("b");
    let third = scene.open();
    assert_eq!(scene.send(third, [heartbeat("c")]), ["2: quota alias", "ready 2"]);
}

#[test]
fn links_end_when_they_are_idle_or_never_bind_or_their_token_is_over() {
    let mut scene = Scene::new();
    let expires = WALL / 1_000 + 60;
    let claims = Some(Arc::new(Claims { role: Role::Device, label: Label::new("l").unwrap(), alias: None, expires }));
    let (unbound, bound) = (scene.open(), scene.session("a"));
    let phone = scene.open_over(Transport::SocketIo, None);
    let tokened = scene.open_over(Transport::Tcp, claims);
    let (publisher, member, asker) = (scene.open(), scene.open(), scene.open());
    scene.send(tokened, [heartbeat("b")]);
    scene.send(publisher, [to(&[]).frame()]);
    scene.send(member, [frame_of(door(DoorKind::Door, "r", "u"))]);
    scene.send(asker, [server_info()]);
    assert_eq!(scene.ms(29_900), NONE);
    assert_eq!(scene.ms(1_000), [format!("close {} unbound", unbound.index), format!("close {} unbound", asker.index)]);
    assert_eq!(scene.ms(29_000), NONE);
    assert_eq!(scene.ms(1_000), [format!("close {} bad_token", tokened.index)]);
    scene.send(bound, [heartbeat("")]);
    assert_eq!(scene.ms(119_200), [format!("close {} idle", publisher.index), format!("close {} idle", member.index)]);
    assert_eq!(scene.send(phone, [server_info()]), ["2: -7 channels=1", "ready 2"], "Engine.IO looks after it");
    assert_eq!(scene.ms(179_900), [format!("close {} idle", bound.index)]);
}

#[test]
fn a_sign_of_life_that_is_no_frame_keeps_a_session() {
    let mut scene = Scene::new();
    let (lives, silent) = (scene.session("lives"), scene.session("silent"));
    scene.ms(100_000);
    scene.turn(Input::Heard(lives));
    assert_eq!(scene.ms(81_000), [format!("close {} idle", silent.index)]);
    assert_eq!(scene.ms(100_000), [format!("close {} idle", lives.index)]);
}

#[test]
fn two_refusals_end_a_tcp_link() {
    for (transport, code, ends) in [
        (Transport::Tcp, Code::TooLarge, "close 0 too_large"),
        (Transport::Tcp, Code::BadToken, "close 0 bad_token"),
        (Transport::SocketIo, Code::TooLarge, "ready 0"),
        (Transport::Tcp, Code::BadJson, "ready 0"),
        (Transport::Rest, Code::BadToken, "ready 0"),
    ] {
        let mut scene = Scene::new();
        let link = scene.open_over(transport, None);
        assert_eq!(scene.send(link, [refused(code, "")]), [format!("0: {}", code.as_str()).as_str(), ends]);
    }
}

#[test]
fn void_claims_end_their_links() {
    let mut scene = Scene::new();
    let claims = Arc::new(Claims { role: Role::Manage, label: Label::new("lost").unwrap(), alias: None, expires: 0 });
    scene.open_over(Transport::Tcp, Some(claims));
    scene.open();
    let (_, effects) = scene.call(|hub, now, fx| hub.end_void(now, |claims| claims.label.as_str() == "lost", fx));
    assert_eq!(effects, ["0: bad_token token", "close 0 bad_token"]);
}

#[test]
fn an_alias_of_which_nothing_is_known_is_forgotten_at_once() {
    let mut scene = Scene::new();
    let link = scene.session("a");
    assert_eq!(scene.hub.load().aliases, 1);
    assert_eq!(scene.gone(link), NONE, "it never had a row");
    assert_eq!(scene.hub.load().aliases, 0);
    let link = scene.session("a");
    scene.send(link, [register(&["t"])]);
    scene.commit();
    scene.send(link, [unregister(&["t"])]);
    scene.commit();
    assert_eq!(scene.gone(link), ["commit forget a1"]);
}

#[test]
fn an_alias_is_forgotten_with_its_subscriptions_after_180_days_without_a_session() {
    let mut scene = Scene::new();
    scene.subscriber("away", "t");
    let here = scene.open_over(Transport::SocketIo, None);
    scene.send(here, [heartbeat("here"), register(&["t"])]);
    scene.commit();
    scene.wait(days(179));
    assert_eq!(scene.hub.load().aliases, 2);
    scene.settle();
    scene.wait(days(1));
    assert_eq!(scene.hub.load().aliases, 1);
    scene.settle();
    assert_eq!(scene.model.subscriptions.len(), 1);
    assert_eq!(scene.crashed().hub.alias_status(&alias("here")).0, topics(&["t"])[..]);
}

#[test]
fn what_still_comes_for_an_alias_does_not_keep_its_subscriptions_for_ever() {
    let mut scene = Scene::new();
    scene.subscriber("away", "t");
    let publisher = scene.open_over(Transport::SocketIo, None);
    for _ in 0..9 {
        assert_eq!(scene.hub.alias_status(&alias("away")).0, topics(&["t"])[..]);
        scene.send(publisher, [on(&["t"]).ttl(TIME_TO_LIVE_MAX_S).frame()]);
        scene.settle();
        scene.wait(days(20));
    }
    scene.settle();
    assert_eq!(scene.hub.alias_status(&alias("away")).0, []);
    assert_eq!(scene.crashed().hub.alias_status(&alias("away")).0, []);
    assert_eq!(scene.hub.load().aliases, 1, "one message still waits for it");
    scene.wait(days(10));
    scene.ms(1_000);
    scene.settle();
    assert_eq!(scene.hub.load().aliases, 0);
}

#[test]
fn a_session_that_lasted_for_months_does_not_look_like_months_of_absence_after_a_crash() {
    let mut scene = Scene::new();
    let link = scene.open_over(Transport::SocketIo, None);
    scene.send(link, [heartbeat("a"), register(&["t"])]);
    for _ in 0..200 {
        scene.settle();
        scene.wait(days(1));
    }
    scene.settle();
    let now = scene.now;
    let mut scene = scene.crashed();
    scene.now = now;
    scene.ms(1_000);
    assert_eq!(scene.hub.alias_status(&alias("a")).0, topics(&["t"])[..]);
}

/// The same frame, asked by an event that waits for an acknowledgement.
fn asked(frame: Request) -> Request {
    let call = Some(Call { question: NonZeroU8::MIN, ack: Some(Box::new(17)) });
    Request { num: Some(Num { text: "7".into(), call }), ..frame }
}

#[test]
fn what_has_no_answer_is_acknowledged_where_that_was_asked_for() {
    let mut scene = Scene::new();
    let door = scene.phone("door");
    let phone = scene.phone("m_2");
    for (frame, done) in [
        (ack(&[5]), "1: done #7"),
        (frame_of(door_frame(DoorKind::Phone)), "1: done #7"),
        (answer("r", "u", true, None), "1: done #7"),
        (ack_as("other", &[5]), "1: alias_mismatch alias #7"),
    ] {
        assert_eq!(scene.send(phone, [asked(frame.clone())]), [done, "ready 1"]);
        let unasked = scene.send(phone, [frame]);
        assert!(!unasked.iter().any(|effect| effect.contains("done")), "{unasked:?}");
    }
    let opened = scene.send(phone, [asked(frame_of(door_frame(DoorKind::Open)))]);
    assert!(opened.iter().any(|effect| effect.starts_with("1: -8 false no_door")) && !opened.iter().any(|effect| effect.contains("done")));
    scene.gone(door);
}

fn door_frame(kind: DoorKind) -> crate::protocol::frame::DoorFrame {
    door(kind, "r", "u")
}

#[test]
fn anybody_may_ask_whether_an_alias_is_online() {
    let status = |name: Option<&str>| num("7", Request { body: Body::Status { alias: name.map(alias) }, num: None, token: None });
    let mut scene = Scene::new();
    scene.subscriber("a", "t");
    let link = scene.open_over(Transport::SocketIo, None);
    let answer = |scene: &mut Scene, name| scene.send(link, [status(name)]).swap_remove(0);
    assert_eq!(answer(&mut scene, Some("a")), "0: status a [t] offline #7");
    assert_eq!(answer(&mut scene, Some("nobody")), "0: status nobody [] offline #7");
    assert_eq!(answer(&mut scene, None), "0: missing_field alias #7");
    scene.send(link, [heartbeat("b")]);
    assert_eq!(answer(&mut scene, None), "0: status b [] online #7");
}

#[test]
fn a_session_that_asks_for_its_end_has_it() {
    let mut scene = Scene::new();
    let link = scene.phone("a");
    let leave = Request { body: Body::Leave, num: None, token: None };
    assert_eq!(scene.send(link, [leave, heartbeat("a")]), ["0: done", "close 0 left"]);
    assert!(!scene.call(|hub, _, _| hub.alias_status(&alias("a")).1).0);
}

#[test]
fn an_alias_that_came_with_the_link_binds_without_an_answer() {
    let mut scene = Scene::new();
    scene.session("sender");
    scene.send(LinkId { index: 0, generation: 0 }, [to(&["a"]).frame()]);
    scene.settle();
    let claims = Claims { role: Role::Device, label: Label::new("l").unwrap(), alias: Some(alias("a")), expires: 0 };
    let link = scene.open_over(Transport::SocketIo, Some(Arc::new(claims)));
    let bind = |name: &str| {
        let name = alias(name);
        move |hub: &mut crate::hub::Hub, now, fx: &mut crate::hub::effects::Effects| hub.bind_at_opening(now, link, &name, fx)
    };
    let (refused, effects) = scene.call(bind("b"));
    assert_eq!((refused.map_err(|refusal| refusal.code), effects), (Err(Code::Forbidden), Vec::new()));
    let (bound, effects) = scene.call(bind("a"));
    assert_eq!((bound, effects), (Ok(()), vec!["read 1".to_owned()]), "what is owed is sent, and nothing is answered");
}

#[test]
fn whoever_pings_is_not_the_one_heard_from_longest_ago() {
    let mut scene = Scene::new();
    let phones: Vec<LinkId> = (0..8)
        .map(|_| {
            scene.ms(10);
            scene.phone("family")
        })
        .collect();
    scene.ms(10);
    scene.turn(Input::Heard(phones[0]));
    let ninth = scene.open_over(Transport::SocketIo, None);
    let effects = scene.send(ninth, [heartbeat("family")]);
    assert!(effects.contains(&"close 1 replaced".to_owned()), "{effects:?}");
}
