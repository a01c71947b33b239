//! Where a run stands.

use ring::digest::{SHA256, digest};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use super::sampler::Sampler;
use super::{DeliveredAhead, LastBatch, Sequential, Shuffle, WindowShuffle, wrong};
use crate::Result;
use crate::manifest::Digest;

/// Where a run stands: what the training loop has been *given*, not what was fetched for it.
///
/// Less than 256 bytes of JSON where the order is by name or shuffled, and less than 400 with any other sampler, whose
/// identity is cut if it is long; only what is delivered out of order takes more, see [`DeliveredAhead`]. In other formats it is
/// about as much.
///
/// It holds at any number of ranks, since it counts in the global order; where
/// batches are [unordered](crate::DataLoaderBuilder::unordered) and there are several ranks, those of all ranks together do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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
    #[serde(default)]
    pub drop_last: bool,
    /// In version 2 the samples in a window, where each is shuffled within itself; `sampler` has it since.
    #[serde(default)]
    pub window: Option<u64>,
    /// What orders the samples: [`Sampler::identity`], cut where that has more than 96 bytes; since version 3.
    #[serde(default)]
    pub sampler: Option<String>,
    /// Samples in a batch over all ranks, where that is what was set; since version 3.
    #[serde(default)]
    pub global_batch_size: Option<usize>,
    /// Whether a last batch that isn't full is filled up, if it is; since version 3.
    #[serde(default)]
    pub pad_last: Option<bool>,
    /// What was delivered beyond the position, where batches come as they are done; since version 3.
    #[serde(default)]
    pub beyond: Option<DeliveredAhead>,
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
        let named = self.version >= 3;
        if self.sampler.is_some() != named {
            let wanted = if named { "a sampler, since version 3 has one" } else { "a seed or none, and no sampler" };
            let got = format!("{:?} in version {}", self.sampler, self.version);
            return damaged("this state isn't of the version that it says", wanted, got);
        }
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
        match (&self.sampler, self.seed, self.window) {
            (Some(sampler), ..) => short(sampler),
            (None, None, _) => Sequential.identity(),
            (None, Some(seed), None) => Shuffle::new(seed).identity(),
            (None, Some(seed), Some(window)) => WindowShuffle::new(seed, window).identity(),
        }
    }

    pub(crate) fn last_batch(&self) -> LastBatch {
        match (self.drop_last, self.pad_last) {
            (true, _) => LastBatch::Drop,
            (false, Some(true)) => LastBatch::Pad,
            (false, _) => LastBatch::Short,
        }
    }
}

/// In formats for people, such as JSON, without what says nothing; others may not name their fields, and have all of them.
impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self { version, manifest, seed, epoch, position, batch_size, drop_last, window, .. } = self;
        let Self { sampler, global_batch_size, pad_last, beyond, .. } = self;
        let all = !serializer.is_human_readable();
        let said = [
            seed.is_some(),
            *drop_last,
            window.is_some(),
            sampler.is_some(),
            global_batch_size.is_some(),
            pad_last.is_some(),
            beyond.is_some(),
        ]
        .map(|said| said || all);
        let [has_seed, has_drop_last, has_window, has_sampler, has_global, has_pad_last, has_beyond] = said;
        let mut state = serializer.serialize_struct("State", 5 + said.into_iter().filter(|said| *said).count())?;
        macro_rules! fields {
            ($($field:ident if $said:expr,)+) => {$(
                if $said {
                    state.serialize_field(stringify!($field), $field)?;
                } else {
                    state.skip_field(stringify!($field))?;
                }
            )+};
        }
        // In the order of the declaration, as formats without names read them.
        fields! {
            version if true,
            manifest if true,
            seed if has_seed,
            epoch if true,
            position if true,
            batch_size if true,
            drop_last if has_drop_last,
            window if has_window,
            sampler if has_sampler,
            global_batch_size if has_global,
            pad_last if has_pad_last,
            beyond if has_beyond,
        }
        state.end()
    }
}

/// Bytes of a sampler's identity in a state at most: those of all built-in samplers that aren't made of others fit.
const LONGEST: usize = 96;

/// An identity as states hold it: of a long one the beginning, and half a SHA-256 of all of it.
pub(crate) fn short(identity: &str) -> String {
    if identity.len() <= LONGEST {
        return identity.to_owned();
    }
    let hash = digest(&SHA256, identity.as_bytes());
    let half = hash.as_ref().first_chunk().map_or(0, |half| u128::from_be_bytes(*half));
    let hash = format!("..{half:032x}");
    let mut end = LONGEST - hash.len();
    while !identity.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{hash}", &identity[..end])
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

    fn golden() -> [(u32, State); 5] {
        [
            (1, include_str!("golden/state-1.json")),
            (2, include_str!("golden/state-2.json")),
            (3, include_str!("golden/state-3.json")),
            (3, include_str!("golden/state-3-nulls.json")),
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
        let [first, second, third, nulls, own] = golden().map(|(_, state)| state);
        assert_eq!((first.identity(), first.last_batch()), ("shuffle(seed=42)".into(), LastBatch::Drop));
        assert_eq!(second.identity(), "windows(seed=42, samples=1000)");
        assert_eq!((third.identity(), third.last_batch()), (first.identity(), LastBatch::Short));
        assert_eq!((own.identity(), own.last_batch()), ("mine(weight=0.5)".into(), LastBatch::Pad));
        assert_eq!(own.global_batch_size, Some(512));
        assert_eq!(nulls, own);
        let sequential = State { seed: None, sampler: None, ..first };
        assert_eq!(sequential.identity(), "sequential");
    }

    /// What is written today.
    #[test]
    fn golden_of_this_version() {
        let [.., (_, shuffle), _, (_, own)] = golden();
        for (state, golden) in
            [(shuffle, include_str!("golden/state-3.json")), (own, include_str!("golden/state-3-sampler.json"))]
        {
            assert_eq!(state.version, State::VERSION);
            assert_eq!(serde_json::to_string(&state).unwrap(), golden.trim_end());
        }
    }

    fn largest(sampler: &dyn Sampler) -> State {
        let [.., (_, state)] = golden();
        let far = State { epoch: u64::MAX, position: u64::MAX, batch_size: usize::MAX, ..state };
        State { sampler: Some(short(&sampler.identity())), global_batch_size: None, pad_last: None, ..far }
    }

    #[test]
    fn a_state_of_the_built_in_permutation_is_under_256_bytes() {
        for sampler in [Box::new(Sequential) as Box<dyn Sampler>, Box::new(Shuffle::new(u64::MAX))] {
            let state = largest(&sampler);
            for state in
                [State { drop_last: true, ..state.clone() }, State { pad_last: Some(true), ..state.clone() }, state]
            {
                let json = serde_json::to_string(&state).unwrap();
                assert!(json.len() < 256, "{} bytes: {json}", json.len());
                let read: State = serde_json::from_str(&json).unwrap();
                assert_eq!((&read, read.identity()), (&state, sampler.identity()));
            }
        }
    }

    /// Of any length, and with whatever characters where it is cut.
    #[derive(Debug)]
    struct NameInError(String);

    impl Sampler for NameInError {
        fn identity(&self) -> String {
            self.0.clone()
        }

        fn orders(&self, scope: &crate::sample::Scope) -> Result<crate::sample::Orders> {
            Sequential.orders(scope)
        }
    }

    #[test]
    fn a_state_stays_small_however_long_the_identity_is() {
        let mut seen = std::collections::BTreeSet::new();
        for length in [97, 1_000, 100_000] {
            for (first, last) in [("a", "b"), ("aa", "b"), ("aaa", "b"), ("aaaa", "b"), ("aaaa", "c")] {
                let identity = format!("{first}{}{last}", "\u{1F980}".repeat(length / 4));
                let state = State { global_batch_size: Some(usize::MAX), ..largest(&NameInError(identity.clone())) };
                assert!(serde_json::to_string(&state).unwrap().len() < 400);
                // One that was saved in full is the same.
                assert_eq!(State { sampler: Some(identity), ..state.clone() }.identity(), state.identity());
                assert!(seen.insert(state.identity()));
            }
        }
        let whole = "b".repeat(96);
        assert_eq!((short(&whole), short("")), (whole.clone(), String::new()));
        // Never to be changed: a saved state has it.
        assert_eq!(short(&"b".repeat(97)), format!("{}..3de8fc0d20ec6b9b27c435532c06748a", &whole[..62]));
    }

    /// Formats that don't name fields have all of them, in the order in which they are read.
    #[test]
    fn fields_are_written_in_the_order_in_which_they_are_read() {
        let [.., (_, state)] = golden();
        let state =
            State { seed: Some(1), window: Some(2), drop_last: true, beyond: Some(DeliveredAhead::default()), ..state };
        let json = serde_json::to_string(&state).unwrap();
        let (mut values, mut names) = (json.clone(), 0);
        for name in [
            "version",
            "manifest",
            "seed",
            "epoch",
            "position",
            "batch_size",
            "drop_last",
            "window",
            "sampler",
            "global_batch_size",
            "pad_last",
            "beyond",
        ] {
            let named = format!("\"{name}\":");
            names += values.matches(&named).count();
            values = values.replacen(&named, "", 1);
        }
        assert_eq!(names, 12, "{json}");
        let values = format!("[{}]", &values[1..values.len() - 1]);
        assert_eq!(serde_json::from_str::<State>(&values).unwrap(), state, "{values}");
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
            State { sampler: None, ..state.clone() },
            State { sampler: state.sampler.clone(), ..first.clone() },
            State { version: 2, ..state.clone() },
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
