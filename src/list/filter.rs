//! Which objects of a listing are wanted, and the count of those that are not.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::SystemTime;

use globset::{Glob, GlobBuilder, GlobSet};

use super::{Prefix, TEMPORARY_PREFIX};
use crate::store::{Fields, ObjectRef, StorageClass};
use crate::{Error, ErrorKind, Result, Stage};

/// Which objects of a listing are wanted: by default all that can be samples, whatever their storage class.
///
/// Conditions of different kinds must all hold. Of several storage classes, or several globs of a kind, one is enough.
///
/// # Globs
/// Globs are matched against what stands in a name below the last `/` of the listed prefix: `cat/tom.png` of
/// `gs://bucket/train/cat/tom.png`, for the prefix `gs://bucket/train/` and for `gs://bucket/train/c`, too.
///
/// - A glob without `/` is for the last part of a name, in whatever folder: `*.png`. Any other is for all of it:
///   `cat/*.png`. A `/` at its beginning stands for nothing else: `/*.png` is for names right below the prefix.
/// - A glob that ends in `/` is for all that is in such a folder: `raw/` in whatever folder that is, `/raw/` and
///   `2026/raw/` in one place.
/// - `*` stands for any characters but `/`, `?` for one byte but `/`, `[a-z]` for one byte of a range and `[!a-z]` for
///   any other (even `/`), `{jpg,png}` for either. So a character beyond ASCII is written as it is, or matched by `*`
///   or `{é,è}`, and is refused in brackets.
/// - `**` as a whole part stands for any number of parts: `cat/**`, `**/thumbs/*`, `2026/**/*.png`.
/// - `\` takes from the next character what it stands for: `\[1\].png`.
///
/// Upper and lower case are different, unless [`any_case`](Filter::any_case) is set.
///
/// ```
/// use dataflux::list::{Filter, Prefix, Reason};
/// use dataflux::store::ObjectRef;
///
/// let filter = Filter::new().include("*.{jpg,png}")?.exclude("thumbs/")?.min_size(1);
/// let prefix: Prefix = "gs://my-bucket/train/".parse()?;
/// let reason = |name| filter.reason(&prefix, &ObjectRef { name, size: 9, ..ObjectRef::default() });
/// assert_eq!(reason("train/cat/tom.png"), None);
/// assert_eq!(reason("train/cat/tom.txt"), Some(Reason::NotIncluded));
/// assert_eq!(reason("train/cat/thumbs/tom.png"), Some(Reason::Excluded));
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Filter {
    only_samples: bool,
    classes: Vec<StorageClass>,
    include: Globs,
    exclude: Globs,
    sizes: RangeInclusive<u64>,
    modified_since: Option<SystemTime>,
    only_images: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self::new()
    }
}

impl Filter {
    /// All that can be samples: everything but marks of folders and what composing leaves for a while.
    ///
    /// A mark is an empty object whose name ends in `/`. Composed objects are those below `dataflux-composed-objects/`,
    /// unless the listed prefix itself lies there.
    pub fn new() -> Self {
        Self { only_samples: true, ..Self::everything() }
    }

    /// All there is, as `dataflux ls` shows it.
    pub fn everything() -> Self {
        Self {
            only_samples: false,
            classes: Vec::new(),
            include: Globs::default(),
            exclude: Globs::default(),
            sizes: 0..=u64::MAX,
            modified_since: None,
            only_images: false,
        }
    }

    /// Only objects of this storage class; called again, of that one, too. What the server tells no class of is
    /// [`StorageClass::Unspecified`].
    #[must_use]
    pub fn storage_class(mut self, class: StorageClass) -> Self {
        self.classes.push(class);
        self
    }

    /// Only names that this glob matches; called again, those that either matches.
    ///
    /// # Errors
    /// A glob that isn't one.
    pub fn include(mut self, glob: &str) -> Result<Self> {
        self.include.push(glob)?;
        Ok(self)
    }

    /// No names that this glob matches, even if they are included; called again, none that either matches.
    ///
    /// # Errors
    /// A glob that isn't one.
    pub fn exclude(mut self, glob: &str) -> Result<Self> {
        self.exclude.push(glob)?;
        Ok(self)
    }

    /// Matches all globs of this filter in any case, wherever they are in the chain: `*.jpg` then stands for `A.JPG`,
    /// too. Only the letters `a` to `z` have a case here.
    ///
    /// ```
    /// use dataflux::list::Filter;
    ///
    /// let photos = Filter::new().include("*.{jpg,jpeg}")?.any_case()?;
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// Globs that are too many or too long together to be matched in any case.
    pub fn any_case(mut self) -> Result<Self> {
        self.include.ignore_case()?;
        self.exclude.ignore_case()?;
        Ok(self)
    }

    /// Only names that end as those of images do, in upper or lower case: `.jpg`, `.jpeg`, `.jpe`, `.jfif`, `.png`,
    /// `.apng`, `.gif`, `.webp`, `.bmp`, `.tif`, `.tiff`, `.pbm`, `.pgm`, `.ppm`, `.avif`, `.heic`, `.heif` and `.jxl`.
    /// These are more than this crate decodes, so that an image of another format is an error and isn't left out
    /// unnoticed.
    ///
    /// Files and folders that tools hide are left out as well, below the last `/` of the listed prefix: those whose
    /// name begins with a dot, such as `.ipynb_checkpoints`, `__MACOSX` and `Thumbs.db`.
    ///
    /// A data set that is decoded with an [`ImageFolder`](crate::ImageFolder) is filtered like this in any case.
    #[must_use]
    pub fn images(mut self) -> Self {
        self.only_images = true;
        self
    }

    /// Only objects of at least so many bytes, as stored.
    #[must_use]
    pub fn min_size(mut self, bytes: u64) -> Self {
        self.sizes = bytes..=*self.sizes.end();
        self
    }

    /// Only objects of at most so many bytes, as stored.
    #[must_use]
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.sizes = *self.sizes.start()..=bytes;
        self
    }

    /// Only objects that were written, or whose metadata was changed, at this time or later. An object whose
    /// [`updated`](ObjectRef::updated) the server doesn't tell is kept.
    #[must_use]
    pub fn modified_since(mut self, time: SystemTime) -> Self {
        self.modified_since = Some(time);
        self
    }

    /// What a listing must tell of each object for this filter to decide.
    pub fn fields(&self) -> Fields {
        if self.modified_since.is_some() { Fields::Times } else { Fields::Sample }
    }

    /// Those of `objects` that are wanted of `prefix`; what is left out is counted.
    pub fn keep<'a>(
        &self,
        prefix: &Prefix,
        objects: impl IntoIterator<Item = ObjectRef<'a>>,
        left_out: &mut LeftOut,
    ) -> impl Iterator<Item = ObjectRef<'a>> {
        objects.into_iter().filter(move |object| match self.reason(prefix, object) {
            Some(reason) => {
                left_out.add(reason);
                false
            }
            None => true,
        })
    }

    /// Why an object isn't wanted where only its name can tell, as of a manifest.
    pub(crate) fn reason_of_name(&self, prefix: &Prefix, name: &str) -> Option<Reason> {
        self.reason(prefix, &ObjectRef { name, ..ObjectRef::default() })
    }

    /// Why an object listed below `prefix` isn't wanted, by the first reason in the order of [`Reason`]; `None` if it
    /// is wanted.
    pub fn reason(&self, prefix: &Prefix, object: &ObjectRef<'_>) -> Option<Reason> {
        let name = object.name;
        if self.only_samples {
            if name.starts_with(TEMPORARY_PREFIX) && !prefix.prefix.starts_with(TEMPORARY_PREFIX) {
                return Some(Reason::Temporary);
            }
            if object.size == 0 && name.ends_with('/') {
                return Some(Reason::DirectoryMarker);
            }
        }
        if !self.classes.is_empty() && !self.classes.contains(&object.storage_class) {
            return Some(Reason::StorageClass);
        }
        let folder = prefix.prefix.rfind('/').map_or(0, |slash| slash + 1);
        let below = name.get(folder..).unwrap_or(name);
        if !self.include.is_empty() && !self.include.matches(below) {
            return Some(Reason::NotIncluded);
        }
        if self.exclude.matches(below) {
            return Some(Reason::Excluded);
        }
        if object.size < *self.sizes.start() {
            return Some(Reason::TooSmall);
        }
        if object.size > *self.sizes.end() {
            return Some(Reason::TooLarge);
        }
        if let (Some(since), Some(updated)) = (self.modified_since, object.updated)
            && updated < since
        {
            return Some(Reason::NotModified);
        }
        if self.only_images { no_image(below) } else { None }
    }
}

/// Suffixes of names of images, in lower case. An image that this crate can't decode must be among them: then the
/// decoder says so, instead of the filter leaving it out.
const IMAGE_SUFFIXES: [&str; 18] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "bmp", "tif", "tiff", "pbm", "pgm", "ppm", "avif",
    "heic", "heif", "jxl",
];

/// Why an object isn't an image, by its name below the prefix's last slash.
fn no_image(below: &str) -> Option<Reason> {
    if below.split('/').any(is_hidden) {
        return Some(Reason::Hidden);
    }
    let file = below.rsplit('/').next().unwrap_or(below);
    let suffix = file.rsplit_once('.').map(|(_, suffix)| suffix);
    let is_image = suffix.is_some_and(|suffix| IMAGE_SUFFIXES.iter().any(|image| suffix.eq_ignore_ascii_case(image)));
    (!is_image).then_some(Reason::NotAnImage)
}

/// Whether a file or a folder of this name is one that tools hide: macOS leaves `__MACOSX` in archives, and Windows
/// `Thumbs.db` in folders.
pub(crate) fn is_hidden(part: &str) -> bool {
    part.starts_with('.') || part == "__MACOSX" || part.eq_ignore_ascii_case("thumbs.db")
}

/// Globs, any of which may match.
#[derive(Clone, Default)]
struct Globs {
    all: Vec<Glob>,
    set: GlobSet,
    any_case: bool,
}

impl Globs {
    fn push(&mut self, glob: &str) -> Result<()> {
        let refused = |why: &dyn fmt::Display, hint: &str| {
            Err(Error::new(ErrorKind::Config, format!("'{glob}' is no glob: {why}")).stage(Stage::List).hint(hint))
        };
        if glob.trim_matches('/').is_empty() {
            return refused(&"it names nothing", "write it as *.jpg, cat/* or raw/");
        }
        if has_class_beyond_ascii(glob) {
            return refused(&"brackets hold single bytes", "write characters beyond ASCII as {é,è} or match them by *");
        }
        let hint =
            r"write it as *.{jpg,png}, train/**/[0-9]*.png or raw/, and a *, ?, [ or { of a name as \*, \?, \[ or \{";
        let built = self.build(&anchored(glob)).and_then(|built| {
            self.all.push(built);
            GlobSet::new(&self.all)
        });
        match built {
            Ok(set) => self.set = set,
            Err(error) => return refused(error.kind(), hint),
        }
        Ok(())
    }

    fn build(&self, anchored: &str) -> Result<Glob, globset::Error> {
        GlobBuilder::new(anchored)
            .literal_separator(true)
            .backslash_escape(true)
            .empty_alternates(true)
            .case_insensitive(self.any_case)
            .build()
    }

    /// Builds those there are again, so that the order of calls makes no difference.
    fn ignore_case(&mut self) -> Result<()> {
        self.any_case = true;
        let built = self.all.iter().map(|glob| self.build(glob.glob())).collect::<Result<Vec<_>, _>>();
        let built = built.and_then(|globs| Ok((GlobSet::new(&globs)?, globs)));
        (self.set, self.all) = built.map_err(|error| {
            Error::new(ErrorKind::Config, format!("these globs can't be matched in any case: {}", error.kind()))
                .stage(Stage::List)
                .object(format_args!("{self:?}"))
                .hint("give fewer or shorter globs")
        })?;
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn matches(&self, below: &str) -> bool {
        // Of bytes, not of a path: paths are something else on each platform.
        !self.is_empty() && self.set.is_match_candidate(&globset::Candidate::from_bytes(below))
    }
}

impl fmt::Debug for Globs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(Glob::glob)).finish()
    }
}

/// The glob for all that stands below the prefix's last slash.
fn anchored(glob: &str) -> String {
    let (path, all) = glob.strip_suffix('/').map_or((glob, ""), |folder| (folder, "/**"));
    match path.strip_prefix('/') {
        Some(path) => format!("{path}{all}"),
        None if path.contains('/') => format!("{path}{all}"),
        None => format!("**/{path}{all}"),
    }
}

/// Whether brackets hold a character of more than one byte, of which they would match any one byte, and so no name.
fn has_class_beyond_ascii(glob: &str) -> bool {
    let mut chars = glob.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '[' => {
                let class = chars.as_str();
                // A bracket that comes first, but for the negation, is one of the characters.
                let first = class.find(|c| c != '!' && c != '^').unwrap_or_default().min(1);
                let Some(end) = class.char_indices().skip(first + 1).find(|(_, c)| *c == ']') else { return false };
                if !class[..end.0].is_ascii() {
                    return true;
                }
                chars = class[end.0 + 1..].chars();
            }
            _ => {}
        }
    }
    false
}

/// Why an object of a listing isn't wanted, in the order in which reasons are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// It is what composing has made and not yet removed, in this run or in another.
    Temporary,
    /// It is an empty object whose name ends in `/`: the mark that tools leave for a folder.
    DirectoryMarker,
    /// It is of none of the storage classes wanted.
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
    /// Images are wanted, and it is a file, or in a folder, that tools hide: `.ipynb_checkpoints`, `__MACOSX`,
    /// `Thumbs.db`.
    Hidden,
    /// Images are wanted, and its name doesn't end like that of one.
    NotAnImage,
}

impl Reason {
    /// All reasons, in order.
    pub const ALL: [Self; 10] = [
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
    ];

    /// The name of the field of [`LeftOut`] that counts it.
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
        }
    }
}

/// Objects of a listing that were not wanted, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// What composing has made and not yet removed, of this run or of others.
    pub temporaries: u64,
    /// Empty objects whose name ends in `/`: the marks that tools leave for folders.
    pub directory_markers: u64,
    /// Those of none of the storage classes wanted.
    pub storage_class: u64,
    /// Those that no glob includes.
    pub not_included: u64,
    /// Those that a glob excludes.
    pub excluded: u64,
    /// Those of fewer bytes than wanted.
    pub too_small: u64,
    /// Those of more bytes than wanted.
    pub too_large: u64,
    /// Those last changed before the time wanted.
    pub not_modified: u64,
    /// Where images are wanted, files that tools hide, and those in folders that they hide.
    pub hidden: u64,
    /// Where images are wanted, those whose name doesn't end like that of one.
    pub not_an_image: u64,
}

impl LeftOut {
    /// Counts one more.
    pub fn add(&mut self, reason: Reason) {
        *self.of(reason) += 1;
    }

    /// Counts all that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        for (reason, count) in other.counts() {
            *self.of(reason) += count;
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.counts().map(|(_, count)| count).sum()
    }

    /// The reasons that were met, in order, and how often each was.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, u64)> {
        let mut all = *self;
        Reason::ALL.into_iter().map(move |reason| (reason, *all.of(reason))).filter(|(_, count)| *count > 0)
    }

    /// All counts, in the order in which files have them: that of [`Reason::ALL`]. A reason that is new goes to the end.
    pub(crate) fn counts_mut(&mut self) -> [&mut u64; 10] {
        let Self {
            temporaries,
            directory_markers,
            storage_class,
            not_included,
            excluded,
            too_small,
            too_large,
            not_modified,
            hidden,
            not_an_image,
        } = self;
        [
            temporaries,
            directory_markers,
            storage_class,
            not_included,
            excluded,
            too_small,
            too_large,
            not_modified,
            hidden,
            not_an_image,
        ]
    }

    fn of(&mut self, reason: Reason) -> &mut u64 {
        match reason {
            Reason::Temporary => &mut self.temporaries,
            Reason::DirectoryMarker => &mut self.directory_markers,
            Reason::StorageClass => &mut self.storage_class,
            Reason::NotIncluded => &mut self.not_included,
            Reason::Excluded => &mut self.excluded,
            Reason::TooSmall => &mut self.too_small,
            Reason::TooLarge => &mut self.too_large,
            Reason::NotModified => &mut self.not_modified,
            Reason::Hidden => &mut self.hidden,
            Reason::NotAnImage => &mut self.not_an_image,
        }
    }
}

/// Such as `12 folder marks, 3 of another storage class`; `nothing` where that is so.
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
            };
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{count} {}", if count == 1 { one } else { many })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn prefix(uri: &str) -> Prefix {
        uri.parse().unwrap()
    }

    fn object(name: &str, size: u64) -> ObjectRef<'_> {
        ObjectRef { name, size, ..ObjectRef::default() }
    }

    fn included(glob: &str, uri: &str, name: &str) -> bool {
        Filter::everything().include(glob).unwrap().reason(&prefix(uri), &object(name, 1)).is_none()
    }

    #[test]
    fn what_can_be_a_sample() {
        let reason = |filter: &Filter, uri, name, size| filter.reason(&prefix(uri), &object(name, size));
        let samples = Filter::new();
        assert_eq!(reason(&samples, "gs://bucket/p/", "p/", 0), Some(Reason::DirectoryMarker));
        assert_eq!(reason(&samples, "gs://bucket/p/", "p/x/", 3), None, "bytes are a sample, whatever the name");
        assert_eq!(reason(&samples, "gs://bucket/p/", "p/x", 0), None);
        let ours = "dataflux-composed-objects/1/2";
        assert_eq!(reason(&samples, "gs://bucket", ours, 1), Some(Reason::Temporary));
        assert_eq!(reason(&samples, "gs://bucket/dataflux-composed-objects/", ours, 1), None);
        assert_eq!(reason(&samples, "gs://bucket/dataflux-", ours, 1), Some(Reason::Temporary));
        let all = Filter::everything();
        assert_eq!(reason(&all, "gs://bucket/", "p/", 0).or(reason(&all, "gs://bucket", ours, 1)), None);
        assert_eq!(reason(&Filter::default(), "gs://bucket", "p/", 0), Some(Reason::DirectoryMarker));
    }

    #[test]
    fn bounds_are_inclusive_and_an_untold_time_is_kept() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let filter = Filter::new().min_size(2).max_size(4).modified_since(at(10));
        let reason = |size, updated| {
            filter.reason(&prefix("gs://bucket"), &ObjectRef { name: "a", size, updated, ..ObjectRef::default() })
        };
        assert_eq!(
            [1, 2, 4, 5].map(|size| reason(size, None)),
            [Some(Reason::TooSmall), None, None, Some(Reason::TooLarge)]
        );
        assert_eq!([9, 10, 11].map(|time| reason(3, Some(at(time)))), [Some(Reason::NotModified), None, None]);
        assert_eq!((filter.fields(), Filter::new().min_size(1).fields()), (Fields::Times, Fields::Sample));
    }

    #[test]
    fn one_of_the_classes_is_enough() {
        let filter = Filter::new().storage_class(StorageClass::Nearline).storage_class(StorageClass::Archive);
        for (storage_class, wanted) in [
            (StorageClass::Nearline, None),
            (StorageClass::Archive, None),
            (StorageClass::Standard, Some(Reason::StorageClass)),
            (StorageClass::Unspecified, Some(Reason::StorageClass)),
        ] {
            let object = ObjectRef { storage_class, ..object("a", 1) };
            assert_eq!(filter.reason(&prefix("gs://bucket"), &object), wanted);
        }
    }

    #[test]
    fn globs_are_below_the_last_slash_of_the_prefix() {
        for uri in ["gs://bucket/train/", "gs://bucket/train/c"] {
            assert!(included("cat/*.png", uri, "train/cat/1.png"));
            assert!(!included("train/**", uri, "train/cat/1.png"));
        }
        assert!(included("train/**", "gs://bucket/tr", "train/cat/1.png"));
        assert!(included("/b/*", "gs://bucket/p/", "p/b/0"));
        assert!(!included("/b/*", "gs://bucket/p/", "p//b/0"));
        assert!(included("//b/*", "gs://bucket/p/", "p//b/0"), "one slash anchors, the next is of the name");
    }

    #[test]
    fn globs_in_folders_and_out_of_them() {
        for (glob, matched, not) in [
            ("*.png", &["a.png", "x/a.png", "x/y/.png"][..], &["a.png/b", "a.PNG", "a.pngs"][..]),
            ("/*.png", &["a.png"], &["x/a.png"]),
            ("x/*", &["x/a", "x/"], &["x/y/a", "w/x/a", "x"]),
            ("x/**", &["x/a", "x/y/a", "x/"], &["x", "w/x/a"]),
            ("**/x/*", &["x/a", "w/x/a"], &["x/y/a"]),
            ("x/**/a", &["x/a", "x/y/z/a"], &["x/ya", "a"]),
            ("raw/", &["raw/a", "raw/", "x/raw/y/a"], &["raw", "xraw/a"]),
            ("/raw/", &["raw/a"], &["x/raw/a"]),
            ("x/raw/", &["x/raw/a"], &["raw/a", "w/x/raw/a"]),
            ("*", &["a", "x/a", "x/"], &[]),
            ("**", &["a", "x/y/a", "/"], &[]),
            ("*.{jpg,png}", &["a.jpg", "x/a.png"], &["a.gif"]),
            ("a{,.gz}", &["a", "a.gz"], &["ab"]),
            ("[0-9]?", &["1x", "y/22"], &["1", "x1", "1/"]),
            (r"\[1\]\*.png", &["[1]*.png"], &["1.png", "[1]x.png"]),
            ("[*]", &["*"], &["a"]),
            ("é {ü,日本}*", &["é ü", "x/é 日本語"], &["e ü", "é u"]),
            ("a\\\\b", &["a\\b"], &["a/b", "ab"]),
            ("\u{1b}[!m]", &["\u{1b}x"], &["\u{1b}m"]),
        ] {
            for name in matched {
                assert!(included(glob, "gs://bucket", name), "{glob:?} must match {name:?}");
            }
            for name in not {
                assert!(!included(glob, "gs://bucket", name), "{glob:?} must not match {name:?}");
            }
        }
    }

    #[test]
    fn brackets_and_question_marks_are_of_bytes_as_documented() {
        assert!(!included("?.png", "gs://bucket", "é.png"));
        assert!(included("??.png", "gs://bucket", "é.png"));
        assert!(included("/x[!a]y", "gs://bucket", "x/y"));
    }

    #[test]
    fn any_glob_includes_and_any_excludes() {
        let filter = Filter::everything().include("*.png").unwrap().include("*.jpg").unwrap();
        let filter = filter.exclude("a*").unwrap().exclude("*z.png").unwrap();
        for (name, wanted) in [
            ("b.png", None),
            ("b.jpg", None),
            ("b.txt", Some(Reason::NotIncluded)),
            ("a.png", Some(Reason::Excluded)),
            ("bz.png", Some(Reason::Excluded)),
            ("a.txt", Some(Reason::NotIncluded)),
        ] {
            assert_eq!(filter.reason(&prefix("gs://bucket"), &object(name, 1)), wanted, "{name}");
        }
        let told = format!("{filter:?}");
        assert!(told.contains("**/*z.png") && told.len() < 400, "{told}");
    }

    #[test]
    fn suffixes_in_any_case() {
        for filter in [
            Filter::new().include("*.{jpg,jpeg}").unwrap().exclude("thumbs/").unwrap().any_case().unwrap(),
            Filter::new().any_case().unwrap().include("*.{jpg,jpeg}").unwrap().exclude("thumbs/").unwrap(),
        ] {
            for (name, wanted) in [
                ("a.jpg", None),
                ("A.JPG", None),
                ("x/a.JpEg", None),
                ("a.png", Some(Reason::NotIncluded)),
                ("Thumbs/a.jpg", Some(Reason::Excluded)),
                ("É.jpg", None),
            ] {
                assert_eq!(filter.reason(&prefix("gs://bucket"), &object(name, 1)), wanted, "{name}");
            }
        }
        // Without it, the case counts.
        assert!(!included("*.jpg", "gs://bucket", "A.JPG"));
        let beyond_ascii = Filter::everything().include("é*").unwrap().any_case().unwrap();
        assert_eq!(beyond_ascii.reason(&prefix("gs://bucket"), &object("É.jpg", 1)), Some(Reason::NotIncluded));
    }

    #[test]
    fn images_only() {
        let filter = Filter::new().images();
        for (name, wanted) in [
            ("train/cat/1.png", None),
            ("train/cat/1.JPEG", None),
            ("train/cat/1.webp", None),
            ("train/1.Jpg", None),
            ("train/cat/v1.2/a.b.jpg", None),
            ("train/cat/labels.csv", Some(Reason::NotAnImage)),
            ("train/cat/1.png.txt", Some(Reason::NotAnImage)),
            ("train/cat/1", Some(Reason::NotAnImage)),
            ("train/cat.png/1", Some(Reason::NotAnImage)),
            ("train/cat/jpg", Some(Reason::NotAnImage)),
            ("train/.ipynb_checkpoints/1-checkpoint.png", Some(Reason::Hidden)),
            ("train/cat/.1.png", Some(Reason::Hidden)),
            ("train/cat/.DS_Store", Some(Reason::Hidden)),
            ("train/cat/Thumbs.db", Some(Reason::Hidden)),
            ("train/__MACOSX/cat/1.png", Some(Reason::Hidden)),
            ("train/cat/", Some(Reason::NotAnImage)),
        ] {
            assert_eq!(filter.reason(&prefix("gs://bucket/train/"), &object(name, 1)), wanted, "{name}");
        }
        // What is hidden is so below the prefix, and where images are wanted.
        assert_eq!(filter.reason(&prefix("gs://bucket/.data/"), &object(".data/cat/1.png", 1)), None);
        assert_eq!(Filter::new().reason(&prefix("gs://bucket/"), &object(".data/cat/1.txt", 1)), None);
    }

    #[test]
    fn what_is_no_glob_is_refused_and_named() {
        for (glob, said) in [
            ("[a", "missing ']'"),
            ("{a,b", "missing '}'"),
            ("a}", "missing '{'"),
            ("[z-a]", "'z' > 'a'"),
            ("a\\", "dangling"),
            ("", "names nothing"),
            ("//", "names nothing"),
            ("[é]", "{é,è}"),
            ("x[!]é]", "{é,è}"),
            ("[]日]", "{é,è}"),
        ] {
            for error in [Filter::new().include(glob).unwrap_err(), Filter::new().exclude(glob).unwrap_err()] {
                assert_eq!(error.kind(), ErrorKind::Config);
                let told = error.to_string();
                assert!(told.contains(&format!("'{glob}'")) && told.contains(said), "{told}");
            }
        }
        for glob in ["[]a]é", "[!a]é", r"\[é]", "é[a]"] {
            Filter::new().include(glob).unwrap();
        }
    }

    #[test]
    fn what_is_left_out_is_told() {
        let mut left = LeftOut::default();
        assert_eq!((left.to_string(), left.total(), left.counts().count()), ("nothing".to_owned(), 0, 0));
        left.add(Reason::StorageClass);
        (0..12).for_each(|_| left.add(Reason::DirectoryMarker));
        assert_eq!(left.to_string(), "12 folder marks, 1 of another storage class");
        let mut other = LeftOut { too_large: 2, directory_markers: 1, ..LeftOut::default() };
        other.merge(&left);
        let counts: Vec<_> = other.counts().map(|(reason, count)| (reason.as_str(), count)).collect();
        assert_eq!(counts, [("directory_markers", 13), ("storage_class", 1), ("too_large", 2)]);
        assert_eq!(other.total(), 16);
        let debug = format!("{:?}", LeftOut::default());
        assert!(Reason::ALL.iter().all(|reason| debug.contains(&format!("{}: 0", reason.as_str()))), "{debug}");
        assert!(Reason::ALL.is_sorted());
    }

    /// As the documentation has it, part by part and byte by byte.
    fn by_the_book(glob: &[&str], name: &[&str]) -> bool {
        match (glob, name) {
            ([], []) => true,
            (["**"], _) => !name.is_empty(),
            (["**", rest @ ..], _) => (0..=name.len()).any(|skipped| by_the_book(rest, &name[skipped..])),
            ([part, rest @ ..], [first, others @ ..]) => {
                part_matches(part.as_bytes(), first.as_bytes()) && by_the_book(rest, others)
            }
            _ => false,
        }
    }

    fn part_matches(glob: &[u8], part: &[u8]) -> bool {
        match (glob, part) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=part.len()).any(|taken| part_matches(rest, &part[taken..])),
            ([b'?', rest @ ..], [_, others @ ..]) => part_matches(rest, others),
            ([c, rest @ ..], [d, others @ ..]) => c == d && part_matches(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn globs_match_as_documented(
            glob in prop::collection::vec(prop_oneof![1 => "[*]{2}", 3 => "[abé]{0,2}[*?]?[.]?[ab*]"], 1..5),
            name in prop::collection::vec("[abé]{0,2}([.][ab])?", 1..5),
        ) {
            prop_assume!(glob.iter().all(|part| part == "**" || !part.contains("**")));
            let wanted = by_the_book(
                &glob.iter().map(String::as_str).collect::<Vec<_>>(),
                &name.iter().map(String::as_str).collect::<Vec<_>>(),
            );
            let (glob, name) = (format!("/{}", glob.join("/")), name.join("/"));
            prop_assert_eq!(included(&glob, "gs://bucket", &name), wanted, "{} of {}", glob, name);
        }

        /// Each condition alone tells who it is against; together they leave out what any of them does, once, for the
        /// first reason in order.
        #[test]
        fn each_object_has_one_reason_and_counts_add_up(
            objects in prop::collection::vec(
                ("(dataflux-composed-objects/)?[ab]{1,2}(/[ab]?)?", 0..6u64, 0..4u8, prop::option::of(0..9u64)), 0..40),
            conditions in prop::collection::vec(any::<bool>(), 6),
            (least, most, since) in (0..5u64, 0..5u64, 0..9u64),
        ) {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let none = Filter::everything;
            let alone: [(Filter, &[Reason]); 6] = [
                (Filter::new(), &[Reason::Temporary, Reason::DirectoryMarker]),
                (none().storage_class(StorageClass::Standard), &[Reason::StorageClass]),
                (none().include("a*").unwrap(), &[Reason::NotIncluded]),
                (none().exclude("*b").unwrap(), &[Reason::Excluded]),
                (none().min_size(least).max_size(most), &[Reason::TooSmall, Reason::TooLarge]),
                (none().modified_since(at(since)), &[Reason::NotModified]),
            ];
            let mut all = if conditions[0] { Filter::new() } else { none() };
            if conditions[1] { all = all.storage_class(StorageClass::Standard); }
            if conditions[2] { all = all.include("a*").unwrap(); }
            if conditions[3] { all = all.exclude("*b").unwrap(); }
            if conditions[4] { all = all.min_size(least).max_size(most); }
            if conditions[5] { all = all.modified_since(at(since)); }
            let prefix = prefix("gs://bucket");
            let classes =
                [StorageClass::Unspecified, StorageClass::Standard, StorageClass::Nearline, StorageClass::Archive];
            let (mut left, mut kept) = (LeftOut::default(), 0);
            for (name, size, class, updated) in &objects {
                let object = ObjectRef {
                    storage_class: classes[usize::from(*class)],
                    updated: updated.map(at),
                    ..object(name, *size)
                };
                let against: Vec<Reason> = alone.iter().zip(&conditions).filter(|(_, on)| **on)
                    .filter_map(|((filter, reasons), _)| {
                        let reason = filter.reason(&prefix, &object);
                        assert!(reason.is_none_or(|reason| reasons.contains(&reason)));
                        reason
                    })
                    .collect();
                let reason = all.reason(&prefix, &object);
                prop_assert_eq!(reason, against.iter().copied().min());
                match reason {
                    Some(reason) => left.add(reason),
                    None => kept += 1,
                }
            }
            prop_assert_eq!(kept + left.total(), objects.len() as u64);
        }
    }
}
