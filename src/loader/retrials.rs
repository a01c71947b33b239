//! Tests of features that failed and are tried again minutes later. The tests end the interval themselves.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{DataLoader, DatafluxDataset};
use crate::ErrorKind;
use crate::plan::Strategy;
use crate::store::{Attempt, BucketInfo, Client, ComposeRequest, Fault, FaultStore, MemoryStore, Store, StoreCall};

const SAMPLES: usize = 3_200;

/// Composed objects of an epoch, unless a busy machine has the loop give some up.
const GROUPS: u64 = SAMPLES as u64 / 32;

struct TrialBucket {
    store: MemoryStore,
    faults: FaultStore,
    loader: DataLoader,
}

/// A loader that composes a bucket in which temporaries are known to be deletable.
fn world() -> TrialBucket {
    let info = BucketInfo { retention: Some(Duration::ZERO), ..BucketInfo::default() };
    let store = MemoryStore::new().with_bucket_info("data", info);
    for index in 0..SAMPLES {
        store.insert("data", &format!("p/{index:04}"), format!("{index}"));
    }
    let faults = FaultStore::new(Arc::new(store.clone()));
    let dataset = DatafluxDataset::open_with(Client::new(Arc::new(faults.clone())), "gs://data/p/").unwrap();
    let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).prefetch(2);
    TrialBucket { store, faults, loader: loader.build().unwrap() }
}

impl TrialBucket {
    /// Makes composes for nobody, until none is left that fails.
    fn spend_faults(&self) {
        let nothing = ComposeRequest::new("data".into(), "nothing".into(), Vec::new(), 0, 0, SystemTime::UNIX_EPOCH);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        while self.faults.faults_left() > 0 {
            drop(runtime.block_on(self.faults.compose(&nothing, &Attempt::first())));
        }
    }

    /// Runs an epoch to its end; how many composes it made.
    fn composes_of_an_epoch(&self) -> u64 {
        let before = self.faults.calls(StoreCall::Compose);
        let samples: usize = self.loader.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum();
        assert_eq!(samples, SAMPLES);
        self.faults.calls(StoreCall::Compose) - before
    }
}

/// One refusal ended composing for as long as the loader lived.
#[test]
fn composing_is_tried_again_by_one_compose_at_a_time() {
    for refusal in [ErrorKind::PermissionDenied, ErrorKind::Protocol] {
        let world = world();
        // Composing is suspended after a number of refusals in a row; some calls are under way by then.
        world.faults.fail_next(StoreCall::Compose, Fault::Error(refusal), 64);
        assert!(world.composes_of_an_epoch() <= 64, "{refusal:?}");
        assert_eq!(world.composes_of_an_epoch(), 0, "{refusal:?}: it is suspended");
        world.spend_faults();

        world.loader.core.series.engine.bucket.fetcher.end_interval();
        world.faults.fail_next(StoreCall::Compose, Fault::Error(refusal), 1);
        assert_eq!(world.composes_of_an_epoch(), 1, "{refusal:?}: a trial that fails");
        assert_eq!(world.composes_of_an_epoch(), 0, "{refusal:?}: it is suspended again");

        world.loader.core.series.engine.bucket.fetcher.end_interval();
        assert!(world.composes_of_an_epoch() > 1, "{refusal:?}: a trial that succeeds");
        assert!(world.composes_of_an_epoch() > GROUPS / 2, "{refusal:?}: it works again");
    }
}

/// A trial that brought no outcome was followed by another at once: in each window, for as long as the cause lasted.
#[test]
fn a_trial_that_is_given_up_or_asked_to_wait_ends_the_trials_for_the_interval() {
    let world = world();
    world.faults.fail_next(StoreCall::Compose, Fault::Error(ErrorKind::PermissionDenied), 64);
    world.composes_of_an_epoch();
    world.spend_faults();
    // The loop gives up one that never ends.
    for fault in [Fault::RetryAfter(Duration::from_secs(1)), Fault::Stall] {
        world.loader.core.series.engine.bucket.fetcher.end_interval();
        world.faults.fail_next(StoreCall::Compose, fault, 1);
        assert_eq!(world.composes_of_an_epoch(), 1, "{fault:?}: a trial");
        assert_eq!(world.composes_of_an_epoch(), 0, "{fault:?}: it is suspended again");
    }
    world.loader.core.series.engine.bucket.fetcher.end_interval();
    assert!(world.composes_of_an_epoch() > 1, "a trial that succeeds");
}

/// What could not be deleted stayed, and so did the end of composing.
#[test]
fn deletions_that_failed_are_tried_again_in_a_later_epoch() {
    let world = world();
    world.faults.fail_next(StoreCall::Delete, Fault::Error(ErrorKind::PermissionDenied), 1);
    world.composes_of_an_epoch();
    let settled = || world.store.names("data").len() == SAMPLES;
    assert!(!settled(), "one is left");
    let deletes = world.faults.calls(StoreCall::Delete);
    assert_eq!(world.composes_of_an_epoch(), 0, "what can't be deleted is not made");
    assert_eq!(world.faults.calls(StoreCall::Delete), deletes, "not tried again at once");

    world.loader.core.series.engine.bucket.fetcher.end_interval();
    world.composes_of_an_epoch();
    let is_over = || settled() && world.loader.core.series.engine.bucket.fetcher.may_compose();
    for _ in 0..10_000 {
        if is_over() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(is_over(), "it is still there");
    assert!(world.composes_of_an_epoch() > GROUPS / 2);
}
