//! The connection loop over real sockets on the loopback: a blocking client in the test, the server on the executor.
//!
//! Where a test is about a deadline that deadline is short; all others are so long that only a fault reaches them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc;

use futures::AsyncWriteExt;
use futures::channel::oneshot;

use super::*;
use crate::runtime::reactor::Reactor;
use crate::runtime::shutdown::{Shutdown, shutdown};
use crate::runtime::socket;
use crate::server::listener::{ConnectionLimits, Listener, Permits};

/// Longer than any test takes: who waits so long waits in vain.
const PATIENCE: Duration = Duration::from_secs(20);
/// A deadline that a test means to reach.
const SHORT: Duration = Duration::from_millis(60);
const BODY_LIMIT: usize = 1_000;

/// Answers by path, and tells the test what happens inside.
struct Probe {
    events: mpsc::SyncSender<&'static str>,
    /// What `/gate` waits for.
    gate: std::sync::Mutex<Option<oneshot::Receiver<()>>>,
    large: Bytes,
}

/// Tells the test that a handler's future is gone.
struct Dropped(mpsc::SyncSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

impl Service for Probe {
    type Ticket = ();

    fn admit(&self, head: &Head, _peer: IpAddr) -> Result<Admission<()>, Response> {
        match head.path() {
            "/declined" => Err(Response::new(404, "text/plain", "declined")),
            "/panic-early" => panic!("asked for by the test"),
            path if path.starts_with("/watched") => Ok(Admission { body_limit: BODY_LIMIT, departure: Departure::Ends, ticket: () }),
            _ => Ok(Admission { body_limit: BODY_LIMIT, departure: Departure::GoesOn, ticket: () }),
        }
    }

    async fn respond(&self, request: Request<()>) -> Answer {
        let path = request.head.path();
        if path == "/panic" {
            panic!("asked for by the test");
        }
        if path.ends_with("gate") {
            let gate = self.gate.lock().unwrap().take().unwrap();
            let dropped = Dropped(self.events.clone());
            self.events.send("waiting").unwrap();
            gate.await.unwrap();
            self.events.send("through").unwrap();
            std::mem::forget(dropped);
        }
        if path == "/large" {
            return Response::new(200, "application/octet-stream", self.large.clone()).into();
        }
        if let Some(answer) = self.special(path) {
            return answer;
        }
        let mut body = format!("{} {} ", request.head.method(), request.head.target()).into_bytes();
        body.extend(request.body);
        Response::new(200, "text/plain", body).into()
    }

    fn refuse(&self, refusal: HttpRefusal) -> Response {
        Response::new(refusal.status, "text/plain", format!("{:?} {}", refusal.refusal.code, refusal.refusal.field))
    }
}

impl Probe {
    /// Answers that are more than a response.
    fn special(&self, path: &str) -> Option<Answer> {
        let events = self.events.clone();
        let response = Response::new(200, "text/plain", "seen");
        Some(match path {
            "/fate" => Answer::Watched { response, written: Box::new(move || events.send("written").unwrap()), within: None },
            "/fate-in-time" => {
                let response = Response::new(200, "application/octet-stream", self.large.clone());
                let dropped = Dropped(events);
                Answer::Watched { response, written: Box::new(move || std::mem::forget(dropped)), within: Some(SHORT) }
            }
            "/switch" => Answer::Switch {
                head: b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec(),
                take: Box::new(move |switched| {
                    task::spawn(async move {
                        let Switched { inlet, rest, permit, .. } = switched;
                        let mut echo = b"rest:".to_vec();
                        echo.extend(rest);
                        AsyncWriteExt::write_all(&mut &**inlet.socket(), &echo).await.unwrap();
                        drop((inlet, permit));
                    });
                }),
            },
            "/stream" => {
                let dropped = Dropped(events);
                let first = futures::stream::iter([Bytes::from_static(b"one "), Bytes::from_static(b"two ")]);
                let rest = futures::stream::pending().map(move |item| {
                    let _held = &dropped;
                    item
                });
                Answer::Stream { response: Response::new(200, "multipart/x-mixed-replace", ""), body: first.chain(rest).boxed() }
            }
            _ => return None,
        })
    }
}

struct Server {
    address: SocketAddr,
    options: Arc<Options>,
    permits: Arc<Permits>,
    events: mpsc::Receiver<&'static str>,
    gate: Option<oneshot::Sender<()>>,
    switch: Option<Shutdown>,
    accepting: task::JoinHandle<()>,
}

impl Server {
    fn start(adjust: impl FnOnce(&mut Options)) -> Server {
        let (switch, signal) = shutdown();
        let mut options = Options::new(signal.clone());
        for wait in [&mut options.head_wait, &mut options.idle_wait, &mut options.body_wait, &mut options.write_wait] {
            *wait = PATIENCE;
        }
        adjust(&mut options);
        let options = Arc::new(options);
        let (events, received) = mpsc::sync_channel(64);
        let (gate, at_gate) = oneshot::channel();
        let large = (0..32 << 20).map(|n: u32| (n >> 9) as u8).collect::<Vec<_>>().into();
        let probe = Arc::new(Probe { events, gate: std::sync::Mutex::new(Some(at_gate)), large });
        let permits = Permits::new(ConnectionLimits { connections: 100, per_address: 100 });
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr();
        let reactor = Arc::new(Reactor::new().unwrap());
        task::spawn({
            let reactor = Arc::clone(&reactor);
            async move { reactor.run(|| ()).await }
        });
        let shared = options.clone();
        let accepting =
            task::spawn(listener.run(reactor, permits.clone(), signal, move |accepted| serve(accepted, shared.clone(), probe.clone())));
        Server { address, options, permits, events: received, gate: Some(gate), switch: Some(switch), accepting }
    }

    fn usual() -> Server {
        Server::start(|_| ())
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream }
    }

    fn expect_event(&self, event: &str) {
        assert_eq!(self.events.recv_timeout(PATIENCE), Ok(event));
    }

    fn expect_all_closed(&self) {
        task::block_on(timeout(PATIENCE, self.permits.all_returned())).unwrap();
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// One head, or one head and its body if it has a Content-Length.
    fn receive(&mut self) -> String {
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            text.push_str(&self.receive_bytes(1));
        }
        let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
        text + &self.receive_bytes(length)
    }

    fn receive_bytes(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// All up to the server's FIN; a reset fails.
    fn receive_to_end(&mut self) -> String {
        let mut text = String::new();
        self.stream.read_to_string(&mut text).unwrap();
        text
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn last(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send(get("/1") + &post("/2", "two") + &get("/3"));
    for answer in ["GET /1 ", "POST /2 two", "GET /3 "] {
        assert_eq!(client.receive(), ok(answer));
    }
    client.send(get("/4"));
    assert_eq!(client.receive(), ok("GET /4 "));
    assert_eq!(server.options.counters.requests.load(Ordering::Relaxed), 4);
}

#[test]
fn requests_of_one_byte_writes() {
    let server = Server::usual();
    let mut client = server.connect();
    for byte in (post("/1", "one") + &get("/2")).bytes() {
        client.send([byte]);
    }
    assert_eq!(client.receive(), ok("POST /1 one"));
    assert_eq!(client.receive(), ok("GET /2 "));
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.receive_to_end(), last("200 OK", "GET /old "));
}

#[test]
fn connection_close_is_honoured() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned() + &get("/never"));
    assert_eq!(client.receive_to_end(), last("200 OK", "GET / "));
}

#[test]
fn head_gets_the_length_and_no_body() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + &get("/y"));
    let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\n";
    assert_eq!(client.receive_bytes(expected.len()), expected);
    assert_eq!(client.receive(), ok("GET /y "));
}

#[test]
fn a_chunked_body_in_pieces() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in ["2\r", "\nab", "\r\n1;x=y\r\n", "c\r\n0\r\n\r", "\n"] {
        client.send(piece);
        std::thread::yield_now();
    }
    assert_eq!(client.receive(), ok("POST /c abc"));
    client.send(get("/next"));
    assert_eq!(client.receive(), ok("GET /next "));
}

#[test]
fn a_body_is_asked_for_once_it_is_wanted() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.receive(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc");
    assert_eq!(client.receive(), ok("POST /e abc"));
}

#[test]
fn a_body_that_came_is_not_asked_for() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.receive(), ok("POST /e abc"));
}

#[test]
fn a_body_that_is_not_wanted_is_not_asked_for() {
    let server = Server::usual();
    for (target, expected) in [("/e", last("413 Content Too Large", "TooLarge body")), ("/declined", last("404 Not Found", "declined"))] {
        let mut client = server.connect();
        client.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n"));
        assert_eq!(client.receive_to_end(), expected);
    }
}

#[test]
fn a_body_of_the_limit_passes_and_one_over_is_refused() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send(post("/b", &"x".repeat(BODY_LIMIT)));
    assert_eq!(client.receive(), ok(&format!("POST /b {}", "x".repeat(BODY_LIMIT))));
    client.send(post("/b", &"x".repeat(BODY_LIMIT + 1)));
    assert_eq!(client.receive_to_end(), last("413 Content Too Large", "TooLarge body"));
    assert_eq!(server.options.counters.refused.load(Ordering::Relaxed), 1);
}

/// Without the drain the bytes that nobody reads would turn the close into a reset.
#[test]
fn a_refusal_reaches_a_client_that_has_sent_more_than_is_read() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send(post("/b", &"x".repeat(60_000)));
    assert_eq!(client.receive_to_end(), last("413 Content Too Large", "TooLarge body"));
}

#[test]
fn the_drain_is_bounded() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.receive(), last("400 Bad Request", "BadField head"));
    let ended = (0..1_000).find_map(|_| client.stream.write_all(&[b'x'; 64 << 10]).err()).unwrap();
    assert!(matches!(ended.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{ended}");
    server.expect_all_closed();
}

#[test]
fn a_drain_without_bytes_ends_in_time() {
    let server = Server::start(|options| options.drain_wait = SHORT);
    let mut client = server.connect();
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.receive_to_end(), last("400 Bad Request", "BadField head"));
    server.expect_all_closed();
}

#[test]
fn what_follows_a_refusal_is_not_served() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned() + &get("/hidden"));
    assert_eq!(client.receive_to_end(), last("501 Not Implemented", "BadField Transfer-Encoding"));
    assert_eq!(server.options.counters.requests.load(Ordering::Relaxed), 0);
}

#[test]
fn a_declined_request_without_a_body_keeps_the_connection() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send(get("/declined") + &get("/next"));
    assert_eq!(client.receive(), "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\ndeclined");
    assert_eq!(client.receive(), ok("GET /next "));
}

#[test]
fn a_declined_request_with_a_body_ends_the_connection() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send(post("/declined", &get("/hidden")));
    assert_eq!(client.receive_to_end(), last("404 Not Found", "declined"));
    assert_eq!(server.options.counters.requests.load(Ordering::Relaxed), 1);
}

#[test]
fn a_client_that_leaves_within_a_request_gets_nothing() {
    let server = Server::usual();
    for part in ["GET / HTTP/1.1\r\nHo", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell"] {
        let mut client = server.connect();
        client.send(part);
        client.stream.shutdown(Half::Write).unwrap();
        assert_eq!(client.receive_to_end(), "");
    }
    let mut client = server.connect();
    client.send("POST /gate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n");
    client.stream.shutdown(Half::Write).unwrap();
    assert_eq!(client.receive_to_end(), "");
    assert!(server.events.try_recv().is_err(), "a body cut short must not reach the handler");
}

#[test]
fn a_client_that_has_sent_its_last_request_is_answered() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send(post("/1", "one") + &get("/2"));
    client.stream.shutdown(Half::Write).unwrap();
    assert_eq!(client.receive_to_end(), ok("POST /1 one") + &ok("GET /2 "));
}

#[test]
fn a_silent_head_times_out() {
    let server = Server::start(|options| options.head_wait = SHORT);
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost");
    assert_eq!(client.receive_to_end(), last("408 Request Timeout", "BadField head"));
}

/// Each byte must not begin the deadline anew.
#[test]
fn a_dribbled_head_times_out() {
    let server = Server::start(|options| options.head_wait = SHORT);
    let mut client = server.connect();
    client.stream.set_read_timeout(Some(SHORT / 10)).unwrap();
    client.send("GET / HTTP/1.1\r\nA: ");
    let came = (0..2_000).find(|_| {
        let sent = client.stream.write_all(b"x");
        sent.is_err() || client.stream.peek(&mut [0]).is_ok()
    });
    assert!(came.is_some(), "the deadline never came");
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.receive(), last("408 Request Timeout", "BadField head"));
}

#[test]
fn a_silent_body_times_out() {
    let server = Server::start(|options| options.body_wait = SHORT);
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell");
    assert_eq!(client.receive_to_end(), last("408 Request Timeout", "BadField body"));
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let server = Server::start(|options| options.idle_wait = SHORT);
    for request in [String::new(), "\r\n\r\n".into()] {
        let mut client = server.connect();
        client.send(request);
        assert_eq!(client.receive_to_end(), "");
    }
    let mut client = server.connect();
    client.send(get("/"));
    assert_eq!(client.receive_to_end(), ok("GET / "));
}

#[test]
fn a_panic_is_answered_and_ends_one_connection_only() {
    let server = Server::usual();
    let mut other = server.connect();
    other.send(get("/1"));
    assert_eq!(other.receive(), ok("GET /1 "));
    for target in ["/panic", "/panic-early"] {
        let mut client = server.connect();
        client.send(get(target) + &get("/hidden"));
        assert_eq!(client.receive_to_end(), last("500 Internal Server Error", "Internal "));
    }
    assert_eq!(server.options.counters.panics.load(Ordering::Relaxed), 2);
    other.send(get("/2"));
    assert_eq!(other.receive(), ok("GET /2 "));
}

#[test]
fn a_watched_handler_is_dropped_when_its_client_leaves() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send(get("/watched/gate"));
    server.expect_event("waiting");
    drop(client);
    server.expect_event("dropped");
    server.expect_all_closed();
    assert_eq!(server.options.counters.abandoned.load(Ordering::Relaxed), 1);
}

#[test]
fn a_watched_handler_is_answered_while_its_client_stays() {
    let mut server = Server::usual();
    let mut client = server.connect();
    client.send(get("/watched/gate") + &get("/ahead"));
    server.expect_event("waiting");
    client.send(get("/later"));
    server.gate.take().unwrap().send(()).unwrap();
    for answer in ["GET /watched/gate ", "GET /ahead ", "GET /later "] {
        assert_eq!(client.receive(), ok(answer));
    }
}

/// A client may send ahead while it is watched, but not without end.
#[test]
fn what_is_sent_ahead_of_a_watched_handler_is_bounded() {
    let mut server = Server::usual();
    let mut client = server.connect();
    client.send(get("/watched/gate"));
    server.expect_event("waiting");
    // Blank lines are dropped as they come: they don't count, and don't keep the server from its work either.
    (0..100).for_each(|_| client.send([b'\n'; 64 << 10]));
    client.stream.set_write_timeout(Some(SHORT)).unwrap();
    let full = (0..1_000).find_map(|_| client.stream.write_all(&[b'x'; 64 << 10]).err()).unwrap();
    assert!(matches!(full.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{full}");
    server.gate.take().unwrap().send(()).unwrap();
    assert_eq!(client.receive(), ok("GET /watched/gate "));
    assert_eq!(client.receive(), last("413 Content Too Large", "TooLarge head"));
}

#[test]
fn an_unwatched_handler_goes_on_when_its_client_leaves() {
    let mut server = Server::usual();
    let mut client = server.connect();
    client.send(post("/gate", "publish"));
    server.expect_event("waiting");
    drop(client);
    server.gate.take().unwrap().send(()).unwrap();
    server.expect_event("through");
    server.expect_all_closed();
}

#[test]
fn a_large_body_arrives_whole() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("GET /large HTTP/1.0\r\n\r\n");
    let mut bytes = Vec::new();
    client.stream.read_to_end(&mut bytes).unwrap();
    let body = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(bytes.len() - body, 32 << 20);
    assert!(bytes[body..].iter().enumerate().all(|(n, byte)| *byte == (n >> 9) as u8));
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let server = Server::start(|options| options.write_wait = SHORT);
    let mut client = server.connect();
    client.send(get("/large"));
    server.expect_all_closed();
    drop(client);
}

#[test]
fn a_shutdown_closes_the_idle_at_once_and_the_busy_after_their_answer() {
    let mut server = Server::usual();
    let mut fresh = server.connect();
    let mut idle = server.connect();
    idle.send(get("/"));
    assert_eq!(idle.receive(), ok("GET / "));
    let mut busy = server.connect();
    busy.send(get("/gate") + &get("/never"));
    server.expect_event("waiting");
    server.switch.take().unwrap().begin();
    assert_eq!(idle.receive_to_end(), "");
    assert_eq!(fresh.receive_to_end(), "");
    server.gate.take().unwrap().send(()).unwrap();
    assert_eq!(busy.receive_to_end(), last("200 OK", "GET /gate "));
    drop(busy);
    server.expect_all_closed();
    task::block_on(timeout(PATIENCE, &mut server.accepting)).unwrap();
    assert_eq!(TcpStream::connect(server.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// What an idle connection costs is the future of its task: nothing that only a request needs may live in it.
#[test]
fn the_future_of_a_connection_is_small() {
    let server = Server::usual();
    let (socket, _client) = socket::pair();
    let permit = server.permits.take(Ipv4Addr::LOCALHOST.into()).unwrap();
    let (events, _) = mpsc::sync_channel(1);
    let probe = Arc::new(Probe { events, gate: std::sync::Mutex::new(None), large: Bytes::new() });
    let inlet = Inlet::new(&Arc::new(Reactor::new().unwrap()), &socket, 0).unwrap();
    let accepted = Accepted { inlet, peer: server.address, permit };
    let bytes = size_of_val(&serve(accepted, server.options.clone(), probe));
    assert!(bytes <= 600, "{bytes} bytes");
    drop(server.switch);
}

#[test]
fn the_fate_of_a_watched_answer_is_told() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("GET /fate HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.receive().ends_with("\r\n\r\nseen"));
    server.expect_event("written");
}

#[test]
fn an_answer_with_a_time_of_its_own_is_cut_off_at_its_end() {
    let server = Server::usual();
    let mut client = server.connect();
    // 32 MiB: more than the kernel takes for a client that does not read.
    client.send("GET /fate-in-time HTTP/1.1\r\nHost: a\r\n\r\n");
    server.expect_event("dropped");
    server.expect_all_closed();
}

#[test]
fn a_connection_that_switches_takes_the_bytes_behind_its_head_along() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("GET /switch HTTP/1.1\r\nHost: a\r\n\r\nearly bird");
    let mut all = String::new();
    client.stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "HTTP/1.1 101 Switching Protocols\r\n\r\nrest:early bird");
    server.expect_all_closed();
}

#[test]
fn a_stream_goes_on_until_its_reader_leaves() {
    let server = Server::usual();
    let mut client = server.connect();
    client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut seen = String::new();
    while !seen.ends_with("one two ") {
        seen.push_str(&client.receive_bytes(1));
    }
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace\r\nConnection: close\r\n\r\n"), "{seen}");
    drop(client);
    server.expect_event("dropped");
    server.expect_all_closed();
}

#[test]
fn a_stream_ends_with_the_server() {
    let mut server = Server::usual();
    let mut client = server.connect();
    client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    while !client.receive_bytes(1).ends_with('o') {}
    server.switch.take().unwrap().begin();
    server.expect_event("dropped");
    let mut rest = String::new();
    client.stream.read_to_string(&mut rest).unwrap();
    server.expect_all_closed();
}
