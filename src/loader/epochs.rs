//! Epochs that follow each other on one thread and within one memory budget, each read ahead while the one before is
//! still being delivered.
//!
//! The thread plans one epoch after the other, so that bytes are taken in the order of delivery across all of them: what
//! is held is of batches that come earlier, and those need no more bytes. That is why the batches of an epoch must be let
//! go of before those of the next are asked for: nothing else would give their bytes back.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::watch;

use super::batches::{Batches, ended_early, of_manifest};
use super::cost::EpochSpending;
use crate::budget::Gauge;
use crate::collate::Collate;
use crate::decode::Decode;
use crate::engine::arrivals::Arrivals;
use crate::engine::loss::LossTotals;
use crate::engine::pipeline::{Engine, EpochCursor, Ticket};
use crate::engine::pool::DecodeJob;
use crate::engine::shutdown::{EpochShutdown, LiveEpochs};
use crate::engine::wait_report::{PlannerStatus, WaitWatcher};
use crate::observe::audit;
use crate::sample::{DeliveredBatches, LastBatch, RemainingPositions, Sampling, Sharding, State};
use crate::{Error, ErrorKind, Result, Stage};

/// How often the thread looks whether its loader is closed while nobody asks for the next epoch.
const LOOK: Duration = Duration::from_millis(20);

/// Begins epochs that share one memory budget.
pub(crate) struct EpochSeries<D: Decode, C: Collate<D::Item>> {
    /// Of all of them; see [`Engine::for_epochs`].
    pub(crate) engine: Engine<D, C>,
    pub(crate) live: Arc<LiveEpochs>,
    pub(crate) held: Gauge,
    pub(crate) sharding: Sharding,
    pub(crate) sampling: Arc<Sampling>,
    pub(crate) global_batch_size: Option<usize>,
    /// Batches ahead of the training loop.
    pub(crate) ahead: usize,
    pub(crate) bound: Duration,
    /// Whether batches come as they are done.
    pub(crate) unordered: bool,
    pub(crate) audit: Option<Arc<audit::AuditWriter>>,
    /// Where to go on.
    pub(crate) resumed: Option<State>,
    /// An epoch of which only so many batches are wanted.
    pub(crate) last: Option<(u64, u64)>,
}

/// An epoch that is to be planned.
pub(crate) struct StartedEpoch<D: Decode, C: Collate<D::Item>> {
    pub(crate) ending: Arc<EpochShutdown>,
    engine: Arc<Engine<D, C>>,
    course: EpochCursor,
    tickets: Sender<Ticket<C::Output>>,
    word: watch::Receiver<bool>,
    standing: Arc<PlannerStatus>,
    bell: Option<Sender<u64>>,
    turn: watch::Receiver<u64>,
    bound: Duration,
}

/// Its batches, and what has to run for them to come.
pub(crate) type Epoch<D, C> = (Batches<<C as Collate<<D as Decode>::Item>>::Output>, StartedEpoch<D, C>);

impl<D: Decode, C: Collate<D::Item>> StartedEpoch<D, C> {
    /// Plans it and begins its reads, whose groups are numbered on from `number`. Returns the last number. Blocks.
    pub(crate) fn run(self, number: u64) -> u64 {
        let Self { engine, course, tickets, word, standing, bell, turn, bound, .. } = self;
        engine.run(course, &tickets, &word, (&standing, bound), (bell.as_ref(), turn), number)
    }
}

impl<D: Decode, C: Collate<D::Item>> EpochSeries<D, C> {
    /// Where an epoch begins, but for the digest of the manifest.
    pub(crate) fn state(&self, epoch: u64, resumed: Option<&State>) -> State {
        State {
            version: State::VERSION,
            manifest: String::new(),
            seed: None,
            window: None,
            sampler: Some(self.sampling.identity().to_owned()),
            global_batch_size: self.global_batch_size,
            pad_last: (self.sharding.last_batch() == LastBatch::Pad).then_some(true),
            epoch,
            position: resumed.map_or(0, |state| state.position),
            beyond: resumed.and_then(|state| state.beyond.clone()),
            batch_size: self.sharding.batch_size() as usize,
            drop_last: self.sharding.last_batch() == LastBatch::Drop,
        }
    }

    /// The batches of an epoch, which may be begun `ahead` of the end of another, or `followed` by one that is, and what has to run
    /// for them to come.
    ///
    /// # Errors
    /// A state that can't be.
    pub(crate) fn begin(&self, epoch: u64, (ahead, followed): (bool, bool)) -> Result<Epoch<D, C>> {
        let state = self.state(epoch, self.resumed.as_ref().filter(|state| state.epoch == epoch));
        let wanted = self.last.filter(|(last, _)| *last == epoch).map_or(u64::MAX, |(_, batches)| batches);
        let delivered = DeliveredBatches::from(&state, self.unordered, &self.sharding)?;
        let course = EpochCursor {
            walk: self.sampling.walk(epoch),
            spans: self.sharding.spans(state.position).take(wanted),
            neighbours: (ahead, followed),
            world_size: self.sharding.world_size(),
            rest: RemainingPositions::of(&state)?,
            delivered: delivered.clone(),
            next: (0, state.position),
        };
        let (bell, rung) = self.unordered.then(crossbeam_channel::unbounded).unzip();
        let (tickets, receiver) = crossbeam_channel::bounded(self.ahead);
        let engine = Arc::new(self.engine.for_epoch());
        let (standing, manifest) = (PlannerStatus::new(), Arc::clone(&engine.manifest));
        let watch = WaitWatcher {
            standing: Arc::clone(&standing),
            bound: self.bound,
            held: self.held.clone(),
            budget: engine.memory_budget,
            throttles: Arc::clone(engine.fetcher.throttles()),
            manifest: Arc::clone(&manifest),
            epoch,
        };
        let (waits, turn) = watch::channel(0);
        let arrivals = Arrivals::new(receiver, Arc::clone(&standing), waits, rung);
        let (ending, word) = EpochShutdown::new(engine.fetcher.run());
        if let Some(gate) = &engine.gate {
            // Those that use it keep it: this must not keep the decode threads alive.
            let gate = Arc::downgrade(gate);
            ending.on_end(move || _ = gate.upgrade().map(|gate| gate.release_cancelled()));
        }
        self.live.add(&ending);
        let jobs = engine.jobs.clone();
        let discard = Box::new(move |arrivals| {
            // Where the threads have ended it comes back, and is dropped here.
            let _ = jobs.send(DecodeJob::Discard(arrivals));
        });
        let spent = EpochSpending { clients: engine.fetcher.clients().clone(), prices: *engine.planner.prices() };
        let counts = (Arc::clone(&engine.groups), engine.auto.clone(), engine.kept.clone());
        let ends = (Arc::clone(&ending), discard as _);
        let audit = self.audit.as_ref().map(|log| {
            let (rank, world_size) = (self.sharding.rank(), self.sharding.world_size());
            let step = self.sharding.batch_count(state.position, 0);
            log.epoch(&manifest, (rank, world_size), step, of_manifest(&state, &manifest))
        });
        let losses = (LossTotals::new(engine.on_error), audit);
        let mut batches = Batches::new((arrivals, watch), ends, counts, spent, manifest, (state, delivered), losses);
        if !ahead && engine.planner.may_compose() {
            batches.waits_for_composes();
        }
        Ok((batches, StartedEpoch { ending, engine, course, tickets, word, standing, bell, turn, bound: self.bound }))
    }

    /// Plans epochs one after the other, each when the one before is planned and `taken`, so that no more than one is ahead
    /// of who takes them. Blocks.
    fn run(&self, epochs: Range<u64>, coming: &Sender<Result<Batches<C::Output>>>, taken: &Receiver<()>) {
        let mut number = 0;
        let (first, end) = (epochs.start, epochs.end);
        for epoch in epochs {
            if epoch > first && !self.is_taken(taken) {
                return;
            }
            let followed = epoch + 1 < end;
            let begun = match self.begin(epoch, (epoch > first, followed)) {
                Ok((mut batches, begun)) => {
                    if followed {
                        batches.is_followed();
                    }
                    coming.send(Ok(batches)).is_ok().then_some(begun)
                }
                Err(error) => {
                    // Nobody wants it any more.
                    let _ = coming.send(Err(error));
                    None
                }
            };
            let Some(begun) = begun else { return };
            number = begun.run(number);
        }
    }

    /// Waits until an epoch is taken; false where nobody wants any more.
    fn is_taken(&self, taken: &Receiver<()>) -> bool {
        loop {
            match taken.recv_timeout(LOOK) {
                Ok(()) => return true,
                Err(RecvTimeoutError::Timeout) if !self.live.is_closing() => {}
                Err(_) => return false,
            }
        }
    }

    /// Starts the thread that does so.
    pub(crate) fn start(self, epochs: Range<u64>) -> Result<Epochs<C::Output>> {
        // A bounded one keeps what is in it when the receiver is dropped, and with it an epoch that nobody ends; this one
        // drops it. What bounds it is the word that an epoch was taken.
        let (sender, coming) = crossbeam_channel::unbounded();
        let (takes, taken) = crossbeam_channel::unbounded();
        let (live, ahead) = (Arc::clone(&self.live), epochs.clone());
        let thread = thread(move || self.run(ahead, &sender, &taken))?;
        live.has(thread);
        Ok(Epochs { coming, takes, live, left: epochs, last: None })
    }
}

/// Starts the thread that plans.
pub(crate) fn thread(run: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("dataflux-plan".into()).spawn(run).map_err(|error| {
        Error::new(ErrorKind::Io, "the thread of an epoch could not be started")
            .stage(Stage::Deliver)
            .hint("raise the limit on threads (ulimit -u)")
            .with_source(error)
    })
}

/// Epochs one after the other, each begun before the one before ends; see [`DataLoader::epochs`](crate::loader::DataLoader::epochs).
#[derive(Debug)]
pub struct Epochs<B> {
    coming: Receiver<Result<Batches<B>>>,
    /// Told of each that is taken.
    takes: Sender<()>,
    live: Arc<LiveEpochs>,
    left: Range<u64>,
    last: Option<Arc<EpochShutdown>>,
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
        let mut batches = match self.coming.recv() {
            Ok(Ok(batches)) => batches,
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
        self.last = Some(Arc::clone(batches.ending()));
        batches.is_taken(Instant::now());
        // The thread has ended: this was the last, or its error is told with the next.
        let _ = self.takes.send(());
        Some(Ok(batches))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left.end.saturating_sub(self.left.start));
        // An error in between counts as none of them.
        (left.unwrap_or(usize::MAX), None)
    }
}

impl<B> std::iter::FusedIterator for Epochs<B> {}
