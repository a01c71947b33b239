//! Where in a name a character stands, and which characters come there.

use std::hash::{BuildHasherDefault, Hasher};

pub(super) type HashMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<KeyHasher>>;

/// A fast hash for small keys that are made here, so that no defence against chosen keys is needed.
#[derive(Default, Debug)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u32(u32::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(number)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// A token of a name: the part between two separators, by its number behind the last slash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct TokenPlace {
    slashes: u8,
    token: u8,
}

/// Where in a name a character stands. Numbers beyond 255 count as 255.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct CharPlace {
    /// Slashes before the character.
    pub slashes: u8,
    /// Separators since the last slash.
    pub token: u8,
    /// Characters since the last separator.
    pub offset: u8,
    /// The character before; or a value from [`CHAR_BLOCKS`] on for a block of characters, or [`ANY_CHAR`].
    before: u32,
    /// Whether names have no tokens: separators come anywhere.
    pub is_plain: bool,
}

const CHAR_BLOCKS: u32 = 0x20_0000;
const ANY_CHAR: u32 = 0x30_0000;

/// Whether a character separates tokens.
pub(super) fn separates(c: char) -> bool {
    c.is_ascii() && !c.is_ascii_alphanumeric()
}

impl CharPlace {
    /// The place of the first character.
    pub(super) fn origin() -> Self {
        Self { before: ANY_CHAR, ..Self::default() }
    }

    /// The place behind `c`, which stands here.
    pub(super) fn after(self, c: char) -> Self {
        let before = c as u32;
        if c == '/' {
            Self { slashes: self.slashes.saturating_add(1), token: 0, offset: 0, before, ..self }
        } else if !self.is_plain && separates(c) {
            Self { token: self.token.saturating_add(1), offset: 0, before, ..self }
        } else {
            Self { offset: self.offset.saturating_add(1), before, ..self }
        }
    }

    pub(super) fn token_place(self) -> TokenPlace {
        TokenPlace { slashes: self.slashes, token: self.token }
    }

    pub(super) fn same_token(self, other: Self) -> bool {
        self.token_place() == other.token_place()
    }

    /// This place and two more general ones, from the most to the least specific: behind the same character, behind any
    /// of its block, and behind any character.
    pub(super) fn keys(self) -> [Self; 3] {
        let block = match char::from_u32(self.before) {
            Some(c) if c.is_ascii() => CharClass::of(c) as u32,
            _ => 16 + (self.before >> 8),
        };
        [self, Self { before: CHAR_BLOCKS + block, ..self }, Self { before: ANY_CHAR, ..self }]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CharClass {
    Digit,
    Lower,
    Upper,
    Other,
}

impl CharClass {
    fn of(c: char) -> Self {
        match c {
            '0'..='9' => Self::Digit,
            'a'..='z' => Self::Lower,
            'A'..='Z' => Self::Upper,
            _ => Self::Other,
        }
    }
}

/// Characters from `low` to `high`, both inclusive.
#[derive(Clone, Copy, Debug)]
pub(super) struct CharSpan {
    pub low: char,
    pub high: char,
    /// The weight of all these characters together.
    pub weight: f64,
}

impl CharSpan {
    /// Number of code points in the span.
    pub(super) fn chars(&self) -> f64 {
        f64::from(self.high as u32 - self.low as u32 + 1)
    }
}

/// Weight of all characters together that were never seen, where they are only guessed at.
pub(super) const EXTRA_WEIGHT: f64 = 1.35;

/// Places that are remembered, so that names without any structure don't fill the memory.
pub(super) const MAX_PLACES: usize = 50_000;

/// Characters that are remembered at a place.
const MAX_SEEN: usize = 200;

/// The characters seen at a place.
#[derive(Default, Debug, Clone)]
pub(super) struct Alphabet {
    /// In order, each once.
    pub seen: Vec<char>,
    /// How often each of them came.
    times: Vec<u32>,
    pub count: u32,
    /// How often a child with another character followed.
    pub followed: f64,
    /// How often no other child followed.
    pub ended: f64,
    /// How many of `ended` are cuts that were tried in vain rather than ends that were seen.
    pub failed_cuts: f64,
}

/// How characters that were never seen are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum AlphabetTrust {
    /// As those that were seen, unless the alphabet is known to be complete.
    Sure,
    /// By this weight each.
    Guess(f64),
}

impl AlphabetTrust {
    pub(super) const DEFAULT_GUESS: Self = Self::Guess(0.3);
}

/// How [`Alphabet::spans`] makes spans.
#[derive(Debug)]
pub(super) struct SpanOptions {
    /// Whether letters were seen in the token.
    pub has_letters: bool,
    /// See [`CharPlace::is_plain`].
    pub is_plain: bool,
    /// See [`Alphabet::novelty`].
    pub novelty: f64,
    pub trust: AlphabetTrust,
}

fn next_char(c: char) -> Option<char> {
    let code = c as u32 + 1;
    char::from_u32(if code == 0xD800 { 0xE000 } else { code })
}

fn previous_char(c: char) -> Option<char> {
    let code = (c as u32).checked_sub(1)?;
    char::from_u32(if code == 0xDFFF { 0xD7FF } else { code })
}

/// Between two neighbouring seen characters that are further apart than this, one script ends and another begins.
/// Letters of most scripts are closer together, and so are scripts of one part of the world, for example Greek and
/// Cyrillic.
const SCRIPT_GAP: f64 = 1024.0;

fn distance(low: char, high: char) -> f64 {
    f64::from(high as u32 - low as u32)
}

/// Novelty below which the characters of a place count as settled: the names of three parents were listed to their end.
pub(super) const SETTLED_NOVELTY: f64 = 0.3;

/// Adds the spans of characters that may follow the last seen one, up to `high`. A script of which n consecutive
/// characters were seen is as likely to end within the next n characters as to reach behind them, and so on for each
/// doubling of its length. So each doubling has the same weight.
fn extend_script(seen: &[char], high: char, novelty: f64, out: &mut Vec<CharSpan>) {
    let Some(&last) = seen.last() else { return };
    let mut first = last;
    for &c in seen.iter().rev() {
        if c.is_ascii() || distance(c, first) > SCRIPT_GAP {
            break;
        }
        first = c;
    }
    let run = last as u32 - first as u32 + 1;
    let (mut from, mut length) = (last as u32 + 1, run);
    while from <= high as u32 {
        let to = (from + length - 1).min(high as u32);
        if let (Some(low), Some(high)) = (char::from_u32(from), char::from_u32(to)) {
            let part = f64::from(to - from + 1) / f64::from(length);
            out.push(CharSpan { low, high, weight: std::f64::consts::LN_2 * f64::from(run) * part * novelty });
        }
        (from, length) = (to + 1, 2 * length);
    }
}

impl Alphabet {
    /// How likely it is that characters come which were never seen, from 1 down to 0: the less likely, the more parents
    /// had their last child listed.
    pub(super) fn novelty(&self) -> f64 {
        1.0 / (1.0 + self.ended - self.failed_cuts)
    }

    pub(super) fn learn(&mut self, c: char) {
        self.count += 1;
        match self.seen.binary_search(&c) {
            Ok(at) => self.times[at] += 1,
            Err(at) => {
                self.seen.insert(at, c);
                self.times.insert(at, 1);
                if self.seen.len() > MAX_SEEN {
                    self.thin_out();
                }
            }
        }
    }

    /// This alphabet with all characters and the counts of another one.
    pub(super) fn merged(&self, other: &Self) -> Self {
        let Self { count, followed, ended, failed_cuts, .. } = *other;
        let mut merged =
            Self { seen: self.seen.clone(), times: self.times.clone(), count, followed, ended, failed_cuts };
        other.seen.iter().for_each(|c| merged.learn(*c));
        merged
    }

    /// Forgets a character between two others of the same script, since the characters between these count in full
    /// anyway. So there is room for scripts that come late.
    fn thin_out(&mut self) {
        let is_inner = |at: &usize| {
            let (before, after) = (self.seen[at - 1], self.seen[at + 1]);
            !before.is_ascii() && distance(before, after) < SCRIPT_GAP
        };
        let at = (1..self.seen.len() - 1).find(is_inner).unwrap_or(self.seen.len() - 1);
        self.seen.remove(at);
        let times = self.times.remove(at);
        self.times[at - 1] += times;
    }

    /// Weighs scripts by how often their characters come, instead of by how many characters they have. The sum of all
    /// weights stays the same.
    pub(super) fn weigh_scripts(&self, spans: &mut [CharSpan]) {
        #[derive(Clone, Default)]
        struct ScriptShare {
            times: f64,
            weight: f64,
        }

        let begins_script = |at: &usize| {
            *at == 0
                || distance(self.seen[at - 1], self.seen[*at]) > SCRIPT_GAP
                || (self.seen[at - 1].is_ascii() && !self.seen[*at].is_ascii())
        };
        let starts: Vec<usize> = (0..self.seen.len()).filter(begins_script).collect();
        if starts.len() < 2 {
            return;
        }

        let script_of = |c: char| starts.partition_point(|at| self.seen[*at] <= c).saturating_sub(1);
        let mut scripts = vec![ScriptShare::default(); starts.len()];
        for (c, times) in self.seen.iter().zip(&self.times) {
            scripts[script_of(*c)].times += f64::from(*times);
        }
        for span in &*spans {
            scripts[script_of(span.low)].weight += span.weight;
        }
        let mut all = ScriptShare::default();
        for script in scripts.iter().filter(|script| script.weight > 0.0) {
            all.times += script.times;
            all.weight += script.weight;
        }
        for span in spans {
            let script = &scripts[script_of(span.low)];
            span.weight *= script.times / all.times * all.weight / script.weight.max(1e-9);
        }
    }

    /// Writes the spans of the whole alphabet into `out`, in order. The characters in `also` count as seen.
    pub(super) fn spans(&self, also: impl IntoIterator<Item = char>, options: &SpanOptions, out: &mut Vec<CharSpan>) {
        out.clear();
        let &SpanOptions { is_plain, novelty, trust, .. } = options;
        let mut seen = std::borrow::Cow::Borrowed(&self.seen);
        for c in also {
            if let Err(at) = seen.binary_search(&c) {
                seen.to_mut().insert(at, c);
            }
        }

        // Whether letters that were not seen so far are unlikely. Characters of other scripts, and failed cuts among
        // these, are no evidence for that.
        let is_ascii = self.seen.last().is_none_or(char::is_ascii);
        let is_settled = self.count > 300 && (is_ascii || novelty < SETTLED_NOVELTY);
        let ended = if is_ascii { self.ended } else { self.ended - self.failed_cuts };
        // Characters of the class of a seen one that were not seen, and are outside of the seen ones.
        let unseen_weight = match trust {
            AlphabetTrust::Sure if ended >= 3.0 || is_settled && self.seen.len() > 2 => 0.05,
            AlphabetTrust::Sure => 1.0,
            AlphabetTrust::Guess(each) => each,
        };
        let push_unseen = |low: Option<char>, high: Option<char>, out: &mut Vec<CharSpan>| {
            if let (Some(low), Some(high)) = (low, high)
                && low <= high
            {
                let span = CharSpan { low, high, weight: 0.0 };
                out.push(CharSpan { weight: span.chars() * unseen_weight, ..span });
            }
        };

        let classes = whole_classes(&seen, options);
        let class_of = |c: char| classes.iter().find(|class| class.contains(&c));
        for (index, &c) in seen.iter().enumerate() {
            let class = CharClass::of(c);
            let is_first = index == 0 || CharClass::of(seen[index - 1]) != class;
            if !is_plain
                && class != CharClass::Other
                && is_first
                && let Some(whole) = class_of(c)
            {
                push_unseen(Some(*whole.start()), previous_char(c), out);
            }
            out.push(CharSpan { low: c, high: c, weight: 1.0 });
            let next = seen.get(index + 1).copied();
            if is_plain && c.is_ascii() {
                // Any character may come: no class ends before the next seen character.
                push_unseen(next_char(c), next.map_or(Some('~'), previous_char).min(Some('~')), out);
            } else if let Some(next) = next
                && CharClass::of(next) == class
                && (class != CharClass::Other || (!c.is_ascii() && !next.is_ascii()))
            {
                let (Some(low), Some(high)) = (next_char(c), previous_char(next)) else { continue };
                if low > high {
                    continue;
                }
                let mut span = CharSpan { low, high, weight: 0.0 };
                if class == CharClass::Other && span.chars() > SCRIPT_GAP {
                    extend_script(&seen[..=index], high, novelty, out);
                    continue;
                }
                span.weight = span.chars() * if is_settled && c.is_ascii_alphabetic() { 0.05 } else { 1.0 };
                out.push(span);
            } else if class != CharClass::Other
                && let Some(whole) = class_of(c)
            {
                push_unseen(next_char(c), Some(*whole.end()), out);
            }
        }

        if let Some(&last) = seen.last()
            && !last.is_ascii()
        {
            let end = match last as u32 {
                0x4E00..=0x9FFF => 0x9FFF,
                0xAC00..=0xD7A3 => 0xD7A3,
                other => other | 0x7f,
            };
            if let Some(end) = char::from_u32(end) {
                extend_script(&seen, end, novelty, out);
            }
        }
    }
}

/// The classes of ASCII characters that may come whole, by those that were seen.
fn whole_classes(seen: &[char], options: &SpanOptions) -> Vec<std::ops::RangeInclusive<char>> {
    let has = |class: CharClass| seen.iter().any(|&c| CharClass::of(c) == class);
    let (has_digits, has_upper, has_lower) = (has(CharClass::Digit), has(CharClass::Upper), has(CharClass::Lower));
    let is_hex = has_digits && !seen.iter().any(|c| c.is_ascii_lowercase() && *c > 'f');
    let letters = seen.iter().filter(|c| c.is_ascii_alphabetic()).count();
    let more_letters = options.has_letters || options.trust != AlphabetTrust::Guess(0.0) && letters > 1;
    let mut classes = vec![];
    if has_digits {
        classes.push('0'..='9');
    }
    if has_upper && more_letters {
        classes.push('A'..='Z');
    }
    if has_lower && more_letters {
        classes.push('a'..=if is_hex { 'f' } else { 'z' });
    }
    classes
}

/// Scales the weights so that their sum is `total`.
pub(super) fn scale(spans: &mut [CharSpan], total: f64) {
    let sum: f64 = spans.iter().map(|span| span.weight).sum();
    if sum > 0.0 {
        for span in spans {
            span.weight *= total / sum;
        }
    }
}

/// Scales the weights so that their sum is at most `total`.
pub(super) fn scale_down(spans: &mut [CharSpan], total: f64) {
    let sum: f64 = spans.iter().map(|span| span.weight).sum();
    if sum > total {
        for span in spans {
            span.weight *= total / sum;
        }
    }
}

/// The weight of a character, and of all before it.
pub(super) struct CharWeights {
    pub before: f64,
    pub own: f64,
}

/// Finds a character among spans.
pub(super) fn locate(spans: &[CharSpan], c: char) -> CharWeights {
    let mut before = 0.0;
    for span in spans {
        if c < span.low {
            return CharWeights { before, own: 0.0 };
        }
        if c <= span.high {
            let chars = span.chars();
            return CharWeights {
                before: before + span.weight * distance(span.low, c) / chars,
                own: span.weight / chars,
            };
        }
        before += span.weight;
    }
    CharWeights { before, own: 0.0 }
}

/// The spans strictly between two characters.
pub(super) fn clip(spans: &[CharSpan], above: Option<char>, below: Option<char>) -> Vec<CharSpan> {
    let mut out = vec![];
    for span in spans {
        let low = match above {
            Some(above) if above >= span.low => next_char(above),
            _ => Some(span.low),
        };
        let high = match below {
            Some(below) if below <= span.high => previous_char(below),
            _ => Some(span.high),
        };
        let (Some(low), Some(high)) = (low, high) else { continue };
        if low <= high {
            let part = CharSpan { low, high, weight: 0.0 };
            out.push(CharSpan { weight: span.weight * part.chars() / span.chars(), ..part });
        }
    }
    out
}
