//! A text that is mostly short: then it lies where its owner does, and no memory is taken for it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes of a text that takes no memory of its own.
const SHORT_BYTES_MAX: usize = 14;

/// A text that never changes; a long one is shared.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ShortText(Text);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Text {
    /// Of at most [`SHORT_BYTES_MAX`] bytes, zeros behind them.
    Short { len: u8, bytes: [u8; SHORT_BYTES_MAX] },
    /// Of more. Boxed once more so that all are as small as the short ones.
    Long(Arc<Box<str>>),
}

impl From<&str> for ShortText {
    fn from(text: &str) -> ShortText {
        let mut bytes = [0; SHORT_BYTES_MAX];
        let Some(short) = bytes.get_mut(..text.len()) else { return ShortText(Text::Long(Arc::new(text.into()))) };
        short.copy_from_slice(text.as_bytes());
        ShortText(Text::Short { len: text.len() as u8, bytes })
    }
}

impl Deref for ShortText {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Text::Short { len, bytes } => std::str::from_utf8(&bytes[..usize::from(*len)]).expect("it was made from a text"),
            Text::Long(text) => text,
        }
    }
}

impl fmt::Display for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_text_that_it_was_made_from() {
        let text = "0123456789门门门门";
        for len in (0..=text.len()).filter(|len| text.is_char_boundary(*len)) {
            let short = ShortText::from(&text[..len]);
            assert_eq!((&*short, short.to_string()), (&text[..len], text[..len].to_owned()));
            assert_eq!(short, ShortText::from(&text[..len]));
            assert_ne!(short, ShortText::from("x"));
        }
    }

    #[test]
    fn it_is_no_larger_than_a_shared_text() {
        assert_eq!(size_of::<ShortText>(), size_of::<Arc<str>>());
        assert_eq!(size_of::<Option<ShortText>>(), size_of::<Arc<str>>());
    }
}
