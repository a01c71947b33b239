//! Where a run stands.

use serde::{Deserialize, Serialize};

use super::sampler::Sampler;
use super::{Beyond, LastBatch, Sequential, Shuffle, WindowShuffle, wrong};
use crate::Result;
use crate::manifest::Digest;

/// Where a run stands: what the training loop has been *given*, not what was fetched for it.
///
/// Some 200 to 300 bytes in any serde format. It holds at any number of ranks, since it counts in the global order; where
/// batches are [unordered](crate::DataLoaderBuilder::unordered) and there are several ranks, those of all ranks together do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct State {
    /// Of this format.
    pub version: u32,
    /// Digest of the manifest, in hex.
    pub manifest: String,
    /// In versions 1 and 2 the seed, where the order is shuffled; `sampler` has it since.
    #[serde(default)]
    pub seed: Option<u64>,
    /// The epoch this is in.
    pub epoch: u64,
    /// Samples of this epoch delivered, over all ranks, padding not counted.
    pub position: u64,
    /// Most samples in a batch of one rank.
    pub batch_size: usize,
    /// Whether a last batch that isn't full is dropped.
    pub drop_last: bool,
    /// In version 2 the samples in a window, where each is shuffled within itself; `sampler` has it since.
    #[serde(default)]
    pub window: Option<u64>,
    /// What orders the samples: [`Sampler::identity`]; since version 3.
    #[serde(default)]
    pub sampler: Option<String>,
    /// Samples in a batch over all ranks, where that is what was set; since version 3.
    #[serde(default)]
    pub global_batch_size: Option<usize>,
    /// Whether a last batch that isn't full is filled up; since version 3.
    #[serde(default)]
    pub pad_last: Option<bool>,
    /// What was delivered beyond the position, where batches come as they are done; since version 3.
    #[serde(default)]
    pub beyond: Option<Beyond>,
}

impl State {
    /// The version this crate writes. It reads those before, too, in formats that name their fields, such as JSON.
    pub const VERSION: u32 = 3;

    /// Refuses a state of another format, or of another manifest.
    pub(crate) fn check(&self, digest: Digest) -> Result<()> {
        if !(1..=Self::VERSION).contains(&self.version) {
            return Err(wrong("this state was saved by another version of the crate")
                .mismatch(format_args!("version 1 to {}", Self::VERSION), format_args!("version {}", self.version))
                .hint("resume with the version that saved it"));
        }
        if self.manifest != digest.to_string() {
            return Err(wrong("this state belongs to other data")
                .mismatch(format_args!("a manifest of digest {}", self.manifest), digest)
                .hint("objects were added, removed or overwritten since: begin the epoch anew"));
        }
        let damaged = |message, wanted: &str, got: String| {
            Err(wrong(message).mismatch(wanted, got).hint("the state is damaged; take an earlier one"))
        };
        if self.window == Some(0) || (self.window.is_some() && self.seed.is_none()) {
            let got = format!("{:?} and {:?}", self.window, self.seed);
            return damaged("this state has a window that can't be", "a window of at least 1, and a seed", got);
        }
        if self.drop_last && self.pad_last == Some(true) {
            return damaged("this state drops the last batch and fills it up", "one of these", "both".to_owned());
        }
        Ok(())
    }

    /// Refuses a place that isn't there.
    pub(crate) fn check_position(&self, samples: u64) -> Result<()> {
        if self.position > samples {
            return Err(wrong("this state is beyond the end of its epoch")
                .mismatch(format_args!("a position of at most {samples}"), self.position)
                .hint("the state is damaged; take an earlier one"));
        }
        Ok(())
    }

    /// The identity of the sampler that its epoch is ordered by.
    pub(crate) fn identity(&self) -> String {
        self.sampler.clone().unwrap_or_else(|| match (self.seed, self.window) {
            (None, _) => Sequential.identity(),
            (Some(seed), None) => Shuffle::new(seed).identity(),
            (Some(seed), Some(window)) => WindowShuffle::new(seed, window).identity(),
        })
    }

    pub(crate) fn last_batch(&self) -> LastBatch {
        match (self.drop_last, self.pad_last) {
            (true, _) => LastBatch::Drop,
            (false, Some(true)) => LastBatch::Pad,
            (false, _) => LastBatch::Short,
        }
    }
}

/// The sampler of an identity that tells all of it.
pub(crate) fn told(identity: &str) -> Option<Box<dyn Sampler>> {
    let numbers = |name: &str, keys: &[&str]| -> Option<Vec<u64>> {
        let inner = identity.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?;
        let mut parts = inner.split(", ");
        let numbers = keys.iter().map(|key| parts.next()?.strip_prefix(key)?.strip_prefix('=')?.parse().ok()).collect();
        parts.next().is_none().then_some(numbers)?
    };
    let sampler: Box<dyn Sampler> = if identity == Sequential.identity() {
        Box::new(Sequential)
    } else if let Some(&[seed]) = numbers("shuffle", &["seed"]).as_deref() {
        Box::new(Shuffle::new(seed))
    } else if let Some(&[seed, window]) = numbers("windows", &["seed", "samples"]).as_deref() {
        Box::new(WindowShuffle::new(seed, window))
    } else {
        return None;
    };
    // Written otherwise than it would be, it is somebody else's.
    (sampler.identity() == identity).then_some(sampler)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const DIGEST: Digest = Digest([1; 32]);

    fn golden() -> [(u32, State); 4] {
        [
            (1, include_str!("golden/state-1.json")),
            (2, include_str!("golden/state-2.json")),
            (3, include_str!("golden/state-3.json")),
            (3, include_str!("golden/state-3-sampler.json")),
        ]
        .map(|(version, json)| (version, serde_json::from_str(json).unwrap()))
    }

    /// Files that earlier versions wrote.
    #[test]
    fn states_of_all_versions_are_read() {
        for (version, state) in golden() {
            assert_eq!(state.version, version);
            state.check(DIGEST).unwrap();
            state.check_position(512).unwrap();
            assert_eq!((state.epoch, state.position, state.batch_size), (3, 512, 256));
        }
        let [first, second, third, own] = golden().map(|(_, state)| state);
        assert_eq!((first.identity(), first.last_batch()), ("shuffle(seed=42)".into(), LastBatch::Drop));
        assert_eq!(second.identity(), "windows(seed=42, samples=1000)");
        assert_eq!((third.identity(), third.last_batch()), (first.identity(), LastBatch::Short));
        assert_eq!((own.identity(), own.last_batch()), ("mine(weight=0.5)".into(), LastBatch::Pad));
        assert_eq!(own.global_batch_size, Some(512));
        let sequential = State { seed: None, sampler: None, ..first };
        assert_eq!(sequential.identity(), "sequential");
    }

    /// What is written today.
    #[test]
    fn golden_of_this_version() {
        let [.., (_, state)] = golden();
        assert_eq!(state.version, State::VERSION);
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(json, include_str!("golden/state-3-sampler.json").trim_end());
    }

    #[test]
    fn what_an_identity_tells_all_of_is_made_again() {
        for sampler in [
            Box::new(Sequential) as Box<dyn Sampler>,
            Box::new(Shuffle::new(u64::MAX)),
            Box::new(WindowShuffle::new(0, 100_000)),
        ] {
            let identity = sampler.identity();
            assert_eq!(told(&identity).map(|sampler| sampler.identity()), Some(identity));
        }
        for other in [
            "",
            "mine",
            "shuffle",
            "shuffle()",
            "shuffle(seed=)",
            "shuffle(seed=042)",
            "shuffle(seed=-1)",
            "shuffle(seed=1, samples=2)",
            "windows(seed=1)",
            "windows(samples=1, seed=2)",
            "shuffle(seed=1) ",
            "blocks(seed=1, samples=2, mixed=3)",
            "shuffle(seed=+1)",
            "shuffle(seed=18446744073709551616)",
        ] {
            assert!(told(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_damaged_state_is_refused() {
        let [(_, first), .., (_, state)] = golden();
        for state in [
            State { version: 0, ..state.clone() },
            State { version: 4, ..state.clone() },
            State { window: Some(0), ..first.clone() },
            State { seed: None, window: Some(9), ..first },
            State { drop_last: true, ..state.clone() },
        ] {
            assert_eq!(state.check(DIGEST).unwrap_err().kind(), ErrorKind::Config);
        }
        assert!(state.check_position(511).unwrap_err().to_string().contains("a position of at most 511, got 512"));
    }

    #[test]
    fn a_state_for_other_data_is_refused_with_both_digests() {
        let [.., (_, state)] = golden();
        let said = state.check(Digest([2; 32])).unwrap_err().to_string();
        assert!(said.contains(&"01".repeat(32)) && said.contains(&"02".repeat(32)), "{said}");
    }
}
