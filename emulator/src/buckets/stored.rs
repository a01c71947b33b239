//! One bucket: its settings and its objects.
//!
//! A bucket is a read-only base (nothing, a virtual namespace or a directory) and an overlay: an ordered map of all
//! later writes, where a deleted base object leaves a tombstone. One `RwLock` protects the overlay, whose entries are
//! `Arc`s to versions that never change. So a reader holds the lock for one look-up, and a listing holds it for the
//! merge of one page of keys at most. Nothing holds it while a body is sent or a page is rendered. With an immutable
//! snapshot for each write, readers would need no lock, but each write would take time proportional to the size of the
//! bucket.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, RwLock},
};

use serde_json::{Map, Value};

use crate::{
    buckets::{base::BucketBase, config::BucketConfig},
    locks::{read, write},
    objects::version::ObjectVersion,
    refusal::Refusal,
    timestamp,
    traffic::limits::BucketLimits,
};

/// Who makes a call, as far as permissions depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Anonymous,
    /// Any caller with credentials; the emulator does not look at them.
    Authenticated,
}

/// Live versions and tombstones (`None`), by the bytes of their names.
pub(crate) type Overlay = BTreeMap<Vec<u8>, Option<Arc<ObjectVersion>>>;

/// The settings of a bucket, which requests can change.
#[derive(Clone)]
pub(crate) struct BucketSettings {
    pub(crate) config: BucketConfig,
    pub(crate) metageneration: u64,
    /// In microseconds since 1970.
    pub(crate) updated: i64,
    /// Fields that the emulator stores and does not act on, such as labels and lifecycle rules.
    pub(crate) extra: Map<String, Value>,
}

/// A bucket of the emulator.
pub(crate) struct StoredBucket {
    pub(crate) name: String,
    /// In microseconds since 1970.
    pub(crate) created: i64,
    pub(crate) settings: RwLock<BucketSettings>,
    pub(crate) base: BucketBase,
    pub(crate) overlay: RwLock<Overlay>,
    pub(crate) limits: Mutex<BucketLimits>,
}

impl StoredBucket {
    pub(crate) fn new(name: &str, config: BucketConfig, base: BucketBase) -> Self {
        let created = timestamp::now();
        Self {
            name: name.to_owned(),
            created,
            settings: RwLock::new(BucketSettings { config, metageneration: 1, updated: created, extra: Map::new() }),
            base,
            overlay: RwLock::default(),
            limits: Mutex::default(),
        }
    }

    pub(crate) fn config(&self) -> BucketConfig {
        read(&self.settings).config.clone()
    }

    /// Refuses when the caller lacks a permission.
    pub(crate) fn check_permission(&self, permission: &str, caller: Caller) -> Result<(), Refusal> {
        let config = &read(&self.settings).config;
        if caller == Caller::Anonymous && config.denied_anonymous.contains(permission) {
            return Err(Refusal::denied_anonymous(permission));
        }
        if config.denied.contains(permission) {
            return Err(Refusal::denied(permission));
        }
        Ok(())
    }

    /// The live version of an object, if there is one.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Arc<ObjectVersion>>, Refusal> {
        if let Some(entry) = read(&self.overlay).get(name.as_bytes()) {
            return Ok(entry.clone());
        }
        self.base.find(name)
    }

    /// Replaces the version of `name` by the result of `change`, atomically. `None` deletes the object.
    pub(crate) fn change(
        &self,
        name: &str,
        change: impl FnOnce(Option<&Arc<ObjectVersion>>) -> Result<Option<Arc<ObjectVersion>>, Refusal>,
    ) -> Result<(), Refusal> {
        // Looked up before the lock is taken, because the first access to a file reads all of it. The base never
        // changes.
        let beneath = self.base.find(name);
        let is_in_base = !matches!(beneath, Ok(None));

        let mut overlay = write(&self.overlay);
        // The state of the file does not matter where the overlay has an entry.
        let current = match overlay.get(name.as_bytes()) {
            Some(entry) => entry.clone(),
            None => beneath?,
        };
        set_entry(&mut overlay, name, change(current.as_ref())?, is_in_base);
        Ok(())
    }

    /// Replaces the version of `name` without any check, even where its file has changed. `None` deletes the object.
    /// Returns whether there was an object.
    pub(crate) fn replace(&self, name: &str, object: Option<Arc<ObjectVersion>>) -> bool {
        let is_in_base = self.base.index_of(name).is_some();
        let mut overlay = write(&self.overlay);
        let existed = overlay.get(name.as_bytes()).map_or(is_in_base, Option::is_some);
        set_entry(&mut overlay, name, object, is_in_base);
        existed
    }

    /// Whether there is no live object.
    pub(crate) fn is_empty(&self) -> bool {
        let overlay = read(&self.overlay);
        let tombstones = overlay.values().filter(|entry| entry.is_none()).count() as u64;
        tombstones == overlay.len() as u64 && tombstones >= self.base.len()
    }

    /// Refuses to delete or overwrite `object` while a hold or the retention policy protects it.
    pub(crate) fn check_unprotected(&self, object: &ObjectVersion) -> Result<(), Refusal> {
        if object.attributes.temporary_hold || object.attributes.event_based_hold {
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

/// Sets or removes the overlay's entry for `name`. A deletion leaves a tombstone only if the base has the name.
fn set_entry(overlay: &mut Overlay, name: &str, object: Option<Arc<ObjectVersion>>, is_in_base: bool) {
    if object.is_some() || is_in_base {
        overlay.insert(name.as_bytes().to_vec(), object);
    } else {
        overlay.remove(name.as_bytes());
    }
}
