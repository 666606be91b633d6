//! redis's protocol, as far as XADD needs it: one stream a receiver.

use crate::driver::{BODY, BODY_BYTES, Driver, Event, InOrder, Request, leading_number, put_number, unexpected};

/// One client; answers keep the order of the requests.
#[derive(Default)]
pub struct Client {
    asked: InOrder,
}

impl Driver for Client {
    fn open(&mut self, _out: &mut Vec<u8>) -> usize {
        0
    }

    fn request(&mut self, slot: u32, request: Request, out: &mut Vec<u8>) {
        self.asked.asked(slot);
        let mut stream = b"d-".to_vec();
        put_number(if let Request::ToOne(number) = request { number } else { 0 }, &mut stream);
        out.extend_from_slice(b"*5\r\n$4\r\nXADD\r\n");
        put_text(&stream, out);
        out.extend_from_slice(b"$1\r\n*\r\n$3\r\nmsg\r\n");
        put_text(&BODY, out);
    }

    fn next(&mut self, input: &[u8], _out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String> {
        let Some(end) = memchr::memchr(b'\n', input) else { return Ok(None) };
        let Some(length) = input.strip_prefix(b"$").and_then(leading_number) else { return Err(unexpected(&input[..end])) };
        let whole = end + 1 + length as usize + 2;
        if input.len() < whole {
            return Ok(None);
        }
        Ok(Some((whole, self.asked.answered()?)))
    }
}

fn put_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'$');
    put_number(text.len() as u32, out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

const _: () = assert!(BODY_BYTES < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_redis_says() {
        let make = || {
            let mut client = Client::default();
            client.request(3, Request::ToOne(1), &mut Vec::new());
            client.request(5, Request::ToOne(2), &mut Vec::new());
            Box::new(client) as Box<dyn Driver>
        };
        crate::driver::tests::check(&make, b"$3\r\n1-0\r\n$4\r\n10-0\r\n", &[Event::Answered(3), Event::Answered(5)], b"");
        assert!(make().next(b"-ERR full\r\n", &mut Vec::new()).is_err());
    }
}
