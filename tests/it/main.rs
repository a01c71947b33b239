//! The tests of the library that need no process of their own, in one program: a file a subject.
//!
//! They run at the same time, so none may change or count what belongs to the process: its environment, limits,
//! signals, threads, memory, log or temporary objects. A test that does is a program of its own beside this folder, and
//! says there why; those that only check that no temporary object is left are in `tests/load`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../conformance/mod.rs"]
mod conformance;
#[path = "../support/mod.rs"]
mod support;

mod arrows;
mod audit;
mod augment;
mod classes;
mod copies;
mod device;
mod empty_epochs;
mod examples;
mod files;
mod formats;
mod guide;
mod images;
mod in_memory;
mod inventory;
mod jpegs;
mod labels;
mod listing;
mod mixed;
mod opening;
mod parts;
mod public_names;
mod ranks;
mod resume;
mod slow_service;
mod sources;
mod stalls;
mod stop_and_go;
mod store_client;
mod store_conformance;
mod store_emulator;
mod store_wire;
mod streaming;
mod wire;
