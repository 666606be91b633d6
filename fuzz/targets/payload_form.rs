//! A string payload in a form: JSONP.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| porter_fuzz::checks::payload_form(bytes));
