#[cfg(feature = "audio")]
use ndarray::Array1;
#[cfg(any(feature = "image", feature = "audio"))]
use ndarray::Array3;
#[cfg(feature = "image")]
use ndarray::Array4;
#[cfg(any(feature = "candle", feature = "tch"))]
use ndarray::{Array, Dimension};
use ndarray::{Array2, ArrayD};

use crate::collate::Batch;
use crate::decode::ArrayElement;
#[cfg(feature = "image")]
use crate::decode::{Images, Target, TargetArray, UnevenTarget};
use crate::read::RawSample;
use crate::{Error, ErrorKind, Result, Stage};

fn shape_error(error: ndarray::ShapeError) -> Error {
    Error::new(ErrorKind::Internal, "a batch doesn't have the shape it says").stage(Stage::Tensor).with_source(error)
}

#[cfg(feature = "image")]
impl<T: crate::pixels::Element, L: Target> Batch<Images<T, L>> {
    /// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), without a copy, and
    /// labels: an `Array1` of numbers, or an `Array2` if each [target](crate::ImageFolder::targets) is a `Vec`.
    ///
    /// # Errors
    /// Targets are of two lengths.
    pub fn into_ndarray(self) -> Result<(Array4<T>, TargetArray<L>)> {
        let (images, batch) = self.take_data();
        let (images, labels) = images_and_labels(images, &batch)?;
        Ok((Array4::from_shape_vec(images.shape, images.pixels.into_vec()).map_err(shape_error)?, labels))
    }
}

#[cfg(feature = "image")]
impl<T: crate::pixels::Element> Batch<crate::decode::MaskedImages<T>> {
    /// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), and masks of shape
    /// (images, height, width), without a copy.
    ///
    /// # Errors
    /// None for a batch that a loader has made.
    pub fn into_ndarray(self) -> Result<(Array4<T>, Array3<u8>)> {
        let images = self.into_inner();
        let pixels = Array4::from_shape_vec(images.shape, images.pixels.into_vec()).map_err(shape_error)?;
        Ok((pixels, Array3::from_shape_vec(images.mask_shape, images.masks).map_err(shape_error)?))
    }
}

/// The images of a batch, without their labels, and these as an array.
#[cfg(feature = "image")]
pub(super) fn images_and_labels<T, L: Target>(
    mut images: Images<T, L>,
    batch: &Batch<()>,
) -> Result<(Images<T, L>, TargetArray<L>)> {
    let labels = L::stack(std::mem::take(&mut images.labels)).map_err(|uneven| {
        let UnevenTarget { index, wanted, got } = uneven;
        let name = |index: usize| batch.names().nth(index).unwrap_or_default().to_owned();
        Error::new(ErrorKind::Collate, "targets of two lengths make no rectangular array")
            .stage(Stage::Tensor)
            .object(name(index))
            .mismatch(format_args!("{wanted} numbers, as {} has", name(0)), got)
            .hint("make all targets one length where they come from, or take them as they are: `batch.labels`")
    })?;
    Ok((images, labels))
}

#[cfg(feature = "audio")]
impl Batch<crate::decode::AudioBatch> {
    /// Samples as `f32` of shape (files, channels, frames), and lengths in frames of shape (files).
    ///
    /// # Errors
    /// None.
    pub fn into_ndarray(self) -> Result<(Array3<f32>, Array1<i64>)> {
        let audio = self.into_inner();
        Ok((audio.samples, audio.lengths))
    }
}

impl Batch<Vec<RawSample>> {
    /// Stored bytes as `u8` of shape (samples, bytes of a sample).
    ///
    /// # Errors
    /// The samples differ in length.
    pub fn into_ndarray(self) -> Result<Array2<u8>> {
        let samples = self.len();
        let (bytes, length) = super::concatenate(&self)?;
        Array2::from_shape_vec((samples, length), bytes).map_err(shape_error)
    }
}

impl<T: ArrayElement> Batch<ArrayD<T>> {
    /// The stacked arrays, without a copy: of shape (samples, ...).
    ///
    /// # Errors
    /// None.
    pub fn into_ndarray(self) -> Result<ArrayD<T>> {
        Ok(self.into_inner())
    }
}

/// Numbers as `i64`, for libraries without `u64`.
///
/// # Errors
/// One is too large.
#[cfg(any(feature = "candle", feature = "tch"))]
pub(super) fn signed(array: &ArrayD<u64>) -> Result<ArrayD<i64>> {
    if let Some(large) = array.iter().find(|value| i64::try_from(**value).is_err()) {
        return Err(Error::new(ErrorKind::Collate, "an array of u64 doesn't convert to i64")
            .stage(Stage::Tensor)
            .mismatch("numbers of 2^63 - 1 at most", large)
            .hint("convert the array yourself: `Batch::into_inner` returns it"));
    }
    Ok(array.mapv(|value| value as i64))
}

/// The numbers of an array, whose last index changes fastest, and its shape. Arrays that were stacked aren't copied.
#[cfg(any(feature = "candle", feature = "tch"))]
pub(super) fn row_major<T: ArrayElement, D: Dimension>(array: Array<T, D>) -> (Vec<T>, Vec<usize>) {
    let (shape, count) = (array.shape().to_vec(), array.len());
    if !array.is_standard_layout() {
        return (array.iter().copied().collect(), shape);
    }
    let (mut values, offset) = array.into_raw_vec_and_offset();
    values.drain(..offset.unwrap_or_default());
    values.truncate(count);
    (values, shape)
}
