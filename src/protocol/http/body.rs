//! The body of one HTTP/1 request: its bytes, freed of their framing (G4).
//!
//! Memory grows with the bytes that come, not with the length that was claimed. Every byte is looked at once. Line ends must be CR LF
//! here, unlike in a head: a chunk's size line is where two servers are most easily made to disagree.

use super::head::Framing;
use super::refusal::HttpRefusal;
use crate::limits::{HTTP_CHUNK_DIGITS_MAX, HTTP_CHUNK_LINE_BYTES_MAX, HTTP_HEAD_BYTES_MAX, HTTP_TRAILER_LINES_MAX};
use crate::protocol::refusal::Code;

/// A body as far as it has come.
#[derive(Debug)]
pub(super) struct Body {
    data: Vec<u8>,
    limit: usize,
    phase: Phase,
    /// Whether any byte of it, framing included, has come.
    begun: bool,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Data of a body with a Content-Length; so many are left.
    Counted { left: usize },
    /// The hex digits of a chunk's size.
    Size { digits: usize, size: usize },
    /// Spaces behind the digits. `line` counts the bytes of the line.
    Padding { line: usize, size: usize },
    /// The rest of the size line: ignored. `line` counts its bytes.
    Extension { line: usize, size: usize },
    /// The LF of the size line.
    SizeEnd { size: usize },
    /// Data of a chunk; so many are left.
    Data { left: usize },
    /// The CR behind a chunk's data.
    DataCr,
    /// The LF behind a chunk's data.
    DataLf,
    /// The first byte of a trailer line, or the CR of the last line.
    TrailerStart { lines: usize, bytes: usize },
    /// The rest of a trailer line: ignored.
    Trailer { lines: usize, bytes: usize },
    /// The LF of a trailer line.
    TrailerLf { lines: usize, bytes: usize },
    /// The LF that ends the body.
    LastLf,
    /// Complete.
    Done,
}

impl Body {
    /// A body that may hold `limit` bytes of data. Refused at once if it claims more.
    pub(super) fn new(framing: Framing, limit: usize) -> Result<Body, HttpRefusal> {
        let phase = match framing {
            Framing::None => Phase::Done,
            Framing::Chunked => Phase::Size { digits: 0, size: 0 },
            Framing::Length(length) => match usize::try_from(length) {
                Ok(left) if left <= limit => Phase::Counted { left },
                _ => return Err(TOO_LARGE),
            },
        };
        Ok(Body { data: Vec::new(), limit, phase, begun: false })
    }

    /// Takes what belongs to the body from the front of `input` and says how many bytes that was.
    pub(super) fn take_from(&mut self, input: &[u8]) -> Result<usize, HttpRefusal> {
        let mut taken = 0;
        while taken < input.len() && self.phase != Phase::Done {
            self.begun = true;
            let rest = &input[taken..];
            match self.phase {
                Phase::Counted { left } => {
                    let bytes = left.min(rest.len());
                    self.data.extend_from_slice(&rest[..bytes]);
                    self.phase = if bytes == left { Phase::Done } else { Phase::Counted { left: left - bytes } };
                    taken += bytes;
                }
                Phase::Data { left } => {
                    let bytes = left.min(rest.len());
                    self.data.extend_from_slice(&rest[..bytes]);
                    self.phase = if bytes == left { Phase::DataCr } else { Phase::Data { left: left - bytes } };
                    taken += bytes;
                }
                phase => {
                    self.phase = self.after(phase, rest[0])?;
                    taken += 1;
                }
            }
        }
        Ok(taken)
    }

    /// The data, once its last byte has come.
    pub(super) fn take_complete(&mut self) -> Option<Vec<u8>> {
        (self.phase == Phase::Done).then(|| std::mem::take(&mut self.data))
    }

    /// Whether there is a body and none of it, framing included, has come.
    pub(super) fn is_untouched(&self) -> bool {
        !self.begun && self.phase != Phase::Done
    }

    /// Bytes of memory that the data takes.
    #[cfg(test)]
    pub(super) fn bytes_held(&self) -> usize {
        self.data.capacity()
    }

    /// The phase after one byte of framing.
    fn after(&self, phase: Phase, byte: u8) -> Result<Phase, HttpRefusal> {
        match (phase, byte) {
            (Phase::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < HTTP_CHUNK_DIGITS_MAX => {
                Ok(Phase::Size { digits: digits + 1, size: size << 4 | hex(byte) })
            }
            (Phase::Size { digits, size }, b'\r') if digits > 0 => Ok(Phase::SizeEnd { size }),
            (Phase::Size { digits, size }, b' ' | b'\t') if digits > 0 => Ok(Phase::Padding { line: digits + 1, size }),
            (Phase::Size { digits, size }, b';') if digits > 0 => Ok(Phase::Extension { line: digits + 1, size }),
            (Phase::Padding { size, .. } | Phase::Extension { size, .. }, b'\r') => Ok(Phase::SizeEnd { size }),
            (Phase::Padding { line, size }, b' ' | b'\t') if line < HTTP_CHUNK_LINE_BYTES_MAX => {
                Ok(Phase::Padding { line: line + 1, size })
            }
            (Phase::Padding { line, size }, b';') if line < HTTP_CHUNK_LINE_BYTES_MAX => Ok(Phase::Extension { line: line + 1, size }),
            (Phase::Extension { line, size }, _) if is_text(byte) && line < HTTP_CHUNK_LINE_BYTES_MAX => {
                Ok(Phase::Extension { line: line + 1, size })
            }
            (Phase::SizeEnd { size: 0 }, b'\n') => Ok(Phase::TrailerStart { lines: 0, bytes: 0 }),
            (Phase::SizeEnd { size }, b'\n') if size <= self.limit - self.data.len() => Ok(Phase::Data { left: size }),
            (Phase::SizeEnd { .. }, b'\n') => Err(TOO_LARGE),
            (Phase::DataCr, b'\r') => Ok(Phase::DataLf),
            (Phase::DataLf, b'\n') => Ok(Phase::Size { digits: 0, size: 0 }),
            (Phase::TrailerStart { .. }, b'\r') => Ok(Phase::LastLf),
            (Phase::TrailerStart { lines, bytes }, _) if lines < HTTP_TRAILER_LINES_MAX => trailer(lines, bytes, byte),
            (Phase::Trailer { lines, bytes }, b'\r') => Ok(Phase::TrailerLf { lines, bytes }),
            (Phase::Trailer { lines, bytes }, _) => trailer(lines, bytes, byte),
            (Phase::TrailerLf { lines, bytes }, b'\n') => Ok(Phase::TrailerStart { lines: lines + 1, bytes }),
            (Phase::LastLf, b'\n') => Ok(Phase::Done),
            _ => Err(BAD_CHUNK),
        }
    }
}

fn trailer(lines: usize, bytes: usize, byte: u8) -> Result<Phase, HttpRefusal> {
    if is_text(byte) && bytes < HTTP_HEAD_BYTES_MAX { Ok(Phase::Trailer { lines, bytes: bytes + 1 }) } else { Err(BAD_CHUNK) }
}

/// Bytes that a line may hold: no controls but the tab, so no lone CR or LF either.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// The value of a hex digit; the caller has matched it.
fn hex(digit: u8) -> usize {
    usize::from(match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    })
}

const TOO_LARGE: HttpRefusal = HttpRefusal::new(Code::TooLarge, "body");
const BAD_CHUNK: HttpRefusal = HttpRefusal::new(Code::BadField, "body");
