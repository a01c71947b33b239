//! Three ranks that train together: they load one manifest, and each gets its slice of each global batch.
//!
//! cargo run --release --example ranks
//!
//! The ranks are threads here, and the bucket is in this process. In a real run each rank is a process that a launcher
//! starts, which calls `.shard_from_env()` instead of `.shard(rank, RANKS)`.

#[path = "support/bucket.rs"]
mod bucket;

use std::thread;

use anyhow::{Result, ensure};
use dataflux::{DataLoader, DatafluxDataset, Manifest, SampleId};

const RANKS: usize = 3;

pub(crate) fn main() -> Result<()> {
    let objects = (0..100).map(|index| (format!("train/{index:03}"), vec![index; 1_000]));
    let (_emulator, client) = bucket::start(objects)?;

    // One process lists and saves; `dataflux ls --save train.dfm gs://my-bucket/train/` does that, too.
    let path = std::env::temp_dir().join(format!("dataflux-ranks-example-{}.dfm", std::process::id()));
    DatafluxDataset::open_with(client.clone(), "gs://my-bucket/train/")?.manifest().save(&path)?;

    let mut ranks = Vec::new();
    for rank in 0..RANKS {
        let manifest = Manifest::load(&path)?;
        let dataset = DatafluxDataset::builder().client(client.clone()).from_manifest(manifest)?;
        ranks.push(thread::spawn(move || train(dataset, rank)));
    }
    let mut ids = Vec::new();
    for rank in ranks {
        ids.extend(rank.join().expect("a rank panicked")?);
    }
    std::fs::remove_file(path)?;

    ids.sort_unstable();
    ensure!(ids.iter().map(|id| id.0).eq(0..100), "each sample comes once, to one rank: {ids:?}");
    Ok(())
}

/// An epoch of one rank. Returns the samples that it was given.
fn train(dataset: DatafluxDataset, rank: usize) -> Result<Vec<SampleId>> {
    let loader = DataLoader::builder(dataset).global_batch_size(24).shuffle(42).shard(rank, RANKS).build()?;
    let mut ids = Vec::new();
    for batch in loader.epoch(0)? {
        // A step of training. All ranks take equally many, so none waits for another that has ended.
        ids.extend_from_slice(batch?.ids());
    }
    println!("rank {rank}: {} samples in {} steps", ids.len(), loader.batches_per_epoch()?);
    Ok(ids)
}
