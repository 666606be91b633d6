//! Porter's line protocol, port 9800.

use crate::driver::{BODY, Driver, Event, InOrder, Request, Who, leading_number, put_number, unexpected};

/// One link. `-6`s come when they are true, in any order, so the slot is the `num`; heartbeats are answered in order.
pub struct Link {
    who: Who,
    pings: InOrder,
}

const PUSH: &[u8] = b"{\"t\":5,\"mid\":\"";
/// What stands before the number of an opening, which is its user's name.
const OPENING: &[u8] = b"{\"t\":8,\"r\":\"gate\",\"u\":\"";

impl Link {
    pub fn new(who: Who) -> Link {
        Link { who, pings: InOrder::default() }
    }

    fn heartbeat(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"t\":1,\"alias\":\"d-");
        put_number(self.who.number(), out);
        out.extend_from_slice(b"\"}\n");
    }
}

impl Driver for Link {
    fn open(&mut self, out: &mut Vec<u8>) -> usize {
        match self.who {
            Who::Publisher(_) | Who::Opener => return 0,
            Who::Door => {
                out.extend_from_slice(b"{\"t\":10,\"r\":\"gate\",\"u\":\"door\"}\n{\"t\":11,\"alias\":\"door\"}\n");
                return 1;
            }
            _ => {}
        }
        out.extend_from_slice(b"{\"t\":11,\"alias\":\"d-");
        put_number(self.who.number(), out);
        out.extend_from_slice(b"\"}\n");
        if !self.who.subscribes() {
            return 1;
        }
        out.extend_from_slice(b"{\"t\":2,\"topic\":\"load\",\"num\":0}\n");
        2
    }

    fn request(&mut self, slot: u32, request: Request, out: &mut Vec<u8>) {
        match request {
            Request::Ping => {
                self.pings.asked(slot);
                return self.heartbeat(out);
            }
            Request::ToRoom(number) => return put_opening(OPENING, number, b"\"}\n", out),
            Request::ToOne(number) => {
                out.extend_from_slice(b"{\"t\":6,\"method\":\"publish_to_alias\",\"alias\":\"d-");
                put_number(number, out);
                out.extend_from_slice(b"\"");
            }
            Request::ToTopic => out.extend_from_slice(b"{\"t\":6,\"method\":\"publish\",\"topic\":\"load\""),
            Request::Announcement => {
                out.extend_from_slice(b"{\"t\":6,\"method\":\"publish\",\"topic\":\"load\",\"opts\":{\"time_to_live\":0}");
            }
        }
        out.extend_from_slice(b",\"msg\":\"");
        out.extend_from_slice(&BODY);
        out.extend_from_slice(b"\",\"num\":");
        put_number(slot, out);
        out.extend_from_slice(b"}\n");
    }

    fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String> {
        let Some(end) = memchr::memchr(b'\n', input) else { return Ok(None) };
        let line = &input[..end];
        let event = if let Some(rest) = line.strip_prefix(PUSH) {
            let digits = memchr::memchr(b'"', rest).ok_or_else(|| unexpected(line))?;
            out.extend_from_slice(b"{\"t\":-5,\"mid\":\"");
            out.extend_from_slice(&rest[..digits]);
            out.extend_from_slice(b"\"}\n");
            Event::Delivered
        } else if let Some(rest) = line.strip_prefix(OPENING) {
            let number = leading_number(rest).ok_or_else(|| unexpected(line))?;
            put_opening(b"{\"t\":-8,\"r\":\"gate\",\"u\":\"", number, b"\",\"ok\":true}\n", out);
            Event::Seen(number)
        } else if let Some(rest) = line.strip_prefix(b"{\"t\":-6,\"num\":") {
            Event::Answered(leading_number(rest).ok_or_else(|| unexpected(line))?)
        } else if line.starts_with(b"{\"t\":-1,") {
            self.pings.answered()?
        } else if line.starts_with(b"{\"t\":-11,") || line.starts_with(b"{\"t\":-2,") {
            Event::Ready
        } else {
            return Err(unexpected(line));
        };
        Ok(Some((end + 1, event)))
    }
}

fn put_opening(before: &[u8], number: u32, behind: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(before);
    put_number(number, out);
    out.extend_from_slice(behind);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_says_that_it_has_opened() {
        let input = b"{\"t\":-11,\"alias\":\"door\"}\n{\"t\":8,\"r\":\"gate\",\"u\":\"12\"}\n";
        let out = b"{\"t\":-8,\"r\":\"gate\",\"u\":\"12\",\"ok\":true}\n";
        crate::driver::tests::check(&|| Box::new(Link::new(Who::Door)), input, &[Event::Ready, Event::Seen(12)], out);
        let mut opening = Vec::new();
        Link::new(Who::Opener).request(0, Request::ToRoom(12), &mut opening);
        assert!(input.ends_with(&opening));
    }

    #[test]
    fn reads_what_porter_says() {
        let input = b"{\"t\":-11,\"alias\":\"d-1\"}\n{\"t\":5,\"mid\":\"77\",\"alias\":\"d-1\",\"ts\":1,\"msg\":\"x\"}\n{\"t\":-6,\"num\":12,\"mid\":\"7\"}\n";
        let events = [Event::Ready, Event::Delivered, Event::Answered(12)];
        crate::driver::tests::check(&|| Box::new(Link::new(Who::Receiver(1))), input, &events, b"{\"t\":-5,\"mid\":\"77\"}\n");
    }

    #[test]
    fn an_error_is_not_taken_for_an_answer() {
        let error = Link::new(Who::Publisher(0)).next(b"{\"t\":0,\"error\":\"x\",\"code\":\"quota\"}\n", &mut Vec::new()).unwrap_err();
        assert!(error.contains("quota"), "{error}");
    }
}
