//! GIF files: their blocks up to the first frame, and its pixels.

use std::io::Cursor;

use ::gif::{ColorOutput, DecodeOptions, MemoryLimit};
use anyhow::{Context, bail, ensure};
use image::{DynamicImage, RgbImage, RgbaImage};

use super::buffer;
use super::refusal::{damaged_headers, not_whole};

/// First bytes of GIF files, without the version.
pub(super) const SIGNATURE: &[u8] = b"GIF8";

/// What the blocks of a GIF file up to its first frame say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GifHeader {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Values for each pixel: 3, or 4 if the first frame has a transparent colour.
    pub(super) channels: u8,
    frame: FramePlace,
}

/// Where a frame lies in its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FramePlace {
    left: u16,
    top: u16,
    width: u16,
    height: u16,
}

impl GifHeader {
    /// Reads the blocks up to the first frame.
    pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        blocks(bytes).with_context(|| damaged_headers("a GIF"))
    }

    /// Bytes that the decoder holds in addition to its output, at most.
    pub(super) fn scratch_bytes(&self) -> u64 {
        // The frame's indices into its palette.
        u64::from(self.frame.width) * u64::from(self.frame.height)
    }
}

fn blocks(bytes: &[u8]) -> anyhow::Result<GifHeader> {
    const TABLE: u8 = 0x80;
    /// Bytes of a colour table, by the flags of who has it.
    fn table_bytes(flags: u8) -> usize {
        if flags & TABLE == 0 { 0 } else { 3 << ((flags & 7) + 1) }
    }

    let screen = bytes.get(6..13).context("it ends within its screen descriptor")?;
    let mut at = 13 + table_bytes(screen[4]);
    let mut has_transparency = false;
    loop {
        match bytes.get(at..).unwrap_or_default() {
            // The graphic control of the frame that follows.
            [b'!', 0xf9, 4, flags, ..] => {
                has_transparency = flags & 1 != 0;
                at = after_sub_blocks(bytes, at + 2)?;
            }
            [b'!', _, ..] => at = after_sub_blocks(bytes, at + 2)?,
            &[b',', l0, l1, t0, t1, w0, w1, h0, h1, ..] => {
                let frame = FramePlace {
                    left: u16::from_le_bytes([l0, l1]),
                    top: u16::from_le_bytes([t0, t1]),
                    width: u16::from_le_bytes([w0, w1]),
                    height: u16::from_le_bytes([h0, h1]),
                };
                ensure!(frame.width > 0 && frame.height > 0, "its first frame has no pixel");
                // As in Pillow, an image is as large as its first frame needs.
                let side = |screen: [u8; 2], start: u16, length: u16| {
                    u32::from(u16::from_le_bytes(screen)).max(u32::from(start) + u32::from(length))
                };
                return Ok(GifHeader {
                    width: side([screen[0], screen[1]], frame.left, frame.width),
                    height: side([screen[2], screen[3]], frame.top, frame.height),
                    channels: if has_transparency { 4 } else { 3 },
                    frame,
                });
            }
            [b';', ..] => bail!("it has no frame"),
            [] | [b'!' | b','] | [b',', ..] => bail!("it ends before its first frame"),
            [other, ..] => bail!("a block begins with {other:02x} (hexadecimal)"),
        }
    }
}

/// The place behind the sub-blocks that begin at this one. The last of them is empty.
fn after_sub_blocks(bytes: &[u8], mut at: usize) -> anyhow::Result<usize> {
    loop {
        match bytes.get(at) {
            Some(0) => return Ok(at + 1),
            Some(&length) => at += 1 + usize::from(length),
            None => bail!("it ends before its first frame"),
        }
    }
}

/// Decodes the first frame of a GIF file with this header.
///
/// # Errors
/// Pixels are missing or damaged.
pub(super) fn decode(bytes: &[u8], header: &GifHeader) -> anyhow::Result<DynamicImage> {
    first_frame(bytes, header).with_context(|| not_whole("GIF", bytes, header.width, header.height))
}

fn first_frame(bytes: &[u8], header: &GifHeader) -> anyhow::Result<DynamicImage> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // Extensions of any kind are skipped. The size of the frame is known, and was checked.
    options.allow_unknown_blocks(true);
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut decoder = options.read_info(Cursor::new(bytes))?;
    let global: Vec<u8> = decoder.global_palette().unwrap_or_default().to_vec();
    let frame = decoder.read_next_frame()?.context("the decoder found no frame")?;
    let FramePlace { left, top, width, height } = header.frame;
    ensure!(
        (frame.left, frame.top, frame.width, frame.height) == (left, top, width, height),
        "the decoder found a frame of {} x {} pixels (width x height)",
        frame.width,
        frame.height
    );

    // As in Pillow: pixels without a frame have the transparent colour, or else the first one.
    let palette = frame.palette.as_deref().unwrap_or(&global);
    let channels = usize::from(header.channels);
    let color = |index: u8| {
        let color = palette.get(3 * usize::from(index)..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; 3]);
        let alpha = if frame.transparent == Some(index) { 0 } else { 255 };
        [color[0], color[1], color[2], alpha]
    };
    let colors: Vec<[u8; 4]> = (0..=255).map(color).collect();
    let row_length = header.width as usize * channels;
    let mut values = buffer(row_length * header.height as usize);
    let outside = colors[usize::from(frame.transparent.unwrap_or(0))];
    if (u32::from(width), u32::from(height)) != (header.width, header.height) {
        values.chunks_exact_mut(channels).for_each(|pixel| pixel.copy_from_slice(&outside[..channels]));
    }
    let rows = values.chunks_exact_mut(row_length).skip(top.into());
    for (row, indices) in rows.zip(frame.buffer.chunks_exact(width.into())) {
        let pixels = row[usize::from(left) * channels..].chunks_exact_mut(channels);
        for (pixel, index) in pixels.zip(indices) {
            pixel.copy_from_slice(&colors[usize::from(*index)][..channels]);
        }
    }

    let (width, height) = (header.width, header.height);
    let image = match channels {
        3 => RgbImage::from_raw(width, height, values).map(DynamicImage::from),
        _ => RgbaImage::from_raw(width, height, values).map(DynamicImage::from),
    };
    image.context("the image has another size than its header")
}
