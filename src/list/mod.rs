//! From a prefix to the objects below it.
//!
//! One listing, page after page. What other servers than the real one do is survived: pages that are empty, short or
//! unsorted, offsets and page sizes that are ignored, a token that never ends.

#[allow(dead_code, reason = "the lister does not use it yet")]
mod alphabet;
#[allow(dead_code, reason = "the lister does not use it yet")]
mod keyspace;
#[allow(dead_code, reason = "the lister does not use it yet")]
mod ranges;
#[cfg(test)]
mod simulation;

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::store::{Client, ListRequest, ObjectMeta};
use crate::{Error, ErrorKind, Result, Stage};

/// Objects that composing makes live below this; a listing of samples leaves them out.
pub(crate) const TEMPORARY_PREFIX: &str = "dataflux-composed-objects/";

/// What to ask for in a page. The documented most is 1,000, the service gives 5,000 and Google's own clients ask for
/// it; a server with a lower cap just gives less.
pub const PAGE_SIZE: u32 = 5_000;

/// Empty pages in a row after which a listing is taken to lead nowhere. The service sends a few where many objects were
/// deleted or filtered out.
const MOST_EMPTY: u32 = 10_000;

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

/// Lists `prefix`, whatever is there, in byte order of names and each name once. `progress` hears the count of objects
/// after each page.
///
/// # Errors
/// Whatever the store answers when retrying has not helped, and a listing that never ends.
///
/// # Cancel safety
/// Reads only: dropping the future stops it.
pub async fn list(
    client: &Client,
    prefix: &Prefix,
    page_size: Option<u32>,
    details: bool,
    mut progress: impl FnMut(u64) + Send,
) -> Result<Vec<ObjectMeta>> {
    let mut request = ListRequest::new(Arc::clone(&prefix.bucket), &*prefix.prefix);
    request.page_size = Some(page_size.unwrap_or(PAGE_SIZE));
    request.details = details;
    let mut objects: Vec<ObjectMeta> = Vec::new();
    let mut tokens = HashSet::new();
    let mut empty = 0;
    loop {
        let page = client.list(&request).await.map_err(|error| error.stage(Stage::List))?;
        empty = if page.objects.is_empty() { empty + 1 } else { 0 };
        objects.extend(page.objects.into_iter().filter(|object| object.name.starts_with(&prefix.prefix)));
        progress(objects.len() as u64);
        let Some(token) = page.next_page_token else { break };
        if !tokens.insert(token.clone()) || empty > MOST_EMPTY {
            return Err(Error::new(ErrorKind::Protocol, "the server's pages lead nowhere")
                .stage(Stage::List)
                .object(prefix)
                .mismatch(
                    "a listing that ends",
                    format!("{empty} empty pages and token {token:?} after {} objects", objects.len()),
                )
                .hint("a server that doesn't page can't be listed; see what stands between here and the bucket"));
        }
        request.page_token = Some(token);
    }
    if !objects.is_sorted_by(|a, b| a.name < b.name) {
        // The stable sort keeps the order of arrival among equal names: the last to come is the newest.
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        objects.reverse();
        objects.dedup_by(|later, earlier| later.name == earlier.name);
        objects.reverse();
    }
    Ok(objects)
}

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
