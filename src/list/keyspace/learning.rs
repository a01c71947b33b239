//! What pages teach about the key space.

use std::collections::BTreeSet;

use super::super::alphabet::{Alphabet, CharPlace, MAX_PLACES, separates};
use super::{
    EarlierCut, FolderPage, KeySpace, KnownFolders, ListingCut, SeparatorPlace, char_at, common_prefix, count_slashes,
    level_index,
};

/// Characters of a name behind its common prefix that are looked at.
const MAX_CHARS: usize = 40;

/// Separators that are remembered.
const MAX_SEPARATORS: usize = 64;

/// A pair of neighbouring names, and where they part.
struct Step<'a> {
    before: &'a str,
    /// Length of their common prefix.
    common: usize,
    /// The place of the first character in which they differ.
    place: CharPlace,
}

impl KeySpace {
    /// Counts objects of a folder, and returns how many were counted in all, by whatever range. Small folders are
    /// counted by the page.
    pub(in crate::list) fn count_in_folder(&mut self, folder: &str, objects: f64) -> f64 {
        if let Some(count) = self.large_folders.get_mut(folder) {
            *count += objects;
            return *count;
        }
        if objects >= 0.5 * self.page && self.large_folders.len() < MAX_PLACES {
            self.large_folders.insert(folder.into(), objects);
        }
        objects
    }

    /// Learns the first name of a range.
    pub(in crate::list) fn add_first_name(&mut self, name: &str) {
        self.first_names.insert(name.into());
    }

    /// Takes the cuts of an earlier listing, and returns how many objects that listing had.
    pub(in crate::list) fn remember(&mut self, cuts: impl IntoIterator<Item = ListingCut>) -> f64 {
        let mut before = 0.0;
        for ListingCut { name, objects } in cuts {
            if name.starts_with(&self.prefix) && self.earlier.last().is_none_or(|last| last.name < name) {
                self.earlier.push(EarlierCut { name, before });
            }
            before += objects as f64;
        }
        before
    }

    /// Learns from the `len` names of a page, in order.
    pub(in crate::list) fn learn<'a>(&mut self, len: usize, name: &dyn Fn(usize) -> &'a str) {
        if len == 0 {
            return;
        }
        let (first, last) = (name(0), name(len - 1));
        let common = common_prefix(first, last);
        self.items += len as f64;
        let base = self.place(first, common);
        let mut place = self.origin;
        for c in first[self.prefix.len()..common].chars() {
            self.learn_char(place, c);
            place = place.after(c);
        }
        for index in (0..len).step_by((len / 40).max(1)) {
            self.learn_chars(&name(index)[common..], base);
        }

        // How far neighbours agree, and where folders end.
        let mut agreed: Vec<u16> = Vec::with_capacity(len);
        let mut before = first;
        for index in 1..len {
            let name = name(index);
            let length = common_prefix(before, name);
            agreed.push(length as u16);
            let tail = &before.as_bytes()[length..];
            let ended = count_slashes(tail);
            if ended > 0 {
                let level = count_slashes(&before.as_bytes()[self.prefix.len().min(length)..length]);
                for level in level..level + ended {
                    self.folder_ends[level_index(level)] += 1.0;
                }
            }
            before = name;
        }

        let stride = (len / 64).max(1);
        if !self.origin.is_plain {
            for index in (1..len).step_by(stride) {
                let length = usize::from(agreed[index - 1]);
                let place = Self::place_from(base, name(index), common, length);
                for c in [char_at(name(index - 1), length), char_at(name(index), length)].into_iter().flatten() {
                    if c != '/' && separates(c) && self.separators.len() < MAX_SEPARATORS {
                        let (token, offset) = (place.token, place.offset);
                        self.separators.insert(SeparatorPlace { separator: c, token, offset });
                    }
                }
            }
            // Where separators come anywhere, they separate nothing, and what was learned by tokens is void.
            let kinds: BTreeSet<char> = self.separators.iter().map(|place| place.separator).collect();
            let places: BTreeSet<_> = self.separators.iter().map(|place| (place.token, place.offset)).collect();
            if kinds.len() >= 2 && places.len() >= 3 {
                self.forget_tokens();
                return self.learn(len, name);
            }
        }

        // All pairs that part early are looked at, and a sample of the others.
        let mut sorted = agreed.clone();
        sorted.sort_unstable();
        let shallow = sorted.get(128).map_or(u16::MAX, |length| length.wrapping_sub(1));
        // Bytes that neighbours agree in within the first token that varies, and how many pairs were looked at.
        let (mut agreed_bytes, mut pairs) = (0usize, 0usize);
        for index in 1..len {
            let is_sampled = index % stride == 0;
            let weight = if agreed[index - 1] <= shallow {
                1.0
            } else if is_sampled {
                stride as f64
            } else {
                continue;
            };
            let common_length = usize::from(agreed[index - 1]);
            let place = Self::place_from(base, name(index), common, common_length);
            self.learn_step_at(&Step { before: name(index - 1), common: common_length, place }, weight);
            if is_sampled && place.same_token(base) {
                agreed_bytes += self.varying_bytes(&name(index)[common_length..]);
                pairs += 1;
            }
        }
        if pairs > 0 && agreed_bytes >= 4 * pairs {
            self.learn_random_token(base, first, last, self.items <= len as f64);
        }
    }

    fn forget_tokens(&mut self) {
        self.origin.is_plain = true;
        self.alphabets.clear();
        self.random.clear();
        self.tokens.clear();
        self.with_letters.clear();
        self.folder_ends.fill(0.0);
        self.items = 0.0;
    }

    /// Bytes of a name up to the end of its token, where a character that isn't ASCII counts as three.
    fn varying_bytes(&self, rest: &str) -> usize {
        let is_plain = self.origin.is_plain;
        rest.chars()
            .take_while(|c| *c != '/' && (is_plain || !separates(*c)))
            .map(|c| if c.is_ascii() { 1 } else { 3 })
            .sum()
    }

    /// Learns that a token varies in many characters from one name to the next, as hashes do. The first page also shows
    /// whether numbers begin where their alphabet does, as those of hashes do, or are merely spread evenly.
    fn learn_random_token(&mut self, base: CharPlace, first: &str, last: &str, is_first_page: bool) {
        let token = base.token_place();
        if is_first_page {
            let common = common_prefix(first, last);
            let digits = first[self.prefix.len()..common].bytes().rev().take_while(u8::is_ascii_digit).count();
            let start = common - digits;
            let place = self.place(first, start);
            let has_only_digits = |all: &Alphabet| all.seen.iter().all(char::is_ascii_digit);
            if place.same_token(base) && self.tokens.get(&token).is_some_and(has_only_digits) {
                self.random.insert(token);
                let (from, to) =
                    (self.fraction_before(first, start, place, 12), self.fraction_before(last, start, place, 12));
                self.random.remove(&token);
                if from > 0.1 * (to - from) {
                    self.spread.insert(token);
                }
            }
        }
        if !self.spread.contains(&token) {
            self.random.insert(token);
        }
    }

    fn learn_chars(&mut self, tail: &str, base: CharPlace) {
        let mut place = base;
        for c in tail.chars().take(MAX_CHARS) {
            self.learn_char(place, c);
            if c != '/' && place.same_token(base) && place.after(c).same_token(base) {
                self.tokens.entry(base.token_place()).or_default().learn(c);
            }
            if c.is_ascii_alphabetic() && place.same_token(base) {
                self.with_letters.insert(base.token_place());
            }
            place = place.after(c);
        }
    }

    /// Learns that `name` comes right after `before`.
    pub(in crate::list) fn learn_step(&mut self, before: &str, name: &str, weight: f64) {
        let common = common_prefix(before, name).max(self.prefix.len());
        self.learn_step_at(&Step { before, common, place: self.place(before, common) }, weight);
    }

    fn learn_step_at(&mut self, step: &Step<'_>, weight: f64) {
        let mut place = step.place;
        for (depth, c) in step.before[step.common..].chars().take(MAX_CHARS).enumerate() {
            for key in place.keys() {
                let Some(alphabet) = self.alphabet_mut(key) else { continue };
                // Where the names part, a sibling followed; below that, the last sibling was passed.
                if depth == 0 { alphabet.followed += weight } else { alphabet.ended += weight }
            }
            place = place.after(c);
        }
    }

    /// Learns that nothing follows from a guessed `cut` on, which was behind the child of `low` where the two part.
    pub(in crate::list) fn learn_failed_cut(&mut self, low: &str, cut: &str) {
        let common = common_prefix(low, cut).max(self.prefix.len());
        let place = self.place(cut, common.min(cut.len()));
        for key in place.keys() {
            if let Some(alphabet) = self.alphabet_mut(key) {
                alphabet.ended += 1.0;
                alphabet.failed_cuts += 1.0;
            }
        }
    }

    fn alphabet_mut(&mut self, key: CharPlace) -> Option<&mut Alphabet> {
        if self.alphabets.len() >= MAX_PLACES {
            return self.alphabets.get_mut(&key);
        }
        Some(self.alphabets.entry(key).or_default())
    }

    fn learn_char(&mut self, place: CharPlace, c: char) {
        for key in place.keys() {
            if let Some(alphabet) = self.alphabet_mut(key) {
                alphabet.learn(c);
            }
        }
    }

    /// Learns a page of sub-folders. Returns whether some of them are new.
    pub(in crate::list) fn learn_folders(&mut self, page: &FolderPage<'_>) -> bool {
        let &FolderPage { parent, start, prefixes, has_no_objects, is_last } = page;
        let known_before = self.marks.len();
        let mut before: Option<&str> = None;
        let is_below =
            |folder: &&String| folder.starts_with(parent) && folder.len() > parent.len() + 1 && folder.ends_with('/');
        for (index, folder) in prefixes.iter().filter(is_below).enumerate() {
            self.marks.entry(folder.clone()).or_insert(has_no_objects && index > 0);
            let mut place = self.origin;
            for c in folder[self.prefix.len()..].chars() {
                self.learn_char(place, c);
                place = place.after(c);
            }
            if let Some(before) = before {
                self.learn_step(before, folder, 1.0);
            }
            before = Some(folder);
        }
        if has_no_objects {
            let to = if is_last { None } else { before.map(Into::into) };
            self.known.insert(parent.into(), KnownFolders { from: start.into(), to });
        }
        self.marks.len() > known_before
    }
}
