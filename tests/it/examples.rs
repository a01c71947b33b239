//! The examples that need no bucket. Each checks what it shows, and fails if that isn't so.

#![allow(clippy::duplicate_mod, reason = "each example is a program, and brings its bucket")]

use crate::support::without_hanging;

#[path = "../../examples/cache.rs"]
mod cache;
#[path = "../../examples/decoder.rs"]
mod decoder;
#[path = "../../examples/ranks.rs"]
mod ranks;

#[test]
fn cache_reads_each_sample_once_from_the_bucket() {
    without_hanging(|| cache::main().unwrap());
}

#[test]
fn decoder_crops_and_stacks() {
    without_hanging(|| decoder::main().unwrap());
}

#[test]
fn ranks_get_each_sample_once() {
    without_hanging(|| ranks::main().unwrap());
}
