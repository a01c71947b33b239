//! Parses and writes the URIs of buckets, prefixes and objects, without I/O. No other file parses or formats them.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::{Error, ErrorKind, Result};

/// The scheme of a [`StoreUri`], which says what kind of store it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scheme {
    /// `gs`: Google Cloud Storage, or an emulator of it.
    #[default]
    Gs,
    /// `file`: files of this machine, of which the bucket is empty: `file:///data/train/` has the path `data/train/`.
    /// See [`FileStore`](super::FileStore).
    File,
    /// `mem`: buckets in the memory of this process. See [`MemoryStore::shared`](super::MemoryStore::shared).
    Mem,
}

impl Scheme {
    /// All schemes.
    const ALL: [Self; 3] = [Self::Gs, Self::File, Self::Mem];

    /// The scheme as it is written before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gs => "gs",
            Self::File => "file",
            Self::Mem => "mem",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == text)
    }
}

/// A bucket and a path in it, such as `gs://bucket/train/`.
///
/// ```
/// use dataflux::store::{Scheme, StoreUri};
///
/// let uri: StoreUri = "gs://my-bucket/train/".parse()?;
/// assert_eq!((uri.scheme, &*uri.bucket, &*uri.path), (Scheme::Gs, "my-bucket", "train/"));
/// let uri: StoreUri = "file:///data/train/".parse()?;
/// assert_eq!((uri.scheme, &*uri.bucket, &*uri.path), (Scheme::File, "", "data/train/"));
/// assert!("s3://my-bucket/train/".parse::<StoreUri>().is_err());
/// # Ok::<_, dataflux::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreUri {
    /// The kind of store.
    pub scheme: Scheme,
    /// The bucket's name: 3 to 222 of `a-z`, `0-9`, `-`, `_` and `.`; empty for `file://`.
    pub bucket: Arc<str>,
    /// What follows the bucket and a slash: at most 1,024 bytes (of `file://` 4,094) without CR and LF; may be empty.
    /// Its bytes are the name itself: nothing is percent-encoded.
    pub path: String,
}

impl FromStr for StoreUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            |message: &str, hint: String| Err(Error::new(ErrorKind::Config, message).object(redact(text)).hint(hint));
        if let Some(path) = text.strip_prefix("file:///") {
            return parse_file(path)
                .map_err(|(message, hint)| Error::new(ErrorKind::Config, message).object(text).hint(hint.to_owned()));
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = path.trim_start_matches('/').trim_start_matches("localhost/");
            let has_host = user_info(path).is_some();
            let hint = if has_host {
                "write file:///data/train/, for example".into()
            } else {
                format!("write file:///{path}")
            };
            return wrong("the path of a file:// URI begins with a slash, and no host comes before it", hint);
        }
        let has_user_info = user_info(text).is_some();
        let is_suggestion = |meant: &String| meant != text && !has_user_info && Self::from_str(meant).is_ok();
        let suggestion = || match suggest(text).filter(is_suggestion) {
            Some(meant) if text.starts_with('/') && !text.starts_with("//") => {
                format!("write {meant}, or file://{text} for files of this machine")
            }
            Some(meant) => format!("write {meant}"),
            None => "write gs://my-bucket/train/, for example".to_owned(),
        };

        if holds_credentials(text) {
            let message = "this address holds credentials, which must not be a part of a URI";
            return wrong(message, format!("{}, and hand over credentials by themselves", suggestion()));
        }
        let Some((scheme, path)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return wrong("this isn't a URI, such as gs://my-bucket/train/ or file:///data/train/", suggestion());
        };
        let Some(scheme) = Scheme::parse(scheme) else {
            return wrong(&format!("{scheme}:// isn't a scheme that this crate reads"), suggestion());
        };
        if path.starts_with('/') {
            return wrong("this URI has no bucket between its slashes", suggestion());
        }

        let (bucket, path) = split(path);
        let is_legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_' | b'.');
        if !(3..=222).contains(&bucket.len()) || !bucket.bytes().all(is_legal) {
            let hint = "a bucket's name has 3 to 222 of a-z, 0-9, '-', '_' and '.', as in gs://my-bucket/train/";
            let shown = if has_user_info { "...".to_owned() } else { redact(bucket) };
            return wrong(&format!("'{shown}' can't be a bucket's name"), hint.into());
        }
        if path.len() > 1_024 || path.contains(['\r', '\n']) {
            let hint = "names of objects have at most 1,024 bytes and neither CR nor LF";
            return wrong("no object's name can begin so", hint.into());
        }
        Ok(Self { scheme, bucket: bucket.into(), path: path.into() })
    }
}

/// The most bytes of a path that Linux takes, without the slash at its start and the zero at its end.
const MAX_FILE_PATH: usize = 4_094;

/// Parses what follows `file:///`. The error is a message and a hint.
fn parse_file(name: &str) -> Result<StoreUri, (&'static str, &'static str)> {
    let is_plain = |part: &&str| !matches!(*part, "" | "." | "..");
    let (folders, last) = name.rsplit_once('/').map_or((None, name), |(folders, last)| (Some(folders), last));
    if folders.is_some_and(|folders| !folders.split('/').all(|part| is_plain(&part))) || matches!(last, "." | "..") {
        return Err(("this path has a part that is empty, '.' or '..'", "write the path without such parts"));
    }
    if name.len() > MAX_FILE_PATH || name.contains(['\r', '\n', '\0']) {
        let hint = "paths have at most 4,095 bytes, and here neither CR nor LF nor NUL";
        return Err(("no file's path can begin so", hint));
    }
    Ok(StoreUri { scheme: Scheme::File, bucket: "".into(), path: name.into() })
}

impl fmt::Display for StoreUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ObjectUri { scheme: self.scheme, bucket: &self.bucket, name: &self.path }.fmt(f)
    }
}

/// Writes the URI of a bucket.
pub(crate) struct BucketUri<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) bucket: &'a str,
}

impl fmt::Display for BucketUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.bucket)
    }
}

/// Writes the URI of an object or a prefix.
pub(crate) struct ObjectUri<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) bucket: &'a str,
    pub(crate) name: &'a str,
}

impl fmt::Display for ObjectUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, bucket, name } = *self;
        write!(f, "{}/{name}", BucketUri { scheme, bucket })
    }
}

/// Keys of the queries of signed URLs and of tokens, which no name of an object holds.
const SECRET_KEYS: [&str; 8] = [
    "x-goog-signature",
    "x-goog-credential",
    "x-amz-signature",
    "x-amz-security-token",
    "googleaccessid",
    "awsaccesskeyid",
    "signature",
    "access_token",
];

/// Whether an address has the query of a signed URL, or a user's name and password before its host.
fn holds_credentials(address: &str) -> bool {
    let query = &address[without_query(address).len()..];
    let mut keys = query.split(['&', '?']).filter_map(|pair| pair.split_once('='));
    authority(address).contains('@') || keys.any(|(key, _)| SECRET_KEYS.contains(&&*key.to_ascii_lowercase()))
}

/// The address up to its query. A question mark that no pair follows may be part of a glob.
fn without_query(address: &str) -> &str {
    address.split_once('?').filter(|(_, query)| query.contains('=')).map_or(address, |(address, _)| address)
}

fn is_scheme(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
}

/// Where the scheme of an address ends.
fn scheme_end(address: &str) -> usize {
    address.find("://").filter(|&at| is_scheme(&address[..at])).map_or(0, |at| at + 3)
}

/// The part of an address that names a host, with a user's name and password before it.
fn authority(address: &str) -> &str {
    let rest = address[scheme_end(address)..].trim_start_matches('/');
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// The part of an address that may hold a user's name and password. It is rather too long than too short: a password
/// may hold any character, although most must be percent-encoded there.
fn user_info(address: &str) -> Option<Range<usize>> {
    let start = scheme_end(address);
    let rest = &address[start..];
    let end = rest.rfind('@').filter(|&end| rest[..end].contains(':')).or_else(|| {
        let slashes = rest.len() - rest.trim_start_matches('/').len();
        Some(slashes + authority(address).rfind('@')?)
    })?;
    Some(start..start + end)
}

/// The address, for errors and logs, without a user's name and password and without its query: signed URLs and the
/// addresses of proxies grant access to all who read them.
pub(super) fn redact(address: &str) -> String {
    let mut shown = without_query(address).to_owned();
    let is_cut = shown.len() < address.len();
    match user_info(address) {
        // What seems to be the query may be a part of the password.
        Some(secret) if secret.end > shown.len() => shown.replace_range(secret.start.., "..."),
        Some(secret) => shown.replace_range(secret, "..."),
        None => {}
    }
    if is_cut {
        shown.push_str("?...");
    }
    shown
}

/// Hosts whose paths begin with the bucket: the XML API, and the download links of the console.
const PATH_HOSTS: [&str; 4] = [
    "storage.googleapis.com",
    "storage.cloud.google.com",
    "commondatastorage.googleapis.com",
    "storage.mtls.googleapis.com",
];

/// Domains whose host names begin with the bucket.
const BUCKET_DOMAINS: [&str; 2] = [".storage.googleapis.com", ".commondatastorage.googleapis.com"];

/// The host of the web console.
const CONSOLE: &str = "console.cloud.google.com";

/// The URI of a bucket of Google Cloud Storage, or of a path in it.
fn gs(path: &str) -> String {
    BucketUri { scheme: Scheme::Gs, bucket: path }.to_string()
}

/// The URI that the author of `text` probably meant, if that can be guessed. The result isn't checked.
fn suggest(text: &str) -> Option<String> {
    let text = text.trim();
    let text = without_query(text);
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if !scheme.contains(['/', '.']) => (scheme.to_ascii_lowercase(), rest),
        // Browsers show addresses without a scheme.
        _ if is_storage_host(text) => return from_web_address(text),
        _ => return Some(gs(text.trim_start_matches('/'))),
    };
    let path = rest.trim_start_matches('/');
    match scheme.as_str() {
        "http" | "https" => from_web_address(path),
        // A file's path is one on this machine.
        "file" => None,
        // One slash, three slashes, or a colon alone; and other stores, whose copy in this one has the same name.
        _ if !path.is_empty() => Some(gs(path)),
        _ => None,
    }
}

fn is_storage_host(address: &str) -> bool {
    let host = split_host(address).0;
    PATH_HOSTS.contains(&&*host) || host == CONSOLE || BUCKET_DOMAINS.iter().any(|domain| host.ends_with(domain))
}

/// Host, in lower case, and path of an address without its scheme.
fn split_host(address: &str) -> (String, &str) {
    let (host, path) = split(address);
    (host.to_ascii_lowercase(), path)
}

/// The URI that a web address without its scheme stands for.
fn from_web_address(address: &str) -> Option<String> {
    let (host, path) = split_host(address);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let (bucket, name) = if host == CONSOLE {
        // Such as storage/browser/_details/bucket/a.png;tab=live_object
        let path = path.split(';').next().unwrap_or_default();
        let below = path.strip_prefix("storage/browser/")?;
        split(below.strip_prefix("_details/").unwrap_or(below))
    } else if let Some(bucket) = BUCKET_DOMAINS.iter().find_map(|domain| host.strip_suffix(domain)) {
        (bucket, path)
    } else if PATH_HOSTS.contains(&&*host) {
        // The JSON API has the name in one segment.
        let json = path.strip_prefix("download/").unwrap_or(path).strip_prefix("storage/v1/b/");
        match json.map(|below| below.split_once("/o/").unwrap_or((below.trim_end_matches("/o"), ""))) {
            Some(parts) => parts,
            None => split(path),
        }
    } else {
        return None;
    };
    let name = percent_decode_str(name).decode_utf8().ok()?;
    (!bucket.is_empty()).then(|| gs(&format!("{bucket}/{name}")))
}

fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_parsed_or_refused_with_a_suggestion() {
        let uri = |text: &str| text.parse::<StoreUri>();
        for (text, bucket, path) in
            [("gs://bucket/a/b", "bucket", "a/b"), ("gs://bucket", "bucket", ""), ("gs://bucket//a", "bucket", "/a")]
        {
            let uri = uri(text).unwrap();
            assert_eq!((uri.scheme, &*uri.bucket, &*uri.path), (Scheme::Gs, bucket, path));
        }
        assert_eq!(uri("gs://bucket/a/b").unwrap().to_string(), "gs://bucket/a/b");
        for (text, said) in [
            ("bucket/a", "write gs://bucket/a"),
            ("bucket/a?/*", "write gs://bucket/a?/*"),
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
            let error = uri(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    /// Signed URLs stood in errors in full.
    #[test]
    fn credentials_in_an_address_are_never_shown() {
        let signed = "storage.googleapis.com/bucket/a?X-Goog-Expires=60&X-Goog-Signature=hunter2";
        for (text, said) in [
            (format!("https://{signed}"), "write gs://bucket/a,"),
            (signed.to_owned(), "write gs://bucket/a,"),
            (format!("https://{signed}&next=https://example.com"), "write gs://bucket/a,"),
            ("https://storage.googleapis.com/bucket/a?alt=media&key=hunter2".into(), "write gs://bucket/a"),
            ("https://example.com/a?token=hunter2".into(), "write gs://my-bucket/train/"),
            ("gs://bucket/a?X-Goog-Signature=hunter2".into(), "write gs://bucket/a,"),
            ("gs://bucket?x-goog-signature=hunter2".into(), "write gs://bucket,"),
            ("bucket/a?sig=hunter2".into(), "write gs://bucket/a"),
            ("gs://user:hunter2@bucket/a".into(), "write gs://my-bucket/train/"),
            ("https://user:hunter2@storage.googleapis.com/bucket/a".into(), "write gs://my-bucket/train/"),
            ("https://user:hunter2/x@host/a".into(), "https://...@host/a: "),
            ("https://user:x/hunter2@host/a".into(), "https://...@host/a: "),
            ("https://user:x#hunter2@host/a".into(), "https://...@host/a: "),
            ("https://user:x@hunter2/@host/a".into(), "https://...@host/a: "),
            ("https://user:hunter2?x=y@host/a".into(), "https://...?...: "),
            ("https://host:1/a?user=me@host&sig=hunter2".into(), "https://...?...: "),
            ("gs://user:hunter2/x@bucket/a".into(), "'...' can't be"),
            ("gs:///user:hunter2@bucket/a".into(), "gs://...@bucket/a: "),
            ("gs:///hunter2@bucket/a".into(), "gs://...@bucket/a: "),
            ("gs:/user:hunter2@bucket/a".into(), "...@bucket/a: "),
            ("gs:/hunter2@bucket/a".into(), "...@bucket/a: "),
            ("gs:/hunter2/x@bucket/a".into(), "...@bucket/a: "),
            ("//user:hunter2@host/a".into(), "...@host/a: "),
            ("user:hunter2@host/a://b".into(), "...@host/a://b: "),
            ("gs://bucket/a?GoogleAccessId=me&Expires=1&Signature=hunter2".into(), "write gs://bucket/a,"),
            ("gs://bucket/a?Signature=hunter2".into(), "write gs://bucket/a,"),
            ("gs://bucket/a?access_token=hunter2".into(), "write gs://bucket/a,"),
            ("gs://BUCKET?key=hunter2".into(), "'BUCKET?...' can't be"),
        ] {
            let error = text.parse::<StoreUri>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error}");
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
        // Names may hold question marks.
        let uri: StoreUri = "gs://bucket/why?sig=b@c".parse().unwrap();
        assert_eq!(uri.path, "why?sig=b@c");
        assert_eq!("gs://bucket/a:b@c".parse::<StoreUri>().unwrap().path, "a:b@c");
        assert_eq!(redact("http://user:hunter2@host:1/a?c=d"), "http://...@host:1/a?...");
        assert_eq!(redact("gs://bucket/a@b"), "gs://bucket/a@b");
    }

    #[test]
    fn suggestions() {
        for (text, wanted) in [
            ("bkt/x", "gs://bkt/x"),
            ("/bkt/x", "gs://bkt/x"),
            (" bkt", "gs://bkt"),
            ("gs:/bkt/x", "gs://bkt/x"),
            ("gs:bkt/x", "gs://bkt/x"),
            ("gs:///bkt/x", "gs://bkt/x"),
            ("GS://bkt/x y", "gs://bkt/x y"),
            ("gcs://bkt/x:y", "gs://bkt/x:y"),
            ("s3://bkt/x", "gs://bkt/x"),
            ("https://storage.googleapis.com/bkt/x", "gs://bkt/x"),
            ("http://storage.googleapis.com/bkt", "gs://bkt/"),
            ("https://Storage.GoogleAPIs.com/bkt/a%20b/%C3%BC?generation=7#top", "gs://bkt/a b/ü"),
            ("storage.googleapis.com/bkt/x", "gs://bkt/x"),
            ("https://bkt.storage.googleapis.com/x/", "gs://bkt/x/"),
            ("https://my.bkt.storage.googleapis.com", "gs://my.bkt/"),
            ("https://storage.googleapis.com/storage/v1/b/bkt/o/a%2Fb?alt=media", "gs://bkt/a/b"),
            ("https://storage.googleapis.com/download/storage/v1/b/bkt/o/a%2Fb", "gs://bkt/a/b"),
            ("https://storage.googleapis.com/storage/v1/b/bkt/o", "gs://bkt/"),
            ("https://storage.cloud.google.com/bkt/x?authuser=1", "gs://bkt/x"),
            ("https://console.cloud.google.com/storage/browser/bkt/x;tab=objects?project=p", "gs://bkt/x"),
            ("https://console.cloud.google.com/storage/browser/_details/bkt/x/a.png", "gs://bkt/x/a.png"),
        ] {
            assert_eq!(suggest(text).as_deref(), Some(wanted), "{text}");
        }
        for text in ["gs://", "gs:", "https://example.com/bkt/x", "https://storage.googleapis.com/", "file:///data/x"] {
            assert_eq!(suggest(text), None, "{text}");
        }
    }
}
