//! All buckets of an emulator.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

use crate::{
    buckets::stored::StoredBucket,
    locks::{read, write},
    refusal::Refusal,
    timestamp,
};

/// All buckets of an emulator, and the clock of generations.
#[derive(Default)]
pub(crate) struct BucketRegistry {
    buckets: RwLock<BTreeMap<String, Arc<StoredBucket>>>,
    last_generation: AtomicI64,
}

impl BucketRegistry {
    pub(crate) fn bucket(&self, name: &str) -> Option<Arc<StoredBucket>> {
        read(&self.buckets).get(name).cloned()
    }

    /// All buckets, ordered by name.
    pub(crate) fn all(&self) -> Vec<Arc<StoredBucket>> {
        read(&self.buckets).values().cloned().collect()
    }

    /// Adds a bucket. Returns false when there is one with its name already.
    pub(crate) fn add(&self, bucket: StoredBucket) -> bool {
        let mut buckets = write(&self.buckets);
        if buckets.contains_key(&bucket.name) {
            return false;
        }
        buckets.insert(bucket.name.clone(), Arc::new(bucket));
        true
    }

    /// Removes a bucket, which must be empty.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Refusal> {
        let mut buckets = write(&self.buckets);
        let bucket = buckets.get(name).ok_or_else(Refusal::no_bucket)?;
        if !bucket.is_empty() {
            return Err(Refusal::new(409, "conflict", "The bucket you tried to delete is not empty."));
        }
        buckets.remove(name);
        Ok(())
    }

    /// A new generation: the time in microseconds since 1970, or one more than the last generation if that is larger.
    pub(crate) fn next_generation(&self) -> i64 {
        let now = timestamp::now();
        let next = |last: i64| now.max(last + 1);
        let updated = self.last_generation.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(updated.unwrap_or_else(|last| last))
    }
}
