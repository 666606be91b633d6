//! HTTP/1.0 and 1.1 requests from bytes, responses to bytes; bounded and strict.
//!
//! ```text
//! push ──▶ input ──▶ Head ──admit_body(limit)──▶ Body ──▶ input of the next request
//! ```
//! Whoever owns the connection pushes what it read and asks for heads and bodies in turn. Between head and body it names the
//! limit, since that depends on the route. Requests may follow one another without a pause: what was pushed stays here until its
//! turn. A refusal is final, for behind it nobody knows where the next request begins.
//!
//! No sockets, no waiting, no routes; deadlines belong to `server::http`.

mod body;
pub mod head;
pub mod refusal;
pub mod response;
#[cfg(test)]
mod tests;

use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::protocol::refusal::Code;
use body::Body;
use head::{Framing, Head};
use refusal::HttpRefusal;

/// Reads the requests of one connection. Holds no memory between requests.
#[derive(Debug)]
pub struct Decoder {
    /// What was pushed; the first `taken` bytes have been used.
    input: Vec<u8>,
    taken: usize,
    /// Where the line of the head that is searched for its end begins.
    line: usize,
    /// How far the head has been searched: no byte is searched twice.
    searched: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The next byte belongs to a head.
    Head,
    /// A head came out; its body's limit is not known yet.
    Held { framing: Framing, expects_continue: bool },
    /// The next byte belongs to a body.
    Body { body: Body, expects_continue: bool },
    /// Nothing more can be read.
    Refused(HttpRefusal),
}

impl Decoder {
    /// A decoder for a new connection.
    #[must_use]
    pub fn new() -> Decoder {
        Decoder { input: Vec::new(), taken: 0, line: 0, searched: 0, state: State::Head }
    }

    /// Takes the bytes that were read. The caller bounds them: it reads only when a head or body needs more, or little is ahead.
    pub fn push(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::Refused(_)) {
            return;
        }
        self.drop_taken();
        self.input.extend_from_slice(bytes);
        if matches!(self.state, State::Head) {
            self.skip_blank_lines();
        }
    }

    /// The next head; `None` when more bytes are needed. Its body must be admitted and taken before there is another.
    ///
    /// # Errors
    /// What the request is refused for. Then all later calls return the same.
    pub fn next_head(&mut self) -> Result<Option<Head>, HttpRefusal> {
        let head = match self.state {
            State::Head => self.take_head(),
            State::Held { .. } | State::Body { .. } => Ok(None),
            State::Refused(refusal) => Err(refusal),
        };
        head.map_err(|refusal| self.refuse(refusal))
    }

    /// Lets the body of the head that just came out be read, up to `limit` bytes. Without such a head it does nothing.
    ///
    /// # Errors
    /// `too_large`, if the head has already claimed more.
    pub fn admit_body(&mut self, limit: usize) -> Result<(), HttpRefusal> {
        if let State::Held { framing, expects_continue } = self.state {
            let body = Body::new(framing, limit).map_err(|refusal| self.refuse(refusal))?;
            self.state = State::Body { body, expects_continue };
        }
        Ok(())
    }

    /// The whole admitted body, empty where there is none; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What the request is refused for. Then all later calls return the same.
    pub fn next_body(&mut self) -> Result<Option<Vec<u8>>, HttpRefusal> {
        let data = match self.state {
            State::Head | State::Held { .. } => Ok(None),
            State::Body { .. } => self.take_body(),
            State::Refused(refusal) => Err(refusal),
        };
        data.map_err(|refusal| self.refuse(refusal))
    }

    /// Whether the peer waits for [`response::CONTINUE`]: it asked for it, the body is admitted, and none of it has come (G10).
    #[must_use]
    pub fn awaits_continue(&self) -> bool {
        match &self.state {
            State::Body { body, expects_continue } => *expects_continue && body.is_untouched() && self.bytes_ahead() == 0,
            _ => false,
        }
    }

    /// Whether no byte of a next request has come: the connection may end here without harm.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head) && self.bytes_ahead() == 0
    }

    /// Bytes that were pushed and belong to no event yet.
    #[must_use]
    pub fn bytes_ahead(&self) -> usize {
        self.input.len() - self.taken
    }

    /// What was pushed behind the last request: the connection goes on in another protocol.
    #[must_use]
    pub fn into_rest(mut self) -> Vec<u8> {
        self.input.split_off(self.taken)
    }

    fn take_head(&mut self) -> Result<Option<Head>, HttpRefusal> {
        let Some(end) = self.find_head_end()? else {
            return Ok(None);
        };
        let head = Head::decode(&self.input[self.taken..end])?;
        self.take_to(end);
        self.state = State::Held { framing: head.framing(), expects_continue: head.expects_continue() };
        Ok(Some(head))
    }

    fn take_body(&mut self) -> Result<Option<Vec<u8>>, HttpRefusal> {
        let State::Body { body, .. } = &mut self.state else {
            return Ok(None);
        };
        let bytes = body.take_from(&self.input[self.taken..])?;
        let data = body.take_complete();
        self.take_to(self.taken + bytes);
        if data.is_some() {
            self.state = State::Head;
            self.skip_blank_lines();
        }
        Ok(data)
    }

    /// Some clients send a line break behind a body: it belongs to no request, and must not start a head's deadline.
    fn skip_blank_lines(&mut self) {
        while self.line == self.taken {
            let bytes = match &self.input[self.taken..] {
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                _ => return,
            };
            self.take_to(self.taken + bytes);
        }
    }

    /// Where the head ends, behind its blank line. Lines may end in LF alone, as httparse takes them.
    fn find_head_end(&mut self) -> Result<Option<usize>, HttpRefusal> {
        let last = self.input.len().min(self.taken + HTTP_HEAD_BYTES_MAX);
        while let Some(found) = memchr::memchr(b'\n', &self.input[self.searched..last]) {
            let line_feed = self.searched + found;
            let line = &self.input[self.line..line_feed];
            self.searched = line_feed + 1;
            self.line = self.searched;
            if matches!(line, [] | [b'\r']) {
                return Ok(Some(self.searched));
            }
        }
        self.searched = last;
        if last - self.taken == HTTP_HEAD_BYTES_MAX { Err(HttpRefusal::new(Code::TooLarge, "head")) } else { Ok(None) }
    }

    /// Marks the input before `end` as used; frees it where nothing is left.
    fn take_to(&mut self, end: usize) {
        self.taken = end;
        if end == self.input.len() {
            self.input = Vec::new();
            self.taken = 0;
        }
        self.line = self.taken;
        self.searched = self.taken;
    }

    /// Moves what is left to the front, so that the input never holds more than it needs.
    fn drop_taken(&mut self) {
        self.input.drain(..self.taken);
        self.line -= self.taken;
        self.searched -= self.taken;
        self.taken = 0;
    }

    fn refuse(&mut self, refusal: HttpRefusal) -> HttpRefusal {
        self.input = Vec::new();
        self.take_to(0);
        self.state = State::Refused(refusal);
        refusal
    }
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}
