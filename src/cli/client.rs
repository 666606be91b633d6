//! `porter pub` and `porter sub`: a small blocking client of the line protocol (Protocol §6), for people and scripts.
//!
//! It trusts the server with nothing but its time: lines are bounded, and what is printed can't steer a terminal.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Shutdown, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::arguments::Arguments;
use super::{Failure, read_input};
use crate::config::Config;
use crate::limits::COMMIT_WAIT_MAX;
use crate::runtime::clock;
use crate::runtime::logger::Harmless;

/// Bytes of a line from the server: the largest frame that a server can be set to, and its envelope.
const LINE_BYTES_MAX: usize = (4 << 20) + (1 << 10);
/// Bytes of a message from the standard input: the largest frame that a server can be set to.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// How long one address may take to accept, and a write to be taken.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long the answer to a publish may take: the server gives up before.
const ANSWER_WAIT: Duration = COMMIT_WAIT_MAX.saturating_mul(3);
/// How long the last acknowledgement may take to get through.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Publishes one message and prints the answer.
pub(super) fn publish(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let frame = publish_frame(arguments, token(arguments).as_deref())?;
    let server = server(arguments, config);
    let failed = |e: io::Error| Failure::Failed(format!("{server}: {e}"));
    let mut connection = Connection::open(&server).map_err(failed)?;
    connection.send(&frame).map_err(failed)?;
    let deadline = clock::mono() + ANSWER_WAIT;
    loop {
        let line = connection.receive(deadline).map_err(failed)?;
        let Some(line) = line else { return Err(Failure::Failed(format!("{server}: no answer; the message may still arrive"))) };
        let kind = Frame::read(&line).map(|frame| frame.t);
        if matches!(kind, Some(0 | -6)) {
            print(out, &line)?;
            return Ok(if kind == Some(-6) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
}

/// Prints what arrives for an alias until it is interrupted, or the number of messages asked for has come.
pub(super) fn subscribe(arguments: &Arguments, config: &Config, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let count = match arguments.option("count") {
        None => None,
        Some(count) => Some(
            count
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| arguments.usage(&format!("--count is '{count}', but must be a positive number")))?,
        ),
    };
    let subscription = Subscription {
        server: server(arguments, config),
        alias: arguments.required("alias")?.to_owned(),
        topics: arguments.all("topic").map(str::to_owned).collect(),
        token: token(arguments),
        pauses: (Duration::from_secs(1), Duration::from_secs(30)),
        heartbeat: Duration::from_secs(60),
    };
    subscription.run(count, out)
}

/// What `porter sub` keeps up across connections.
struct Subscription {
    server: String,
    alias: String,
    topics: Vec<String>,
    token: Option<String>,
    /// Between two attempts: the first pause, doubled up to the second.
    pauses: (Duration, Duration),
    /// Between two heartbeats; a server silent for two and a half is given up.
    heartbeat: Duration,
}

/// How one connection of a subscription ended, where that is no failure of the command.
enum End {
    /// All messages asked for have come.
    Complete,
    /// To be made anew; whether the server had accepted the alias.
    Lost { why: String, bound: bool },
}

impl Subscription {
    fn run(&self, mut left: Option<u64>, out: &mut dyn Write) -> Result<ExitCode, Failure> {
        let mut pause = self.pauses.0;
        loop {
            match self.connect_once(&mut left, out)? {
                End::Complete => return Ok(ExitCode::SUCCESS),
                End::Lost { why, bound } => {
                    if bound {
                        pause = self.pauses.0;
                    }
                    log::warn!("connection_lost server={} reason=\"{why}\" again_in_s={}", self.server, pause.as_secs());
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(self.pauses.1);
                }
            }
        }
    }

    /// One connection, from its first frame to its end.
    fn connect_once(&self, left: &mut Option<u64>, out: &mut dyn Write) -> Result<End, Failure> {
        let mut bound = false;
        let lost = |e: io::Error, bound| Ok(End::Lost { why: e.to_string(), bound });
        let mut connection = match Connection::open(&self.server).and_then(|connection| self.greet(connection)) {
            Ok(connection) => connection,
            Err(e) => return lost(e, bound),
        };
        let mut heard = clock::mono();
        loop {
            match connection.receive(clock::mono() + self.heartbeat) {
                Ok(Some(line)) => {
                    heard = clock::mono();
                    if let Some(end) = self.take(&line, &mut connection, &mut bound, left, out)? {
                        return Ok(end);
                    }
                }
                Ok(None) if heard.elapsed() * 2 > self.heartbeat * 5 => {
                    return Ok(End::Lost { why: "the server is silent".to_owned(), bound });
                }
                Ok(None) => {
                    if let Err(e) = connection.send(&format!(r#"{{"t":1,"alias":{}}}"#, json(&self.alias))) {
                        return lost(e, bound);
                    }
                }
                Err(e) => return lost(e, bound),
            }
        }
    }

    /// Binds the alias and subscribes its topics.
    fn greet(&self, mut connection: Connection) -> io::Result<Connection> {
        let token = self.token.as_deref().map_or_else(String::new, |token| format!(r#","token":{}"#, json(token)));
        connection.send(&format!(r#"{{"t":11,"alias":{},"ext":1{token}}}"#, json(&self.alias)))?;
        if !self.topics.is_empty() {
            connection.send(&format!(r#"{{"t":2,"topic":{},"num":"topics"}}"#, json_list(self.topics.iter().map(String::as_str))))?;
        }
        Ok(connection)
    }

    /// One line: print it, acknowledge it once it is printed, or say how it ends all.
    fn take(
        &self,
        line: &str,
        connection: &mut Connection,
        bound: &mut bool,
        left: &mut Option<u64>,
        out: &mut dyn Write,
    ) -> Result<Option<End>, Failure> {
        let Some(frame) = Frame::read(line) else {
            return Ok(Some(End::Lost { why: "what it says is no frame".to_owned(), bound: *bound }));
        };
        match frame.t {
            -1 => {}
            -2 => log::info!("subscribed alias=\"{}\"", self.alias),
            -11 => {
                *bound = true;
                log::info!("bound alias=\"{}\" server={}", self.alias, self.server);
            }
            0 if frame.passes() => return Ok(Some(End::Lost { why: line.to_owned(), bound: *bound })),
            0 => return Err(Failure::Failed(format!("{}: {line}", self.server))),
            5 => {
                print(out, line)?;
                let mid = frame.mid.map_or("null", RawValue::get);
                if let Err(e) = connection.send(&format!(r#"{{"t":-5,"mid":{mid}}}"#)) {
                    return Ok(Some(End::Lost { why: e.to_string(), bound: *bound }));
                }
                *left = left.map(|n| n - 1);
                if *left == Some(0) {
                    connection.close();
                    return Ok(Some(End::Complete));
                }
            }
            _ => print(out, line)?,
        }
        Ok(None)
    }
}

/// The part of a frame that the client acts on.
#[derive(Deserialize)]
struct Frame<'a> {
    t: i64,
    #[serde(borrow, default)]
    mid: Option<&'a RawValue>,
    #[serde(default)]
    code: Option<String>,
}

impl Frame<'_> {
    fn read(line: &str) -> Option<Frame<'_>> {
        serde_json::from_str(line).ok()
    }

    /// Whether an error may be gone at the next attempt.
    fn passes(&self) -> bool {
        matches!(self.code.as_deref(), Some("unavailable" | "internal" | "rate_limited" | "quota"))
    }
}

/// A connection that speaks lines.
struct Connection {
    reader: BufReader<TcpStream>,
    /// What has come of the next line.
    line: Vec<u8>,
}

impl Connection {
    fn open(server: &str) -> io::Result<Connection> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
        for address in server.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_WAIT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(CONNECT_WAIT))?;
                    return Ok(Connection { reader: BufReader::new(stream), line: Vec::new() });
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn send(&mut self, frame: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(format!("{frame}\n").as_bytes())
    }

    /// The next line without its end; `None` at the deadline. A closed connection is an error.
    fn receive(&mut self, deadline: Instant) -> io::Result<Option<String>> {
        loop {
            let left = deadline.saturating_duration_since(clock::mono());
            if left.is_zero() {
                return Ok(None);
            }
            self.reader.get_ref().set_read_timeout(Some(left))?;
            let come = match self.reader.fill_buf() {
                Ok([]) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
                Ok(come) => come,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => continue,
                Err(e) => return Err(e),
            };
            let (taken, whole) = memchr::memchr(b'\n', come).map_or((come.len(), false), |at| (at + 1, true));
            self.line.extend_from_slice(&come[..taken]);
            self.reader.consume(taken);
            if self.line.len() > LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end"));
            }
            if whole {
                let line = String::from_utf8(std::mem::take(&mut self.line));
                let line = line.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a line that is no UTF-8"))?;
                return Ok(Some(line.trim_end().to_owned()));
            }
        }
    }

    /// Closes so that what was sent last arrives: with unread bytes here, closing at once would reset the connection.
    fn close(&mut self) {
        if self.reader.get_ref().shutdown(Shutdown::Write).is_ok() {
            let deadline = clock::mono() + CLOSE_WAIT;
            while let Ok(Some(_)) = self.receive(deadline) {}
        }
    }
}

/// The frame of a publish.
fn publish_frame(arguments: &Arguments, token: Option<&str>) -> Result<String, Failure> {
    let aliases: Vec<&str> = arguments.all("alias").collect();
    let topics: Vec<&str> = arguments.all("topic").collect();
    let receivers = match (aliases.is_empty(), topics.is_empty()) {
        (false, true) => format!(r#""method":"publish_to_alias","alias":{}"#, json_list(aliases.into_iter())),
        (true, false) => format!(r#""method":"publish","topic":{}"#, json_list(topics.into_iter())),
        (true, true) => return Err(arguments.usage("to whom? --alias or --topic is missing")),
        (false, false) => return Err(arguments.usage("--alias and --topic can't stand together")),
    };
    let mut options = Vec::new();
    if let Some(ttl) = arguments.option("ttl") {
        let seconds: u32 = ttl.parse().map_err(|_| arguments.usage(&format!("--ttl is '{ttl}', but must be a number of seconds")))?;
        options.push(format!(r#""time_to_live":{seconds}"#));
    }
    if let Some(id) = arguments.option("id") {
        options.push(format!(r#""id":{}"#, json(id)));
    }
    let message = match arguments.words.first() {
        Some(message) => message.clone(),
        None => read_input("message", MESSAGE_BYTES_MAX)?,
    };
    let message = if arguments.switch("json") { one_line(&message)? } else { json(&message) };
    let token = token.map_or_else(String::new, |token| format!(r#","token":{}"#, json(token)));
    Ok(format!(r#"{{"t":6,{receivers},"msg":{message},"opts":{{{}}},"num":1{token}}}"#, options.join(",")))
}

/// JSON as it was written, on one line: line breaks can only stand between its tokens.
fn one_line(message: &str) -> Result<String, Failure> {
    serde_json::from_str::<&RawValue>(message).map_err(|e| Failure::Failed(format!("the message is not JSON: {e}")))?;
    Ok(message.trim().replace(['\r', '\n'], " "))
}

/// The server's TCP port: as told, or the one that the settings name on this machine.
fn server(arguments: &Arguments, config: &Config) -> String {
    let host = match config.bind {
        IpAddr::V4(a) if a.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(a) if a.is_unspecified() => "[::1]".to_owned(),
        IpAddr::V4(a) => a.to_string(),
        IpAddr::V6(a) => format!("[{a}]"),
    };
    arguments.option("server").map_or_else(|| format!("{host}:{}", config.tcp_port), str::to_owned)
}

fn token(arguments: &Arguments) -> Option<String> {
    arguments.option("token").map(str::to_owned).or_else(|| std::env::var("PORTER_TOKEN").ok()).filter(|token| !token.is_empty())
}

/// One line to the standard output, at once: a reader behind a pipe waits for it.
fn print(out: &mut dyn Write, line: &str) -> Result<(), Failure> {
    writeln!(out, "{}", Harmless(line)).and_then(|()| out.flush()).map_err(Failure::Output)
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn json_list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", items.map(json).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc::sync_channel;
    use std::thread;

    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        Arguments::read(words.iter().map(std::ffi::OsString::from).collect()).unwrap()
    }

    fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    /// A server that plays its part: for each connection the lines it expects, and after each what it says.
    fn play(parts: Vec<Vec<(&'static str, &'static str)>>) -> (String, thread::JoinHandle<()>) {
        let (listener, address) = listener();
        let server = thread::spawn(move || {
            for part in parts {
                let mut peer = BufReader::new(listener.accept().unwrap().0);
                for (expected, said) in part {
                    let mut line = String::new();
                    peer.read_line(&mut line).unwrap();
                    assert_eq!(line.trim_end(), expected);
                    peer.get_mut().write_all(said.as_bytes()).unwrap();
                }
            }
        });
        (address, server)
    }

    fn subscription(server: String) -> Subscription {
        Subscription {
            server,
            alias: "door".to_owned(),
            topics: vec!["house 3".to_owned()],
            token: Some("abc".to_owned()),
            pauses: (Duration::from_millis(1), Duration::from_millis(4)),
            heartbeat: Duration::from_secs(600),
        }
    }

    const BIND: (&str, &str) = (r#"{"t":11,"alias":"door","ext":1,"token":"abc"}"#, "{\"t\":-11,\"alias\":\"door\"}\n");
    const REGISTER: (&str, &str) =
        (r#"{"t":2,"topic":["house 3"],"num":"topics"}"#, "{\"t\":-2,\"num\":\"topics\"}\r\n{\"t\":5,\"mid\":\"7\",\"msg\":\"\u{85}x\"}\n");

    #[test]
    fn frames_are_printed_then_acknowledged_across_lost_connections() {
        let first = vec![BIND, REGISTER, (r#"{"t":-5,"mid":"7"}"#, "{\"t\":15,\"mid\":\"6\"}\n")];
        let second = vec![BIND, REGISTER, (r#"{"t":-5,"mid":"7"}"#, "")];
        let (address, server) = play(vec![first, second]);
        let mut out = Vec::new();
        assert!(subscription(address).run(Some(2), &mut out).is_ok());
        server.join().unwrap();
        let push = "{\"t\":5,\"mid\":\"7\",\"msg\":\"\\u0085x\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), format!("{push}{{\"t\":15,\"mid\":\"6\"}}\n{push}"));
    }

    #[test]
    fn a_refusal_ends_it_and_an_overload_does_not() {
        let overload = (BIND.0, "{\"t\":0,\"error\":\"…\",\"code\":\"unavailable\"}\n");
        let refusal = (BIND.0, "{\"t\":0,\"error\":\"no\",\"code\":\"bad_token\"}\n");
        let (address, server) = play(vec![vec![overload], vec![refusal]]);
        let failure = subscription(address).run(None, &mut Vec::new());
        assert!(matches!(failure, Err(Failure::Failed(text)) if text.contains("bad_token")));
        server.join().unwrap();
    }

    #[test]
    fn a_silent_time_is_filled_with_heartbeats() {
        let heartbeat = (r#"{"t":1,"alias":"door"}"#, "{\"t\":-1,\"alias\":\"door\",\"ts\":1}\n");
        let last = (heartbeat.0, "{\"t\":5,\"mid\":\"7\",\"msg\":1}\n");
        let (address, server) = play(vec![vec![BIND, heartbeat, last, (r#"{"t":-5,"mid":"7"}"#, "")]]);
        let subscription = Subscription { topics: Vec::new(), heartbeat: Duration::from_millis(20), ..subscription(address) };
        assert!(subscription.run(Some(1), &mut Vec::new()).is_ok());
        server.join().unwrap();
    }

    #[test]
    fn a_line_may_come_in_pieces_and_has_a_bound() {
        let (listener, address) = listener();
        let (go, gone) = sync_channel(1);
        let server = thread::spawn(move || {
            let mut peer = listener.accept().unwrap().0;
            peer.write_all(b"{\"t\"").unwrap();
            gone.recv().unwrap();
            peer.write_all(b":1}\n").unwrap();
            // The client leaves before all of it is taken.
            let _ = peer.write_all(&vec![b'x'; LINE_BYTES_MAX * 2]);
        });
        let mut connection = Connection::open(&address).unwrap();
        assert_eq!(connection.receive(clock::mono() + Duration::from_millis(50)).unwrap(), None);
        go.send(()).unwrap();
        let far = clock::mono() + Duration::from_secs(600);
        assert_eq!(connection.receive(far).unwrap().as_deref(), Some("{\"t\":1}"));
        assert_eq!(connection.receive(far).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(connection);
        server.join().unwrap();
    }

    #[test]
    fn the_answer_to_a_publish_is_printed_and_decides_the_exit_code() {
        let config = crate::config::Effective::new(&crate::config::Layers::default()).unwrap().config;
        let frame = r#"{"t":6,"method":"publish_to_alias","alias":["a"],"msg":"hi","opts":{},"num":1,"token":"abc"}"#;
        for (answer, code) in
            [("{\"t\":-6,\"num\":1}\n", ExitCode::SUCCESS), ("{\"t\":0,\"code\":\"quota\",\"num\":1}\n", ExitCode::FAILURE)]
        {
            let (address, server) = play(vec![vec![(frame, answer)]]);
            let mut out = Vec::new();
            let done = publish(&arguments(&["pub", "--alias", "a", "--server", &address, "--token", "abc", "hi"]), &config, &mut out);
            assert_eq!(done.map_err(|_| ()), Ok(code));
            assert_eq!(String::from_utf8(out).unwrap(), answer);
            server.join().unwrap();
        }
    }

    #[test]
    fn a_publish_is_one_line_with_the_message_as_written() {
        let frame = |words: &[&str]| publish_frame(&arguments(words), None).map_err(|_| ());
        assert_eq!(
            frame(&["pub", "--topic", "a", "--topic", "b\"", "--ttl", "30", "--id", "k", "--json", "{\"b\": 1.0,\n\"a\":\"\\u00e9\"}\n"])
                .unwrap(),
            r#"{"t":6,"method":"publish","topic":["a","b\""],"msg":{"b": 1.0, "a":"\u00e9"},"opts":{"time_to_live":30,"id":"k"},"num":1}"#
        );
        assert_eq!(
            frame(&["pub", "--alias", "a", "two\nlines"]).unwrap(),
            r#"{"t":6,"method":"publish_to_alias","alias":["a"],"msg":"two\nlines","opts":{},"num":1}"#
        );
        for bad in [
            &["pub", "x"][..],
            &["pub", "--alias", "a", "--topic", "b", "x"],
            &["pub", "--alias", "a", "--ttl", "soon", "x"],
            &["pub", "--alias", "a", "--json", "{"],
        ] {
            assert_eq!(frame(bad), Err(()), "{bad:?}");
        }
    }
}
