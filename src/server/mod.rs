//! The ports: one thin file each, and what they share.

pub mod http;
pub mod listener;
