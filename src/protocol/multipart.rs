//! Pictures one after the other in one HTTP answer, as `<img>` shows them: `multipart/x-mixed-replace` (Protocol §9).
//!
//! Chromium shows a part when the head of the next one has come. So behind each picture the next part's head follows at once, which
//! promises the same content type, and for that no length; where the next picture is of another type an empty part lies between.

use bytes::Bytes;

/// The content type of the whole.
pub const CONTENT_TYPE: &str = "multipart/x-mixed-replace; boundary=porter";

/// Writes the parts of one stream.
#[derive(Debug, Default)]
pub struct Parts {
    /// Of the part whose head was written last; empty before the first.
    content_type: String,
}

impl Parts {
    /// What comes before a picture and what comes behind it.
    #[must_use]
    pub fn around(&mut self, content_type: &str) -> (Bytes, Bytes) {
        let head = format!("--porter\r\nContent-Type: {content_type}\r\n\r\n");
        let behind = Bytes::from(format!("\r\n{head}"));
        let before = if self.content_type == content_type {
            Bytes::new()
        } else if self.content_type.is_empty() {
            Bytes::from(head)
        } else {
            behind.clone()
        };
        content_type.clone_into(&mut self.content_type);
        (before, behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_picture_is_followed_by_the_head_of_the_next_part() {
        let mut parts = Parts::default();
        let mut stream = Vec::new();
        for (content_type, picture) in [("image/jpeg", "one"), ("image/jpeg", "two"), ("image/png", "three")] {
            let (before, behind) = parts.around(content_type);
            stream.extend([&before, picture.as_bytes(), &behind].concat());
        }
        let (jpeg, png) = ("--porter\r\nContent-Type: image/jpeg\r\n\r\n", "--porter\r\nContent-Type: image/png\r\n\r\n");
        let expected = format!("{jpeg}one\r\n{jpeg}two\r\n{jpeg}\r\n{png}three\r\n{png}");
        assert_eq!(String::from_utf8(stream).unwrap(), expected);
    }
}
