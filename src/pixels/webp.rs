//! WebP files: their chunks, and the pixels of their only or first frame.

use std::io::Cursor;
use std::ops::Range;

use anyhow::{Context, bail, ensure};
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder};

use super::refusal::{damaged_headers, not_whole, unsupported};

/// What the chunks of a WebP file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebpHeader {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Values for each pixel that the decoder returns: 3, or 4 with alpha.
    pub(super) channels: u8,
    /// Where in the file the TIFF structure of the EXIF tags is.
    pub(super) exif: Option<Range<usize>>,
    is_animated: bool,
    is_lossy: bool,
}

/// One chunk of a RIFF file.
struct Chunk<'a> {
    name: &'a [u8],
    data: &'a [u8],
    /// Offset of the data.
    at: usize,
}

impl Chunk<'_> {
    /// Offset of the next chunk, from where `at` is counted.
    fn end(&self) -> usize {
        self.at + self.data.len().next_multiple_of(2)
    }
}

impl WebpHeader {
    /// Whether a file begins like a WebP image.
    pub(super) fn has_signature(bytes: &[u8]) -> bool {
        bytes.starts_with(b"RIFF") && bytes.get(8..12).is_some_and(|form| form == b"WEBP")
    }

    /// Reads all chunks.
    ///
    /// # Errors
    /// The file ends before its last chunk does, has no image, or is too large for the decoder.
    pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let header = chunks(bytes).with_context(|| damaged_headers("a WebP"))?;
        // The decoder computes the bytes of an animation's canvas in 32 bits.
        if header.is_animated && u64::from(header.width) * u64::from(header.height) >= 1 << 30 {
            return Err(unsupported("an animated WebP image of 2^30 pixels or more", "scale it down"));
        }
        Ok(header)
    }

    /// Bytes that the decoder holds in addition to its output, at most. Measured.
    pub(super) fn scratch_bytes(&self, file_bytes: u64) -> u64 {
        let pixels = u64::from(self.width) * u64::from(self.height);
        let frame = if self.is_lossy {
            // Planes of 1.5 bytes a pixel, in macroblocks of 16 x 16 pixels, each with its state. The alpha channel is
            // a lossless frame, of which the green values are taken.
            let padded = |length: u32| u64::from(length).next_multiple_of(16);
            padded(self.width) * padded(self.height) * 2 + if self.channels == 4 { pixels * 6 } else { 0 }
        } else {
            // The transforms; and four channels, unless they are the output.
            pixels * if self.channels == 3 { 5 } else { 1 }
        };
        // Frame and canvas, of four channels each.
        let animation = if self.is_animated { pixels * 8 } else { 0 };
        frame + animation + file_bytes
    }
}

/// The file without bytes behind its end, among which the decoder would look for chunks.
fn whole_file(bytes: &[u8]) -> anyhow::Result<&[u8]> {
    let size = bytes.get(4..8).and_then(|size| size.try_into().ok()).map(u32::from_le_bytes);
    let end = 8 + size.context("it has no size")? as usize;
    bytes.get(..end).with_context(|| format!("it has {} bytes and should have {end}: it is cut short", bytes.len()))
}

fn chunks(bytes: &[u8]) -> anyhow::Result<WebpHeader> {
    let (bytes, mut at) = (whole_file(bytes)?, 12);

    let first = chunk(bytes, at)?;
    let mut header = match first.name {
        b"VP8 " | b"VP8L" => frame(&first)?,
        b"VP8X" => {
            let &[flags, _, _, _, w0, w1, w2, h0, h1, h2, ..] = first.data else {
                bail!("its chunk VP8X has {} bytes", first.data.len())
            };
            WebpHeader {
                width: u32::from_le_bytes([w0, w1, w2, 0]) + 1,
                height: u32::from_le_bytes([h0, h1, h2, 0]) + 1,
                channels: if flags & 0x10 == 0 { 3 } else { 4 },
                exif: None,
                is_animated: flags & 2 != 0,
                is_lossy: false,
            }
        }
        name => bail!("its first chunk is {}", name.escape_ascii()),
    };
    if first.name != b"VP8X" {
        return Ok(header);
    }

    let canvas = (header.width, header.height);
    let mut has_image = false;
    while at + 8 <= bytes.len() {
        let next = chunk(bytes, at)?;
        match next.name {
            // The decoder would take what is in such a frame for chunks of the file.
            b"ANMF" if !header.is_animated => {
                bail!("it has a chunk ANMF, and its chunk VP8X says that it isn't animated")
            }
            // An animation's frames are of any kind; the first one is decoded.
            b"ANMF" if !has_image => {
                let (place, inner) = next.data.split_at_checked(16).context("its first frame has no place")?;
                let number = |at: usize| u32::from_le_bytes([place[at], place[at + 1], place[at + 2], 0]);
                let (left, top, size) = (2 * number(0), 2 * number(3), (number(6) + 1, number(9) + 1));
                ensure!(
                    left + size.0 <= canvas.0 && top + size.1 <= canvas.1,
                    "its first frame is not inside of {} x {} pixels (width x height)",
                    canvas.0,
                    canvas.1
                );
                let alpha = chunk(inner, 0)?;
                let image = if alpha.name == b"ALPH" { chunk(inner, alpha.end())? } else { alpha };
                header.is_lossy = frame_of_size(&image, size)?.is_lossy;
                has_image = true;
            }
            b"VP8 " | b"VP8L" if !has_image && !header.is_animated => {
                header.is_lossy = frame_of_size(&next, canvas)?.is_lossy;
                has_image = true;
            }
            b"EXIF" if header.exif.is_none() => {
                // Some programs repeat the signature that EXIF data have in JPEG files.
                let skipped = if next.data.starts_with(b"Exif\0\0") { 6 } else { 0 };
                header.exif = Some(next.at + skipped..next.at + next.data.len());
            }
            _ => {}
        }
        at = next.end();
    }
    ensure!(has_image, "it has no image");
    Ok(header)
}

/// The chunk at this place.
fn chunk(bytes: &[u8], at: usize) -> anyhow::Result<Chunk<'_>> {
    let Some(([name @ .., s0, s1, s2, s3], rest)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk::<8>) else {
        bail!("it ends at byte {} within a chunk", bytes.len());
    };
    let length = u32::from_le_bytes([*s0, *s1, *s2, *s3]) as usize;
    let data = rest
        .get(..length)
        .with_context(|| format!("its chunk {} has {} of {length} bytes", name.escape_ascii(), rest.len()))?;
    Ok(Chunk { name, data, at: at + 8 })
}

/// The header of a frame of a larger file, which states the frame's width and height, too. The decoder finds out
/// whether they agree when it has decoded the frame.
fn frame_of_size(chunk: &Chunk<'_>, (width, height): (u32, u32)) -> anyhow::Result<WebpHeader> {
    let header = frame(chunk)?;
    ensure!(
        (header.width, header.height) == (width, height),
        "a frame has {} x {} pixels (width x height) and should have {width} x {height}",
        header.width,
        header.height
    );
    Ok(header)
}

/// Reads the header of one frame: of a chunk `VP8 ` or `VP8L`.
fn frame(chunk: &Chunk<'_>) -> anyhow::Result<WebpHeader> {
    let (width, height, channels) = match (chunk.name, chunk.data) {
        (b"VP8 ", &[t0, t1, t2, 0x9d, 1, 0x2a, w0, w1, h0, h1, ref rest @ ..]) => {
            // The decoder reserves what the parts of a frame claim. Those behind the first one claim 16 MiB at most.
            let first_part = u32::from_le_bytes([t0, t1, t2, 0]) >> 5;
            ensure!(
                first_part as usize <= rest.len(),
                "the first part of its frame has {} of {first_part} bytes",
                rest.len()
            );
            // The upper two bits are a scale for displays.
            let size = |bytes: [u8; 2]| u32::from(u16::from_le_bytes(bytes) & 0x3fff);
            (size([w0, w1]), size([h0, h1]), 3)
        }
        (b"VP8L", &[0x2f, a, b, c, d, ..]) => {
            let bits = u32::from_le_bytes([a, b, c, d]);
            ((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1, 3 + ((bits >> 28) & 1) as u8)
        }
        _ => bail!("its frame has no header"),
    };
    ensure!(width > 0 && height > 0, "its size is {width} x {height} pixels (width x height)");
    Ok(WebpHeader { width, height, channels, exif: None, is_animated: false, is_lossy: chunk.name == b"VP8 " })
}

/// Decodes the only or first frame of a WebP file with this header.
///
/// # Errors
/// Pixels are missing or damaged.
pub(super) fn decode(bytes: &[u8], header: &WebpHeader) -> anyhow::Result<DynamicImage> {
    let decode = || {
        let decoder = WebPDecoder::new(Cursor::new(whole_file(bytes)?))?;
        let found = decoder.dimensions();
        ensure!(
            found == (header.width, header.height) && decoder.color_type().channel_count() == header.channels,
            "the decoder found {} x {} pixels of {} channels",
            found.0,
            found.1,
            decoder.color_type().channel_count()
        );
        Ok(DynamicImage::from_decoder(decoder)?)
    };
    decode().with_context(|| not_whole("WebP", bytes, header.width, header.height))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peaks were measured with a counting allocator, decoding images of 2,001 x 1,500 pixels to RGB.
    #[test]
    fn decoding_takes_no_more_than_the_header_says_and_not_half_of_it() {
        for (is_lossy, channels, is_animated, file_bytes, peak) in [
            (true, 3, false, 458_132, 14_970_420),
            (true, 3, false, 5_452, 14_307_488),
            (true, 4, false, 457_756, 31_561_728),
            (true, 3, true, 1_009_908, 30_015_116),
            (false, 3, false, 6_765_134, 21_067_008),
            (false, 3, false, 166, 21_019_071),
            (false, 4, false, 7_126_704, 21_010_500),
            (false, 4, true, 14_313_724, 36_018_116),
        ] {
            let header = WebpHeader { width: 2_001, height: 1_500, channels, exif: None, is_animated, is_lossy };
            let pixels = 2_001 * 1_500;
            // The decoder's output, and either its working memory or the RGB that it is converted to.
            let stated = pixels * u64::from(channels) + header.scratch_bytes(file_bytes).max(3 * pixels) + (64 << 10);
            assert!((peak..2 * peak).contains(&stated), "{header:?}: {stated} bytes for {peak}");
        }
    }
}
