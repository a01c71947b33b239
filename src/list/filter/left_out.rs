//! Why objects of a listing aren't wanted, and how many objects aren't wanted for each reason.

use std::fmt;

/// Why an object of a listing isn't wanted. Filters check the reasons in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// It is a temporary object that composing made and hasn't removed yet, in this run or in another.
    Temporary,
    /// It is an empty object whose name ends in `/`, the mark that tools leave for a folder.
    DirectoryMarker,
    /// It has another storage class than those wanted.
    StorageClass,
    /// No glob includes it.
    NotIncluded,
    /// A glob excludes it.
    Excluded,
    /// It has fewer bytes than wanted.
    TooSmall,
    /// It has more bytes than wanted.
    TooLarge,
    /// It was last changed before the time wanted.
    NotModified,
    /// It is a hidden file or in a hidden folder: `.DS_Store`, `.ipynb_checkpoints`, `__MACOSX`, `Thumbs.db`.
    Hidden,
    /// Images are wanted, and its name doesn't have an image's suffix.
    NotAnImage,
    /// It has no [label](crate::DatafluxDataset::label_by), or no row in a [table](crate::LabelTable), and such objects
    /// are to be left out. No filter gives this reason.
    Unlabelled,
    /// Samples are of [several objects](crate::Parts), and it matches the pattern of none. No filter gives this reason.
    NotAPart,
    /// Samples are of [several objects](crate::Parts), and it is of a sample that lacks another of these. No filter
    /// gives this reason.
    Incomplete,
}

impl Reason {
    /// All reasons, in order.
    pub const ALL: [Self; 13] = [
        Self::Temporary,
        Self::DirectoryMarker,
        Self::StorageClass,
        Self::NotIncluded,
        Self::Excluded,
        Self::TooSmall,
        Self::TooLarge,
        Self::NotModified,
        Self::Hidden,
        Self::NotAnImage,
        Self::Unlabelled,
        Self::NotAPart,
        Self::Incomplete,
    ];

    /// The name of the reason in the output of `dataflux ls --json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Temporary => "temporaries",
            Self::DirectoryMarker => "directory_markers",
            Self::StorageClass => "storage_class",
            Self::NotIncluded => "not_included",
            Self::Excluded => "excluded",
            Self::TooSmall => "too_small",
            Self::TooLarge => "too_large",
            Self::NotModified => "not_modified",
            Self::Hidden => "hidden",
            Self::NotAnImage => "not_an_image",
            Self::Unlabelled => "unlabelled",
            Self::NotAPart => "not_a_part",
            Self::Incomplete => "incomplete",
        }
    }
}

/// Objects of a listing that were not wanted, by reason.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut(
    /// In the order of [`Reason::ALL`], in which files hold the counts. So a new reason must come last.
    pub(crate) [u64; Reason::ALL.len()],
);

impl LeftOut {
    /// Counts one object.
    pub fn add(&mut self, reason: Reason) {
        self.add_many(reason, 1);
    }

    /// Counts this many objects.
    pub(crate) fn add_many(&mut self, reason: Reason, objects: u64) {
        self.0[reason as usize] += objects;
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    /// Number of objects left out for this reason.
    pub fn count(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// Number of objects left out.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that apply to any object, in order, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

impl fmt::Debug for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.counts()).finish()
    }
}

/// For example `12 folder marks, 3 of another storage class`, or `nothing`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing");
        }
        for (index, (reason, count)) in self.counts().enumerate() {
            let (one, many) = match reason {
                Reason::Temporary => ("temporary object", "temporary objects"),
                Reason::DirectoryMarker => ("folder mark", "folder marks"),
                Reason::StorageClass => ("of another storage class", "of another storage class"),
                Reason::NotIncluded => ("not included", "not included"),
                Reason::Excluded => ("excluded", "excluded"),
                Reason::TooSmall => ("too small", "too small"),
                Reason::TooLarge => ("too large", "too large"),
                Reason::NotModified => ("too old", "too old"),
                Reason::Hidden => ("hidden file", "hidden files"),
                Reason::NotAnImage => ("without an image's suffix", "without an image's suffix"),
                Reason::Unlabelled => ("without a label", "without a label"),
                Reason::NotAPart => ("no part of a sample", "no parts of a sample"),
                Reason::Incomplete => ("of an incomplete sample", "of incomplete samples"),
            };
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{count} {}", if count == 1 { one } else { many })?;
        }
        Ok(())
    }
}
