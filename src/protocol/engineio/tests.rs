//! The codecs against the cases in `fixtures/engineio` (their form: README.md there), against naive twins, and on random bytes.

use super::Malformed;
use super::connection::{Connection, Input, Output, RequestId};
use super::packet::{Data, Kind, Packet};
use super::payload::{Answer, Body, Encoding, Format, ascii};
use super::request::{BadRequest, Query, Route, Sid, Transport, open};
use crate::limits::{POLL_BYTES_MAX, POLL_PACKETS_MAX};
use crate::seeded::Seeded;

const PAYLOADS: &str = include_str!("../../../fixtures/engineio/payloads.txt");
const FRAMES: &str = include_str!("../../../fixtures/engineio/frames.txt");
const ANSWERS: &str = include_str!("../../../fixtures/engineio/answers.txt");
const REQUESTS: &str = include_str!("../../../fixtures/engineio/requests.txt");

/// The cases of a fixture: what comes, and the lines that say what it means.
fn cases(fixture: &'static str) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut cases: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in fixture.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("> ") {
            Some(input) => cases.push((input, Vec::new())),
            None => cases.last_mut().unwrap().1.push(line.strip_prefix("= ").unwrap_or(line)),
        }
    }
    cases
}

/// `"text"` or `"text" * n`, its escapes resolved.
fn unquote(text: &str) -> Vec<u8> {
    let (quoted, times) = text.rsplit_once("\" * ").map_or((text, 1), |(quoted, times)| (quoted, times.parse().unwrap()));
    let mut bytes = Vec::new();
    let mut rest = quoted.strip_prefix('"').unwrap().trim_end_matches('\n');
    rest = if times == 1 { rest.strip_suffix('"').unwrap() } else { rest };
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let used = match rest.as_bytes()[at + 1] {
            b'x' => {
                bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
                4
            }
            b'n' => {
                bytes.push(b'\n');
                2
            }
            b'r' => {
                bytes.push(b'\r');
                2
            }
            byte => {
                bytes.push(byte);
                2
            }
        };
        rest = &rest[at + used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes.repeat(times)
}

fn describe(packet: Result<Packet<'_>, Malformed>) -> String {
    match packet {
        Err(malformed) => format!("malformed {malformed:?}"),
        Ok(Packet { kind, data: Data::Text(text) }) => format!("{kind:?} {text:?}").to_lowercase_first(),
        Ok(Packet { kind, data: Data::Binary(bytes) }) => {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{kind:?} <{}>", hex.join(" ")).to_lowercase_first()
        }
    }
}

trait LowercaseFirst {
    fn to_lowercase_first(self) -> String;
}

impl LowercaseFirst for String {
    fn to_lowercase_first(mut self) -> String {
        self[..1].make_ascii_lowercase();
        self
    }
}

/// All packets of a body, or what was wrong with it.
fn packets(format: Format, body: &[u8]) -> Vec<String> {
    match Body::new(format, body) {
        Ok(body) => body.packets().map(describe).collect(),
        Err(malformed) => vec![describe(Err(malformed))],
    }
}

#[test]
fn bodies_mean_what_the_fixture_says() {
    let mut wrong = Vec::new();
    for (case, expected) in cases(PAYLOADS) {
        let (format, body) = case.split_once(' ').unwrap();
        let format = match format {
            "text" => Format::Text,
            "binary" => Format::Binary,
            _ => Format::Form,
        };
        let seen = packets(format, &unquote(body));
        if seen != expected {
            wrong.push(format!("{case}: {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn frames_mean_what_the_fixture_says() {
    for (case, expected) in cases(FRAMES) {
        let (format, frame) = case.split_once(' ').unwrap();
        let frame = unquote(frame);
        let packet = match format {
            "text" => Packet::from_text(std::str::from_utf8(&frame).unwrap()),
            _ => Packet::from_binary(&frame),
        };
        assert_eq!([describe(packet)], expected[..], "{case}");
    }
}

#[test]
fn answers_are_the_fixtures_bytes() {
    let mut queue: Vec<Vec<u8>> = Vec::new();
    for (packet, encodings) in cases(ANSWERS) {
        queue.push(unquote(packet));
        for line in &encodings {
            let (encoding, body) = line.split_once(" = ").unwrap();
            let encoding = match encoding {
                "text" => Encoding::Text,
                "binary" => Encoding::Binary,
                _ => Encoding::Jsonp(2),
            };
            let mut answer = Answer::new(encoding);
            assert!(queue.iter().all(|packet| answer.push(packet)));
            assert_eq!(String::from_utf8_lossy(&answer.into_body()), String::from_utf8_lossy(&unquote(body)), "{line}");
        }
        if !encodings.is_empty() {
            queue.clear();
        }
    }
}

#[test]
fn requests_mean_what_the_fixture_says() {
    for (case, expected) in cases(REQUESTS) {
        let mut words: Vec<&str> = case.split(' ').collect();
        let query = words.pop().unwrap().trim_start_matches('-');
        let session = match words.pop().unwrap() {
            "polling" => Some(Transport::Polling),
            "websocket" => Some(Transport::Websocket),
            _ => None,
        };
        let route = Query::parse(query).and_then(|query| {
            let route = query.route(words[0], words.get(1) == Some(&"upgrade"), session)?;
            Ok((query, route))
        });
        let meaning = match route {
            Err(refusal) => format!("{} {}", refusal.status(), refusal.json()).trim_end().to_owned(),
            Ok((query, Route::Handshake(transport))) => {
                let base64 = if query.base64 { " base64" } else { "" };
                let jsonp = query.jsonp.map_or(String::new(), |index| format!(" jsonp {index}"));
                format!("handshake {}{base64}{jsonp}", format!("{transport:?}").to_lowercase())
            }
            Ok((_, Route::Poll(_))) => "poll".into(),
            Ok((_, Route::Post(_))) => "post".into(),
            Ok((_, Route::Upgrade(_))) => "upgrade".into(),
        };
        assert_eq!([meaning.as_str()], expected[..], "{case}");
    }
}

#[test]
fn a_refused_upgrade_says_the_message_alone() {
    assert_eq!(BadRequest::UnknownSid.message(), "Session ID unknown");
    assert_eq!(BadRequest::Version.message(), "Unsupported protocol version");
    assert_eq!(BadRequest::Method.message(), "");
}

#[test]
fn the_open_packet_has_four_members() {
    let sid = Sid::new(*b"\0\0\0\xff\xff\xff\xfb\xff\xbf123456");
    let text = |transport| {
        let mut out = Vec::new();
        open(&sid, transport, &mut out);
        String::from_utf8(out).unwrap()
    };
    let expected = r#"0{"sid":"AAAA____-_-_MTIzNDU2","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":60000}"#;
    assert_eq!(text(Transport::Polling), expected);
    assert_eq!(text(Transport::Websocket), expected.replace(r#""websocket""#, ""));
    assert_eq!(Sid::parse(sid.as_str()), Some(sid));
    for bad in ["", "AAAA", "AAAAAAAAAAAAAAAAAAA+", "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAA\u{e9}"] {
        assert_eq!(Sid::parse(bad), None, "{bad}");
    }
}

#[test]
fn the_content_type_decides_by_its_media_type_alone() {
    for (content_type, is_jsonp, format) in [
        (Some("application/octet-stream"), false, Format::Binary),
        (Some("Application/Octet-Stream; charset=x"), true, Format::Binary),
        (Some("application/x-www-form-urlencoded"), true, Format::Form),
        (Some("application/x-www-form-urlencoded;charset=utf-8"), false, Format::Text),
        (Some("text/plain;charset=UTF-8"), false, Format::Text),
        (Some("text/plain;charset=application/octet-stream"), false, Format::Text),
        (None, true, Format::Text),
    ] {
        assert_eq!(Format::of(content_type, is_jsonp), format, "{content_type:?}");
    }
}

#[test]
fn an_answer_holds_sixteen_packets_and_a_megabyte() {
    for encoding in [Encoding::Text, Encoding::Binary, Encoding::Jsonp(7)] {
        let mut answer = Answer::new(encoding);
        let fit = (0..40).take_while(|_| answer.push(b"42[1]")).count();
        assert_eq!((fit, answer.packets()), (POLL_PACKETS_MAX, POLL_PACKETS_MAX), "{encoding:?}");
        assert!(!answer.push(b""), "an answer that is full stays full");

        let large = vec![b'4'; POLL_BYTES_MAX + 1];
        let mut answer = Answer::new(encoding);
        assert!(answer.push(&large), "the first packet always fits");
        assert!(!answer.push(b"6"));
        let mut answer = Answer::new(encoding);
        assert!(answer.push(b"6"));
        assert!(!answer.push(&large));
        assert!(answer.push(b"6"), "a smaller one may still fit");
        assert!(answer.push(&vec![b'4'; POLL_BYTES_MAX / 2]));
        assert!(!answer.push(&vec![b'4'; POLL_BYTES_MAX / 2]));
        assert!(answer.into_body().len() <= POLL_BYTES_MAX);
    }
}

#[test]
fn a_million_packets_of_one_byte_are_read_one_by_one() {
    for (format, body) in [(Format::Text, b"1:6".repeat(1_000_000)), (Format::Binary, b"\x00\x01\xff6".repeat(1_000_000))] {
        let body = Body::new(format, &body).unwrap();
        let count = body.packets().filter(|packet| matches!(packet, Ok(Packet { kind: Kind::Noop, .. }))).count();
        assert_eq!(count, 1_000_000);
    }
    let zeros = b"0:".repeat(500_000);
    assert_eq!(Body::new(Format::Text, &zeros).unwrap().packets().count(), 0);
}

/// A string payload as JavaScript's clients read it: over UTF-16 units, without a thought for speed.
fn naive_text(body: &str) -> Vec<String> {
    let units: Vec<u16> = body.encode_utf16().collect();
    let mut seen = Vec::new();
    let mut at = 0;
    while at < units.len() {
        let Some(colon) = units[at..].iter().position(|unit| *unit == u16::from(b':')) else {
            seen.push("malformed Framing".into());
            break;
        };
        let digits = String::from_utf16_lossy(&units[at..at + colon]);
        let plain = (1..=10).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        let end = plain.then(|| at + colon + 1 + digits.parse::<usize>().unwrap()).filter(|end| *end <= units.len());
        let Some(text) = end.and_then(|end| String::from_utf16(&units[at + colon + 1..end]).ok()) else {
            seen.push("malformed Framing".into());
            break;
        };
        at = end.unwrap();
        // A lone surrogate on the other side of the cut shows there.
        if String::from_utf16(&units[at..]).is_err() {
            seen.push("malformed Framing".into());
            break;
        }
        if text.is_empty() {
            continue;
        }
        let once = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>();
        let once = once.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or(text);
        let packet = describe(Packet::from_text(once));
        let ends = packet.starts_with("malformed");
        seen.push(packet);
        if ends {
            break;
        }
    }
    seen
}

/// A binary payload, likewise.
fn naive_binary(body: &[u8]) -> Vec<String> {
    let mut seen = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let packet = (|| {
            let end = rest[1..].iter().position(|byte| *byte == 0xff)? + 1;
            let digits = &rest[1..end];
            if rest[0] > 1 && end > 1 || !(1..=10).contains(&digits.len()) || digits.iter().any(|digit| *digit > 9) {
                return None;
            }
            let length = digits.iter().fold(0, |length, digit| length * 10 + usize::from(*digit));
            let packet = rest.get(end + 1..end + 1 + length)?;
            Some((rest[0], packet, &rest[end + 1 + length..]))
        })();
        let Some((marker, packet, after)) = packet else {
            seen.push("malformed Framing".into());
            break;
        };
        rest = after;
        if packet.is_empty() {
            continue;
        }
        let packet = match (marker, std::str::from_utf8(packet)) {
            (0, Ok(text)) => describe(Packet::from_text(text)),
            (0, Err(_)) => "malformed Utf8".into(),
            _ => describe(Packet::from_binary(packet)),
        };
        let ends = packet.starts_with("malformed");
        seen.push(packet);
        if ends {
            break;
        }
    }
    seen
}

/// Bytes that are nearly a payload.
fn nearly_a_payload(random: &mut Seeded) -> Vec<u8> {
    const TEXTS: [&str; 12] = ["4", "2", "2probe", "42[\"a\"]", "中", "😀", "4é", "4Ã©", "b4AQ==", "b4", ":", "9"];
    let mut body = Vec::new();
    for _ in 0..random.below(5) {
        let text: String = (0..random.below(4)).map(|_| *random.pick(&TEXTS)).collect();
        let lie = [0, 0, 0, 0, 1, 2][random.below(6)];
        if random.below(2) == 0 {
            body.extend_from_slice(format!("{}:{text}", text.encode_utf16().count() + lie).as_bytes());
        } else {
            body.push(random.below(2) as u8);
            body.extend((text.len() + lie).to_string().bytes().map(|digit| digit - b'0'));
            body.push(0xff);
            body.extend_from_slice(text.as_bytes());
        }
    }
    for _ in 0..random.below(3) {
        if !body.is_empty() {
            let at = random.below(body.len());
            match random.below(3) {
                0 => body[at] = random.next_u64() as u8,
                1 => drop(body.remove(at)),
                _ => body.truncate(at),
            }
        }
    }
    body
}

#[test]
fn bodies_are_read_as_a_naive_twin_reads_them() {
    let mut random = Seeded(0x0e10_0001);
    for _ in 0..60_000 {
        let body = if random.below(4) == 0 {
            let len = random.below(30);
            random.bytes(len)
        } else {
            nearly_a_payload(&mut random)
        };
        if body.is_empty() {
            continue;
        }
        match std::str::from_utf8(&body) {
            Ok(text) => assert_eq!(packets(Format::Text, &body), naive_text(text), "{text:?}"),
            Err(_) => assert_eq!(packets(Format::Text, &body), ["malformed Utf8"]),
        }
        assert_eq!(packets(Format::Binary, &body), naive_binary(&body), "{body:?}");
        let form = [b"d=", &body[..]].concat();
        let data: usize = Body::new(Format::Form, &form).map_or(0, |body| body.packets().count());
        assert!(data <= form.len());
    }
}

/// What a client's reader makes of an answer.
fn read_back(encoding: Encoding, body: &[u8]) -> Vec<String> {
    match encoding {
        Encoding::Text => packets(Format::Text, body),
        Encoding::Binary => packets(Format::Binary, body),
        Encoding::Jsonp(_) => {
            let call = std::str::from_utf8(body).unwrap();
            let argument = call.strip_prefix("___eio[3](").unwrap().strip_suffix(");").unwrap();
            packets(Format::Text, serde_json::from_str::<String>(argument).unwrap().as_bytes())
        }
    }
}

#[test]
fn answers_come_back_as_they_were_whoever_counts() {
    let alphabet: Vec<char> = "a\"\\/ é中😀\u{2028}\u{ff}\u{80}b:1\t".chars().collect();
    let mut random = Seeded(0x0e10_0002);
    for _ in 0..5_000 {
        let queue: Vec<String> = (0..1 + random.below(5))
            .map(|_| {
                let text: String = (0..random.below(9)).map(|_| *random.pick(&alphabet)).collect();
                let mut json = b"42".to_vec();
                crate::protocol::encode::string(&text, &mut json);
                String::from_utf8(json).unwrap()
            })
            .collect();
        for encoding in [Encoding::Text, Encoding::Binary, Encoding::Jsonp(3)] {
            let mut answer = Answer::new(encoding);
            assert!(queue.iter().all(|packet| answer.push(packet.as_bytes())));
            let body = answer.into_body();
            let body_text = body.iter().filter(|byte| **byte > 9 && **byte != 0xff).copied().collect::<Vec<u8>>();
            assert!(body_text.is_ascii());
            let seen = read_back(encoding, &body);
            assert_eq!(seen.len(), queue.len());
            for (seen, sent) in seen.iter().zip(&queue) {
                // The fixtures' words quote as Rust does: undone, then read as JSON, it is the text that was sent.
                let mut escaped = Vec::new();
                ascii(&sent[1..], &mut escaped);
                assert_eq!(*seen, format!("message {:?}", String::from_utf8(escaped).unwrap()));
                let json = |text: &str| serde_json::from_str::<String>(text).unwrap();
                let mut escaped = Vec::new();
                ascii(&sent[2..], &mut escaped);
                assert_eq!(json(std::str::from_utf8(&escaped).unwrap()), json(&sent[2..]));
            }
        }
    }
}

#[test]
fn base64_is_read_as_it_is_written() {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random = Seeded(0x0e10_0003);
    for _ in 0..2_000 {
        let len = random.below(40);
        let bytes = random.bytes(len);
        // Bit by bit.
        let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1)).collect();
        let mut text: String = bits
            .chunks(6)
            .map(|six| char::from(DIGITS[(0..6).fold(0, |value, place| value << 1 | usize::from(*six.get(place).unwrap_or(&0)))]))
            .collect();
        while !text.len().is_multiple_of(4) {
            text.push('=');
        }
        let packet = Packet::from_text(format!("b4{text}")).unwrap();
        assert_eq!(packet, Packet { kind: Kind::Message, data: Data::Binary(bytes.into()) });
    }
}

#[test]
fn random_text_is_a_packet_or_refused_and_a_query_is_read_or_refused() {
    let mut random = Seeded(0x0e10_0004);
    let parts = ["EIO", "=", "3", "&", "transport", "polling", "websocket", "sid", "%", "%4", "%ff", "b64", "j", "9", "+", "中", "\0"];
    for _ in 0..30_000 {
        let len = random.below(12);
        let bytes = random.bytes(len);
        let _ = Packet::from_binary(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        let _ = Packet::from_text(text.clone());
        let _ = Query::parse(&text);
        let query: String = (0..random.below(14)).map(|_| *random.pick(&parts)).collect();
        let _ = Query::parse(&format!("EIO=3&transport=polling&{query}"));
    }
}

#[test]
fn the_short_way_takes_a_message_only_by_the_websocket_that_the_session_lives_on() {
    let message = Packet::from_text("4x").unwrap();
    let mut machine = Connection::on_websocket(RequestId(0), 0);
    let (mut same, mut out) = (Connection::on_websocket(RequestId(0), 0), Vec::new());
    assert!(!machine.takes_message(RequestId(1), 5) && machine.takes_message(RequestId(0), 7));
    same.handle(Input::Packet(RequestId(0), &message), 7, &mut out);
    assert_eq!((out, machine.deadline()), (vec![Output::Deliver], same.deadline()));
    machine.handle(Input::WebsocketGone(RequestId(0)), 8, &mut Vec::new());
    assert!(!machine.takes_message(RequestId(0), 9));
    let mut polling = Connection::on_polling(0);
    polling.handle(Input::PostArrived(RequestId(2)), 1, &mut Vec::new());
    assert!(!polling.takes_message(RequestId(2), 2));
}
