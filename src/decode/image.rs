//! Decoded images.

use crate::pixels::Bitmap;

/// One decoded image and its label.
///
/// `L` is the type of the label: the number of a class, or another [target](crate::ImageFolder::targets).
#[derive(Clone, Debug, PartialEq)]
pub struct Image<L = i64> {
    /// The pixels. They are [normalized](crate::ImageFolder::normalize) when a batch is made.
    pub bitmap: Bitmap,
    /// Index in [`Manifest::labels`](crate::Manifest::labels), unless the decoder was given other targets.
    pub label: L,
    /// The object's full name.
    pub name: String,
}
