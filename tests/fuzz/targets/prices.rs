//! See [`fuzz::prices`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::prices(data));
