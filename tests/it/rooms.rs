//! WebSocket rooms over the real binary (Protocol §9): every rule that needs a socket, and what bad peers get.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::clients::{Client, Heard, HttpAnswer, WebSocket, handshake, http_raw, masked};
use crate::porter::{DEADLINE, Site, token};
use crate::proxy::Proxy;

const JPEG: &[u8] = b"\xff\xd8\xff\xe0 a picture of a face";

impl Site {
    fn room(&self, path: &str) -> WebSocket {
        WebSocket::connect(self.porter.websocket, path)
    }

    fn rooms_http(&self, request: &str, body: &[u8]) -> HttpAnswer {
        let (line, lines) = request.split_once('\n').unwrap_or((request, ""));
        let lines: String = lines.lines().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{lines}\r\n");
        let mut stream = TcpStream::connect(self.porter.websocket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        HttpAnswer { status, head, body: String::from_utf8_lossy(&answer[end + 4..]).into_owned() }
    }

    /// Waits for these counts of frame 7 (one-to-one, one-to-many, many-to-many) and this webSocketSize.
    #[track_caller]
    fn await_counts(&self, counts: [u64; 3], members: u64) {
        let mut client = Client::connect(self.porter.tcp);
        let end = Instant::now() + DEADLINE;
        loop {
            let answer = client.ask_json(r#"{"t":7}"#);
            let found = [&answer["One2OneSize"], &answer["One2ManySize"], &answer["Many2ManySize"]].map(|size| size.as_u64().unwrap());
            let sizes = self.get("/info").json().as_object().unwrap().values().next().unwrap()["webSocketSize"].as_u64().unwrap();
            if (found, sizes) == (counts, members) {
                return;
            }
            assert!(Instant::now() < end, "{found:?} and {sizes}, not {counts:?} and {members}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn code_of(answer: &HttpAnswer) -> String {
    answer.json()["code"].as_str().unwrap().to_owned()
}

#[test]
fn frames_pass_unchanged_in_all_kinds_of_rooms_and_counts_are_true() {
    let site = Site::start(&[]);
    let (mut caller, mut callee) = (site.room("/r%2F1/0/android"), site.room("/r%2F1/1/ios"));
    let (mut door, mut phone) = (site.room("/capture-x/0"), site.room("/capture-x/1"));
    let (mut a, mut b, mut c) = (site.room("/group-x/0"), site.room("/group-x/1"), site.room("/group-x/0"));
    site.await_counts([1, 1, 1], 7);
    let large: Vec<u8> = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect();
    caller.send_text("门\u{0}");
    callee.expect_text("门\u{0}");
    callee.send_binary(&large);
    caller.expect_binary(&large);
    callee.send_binary(b"");
    caller.expect_binary(b"");
    // In fragments, with a ping between them: it arrives whole.
    caller.send(0x01, b"in ");
    caller.send(0x89, b"ping");
    caller.send(0x00, b"three ");
    caller.send(0x80, b"parts");
    callee.expect_text("in three parts");
    assert_eq!(caller.hear(), Heard::Pong(b"ping".to_vec()));
    door.send_binary(&large);
    phone.expect_binary(&large);
    phone.send_text("hello");
    door.expect_text("hello");
    a.send_text("all");
    b.expect_text("all");
    c.expect_text("all");
    for client in [&mut caller, &mut callee, &mut door, &mut phone, &mut a, &mut b, &mut c] {
        client.expect_nothing();
    }
    drop((callee, phone, b));
    site.await_counts([1, 1, 1], 4);
    drop((caller, door, a, c));
    site.await_counts([0, 0, 0], 0);
}

#[test]
fn a_peer_s_close_is_answered_and_its_frames_before_it_arrive() {
    let site = Site::start(&[]);
    let (mut caller, mut callee) = (site.room("/r/0/a"), site.room("/r/1/b"));
    let frames: Vec<u8> = (0..500).flat_map(|n| masked(0x81, n.to_string().as_bytes())).collect();
    caller.send_bytes(&[frames, masked(0x88, &1000_u16.to_be_bytes())].concat());
    for n in 0..500 {
        callee.expect_text(&n.to_string());
    }
    caller.expect_close(1000);
    // One that only closes its side is gone as well, and what it said before is not lost.
    let mut caller = site.room("/r/0/a");
    caller.send_text("last words");
    caller.stream.shutdown(Shutdown::Write).unwrap();
    callee.expect_text("last words");
    site.await_counts([1, 0, 0], 1);
}

#[test]
fn what_the_first_says_waits_for_the_other_and_a_dead_incumbent_is_replaced() {
    let site = Site::start(&[]);
    let mut caller = site.room("/r/0/android");
    caller.send_text("early");
    caller.send_binary(b"and this");
    caller.expect_nothing();
    let mut callee = site.room("/r/1/door");
    callee.expect_text("early");
    callee.expect_binary(b"and this");
    // It lives: its pong turns the newcomer away.
    let mut newcomer = site.room("/r/0/android");
    assert_eq!(caller.next(), Heard::Ping);
    caller.send(0x8a, b"");
    newcomer.expect_close(4009);
    // It is silent: the newcomer has the place, and what it said meanwhile arrives.
    let begin = Instant::now();
    let mut newcomer = site.room("/r/0/android");
    newcomer.send_text("I am back");
    caller.answers_pings = false;
    callee.expect_text("I am back");
    assert!(begin.elapsed() >= Duration::from_millis(1_900), "{:?}", begin.elapsed());
    caller.expect_close(4001);
    callee.send_text("welcome");
    newcomer.expect_text("welcome");
    site.await_counts([1, 0, 0], 2);
}

#[test]
fn a_slow_phone_skips_to_the_newest_picture_keeps_texts_and_delays_nobody() {
    let site = Site::start(&[]);
    let (mut door, mut slow, mut fast) = (site.room("/capture-x/0"), site.room("/capture-x/1"), site.room("/capture-x/1"));
    let picture = |n: u32| [n.to_be_bytes().as_slice(), &vec![7; 100_000]].concat();
    for n in 0..200 {
        door.send_binary(&picture(n));
        fast.expect_binary(&picture(n));
        if n % 50 == 0 {
            door.send_text(&n.to_string());
            fast.expect_text(&n.to_string());
        }
    }
    let (mut pictures, mut texts) = (Vec::new(), Vec::new());
    while pictures.last() != Some(&199) {
        match slow.hear() {
            Heard::Binary(picture) => pictures.push(u32::from_be_bytes(*picture.first_chunk().unwrap())),
            Heard::Text(text) => texts.push(text),
            heard => panic!("{heard:?}"),
        }
    }
    assert_eq!(texts, ["0", "50", "100", "150"]);
    assert!(pictures.len() < 150 && pictures.is_sorted(), "{pictures:?}");
}

#[test]
fn a_picture_for_many_arrives_whole_at_each_of_them_also_where_one_takes_it_in_parts() {
    let site = Site::start(&[]);
    let mut door = site.room("/capture-x/0");
    let mut phones: Vec<WebSocket> = (0..20).map(|_| site.room("/capture-x/1")).collect();
    let mut slow = phones.split_off(19).remove(0);
    let before = site.porter.memory_kb("VmRSS");
    // Larger than what the kernel holds for one that does not read, so that it stops within a picture.
    let picture = |n: usize| -> Vec<u8> { (0..1 << 20).map(|at: usize| (at * (n + 3) % 251) as u8).collect() };
    for n in 0..12 {
        door.send_text(&n.to_string());
        door.send_binary(&picture(n));
        for phone in &mut phones {
            phone.expect_text(&n.to_string());
            phone.expect_binary(&picture(n));
        }
    }
    let (mut texts, mut newest) = (0, None);
    while texts < 12 || newest != Some(11) {
        match slow.hear() {
            Heard::Binary(heard) => newest = Some((0..12).find(|n| heard == picture(*n)).unwrap()),
            Heard::Text(text) => {
                assert_eq!(text, texts.to_string());
                texts += 1;
            }
            heard => panic!("{heard:?}"),
        }
    }
    assert!(site.porter.memory_kb("VmRSS") < before + (20 << 10));
    // Their files go with them.
    let end = Instant::now() + DEADLINE;
    while site.porter.files_in_memory() > 0 {
        assert!(Instant::now() < end, "{} files are still open", site.porter.files_in_memory());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_sender_in_a_group_waits_for_its_receivers_and_one_that_takes_nothing_is_closed() {
    let site = Site::start(&[]);
    let (mut a, mut b, stalled) = (site.room("/group-x/0"), site.room("/group-x/0"), site.room("/group-x/0"));
    let sender = std::thread::spawn(move || {
        let chunk = vec![1; 256 << 10];
        for _ in 0..64 {
            a.send_binary(&chunk);
        }
        a
    });
    let begin = Instant::now();
    let before = site.porter.memory_kb("VmRSS");
    for _ in 0..64 {
        b.expect_binary(&vec![1; 256 << 10]);
    }
    // 16 MiB fit into no outbox: it was held until the one that reads nothing was closed.
    assert!(begin.elapsed() >= Duration::from_secs(9), "{:?}", begin.elapsed());
    assert!(site.porter.memory_kb("VmRSS") < before + (20 << 10));
    let mut stalled = stalled;
    let end = loop {
        match stalled.hear() {
            Heard::Binary(_) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Heard::Close(1013) | Heard::End), "{end:?}");
    let mut sender = sender.join().unwrap();
    sender.expect_nothing();
    site.await_counts([0, 0, 1], 2);
}

#[test]
fn pictures_go_by_plain_http_in_and_out() {
    let site = Site::start(&[]);
    let missing = site.rooms_http("GET /capture-x/1", b"");
    assert_eq!((missing.status, code_of(&missing).as_str()), (404, "not_found"));
    let mut phone = site.room("/capture-x/1");
    assert_eq!(site.rooms_http("POST /capture-x/0\nContent-Type: image/x-own", JPEG).status, 204);
    phone.expect_binary(JPEG);
    let shown = site.rooms_http("GET /capture-x/1", b"");
    assert_eq!((shown.status, shown.body.as_bytes()), (200, String::from_utf8_lossy(JPEG).as_bytes()));
    for line in ["Content-Type: image/x-own", "Age: 0", "Last-Modified: ", "Cache-Control: no-store", "X-Content-Type-Options: nosniff"] {
        assert!(shown.head.contains(line), "{line}: {}", shown.head);
    }
    // By its bytes where it came without a type, or with one that is no image's.
    for request in [
        "POST /capture-x/0",
        "POST /capture-x/0\nContent-Type: application/x-www-form-urlencoded",
        "POST /capture-x/0\nContent-Type: image/svg+xml",
    ] {
        assert_eq!(site.rooms_http(request, JPEG).status, 204);
        assert!(site.rooms_http("GET /capture-x/1", b"").head.contains("Content-Type: image/jpeg"));
        phone.expect_binary(JPEG);
    }
    // What a door sends is shown too.
    let mut door = site.room("/capture-x/0");
    door.send_binary(b"\x89PNG\r\n\x1a\n...");
    phone.expect_binary(b"\x89PNG\r\n\x1a\n...");
    let head = site.rooms_http("HEAD /capture-x/1", b"");
    assert!(head.head.contains("Content-Type: image/png") && head.head.contains("Content-Length: 11"), "{}", head.head);
    assert_eq!(head.body, "");
    site.await_counts([0, 1, 0], 2);
}

#[test]
fn a_stream_shows_each_picture_as_a_part() {
    let site = Site::start(&[]);
    assert_eq!(site.rooms_http("GET /capture-x/1?stream=1", b"").status, 404);
    site.rooms_http("POST /capture-x/0", JPEG);
    let mut stream = TcpStream::connect(site.porter.websocket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /capture-x/1?stream=1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut seen = Vec::new();
    let mut until = |count: usize| {
        let mut buffer = [0; 4_096];
        while seen.windows(JPEG.len()).filter(|window| *window == JPEG).count() < count
            || !seen.ends_with(b"\r\n--porter\r\nContent-Type: image/jpeg\r\n\r\n")
        {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the stream has ended");
            seen.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    };
    let text = until(1);
    assert!(text.contains("Content-Type: multipart/x-mixed-replace; boundary=porter\r\n"), "{text}");
    assert!(text.contains("\r\n\r\n--porter\r\nContent-Type: image/jpeg\r\n\r\n"), "{text}");
    let mut door = site.room("/capture-x/0");
    door.send_binary(JPEG);
    until(2);
    // A stream is no member, and it ends with the server.
    site.await_counts([0, 1, 0], 1);
    site.porter.signal(rustix::process::Signal::TERM);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    door.expect_close(1001);
}

#[test]
fn doors_in_rooms_get_openings_and_answer_them_once() {
    let site = Site::start(&[]);
    let (mut door, mut phone, mut talk) = (site.room("/capture-x/0"), site.room("/capture-x/1"), site.room("/capture-x/0/intercom"));
    let mut opener = Client::bound(site.porter.tcp, "ann");
    let mut watcher = Client::connect(site.porter.tcp);
    let ring = r#"{"t":9,"r":"capture-x", "u":"w","x":"门"}"#;
    watcher.send(ring);
    for member in [&mut door, &mut phone, &mut talk] {
        member.expect_text(ring);
    }
    let open = r#"{ "t":8,"r":"capture-x","u":"ann","num":7, "y":1.50 }"#;
    opener.send(open);
    door.expect_text(open);
    talk.expect_text(open);
    // Not interpreted: from a phone, without an answer's members, or too long.
    phone.send_text(r#"{"t":-8,"r":"capture-x","u":"ann","ok":true}"#);
    door.expect_text(r#"{"t":-8,"r":"capture-x","u":"ann","ok":true}"#);
    door.send_text(r#"{"t":-8,"r":"capture-x","u":"ann"}"#);
    phone.expect_text(r#"{"t":-8,"r":"capture-x","u":"ann"}"#);
    let long = format!(r#"{{"t":-8,"r":"capture-x","u":"ann","ok":true,"x":"{}"}}"#, "x".repeat(4_096));
    door.send_text(&long);
    phone.expect_text(&long);
    // Between other frames, in order, and relayed to nobody.
    door.send_bytes(
        &[masked(0x81, b"before"), masked(0x81, br#"{"t":-8,"r":"capture-x","u":"ann","ok":true}"#), masked(0x81, b"behind")].concat(),
    );
    phone.expect_text("before");
    phone.expect_text("behind");
    opener.expect(r#"{"t":-8,"r":"capture-x","u":"ann","ok":true,"num":7}"#);
    door.send_text(r#"{"t":-8,"r":"capture-x","u":"ann","ok":false,"reason":"late"}"#);
    door.expect_nothing();
    opener.expect_nothing();
    watcher.expect_nothing();
    // REST waits for the result, and is told of it.
    let rest = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| site.push(r#"{"t":8,"r":"capture-x","u":"guard","wait":true,"num":1}"#));
        door.expect_text(r#"{"t":8,"r":"capture-x","u":"guard","wait":true,"num":1}"#);
        talk.expect_text(r#"{"t":8,"r":"capture-x","u":"guard","wait":true,"num":1}"#);
        door.send_text(r#"{"t":-8,"r":"capture-x","u":"guard","ok":false,"reason":"stuck"}"#);
        talk.send_text(r#"{"t":-8,"r":"capture-x","u":"guard","ok":false,"reason":"jammed"}"#);
        waiting.join().unwrap()
    });
    assert_eq!(rest.json()["doors"], 2);
    assert_eq!(rest.json()["ok"], json!(false));
}

#[test]
fn bad_paths_and_tokens_are_told_by_their_close_codes() {
    let site = Site::start(&["--auth-devices", "token"]);
    let device = token(&site.folder, &["--role", "device", "--label", "phone-1"]);
    let other = token(&site.folder, &["--role", "device", "--label", "phone-2"]);
    let long = "a".repeat(7_000);
    for path in [
        "/",
        "/capture-x/2",
        "/%20/0",
        "//0/a",
        "/capture-x/",
        "/a/2/b",
        "/a/0/",
        "/a/0/b/c",
        "/%ff/0/b",
        "/a%0ab/0/x",
        "/a%1b%5b2J/0/x",
        &format!("/capture-{long}/0"),
        &format!("/a/0/{long}"),
    ] {
        site.room(&format!("{path}?token={device}")).expect_close(4000);
    }
    site.room("/capture-x/1").expect_close(4003);
    site.room("/capture-x/1?token=00").expect_close(4003);
    let mut phone = site.room(&format!("/capture-x/1?token={device}"));
    let mut second = site.room(&format!("/capture-x/1?a=b&token={other}"));
    phone.expect_nothing();
    let answer = site.rooms_http(&format!("GET /capture-x/1?token={device}"), b"");
    assert_eq!(answer.status, 404);
    assert_eq!(site.rooms_http("GET /capture-x/1", b"").status, 401);
    assert_eq!(site.rooms_http("POST /capture-x/0?token=00", JPEG).status, 401);
    // Revoked: its link ends within a second or so, its stream too; nobody else's.
    site.rooms_http(&format!("POST /capture-x/0?token={device}"), JPEG);
    phone.expect_binary(JPEG);
    second.expect_binary(JPEG);
    let mut stream = TcpStream::connect(site.porter.websocket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("GET /capture-x/1?stream=1&token={device} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let revoked = crate::porter::run(&site.folder, &["token", "revoke", "phone-1"], &[]);
    assert!(revoked.status.success());
    phone.expect_close(4003);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    second.expect_nothing();
    // Its label and token are in no log.
    assert!(!site.porter.log().contains(&device));
    for _ in 0..10 {
        let _ = site.rooms_http("GET /capture-x/1?token=00", b"");
    }
    assert_eq!(site.rooms_http("GET /capture-x/1?token=00", b"").status, 429);
    assert_eq!(
        http_raw(
            site.porter.websocket,
            handshake("/capture-x/1?token=00", "").replace("Upgrade: websocket", "Connection: close\r\nUpgrade: websocket").as_bytes()
        )
        .status,
        429
    );
    site.room(&format!("/capture-x/1?token={other}")).expect_binary(JPEG);
}

#[test]
fn a_bad_token_counts_once_whatever_it_came_with() {
    let site = Site::start(&[]);
    for _ in 0..5 {
        site.room("/capture-x/1?token=00").expect_close(4003);
        assert_eq!(site.rooms_http("GET /capture-x/1?token=00", b"").status, 401);
    }
    // The eleventh within the minute.
    assert_eq!(site.rooms_http("POST /capture-x/0?token=00", JPEG).status, 429);
}

#[test]
fn long_names_are_bad_paths_with_4000_also_without_a_token() {
    let site = Site::start(&[]);
    // 10 KB and more do not fit into a head: HTTP says so.
    let huge = "a".repeat(10_000);
    let refused = http_raw(site.porter.websocket, handshake(&format!("/capture-{huge}/0"), "").as_bytes());
    assert_eq!((refused.status, code_of(&refused).as_str()), (413, "too_large"));
    let device = "b".repeat(1 << 20);
    let mut stream = TcpStream::connect(site.porter.websocket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = stream.write_all(handshake(&format!("/a/0/{device}"), "").as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));
    assert!(site.porter.memory_kb("VmRSS") < 60 << 10);
}

#[test]
fn what_breaks_the_protocol_is_closed_with_its_code_and_nobody_else_is() {
    let site = Site::start(&[]);
    let mut callee = site.room("/r/1/b");
    for (bytes, code) in [
        (masked(0x82, &vec![0; 5 << 20]), 1009),
        ([masked(0x02, &vec![0; 3 << 20]), masked(0x80, &vec![0; 3 << 20])].concat(), 1009),
        ([0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4].to_vec(), 1009),
        ([0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4].to_vec(), 1009),
        (masked(0x81, b"\xff\xfe"), 1007),
        (masked(0x89, &[0; 126]), 1002),
        (masked(0x8a, &[0; 200]), 1002),
        (masked(0x88, &[3; 126]), 1002),
        (masked(0x88, b"x"), 1002),
        (masked(0x09, b"a part of a ping"), 1002),
        (masked(0xc1, b"compressed"), 1002),
        (masked(0x80, b"the end of nothing"), 1002),
        (masked(0x83, b""), 1002),
        (vec![0x81, 1, b'x'], 1002),
    ] {
        let mut caller = site.room("/r/0/a");
        // It may be cut before all of it is sent.
        let _ = caller.stream.write_all(&bytes);
        caller.expect_close(code);
    }
    callee.expect_nothing();
    let mut caller = site.room("/r/0/a");
    caller.send_text("still here");
    callee.expect_text("still here");
}

#[test]
fn a_page_from_elsewhere_gets_403_and_a_native_client_and_one_s_own_page_do_not() {
    let site = Site::start(&["--advertise-host", "porter.example", "--origins", "https://admin.example"]);
    let close =
        |origin: &str| handshake("/group-x/0", &format!("Origin: {origin}\r\n")).replacen("Host: x", "Connection: close\r\nHost: x", 1);
    for origin in ["http://evil.example", "null", "http://porter.example.evil.example"] {
        let refused = http_raw(site.porter.websocket, close(origin).as_bytes());
        assert_eq!((refused.status, code_of(&refused).as_str()), (403, "forbidden"), "{origin}");
        assert_eq!(site.rooms_http(&format!("POST /capture-x/0\nOrigin: {origin}"), JPEG).status, 403);
    }
    for origin in ["http://porter.example", "http://localhost:8080", "http://192.168.1.4", "https://admin.example"] {
        WebSocket::connect_with(site.porter.websocket, "/group-x/0", &format!("Origin: {origin}\r\n"), b"").expect_nothing();
    }
    site.await_counts([0, 0, 0], 0);
}

#[test]
fn a_handshake_may_be_a_post_and_bytes_may_stand_right_behind_it() {
    let site = Site::start(&[]);
    let mut callee = site.room("/r/1/b");
    let mut stream = TcpStream::connect(site.porter.websocket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = handshake("/r/0/a", "Content-Length: 0\r\n").replace("GET ", "POST ");
    stream.write_all(&[head.as_bytes(), &masked(0x81, b"at once"), &masked(0x81, b"and again")].concat()).unwrap();
    callee.expect_text("at once");
    callee.expect_text("and again");
    // Also a part of a frame, the rest of which comes later.
    drop(stream);
    site.await_counts([1, 0, 0], 1);
    let frame = masked(0x81, &[b'x'; 3_000]);
    let mut caller = WebSocket::connect_with(site.porter.websocket, "/r/0/a", "", &[&masked(0x82, b"whole"), &frame[..1_000]].concat());
    callee.expect_binary(b"whole");
    caller.send_bytes(&frame[1_000..]);
    callee.expect_text(&"x".repeat(3_000));
}

#[test]
fn plain_requests_that_mean_nothing_are_told_so() {
    let site = Site::start(&[]);
    for (request, status, code) in [
        ("GET /", 404, "not_found"),
        ("GET /capture-x/2", 404, "not_found"),
        ("GET /group-x/1", 400, "bad_field"),
        ("GET /r/0/a", 400, "bad_field"),
        ("GET /capture-x/0", 405, "bad_field"),
        ("DELETE /capture-x/1", 405, "bad_field"),
        ("POST /capture-x/0", 400, "bad_field"),
        ("POST /capture-x/0\nContent-Type: text/html", 400, "bad_field"),
    ] {
        let body: &[u8] = if request.starts_with("POST") { b"<script>" } else { b"" };
        let answer = site.rooms_http(request, body);
        assert_eq!((answer.status, code_of(&answer).as_str()), (status, code), "{request}");
    }
    assert_eq!(site.rooms_http("GET /capture-x/1", b"").status, 404);
}

#[test]
fn a_post_that_is_too_large_or_stalls_costs_nothing() {
    let site = Site::start(&[]);
    let mut stream = TcpStream::connect(site.porter.websocket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"POST /capture-x/0 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // In chunks nothing says beforehand how large it is.
    let before = site.porter.memory_kb("VmRSS");
    let mut stream = TcpStream::connect(site.porter.websocket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"POST /capture-x/0 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [&b"10000\r\n"[..], &vec![0xff; 64 << 10], b"\r\n"].concat();
    let taken = (0..100_000_000 / chunk.len()).take_while(|_| stream.write_all(&chunk).is_ok()).count() * chunk.len();
    // The kernels of both sides hold some of what the server does not read.
    assert!(taken < 24 << 20, "{taken} bytes were taken");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));
    assert!(site.porter.memory_kb("VmRSS") < before + (12 << 10), "{before} kB grew to {} kB", site.porter.memory_kb("VmRSS"));
    let before = site.porter.memory_kb("VmRSS");
    let mut stalled = TcpStream::connect(site.porter.websocket).unwrap();
    stalled.write_all(b"POST /capture-x/0 HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n\xff\xd8\xff").unwrap();
    assert_eq!(site.rooms_http("POST /capture-x/0", JPEG).status, 204);
    assert!(site.porter.memory_kb("VmRSS") < before + 4_000, "memory grows with what came, not with what is claimed");
    // It is told so when its time is over.
    stalled.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut answer = String::new();
    stalled.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn a_viewer_that_never_reads_costs_a_bounded_amount_while_the_door_sends_at_full_speed() {
    let site = Site::start(&[]);
    let (mut door, mut viewer) = (site.room("/capture-x/0"), site.room("/capture-x/1"));
    let stalled: Vec<WebSocket> = (0..20).map(|_| site.room("/capture-x/1")).collect();
    let picture = vec![9; 1 << 20];
    // And such as see the pictures over HTTP.
    door.send_binary(&picture);
    viewer.expect_binary(&picture);
    let mut streams: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(site.porter.websocket).unwrap()).collect();
    for stream in &mut streams {
        stream.write_all(b"GET /capture-x/1?stream=1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
    }
    let before = site.porter.memory_kb("VmRSS");
    let mut most = 0;
    for _ in 0..100 {
        door.send_binary(&picture);
        viewer.expect_binary(&picture);
        most = most.max(site.porter.memory_kb("VmRSS"));
    }
    assert!(most < before + (40 << 10), "{before} kB grew to {most} kB");
    eprintln!("rooms: forty that never read cost {} kB at most", most - before);
    drop((stalled, streams));
    site.await_counts([0, 1, 0], 2);
}

/// Longer than a member may be silent.
#[test]
fn on_a_slow_line_a_long_frame_costs_neither_its_sender_nor_its_receiver_the_connection() {
    const SECONDS: usize = 75;
    let site = Site::start(&[]);
    let frame: Vec<u8> = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect();
    let mut phone = site.room("/capture-up/1");
    let mut slow_door = site.room("/capture-up/0");
    let (mut door, slow_phone) = (site.room("/capture-down/0"), site.room("/capture-down/1"));
    rustix::net::sockopt::set_socket_recv_buffer_size(&slow_phone.stream, 8 << 10).unwrap();
    door.send_binary(&frame);
    let sent = masked(0x82, &frame);
    let (mut left, mut slow_stream, mut taken) = (&sent[..], slow_phone.stream.try_clone().unwrap(), Vec::new());
    let begin = Instant::now();
    for second in 1..=SECONDS {
        let (part, rest) = left.split_at(left.len().min(sent.len() / (SECONDS + 5)));
        slow_door.send_bytes(part);
        left = rest;
        let mut buffer = vec![0; frame.len() / (SECONDS + 5)];
        slow_stream.read_exact(&mut buffer).unwrap();
        taken.extend(buffer);
        // The others answer what they are asked.
        phone.expect_nothing();
        door.expect_nothing();
        std::thread::sleep((begin + Duration::from_secs(second as u64)).saturating_duration_since(Instant::now()));
    }
    slow_door.send_bytes(left);
    phone.expect_binary(&frame);
    let mut rest = vec![0; frame.len() + 10 - taken.len()];
    slow_stream.read_exact(&mut rest).unwrap();
    taken.extend(rest);
    assert!(taken[10..] == frame, "other bytes");
}

#[test]
fn a_phone_with_too_many_texts_waiting_is_closed() {
    let site = Site::start(&[]);
    let (mut door, mut viewer, mut stalled) = (site.room("/capture-x/0"), site.room("/capture-x/1"), site.room("/capture-x/1"));
    let text = "x".repeat(64 << 10);
    for _ in 0..200 {
        door.send_text(&text);
        viewer.expect_text(&text);
    }
    site.await_counts([0, 1, 0], 2);
    let end = loop {
        match stalled.hear() {
            Heard::Text(_) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Heard::Close(1013) | Heard::End), "{end:?}");
}

#[test]
fn thousands_of_joins_and_leaves_leave_nothing_behind_and_disturb_nobody() {
    let site = Site::start(&[]);
    let (mut door, mut phone) = (site.room("/capture-x/0"), site.room("/capture-x/1"));
    let before = site.porter.memory_kb("RssAnon");
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let guests: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for round in 0..1_000 {
                        let mut guest = site.room("/capture-x/1");
                        // By turns with a farewell, without one, and with one that is not waited for.
                        if round % 3 > 0 {
                            guest.send(0x88, &1000_u16.to_be_bytes());
                        }
                        if round % 3 == 1 {
                            let ends = |heard: &Heard| matches!(heard, Heard::Close(_) | Heard::End);
                            assert_eq!(std::iter::repeat_with(|| guest.hear()).find(ends), Some(Heard::Close(1000)));
                        }
                    }
                })
            })
            .collect();
        // Each picture and text reaches who stays, whoever comes and goes beside it.
        let mut sent = 0_u32;
        while guests.iter().any(|guest| !guest.is_finished()) {
            door.send_binary(&[JPEG, &sent.to_be_bytes()].concat());
            phone.expect_binary(&[JPEG, &sent.to_be_bytes()].concat());
            phone.send_text(&sent.to_string());
            door.expect_text(&sent.to_string());
            sent += 1;
        }
    });
    eprintln!("rooms: {:.0} joins and leaves a second", 4_000.0 / begin.elapsed().as_secs_f64());
    site.await_counts([0, 1, 0], 2);
    let grown = site.porter.memory_kb("RssAnon").saturating_sub(before);
    eprintln!("rooms: memory grew by {grown} kB");
    assert!(grown < 8 << 10, "it grew by {grown} kB");
}

#[test]
fn of_callers_that_come_at_once_one_is_in_and_the_others_hear_that_it_is_busy() {
    let site = Site::start(&[]);
    let mut callee = site.room("/r/1/b");
    let last: Vec<Heard> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|n| {
                let site = &site;
                scope.spawn(move || {
                    let mut caller = site.room("/r/0/a");
                    caller.send_text(&n.to_string());
                    caller.hear()
                })
            })
            .collect();
        // What the others said while they waited has gone with them.
        let Heard::Text(first) = callee.hear() else { panic!("no text") };
        // Those that wait are turned away by the pong of the one that is in, which hears nothing but the answer to its text.
        let end = Instant::now() + DEADLINE;
        while callers.iter().filter(|caller| caller.is_finished()).count() < 3 {
            assert!(Instant::now() < end, "more than one is in, or none is turned away");
            std::thread::sleep(Duration::from_millis(2));
        }
        callee.expect_nothing();
        callee.send_text(&first);
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(last.iter().filter(|heard| **heard == Heard::Close(4009)).count(), 3, "{last:?}");
    let in_room = last.iter().position(|heard| matches!(heard, Heard::Text(_))).unwrap();
    assert_eq!(last[in_room], Heard::Text(in_room.to_string()));
}

#[test]
fn names_that_bite_are_names_and_reach_logs_and_pages_harmlessly() {
    let site = Site::start(&[]);
    let mut door = Client::connect(site.porter.tcp);
    door.send(r#"{"t":10,"r":"<script>alert(1)</script>","u":""}"#);
    door.expect_nothing();
    let mut opener = Client::bound(site.porter.tcp, "ann");
    // Control characters are none.
    opener.expect_refusal(r#"{"t":8,"r":"\u001b[2J","u":"x"}"#, "bad_field");
    opener.expect_refusal(r#"{"t":8,"r":"x","u":"a\u0000b"}"#, "bad_field");
    opener.expect_refusal(r#"{"t":8,"r":"x","u":"\u009b31m"}"#, "bad_field");
    opener.expect_refusal(r#"{"t":10,"r":"a\u0007","u":""}"#, "bad_field");
    opener.send(r#"{"t":8,"r":"<script>alert(1)</script>","u":"=cmd()"}"#);
    door.expect(r#"{"t":8,"r":"<script>alert(1)</script>","u":"=cmd()"}"#);
    let mut page = site.room("/%3Cscript%3Ealert(1)%3C%2Fscript%3E/0/x");
    opener.send(r#"{"t":8,"r":"<script>alert(1)</script>","u":"v"}"#);
    page.expect_text(r#"{"t":8,"r":"<script>alert(1)</script>","u":"v"}"#);
    assert!(!site.porter.log().contains('\u{1b}'));
}

#[test]
fn the_door_log_tells_who_opened_what_with_the_newest_picture() {
    let site = Site::start(&[]);
    let mut opener = Client::bound(site.porter.tcp, "ann");
    opener.send(r#"{"t":8,"r":"capture-x","u":"=1+1"}"#);
    opener.expect(r#"{"t":-8,"r":"capture-x","u":"=1+1","ok":false,"reason":"no_door"}"#);
    let mut door = site.room("/capture-x/0");
    door.send_binary(JPEG);
    while site.rooms_http("GET /capture-x/1", b"").status != 200 {}
    // Each opening in a millisecond of its own: the log is asked by them.
    std::thread::sleep(Duration::from_millis(2));
    opener.send(r#"{"t":8,"r":"capture-x","u":"門"}"#);
    door.expect_text(r#"{"t":8,"r":"capture-x","u":"門"}"#);
    door.send_text(r#"{"t":-8,"r":"capture-x","u":"門","ok":true}"#);
    opener.expect(r#"{"t":-8,"r":"capture-x","u":"門","ok":true}"#);
    std::thread::sleep(Duration::from_millis(2));
    opener.send(r#"{"t":8,"r":"gate","u":""}"#);
    opener.line();
    let log = site.get("/info/doorLog/1").json();
    let list = log["list"].as_array().unwrap();
    assert_eq!((log["total"].as_u64(), list.len()), (Some(3), 3));
    let picture = list[1]["picture"].as_str().unwrap().to_owned();
    assert_eq!(picture, format!("/info/doorPicture/{}", list[1]["id"].as_str().unwrap()));
    let by = json!({"alias": "ann", "label": "", "address": "127.0.0.1"});
    for (entry, r, u, doors, ok, reason) in [
        (&list[0], "gate", "", 0, false, json!("no_door")),
        (&list[1], "capture-x", "門", 1, true, json!(null)),
        (&list[2], "capture-x", "=1+1", 0, false, json!("no_door")),
    ] {
        let told = json!({"r": entry["r"], "u": entry["u"], "by": entry["by"], "doors": entry["doors"], "ok": entry["ok"], "reason": entry["reason"]});
        assert_eq!(told, json!({"r": r, "u": u, "by": by, "doors": doors, "ok": ok, "reason": reason}));
    }
    assert!(list[0]["picture"].is_null() && list[2]["picture"].is_null());
    // The picture as it was, also when the room shows another.
    door.send_binary(b"\xff\xd8\xffanother");
    let shown = site.rest_bytes(&picture);
    assert!(shown.0.contains("Content-Type: image/jpeg") && shown.1 == JPEG, "{}", shown.0);
    assert_eq!(site.get("/info/doorPicture/1").status, 404);
    assert_eq!(site.get("/info/doorPicture/x").status, 400);
    // Filters, pages, and the table for a spreadsheet.
    let at = list[1]["at"].as_u64().unwrap();
    let total = |query: &str| site.get_with("/info/doorLog/1", query).json()["total"].as_u64().unwrap();
    assert_eq!(
        (total("r=capture-x"), total("r=gate"), total("r=x"), total(&format!("to={at}")), total(&format!("from={at}"))),
        (2, 1, 0, 1, 2)
    );
    let second = site.get_with("/info/doorLog/2", "size=2").json();
    assert_eq!((second["total"].as_u64(), &second["list"][0]["u"], second["list"].as_array().unwrap().len()), (Some(3), &json!("=1+1"), 1));
    let csv = site.get_with("/info/doorLog/1", "format=csv");
    assert!(
        csv.head.contains("text/csv; charset=utf-8") && csv.body.contains(",capture-x,'=1+1,ann,,127.0.0.1,0,false,no_door,\r\n"),
        "{}",
        csv.body
    );
    // With a restart all is still there.
    let Site { folder, porter, token } = site;
    porter.kill();
    let site = Site { porter: crate::porter::Porter::start(&folder), folder, token };
    assert_eq!(site.rest_bytes(&picture).1, JPEG);
    assert_eq!(site.get("/info/doorLog/1").json()["list"][1]["picture"], json!(picture));
}

#[test]
fn a_door_in_a_room_behind_a_network_that_hangs_gets_no_late_opening() {
    let site = Site::start(&[]);
    let proxy = Proxy::before(site.porter.websocket);
    let mut door = WebSocket::connect(proxy.address, "/r/1/door");
    let mut caller = site.room("/r/0/phone");
    caller.send_text("hello");
    door.expect_text("hello");
    // The caller is a door of the room as well, by its d=0; the room's opener is told what came of it.
    let mut far = WebSocket::connect(proxy.address, "/capture-r/0");
    let mut opener = Client::bound(site.porter.tcp, "ann");
    far.expect_nothing();
    let mut phone = site.room("/capture-r/1");
    proxy.stop();
    // Frames of a phone fill what the kernels hold for the door, so that the opening stays with Porter.
    let picture = vec![3; 256 << 10];
    for _ in 0..64 {
        phone.send_binary(&picture);
    }
    phone.expect_nothing();
    let begin = Instant::now();
    opener.send(r#"{"t":8,"r":"capture-r","u":"late"}"#);
    opener.expect(r#"{"t":-8,"r":"capture-r","u":"late","ok":false,"reason":"no_answer"}"#);
    while begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
    }
    proxy.go_on();
    loop {
        match far.hear() {
            Heard::Binary(_) => {}
            Heard::Text(text) => panic!("an opening that is 10 s old was handed on: {text}"),
            _ => break,
        }
        far.stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        if far.stream.peek(&mut [0]).is_err() {
            break;
        }
    }
    opener.expect_nothing();
    caller.expect_nothing();
}

/// Opening never waits for the disk, yet what was opened is on it 50 ms later.
#[test]
fn after_a_sigkill_at_most_the_last_50_ms_of_the_log_are_missing() {
    let site = Site::start(&[]);
    let mut opener = Client::bound(site.porter.tcp, "ann");
    let (mut opened, begin) = (Vec::new(), Instant::now());
    for n in 0..400 {
        opener.send(&format!(r#"{{"t":8,"r":"gate","u":"{n}"}}"#));
        opener.line();
        opened.push(begin.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    let killed = begin.elapsed();
    let Site { folder, porter, token } = site;
    porter.kill();
    let site = Site { porter: crate::porter::Porter::start(&folder), folder, token };
    let kept = site.get("/info/doorLog/1").json()["total"].as_u64().unwrap() as usize;
    let older = opened.iter().filter(|at| **at + Duration::from_millis(50) < killed).count();
    assert!(kept >= older, "{kept} of {} openings are in the log, {older} were older than 50 ms", opened.len());
}

impl Site {
    fn get_with(&self, path: &str, query: &str) -> HttpAnswer {
        crate::clients::http(self.porter.rest, "GET", &format!("{path}/{}?{query}", self.token), "")
    }

    /// Head and body of an answer that is no text.
    fn rest_bytes(&self, path: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.porter.rest).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("GET {path}/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", self.token).as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
    }
}
