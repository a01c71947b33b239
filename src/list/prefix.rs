//! The prefix that a listing is of.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::store::{BucketUri, ObjectUri, Scheme, StoreUri};
use crate::{Error, Result};

/// A bucket, and the beginning of the names in it: `gs://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The kind of store.
    pub scheme: Scheme,
    /// The bucket's name.
    pub bucket: Arc<str>,
    /// What names begin with; empty for the whole bucket. It need not be a folder: `train` also begins
    /// `training/a.png`.
    pub prefix: String,
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        let StoreUri { scheme, bucket, path } = uri.parse()?;
        Ok(Self { scheme, bucket, prefix: path })
    }
}

impl Prefix {
    /// If this looks like a glob, the prefix above the glob, and the glob as
    /// [`Filter::include`](super::Filter::include) takes it below that prefix. Names may hold the characters of a glob,
    /// so a prefix that holds some isn't wrong; a prefix that no name begins with was probably meant as a glob.
    ///
    /// ```
    /// let meant = dataflux::list::Prefix::glob(&"gs://bucket/train/*.jpg".parse()?);
    /// assert_eq!(meant, Some(("gs://bucket/train/".parse()?, "/*.jpg".to_owned())));
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    pub fn glob(&self) -> Option<(Self, String)> {
        let first = self.prefix.find(['*', '?', '[', '{'])?;
        let folder_end = self.prefix[..first].rfind('/').map_or(0, |slash| slash + 1);
        let (folder, glob) = self.prefix.split_at(folder_end);
        // A filter's glob without a slash applies to files in any folder, which is more than was written.
        let glob = if glob.contains('/') { glob.to_owned() } else { format!("/{glob}") };
        Some((Self { prefix: folder.to_owned(), ..self.clone() }, glob))
    }
}

impl Prefix {
    /// The URI of the bucket, such as `gs://my-bucket`.
    pub fn bucket_uri(&self) -> impl fmt::Display + '_ {
        BucketUri { scheme: self.scheme, bucket: &self.bucket }
    }

    /// The same as the URI of a store, as [`Client::open`](crate::store::Client::open) takes it.
    pub fn to_uri(&self) -> StoreUri {
        StoreUri { scheme: self.scheme, bucket: Arc::clone(&self.bucket), path: self.prefix.clone() }
    }

    /// The part of a listed name below the last `/` of this prefix.
    pub(crate) fn below<'a>(&self, name: &'a str) -> &'a str {
        let folder = self.prefix.rfind('/').map_or(0, |slash| slash + 1);
        name.get(folder..).unwrap_or(name)
    }

    /// The URI of the object with this whole name in the same bucket.
    pub fn uri<'a>(&'a self, name: &'a str) -> impl fmt::Display + 'a {
        ObjectUri { scheme: self.scheme, bucket: &self.bucket, name }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri(&self.prefix).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_in_prefixes() {
        let prefix = |prefix: &str| format!("gs://bucket/{prefix}").parse::<Prefix>().unwrap();
        for (text, folder, glob) in [
            ("train/*.jpg", "train/", "/*.jpg"),
            ("*.jpg", "", "/*.jpg"),
            ("train/ca?/**", "train/", "ca?/**"),
            ("a/b/c-{1,2}", "a/b/", "/c-{1,2}"),
            ("a/[ab]/c", "a/", "[ab]/c"),
        ] {
            assert_eq!(prefix(text).glob(), Some((prefix(folder), glob.to_owned())), "{text}");
        }
        assert_eq!(prefix("train/").glob(), None);
    }
}
