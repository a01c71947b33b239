//! The price of an epoch: the strategies that a budget in dollars allows, a warning about expensive ones, and the
//! outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::manifest::{ClassTotal, KnownSamples, Manifest};
use crate::metrics::{Counts, Ratio};
use crate::plan::{Affordable, Bill, Forecast, Layout, Prices, SampleScale, Strategy};
use crate::read::Clients;
use crate::sample::Sampling;
use crate::{Error, ErrorKind, Result, Stage};

/// Additional dollars an epoch from which a warning reports that composing, which was not set, costs more than direct
/// reads: nobody changes a bucket for less than a cent.
const MIN_REPORTED_DOLLARS: f64 = 0.01;

/// Least number of positions of an epoch that a forecast looks at, if the epoch has as many: this takes some tenths of
/// a second.
const FORECAST_POSITIONS: u64 = 1 << 20;

/// Number of samples that the sampler returns in one call: so many that the call itself costs nothing.
const SAMPLES_PER_CALL: u64 = 1 << 12;

/// Estimates the price of an epoch.
pub(crate) struct CostEstimator<'a> {
    pub(crate) manifest: &'a Arc<Manifest>,
    pub(crate) sampling: &'a Arc<Sampling>,
    pub(crate) prices: &'a Prices,
    pub(crate) layout: Layout,
    pub(crate) strategy: Strategy,
    /// Why nothing can be composed, if that is so.
    pub(crate) no_compose: Option<String>,
}

impl CostEstimator<'_> {
    /// The part of the strategy that a budget allows.
    ///
    /// # Errors
    /// The budget is no amount, or nothing fits into it; the listing failed.
    pub(crate) fn within(&self, budget: f64) -> Result<Affordable> {
        if !(budget.is_finite() && budget >= 0.0) {
            return Err(Error::new(ErrorKind::Config, "this can't be the budget of an epoch")
                .stage(Stage::Plan)
                .mismatch("US dollars, 0 or more", budget)
                .hint("leave epoch_budget_usd out for no bound"));
        }
        let forecast = self.forecast()?;
        let allowed = forecast.within(budget, self.strategy, self.no_compose.as_deref())?;
        tracing::info!(
            prefix = %self.manifest.prefix(),
            budget,
            direct = forecast.direct.usd(),
            composed = forecast.composed.usd(),
            ?allowed,
            "dollars of an epoch"
        );
        Ok(allowed)
    }

    /// The forecast for the samples of an epoch, which may be fewer than those of the manifest, or more.
    fn forecast(&self) -> Result<Forecast> {
        if self.sampling.takes_all() {
            return Forecast::new(self.manifest, self.prices, self.layout);
        }
        let samples = self.sampling.orders()?.len();
        // A longer epoch draws samples repeatedly, or starts again from the first one.
        let part = samples.min(self.manifest.len().max(FORECAST_POSITIONS));
        let (mut walk, listed) = (self.sampling.epoch_order(0), KnownSamples::All(self.manifest.len()));
        let starts = (0..part).step_by(SAMPLES_PER_CALL as usize);
        let asked = starts.map(|start| walk.ids(start..part.min(start + SAMPLES_PER_CALL), listed));
        let ids = asked.flat_map(|ids| match ids {
            Ok(ids) => ids.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        });
        let locations = ids.map(|id| self.manifest.location_facts(id?));
        let scale = SampleScale { all: samples, sampled: part };
        Forecast::of_locations(locations, &self.manifest.prefix().bucket, scale, self.prices, self.layout)
    }

    /// Warns, once for each data set, if the strategy may compose and the fate of temporary objects makes that more
    /// expensive than reading object by object. While the listing runs nothing is known.
    pub(crate) fn warn(&self, was_warned: &AtomicBool) {
        if self.strategy == Strategy::Direct || self.no_compose.is_some() {
            return;
        }
        let KnownSamples::All(all) = self.manifest.known() else { return };
        // A loader whose sampler can't order these data is not built.
        let Ok(orders) = self.sampling.orders() else { return };
        // To find out which samples an epoch has would take a look at all of them, so this estimates their number in
        // each storage class.
        let share = Ratio { numerator: orders.len(), denominator: all.max(1) };
        let classes = self.manifest.storage_classes().map(|class| ClassTotal {
            objects: share.scale(class.objects).max(1),
            bytes: share.scale(class.bytes),
            ..class
        });
        let forecast = Forecast::of_totals(classes, self.manifest.part_count(), self.prices, self.layout);
        // Composing few objects also costs more than reading them, which no setting of the bucket changes.
        let Bill { temporaries, replication, .. } = forecast.composed.bill;
        let more = forecast.composed.usd() - forecast.direct.usd();
        let least = if self.strategy == Strategy::Auto { MIN_REPORTED_DOLLARS } else { 0.0 };
        if more <= least || temporaries + replication < more {
            return;
        }
        let prefix = self.manifest.prefix();
        if let Some(warning) = forecast.composing_advice(&prefix.bucket, self.prices)
            && !was_warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%prefix, "{warning}");
        }
    }
}

/// The calls of an epoch so far, and their prices.
#[derive(Debug)]
pub(crate) struct EpochSpending {
    pub(crate) clients: Clients,
    pub(crate) prices: Prices,
}

impl EpochSpending {
    /// Number of calls and bytes.
    pub(crate) fn ops(&self) -> Counts {
        self.clients.counts().fold(Counts::default(), |sum, (_, counts)| sum.plus(&counts))
    }

    /// The price, of each call by the storage class of its object.
    pub(crate) fn bill(&self) -> Bill {
        self.clients.counts().map(|(class, counts)| self.prices.bill_of(class, &counts)).sum()
    }
}
