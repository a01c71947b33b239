//! The calls that upload objects: in one request (`media`, `multipart`), and in many (`resumable`).

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use serde_json::Map;

use crate::{
    api::{
        expected_hashes::{check_hash_header, check_resource_hashes},
        state::EmulatorState,
        upload_session::{ContentRange, UploadDraft, UploadProgress, UploadSession},
        versions::{object_reply, store_version},
    },
    checksum::hash_pieces,
    http::{
        multipart,
        reply::Reply,
        request::{ReceivedRequest, parse_json},
    },
    locks::lock,
    naming::encode_segment,
    objects::{
        content::{Content, ContentSegment},
        version::ObjectVersion,
    },
    random,
    refusal::Refusal,
};

/// The size of all chunks but the last is a multiple of this, as in the service.
const CHUNK_BYTES: u64 = 256 * 1_024;

/// A POST that starts an upload, and also finishes it unless it is resumable.
pub(crate) fn upload(state: &EmulatorState, bucket: &str, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let found = state.billed_bucket(bucket, request)?;
    found.check_permission("storage.objects.create", request.caller())?;
    if !request.is_complete {
        return Err(Refusal::invalid("The request body ended early."));
    }

    match request.query.get("uploadType") {
        Some("media") => {
            let mut draft = UploadDraft::new(bucket, request, Map::new())?;
            draft.set_default_content_type(request.header("content-type"));
            store_upload(state, request, draft, vec![request.body.clone()])
        }
        Some("multipart") => {
            let malformed = || Refusal::new(400, "badContent", "Malformed multipart body.");
            let boundary = request.header("content-type").and_then(multipart::parse_boundary).ok_or_else(malformed)?;
            let parts = multipart::parse_parts(&request.body, &boundary).ok_or_else(malformed)?;
            let [resource, media] = parts.as_slice() else { return Err(malformed()) };
            let mut draft = UploadDraft::new(bucket, request, parse_json(&resource.body)?)?;
            draft.set_default_content_type(media.header("content-type"));
            store_upload(state, request, draft, vec![media.body.clone()])
        }
        Some("resumable") => start_session(state, bucket, request),
        other => Err(Refusal::parameter("uploadType", format!("Invalid upload type '{}'.", other.unwrap_or_default()))),
    }
}

/// Stores the object, if its checksums are the announced ones.
fn store_upload(
    state: &EmulatorState,
    request: &ReceivedRequest,
    draft: UploadDraft,
    pieces: Vec<Bytes>,
) -> Result<Reply, Refusal> {
    let bucket = state.bucket(&draft.bucket)?;
    let hashes = hash_pieces(&pieces);
    check_resource_hashes(&draft.resource, hashes)?;
    for value in request.headers.get_all("x-goog-hash") {
        check_hash_header(value.to_str().unwrap_or_default(), hashes)?;
    }

    let UploadDraft { name, attributes, conditions, query, .. } = draft;
    let object = store_version(state, request, &bucket, &name.clone(), conditions, |generation| {
        let content = Content::new(pieces.into_iter().map(ContentSegment::Bytes));
        ObjectVersion::new(name, generation, hashes, attributes, content)
    })?;
    object_reply(state, &bucket.name, &object, &query)
}

fn start_session(state: &EmulatorState, bucket: &str, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let mut draft = UploadDraft::new(bucket, request, request.json()?)?;
    draft.set_default_content_type(request.header("x-upload-content-type"));
    // As the service does, refuse at once what would be refused at the end.
    draft.conditions.check_write(state.bucket(bucket)?.get(&draft.name)?.as_deref())?;
    let total = match request.header("x-upload-content-length") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| Refusal::invalid("Invalid X-Upload-Content-Length."))?),
    };

    let generation = state.buckets.next_generation() as u64;
    let id = format!("{:016x}{generation:016x}", random::mix(state.seed ^ generation));
    let host = request.header("host").map_or_else(|| state.endpoint.clone(), |host| format!("http://{host}"));
    let bucket = encode_segment(bucket);
    let location = format!("{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}");
    lock(&state.uploads).insert(id.clone(), Arc::new(Mutex::new(UploadSession::new(draft, total))));
    Ok(Reply::empty(200).with_header("location", location).with_header("x-guploader-uploadid", id))
}

fn find_session(state: &EmulatorState, request: &ReceivedRequest) -> Result<Arc<Mutex<UploadSession>>, Refusal> {
    let id = request.query.get("upload_id").unwrap_or_default();
    let session = lock(&state.uploads).get(id).cloned();
    session.ok_or_else(|| Refusal::new(404, "notFound", "No such upload session."))
}

/// A DELETE of a session.
pub(crate) fn cancel_session(state: &EmulatorState, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let session = find_session(state, request)?;
    let mut session = lock(&session);
    match session.progress {
        UploadProgress::Open { .. } | UploadProgress::Cancelled => {
            session.progress = UploadProgress::Cancelled;
            Ok(Reply::empty(499))
        }
        UploadProgress::Done(_) => Err(Refusal::invalid("The upload is finished.")),
        UploadProgress::Expired => Err(session_gone()),
    }
}

fn session_gone() -> Refusal {
    Refusal::new(410, "gone", "The upload session is no longer available.")
}

/// A PUT to a session: a chunk, all remaining bytes, or a request for the progress.
pub(crate) fn continue_session(state: &EmulatorState, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let session = find_session(state, request)?;
    let mut session = lock(&session);
    let session = &mut *session;
    let (pieces, stored) = match &mut session.progress {
        UploadProgress::Open { pieces, stored } => (pieces, stored),
        UploadProgress::Done(body) => return Ok(Reply::json(body.clone())),
        UploadProgress::Cancelled => return Err(Refusal::new(499, "cancelled", "The upload was cancelled.")),
        UploadProgress::Expired => return Err(session_gone()),
    };

    let range = sent_range(request)?;
    if let (Some(known), Some(total)) = (session.total, range.total)
        && known != total
    {
        return Err(Refusal::invalid(format!("The upload has {known} bytes in all and not {total}.")));
    }
    let final_size = range.total.or(session.total);
    let reached = (*stored).max(range.bytes.as_ref().map_or(0, |bytes| bytes.end() + 1));
    if let Some(size) = final_size
        && reached > size
    {
        return Err(Refusal::invalid(format!("The upload has {size} bytes in all and not {reached} or more.")));
    }

    if let Some(bytes) = range.bytes
        && let Some(piece) = accept_chunk(request, bytes, *stored, final_size)?
    {
        *stored += piece.len() as u64;
        pieces.push(piece);
    }

    if request.is_complete && final_size == Some(*stored) {
        // The permission to replace an object may have been revoked since the start, so it is checked again here.
        let reply = store_upload(state, request, session.draft.clone(), std::mem::take(pieces));
        session.progress = match &reply {
            Ok(reply) => UploadProgress::Done(reply.body()),
            Err(_) => UploadProgress::Expired,
        };
        return reply;
    }

    session.total = final_size;
    let reply = Reply::empty(308);
    Ok(if *stored == 0 { reply } else { reply.with_header("range", format!("bytes=0-{}", *stored - 1)) })
}

/// The range that the body of a request covers. Without a header the body is the whole object.
fn sent_range(request: &ReceivedRequest) -> Result<ContentRange, Refusal> {
    match request.header("content-range") {
        None => {
            let length = request.body.len() as u64;
            let bytes = (length > 0).then(|| 0..=length - 1);
            let total = if request.is_complete { Some(length) } else { None };
            Ok(ContentRange { bytes, total })
        }
        Some(text) => {
            ContentRange::parse(text).ok_or_else(|| Refusal::invalid(format!("Invalid Content-Range header '{text}'.")))
        }
    }
}

/// Checks a chunk, which covers `bytes` of the object, and returns the part of it that is not stored yet.
fn accept_chunk(
    request: &ReceivedRequest,
    bytes: RangeInclusive<u64>,
    stored: u64,
    final_size: Option<u64>,
) -> Result<Option<Bytes>, Refusal> {
    let (first, last) = bytes.into_inner();
    let length = request.body.len() as u64;
    let announced = last - first + 1;
    if request.is_complete && length != announced {
        return Err(Refusal::invalid(format!("Content-Range announces {announced} bytes, the body has {length}.")));
    }
    if first > stored {
        return Err(Refusal::invalid(format!(
            "According to the Content-Range header, the upload offset is {first} byte(s), which exceeds already \
             uploaded size of {stored} byte(s)."
        )));
    }
    let is_final = final_size == Some(last + 1);
    if request.is_complete && !is_final && announced % CHUNK_BYTES != 0 {
        return Err(Refusal::invalid(format!(
            "Chunks but the last are multiples of {CHUNK_BYTES} bytes; this one has {announced}."
        )));
    }

    // Of a body that broke off, whole chunks are kept. Bytes that are stored already are skipped.
    let usable = if request.is_complete { length } else { length.min(announced) / CHUNK_BYTES * CHUNK_BYTES };
    let skipped = (stored - first).min(usable);
    Ok((skipped < usable).then(|| request.body.slice(skipped as usize..usable as usize)))
}
