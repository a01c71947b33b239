//! A sampler of some of the samples.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use super::sampler::{NOWHERE, Orders, Sampler, Scope};
use super::{SampleId, Sequential, wrong};
use crate::Result;
use crate::manifest::{Digest, EntryRef, Manifest};

/// Some of the samples, as another sampler orders them; by name unless [`then`](Self::then) sets another sampler.
///
/// Subsets can be nested. A [`range`](Self::range) within another subset counts places in that subset, so that
/// `Subset::below(..)?.then(Subset::range(0..100))` is the first hundred samples of a folder. Any other subset within
/// another one consists of the samples that are in both. These are found when the loader is built: by a few look-ups
/// for a folder, by one look-up for each sample of a list, whose copy takes another 8 bytes for each sample.
///
/// Looking up a position takes a look-up in the other sampler's order, and one in the list where there is one.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::sample::{Shuffle, Subset};
/// use dataflux::{DataLoader, DatafluxDataset};
/// # let store = MemoryStore::new();
/// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), vec![0; n]));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// let small = Subset::filter(dataset.manifest(), |entry| entry.size < 50)?;
/// let loader = DataLoader::builder(dataset).sampler(small.then(Shuffle::new(42))).build()?;
/// assert_eq!(loader.epoch(0)?.count(), 50);
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Subset {
    chosen: ChosenSamples,
    /// Digest of the manifest that the samples were chosen from, where they were.
    of: Option<Digest>,
    then: Arc<dyn Sampler>,
}

#[derive(Clone)]
enum ChosenSamples {
    /// Numbers of samples in the scope that the subset is used with.
    Numbers(Range<u64>),
    /// Indexes in the manifest.
    Range(Range<u64>),
    /// Indexes in the manifest, sorted and each once, and their fingerprint.
    List(Arc<[u64]>, String),
}

/// Without the list, which may have millions.
impl fmt::Debug for ChosenSamples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers(range) => write!(f, "range={}..{}", range.start, range.end),
            Self::Range(range) => write!(f, "{}..{}", range.start, range.end),
            Self::List(ids, fingerprint) => write!(f, "{} of {fingerprint}", ids.len()),
        }
    }
}

impl ChosenSamples {
    fn list(ids: Vec<u64>) -> Self {
        let fingerprint = fingerprint(ids.iter().map(|id| id.to_le_bytes()));
        Self::List(ids.into(), fingerprint)
    }
}

impl Subset {
    /// The samples at these places in byte order of names, counted from 0. It takes no memory for each sample.
    pub fn range(places: Range<u64>) -> Self {
        Self { chosen: ChosenSamples::Numbers(places), of: None, then: Arc::new(Sequential) }
    }

    /// The samples with these indexes in the manifest, each once, whatever the order of `ids`. It takes 8 bytes for
    /// each sample.
    pub fn ids(ids: impl IntoIterator<Item = SampleId>) -> Self {
        let mut ids: Vec<_> = ids.into_iter().map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        Self { chosen: ChosenSamples::list(ids), of: None, then: Arc::new(Sequential) }
    }

    /// The samples whose names begin with `prefix`, for example `train/cats/`, for a loader of this manifest and no
    /// other. It takes no memory for each sample, and a few look-ups. Waits for the end of the listing.
    ///
    /// # Errors
    /// No sample has a name that begins with `prefix`, where names are whole names in the bucket; the listing failed;
    /// the manifest's file was written to since it was opened.
    pub fn below(manifest: &Manifest, prefix: &str) -> Result<Self> {
        manifest.complete()?;
        // These samples are neighbours, since names are in byte order.
        let first = first_where(manifest, 0, |name| name >= prefix)?;
        let end = first_where(manifest, first, |name| !name.starts_with(prefix))?;
        if first == end {
            let example = manifest.at(0)?.name;
            return Err(wrong("no sample's name begins so")
                .object(manifest.prefix())
                .mismatch(format_args!("the beginning of a whole name, such as {example}"), format_args!("{prefix:?}"))
                .hint("give the name from the bucket on, without gs:// and the bucket"));
        }
        Ok(Self { chosen: ChosenSamples::Range(first..end), of: Some(manifest.digest()), then: Arc::new(Sequential) })
    }

    /// The samples for which `keep` returns true, for a loader of this manifest and no other. It takes 8 bytes for each
    /// sample. Waits for the end of the listing, and looks at every sample once, which takes a second for some 20
    /// million.
    ///
    /// Where no run wants the other samples, a [`Filter`](crate::list::Filter) on opening leaves them out of the
    /// manifest.
    ///
    /// # Errors
    /// The listing failed; the manifest's file was written to since it was opened.
    pub fn filter(manifest: &Manifest, mut keep: impl FnMut(EntryRef<'_>) -> bool) -> Result<Self> {
        let (mut ids, mut index) = (Vec::new(), 0);
        let mut entries = manifest.entries();
        while let Some(entry) = entries.next()? {
            if keep(entry) {
                ids.push(index);
            }
            index += 1;
        }
        Ok(Self::of_manifest(manifest, ids))
    }

    /// A subset of these indexes, in any order, for a loader of this manifest and no other.
    pub(super) fn of_manifest(manifest: &Manifest, mut indexes: Vec<u64>) -> Self {
        indexes.sort_unstable();
        Self { chosen: ChosenSamples::list(indexes), of: Some(manifest.digest()), then: Arc::new(Sequential) }
    }

    /// Orders the samples by `sampler`.
    #[must_use]
    pub fn then(mut self, sampler: impl Sampler) -> Self {
        self.then = Arc::new(sampler);
        self
    }

    fn is_empty(&self) -> bool {
        match &self.chosen {
            ChosenSamples::Numbers(range) | ChosenSamples::Range(range) => range.is_empty(),
            ChosenSamples::List(ids, _) => ids.is_empty(),
        }
    }

    /// The number after the highest one that was chosen.
    fn end(&self) -> u64 {
        match &self.chosen {
            ChosenSamples::Numbers(range) | ChosenSamples::Range(range) => range.end,
            ChosenSamples::List(ids, _) => ids.last().map_or(0, |last| last.saturating_add(1)),
        }
    }
}

/// Samples by their numbers in a scope.
#[derive(Clone)]
enum ScopeNumbers {
    Range(Range<u64>),
    List(Arc<[u64]>),
}

impl ScopeNumbers {
    fn len(&self) -> u64 {
        match self {
            Self::Range(range) => range.end.saturating_sub(range.start),
            Self::List(list) => list.len() as u64,
        }
    }

    fn at(&self, place: u64) -> u64 {
        match self {
            Self::Range(range) => range.start + place,
            Self::List(list) => list[place as usize],
        }
    }
}

impl Sampler for Subset {
    fn identity(&self) -> String {
        // The samples as they were chosen, since the samples found depend on the scope.
        format!("subset({:?}, {})", self.chosen, self.then.identity())
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let digest = scope.manifest().digest();
        if let Some(of) = self.of
            && let Some(difference) = of.difference(&digest)
        {
            return Err(wrong(&format!("this subset was chosen from other data: {difference}"))
                .mismatch(format_args!("a manifest of digest {of}"), digest)
                .hint("choose it from the manifest of the data set that it is used with"));
        }
        if self.is_empty() {
            return Err(wrong("this subset has no samples")
                .mismatch("at least 1", 0)
                .hint("look at the range, the ids or the predicate that it was made of"));
        }
        let (end, all) = match self.chosen {
            ChosenSamples::Numbers(_) => (self.end(), scope.len()),
            _ => (self.end(), scope.indexes()),
        };
        if end > all {
            return Err(wrong("this subset has samples that aren't there")
                .object(scope.manifest().prefix())
                .mismatch(format_args!("indexes below {all}"), end - 1)
                .hint("make it for the data set, or the subset, that it is used with"));
        }
        // The numbers in the scope of the samples that were chosen.
        let numbers = match &self.chosen {
            ChosenSamples::Numbers(range) => ScopeNumbers::Range(range.clone()),
            ChosenSamples::Range(range) => ScopeNumbers::Range(scope.numbers(range.clone())),
            ChosenSamples::List(ids, _) if scope.is_numbered_by_index() => ScopeNumbers::List(Arc::clone(ids)),
            ChosenSamples::List(ids, _) => {
                ScopeNumbers::List(ids.iter().flat_map(|id| scope.numbers(*id..*id + 1)).collect())
            }
        };
        let samples = numbers.len();
        if samples == 0 {
            return Err(wrong("this subset and the one that it is used within have no sample in common")
                .object(scope.manifest().prefix())
                .mismatch(format_args!("some of {} samples", scope.len()), format_args!("{:?}", self.chosen))
                .hint("choose it from the samples of the other, or leave one of them out"));
        }
        let place = numbers.clone();
        let inner = self.then.orders(&scope.narrow(samples, move |number| place.at(number)))?;
        Ok(Orders::new(inner.len(), move |epoch| {
            let (mut order, numbers) = (inner.order(epoch), numbers.clone());
            move |position| {
                let number = order.at(position).0;
                // The inner sampler may name a number that the subset doesn't have.
                if number < samples { numbers.at(number) } else { NOWHERE }
            }
        }))
    }
}

/// The first index from `low` on for whose name `holds` is true, where it is true for all names behind that one; the
/// length of the manifest where it is true for none.
fn first_where(manifest: &Manifest, mut low: u64, holds: impl Fn(&str) -> bool) -> Result<u64> {
    let mut high = manifest.len();
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(&manifest.at(middle)?.name) { high = middle } else { low = middle + 1 }
    }
    Ok(low)
}

/// A hash of a list, in 16 hex digits, by which samplers' identities tell lists apart.
pub(super) fn fingerprint<const N: usize>(items: impl Iterator<Item = [u8; N]>) -> String {
    let mut context = Context::new(&SHA256);
    items.for_each(|item| context.update(&item));
    let hash = context.finish();
    hash.as_ref().first_chunk().map_or_else(String::new, |first| format!("{:016x}", u64::from_be_bytes(*first)))
}
