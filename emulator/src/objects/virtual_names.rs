//! The name patterns of virtual namespaces. They compute the `i`-th name in byte order for any `i`, without a list of
//! names.

use crate::{
    decimal::{push_number, push_padded},
    random::mix,
    timestamp::{CivilDate, civil_date},
};

/// The form of the names of a virtual namespace. All names of a namespace are distinct, and its objects are numbered in
/// their byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamePattern {
    /// Zero-padded numbers: `00000000`, `00000001`, ...
    Sequence,
    /// Numbers without padding; byte order puts them as `0`, `1`, `10`, `100`, `101`, ...
    Unpadded,
    /// Sixteen pseudo-random hexadecimal digits, evenly distributed.
    Hex,
    /// A thousand class folders as in ImageNet: `n01440764/n01440764_10026.JPEG`.
    Folders,
    /// A folder for each hour, `2023/05/17/13/00000000.bin`, with most of the objects in a few of them.
    Dates,
    /// Folders of two objects each: `00000000/image`, `00000000/label`.
    Pairs,
}

impl NamePattern {
    /// All patterns, with their names in options.
    pub(crate) const ALL: [(&'static str, Self); 6] = [
        ("sequence", Self::Sequence),
        ("unpadded", Self::Unpadded),
        ("hex", Self::Hex),
        ("folders", Self::Folders),
        ("dates", Self::Dates),
        ("pairs", Self::Pairs),
    ];

    /// Parses the name of a pattern.
    ///
    /// # Errors
    /// The text lists the patterns.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, pattern)| *pattern).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("no pattern `{text}`; there are {}", known.join(", "))
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, pattern)| *pattern == self).map_or("", |(name, _)| name)
    }
}

/// The least number of digits of a padded number, so that names of small and large namespaces look alike.
const MIN_DIGITS: usize = 8;
/// The number of class folders of ImageNet.
const CLASSES: u64 = 1_000;
/// The hours of the three years 2021 to 2023.
const HOURS: usize = 1_095 * 24;
/// Days from 1 January 1970 to 1 January 2021.
const FIRST_DAY: i64 = 18_628;

/// Computes the names of a virtual namespace of `n` objects.
#[derive(Debug)]
pub(crate) struct VirtualNames {
    n: u64,
    shape: NameShape,
}

/// A [`NamePattern`] with the tables that it needs.
#[derive(Debug)]
enum NameShape {
    Sequence {
        width: usize,
    },
    Unpadded,
    Hex {
        seed: u64,
    },
    /// The numbers of the class folders, in ascending order.
    Folders {
        classes: Vec<u64>,
    },
    /// The index of the first object of each hour, followed by `n`.
    Dates {
        starts: Vec<u64>,
    },
    Pairs {
        width: usize,
    },
}

impl VirtualNames {
    pub(crate) fn new(pattern: NamePattern, n: u64, seed: u64) -> Self {
        let shape = match pattern {
            NamePattern::Sequence => NameShape::Sequence { width: digits(n) },
            NamePattern::Unpadded => NameShape::Unpadded,
            NamePattern::Hex => NameShape::Hex { seed },
            NamePattern::Folders => {
                let classes = CLASSES.min(n);
                // Steps of 9,000 with a jitter below 9,000 keep the folders distinct and in order.
                let folders = (0..classes).map(|class| 1_440_764 + class * 9_000 + mix(seed ^ class) % 9_000);
                NameShape::Folders { classes: folders.collect() }
            }
            NamePattern::Dates => NameShape::Dates { starts: hour_starts(n, seed) },
            NamePattern::Pairs => NameShape::Pairs { width: digits(n.div_ceil(2)) },
        };
        Self { n, shape }
    }

    /// Appends the name of index `i`, which must be below `n`.
    pub(crate) fn write(&self, i: u64, out: &mut Vec<u8>) {
        match &self.shape {
            NameShape::Sequence { width } => push_padded(out, i, *width),
            NameShape::Unpadded => push_number(out, unpadded_number(i, self.n)),
            NameShape::Hex { seed } => {
                let wide = (u128::from(i) << 64) / u128::from(self.n);
                let step = ((1_u128 << 64) / u128::from(self.n)) as u64;
                // The step of a single object is 2^64, which becomes 0 here.
                let jitter = if step == 0 { mix(seed ^ i) } else { mix(seed ^ i) % step };
                push_hex(out, wide as u64 + jitter);
            }
            NameShape::Folders { classes } => {
                let count = classes.len() as u64;
                let class = class_of(i, self.n, count);
                let (first, end) = (class_start(class, self.n, count), class_start(class + 1, self.n, count));
                let folder = classes[class as usize];
                out.push(b'n');
                push_padded(out, folder, MIN_DIGITS);
                out.extend_from_slice(b"/n");
                push_padded(out, folder, MIN_DIGITS);
                out.push(b'_');
                push_number(out, unpadded_number(i - first, end - first));
                out.extend_from_slice(b".JPEG");
            }
            NameShape::Dates { starts } => {
                let hour = starts.partition_point(|start| *start <= i) - 1;
                let CivilDate { year, month, day } = civil_date(FIRST_DAY + (hour / 24) as i64);
                push_padded(out, year as u64, 4);
                for part in [u64::from(month), u64::from(day), (hour % 24) as u64] {
                    out.push(b'/');
                    push_padded(out, part, 2);
                }
                out.push(b'/');
                push_padded(out, i - starts[hour], MIN_DIGITS);
                out.extend_from_slice(b".bin");
            }
            NameShape::Pairs { width } => {
                push_padded(out, i / 2, *width);
                out.extend_from_slice(if i.is_multiple_of(2) { b"/image" } else { b"/label" });
            }
        }
    }
}

/// The number of digits of padded numbers below `n`.
fn digits(n: u64) -> usize {
    (n.max(1) - 1).checked_ilog10().map_or(1, |log| log as usize + 1).max(MIN_DIGITS)
}

/// The index of the first object of a class: `floor(class * n / classes)`.
fn class_start(class: u64, n: u64, classes: u64) -> u64 {
    (u128::from(class) * u128::from(n) / u128::from(classes)) as u64
}

/// The inverse of [`class_start`]: the last class that starts at or before object `i`.
fn class_of(i: u64, n: u64, classes: u64) -> u64 {
    ((u128::from(i + 1) * u128::from(classes) - 1) / u128::from(n)) as u64
}

/// Distributes `n` objects over the hours by a power law. The rank of each hour is pseudo-random, so that large and
/// small hours mix. Returns the index of the first object of each hour, followed by `n`.
fn hour_starts(n: u64, seed: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..HOURS).collect();
    order.sort_by_key(|hour| mix(seed ^ 0xDA7E ^ *hour as u64));

    // An exponent of 1.5 puts about two thirds of the objects into the ten largest hours.
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
fn unpadded_number(mut rank: u64, n: u64) -> u64 {
    if rank == 0 {
        return 0;
    }
    rank -= 1;
    let mut number = 0;
    loop {
        // The children of 0 are 1 to 9: "0" itself is counted already, and no longer number starts with it.
        for digit in u64::from(number == 0)..10 {
            let child = number * 10 + digit;
            let count = count_with_prefix(child, n);
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

/// How many numbers below `n` start with the digits of `prefix`, which must not be 0.
fn count_with_prefix(prefix: u64, n: u64) -> u64 {
    let (mut low, mut span, mut count) = (prefix, 1_u64, 0);
    while low < n {
        count += span.min(n - low);
        let Some(next) = low.checked_mul(10) else { break };
        low = next;
        span *= 10;
    }
    count
}

/// Appends `value` as sixteen hexadecimal digits.
fn push_hex(out: &mut Vec<u8>, value: u64) {
    let digits: [u8; 16] = std::array::from_fn(|i| b"0123456789abcdef"[(value >> (60 - 4 * i) & 15) as usize]);
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_names(pattern: NamePattern, n: u64) -> Vec<Vec<u8>> {
        let names = VirtualNames::new(pattern, n, 3);
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
        for (text, pattern) in NamePattern::ALL {
            for n in [1, 2, 9, 10, 11, 99, 100, 101, 999, 1_000, 1_001, 12_345] {
                let names = all_names(pattern, n);
                assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{text} of {n}");
            }
        }
    }

    #[test]
    fn unpadded_names_contain_every_number_once() {
        let mut numbers: Vec<u64> = all_names(NamePattern::Unpadded, 2_345)
            .iter()
            .map(|name| std::str::from_utf8(name).unwrap().parse().unwrap())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..2_345).collect::<Vec<_>>());
    }

    #[test]
    fn dates_are_skewed() {
        let names = all_names(NamePattern::Dates, 100_000);
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
    fn names_have_the_documented_form() {
        let text = |pattern, n, i: usize| String::from_utf8(all_names(pattern, n)[i].clone()).unwrap();
        assert_eq!(text(NamePattern::Sequence, 100, 42), "00000042");
        assert_eq!(text(NamePattern::Unpadded, 100, 2), "10");
        assert_eq!(text(NamePattern::Pairs, 100, 3), "00000001/label");
        assert_eq!(text(NamePattern::Hex, 100, 3).len(), 16);
    }
}
