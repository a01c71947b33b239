//! Observers get an event for each thing that happens, once, and never slow down or break what they observe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use dataflux::metrics::Counts;
use dataflux::store::{Client, Credentials, Fault as StoreFault, FaultStore, GcsConfig, GcsStore, Hedge};
use dataflux::store::{MemoryStore, RetryPolicy, StoreCall};
use dataflux::{DataLoader, DatafluxDataset, ErrorKind, Event, EventKind, Limits, MixedLoader, Observer, Strategy};
use dataflux_emulator::{Emulator, Faults};
use futures_util::StreamExt;

use crate::support::{HANG, STRATEGIES, all_given_back, bucket, client, content, without_hanging};

/// An observer that passes all events on, and their receiver, which ends when the observer is dropped.
fn collector() -> (impl Observer, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel();
    let observer = move |event: &Event| {
        assert_eq!(std::thread::current().name(), Some("dataflux-events"));
        sender.send(event.clone()).unwrap();
    };
    (observer, receiver)
}

/// What some events report together.
#[derive(Default)]
struct Totals {
    kinds: BTreeMap<EventKind, u64>,
    bytes_received: u64,
    samples_decoded: BTreeSet<u64>,
    batches: BTreeSet<u64>,
    batches_decoded: BTreeSet<u64>,
    samples_delivered: u64,
    made: BTreeSet<Arc<str>>,
    removed: BTreeSet<Arc<str>>,
    epochs: Vec<(u64, u64, bool)>,
}

impl Totals {
    fn of(events: impl IntoIterator<Item = Event>) -> Self {
        let mut totals = Self::default();
        for event in events {
            *totals.kinds.entry(event.kind()).or_default() += 1;
            match event {
                Event::ChunkReceived { bytes, .. } => totals.bytes_received += bytes,
                Event::SampleDecoded { sample, batch, .. } => {
                    totals.samples_decoded.insert(sample);
                    totals.batches_decoded.insert(batch);
                }
                Event::BatchDelivered { batch, samples, .. } => {
                    totals.samples_delivered += samples;
                    totals.batches.insert(batch);
                }
                Event::TemporaryMade { object, .. } => _ = totals.made.insert(object),
                Event::TemporaryRemoved { object, .. } => _ = totals.removed.insert(object),
                Event::EpochEnded { epoch, batches, is_complete, .. } => {
                    totals.epochs.push((epoch, batches, is_complete));
                }
                _ => {}
            }
        }
        totals
    }

    fn count(&self, kind: EventKind) -> u64 {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// Checks that these are events of the calls that were counted.
    #[track_caller]
    fn check(&self, counts: &Counts) {
        let told =
            [EventKind::ObjectRequested, EventKind::CallRetried, EventKind::ReadHedged].map(|kind| self.count(kind));
        assert_eq!(told, [counts.get, counts.retries, counts.hedged], "{counts:?}");
        assert_eq!(self.bytes_received, counts.bytes_received);
        assert_eq!(self.made, self.removed);
        let of_temporaries = [EventKind::TemporaryMade, EventKind::TemporaryRemoved].map(|kind| self.count(kind));
        assert_eq!(of_temporaries, [self.made.len() as u64; 2], "each is one event");
    }
}

/// An emulator with objects below `p/`, none of them empty, because empty objects are never read.
fn emulator(objects: usize) -> Emulator {
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    for index in 0..objects {
        let name = format!("p/{index:04}");
        emulator.put("data", &name, content(&name, 1 + (index * 7_919) % 3_000));
    }
    emulator
}

fn client_of(emulator: &Emulator) -> Client {
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let policy = RetryPolicy::default().initial(Duration::from_millis(1)).max(Duration::from_millis(10));
    Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(policy)
}

/// Runs an epoch and closes the loader. Returns its events and what the client counted meanwhile.
fn observed_epoch(client: &Client, strategy: Strategy) -> (Totals, Counts) {
    let dataset = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
    let (observer, events) = collector();
    let builder = DataLoader::builder(dataset).batch_size(64).strategy(strategy).shuffle(3);
    let loader = builder.observe(EventKind::all(), observer).build().unwrap();
    let before = client.metrics().snapshot();
    let mut batches = loader.epoch(0).unwrap();
    batches.by_ref().for_each(|batch| drop(batch.unwrap()));
    let stats = batches.stats();
    drop(batches);
    all_given_back(&loader);
    assert!(loader.close(HANG).is_clean());
    let (totals, counts) = (Totals::of(events), client.metrics().snapshot().since(&before));

    assert_eq!(stats.events_lost, 0);
    let kinds = [EventKind::SampleDecoded, EventKind::BatchDelivered, EventKind::EpochBegun, EventKind::EpochEnded];
    assert_eq!(kinds.map(|kind| totals.count(kind)), [stats.samples, stats.batches, 1, 1]);
    assert_eq!((totals.samples_decoded.len() as u64, totals.samples_delivered), (stats.samples, stats.samples));
    assert_eq!(totals.batches, (0..stats.batches).collect());
    assert_eq!(totals.epochs, [(0, stats.batches, true)]);
    assert_eq!(totals.count(EventKind::PageListed), 0, "the listing was before");
    (totals, counts)
}

#[test]
fn events_of_an_epoch_are_those_that_were_counted() {
    without_hanging(|| {
        let emulator = emulator(300);
        let client = client_of(&emulator);
        for strategy in STRATEGIES {
            let (totals, counts) = observed_epoch(&client, strategy);
            totals.check(&counts);
            assert_eq!(totals.count(EventKind::ObjectReceived), counts.get);
            assert_eq!([totals.made.len() as u64; 2], [counts.compose, counts.delete], "{strategy:?}");
            let must_compose = matches!(strategy, Strategy::Compose { .. });
            assert!(counts.compose > 0 || !must_compose);
        }
    });
}

#[test]
fn events_under_faults_are_those_that_were_counted() {
    without_hanging(|| {
        let emulator = emulator(300);
        let client = client_of(&emulator);
        for strategy in STRATEGIES {
            // Not one answer is lost: nobody would know of the temporary object behind it.
            let faults = "error=0.05,429=0.05,reset=0.03,short=0.03,cut=0.03,seed=3,only=get_media|compose|delete";
            emulator.set_faults(faults.parse().unwrap());
            let (totals, counts) = observed_epoch(&client, strategy);
            emulator.set_faults(Faults::none());
            assert!(counts.retries > 0);
            totals.check(&counts);
            let must_compose = matches!(strategy, Strategy::Compose { .. });
            assert!(!totals.made.is_empty() || !must_compose, "no compose got through");
        }
    });
}

#[test]
fn second_requests_are_events() {
    without_hanging(|| {
        let (store, _) = bucket(300);
        let faults = FaultStore::new(Arc::new(store));
        let client = client(faults.clone());
        let dataset = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
        let (observer, events) = collector();
        let limits = Limits::default().stall_timeout(HANG * 10).hedge(Hedge::percentile(99.0).max_share(1.0));
        let builder = DataLoader::builder(dataset).batch_size(20).strategy(Strategy::Direct).limits(limits);
        let builder = builder.observe(EventKind::all(), observer);
        let loader = builder.build().unwrap();
        for epoch in 0..2 {
            loader.epoch(epoch).unwrap().for_each(|batch| drop(batch.unwrap()));
            faults.fail_next(StoreCall::Get, StoreFault::Stall, 1);
        }
        loader.close(HANG);
        let counts = client.metrics().snapshot();
        assert!(counts.hedged > 0);
        Totals::of(events).check(&counts);
    });
}

#[test]
fn a_client_has_events_of_its_listings_and_of_all_loaders() {
    without_hanging(|| {
        let (store, _) = bucket(300);
        let (observer, events) = collector();
        let client = client(store).observe(EventKind::all(), observer).unwrap();
        let dataset = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
        let (other, of_one) = collector();
        let quiet = DataLoader::builder(dataset.clone()).batch_size(100).build().unwrap();
        let builder = DataLoader::builder(dataset.clone()).batch_size(50);
        let observed = builder.observe([EventKind::BatchDelivered], other).build().unwrap();
        for loader in [&quiet, &observed] {
            loader.epoch(0).unwrap().for_each(|batch| drop(batch.unwrap()));
            all_given_back(loader);
        }
        assert!(quiet.close(HANG).is_clean() && observed.close(HANG).is_clean());
        assert_eq!(of_one.iter().count(), 6);

        let counts = client.metrics().snapshot();
        // The thread ends with the last handle of the client.
        drop((client, dataset));
        let totals = Totals::of(events);
        totals.check(&counts);
        let kinds = [EventKind::PageListed, EventKind::BatchDelivered, EventKind::EpochEnded];
        assert_eq!(kinds.map(|kind| totals.count(kind)), [counts.list, 3 + 6, 2]);
    });
}

#[test]
fn an_epoch_that_ends_early_says_so() {
    without_hanging(|| {
        let (store, _) = bucket(300);
        let faults = FaultStore::new(Arc::new(store));
        let dataset = DatafluxDataset::open_with(client(faults.clone()), "gs://data/p/").unwrap();
        let (observer, events) = collector();
        let builder = DataLoader::builder(dataset).batch_size(50).strategy(Strategy::Direct);
        let loader = builder.observe([EventKind::EpochBegun, EventKind::EpochEnded], observer).build().unwrap();
        let mut dropped = loader.epoch(0).unwrap();
        dropped.next().unwrap().unwrap();
        drop(dropped);
        faults.fail_next(StoreCall::Get, StoreFault::Error(ErrorKind::PermissionDenied), 1_000);
        let mut failed = loader.epoch(1).unwrap();
        assert!(failed.next().unwrap().is_err() && failed.next().is_none());
        drop(failed);
        loader.close(HANG);
        let totals = Totals::of(events);
        assert_eq!(totals.epochs, [(0, 1, false), (1, 0, false)]);
        assert_eq!(totals.count(EventKind::EpochBegun), 2);
    });
}

/// A loader of six batches, with the events of its batches and epochs.
fn six_batches() -> (DataLoader, mpsc::Receiver<Event>) {
    let (store, _) = bucket(300);
    let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap();
    let (observer, events) = collector();
    let kinds = [EventKind::BatchDelivered, EventKind::EpochBegun, EventKind::EpochEnded];
    let builder = DataLoader::builder(dataset).batch_size(50).strategy(Strategy::Direct);
    (builder.observe(kinds, observer).build().unwrap(), events)
}

/// The thread behind the stream reported batches that the training loop never got.
#[test]
fn a_stream_reports_what_it_delivered() {
    without_hanging(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (taken, asks_again) in [(0, false), (1, false), (6, false), (6, true)] {
            let (loader, events) = six_batches();
            let mut stream = loader.stream(0).unwrap();
            for _ in 0..taken {
                runtime.block_on(stream.next()).unwrap().unwrap();
            }
            if asks_again {
                assert!(runtime.block_on(stream.next()).is_none());
            }
            drop(stream);
            loader.close(HANG);
            let totals = Totals::of(events);
            assert_eq!(totals.epochs, [(0, taken, taken == 6)]);
            assert_eq!(totals.batches, (0..taken).collect());
        }
    });
}

/// A loop that counts its batches never sees the end of the iterator, and its epochs were reported as incomplete. The
/// batches of a resumed epoch were counted from 0 again.
#[test]
fn an_epoch_is_complete_once_its_last_batch_is_delivered() {
    without_hanging(|| {
        let (loader, events) = six_batches();
        for (epoch, taken) in [(0, 5), (1, 6)] {
            loader.epoch(epoch).unwrap().take(taken).for_each(|batch| drop(batch.unwrap()));
        }
        let mut batches = loader.epoch(2).unwrap();
        batches.by_ref().take(2).for_each(|batch| drop(batch.unwrap()));
        let (state, dataset) = (batches.state(), loader.dataset().clone());
        drop(batches);
        loader.close(HANG);
        assert_eq!(Totals::of(events).epochs, [(0, 5, false), (1, 6, true), (2, 2, false)]);

        let (observer, events) = collector();
        let builder = DataLoader::builder(dataset).batch_size(50).resume(state);
        let resumed = builder.observe(EventKind::all(), observer).build().unwrap();
        resumed.epoch(2).unwrap().take(4).for_each(|batch| drop(batch.unwrap()));
        resumed.close(HANG);
        let totals = Totals::of(events);
        assert_eq!(totals.epochs, [(2, 4, true)]);
        assert_eq!((&totals.batches, &totals.batches_decoded), (&(2..6).collect(), &(2..6).collect()));
    });
}

/// An epoch of a part that two epochs of the mixture divide was reported as complete twice.
#[test]
fn a_part_of_a_mixture_completes_its_epoch_once() {
    without_hanging(|| {
        let (first, events) = six_batches();
        let mixed = MixedLoader::builder(1).add(first, 1.0).batches_per_epoch(4).build().unwrap();
        for epoch in 0..3 {
            mixed.epoch(epoch).unwrap().for_each(|batch| drop(batch.unwrap()));
        }
        mixed.close(HANG);
        assert_eq!(Totals::of(events).epochs, [(0, 4, false), (0, 2, true), (1, 2, false), (1, 4, true)]);
    });
}

/// The end of an epoch was reported when the training loop next asked for a batch, which was too late.
#[test]
fn closing_a_loader_reports_the_end_of_its_epochs() {
    without_hanging(|| {
        let (loader, events) = six_batches();
        let mut batches = loader.epoch(7).unwrap();
        batches.next().unwrap().unwrap();
        let mut series = loader.epochs(0..3).unwrap();
        let mut first = series.next().unwrap().unwrap();
        first.by_ref().for_each(|batch| drop(batch.unwrap()));
        assert!(loader.close(HANG).is_clean());
        let error = batches.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(batches.next().is_none());

        let totals = Totals::of(events);
        assert_eq!(totals.count(EventKind::EpochBegun), totals.epochs.len() as u64);
        assert!(totals.epochs.contains(&(7, 1, false)) && totals.epochs.contains(&(0, 6, true)));
    });
}

/// Of a temporary object without a version only the making was reported.
#[test]
fn temporaries_of_a_store_without_versions_are_reported_twice() {
    without_hanging(|| {
        let store = MemoryStore::new().without_versions();
        (0..300).for_each(|index| _ = store.insert("data", &format!("p/{index:04}"), "a sample"));
        let (totals, counts) = observed_epoch(&client(store), Strategy::compose());
        assert!(counts.compose > 0);
        assert_eq!(totals.made.len() as u64, counts.compose);
        assert_eq!(totals.made, totals.removed);
    });
}

/// More events than may wait for an observer.
const SAMPLES: usize = 12_000;

#[test]
fn a_slow_observer_loses_events_and_the_loop_gets_all_its_batches() {
    without_hanging(|| {
        let store = MemoryStore::new();
        (0..SAMPLES).for_each(|index| _ = store.insert("data", &format!("p/{index:05}"), "a sample"));
        let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (mut observer, events) = collector();
        let slow = move |event: &Event| {
            // Returns at once after the release.
            let _ = released.recv();
            observer.on_event(event);
        };
        let kinds = [EventKind::ObjectReceived, EventKind::SampleDecoded];
        let builder = DataLoader::builder(dataset).batch_size(100).strategy(Strategy::Direct);
        let loader = builder.observe(kinds, slow).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        assert_eq!(batches.by_ref().map(|batch| batch.unwrap().len()).sum::<usize>(), SAMPLES);
        let lost = batches.stats().events_lost;
        drop(batches);
        assert!(lost > 0);

        // It isn't waited for longer than is allowed, and is reported.
        let closed = loader.close(Duration::from_millis(10));
        assert!(closed.threads_left > 0 && !closed.is_clean(), "{closed:?}");
        drop(release);
        assert_eq!(events.iter().count() as u64 + lost, 2 * SAMPLES as u64);
    });
}

#[test]
fn a_panicking_observer_breaks_nothing() {
    without_hanging(|| {
        let (store, _) = bucket(300);
        let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap();
        let panics = |_: &Event| panic!("a defect of the observer");
        let (observer, events) = collector();
        let builder = DataLoader::builder(dataset).batch_size(10).observe(EventKind::all(), panics);
        let loader = builder.observe([EventKind::BatchDelivered], observer).build().unwrap();
        for epoch in 0..2 {
            let mut batches = loader.epoch(epoch).unwrap();
            assert_eq!(batches.by_ref().map(|batch| batch.unwrap().len()).sum::<usize>(), 300);
            assert_eq!(batches.stats().events_lost, 0, "nobody is there who could lose any");
        }
        assert!(loader.close(HANG).is_clean());
        assert_eq!(events.iter().count(), 2 * 30);
    });
}
