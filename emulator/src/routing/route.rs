//! Routes: the calls that methods and paths stand for.
//!
//! Paths are split before they are decoded, and decoded once, so that names keep every slash, dot and percent sign.

use hyper::Method;
use percent_encoding::percent_decode_str;

use crate::{
    api::{
        object_calls::{AttributeChange, CopyAnswer},
        state::ObjectPath,
    },
    http::query::QueryParameters,
    naming::check_object_name,
    refusal::Refusal,
    traffic::stats::Call,
};

/// The first segments of the paths of the JSON API and of the emulator's own paths. They are not names of buckets.
const RESERVED_SEGMENTS: [&str; 5] = ["storage", "upload", "download", "batch", "_emulator"];

/// Parameters that make an XML request for a bucket ask for something else than its objects. The emulator implements
/// none of it, and must not answer with a listing.
const SUBRESOURCES: [&str; 15] = [
    "acl",
    "billing",
    "cors",
    "defaultObjectAcl",
    "encryption",
    "encryptionConfig",
    "lifecycle",
    "location",
    "logging",
    "object-lock",
    "storageClass",
    "tagging",
    "uploads",
    "versioning",
    "websiteConfig",
];

/// A call with the bucket or object that its path names.
#[derive(Debug, PartialEq)]
pub(crate) enum Route {
    ListBuckets,
    InsertBucket,
    GetBucket(String),
    PatchBucket(String),
    DeleteBucket(String),
    TestPermissions(String),
    ListObjects(String),
    GetObject(ObjectPath),
    GetMedia(ObjectPath),
    HeadMedia(ObjectPath),
    XmlList(String),
    XmlGet(ObjectPath),
    XmlHead(ObjectPath),
    PatchObject { path: ObjectPath, change: AttributeChange },
    DeleteObject(ObjectPath),
    Compose(ObjectPath),
    Copy { from: ObjectPath, to: ObjectPath, answer: CopyAnswer },
    Upload(String),
    ContinueUpload,
    CancelUpload,
    Batch,
    Stats,
    ResetStats,
}

/// The bucket that a call uses, and the name that it writes, for the rate limits.
#[derive(Default)]
pub(crate) struct LimitedTarget<'a> {
    pub(crate) bucket: Option<&'a str>,
    /// The name of the object that the call writes. `None` for deletions, which the limit of a name does not count.
    pub(crate) written_name: Option<&'a str>,
}

impl Route {
    pub(crate) fn parse(method: &Method, path: &str, query: &QueryParameters) -> Result<Self, Refusal> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let segments: Vec<&str> = path.split('/').collect();
        let is_media = query.get("alt") == Some("media");
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
            ["storage", "v1", "b", bucket, "o", name] if get && is_media => Self::GetMedia(object_path(bucket, name)?),
            ["download", "storage", "v1", "b", bucket, "o", name] if get => Self::GetMedia(object_path(bucket, name)?),
            ["storage", "v1", "b", bucket, "o", name] if head && is_media => {
                Self::HeadMedia(object_path(bucket, name)?)
            }
            ["download", "storage", "v1", "b", bucket, "o", name] if head => {
                Self::HeadMedia(object_path(bucket, name)?)
            }
            ["storage", "v1", "b", bucket, "o", name] if get || head => Self::GetObject(object_path(bucket, name)?),
            ["storage", "v1", "b", bucket, "o", name] if patch || put => Self::PatchObject {
                path: object_path(bucket, name)?,
                change: if put { AttributeChange::Replace } else { AttributeChange::Merge },
            },
            ["storage", "v1", "b", bucket, "o", name] if delete => Self::DeleteObject(object_path(bucket, name)?),
            ["storage", "v1", "b", bucket, "o", name, "compose"] if post => Self::Compose(object_path(bucket, name)?),
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
            ] if post => Self::Copy {
                from: object_path(bucket, name)?,
                to: object_path(to_bucket, to_name)?,
                answer: if *verb == "rewriteTo" { CopyAnswer::Rewrite } else { CopyAnswer::Resource },
            },

            ["upload", "storage", "v1", "b", _, "o"] if put => Self::ContinueUpload,
            ["upload", "storage", "v1", "b", _, "o"] if delete => Self::CancelUpload,
            // Some clients continue a session with POST.
            ["upload", "storage", "v1", "b", _, "o"] if post && query.get("upload_id").is_some() => {
                Self::ContinueUpload
            }
            ["upload", "storage", "v1", "b", bucket, "o"] if post => Self::Upload(decode(bucket)?),
            ["batch", "storage", "v1"] | ["batch"] if post => Self::Batch,

            // The XML API, which object_store and obstore read with. Its paths need not encode slashes in names.
            [bucket] | [bucket, ""]
                if get && !bucket.is_empty() && !RESERVED_SEGMENTS.contains(bucket) && is_xml_listing(query) =>
            {
                Self::XmlList(decode(bucket)?)
            }
            [bucket, _, ..]
                if (get || head) && !RESERVED_SEGMENTS.contains(bucket) && path.len() > bucket.len() + 1 =>
            {
                let path = object_path(bucket, &path[bucket.len() + 1..])?;
                if head { Self::XmlHead(path) } else { Self::XmlGet(path) }
            }

            ["storage", "v1", "b", ..] if segments.len() <= 6 && segments.get(4).is_none_or(|part| *part == "o") => {
                return Err(Refusal::new(405, "methodNotAllowed", format!("Method {method} is not allowed here.")));
            }
            _ => return Err(Refusal::no_route()),
        })
    }

    /// The kind of call, for counters, delays, limits and faults.
    pub(crate) fn call(&self) -> Call {
        match self {
            Self::ListObjects(_) | Self::XmlList(_) => Call::List,
            Self::GetMedia(_) | Self::XmlGet(_) => Call::GetMedia,
            Self::GetObject(_) | Self::HeadMedia(_) | Self::XmlHead(_) => Call::GetMetadata,
            Self::Compose(_) => Call::Compose,
            Self::Upload(_) => Call::Insert,
            Self::ContinueUpload | Self::CancelUpload => Call::UploadChunk,
            Self::DeleteObject(_) => Call::Delete,
            Self::PatchObject { .. } => Call::Patch,
            Self::Copy { .. } => Call::Copy,
            Self::GetBucket(_) => Call::BucketGet,
            Self::TestPermissions(_) => Call::TestPermissions,
            Self::Batch => Call::Batch,
            _ => Call::Other,
        }
    }

    /// Whether the call belongs to the XML API.
    pub(crate) fn is_xml(&self) -> bool {
        matches!(self, Self::XmlList(_) | Self::XmlGet(_) | Self::XmlHead(_))
    }

    pub(crate) fn limited_target(&self) -> LimitedTarget<'_> {
        match self {
            Self::ListObjects(bucket) | Self::XmlList(bucket) | Self::Upload(bucket) | Self::GetBucket(bucket) => {
                LimitedTarget { bucket: Some(bucket), written_name: None }
            }
            Self::GetObject(path)
            | Self::GetMedia(path)
            | Self::HeadMedia(path)
            | Self::XmlGet(path)
            | Self::XmlHead(path)
            | Self::DeleteObject(path) => LimitedTarget { bucket: Some(&path.bucket), written_name: None },
            Self::PatchObject { path, .. } | Self::Compose(path) | Self::Copy { to: path, .. } => {
                LimitedTarget { bucket: Some(&path.bucket), written_name: Some(&path.name) }
            }
            _ => LimitedTarget::default(),
        }
    }
}

fn is_xml_listing(query: &QueryParameters) -> bool {
    SUBRESOURCES.iter().all(|name| query.get(name).is_none())
}

fn object_path(bucket: &str, name: &str) -> Result<ObjectPath, Refusal> {
    let name = decode(name)?;
    check_object_name(&name)?;
    Ok(ObjectPath { bucket: decode(bucket)?, name })
}

fn decode(segment: &str) -> Result<String, Refusal> {
    percent_decode_str(segment)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Refusal::invalid("Object names must be valid UTF-8."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naming::encode_segment;

    fn object(bucket: &str, name: &str) -> ObjectPath {
        ObjectPath { bucket: bucket.to_owned(), name: name.to_owned() }
    }

    fn route(method: &Method, target: &str) -> Result<Route, u16> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Route::parse(method, path, &QueryParameters::parse(query)).map_err(|refusal| refusal.status)
    }

    #[test]
    fn names_are_decoded_once() {
        let name = "a/../b%2F ü?#";
        let path = format!("/storage/v1/b/bucket/o/{}", encode_segment(name));
        assert_eq!(route(&Method::GET, &path), Ok(Route::GetObject(object("bucket", name))));
    }

    #[test]
    fn the_xml_api_reads_names_with_slashes_of_both_kinds() {
        for path in ["/bucket/a/b%20c", "/bucket/a%2Fb%20c"] {
            assert_eq!(route(&Method::GET, path), Ok(Route::XmlGet(object("bucket", "a/b c"))));
            assert_eq!(route(&Method::HEAD, path), Ok(Route::XmlHead(object("bucket", "a/b c"))));
            assert_eq!(route(&Method::PUT, path), Err(404));
        }
        for path in ["/bucket", "/bucket/", "/bucket?list-type=2"] {
            assert_eq!(route(&Method::GET, path), Ok(Route::XmlList("bucket".into())));
        }
        // This asks for something else than a listing.
        assert_eq!(route(&Method::GET, "/bucket?cors"), Err(404));
    }

    #[test]
    fn malformed_paths_are_refused() {
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
}
