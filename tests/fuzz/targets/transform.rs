//! See [`fuzz::transform`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::transform(data));
