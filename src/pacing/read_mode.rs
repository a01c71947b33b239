//! The modes of reading small objects, and a loader's choice among them.

use std::fmt;
use std::time::Duration;

/// How samples are read that could be composed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadMode {
    /// Each object by itself.
    #[default]
    Direct,
    /// As many objects composed as the service allows, and the others each by itself.
    Mixed,
    /// All objects composed.
    Composed,
}

impl fmt::Display for ReadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Mixed => "mixed",
            Self::Composed => "composed",
        })
    }
}

/// The mode in which a loader reads objects that could be composed, and why.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// The current mode; on trial if `reason` says so.
    pub mode: ReadMode,
    /// The reason, in one line with the figures that decided.
    pub reason: String,
    /// Samples a second of direct reads, as last measured. If the loader began to compose before there was a
    /// measurement, this is the documented rate.
    pub direct: Option<f64>,
    /// Samples a second of mixed reads, as last measured.
    pub mixed: Option<f64>,
    /// Samples a second of composed reads alone, as last measured.
    pub composed: Option<f64>,
    /// The shortest recent time of a composed read, from when it began to wait for its compose to the last byte of its
    /// object, if a group was composed.
    pub compose_latency: Option<Duration>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.mode, self.reason)
    }
}
