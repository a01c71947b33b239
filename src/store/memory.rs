//! A bucket in memory, with the service's semantics.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::capabilities::unsupported;
use super::uri::{BucketUri, Scheme};
use super::{
    Attempt, Body, BucketInfo, ByteRange, Capabilities, ComposeRequest, ContentEncoding, CopyProgress, CopyRequest,
    Details, Fields, ListPage, ListRequest, MAX_SOURCES, ObjectId, ObjectMeta, PutRequest, StorageClass, Store,
    Version, WriteMode,
};
use crate::lock::lock;
use crate::{Error, ErrorKind, Result};

/// Objects in memory, for tests and examples. Versions, preconditions, checksums, paging and compose behave like the
/// service's. Clones share the buckets.
///
/// ```
/// use dataflux::store::MemoryStore;
///
/// let store = MemoryStore::new().with_bucket("cats").with_page_cap(2);
/// let first = store.insert("cats", "tom.txt", "meow");
/// let second = store.insert("cats", "tom.txt", "purr");
/// assert!(second > first);
/// ```
#[derive(Clone, Debug)]
pub struct MemoryStore {
    buckets: Arc<Mutex<Buckets>>,
    page_cap: usize,
    chunk: usize,
    capabilities: Capabilities,
}

#[derive(Debug)]
struct Buckets {
    scheme: Scheme,
    by_name: BTreeMap<String, MemoryBucket>,
    versions: VersionKind,
    last_generation: i64,
}

/// Which versions the objects get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VersionKind {
    Generation,
    Etag,
    None,
}

#[derive(Debug, Default)]
struct MemoryBucket {
    info: BucketInfo,
    objects: BTreeMap<String, StoredObject>,
}

impl MemoryBucket {
    fn new(info: BucketInfo) -> Self {
        Self { info, ..Self::default() }
    }
}

#[derive(Clone, Debug)]
struct StoredObject {
    meta: ObjectMeta,
    data: Bytes,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// A store without buckets.
    pub fn new() -> Self {
        Self::of_scheme(Scheme::Gs)
    }

    fn of_scheme(scheme: Scheme) -> Self {
        // Generations look like the service's: microseconds since 1970.
        let (by_name, versions) = (BTreeMap::new(), VersionKind::Generation);
        let buckets = Buckets { scheme, by_name, versions, last_generation: 1_700_000_000_000_000 };
        Self {
            buckets: Arc::new(Mutex::new(buckets)),
            page_cap: 5_000,
            chunk: usize::MAX,
            capabilities: Capabilities::ALL,
        }
    }

    /// The store of `mem://` URIs, one for the whole process: buckets, and which
    /// versions objects get, are common to all clones.
    ///
    /// ```
    /// use dataflux::DatafluxDataset;
    /// use dataflux::store::MemoryStore;
    ///
    /// MemoryStore::shared().insert("cats", "train/tom.txt", "meow");
    /// assert_eq!(DatafluxDataset::open("mem://cats/train/")?.len(), 1);
    /// # Ok::<_, dataflux::Error>(())
    /// ```
    pub fn shared() -> Self {
        static SHARED: LazyLock<MemoryStore> = LazyLock::new(|| MemoryStore::of_scheme(Scheme::Mem));
        SHARED.clone()
    }

    /// Adds an empty bucket of class `STANDARD`, or empties the one of that name.
    #[must_use]
    pub fn with_bucket(self, name: &str) -> Self {
        let info = BucketInfo { storage_class: StorageClass::Standard, ..BucketInfo::default() };
        self.with_bucket_info(name, info)
    }

    /// Adds an empty bucket with these facts, or empties the one of that name.
    #[must_use]
    pub fn with_bucket_info(self, name: &str, info: BucketInfo) -> Self {
        let mut buckets = lock(&self.buckets);
        let free = info.free || buckets.scheme == Scheme::Mem;
        buckets.by_name.insert(name.to_owned(), MemoryBucket::new(BucketInfo { free, ..info }));
        drop(buckets);
        self
    }

    /// Objects written from now on have ETags instead of generations, as those of most other services have.
    #[must_use]
    pub fn with_etags(self) -> Self {
        lock(&self.buckets).versions = VersionKind::Etag;
        self
    }

    /// Objects written from now on have no versions.
    #[must_use]
    pub fn without_versions(self) -> Self {
        lock(&self.buckets).versions = VersionKind::None;
        self
    }

    /// Sets the maximum number of items in a page, whatever a request asks for. Default 5,000, at least 1.
    #[must_use]
    pub fn with_page_cap(mut self, items: usize) -> Self {
        self.page_cap = items.max(1);
        self
    }

    /// Sets the maximum length of a chunk of a body, at least 1 byte. By default a body is one chunk.
    #[must_use]
    pub fn with_chunk_size(mut self, bytes: usize) -> Self {
        self.chunk = bytes.max(1);
        self
    }

    /// Makes this a store that can do less, like those of other services: calls for what it lacks fail, checksums are
    /// not reported, and conditions of writes are ignored. Without the capability `versions` objects written from now
    /// on have none.
    ///
    /// ```
    /// use dataflux::store::{Capabilities, MemoryStore};
    ///
    /// let mut can = Capabilities::default();
    /// can.conditional_writes = true;
    /// let store = MemoryStore::new().with_capabilities(can);
    /// # let _ = store;
    /// ```
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        if capabilities.versions { self } else { self.without_versions() }
    }

    /// Writes an object, replacing the live one, and returns its version. Creates the bucket if it doesn't exist.
    pub fn insert(&self, bucket: &str, name: &str, data: impl Into<Bytes>) -> Version {
        let request = PutRequest::new(bucket, name, data);
        let mut buckets = lock(&self.buckets);
        if !buckets.by_name.contains_key(bucket) {
            let free = buckets.scheme == Scheme::Mem;
            let info = BucketInfo { storage_class: StorageClass::Standard, free, ..BucketInfo::default() };
            buckets.by_name.insert(bucket.to_owned(), MemoryBucket::new(info));
        }
        let version = buckets.next_version();
        let stored = StoredObject::new(&request, version.clone(), StorageClass::Standard);
        buckets.by_name.entry(bucket.to_owned()).or_default().objects.insert(name.to_owned(), stored);
        version
    }

    /// Whether a live object has this name.
    pub fn contains(&self, bucket: &str, name: &str) -> bool {
        lock(&self.buckets).by_name.get(bucket).is_some_and(|bucket| bucket.objects.contains_key(name))
    }

    /// Names of all objects of a bucket, in byte order.
    pub fn names(&self, bucket: &str) -> Vec<String> {
        lock(&self.buckets)
            .by_name
            .get(bucket)
            .map(|bucket| bucket.objects.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// The facts about an object that this store reports.
    fn reported(&self, meta: &ObjectMeta) -> ObjectMeta {
        ObjectMeta { crc32c: meta.crc32c.filter(|_| self.capabilities.checksums), ..meta.clone() }
    }

    /// Checks that a write of this mode may replace the `live` object, if this store honours conditions.
    fn check_precondition(&self, id: &ObjectId, mode: &WriteMode, live: Option<&StoredObject>) -> Result<()> {
        if self.capabilities.conditional_writes { check_precondition(id, mode, live) } else { Ok(()) }
    }
}

impl Buckets {
    fn next_version(&mut self) -> Version {
        self.last_generation += 1;
        match self.versions {
            VersionKind::Generation => Version::Generation(self.last_generation),
            VersionKind::Etag => Version::Etag(format!("\"{:x}\"", self.last_generation).into()),
            VersionKind::None => Version::None,
        }
    }

    fn bucket(&mut self, name: &str) -> Result<&mut MemoryBucket> {
        let scheme = self.scheme;
        self.by_name.get_mut(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no such bucket").object(BucketUri { scheme, bucket: name })
        })
    }

    fn object(&mut self, id: &ObjectId) -> Result<&StoredObject> {
        let found = self.bucket(&id.bucket)?.objects.get(&*id.name);
        found
            .filter(|stored| id.version.is_none() || id.version == stored.meta.version)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such object").object(id))
    }
}

impl StoredObject {
    /// The object that `request` writes; `class` is that of the bucket.
    fn new(request: &PutRequest, version: Version, class: StorageClass) -> Self {
        let now = SystemTime::now();
        let meta = ObjectMeta {
            name: request.name.to_string(),
            size: request.data.len() as u64,
            version,
            crc32c: Some(crc32c::crc32c(&request.data)),
            storage_class: request.storage_class.unwrap_or(class),
            encoding: ContentEncoding::parse(request.content_encoding.as_deref().unwrap_or_default()),
            updated: Some(now),
            details: Details { created: Some(now), custom_time: None, metadata: request.metadata.clone() },
        };
        Self { meta, data: request.data.clone() }
    }
}

/// An error unless the store `can` do an operation.
fn require(can: bool, operation: &str) -> Result<()> {
    if can { Ok(()) } else { Err(unsupported(None, operation, "use a store that can, or do without")) }
}

/// Checks that a write of this mode may replace the `live` object.
fn check_precondition(id: &ObjectId, mode: &WriteMode, live: Option<&StoredObject>) -> Result<()> {
    let live = live.map(|stored| &stored.meta.version);
    let wanted = match mode {
        WriteMode::Overwrite => return Ok(()),
        WriteMode::Create => None,
        WriteMode::Update(version) => Some(version),
    };
    if wanted == live {
        return Ok(());
    }
    let shown = |version: Option<&Version>| version.map_or_else(|| "no object".to_owned(), Version::to_string);
    Err(Error::new(ErrorKind::Precondition, "the precondition does not hold")
        .object(id)
        .mismatch(shown(wanted), shown(live)))
}

#[async_trait]
impl Store for MemoryStore {
    fn scheme(&self) -> Scheme {
        lock(&self.buckets).scheme
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { versions: lock(&self.buckets).versions != VersionKind::None, ..self.capabilities }
    }

    async fn bucket_info(&self, bucket: &str, _: &Attempt) -> Result<BucketInfo> {
        Ok(lock(&self.buckets).bucket(bucket)?.info.clone())
    }

    async fn test_permissions(&self, bucket: &str, permissions: &[&str], _: &Attempt) -> Result<Vec<String>> {
        require(self.capabilities.permissions, "report permissions")?;
        lock(&self.buckets).bucket(bucket)?;
        Ok(permissions.iter().map(ToString::to_string).collect())
    }

    async fn list(&self, request: &ListRequest, _: &Attempt) -> Result<ListPage> {
        let mut buckets = lock(&self.buckets);
        let scheme = buckets.scheme;
        let objects = &buckets.bucket(&request.bucket)?.objects;
        let cap = request.page_size.map_or(self.page_cap, |size| self.page_cap.min(size.max(1) as usize));
        let first = request.start_offset.as_deref().unwrap_or("").max(&request.prefix);
        // The token is the last entry of the page before: a name, or a prefix with all that it rolls up.
        let token = request.page_token.as_deref().map(|token| {
            token.split_once(' ').filter(|(kind, _)| ["o", "p"].contains(kind)).ok_or_else(|| {
                Error::new(ErrorKind::Protocol, "the page token isn't one of this store's")
                    .object(BucketUri { scheme, bucket: &request.bucket })
            })
        });
        let after = token.transpose()?;
        let from = match after {
            Some((_, name)) if name >= first => Bound::Excluded(name),
            _ => Bound::Included(first),
        };
        let mut page = ListPage { date: Some(SystemTime::now()), ..ListPage::default() };
        let mut last = None;
        for (name, stored) in objects.range::<str, _>((from, Bound::Unbounded)) {
            if !name.starts_with(&request.prefix) || request.end_offset.as_ref().is_some_and(|end| name >= end) {
                break;
            }
            if matches!(after, Some(("p", rolled)) if name.starts_with(rolled)) {
                continue;
            }
            let rolled = request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty()).and_then(|delimiter| {
                let at = name[request.prefix.len()..].find(delimiter)?;
                Some(&name[..request.prefix.len() + at + delimiter.len()])
            });
            if rolled.is_some_and(|rolled| page.prefixes.last().is_some_and(|last| last == rolled)) {
                continue;
            }
            if page.objects.len() + page.prefixes.len() == cap {
                page.next_page_token = last;
                break;
            }
            if let Some(rolled) = rolled {
                page.prefixes.push(rolled.to_owned());
                last = Some(format!("p {rolled}"));
            } else {
                let mut object = stored.meta.to_ref();
                object.crc32c = object.crc32c.filter(|_| self.capabilities.checksums);
                if request.fields != Fields::All {
                    object.details = None;
                }
                if request.fields == Fields::Sample {
                    object.updated = None;
                }
                page.objects.push(object);
                last = Some(format!("o {name}"));
            }
        }
        Ok(page)
    }

    async fn stat(&self, id: &ObjectId, _: &Attempt) -> Result<ObjectMeta> {
        Ok(self.reported(&lock(&self.buckets).object(id)?.meta))
    }

    async fn get(&self, id: &ObjectId, range: ByteRange, _: &Attempt) -> Result<Body> {
        let stored = lock(&self.buckets).object(id)?.clone();
        let size = stored.meta.size;
        let range = match range {
            ByteRange::All => 0..size,
            ByteRange::Bounded(range) if range.start < range.end.min(size) => range.start..range.end.min(size),
            ByteRange::Suffix(length) if length.min(size) > 0 => size.saturating_sub(length)..size,
            range => {
                return Err(Error::new(ErrorKind::Integrity, "the range lies outside the object")
                    .object(id)
                    .status(416)
                    .mismatch(range, format!("{size} bytes")));
            }
        };
        let data = stored.data.slice(range.start as usize..range.end as usize);
        let chunk = self.chunk;
        let chunks = stream::iter(std::iter::successors(Some(data), move |rest| {
            (rest.len() > chunk).then(|| rest.slice(chunk..))
        }))
        .map(move |rest| Ok(rest.slice(..rest.len().min(chunk))))
        .boxed();
        let crc32c = self.reported(&stored.meta).crc32c;
        Ok(Body { version: stored.meta.version, stored_size: Some(size), crc32c, chunks })
    }

    async fn compose(&self, request: &ComposeRequest, _: &Attempt) -> Result<ObjectMeta> {
        require(self.capabilities.compose, "compose objects")?;
        let id = ObjectId::live(request.bucket.clone(), request.destination.clone()).with_scheme(self.scheme());
        if request.sources.is_empty() || request.sources.len() > MAX_SOURCES {
            return Err(Error::new(ErrorKind::Protocol, "a compose takes 1 to 32 sources")
                .object(&id)
                .status(400)
                .mismatch("1 to 32 sources", format!("{}", request.sources.len())));
        }
        let mut buckets = lock(&self.buckets);
        let (mut data, mut class) = (Vec::new(), None);
        for (name, version) in &request.sources {
            let source = ObjectId::new(request.bucket.clone(), name.clone(), version.clone());
            let source = buckets.object(&source.with_scheme(id.scheme))?;
            let wanted = *class.get_or_insert(source.meta.storage_class);
            if source.meta.storage_class != wanted {
                return Err(Error::new(ErrorKind::Protocol, "the sources are of more than one storage class")
                    .object(&id)
                    .status(400)
                    .mismatch(wanted.as_str(), source.meta.storage_class.as_str()));
            }
            data.extend_from_slice(&source.data);
        }
        let live = buckets.bucket(&request.bucket)?.objects.get(&*request.destination);
        check_precondition(&id, &WriteMode::Create, live)?;
        let crc = crc32c::crc32c(&data);
        if crc != request.crc32c {
            return Err(Error::new(ErrorKind::Integrity, "the composed bytes don't have the expected CRC")
                .object(&id)
                .status(400)
                .mismatch(format!("crc32c {:08x}", request.crc32c), format!("crc32c {crc:08x}")));
        }
        let mut put = PutRequest::new(request.bucket.clone(), request.destination.clone(), data);
        put.metadata.clone_from(&request.metadata);
        let version = buckets.next_version();
        let mut stored = StoredObject::new(&put, version, class.unwrap_or_default());
        stored.meta.details.custom_time = Some(request.custom_time);
        let meta = self.reported(&stored.meta);
        buckets.bucket(&request.bucket)?.objects.insert(put.name.to_string(), stored);
        Ok(meta)
    }

    async fn put(&self, request: &PutRequest, _: &Attempt) -> Result<ObjectMeta> {
        let mut buckets = lock(&self.buckets);
        let id = ObjectId::live(request.bucket.clone(), request.name.clone()).with_scheme(buckets.scheme);
        let version = buckets.next_version();
        let bucket = buckets.bucket(&request.bucket)?;
        self.check_precondition(&id, &request.mode, bucket.objects.get(&*request.name))?;
        let stored = StoredObject::new(request, version, bucket.info.storage_class);
        let meta = self.reported(&stored.meta);
        bucket.objects.insert(request.name.to_string(), stored);
        Ok(meta)
    }

    async fn copy(&self, request: &CopyRequest, _: Option<&str>, _: &Attempt) -> Result<CopyProgress> {
        let mut buckets = lock(&self.buckets);
        let id = ObjectId::live(request.bucket.clone(), request.name.clone()).with_scheme(buckets.scheme);
        let source = buckets.object(&request.source)?.clone();
        let version = buckets.next_version();
        let bucket = buckets.bucket(&request.bucket)?;
        self.check_precondition(&id, &request.mode, bucket.objects.get(&*request.name))?;
        let now = Some(SystemTime::now());
        let meta = ObjectMeta {
            name: request.name.to_string(),
            version,
            storage_class: bucket.info.storage_class,
            updated: now,
            details: Details { created: now, ..source.meta.details },
            ..source.meta
        };
        let reported = self.reported(&meta);
        bucket.objects.insert(request.name.to_string(), StoredObject { meta, data: source.data });
        Ok(CopyProgress::Done(reported))
    }

    async fn update_metadata(
        &self,
        id: &ObjectId,
        metadata: &BTreeMap<String, String>,
        _: &Attempt,
    ) -> Result<ObjectMeta> {
        require(self.capabilities.metadata_updates, "update metadata")?;
        let mut buckets = lock(&self.buckets);
        let mut stored = buckets.object(id)?.clone();
        stored.meta.details.metadata.extend(metadata.clone());
        stored.meta.updated = Some(SystemTime::now());
        let meta = self.reported(&stored.meta);
        buckets.bucket(&id.bucket)?.objects.insert(id.name.to_string(), stored);
        Ok(meta)
    }

    async fn delete(&self, id: &ObjectId, _: &Attempt) -> Result<()> {
        let mut buckets = lock(&self.buckets);
        buckets.object(id)?;
        buckets.bucket(&id.bucket)?.objects.remove(&*id.name);
        Ok(())
    }
}
