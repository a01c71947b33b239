//! Image files to bitmaps: what a file is, how much memory decoding it takes, and its pixels.
//!
//! Each format has a file, or several: it reads the headers before anything is decoded, and decodes with a decoder of
//! another crate, whose output is proved to be whole. `header` finds the format, `file` decodes to a [`Bitmap`], and
//! `mask` to one whose values are no colours. `part` says how little of a JPEG is enough where libjpeg-turbo (`turbo`)
//! decodes it.
//! `resize`, `orientation`, `window`, `affine`, `color` and `filters` change a bitmap, and `planes` writes one into a
//! batch. All of it is pure, but for `buffers`, which keeps memory.

pub(crate) mod affine;
mod bitmap;
mod bmp;
mod buffers;
pub(crate) mod color;
mod file;
pub(crate) mod filters;
mod gif;
pub(crate) mod header;
mod jpeg;
mod jpeg_header;
mod jpeg_scans;
mod mask;
mod orientation;
#[cfg_attr(not(feature = "turbojpeg"), allow(dead_code, reason = "only libjpeg-turbo decodes less than the whole"))]
mod part;
mod planes;
mod png;
mod refusal;
mod resize;
mod tiff;
mod tiff_directory;
mod tiff_header;
#[cfg(feature = "turbojpeg")]
mod turbo;
mod webp;
pub(crate) mod window;

pub use bitmap::Bitmap;
pub(crate) use buffers::{buffer, recycle};
pub use file::Channels;
pub(crate) use file::{DecodedImage, decode};
pub use jpeg::JpegDecoding;
pub(crate) use mask::{decode_mask, mask_bytes};
pub(crate) use orientation::{oriented, stored_region, swaps_sides};
pub(crate) use part::{PartSize, WantedPart};
pub use planes::{Element, IMAGENET_MEAN, IMAGENET_STD, Layout};
pub(crate) use planes::{Normalization, write};
pub use resize::Interpolation;
pub(crate) use resize::{Region, resize};
