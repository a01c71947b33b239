//! See [`fuzz::inventory_parquet`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::inventory_parquet(data));
