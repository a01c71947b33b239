//! A store whose calls wait where they are told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dataflux::Result;
use dataflux::store::{
    Attempt, Body, BucketInfo, ByteRange, Capabilities, ComposeRequest, CopyRequest, ListPage, ListRequest,
    MemoryStore, ObjectId, ObjectMeta, PutRequest, Store, StoreCall,
};

/// Over a store in memory. Clones share the gates.
#[derive(Clone, Debug)]
pub struct Gated {
    pub inner: MemoryStore,
    shut: Arc<Mutex<Shut>>,
    /// Names of the objects asked for.
    gets: Arc<Mutex<Vec<String>>>,
    composes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Shut {
    /// With how many calls go through before.
    calls: BTreeMap<StoreCall, usize>,
    objects: BTreeSet<String>,
}

impl Gated {
    pub fn new(inner: MemoryStore) -> Self {
        Self { inner, shut: Arc::default(), gets: Arc::default(), composes: Arc::default() }
    }

    /// Calls of this kind wait from now on.
    pub fn shut(&self, call: StoreCall) {
        self.shut_after(call, 0);
    }

    /// Calls of this kind wait once so many more have been made.
    pub fn shut_after(&self, call: StoreCall, calls: usize) {
        self.shut.lock().unwrap().calls.insert(call, calls);
    }

    /// Reads of this object wait from now on.
    pub fn shut_object(&self, name: &str) {
        self.shut.lock().unwrap().objects.insert(name.to_owned());
    }

    /// Nothing waits any more.
    pub fn open(&self) {
        *self.shut.lock().unwrap() = Shut::default();
    }

    /// Names of the objects that were asked for, in order.
    pub fn gets(&self) -> Vec<String> {
        self.gets.lock().unwrap().clone()
    }

    /// How many composes were asked for, those that wait included.
    pub fn composes(&self) -> usize {
        self.composes.load(Ordering::SeqCst)
    }

    async fn pass(&self, call: StoreCall, name: &str) {
        let shut = || {
            let mut shut = self.shut.lock().unwrap();
            match shut.calls.get_mut(&call) {
                Some(0) => true,
                Some(left) => {
                    *left -= 1;
                    false
                }
                None => shut.objects.contains(name),
            }
        };
        if !shut() {
            return;
        }
        while shut() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // As for a new connection, whose name is looked up on such a thread.
        tokio::task::spawn_blocking(|| {}).await.expect("it does nothing");
    }
}

#[async_trait]
impl Store for Gated {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage> {
        self.pass(StoreCall::List, "").await;
        self.inner.list(request, attempt).await
    }
    async fn get(&self, id: &ObjectId, range: ByteRange, attempt: &Attempt) -> Result<Body> {
        self.gets.lock().unwrap().push(id.name.to_string());
        self.pass(StoreCall::Get, &id.name).await;
        self.inner.get(id, range, attempt).await
    }
    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.composes.fetch_add(1, Ordering::SeqCst);
        self.pass(StoreCall::Compose, "").await;
        self.inner.compose(request, attempt).await
    }
    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()> {
        self.pass(StoreCall::Delete, "").await;
        self.inner.delete(id, attempt).await
    }
    async fn bucket_info(&self, bucket: &str, attempt: &Attempt) -> Result<BucketInfo> {
        self.inner.bucket_info(bucket, attempt).await
    }
    async fn test_permissions(&self, bucket: &str, permissions: &[&str], attempt: &Attempt) -> Result<Vec<String>> {
        self.inner.test_permissions(bucket, permissions, attempt).await
    }
    async fn stat(&self, id: &ObjectId, attempt: &Attempt) -> Result<ObjectMeta> {
        self.inner.stat(id, attempt).await
    }
    async fn put(&self, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.inner.put(request, attempt).await
    }
    async fn copy(&self, request: &CopyRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.inner.copy(request, attempt).await
    }
    async fn update_metadata(
        &self,
        id: &ObjectId,
        metadata: &BTreeMap<String, String>,
        attempt: &Attempt,
    ) -> Result<ObjectMeta> {
        self.inner.update_metadata(id, metadata, attempt).await
    }
}
