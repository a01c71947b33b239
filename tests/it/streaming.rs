//! Data sets that are used while they are listed: the same batches sooner, and the same errors later.

use std::sync::Arc;

use async_trait::async_trait;
use dataflux::list::{Filter, Progress};
use dataflux::manifest::KnownSamples;
use dataflux::sample::BlockShuffle;
use dataflux::store::{
    Attempt, Client, Credentials, Fault, FaultStore, GcsConfig, GcsStore, ListPage, ListRequest, MemoryStore,
    RetryPolicy, Store, StoreCall,
};
use dataflux::{DataLoader, DataLoaderBuilder, DatafluxDataset, ErrorKind, Manifest, Raw, Result};
use dataflux_emulator::{Emulator, Profile};
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use crate::support::forwarding::{Forward, Forwarding};
use crate::support::{client, until, without_hanging};

/// A store that answers as many list calls as its gate permits.
#[derive(Clone, Debug)]
struct Gated {
    inner: MemoryStore,
    gate: Arc<Semaphore>,
    /// Whether the names of a page are in reverse order.
    backwards: bool,
}

impl Gated {
    fn new(inner: MemoryStore, calls: usize) -> Self {
        Self { inner, gate: Arc::new(Semaphore::new(calls)), backwards: false }
    }

    /// Whether a client, a call or a task still holds a clone.
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.gate) > 1
    }
}

#[async_trait]
impl Forward for Gated {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }
    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage> {
        self.gate.acquire().await.unwrap().forget();
        let mut page = self.inner.list(request, attempt).await?;
        if self.backwards {
            let objects: Vec<_> = page.objects.iter().collect();
            page.objects = objects.into_iter().rev().collect();
        }
        Ok(page)
    }
}

const FOLDERS: [&str; 4] = ["ant", "bee", "été", "😀"];

/// A store of `count` objects in four consecutive folders.
fn filled(count: usize) -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    for index in 0..count {
        let folder = FOLDERS[index * FOLDERS.len() / count];
        store.insert("data", &format!("p/{folder}/{index:06}"), format!("{index}"));
    }
    store
}

/// A store whose pages have fewer objects than a chunk of the manifest.
fn in_pages(store: &MemoryStore) -> MemoryStore {
    store.clone().with_page_cap(700)
}

fn open(store: impl Store, streaming: bool) -> Result<DatafluxDataset> {
    DatafluxDataset::builder().client(client(store)).streaming(streaming).open("gs://data/p/")
}

/// A data set whose list calls are made in turn and never retried.
fn open_with_faults(store: FaultStore) -> Result<DatafluxDataset> {
    let client = Client::new(Arc::new(store)).with_retry(RetryPolicy::never());
    DatafluxDataset::builder().client(client).list_concurrency(1).streaming(true).open("gs://data/p/")
}

/// The batches before the end or an error, and how the epoch ended.
fn batches(loader: &DataLoader, epoch: u64) -> (Vec<Vec<String>>, Result<()>) {
    let mut batches = Vec::new();
    for batch in loader.epoch(epoch).unwrap() {
        match batch {
            Ok(batch) => batches.push(batch.names().map(str::to_owned).collect()),
            Err(error) => return (batches, Err(error)),
        }
    }
    (batches, Ok(()))
}

fn whole(loader: &DataLoader, epoch: u64) -> Vec<Vec<String>> {
    let (batches, outcome) = batches(loader, epoch);
    outcome.unwrap();
    assert_eq!(batches.len() as u64, loader.batches_per_epoch().unwrap());
    batches
}

type Settings = fn(DataLoaderBuilder<Raw>) -> DataLoaderBuilder<Raw>;

const ORDERS: [Settings; 4] = [
    |loader| loader,
    |loader| loader.shuffle_window(42, 1_500),
    |loader| loader.shuffle(42),
    |loader| loader.sampler(BlockShuffle::new(42, 100, 5)),
];

#[test]
fn batches_are_those_of_a_listing_that_came_first() {
    without_hanging(|| {
        let store = filled(9_001);
        for (order, drop_last, ranks) in [(0, false, 1), (1, false, 3), (1, true, 2), (2, false, 1), (3, true, 2)] {
            for rank in 0..ranks {
                let of = |streaming| {
                    let dataset = open(in_pages(&store), streaming).unwrap();
                    let loader = ORDERS[order](DataLoader::builder(dataset).batch_size(128).shard(rank, ranks));
                    let loader = loader.drop_last(drop_last).build().unwrap();
                    let batches = whole(&loader, 1);
                    (batches, loader.dataset().manifest().digest())
                };
                let (streamed, listed) = (of(true), of(false));
                assert_eq!(streamed, listed, "order {order}, rank {rank} of {ranks}");
                assert!(streamed.0.concat().len() >= 9_001 / ranks - 256);
            }
        }
    });
}

#[test]
fn windows_are_far_from_order_and_near_their_place() {
    without_hanging(|| {
        let loader = DataLoader::builder(open(filled(3_000), true).unwrap()).batch_size(100);
        let loader = loader.shuffle_window(1, 1_000).build().unwrap();
        let names = whole(&loader, 0).concat();
        assert_ne!(names, whole(&loader, 1).concat());
        let mut sorted: Vec<_> = names.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 3_000);
        for (names, sorted) in names.chunks(1_000).zip(sorted.chunks(1_000)) {
            assert_ne!(names, sorted);
            let mut names = names.to_vec();
            names.sort();
            assert_eq!(names, sorted);
        }
    });
}

#[test]
fn the_first_batches_come_before_the_second_page() {
    without_hanging(|| {
        let store = Gated::new(filled(6_000), 1);
        let progress = Arc::new(Progress::default());
        let builder =
            DatafluxDataset::builder().client(client(Forwarding(store.clone()))).progress(Arc::clone(&progress));
        let dataset = builder.streaming(true).open("gs://data/p/").unwrap();
        let manifest = Arc::clone(dataset.manifest());
        assert_eq!(manifest.known(), KnownSamples::AtLeast(4_096));
        for (order, known) in [(0, 4_096), (1, 3_000)] {
            let loader = ORDERS[order](DataLoader::builder(dataset.clone()).batch_size(64)).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            for batch in batches.by_ref().take(known / 64) {
                let batch = batch.unwrap();
                assert_eq!(batch.len(), 64);
                for sample in batch.iter() {
                    assert_eq!(
                        FOLDERS[sample.entry().label.unwrap() as usize],
                        sample.name().split('/').nth(1).unwrap()
                    );
                }
            }
            assert_eq!(progress.calls(), 1);
            if order == 1 {
                store.gate.add_permits(Semaphore::MAX_PERMITS / 2);
                assert_eq!(batches.map(|batch| batch.unwrap().len()).sum::<usize>(), 6_000 - known / 64 * 64);
            }
        }
        assert_eq!(manifest.known(), KnownSamples::All(6_000));
        assert_eq!(manifest.labels(), FOLDERS);
        assert!(progress.calls() > 1);
    });
}

#[test]
fn asynchronous_code_gets_its_first_batch_before_the_second_page() {
    without_hanging(|| {
        let store = Gated::new(filled(6_000), 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let builder = DatafluxDataset::builder().client(client(Forwarding(store.clone()))).streaming(true);
            let dataset = builder.open_async("gs://data/p/").await.unwrap();
            let loader = DataLoader::builder(dataset).batch_size(1_000).build().unwrap();
            let mut stream = loader.stream(0).unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap().len(), 1_000);
            store.gate.add_permits(1_000);
            assert_eq!(stream.state().position, 1_000);
            assert_eq!(stream.map(|batch| batch.unwrap().len()).collect::<Vec<_>>().await, [1_000; 5]);
        });
    });
}

/// Over HTTP: twelve pages in turn, each of which takes a second.
#[test]
fn a_slow_service_is_not_waited_for() {
    without_hanging(|| {
        let emulator = Emulator::builder()
            .virtual_namespace("data:n=60000,size=100".parse().unwrap())
            .profile(Profile { list_ms: 1_000.0, ..Profile::fast() })
            .start()
            .unwrap();
        let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
        let client = Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(crate::support::retries());
        let builder = DatafluxDataset::builder().client(client).list_concurrency(1).streaming(true);
        let loader = DataLoader::builder(builder.open("gs://data/").unwrap()).batch_size(64).build().unwrap();
        assert_eq!(loader.epoch(0).unwrap().next().unwrap().unwrap().len(), 64);
        let known = loader.dataset().manifest().known();
        assert!(matches!(known, KnownSamples::AtLeast(4_096..60_000)), "{known:?}");
        assert!(emulator.stats().list < 12);
    });
}

/// A listing that fails is never taken for a short one.
#[test]
fn a_failure_comes_after_the_batches_before_it() {
    without_hanging(|| {
        let store = filled(12_000);
        for (order, least) in [(0, 4_096 / 64), (1, 3_000 / 64), (2, 0)] {
            let loader = |dataset| ORDERS[order](DataLoader::builder(dataset).batch_size(64)).build().unwrap();
            let faults = FaultStore::new(Arc::new(store.clone()));
            let faults = faults.fail(StoreCall::List, 3, Fault::Error(ErrorKind::Unavailable));
            let failing = loader(open_with_faults(faults).unwrap());
            let wanted = whole(&loader(open(store.clone(), false).unwrap()), 0);
            for _ in 0..2 {
                let (got, outcome) = batches(&failing, 0);
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                assert!(error.to_string().contains("scripted"), "{error}");
                assert!(got.len() >= least && got.len() < wanted.len(), "{}", got.len());
                assert_eq!(got, wanted[..got.len()]);
            }
            let dataset = failing.dataset();
            let manifest: &Manifest = dataset.manifest();
            assert_eq!(manifest.complete().unwrap_err().kind(), ErrorKind::Unavailable);
            assert_eq!(manifest.known(), KnownSamples::AtLeast(manifest.len()));
            assert_eq!(manifest.storage_classes().map(|class| class.objects).sum::<u64>(), manifest.len());
            assert!((4_096..12_000).contains(&manifest.len()));
            assert!(manifest.get(11_999).is_none() && manifest.get(0).is_some());
            assert_eq!(dataset.get(11_999).unwrap_err().kind(), ErrorKind::Unavailable);
            assert_eq!(dataset.get(17).unwrap().entry().label, Some(0));
            let path = std::env::temp_dir().join(format!("dataflux-part-{order}-{}.dfm", std::process::id()));
            assert_eq!(manifest.save(&path).unwrap_err().kind(), ErrorKind::Unavailable);
            assert!(!path.exists());
        }
    });
}

#[test]
fn what_the_first_page_tells_is_an_error_of_open() {
    without_hanging(|| {
        let store = filled(100);
        let opened = |uri| DatafluxDataset::builder().client(client(store.clone())).streaming(true).open(uri);
        for (uri, kind) in [
            ("s3://data/p/", ErrorKind::Config),
            ("gs://other/p/", ErrorKind::NotFound),
            ("gs://data/q/", ErrorKind::NotFound),
        ] {
            assert_eq!(opened(uri).unwrap_err().kind(), kind, "{uri}");
        }
        let faults = FaultStore::new(Arc::new(store.clone()));
        let faults = faults.fail(StoreCall::List, 1, Fault::Error(ErrorKind::PermissionDenied));
        assert_eq!(open_with_faults(faults).unwrap_err().kind(), ErrorKind::PermissionDenied);
        let huge = DatafluxDataset::builder().client(client(in_pages(&store))).filter(Filter::new().min_size(1 << 40));
        let error = huge.streaming(true).open("gs://data/p/").unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("100"), "{error}");
    });
}

/// The only objects that a filter accepts are on the last of many pages.
#[test]
fn pages_without_a_sample_are_waited_through() {
    without_hanging(|| {
        let store = in_pages(&filled(5_000));
        let last = Filter::new().include("*/004999").unwrap();
        let builder = DatafluxDataset::builder().client(client(store)).filter(last).streaming(true);
        assert_eq!(builder.open("gs://data/p/").unwrap().len(), 1);
    });
}

#[test]
fn dropping_the_last_handle_stops_the_listing() {
    without_hanging(|| {
        let store = Gated::new(filled(20_000), 1);
        let dataset = open(Forwarding(store.clone()), true).unwrap();
        assert!(store.is_held());
        drop(dataset);
        until("no task is left of a data set", || !store.is_held());

        // An epoch that waits for samples, and one that waits for all of them.
        for order in [0, 1, 2] {
            store.gate.add_permits(1);
            let dataset = open(Forwarding(store.clone()), true).unwrap();
            let loader = ORDERS[order](DataLoader::builder(dataset).batch_size(5_000)).build().unwrap();
            let epoch = loader.epoch(0).unwrap();
            drop(loader);
            assert!(store.is_held());
            drop(epoch);
            until("no thread is left of an epoch", || !store.is_held());
        }

        // The manifest alone is a handle, too.
        store.gate.add_permits(1);
        let manifest = Arc::clone(open(Forwarding(store.clone()), true).unwrap().manifest());
        store.gate.add_permits(1_000);
        assert_eq!(manifest.len(), 20_000);
        until("no task is left of a listing that has ended", || !store.is_held());
    });
}

/// `a-b/` comes before `a/`, and `a` before `a-b`.
#[test]
fn labels_out_of_order_are_an_error() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        for index in 0..6_000 {
            store.insert("data", &format!("p/{}/{index:04}", ["a-b", "a"][index / 5_000]), "x");
        }
        assert_eq!(open(store.clone(), false).unwrap().manifest().labels(), ["a", "a-b"]);
        let loader = DataLoader::builder(open(store, true).unwrap()).batch_size(1_000).build().unwrap();
        let (got, outcome) = batches(&loader, 0);
        assert_eq!(got.concat().len(), 4_000);
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            error.to_string().contains("gs://data/p/a/") && error.to_string().contains("without streaming"),
            "{error}"
        );
    });
}

#[test]
fn a_server_without_an_order_is_an_error() {
    without_hanging(|| {
        let store = Gated { backwards: true, ..Gated::new(filled(100), 1_000) };
        assert_eq!(open(Forwarding(store.clone()), false).unwrap().len(), 100);
        let error = open(Forwarding(store), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("without streaming"), "{error}");
    });
}

#[test]
fn a_state_holds_whether_it_was_taken_while_listing_or_not() {
    without_hanging(|| {
        let store = filled(5_000);
        let loader = |streaming| {
            let dataset = open(in_pages(&store), streaming).unwrap();
            DataLoader::builder(dataset).batch_size(300).shuffle_window(9, 1_000)
        };
        let straight = whole(&loader(false).build().unwrap(), 2);
        for streaming in [false, true] {
            let mut epoch = loader(streaming).build().unwrap().epoch(2).unwrap();
            for _ in 0..7 {
                epoch.next().unwrap().unwrap();
            }
            let state = epoch.state();
            assert_eq!((&*state.sampler, state.position), ("windows(seed=9, samples=1000)", 2_100));
            let json = serde_json::to_string(&state).unwrap();
            let dataset = open(in_pages(&store), !streaming).unwrap();
            let resumed = DataLoader::builder(dataset).resume(serde_json::from_str(&json).unwrap()).build().unwrap();
            assert_eq!(batches(&resumed, 2).0, straight[7..]);
            let others: [(Settings, &str); 3] = [
                (|loader| loader.shuffle_window(9, 1_001), "windows(seed=9, samples=1001)"),
                (|loader| loader.shuffle_window(8, 1_000), "windows(seed=8, samples=1000)"),
                (|loader| loader.shuffle(9), "shuffle(seed=9)"),
            ];
            for (settings, got) in others {
                let other = settings(DataLoader::builder(resumed.dataset().clone()));
                let said = other.resume(state.clone()).build().unwrap_err().to_string();
                let both = format!("wanted sampler windows(seed=9, samples=1000), got {got}");
                assert!(said.contains(&both), "{said}");
            }
            assert!(loader(true).resume(state).build().is_ok());
        }
    });
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    without_hanging(|| {
        let loader = || DataLoader::builder(open(filled(10), true).unwrap());
        for wrong in [loader().shuffle_window(1, 0), loader().shuffle(1).shuffle_window(1, 10)] {
            assert_eq!(wrong.build().unwrap_err().kind(), ErrorKind::Config);
        }
        let builder = DatafluxDataset::builder().client(client(filled(10))).streaming(true).inventory("report");
        assert_eq!(builder.open("gs://data/p/").unwrap_err().kind(), ErrorKind::Config);
    });
}
