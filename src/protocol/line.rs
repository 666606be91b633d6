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

    /// From the next line on frames may have at most so many bytes; what has come of a line counts against the new bound.
    pub const fn set_frame_max(&mut self, frame_max: usize) {
        self.frame_max = frame_max;
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
        if self.rest.is_empty() {
            // Blank lines all at once: a stream of them costs next to nothing.
            *input = input.trim_ascii_start();
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
        // Nothing, where the bound was lowered below what is kept.
        let kept = part.len().min(self.frame_max.saturating_sub(self.rest.len()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_changes_holds_from_the_next_piece_on() {
        let mut lines = Lines::new(4);
        let mut input = &b"abc"[..];
        assert_eq!(lines.next(&mut input), Ok(None));
        lines.set_frame_max(6);
        assert_eq!(lines.next(&mut &b"def\n"[..]), Ok(Some(&b"abcdef"[..])));
        assert_eq!(lines.next(&mut &b"abcde"[..]), Ok(None));
        lines.set_frame_max(3);
        assert_eq!(lines.next(&mut &b"f\n"[..]), Err(Overlong));
        // What has come is whole: it came under the old bound.
        assert_eq!(lines.next(&mut &b"\n"[..]), Ok(Some(&b"abcde"[..])));
        assert_eq!(lines.next(&mut &b"abcd\n"[..]), Err(Overlong));
    }
    use crate::seeded::Seeded;

    /// All lines of `stream`, fed in chunks of the sizes that `size` gives, and whether it ended in [`Overlong`].
    fn lines(stream: &[u8], frame_max: usize, mut size: impl FnMut() -> usize) -> (Vec<Vec<u8>>, bool) {
        let mut lines = Lines::new(frame_max);
        let mut seen = Vec::new();
        let mut left = stream;
        while !left.is_empty() {
            let (mut chunk, after) = left.split_at(size().min(left.len()));
            left = after;
            loop {
                match lines.next(&mut chunk) {
                    Ok(Some(line)) => seen.push(line.to_vec()),
                    Ok(None) => break,
                    Err(Overlong) => return (seen, true),
                }
            }
            assert!(chunk.is_empty(), "all input is used");
            assert!(lines.rest.capacity() <= frame_max, "{} > {frame_max}", lines.rest.capacity());
            assert!(!lines.rest.is_empty() || lines.rest.capacity() == 0, "a buffer is held for nothing");
        }
        (seen, false)
    }

    /// The rule of Protocol §6, told the naive way.
    fn naive(stream: &[u8], frame_max: usize) -> (Vec<Vec<u8>>, bool) {
        let mut seen = Vec::new();
        let (complete, rest) = match stream.iter().rposition(|&byte| byte == b'\n') {
            Some(last) => (&stream[..last], &stream[last + 1..]),
            None => (&stream[..0], stream),
        };
        for line in complete.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii) {
            if line.len() > frame_max {
                return (seen, true);
            }
            if !line.is_empty() {
                seen.push(line.to_vec());
            }
        }
        (seen, rest.trim_ascii().len() > frame_max)
    }

    #[test]
    fn agrees_with_the_naive_rule_however_the_bytes_arrive() {
        const BYTES: &[u8] = b"{}ab\n\n \r\t\x00\xff";
        for seed in 0..20_000 {
            let mut random = Seeded(seed);
            let stream: Vec<u8> = (0..random.below(60)).map(|_| *random.pick(BYTES)).collect();
            let frame_max = 1 + random.below(12);
            let expected = naive(&stream, frame_max);
            assert_eq!(lines(&stream, frame_max, || usize::MAX), expected, "whole, seed {seed}");
            assert_eq!(lines(&stream, frame_max, || 1), expected, "byte by byte, seed {seed}");
            assert_eq!(lines(&stream, frame_max, || 1 + random.below(9)), expected, "in pieces, seed {seed}");
        }
    }

    #[test]
    fn a_line_in_one_piece_is_not_copied() {
        let input = b"\r\n  {\"t\":7} \r\n{\"t\":3}\n".to_vec();
        let mut lines = Lines::new(64);
        let mut left = &input[..];
        let first = lines.next(&mut left).unwrap().unwrap();
        assert_eq!((first, first.as_ptr()), (&b"{\"t\":7}"[..], input[4..].as_ptr()));
        let second = lines.next(&mut left).unwrap().unwrap();
        assert_eq!((second, second.as_ptr()), (&b"{\"t\":3}"[..], input[14..].as_ptr()));
        assert_eq!(lines.next(&mut left), Ok(None));
        assert_eq!(lines.rest.capacity(), 0);
    }

    #[test]
    fn a_frame_is_bounded_at_one_under_exactly_and_one_over() {
        const FRAME_MAX: usize = 1_000;
        for (len, fits) in [(FRAME_MAX - 1, true), (FRAME_MAX, true), (FRAME_MAX + 1, false)] {
            let line = [&b"  "[..], &vec![b'x'; len], b"  \r\n"].concat();
            for size in [usize::MAX, 1, 7, FRAME_MAX] {
                let expected = if fits { (vec![vec![b'x'; len]], false) } else { (vec![], true) };
                assert_eq!(lines(&line, FRAME_MAX, || size), expected, "{len} bytes in pieces of {size}");
            }
        }
    }

    #[test]
    fn overlong_is_known_without_the_line_end_and_stays() {
        let mut lines = Lines::new(4);
        let mut input = &b"ok\n12345"[..];
        assert_eq!(lines.next(&mut input), Ok(Some(&b"ok"[..])));
        assert_eq!(lines.next(&mut input), Err(Overlong));
        assert_eq!(lines.next(&mut input), Err(Overlong));

        let (mut lines, mut input) = (Lines::new(4), &b"1234"[..]);
        assert_eq!(lines.next(&mut input), Ok(None));
        let mut more = &b"   5"[..];
        assert_eq!(lines.next(&mut more), Err(Overlong));
        assert_eq!(lines.next(&mut more), Err(Overlong));
    }

    #[test]
    fn spaces_without_end_hold_no_memory() {
        let mut lines = Lines::new(8);
        for _ in 0..1_000 {
            assert_eq!(lines.next(&mut &[b' '; 100][..]), Ok(None));
            assert_eq!(lines.rest.capacity(), 0);
        }
        assert_eq!(lines.next(&mut &b"{}"[..]), Ok(None));
        for _ in 0..1_000 {
            assert_eq!(lines.next(&mut &[b' '; 100][..]), Ok(None));
            assert!(lines.rest.capacity() <= 8);
        }
        assert_eq!(lines.next(&mut &b"\n"[..]), Ok(Some(&b"{}"[..])));
    }

    #[test]
    fn a_request_line_of_http_is_recognised_before_it_ends() {
        for http in ["GET / HTTP/1.1", "PUT ", "OPTIONS * HTTP/1.1", "ABCDEFGHIJKLMNOP x", "GET  "] {
            assert!(is_http(http.as_bytes()), "{http}");
        }
        for other in ["", "G", "GET", "GE / ", "get / ", "GETx / ", "ABCDEFGHIJKLMNOPQ x", " GET / ", "{\"t\":1}", "GET\t/", "门 / "] {
            assert!(!is_http(other.as_bytes()), "{other}");
        }
        let mut lines = Lines::new(64);
        let recognised: Vec<bool> = b"POST /"
            .chunks(1)
            .map(|mut byte| {
                assert_eq!(lines.next(&mut byte), Ok(None));
                is_http(lines.pending())
            })
            .collect();
        assert_eq!(recognised, [false, false, false, false, true, true]);
        assert_eq!(lines.next(&mut &b"\n"[..]), Ok(Some(&b"POST /"[..])));
        assert!(!is_http(lines.pending()), "a line handed out is not pending");
    }
}
