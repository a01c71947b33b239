//! Virtual namespaces: the names, contents and checksums of any number of objects, computed on demand.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    checksum::RepeatedWord,
    error::Error,
    naming::{check_bucket_name, is_storage_class},
    objects::virtual_names::{NamePattern, VirtualNames},
    random::mix,
};

/// The generation of object 0, a time in November 2023. Object `i` has this plus `i`.
const FIRST_GENERATION: i64 = 1_700_000_000_000_000;
/// How many distinct sizes a range of sizes has at most, since each needs tables of one kilobyte.
const MAX_SIZES: u64 = 256;
/// Words of the template that contents are made from. These 128 KiB stay in a core's cache, and are longer than most
/// objects that a client reads in one request.
const TEMPLATE_WORDS: u64 = 16_384;

/// A bucket of `n` computed objects, which take no memory.
///
/// Written as `BUCKET:n=N[,pattern=P][,size=S][,class=C][,prefix=TEXT][,seed=X]`, where `P` is one of `sequence`
/// (the default), `unpadded`, `hex`, `folders`, `dates` and `pairs`, and `S` is a size in bytes (4096 by default) or
/// an inclusive range of them such as `1024..65536`, from which at most 256 evenly spaced sizes are drawn.
///
/// Objects are numbered from 0 in the byte order of their names. The contents depend on the number of the object and on
/// the offset: the 64-bit little-endian word at offset `8k` of object `i` is `t(k) ^ w(i)`, where `t` and `w` are
/// pseudo-random functions. So a test detects a byte from another object or another offset. `t` combines one of 16,384
/// random words, chosen by the remainder of `k`, with a word that depends on the quotient, so that contents are made
/// about as fast as memory is copied.
///
/// ```
/// let spec: dataflux_emulator::VirtualSpec = "bucket:n=1000,pattern=sequence,size=4096".parse()?;
/// assert_eq!(spec.name(41), "00000041");
/// assert_eq!(spec.content(41).len(), 4096);
/// # Ok::<(), dataflux_emulator::Error>(())
/// ```
#[derive(Clone)]
pub struct VirtualSpec {
    inner: Arc<NamespaceTables>,
}

/// The parsed options of a [`VirtualSpec`], and the tables that names, contents and checksums are computed from.
struct NamespaceTables {
    bucket: String,
    n: u64,
    pattern: NamePattern,
    min_size: u64,
    max_size: u64,
    class: String,
    prefix: String,
    seed: u64,
    names: VirtualNames,
    template: ContentTemplate,
    sizes: Vec<SizeClass>,
}

/// One of the sizes that objects have, with the tables for the CRC32C of objects of this size.
struct SizeClass {
    bytes: u64,
    /// The CRC32C of the template's first `bytes` bytes.
    template_crc32c: u32,
    stamp_effect: RepeatedWord,
}

/// The size and CRC32C of a virtual object.
pub(crate) struct VirtualSummary {
    pub(crate) size: u64,
    pub(crate) crc32c: u32,
}

impl VirtualSpec {
    /// The creation time of every object, in microseconds since 1970.
    pub(crate) const CREATED: i64 = FIRST_GENERATION;

    /// The name of the bucket.
    pub fn bucket(&self) -> &str {
        &self.inner.bucket
    }

    /// The number of objects.
    pub fn len(&self) -> u64 {
        self.inner.n
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.inner.n == 0
    }

    /// The storage class of every object.
    pub fn class(&self) -> &str {
        &self.inner.class
    }

    /// The name of object `i`.
    ///
    /// # Panics
    /// When `i` is not below [`len`](Self::len). This holds for all methods that take an index.
    pub fn name(&self, i: u64) -> String {
        let mut name = Vec::with_capacity(self.inner.prefix.len() + 32);
        self.write_name(i, &mut name);
        // Patterns are ASCII and the prefix is a string.
        String::from_utf8_lossy(&name).into_owned()
    }

    /// Appends the name of object `i` to `out`.
    pub(crate) fn write_name(&self, i: u64, out: &mut Vec<u8>) {
        assert!(i < self.inner.n, "object {i} of a namespace of {}", self.inner.n);
        out.extend_from_slice(self.inner.prefix.as_bytes());
        self.inner.names.write(i, out);
    }

    /// The first object whose name is not below `bound` in byte order; [`len`](Self::len) when there is none.
    pub fn lower_bound(&self, bound: &[u8]) -> u64 {
        let (mut low, mut high) = (0, self.inner.n);
        let mut name = Vec::with_capacity(self.inner.prefix.len() + 32);
        while low < high {
            let middle = low + (high - low) / 2;
            name.clear();
            self.write_name(middle, &mut name);
            if name.as_slice() < bound {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The number of the object with this name.
    pub fn index_of(&self, name: &str) -> Option<u64> {
        let index = self.lower_bound(name.as_bytes());
        (index < self.inner.n && self.name(index) == name).then_some(index)
    }

    /// The generation of object `i`.
    pub fn generation(&self, i: u64) -> i64 {
        FIRST_GENERATION + i as i64
    }

    fn size_class(&self, i: u64) -> &SizeClass {
        assert!(i < self.inner.n, "object {i} of a namespace of {}", self.inner.n);
        let sizes = &self.inner.sizes;
        if sizes.len() == 1 { &sizes[0] } else { &sizes[(mix(self.inner.seed ^ !i) % sizes.len() as u64) as usize] }
    }

    /// The size of object `i` in bytes.
    pub fn size(&self, i: u64) -> u64 {
        self.size_class(i).bytes
    }

    /// The size and CRC32C of object `i`. One look-up finds the tables for both.
    pub(crate) fn summary(&self, i: u64) -> VirtualSummary {
        let class = self.size_class(i);
        let crc32c = class.template_crc32c ^ class.stamp_effect.difference(self.stamp(i));
        VirtualSummary { size: class.bytes, crc32c }
    }

    /// The CRC32C of object `i`. It comes from tables and takes nanoseconds, whatever the size.
    pub fn crc32c(&self, i: u64) -> u32 {
        self.summary(i).crc32c
    }

    /// The whole content of object `i`.
    pub fn content(&self, i: u64) -> Vec<u8> {
        self.content_range(i, 0, self.size(i))
    }

    /// The bytes of object `i` from `start` (inclusive) to `end` (exclusive).
    ///
    /// # Panics
    /// When the range does not lie within the object.
    pub fn content_range(&self, i: u64, start: u64, end: u64) -> Vec<u8> {
        assert!(start <= end && end <= self.size(i), "bytes {start}..{end} of an object of {} bytes", self.size(i));
        self.inner.template.bytes(self.stamp(i), start, end)
    }

    fn stamp(&self, i: u64) -> u64 {
        // A bijection of `i`, so no two objects of a namespace have the same stamp.
        mix(mix(self.inner.seed) ^ i)
    }
}

/// The unbounded sequence of words that the contents of all objects of a namespace start from. An object's stamp is
/// then XORed onto each word.
struct ContentTemplate(Vec<u64>);

impl ContentTemplate {
    /// Long enough for `size` bytes without repeating, up to [`TEMPLATE_WORDS`].
    fn new(seed: u64, size: u64) -> Self {
        Self((0..TEMPLATE_WORDS.min(size.div_ceil(8)).max(1)).map(|word| mix(seed.wrapping_add(word))).collect())
    }

    /// The bytes `start..end` of the object with this stamp.
    fn bytes(&self, stamp: u64, start: u64, end: u64) -> Vec<u8> {
        let (first, last) = (start / 8, end.div_ceil(8));
        let mut words: Vec<[u8; 8]> = Vec::with_capacity((last - first) as usize);
        let mut word = first;
        while word < last {
            let at = (word % TEMPLATE_WORDS) as usize;
            let count = (TEMPLATE_WORDS - word % TEMPLATE_WORDS).min(last - word) as usize;
            // Without this, parts of an object that are one template apart would be equal.
            let stamp = stamp ^ mix(word / TEMPLATE_WORDS);
            words.extend(self.0[at..at + count].iter().map(|word| (word ^ stamp).to_le_bytes()));
            word += count as u64;
        }

        let mut bytes = words.into_flattened();
        bytes.truncate((end - first * 8) as usize);
        bytes.drain(..(start - first * 8) as usize);
        bytes
    }
}

/// Makes the size classes of the range `min..=max`, in one pass over the template up to the largest size.
fn size_classes(template: &ContentTemplate, min: u64, max: u64) -> Vec<SizeClass> {
    let count = (max - min + 1).min(MAX_SIZES);
    let mut classes = Vec::with_capacity(count as usize);
    let (mut crc, mut done) = (0, 0);
    for k in 0..count {
        let bytes =
            if count == 1 { min } else { min + (u128::from(max - min) * u128::from(k) / u128::from(count - 1)) as u64 };
        while done < bytes {
            let end = bytes.min(done + (1 << 20));
            crc = crc32c::crc32c_append(crc, &template.bytes(0, done, end));
            done = end;
        }
        classes.push(SizeClass { bytes, template_crc32c: crc, stamp_effect: RepeatedWord::new(bytes) });
    }
    classes
}

impl FromStr for VirtualSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::spec("virtual namespace", text, why);
        let (bucket, options) =
            text.split_once(':').ok_or_else(|| bad("wanted BUCKET:n=N,pattern=P,size=S".to_owned()))?;
        check_bucket_name(bucket).map_err(bad)?;

        let (mut n, mut pattern, mut seed) = (None, NamePattern::Sequence, 0);
        let (mut min_size, mut max_size) = (4_096, 4_096);
        let (mut class, mut prefix) = ("STANDARD".to_owned(), String::new());
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').ok_or_else(|| bad(format!("`{option}` is not KEY=VALUE")))?;
            let number = |value: &str| {
                value.replace('_', "").parse::<u64>().map_err(|_| bad(format!("`{key}` wants a number, got `{value}`")))
            };
            match key {
                "n" => n = Some(number(value)?),
                "seed" => seed = number(value)?,
                "class" => value.clone_into(&mut class),
                "prefix" => value.clone_into(&mut prefix),
                "size" => {
                    (min_size, max_size) = match value.split_once("..") {
                        Some((low, high)) => (number(low)?, number(high)?),
                        None => (number(value)?, number(value)?),
                    };
                }
                "pattern" => pattern = NamePattern::parse(value).map_err(bad)?,
                _ => {
                    return Err(bad(format!("no option `{key}`; there are n, pattern, size, class, prefix, seed")));
                }
            }
        }

        let n = n.ok_or_else(|| bad("`n`, the number of objects, is missing".to_owned()))?;
        // Generations are signed 64-bit numbers, and padded names must have room for the largest number.
        if n > 1 << 40 {
            return Err(bad(format!("`n` is at most 2^40, got {n}")));
        }
        if min_size > max_size {
            return Err(bad(format!("the sizes {min_size}..{max_size} are not a range")));
        }
        if max_size > 1 << 34 {
            return Err(bad(format!("sizes are at most 2^34 bytes, got {max_size}")));
        }
        if !is_storage_class(&class) {
            return Err(bad(format!("no storage class `{class}`")));
        }
        if prefix.len() > 900 || prefix.contains(['\r', '\n']) {
            return Err(bad("a prefix has at most 900 bytes and no line breaks".to_owned()));
        }

        let bucket = bucket.to_owned();
        let names = VirtualNames::new(pattern, n, seed);
        let template = ContentTemplate::new(seed, max_size);
        let sizes = size_classes(&template, min_size, max_size);
        Ok(Self {
            inner: Arc::new(NamespaceTables {
                bucket,
                n,
                pattern,
                min_size,
                max_size,
                class,
                prefix,
                seed,
                names,
                template,
                sizes,
            }),
        })
    }
}

impl fmt::Display for VirtualSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NamespaceTables { bucket, n, pattern, min_size, max_size, class, prefix, seed, .. } = &*self.inner;
        write!(f, "{bucket}:n={n},pattern={},size={min_size}", pattern.as_str())?;
        if min_size != max_size {
            write!(f, "..{max_size}")?;
        }
        write!(f, ",class={class},prefix={prefix},seed={seed}")
    }
}

impl fmt::Debug for VirtualSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirtualSpec({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn specs() -> Vec<VirtualSpec> {
        let mut specs = Vec::new();
        for (pattern, _) in NamePattern::ALL {
            for n in [0_u64, 1, 2, 1_003, 2_345] {
                let text = format!("bucket:n={n},pattern={pattern},size=3..40,prefix=p/,seed=5");
                specs.push(text.parse().unwrap());
            }
        }
        specs
    }

    static CASES: LazyLock<Vec<(VirtualSpec, Vec<String>)>> = LazyLock::new(|| {
        let named = |spec: VirtualSpec| {
            let names = (0..spec.len()).map(|i| spec.name(i)).collect();
            (spec, names)
        };
        specs().into_iter().map(named).collect()
    });

    #[test]
    fn crc_from_tables_is_the_crc_of_the_content() {
        for spec in specs() {
            for i in (0..spec.len()).step_by(37) {
                let content = spec.content(i);
                assert_eq!(spec.size(i), content.len() as u64);
                assert_eq!(spec.crc32c(i), crc32c::crc32c(&content), "{spec} object {i}");
            }
        }
        let wide: VirtualSpec = "bucket:n=500,size=1..100000".parse().unwrap();
        for i in 0..500 {
            assert_eq!(wide.crc32c(i), crc32c::crc32c(&wide.content(i)), "object {i}");
        }
        let large: VirtualSpec = "bucket:n=3,size=3000001".parse().unwrap();
        assert_eq!(large.crc32c(2), crc32c::crc32c(&large.content(2)));
    }

    #[test]
    fn ranges_are_parts_of_the_whole_and_objects_differ() {
        let spec: VirtualSpec = "bucket:n=10,size=100".parse().unwrap();
        let whole = spec.content(4);
        for (start, end) in [(0, 100), (0, 0), (1, 9), (7, 8), (8, 16), (13, 99), (100, 100)] {
            assert_eq!(spec.content_range(4, start, end), whole[start as usize..end as usize]);
        }
        assert_ne!(spec.content(3), whole);
        // Ranges across the end of the template, which then repeats with another word XORed onto it.
        let large: VirtualSpec = "bucket:n=2,size=400000".parse().unwrap();
        let (whole, period) = (large.content(1), (TEMPLATE_WORDS * 8) as usize);
        for (start, end) in
            [(period - 3, period + 3), (period, period + 8), (2 * period - 8, 400_000), (399_999, 400_000)]
        {
            assert_eq!(large.content_range(1, start as u64, end as u64), whole[start..end]);
        }
        assert_ne!(whole[..1_000], whole[period..][..1_000]);
        assert_ne!(whole[period..][..1_000], whole[2 * period..][..1_000]);
    }

    #[test]
    fn seeks_agree_with_the_sorted_names() {
        for spec in specs() {
            let names: Vec<String> = (0..spec.len()).map(|i| spec.name(i)).collect();
            for (i, name) in names.iter().enumerate() {
                assert_eq!(spec.lower_bound(name.as_bytes()), i as u64);
                assert_eq!(spec.index_of(name), Some(i as u64));
                assert_eq!(spec.index_of(&format!("{name}x")), None);
            }
        }
    }

    #[test]
    fn errors_of_bad_specs_name_the_cause() {
        for (text, why) in [
            ("bucket", "wanted BUCKET"),
            ("bucket:", "`n`"),
            ("bucket:n=x", "wants a number"),
            ("bucket:n=1,pattern=spiral", "spiral"),
            ("bucket:n=1,colour=red", "colour"),
            ("bucket:n=1,size=9..3", "not a range"),
            ("bucket:n=1,class=GOLD", "GOLD"),
            ("B:n=1", "bucket"),
        ] {
            let message = text.parse::<VirtualSpec>().unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn display_parses_back() {
        for spec in specs() {
            let again: VirtualSpec = spec.to_string().parse().unwrap();
            assert_eq!(again.to_string(), spec.to_string());
        }
    }

    proptest! {
        #[test]
        fn lower_bound_of_any_string(which in 0..30_usize, bound in "(p/)?[0-9a-fn/_.]{0,12}") {
            let (spec, names) = &CASES[which];
            let expected = names.partition_point(|name| name.as_bytes() < bound.as_bytes());
            prop_assert_eq!(spec.lower_bound(bound.as_bytes()), expected as u64);
        }
    }
}
