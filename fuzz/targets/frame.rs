//! One frame, by TCP, by REST and in every event.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| porter_fuzz::checks::frame(bytes));
