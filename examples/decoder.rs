//! A decoder of one's own in twenty lines: clips of audio, each cropped at random to one length. A batch is one array, and
//! a label for each clip.
//!
//! cargo run --release --example decoder

#[path = "support/bucket.rs"]
mod bucket;

use anyhow::{Result, ensure};
use dataflux::ndarray::{Array1, ArrayD};
use dataflux::{DataLoader, DatafluxDataset, Decode, Labelled, RawSample, StackArrays};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Decodes signed 16-bit samples. A closure would do, but it could not say before a clip is read what memory it takes.
struct Clips {
    len: usize,
}

impl Decode for Clips {
    type Item = ArrayD<f32>;
    type Collate = StackArrays;

    fn decode(&self, sample: RawSample) -> Result<ArrayD<f32>> {
        let values: Vec<_> = sample.bytes().chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect();
        ensure!(values.len() >= self.len, "it has {} samples, and {} are wanted", values.len(), self.len);
        // The same crop at any number of threads and ranks, and another one in each epoch.
        let start = StdRng::seed_from_u64(sample.rng_seed()).random_range(0..=values.len() - self.len);
        let clip = values[start..][..self.len].iter().map(|value| f32::from(*value) / 32_768.0);
        Ok(clip.collect::<Array1<f32>>().into_dyn())
    }

    fn collate(&self) -> StackArrays {
        StackArrays
    }

    fn item_bytes(&self, _: u64) -> Option<u64> {
        Some(4 * self.len as u64)
    }
}

pub(crate) fn main() -> Result<()> {
    let clip =
        |index: usize| (format!("clips/{}/{index:02}.pcm", ["music", "speech"][index % 2]), vec![index as u8; 4_000]);
    let (_emulator, client) = bucket::start((0..40).map(clip))?;

    let dataset = DatafluxDataset::open_with(client, "gs://my-bucket/clips/")?;
    let dataset = dataset.decode(Labelled::new(Clips { len: 1_600 })); // the label is the folder
    for batch in DataLoader::builder(dataset).batch_size(16).shuffle(42).drop_last(true).build()?.epoch(0)? {
        let (clips, labels) = batch?.into_inner(); // or to_candle, to_tch
        ensure!(clips.shape() == [16, 1_600], "{:?}", clips.shape());
        println!("clips {:?}, labels {labels:?}", clips.shape());
    }
    Ok(())
}
