//! Measures how long a batch takes to become a tensor, beside a copy of as many bytes into warm memory: `cargo bench
//! --bench tensors [--features tch] [-- BATCHES]`
//!
//! A loader makes batches of 256 x 3 x 224 x 224 `f32`, and each is converted and dropped as in a training loop. Prints
//! the medians of BATCHES batches, 24 by default, after those of one epoch to warm up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dataflux::store::{Client, MemoryStore};
use dataflux::{Batch, Bitmap, DataLoader, DatafluxDataset, Image, Images, RawSample, StackImages};

const BATCH: usize = 256;
const SIDE: u32 = 224;
const BATCHES_PER_EPOCH: usize = 4;

/// Converts a batch, and returns how long that took.
type Conversion = fn(Batch<Images>) -> Result<Duration>;

fn main() -> Result<()> {
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let batches: usize = argument.map_or(Ok(24), |batches| batches.parse()).context("wanted a number of batches")?;

    let store = MemoryStore::new();
    (0..BATCH * BATCHES_PER_EPOCH).for_each(|index| _ = store.insert("bucket", &format!("p/{index:04}"), "image"));
    let decode = |sample: RawSample| -> Result<Image> {
        let value = sample.id().0 as u8;
        let values = vec![value; (SIDE * SIDE * 3) as usize];
        Ok(Image { bitmap: Bitmap::new(SIDE, SIDE, 3, values)?, label: value.into(), name: sample.name().to_owned() })
    };
    let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://bucket/p/")?;
    let dataset = dataset.decode(decode).collate(StackImages::new());
    let loader = DataLoader::builder(dataset).batch_size(BATCH).memory_budget(2 << 30).prefetch(1).build()?;

    let conversions: &[(&str, Conversion)] = &[
        ("candle", |batch| {
            let start = Instant::now();
            let _tensors = batch.to_candle(&candle_core::Device::Cpu)?;
            Ok(start.elapsed())
        }),
        #[cfg(feature = "tch")]
        ("tch", |batch| {
            let start = Instant::now();
            let _tensors = batch.to_tch(tch::Device::Cpu)?;
            Ok(start.elapsed())
        }),
        ("ndarray", |batch| {
            let start = Instant::now();
            let _arrays = batch.into_ndarray()?;
            Ok(start.elapsed())
        }),
    ];
    let mut warm = vec![0.0_f32; BATCH * 3 * (SIDE * SIDE) as usize];
    for (name, convert) in conversions {
        let (mut copies, mut conversions) = (Vec::new(), Vec::new());
        while conversions.len() < BATCHES_PER_EPOCH + batches {
            for batch in loader.epoch(0)? {
                let batch = batch?;
                let start = Instant::now();
                warm.copy_from_slice(&batch.pixels);
                std::hint::black_box(&warm);
                copies.push(start.elapsed());
                conversions.push(convert(batch)?);
            }
        }
        let [copy, took] = [copies, conversions].map(|mut times| median(&mut times[BATCHES_PER_EPOCH..]));
        println!("{name}: {took:.2?}, memcpy {copy:.2?}, ratio {:.2}", took.as_secs_f64() / copy.as_secs_f64());
    }
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
