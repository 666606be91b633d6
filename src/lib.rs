//! Porter: push and relay for the doors of residential communities.
//!
//! The modules in reading order; a later one may use an earlier one, never the other way (ARCHITECTURE.md).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stdout))]

// The checks in `fuzz/` name this crate from outside; its own tests replay them.
#[cfg(test)]
extern crate self as porter;

pub mod app;
pub mod cli;
pub mod config;
pub mod hub;
pub mod limits;
pub mod names;
pub mod protocol;
pub mod reload;
pub mod runtime;
#[cfg(test)]
pub(crate) mod seeded;
pub mod server;
pub mod store;
pub mod token;
