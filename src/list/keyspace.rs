//! What is known of the names under a prefix, and guesses at the rest: how many lie in a gap, and where to cut it.
//!
//! Nothing here has to be right: a wrong guess costs a call, never an object.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::alphabet::{
    ANY, Alphabet, AlphabetTrust, CharPlace, CharSpan, EXTRA, HashMap, MOST_PLACES, SETTLED, clip, most, position,
    scale, separates,
};

/// Of the objects a folder of numbers has held so far, how many more are likely.
const RUN_AGAIN: f64 = 0.5;

pub(super) fn lcp(a: &str, b: &str) -> usize {
    let mut n = a.as_bytes().iter().zip(b.as_bytes()).take_while(|(x, y)| x == y).count();
    while !a.is_char_boundary(n) {
        n -= 1;
    }
    n
}

/// The page at the edge of a gap.
#[derive(Clone, Debug)]
pub(super) struct Density {
    pub first: String,
    pub last: String,
    pub items: f64,
}

#[derive(Debug)]
pub(super) struct Gap<'a> {
    pub low: &'a str,
    pub end: Option<&'a str>,
    pub density: Option<&'a Density>,
    pub share: f64,
    pub doubt: u32,
    /// Objects of the folder of `low` so far.
    pub folder: f64,
}

/// Part of a gap.
#[derive(Debug)]
pub(super) struct GapSegment {
    pub mass: f64,
    pub sure: bool,
    kind: KeyKind,
}
impl GapSegment {
    pub(super) fn mark(&self) -> Option<&str> {
        match &self.kind {
            KeyKind::Mark(m) => Some(m),
            KeyKind::Node { .. } => None,
        }
    }
    pub(super) fn below(&self, parent: &str) -> bool {
        match &self.kind {
            KeyKind::Node { prefix, .. } => prefix.starts_with(parent),
            KeyKind::Mark(m) => m.starts_with(parent),
        }
    }
}
#[derive(Debug)]
enum KeyKind {
    Node { prefix: String, place: CharPlace, spans: Vec<CharSpan> },
    Mark(String),
}

#[derive(Debug)]
pub(super) struct KeySpace {
    prefix: String,
    alphabets: HashMap<CharPlace, Alphabet>,
    /// Tokens whose digits look like those of hashes.
    random: HashMap<(u8, u8), u32>,
    letters: HashMap<(u8, u8), bool>,
    /// What a token is made of, wherever in it.
    tokens: HashMap<(u8, u8), Alphabet>,
    origin: CharPlace,
    spread: BTreeSet<(u8, u8)>,
    separators: BTreeSet<(char, u8, u8)>,
    items: f64,
    borders: Vec<f64>,
    marks: BTreeMap<String, bool>,
    /// Folders whose sub-folders are known from the one on to the other.
    known: HashMap<String, (String, Option<String>)>,
    firsts: BTreeSet<String>,
    /// Names of an earlier listing and how many objects came before each.
    earlier: Vec<(String, f64)>,
    /// Objects of folders that take more than a page, so far.
    large: HashMap<String, f64>,
    pub page: f64,
}

fn tail_char(s: &str, at: usize) -> Option<char> {
    s[at..].chars().next()
}

impl KeySpace {
    pub(super) fn new(prefix: &str, page: f64) -> Self {
        Self {
            prefix: prefix.into(),
            alphabets: HashMap::default(),
            random: HashMap::default(),
            letters: HashMap::default(),
            tokens: HashMap::default(),
            spread: BTreeSet::new(),
            origin: CharPlace { before: ANY, ..CharPlace::default() },
            separators: BTreeSet::new(),
            items: 0.0,
            borders: vec![0.0; 32],
            marks: BTreeMap::new(),
            known: HashMap::default(),
            firsts: BTreeSet::new(),
            earlier: vec![],
            large: HashMap::default(),
            page,
        }
    }
    fn place_from(place: CharPlace, s: &str, from: usize, at: usize) -> CharPlace {
        s[from..at].chars().fold(place, CharPlace::after)
    }
    fn place(&self, s: &str, at: usize) -> CharPlace {
        s[self.prefix.len()..at].chars().fold(self.origin, CharPlace::after)
    }

    /// Counts objects of a folder: how many there have been, of all ranges.
    pub(super) fn in_folder(&mut self, folder: &str, objects: f64) -> f64 {
        if let Some(count) = self.large.get_mut(folder) {
            *count += objects;
            return *count;
        }
        if objects >= 0.5 * self.page && self.large.len() < MOST_PLACES {
            self.large.insert(folder.into(), objects);
        }
        objects
    }

    /// A first name of a range.
    pub(super) fn real(&mut self, name: &str) {
        self.firsts.insert(name.into());
    }

    pub(super) fn learn<'a>(&mut self, len: usize, name: &dyn Fn(usize) -> &'a str) {
        if len == 0 {
            return;
        }
        let (first, last) = (name(0), name(len - 1));
        let common = lcp(first, last);
        self.items += len as f64;
        let base = self.place(first, common);
        let mut place = self.origin;
        for c in first[self.prefix.len()..common].chars() {
            self.note(place, c);
            place = place.after(c);
        }
        let step = (len / 40).max(1);
        let mut i = 0;
        while i < len {
            let mut place = base;
            for c in name(i)[common..].chars().take(40) {
                self.note(place, c);
                if c != '/' && (place.same_token(base) && place.after(c).same_token(base)) {
                    self.tokens.entry((place.slash, place.token)).or_default().learn(c);
                }
                if c.is_ascii_alphabetic() && place.same_token(base) {
                    self.letters.insert((place.slash, place.token), true);
                }
                place = place.after(c);
            }
            i += step;
        }
        // Borders of folders, and how far neighbours agree.
        let mut agree: Vec<u16> = Vec::with_capacity(len);
        let mut before = first;
        for i in 1..len {
            let n = name(i);
            let l = lcp(before, n);
            agree.push(l as u16);
            let tail = &before.as_bytes()[l..];
            let ended = slashes(tail);
            if ended > 0 {
                let at = slashes(&before.as_bytes()[self.prefix.len().min(l)..l]);
                for level in at..at + ended {
                    self.borders[level.min(31)] += 1.0;
                }
            }
            before = n;
        }
        let mut sorted = agree.clone();
        sorted.sort_unstable();
        let shallow = if sorted.len() > 128 { sorted[128].wrapping_sub(1) } else { u16::MAX };
        let stride = (len / 64).max(1);
        let (mut agreed, mut pairs) = (0usize, 0usize);
        if !self.origin.plain {
            for i in (1..len).step_by(stride) {
                let l = usize::from(agree[i - 1]);
                for c in [tail_char(name(i - 1), l), tail_char(name(i), l)].into_iter().flatten() {
                    if c != '/' && separates(c) && self.separators.len() < 64 {
                        let place = Self::place_from(base, name(i), common, l);
                        self.separators.insert((c, place.token, place.offset));
                    }
                }
            }
            let kinds: BTreeSet<char> = self.separators.iter().map(|s| s.0).collect();
            let places: BTreeSet<(u8, u8)> = self.separators.iter().map(|s| (s.1, s.2)).collect();
            if kinds.len() >= 2 && places.len() >= 3 {
                self.origin.plain = true;
                self.alphabets.clear();
                self.random.clear();
                self.tokens.clear();
                self.letters.clear();
                self.borders.fill(0.0);
                self.items = 0.0;
                return self.learn(len, name);
            }
        }
        for i in 1..len {
            let l = agree[i - 1];
            let weight = if l <= shallow {
                1.0
            } else if i % stride == 0 {
                stride as f64
            } else {
                continue;
            };
            self.turn_at(name(i - 1), usize::from(l), Self::place_from(base, name(i), common, usize::from(l)), weight);
            let n = name(i);
            let l = usize::from(l);
            if i % stride == 0 && Self::place_from(base, n, common, l).same_token(base) {
                let plain = self.origin.plain;
                agreed += n[l..]
                    .chars()
                    .take_while(|c| *c != '/' && (plain || !separates(*c)))
                    .map(|c| if c.is_ascii() { 1 } else { 3 })
                    .sum::<usize>();
                pairs += 1;
            }
        }
        // Names spread evenly begin where their alphabet does.
        if self.items <= len as f64 && pairs > 0 && agreed >= 4 * pairs {
            let token = (base.slash, base.token);
            let start = common - first[self.prefix.len()..common].bytes().rev().take_while(u8::is_ascii_digit).count();
            let place = self.place(first, start);
            if place.same_token(base)
                && self.tokens.get(&token).is_some_and(|t| t.seen.iter().all(char::is_ascii_digit))
            {
                self.random.insert(token, 1);
                let (from, to) = (self.fraction(first, start, place, 12), self.fraction(last, start, place, 12));
                self.random.remove(&token);
                if from > 0.1 * (to - from) {
                    self.spread.insert(token);
                }
            }
        }
        if pairs > 0 && agreed >= 4 * pairs && !self.spread.contains(&(base.slash, base.token)) {
            *self.random.entry((base.slash, base.token)).or_default() += 1;
        }
    }

    /// `b` comes right after `a`.
    pub(super) fn turn(&mut self, a: &str, b: &str, weight: f64) {
        let l = lcp(a, b).max(self.prefix.len());
        self.turn_at(a, l, self.place(a, l), weight);
    }

    fn turn_at(&mut self, a: &str, l: usize, place: CharPlace, weight: f64) {
        let mut place = place;
        for (i, c) in a[l..].chars().take(40).enumerate() {
            for key in place.keys() {
                let Some(t) = self.alphabet_mut(key) else { continue };
                if i == 0 { t.on += weight } else { t.off += weight }
            }
            place = place.after(c);
        }
    }

    /// A cut was tried right after the child of `low` where it and `cut` part.
    pub(super) fn tried(&mut self, low: &str, cut: &str) {
        let l = lcp(low, cut).max(self.prefix.len());
        let place = self.place(cut, l.min(cut.len()));
        for key in place.keys() {
            if let Some(a) = self.alphabet_mut(key) {
                a.off += 1.0;
                a.tried += 1.0;
            }
        }
    }

    /// How many children follow at a place on average.
    fn proven(&self, place: CharPlace) -> bool {
        self.alphabet(place).is_some_and(|a| a.on >= 2.0)
    }

    fn further(&self, place: CharPlace) -> f64 {
        let (s, f) = self.alphabet(place).map_or((0.0, 0.0), |a| (a.on, a.off));
        (s + EXTRA) / (f + 1.0)
    }

    fn alphabet_mut(&mut self, key: CharPlace) -> Option<&mut Alphabet> {
        if self.alphabets.len() >= MOST_PLACES {
            return self.alphabets.get_mut(&key);
        }
        Some(self.alphabets.entry(key).or_default())
    }

    fn note(&mut self, place: CharPlace, c: char) {
        for key in place.keys() {
            if let Some(a) = self.alphabet_mut(key) {
                a.learn(c);
            }
        }
    }

    fn alphabet(&self, place: CharPlace) -> Option<&Alphabet> {
        let [exact, block, any] = place.keys();
        self.alphabets
            .get(&exact)
            .filter(|a| a.count >= 12 && a.on + a.off >= 4.0)
            .or_else(|| self.alphabets.get(&block).filter(|a| a.count >= 12))
            .or_else(|| self.alphabets.get(&any))
    }

    /// Sub-folders as a delimiter listing gave them; `whole`: nothing but these lies between the first and the last.
    pub(super) fn folders<'a>(
        &mut self,
        parent: &str,
        start: &str,
        prefixes: impl Iterator<Item = &'a str>,
        whole: bool,
        done: bool,
    ) -> bool {
        let mut any = None;
        let before = self.marks.len();
        for (i, p) in
            prefixes.filter(|p| p.starts_with(parent) && p.len() > parent.len() + 1 && p.ends_with('/')).enumerate()
        {
            self.marks.entry(p.into()).or_insert(whole && i > 0);
            let mut place = self.origin;
            for c in p[self.prefix.len()..].chars() {
                self.note(place, c);
                place = place.after(c);
            }
            if let Some(before) = any {
                self.turn(before, p, 1.0);
            }
            any = Some(p);
        }
        if whole {
            self.known.insert(parent.into(), (start.into(), if done { None } else { any.map(Into::into) }));
        }
        self.marks.len() > before
    }

    /// Objects that a sub-folder holds on average, as far as is known.
    pub(super) fn folder_mass(&self, folder: &str) -> f64 {
        let inner = folder.get(self.prefix.len()..).unwrap_or_default();
        self.level_mass(inner.bytes().filter(|b| *b == b'/').count().saturating_sub(1))
    }

    fn level_mass(&self, level: usize) -> f64 {
        let b = self.borders[level.min(31)];
        if b >= 1.0 { self.items / b } else { self.items.max(2.0 * self.page) * 1.5 }
    }

    fn spans(
        &self,
        place: CharPlace,
        also: impl IntoIterator<Item = char>,
        trust: AlphabetTrust,
        out: &mut Vec<CharSpan>,
    ) -> f64 {
        let letters = self.letters.get(&(place.slash, place.token)).copied().unwrap_or(false);
        let plain = self.origin.plain;
        // After whatever character, since what followed one character says little about whole scripts.
        let novelty =
            place.keys().iter().filter_map(|key| self.alphabets.get(key)).map(Alphabet::novelty).fold(1.0, f64::min);
        let token = (place.slash, place.token);
        if self.random.contains_key(&token)
            && let Some(all) = self.tokens.get(&token)
        {
            let merged = match self.alphabet(place) {
                Some(a) if a.count > 300 && a.on > 20.0 && a.off >= 3.0 => None,
                Some(a) => {
                    let mut m = a.clone();
                    (m.count, m.on, m.off, m.tried) = (all.count, all.on, all.off, all.tried);
                    for c in &all.seen {
                        m.learn(*c);
                    }
                    Some(m)
                }
                None => Some(all.clone()),
            };
            if let Some(m) = merged {
                m.spans(also, letters, plain, novelty, trust, out);
                self.weigh_scripts(place, novelty, out);
                return out.iter().map(|s| s.weight).sum();
            }
        }
        match self.alphabet(place) {
            Some(a) => a.spans(also, letters, plain, novelty, trust, out),
            None => Alphabet::default().spans(also, letters, plain, novelty, trust, out),
        }
        self.weigh_scripts(place, novelty, out);
        out.iter().map(|s| s.weight).sum()
    }

    /// Where the characters of a place are settled, how often each script came says more than how many characters it
    /// has.
    fn weigh_scripts(&self, place: CharPlace, novelty: f64, spans: &mut [CharSpan]) {
        let [_, block, any] = place.keys();
        let known = |key| self.alphabets.get(key).filter(|a: &&Alphabet| a.count >= 100);
        if novelty < SETTLED
            && let Some(alphabet) = known(&block).or_else(|| known(&any))
        {
            alphabet.weigh_scripts(spans);
        }
    }

    fn fraction(&self, s: &str, at: usize, place: CharPlace, depth: u32) -> f64 {
        let mut spans = vec![];
        let total = self.spans(place, tail_char(s, at), AlphabetTrust::Guess(0.3), &mut spans);
        self.weight_before(&spans, s, at, place, depth) / total.max(1e-9)
    }

    /// The weight of what comes before `s` at this place, where these are its spans.
    fn weight_before(&self, spans: &[CharSpan], s: &str, at: usize, place: CharPlace, depth: u32) -> f64 {
        let Some(c) = tail_char(s, at) else { return 0.0 };
        let (before, own) = position(spans, c);
        let inner = if depth == 0 { 0.5 } else { self.fraction(s, at + c.len_utf8(), place.after(c), depth - 1) };
        before + own * inner
    }

    /// Takes the cut points of an earlier listing, with the number of objects from each to the next.
    pub(super) fn remember(&mut self, known: impl IntoIterator<Item = (String, u64)>) -> f64 {
        let mut sum = 0.0;
        for (name, objects) in known {
            if name.starts_with(&self.prefix) && self.earlier.last().is_none_or(|last| last.0 < name) {
                self.earlier.push((name, sum));
            }
            sum += objects as f64;
        }
        sum
    }

    fn earlier_segments(&self, gap: &Gap, out: &mut Vec<GapSegment>) {
        let a = self.earlier.partition_point(|e| e.0.as_str() <= gap.low);
        let b = gap.end.map_or(self.earlier.len(), |end| self.earlier.partition_point(|e| e.0.as_str() < end));
        if a >= b {
            return;
        }
        let step = ((b - a) / 256).max(1);
        let start = self.earlier[a].1 - a.checked_sub(1).map_or(0.0, |i| self.earlier[i].1);
        if a > 0 {
            out.push(GapSegment { mass: start * 0.5, sure: false, kind: KeyKind::Mark(gap.low.into()) });
        }
        for i in (a..b).step_by(step) {
            let next = (i + step).min(b - 1);
            let mass = if next > i { self.earlier[next].1 - self.earlier[i].1 } else { start.max(1.0) };
            out.push(GapSegment { mass, sure: true, kind: KeyKind::Mark(self.earlier[i].0.clone()) });
        }
    }

    /// The gap's segments in order.
    pub(super) fn segments(&self, gap: &Gap) -> Vec<GapSegment> {
        let mut out = vec![];
        self.earlier_segments(gap, &mut out);
        if !out.is_empty() {
            return out;
        }
        let upper = gap.end.map_or(Bound::Unbounded, |e| Bound::Excluded(e.to_string()));
        let mut marks = self.marks.range((Bound::Excluded(gap.low.to_string()), upper));
        let Some((first, whole)) = marks.next() else {
            self.flat(gap, &mut out);
            return out;
        };
        let mut end = first.clone();
        let parent = first[..first.len() - 1].rfind('/').map_or(self.prefix.len(), |i| i + 1).max(self.prefix.len());
        if *whole
            && gap.low.starts_with(&first[..parent])
            && let Some(n) = gap.low[parent..].find('/')
        {
            let folder_end = format!("{}0", &gap.low[..parent + n]);
            if folder_end < end {
                end = folder_end;
            }
        }
        self.flat(&Gap { end: Some(&end), ..*gap }, &mut out);
        let mut all = vec![first];
        all.extend(marks.map(|(m, _)| m));
        for (i, m) in all.iter().enumerate() {
            // A folder whose sub-folders follow is counted by them.
            let nested = all.get(i + 1).is_some_and(|n| n.starts_with(m.as_str()));
            let level = m[self.prefix.len()..].bytes().filter(|b| *b == b'/').count() - 1;
            let mass = if nested { 1.0 } else { self.level_mass(level) };
            out.push(GapSegment { mass, sure: true, kind: KeyKind::Mark((*m).clone()) });
        }
        out
    }

    #[expect(clippy::many_single_char_names, clippy::single_match_else, reason = "depths along names")]
    fn flat(&self, gap: &Gap, out: &mut Vec<GapSegment>) {
        let base = self.prefix.len();
        let x = gap.low;
        let dense = gap.density.filter(|d| d.first < d.last && d.items > 1.0);
        let (first, last) = dense.map_or((x, x), |d| (d.first.as_str(), d.last.as_str()));
        // Depth by character: byte offsets and places of x.
        let mut at: Vec<(usize, char, CharPlace)> = vec![];
        let mut place = self.origin;
        for (i, c) in x[base.min(x.len())..].char_indices() {
            at.push((base + i, c, place));
            place = place.after(c);
        }
        let depth_of = |byte: usize| at.partition_point(|a| a.0 < byte);
        let d = gap.end.map(|e| depth_of(lcp(x, e)));
        let y = gap.end.and_then(|e| self.firsts.range::<str, _>((Bound::Included(e), Bound::Unbounded)).next());
        let y_mark = gap
            .end
            .and_then(|e| self.marks.range::<str, _>((Bound::Included(e), Bound::Unbounded)).next())
            .map(|m| m.0);
        let y = match (y, y_mark) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let dy = y.map(|y| depth_of(lcp(x, y)));
        let j = if dense.is_some() { depth_of(lcp(first, last)) } else { d.unwrap_or(0) };
        if at.is_empty() {
            return;
        }
        let j = j.min(at.len() - 1);
        let low_depth = d.map_or(0, |d| d + 1);
        let random = |p: CharPlace| {
            self.random.contains_key(&(p.slash, p.token)) && at.get(j).is_some_and(|a| a.2.same_token(p))
        };
        let start = out.len();
        let slash = x[base..].rfind('/').map(|i| base + i);
        let mut spans = vec![];
        let sure_at = |k: usize| -> bool {
            (k > low_depth || gap.doubt == 0)
                && (random(at[k].2) || dy.is_some_and(|dy| dy < at.len() && k >= dy && at[k].2.same_token(at[dy].2)))
        };
        let doubt = 0.4f64.powi(gap.doubt as i32);
        // Mass of one unit of weight among the children at each depth.
        let deepest = at.len().min(j + 10).max(d.map_or(0, |d| (d + 1).min(at.len())));
        let mut unit = vec![0.0; deepest.max(j + 1)];
        unit[j] = match dense {
            Some(dn) => {
                let (jb, place) = (at[j].0, at[j].2);
                // Two names that part in a script of which nothing was seen would coincide in spans of their own. Each
                // letter of ASCII has a weight of its own.
                let unseen = tail_char(first, jb).filter(|c| !c.is_ascii());
                let also = tail_char(last, jb).into_iter().chain(unseen);
                let total = self.spans(place, also, AlphabetTrust::Guess(0.3), &mut spans);
                let delta = if unseen.is_some() {
                    let [from, to] = [first, last].map(|name| self.weight_before(&spans, name, jb, place, 6));
                    to - from
                } else {
                    (self.fraction(last, jb, place, 6) - self.fraction(first, jb, place, 6)) * total
                };
                dn.items / delta.max(1e-12)
            }
            None => {
                let total = self.spans(at[j].2, Some(at[j].1), AlphabetTrust::Guess(0.3), &mut spans);
                gap.share.min(1e10) / total.max(1.0)
            }
        };
        for k in j + 1..unit.len() {
            let total = self.spans(at[k].2, Some(at[k].1), AlphabetTrust::Guess(0.3), &mut spans);
            unit[k] = unit[k - 1] / total.max(1.0);
        }
        let mut unproven = 0;
        let mut prior = vec![1.0; unit.len()];
        for k in (0..j).rev() {
            if !self.proven(at[k + 1].2) {
                unproven += 1;
            }
            prior[k] = 0.75f64.powi(unproven);
            let sure = sure_at(k + 1) && unit[k + 1] < 1e8;
            let mut total = self.spans(
                at[k + 1].2,
                Some(at[k + 1].1),
                if sure { AlphabetTrust::Sure } else { AlphabetTrust::Guess(0.3) },
                &mut spans,
            );
            if !sure {
                let (left, own) = position(&spans, at[k + 1].1);
                total = total.min(1.0 + self.further(at[k + 1].2) * prior[k]).max(if at[k + 1].2.same_token(at[j].2) {
                    left + own
                } else {
                    0.0
                });
            }
            unit[k] = (unit[k + 1] * total.max(1.0)).min(1e10);
            if at[k].1 == '/' {
                unit[k] = self.level_mass(at[k].2.slash as usize);
            }
        }
        let tiny = self.page * 0.01;
        let covers: Vec<(usize, usize)> = x
            .match_indices('/')
            .filter_map(|(slash, _)| {
                let parent = x[..slash].rfind('/').map_or(base, |i| i + 1).max(base);
                let (from, to) = self.known.get(&x[..parent])?;
                (x[..slash] >= from[..from.len().saturating_sub(1)] && to.as_ref().is_none_or(|to| x[..=slash] < **to))
                    .then_some((parent, slash))
            })
            .collect();
        let covered = |byte: usize| covers.iter().any(|c| c.0 <= byte && byte <= c.1);
        // A run of numbers that has come so far is likely to go on as far again.
        let (mut passed, mut ahead) = (0.0, 0.0);
        let digits = slash.is_some()
            && self
                .tokens
                .get(&(at[j].2.slash, at[j].2.token))
                .is_some_and(|t| t.seen.iter().all(char::is_ascii_digit));
        let run = if digits { RUN_AGAIN * gap.folder } else { 0.0 };
        let ec = gap.end.zip(d).and_then(|(e, d)| at.get(d).and_then(|a| tail_char(e, a.0)));
        let mut in_folder = slash.is_some();
        for k in (low_depth.saturating_sub(1)..unit.len()).rev() {
            if in_folder && slash.is_some_and(|s| at[k].0 <= s) {
                in_folder = false;
                self.settle(&mut out[start..], gap.folder, at[k].2.slash as usize);
            }
            let middle = d == Some(k);
            let known = covered(at[k].0);
            let sure = !known && (sure_at(k) && unit[k] < 1e8 || middle && gap.doubt == 0 && dy == Some(k));
            self.spans(
                at[k].2,
                Some(at[k].1),
                if sure { AlphabetTrust::Sure } else { AlphabetTrust::Guess(0.3) },
                &mut spans,
            );
            let mut part = clip(&spans, Some(at[k].1), if middle { ec } else { None });
            let mut room: f64 = part.iter().map(|s| s.weight).sum();
            let (mut likely, mut strong) = (room, true);
            if !sure {
                likely = self.further(at[k].2) * if self.proven(at[k].2) { 1.0 } else { prior[k] };
                strong = self.proven(at[k].2);
                if middle {
                    likely *= doubt;
                }
                if at[k].2.same_token(at[j].2) && dense.is_some() {
                    passed += unit[k] * position(&spans, at[k].1).0;
                    let lindy = (passed.max(run) - ahead) / unit[k];
                    strong |= lindy >= likely;
                    likely = likely.max(lindy);
                }
                let mut all = vec![];
                self.spans(at[k].2, Some(at[k].1), AlphabetTrust::Sure, &mut all);
                room = clip(&all, Some(at[k].1), if middle { ec } else { None }).iter().map(|s| s.weight).sum();
                if known {
                    likely = 0.0;
                }
                likely = likely.min(room);
                scale(&mut part, likely);
                ahead += unit[k] * likely.min(room);
            }
            push(out, unit[k], &x[..at[k].0], at[k].2, part, sure || !known && strong && likely >= 0.5 * room, tiny);
        }
        if let (Some(d), Some(e)) = (d, gap.end)
            && d < unit.len()
        {
            let sure = gap.doubt == 0 && (sure_at(d) || dy == Some(d));
            // The left side of the end.
            let mut u = unit[d];
            let mut place = at[d].2;
            let mut pos = at[d].0;
            for (n, c) in e[pos..].chars().enumerate() {
                if n > 0 && !covers.iter().any(|c| c.0 <= at[d].0 && at[d].0 <= c.1 && !e[c.0..pos].contains('/')) {
                    let total = self.spans(place, Some(c), AlphabetTrust::Guess(0.3), &mut spans);
                    u /= total.max(1.0);
                    let mut part = clip(&spans, None, Some(c));
                    if !sure {
                        most(&mut part, self.further(place));
                    }
                    push(out, u, &e[..pos], place, part, sure, tiny);
                }
                pos += c.len_utf8();
                place = place.after(c);
                if n > 8 || u < tiny {
                    break;
                }
            }
        }
    }

    /// The rest of a folder is what folders hold on average; past that, or before any has ended, about what it held so far.
    fn settle(&self, rest: &mut [GapSegment], seen: f64, level: usize) {
        let borders = self.borders[level.min(31)];
        let mean = if borders >= 3.0 { self.items / borders } else { 0.0 };
        let most = if mean > seen { mean - seen } else { 2.0 * seen };
        let sum: f64 = rest.iter().map(|s| s.mass).sum();
        if sum > most {
            for s in rest {
                s.mass *= most / sum;
            }
        }
    }

    /// The name at which `mass` of the segment lies to the left.
    pub(super) fn cut(&self, segment: &GapSegment, mass: f64, fine: f64) -> String {
        match &segment.kind {
            KeyKind::Mark(m) => m.clone(),
            KeyKind::Node { prefix, place, spans } => {
                let mut out = prefix.clone();

                let (mut spans, mut place, segment_place) = (spans.clone(), *place, *place);
                let mut left = mass;
                let mut own = segment.mass;
                for _ in 0..8 {
                    let total: f64 = spans.iter().map(|s| s.weight).sum();
                    if total <= 0.0 {
                        break;
                    }
                    let mut want = left / own * total;
                    let mut chosen = None;
                    for s in &spans {
                        if want < s.weight {
                            let n = f64::from(s.high as u32 - s.low as u32 + 1);
                            let each = s.weight / n;
                            let step = (want / each).floor().min(n - 1.0);
                            let code = s.low as u32 + step as u32;
                            let c = char::from_u32(code).unwrap_or('\u{E000}');
                            chosen = Some((c, (want - step * each).max(0.0), each));
                            break;
                        }
                        want -= s.weight;
                    }
                    let Some((c, rest, each)) = chosen else { break };
                    out.push(c);
                    place = place.after(c);
                    own *= each / total;
                    left = (rest / each).min(1.0) * own;
                    if !segment.sure || own < fine || left < fine * 0.5 && own < 2.0 * fine {
                        break;
                    }
                    let Some(alphabet) = self.alphabet(place) else { break };
                    if alphabet.seen.len() > 1 && self.further(place) < 0.3 {
                        break;
                    }
                    let trust =
                        if place.same_token(segment_place) { AlphabetTrust::Sure } else { AlphabetTrust::Guess(0.0) };
                    self.spans(place, None, trust, &mut spans);
                }
                out
            }
        }
    }
}

/// How many folders end here.
#[expect(clippy::naive_bytecount, reason = "the slices are short")]
fn slashes(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b == b'/').count()
}

fn push(
    out: &mut Vec<GapSegment>,
    unit: f64,
    prefix: &str,
    place: CharPlace,
    spans: Vec<CharSpan>,
    sure: bool,
    tiny: f64,
) {
    let mass = unit * spans.iter().map(|s| s.weight).sum::<f64>();
    if mass > tiny {
        out.push(GapSegment { mass, sure, kind: KeyKind::Node { prefix: prefix.into(), place, spans } });
    }
}
