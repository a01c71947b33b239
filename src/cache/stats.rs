//! Statistics of an epoch's use of the cache.

use std::sync::atomic::{AtomicU64, Ordering};

/// Statistics of an epoch's use of a [`Cache`](crate::Cache).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Samples read from the cache.
    pub hits: u64,
    /// Samples read from the bucket, including those that the cache doesn't keep. Empty samples count neither here nor
    /// as hits.
    pub misses: u64,
    /// Bytes of the samples read from the cache.
    pub bytes_read: u64,
    /// Bytes written to the cache so far, including names and record heads. Samples are written in the background; the
    /// end of an epoch waits for that.
    pub bytes_written: u64,
}

/// Running counts of [`CacheStats`].
#[derive(Debug, Default)]
pub(crate) struct CacheCounts {
    hits: AtomicU64,
    misses: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl CacheCounts {
    pub(crate) fn add_hit(&self, bytes: u64) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_written(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let [hits, misses, bytes_read, bytes_written] =
            [&self.hits, &self.misses, &self.bytes_read, &self.bytes_written].map(|n| n.load(Ordering::Relaxed));
        CacheStats { hits, misses, bytes_read, bytes_written }
    }
}
