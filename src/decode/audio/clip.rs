//! Decoded audio, and what is kept of a file.

use anyhow::{Result, ensure};

use crate::decode::DecodeMemory;
use crate::encoding::DEFAULT_MAX_DECOMPRESSED;

/// The audio of one file. A *frame* is one sample of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// Channel after channel: all samples of the first one, then all of the second one. Integers of a file are divided
    /// by their range, so that they are in `-1.0..1.0`; floats of a file are as they are.
    pub samples: Vec<f32>,
    /// How many channels there are, at least 1.
    pub channels: usize,
    /// Frames of a second.
    pub sample_rate: u32,
}

impl Audio {
    /// How many frames there are.
    pub fn frames(&self) -> usize {
        self.samples.len() / self.channels.max(1)
    }
}

/// What is kept of a file, and how much it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClipSettings {
    /// Frames that are kept at most.
    pub(super) length: Option<usize>,
    pub(super) is_mono: bool,
    pub(super) max_decompressed: u64,
}

impl Default for ClipSettings {
    fn default() -> Self {
        Self { length: None, is_mono: false, max_decompressed: DEFAULT_MAX_DECOMPRESSED }
    }
}

impl ClipSettings {
    /// The frames to decode of a file that has so many.
    pub(super) fn frames(&self, frames: u64) -> u64 {
        self.length.map_or(frames, |length| frames.min(length as u64))
    }

    /// Checks that so many decoded samples may be held.
    ///
    /// # Errors
    /// They have more bytes than allowed.
    pub(super) fn check(&self, frames: u64, channels: usize) -> Result<()> {
        let bytes = frames.saturating_mul(channels as u64).saturating_mul(size_of::<f32>() as u64);
        ensure!(
            bytes <= self.max_decompressed,
            "it decodes to {frames} frames of {channels} channels, {bytes} bytes or more, and {} are allowed; raise \
             that limit with max_decompressed, clip with length, or leave it out",
            self.max_decompressed
        );
        Ok(())
    }

    /// Makes audio of the samples of each channel, which are equally many and at least of one channel.
    pub(super) fn audio(&self, mut channels: Vec<Vec<f32>>, sample_rate: u32) -> Audio {
        if let (true, Some((mixed, others))) = (self.is_mono, channels.split_first_mut()) {
            let factor = 1.0 / (1 + others.len()) as f32;
            for (index, sample) in mixed.iter_mut().enumerate() {
                let sum = others.iter().filter_map(|channel| channel.get(index)).fold(*sample, |sum, next| sum + next);
                *sample = sum * factor;
            }
            channels.truncate(1);
        }
        let count = channels.len();
        let samples = if count == 1 { channels.swap_remove(0) } else { channels.concat() };
        Audio { samples, channels: count, sample_rate }
    }

    /// Memory for a file of so many frames, beside its own bytes and `buffer` other bytes.
    pub(super) fn memory(&self, frames: u64, channels: usize, buffer: u64) -> DecodeMemory {
        let decoded = self.frames(frames).saturating_mul(channels as u64 * size_of::<f32>() as u64);
        let item = if self.is_mono { decoded / channels.max(1) as u64 } else { decoded };
        // The samples are held twice when channels are mixed or brought in a row.
        let scratch = if channels == 1 { 0 } else { decoded };
        DecodeMemory { item, scratch: scratch.saturating_add(buffer), is_estimate: false }
    }
}
