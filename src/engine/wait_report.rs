//! What the training loop waits for: by stage in the statistics of an epoch, and in the log where a wait is long.
//!
//! The thread that waits for a batch looks at the [stages](super::stages) of its samples, in time slices that grow from
//! 1 ms to 64 ms, and counts each slice under the stage that it saw at the slice's start.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::stages::{PlannerState, PlannerStatus, SampleStage, StageSince, WindowStages};
use crate::budget::Gauge;
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

/// The training loop gives up a compose that takes this many times longer than usual. Few composes take longer, and
/// reading their objects takes a tenth of that time.
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
}

impl WaitedFor {
    fn add(&mut self, reason: WaitReason, time: Duration) {
        *match reason {
            WaitReason::Listing => &mut self.listing,
            WaitReason::Budget => &mut self.budget,
            WaitReason::Turn => &mut self.turn,
            WaitReason::Compose => &mut self.compose,
            WaitReason::Read => &mut self.read,
            WaitReason::Cache => &mut self.cache,
            WaitReason::Claim => &mut self.claim,
            WaitReason::Decode => &mut self.decode,
            WaitReason::Collate => &mut self.collate,
            WaitReason::Plan => &mut self.plan,
        } += time;
    }

    /// The sum of all stages. It includes the wait for the first batch.
    pub fn total(&self) -> Duration {
        self.by_stage().map(|(_, time)| time).sum()
    }

    /// Each stage's name and time. Later versions may have more stages.
    pub fn by_stage(&self) -> impl Iterator<Item = (&'static str, Duration)> + use<> {
        let Self { listing, budget, turn, compose, read, cache, claim, decode, collate, plan } = *self;
        [
            ("listing", listing),
            ("budget", budget),
            ("turn", turn),
            ("compose", compose),
            ("read", read),
            ("cache", cache),
            ("claim", claim),
            ("decode", decode),
            ("collate", collate),
            ("plan", plan),
        ]
        .into_iter()
    }
}

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
            SampleStage::Planned | SampleStage::Read => None,
            SampleStage::Composing => Some(Self::Compose),
            SampleStage::Reading => Some(Self::Read),
            SampleStage::Caching => Some(Self::Cache),
            SampleStage::Claimed => Some(Self::Claim),
            SampleStage::Listing => Some(Self::Listing),
            SampleStage::Queued => Some(Self::Turn),
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listing => "listing",
            Self::Budget => "byte budget",
            Self::Turn => "leave to make a call",
            Self::Compose => "compose",
            Self::Read => "read",
            Self::Cache => "cache",
            Self::Claim => "claim of another",
            Self::Decode => "decode",
            Self::Collate => "collate",
            Self::Plan => "plan",
        })
    }
}

/// A batch that is being assembled, for the thread that waits for it.
pub(crate) trait BatchProgress: Send + Sync {
    /// Number of samples that are not decoded yet.
    fn missing(&self) -> usize;
}

/// Access to the progress of one batch.
pub(crate) struct BatchTrace {
    stages: Arc<WindowStages>,
    /// The batch's slots in its window.
    slots: Range<usize>,
    /// Weak, because the channel of a batch must close when every task that could finish the batch has ended.
    assembly: Weak<dyn BatchProgress>,
}

impl BatchTrace {
    pub(crate) fn new(stages: Arc<WindowStages>, slots: Range<usize>, assembly: Weak<dyn BatchProgress>) -> Self {
        Self { stages, slots, assembly }
    }

    fn id(&self, place: usize) -> Option<SampleId> {
        self.stages.id(self.slots.start + place)
    }

    /// Where the training loop has `waited` for longer than reading the objects would take: gives up all queued
    /// composes of groups that begin before this batch's end, and running ones that take [`COMPOSE_PATIENCE`] times too
    /// long.
    fn give_up_composing(&self, waited: Duration, gates: &BucketGates) {
        let stages = self.stages.stages(self.slots.clone());
        let composing = stages.iter().filter(|at| at.stage == SampleStage::Composing).count();
        if composing == 0 || waited <= gates.reads.time_for(composing) {
            return;
        }
        let patience = gates.writes.typical_latency() * COMPOSE_PATIENCE;
        self.stages.abandon_composes(self.slots.end, patience.as_millis() as u64);
    }

    fn snapshot(&self, planner: (PlannerState, u64)) -> WaitSnapshot {
        // If the assembly is gone, the batch is finished or never will be.
        let missing = self.assembly.upgrade().map_or(0, |assembly| assembly.missing());
        WaitSnapshot::of(&self.stages.stages(self.slots.clone()), missing, planner)
    }
}

/// What a batch was waiting for at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitSnapshot {
    reason: WaitReason,
    /// The sample to blame, which has waited longest, by its place in the batch.
    place: Option<usize>,
    /// Milliseconds since the epoch began, if known.
    since_ms: Option<u64>,
    /// Number of samples of the batch that wait for the same.
    samples: usize,
}

impl WaitSnapshot {
    /// The snapshot of a batch with these stages, of whose samples `missing` are not decoded yet.
    ///
    /// Calls that are under way come first, the oldest before all others. Samples that wait for bytes of the budget, or
    /// to be let through, come after them, because they get these when a call ends.
    fn of(stages: &[StageSince], missing: usize, (state, state_since_ms): (PlannerState, u64)) -> Self {
        let under_way = stages.iter().enumerate().filter_map(|(place, at)| {
            let reason = WaitReason::of_stage(at.stage)?;
            Some((reason, place, at.since_ms))
        });
        let oldest = under_way.clone().min_by_key(|(reason, _, since_ms)| (*reason == WaitReason::Turn, *since_ms));
        if let Some((reason, place, since_ms)) = oldest {
            let samples = under_way.filter(|(other, ..)| *other == reason).count();
            return Self { reason, place: Some(place), since_ms: Some(since_ms), samples };
        }

        let count = |stage| stages.iter().filter(|at| at.stage == stage).count();
        let (samples, planned, read) = (stages.len(), count(SampleStage::Planned), count(SampleStage::Read));
        let of_batch = |reason, samples| Self { reason, place: None, since_ms: None, samples };
        if planned == 0 && missing == 0 && samples > 0 {
            return of_batch(WaitReason::Collate, samples);
        }
        let decoded = samples - missing.min(samples);
        if read > decoded {
            return of_batch(WaitReason::Decode, read - decoded);
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
#[derive(Debug)]
struct WaitSlices {
    waited: Duration,
    slice: Duration,
    report_at: Duration,
}

impl WaitSlices {
    fn new(stall_report: Duration) -> Self {
        Self { waited: Duration::ZERO, slice: SHORTEST_SLICE, report_at: stall_report }
    }

    /// How long to wait until the next look.
    fn slice(&self) -> Duration {
        self.slice.min(self.report_at.saturating_sub(self.waited)).max(Duration::from_micros(1))
    }

    /// Adds `time` to the wait. Returns true when a report is due; the next one is due after twice the time.
    fn passed(&mut self, time: Duration) -> bool {
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
#[derive(Debug)]
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

/// A source of batches that a thread can wait for.
pub(crate) trait WaitSource<T> {
    /// The next batch, if it comes within this time.
    fn get(&mut self, within: Duration) -> Option<T>;
    /// The batch that is waited for, if it is known.
    fn trace(&self) -> Option<&BatchTrace>;
}

impl WaitWatcher {
    /// Waits until `source` returns something. `on_slice` is called with each slice of the wait but the last, while the
    /// wait lasts.
    pub(crate) fn wait<T>(
        &self,
        totals: &mut WaitTotals,
        batch: u64,
        source: &mut impl WaitSource<T>,
        mut on_slice: impl FnMut(Duration),
    ) -> T {
        if let Some(got) = source.get(Duration::ZERO) {
            return got;
        }
        let mut slices = WaitSlices::new(self.stall_report);
        loop {
            let snapshot = self.snapshot(source.trace());
            let asked = Instant::now();
            let got = source.get(slices.slice());
            let took = asked.elapsed();

            totals.waited_for.add(snapshot.reason, took);
            let is_due = slices.passed(took);
            if let Some(got) = got {
                return got;
            }
            on_slice(took);
            if let Some(trace) = source.trace() {
                trace.give_up_composing(slices.waited, &self.gates);
            }
            if is_due {
                totals.stalls += 1;
                self.report(batch, slices.waited, source.trace());
            }
        }
    }

    fn snapshot(&self, trace: Option<&BatchTrace>) -> WaitSnapshot {
        let planner = self.planner.state();
        trace.map_or_else(|| WaitSnapshot::of(&[], 0, planner), |trace| trace.snapshot(planner))
    }

    fn report(&self, batch: u64, waited: Duration, trace: Option<&BatchTrace>) {
        let snapshot = self.snapshot(trace);
        let Ceilings { reads, writes } = self.gates.snapshot();
        let now_ms = self.planner.now_ms();
        let since = snapshot.since_ms.map(|since_ms| Duration::from_millis(now_ms.saturating_sub(since_ms)));
        tracing::warn!(
            prefix = %self.manifest.prefix(),
            epoch = self.epoch,
            batch,
            stage = %snapshot.reason,
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
            self.describe(snapshot, trace)
        );
    }

    /// The end of the sentence "the training loop waits for".
    fn describe(&self, snapshot: WaitSnapshot, trace: Option<&BatchTrace>) -> String {
        let id = snapshot.place.and_then(|place| trace?.id(place));
        let object = id
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
            WaitReason::Turn if snapshot.place.is_some() => format!("a slot to read {object}{others}"),
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
    use super::*;

    fn waiting(
        stages: &[(SampleStage, u64)],
        missing: usize,
        state: PlannerState,
    ) -> (WaitReason, Option<usize>, usize) {
        let stages: Vec<_> = stages.iter().map(|&(stage, since_ms)| StageSince { stage, since_ms }).collect();
        let snapshot = WaitSnapshot::of(&stages, missing, (state, 7));
        (snapshot.reason, snapshot.place, snapshot.samples)
    }

    #[test]
    fn the_stage_of_a_wait() {
        use SampleStage::{Caching, Claimed, Composing, Listing, Planned, Queued, Read, Reading};
        let none = PlannerState::Planning;
        assert_eq!(waiting(&[], 0, PlannerState::Listing).0, WaitReason::Listing);
        assert_eq!(waiting(&[], 0, none).0, WaitReason::Plan);
        assert_eq!(waiting(&[(Planned, 0), (Planned, 0)], 2, PlannerState::Budget), (WaitReason::Budget, None, 2));
        assert_eq!(waiting(&[(Planned, 0), (Queued, 3)], 2, PlannerState::Admission), (WaitReason::Turn, Some(1), 1));
        assert_eq!(waiting(&[(Planned, 0)], 1, PlannerState::Admission), (WaitReason::Turn, None, 1));
        let reads = [(Reading, 9), (Queued, 1), (Reading, 5), (Read, 0), (Planned, 0)];
        assert_eq!(
            waiting(&reads, 5, PlannerState::Budget),
            (WaitReason::Read, Some(2), 2),
            "the oldest call is to blame"
        );
        assert_eq!(waiting(&[(Composing, 4), (Reading, 5)], 2, none), (WaitReason::Compose, Some(0), 1));
        assert_eq!(waiting(&[(Composing, 6), (Reading, 5)], 2, none), (WaitReason::Read, Some(1), 1));
        assert_eq!(waiting(&[(Caching, 4), (Reading, 5)], 2, none), (WaitReason::Cache, Some(0), 1));
        assert_eq!(waiting(&[(Caching, 4), (Claimed, 3), (Claimed, 5)], 3, none), (WaitReason::Claim, Some(1), 2));
        assert_eq!(waiting(&[(Read, 0), (Listing, 4)], 2, PlannerState::Ended), (WaitReason::Listing, Some(1), 1));
        assert_eq!(waiting(&[(Read, 0), (Read, 0), (Read, 0)], 2, none), (WaitReason::Decode, None, 2));
        assert_eq!(waiting(&[(Read, 0), (Planned, 0)], 1, PlannerState::Budget), (WaitReason::Budget, None, 1));
        assert_eq!(waiting(&[(Read, 0), (Read, 0)], 0, PlannerState::Ended), (WaitReason::Collate, None, 2));
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
        waited.add(WaitReason::Read, Duration::from_secs(3));
        waited.add(WaitReason::Decode, Duration::from_secs(1));
        waited.add(WaitReason::Read, Duration::from_secs(1));
        assert_eq!((waited.read, waited.decode), (Duration::from_secs(4), Duration::from_secs(1)));
        assert_eq!(waited.total(), Duration::from_secs(5));
    }
}
