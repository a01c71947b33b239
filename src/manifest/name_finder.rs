//! Finds objects by their names.

use std::cmp::Ordering;

use super::table::{ChunkTable, TableCursor};

/// Names that are read in order before the finder looks further ahead. The parts of neighbouring samples are
/// neighbours, so that nearly all names are found within these.
const LINEAR_STEPS: usize = 8;

/// Finds names in a table, which is sorted. A search begins where the last one ended, and takes as many steps as the
/// distance has bits.
pub(super) struct NameFinder<'a> {
    table: &'a ChunkTable,
    cursor: TableCursor<'a>,
    /// Index of the object after the last one that was found or passed.
    at: u64,
    /// The name of that last one, if it is known.
    last: String,
    is_last_known: bool,
}

/// The bytes of a table are invalid at this index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidEntry(pub(super) u64);

impl<'a> NameFinder<'a> {
    pub(super) fn new(table: &'a ChunkTable) -> Self {
        Self { table, cursor: TableCursor::new(table), at: 0, last: String::new(), is_last_known: false }
    }

    /// The index of the object with this whole name.
    pub(super) fn find(&mut self, name: &str) -> Result<Option<u64>, InvalidEntry> {
        if self.at > 0 && self.is_last_at_or_behind(name)? {
            // The name comes before those that were read last.
            let low = self.gallop_back(self.at - 1, name)?;
            self.jump(low);
        }
        for _ in 0..LINEAR_STEPS {
            if self.cursor.is_at_end() {
                return Ok(None);
            }
            let entry = self.cursor.next().ok_or(InvalidEntry(self.at))?;
            let order = entry.name.cmp(name);
            if order.is_gt() {
                // This name may be the next one that is asked for.
                self.jump(self.at);
                return Ok(None);
            }
            self.last.clear();
            self.last.push_str(entry.name);
            self.is_last_known = true;
            self.at += 1;
            if order.is_eq() {
                return Ok(Some(self.at - 1));
            }
        }

        let index = self.gallop_ahead(self.at, name)?;
        let is_found = index < self.table.rows() && self.compare(index, name)?.is_eq();
        self.jump(index + u64::from(is_found));
        Ok(is_found.then_some(index))
    }

    /// The index of the first object at or behind `name`, which is not before `low`.
    fn gallop_ahead(&self, low: u64, name: &str) -> Result<u64, InvalidEntry> {
        let (mut low, mut step) = (low, LINEAR_STEPS as u64);
        while low + step < self.table.rows() && self.compare(low + step, name)?.is_lt() {
            low += step;
            step *= 2;
        }
        self.first_not_before(low, (low + step).min(self.table.rows()), name)
    }

    /// The index of the first object at or behind `name`, which is at `high` at the latest.
    fn gallop_back(&self, high: u64, name: &str) -> Result<u64, InvalidEntry> {
        let (mut high, mut step) = (high, 1);
        while high >= step && self.compare(high - step, name)?.is_ge() {
            high -= step;
            step *= 2;
        }
        self.first_not_before(high.saturating_sub(step), high, name)
    }

    /// The index of the first object from `low` on that is not before `name`; `high` if there is none before that.
    fn first_not_before(&self, low: u64, high: u64, name: &str) -> Result<u64, InvalidEntry> {
        let (mut low, mut high) = (low, high);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.compare(middle, name)?.is_lt() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn is_last_at_or_behind(&self, name: &str) -> Result<bool, InvalidEntry> {
        if self.is_last_known { Ok(*self.last >= *name) } else { Ok(self.compare(self.at - 1, name)?.is_ge()) }
    }

    fn compare(&self, index: u64, name: &str) -> Result<Ordering, InvalidEntry> {
        self.table.compare_name(index, name.as_bytes()).ok_or(InvalidEntry(index))
    }

    fn jump(&mut self, index: u64) {
        self.is_last_known &= self.at == index;
        self.at = index;
        self.cursor.seek(index);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::tests::{manifest, object};

    fn found(names: &[String], wanted: &[String]) -> Vec<Option<u64>> {
        let objects: Vec<_> = names.iter().map(|name| object(name, 1)).collect();
        let manifest = manifest(&objects);
        let mut finder = NameFinder::new(&manifest.growth.objects);
        wanted.iter().map(|name| finder.find(name).unwrap()).collect()
    }

    #[test]
    fn numbers_without_leading_zeros_are_found_although_their_parts_are_in_another_order() {
        // `1.png` comes before `10.png`, but `1_mask.png` behind all of `10_mask.png` to `19999_mask.png`.
        let mut names: Vec<_> = (0..20_000).map(|number| format!("p/{number}_mask.png")).collect();
        let mut wanted = names.clone();
        names.sort();
        wanted.sort_by_key(|name| name.replace("_mask", ""));
        let indexes = found(&names, &wanted);
        assert!(indexes.iter().zip(&wanted).all(|(index, name)| names[index.unwrap() as usize] == *name));
        assert!(!indexes.is_sorted());
    }

    proptest! {
        #[test]
        fn any_names_in_any_order_are_found_as_by_a_map(
            numbers in prop::collection::btree_set(0u32..30_000, 1..9_000),
            wanted in prop::collection::vec(0u32..30_000, 0..300),
            is_sorted: bool,
        ) {
            let name = |number: &u32| format!("p/{number:05}");
            let names: Vec<_> = numbers.iter().map(name).collect();
            let mut wanted: Vec<_> = wanted.iter().map(name).collect();
            if is_sorted {
                wanted.sort();
            }
            let expected: Vec<_> = wanted.iter().map(|name| names.binary_search(name).ok().map(|at| at as u64)).collect();
            prop_assert_eq!(found(&names, &wanted), expected);
        }
    }
}
