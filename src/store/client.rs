//! What every caller needs on top of a [`Store`]: retry, resume, adoption, counting.

mod streaming;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, future, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::buffers::Buffers;
use super::hedge::{Hedge, Hedging};
use super::reach::{Reach, SILENCE};
use super::reading::{Amount, BodyRead};
use super::retry::{Decision, Failure};
use super::{
    Attempt, Body, BucketInfo, ComposeRequest, ListPage, ListRequest, MemoryStore, ObjectId, ObjectMeta, PutRequest,
    RetryPolicy, Store,
};
use crate::metrics::{Counter, Metrics, add, count};
use crate::{Error, ErrorKind, Result};

pub(crate) use streaming::RangeStream;

/// Longest wait for the head of an answer, or for the next bytes of a body. The service answers within seconds or not
/// at all; shorter would cut slow composes, longer would hold a batch for a dead connection.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// Slowest transfer still waited for, bytes a second: 64 streams that share 4 MiB/s. A read or an upload may take
/// the policy's deadline and its size at this rate, so that a large one on a slow line isn't cut while it gets on.
const SLOWEST: u64 = 64 << 10;

/// Longest wait for the end of a body whose bytes are all there: only its end mark can be missing.
const END_MARK: Duration = Duration::from_secs(1);

/// The bytes of an object, or of a range of it, all of them and from one generation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Payload {
    /// The bytes as stored. Their length is what was asked for; whether they are right is for a CRC to say.
    pub bytes: Bytes,
    /// The generation they are of.
    pub generation: i64,
    /// Stored length of the whole object, if told.
    pub stored_size: Option<u64>,
    /// CRC of the whole stored object, if told: by the service, not computed from `bytes`.
    pub crc32c: Option<u32>,
    /// CRC of `bytes`, computed as they came.
    pub computed: u32,
}

/// Is told how a call fares while it is under way.
pub(crate) trait CallObserver: fmt::Debug + Send + Sync {
    /// The service refused a try, the first one or a later one, because there are too many calls (429), or could not
    /// serve it for now (503).
    fn refused(&self, first: bool);
    /// The service began to answer, so long after this try began.
    fn answered(&self, wait: Duration);
    /// Waits this long, then until the call may be made again, and returns the time that the second wait took.
    fn again(self: Arc<Self>, wait: Duration) -> BoxFuture<'static, Duration>;
}

/// A [`Store`] with retry, resume and counting: what the rest of the crate reads and writes through.
///
/// Clones share the store and the counts.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// use std::sync::Arc;
/// use dataflux::store::{Client, MemoryStore, ObjectId};
///
/// let store = MemoryStore::new().with_bucket("cats");
/// let generation = store.insert("cats", "tom.txt", "meow");
/// let client = Client::new(Arc::new(store));
/// let payload = client.read(&ObjectId::new("cats", "tom.txt", generation), None, 4).await?;
/// assert_eq!(&payload.bytes[..], b"meow");
/// assert_eq!(client.metrics().snapshot().get, 1);
/// # Ok::<_, dataflux::Error>(()) })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    retry: RetryPolicy,
    stall: Duration,
    read_stall: Duration,
    buffers: Arc<Buffers>,
    hedging: Option<Arc<Hedging>>,
    watch: Option<Arc<dyn CallObserver>>,
    reach: Arc<Reach>,
    /// Whether bytes are hashed as they come.
    hashes: bool,
    /// Whether the first try of a call is one of an earlier call that failed.
    repeats: bool,
    /// Holds true once nobody wants the results any more.
    over: Option<watch::Receiver<bool>>,
}

impl Client {
    /// A client of `store` with the default [`RetryPolicy`] and a stall timeout of 30 s.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            metrics: Arc::default(),
            retry: RetryPolicy::default(),
            stall: STALL,
            read_stall: STALL,
            buffers: Arc::default(),
            hedging: None,
            watch: None,
            reach: Arc::default(),
            hashes: true,
            repeats: false,
            over: None,
        }
    }

    /// Sets how failed calls are made again.
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets the longest wait for the head of an answer and for the next bytes of a body. Of one read it doubles after each
    /// try that it ended.
    #[must_use]
    pub fn with_stall_timeout(mut self, wait: Duration) -> Self {
        (self.stall, self.read_stall) = (wait, wait);
        self
    }

    /// Sets that wait for reads alone, whose answers come sooner than those of a compose; without `wait` it is `most` at
    /// most.
    pub(crate) fn with_read_stall(mut self, wait: Option<Duration>, most: Duration) -> Self {
        self.read_stall = wait.unwrap_or(self.read_stall.min(most));
        self
    }

    /// Asks a second time for what a read misses, where nothing comes for longer than is usual. Clones share what they
    /// learn of that. Not for large objects that are read in ranges, where the other streams go on meanwhile.
    #[must_use]
    pub fn with_hedge(mut self, hedge: Hedge) -> Self {
        self.hedging = Some(Arc::new(Hedging::new(hedge)));
        self
    }

    /// The same client, counts included, which puts bodies into `buffers`.
    pub(crate) fn with_buffers(&self, buffers: Arc<Buffers>) -> Self {
        Self { buffers, ..self.clone() }
    }

    /// The same client, counts included, with connections of its own: for use on another runtime.
    ///
    /// # Errors
    /// As for opening the store.
    pub fn reconnected(&self) -> Result<Self> {
        let store = self.store.reconnected().transpose()?;
        Ok(Self { store: store.unwrap_or_else(|| Arc::clone(&self.store)), ..self.clone() })
    }

    /// The same client with counts of its own, which count for those of this one, too.
    pub(crate) fn counted_apart(&self) -> Self {
        Self { metrics: Arc::new(self.metrics.part()), ..self.clone() }
    }

    /// The same client, whose calls `watch` is told of.
    pub(crate) fn watched(&self, watch: Arc<dyn CallObserver>) -> Self {
        Self { watch: Some(watch), ..self.clone() }
    }

    /// The same client for calls that are an optional speed-up: see [`RetryPolicy::for_optional_calls`].
    pub(crate) fn for_optional_calls(&self) -> Self {
        Self { retry: self.retry.for_optional_calls(), ..self.clone() }
    }

    /// The same client, whose [`Payload::computed`] is of no use: for those who prove parts of what they read.
    pub(crate) fn unhashed(&self) -> Self {
        Self { hashes: false, ..self.clone() }
    }

    /// The same client for calls that repeat others which failed or brought wrong bytes: their first tries count as
    /// [retries](crate::metrics::Counts::retries), too.
    pub(crate) fn repeating(&self) -> Self {
        Self { repeats: true, ..self.clone() }
    }

    /// The same client, which gives a failed call up instead of trying it again once `over` holds true: nobody wants
    /// its result any more. The try under way is not cut off.
    pub(crate) fn until(&self, over: watch::Receiver<bool>) -> Self {
        Self { over: Some(over), ..self.clone() }
    }

    /// Waits so long, then until the next try may be made, and returns the time that the second wait took. Returns
    /// nothing as soon as nobody wants the results of this client any more.
    async fn wait_to_try_again(&self, wait: Duration) -> Option<Duration> {
        let again = async {
            if let Some(watch) = &self.watch {
                Arc::clone(watch).again(wait).await
            } else {
                sleep(wait).await;
                Duration::ZERO
            }
        };
        let Some(mut over) = self.over.clone() else { return Some(again.await) };
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => None,
            queued = again => Some(queued),
        }
    }

    /// How long a call may take in all, before what its bytes add.
    pub(crate) fn deadline(&self) -> Duration {
        self.retry.deadline
    }

    /// Longest wait for the next bytes.
    pub(crate) fn stall_timeout(&self) -> Duration {
        self.stall
    }

    /// The store, where its objects are in memory. Who looks there says so with [`found`](Self::found).
    pub(crate) fn in_memory(&self) -> Option<&MemoryStore> {
        let store: &dyn Any = &*self.store;
        store.downcast_ref().filter(|store: &&MemoryStore| !store.is_chunked())
    }

    /// Counts objects that were found in memory: each is as good as a read.
    pub(crate) fn found(&self, objects: u64, bytes: u64) {
        add(&self.metrics.get, objects);
        add(&self.metrics.bytes_received, bytes);
    }

    /// Whom calls go to, for messages.
    fn host(&self) -> &str {
        self.store.endpoint().unwrap_or("the store")
    }

    /// What was asked of the store through this client and its clones.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// One page of a listing.
    ///
    /// # Errors
    /// When the bucket isn't there or not open to the caller, or the policy gives up.
    pub async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let mut call = ClientCall::new(self, true, 0).refusals(&self.metrics.list_refused);
        let outcome: Result<_> = async {
            loop {
                count(&self.metrics.list);
                match call.within(self.store.list(request, &call.attempt)).await {
                    Ok(page) => {
                        if page.objects.is_empty() && page.prefixes.is_empty() {
                            count(&self.metrics.empty_list);
                        }
                        return Ok(page);
                    }
                    Err(error) => {
                        // A server that knows no pages may need longer for all there is.
                        if error.kind() == ErrorKind::Timeout {
                            call.head *= 2;
                        }
                        call.recover(error, &BucketUri(&request.bucket)).await?;
                    }
                }
            }
        }
        .await;
        call.end(outcome)
    }

    /// Facts of the bucket; all unknown where the caller may not see them.
    ///
    /// # Errors
    /// When the bucket isn't there, or the policy gives up.
    pub async fn bucket_info(&self, bucket: &str) -> Result<BucketInfo> {
        let mut call = ClientCall::new(self, true, 0);
        let outcome: Result<_> = async {
            loop {
                count(&self.metrics.bucket);
                match call.within(self.store.bucket_info(bucket, &call.attempt)).await {
                    Ok(info) => return Ok(info),
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(BucketInfo::default()),
                    Err(error) => call.recover(error, &BucketUri(bucket)).await?,
                }
            }
        }
        .await;
        call.end(outcome)
    }

    /// Which of `permissions`, such as `storage.objects.create`, the caller holds on the bucket.
    ///
    /// # Errors
    /// When the bucket isn't there, or the policy gives up. Some emulators answer every such call with "not found".
    pub async fn test_permissions(&self, bucket: &str, permissions: &[&str]) -> Result<Vec<String>> {
        let mut call = ClientCall::new(self, true, 0);
        let outcome: Result<_> = async {
            loop {
                count(&self.metrics.bucket);
                match call.within(self.store.test_permissions(bucket, permissions, &call.attempt)).await {
                    Ok(held) => return Ok(held),
                    Err(error) => call.recover(error, &BucketUri(bucket)).await?,
                }
            }
        }
        .await;
        call.end(outcome)
    }

    /// What is known of one object.
    ///
    /// # Errors
    /// When the object, or the generation named, isn't there, or the policy gives up.
    pub async fn stat(&self, id: &ObjectId) -> Result<ObjectMeta> {
        let mut call = ClientCall::new(self, true, 0);
        let outcome: Result<_> = async {
            loop {
                count(&self.metrics.stat);
                match call.within(self.store.stat(id, &call.attempt)).await {
                    Ok(meta) => return Ok(meta),
                    Err(error) => call.recover(error, id).await?,
                }
            }
        }
        .await;
        call.end(outcome)
    }

    /// The stored bytes of an object, or those of `range` (end exclusive): `size` of them, which the caller knows
    /// from the listing.
    ///
    /// A body that breaks off, with an error or silently, is resumed from the bytes received, out of the same
    /// generation. The call may take the policy's deadline and `size` at 64 KiB/s. Whether the bytes are right is not
    /// checked here.
    ///
    /// # Errors
    /// [`Changed`](ErrorKind::Changed) when the generation is gone, [`Integrity`](ErrorKind::Integrity) when the
    /// object is of another length than `size`, and whatever the policy gave up on.
    ///
    /// # Cancel safety
    /// Dropping the future drops the bytes and the connection, and leaves nothing behind.
    pub async fn read(&self, id: &ObjectId, range: Option<Range<u64>>, size: u64) -> Result<Payload> {
        if let Some(range) = &range
            && (range.is_empty() || range.end - range.start != size)
        {
            return Err(Error::new(ErrorKind::Config, "a range that is empty or of another length than its size")
                .object(id)
                .mismatch(format!("{size} bytes"), format!("the range {}..{}", range.start, range.end)));
        }
        let mut call =
            ClientCall::new(self, true, size).refusals(&self.metrics.get_refused).stalled_after(self.read_stall);
        let mut reading = BodyRead::new(id.clone(), range, size, &self.buffers, self.hashes);
        let outcome: Result<_> = async {
            loop {
                let before = reading.received();
                let error = match self.read_on(&call, &mut reading).await {
                    Ok(()) => return Ok(reading.finish()),
                    Err(error) => error,
                };
                if error.is_not_found()
                    && let Some(generation) = reading.id.generation
                {
                    return Err(self.changed(&reading.id, generation, error).await);
                }
                if reading.received() > before {
                    call.progress();
                } else if error.kind() == ErrorKind::Timeout {
                    call.wait_longer();
                }
                call.recover(error, id).await?;
            }
        }
        .await;
        call.end(outcome)
    }

    /// One try at what is still missing.
    async fn read_on(&self, call: &ClientCall<'_>, reading: &mut BodyRead) -> Result<()> {
        if let Some(hedging) = &self.hedging {
            return self.race(call, reading, hedging).await;
        }
        count(&self.metrics.get);
        let body = call.answered(call.within(self.store.get(&reading.id, reading.missing(), &call.attempt)).await)?;
        let mut chunks = reading.check(body)?;
        loop {
            let full = reading.received() == reading.size;
            let patience = if full { call.patience().min(END_MARK) } else { call.patience() };
            match timeout(patience, chunks.next()).await {
                Ok(Some(Ok(chunk))) => self.received(reading, chunk)?,
                _ if full => return Ok(()),
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) => return Err(reading.ended()),
                Err(_) => return Err(reading.timed_out(call.silence(patience))),
            }
        }
    }

    fn received(&self, reading: &mut BodyRead, chunk: Bytes) -> Result<()> {
        add(&self.metrics.bytes_received, chunk.len() as u64);
        add(&self.metrics.bytes_copied, reading.push(chunk)? as u64);
        Ok(())
    }

    /// As [`read_on`](Self::read_on), but where nothing comes for longer than usual, what is missing is asked for a second
    /// time. Whichever request brings bytes first goes on, and the other is dropped; so both miss the same bytes as long
    /// as there are two.
    async fn race(&self, call: &ClientCall<'_>, reading: &mut BodyRead, hedging: &Hedging) -> Result<()> {
        count(&self.metrics.get);
        hedging.asked();
        let asked = Instant::now();
        let mut first = self.ask(reading, call.attempt.clone());
        let mut second: Option<HedgeAnswer> = None;
        // Since when nothing has come, and whether the second request for that is still to be thought of.
        let (mut quiet, mut patient) = (asked, true);
        let (mut answered, mut begun) = (false, false);
        let mut patience = call.patience();
        let mut deadline = asked + patience;
        loop {
            let full = answered && reading.received() == reading.size;
            let nudge = hedging.patience().filter(|_| patient && !full).map_or(deadline, |wait| quiet + wait);
            let (of_second, part) = tokio::select! {
                biased;
                part = first.next() => (false, part),
                part = next_of(&mut second) => (true, part),
                () = sleep_until(nudge.min(deadline)) => {
                    if full {
                        return Ok(());
                    }
                    if nudge >= deadline {
                        return Err(reading.timed_out(call.silence(patience)));
                    }
                    patient = false;
                    if hedging.may_ask_again() {
                        count(&self.metrics.get);
                        count(&self.metrics.hedged);
                        second = Some(self.ask(reading, Attempt::first()));
                    }
                    continue;
                }
            };
            let mut moved = true;
            let outcome = match part {
                Some(Ok(HedgePart::Answer(body))) => {
                    answered = true;
                    reading.check(body).map(|chunks| {
                        let _ = call.answered(Ok(()));
                        let chunks = chunks.map(|chunk| chunk.map(HedgePart::Bytes)).boxed();
                        if of_second { second = Some(chunks) } else { first = chunks }
                    })
                }
                Some(Ok(HedgePart::Bytes(chunk))) => {
                    if let Some(second) = second.take()
                        && of_second
                    {
                        count(&self.metrics.hedges_won);
                        first = second;
                    }
                    if !begun {
                        begun = true;
                        hedging.waited(asked.elapsed());
                    }
                    self.received(reading, chunk)?;
                    (quiet, patient) = (Instant::now(), true);
                    Ok(())
                }
                _ if full => return Ok(()),
                Some(Err(error)) => Err(error),
                None => Err(reading.ended()),
            };
            if let Err(error) = outcome {
                moved = false;
                match (of_second, second.take()) {
                    // The other one may still bring it.
                    (true, _) => {}
                    (false, Some(other)) => {
                        count(&self.metrics.hedges_won);
                        first = other;
                    }
                    (false, None) => return Err(error),
                }
            }
            if moved {
                let full = answered && reading.received() == reading.size;
                patience = if full { call.patience().min(END_MARK) } else { call.patience() };
                deadline = Instant::now() + patience;
            }
        }
    }

    /// A request for what is missing, which makes its call when it is polled.
    fn ask(&self, reading: &BodyRead, attempt: Attempt) -> HedgeAnswer {
        let (store, id, missing) = (Arc::clone(&self.store), reading.id.clone(), reading.missing());
        stream::once(async move { store.get(&id, missing, &attempt).await.map(HedgePart::Answer) }).boxed()
    }

    /// The error for a generation that is gone; asks once what is there instead.
    async fn changed(&self, id: &ObjectId, wanted: i64, cause: Error) -> Error {
        let call = ClientCall::new(self, true, 0);
        let live = ObjectId { generation: None, ..id.clone() };
        count(&self.metrics.stat);
        let now = match call.within(self.store.stat(&live, &call.attempt)).await {
            // It is there: then something else answered "not found", and only the cause tells what.
            Ok(meta) if meta.generation == wanted => return cause,
            Ok(meta) => format!("generation {}", meta.generation),
            Err(error) if error.is_not_found() => "nothing: it was deleted".to_owned(),
            Err(_) => "no such generation".to_owned(),
        };
        let error = Error::new(ErrorKind::Changed, "the object was overwritten or deleted after it was listed")
            .object(id)
            .mismatch(format!("generation {wanted}"), now)
            .hint("list the prefix again, and keep writers off it while it is read");
        match cause.http_status() {
            Some(status) => error.status(status).with_source(cause),
            None => error.with_source(cause),
        }
    }

    /// Joins objects on the server into a new one.
    ///
    /// A compose whose answer was lost is found out on the retry, and its result adopted if length and CRC are right.
    ///
    /// # Errors
    /// [`Precondition`](ErrorKind::Precondition) when something else has the destination's name,
    /// [`NotFound`](ErrorKind::NotFound) when a source is gone, [`Integrity`](ErrorKind::Integrity) when the result
    /// isn't what was asked for (**then it exists and is the caller's to delete**, as after any error that leaves it
    /// open), [`PermissionDenied`](ErrorKind::PermissionDenied) for a read-only caller.
    pub async fn compose(&self, request: &ComposeRequest) -> Result<ObjectMeta> {
        let id = ObjectId::new(request.bucket.clone(), request.destination.clone(), None);
        let mut call = ClientCall::new(self, true, 0).refusals(&self.metrics.write_refused);
        let outcome: Result<_> = async {
            loop {
                count(&self.metrics.compose);
                match call.answered(call.within(self.store.compose(request, &call.attempt)).await) {
                    Ok(meta) => {
                        add(&self.metrics.bytes_composed, meta.size);
                        return same(&id, meta, request.size, request.crc32c);
                    }
                    Err(error) if call.may_be_own(&error) => {
                        let adopted = self.adopt(&id, request.size, request.crc32c, error).await?;
                        add(&self.metrics.bytes_composed, adopted.size);
                        return Ok(adopted);
                    }
                    Err(error) => call.recover(error, &id).await?,
                }
            }
        }
        .await;
        call.end(outcome)
    }

    /// Writes a whole object. Made again after a failure only with
    /// [`if_generation_match`](PutRequest::if_generation_match), since without it a late try could overwrite what
    /// another writer put there in between.
    ///
    /// # Errors
    /// [`Precondition`](ErrorKind::Precondition) when another generation is live than the one named, and whatever the
    /// policy gave up on.
    pub async fn put(&self, request: &PutRequest) -> Result<ObjectMeta> {
        let id = ObjectId::new(request.bucket.clone(), request.name.clone(), None);
        let (size, crc) = (request.data.len() as u64, crc32c::crc32c(&request.data));
        let mut call =
            ClientCall::new(self, request.if_generation_match.is_some(), size).refusals(&self.metrics.write_refused);
        // No sign of life comes before the last byte went.
        call.head = call.head.saturating_add(transfer(size));
        let outcome: Result<_> = async {
            loop {
                count(&self.metrics.put);
                add(&self.metrics.bytes_sent, size);
                match call.within(self.store.put(request, &call.attempt)).await {
                    Ok(meta) => return same(&id, meta, size, crc),
                    Err(error) if call.may_be_own(&error) => return self.adopt(&id, size, crc, error).await,
                    Err(error) => call.recover(error, &id).await?,
                }
            }
        }
        .await;
        call.end(outcome)
    }

    /// Takes what has the destination's name for the result of an earlier try, if it can be.
    async fn adopt(&self, id: &ObjectId, size: u64, crc: u32, refusal: Error) -> Result<ObjectMeta> {
        let found = self.stat(id).await?;
        if found.size == size && found.crc32c.is_none_or(|told| told == crc) {
            debug!(object = %id, generation = found.generation, "adopted the result of a try whose answer was lost");
            return Ok(found);
        }
        Err(refusal
            .object(id)
            .mismatch(SizeAndCrc(size, Some(crc)), SizeAndCrc(found.size, found.crc32c))
            .hint("another writer uses this name: choose another"))
    }

    /// Sets key-value pairs of an object, the generation named or whatever has the name; pairs of other keys stay. The
    /// call may be made more than once.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when the object, or the generation named, isn't there,
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) without the right to update it, and whatever the policy gave up
    /// on.
    pub async fn update_metadata(&self, id: &ObjectId, metadata: &BTreeMap<String, String>) -> Result<ObjectMeta> {
        let mut call = ClientCall::new(self, true, 0);
        let outcome: Result<_> = async {
            loop {
                count(&self.metrics.update);
                match call.within(self.store.update_metadata(id, metadata, &call.attempt)).await {
                    Ok(meta) => return Ok(meta),
                    Err(error) => call.recover(error, id).await?,
                }
            }
        }
        .await;
        call.end(outcome)
    }

    /// Removes an object: the generation named, or whatever has the name, which then must be one that nobody else
    /// writes to, since the call may be made more than once.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when it was not there on the first try; on a later one that is success where a
    /// generation was named. Without one it may have been deleted by an earlier try, or never have been there.
    pub async fn delete(&self, id: &ObjectId) -> Result<()> {
        let mut call = ClientCall::new(self, true, 0).refusals(&self.metrics.write_refused);
        let outcome: Result<_> = async {
            loop {
                count(&self.metrics.delete);
                match call.within(self.store.delete(id, &call.attempt)).await {
                    Ok(()) => return Ok(()),
                    Err(error) if error.is_not_found() && call.attempt.number > 1 && id.generation.is_some() => {
                        return Ok(());
                    }
                    Err(error) => call.recover(error, id).await?,
                }
            }
        }
        .await;
        call.end(outcome)
    }
}

/// What comes of one of two requests.
enum HedgePart {
    Answer(Body),
    Bytes(Bytes),
}

type HedgeAnswer = BoxStream<'static, Result<HedgePart>>;

async fn next_of(asked: &mut Option<HedgeAnswer>) -> Option<Result<HedgePart>> {
    match asked {
        Some(asked) => asked.next().await,
        None => future::pending().await,
    }
}

/// Longest that so many bytes may take.
pub(super) fn transfer(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// One call: its tries and its time.
struct ClientCall<'a> {
    client: &'a Client,
    attempt: Attempt,
    idempotent: bool,
    /// Failed tries since the last progress, the present one included.
    tries: u32,
    /// Whether an earlier try may have done what the call asks for, though it failed.
    left_open: bool,
    /// Tries whose token was refused.
    refusals: u32,
    started: Instant,
    /// Longest time in all; zero for one try only.
    limit: Duration,
    /// What was added to `limit` for time in this program's own queue.
    given_back: Duration,
    /// Longest time of the first try, which has some even where nothing is to be retried.
    first: Duration,
    /// Longest wait for the head of an answer.
    head: Duration,
    /// Longest wait for the next bytes of a body.
    stall: Duration,
    /// When the present try began.
    tried: Instant,
    /// Where refusals of the first try are counted.
    refused: Option<&'a Counter>,
}

impl<'a> ClientCall<'a> {
    /// A call that moves `bytes` of an object.
    fn new(client: &'a Client, idempotent: bool, bytes: u64) -> Self {
        let deadline = client.retry.deadline;
        if client.repeats {
            count(&client.metrics.retries);
        }
        Self {
            client,
            attempt: Attempt::first(),
            idempotent,
            tries: 1,
            left_open: false,
            refusals: 0,
            started: Instant::now(),
            limit: if deadline.is_zero() { deadline } else { deadline.saturating_add(transfer(bytes)) },
            given_back: Duration::ZERO,
            first: deadline.max(client.stall).saturating_add(transfer(bytes)),
            head: client.stall,
            stall: client.stall,
            tried: Instant::now(),
            refused: None,
        }
    }

    /// Counts a refusal of the first try there.
    fn refusals(mut self, counter: &'a Counter) -> Self {
        self.refused = Some(counter);
        self
    }

    /// Waits this long for an answer and for the next bytes.
    fn stalled_after(mut self, wait: Duration) -> Self {
        (self.head, self.stall) = (wait, wait);
        self
    }

    /// After a try that brought nothing: the service may be slow and not dead, and then none must end where that did.
    fn wait_longer(&mut self) {
        self.stall = self.stall.saturating_mul(2);
        self.head = self.head.saturating_mul(2);
    }

    /// What nothing came for, where `patience` is over.
    fn silence(&self, patience: Duration) -> String {
        if patience < self.stall {
            format!("the body was not there after {:.1?}", self.started.elapsed())
        } else {
            format!("no bytes for {patience:.1?}")
        }
    }

    /// Tells who watches how long the answer took.
    fn answered<T>(&self, answer: Result<T>) -> Result<T> {
        if answer.is_ok() {
            self.client.reach.record_answer();
            if let Some(watch) = &self.client.watch {
                watch.answered(self.tried.elapsed());
            }
        }
        answer
    }

    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }

    /// Longest wait for the next bytes: none ends after the call's time, however slowly a body drips.
    fn patience(&self) -> Duration {
        let limit = if self.attempt.number == 1 { self.first } else { self.limit };
        self.stall.min(limit.saturating_sub(self.started.elapsed()))
    }

    /// One try, within its time.
    async fn within<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        let patience = if self.attempt.number == 1 { self.head } else { self.head.min(self.left()) };
        let mut attempt = std::pin::pin!(attempt);
        let mut answer = timeout(patience.min(SILENCE), &mut attempt).await;
        if answer.is_err() && patience > SILENCE {
            let left = patience.saturating_sub(SILENCE);
            self.client.reach.warn_of_silence(self.client.host(), left);
            answer = timeout(left, attempt).await;
        }
        let answer =
            answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, format!("no answer for {patience:.1?}"))));
        if answer.as_ref().map_or_else(|error| error.http_status().is_some(), |_| true) {
            self.client.reach.record_answer();
        }
        answer
    }

    /// Whether an earlier try of this call may be what the precondition met.
    fn may_be_own(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::Precondition && self.attempt.number > 1
    }

    /// Something was gained: the back-off begins anew.
    fn progress(&mut self) {
        self.tries = 1;
    }

    /// Waits until the next try, or returns the error.
    async fn recover(&mut self, error: Error, about: &(dyn fmt::Display + Sync)) -> Result<()> {
        let error = error.object(about);
        if error.asks_for_fewer_calls() {
            let first = self.attempt.number == 1;
            if let Some(refused) = self.refused.filter(|_| first) {
                count(refused);
            }
            if let Some(watch) = &self.client.watch {
                watch.refused(first);
            }
        }
        let failure = Failure::of(&error, self.idempotent);
        self.refusals += u32::from(failure.token_refused);
        match self.client.retry.decide(&failure, self.tries, self.refusals, self.left(), rand::random()) {
            Decision::Wait(wait) if !self.client.reach.is_hopeless(&error, self.started.elapsed() + wait) => {
                if self.started.elapsed() + wait >= SILENCE {
                    let (elapsed, left) = (self.started.elapsed(), self.left());
                    self.client.reach.warn_of_retries(self.client.host(), &error, elapsed, left);
                }
                debug!(%error, ?wait, attempt = self.attempt.number, "trying again");
                let Some(queued) = self.client.wait_to_try_again(wait).await else { return Err(error) };
                // The queue for the next try is this program's own, so it takes nothing from the call's time. But it is
                // long where the service refuses much, and a service that stays down must become an error.
                let back = queued.min(self.client.retry.deadline.saturating_sub(self.given_back));
                self.given_back += back;
                self.limit = self.limit.saturating_add(back);
                if self.left().is_zero() {
                    return Err(error);
                }
                self.left_open |= !error.is_refusal();
                self.attempt = self.attempt.next();
                self.tried = Instant::now();
                self.tries += 1;
                count(&self.client.metrics.retries);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Hands over the outcome of the call. Every error of a call leaves through here, so that each reports how many
    /// tries there were, and whether one of them may have done what was asked for.
    fn end<T>(&self, outcome: Result<T>) -> Result<T> {
        let tries = self.attempt.number;
        outcome.map_err(|error| {
            if tries == 1 {
                return error;
            }
            // A precondition that fails after the first try may have met the result of an earlier one.
            let left_open = self.left_open || error.kind() == ErrorKind::Precondition;
            // The look-up for an adoption may have said so of its own tries.
            let error = if error.tries() == 1 {
                error.append(&format!(", on try {tries} after {:.1?}", self.started.elapsed()))
            } else {
                error
            };
            error.tried(tries).with_left_open(left_open)
        })
    }
}

/// The object written, if it is what was to be written.
fn same(id: &ObjectId, meta: ObjectMeta, size: u64, crc: u32) -> Result<ObjectMeta> {
    if meta.size == size && meta.crc32c.is_none_or(|told| told == crc) {
        return Ok(meta);
    }
    Err(Error::new(ErrorKind::Integrity, "the object written is not what was to be written")
        .object(ObjectId { generation: Some(meta.generation), ..id.clone() })
        .mismatch(SizeAndCrc(size, Some(crc)), SizeAndCrc(meta.size, meta.crc32c))
        .hint("a source changed after it was listed, or bytes changed on the way: delete the object, list again"))
}

struct BucketUri<'a>(&'a str);

impl fmt::Display for BucketUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}", self.0)
    }
}

/// Length and CRC.
struct SizeAndCrc(u64, Option<u32>);

impl fmt::Display for SizeAndCrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(size, crc) = self;
        write!(f, "{}", Amount(*size))?;
        crc.map_or(Ok(()), |crc| write!(f, " of crc32c {crc:08x}"))
    }
}
