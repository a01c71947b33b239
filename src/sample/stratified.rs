//! Every label in proportion everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::interleave::Interleave;
use super::permutation::{Permutation, keys};
use super::sampler::{Orders, Sampler, Scope, Sealed};
use crate::Result;

/// All samples of an epoch shuffled so that each stretch of it has the labels in the proportion that they have in all of
/// it: in a batch, or in the part of it that a rank gets, a label has at most six samples more or less than its share,
/// and usually one. Samples without a label are one, too. Within a label the order is shuffled by the seed, the epoch's
/// number and the manifest's digest.
///
/// Labels are those of the folders ([`Manifest::labels`](crate::Manifest::labels)). It takes some 200 bytes for each, and 16
/// for each place where the label changes from one name to the next, but none for each sample. It looks at every sample
/// once, when the loader is built: a second for 18 million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stratified {
    seed: u64,
}

impl Stratified {
    /// By the label of each sample.
    pub fn by_label(seed: u64) -> Self {
        Self { seed }
    }
}

/// The samples of a label.
#[derive(Debug, Default)]
struct Stratum {
    samples: u64,
    /// Where each run of neighbours begins, and how many samples of the label come before it.
    runs: Vec<(u64, u64)>,
    /// After the last of them.
    end: u64,
}

impl Stratum {
    fn push(&mut self, number: u64) {
        if self.runs.is_empty() || self.end != number {
            self.runs.push((number, self.samples));
        }
        (self.samples, self.end) = (self.samples + 1, number + 1);
    }

    fn at(&self, place: u64) -> u64 {
        let (start, before) = self.runs[self.runs.partition_point(|(_, before)| *before <= place) - 1];
        start + (place - before)
    }
}

impl Sampler for Stratified {
    fn identity(&self) -> String {
        format!("stratified-by-label(seed={})", self.seed)
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let (seed, digest) = (self.seed, scope.manifest().digest().0);
        let mut by_label: BTreeMap<Option<u32>, Stratum> = BTreeMap::new();
        for number in 0..scope.len() {
            by_label.entry(scope.facts(number)?.label).or_default().push(number);
        }
        let strata: Arc<[Stratum]> = by_label.into_values().collect();
        let lengths: Vec<_> = strata.iter().map(|stratum| stratum.samples).collect();
        let woven = Arc::new(Interleave::new(&lengths));
        Ok(Orders::new(scope.len(), move |epoch| {
            let [key] = keys(&[b"dataflux strata 1", &digest], seed, epoch);
            let (strata, woven) = (Arc::clone(&strata), Arc::clone(&woven));
            let mut permutations: Vec<Option<Permutation>> = vec![None; strata.len()];
            move |position| {
                let (label, place) = woven.at(key, position);
                let permutation = permutations[label].get_or_insert_with(|| {
                    let names: [&[u8]; 3] = [b"dataflux stratum 1", &digest, &(label as u64).to_le_bytes()];
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
