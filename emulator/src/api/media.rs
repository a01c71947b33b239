//! The call that reads the contents of an object, whole or a range.

use std::{io::Read, ops::Range};

use flate2::read::MultiGzDecoder;

use crate::{
    api::{
        preconditions::{Preconditions, is_not_modified},
        state::{EmulatorState, ObjectPath},
        versions::find_version,
    },
    checksum,
    http::{reply::Reply, request::ReceivedRequest},
    objects::{content::Content, version::ObjectVersion},
    refusal::Refusal,
    timestamp,
};

pub(crate) fn get(state: &EmulatorState, path: &ObjectPath, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(&path.bucket, request)?;
    bucket.check_permission("storage.objects.get", request.caller())?;
    let object = find_version(&bucket, &path.name, request.query.integer("generation")?)?;
    Preconditions::parse(&request.query)?.check_read(&object)?;
    let etag = object.etag();
    if is_not_modified(request, &etag, object.updated)? {
        return Ok(Reply::not_modified(etag));
    }
    content_reply(&object, request, etag)
}

/// The bytes of an object that a request asks for.
pub(crate) fn content_reply(object: &ObjectVersion, request: &ReceivedRequest, etag: String) -> Result<Reply, Refusal> {
    let is_gzip = object.attributes.content_encoding.as_deref() == Some("gzip");
    if is_gzip
        && !accepts_gzip(request)
        && let Some(plain) = decompress(object)
    {
        // As in the service, ranges are ignored here, and the checksums are those of the stored bytes.
        let end = plain.len();
        let reply = Reply { status: 200, end, content: plain, has_unknown_length: true, ..Reply::default() };
        let reply = with_object_headers(reply, object, etag, true);
        return Ok(reply.with_header("warning", "214 UploadServer gunzipped").with_header("vary", "Accept-Encoding"));
    }

    let size = object.size();
    let range = request.header("range").and_then(ByteRange::parse);
    let Some(Range { start, end }) = range.map_or(Some(0..size), |range| range.resolve(size)) else {
        let message = format!("Request range not satisfiable: the object has {size} bytes.");
        return Err(Refusal { object_size: Some(size), ..Refusal::new(416, "requestedRangeNotSatisfiable", message) });
    };

    let status = if range.is_some() { 206 } else { 200 };
    let reply = Reply { status, start, end, content: object.content.clone(), ..Reply::default() };
    let reply = with_object_headers(reply, object, etag, false).with_header("accept-ranges", "bytes");
    if range.is_none() {
        return Ok(reply);
    }
    Ok(reply.with_header("content-range", format!("bytes {start}-{}/{size}", end - 1)))
}

fn with_object_headers(mut reply: Reply, object: &ObjectVersion, etag: String, is_decompressed: bool) -> Reply {
    let attributes = &object.attributes;
    let text = |value: &Option<String>, default: &str| value.clone().unwrap_or_else(|| default.to_owned());
    let mut hashes = format!("crc32c={}", checksum::crc32c_base64(object.crc32c));
    if let Some(md5) = &object.md5 {
        hashes.push_str(",md5=");
        hashes.push_str(&checksum::base64(md5));
    }

    reply.headers.extend([
        ("content-type", text(&attributes.content_type, "application/octet-stream")),
        ("cache-control", text(&attributes.cache_control, "no-cache, no-store, max-age=0, must-revalidate")),
        ("etag", etag),
        ("last-modified", timestamp::http_date(object.updated)),
        ("x-goog-generation", object.generation.to_string()),
        ("x-goog-metageneration", object.metageneration.to_string()),
        ("x-goog-stored-content-length", object.size().to_string()),
        ("x-goog-stored-content-encoding", text(&attributes.content_encoding, "identity")),
        ("x-goog-storage-class", object.storage_class().to_owned()),
        ("x-goog-hash", hashes),
    ]);
    for (header, value) in
        [("content-disposition", &attributes.content_disposition), ("content-language", &attributes.content_language)]
    {
        reply.headers.extend(value.clone().map(|value| (header, value)));
    }
    if let Some(encoding) = attributes.content_encoding.clone().filter(|_| !is_decompressed) {
        reply.headers.push(("content-encoding", encoding));
    }
    reply
}

fn accepts_gzip(request: &ReceivedRequest) -> bool {
    request.headers.get_all("accept-encoding").iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value.split(',').any(|coding| {
                let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
                let is_refused = quality.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
                name.trim().eq_ignore_ascii_case("gzip") && !is_refused
            })
        })
    })
}

/// Decompresses an object. `None` when its bytes are not gzip; they are then sent as stored.
fn decompress(object: &ObjectVersion) -> Option<Content> {
    let stored = object.content.read(0, object.size()).ok()?;
    let mut plain = Vec::new();
    MultiGzDecoder::new(&stored[..]).read_to_end(&mut plain).ok()?;
    Some(Content::from_bytes(plain))
}

/// A `Range` header with a single range of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ByteRange {
    /// From this byte to the end.
    From(u64),
    /// Both inclusive.
    Between { first: u64, last: u64 },
    /// This many bytes at the end.
    Last(u64),
}

impl ByteRange {
    /// Returns `None` for other units and for several ranges. HTTP says to ignore these headers.
    fn parse(header: &str) -> Option<Self> {
        let (first, last) = header.strip_prefix("bytes=")?.trim().split_once('-')?;
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(first) || !is_digits(last) {
            return None;
        }
        match (first, last) {
            ("", "") => None,
            ("", count) => Some(Self::Last(count.parse().ok()?)),
            (first, "") => Some(Self::From(first.parse().ok()?)),
            (first, last) => {
                let (first, last) = (first.parse().ok()?, last.parse().ok()?);
                (first <= last).then_some(Self::Between { first, last })
            }
        }
    }

    /// The part of an object of `size` bytes; `None` when it is empty.
    fn resolve(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(first) => first..size,
            Self::Between { first, last } => first..size.min(last.saturating_add(1)),
            Self::Last(count) => size - count.min(size)..size,
        };
        (!range.is_empty()).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed_and_resolved() {
        let resolved = |header| ByteRange::parse(header).map(|range| range.resolve(10));
        for (header, expected) in [
            ("bytes=0-3", Some(Some(0..4))),
            ("bytes=3-", Some(Some(3..10))),
            ("bytes=-3", Some(Some(7..10))),
            ("bytes=-30", Some(Some(0..10))),
            ("bytes=5-99", Some(Some(5..10))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=0-18446744073709551615", Some(Some(0..10))),
            ("bytes=4-3", None),
            ("bytes=0-1,4-5", None),
            ("bytes=-", None),
            ("items=0-3", None),
            ("bytes=+1-3", None),
        ] {
            assert_eq!(resolved(header), expected, "{header}");
        }
        assert_eq!(ByteRange::From(0).resolve(0), None);
    }
}
