//! A store that fails as it is told to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future, stream};

use super::{
    Attempt, Body, BucketInfo, ComposeRequest, ListPage, ListRequest, ObjectId, ObjectMeta, PutRequest, Store,
};
use crate::{Error, ErrorKind, Result};

/// The calls of a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Call {
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
    /// [`Store::update_metadata`]
    UpdateMetadata,
    /// [`Store::delete`]
    Delete,
}

/// What goes wrong with a call. Byte positions count from the first byte of the body, not of the object; those past
/// its end do nothing. The faults of bodies do nothing to calls without one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The call isn't made; an error of this kind comes back.
    Error(ErrorKind),
    /// The call isn't made; the service asks to wait this long.
    RetryAfter(Duration),
    /// The call isn't made; its token is refused (401).
    Unauthenticated,
    /// The call isn't made and never ends.
    Stall,
    /// The call is made; an error of this kind comes back all the same.
    LostResponse(ErrorKind),
    /// The body breaks with an error before this byte, or after its last.
    BreakAt(u64),
    /// The body ends before this byte, without an error.
    EndAt(u64),
    /// The body never goes on from this byte.
    StallAt(u64),
    /// Each chunk of the body comes this long after the one before.
    Drip(Duration),
    /// The lowest bit of this byte is flipped.
    FlipAt(u64),
    /// This many bytes too many come at the end.
    Surplus(u64),
    /// The body says that it is of this generation.
    Generation(i64),
}

/// A [`Store`] over another, whose calls fail by script: the k-th of a kind, or the next few. For tests of whatever
/// reads through a [`Client`](super::Client). Clones share the script.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
/// use std::sync::Arc;
/// use dataflux::store::{Call, Client, Fault, FaultStore, MemoryStore, ObjectId};
///
/// let store = MemoryStore::new();
/// store.insert("cats", "tom.txt", "meow");
/// let faults = FaultStore::new(Arc::new(store)).fail(Call::Get, 1, Fault::EndAt(2));
/// let client = Client::new(Arc::new(faults.clone()));
/// let payload = client.read(&ObjectId::new("cats", "tom.txt", None), None, 4).await?;
/// assert_eq!(&payload.bytes[..], b"meow");
/// assert_eq!(faults.gets()[1].1, Some(2..4), "resumed from the bytes received");
/// # Ok::<_, dataflux::Error>(()) })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    /// By kind of call and its number, from 1.
    faults: BTreeMap<(Call, u64), Fault>,
    calls: BTreeMap<Call, u64>,
    gets: Vec<(ObjectId, Option<Range<u64>>)>,
}

impl FaultStore {
    /// A store that passes every call on to `inner`, until it is told otherwise.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// Lets the `nth` call of this kind fail, 1 being the first that this store ever sees.
    #[must_use]
    pub fn fail(self, call: Call, nth: u64, fault: Fault) -> Self {
        self.lock().faults.insert((call, nth), fault);
        self
    }

    /// Lets the next `times` calls of this kind fail.
    pub fn fail_next(&self, call: Call, fault: Fault, times: u64) {
        let mut script = self.lock();
        let seen = script.calls.get(&call).copied().unwrap_or(0);
        script.faults.extend((1..=times).map(|n| ((call, seen + n), fault)));
    }

    /// How many calls of this kind came, the failed ones included.
    pub fn calls(&self, call: Call) -> u64 {
        self.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// What was asked for by each [`Store::get`], in order.
    pub fn gets(&self) -> Vec<(ObjectId, Option<Range<u64>>)> {
        self.lock().gets.clone()
    }

    /// How many scripted faults have not come about.
    pub fn faults_left(&self) -> usize {
        self.lock().faults.len()
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says what is to become of it.
    fn next(&self, call: Call) -> Option<Fault> {
        let mut script = self.lock();
        let seen = script.calls.entry(call).or_default();
        *seen += 1;
        let nth = *seen;
        script.faults.remove(&(call, nth))
    }

    /// Makes a call that has no body.
    async fn pass<T>(&self, call: Call, made: impl Future<Output = Result<T>>) -> Result<T> {
        match self.next(call) {
            None => made.await,
            Some(fault) => refuse(fault, made).await,
        }
    }
}

fn scripted(kind: ErrorKind) -> Error {
    Error::new(kind, "a scripted fault")
}

/// What becomes of the call itself; faults of bodies are another matter.
async fn refuse<T>(fault: Fault, made: impl Future<Output = Result<T>>) -> Result<T> {
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

/// The body as the fault leaves it.
fn spoil(mut body: Body, fault: Fault) -> Body {
    let chunks = body.chunks;
    body.chunks = match fault {
        Fault::Generation(generation) => {
            body.generation = generation;
            chunks
        }
        Fault::BreakAt(at) => {
            let broken = stream::iter([Err(scripted(ErrorKind::Unavailable))]);
            cut(chunks, at).chain(broken).boxed()
        }
        Fault::EndAt(at) => cut(chunks, at).boxed(),
        Fault::StallAt(at) => cut(chunks, at).chain(stream::pending()).boxed(),
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

/// The first `left` bytes.
fn cut(
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
    fn endpoint(&self) -> Option<&str> {
        self.inner.endpoint()
    }

    async fn bucket_info(&self, bucket: &str, attempt: &Attempt) -> Result<BucketInfo> {
        self.pass(Call::BucketInfo, self.inner.bucket_info(bucket, attempt)).await
    }

    async fn test_permissions(&self, bucket: &str, permissions: &[&str], attempt: &Attempt) -> Result<Vec<String>> {
        self.pass(Call::TestPermissions, self.inner.test_permissions(bucket, permissions, attempt)).await
    }

    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage> {
        self.pass(Call::List, self.inner.list(request, attempt)).await
    }

    async fn stat(&self, id: &ObjectId, attempt: &Attempt) -> Result<ObjectMeta> {
        self.pass(Call::Stat, self.inner.stat(id, attempt)).await
    }

    async fn get(&self, id: &ObjectId, range: Option<Range<u64>>, attempt: &Attempt) -> Result<Body> {
        self.lock().gets.push((id.clone(), range.clone()));
        let made = self.inner.get(id, range, attempt);
        match self.next(Call::Get) {
            None => made.await,
            Some(fault) => refuse(fault, made).await.map(|body| spoil(body, fault)),
        }
    }

    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.pass(Call::Compose, self.inner.compose(request, attempt)).await
    }

    async fn put(&self, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.pass(Call::Put, self.inner.put(request, attempt)).await
    }

    async fn update_metadata(
        &self,
        id: &ObjectId,
        metadata: &BTreeMap<String, String>,
        attempt: &Attempt,
    ) -> Result<ObjectMeta> {
        self.pass(Call::UpdateMetadata, self.inner.update_metadata(id, metadata, attempt)).await
    }

    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()> {
        self.pass(Call::Delete, self.inner.delete(id, attempt)).await
    }
}
