//! Objects in buckets: the [`Store`] trait, one call at a time, and the [`Client`] that everything else goes through.
//!
//! A [`Store`] makes exactly one attempt per call and keeps no policy. A [`Client`] adds what every caller needs: retry
//! with full jitter, resume of a body cut short, adoption of a compose whose answer was lost, and the count of calls.

mod buffers;
mod client;
mod faults;
pub mod gcs;
mod hedge;
mod memory;
mod objects;
mod pace;
mod reach;
mod reading;
mod retry;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::Result;

pub(crate) use buffers::Buffers;
pub(crate) use client::{CallObserver, RangeStream};
pub use client::{Client, Payload};
pub use faults::{Call, Fault, FaultStore};
pub use gcs::{Credentials, GcsConfig, GcsStore, Token, TokenSource};
pub use hedge::Hedge;
pub(crate) use memory::Gone;
pub use memory::MemoryStore;
pub use objects::{Details, ObjectRef, Objects};
pub(crate) use pace::Pace;
pub use retry::RetryPolicy;
#[cfg(test)]
pub(crate) use retry::{Decision, Failure};

/// An object: its bucket, its name **and its generation**.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// The bucket, without `gs://`.
    pub bucket: Arc<str>,
    /// 1 to 1,024 bytes of UTF-8, anything but CR and LF.
    pub name: Arc<str>,
    /// The version that is meant; `None` is whichever is live.
    pub generation: Option<i64>,
}

impl ObjectId {
    /// The object `name` of `bucket` at `generation`.
    pub fn new(bucket: impl Into<Arc<str>>, name: impl Into<Arc<str>>, generation: impl Into<Option<i64>>) -> Self {
        Self { bucket: bucket.into(), name: name.into(), generation: generation.into() }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}/{}", self.bucket, self.name)?;
        self.generation.map_or(Ok(()), |generation| write!(f, "#{generation}"))
    }
}

/// What a storage class costs to read and write; composing needs one class for all sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum StorageClass {
    /// The listing didn't say; some emulators leave it out.
    #[default]
    Unspecified = 0,
    /// `STANDARD`.
    Standard = 1,
    /// `NEARLINE`.
    Nearline = 2,
    /// `COLDLINE`.
    Coldline = 3,
    /// `ARCHIVE`.
    Archive = 4,
    /// A class this crate has no name for, the three of old times among them.
    Other = 5,
}

impl StorageClass {
    /// All of them, each at the place of its number.
    pub(crate) const ALL: [Self; 6] =
        [Self::Unspecified, Self::Standard, Self::Nearline, Self::Coldline, Self::Archive, Self::Other];

    /// The class of the service's word for it; an empty word is [`Unspecified`](Self::Unspecified).
    pub fn parse(word: &str) -> Self {
        match word {
            "" => Self::Unspecified,
            "STANDARD" => Self::Standard,
            "NEARLINE" => Self::Nearline,
            "COLDLINE" => Self::Coldline,
            "ARCHIVE" => Self::Archive,
            _ => Self::Other,
        }
    }

    /// The service's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Standard => "STANDARD",
            Self::Nearline => "NEARLINE",
            Self::Coldline => "COLDLINE",
            Self::Archive => "ARCHIVE",
            Self::Other => "OTHER",
        }
    }
}

/// The `Content-Encoding` of an object: how the bytes are compressed that are stored. Reads bring them as they are
/// stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum ContentEncoding {
    /// None: the bytes are the data itself.
    #[default]
    Identity = 0,
    /// `gzip`, which the service itself decompresses for browsers.
    Gzip = 1,
    /// `br`.
    Brotli = 2,
    /// `zstd`.
    Zstd = 3,
    /// `deflate`.
    Deflate = 4,
    /// An encoding that this crate has no name for, or several of them.
    Other = 5,
}

impl ContentEncoding {
    /// All of them, each at the place of its number.
    pub(crate) const ALL: [Self; 6] =
        [Self::Identity, Self::Gzip, Self::Brotli, Self::Zstd, Self::Deflate, Self::Other];

    /// The encoding of the word in the object's metadata, in any case; an empty word is [`Identity`](Self::Identity).
    pub fn parse(word: &str) -> Self {
        match word.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Self::Identity,
            "gzip" | "x-gzip" => Self::Gzip,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            "deflate" => Self::Deflate,
            _ => Self::Other,
        }
    }

    /// The word for it, such as `gzip`; empty for [`Identity`](Self::Identity).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Deflate => "deflate",
            Self::Other => "other",
        }
    }

    /// Whether the bytes are stored as they are.
    pub fn is_identity(self) -> bool {
        self == Self::Identity
    }
}

/// What a look-up or a write tells of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectMeta {
    /// The whole name.
    pub name: String,
    /// Bytes as stored; 0 where the server leaves it out, as some do for empty objects.
    pub size: u64,
    /// The version, greater than 0.
    pub generation: i64,
    /// Castagnoli CRC of the bytes as stored; `None` where the server doesn't say.
    pub crc32c: Option<u32>,
    /// The storage class.
    pub storage_class: StorageClass,
    /// How the stored bytes are compressed, by the object's `Content-Encoding`.
    pub encoding: ContentEncoding,
    /// The last change.
    pub updated: Option<SystemTime>,
    /// What few callers want to know.
    pub details: Details,
}

/// What a listing tells of each object: less is sent, parsed and kept the less is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fields {
    /// What a sample needs: name, size, generation, CRC, class, and whether it is encoded.
    #[default]
    Sample,
    /// [`updated`](ObjectRef::updated) too.
    Times,
    /// [`Details`] too.
    All,
}

/// One page of a listing, as asked for. Servers may ignore any of it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListRequest {
    /// The bucket.
    pub bucket: Arc<str>,
    /// Only names that begin so; empty for all.
    pub prefix: String,
    /// Names that hold this after the prefix are rolled up into [`ListPage::prefixes`].
    pub delimiter: Option<String>,
    /// First name wanted, inclusive.
    pub start_offset: Option<String>,
    /// First name no longer wanted.
    pub end_offset: Option<String>,
    /// Most items in the page; `None` leaves it to the server.
    pub page_size: Option<u32>,
    /// Where the last page ended.
    pub page_token: Option<String>,
    /// What to tell of each object.
    pub fields: Fields,
}

impl ListRequest {
    /// The first page of the names of `bucket` that begin with `prefix`.
    pub fn new(bucket: impl Into<Arc<str>>, prefix: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), prefix: prefix.into(), ..Self::default() }
    }
}

/// One page of a listing. Empty pages with a token occur; only a missing token ends a listing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListPage {
    /// Objects in the server's order.
    pub objects: Objects,
    /// Names rolled up by the delimiter.
    pub prefixes: Vec<String>,
    /// Where to go on.
    pub next_page_token: Option<String>,
    /// When the server answered, by its own clock, to the second; `None` where it doesn't say.
    pub date: Option<SystemTime>,
}

/// Facts of a bucket that decide how to read it. `None` is "not told", for want of `storage.buckets.get` perhaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketInfo {
    /// Such as `US-CENTRAL1`.
    pub location: Option<String>,
    /// `region`, `dual-region` or `multi-region`.
    pub location_type: Option<String>,
    /// Class of objects that name none.
    pub storage_class: StorageClass,
    /// How long deleted objects stay, and are billed; zero when soft delete is off.
    pub soft_delete: Option<Duration>,
    /// How long objects can't be deleted; zero when there is no policy.
    pub retention: Option<Duration>,
    /// Whether new objects are held by default, and so can't be deleted.
    pub default_hold: bool,
    /// Whether folders are real.
    pub hierarchical_namespace: bool,
}

impl BucketInfo {
    /// Whether what is written is copied to another region.
    pub(crate) fn replicates(&self) -> bool {
        matches!(self.location_type.as_deref(), Some("dual-region" | "multi-region"))
    }
}

/// Joins sources, in order, into one new object of the same bucket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ComposeRequest {
    /// The bucket of sources and destination.
    pub bucket: Arc<str>,
    /// A name that nothing has yet: the call asks for `ifGenerationMatch=0`.
    pub destination: Arc<str>,
    /// Name and generation of 1 to 32 sources.
    pub sources: Vec<(Arc<str>, i64)>,
    /// Length that the result must have.
    pub size: u64,
    /// CRC that the result must have; the server checks it.
    pub crc32c: u32,
    /// Key-value pairs of the result.
    pub metadata: BTreeMap<String, String>,
    /// `customTime` of the result, for lifecycle rules.
    pub custom_time: SystemTime,
}

impl ComposeRequest {
    /// A request for `destination` out of `sources`, which together have `size` bytes of CRC `crc32c`.
    pub fn new(
        bucket: Arc<str>,
        destination: Arc<str>,
        sources: Vec<(Arc<str>, i64)>,
        size: u64,
        crc32c: u32,
        custom_time: SystemTime,
    ) -> Self {
        Self { bucket, destination, sources, size, crc32c, metadata: BTreeMap::new(), custom_time }
    }
}

/// Writes one whole object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PutRequest {
    /// The bucket.
    pub bucket: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The bytes; their CRC goes along and the server checks it.
    pub data: Bytes,
    /// Only if the live version is this one; 0 means that there is none.
    pub if_generation_match: Option<i64>,
    /// `Content-Type`; `application/octet-stream` by default.
    pub content_type: Option<String>,
    /// `Content-Encoding` of the bytes.
    pub content_encoding: Option<String>,
    /// Class, where it isn't the bucket's.
    pub storage_class: Option<StorageClass>,
    /// Key-value pairs.
    pub metadata: BTreeMap<String, String>,
}

impl PutRequest {
    /// Writes `data` to `name`, whatever is there now.
    pub fn new(bucket: impl Into<Arc<str>>, name: impl Into<Arc<str>>, data: impl Into<Bytes>) -> Self {
        Self {
            bucket: bucket.into(),
            name: name.into(),
            data: data.into(),
            if_generation_match: None,
            content_type: None,
            content_encoding: None,
            storage_class: None,
            metadata: BTreeMap::new(),
        }
    }
}

/// The bytes of an object, or of a range of it, as they come.
pub struct Body {
    /// The version that is being read.
    pub generation: i64,
    /// Stored length of the *whole* object, if told.
    pub stored_size: Option<u64>,
    /// CRC of the *whole* stored object, if told.
    pub crc32c: Option<u32>,
    /// The bytes. The end of the stream is the end of what came, which may be short of what was asked.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Which try of which call this is; goes into the headers by which the service tells tries from calls.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// One value for all tries of a call.
    pub call: u128,
    /// 1 for the first.
    pub number: u32,
}

impl Attempt {
    /// The first try of a new call.
    pub fn first() -> Self {
        Self { call: rand::random(), number: 1 }
    }

    /// The next try of the same call.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { call: self.call, number: self.number + 1 }
    }
}

/// Object storage, one attempt at a time: no retry, no cache, no policy. Errors carry a kind that tells whether
/// another attempt can help.
///
/// # Cancel safety
/// Dropping the future of a read leaves nothing behind. Dropping that of a write leaves it open whether it happened.
#[async_trait]
pub trait Store: Any + fmt::Debug + Send + Sync {
    /// The same store with connections of its own, where it has connections: they live and die with the runtime that
    /// opened them, so two runtimes better share none.
    fn reconnected(&self) -> Option<Result<Arc<dyn Store>>> {
        None
    }

    /// Where the service is, such as `https://storage.googleapis.com`, for messages; `None` where nothing is remote.
    fn endpoint(&self) -> Option<&str> {
        None
    }

    /// Facts of the bucket.
    async fn bucket_info(&self, bucket: &str, attempt: &Attempt) -> Result<BucketInfo>;

    /// Which of `permissions` the caller holds on the bucket.
    async fn test_permissions(&self, bucket: &str, permissions: &[&str], attempt: &Attempt) -> Result<Vec<String>>;

    /// One page of names.
    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage>;

    /// What is known of one object. A generation that is gone is [`ErrorKind::NotFound`](crate::ErrorKind::NotFound).
    async fn stat(&self, id: &ObjectId, attempt: &Attempt) -> Result<ObjectMeta>;

    /// The stored bytes of an object, or those of `range` (end exclusive, not empty). Never decompresses.
    async fn get(&self, id: &ObjectId, range: Option<Range<u64>>, attempt: &Attempt) -> Result<Body>;

    /// Joins objects on the server. A destination that exists is
    /// [`ErrorKind::Precondition`](crate::ErrorKind::Precondition).
    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta>;

    /// Writes a whole object.
    async fn put(&self, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta>;

    /// Sets key-value pairs of an object, the named generation or whichever is live; pairs of other keys stay. Its bytes
    /// and generation stay, too; [`ObjectMeta::updated`] is now.
    async fn update_metadata(
        &self,
        id: &ObjectId,
        metadata: &BTreeMap<String, String>,
        attempt: &Attempt,
    ) -> Result<ObjectMeta>;

    /// Removes an object: the named generation, or whichever is live.
    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()>;
}
