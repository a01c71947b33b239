//! The real binary against an emulator in this process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod bench;
mod cache;
mod clean;
mod credentials;
mod emulate;
mod files;
mod get;
mod harness;
mod kill;
mod local;
mod ls;
mod memory;
mod plan;
mod refusals;
mod replay;
mod save;
mod signals;
