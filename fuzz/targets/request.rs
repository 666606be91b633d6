//! The query of a request to /socket.io/.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| porter_fuzz::checks::request(bytes));
