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

    /// A number from 0 to 1 of the beta distribution whose two parameters are both `alpha`, which must be positive.
    pub(crate) fn symmetric_beta(&mut self, alpha: f64) -> f64 {
        // The first of two gamma variates, divided by their sum. Their logarithms don't underflow when alpha is small.
        let difference = self.ln_gamma_variate(alpha) - self.ln_gamma_variate(alpha);
        1.0 / (1.0 + (-difference).exp())
    }

    /// The logarithm of a number of the gamma distribution of this shape, by the method of Marsaglia and Tsang ("A
    /// simple method for generating gamma variables", 2000).
    fn ln_gamma_variate(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boost = (1.0 - self.unit()).ln() / shape;
            return self.ln_gamma_variate(shape + 1.0) + boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.unit()).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
                return d.ln() + v.ln();
            }
        }
    }

    /// A number of the normal distribution of mean 0 and deviation 1, by the method of Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
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

    /// A beta distribution with both parameters `a` has the mean 1/2 and the variance 1 / (4 (2a + 1)).
    #[test]
    fn a_beta_distribution_has_its_mean_and_variance() {
        for alpha in [0.05, 0.2, 1.0, 8.0] {
            let mut rng = SampleRng::new(1);
            let values: Vec<f64> = (0..40_000).map(|_| rng.symmetric_beta(alpha)).collect();
            assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
            assert!((mean - 0.5).abs() < 0.01, "alpha {alpha}: mean {mean}");
            let wanted = 0.25 / (2.0 * alpha + 1.0);
            assert!((variance / wanted - 1.0).abs() < 0.03, "alpha {alpha}: variance {variance}, not {wanted}");
        }
    }
}
