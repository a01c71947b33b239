//! WAV files.

use anyhow::{Context, Result, bail, ensure};

use super::clip::{Audio, ClipSettings};
use super::stack::StackAudio;
use crate::decode::{Decode, DecodeMemory, ItemMemory};
use crate::encoding::first_bytes;
use crate::read::RawSample;

/// Decodes WAV files to [`Audio`], decompressed if they are [compressed](crate::encoding). A batch is an
/// [`AudioBatch`](super::AudioBatch).
///
/// Samples may be integers of 8, 16, 24 or 32 bits or floats of 32 or 64. Compressed ones (A-law, ADPCM, MP3) are
/// errors that name what they are, and so is a float that is no number.
///
/// ```no_run
/// use dataflux::{DataLoader, DatafluxDataset, Wav};
///
/// # fn main() -> anyhow::Result<()> {
/// // One second of each file, mixed to one channel; silence after shorter ones.
/// let dataset = DatafluxDataset::open("gs://my-bucket/speech/")?.decode(Wav::new().mono().length(16_000));
/// let loader = DataLoader::builder(dataset).batch_size(32).build()?;
/// for batch in &mut loader.epoch(0)? {
///     let (samples, lengths) = batch?.into_ndarray()?; // (32, 1, 16000) and (32)
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wav {
    clip: ClipSettings,
}

impl Wav {
    /// Decodes whole files with all their channels, of up to 1 GiB of samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes at most the first `frames` frames, and pads shorter files with silence in the batch. Frames are those of
    /// the file, which is not resampled: one second is 16,000 of them at 16 kHz. Files of two sample rates in one batch
    /// are an error; otherwise check [`AudioBatch::sample_rate`](crate::decode::AudioBatch::sample_rate).
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

    /// Sets how many bytes a compressed object may decompress to, and how many the decoded samples, of four bytes each,
    /// may have: 1 GiB by default.
    #[must_use]
    pub fn max_decompressed(mut self, bytes: u64) -> Self {
        self.clip.max_decompressed = bytes;
        self
    }
}

impl Decode for Wav {
    type Item = Audio;
    type Collate = StackAudio;

    fn decode(&self, sample: RawSample) -> Result<Audio> {
        let bytes = sample.decompress(self.clip.max_decompressed)?;
        drop(sample);
        read(&bytes, self.clip)
    }

    fn collate(&self) -> StackAudio {
        StackAudio { length: self.clip.length }
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromBytes
    }

    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        let memory = sample.decompression_memory(self.clip.max_decompressed);
        if memory.is_compressed() {
            // As if it had 16 bits a sample, and two channels.
            let memory = self.clip.memory(memory.size / 4, 2, memory.scratch());
            return Some(DecodeMemory { is_estimate: true, ..memory });
        }
        let (format, data) = split(sample.bytes()).ok()?;
        Some(self.clip.memory((data.len() / format.frame_bytes()) as u64, format.channels, 0))
    }
}

/// What the header of a file says of its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WavFormat {
    encoding: SampleEncoding,
    channels: usize,
    sample_rate: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SampleEncoding {
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
}

impl SampleEncoding {
    fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
            Self::I24 => 3,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The value of a sample of [`bytes`](Self::bytes) bytes.
    fn value(self, sample: &[u8]) -> f32 {
        match (self, sample) {
            (Self::U8, [byte]) => (f32::from(*byte) - 128.0) / 128.0,
            (Self::I16, [low, high]) => f32::from(i16::from_le_bytes([*low, *high])) / 32_768.0,
            (Self::I24, [low, middle, high]) => {
                (i32::from_le_bytes([0, *low, *middle, *high]) >> 8) as f32 / 8_388_608.0
            }
            (Self::I32, [a, b, c, d]) => i32::from_le_bytes([*a, *b, *c, *d]) as f32 / 2_147_483_648.0,
            (Self::F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
            (Self::F64, sample) => sample.first_chunk().map_or(0.0, |bytes| f64::from_le_bytes(*bytes) as f32),
            _ => 0.0,
        }
    }
}

impl WavFormat {
    fn frame_bytes(&self) -> usize {
        self.encoding.bytes() * self.channels
    }

    /// Reads the chunk `fmt `.
    fn read(chunk: &[u8]) -> Result<Self> {
        const EXTENSIBLE: u16 = 0xfffe;
        let cut = "its WAV header is cut short or damaged; upload it again";
        let field =
            |at: usize| chunk.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u16::from_le_bytes(*bytes));
        let mut tag = field(0).context(cut)?;
        if tag == EXTENSIBLE {
            // The first two bytes of the identifier of the encoding.
            tag = field(24).context(cut)?;
        }
        let channels = usize::from(field(2).context(cut)?);
        let (low, high) = (field(4).context(cut)?, field(6).context(cut)?);
        let sample_rate = u32::from(high) << 16 | u32::from(low);
        let frame_bytes = usize::from(field(12).context(cut)?);
        let bits = field(14).context(cut)?;
        let encoding = match (tag, bits) {
            (1, 8) => SampleEncoding::U8,
            (1, 16) => SampleEncoding::I16,
            (1, 24) => SampleEncoding::I24,
            (1, 32) => SampleEncoding::I32,
            (3, 32) => SampleEncoding::F32,
            (3, 64) => SampleEncoding::F64,
            _ => {
                let name = match tag {
                    1 => "integers",
                    2 | 0x11 => "ADPCM",
                    3 => "floats",
                    6 => "A-law",
                    7 => "mu-law",
                    0x55 => "MP3",
                    _ => "an unknown encoding",
                };
                bail!(
                    "its samples are {name} of {bits} bits (WAV encoding {tag:#06x}), and integers of 8, 16, 24 or 32 \
                     bits and floats of 32 or 64 are supported; convert it"
                );
            }
        };
        let format = Self { encoding, channels, sample_rate };
        ensure!(channels > 0, "it has 0 channels; its WAV header is damaged: upload it again");
        ensure!(sample_rate > 0, "it has 0 frames a second; its WAV header is damaged: upload it again");
        ensure!(
            frame_bytes == format.frame_bytes(),
            "a frame of its {channels} channels of {bits} bits has {} bytes, and {frame_bytes} by its WAV header; \
             convert it",
            format.frame_bytes()
        );
        Ok(format)
    }
}

/// The format of a file's samples, and their bytes.
fn split(file: &[u8]) -> Result<(WavFormat, &[u8])> {
    // What programs write that can't go back to fill in the size.
    const UNKNOWN_SIZE: u32 = u32::MAX;
    let is_wav = file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WAVE");
    ensure!(
        is_wav,
        "it is no WAV file ({}; RIFF, a size, and WAVE were wanted, that is 52 49 46 46); leave it out, or convert it",
        first_bytes(file)
    );
    let cut = "its WAV file is cut short; upload it again";
    let mut rest = file.get(12..).context(cut)?;
    let mut format = None;
    loop {
        let (&[a, b, c, d], after) = rest.split_first_chunk().context(cut)?;
        let (size, after) = after.split_first_chunk().context(cut)?;
        let size = u32::from_le_bytes(*size);
        match &[a, b, c, d] {
            b"fmt " => format = Some(WavFormat::read(after.get(..size as usize).context(cut)?)?),
            b"data" => {
                let format: WavFormat =
                    format.context("its WAV header has no chunk \"fmt \" before its samples; convert it")?;
                let data = if size == UNKNOWN_SIZE { Some(after) } else { after.get(..size as usize) };
                let data = data.with_context(|| {
                    format!(
                        "it has {} bytes of samples and claims {size}; it is cut short: upload it again",
                        after.len()
                    )
                })?;
                ensure!(
                    data.len().is_multiple_of(format.frame_bytes()),
                    "its {} bytes of samples end within a frame of {}; it is cut short or damaged: upload it again",
                    data.len(),
                    format.frame_bytes()
                );
                return Ok((format, data));
            }
            _ => {}
        }
        // Chunks begin at even offsets.
        rest = after.get(size as usize..).context(cut)?;
        rest = if size.is_multiple_of(2) { rest } else { rest.get(1..).context(cut)? };
    }
}

fn read(file: &[u8], clip: ClipSettings) -> Result<Audio> {
    let (format, data) = split(file)?;
    let frames = clip.frames((data.len() / format.frame_bytes()) as u64) as usize;
    clip.check(frames as u64, format.channels)?;
    let data = data.get(..frames * format.frame_bytes()).unwrap_or_default();

    let bytes = format.encoding.bytes();
    let channel = |channel: usize| {
        let samples = data.chunks_exact(format.frame_bytes());
        samples.map(|frame| format.encoding.value(&frame[channel * bytes..][..bytes])).collect::<Vec<f32>>()
    };
    let channels: Vec<_> = (0..format.channels).map(channel).collect();
    for (channel, samples) in channels.iter().enumerate() {
        if let Some(frame) = samples.iter().position(|sample| !sample.is_finite()) {
            bail!(
                "its sample of channel {channel} in frame {frame}, both counted from 0, is {}; repair it, or leave \
                 it out",
                samples[frame]
            );
        }
    }
    Ok(clip.audio(channels, format.sample_rate))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(name: &[u8], size: u32, bytes: &[u8]) -> Vec<u8> {
        [name, &size.to_le_bytes()[..], bytes, &[0][..bytes.len() % 2]].concat()
    }

    fn fmt(tag: u16, channels: u16, bits: u16) -> Vec<u8> {
        let frame = channels * bits / 8;
        let mut fmt = [tag.to_le_bytes(), channels.to_le_bytes()].concat();
        fmt.extend([16_000_u32.to_le_bytes(), (16_000 * u32::from(frame)).to_le_bytes()].concat());
        fmt.extend([frame.to_le_bytes(), bits.to_le_bytes()].concat());
        fmt
    }

    fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
        let chunks = chunks.concat();
        [b"RIFF", &(4 + chunks.len() as u32).to_le_bytes()[..], b"WAVE", &chunks].concat()
    }

    fn wav(tag: u16, channels: u16, bits: u16, data: &[u8]) -> Vec<u8> {
        riff(&[chunk(b"fmt ", 16, &fmt(tag, channels, bits)), chunk(b"data", data.len() as u32, data)])
    }

    fn samples(file: &[u8]) -> Vec<f32> {
        read(file, ClipSettings::default()).unwrap().samples
    }

    fn error_of(file: &[u8]) -> String {
        format!("{:#}", read(file, ClipSettings::default()).unwrap_err())
    }

    #[test]
    fn all_encodings_are_read() {
        assert_eq!(samples(&wav(1, 1, 8, &[0, 128, 192])), [-1.0, 0.0, 0.5]);
        assert_eq!(samples(&wav(1, 1, 16, &[0, 0x80, 0, 0, 0, 0x40])), [-1.0, 0.0, 0.5]);
        assert_eq!(samples(&wav(1, 1, 24, &[0, 0, 0x80, 0, 0, 0x40, 1, 0, 0])), [-1.0, 0.5, 1.0 / 8_388_608.0]);
        assert_eq!(samples(&wav(1, 1, 32, &[0, 0, 0, 0x80, 0, 0, 0, 0x40])), [-1.0, 0.5]);
        assert_eq!(samples(&wav(3, 1, 32, &[-1.5_f32, 0.25].map(f32::to_le_bytes).concat())), [-1.5, 0.25]);
        assert_eq!(samples(&wav(3, 1, 64, &0.25_f64.to_le_bytes())), [0.25]);
        let mut extensible = fmt(0xfffe, 1, 16);
        extensible.extend([22, 0, 16, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71]);
        let odd = chunk(b"LIST", 3, b"cat");
        let file = riff(&[odd.clone(), chunk(b"fmt ", 40, &extensible), odd, chunk(b"data", 2, &[0, 0x40])]);
        assert_eq!(samples(&file), [0.5]);
    }

    #[test]
    fn channels_are_apart_clipped_and_mixed() {
        let file = wav(1, 2, 8, &[0, 128, 192, 128, 64, 0]);
        let audio = read(&file, ClipSettings::default()).unwrap();
        assert_eq!(audio, Audio { samples: vec![-1.0, 0.5, -0.5, 0.0, 0.0, -1.0], channels: 2, sample_rate: 16_000 });
        assert_eq!(audio.frames(), 3);
        let clip = Wav::new().mono().length(2).clip;
        assert_eq!(read(&file, clip).unwrap().samples, [-0.5, 0.25]);
        assert_eq!(read(&file, Wav::new().length(9).clip).unwrap(), audio);
        let error = read(&file, Wav::new().max_decompressed(23).clip).unwrap_err().to_string();
        assert!(error.contains("3 frames of 2 channels, 24 bytes"), "{error}");
        assert!(read(&file, Wav::new().max_decompressed(24).clip).is_ok());
        assert!(samples(&wav(1, 2, 16, b"")).is_empty());
    }

    #[test]
    fn headers_that_lie_are_errors() {
        let fmt_chunk = chunk(b"fmt ", 16, &fmt(1, 1, 16));
        let claims = |size: u32| riff(&[fmt_chunk.clone(), chunk(b"data", size, &[0, 0x40])]);
        assert!(error_of(&claims(4)).contains("has 2 bytes of samples and claims 4"));
        assert!(error_of(&claims(u32::MAX - 1)).contains("has 2 bytes of samples and claims 4294967294"));
        assert!(error_of(&claims(1)).contains("end within a frame of 2"));
        // Written to a pipe, where nobody knew the size.
        assert_eq!(samples(&claims(u32::MAX)), [0.5]);

        assert!(error_of(&wav(1, 0, 16, &[0, 0])).contains("0 channels"));
        assert!(error_of(&wav(6, 1, 8, &[0])).contains("A-law of 8 bits (WAV encoding 0x0006)"));
        assert!(error_of(&wav(1, 1, 12, &[0])).contains("integers of 12 bits"));
        let mut lying = wav(1, 1, 16, &[0, 0]);
        lying[32] = 4;
        assert!(error_of(&lying).contains("has 2 bytes, and 4 by its WAV header"));
        let mut no_rate = wav(1, 1, 16, &[0, 0]);
        no_rate[24..28].fill(0);
        assert!(error_of(&no_rate).contains("0 frames a second"));
        assert!(error_of(&riff(&[chunk(b"data", 0, b"")])).contains("no chunk \"fmt \""));
        assert!(error_of(b"RIFX").contains("first bytes 52 49 46 58"));
        let nan = wav(3, 2, 32, &[0.0, f32::NAN].map(f32::to_le_bytes).concat());
        assert!(error_of(&nan).contains("channel 1 in frame 0, both counted from 0, is NaN"));
    }

    #[test]
    fn files_that_are_cut_short_are_errors() {
        let file = wav(1, 2, 16, &[1; 16]);
        for length in 0..file.len() {
            let error = error_of(&file[..length]);
            assert!(error.contains(if length < 12 { "no WAV file" } else { "cut short" }), "{length}: {error}");
        }
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut file = wav(1, 2, 16, &[1; 16]);
            for (index, byte) in edits {
                let index = index.index(file.len());
                file[index] = byte;
            }
            let _ = read(&file, ClipSettings::default());
        }
    }
}
