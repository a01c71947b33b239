//! Runs that are killed at random moments, beside one that lives.
//!
//! `DATAFLUX_KILLS=200 cargo test -p dataflux-cli --test it killed -- --nocapture` kills so many and says what came of
//! it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dataflux::store::{Client, Credentials, GcsConfig, GcsStore, ObjectId};
use dataflux::{DataLoader, DatafluxDataset, Strategy};
use dataflux_emulator::{Emulator, ObjectOptions, Profile, VirtualSpec};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{TEMPORARY, dataflux, draw, eventually, settle, start, temporaries, virtuals};

/// Runs killed unless told otherwise.
const KILLS: u64 = 20;
/// Of them at once.
const AT_ONCE: usize = 2;
/// Kills between two calls of `clean`.
const CLEAN_EVERY: u64 = 5;

/// What `clean` did, all in all.
#[derive(Debug, Default)]
struct Cleaned {
    calls: AtomicU64,
    removed: AtomicU64,
    living: AtomicU64,
}

impl Cleaned {
    fn clean(&self, emulator: &Emulator) -> Value {
        let report = dataflux(emulator, &["clean", "gs://train", "--json"]).json();
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.removed.fetch_add(report["removed"].as_u64().unwrap(), Ordering::Relaxed);
        self.living.fetch_add(report["living"].as_u64().unwrap(), Ordering::Relaxed);
        report
    }
}

fn client(emulator: &Emulator) -> Client {
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    Client::new(Arc::new(GcsStore::new(config).unwrap()))
}

/// Loads epoch after epoch, composed, until told to stop; how many.
fn live(emulator: &Emulator, spec: &VirtualSpec, stop: &AtomicBool) -> u64 {
    let dataset = DatafluxDataset::open_with(client(emulator), "gs://train/").unwrap();
    let loader = DataLoader::builder(dataset).batch_size(64).shuffle(3).strategy(Strategy::compose());
    let loader = loader.io_threads(1).decode_threads(1).prefetch(8).build().unwrap();
    for epoch in 0.. {
        let mut seen = BTreeSet::new();
        let mut batches = loader.epoch(epoch).unwrap();
        for batch in &mut batches {
            for sample in batch.unwrap().iter() {
                let index = spec.index_of(sample.name()).unwrap();
                assert!(sample.verified() && sample.bytes() == &spec.content(index), "{}", sample.name());
                seen.insert(index);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let stats = batches.stats();
        assert_eq!((seen.len() as u64, stats.samples, stats.temporaries_left), (spec.len(), spec.len(), 0));
        if stop.load(Ordering::Relaxed) {
            let counts = loader.dataset().client().metrics().snapshot();
            // What is taken while it is read is read again, object by object.
            assert_eq!(counts.get, counts.compose, "a temporary of the living run was taken");
            return epoch + 1;
        }
    }
    unreachable!("epochs don't end")
}

fn kill(emulator: &Emulator, run: u64) {
    let args = ["bench", "gs://train", "-v", "--strategy", "compose", "--batch-size", "64", "--epochs", "1000000"];
    let mut running = start(emulator.endpoint(), &args);
    running.says("listing");
    std::thread::sleep(Duration::from_secs_f64(1.5 * draw(31, run)));
    running.signal(Signal::SIGKILL);
    assert_eq!(running.finish().code, None);
}

/// Has the living run end when it goes, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A temporary object of a run on another machine.
fn elsewhere(emulator: &Emulator, name: &str) -> ObjectId {
    let pairs = [("dataflux-run", "1"), ("dataflux-process", "elsewhere/1/1"), ("dataflux-lease-seconds", "0")];
    let metadata = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let options = ObjectOptions { metadata, ..ObjectOptions::default() };
    let name = format!("{TEMPORARY}{name}");
    let generation = emulator.put_with("train", &name, "12345", options);
    ObjectId::new("train", name, generation)
}

#[test]
#[allow(clippy::print_stdout, reason = "figures for whoever asks for them")]
fn killed_at_random_moments_all_is_cleaned_and_none_of_the_living() {
    let kills = std::env::var("DATAFLUX_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let spec = virtuals("train:n=1920,pattern=folders,size=500..2000");
    let emulator = Emulator::builder()
        .profile("gcs,scale=0.5,jitter=0.5,limits=off".parse::<Profile>().unwrap())
        .virtual_namespace(spec.clone())
        .start()
        .unwrap();
    let (expired, renewed) = (elsewhere(&emulator, "expired"), elsewhere(&emulator, "renewed"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lease = [("dataflux-lease-seconds".to_owned(), "300".to_owned())].into();
    runtime.block_on(client(&emulator).update_metadata(&renewed, &lease)).unwrap();

    let (next, cleaned, stop) = (AtomicU64::new(0), Cleaned::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let stop_living = Stop(&stop);
        let living = scope.spawn(|| live(&emulator, &spec, &stop));
        let killers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let run = next.fetch_add(1, Ordering::Relaxed);
                        if run >= kills {
                            return;
                        }
                        kill(&emulator, run);
                        if run % CLEAN_EVERY == CLEAN_EVERY - 1 {
                            cleaned.clean(&emulator);
                        }
                    }
                })
            })
            .collect();
        for killer in killers {
            killer.join().unwrap();
        }
        // One of a run elsewhere is always there.
        eventually("a temporary of the living run", || {
            cleaned.clean(&emulator)["living"].as_u64().unwrap() > 1 || living.is_finished()
        });
        drop(stop_living);
        let epochs = living.join().unwrap();
        // What the service still made for the dead.
        settle();
        cleaned.clean(&emulator);
        println!(
            "{kills} runs killed beside one that lived for {epochs} epochs of {} samples: {cleaned:?}",
            spec.len()
        );
    });
    assert!(emulator.get("train", &expired.name).is_none(), "its lease was over");
    assert_eq!(temporaries(&emulator, "train"), [&*renewed.name], "0 left, but for the one whose lease was renewed");
    assert!(cleaned.removed.into_inner() > kills / 2, "the moments are such that most runs leave something");
}
