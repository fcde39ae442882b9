//! Texts of statements.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| polity_fuzz::sql(bytes));
