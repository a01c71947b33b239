//! The number of temporary objects has a limit where reads and deletions don't keep up with composing.
//!
//! A program of its own, because the limit counts those of all loaders of the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dataflux::store::{
    Attempt, Body, BucketInfo, ByteRange, Client, ComposeRequest, MemoryStore, ObjectId, ObjectMeta, Store,
};
use dataflux::{DataLoader, DatafluxDataset, Result, Strategy};
use support::forwarding::{Forward, Forwarding};
use support::{HANG, all_given_back, until, without_hanging};
use tokio::sync::Semaphore;

/// A store whose reads wait at a gate, and which records the largest number of composed objects.
#[derive(Clone, Debug)]
struct Slow {
    inner: MemoryStore,
    gate: Arc<Semaphore>,
    there: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl Forward for Slow {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }
    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        let meta = self.inner.compose(request, attempt).await?;
        self.most.fetch_max(self.there.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Ok(meta)
    }
    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()> {
        self.there.fetch_sub(1, Ordering::SeqCst);
        self.inner.delete(id, attempt).await
    }
    async fn get(&self, id: &ObjectId, range: ByteRange, attempt: &Attempt) -> Result<Body> {
        let _open = self.gate.acquire().await.unwrap();
        self.inner.get(id, range, attempt).await
    }
}

/// There was a task and an object for each group that is read ahead.
#[test]
fn composing_waits_where_reads_and_deletions_do_not_keep_up() {
    const MOST: usize = 4_096;
    without_hanging(|| {
        // The bucket reports its retention policy, so that nothing waits for a first deletion.
        let mut info = BucketInfo::default();
        info.retention = Some(Duration::ZERO);
        let inner = MemoryStore::new().with_bucket_info("data", info);
        for index in 0..5 * MOST {
            inner.insert("data", &format!("p/{index:05}"), format!("{index:05}"));
        }
        let store = Slow {
            inner: inner.clone(),
            gate: Arc::new(Semaphore::new(0)),
            there: Arc::default(),
            most: Arc::default(),
        };
        let client = Client::new(Arc::new(Forwarding(store.clone()))).with_stall_timeout(HANG);
        let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
        // Two objects of five bytes each in a composed one.
        let strategy = Strategy::Compose { max_bytes: 10 };
        let loader = DataLoader::builder(dataset).batch_size(16).prefetch(2_000).strategy(strategy).build().unwrap();
        std::thread::scope(|scope| {
            let epoch = scope.spawn(|| loader.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>());
            until("no more are composed", || store.there.load(Ordering::SeqCst) >= MOST);
            assert!(!epoch.is_finished());
            // From here on, as many reads as there are calls at once pass.
            store.gate.add_permits(64);
            assert_eq!(epoch.join().unwrap(), 5 * MOST);
        });
        assert_eq!(store.most.load(Ordering::SeqCst), MOST);
        all_given_back(&loader);
        assert_eq!(inner.names("data").len(), 5 * MOST);
    });
}
