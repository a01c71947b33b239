//! Samples of several objects: which objects belong together, by patterns of names.

use std::sync::Arc;

use super::Manifest;
use super::classes::label_root;
use super::name_finder::{InvalidEntry, NameFinder};
use super::part_columns::{PartColumn, PartColumns, PartIndexes, PartListing};
use super::part_pattern::{PartPattern, owner};
use crate::list::{LeftOut, Reason};
use crate::{Error, ErrorKind, Result, Stage};

/// Incomplete samples that an error names: enough to see what they have in common.
const MAX_NAMED: usize = 3;

/// Which objects make one sample together, for [`DatafluxDataset::parts`](crate::DatafluxDataset::parts): for example
/// an image and its mask, or an image, its caption and its boxes.
///
/// Each part has a pattern, in which `{}` stands for the *stem*: everything that the names of one sample's parts have
/// in common below the prefix, folders included. Objects with the same stem make one sample. The first part is the main
/// one: there is a sample for each of its objects, in the order of their names, and the sample has its name and its
/// folder's label.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{DatafluxDataset, Parts, RawSample};
/// # let store = MemoryStore::new();
/// # for name in ["train/a/1.jpg", "train/a/1.txt", "train/b/2.jpg", "train/b/2.txt", "masks/a/1.png", "masks/b/2.png"] {
/// #     store.insert("my-bucket", name, name);
/// # }
/// # let client = Client::new(Arc::new(store));
/// # let open = |uri| DatafluxDataset::open_with(client.clone(), uri);
///
/// // 1.jpg and 1.txt in one folder, and masks below another prefix.
/// let masks = open("gs://my-bucket/masks/")?;
/// let parts = Parts::of("{}.jpg").and("{}.txt").and_in(&masks, "{}.png");
/// let dataset = open("gs://my-bucket/train/")?.parts(parts)?;
///
/// assert_eq!((dataset.len(), dataset.manifest().part_count()), (2, 3));
/// let sample: RawSample = dataset.get(1)?;
/// let names: Vec<_> = sample.parts().map(|part| part.name().to_owned()).collect();
/// assert_eq!(names, ["train/b/2.jpg", "train/b/2.txt", "masks/b/2.png"]);
/// # Ok::<(), dataflux::Error>(())
/// ```
///
/// An object that matches several patterns belongs to the one with the most text beside the stem: with `{}.png` and
/// `{}_mask.png`, `1_mask.png` is the mask of `1.png`, and no image. Objects that belong to no sample are left out, and
/// [counted](Manifest::left_out) as [`NotAPart`](crate::list::Reason::NotAPart) or, if the pattern of a part matches
/// them, as [`Incomplete`](crate::list::Reason::Incomplete).
#[derive(Clone, Debug)]
#[must_use = "parts do nothing until a data set is given them"]
pub struct Parts {
    parts: Vec<PartSource>,
    missing: MissingParts,
}

/// Where one part of all samples is.
#[derive(Clone, Debug)]
struct PartSource {
    /// The listing that has it, if that isn't the data set's own.
    listing: Option<Arc<Manifest>>,
    pattern: String,
}

/// What happens to samples that lack a part: the first part is there, and another isn't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingParts {
    /// They are an error, which names some of them and what is missing.
    #[default]
    Error,
    /// They are left out. [`Manifest::left_out`] counts their objects, and one line of the log says how many they are.
    Skip,
}

impl Parts {
    /// The first part of a sample, which gives the sample its name: objects of the data set whose names below the
    /// prefix match `pattern`, such as `{}.jpg` or `images/{}.jpg`.
    pub fn of(pattern: impl Into<String>) -> Self {
        Self { parts: vec![PartSource { listing: None, pattern: pattern.into() }], missing: MissingParts::default() }
    }

    /// Parts whose names differ only behind their last dot: `by_stem(["jpg", "json"])` is short for
    /// `Parts::of("{}.jpg").and("{}.json")`.
    pub fn by_stem<S: AsRef<str>>(suffixes: impl IntoIterator<Item = S>) -> Self {
        let part = |suffix: S| PartSource { listing: None, pattern: format!("{{}}.{}", suffix.as_ref()) };
        Self { parts: suffixes.into_iter().map(part).collect(), missing: MissingParts::default() }
    }

    /// Adds a part in the data set's own prefix.
    pub fn and(mut self, pattern: impl Into<String>) -> Self {
        self.parts.push(PartSource { listing: None, pattern: pattern.into() });
        self
    }

    /// Adds a part in another listing: another data set (`&masks`) or a manifest, whose prefix may be in another
    /// bucket. It is read with the client of the data set that is given these parts. Objects of several buckets are
    /// never composed, so each is read by a call of its own.
    pub fn and_in(mut self, listing: impl Into<Arc<Manifest>>, pattern: impl Into<String>) -> Self {
        self.parts.push(PartSource { listing: Some(listing.into()), pattern: pattern.into() });
        self
    }

    /// Sets what happens to samples that lack a part. By default they are an error.
    pub fn missing(mut self, missing: MissingParts) -> Self {
        self.missing = missing;
        self
    }
}

/// What [`Manifest::with_parts`] left out.
#[derive(Debug, Default)]
pub(crate) struct FoundParts {
    pub(crate) left_out: LeftOut,
    /// Samples that lack a part.
    pub(crate) incomplete: u64,
    /// The first of these, and the object that it lacks.
    pub(crate) example: Option<(String, String)>,
}

/// The listing of a part, and where its objects are found.
struct PartSearch<'a> {
    pattern: PartPattern,
    listing: &'a Arc<Manifest>,
    /// Whether the listing is the data set's own, whose names may belong to other patterns.
    is_own: bool,
    /// What all names of the listing begin with, before the text that patterns match.
    root: String,
    finder: NameFinder<'a>,
    /// The objects that were found, a sample each.
    indexes: PartIndexes,
}

/// Puts samples together, given the objects of the data set in order.
struct PartJoin<'a> {
    manifest: &'a Arc<Manifest>,
    /// The patterns of the parts that the data set's own listing has, with the numbers of the parts.
    own_patterns: Vec<(usize, PartPattern)>,
    /// What names begin with, before the text that patterns match.
    root: usize,
    /// The further parts.
    searches: Vec<PartSearch<'a>>,
    /// Indexes of the first parts of complete samples.
    samples: Vec<u64>,
    /// Objects that match a pattern.
    matching: u64,
    incomplete: u64,
    /// The first incomplete samples, and the object that each of them lacks.
    named: Vec<(String, String)>,
    /// The name that is looked for.
    wanted: String,
}

/// The samples that were found.
struct JoinedSamples {
    /// Indexes of their first parts.
    samples: Vec<u64>,
    columns: Vec<PartColumn>,
    found: FoundParts,
}

impl<'a> PartJoin<'a> {
    /// # Errors
    /// Patterns that can't be, or come twice; a manifest's file was written to since it was opened.
    fn new(manifest: &'a Arc<Manifest>, parts: &Parts, listings: &[&'a Arc<Manifest>]) -> Result<Self> {
        let patterns = parts.parts.iter().map(|part| PartPattern::parse(&part.pattern)).collect::<Result<Vec<_>>>()?;
        if patterns.is_empty() {
            return Err(manifest.wrong_parts("there is no part").mismatch("at least one", "none"));
        }
        for (number, pattern) in patterns.iter().enumerate() {
            let is_same = |other: usize| patterns[other] == *pattern && Arc::ptr_eq(listings[other], listings[number]);
            if (0..number).any(is_same) {
                let got = format_args!("'{}' twice", parts.parts[number].pattern).to_string();
                return Err(manifest
                    .wrong_parts("two parts have the same pattern")
                    .mismatch("other objects for each part", got));
            }
        }

        let (mut own_patterns, mut searches) = (Vec::new(), Vec::with_capacity(patterns.len() - 1));
        for (number, (pattern, listing)) in patterns.into_iter().zip(listings.iter().copied()).enumerate() {
            let is_own = Arc::ptr_eq(listing, manifest);
            if is_own {
                own_patterns.push((number, pattern.clone()));
            }
            if number > 0 {
                let root = listing.at(0)?.name.get(..listing.names_root()?).unwrap_or_default().to_owned();
                let finder = NameFinder::new(&listing.growth.objects);
                let indexes = PartIndexes::in_listing_of(listing.len());
                searches.push(PartSearch { pattern, listing, is_own, root, finder, indexes });
            }
        }
        Ok(Self {
            manifest,
            own_patterns,
            root: manifest.names_root()?,
            searches,
            samples: Vec::new(),
            matching: 0,
            incomplete: 0,
            named: Vec::new(),
            wanted: String::new(),
        })
    }

    /// The number of the part that an object of the data set's own listing is, and its stem.
    fn owner<'n>(own_patterns: &[(usize, PartPattern)], name: &'n str) -> Option<(usize, &'n str)> {
        owner(own_patterns.iter().map(|(number, pattern)| (*number, pattern)), name)
    }

    /// Takes the next object of the data set, and looks up the further parts if it is the first one of a sample.
    fn take(&mut self, index: u64, name: &str) -> Result<()> {
        let own = Self::owner(&self.own_patterns, name.get(self.root..).unwrap_or_default());
        self.matching += u64::from(own.is_some());
        let Some((0, stem)) = own else { return Ok(()) };
        for (search, number) in self.searches.iter_mut().zip(1..) {
            self.wanted.clear();
            search.pattern.push_name(stem, &mut self.wanted);
            let is_taken = search.is_own && Self::owner(&self.own_patterns, &self.wanted) != Some((number, stem));
            self.wanted.insert_str(0, &search.root);
            let found = search.finder.find(&self.wanted).map_err(|InvalidEntry(at)| search.listing.damaged(at))?;
            let Some(found) = found.filter(|_| !is_taken) else {
                if self.named.len() < MAX_NAMED {
                    self.named.push((name.to_owned(), search.listing.prefix.uri(&self.wanted).to_string()));
                }
                self.incomplete += 1;
                self.searches.iter_mut().for_each(|search| search.indexes.truncate(self.samples.len()));
                return Ok(());
            };
            search.indexes.push(found);
        }
        self.samples.push(index);
        Ok(())
    }

    /// # Errors
    /// There is no sample; a sample lacks a part, and these are an error.
    fn finish(self, parts: &Parts) -> Result<JoinedSamples> {
        let Self { manifest, own_patterns, searches, samples, matching, incomplete, named, .. } = self;
        if incomplete > 0 && (parts.missing == MissingParts::Error || samples.is_empty()) {
            return Err(manifest.incomplete(incomplete, samples.len() as u64, &named));
        }
        if samples.is_empty() {
            let first = manifest.at(0)?.name;
            return Err(manifest
                .wrong_parts("no object matches the pattern of the first part")
                .with_kind(ErrorKind::NotFound)
                .mismatch(
                    format_args!("'{}' below {}", parts.parts[0].pattern, manifest.prefix),
                    format_args!("{} objects such as {first}", manifest.len()),
                ));
        }

        let mut left_out = LeftOut::default();
        left_out.add_many(Reason::NotAPart, manifest.len() - matching);
        left_out.add_many(Reason::Incomplete, matching - own_patterns.len() as u64 * samples.len() as u64);
        let columns = searches.into_iter().map(|PartSearch { listing, mut indexes, .. }| {
            let Manifest { prefix, growth, file, .. } = &**listing;
            indexes.shrink();
            let listing = PartListing { prefix: prefix.clone(), growth: Arc::clone(growth), file: file.clone() };
            PartColumn { listing, indexes }
        });
        let columns = columns.collect();
        let found = FoundParts { left_out, incomplete, example: named.into_iter().next() };
        Ok(JoinedSamples { samples, columns, found })
    }
}

impl Manifest {
    /// The samples that these parts make of the objects. Waits for the end of all listings.
    ///
    /// This reads each name once for each part. Until it ends, the indexes of the first parts take eight bytes each;
    /// each further part then takes four bytes a sample, beside the listing that it is taken from.
    ///
    /// # Errors
    /// Patterns that can't be; no object matches the first; a sample lacks a part; a listing failed; a manifest's file
    /// was written to since it was opened.
    pub(crate) fn with_parts(self: &Arc<Self>, parts: &Parts) -> Result<(Self, FoundParts)> {
        let listings: Vec<_> = parts.parts.iter().map(|part| part.listing.as_ref().unwrap_or(self)).collect();
        for listing in std::iter::once(self).chain(listings.iter().copied()) {
            listing.complete()?;
            if listing.parts.is_some() {
                return Err(self.wrong_parts("the samples of this data set have several parts already").mismatch(
                    "a listing of objects",
                    format_args!("one of samples of {} parts", listing.part_count()),
                ));
            }
            if listing.prefix.scheme != self.prefix.scheme {
                return Err(self
                    .wrong_parts("the parts of a sample are in one store")
                    .mismatch(format_args!("objects beside {}", self.prefix), &listing.prefix));
            }
        }

        let mut join = PartJoin::new(self, parts, &listings)?;
        let mut entries = self.entries();
        let mut index = 0;
        while let Some(entry) = entries.next()? {
            join.take(index, entry.name)?;
            index += 1;
        }
        let JoinedSamples { samples, columns, found } = join.finish(parts)?;

        let (first, last) = (self.at(samples[0])?.name, self.at(samples[samples.len() - 1])?.name);
        let root = label_root(&self.prefix.prefix, first.as_bytes(), last.as_bytes());
        let mut next = samples.iter().copied().peekable();
        let mut sink = self.copied_objects(|index, _| next.next_if_eq(&index).is_some(), root)?;
        let columns = (!columns.is_empty()).then(|| PartColumns::new(columns, samples.len() as u64));
        let columns = columns.transpose().map_err(|part| listings[part.column + 1].damaged(part.index))?;
        sink.parts = columns.as_ref().map(|columns| columns.sums);
        let mut left_out = self.left_out();
        left_out.merge(&found.left_out);
        let joined = Self { is_listed: self.is_listed, parts: columns.map(Arc::new), ..sink.finish(left_out)? };
        Ok((joined, found))
    }

    fn wrong_parts(&self, message: &str) -> Error {
        Error::new(ErrorKind::Config, message).stage(Stage::Manifest).object(&self.prefix).hint(
            "Parts::of(\"{}.jpg\").and(\"{}.json\") names the parts of a sample: {} is what their names have in common",
        )
    }

    /// The error of samples that lack a part.
    fn incomplete(&self, incomplete: u64, complete: u64, named: &[(String, String)]) -> Error {
        let (_, first_missing) = &named[0];
        let mut names = named.iter().map(|(sample, _)| sample.as_str()).collect::<Vec<_>>().join(", ");
        if incomplete > named.len() as u64 {
            names = format!("{names} and {} more", incomplete - named.len() as u64);
        }
        let message = if incomplete == 1 { "a sample lacks a part" } else { "samples lack a part" };
        Error::new(ErrorKind::NotFound, format!("{message}: {names}"))
            .stage(Stage::Manifest)
            .object(&self.prefix)
            .mismatch(
                format_args!("{first_missing} for the first"),
                format_args!("no such object; {incomplete} of {} samples are incomplete", incomplete + complete),
            )
            .hint(
                "upload what is missing, correct the patterns or the filter, or leave such samples out with \
                 .missing(MissingParts::Skip)",
            )
    }
}

#[cfg(test)]
mod tests;
