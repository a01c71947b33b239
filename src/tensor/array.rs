use ndarray::Array2;
#[cfg(feature = "image")]
use ndarray::{Array1, Array4};

use crate::collate::Batch;
use crate::read::RawSample;
use crate::{Error, ErrorKind, Result, Stage};

fn shape_error(error: ndarray::ShapeError) -> Error {
    Error::new(ErrorKind::Internal, "a batch doesn't have the shape it says").stage(Stage::Tensor).with_source(error)
}

#[cfg(feature = "image")]
impl<T: crate::pixels::Element> Batch<crate::decode::Images<T>> {
    /// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), without a copy, and
    /// labels of shape (images).
    ///
    /// # Errors
    /// None for a batch that a loader has made.
    pub fn into_ndarray(self) -> Result<(Array4<T>, Array1<i64>)> {
        let images = self.into_inner();
        let pixels = Array4::from_shape_vec(images.shape, images.pixels).map_err(shape_error)?;
        Ok((pixels, Array1::from_vec(images.labels)))
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
