//! A hub that learns late what is stored, since the disk did not allow it at the start (Protocol §4, Design §6).

use super::scene::*;
use crate::hub::restore::Numbers;
use crate::hub::storage::{AliasId, AliasRecord, KeyRecord, Outcome, Owed, Restored, Stamp};
use crate::names::{Alias, Mid, Topic};
use crate::protocol::refusal::{Code, Refusal};

fn alias(id: u64, name: &str) -> Restored {
    Restored::Alias(AliasRecord {
        id: AliasId(id),
        name: Alias::new(name).unwrap(),
        first_seen: 1,
        last_seen: 2,
        last_seen_service: 3,
        transport: None,
        info: None,
    })
}

fn message(mid: u64, receivers: &[u64]) -> Restored {
    let receivers = receivers.iter().map(|id| Owed { alias: AliasId(*id), topic: None }).collect();
    Restored::Message { mid: Mid::new(mid), expires: u64::MAX, ts: 1, bytes: 1, receipt: false, publisher: None, receivers }
}

/// What an earlier run stored: two aliases, one of them subscribed, a message to both, and a key.
fn stored() -> Vec<Restored> {
    let counters = Restored::Counters { stamp: Stamp::default(), newest_wall: 0, next_alias: AliasId(9), first_mid: Mid::new(1) };
    let publisher = "address:10.0.0.1".into();
    let key = KeyRecord { publisher, id: "k".into(), at: u64::MAX, mid: Mid::new(8), online: 0, stored: 2 };
    let subscription = Restored::Subscription(AliasId(4), Topic::new("news").unwrap());
    vec![counters, alias(4, "a"), alias(7, "b"), subscription, message(8, &[4, 7]), Restored::Key(key)]
}

fn waiting() -> Scene {
    let mut scene = Scene::late();
    scene.ms(1_000);
    scene
}

fn restore(scene: &mut Scene, numbers: &mut Numbers, piece: Vec<Restored>, last: bool) -> Vec<String> {
    scene.call(|hub, now, _| hub.restore(now, numbers, piece, last)).1
}

#[test]
fn before_it_knows_it_refuses_what_it_would_have_to_guess() {
    let mut scene = waiting();
    let publisher = scene.open();
    for frame in [on(&["news"]).frame(), to(&["a"]).id("k").frame(), to(&["a"]).frame(), on(&["news"]).ttl(0).frame()] {
        assert_eq!(scene.send(publisher, [frame]), ["0: unavailable", "ready 0"]);
    }
    let a = scene.session("a");
    let first = "1099511627776";
    let live = [format!("push live {first} to 1"), format!("0: -6 {first} online=1 stored=0"), "ready 0".into()];
    assert_eq!(scene.send(publisher, [to(&["a"]).ttl(0).frame()]), live);
    for frame in [pull("a"), get_topic(), register(&["news"])] {
        assert_eq!(scene.send(a, [frame]), ["1: unavailable", "ready 1"]);
    }
    // A recall of what may be stored; what it knows it ends, and afterwards what is nowhere is not found.
    let recall = |scene: &mut Scene, mid| scene.recall(mid).0;
    assert_eq!(recall(&mut scene, 8), Err(Refusal::new(Code::Unavailable, "")));
    restore(&mut scene, &mut Numbers::default(), stored(), true);
    assert_eq!((recall(&mut scene, 8), recall(&mut scene, 9)), (Ok(2), Err(Refusal::new(Code::NotFound, "mid"))));
}

#[test]
fn what_it_learns_late_goes_to_who_is_there_and_counts_from_then_on() {
    let mut scene = waiting();
    let (publisher, a) = (scene.open(), scene.session("a"));
    let mut numbers = Numbers::default();
    let mut pieces = stored();
    let second = pieces.split_off(3);
    restore(&mut scene, &mut numbers, pieces, false);
    // An alias that is not here must not be forgotten between two pieces.
    scene.gone(a);
    (0..20).for_each(|_| drop(scene.ms(1_000)));
    let a = scene.session("a");
    let effects = restore(&mut scene, &mut numbers, second, true);
    assert_eq!(effects, ["read 8"], "its session is brought level");
    assert_eq!((scene.hub.load().aliases, scene.hub.load().deliveries), (2, 2));
    scene.outcome(Outcome::Committed { refused: Vec::new(), storing: true });
    let answered = scene.send(publisher, [to(&["a"]).id("k").frame()]);
    assert_eq!(answered[0], "0: -6 8 online=0 stored=2", "the key is known");
    let published = scene.send(publisher, [on(&["news"]).frame()]);
    assert!(published.contains(&"commit save 1099511627776 to a4".to_owned()), "its subscription is known: {published:?}");
    assert_eq!(scene.send(a, [get_topic()])[0], format!("{}: -3 news", a.index));
}

#[test]
fn a_piece_that_comes_again_changes_nothing() {
    let mut scene = waiting();
    let mut numbers = Numbers::default();
    restore(&mut scene, &mut numbers, stored(), false);
    restore(&mut scene, &mut numbers, stored(), true);
    let load = scene.hub.load();
    assert_eq!((load.aliases, load.deliveries, load.bodies), (2, 2, 1));
}
