//! What the epochs of a loader share, and the part of it that each epoch has for itself.

use std::sync::Arc;

use crossbeam_channel::Sender;

use super::assembly::DecodeJob;
use super::bucket::BucketSource;
use super::cache_session::CacheSession;
use super::cache_source::CacheSource;
use super::decode_gate::{DecodeGate, DecodeLimits};
use super::local_source::LocalSource;
use super::loss::OnError;
use super::sample_code::SampleCode;
use super::source::SampleSource;
use crate::budget::{Budget, Gauge, GroupBytes};
use crate::plan::{Group, Slice};
use crate::{Error, ErrorKind, Stage};

/// What the epochs of a loader share. [`for_epochs`](Self::for_epochs) and [`for_epoch`](Self::for_epoch) return it
/// with parts that belong to a series of epochs, or to one.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) bucket: Arc<BucketSource>,
    pub(crate) cache: Option<CacheSession>,
    pub(crate) code: Arc<dyn SampleCode>,
    pub(crate) jobs: Sender<DecodeJob>,
    pub(crate) on_error: OnError,
    /// The whole memory budget in bytes.
    pub(crate) memory_budget: u64,
    /// The budget of bytes that are read, and of items whose size is known before their object is read.
    pub(crate) budget: Budget,
    /// The limits of the gate before the decoder, if there is a gate.
    pub(crate) decode_limits: Option<DecodeLimits>,
    /// Where samples wait for memory before they are decoded.
    pub(crate) gate: Option<Arc<DecodeGate<DecodeJob>>>,
}

impl Engine {
    /// The engine of a series of epochs, which share a memory budget.
    pub(crate) fn for_epochs(&self, held: &Gauge) -> Self {
        let budget = Budget::new(self.budget.bytes(), held.clone());
        let bucket = Arc::new(self.bucket.with_fetcher(self.bucket.fetcher.for_epochs(&budget)));
        let gate = self.decode_limits.map(|limits| DecodeGate::new(limits, self.jobs.clone(), held.clone()));
        Self { bucket, budget, gate, ..self.clone() }
    }

    /// The engine of one epoch, with temporary objects and counts of its own.
    pub(crate) fn for_epoch(&self) -> Self {
        let cache = self.cache.as_ref().map(CacheSession::for_epoch);
        Self { bucket: Arc::new(self.bucket.for_epoch()), cache, ..self.clone() }
    }

    /// Where the samples of an epoch come from.
    pub(crate) fn source(&self) -> Arc<dyn SampleSource> {
        let bucket = Arc::clone(&self.bucket);
        if bucket.fetcher.is_local() {
            return Arc::new(LocalSource::new(bucket));
        }
        match &self.cache {
            Some(session) => Arc::new(CacheSource { session: session.clone(), bucket }),
            None => bucket,
        }
    }

    /// Checks that the memory budget can hold these groups together.
    ///
    /// # Errors
    /// The least budget that can.
    pub(crate) fn check_budget(&self, groups: &[Group]) -> Result<(), u64> {
        self.budget.check(groups.iter().map(|group| self.bytes(group)))
    }

    /// Bytes that a group holds of the memory budget.
    pub(crate) fn bytes(&self, group: &Group) -> GroupBytes {
        let sizes = || group.slices.iter().map(Slice::bytes);
        let objects = sizes().fold(0, u64::saturating_add);
        if self.code.sizes().counts_items_later() {
            return GroupBytes { until_delivered: 0, until_decoded: objects };
        }
        let (mut keeps_objects, mut items) = (false, 0_u64);
        for item in sizes().map(|size| self.code.planned_item(size)) {
            keeps_objects |= item.keeps_object;
            items = items.saturating_add(item.own);
        }
        if keeps_objects {
            // One item that keeps its object keeps what was read with it.
            GroupBytes { until_delivered: items.saturating_add(objects), until_decoded: 0 }
        } else {
            GroupBytes { until_delivered: items, until_decoded: objects }
        }
    }

    /// The error of a batch whose groups need a memory budget of `bytes`.
    pub(crate) fn too_large(&self, groups: &[Group], bytes: u64) -> Error {
        let samples: usize = groups.iter().map(|group| group.slices.len()).sum();
        let slices = groups.iter().flat_map(|group| &group.slices);
        let largest = slices.max_by_key(|slice| slice.bytes());
        let error = Error::new(ErrorKind::Config, format!("a batch of {samples} samples is over the memory budget"))
            .stage(Stage::Plan)
            .mismatch(format_args!("a memory_budget of at least {bytes} bytes"), self.budget.bytes())
            .hint("raise .memory_budget(bytes) or lower .batch_size(n)");
        let manifest = &self.bucket.manifest;
        match largest.map(|slice| manifest.location(slice.id)) {
            Some(Ok(location)) => error.object(format_args!(
                "{} (the largest, {} bytes)",
                manifest.id(&location.object),
                location.bytes()
            )),
            _ => error,
        }
    }
}
