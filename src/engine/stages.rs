//! How far each sample of a window is, and what the planning thread is doing.
//!
//! Each read notes the steps of its samples here. The thread that waits for a batch looks at these notes, so it asks no
//! other thread, and a batch that is ready in time costs only a few stores per sample.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::watch;

use crate::compose::ReadStep;
use crate::lock::lock;
use crate::sample::SampleId;

/// What the planning thread of an epoch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlannerState {
    Planning,
    /// It waits for the listing.
    Listing,
    /// It waits for bytes of the memory budget.
    Budget,
    /// It waits until another read may be started.
    Admission,
    /// All batches have been handed out.
    Ended,
}

/// How far a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SampleStage {
    Planned,
    /// Its read from the bucket has reached this step.
    UnderWay(ReadStep),
    /// It is read from the cache.
    Caching,
    /// Another loader or process reads it into the cache.
    Claimed,
    /// It was lost, and only the end of the listing decides which sample replaces it.
    Listing,
    /// Its bytes are in memory and go to the decoder.
    Read,
    /// It is decoded, or its batch goes without it.
    Decoded,
}

/// How far one sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SampleProgress {
    /// The sample that was planned, or the one that replaces it.
    pub(crate) id: SampleId,
    pub(crate) stage: SampleStage,
    /// When the stage began, in milliseconds since the epoch began.
    pub(crate) since_ms: u64,
}

/// The state of the planning thread, for the threads that wait for its batches.
pub(crate) struct PlannerStatus {
    began: Instant,
    /// The state, and when it began, in milliseconds since the epoch began.
    state: Mutex<(PlannerState, u64)>,
}

impl PlannerStatus {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), state: Mutex::new((PlannerState::Planning, 0)) })
    }

    /// Milliseconds since the epoch began.
    pub(crate) fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    pub(crate) fn enter(&self, state: PlannerState) {
        // The start of `Planning` is never reported, and the planner enters it for each group: it needs no clock.
        let since_ms = if state == PlannerState::Planning { 0 } else { self.now_ms() };
        *lock(&self.state) = (state, since_ms);
    }

    /// The state, and when it began, in milliseconds since the epoch began.
    pub(crate) fn state(&self) -> (PlannerState, u64) {
        *lock(&self.state)
    }
}

/// The stages of all samples of a window.
pub(crate) struct WindowStages {
    planner: Arc<PlannerStatus>,
    samples: Mutex<Vec<SampleProgress>>,
    abandoned: watch::Sender<AbandonedComposes>,
}

/// Composes that are given up, because the training loop has waited for their batch longer than reads would take. These
/// are composes of groups that begin before `before_slot`, if they are not let through yet, or if they began before
/// `begun_before_ms`, in milliseconds since the epoch began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct AbandonedComposes {
    before_slot: usize,
    begun_before_ms: u64,
}

impl WindowStages {
    pub(crate) fn new(ids: Vec<SampleId>, planner: &Arc<PlannerStatus>) -> Arc<Self> {
        let sample = |id| SampleProgress { id, stage: SampleStage::Planned, since_ms: 0 };
        let samples = Mutex::new(ids.into_iter().map(sample).collect());
        Arc::new(Self { planner: Arc::clone(planner), samples, abandoned: watch::Sender::default() })
    }

    /// How far the samples of these slots are, in the order of the slots.
    pub(crate) fn progress(&self, slots: Range<usize>) -> Vec<SampleProgress> {
        lock(&self.samples).get(slots).unwrap_or_default().to_vec()
    }

    pub(crate) fn set(&self, slots: impl IntoIterator<Item = usize>, stage: SampleStage) {
        let since_ms = self.planner.now_ms();
        let mut samples = lock(&self.samples);
        for slot in slots {
            samples[slot] = SampleProgress { stage, since_ms, ..samples[slot] };
        }
    }

    /// Notes that the sample of a slot is lost and `id` replaces it, as far as that is known already.
    pub(crate) fn replace(&self, slot: usize, id: Option<SampleId>, stage: SampleStage) {
        let since_ms = self.planner.now_ms();
        let sample = &mut lock(&self.samples)[slot];
        *sample = SampleProgress { id: id.unwrap_or(sample.id), stage, since_ms };
    }

    /// Waits until the training loop gives up the compose of a group that begins with this slot. Waits forever if the
    /// group is composed already.
    pub(crate) async fn wait_until_abandoned(&self, slot: usize) {
        let mut abandoned = self.abandoned.subscribe();
        let is_abandoned = |abandoned: &AbandonedComposes| {
            let SampleProgress { stage, since_ms, .. } = lock(&self.samples)[slot];
            slot < abandoned.before_slot
                && match stage {
                    SampleStage::UnderWay(ReadStep::ComposeQueued) => true,
                    SampleStage::UnderWay(ReadStep::Composing) => since_ms < abandoned.begun_before_ms,
                    _ => false,
                }
        };
        // The sender is a field of `self`, so it isn't dropped during the wait.
        let _ = abandoned.wait_for(is_abandoned).await;
    }

    /// Gives up composes of groups that begin before this slot: those that are not let through yet, and those that have
    /// taken longer than `patience_ms`.
    pub(crate) fn abandon_composes(&self, before_slot: usize, patience_ms: u64) {
        let begun_before_ms = self.planner.now_ms().saturating_sub(patience_ms);
        self.abandoned.send_modify(|abandoned| {
            abandoned.before_slot = abandoned.before_slot.max(before_slot);
            abandoned.begun_before_ms = begun_before_ms;
        });
    }
}
