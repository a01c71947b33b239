//! Dollars of an epoch: the ways of reading that a budget leaves, what is said of the others, and what it came to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::manifest::{ClassTotal, Known, Manifest};
use crate::metrics::{Counts, scaled};
use crate::plan::{Affordable, Bill, Forecast, Layout, Prices, Strategy};
use crate::read::Clients;
use crate::sample::Sampling;
use crate::{Error, ErrorKind, Result, Stage};

/// Dollars an epoch from which it is said where composing was not asked for that it would be dearer by as much: for less
/// than a cent nobody changes a bucket.
const WORTH_A_WORD: f64 = 0.01;

/// Positions of an epoch that are looked at for its dollars at least, where it has as many: some tenths of a second.
const LOOKED_AT: u64 = 1 << 20;

/// Samples that are asked of the sampler at once: so many that the asking itself costs nothing.
const AT_ONCE: u64 = 1 << 12;

/// What decides on the dollars of an epoch.
pub(crate) struct CostEstimator<'a> {
    pub(crate) manifest: &'a Arc<Manifest>,
    pub(crate) sampling: &'a Arc<Sampling>,
    pub(crate) prices: &'a Prices,
    pub(crate) layout: Layout,
    pub(crate) strategy: Strategy,
    /// Why nothing can be composed, if so.
    pub(crate) no_compose: Option<String>,
}

impl CostEstimator<'_> {
    /// What a budget leaves of the strategy.
    ///
    /// # Errors
    /// A budget that is no amount, or that nothing fits; a listing that failed.
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

    /// Of what an epoch has, which may be less than the manifest, or more.
    fn forecast(&self) -> Result<Forecast> {
        if self.sampling.takes_all() {
            return Forecast::new(self.manifest, self.prices, self.layout);
        }
        let samples = self.sampling.orders()?.len();
        // An epoch that is longer draws again and again, or begins anew.
        let part = samples.min(self.manifest.len().max(LOOKED_AT));
        let (mut walk, listed) = (self.sampling.walk(0), Known::All(self.manifest.len()));
        let starts = (0..part).step_by(AT_ONCE as usize);
        let asked = starts.map(|start| walk.ids(start..part.min(start + AT_ONCE), listed));
        let ids = asked.flat_map(|ids| match ids {
            Ok(ids) => ids.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        });
        let facts = ids.map(|id| self.manifest.facts_at(id?.0));
        Forecast::of_facts(facts, (samples, part), self.prices, self.layout)
    }

    /// Says so where what becomes of temporary objects makes composing, which may happen, dearer than reading object by
    /// object, unless it was said. Of a listing that still goes on nothing is known.
    pub(crate) fn warn(&self, told_before: &AtomicBool) {
        if self.strategy == Strategy::Direct || self.no_compose.is_some() {
            return;
        }
        let Known::All(all) = self.manifest.known() else { return };
        // Of a sampler that can't order these data the loader isn't built.
        let Ok(orders) = self.sampling.orders() else { return };
        // Which samples an epoch has would take a look at all of them: as many as it has of each class, by their means.
        let share = (orders.len(), all.max(1));
        let classes = self.manifest.classes().map(|class| ClassTotal {
            objects: scaled(class.objects, share).max(1),
            bytes: scaled(class.bytes, share),
            ..class
        });
        let forecast = Forecast::of_totals(classes, self.prices, self.layout);
        // Few objects cost more to join than to read, too, and there is nothing that anybody could change about it.
        let Bill { temporaries, replication, .. } = forecast.composed.bill;
        let more = forecast.composed.usd() - forecast.direct.usd();
        let least = if self.strategy == Strategy::Auto { WORTH_A_WORD } else { 0.0 };
        if more <= least || temporaries + replication < more {
            return;
        }
        let prefix = self.manifest.prefix();
        if let Some(told) = forecast.dearer(&prefix.bucket, self.prices)
            && !told_before.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%prefix, "{told}");
        }
    }
}

/// What an epoch has asked for so far.
#[derive(Debug)]
pub(crate) struct EpochSpending {
    pub(crate) clients: Clients,
    pub(crate) prices: Prices,
}

impl EpochSpending {
    /// Calls and bytes.
    pub(crate) fn ops(&self) -> Counts {
        self.clients.counts().fold(Counts::default(), |sum, (_, counts)| sum.plus(&counts))
    }

    /// Dollars, each call by the class of its object.
    pub(crate) fn bill(&self) -> Bill {
        self.clients.counts().map(|(class, counts)| self.prices.bill_of(class, &counts)).sum()
    }
}
