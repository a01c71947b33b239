//! What the engine asks of a place that samples are read from: the [`bucket`](super::bucket), the cache in front of it
//! ([`cache_source`](super::cache_source)), or files of this machine ([`local_source`](super::local_source)).

use std::cell::Cell;
use std::sync::Arc;

use async_trait::async_trait;

use super::cache_session::{CacheSession, ReadClaim};
use super::shutdown::EpochSignal;
use super::stages::{PlannerStatus, WindowStages};
use super::window::BatchWindow;
use crate::Result;
use crate::budget::Permit;
use crate::io::Io;
use crate::plan::Group;
use crate::read::RawSample;
use crate::sample::SampleId;

/// A place that samples are read from.
#[async_trait]
pub(crate) trait SampleSource: Send + Sync {
    /// Cuts the samples of a window into groups; the index of an id is its slot. `fits` returns whether the memory
    /// budget can ever hold these groups together; if it can't, a source that can make smaller groups makes them.
    ///
    /// # Errors
    /// The manifest no longer holds what it did.
    fn plan(self: Arc<Self>, ids: &[SampleId], fits: &dyn Fn(&[Group]) -> bool) -> Result<Box<dyn PlannedReads>>;

    /// Reads the one sample of a group. Its calls wait by `read_number`; see [`ReadNumbers`]. It must not wait until
    /// another loader or process has read the sample: the training loop may already wait for this one.
    ///
    /// # Errors
    /// The sample can't be read.
    async fn read_one(self: Arc<Self>, group: Group, read_number: u64, stages: &WindowStages) -> Result<RawSample>;
}

/// The reads of a window, as a source planned them.
pub(crate) trait PlannedReads {
    /// The groups in the order in which their reads are to be started.
    fn groups(&self) -> &[Group];

    /// Starts to read the group with this index, whose bytes are held. Waits until the group may be read, but not for
    /// its samples. `None` if the epoch is cancelled. Each sample of the group either comes to `delivery` or is
    /// reported to it as lost, unless the epoch is cancelled meanwhile.
    fn start(&mut self, index: usize, delivery: Delivery, start: &ReadStart<'_>) -> Option<()>;
}

/// What the planning thread gives to a read that it starts.
pub(crate) struct ReadStart<'a> {
    pub(crate) numbers: &'a ReadNumbers,
    pub(crate) planner: &'a PlannerStatus,
    /// Bytes that the group holds of the memory budget.
    pub(crate) held_bytes: u64,
    /// Most samples that this rank has behind this group; very many while the listing is under way.
    pub(crate) samples_left: u64,
}

/// Numbers the reads of an epoch in the order of delivery. Of the calls that wait, the one with the smallest number
/// goes first.
pub(crate) struct ReadNumbers(Cell<u64>);

impl ReadNumbers {
    /// Numbers that follow `last`.
    pub(crate) fn after(last: u64) -> Self {
        Self(Cell::new(last))
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.set(self.last() + 1);
        self.last()
    }

    pub(crate) fn last(&self) -> u64 {
        self.0.get()
    }
}

/// Where the samples of a group go.
#[derive(Clone)]
pub(crate) struct Delivery {
    pub(crate) window: Arc<BatchWindow>,
    /// Bytes of the memory budget that are given back once the group is decoded.
    pub(crate) until_decoded: Option<Arc<Permit>>,
    pub(crate) cancel: EpochSignal,
    /// The cache that keeps a copy of what is read from elsewhere.
    pub(crate) cache: Option<CacheSession>,
}

impl Delivery {
    pub(crate) fn stages(&self) -> &WindowStages {
        &self.window.stages
    }

    /// Delivers samples that were read, each with its slot. The claims on them are given up once the cache has the
    /// samples, before they are decoded: others may wait for them, and a light decoder runs on this thread.
    pub(crate) fn deliver(&self, samples: Vec<(usize, RawSample)>, claims: impl IntoIterator<Item = ReadClaim>) {
        if let Some(cache) = &self.cache {
            for (_, sample) in &samples {
                cache.put(sample);
            }
        }
        claims.into_iter().for_each(drop);
        self.deliver_cached(samples);
    }

    /// Delivers samples that came from the cache.
    pub(crate) fn deliver_cached(&self, samples: Vec<(usize, RawSample)>) {
        self.window.decode(samples, self.until_decoded.as_ref());
    }

    /// Delivers a sample, or reports that it can't be read. Returns whether its batch fails by that.
    pub(crate) fn deliver_outcome(
        &self,
        slot: usize,
        id: SampleId,
        sample: Result<RawSample>,
        claim: Option<ReadClaim>,
    ) -> bool {
        match sample {
            Ok(sample) => {
                self.deliver(vec![(slot, sample)], claim);
                false
            }
            Err(error) => {
                drop(claim);
                self.window.batch(slot).lose(slot, id, error)
            }
        }
    }
}

/// Runs a read on the network threads until it ends or the epoch is cancelled.
pub(crate) fn spawn_read(io: &Io, mut cancel: EpochSignal, read: impl Future<Output = ()> + Send + 'static) {
    let task = cancel.track_task();
    io.handle().spawn(async move {
        let _task = task;
        tokio::select! {
            () = read => {}
            () = cancel.cancelled() => {}
        }
    });
}
