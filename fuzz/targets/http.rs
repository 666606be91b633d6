//! HTTP/1 requests of one connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| porter_fuzz::checks::http(bytes));
