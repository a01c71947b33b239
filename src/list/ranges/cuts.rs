//! Where ranges are cut, so that idle calls have work: how many objects a range probably holds, and at which names to
//! divide it.

use super::super::keyspace::{Gap, GapSegment, common_prefix};
use super::{KeyRange, ListCall, MIN_PAGES_TO_CUT, Ranges};

/// Most folders along the first page's last name whose siblings are asked for.
const MAX_FOLDER_CALLS: usize = 6;

/// Most pieces that the page behind the first one is cut into.
const MAX_FIRST_PIECES: usize = 7;

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 1_024;

/// How finely a range is cut.
#[derive(Clone, Copy)]
struct PieceSizes {
    /// How exactly a cut is placed: its name is lengthened until its last character stands for fewer objects than this.
    precision: f64,
    /// Objects that a guess leaves before its cut.
    least: f64,
}

/// A place to cut.
struct PlannedCut {
    name: String,
    /// Estimated objects between the range's low end and this name.
    objects_before: f64,
}

impl Ranges {
    fn gap_segments(&self, range: &KeyRange) -> Vec<GapSegment> {
        let mut segments = self.space.segments(&Gap {
            low: range.last.as_deref().unwrap_or(&range.low),
            end: range.end.as_deref(),
            density: range.density.as_ref(),
            share: range.estimate,
            doubt: range.failed_cuts_at_end,
            folder_objects: range.folder_objects,
        });
        // A range that had more objects than estimated several times is likely to have more again. The estimate reaches
        // the size that allows a cut after four full pages. With two, some kinds of names took up to 13% more calls,
        // and with three up to 10% more time.
        let least = self.page * f64::from(range.surprises.min(8)).exp2() * 0.125;
        let mass = total_mass(&segments);
        if range.surprises > 0 && mass < least && mass > 0.0 {
            for segment in &mut segments {
                segment.mass *= least / mass;
            }
        }
        segments
    }

    /// Estimates again how many objects a range holds.
    pub(super) fn estimate(&mut self, id: u64) {
        let range = &self.open[&id];
        if !range.is_answered {
            return;
        }
        let mass = total_mass(&self.gap_segments(range));
        let estimate = if mass.is_finite() { mass.clamp(self.page * 0.5, 1e12) } else { self.page };
        if let Some(range) = self.open.get_mut(&id) {
            range.estimate = estimate;
        }
    }

    /// After the first page: asks for the folders along its last name, and cuts the next page into small pieces, where
    /// the limit leaves room for these calls.
    pub(super) fn cut_first_range(&mut self, idle: usize) {
        let Some((&id, range)) = self.open.first_key_value() else { return };
        let Some(last) = range.last.clone() else { return };

        let first = range.density.as_ref().map(|density| density.first.clone()).unwrap_or_default();
        let common = common_prefix(&first, &last);
        let mut at = self.prefix.len();
        let mut parent = self.prefix.clone();
        let mut folder_calls = vec![];
        while let Some(length) = last[at..].find('/') {
            let slash = at + length;
            if slash < common || self.space.folder_mass(&last[..=slash]) > 50.0 {
                folder_calls.push(ListCall {
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
        folder_calls.drain(..folder_calls.len().saturating_sub(MAX_FOLDER_CALLS));
        let room = idle.saturating_sub(folder_calls.len()).min(self.guesses_allowed());
        self.folder_calls = folder_calls;

        let pieces = room.min(MAX_FIRST_PIECES);
        if pieces < 2 {
            return;
        }
        let mut segments = self.gap_segments(&self.open[&id]);
        let total = total_mass(&segments);
        let sure: f64 = segments.iter().filter(|segment| segment.is_sure).map(|segment| segment.mass).sum();
        let mut before = 0.0;
        for segment in &mut segments {
            segment.is_sure |= before < self.page * 0.9;
            before += segment.mass;
        }
        let mut targets: Vec<f64> =
            (1..=pieces).map(|piece| (self.page * piece as f64 / pieces as f64).min(total * 0.98)).collect();
        targets.dedup();

        // Where many pages are likely, the range is divided evenly instead.
        if sure > 3.0 * self.page {
            let count = ((sure / self.page) as usize).min(room);
            let (first, share) = (self.page * 0.97, (total - self.page * 0.97) / (count as f64 + 1.0));
            let skipped = if count == room { 1.0 } else { 0.0 };
            targets = (0..count).map(|piece| first + share * (piece as f64 + skipped)).collect();
        }

        // What room is left goes to guesses behind the next page, in the folder of the last name.
        let mut left = room.saturating_sub(targets.len());
        let mut before = 0.0;
        for segment in &segments {
            if before > self.page * 1.2 && !segment.is_sure && left > 0 && segment.is_below(&parent) {
                targets.push(before + 1e-6);
                left -= 1;
            }
            before += segment.mass;
        }
        let sizes = PieceSizes { precision: self.page / pieces as f64 / 4.0, least: 0.0 };
        self.cut(id, &segments, &targets, sizes);
    }

    /// How many more guessed cuts are worth a call, by what was seen: full pages pay for guesses, and calls that end
    /// without an object take them back.
    fn guesses_allowed(&self) -> usize {
        (6 + 6 * self.pages_with_next).saturating_sub(3 * self.empty_ends + self.guessed_cuts) as usize
    }

    /// Cuts the ranges with the most objects until `free` more ranges wait, or none is worth a cut.
    pub(super) fn cut_largest(&mut self, mut free: usize, limit: usize) {
        let estimates = self.open.values().map(|range| range.estimate);
        let total: f64 = estimates.filter(|estimate| estimate.is_finite()).sum();
        let fair = (total / limit as f64).max(self.page * 0.92);
        while free > 0 {
            // Objects behind the page that is in flight.
            let left = |range: &KeyRange| range.estimate - if range.in_flight { self.page } else { 0.0 };
            let largest = self
                .open
                .iter()
                .filter(|(_, range)| !range.is_uncuttable && range.empty_pages == 0)
                .filter(|(_, range)| range.is_answered || self.has_earlier)
                .max_by(|a, b| left(a.1).total_cmp(&left(b.1)));
            let Some((&id, range)) = largest else { return };
            if left(range) < self.page * MIN_PAGES_TO_CUT {
                return;
            }

            let skip = if range.is_answered { self.page * 0.97 } else { 0.0 };
            let rest = range.estimate - skip;
            let pieces = ((rest / fair).ceil() as usize).clamp(1, free);
            // The range keeps the page that it is at, and a share of the rest where there is more than others can take.
            let takes_share = pieces == free && rest > fair * (pieces as f64 + 1.0);
            let skip = if takes_share { skip + rest / (pieces as f64 + 1.0) } else { skip };

            let segments = self.gap_segments(range);
            let is_open = !self.has_earlier
                && (range.end.is_none() || range.failed_cuts_at_end > 0)
                && segments.iter().all(|segment| segment.mark().is_none());
            let pieces = if is_open { pieces.min(self.guesses_allowed().max(1)) } else { pieces };
            let total = total_mass(&segments);
            let skip = skip.min(total * 0.5);
            let targets: Vec<f64> =
                (0..pieces).map(|piece| skip + (total - skip) * piece as f64 / pieces as f64).collect();
            let sizes = PieceSizes { precision: self.page * 0.3, least: self.page * 0.5 };
            let made = self.cut(id, &segments, &targets, sizes);
            if made == 0
                && let Some(range) = self.open.get_mut(&id)
            {
                range.is_uncuttable = true;
            }
            free = free.saturating_sub(made);
        }
    }

    /// Cuts a range near the given numbers of objects from its low end. Returns how many ranges that made.
    fn cut(&mut self, id: u64, segments: &[GapSegment], targets: &[f64], sizes: PieceSizes) -> usize {
        let cuts = self.plan_cuts(&self.open[&id], segments, targets, sizes);
        let Some(first) = cuts.first() else { return 0 };

        let range = self.open.get_mut(&id).expect("the caller chose the range");
        let (end, doubt) = (range.end.replace(first.name.clone()), range.failed_cuts_at_end);
        range.estimate = first.objects_before.max(self.page * 0.3);
        (range.failed_cuts_at_end, range.surprises) = (0, 0);
        if end.is_none() || doubt > 0 {
            self.guessed_cuts += cuts.iter().filter(|cut| !cut.name.ends_with('/')).count() as u64;
        }

        let (made, total) = (cuts.len(), total_mass(segments));
        let mut cuts = cuts.into_iter().peekable();
        while let Some(PlannedCut { name, objects_before }) = cuts.next() {
            let (to, mass, doubt) = match cuts.peek() {
                Some(next) => (Some(next.name.clone()), next.objects_before, 0),
                None => (end.clone(), total, doubt),
            };
            self.insert(name, to, (mass - objects_before).max(1.0), doubt);
        }
        made
    }

    /// The names to cut a range at, in order.
    fn plan_cuts(
        &self,
        range: &KeyRange,
        segments: &[GapSegment],
        targets: &[f64],
        sizes: PieceSizes,
    ) -> Vec<PlannedCut> {
        let low = range.last.as_deref().unwrap_or(&range.low);
        let mut cuts: Vec<PlannedCut> = vec![];
        let fits = |name: &str, cuts: &[PlannedCut]| {
            name > cuts.last().map_or(low, |cut| cut.name.as_str())
                && range.end.as_deref().is_none_or(|end| name < end)
                && !self.by_low.contains_key(name)
        };

        // Real names, and the objects before them.
        let mut marks = vec![];
        let mut total = 0.0;
        for segment in segments {
            marks.extend(segment.mark().map(|mark| (total, mark)));
            total += segment.mass;
        }
        let piece = if let [first, second, ..] = targets {
            second - first
        } else {
            total - targets.first().copied().unwrap_or(0.0)
        };

        // Few pages are no ground for many guesses.
        let max_guesses = (4 + self.pages_with_next).min(12).min(self.guesses_allowed().max(1) as u64);
        let mut guesses = 0;
        let (mut at, mut before) = (0, 0.0);
        // Guesses in the segment at this index.
        let mut guesses_there = (usize::MAX, 0);
        for &target in targets {
            // A real name nearby is better than a guess.
            let near = marks.partition_point(|(objects, _)| *objects < target);
            let nearest = [near.checked_sub(1), Some(near)]
                .into_iter()
                .filter_map(|index| marks.get(index?))
                .filter(|(objects, _)| (objects - target).abs() < piece * 0.5)
                .min_by(|a, b| (a.0 - target).abs().total_cmp(&(b.0 - target).abs()));
            if let Some(&(objects_before, mark)) = nearest {
                if fits(mark, &cuts) && !mark.contains(['\r', '\n']) {
                    cuts.push(PlannedCut { name: mark.to_owned(), objects_before });
                }
                continue;
            }

            while at < segments.len() && before + segments[at].mass < target {
                before += segments[at].mass;
                at += 1;
            }
            let Some(segment) = segments.get(at) else { break };
            if !segment.is_sure {
                if guesses_there.0 != at {
                    guesses_there = (at, 0);
                }
                guesses_there.1 += 1;
                if guesses_there.1 > 2 || guesses >= max_guesses {
                    continue;
                }
                guesses += 1;
            }
            let mass = if segment.is_sure {
                target - before
            } else if guesses_there.1 == 1 && before > sizes.least {
                0.0
            } else {
                (target - before).max(sizes.least - before).min(segment.mass * 0.999)
            };
            let name = self.space.name_at(segment, mass, sizes.precision);
            let is_legal = name.len() <= MAX_NAME_BYTES
                && name.starts_with(&self.prefix)
                // The beginning of real names is legal; what a guess adds to it should be harmless.
                && !name[common_prefix(&name, low)..].contains(char::is_control);
            if is_legal && fits(&name, &cuts) {
                cuts.push(PlannedCut { name, objects_before: target });
            }
        }
        cuts
    }
}

fn total_mass(segments: &[GapSegment]) -> f64 {
    segments.iter().map(|segment| segment.mass).sum()
}
