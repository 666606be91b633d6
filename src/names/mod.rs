//! The nouns of the protocol as types that can't be built wrong (Protocol §1).
//!
//! Whoever holds an [`Alias`] knows that it has 1 to 128 bytes and no control characters; nobody checks it twice.
//! This file knows no wire format, no socket and no store.

mod few;
mod short;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::limits::NAME_BYTES_MAX;

pub use few::Few;
pub use short::ShortText;

/// Why a text is no valid name. The caller knows which field it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadName {
    /// The text is empty and the name may not be.
    Empty,
    /// The text has more than [`NAME_BYTES_MAX`] bytes.
    TooLong,
    /// The text has a control character (C0, DEL or C1).
    Control,
    /// The text has a `|`, which separates the fields of a token's plaintext; only a label may not have it.
    Pipe,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadName::Empty => f.write_str("must not be empty"),
            BadName::TooLong => write!(f, "must not exceed {NAME_BYTES_MAX} bytes"),
            BadName::Control => f.write_str("must not contain control characters"),
            BadName::Pipe => f.write_str("must not contain '|'"),
        }
    }
}

fn check(text: &str) -> Result<(), BadName> {
    if text.len() > NAME_BYTES_MAX {
        return Err(BadName::TooLong);
    }
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_plain && text.chars().any(char::is_control) {
        return Err(BadName::Control);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, may_be_empty: $may_be_empty:literal $(, no_pipe: $pipe:literal)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes `text` if it follows the rule: at most 128 bytes, no control characters.
            pub fn new(text: &str) -> Result<Self, BadName> {
                if text.is_empty() && !$may_be_empty {
                    return Err(BadName::Empty);
                }
                check(text)?;
                $(if text.contains($pipe) {
                    return Err(BadName::Pipe);
                })?
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of one device or person, such as `door-3-1`. Ordered by its UTF-8 bytes.
    Alias, may_be_empty: false
}
name! {
    /// A named group that aliases subscribe to (频道). Ordered by its UTF-8 bytes.
    Topic, may_be_empty: false
}
name! {
    /// The name of a door room: the R of frames 8, 9 and 10 (Protocol §7).
    RoomName, may_be_empty: false
}
name! {
    /// Who speaks in a door room: the U of frames 8, 9 and 10. It may be empty.
    UserName, may_be_empty: true
}
name! {
    /// Whom a token was given to, for revoking it and for the door log (Protocol §11). It has no `|`.
    Label, may_be_empty: false, no_pipe: '|'
}

/// The number of one message: it only grows, also across restarts. On the wire a string of decimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mid(u64);

impl Mid {
    /// Below every mid that is ever given out: where a cursor starts.
    pub const ZERO: Mid = Mid(0);

    /// The mid of that number; the top bit is cleared, since mids have 63 bits.
    #[must_use]
    pub const fn new(number: u64) -> Mid {
        Mid(number & (u64::MAX >> 1))
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Reads decimal digits. Digits that exceed 63 bits name a mid that was never given out: [`Mid::ZERO`].
    /// Anything but digits is `None`.
    #[must_use]
    pub fn parse(digits: &str) -> Option<Mid> {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(digits.parse::<u64>().ok().filter(|n| n >> 63 == 0).map_or(Mid::ZERO, Mid))
    }
}

impl fmt::Display for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One live connection, bound or not. `generation` tells it from an earlier link that had the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    /// Place in the hub's table of links.
    pub index: u32,
    /// How often that place was given out before.
    pub generation: u32,
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// What kind of link it is; it decides deadlines and counts, never what a frame means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// The line protocol (Protocol §6).
    Tcp,
    /// Socket.IO (Protocol §8).
    SocketIo,
    /// One REST request (Protocol §10).
    Rest,
    /// A member of a WebSocket room (Protocol §9).
    WebSocket,
}

impl Transport {
    /// The word used in logs and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::SocketIo => "socketio",
            Transport::Rest => "rest",
            Transport::WebSocket => "websocket",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn parse(word: &str) -> Option<Transport> {
        [Transport::Tcp, Transport::SocketIo, Transport::Rest, Transport::WebSocket].into_iter().find(|t| t.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_128_bytes_and_no_control_characters() {
        assert_eq!(Alias::new(""), Err(BadName::Empty));
        assert!(UserName::new("").is_ok());
        assert!(Alias::new(&"a".repeat(128)).is_ok());
        assert_eq!(Alias::new(&"a".repeat(129)), Err(BadName::TooLong));
        assert!(Alias::new(&"门".repeat(42)).is_ok());
        assert_eq!(Alias::new(&"门".repeat(43)), Err(BadName::TooLong));
        for bad in ["a\nb", "\0", "a\u{7f}", "\u{85}"] {
            assert_eq!(Alias::new(bad), Err(BadName::Control), "{bad:?}");
        }
    }

    #[test]
    fn a_label_is_a_name_without_the_separator() {
        assert_eq!(Label::new("a|b"), Err(BadName::Pipe));
        assert_eq!(Label::new(""), Err(BadName::Empty));
        assert_eq!(Label::new("三号楼门禁").map(|l| l.as_str().to_owned()), Ok("三号楼门禁".to_owned()));
        assert!(Alias::new("a|b").is_ok());
    }

    #[test]
    fn mids_are_digits_of_63_bits() {
        assert_eq!(Mid::parse("42"), Some(Mid::new(42)));
        assert_eq!(Mid::parse("9223372036854775807"), Some(Mid::new(u64::MAX >> 1)));
        assert_eq!(Mid::parse("9223372036854775808"), Some(Mid::ZERO));
        assert_eq!(Mid::parse(&"9".repeat(40)), Some(Mid::ZERO));
        for bad in ["", "-1", "+1", "1.0", "abc", " 1"] {
            assert_eq!(Mid::parse(bad), None, "{bad:?}");
        }
    }
}
