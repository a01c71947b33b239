//! Writing objects: in one request if small, in resumable pieces if not.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::http::{Http, RequestTask, text, uuid};
use super::{OBJECT_FIELDS, bucket_path, check_name, encoded, wire};
use crate::store::client::{STALL, transfer};
use crate::store::{Attempt, ObjectId, ObjectMeta, PutRequest};
use crate::{Error, ErrorKind, Result};

/// Up to here an upload is one request: 8 MiB cost less to send again than a session costs to open.
const ONE_REQUEST: usize = 8 << 20;

/// A piece of a resumable upload; a multiple of 256 KiB, as the service demands.
const PIECE: usize = 8 << 20;

/// Waits after a broken piece. A piece that makes headway starts them anew.
const WAITS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(8)];

/// Most sessions tried when the service says that they are gone.
const SESSIONS: u32 = 3;

pub(super) async fn put(http: &Http, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta> {
    let id = ObjectId::new(request.bucket.clone(), request.name.clone(), None);
    check_name(&request.bucket, &request.name)?;
    let task = RequestTask { needs: "storage.objects.create", role: "roles/storage.objectUser", about: &id };
    let upload = ResumableUpload { http, request, attempt, task };
    let answer = if request.data.len() <= ONE_REQUEST { upload.in_one().await? } else { upload.in_pieces().await? };
    wire::object(&answer).map_err(|error| upload.task.nonsense(error))
}

struct ResumableUpload<'a> {
    http: &'a Http,
    request: &'a PutRequest,
    attempt: &'a Attempt,
    task: RequestTask<'a>,
}

/// How a session stands.
enum SessionStatus {
    /// So many bytes are stored.
    At(usize),
    /// The object is written; this is it.
    Done(String),
    /// The session isn't known any more.
    Gone,
}

impl ResumableUpload<'_> {
    /// A request that opens an upload of this type.
    fn open(&self, kind: &str) -> Result<RequestBuilder> {
        let mut url = format!(
            "{}/upload/storage/v1{}/o?uploadType={kind}&name={}&prettyPrint=false&fields={OBJECT_FIELDS}",
            self.http.base(),
            bucket_path(&self.request.bucket)?,
            encoded(&self.request.name),
        );
        if let Some(generation) = self.request.if_generation_match {
            url.push_str("&ifGenerationMatch=");
            url.push_str(&generation.to_string());
        }
        let request = self.http.client().request(Method::POST, url);
        Ok(request.header("x-goog-gcs-idempotency-token", uuid(self.attempt.call)))
    }

    /// Metadata and bytes in one request.
    async fn in_one(&self) -> Result<String> {
        let boundary = format!("dataflux-{:032x}", rand::random::<u128>());
        let head = format!(
            "--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{}\r\n\
             --{boundary}\r\nContent-Type: {}\r\n\r\n",
            wire::put(self.request),
            wire::content_type(self.request).replace(['\r', '\n'], " "),
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let body: Bytes = [head.as_bytes(), &self.request.data, tail.as_bytes()].concat().into();
        let ask = self.open("multipart")?.header(CONTENT_TYPE, format!("multipart/related; boundary={boundary}"));
        self.http.json(ask.body(body), self.attempt, &self.task).await
    }

    /// A session and its pieces.
    async fn in_pieces(&self) -> Result<String> {
        for _ in 0..SESSIONS {
            let session = self.session().await?;
            if let Some(answer) = self.fill(&session).await? {
                return Ok(answer);
            }
            debug!(object = %self.task.about, "the upload session is gone; starting again");
        }
        Err(Error::new(ErrorKind::Unavailable, format!("the service forgot {SESSIONS} upload sessions"))
            .object(self.task.about))
    }

    /// Opens a session; its URL is as good as a token, so that no error or log may show it.
    async fn session(&self) -> Result<Url> {
        let ask = self
            .open("resumable")?
            .header(CONTENT_TYPE, "application/json; charset=UTF-8")
            .header("x-upload-content-type", wire::content_type(self.request))
            .header("x-upload-content-length", self.request.data.len())
            .body(wire::put(self.request));
        let answer = self.in_time(0, self.http.send(ask, self.attempt, &self.task)).await?;
        let location = answer.response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let session = location.and_then(|location| Url::parse(self.http.base()).ok()?.join(location).ok());
        session.ok_or_else(|| {
            self.task.nonsense(Error::new(ErrorKind::Protocol, "the answer names no session to upload to"))
        })
    }

    /// Sends the pieces; `None` when the session is gone.
    async fn fill(&self, session: &Url) -> Result<Option<String>> {
        let (mut stored, mut failures) = (0, 0);
        let mut known = true;
        // Whether the last piece went, after which the object may be written whatever the session says.
        let mut complete = false;
        loop {
            complete |= known && self.request.data.len() - stored <= PIECE;
            let step = if known { self.piece(session, stored).await } else { self.standing(session).await };
            match step {
                Ok(SessionStatus::Done(answer)) => return Ok(Some(answer)),
                // A new session would overwrite, or be refused for, what this one may have written: the caller's next
                // try looks at what is there.
                Ok(SessionStatus::Gone) if complete => {
                    let what = "the upload session is gone, and the answer to its last piece with it";
                    return Err(Error::new(ErrorKind::Unavailable, what).object(self.task.about));
                }
                Ok(SessionStatus::Gone) => return Ok(None),
                Ok(SessionStatus::At(at)) if at < stored || at > self.request.data.len() => {
                    return Err(Error::new(ErrorKind::Protocol, "the service miscounts an upload")
                        .object(self.task.about)
                        .mismatch(format!("{stored} bytes or more"), format!("{at} bytes")));
                }
                Ok(SessionStatus::At(at)) => {
                    if at > stored {
                        failures = 0;
                    } else if known {
                        // A piece of which nothing was kept.
                        failures = self.pause(failures, None).await?;
                    }
                    (stored, known) = (at, true);
                }
                Err(error) if error.is_retryable() => {
                    failures = self.pause(failures, Some(error)).await?;
                    known = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits after a failure, or gives up.
    async fn pause(&self, failures: usize, error: Option<Error>) -> Result<usize> {
        let Some(wait) = WAITS.get(failures) else {
            return Err(error.unwrap_or_else(|| {
                Error::new(ErrorKind::Unavailable, "the service keeps nothing of what is sent").object(self.task.about)
            }));
        };
        sleep(*wait).await;
        Ok(failures + 1)
    }

    /// Sends the next piece.
    async fn piece(&self, session: &Url, start: usize) -> Result<SessionStatus> {
        let total = self.request.data.len();
        let end = total.min(start + PIECE);
        // All stored and not done happens when the answer to the last piece was lost half way: ask with no bytes.
        if start == end {
            return self.standing(session).await;
        }
        let range = format!("bytes {start}-{}/{total}", end - 1);
        self.step(session, &range, self.request.data.slice(start..end)).await
    }

    /// Asks how the session stands.
    async fn standing(&self, session: &Url) -> Result<SessionStatus> {
        self.step(session, &format!("bytes */{}", self.request.data.len()), Bytes::new()).await
    }

    /// Makes a request that sends so many bytes and reads its answer, as long as may be waited for it.
    async fn in_time<T>(&self, bytes: usize, made: impl Future<Output = Result<T>>) -> Result<T> {
        let patience = STALL.saturating_add(transfer(bytes as u64));
        timeout(patience, made).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("no answer to a part of an upload for {patience:.1?}"))
                .object(self.task.about))
        })
    }

    async fn step(&self, session: &Url, range: &str, bytes: Bytes) -> Result<SessionStatus> {
        self.in_time(bytes.len(), self.send(session, range, bytes)).await
    }

    async fn send(&self, session: &Url, range: &str, bytes: Bytes) -> Result<SessionStatus> {
        let ask = self.http.client().put(session.clone());
        let ask = ask.header(CONTENT_RANGE, range).header(CONTENT_LENGTH, bytes.len()).body(bytes);
        let (answer, bearer) = self.http.send_any(ask, self.attempt, &self.task).await?;
        match answer.response.status() {
            StatusCode::PERMANENT_REDIRECT => {
                let stored = match answer.response.headers().get(RANGE) {
                    None => Some(0),
                    Some(range) => range
                        .to_str()
                        .ok()
                        .and_then(|range| range.rsplit_once('-')?.1.trim().parse::<usize>().ok()?.checked_add(1)),
                };
                stored.map(SessionStatus::At).ok_or_else(|| {
                    self.task.nonsense(Error::new(ErrorKind::Protocol, "the answer doesn't say how much is stored"))
                })
            }
            status if status.is_success() => Ok(SessionStatus::Done(text(answer).await?)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(SessionStatus::Gone),
            _ => Err(self.http.refused(answer, bearer, &self.task).await),
        }
    }
}
