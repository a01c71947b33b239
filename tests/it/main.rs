//! Tests of the library that need no process of their own, in one program: a file a subject.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arrows;
mod public_names;
mod sources;
