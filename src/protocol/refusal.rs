//! What a peer may see when something is refused: a stable code, and a text for people in two languages (Protocol §2).

/// The language of error texts; codes don't depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Chinese, the default.
    Zh,
    /// English.
    En,
}

/// The stable codes of Protocol §2, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Not a JSON object, or no UTF-8.
    BadJson,
    /// A field that must be there is not.
    MissingField,
    /// A field has the wrong type or a value out of its range.
    BadField,
    /// A `t` that no client sends, or none at all.
    UnknownType,
    /// A frame, line or body over its limit.
    TooLarge,
    /// The frame needs a bound alias.
    NoAlias,
    /// Another alias is bound to this link.
    AliasMismatch,
    /// The token is missing, damaged, expired, revoked or of another key.
    BadToken,
    /// The token or the alias may not do that.
    Forbidden,
    /// No such path, message or entry.
    NotFound,
    /// Too many requests.
    RateLimited,
    /// A limit on what is kept is reached.
    Quota,
    /// The store can't be written now, or did not answer in time.
    Unavailable,
    /// A fault of the server's own.
    Internal,
}

/// A refusal: the code, and the field it is about (empty: none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// The field or thing that the text names, such as `opts.time_to_live`; may be empty.
    pub field: &'static str,
}

impl Refusal {
    /// A refusal about `field`.
    #[must_use]
    pub const fn new(code: Code, field: &'static str) -> Refusal {
        Refusal { code, field }
    }
}
