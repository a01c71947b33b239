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
/// Each part has a pattern of names below the prefix, in which `{}` stands for the *stem*: a text that is the same in
/// the names of all parts of one sample, and may contain folders. Objects with the same stem make one sample. The first
/// part is the main one: there is a sample for each of its objects, in the order of their names, and the sample has its
/// name and its folder's label.
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
/// An object that matches several patterns of one listing belongs to the one with the most text beside the stem: with
/// `{}.png` and `{}_mask.png`, `1_mask.png` is the mask of `1.png`, and no image. Objects of the data set's own prefix
/// that belong to no sample are left out, and [counted](Manifest::left_out) as
/// [`NotAPart`](crate::list::Reason::NotAPart) or, if the pattern of a part matches them, as
/// [`Incomplete`](crate::list::Reason::Incomplete). Objects of another listing that belong to no sample are not counted.
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

/// The objects and samples that [`Manifest::with_parts`] left out.
#[derive(Debug, Default)]
pub(crate) struct LeftOutByParts {
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
    /// All patterns of this listing, with the numbers of their parts: a name may belong to another one.
    listing_patterns: NumberedPatterns,
    /// The beginning that all names of the listing share, before the text that patterns match.
    root: String,
    finder: NameFinder<'a>,
    /// The objects that were found, a sample each.
    indexes: PartIndexes,
}

/// Patterns of parts, each with the number of its part.
type NumberedPatterns = Vec<(usize, PartPattern)>;

/// A sample that lacks a part.
struct IncompleteSample {
    name: String,
    /// The URI of the object that it lacks.
    missing: String,
    /// The number of the part to which an object of that name belongs, if there is one.
    taken_by: Option<usize>,
}

/// Puts samples together, given the objects of the data set in order.
struct PartJoin<'a> {
    manifest: &'a Arc<Manifest>,
    /// The patterns of the data set's own listing.
    own_patterns: NumberedPatterns,
    /// Bytes of a name before the text that patterns match.
    root_length: usize,
    /// The further parts.
    searches: Vec<PartSearch<'a>>,
    /// Indexes of the first parts of complete samples.
    samples: Vec<u64>,
    /// Objects that match a pattern.
    matching: u64,
    incomplete: u64,
    /// The first incomplete samples.
    named: Vec<IncompleteSample>,
    /// The name that is looked for.
    wanted: String,
}

/// The samples that were found.
struct JoinedSamples {
    /// Indexes of their first parts.
    samples: Vec<u64>,
    columns: Vec<PartColumn>,
    left_out: LeftOutByParts,
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

        let patterns_of = |listing: &Arc<Manifest>| -> NumberedPatterns {
            let of_listing = |number: &usize| Arc::ptr_eq(listings[*number], listing);
            (0..patterns.len()).filter(of_listing).map(|number| (number, patterns[number].clone())).collect()
        };
        let mut searches = Vec::with_capacity(patterns.len() - 1);
        for (pattern, listing) in patterns.iter().zip(listings.iter().copied()).skip(1) {
            let root = listing.at(0)?.name.get(..listing.names_root()?).unwrap_or_default().to_owned();
            searches.push(PartSearch {
                pattern: pattern.clone(),
                listing,
                listing_patterns: patterns_of(listing),
                root,
                finder: NameFinder::new(&listing.growth.objects),
                indexes: PartIndexes::in_listing_of(listing.len()),
            });
        }
        Ok(Self {
            manifest,
            own_patterns: patterns_of(manifest),
            root_length: manifest.names_root()?,
            searches,
            samples: Vec::new(),
            matching: 0,
            incomplete: 0,
            named: Vec::new(),
            wanted: String::new(),
        })
    }

    /// Takes the next object of the data set, and looks up the further parts if it is the first one of a sample.
    fn take(&mut self, index: u64, name: &str) -> Result<()> {
        let own = part_of(&self.own_patterns, name.get(self.root_length..).unwrap_or_default());
        self.matching += u64::from(own.is_some());
        let Some((0, stem)) = own else { return Ok(()) };
        for (search, number) in self.searches.iter_mut().zip(1..) {
            self.wanted.clear();
            search.pattern.push_name(stem, &mut self.wanted);
            let taken_by = part_of(&search.listing_patterns, &self.wanted)
                .filter(|part| *part != (number, stem))
                .map(|(other, _)| other);
            self.wanted.insert_str(0, &search.root);
            let found = search.finder.find(&self.wanted).map_err(|InvalidEntry(at)| search.listing.damaged(at))?;
            let Some(found) = found.filter(|_| taken_by.is_none()) else {
                if self.named.len() < MAX_NAMED {
                    self.named.push(IncompleteSample {
                        name: name.to_owned(),
                        missing: search.listing.prefix.uri(&self.wanted).to_string(),
                        taken_by: taken_by.filter(|_| found.is_some()),
                    });
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
            return Err(manifest.incomplete(incomplete, samples.len() as u64, &named, parts));
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
        let example = named.into_iter().next().map(|sample| (sample.name, sample.missing));
        Ok(JoinedSamples { samples, columns, left_out: LeftOutByParts { left_out, incomplete, example } })
    }
}

/// The number of the part that an object of a listing is, and its stem.
fn part_of<'n>(patterns: &NumberedPatterns, name: &'n str) -> Option<(usize, &'n str)> {
    owner(patterns.iter().map(|(number, pattern)| (*number, pattern)), name)
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
    pub(crate) fn with_parts(self: &Arc<Self>, parts: &Parts) -> Result<(Self, LeftOutByParts)> {
        let listings: Vec<_> = parts.parts.iter().map(|part| part.listing.as_ref().unwrap_or(self)).collect();
        for listing in std::iter::once(self).chain(listings.iter().copied()) {
            listing.complete()?;
            if listing.parts.is_some() {
                return Err(listing
                    .wrong_parts("the samples of this listing have several parts already")
                    .mismatch("a listing of objects", format_args!("one of samples of {} parts", listing.part_count()))
                    .hint("call parts() once, on a listing of objects"));
            }
            if listing.prefix.scheme != self.prefix.scheme {
                return Err(self
                    .wrong_parts("the parts of a sample must be in one store")
                    .mismatch(format_args!("objects beside {}", self.prefix), &listing.prefix)
                    .hint("copy the objects of the part into the store of the others"));
            }
        }

        let mut join = PartJoin::new(self, parts, &listings)?;
        let mut entries = self.entries();
        let mut index = 0;
        while let Some(entry) = entries.next()? {
            join.take(index, entry.name)?;
            index += 1;
        }
        let JoinedSamples { samples, columns, left_out: by_parts } = join.finish(parts)?;

        let (first, last) = (self.at(samples[0])?.name, self.at(samples[samples.len() - 1])?.name);
        let root = label_root(&self.prefix.prefix, first.as_bytes(), last.as_bytes());
        let mut next = samples.iter().copied().peekable();
        let mut sink = self.copied_objects(|index, _| next.next_if_eq(&index).is_some(), root)?;
        let columns = (!columns.is_empty()).then(|| PartColumns::new(columns, samples.len() as u64));
        let columns = columns.transpose().map_err(|part| listings[part.column + 1].damaged(part.index))?;
        sink.parts = columns.as_ref().map(|columns| columns.sums);
        let mut left_out = self.left_out();
        left_out.merge(&by_parts.left_out);
        let joined = Self { is_listed: self.is_listed, parts: columns.map(Arc::new), ..sink.finish(left_out)? };
        Ok((joined, by_parts))
    }

    fn wrong_parts(&self, message: &str) -> Error {
        Error::new(ErrorKind::Config, message).stage(Stage::Manifest).object(&self.prefix).hint(
            "Parts::of(\"{}.jpg\").and(\"{}.json\") names the parts of a sample: {} is what their names have in common",
        )
    }

    /// The error of samples that lack a part.
    fn incomplete(&self, incomplete: u64, complete: u64, named: &[IncompleteSample], parts: &Parts) -> Error {
        let IncompleteSample { missing, taken_by, .. } = &named[0];
        let mut names = named.iter().map(|sample| sample.name.as_str()).collect::<Vec<_>>().join(", ");
        if incomplete > named.len() as u64 {
            names = format!("{names} and {} more", incomplete - named.len() as u64);
        }
        let message = if incomplete == 1 { "a sample lacks a part" } else { "samples lack a part" };
        let got = match taken_by {
            Some(part) => format!("one that belongs to the part '{}'", parts.parts[*part].pattern),
            None => "no such object".to_owned(),
        };
        let correct = "upload what is missing, or correct the patterns or the filter";
        let hint = match complete {
            0 => correct.to_owned(),
            _ => format!("{correct}; or leave such samples out with .missing(MissingParts::Skip)"),
        };
        Error::new(ErrorKind::NotFound, format!("{message}: {names}"))
            .stage(Stage::Manifest)
            .object(&self.prefix)
            .mismatch(
                format_args!("{missing} for the first"),
                format_args!("{got}; {incomplete} of {} samples are incomplete", incomplete + complete),
            )
            .hint(hint)
    }
}

#[cfg(test)]
mod tests;
