//! A loader's sampler at work: [`Sampling`] holds the sampler and its data, [`EpochOrder`] the order of one epoch while
//! names are still being listed.
//!
//! A sampler may be the user's code, so each call of it is guarded: a panic, or an answer that can't be, becomes an
//! error that names the sampler.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::sampler::{NOWHERE, Order, Orders, Sampler, Scope, Sealed};
use super::state::{sampler_from_identity, shorten_identity};
use super::{SampleId, wrong};
use crate::error::panic_message;
use crate::manifest::{KnownSamples, Manifest};
use crate::{Error, Result};

/// The identity of a sampler, as states hold it.
///
/// # Errors
/// The sampler panics.
pub(crate) fn identity(sampler: &dyn Sampler) -> Result<String> {
    let identity = catch_unwind(AssertUnwindSafe(|| sampler.identity()));
    identity.map(|identity| shorten_identity(&identity)).map_err(|panic| {
        wrong("Sampler::identity panicked")
            .mismatch("a name and parameters", panic_message(&*panic))
            .object("a sampler")
    })
}

/// A sampler and the data of a loader.
#[derive(Debug)]
pub(crate) struct Sampling {
    sampler: Box<dyn Sampler>,
    identity: String,
    manifest: Arc<Manifest>,
    /// The orders over all samples, once all are listed.
    whole: OnceLock<Result<Orders>>,
}

impl Sampling {
    /// # Errors
    /// A custom sampler with an identity from which a built-in one would be rebuilt.
    pub(crate) fn new(sampler: Box<dyn Sampler>, manifest: Arc<Manifest>) -> Result<Arc<Self>> {
        let identity = identity(&*sampler)?;
        if !sampler.takes_all(Sealed(())) && sampler_from_identity(&identity).is_some() {
            return Err(wrong("a sampler of one's own has the identity of a built-in one")
                .mismatch("a name that nothing else has", identity)
                .hint("name it after itself in Sampler::identity, or a resume would take the other for it"));
        }
        Ok(Arc::new(Self { sampler, identity, manifest, whole: OnceLock::new() }))
    }

    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether the sampler is known to give each sample once in every epoch. False for all custom samplers.
    pub(crate) fn takes_all(&self) -> bool {
        self.sampler.takes_all(Sealed(()))
    }

    /// Checks the sampler before an epoch does, as far as that is possible without waiting for the listing.
    pub(crate) fn check(&self) -> Result<()> {
        match self.manifest.known() {
            KnownSamples::All(_) => self.orders().map(drop),
            // What is wrong with these data shows when they are listed.
            KnownSamples::AtLeast(_) => Ok(()),
        }
    }

    /// The orders over all samples. Waits for the end of the listing.
    pub(crate) fn orders(&self) -> Result<&Orders> {
        self.manifest.complete()?;
        let made = self.whole.get_or_init(|| {
            let orders = self.guard(|| self.sampler.orders(&Scope::new(Arc::clone(&self.manifest))))?;
            if orders.len() == 0 {
                return Err(self
                    .wrong("the sampler leaves an epoch without samples")
                    .mismatch("at least 1", 0)
                    .hint("look at what it makes of these data, and at how many samples it was told to take"));
            }
            Ok(orders)
        });
        made.as_ref().map_err(Error::clone)
    }

    pub(crate) fn epoch_order(self: &Arc<Self>, epoch: u64) -> EpochOrder {
        EpochOrder { sampling: Arc::clone(self), epoch, order: None, settled: 0 }
    }

    /// Calls the sampler, and turns a panic into an error.
    fn guard<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
            Err(self.wrong("the sampler panicked").mismatch("an answer", panic_message(&*panic)))
        })
    }

    fn settled_too_much(&self, len: u64, samples: u64, settled: u64) -> Error {
        self.wrong("the sampler settles positions that its order doesn't have")
            .mismatch(format_args!("at most {len}, as its order of {samples} samples has"), settled)
            .hint("let Sampler::settled say no more than Sampler::orders has for as many samples")
    }

    fn wrong(&self, message: &str) -> Error {
        wrong(message).object(format_args!("sampler {}", self.identity))
    }
}

/// The order of an epoch, as far as its samples are listed.
#[derive(Debug)]
pub(crate) struct EpochOrder {
    sampling: Arc<Sampling>,
    epoch: u64,
    /// The order in use, with the samples that were listed when it was made.
    order: Option<(KnownSamples, Order)>,
    /// The most positions that the sampler has ever called settled.
    settled: u64,
}

impl EpochOrder {
    pub(crate) fn sampling(&self) -> &Arc<Sampling> {
        &self.sampling
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many positions have a settled sample, where the samples in `listed` are listed.
    ///
    /// # Errors
    /// The sampler can't order these data, or has settled more positions than there are.
    pub(crate) fn positions(&mut self, listed: KnownSamples) -> Result<KnownSamples> {
        let sampling = &self.sampling;
        Ok(match listed {
            KnownSamples::All(samples) => {
                let len = sampling.orders()?.len();
                if self.settled > len {
                    return Err(sampling.settled_too_much(len, samples, self.settled));
                }
                KnownSamples::All(len)
            }
            // There are no orders over no samples.
            KnownSamples::AtLeast(0) => listed,
            KnownSamples::AtLeast(listed) => {
                let settled = sampling.guard(|| Ok(sampling.sampler.settled(listed)))?;
                self.settled = self.settled.max(settled);
                KnownSamples::AtLeast(settled)
            }
        })
    }

    /// The samples at `positions`, which must be settled. Positions behind the last one begin again with the first.
    ///
    /// # Errors
    /// The sampler can't order these data, names a sample that doesn't exist, or panics.
    pub(crate) fn ids(&mut self, positions: Range<u64>, listed: KnownSamples) -> Result<Vec<SampleId>> {
        let sampling = Arc::clone(&self.sampling);
        let ids = sampling.guard(|| self.ask(positions, listed));
        if ids.is_err() {
            // An order that panicked may answer anything when it is asked again.
            self.order = None;
        }
        ids
    }

    fn ask(&mut self, positions: Range<u64>, listed: KnownSamples) -> Result<Vec<SampleId>> {
        let Self { sampling, epoch, order, .. } = self;
        let (KnownSamples::All(samples) | KnownSamples::AtLeast(samples)) = listed;
        if order.as_ref().is_none_or(|(of, _)| *of != listed) {
            let made = match listed {
                KnownSamples::All(_) => sampling.orders()?.order(*epoch),
                KnownSamples::AtLeast(_) => {
                    let scope = Scope::first(Arc::clone(&sampling.manifest), samples);
                    sampling.sampler.orders(&scope)?.order(*epoch)
                }
            };
            *order = Some((listed, made));
        }
        let (_, order) = order.as_mut().expect("the order was just made");

        let len = order.len();
        if positions.end <= len {
            let ids = order.many(positions.clone());
            // Otherwise each is asked for individually, to find the position of the error.
            if ids.len() as u64 == positions.end - positions.start && ids.iter().all(|id| id.0 < samples) {
                return Ok(ids);
            }
        }
        let ids = positions.map(|position| {
            let place = match listed {
                _ if position < len => position,
                KnownSamples::All(_) => position % len,
                // Only the last batch is padded, and it comes when all samples are listed.
                KnownSamples::AtLeast(_) => return Err(sampling.settled_too_much(len, samples, position + 1)),
            };
            let id = order.at(place);
            if id.0 >= samples {
                let error =
                    sampling.wrong(&format!("the sampler names a sample that isn't there, at position {position}"));
                return Err(match id.0 {
                    NOWHERE => error.mismatch("a sample of its subset", "one beyond it"),
                    id => error.mismatch(format_args!("a number below {samples}"), id),
                });
            }
            Ok(id)
        });
        ids.collect()
    }
}
