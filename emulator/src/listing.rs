//! One page of a listing: which entries are on it.
//!
//! Base and overlay are merged by key. Where no overlay entry lies between, base objects go on the page as a run of
//! indices, which costs two seeks whatever its length; their names are made when the page is rendered, after the lock.

use std::{ops::Bound, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    bucket::{Bucket, Overlay},
    error::Refusal,
    glob::Glob,
    lock::read,
    object::Object,
    route::Query,
};

/// What the service gives when nothing is asked for, and the most it gives: documented as 1,000, in fact 5,000.
const DEFAULT_PAGE: u64 = 1_000;
const LARGEST_PAGE: u64 = 5_000;
/// Names looked at in vain before a page ends early, possibly empty: a glob that matches little must not hold the
/// thread for the whole bucket.
const SCAN: u64 = 20_000;

#[derive(Default)]
pub(crate) struct ListQuery {
    prefix: Vec<u8>,
    delimiter: Vec<u8>,
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    /// The prefix whose own object was the last entry of the page before.
    half_done: Option<Vec<u8>>,
    largest: u64,
    glob: Option<Glob>,
    trailing_delimiter: bool,
}

pub(crate) enum Entry {
    Object(Arc<Object>),
    /// Objects of the base from the first index (inclusive) to the second (exclusive).
    Run(u64, u64),
}

#[derive(Default)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) next: Option<String>,
}

impl ListQuery {
    pub(crate) fn everything() -> Self {
        Self { largest: u64::MAX, ..Self::default() }
    }

    pub(crate) fn parse(query: &Query) -> Result<Self, Refusal> {
        let bytes = |key| query.get(key).unwrap_or_default().as_bytes().to_vec();
        let largest = match query.get("maxResults") {
            None => DEFAULT_PAGE,
            Some(text) => match text.parse::<u32>() {
                Ok(0) | Err(_) => {
                    let message = format!("Invalid value '{text}' for maxResults: a positive integer is wanted.");
                    return Err(Refusal::parameter("maxResults", message));
                }
                Ok(number) => u64::from(number).min(LARGEST_PAGE),
            },
        };
        let glob = match query.get("matchGlob").filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(
                Glob::parse(text)
                    .ok_or_else(|| Refusal::parameter("matchGlob", format!("Invalid glob pattern '{text}'.")))?,
            ),
        };
        if let Some(other) = query.get("projection").filter(|value| !["full", "noAcl"].contains(value)) {
            return Err(Refusal::parameter("projection", format!("Invalid value '{other}' for projection.")));
        }
        let delimiter = bytes("delimiter");
        if glob.is_some() && !["", "/"].contains(&query.get("delimiter").unwrap_or_default()) {
            return Err(Refusal::parameter("delimiter", "With matchGlob the delimiter can only be '/'."));
        }
        let (prefix, mut start) = (bytes("prefix"), bytes("startOffset"));
        let end = query.get("endOffset").filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec());
        let mut half_done = None;
        if let Some(text) = query.get("pageToken").filter(|text| !text.is_empty()) {
            let (key, half) = read_token(text)
                .ok_or_else(|| Refusal::parameter("pageToken", format!("Invalid page token '{text}'.")))?;
            half_done = half.then(|| key.clone());
            start = start.max(key);
        }
        let trailing_delimiter = query.is_true("includeTrailingDelimiter");
        Ok(Self { prefix, delimiter, start, end, half_done, largest, glob, trailing_delimiter })
    }

    /// Everything below a prefix, in one page.
    pub(crate) fn below(prefix: &str, delimiter: &str) -> Self {
        Self { prefix: prefix.into(), delimiter: delimiter.into(), ..Self::everything() }
    }

    /// Sets the most objects and prefixes of a page.
    pub(crate) fn limit(&mut self, largest: u64) {
        self.largest = largest;
    }

    /// Begins behind a name. Behind one that is a common prefix, as the last thing of a page may be, begins what isn't
    /// below it.
    pub(crate) fn start_after(&mut self, name: &str) {
        let name = name.as_bytes();
        let below = name.starts_with(&self.prefix) && self.prefix_of(name) == Some(name);
        self.start = match successor(name).filter(|_| below) {
            Some(after) => after,
            None => [name, b"\0"].concat(),
        };
    }

    /// Begins where a page ended that had this token; `None` where it is no token.
    pub(crate) fn resume(&mut self, token: &str) -> Option<()> {
        let (key, half_done) = read_token(token)?;
        self.half_done = half_done.then(|| key.clone());
        self.start = key.max(std::mem::take(&mut self.start));
        Some(())
    }

    /// Where names stop to be wanted, exclusive.
    fn upper(&self) -> Option<Vec<u8>> {
        let after_prefix = successor(&self.prefix);
        match (&self.end, after_prefix) {
            (Some(end), Some(after)) => Some(after.min(end.clone())),
            (Some(end), None) => Some(end.clone()),
            (None, after) => after,
        }
    }

    fn prefix_of<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = &name[self.prefix.len()..];
        let at = rest.windows(self.delimiter.len()).position(|window| window == self.delimiter)?;
        Some(&name[..self.prefix.len() + at + self.delimiter.len()])
    }
}

/// The page that `query` asks for.
pub(crate) fn page(bucket: &Bucket, query: &ListQuery) -> Page {
    let (start, upper) = (query.start.clone().max(query.prefix.clone()), query.upper());
    if upper.as_ref().is_some_and(|upper| start >= *upper) {
        return Page::default();
    }
    let overlay = read(&bucket.overlay);
    let mut merge = Merge::new(bucket, &overlay, start, upper);
    let mut page = Page::default();
    let mut left = query.largest;
    let plain = query.delimiter.is_empty() && query.glob.is_none();
    let mut in_vain = 0;
    let mut name = Vec::new();
    loop {
        if plain && left > 0 {
            let (first, end) = merge.take_run(left);
            if first < end {
                page.entries.push(Entry::Run(first, end));
                left -= end - first;
            }
        }
        if !merge.peek(&mut name) {
            return page;
        }
        let live = merge.is_live();
        let wanted = live
            && query.glob.as_ref().is_none_or(|glob| std::str::from_utf8(&name).is_ok_and(|name| glob.matches(name)));
        if in_vain == SCAN || (wanted && left == 0) {
            page.next = Some(token(&name, false));
            return page;
        }
        if !wanted {
            in_vain += 1;
            merge.skip();
            continue;
        }
        let Some(prefix) = query.prefix_of(&name) else {
            page.entries.extend(merge.take());
            left -= 1;
            continue;
        };
        if query.trailing_delimiter && prefix == name && query.half_done.as_deref() != Some(prefix) {
            page.entries.extend(merge.copy());
            left -= 1;
            if left == 0 {
                page.next = Some(token(&name, true));
                return page;
            }
        }
        page.prefixes.push(String::from_utf8_lossy(prefix).into_owned());
        left -= 1;
        match successor(prefix) {
            Some(after) => merge.seek(after),
            None => return page,
        }
    }
}

/// A cursor over base and overlay in byte order.
struct Merge<'a> {
    bucket: &'a Bucket,
    overlay: &'a Overlay,
    upper: Option<Vec<u8>>,
    index: u64,
    end: u64,
    over: std::iter::Peekable<std::collections::btree_map::Range<'a, Vec<u8>, Option<Arc<Object>>>>,
    /// Whether the next entry is the overlay's, and whether it hides a base object of the same name.
    from_overlay: bool,
    hides: bool,
}

impl<'a> Merge<'a> {
    fn new(bucket: &'a Bucket, overlay: &'a Overlay, start: Vec<u8>, upper: Option<Vec<u8>>) -> Self {
        let end = upper.as_ref().map_or(bucket.base.len(), |upper| bucket.base.lower_bound(upper));
        let over = overlay.range(Vec::new()..Vec::new()).peekable();
        let mut merge = Self { bucket, overlay, upper, index: 0, end, over, from_overlay: false, hides: false };
        merge.seek(start);
        merge
    }

    fn seek(&mut self, start: Vec<u8>) {
        self.index = self.bucket.base.lower_bound(&start).min(self.end);
        let upper = match &self.upper {
            // A range that ends before it starts panics.
            Some(upper) => Bound::Excluded(upper.clone().max(start.clone())),
            None => Bound::Unbounded,
        };
        self.over = self.overlay.range((Bound::Included(start), upper)).peekable();
    }

    /// Takes base objects, `largest` at most, up to the next overlay entry.
    fn take_run(&mut self, largest: u64) -> (u64, u64) {
        let first = self.index;
        let until = match self.over.peek() {
            Some((key, _)) if first < self.end => self.bucket.base.lower_bound(key).min(self.end),
            Some(_) => first,
            None => self.end,
        };
        self.index = until.max(first).min(first.saturating_add(largest));
        (first, self.index)
    }

    /// Puts the next name into `name`; false at the end.
    fn peek(&mut self, name: &mut Vec<u8>) -> bool {
        let base = self.index < self.end;
        if base {
            self.bucket.base.name(self.index, name);
        }
        match self.over.peek() {
            None => {
                self.from_overlay = false;
                base
            }
            Some((key, _)) => {
                self.from_overlay = !base || key.as_slice() <= name.as_slice();
                self.hides = base && key.as_slice() == name.as_slice();
                if self.from_overlay {
                    name.clone_from(key);
                }
                true
            }
        }
    }

    fn is_live(&mut self) -> bool {
        !self.from_overlay || self.over.peek().is_some_and(|(_, entry)| entry.is_some())
    }

    /// The entry that was peeked.
    fn copy(&mut self) -> Option<Entry> {
        if self.from_overlay {
            self.over.peek().and_then(|(_, entry)| Option::clone(entry)).map(Entry::Object)
        } else {
            Some(Entry::Run(self.index, self.index + 1))
        }
    }

    fn skip(&mut self) {
        if self.from_overlay {
            self.over.next();
            self.index += u64::from(self.hides);
        } else {
            self.index += 1;
        }
    }

    fn take(&mut self) -> Option<Entry> {
        let entry = self.copy();
        self.skip();
        entry
    }
}

/// The least byte string above everything that starts with `prefix`; None when there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// Tokens hold the first name of the next page, framed as the service frames its own.
fn token(key: &[u8], half_done: bool) -> String {
    let mut bytes = vec![0x0A, (key.len() & 0x7F) as u8 | 0x80, (key.len() >> 7) as u8];
    bytes.extend_from_slice(key);
    if half_done {
        bytes.extend_from_slice(&[0x10, 1]);
    }
    STANDARD.encode(bytes)
}

fn read_token(text: &str) -> Option<(Vec<u8>, bool)> {
    let bytes = STANDARD.decode(text).ok()?;
    let [0x0A, low, high, rest @ ..] = bytes.as_slice() else { return None };
    let length = usize::from(low & 0x7F) | usize::from(*high) << 7;
    let (key, tail) = rest.split_at_checked(length)?;
    match tail {
        [] => Some((key.to_vec(), false)),
        [0x10, 1] => Some((key.to_vec(), true)),
        _ => None,
    }
}
