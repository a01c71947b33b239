//! What is known about the names below a prefix, and guesses at the rest: how many names are in a gap, and where to cut
//! it.
//!
//! Nothing here has to be right: a wrong guess costs a call, but never an object.

mod learning;
mod segments;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use self::segments::{Density, Gap, GapSegment};
use super::alphabet::{
    Alphabet, AlphabetTrust, CharPlace, CharSpan, EXTRA_WEIGHT, HashMap, SETTLED_NOVELTY, SpanOptions, TokenPlace,
    locate,
};

/// Levels of folders that are distinguished; deeper ones count as the last.
const MAX_LEVELS: usize = 32;

/// A name at which an earlier listing can be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListingCut {
    /// The name.
    pub name: String,
    /// How many objects the earlier listing had from this name, inclusive, to the next cut, exclusive.
    pub objects: u64,
}

/// A page of sub-folders, as a listing with a delimiter gives it.
pub(super) struct FolderPage<'a> {
    pub parent: &'a str,
    /// Where the listing began.
    pub start: &'a str,
    pub prefixes: &'a [String],
    /// Whether nothing but these folders is between the first and the last of them.
    pub has_no_objects: bool,
    pub is_last: bool,
}

/// Length in bytes of the longest common prefix.
pub(super) fn common_prefix(a: &str, b: &str) -> usize {
    let mut length = a.as_bytes().iter().zip(b.as_bytes()).take_while(|(x, y)| x == y).count();
    while !a.is_char_boundary(length) {
        length -= 1;
    }
    length
}

/// What is known about the names below a prefix.
#[derive(Debug)]
pub(super) struct KeySpace {
    prefix: String,
    /// Which characters come at each place.
    alphabets: HashMap<CharPlace, Alphabet>,
    /// Tokens whose digits look like those of hashes.
    random: BTreeSet<TokenPlace>,
    /// Tokens in which letters were seen.
    with_letters: BTreeSet<TokenPlace>,
    /// Which characters come in a token, wherever in it.
    tokens: HashMap<TokenPlace, Alphabet>,
    /// The place of the first character behind the prefix.
    origin: CharPlace,
    /// Tokens whose numbers are spread evenly but don't begin where their alphabet does.
    spread: BTreeSet<TokenPlace>,
    /// Separators that neighbouring names differ in.
    separators: BTreeSet<SeparatorPlace>,
    /// Objects seen.
    items: f64,
    /// Ends of folders seen, by level.
    folder_ends: Vec<f64>,
    /// Folders, and whether nothing but folders is between each and the one before.
    marks: BTreeMap<String, bool>,
    /// By parent: the part of its names whose sub-folders are all known.
    known: HashMap<String, KnownFolders>,
    /// The first name that each range had.
    first_names: BTreeSet<String>,
    /// Names of an earlier listing, in order.
    earlier: Vec<EarlierCut>,
    /// Objects seen in folders that take more than a page.
    large_folders: HashMap<String, f64>,
    /// Objects that a full page holds.
    pub page: f64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SeparatorPlace {
    separator: char,
    token: u8,
    offset: u8,
}

#[derive(Debug)]
struct KnownFolders {
    from: String,
    /// `None` at the parent's end.
    to: Option<String>,
}

#[derive(Debug)]
struct EarlierCut {
    name: String,
    /// Objects before this name.
    before: f64,
}

fn char_at(name: &str, at: usize) -> Option<char> {
    name[at..].chars().next()
}

fn level_index(level: usize) -> usize {
    level.min(MAX_LEVELS - 1)
}

impl KeySpace {
    pub(super) fn new(prefix: &str, page: f64) -> Self {
        Self {
            prefix: prefix.into(),
            alphabets: HashMap::default(),
            random: BTreeSet::new(),
            with_letters: BTreeSet::new(),
            tokens: HashMap::default(),
            origin: CharPlace::origin(),
            spread: BTreeSet::new(),
            separators: BTreeSet::new(),
            items: 0.0,
            folder_ends: vec![0.0; MAX_LEVELS],
            marks: BTreeMap::new(),
            known: HashMap::default(),
            first_names: BTreeSet::new(),
            earlier: vec![],
            large_folders: HashMap::default(),
            page,
        }
    }

    fn place_from(place: CharPlace, name: &str, from: usize, at: usize) -> CharPlace {
        name[from..at].chars().fold(place, CharPlace::after)
    }

    fn place(&self, name: &str, at: usize) -> CharPlace {
        Self::place_from(self.origin, name, self.prefix.len(), at)
    }

    /// Whether siblings were seen to follow each other at a place.
    fn has_siblings(&self, place: CharPlace) -> bool {
        self.alphabet(place).is_some_and(|alphabet| alphabet.followed >= 2.0)
    }

    /// How many more siblings follow at a place, on average.
    fn expected_siblings(&self, place: CharPlace) -> f64 {
        let (followed, ended) = self.alphabet(place).map_or((0.0, 0.0), |alphabet| (alphabet.followed, alphabet.ended));
        (followed + EXTRA_WEIGHT) / (ended + 1.0)
    }

    /// What is known about a place: by the exact place if that was seen often enough, or by more general places.
    fn alphabet(&self, place: CharPlace) -> Option<&Alphabet> {
        let [exact, block, any] = place.keys();
        self.alphabets
            .get(&exact)
            .filter(|alphabet| alphabet.count >= 12 && alphabet.followed + alphabet.ended >= 4.0)
            .or_else(|| self.alphabets.get(&block).filter(|alphabet| alphabet.count >= 12))
            .or_else(|| self.alphabets.get(&any))
    }

    /// Objects that a sub-folder holds, on average.
    pub(super) fn folder_mass(&self, folder: &str) -> f64 {
        let inner = folder.get(self.prefix.len()..).unwrap_or_default();
        self.level_mass(count_slashes(inner.as_bytes()).saturating_sub(1))
    }

    fn level_mass(&self, level: usize) -> f64 {
        let ends = self.folder_ends[level_index(level)];
        if ends >= 1.0 { self.items / ends } else { self.items.max(2.0 * self.page) * 1.5 }
    }

    /// Writes the spans of characters that may come at a place into `out`, and returns the sum of their weights. The
    /// characters in `also` count as seen.
    fn spans(
        &self,
        place: CharPlace,
        also: impl IntoIterator<Item = char>,
        trust: AlphabetTrust,
        out: &mut Vec<CharSpan>,
    ) -> f64 {
        let token = place.token_place();
        // Independent of the character before, since what followed one character says little about whole scripts.
        let novelty =
            place.keys().iter().filter_map(|key| self.alphabets.get(key)).map(Alphabet::novelty).fold(1.0, f64::min);
        let options = SpanOptions {
            has_letters: self.with_letters.contains(&token),
            is_plain: self.origin.is_plain,
            novelty,
            trust,
        };

        let alphabet = self.alphabet(place);
        let all = if self.random.contains(&token) { self.tokens.get(&token) } else { None };
        match (alphabet, all) {
            (Some(alphabet), None) => alphabet.spans(also, &options, out),
            (None, Some(all)) => all.spans(also, &options, out),
            (None, None) => Alphabet::default().spans(also, &options, out),
            // In a hash, what comes anywhere in the token may come here.
            (Some(alphabet), Some(all)) => {
                let is_settled = alphabet.count > 300 && alphabet.followed > 20.0 && alphabet.ended >= 3.0;
                if is_settled {
                    alphabet.spans(also, &options, out);
                } else {
                    alphabet.merged(all).spans(also, &options, out);
                }
            }
        }
        self.weigh_scripts(place, novelty, out);
        out.iter().map(|span| span.weight).sum()
    }

    /// Weighs scripts by how often each came, which says more than how many characters each has once the characters of
    /// a place are settled.
    fn weigh_scripts(&self, place: CharPlace, novelty: f64, spans: &mut [CharSpan]) {
        let [_, block, any] = place.keys();
        let known = |key| self.alphabets.get(key).filter(|alphabet: &&Alphabet| alphabet.count >= 100);
        if novelty < SETTLED_NOVELTY
            && let Some(alphabet) = known(&block).or_else(|| known(&any))
        {
            alphabet.weigh_scripts(spans);
        }
    }

    /// The fraction of the names at a place that come before `name`, by its characters from `at` on.
    fn fraction_before(&self, name: &str, at: usize, place: CharPlace, depth: u32) -> f64 {
        let mut spans = vec![];
        let total = self.spans(place, char_at(name, at), AlphabetTrust::DEFAULT_GUESS, &mut spans);
        self.weight_before(&spans, name, at, place, depth) / total.max(1e-9)
    }

    /// The weight of what comes before `name` at a place with these spans.
    fn weight_before(&self, spans: &[CharSpan], name: &str, at: usize, place: CharPlace, depth: u32) -> f64 {
        let Some(c) = char_at(name, at) else { return 0.0 };
        let located = locate(spans, c);
        let inner =
            if depth == 0 { 0.5 } else { self.fraction_before(name, at + c.len_utf8(), place.after(c), depth - 1) };
        located.before + located.own * inner
    }
}

#[expect(clippy::naive_bytecount, reason = "the slices are short")]
fn count_slashes(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'/').count()
}
