//! Random splits of a data set, such as into samples to train on and samples to validate with.

use std::collections::BTreeMap;

use ring::digest::{Context, SHA256};

use super::{Subset, wrong};
use crate::Result;
use crate::manifest::Manifest;

/// A sample that is being split: the hash that decides its side, and its index in the manifest.
type HashedSample = (u64, u64);

impl Subset {
    /// Splits the samples of a manifest at random in two. The first subset has `fraction` of the samples, rounded to a
    /// whole number, the second has all others.
    ///
    /// The split depends only on `seed`, `fraction` and the names below the prefix, so that all ranks, all runs and all
    /// copies of a bucket split alike. When samples are added, few of the old ones change sides.
    ///
    /// Each subset takes 8 bytes a sample. Splitting looks at each sample once, which takes a second for some 5
    /// million, and takes another 16 bytes a sample meanwhile. It waits for the end of the listing.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use dataflux::sample::{Shuffle, Subset};
    /// use dataflux::{DataLoader, DatafluxDataset};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("all/{n:03}.txt"), vec![0; n]));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/all/")?;
    ///
    /// let (train, val) = Subset::split(dataset.manifest(), 0.9, 42)?;
    /// let val = DataLoader::builder(dataset.clone()).batch_size(16).sampler(val).build()?;
    /// let train = DataLoader::builder(dataset).batch_size(16).sampler(train.then(Shuffle::new(42))).build()?;
    /// assert_eq!((train.batches_per_epoch()?, val.batches_per_epoch()?), (6, 1)); // 90 and 10 samples
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// The fraction isn't between 0 and 1, or leaves one side empty; the listing failed; the manifest's file was
    /// written to since it was opened.
    pub fn split(manifest: &Manifest, fraction: f64, seed: u64) -> Result<(Self, Self)> {
        split(manifest, fraction, seed, false)
    }

    /// Splits as [`split`](Self::split) does, but each label by itself, so that both subsets have the labels in the
    /// same proportion. The number of samples of each label is rounded to a whole number; a label with a single sample
    /// has it on the larger side. Samples without a label are split among themselves.
    ///
    /// # Errors
    /// As for [`split`](Self::split).
    pub fn split_by_label(manifest: &Manifest, fraction: f64, seed: u64) -> Result<(Self, Self)> {
        split(manifest, fraction, seed, true)
    }
}

fn split(manifest: &Manifest, fraction: f64, seed: u64, by_label: bool) -> Result<(Subset, Subset)> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(wrong("samples can't be split by this fraction")
            .object(manifest.prefix())
            .mismatch("a fraction above 0 and below 1", fraction)
            .hint("0.9 puts nine samples of ten into the first subset"));
    }

    let root = manifest.names_root()?;
    let mut groups = BTreeMap::<Option<u32>, Vec<HashedSample>>::new();
    let (mut entries, mut index) = (manifest.entries(), 0);
    while let Some(entry) = entries.next()? {
        let label = entry.label.filter(|_| by_label);
        let below_prefix = entry.name.get(root..).unwrap_or(entry.name);
        groups.entry(label).or_default().push((hash(seed, below_prefix), index));
        index += 1;
    }

    let (mut first, mut second) = (Vec::new(), Vec::new());
    for mut group in groups.into_values() {
        let samples = (group.len() as f64 * fraction).round() as usize;
        if samples > 0 && samples < group.len() {
            // Names can't be equal, but hashes can: the index breaks ties.
            group.select_nth_unstable(samples);
        }
        second.extend(group.drain(samples..).map(|(_, index)| index));
        first.extend(group.into_iter().map(|(_, index)| index));
    }
    if first.is_empty() || second.is_empty() {
        return Err(wrong("this fraction leaves one side of the split without samples")
            .object(manifest.prefix())
            .mismatch(
                format_args!("a fraction of {index} samples, rounded, between 1 and {}", index.saturating_sub(1)),
                fraction,
            )
            .hint("choose a fraction nearer to one half, or use all samples for both"));
    }

    Ok((Subset::of_manifest(manifest, first), Subset::of_manifest(manifest, second)))
}

fn hash(seed: u64, name: &str) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(&seed.to_le_bytes());
    context.update(name.as_bytes());
    context.finish().as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::sample::{Sampler, Scope};
    use crate::store::{ObjectRef, Objects};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn manifest(prefix: &str, names: impl IntoIterator<Item = String>) -> Arc<Manifest> {
        Arc::new(Manifest::new(format!("gs://bucket/{prefix}").parse().unwrap(), &objects(prefix, names)).unwrap())
    }

    fn objects(prefix: &str, names: impl IntoIterator<Item = String>) -> Objects {
        let mut objects = Objects::default();
        for name in names {
            let name = format!("{prefix}{name}");
            objects.push(ObjectRef { name: &name, size: 1, version: 1.into(), ..ObjectRef::default() });
        }
        objects
    }

    /// Names below the prefix of the samples in a subset.
    fn names(manifest: &Arc<Manifest>, subset: &Subset) -> BTreeSet<String> {
        let orders = subset.orders(&Scope::new(Arc::clone(manifest))).unwrap();
        let mut order = orders.order(0);
        (0..orders.len())
            .map(|position| {
                manifest.at(order.at(position).0).unwrap().name[manifest.prefix().prefix.len()..].to_owned()
            })
            .collect()
    }

    fn numbered(samples: u32) -> impl Iterator<Item = String> {
        (0..samples).map(|n| format!("{n:04}"))
    }

    #[test]
    fn every_sample_is_on_one_side_and_the_fraction_is_exact() {
        let manifest = manifest("all/", numbered(1_003));
        let (first, second) = Subset::split(&manifest, 0.9, 7).unwrap();
        let (first, second) = (names(&manifest, &first), names(&manifest, &second));
        assert_eq!((first.len(), second.len()), (903, 100));
        assert!(first.is_disjoint(&second));
    }

    #[test]
    fn copies_of_a_bucket_split_alike_and_seeds_differ() {
        let (here, there) = (manifest("all/", numbered(100)), manifest("copy/of/all/", numbered(100)));
        let first = |manifest: &Arc<Manifest>, seed| names(manifest, &Subset::split(manifest, 0.5, seed).unwrap().0);
        assert_eq!(first(&here, 7), first(&there, 7));
        assert_ne!(first(&here, 7), first(&here, 8));
        // Frozen, as orders are: users compare runs of different versions.
        let few = manifest("all/", numbered(8));
        assert_eq!(first(&few, 42).into_iter().collect::<Vec<_>>(), GOLDEN);
    }

    const GOLDEN: [&str; 4] = ["0001", "0004", "0006", "0007"];

    #[test]
    fn a_prefix_without_its_slash_splits_as_with_it() {
        let with = manifest("all/", numbered(100));
        let without =
            Arc::new(Manifest::new("gs://bucket/all".parse().unwrap(), &objects("all/", numbered(100))).unwrap());
        assert_eq!(with.digest(), without.digest());
        let indexes = |manifest: &Arc<Manifest>| {
            let orders = Subset::split(manifest, 0.5, 7).unwrap().0.orders(&Scope::new(Arc::clone(manifest))).unwrap();
            let mut order = orders.order(0);
            (0..orders.len()).map(|position| order.at(position).0).collect::<Vec<_>>()
        };
        assert_eq!(indexes(&with), indexes(&without));
    }

    #[test]
    fn few_samples_change_sides_when_some_are_added() {
        let (before, after) = (manifest("all/", numbered(1_000)), manifest("all/", numbered(1_100)));
        let val = |manifest: &Arc<Manifest>| names(manifest, &Subset::split(manifest, 0.9, 7).unwrap().1);
        let moved = val(&before).difference(&val(&after)).count();
        assert!(moved <= 10, "{moved} of 100 went to the other side");
    }

    #[test]
    fn by_label_each_side_has_the_labels_in_proportion() {
        let cats = (0..200).map(|n| format!("cat/{n:04}"));
        let manifest = manifest("all/", cats.chain((0..50).map(|n| format!("dog/{n:04}"))));
        let (_, val) = Subset::split_by_label(&manifest, 0.8, 7).unwrap();
        let val = names(&manifest, &val);
        assert_eq!(val.iter().filter(|name| name.starts_with("cat/")).count(), 40);
        assert_eq!(val.iter().filter(|name| name.starts_with("dog/")).count(), 10);
    }

    #[test]
    fn fractions_that_split_nothing_are_refused() {
        let manifest = manifest("all/", numbered(3));
        for fraction in [0.0, 1.0, -0.1, 1.5, f64::NAN, 0.1, 0.9] {
            let error = Subset::split(&manifest, fraction, 7).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{fraction}: {error}");
        }
        assert!(Subset::split(&manifest, 0.5, 7).is_ok());
    }
}
