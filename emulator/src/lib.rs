//! A Google Cloud Storage JSON API on loopback, for tests, examples and benchmarks.
//!
//! [`Emulator`] serves buckets, listings, contents with ranges and preconditions, compositions, uploads in one request
//! and resumable ones, batches and permissions, with the status codes and error bodies of the service. On top it has
//! - virtual namespaces ([`VirtualSpec`]): millions of self-checking objects that cost no memory,
//! - profiles ([`Profile`]): the delays and rate limits of a real bucket,
//! - faults ([`Faults`], [`Fault`]): errors, resets, stalls, short and damaged bodies, lost answers, from a seed or by
//!   script,
//! - counters ([`Stats`]): in-process and at `GET /_emulator/stats`, reset by `POST /_emulator/reset-stats`.
//!
//! ```
//! use dataflux_emulator::{Call, Emulator, Fault, Profile};
//!
//! let emulator = Emulator::builder()
//!     .profile("fast".parse::<Profile>()?)
//!     .virtual_namespace("train:n=1000,pattern=folders,size=1024..65536".parse()?)
//!     .start()?;
//! emulator.fault_next(Call::Compose, Fault::LostResponse, 1);
//! println!("export STORAGE_EMULATOR_HOST={}", emulator.endpoint());
//! # Ok::<(), dataflux_emulator::Error>(())
//! ```
//!
//! It does not keep old or deleted versions, know access control lists, speak the gRPC API, or store anything on disk.
//! Of the XML API it knows reading: listings of both versions, and objects by GET and HEAD. It shares no code with the
//! client, so that their mistakes cannot cancel out.

#[cfg(feature = "cli")]
mod args;
mod batch;
mod body;
mod bucket;
mod buckets;
mod checksum;
mod compose;
mod content;
mod emulator;
mod error;
mod fault;
mod fields;
mod folder;
mod glob;
mod limits;
mod list_objects;
mod listen;
mod listing;
mod lock;
mod media;
mod multipart;
mod object;
mod objects;
mod profile;
mod random;
mod route;
mod server;
mod service;
mod stats;
mod timestamp;
mod upload;
mod virtual_names;
mod virtual_ns;
mod xml;

#[cfg(feature = "cli")]
pub use args::EmulatorArgs;
pub use bucket::BucketConfig;
pub use emulator::{Builder, Emulator, ObjectOptions, Signals};
pub use error::Error;
pub use fault::{Fault, Faults};
pub use profile::Profile;
pub use stats::{Call, Stats};
pub use virtual_names::Pattern;
pub use virtual_ns::VirtualSpec;
