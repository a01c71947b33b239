//! Reads objects with the client of another crate, and prints time and memory as one JSON object on one line.
//!
//! ```text
//! dataflux ls gs://bucket/train/ | peer object_store http://127.0.0.1:9000 bucket 64
//! ```

use std::future::Future;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use object_store::path::Path;
use object_store::{ObjectStoreExt, RetryConfig};

const USAGE: &str = "usage: peer object_store|opendal|google ENDPOINT BUCKET [CONCURRENCY [THREADS]] <NAMES";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut text = || args.next().context(USAGE);
    let (client, endpoint, bucket) = (text()?, text()?, text()?);
    let mut number = |default| args.next().map_or(Ok(default), |text| text.parse().context(USAGE));
    let (concurrency, threads): (usize, usize) = (number(64)?, number(2)?);
    let names: Vec<String> = std::io::stdin().lock().lines().collect::<Result<_, _>>()?;
    let objects = names.len();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;

    let (bytes, seconds, cpu) = runtime.block_on(async {
        match &*client {
            "object_store" => {
                let store = Arc::new(peers::object_store(&endpoint, &bucket, RetryConfig::default())?);
                let read = |name: String| {
                    let store = Arc::clone(&store);
                    async move { Ok(store.get(&Path::from(name)).await?.bytes().await?.len()) }
                };
                read_all(names, concurrency, read).await
            }
            "opendal" => {
                let operator = peers::opendal(&endpoint, &bucket)?;
                let read = |name: String| {
                    let operator = operator.clone();
                    async move { Ok(operator.read(&name).await?.len()) }
                };
                read_all(names, concurrency, read).await
            }
            #[cfg(feature = "google")]
            "google" => {
                let (storage, bucket) = (peers::google(&endpoint).await?, format!("projects/_/buckets/{bucket}"));
                let read = |name: String| {
                    let (storage, bucket) = (storage.clone(), bucket.clone());
                    async move {
                        let (mut body, mut bytes) = (storage.read_object(bucket, name).send().await?, 0);
                        while let Some(chunk) = body.next().await {
                            bytes += chunk?.len();
                        }
                        Ok(bytes)
                    }
                };
                read_all(names, concurrency, read).await
            }
            #[cfg(not(feature = "google"))]
            "google" => bail!("this program was built without --features google"),
            other => bail!("there is no client {other}; {USAGE}"),
        }
    })?;
    println!(
        "{}",
        serde_json::json!({
            "objects": objects,
            "bytes": bytes,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "peak_rss_bytes": peak_rss_bytes()?,
        })
    );
    Ok(())
}

/// Reads all objects, `concurrency` at once. Returns their bytes, the seconds and the CPU seconds.
async fn read_all<R: Future<Output = Result<usize>> + Send + 'static>(
    names: Vec<String>,
    concurrency: usize,
    read: impl Fn(String) -> R,
) -> Result<(usize, f64, f64)> {
    let (cpu, started) = (cpu_seconds()?, Instant::now());
    let bytes = stream::iter(names)
        .map(|name| {
            // In tasks, so that all threads have work.
            let task = tokio::spawn(read(name));
            async move { task.await? }
        })
        .buffer_unordered(concurrency)
        .try_fold(0, async |sum, bytes| Ok(sum + bytes))
        .await?;
    Ok((bytes, started.elapsed().as_secs_f64(), cpu_seconds()? - cpu))
}

/// User and system time of this process.
fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

/// Peak resident memory of this process. `ru_maxrss` is not used, since it starts with the value of the parent process.
fn peak_rss_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1_024)
}
