//! [`Client`]: a [`Store`] with retries, resumed reads and counts.
//!
//! `call` has the attempts of a call, `local` the reads of files of this machine, `query` the calls that ask for
//! facts, `read` and `stream` those that return
//! bytes, and `write` those that change something.

mod call;
mod local;
mod query;
mod read;
mod stream;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::buffers::Buffers;
use super::hedge::{Hedge, Hedging};
use super::reach::Reach;
use super::{Capabilities, RetryPolicy, Scheme, Store, Version};
use crate::metrics::{Counter, Metrics, add};
use crate::observe::{Event, EventKind, Events, Observer, Subscription};
use crate::{Error, ErrorKind, Result};

pub(crate) use stream::RangeStream;

/// Longest wait for the head of an answer, or for the next bytes of a body. The service answers within seconds or not
/// at all. A shorter wait would cut off slow composes; a longer one would hold a batch for a dead connection.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// Slowest transfer that is still waited for, in bytes a second: 64 streams that share 4 MiB/s. A read or an upload may
/// take the policy's deadline plus the time for its size at this rate, so that a large one on a slow line isn't cut off
/// while it makes progress.
const SLOWEST: u64 = 64 << 10;

/// Longest time that so many bytes may take.
pub(super) fn transfer_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// The bytes of an object, or of a range of it: all of them, and from one version.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Payload {
    /// The bytes as stored. Their number is what was asked for; only a CRC can show whether they are right.
    pub bytes: Bytes,
    /// The version of the object.
    pub version: Version,
    /// Stored length of the whole object in bytes; `None` where the service doesn't report it.
    pub stored_size: Option<u64>,
    /// CRC of the whole stored object as the service reports it, not computed from `bytes`.
    pub crc32c: Option<u32>,
    /// CRC of `bytes`, computed while they arrived.
    pub computed: u32,
}

/// Learns how calls fare while they are under way, and decides when one may be retried.
pub(crate) trait CallPacer: fmt::Debug + Send + Sync {
    /// The service refused an attempt, the first one or a later one, because there are too many calls (429) or because
    /// it could not serve this one for now (503).
    fn refused(&self, first: bool);

    /// The service began to answer, `wait` after the attempt began.
    fn answered(&self, wait: Duration);

    /// Waits for `wait`, then until the call may be made again. Returns the time that the second wait took.
    fn again(self: Arc<Self>, wait: Duration) -> BoxFuture<'static, Duration>;
}

/// A [`Store`] with retries, resumed reads and counts: what the rest of the crate reads and writes through.
///
/// Clones share the store and the counts.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// use std::sync::Arc;
/// use dataflux::store::{Client, MemoryStore, ObjectId};
///
/// let store = MemoryStore::new().with_bucket("cats");
/// let version = store.insert("cats", "tom.txt", "meow");
/// let client = Client::new(Arc::new(store));
/// let payload = client.read(&ObjectId::new("cats", "tom.txt", version), None, 4).await?;
/// assert_eq!(&payload.bytes[..], b"meow");
/// assert_eq!(client.metrics().snapshot().get, 1);
/// # Ok::<_, dataflux::Error>(()) })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    events: Events,
    retry: RetryPolicy,
    stall: Duration,
    read_stall: Duration,
    buffers: Arc<Buffers>,
    hedging: Option<Arc<Hedging>>,
    pacer: Option<Arc<dyn CallPacer>>,
    reach: Arc<Reach>,
    /// Whether bytes are hashed while they arrive.
    hashes: bool,
    /// Whether the first attempt of a call counts as a retry of an earlier call that failed.
    repeats: bool,
    /// Becomes true once nobody wants the results any more.
    cancelled: Option<watch::Receiver<bool>>,
}

impl Client {
    /// A client of `store` with the default [`RetryPolicy`] and a stall timeout of 30 s.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            metrics: Arc::default(),
            events: Events::default(),
            retry: RetryPolicy::default(),
            stall: STALL,
            read_stall: STALL,
            buffers: Arc::default(),
            hedging: None,
            pacer: None,
            reach: Arc::default(),
            hashes: true,
            repeats: false,
            cancelled: None,
        }
    }

    /// Sets how failed calls are retried.
    #[must_use]
    pub fn with_retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets the longest wait for the head of an answer and for the next bytes of a body. For one read it doubles after
    /// each attempt that it ended.
    #[must_use]
    pub fn with_stall_timeout(mut self, wait: Duration) -> Self {
        (self.stall, self.read_stall) = (wait, wait);
        self
    }

    /// Sets the stall timeout of reads alone, which are answered sooner than a compose. Without `wait` it is at most
    /// `most`.
    pub(crate) fn with_read_stall(mut self, wait: Option<Duration>, most: Duration) -> Self {
        self.read_stall = wait.unwrap_or(self.read_stall.min(most));
        self
    }

    /// Sends a second request for what a read misses where nothing arrives for longer than usual. Clones share what
    /// they learn about usual waits. Large objects that are read in ranges get no second requests, since their other
    /// streams continue meanwhile.
    #[must_use]
    pub fn with_hedge(mut self, hedge: Hedge) -> Self {
        self.hedging = Some(Arc::new(Hedging::new(hedge)));
        self
    }

    /// Has `observer` get the events of these `kinds`, of this client and all that is made from it: calls, listings,
    /// data sets and the epochs of their loaders. Its thread ends after all of these were dropped.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use dataflux::store::{Client, MemoryStore};
    /// use dataflux::{DatafluxDataset, Event, EventKind};
    ///
    /// let store = MemoryStore::new();
    /// (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
    /// let client = Client::new(Arc::new(store)).observe([EventKind::PageListed], |event: &Event| {
    ///     if let Event::PageListed { objects, took, .. } = event {
    ///         println!("{objects} objects in {took:.1?}");
    ///     }
    /// })?;
    /// let dataset = DatafluxDataset::open_with(client, "gs://my-bucket/train/")?;
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn observe(self, kinds: impl IntoIterator<Item = EventKind>, observer: impl Observer) -> Result<Self> {
        let (events, _) = self.events.subscribe(Subscription::new(kinds, observer))?;
        Ok(Self { events, ..self })
    }

    /// The same client, counts included, which sends its events to the observers of `events`.
    pub(crate) fn with_events(&self, events: Events) -> Self {
        Self { events, ..self.clone() }
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

    /// The same client with counts of its own, which are added to those of this client, too.
    pub(crate) fn with_own_counts(&self) -> Self {
        Self { metrics: Arc::new(self.metrics.part()), ..self.clone() }
    }

    /// The same client, whose calls `pacer` paces.
    pub(crate) fn with_pacer(&self, pacer: Arc<dyn CallPacer>) -> Self {
        Self { pacer: Some(pacer), ..self.clone() }
    }

    /// The same client for calls that are an optional speed-up: see [`RetryPolicy::for_optional_calls`].
    pub(crate) fn for_optional_calls(&self) -> Self {
        Self { retry: self.retry.for_optional_calls(), ..self.clone() }
    }

    /// The same client without computing [`Payload::computed`]: for callers that prove parts of what they read.
    pub(crate) fn without_hashing(&self) -> Self {
        Self { hashes: false, ..self.clone() }
    }

    /// The same client for calls that repeat others which failed or brought wrong bytes: their first attempts count as
    /// [retries](crate::metrics::Counts::retries), too.
    pub(crate) fn repeating(&self) -> Self {
        Self { repeats: true, ..self.clone() }
    }

    /// The same client, which gives a failed call up instead of retrying it once `cancelled` holds true: nobody wants
    /// its result any more. The attempt under way is not cut off.
    pub(crate) fn with_cancellation(&self, cancelled: watch::Receiver<bool>) -> Self {
        Self { cancelled: Some(cancelled), ..self.clone() }
    }

    /// How long a call may take in all, without the time that its bytes add.
    pub(crate) fn deadline(&self) -> Duration {
        self.retry.deadline
    }

    /// Longest wait for the next bytes.
    pub(crate) fn stall_timeout(&self) -> Duration {
        self.stall
    }

    /// The scheme of the store's URIs.
    pub(crate) fn scheme(&self) -> Scheme {
        self.store.scheme()
    }

    /// Checks that a URI of this `scheme` is in the store of this client, whose bucket of the same name may be another.
    pub(crate) fn check_scheme(&self, scheme: Scheme, uri: &dyn fmt::Display) -> Result<()> {
        let own = self.scheme();
        if scheme == own {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Config, "the client is of another kind of store than this URI")
            .object(uri)
            .mismatch(format_args!("{}://", own.as_str()), format_args!("{}://", scheme.as_str())))
    }

    /// What the store can do.
    pub fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    /// Adds `n` to a counter, and sends the event that is counted.
    fn record(&self, counter: &Counter, n: u64, kind: EventKind, event: impl FnOnce() -> Event) {
        add(counter, n);
        self.events.send(kind, event);
    }

    /// The observers of this client and its clones.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// The counts of the calls made through this client and its clones.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}
