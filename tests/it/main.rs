//! The product as its users have it: the real binary, real sockets, real files, killed with SIGKILL.
//!
//! `porter` starts and ends processes, `clients` are small peers that speak the wire; every other file proves one part.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test that can't go on has failed, real time is all it has, and nobody imports it"
)]

mod autobahn;
mod backup;
mod bad_input;
mod broken;
mod check;
mod cli;
mod clients;
mod clock;
mod crash;
mod disk;
mod door;
mod examples;
mod guide;
mod hostile;
mod ledger;
mod limits;
mod load;
mod memory;
mod nginx;
mod porter;
mod proxy;
mod reload;
mod rest;
mod rooms;
mod scenario;
#[path = "../../src/seeded.rs"]
#[allow(dead_code, reason = "the unit tests use the rest of it")]
mod seeded;
mod socketio;
mod socketio_bad_input;
mod socketio_client;
mod sync;
mod tcp;
mod tidy;
mod token;
mod watching;
