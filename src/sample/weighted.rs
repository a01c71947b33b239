//! Samplers that draw samples by weights.

use std::fmt;
use std::sync::Arc;

use super::permutation::{keys, mix, scale};
use super::sampler::{Orders, Sampler, Scope};
use super::subset::fingerprint;
use super::wrong;
use crate::Result;

/// Draws samples by weights. With replacement, a sample of twice the weight comes twice as often, and a sample of
/// weight 0 never. Without replacement, each sample comes at most once in an epoch, and heavier samples tend to come
/// earlier.
///
/// A weight is 0, or from 1e-290 to 1e290; only its share of the sum of all weights matters. With replacement a
/// sample's probability is exact to 2^-32 of the mean probability, so a sample with less than that may never come.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::sample::Weighted;
/// use dataflux::{DataLoader, DatafluxDataset};
/// # let store = MemoryStore::new();
/// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{}/{n:03}.png", if n % 10 == 0 { "rare" } else { "often" }), "x"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// // Every label as often as every other.
/// let manifest = dataset.manifest();
/// let label = |index| manifest.get(index).and_then(|entry| entry.label).unwrap_or(0) as usize;
/// let mut samples = vec![0.0; manifest.labels().len()];
/// (0..manifest.len()).for_each(|index| samples[label(index)] += 1.0);
/// let weights: Vec<_> = (0..manifest.len()).map(|index| 1.0 / samples[label(index)]).collect();
/// let loader = DataLoader::builder(dataset).batch_size(100).sampler(Weighted::new(42, &weights)?).build()?;
/// let batch = loader.epoch(0)?.next().expect("a batch")?;
/// assert!((30..=70).contains(&batch.names().filter(|name| name.contains("rare")).count()));
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone)]
pub struct Weighted {
    seed: u64,
    /// Draws in an epoch; `None` for the default.
    samples: Option<u64>,
    /// Hash of the weights.
    fingerprint: String,
    draws: WeightedDraws,
}

/// Without the weights, of which there may be millions.
impl fmt::Debug for Weighted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weighted")
            .field("identity", &self.identity())
            .field("weights", &self.draws.weights())
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum WeightedDraws {
    WithReplacement(Arc<[AliasCell]>),
    Without(Arc<[f64]>),
}

impl WeightedDraws {
    /// How many weights there are.
    fn weights(&self) -> usize {
        match self {
            Self::WithReplacement(cells) => cells.len(),
            Self::Without(weights) => weights.len(),
        }
    }
}

/// A sample's part of an alias table (Walker, 1977): drawn with all others equally often, it stands for itself in
/// `keep` of 2^32 cases and for another sample in the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AliasCell {
    keep: u32,
    other: u32,
}

impl Weighted {
    /// Draws with replacement. There is one weight for each sample, in byte order of names, of the data set or of the
    /// subset that the sampler is used in. An epoch has as many draws as there are samples unless
    /// [`samples`](Self::samples) sets another number.
    ///
    /// The sampler takes 8 bytes for each sample, and 12 more while it is made, which takes some tens of nanoseconds
    /// for each sample. A draw takes a hash of seed, epoch and position and a look-up in a table, some tens of
    /// nanoseconds, whatever its position.
    ///
    /// # Errors
    /// Weights that are negative, no numbers, too small or large, or all 0; 2^32 weights or more.
    pub fn new(seed: u64, weights: &[f64]) -> Result<Self> {
        let sum = check_weights(weights)?;
        let draws = WeightedDraws::WithReplacement(alias_table(weights, sum).into());
        Ok(Self { seed, samples: None, fingerprint: fingerprint_of_weights(weights), draws })
    }

    /// Draws without replacement, as if samples were drawn one after another, each by its weight among those that are
    /// left. An epoch has all samples of a weight above 0 unless [`samples`](Self::samples) sets another number.
    ///
    /// The sampler takes 8 bytes for each sample, and 4 more for each sample drawn in each live epoch. The start of an
    /// epoch, also at a resume, sorts all samples, which takes 16 more bytes for each and some tenths of a second for a
    /// million. After that, looking up a position is a look-up in a list.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn without_replacement(seed: u64, weights: &[f64]) -> Result<Self> {
        check_weights(weights)?;
        let fingerprint = fingerprint_of_weights(weights);
        Ok(Self { seed, samples: None, fingerprint, draws: WeightedDraws::Without(weights.into()) })
    }

    /// Sets the number of samples in an epoch, at least 1. Without replacement there can be no more than there are
    /// samples of a weight above 0.
    #[must_use]
    pub fn samples(mut self, samples: u64) -> Self {
        self.samples = Some(samples);
        self
    }
}

fn fingerprint_of_weights(weights: &[f64]) -> String {
    fingerprint(weights.iter().map(|weight| weight.to_bits().to_le_bytes()))
}

/// Refuses weights that can't be. Returns their sum.
fn check_weights(weights: &[f64]) -> Result<f64> {
    const HINT: &str = "give each sample a weight of 0 or more, and one of them more than 0";
    if u32::try_from(weights.len()).is_err() {
        return Err(wrong("there are too many weights")
            .mismatch("fewer than 2^32", weights.len())
            .hint("mix subsets, each with weights of its own (Mixture)"));
    }
    let wrong_one = weights.iter().enumerate().find(|(_, weight)| **weight != 0.0 && !is_weight(**weight));
    if let Some((index, weight)) = wrong_one {
        return Err(wrong("this can't be a weight")
            .mismatch(format_args!("0, or {WEIGHTS}"), format_args!("{weight:?} of sample {index}"))
            .hint(if weight.is_finite() && *weight > 0.0 { SCALE } else { HINT }));
    }
    let sum: f64 = weights.iter().sum();
    if sum <= 0.0 {
        return Err(wrong("nothing can be drawn by these weights")
            .mismatch("a weight above 0", format_args!("none among {}", weights.len()))
            .hint(HINT));
    }
    Ok(sum)
}

/// The range of weights above 0, for errors.
pub(super) const WEIGHTS: &str = "a number from 1e-290 to 1e290";

/// The hint for weights out of that range.
const SCALE: &str = "multiply all weights by the same number, and give 0 to what should never come";

/// Whether a weight above 0 is in range. The bounds ensure that the sum of 2^32 weights is finite, and so are the
/// number of samples, and the longest time in [`drawn_once`], divided by a weight.
pub(super) fn is_weight(weight: f64) -> bool {
    (1e-290..=1e290).contains(&weight)
}

/// The alias table of these weights (Vose, 1991). It is made by sums, products and quotients alone, which are the same
/// on all machines.
fn alias_table(weights: &[f64], sum: f64) -> Vec<AliasCell> {
    /// Number of cases of a cell.
    const CASES: f64 = 4_294_967_296.0;
    let scale = weights.len() as f64 / sum;
    let mut shares: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
    let mut cells: Vec<_> = (0..weights.len() as u32).map(|own| AliasCell { keep: u32::MAX, other: own }).collect();
    let indexes = || 0..weights.len() as u32;
    let mut small: Vec<_> = indexes().filter(|&index| shares[index as usize] < 1.0).collect();
    let mut large: Vec<_> = indexes().filter(|&index| shares[index as usize] >= 1.0).collect();
    while let Some(&rich) = large.last()
        && let Some(poor) = small.pop()
    {
        let share = shares[poor as usize];
        cells[poor as usize] = AliasCell { keep: (share * CASES) as u32, other: rich };
        let left = &mut shares[rich as usize];
        *left -= 1.0 - share;
        if *left < 1.0 {
            large.pop();
            small.push(rich);
        }
    }
    // Rounding may leave cells that were not filled up. They are full except for rounding; or they weigh nearly
    // nothing, and the share that the heaviest sample had for them was lost to the sum of many roundings.
    let heaviest = (0..weights.len()).max_by(|a, b| weights[*a].total_cmp(&weights[*b])).unwrap_or(0) as u32;
    for (poor, share) in small.into_iter().map(|poor| (poor as usize, shares[poor as usize])) {
        if share < 0.5 {
            cells[poor] = AliasCell { keep: (share * CASES) as u32, other: heaviest };
        }
    }
    cells
}

impl Sampler for Weighted {
    fn identity(&self) -> String {
        let kind = match self.draws {
            WeightedDraws::WithReplacement(_) => "weighted",
            WeightedDraws::Without(_) => "weighted-once",
        };
        let samples = self.samples.map(|samples| format!(", samples={samples}")).unwrap_or_default();
        format!("{kind}(seed={}, weights={}{samples})", self.seed, self.fingerprint)
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let (count, seed) = (scope.len(), self.seed);
        let weights = self.draws.weights();
        if weights as u64 != count {
            return Err(wrong("there must be a weight for each sample")
                .object(scope.manifest().prefix())
                .mismatch(format_args!("{count} weights"), weights)
                .hint("make them for the data set, or the subset, that they are used with"));
        }
        if self.samples == Some(0) {
            return Err(wrong("an epoch can't be of no draws")
                .mismatch("at least 1", 0)
                .hint("give Weighted::samples more, or leave it out for as many as there are samples"));
        }
        match &self.draws {
            WeightedDraws::WithReplacement(cells) => {
                let cells = Arc::clone(cells);
                Ok(Orders::new(self.samples.unwrap_or(count), move |epoch| {
                    let (cells, keys) = (Arc::clone(&cells), keys(&[b"dataflux draws 1"], seed, epoch));
                    move |position| draw(&cells, keys, position)
                }))
            }
            WeightedDraws::Without(weights) => {
                let most = weights.iter().filter(|&&weight| weight > 0.0).count() as u64;
                let samples = self.samples.unwrap_or(most);
                if samples > most {
                    return Err(wrong("without replacement no sample comes twice")
                        .mismatch(format_args!("at most the {most} samples of a weight above 0"), samples)
                        .hint("draw fewer, or with replacement (Weighted::new)"));
                }
                let weights = Arc::clone(weights);
                Ok(Orders::new(samples, move |epoch| {
                    let drawn = drawn_once(&weights, samples, keys(&[b"dataflux draws once 1"], seed, epoch));
                    move |position| u64::from(drawn[position as usize])
                }))
            }
        }
    }
}

fn draw(cells: &[AliasCell], [first, second, third]: [u64; 3], position: u64) -> u64 {
    let bits = mix(mix(position ^ first) ^ second);
    let own = scale(bits, cells.len() as u64);
    let AliasCell { keep, other } = cells[own as usize];
    // From other bits than those that chose the cell.
    let case = (mix(bits ^ third) >> 32) as u32;
    if case < keep { own } else { u64::from(other) }
}

/// Draws `samples` samples without replacement. Each sample gets a random time, which is shorter the more the sample
/// weighs; the samples with the shortest times are drawn, in the order of their times (Efraimidis and Spirakis, 2006).
fn drawn_once(weights: &[f64], samples: u64, [first, second]: [u64; 2]) -> Box<[u32]> {
    let times = weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0).map(|(index, weight)| {
        // From 2^-53 to 1.
        let even = ((mix(mix(index as u64 ^ first) ^ second) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        (-logarithm(even) / weight, index as u32)
    });
    let mut times: Vec<(f64, u32)> = times.collect();
    let samples = samples as usize;
    let order = |a: &(f64, u32), b: &(f64, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if samples < times.len() {
        times.select_nth_unstable_by(samples, order);
        times.truncate(samples);
    }
    times.sort_unstable_by(order);
    times.into_iter().map(|(_, index)| index).collect()
}

/// The natural logarithm of a number above 0 that is not subnormal. The logarithm of the standard library may differ in
/// its last digit from one machine to another, and with it an order, which must not.
fn logarithm(number: f64) -> f64 {
    let bits = number.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1_023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1_023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln(m) = 2 artanh((m - 1) / (m + 1)), whose argument is below 0.172: eleven terms are exact to the last digit or
    // two.
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let series = (0..11).rev().fold(0.0, |sum, term| sum * square + 1.0 / f64::from(2 * term + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * ratio * series
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probability of each sample by the table.
    fn chances(cells: &[AliasCell]) -> Vec<f64> {
        let mut chances = vec![0.0; cells.len()];
        for (own, cell) in cells.iter().enumerate() {
            let keep = f64::from(cell.keep) / 4_294_967_296.0;
            chances[own] += keep / cells.len() as f64;
            chances[cell.other as usize] += (1.0 - keep) / cells.len() as f64;
        }
        chances
    }

    #[test]
    fn the_table_has_the_chances_of_the_weights() {
        for weights in [
            vec![1.0],
            vec![1.0; 7],
            vec![0.0, 1.0, 0.0],
            vec![0.1, 0.2, 0.3, 0.4, 100.0],
            (0..1_000).map(|index| f64::from(index % 17)).collect(),
            vec![1e-290, 1e290, 1e289],
            vec![1e-290, 2e-290],
            (0..997).map(|index| 1.0 / f64::from(index + 1)).collect(),
        ] {
            let sum = check_weights(&weights).unwrap();
            for (chance, weight) in chances(&alias_table(&weights, sum)).iter().zip(&weights) {
                assert!((chance - weight / sum).abs() < 1e-9, "{chance} for {weight} of {sum}");
                assert!(*weight > 0.0 || *chance == 0.0, "a sample of weight 0 is drawn");
            }
        }
    }

    /// The sum of 2^30 rounding errors may be a whole share; here the sum of the weights is wrong by as much. Samples
    /// that rounding had left over were drawn as often as the average sample, whatever their weight.
    #[test]
    fn samples_that_rounding_leaves_over_are_not_drawn_more_than_they_weigh() {
        for most in [0, 1, 2] {
            let mut weights = [1e-12; 3];
            weights[most] = 1.0;
            let chances = chances(&alias_table(&weights, 1.6));
            for (index, chance) in chances.iter().enumerate().filter(|(index, _)| *index != most) {
                assert!(*chance < 1e-9, "{chance} of {index}");
            }
        }
    }

    /// Chi-square of 10 samples, of which one has weight 0: 8 degrees of freedom, whose 99.9th percentile is 26.1.
    #[test]
    fn draws_have_the_frequencies_of_their_weights() {
        const DRAWS: u64 = 100_000;
        let weights: Vec<f64> = (0..10).map(f64::from).collect();
        let cells = alias_table(&weights, 45.0);
        for seed in 0..5 {
            let keys = keys(&[b"dataflux draws 1"], seed, 0);
            let mut counts = [0f64; 10];
            (0..DRAWS).for_each(|position| counts[draw(&cells, keys, position) as usize] += 1.0);
            assert!(counts[0] == 0.0);
            let chi: f64 = (1..10)
                .map(|index| (counts[index], DRAWS as f64 * weights[index] / 45.0))
                .map(|(count, wanted)| (count - wanted).powi(2) / wanted)
                .sum();
            assert!(chi < 26.1, "chi-square {chi} of seed {seed}");
        }
    }

    /// The first of four is drawn by weight, and the second by weight among the others: 12 pairs, 11 degrees of
    /// freedom, whose 99.9th percentile is 31.3.
    #[test]
    fn without_replacement_each_draw_goes_by_the_weights_that_are_left() {
        const RUNS: u64 = 40_000;
        let weights = [1.0, 2.0, 3.0, 4.0];
        let mut counts = [[0f64; 4]; 4];
        for epoch in 0..RUNS {
            let drawn = drawn_once(&weights, 4, keys(&[b"dataflux draws once 1"], 7, epoch));
            counts[drawn[0] as usize][drawn[1] as usize] += 1.0;
        }
        let mut chi = 0.0;
        for first in 0..4 {
            for second in (0..4).filter(|second| *second != first) {
                let wanted = RUNS as f64 * weights[first] / 10.0 * weights[second] / (10.0 - weights[first]);
                chi += (counts[first][second] - wanted).powi(2) / wanted;
            }
        }
        assert!(chi < 31.3, "chi-square {chi}");
    }

    #[test]
    fn fewer_draws_are_the_first_of_all() {
        let weights: Vec<f64> = (0..500).map(|index| f64::from(index % 7)).collect();
        let all = drawn_once(&weights, 428, [1, 2]);
        let mut once: Vec<_> = all.to_vec();
        once.sort_unstable();
        assert!(once.iter().copied().eq((0..500).filter(|index| index % 7 > 0)));
        for fewer in [1, 2, 100, 427] {
            assert_eq!(*drawn_once(&weights, fewer, [1, 2]), all[..fewer as usize]);
        }
    }

    #[test]
    fn logarithms_are_those_of_the_standard_library_except_for_the_last_digits() {
        for step in 1..10_000 {
            for number in [f64::from(step) / 10_000.0, 2f64.powi(-53) * f64::from(step)] {
                let (own, std) = (logarithm(number), number.ln());
                assert!((own - std).abs() <= std.abs() * 1e-15 + 1e-16, "ln {number}: {own} and {std}");
            }
        }
        assert!(logarithm(1.0).abs() < f64::MIN_POSITIVE);
    }

    #[test]
    fn weights_that_cannot_be_are_refused() {
        for (weights, said) in [
            (vec![], "none among 0"),
            (vec![0.0, -0.0], "none among 2"),
            (vec![1.0, -1.0], "-1.0 of sample 1"),
            (vec![f64::NAN], "NaN of sample 0"),
            (vec![1.0, f64::INFINITY], "inf of sample 1"),
            (vec![f64::MAX, f64::MAX], "1e-290 to 1e290, got 1.7976931348623157e308 of sample 0); multiply all"),
            (vec![1.0, f64::MIN_POSITIVE], "2.2250738585072014e-308 of sample 1); multiply all"),
            (vec![5e-324, 5e-324], "5e-324 of sample 0"),
        ] {
            for error in [Weighted::new(1, &weights), Weighted::without_replacement(1, &weights)] {
                let error = error.unwrap_err().to_string();
                assert!(error.contains(said), "{error}");
            }
        }
    }
}
