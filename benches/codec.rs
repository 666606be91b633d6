//! The codecs' hot paths: lines, frames and HTTP, each as busy links have them.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark that can't go on has failed, and speaks")]

mod micro;

use std::hint::black_box;
use std::process::ExitCode;

use micro::Workload;
use porter::names::{Alias, Mid};
use porter::protocol::frame::{Body, Message, Num, Published, Reply};
use porter::protocol::http::Decoder;
use porter::protocol::http::response::{Afterwards, Response};
use porter::protocol::line::Lines;
use porter::protocol::refusal::Language;
use porter::protocol::{decode, encode};

const PUBLISH: &str =
    r#"{"t":6,"method":"publish_to_alias","alias":"door-3-1","msg":"a message of some length: ring, open or a notice","num":17}"#;

fn main() -> ExitCode {
    micro::main(&[
        Workload { name: "lines", run: lines, size: 1_000_000 },
        Workload { name: "decode-publish", run: decode_publish, size: 500_000 },
        Workload { name: "decode-heartbeat", run: decode_heartbeat, size: 1_000_000 },
        Workload { name: "decode-acknowledgement", run: decode_acknowledgement, size: 2_000_000 },
        Workload { name: "encode-published", run: encode_published, size: 2_000_000 },
        Workload { name: "encode-push", run: encode_push, size: 1_000_000 },
        Workload { name: "encode-push-shared", run: encode_push_shared, size: 2_000_000 },
        Workload { name: "http-push", run: http_push, size: 200_000 },
    ])
}

/// Cuts reads of 64 lines.
fn lines(size: u64) {
    let read = format!("{PUBLISH}\n").repeat(64);
    let mut lines = Lines::new(64 << 10);
    let mut cut = 0;
    while cut < size {
        let mut input = read.as_bytes();
        while let Some(line) = lines.next(&mut input).unwrap() {
            assert_eq!(black_box(line).len(), PUBLISH.len());
            cut += 1;
        }
    }
}

fn decode_publish(size: u64) {
    for _ in 0..size {
        assert!(matches!(decode::request(black_box(PUBLISH.as_bytes())).body, Body::Publish(_)));
    }
}

fn decode_heartbeat(size: u64) {
    for _ in 0..size {
        assert!(matches!(decode::request(black_box(br#"{"t":1,"alias":"door-3-1"}"#)).body, Body::Bind { .. }));
    }
}

fn decode_acknowledgement(size: u64) {
    for _ in 0..size {
        assert!(matches!(decode::request(black_box(br#"{"t":-5,"mid":"1099511627776"}"#)).body, Body::Acknowledge { .. }));
    }
}

fn encode_published(size: u64) {
    let mut out = Vec::new();
    for mid in 0..size {
        let published = Published { mid: Mid::new((1 << 40) + mid), online: 1, stored: 0 };
        out.clear();
        encode::reply(&Reply::Published(published, Some(Num::new("17"))), Language::En, &mut out);
        assert_eq!(black_box(&out).last(), Some(&b'}'));
    }
}

fn message(mid: u64) -> Message {
    let (topics, body) = (Box::from([]), format!("\"{}\"", "x".repeat(100)).into());
    Message { mid: Mid::new(mid), ts: 1_700_000_000_000, expires: 0, topics, receipt: false, publisher: None, body }
}

/// A message to one receiver.
fn encode_push(size: u64) {
    let (mut push, mut out, message, alias) = (encode::Push::new(), Vec::new(), message(1 << 40), Alias::new("door-3-1").unwrap());
    for _ in 0..size {
        out.clear();
        push.render(black_box(&message));
        push.write(&alias, None, false, &mut out);
        assert_eq!(black_box(&out).last(), Some(&b'}'));
    }
}

/// A message to all receivers: rendered once, written for each.
fn encode_push_shared(size: u64) {
    let (mut push, mut out, alias) = (encode::Push::new(), Vec::new(), Alias::new("door-3-1").unwrap());
    push.render(&message(1 << 40));
    for _ in 0..size {
        out.clear();
        push.write(black_box(&alias), None, false, &mut out);
        assert_eq!(black_box(&out).last(), Some(&b'}'));
    }
}

/// A push over REST: head, body, frame, answer.
fn http_push(size: u64) {
    let token = "a".repeat(96);
    let length = PUBLISH.len();
    let request = format!(
        "POST /push/{token} HTTP/1.1\r\nHost: 10.0.0.2:9900\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{PUBLISH}"
    );
    let (mut decoder, mut out) = (Decoder::new(), Vec::new());
    for _ in 0..size {
        decoder.push(black_box(request.as_bytes()));
        let head = decoder.next_head().unwrap().unwrap();
        assert_eq!(head.method(), "POST");
        decoder.admit_body(64 << 10).unwrap();
        let body = decoder.next_body().unwrap().unwrap();
        assert!(matches!(decode::rest_request(&body).body, Body::Publish(_)));
        out.clear();
        Response::new(200, "application/json", "{\"t\":-6}").encode_head(Afterwards::Keep, &mut out);
        assert!(black_box(&out).ends_with(b"\r\n\r\n"));
    }
}
