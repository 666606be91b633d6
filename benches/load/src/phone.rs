//! What a Socket.IO client says and hears (Engine.IO 3, Socket.IO 4), whatever carries it: one packet in, at most one packet out.

use crate::driver::{BODY, Event, InOrder, Request, Who, leading_number, put_number, unexpected};

/// One client.
pub struct Phone {
    who: Who,
    pings: InOrder,
}

/// What stands before the number of a message, and before that of a request.
const MID: &[u8] = b"\"mid\":\"";
const NUM: &[u8] = b"\"num\":";

impl Phone {
    pub fn new(who: Who) -> Phone {
        Phone { who, pings: InOrder::default() }
    }

    /// How many [`Event::Ready`] it will hear: the open packet, that it is let in, and that it is registered.
    pub fn openings(&self) -> usize {
        2 + usize::from(self.who.subscribes())
    }

    /// Puts the line of a request. `sid`: empty for a new session.
    pub fn put_request_line(&self, method: &str, transport: &str, sid: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{method} /socket.io/?EIO=3&transport={transport}").as_bytes());
        if !matches!(self.who, Who::Publisher(_)) {
            out.extend_from_slice(b"&alias=d-");
            put_number(self.who.number(), out);
        }
        if !sid.is_empty() {
            out.extend_from_slice(format!("&sid={sid}").as_bytes());
        }
        out.extend_from_slice(b" HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    }

    /// Puts the packet of a request.
    pub fn request(&mut self, slot: u32, request: Request, packet: &mut Vec<u8>) {
        match request {
            Request::Ping => {
                self.pings.asked(slot);
                packet.extend_from_slice(b"42[\"heartbeat\",{\"alias\":\"d-");
                put_number(self.who.number(), packet);
                return packet.extend_from_slice(b"\"}]");
            }
            Request::ToOne(number) => {
                packet.extend_from_slice(b"42[\"do_push\",{\"method\":\"publish_to_alias\",\"alias\":\"d-");
                put_number(number, packet);
                packet.push(b'"');
            }
            Request::ToTopic | Request::ToRoom(_) => packet.extend_from_slice(b"42[\"do_push\",{\"method\":\"publish\",\"topic\":\"load\""),
            Request::Announcement => {
                packet.extend_from_slice(b"42[\"do_push\",{\"method\":\"publish\",\"topic\":\"load\",\"opts\":{\"time_to_live\":0}");
            }
        }
        packet.extend_from_slice(b",\"msg\":\"");
        packet.extend_from_slice(&BODY);
        packet.extend_from_slice(b"\",\"num\":");
        put_number(slot, packet);
        packet.extend_from_slice(b"}]");
    }

    /// Hears a packet; puts the answer to it, if there is one.
    pub fn hear(&mut self, packet: &[u8], answer: &mut Vec<u8>) -> Result<Event, String> {
        if packet.starts_with(b"42[\"push\",") {
            if !matches!(self.who, Who::Listener(_)) {
                answer.extend_from_slice(b"42[\"push_c\",{\"mid\":\"");
                answer.extend_from_slice(after(packet, MID, |byte| byte != b'"').ok_or_else(|| unexpected(packet))?);
                answer.extend_from_slice(b"\"}]");
            }
            Ok(Event::Delivered)
        } else if packet.starts_with(b"42[\"do_push_c\",{\"t\":-6,") {
            let slot = after(packet, NUM, |byte| byte.is_ascii_digit()).and_then(leading_number);
            slot.map(Event::Answered).ok_or_else(|| unexpected(packet))
        } else if packet.starts_with(b"42[\"heartbeat_c\",{\"t\":-1") {
            self.pings.answered()
        } else if packet == b"40" {
            if self.who.subscribes() {
                answer.extend_from_slice(b"42[\"register\",{\"topic\":\"load\",\"num\":0}]");
            }
            Ok(Event::Ready)
        } else if packet.starts_with(b"0{") || packet.starts_with(b"42[\"register_c\",{\"t\":-2") {
            Ok(Event::Ready)
        } else if packet == b"6" {
            Ok(Event::Nothing)
        } else {
            Err(unexpected(packet))
        }
    }
}

/// What follows `name` in `packet` for as long as `belongs`.
pub fn after<'a>(packet: &'a [u8], name: &[u8], belongs: impl Fn(u8) -> bool) -> Option<&'a [u8]> {
    let rest = &packet[memchr::memmem::find(packet, name)? + name.len()..];
    Some(&rest[..rest.iter().position(|byte| !belongs(*byte))?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_acknowledged_but_by_listeners() {
        let push = b"42[\"push\",{\"t\":5,\"mid\":\"77\",\"ts\":1,\"msg\":\"x\"}]";
        for (who, expected) in [(Who::Receiver(1), &b"42[\"push_c\",{\"mid\":\"77\"}]"[..]), (Who::Listener(1), b"")] {
            let mut answer = Vec::new();
            assert_eq!(Phone::new(who).hear(push, &mut answer), Ok(Event::Delivered));
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        let mut phone = Phone::new(Who::Publisher(0));
        assert_eq!(phone.hear(b"42[\"do_push_c\",{\"t\":-6,\"num\":12,\"mid\":\"7\"}]", &mut Vec::new()), Ok(Event::Answered(12)));
        for packet in [&b"42[\"do_push_c\",{\"t\":0,\"error\":\"x\",\"code\":\"quota\",\"num\":1}]"[..], b"44{\"t\":0}", b"1", b"41", b""] {
            assert!(phone.hear(packet, &mut Vec::new()).is_err());
        }
    }
}
