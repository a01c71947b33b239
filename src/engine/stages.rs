//! How far each sample of a window is, and what the planning thread is doing.
//!
//! Each read notes the steps of its samples here, in one atomic word per sample. The thread that waits for a batch
//! reads these words, so it asks no other thread, and a batch that is ready in time costs only a few stores per sample.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
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

impl PlannerState {
    const ALL: [Self; 5] = [Self::Planning, Self::Listing, Self::Budget, Self::Admission, Self::Ended];
}

/// How far a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SampleStage {
    Planned,
    /// Its read waits to be let through.
    Queued,
    Composing,
    Reading,
    /// It is read from the cache.
    Caching,
    /// Another loader or process reads it into the cache.
    Claimed,
    /// It was lost, and only the end of the listing decides which sample replaces it.
    Listing,
    /// Its bytes are in memory and go to the decoder.
    Read,
}

impl SampleStage {
    const ALL: [Self; 8] = [
        Self::Planned,
        Self::Queued,
        Self::Composing,
        Self::Reading,
        Self::Caching,
        Self::Claimed,
        Self::Listing,
        Self::Read,
    ];
}

/// A stage or state with its start in milliseconds since the epoch began. Both are in one word, so that no reader sees
/// half of an update.
#[derive(Debug, Default)]
struct StageStamp(AtomicU64);

impl StageStamp {
    fn set(&self, code: u8, since_ms: u64) {
        self.0.store(u64::from(code) << 56 | since_ms & (u64::MAX >> 8), Ordering::Release);
    }

    fn get(&self) -> (usize, u64) {
        let word = self.0.load(Ordering::Acquire);
        ((word >> 56) as usize, word & (u64::MAX >> 8))
    }

    fn stage(&self) -> StageSince {
        let (code, since_ms) = self.get();
        StageSince { stage: SampleStage::ALL[code], since_ms }
    }
}

/// The stage of a sample, and when it began, in milliseconds since the epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StageSince {
    pub(crate) stage: SampleStage,
    pub(crate) since_ms: u64,
}

/// The state of the planning thread, for the threads that wait for its batches.
#[derive(Debug)]
pub(crate) struct PlannerStatus {
    began: Instant,
    state: StageStamp,
}

impl PlannerStatus {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), state: StageStamp::default() })
    }

    /// Milliseconds since the epoch began.
    pub(crate) fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    pub(crate) fn enter(&self, state: PlannerState) {
        // The start of `Planning` is never reported, and the planner enters it for each group: it needs no clock.
        let since_ms = if state == PlannerState::Planning { 0 } else { self.now_ms() };
        self.state.set(state as u8, since_ms);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().0 == PlannerState::Ended
    }

    /// The state, and when it began, in milliseconds since the epoch began.
    pub(crate) fn state(&self) -> (PlannerState, u64) {
        let (code, since_ms) = self.state.get();
        (PlannerState::ALL[code], since_ms)
    }
}

/// The stages of all samples of a window. A sample is known by its *slot*, its index in the window.
#[derive(Debug)]
pub(crate) struct WindowStages {
    planner: Arc<PlannerStatus>,
    ids: Vec<SampleId>,
    stamps: Vec<StageStamp>,
    /// Slots whose sample was lost, with the sample that replaces it and its stage. These are few.
    replaced: Mutex<BTreeMap<usize, (SampleId, StageStamp)>>,
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

/// How far the compose of a group is, and since when.
#[derive(Debug)]
pub(crate) struct ComposeProgress(Mutex<(ReadStep, u64)>);

impl WindowStages {
    pub(crate) fn new(ids: Vec<SampleId>, planner: &Arc<PlannerStatus>) -> Arc<Self> {
        let stamps = ids.iter().map(|_| StageStamp::default()).collect();
        let (replaced, abandoned) = (Mutex::default(), watch::Sender::default());
        Arc::new(Self { planner: Arc::clone(planner), ids, stamps, replaced, abandoned })
    }

    /// The sample of a slot, or the one that replaces it.
    pub(crate) fn id(&self, slot: usize) -> Option<SampleId> {
        let replaced = lock(&self.replaced).get(&slot).map(|(id, _)| *id);
        replaced.or_else(|| self.ids.get(slot).copied())
    }

    /// The stages of these slots, in their order.
    pub(crate) fn stages(&self, slots: Range<usize>) -> Vec<StageSince> {
        let replaced = lock(&self.replaced);
        let stamp = |slot| replaced.get(&slot).map(|(_, stamp)| stamp).or_else(|| self.stamps.get(slot));
        slots.filter_map(stamp).map(StageStamp::stage).collect()
    }

    pub(crate) fn set(&self, slots: impl IntoIterator<Item = usize>, stage: SampleStage) {
        let now_ms = self.planner.now_ms();
        let replaced = lock(&self.replaced);
        for slot in slots {
            if let Some(stamp) = replaced.get(&slot).map(|(_, stamp)| stamp).or_else(|| self.stamps.get(slot)) {
                stamp.set(stage as u8, now_ms);
            }
        }
    }

    /// Notes that the sample of a slot is lost and `id` replaces it, as far as that is known already.
    pub(crate) fn replace(&self, slot: usize, id: Option<SampleId>, stage: SampleStage) {
        if let Some(id) = id.or_else(|| self.id(slot)) {
            let stamp = StageStamp::default();
            stamp.set(stage as u8, self.planner.now_ms());
            lock(&self.replaced).insert(slot, (id, stamp));
        }
    }

    /// Notes a step of the read of these samples.
    pub(crate) fn set_read_step(&self, slots: impl IntoIterator<Item = usize>, step: ReadStep) {
        let stage = match step {
            ReadStep::Queued => SampleStage::Queued,
            ReadStep::ComposeQueued | ReadStep::Composing => SampleStage::Composing,
            ReadStep::Reading => SampleStage::Reading,
        };
        self.set(slots, stage);
    }

    /// The progress of a compose that waits to be let through.
    pub(crate) fn queue_compose(&self) -> ComposeProgress {
        ComposeProgress(Mutex::new((ReadStep::ComposeQueued, self.planner.now_ms())))
    }

    /// Notes a step of the compose, and of the read behind it, of these samples.
    pub(crate) fn set_compose_step(
        &self,
        compose: &ComposeProgress,
        slots: impl IntoIterator<Item = usize>,
        step: ReadStep,
    ) {
        *lock(&compose.0) = (step, self.planner.now_ms());
        self.set_read_step(slots, step);
    }

    /// Waits until the training loop gives up the compose of a group that begins with this slot. Waits forever if the
    /// group is composed already.
    pub(crate) async fn wait_until_abandoned(&self, slot: usize, compose: &ComposeProgress) {
        let mut abandoned = self.abandoned.subscribe();
        let is_abandoned = |abandoned: &AbandonedComposes| {
            let (step, since_ms) = *lock(&compose.0);
            slot < abandoned.before_slot
                && match step {
                    ReadStep::ComposeQueued => true,
                    ReadStep::Composing => since_ms < abandoned.begun_before_ms,
                    ReadStep::Queued | ReadStep::Reading => false,
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
