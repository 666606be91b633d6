//! Socket.IO messages of one session.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| porter_fuzz::checks::socketio(bytes));
