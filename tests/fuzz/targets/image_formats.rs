//! See [`fuzz::image_formats`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::image_formats(data));
