//! Counters of calls and answers.

use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{error::Error, locks::lock};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Call {
    /// A request for a page of a listing.
    List,
    /// A request for contents, whole or a range.
    GetMedia,
    /// A request for an object's resource.
    GetMetadata,
    /// A composition.
    Compose,
    /// An upload in one request, or the start of a resumable one.
    Insert,
    /// A later request of a resumable upload.
    UploadChunk,
    /// The deletion of an object.
    Delete,
    /// A change of an object's attributes.
    Patch,
    /// A copy or rewrite.
    Copy,
    /// A request for a bucket's resource.
    BucketGet,
    /// A test of the caller's permissions.
    TestPermissions,
    /// A batch. Each call in it is counted as its own kind, too.
    Batch,
    /// Any other call.
    Other,
}

impl Call {
    /// All kinds in the order of their discriminants, with their names in options and counters.
    pub(crate) const ALL: [(&'static str, Self); 13] = [
        ("list", Self::List),
        ("get_media", Self::GetMedia),
        ("get_metadata", Self::GetMetadata),
        ("compose", Self::Compose),
        ("insert", Self::Insert),
        ("upload_chunk", Self::UploadChunk),
        ("delete", Self::Delete),
        ("patch", Self::Patch),
        ("copy", Self::Copy),
        ("bucket_get", Self::BucketGet),
        ("test_permissions", Self::TestPermissions),
        ("batch", Self::Batch),
        ("other", Self::Other),
    ];

    /// Whether a call of this kind changes objects.
    pub(crate) fn is_mutation(self) -> bool {
        matches!(
            self,
            Self::Compose | Self::Insert | Self::UploadChunk | Self::Delete | Self::Patch | Self::Copy | Self::Batch
        )
    }
}

impl FromStr for Call {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, call)| *call).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            Error::spec("kind of call", text, format!("there are {}", known.join(", ")))
        })
    }
}

/// The counters of an emulator, from its start or the last reset on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Stats {
    /// Requests for pages of listings.
    pub list: u64,
    /// Requests for contents, whole or ranges.
    pub get_media: u64,
    /// Requests for an object's resource.
    pub get_metadata: u64,
    /// Compositions.
    pub compose: u64,
    /// Uploads in one request, and starts of resumable ones.
    pub insert: u64,
    /// Later requests of resumable uploads.
    pub upload_chunk: u64,
    /// Deletions of objects, including those inside batches.
    pub delete: u64,
    /// Changes of attributes.
    pub patch: u64,
    /// Copies and rewrites.
    pub copy: u64,
    /// Requests for a bucket's resource.
    pub bucket_get: u64,
    /// Tests of the caller's permissions.
    pub test_permissions: u64,
    /// Batches.
    pub batch: u64,
    /// All other calls.
    pub other: u64,
    /// Answers with a status of 400 or more, by status.
    pub errors: BTreeMap<String, u64>,
    /// Injected faults, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Bytes of answer bodies handed to the network.
    pub bytes_sent: u64,
    /// Bytes of request bodies received.
    pub bytes_received: u64,
    /// Requests whose answer is not sent completely.
    pub in_flight: u64,
    /// The largest number of requests in flight at once.
    pub in_flight_peak: u64,
    /// Pages of listings without any item or prefix.
    pub empty_list_pages: u64,
    /// Items and prefixes on all pages of listings.
    pub listed: u64,
    /// Sizes of all composed objects together, in bytes.
    pub composed_bytes: u64,
}

impl Stats {
    /// The number of all calls. A batch counts as one call, and each call in it as another.
    pub fn calls(&self) -> u64 {
        self.list
            + self.get_media
            + self.get_metadata
            + self.compose
            + self.insert
            + self.upload_chunk
            + self.delete
            + self.patch
            + self.copy
            + self.bucket_get
            + self.test_permissions
            + self.batch
            + self.other
    }
}

/// The live counters behind [`Stats`].
#[derive(Default)]
pub(crate) struct StatsCounters {
    calls: [AtomicU64; Call::ALL.len()],
    errors: Mutex<BTreeMap<u16, u64>>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    in_flight: AtomicU64,
    in_flight_peak: AtomicU64,
    empty_list_pages: AtomicU64,
    listed: AtomicU64,
    composed_bytes: AtomicU64,
}

impl StatsCounters {
    pub(crate) fn count_call(&self, call: Call) {
        self.calls[call as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer, if its status is an error.
    pub(crate) fn count_status(&self, status: u16) {
        if status >= 400 {
            *lock(&self.errors).entry(status).or_default() += 1;
        }
    }

    pub(crate) fn count_fault(&self, kind: &'static str) {
        *lock(&self.faults).entry(kind).or_default() += 1;
    }

    /// Counts a page of a listing with `entries` items and prefixes.
    pub(crate) fn count_page(&self, entries: u64) {
        self.listed.fetch_add(entries, Ordering::Relaxed);
        self.empty_list_pages.fetch_add(u64::from(entries == 0), Ordering::Relaxed);
    }

    pub(crate) fn count_composed(&self, bytes: u64) {
        self.composed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn enter_request(&self) {
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_flight_peak.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn leave_request(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let call = |call: Call| self.calls[call as usize].load(Ordering::Relaxed);
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            list: call(Call::List),
            get_media: call(Call::GetMedia),
            get_metadata: call(Call::GetMetadata),
            compose: call(Call::Compose),
            insert: call(Call::Insert),
            upload_chunk: call(Call::UploadChunk),
            delete: call(Call::Delete),
            patch: call(Call::Patch),
            copy: call(Call::Copy),
            bucket_get: call(Call::BucketGet),
            test_permissions: call(Call::TestPermissions),
            batch: call(Call::Batch),
            other: call(Call::Other),
            errors: lock(&self.errors).iter().map(|(status, count)| (status.to_string(), *count)).collect(),
            faults: lock(&self.faults).iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            bytes_sent: value(&self.bytes_sent),
            bytes_received: value(&self.bytes_received),
            in_flight: value(&self.in_flight),
            in_flight_peak: value(&self.in_flight_peak),
            empty_list_pages: value(&self.empty_list_pages),
            listed: value(&self.listed),
            composed_bytes: value(&self.composed_bytes),
        }
    }

    /// Sets all counters to zero, except the number of requests in flight.
    pub(crate) fn reset(&self) {
        let bytes = [&self.bytes_sent, &self.bytes_received, &self.composed_bytes];
        for counter in self.calls.iter().chain(bytes).chain([&self.empty_list_pages, &self.listed]) {
            counter.store(0, Ordering::Relaxed);
        }
        lock(&self.errors).clear();
        lock(&self.faults).clear();
        self.in_flight_peak.store(self.in_flight.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
