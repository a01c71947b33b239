//! Where in a name a character stands, and which characters come there.
use std::hash::{BuildHasherDefault, Hasher};

pub(super) type HashMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<KeyHasher>>;

/// Keys are small and made here: no defence against chosen ones is wanted.
#[derive(Default, Debug)]
pub(super) struct KeyHasher(u64);
impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u32(u32::from(*b));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u32(u32::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(n)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// Where in a name a character stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct CharPlace {
    pub slash: u8,
    pub token: u8,
    pub offset: u8,
    pub before: u32,
    pub plain: bool,
}

const BLOCK: u32 = 0x20_0000;
pub(super) const ANY: u32 = 0x30_0000;

pub(super) fn separates(c: char) -> bool {
    c.is_ascii() && !c.is_ascii_alphanumeric()
}

impl CharPlace {
    pub(super) fn after(self, c: char) -> Self {
        let before = c as u32;
        if c == '/' {
            Self { slash: self.slash.saturating_add(1), token: 0, offset: 0, before, ..self }
        } else if !self.plain && separates(c) {
            Self { token: self.token.saturating_add(1), offset: 0, before, ..self }
        } else {
            Self { offset: self.offset.saturating_add(1), before, ..self }
        }
    }
    pub(super) fn same_token(self, o: Self) -> bool {
        self.slash == o.slash && self.token == o.token
    }
    /// From the most to the least particular.
    pub(super) fn keys(self) -> [Self; 3] {
        let block = match char::from_u32(self.before) {
            Some(c) if c.is_ascii() => class(c) as u32,
            _ => 16 + (self.before >> 8),
        };
        [self, Self { before: BLOCK + block, ..self }, Self { before: ANY, ..self }]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CharClass {
    Digit,
    Lower,
    Upper,
    Other,
}
fn class(c: char) -> CharClass {
    match c {
        '0'..='9' => CharClass::Digit,
        'a'..='z' => CharClass::Lower,
        'A'..='Z' => CharClass::Upper,
        _ => CharClass::Other,
    }
}

/// Characters `low..=high`, their weight together.
#[derive(Clone, Copy, Debug)]
pub(super) struct CharSpan {
    pub low: char,
    pub high: char,
    pub weight: f64,
}

/// Weight of all never-seen characters together, where they are only guessed at.
pub(super) const EXTRA: f64 = 1.35;
/// Places that are remembered: names that look like nothing at all must not fill the memory.
pub(super) const MOST_PLACES: usize = 50_000;
const MOST_SEEN: usize = 200;

#[derive(Default, Debug, Clone)]
pub(super) struct Alphabet {
    pub seen: Vec<char>,
    /// How often each of them came.
    times: Vec<u32>,
    pub count: u32,
    /// How often another child followed, and how often none did.
    pub on: f64,
    pub off: f64,
    /// How many of the latter are cuts that were tried in vain, and no end that was seen.
    pub tried: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum AlphabetTrust {
    Sure,
    Guess(f64),
}

fn next_char(c: char) -> Option<char> {
    let n = c as u32 + 1;
    char::from_u32(if n == 0xD800 { 0xE000 } else { n })
}
fn prev_char(c: char) -> Option<char> {
    let n = (c as u32).checked_sub(1)?;
    char::from_u32(if n == 0xDFFF { 0xD7FF } else { n })
}

/// Between two seen characters that are further apart than this, one script ends and another begins. The letters of
/// most scripts lie closer together, and the scripts of one part of the world, such as Greek and Cyrillic, do too.
const WIDE: f64 = 1024.0;

/// Below this novelty what is known of a place counts as settled: names of three parents were listed to their end.
pub(super) const SETTLED: f64 = 0.3;

/// Adds the spans of characters that may follow the last seen one, up to `high`. A script of which so many characters
/// were seen in a row is as likely to end within as many more as to go on beyond these, and so on for each doubling of
/// its length: so each doubling has the same weight.
fn run_on(seen: &[char], high: char, novelty: f64, out: &mut Vec<CharSpan>) {
    let Some(&last) = seen.last() else { return };
    let mut first = last;
    for &c in seen.iter().rev() {
        if c.is_ascii() || f64::from(first as u32 - c as u32) > WIDE {
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
    /// How likely it is that characters come which were never seen, from 1 down to 0: less likely, the more parents had
    /// their last child listed.
    pub(super) fn novelty(&self) -> f64 {
        1.0 / (1.0 + self.off - self.tried)
    }
    pub(super) fn learn(&mut self, c: char) {
        self.count += 1;
        match self.seen.binary_search(&c) {
            Ok(at) => self.times[at] += 1,
            Err(at) => {
                self.seen.insert(at, c);
                self.times.insert(at, 1);
                if self.seen.len() > MOST_SEEN {
                    self.thin_out();
                }
            }
        }
    }

    /// Forgets a character between two others of the same script: what lies between these counts in full anyway. So
    /// scripts that come late are seen, too.
    fn thin_out(&mut self) {
        let near = |at: &usize| {
            let (before, after) = (self.seen[at - 1], self.seen[at + 1]);
            !before.is_ascii() && f64::from(after as u32 - before as u32) < WIDE
        };
        let at = (1..self.seen.len() - 1).find(near).unwrap_or(self.seen.len() - 1);
        self.seen.remove(at);
        let times = self.times.remove(at);
        self.times[at - 1] += times;
    }

    /// Weighs scripts by how often their characters come instead of by how many characters they have. The sum of all
    /// weights stays.
    pub(super) fn weigh_scripts(&self, spans: &mut [CharSpan]) {
        let is_new = |at: &usize| {
            *at == 0
                || f64::from(self.seen[*at] as u32 - self.seen[at - 1] as u32) > WIDE
                || (self.seen[at - 1].is_ascii() && !self.seen[*at].is_ascii())
        };
        let starts: Vec<usize> = (0..self.seen.len()).filter(is_new).collect();
        if starts.len() < 2 {
            return;
        }
        let script = |c: char| starts.partition_point(|at| self.seen[*at] <= c).saturating_sub(1);
        let mut scripts = vec![(0.0, 0.0); starts.len()];
        for (c, times) in self.seen.iter().zip(&self.times) {
            scripts[script(*c)].0 += f64::from(*times);
        }
        for s in &*spans {
            scripts[script(s.low)].1 += s.weight;
        }
        let (came, weight) = scripts.iter().filter(|s| s.1 > 0.0).fold((0.0, 0.0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
        for s in spans {
            let (times, of_script) = scripts[script(s.low)];
            s.weight *= times / came * weight / of_script.max(1e-9);
        }
    }
    /// Spans of the whole alphabet in order. `also`: characters which must be taken as seen.
    pub(super) fn spans(
        &self,
        also: impl IntoIterator<Item = char>,
        letters: bool,
        plain: bool,
        novelty: f64,
        trust: AlphabetTrust,
        out: &mut Vec<CharSpan>,
    ) {
        out.clear();
        let mut seen = std::borrow::Cow::Borrowed(&self.seen);
        for c in also {
            if let Err(at) = seen.binary_search(&c) {
                seen.to_mut().insert(at, c);
            }
        }
        let (mut digit, mut upper, mut lower) = (false, false, false);
        let mut beyond_f = false;
        for &c in seen.iter() {
            match class(c) {
                CharClass::Digit => digit = true,
                CharClass::Lower => {
                    lower = true;
                    beyond_f |= c > 'f';
                }
                CharClass::Upper => upper = true,
                CharClass::Other => {}
            }
        }
        let unsure_letters = letters
            || trust != AlphabetTrust::Guess(0.0) && seen.iter().filter(|c| c.is_ascii_alphabetic()).count() > 1;
        let mut whole: Vec<(char, char)> = vec![];
        if digit {
            whole.push(('0', '9'));
        }
        if upper && unsure_letters {
            whole.push(('A', 'Z'));
        }
        if lower && unsure_letters {
            whole.push(('a', if digit && !beyond_f { 'f' } else { 'z' }));
        }
        // Whether letters that were not seen so far are unlikely. Characters of other scripts, and cuts that were tried
        // among these, are no evidence for that.
        let is_ascii = self.seen.last().is_none_or(char::is_ascii);
        let settled = self.count > 300 && (is_ascii || novelty < SETTLED);
        let ended = if is_ascii { self.off } else { self.off - self.tried };
        let extra = |low: Option<char>, high: Option<char>, out: &mut Vec<CharSpan>| {
            if let (Some(low), Some(high)) = (low, high)
                && low <= high
            {
                let n = high as u32 - low as u32 + 1;
                out.push(CharSpan { low, high, weight: -f64::from(n) });
            }
        };
        for (i, &c) in seen.iter().enumerate() {
            let k = class(c);
            let first = i == 0 || class(seen[i - 1]) != k;
            if !plain
                && k != CharClass::Other
                && first
                && let Some(&(low, _)) = whole.iter().find(|w| w.0 <= c && c <= w.1)
            {
                extra(Some(low), prev_char(c), out);
            }
            out.push(CharSpan { low: c, high: c, weight: 1.0 });
            let next = seen.get(i + 1).copied();
            if plain && c.is_ascii() {
                // Any character may come: no class ends before the next seen.
                extra(next_char(c), next.map_or(Some('~'), prev_char).min(Some('~')), out);
            } else if let Some(n) = next
                && class(n) == k
                && (k != CharClass::Other || (!c.is_ascii() && !n.is_ascii()))
            {
                if let (Some(low), Some(high)) = (next_char(c), prev_char(n))
                    && low <= high
                {
                    let count = f64::from(high as u32 - low as u32 + 1);
                    if k == CharClass::Other && count > WIDE {
                        run_on(&seen[..=i], high, novelty, out);
                        continue;
                    }
                    out.push(CharSpan {
                        low,
                        high,
                        weight: if settled && c.is_ascii_alphabetic() { count * 0.05 } else { count },
                    });
                }
            } else if k != CharClass::Other
                && let Some(&(_, high)) = whole.iter().find(|w| w.0 <= c && c <= w.1)
            {
                extra(next_char(c), Some(high), out);
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
                run_on(&seen, end, novelty, out);
            }
        }
        let each = match trust {
            AlphabetTrust::Sure if ended >= 3.0 || settled && self.seen.len() > 2 => 0.05,
            AlphabetTrust::Sure => 1.0,
            AlphabetTrust::Guess(each) => each,
        };
        for s in out {
            if s.weight < 0.0 {
                s.weight *= -each;
            }
        }
    }
}

pub(super) fn scale(spans: &mut [CharSpan], total: f64) {
    let sum: f64 = spans.iter().map(|s| s.weight).sum();
    if sum > 0.0 {
        for s in spans {
            s.weight *= total / sum;
        }
    }
}

/// Scales the weights so that they are `total` at most together.
pub(super) fn most(spans: &mut [CharSpan], total: f64) {
    let sum: f64 = spans.iter().map(|s| s.weight).sum();
    if sum > total {
        for s in spans {
            s.weight *= total / sum;
        }
    }
}

pub(super) fn position(spans: &[CharSpan], c: char) -> (f64, f64) {
    let mut before = 0.0;
    for s in spans {
        if c < s.low {
            return (before, 0.0);
        }
        if c <= s.high {
            let n = f64::from(s.high as u32 - s.low as u32 + 1);
            return (before + s.weight * f64::from(c as u32 - s.low as u32) / n, s.weight / n);
        }
        before += s.weight;
    }
    (before, 0.0)
}

/// The spans strictly between.
pub(super) fn clip(spans: &[CharSpan], above: Option<char>, below: Option<char>) -> Vec<CharSpan> {
    let mut out = vec![];
    for s in spans {
        let low = match above {
            Some(a) if a >= s.low => match next_char(a) {
                Some(n) => n,
                None => continue,
            },
            _ => s.low,
        };
        let high = match below {
            Some(b) if b <= s.high => match prev_char(b) {
                Some(n) => n,
                None => continue,
            },
            _ => s.high,
        };
        if low > high {
            continue;
        }
        let n = f64::from(s.high as u32 - s.low as u32 + 1);
        out.push(CharSpan { low, high, weight: s.weight * f64::from(high as u32 - low as u32 + 1) / n });
    }
    out
}
