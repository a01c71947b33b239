//! Measures a manifest's memory, and how long building, lookups, saving and loading take. Works on generated names,
//! without a network.
//!
//! cargo bench --bench manifest -- imagenet 17944239

use std::hint::black_box;
use std::time::Instant;

use dataflux::Manifest;
use dataflux::manifest::{ManifestBuilder, Segment};
use dataflux::store::{ObjectRef, Objects, StorageClass, Version};

/// Objects in a page of the service.
const PAGE: u64 = 5_000;
/// Number of lookups that are averaged.
const ROUNDS: u64 = 1_000_000;

/// SplitMix64: a number that looks random.
fn mix(index: u64) -> u64 {
    let mut x = index.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn name(kind: &str, index: u64, count: u64) -> anyhow::Result<String> {
    Ok(match kind {
        // 1,300 images a class, numbered with gaps.
        "imagenet" => {
            let (class, image) = (1_440_764 + index / 1_300 * 600, 10_000 + index % 1_300 * 13 + mix(index) % 13);
            format!("train/n{class:08}/n{class:08}_{image:05}.JPEG")
        }
        "sequence" => format!("train/{index:08}.bin"),
        "uuid" => {
            let (high, low) = (((u128::from(index) << 64) / u128::from(count)) as u64, mix(index));
            let parts = [high >> 32, high >> 16 & 0xFFFF, high & 0xFFF, low >> 52, low & 0xFFFF_FFFF_FFFF];
            format!("train/{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}.jpg", parts[0], parts[1], parts[2], parts[3], parts[4])
        }
        "pairs" => format!("train/{:08}/{}.png", index / 2, ["image", "mask"][index as usize % 2]),
        _ => anyhow::bail!("names like what: imagenet, sequence, uuid or pairs?"),
    })
}

fn page(kind: &str, number: u64, count: u64) -> anyhow::Result<Objects> {
    let mut objects = Objects::default();
    for index in number * PAGE..count.min((number + 1) * PAGE) {
        let random = mix(!index);
        objects.push(ObjectRef {
            name: &name(kind, index, count)?,
            size: 20_000 + random % 200_000,
            // As if written one after another, a hundred a second.
            version: Version::Generation(1_700_000_000_000_000 + index as i64 * 10_000 + (random >> 52) as i64),
            crc32c: Some((random >> 13) as u32),
            storage_class: StorageClass::Standard,
            ..ObjectRef::default()
        });
    }
    Ok(objects)
}

/// Memory of this process in bytes, from a line of `/proc/self/status`; 0 if it isn't there.
fn resident(figure: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_suffix("kB"));
    line.and_then(|kibibytes| kibibytes.trim().parse::<u64>().ok()).unwrap_or_default() << 10
}

fn main() -> anyhow::Result<()> {
    // `cargo bench` adds `--bench`.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let kind = args.next().unwrap_or("imagenet".into());
    let count: u64 = args.next().map_or(Ok(1_000_000), |count| count.parse())?;
    let each = |since: Instant, times: u64| since.elapsed().as_nanos() as f64 / times as f64;

    let before = resident("VmRSS:");
    let mut builder = ManifestBuilder::new("gs://my-bucket/train/".parse()?);
    let pages = count.div_ceil(PAGE);
    let (mut packing, mut packed) = (0.0, 0);
    for number in (0..pages).rev() {
        let objects = page(&kind, number, count)?;
        let start = Instant::now();
        let segment = Segment::new(objects.iter());
        packing += start.elapsed().as_secs_f64();
        packed += segment.len();
        builder.push(segment);
    }
    println!("pack a page   {:8.1} ns an object", packing * 1e9 / packed as f64);
    let start = Instant::now();
    let manifest = builder.finish()?;
    println!("finish        {:8.1} ns an object, {:.2} s in all", each(start, count), start.elapsed().as_secs_f64());
    println!("weight        {:8.2} bytes an object", manifest.memory_bytes() as f64 / count as f64);
    let peak = resident("VmHWM:").saturating_sub(before) as f64;
    println!("peak memory   {:8.2} times that", peak / manifest.memory_bytes() as f64);

    let start = Instant::now();
    for round in 0..ROUNDS {
        black_box(manifest.get(mix(round) % count));
    }
    println!("get           {:8.1} ns", each(start, ROUNDS));
    let start = Instant::now();
    for round in 0..ROUNDS {
        black_box(manifest.facts(mix(round) % count));
    }
    println!("facts         {:8.1} ns", each(start, ROUNDS));
    let start = Instant::now();
    let mut entries = manifest.entries();
    while let Some(entry) = entries.next()? {
        black_box(entry);
    }
    println!("cursor        {:8.1} ns an object", each(start, count));

    let path = std::env::temp_dir().join(format!("dataflux-manifest-{}.dfm", std::process::id()));
    let start = Instant::now();
    manifest.save(&path)?;
    println!("save          {:8.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let loaded = Manifest::load(&path);
    println!("load          {:8.1} ms", start.elapsed().as_secs_f64() * 1e3);
    std::fs::remove_file(&path)?;
    anyhow::ensure!(loaded?.digest() == manifest.digest(), "what was saved is not what is loaded");
    Ok(())
}
