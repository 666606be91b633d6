//! The TCP line protocol (Protocol §6): bytes in, lines out, one frame a line.
//!
//! Pure and bounded: a line that comes in one piece is never copied, of one that comes in pieces at most a frame's bytes
//! are kept, and nothing between lines. It knows neither JSON nor what a frame means.

use memchr::memchr;

/// A line whose frame has more bytes than allowed. There is no telling where the next frame begins without reading on
/// without end, so the connection is refused with `too_large` and closed (Protocol §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlong;

/// Cuts a byte stream into lines.
#[derive(Debug)]
pub struct Lines {
    /// Bytes of a frame, the spaces around it and the line's end not counted.
    frame_max: usize,
    /// The beginning of a line whose end has not come: no line feed in it, no blank in front, at most `frame_max` bytes.
    rest: Vec<u8>,
    /// Whether `rest` is the line that the last call handed out, and so is over.
    handed_out: bool,
}

impl Lines {
    /// Lines whose frames have at most `frame_max` bytes (`limits.frame`). Spaces around a frame are not counted.
    #[must_use]
    pub const fn new(frame_max: usize) -> Lines {
        Lines { frame_max, rest: Vec::new(), handed_out: false }
    }

    /// The next frame, without its line end and the spaces around it; blank lines are passed over. Takes from `input` what
    /// it has used. `None`: all of `input` is used, and no buffer is held unless a line is incomplete.
    ///
    /// # Errors
    /// [`Overlong`] as soon as a frame is known to be too long, be its line at an end or not. It is final: nothing of the
    /// line is taken from `input`, and asking again with the same input gives the same answer.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Result<Option<&'a [u8]>, Overlong> {
        if self.handed_out {
            self.rest = Vec::new();
            self.handed_out = false;
        }
        while let Some(end) = memchr(b'\n', input) {
            let (part, after) = (&input[..end], &input[end + 1..]);
            if !self.rest.is_empty() {
                self.keep(part)?;
                *input = after;
                self.handed_out = true;
                return Ok(Some(self.rest.trim_ascii_end()));
            }
            let line = part.trim_ascii();
            if line.len() > self.frame_max {
                return Err(Overlong);
            }
            *input = after;
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
        self.keep(input)?;
        *input = &[];
        Ok(None)
    }

    /// What has come of a line whose end has not come yet, without the spaces in front: enough for [`is_http`].
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        if self.handed_out { &[] } else { &self.rest }
    }

    /// Adds `part` of a line to the rest. Blanks past the frame's bound are not kept: they may be spaces behind a frame of
    /// just that size, and if they are not, the next other byte tells.
    fn keep(&mut self, part: &[u8]) -> Result<(), Overlong> {
        let part = if self.rest.is_empty() { part.trim_ascii_start() } else { part };
        let kept = part.len().min(self.frame_max - self.rest.len());
        if !part[kept..].trim_ascii_start().is_empty() {
            return Err(Overlong);
        }
        let needed = self.rest.len() + kept;
        if needed > self.rest.capacity() {
            // Doubling, as `Vec` does, but never past the bound.
            let capacity = needed.max(self.rest.capacity() * 2).min(self.frame_max);
            self.rest.reserve_exact(capacity - self.rest.len());
        }
        self.rest.extend_from_slice(&part[..kept]);
        Ok(())
    }
}

/// Whether a first line, or what has come of it, is the request line of HTTP: 3 to 16 upper-case letters and a space.
/// A web page can make a browser speak to this port; no frame looks so (Protocol §6).
#[must_use]
pub fn is_http(line: &[u8]) -> bool {
    let method = line.iter().take(METHOD_LETTERS_MAX + 1).take_while(|byte| byte.is_ascii_uppercase()).count();
    (METHOD_LETTERS_MIN..=METHOD_LETTERS_MAX).contains(&method) && line.get(method) == Some(&b' ')
}

/// Letters of the shortest method that is recognised: `GET`.
const METHOD_LETTERS_MIN: usize = 3;
/// Letters of the longest: no method in use has more, and a random run of letters should not be taken for one.
const METHOD_LETTERS_MAX: usize = 16;
