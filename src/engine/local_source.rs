//! Samples in files of this machine: many are read one after another on one thread, into one buffer.
//!
//! A file in the page cache is read in microseconds. A task and a buffer for each would take longer than that.
//!
//! The system's calls for files have no time limit. Where a network file system hangs, its batch waits as long as that
//! does, and so does whoever closes the loader; stall reports say that samples are being read.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::bucket::BucketSource;
use super::source::{Delivery, PlannedReads, ReadStart, SampleSource, spawn_read};
use super::stages::{SampleStage, WindowStages};
use crate::Result;
use crate::compose::ReadStep;
use crate::plan::{Group, Method};
use crate::read::RawSample;
use crate::sample::SampleId;

/// Bytes that one job reads, unless one sample has more. They are few enough to share the work among threads, and
/// enough to hide the cost of handing over a job.
const JOB_BYTES: u64 = 1 << 20;

/// Samples that one job reads at most.
const JOB_SAMPLES: usize = 64;

/// Jobs at once of one epoch: about what keeps a solid-state disk busy. Where all files are in the page cache, as many
/// as there are processors would do, and more cost little.
const MAX_JOBS: usize = 16;

/// Reads samples from files of this machine. Large files are read in ranges, and samples of several files part by part,
/// as from a bucket.
pub(crate) struct LocalSource {
    bucket: Arc<BucketSource>,
    jobs: Arc<Semaphore>,
}

struct PlannedLocalReads {
    source: Arc<LocalSource>,
    groups: Vec<Group>,
}

impl LocalSource {
    pub(crate) fn new(bucket: Arc<BucketSource>) -> Self {
        Self { bucket, jobs: Arc::new(Semaphore::new(MAX_JOBS)) }
    }

    /// Reads and delivers the samples of a group. Blocks.
    fn read(&self, group: &Group, delivery: &Delivery) {
        let slots = group.slices.iter().map(|slice| slice.slot);
        delivery.stages().set(slots, SampleStage::UnderWay(ReadStep::Reading));
        let (mut samples, mut lost) = (Vec::with_capacity(group.slices.len()), Vec::new());
        for (slice, sample) in
            group.slices.iter().zip(self.bucket.fetcher.read_local(group, || delivery.cancel.is_cancelled()))
        {
            match sample {
                Ok(sample) => samples.push((slice.slot, sample)),
                Err(error) => lost.push((slice, error)),
            }
        }
        delivery.deliver(samples, []);
        for (slice, error) in lost {
            delivery.deliver_outcome(slice.slot, slice.id, Err(error), None);
        }
    }
}

/// Joins groups of one file each with those before them, up to so many bytes.
fn joined(groups: Vec<Group>, max_bytes: u64) -> Vec<Group> {
    let mut joined: Vec<Group> = Vec::new();
    for group in groups {
        let has_room = |before: &&mut Group| {
            before.method == Method::Direct
                && group.method == Method::Direct
                && before.slices.len() < JOB_SAMPLES
                && before.bytes().saturating_add(group.bytes()) <= max_bytes
        };
        match joined.last_mut().filter(has_room) {
            Some(before) => {
                for slice in group.slices {
                    let start = before.bytes();
                    before.slices.push(slice.at(start));
                }
            }
            None => joined.push(group),
        }
    }
    joined
}

impl PlannedReads for PlannedLocalReads {
    fn groups(&self) -> &[Group] {
        &self.groups
    }

    fn start(&mut self, index: usize, delivery: Delivery, start: &ReadStart<'_>) -> Option<()> {
        let group = std::mem::replace(&mut self.groups[index], Group { method: Method::Empty, slices: Vec::new() });
        if group.method != Method::Direct {
            return self.source.bucket.start(group, Vec::new(), delivery, start);
        }
        // Jobs start about in the order of delivery by themselves.
        start.numbers.next();
        self.source.bucket.groups.count(&group);
        delivery.stages().set(group.slices.iter().map(|slice| slice.slot), SampleStage::UnderWay(ReadStep::Queued));
        let (source, cancel) = (Arc::clone(&self.source), delivery.cancel.clone());
        spawn_read(&self.source.bucket.io, cancel, async move {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&source.jobs).acquire_owned().await else { return };
            let task = delivery.cancel.track_task();
            let job = move || {
                let (_permit, _task) = (permit, task);
                if !delivery.cancel.is_cancelled() {
                    source.read(&group, &delivery);
                }
            };
            // A panic ends the job and closes the channels of its batches, so the training loop gets an error.
            let _ = tokio::task::spawn_blocking(job).await;
        });
        Some(())
    }
}

#[async_trait]
impl SampleSource for LocalSource {
    fn plan(self: Arc<Self>, ids: &[SampleId], fits: &dyn Fn(&[Group]) -> bool) -> Result<Box<dyn PlannedReads>> {
        let single = self.bucket.plan_groups(ids)?;
        let groups = joined(single.clone(), JOB_BYTES);
        // Single files may fit where many at once are too much for the budget.
        let groups = if fits(&groups) { groups } else { single };
        Ok(Box::new(PlannedLocalReads { source: self, groups }))
    }

    async fn read_one(self: Arc<Self>, group: Group, read_number: u64, stages: &WindowStages) -> Result<RawSample> {
        Arc::clone(&self.bucket).read_one(group, read_number, stages).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{ObjectCount, Slice};

    fn group(method: Method, slot: usize, bytes: u64) -> Group {
        let objects = ObjectCount { small: 1, large: 0 };
        Group { method, slices: vec![Slice { slot, id: SampleId(slot as u64), range: 0..bytes, objects }] }
    }

    #[test]
    fn files_are_joined_up_to_the_size_of_a_job() {
        let of = |group: &Group| group.slices.iter().map(|slice| slice.slot).collect::<Vec<_>>();
        let sizes = [(0, 3), (1, 4), (2, 3), (3, 1), (4, 20), (5, 1)];
        let groups = joined(sizes.map(|(slot, bytes)| group(Method::Direct, slot, bytes)).into(), 10);
        assert_eq!(groups.iter().map(of).collect::<Vec<_>>(), [vec![0, 1, 2], vec![3], vec![4], vec![5]]);
        assert_eq!(groups[0].slices[2].range, 7..10, "without gaps");

        let many = (0..=JOB_SAMPLES).map(|slot| group(Method::Direct, slot, 1)).collect();
        assert_eq!(joined(many, 1 << 20).iter().map(|group| group.slices.len()).collect::<Vec<_>>(), [JOB_SAMPLES, 1]);

        let kinds = [Method::Direct, Method::Ranged, Method::Direct, Method::Empty, Method::Parts, Method::Direct];
        let mixed = kinds.into_iter().enumerate().map(|(slot, method)| group(method, slot, 1)).collect::<Vec<_>>();
        assert_eq!(joined(mixed.clone(), 10), mixed, "others are read as they are");
    }
}
