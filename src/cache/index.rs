//! The index in memory: which segment holds each sample, and where. Nothing here reads or writes files.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{PoisonError, RwLock};

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordLocation {
    pub(super) segment: u32,
    /// Where in the segment the record begins, in units of 8 bytes.
    pub(super) at_unit: u32,
}

/// Number of tables that the index is divided into by hash. A table that grows is rebuilt under its lock. With 10^8
/// samples each table has 390,000 entries, for which that takes milliseconds instead of seconds.
const PARTS: usize = 256;

/// Locations of records by the hashes of their keys.
///
/// An entry takes 17 bytes in tables that are between 7/16 and 7/8 full, so a sample takes 20 to 39 bytes of memory.
#[derive(Debug)]
pub(super) struct Index(Box<[RwLock<IndexPart>]>);

#[derive(Debug, Default)]
struct IndexPart {
    locations: HashMap<u64, RecordLocation, BuildHasherDefault<IdentityHasher>>,
    /// Number of entries in each segment that exists.
    segments: HashMap<u32, u64>,
    /// Number of entries in segments that were removed.
    stale: u64,
}

/// A hasher that returns the key, which is a hash already.
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

    /// Adds an entry, and replaces an earlier one of the same hash.
    pub(super) fn insert(&self, hash: u64, location: RecordLocation) {
        self.part(hash).write().unwrap_or_else(PoisonError::into_inner).insert(hash, location);
    }

    /// Removes an entry, unless it has another location by now.
    pub(super) fn remove(&self, hash: u64, location: RecordLocation) {
        self.part(hash).write().unwrap_or_else(PoisonError::into_inner).remove(hash, location);
    }

    /// Removes a segment with all its entries.
    pub(super) fn remove_segment(&self, number: u32) {
        for part in &self.0 {
            part.write().unwrap_or_else(PoisonError::into_inner).remove_segment(number);
        }
    }

    /// Number of samples in the index.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|part| part.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Selects by bits that matter little to the hash tables, which use the lowest and the highest ones.
    fn part(&self, hash: u64) -> &RwLock<IndexPart> {
        &self.0[(hash >> 40) as usize % PARTS]
    }
}

impl IndexPart {
    fn get(&self, hash: u64) -> Option<RecordLocation> {
        self.locations.get(&hash).copied().filter(|location| self.segments.contains_key(&location.segment))
    }

    fn insert(&mut self, hash: u64, location: RecordLocation) {
        *self.segments.entry(location.segment).or_default() += 1;
        if let Some(replaced) = self.locations.insert(hash, location) {
            self.count_removed(replaced);
        }
    }

    fn remove(&mut self, hash: u64, location: RecordLocation) {
        if self.locations.get(&hash) == Some(&location) {
            self.locations.remove(&hash);
            self.count_removed(location);
        }
    }

    /// Entries of a removed segment stay until they are replaced, and `get` ignores them. Once they are more than half
    /// of the table, all of them are removed together, so that each costs two steps at most.
    fn remove_segment(&mut self, number: u32) {
        self.stale += self.segments.remove(&number).unwrap_or(0);
        if self.stale * 2 > self.locations.len() as u64 {
            self.locations.retain(|_, location| self.segments.contains_key(&location.segment));
            self.stale = 0;
        }
    }

    fn len(&self) -> u64 {
        self.locations.len() as u64 - self.stale
    }

    /// Corrects the counts for an entry that was removed or replaced.
    fn count_removed(&mut self, location: RecordLocation) {
        match self.segments.get_mut(&location.segment) {
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

    /// A hash in one of three parts.
    fn spread(hash: u64) -> u64 {
        hash | (hash % 3) << 40
    }

    #[test]
    fn no_part_has_many_more_than_its_share() {
        let index = Index::default();
        for number in 0..100 * PARTS as u32 {
            let name = format!("train/{number:08}.jpg");
            let key = crate::cache::CacheKey::of_generation("data", &name, 1);
            index.insert(key.hash(), RecordLocation { segment: 0, at_unit: number });
        }
        let most = index.0.iter().map(|part| part.read().unwrap().len()).max();
        assert!(most < Some(200), "{most:?}");
    }

    proptest! {
        #[test]
        fn the_index_is_a_map_whose_segments_can_be_removed(
            steps in prop::collection::vec((0u8..8, 0u64..50, 0u32..6, any::<u32>()), 0..300),
        ) {
            let index = Index::default();
            let mut model: HashMap<u64, RecordLocation> = HashMap::new();
            // A number is not reused after its segment was removed.
            let mut number = [0, 1, 2, 3, 4, 5];
            for (what, hash, which, at_unit) in steps {
                let (segment, hash) = (number[which as usize], spread(hash));
                match what {
                    0 => {
                        number[which as usize] += 6;
                        index.remove_segment(segment);
                        model.retain(|_, location| location.segment != segment);
                    }
                    1 => {
                        if let Some(location) = index.get(hash) {
                            index.remove(hash, location);
                            index.remove(hash, RecordLocation { segment, at_unit });
                        }
                        model.remove(&hash);
                    }
                    _ => {
                        index.insert(hash, RecordLocation { segment, at_unit });
                        model.insert(hash, RecordLocation { segment, at_unit });
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
