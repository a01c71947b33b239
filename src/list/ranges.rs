//! Which list calls to make, and what to keep of their answers.
//!
//! The key space is divided into ranges that tile it, each with at most one call in flight. A range may be cut anywhere
//! behind the last name that it has listed, even while its call is in flight: it then drops the part of the answer from
//! the cut on. So a wrong guess never loses an object or lists it twice. [`Ranges`] has no clock, no I/O and no locks;
//! a single owner drives it.

mod cuts;

use std::collections::BTreeMap;
use std::ops::Range;

use super::keyspace::{Density, FolderPage, KeySpace, ListingCut};

pub(super) type CallId = u64;

/// One `objects.list` call to make.
#[derive(Clone, Debug)]
pub(super) struct ListCall {
    pub id: CallId,
    /// The request's prefix: that of the listing, or a folder below it where `delimiter` is set.
    pub prefix: String,
    /// `startOffset`, inclusive.
    pub start: Option<String>,
    /// `endOffset`, exclusive.
    pub end: Option<String>,
    pub token: Option<String>,
    /// Whether to ask with the delimiter `/`, for sub-folders; other calls list the objects in them.
    pub delimiter: bool,
    pub page_size: u32,
}

/// The answer to a [`ListCall`].
pub(super) trait AnswerPage {
    /// Number of objects.
    fn len(&self) -> usize;
    /// Name of the object at `index`.
    fn name(&self, index: usize) -> &str;
    /// Sub-folders, of a call with a delimiter.
    fn prefixes(&self) -> &[String];
    /// Token of the next page.
    fn token(&self) -> Option<&str>;
}

/// A part of the key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameInterval {
    /// Where the interval begins, inclusive.
    pub from: String,
    /// Where the interval ends, exclusive; `None` at the end of the listing.
    pub to: Option<String>,
}

impl NameInterval {
    pub(super) fn is_empty(&self) -> bool {
        self.to.as_ref() == Some(&self.from)
    }
}

/// What to keep of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptNames {
    /// Which of the page's objects to keep, by index; none of a call with a delimiter.
    pub objects: Range<usize>,
    /// The names that are now listed. The intervals of all answers tile the prefix, and where one interval ends, the
    /// next one begins.
    pub interval: NameInterval,
}

/// An answer that breaks the listing protocol. After names out of order or before the offset, a listing that is
/// collected starts anew with one page after another, and a streaming one fails; endless empty pages are always an
/// error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProtocolViolation {
    /// Two names that are out of order.
    Unsorted { before: String, name: String },
    /// A name before the start that was asked for.
    Offset { start: String, name: String },
    /// Too many empty pages, the last of which had this token.
    Endless { token: String },
}

/// Empty pages in a row after which a range is taken to be endless.
pub(super) const MAX_EMPTY_PAGES: u32 = 10_000;
/// Tokens refused in a row after which a range fails. Where pages hold one name, only a token leads past that name, so
/// a refused token can't always be replaced by an offset.
const MAX_TOKENS_REFUSED: u32 = 10;
/// Pages below which no range is cut, since both halves would take a call each, as the whole does.
const MIN_PAGES_TO_CUT: f64 = 1.6;
/// A token is still followed past a cut if at least this many pages are estimated to remain before the cut.
const PAGES_WORTH_A_TOKEN: f64 = 0.95;

#[derive(Debug, Default)]
struct KeyRange {
    /// All names of the range below this are listed.
    low: String,
    /// The last name listed. A call that starts there brings it again.
    last: Option<String>,
    /// Where the range ends, exclusive; `None` at the end of the listing.
    end: Option<String>,
    token: Option<String>,
    /// Bounds of the request whose answer gave `token`.
    request: RequestBounds,
    in_flight: bool,
    /// Tokens refused since the last object came.
    tokens_refused: u32,
    density: Option<Density>,
    /// Objects that the range is estimated to hold.
    estimate: f64,
    /// How many ranges that started at this one's end turned out to be empty.
    failed_cuts_at_end: u32,
    /// Pages with a next page since the last cut, received while the estimate was too low for a cut.
    surprises: u32,
    /// Empty pages in a row.
    empty_pages: u32,
    /// Whether no place to cut was found since the last answer.
    is_uncuttable: bool,
    is_answered: bool,
    /// Objects listed so far in the folder of the last name, by any range.
    folder_objects: f64,
}

#[derive(Debug, Default, PartialEq)]
struct RequestBounds {
    start: Option<String>,
    end: Option<String>,
}

/// What a call in flight asks for.
#[derive(Debug)]
enum AskedPage {
    Range { id: u64, token: Option<String> },
    Folders { parent: String, start: String },
}

/// The ranges of a listing.
#[derive(Debug)]
pub(super) struct Ranges {
    prefix: String,
    page_size: u32,
    /// Objects that a full page of this server holds, as far as is known.
    page: f64,
    space: KeySpace,
    /// Ranges with names that nobody has listed yet, by their numbers.
    open: BTreeMap<u64, KeyRange>,
    /// The ranges' numbers by their low ends.
    by_low: BTreeMap<String, u64>,
    calls: BTreeMap<CallId, AskedPage>,
    /// The number of the next range or call.
    next_id: u64,
    /// Calls for folders that are to be made.
    folder_calls: Vec<ListCall>,
    /// Pages with objects.
    pages: u64,
    /// Pages with objects and a next page.
    pages_with_next: u64,
    /// Calls that came to the end of their range without an object.
    empty_ends: u64,
    /// Cuts that count as guesses: at a name without a trailing `/`, in a range without an end or with failed cuts.
    guessed_cuts: u64,
    is_started: bool,
    /// Whether the earlier listing had more than one page.
    has_earlier: bool,
}

impl Ranges {
    /// Lists all names that begin with `prefix`, with calls for `page_size` objects. `earlier` are cuts of an earlier
    /// listing, in order, if there is one.
    pub(super) fn new(prefix: &str, page_size: u32, earlier: impl IntoIterator<Item = ListingCut>) -> Self {
        let page = f64::from(page_size);
        let mut new = Self {
            prefix: prefix.into(),
            page_size,
            page,
            space: KeySpace::new(prefix, page),
            open: BTreeMap::new(),
            by_low: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_id: 0,
            folder_calls: vec![],
            pages: 0,
            pages_with_next: 0,
            empty_ends: 0,
            guessed_cuts: 0,
            is_started: false,
            has_earlier: false,
        };
        let objects = new.space.remember(earlier);
        new.has_earlier = objects > page;
        new.insert(prefix.into(), None, if objects > 0.0 { objects } else { f64::INFINITY }, 0);
        new
    }

    fn insert(&mut self, low: String, end: Option<String>, estimate: f64, failed_cuts_at_end: u32) {
        let id = self.new_id();
        self.by_low.insert(low.clone(), id);
        self.open.insert(id, KeyRange { low, end, estimate, failed_cuts_at_end, ..KeyRange::default() });
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Whether everything is listed. Calls for folders that are still in flight may then be dropped.
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// The next call to make while fewer than `limit` are in flight; `None` where no useful call is left until an
    /// answer comes.
    pub(super) fn next(&mut self, limit: usize) -> Option<ListCall> {
        let idle = limit.saturating_sub(self.calls.len());
        if idle == 0 || self.is_done() {
            return None;
        }
        if self.pages == 1 && !self.is_started && !self.has_earlier && limit > 1 {
            self.is_started = true;
            self.cut_first_range(idle);
        }

        // Makes ranges for calls that would otherwise be idle.
        let mut waiting = self.largest_waiting();
        let waiting_ranges = self.open.values().filter(|range| !range.in_flight).count();
        let free = idle.saturating_sub(waiting_ranges + self.folder_calls.len());
        if free > 0 && (self.pages > 0 || self.has_earlier) {
            self.cut_largest(free, limit);
            waiting = self.largest_waiting();
        }

        if let Some(mut call) = self.folder_calls.pop() {
            call.id = self.new_id();
            let start = call.start.clone().unwrap_or_default();
            self.calls.insert(call.id, AskedPage::Folders { parent: call.prefix.clone(), start });
            return Some(call);
        }
        waiting.map(|id| self.issue(id))
    }

    /// The range without a call in flight that is estimated to hold the most objects.
    fn largest_waiting(&self) -> Option<u64> {
        self.open
            .iter()
            .filter(|(_, range)| !range.in_flight)
            .max_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate))
            .map(|(id, _)| *id)
    }

    fn issue(&mut self, id: u64) -> ListCall {
        let call_id = self.new_id();
        let range = self.open.get_mut(&id).expect("a waiting range");
        range.in_flight = true;
        // After a cut the token's request still runs to the old end, and what it brings from the cut on is dropped.
        // That costs less than a new request from the last name on, which brings that name again, unless little is left
        // before the cut.
        let follows_token = range.request.end == range.end || range.estimate >= PAGES_WORTH_A_TOKEN * self.page;
        let token = range.token.take().filter(|_| follows_token);
        if token.is_none() {
            let is_whole = range.low == self.prefix && range.last.is_none();
            let start = (!is_whole).then(|| range.last.clone().unwrap_or_else(|| range.low.clone()));
            range.request = RequestBounds { start, end: range.end.clone() };
        }
        self.calls.insert(call_id, AskedPage::Range { id, token: token.clone() });
        ListCall {
            id: call_id,
            prefix: self.prefix.clone(),
            start: range.request.start.clone(),
            end: range.request.end.clone(),
            token,
            delimiter: false,
            page_size: self.page_size,
        }
    }

    /// Takes back a call that failed; `token_refused` says whether that may be the fault of its token. Returns whether
    /// the listing can continue: folders are hints, and the names that a token stands for can be asked for by an
    /// offset.
    pub(super) fn failed(&mut self, call: CallId, token_refused: bool) -> bool {
        match self.calls.remove(&call) {
            Some(AskedPage::Folders { .. }) => true,
            Some(AskedPage::Range { id, token: Some(_) }) if token_refused => {
                let range = self.open.get_mut(&id).filter(|range| range.tokens_refused < MAX_TOKENS_REFUSED);
                let Some(range) = range else { return false };
                (range.in_flight, range.token) = (false, None);
                range.tokens_refused += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes in the answer to `call`.
    ///
    /// # Errors
    /// An answer that breaks the protocol.
    pub(super) fn answered(&mut self, call: CallId, page: &dyn AnswerPage) -> Result<KeptNames, ProtocolViolation> {
        match self.calls.remove(&call) {
            Some(AskedPage::Range { id, token }) => self.range_answered(id, token.as_deref(), page),
            asked => {
                if let Some(AskedPage::Folders { parent, start }) = asked {
                    self.folders_answered(parent, start, page);
                }
                let interval = NameInterval { from: self.prefix.clone(), to: Some(self.prefix.clone()) };
                Ok(KeptNames { objects: 0..0, interval })
            }
        }
    }

    fn folders_answered(&mut self, parent: String, start: String, page: &dyn AnswerPage) {
        let is_new = self.space.learn_folders(&FolderPage {
            parent: &parent,
            start: &start,
            prefixes: page.prefixes(),
            has_no_objects: page.len() == 0,
            is_last: page.token().is_none(),
        });
        // Where many objects are behind a page of folders, the next page of folders is worth a call.
        if let (Some(token), Some(first)) = (page.token(), page.prefixes().first())
            && is_new
            && self.space.folder_mass(first) * page.prefixes().len() as f64 > 30.0 * self.page
        {
            self.folder_calls.push(ListCall {
                id: 0,
                prefix: parent,
                start: Some(start),
                end: None,
                token: Some(token.into()),
                delimiter: true,
                page_size: self.page_size,
            });
        }
        let ids: Vec<u64> = self.open.keys().copied().collect();
        for id in ids {
            self.estimate(id);
        }
    }

    fn range_answered(
        &mut self,
        id: u64,
        used_token: Option<&str>,
        page: &dyn AnswerPage,
    ) -> Result<KeptNames, ProtocolViolation> {
        let range = self.open.get_mut(&id).expect("a range with a call in flight");
        range.in_flight = false;
        let from = range.low.clone();
        let keep = kept(range, &self.prefix, page)?;

        let token = page.token();
        let is_done = keep.end < page.len() || token.is_none();
        if keep.is_empty() {
            range.empty_pages += 1;
            let is_stuck = used_token.is_some() && used_token == token;
            if !is_done && (range.empty_pages > MAX_EMPTY_PAGES || is_stuck) {
                return Err(ProtocolViolation::Endless { token: token.unwrap_or_default().into() });
            }
        } else {
            range.empty_pages = 0;
            range.tokens_refused = 0;
            let last = page.name(keep.end - 1);
            range.last = Some(last.into());
            range.low = format!("{last}\0");
        }
        let is_first_answer = !std::mem::replace(&mut range.is_answered, true);
        range.is_uncuttable = false;
        let to = if is_done { range.end.clone() } else { Some(range.low.clone()) };

        self.count_page(page, is_done);
        if !keep.is_empty() {
            self.learn(id, keep.clone(), page, is_first_answer);
        }
        self.by_low.remove(&from);
        if is_done {
            self.remove(id, &from, is_first_answer && keep.is_empty());
        } else {
            let range = self.open.get_mut(&id).expect("a range with an answer");
            let is_full = keep.len() as f64 >= 0.9 * self.page;
            let is_surprise = !is_first_answer && is_full && range.estimate < MIN_PAGES_TO_CUT * self.page;
            range.surprises += u32::from(is_surprise);
            range.token = token.map(Into::into);
            self.by_low.insert(range.low.clone(), id);
            self.estimate(id);
        }
        Ok(KeptNames { objects: keep, interval: NameInterval { from, to } })
    }

    fn count_page(&mut self, page: &dyn AnswerPage, is_done: bool) {
        let (objects, has_more) = (page.len(), page.token().is_some());
        if has_more && objects > 0 {
            // The first full page shows how many objects the server gives.
            let objects = objects as f64;
            self.page = if self.pages == 0 { objects } else { self.page.max(objects) };
            self.space.page = self.page;
        }
        self.pages += u64::from(objects > 0);
        self.pages_with_next += u64::from(has_more && objects > 0);
        self.empty_ends += u64::from(objects == 0 && is_done);
    }

    /// Learns from the names of a range's page that are kept, at least one.
    fn learn(&mut self, id: u64, keep: Range<usize>, page: &dyn AnswerPage, is_first_answer: bool) {
        let range = self.open.get_mut(&id).expect("a range with an answer");
        let (first, last) = (page.name(keep.start), page.name(keep.end - 1));
        if is_first_answer {
            self.space.add_first_name(first);
        }
        if let Some(density) = &range.density {
            self.space.learn_step(&density.last, first, 1.0);
        }
        range.density = Some(Density { first: first.into(), last: last.into(), items: keep.len() as f64 });

        let folder = last.rfind('/').map_or("", |slash| &last[..=slash]);
        let first_in_folder = first_index(keep.clone(), |index| page.name(index) >= folder);
        range.folder_objects = self.space.count_in_folder(folder, (keep.end - first_in_folder) as f64);
        self.space.learn(keep.len(), &|index| page.name(keep.start + index));
    }

    /// Removes a range that is listed to its end. If it `was_empty`, the cut at its low end was a wrong guess, and the
    /// names up to its end are known to be none.
    fn remove(&mut self, id: u64, from: &str, was_empty: bool) {
        let Some(removed) = self.open.remove(&id) else { return };
        if !was_empty {
            return;
        }
        let Some((_, &before)) = self.by_low.range(..from.to_owned()).next_back() else { return };
        if let Some(range) = self.open.get_mut(&before)
            && range.end.as_deref() == Some(from)
        {
            range.failed_cuts_at_end = range.failed_cuts_at_end.max(removed.failed_cuts_at_end) + 1;
            self.space.learn_failed_cut(range.last.as_deref().unwrap_or(&range.low), from);
            self.estimate(before);
        }
    }
}

/// Which names of a range's page to keep: those that were not listed before and are not behind the range's end, where
/// another range has taken over or the server ignores the end.
fn kept(range: &KeyRange, prefix: &str, page: &dyn AnswerPage) -> Result<Range<usize>, ProtocolViolation> {
    let len = page.len();
    for index in 1..len {
        let (before, name) = (page.name(index - 1), page.name(index));
        if before >= name {
            return Err(ProtocolViolation::Unsorted { before: before.into(), name: name.into() });
        }
    }
    if len == 0 {
        return Ok(0..0);
    }

    let (first, start) = (page.name(0), range.last.as_deref().unwrap_or(&range.low));
    if first < start {
        return Err(ProtocolViolation::Offset { start: start.into(), name: first.into() });
    }
    let start = usize::from(range.last.as_deref() == Some(first));
    let is_behind = |name: &str| match &range.end {
        Some(end) => name >= end.as_str(),
        None => !name.starts_with(prefix),
    };
    Ok(start..first_index(start..len, |index| is_behind(page.name(index))))
}

/// The first index in `range` for which `holds` is true, where it is true for all behind that one; otherwise the end.
fn first_index(range: Range<usize>, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = usize::midpoint(low, high);
        if holds(middle) { high = middle } else { low = middle + 1 }
    }
    low
}
