//! Arrays with names.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use ndarray::ArrayD;

use super::elements::{AnyArray, ArrayElement};
use super::stack::StackArrays;
use crate::collate::Collate;

/// The arrays of one object, or of a batch, by their names in byte order.
///
/// ```
/// use dataflux::NamedArrays;
/// use ndarray::array;
///
/// # use dataflux::ndarray;
/// # fn main() -> anyhow::Result<()> {
/// let mut arrays = NamedArrays::new();
/// arrays.insert("x", array![[0.5_f32, 1.5]].into_dyn());
/// arrays.insert("y", array![3_i64].into_dyn());
/// assert_eq!(arrays.get("y")?.shape(), [1]);
/// let x = arrays.take::<f32>("x")?;
/// assert_eq!(x.shape(), [1, 2]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedArrays {
    arrays: BTreeMap<String, AnyArray>,
}

impl NamedArrays {
    /// No arrays.
    pub fn new() -> Self {
        Self::default()
    }

    /// The array of this name.
    ///
    /// # Errors
    /// There is none; the error names those that there are.
    pub fn get(&self, name: &str) -> Result<&AnyArray> {
        self.arrays.get(name).with_context(|| self.missing(name))
    }

    /// Removes the array of this name and returns it.
    ///
    /// # Errors
    /// There is none, or its numbers are of another type.
    pub fn take<T: ArrayElement>(&mut self, name: &str) -> Result<ArrayD<T>> {
        self.get(name)?.try_as_array::<T>().with_context(|| format!("the array {name:?}"))?;
        self.arrays.remove(name).with_context(|| self.missing(name))?.try_into_array()
    }

    /// Adds an array, or replaces the one of the same name, which is returned.
    pub fn insert(&mut self, name: impl Into<String>, array: impl Into<AnyArray>) -> Option<AnyArray> {
        self.arrays.insert(name.into(), array.into())
    }

    /// The names, in byte order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.arrays.keys().map(String::as_str)
    }

    /// How many arrays there are.
    pub fn len(&self) -> usize {
        self.arrays.len()
    }

    /// Whether there are no arrays.
    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// The arrays by their names.
    pub fn into_inner(self) -> BTreeMap<String, AnyArray> {
        self.arrays
    }

    /// Bytes of the numbers of all arrays.
    pub(in crate::decode) fn memory_bytes(&self) -> u64 {
        self.arrays.values().map(AnyArray::memory_bytes).sum()
    }

    fn missing(&self, name: &str) -> String {
        missing(name, self.names())
    }
}

/// The message for an array that a file doesn't have.
pub(super) fn missing<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<_> = names.take(SHOWN).collect();
    format!("it has no array {name:?}; its arrays are {names:?}")
}

impl FromIterator<(String, AnyArray)> for NamedArrays {
    fn from_iter<I: IntoIterator<Item = (String, AnyArray)>>(arrays: I) -> Self {
        Self { arrays: arrays.into_iter().collect() }
    }
}

impl Collate<NamedArrays> for StackArrays {
    type Output = NamedArrays;

    fn collate(&self, samples: Vec<NamedArrays>) -> Result<NamedArrays> {
        let mut samples = samples.into_iter();
        let Some(first) = samples.next() else { return Ok(NamedArrays::new()) };
        let mut columns: BTreeMap<String, (AnyArray, Vec<AnyArray>)> =
            first.arrays.into_iter().map(|(name, array)| (name, (array, Vec::new()))).collect();
        for (index, sample) in samples.enumerate() {
            if !sample.names().eq(columns.keys().map(String::as_str)) {
                bail!(
                    "samples with other arrays don't stack: sample {} of the batch has {:?}, and sample 0 {:?}; choose \
                     those that all samples have",
                    index + 1,
                    sample.arrays.keys(),
                    columns.keys()
                );
            }
            for ((_, others), array) in columns.values_mut().zip(sample.arrays.into_values()) {
                others.push(array);
            }
        }
        let stack = |(name, (first, others))| {
            let array = AnyArray::stack(first, others).with_context(|| format!("the arrays {name:?}"))?;
            Ok((name, array))
        };
        columns.into_iter().map(stack).collect()
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn sample(x: f32, y: i64) -> NamedArrays {
        let mut arrays = NamedArrays::new();
        arrays.insert("x", array![x, x].into_dyn());
        arrays.insert("y", ndarray::arr0(y).into_dyn());
        arrays
    }

    #[test]
    fn arrays_of_one_name_stack() {
        let mut batch = StackArrays.collate(vec![sample(1.0, 1), sample(2.0, 2)]).unwrap();
        assert_eq!(batch.names().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(batch.take::<f32>("x").unwrap(), array![[1.0, 1.0], [2.0, 2.0]].into_dyn());
        assert!(format!("{:#}", batch.take::<f32>("y").unwrap_err()).contains("i64, not f32"));
        assert_eq!(batch.take::<i64>("y").unwrap(), array![1, 2].into_dyn());
        assert!(batch.get("y").unwrap_err().to_string().contains("no array \"y\"; its arrays are []"));
        assert!(StackArrays.collate(Vec::<NamedArrays>::new()).unwrap().is_empty());
    }

    #[test]
    fn samples_with_other_arrays_do_not_stack() {
        let mut other = sample(1.0, 1);
        other.insert("z", array![1_u8].into_dyn());
        let error = StackArrays.collate(vec![sample(1.0, 1), other]).unwrap_err().to_string();
        assert!(error.contains("sample 1 of the batch has [\"x\", \"y\", \"z\"]"), "{error}");

        let mut other = sample(1.0, 1);
        other.insert("y", array![1_u8].into_dyn());
        let error = format!("{:#}", StackArrays.collate(vec![sample(1.0, 1), other]).unwrap_err());
        assert!(error.contains("the arrays \"y\"") && error.contains("u8, not i64"), "{error}");
    }
}
