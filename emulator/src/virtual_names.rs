//! The name patterns of virtual namespaces: the `i`-th name in byte order, for any `i`, without a list.

use crate::{random::mix, timestamp};

/// How the names of a virtual namespace look. All of them are distinct and come in byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Zero-padded numbers: `00000000`, `00000001`, ...
    Sequence,
    /// Numbers without padding, which byte order lists as `0`, `1`, `10`, `100`, `101`, ...
    Unpadded,
    /// Sixteen pseudo-random hexadecimal digits, evenly spread.
    Hex,
    /// A thousand class folders in the manner of ImageNet: `n01440764/n01440764_10026.JPEG`.
    Folders,
    /// `2023/05/17/13/00000000.bin`, with most of the objects in a few hours.
    Dates,
    /// Folders of two objects: `00000000/image`, `00000000/label`.
    Pairs,
}

impl Pattern {
    pub(crate) const ALL: [(&'static str, Self); 6] = [
        ("sequence", Self::Sequence),
        ("unpadded", Self::Unpadded),
        ("hex", Self::Hex),
        ("folders", Self::Folders),
        ("dates", Self::Dates),
        ("pairs", Self::Pairs),
    ];

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, pattern)| *pattern == self).map_or("", |(name, _)| name)
    }
}

/// Shortest padded number: narrower ones would make small namespaces look unlike large ones.
const WIDTH: usize = 8;
/// What ImageNet has.
const CLASSES: u64 = 1_000;
/// Hours of the three years 2021 to 2023.
const HOURS: usize = 1_095 * 24;
/// Days from 1970 to 2021.
const FIRST_DAY: i64 = 18_628;

#[derive(Debug)]
pub(crate) struct Names {
    n: u64,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Sequence {
        width: usize,
    },
    Unpadded,
    Hex {
        seed: u64,
    },
    Folders {
        classes: Vec<u64>,
    },
    /// The index of the first object of each hour, and `n` at the end.
    Dates {
        starts: Vec<u64>,
    },
    Pairs {
        width: usize,
    },
}

impl Names {
    pub(crate) fn new(pattern: Pattern, n: u64, seed: u64) -> Self {
        let shape = match pattern {
            Pattern::Sequence => Shape::Sequence { width: width(n) },
            Pattern::Unpadded => Shape::Unpadded,
            Pattern::Hex => Shape::Hex { seed },
            Pattern::Folders => {
                let classes = CLASSES.min(n);
                // A step of at least 9,000 and a jitter below it keep the folders distinct and in order.
                let folders = (0..classes).map(|class| 1_440_764 + class * 9_000 + mix(seed ^ class) % 9_000);
                Shape::Folders { classes: folders.collect() }
            }
            Pattern::Dates => Shape::Dates { starts: hours(n, seed) },
            Pattern::Pairs => Shape::Pairs { width: width(n.div_ceil(2)) },
        };
        Self { n, shape }
    }

    /// Appends the name of index `i`, which must be below `n`.
    pub(crate) fn write(&self, i: u64, out: &mut Vec<u8>) {
        match &self.shape {
            Shape::Sequence { width } => push_padded(out, i, *width),
            Shape::Unpadded => push_number(out, unpadded(i, self.n)),
            Shape::Hex { seed } => {
                let wide = (u128::from(i) << 64) / u128::from(self.n);
                let step = ((1_u128 << 64) / u128::from(self.n)) as u64;
                // One object alone has a step of 2^64, which is 0 here.
                let jitter = if step == 0 { mix(seed ^ i) } else { mix(seed ^ i) % step };
                push_hex(out, wide as u64 + jitter);
            }
            Shape::Folders { classes } => {
                let count = classes.len() as u64;
                let class = class_of(i, self.n, count);
                let (first, end) = (class_start(class, self.n, count), class_start(class + 1, self.n, count));
                let folder = classes[class as usize];
                out.push(b'n');
                push_padded(out, folder, WIDTH);
                out.extend_from_slice(b"/n");
                push_padded(out, folder, WIDTH);
                out.push(b'_');
                push_number(out, unpadded(i - first, end - first));
                out.extend_from_slice(b".JPEG");
            }
            Shape::Dates { starts } => {
                let hour = starts.partition_point(|start| *start <= i) - 1;
                let (year, month, day) = timestamp::civil(FIRST_DAY + (hour / 24) as i64);
                push_padded(out, year as u64, 4);
                for part in [u64::from(month), u64::from(day), (hour % 24) as u64] {
                    out.push(b'/');
                    push_padded(out, part, 2);
                }
                out.push(b'/');
                push_padded(out, i - starts[hour], WIDTH);
                out.extend_from_slice(b".bin");
            }
            Shape::Pairs { width } => {
                push_padded(out, i / 2, *width);
                out.extend_from_slice(if i.is_multiple_of(2) { b"/image" } else { b"/label" });
            }
        }
    }
}

fn width(n: u64) -> usize {
    (n.max(1) - 1).checked_ilog10().map_or(1, |digits| digits as usize + 1).max(WIDTH)
}

/// Class `c` holds the indices from `floor(c * n / classes)` on.
fn class_start(class: u64, n: u64, classes: u64) -> u64 {
    (u128::from(class) * u128::from(n) / u128::from(classes)) as u64
}

fn class_of(i: u64, n: u64, classes: u64) -> u64 {
    // The inverse of `class_start`: the last class that starts at or before `i`.
    ((u128::from(i + 1) * u128::from(classes) - 1) / u128::from(n)) as u64
}

/// Shares `n` among the hours by a power law over a seeded order of them, smallest first in time nowhere.
fn hours(n: u64, seed: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..HOURS).collect();
    order.sort_by_key(|hour| mix(seed ^ 0xDA7E ^ *hour as u64));
    // An exponent of 1.5 puts about two thirds of the mass in the ten largest hours.
    let mut weights = vec![0.0; HOURS];
    for (rank, hour) in order.into_iter().enumerate() {
        weights[hour] = (rank as f64 + 1.0).powf(-1.5);
    }
    let total: f64 = weights.iter().sum();
    let mut starts = Vec::with_capacity(HOURS + 1);
    let mut sum = 0.0;
    for weight in weights {
        starts.push(((sum / total * n as f64) as u64).min(n));
        sum += weight;
    }
    starts.push(n);
    starts
}

/// The number at position `rank` when the numbers below `n` are sorted as decimal strings.
fn unpadded(mut rank: u64, n: u64) -> u64 {
    if rank == 0 {
        return 0;
    }
    rank -= 1;
    let mut number = 0;
    loop {
        // The children of 0 are 1 to 9: "0" itself has been counted and has no longer names below it.
        for digit in u64::from(number == 0)..10 {
            let child = number * 10 + digit;
            let count = with_prefix(child, n);
            if rank < count {
                if rank == 0 {
                    return child;
                }
                rank -= 1;
                number = child;
                break;
            }
            rank -= count;
        }
    }
}

/// How many numbers below `n` start with the digits of `prefix`, which is not 0.
fn with_prefix(prefix: u64, n: u64) -> u64 {
    let (mut low, mut span, mut count) = (prefix, 1_u64, 0);
    while low < n {
        count += span.min(n - low);
        let Some(next) = low.checked_mul(10) else { break };
        low = next;
        span *= 10;
    }
    count
}

/// Appends `value` in decimal.
pub(crate) fn push_number(out: &mut Vec<u8>, value: u64) {
    push_padded(out, value, 1);
}

/// Appends `value` in decimal with at least `width` digits.
pub(crate) fn push_padded(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while value != 0 {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width)..]);
}

fn push_hex(out: &mut Vec<u8>, value: u64) {
    let digits: [u8; 16] = std::array::from_fn(|i| b"0123456789abcdef"[(value >> (60 - 4 * i) & 15) as usize]);
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: Pattern, n: u64) -> Vec<Vec<u8>> {
        let names = Names::new(pattern, n, 3);
        (0..n)
            .map(|i| {
                let mut name = Vec::new();
                names.write(i, &mut name);
                name
            })
            .collect()
    }

    #[test]
    fn names_are_distinct_and_sorted() {
        for (text, pattern) in Pattern::ALL {
            for n in [1, 2, 9, 10, 11, 99, 100, 101, 999, 1_000, 1_001, 12_345] {
                let names = all(pattern, n);
                assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{text} of {n}");
            }
        }
    }

    #[test]
    fn unpadded_holds_every_number_once() {
        let mut numbers: Vec<u64> = all(Pattern::Unpadded, 2_345)
            .iter()
            .map(|name| std::str::from_utf8(name).unwrap().parse().unwrap())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..2_345).collect::<Vec<_>>());
    }

    #[test]
    fn dates_are_skewed() {
        let names = all(Pattern::Dates, 100_000);
        let mut hours = std::collections::BTreeMap::new();
        for name in &names {
            *hours.entry(name[..13].to_vec()).or_insert(0_u32) += 1;
        }
        let mut counts: Vec<u32> = hours.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        assert!(counts.len() > 500, "{} hours", counts.len());
        assert!(counts[..10].iter().sum::<u32>() > 60_000, "{:?}", &counts[..10]);
    }

    #[test]
    fn looks() {
        let text = |pattern, n, i: usize| String::from_utf8(all(pattern, n)[i].clone()).unwrap();
        assert_eq!(text(Pattern::Sequence, 100, 42), "00000042");
        assert_eq!(text(Pattern::Unpadded, 100, 2), "10");
        assert_eq!(text(Pattern::Pairs, 100, 3), "00000001/label");
        assert_eq!(text(Pattern::Hex, 100, 3).len(), 16);
    }
}
