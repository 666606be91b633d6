//! Small peers: a TCP client that speaks lines, a WebSocket client that speaks frames, and HTTP requests written by hand. Every wait has a deadline.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use porter::protocol::websocket::{Opcode, header};
use serde_json::Value;

use crate::porter::DEADLINE;

/// A TCP client of the line protocol.
pub struct Client {
    reader: BufReader<TcpStream>,
    stream: TcpStream,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).unwrap())
    }

    /// Connected, unless nobody listens: for a server that may be killed meanwhile.
    pub fn try_connect(address: SocketAddr) -> Option<Client> {
        TcpStream::connect(address).ok().map(Client::over)
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Client { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    /// Connected and bound, as an extended session.
    pub fn bound(address: SocketAddr, alias: &str) -> Client {
        let mut client = Client::connect(address);
        client.send(&format!(r#"{{"t":11,"alias":"{alias}","ext":1}}"#));
        client.expect(&format!(r#"{{"t":-11,"alias":"{alias}"}}"#));
        client
    }

    /// Connected and bound, as a session of the original protocol.
    pub fn bound_plain(address: SocketAddr, alias: &str) -> Client {
        let mut client = Client::connect(address);
        client.send(&format!(r#"{{"t":11,"alias":"{alias}"}}"#));
        client.expect(&format!(r#"{{"t":-11,"alias":"{alias}"}}"#));
        client
    }

    /// Sends one line; the next line that comes is its answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.line()
    }

    /// Sends one line; the next line that comes, as JSON.
    pub fn ask_json(&mut self, line: &str) -> Value {
        self.send(line);
        self.json()
    }

    /// Sends one line, which must be refused with this code. Returns the text for people.
    #[track_caller]
    pub fn expect_refusal(&mut self, line: &str, code: &str) -> String {
        let answer = self.ask_json(line);
        assert!(answer["t"] == 0 && answer["code"] == code, "{line} got {answer}, not {code}");
        answer["error"].as_str().unwrap().to_owned()
    }

    /// The next line must be a message; its mid.
    #[track_caller]
    pub fn mid(&mut self) -> String {
        let push = self.json();
        assert_eq!(push["t"], 5, "{push}");
        push["mid"].as_str().unwrap().to_owned()
    }

    /// Sends one line.
    pub fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends one line, if the connection still stands.
    pub fn try_send(&mut self, line: &str) -> Option<()> {
        self.stream.write_all(format!("{line}\n").as_bytes()).ok()
    }

    /// The next line, without its end. Panics at the deadline and at the end of the connection.
    pub fn line(&mut self) -> String {
        self.try_line().expect("the connection has ended")
    }

    /// The next line; `None`: the connection has ended, by FIN or reset.
    pub fn try_line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end_matches('\n').to_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => None,
            Err(error) => panic!("nothing came within the deadline: {error}"),
        }
    }

    /// The next line as JSON.
    pub fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next line as JSON; `None`: the connection has ended, perhaps within a line.
    pub fn try_json(&mut self) -> Option<Value> {
        let line = self.try_line()?;
        let parsed = serde_json::from_str(&line);
        if parsed.is_err() {
            assert_eq!(self.try_line(), None, "not JSON: {line}");
        }
        parsed.ok()
    }

    /// The next line must be exactly this.
    #[track_caller]
    pub fn expect(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// Nothing is waiting: what was sent before has been answered by `marker` frames. Sends a frame 7 and expects its answer next.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.send(r#"{"t":7,"num":"marker"}"#);
        let next = self.json();
        assert!(next["t"] == -7 && next["num"] == "marker", "expected nothing, got {next}");
    }

    /// The connection must end without a further line.
    #[track_caller]
    pub fn expect_end(&mut self) {
        assert_eq!(self.try_line(), None);
    }

    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Acknowledges.
    pub fn acknowledge(&mut self, mid: &str) {
        self.send(&format!(r#"{{"t":-5,"mid":"{mid}"}}"#));
    }

    /// Publishes to one alias and returns the answer to it.
    pub fn publish(&mut self, alias: &str, msg: &str, num: u64) -> Value {
        self.send(&format!(r#"{{"t":6,"method":"publish_to_alias","alias":"{alias}","msg":{msg},"num":{num}}}"#));
        self.json()
    }
}

/// What came back for an HTTP request.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl HttpAnswer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends raw bytes on a fresh connection and reads to its end (`Connection: close` is the caller's to ask for).
pub fn http_raw(address: SocketAddr, request: &[u8]) -> HttpAnswer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {text:?}"));
    HttpAnswer { status, head: head.to_owned(), body: body.to_owned() }
}

/// One request without keep-alive.
pub fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> HttpAnswer {
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    http_raw(address, request.as_bytes())
}

/// What a WebSocket client hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    /// The close code, 0 if there is none.
    Close(u16),
    /// The connection has ended without one.
    End,
}

/// A WebSocket client that says exactly what it is told to.
pub struct WebSocket {
    reader: BufReader<TcpStream>,
    pub stream: TcpStream,
    /// Answers pings while it waits for something else.
    pub answers_pings: bool,
}

impl WebSocket {
    /// Connected to a path, the handshake done.
    #[track_caller]
    pub fn connect(address: SocketAddr, path: &str) -> WebSocket {
        WebSocket::connect_with(address, path, "", b"")
    }

    /// With more header lines, each with its end, and bytes right behind the head.
    #[track_caller]
    pub fn connect_with(address: SocketAddr, path: &str, lines: &str, behind: &[u8]) -> WebSocket {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let mut client = WebSocket { reader: BufReader::new(stream.try_clone().unwrap()), stream, answers_pings: true };
        let mut request = handshake(path, lines).into_bytes();
        request.extend_from_slice(behind);
        client.stream.write_all(&request).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(client.reader.read_line(&mut head).unwrap() > 0, "no answer to the handshake: {head:?}");
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client
    }

    pub fn send_text(&mut self, text: &str) {
        self.send(0x81, text.as_bytes());
    }

    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.send(0x82, bytes);
    }

    pub fn send(&mut self, first: u8, payload: &[u8]) {
        self.send_bytes(&masked(first, payload));
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// What comes next, whatever it is.
    pub fn next(&mut self) -> Heard {
        let mut head = [0; 2];
        if self.read(&mut head).is_none() {
            return Heard::End;
        }
        assert_eq!(head[0] & 0xf0, 0x80, "a frame that is fragmented or has reserved bits");
        let length = match head[1] {
            126 => self.read_number::<2>(),
            127 => self.read_number::<8>(),
            short => Some(usize::from(short)),
        };
        let mut payload = vec![0; length.unwrap_or_default()];
        // A connection that is cut may end within a frame.
        if length.is_none() || self.read(&mut payload).is_none() {
            return Heard::End;
        }
        match head[0] & 0xf {
            1 => Heard::Text(String::from_utf8(payload).unwrap()),
            2 => Heard::Binary(payload),
            8 => Heard::Close(payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code))),
            9 => Heard::Ping,
            10 => Heard::Pong(payload),
            opcode => panic!("opcode {opcode}"),
        }
    }

    fn read_number<const N: usize>(&mut self) -> Option<usize> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.reader.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
            Err(error) => panic!("nothing came within the deadline: {error}"),
        }
    }

    /// What comes next but pings.
    pub fn hear(&mut self) -> Heard {
        loop {
            match self.next() {
                Heard::Ping if self.answers_pings => self.send(0x8a, b""),
                Heard::Ping => {}
                heard => return heard,
            }
        }
    }

    #[track_caller]
    pub fn expect_text(&mut self, text: &str) {
        assert_eq!(self.hear(), Heard::Text(text.to_owned()));
    }

    #[track_caller]
    pub fn expect_binary(&mut self, bytes: &[u8]) {
        match self.hear() {
            Heard::Binary(heard) => assert!(heard == bytes, "{} other bytes", heard.len()),
            heard => panic!("{heard:?} in place of {} bytes", bytes.len()),
        }
    }

    /// It must be closed with that code, and the connection must end.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) {
        assert_eq!(self.hear(), Heard::Close(code));
        assert_eq!(self.next(), Heard::End);
    }

    /// Nothing is waiting: a ping is answered next, since its answer takes the same way as all else. Frames of rooms go through the
    /// hub, so the caller must know that they are through.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.send(0x89, b"marker");
        assert_eq!(self.hear(), Heard::Pong(b"marker".to_vec()));
    }
}

/// The head of a handshake.
pub fn handshake(path: &str, lines: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
}

/// A frame as a client sends it.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(Opcode::Text, payload.len()).as_bytes().to_vec();
    bytes[0] = first;
    bytes[1] |= 0x80;
    let mask = [0x12, 0x34, 0x56, 0x78];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}
