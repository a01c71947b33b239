//! The first directory of a TIFF file: what its first image is, and where its pixels are. Pure.

use std::ops::Range;

use anyhow::{Context, ensure};

use super::refusal::{damaged_headers, unsupported};
use super::tiff_directory::{TiffDirectory, tag};

/// What the first directory of a TIFF file says about its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TiffHeader {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) color: TiffColor,
    pub(super) alpha: TiffAlpha,
    /// Bits for each sample: 1, 2, 4, 8 or 16.
    pub(super) bits: u8,
    /// Samples for each pixel: those of the colour, that of alpha, and others.
    pub(super) samples: u16,
    /// Whether each sample has a plane of its own.
    pub(super) is_planar: bool,
    pub(super) compression: u16,
    /// Width and height of the rectangles (strips or tiles) that are compressed on their own.
    pub(super) chunk_size: (u32, u32),
    pub(super) has_tiles: bool,
    /// Where in the file each of these rectangles is, row after row, plane after plane.
    pub(super) chunks: Vec<Range<usize>>,
    /// Where in the file the tables are that all JPEG-compressed rectangles share.
    pub(super) jpeg_tables: Option<Range<usize>>,
    /// Red, green and blue for each index of a palette.
    pub(super) palette: Vec<[u8; 3]>,
    /// Offset in the file of the lowest byte of `PhotometricInterpretation`, the tag that says what colours the samples
    /// are.
    pub(super) interpretation_at: usize,
}

/// What colours the samples of a pixel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TiffColor {
    Gray,
    /// Gray, where 0 is white.
    InvertedGray,
    Palette,
    Rgb,
    /// Amounts of ink.
    Cmyk,
    /// Luminance and two differences, in JPEG-compressed files.
    YCbCr,
}

/// Whether the sample behind those of the colour is alpha.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TiffAlpha {
    /// None, or something that is no alpha.
    None,
    Straight,
    /// The colours are multiplied by it.
    Premultiplied,
}

/// Compressions that can be decoded.
pub(super) mod compression {
    pub(in super::super) const NONE: u16 = 1;
    pub(in super::super) const FAX_GROUP_4: u16 = 4;
    pub(in super::super) const LZW: u16 = 5;
    pub(in super::super) const JPEG: u16 = 7;
    pub(in super::super) const DEFLATE: u16 = 8;
    pub(in super::super) const OLD_DEFLATE: u16 = 32_946;
    pub(in super::super) const PACK_BITS: u16 = 32_773;
}

/// A tile may be as wide and as high as its image, rounded up to a multiple of this many pixels. Programs write tiles
/// of 128 to 1,024 pixels, for smaller images, too. Of larger tiles most pixels would be decoded in vain.
const TILE_SIDE_MULTIPLE: u64 = 1_024;

/// JPEG-compressed strips and tiles may share as many bytes of tables, which are read again with each of them. All
/// tables of the format together take less than 3 KiB. Of larger ones a file of a few megabytes could take minutes.
const MAX_JPEG_TABLES: usize = 16 << 10;

/// Values that are read of a tag with one for each sample. No image of more than six samples is decoded.
const MAX_READ_SAMPLES: usize = 8;

/// First bytes of TIFF files in either byte order.
const SIGNATURES: [&[u8]; 2] = [b"II*\0", b"MM\0*"];

impl TiffHeader {
    /// Whether a file begins like a TIFF image.
    pub(super) fn has_signature(bytes: &[u8]) -> bool {
        SIGNATURES.iter().any(|signature| bytes.starts_with(signature))
    }

    /// Reads the first directory.
    ///
    /// # Errors
    /// It is damaged, says that pixels lie outside of the file, or that the file is of a kind that can't be decoded.
    pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        fn or_damaged<T>(read: anyhow::Result<T>) -> anyhow::Result<T> {
            read.with_context(|| damaged_headers("a TIFF"))
        }

        let directory = or_damaged(TiffDirectory::first(bytes))?;
        let samples = or_damaged(SampleFormat::read(&directory))?;
        let meaning = samples.meaning()?;
        let fill_order = or_damaged(directory.first_number(tag::FILL_ORDER))?;
        if fill_order == Some(2) {
            return Err(unsupported(
                "a TIFF image whose bits are stored in reverse order",
                "save it with fill order 1",
            ));
        }
        let header = or_damaged(layout(&directory, &samples, meaning))?;
        if header.is_planar && header.compression == compression::JPEG {
            return Err(unsupported("a TIFF image of JPEGs, with a plane for each sample", "convert it to PNG"));
        }
        let table_bytes = header.jpeg_tables.as_ref().map_or(0, Range::len);
        if table_bytes > MAX_JPEG_TABLES {
            let what = format!(
                "a TIFF image of JPEGs that share {table_bytes} bytes of tables (tag {}, at most {MAX_JPEG_TABLES})",
                tag::JPEG_TABLES
            );
            return Err(unsupported(&what, "save it again"));
        }
        // The decoder takes the tiles of a second plane for ones below the image.
        if header.is_planar && header.has_tiles {
            return Err(unsupported("a TIFF image of tiles, with a plane for each sample", "convert it to PNG"));
        }
        let is_larger = |tile: u32, side: u32| u64::from(tile) > u64::from(side).next_multiple_of(TILE_SIDE_MULTIPLE);
        let (tile_width, tile_height) = header.chunk_size;
        if header.has_tiles && (is_larger(tile_width, header.width) || is_larger(tile_height, header.height)) {
            let what = format!(
                "a TIFF image of {} x {} pixels (width x height) in tiles of {tile_width} x {tile_height}",
                header.width, header.height
            );
            return Err(unsupported(&what, "save it with smaller tiles"));
        }
        Ok(header)
    }

    /// Samples of the colour alone.
    pub(super) fn color_samples(&self) -> u16 {
        self.color.samples()
    }

    /// Values for each pixel of the decoded image.
    pub(super) fn channels(&self) -> u8 {
        let colors = if matches!(self.color, TiffColor::Gray | TiffColor::InvertedGray) { 1 } else { 3 };
        colors + u8::from(self.alpha != TiffAlpha::None)
    }

    /// Bits for each value of the decoded image: 8 or 16.
    pub(super) fn decoded_bits(&self) -> u8 {
        if self.bits == 16 && self.color != TiffColor::Cmyk { 16 } else { 8 }
    }

    /// Pixels that are decoded. Tiles are decoded whole where they reach over the image's edges.
    pub(super) fn coded_pixels(&self) -> u64 {
        if self.has_tiles {
            let tile = u64::from(self.chunk_size.0) * u64::from(self.chunk_size.1);
            tile.saturating_mul(self.chunks.len() as u64)
        } else {
            u64::from(self.width) * u64::from(self.height)
        }
    }

    /// Bytes of all samples without compression.
    pub(super) fn stored_bytes(&self) -> u64 {
        u64::from(self.height).saturating_mul(self.row_bytes(self.width))
    }

    fn row_bytes(&self, width: u32) -> u64 {
        let bits = u64::from(self.samples) * u64::from(self.bits);
        u64::from(width).saturating_mul(bits).div_ceil(8)
    }

    /// Bytes that are held in addition to the decoded image, at most.
    pub(super) fn scratch_bytes(&self, file_bytes: u64) -> u64 {
        let list = self.chunks.len() as u64 * 32;
        if self.compression == compression::JPEG {
            let padded = |length: u32| u64::from(length).next_multiple_of(32);
            // A rectangle, decoded by any of the decoders of JPEG.
            let chunk = padded(self.chunk_size.0).saturating_mul(padded(self.chunk_size.1)).saturating_mul(16);
            // Two copies of one rectangle's bytes: with the tables, and with an end marker for the decoder.
            return chunk.saturating_add(list).saturating_add(file_bytes.saturating_mul(2));
        }
        // The samples as they are stored, before they become values; the file, in which one number is changed.
        let copy = if self.color == TiffColor::Palette { file_bytes } else { 0 };
        let row = self.row_bytes(self.chunk_size.0);
        self.stored_bytes().saturating_add(row).saturating_add(list * 2 + copy)
    }
}

impl TiffColor {
    fn samples(self) -> u16 {
        match self {
            Self::Gray | Self::InvertedGray | Self::Palette => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

/// What a pixel is made of, as the directory says.
struct SampleFormat {
    count: usize,
    /// Of the first [`MAX_READ_SAMPLES`] samples, as are `formats` and `extra`.
    bits: Vec<usize>,
    formats: Vec<usize>,
    extra: Vec<usize>,
    interpretation: usize,
    /// Where in the file the least significant byte of `interpretation` is.
    interpretation_at: usize,
    compression: usize,
}

/// What a pixel is made of, of a kind that can be decoded.
#[derive(Clone, Copy)]
struct PixelFormat {
    color: TiffColor,
    alpha: TiffAlpha,
    /// Bits for each sample: 1, 2, 4, 8 or 16.
    bits: u8,
}

impl SampleFormat {
    fn read(directory: &TiffDirectory<'_>) -> anyhow::Result<Self> {
        let first = |tag, default| Ok::<_, anyhow::Error>(directory.first_number(tag)?.unwrap_or(default));
        let list = |tag, default| {
            let Some(values) = directory.values(tag)? else { return Ok::<_, anyhow::Error>(default) };
            Ok(directory.numbers(values).take(MAX_READ_SAMPLES).collect())
        };
        let tag = tag::INTERPRETATION;
        let interpretation = directory.values(tag)?.context("it doesn't say how samples are colours (tag 262)")?;
        let (value_bytes, count) = (interpretation.value_bytes, interpretation.count());
        ensure!(count == 1, "tag {tag} has {count} values and should have 1");
        Ok(Self {
            count: first(tag::SAMPLES_PER_PIXEL, 1)?,
            bits: list(tag::BITS_PER_SAMPLE, vec![1])?,
            formats: list(tag::SAMPLE_FORMAT, vec![1])?,
            extra: list(tag::EXTRA_SAMPLES, Vec::new())?,
            interpretation_at: interpretation.range.start + if directory.is_big_endian { value_bytes - 1 } else { 0 },
            interpretation: directory.numbers(interpretation).next().context("it ends within its directory")?,
            compression: first(tag::COMPRESSION, compression::NONE.into())?,
        })
    }

    /// Bits for each sample, if all have as many.
    fn bits(&self) -> Option<u8> {
        let bits = self.bits.first().filter(|bits| self.bits.iter().all(|other| other == *bits))?;
        u8::try_from(*bits).ok()
    }

    /// How samples are colours, and what the one behind them is.
    ///
    /// # Errors
    /// The image is of a kind that can't be decoded.
    fn meaning(&self) -> anyhow::Result<PixelFormat> {
        let to_png = "convert it to PNG";
        let compression = u16::try_from(self.compression).unwrap_or(0);
        let is_known = [
            compression::NONE,
            compression::FAX_GROUP_4,
            compression::LZW,
            compression::JPEG,
            compression::DEFLATE,
            compression::OLD_DEFLATE,
            compression::PACK_BITS,
        ]
        .contains(&compression);
        if !is_known {
            let name = match self.compression {
                2 | 3 => " (CCITT group 3)",
                6 => " (JPEG as in TIFF 6.0)",
                34_712 => " (JPEG 2000)",
                34_887 => " (LERC)",
                34_925 => " (LZMA)",
                50_000 => " (Zstandard)",
                50_001 => " (WebP)",
                _ => "",
            };
            let what = format!("a TIFF image with compression {}{name}", self.compression);
            return Err(unsupported(&what, "save it with LZW or Deflate"));
        }
        let is_jpeg = compression == compression::JPEG;
        let (color, name) = match self.interpretation {
            0 => (TiffColor::InvertedGray, "grey"),
            1 => (TiffColor::Gray, "grey"),
            2 => (TiffColor::Rgb, "RGB"),
            3 if !is_jpeg => (TiffColor::Palette, "palette"),
            5 if !is_jpeg => (TiffColor::Cmyk, "CMYK"),
            6 if is_jpeg => (TiffColor::YCbCr, "YCbCr"),
            other => {
                let what =
                    format!("a TIFF image with compression {compression} and photometric interpretation {other}");
                return Err(unsupported(&what, to_png));
            }
        };
        if let Some(format) = self.formats.iter().find(|format| **format != 1) {
            let name = match format {
                2 => "signed integers",
                3 => "floating-point numbers",
                _ => "numbers of another kind",
            };
            return Err(unsupported(&format!("a TIFF image of {name}"), "scale its values to 8 or 16 bits"));
        }
        let is_fax = compression == compression::FAX_GROUP_4;
        let are_known = |bits: &u8| match (color, bits) {
            _ if is_jpeg => *bits == 8,
            (TiffColor::Palette, _) | (_, 2..) if is_fax => false,
            (TiffColor::Gray | TiffColor::InvertedGray, 1 | 2 | 4) | (TiffColor::Palette, 1 | 2 | 4 | 8) => {
                self.count == 1
            }
            (TiffColor::Palette, _) => false,
            (_, bits) => matches!(bits, 8 | 16),
        };
        let Some(bits) = self.bits().filter(are_known) else {
            let what = format!("a {name} TIFF image of {} samples of {:?} bits", self.count, self.bits);
            return Err(unsupported(&what, "save it with 8 or 16 bits a sample"));
        };

        // As in Pillow, a few samples that say of themselves that they have no meaning are left out, and a fourth one
        // behind red, green and blue that says nothing is alpha.
        let extra = self.count.checked_sub(color.samples().into());
        let most_left_out = if color == TiffColor::Rgb { 3 } else { 1 };
        let alpha = match (extra, &self.extra[..]) {
            (Some(0), _) => TiffAlpha::None,
            (Some(1), []) if color == TiffColor::Rgb => TiffAlpha::Straight,
            (Some(count), [0, ..]) if count <= most_left_out => TiffAlpha::None,
            (Some(1), [1]) => TiffAlpha::Premultiplied,
            (Some(1), [2]) => TiffAlpha::Straight,
            _ => {
                let what = format!("a {name} TIFF image of {} samples a pixel", self.count);
                return Err(unsupported(&what, "save only its colours"));
            }
        };
        let is_simple = alpha == TiffAlpha::None && extra == Some(0);
        if (is_jpeg || matches!(color, TiffColor::Cmyk | TiffColor::InvertedGray)) && !is_simple {
            let what = format!("a {name} TIFF image with compression {compression} and {} samples a pixel", self.count);
            return Err(unsupported(&what, to_png));
        }
        Ok(PixelFormat { color, alpha, bits })
    }
}

/// The places of the strips or tiles, and all else.
fn layout(
    directory: &TiffDirectory<'_>,
    samples: &SampleFormat,
    PixelFormat { color, alpha, bits }: PixelFormat,
) -> anyhow::Result<TiffHeader> {
    let width = directory.side(tag::WIDTH, "width")?;
    let height = directory.side(tag::HEIGHT, "height")?;
    let has_tiles = directory.values(tag::TILE_OFFSETS)?.is_some();
    let (chunk_size, offsets, lengths) = if has_tiles {
        let size = (directory.side(tag::TILE_WIDTH, "tile width")?, directory.side(tag::TILE_HEIGHT, "tile height")?);
        (size, tag::TILE_OFFSETS, tag::TILE_BYTES)
    } else {
        let rows = directory.first_number(tag::ROWS_PER_STRIP)?.map_or(Ok(height), u32::try_from)?;
        ensure!(rows > 0, "its strips have no rows");
        ((width, rows.min(height)), tag::STRIP_OFFSETS, tag::STRIP_BYTES)
    };
    let offsets = directory.values(offsets)?.context("it doesn't say where its pixels are")?;
    let lengths = directory.values(lengths)?.context("it doesn't say how many bytes its pixels take")?;
    let is_planar = samples.count > 1 && directory.first_number(tag::PLANAR)? == Some(2);
    let planes = if is_planar { samples.count } else { 1 };
    let of_a_plane = u64::from(width.div_ceil(chunk_size.0)) * u64::from(height.div_ceil(chunk_size.1));
    let wanted = of_a_plane.saturating_mul(planes as u64);
    ensure!(
        offsets.count() as u64 == wanted && lengths.count() as u64 == wanted,
        "it has {} strips or tiles and should have {wanted}",
        offsets.count().min(lengths.count())
    );
    let file_bytes = directory.bytes.len();
    let mut chunks = Vec::with_capacity(offsets.count());
    for (start, length) in directory.numbers(offsets).zip(directory.numbers(lengths)) {
        let end = start.saturating_add(length);
        ensure!(
            start > 0 && length > 0 && end <= file_bytes,
            "it has {file_bytes} bytes, and the {length} bytes of a strip or tile begin at byte {start}: it is cut short \
             or sparse"
        );
        chunks.push(start..end);
    }
    // Each JPEG is read on its own, so many that share their bytes would take time of the square of the file's length.
    let chunk_bytes: usize = chunks.iter().map(Range::len).sum();
    ensure!(
        samples.compression != usize::from(compression::JPEG) || chunk_bytes <= file_bytes,
        "it has {file_bytes} bytes, and its strips or tiles {chunk_bytes}: they overlap"
    );
    Ok(TiffHeader {
        width,
        height,
        color,
        alpha,
        bits,
        samples: u16::try_from(samples.count)?,
        is_planar,
        compression: u16::try_from(samples.compression)?,
        chunk_size,
        has_tiles,
        chunks,
        jpeg_tables: directory.values(tag::JPEG_TABLES)?.map(|values| values.range),
        palette: if color == TiffColor::Palette { palette(directory, bits)? } else { Vec::new() },
        interpretation_at: samples.interpretation_at,
    })
}

/// The colours of a palette, whose numbers of 16 bits are all red ones, then green, then blue.
fn palette(directory: &TiffDirectory<'_>, bits: u8) -> anyhow::Result<Vec<[u8; 3]>> {
    let values = directory.values(tag::COLOR_MAP)?.context("it has no palette")?;
    let count = 1_usize << bits;
    ensure!(values.count() == 3 * count, "its palette has {} numbers and should have {}", values.count(), 3 * count);
    let numbers: Vec<_> = directory.numbers(values).collect();
    let high = |at: usize| (numbers[at] >> 8) as u8;
    Ok((0..count).map(|index| [high(index), high(count + index), high(2 * count + index)]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_number_can_hold_are_the_largest_one() {
        let header = |compression, has_tiles| TiffHeader {
            width: u32::MAX,
            height: u32::MAX,
            color: TiffColor::Gray,
            alpha: TiffAlpha::None,
            bits: 16,
            samples: 1,
            is_planar: false,
            compression,
            chunk_size: (u32::MAX, u32::MAX),
            has_tiles,
            chunks: vec![0..1; 2],
            jpeg_tables: None,
            palette: Vec::new(),
            interpretation_at: 0,
        };
        assert_eq!(header(compression::JPEG, false).scratch_bytes(1), u64::MAX);
        let small = TiffHeader { chunk_size: (8, 8), ..header(compression::JPEG, false) };
        assert_eq!(small.scratch_bytes(5_000) - small.scratch_bytes(1_000), 8_000, "each strip is copied twice");
        assert_eq!(header(compression::LZW, false).scratch_bytes(1), u64::MAX);
        assert_eq!(header(compression::LZW, true).coded_pixels(), u64::MAX);
        assert_eq!(header(compression::LZW, false).coded_pixels(), u64::from(u32::MAX) * u64::from(u32::MAX));
    }
}
