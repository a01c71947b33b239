//! Targets of a table's columns: functions of samples.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::bail;
use serde_json::Value;

use super::label_table::LabelTable;
use super::rows::shortened;
use crate::manifest::ClassMap;
use crate::read::RawSample;
use crate::{Error, Result};

impl LabelTable {
    /// A function that returns the number of a sample in this column, for regression.
    ///
    /// # Errors
    /// There is no such column, or a cell is neither a finite number nor empty; the error names line and column. The
    /// function fails for a sample without a row or with an empty cell.
    pub fn number(
        &self,
        column: &str,
    ) -> Result<impl Fn(&RawSample) -> anyhow::Result<f32> + Clone + Send + Sync + 'static + use<>> {
        let index = self.column(column)?;
        let numbers: Vec<f32> = (0..self.len())
            .map(|row| {
                let cell = self.rows.cell(row, index).trim();
                if cell.is_empty() {
                    Ok(f32::NAN)
                } else {
                    number_of(cell).ok_or_else(|| self.no_number(row, index, cell))
                }
            })
            .collect::<Result<_>>()?;
        let (table, numbers) = (self.clone(), Arc::<[f32]>::from(numbers));
        Ok(move |sample: &RawSample| {
            let row = table.row_of(sample)?;
            table.check_value(row, index)?;
            Ok(numbers[row])
        })
    }

    /// A function that returns the numbers of a sample in these columns: for regression of several numbers. A cell is a
    /// number, or a list of numbers in JSON, such as `[0.5, 1]`; together they are as many for each sample.
    ///
    /// ```
    /// # use dataflux::{ImageFolder, LabelTable};
    /// let csv = "file,x,y\n1.png,3,4\n2.png,5,6\n";
    /// let table = LabelTable::reader("file").read(csv.as_bytes())?;
    /// // Batches then have targets of shape (images, 2).
    /// let images = ImageFolder::new().targets(table.numbers(&["x", "y"])?);
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// There is no such column; a cell is neither a number, a list of numbers, nor empty; two rows have another number
    /// of numbers. The error names line and column. The function fails for a sample without a row or with an empty
    /// cell.
    pub fn numbers(
        &self,
        columns: &[&str],
    ) -> Result<impl Fn(&RawSample) -> anyhow::Result<Vec<f32>> + Clone + Send + Sync + 'static + use<>> {
        let columns: Arc<[usize]> = columns.iter().map(|name| self.column(name)).collect::<Result<_>>()?;
        let (mut numbers, mut ends) = (Vec::new(), Vec::with_capacity(self.len()));
        let mut first: Option<(usize, usize)> = None;
        for row in 0..self.len() {
            let start = numbers.len();
            // A row with an empty cell has no numbers, and is an error when a sample needs them.
            if columns.iter().all(|&column| !self.rows.cell(row, column).trim().is_empty()) {
                for &column in &*columns {
                    self.push_numbers(row, column, &mut numbers)?;
                }
                let count = numbers.len() - start;
                let (wanted, other) = *first.get_or_insert((count, row));
                if count != wanted {
                    let at: Vec<_> = columns.iter().map(|&column| self.rows.place_of(row, column)).collect();
                    return Err(self
                        .rows
                        .wrong("rows of the table have another number of numbers")
                        .mismatch(
                            format_args!("{wanted} numbers, as '{}' has", self.rows.key(other)),
                            format_args!("{count} in {}", at.join(" and ")),
                        )
                        .hint("write as many numbers for each sample"));
                }
            }
            ends.push(numbers.len());
        }
        let (table, numbers, ends) = (self.clone(), Arc::<[f32]>::from(numbers), Arc::<[usize]>::from(ends));
        Ok(move |sample: &RawSample| {
            let row = table.row_of(sample)?;
            columns.iter().try_for_each(|&column| table.check_value(row, column))?;
            let start = row.checked_sub(1).map_or(0, |before| ends[before]);
            Ok(numbers[start..ends[row]].to_vec())
        })
    }

    /// A function that returns the text of a sample in this column, which may be empty.
    ///
    /// # Errors
    /// There is no such column. The function fails for a sample without a row.
    pub fn text(
        &self,
        column: &str,
    ) -> Result<impl Fn(&RawSample) -> anyhow::Result<String> + Clone + Send + Sync + 'static + use<>> {
        let (table, column) = (self.clone(), self.column(column)?);
        Ok(move |sample: &RawSample| Ok(table.rows.cell(table.row_of(sample)?, column).to_owned()))
    }

    /// The names that occur in a column of several names in each cell, in byte order: the classes of multi-label data.
    /// A cell is a list of texts in JSON, or names with `separator` between them and any spaces around.
    ///
    /// # Errors
    /// There is no such column; a cell begins with `[` and is no list of texts; there is no name at all.
    pub fn names(&self, column: &str, separator: &str) -> Result<ClassMap> {
        let index = self.column(column)?;
        let mut names = BTreeSet::new();
        for row in 0..self.len() {
            self.for_each_name(row, index, separator, |name| {
                if !names.contains(name) {
                    names.insert(name.to_owned());
                }
                Ok(())
            })?;
        }
        if names.is_empty() {
            return Err(self
                .rows
                .wrong("no cell of the column names a class")
                .mismatch(format_args!("names in '{column}'"), format_args!("{} empty cells", self.len()))
                .hint("name another column"));
        }
        ClassMap::new(names).map_err(|error| error.object(self.source()))
    }

    /// A function that returns which classes a sample has, for multi-label data: a 1 for each class that its cell
    /// names, and a 0 for any other, in the order of `classes`. The cells are those of [`names`](Self::names). An empty
    /// cell names no class.
    ///
    /// ```
    /// # use dataflux::{ImageFolder, LabelTable};
    /// let csv = "file,tags\n1.png,cat; sofa\n2.png,\n";
    /// let table = LabelTable::reader("file").read(csv.as_bytes())?;
    /// let tags = table.names("tags", ";")?; // for validation data, those of the training data
    /// assert_eq!(tags.names(), ["cat", "sofa"]);
    /// // Batches then have targets of shape (images, 2): [[1, 1], [0, 0]].
    /// let images = ImageFolder::new().targets(table.multi_hot("tags", ";", &tags)?);
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`names`](Self::names); a name is none of the classes. The error names line and column. The function
    /// fails for a sample without a row.
    pub fn multi_hot(
        &self,
        column: &str,
        separator: &str,
        classes: &ClassMap,
    ) -> Result<impl Fn(&RawSample) -> anyhow::Result<Vec<f32>> + Clone + Send + Sync + 'static + use<>> {
        let index = self.column(column)?;
        let (mut hot, mut ends) = (Vec::new(), Vec::with_capacity(self.len()));
        for row in 0..self.len() {
            self.for_each_name(row, index, separator, |name| {
                let class = classes.number(name).ok_or_else(|| {
                    self.rows
                        .wrong("a name in the table is none of the classes")
                        .mismatch(
                            format_args!("one of {} classes", classes.len()),
                            format_args!("'{}' in {}", shortened(name), self.rows.place_of(row, index)),
                        )
                        .hint("correct the name, or add it to the classes that all data sets share")
                })?;
                hot.push(class);
                Ok(())
            })?;
            ends.push(hot.len());
        }
        let (table, hot, ends) = (self.clone(), Arc::<[u32]>::from(hot), Arc::<[usize]>::from(ends));
        let classes = classes.len();
        Ok(move |sample: &RawSample| {
            let row = table.row_of(sample)?;
            let start = row.checked_sub(1).map_or(0, |before| ends[before]);
            let mut target = vec![0.0; classes];
            hot[start..ends[row]].iter().for_each(|&class| target[class as usize] = 1.0);
            Ok(target)
        })
    }

    /// Refuses an empty cell of a sample that is decoded.
    fn check_value(&self, row: usize, column: usize) -> anyhow::Result<()> {
        if self.rows.cell(row, column).trim().is_empty() {
            bail!(
                "{} has no value for it in {}; add one, or remove the row and leave the sample out with \
                 dataset.match_table(&table, Unlabelled::LeaveOut)",
                self.source(),
                self.rows.place_of(row, column)
            );
        }
        Ok(())
    }

    /// Appends the numbers of a cell that isn't empty.
    fn push_numbers(&self, row: usize, column: usize, numbers: &mut Vec<f32>) -> Result<()> {
        let cell = self.rows.cell(row, column).trim();
        if let Some(number) = number_of(cell) {
            numbers.push(number);
            return Ok(());
        }
        let list =
            serde_json::from_str(cell).ok().filter(|list: &Vec<f32>| list.iter().all(|number| number.is_finite()));
        numbers.extend(list.ok_or_else(|| self.no_number(row, column, cell))?);
        Ok(())
    }

    fn no_number(&self, row: usize, column: usize, cell: &str) -> Error {
        let got = format!("'{}' in {}", shortened(cell), self.rows.place_of(row, column));
        self.rows.wrong("a cell of the table is no number").mismatch("a finite number", got).hint("correct the cell")
    }

    /// Calls `take` for each name in a cell.
    fn for_each_name(
        &self,
        row: usize,
        column: usize,
        separator: &str,
        mut take: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let cell = self.rows.cell(row, column).trim();
        if !cell.starts_with('[') {
            // An empty separator separates nothing.
            let separated = (!separator.is_empty()).then(|| cell.split(separator));
            let names = separated.into_iter().flatten().chain(separator.is_empty().then_some(cell));
            return names.map(str::trim).filter(|name| !name.is_empty()).try_for_each(take);
        }
        let list: Vec<Value> =
            serde_json::from_str(cell).map_err(|error| self.no_list(row, column, cell).with_source(error))?;
        for name in list {
            match name {
                Value::String(name) if !name.trim().is_empty() => take(name.trim())?,
                Value::Number(number) => take(&number.to_string())?,
                _ => return Err(self.no_list(row, column, cell)),
            }
        }
        Ok(())
    }

    fn no_list(&self, row: usize, column: usize, cell: &str) -> Error {
        let got = format!("'{}' in {}", shortened(cell), self.rows.place_of(row, column));
        self.rows
            .wrong("a cell of the table is no list of names")
            .mismatch("a list of texts in JSON, or names with a separator", got)
            .hint("correct the cell; one that begins with [ is read as JSON")
    }
}

/// The number in a cell. Infinity and NaN are none: one of them would make the loss NaN.
fn number_of(cell: &str) -> Option<f32> {
    cell.parse().ok().filter(|number: &f32| number.is_finite())
}
