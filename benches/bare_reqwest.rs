//! The least work that reading objects over HTTP takes. The benchmarks compare the loader with it.
//!
//! Reads names from stdin, one on each line, and gets each object with nothing but reqwest: no retry, no checksum, no
//! order, no batches. Prints one JSON object.
//!
//! ```text
//! dataflux ls gs://bucket/train/ | cargo bench --bench bare_reqwest -- http://127.0.0.1:9000 bucket 64
//! ```

use std::io::BufRead;
use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

fn main() -> Result<()> {
    // `cargo bench` adds `--bench`.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let usage = "usage: bare_reqwest ENDPOINT BUCKET [CONCURRENCY [THREADS]] <NAMES";
    let (endpoint, bucket) = (args.next().context(usage)?, args.next().context(usage)?);
    let mut number = |default| args.next().map_or(Ok(default), |text| text.parse().context(usage));
    let (concurrency, threads): (usize, usize) = (number(64)?, number(2)?);

    let urls: Vec<String> = std::io::stdin()
        .lock()
        .lines()
        .map(|name| {
            let name = percent_encoding::utf8_percent_encode(&name?, percent_encoding::NON_ALPHANUMERIC).to_string();
            Ok(format!("{endpoint}/storage/v1/b/{bucket}/o/{name}?alt=media"))
        })
        .collect::<Result<_>>()?;
    let objects = urls.len();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    // The library sets the provider up at its first use. Nothing here is encrypted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().http1_only().tcp_nodelay(true).no_proxy().tls_certs_only([]);
    // The library doesn't decompress either.
    let client = client.no_gzip().no_deflate().build()?;
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    // In tasks, so that all threads have work.
    let bytes = runtime.block_on(async {
        stream::iter(urls)
            .map(|url| {
                let client = client.clone();
                let read = async move { client.get(url).send().await?.error_for_status()?.bytes().await };
                let task = tokio::spawn(read);
                async move { anyhow::Ok(task.await??.len()) }
            })
            .buffer_unordered(concurrency)
            .try_fold(0, async |sum, len| Ok(sum + len))
            .await
    })?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    println!(
        "{}",
        serde_json::json!({
            "objects": objects,
            "bytes": bytes,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "cpu_us_per_object": cpu / objects as f64 * 1e6,
            "peak_rss_bytes": getrusage(UsageWho::RUSAGE_SELF)?.max_rss() * 1024,
        })
    );
    Ok(())
}

/// User and system time of this process.
fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}
