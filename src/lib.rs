//! A training data loader for Rust on Google Cloud Storage.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod budget;
mod crc;
mod error;
mod io;
pub mod metrics;

pub mod store;

pub mod list;

pub mod manifest;

pub mod sample;

pub mod plan;

pub mod fetch;

pub mod split;

pub mod decode;

pub mod collate;

pub mod deliver;

mod tensor;

pub use collate::{Batch, Collate, Samples};
#[cfg(feature = "image")]
pub use collate::{Images, StackImages};
pub use decode::{Decode, Raw};
#[cfg(feature = "image")]
pub use decode::{Image, ImageFolder};
pub use deliver::{BatchStream, Batches, DataLoader, DataLoaderBuilder, DatafluxDataset, EpochStats};
pub use error::{Error, ErrorKind, Result, Stage};
pub use fetch::{clean, clean_up_on_signals, wait_for_temporaries};
pub use manifest::Manifest;
pub use plan::Strategy;
pub use sample::{SampleId, State};
pub use split::RawSample;
