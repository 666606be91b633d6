//! A refusal as an HTTP answer shows it: the status beside the code (Protocol §10).
//!
//! It knows the statuses and nothing of how a body is written: each front-end renders its own.

use crate::protocol::refusal::{Code, Refusal};

/// A refusal and the status of the answer that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpRefusal {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// What is refused, for the body.
    pub refusal: Refusal,
}

impl HttpRefusal {
    /// The refusal with the status that Protocol §10 gives to its code.
    #[must_use]
    pub const fn new(code: Code, field: &'static str) -> HttpRefusal {
        HttpRefusal { status: status(code), refusal: Refusal::new(code, field) }
    }

    /// A refusal that is about HTTP itself, where the status says more than the code: 405, 408, 501.
    #[must_use]
    pub const fn with_status(status: u16, code: Code, field: &'static str) -> HttpRefusal {
        HttpRefusal { status, refusal: Refusal::new(code, field) }
    }
}

impl From<Refusal> for HttpRefusal {
    /// With the status of its code.
    fn from(refusal: Refusal) -> HttpRefusal {
        HttpRefusal { status: status(refusal.code), refusal }
    }
}

/// The status of a code (Protocol §10).
#[must_use]
pub const fn status(code: Code) -> u16 {
    match code {
        Code::BadJson | Code::MissingField | Code::BadField | Code::UnknownType | Code::NoAlias | Code::AliasMismatch => 400,
        Code::BadToken => 401,
        Code::Forbidden => 403,
        Code::NotFound => 404,
        Code::TooLarge => 413,
        Code::RateLimited | Code::Quota => 429,
        Code::Internal => 500,
        Code::Unavailable => 503,
    }
}
