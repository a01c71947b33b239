//! Writing objects: small ones in one request, large ones in resumable pieces.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::http::{CREATE, Http, RequestTask, text, uuid};
use super::path::{OBJECT_FIELDS, bucket_path, check_name, encode, required_generation};
use super::wire;
use crate::store::client::{STALL, transfer_time};
use crate::store::{Attempt, ObjectId, ObjectMeta, PutRequest};
use crate::{Error, ErrorKind, Result};

/// Largest upload that is sent as one request. Sending 8 MiB again costs less than opening a session.
const MAX_SINGLE_REQUEST: usize = 8 << 20;

/// Bytes of a piece of a resumable upload; a multiple of 256 KiB, as the service demands.
const PIECE_SIZE: usize = 8 << 20;

/// Waits after failures of a piece. A piece that makes progress starts them anew.
const BACKOFF: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(8)];

/// Maximum number of sessions that are opened when the service forgets them.
const MAX_SESSIONS: u32 = 3;

/// Writes an object.
pub(super) async fn put(http: &Http, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta> {
    let id = ObjectId::live(request.bucket.clone(), request.name.clone());
    check_name(&request.bucket, &request.name)?;
    let task = RequestTask { permission: CREATE, about: &id };
    let upload = Upload { http, request, attempt, task };
    let answer = if request.data.len() <= MAX_SINGLE_REQUEST {
        upload.send_whole().await?
    } else {
        upload.send_in_pieces().await?
    };
    wire::parse_object(&answer).map_err(|error| upload.task.malformed(error))
}

/// An upload under way.
struct Upload<'a> {
    http: &'a Http,
    request: &'a PutRequest,
    attempt: &'a Attempt,
    task: RequestTask<'a>,
}

/// The status of an upload session.
enum SessionStatus {
    /// So many bytes are stored.
    Stored(usize),
    /// The object is written; this is its description.
    Done(String),
    /// The service doesn't know the session any more.
    Gone,
}

impl Upload<'_> {
    /// A request that opens an upload of this type. `call` identifies it, as all its attempts.
    fn open(&self, kind: &str, call: u128) -> Result<RequestBuilder> {
        let mut url = format!(
            "{}/upload/storage/v1{}/o?uploadType={kind}&name={}&prettyPrint=false&fields={OBJECT_FIELDS}",
            self.http.base(),
            bucket_path(&self.request.bucket)?,
            encode(&self.request.name),
        );
        if let Some(generation) = required_generation(&self.request.mode)? {
            url.push_str("&ifGenerationMatch=");
            url.push_str(&generation.to_string());
        }
        let request = self.http.client().request(Method::POST, url);
        Ok(request.header("x-goog-gcs-idempotency-token", uuid(call)))
    }

    /// Sends metadata and bytes in one request.
    async fn send_whole(&self) -> Result<String> {
        let boundary = format!("dataflux-{:032x}", rand::random::<u128>());
        let head = format!(
            "--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{}\r\n\
             --{boundary}\r\nContent-Type: {}\r\n\r\n",
            wire::upload_body(self.request),
            wire::content_type(self.request).replace(['\r', '\n'], " "),
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let body: Bytes = [head.as_bytes(), &self.request.data, tail.as_bytes()].concat().into();
        let content_type = format!("multipart/related; boundary={boundary}");
        let request = self.open("multipart", self.attempt.call)?.header(CONTENT_TYPE, content_type);
        self.http.json(request.body(body), self.attempt, &self.task).await
    }

    /// Sends the bytes in pieces of a session.
    async fn send_in_pieces(&self) -> Result<String> {
        let mut call = self.attempt.call;
        for _ in 0..MAX_SESSIONS {
            let session = self.open_session(call).await?;
            if let Some(answer) = self.send_pieces(&session).await? {
                return Ok(answer);
            }
            debug!(object = %self.task.about, "the upload session is gone; starting again");
            // To a repetition of the same call the service may answer with the session that is gone.
            call = Attempt::first().call;
        }
        Err(Error::new(ErrorKind::Unavailable, format!("the service forgot {MAX_SESSIONS} upload sessions"))
            .object(self.task.about))
    }

    /// Opens a session. Its URL grants access like a token, so no error or log may show it.
    async fn open_session(&self, call: u128) -> Result<Url> {
        let request = self
            .open("resumable", call)?
            .header(CONTENT_TYPE, "application/json; charset=UTF-8")
            .header("x-upload-content-type", wire::content_type(self.request))
            .header("x-upload-content-length", self.request.data.len())
            .body(wire::upload_body(self.request));
        let answer = self.within(0, self.http.send(request, self.attempt, &self.task)).await?;
        let location = answer.response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let session = location.and_then(|location| Url::parse(self.http.base()).ok()?.join(location).ok());
        session.ok_or_else(|| {
            self.task.malformed(Error::new(ErrorKind::Protocol, "the answer names no session to upload to"))
        })
    }

    /// Sends the pieces of a session; `None` when the session is gone.
    async fn send_pieces(&self, session: &Url) -> Result<Option<String>> {
        let (mut stored, mut failures) = (0, 0);
        // Whether `stored` is what the service has.
        let mut is_known = true;
        // Whether the last piece was sent, after which the object may exist whatever the session's status is.
        let mut is_complete = false;
        loop {
            is_complete |= is_known && self.request.data.len() - stored <= PIECE_SIZE;
            let status =
                if is_known { self.send_piece(session, stored).await } else { self.query_status(session).await };
            match status {
                Ok(SessionStatus::Done(answer)) => return Ok(Some(answer)),
                // A new session would overwrite the object that this one may have written, or be refused because of it.
                // The caller's next attempt looks at the object.
                Ok(SessionStatus::Gone) if is_complete => {
                    let message = "the upload session is gone, and the answer to its last piece with it";
                    return Err(Error::new(ErrorKind::Unavailable, message).object(self.task.about));
                }
                Ok(SessionStatus::Gone) => return Ok(None),
                Ok(SessionStatus::Stored(at)) if at < stored || at > self.request.data.len() => {
                    return Err(Error::new(ErrorKind::Protocol, "the service miscounts an upload")
                        .object(self.task.about)
                        .mismatch(format!("{stored} bytes or more"), format!("{at} bytes")));
                }
                Ok(SessionStatus::Stored(at)) => {
                    if at > stored {
                        failures = 0;
                    } else if is_known {
                        // The service kept nothing of this piece.
                        failures = self.pause(failures, None).await?;
                    }
                    (stored, is_known) = (at, true);
                }
                Err(error) if error.is_retryable() => {
                    failures = self.pause(failures, Some(error)).await?;
                    is_known = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits after a failure, or gives up. Returns the number of failures in a row.
    async fn pause(&self, failures: usize, error: Option<Error>) -> Result<usize> {
        let Some(wait) = BACKOFF.get(failures) else {
            return Err(error.unwrap_or_else(|| {
                Error::new(ErrorKind::Unavailable, "the service keeps nothing of what is sent").object(self.task.about)
            }));
        };
        sleep(*wait).await;
        Ok(failures + 1)
    }

    /// Sends the next piece.
    async fn send_piece(&self, session: &Url, start: usize) -> Result<SessionStatus> {
        let total = self.request.data.len();
        let end = total.min(start + PIECE_SIZE);
        // All bytes are stored and the object isn't known to be written: the answer to the last piece was lost.
        if start == end {
            return self.query_status(session).await;
        }
        let range = format!("bytes {start}-{}/{total}", end - 1);
        self.put_range(session, &range, self.request.data.slice(start..end)).await
    }

    /// Asks for the status of the session.
    async fn query_status(&self, session: &Url) -> Result<SessionStatus> {
        self.put_range(session, &format!("bytes */{}", self.request.data.len()), Bytes::new()).await
    }

    /// Waits for a request that sends so many bytes, and for its answer, up to a timeout.
    async fn within<T>(&self, bytes: usize, request: impl Future<Output = Result<T>>) -> Result<T> {
        let patience = STALL.saturating_add(transfer_time(bytes as u64));
        timeout(patience, request).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("no answer to a part of an upload for {patience:.1?}"))
                .object(self.task.about))
        })
    }

    async fn put_range(&self, session: &Url, range: &str, bytes: Bytes) -> Result<SessionStatus> {
        self.within(bytes.len(), self.try_put_range(session, range, bytes)).await
    }

    async fn try_put_range(&self, session: &Url, range: &str, bytes: Bytes) -> Result<SessionStatus> {
        let request = self.http.client().put(session.clone());
        let request = request.header(CONTENT_RANGE, range).header(CONTENT_LENGTH, bytes.len()).body(bytes);
        let (answer, bearer) = self.http.send_any(request, self.attempt, &self.task).await?;
        match answer.response.status() {
            StatusCode::PERMANENT_REDIRECT => {
                let stored = match answer.response.headers().get(RANGE) {
                    None => Some(0),
                    Some(range) => range
                        .to_str()
                        .ok()
                        .and_then(|range| range.rsplit_once('-')?.1.trim().parse::<usize>().ok()?.checked_add(1)),
                };
                stored.map(SessionStatus::Stored).ok_or_else(|| {
                    self.task.malformed(Error::new(ErrorKind::Protocol, "the answer doesn't say how much is stored"))
                })
            }
            status if status.is_success() => Ok(SessionStatus::Done(text(answer).await?)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(SessionStatus::Gone),
            _ => Err(self.http.refused(answer, bearer, &self.task).await),
        }
    }
}
