//! Targets of images: where they come from, and the arrays that they make.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use ndarray::{Array, Array1, Array2, Ix1, Ix2};

use super::ArrayElement;
use crate::read::RawSample;

/// A target that converts to arrays and tensors: a number, or a `Vec` of numbers that is as long for each image of a
/// batch.
///
/// The targets of `N` images make an array of shape (N), or of shape (N, numbers of a target). Targets of other types,
/// such as `String`, stay in [`Images::labels`](crate::Images).
pub trait Target: sealed::Target {}

impl<N: ArrayElement> Target for N {}
impl<N: ArrayElement> Target for Vec<N> {}

/// The array that the targets of a batch make: an `Array1` of numbers, or an `Array2` if each target is a `Vec`.
pub type TargetArray<L> = Array<<L as sealed::Target>::Number, <L as sealed::Target>::Dimension>;

/// The target of a batch that isn't as long as the first one, so that the targets make no array.
#[derive(Debug)]
pub struct UnevenTarget {
    /// Index of the image in the batch.
    pub(crate) index: usize,
    /// Numbers of the first target.
    pub(crate) wanted: usize,
    /// Numbers of this one.
    pub(crate) got: usize,
}

mod sealed {
    use ndarray::{Array, Dimension};

    use super::{ArrayElement, UnevenTarget};

    pub trait Target: Sized + Send + 'static {
        /// The type of the numbers.
        type Number: ArrayElement;
        /// `Ix1` or `Ix2`.
        type Dimension: Dimension;

        fn stack(targets: Vec<Self>) -> Result<Array<Self::Number, Self::Dimension>, UnevenTarget>;
    }
}

impl<N: ArrayElement> sealed::Target for N {
    type Number = N;
    type Dimension = Ix1;

    fn stack(targets: Vec<Self>) -> Result<Array1<N>, UnevenTarget> {
        Ok(Array1::from_vec(targets))
    }
}

impl<N: ArrayElement> sealed::Target for Vec<N> {
    type Number = N;
    type Dimension = Ix2;

    fn stack(targets: Vec<Self>) -> Result<Array2<N>, UnevenTarget> {
        let wanted = targets.first().map_or(0, Vec::len);
        if let Some((index, target)) = targets.iter().enumerate().find(|(_, target)| target.len() != wanted) {
            return Err(UnevenTarget { index, wanted, got: target.len() });
        }
        let (count, numbers) = (targets.len(), targets.concat());
        // All are of this length, so the shape fits.
        Array2::from_shape_vec((count, wanted), numbers).map_err(|_| UnevenTarget { index: 0, wanted, got: wanted })
    }
}

/// Where the target of an image comes from.
pub(super) enum TargetSource<L> {
    /// The number of its class.
    Classes(fn(&RawSample) -> anyhow::Result<L>),
    /// A function of the user.
    Given(Arc<TargetFn<L>>),
}

type TargetFn<L> = dyn Fn(&RawSample) -> anyhow::Result<L> + Send + Sync;

impl<L> TargetSource<L> {
    pub(super) fn of(&self, sample: &RawSample) -> anyhow::Result<L> {
        match self {
            Self::Classes(class) => class(sample),
            Self::Given(target) => target(sample),
        }
    }
}

impl<L> Clone for TargetSource<L> {
    fn clone(&self) -> Self {
        match self {
            Self::Classes(class) => Self::Classes(*class),
            Self::Given(target) => Self::Given(Arc::clone(target)),
        }
    }
}

/// Functions are equal if they are the same one.
impl<L> PartialEq for TargetSource<L> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Classes(_), Self::Classes(_)) => true,
            (Self::Given(own), Self::Given(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }
}

impl<L> fmt::Debug for TargetSource<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classes(_) => "Classes",
            Self::Given(_) => "Given",
        })
    }
}

/// The number of a sample's class.
pub(super) fn class_number(sample: &RawSample) -> anyhow::Result<i64> {
    let label = sample.entry().label.with_context(|| {
        format!(
            "it is in no folder below {}, so it has no label; move it into the folder of its class, or set labels with \
             DatafluxDataset::label_by or targets with ImageFolder::targets",
            sample.manifest().prefix()
        )
    })?;
    Ok(label.into())
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::sealed::Target;

    #[test]
    fn numbers_make_a_row_and_vectors_a_table() {
        assert_eq!(f32::stack(vec![1.5, -2.0]).unwrap(), array![1.5, -2.0]);
        assert_eq!(Vec::stack(vec![vec![1_u8, 0], vec![0, 1], vec![1, 1]]).unwrap(), array![[1, 0], [0, 1], [1, 1]]);
        assert_eq!(Vec::<f64>::stack(Vec::new()).unwrap().shape(), [0, 0]);
        assert_eq!(Vec::<i64>::stack(vec![Vec::new(); 3]).unwrap().shape(), [3, 0]);
    }

    #[test]
    fn vectors_of_two_lengths_make_none() {
        let uneven = Vec::stack(vec![vec![1_i64, 2], vec![3, 4], vec![5]]).unwrap_err();
        assert_eq!((uneven.index, uneven.wanted, uneven.got), (2, 2, 1));
    }
}
