//! The ways to read small objects, and what a loader tells of its choice.

use std::fmt;
use std::time::Duration;

/// How samples are read that can be joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadMode {
    /// Each by itself.
    #[default]
    Direct,
    /// As many joined as the service lets be composed, and the others each by itself.
    Mixed,
    /// All joined.
    Composed,
}

pub(crate) const READ_MODES: [ReadMode; 3] = [ReadMode::Direct, ReadMode::Mixed, ReadMode::Composed];

impl fmt::Display for ReadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Mixed => "mixed",
            Self::Composed => "composed",
        })
    }
}

/// How a loader reads what could be joined, and why.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// The way now; on trial where `reason` says so.
    pub way: ReadMode,
    /// Why, in one line with the figures that decided.
    pub reason: String,
    /// Samples a second that reading one by one last brought, where it was measured; or should bring, as is documented, where joining
    /// began before there was anything to measure.
    pub direct: Option<f64>,
    /// The same of both ways at once.
    pub mixed: Option<f64>,
    /// The same of joined reads alone.
    pub composed: Option<f64>,
    /// From the start of a compose to the last byte of its object, where one was tried.
    pub compose_latency: Option<Duration>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.way, self.reason)
    }
}
