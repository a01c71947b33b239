//! Which list calls to make, and what to keep of their answers.
//!
//! The key space is cut into ranges that tile it; each has at most one call in flight. A range may be cut anywhere past
//! the last name it has listed, even while its call is in flight: it then drops what the answer brings from the cut on.
//! So guesses may be wrong without an object being lost or coming twice. No clock, no I/O, no locks: one owner drives
//! this.
use std::collections::BTreeMap;
use std::ops::Range as Span;

use super::keyspace::{Density, Gap, GapSegment, KeySpace, lcp};

pub(super) type CallId = u64;

/// One `objects.list` to make.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub id: CallId,
    /// The request's prefix: the listing's own, or a folder below it where `delimiter` is set.
    pub prefix: String,
    /// `startOffset`, inclusive.
    pub start: Option<String>,
    /// `endOffset`, exclusive.
    pub end: Option<String>,
    pub token: Option<String>,
    /// Whether to ask with the delimiter `/`: for the sub-folders, whose objects are listed by other calls.
    pub delimiter: bool,
    pub page_size: u32,
}

/// An answer.
pub(super) trait Page {
    fn len(&self) -> usize;
    fn name(&self, index: usize) -> &str;
    fn prefixes(&self) -> &[String];
    fn token(&self) -> Option<&str>;
}

/// What an answer brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptNames {
    /// Which of the page's objects to keep, by index; none of a call with a delimiter.
    pub objects: Span<usize>,
    /// From here, inclusive, all names are now listed ...
    pub from: String,
    /// ... to here, exclusive; none: to the end of the prefix. The intervals of all answers tile the prefix, and one that
    /// follows on another has that one's `to` as its `from`.
    pub to: Option<String>,
}

/// An answer that can't be: list with tokens alone, from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProtocolViolation {
    Unsorted { before: String, name: String },
    Offset { start: String, name: String },
    Nowhere { token: String },
}

/// Empty pages in a row after which a range is taken to lead nowhere.
pub(super) const MOST_EMPTY: u32 = 10_000;
/// Tokens refused in a row after which a range is given up: where pages have one name, only a token leads past it.
const MOST_REFUSED: u32 = 10;
/// Pages below which no range is cut: both halves would take a call each, as the whole does.
const LEAST: f64 = 1.6;
/// Pages left before a cut from which on a token is followed past it.
const WORTH_TOKEN: f64 = 0.95;

#[derive(Debug)]
struct KeyRange {
    /// Everything below is listed.
    low: String,
    /// `low` is a name that was listed and may come again.
    last: Option<String>,
    end: Option<String>,
    token: Option<String>,
    /// Start and end of the request that the token is of.
    asked: (Option<String>, Option<String>),
    in_flight: bool,
    /// Tokens refused since the last object came.
    refused: u32,
    density: Option<Density>,
    estimate: f64,
    doubt: u32,
    /// Full pages that came since the last cut, with more behind them, where the estimate was too low for a cut.
    surprises: u32,
    empty: u32,
    stuck: bool,
    answered: bool,
    /// Objects of the last one's folder so far, wherever they were listed.
    folder: f64,
}

#[derive(Debug)]
enum AskedPage {
    Range { id: u64, token: Option<String> },
    Folders { parent: String, start: String },
}

#[derive(Debug)]
pub(super) struct Ranges {
    prefix: String,
    page_size: u32,
    page: f64,
    space: KeySpace,
    parts: BTreeMap<u64, KeyRange>,
    /// By low end.
    order: BTreeMap<String, u64>,
    calls: BTreeMap<CallId, AskedPage>,
    ids: u64,
    delims: Vec<Call>,
    pages: u64,
    /// Pages that go on, empty ends, cuts made.
    full: u64,
    nothing: u64,
    cuts: u64,
    started: bool,
    /// There are cut points of an earlier listing.
    known: bool,
}

impl Ranges {
    /// Lists what begins with `prefix`. `page_size`: objects to ask for in a call. `known`: names of an earlier listing, in
    /// order, each with the number of objects from it to the next; none where there is no such listing.
    pub(super) fn new(prefix: &str, page_size: u32, known: impl IntoIterator<Item = (String, u64)>) -> Self {
        let page = f64::from(page_size);
        let mut new = Self {
            prefix: prefix.into(),
            page_size,
            page,
            space: KeySpace::new(prefix, page),
            parts: BTreeMap::new(),
            order: BTreeMap::new(),
            calls: BTreeMap::new(),
            ids: 0,
            delims: vec![],
            pages: 0,
            full: 0,
            nothing: 0,
            cuts: 0,
            started: false,
            known: false,
        };
        let share = new.space.remember(known);
        new.known = share > page;
        new.insert(prefix.into(), None, if share > 0.0 { share } else { f64::INFINITY }, 0);
        new
    }

    fn insert(&mut self, low: String, end: Option<String>, share: f64, doubt: u32) -> u64 {
        let id = self.ids;
        self.ids += 1;
        self.order.insert(low.clone(), id);
        self.parts.insert(
            id,
            KeyRange {
                low,
                last: None,
                end,
                token: None,
                asked: (None, None),
                in_flight: false,
                refused: 0,
                density: None,
                estimate: share,
                doubt,
                surprises: 0,
                empty: 0,
                stuck: false,
                answered: false,
                folder: 0.0,
            },
        );
        id
    }

    /// Whether everything is listed. Calls for folders that are then still in flight may be dropped.
    pub(super) fn is_done(&self) -> bool {
        self.parts.is_empty()
    }
    /// The next call to make, while fewer than `limit` are in flight; none: nothing useful to do before an answer comes.
    pub(super) fn next(&mut self, limit: usize) -> Option<Call> {
        let idle = limit.saturating_sub(self.calls.len());
        if idle == 0 || self.is_done() {
            return None;
        }
        if self.pages == 1 && !self.started && !self.known && limit > 1 {
            self.started = true;
            self.start(idle);
        }
        let mut waiting = self.waiting();
        // Pieces for the workers that would else have nothing to do.
        let free = idle.saturating_sub(self.parts.values().filter(|r| !r.in_flight).count() + self.delims.len());
        if free > 0 && (self.pages > 0 || self.known) {
            self.steal(free, limit);
            waiting = self.waiting();
        }
        if let Some(mut call) = self.delims.pop() {
            call.id = self.ids;
            self.ids += 1;
            self.calls.insert(
                call.id,
                AskedPage::Folders { parent: call.prefix.clone(), start: call.start.clone().unwrap_or_default() },
            );
            return Some(call);
        }
        waiting.map(|id| self.issue(id))
    }

    fn waiting(&self) -> Option<u64> {
        self.parts
            .iter()
            .filter(|(_, r)| !r.in_flight)
            .max_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate))
            .map(|(id, _)| *id)
    }

    fn issue(&mut self, id: u64) -> Call {
        let range = self.parts.get_mut(&id).expect("a waiting range");
        let call_id = self.ids;
        self.ids += 1;
        range.in_flight = true;
        // After a cut the token's request goes on past the end, and what it brings from there is dropped. That costs
        // less than asking anew with the last name, which comes again, unless little is left before the cut.
        let goes_on = range.asked.1 == range.end || range.estimate >= WORTH_TOKEN * self.page;
        let token = range.token.take().filter(|_| goes_on);
        if token.is_none() {
            let whole = range.low == self.prefix && range.last.is_none();
            range.asked =
                ((!whole).then(|| range.last.clone().unwrap_or_else(|| range.low.clone())), range.end.clone());
        }
        self.calls.insert(call_id, AskedPage::Range { id, token: token.clone() });
        Call {
            id: call_id,
            prefix: self.prefix.clone(),
            start: range.asked.0.clone(),
            end: range.asked.1.clone(),
            token,
            delimiter: false,
            page_size: self.page_size,
        }
    }

    /// Takes in the answer to `call`.
    ///
    /// # Errors
    /// When the answer can't be one to what was asked.
    /// Takes back a call that failed, `token_refused` where that may be its token's fault. Tells whether the listing goes on:
    /// folders are hints, and what a token stands for can be asked for by name.
    pub(super) fn failed(&mut self, call: CallId, token_refused: bool) -> bool {
        match self.calls.remove(&call) {
            Some(AskedPage::Folders { .. }) => true,
            Some(AskedPage::Range { id, token: Some(_) }) if token_refused => {
                let Some(range) = self.parts.get_mut(&id).filter(|range| range.refused < MOST_REFUSED) else {
                    return false;
                };
                (range.in_flight, range.token) = (false, None);
                range.refused += 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn answered(&mut self, call: CallId, page: &dyn Page) -> Result<KeptNames, ProtocolViolation> {
        let asked = self.calls.remove(&call);
        if let Some(AskedPage::Folders { parent, start }) = &asked {
            let whole = page.len() == 0;
            let news = self.space.folders(
                parent,
                start,
                page.prefixes().iter().map(String::as_str),
                whole,
                page.token().is_none(),
            );
            // Many objects hide behind a page of folders: the next page of them pays.
            if let (Some(token), Some(first)) = (page.token(), page.prefixes().first())
                && news
                && self.space.folder_mass(first) * page.prefixes().len() as f64 > 30.0 * self.page
            {
                self.delims.push(Call {
                    id: 0,
                    prefix: parent.clone(),
                    start: Some(start.clone()),
                    end: None,
                    token: Some(token.into()),
                    delimiter: true,
                    page_size: self.page_size,
                });
            }
            let estimates: Vec<u64> = self.parts.keys().copied().collect();
            for id in estimates {
                self.estimate(id);
            }
            return Ok(KeptNames { objects: 0..0, from: self.prefix.clone(), to: Some(self.prefix.clone()) });
        }
        let Some(AskedPage::Range { id, token: used }) = asked else {
            return Ok(KeptNames { objects: 0..0, from: self.prefix.clone(), to: Some(self.prefix.clone()) });
        };
        let range = self.parts.get_mut(&id).expect("a range with a call in flight");
        range.in_flight = false;
        let from = range.low.clone();
        let n = page.len();
        for i in 1..n {
            if page.name(i - 1) >= page.name(i) {
                return Err(ProtocolViolation::Unsorted { before: page.name(i - 1).into(), name: page.name(i).into() });
            }
        }
        let mut keep = 0..n;
        if n > 0 {
            let least = range.last.as_deref().unwrap_or(&range.low);
            if page.name(0) < least {
                return Err(ProtocolViolation::Offset { start: least.into(), name: page.name(0).into() });
            }
            if range.last.as_deref() == Some(page.name(0)) {
                keep.start = 1;
            }
            // Past the end: what a cut gave away, or a server that ignores the end.
            let beyond = |name: &str| match &range.end {
                Some(end) => name >= end.as_str(),
                None => !name.starts_with(&self.prefix),
            };
            let (mut a, mut b) = (keep.start, n);
            while a < b {
                let m = usize::midpoint(a, b);
                if beyond(page.name(m)) { b = m } else { a = m + 1 }
            }
            keep.end = a;
        }
        let over = keep.end < n;
        let token = page.token();
        let done = over || token.is_none();
        if keep.is_empty() {
            range.empty += 1;
            if !done && (range.empty > MOST_EMPTY || used.is_some() && used.as_deref() == token) {
                return Err(ProtocolViolation::Nowhere { token: token.unwrap_or_default().into() });
            }
        } else {
            range.empty = 0;
            range.refused = 0;
            let last = page.name(keep.end - 1);
            range.last = Some(last.into());
            range.low = format!("{last}\0");
        }
        let first_answer = !range.answered;
        range.answered = true;
        range.stuck = false;
        let to = if done { range.end.clone() } else { Some(range.low.clone()) };
        if token.is_some() && n > 0 {
            // The first full page shows what the server gives.
            if self.pages == 0 {
                self.page = n as f64;
            } else {
                self.page = self.page.max(n as f64);
            }
            self.space.page = self.page;
        }
        self.pages += u64::from(n > 0);
        self.full += u64::from(token.is_some() && n > 0);
        self.nothing += u64::from(n == 0 && done);
        if !keep.is_empty() {
            let first = page.name(keep.start);
            if first_answer {
                self.space.real(first);
            }
            if let Some(d) = &range.density {
                let last = d.last.clone();
                self.space.turn(&last, first, 1.0);
            }
            range.density =
                Some(Density { first: first.into(), last: page.name(keep.end - 1).into(), items: keep.len() as f64 });
            let last = page.name(keep.end - 1);
            let parent = last.rfind('/').map_or("", |i| &last[..=i]);
            let (mut a, mut b) = (keep.start, keep.end);
            while a < b {
                let m = usize::midpoint(a, b);
                if page.name(m) >= parent { b = m } else { a = m + 1 }
            }
            range.folder = self.space.in_folder(parent, (keep.end - a) as f64);
            self.space.learn(keep.len(), &|i| page.name(keep.start + i));
        }
        self.order.remove(&from);
        if done {
            let nothing = first_answer && keep.is_empty();
            let doubt = range.doubt;
            let gone = self.parts.remove(&id).expect("just seen");
            if nothing && let Some((_, left)) = self.order.range(..from.clone()).next_back() {
                let left = *left;
                if let Some(l) = self.parts.get_mut(&left)
                    && l.end.as_deref() == Some(from.as_str())
                {
                    let low = l.last.clone().unwrap_or_else(|| l.low.clone());
                    self.space.tried(&low, &from);
                    let l = self.parts.get_mut(&left).expect("seen");
                    l.doubt = l.doubt.max(doubt) + 1;
                    self.estimate(left);
                }
            }
            drop(gone);
        } else {
            let is_full = keep.len() as f64 >= 0.9 * self.page;
            range.surprises += u32::from(!first_answer && is_full && range.estimate < LEAST * self.page);
            range.token = token.map(Into::into);
            let low = range.low.clone();
            self.order.insert(low, id);
            self.estimate(id);
        }
        Ok(KeptNames { objects: keep, from, to })
    }

    fn gap_segments(&self, r: &KeyRange) -> Vec<GapSegment> {
        let low = r.last.as_deref().unwrap_or(&r.low);
        let mut segments = self.space.segments(&Gap {
            low,
            end: r.end.as_deref(),
            density: r.density.as_ref(),
            share: r.estimate,
            doubt: r.doubt,
            folder: r.folder,
        });
        // A range that has gone on against all estimates is likely to go on. It is cut after four such pages: after
        // two, other kinds of names paid up to 13% more calls, and after three up to 10% more time.
        let least = self.page * f64::from(r.surprises.min(8)).exp2() * 0.125;
        let mass: f64 = segments.iter().map(|s| s.mass).sum();
        if r.surprises > 0 && mass < least && mass > 0.0 {
            for s in &mut segments {
                s.mass *= least / mass;
            }
        }
        segments
    }

    fn estimate(&mut self, id: u64) {
        let r = &self.parts[&id];
        if !r.answered {
            return;
        }
        let mass: f64 = self.gap_segments(r).iter().map(|s| s.mass).sum();
        let r = self.parts.get_mut(&id).expect("seen");
        r.estimate = if mass.is_finite() { mass.clamp(self.page * 0.5, 1e12) } else { self.page };
    }

    /// After the first page: the next page's worth in small pieces, where the limit leaves room for them.
    fn start(&mut self, idle: usize) {
        let Some((&id, r)) = self.parts.first_key_value() else { return };
        let Some(last) = r.last.clone() else { return };
        // Folders along the last name.
        let first = r.density.as_ref().map(|d| d.first.clone()).unwrap_or_default();
        let common = lcp(&first, &last);
        let mut at = self.prefix.len();
        let mut parent = self.prefix.clone();
        let mut delims = vec![];
        while let Some(n) = last[at..].find('/') {
            let slash = at + n;
            if slash < common || self.space.folder_mass(&last[..=slash]) > 50.0 {
                delims.push(Call {
                    id: 0,
                    prefix: parent.clone(),
                    start: Some(format!("{}0", &last[..slash])),
                    end: None,
                    token: None,
                    delimiter: true,
                    page_size: self.page_size,
                });
            }
            parent = last[..=slash].to_string();
            at = slash + 1;
        }
        delims.reverse();
        delims.truncate(6);
        delims.reverse();
        let room = idle.saturating_sub(delims.len()).min(self.allowance());
        self.delims = delims;
        let pieces = room.min(7);
        if pieces >= 2 {
            let mut segments = self.gap_segments(&self.parts[&id]);
            let total: f64 = segments.iter().map(|s| s.mass).sum();
            let mut upto = 0.0;
            let sure: f64 = segments.iter().filter(|s| s.sure).map(|s| s.mass).sum();
            for s in &mut segments {
                s.sure |= upto < self.page * 0.9;
                upto += s.mass;
            }
            let mut targets: Vec<f64> =
                (1..=pieces).map(|i| (self.page * i as f64 / pieces as f64).min(total * 0.98)).collect();
            targets.dedup();
            // Many pages are likely there: the usual shares.
            if sure > 3.0 * self.page {
                let n = ((sure / self.page) as usize).min(room);
                let (first, share) = (self.page * 0.97, (total - self.page * 0.97) / (n as f64 + 1.0));
                targets = (0..n).map(|i| first + share * (i as f64 + if n == room { 1.0 } else { 0.0 })).collect();
            }
            let mut left = room.saturating_sub(targets.len());
            let mut sum = 0.0;
            for s in &segments {
                if sum > self.page * 1.2 && !s.sure && left > 0 && s.below(&parent) {
                    targets.push(sum + 1e-6);
                    left -= 1;
                }
                sum += s.mass;
            }
            self.cut(id, &segments, &targets, self.page / pieces as f64 / 4.0, 0.0);
        }
    }

    /// How many more cuts what has been seen is worth: pages that go on pay for guesses, empty answers take them back.
    fn allowance(&self) -> usize {
        (6 + 6 * self.full).saturating_sub(3 * self.nothing + self.cuts) as usize
    }

    fn steal(&mut self, free: usize, limit: usize) {
        let mut free = free;
        let total: f64 = self.parts.values().map(|r| r.estimate).filter(|e| e.is_finite()).sum();
        let fair = (total / limit as f64).max(self.page * 0.92);
        while free > 0 {
            let flying = |r: &KeyRange| if r.in_flight { self.page } else { 0.0 };
            let Some((&id, r)) = self
                .parts
                .iter()
                .filter(|(_, r)| !r.stuck && r.empty == 0 && (r.answered || self.known))
                .max_by(|a, b| (a.1.estimate - flying(a.1)).total_cmp(&(b.1.estimate - flying(b.1))))
            else {
                return;
            };
            let skip = if r.answered { self.page * 0.97 } else { 0.0 };
            let rest = r.estimate - skip;
            if r.estimate - flying(r) < self.page * LEAST {
                return;
            }
            let n = ((rest / fair).ceil() as usize).clamp(1, free);
            // The owner takes the page that it is at, and a share of the rest where there are many.
            let skip = if n == free && rest > fair * (n as f64 + 1.0) { skip + rest / (n as f64 + 1.0) } else { skip };
            let segments = self.gap_segments(r);
            let open = !self.known && (r.end.is_none() || r.doubt > 0) && segments.iter().all(|s| s.mark().is_none());
            let n = if open { n.min(self.allowance().max(1)) } else { n };
            let total: f64 = segments.iter().map(|s| s.mass).sum();
            let skip = skip.min(total * 0.5);
            let targets: Vec<f64> = (0..n).map(|i| skip + (total - skip) * i as f64 / n as f64).collect();
            let made = self.cut(id, &segments, &targets, self.page * 0.3, self.page * 0.5);
            let r = self.parts.get_mut(&id).expect("seen");
            if made == 0 {
                r.stuck = true;
            }
            free = free.saturating_sub(made);
        }
    }

    /// Cuts a range at up to the given masses from its low end. Answers how many pieces that made.
    fn cut(&mut self, id: u64, segments: &[GapSegment], targets: &[f64], fine: f64, least: f64) -> usize {
        let r = &self.parts[&id];
        let low = r.last.clone().unwrap_or_else(|| r.low.clone());
        let end = r.end.clone();
        let mut cuts: Vec<(String, f64)> = vec![];
        let mut borders = vec![];
        let mut upto = 0.0;
        for s in segments {
            if let Some(m) = s.mark() {
                borders.push((upto, m));
            }
            upto += s.mass;
        }
        let piece =
            if targets.len() > 1 { targets[1] - targets[0] } else { upto - targets.first().copied().unwrap_or(0.0) };
        let (mut at, mut sum, mut guesses) = (0, 0.0, (usize::MAX, 0));
        let mut all_guesses = 0;
        // Few pages are no ground for many guesses.
        let most_guesses = (4 + self.full).min(12).min(self.allowance().max(1) as u64);
        for &t in targets {
            // A folder's begin is a real name: better than a guess nearby.
            let near = borders.partition_point(|b| b.0 < t);
            let snap = [near.checked_sub(1), Some(near)]
                .into_iter()
                .flatten()
                .filter_map(|i| borders.get(i))
                .filter(|b| (b.0 - t).abs() < piece * 0.5)
                .min_by(|a, b| (a.0 - t).abs().total_cmp(&(b.0 - t).abs()));
            let (t, mark) = snap.map_or((t, None), |b| (b.0, Some(b.1)));
            if let Some(m) = mark {
                let fits =
                    m > cuts.last().map_or(low.as_str(), |l| l.0.as_str()) && end.as_deref().is_none_or(|e| m < e);
                if fits && !m.contains(['\r', '\n']) && !self.order.contains_key(m) {
                    cuts.push((m.to_string(), t));
                }
                continue;
            }
            while at < segments.len() && sum + segments[at].mass < t {
                sum += segments[at].mass;
                at += 1;
            }
            let Some(s) = segments.get(at) else { break };
            if !s.sure {
                if guesses.0 != at {
                    guesses = (at, 0);
                }
                guesses.1 += 1;
                if guesses.1 > 2 || all_guesses >= most_guesses {
                    continue;
                }
                all_guesses += 1;
            }
            let c = self.space.cut(
                s,
                if s.sure {
                    t - sum
                } else if guesses.1 == 1 && sum > least {
                    0.0
                } else {
                    (t - sum).max(least - sum).min(s.mass * 0.999)
                },
                fine,
            );
            let mass = t;
            let fits = c.as_str() > cuts.last().map_or(low.as_str(), |l| l.0.as_str())
                && end.as_deref().is_none_or(|e| c.as_str() < e)
                && c.len() <= 1024
                && c.starts_with(&self.prefix)
                // What real names begin with is legal; what is added to it should be harmless.
                && !c[lcp(&c, &low)..].contains(char::is_control);
            if fits && !self.order.contains_key(&c) {
                cuts.push((c, mass));
            }
        }
        if cuts.is_empty() {
            return 0;
        }
        let total: f64 = segments.iter().map(|s| s.mass).sum();
        let doubt = r.doubt;
        let r = self.parts.get_mut(&id).expect("seen");
        r.end = Some(cuts[0].0.clone());
        r.estimate = cuts[0].1.max(self.page * 0.3);
        (r.doubt, r.surprises) = (0, 0);
        if end.is_none() || doubt > 0 {
            self.cuts += cuts.iter().filter(|c| !c.0.ends_with('/')).count() as u64;
        }
        for i in 0..cuts.len() {
            let (to, mass) = cuts.get(i + 1).map_or((end.clone(), total), |c| (Some(c.0.clone()), c.1));
            let last = i + 1 == cuts.len();
            self.insert(cuts[i].0.clone(), to, (mass - cuts[i].1).max(1.0), if last { doubt } else { 0 });
        }
        cuts.len()
    }
}
