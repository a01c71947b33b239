//! Every fault of the emulator at once, at high rates, for twenty epochs of each strategy.
//!
//! A program of its own, because it checks the temporary objects of the whole process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dataflux::store::{Client, Credentials, GcsConfig, GcsStore, RetryPolicy};
use dataflux::{DataLoader, DatafluxDataset, Strategy};
use dataflux_emulator::Emulator;
use support::{content, until, without_hanging};

const EPOCHS: u64 = 20;

/// Every kind of fault; stalls outlast the client's patience many times.
const FAULTS: &str = "error=0.05,429=0.02,reset=0.02,cut=0.02,short=0.02,flip=0.01,stall=0.01,stall_ms=60000,lost=0.05,\
                      lost_compose=0.1,seed=11";
const KINDS: [&str; 8] = ["error", "429", "reset", "stall", "cut", "short", "flip", "lost"];

/// The sizes of 300 objects: 0 to 2 KB, and for one in 30, one to four MiB.
fn size(index: usize) -> usize {
    if index.is_multiple_of(30) { (1 + index / 30 % 4) << 20 } else { index * 37 % 2_000 }
}

fn contents() -> BTreeMap<String, Vec<u8>> {
    let object = |index| {
        let name = format!("p/{index:04}");
        let bytes = content(&name, size(index));
        (name, bytes)
    };
    (0..300).map(object).collect()
}

/// A loader with a listing of its own, which meets faults, too.
fn loader(emulator: &Emulator, batch_size: usize, strategy: Strategy) -> DataLoader {
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let policy = RetryPolicy::default()
        .initial(Duration::from_millis(1))
        .max(Duration::from_millis(20))
        .deadline(Duration::from_secs(60));
    let client = Client::new(Arc::new(GcsStore::new(config).unwrap()))
        .with_retry(policy)
        .with_stall_timeout(Duration::from_millis(150));
    let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
    let builder = DataLoader::builder(dataset).batch_size(batch_size).shuffle(7).memory_budget(24 << 20);
    builder.strategy(strategy).build().unwrap()
}

/// Reads to the end or an error and checks the bytes of each sample. Returns the names in the order of delivery.
fn names(
    loader: &DataLoader,
    epoch: u64,
    contents: &BTreeMap<String, Vec<u8>>,
) -> (Vec<String>, Option<dataflux::Error>) {
    let mut names = Vec::new();
    for batch in loader.epoch(epoch).unwrap() {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return (names, Some(error)),
        };
        for sample in batch.iter() {
            assert!(sample.bytes() == &contents[sample.name()], "{} has other bytes", sample.name());
            assert!(sample.verified());
            names.push(sample.name().to_owned());
        }
    }
    (names, None)
}

fn chaos(strategy: Strategy) {
    without_hanging(move || {
        let emulator = Emulator::builder().bucket("data").start().unwrap();
        let contents = contents();
        for (name, bytes) in &contents {
            emulator.put("data", name, bytes.clone());
        }
        let calm = loader(&emulator, 64, Strategy::Direct);
        let calm: Vec<_> = (0..EPOCHS).map(|epoch| names(&calm, epoch, &contents).0).collect();
        for names in &calm {
            assert!(names.iter().collect::<BTreeSet<_>>().into_iter().eq(contents.keys()), "each sample once");
        }
        emulator.set_faults(FAULTS.parse().unwrap());
        let mut failed = 0;
        for (batch_size, epochs) in [(1, 0..4), (7, 4..8), (50, 8..16), (256, 16..EPOCHS)] {
            let loader = loader(&emulator, batch_size, strategy);
            for epoch in epochs {
                let (names, error) = names(&loader, epoch, &contents);
                let calm = &calm[epoch as usize];
                if let Some(error) = error {
                    assert_eq!(names, calm[..names.len()], "{strategy:?}, epoch {epoch}");
                    assert!(error.about().is_some_and(|about| about.starts_with("gs://data/p/")), "{error}");
                    failed += 1;
                } else {
                    assert!(names == *calm, "{strategy:?}, epoch {epoch}: another order");
                }
                until("all bytes are given back", || loader.bytes_held() == 0);
                until("no temporary is left", || emulator.names("data").len() == contents.len());
            }
        }
        // An object is damaged three times in a row once in a million reads, which is an error.
        assert!(failed <= 1, "{failed} of {EPOCHS} epochs failed");
        support::no_temporaries();
        let faults = emulator.stats().faults;
        // Direct reads lose no answers to writes, and whether `Auto` writes depends on what is faster.
        let kinds = if strategy == Strategy::compose() { &KINDS } else { &KINDS[..7] };
        assert!(kinds.iter().all(|kind| faults.contains_key(*kind)), "no chaos: {faults:?}");
    });
}

#[test]
fn direct() {
    chaos(Strategy::Direct);
}

#[test]
fn composed() {
    chaos(Strategy::compose());
}

#[test]
fn auto() {
    chaos(Strategy::Auto);
}
