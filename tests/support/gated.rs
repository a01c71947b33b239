//! A store whose calls wait at gates that a test shuts and opens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dataflux::Result;
use dataflux::store::{
    Attempt, Body, ByteRange, ComposeRequest, ListPage, ListRequest, MemoryStore, ObjectId, ObjectMeta, Store,
    StoreCall,
};

use super::forwarding::{Forward, Forwarding};

/// A store in memory behind gates. Clones share the gates.
#[derive(Clone, Debug)]
pub struct Gated {
    pub inner: MemoryStore,
    shut: Arc<Mutex<Shut>>,
    /// Names of the objects that were read.
    gets: Arc<Mutex<Vec<String>>>,
    composes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Shut {
    /// The kinds of calls that wait, each with the number of calls that still pass.
    calls: BTreeMap<StoreCall, usize>,
    objects: BTreeSet<String>,
}

impl Gated {
    pub fn new(inner: MemoryStore) -> Self {
        Self { inner, shut: Arc::default(), gets: Arc::default(), composes: Arc::default() }
    }

    /// The store to give to a client.
    pub fn store(&self) -> Arc<Forwarding<Self>> {
        Arc::new(Forwarding(self.clone()))
    }

    /// Calls of this kind wait from now on.
    pub fn shut(&self, call: StoreCall) {
        self.shut_after(call, 0);
    }

    /// Calls of this kind wait after this many more have passed.
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

    /// Names of the objects that were read, in the order of the calls.
    pub fn gets(&self) -> Vec<String> {
        self.gets.lock().unwrap().clone()
    }

    /// The number of compose calls, with those that wait.
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
        // A new connection needs a blocking thread, too, to look up the name of its host.
        tokio::task::spawn_blocking(|| {}).await.expect("it does nothing");
    }
}

#[async_trait]
impl Forward for Gated {
    fn inner(&self) -> &dyn Store {
        &self.inner
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
}
