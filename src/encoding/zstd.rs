//! Zstandard, by ruzstd.

use anyhow::{Context, bail};
use ruzstd::decoding::StreamingDecoder;

use super::output::BoundedOutput;

pub(super) const SIGNATURE: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The largest window that the command `zstd` accepts unless it is asked to. The decoder allocates it, so a header of a
/// few bytes must not choose it freely.
const MAX_WINDOW_BYTES: u64 = 128 << 20;

/// Decompresses all frames, and passes over those that hold no data.
pub(super) fn decompress(stored: &[u8], output: &mut BoundedOutput) -> anyhow::Result<()> {
    let mut rest = stored;
    let mut has_frame = false;
    while !rest.is_empty() {
        if let Some(frame) = skippable(rest) {
            rest = rest.get(frame..).with_context(|| output.damaged())?;
            continue;
        }
        if !rest.starts_with(SIGNATURE) {
            if has_frame {
                bail!("{}", output.trailing(rest));
            }
            bail!("{}", output.damaged());
        }
        let mut frame = StreamingDecoder::new_with_max_window_size(rest, MAX_WINDOW_BYTES)
            .map_err(anyhow::Error::new)
            .with_context(|| output.damaged())?;
        output.read_from(&mut frame)?;

        // The decoder computes the checksum, and leaves it to its caller to compare.
        let decoder = &frame.decoder;
        if let Some(wanted) = decoder.get_checksum_from_data()
            && decoder.get_calculated_checksum() != Some(wanted)
        {
            bail!("{}: the checksum of a frame is another than {wanted:#010x}", output.damaged());
        }
        rest = frame.into_inner();
        has_frame = true;
    }
    if !has_frame {
        bail!("{}", output.damaged());
    }
    Ok(())
}

/// The size of a frame that begins here and holds no data of the file.
fn skippable(bytes: &[u8]) -> Option<usize> {
    let (&magic, rest) = bytes.split_first_chunk()?;
    let size = u32::from_le_bytes(*rest.first_chunk()?);
    (u32::from_le_bytes(magic) & 0xffff_fff0 == 0x184d_2a50).then(|| 8_usize.saturating_add(size as usize))
}

/// The window that the first frame with data asks for, which the decoder allocates if it isn't refused; and its blocks
/// and tables.
pub(super) fn window_bytes(stored: &[u8]) -> u64 {
    /// Two blocks of 128 KiB, and tables.
    const BESIDE: u64 = 512 << 10;
    let mut rest = stored;
    while let Some(frame) = skippable(rest) {
        rest = rest.get(frame..).unwrap_or_default();
    }
    let window = match rest.strip_prefix(SIGNATURE) {
        // The window of a frame with one segment has the size of its contents.
        Some([descriptor, ..]) if descriptor & 0x20 != 0 => frame_sizes(rest).map(|(size, _)| size),
        // Three bits are eighths of a power of two.
        Some([_, window, ..]) => {
            let base = 1_u64 << (10 + (window >> 3));
            Some(base + base / 8 * u64::from(window & 7))
        }
        _ => None,
    };
    BESIDE + window.unwrap_or_default().min(MAX_WINDOW_BYTES)
}

/// The size that the headers of all frames claim, if each does.
pub(super) fn decompressed_size(stored: &[u8]) -> Option<u64> {
    let mut rest = stored;
    let mut total = 0_u64;
    while !rest.is_empty() {
        if let Some(frame) = skippable(rest) {
            rest = rest.get(frame..)?;
            continue;
        }
        let (size, frame) = frame_sizes(rest)?;
        total = total.checked_add(size)?;
        rest = rest.get(frame..)?;
    }
    (!stored.is_empty()).then_some(total)
}

/// The decompressed size that the header of the first frame claims, and the frame's own size.
fn frame_sizes(bytes: &[u8]) -> Option<(u64, usize)> {
    let rest = bytes.strip_prefix(SIGNATURE)?;
    let (descriptor, rest) = rest.split_first()?;
    let has_one_segment = descriptor & 0x20 != 0;
    let has_checksum = descriptor & 4 != 0;
    let window = usize::from(!has_one_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let field = match descriptor >> 6 {
        0 if has_one_segment => 1,
        0 => return None,
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let rest = rest.get(window + dictionary..)?;
    let mut size = [0; 8];
    size[..field].copy_from_slice(rest.get(..field)?);
    let size = u64::from_le_bytes(size).checked_add(if field == 2 { 256 } else { 0 })?;

    let mut rest = rest.get(field..)?;
    loop {
        let (&[low, middle, high], after) = rest.split_first_chunk()?;
        let header = u32::from_le_bytes([low, middle, high, 0]);
        let length = if header >> 1 & 3 == 1 { 1 } else { header >> 3 };
        rest = after.get(length as usize..)?;
        if header & 1 == 1 {
            break;
        }
    }
    let rest = if has_checksum { rest.get(4..)? } else { rest };
    Some((size, bytes.len() - rest.len()))
}
