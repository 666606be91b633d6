//! Messages of one WebSocket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| porter_fuzz::checks::websocket(bytes));
