//! Bytes as PostgreSQL clients send them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| polity_fuzz::wire(bytes));
