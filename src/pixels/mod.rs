//! Image files to bitmaps: what a file is, how much memory decoding it takes, and its pixels.
//!
//! `header` reads the headers before anything is decoded (`jpeg_header` those of a JPEG); `file` decodes a file to a
//! [`Bitmap`], and `jpeg` and `jpeg_scans` see that no pixel of a JPEG is missing. `resize`, `orientation`, `window`,
//! `affine`, `color` and `filters` change a bitmap, and `planes` writes one into a batch. All of it is pure, but for
//! `buffers`, which keeps memory.

pub(crate) mod affine;
mod bitmap;
mod buffers;
pub(crate) mod color;
mod file;
pub(crate) mod filters;
pub(crate) mod header;
mod jpeg;
mod jpeg_header;
mod jpeg_scans;
mod orientation;
mod planes;
mod resize;
pub(crate) mod window;

pub use bitmap::Bitmap;
pub(crate) use buffers::{buffer, recycle};
pub use file::Channels;
pub(crate) use file::decode;
pub(crate) use orientation::{oriented, stored_region, swaps_sides};
pub use planes::{Element, IMAGENET_MEAN, IMAGENET_STD, Layout};
pub(crate) use planes::{Normalization, write};
pub use resize::Interpolation;
pub(crate) use resize::{Region, resize};
