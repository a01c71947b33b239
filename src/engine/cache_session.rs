//! How an epoch finds, reads, claims and adds samples of the cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::cache::{Cache, CacheCounts, CacheKey, CacheRequest, CacheStats, ClaimOutcome, RecordLocation};
use crate::manifest::{Location, Manifest};
use crate::read::RawSample;
use crate::sample::SampleId;
use crate::store::Buffers;

/// The cache as one epoch uses it.
#[derive(Clone, Debug)]
pub(crate) struct CacheSession {
    pub(crate) cache: Cache,
    counts: Arc<CacheCounts>,
    manifest: Arc<Manifest>,
}

/// What the cache has of some samples: those that a cache can hold, by their slots.
pub(crate) struct CacheLookup(BTreeMap<usize, LookedUpSample>);

struct LookedUpSample {
    hash: u64,
    hit: Option<CacheHit>,
}

impl CacheLookup {
    /// The hash of a sample that a cache can hold.
    pub(crate) fn hash(&self, slot: usize) -> Option<u64> {
        Some(self.0.get(&slot)?.hash)
    }

    pub(crate) fn has_hit(&self, slot: usize) -> bool {
        self.0.get(&slot).is_some_and(|sample| sample.hit.is_some())
    }

    pub(crate) fn take_hit(&mut self, slot: usize) -> Option<CacheHit> {
        self.0.get_mut(&slot)?.hit.take()
    }

    /// The samples that are in the cache, in the order of their slots.
    pub(crate) fn hits(&self) -> impl Iterator<Item = (usize, &CacheHit)> {
        self.0.iter().filter_map(|(slot, sample)| Some((*slot, sample.hit.as_ref()?)))
    }
}

/// A sample that is in the cache.
pub(crate) struct CacheHit {
    pub(crate) location: Location,
    record: RecordLocation,
}

/// Keeps others from reading a sample, which this process reads into the cache, until it is dropped.
pub(crate) struct ReadClaim {
    cache: Cache,
    hash: u64,
}

impl Drop for ReadClaim {
    fn drop(&mut self) {
        self.cache.release(self.hash);
    }
}

/// Who reads a sample into the cache.
pub(crate) enum SampleReader {
    /// This read. There is no claim if the cache can't hold the sample, or couldn't record the claim.
    ThisOne(Option<ReadClaim>),
    /// Another loader or process, by the number of its claims.
    Other(u64),
    /// Nobody: it is in the cache by now.
    AlreadyCached,
}

impl CacheSession {
    pub(crate) fn new(cache: Cache, manifest: &Arc<Manifest>) -> Self {
        Self { cache, counts: Arc::default(), manifest: Arc::clone(manifest) }
    }

    /// The session of one epoch, with counts of its own.
    pub(crate) fn for_epoch(&self) -> Self {
        self.cache.begin_epoch();
        Self::new(self.cache.clone(), &self.manifest)
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.counts.stats()
    }

    /// The key of a sample, and the CRC that its bytes must have; `None` if a cache can't hold it.
    fn key<'a>(&'a self, location: &'a Location) -> Option<(CacheKey<'a>, u32)> {
        let key = CacheKey::new(&self.manifest.prefix().bucket, location)?;
        location.crc32c().filter(|_| self.cache.keeps(location.bytes())).map(|crc32c| (key, crc32c))
    }

    /// Looks samples up, each by its slot.
    pub(crate) fn find(&self, samples: impl Iterator<Item = (usize, SampleId)>) -> CacheLookup {
        // A sample that the manifest doesn't return is reported by the read that follows.
        let known: Vec<_> = samples
            .filter_map(|(slot, id)| {
                let location = self.manifest.location(id).ok()?;
                let hash = self.key(&location)?.0.hash();
                Some((slot, location, hash))
            })
            .collect();
        let records = self.cache.find(known.iter().map(|(_, _, hash)| *hash));
        let samples = known.into_iter().zip(records).map(|((slot, location, hash), record)| {
            let hit = record.map(|record| CacheHit { location, record });
            (slot, LookedUpSample { hash, hit })
        });
        CacheLookup(samples.collect())
    }

    /// Reads samples into one buffer and verifies them; `None` for each that turned out not to be in the cache. Blocks.
    pub(crate) fn read(&self, hits: &[CacheHit], buffers: &Arc<Buffers>) -> Vec<Option<Bytes>> {
        let requests = hits.iter().filter_map(|CacheHit { location, record }| {
            let (key, crc32c) = self.key(location)?;
            Some(CacheRequest { key, location: *record, size: location.bytes(), crc32c })
        });
        let requests: Vec<_> = requests.collect();
        let size = requests.iter().map(CacheRequest::bytes).sum();
        let Ok(mut buffer) = buffers.take(size) else { return vec![None; hits.len()] };
        let ranges = self.cache.read(&requests, buffer.fill(size));
        let bytes: Bytes = buffer.freeze();
        let found = ranges.into_iter().map(|range| {
            let range = range?;
            self.counts.add_hit(range.len() as u64);
            Some(bytes.slice(range))
        });
        found.collect()
    }

    /// Adds a sample that was read from elsewhere.
    pub(crate) fn put(&self, sample: &RawSample) {
        if sample.location().bytes() > 0 {
            self.counts.add_miss();
        }
        if let Some((key, crc32c)) = self.key(sample.location()) {
            self.cache.put(&key, crc32c, sample.all_bytes(), &self.counts);
        }
    }

    /// Claims samples that are to be read into the cache, by their hashes. Blocks for moments.
    pub(crate) fn claim(&self, hashes: &[u64]) -> Vec<SampleReader> {
        let claims = self.cache.claim(hashes);
        // A process that held a claim before has written the sample by now, or never will.
        self.cache.refresh();
        let locations = self.cache.find(hashes.iter().copied());
        let claimed = claims.into_iter().zip(locations).zip(hashes);
        let readers = claimed.map(|((claim, location), &hash)| {
            let own = (claim == ClaimOutcome::Mine).then(|| ReadClaim { cache: self.cache.clone(), hash });
            match (claim, location) {
                (ClaimOutcome::Theirs(reader), _) => SampleReader::Other(reader),
                (_, Some(_)) => SampleReader::AlreadyCached,
                (_, None) => SampleReader::ThisOne(own),
            }
        });
        readers.collect()
    }
}
