//! Paths and queries of requests.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use crate::store::uri::{BucketUri, ObjectUri, Scheme};
use crate::store::{ObjectId, Version, WriteMode};
use crate::{Error, ErrorKind, Result};

/// Everything but letters, digits and these four is encoded in a path segment or a query value; so is `/`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The fields of an object in the answer to a call about that object.
pub(super) const OBJECT_FIELDS: &str =
    "name,size,generation,crc32c,storageClass,contentEncoding,updated,metadata,timeCreated,customTime";

/// Percent-encodes a text for use as a path segment or a query value.
pub(super) fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, ENCODED)
}

/// `/b/{bucket}`
pub(super) fn bucket_path(bucket: &str) -> Result<String> {
    if bucket.is_empty() || bucket == "." || bucket == ".." {
        return Err(Error::new(ErrorKind::Config, "no bucket has this name")
            .object(BucketUri { scheme: Scheme::Gs, bucket })
            .hint("give it as gs://bucket/prefix"));
    }
    Ok(format!("/b/{}", encode(bucket)))
}

/// `/b/{bucket}/o/{name}`
pub(super) fn object_path(bucket: &str, name: &str) -> Result<String> {
    let path = bucket_path(bucket)?;
    check_name(bucket, name)?;
    Ok(format!("{path}/o/{}", encode(name)))
}

/// Refuses names that no object can have. `.` and `..` would change the path of the request.
pub(super) fn check_name(bucket: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 1024 || name.contains(['\r', '\n']) || name == "." || name == ".." {
        return Err(Error::new(ErrorKind::Config, "no object can have this name")
            .object(ObjectUri { scheme: Scheme::Gs, bucket, name: &name.escape_debug().to_string() })
            .mismatch("1 to 1,024 bytes without CR or LF, not `.` or `..`", format!("{} bytes", name.len())));
    }
    Ok(())
}

/// The generation of a version, if one is named.
pub(super) fn generation(version: &Version) -> Result<Option<i64>> {
    match version {
        Version::None => Ok(None),
        // The service reads a 0 as no object in a precondition, and others may read it as no generation.
        Version::Generation(..1) => Err(Error::new(ErrorKind::Config, "no object has such a generation")
            .mismatch("a generation above 0", version)
            .hint("list the objects again, or leave the version out for the live ones")),
        Version::Generation(number) => Ok(Some(*number)),
        Version::Etag(_) => Err(Error::new(ErrorKind::Config, "this version is of another store")
            .mismatch("a generation", version)
            .hint("list the objects in this store, or leave the version out")),
    }
}

/// The query that names the generation, if one is named.
pub(super) fn generation_query(id: &ObjectId) -> Result<String> {
    let generation = generation(&id.version).map_err(|error| error.object(id))?;
    Ok(generation.map(|generation| format!("&generation={generation}")).unwrap_or_default())
}

/// The generation that must be live for a write of this mode; 0 means that there must be no object.
pub(super) fn required_generation(mode: &WriteMode) -> Result<Option<i64>> {
    match mode {
        WriteMode::Overwrite => Ok(None),
        WriteMode::Create => Ok(Some(0)),
        // Clients refuse an update without a version. If one comes nevertheless, it must overwrite nothing.
        WriteMode::Update(version) => Ok(Some(generation(version)?.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generation of 0, which is one by default or by mistake, meant the live object, and deleted that.
    #[test]
    fn a_number_that_is_no_generation_is_refused() {
        for number in [i64::MIN, -1, 0] {
            let id = ObjectId::new("b", "o", number);
            assert_eq!(generation_query(&id).unwrap_err().kind(), ErrorKind::Config);
            assert_eq!(required_generation(&WriteMode::Update(number.into())).unwrap_err().kind(), ErrorKind::Config);
        }
        assert_eq!(generation_query(&ObjectId::new("b", "o", 7)).unwrap(), "&generation=7");
        assert_eq!(generation_query(&ObjectId::live("b", "o")).unwrap(), "");
    }

    #[test]
    fn a_name_is_one_segment() {
        let path = object_path("b", "a/../b c/ü?#%2F").unwrap();
        assert_eq!(path, "/b/b/o/a%2F..%2Fb%20c%2F%C3%BC%3F%23%252F");
        for name in ["", ".", "..", "a\nb", &"x".repeat(1025)] {
            assert_eq!(object_path("b", name).unwrap_err().kind(), ErrorKind::Config, "{name:?}");
        }
        assert_eq!(bucket_path("").unwrap_err().kind(), ErrorKind::Config);
    }
}
