//! HTTP/1.1, as far as a push over REST needs it: one keep-alive connection.

use crate::driver::{BODY, Driver, Event, InOrder, Request, leading_number, put_number, unexpected};

/// One client; answers keep the order of the requests.
pub struct Client {
    head: Vec<u8>,
    asked: InOrder,
}

impl Client {
    /// A client that pushes with `token`.
    pub fn new(token: &str) -> Client {
        let head = format!("POST /push/{token} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ");
        Client { head: head.into_bytes(), asked: InOrder::default() }
    }
}

impl Driver for Client {
    fn open(&mut self, _out: &mut Vec<u8>) -> usize {
        0
    }

    fn request(&mut self, slot: u32, request: Request, out: &mut Vec<u8>) {
        self.asked.asked(slot);
        let mut body = b"{\"t\":6,\"method\":\"publish_to_alias\",\"alias\":\"d-".to_vec();
        put_number(if let Request::ToOne(number) = request { number } else { 0 }, &mut body);
        body.extend_from_slice(b"\",\"msg\":\"");
        body.extend_from_slice(&BODY);
        body.extend_from_slice(b"\",\"num\":");
        put_number(slot, &mut body);
        body.push(b'}');
        out.extend_from_slice(&self.head);
        put_number(body.len() as u32, out);
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&body);
    }

    fn next(&mut self, input: &[u8], _out: &mut Vec<u8>) -> Result<Option<(usize, Event)>, String> {
        let Some((begin, body)) = answer(input)? else { return Ok(None) };
        if !body.starts_with(b"{\"t\":-6,") {
            return Err(unexpected(input));
        }
        Ok(Some((begin + body.len(), self.asked.answered()?)))
    }
}

/// The first answer, if it is whole: where its body begins, and the body. Any other than 200 is an error.
pub fn answer(input: &[u8]) -> Result<Option<(usize, &[u8])>, String> {
    let Some(head) = memchr::memmem::find(input, b"\r\n\r\n") else { return Ok(None) };
    let length = content_length(&input[..head]).ok_or_else(|| unexpected(&input[..head]))?;
    let begin = head + 4;
    let Some(body) = input.get(begin..begin + length) else { return Ok(None) };
    if !input.starts_with(b"HTTP/1.1 200 ") {
        return Err(unexpected(input));
    }
    Ok(Some((begin, body)))
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let line = head.split(|byte| *byte == b'\n').find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))?;
    leading_number(line[NAME.len()..].trim_ascii()).map(|length| length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_answer() {
        let make = || {
            let mut client = Client::new("t");
            client.request(0, Request::ToOne(1), &mut Vec::new());
            Box::new(client) as Box<dyn Driver>
        };
        let input = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"t\":-6,1}";
        crate::driver::tests::check(&make, input, &[Event::Answered(0)], b"");
        assert!(make().next(b"HTTP/1.1 429 Too Many\r\nContent-Length: 7\r\n\r\n{\"t\":0}", &mut Vec::new()).is_err());
    }
}
