//! One Engine.IO packet, as a WebSocket frame brings it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| porter_fuzz::checks::engineio_packet(bytes));
