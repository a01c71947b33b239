//! One bucket: its configuration and its objects.
//!
//! A bucket is a read-only base (nothing, a virtual namespace or a directory) under an overlay, an ordered map of what
//! was written since; a removed base object leaves a tombstone there. The overlay sits behind one `RwLock`. Entries
//! are `Arc`s to versions that never change, so a reader holds the lock for one look-up, a list page for the merge of
//! at most one page of keys, and nobody while a body is sent or a page is rendered. An immutable snapshot per write
//! would free readers of the lock altogether, but costs time proportional to the bucket on every write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

use serde_json::{Map, Value};

use crate::{
    content::{Content, Segment},
    error::Refusal,
    folder::Folder,
    limits::Limits,
    lock::{read, write},
    object::{Attributes, Object},
    service::Request,
    timestamp,
    virtual_ns::VirtualSpec,
};

/// How a bucket is set up.
///
/// ```
/// use dataflux_emulator::BucketConfig;
/// let config = BucketConfig { soft_delete_seconds: 0, ..BucketConfig::default() };
/// assert_eq!(config.location, "US-CENTRAL1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketConfig {
    /// The region, `US-CENTRAL1` unless told.
    pub location: String,
    /// `region`, `dual-region` or `multi-region`.
    pub location_type: String,
    /// The class of objects that do not say theirs.
    pub storage_class: String,
    /// How long deleted objects are kept (and billed), in seconds; 0 for off. Seven days unless told, as in the
    /// service. The emulator reports it and keeps nothing.
    pub soft_delete_seconds: u64,
    /// The age in seconds below which an object can neither be deleted nor overwritten.
    pub retention_seconds: Option<u64>,
    /// New objects are held: they cannot be deleted until the hold is released.
    pub default_event_based_hold: bool,
    /// Whether folders are real. Reported only.
    pub hierarchical_namespace: bool,
    /// Refuse requests that name no project to bill.
    pub requester_pays: bool,
    /// Permissions that no caller has, such as `storage.objects.create`. Every caller counts as a known principal, also
    /// one without credentials, and gets 403.
    pub denied: BTreeSet<String>,
    /// Permissions that anonymous callers lack: requests without an `Authorization` header get 401, as in the service.
    /// Goes before `denied`; callers with credentials, which are not looked at, lack only what `denied` has.
    pub denied_anonymous: BTreeSet<String>,
}

impl Default for BucketConfig {
    fn default() -> Self {
        Self {
            location: "US-CENTRAL1".to_owned(),
            location_type: "region".to_owned(),
            storage_class: "STANDARD".to_owned(),
            soft_delete_seconds: 7 * 24 * 3_600,
            retention_seconds: None,
            default_event_based_hold: false,
            hierarchical_namespace: false,
            requester_pays: false,
            denied: BTreeSet::new(),
            denied_anonymous: BTreeSet::new(),
        }
    }
}

/// What a bucket starts out with.
pub(crate) enum Base {
    Empty,
    Virtual(VirtualSpec),
    Folder(Folder),
}

impl Base {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Virtual(spec) => spec.len(),
            Self::Folder(folder) => folder.len(),
        }
    }

    /// The first index whose name is not below `bound`.
    pub(crate) fn lower_bound(&self, bound: &[u8]) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Virtual(spec) => spec.lower_bound(bound),
            Self::Folder(folder) => folder.lower_bound(bound),
        }
    }

    /// Replaces `out` by the name of index `i`.
    pub(crate) fn name(&self, i: u64, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Empty => {}
            Self::Virtual(spec) => spec.write_name(i, out),
            Self::Folder(folder) => out.extend_from_slice(folder.name(i).as_bytes()),
        }
    }

    /// The object of index `i`, which there must be. Refuses for a file that is not what it was.
    pub(crate) fn object(&self, i: u64) -> Result<Option<Arc<Object>>, Refusal> {
        Ok(match self {
            Self::Empty => None,
            Self::Virtual(spec) => Some(Arc::new(Object {
                name: spec.name(i),
                generation: spec.generation(i),
                metageneration: 1,
                crc32c: spec.crc32c(i),
                md5: None,
                component_count: None,
                created: VirtualSpec::CREATED,
                updated: VirtualSpec::CREATED,
                attributes: Attributes { storage_class: Some(spec.class().to_owned()), ..Attributes::default() },
                content: Content::new([Segment::Virtual { spec: spec.clone(), index: i }]),
            })),
            Self::Folder(folder) => Some(folder.object(i).map_err(|why| Refusal::file(folder.name(i), &why))?),
        })
    }

    fn index(&self, name: &str) -> Option<u64> {
        let index = Some(self.lower_bound(name.as_bytes())).filter(|index| *index < self.len())?;
        let mut found = Vec::new();
        self.name(index, &mut found);
        (found == name.as_bytes()).then_some(index)
    }

    fn find(&self, name: &str) -> Result<Option<Arc<Object>>, Refusal> {
        self.index(name).map_or(Ok(None), |index| self.object(index))
    }
}

/// Live versions and tombstones by the bytes of their names.
pub(crate) type Overlay = BTreeMap<Vec<u8>, Option<Arc<Object>>>;

/// What may change about a bucket.
pub(crate) struct Settings {
    pub(crate) config: BucketConfig,
    pub(crate) metageneration: u64,
    pub(crate) updated: i64,
    /// Fields that the emulator stores and does not act upon, such as labels and lifecycle rules.
    pub(crate) extra: Map<String, Value>,
}

pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) created: i64,
    pub(crate) settings: RwLock<Settings>,
    pub(crate) base: Base,
    pub(crate) overlay: RwLock<Overlay>,
    pub(crate) limits: Mutex<Limits>,
}

impl Bucket {
    pub(crate) fn new(name: &str, config: BucketConfig, base: Base) -> Self {
        let created = timestamp::now();
        Self {
            name: name.to_owned(),
            created,
            settings: RwLock::new(Settings { config, metageneration: 1, updated: created, extra: Map::new() }),
            base,
            overlay: RwLock::default(),
            limits: Mutex::default(),
        }
    }

    pub(crate) fn config(&self) -> BucketConfig {
        read(&self.settings).config.clone()
    }

    /// Refuses when the caller lacks a permission.
    pub(crate) fn allows(&self, permission: &str, request: &Request) -> Result<(), Refusal> {
        let config = &read(&self.settings).config;
        if request.is_anonymous() && config.denied_anonymous.contains(permission) {
            return Err(Refusal::denied_anonymous(permission));
        }
        if config.denied.contains(permission) {
            return Err(Refusal::denied(permission));
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Result<Option<Arc<Object>>, Refusal> {
        if let Some(entry) = read(&self.overlay).get(name.as_bytes()) {
            return Ok(entry.clone());
        }
        self.base.find(name)
    }

    pub(crate) fn require(&self, name: &str) -> Result<Arc<Object>, Refusal> {
        self.get(name)?.ok_or_else(|| Refusal::no_object(&self.name, name))
    }

    /// Replaces the version under `name` by what `change` makes of it: None removes it. Atomic.
    pub(crate) fn change(
        &self,
        name: &str,
        change: impl FnOnce(Option<&Arc<Object>>) -> Result<Option<Arc<Object>>, Refusal>,
    ) -> Result<(), Refusal> {
        // Looked up before the lock is taken: the first look at a file reads all of it. The base never changes.
        let beneath = self.base.find(name);
        let covers = !matches!(beneath, Ok(None));
        let mut overlay = write(&self.overlay);
        // Below an entry of the overlay the file may be what it likes.
        let current = match overlay.get(name.as_bytes()) {
            Some(entry) => entry.clone(),
            None => beneath?,
        };
        lay(&mut overlay, name, change(current.as_ref())?, covers);
        Ok(())
    }

    /// Puts `object`, or nothing, under `name` whatever is there, a file that changed included; whether anything was.
    pub(crate) fn replace(&self, name: &str, object: Option<Arc<Object>>) -> bool {
        let covers = self.base.index(name).is_some();
        let mut overlay = write(&self.overlay);
        let existed = overlay.get(name.as_bytes()).map_or(covers, Option::is_some);
        lay(&mut overlay, name, object, covers);
        existed
    }

    /// Whether there is no live object.
    pub(crate) fn is_empty(&self) -> bool {
        let overlay = read(&self.overlay);
        let removed = overlay.values().filter(|entry| entry.is_none()).count() as u64;
        removed == overlay.len() as u64 && removed >= self.base.len()
    }

    /// Refuses to lose `object` while a hold or the retention policy protects it.
    pub(crate) fn may_lose(&self, object: &Object) -> Result<(), Refusal> {
        let held = object.attributes.temporary_hold || object.attributes.event_based_hold;
        if held {
            let message = format!(
                "Object '{}/{}' is under active Temporary hold or Event-Based hold and cannot be deleted, overwritten \
                 or archived until hold is removed.",
                self.name, object.name
            );
            return Err(Refusal::new(403, "objectUnderActiveHold", message));
        }
        let Some(seconds) = read(&self.settings).config.retention_seconds else { return Ok(()) };
        let until = object.created.saturating_add((seconds as i64).saturating_mul(1_000_000));
        if timestamp::now() < until {
            let message = format!(
                "Object '{}/{}' is subject to bucket's retention policy or object retention and cannot be deleted or \
                 overwritten until {}",
                self.name,
                object.name,
                timestamp::rfc3339(until)
            );
            return Err(Refusal::new(403, "retentionPolicyNotMet", message));
        }
        Ok(())
    }
}

/// Replaces an entry; `covers` tells whether the base has one of that name.
fn lay(overlay: &mut Overlay, name: &str, object: Option<Arc<Object>>, covers: bool) {
    if object.is_some() || covers {
        overlay.insert(name.as_bytes().to_vec(), object);
    } else {
        overlay.remove(name.as_bytes());
    }
}

/// All buckets, and the clock of generations.
#[derive(Default)]
pub(crate) struct Namespace {
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    generation: AtomicI64,
}

impl Namespace {
    pub(crate) fn bucket(&self, name: &str) -> Option<Arc<Bucket>> {
        read(&self.buckets).get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Bucket>> {
        read(&self.buckets).values().cloned().collect()
    }

    /// Adds a bucket; false when there is one of that name.
    pub(crate) fn add(&self, bucket: Bucket) -> bool {
        let mut buckets = write(&self.buckets);
        if buckets.contains_key(&bucket.name) {
            return false;
        }
        buckets.insert(bucket.name.clone(), Arc::new(bucket));
        true
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Refusal> {
        let mut buckets = write(&self.buckets);
        let bucket = buckets.get(name).ok_or_else(Refusal::no_bucket)?;
        if !bucket.is_empty() {
            return Err(Refusal::new(409, "conflict", "The bucket you tried to delete is not empty."));
        }
        buckets.remove(name);
        Ok(())
    }

    /// A fresh generation: the time in microseconds, or one more than the last where that is later.
    pub(crate) fn next_generation(&self) -> i64 {
        let now = timestamp::now();
        let last = self.generation.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        now.max(last.unwrap_or_else(|last| last) + 1)
    }
}
