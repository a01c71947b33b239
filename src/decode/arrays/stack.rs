//! Stacks arrays.

use anyhow::Result;
use ndarray::ArrayD;

use super::elements::{ArrayElement, stacked};
use crate::collate::Collate;

/// A [`Collate`] that stacks arrays of one shape along a new first dimension: of 32 arrays of shape (3, 4) it makes one
/// of (32, 3, 4), whose last index changes fastest.
///
/// Of [`NamedArrays`](super::NamedArrays) it stacks those of each name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackArrays;

impl<T: ArrayElement> Collate<ArrayD<T>> for StackArrays {
    type Output = ArrayD<T>;

    fn collate(&self, samples: Vec<ArrayD<T>>) -> Result<ArrayD<T>> {
        stacked(&samples)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{IxDyn, ShapeBuilder, array};

    use super::*;

    #[test]
    fn arrays_stack_in_row_major_order() {
        let first = array![[1, 2, 3], [4, 5, 6]].into_dyn();
        let fortran = ArrayD::from_shape_vec(IxDyn(&[2, 3]).f(), vec![7, 10, 8, 11, 9, 12]).unwrap();
        let both = StackArrays.collate(vec![first.clone(), fortran]).unwrap();
        assert_eq!(both, array![[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]].into_dyn());
        assert!(both.is_standard_layout());

        assert_eq!(StackArrays.collate(Vec::<ArrayD<f32>>::new()).unwrap().shape(), [0]);
        let numbers = vec![ndarray::arr0(1.0).into_dyn(), ndarray::arr0(f64::NAN).into_dyn()];
        assert_eq!(StackArrays.collate(numbers).unwrap().shape(), [2]);
        let empty = ArrayD::<u8>::zeros(IxDyn(&[0, 5]));
        assert_eq!(StackArrays.collate(vec![empty; 3]).unwrap().shape(), [3, 0, 5]);

        let error = StackArrays.collate(vec![first.clone(), first, array![1].into_dyn()]).unwrap_err().to_string();
        assert!(error.contains("sample 2 of the batch has [1], and that of sample 0 [2, 3]"), "{error}");
    }
}
