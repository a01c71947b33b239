//! What a gap between two listed names probably holds, and where to cut it.

use std::ops::{Bound, Range};

use super::super::alphabet::{AlphabetTrust, CharPlace, CharSpan, clip, locate, scale, scale_down};
use super::{KeySpace, char_at, common_prefix, count_slashes, level_index};

/// How many more objects are likely in a folder of numbers, as a fraction of those it has held so far.
const MORE_OF_A_RUN: f64 = 0.5;

/// Characters behind the place where a page's names part that are looked at.
const MAX_DEPTH_BELOW: usize = 10;

/// Objects for each unit of weight above which numbers are no guide any more.
const MAX_UNIT: f64 = 1e10;

/// The last page before a gap.
#[derive(Clone, Debug)]
pub(in crate::list) struct Density {
    pub first: String,
    pub last: String,
    pub items: f64,
}

/// The names of a range that are not listed yet.
#[derive(Clone, Copy, Debug)]
pub(in crate::list) struct Gap<'a> {
    /// The last name listed, or where the range begins.
    pub low: &'a str,
    /// Where the gap ends, exclusive; `None` at the end of the listing.
    pub end: Option<&'a str>,
    pub density: Option<&'a Density>,
    /// The latest estimate of the objects in the gap. It is used where the last page shows no density.
    pub share: f64,
    /// How many cuts at the gap's end turned out to have no objects behind them.
    pub doubt: u32,
    /// Objects listed so far in the folder of `low`.
    pub folder_objects: f64,
}

/// A part of a gap.
#[derive(Debug)]
pub(in crate::list) struct GapSegment {
    /// Objects that the segment probably holds.
    pub mass: f64,
    /// Whether the names in the segment are as good as known to exist.
    pub is_sure: bool,
    kind: SegmentKind,
}

#[derive(Debug)]
enum SegmentKind {
    Node(NameNode),
    /// What begins with a real name.
    Mark(String),
}

/// Names that begin with `prefix` and a character of one of the spans.
#[derive(Debug)]
struct NameNode {
    prefix: String,
    place: CharPlace,
    spans: Vec<CharSpan>,
}

impl GapSegment {
    fn mark_at(name: &str, mass: f64, is_sure: bool) -> Self {
        Self { mass, is_sure, kind: SegmentKind::Mark(name.into()) }
    }

    /// The real name that the segment begins with, if it does.
    pub(in crate::list) fn mark(&self) -> Option<&str> {
        match &self.kind {
            SegmentKind::Mark(name) => Some(name),
            SegmentKind::Node(_) => None,
        }
    }

    /// Whether the segment's names are below a folder.
    pub(in crate::list) fn is_below(&self, folder: &str) -> bool {
        match &self.kind {
            SegmentKind::Node(node) => node.prefix.starts_with(folder),
            SegmentKind::Mark(name) => name.starts_with(folder),
        }
    }
}

/// A character of the name at a gap's low end. Its index is called its depth.
struct NameChar {
    at: usize,
    c: char,
    place: CharPlace,
}

/// A gap without known folders in it.
struct FlatGap<'a> {
    gap: Gap<'a>,
    chars: Vec<NameChar>,
    /// The page before the gap, if its names differ.
    dense: Option<&'a Density>,
    /// Depth at which the low end and the gap's end part; `None` without an end.
    end_depth: Option<usize>,
    /// Depth at which the low end and the first known name behind the gap part.
    next_depth: Option<usize>,
    /// Depth at which the names of the page before the gap part.
    dense_depth: usize,
    /// Folders along the low end whose sub-folders there are all known: from the parent's end to the folder's slash.
    covered: Vec<Range<usize>>,
}

impl FlatGap<'_> {
    /// The depth from which on all names are before the gap's end.
    fn depth_within(&self) -> usize {
        self.end_depth.map_or(0, |depth| depth + 1)
    }

    fn is_covered(&self, at: usize) -> bool {
        self.covered.iter().any(|covered| covered.start <= at && at <= covered.end)
    }

    /// Whether a place is in the token in which the page's names part.
    fn is_in_dense_token(&self, place: CharPlace) -> bool {
        self.chars[self.dense_depth].place.same_token(place)
    }
}

/// Objects for each unit of weight, by depth, and how much guesses at each depth count for.
struct DepthUnits {
    unit: Vec<f64>,
    prior: Vec<f64>,
}

impl KeySpace {
    /// Segments by the cuts of an earlier listing; none where there is no such cut in the gap.
    fn earlier_segments(&self, gap: &Gap<'_>) -> Vec<GapSegment> {
        let first = self.earlier.partition_point(|cut| cut.name.as_str() <= gap.low);
        let end = gap.end.map_or(self.earlier.len(), |end| self.earlier.partition_point(|cut| cut.name.as_str() < end));
        let mut out = vec![];
        if first >= end {
            return out;
        }
        let before_first = first.checked_sub(1).map_or(0.0, |index| self.earlier[index].before);
        let objects_to_first = self.earlier[first].before - before_first;
        if first > 0 {
            out.push(GapSegment::mark_at(gap.low, objects_to_first * 0.5, false));
        }
        let step = ((end - first) / 256).max(1);
        for index in (first..end).step_by(step) {
            let next = (index + step).min(end - 1);
            let mass = if next > index {
                self.earlier[next].before - self.earlier[index].before
            } else {
                objects_to_first.max(1.0)
            };
            out.push(GapSegment::mark_at(&self.earlier[index].name, mass, true));
        }
        out
    }

    /// The gap's segments, in order.
    pub(in crate::list) fn segments(&self, gap: &Gap<'_>) -> Vec<GapSegment> {
        let mut out = self.earlier_segments(gap);
        if !out.is_empty() {
            return out;
        }

        let upper = gap.end.map_or(Bound::Unbounded, |end| Bound::Excluded(end.to_string()));
        let marks: Vec<_> = self.marks.range((Bound::Excluded(gap.low.to_string()), upper)).collect();
        let Some(&(first, has_no_objects_before)) = marks.first() else {
            self.push_flat(gap, &mut out);
            return out;
        };
        // Up to the first folder the gap is flat. Where only folders are before it, the flat part ends with the folder
        // of the gap's low end.
        let mut end = first.clone();
        let parent = first[..first.len() - 1].rfind('/').map_or(self.prefix.len(), |slash| slash + 1);
        let parent = parent.max(self.prefix.len());
        if *has_no_objects_before
            && gap.low.starts_with(&first[..parent])
            && let Some(length) = gap.low[parent..].find('/')
        {
            end = end.min(format!("{}0", &gap.low[..parent + length]));
        }
        self.push_flat(&Gap { end: Some(&end), ..*gap }, &mut out);

        for (index, (mark, _)) in marks.iter().enumerate() {
            // A folder whose sub-folders follow is counted by these.
            let is_parent = marks.get(index + 1).is_some_and(|(next, _)| next.starts_with(mark.as_str()));
            let level = count_slashes(&mark.as_bytes()[self.prefix.len()..]) - 1;
            let mass = if is_parent { 1.0 } else { self.level_mass(level) };
            out.push(GapSegment::mark_at(mark, mass, true));
        }
        out
    }

    fn flat_gap<'a>(&self, gap: &Gap<'a>) -> Option<FlatGap<'a>> {
        let base = self.prefix.len();
        let low = gap.low;
        let mut chars = vec![];
        let mut place = self.origin;
        for (at, c) in low[base.min(low.len())..].char_indices() {
            chars.push(NameChar { at: base + at, c, place });
            place = place.after(c);
        }
        if chars.is_empty() {
            return None;
        }
        let depth_of = |byte: usize| chars.partition_point(|c| c.at < byte);
        let end_depth = gap.end.map(|end| depth_of(common_prefix(low, end)));

        let next = gap.end.and_then(|end| {
            let bounds = (Bound::Included(end), Bound::Unbounded);
            let name = self.first_names.range::<str, _>(bounds).next();
            let mark = self.marks.range::<str, _>(bounds).next().map(|(mark, _)| mark);
            name.into_iter().chain(mark).min()
        });
        let next_depth = next.map(|next| depth_of(common_prefix(low, next)));

        let dense = gap.density.filter(|density| density.first < density.last && density.items > 1.0);
        let dense_depth = match dense {
            Some(density) => depth_of(common_prefix(&density.first, &density.last)),
            None => end_depth.unwrap_or(0),
        };
        let covered = low
            .match_indices('/')
            .filter_map(|(slash, _)| {
                let parent = low[..slash].rfind('/').map_or(base, |at| at + 1).max(base);
                let known = self.known.get(&low[..parent])?;
                let is_behind_start = low[..slash] >= known.from[..known.from.len().saturating_sub(1)];
                let is_before_end = known.to.as_ref().is_none_or(|to| low[..=slash] < **to);
                (is_behind_start && is_before_end).then_some(parent..slash)
            })
            .collect();
        let dense_depth = dense_depth.min(chars.len() - 1);
        Some(FlatGap { gap: *gap, chars, dense, end_depth, next_depth, dense_depth, covered })
    }

    /// Whether all characters of the alphabet are expected at a depth.
    fn is_sure_at(&self, flat: &FlatGap<'_>, depth: usize) -> bool {
        let place = flat.chars[depth].place;
        let is_random = || self.random.contains(&place.token_place()) && flat.is_in_dense_token(place);
        let is_before_next = || {
            flat.next_depth
                .is_some_and(|next| depth >= next && flat.chars.get(next).is_some_and(|c| place.same_token(c.place)))
        };
        (depth > flat.depth_within() || flat.gap.doubt == 0) && (is_random() || is_before_next())
    }

    fn depth_units(&self, flat: &FlatGap<'_>) -> DepthUnits {
        let FlatGap { chars, dense_depth, .. } = flat;
        let dense_depth = *dense_depth;
        let mut spans = vec![];
        let deepest = chars.len().min(dense_depth + MAX_DEPTH_BELOW);
        let deepest = deepest.max(flat.end_depth.map_or(0, |depth| (depth + 1).min(chars.len())));
        let mut unit = vec![0.0; deepest.max(dense_depth + 1)];
        let at_dense = &chars[dense_depth];
        unit[dense_depth] = if let Some(density) = flat.dense {
            density.items / self.weight_of_page(density, at_dense, &mut spans).max(1e-12)
        } else {
            let total = self.spans(at_dense.place, Some(at_dense.c), AlphabetTrust::DEFAULT_GUESS, &mut spans);
            flat.gap.share.min(MAX_UNIT) / total.max(1.0)
        };
        for depth in dense_depth + 1..unit.len() {
            let NameChar { c, place, .. } = chars[depth];
            let total = self.spans(place, Some(c), AlphabetTrust::DEFAULT_GUESS, &mut spans);
            unit[depth] = unit[depth - 1] / total.max(1.0);
        }

        // Above, each unit holds all children below it.
        let mut without_siblings = 0;
        let mut prior = vec![1.0; unit.len()];
        for depth in (0..dense_depth).rev() {
            let NameChar { c, place, .. } = chars[depth + 1];
            without_siblings += i32::from(!self.has_siblings(place));
            prior[depth] = 0.75f64.powi(without_siblings);
            let is_sure = self.is_sure_at(flat, depth + 1) && unit[depth + 1] < 1e8;
            let trust = if is_sure { AlphabetTrust::Sure } else { AlphabetTrust::DEFAULT_GUESS };
            let mut total = self.spans(place, Some(c), trust, &mut spans);
            if !is_sure {
                let located = locate(&spans, c);
                let seen = if flat.is_in_dense_token(place) { located.before + located.own } else { 0.0 };
                total = total.min(1.0 + self.expected_siblings(place) * prior[depth]).max(seen);
            }
            unit[depth] = (unit[depth + 1] * total.max(1.0)).min(MAX_UNIT);
            if chars[depth].c == '/' {
                unit[depth] = self.level_mass(chars[depth].place.slashes as usize);
            }
        }
        DepthUnits { unit, prior }
    }

    /// The weight of the names of a page, which part at a character.
    fn weight_of_page(&self, density: &Density, parts: &NameChar, spans: &mut Vec<CharSpan>) -> f64 {
        let Density { first, last, .. } = density;
        let &NameChar { at, place, .. } = parts;
        // Two names that part in a script of which nothing was seen would coincide in spans of their own. ASCII letters
        // have weights of their own.
        let unseen = char_at(first, at).filter(|c| !c.is_ascii());
        let also = char_at(last, at).into_iter().chain(unseen);
        let total = self.spans(place, also, AlphabetTrust::DEFAULT_GUESS, spans);
        if unseen.is_some() {
            let [from, to] = [first, last].map(|name| self.weight_before(spans, name, at, place, 6));
            to - from
        } else {
            (self.fraction_before(last, at, place, 6) - self.fraction_before(first, at, place, 6)) * total
        }
    }

    /// Adds the segments of a gap without known folders.
    fn push_flat(&self, gap: &Gap<'_>, out: &mut Vec<GapSegment>) {
        let Some(flat) = self.flat_gap(gap) else { return };
        let units = self.depth_units(&flat);
        self.push_siblings(&flat, &units, out);
        self.push_before_end(&flat, &units, out);
    }

    /// Adds the siblings behind each character of the gap's low end, from the deepest up.
    fn push_siblings(&self, flat: &FlatGap<'_>, DepthUnits { unit, prior }: &DepthUnits, out: &mut Vec<GapSegment>) {
        let (gap, chars) = (&flat.gap, &flat.chars);
        let dense_char = &chars[flat.dense_depth];
        let slash = gap.low[self.prefix.len()..].rfind('/').map(|at| self.prefix.len() + at);
        let doubt = 0.4f64.powi(gap.doubt as i32);
        // The character of the gap's end where that and the low end part.
        let end_char =
            gap.end.zip(flat.end_depth).and_then(|(end, depth)| chars.get(depth).and_then(|c| char_at(end, c.at)));

        // A run of numbers is likely to continue for as long as it has lasted.
        let is_number = slash.is_some()
            && self
                .tokens
                .get(&dense_char.place.token_place())
                .is_some_and(|all| all.seen.iter().all(char::is_ascii_digit));
        let run = if is_number { MORE_OF_A_RUN * gap.folder_objects } else { 0.0 };
        let (mut passed, mut ahead) = (0.0, 0.0);

        let first_segment = out.len();
        let mut spans = vec![];
        let mut in_folder = slash.is_some();
        for depth in (flat.depth_within().saturating_sub(1)..unit.len()).rev() {
            let &NameChar { at, c, place } = &chars[depth];
            if in_folder && slash.is_some_and(|slash| at <= slash) {
                in_folder = false;
                self.limit_folder(&mut out[first_segment..], gap.folder_objects, place.slashes as usize);
            }
            let is_end_depth = flat.end_depth == Some(depth);
            let below = if is_end_depth { end_char } else { None };
            let is_known = flat.is_covered(at);
            let is_sure = !is_known
                && (self.is_sure_at(flat, depth) && unit[depth] < 1e8
                    || is_end_depth && gap.doubt == 0 && flat.next_depth == Some(depth));

            let trust = if is_sure { AlphabetTrust::Sure } else { AlphabetTrust::DEFAULT_GUESS };
            self.spans(place, Some(c), trust, &mut spans);
            let mut siblings = clip(&spans, Some(c), below);
            let mut is_strong = is_sure;
            if !is_sure {
                let has_siblings = self.has_siblings(place);
                let mut likely = self.expected_siblings(place) * if has_siblings { 1.0 } else { prior[depth] };
                is_strong = has_siblings;
                if is_end_depth {
                    likely *= doubt;
                }
                if place.same_token(dense_char.place) && flat.dense.is_some() {
                    passed += unit[depth] * locate(&spans, c).before;
                    let as_many_again = (passed.max(run) - ahead) / unit[depth];
                    is_strong |= as_many_again >= likely;
                    likely = likely.max(as_many_again);
                }
                let mut all = vec![];
                self.spans(place, Some(c), AlphabetTrust::Sure, &mut all);
                let room: f64 = clip(&all, Some(c), below).iter().map(|span| span.weight).sum();
                if is_known {
                    likely = 0.0;
                }
                let likely = likely.min(room);
                scale(&mut siblings, likely);
                ahead += unit[depth] * likely;
                is_strong = !is_known && is_strong && likely >= 0.5 * room;
            }
            let node = NameNode { prefix: gap.low[..at].into(), place, spans: siblings };
            self.push_node(node, unit[depth], is_strong, out);
        }
    }

    /// Adds what is before the gap's end, below the character where the end and the low end part.
    fn push_before_end(&self, flat: &FlatGap<'_>, units: &DepthUnits, out: &mut Vec<GapSegment>) {
        let (Some(depth), Some(end)) = (flat.end_depth, flat.gap.end) else { return };
        let Some(&unit) = units.unit.get(depth) else { return };
        let is_sure = flat.gap.doubt == 0 && (self.is_sure_at(flat, depth) || flat.next_depth == Some(depth));
        let NameChar { at: parts_at, mut place, .. } = flat.chars[depth];
        let (mut unit, mut at) = (unit, parts_at);
        let mut spans = vec![];
        for (number, c) in end[at..].chars().enumerate() {
            let is_covered = flat.covered.iter().any(|covered| {
                covered.start <= parts_at && parts_at <= covered.end && !end[covered.start..at].contains('/')
            });
            if number > 0 && !is_covered {
                let total = self.spans(place, Some(c), AlphabetTrust::DEFAULT_GUESS, &mut spans);
                unit /= total.max(1.0);
                let mut before = clip(&spans, None, Some(c));
                if !is_sure {
                    scale_down(&mut before, self.expected_siblings(place));
                }
                self.push_node(NameNode { prefix: end[..at].into(), place, spans: before }, unit, is_sure, out);
            }
            at += c.len_utf8();
            place = place.after(c);
            if number > 8 || unit < self.min_mass() {
                break;
            }
        }
    }

    /// Objects below which a segment isn't worth a place in the list.
    fn min_mass(&self) -> f64 {
        self.page * 0.01
    }

    fn push_node(&self, node: NameNode, unit: f64, is_sure: bool, out: &mut Vec<GapSegment>) {
        let mass = unit * node.spans.iter().map(|span| span.weight).sum::<f64>();
        if mass > self.min_mass() {
            out.push(GapSegment { mass, is_sure, kind: SegmentKind::Node(node) });
        }
    }

    /// Limits the rest of a folder to what folders of its level hold on average; where the folder has more than that
    /// already, or none has ended yet, to twice as many objects as it has held so far.
    fn limit_folder(&self, rest: &mut [GapSegment], seen: f64, level: usize) {
        let ends = self.folder_ends[level_index(level)];
        let mean = if ends >= 3.0 { self.items / ends } else { 0.0 };
        let most = if mean > seen { mean - seen } else { 2.0 * seen };
        let sum: f64 = rest.iter().map(|segment| segment.mass).sum();
        if sum > most {
            for segment in rest {
                segment.mass *= most / sum;
            }
        }
    }

    /// The name before which `mass` objects of a segment are. Characters are added to it until its last one stands for
    /// fewer objects than `precision`.
    pub(in crate::list) fn name_at(&self, segment: &GapSegment, mass: f64, precision: f64) -> String {
        let node = match &segment.kind {
            SegmentKind::Mark(name) => return name.clone(),
            SegmentKind::Node(node) => node,
        };
        let mut name = node.prefix.clone();
        let (mut spans, mut place) = (node.spans.clone(), node.place);
        let (mut left, mut own) = (mass, segment.mass);
        for _ in 0..8 {
            let total: f64 = spans.iter().map(|span| span.weight).sum();
            if total <= 0.0 {
                break;
            }
            let Some(CharAtWeight { c, weight, rest }) = char_at_weight(&spans, left / own * total) else { break };
            name.push(c);
            place = place.after(c);
            own *= weight / total;
            left = (rest / weight).min(1.0) * own;
            if !segment.is_sure || own < precision || left < precision * 0.5 && own < 2.0 * precision {
                break;
            }
            let Some(alphabet) = self.alphabet(place) else { break };
            if alphabet.seen.len() > 1 && self.expected_siblings(place) < 0.3 {
                break;
            }
            let is_same_token = place.same_token(node.place);
            let trust = if is_same_token { AlphabetTrust::Sure } else { AlphabetTrust::Guess(0.0) };
            self.spans(place, None, trust, &mut spans);
        }
        name
    }
}

struct CharAtWeight {
    c: char,
    /// The character's own weight.
    weight: f64,
    /// The part of its weight that is before the point looked for.
    rest: f64,
}

/// The character in which the running sum of weights reaches `wanted`.
fn char_at_weight(spans: &[CharSpan], mut wanted: f64) -> Option<CharAtWeight> {
    for span in spans {
        if wanted < span.weight {
            let chars = span.chars();
            let weight = span.weight / chars;
            let step = (wanted / weight).floor().min(chars - 1.0);
            let c = char::from_u32(span.low as u32 + step as u32).unwrap_or('\u{E000}');
            return Some(CharAtWeight { c, weight, rest: (wanted - step * weight).max(0.0) });
        }
        wanted -= span.weight;
    }
    None
}
