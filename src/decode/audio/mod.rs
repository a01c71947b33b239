//! Audio: WAV and FLAC files.

mod clip;
mod flac;
mod stack;
mod wav;

pub use clip::Audio;
pub use flac::Flac;
pub use stack::{AudioBatch, StackAudio};
pub use wav::Wav;
