//! A loader, whatever the types of its decoder and its batches: what its epochs share, and the checks that make it.

use std::path::Path;
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
use crate::engine::shutdown::{LiveEpochs, ShutdownWait};
use crate::engine::wait_report::STALL_REPORT;
use crate::io::Io;
use crate::manifest::{KnownSamples, Manifest};
use crate::metrics::Counts;
use crate::observe::{Events, ObserverThread, Subscription};
use crate::pacing::{BucketGates, CallCaps, ChooserConfig, MAX_CALLS, SharedChooser};
use crate::plan::{Affordable, Bill, Layout, MAX_COMPOSED_BYTES, Planner, PriceTable, Prices, Strategy, never_compose};
use crate::read::Fetcher;
use crate::sample::{LastBatch, Sampling, Sequential, Sharding, State};
use crate::store::StorageClass;
use crate::{Error, ErrorKind, Result, Stage};

/// Default of the longest wait for bytes. The service answers within tenths of a second, and by then a lost packet was
/// sent six times more: a connection that is still silent is dead, and a batch waits for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest read buffer of a connection in bytes: it grows with the bodies, and no setting bounds it.
const MAX_READ_BUFFER: u64 = 400 << 10;

/// The least memory of a connection in bytes: a buffer for the head of an answer, and the connection's own state.
const CONNECTION_BYTES: u64 = 16 << 10;

/// Reads at once that any budget allows: fewer would make a small budget a slow loader.
const MIN_READS_AT_ONCE: usize = 32;

/// The buffers of connections, which the memory budget doesn't count, may come to this part of it.
const BUFFER_PARTS: u64 = 8;

/// Permissions that composing needs, beside those that reading needs.
const COMPOSE_PERMISSIONS: [&str; 2] = ["storage.objects.create", "storage.objects.delete"];

/// The permission that renewing the lease of a temporary object needs.
const RENEW_PERMISSION: &str = "storage.objects.update";

/// What the epochs of a loader share.
pub(crate) struct LoaderCore {
    pub(crate) engine: Engine,
    decode_threads: Vec<JoinHandle<()>>,
    pub(crate) live: Arc<LiveEpochs>,
    pub(crate) held: Gauge,
    pub(crate) sharding: Sharding,
    pub(crate) settings: Settings,
    pub(crate) sampling: Arc<Sampling>,
    audit: Option<Arc<AuditWriter>>,
    observers: Vec<ObserverThread>,
    /// The state to resume from.
    pub(crate) resumed: Option<State>,
    /// The first epoch with anything left to deliver.
    pub(crate) first_epoch: u64,
}

/// The error of an audit log for unordered batches, which it can't describe: it names a batch by its place in the
/// order.
pub(crate) fn unordered_audit(path: &Path) -> Error {
    Error::new(ErrorKind::Config, "the audit log is of batches in order")
        .stage(Stage::Deliver)
        .object(path.display())
        .mismatch("ordered batches, from an ordered epoch", "unordered ones")
        .hint("leave out .unordered(true) or .audit(..), and end an unordered epoch before a log is begun")
}

/// Most connections whose read buffers stay small beside `budget` bytes, for objects of `mean_size` bytes. At the
/// default budget that is no less than the gate allows, except for objects of about 50 KiB or more; of these a
/// machine can't receive so many at once.
fn max_connections(budget: u64, mean_size: u64) -> usize {
    let each = mean_size.saturating_mul(2).saturating_add(CONNECTION_BYTES).min(MAX_READ_BUFFER);
    usize::try_from(budget / BUFFER_PARTS / each).unwrap_or(usize::MAX).max(MIN_READS_AT_ONCE)
}

/// Opens the audit log, if one is set.
fn open_audit(settings: &Settings, manifest: &Manifest, rank: u64) -> Result<Option<Arc<AuditWriter>>> {
    let Some(path) = &settings.audit else { return Ok(None) };
    if settings.unordered {
        return Err(unordered_audit(path));
    }
    manifest.complete()?;
    Ok(Some(AuditWriter::open(path, rank)?))
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

/// The reader of a data set. Where composing is not forbidden by the bucket, checks the permissions for it.
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

    let mut caps = settings.limits.caps;
    if let KnownSamples::All(samples) = manifest.known() {
        let max = max_connections(reading, manifest.bytes() / samples.max(1));
        if max < MAX_CALLS {
            caps.at_once = Some(caps.at_once.map_or(max, |cap| cap.min(max)));
        }
    }
    let gates = if caps == CallCaps::default() { Arc::clone(&source.gates) } else { BucketGates::new(caps) };
    gates.add_rank(sharding.rank(), sharding.world_size());
    let fetcher = Fetcher::new(&client, Arc::clone(manifest), Arc::clone(&io), &source.bucket, gates)
        .with_ranges(settings.limits.ranges);

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
        let wanted = [COMPOSE_PERMISSIONS[0], COMPOSE_PERMISSIONS[1], RENEW_PERMISSION];
        let granted = io.run(async move { client.test_permissions(&bucket, &wanted).await });
        // If the service doesn't answer this, the first compose finds out.
        if let Ok(granted) = granted {
            let is_missing = |wanted: &str| !granted.iter().any(|granted| granted == wanted);
            if let Some(missing) = COMPOSE_PERMISSIONS.iter().find(|wanted| is_missing(wanted)) {
                fetcher.stop_composing(missing);
            }
            if is_missing(RENEW_PERMISSION) {
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
            max_ahead: (settings.batches_ahead(batch_size) as u64).saturating_mul(batch_size),
            bucket_share: fetcher.gates().share(),
            caps: settings.limits.caps,
            prices: planner.prices().of_reads(StorageClass::Standard),
            pays_for_speed: !bucket.replicates(),
        })
    });
    Ok(ReadPlan { planner, auto })
}

impl LoaderCore {
    /// Checks the settings and starts the threads.
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

        let manifest = &source.manifest;
        let audit = open_audit(&settings, manifest, sharding.rank())?;
        let held = Gauge::default();
        let DecodePool { jobs, threads } = decode_pool::start(decode_threads)?;
        let manifest = Arc::clone(manifest);
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
        Ok(Self {
            engine,
            decode_threads: threads,
            live: Arc::default(),
            held,
            sharding,
            settings,
            sampling,
            audit,
            observers,
            resumed: None,
            first_epoch: 0,
        })
    }

    /// What epochs that share a memory budget are begun from.
    pub(crate) fn series(&self) -> EpochSeries {
        EpochSeries {
            engine: self.engine.for_epochs(&self.held),
            live: Arc::clone(&self.live),
            held: self.held.clone(),
            sharding: self.sharding,
            sampling: Arc::clone(&self.sampling),
            global_batch_size: self.settings.global_batch_size,
            prefetch: self.settings.batches_ahead(self.sharding.batch_size()),
            stall_report: self.settings.stall_report.unwrap_or(STALL_REPORT),
            unordered: self.settings.unordered,
            audit: self.audit.clone(),
            resumed: self.resumed.clone(),
            last: None,
        }
    }

    /// The calls of all epochs of this loader.
    pub(crate) fn spending(&self) -> EpochSpending {
        let bucket = &self.engine.bucket;
        EpochSpending { clients: bucket.fetcher.clients().clone(), prices: *bucket.planner.prices() }
    }

    /// The price of the calls of this loader's epochs, and of all `others` that the client of its data set counted.
    pub(crate) fn bill(&self, client: &Counts) -> Bill {
        let spending = self.spending();
        spending.bill() + spending.prices.bill(&client.since(&spending.ops()))
    }

    /// Ends all epochs and the threads of the loader, and waits for that; see
    /// [`DataLoader::close`](super::DataLoader::close).
    pub(crate) fn close(self, within: Duration) -> Closed {
        let Self { engine, decode_threads, live, settings, observers, .. } = self;
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
