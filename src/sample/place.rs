//! Where a sample stands in an epoch, and the randomness that belongs to it.

use super::SampleId;
use super::permutation::{keys, mix};

/// The place of a sample in an epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EpochPlace {
    pub(crate) epoch: u64,
    /// Position in the global order of the epoch.
    pub(crate) position: u64,
    /// Key of the epoch's randomness.
    key: u64,
}

impl EpochPlace {
    /// What a position is combined with, so that a batch and a sample of the same number get different seeds.
    const BATCH_STREAM: u64 = 0x62_6174_6368;

    /// The first place of an epoch that is ordered by the sampler with this identity, which includes its seed.
    pub(crate) fn first(sampler: &str, epoch: u64) -> Self {
        let [key] = keys(&[b"dataflux sample randomness 1", sampler.as_bytes()], 0, epoch);
        Self { epoch, position: 0, key }
    }

    /// The place of the same epoch at another position.
    pub(crate) fn at(self, position: u64) -> Self {
        Self { position, ..self }
    }

    /// A seed for the random numbers of a sample. It doesn't depend on the position.
    pub(crate) fn rng_seed(self, sample: SampleId) -> u64 {
        mix(self.key ^ mix(sample.0))
    }

    /// A seed for the random numbers of the batch whose first sample stands here.
    pub(crate) fn batch_seed(self) -> u64 {
        mix(self.key ^ mix(self.position ^ Self::BATCH_STREAM))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Seeds are frozen: a run that is resumed by a later version augments as before.
    #[test]
    fn golden_seeds() {
        let seed = |sampler: &str, epoch, id| EpochPlace::first(sampler, epoch).at(9).rng_seed(SampleId(id));
        let seeds = [("shuffle", 0, 0), ("shuffle", 0, 1), ("shuffle", 1, 0), ("other", 0, 0), ("other", 7, u64::MAX)];
        let seeds = seeds.map(|(sampler, epoch, id)| seed(sampler, epoch, id));
        let frozen = [
            0x214A_AB4E_BD8C_8473,
            0x56B1_2BCA_337F_00BF,
            0x0E70_E8DC_7F8E_86AB,
            0xE7CE_59C6_5F46_3D4C,
            0x189E_4B4A_F8FA_6FF9,
        ];
        assert_eq!(seeds, frozen);
    }

    #[test]
    fn seeds_of_samples_and_epochs_all_differ() {
        let seeds = (0..10).flat_map(|epoch| {
            let first = EpochPlace::first("shuffle", epoch);
            (0..1_000).map(move |id| first.rng_seed(SampleId(id)))
        });
        assert_eq!(seeds.collect::<HashSet<_>>().len(), 10_000);
    }
}
