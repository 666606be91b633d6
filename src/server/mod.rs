//! One thin file per port, and what ports share: how connections come in, how HTTP is framed, who gets in.

pub mod arrival;
pub mod gate;
pub mod http;
pub mod inlet;
pub mod listener;
pub mod metrics;
pub mod network;
pub mod origin;
pub mod rest;
pub mod rooms;
pub mod scratch;
pub mod socketio;
pub mod tally;
pub mod tcp;
pub mod watch;
