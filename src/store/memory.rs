//! A bucket in memory, with the service's semantics.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{
    Attempt, Body, BucketInfo, ComposeRequest, ContentEncoding, Details, Fields, ListPage, ListRequest, ObjectId,
    ObjectMeta, PutRequest, StorageClass, Store,
};
use crate::{Error, ErrorKind, Result};

/// Most sources of a compose, as the service has it.
const MOST_SOURCES: usize = 32;

/// Objects in memory: generations, preconditions, checksums, paging and compose behave as the service's do. For tests
/// and examples. Clones share the buckets.
///
/// A loader that joins nothing and has no cache proves each object's bytes once, and holds on to them, with 40 bytes for each
/// object of its data set, until an epoch begins after any was deleted or replaced.
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
    buckets: Arc<RwLock<Buckets>>,
    page_cap: usize,
    chunk: usize,
}

#[derive(Debug)]
struct Buckets {
    by_name: BTreeMap<String, MemoryBucket>,
    last_generation: i64,
}

#[derive(Debug, Default)]
struct MemoryBucket {
    info: BucketInfo,
    objects: BTreeMap<String, StoredObject>,
    /// The bytes of those by their generations, which no two objects of a store share.
    live: HashMap<i64, Bytes>,
    /// How many are so no more.
    gone: Arc<AtomicU64>,
}

/// Whether any object of a bucket has gone, or another come in its place, since this was asked for.
#[derive(Debug)]
pub(crate) struct Gone {
    now: Arc<AtomicU64>,
    then: u64,
}

impl Gone {
    pub(crate) fn any(&self) -> bool {
        self.now.load(Ordering::Acquire) != self.then
    }
}

impl MemoryBucket {
    fn of(info: BucketInfo) -> Self {
        Self { info, ..Self::default() }
    }

    fn set(&mut self, name: String, stored: StoredObject) {
        let (generation, data) = (stored.meta.generation, stored.data.clone());
        self.live.insert(generation, data);
        // A change of metadata keeps the generation.
        if let Some(before) = self.objects.insert(name, stored)
            && before.meta.generation != generation
        {
            self.let_go(&before);
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(before) = self.objects.remove(name) {
            self.let_go(&before);
        }
    }

    fn let_go(&mut self, stored: &StoredObject) {
        self.live.remove(&stored.meta.generation);
        self.gone.fetch_add(1, Ordering::Release);
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
        // Generations look like the service's: microseconds since 1970.
        let buckets = Buckets { by_name: BTreeMap::new(), last_generation: 1_700_000_000_000_000 };
        Self { buckets: Arc::new(RwLock::new(buckets)), page_cap: 5_000, chunk: usize::MAX }
    }

    /// Adds an empty bucket of class `STANDARD`, or empties the one of that name.
    #[must_use]
    pub fn with_bucket(self, name: &str) -> Self {
        let info = BucketInfo { storage_class: StorageClass::Standard, ..BucketInfo::default() };
        self.with_bucket_info(name, info)
    }

    /// Adds an empty bucket of these facts, or empties the one of that name.
    #[must_use]
    pub fn with_bucket_info(self, name: &str, info: BucketInfo) -> Self {
        if let Some(before) = self.lock().by_name.insert(name.to_owned(), MemoryBucket::of(info)) {
            before.gone.fetch_add(1, Ordering::Release);
        }
        self
    }

    /// Sets the most items of a page, whatever a request asks for: 5,000 if never set. At least 1.
    #[must_use]
    pub fn with_page_cap(mut self, items: usize) -> Self {
        self.page_cap = items.max(1);
        self
    }

    /// Sets the longest chunk of a body; without it a body is one chunk. At least 1 byte.
    #[must_use]
    pub fn with_chunk_size(mut self, bytes: usize) -> Self {
        self.chunk = bytes.max(1);
        self
    }

    /// Writes an object, whatever is there, and tells its generation. The bucket is made if it isn't there.
    pub fn insert(&self, bucket: &str, name: &str, data: impl Into<Bytes>) -> i64 {
        let request = PutRequest::new(bucket, name, data);
        let mut buckets = self.lock();
        if !buckets.by_name.contains_key(bucket) {
            let info = BucketInfo { storage_class: StorageClass::Standard, ..BucketInfo::default() };
            buckets.by_name.insert(bucket.to_owned(), MemoryBucket::of(info));
        }
        let generation = buckets.next_generation();
        let stored = stored(&request, generation, StorageClass::Standard);
        buckets.by_name.entry(bucket.to_owned()).or_default().set(name.to_owned(), stored);
        generation
    }

    /// Whether the live object has this name.
    pub fn contains(&self, bucket: &str, name: &str) -> bool {
        self.lock().by_name.get(bucket).is_some_and(|bucket| bucket.objects.contains_key(name))
    }

    /// Names of all objects of a bucket, in byte order.
    pub fn names(&self, bucket: &str) -> Vec<String> {
        self.lock().by_name.get(bucket).map(|bucket| bucket.objects.keys().cloned().collect()).unwrap_or_default()
    }

    /// The bytes of live objects, in the order of these generations; `None` for each that is gone. In one hold of the lock,
    /// which others that read share.
    pub(crate) fn at_hand(&self, bucket: &str, generations: impl Iterator<Item = i64>) -> Vec<Option<Bytes>> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.by_name.get(bucket);
        let found: Vec<_> = generations.map(|generation| bucket?.live.get(&generation)).collect();
        // A mere look at the owners of each, since the processor waits for memory for many looks at once, but for one owner
        // to be added after the other.
        found.iter().flatten().for_each(|bytes| _ = bytes.is_unique());
        found.into_iter().map(Option::<&Bytes>::cloned).collect()
    }

    /// Tells from now on whether objects of a bucket have gone, without a lock.
    pub(crate) fn gone(&self, bucket: &str) -> Option<Gone> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        let now = Arc::clone(&buckets.by_name.get(bucket)?.gone);
        let then = now.load(Ordering::Acquire);
        Some(Gone { now, then })
    }

    /// Whether bodies are to come in chunks.
    pub(crate) fn is_chunked(&self) -> bool {
        self.chunk < usize::MAX
    }

    /// Nothing is left half done by a panic under this lock, so that a poisoned one is as good.
    fn lock(&self) -> RwLockWriteGuard<'_, Buckets> {
        self.buckets.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn next_generation(&mut self) -> i64 {
        self.last_generation += 1;
        self.last_generation
    }

    fn bucket(&mut self, name: &str) -> Result<&mut MemoryBucket> {
        self.by_name
            .get_mut(name)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such bucket").object(format!("gs://{name}")))
    }

    fn object(&mut self, id: &ObjectId) -> Result<&StoredObject> {
        let found = self.bucket(&id.bucket)?.objects.get(&*id.name);
        found
            .filter(|stored| id.generation.is_none_or(|wanted| wanted == stored.meta.generation))
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such object").object(id))
    }
}

fn stored(request: &PutRequest, generation: i64, class: StorageClass) -> StoredObject {
    let now = SystemTime::now();
    let meta = ObjectMeta {
        name: request.name.to_string(),
        size: request.data.len() as u64,
        generation,
        crc32c: Some(crc32c::crc32c(&request.data)),
        storage_class: request.storage_class.unwrap_or(class),
        encoding: ContentEncoding::parse(request.content_encoding.as_deref().unwrap_or_default()),
        updated: Some(now),
        details: Details { created: Some(now), custom_time: None, metadata: request.metadata.clone() },
    };
    StoredObject { meta, data: request.data.clone() }
}

fn precondition(id: &ObjectId, wanted: i64, live: Option<&StoredObject>) -> Result<()> {
    let live = live.map_or(0, |stored| stored.meta.generation);
    if wanted == live {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Precondition, "the precondition does not hold")
        .object(id)
        .mismatch(format!("generation {wanted}"), format!("generation {live}")))
}

#[async_trait]
impl Store for MemoryStore {
    async fn bucket_info(&self, bucket: &str, _: &Attempt) -> Result<BucketInfo> {
        Ok(self.lock().bucket(bucket)?.info.clone())
    }

    async fn test_permissions(&self, bucket: &str, permissions: &[&str], _: &Attempt) -> Result<Vec<String>> {
        self.lock().bucket(bucket)?;
        Ok(permissions.iter().map(ToString::to_string).collect())
    }

    async fn list(&self, request: &ListRequest, _: &Attempt) -> Result<ListPage> {
        let mut buckets = self.lock();
        let objects = &buckets.bucket(&request.bucket)?.objects;
        let cap = request.page_size.map_or(self.page_cap, |size| self.page_cap.min(size.max(1) as usize));
        let first = request.start_offset.as_deref().unwrap_or("").max(&request.prefix);
        // The token is the last entry of the page before: a name, or a prefix with all that it rolls up.
        let token = request.page_token.as_deref().map(|token| {
            token.split_once(' ').filter(|(kind, _)| ["o", "p"].contains(kind)).ok_or_else(|| {
                Error::new(ErrorKind::Protocol, "the page token isn't one of this store's")
                    .object(format!("gs://{}", request.bucket))
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
        Ok(self.lock().object(id)?.meta.clone())
    }

    async fn get(&self, id: &ObjectId, range: Option<Range<u64>>, _: &Attempt) -> Result<Body> {
        let stored = self.lock().object(id)?.clone();
        let size = stored.meta.size;
        let data = match range {
            None => stored.data,
            Some(range) if range.start >= size || range.is_empty() => {
                return Err(Error::new(ErrorKind::Integrity, "the range lies beyond the object")
                    .object(id)
                    .status(416)
                    .mismatch(format!("bytes {}..{}", range.start, range.end), format!("{size} bytes")));
            }
            Some(range) => stored.data.slice(range.start as usize..range.end.min(size) as usize),
        };
        let chunk = self.chunk;
        let chunks = stream::iter(std::iter::successors(Some(data), move |rest| {
            (rest.len() > chunk).then(|| rest.slice(chunk..))
        }))
        .map(move |rest| Ok(rest.slice(..rest.len().min(chunk))))
        .boxed();
        Ok(Body { generation: stored.meta.generation, stored_size: Some(size), crc32c: stored.meta.crc32c, chunks })
    }

    async fn compose(&self, request: &ComposeRequest, _: &Attempt) -> Result<ObjectMeta> {
        let id = ObjectId::new(request.bucket.clone(), request.destination.clone(), None);
        if request.sources.is_empty() || request.sources.len() > MOST_SOURCES {
            return Err(Error::new(ErrorKind::Protocol, "a compose takes 1 to 32 sources")
                .object(&id)
                .status(400)
                .mismatch("1 to 32 sources", format!("{}", request.sources.len())));
        }
        let mut buckets = self.lock();
        let (mut data, mut class) = (Vec::new(), None);
        for (name, generation) in &request.sources {
            let source = buckets.object(&ObjectId::new(request.bucket.clone(), name.clone(), *generation))?;
            let wanted = *class.get_or_insert(source.meta.storage_class);
            if source.meta.storage_class != wanted {
                return Err(Error::new(ErrorKind::Protocol, "the sources are of more than one storage class")
                    .object(&id)
                    .status(400)
                    .mismatch(wanted.as_str(), source.meta.storage_class.as_str()));
            }
            data.extend_from_slice(&source.data);
        }
        precondition(&id, 0, buckets.bucket(&request.bucket)?.objects.get(&*request.destination))?;
        let crc = crc32c::crc32c(&data);
        if crc != request.crc32c {
            return Err(Error::new(ErrorKind::Integrity, "the joined bytes don't have the CRC they were to have")
                .object(&id)
                .status(400)
                .mismatch(format!("crc32c {:08x}", request.crc32c), format!("crc32c {crc:08x}")));
        }
        let mut put = PutRequest::new(request.bucket.clone(), request.destination.clone(), data);
        put.metadata.clone_from(&request.metadata);
        let generation = buckets.next_generation();
        let mut stored = stored(&put, generation, class.unwrap_or_default());
        stored.meta.details.custom_time = Some(request.custom_time);
        let meta = stored.meta.clone();
        buckets.bucket(&request.bucket)?.set(put.name.to_string(), stored);
        Ok(meta)
    }

    async fn put(&self, request: &PutRequest, _: &Attempt) -> Result<ObjectMeta> {
        let id = ObjectId::new(request.bucket.clone(), request.name.clone(), None);
        let mut buckets = self.lock();
        let generation = buckets.next_generation();
        let bucket = buckets.bucket(&request.bucket)?;
        if let Some(wanted) = request.if_generation_match {
            precondition(&id, wanted, bucket.objects.get(&*request.name))?;
        }
        let stored = stored(request, generation, bucket.info.storage_class);
        let meta = stored.meta.clone();
        bucket.set(request.name.to_string(), stored);
        Ok(meta)
    }

    async fn update_metadata(
        &self,
        id: &ObjectId,
        metadata: &BTreeMap<String, String>,
        _: &Attempt,
    ) -> Result<ObjectMeta> {
        let mut buckets = self.lock();
        let mut stored = buckets.object(id)?.clone();
        stored.meta.details.metadata.extend(metadata.clone());
        stored.meta.updated = Some(SystemTime::now());
        let meta = stored.meta.clone();
        buckets.bucket(&id.bucket)?.set(id.name.to_string(), stored);
        Ok(meta)
    }

    async fn delete(&self, id: &ObjectId, _: &Attempt) -> Result<()> {
        let mut buckets = self.lock();
        buckets.object(id)?;
        buckets.bucket(&id.bucket)?.remove(&id.name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_at_hand_is_what_a_read_would_bring() {
        let (store, attempt) = (MemoryStore::new(), Attempt::first());
        let [first, gone, other] = ["a", "b", "c"].map(|name| store.insert("cats", name, name));
        let second = store.insert("cats", "a", "A");
        let id = |name: &str, generation| ObjectId::new("cats", name, generation);
        store.delete(&id("b", gone), &attempt).await.unwrap();
        store.update_metadata(&id("c", other), &BTreeMap::new(), &attempt).await.unwrap();
        let put = store.put(&PutRequest::new("cats", "d", "D"), &attempt).await.unwrap().generation;
        let crc32c = crc32c::crc32c(b"Ac");
        let sources = vec![("a".into(), second), ("c".into(), other)];
        let compose = ComposeRequest::new("cats".into(), "e".into(), sources, 2, crc32c, SystemTime::now());
        let composed = store.compose(&compose, &attempt).await.unwrap().generation;
        let found = store.at_hand("cats", [first, second, gone, other, put, composed, 7].into_iter());
        let wanted = [None, Some("A"), None, Some("c"), Some("D"), Some("Ac"), None];
        assert_eq!(found, wanted.map(|bytes| bytes.map(Bytes::from)));
        assert_eq!(store.at_hand("dogs", [other].into_iter()), [None]);
    }

    #[tokio::test]
    async fn what_has_gone_is_told_and_what_comes_is_not() {
        let (store, attempt) = (MemoryStore::new(), Attempt::first());
        store.insert("cats", "a", "a");
        let gone = || store.gone("cats").unwrap();
        let before = gone();
        store.insert("cats", "b", "b");
        store.update_metadata(&ObjectId::new("cats", "a", None), &BTreeMap::new(), &attempt).await.unwrap();
        assert!(!before.any());
        store.insert("cats", "a", "A");
        assert!(before.any());
        let before = gone();
        store.delete(&ObjectId::new("cats", "b", None), &attempt).await.unwrap();
        assert!(before.any());
        let before = gone();
        assert!(!before.any());
        let _ = store.clone().with_bucket("cats");
        assert!(before.any(), "the bucket was emptied");
        assert!(store.gone("dogs").is_none());
    }
}
