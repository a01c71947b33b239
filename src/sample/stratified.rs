//! A shuffle that keeps every label in proportion everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::interleave::Interleave;
use super::permutation::{Permutation, keys};
use super::sampler::{Orders, Sampler, Scope, Sealed};
use crate::Result;

/// Shuffles all samples of an epoch so that each stretch of the order has the labels in the same proportion as the
/// whole. In a batch, or in a rank's part of a batch, a label has at most six samples more or fewer than its share, and
/// usually at most one. Samples without a label count as one more label. Within a label the order is shuffled by the
/// seed, the epoch's number and the samples' names.
///
/// Labels are those of the folders ([`Manifest::labels`](crate::Manifest::labels)). The sampler takes some 200 bytes
/// for each label, and 16 for each place where the label changes from one name to the next, but none for each sample.
/// It looks at every sample once, when the loader is built, which takes a second for 18 million samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stratified {
    seed: u64,
}

impl Stratified {
    /// Stratifies by the label of each sample.
    pub fn by_label(seed: u64) -> Self {
        Self { seed }
    }
}

/// The samples of a label.
#[derive(Debug, Default)]
struct Stratum {
    samples: u64,
    runs: Vec<StratumRun>,
    /// The number after that of the last sample.
    end: u64,
}

/// Samples of a label with consecutive numbers.
#[derive(Debug)]
struct StratumRun {
    /// Number of the first sample.
    start: u64,
    /// Samples of the label before this run.
    before: u64,
}

impl Stratum {
    fn push(&mut self, number: u64) {
        if self.runs.is_empty() || self.end != number {
            self.runs.push(StratumRun { start: number, before: self.samples });
        }
        (self.samples, self.end) = (self.samples + 1, number + 1);
    }

    fn at(&self, place: u64) -> u64 {
        let run = &self.runs[self.runs.partition_point(|run| run.before <= place) - 1];
        run.start + (place - run.before)
    }
}

impl Sampler for Stratified {
    fn identity(&self) -> String {
        format!("stratified-by-label(seed={})", self.seed)
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let (seed, digest) = (self.seed, scope.manifest().digest());
        let mut by_label: BTreeMap<Option<u32>, Stratum> = BTreeMap::new();
        for number in 0..scope.len() {
            by_label.entry(scope.facts(number)?.label).or_default().push(number);
        }
        let strata: Arc<[Stratum]> = by_label.into_values().collect();
        let lengths: Vec<_> = strata.iter().map(|stratum| stratum.samples).collect();
        let interleave = Arc::new(Interleave::new(&lengths));
        Ok(Orders::new(scope.len(), move |epoch| {
            let [key] = keys(&[b"dataflux strata 1", digest.names_key()], seed, epoch);
            let (strata, interleave) = (Arc::clone(&strata), Arc::clone(&interleave));
            let mut permutations: Vec<Option<Permutation>> = vec![None; strata.len()];
            move |position| {
                let (label, place) = interleave.at(key, position);
                let permutation = permutations[label].get_or_insert_with(|| {
                    let names: [&[u8]; 3] = [b"dataflux stratum 1", digest.names_key(), &(label as u64).to_le_bytes()];
                    Permutation::keyed(strata[label].samples, &names, seed, epoch)
                });
                strata[label].at(permutation.at(place))
            }
        }))
    }

    fn takes_all(&self, _: Sealed) -> bool {
        true
    }
}
