//! Decodes JPEG files by libjpeg-turbo, whole or a part of them. The only file that names its bindings.
#![allow(unsafe_code, reason = "a C library has no safe calls; what makes these sound is private to this file")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use turbojpeg_sys as library;

use super::jpeg_header::JpegHeader;
use super::part::DecodedPart;
use super::{buffer, recycle};

// The bindings were made on Linux, and take C's `unsigned long` for `size_t`, which has fewer bits on Windows.
const _: () = assert!(
    size_of::<library::size_t>() == size_of::<usize>(),
    "the feature `turbojpeg` is not for this platform, where turbojpeg-sys passes sizes as numbers of another width"
);

/// A decompressor of libjpeg-turbo, destroyed on drop.
///
/// Each image has one of its own: to make one takes a microsecond or two, and between two images it would hold no
/// memory that the next one could use.
struct Decompressor(NonNull<c_void>);

/// libjpeg-turbo refused the file or warned about it. The message is dropped, because the caller tries another decoder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TurboFailed;

/// Decodes a part of a file to values of one channel (one component) or three (RGB), row after row. `file` must end with
/// an end marker.
///
/// # Errors
/// The file is damaged or of a kind that libjpeg-turbo doesn't decode; the part isn't within the image. Each of the
/// library's warnings is an error.
pub(super) fn decode(file: &[u8], header: &JpegHeader, part: DecodedPart) -> Result<Vec<u8>, TurboFailed> {
    Decompressor::new()?.decode(file, header, part)
}

impl Decompressor {
    fn new() -> Result<Self, TurboFailed> {
        // SAFETY: the call has no preconditions. It returns null or a handle that is valid until it is destroyed.
        let handle = unsafe { library::tj3Init(library::TJINIT_TJINIT_DECOMPRESS as c_int) };
        let mut decompressor = Self(NonNull::new(handle).ok_or(TurboFailed)?);
        decompressor.set(library::TJPARAM_TJPARAM_STOPONWARNING as c_int, 1)?;
        // Colour profiles are not used, and copies of them would be memory that nobody has counted.
        decompressor.set(library::TJPARAM_TJPARAM_SAVEMARKERS as c_int, 0)?;
        Ok(decompressor)
    }

    fn set(&mut self, parameter: c_int, value: c_int) -> Result<(), TurboFailed> {
        // SAFETY: the handle is valid; unknown parameters and values are refused.
        succeeded(unsafe { library::tj3Set(self.0.as_ptr(), parameter, value) })
    }

    /// Whether a parameter of the file whose header was read has this value.
    fn has(&self, parameter: c_int, wanted: u32) -> bool {
        // SAFETY: the handle is valid; an unknown parameter is answered by -1.
        let found = unsafe { library::tj3Get(self.0.as_ptr(), parameter) };
        u32::try_from(found) == Ok(wanted)
    }

    /// As the function [`decode`]. One function, because each of its calls relies on those before.
    fn decode(&mut self, file: &[u8], header: &JpegHeader, part: DecodedPart) -> Result<Vec<u8>, TurboFailed> {
        let (height, width) = (u32::from(header.height), u32::from(header.width));
        // The library adds the sides of a region to its place without a check for overflow, and takes a side of 0 for
        // one that reaches up to the edge.
        if !part.is_within(height, width) {
            return Err(TurboFailed);
        }
        let (channels, format) = match header.components.len() {
            1 => (1, library::TJPF_TJPF_GRAY),
            _ => (3, library::TJPF_TJPF_RGB),
        };
        let number = |number: u32| c_int::try_from(number).map_err(|_| TurboFailed);
        let region = part.region;
        let (x, y, w, h) = (number(region.left)?, number(region.top)?, number(region.width)?, number(region.height)?);
        let stride = (region.width as usize).checked_mul(channels).ok_or(TurboFailed)?;
        let length = stride.checked_mul(region.height as usize).ok_or(TurboFailed)?;
        let pitch = c_int::try_from(stride).map_err(|_| TurboFailed)?;
        let bytes = file.len() as library::size_t;

        // SAFETY: the handle is valid, and the call reads `file.len()` bytes from `file` and keeps no pointer to them.
        succeeded(unsafe { library::tj3DecompressHeader(self.0.as_ptr(), file.as_ptr(), bytes) })?;
        let is_same_size = self.has(library::TJPARAM_TJPARAM_JPEGWIDTH as c_int, width)
            && self.has(library::TJPARAM_TJPARAM_JPEGHEIGHT as c_int, height);
        if !is_same_size {
            return Err(TurboFailed);
        }

        let scale = library::tjscalingfactor { num: 1, denom: number(part.divisor)? };
        // SAFETY: the handle is valid; an unsupported scale is refused.
        succeeded(unsafe { library::tj3SetScalingFactor(self.0.as_ptr(), scale) })?;
        if part != DecodedPart::whole(height, width, part.divisor) {
            // SAFETY: the handle is valid, and the region lies within the scaled image. One that begins within a column
            // of blocks is refused.
            succeeded(unsafe { library::tj3SetCroppingRegion(self.0.as_ptr(), library::tjregion { x, y, w, h }) })?;
        }

        let mut pixels = buffer(length);
        assert_eq!(pixels.len(), length, "a buffer has the length that it was asked for");
        // SAFETY: the handle is valid, and `file.len()` bytes may be read from `file`. The call writes `h` rows of
        // `stride` bytes, each `pitch` bytes behind the one before, and `pixels` has `h * stride` bytes, as was
        // checked: the region that is set has these sides, none of which is 0, or it is the whole scaled image, whose
        // sides `DecodedPart::whole` and the library compute alike from those that the library has found in this file.
        // The library calls no code of Rust, so nothing unwinds through it.
        let decoded = succeeded(unsafe {
            library::tj3Decompress8(self.0.as_ptr(), file.as_ptr(), bytes, pixels.as_mut_ptr(), pitch, format)
        });
        match decoded {
            Ok(()) => Ok(pixels),
            Err(failed) => {
                recycle(pixels);
                Err(failed)
            }
        }
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the handle is valid, and nothing uses it after this.
        unsafe { library::tj3Destroy(self.0.as_ptr()) }
    }
}

fn succeeded(answer: c_int) -> Result<(), TurboFailed> {
    if answer == 0 { Ok(()) } else { Err(TurboFailed) }
}

#[cfg(test)]
mod tests {
    use super::super::resize::Region;
    use super::*;

    #[test]
    fn a_part_without_pixels_or_outside_of_the_image_is_refused() {
        let (header, file) = super::super::jpeg::tests::file("ycc-bare_11.11.11_plain_r0_37x35");
        let decoded = |top, left, height, width| {
            let region = Region { top, left, height, width };
            decode(file, &header, DecodedPart { divisor: 1, region }).map(|pixels| pixels.len())
        };
        assert_eq!(decoded(0, 0, 35, 37), Ok(35 * 37 * 3));
        assert_eq!(decoded(30, 32, 5, 5), Ok(5 * 5 * 3));
        // A side of 0 is no side up to the edge.
        for (top, left, height, width) in [(0, 0, 0, 37), (0, 0, 35, 0), (0, 0, 0, 0), (5, 8, 0, 8), (0, 8, 8, 0)] {
            assert_eq!(decoded(top, left, height, width), Err(TurboFailed));
        }
        for (top, left, height, width) in [(0, 0, 36, 37), (0, 0, 35, 38), (35, 0, 1, 1), (0, 40, 1, 1), (0, 3, 8, 8)] {
            assert_eq!(decoded(top, left, height, width), Err(TurboFailed));
        }
        // The library would add 1 to this height, which overflows.
        assert_eq!(decoded(1, 0, i32::MAX as u32, 1), Err(TurboFailed));
        assert_eq!(decoded(0, 0, u32::MAX, u32::MAX), Err(TurboFailed));
    }
}
