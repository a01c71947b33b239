//! The tests of loaders that check that nothing is left, in one program: a file a subject.
//!
//! They wait until the whole process has no temporary object. So a test here leaves none at its end, and tests that
//! don't check it are in `tests/it`. What counts or changes anything else of the process is a program of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod bill;
mod cache;
mod emulated;
mod epochs;
mod events;
mod figures;
mod losses;
mod parts;
mod pipeline;
mod ranges;
mod unordered;
