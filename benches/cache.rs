//! Measures a second epoch out of the cache, compared with the same bytes read from plain files, one for each sample:
//! `cargo bench --bench cache -- [--size BYTES] [--samples N] [--times N] [--threads N] [--one-buffer] [--folder DIR]
//! [--cold]`
//!
//! Both read in the same shuffled order. The files are divided among the threads, read with `fs::read`, and kept until
//! a batch of 256 is complete. `ratio` compares the cache with that, and `proved` with the same plus the CRC32C of each
//! file, which the loader computes for every sample, too. The loader decodes `Raw` in such batches. With
//! `--one-buffer`, each thread reads all files into one buffer, which never leaves its cache: that is faster than any
//! use of a batch could be.
//!
//! The methods take turns, and medians are compared. Files that were just written are read from memory. With `--cold`
//! the system forgets them before each turn, which needs permission to write `/proc/sys/vm/drop_caches`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use dataflux::store::{Client, MemoryStore};
use dataflux::{Cache, DataLoader, DatafluxDataset, Strategy};

/// Samples in a batch.
const BATCH: usize = 256;

#[derive(Parser)]
struct Args {
    /// Bytes of a sample
    #[arg(long, value_delimiter = ',', default_values_t = [4 << 10, 100 << 10])]
    size: Vec<usize>,
    /// Number of samples; by default as many as have half a GiB together
    #[arg(long)]
    samples: Option<usize>,
    /// How often each method is measured
    #[arg(long, default_value_t = 7)]
    times: usize,
    /// Threads that read files [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Read files into one buffer for each thread, instead of keeping those of a batch
    #[arg(long)]
    one_buffer: bool,
    /// Where the files and the cache are
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Make the system forget what it has read, before each turn
    #[arg(long)]
    cold: bool,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    println!("bytes   samples  files/s  MB/s    cached/s  MB/s    ratio  proved");
    for &size in &args.size {
        let folder = args.folder.join(format!("dataflux-bench-cache-{}", std::process::id()));
        let measured = measure(&args, size, &folder);
        std::fs::remove_dir_all(&folder).context("removing the files of the benchmark")?;
        let (samples, [files, proved, cached]) = measured?;
        let per_second = |seconds: f64| samples as f64 / seconds;
        let megabytes = |seconds: f64| per_second(seconds) * size as f64 / 1e6;
        println!(
            "{size:7} {samples:7}  {:7.0}  {:6.0}  {:8.0}  {:6.0}  {:5.2}  {:6.2}",
            per_second(files),
            megabytes(files),
            per_second(cached),
            megabytes(cached),
            files / cached,
            proved / cached
        );
    }
    Ok(())
}

/// The number of samples, and seconds for files, for files with their CRC32C, and for the cache.
fn measure(args: &Args, size: usize, folder: &Path) -> Result<(usize, [f64; 3])> {
    let samples = args.samples.unwrap_or((512 << 20) / size);
    let store = MemoryStore::new();
    std::fs::create_dir_all(folder.join("files"))?;
    for index in 0..samples {
        let name = format!("{index:08}");
        let bytes: Vec<u8> = name.bytes().cycle().take(size).collect();
        std::fs::write(folder.join("files").join(&name), &bytes)?;
        store.insert("data", &name, bytes);
    }
    let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://data/")?;
    let cache = Cache::open(folder.join("cache"), (4 * samples * size).max(1 << 30) as u64)?;
    let loader = DataLoader::builder(dataset).batch_size(BATCH).shuffle(42).strategy(Strategy::Direct);
    let loader = loader.cache(cache).build()?;
    let (_, names) = epoch(&loader, 0, true)?;
    // A bucket in memory is faster than a disk, so some samples are left out of the cache at first.
    for _ in 0..100 {
        let mut batches = loader.epoch(0)?;
        batches.by_ref().try_for_each(|batch| batch.map(drop))?;
        if batches.stats().cache.misses == 0 {
            break;
        }
    }
    let threads = args.threads.unwrap_or(std::thread::available_parallelism()?.get());
    let mut seconds = [const { Vec::new() }; 3];
    for _ in 0..args.times {
        for (method, prove) in [(0, false), (1, true)] {
            forget(args.cold)?;
            seconds[method].push(read_files(&folder.join("files"), &names, threads, args.one_buffer, prove)?);
        }
        forget(args.cold)?;
        seconds[2].push(epoch(&loader, 0, false)?.0);
    }
    Ok((samples, seconds.map(median)))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Seconds of an epoch, and the names in its order. The first epoch fills the cache; later ones must find everything in
/// it.
fn epoch(loader: &DataLoader, number: u64, first: bool) -> Result<(f64, Vec<String>)> {
    let mut names = Vec::new();
    let started = Instant::now();
    let mut batches = loader.epoch(number)?;
    for batch in &mut batches {
        let batch = batch?;
        if first {
            names.extend(batch.names().map(str::to_owned));
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let stats = batches.stats();
    ensure!(first || (stats.cache.misses, stats.verified) == (0, stats.samples), "{stats:?}");
    Ok((seconds, names))
}

fn read_files(folder: &Path, names: &[String], threads: usize, one_buffer: bool, prove: bool) -> Result<f64> {
    let (next, started) = (AtomicU64::new(0), Instant::now());
    let look_at = |bytes: &[u8]| {
        if prove {
            std::hint::black_box(crc32c::crc32c(bytes));
        }
    };
    std::thread::scope(|scope| {
        let read = || -> Result<()> {
            let (mut bytes, mut batch) = (Vec::new(), Vec::new());
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                if one_buffer {
                    bytes.clear();
                    File::open(folder.join(name))?.read_to_end(&mut bytes)?;
                    look_at(&bytes);
                    continue;
                }
                if batch.len() == BATCH.div_ceil(threads) {
                    batch.clear();
                }
                let bytes = std::fs::read(folder.join(name))?;
                look_at(&bytes);
                batch.push(bytes);
            }
            Ok(())
        };
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader panicked"))
    })?;
    Ok(started.elapsed().as_secs_f64())
}

fn forget(cold: bool) -> Result<()> {
    if cold {
        write_out();
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("--cold needs the permissions of root")?;
    }
    Ok(())
}

/// Writes files to the disk, since the system can forget only what is there.
fn write_out() {
    // If there is no such program, less is forgotten.
    let _ = std::process::Command::new("sync").status();
}
