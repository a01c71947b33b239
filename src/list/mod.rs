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

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

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
        let Some(path) = uri.strip_prefix("gs://") else {
            return match uri.split_once("://") {
                Some((scheme, rest)) => {
                    wrong(&format!("the scheme {scheme}:// isn't one this crate reads"), format!("write gs://{rest}"))
                }
                None => wrong("this URI has no scheme", format!("write gs://{}", uri.trim_start_matches('/'))),
            };
        };
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
            ("gs:///a", "can't be a bucket's name"),
            ("gs://bucket/a\nb", "neither CR nor LF"),
        ] {
            let error = uri.parse::<Prefix>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
