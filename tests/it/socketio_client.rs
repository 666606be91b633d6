//! A small client of Engine.IO 3 and Socket.IO that speaks bytes: polls and POSTs written by hand, and bare WebSocket frames. It does what
//! it is told, also what no real client does. Every wait has a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::net::sockopt::set_socket_linger;

use crate::clients::{HttpAnswer, http_raw};
use crate::porter::DEADLINE;

/// A session that polls, with base64, so that everything is text.
#[derive(Clone)]
pub struct Polling {
    pub address: SocketAddr,
    pub sid: String,
}

impl Polling {
    /// A handshake; `query` is what the application adds, such as `&alias=a`. The packets behind the open packet.
    pub fn handshake(address: SocketAddr, query: &str) -> (Polling, Vec<String>) {
        let answer = get(address, &format!("/socket.io/?EIO=3&transport=polling&b64=1{query}"), "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut packets = packets(&answer.body);
        let open = packets.remove(0);
        let open: serde_json::Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
        assert_eq!(open["upgrades"][0], "websocket");
        (Polling { address, sid: open["sid"].as_str().unwrap().to_owned() }, packets)
    }

    /// A session that is let in.
    pub fn open(address: SocketAddr, query: &str) -> Polling {
        let (session, packets) = Polling::handshake(address, query);
        assert_eq!(packets, ["40"]);
        session
    }

    pub fn path(&self) -> String {
        format!("/socket.io/?EIO=3&transport=polling&sid={}", self.sid)
    }

    /// One poll.
    pub fn get(&self) -> HttpAnswer {
        get(self.address, &self.path(), "")
    }

    /// A poll that waits, on a connection of its own.
    pub fn begin_get(&self) -> TcpStream {
        let mut stream = connect(self.address);
        let request = format!("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", self.path());
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// The packets of one poll; none if the session is over.
    pub fn poll(&self) -> Vec<String> {
        let answer = self.get();
        if answer.status == 200 { packets(&answer.body) } else { Vec::new() }
    }

    /// Polls until a packet is among those that come that begins with `start`; it, and those before it.
    #[track_caller]
    pub fn poll_until(&self, start: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let came = self.poll();
            assert!(!came.is_empty(), "the session ended before {start:?}: {seen:?}");
            seen.extend(came);
            if seen.iter().any(|packet| packet.starts_with(start)) {
                return seen;
            }
        }
    }

    /// One POST of a body as it stands.
    pub fn post_body(&self, content_type: &str, body: &[u8]) -> HttpAnswer {
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.path(),
            body.len()
        );
        http_raw(self.address, &[head.as_bytes(), body].concat())
    }

    /// One POST of packets, which must be taken.
    #[track_caller]
    pub fn post(&self, packets: &[&str]) {
        let body: String = packets.iter().map(|packet| format!("{}:{packet}", packet.encode_utf16().count())).collect();
        let answer = self.post_body("text/plain;charset=UTF-8", body.as_bytes());
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    }

    /// Whether the server knows the session.
    pub fn lives(&self) -> bool {
        let answer = self.post_body("text/plain;charset=UTF-8", b"1:6");
        match (answer.status, answer.body.as_str()) {
            (200, "ok") => true,
            (400, r#"{"code":1,"message":"Session ID unknown"}"#) => false,
            other => panic!("{other:?}"),
        }
    }

    /// A WebSocket for this session; `None`: it is closed at once.
    pub fn upgrade(&self) -> Ws {
        Ws::connect(self.address, &format!("/socket.io/?EIO=3&transport=websocket&sid={}", self.sid))
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A GET without keep-alive; `headers` are whole lines.
pub fn get(address: SocketAddr, path: &str, headers: &str) -> HttpAnswer {
    http_raw(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").as_bytes())
}

/// What is left to read of a request that was begun.
pub fn finish(mut stream: TcpStream) -> HttpAnswer {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    HttpAnswer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Ends a connection as a cable that is pulled out does: by RST.
pub fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
}

/// The packets of a string payload, which is ASCII.
pub fn packets(mut body: &str) -> Vec<String> {
    assert!(body.is_ascii(), "{body}");
    let mut packets = Vec::new();
    while !body.is_empty() {
        let (length, rest) = body.split_once(':').unwrap();
        let (packet, rest) = rest.split_at(length.parse().unwrap());
        packets.push(packet.to_owned());
        body = rest;
    }
    packets
}

/// What comes over a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Pong(Vec<u8>),
    /// With its code; the connection ends behind it.
    Close(u16),
    /// The connection is over.
    End,
}

/// A bare WebSocket.
pub struct Ws {
    pub stream: TcpStream,
    pub head: String,
}

impl Ws {
    /// Asks for it; the answer must be 101.
    pub fn connect(address: SocketAddr, path: &str) -> Ws {
        let ws = Ws::ask(address, path);
        assert!(ws.head.starts_with("HTTP/1.1 101 "), "{}", ws.head);
        ws
    }

    fn ask(address: SocketAddr, path: &str) -> Ws {
        let mut stream = connect(address);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        Ws { stream, head: String::from_utf8(head).unwrap() }
    }

    /// A session that begins on a WebSocket and is let in.
    pub fn open(address: SocketAddr, query: &str) -> Ws {
        let mut ws = Ws::connect(address, &format!("/socket.io/?EIO=3&transport=websocket{query}"));
        let Frame::Text(open) = ws.next() else { panic!("no open packet") };
        assert!(open.starts_with(r#"0{"sid":""#) && open.contains(r#""upgrades":[]"#), "{open}");
        assert_eq!(ws.next(), Frame::Text("40".into()));
        ws
    }

    /// Sends a text frame.
    pub fn say(&mut self, text: &str) {
        self.send(&frame(0x81, text.as_bytes()));
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends what may be refused halfway.
    pub fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame.
    pub fn next(&mut self) -> Frame {
        let mut head = [0; 2];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                return Frame::End;
            }
            Err(error) => panic!("nothing came within the deadline: {error}"),
        }
        let mut more = [0; 8];
        let length = match head[1] {
            126 => {
                self.stream.read_exact(&mut more[6..]).unwrap();
                u64::from_be_bytes(more)
            }
            127 => {
                self.stream.read_exact(&mut more).unwrap();
                u64::from_be_bytes(more)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).unwrap();
        match head[0] {
            0x81 => Frame::Text(String::from_utf8(payload).unwrap()),
            0x88 => Frame::Close(payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code))),
            0x8a => Frame::Pong(payload),
            other => panic!("a frame {other:#x} with {payload:?}"),
        }
    }

    /// The next text frame; `None`: the connection ends, by a close frame or without.
    pub fn text(&mut self) -> Option<String> {
        loop {
            match self.next() {
                Frame::Text(text) => return Some(text),
                Frame::Pong(_) => {}
                Frame::Close(_) | Frame::End => return None,
            }
        }
    }

    /// Text frames until one that begins with `start`; it, and those before it.
    #[track_caller]
    pub fn until(&mut self, start: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let Some(text) = self.text() else { panic!("it ended before {start:?}: {seen:?}") };
            let is_there = text.starts_with(start);
            seen.push(text);
            if is_there {
                return seen;
            }
        }
    }

    /// The server answers: it pings, and waits for the pong. What came before it.
    #[track_caller]
    pub fn settle(&mut self) -> Vec<String> {
        self.say(r#"42777["server_info"]"#);
        let mut seen = self.until("43777[");
        seen.retain(|text| !text.starts_with("43777[") && !text.starts_with(r#"42["server_info_c","#));
        seen
    }
}

/// A masked frame; `first` is its first byte. The mask is zero.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length if length < 1 << 16 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
