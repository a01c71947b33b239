//! A cache on local disk: the first epoch reads the bucket, and all later ones, also of other processes, read the disk.
//!
//! cargo run --release --example cache

#[path = "support/bucket.rs"]
mod bucket;

use anyhow::{Result, ensure};
use dataflux::{Cache, DataLoader, DatafluxDataset};

pub(crate) fn main() -> Result<()> {
    let objects = (0..200_u8).map(|index| (format!("train/{index:03}"), vec![index; 10_000]));
    let (_emulator, client) = bucket::start(objects)?;
    let folder = std::env::temp_dir().join(format!("dataflux-cache-example-{}", std::process::id()));

    // A folder for nothing else, and the most bytes that it may take. It outlives the process, also a killed one.
    let cache = Cache::open(&folder, 1 << 30)?;
    let dataset = DatafluxDataset::open_with(client, "gs://my-bucket/train/")?;
    let loader = DataLoader::builder(dataset).batch_size(20).shuffle(42).cache(cache).build()?;
    for epoch in 0..3 {
        let mut batches = loader.epoch(epoch)?;
        for batch in &mut batches {
            batch?; // a step of training
        }
        let stats = batches.stats();
        println!("epoch {epoch}: {} reads of the bucket, {} samples from disk", stats.ops.get, stats.cache.hits);
        ensure!(stats.cache.hits == if epoch == 0 { 0 } else { 200 }, "{stats:?}");
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
