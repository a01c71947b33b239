//! A training data loader for Rust on Google Cloud Storage.
//!
//! [`DatafluxDataset`] lists a prefix once. [`DataLoader`] shuffles it, groups the objects of each batch into few
//! server-side composed reads, proves each sample against its listed CRC32C, decodes, and delivers batches in an order
//! that is a pure function of data, seed and epoch.
//!
//! ```
//! use std::sync::Arc;
//!
//! use dataflux::store::{Client, MemoryStore};
//! use dataflux::{DataLoader, DatafluxDataset};
//!
//! // A bucket in memory; `DatafluxDataset::open("gs://my-bucket/train/")` reads a real one.
//! let store = MemoryStore::new();
//! for index in 0..100 {
//!     store.insert("my-bucket", &format!("train/{index:03}.txt"), format!("sample {index}"));
//! }
//! let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
//! let loader = DataLoader::builder(dataset).batch_size(32).shuffle(42).build()?;
//! let sizes: Vec<usize> = loader.epoch(0)?.map(|batch| Ok(batch?.len())).collect::<dataflux::Result<_>>()?;
//! assert_eq!(sizes, [32, 32, 32, 4]);
//! # Ok::<(), dataflux::Error>(())
//! ```
//!
//! # What it does not do
//! It doesn't transform data sets into another format, doesn't read other clouds, doesn't augment images, and doesn't
//! decompress: an object with a `Content-Encoding` is delivered as stored. It caches on disk only if it is given a [`Cache`].
//! Temporary objects live in the bucket for the time of a read when it composes; [`Strategy::Direct`] never writes.
//!
//! # Features
//! - `image` (default): [`ImageFolder`], PNG and JPEG.
//! - `candle`, `tch`: `Batch::to_candle`, `Batch::to_tch`. Neither is in the default build.
//! - `parquet`: inventory reports in Parquet, beside those in CSV; see [`list::inventory`].
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod budget;
mod crc;
mod error;
mod io;
pub mod metrics;
mod os;
mod suspension;

pub mod store;

pub mod pacing;

pub mod list;

pub mod manifest;

pub mod sample;

pub mod plan;

pub mod compose;

pub mod cache;

pub mod read;

pub mod decode;

pub mod collate;

mod observe;

mod engine;

mod loader;

mod tensor;

pub use cache::{Cache, CacheStats};
pub use collate::{Batch, Collate, LostSample, Samples};
pub use compose::{clean, clean_up_on_signals, wait_for_temporaries};
pub use decode::{Decode, DecodeMemory, ItemMemory, Raw};
#[cfg(feature = "image")]
pub use decode::{Image, ImageFolder, Images, StackImages};
pub use engine::{Closed, OnError, WaitedFor};
pub use error::{Error, ErrorKind, Result, Stage};
pub use loader::{
    BatchStream, Batches, DataLoader, DataLoaderBuilder, DatafluxDataset, DatasetBuilder, EpochStats, Epochs,
    MixedBatches, MixedLoader, MixedLoaderBuilder, MixedState,
};
pub use manifest::Manifest;
pub use observe::{AuditLog, AuditRecord};
pub use plan::Strategy;
pub use read::RawSample;
pub use sample::{SampleId, State};

/// The README's code is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
