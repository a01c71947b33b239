//! A decoder and a collator of one's own: clips of audio, each cropped at random to one length, and stacked.
//!
//! cargo run --release --example decoder

#[path = "support/bucket.rs"]
mod bucket;

use anyhow::{Context, Result, ensure};
use dataflux::{DataLoader, DatafluxDataset, Decode, RawSample, Samples};
use ndarray::Array2;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Decodes signed 16-bit samples. A closure would do, but it could not state the memory that a clip takes.
struct Clips {
    len: usize,
}

impl Decode for Clips {
    type Item = (i64, Vec<f32>);
    type Collate = Samples;

    fn decode(&self, sample: RawSample) -> Result<(i64, Vec<f32>)> {
        let label = sample.entry().label.context("it is in no folder, so it has no label")?;
        let values: Vec<_> = sample.bytes().chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect();
        ensure!(values.len() >= self.len, "it has {} samples, and {} are wanted", values.len(), self.len);
        // The same crop at any number of threads and ranks, and another one in each epoch.
        let start = StdRng::seed_from_u64(sample.rng_seed()).random_range(0..=values.len() - self.len);
        Ok((i64::from(label), values[start..][..self.len].iter().map(|value| f32::from(*value) / 32_768.0).collect()))
    }

    fn collate(&self) -> Samples {
        Samples
    }

    fn item_bytes(&self, _: u64) -> Option<u64> {
        Some(4 * self.len as u64)
    }
}

pub(crate) fn main() -> Result<()> {
    let clip =
        |index: usize| (format!("clips/{}/{index:02}.pcm", ["music", "speech"][index % 2]), vec![index as u8; 4_000]);
    let (_emulator, client) = bucket::start((0..40).map(clip))?;

    let stack = |clips: Vec<(i64, Vec<f32>)>| {
        let (labels, clips): (Vec<_>, Vec<_>) = clips.into_iter().unzip();
        Ok((Array2::from_shape_vec((clips.len(), clips[0].len()), clips.concat())?, labels))
    };
    let dataset = DatafluxDataset::open_with(client, "gs://my-bucket/clips/")?;
    let dataset = dataset.decode(Clips { len: 1_600 }).collate(stack);
    for batch in DataLoader::builder(dataset).batch_size(16).shuffle(42).drop_last(true).build()?.epoch(0)? {
        let (clips, labels) = batch?.into_inner();
        ensure!(clips.dim() == (16, 1_600), "{:?}", clips.dim());
        println!("clips {:?}, labels {labels:?}", clips.dim());
    }
    Ok(())
}
