//! See [`fuzz::inventory_csv`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::inventory_csv(data));
