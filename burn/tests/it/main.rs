//! Tests of the crate with the CPU's backend of burn.

mod loader;
mod support;
mod tensors;
