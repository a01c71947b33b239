//! A training data loader for Rust on Google Cloud Storage.
//!
//! Your samples are many small objects in a bucket, and your training loop is Rust: candle, tch, or plain ndarray. This
//! crate lists the prefix once, shuffles, reads the objects ahead of the loop, verifies each against its listed
//! checksum, decodes, and delivers batches. Where that pays, the server first concatenates small objects, so that 32 of
//! them take one read. The order depends only on the data, the seed and the epoch.
//!
//! ```no_run
//! use candle_core::{DType, Device};
//! use candle_nn::{AdamW, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap, loss};
//! use dataflux::{DataLoader, DatafluxDataset, ImageFolder};
//!
//! # fn main() -> anyhow::Result<()> {
//! let device = Device::cuda_if_available(0)?;
//! let vars = VarMap::new();
//! let model = candle_nn::linear(3 * 64 * 64, 10, VarBuilder::from_varmap(&vars, DType::F32, &device))?;
//! let mut optimizer = AdamW::new(vars.all_vars(), ParamsAdamW::default())?;
//!
//! // Images whose folder is their label: gs://my-bucket/train/cat/1.png
//! let images = ImageFolder::new().resize(64, 64);
//! let dataset = DatafluxDataset::open("gs://my-bucket/train/")?.decode(images);
//! let loader = DataLoader::builder(dataset).batch_size(256).shuffle(42).drop_last(true).build()?;
//!
//! for batches in loader.epochs(0..90)? {
//!     for batch in batches? {
//!         let (images, labels) = batch?.to_candle(&device)?; // (256, 3, 64, 64) and (256)
//!         let scores = model.forward(&images.flatten_from(1)?)?;
//!         optimizer.backward_step(&loss::cross_entropy(&scores, &labels)?)?;
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! This example needs `dataflux = { version = "0.1", features = ["candle"] }`, `candle-core` and `candle-nn` 0.11, and
//! `anyhow`.
//!
//! # I want to ...
//!
//! | ... | here |
//! |---|---|
//! | understand how the parts fit together | [guide: concepts](guide::concepts) |
//! | find what PyTorch calls otherwise | [guide: concepts](guide::concepts#names-that-pytorch-uses) |
//! | try it without a bucket | [recipe](guide::cookbook#without-a-bucket), [`MemoryStore`](store::MemoryStore) |
//! | read files of this machine | [guide: stores](guide::stores#files), [`FileStore`](store::FileStore) |
//! | split into training and validation | [recipe](guide::cookbook#split-into-training-and-validation), [`Subset::split`] |
//! | label by names, tables or closures; regression, several classes | [guide: labels](guide::labels), [`Labels`], [`LabelTable`] |
//! | save the classes of a model | [guide: labels](guide::labels#numbers-of-classes), [`ClassMap`] |
//! | decode arrays, audio, text or tables | [guide: decoding](guide::decoding), [`Npy`], [`Json`], [`CsvRows`] |
//! | decode something else | [guide: decoding](guide::decoding#a-decoder-of-your-own), [`Decode`] |
//! | read compressed objects | [`encoding`], [`RawSample::decompress`] |
//! | augment images | [guide: images](guide::images), [`Transforms`], [`RawSample::rng_seed`] |
//! | have tensors on the GPU in time | [guide: tensors](guide::tensors), [`device`](DataLoaderBuilder::device), [`ToDevice`] |
//! | read images with masks or captions | [guide: parts](guide::parts), [`Parts`], [`ImageFolder::with_mask`] |
//! | train on several ranks | [recipe](guide::cookbook#several-ranks), [guide: order](guide::order) |
//! | stop and resume | [recipe](guide::cookbook#stop-and-resume), [`State`] |
//! | survive bad samples | [recipe](guide::cookbook#samples-that-cant-be-read), [`OnError`] |
//! | see rare classes more often | [recipe](guide::cookbook#rare-classes-more-often), [`Weighted`] |
//! | use it from asynchronous code | [recipe](guide::cookbook#from-asynchronous-code), [`BatchStream`] |
//! | see logs and figures | [recipe](guide::cookbook#see-what-it-does), [`EpochStats`] |
//! | count, log or time what happens | [guide: observe](guide::observe), [`Observer`] |
//! | read a public bucket | [recipe](guide::cookbook#a-public-bucket) |
//! | cache samples on local disk | [recipe](guide::cookbook#a-cache-on-local-disk), [`Cache`] |
//! | mix several data sets | [recipe](guide::cookbook#mix-data-sets), [`MixedLoader`], [`Mixture`] |
//! | know what memory it takes | [guide: memory](guide::memory) |
//! | know what it costs and writes, or limit that | [guide: cost](guide::cost), [`Cost`] |
//! | leave room for others who use the bucket | [`Limits`] |
//!
//! # Build with optimization
//!
//! Decoding images is some hundred times slower in a debug build. Train with `cargo run --release`, or have Cargo
//! optimize dependencies in debug builds, too:
//!
//! ```toml
//! [profile.dev.package."*"]
//! opt-level = 3
//! ```
//!
//! # Features
//!
//! - `image` (default): [`ImageFolder`] for JPEG, PNG, WebP, GIF, BMP and TIFF.
//! - `turbojpeg`: `JpegDecoding::Turbo`, JPEG decoding by libjpeg-turbo, which is built with the crate: that needs a C
//!   compiler, cmake and, on x86, nasm. On Linux and macOS, 64 bits, x86 or ARM. Its licences are IJG, BSD-3-Clause and Zlib.
//! - `candle`, `tch`: `Batch::to_candle`, `Batch::to_tch`. Neither is in the default build.
//! - `parquet`: inventory reports and tables of labels in Parquet, beside those in CSV; see [`list::inventory`] and
//!   [`LabelTable`].
//! - `audio`: [`Wav`] and [`Flac`].
//! - `bzip2`, `xz`, `brotli`: objects that are compressed with these, beside gzip and Zstandard; see [`encoding`].
//!
//! Batches convert to the types of ndarray 0.16, candle 0.11 and tch 0.26. Each is re-exported, as [`ndarray`],
//! `candle_core` and `tch`, so that your program can use the same version.
//!
//! # What it does not do
//!
//! - It reads no other cloud.
//! - It does not convert data sets into another format, and reads no archives of samples such as tar or Parquet.
//! - It augments images only; for other data a decoder of yours augments, with a seed from the sample.
//! - It decompresses nothing by itself: an object with a `Content-Encoding` is delivered as it is stored, and
//!   [`RawSample::decompress`], which decoders call, decompresses it.
//! - It writes to the bucket only to concatenate objects, and only for the time of a read; [`Strategy::Direct`] never
//!   writes. It caches on disk only if it is given a [`Cache`].
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod budget;
mod crc;
mod error;
mod io;
mod lock;
pub mod metrics;
pub mod observe;
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

pub mod encoding;

#[cfg(feature = "image")]
pub mod pixels;

#[cfg(feature = "image")]
pub mod transform;

pub mod decode;

pub mod collate;

pub mod labels;

mod audit;

mod engine;

mod loader;

mod tensor;

#[cfg(doc)]
pub mod guide;

pub use audit::{AuditLog, AuditRecord};
#[doc(inline)]
pub use cache::{Cache, CacheStats};
#[doc(inline)]
pub use collate::{Batch, BatchBuffer, Collate, CollateContext, LostSample, Samples, TensorDevice, ToDevice};
#[doc(inline)]
pub use compose::{clean, clean_up_on_signals, wait_for_temporaries};
#[doc(inline)]
pub use decode::{
    AnyArray, ArrayElement, BatchOf, CollateLabelled, Collated, CsvRows, CsvTable, Decode, DecodeMemory, ItemMemory,
    Json, Labelled, NamedArrays, Npy, Npz, PadArrays, PaddedArrays, Raw, Safetensors, StackArrays, Text,
};
#[cfg(feature = "audio")]
#[doc(inline)]
pub use decode::{Audio, AudioBatch, Flac, StackAudio, Wav};
#[cfg(feature = "image")]
#[doc(inline)]
pub use decode::{
    Image, ImageFolder, ImageWithMask, Images, MappedImages, MaskedImage, MaskedImages, MixImages, PadImages,
    PaddedImages, SampleContext, StackImages, StackMaskedImages, Target, TargetArray,
};
#[doc(inline)]
pub use encoding::{Compression, DecodedBytes};
pub use engine::{Closed, OnError, WaitedFor};
pub use error::{Error, ErrorKind, Result, Stage};
#[doc(inline)]
pub use labels::{ClassMap, LabelTable, LabelTableReader, Labels, RowKey, TableFormat, Unlabelled};
pub use loader::{
    BatchStream, Batches, Cost, DataLoader, DataLoaderBuilder, DatafluxDataset, DatasetBuilder, EpochStats, Epochs,
    Limits, MixedBatches, MixedLoader, MixedLoaderBuilder, MixedState,
};
#[doc(inline)]
pub use manifest::{Manifest, MissingParts, Parts};
#[doc(inline)]
pub use observe::{Event, EventKind, Observer};
#[cfg(feature = "image")]
#[doc(inline)]
pub use pixels::{Bitmap, Channels, Element, IMAGENET_MEAN, IMAGENET_STD, Interpolation, JpegDecoding, Layout};
#[doc(inline)]
pub use plan::Strategy;
#[doc(inline)]
pub use read::RawSample;
#[doc(inline)]
pub use sample::{
    BlockShuffle, Mixture, SampleId, Sampler, Sequential, Shuffle, State, Stratified, Subset, Weighted, WindowShuffle,
};
#[cfg(feature = "image")]
#[doc(inline)]
pub use transform::{
    ColorJitter, ErasedValue, Fit, GaussianBlur, RandAugment, RandomCrop, RandomErasing, RandomResizedCrop,
    RandomRotation, Resize, ResizeShorter, SampleRng, Step, Transforms,
};

/// The version of ndarray that batches convert to.
pub use ndarray;

/// The version of candle that batches convert to.
#[cfg(feature = "candle")]
pub use candle_core;

/// The version of tch that batches convert to.
#[cfg(feature = "tch")]
pub use tch;

/// The README's code is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
