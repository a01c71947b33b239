//! Batches as tensors: ndarray always, candle and tch if their features are enabled. A library with devices implements
//! [`ToDevice`](crate::ToDevice), by which a loader converts batches ahead of the training loop.

mod array;
#[cfg(feature = "candle")]
mod candle;
#[cfg(feature = "tch")]
mod tch;

use crate::read::RawSample;
use crate::{Error, ErrorKind, Result, Stage};

/// The bytes of samples of one length, end to end, and that length.
fn concatenate(samples: &[RawSample]) -> Result<(Vec<u8>, usize)> {
    let length = samples.first().map_or(0, |first| first.bytes().len());
    let mut bytes = Vec::with_capacity(length * samples.len());
    for sample in samples {
        if sample.bytes().len() != length {
            return Err(Error::new(ErrorKind::Collate, "samples of two lengths make no rectangular array")
                .stage(Stage::Tensor)
                .object(sample.name())
                .mismatch(format_args!("{length} bytes, as {} has", samples[0].name()), sample.bytes().len())
                .hint("decode them to one length with a closure, or take the samples as they are"));
        }
        bytes.extend_from_slice(sample.bytes());
    }
    Ok((bytes, length))
}

#[cfg(any(feature = "candle", feature = "tch"))]
fn library_error(library: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Internal, format!("{library} could not make a tensor of the batch"))
        .stage(Stage::Tensor)
        .hint("see that the device exists and has memory for the batch")
        .with_source(source)
}

#[cfg(test)]
mod tests;
