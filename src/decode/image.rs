//! Decoded images.

use crate::pixels::Bitmap;

/// One decoded image and its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The pixels. They are [normalized](crate::ImageFolder::normalize) when a batch is made.
    pub bitmap: Bitmap,
    /// Index in [`Manifest::labels`](crate::Manifest::labels).
    pub label: i64,
    /// The object's full name.
    pub name: String,
}
