//! The choice of a read mode for small objects, by measurement.
//!
//! This module is pure: callers hand in the clock and the state of the service. The service limits reads and composes
//! separately, so there are three modes, ordered by how much is composed: direct, mixed (both at once) and composed.
//! The chooser stays with one mode, tries the next one when that could be better by what is known, and keeps the better
//! of the two by what both brought. A trial costs little: on the step from direct to mixed no read stops, and composed
//! groups are read ahead of what the training loop waits for.

use std::time::Duration;

use super::bucket_gates::{Ceilings, DOCUMENTED_COMPOSE};
use super::estimates::{ChooserConfig, ComposeEstimates, GroupSize, NeighbourEpochs, ServiceState, is_worth_trying};
use super::latency::ShortestLatency;
use super::read_mode::{Choice, ReadMode};
use crate::store::MAX_SOURCES;

/// Permission to read a group in one mode. Each of its reads is reported with [`ReadModeChooser::end_read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    /// Whether the group is composed. If not, each of its samples is a read of its own.
    pub(crate) is_composed: bool,
    period: u64,
}

/// What a successful read brought, and the time since it began to wait for its call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadOutcome {
    pub(crate) samples: u64,
    pub(crate) took: Duration,
}

/// How much better than the settled mode another one must be, or promise to be: more than the noise between
/// measurements.
const MIN_GAIN: f64 = 1.15;

/// How much better composing must promise to be if it begins before anything is measured.
const MIN_UNMEASURED_GAIN: f64 = 2.0;

/// A training loop that waits for less than this share of the time doesn't need more.
const SATISFIED_WAIT_SHARE: f64 = 0.1;

/// Shortest measurement. If groups are composed, it lasts at least as long as a compose, since composed reads come in
/// bursts of that period.
const MIN_MEASUREMENT: Duration = Duration::from_millis(300);

/// Reads that a measurement needs. With fewer, a single read would change the result by more than the usual noise.
const MIN_READS: u64 = 16;

/// Measurements of a trial, of which the last one decides. The first one may suffer from call limits that are still
/// rising, and from other load on the machine.
const TRIAL_MEASUREMENTS: u32 = 2;

/// Time until a worse mode is tried again, doubled up to five times if it is worse again. A trial of a second or two at
/// half the rate costs a twentieth of this.
const RETRIAL_INTERVAL: Duration = Duration::from_secs(15);

/// Groups that are composed to measure how long that takes.
const PROBES: usize = 2;

/// Samples left of an epoch below which no probe starts: direct reads bring them before its object is there.
const MIN_SAMPLES_LEFT_TO_PROBE: u64 = 2_048;

#[derive(Clone, Copy, Debug, Default)]
struct ModeRecord {
    /// Samples a second: measured, or documented where composing began before anything was measured.
    rate: Option<f64>,
    /// Earliest time of the next trial.
    retry_at: Duration,
    /// Trials in a row in which the mode was worse.
    failed_trials: u32,
}

/// What ended since the measurement began.
#[derive(Clone, Copy, Debug)]
struct Measurement {
    began: Duration,
    samples: u64,
    reads: u64,
    /// The training loop's waiting time until then.
    waited: Duration,
}

/// Reads of one kind that were admitted and have not ended: samples if direct, groups if composed.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    admitted: usize,
    /// Admitted reads that have not reached the gate yet. Those that wait in the gate, or run, are not among them.
    on_the_way: usize,
    /// Whether a read that was admitted in this period has succeeded.
    has_succeeded: bool,
}

/// The progress of one epoch.
#[derive(Clone, Copy, Debug, Default)]
struct EpochProgress {
    samples: u64,
    admitted: u64,
    /// Samples at the start that are read directly.
    head: u64,
    has_next: bool,
    /// Whether the rest is read directly, and no longer measured.
    rest_is_direct: bool,
}

/// The choice of one loader, for all its epochs.
#[derive(Clone, Debug)]
pub(crate) struct ReadModeChooser {
    estimates: ComposeEstimates,
    mode: ReadMode,
    /// The mode to return to. It differs from `mode` while that one is on trial.
    settled: ReadMode,
    /// Why this mode; `None` until there was another one.
    reason: Option<String>,
    records: [ModeRecord; 3],
    /// Counts changes of mode and starts of epochs. An epoch that begins while composes of the one before are under way
    /// continues its period. A measurement starts only after a read of this period has succeeded.
    period: u64,
    direct: Lane,
    composed: Lane,
    /// Composes of this period that failed before any succeeded.
    early_failures: usize,
    measurement: Option<Measurement>,
    /// Complete measurements of the trial.
    measurements: u32,
    compose_latency: ShortestLatency,
    probes: usize,
    epoch: EpochProgress,
    /// The training loop's waiting time in all.
    waited: Duration,
    /// Whether the loop hardly waited during the last measurement.
    is_satisfied: bool,
}

impl ReadModeChooser {
    pub(crate) fn new(config: ChooserConfig) -> Self {
        Self {
            estimates: ComposeEstimates::new(config),
            mode: ReadMode::Direct,
            settled: ReadMode::Direct,
            reason: None,
            records: [ModeRecord::default(); 3],
            period: 0,
            direct: Lane::default(),
            composed: Lane::default(),
            early_failures: 0,
            measurement: None,
            measurements: 0,
            compose_latency: ShortestLatency::default(),
            probes: 0,
            epoch: EpochProgress::default(),
            waited: Duration::ZERO,
            is_satisfied: false,
        }
    }

    pub(crate) fn choice(&self) -> Choice {
        let direct = self.rate(ReadMode::Direct);
        let measured = || direct.map_or("nothing was measured yet".to_owned(), |rate| format!("{rate:.0} samples/s"));
        Choice {
            mode: self.mode,
            reason: self.reason.clone().unwrap_or_else(measured),
            direct,
            mixed: self.rate(ReadMode::Mixed),
            composed: self.rate(ReadMode::Composed),
            compose_latency: self.compose_latency.get(),
        }
    }

    /// Starts an epoch. If no previous epoch is still being delivered, as many samples are read directly as arrive
    /// before the first composes do.
    pub(crate) fn start_epoch(&mut self, neighbours: NeighbourEpochs) {
        // Probes that have all ended without success have failed, and the cause may have passed.
        if self.compose_latency.get().is_none() && self.composed.admitted == 0 {
            self.probes = 0;
        }

        // In a series, composes started in the previous epoch finish in this one, so the period continues.
        if neighbours.has_previous && self.composed.has_succeeded && self.composed.admitted > 0 {
            self.measurement = None;
        } else {
            self.start_period();
        }

        let has_head = !neighbours.has_previous && self.mode != ReadMode::Direct;
        self.epoch = EpochProgress {
            head: if has_head { self.reads_meanwhile() } else { 0 },
            has_next: neighbours.has_next,
            ..EpochProgress::default()
        };
    }

    /// Records that the training loop has waited for data.
    pub(crate) fn record_wait(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Decides how a group is read; `left` is the number of samples of the epoch after it. `None` if enough reads are
    /// under way; the caller asks again when one has ended.
    pub(crate) fn admit(
        &mut self,
        now: Duration,
        group: GroupSize,
        left: u64,
        service: &ServiceState,
    ) -> Option<Admission> {
        self.compose_latency.shorten_if_old(now);
        let samples = group.samples as u64;
        let is_composable = group.may_compose && self.estimates.may_compose();
        if is_composable {
            self.estimates.add(group);
        }
        if self.epoch.admitted == 0 {
            self.epoch.samples = left.saturating_add(samples);
        }
        // If the rest can be read directly before one compose ends, it is: the loop would wait for the compose.
        self.epoch.rest_is_direct |=
            self.mode != ReadMode::Direct && !self.epoch.has_next && left <= self.reads_meanwhile();
        if self.epoch.rest_is_direct {
            self.measurement = None;
        } else {
            self.evaluate(now, left, service);
        }

        if is_composable && self.should_begin_composed(left, service) {
            self.epoch.head = self.reads_meanwhile();
            let documented = self.estimates.documented_reads();
            self.records[ReadMode::Direct as usize].rate.get_or_insert(documented);
            let reason = "on trial: composed objects of this size are documented to come faster, and cost less";
            self.switch(ReadMode::Mixed, reason.to_owned());
        }

        let is_composed = self.decide_group(is_composable, left, service)?;
        let reads = if is_composed { 1 } else { group.samples };
        let lane = if is_composed { &mut self.composed } else { &mut self.direct };
        lane.admitted += reads;
        lane.on_the_way += reads;
        self.epoch.admitted += samples;
        Some(Admission { is_composed, period: self.period })
    }

    /// Whether a group is composed; `None` if it has to wait.
    fn decide_group(&mut self, is_composable: bool, left: u64, service: &ServiceState) -> Option<bool> {
        let Ceilings { reads, writes } = &service.ceilings;
        let max_composed = self.estimates.max_waiting_composes(service);
        // So many that a burst of answers finds the next calls in the gate.
        let max_direct = MAX_SOURCES + reads.at_once / 4;
        // The first condition bounds the reads in the gate and on the way to it. `waiting` includes other loaders, so a
        // loader that has few reads under way is admitted regardless.
        let has_room = |lane: &Lane, waiting, max| lane.on_the_way + waiting < max || lane.admitted < max;
        let has_compose_room = has_room(&self.composed, writes.waiting, max_composed);
        let direct = has_room(&self.direct, reads.waiting, max_direct).then_some(false);

        if !is_composable || self.epoch.rest_is_direct {
            return direct;
        }
        if self.epoch.admitted < self.epoch.head {
            return Some(false);
        }
        // Until the first compose shows how long it takes, composed groups get at most half of the buffer.
        let is_half_composed =
            || self.composed.admitted as f64 * self.estimates.samples_in_group() > self.estimates.samples_held() / 2.0;
        match self.mode {
            ReadMode::Direct if self.should_probe(left) => {
                self.probes += 1;
                Some(true)
            }
            ReadMode::Composed => has_compose_room.then_some(true),
            ReadMode::Mixed if self.compose_latency.get().is_none() && is_half_composed() => direct,
            ReadMode::Mixed if has_compose_room => Some(true),
            // If composes are admitted but not queued at the gate, this machine is the bottleneck: it gets no more
            // reads.
            ReadMode::Mixed if writes.waiting < max_composed => None,
            ReadMode::Direct | ReadMode::Mixed => direct,
        }
    }

    /// Records that a read begins to wait for its call.
    pub(crate) fn begin_read(&mut self, admission: Admission) {
        self.lane(admission).on_the_way -= 1;
    }

    /// Records that a compose or the read of its object failed, before [`end_read`](Self::end_read). The direct reads
    /// that replace the group are not counted. A compose that was given up in the queue, and never sent, shows nothing
    /// of composing.
    pub(crate) fn record_failed_compose(&mut self, now: Duration, admission: Admission, was_sent: bool) {
        if was_sent && self.is_first_of_trial(admission) {
            self.early_failures += 1;
            // A single compose of many may be refused, or fail, on any day.
            if self.early_failures * 4 > self.composed.admitted {
                self.abandon(now, "the first composes failed".to_owned());
            }
        }
    }

    /// Records the end of a read that had begun; `outcome` if it succeeded.
    pub(crate) fn end_read(&mut self, now: Duration, admission: Admission, outcome: Option<ReadOutcome>) {
        self.lane(admission).admitted -= 1;
        let Some(ReadOutcome { samples, took }) = outcome else { return };

        if admission.is_composed {
            self.compose_latency.record(now, took);
            if self.is_first_of_trial(admission)
                && !is_worth_trying(self.estimates.documented_reads(), took, self.epoch.samples)
            {
                return self.abandon(now, "a compose takes too long for epochs as short as these".to_owned());
            }
        }
        let is_of_period = admission.period == self.period;
        self.lane(admission).has_succeeded |= is_of_period;

        if let Some(measurement) = &mut self.measurement {
            // Probes, and composes that began in another mode, are no direct reads.
            if self.mode != ReadMode::Direct || !admission.is_composed {
                measurement.samples += samples;
                measurement.reads += 1;
            }
        } else if self.is_measurable() {
            self.measurement = Some(Measurement { began: now, samples: 0, reads: 0, waited: self.waited });
        }
    }

    fn lane(&mut self, admission: Admission) -> &mut Lane {
        if admission.is_composed { &mut self.composed } else { &mut self.direct }
    }

    fn rate(&self, mode: ReadMode) -> Option<f64> {
        self.records[mode as usize].rate
    }

    /// Whether the read is a compose of a trial of which no compose has succeeded.
    fn is_first_of_trial(&self, admission: Admission) -> bool {
        admission.is_composed
            && self.mode != self.settled
            && !self.composed.has_succeeded
            && admission.period == self.period
    }

    /// Whether reads that end now show what the mode brings.
    fn is_measurable(&self) -> bool {
        !self.epoch.rest_is_direct
            && match self.mode {
                ReadMode::Direct => self.direct.has_succeeded && self.composed.admitted <= PROBES,
                ReadMode::Mixed | ReadMode::Composed => self.composed.has_succeeded,
            }
    }

    /// Evaluates the measurement once it is long enough.
    fn evaluate(&mut self, now: Duration, left: u64, service: &ServiceState) {
        if ![self.settled, self.mode].iter().all(|&mode| self.estimates.is_allowed(mode)) {
            self.settled = ReadMode::Direct;
            return self.switch(ReadMode::Direct, "composing would cost more than direct reads".to_owned());
        }
        let burst = self.compose_latency.get().filter(|_| self.mode != ReadMode::Direct).unwrap_or_default();
        let needed = MIN_MEASUREMENT.max(burst);
        let is_complete = |measurement: &Measurement| {
            measurement.reads >= MIN_READS && now.saturating_sub(measurement.began) >= needed
        };
        let Some(measurement) = self.measurement.filter(is_complete) else { return };
        self.measurement = Some(Measurement { began: now, samples: 0, reads: 0, waited: self.waited });

        let time = now.saturating_sub(measurement.began).as_secs_f64();
        let measured = measurement.samples as f64 / time;
        self.is_satisfied = self.waited.saturating_sub(measurement.waited).as_secs_f64() < SATISFIED_WAIT_SHARE * time;
        let rate = match self.rate(self.mode) {
            // What a satisfied loop takes is only a lower bound of what the mode could bring.
            Some(before) if self.is_satisfied => before.max(measured),
            _ => measured,
        };
        self.records[self.mode as usize].rate = Some(rate);

        if self.mode == self.settled {
            self.look_for_better(now, measured, left, service);
        } else {
            self.judge_trial(now, rate);
        }
    }

    /// Decides on a mode on trial that has brought `rate`.
    fn judge_trial(&mut self, now: Duration, rate: f64) {
        self.measurements += 1;
        if self.measurements < TRIAL_MEASUREMENTS {
            return;
        }
        let other = self.rate(self.settled).unwrap_or_default();
        let is_cheaper = self.is_cheaper(self.mode);
        let needed = if is_cheaper { other / MIN_GAIN } else { MIN_GAIN * other };
        let is_better = if self.is_satisfied { is_cheaper } else { rate > needed };

        let figures = format!("{} brought {rate:.0} samples/s, {} {other:.0}", self.mode, self.settled);
        if is_better {
            self.settle(now, if is_cheaper { figures + ", and costs less" } else { figures });
        } else {
            self.abandon(now, figures);
        }
    }

    /// Starts a trial of a mode next to the settled one if it may be better: faster than `rate`, which was measured
    /// last, and also cheaper if the training loop has all it wants at that rate.
    fn look_for_better(&mut self, now: Duration, rate: f64, left: u64, service: &ServiceState) {
        let Some(latency) = self.compose_latency.get() else { return };
        if self.settled == ReadMode::Direct && !is_worth_trying(rate, latency, left) {
            return;
        }
        let neighbours: &[ReadMode] = match self.settled {
            ReadMode::Direct | ReadMode::Composed => &[ReadMode::Mixed],
            ReadMode::Mixed => &[ReadMode::Composed, ReadMode::Direct],
        };
        for &mode in neighbours {
            let ModeRecord { rate: known, retry_at, .. } = self.records[mode as usize];
            let expected = known.unwrap_or_else(|| self.estimates.predict(mode, rate, latency, service));
            let is_faster = expected > MIN_GAIN * rate;
            // A known mode was worse, and may have become better.
            let is_promising =
                if self.is_satisfied { self.is_cheaper(mode) && is_faster } else { known.is_some() || is_faster };
            if self.estimates.is_allowed(mode) && is_promising && now >= retry_at {
                let promise = if self.is_satisfied { "cost less".into() } else { format!("bring {expected:.0}") };
                let reason = format!("on trial: {} brings {rate:.0} samples/s, this may {promise}", self.settled);
                return self.switch(mode, reason);
            }
        }
    }

    /// Whether to compose a group only to measure how long that takes; never the first group, which the training loop
    /// waits for.
    fn should_probe(&self, left: u64) -> bool {
        self.compose_latency.get().is_none()
            && self.probes < PROBES
            && self.epoch.admitted > 0
            && left >= MIN_SAMPLES_LEFT_TO_PROBE
            && (self.estimates.compose_gain() > MIN_GAIN || (self.is_satisfied && self.estimates.composing_saves()))
            && self.estimates.is_allowed(ReadMode::Mixed)
    }

    /// Whether to skip the probes and start in mixed mode, because documented rates and prices make composing so likely
    /// to be better. Direct reads continue beside the composes. This is tried once an epoch (`head` is set then), and
    /// not for the first group, which the training loop waits for.
    fn should_begin_composed(&self, left: u64, service: &ServiceState) -> bool {
        let documented = self.estimates.documented_reads();
        self.mode == ReadMode::Direct
            && self.compose_latency.get().is_none()
            && self.probes == 0
            && self.epoch.head == 0
            && self.epoch.admitted > 0
            && service.is_composing_proven
            && self.estimates.composing_saves()
            && self.estimates.compose_gain() > MIN_UNMEASURED_GAIN
            && self.estimates.composes_per_second(service) * self.estimates.samples_in_group()
                > MIN_UNMEASURED_GAIN * documented
            && is_worth_trying(documented, DOCUMENTED_COMPOSE, left)
    }

    /// Samples that direct reads bring while one group is composed: three quarters of their rate, since both share a
    /// processor.
    fn reads_meanwhile(&self) -> u64 {
        let rate = self.rate(ReadMode::Direct).unwrap_or(self.estimates.documented_reads());
        (0.75 * rate * self.compose_latency.get().unwrap_or(DOCUMENTED_COMPOSE).as_secs_f64()) as u64
    }

    /// Whether a mode costs less than the settled one: it composes more and composing saves, or it composes less and
    /// composing costs extra.
    fn is_cheaper(&self, mode: ReadMode) -> bool {
        (mode as usize > self.settled as usize) == self.estimates.composing_saves()
    }

    fn start_period(&mut self) {
        self.period += 1;
        (self.measurement, self.early_failures) = (None, 0);
        (self.direct.has_succeeded, self.composed.has_succeeded) = (false, false);
    }

    fn switch(&mut self, mode: ReadMode, reason: String) {
        tracing::info!(from = %self.mode, to = %mode, reason, "reading small objects in another mode");
        (self.mode, self.reason) = (mode, Some(reason));
        // An epoch that ends keeps the measurements of its trial, or trials in short epochs would never end.
        self.measurements = 0;
        if mode != self.settled {
            self.records[mode as usize].rate = None;
        }
        self.start_period();
    }

    /// Settles on the mode on trial.
    fn settle(&mut self, now: Duration, reason: String) {
        tracing::info!(mode = %self.mode, reason, "settled on a mode of reading small objects");
        let before = &mut self.records[self.settled as usize];
        (before.retry_at, before.failed_trials) = (now + RETRIAL_INTERVAL, 0);
        self.records[self.mode as usize].failed_trials = 0;
        (self.settled, self.reason) = (self.mode, Some(reason));
    }

    /// Ends the trial of a mode that was no better.
    fn abandon(&mut self, now: Duration, reason: String) {
        let tried = &mut self.records[self.mode as usize];
        tried.retry_at = now + RETRIAL_INTERVAL * (1 << tried.failed_trials);
        tried.failed_trials = (tried.failed_trials + 1).min(5);
        self.switch(self.settled, reason);
    }
}

#[cfg(test)]
mod tests;
