//! Uploads: in one request (`media`, `multipart`) and in many (`resumable`).

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    checksum,
    content::{Content, Segment, hashes},
    error::Refusal,
    lock::lock,
    multipart,
    object::{Attributes, Object, check_name},
    objects::{Preconditions, reply, store},
    random,
    route::Query,
    service::{Reply, Request, State, parse_json},
};

/// What non-final chunks are multiples of.
const CHUNK: u64 = 256 * 1_024;

/// What is known about an object before its bytes are.
#[derive(Clone)]
struct Draft {
    bucket: String,
    name: String,
    attributes: Attributes,
    resource: Map<String, Value>,
    conditions: Preconditions,
    query: Query,
}

impl Draft {
    /// The name and the attributes, from the parameters and the resource.
    fn new(bucket: &str, request: &Request, resource: Map<String, Value>) -> Result<Self, Refusal> {
        let named = request.query.get("name").or_else(|| resource.get("name").and_then(Value::as_str));
        let name = named.unwrap_or_default().to_owned();
        check_name(&name)?;
        let mut attributes = Attributes::default();
        attributes.patch(&resource)?;
        if let Some(encoding) = request.query.get("contentEncoding") {
            attributes.content_encoding = Some(encoding.to_owned());
        }
        let conditions = Preconditions::parse(&request.query)?;
        Ok(Self { bucket: bucket.to_owned(), name, attributes, resource, conditions, query: request.query.clone() })
    }

    /// Stores the object, unless its hashes are not what was announced.
    fn finish(self, state: &State, request: &Request, pieces: Vec<Bytes>) -> Result<Reply, Refusal> {
        let bucket = state.bucket(&self.bucket)?;
        let (crc, md5) = hashes(&pieces);
        check_hashes(&self.resource, crc, Some(md5))?;
        for value in request.headers.get_all("x-goog-hash") {
            check_hash_header(value.to_str().unwrap_or_default(), crc, md5)?;
        }
        let Self { name, attributes, conditions, query, .. } = self;
        let object = store(state, request, &bucket, &name.clone(), conditions, |generation| Object {
            name,
            generation,
            metageneration: 1,
            crc32c: crc,
            md5: Some(md5),
            component_count: None,
            created: generation,
            updated: generation,
            attributes,
            content: Content::new(pieces.into_iter().map(Segment::Bytes)),
        })?;
        reply(state, &bucket.name, &object, &query)
    }
}

/// Refuses a resource whose `crc32c` or `md5Hash` is not that of the bytes. A composition has no MD5 to compare.
pub(crate) fn check_hashes(resource: &Map<String, Value>, crc: u32, md5: Option<[u8; 16]>) -> Result<(), Refusal> {
    let text = |key| resource.get(key).and_then(Value::as_str);
    check_hash("CRC32C", text("crc32c"), &checksum::crc32c_base64(crc))?;
    md5.map_or(Ok(()), |md5| check_hash("MD5 hash", text("md5Hash"), &checksum::base64(&md5)))
}

fn check_hash(what: &str, provided: Option<&str>, computed: &str) -> Result<(), Refusal> {
    match provided {
        Some(provided) if provided != computed => Err(Refusal::invalid(format!(
            "Provided {what} \"{provided}\" doesn't match calculated {what} \"{computed}\"."
        ))),
        _ => Ok(()),
    }
}

/// `crc32c=...,md5=...`.
fn check_hash_header(header: &str, crc: u32, md5: [u8; 16]) -> Result<(), Refusal> {
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("crc32c", provided)) => check_hash("CRC32C", Some(provided), &checksum::crc32c_base64(crc))?,
            Some(("md5", provided)) => check_hash("MD5 hash", Some(provided), &checksum::base64(&md5))?,
            _ => {}
        }
    }
    Ok(())
}

/// A POST that starts an upload, and ends it too unless it is resumable.
pub(crate) fn upload(state: &State, bucket: &str, request: &Request) -> Result<Reply, Refusal> {
    let found = state.bucket_for(bucket, request)?;
    found.allows("storage.objects.create", request)?;
    if !request.complete {
        return Err(Refusal::invalid("The request body ended early."));
    }
    match request.query.get("uploadType") {
        Some("media") => {
            let mut draft = Draft::new(bucket, request, Map::new())?;
            draft.attributes.content_type = request.header("content-type").map(str::to_owned);
            draft.finish(state, request, vec![request.body.clone()])
        }
        Some("multipart") => {
            let malformed = || Refusal::new(400, "badContent", "Malformed multipart body.");
            let boundary = request.header("content-type").and_then(multipart::boundary).ok_or_else(malformed)?;
            let parts = multipart::parse(&request.body, &boundary).ok_or_else(malformed)?;
            let [resource, media] = parts.as_slice() else { return Err(malformed()) };
            let mut draft = Draft::new(bucket, request, parse_json(&resource.body)?)?;
            let content_type = &mut draft.attributes.content_type;
            if content_type.is_none() {
                *content_type = media.header("content-type").map(str::to_owned);
            }
            draft.finish(state, request, vec![media.body.clone()])
        }
        Some("resumable") => start(state, bucket, request),
        other => Err(Refusal::parameter("uploadType", format!("Invalid upload type '{}'.", other.unwrap_or_default()))),
    }
}

enum Progress {
    Open { pieces: Vec<Bytes>, stored: u64 },
    Done(Reply200),
    Cancelled,
    Expired,
}

/// The body of the final answer, which a finished session repeats.
#[derive(Clone)]
struct Reply200(Bytes);

/// A resumable upload.
pub(crate) struct Session {
    draft: Draft,
    total: Option<u64>,
    progress: Progress,
}

impl Session {
    /// What a week does to it.
    pub(crate) fn expire(&mut self) {
        if matches!(self.progress, Progress::Open { .. }) {
            self.progress = Progress::Expired;
        }
    }
}

fn start(state: &State, bucket: &str, request: &Request) -> Result<Reply, Refusal> {
    let mut draft = Draft::new(bucket, request, request.json()?)?;
    let content_type = &mut draft.attributes.content_type;
    if content_type.is_none() {
        *content_type = request.header("x-upload-content-type").map(str::to_owned);
    }
    // Known to fail at the end: the service says so at once.
    draft.conditions.check(state.bucket(bucket)?.get(&draft.name)?.as_deref())?;
    let total = match request.header("x-upload-content-length") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| Refusal::invalid("Invalid X-Upload-Content-Length."))?),
    };
    let generation = state.namespace.next_generation() as u64;
    let id = format!("{:016x}{generation:016x}", random::mix(state.seed ^ generation));
    let host = request.header("host").map_or_else(|| state.endpoint.clone(), |host| format!("http://{host}"));
    let location =
        format!("{host}/upload/storage/v1/b/{}/o?uploadType=resumable&upload_id={id}", crate::route::encode(bucket));
    let session = Session { draft, total, progress: Progress::Open { pieces: Vec::new(), stored: 0 } };
    lock(&state.sessions).insert(id.clone(), Arc::new(Mutex::new(session)));
    Ok(Reply::empty(200).with("location", location).with("x-guploader-uploadid", id))
}

fn find(state: &State, request: &Request) -> Result<Arc<Mutex<Session>>, Refusal> {
    let id = request.query.get("upload_id").unwrap_or_default();
    let session = lock(&state.sessions).get(id).cloned();
    session.ok_or_else(|| Refusal::new(404, "notFound", "No such upload session."))
}

/// DELETE on a session.
pub(crate) fn cancel(state: &State, request: &Request) -> Result<Reply, Refusal> {
    let session = find(state, request)?;
    let mut session = lock(&session);
    match session.progress {
        Progress::Open { .. } | Progress::Cancelled => {
            session.progress = Progress::Cancelled;
            Ok(Reply::empty(499))
        }
        Progress::Done(_) => Err(Refusal::invalid("The upload is finished.")),
        Progress::Expired => Err(gone()),
    }
}

fn gone() -> Refusal {
    Refusal::new(410, "gone", "The upload session is no longer available.")
}

/// What a `Content-Range` says.
#[derive(Debug, PartialEq)]
struct ContentRange {
    /// First and last byte, inclusive; None asks how far the upload is.
    bytes: Option<(u64, u64)>,
    total: Option<u64>,
}

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (bytes, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let bytes = if bytes == "*" {
        None
    } else {
        let (first, last) = bytes.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    // Without a total the range still has a length.
    let end = total.unwrap_or(u64::MAX);
    let ordered = bytes.is_none_or(|(first, last): (u64, u64)| first <= last && last < end);
    ordered.then_some(ContentRange { bytes, total })
}

/// PUT on a session: a chunk, the rest, or a question.
pub(crate) fn session(state: &State, request: &Request) -> Result<Reply, Refusal> {
    let session = find(state, request)?;
    let mut session = lock(&session);
    let session = &mut *session;
    let (pieces, stored) = match &mut session.progress {
        Progress::Open { pieces, stored } => (pieces, stored),
        Progress::Done(body) => return Ok(Reply::json(body.0.clone())),
        Progress::Cancelled => return Err(Refusal::new(499, "cancelled", "The upload was cancelled.")),
        Progress::Expired => return Err(gone()),
    };
    let length = request.body.len() as u64;
    let range = match request.header("content-range") {
        // One PUT with everything.
        None => {
            let bytes = (length > 0).then(|| (0, length - 1));
            let total = if request.complete { Some(length) } else { None };
            ContentRange { bytes, total }
        }
        Some(text) => parse_content_range(text)
            .ok_or_else(|| Refusal::invalid(format!("Invalid Content-Range header '{text}'.")))?,
    };
    if let (Some(known), Some(total)) = (session.total, range.total)
        && known != total
    {
        return Err(Refusal::invalid(format!("The upload has {known} bytes in all and not {total}.")));
    }
    let final_size = range.total.or(session.total);
    let reached = (*stored).max(range.bytes.map_or(0, |(_, last)| last + 1));
    if let Some(size) = final_size
        && reached > size
    {
        return Err(Refusal::invalid(format!("The upload has {size} bytes in all and not {reached} or more.")));
    }
    if let Some((first, last)) = range.bytes {
        let announced = last - first + 1;
        if request.complete && length != announced {
            return Err(Refusal::invalid(format!("Content-Range announces {announced} bytes, the body has {length}.")));
        }
        if first > *stored {
            return Err(Refusal::invalid(format!(
                "According to the Content-Range header, the upload offset is {first} byte(s), which exceeds already \
                 uploaded size of {stored} byte(s)."
            )));
        }
        let is_final = final_size == Some(last + 1);
        if request.complete && !is_final && announced % CHUNK != 0 {
            return Err(Refusal::invalid(format!(
                "Chunks but the last are multiples of {CHUNK} bytes; this one has {announced}."
            )));
        }
        // Of a body that broke off, whole chunks stay. Bytes that are there already are passed over.
        let usable = if request.complete { length } else { length.min(announced) / CHUNK * CHUNK };
        let skip = (*stored - first).min(usable);
        if skip < usable {
            pieces.push(request.body.slice(skip as usize..usable as usize));
            *stored += usable - skip;
        }
    }
    if request.complete && final_size == Some(*stored) {
        // The right to replace an object may have gone since the start, so it is asked for at the end, too.
        let reply = session.draft.clone().finish(state, request, std::mem::take(pieces));
        match reply {
            Ok(reply) => {
                let body = reply.content.read(reply.start, reply.end).unwrap_or_default();
                session.progress = Progress::Done(Reply200(body));
                return Ok(reply);
            }
            Err(refusal) => {
                session.progress = Progress::Expired;
                return Err(refusal);
            }
        }
    }
    session.total = final_size;
    let reply = Reply::empty(308);
    Ok(if *stored == 0 { reply } else { reply.with("range", format!("bytes=0-{}", *stored - 1)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        let range = |bytes, total| Some(ContentRange { bytes, total });
        for (text, expected) in [
            ("bytes 0-9/10", range(Some((0, 9)), Some(10))),
            ("bytes 0-9/*", range(Some((0, 9)), None)),
            ("bytes */*", range(None, None)),
            ("bytes */10", range(None, Some(10))),
            ("bytes 0-10/10", None),
            ("bytes 0-18446744073709551614/*", range(Some((0, u64::MAX - 1)), None)),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-18446744073709551616/*", None),
            ("bytes 9-0/10", None),
            ("0-9/10", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }
}
