//! Contents of an object, whole or a range.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use crate::{
    checksum,
    content::{Content, Segment},
    error::Refusal,
    object::Object,
    objects::{Preconditions, find, is_unchanged},
    route::Target,
    service::{Reply, Request, State},
    timestamp,
};

pub(crate) fn get(state: &State, (bucket, name): &Target, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.objects.get", request)?;
    let object = find(&bucket, name, request.query.integer("generation")?)?;
    Preconditions::parse(&request.query)?.check_read(&object)?;
    let etag = object.etag();
    if is_unchanged(request, &etag, object.updated)? {
        return Ok(Reply::empty(304).with("etag", etag));
    }
    contents(&object, request, etag)
}

/// The bytes of an object that a request asks for.
pub(crate) fn contents(object: &Object, request: &Request, etag: String) -> Result<Reply, Refusal> {
    if object.attributes.content_encoding.as_deref() == Some("gzip")
        && !accepts_gzip(request)
        && let Some(plain) = decompress(object)
    {
        // Ranges are void here and the hashes stay those of what is stored: that is what the service does.
        let end = plain.len();
        let reply = Reply { status: 200, end, content: plain, unknown_length: true, ..Reply::default() };
        let reply = with_headers(reply, object, etag, true);
        return Ok(reply.with("warning", "214 UploadServer gunzipped").with("vary", "Accept-Encoding"));
    }
    let size = object.size();
    let range = request.header("range").and_then(parse_range);
    let Some((start, end)) = range.map_or(Some((0, size)), |range| range.resolve(size)) else {
        let message = format!("Request range not satisfiable: the object has {size} bytes.");
        return Err(Refusal { size: Some(size), ..Refusal::new(416, "requestedRangeNotSatisfiable", message) });
    };
    let status = if range.is_some() { 206 } else { 200 };
    let reply = Reply { status, start, end, content: object.content.clone(), ..Reply::default() };
    let reply = with_headers(reply, object, etag, false).with("accept-ranges", "bytes");
    Ok(if status == 206 { reply.with("content-range", format!("bytes {start}-{}/{size}", end - 1)) } else { reply })
}

fn with_headers(mut reply: Reply, object: &Object, etag: String, decompressed: bool) -> Reply {
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
        ("x-goog-storage-class", object.class().to_owned()),
        ("x-goog-hash", hashes),
    ]);
    for (header, value) in
        [("content-disposition", &attributes.content_disposition), ("content-language", &attributes.content_language)]
    {
        reply.headers.extend(value.clone().map(|value| (header, value)));
    }
    if let Some(encoding) = attributes.content_encoding.clone().filter(|_| !decompressed) {
        reply.headers.push(("content-encoding", encoding));
    }
    reply
}

fn accepts_gzip(request: &Request) -> bool {
    request.headers.get_all("accept-encoding").iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value.split(',').any(|coding| {
                let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
                let refused = quality.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
                name.trim().eq_ignore_ascii_case("gzip") && !refused
            })
        })
    })
}

/// None when the stored bytes are not what their encoding says: then they go out as they are.
fn decompress(object: &Object) -> Option<Content> {
    let stored = object.content.read(0, object.size()).ok()?;
    let mut plain = Vec::new();
    MultiGzDecoder::new(&stored[..]).read_to_end(&mut plain).ok()?;
    Some(Content::new([Segment::Bytes(plain.into())]))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Range {
    From(u64),
    /// Both inclusive.
    Between(u64, u64),
    Last(u64),
}

impl Range {
    /// First byte (inclusive) and end (exclusive); None when no byte of the object is asked for.
    fn resolve(self, size: u64) -> Option<(u64, u64)> {
        let (start, end) = match self {
            Self::From(start) => (start, size),
            Self::Between(start, last) => (start, size.min(last.saturating_add(1))),
            Self::Last(count) => (size - count.min(size), size),
        };
        (start < end).then_some((start, end))
    }
}

/// None for what is no range of bytes, or several: such headers are ignored, as HTTP has it.
fn parse_range(header: &str) -> Option<Range> {
    let (first, last) = header.strip_prefix("bytes=")?.trim().split_once('-')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return None;
    }
    match (first, last) {
        ("", "") => None,
        ("", count) => Some(Range::Last(count.parse().ok()?)),
        (start, "") => Some(Range::From(start.parse().ok()?)),
        (start, last) => {
            let (start, last) = (start.parse().ok()?, last.parse().ok()?);
            (start <= last).then_some(Range::Between(start, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let resolved = |header| parse_range(header).map(|range| range.resolve(10));
        for (header, expected) in [
            ("bytes=0-3", Some(Some((0, 4)))),
            ("bytes=3-", Some(Some((3, 10)))),
            ("bytes=-3", Some(Some((7, 10)))),
            ("bytes=-30", Some(Some((0, 10)))),
            ("bytes=5-99", Some(Some((5, 10)))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=0-18446744073709551615", Some(Some((0, 10)))),
            ("bytes=4-3", None),
            ("bytes=0-1,4-5", None),
            ("bytes=-", None),
            ("items=0-3", None),
            ("bytes=+1-3", None),
        ] {
            assert_eq!(resolved(header), expected, "{header}");
        }
        assert_eq!(Range::From(0).resolve(0), None);
    }
}
