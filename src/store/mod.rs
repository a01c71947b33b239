//! Objects in buckets: the [`Store`] trait for single calls, and the [`Client`] that everything else goes through.
//!
//! A [`Store`] makes exactly one attempt per call and has no policy. What only some stores can do, they declare as
//! [`Capabilities`]. A [`Client`] adds what every caller needs: retries with full jitter, resumed reads, adoption of a
//! write whose answer was lost, and counts of calls.

mod attributes;
mod buffers;
mod capabilities;
mod client;
mod faults;
mod file;
pub mod gcs;
mod hedge;
mod memory;
mod objects;
mod open;
mod reach;
mod reading;
mod retry;
mod uri;
mod version;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::Result;
use capabilities::unsupported;

pub use attributes::{ContentEncoding, StorageClass};
pub(crate) use buffers::Buffers;
pub use capabilities::Capabilities;
pub(crate) use client::{CallPacer, RangeStream};
pub use client::{Client, Payload};
pub use faults::{Fault, FaultStore, RecordedGet, StoreCall};
pub use file::FileStore;
pub use gcs::{Credentials, GcsConfig, GcsStore, Token, TokenSource};
pub use hedge::Hedge;
pub use memory::MemoryStore;
pub use objects::{Details, ObjectMeta, ObjectRef, Objects};
pub use retry::RetryPolicy;
#[cfg(test)]
pub(crate) use retry::{Decision, Failure};
pub(crate) use uri::{BucketUri, ObjectUri};
pub use uri::{Scheme, StoreUri};
pub use version::Version;

/// The most sources that one compose call takes.
pub const MAX_SOURCES: usize = 32;

/// An object: its bucket, its name **and its version**.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// The kind of store, which URIs show.
    pub scheme: Scheme,
    /// The bucket, without `gs://`.
    pub bucket: Arc<str>,
    /// 1 to 1,024 bytes of UTF-8 without CR and LF.
    pub name: Arc<str>,
    /// The version; [`Version::None`] is whichever is live.
    pub version: Version,
}

impl ObjectId {
    /// The object `name` of `bucket` at `version`, in Google Cloud Storage.
    pub fn new(bucket: impl Into<Arc<str>>, name: impl Into<Arc<str>>, version: impl Into<Version>) -> Self {
        Self { scheme: Scheme::Gs, bucket: bucket.into(), name: name.into(), version: version.into() }
    }

    /// The live object `name` of `bucket`, whichever version that is.
    pub fn live(bucket: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self::new(bucket, name, Version::None)
    }

    /// The same object in another kind of store.
    #[must_use]
    pub fn with_scheme(self, scheme: Scheme) -> Self {
        Self { scheme, ..self }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ObjectUri { scheme: self.scheme, bucket: &self.bucket, name: &self.name })?;
        match &self.version {
            Version::None => Ok(()),
            Version::Generation(generation) => write!(f, "#{generation}"),
            Version::Etag(tag) => write!(f, "#{tag}"),
        }
    }
}

/// Which facts a listing returns about each object. The fewer are asked for, the less is sent, parsed and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fields {
    /// What a sample needs: name, size, version, CRC, class, and whether it is encoded.
    #[default]
    Sample,
    /// [`updated`](ObjectRef::updated) too.
    Times,
    /// [`Details`] too.
    All,
}

/// A request for one page of a listing. Servers may ignore any field.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListRequest {
    /// The bucket.
    pub bucket: Arc<str>,
    /// Only names that begin with this; empty for all.
    pub prefix: String,
    /// Names that contain this after the prefix are rolled up into [`ListPage::prefixes`].
    pub delimiter: Option<String>,
    /// First name wanted, inclusive.
    pub start_offset: Option<String>,
    /// First name no longer wanted.
    pub end_offset: Option<String>,
    /// Maximum number of items in the page; `None` leaves it to the server.
    pub page_size: Option<u32>,
    /// The token of the page before.
    pub page_token: Option<String>,
    /// Which facts to return about each object.
    pub fields: Fields,
}

impl ListRequest {
    /// The first page of the names of `bucket` that begin with `prefix`.
    pub fn new(bucket: impl Into<Arc<str>>, prefix: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), prefix: prefix.into(), ..Self::default() }
    }
}

/// One page of a listing. A page may be empty and have a token; only a missing token ends a listing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListPage {
    /// Objects in the server's order.
    pub objects: Objects,
    /// Names rolled up by the delimiter.
    pub prefixes: Vec<String>,
    /// The token of the next page.
    pub next_page_token: Option<String>,
    /// When the server answered, by its own clock, to the second; `None` where it doesn't report that.
    pub date: Option<SystemTime>,
}

/// Facts about a bucket that decide how it is read. `None` is an unknown fact: the store has no such fact, or the
/// caller lacks `storage.buckets.get`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketInfo {
    /// The location, such as `US-CENTRAL1`.
    pub location: Option<String>,
    /// `region`, `dual-region` or `multi-region`.
    pub location_type: Option<String>,
    /// Class of objects that are written without naming one.
    pub storage_class: StorageClass,
    /// How long deleted objects are kept and billed; zero when soft delete is off.
    pub soft_delete: Option<Duration>,
    /// How long objects can't be deleted; zero when there is no retention policy.
    pub retention: Option<Duration>,
    /// Whether new objects are held by default, and so can't be deleted.
    pub default_hold: bool,
    /// Whether the bucket has real folders.
    pub hierarchical_namespace: bool,
    /// Whether calls and bytes cost nothing, as those for files of this machine.
    pub free: bool,
}

impl BucketInfo {
    /// Whether written objects are copied to another region.
    pub(crate) fn replicates(&self) -> bool {
        matches!(self.location_type.as_deref(), Some("dual-region" | "multi-region"))
    }
}

/// A request to join sources, in order, into one new object of the same bucket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ComposeRequest {
    /// The bucket of sources and destination.
    pub bucket: Arc<str>,
    /// A name that no object has yet: the call is conditional on that.
    pub destination: Arc<str>,
    /// Name and version of 1 to 32 sources.
    pub sources: Vec<(Arc<str>, Version)>,
    /// Length that the result must have, in bytes.
    pub size: u64,
    /// CRC that the result must have; the server checks it.
    pub crc32c: u32,
    /// Key-value pairs of the result.
    pub metadata: BTreeMap<String, String>,
    /// `customTime` of the result, for lifecycle rules.
    pub custom_time: SystemTime,
}

impl ComposeRequest {
    /// A request to make `destination` from `sources`, which together have `size` bytes with the CRC `crc32c`.
    pub fn new(
        bucket: Arc<str>,
        destination: Arc<str>,
        sources: Vec<(Arc<str>, Version)>,
        size: u64,
        crc32c: u32,
        custom_time: SystemTime,
    ) -> Self {
        Self { bucket, destination, sources, size, crc32c, metadata: BTreeMap::new(), custom_time }
    }
}

/// Which live object a write may replace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// Any, or none.
    #[default]
    Overwrite,
    /// None: the write fails with [`Precondition`](crate::ErrorKind::Precondition) if the name has an object.
    Create,
    /// This version: the write fails with [`Precondition`](crate::ErrorKind::Precondition) if another one is live.
    Update(Version),
}

/// A request to write one whole object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PutRequest {
    /// The bucket.
    pub bucket: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The bytes. Their CRC is sent, too, and the server checks it.
    pub data: Bytes,
    /// What the write may replace.
    pub mode: WriteMode,
    /// `Content-Type`; `application/octet-stream` by default.
    pub content_type: Option<String>,
    /// `Content-Encoding` of the bytes.
    pub content_encoding: Option<String>,
    /// Class, if it differs from the bucket's.
    pub storage_class: Option<StorageClass>,
    /// Key-value pairs.
    pub metadata: BTreeMap<String, String>,
}

impl PutRequest {
    /// A request to write `data` to `name`, whatever has that name now.
    pub fn new(bucket: impl Into<Arc<str>>, name: impl Into<Arc<str>>, data: impl Into<Bytes>) -> Self {
        Self {
            bucket: bucket.into(),
            name: name.into(),
            data: data.into(),
            mode: WriteMode::Overwrite,
            content_type: None,
            content_encoding: None,
            storage_class: None,
            metadata: BTreeMap::new(),
        }
    }
}

/// A request to copy an object on the server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyRequest {
    /// The object to copy; without a version, whichever is live.
    pub source: ObjectId,
    /// The bucket to copy into.
    pub bucket: Arc<str>,
    /// The name of the copy.
    pub name: Arc<str>,
    /// What the copy may replace.
    pub mode: WriteMode,
}

impl CopyRequest {
    /// A request to copy `source` to `name` in `bucket`, whatever has that name now.
    pub fn new(source: ObjectId, bucket: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { source, bucket: bucket.into(), name: name.into(), mode: WriteMode::Overwrite }
    }
}

/// How far one call of a copy has come.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CopyProgress {
    /// The copy exists, and this is its description.
    Done(ObjectMeta),
    /// The copy isn't complete, and another call continues it.
    Unfinished {
        /// What the next call is made with.
        continuation: String,
        /// Bytes that are copied so far.
        copied: u64,
    },
}

/// Which bytes of an object a read is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ByteRange {
    /// All bytes.
    #[default]
    All,
    /// From the start of the range, inclusive, to its end, exclusive; counted from 0 and not empty.
    Bounded(Range<u64>),
    /// The last so many bytes, or all of them if the object has fewer; not 0.
    Suffix(u64),
}

impl ByteRange {
    /// Start and end, if this is a bounded range.
    pub fn bounds(&self) -> Option<Range<u64>> {
        match self {
            Self::Bounded(range) => Some(range.clone()),
            Self::All | Self::Suffix(_) => None,
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all bytes"),
            Self::Bounded(Range { start, end }) => write!(f, "bytes {start}..{end}"),
            Self::Suffix(length) => write!(f, "the last {length} bytes"),
        }
    }
}

impl From<Range<u64>> for ByteRange {
    fn from(range: Range<u64>) -> Self {
        Self::Bounded(range)
    }
}

impl From<Option<Range<u64>>> for ByteRange {
    fn from(range: Option<Range<u64>>) -> Self {
        range.map_or(Self::All, Self::Bounded)
    }
}

/// The bytes of an object, or of a range of it, as a stream.
pub struct Body {
    /// The version that is being read.
    pub version: Version,
    /// Stored length of the *whole* object in bytes, if reported.
    pub stored_size: Option<u64>,
    /// CRC of the *whole* stored object, if reported.
    pub crc32c: Option<u32>,
    /// The bytes. The stream ends where the body ended, which may be before the end of the requested range.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Which attempt of which call this is. It is sent in headers, by which the service recognizes repeated calls.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Identifies the call; the same for all its attempts.
    pub call: u128,
    /// 1 for the first attempt.
    pub number: u32,
}

impl Attempt {
    /// The first attempt of a new call.
    pub fn first() -> Self {
        Self { call: rand::random(), number: 1 }
    }

    /// The next attempt of the same call.
    #[must_use]
    pub fn next(self) -> Self {
        Self { call: self.call, number: self.number + 1 }
    }
}

/// Reads that block the calling thread, of a store whose objects are files of this machine. They take microseconds
/// where a file is in memory, so small objects of a data set are read by these instead of by [`Store::get`]. They
/// aren't retried, hedged or cached. A store that wraps another one to see or change its calls leaves them out.
pub trait LocalReads: Send + Sync {
    /// Fills `bytes` with those of an object: with all of them, or with those from `start` on.
    ///
    /// # Errors
    /// [`Changed`](crate::ErrorKind::Changed) if the version is gone, [`Integrity`](crate::ErrorKind::Integrity) if the
    /// object has another length, or ends before the last of these bytes.
    fn read(&self, id: &ObjectId, start: Option<u64>, bytes: &mut [u8]) -> Result<()>;
}

/// Object storage, one attempt per call: no retry, no cache, no policy. The kind of an error says whether another
/// attempt can help.
///
/// Every store can list, look up, read, write, copy and delete objects. A store declares in
/// [`capabilities`](Self::capabilities) what else it can do; the methods for that have a default that fails with
/// [`Unsupported`](crate::ErrorKind::Unsupported).
///
/// # Cancel safety
/// Dropping the future of a read leaves nothing behind. Dropping that of a write leaves open whether it happened.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The same store with connections of its own, if it has connections: they live and die with the runtime that
    /// opened them, so two runtimes should share none.
    fn reconnected(&self) -> Option<Result<Arc<dyn Store>>> {
        None
    }

    /// The scheme of the URIs of this store's objects.
    fn scheme(&self) -> Scheme {
        Scheme::Gs
    }

    /// The address of the service, such as `https://storage.googleapis.com`, for messages; `None` if nothing is remote.
    fn endpoint(&self) -> Option<&str> {
        None
    }

    /// The reads of a store whose objects are files of this machine.
    fn local(&self) -> Option<&dyn LocalReads> {
        None
    }

    /// What this store can do besides its required methods. The answer never changes.
    fn capabilities(&self) -> Capabilities;

    /// One page of names.
    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage>;

    /// The facts about one object. A version that is gone is [`ErrorKind::NotFound`](crate::ErrorKind::NotFound).
    async fn stat(&self, id: &ObjectId, attempt: &Attempt) -> Result<ObjectMeta>;

    /// The stored bytes of an object, or those of a range of it. Never decompresses.
    async fn get(&self, id: &ObjectId, range: ByteRange, attempt: &Attempt) -> Result<Body>;

    /// Writes a whole object.
    async fn put(&self, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta>;

    /// Copies an object on the server, with its metadata, or a part of it where copying takes long: further calls with
    /// the `continuation` of the answer before complete the copy. The copy has the storage class of its bucket. When
    /// the source is missing, [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) names the source.
    async fn copy(&self, request: &CopyRequest, continuation: Option<&str>, attempt: &Attempt) -> Result<CopyProgress>;

    /// Removes an object: the named version, or whichever is live.
    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()>;

    /// Facts about the bucket; those that the store doesn't have are unknown.
    async fn bucket_info(&self, _bucket: &str, _attempt: &Attempt) -> Result<BucketInfo> {
        Ok(BucketInfo::default())
    }

    /// Which of `permissions` the caller holds on the bucket. Needs [`Capabilities::permissions`].
    async fn test_permissions(&self, _bucket: &str, _permissions: &[&str], _attempt: &Attempt) -> Result<Vec<String>> {
        Err(unsupported(self.endpoint(), "report permissions", "try the call itself"))
    }

    /// Joins objects on the server. A destination that exists is
    /// [`ErrorKind::Precondition`](crate::ErrorKind::Precondition). Needs [`Capabilities::compose`].
    async fn compose(&self, _request: &ComposeRequest, _attempt: &Attempt) -> Result<ObjectMeta> {
        Err(unsupported(self.endpoint(), "compose objects", "read the objects individually"))
    }

    /// Sets key-value pairs of an object: of the named version, or of whichever is live. Pairs with other keys stay,
    /// and so do the bytes and the version; [`ObjectMeta::updated`] becomes the present time. Needs
    /// [`Capabilities::metadata_updates`].
    async fn update_metadata(
        &self,
        _id: &ObjectId,
        _metadata: &BTreeMap<String, String>,
        _attempt: &Attempt,
    ) -> Result<ObjectMeta> {
        Err(unsupported(self.endpoint(), "update metadata", "write the object again"))
    }
}
