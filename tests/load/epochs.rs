//! Series of epochs: the next epoch is read ahead, and none after it; each epoch is the same as when it runs alone.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::Duration;

use dataflux::store::{BucketInfo, Client, MemoryStore, StoreCall};
use dataflux::{Batches, DataLoader, DatafluxDataset, Decode, ErrorKind, RawSample, Samples, Strategy};

use crate::support::gated::Gated;
use crate::support::{HANG, STRATEGIES, all_given_back, bucket, names_of, until, without_hanging};

fn opened(count: usize) -> (Gated, HashMap<String, Vec<u8>>, DatafluxDataset) {
    let (store, contents) = bucket(count);
    let gated = Gated::new(store);
    let client = Client::new(gated.store()).with_stall_timeout(HANG);
    let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
    (gated, contents, dataset)
}

fn take(batches: &mut Batches<Vec<RawSample>>, count: usize) -> Vec<String> {
    let taken = batches.take(count).flat_map(|batch| batch.unwrap().names().map(str::to_owned).collect::<Vec<_>>());
    taken.collect()
}

#[test]
fn the_next_epoch_is_read_before_the_last_batch_of_this_one_is_taken() {
    without_hanging(|| {
        let (gated, contents, dataset) = opened(64);
        // One object is empty and is never read.
        let reads = contents.values().filter(|bytes| !bytes.is_empty()).count();
        let loader = DataLoader::builder(dataset)
            .batch_size(8)
            .shuffle(5)
            .prefetch(8)
            .strategy(Strategy::Direct)
            .build()
            .unwrap();
        let alone: Vec<_> =
            (0..3).map(|epoch| names_of(&mut loader.epoch(epoch).unwrap(), &contents).unwrap()).collect();
        let before = gated.gets().len();
        assert_eq!(before, 3 * reads, "an epoch by itself reads nothing of the next");
        let mut epochs = loader.epochs(0..3).unwrap();
        let mut first = epochs.next().unwrap().unwrap();
        let mut names = take(&mut first, 7);
        until("the next epoch is read ahead", || gated.gets().len() == before + 2 * reads);
        let (state, stats) = (first.state(), first.stats());
        assert_eq!((state.epoch, state.position, stats.samples), (0, 56, 56));
        assert_eq!(stats.ops.get, reads as u64, "what is read ahead is the next epoch's");
        names.extend(take(&mut first, 9));
        assert_eq!(names, alone[0]);
        // The loader reads at most one epoch ahead, however small the epochs are.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(gated.gets().len(), before + 2 * reads);
        let mut second = epochs.next().unwrap().unwrap();
        assert_eq!(second.state().epoch, 1);
        assert_eq!(names_of(&mut second, &contents).unwrap(), alone[1]);
        assert_eq!((second.stats().ops.get, second.stats().samples), (reads as u64, 64));
        assert_eq!(names_of(&mut epochs.next().unwrap().unwrap(), &contents).unwrap(), alone[2]);
        assert!(epochs.next().is_none());
        all_given_back(&loader);
        assert_eq!(gated.gets().len(), before + 3 * reads);
    });
}

#[test]
fn one_budget_for_the_epochs_of_a_series() {
    without_hanging(|| {
        for strategy in STRATEGIES {
            let (gated, contents, dataset) = opened(200);
            let budget = 64 << 10;
            let loader = DataLoader::builder(dataset)
                .batch_size(8)
                .shuffle(5)
                .memory_budget(budget)
                .strategy(strategy)
                .build()
                .unwrap();
            for (epoch, batches) in loader.epochs(0..6).unwrap().enumerate() {
                let mut batches = batches.unwrap();
                let mut names = Vec::new();
                // One epoch is dropped in the middle, which frees everything at once.
                let taken = if epoch == 3 { 5 } else { usize::MAX };
                for batch in batches.by_ref().take(taken) {
                    assert!(loader.bytes_held() <= budget);
                    names.extend(batch.unwrap().names().map(str::to_owned));
                }
                let alone = names_of(&mut loader.epoch(epoch as u64).unwrap(), &contents).unwrap();
                assert_eq!(names[..], alone[..names.len()]);
                assert_eq!(names.len(), if epoch == 3 { 40 } else { 200 });
            }
            let closed = loader.close(HANG);
            assert!(closed.is_clean(), "{closed:?}");
            assert_eq!(gated.inner.names("data").len(), 200);
        }
    });
}

#[test]
fn what_was_read_in_vain_leaves_nothing_but_its_place_on_the_bill() {
    without_hanging(|| {
        for strategy in [Strategy::Direct, Strategy::compose()] {
            let (gated, _, dataset) = opened(64);
            let loader = DataLoader::builder(dataset).batch_size(8).strategy(strategy).build().unwrap();
            let mut epochs = loader.epochs(0..9).unwrap();
            let mut first = epochs.next().unwrap().unwrap();
            take(&mut first, 1);
            let own = first.stats().ops.get;
            until("the next epoch is read ahead", || gated.gets().len() as u64 > own.max(3));
            drop(epochs);
            // The epoch in progress continues.
            assert_eq!(take(&mut first, 9).len(), 56);
            drop(first);
            all_given_back(&loader);
            until("each call is counted", || {
                loader.dataset().client().metrics().snapshot().get == gated.gets().len() as u64
            });
            assert_eq!(gated.inner.names("data").len(), 64);
            assert!(loader.close(HANG).is_clean());
        }
    });
}

/// They would wait forever for bytes that the batches of the first epoch hold.
#[test]
fn an_epoch_that_is_under_way_is_told_of_and_not_waited_for() {
    without_hanging(|| {
        let (_, contents, dataset) = opened(64);
        let loader = DataLoader::builder(dataset).batch_size(8).memory_budget(40 << 10).build().unwrap();
        let mut epochs = loader.epochs(4..6).unwrap();
        let mut first = epochs.next().unwrap().unwrap();
        take(&mut first, 1);
        let error = epochs.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("epoch 4 is still under way"), "{error}");
        drop(first);
        let mut second = epochs.next().unwrap().unwrap();
        assert_eq!(second.state().epoch, 5);
        assert_eq!(names_of(&mut second, &contents).unwrap().len(), 64);
        assert!(epochs.next().is_none() && epochs.next().is_none());
        assert!(loader.epochs(3..3).unwrap().next().is_none());
    });
}

#[test]
fn epochs_of_a_closed_loader_end_with_an_error() {
    without_hanging(|| {
        let (_, _, dataset) = opened(64);
        let loader = DataLoader::builder(dataset).batch_size(8).build().unwrap();
        let mut epochs = loader.epochs(0..9).unwrap();
        take(&mut epochs.next().unwrap().unwrap(), 3);
        let closed = loader.close(HANG);
        assert!(closed.is_clean(), "{closed:?}");
        let ends: Vec<_> =
            epochs.by_ref().map(|epoch| epoch.and_then(|mut batches| batches.try_for_each(|b| b.map(drop)))).collect();
        assert!(!ends.is_empty());
        assert!(ends.into_iter().all(|end| end.unwrap_err().kind() == ErrorKind::Cancelled));
        assert!(epochs.next().is_none());
    });
}

#[test]
fn a_series_goes_on_from_a_state() {
    without_hanging(|| {
        let (_, contents, dataset) = opened(64);
        let builder = || DataLoader::builder(dataset.clone()).batch_size(8);
        let loader = builder().shuffle(9).build().unwrap();
        let mut epochs = loader.epochs(0..3).unwrap();
        take(&mut epochs.next().unwrap().unwrap(), 99);
        let mut second = epochs.next().unwrap().unwrap();
        let mut names = take(&mut second, 3);
        let state = second.state();
        let resumed = builder().resume(state).build().unwrap();
        let mut epochs = resumed.epochs(1..3).unwrap();
        names.extend(names_of(&mut epochs.next().unwrap().unwrap(), &contents).unwrap());
        assert_eq!(names, names_of(&mut loader.epoch(1).unwrap(), &contents).unwrap());
        let third = names_of(&mut epochs.next().unwrap().unwrap(), &contents).unwrap();
        assert_eq!(third, names_of(&mut loader.epoch(2).unwrap(), &contents).unwrap());
    });
}

/// The epoch that was read ahead kept its bytes and threads, and nothing could end it.
#[test]
fn a_series_left_after_an_epoch_keeps_nothing() {
    without_hanging(|| {
        let (gated, _, dataset) = opened(2_000);
        for strategy in [Strategy::Direct, Strategy::compose()] {
            // More batches than the channel has room for.
            let builder = DataLoader::builder(dataset.clone()).batch_size(8).prefetch(4).decode_threads(2);
            let loader = builder.strategy(strategy).build().unwrap();
            for taken in [0, 1, 9, usize::MAX] {
                let mut epochs = loader.epochs(0..90).unwrap();
                let mut first = epochs.next().unwrap().unwrap();
                let samples = take(&mut first, taken).len();
                assert_eq!(samples, 2_000.min(taken.saturating_mul(8)));
                drop(first);
                let before = gated.gets().len();
                until("the next epoch is read ahead", || gated.gets().len() > before || loader.bytes_held() > 0);
                drop(epochs);
                all_given_back(&loader);
            }
            let epochs = loader.epochs(0..90).unwrap();
            until("an epoch is read ahead", || loader.bytes_held() > 0);
            drop(epochs);
            all_given_back(&loader);
            let closed = loader.close(HANG);
            assert!(closed.is_clean(), "{closed:?}");
        }
    });
}

/// A sampler that panics in the planning thread.
#[derive(Debug)]
struct Panics;

impl Decode for Panics {
    type Item = usize;
    type Collate = Samples;

    fn decode(&self, sample: RawSample) -> anyhow::Result<usize> {
        Ok(sample.bytes().len())
    }
    fn collate(&self) -> Samples {
        Samples
    }
    fn item_bytes(&self, _: u64) -> Option<u64> {
        panic!("it panics, as it should");
    }
}

/// The error of the next epoch said that the loader was closed, and did not name the panic.
#[test]
fn a_series_whose_thread_panicked_is_not_said_to_be_closed() {
    without_hanging(|| {
        let (_, _, dataset) = opened(64);
        let loader = DataLoader::builder(dataset.decode(Panics)).batch_size(8).build().unwrap();
        let mut epochs = loader.epochs(0..4).unwrap();
        let error = epochs.next().unwrap().unwrap().next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
        let error = epochs.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
        assert!(error.to_string().contains("panic message"), "{error}");
        assert!(epochs.next().is_none());
    });
}

/// The training loop was blocked meanwhile.
#[test]
fn no_epoch_but_the_last_waits_for_its_temporaries_to_be_deleted() {
    without_hanging(|| {
        // The bucket reports its retention policy, so that no compose waits for a first deletion.
        let mut info = BucketInfo::default();
        info.retention = Some(Duration::ZERO);
        let store = MemoryStore::new().with_bucket_info("data", info);
        (0..64).for_each(|index| _ = store.insert("data", &format!("p/{index:02}"), vec![7; 100]));
        let gated = Gated::new(store);
        gated.shut(StoreCall::Delete);
        let client = Client::new(gated.store()).with_stall_timeout(HANG);
        let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(32).strategy(Strategy::compose()).build().unwrap();
        let mut epochs = loader.epochs(0..2).unwrap();
        let mut first = epochs.next().unwrap().unwrap();
        let (ended, wait) = mpsc::channel::<()>();
        let gate = gated.clone();
        let opens = std::thread::spawn(move || {
            // The gate opens even if the epoch never ends, so that a wait for the deletions would find them done.
            let _ = wait.recv_timeout(Duration::from_secs(5));
            gate.open();
        });
        assert_eq!(take(&mut first, 99).len(), 64);
        assert!(first.stats().temporaries_left > 0);
        ended.send(()).unwrap();
        let mut last = epochs.next().unwrap().unwrap();
        assert_eq!(take(&mut last, 99).len(), 64);
        assert_eq!(last.stats().temporaries_left, 0);
        opens.join().unwrap();
        all_given_back(&loader);
        assert_eq!(gated.inner.names("data").len(), 64);
    });
}
