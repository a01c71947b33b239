//! Decodes JPEG files by libjpeg-turbo, whole or a part of them. The only file that names its bindings.
#![allow(unsafe_code, reason = "a C library has no safe calls; what makes these sound is private to this file")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use turbojpeg_sys as library;

use super::jpeg_header::JpegHeader;
use super::part::DecodedPart;
use super::{buffer, recycle};

// The bindings were made on Linux, and take C's `unsigned long` for `size_t`.
const _: () = assert!(
    size_of::<library::size_t>() == size_of::<usize>(),
    "the feature `turbojpeg` is not for this platform, where turbojpeg-sys passes sizes as numbers of another width"
);

/// A decompressor of libjpeg-turbo, destroyed on drop.
///
/// Each image has one of its own: to make one takes a microsecond or two, and between two images it would hold no
/// memory that the next one could use.
struct Decompressor(NonNull<c_void>);

/// libjpeg-turbo doesn't decode a file, or warns about it. What is wrong is not kept, since the file is given to
/// another decoder.
#[derive(Debug)]
pub(super) struct TurboFailed;

/// Decodes a part of a file to values of one channel (one component) or three (RGB), row after row. The file ends with
/// an end marker.
///
/// # Errors
/// The file is damaged or of a kind that libjpeg-turbo doesn't decode. Each of its warnings is an error.
pub(super) fn decode(file: &[u8], header: &JpegHeader, part: DecodedPart) -> Result<Vec<u8>, TurboFailed> {
    let (channels, format) = match header.components.len() {
        1 => (1, library::TJPF_TJPF_GRAY),
        _ => (3, library::TJPF_TJPF_RGB),
    };
    let size = (u32::from(header.height), u32::from(header.width));
    let mut decompressor = Decompressor::new()?;
    decompressor.read_header(file, size)?;
    decompressor.select(part, size)?;
    let mut pixels = buffer(part.region.height as usize * part.region.width as usize * channels);
    match decompressor.decompress(file, part, channels, format, &mut pixels) {
        Ok(()) => Ok(pixels),
        Err(failed) => {
            recycle(pixels);
            Err(failed)
        }
    }
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

    /// Reads the file's header, and checks that it has this height and width.
    fn read_header(&mut self, file: &[u8], (height, width): (u32, u32)) -> Result<(), TurboFailed> {
        // SAFETY: the handle is valid, and the call reads `file.len()` bytes from `file` and keeps no pointer to them.
        succeeded(unsafe { library::tj3DecompressHeader(self.0.as_ptr(), file.as_ptr(), length(file)) })?;
        let has = |parameter, wanted: u32| {
            // SAFETY: the handle is valid; an unknown parameter is answered by -1.
            let found = unsafe { library::tj3Get(self.0.as_ptr(), parameter) };
            u32::try_from(found) == Ok(wanted)
        };
        let is_same = has(library::TJPARAM_TJPARAM_JPEGWIDTH as c_int, width)
            && has(library::TJPARAM_TJPARAM_JPEGHEIGHT as c_int, height);
        if is_same { Ok(()) } else { Err(TurboFailed) }
    }

    /// Chooses the scale and the region of an image of this height and width.
    fn select(&mut self, part: DecodedPart, (height, width): (u32, u32)) -> Result<(), TurboFailed> {
        let number = |number: u32| c_int::try_from(number).map_err(|_| TurboFailed);
        let scale = library::tjscalingfactor { num: 1, denom: number(part.divisor)? };
        // SAFETY: the handle is valid; an unsupported scale is refused.
        succeeded(unsafe { library::tj3SetScalingFactor(self.0.as_ptr(), scale) })?;
        if part == DecodedPart::whole(height, width, part.divisor) {
            return Ok(());
        }
        let region = part.region;
        let (x, y, w, h) = (number(region.left)?, number(region.top)?, number(region.width)?, number(region.height)?);
        // SAFETY: the handle is valid; a region that lies outside of the scaled image, or begins within a column of
        // blocks, is refused.
        succeeded(unsafe { library::tj3SetCroppingRegion(self.0.as_ptr(), library::tjregion { x, y, w, h }) })
    }

    /// Decodes the selected part into `pixels`.
    fn decompress(
        &mut self,
        file: &[u8],
        part: DecodedPart,
        channels: usize,
        format: c_int,
        pixels: &mut [u8],
    ) -> Result<(), TurboFailed> {
        let stride = part.region.width as usize * channels;
        if pixels.len() != stride * part.region.height as usize {
            return Err(TurboFailed);
        }
        let pitch = c_int::try_from(stride).map_err(|_| TurboFailed)?;
        // SAFETY: the handle is valid, and `file.len()` bytes may be read from `file`. The call writes as many rows as
        // the selected part has, each of `stride` bytes and `pitch` bytes behind the one before, so `pixels` holds all
        // of them. The part has this size because `read_header` found the image's size, of which `DecodedPart` and the
        // library compute the scaled one alike, and `file` is the slice that it was read from, which the caller, this
        // module's `decode`, passes to both. The library calls no code of Rust, so nothing unwinds through it.
        succeeded(unsafe {
            library::tj3Decompress8(self.0.as_ptr(), file.as_ptr(), length(file), pixels.as_mut_ptr(), pitch, format)
        })
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the handle is valid, and nothing uses it after this.
        unsafe { library::tj3Destroy(self.0.as_ptr()) }
    }
}

/// The length of a slice, in the type of the bindings, which has as many bits.
fn length(bytes: &[u8]) -> library::size_t {
    bytes.len() as library::size_t
}

fn succeeded(answer: c_int) -> Result<(), TurboFailed> {
    if answer == 0 { Ok(()) } else { Err(TurboFailed) }
}
