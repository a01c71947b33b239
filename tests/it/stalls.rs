//! Reports of a training loop that waits for long: the stage it waits for, and the figures.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataflux::store::{Client, MemoryStore, StoreCall};
use dataflux::{
    Cache, DataLoader, DataLoaderBuilder, DatafluxDataset, Decode, EpochStats, OnError, RawSample, Strategy,
};

use crate::support::gated::Gated;
use crate::support::log::Log;
use crate::support::{HANG, until, without_hanging};

/// A bound so short that every wait for a gate is reported.
const BOUND: Duration = Duration::from_millis(20);

/// A store of `count` objects. Its calls have no timeout.
fn store(count: usize) -> (Gated, Client) {
    let store = MemoryStore::new().with_bucket("data").with_page_cap(700);
    for index in 0..count {
        store.insert("data", &format!("p/{index:04}"), vec![7; 100]);
    }
    let gated = Gated::new(store);
    let client = Client::new(gated.store()).with_stall_timeout(HANG);
    (gated, client)
}

fn opened(client: Client) -> DatafluxDataset {
    DatafluxDataset::open_with(client, "gs://data/p/").unwrap()
}

/// Runs an epoch in which one batch waits until the log has reported it twice in these words; then `open` ends the
/// wait. Returns the first line, and the statistics of the epoch.
fn told<D: Decode>(builder: DataLoaderBuilder<D>, words: &str, open: impl FnOnce()) -> (String, EpochStats) {
    let loader = builder.stall_report(BOUND).build().unwrap();
    let (log, stats) = (Log::default(), Mutex::new(EpochStats::default()));
    let told = || log.lines().into_iter().filter(|line| line.contains(words)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = log.listen();
            let mut batches = loader.epoch(0).unwrap();
            for batch in &mut batches {
                batch.unwrap();
            }
            *stats.lock().unwrap() = batches.stats();
        });
        until("the wait is told twice", || told().len() > 1);
        open();
    });
    let stats = *stats.lock().unwrap();
    (told().swap_remove(0), stats)
}

/// Checks that the sums contain the reported wait: the second report comes at twice the bound, so at least one bound
/// passed between both.
fn counted(stage: Duration) {
    assert!(stage >= BOUND, "{stage:?}");
}

#[test]
fn a_read_that_brings_nothing() {
    without_hanging(|| {
        let (gated, client) = store(64);
        gated.shut_object("p/0005");
        let builder = DataLoader::builder(opened(client)).batch_size(16).strategy(Strategy::Direct);
        let (line, stats) = told(builder, "waits for the bytes of gs://data/p/0005#", || gated.open());
        assert!(line.contains("WARN") && line.contains("stage=read"), "{line}");
        for figure in
            ["epoch=0", "batch=0", "bytes_held=", "memory_budget=1073741824", "reads_in_flight=1", "reads_at_once="]
        {
            assert!(line.contains(figure), "{figure}: {line}");
        }
        assert_eq!(stats.batches, 4);
        assert!(stats.stalls >= 2);
        counted(stats.waited_for.read);
    });
}

/// The wait was attributed to the decoder that refused the lost sample, or to the read of that sample.
#[test]
fn a_substitute_whose_read_brings_nothing() {
    without_hanging(|| {
        let mut spoiled = [true, false].into_iter().peekable();
        for lost in 0..16 {
            let Some(&overwritten) = spoiled.peek() else { return };
            let (gated, client) = store(64);
            let dataset = opened(client);
            if overwritten {
                gated.inner.insert("data", &format!("p/{lost:04}"), "another");
            }
            let decode = move |sample: RawSample| -> anyhow::Result<usize> {
                anyhow::ensure!(sample.id().0 != lost, "refused");
                Ok(sample.bytes().len())
            };
            let builder = || {
                let builder = DataLoader::builder(dataset.clone().decode(decode)).batch_size(16);
                builder.strategy(Strategy::Direct).on_error(OnError::Substitute { limit: 9 })
            };
            let first = builder().build().unwrap().epoch(0).unwrap().next().unwrap().unwrap();
            let substitute = first.substituted()[0].substitute.unwrap().0;
            // The batch would wait for this substitute anyway if it were one of its own samples.
            if substitute < 16 {
                continue;
            }
            gated.shut_object(&format!("p/{substitute:04}"));
            let words = format!("waits for the bytes of gs://data/p/{substitute:04}#");
            let (line, stats) = told(builder(), &words, || gated.open());
            assert!(line.contains("stage=read") && line.contains("batch=0"), "{line}");
            counted(stats.waited_for.read);
            spoiled.next();
        }
        panic!("no substitute of another batch");
    });
}

/// The wait was attributed to the memory budget, or to planning.
#[test]
fn a_sample_that_somebody_else_reads_into_the_cache() {
    without_hanging(|| {
        let folder = std::env::temp_dir().join(format!("dataflux-stalls-{}", std::process::id()));
        let cache = || Cache::open(&folder, 64 << 20).unwrap();
        let builder = |client| DataLoader::builder(opened(client)).batch_size(8).strategy(Strategy::Direct);
        let (gated, client) = store(64);
        gated.shut(StoreCall::Get);
        let one = builder(client).cache(cache()).build().unwrap();
        let held = one.epoch(0).unwrap();
        until("the first ones are claimed", || gated.gets().len() >= 16);
        // The same objects without gates.
        let open = Client::new(Arc::new(gated.inner.clone())).with_stall_timeout(HANG);
        let builder = builder(open).memory_budget(8 << 10).cache(cache());
        let (line, stats) = told(builder, "which another loader or process reads into the cache", || gated.open());
        assert!(line.contains("gs://data/p/0000#") && line.contains("and 7 more"), "{line}");
        counted(stats.waited_for.claim);
        drop((held, one));
        std::fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn a_compose_that_never_ends() {
    without_hanging(|| {
        let (gated, client) = store(64);
        gated.shut(StoreCall::Compose);
        let builder = DataLoader::builder(opened(client)).batch_size(64).strategy(Strategy::compose());
        let (line, stats) = told(builder, "to be composed", || gated.open());
        assert!(line.contains("stage=compose"), "{line}");
        counted(stats.waited_for.compose);
    });
}

#[test]
fn no_leave_to_read() {
    without_hanging(|| {
        let (gated, client) = store(2_000);
        let dataset = opened(client);
        gated.shut(StoreCall::Get);
        let builder = || DataLoader::builder(dataset.clone()).strategy(Strategy::Direct);
        // Another loader of the data set holds all slots.
        let other = builder().batch_size(2_000).build().unwrap();
        let held = other.epoch(0).unwrap();
        // Calls that wait for the rate, as the first ones do, don't mean that all slots are held.
        let full = |reads: dataflux::pacing::Ceiling| reads.waiting > 0 && reads.in_flight >= reads.at_once;
        until("as many reads are under way as may be", || full(dataset.ceilings().reads));
        let (line, stats) =
            told(builder().batch_size(1), "waits for a slot to read gs://data/p/0000#", || gated.open());
        assert!(line.contains("reads_waiting="), "{line}");
        counted(stats.waited_for.turn);
        drop(held);
    });
}

#[test]
fn a_listing_that_stands_still() {
    without_hanging(|| {
        let (gated, client) = store(10_000);
        gated.shut_after(StoreCall::List, 8);
        let opening = DatafluxDataset::builder().client(client).streaming(true).list_concurrency(1);
        let dataset = opening.open("gs://data/p/").unwrap();
        let (line, stats) =
            told(DataLoader::builder(dataset).batch_size(4_096), "the listing to reach", || gated.open());
        assert!(line.contains("stage=listing"), "{line}");
        counted(stats.waited_for.listing);
    });
}

/// A gate that user code waits at.
#[derive(Clone, Default)]
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn pass(&self) {
        until("the gate opens", || self.0.load(Ordering::SeqCst));
    }
    fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A decoder that waits at the gate with sample 3.
fn decoder(gate: &Gate) -> impl Fn(RawSample) -> anyhow::Result<usize> + Send + Sync + use<> {
    let gate = gate.clone();
    move |sample| {
        if sample.id().0 == 3 {
            gate.pass();
        }
        Ok(sample.bytes().len())
    }
}

#[test]
fn a_decoder_that_takes_long() {
    without_hanging(|| {
        let (_, client) = store(64);
        let gate = Gate::default();
        let builder = DataLoader::builder(opened(client).decode(decoder(&gate))).batch_size(16).decode_threads(2);
        let (line, stats) = told(builder.strategy(Strategy::Direct), "the decoder: 1 samples", || gate.open());
        assert!(line.contains("stage=decode"), "{line}");
        counted(stats.waited_for.decode);
    });
}

/// A skipped sample was blamed for the wait, as if it were still being read.
#[test]
fn a_sample_that_the_batch_goes_without() {
    without_hanging(|| {
        let (gated, client) = store(64);
        let dataset = opened(client);
        gated.inner.insert("data", "p/0002", "another");
        let gate = Gate::default();
        let builder = DataLoader::builder(dataset.decode(decoder(&gate))).batch_size(16).decode_threads(2);
        let builder = builder.strategy(Strategy::Direct).on_error(OnError::Skip { limit: 1 });
        let (line, stats) = told(builder, "the decoder: 1 samples", || gate.open());
        assert!(line.contains("stage=decode"), "{line}");
        assert_eq!(stats.skipped, 1);
    });
}

#[test]
fn a_collation_that_takes_long() {
    without_hanging(|| {
        let (_, client) = store(64);
        let gate = Gate::default();
        let within = gate.clone();
        let collate = move |samples: Vec<RawSample>| -> anyhow::Result<usize> {
            within.pass();
            Ok(samples.len())
        };
        let builder = DataLoader::builder(opened(client).collate(collate)).batch_size(16);
        let (line, stats) = told(builder.strategy(Strategy::Direct), "the collation of 16 samples", || gate.open());
        assert!(line.contains("stage=collate"), "{line}");
        counted(stats.waited_for.collate);
    });
}

/// A batch that is ready in time is no stall, and a slow training loop is no stall of the loader.
#[test]
fn nothing_is_told_of_what_goes_well() {
    without_hanging(|| {
        let (_, client) = store(64);
        let loader = DataLoader::builder(opened(client)).batch_size(16).stall_report(HANG).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        batches.by_ref().for_each(|batch| assert_eq!(batch.unwrap().len(), 16));
        let stats = batches.stats();
        assert_eq!(stats.stalls, 0);
        assert!(stats.waited_for.total() <= stats.first_batch + stats.waited, "{stats:?}");
    });
}
