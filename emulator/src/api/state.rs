//! The state that all calls of an emulator share.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    api::upload_session::UploadSession,
    buckets::{registry::BucketRegistry, stored::StoredBucket},
    http::request::ReceivedRequest,
    locks::read,
    refusal::Refusal,
    traffic::{
        fault::FaultPlan,
        profile::Profile,
        stats::{Call, StatsCounters},
    },
};

/// The state of an emulator.
pub(crate) struct EmulatorState {
    pub(crate) buckets: BucketRegistry,
    pub(crate) profile: RwLock<Profile>,
    pub(crate) faults: FaultPlan,
    pub(crate) stats: StatsCounters,
    /// The bearer token that requests must have, if any.
    pub(crate) token: RwLock<Option<String>>,
    /// Resumable uploads by their identifier.
    pub(crate) uploads: Mutex<HashMap<String, Arc<Mutex<UploadSession>>>>,
    pub(crate) seed: u64,
    /// How many pseudo-random numbers were drawn from `seed`.
    pub(crate) draws: AtomicU64,
    pub(crate) started: Instant,
    /// The base URL, without a slash at its end.
    pub(crate) endpoint: String,
}

/// An object's bucket and name, as a path names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectPath {
    pub(crate) bucket: String,
    pub(crate) name: String,
}

impl EmulatorState {
    pub(crate) fn bucket(&self, name: &str) -> Result<Arc<StoredBucket>, Refusal> {
        self.buckets.bucket(name).ok_or_else(Refusal::no_bucket)
    }

    /// The bucket, if the request may use it: for a requester-pays bucket it must name a project to bill.
    pub(crate) fn billed_bucket(&self, name: &str, request: &ReceivedRequest) -> Result<Arc<StoredBucket>, Refusal> {
        let bucket = self.bucket(name)?;
        let requester_pays = read(&bucket.settings).config.requester_pays;
        let has_project = request.query.get("userProject").is_some() || request.header("x-goog-user-project").is_some();
        if requester_pays && !has_project {
            let message = "Bucket is a requester pays bucket but no user project provided.";
            return Err(Refusal::new(400, "required", message));
        }
        Ok(bucket)
    }

    /// The number of the next pseudo-random number to draw from the seed.
    pub(crate) fn next_draw(&self) -> u64 {
        self.draws.fetch_add(1, Ordering::Relaxed)
    }

    /// The time from a call to the first byte of its answer. `items` counts what a listing found.
    pub(crate) fn delay(&self, call: Call, items: u64) -> Duration {
        let draw = self.next_draw();
        read(&self.profile).delay(call, items, self.seed, draw)
    }
}
