//! A loader, whatever the types of its decoder and its batches: what its epochs share, and the checks that make it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::cost::{CostEstimator, EpochSpending};
use super::dataset::DatasetSource;
use super::epochs::EpochSeries;
use super::notices::warn_of_lacks;
use super::settings::Settings;
use crate::audit::AuditWriter;
use crate::budget::{Budget, Gauge};
use crate::engine::Closed;
use crate::engine::assembly::DecodeJob;
use crate::engine::bucket::BucketSource;
use crate::engine::cache_session::CacheSession;
use crate::engine::decode_pool::{self, DecodePool};
use crate::engine::pipeline::Engine;
use crate::engine::sample_code::SampleCode;
use crate::engine::shutdown::ShutdownWait;
use crate::engine::wait_report::STALL_REPORT;
use crate::io::Io;
use crate::manifest::KnownSamples;
use crate::metrics::Counts;
use crate::observe::{Events, ObserverThread, Subscription};
use crate::pacing::{BucketGates, CallCaps, ChooserConfig, SharedChooser};
use crate::plan::{Affordable, Bill, Layout, MAX_COMPOSED_BYTES, Planner, PriceTable, Prices, Strategy, never_compose};
use crate::read::Fetcher;
use crate::sample::{DeliveredBatches, LastBatch, Sampling, Sequential, Sharding};
use crate::store::StorageClass;
use crate::{Error, ErrorKind, Result, Stage};

/// Default of the longest wait for bytes. The service answers within tenths of a second. Within 10 s a lost packet is
/// sent again six times, so a connection that is still silent is dead, and a batch waits for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest read buffer of a connection, in bytes. The HTTP client lets it grow to about this size with the bodies
/// that it reads, and has no option to bound it.
const MAX_READ_BUFFER: u64 = 400 << 10;

/// The least memory of a connection in bytes: a buffer for the head of an answer, and the connection's own state.
const CONNECTION_BYTES: u64 = 16 << 10;

/// Reads at once that any budget allows: fewer would make a small budget a slow loader.
const MIN_READS_AT_ONCE: usize = 32;

/// The buffers of connections may take the memory budget divided by this. The budget itself doesn't count them.
const BUFFER_PARTS: u64 = 8;

/// Permissions that composing needs, beside those that reading needs. The last one is for renewing the lease of a
/// temporary object, without which leases are longer.
const COMPOSE_PERMISSIONS: [&str; 3] = ["storage.objects.create", "storage.objects.delete", "storage.objects.update"];

/// What the epochs of a loader share.
pub(crate) struct LoaderCore {
    /// From which each series of epochs is made.
    pub(crate) series: EpochSeries,
    decode_threads: Vec<JoinHandle<()>>,
    pub(crate) settings: Settings,
    observers: Vec<ObserverThread>,
    /// The first epoch with anything left to deliver.
    pub(crate) first_epoch: u64,
}

/// Most connections whose read buffers stay small beside `budget` bytes, for objects of `mean_size` bytes. At the
/// default budget these are fewer than the gates allow anyway only for objects of about 50 KiB or more, and a machine's
/// network is busy with fewer of these.
fn max_connections(budget: u64, mean_size: u64) -> usize {
    let each = mean_size.saturating_mul(2).saturating_add(CONNECTION_BYTES).min(MAX_READ_BUFFER);
    usize::try_from(budget / BUFFER_PARTS / each).unwrap_or(usize::MAX).max(MIN_READS_AT_ONCE)
}

/// The sampling of the epochs, checked against the data as far as these are listed.
fn check_sampling(settings: &mut Settings, source: &DatasetSource, sharding: &Sharding) -> Result<Arc<Sampling>> {
    let manifest = &source.manifest;
    if let Some(error) = manifest.failure() {
        return Err(error);
    }
    let sampler = settings.take_sampler()?.unwrap_or_else(|| Box::new(Sequential));
    let sampling = Sampling::new(sampler, Arc::clone(manifest))?;
    sampling.check()?;
    settings.check_digest(source, sharding)?;
    if let KnownSamples::All(_) = manifest.known() {
        let samples = sampling.orders()?.len();
        sharding.check_samples(samples)?;
        if samples < sharding.world_size() && sharding.last_batch() != LastBatch::Pad {
            tracing::warn!(
                prefix = %manifest.prefix(),
                samples,
                ranks = sharding.world_size(),
                "there are fewer samples than ranks, so some ranks get empty batches; train on fewer ranks, or use pad_last"
            );
        }
    }
    Ok(sampling)
}

/// Starts the threads of the loader's observers, and adds these to the `observers` of its client.
fn start_observers(observers: &Events, subscriptions: Vec<Subscription>) -> Result<(Events, Vec<ObserverThread>)> {
    let (mut events, mut threads) = (observers.clone(), Vec::new());
    for subscription in subscriptions {
        let thread;
        (events, thread) = events.subscribe(subscription)?;
        threads.push(thread);
    }
    Ok((events, threads))
}

/// The reader of a data set, with the threads and gates that it uses. Warns of what the data set lacks. If the
/// strategy, the store and the bucket allow composing, asks for the permissions, and turns composing off if one is
/// missing.
fn make_fetcher(
    settings: &Settings,
    source: &DatasetSource,
    sharding: &Sharding,
    events: Events,
    reading: u64,
) -> Result<(Arc<Io>, Fetcher)> {
    let manifest = &source.manifest;
    let (io, client) = match settings.io_threads {
        None => (Io::shared()?, source.client.clone()),
        Some(threads) => (Io::new(threads)?, source.client.reconnected()?),
    };
    let client = client.with_events(events).with_read_stall(settings.limits.stall_timeout, STALL_TIMEOUT);
    let client = match settings.limits.hedge {
        Some(hedge) => client.with_hedge(hedge),
        None => client,
    };

    let caps = settings.limits.caps;
    let gates = if caps == CallCaps::default() { Arc::clone(&source.gates) } else { BucketGates::new(caps) };
    // While the listing is under way, sizes aren't known, and a bound of another loader must not hold for this one.
    let connections = match manifest.known() {
        KnownSamples::All(samples) => {
            let objects = samples.saturating_mul(manifest.part_count() as u64);
            max_connections(reading, manifest.bytes() / objects.max(1))
        }
        KnownSamples::AtLeast(_) => usize::MAX,
    };
    let gate_use = gates.add_loader(sharding.rank(), sharding.world_size(), connections);
    let fetcher = Fetcher::new(&client, Arc::clone(manifest), Arc::clone(&io), &source.bucket, gates)
        .with_ranges(settings.limits.ranges)
        .with_gate_use(gate_use);

    if !source.notices.lacks.swap(true, Ordering::Relaxed) {
        warn_of_lacks(&client, manifest.prefix());
    }
    if let Some(reason) = cannot_compose(source) {
        if let Strategy::Compose { .. } = settings.strategy {
            tracing::warn!(prefix = %manifest.prefix(), reason, "not composing here; reading every object by itself");
        }
    } else if settings.strategy != Strategy::Direct {
        if !client.capabilities().metadata_updates {
            fetcher.disable_renewal();
        }

        let bucket = Arc::clone(&manifest.prefix().bucket);
        let granted = io.run(async move { client.test_permissions(&bucket, &COMPOSE_PERMISSIONS).await });
        // If the service doesn't answer this, the first compose finds out.
        if let Ok(granted) = granted {
            let is_missing = |wanted: &str| !granted.iter().any(|granted| granted == wanted);
            let [create, delete, renew] = COMPOSE_PERMISSIONS;
            if let Some(missing) = [create, delete].into_iter().find(|wanted| is_missing(wanted)) {
                fetcher.stop_composing(missing);
            }
            if is_missing(renew) {
                fetcher.disable_renewal();
            }
        }
    }
    Ok((io, fetcher))
}

/// Why nothing can be composed here, whatever the caller may do; `None` if it can.
fn cannot_compose(source: &DatasetSource) -> Option<String> {
    let is_able = source.client.capabilities().compose;
    if is_able { never_compose(&source.bucket) } else { Some("the store can't compose objects".to_owned()) }
}

/// How a loader reads.
struct ReadPlan {
    planner: Planner,
    /// Chooses between direct and composed reads, where measurement decides.
    auto: Option<Arc<SharedChooser>>,
}

/// Chooses the strategy by the setting and by the epoch's budget in dollars.
fn plan_reads(
    settings: &Settings,
    source: &DatasetSource,
    sampling: &Arc<Sampling>,
    sharding: &Sharding,
    fetcher: &Fetcher,
    reading: u64,
) -> Result<ReadPlan> {
    let (manifest, bucket) = (&source.manifest, &source.bucket);
    let prices: Prices = settings.cost.prices.as_ref().unwrap_or_else(|| PriceTable::built_in()).of(bucket);
    // A composed download is one allocation. A few must fit at once, or reading would stop for each.
    let max_composed = reading / 4;
    let cap = if let Strategy::Compose { max_bytes } = settings.strategy { max_bytes } else { MAX_COMPOSED_BYTES };
    let no_compose = cannot_compose(source)
        .or_else(|| (!fetcher.may_compose()).then(|| "the right to create or delete objects is missing".into()));
    let estimator = CostEstimator {
        manifest,
        sampling,
        prices: &prices,
        layout: Layout::default().most_bytes(max_composed.min(cap)).ranges(settings.limits.ranges),
        strategy: settings.strategy,
        no_compose,
    };
    let affordable = settings.cost.epoch_budget_usd.map(|budget| estimator.within(budget)).transpose()?;
    let strategy = match affordable {
        Some(Affordable::Direct) => Strategy::Direct,
        Some(Affordable::Composed) => Strategy::Compose { max_bytes: cap },
        Some(Affordable::Cheapest | Affordable::All) | None => settings.strategy,
    };
    // The planner itself looks at the bucket, but doesn't know the store.
    let strategy = if source.client.capabilities().compose { strategy } else { Strategy::Direct };
    CostEstimator { strategy, ..estimator }.warn(&source.notices.cost);

    let planner = Planner::new(Arc::clone(manifest), strategy, max_composed, bucket).with_prices(prices);
    if affordable == Some(Affordable::Cheapest) {
        return Ok(ReadPlan { planner: planner.by_price(), auto: None });
    }
    let batch_size = sharding.batch_size();
    let auto = (strategy == Strategy::Auto).then(|| {
        SharedChooser::new(ChooserConfig {
            max_composed_bytes: if fetcher.may_compose() { planner.max_bytes() } else { 0 },
            budget: reading,
            objects_per_sample: manifest.part_count() as u32,
            max_ahead: (settings.batches_ahead(batch_size, fetcher.is_local()) as u64).saturating_mul(batch_size),
            bucket_share: fetcher.gates().share(),
            caps: settings.limits.caps,
            prices: planner.prices().of_reads(StorageClass::Standard),
            pays_for_speed: !bucket.replicates(),
        })
    });
    Ok(ReadPlan { planner, auto })
}

impl LoaderCore {
    /// Checks the settings and starts the threads. [`open_audit`](Self::open_audit) follows.
    ///
    /// # Errors
    /// See [`DataLoaderBuilder::build`](crate::DataLoaderBuilder::build).
    pub(crate) fn build(mut settings: Settings, source: &DatasetSource, code: Arc<dyn SampleCode>) -> Result<Self> {
        let sharding = settings.sharding()?;
        settings.check_numbers()?;
        let (memory_budget, decode_threads) = (settings.memory_budget(), settings.decode_threads());
        let shares = code.sizes().divide(memory_budget, sharding.batch_size(), decode_threads);
        let sampling = check_sampling(&mut settings, source, &sharding)?;
        let (events, observers) = start_observers(source.client.events(), std::mem::take(&mut settings.observers))?;
        let (io, fetcher) = make_fetcher(&settings, source, &sharding, events, shares.reading)?;
        let ReadPlan { planner, auto } = plan_reads(&settings, source, &sampling, &sharding, &fetcher, shares.reading)?;

        if settings.cache.is_some() && fetcher.is_local() {
            let prefix = source.manifest.prefix();
            tracing::warn!(%prefix, "files of this machine are not cached, so the cache has no effect: leave it out");
        }
        let prefetch = settings.batches_ahead(sharding.batch_size(), fetcher.is_local());
        let held = Gauge::default();
        let DecodePool { jobs, threads } = decode_pool::start(decode_threads)?;
        let manifest = Arc::clone(&source.manifest);
        let engine = Engine {
            cache: settings.cache.clone().map(|cache| CacheSession::new(cache, &manifest)),
            bucket: Arc::new(BucketSource { io, manifest, planner, auto, fetcher, groups: Arc::default() }),
            code,
            jobs,
            on_error: settings.on_error,
            memory_budget,
            budget: Budget::new(shares.reading, held.clone()),
            decode_limits: shares.decoding,
            gate: None,
        };
        let series = EpochSeries {
            engine,
            live: Arc::default(),
            held,
            sharding,
            sampling,
            global_batch_size: settings.global_batch_size,
            prefetch,
            stall_report: settings.stall_report.unwrap_or(STALL_REPORT),
            unordered: settings.unordered,
            audit: None,
            resumed: None,
            transfer: None,
            last: None,
        };
        Ok(Self { series, decode_threads: threads, settings, observers, first_epoch: 0 })
    }

    /// Opens the audit log, if one is set. This is the last step of building a loader, because it may create the file.
    ///
    /// # Errors
    /// The batches are unordered, or the epoch to resume is. The log names a batch by its place in the order, so it
    /// can't describe them. Otherwise see [`AuditWriter::open`].
    pub(crate) fn open_audit(&mut self) -> Result<()> {
        let Some(path) = &self.settings.audit else { return Ok(()) };
        let series = &mut self.series;
        if series.unordered || series.resumed.as_ref().is_some_and(|state| state.beyond.is_some()) {
            return Err(Error::new(ErrorKind::Config, "the audit log is of batches in order")
                .stage(Stage::Deliver)
                .object(path.display())
                .mismatch("ordered batches, from an ordered epoch", "unordered ones")
                .hint("leave out .unordered(true) or .audit(..), and end an unordered epoch before a log is begun"));
        }
        series.engine.bucket.manifest.complete()?;
        series.audit = Some(AuditWriter::open(path, series.sharding.rank())?);
        Ok(())
    }

    /// Number of batches of a whole epoch, the same on every rank. Waits for the end of the listing.
    pub(crate) fn batches_per_epoch(&self) -> Result<u64> {
        Ok(self.series.sharding.batch_count(self.series.sampling.orders()?.len(), 0))
    }

    /// Number of batches that this loader delivers of `epoch`: all, or those that a resume leaves. Waits for the end of
    /// the listing.
    pub(crate) fn batches_left(&self, epoch: u64) -> Result<u64> {
        let EpochSeries { sharding, sampling, unordered, resumed, .. } = &self.series;
        let state = self.series.state(epoch, resumed.as_ref().filter(|state| state.epoch == epoch));
        let samples = sampling.orders()?.len();
        Ok(DeliveredBatches::from(&state, *unordered, sharding)?.batches_left(sharding, samples))
    }

    /// Number of samples of this rank in a whole epoch, padding included. Waits for the end of the listing.
    pub(crate) fn samples_per_epoch(&self) -> Result<u64> {
        let known = KnownSamples::All(self.series.sampling.orders()?.len());
        let mut spans = self.series.sharding.spans(0);
        let spans = std::iter::from_fn(|| spans.next(known));
        Ok(spans.map(|span| span.positions.end - span.positions.start).sum())
    }

    /// A series of epochs, which share one memory budget. Nothing starts yet.
    pub(crate) fn new_series(&self) -> EpochSeries {
        EpochSeries { engine: self.series.engine.for_epochs(&self.series.held), ..self.series.clone() }
    }

    /// The calls of all epochs of this loader.
    pub(crate) fn spending(&self) -> EpochSpending {
        let bucket = &self.series.engine.bucket;
        EpochSpending { clients: bucket.fetcher.clients().clone(), prices: *bucket.planner.prices() }
    }

    /// The price of the calls of this loader's epochs, and of all other calls in `client`, the counts of the data set's
    /// client.
    pub(crate) fn bill(&self, client: &Counts) -> Bill {
        let spending = self.spending();
        spending.bill() + spending.prices.bill(&client.since(&spending.ops()))
    }

    /// Ends all epochs and the threads of the loader, and waits for that; see
    /// [`DataLoader::close`](super::DataLoader::close).
    pub(crate) fn close(self, within: Duration) -> Closed {
        let Self { series: EpochSeries { engine, live, .. }, decode_threads, settings, observers, .. } = self;
        let (jobs, io) = (engine.jobs.clone(), Arc::clone(&engine.bucket.io));
        drop(engine);
        let mut wait = ShutdownWait::new(within);
        wait.end_epochs(&live);
        for _ in &decode_threads {
            // The channel is closed if all threads have ended already.
            let _ = jobs.send(DecodeJob::End);
        }
        wait.join(decode_threads);
        if let Some(threads) = settings.io_threads {
            let have_ended = io.close(wait.time_left());
            wait.count_threads(threads, have_ended);
        }
        // Observers come last, since they may take all the time there is. What ended before has sent its last events.
        let ended = observers.into_iter().map(|observer| observer.end(wait.time_left())).collect();
        wait.join(ended);
        wait.finish()
    }
}
