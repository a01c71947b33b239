//! From a prefix to the objects below it.
//!
//! [`Lister`] makes many calls at once, which divide the names among themselves. What other servers than the real one do
//! is survived: pages that are empty, short or unsorted, offsets and page sizes that are ignored, a token that never ends.
//! [`Filter`] says which objects are wanted. [`inventory`] reads reports instead of listing.

mod alphabet;
mod filter;
mod in_order;
pub mod inventory;
mod keyspace;
mod lister;
mod ranges;
mod uri;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

pub(crate) use filter::is_hidden;
pub use filter::{Filter, LeftOut, Reason};
pub use lister::{CONCURRENCY, Lister, Page, Pages, Progress};

/// Objects that composing makes live below this; a listing of samples leaves them out.
pub(crate) const TEMPORARY_PREFIX: &str = "dataflux-composed-objects/";

/// What to ask for in a page. The documented most is 1,000, the service gives 5,000 and Google's own clients ask for
/// it; a server with a lower cap just gives less.
pub const PAGE_SIZE: u32 = 5_000;

/// A bucket, and the beginning that names in it must have: `gs://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The bucket's name.
    pub bucket: Arc<str>,
    /// What names begin with; empty for the whole bucket. Not a folder: `train` also begins `training/a.png`.
    pub prefix: String,
}

impl FromStr for Prefix {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        let wrong = |message: &str, hint: String| Err(Error::new(ErrorKind::Config, message).object(uri).hint(hint));
        let meant = || {
            let meant = uri::meant(uri).filter(|meant| meant != uri && Self::from_str(meant).is_ok());
            meant
                .map_or_else(|| "write gs://my-bucket/train/, for example".to_owned(), |meant| format!("write {meant}"))
        };
        let Some(path) = uri.strip_prefix("gs://") else {
            return match uri.split_once("://") {
                Some((scheme, _)) => wrong(&format!("{scheme}:// isn't a scheme that this crate reads"), meant()),
                None => wrong("this isn't a URI that begins with gs://", meant()),
            };
        };
        if path.starts_with('/') {
            return wrong("this URI has no bucket between its slashes", meant());
        }
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_' | b'.');
        if !(3..=222).contains(&bucket.len()) || !bucket.bytes().all(legal) {
            let hint = "a bucket's name has 3 to 222 of a-z, 0-9, '-', '_' and '.', as in gs://my-bucket/train/";
            return wrong(&format!("'{bucket}' can't be a bucket's name"), hint.into());
        }
        if prefix.len() > 1_024 || prefix.contains(['\r', '\n']) {
            let hint = "names of objects have at most 1,024 bytes and neither CR nor LF";
            return wrong("no object's name can begin so", hint.into());
        }
        Ok(Self { bucket: bucket.into(), prefix: prefix.into() })
    }
}

impl Prefix {
    /// Where this is a glob: the prefix above it, and the glob as [`Filter::include`] takes it below that prefix. Names
    /// may hold the characters of a glob, so a prefix that holds some isn't wrong; one that no name begins with was
    /// probably meant as a glob.
    ///
    /// ```
    /// let meant = dataflux::list::Prefix::glob(&"gs://bucket/train/*.jpg".parse()?);
    /// assert_eq!(meant, Some(("gs://bucket/train/".parse()?, "/*.jpg".to_owned())));
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    pub fn glob(&self) -> Option<(Self, String)> {
        let (folder, glob) = uri::glob(&self.prefix)?;
        Some((Self { bucket: Arc::clone(&self.bucket), prefix: folder.to_owned() }, glob))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}/{}", self.bucket, self.prefix)
    }
}

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let prefix: Prefix = "gs://bucket/a/b".parse().unwrap();
        assert_eq!((&*prefix.bucket, &*prefix.prefix), ("bucket", "a/b"));
        assert_eq!(prefix.to_string(), "gs://bucket/a/b");
        let whole: Prefix = "gs://bucket".parse().unwrap();
        assert_eq!((&*whole.bucket, &*whole.prefix), ("bucket", ""));
        assert_eq!("gs://bucket//a".parse::<Prefix>().unwrap().prefix, "/a");
        for (uri, said) in [
            ("bucket/a", "write gs://bucket/a"),
            ("/bucket/a", "write gs://bucket/a"),
            ("s3://bucket/a", "write gs://bucket/a"),
            ("gs://", "can't be a bucket's name"),
            ("gs://Bucket/a", "can't be a bucket's name"),
            ("gs:///a", "no bucket between its slashes; write gs://my-bucket/train/"),
            ("gs:///bucket/a", "write gs://bucket/a"),
            ("gs:/bucket/a", "write gs://bucket/a"),
            ("https://storage.googleapis.com/bucket/a%20b", "write gs://bucket/a b"),
            ("https://example.com/bucket/a", "write gs://my-bucket/train/"),
            ("gs://bucket/a\nb", "neither CR nor LF"),
        ] {
            let error = uri.parse::<Prefix>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
