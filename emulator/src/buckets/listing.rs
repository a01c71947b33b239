//! One page of a listing: which entries are on it.
//!
//! Base and overlay are merged by key. Where no entry of the overlay lies between them, base objects are put on the
//! page as a run of indices, which takes two seeks whatever its length. Their names are made when the page is rendered,
//! after the lock is released.

use std::{
    collections::btree_map,
    iter::Peekable,
    ops::{Bound, Range},
    sync::Arc,
};

use crate::{
    buckets::{
        list_query::{ListQuery, PageToken, successor},
        stored::{Overlay, StoredBucket},
    },
    locks::read,
    objects::version::ObjectVersion,
};

/// How many names without a match a page looks at before it ends early, possibly empty. A glob that matches little
/// would otherwise hold the thread for the whole bucket.
const MAX_UNMATCHED: u64 = 20_000;

/// Objects on a page of a listing.
pub(crate) enum ListEntry {
    Object(Arc<ObjectVersion>),
    /// Consecutive objects of the base, by index.
    Run(Range<u64>),
}

impl ListEntry {
    fn len(&self) -> u64 {
        match self {
            Self::Object(_) => 1,
            Self::Run(run) => run.end - run.start,
        }
    }
}

/// A page of a listing.
#[derive(Default)]
pub(crate) struct CollectedPage {
    pub(crate) entries: Vec<ListEntry>,
    pub(crate) prefixes: Vec<String>,
    /// The token of the next page, if there is one.
    pub(crate) next_token: Option<String>,
}

impl CollectedPage {
    /// The number of objects and prefixes.
    pub(crate) fn len(&self) -> u64 {
        self.entries.iter().map(ListEntry::len).sum::<u64>() + self.prefixes.len() as u64
    }
}

/// Collects the page that `query` describes.
pub(crate) fn collect_page(bucket: &StoredBucket, query: &ListQuery) -> CollectedPage {
    let (start, upper) = (query.start.clone().max(query.prefix.clone()), query.upper_bound());
    if upper.as_ref().is_some_and(|upper| start >= *upper) {
        return CollectedPage::default();
    }

    let overlay = read(&bucket.overlay);
    let mut cursor = MergeCursor::new(bucket, &overlay, start, upper);
    let mut page = CollectedPage::default();
    let mut left = query.max_entries;
    let takes_all = query.delimiter.is_empty() && query.glob.is_none();
    let mut unmatched = 0;
    let mut name = Vec::new();
    loop {
        if takes_all && left > 0 {
            let run = cursor.take_run(left);
            if !run.is_empty() {
                left -= run.end - run.start;
                page.entries.push(ListEntry::Run(run));
            }
        }
        if !cursor.peek(&mut name) {
            return page;
        }

        let is_wanted = cursor.is_live()
            && query.glob.as_ref().is_none_or(|glob| std::str::from_utf8(&name).is_ok_and(|name| glob.matches(name)));
        if unmatched == MAX_UNMATCHED || (is_wanted && left == 0) {
            page.next_token = Some(PageToken { key: name, is_half_done: false }.encode());
            return page;
        }
        if !is_wanted {
            unmatched += 1;
            cursor.skip();
            continue;
        }

        let Some(prefix) = query.common_prefix_of(&name) else {
            page.entries.extend(cursor.take());
            left -= 1;
            continue;
        };

        if query.include_trailing_delimiter && prefix == name && query.half_done.as_deref() != Some(prefix) {
            page.entries.extend(cursor.entry());
            left -= 1;
            if left == 0 {
                page.next_token = Some(PageToken { key: name, is_half_done: true }.encode());
                return page;
            }
        }

        page.prefixes.push(String::from_utf8_lossy(prefix).into_owned());
        left -= 1;
        match successor(prefix) {
            Some(after) => cursor.seek(after),
            None => return page,
        }
    }
}

/// A cursor over base and overlay in byte order of names.
struct MergeCursor<'a> {
    bucket: &'a StoredBucket,
    overlay: &'a Overlay,
    upper: Option<Vec<u8>>,
    /// The next base object, and where those that are wanted end.
    base_index: u64,
    base_end: u64,
    overlay_entries: Peekable<btree_map::Range<'a, Vec<u8>, Option<Arc<ObjectVersion>>>>,
    /// Whether the entry that was peeked is the overlay's.
    is_overlay_next: bool,
    /// Whether that entry hides a base object of the same name.
    hides_base: bool,
}

impl<'a> MergeCursor<'a> {
    fn new(bucket: &'a StoredBucket, overlay: &'a Overlay, start: Vec<u8>, upper: Option<Vec<u8>>) -> Self {
        let base_end = upper.as_ref().map_or(bucket.base.len(), |upper| bucket.base.lower_bound(upper));
        let overlay_entries = overlay.range(Vec::new()..Vec::new()).peekable();
        let mut cursor = Self {
            bucket,
            overlay,
            upper,
            base_index: 0,
            base_end,
            overlay_entries,
            is_overlay_next: false,
            hides_base: false,
        };
        cursor.seek(start);
        cursor
    }

    /// Moves to the first name that is not below `start`.
    fn seek(&mut self, start: Vec<u8>) {
        self.base_index = self.bucket.base.lower_bound(&start).min(self.base_end);
        let upper = match &self.upper {
            // A range that ends before it starts would panic.
            Some(upper) => Bound::Excluded(upper.clone().max(start.clone())),
            None => Bound::Unbounded,
        };
        self.overlay_entries = self.overlay.range((Bound::Included(start), upper)).peekable();
    }

    /// Takes base objects up to the next overlay entry, `max_len` at most.
    fn take_run(&mut self, max_len: u64) -> Range<u64> {
        let first = self.base_index;
        let until = match self.overlay_entries.peek() {
            Some((key, _)) if first < self.base_end => self.bucket.base.lower_bound(key).min(self.base_end),
            Some(_) => first,
            None => self.base_end,
        };
        self.base_index = until.max(first).min(first.saturating_add(max_len));
        first..self.base_index
    }

    /// Writes the next name to `name`. Returns false at the end.
    fn peek(&mut self, name: &mut Vec<u8>) -> bool {
        let has_base = self.base_index < self.base_end;
        if has_base {
            self.bucket.base.read_name(self.base_index, name);
        }
        match self.overlay_entries.peek() {
            None => {
                self.is_overlay_next = false;
                has_base
            }
            Some((key, _)) => {
                self.is_overlay_next = !has_base || key.as_slice() <= name.as_slice();
                self.hides_base = has_base && key.as_slice() == name.as_slice();
                if self.is_overlay_next {
                    name.clone_from(key);
                }
                true
            }
        }
    }

    /// Whether the entry that was peeked is an object and not a tombstone.
    fn is_live(&mut self) -> bool {
        !self.is_overlay_next || self.overlay_entries.peek().is_some_and(|(_, entry)| entry.is_some())
    }

    /// The entry that was peeked; `None` for a tombstone.
    fn entry(&mut self) -> Option<ListEntry> {
        if self.is_overlay_next {
            self.overlay_entries.peek().and_then(|(_, entry)| Option::clone(entry)).map(ListEntry::Object)
        } else {
            Some(ListEntry::Run(self.base_index..self.base_index + 1))
        }
    }

    fn skip(&mut self) {
        if self.is_overlay_next {
            self.overlay_entries.next();
            self.base_index += u64::from(self.hides_base);
        } else {
            self.base_index += 1;
        }
    }

    fn take(&mut self) -> Option<ListEntry> {
        let entry = self.entry();
        self.skip();
        entry
    }
}
