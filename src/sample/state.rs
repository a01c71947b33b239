//! Where a run stands.

use ring::digest::{SHA256, digest};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use super::sampler::Sampler;
use super::{LastBatch, Sequential, Shuffle, WindowShuffle, wrong};
use crate::Result;
use crate::manifest::Digest;

/// Where a run stands: what the training loop has been *given*, not what was fetched for it.
///
/// A state takes less than 256 bytes of JSON where samples are ordered by name or shuffled, and less than 400 bytes
/// with any other sampler, whose identity is shortened if it is long. Only batches delivered out of order take more;
/// see [`DeliveredAhead`]. Other formats take about as much.
///
/// A state can be resumed at any number of ranks, since positions count in the global order. Where batches are
/// [unordered](crate::DataLoaderBuilder::unordered) and there are several ranks, a resume at another number of ranks
/// needs the states of all ranks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct State {
    /// Version of this format.
    pub version: u32,
    /// Digest of the data, in hex ([`Manifest::digest`](crate::Manifest::digest)).
    pub manifest: String,
    /// The epoch that the run is in, counted from 0.
    pub epoch: u64,
    /// Samples of this epoch delivered, over all ranks, without padding.
    pub position: u64,
    /// Most samples in a batch of one rank.
    pub batch_size: usize,
    /// Whether a last batch that isn't full is dropped.
    #[serde(default)]
    pub drop_last: bool,
    /// Identity of the sampler ([`Sampler::identity`]), shortened where it has more than 96 bytes.
    pub sampler: String,
    /// Samples in a batch over all ranks, where the run set that instead of the batch size of a rank.
    #[serde(default)]
    pub global_batch_size: Option<usize>,
    /// `Some(true)` where a last batch that isn't full is filled up.
    #[serde(default)]
    pub pad_last: Option<bool>,
    /// What was delivered ahead of the position, where batches are unordered.
    #[serde(default)]
    pub beyond: Option<DeliveredAhead>,
}

/// What was delivered ahead of the position of a [`State`], which happens where batches are
/// [unordered](crate::DataLoaderBuilder::unordered). It takes some 16 bytes for each gap between delivered batches;
/// there are at most as many gaps as batches ahead of the training loop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeliveredAhead {
    /// Ranges of positions in the global order that any rank delivered: start, inclusive, and end, exclusive; sorted.
    pub positions: Vec<(u64, u64)>,
    /// What this rank delivered, where there are several ranks. Only the states of all ranks together show what is
    /// left.
    #[serde(default)]
    pub share: Option<RankProgress>,
}

/// What one rank of several has delivered: its batches up to the position of its [`State`], and some ahead of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RankProgress {
    /// The rank, counted from 0.
    pub rank: usize,
    /// Number of ranks in the run.
    pub world_size: usize,
    /// Runs of batches delivered ahead of the position: number of the first batch, number after the last (both counted
    /// from the position), and the position in the global order where the last batch ends.
    pub batches: Vec<(u64, u64, u64)>,
}

impl State {
    /// The version that this crate writes and reads.
    pub const VERSION: u32 = 4;

    /// Refuses a state of another format, or of other data.
    pub(crate) fn check(&self, digest: Digest) -> Result<()> {
        if self.version != Self::VERSION {
            return Err(wrong("this state was saved by another version of the crate")
                .mismatch(format_args!("version {}", Self::VERSION), format_args!("version {}", self.version))
                .hint("resume with the version that saved it"));
        }
        let Some(of) = Digest::parse(&self.manifest) else {
            return Err(wrong("this state names no data")
                .mismatch("a digest of 64 digits", format_args!("{:?}", self.manifest))
                .hint("the listing failed before the state was saved, or the state is damaged; take an earlier one"));
        };
        if let Some(difference) = of.difference(&digest) {
            return Err(wrong(&format!("this state belongs to other data: {difference}"))
                .mismatch(format_args!("a manifest of digest {of}"), digest)
                .hint(format!("{} since: begin the epoch anew", difference.cause())));
        }
        if self.drop_last && self.pad_last == Some(true) {
            return Err(wrong("this state drops the last batch and fills it up")
                .mismatch("one of these", "both")
                .hint("the state is damaged; take an earlier one"));
        }
        Ok(())
    }

    /// Refuses a position behind the last sample of the epoch.
    pub(crate) fn check_position(&self, samples: u64) -> Result<()> {
        if self.position > samples {
            return Err(wrong("this state is beyond the end of its epoch")
                .mismatch(format_args!("a position of at most {samples}"), self.position)
                .hint("the state is damaged; take an earlier one"));
        }
        Ok(())
    }

    /// The identity of the sampler that orders the epoch.
    pub(crate) fn identity(&self) -> String {
        shorten_identity(&self.sampler)
    }

    pub(crate) fn last_batch(&self) -> LastBatch {
        match (self.drop_last, self.pad_last) {
            (true, _) => LastBatch::Drop,
            (false, Some(true)) => LastBatch::Pad,
            (false, _) => LastBatch::Short,
        }
    }
}

/// Formats for people, such as JSON, leave out fields at their defaults. Other formats may not name their fields, so
/// they get all of them.
impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self { version, manifest, epoch, position, batch_size, drop_last, .. } = self;
        let Self { sampler, global_batch_size, pad_last, beyond, .. } = self;

        let all = !serializer.is_human_readable();
        let optional = [*drop_last, global_batch_size.is_some(), pad_last.is_some(), beyond.is_some()]
            .map(|is_written| is_written || all);
        let [has_drop_last, has_global, has_pad_last, has_beyond] = optional;
        let fields = 6 + optional.into_iter().filter(|is_written| *is_written).count();
        let mut state = serializer.serialize_struct("State", fields)?;
        macro_rules! fields {
            ($($field:ident if $is_written:expr,)+) => {$(
                if $is_written {
                    state.serialize_field(stringify!($field), $field)?;
                } else {
                    state.skip_field(stringify!($field))?;
                }
            )+};
        }
        // In the order of the declaration, since formats without names read fields in that order.
        fields! {
            version if true,
            manifest if true,
            epoch if true,
            position if true,
            batch_size if true,
            drop_last if has_drop_last,
            sampler if true,
            global_batch_size if has_global,
            pad_last if has_pad_last,
            beyond if has_beyond,
        }
        state.end()
    }
}

/// Most bytes of a sampler's identity in a state. The identities of all built-in samplers that don't contain other
/// samplers fit.
const MAX_IDENTITY_BYTES: usize = 96;

/// An identity as states hold it: a long one is cut, and half a SHA-256 of the whole is appended.
pub(crate) fn shorten_identity(identity: &str) -> String {
    if identity.len() <= MAX_IDENTITY_BYTES {
        return identity.to_owned();
    }
    let hash = digest(&SHA256, identity.as_bytes());
    let half = hash.as_ref().first_chunk().map_or(0, |half| u128::from_be_bytes(*half));
    let hash = format!("..{half:032x}");
    let mut end = MAX_IDENTITY_BYTES - hash.len();
    while !identity.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{hash}", &identity[..end])
}

/// Rebuilds a sampler from its identity. `Sequential`, `Shuffle` and `WindowShuffle` are described in full by theirs;
/// `None` for any other.
pub(crate) fn sampler_from_identity(identity: &str) -> Option<Box<dyn Sampler>> {
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
    // An identity that these samplers would spell otherwise belongs to a sampler of somebody else.
    (sampler.identity() == identity).then_some(sampler)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn digest(byte: u8) -> Digest {
        Digest::of_bytes([byte; 32])
    }

    /// A state of a shuffle, and one of a custom sampler with every setting.
    const GOLDEN: [&str; 2] = [include_str!("golden/state.json"), include_str!("golden/state-sampler.json")];

    fn golden() -> [State; 2] {
        GOLDEN.map(|json| serde_json::from_str(json).unwrap())
    }

    #[test]
    fn golden_states_are_read_and_written() {
        for (state, json) in golden().into_iter().zip(GOLDEN) {
            assert_eq!(state.version, State::VERSION);
            state.check(digest(1)).unwrap();
            state.check_position(512).unwrap();
            assert_eq!((state.epoch, state.position, state.batch_size), (3, 512, 256));
            assert_eq!(serde_json::to_string(&state).unwrap(), json.trim_end());
        }
        let [shuffle, own] = golden();
        assert_eq!((shuffle.identity(), shuffle.last_batch()), ("shuffle(seed=42)".into(), LastBatch::Short));
        assert_eq!((own.identity(), own.last_batch()), ("mine(weight=0.5)".into(), LastBatch::Pad));
        assert_eq!(own.global_batch_size, Some(512));
    }

    fn largest(sampler: &dyn Sampler) -> State {
        let [_, state] = golden();
        let far = State { epoch: u64::MAX, position: u64::MAX, batch_size: usize::MAX, ..state };
        State { sampler: shorten_identity(&sampler.identity()), global_batch_size: None, pad_last: None, ..far }
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
                assert_eq!(State { sampler: identity, ..state.clone() }.identity(), state.identity());
                assert!(seen.insert(state.identity()));
            }
        }
        let whole = "b".repeat(96);
        assert_eq!((shorten_identity(&whole), shorten_identity("")), (whole.clone(), String::new()));
        // Never to be changed: a saved state has it.
        assert_eq!(shorten_identity(&"b".repeat(97)), format!("{}..3de8fc0d20ec6b9b27c435532c06748a", &whole[..62]));
    }

    /// Formats that don't name fields have all of them, in the order in which they are read.
    #[test]
    fn fields_are_written_in_the_order_in_which_they_are_read() {
        let [_, state] = golden();
        let state = State { drop_last: true, beyond: Some(DeliveredAhead::default()), ..state };
        let json = serde_json::to_string(&state).unwrap();
        let (mut values, mut names) = (json.clone(), 0);
        for name in [
            "version",
            "manifest",
            "epoch",
            "position",
            "batch_size",
            "drop_last",
            "sampler",
            "global_batch_size",
            "pad_last",
            "beyond",
        ] {
            let named = format!("\"{name}\":");
            names += values.matches(&named).count();
            values = values.replacen(&named, "", 1);
        }
        assert_eq!(names, 10, "{json}");
        let values = format!("[{}]", &values[1..values.len() - 1]);
        assert_eq!(serde_json::from_str::<State>(&values).unwrap(), state, "{values}");
    }

    #[test]
    fn samplers_are_rebuilt_from_identities_that_describe_them_in_full() {
        for sampler in [
            Box::new(Sequential) as Box<dyn Sampler>,
            Box::new(Shuffle::new(u64::MAX)),
            Box::new(WindowShuffle::new(0, 100_000)),
        ] {
            let identity = sampler.identity();
            assert_eq!(sampler_from_identity(&identity).map(|sampler| sampler.identity()), Some(identity));
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
            assert!(sampler_from_identity(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_damaged_state_is_refused() {
        let [_, state] = golden();
        for state in [
            State { version: 3, ..state.clone() },
            State { version: 5, ..state.clone() },
            State { manifest: "none: its listing failed".into(), ..state.clone() },
            State { drop_last: true, ..state.clone() },
        ] {
            assert_eq!(state.check(digest(1)).unwrap_err().kind(), ErrorKind::Config);
        }
        assert!(state.check_position(511).unwrap_err().to_string().contains("a position of at most 511, got 512"));
    }

    #[test]
    fn a_state_for_other_data_is_refused_with_both_digests() {
        let [_, state] = golden();
        let said = state.check(digest(2)).unwrap_err().to_string();
        assert!(said.contains(&"01".repeat(32)) && said.contains(&"02".repeat(32)), "{said}");
    }
}
