//! Samples that come in the place of others.

use std::sync::Arc;

use tokio::sync::{OnceCell, watch};

use super::loss::OnError;
use super::pipeline::{Engine, is_cancelled};
use super::pool::{LossPolicy, SubstituteRequest};
use crate::collate::Collate;
use crate::decode::Decode;
use crate::manifest::Known;
use crate::plan::Slice;
use crate::sample::{SampleId, Sampling, substitute};
use crate::{Error, ErrorKind, Result};

/// What substitutes of an epoch are found by.
#[derive(Clone)]
pub(crate) struct SubstituteContext {
    pub(crate) sampling: Arc<Sampling>,
    pub(crate) epoch: u64,
    /// Number of the batch that the training loop waits for.
    pub(crate) turn: watch::Receiver<u64>,
    /// Number of the last batch whose window has all its bytes.
    pub(crate) held: watch::Receiver<u64>,
    /// Whether all is listed, once one for all has waited for that: each such wait takes a thread of the runtime, which has
    /// a bounded number of them, and whose name look-ups, those of the listing itself, need some, too.
    pub(crate) listed: Arc<OnceCell<Result<bool>>>,
    pub(crate) cancel: watch::Receiver<bool>,
}

impl<D: Decode, C: Collate<D::Item>> Engine<D, C> {
    /// What becomes of samples of an epoch that can't be had.
    pub(crate) fn losing(self: &Arc<Self>, lockstep: SubstituteContext) -> LossPolicy<D, C> {
        match self.on_error {
            OnError::Fail => LossPolicy::Fail,
            OnError::Skip { .. } => LossPolicy::Skip,
            OnError::Substitute { .. } => {
                let engine = Arc::clone(self);
                LossPolicy::Substitute(Box::new(move |wanted| {
                    let (engine, lockstep, mut cancel) =
                        (Arc::clone(&engine), lockstep.clone(), lockstep.cancel.clone());
                    engine.io.clone().handle().spawn(async move {
                        let assembly = Arc::clone(&wanted.assembly);
                        tokio::select! {
                            outcome = engine.substitute(wanted, lockstep) => {
                                outcome.unwrap_or_else(|error| assembly.fail(error));
                            }
                            _ = cancel.wait_for(|&cancelled| cancelled) => {}
                        }
                    });
                }))
            }
        }
    }

    /// Reads a sample in the place of another and hands it over. Where it can't be had, that is a loss like the first.
    ///
    /// Its bytes are those of the sample that it replaces, which stay with the batch, and what it has beyond them. That is
    /// taken from the budget once all groups of the batch's window have their bytes: before, it could be what they lack,
    /// and they would wait for what is given back when their own batch is delivered. And it is waited for only until
    /// the training loop waits for this batch: then all that is held may belong to batches behind this one, so it is had
    /// beside the budget. So a substitute waits for nothing that hangs on it: for the bytes of its window, which wait for
    /// earlier batches alone, or for its turn, which comes when those are delivered. What is held beside the budget is at most
    /// what one batch's substitutes have beyond the samples they replace.
    async fn substitute(self: &Arc<Self>, wanted: SubstituteRequest<D, C>, lockstep: SubstituteContext) -> Result<()> {
        let SubstituteRequest { assembly, slot, for_sample, attempt } = wanted;
        let SubstituteContext { sampling, epoch, mut turn, mut held, listed, cancel } = lockstep;
        let (steps, at) = (&assembly.steps.0, assembly.steps.1 + slot);
        if let Known::AtLeast(_) = self.manifest.known() {
            steps.listing(at);
            let manifest = Arc::clone(&self.manifest);
            // Only the end of the listing tells which positions there are.
            let wait = async || {
                tokio::task::spawn_blocking(move || manifest.wait_beyond(u64::MAX, || is_cancelled(&cancel)))
                    .await
                    .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "waiting for the listing panicked")))
            };
            if !listed.get_or_init(wait).await.clone()? {
                return Ok(());
            }
        }
        let (mut walk, listed) = (sampling.walk(epoch), Known::All(self.manifest.len()));
        let (Known::AtLeast(positions) | Known::All(positions)) = walk.positions(listed)?;
        let Some(place) = substitute(assembly.position(slot), attempt, epoch, positions) else {
            assembly.give_up(slot);
            return Ok(());
        };
        let id = walk.ids(place..place + 1, listed)?[0];
        steps.instead(at, id);
        let alone = |id: SampleId| {
            let range = 0..self.manifest.facts_at(id.0)?.size;
            Ok(self.planner.alone(&Slice { slot, id, range }))
        };
        let group = alone(id)?;
        let (keeps, passes) = self.bytes(&group);
        let beyond = keeps.saturating_sub(self.bytes(&alone(for_sample)?).0);
        let more = beyond.saturating_add(passes);
        let mut permit = tokio::select! {
            biased;
            permit = async {
                // Nobody says so any more: the epoch is called off.
                let _ = held.wait_for(|&held| held >= assembly.turn).await;
                self.budget.take(more).await
            } => permit,
            _ = turn.wait_for(|&turn| turn >= assembly.turn) => self.budget.beside(more),
        };
        let passing = Arc::new(permit.split(passes));
        match self.read_one(group, assembly.number, (steps, at)).await {
            Ok(samples) => {
                steps.brought(std::iter::once(at));
                assembly.keep(Arc::new(permit));
                for (_, sample) in samples {
                    self.hand_one_over(&assembly, slot, sample, Some(&passing));
                }
            }
            Err(error) => {
                drop((permit, passing));
                self.lose((&assembly, slot), id, error);
            }
        }
        Ok(())
    }
}
