//! Where each sample is: pure.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{PoisonError, RwLock};

/// A record: its segment, and where it begins there in units of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordLocation {
    pub(super) segment: u32,
    pub(super) at: u32,
}

/// Tables that the index is divided into by hash. One that grows is made anew under its lock: of 10^8 samples each has
/// 390,000, for which that takes milliseconds, and not seconds.
const PARTS: usize = 256;

/// From hashes of keys to places.
///
/// 17 bytes an entry in tables that are between 7/16 and 7/8 full, so that a sample takes 20 to 39 bytes of memory.
#[derive(Debug)]
pub(super) struct Index(Box<[RwLock<IndexPart>]>);

#[derive(Debug, Default)]
struct IndexPart {
    places: HashMap<u64, RecordLocation, BuildHasherDefault<IdentityHasher>>,
    /// Entries of each segment that is there.
    segments: HashMap<u32, u64>,
    /// Entries of segments that are gone.
    stale: u64,
}

/// Takes a hash for a hash.
#[derive(Debug, Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Default for Index {
    fn default() -> Self {
        Self((0..PARTS).map(|_| RwLock::default()).collect())
    }
}

impl Index {
    pub(super) fn get(&self, hash: u64) -> Option<RecordLocation> {
        self.part(hash).read().unwrap_or_else(PoisonError::into_inner).get(hash)
    }

    /// Of two places the later one counts.
    pub(super) fn insert(&self, hash: u64, place: RecordLocation) {
        self.part(hash).write().unwrap_or_else(PoisonError::into_inner).insert(hash, place);
    }

    /// Takes an entry out, if it still says so.
    pub(super) fn remove(&self, hash: u64, place: RecordLocation) {
        self.part(hash).write().unwrap_or_else(PoisonError::into_inner).remove(hash, place);
    }

    /// Takes a segment out with all its entries.
    pub(super) fn remove_segment(&self, number: u32) {
        for part in &self.0 {
            part.write().unwrap_or_else(PoisonError::into_inner).remove_segment(number);
        }
    }

    /// Samples that are there.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|part| part.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// By bits that the tables make little of, who take the lowest and the highest.
    fn part(&self, hash: u64) -> &RwLock<IndexPart> {
        &self.0[(hash >> 40) as usize % PARTS]
    }
}

impl IndexPart {
    fn get(&self, hash: u64) -> Option<RecordLocation> {
        self.places.get(&hash).copied().filter(|place| self.segments.contains_key(&place.segment))
    }

    fn insert(&mut self, hash: u64, place: RecordLocation) {
        *self.segments.entry(place.segment).or_default() += 1;
        if let Some(before) = self.places.insert(hash, place) {
            self.forget(before);
        }
    }

    fn remove(&mut self, hash: u64, place: RecordLocation) {
        if self.places.get(&hash) == Some(&place) {
            self.places.remove(&hash);
            self.forget(place);
        }
    }

    /// Entries of a segment that goes are found when they are looked up, or all together when there are
    /// as many as others, so that each costs two steps at most.
    fn remove_segment(&mut self, number: u32) {
        self.stale += self.segments.remove(&number).unwrap_or(0);
        if self.stale * 2 > self.places.len() as u64 {
            self.places.retain(|_, place| self.segments.contains_key(&place.segment));
            self.stale = 0;
        }
    }

    fn len(&self) -> u64 {
        self.places.len() as u64 - self.stale
    }

    fn forget(&mut self, place: RecordLocation) {
        match self.segments.get_mut(&place.segment) {
            Some(entries) => *entries -= 1,
            None => self.stale -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Over some parts.
    fn spread(hash: u64) -> u64 {
        hash | (hash % 3) << 40
    }

    #[test]
    fn no_part_has_many_more_than_its_share() {
        let index = Index::default();
        for number in 0..100 * PARTS as u32 {
            let key = crate::cache::CacheKey { bucket: "data", name: &format!("train/{number:08}.jpg"), generation: 1 };
            index.insert(key.hash(), RecordLocation { segment: 0, at: number });
        }
        let most = index.0.iter().map(|part| part.read().unwrap().len()).max();
        assert!(most < Some(200), "{most:?}");
    }

    proptest! {
        #[test]
        fn it_is_a_map_from_which_segments_can_be_taken(
            steps in prop::collection::vec((0u8..8, 0u64..50, 0u32..6, any::<u32>()), 0..300),
        ) {
            let index = Index::default();
            let mut model: HashMap<u64, RecordLocation> = HashMap::new();
            // No number comes again once its segment is gone.
            let mut number = [0, 1, 2, 3, 4, 5];
            for (what, hash, which, at) in steps {
                let (segment, hash) = (number[which as usize], spread(hash));
                match what {
                    0 => {
                        number[which as usize] += 6;
                        index.remove_segment(segment);
                        model.retain(|_, place| place.segment != segment);
                    }
                    1 => {
                        if let Some(place) = index.get(hash) {
                            index.remove(hash, place);
                            index.remove(hash, RecordLocation { segment, at });
                        }
                        model.remove(&hash);
                    }
                    _ => {
                        index.insert(hash, RecordLocation { segment, at });
                        model.insert(hash, RecordLocation { segment, at });
                    }
                }
                prop_assert_eq!(index.len(), model.len() as u64);
                for hash in (0..50).map(spread) {
                    prop_assert_eq!(index.get(hash), model.get(&hash).copied());
                }
            }
        }
    }
}
