//! Samples that replace lost ones.
//!
//! **Why a substitute cannot deadlock.** A substitute uses the bytes of the sample that it replaces, which stay with
//! the batch, and needs what it has more than that one. It takes these bytes from the budget only once all groups of
//! its window have theirs: before that, the window's groups could lack exactly these bytes, and would get them back
//! only when their own batch is delivered. And it waits for them only until the training loop waits for its batch: all
//! that is held then may belong to batches behind this one, so it takes the bytes beside the budget. So a substitute
//! never waits on anything that may wait on it: the window's bytes depend on earlier batches alone, and the training
//! loop reaches the batch when these are delivered. Beside the budget is at most what the substitutes of one batch have
//! more than the samples that they replace.

use std::sync::Arc;

use tokio::sync::{OnceCell, watch};

use super::assembly::{LossPolicy, SubstituteRequest};
use super::loss::OnError;
use super::pipeline::Engine;
use super::shutdown::EpochSignal;
use super::source::{SampleSource, spawn_read};
use super::stages::SampleStage;
use crate::budget::{GroupBytes, Permit};
use crate::manifest::KnownSamples;
use crate::plan::Group;
use crate::sample::{SampleId, Sampling, substitute};
use crate::{Error, ErrorKind, Result};

/// What the substitutes of an epoch have in common.
#[derive(Clone)]
pub(crate) struct SubstituteContext {
    pub(crate) engine: Arc<Engine>,
    pub(crate) source: Arc<dyn SampleSource>,
    pub(crate) sampling: Arc<Sampling>,
    pub(crate) epoch: u64,
    /// One more than the number of the oldest batch that the training loop waits for.
    pub(crate) awaited: watch::Receiver<u64>,
    /// Number of batches whose windows have all their bytes.
    pub(crate) batches_with_bytes: watch::Receiver<u64>,
    /// Whether the listing has ended. One task waits for that on behalf of all, because each wait takes a thread
    /// of the runtime. It has a bounded number of these, and name look-ups, also those of the listing itself, need
    /// some.
    pub(crate) listed: Arc<OnceCell<Result<bool>>>,
    pub(crate) cancel: EpochSignal,
}

/// The loss policy of an epoch.
pub(crate) fn loss_policy(context: SubstituteContext) -> LossPolicy {
    match context.engine.on_error {
        OnError::Fail => LossPolicy::Fail,
        OnError::Skip { .. } => LossPolicy::Skip,
        OnError::Substitute { .. } => LossPolicy::Substitute(Box::new(move |request| {
            let (context, assembly) = (context.clone(), Arc::clone(&request.assembly));
            let (io, cancel) = (Arc::clone(&context.engine.bucket.io), context.cancel.clone());
            spawn_read(&io, cancel, async move {
                if let Err(error) = context.substitute(request).await {
                    assembly.fail(error);
                }
            });
        })),
    }
}

impl SubstituteContext {
    /// Reads a substitute and has it decoded. If it can't be read, that is a loss like the first.
    ///
    /// # Errors
    /// The listing, the sampler or the manifest failed. The batch fails with it.
    async fn substitute(mut self, request: SubstituteRequest) -> Result<()> {
        let Some(id) = self.choose(&request).await? else { return Ok(()) };
        let SubstituteRequest { assembly, slot, planned, .. } = request;
        assembly.stages.replace(slot, Some(id), SampleStage::Planned);

        let alone = |id: SampleId| -> Result<Group> {
            let location = self.engine.bucket.manifest.location_facts(id)?;
            Ok(self.engine.bucket.planner.alone(slot, id, &location))
        };
        let group = alone(id)?;
        let GroupBytes { until_delivered, until_decoded } = self.engine.bytes(&group);
        let replaced = self.engine.bytes(&alone(planned)?).until_delivered;
        let more = until_delivered.saturating_sub(replaced).saturating_add(until_decoded);
        let mut permit = self.take(more, assembly.place.number).await;
        let until_decoded = Arc::new(permit.split(until_decoded));

        match self.source.read_one(group, assembly.place.read_number, &assembly.stages).await {
            Ok(sample) => {
                assembly.stages.set([slot], SampleStage::Read);
                assembly.hold(Arc::new(permit));
                assembly.receive(vec![(slot, sample)], Some(&until_decoded));
            }
            Err(error) => {
                drop((permit, until_decoded));
                assembly.lose(slot, id, error);
            }
        }
        Ok(())
    }

    /// The sample that is tried next. `None` if there is none, which fails the batch, or if the epoch is cancelled.
    async fn choose(&self, request: &SubstituteRequest) -> Result<Option<SampleId>> {
        let SubstituteRequest { assembly, slot, attempt, .. } = request;
        let Self { engine, sampling, epoch, listed, cancel, .. } = self;
        let manifest = &engine.bucket.manifest;
        if let KnownSamples::AtLeast(_) = manifest.known() {
            assembly.stages.replace(*slot, None, SampleStage::Listing);
            let (manifest, cancel) = (Arc::clone(manifest), cancel.clone());
            // The substitute depends on the number of positions, which is known only at the end of the listing.
            let wait = async || {
                tokio::task::spawn_blocking(move || manifest.wait_beyond(u64::MAX, || cancel.is_cancelled()))
                    .await
                    .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "waiting for the listing panicked")))
            };
            if !listed.get_or_init(wait).await.clone()? {
                return Ok(None);
            }
        }
        let (mut order, listed) = (sampling.epoch_order(*epoch), KnownSamples::All(manifest.len()));
        let (KnownSamples::AtLeast(positions) | KnownSamples::All(positions)) = order.positions(listed)?;
        let Some(position) = substitute(assembly.position(*slot), *attempt, *epoch, positions) else {
            assembly.give_up(*slot);
            return Ok(None);
        };
        Ok(order.ids(position..position + 1, listed)?.first().copied())
    }

    /// Takes bytes for a substitute of the batch with this number; the module's documentation says why this ends.
    async fn take(&mut self, bytes: u64, number: u64) -> Permit {
        let Self { engine, awaited, batches_with_bytes, .. } = self;
        tokio::select! {
            biased;
            permit = async {
                // An error means that the planning thread has ended because the epoch is cancelled.
                let _ = batches_with_bytes.wait_for(|&batches| batches > number).await;
                engine.budget.take(bytes).await
            } => permit,
            _ = awaited.wait_for(|&awaited| awaited > number) => engine.budget.exceed(bytes),
        }
    }
}
