//! Loaders leave nothing, however they end, and nothing grows while they run.
//!
//! A program of its own, because it counts the threads, descriptors and memory of the process. `DATAFLUX_LEAK_SAMPLES`
//! and `DATAFLUX_LEAK_CYCLES` set how much it does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "the figures")]

mod support;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataflux::store::{Fault, FaultStore, MemoryStore, StoreCall};
use dataflux::{DataLoader, DatafluxDataset, Decode, ErrorKind, RawSample, Strategy};
use futures_util::StreamExt;
use support::{HANG, client, until, without_hanging_for};

/// Lets one test run at a time, because the tests count what belongs to the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |value| value.parse().unwrap())
}

/// Runs a test in a process of its own with one heap instead of one for each of a few threads. What the C library keeps
/// in the heaps of ended threads varies by megabytes, which would hide a leak.
fn in_one_heap(test: &str, body: impl FnOnce() + Send + 'static) {
    if std::env::var_os("MALLOC_ARENA_MAX").is_some() {
        return without_hanging_for(HOURS, body);
    }
    let _alone = alone();
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let ran = again.args([test, "--exact", "--nocapture"]).env("MALLOC_ARENA_MAX", "1").status().unwrap();
    assert!(ran.success(), "see above");
}

/// Longer than any requested amount of work; only a hang lasts that long.
const HOURS: Duration = Duration::from_secs(4 * 3_600);

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// The resident memory of the process, in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() * 1_024.0
}

/// The growth of `y` per unit of `x`, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x / count, sy + y / count));
    let (over, under) = points
        .iter()
        .fold((0.0, 0.0), |(over, under), (px, py)| (over + (px - x) * (py - y), under + (px - x) * (px - x)));
    over / under
}

#[test]
fn the_slope_of_a_line() {
    assert!((slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) - 2.0).abs() < 1e-9);
}

/// The number of endings that `cycle` knows.
const ENDS: usize = 11;

/// Starts a loader, takes `taken` batches, and ends it by the ending of this number.
fn cycle(store: &MemoryStore, end: usize, taken: usize) {
    let faults = FaultStore::new(Arc::new(store.clone()));
    if end == 1 {
        // Every read of an object fails: the composed one, the single one, and its retry.
        faults.fail_next(StoreCall::Get, Fault::Error(ErrorKind::PermissionDenied), 1_000);
    }
    let dataset = DatafluxDataset::open_with(client(faults), "gs://data/p/").unwrap();
    let strategy = if taken.is_multiple_of(2) { Strategy::Direct } else { Strategy::compose() };
    let panics = end == 2;
    let decode = move |sample: RawSample| -> anyhow::Result<Vec<u8>> {
        assert!(!(panics && sample.id().0 == 77), "the decoder panics, as it should");
        Ok(sample.bytes().to_vec())
    };
    let refuses = end == 3;
    let collate = move |samples: Vec<Vec<u8>>| -> anyhow::Result<Vec<Vec<u8>>> {
        anyhow::ensure!(!(refuses && samples.iter().any(|bytes| bytes.starts_with(b"p/099"))), "these don't fit");
        Ok(samples)
    };
    let builder = DataLoader::builder(dataset.decode(decode).collate(collate)).batch_size(8).strategy(strategy);
    let builder = builder.shuffle(taken as u64).decode_threads(2).unordered(end == 4);
    // A loader with its own runtime has its own descriptors.
    let builder = if taken.is_multiple_of(5) { builder.io_threads(1) } else { builder };
    // A budget so small that the epoch that is read ahead doesn't fit.
    let builder = if end >= 9 { builder.prefetch(2) } else { builder };
    let loader = builder.build().unwrap();
    match end {
        1..=3 => {
            let error = loader.epoch(0).unwrap().find_map(Result::err).unwrap();
            let wanted = [ErrorKind::PermissionDenied, ErrorKind::Decode, ErrorKind::Collate][end - 1];
            assert_eq!(error.kind(), wanted, "{error}");
        }
        5 => {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut stream = loader.stream(0).unwrap();
            for _ in 0..taken {
                runtime.block_on(stream.next()).unwrap().unwrap();
            }
        }
        6 => {
            let mut epochs = loader.epochs(0..3).unwrap();
            epochs.next().unwrap().unwrap().take(taken).for_each(|batch| drop(batch.unwrap()));
        }
        7 => {
            let mut batches = loader.epoch(0).unwrap();
            batches.by_ref().take(taken).for_each(|batch| drop(batch.unwrap()));
            assert!(loader.close(HANG).is_clean());
        }
        8 => {
            let mut batches = loader.epoch(0).unwrap();
            batches.by_ref().take(taken).for_each(|batch| drop(batch.unwrap()));
            assert!(batches.close(HANG).is_clean());
        }
        9 => {
            let mut epochs = loader.epochs(0..90).unwrap();
            epochs.next().unwrap().unwrap().for_each(|batch| drop(batch.unwrap()));
        }
        10 => drop(loader.epochs(0..90).unwrap()),
        _ => loader.epoch(0).unwrap().take(taken).for_each(|batch| drop(batch.unwrap())),
    }
}

#[test]
fn a_thousand_loaders_leave_nothing() {
    in_one_heap("a_thousand_loaders_leave_nothing", || {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let told = panic.payload_as_str().is_some_and(|text| text.contains("as it should"));
            if !told {
                usual(panic);
            }
        }));
        let store = MemoryStore::new().with_bucket("data");
        for index in 0..200 {
            let name = format!("p/{index:03}");
            store.insert("data", &name, support::content(&name, 1_024));
        }
        let cycles = setting("DATAFLUX_LEAK_CYCLES", 1_000);
        // The first cycles create what stays: the threads that all loaders share, and the allocator's arenas.
        let warm = cycles / 5;
        let (mut before, mut points) = ((0, 0), Vec::new());
        let ended = || {
            until("temporaries are gone", || dataflux::wait_for_temporaries(HANG).objects.is_empty());
            until("no loader's thread is left", || !threads_of_loaders());
        };
        for index in 0..cycles {
            cycle(&store, index % ENDS, index * 31 % 26);
            if index == warm {
                ended();
                before = (entries("/proc/self/task"), entries("/proc/self/fd"));
            }
            if index >= warm && index % 10 == 0 {
                points.push((index as f64, resident()));
            }
        }
        ended();
        let after = (entries("/proc/self/task"), entries("/proc/self/fd"));
        let slope = slope(&points);
        eprintln!(
            "{cycles} cycles: threads {} then {}, descriptors {} then {}, resident {:.1} MiB then {:.1} MiB, \
             {slope:.0} bytes a cycle",
            before.0,
            after.0,
            before.1,
            after.1,
            points[0].1 / f64::from(1 << 20),
            points[points.len() - 1].1 / f64::from(1 << 20)
        );
        assert_eq!(store.names("data").len(), 200, "temporary objects are left");
        assert!(after.0 <= before.0, "threads: {before:?}, then {after:?}");
        assert!(after.1 <= before.1, "descriptors: {before:?}, then {after:?}");
        // One loader takes many times this.
        assert!(slope < 2_048.0, "{slope} bytes a cycle");
    });
}

/// Whether threads of loaders or of their own runtimes exist; those of the shared runtime stay.
fn threads_of_loaders() -> bool {
    let names = std::fs::read_dir("/proc/self/task").unwrap();
    let names: Vec<_> = names
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.starts_with("dataflux"))
        .collect();
    let shared = std::thread::available_parallelism().map_or(2, usize::from).min(4);
    let io = names.iter().filter(|name| name.starts_with("dataflux-io")).count();
    names.len() > io || io > shared
}

/// A decoder that takes no time, so that only the loader is measured.
#[derive(Debug)]
struct Size;

impl Decode for Size {
    type Item = usize;
    type Collate = dataflux::Samples;

    fn decode(&self, sample: RawSample) -> anyhow::Result<usize> {
        Ok(sample.bytes().len())
    }
    fn collate(&self) -> dataflux::Samples {
        dataflux::Samples
    }
    fn is_light(&self) -> bool {
        true
    }
}

#[test]
fn memory_is_flat_over_many_epochs_of_tiny_samples() {
    const EPOCHS: u64 = 16;
    /// Epochs in which the memory of the most batches at once is reached.
    const WARM_UP: usize = 8;
    in_one_heap("memory_is_flat_over_many_epochs_of_tiny_samples", || {
        let samples = setting("DATAFLUX_LEAK_SAMPLES", 50_000);
        let store = MemoryStore::new().with_bucket("data");
        for index in 0..samples {
            store.insert("data", &format!("p/{index:07}"), vec![7; 16]);
        }
        let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap().decode(Size);
        let builder = DataLoader::builder(dataset).batch_size(256).shuffle(1).strategy(Strategy::Direct);
        // Few batches ahead, because the memory of the largest number would vary by many megabytes.
        let loader = builder.memory_budget(64 << 20).prefetch(16).build().unwrap();
        let mut resident_after = Vec::new();
        for batches in loader.epochs(0..EPOCHS).unwrap() {
            let bytes = batches.unwrap().map(|batch| batch.unwrap().iter().sum::<usize>()).sum::<usize>();
            assert_eq!(bytes, samples * 16);
            resident_after.push(resident());
        }
        let mebibytes: Vec<_> =
            resident_after.iter().map(|bytes| format!("{:.1}", bytes / f64::from(1 << 20))).collect();
        let warm = resident_after[..WARM_UP].iter().copied().fold(0.0, f64::max);
        let growth = resident_after[resident_after.len() - 1] - warm;
        eprintln!(
            "{EPOCHS} epochs of {samples} samples: resident {} MiB, {:.1} bytes a sample in all after the first {WARM_UP}",
            mebibytes.join(" "),
            growth / samples as f64
        );
        assert!(loader.close(HANG).is_clean());
        // The limit allows for a new peak, and for two bytes a sample in each epoch; anything that is kept takes more.
        assert!(growth < f64::from(8 << 20) + 16.0 * samples as f64, "{growth} bytes");
    });
}
