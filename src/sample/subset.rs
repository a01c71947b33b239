//! Some of the samples.

use std::ops::Range;
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use super::sampler::{Orders, Sampler, Scope};
use super::{SampleId, Sequential, wrong};
use crate::Result;
use crate::manifest::{Digest, EntryRef, Manifest};

/// Some of the samples, by their indexes in byte order of names, as another sampler orders them: by name unless told
/// otherwise.
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
#[derive(Debug)]
pub struct Subset {
    chosen: Chosen,
    /// Of the manifest that it was chosen from, if it was.
    of: Option<Digest>,
    then: Box<dyn Sampler>,
}

#[derive(Clone, Debug)]
enum Chosen {
    Range(Range<u64>),
    /// In order, each once, and what tells them from others.
    List(Arc<[u64]>, String),
}

impl Chosen {
    fn list(ids: Vec<u64>) -> Self {
        let fingerprint = fingerprint(ids.iter().map(|id| id.to_le_bytes()));
        Self::List(ids.into(), fingerprint)
    }
}

impl Subset {
    /// The samples of these indexes, from 0.
    pub fn range(indexes: Range<u64>) -> Self {
        Self { chosen: Chosen::Range(indexes), of: None, then: Box::new(Sequential) }
    }

    /// These samples, each once, whatever their order here. It takes 8 bytes for each.
    pub fn ids(ids: impl IntoIterator<Item = SampleId>) -> Self {
        let mut ids: Vec<_> = ids.into_iter().map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        Self { chosen: Chosen::list(ids), of: None, then: Box::new(Sequential) }
    }

    /// The samples whose names begin with `prefix`, such as `train/cats/`, for a loader of this manifest and no other. It
    /// takes no memory for each. Waits for the end of the listing.
    ///
    /// # Errors
    /// The listing failed; the manifest's file was written to since it was opened.
    pub fn below(manifest: &Manifest, prefix: &str) -> Result<Self> {
        manifest.complete()?;
        // They are neighbours, since names are in byte order.
        let first = first_where(manifest, 0, |name| name >= prefix)?;
        let end = first_where(manifest, first, |name| !name.starts_with(prefix))?;
        Ok(Self { of: Some(manifest.digest()), ..Self::range(first..end) })
    }

    /// The samples for which `keep` holds, for a loader of this manifest and no other. It takes 8 bytes for each. Waits
    /// for the end of the listing.
    ///
    /// Where no run wants the others, a [`Filter`](crate::list::Filter) on opening leaves them out of the manifest.
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
        Ok(Self { chosen: Chosen::list(ids), of: Some(manifest.digest()), then: Box::new(Sequential) })
    }

    /// In the order of `sampler`.
    #[must_use]
    pub fn then(mut self, sampler: impl Sampler) -> Self {
        self.then = Box::new(sampler);
        self
    }

    /// How many samples, and after the highest index.
    fn extent(&self) -> (u64, u64) {
        match &self.chosen {
            Chosen::Range(range) => (range.end.saturating_sub(range.start), range.end),
            Chosen::List(ids, _) => (ids.len() as u64, ids.last().map_or(0, |last| last.saturating_add(1))),
        }
    }
}

impl Sampler for Subset {
    fn identity(&self) -> String {
        let then = self.then.identity();
        match &self.chosen {
            Chosen::Range(range) => format!("subset({}..{}, {then})", range.start, range.end),
            Chosen::List(ids, fingerprint) => format!("subset({} of {fingerprint}, {then})", ids.len()),
        }
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let (samples, end) = self.extent();
        if samples == 0 {
            return Err(wrong("this subset has no samples")
                .mismatch("at least 1", 0)
                .hint("look at the range, the ids or the predicate that it was made of"));
        }
        if end > scope.len() {
            return Err(wrong("this subset has samples that aren't there")
                .object(scope.manifest().prefix())
                .mismatch(format_args!("indexes below {}", scope.len()), end - 1)
                .hint("make it for the data set that it is used with"));
        }
        let digest = scope.manifest().digest();
        if let Some(of) = self.of.filter(|of| *of != digest) {
            return Err(wrong("this subset was chosen from other data")
                .mismatch(format_args!("a manifest of digest {of}"), digest)
                .hint("choose it from the manifest of the data set that it is used with"));
        }
        let chosen = self.chosen.clone();
        let place = move |number: u64| match &chosen {
            Chosen::Range(range) => range.start + number,
            Chosen::List(ids, _) => ids[number as usize],
        };
        let inner = self.then.orders(&scope.some(samples, place.clone()))?;
        Ok(Orders::new(inner.len(), move |epoch| {
            let (mut order, place) = (inner.order(epoch), place.clone());
            move |position| {
                let number = order.at(position).0;
                // A sampler that goes beyond the subset: an index that nothing has, for the error that names it.
                if number < samples { place(number) } else { u64::MAX }
            }
        }))
    }
}

/// The first index from `low` on whose name `holds`, which then holds for all after it; the length where it holds for none.
fn first_where(manifest: &Manifest, mut low: u64, holds: impl Fn(&str) -> bool) -> Result<u64> {
    let mut high = manifest.len();
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(&manifest.at(middle)?.name) { high = middle } else { low = middle + 1 }
    }
    Ok(low)
}

/// What tells one list from another, in 16 hex digits.
pub(super) fn fingerprint<const N: usize>(items: impl Iterator<Item = [u8; N]>) -> String {
    let mut context = Context::new(&SHA256);
    items.for_each(|item| context.update(&item));
    let hash = context.finish();
    hash.as_ref().first_chunk().map_or_else(String::new, |first| format!("{:016x}", u64::from_be_bytes(*first)))
}
