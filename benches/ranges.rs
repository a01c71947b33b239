//! Measures a large object read in ranges, compared with one plain read of all of it with reqwest: `cargo bench --bench
//! ranges -- [--profile PROFILE] [--size BYTES] [--times N] [--folder DIR] [--budget BYTES] [--streams N]`
//!
//! An emulator in a process of its own serves the object. Each method runs in a process of its own, too, so that its
//! CPU time and its peak memory can be measured. The methods take turns, and medians are compared. Files are written to
//! DIR.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use dataflux::read::Download;
use dataflux::store::{Client, Credentials, GcsConfig, GcsStore, ObjectId};
use dataflux_emulator::Emulator;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};

const BUCKET: &str = "big";

#[derive(Parser)]
struct Args {
    /// Delays and limits of the emulator
    #[arg(long, default_value = "fast")]
    profile: String,
    /// Bytes of the object
    #[arg(long, default_value_t = 4 << 30)]
    size: u64,
    /// How often each method is measured
    #[arg(long, default_value_t = 5)]
    times: usize,
    /// Where files are written
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Bytes that chunks may hold
    #[arg(long, default_value_t = dataflux::read::MEMORY_BUDGET)]
    budget: u64,
    /// Streams at once, at most
    #[arg(long, default_value_t = dataflux::read::MAX_STREAMS)]
    streams: usize,
    /// Threads of the emulator
    #[arg(long, default_value_t = 1)]
    serving: usize,
    /// Methods to measure in addition to the plain read
    #[arg(long, value_delimiter = ',', default_value = "chunks,memory,file")]
    methods: Vec<String>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// The part of a process that this one has started
    #[arg(long, hide = true)]
    role: Option<String>,
    #[arg(long, hide = true, default_value = "")]
    endpoint: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.role.as_deref() {
        None => compare(&args),
        Some("serve") => serve(&args),
        Some(method) => measure(&args, method),
    }
}

fn serve(args: &Args) -> Result<()> {
    let spec = format!("{BUCKET}:n=1,size={}", args.size);
    let emulator = Emulator::builder()
        .profile(args.profile.parse()?)
        .threads(args.serving)
        .virtual_namespace(spec.parse()?)
        .start()?;
    println!("{}", emulator.endpoint());
    emulator.wait()?;
    Ok(())
}

/// A child process, which is killed when this is dropped.
struct Role(Child);

impl Drop for Role {
    fn drop(&mut self) {
        // Fails if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(args: &Args, role: &str, endpoint: &str) -> Result<(Role, String)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--role", role, "--endpoint", endpoint, "--profile", &args.profile])
        .args(["--size", &args.size.to_string(), "--budget", &args.budget.to_string()])
        .args(["--streams", &args.streams.to_string(), "--serving", &args.serving.to_string()])
        .arg("--folder")
        .arg(&args.folder)
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("the output is piped")?;
    let role = Role(child);
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    ensure!(!line.is_empty(), "a process ended without any output");
    Ok((role, line.trim().to_owned()))
}

fn compare(args: &Args) -> Result<()> {
    let (_emulator, endpoint) = start(args, "serve", "")?;
    let mut methods = vec!["plain".to_owned()];
    methods.extend(args.methods.iter().cloned());
    let mut all = vec![Vec::new(); methods.len()];
    for _ in 0..args.times {
        for (method, runs) in methods.iter().zip(&mut all) {
            let (_process, line) = start(args, method, &endpoint)?;
            runs.push(serde_json::from_str::<Value>(&line)?);
        }
    }
    let median = |runs: &[Value], what: &str| {
        let mut values: Vec<f64> = runs.iter().filter_map(|run| run[what].as_f64()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    println!(
        "{} bytes, profile {}, {} streams, budget of {} MiB, median of {}",
        args.size,
        args.profile,
        args.streams,
        args.budget >> 20,
        args.times
    );
    println!("method   MB/s   of plain  CPU s  peak MiB  first bytes ms");
    let plain = median(&all[0], "seconds");
    for (method, runs) in methods.iter().zip(&all) {
        let seconds = median(runs, "seconds");
        println!(
            "{method:7}  {:6.0}  {:7.2}  {:5.2}  {:8.0}  {:14.1}",
            args.size as f64 / 1e6 / seconds,
            plain / seconds,
            median(runs, "cpu"),
            median(runs, "peak") / 1_048_576.0,
            median(runs, "first") * 1e3,
        );
    }
    Ok(())
}

fn measure(args: &Args, method: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let config = GcsConfig::new().endpoint(&args.endpoint).credentials(Credentials::Anonymous);
    let client = Client::new(Arc::new(GcsStore::new(config)?));
    runtime.block_on(async {
        let id = ObjectId::live(BUCKET, "00000000");
        let meta = client.stat(&id).await?;
        ensure!(meta.size == args.size, "the object has {} bytes", meta.size);
        let id = ObjectId { version: meta.version, ..id };
        let download = Download::of(&client, id, meta.size, meta.crc32c);
        let download = download.memory_budget(args.budget).max_streams(args.streams);
        let file = args.folder.join(format!("dataflux-bench-{}", std::process::id()));
        let mut first = None;
        let started = Instant::now();
        match method {
            "plain" => {
                let http = reqwest::Client::builder().http1_only().tcp_nodelay(true).no_proxy().tls_certs_only([]);
                // The library doesn't decompress either.
                let http = http.no_gzip().no_deflate();
                let url = format!("{}/storage/v1/b/{BUCKET}/o/00000000?alt=media", args.endpoint);
                let mut response = http.build()?.get(url).send().await?.error_for_status()?;
                let mut bytes = 0;
                while let Some(chunk) = response.chunk().await? {
                    first.get_or_insert_with(|| started.elapsed());
                    bytes += chunk.len() as u64;
                }
                ensure!(bytes == args.size, "{bytes} bytes were received");
            }
            "chunks" => {
                let mut chunks = download.chunks();
                let mut at = 0;
                while let Some(chunk) = chunks.next().await {
                    let chunk = chunk?;
                    first.get_or_insert_with(|| started.elapsed());
                    ensure!(chunk.offset() == at, "byte {} follows byte {at}", chunk.offset());
                    at += chunk.len() as u64;
                }
                ensure!(
                    at == args.size && chunks.receipt().is_some_and(|receipt| receipt.verified),
                    "{at} bytes were received"
                );
            }
            "memory" => {
                let (bytes, receipt) = download.into_memory().await?;
                ensure!(bytes.len() as u64 == args.size && receipt.verified);
            }
            "file" => ensure!(download.sync(false).into_file(&file).await?.verified),
            "synced" => ensure!(download.into_file(&file).await?.verified),
            other => bail!("there is no method {other}"),
        }
        let seconds = started.elapsed();
        // Only some methods write it.
        let _ = std::fs::remove_file(&file);
        let (cpu, peak) = usage()?;
        let first = first.unwrap_or(seconds).as_secs_f64();
        println!("{}", json!({ "seconds": seconds.as_secs_f64(), "cpu": cpu, "peak": peak, "first": first }));
        Ok(())
    })
}

/// CPU seconds and peak memory in bytes of this process.
fn usage() -> Result<(f64, u64)> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let cpu = (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the system reports no peak memory")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok((cpu, kibibytes << 10))
}
