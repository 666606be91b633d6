//! Engine.IO protocol 3 (Protocol §8): requests, packets, polling bodies, and the life of one session. It carries messages and
//! knows nothing of what they say.

pub mod connection;
pub mod packet;
pub mod payload;
pub mod request;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

/// What a peer sent is not Engine.IO. It ends the session (or the WebSocket, while it is only probing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Lengths and bytes of a polling body don't fit together, or the body is empty.
    Framing,
    /// No packet type stands first.
    Type,
    /// What should be base64 is not.
    Base64,
    /// Text that is no UTF-8.
    Utf8,
    /// A form without the field `d`.
    Form,
}

impl Malformed {
    /// What is wrong, for the log.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Malformed::Framing => "packet lengths don't fit the body",
            Malformed::Type => "a packet begins with no known type",
            Malformed::Base64 => "bad base64",
            Malformed::Utf8 => "text that is no UTF-8",
            Malformed::Form => "a form without the field d",
        }
    }
}
