//! The service without its transport: requests in, replies out, nothing asynchronous.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::HeaderMap;
use serde_json::{Map, Value};

use crate::{
    batch,
    bucket::{Bucket, Namespace},
    buckets, compose,
    content::{Content, Segment},
    error::Refusal,
    fault::FaultPlan,
    lock::{lock, read},
    objects,
    profile::Profile,
    route::{Query, Route},
    stats::{Call, Counters},
    upload,
};

/// Everything an emulator knows.
pub(crate) struct State {
    pub(crate) namespace: Namespace,
    pub(crate) profile: RwLock<Profile>,
    pub(crate) faults: FaultPlan,
    pub(crate) stats: Counters,
    pub(crate) token: RwLock<Option<String>>,
    pub(crate) sessions: Mutex<HashMap<String, Arc<Mutex<upload::Session>>>>,
    pub(crate) seed: u64,
    pub(crate) draws: AtomicU64,
    pub(crate) started: Instant,
    pub(crate) endpoint: String,
}

/// One request, its body read.
pub(crate) struct Request {
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body came whole: a broken upload still stores what arrived.
    pub(crate) complete: bool,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether it comes without credentials.
    pub(crate) fn is_anonymous(&self) -> bool {
        !self.headers.contains_key("authorization")
    }

    /// The JSON object in the body; an empty one when there is no body.
    pub(crate) fn json(&self) -> Result<Map<String, Value>, Refusal> {
        parse_json(&self.body)
    }
}

pub(crate) fn parse_json(bytes: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    serde_json::from_slice(bytes).map_err(|error| Refusal::new(400, "parseError", format!("Parse Error: {error}")))
}

/// One answer.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// The user's own, which the XML API sends as headers.
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) content: Content,
    /// First byte (inclusive) and end (exclusive) of `content` to send.
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Sent without a length, as the service does when it decompresses.
    pub(crate) unknown_length: bool,
    /// Items and prefixes of a listing; they take time.
    pub(crate) items: u64,
    /// The slowest part of a batch.
    pub(crate) delay: Option<Duration>,
}

impl Reply {
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn bytes(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let content = Content::new([Segment::Bytes(body.into())]);
        let end = content.len();
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, content, end, ..Self::default() }
    }

    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self::bytes(200, "application/json; charset=UTF-8", body)
    }

    pub(crate) fn value(value: &Value) -> Self {
        Self::json(value.to_string())
    }

    #[must_use]
    pub(crate) fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }

    /// The size of the object that a range was beyond the end of.
    #[must_use]
    pub(crate) fn with_size(self, size: Option<u64>) -> Self {
        match size {
            Some(size) => self.with("content-range", format!("bytes */{size}")),
            None => self,
        }
    }

    /// What goes out to a HEAD request: the same headers, and no byte.
    #[must_use]
    pub(crate) fn without_body(mut self) -> Self {
        let length = self.end - self.start;
        self.content = Content::default();
        (self.start, self.end) = (0, 0);
        if std::mem::take(&mut self.unknown_length) { self } else { self.with("content-length", length.to_string()) }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let status = refusal.status;
        let body = refusal.body();
        let reply = if body.is_empty() { Self::empty(status) } else { Self { status, ..Self::json(body) } };
        if refusal.location == Some(("header", "Authorization")) {
            return reply.with("www-authenticate", "Bearer realm=\"https://accounts.google.com/\"");
        }
        reply.with_size(refusal.size)
    }
}

impl State {
    pub(crate) fn bucket(&self, name: &str) -> Result<Arc<Bucket>, Refusal> {
        self.namespace.bucket(name).ok_or_else(Refusal::no_bucket)
    }

    /// A bucket that the request may use: requester-pays ones want a project to bill.
    pub(crate) fn bucket_for(&self, name: &str, request: &Request) -> Result<Arc<Bucket>, Refusal> {
        let bucket = self.bucket(name)?;
        let pays = read(&bucket.settings).config.requester_pays;
        if pays && request.query.get("userProject").is_none() && request.header("x-goog-user-project").is_none() {
            let message = "Bucket is a requester pays bucket but no user project provided.";
            return Err(Refusal::new(400, "required", message));
        }
        Ok(bucket)
    }

    /// Refuses requests without the token, once one is required.
    pub(crate) fn authorize(&self, request: &Request) -> Result<(), Refusal> {
        let token = read(&self.token);
        let Some(token) = token.as_deref() else { return Ok(()) };
        let (reason, message) = match request.header("authorization") {
            Some(value) if value.strip_prefix("Bearer ") == Some(token) => return Ok(()),
            Some(_) => ("authError", "Invalid Credentials"),
            None => ("required", "Anonymous caller does not have access to the requested resource."),
        };
        Err(Refusal { location: Some(("header", "Authorization")), ..Refusal::new(401, reason, message) })
    }

    /// Counts the call against the limits of its bucket.
    pub(crate) fn admit(&self, route: &Route, request: &Request) -> Result<(), Refusal> {
        let call = route.call();
        let profile = read(&self.profile);
        let (Some(bucket), name) = route.target() else { return Ok(()) };
        let Some(bucket) = self.namespace.bucket(bucket) else { return Ok(()) };
        let name = match call {
            Call::Insert => request.query.get("name"),
            _ => name,
        };
        let now = self.started.elapsed();
        let mut limits = lock(&bucket.limits);
        if call.mutates() {
            if !limits.write(now, profile.scaled(profile.writes_per_s)) {
                return Err(Refusal::rate_limited(format!(
                    "The rate of requests that write to bucket {} exceeds its limit. Please reduce your request rate.",
                    bucket.name
                )));
            }
            if let Some(name) = name
                && !limits.write_name(name, now, profile.scaled(profile.name_writes_per_s))
            {
                return Err(Refusal::rate_limited(format!(
                    "The object {}/{name} exceeded the rate limit for object mutation operations (create, update, and \
                     delete). Please reduce your request rate.",
                    bucket.name
                )));
            }
        } else if !limits.read(now, profile.scaled(profile.reads_per_s)) {
            return Err(Refusal::rate_limited(format!(
                "The rate of requests that read from bucket {} exceeds its limit. Please reduce your request rate.",
                bucket.name
            )));
        }
        Ok(())
    }

    /// How long a call takes before its first byte.
    pub(crate) fn delay(&self, call: Call, items: u64) -> Duration {
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        read(&self.profile).delay(call, items, self.seed, draw)
    }

    /// Does what is asked.
    pub(crate) fn handle(&self, route: &Route, request: &Request) -> Reply {
        self.dispatch(route, request).unwrap_or_else(|refusal| route.refuse(refusal))
    }

    fn dispatch(&self, route: &Route, request: &Request) -> Result<Reply, Refusal> {
        match route {
            Route::ListBuckets => buckets::list(self, request),
            Route::InsertBucket => buckets::insert(self, request),
            Route::GetBucket(bucket) => buckets::get(self, bucket, request),
            Route::PatchBucket(bucket) => buckets::patch(self, bucket, request),
            Route::DeleteBucket(bucket) => buckets::delete(self, bucket, request),
            Route::TestPermissions(bucket) => buckets::test_permissions(self, bucket, request),
            Route::ListObjects(bucket) => crate::list_objects::list(self, bucket, request),
            Route::GetObject(target) => objects::get(self, target, request),
            Route::GetMedia(target) => crate::media::get(self, target, request),
            Route::HeadMedia(target) => crate::media::get(self, target, request).map(Reply::without_body),
            Route::XmlList(bucket) => crate::xml::list(self, bucket, request),
            Route::XmlGet(target) => crate::xml::get(self, target, request),
            Route::XmlHead(target) => crate::xml::get(self, target, request).map(Reply::without_body),
            Route::PatchObject(target, replace) => objects::patch(self, target, request, *replace),
            Route::DeleteObject(target) => objects::delete(self, target, request),
            Route::Compose(target) => compose::compose(self, target, request),
            Route::Copy(from, to, rewrite) => objects::copy(self, from, to, request, *rewrite),
            Route::Upload(bucket) => upload::upload(self, bucket, request),
            Route::UploadSession => upload::session(self, request),
            Route::CancelUpload => upload::cancel(self, request),
            Route::Batch => batch::batch(self, request),
            Route::Stats => Ok(Reply::value(&serde_json::to_value(self.stats.read()).unwrap_or_default())),
            Route::ResetStats => {
                self.stats.reset();
                Ok(Reply::empty(204))
            }
        }
    }
}
