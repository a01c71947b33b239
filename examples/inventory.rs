//! Reads an inventory report, and prints how many objects it has and how fast they were read:
//!
//!     cargo run --release --features parquet --example inventory -- gs://reports/daily/ gs://my-bucket/train/

use std::time::Instant;

use anyhow::{Context, Result};
use dataflux::list::inventory::Inventory;
use dataflux::store::{Client, GcsConfig, GcsStore, MemoryStore};

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let report = arguments.next().context("the first argument is the report: a path or a gs:// URI")?;
    let prefix = arguments.next().context("the second argument is the prefix, such as gs://my-bucket/train/")?;
    let client = if report.starts_with("gs://") {
        Client::new(std::sync::Arc::new(GcsStore::new(GcsConfig::from_env().read_only())?))
    } else {
        // A report on disk needs no credentials.
        Client::new(std::sync::Arc::new(MemoryStore::new()))
    };
    let start = Instant::now();
    let inventory = Inventory::open(&client, &report).await?;
    let (mut bytes, mut batches) = (0, 0);
    let sink = |objects: dataflux::store::Objects| {
        bytes += objects.iter().map(|object| object.size).sum::<u64>();
        batches += 1;
        Ok(())
    };
    let counts = inventory.objects(&client, &prefix.parse()?, sink).await?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{counts:?}, {bytes} bytes in {batches} batches");
    println!("{seconds:.3} s: {:.0} rows a second", counts.rows as f64 / seconds);
    Ok(())
}
