//! Several orders interleaved into one by weights.

use std::fmt;
use std::sync::Arc;

use super::interleave::Interleave;
use super::permutation::keys;
use super::sampler::{Order, Orders, Sampler, Scope};
use super::weighted::{WEIGHTS, is_weight};
use super::wrong;
use crate::Result;

/// Mixes several samplers by weights. In each stretch of an epoch every part has its share to within six samples. Parts
/// are usually [subsets](super::Subset), for example the folders of several data sets in one bucket. For data sets in
/// several buckets see [`MixedLoader`](crate::MixedLoader).
///
/// Each part continues where it stopped at the end of the epoch before, and begins its next order when one is finished.
/// So no sample of a part comes twice before all samples of the part came once, whatever the part's share is; but a
/// part may finish an order and begin the next one in the middle of an epoch.
///
/// **Give different seeds to parts with the same samples, or with equally many samples.** With one seed they have the
/// same order, so the same samples, or those at the same positions, come at the same times.
///
/// The mixture takes some 100 bytes for each part, some 100 more in each live epoch, and what the parts take. Looking
/// up a position takes a division for each doubling of the number of parts, and a look-up in the part's order. When a
/// part begins its next order, that order is made, which for
/// [`Weighted::without_replacement`](super::Weighted::without_replacement) takes a sort.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::sample::{Mixture, Shuffle, Subset};
/// use dataflux::{DataLoader, DatafluxDataset};
/// # let store = MemoryStore::new();
/// # (0..90).for_each(|n| _ = store.insert("my-bucket", &format!("text/{}/{n:03}.txt", if n < 20 { "books" } else { "web" }), "x"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/text/")?;
///
/// let books = Subset::below(dataset.manifest(), "text/books/")?.then(Shuffle::new(1));
/// let web = Subset::below(dataset.manifest(), "text/web/")?.then(Shuffle::new(2));
/// let mixture = Mixture::new(42).add(books, 0.3).add(web, 0.7);
/// let loader = DataLoader::builder(dataset).batch_size(50).sampler(mixture).build()?;
/// let batch = loader.epoch(0)?.next().expect("a batch")?;
/// assert!((9..=21).contains(&batch.names().filter(|name| name.contains("books")).count()));
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a mixture does nothing until a loader has it"]
pub struct Mixture {
    seed: u64,
    parts: Vec<(Arc<dyn Sampler>, f64)>,
    length: EpochLength,
}

/// How long an epoch of a [`Mixture`] is. All epochs have the length that is computed for the first. Later epochs begin
/// where the one before ended, so a part may begin its next order in the middle of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EpochLength {
    /// As many samples as epoch 0 can have before any part has to begin its second order.
    #[default]
    UntilFirst,
    /// As many samples as epoch 0 needs until every part has given all its samples; smaller parts begin again
    /// meanwhile. In later epochs, too, each part gives at least as many samples as it has, but these may be the end of
    /// one of its orders and the beginning of the next.
    UntilAll,
    /// This number of samples, at least 1.
    Samples(u64),
}

impl Mixture {
    /// A mixture without parts. The seed decides where in the mixture each part begins; parts have seeds of their own
    /// for their orders.
    pub fn new(seed: u64) -> Self {
        Self { seed, parts: Vec::new(), length: EpochLength::default() }
    }

    /// Adds a part with a share of `weight`, from 1e-290 to 1e290, out of the sum of all weights.
    pub fn add(mut self, sampler: impl Sampler, weight: f64) -> Self {
        self.parts.push((Arc::new(sampler), weight));
        self
    }

    /// Sets the length of epochs, which is [`EpochLength::UntilFirst`] by default.
    pub fn epoch_length(mut self, length: EpochLength) -> Self {
        self.length = length;
        self
    }
}

impl Sampler for Mixture {
    fn identity(&self) -> String {
        let length = match self.length {
            EpochLength::UntilFirst => "until-first".to_owned(),
            EpochLength::UntilAll => "until-all".to_owned(),
            EpochLength::Samples(samples) => format!("samples={samples}"),
        };
        let parts: Vec<_> =
            self.parts.iter().map(|(sampler, weight)| format!("{weight} of {}", sampler.identity())).collect();
        format!("mixture(seed={}, {length}, {})", self.seed, parts.join(", "))
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let parts = self.parts.iter().map(|(sampler, _)| sampler.orders(scope)).collect::<Result<Vec<Orders>>>()?;
        let weights: Vec<_> = self.parts.iter().map(|(_, weight)| *weight).collect();
        let lengths: Vec<_> = parts.iter().map(Orders::len).collect();
        let counts = part_lengths(&lengths, &weights, self.length, MixtureUnit::Samples)?;
        let (seed, samples) = (self.seed, counts.iter().sum());
        let interleave = Arc::new(Interleave::new(&counts));
        let (parts, counts): (Arc<[Orders]>, Arc<[u64]>) = (parts.into(), counts.into());
        Ok(Orders::new(samples, move |epoch| {
            let [key] = keys(&[b"dataflux mixture 1"], seed, epoch);
            let (interleave, parts, counts) = (Arc::clone(&interleave), Arc::clone(&parts), Arc::clone(&counts));
            // The current order of each part, with its number.
            let mut orders: Vec<Option<(u64, Order)>> = parts.iter().map(|_| None).collect();
            move |position| {
                let (part, place) = interleave.at(key, position);
                // In 128 bits, since the number of an epoch may be any.
                let place = u128::from(epoch) * u128::from(counts[part]) + u128::from(place);
                let len = u128::from(parts[part].len());
                let (round, place) = ((place / len) as u64, (place % len) as u64);
                let order = &mut orders[part];
                if order.as_ref().is_none_or(|(of, _)| *of != round) {
                    *order = None;
                }
                order.get_or_insert_with(|| (round, parts[part].order(round))).1.at(place).0
            }
        }))
    }
}

/// What a mixture consists of, for its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MixtureUnit {
    Samples,
    Batches,
}

impl fmt::Display for MixtureUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Samples { "samples" } else { "batches" })
    }
}

/// How many samples, or batches, each part has in an epoch.
pub(crate) fn part_lengths(
    lengths: &[u64],
    weights: &[f64],
    length: EpochLength,
    unit: MixtureUnit,
) -> Result<Vec<u64>> {
    const HINT: &str = "add parts with weights above 0, such as 0.7 and 0.3";
    if weights.is_empty() {
        return Err(wrong("a mixture of nothing").mismatch("at least one part", 0).hint(HINT));
    }
    if let Some((part, weight)) = weights.iter().enumerate().find(|(_, weight)| !is_weight(**weight)) {
        return Err(wrong("this can't be the weight of a part")
            .object(format_args!("part {part}"))
            .mismatch(WEIGHTS, format_args!("{weight:?}"))
            .hint(HINT));
    }
    if let Some(part) = lengths.iter().position(|length| *length == 0) {
        return Err(wrong(&format!("a part of a mixture has no {unit}"))
            .mismatch("at least 1", 0)
            .object(format_args!("part {part}"))
            .hint("leave it out, or look at what its sampler and its batch size make of these data"));
    }
    if length == EpochLength::Samples(0) {
        return Err(wrong(&format!("an epoch of a mixture can't be of no {unit}"))
            .mismatch("at least 1", 0)
            .hint("make epochs longer"));
    }
    let sum: f64 = weights.iter().sum();
    // Samples of the mixture until each part is finished. Rounding errors are corrected below, where they would cost a
    // part a sample.
    let finished = || lengths.iter().zip(weights).map(|(length, weight)| *length as f64 * sum / weight);
    let samples = match length {
        EpochLength::UntilFirst => finished().fold(f64::INFINITY, f64::min).round(),
        EpochLength::UntilAll => finished().fold(0.0, f64::max).round(),
        EpochLength::Samples(samples) => samples as f64,
    };
    if samples > (1u64 << 53) as f64 {
        return Err(wrong("an epoch of this mixture would be too long")
            .mismatch(format_args!("at most 2^53 {unit}"), samples)
            .hint("set the length of its epochs, or other weights"));
    }
    // Running sums are rounded instead of shares, so that the shares add up to the length asked for.
    let (mut before, mut weight_before) = (0, 0.0);
    let mut counts = Vec::with_capacity(weights.len());
    for (part, weight) in weights.iter().enumerate() {
        weight_before += weight;
        let last = part + 1 == weights.len();
        let up_to = if last { samples } else { (samples * (weight_before / sum)).round() } as u64;
        let share = up_to.max(before) - before;
        before = up_to.max(before);
        let count = match length {
            EpochLength::UntilFirst => share.min(lengths[part]),
            EpochLength::UntilAll => share.max(lengths[part]),
            EpochLength::Samples(_) => share,
        };
        if count == 0 {
            return Err(wrong("a part of this mixture would never come")
                .object(format_args!("part {part}"))
                .mismatch(
                    format_args!("a share of at least one of the {unit}"),
                    format_args!("{weight} of {sum} of {samples}"),
                )
                .hint("give it more weight, leave it out, or make epochs longer"));
        }
        counts.push(count);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_are_by_weights_and_lengths() {
        use EpochLength::{Samples, UntilAll, UntilFirst};
        for (lengths, weights, length, wanted) in [
            (&[30, 700][..], &[0.3, 0.7][..], UntilFirst, &[30, 70][..]),
            (&[30, 700], &[0.3, 0.7], UntilAll, &[300, 700]),
            (&[30, 700], &[0.3, 0.7], Samples(10), &[3, 7]),
            (&[5, 5, 5], &[1.0, 1.0, 1.0], Samples(10), &[3, 4, 3]),
            (&[5, 5, 5], &[1.0, 1.0, 1.0], UntilFirst, &[5, 5, 5]),
            (&[1], &[9.0], UntilAll, &[1]),
            (&[100, 3], &[1.0, 3.0], UntilFirst, &[1, 3]),
        ] {
            assert_eq!(
                part_lengths(lengths, weights, length, MixtureUnit::Samples).unwrap(),
                wanted,
                "{lengths:?} {weights:?} {length:?}"
            );
        }
    }

    #[test]
    fn errors_say_what_cannot_be_mixed() {
        use EpochLength::{Samples, UntilAll, UntilFirst};
        for (lengths, weights, length, said) in [
            (&[][..], &[][..], UntilFirst, "at least one part"),
            (
                &[5, 5],
                &[1.0, 0.0],
                UntilFirst,
                "part 1: this can't be the weight of a part (wanted a number from 1e-290",
            ),
            (&[5, 5], &[5e-324, 1.0], UntilFirst, "got 5e-324"),
            (&[5, 5], &[1.0, f64::NAN], UntilFirst, "got NaN"),
            (&[5, 5], &[f64::MAX, f64::MAX], UntilFirst, "got 1.7976931348623157e308"),
            (&[5, 0], &[1.0, 1.0], UntilFirst, "part 1"),
            (&[5, 5], &[1.0, 100.0], UntilFirst, "0: a part of this mixture would never come"),
            (&[5], &[1.0], Samples(0), "can't be of no samples"),
            (&[5, 5], &[1.0, 1e-30], UntilAll, "at most 2^53"),
        ] {
            let error = part_lengths(lengths, weights, length, MixtureUnit::Samples).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    proptest! {
        /// With `UntilFirst` no part begins a second order; with `UntilAll` each comes whole at least once; and
        /// `Samples` is kept exactly.
        #[test]
        fn lengths_are_kept(
            parts in prop::collection::vec((1u64..1_000_000, 0.01f64..10.0), 1..9), samples in 1u64..1_000_000,
        ) {
            let (lengths, weights): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            let of = |length| part_lengths(&lengths, &weights, length, MixtureUnit::Samples).ok();
            if let Some(counts) = of(EpochLength::UntilFirst) {
                prop_assert!(counts.iter().zip(&lengths).all(|(count, length)| count <= length));
                prop_assert!(counts.iter().zip(&lengths).any(|(count, length)| count + 2 >= *length));
            }
            let counts = of(EpochLength::UntilAll).unwrap();
            prop_assert!(counts.iter().zip(&lengths).all(|(count, length)| count >= length));
            if let Some(counts) = of(EpochLength::Samples(samples)) {
                prop_assert_eq!(counts.iter().sum::<u64>(), samples);
                for (count, weight) in counts.iter().zip(&weights) {
                    let share = samples as f64 * weight / weights.iter().sum::<f64>();
                    prop_assert!((*count as f64 - share).abs() <= 1.0 + 1e-6);
                }
            }
        }
    }
}
