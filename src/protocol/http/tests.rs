//! The decoder against the cases in `fixtures/http` (their form: README.md there), and against itself on mutations of them.

use super::Decoder;
use super::head::{Framing, Version};
use super::refusal::HttpRefusal;
use crate::seeded::Seeded;

const FIXTURES: [&str; 4] = [
    include_str!("../../../fixtures/http/heads.txt"),
    include_str!("../../../fixtures/http/targets.txt"),
    include_str!("../../../fixtures/http/framing.txt"),
    include_str!("../../../fixtures/http/chunked.txt"),
];

struct Case {
    name: String,
    limit: usize,
    input: Vec<u8>,
    expected: Vec<String>,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in FIXTURES.iter().flat_map(|text| text.lines()) {
        let case = cases.last_mut();
        match (line.split_once(' ').unwrap_or((line, "")), case) {
            (("##", name), _) => cases.push(Case { name: name.into(), limit: 1024, input: Vec::new(), expected: Vec::new() }),
            (("limit", bytes), Some(case)) => case.limit = bytes.parse().unwrap(),
            ((">", text), Some(case)) => case.input.extend(unquote(text)),
            (("=", meaning), Some(case)) => case.expected.push(meaning.into()),
            (("", _) | ("#", _), _) => {}
            _ => panic!("not a line of a case: {line}"),
        }
    }
    cases
}

/// `"text"` or `"text" * n`, its escapes resolved.
fn unquote(text: &str) -> Vec<u8> {
    let (quoted, times) = match text.rsplit_once("\" * ") {
        Some((quoted, times)) => (quoted, times.parse().unwrap()),
        None => (text.strip_suffix('"').unwrap(), 1),
    };
    let mut bytes = Vec::new();
    let mut rest = quoted.strip_prefix('"').unwrap();
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend(plain.bytes());
        let (byte, len) = match escape.as_bytes()[0] {
            b'r' => (b'\r', 1),
            b'n' => (b'\n', 1),
            b't' => (b'\t', 1),
            b'x' => (u8::from_str_radix(&escape[1..3], 16).unwrap(), 3),
            other => (other, 1),
        };
        bytes.push(byte);
        rest = &escape[len..];
    }
    bytes.extend(rest.bytes());
    bytes.repeat(times)
}

/// A decoder whose owner writes down what comes out.
struct Witness {
    decoder: Decoder,
    limit: usize,
    seen: Vec<String>,
    refusal: Option<HttpRefusal>,
}

impl Witness {
    fn new(limit: usize) -> Witness {
        Witness { decoder: Decoder::new(), limit, seen: Vec::new(), refusal: None }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        if let Err(refusal) = self.note_all() {
            assert!(self.refusal.is_none_or(|earlier| earlier == refusal), "a refusal is final");
            self.refusal = Some(refusal);
        }
    }

    fn note_all(&mut self) -> Result<(), HttpRefusal> {
        loop {
            if let Some(body) = self.decoder.next_body()? {
                self.seen.push(show_body(&body));
            }
            let Some(head) = self.decoder.next_head()? else {
                return Ok(());
            };
            let version = if head.version() == Version::Http10 { "1.0" } else { "1.1" };
            let framing = match head.framing() {
                Framing::None => "none".into(),
                Framing::Length(length) => format!("length={length}"),
                Framing::Chunked => "chunked".into(),
            };
            let keep = if head.keeps_alive() { "keep" } else { "close" };
            let mut line = format!("head {} {} {version} {framing} {keep}", head.method(), head.target());
            if head.expects_continue() {
                line.push_str(" continue");
            }
            if let Some(protocol) = head.upgrade() {
                line.push_str(&format!(" upgrade={protocol}"));
            }
            self.seen.push(line);
            for (name, value) in head.headers().filter(|(name, _)| name.starts_with("X-")) {
                assert_eq!(head.header(&name.to_uppercase()), Some(value));
                self.seen.push(format!("{}: {value}", name.to_lowercase()));
            }
            self.decoder.admit_body(self.limit)?;
        }
    }

    /// All that was seen, and the state.
    fn account(mut self) -> Vec<String> {
        self.seen.push(match self.refusal {
            Some(HttpRefusal { status, refusal }) => {
                assert_eq!(self.decoder.bytes_ahead(), 0, "what is refused is not kept");
                format!("refused {status} {:?} {}", refusal.code, refusal.field)
            }
            None if self.decoder.is_idle() => "idle".into(),
            None if self.decoder.awaits_continue() => "continue".into(),
            None => "more".into(),
        });
        self.seen
    }
}

fn show_body(body: &[u8]) -> String {
    if body.len() > 64 {
        return format!("body {} bytes", body.len());
    }
    let escape = |b: &u8| match b {
        b'\r' => "\\r".into(),
        b'\n' => "\\n".into(),
        _ => String::from_utf8_lossy(&[*b]).into_owned(),
    };
    format!("body \"{}\"", body.iter().map(escape).collect::<String>())
}

fn account<'a>(limit: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut witness = Witness::new(limit);
    for piece in pieces {
        witness.push(piece);
    }
    witness.account()
}

#[test]
fn there_is_a_case_for_every_guard() {
    assert!(cases().len() >= 160, "only {} cases were found", cases().len());
}

#[test]
fn cases_read_whole() {
    for case in cases() {
        assert_eq!(account(case.limit, [&case.input[..]]), case.expected, "{}", case.name);
    }
}

#[test]
fn cases_read_byte_by_byte() {
    for case in cases() {
        assert_eq!(account(case.limit, case.input.chunks(1)), case.expected, "{}", case.name);
    }
}

#[test]
fn cases_read_in_two_pieces() {
    for case in cases().iter().filter(|case| case.input.len() <= 1024) {
        for cut in 0..case.input.len() {
            let (front, back) = case.input.split_at(cut);
            assert_eq!(account(case.limit, [front, back]), case.expected, "{} cut at {cut}", case.name);
        }
    }
}

#[test]
fn cases_read_with_another_request_behind() {
    let next = b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n";
    for case in cases() {
        let mut expected = case.expected.clone();
        match expected.last().map(String::as_str) {
            Some("idle") => {
                expected.pop();
                expected.extend(["head GET /behind 1.1 none keep".into(), "body \"\"".into(), "idle".into()]);
            }
            Some("more" | "continue") => continue,
            _ => {}
        }
        assert_eq!(account(case.limit, [&[&case.input[..], next].concat()[..]]), expected, "{}", case.name);
    }
}

/// Whatever comes, the decoder neither panics nor hangs, and what it makes of the bytes does not depend on how they were cut.
#[test]
fn mutations_mean_the_same_however_they_are_cut() {
    let cases = cases();
    for seed in 0..20_000 {
        let mut random = Seeded(seed);
        let case = random.pick(&cases);
        let other = random.pick(&cases);
        let mut input = case.input.clone();
        for _ in 0..=random.below(3) {
            mutate(&mut input, &other.input, &mut random);
        }
        let whole = account(case.limit, [&input[..]]);
        let mut witness = Witness::new(case.limit);
        let mut rest = &input[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(1 + random.below(rest.len().min(300)));
            witness.push(piece);
            rest = behind;
        }
        assert_eq!(witness.account(), whole, "seed {seed}, from {}", case.name);
    }
}

fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Seeded) {
    let at = random.below(input.len() + 1);
    let end = at + random.below((input.len() - at).min(8) + 1);
    match random.below(5) {
        0 => drop(input.drain(at..end)),
        1 => input[at..end].iter_mut().for_each(|b| *b ^= 1 << random.below(8)),
        2 => {
            let len = 1 + random.below(4);
            drop(input.splice(at..at, random.bytes(len)));
        }
        3 => {
            let tokens: [&[u8]; 8] = [b"\r\n", b"\n", b"\r", b"0", b" ", b";", b"\r\n\r\n", b"Transfer-Encoding: chunked\r\n"];
            let token = *random.pick(&tokens);
            drop(input.splice(at..end, token.iter().copied()));
        }
        _ => {
            let from = random.below(other.len() + 1);
            drop(input.splice(at.., other[from..].iter().copied()));
        }
    }
}

#[test]
fn a_decoder_between_requests_holds_no_memory() {
    let mut witness = Witness::new(1024);
    witness.push(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert!(witness.decoder.is_idle());
    assert_eq!(witness.decoder.input.capacity(), 0);
    witness.push(b"\r\n");
    assert_eq!(witness.decoder.input.capacity(), 0);
}

/// Memory follows the bytes that came: a claimed gigabyte costs nothing.
#[test]
fn a_claimed_length_is_not_reserved() {
    let mut decoder = Decoder::new();
    decoder.push(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nabc");
    assert!(decoder.next_head().unwrap().is_some());
    decoder.admit_body(1 << 30).unwrap();
    assert_eq!(decoder.next_body(), Ok(None));
    match &decoder.state {
        super::State::Body { body, .. } => assert!(body.bytes_held() <= 64),
        other => panic!("{other:?}"),
    }
}
