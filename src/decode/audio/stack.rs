//! Stacks audio.

use anyhow::{Context, Result, bail, ensure};
use ndarray::{Array1, Array3};

use super::clip::Audio;
use crate::collate::Collate;

/// The audio of several files, with silence after those that are shorter than others.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioBatch {
    /// Of shape (files, channels, frames).
    pub samples: Array3<f32>,
    /// How many frames each file has; what follows in `samples` is silence.
    pub lengths: Array1<i64>,
    /// Frames of a second; 0 for a batch of no files.
    pub sample_rate: u32,
}

/// A [`Collate`] that stacks audio of one sample rate and number of channels, with silence after that which is shorter
/// than a set length or than the longest of the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackAudio {
    /// Frames of each file in a batch; as many as the longest one has if it is `None`.
    pub(super) length: Option<usize>,
}

impl StackAudio {
    /// Batches that are as long as their longest file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Batches of this many frames. What is longer is clipped.
    #[must_use]
    pub fn length(mut self, frames: usize) -> Self {
        self.length = Some(frames);
        self
    }
}

/// Numbers of a batch at most that is padded to its longest file: a quarter of a GiB. So much silence is a mistake, also
/// where the memory budget has room for it.
const MAX_PADDED: usize = 1 << 26;

impl Collate<Audio> for StackAudio {
    type Output = AudioBatch;

    fn collate(&self, files: Vec<Audio>) -> Result<AudioBatch> {
        let (channels, sample_rate) = files.first().map_or((0, 0), |first| (first.channels, first.sample_rate));
        let longest = files.iter().map(Audio::frames).max().unwrap_or_default();
        let frames = self.length.unwrap_or(longest);
        let count = channels.checked_mul(frames).and_then(|count| count.checked_mul(files.len()));
        let count = count.context("a batch has more samples than can be counted")?;
        let own: usize = files.iter().map(|file| file.samples.len()).sum();
        ensure!(
            self.length.is_some() || count <= MAX_PADDED.max(own),
            "padding {} files to the longest, of {longest} frames, makes {count} numbers, more than {MAX_PADDED}; set a \
             length with .length(frames)",
            files.len()
        );
        let mut samples = Vec::new();
        samples.try_reserve_exact(count).with_context(|| format!("there is no memory for {count} numbers"))?;
        let mut lengths = Vec::with_capacity(files.len());
        for (index, file) in files.iter().enumerate() {
            if (file.channels, file.sample_rate) != (channels, sample_rate) {
                bail!(
                    "audio of two kinds doesn't stack: sample {index} of the batch has {} channels of {} Hz, and \
                     sample 0 {channels} of {sample_rate} Hz; mix to mono with .mono(), or resample in a closure",
                    file.channels,
                    file.sample_rate
                );
            }
            let length = file.frames().min(frames);
            for channel in 0..channels {
                let start = channel * file.frames();
                samples.extend_from_slice(file.samples.get(start..start + length).unwrap_or_default());
                samples.resize(samples.len() + frames - length, 0.0);
            }
            lengths.push(length as i64);
        }
        let samples = Array3::from_shape_vec((files.len(), channels, frames), samples)
            .context("audio doesn't have the length that it says")?;
        Ok(AudioBatch { samples, lengths: lengths.into(), sample_rate })
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        self.batch_bytes(item_bytes)
    }

    fn batch_bytes(&self, item_bytes: u64) -> u64 {
        // Silence, as if there were two channels.
        let set = self.length.map_or(0, |frames| (frames as u64).saturating_mul(2 * size_of::<f32>() as u64));
        item_bytes.max(set)
    }

    fn pads_to_largest(&self) -> bool {
        self.length.is_none()
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn audio(samples: &[f32], channels: usize) -> Audio {
        Audio { samples: samples.to_vec(), channels, sample_rate: 8_000 }
    }

    #[test]
    fn shorter_audio_is_followed_by_silence() {
        let files = vec![audio(&[0.1, 0.2, 0.3, 0.4], 2), audio(&[0.5, 0.6], 2), audio(&[], 2)];
        let batch = StackAudio::new().collate(files.clone()).unwrap();
        assert_eq!(batch.samples, array![[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.0], [0.6, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]);
        assert_eq!((batch.lengths, batch.sample_rate), (array![2, 1, 0], 8_000));
        let batch = StackAudio::new().length(1).collate(files.clone()).unwrap();
        assert_eq!(batch.samples, array![[[0.1], [0.3]], [[0.5], [0.6]], [[0.0], [0.0]]]);
        assert_eq!(batch.lengths, array![1, 1, 0]);
        assert_eq!(StackAudio::new().length(5).collate(files).unwrap().samples.shape(), [3, 2, 5]);
        assert_eq!(StackAudio::new().collate(Vec::new()).unwrap().samples.shape(), [0, 0, 0]);
    }

    #[test]
    fn audio_of_two_kinds_does_not_stack() {
        let error = StackAudio::new().collate(vec![audio(&[0.1], 1), audio(&[0.1, 0.2], 2)]).unwrap_err().to_string();
        assert!(error.contains("sample 1 of the batch has 2 channels of 8000 Hz, and sample 0 1 of"), "{error}");
        assert!(StackAudio::new().length(usize::MAX).collate(vec![audio(&[0.1, 0.2], 2)]).is_err());
    }
}
