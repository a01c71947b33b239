//! `bench --cache`, by one process after another, by several at once, and by such that are killed.
//!
//! `DATAFLUX_KILLS=100 cargo test -p dataflux-cli --test it killed_while -- --nocapture` kills so many and says what
//! came of it.

use std::path::PathBuf;
use std::time::Duration;

use dataflux::store::{Client, Credentials, GcsConfig, GcsStore};
use dataflux::{Cache, DataLoader, DatafluxDataset, Strategy};
use dataflux_emulator::{Emulator, Profile, VirtualSpec};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{dataflux, draw, start, virtuals};

/// Runs killed unless told otherwise.
const KILLS: u64 = 12;
/// Of them at once.
const AT_ONCE: u64 = 2;

/// A folder that is removed with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("dataflux-cli-cache-{name}-{}", std::process::id())))
    }

    fn named(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is not there needs no removing.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn emulator(profile: &str, spec: &VirtualSpec) -> Emulator {
    let profile = profile.parse::<Profile>().unwrap();
    Emulator::builder().profile(profile).virtual_namespace(spec.clone()).start().unwrap()
}

#[track_caller]
fn all_verified(report: &Value, samples: u64) {
    assert_eq!((report["samples"].as_u64(), report["verified"].as_u64()), (Some(samples), Some(samples)), "{report}");
}

#[test]
fn a_second_run_reads_nothing_from_the_bucket() {
    let spec = virtuals("train:n=1000,pattern=folders,size=100..3000");
    let (emulator, folder) = (emulator("fast", &spec), Scratch::new("second"));
    let args = ["bench", "gs://train", "--json", "--strategy", "direct", "--shuffle", "7", "--cache"];
    let first = dataflux(&emulator, &[&args[..], &[folder.named()]].concat()).json();
    let second = dataflux(&emulator, &[&args[..], &[&format!("{}:64MiB", folder.named())]].concat()).json();
    let ops = |report: &Value| report["ops"]["get"].as_u64().unwrap();
    assert_eq!((ops(&first), ops(&second)), (1_000, 0));
    assert_eq!((&first["cache"]["hits"], &first["cache"]["misses"]), (&Value::from(0), &Value::from(1_000)));
    assert_eq!((&second["cache"]["hits"], &second["cache"]["misses"]), (&Value::from(1_000), &Value::from(0)));
    assert_eq!(second["cache"]["bytes_read"], first["bytes"]);
    assert_eq!(first["order_digest"], second["order_digest"]);
    all_verified(&second, 1_000);
}

#[test]
fn processes_that_run_at_once_read_each_sample_once() {
    let spec = virtuals("train:n=3000,pattern=folders,size=100..3000");
    for strategy in ["direct", "compose"] {
        let (emulator, folder) = (emulator("gcs,scale=0.2,limits=off", &spec), Scratch::new(strategy));
        emulator.reset_stats();
        let args = ["bench", "gs://train", "--json", "--strategy", strategy, "--shuffle", "7", "--cache"];
        let args = [&args[..], &[folder.named()]].concat();
        let running: Vec<_> = (0..3).map(|_| start(emulator.endpoint(), &args)).collect();
        let reports: Vec<_> = running.into_iter().map(|running| running.finish().json()).collect();
        for report in &reports {
            all_verified(report, 3_000);
        }
        let of_all = |what: &str| reports.iter().map(|report| report["cache"][what].as_u64().unwrap()).sum::<u64>();
        assert_eq!((of_all("misses"), of_all("hits")), (3_000, 6_000), "{strategy}");
        if strategy == "direct" {
            // By the emulator's own count.
            assert_eq!(emulator.stats().get_media, 3_000);
        }
        assert!(reports.iter().all(|report| report["order_digest"] == reports[0]["order_digest"]));
    }
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let spec = virtuals("train:n=10,size=100");
    let (emulator, folder) = (emulator("fast", &spec), Scratch::new("else"));
    std::fs::create_dir(&folder.0).unwrap();
    std::fs::write(folder.0.join("thesis.tex"), "my own").unwrap();
    let error = dataflux(&emulator, &["bench", "gs://train", "--cache", folder.named()]).error();
    assert!(error.contains("thesis.tex") && error.contains("a folder for nothing but the cache"), "{error}");
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
    dataflux(&emulator, &["bench", "gs://train", "--cache", &format!("{}:1KiB", folder.named())]).expect(1);
    dataflux(&emulator, &["bench", "gs://train", "--cache", ":1GiB"]).expect(2);
}

/// Each starts without a failure, whatever those before it have left, and what is in the cache in the end is right.
#[test]
#[allow(clippy::print_stdout, reason = "figures for whoever asks for them")]
fn killed_while_writing_nothing_is_ever_wrong() {
    let kills = std::env::var("DATAFLUX_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let spec = virtuals("train:n=20000,pattern=folders,size=500..20000");
    let (emulator, folder) = (emulator("fast", &spec), Scratch::new("killed"));
    // So small that there is no room for all, and segments are made, closed and removed all the time.
    let bounded = format!("{}:64MiB", folder.named());
    for run in 0..kills.div_ceil(AT_ONCE) {
        let mut running: Vec<_> = (0..AT_ONCE)
            .map(|at| {
                let seed = (run * AT_ONCE + at).to_string();
                let args =
                    ["bench", "gs://train", "-v", "--epochs", "1000000", "--shuffle", &seed, "--cache", &bounded];
                start(emulator.endpoint(), &args)
            })
            .collect();
        for (at, running) in (0..).zip(&mut running) {
            running.says("listed prefix");
            std::thread::sleep(Duration::from_secs_f64(0.7 * draw(57, run * AT_ONCE + at)));
            running.signal(Signal::SIGKILL);
        }
        for running in running {
            let killed = running.finish();
            assert_eq!(killed.code, None, "it ended by itself: {}", killed.stderr);
        }
    }

    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let client = Client::new(std::sync::Arc::new(GcsStore::new(config).unwrap()));
    let cache = Cache::open(&folder.0, 64 << 20).unwrap();
    let found = cache.samples();
    let dataset = DatafluxDataset::open_with(client, "gs://train/").unwrap();
    let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::Direct).cache(cache).build().unwrap();
    let mut batches = loader.epoch(0).unwrap();
    for batch in &mut batches {
        for sample in batch.unwrap().iter() {
            let index = spec.index_of(sample.name()).unwrap();
            assert!(sample.verified() && sample.bytes() == &spec.content(index), "{}", sample.name());
        }
    }
    let stats = batches.stats();
    assert_eq!(stats.samples, spec.len());
    println!("{kills} runs killed; {found} samples found in the cache; then {:?}", stats.cache);
    assert!(found > 0 && stats.cache.hits > 0, "else they were killed before they wrote: {found}, {:?}", stats.cache);
}
