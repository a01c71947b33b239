//! What the training loop waits for: by stage in the statistics of an epoch, and in the log where a wait is long.
//!
//! The thread that waits for a batch, be it the loop's or one that is [ahead](super::last_request), looks at the
//! [stages](super::stages) of its samples, in time slices that grow from 1 ms to 64 ms, and counts each slice under the
//! stage that it saw at the slice's start.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::stages::{PlannerState, PlannerStatus, SampleProgress, SampleStage, WindowStages};
use crate::budget::Gauge;
use crate::compose::ReadStep;
use crate::manifest::Manifest;
use crate::pacing::{BucketGates, Ceilings};
use crate::sample::SampleId;

/// Default of [`stall_report`](crate::loader::DataLoaderBuilder::stall_report): three times as long as a read waits for
/// bytes before it is repeated, so that one lost packet never triggers a warning.
pub(crate) const STALL_REPORT: Duration = Duration::from_secs(30);

/// First time slice of a wait: short beside the reads and decodes that are waited for, long beside the microseconds of
/// a look.
const SHORTEST_SLICE: Duration = Duration::from_millis(1);

/// Longest slice. A wait of seconds is seldom for several things in turn.
const LONGEST_SLICE: Duration = Duration::from_millis(64);

/// The training loop gives up a compose that takes this many times as long as composes usually take. Few take longer,
/// and reading their objects takes a tenth of that time.
const COMPOSE_PATIENCE: u32 = 3;

/// Time that the training loop has waited for batches, by what these were waiting for; see
/// [`EpochStats::waited_for`](crate::loader::EpochStats::waited_for).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitedFor {
    /// The listing had not reached the batch.
    pub listing: Duration,
    /// Bytes of the memory budget.
    pub budget: Duration,
    /// Calls waited for the limits on calls in flight and on calls a second.
    pub turn: Duration,
    /// Compose calls were queued or running.
    pub compose: Duration,
    /// Bytes of objects.
    pub read: Duration,
    /// Samples were read from the [cache](crate::loader::DataLoaderBuilder::cache).
    pub cache: Duration,
    /// Another loader or process of the machine was reading these samples into the cache.
    pub claim: Duration,
    /// The decoder.
    pub decode: Duration,
    /// The collate function.
    pub collate: Duration,
    /// The batch was not planned yet.
    pub plan: Duration,
    /// The batch was being converted for the [device](crate::loader::DataLoaderBuilder::device) of the loader.
    pub convert: Duration,
}

impl WaitedFor {
    pub(super) fn add(&mut self, reason: WaitReason, time: Duration) {
        *self.times_mut()[reason as usize] += time;
    }

    /// All times: in the order of [`WaitReason`], and then what the loader's threads do with a whole batch.
    fn times_mut(&mut self) -> [&mut Duration; STAGE_NAMES.len()] {
        let Self { listing, budget, turn, compose, read, cache, claim, decode, collate, plan, convert } = self;
        [listing, budget, turn, compose, read, cache, claim, decode, collate, plan, convert]
    }

    /// The sum of all stages. It includes the wait for the first batch.
    pub fn total(&self) -> Duration {
        self.by_stage().map(|(_, time)| time).sum()
    }

    /// Each stage's name and time. Later versions may have more stages.
    pub fn by_stage(&self) -> impl Iterator<Item = (&'static str, Duration)> + use<> {
        STAGE_NAMES.into_iter().zip({ *self }.times_mut().map(|time| *time))
    }
}

/// Names of the stages, in the order of [`WaitedFor::times_mut`].
const STAGE_NAMES: [&str; 11] =
    ["listing", "budget", "turn", "compose", "read", "cache", "claim", "decode", "collate", "plan", "convert"];

/// What a batch is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitReason {
    Listing,
    Budget,
    Turn,
    Compose,
    Read,
    Cache,
    Claim,
    Decode,
    Collate,
    Plan,
}

impl WaitReason {
    /// The reason of a sample in this stage; `None` for stages that another thread has to end.
    fn of_stage(stage: SampleStage) -> Option<Self> {
        match stage {
            SampleStage::Planned | SampleStage::Read | SampleStage::Decoded => None,
            SampleStage::UnderWay(ReadStep::ComposeQueued | ReadStep::Composing) => Some(Self::Compose),
            SampleStage::UnderWay(ReadStep::Reading) => Some(Self::Read),
            SampleStage::Caching => Some(Self::Cache),
            SampleStage::Claimed => Some(Self::Claim),
            SampleStage::Listing => Some(Self::Listing),
            SampleStage::UnderWay(ReadStep::Queued) => Some(Self::Turn),
        }
    }
}

/// Access to the progress of one batch.
pub(crate) struct BatchTrace {
    pub(crate) stages: Arc<WindowStages>,
    /// The batch's slots in its window.
    pub(crate) slots: Range<usize>,
}

impl BatchTrace {
    /// Where the training loop has `waited` for longer than reading the objects would take: gives up all queued
    /// composes of groups that begin before this batch's end, and running ones that take [`COMPOSE_PATIENCE`] times too
    /// long.
    pub(super) fn give_up_composing(&self, waited: Duration, gates: &BucketGates) {
        let is_composing = |stage| WaitReason::of_stage(stage) == Some(WaitReason::Compose);
        let samples = self.stages.progress(self.slots.clone());
        let composing = samples.iter().filter(|sample| is_composing(sample.stage)).count();
        if composing == 0 || waited <= gates.reads.time_for(composing) {
            return;
        }
        let patience = gates.writes.typical_latency() * COMPOSE_PATIENCE;
        self.stages.abandon_composes(self.slots.end, patience.as_millis() as u64);
    }

    fn snapshot(&self, planner: (PlannerState, u64)) -> WaitSnapshot {
        WaitSnapshot::of(&self.stages.progress(self.slots.clone()), planner)
    }
}

/// What a batch was waiting for at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitSnapshot {
    pub(super) reason: WaitReason,
    /// The sample to blame, which has waited longest.
    sample: Option<SampleId>,
    /// Milliseconds since the epoch began, if known.
    since_ms: Option<u64>,
    /// Number of samples of the batch that wait for the same.
    samples: usize,
}

impl WaitSnapshot {
    /// The snapshot of a batch of these samples.
    ///
    /// Calls that are under way come first, the oldest before all others. Samples that wait for bytes of the budget, or
    /// to be let through, come after them, because they get these when a call ends.
    fn of(samples: &[SampleProgress], (state, state_since_ms): (PlannerState, u64)) -> Self {
        let under_way = samples.iter().filter_map(|sample| Some((WaitReason::of_stage(sample.stage)?, sample)));
        let oldest = under_way.clone().min_by_key(|(reason, at)| (*reason == WaitReason::Turn, at.since_ms));
        if let Some((reason, SampleProgress { id, since_ms, .. })) = oldest {
            let samples = under_way.filter(|(other, _)| *other == reason).count();
            return Self { reason, sample: Some(*id), since_ms: Some(*since_ms), samples };
        }

        let count = |stage| samples.iter().filter(|sample| sample.stage == stage).count();
        let (planned, read) = (count(SampleStage::Planned), count(SampleStage::Read));
        let of_batch = |reason, samples| Self { reason, sample: None, since_ms: None, samples };
        if read > 0 {
            return of_batch(WaitReason::Decode, read);
        }
        if planned == 0 && !samples.is_empty() {
            return of_batch(WaitReason::Collate, samples.len());
        }

        let since_ms = Some(state_since_ms);
        match state {
            PlannerState::Listing => Self { since_ms, ..of_batch(WaitReason::Listing, planned) },
            PlannerState::Budget => Self { since_ms, ..of_batch(WaitReason::Budget, planned) },
            PlannerState::Admission => Self { since_ms, ..of_batch(WaitReason::Turn, planned) },
            PlannerState::Planning | PlannerState::Ended => of_batch(WaitReason::Plan, planned),
        }
    }
}

/// One wait of the training loop: how long to wait until the next look, and when to report.
pub(super) struct WaitSlices {
    pub(super) waited: Duration,
    slice: Duration,
    report_at: Duration,
}

impl WaitSlices {
    pub(super) fn new(stall_report: Duration) -> Self {
        Self { waited: Duration::ZERO, slice: SHORTEST_SLICE, report_at: stall_report }
    }

    /// How long to wait until the next look.
    pub(super) fn slice(&self) -> Duration {
        self.slice.min(self.report_at.saturating_sub(self.waited)).max(Duration::from_micros(1))
    }

    /// Adds `time` to the wait. Returns true when a report is due; the next one is due after twice the time.
    pub(super) fn passed(&mut self, time: Duration) -> bool {
        self.waited += time;
        self.slice = (self.slice * 2).min(LONGEST_SLICE);
        let is_due = self.waited >= self.report_at;
        while self.waited >= self.report_at {
            self.report_at = self.report_at.saturating_mul(2).max(Duration::from_nanos(1));
        }
        is_due
    }
}

/// Measures and reports the waits of one epoch.
pub(crate) struct WaitWatcher {
    pub(crate) planner: Arc<PlannerStatus>,
    pub(crate) stall_report: Duration,
    pub(crate) held: Gauge,
    pub(crate) memory_budget: u64,
    pub(crate) gates: Arc<BucketGates>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) epoch: u64,
}

/// The waits of an epoch so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitTotals {
    pub(crate) waited_for: WaitedFor,
    /// Number of reports.
    pub(crate) stalls: u64,
}

impl WaitWatcher {
    pub(super) fn snapshot(&self, trace: Option<&BatchTrace>) -> WaitSnapshot {
        let planner = self.planner.state();
        trace.map_or_else(|| WaitSnapshot::of(&[], planner), |trace| trace.snapshot(planner))
    }

    pub(super) fn report(&self, batch: u64, waited: Duration, trace: Option<&BatchTrace>) {
        let snapshot = self.snapshot(trace);
        let Ceilings { reads, writes } = self.gates.snapshot();
        let now_ms = self.planner.now_ms();
        let since = snapshot.since_ms.map(|since_ms| Duration::from_millis(now_ms.saturating_sub(since_ms)));
        tracing::warn!(
            prefix = %self.manifest.prefix(),
            epoch = self.epoch,
            batch,
            stage = %STAGE_NAMES[snapshot.reason as usize],
            waited_seconds = waited.as_secs_f64(),
            stage_seconds = since.map(|since| since.as_secs_f64()),
            bytes_held = self.held.bytes(),
            memory_budget = self.memory_budget,
            reads_in_flight = reads.in_flight,
            reads_waiting = reads.waiting,
            reads_at_once = reads.at_once,
            reads_per_second = reads.per_second,
            writes_in_flight = writes.in_flight,
            writes_waiting = writes.waiting,
            deletions_waiting = writes.background_waiting,
            writes_at_once = writes.at_once,
            writes_per_second = writes.per_second,
            "the training loop waits for {}",
            self.describe(snapshot)
        );
    }

    /// The end of the sentence "the training loop waits for".
    fn describe(&self, snapshot: WaitSnapshot) -> String {
        let object = snapshot
            .sample
            .and_then(|id| self.manifest.location(id).ok())
            .map(|location| self.manifest.id(&location.object).to_string());
        let object = object.as_deref().unwrap_or("an object");
        let others = match snapshot.samples {
            0 | 1 => String::new(),
            samples => format!(" and {} more of its batch", samples - 1),
        };
        match snapshot.reason {
            WaitReason::Listing => "the listing to reach the batch".to_owned(),
            WaitReason::Budget => "bytes of the memory budget, which delivered batches hold".to_owned(),
            WaitReason::Turn if snapshot.sample.is_some() => format!("a slot to read {object}{others}"),
            WaitReason::Turn => "a slot for a call: as many calls are under way as help".to_owned(),
            WaitReason::Compose => format!("{object}{others} to be composed by the service"),
            WaitReason::Read => format!("the bytes of {object}{others}"),
            WaitReason::Cache => format!("{object}{others} to be read from the cache"),
            WaitReason::Claim => format!("{object}{others}, which another loader or process reads into the cache"),
            WaitReason::Decode => format!("the decoder: {} samples of the batch are not decoded yet", snapshot.samples),
            WaitReason::Collate => format!("the collation of {} samples", snapshot.samples),
            WaitReason::Plan => "the batch to be planned".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::pacing::{CallCaps, CallSlot};

    fn waiting(samples: &[(SampleStage, u64)], state: PlannerState) -> (WaitReason, Option<u64>, usize) {
        let samples = (0..).zip(samples);
        let samples = samples.map(|(id, &(stage, since_ms))| SampleProgress { id: SampleId(id), stage, since_ms });
        let snapshot = WaitSnapshot::of(&samples.collect::<Vec<_>>(), (state, 7));
        (snapshot.reason, snapshot.sample.map(|id| id.0), snapshot.samples)
    }

    #[test]
    fn the_stage_of_a_wait() {
        use SampleStage::{Caching, Claimed, Decoded, Listing, Planned, Read};
        let [queued, compose_queued] = [ReadStep::Queued, ReadStep::ComposeQueued].map(SampleStage::UnderWay);
        let [composing, reading] = [ReadStep::Composing, ReadStep::Reading].map(SampleStage::UnderWay);
        let none = PlannerState::Planning;
        assert_eq!(waiting(&[], PlannerState::Listing).0, WaitReason::Listing);
        assert_eq!(waiting(&[], none).0, WaitReason::Plan);
        assert_eq!(waiting(&[(Planned, 0), (Planned, 0)], PlannerState::Budget), (WaitReason::Budget, None, 2));
        assert_eq!(waiting(&[(Planned, 0), (queued, 3)], PlannerState::Admission), (WaitReason::Turn, Some(1), 1));
        assert_eq!(waiting(&[(Planned, 0)], PlannerState::Admission), (WaitReason::Turn, None, 1));
        let reads = [(reading, 9), (queued, 1), (reading, 5), (Read, 0), (Planned, 0)];
        assert_eq!(
            waiting(&reads, PlannerState::Budget),
            (WaitReason::Read, Some(2), 2),
            "the oldest call is to blame"
        );
        assert_eq!(waiting(&[(composing, 4), (reading, 5)], none), (WaitReason::Compose, Some(0), 1));
        assert_eq!(waiting(&[(composing, 6), (reading, 5)], none), (WaitReason::Read, Some(1), 1));
        assert_eq!(waiting(&[(compose_queued, 6), (composing, 5)], none), (WaitReason::Compose, Some(1), 2));
        assert_eq!(waiting(&[(Caching, 4), (reading, 5)], none), (WaitReason::Cache, Some(0), 1));
        assert_eq!(waiting(&[(Caching, 4), (Claimed, 3), (Claimed, 5)], none), (WaitReason::Claim, Some(1), 2));
        assert_eq!(waiting(&[(Read, 0), (Listing, 4)], PlannerState::Ended), (WaitReason::Listing, Some(1), 1));
        assert_eq!(waiting(&[(Read, 0), (Decoded, 0), (Planned, 0)], none), (WaitReason::Decode, None, 1));
        assert_eq!(waiting(&[(Decoded, 0), (Planned, 0)], PlannerState::Budget), (WaitReason::Budget, None, 1));
        assert_eq!(waiting(&[(Decoded, 0), (Decoded, 0)], PlannerState::Ended), (WaitReason::Collate, None, 2));
    }

    /// After a run of deletions, which are fast, composes of the usual time were given up.
    #[tokio::test(start_paused = true)]
    async fn composes_are_given_up_after_three_times_the_usual_time_of_composes() {
        let gates = BucketGates::new(CallCaps::default());
        let answer = |slot: CallSlot, wait| {
            slot.pacer().answered(wait);
            slot.finish(0);
        };
        let stages = WindowStages::new(vec![SampleId(0)], &PlannerStatus::new());
        stages.set([0], SampleStage::UnderWay(ReadStep::Composing));
        std::thread::sleep(Duration::from_millis(20));
        let trace = BatchTrace { stages, slots: 0..1 };
        for (usual, is_given_up) in [(Duration::from_secs(3_600), false), (Duration::from_millis(1), true)] {
            for _ in 0..200 {
                answer(gates.writes.acquire(0).await, usual);
            }
            for _ in 0..200 {
                answer(gates.writes.acquire_background(0).await, Duration::from_millis(1));
            }
            trace.give_up_composing(Duration::MAX, &gates);
            let abandoned = Box::pin(trace.stages.wait_until_abandoned(0)).now_or_never();
            assert_eq!(abandoned.is_some(), is_given_up, "{usual:?}");
        }
    }

    #[test]
    fn reports_come_at_the_bound_and_then_ever_more_seldom() {
        let seconds = Duration::from_secs;
        let mut slices = WaitSlices::new(seconds(30));
        assert_eq!(slices.slice(), SHORTEST_SLICE);
        let reports: Vec<_> = (1..=400).filter(|_| slices.passed(seconds(1))).collect();
        assert_eq!(reports, [30, 60, 120, 240]);
        assert_eq!(slices.slice(), LONGEST_SLICE);
        let mut slices = WaitSlices::new(Duration::from_millis(3));
        assert!(!slices.passed(Duration::from_micros(2_500)));
        assert_eq!(slices.slice(), Duration::from_micros(500), "no look comes after the bound");
        assert!(slices.passed(seconds(9)));
        assert!(!slices.passed(Duration::from_micros(1)), "one report, however long it slept");
    }

    #[test]
    fn time_is_counted_by_stage() {
        let mut waited = WaitedFor::default();
        waited.add(WaitReason::Read, Duration::from_secs(4));
        waited.add(WaitReason::Plan, Duration::from_secs(1));
        assert_eq!([waited.read, waited.plan, waited.total()], [4, 1, 5].map(Duration::from_secs));
        let named: Vec<_> = waited.by_stage().map(|(name, time)| (name, time.as_secs())).collect();
        assert!(named.contains(&("read", 4)) && named.contains(&("plan", 1)), "{named:?}");
    }
}
