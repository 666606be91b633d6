//! What a server in a community costs: the memory of idle controllers, and of a reader that has stopped.
//!
//! Resident memory as /proc shows it, always a difference between two states of one warmed-up process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::clients::Client;
use crate::porter::{DEADLINE, Folder, Porter};

/// Sessions before the growth is measured: tables, buffers and the allocator's first arenas are there.
const WARM: usize = 1_000;
/// Sessions at its end.
const MANY: usize = 6_000;
/// Bytes of resident memory that an idle session may cost.
const SESSION_BYTES_MAX: u64 = 2_048;
/// Bytes of the bodies that a stopped reader is owed.
const OWED_BYTES: usize = 8 << 20;
/// Bytes of resident memory that they may cost.
const READER_BYTES_MAX: i64 = 1 << 20;
/// Publishes without an answer.
const OUTSTANDING: usize = 64;

fn resident_bytes(porter: &Porter) -> i64 {
    i64::try_from(porter.memory_kb("VmRSS")).unwrap() * 1_024
}

/// As many descriptors as this process may have: it is the peer of thousands of connections.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

/// Controllers that connect, bind, send a heartbeat and are idle.
fn connect(address: SocketAddr, controllers: &mut Vec<TcpStream>, up_to: usize) {
    let new = controllers.len()..up_to;
    for number in new.clone() {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("{{\"t\":1,\"alias\":\"door-{number:06}\"}}\n").as_bytes()).unwrap();
        controllers.push(stream);
    }
    for number in new {
        let expected = format!("{{\"t\":-1,\"alias\":\"door-{number:06}\"}}\n");
        let mut answer = vec![0; expected.len()];
        controllers[number].read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected);
    }
}

#[test]
fn an_idle_controller_costs_less_than_2_kb() {
    raise_descriptor_limit();
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    let mut controllers = Vec::new();
    connect(porter.tcp, &mut controllers, WARM);
    let before = resident_bytes(&porter);
    connect(porter.tcp, &mut controllers, MANY);
    let grown = resident_bytes(&porter) - before;
    let each = grown as u64 / (MANY - WARM) as u64;
    eprintln!("an idle controller: {each} bytes ({before} resident bytes with {WARM}, {grown} more with {MANY})");
    assert!(grown > 0 && each < SESSION_BYTES_MAX, "{each} bytes for an idle session");
}

/// Binds an alias whose client then reads nothing, and publishes 8 MB to it, all committed.
fn owe(porter: &Porter, alias: &str) -> Client {
    let stopped = Client::bound(porter.tcp, alias);
    let mut publisher = Client::connect(porter.tcp);
    let (mut sent, mut unanswered, mut number) = (0, 0, 0);
    while sent < OWED_BYTES || unanswered > 0 {
        if sent < OWED_BYTES && unanswered < OUTSTANDING {
            let body = "x".repeat(4_000 + number % 8 * 512);
            publisher.send(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":"{body}","num":{number}}}"#));
            (sent, unanswered, number) = (sent + body.len(), unanswered + 1, number + 1);
        } else {
            let answer = publisher.json();
            assert_eq!(answer["t"], -6, "{answer}");
            unanswered -= 1;
        }
    }
    stopped
}

#[test]
fn a_reader_that_stops_with_8_mb_owed_costs_less_than_1_mb() {
    let folder = Folder::new();
    let porter = Porter::start(&folder);
    // The first is the warm-up: what the store, the hub and the publisher's link take is there, and stays.
    let mut stopped = vec![owe(&porter, "stopped-0")];
    let mut costs = Vec::new();
    for number in 1..4 {
        let before = resident_bytes(&porter);
        stopped.push(owe(&porter, &format!("stopped-{number}")));
        costs.push(resident_bytes(&porter) - before);
    }
    eprintln!("a stopped reader: {costs:?} bytes");
    costs.sort_unstable();
    assert!(costs[1] < READER_BYTES_MAX, "{costs:?} bytes for a reader that has stopped");
}
