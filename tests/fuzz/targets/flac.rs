//! See [`fuzz::flac`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::flac(data));
