//! From method and path to an operation. Paths are split before they are decoded, once, so that names keep every
//! slash, dot and percent sign.

use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{error::Refusal, object, service::Reply, stats::Call, xml};

/// The characters that a path segment need not encode.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What the paths of the JSON API begin with, and this emulator's own: no names of buckets.
const PREFIXES: [&str; 5] = ["storage", "upload", "download", "batch", "_emulator"];

/// Percent-encodes a name for use as one path segment.
pub(crate) fn encode(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

fn decode(segment: &str) -> Result<String, Refusal> {
    percent_decode_str(segment)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Refusal::invalid("Object names must be valid UTF-8."))
}

/// The decoded parameters of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |part: &str| percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    pub(crate) fn integer(&self, key: &'static str) -> Result<Option<i64>, Refusal> {
        self.get(key)
            .map(|text| {
                text.parse().map_err(|_| {
                    Refusal::parameter(key, format!("Invalid value '{text}' for {key}: an integer is wanted."))
                })
            })
            .transpose()
    }
}

/// Bucket and name.
pub(crate) type Target = (String, String);

#[derive(Debug, PartialEq)]
pub(crate) enum Route {
    ListBuckets,
    InsertBucket,
    GetBucket(String),
    PatchBucket(String),
    DeleteBucket(String),
    TestPermissions(String),
    ListObjects(String),
    GetObject(Target),
    GetMedia(Target),
    HeadMedia(Target),
    XmlList(String),
    XmlGet(Target),
    XmlHead(Target),
    /// The flag says to replace all attributes and not to merge.
    PatchObject(Target, bool),
    DeleteObject(Target),
    Compose(Target),
    /// From, to, and whether it was asked for as a rewrite.
    Copy(Target, Target, bool),
    Upload(String),
    UploadSession,
    CancelUpload,
    Batch,
    Stats,
    ResetStats,
}

impl Route {
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Result<Self, Refusal> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let segments: Vec<&str> = path.split('/').collect();
        let target = |bucket: &str, name: &str| -> Result<Target, Refusal> {
            let name = decode(name)?;
            object::check_name(&name)?;
            Ok((decode(bucket)?, name))
        };
        let media = query.get("alt") == Some("media");
        let (get, post, put) = (*method == Method::GET, *method == Method::POST, *method == Method::PUT);
        let head = *method == Method::HEAD;
        let (patch, delete) = (*method == Method::PATCH, *method == Method::DELETE);
        Ok(match segments.as_slice() {
            ["_emulator", "stats"] if get => Self::Stats,
            ["_emulator", "reset-stats"] if post => Self::ResetStats,
            ["storage", "v1", "b"] if get => Self::ListBuckets,
            ["storage", "v1", "b"] if post => Self::InsertBucket,
            ["storage", "v1", "b", bucket] if get => Self::GetBucket(decode(bucket)?),
            ["storage", "v1", "b", bucket] if patch || put => Self::PatchBucket(decode(bucket)?),
            ["storage", "v1", "b", bucket] if delete => Self::DeleteBucket(decode(bucket)?),
            ["storage", "v1", "b", bucket, "iam", "testPermissions"] if get => Self::TestPermissions(decode(bucket)?),
            ["storage", "v1", "b", bucket, "o"] if get => Self::ListObjects(decode(bucket)?),
            ["storage", "v1", "b", bucket, "o", name] if get && media => Self::GetMedia(target(bucket, name)?),
            ["download", "storage", "v1", "b", bucket, "o", name] if get => Self::GetMedia(target(bucket, name)?),
            ["storage", "v1", "b", bucket, "o", name] if head && media => Self::HeadMedia(target(bucket, name)?),
            ["download", "storage", "v1", "b", bucket, "o", name] if head => Self::HeadMedia(target(bucket, name)?),
            ["storage", "v1", "b", bucket, "o", name] if get || head => Self::GetObject(target(bucket, name)?),
            ["storage", "v1", "b", bucket, "o", name] if patch || put => Self::PatchObject(target(bucket, name)?, put),
            ["storage", "v1", "b", bucket, "o", name] if delete => Self::DeleteObject(target(bucket, name)?),
            ["storage", "v1", "b", bucket, "o", name, "compose"] if post => Self::Compose(target(bucket, name)?),
            [
                "storage",
                "v1",
                "b",
                bucket,
                "o",
                name,
                verb @ ("rewriteTo" | "copyTo"),
                "b",
                to_bucket,
                "o",
                to_name,
            ] if post => Self::Copy(target(bucket, name)?, target(to_bucket, to_name)?, *verb == "rewriteTo"),
            ["upload", "storage", "v1", "b", _, "o"] if put => Self::UploadSession,
            ["upload", "storage", "v1", "b", _, "o"] if delete => Self::CancelUpload,
            // Some clients continue a session with POST.
            ["upload", "storage", "v1", "b", _, "o"] if post && query.get("upload_id").is_some() => Self::UploadSession,
            ["upload", "storage", "v1", "b", bucket, "o"] if post => Self::Upload(decode(bucket)?),
            ["batch", "storage", "v1"] | ["batch"] if post => Self::Batch,
            // The XML API, in which object_store and obstore read. Its names may keep their slashes.
            [bucket] | [bucket, ""]
                if get && !bucket.is_empty() && !PREFIXES.contains(bucket) && xml::is_listing(query) =>
            {
                Self::XmlList(decode(bucket)?)
            }
            [bucket, _, ..] if (get || head) && !PREFIXES.contains(bucket) && path.len() > bucket.len() + 1 => {
                let target = target(bucket, &path[bucket.len() + 1..])?;
                if head { Self::XmlHead(target) } else { Self::XmlGet(target) }
            }
            ["storage", "v1", "b", ..] if segments.len() <= 6 && segments.get(4).is_none_or(|part| *part == "o") => {
                return Err(Refusal::new(405, "methodNotAllowed", format!("Method {method} is not allowed here.")));
            }
            _ => return Err(Refusal::no_route()),
        })
    }

    pub(crate) fn call(&self) -> Call {
        match self {
            Self::ListObjects(_) | Self::XmlList(_) => Call::List,
            Self::GetMedia(_) | Self::XmlGet(_) => Call::GetMedia,
            Self::GetObject(_) | Self::HeadMedia(_) | Self::XmlHead(_) => Call::GetMetadata,
            Self::Compose(_) => Call::Compose,
            Self::Upload(_) => Call::Insert,
            Self::UploadSession | Self::CancelUpload => Call::UploadChunk,
            Self::DeleteObject(_) => Call::Delete,
            Self::PatchObject(..) => Call::Patch,
            Self::Copy(..) => Call::Copy,
            Self::GetBucket(_) => Call::BucketGet,
            Self::TestPermissions(_) => Call::TestPermissions,
            Self::Batch => Call::Batch,
            _ => Call::Other,
        }
    }

    /// The answer that a refusal of this call is.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Reply {
        match self {
            Self::XmlList(_) | Self::XmlGet(_) | Self::XmlHead(_) => xml::refuse(&refusal),
            _ => refusal.into(),
        }
    }

    /// The bucket it acts on, and the object it changes (not deletes), for the rate limits.
    pub(crate) fn target(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Self::ListObjects(bucket) | Self::XmlList(bucket) | Self::Upload(bucket) | Self::GetBucket(bucket) => {
                (Some(bucket), None)
            }
            Self::GetObject((bucket, _))
            | Self::GetMedia((bucket, _))
            | Self::HeadMedia((bucket, _))
            | Self::XmlGet((bucket, _))
            | Self::XmlHead((bucket, _))
            | Self::DeleteObject((bucket, _)) => (Some(bucket), None),
            Self::PatchObject((bucket, name), _) | Self::Compose((bucket, name)) | Self::Copy(_, (bucket, name), _) => {
                (Some(bucket), Some(name))
            }
            _ => (None, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: &Method, target: &str) -> Result<Route, u16> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Route::parse(method, path, &Query::parse(query)).map_err(|refusal| refusal.status)
    }

    #[test]
    fn names_are_decoded_once() {
        let name = "a/../b%2F ü?#";
        let path = format!("/storage/v1/b/bucket/o/{}", encode(name));
        assert_eq!(route(&Method::GET, &path), Ok(Route::GetObject(("bucket".into(), name.into()))));
    }

    #[test]
    fn the_xml_api_reads_names_with_slashes_of_both_kinds() {
        for path in ["/bucket/a/b%20c", "/bucket/a%2Fb%20c"] {
            assert_eq!(route(&Method::GET, path), Ok(Route::XmlGet(("bucket".into(), "a/b c".into()))));
            assert_eq!(route(&Method::HEAD, path), Ok(Route::XmlHead(("bucket".into(), "a/b c".into()))));
            assert_eq!(route(&Method::PUT, path), Err(404));
        }
        for path in ["/bucket", "/bucket/", "/bucket?list-type=2"] {
            assert_eq!(route(&Method::GET, path), Ok(Route::XmlList("bucket".into())));
        }
        // A listing would be a wrong answer.
        assert_eq!(route(&Method::GET, "/bucket?cors"), Err(404));
    }

    #[test]
    fn refusals() {
        for (target, status) in [
            ("/storage/v1/b/bucket/o/..", 400),
            ("/storage/v1/b/bucket/o/%2E", 400),
            ("/storage/v1/b/bucket/o/", 400),
            ("/storage/v1/b/bucket/o/a%0Ab", 400),
            ("/storage/v1/b/bucket/o/%FF", 400),
            ("/storage/v1/b/bucket/o/a/b", 404),
            ("/", 404),
            ("/storage", 404),
            ("/storage/v2/b/bucket", 404),
        ] {
            assert_eq!(route(&Method::GET, target), Err(status), "{target}");
        }
        assert_eq!(route(&Method::POST, &format!("/storage/v1/b/b/o/{}/compose", "a".repeat(1_025))), Err(400));
        assert_eq!(route(&Method::POST, "/storage/v1/b/bucket/o/name"), Err(405));
    }

    #[test]
    fn queries() {
        let query = Query::parse("a=1+2&b=%2B&c&a=3");
        assert_eq!((query.get("a"), query.get("b"), query.get("c")), (Some("1 2"), Some("+"), Some("")));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1 2", "3"]);
    }
}
