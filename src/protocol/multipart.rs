//! Pictures one after the other in one HTTP answer, as `<img>` shows them: `multipart/x-mixed-replace` (Protocol §9).
//!
//! Each part is followed by the next boundary at once: browsers show a part when they have seen its end.

use bytes::Bytes;

/// The content type of the whole.
pub const CONTENT_TYPE: &str = "multipart/x-mixed-replace; boundary=porter";
/// What comes before the first part.
pub const BEGIN: &[u8] = b"--porter\r\n";
/// What comes behind each part.
pub const END_OF_PART: &[u8] = b"\r\n--porter\r\n";

/// What comes before a picture.
#[must_use]
pub fn part_head(content_type: &str, length: usize) -> Bytes {
    format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n").into()
}
