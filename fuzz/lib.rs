//! The pure layers of Porter, compiled from their sources without the server around them, and what must hold of their decoders. So
//! fuzzing needs neither SQLite nor a runtime.

extern crate self as porter;

#[path = "../src/limits.rs"]
pub mod limits;
#[path = "../src/names/mod.rs"]
pub mod names;
#[path = "../src/protocol/mod.rs"]
pub mod protocol;

pub mod checks;
