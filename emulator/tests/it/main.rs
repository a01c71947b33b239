//! Tests of the emulator over real connections and through its library API.

// The lint recognises test functions, but not the helper functions beside them.
#![allow(clippy::unwrap_used)]

mod faults;
mod http;
mod listing;
mod objects;
mod process;
mod structure;
mod uploads;
mod xml;
