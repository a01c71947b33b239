//! Versions of objects.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The version of an object, by which a store distinguishes a write to a name from all other writes to that name.
///
/// `T` is the type of an entity tag's text: [`Arc<str>`], a borrowed `&str`, or `()` where the text isn't kept.
///
/// Generations are ordered by age, and a known version comes after none. The order of two entity tags means nothing.
///
/// ```
/// use dataflux::store::{MemoryStore, Version};
///
/// let store = MemoryStore::new();
/// let version = store.insert("cats", "tom.txt", "meow");
/// assert!(matches!(version, Version::Generation(number) if number > 0));
/// assert!(store.insert("cats", "tom.txt", "purr") > version);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version<T = Arc<str>> {
    /// No version is known. A call that names an object without a version means the live one.
    #[default]
    None,
    /// A number greater than 0 that grows with each write.
    Generation(i64),
    /// An entity tag, as the store spells it. A later write may have a lesser one.
    Etag(T),
}

impl<T> Version<T> {
    /// Whether no version is known.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The number, if this is a generation.
    pub fn generation(&self) -> Option<i64> {
        match self {
            Self::Generation(number) => Some(*number),
            Self::None | Self::Etag(_) => None,
        }
    }

    /// This version, or `other` if this one isn't known.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self.is_none() { other } else { self }
    }

    /// Applies a function to the text of an entity tag.
    pub fn map<U>(self, text: impl FnOnce(T) -> U) -> Version<U> {
        match self {
            Self::None => Version::None,
            Self::Generation(number) => Version::Generation(number),
            Self::Etag(tag) => Version::Etag(text(tag)),
        }
    }

    /// The same version with a borrowed text.
    pub fn as_deref(&self) -> Version<&T::Target>
    where
        T: Deref,
    {
        match self {
            Self::None => Version::None,
            Self::Generation(number) => Version::Generation(*number),
            Self::Etag(tag) => Version::Etag(tag),
        }
    }
}

/// A generation. All are above 0. A call that names a lesser number fails or finds nothing, and never means the live
/// version.
impl<T> From<i64> for Version<T> {
    fn from(number: i64) -> Self {
        Self::Generation(number)
    }
}

impl From<&Self> for Version {
    fn from(version: &Self) -> Self {
        version.clone()
    }
}

impl<T: fmt::Display> fmt::Display for Version<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no version"),
            Self::Generation(number) => write!(f, "generation {number}"),
            Self::Etag(tag) => write!(f, "ETag {tag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_no_generation_has_does_not_mean_the_live_version() {
        for number in [i64::MIN, -1, 0, 1] {
            assert_eq!(Version::<()>::from(number), Version::Generation(number));
        }
    }

    #[test]
    fn the_first_known_version_counts() {
        let tag: Version = Version::Etag("\"a\"".into());
        assert_eq!(Version::None.or(tag.clone()), tag);
        assert_eq!(Version::from(7).or(tag.clone()), Version::Generation(7));
        assert_eq!(tag.clone().or(Version::None), tag);
        assert_eq!(tag.as_deref().map(Arc::from), tag);
        assert_eq!((tag.generation(), tag.is_none()), (None, false));
    }

    #[test]
    fn messages_say_of_which_kind_a_version_is() {
        let shown = [Version::None, Version::Generation(7), Version::Etag("\"a\"")].map(|version| version.to_string());
        assert_eq!(shown, ["no version", "generation 7", "ETag \"a\""]);
    }
}
