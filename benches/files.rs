//! Measures an epoch of small files of this machine, compared with a plain loop over `std::fs::read`: `cargo bench
//! --bench files -- [--files N] [--size BYTES] [--times N] [--threads N] [--prefetch N] [--folder DIR]`
//!
//! The files are written below DIR and removed at the end. Both read all of them in the same shuffled order, and touch
//! every byte as a sum. They take turns, and the first turn, which brings the files into the page cache, doesn't count.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use dataflux::{DataLoader, DatafluxDataset};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// Bytes of each file
    #[arg(long, default_value_t = 20 << 10)]
    size: usize,
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    times: usize,
    /// Threads of the plain loop
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Batches that are read ahead
    #[arg(long)]
    prefetch: Option<usize>,
    /// Where the files are written
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one turn took, and the sum of all words.
struct Turn {
    files_per_second: f64,
    cpu_us: f64,
    sum: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir_in(&args.folder)?;
    write_files(folder.path(), args.files, args.size)?;
    let dataset = DatafluxDataset::open(&format!("file://{}/", folder.path().display()))?;
    ensure!(dataset.len() as usize == args.files, "{} of {} files were listed", dataset.len(), args.files);
    let mut loader = DataLoader::builder(dataset.clone()).batch_size(256).shuffle(42);
    if let Some(batches) = args.prefetch {
        loader = loader.prefetch(batches);
    }
    let loader = loader.build()?;

    let mut paths = Vec::new();
    for batch in loader.epoch(0)? {
        paths.extend(batch?.names().map(|name| PathBuf::from(format!("/{name}"))));
    }
    let (mut loops, mut epochs) = (Vec::new(), Vec::new());
    for _ in 0..=args.times {
        loops.push(timed(args.files, || read_by_loop(&paths, args.threads))?);
        epochs.push(timed(args.files, || read_by_loader(&loader))?);
    }
    ensure!(loops[0].sum == epochs[0].sum, "the loader delivered other bytes than the files have");

    let ratios: Vec<f64> =
        loops.iter().zip(&epochs).skip(1).map(|(a, b)| b.files_per_second / a.files_per_second).collect();
    for (name, turns) in [("plain loop", &loops), ("dataflux", &epochs)] {
        let rates = turns.iter().skip(1).map(|turn| turn.files_per_second).collect();
        let cpu = turns.iter().skip(1).map(|turn| turn.cpu_us).collect();
        println!("{name}: {:.0} files/s, {:.1} us of CPU a file", median(rates), median(cpu));
    }
    println!("dataflux is {:.2} times the plain loop ({ratios:.2?})", median(ratios.clone()));
    Ok(())
}

/// Writes files of different bytes, a thousand in a folder.
fn write_files(folder: &Path, count: usize, size: usize) -> Result<()> {
    let mut bytes = vec![0; size];
    for number in 0..count {
        if number % 1_000 == 0 {
            std::fs::create_dir(folder.join(format!("{}", number / 1_000)))?;
        }
        bytes.fill(number as u8);
        let path = folder.join(format!("{}/{number}.bin", number / 1_000));
        std::fs::File::create(path)?.write_all(&bytes)?;
    }
    Ok(())
}

fn timed(files: usize, read: impl FnOnce() -> Result<u64>) -> Result<Turn> {
    let (started, before) = (Instant::now(), cpu_us()?);
    let sum = read()?;
    let (took, cpu) = (started.elapsed(), cpu_us()? - before);
    Ok(Turn { files_per_second: files as f64 / took.as_secs_f64(), cpu_us: cpu / files as f64, sum })
}

fn read_by_loop(paths: &[PathBuf], threads: usize) -> Result<u64> {
    let next = AtomicUsize::new(0);
    let read = || {
        let mut sum = 0_u64;
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            sum = sum.wrapping_add(sum_of(&std::fs::read(path)?));
        }
        Ok::<_, std::io::Error>(sum)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        let mut sum = 0_u64;
        for thread in threads {
            sum = sum.wrapping_add(thread.join().expect("the loop doesn't panic")?);
        }
        Ok(sum)
    })
}

fn read_by_loader(loader: &DataLoader<dataflux::Raw>) -> Result<u64> {
    let mut sum = 0_u64;
    for batch in loader.epoch(0)? {
        for sample in batch?.iter() {
            sum = sum.wrapping_add(sum_of(sample.bytes()));
        }
    }
    Ok(sum)
}

/// The sum of the words of a file.
fn sum_of(bytes: &[u8]) -> u64 {
    bytes.as_chunks().0.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

fn cpu_us() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
