//! Which objects of a listing are wanted.

mod globs;
mod left_out;

use std::ops::RangeInclusive;
use std::time::SystemTime;

use self::globs::Globs;
pub use self::left_out::{LeftOut, Reason};
use super::{Prefix, TEMPORARY_PREFIX};
use crate::Result;
use crate::store::{Fields, ObjectRef, StorageClass};

/// Selects objects of a listing. By default all objects are wanted that can be samples, whatever their storage class.
///
/// Conditions of different kinds must all hold. Of several storage classes, or of several globs of a kind, one must
/// match.
///
/// # Globs
/// A glob is matched against the part of a name below the last `/` of the listed prefix: against `cat/tom.png` of
/// `gs://bucket/train/cat/tom.png`, for the prefix `gs://bucket/train/` as for `gs://bucket/train/c`.
///
/// - A glob without `/` matches the last part of a name, in any folder: `*.png`. Any other glob matches the whole:
///   `cat/*.png`. A `/` at the beginning has no other effect: `/*.png` matches names right below the prefix.
/// - A glob that ends in `/` matches everything in a folder: `raw/` matches everything in any folder of that name,
///   `/raw/` and `2026/raw/` in one folder only.
/// - `*` matches any characters except `/`, `?` one byte except `/`, `[a-z]` one byte of a range, `[!a-z]` any other
///   byte (even `/`), and `{jpg,png}` either alternative. Write a character that isn't ASCII as it is, or match it by
///   `*` or `{é,è}`; in brackets it is refused.
/// - `**` as a whole part matches any number of parts: `cat/**`, `**/thumbs/*`, `2026/**/*.png`.
/// - `\` removes the special meaning of the next character: `\[1\].png`.
///
/// Upper and lower case differ, unless [`any_case`](Filter::any_case) is set.
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
    accepts_hidden: bool,
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
    /// Accepts all objects that can be samples: everything except folder marks, temporary objects, and hidden files.
    ///
    /// A folder mark is an empty object whose name ends in `/`. Temporary objects, which composing makes, are below
    /// `dataflux-composed-objects/`; they are accepted if the listed prefix itself is below that. A file is hidden if
    /// its name, or that of a folder below the last `/` of the listed prefix, begins with a dot, for example
    /// `.DS_Store` and `.ipynb_checkpoints/1.png`, or is `__MACOSX` or `Thumbs.db`; [`hidden`](Self::hidden) accepts
    /// these, too.
    pub fn new() -> Self {
        Self { only_samples: true, accepts_hidden: false, ..Self::everything() }
    }

    /// Accepts all objects, as `dataflux ls` shows them.
    pub fn everything() -> Self {
        Self {
            only_samples: false,
            accepts_hidden: true,
            classes: Vec::new(),
            include: Globs::default(),
            exclude: Globs::default(),
            sizes: 0..=u64::MAX,
            modified_since: None,
            only_images: false,
        }
    }

    /// Accepts only objects of this storage class, or of any of the classes given by repeated calls. An object for
    /// which the server returns no class is [`StorageClass::Unspecified`].
    #[must_use]
    pub fn storage_class(mut self, class: StorageClass) -> Self {
        self.classes.push(class);
        self
    }

    /// Accepts only names that this glob matches, or any of the globs given by repeated calls.
    ///
    /// # Errors
    /// An invalid glob.
    pub fn include(mut self, glob: &str) -> Result<Self> {
        self.include.push(glob)?;
        Ok(self)
    }

    /// Rejects names that this glob matches, even if they are included. Repeated calls add globs.
    ///
    /// # Errors
    /// An invalid glob.
    pub fn exclude(mut self, glob: &str) -> Result<Self> {
        self.exclude.push(glob)?;
        Ok(self)
    }

    /// Matches all globs of this filter in any case, whether they are set before or after this: `*.jpg` then matches
    /// `A.JPG`, too. Only the letters `a` to `z` have a case here.
    ///
    /// ```
    /// use dataflux::list::Filter;
    ///
    /// let photos = Filter::new().include("*.{jpg,jpeg}")?.any_case()?;
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// Too many globs, or too long ones, to be matched in any case.
    pub fn any_case(mut self) -> Result<Self> {
        self.include.ignore_case()?;
        self.exclude.ignore_case()?;
        Ok(self)
    }

    /// Accepts only names with an image's suffix, in upper or lower case: `.jpg`, `.jpeg`, `.jpe`, `.jfif`, `.png`,
    /// `.apng`, `.gif`, `.webp`, `.bmp`, `.tif`, `.tiff`, `.pbm`, `.pgm`, `.ppm`, `.avif`, `.heic`, `.heif` and `.jxl`.
    /// This crate decodes only some of these formats. An image of another one is an error instead of being left out
    /// unnoticed.
    ///
    /// Hidden files are rejected, too, as by [`new`](Self::new), whether [`hidden`](Self::hidden) is set or not.
    ///
    /// A data set that is decoded with an [`ImageFolder`](crate::ImageFolder) is always filtered by this.
    #[must_use]
    pub fn images(mut self) -> Self {
        self.only_images = true;
        self
    }

    /// Accepts hidden files, too, which [`new`](Self::new) rejects: their folders are labels then.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.accepts_hidden = true;
        self
    }

    /// Accepts only objects of at least this many bytes, as stored.
    #[must_use]
    pub fn min_size(mut self, bytes: u64) -> Self {
        self.sizes = bytes..=*self.sizes.end();
        self
    }

    /// Accepts only objects of at most this many bytes, as stored.
    #[must_use]
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.sizes = *self.sizes.start()..=bytes;
        self
    }

    /// Accepts only objects that were written, or whose metadata was changed, at this time or later. An object for
    /// which the server returns no such [time](ObjectRef::updated) is accepted.
    #[must_use]
    pub fn modified_since(mut self, time: SystemTime) -> Self {
        self.modified_since = Some(time);
        self
    }

    /// The fields of each object that this filter needs.
    pub fn fields(&self) -> Fields {
        if self.modified_since.is_some() { Fields::Times } else { Fields::Sample }
    }

    /// Returns the wanted ones of the `objects` listed below `prefix`, and counts the others in `left_out`.
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

    /// Why an object isn't wanted, where only its name matters.
    pub(crate) fn reason_by_name(&self, prefix: &Prefix, name: &str) -> Option<Reason> {
        self.reason(prefix, &ObjectRef { name, ..ObjectRef::default() })
    }

    /// Why an object listed below `prefix` isn't wanted: the first reason in the order of [`Reason`]; `None` if the
    /// object is wanted.
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
        let below = prefix.below(name);
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
        if (self.only_images || !self.accepts_hidden) && below.split('/').any(is_hidden) {
            return Some(Reason::Hidden);
        }
        (self.only_images && !is_image(below)).then_some(Reason::NotAnImage)
    }
}

/// Suffixes of images, in lower case. Formats that this crate can't decode are among them, so that their images are an
/// error of the decoder instead of being left out.
const IMAGE_SUFFIXES: [&str; 18] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "bmp", "tif", "tiff", "pbm", "pgm", "ppm", "avif",
    "heic", "heif", "jxl",
];

/// Whether an object is an image, by the suffix of its name.
fn is_image(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let suffix = file.rsplit_once('.').map(|(_, suffix)| suffix);
    suffix.is_some_and(|suffix| IMAGE_SUFFIXES.iter().any(|image| suffix.eq_ignore_ascii_case(image)))
}

/// Whether tools hide files or folders of this name: macOS leaves `__MACOSX` in archives, and Windows `Thumbs.db` in
/// folders.
pub(crate) fn is_hidden(part: &str) -> bool {
    part.starts_with('.') || part == "__MACOSX" || part.eq_ignore_ascii_case("thumbs.db")
}

#[cfg(test)]
mod tests;
