//! Stacks arrays of several lengths, padded to the longest of their batch.

use anyhow::{Context, Result, bail};
use ndarray::{Array1, ArrayD, Axis, IxDyn, Slice};

use super::elements::ArrayElement;
use crate::collate::Collate;

/// A [`Collate`] that stacks arrays whose first dimension differs, such as the tokens of texts: of arrays of shape (2, 4)
/// and (3, 4) it makes one of (2, 3, 4). Numbers are appended to the shorter ones.
///
/// It also takes a `Vec` of numbers for each sample, as a closure may return it.
///
/// How long a batch may become is bounded, since one long sample makes the whole batch long: the loader counts each
/// sample as one of that length against its memory budget.
///
/// ```no_run
/// use dataflux::{DatafluxDataset, PadArrays, RawSample};
///
/// let tokens = |sample: RawSample| -> anyhow::Result<Vec<i64>> {
///     Ok(sample.bytes().iter().map(|byte| i64::from(*byte)).collect())
/// };
/// let dataset = DatafluxDataset::open("gs://my-bucket/texts/")?.decode(tokens).collate(PadArrays::new(2_048, 0_i64));
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PadArrays<T> {
    max_length: usize,
    /// Numbers of each index of the first dimension.
    row_numbers: usize,
    fill: T,
    is_clipped: bool,
}

/// Stacked arrays of several lengths.
#[derive(Clone, Debug, PartialEq)]
pub struct PaddedArrays<T> {
    /// Of shape (samples, length of the longest, ...).
    pub array: ArrayD<T>,
    /// How long the first dimension of each sample is; what follows is padding.
    pub lengths: Array1<i64>,
}

impl<T: ArrayElement> PadArrays<T> {
    /// Appends `fill` to arrays whose first dimension is at most `max_length` long. A longer one is an error, unless it
    /// is to be [clipped](Self::clip).
    pub fn new(max_length: usize, fill: T) -> Self {
        Self { max_length, row_numbers: 1, fill, is_clipped: false }
    }

    /// States how many numbers there are for each index of the first dimension: the product of the lengths of all other
    /// dimensions, and 1 for arrays of one dimension. Another number is an error, because the memory budget counts by
    /// this one.
    #[must_use]
    pub fn row_numbers(self, numbers: usize) -> Self {
        Self { row_numbers: numbers, ..self }
    }

    /// Takes the first part of what is longer than allowed, instead of returning an error.
    #[must_use]
    pub fn clip(self) -> Self {
        Self { is_clipped: true, ..self }
    }
}

impl<T: ArrayElement> Collate<ArrayD<T>> for PadArrays<T> {
    type Output = PaddedArrays<T>;

    fn collate(&self, mut samples: Vec<ArrayD<T>>) -> Result<PaddedArrays<T>> {
        let rest: Vec<usize> = samples.first().map_or(&[][..], ArrayD::shape).iter().skip(1).copied().collect();
        for (index, array) in samples.iter_mut().enumerate() {
            let Some((&length, others)) = array.shape().split_first() else {
                bail!(
                    "sample {index} of the batch is a single number, which can't be padded; stack it with StackArrays"
                );
            };
            if *others != *rest {
                bail!(
                    "only the first dimension is padded: sample {index} of the batch has the others {others:?}, and \
                     sample 0 {rest:?}; bring all to one shape in a closure"
                );
            }
            let row_numbers = others.iter().product::<usize>();
            if row_numbers != self.row_numbers {
                bail!(
                    "sample {index} of the batch has {row_numbers} numbers for each index of its first dimension, and \
                     PadArrays was given {}; set it with .row_numbers({row_numbers})",
                    self.row_numbers
                );
            }
            if length > self.max_length {
                if !self.is_clipped {
                    bail!(
                        "sample {index} of the batch has the length {length}, more than the {} that PadArrays was given; \
                         allow more, or clip it with .clip()",
                        self.max_length
                    );
                }
                array.slice_axis_inplace(Axis(0), Slice::from(..self.max_length));
            }
        }

        let longest = samples.iter().map(|array| array.len_of(Axis(0))).max().unwrap_or_default();
        let mut values = Vec::with_capacity(samples.len() * longest * self.row_numbers);
        let mut lengths = Vec::with_capacity(samples.len());
        for array in &samples {
            match array.as_slice() {
                Some(slice) => values.extend_from_slice(slice),
                None => values.extend(array.iter().copied()),
            }
            let length = array.len_of(Axis(0));
            values.resize(values.len() + (longest - length) * self.row_numbers, self.fill);
            lengths.push(length as i64);
        }
        let shape: Vec<usize> = [samples.len(), longest].into_iter().chain(rest).collect();
        let array = ArrayD::from_shape_vec(IxDyn(&shape), values).context("an array doesn't have the shape it says")?;
        Ok(PaddedArrays { array, lengths: lengths.into() })
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        <Self as Collate<ArrayD<T>>>::batch_bytes(self, item_bytes)
    }

    fn batch_bytes(&self, item_bytes: u64) -> u64 {
        let padded = (self.max_length as u64).saturating_mul(self.row_numbers as u64);
        item_bytes.max(padded.saturating_mul(size_of::<T>() as u64))
    }
}

impl<T: ArrayElement> Collate<Vec<T>> for PadArrays<T> {
    type Output = PaddedArrays<T>;

    fn collate(&self, samples: Vec<Vec<T>>) -> Result<PaddedArrays<T>> {
        self.collate(samples.into_iter().map(|values| Array1::from_vec(values).into_dyn()).collect::<Vec<_>>())
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        <Self as Collate<ArrayD<T>>>::copied_bytes(self, item_bytes)
    }

    fn batch_bytes(&self, item_bytes: u64) -> u64 {
        <Self as Collate<ArrayD<T>>>::batch_bytes(self, item_bytes)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn shorter_arrays_are_filled_up() {
        let pad = PadArrays::new(3, -1);
        let rows = pad.row_numbers(2);
        let batch = rows.collate(vec![array![[1, 2]].into_dyn(), array![[3, 4], [5, 6], [7, 8]].into_dyn()]).unwrap();
        let wanted = array![[[1, 2], [-1, -1], [-1, -1]], [[3, 4], [5, 6], [7, 8]]].into_dyn();
        assert_eq!((batch.array, batch.lengths), (wanted, array![1, 3]));

        let of_vecs = pad.collate(vec![vec![1, 2], vec![], vec![3]]).unwrap();
        assert_eq!((of_vecs.array, of_vecs.lengths), (array![[1, 2], [-1, -1], [3, -1]].into_dyn(), array![2, 0, 1]));

        let transposed = array![[1, 3], [2, 4]].reversed_axes().into_dyn();
        assert_eq!(rows.collate(vec![transposed]).unwrap().array, array![[[1, 2], [3, 4]]].into_dyn());
        assert_eq!(pad.collate(Vec::<Vec<i32>>::new()).unwrap().array.shape(), [0, 0]);
    }

    #[test]
    fn what_is_too_long_is_clipped_or_an_error() {
        let pad = PadArrays::new(2, 0_u8);
        let error = pad.collate(vec![vec![1], vec![1, 2, 3]]).unwrap_err().to_string();
        assert!(error.contains("sample 1 of the batch has the length 3, more than the 2"), "{error}");
        let clipped = pad.clip().collate(vec![vec![1], vec![1, 2, 3]]).unwrap();
        assert_eq!((clipped.array, clipped.lengths), (array![[1, 0], [1, 2]].into_dyn(), array![1, 2]));

        let error = pad.collate(vec![array![[1, 2]].into_dyn()]).unwrap_err().to_string();
        assert!(error.contains("set it with .row_numbers(2)"), "{error}");
        let error = pad.collate(vec![array![[1]].into_dyn(), array![[1, 2]].into_dyn()]).unwrap_err().to_string();
        assert!(error.contains("sample 1 of the batch has the others [2], and sample 0 [1]"), "{error}");
        let error = pad.collate(vec![ndarray::arr0(1).into_dyn()]).unwrap_err().to_string();
        assert!(error.contains("a single number"), "{error}");
        assert_eq!(Collate::<Vec<u8>>::batch_bytes(&PadArrays::new(100, 0), 7), 100);
        assert_eq!(Collate::<ArrayD<f32>>::batch_bytes(&PadArrays::new(100, 0.0).row_numbers(80), 7), 32_000);
    }
}
