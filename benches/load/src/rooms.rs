//! A member of a WebSocket room, the same to all servers: a room's name is the first part of the path, and what a member sends goes to
//! the others. A picture is never kept: what matters of it is the number in front, and that its last byte has come.

use crate::driver::{Driver, Event, InOrder, Request, Who, put_number, unexpected};
use crate::websocket::{BINARY, Header, PING, PONG, UPGRADE, header, put_frame, upgraded};

/// Bytes of a picture, and of a message between two; the number is in front.
const PICTURE_BYTES: usize = 50_000;
const MESSAGE_BYTES: usize = 200;
const NUMBER_BYTES: usize = 4;

/// One member.
pub struct Member {
    who: Who,
    is_open: bool,
    /// Requests whose answers keep their order: signs of life, and what the callee says again.
    asked: InOrder,
    /// The picture that is due.
    due: u32,
    /// Bytes of it that are still to come; it is under way.
    left: usize,
}

impl Member {
    pub fn new(who: Who) -> Member {
        Member { who, is_open: false, asked: InOrder::default(), due: 0, left: 0 }
    }

    fn put_path(&self, out: &mut Vec<u8>) {
        let mut put = |name: &[u8], number: u32, place: &[u8]| {
            out.extend_from_slice(name);
            put_number(number, out);
            out.extend_from_slice(place);
        };
        match self.who {
            Who::Camera => put(b"/capture-", 0, b"/0"),
            Who::Viewer(_) | Who::Stalled(_) => put(b"/capture-", 0, b"/1"),
            Who::Caller(number) => put(b"/room-", number, b"/0/load"),
            Who::Callee(number) => put(b"/room-", number, b"/1/load"),
            // Two and two in a room.
            who => put(b"/room-", who.number() / 2, if who.number().is_multiple_of(2) { b"/0/load" } else { b"/1/load" }),
        }
    }

    /// Takes what there is of the picture under way.
    fn take_picture(&mut self, there: usize) -> Option<(usize, Event)> {
        let taken = self.left.min(there);
        self.left -= taken;
        if self.left > 0 {
            return (taken > 0).then_some((taken, Event::Part));
        }
        self.due += 1;
        Some((taken, Event::Seen(self.due - 1)))
    }

    /// Begins a picture with its header and its number. One that was left out is an error: nobody here is too slow for any.
    fn begin_picture(&mut self, input: &[u8], header: &Header) -> Result<Option<(usize, Event)>, String> {
        let Some(number) = input[header.bytes..].first_chunk::<NUMBER_BYTES>() else { return Ok(None) };
        let number = u32::from_be_bytes(*number);
        if header.payload != PICTURE_BYTES || number != self.due {
            return Err(format!("picture {number} of {} bytes came where {} was due", header.payload, self.due));
        }
        self.left = PICTURE_BYTES - NUMBER_BYTES;
        Ok(Some((header.bytes + NUMBER_BYTES, Event::Part)))
    }

    fn hear(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<Event, String> {
        match (kind, self.who) {
            (PING, _) => {
                put_frame(PONG, payload, out);
                Ok(Event::Nothing)
            }
            (PONG, _) => self.asked.answered(),
            (BINARY, Who::Callee(_)) => {
                put_frame(BINARY, payload, out);
                Ok(Event::Delivered)
            }
            (BINARY, Who::Caller(_)) if payload.len() == MESSAGE_BYTES => self.asked.answered(),
            _ => Err(unexpected(payload)),
        }
    }
}

impl Driver for Member {
    fn open(&mut self, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(b"GET ");
        self.put_path(out);
        out.extend_from_slice(b" HTTP/1.1\r\nHost: 127.0.0.1\r\n");
        out.extend_from_slice(UPGRADE);
        1
    }

    fn request(&mut self, slot: u32, request: Request, out: &mut Vec<u8>) {
        if request == Request::Ping {
            self.asked.asked(slot);
            return put_frame(PING, b"", out);
        }
        let number = if let Request::ToRoom(number) = request { number.to_be_bytes() } else { [0; NUMBER_BYTES] };
        if self.who == Who::Camera {
            let mut picture = [0; PICTURE_BYTES];
            picture[..NUMBER_BYTES].copy_from_slice(&number);
            return put_frame(BINARY, &picture, out);
        }
        self.asked.asked(slot);
        let mut message = [0; MESSAGE_BYTES];
        message[..NUMBER_BYTES].copy_from_slice(&number);
        put_frame(BINARY, &message, out);
    }

    /// The parts of a picture are its number and then whatever there is.
    fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String> {
        if self.left > 0 {
            return Ok(self.take_picture(input.len()));
        }
        if !self.is_open {
            let head = upgraded(input)?;
            self.is_open = head.is_some();
            return Ok(head.map(|head| (head, Event::Ready)));
        }
        let Some(header) = header(input)? else { return Ok(None) };
        if header.kind == BINARY && matches!(self.who, Who::Viewer(_)) {
            return self.begin_picture(input, &header);
        }
        let whole = header.bytes + header.payload;
        let Some(payload) = input.get(header.bytes..whole) else { return Ok(None) };
        Ok(Some((whole, self.hear(header.kind, payload, out)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind];
        if payload.len() < 126 {
            frame.push(payload.len() as u8);
        } else {
            frame.extend_from_slice(&[126, (payload.len() >> 8) as u8, payload.len() as u8]);
        }
        [&frame, payload].concat()
    }

    fn picture(number: u32) -> Vec<u8> {
        let mut picture = vec![7; PICTURE_BYTES];
        picture[..NUMBER_BYTES].copy_from_slice(&number.to_be_bytes());
        frame(BINARY, &picture)
    }

    fn masked(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(kind, payload, &mut out);
        out
    }

    #[test]
    fn a_viewer_sees_pictures_when_they_are_whole() {
        let input = [SWITCHED, &picture(0), &frame(PING, b"p"), &picture(1)].concat();
        let events = [Event::Ready, Event::Seen(0), Event::Nothing, Event::Seen(1)];
        crate::driver::tests::check(&|| Box::new(Member::new(Who::Viewer(1))), &input, &events, &masked(PONG, b"p"));
    }

    #[test]
    fn a_picture_that_is_left_out_is_an_error() {
        let mut viewer = Member::new(Who::Viewer(1));
        viewer.next(SWITCHED, &mut Vec::new()).unwrap();
        assert!(viewer.next(&picture(1), &mut Vec::new()).unwrap_err().contains("picture 1 of 50000 bytes came where 0 was due"));
    }

    #[test]
    fn a_callee_says_again_what_it_hears_and_its_caller_takes_that_for_the_answer() {
        let message = [1; MESSAGE_BYTES];
        let input = [SWITCHED, &frame(BINARY, &message)].concat();
        let callee = || Box::new(Member::new(Who::Callee(1))) as Box<dyn Driver>;
        crate::driver::tests::check(&callee, &input, &[Event::Ready, Event::Delivered], &masked(BINARY, &message));
        let caller = || {
            let mut caller = Member::new(Who::Caller(1));
            caller.request(5, Request::ToRoom(1), &mut Vec::new());
            Box::new(caller) as Box<dyn Driver>
        };
        crate::driver::tests::check(&caller, &input, &[Event::Ready, Event::Answered(5)], b"");
    }

    #[test]
    fn a_pong_answers_a_sign_of_life_and_a_close_is_an_error() {
        let make = || {
            let mut member = Member::new(Who::Present(3));
            member.request(0, Request::Ping, &mut Vec::new());
            Box::new(member) as Box<dyn Driver>
        };
        let input = [SWITCHED, &frame(PONG, b"")].concat();
        crate::driver::tests::check(&make, &input, &[Event::Ready, Event::Answered(0)], b"");
        let mut member = make();
        member.next(SWITCHED, &mut Vec::new()).unwrap();
        assert!(member.next(&frame(0x88, &4009_u16.to_be_bytes()), &mut Vec::new()).is_err());
    }

    #[test]
    fn two_and_two_are_in_a_room() {
        let paths = [Who::Present(4), Who::Present(5), Who::Caller(2), Who::Callee(2)].map(|who| {
            let mut out = Vec::new();
            Member::new(who).put_path(&mut out);
            out
        });
        assert_eq!(paths, [b"/room-2/0/load", b"/room-2/1/load", b"/room-2/0/load", b"/room-2/1/load"]);
    }
}
