//! Measures the CPU time from files in memory to batches of normalized images: `cargo bench --bench decode -- --folder
//! DIR [--threads N] [--images N] [--times N] [--size PIXELS] [--crop] [--jpegs rust|turbo|scaled]`
//!
//! A loader reads the images of a folder, which `scripts/bench-decode` makes, out of memory; everything between bytes
//! and batch is counted. Prints one JSON object a turn, as that script reads them. With `--crop`, images are cropped at
//! random and mirrored, as for training, instead of being resized whole. `--jpegs turbo` and `scaled` decode by
//! libjpeg-turbo, and want the feature `turbojpeg`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use dataflux::store::{Client, MemoryStore};
use dataflux::{
    DataLoader, DatafluxDataset, IMAGENET_MEAN, IMAGENET_STD, ImageFolder, JpegDecoding, Strategy, Transforms,
};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Most images in a batch.
const BATCH: usize = 256;

#[derive(Parser)]
struct Args {
    /// A folder of JPEG files
    #[arg(long)]
    folder: PathBuf,
    /// Decode threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Images of a turn
    #[arg(long, default_value_t = 2_048)]
    images: usize,
    /// Number of turns
    #[arg(long, default_value_t = 5)]
    times: usize,
    /// Height and width of the images of a batch
    #[arg(long, default_value_t = 224)]
    size: u32,
    /// Crop at random, resize and mirror
    #[arg(long)]
    crop: bool,
    /// How JPEGs are decoded: rust, turbo or scaled
    #[arg(long, default_value = "rust", value_parser = jpeg_decoding)]
    jpegs: JpegDecoding,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn jpeg_decoding(name: &str) -> Result<JpegDecoding> {
    match name {
        "rust" => Ok(JpegDecoding::Rust),
        #[cfg(feature = "turbojpeg")]
        "turbo" => Ok(JpegDecoding::Turbo),
        #[cfg(feature = "turbojpeg")]
        "scaled" => Ok(JpegDecoding::TurboScaled),
        _ => bail!("it is rust, or with the feature turbojpeg also turbo or scaled"),
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut paths = std::fs::read_dir(&args.folder)
        .with_context(|| format!("reading the folder {}", args.folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    ensure!(!paths.is_empty(), "{} has no files; scripts/bench-decode makes some", args.folder.display());
    let files = paths.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let store = MemoryStore::new().with_bucket("photos");
    for index in 0..args.images {
        store.insert("photos", &format!("p/{}/{index:06}.jpg", index % 10), files[index % files.len()].clone());
    }

    let steps = if args.crop {
        Transforms::new().random_resized_crop(args.size, args.size).horizontal_flip(0.5)
    } else {
        Transforms::new().resize(args.size, args.size)
    };
    let images = ImageFolder::new().transform(steps).normalize(&IMAGENET_MEAN, &IMAGENET_STD);
    let images = images.jpeg_decoding(args.jpegs);
    let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://photos/p/")?.decode(images);
    let builder = DataLoader::builder(dataset)
        .batch_size(BATCH.min(args.images))
        .strategy(Strategy::Direct)
        .memory_budget(1 << 30);
    let loader = builder.decode_threads(args.threads).drop_last(true).build()?;
    for turn in 0..=args.times {
        let (cpu, start) = (cpu_time()?, Instant::now());
        let mut count = 0;
        for batch in loader.epoch(0)? {
            let batch = batch?;
            // A few of them: looking at all would be counted.
            ensure!(batch.pixels.iter().step_by(10_007).all(|value| value.is_finite()));
            count += batch.len();
        }
        let (cpu, wall) = (cpu_time()?.saturating_sub(cpu), start.elapsed());
        // The first turn warms up.
        if turn > 0 {
            let each = |time: Duration| time.as_secs_f64() / count as f64 * 1e6;
            println!("{{\"cpu_us\": {:.1}, \"wall_us\": {:.1}, \"peak_mib\": {}}}", each(cpu), each(wall), peak_mib()?);
        }
    }
    Ok(())
}

/// CPU time of this process.
fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let of =
        |time: TimeVal| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).try_into().unwrap_or(0));
    Ok(of(usage.user_time()) + of(usage.system_time()))
}

/// Peak memory of this process in MiB.
fn peak_mib() -> Result<i64> {
    Ok(getrusage(UsageWho::RUSAGE_SELF)?.max_rss() / 1_024)
}
