//! What the chooser is told, and what composing promises by that: by sizes, prices, and the call rates that are
//! documented or learned.

use std::time::Duration;

use super::bucket_gates::{CallCaps, Ceilings, DOCUMENTED_COMPOSE, DOCUMENTED_READS, DOCUMENTED_WRITES};
use super::gate::CALL_BYTES;
use super::read_mode::ReadMode;
use crate::store::MAX_SOURCES;

/// Composes that may wait for their calls while few are in flight: enough that none of the bucket's rate is left
/// unused.
pub(super) const MAX_WAITING_COMPOSES: usize = 16;

/// US dollars for reading objects, besides the retrieval of their bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadPrices {
    /// Reading one object directly.
    pub(crate) direct: f64,
    /// Composing objects and reading the result once.
    pub(crate) composed: f64,
    /// Each byte of a composed object: its storage until soft delete removes it, and its replication.
    pub(crate) composed_byte: f64,
}

/// What a choice depends on besides measurements.
#[derive(Clone, Debug)]
pub(crate) struct ChooserConfig {
    /// The largest composed object in bytes; 0 if no object may be composed.
    pub(crate) max_composed_bytes: u64,
    /// Bytes that may be held, from before a compose until the delivery.
    pub(crate) budget: u64,
    /// Samples that may be ahead of the training loop.
    pub(crate) max_ahead: u64,
    /// Objects of a sample, each of which is a call if the sample is read directly.
    pub(crate) objects_per_sample: u32,
    /// This process's share of the bucket's documented rates; 1 if no other process shares the bucket.
    pub(crate) bucket_share: f64,
    /// The user's limits on the calls of this process.
    pub(crate) caps: CallCaps,
    pub(crate) prices: ReadPrices,
    /// Whether a faster mode may cost more than direct reads.
    pub(crate) pays_for_speed: bool,
}

/// The size of a group that could be composed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupSize {
    pub(crate) samples: usize,
    /// Whether it is of several objects that may be composed.
    pub(crate) may_compose: bool,
    pub(crate) bytes: u64,
    /// Bytes that the group takes from the memory budget.
    pub(crate) held: u64,
}

/// What is known of the service when a group asks to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceState {
    pub(crate) ceilings: Ceilings,
    /// Whether composing and deleting are known to work. If not, only one compose runs at a time.
    pub(crate) is_composing_proven: bool,
}

/// The epochs next to one in a series of epochs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NeighbourEpochs {
    /// The epoch begins while another one is delivered.
    pub(crate) has_previous: bool,
    /// Another epoch begins while this one is delivered.
    pub(crate) has_next: bool,
}

/// Estimates for the groups of one loader, from its settings and the mean size of its samples.
#[derive(Clone, Debug)]
pub(super) struct ComposeEstimates {
    config: ChooserConfig,
    /// Sums over the samples that could be composed.
    samples: u64,
    bytes: u64,
    held: u64,
}

impl ComposeEstimates {
    pub(super) fn new(config: ChooserConfig) -> Self {
        Self { config, samples: 0, bytes: 0, held: 0 }
    }

    /// Whether objects may be composed at all.
    pub(super) fn may_compose(&self) -> bool {
        self.config.max_composed_bytes > 0
    }

    /// Adds the sizes of a group that could be composed.
    pub(super) fn add(&mut self, group: GroupSize) {
        self.samples += group.samples as u64;
        self.bytes += group.bytes;
        self.held += group.held;
        // Halved now and then, so that the means follow the data. A group that asks again counts again, which is
        // harmless.
        if self.samples > 1 << 16 {
            (self.samples, self.bytes, self.held) = (self.samples / 2, self.bytes / 2, self.held / 2);
        }
    }

    /// Samples read directly a second before anything is measured: this process's share of the documented reads, if the
    /// user allows as many.
    pub(super) fn documented_reads(&self) -> f64 {
        let cap = self.config.caps.reads_per_second.unwrap_or(f64::INFINITY);
        (DOCUMENTED_READS * self.config.bucket_share).min(cap) / self.objects()
    }

    /// Composes a second that the service takes of this process, as far as is known, and that the user allows. Each
    /// needs a deletion, too.
    pub(super) fn composes_per_second(&self, service: &ServiceState) -> f64 {
        let documented = DOCUMENTED_WRITES * self.config.bucket_share;
        let cap = self.config.caps.writes_per_second.unwrap_or(f64::INFINITY);
        service.ceilings.writes.per_second.unwrap_or(documented).min(cap) / 2.0
    }

    /// Composes that may wait for their calls: at a low rate no more than begin while one is under way, since direct
    /// reads come sooner than others would. While many are in flight it is more, because these end in bursts.
    pub(super) fn max_waiting_composes(&self, service: &ServiceState) -> usize {
        let begin_meanwhile = self.composes_per_second(service) * DOCUMENTED_COMPOSE.as_secs_f64();
        MAX_WAITING_COMPOSES.min(begin_meanwhile.ceil() as usize) + service.ceilings.writes.in_flight / 8
    }

    /// Factor in samples that the same processor time brings when they are composed; hardly above 1 for objects above
    /// some 400 KiB.
    pub(super) fn compose_gain(&self) -> f64 {
        let (call, size) = (CALL_BYTES as f64, self.mean_bytes());
        (call * self.objects() + size) / (call / self.samples_in_group() + size)
    }

    /// Samples that can be under way and ahead of the training loop.
    pub(super) fn samples_held(&self) -> f64 {
        (self.config.budget as f64 / self.mean_held()).min(self.config.max_ahead as f64)
    }

    /// Samples in a composed group.
    pub(super) fn samples_in_group(&self) -> f64 {
        let most = (MAX_SOURCES as f64 / self.objects()).floor().max(1.0);
        (self.config.max_composed_bytes as f64 / self.mean_bytes()).floor().clamp(1.0, most)
    }

    fn objects(&self) -> f64 {
        f64::from(self.config.objects_per_sample)
    }

    /// Samples a second that `mode` could bring, where the mode that composes one step less brings `rate`. The estimate
    /// is rather too high than too low, since a trial decides.
    pub(super) fn predict(&self, mode: ReadMode, rate: f64, latency: Duration, service: &ServiceState) -> f64 {
        // Where no write was refused and the user set no cap, there may be no limit.
        let is_limited = service.ceilings.writes.per_second.is_some() || self.config.caps.writes_per_second.is_some();
        let composed =
            if is_limited { self.composes_per_second(service) * self.samples_in_group() } else { f64::INFINITY };
        let direct = if mode == ReadMode::Composed { 0.0 } else { rate };
        // A sample is held from before its compose until its delivery.
        (direct + composed).min(self.samples_held() / latency.as_secs_f64().max(0.001))
    }

    /// Whether composed reads cost less than direct ones.
    pub(super) fn composing_saves(&self) -> bool {
        let ReadPrices { direct, composed, composed_byte } = self.config.prices;
        composed / self.samples_in_group() + composed_byte * self.mean_bytes() < direct * self.objects()
    }

    pub(super) fn is_allowed(&self, mode: ReadMode) -> bool {
        mode == ReadMode::Direct || (self.may_compose() && (self.config.pays_for_speed || self.composing_saves()))
    }

    fn mean_bytes(&self) -> f64 {
        (self.bytes as f64 / self.samples.max(1) as f64).max(1.0)
    }

    fn mean_held(&self) -> f64 {
        (self.held as f64 / self.samples.max(1) as f64).max(1.0)
    }
}

/// Whether samples composed in a trial arrive long before the epoch ends.
pub(super) fn is_worth_trying(rate: f64, latency: Duration, left: u64) -> bool {
    left as f64 >= 2.0 * rate * latency.as_secs_f64()
}
