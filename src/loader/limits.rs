//! Settings that few programs change, in two groups: limits on calls, and what an epoch may cost.

use std::time::Duration;

use crate::pacing::CallCaps;
use crate::plan::PriceTable;
use crate::read::RangeSettings;
use crate::store::Hedge;

/// Limits on the calls of a loader: how many, how fast, how large, and how long one may be silent. They are for
/// programs that share a bucket or a network with others. Within them, the loader finds out how many calls help and how
/// many the service takes.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{DataLoader, DatafluxDataset, Limits};
/// # let store = MemoryStore::new();
/// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// // A tenth of the documented 5,000 reads a second of a bucket; the others are for those who share it.
/// let limits = Limits::default().reads_per_second(500.0);
/// let loader = DataLoader::builder(dataset).batch_size(32).limits(limits).build()?;
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "limits do nothing until a builder is given them"]
pub struct Limits {
    pub(super) caps: CallCaps,
    pub(super) ranges: RangeSettings,
    pub(super) stall_timeout: Option<Duration>,
    pub(super) hedge: Option<Hedge>,
}

impl Limits {
    /// Most reads at once, and most composes and deletions of composed objects at once; at least 1. By default 1,024 of
    /// each. There are fewer if the process may not have so many files open, or if the buffers of so many connections
    /// would take more than an eighth of the memory budget. Below this limit, the loader finds out how many calls help,
    /// and calls that the service refuses (429, 503) show how many it takes per second.
    ///
    /// All loaders of a data set share these calls, and what one of them learns; of their memory budgets the largest
    /// counts. A loader with a limit of its own on the calls at once or per second has its own calls, and learns for
    /// itself.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.caps.at_once = Some(calls);
        self
    }

    /// Most reads to start per second. By default as many as the service takes, starting with the documented 5,000,
    /// divided by the world size. At least 0.01.
    pub fn reads_per_second(mut self, reads: f64) -> Self {
        self.caps.reads_per_second = Some(reads);
        self
    }

    /// Most composes and deletions of composed objects to start per second. By default as many as the service takes,
    /// starting with the documented 1,000 writes, divided by the world size. At least 0.01.
    pub fn writes_per_second(mut self, writes: f64) -> Self {
        self.caps.writes_per_second = Some(writes);
        self
    }

    /// Size of the smallest range that a large object is cut into; 8 MiB by default, at least 1. Objects of 32 MiB and
    /// more are read in several ranges at once.
    pub fn min_part_size(mut self, bytes: u64) -> Self {
        self.ranges.min_part_size = bytes;
        self
    }

    /// Most ranges of one large object to read at once; 8 by default, at least 1. Each counts as a read.
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.ranges.max_streams = streams;
        self
    }

    /// Longest wait for the first or the next bytes of a read before it is repeated; longer than zero. By default 10 s,
    /// or the stall timeout of the data set's [`Client`](crate::store::Client) if that is less. Each try of a read that
    /// brings nothing doubles it, so that a service that is slow but alive gets enough time in the end.
    pub fn stall_timeout(mut self, wait: Duration) -> Self {
        self.stall_timeout = Some(wait);
        self
    }

    /// Sends a second request for the rest of a read that has been silent for longer than usual; off by default. Each
    /// second request is one more call of class B. Objects that are read in several ranges are not requested twice, nor
    /// are the [parts](crate::DatafluxDataset::parts) of a sample that are read by a call each.
    pub fn hedge(mut self, hedge: Hedge) -> Self {
        self.hedge = Some(hedge);
        self
    }
}

/// What an epoch may cost, and the prices by which a loader computes what it costs.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{Cost, DataLoader, DatafluxDataset, Strategy};
/// # let store = MemoryStore::new();
/// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// // 100 reads at $0.0004 a thousand cost $0.00004.
/// let builder = DataLoader::builder(dataset).strategy(Strategy::Direct).cost(Cost::default().epoch_budget_usd(0.00003));
/// assert!(builder.build().unwrap_err().to_string().contains("$0.0000400"));
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "prices and a budget do nothing until a builder is given them"]
pub struct Cost {
    pub(super) prices: Option<PriceTable>,
    pub(super) epoch_budget_usd: Option<f64>,
}

impl Cost {
    /// Uses these prices instead of the built-in ones: those of a contract, of a location, or of another day.
    pub fn prices(mut self, table: PriceTable) -> Self {
        self.prices = Some(table);
        self
    }

    /// Limit on the price of a whole epoch in US dollars, **over all ranks together**, by the price table; 0 or more,
    /// and none by default. [`build`](crate::DataLoaderBuilder::build) rules out strategies that cost more, and fails
    /// if none is left. For that it waits for the end of the listing and goes through the manifest once (a second for
    /// 18 million objects). If a [`sampler`](crate::DataLoaderBuilder::sampler) may leave samples out, or repeat them,
    /// it goes through epoch 0 instead, in its order, which takes several times longer. It looks at no more samples
    /// than the manifest has, or a million if the manifest has fewer, and scales the price up to the whole epoch. Other
    /// epochs may draw other samples.
    ///
    /// The limit applies to the [`Forecast`](crate::plan::Forecast). That leaves out retries, the listing, and objects
    /// that are read individually because composing fails. It also assumes that all groups are full: groups end with
    /// batches, so small batches make more of them, which cost more.
    ///
    /// [`Strategy::Auto`](crate::Strategy::Auto) chooses by measurement only if every mixture of its methods fits the
    /// limit. Otherwise all groups are read by one method, or each by the method that costs less, and
    /// [`choice`](crate::DataLoader::choice) is `None`.
    pub fn epoch_budget_usd(mut self, dollars: f64) -> Self {
        self.epoch_budget_usd = Some(dollars);
        self
    }
}
