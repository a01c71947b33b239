//! The random numbers of one sample.

/// A generator of random numbers for one sample. The same seed gives the same numbers in all versions of this crate.
///
/// It is `SplitMix64`: one addition and a few shifts and products for each number.
#[derive(Clone, Debug)]
pub struct SampleRng {
    state: u64,
}

impl SampleRng {
    /// A generator that begins with this seed, for example [`RawSample::rng_seed`](crate::RawSample::rng_seed).
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 inclusive to 1 exclusive, with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number from `low` inclusive to `high` exclusive.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A whole number below `count`, or 0 if `count` is 0.
    pub fn below(&mut self, count: u64) -> u64 {
        // The high half of the product. Its bias, `count` in 2^64, is far below anything that can be observed.
        ((u128::from(self.next_u64()) * u128::from(count)) >> 64) as u64
    }

    /// Whether an event of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_numbers_never_change() {
        // The reference implementation of SplitMix64, by its author.
        let mut rng = SampleRng::new(1_234_567);
        assert_eq!([rng.next_u64(), rng.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let mut rng = SampleRng::new(42);
        assert!((rng.unit() - 0.741_564_878_771_823_3).abs() < 1e-15);
        assert!((0..1_000).all(|_| rng.below(3) < 3 && (2.0..5.0).contains(&rng.uniform(2.0, 5.0))));
        assert_eq!(rng.below(0), 0);
    }
}
