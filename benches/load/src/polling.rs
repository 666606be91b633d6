//! A Socket.IO client that polls, on one keep-alive connection: it fetches what there is, posts what it has to say to it, and fetches
//! again; binary payloads both ways. A client that upgrades does so, on the same connection, when the first poll with messages is
//! acknowledged.

use crate::driver::{Driver, Event, Request, Who, leading_number, put_number, unexpected};
use crate::http::answer;
use crate::phone::{Phone, after};
use crate::websocket;

/// One client.
pub struct Client {
    phone: Phone,
    sid: String,
    upgrades: bool,
    /// What is not posted yet, as a payload.
    unsaid: Vec<u8>,
    packet: Vec<u8>,
    /// A POST is under way, else a GET.
    posting: bool,
    /// Bytes of the body under way whose packets are read, head included; 0: none is.
    read: usize,
    /// Messages have come.
    has_heard: bool,
    /// It is to upgrade now, and sends nothing more by itself.
    is_done: bool,
}

/// One that polls first, and then is on a WebSocket.
pub enum Upgrading {
    Polls(Option<Client>),
    Upgraded(websocket::Client),
}

impl Client {
    pub fn new(who: Who, upgrades: bool) -> Client {
        Client {
            phone: Phone::new(who),
            sid: String::new(),
            upgrades,
            unsaid: Vec::new(),
            packet: Vec::new(),
            posting: false,
            read: 0,
            has_heard: false,
            is_done: false,
        }
    }

    /// What is to be said, or else a poll.
    fn go_on(&mut self, out: &mut Vec<u8>) {
        self.posting = !self.unsaid.is_empty();
        if self.posting {
            self.phone.put_request_line("POST", "polling", &self.sid, out);
            out.extend_from_slice(b"Content-Type: application/octet-stream\r\nContent-Length: ");
            put_number(self.unsaid.len() as u32, out);
            out.extend_from_slice(b"\r\n\r\n");
            out.append(&mut self.unsaid);
        } else {
            self.phone.put_request_line("GET", "polling", &self.sid, out);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn hear(&mut self, packet: &[u8]) -> Result<Event, String> {
        if packet.starts_with(b"0{") {
            let sid = after(packet, b"\"sid\":\"", |byte| byte != b'"').ok_or_else(|| unexpected(packet))?;
            self.sid = String::from_utf8_lossy(sid).into_owned();
        }
        self.packet.clear();
        let event = self.phone.hear(packet, &mut self.packet)?;
        self.has_heard |= event == Event::Delivered;
        if !self.packet.is_empty() {
            put_packet(&self.packet, &mut self.unsaid);
        }
        Ok(event)
    }
}

impl Driver for Client {
    fn open(&mut self, out: &mut Vec<u8>) -> usize {
        self.go_on(out);
        self.phone.openings() + usize::from(self.upgrades)
    }

    fn request(&mut self, slot: u32, request: Request, _out: &mut Vec<u8>) {
        // It is said with the next POST.
        self.packet.clear();
        self.phone.request(slot, request, &mut self.packet);
        put_packet(&self.packet, &mut self.unsaid);
    }

    /// An item is a packet of a body; the last takes the whole answer. The others take nothing, so that the body stays in front.
    fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String> {
        let Some((head, body)) = answer(input)? else { return Ok(None) };
        let whole = head + body.len();
        if self.posting {
            if body != b"ok" {
                return Err(unexpected(input));
            }
            self.is_done = self.upgrades && self.has_heard;
            if !self.is_done {
                self.go_on(out);
            }
            return Ok(Some((whole, Event::Nothing)));
        }
        let (packet, end) = first_packet(&input[self.read.max(head)..whole]).ok_or_else(|| unexpected(body))?;
        let event = self.hear(packet)?;
        self.read = self.read.max(head) + end;
        if self.read < whole {
            return Ok(Some((0, event)));
        }
        self.read = 0;
        self.go_on(out);
        Ok(Some((whole, event)))
    }
}

impl Upgrading {
    pub fn new(who: Who) -> Upgrading {
        Upgrading::Polls(Some(Client::new(who, true)))
    }

    fn driver(&mut self) -> Result<&mut dyn Driver, String> {
        match self {
            Upgrading::Polls(Some(client)) => Ok(client),
            Upgrading::Polls(None) => Err("it upgrades".to_owned()),
            Upgrading::Upgraded(client) => Ok(client),
        }
    }
}

impl Driver for Upgrading {
    fn open(&mut self, out: &mut Vec<u8>) -> usize {
        self.driver().map_or(0, |driver| driver.open(out))
    }

    fn request(&mut self, slot: u32, request: Request, out: &mut Vec<u8>) {
        if let Ok(driver) = self.driver() {
            driver.request(slot, request, out);
        }
    }

    fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String> {
        let next = self.driver()?.next(input, out)?;
        if let Upgrading::Polls(polls) = self
            && let Some(client) = polls.take_if(|client| client.is_done)
        {
            *self = Upgrading::Upgraded(websocket::Client::upgrading(client.phone, &client.sid, out));
        }
        Ok(next)
    }
}

/// The first packet of a payload, binary or text, and where it ends.
fn first_packet(payload: &[u8]) -> Option<(&[u8], usize)> {
    let (length, begin) = if let [0, rest @ ..] = payload {
        let digits = memchr::memchr(0xff, rest)?;
        (rest[..digits].iter().fold(0, |length, digit| length * 10 + usize::from(*digit)), digits + 2)
    } else {
        let digits = memchr::memchr(b':', payload)?;
        (leading_number(payload)? as usize, digits + 1)
    };
    Some((payload.get(begin..begin + length)?, begin + length))
}

fn put_packet(packet: &[u8], payload: &mut Vec<u8>) {
    payload.push(0);
    let digits = payload.len();
    put_number(packet.len() as u32, payload);
    payload[digits..].iter_mut().for_each(|digit| *digit -= b'0');
    payload.push(0xff);
    payload.extend_from_slice(packet);
}

#[cfg(test)]
mod tests {
    use super::*;

    const POST: &[u8] = b"POST /socket.io/?EIO=3&transport=polling&alias=d-1&sid=ab HTTP/1.1\r\nHost: 127.0.0.1\r\n\
        Content-Type: application/octet-stream\r\nContent-Length: ";
    const GET: &[u8] = b"GET /socket.io/?EIO=3&transport=polling&alias=d-1&sid=ab HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

    fn answered(bodies: &[&[u8]]) -> Vec<u8> {
        let whole = |body: &&[u8]| [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat();
        bodies.iter().flat_map(whole).collect()
    }

    fn payload(packets: &[&str]) -> Vec<u8> {
        let mut payload = Vec::new();
        packets.iter().for_each(|packet| put_packet(packet.as_bytes(), &mut payload));
        payload
    }

    fn posted(packets: &[&str]) -> Vec<u8> {
        let payload = payload(packets);
        [POST, format!("{}\r\n\r\n", payload.len()).as_bytes(), &payload].concat()
    }

    const ACKNOWLEDGEMENTS: [&str; 2] = ["42[\"push_c\",{\"mid\":\"7\"}]", "42[\"push_c\",{\"mid\":\"8\"}]"];

    fn conversation() -> Vec<u8> {
        let pushes = payload(&["42[\"push\",{\"mid\":\"7\"}]", "42[\"push\",{\"mid\":\"8\"}]"]);
        answered(&[b"13:0{\"sid\":\"ab\"}2:40", &pushes, b"ok"])
    }

    #[test]
    fn what_a_poll_brings_is_acknowledged_together() {
        let events = [Event::Ready, Event::Ready, Event::Delivered, Event::Delivered, Event::Nothing];
        let out = [GET, &posted(&ACKNOWLEDGEMENTS), GET].concat();
        crate::driver::tests::check(&|| Box::new(Client::new(Who::Lasting(1), false)), &conversation(), &events, &out);
    }

    #[test]
    fn an_upgrade_follows_the_first_acknowledgements() {
        let input = [conversation(), b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x063probe".to_vec()].concat();
        let events = [Event::Ready, Event::Ready, Event::Delivered, Event::Delivered, Event::Nothing, Event::Nothing, Event::Ready];
        let mut out = [GET, &posted(&ACKNOWLEDGEMENTS)].concat();
        let mut upgraded = websocket::Client::upgrading(Phone::new(Who::Lasting(1)), "ab", &mut out);
        for item in [&b"HTTP/1.1 101 Switching Protocols\r\n\r\n"[..], b"\x81\x063probe"] {
            upgraded.next(item, &mut out).unwrap();
        }
        crate::driver::tests::check(&|| Box::new(Upgrading::new(Who::Lasting(1))), &input, &events, &out);
    }
}
