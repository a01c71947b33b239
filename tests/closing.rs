//! Epochs and loaders that end at any moment: dropping returns at once, and nothing is left.
//!
//! A program of its own, because it counts the threads and temporary objects of the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use dataflux::sample::{Orders, Sampler, Scope};
use dataflux::store::{BucketInfo, Client, MemoryStore, StoreCall};
use dataflux::{DataLoader, DatafluxDataset, ErrorKind, Event, EventKind, RawSample, Strategy};
use futures_util::StreamExt;
use support::gated::Gated;
use support::{HANG, until, without_hanging};

/// Lets one test run at a time, because the tests count the threads of the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the threads of loaders in this process, without those that all loaders share.
fn threads() -> usize {
    named(&["dataflux-plan", "dataflux-decode", "dataflux-ahead", "dataflux-events"])
}

/// Counts the threads of this process whose names begin so.
fn named(beginnings: &[&str]) -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
        let name = std::fs::read_to_string(task.unwrap().path().join("comm")).ok()?;
        beginnings.iter().any(|own| name.starts_with(own)).then_some(())
    });
    names.count()
}

fn store(count: usize) -> (Gated, DatafluxDataset) {
    // The bucket reports its retention policy, so that nothing waits for a first compose.
    let mut info = BucketInfo::default();
    info.retention = Some(Duration::ZERO);
    let store = MemoryStore::new().with_bucket_info("data", info);
    for index in 0..count {
        store.insert("data", &format!("p/{index:04}"), vec![7; 100]);
    }
    let gated = Gated::new(store);
    let client = Client::new(gated.store()).with_stall_timeout(HANG);
    let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
    (gated, dataset)
}

#[test]
fn an_epoch_closed_amid_reads_leaves_nothing() {
    let _alone = alone();
    without_hanging(|| {
        for strategy in [Strategy::Direct, Strategy::compose(), Strategy::Auto] {
            let (gated, dataset) = store(640);
            gated.shut_after(StoreCall::Get, 3);
            let loader = DataLoader::builder(dataset).batch_size(32).strategy(strategy).build().unwrap();
            let batches = loader.epoch(0).unwrap();
            until("reads wait", || gated.gets().len() > 3);
            let closed = batches.close(HANG);
            assert!(closed.is_clean() && closed.tasks_ended > 0, "{strategy:?}: {closed:?}");
            assert_eq!(closed.threads_joined, 1);
            assert_eq!(closed.temporaries_deleted > 0, strategy == Strategy::compose(), "{closed:?}");
            assert_eq!(gated.inner.names("data").len(), 640);
            assert_eq!(loader.bytes_held(), 0);
            // The loader still works.
            gated.open();
            assert_eq!(loader.epoch(1).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>(), 640);
            assert!(loader.close(HANG).is_clean());
            until("no thread is left", || threads() == 0);
        }
    });
}

/// Each read once counted twice, and the planning thread counted as three tasks.
#[test]
fn each_read_and_each_unfinished_batch_is_counted_once() {
    let _alone = alone();
    without_hanging(|| {
        let (gated, dataset) = store(8);
        gated.shut(StoreCall::Get);
        let loader = DataLoader::builder(dataset).batch_size(8).strategy(Strategy::Direct).build().unwrap();
        let batches = loader.epoch(0).unwrap();
        until("all reads wait", || gated.gets().len() == 8);
        let closed = batches.close(HANG);
        assert_eq!((closed.tasks_ended, closed.tasks_left), (8 + 1, 0), "{closed:?}");
        assert_eq!((closed.threads_joined, closed.threads_left), (1, 0), "{closed:?}");
        gated.open();
    });
}

/// A slow observer used up the time that closing may take, and network threads that had ended were reported as left.
#[test]
fn network_threads_are_closed_before_observers() {
    let _alone = alone();
    without_hanging(|| {
        let (_gated, dataset) = store(64);
        // Threads of this name also run blocking work of the shared runtime, and end when there has been none for a
        // while.
        let network_threads = || named(&["dataflux-io"]);
        let (sees_none, saw_none) = std::sync::mpsc::channel();
        let (count, counted) = std::sync::mpsc::channel::<usize>();
        let counted = Mutex::new(counted);
        let observer = move |_: &Event| {
            let before = counted.lock().unwrap().recv().unwrap();
            until("the network threads have ended", || network_threads() + 2 <= before);
            sees_none.send(()).unwrap();
        };
        let builder = DataLoader::builder(dataset).batch_size(64).decode_threads(1).io_threads(2);
        let loader = builder.observe([EventKind::BatchDelivered], observer).build().unwrap();
        let shared = std::thread::available_parallelism().unwrap().get().min(4);
        until("the network threads run", || network_threads() >= shared + 2);
        count.send(network_threads()).unwrap();
        loader.epoch(0).unwrap().for_each(|batch| drop(batch.unwrap()));
        let closed = loader.close(HANG);
        assert!(closed.is_clean(), "{closed:?}");
        saw_none.recv().unwrap();
        until("no thread is left", || threads() == 0);
    });
}

/// The thread of an observer ends with its loader, whether that is closed or dropped, even if an epoch outlives it.
#[test]
fn observers_end_with_their_loader() {
    let _alone = alone();
    without_hanging(|| {
        let (_gated, dataset) = store(64);
        let ended = Arc::new(AtomicUsize::new(0));
        let loader = || {
            let builder = DataLoader::builder(dataset.clone()).batch_size(1).decode_threads(1);
            let ended = Arc::clone(&ended);
            let observer = move |_: &Event| _ = ended.fetch_add(1, Ordering::SeqCst);
            let observed = builder.observe([EventKind::EpochEnded], observer).observe(EventKind::all(), |_: &Event| ());
            observed.build().unwrap()
        };
        let (closed, dropped) = (loader(), loader());
        let epochs = [closed.epoch(0).unwrap(), dropped.epoch(0).unwrap()];
        assert!(threads() >= 4);
        let closed = closed.close(HANG);
        assert!(closed.is_clean(), "{closed:?}");
        // A planning thread, a decode thread and two observers.
        assert_eq!(closed.threads_joined, 4);
        assert_eq!(ended.load(Ordering::SeqCst), 1, "the epoch ended with its loader");
        drop(dropped);
        drop(epochs);
        until("no thread is left", || threads() == 0);
        assert_eq!(ended.load(Ordering::SeqCst), 2);
    });
}

/// Closing reports what has not ended in time, which then ends later.
#[test]
fn closing_waits_no_longer_than_it_is_told_to() {
    let _alone = alone();
    without_hanging(|| {
        let (gated, dataset) = store(64);
        gated.shut(StoreCall::Delete);
        let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        batches.next().unwrap().unwrap();
        let closed = batches.close(Duration::from_millis(10));
        assert_eq!(
            (closed.temporaries_left, closed.temporaries_deleted, closed.is_clean()),
            (2, 0, false),
            "{closed:?}"
        );
        gated.open();
        let closed = loader.close(HANG);
        assert!(closed.is_clean(), "{closed:?}");
        assert_eq!(gated.inner.names("data").len(), 64);
    });
}

/// The training thread may be in a wait that only closing ends.
#[test]
fn closing_the_loader_ends_the_waits_of_its_epochs() {
    let _alone = alone();
    without_hanging(|| {
        let (gated, dataset) = store(64);
        gated.shut(StoreCall::Get);
        for io_threads in [None, Some(1)] {
            let builder = DataLoader::builder(dataset.clone()).batch_size(1).prefetch(2).decode_threads(2);
            let builder = if let Some(threads) = io_threads { builder.io_threads(threads) } else { builder };
            let loader = builder.build().unwrap();
            let asked = gated.gets().len();
            let mut batches = loader.epoch(0).unwrap();
            let held = loader.epoch(1).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut stream = loader.stream(2).unwrap();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| batches.next().unwrap().unwrap_err());
                until("all read ahead", || gated.gets().len() >= asked + 6);
                let closed = loader.close(HANG);
                assert!(closed.is_clean(), "{closed:?}");
                // Three epochs, a stream, two that decode, and perhaps one of the network's.
                assert_eq!(closed.threads_joined, 6 + io_threads.unwrap_or(0) as u64);
                assert_eq!(waiting.join().unwrap().kind(), ErrorKind::Cancelled);
            });
            assert_eq!(runtime.block_on(stream.next()).unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
            assert!(runtime.block_on(stream.next()).is_none());
            assert!(batches.next().is_none());
            assert_eq!(threads(), 0);
            drop(held);
        }
    });
}

/// An item that records the thread that drops it.
struct Item(Arc<Mutex<Vec<ThreadId>>>);

impl Drop for Item {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(std::thread::current().id());
    }
}

/// An item whose first drop panics.
struct Fragile(Arc<AtomicBool>);

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(!self.0.swap(false, Ordering::SeqCst), "a drop panics, as it should");
    }
}

/// The panic ended a decode thread for good; after the last one, the loader was useless.
#[test]
fn an_item_that_panics_when_it_is_dropped_ends_no_decode_thread() {
    let _alone = alone();
    without_hanging(|| {
        let (gated, dataset) = store(64);
        let (panics, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (within, open) = (Arc::clone(&panics), Arc::clone(&gate));
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        let decode = move |sample: RawSample| -> anyhow::Result<Fragile> {
            if count.fetch_add(1, Ordering::SeqCst) == 5 {
                until("the gate opens", || open.load(Ordering::SeqCst));
            }
            drop(sample);
            Ok(Fragile(Arc::clone(&within)))
        };
        let builder = DataLoader::builder(dataset.decode(decode)).batch_size(8).strategy(Strategy::Direct);
        let loader = builder.decode_threads(1).build().unwrap();
        let batches = loader.epoch(0).unwrap();
        until("a sample is being decoded", || reached.load(Ordering::SeqCst) == 6);
        until("all is read", || gated.gets().len() == 64);
        // From then on only the thread, and samples that are still to be decoded, hold the batch.
        drop(batches);
        panics.store(true, Ordering::SeqCst);
        gate.store(true, Ordering::SeqCst);
        until("it has panicked", || !panics.load(Ordering::SeqCst));
        assert_eq!(loader.epoch(1).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>(), 64);
        let closed = loader.close(HANG);
        assert!(closed.is_clean(), "{closed:?}");
    });
}

/// A gigabyte of batches takes long to drop.
#[test]
fn batches_that_nobody_wants_are_not_dropped_by_the_training_loop() {
    let _alone = alone();
    without_hanging(|| {
        for fail in [false, true] {
            let (_, dataset) = store(64);
            let (dropped, decoded) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
            let (told, count) = (Arc::clone(&dropped), Arc::clone(&decoded));
            let decode = move |sample: RawSample| -> anyhow::Result<Item> {
                count.fetch_add(1, Ordering::SeqCst);
                anyhow::ensure!(!fail || sample.id().0 != 7, "a refusal");
                Ok(Item(Arc::clone(&told)))
            };
            // The item size is known, so that all batches are decoded ahead.
            let dataset = dataset.decode(decode).item_bytes(100);
            let loader = DataLoader::builder(dataset).batch_size(8).strategy(Strategy::Direct).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            until("all are decoded", || decoded.load(Ordering::SeqCst) == 64);
            let first = batches.next().unwrap();
            assert_eq!(first.is_err(), fail);
            if !fail {
                drop(batches);
            }
            drop(first);
            until("all are dropped", || dropped.lock().unwrap().len() == if fail { 63 } else { 64 });
            let own = std::thread::current().id();
            let here = dropped.lock().unwrap().iter().filter(|id| **id == own).count();
            assert_eq!(here, if fail { 0 } else { 8 }, "its own batch alone");
        }
    });
}

/// A decoder can't be interrupted, but dropping doesn't wait for it.
#[test]
fn dropping_waits_for_no_user_code() {
    let _alone = alone();
    without_hanging(|| {
        let (_, dataset) = store(64);
        let (entered, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (inside, opened) = (Arc::clone(&entered), Arc::clone(&gate));
        let decode = move |_: RawSample| -> anyhow::Result<()> {
            inside.store(true, Ordering::SeqCst);
            until("the gate opens", || opened.load(Ordering::SeqCst));
            Ok(())
        };
        let dataset = dataset.decode(decode);
        let loader = DataLoader::builder(dataset).batch_size(8).decode_threads(1).build().unwrap();
        let batches = loader.epoch(0).unwrap();
        until("the decoder is at it", || entered.load(Ordering::SeqCst));
        drop(batches);
        let closed = loader.close(Duration::from_millis(10));
        assert_eq!((closed.threads_left, closed.is_clean()), (1, false), "{closed:?}");
        gate.store(true, Ordering::SeqCst);
        until("the thread has ended", || threads() == 0);
    });
}

/// An order whose last position waits until the gate opens.
#[derive(Debug)]
struct Blocking {
    entered: Arc<AtomicBool>,
    gate: Arc<AtomicBool>,
}

impl Sampler for Blocking {
    fn identity(&self) -> String {
        "blocking".into()
    }

    fn orders(&self, scope: &Scope) -> dataflux::Result<Orders> {
        let (last, entered, gate) = (scope.len() - 1, Arc::clone(&self.entered), Arc::clone(&self.gate));
        Ok(Orders::new(scope.len(), move |_| {
            let (entered, gate) = (Arc::clone(&entered), Arc::clone(&gate));
            move |position| {
                if position == last {
                    entered.store(true, Ordering::SeqCst);
                    until("the gate opens", || gate.load(Ordering::SeqCst));
                }
                position
            }
        }))
    }
}

/// An epoch of a series was reported as closed while its planning thread still ran the sampler.
#[test]
fn an_epoch_that_is_still_being_planned_is_not_closed() {
    let _alone = alone();
    without_hanging(|| {
        for in_series in [true, false] {
            let (_, dataset) = store(64);
            let (entered, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let sampler = Blocking { entered: Arc::clone(&entered), gate: Arc::clone(&gate) };
            let builder = DataLoader::builder(dataset).batch_size(8).strategy(Strategy::Direct).prefetch(64);
            let loader = builder.sampler(sampler).build().unwrap();
            let batches = if in_series {
                loader.epochs(0..1).unwrap().next().unwrap().unwrap()
            } else {
                loader.epoch(0).unwrap()
            };
            until("the sampler is at it", || entered.load(Ordering::SeqCst));
            let closed = batches.close(Duration::from_millis(10));
            assert!(closed.tasks_left > 0 && !closed.is_clean(), "in a series: {in_series}: {closed:?}");
            gate.store(true, Ordering::SeqCst);
            let closed = loader.close(HANG);
            assert!(closed.is_clean(), "{closed:?}");
        }
        until("no thread is left", || threads() == 0);
    });
}

#[test]
fn dropping_the_iterator_anywhere_leaves_nothing() {
    let _alone = alone();
    without_hanging(|| {
        let (store, _) = support::bucket(300);
        let store = store.with_chunk_size(100);
        for taken in 0..12 {
            let dataset = DatafluxDataset::open_with(support::client(store.clone()), "gs://data/p/").unwrap();
            let strategy = Strategy::compose();
            let loader = DataLoader::builder(dataset).batch_size(16).strategy(strategy).io_threads(2).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            for batch in batches.by_ref().take(taken) {
                batch.unwrap();
            }
            if taken % 2 == 0 {
                drop(batches);
                support::all_given_back(&loader);
            } else {
                drop(loader);
                drop(batches);
                support::no_temporaries();
            }
            assert_eq!(store.names("data").len(), 300);
        }
        until("the threads of dropped loaders have ended", || threads() == 0);
    });
}
