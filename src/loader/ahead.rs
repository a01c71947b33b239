//! A thread that waits for the batches of an epoch in place of the training loop, and is one batch ahead of it: for
//! asynchronous code, which must not block, and for batches that are moved to a device meanwhile.
//!
//! The consumer keeps the state, the audit log, the batch events and the delivery times, because only it knows when a
//! batch is delivered. The thread counts a wait only while the loop waits too ([`LastRequest`]). It has at most one
//! batch that the loop hasn't taken: it reserves the channel's only place before it asks for the next. It can't cause
//! a hang: a batch in the channel can always be taken, and asking for a batch gives back the bytes of the one before.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::running_epoch::{HandedOver, RunningEpoch, ended_early, with_digest};
use super::stats::{DeliveryTimes, EpochStats};
use crate::Result;
use crate::audit::EpochAudit;
use crate::collate::Batch;
use crate::engine::epoch_events::BatchDelivery;
use crate::engine::last_request::LastRequest;
use crate::engine::sample_code::BatchData;
use crate::engine::shutdown::{Closed, EpochShutdown, EpochSignal, close_epoch};
use crate::engine::ticket::HeldBytes;
use crate::io::{block_on, spawn_thread};
use crate::manifest::Manifest;
use crate::sample::State;

/// Delivers the batches of one epoch that a thread is ahead with.
#[derive(Debug)]
pub(super) struct AheadDelivery {
    /// What the thread has handed over. `None` once no batch is delivered any more.
    steps: Option<mpsc::Receiver<AheadStep>>,
    manifest: Arc<Manifest>,
    /// The state after the last batch that was delivered.
    state: State,
    /// The statistics after that batch. Their times are the thread's; [`stats`](Self::stats) replaces them.
    stats: EpochStats,
    times: DeliveryTimes,
    audit: Option<EpochAudit>,
    shutdown: Arc<EpochShutdown>,
    /// When the training loop asked for the batch that it waits for.
    asked_at: Option<Instant>,
    /// Shares the time of that request with the thread.
    last_request: Arc<LastRequest>,
    /// Bytes of the batch that the training loop has.
    in_hand: Vec<HeldBytes>,
}

/// A batch, with the state and the statistics after it.
#[derive(Debug)]
struct AheadStep {
    /// `None` at the end of the epoch.
    batch: Option<Result<Batch<BatchData>>>,
    /// What observers get of the batch once it is delivered.
    delivery: Option<BatchDelivery>,
    /// Whether all batches of the epoch are delivered with this one.
    is_complete: bool,
    held: Vec<HeldBytes>,
    state: State,
    stats: EpochStats,
    /// When the thread had the batch for the loop, or when the thread learned that the epoch is over. `None` if the
    /// epoch was over before.
    arrived_at: Option<Instant>,
}

/// Waits for the next batch, and moves it to the device if there is one.
fn next_step(epoch: &mut RunningEpoch) -> AheadStep {
    let Some(transfer) = epoch.transfer.clone() else {
        return next_on_host(epoch);
    };
    let (state, stats) = (epoch.state(), epoch.stats());
    let mut step = next_on_host(epoch);
    let began = Instant::now();
    step.batch = match step.batch {
        Some(Ok(batch)) => Some(transfer.transfer(batch)),
        ended => return AheadStep { batch: ended, ..step },
    };
    epoch.waits.waited_for.convert += epoch.waited_since(began, stats.batches);
    step.stats.waited_for = epoch.waits.waited_for;
    if let Some(Err(_)) = &step.batch {
        // The batch isn't delivered, so that state and counts stay those before it.
        epoch.cancel();
        let stats = EpochStats { waited_for: step.stats.waited_for, ..stats };
        return AheadStep { delivery: None, is_complete: false, held: Vec::new(), state, stats, ..step };
    }
    if !transfer.is_host() {
        step.held.clear();
    }
    step
}

/// Waits for the next batch.
fn next_on_host(epoch: &mut RunningEpoch) -> AheadStep {
    let batch = epoch.next_batch();
    AheadStep {
        batch,
        delivery: epoch.handed_over.as_mut().and_then(|handed_over| handed_over.delivery.take()),
        is_complete: epoch.is_complete(),
        held: std::mem::take(&mut epoch.in_hand),
        state: epoch.state(),
        stats: epoch.stats(),
        arrived_at: epoch.times.last(),
    }
}

/// Hands over the batches of an epoch, each as soon as the one before is taken.
fn run_ahead(mut epoch: RunningEpoch, steps: &mpsc::Sender<AheadStep>, mut cancel: EpochSignal) {
    loop {
        let place = block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                place = steps.reserve() => place.ok(),
            }
        });
        // Nobody wants another batch.
        let Some(place) = place else { return };
        let mut step = next_step(&mut epoch);
        let is_last = !matches!(step.batch, Some(Ok(_)));
        // The thread comes back from the end of an epoch only when temporary objects are deleted, which is no wait for
        // a batch.
        if step.batch.is_some() {
            step.arrived_at = Some(Instant::now());
        }
        place.send(step);
        if is_last {
            return;
        }
    }
}

impl AheadDelivery {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(mut epoch: RunningEpoch) -> Result<Self> {
        let (manifest, state) = (Arc::clone(&epoch.manifest), epoch.state());
        let (shutdown, audit) = (Arc::clone(&epoch.shutdown), epoch.audit.take());
        let (times, last_request) = (DeliveryTimes::new(epoch.times.started), Arc::<LastRequest>::default());
        epoch.handed_over = Some(HandedOver { delivery: None, last_request: Arc::clone(&last_request) });
        let (sender, steps) = mpsc::channel(1);
        let cancel = shutdown.subscribe();
        let thread = spawn_thread("dataflux-ahead", "the thread that is one batch ahead", move || {
            run_ahead(epoch, &sender, cancel);
        });
        let thread = thread.inspect_err(|_| {
            // The epoch is gone with the closure, and leaves both to whoever delivers its batches.
            shutdown.end();
            shutdown.release();
        })?;
        shutdown.track_thread(thread);
        Ok(Self {
            steps: Some(steps),
            manifest,
            state,
            stats: EpochStats::default(),
            times,
            audit,
            shutdown,
            asked_at: None,
            last_request,
            in_hand: Vec::new(),
        })
    }

    /// The state after the batches that were delivered so far, without the digest of the manifest.
    pub(super) fn plain_state(&self) -> &State {
        &self.state
    }

    /// The state after the batches that were delivered so far. Waits for the end of the listing.
    pub(super) fn state(&self) -> State {
        with_digest(&self.state, &self.manifest)
    }

    pub(super) fn stats(&self) -> EpochStats {
        self.times.complete(&self.stats)
    }

    /// Gives back the bytes of the batch that was delivered last.
    pub(super) fn release_batch(&mut self) {
        self.in_hand.clear();
    }

    /// Ends the epoch, and waits until nothing of it is left, or `within` is over.
    pub(super) fn close(self, within: Duration) -> Closed {
        let shutdown = Arc::clone(&self.shutdown);
        close_epoch(&shutdown, || drop(self), within)
    }

    /// Notes that no batch is delivered any more.
    fn set_over(&mut self) {
        // The thread may already have handed over another batch. Its bytes must be free before the next epoch begins,
        // though this value may live on.
        self.steps = None;
        self.shutdown.release();
    }

    /// Notes that the loop's wait is over, and returns how long it was.
    fn record_wait(&mut self, step: &AheadStep) -> Duration {
        let now = Instant::now();
        let asked_at = self.asked_at.take().unwrap_or(now);
        // Asynchronous code may look for the batch long after it arrived.
        let arrived_at = step.arrived_at.map_or(now, |arrived_at| arrived_at.max(asked_at));
        let waited = arrived_at - asked_at;
        self.times.record(if step.batch.is_some() { now } else { arrived_at }, waited);
        waited
    }

    /// Writes the audit log, reports the batch of this step to observers, and notes that it is delivered.
    fn deliver(&mut self, step: AheadStep) -> Option<Result<Batch<BatchData>>> {
        let waited = self.record_wait(&step);
        if let (Some(audit), Some(Ok(batch))) = (&mut self.audit, &step.batch)
            && let Err(error) = audit.record(batch, step.state.position)
        {
            self.set_over();
            self.shutdown.end();
            return Some(Err(error));
        }
        if let Some(delivery) = step.delivery
            && !self.shutdown.events().deliver(delivery, waited)
        {
            self.set_over();
            return Some(Err(ended_early()));
        }
        if !matches!(step.batch, Some(Ok(_))) {
            self.set_over();
            self.shutdown.events().end(step.is_complete);
        }
        (self.in_hand, self.state, self.stats) = (step.held, step.state, step.stats);
        step.batch
    }

    /// The next batch, once it is there; `None` at the end of the epoch, and after an error.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Batch<BatchData>>>> {
        // Before the wait, because the next batch may need these bytes.
        self.in_hand.clear();
        let Some(steps) = &mut self.steps else { return Poll::Ready(None) };
        if self.asked_at.is_none() {
            let now = Instant::now();
            self.last_request.record_request(self.stats.batches, now);
            self.asked_at = Some(now);
        }
        steps.poll_recv(context).map(|step| {
            let Some(step) = step else {
                // The thread ended before the epoch did, because the loader was closed.
                self.set_over();
                return Some(Err(ended_early()));
            };
            self.deliver(step)
        })
    }

    /// Waits for the next batch. Blocks.
    pub(super) fn next(&mut self) -> Option<Result<Batch<BatchData>>> {
        block_on(std::future::poll_fn(|context| self.poll_next(context)))
    }
}

impl Drop for AheadDelivery {
    fn drop(&mut self) {
        self.shutdown.end();
        self.shutdown.release();
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::collate::{TensorDevice, ToDevice};
    use crate::io::REFUSED_THREADS;
    use crate::loader::{DataLoader, DataLoaderBuilder, DatafluxDataset};
    use crate::observe::{Event, EventKind};
    use crate::plan::Strategy;
    use crate::read::RawSample;
    use crate::store::{BucketInfo, Client, Fault, FaultStore, MemoryStore, StoreCall};
    use crate::{Error, ErrorKind};

    const SAMPLES: usize = 64;

    struct Host;

    impl TensorDevice for Host {
        fn is_host(&self) -> bool {
            true
        }
    }

    #[derive(Debug)]
    struct Converted {
        samples: usize,
        at: Instant,
    }

    impl ToDevice<Host> for Vec<RawSample> {
        type Tensors = Converted;

        fn to_device(self, _: &Host, _: &Batch<()>) -> anyhow::Result<Converted> {
            Ok(Converted { samples: self.len(), at: Instant::now() })
        }
    }

    /// The delivery of epoch 0 of this loader, and its first step, once the second waits in the channel.
    fn delivery_and_first_step(loader: &DataLoader<crate::Raw, Converted>) -> (AheadDelivery, AheadStep) {
        let mut delivery = AheadDelivery::start(loader.begin(0).unwrap()).unwrap();
        delivery.asked_at = Some(Instant::now());
        let steps = delivery.steps.as_mut().unwrap();
        let first = block_on(steps.recv()).unwrap();
        until("the next batch is there", || steps.len() == 1);
        (delivery, first)
    }

    /// A bucket that is composed, with its faults, and a loader for it that moves batches to a device.
    fn bucket() -> (MemoryStore, FaultStore, DataLoaderBuilder<crate::Raw, Converted>) {
        let info = BucketInfo { retention: Some(Duration::ZERO), ..BucketInfo::default() };
        let store = MemoryStore::new().with_bucket_info("data", info);
        (0..SAMPLES).for_each(|index| _ = store.insert("data", &format!("p/{index:02}"), format!("{index}")));
        let faults = FaultStore::new(Arc::new(store.clone()));
        let dataset = DatafluxDataset::open_with(Client::new(Arc::new(faults.clone())), "gs://data/p/").unwrap();
        let builder = DataLoader::builder(dataset).batch_size(32).strategy(Strategy::compose()).device(Host);
        (store, faults, builder)
    }

    fn until(what: &str, is: impl Fn() -> bool) {
        for _ in 0..6_000 {
            if is() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("waited in vain until {what}");
    }

    fn check_refusal(error: &Error) {
        assert_eq!(error.kind(), ErrorKind::Io);
        let text = error.to_string();
        assert!(text.contains("the thread that is one batch ahead could not be started"), "{text}");
        assert!(text.contains("ulimit -u") && error.source().is_some(), "{text}");
    }

    #[test]
    fn nothing_is_left_of_an_epoch_whose_thread_is_refused() {
        let (store, faults, builder) = bucket();
        let (sender, ends) = crossbeam_channel::unbounded();
        let on_end = move |event: &Event| _ = sender.send(event.clone());
        let loader = builder.observe([EventKind::EpochEnded], on_end).build().unwrap();
        // Reads that bring nothing hold bytes and temporary objects.
        faults.fail_next(StoreCall::Get, Fault::Stall, 1_000);
        let mut epochs = loader.epochs(0..1).unwrap();
        until("the epoch holds temporary objects", || store.names("data").len() > SAMPLES && loader.bytes_held() > 0);

        REFUSED_THREADS.set(Some("dataflux-ahead"));
        check_refusal(&epochs.next().unwrap().unwrap_err());
        REFUSED_THREADS.set(None);
        until("the bytes are given back", || loader.bytes_held() == 0);
        until("the temporary objects are deleted", || store.names("data").len() == SAMPLES);
        // Before the loader is closed, which would end the epoch, too.
        let ended = ends.recv_timeout(Duration::from_secs(60)).expect("the epoch reports no end");
        assert!(matches!(ended, Event::EpochEnded { epoch: 0, batches: 0, is_complete: false, .. }), "{ended:?}");
        let closed = loader.close(Duration::from_secs(60));
        assert!(closed.is_clean() && ends.is_empty(), "{closed:?}");
    }

    /// The epoch would have been under way for ever, so that the one after it was refused.
    #[test]
    fn epochs_go_on_after_one_whose_thread_was_refused() {
        let (store, _, builder) = bucket();
        let loader = builder.build().unwrap();
        let mut epochs = loader.epochs(0..3).unwrap();
        REFUSED_THREADS.set(Some("dataflux-ahead"));
        check_refusal(&epochs.next().unwrap().unwrap_err());
        check_refusal(&loader.epoch(0).unwrap_err());
        check_refusal(&loader.stream(0).unwrap_err());
        REFUSED_THREADS.set(None);
        for epoch in 1..3 {
            let mut batches = epochs.next().unwrap().unwrap();
            assert_eq!(batches.epoch(), epoch);
            assert_eq!(batches.by_ref().map(|batch| batch.unwrap().samples).sum::<usize>(), SAMPLES);
        }
        until("the bytes are given back", || loader.bytes_held() == 0);
        until("the temporary objects are deleted", || store.names("data").len() == SAMPLES);
    }

    /// The next batch kept its bytes as long as the failed epoch was in scope, and the next epoch could wait for them.
    #[test]
    fn an_epoch_whose_log_failed_holds_no_bytes() {
        let log = std::env::temp_dir().join(format!("dataflux-ahead-log-{}", std::process::id()));
        let (_, _, builder) = bucket();
        let loader = builder.audit(&log).build().unwrap();
        let (mut delivery, first) = delivery_and_first_step(&loader);
        std::fs::write(&log, "a line of another writer\n").unwrap();
        let error = delivery.deliver(first).unwrap().unwrap_err();
        assert!(error.to_string().contains("somebody else writes to this audit log"), "{error}");
        assert!(delivery.next().is_none(), "no batch follows an error");
        until("the bytes are given back", || loader.bytes_held() == 0);
        std::fs::remove_file(&log).unwrap();
    }

    /// If asynchronous code did something else before it looked again, that counted as a wait.
    #[test]
    fn a_wait_ends_when_the_batch_arrives() {
        let (_, _, builder) = bucket();
        let loader = builder.build().unwrap();
        let (mut delivery, mut step) = delivery_and_first_step(&loader);
        let now = Instant::now();
        let converted_at = step.batch.as_ref().unwrap().as_ref().unwrap().downcast_ref::<Converted>().unwrap().at;
        assert!((converted_at..=now).contains(&step.arrived_at.unwrap()));
        let before = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        (delivery.asked_at, step.arrived_at) = (Some(before(10)), Some(before(9)));
        assert_eq!(delivery.record_wait(&step), Duration::from_secs(1));
        (delivery.asked_at, step.arrived_at) = (Some(before(9)), Some(before(10)));
        assert_eq!(delivery.record_wait(&step), Duration::ZERO, "it was there before");
    }
}
