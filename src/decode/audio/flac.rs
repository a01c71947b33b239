//! FLAC files, by symphonia.

use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, bail, ensure};
use symphonia_bundle_flac::{FlacDecoder, FlacReader};
use symphonia_core::audio::Channels;
use symphonia_core::codecs::CodecParameters;
use symphonia_core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia_core::formats::{FormatOptions, FormatReader};
use symphonia_core::io::{MediaSourceStream, MediaSourceStreamOptions, ReadOnlySource};

use super::clip::{Audio, ClipSettings};
use super::stack::StackAudio;
use crate::decode::{Decode, DecodeMemory, ItemMemory};
use crate::encoding::{DecodedBytes, first_bytes};
use crate::read::RawSample;

/// Decodes FLAC files to [`Audio`]. A batch is an [`AudioBatch`](super::AudioBatch).
///
/// Whole files are checked against the number of frames and the checksum in their headers, if they have them. Files
/// that are [clipped](Self::length) are only decoded as far as that, and not checked. A tag before the file, such as
/// ID3, is an error.
///
/// ```no_run
/// use dataflux::{DataLoader, DatafluxDataset, Flac};
///
/// # fn main() -> anyhow::Result<()> {
/// let dataset = DatafluxDataset::open("gs://my-bucket/librispeech/")?.decode(Flac::new().mono());
/// let loader = DataLoader::builder(dataset).batch_size(8).build()?;
/// for batch in &mut loader.epoch(0)? {
///     let (samples, lengths) = batch?.into_ndarray()?; // (8, 1, frames of the longest) and (8)
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flac {
    clip: ClipSettings,
}

impl Flac {
    /// Decodes whole files with all their channels, of up to 1 GiB of samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes the first `frames` frames only, and makes batches of that length.
    #[must_use]
    pub fn length(mut self, frames: usize) -> Self {
        self.clip.length = Some(frames);
        self
    }

    /// Mixes all channels to one, their mean.
    #[must_use]
    pub fn mono(mut self) -> Self {
        self.clip.is_mono = true;
        self
    }

    /// Sets how many bytes the decoded samples, of four bytes each, may have: 1 GiB by default. Decoding stops where a
    /// file has more, whatever its header says.
    #[must_use]
    pub fn max_decompressed(mut self, bytes: u64) -> Self {
        self.clip.max_decompressed = bytes;
        self
    }
}

impl Decode for Flac {
    type Item = Audio;
    type Collate = StackAudio;

    fn decode(&self, sample: RawSample) -> Result<Audio> {
        let bytes = sample.decompress(self.clip.max_decompressed)?;
        drop(sample);
        read(bytes, self.clip)
    }

    fn collate(&self) -> StackAudio {
        StackAudio { length: self.clip.length }
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromBytes
    }

    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        let memory = sample.decompression_memory(self.clip.max_decompressed);
        let header = FlacHeader::read(sample.bytes()).filter(|header| header.frames > 0);
        let Some(FlacHeader { channels, frames, block_frames }) = header else {
            // Without a count of frames, music has about a byte and a half for each sample.
            let memory = self.clip.memory(memory.size / 3, 2, memory.scratch());
            return Some(DecodeMemory { is_estimate: true, ..memory });
        };
        // A file that will be refused takes nothing.
        self.clip.check(self.clip.frames(frames), channels).ok()?;
        // symphonia holds a block of integers, and a copy of it is made of floats.
        let block = block_frames * channels as u64 * (size_of::<i32>() + size_of::<f32>()) as u64;
        Some(self.clip.memory(frames, channels, memory.scratch().saturating_add(block)))
    }
}

/// What the first block of a file says of its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FlacHeader {
    channels: usize,
    /// 0 if it isn't known.
    frames: u64,
    /// Frames of the largest block, at most 65,535.
    block_frames: u64,
}

const SIGNATURE: &[u8] = b"fLaC";

/// Bytes of the signature and the first block, which has 34 bytes behind a header of four.
const FIRST_BYTES: usize = 42;

impl FlacHeader {
    fn read(file: &[u8]) -> Option<Self> {
        let rest = file.strip_prefix(SIGNATURE)?;
        // Whether it is the last block and its kind, which is 0; its length; the sizes of the smallest and of the
        // largest block.
        let (&[_, 0, 0, 34, _, _, high, low], rest) = rest.split_first_chunk()? else { return None };
        // Sizes of frames of six bytes; then 20 bits of the rate, 3 of the channels but one, 5 of the bits but one, and
        // 36 of the number of frames.
        let bits = u64::from_be_bytes(*rest.get(6..)?.first_chunk()?);
        let block_frames = u16::from_be_bytes([high, low]).into();
        Some(Self { channels: (bits >> 41 & 7) as usize + 1, frames: bits & ((1 << 36) - 1), block_frames })
    }
}

/// The file without its other blocks, such as pictures and texts, which symphonia would parse and hold.
///
/// # Errors
/// The file is cut short within a block, or begins with another one.
fn without_metadata(file: DecodedBytes) -> Result<impl Read + Send + Sync> {
    const IS_LAST: u8 = 0x80;
    let cut = "its FLAC header is cut short or damaged; upload it again";
    let mut first = *file.first_chunk::<FIRST_BYTES>().context(cut)?;
    let kind = &mut first[SIGNATURE.len()];
    let mut is_last = *kind & IS_LAST != 0;
    *kind |= IS_LAST;
    ensure!(*kind == IS_LAST, cut);
    let mut start = FIRST_BYTES;
    while !is_last {
        let &[kind, a, b, c] = file.get(start..).and_then(|rest| rest.first_chunk()).context(cut)?;
        is_last = kind & IS_LAST != 0;
        start += 4 + u32::from_be_bytes([0, a, b, c]) as usize;
        ensure!(start <= file.len(), cut);
    }
    let mut frames = Cursor::new(file);
    frames.set_position(start as u64);
    Ok(Cursor::new(first).chain(frames))
}

fn read(file: DecodedBytes, clip: ClipSettings) -> Result<Audio> {
    ensure!(
        file.starts_with(SIGNATURE),
        "it is no FLAC file ({}, and {} was wanted); leave it out, or convert it",
        first_bytes(&file),
        first_bytes(SIGNATURE)
    );
    let header = FlacHeader::read(&file).context("its FLAC header is cut short; upload it again")?;
    // What is known is checked before anything is decoded.
    clip.check(clip.frames(header.frames), header.channels)?;
    // symphonia adds up damaged numbers, which overflow, and in debug builds panic.
    catch_unwind(AssertUnwindSafe(|| decode(file, clip)))
        .unwrap_or_else(|_| bail!("its FLAC data are damaged; upload it again, or leave it out"))
}

/// Frames that memory is reserved for at once: six minutes at 44.1 kHz.
const MAX_EXPECTED_FRAMES: u64 = 1 << 24;

fn decode(file: DecodedBytes, clip: ClipSettings) -> Result<Audio> {
    let damaged = "its FLAC data are cut short or damaged; upload it again, or leave it out";
    let source = ReadOnlySource::new(without_metadata(file)?);
    let source = MediaSourceStream::new(Box::new(source), MediaSourceStreamOptions::default());
    let mut reader = FlacReader::try_new(source, FormatOptions::default()).context(damaged)?;
    let track = reader.tracks().first().context(damaged)?;
    let claimed = track.num_frames;
    let Some(CodecParameters::Audio(parameters)) = track.codec_params.clone() else { bail!(damaged) };
    let sample_rate = parameters.sample_rate.filter(|rate| *rate > 0).context("it has 0 frames a second")?;
    let count = parameters.channels.as_ref().map_or(0, Channels::count);
    ensure!(count > 0, "it has 0 channels; its FLAC header is damaged: upload it again");
    let options = AudioDecoderOptions::default().verify(clip.length.is_none());
    let mut decoder = FlacDecoder::try_new(&parameters, &options).context(damaged)?;

    // What the header claims is touched only as far as there are frames.
    let expected = clip.frames(claimed.unwrap_or_default()).min(MAX_EXPECTED_FRAMES) as usize;
    let mut channels: Vec<Vec<f32>> = (0..count).map(|_| Vec::with_capacity(expected)).collect();
    let mut block: Vec<Vec<f32>> = Vec::new();
    let mut frames = 0_usize;
    let is_done = |frames: usize| clip.length.is_some_and(|length| frames >= length);
    while !is_done(frames)
        && let Some(packet) = reader.next_packet().context(damaged)?
    {
        let decoded = decoder.decode(&packet).context(damaged)?;
        ensure!(
            decoded.num_planes() == count,
            "its FLAC blocks have another number of channels than its header; {damaged}"
        );
        let in_block = decoded.frames();
        clip.check(clip.frames((frames + in_block) as u64), count)?;
        decoded.copy_to_vecs_planar(&mut block);
        let kept = clip.frames((frames + in_block) as u64) as usize - frames;
        for (channel, samples) in channels.iter_mut().zip(&block) {
            channel.extend_from_slice(samples.get(..kept).context(damaged)?);
        }
        frames += kept;
    }

    if let Some(claimed) = claimed.map(|claimed| clip.frames(claimed)) {
        ensure!(
            claimed == frames as u64,
            "it has {frames} frames and claims {claimed}; it is cut short or damaged: upload it again"
        );
    }
    ensure!(
        decoder.finalize().verify_ok != Some(false),
        "its samples have another checksum than its header; {damaged}"
    );
    Ok(clip.audio(channels, sample_rate))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two channels of 16 bits: 1,000 frames of a sine, and of its half.
    const FILE: &[u8] = include_bytes!("../../../tests/data/audio/sine.flac");

    fn error_of(file: &[u8]) -> String {
        format!("{:#}", read(file.to_vec().into(), ClipSettings::default()).unwrap_err())
    }

    #[test]
    fn files_are_decoded_clipped_and_mixed() {
        let audio = read(FILE.to_vec().into(), ClipSettings::default()).unwrap();
        assert_eq!((audio.channels, audio.sample_rate, audio.frames()), (2, 16_000, 1_000));
        assert_eq!(FlacHeader::read(FILE).unwrap(), FlacHeader { channels: 2, frames: 1_000, block_frames: 1_152 });
        for frame in 0..1_000 {
            let wanted = (frame as f64 * 0.05).sin() * 0.8;
            let [left, right] = [0, 1_000].map(|start| f64::from(audio.samples[start + frame]));
            assert!((left - wanted).abs() < 2.0 / 32_768.0, "{frame}: {left}, not {wanted}");
            assert!((right - wanted / 2.0).abs() < 2.0 / 32_768.0, "{frame}: {right}, not half of {wanted}");
        }
        let clipped = read(FILE.to_vec().into(), Flac::new().length(600).mono().clip).unwrap();
        assert_eq!((clipped.channels, clipped.frames()), (1, 600));
        for frame in 0..600 {
            let mean = f32::midpoint(audio.samples[frame], audio.samples[1_000 + frame]);
            assert!((clipped.samples[frame] - mean).abs() < 1e-7, "{frame}");
        }
        assert_eq!(read(FILE.to_vec().into(), Flac::new().length(2_000).clip).unwrap(), audio);
        let error = read(FILE.to_vec().into(), Flac::new().max_decompressed(7_999).clip).unwrap_err().to_string();
        assert!(error.contains("1000 frames of 2 channels, 8000 bytes"), "{error}");
        assert!(read(FILE.to_vec().into(), Flac::new().max_decompressed(8_000).clip).is_ok());
    }

    #[test]
    fn files_that_are_cut_short_or_damaged_are_errors() {
        for length in 0..FILE.len() {
            assert!(read(FILE[..length].to_vec().into(), ClipSettings::default()).is_err(), "{length}");
        }
        assert!(error_of(b"RIFF").contains("first bytes 52 49 46 46, and first bytes 66 4c 61 43 was wanted"));
        assert!(error_of(b"").contains("it is empty"));
        // The header claims 2^36 - 1 frames.
        let mut lying = FILE.to_vec();
        lying[21] |= 0x0f;
        lying[22..26].fill(0xff);
        assert!(error_of(&lying).contains("68719476735 frames of 2 channels"));
        // It doesn't know how many frames there are; the limit holds anyway.
        lying[21] &= 0xf0;
        lying[22..26].fill(0);
        assert!(read(lying.clone().into(), ClipSettings::default()).is_ok());
        assert!(read(lying.into(), Flac::new().max_decompressed(7_999).clip).is_err());
        let wanted = read(FILE.to_vec().into(), ClipSettings::default()).unwrap().samples;
        for index in (42..FILE.len()).step_by(7) {
            let mut damaged = FILE.to_vec();
            damaged[index] ^= 0x10;
            if let Ok(audio) = read(damaged.into(), ClipSettings::default()) {
                assert_eq!(audio.samples, wanted, "{index}");
            }
        }
    }

    /// symphonia copied pictures, and took four megabytes for one that only claimed to be there.
    #[test]
    fn blocks_beside_the_first_are_passed_over() {
        let picture = [&[6, 0, 0x40, 0][..], &[0xff; 0x4000]].concat();
        let comment = [&[0x84, 0, 0, 8][..], &[0xff; 8]].concat();
        let mut file = [&FILE[..FIRST_BYTES], &picture, &comment, &FILE[FIRST_BYTES..]].concat();
        file[4] = 0;
        let wanted = read(FILE.to_vec().into(), ClipSettings::default()).unwrap();
        assert_eq!(read(file.clone().into(), ClipSettings::default()).unwrap(), wanted);
        for length in FIRST_BYTES..FIRST_BYTES + picture.len() + comment.len() {
            assert!(error_of(&file[..length]).contains("cut short"), "{length}");
        }
        // A picture that claims 16 MiB; and one in place of the first block.
        file[FIRST_BYTES + 1] = 0xff;
        assert!(error_of(&file).contains("its FLAC header is cut short or damaged"));
        file[4] = 6;
        assert!(error_of(&file).contains("its FLAC header is cut short or damaged"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_files_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut file = FILE.to_vec();
            for (index, byte) in edits {
                let index = index.index(file.len());
                file[index] = byte;
            }
            let _ = read(file.into(), ClipSettings::default());
        }
    }
}
