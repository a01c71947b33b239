//! The entries of the first directory of a TIFF file: tags and their values. Pure.

use std::ops::Range;

use anyhow::{Context, bail, ensure};

/// Tags of a directory that matter here.
pub(super) mod tag {
    pub(in super::super) const WIDTH: u16 = 256;
    pub(in super::super) const HEIGHT: u16 = 257;
    pub(in super::super) const BITS_PER_SAMPLE: u16 = 258;
    pub(in super::super) const COMPRESSION: u16 = 259;
    pub(in super::super) const INTERPRETATION: u16 = 262;
    pub(in super::super) const FILL_ORDER: u16 = 266;
    pub(in super::super) const STRIP_OFFSETS: u16 = 273;
    pub(in super::super) const SAMPLES_PER_PIXEL: u16 = 277;
    pub(in super::super) const ROWS_PER_STRIP: u16 = 278;
    pub(in super::super) const STRIP_BYTES: u16 = 279;
    pub(in super::super) const PLANAR: u16 = 284;
    pub(in super::super) const PREDICTOR: u16 = 317;
    pub(in super::super) const COLOR_MAP: u16 = 320;
    pub(in super::super) const TILE_WIDTH: u16 = 322;
    pub(in super::super) const TILE_HEIGHT: u16 = 323;
    pub(in super::super) const TILE_OFFSETS: u16 = 324;
    pub(in super::super) const TILE_BYTES: u16 = 325;
    pub(in super::super) const EXTRA_SAMPLES: u16 = 338;
    pub(in super::super) const SAMPLE_FORMAT: u16 = 339;
    pub(in super::super) const JPEG_TABLES: u16 = 347;
    pub(in super::super) const CHROMA_SUBSAMPLING: u16 = 530;
}

/// Tags with few values, and how many they may have. The decoder takes memory for as many as the directory says, before
/// its limits can be set.
const MAX_VALUE_COUNTS: [(u16, usize); 14] = [
    (tag::WIDTH, 1),
    (tag::HEIGHT, 1),
    (tag::BITS_PER_SAMPLE, MAX_SAMPLES),
    (tag::COMPRESSION, 1),
    (tag::INTERPRETATION, 1),
    (tag::SAMPLES_PER_PIXEL, 1),
    (tag::ROWS_PER_STRIP, 1),
    (tag::PLANAR, 1),
    (tag::PREDICTOR, 1),
    (tag::TILE_WIDTH, 1),
    (tag::TILE_HEIGHT, 1),
    (tag::EXTRA_SAMPLES, MAX_SAMPLES),
    (tag::SAMPLE_FORMAT, MAX_SAMPLES),
    (tag::CHROMA_SUBSAMPLING, 2),
];

/// The most samples that the number of samples for each pixel, of 16 bits, can say.
const MAX_SAMPLES: usize = 65_535;

/// The entries of a directory: tags and their values.
pub(super) struct TiffDirectory<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) is_big_endian: bool,
    entries: &'a [[u8; 12]],
    /// Offset of the first entry in the file.
    first_entry: usize,
}

impl<'a> TiffDirectory<'a> {
    pub(super) fn first(bytes: &'a [u8]) -> anyhow::Result<Self> {
        let is_big_endian = bytes.starts_with(b"MM");
        let mut directory = Self { bytes, is_big_endian, entries: &[], first_entry: 0 };
        let at = directory.number_at(4, 4).context("it ends within its first 8 bytes")?;
        let count = directory.number_at(at, 2).with_context(|| format!("it ends before its directory at byte {at}"))?;
        directory.first_entry = at + 2;
        let entries = bytes.get(at + 2..at + 2 + 12 * count).context("it ends within its directory")?;
        directory.entries = entries.as_chunks().0;

        // Decoders differ in which of two entries holds.
        let mut tags: Vec<_> = directory.entries.iter().map(|entry| directory.number(&entry[..2])).collect();
        tags.sort_unstable();
        if let Some([tag, _]) = tags.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("its directory has tag {tag} twice");
        }
        for (tag, most) in MAX_VALUE_COUNTS {
            let count = directory.entry(tag).map_or(0, |(_, entry)| directory.number(&entry[4..8]));
            ensure!(count <= most, "tag {tag} has {count} values and should have {most} at most");
        }
        Ok(directory)
    }

    /// The number of these 1, 2 or 4 bytes.
    fn number(&self, bytes: &[u8]) -> usize {
        let shifted = |number: usize, byte: &u8| number << 8 | usize::from(*byte);
        if self.is_big_endian { bytes.iter().fold(0, shifted) } else { bytes.iter().rev().fold(0, shifted) }
    }

    /// The number of `length` bytes (1, 2 or 4) at this place of the file.
    fn number_at(&self, at: usize, length: usize) -> Option<usize> {
        Some(self.number(self.bytes.get(at..at.checked_add(length)?)?))
    }

    /// A tag's entry, and its offset in the file.
    fn entry(&self, tag: u16) -> Option<(usize, &'a [u8; 12])> {
        let index = self.entries.iter().position(|entry| self.number(&entry[..2]) == usize::from(tag))?;
        Some((self.first_entry + 12 * index, &self.entries[index]))
    }

    /// The place of a tag's values.
    pub(super) fn values(&self, tag: u16) -> anyhow::Result<Option<TagValues>> {
        let Some((at, entry)) = self.entry(tag) else { return Ok(None) };
        let value_bytes = match self.number(&entry[2..4]) {
            1 | 7 => 1,
            3 => 2,
            4 => 4,
            other => bail!("the values of tag {tag} are of type {other}"),
        };
        let count = self.number(&entry[4..8]);
        let total = count.checked_mul(value_bytes).context("a tag has too many values")?;
        let start = if total <= 4 { at + 8 } else { self.number(&entry[8..]) };
        let range = start..start.saturating_add(total);
        ensure!(range.end <= self.bytes.len(), "the {count} values of tag {tag} lie outside of the file");
        Ok(Some(TagValues { range, value_bytes }))
    }

    pub(super) fn numbers(&self, TagValues { range, value_bytes }: TagValues) -> impl Iterator<Item = usize> {
        range.step_by(value_bytes).map_while(move |at| self.number_at(at, value_bytes))
    }

    /// The first value of a tag.
    pub(super) fn first_number(&self, tag: u16) -> anyhow::Result<Option<usize>> {
        Ok(self.values(tag)?.and_then(|values| self.numbers(values).next()))
    }

    pub(super) fn side(&self, tag: u16, name: &str) -> anyhow::Result<u32> {
        let found = self.first_number(tag)?.with_context(|| format!("it has no {name}"))?;
        ensure!(found > 0, "its {name} is 0");
        Ok(u32::try_from(found)?)
    }
}

/// Where in the file the values of one tag are.
pub(super) struct TagValues {
    pub(super) range: Range<usize>,
    /// Bytes of each value: 1, 2 or 4.
    pub(super) value_bytes: usize,
}

impl TagValues {
    pub(super) fn count(&self) -> usize {
        self.range.len() / self.value_bytes
    }
}
