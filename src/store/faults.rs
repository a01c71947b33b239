//! A store that fails by script.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future, stream};

use super::{
    Attempt, Body, BucketInfo, ByteRange, Capabilities, ComposeRequest, CopyProgress, CopyRequest, ListPage,
    ListRequest, ObjectId, ObjectMeta, PutRequest, Scheme, Store,
};
use crate::lock::lock;
use crate::{Error, ErrorKind, Result};

/// A kind of call of a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StoreCall {
    /// [`Store::bucket_info`]
    BucketInfo,
    /// [`Store::test_permissions`]
    TestPermissions,
    /// [`Store::list`]
    List,
    /// [`Store::stat`]
    Stat,
    /// [`Store::get`]
    Get,
    /// [`Store::compose`]
    Compose,
    /// [`Store::put`]
    Put,
    /// [`Store::copy`]
    Copy,
    /// [`Store::update_metadata`]
    UpdateMetadata,
    /// [`Store::delete`]
    Delete,
}

/// A fault of a call. Byte positions count from the first byte of the body, not of the object; a position past its end
/// has no effect. Faults of bodies have no effect on calls without a body.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The call isn't made and fails with an error of this kind.
    Error(ErrorKind),
    /// The call isn't made; the service asks to wait this long.
    RetryAfter(Duration),
    /// The call isn't made and fails as if its token were refused (401).
    Unauthenticated,
    /// The call isn't made and never ends.
    Stall,
    /// The call is made, and an error of this kind is returned instead of its answer.
    LostResponse(ErrorKind),
    /// The body breaks with an error before this byte, or after its last.
    BreakAt(u64),
    /// The body ends before this byte, without an error.
    EndAt(u64),
    /// The body stops arriving before this byte and never continues.
    StallAt(u64),
    /// Each chunk of the body arrives this long after the one before.
    Drip(Duration),
    /// The lowest bit of this byte is flipped.
    FlipAt(u64),
    /// So many surplus bytes follow the body.
    Surplus(u64),
    /// The answer names this generation.
    Generation(i64),
}

/// A [`Store`] over another one whose calls fail by script: the k-th of a kind, or the next few. For tests of code that
/// reads through a [`Client`](super::Client). Clones share the script.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
/// use std::sync::Arc;
/// use dataflux::store::{ByteRange, Client, Fault, FaultStore, MemoryStore, ObjectId, StoreCall};
///
/// let store = MemoryStore::new();
/// store.insert("cats", "tom.txt", "meow");
/// let faults = FaultStore::new(Arc::new(store)).fail(StoreCall::Get, 1, Fault::EndAt(2));
/// let client = Client::new(Arc::new(faults.clone()));
/// let payload = client.read(&ObjectId::live("cats", "tom.txt"), None, 4).await?;
/// assert_eq!(&payload.bytes[..], b"meow");
/// assert_eq!(faults.gets()[1].range, ByteRange::Bounded(2..4), "resumed from the bytes received");
/// # Ok::<_, dataflux::Error>(()) })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    script: Arc<Mutex<FaultScript>>,
}

/// What a call of [`Store::get`] asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedGet {
    /// The object.
    pub id: ObjectId,
    /// The requested bytes of it.
    pub range: ByteRange,
}

#[derive(Debug, Default)]
struct FaultScript {
    /// By kind of call and its number, from 1.
    faults: BTreeMap<(StoreCall, u64), Fault>,
    calls: BTreeMap<StoreCall, u64>,
    gets: Vec<RecordedGet>,
}

impl FaultStore {
    /// A store that passes every call on to `inner` as long as its script is empty.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// Makes the `nth` call of this kind fail, counted from 1 since the store was made.
    #[must_use]
    pub fn fail(self, call: StoreCall, nth: u64, fault: Fault) -> Self {
        lock(&self.script).faults.insert((call, nth), fault);
        self
    }

    /// Makes the next `times` calls of this kind fail.
    pub fn fail_next(&self, call: StoreCall, fault: Fault, times: u64) {
        let mut script = lock(&self.script);
        let seen = script.calls.get(&call).copied().unwrap_or(0);
        script.faults.extend((1..=times).map(|n| ((call, seen + n), fault)));
    }

    /// Number of calls of this kind, the failed ones included.
    pub fn calls(&self, call: StoreCall) -> u64 {
        lock(&self.script).calls.get(&call).copied().unwrap_or(0)
    }

    /// The calls of [`Store::get`], in order.
    pub fn gets(&self) -> Vec<RecordedGet> {
        lock(&self.script).gets.clone()
    }

    /// Number of scripted faults that have not occurred yet.
    pub fn faults_left(&self) -> usize {
        lock(&self.script).faults.len()
    }

    /// Counts a call and takes its fault out of the script.
    fn next_fault(&self, call: StoreCall) -> Option<Fault> {
        let mut script = lock(&self.script);
        let seen = script.calls.entry(call).or_default();
        *seen += 1;
        let nth = *seen;
        script.faults.remove(&(call, nth))
    }

    /// Makes a call whose answer has no body, with its fault.
    async fn pass<T>(&self, call: StoreCall, made: impl Future<Output = Result<T>>) -> Result<T> {
        match self.next_fault(call) {
            None => made.await,
            Some(fault) => with_fault(fault, made).await,
        }
    }
}

fn scripted(kind: ErrorKind) -> Error {
    Error::new(kind, "a scripted fault")
}

/// Makes a call with a fault of the call itself; faults of bodies have no effect here.
async fn with_fault<T>(fault: Fault, made: impl Future<Output = Result<T>>) -> Result<T> {
    match fault {
        Fault::Error(kind) => Err(scripted(kind)),
        Fault::RetryAfter(wait) => Err(scripted(ErrorKind::RateLimited).status(429).retry_after(Some(wait))),
        Fault::Unauthenticated => Err(scripted(ErrorKind::Unauthenticated).status(401)),
        Fault::Stall => future::pending().await,
        Fault::LostResponse(kind) => {
            made.await?;
            Err(scripted(kind))
        }
        _ => made.await,
    }
}

/// Applies a fault to a body.
fn spoil_body(mut body: Body, fault: Fault) -> Body {
    let chunks = body.chunks;
    body.chunks = match fault {
        Fault::Generation(generation) => {
            body.version = generation.into();
            chunks
        }
        Fault::BreakAt(at) => {
            let broken = stream::iter([Err(scripted(ErrorKind::Unavailable))]);
            truncate(chunks, at).chain(broken).boxed()
        }
        Fault::EndAt(at) => truncate(chunks, at).boxed(),
        Fault::StallAt(at) => truncate(chunks, at).chain(stream::pending()).boxed(),
        Fault::Surplus(bytes) => {
            let surplus = Bytes::from(vec![0x55; bytes as usize]);
            chunks.chain(stream::iter([Ok(surplus)])).boxed()
        }
        Fault::Drip(wait) => chunks
            .then(move |chunk| async move {
                tokio::time::sleep(wait).await;
                chunk
            })
            .boxed(),
        Fault::FlipAt(at) => chunks
            .scan(0, move |start, chunk| {
                future::ready(Some(chunk.map(|chunk| {
                    let here = at.checked_sub(*start).filter(|here| *here < chunk.len() as u64);
                    *start += chunk.len() as u64;
                    match here {
                        None => chunk,
                        Some(here) => {
                            let mut flipped = BytesMut::from(&chunk[..]);
                            flipped[here as usize] ^= 1;
                            flipped.freeze()
                        }
                    }
                })))
            })
            .boxed(),
        _ => chunks,
    };
    body
}

/// The first `left` bytes of a body.
fn truncate(
    chunks: stream::BoxStream<'static, Result<Bytes>>,
    left: u64,
) -> impl stream::Stream<Item = Result<Bytes>> + Send + 'static {
    chunks.scan(left, |left, chunk| {
        future::ready(match chunk {
            Ok(_) if *left == 0 => None,
            Ok(mut chunk) => {
                chunk.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= chunk.len() as u64;
                Some(Ok(chunk))
            }
            Err(error) => Some(Err(error)),
        })
    })
}

#[async_trait]
impl Store for FaultStore {
    fn reconnected(&self) -> Option<Result<Arc<dyn Store>>> {
        let with_script = |inner| -> Arc<dyn Store> { Arc::new(Self { inner, script: Arc::clone(&self.script) }) };
        self.inner.reconnected().map(|inner| inner.map(with_script))
    }

    fn endpoint(&self) -> Option<&str> {
        self.inner.endpoint()
    }

    fn scheme(&self) -> Scheme {
        self.inner.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn bucket_info(&self, bucket: &str, attempt: &Attempt) -> Result<BucketInfo> {
        self.pass(StoreCall::BucketInfo, self.inner.bucket_info(bucket, attempt)).await
    }

    async fn test_permissions(&self, bucket: &str, permissions: &[&str], attempt: &Attempt) -> Result<Vec<String>> {
        self.pass(StoreCall::TestPermissions, self.inner.test_permissions(bucket, permissions, attempt)).await
    }

    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage> {
        self.pass(StoreCall::List, self.inner.list(request, attempt)).await
    }

    async fn stat(&self, id: &ObjectId, attempt: &Attempt) -> Result<ObjectMeta> {
        self.pass(StoreCall::Stat, self.inner.stat(id, attempt)).await
    }

    async fn get(&self, id: &ObjectId, range: ByteRange, attempt: &Attempt) -> Result<Body> {
        lock(&self.script).gets.push(RecordedGet { id: id.clone(), range: range.clone() });
        let made = self.inner.get(id, range, attempt);
        match self.next_fault(StoreCall::Get) {
            None => made.await,
            Some(fault) => with_fault(fault, made).await.map(|body| spoil_body(body, fault)),
        }
    }

    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.pass(StoreCall::Compose, self.inner.compose(request, attempt)).await
    }

    async fn put(&self, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.pass(StoreCall::Put, self.inner.put(request, attempt)).await
    }

    async fn copy(&self, request: &CopyRequest, continuation: Option<&str>, attempt: &Attempt) -> Result<CopyProgress> {
        self.pass(StoreCall::Copy, self.inner.copy(request, continuation, attempt)).await
    }

    async fn update_metadata(
        &self,
        id: &ObjectId,
        metadata: &BTreeMap<String, String>,
        attempt: &Attempt,
    ) -> Result<ObjectMeta> {
        self.pass(StoreCall::UpdateMetadata, self.inner.update_metadata(id, metadata, attempt)).await
    }

    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()> {
        self.pass(StoreCall::Delete, self.inner.delete(id, attempt)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Credentials, GcsConfig, GcsStore, MemoryStore};

    #[test]
    fn the_script_holds_for_connections_of_its_own() {
        let config = GcsConfig::new().endpoint("127.0.0.1:1").credentials(Credentials::Anonymous);
        let store = FaultStore::new(Arc::new(GcsStore::new(config).unwrap()));
        let reconnected = store.reconnected().unwrap().unwrap();
        store.fail_next(StoreCall::Get, Fault::Error(ErrorKind::NotFound), 1);
        let (id, attempt) = (ObjectId::live("b", "o"), Attempt::first());
        let get = reconnected.get(&id, ByteRange::All, &attempt);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(get).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(FaultStore::new(Arc::new(MemoryStore::new())).reconnected().is_none());
    }
}
