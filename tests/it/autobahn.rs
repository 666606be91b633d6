//! The cases of the Autobahn suite's groups 1 to 7, 9 and 10 as bytes and expectations, under its numbers: each in a fresh
//! one-to-one room with a callee that echoes. Its limits are lifted as far as the cases need.

use std::io::Write;
use std::net::Shutdown;

use crate::clients::{Heard, WebSocket, masked};
use crate::porter::{Porter, Site};

/// One frame: its first byte, its payload.
type Frame = (u8, Vec<u8>);

/// How the bytes are cut into writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Whole,
    Frames,
    Bytes(usize),
}

/// What must come, apart from echoes that a failure may overtake.
enum Expect {
    /// These, in order, and then the connection still works.
    Echo(Vec<Heard>),
    /// One of these close codes; before it perhaps some of what was sent before.
    Fails(&'static [u16]),
    /// A close that answers the peer's with this code; before it these.
    Closes(Vec<Heard>, u16),
}

struct Case {
    number: String,
    frames: Vec<Frame>,
    cut: Cut,
    expect: Expect,
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

fn frame(first: u8, payload: impl AsRef<[u8]>) -> Frame {
    (first, payload.as_ref().to_vec())
}

fn text(payload: impl AsRef<[u8]>) -> Heard {
    Heard::Text(String::from_utf8(payload.as_ref().to_vec()).unwrap())
}

fn pong(payload: &[u8]) -> Heard {
    Heard::Pong(payload.to_vec())
}

struct Cases(Vec<Case>);

impl Cases {
    fn add(&mut self, number: &str, cut: Cut, frames: Vec<Frame>, expect: Expect) {
        self.0.push(Case { number: number.to_owned(), frames, cut, expect });
    }

    /// The same frames under several numbers, cut in the suite's three ways.
    fn in_all_cuts(&mut self, numbers: [&str; 3], frames: &[Frame], expect: fn() -> Expect) {
        for (number, cut) in numbers.into_iter().zip([Cut::Whole, Cut::Frames, Cut::Bytes(1)]) {
            self.add(number, cut, frames.to_vec(), expect());
        }
    }

    fn utf8(&mut self, number: &str, hex: &str) {
        let bytes = from_hex(hex);
        let expect = if std::str::from_utf8(&bytes).is_ok() { Expect::Echo(vec![text(&bytes)]) } else { Expect::Fails(&[1007]) };
        self.add(number, Cut::Whole, vec![frame(TEXT, bytes)], expect);
    }
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Plays all cases, several at a time: most of them wait for a close.
fn play(porter: &Porter, cases: Vec<Case>) {
    let cases: Vec<Vec<Case>> =
        cases.into_iter().enumerate().fold((0..4).map(|_| Vec::new()).collect(), |mut lanes: Vec<Vec<Case>>, (at, case)| {
            lanes[at % 4].push(case);
            lanes
        });
    std::thread::scope(|scope| {
        for lane in cases {
            scope.spawn(|| lane.into_iter().for_each(|case| play_one(porter, case)));
        }
    });
}

fn play_one(porter: &Porter, case: Case) {
    let Case { number, frames, cut, expect } = case;
    let path = |place: u8| format!("/autobahn-{number}/{place}/x");
    let mut callee = WebSocket::connect(porter.websocket, &path(1));
    let ender = callee.stream.try_clone().unwrap();
    let echo = std::thread::spawn(move || {
        loop {
            let heard = match callee.hear() {
                Heard::Text(text) => frame(TEXT, text),
                Heard::Binary(bytes) => frame(BINARY, bytes),
                Heard::Pong(_) | Heard::Ping => continue,
                Heard::Close(_) | Heard::End => return,
            };
            // The case may be over.
            let _ = callee.stream.write_all(&masked(heard.0, &heard.1));
        }
    });
    let mut caller = WebSocket::connect(porter.websocket, &path(0));
    let mut writer = caller.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let encoded: Vec<Vec<u8>> = frames.iter().map(|(first, payload)| masked(*first, payload)).collect();
        let pieces: Vec<Vec<u8>> = match cut {
            Cut::Whole => vec![encoded.concat()],
            Cut::Frames => encoded,
            Cut::Bytes(size) => encoded.concat().chunks(size).map(<[u8]>::to_vec).collect(),
        };
        // The server may have closed by then, which is what the case is about.
        pieces.iter().try_for_each(|piece| writer.write_all(piece))
    });
    match expect {
        Expect::Echo(all) => {
            for heard in all {
                assert!(caller.hear() == heard, "{number}");
            }
            sending.join().unwrap().unwrap();
            caller.send(CLOSE, &1000_u16.to_be_bytes());
            assert_eq!(caller.hear(), Heard::Close(1000), "{number}");
        }
        Expect::Fails(codes) => {
            let end = until_close(&mut caller);
            assert!(codes.contains(&end), "{number}: {end}");
            let _ = sending.join().unwrap();
        }
        Expect::Closes(all, code) => {
            for heard in all {
                assert!(caller.hear() == heard, "{number}");
            }
            assert_eq!(until_close(&mut caller), code, "{number}");
            let _ = sending.join().unwrap();
        }
    }
    assert_eq!(caller.next(), Heard::End, "{number}");
    // The callee's socket is ended from here: nobody tells it that the caller has gone.
    let _ = ender.shutdown(Shutdown::Both);
    echo.join().unwrap();
}

fn until_close(caller: &mut WebSocket) -> u16 {
    loop {
        match caller.hear() {
            Heard::Close(code) => return code,
            Heard::End => panic!("no close frame"),
            _ => {}
        }
    }
}

#[test]
fn group_1_messages_of_all_lengths() {
    let site = Site::start(&[]);
    let mut cases = Cases(Vec::new());
    for (at, size) in [0, 125, 126, 127, 128, 65_535, 65_536, 65_536].into_iter().enumerate() {
        let cut = if at == 7 { Cut::Bytes(997) } else { Cut::Whole };
        cases.add(&format!("1.1.{}", at + 1), cut, vec![frame(TEXT, vec![b'*'; size])], Expect::Echo(vec![text(vec![b'*'; size])]));
        let binary = vec![0xfe; size];
        cases.add(&format!("1.2.{}", at + 1), cut, vec![frame(BINARY, &binary)], Expect::Echo(vec![Heard::Binary(binary)]));
    }
    play(&site.porter, cases.0);
}

#[test]
fn groups_2_to_5_control_frames_reserved_bits_opcodes_fragments() {
    let site = Site::start(&[]);
    let mut cases = Cases(Vec::new());
    let mixed = [0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    let fails = || Expect::Fails(&[1002]);
    for (number, payload) in [("2.1", &b""[..]), ("2.2", b"Hello, world!"), ("2.3", &mixed), ("2.4", &[0xfe; 125])] {
        cases.add(number, Cut::Whole, vec![frame(PING, payload)], Expect::Echo(vec![pong(payload)]));
    }
    cases.add("2.5", Cut::Whole, vec![frame(PING, [0xfe; 126])], fails());
    cases.add("2.6", Cut::Bytes(1), vec![frame(PING, [0xfe; 125])], Expect::Echo(vec![pong(&[0xfe; 125])]));
    cases.add("2.7", Cut::Whole, vec![frame(PONG, b"")], Expect::Echo(vec![]));
    cases.add("2.8", Cut::Whole, vec![frame(PONG, b"unsolicited")], Expect::Echo(vec![]));
    cases.add("2.9", Cut::Whole, vec![frame(PONG, b"unsolicited"), frame(PING, b"ping")], Expect::Echo(vec![pong(b"ping")]));
    let ten: Vec<String> = (0..10).map(|n| format!("payload-{n}")).collect();
    for (number, cut) in [("2.10", Cut::Whole), ("2.11", Cut::Bytes(1))] {
        let pongs = ten.iter().map(|payload| pong(payload.as_bytes())).collect();
        cases.add(number, cut, ten.iter().map(|payload| frame(PING, payload)).collect(), Expect::Echo(pongs));
    }

    let small = || frame(TEXT, b"Hello, world!");
    let ping = || frame(PING, b"");
    cases.add("3.1", Cut::Whole, vec![frame(TEXT | 0x10, b"Hello, world!")], fails());
    cases.in_all_cuts(["3.2", "3.3", "3.4"], &[small(), frame(TEXT | 0x20, b"Hello, world!"), ping()], fails);
    for (number, first) in [("3.5", BINARY | 0x50), ("3.6", PING | 0x60), ("3.7", CLOSE | 0x70)] {
        cases.add(number, Cut::Whole, vec![frame(first, mixed)], fails());
    }
    for (group, first) in [("4.1", 0x83), ("4.2", 0x8b)] {
        cases.add(&format!("{group}.1"), Cut::Whole, vec![frame(first, b"")], fails());
        cases.add(&format!("{group}.2"), Cut::Whole, vec![frame(first + 1, b"reserved opcode payload")], fails());
        for (at, cut, payload) in [(2, Cut::Whole, &b""[..]), (3, Cut::Frames, b"reserved opcode payload"), (4, Cut::Bytes(1), b"reserved")]
        {
            cases.add(&format!("{group}.{}", at + 1), cut, vec![small(), frame(first + at, payload), ping()], fails());
        }
    }

    let (begin, more, end) = (0x01, 0x00, 0x80);
    cases.add("5.1", Cut::Whole, vec![frame(0x09, b"fragment1"), frame(end, b"fragment2")], fails());
    cases.add("5.2", Cut::Whole, vec![frame(0x0a, b"fragment1"), frame(end, b"fragment2")], fails());
    let both = || Expect::Echo(vec![text(b"fragment1fragment2")]);
    cases.in_all_cuts(["5.3", "5.4", "5.5"], &[frame(begin, b"fragment1"), frame(end, b"fragment2")], both);
    let between = || Expect::Echo(vec![pong(b"ping"), text(b"fragment1fragment2")]);
    cases.in_all_cuts(["5.6", "5.7", "5.8"], &[frame(begin, b"fragment1"), frame(PING, b"ping"), frame(end, b"fragment2")], between);
    cases.in_all_cuts(["5.9", "5.10", "5.11"], &[frame(end, b"non-continuation payload"), small()], fails);
    cases.in_all_cuts(["5.12", "5.13", "5.14"], &[frame(more, b"non-continuation payload"), small()], fails);
    let whole = [frame(begin, b"fragment1"), frame(end, b"fragment2")];
    cases.add("5.15", Cut::Whole, [&whole[..], &[frame(more, b"fragment3"), frame(TEXT, b"fragment4")]].concat(), fails());
    for (number, first) in [("5.16", more), ("5.17", end)] {
        let thrice = [frame(first, b"fragment1"), frame(begin, b"fragment2"), frame(end, b"fragment3")];
        cases.add(number, Cut::Whole, [thrice.clone(), thrice].concat(), fails());
    }
    cases.add("5.18", Cut::Whole, vec![frame(begin, b"fragment1"), frame(TEXT, b"fragment2")], fails());
    let pinged = [
        frame(begin, b"fragment1"),
        frame(more, b"fragment2"),
        frame(PING, b"ping1"),
        frame(more, b"fragment3"),
        frame(more, b"fragment4"),
        frame(PING, b"ping2"),
        frame(end, b"fragment5"),
    ];
    for (number, cut) in [("5.19", Cut::Whole), ("5.20", Cut::Frames)] {
        let all = vec![pong(b"ping1"), pong(b"ping2"), text(b"fragment1fragment2fragment3fragment4fragment5")];
        cases.add(number, cut, pinged.to_vec(), Expect::Echo(all));
    }
    play(&site.porter, cases.0);
}

#[test]
fn group_6_text_is_utf_8() {
    let site = Site::start(&[]);
    let mut cases = Cases(Vec::new());
    let fragments = |parts: &[&[u8]]| -> Vec<Frame> {
        let last = parts.len() - 1;
        parts.iter().enumerate().map(|(at, part)| frame(if at == 0 { 0x01 } else { 0 } | if at == last { 0x80 } else { 0 }, part)).collect()
    };
    cases.add("6.1.1", Cut::Whole, vec![frame(TEXT, b"")], Expect::Echo(vec![text(b"")]));
    cases.add("6.1.2", Cut::Whole, fragments(&[b"", b"", b""]), Expect::Echo(vec![text(b"")]));
    cases.add("6.1.3", Cut::Whole, fragments(&[b"", b"middle", b""]), Expect::Echo(vec![text(b"middle")]));
    let valid = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    cases.add("6.2.1", Cut::Whole, vec![frame(TEXT, valid)], Expect::Echo(vec![text(valid)]));
    cases.add("6.2.2", Cut::Whole, fragments(&[&valid[..12], &valid[12..]]), Expect::Echo(vec![text(valid)]));
    for (number, bytes) in [("6.2.3", valid), ("6.2.4", "κόσμε".as_bytes())] {
        let octets: Vec<&[u8]> = bytes.chunks(1).collect();
        cases.add(number, Cut::Whole, fragments(&octets), Expect::Echo(vec![text(bytes)]));
    }
    let invalid = from_hex("cebae1bdb9cf83cebcceb5eda080656469746564");
    cases.add("6.3.1", Cut::Whole, vec![frame(TEXT, &invalid)], Expect::Fails(&[1007]));
    let octets: Vec<&[u8]> = invalid.chunks(1).collect();
    cases.add("6.3.2", Cut::Whole, fragments(&octets), Expect::Fails(&[1007]));
    let (good, bad, rest) = (from_hex("cebae1bdb9cf83cebcceb5"), from_hex("f4908080"), from_hex("656469746564"));
    cases.add("6.4.1", Cut::Frames, fragments(&[&good, &bad, &rest]), Expect::Fails(&[1007]));
    cases.add("6.4.2", Cut::Frames, fragments(&[&[&good[..], &bad[..1]].concat(), &bad[1..], &rest]), Expect::Fails(&[1007]));
    let all = [good, bad, rest].concat();
    cases.add("6.4.3", Cut::Bytes(11), vec![frame(TEXT, &all)], Expect::Fails(&[1007]));
    cases.add("6.4.4", Cut::Bytes(12), vec![frame(TEXT, &all)], Expect::Fails(&[1007]));
    let groups: &[(&str, &[&str])] = &[
        (
            "6.5",
            &[
                "68656c6c6f24776f726c64",
                "68656c6c6fc2a2776f726c64",
                "68656c6c6fe282ac776f726c64",
                "68656c6c6ff0a4ada2776f726c64",
                "cebae1bdb9cf83cebcceb5",
            ],
        ),
        (
            "6.6",
            &[
                "ce",
                "ceba",
                "cebae1",
                "cebae1bd",
                "cebae1bdb9",
                "cebae1bdb9cf",
                "cebae1bdb9cf83",
                "cebae1bdb9cf83ce",
                "cebae1bdb9cf83cebc",
                "cebae1bdb9cf83cebcce",
                "cebae1bdb9cf83cebcceb5",
            ],
        ),
        ("6.7", &["00", "c280", "e0a080", "f0908080"]),
        ("6.8", &["f888808080", "fc8480808080"]),
        ("6.9", &["7f", "dfbf", "efbfbf", "f48fbfbf"]),
        ("6.10", &["f7bfbfbf", "fbbfbfbfbf", "fdbfbfbfbfbf"]),
        ("6.11", &["ed9fbf", "ee8080", "efbfbd", "f48fbfbf", "f4908080"]),
        (
            "6.12",
            &[
                "80",
                "bf",
                "80bf",
                "80bf80",
                "80bf80bf",
                "80bf80bf80",
                "80bf80bf80bf",
                "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbe",
            ],
        ),
        (
            "6.13",
            &[
                "c020c120c220c320c420c520c620c720c820c920ca20cb20cc20cd20ce20cf20d020d120d220d320d420d520d620d720d820d920da20db20dc20dd20de20",
                "e020e120e220e320e420e520e620e720e820e920ea20eb20ec20ed20ee20",
                "f020f120f220f320f420f520f620",
                "f820f920fa20",
                "fc20",
            ],
        ),
        ("6.14", &["c0", "e080", "f08080", "f8808080", "fc80808080", "df", "efbf", "f7bfbf", "fbbfbfbf", "fdbfbfbfbf"]),
        ("6.15", &["c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf"]),
        ("6.16", &["fe", "ff", "fefeffff"]),
        ("6.17", &["c0af", "e080af", "f08080af", "f8808080af", "fc80808080af"]),
        ("6.18", &["c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf"]),
        ("6.19", &["c080", "e08080", "f0808080", "f880808080", "fc8080808080"]),
        ("6.20", &["eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf"]),
        (
            "6.21",
            &[
                "eda080edb080",
                "eda080edbfbf",
                "edadbfedb080",
                "edadbfedbfbf",
                "edae80edb080",
                "edae80edbfbf",
                "edafbfedb080",
                "edafbfedbfbf",
            ],
        ),
        ("6.23", &["efbfb9", "efbfba", "efbfbb", "efbfbc", "efbfbd", "efbfbe", "efbfbf"]),
    ];
    for (group, members) in groups {
        for (at, hex) in members.iter().enumerate() {
            cases.utf8(&format!("{group}.{}", at + 1), hex);
        }
    }
    // The last two code points of each plane are no characters, and valid.
    for plane in 0..17_u32 {
        for last in 0..2 {
            let point = char::from_u32(plane << 16 | 0xfffe | last).unwrap();
            let hex: String = point.to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
            cases.utf8(&format!("6.22.{}", plane * 2 + last + 1), &hex);
        }
    }
    play(&site.porter, cases.0);
}

#[test]
fn group_7_closing() {
    let site = Site::start(&[]);
    let mut cases = Cases(Vec::new());
    let close = |code: u16, reason: &[u8]| frame(CLOSE, [&code.to_be_bytes()[..], reason].concat());
    let done = || close(1000, b"");
    let nothing = |code| Expect::Closes(vec![], code);
    cases.add("7.1.1", Cut::Whole, vec![frame(TEXT, b"Hello World!"), done()], nothing(1000));
    cases.add("7.1.2", Cut::Whole, vec![done(), done()], nothing(1000));
    cases.add("7.1.3", Cut::Whole, vec![done(), frame(PING, b"")], nothing(1000));
    cases.add("7.1.4", Cut::Whole, vec![done(), frame(TEXT, b"Hello World!")], nothing(1000));
    cases.add("7.1.5", Cut::Whole, vec![frame(0x01, b"fragment1"), done(), frame(0x80, b"fragment2")], nothing(1000));
    cases.add(
        "7.1.6",
        Cut::Whole,
        vec![frame(TEXT, vec![b'B'; 256 << 10]), frame(TEXT, b"Hello World!"), done(), frame(PING, b"")],
        nothing(1000),
    );
    // Without a code the answer has none, or says that it is normal.
    cases.add("7.3.1", Cut::Whole, vec![frame(CLOSE, b"")], Expect::Fails(&[0, 1000]));
    cases.add("7.3.2", Cut::Whole, vec![frame(CLOSE, b"a")], Expect::Fails(&[1002]));
    cases.add("7.3.3", Cut::Whole, vec![done()], nothing(1000));
    cases.add("7.3.4", Cut::Whole, vec![close(1000, b"Hello World!")], nothing(1000));
    cases.add("7.3.5", Cut::Whole, vec![close(1000, &[b'*'; 123])], nothing(1000));
    cases.add("7.3.6", Cut::Whole, vec![close(1000, &[b'*'; 124])], Expect::Fails(&[1002]));
    cases.add("7.5.1", Cut::Whole, vec![close(1000, &from_hex("cebae1bdb9cf83cebcceb5eda080656469746564"))], Expect::Fails(&[1007, 1002]));
    for (at, code) in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999].into_iter().enumerate() {
        cases.add(&format!("7.7.{}", at + 1), Cut::Whole, vec![close(code, b"")], nothing(code));
    }
    for (at, code) in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999].into_iter().enumerate() {
        cases.add(&format!("7.9.{}", at + 1), Cut::Whole, vec![close(code, b"")], Expect::Fails(&[1002]));
    }
    for (at, code) in [5000, 65_535].into_iter().enumerate() {
        cases.add(&format!("7.13.{}", at + 1), Cut::Whole, vec![close(code, b"")], Expect::Fails(&[1002, 5000, 65_535]));
    }
    play(&site.porter, cases.0);
}

#[test]
fn groups_9_and_10_large_and_many_messages() {
    let site = Site::start(&["--websocket-frame", "16777216"]);
    let mut cases = Cases(Vec::new());
    let sized = |first: u8, size: usize| {
        (frame(first, vec![b'*'; size]), if first == TEXT { text(vec![b'*'; size]) } else { Heard::Binary(vec![b'*'; size]) })
    };
    for (text_group, binary_group, sizes) in [("9.1", "9.2", [64, 256, 1_024, 4_096, 8_192, 16_384])] {
        for (at, kib) in sizes.into_iter().enumerate() {
            for (group, first) in [(text_group, TEXT), (binary_group, BINARY)] {
                let (sent, heard) = sized(first, kib << 10);
                cases.add(&format!("{group}.{}", at + 1), Cut::Whole, vec![sent], Expect::Echo(vec![heard]));
            }
        }
    }
    for (group, first) in [("9.3", TEXT), ("9.4", BINARY)] {
        for (at, size) in [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20].into_iter().enumerate() {
            let count = (4 << 20) / size;
            let fragment = |n| frame(if n == 0 { first & 0x7f } else { 0 } | if n == count - 1 { 0x80 } else { 0 }, vec![b'*'; size]);
            cases.add(
                &format!("{group}.{}", at + 1),
                Cut::Whole,
                (0..count).map(fragment).collect(),
                Expect::Echo(vec![sized(first, 4 << 20).1]),
            );
        }
    }
    for (group, first) in [("9.5", TEXT), ("9.6", BINARY)] {
        for (at, chop) in [128, 256, 512, 1_024, 2_048, 4_096].into_iter().enumerate() {
            let (sent, heard) = sized(first, 1 << 20);
            cases.add(&format!("{group}.{}", at + 1), Cut::Bytes(chop), vec![sent], Expect::Echo(vec![heard]));
        }
    }
    for (group, first) in [("9.7", TEXT), ("9.8", BINARY)] {
        for (at, size) in [0, 16, 64, 256, 1_024, 4_096].into_iter().enumerate() {
            let (sent, heard) = sized(first, size);
            cases.add(&format!("{group}.{}", at + 1), Cut::Whole, vec![sent; 1_000], Expect::Echo(vec![heard; 1_000]));
        }
    }
    let pieces: Vec<Frame> = vec![b'*'; 65_536].chunks(1_300).map(<[u8]>::to_vec).map(|piece| (0, piece)).collect();
    let last = pieces.len() - 1;
    let pieces = pieces.into_iter().enumerate().map(|(at, (_, piece))| (u8::from(at == 0) | if at == last { 0x80 } else { 0 }, piece));
    cases.add("10.1.1", Cut::Whole, pieces.collect(), Expect::Echo(vec![text(vec![b'*'; 65_536])]));
    play(&site.porter, cases.0);
}
