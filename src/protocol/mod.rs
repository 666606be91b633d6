//! Bytes to values and back: pure functions, no `async`, no clock, no log, no globals.

pub mod decode;
pub mod encode;
pub mod engineio;
pub mod events;
mod flat;
pub mod frame;
pub mod http;
pub mod line;
pub mod multipart;
pub mod refusal;
pub mod room;
pub mod socketio;
pub mod websocket;

#[cfg(test)]
#[path = "../../fuzz/checks.rs"]
#[expect(unreachable_pub, reason = "public to the fuzz targets")]
mod checks;
#[cfg(test)]
mod tests;
