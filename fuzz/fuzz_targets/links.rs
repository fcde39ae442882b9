//! What a peer sends over a link.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| polity_fuzz::links(bytes));
