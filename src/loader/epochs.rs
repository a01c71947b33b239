//! Epochs that follow each other on one thread and within one memory budget. Each is read ahead while the one before is
//! still being delivered.
//!
//! The thread plans one epoch after the other, so it takes bytes in the order of delivery across all of them: bytes are
//! held by earlier batches, and these need no more bytes. That is why the batches of an epoch must be released before
//! those of the next epoch are requested: nothing else would give their bytes back.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::watch;

use super::batches::Batches;
use super::cost::EpochSpending;
use super::running_epoch::{RunningEpoch, ended_early, with_digest};
use super::stats::{DeliveryTimes, EpochStats};
use super::transfer::Transfer;
use crate::audit::AuditWriter;
use crate::budget::Gauge;
use crate::engine::arrivals::Arrivals;
use crate::engine::cursor::EpochCursor;
use crate::engine::epoch_events::EpochEvents;
use crate::engine::epoch_planner::EpochPlanner;
use crate::engine::loss::LossTotals;
use crate::engine::pipeline::Engine;
use crate::engine::shutdown::{EpochShutdown, LiveEpochs};
use crate::engine::stages::PlannerStatus;
use crate::engine::wait_report::{WaitTotals, WaitWatcher};
use crate::io::spawn_thread;
use crate::pacing::{NeighbourEpochs, WaitReporter};
use crate::sample::{DeliveredBatches, LastBatch, RemainingPositions, Sampling, Sharding, State};
use crate::{Error, ErrorKind, Result, Stage};

/// How often the planning thread checks whether its loader is closed, while nobody asks for the next epoch.
const CLOSE_CHECK: Duration = Duration::from_millis(20);

/// Begins epochs that share one memory budget. A loader has one from which it makes the others; see
/// [`LoaderCore::new_series`](super::loader_core::LoaderCore::new_series).
#[derive(Clone)]
pub(crate) struct EpochSeries {
    pub(crate) engine: Engine,
    pub(crate) live: Arc<LiveEpochs>,
    pub(crate) held: Gauge,
    pub(crate) sharding: Sharding,
    pub(crate) sampling: Arc<Sampling>,
    pub(crate) global_batch_size: Option<usize>,
    /// Number of batches ahead of the training loop.
    pub(crate) prefetch: usize,
    pub(crate) stall_report: Duration,
    /// Whether batches are delivered as they are finished.
    pub(crate) unordered: bool,
    pub(crate) audit: Option<Arc<AuditWriter>>,
    /// The state to resume from.
    pub(crate) resumed: Option<State>,
    /// Moves batches to a device.
    pub(crate) transfer: Option<Arc<dyn Transfer>>,
    /// An epoch of which only some batches are wanted.
    pub(crate) last: Option<PartialEpoch>,
}

/// The first batches of an epoch, counted from where it begins or resumes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartialEpoch {
    pub(crate) epoch: u64,
    pub(crate) batches: u64,
}

impl EpochSeries {
    /// The state at the start of an epoch, without the digest of the manifest.
    pub(crate) fn state(&self, epoch: u64, resumed: Option<&State>) -> State {
        State {
            version: State::VERSION,
            manifest: String::new(),
            sampler: self.sampling.identity().to_owned(),
            global_batch_size: self.global_batch_size,
            pad_last: (self.sharding.last_batch() == LastBatch::Pad).then_some(true),
            epoch,
            position: resumed.map_or(0, |state| state.position),
            beyond: resumed.and_then(|state| state.beyond.clone()),
            batch_size: self.sharding.batch_size() as usize,
            drop_last: self.sharding.last_batch() == LastBatch::Drop,
        }
    }

    /// Begins an epoch. The planner has to run for its batches to come.
    ///
    /// # Errors
    /// The state to resume from is damaged.
    pub(crate) fn begin(&self, epoch: u64, neighbours: NeighbourEpochs) -> Result<(RunningEpoch, EpochPlanner)> {
        let state = self.state(epoch, self.resumed.as_ref().filter(|state| state.epoch == epoch));
        let wanted = self.last.filter(|last| last.epoch == epoch).map_or(u64::MAX, |last| last.batches);
        let delivered = DeliveredBatches::from(&state, self.unordered, &self.sharding)?;
        let first = self.sharding.batches_before(state.position);
        let cursor = EpochCursor {
            order: self.sampling.epoch_order(epoch),
            spans: self.sharding.spans(state.position).take(wanted),
            world_size: self.sharding.world_size(),
            remaining: RemainingPositions::of(&state)?,
            delivered: delivered.clone(),
            next_number: first,
            next_position: state.position,
        };

        let engine = Arc::new(self.engine.for_epoch());
        let bucket = &engine.bucket;
        let (status, manifest) = (PlannerStatus::new(), Arc::clone(&bucket.manifest));
        let events = bucket.fetcher.events().clone();
        let lost_before = events.lost();
        let (shutdown, cancel) = EpochShutdown::new(bucket.fetcher.run(), EpochEvents::begin(events.clone(), epoch));
        if let Some(gate) = &engine.gate {
            // The epochs that use the gate hold it. A strong reference here would keep the decode threads alive.
            let gate = Arc::downgrade(gate);
            shutdown.on_cancel(move || _ = gate.upgrade().map(|gate| gate.release_cancelled()));
        }
        self.live.add(&shutdown);

        let (bell, rung) = self.unordered.then(crossbeam_channel::unbounded).unzip();
        let (tickets, receiver) = crossbeam_channel::bounded(self.prefetch);
        let (await_sender, awaited) = watch::channel(0);
        let audit = self.audit.as_ref().map(|log| {
            let (rank, world_size) = (self.sharding.rank(), self.sharding.world_size());
            log.epoch(&manifest, rank, world_size, first, with_digest(&state, &manifest))
        });
        // Nothing is ahead of the loop, and some of its first batches may be composed.
        let expects_composes = !neighbours.has_previous && bucket.planner.may_compose();
        let gates = Arc::clone(bucket.fetcher.gates());
        let watcher = WaitWatcher {
            planner: Arc::clone(&status),
            stall_report: self.stall_report,
            held: self.held.clone(),
            memory_budget: engine.memory_budget,
            gates: Arc::clone(&gates),
            manifest: Arc::clone(&manifest),
            epoch,
        };
        let running = RunningEpoch {
            arrivals: Some(Arrivals::new(receiver, engine.jobs.clone(), watcher, await_sender, rung)),
            // Nothing is reported before the loop is known to wait: at the start few batches are ahead, which could
            // make up for calls that are refused.
            reporter: WaitReporter::new(bucket.auto.clone(), gates.add_loop(), expects_composes),
            shutdown,
            groups: Arc::clone(&bucket.groups),
            cache: engine.cache.clone(),
            spending: EpochSpending { clients: bucket.fetcher.clients().clone(), prices: *bucket.planner.prices() },
            manifest,
            state,
            sharding: self.sharding,
            sampling: Arc::clone(&self.sampling),
            delivered,
            losses: LossTotals::new(engine.on_error),
            audit,
            events,
            lost_before,
            handed_over: None,
            transfer: self.transfer.clone(),
            has_next: neighbours.has_next,
            waits: WaitTotals::default(),
            stats: EpochStats::default(),
            times: DeliveryTimes::new(Instant::now()),
            in_hand: Vec::new(),
        };
        let planner = EpochPlanner { engine, cursor, neighbours, tickets, cancel, status, bell, awaited };
        Ok((running, planner))
    }

    /// Plans epochs one after the other. Each is planned once the one before is planned and `taken`, so that no more
    /// than one is ahead of the training loop. Blocks.
    fn run(&self, epochs: Range<u64>, begun: &Sender<Result<RunningEpoch>>, taken: &Receiver<()>) {
        let mut last_number = 0;
        let (first, end) = (epochs.start, epochs.end);
        for epoch in epochs {
            if epoch > first && !self.is_taken(taken) {
                return;
            }
            let neighbours = NeighbourEpochs { has_previous: epoch > first, has_next: epoch + 1 < end };
            let planner = match self.begin(epoch, neighbours) {
                Ok((running, planner)) => begun.send(Ok(running)).is_ok().then_some(planner),
                Err(error) => {
                    // The receiver is gone if nobody wants another epoch.
                    let _ = begun.send(Err(error));
                    None
                }
            };
            let Some(planner) = planner else { return };
            last_number = planner.run(last_number);
        }
    }

    /// Waits until an epoch is taken. Returns false if nobody wants another one.
    fn is_taken(&self, taken: &Receiver<()>) -> bool {
        loop {
            match taken.recv_timeout(CLOSE_CHECK) {
                Ok(()) => return true,
                Err(RecvTimeoutError::Timeout) if !self.live.is_closing() => {}
                Err(_) => return false,
            }
        }
    }

    /// Starts the thread that plans these epochs.
    pub(crate) fn start<B>(self, epochs: Range<u64>) -> Result<Epochs<B>> {
        // A bounded channel keeps its content when the receiver is dropped, and with it an epoch that nobody would end.
        // An unbounded one drops it. The thread waits for each epoch to be taken, so the channel never has many.
        let (sender, begun) = crossbeam_channel::unbounded();
        let (taken, receiver) = crossbeam_channel::unbounded();
        let (live, ahead) = (Arc::clone(&self.live), epochs.clone());
        let thread = spawn_planner(move || self.run(ahead, &sender, &receiver))?;
        live.track_thread(thread);
        Ok(Epochs { begun, taken, live, left: epochs, last: None, data: PhantomData })
    }
}

/// Starts a planning thread.
pub(crate) fn spawn_planner(run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    spawn_thread("dataflux-plan", "the thread of an epoch", run)
}

/// Epochs one after the other, each begun before the one before ends; see
/// [`DataLoader::epochs`](crate::loader::DataLoader::epochs).
#[derive(Debug)]
pub struct Epochs<B> {
    begun: Receiver<Result<RunningEpoch>>,
    /// Receives a message for each epoch that is taken.
    taken: Sender<()>,
    live: Arc<LiveEpochs>,
    left: Range<u64>,
    last: Option<Arc<EpochShutdown>>,
    data: PhantomData<fn() -> B>,
}

impl<B> Iterator for Epochs<B> {
    type Item = Result<Batches<B>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        if self.last.as_ref().is_some_and(|last| !last.is_released()) {
            let before = self.left.start - 1;
            return Some(Err(Error::new(ErrorKind::Config, format!("epoch {before} is still under way"))
                .stage(Stage::Deliver)
                .hint("take all its batches, or drop them: both epochs share one memory budget")));
        }
        let mut epoch = match self.begun.recv() {
            Ok(Ok(epoch)) => epoch,
            ended => {
                self.left = 0..0;
                return Some(Err(match ended {
                    Ok(Err(error)) => error,
                    _ if self.live.is_closing() => ended_early(),
                    _ => Error::new(ErrorKind::Internal, "the thread that plans epochs ended before the last of them")
                        .stage(Stage::Deliver)
                        .hint("its panic message is on stderr: a decoder's item_bytes, or else please report it"),
                }));
            }
        };
        self.left.start += 1;
        self.last = Some(Arc::clone(&epoch.shutdown));
        epoch.times.started = Instant::now();
        // The thread has ended if this was the last epoch, or after an error, which comes next.
        let _ = self.taken.send(());
        Some(Batches::new(epoch))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left.end.saturating_sub(self.left.start));
        // An error ends the iterator early, without counting as one of these.
        (left.unwrap_or(usize::MAX), None)
    }
}

impl<B> std::iter::FusedIterator for Epochs<B> {}
