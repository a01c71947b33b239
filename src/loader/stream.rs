//! The batches of an epoch for asynchronous code.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::Stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::running_epoch::{RunningEpoch, StreamedDelivery, ended_early, with_digest};
use super::stats::EpochStats;
use crate::Result;
use crate::audit::EpochAudit;
use crate::collate::Batch;
use crate::engine::epoch_events::BatchDelivery;
use crate::engine::sample_code::{BatchData, restore_type};
use crate::engine::shutdown::EpochShutdown;
use crate::engine::ticket::HeldBytes;
use crate::io::spawn_thread;
use crate::manifest::Manifest;
use crate::sample::State;

/// The batches of one epoch for asynchronous code, as [`Batches`](super::Batches).
#[derive(Debug)]
pub struct BatchStream<B> {
    steps: mpsc::Receiver<StreamStep>,
    manifest: Arc<Manifest>,
    /// The state after the last batch that this stream returned; the thread behind it is a batch or two ahead.
    state: State,
    stats: EpochStats,
    /// The stream writes the log itself, because batches are not delivered yet when the thread hands them over.
    audit: Option<EpochAudit>,
    shutdown: Arc<EpochShutdown>,
    is_over: bool,
    /// When the training loop asked for the batch that it waits for.
    asked: Option<Instant>,
    /// Bytes of the batch that the training loop has.
    in_hand: Vec<HeldBytes>,
    data: PhantomData<fn() -> B>,
}

/// A batch, with the state and the statistics after it.
#[derive(Debug)]
struct StreamStep {
    batch: Option<Result<Batch<BatchData>>>,
    /// What observers get of the batch once it is delivered.
    delivery: Option<BatchDelivery>,
    /// Whether all batches of the epoch are delivered with this one.
    is_complete: bool,
    held: Vec<HeldBytes>,
    state: State,
    stats: EpochStats,
}

impl<B> BatchStream<B> {
    /// Starts the thread that waits for batches.
    pub(crate) fn new(mut epoch: RunningEpoch, io: &Handle) -> Result<Self> {
        let (manifest, state) = (Arc::clone(&epoch.manifest), epoch.state());
        let (shutdown, audit) = (Arc::clone(&epoch.shutdown), epoch.audit.take());
        epoch.streamed = Some(StreamedDelivery::default());
        let (sender, steps) = mpsc::channel(1);
        let (mut cancel, io) = (shutdown.subscribe(), io.clone());
        let run = move || {
            loop {
                let batch = epoch.next_batch();
                let is_last = batch.is_none();
                let held = std::mem::take(&mut epoch.in_hand);
                let step = StreamStep {
                    batch,
                    delivery: epoch.streamed.as_mut().and_then(|streamed| streamed.0.take()),
                    is_complete: epoch.is_complete(),
                    held,
                    state: epoch.state(),
                    stats: epoch.stats(),
                };
                let is_sent = io.block_on(async {
                    tokio::select! {
                        biased;
                        sent = sender.send(step) => sent.is_ok(),
                        () = cancel.cancelled() => false,
                    }
                });
                if !is_sent || is_last {
                    return;
                }
            }
        };
        shutdown.track_thread(spawn_thread("dataflux-stream", "the thread of a stream", run)?);
        let (stats, in_hand) = (EpochStats::default(), Vec::new());
        Ok(Self {
            steps,
            manifest,
            state,
            stats,
            audit,
            shutdown,
            is_over: false,
            asked: None,
            in_hand,
            data: PhantomData,
        })
    }

    /// The number of the epoch; see [`Batches::epoch`](super::Batches::epoch).
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// The state after the batches that were delivered so far; see [`Batches::state`](super::Batches::state), which
    /// blocks in the same cases.
    pub fn state(&self) -> State {
        with_digest(&self.state, &self.manifest)
    }

    /// The statistics of the epoch so far; see [`Batches::stats`](super::Batches::stats).
    pub fn stats(&self) -> EpochStats {
        self.stats
    }

    /// Writes the audit log, reports the batch of this step to observers, and notes that it is delivered.
    fn deliver(&mut self, step: StreamStep) -> Option<Result<Batch<BatchData>>> {
        let waited = self.asked.take().map(|asked| asked.elapsed()).unwrap_or_default();
        if let (Some(audit), Some(Ok(batch))) = (&mut self.audit, &step.batch)
            && let Err(error) = audit.record(batch, step.state.position)
        {
            self.is_over = true;
            self.shutdown.end();
            return Some(Err(error));
        }
        if let Some(delivery) = step.delivery
            && !self.shutdown.events().deliver(delivery, waited)
        {
            self.is_over = true;
            return Some(Err(ended_early()));
        }
        if !matches!(step.batch, Some(Ok(_))) {
            self.is_over = true;
            self.shutdown.events().end(step.is_complete);
        }
        (self.in_hand, self.state, self.stats) = (step.held, step.state, step.stats);
        step.batch
    }
}

impl<B: 'static> Stream for BatchStream<B> {
    type Item = Result<Batch<B>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Before the wait, because the next batch may need these bytes.
        self.in_hand.clear();
        if self.is_over {
            return Poll::Ready(None);
        }
        self.asked.get_or_insert_with(Instant::now);
        self.steps.poll_recv(context).map(|step| {
            let Some(step) = step else {
                // The thread ended before the epoch did, because the loader was closed.
                self.is_over = true;
                return Some(Err(ended_early()));
            };
            Some(self.deliver(step)?.and_then(restore_type))
        })
    }
}

impl<B> Drop for BatchStream<B> {
    fn drop(&mut self) {
        self.shutdown.end();
    }
}
