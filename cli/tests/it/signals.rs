//! However a run is ended, it leaves nothing, unless it is killed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dataflux_emulator::{Emulator, Profile};
use nix::sys::signal::Signal;

use crate::harness::{draw, eventually, settle, start, temporaries, virtuals};

/// Runs ended by each of the two signals.
const TIMES: u64 = 10;
/// Of 20 runs of some two seconds each.
const AT_ONCE: usize = 5;

fn bucket(run: u64) -> String {
    format!("train-{run}")
}

#[test]
fn interrupted_at_any_moment_it_leaves_nothing() {
    let mut builder = Emulator::builder().profile("gcs".parse::<Profile>().unwrap());
    for run in 0..2 * TIMES {
        builder =
            builder.virtual_namespace(virtuals(&format!("{}:n=2000,pattern=folders,size=500..2000", bucket(run))));
    }
    let emulator = builder.start().unwrap();
    let (next, with_temporaries) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= 2 * TIMES {
                        return;
                    }
                    with_temporaries.fetch_add(u64::from(interrupt(&emulator, run)), Ordering::Relaxed);
                }
            });
        }
    });
    settle();
    for run in 0..2 * TIMES {
        assert_eq!(temporaries(&emulator, &bucket(run)), [""; 0], "run {run}, after calls still under way at its end");
    }
    assert!(with_temporaries.into_inner() > 0, "the moments are such that some runs have temporaries");
}

/// Composes that the bucket refused were tried again for minutes and held what deletions needed.
#[test]
fn interrupted_where_the_bucket_takes_few_writes_it_leaves_nothing() {
    let profile: Profile = "gcs,writes_per_s=20".parse().unwrap();
    let spec = virtuals("train:n=64000,pattern=folders,size=500..2000");
    let emulator = Emulator::builder().profile(profile).virtual_namespace(spec).start().unwrap();
    let args = ["bench", "gs://train/", "-v", "--json", "--strategy", "compose", "--batch-size", "64"];
    let mut running = start(emulator.endpoint(), &args);
    running.says("listing");
    eventually("the bucket refuses writes", || emulator.stats().errors.get("429").copied().unwrap_or(0) > 50);
    running.signal(Signal::SIGTERM);
    let ended = running.finish();
    assert_eq!(ended.code, Some(143), "{}", ended.stderr);
    assert!(!ended.stderr.contains("are left"), "{}", ended.stderr);
    settle();
    assert_eq!(temporaries(&emulator, "train"), [""; 0], "{}", ended.stderr);
}

/// Whether the run had temporaries when it was interrupted.
fn interrupt(emulator: &Emulator, run: u64) -> bool {
    let (signal, code) = [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)][(run % 2) as usize];
    let uri = format!("gs://{}/", bucket(run));
    let args = ["bench", &uri, "-v", "--json", "--strategy", "compose", "--batch-size", "64"];
    let endless = ["--epochs", "1000000", "--step-ms", "10", "--shuffle", "1"];
    let mut running = start(emulator.endpoint(), &[&args[..], &endless].concat());
    // From here on it minds signals: before, one just ends it, and there is nothing to leave.
    running.says("listing");
    let wait = Duration::from_secs_f64(0.05 + 2.45 * draw(20, run));
    std::thread::sleep(wait);
    let there = temporaries(emulator, &bucket(run)).len();
    running.signal(signal);
    let ended = running.finish();
    let told = format!("run {run}, {signal} after {wait:?} with {there} there: {}", ended.stderr);
    assert_eq!(ended.code, Some(code), "{told}");
    assert_eq!(ended.stdout, "", "{told}");
    assert_eq!(temporaries(emulator, &bucket(run)), [""; 0], "{told}");
    there > 0
}
