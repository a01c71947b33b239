//! A Google Cloud Storage JSON API on loopback, for tests, examples and benchmarks.
//!
//! [`Emulator`] serves buckets, listings, contents with ranges and preconditions, compositions, uploads in one request
//! and resumable ones, batches and permissions, with the status codes and error bodies of the service. It adds
//! - virtual namespaces ([`VirtualSpec`]): millions of self-checking objects that take no memory,
//! - profiles ([`Profile`]): the delays and rate limits of a real bucket,
//! - faults ([`Faults`], [`Fault`]): errors, resets, stalls, short and damaged bodies and lost answers, drawn from a
//!   seed or scripted,
//! - counters ([`Stats`]): in the process and at `GET /_emulator/stats`; `POST /_emulator/reset-stats` resets them.
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
//! The emulator keeps no old or deleted versions, has no access control lists, does not speak the gRPC API, and stores
//! nothing on disk. Of the XML API it implements reading: listings of both versions, and objects by GET and HEAD. It
//! shares no code with the client, so that a mistake in one is not repeated in the other.

// A module uses only modules above it. `tests/it/structure.rs` fails on a circle.
mod checksum;
mod decimal;
mod error;
mod locks;
mod naming;
mod random;
mod refusal;
mod timestamp;

mod traffic;

mod objects;

mod buckets;

mod http;

mod api;

mod routing;

mod server;

mod signals;

mod emulator;

mod builder;

#[cfg(feature = "cli")]
mod args;

#[cfg(feature = "cli")]
pub use args::EmulatorArgs;
pub use buckets::config::BucketConfig;
pub use builder::{EmulatorBuilder, FolderBucket};
pub use emulator::{Emulator, ObjectOptions};
pub use error::Error;
pub use objects::virtual_namespace::VirtualSpec;
pub use signals::SignalWatch;
pub use traffic::{
    fault::{Fault, Faults},
    profile::Profile,
    stats::{Call, Stats},
};
