//! server

pub mod network;
