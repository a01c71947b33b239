//! The emulator over real connections, and the process API.

// The lint knows test functions and not the helpers beside them.
#![allow(clippy::unwrap_used)]

mod faults;
mod http;
mod listing;
mod objects;
mod process;
mod uploads;
mod xml;
