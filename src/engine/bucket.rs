//! Samples that are read from the bucket: directly, in ranges, or as composed objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use super::cache_session::ReadClaim;
use super::source::{Delivery, PlannedReads, ReadStart, SampleSource, spawn_read};
use super::stages::{PlannerState, SampleStage, WindowStages};
use crate::compose::{ReadStep, StepObserver};
use crate::io::Io;
use crate::manifest::Manifest;
use crate::pacing::{GroupSize, InFlightRead, ServiceState, SharedChooser};
use crate::plan::{Group, GroupCounts, MAX_SOURCES, Method, Planner};
use crate::read::{Fetcher, RawSample, split};
use crate::sample::SampleId;
use crate::{Error, ErrorKind, Result};

/// How often an object is read if its bytes don't match their checksum. Transport damages a few bytes now and then, and
/// another read is cheap beside a lost epoch; damage that stays is not in the transport.
const MAX_READS: usize = 3;

/// The pause before an object is read again.
const REREAD_PAUSE: Duration = Duration::from_millis(10);

/// Reads samples of one data set from its bucket.
#[derive(Clone)]
pub(crate) struct BucketSource {
    pub(crate) io: Arc<Io>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) planner: Planner,
    /// Chooses between direct and composed reads where measurement decides.
    pub(crate) auto: Option<Arc<SharedChooser>>,
    pub(crate) fetcher: Fetcher,
    /// Counts the groups that this epoch started.
    pub(crate) groups: Arc<GroupCounts>,
}

struct BucketReads {
    source: Arc<BucketSource>,
    groups: Vec<Group>,
}

impl PlannedReads for BucketReads {
    fn groups(&self) -> &[Group] {
        &self.groups
    }

    fn start(&mut self, index: usize, delivery: Delivery, start: &ReadStart<'_>) -> Option<()> {
        let group = Group { method: Method::Empty, slices: Vec::new() };
        let group = std::mem::replace(&mut self.groups[index], group);
        self.source.start(group, Vec::new(), delivery, start)
    }
}

#[async_trait]
impl SampleSource for BucketSource {
    fn plan(self: Arc<Self>, ids: &[SampleId], _: &dyn Fn(&[Group]) -> bool) -> Result<Box<dyn PlannedReads>> {
        let groups = self.plan_groups(ids)?;
        Ok(Box::new(BucketReads { source: self, groups }))
    }

    async fn read_one(self: Arc<Self>, group: Group, read_number: u64, stages: &WindowStages) -> Result<RawSample> {
        self.groups.count(&group);
        self.read_in_slot(&self.fetcher, group, read_number, stages).await
    }
}

impl BucketSource {
    /// The source of one epoch: its temporary objects and its counts are its own.
    pub(crate) fn for_epoch(&self) -> Self {
        self.with_fetcher(self.fetcher.for_epoch())
    }

    pub(crate) fn with_fetcher(&self, fetcher: Fetcher) -> Self {
        Self { fetcher, groups: Arc::default(), ..self.clone() }
    }

    /// Cuts samples into groups; the index of an id is its slot.
    pub(crate) fn plan_groups(&self, ids: &[SampleId]) -> Result<Vec<Group>> {
        let groups = self.planner.plan(ids)?;
        if self.fetcher.may_compose() {
            return Ok(groups);
        }
        self.fetcher.delete_again();
        Ok(groups.iter().flat_map(Group::split_up).collect())
    }

    /// Starts the read of a group, or of each of its samples. If there are `claims`, they are in the order of the
    /// samples, `None` for a sample without a claim.
    pub(crate) fn start(
        self: &Arc<Self>,
        group: Group,
        claims: Vec<Option<ReadClaim>>,
        delivery: Delivery,
        start: &ReadStart<'_>,
    ) -> Option<()> {
        let Some(auto) = self.auto.as_ref().filter(|_| group.method != Method::Empty) else {
            self.spawn(group, claims, None, delivery, start);
            return Some(());
        };
        let (samples, may_compose) = (group.slices.len(), group.method == Method::Composed);
        start.planner.enter(PlannerState::Admission);
        let size = GroupSize { samples, may_compose, bytes: group.bytes(), held: start.held_bytes };
        let is_cancelled = || delivery.cancel.is_cancelled();
        let admission = auto.admit(size, start.samples_left, || self.service(), is_cancelled)?;
        start.planner.enter(PlannerState::Planning);
        if admission.is_composed || !may_compose {
            self.spawn(group, claims, Some(auto.track(admission)), delivery, start);
            return Some(());
        }
        let mut claims = claims.into_iter();
        for group in group.split_up() {
            let claims = claims.by_ref().take(1).collect();
            self.spawn(group, claims, Some(auto.track(admission)), delivery.clone(), start);
        }
        Some(())
    }

    /// Starts a task that reads and verifies the samples of a group, and delivers them.
    fn spawn(
        self: &Arc<Self>,
        group: Group,
        claims: Vec<Option<ReadClaim>>,
        mut in_flight: Option<InFlightRead>,
        delivery: Delivery,
        start: &ReadStart<'_>,
    ) {
        self.groups.count(&group);
        let number = start.numbers.next();
        let (source, cancel) = (Arc::clone(self), delivery.cancel.clone());
        spawn_read(&self.io, cancel, async move {
            if let Some(in_flight) = &mut in_flight {
                in_flight.begin();
            }
            match group.method {
                // Boxed, since the future is large, and tens of thousands of single objects may wait for their reads.
                Method::Composed => Box::pin(source.read_composed(group, claims, number, &delivery, in_flight)).await,
                Method::Empty | Method::Direct | Method::Ranged | Method::Parts => {
                    let claim = claims.into_iter().next().flatten();
                    source.read_sample(group, claim, number, &delivery, in_flight).await;
                }
            }
        });
    }

    fn service(&self) -> ServiceState {
        ServiceState { ceilings: self.fetcher.ceilings(), is_composing_proven: self.fetcher.is_proven() }
    }

    async fn read_composed(
        &self,
        group: Group,
        claims: Vec<Option<ReadClaim>>,
        number: u64,
        delivery: &Delivery,
        in_flight: Option<InFlightRead>,
    ) {
        let slots = || group.slices.iter().map(|slice| slice.slot);
        let (was_sent, is_composed) = (AtomicBool::new(false), AtomicBool::new(false));
        let observe = |step| {
            was_sent.fetch_or(step == ReadStep::Composing, Ordering::Relaxed);
            is_composed.fetch_or(step == ReadStep::Reading, Ordering::Relaxed);
            delivery.stages().set(slots(), SampleStage::UnderWay(step));
        };
        let abandoned = delivery.stages().wait_until_abandoned(group.slices[0].slot);
        let verify = |payload| split(&self.manifest, payload);
        let outcome = self.fetcher.fetch_composed(group.clone(), number, &observe, verify, abandoned).await;
        let error = match outcome {
            Ok(samples) => {
                if let Some(mut in_flight) = in_flight {
                    in_flight.succeed(samples.len());
                }
                delivery.deliver(samples, claims.into_iter().flatten());
                return;
            }
            Err(error) if error.is_cancelled() => {
                delivery.window.batch(group.slices[0].slot).fail(error);
                return;
            }
            Err(error) => error,
        };

        // Whatever went wrong: reading each object by itself works, or finds out which object is to blame.
        tracing::debug!(%error, objects = group.objects(), "a composed read failed; reading object by object");
        if let Some(in_flight) = in_flight {
            in_flight.record_failed_compose(was_sent.into_inner());
        }
        let repeating;
        let fetcher = if is_composed.into_inner() {
            repeating = self.fetcher.repeating();
            &repeating
        } else {
            // None of the bytes was requested yet, so these are no repetitions.
            self.groups.count_as_alone(group.objects());
            &self.fetcher
        };
        self.read_each(fetcher, group.split_up().collect(), claims, number, delivery).await;
    }

    /// Reads and delivers the one sample of a group.
    pub(crate) async fn read_sample(
        &self,
        group: Group,
        claim: Option<ReadClaim>,
        number: u64,
        delivery: &Delivery,
        in_flight: Option<InFlightRead>,
    ) {
        let (slot, id) = (group.slices[0].slot, group.slices[0].id);
        let sample = self.read_in_slot(&self.fetcher, group, number, delivery.stages()).await;
        if let (Ok(_), Some(mut in_flight)) = (&sample, in_flight) {
            in_flight.succeed(1);
        }
        delivery.deliver_outcome(slot, id, sample, claim);
    }

    /// Reads the one sample of a group, and notes the steps of the read.
    async fn read_in_slot(
        &self,
        fetcher: &Fetcher,
        group: Group,
        number: u64,
        stages: &WindowStages,
    ) -> Result<RawSample> {
        let slot = group.slices[0].slot;
        let observe = |step| stages.set([slot], SampleStage::UnderWay(step));
        read_alone(fetcher, &self.manifest, group, number, &observe).await
    }

    /// Reads objects by themselves, and delivers them in order. Batches before an object that fails its batch are
    /// complete then, and nobody sees the batches behind it.
    async fn read_each(
        &self,
        fetcher: &Fetcher,
        groups: Vec<Group>,
        claims: Vec<Option<ReadClaim>>,
        number: u64,
        delivery: &Delivery,
    ) {
        let read = async |group: Group| {
            let (slot, id) = (group.slices[0].slot, group.slices[0].id);
            (slot, id, self.read_in_slot(fetcher, group, number, delivery.stages()).await)
        };
        let mut reads = stream::iter(groups).map(read).buffered(MAX_SOURCES);
        let mut claims = claims.into_iter();
        while let Some((slot, id, sample)) = reads.next().await {
            if delivery.deliver_outcome(slot, id, sample, claims.next().flatten()) {
                return;
            }
        }
    }
}

/// Reads the one sample of a group, again if its bytes don't match.
pub(crate) async fn read_alone(
    fetcher: &Fetcher,
    manifest: &Arc<Manifest>,
    group: Group,
    number: u64,
    observe: StepObserver<'_>,
) -> Result<RawSample> {
    let (mut repeating, mut reads) = (None, 1);
    let samples = loop {
        let fetcher = repeating.as_ref().unwrap_or(fetcher);
        match split(manifest, fetcher.fetch(group.clone(), number, observe).await?) {
            Err(error) if error.kind() == ErrorKind::Integrity && reads < MAX_READS => {
                reads += 1;
                tracing::warn!(%error, "reading again");
                repeating = Some(fetcher.repeating());
                tokio::time::sleep(REREAD_PAUSE).await;
            }
            outcome => break outcome?,
        }
    };
    only_sample(samples)
}

/// The sample of a read that must bring one.
fn only_sample(samples: Vec<(usize, RawSample)>) -> Result<RawSample> {
    <[_; 1]>::try_from(samples).map(|[(_, sample)]| sample).map_err(|samples| {
        Error::new(ErrorKind::Internal, format!("a read of one sample brought {}", samples.len()))
            .hint("please report it")
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::manifest::tests::{manifest, object};
    use crate::read::Origin;

    /// All samples but the last were lost, and that one was delivered in the place of the first.
    #[test]
    fn a_read_of_one_sample_that_brings_several_is_an_error() {
        let manifest = Arc::new(manifest(&["p/a", "p/b"].map(|name| object(name, 4))));
        let sample = |slot| {
            let location = manifest.location(SampleId(slot)).unwrap();
            let bytes = Bytes::from_static(b"meow");
            (slot as usize, RawSample::verified_before(&Origin::new(&manifest), SampleId(slot), location, bytes))
        };
        let read = |slots: &[u64]| only_sample(slots.iter().copied().map(sample).collect());
        assert_eq!(read(&[1]).unwrap().id(), SampleId(1));
        for slots in [&[][..], &[0, 1]] {
            assert_eq!(read(slots).unwrap_err().kind(), ErrorKind::Internal);
        }
    }
}
