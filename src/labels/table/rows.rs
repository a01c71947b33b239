//! The rows of a table, by column, and found by their keys.

use std::collections::HashMap;

use crate::{Error, ErrorKind, Result, Stage};

/// More columns than any table of labels has. A file in which each line has another one would otherwise take memory of
/// the square of its length.
const MAX_COLUMNS: usize = 4_096;

/// One column. The ends of cells take 4 bytes each, so a column has at most 4 GiB of text.
#[derive(Debug, Default)]
struct Column {
    name: String,
    text: String,
    /// Where the cell of each row ends.
    ends: Vec<u32>,
}

impl Column {
    /// The cell of a row, counted in the order of the file.
    fn cell(&self, row: usize) -> &str {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[row] as usize]
    }
}

/// What the rows of a file are counted in, for errors.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowUnit {
    /// Lines of text, counted from 1.
    Line,
    /// Rows, counted from 1.
    #[cfg(feature = "parquet")]
    Row,
}

/// The rows of a table.
#[derive(Debug)]
pub(super) struct TableRows {
    source: String,
    columns: Vec<Column>,
    key: usize,
    /// The line on which each row begins, in the order of the file.
    lines: Vec<u32>,
    /// The rows in byte order of their keys.
    order: Vec<u32>,
    unit: RowUnit,
}

/// Collects rows in the order of a file.
#[derive(Debug)]
pub(super) struct RowsBuilder {
    columns: Vec<Column>,
    indexes: HashMap<String, usize>,
    lines: Vec<u32>,
    /// Whether a cell of the current row was set, by column.
    is_set: Vec<bool>,
    /// Bytes of text of all cells.
    text_bytes: u64,
    max_bytes: u64,
    unit: RowUnit,
}

/// An error of a table's contents, which doesn't name the table yet.
pub(super) fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message.into()).stage(Stage::Manifest)
}

impl RowsBuilder {
    /// The cells of the table may take `max_bytes` bytes of memory.
    pub(super) fn new(max_bytes: u64, unit: RowUnit) -> Self {
        let (columns, indexes, lines, is_set) = (Vec::new(), HashMap::new(), Vec::new(), Vec::new());
        Self { columns, indexes, lines, is_set, text_bytes: 0, max_bytes, unit }
    }

    /// The index of a column, which is added where there is none of this name.
    pub(super) fn column(&mut self, name: &str) -> Result<usize> {
        if let Some(&index) = self.indexes.get(name) {
            return Ok(index);
        }
        if self.columns.len() == MAX_COLUMNS {
            return Err(wrong("the table has too many columns")
                .mismatch(format_args!("{MAX_COLUMNS} at most"), format_args!("another one, '{name}'"))
                .hint("write the columns of labels into a table of their own"));
        }
        let ends = vec![0; self.lines.len()];
        self.columns.push(Column { name: name.to_owned(), text: String::new(), ends });
        self.is_set.push(false);
        self.indexes.insert(name.to_owned(), self.columns.len() - 1);
        Ok(self.columns.len() - 1)
    }

    /// Sets a cell of the current row. Cells that aren't set are empty.
    ///
    /// # Errors
    /// The row has two cells of this column.
    pub(super) fn set(&mut self, column: usize, text: &str) -> Result<()> {
        if self.is_set[column] {
            return Err(wrong("a row of the table has a column twice")
                .mismatch(
                    "each name once",
                    format_args!("'{}' twice in row {}", self.columns[column].name, self.lines.len() + 1),
                )
                .hint("rename one of the two"));
        }
        self.is_set[column] = true;
        self.columns[column].text.push_str(text);
        self.text_bytes += text.len() as u64;
        Ok(())
    }

    /// Ends the current row, which begins at `line`.
    pub(super) fn end_row(&mut self, line: u64) -> Result<()> {
        self.lines.push(u32::try_from(line).unwrap_or(u32::MAX));
        self.is_set.fill(false);
        for column in &mut self.columns {
            column.ends.push(u32::try_from(column.text.len()).unwrap_or(u32::MAX));
        }
        let ends_bytes = self.lines.len() as u64 * (self.columns.len() as u64 + 1) * size_of::<u32>() as u64;
        let bytes = ends_bytes.saturating_add(self.text_bytes);
        let is_long = self.columns.iter().any(|column| u32::try_from(column.text.len()).is_err());
        if bytes > self.max_bytes || is_long || u32::try_from(self.lines.len()).is_err() {
            return Err(wrong("the table is too large")
                .mismatch(
                    format_args!("cells that take {} bytes of memory, and 4 GiB of text a column", self.max_bytes),
                    format_args!("more, from {} rows of {} columns on", self.lines.len(), self.columns.len()),
                )
                .hint("write the columns of labels into a table of their own, or raise LabelTableReader::max_bytes"));
        }
        Ok(())
    }

    /// Sorts the rows by their keys, and leaves out those that are there twice.
    ///
    /// # Errors
    /// There is no column `key`, or no row; a key is empty; two rows of one key differ.
    pub(super) fn finish(self, source: &str, key: &str) -> Result<TableRows> {
        let mut rows = TableRows {
            source: source.to_owned(),
            columns: self.columns,
            key: 0,
            lines: self.lines,
            order: Vec::new(),
            unit: self.unit,
        };
        rows.columns.iter_mut().for_each(|column| {
            column.text.shrink_to_fit();
            column.ends.shrink_to_fit();
        });
        if rows.lines.is_empty() {
            return Err(wrong("the table has no rows").object(source).hint("check that it is the right object"));
        }
        rows.key = rows.column(key)?;
        let keys = &rows.columns[rows.key];
        let mut order: Vec<u32> = (0..rows.lines.len() as u32).collect();
        // Of equal keys the first row comes first.
        order.sort_by_key(|&row| keys.cell(row as usize));
        if keys.cell(order[0] as usize).is_empty() {
            let got = format!("none in {}", rows.place(order[0] as usize));
            return Err(rows
                .wrong("a row of the table has no key")
                .mismatch(format_args!("a name in '{key}'"), got)
                .hint("write the name of a sample into each row"));
        }
        for pair in order.windows(2) {
            let [first, second] = [pair[0] as usize, pair[1] as usize];
            if keys.cell(first) == keys.cell(second)
                && let Some(column) = rows.columns.iter().find(|column| column.cell(first) != column.cell(second))
            {
                let got = format!(
                    "'{}' in {} and '{}' in {} for '{}'",
                    shortened(column.cell(first)),
                    rows.place(first),
                    shortened(column.cell(second)),
                    rows.place(second),
                    keys.cell(first)
                );
                return Err(rows
                    .wrong("two rows of the table have the same key and other values")
                    .mismatch(format_args!("one value of '{}' for a key", column.name), got)
                    .hint("remove one of the rows"));
            }
        }
        order.dedup_by(|second, first| keys.cell(*second as usize) == keys.cell(*first as usize));
        rows.order = order;
        Ok(rows)
    }
}

/// The beginning of a text, for an error.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl TableRows {
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// How many rows there are, each key once.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// # Errors
    /// There is none of this name; the error names those that there are.
    pub(super) fn column(&self, name: &str) -> Result<usize> {
        const SHOWN: usize = 20;
        self.columns.iter().position(|column| column.name == name).ok_or_else(|| {
            let names: Vec<_> = self.column_names().take(SHOWN).collect();
            self.wrong("the table lacks a column")
                .mismatch(format_args!("'{name}'"), format_args!("{names:?}"))
                .hint("name one of its columns; the first line of a CSV file has their names")
        })
    }

    /// The row of a key, counted in byte order of keys. Compares some 20 keys where there are a million.
    pub(super) fn find(&self, key: &str) -> Option<usize> {
        let keys = &self.columns[self.key];
        self.order.binary_search_by_key(&key, |&row| keys.cell(row as usize)).ok()
    }

    /// The keys in byte order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|row| self.key(row))
    }

    pub(super) fn key(&self, row: usize) -> &str {
        self.cell(row, self.key)
    }

    /// The cell of a row, counted in byte order of keys.
    pub(super) fn cell(&self, row: usize, column: usize) -> &str {
        self.columns[column].cell(self.order[row] as usize)
    }

    /// Where a cell is in the file, for an error; the row is counted in byte order of keys.
    pub(super) fn place_of(&self, row: usize, column: usize) -> String {
        format!("column '{}' of {}", self.columns[column].name, self.place(self.order[row] as usize))
    }

    /// Where a row is, counted in the order of the file.
    fn place(&self, row: usize) -> String {
        let unit = match self.unit {
            RowUnit::Line => "line",
            #[cfg(feature = "parquet")]
            RowUnit::Row => "row",
        };
        format!("{unit} {}", self.lines[row])
    }

    /// An error of the table's contents.
    pub(super) fn wrong(&self, message: impl Into<String>) -> Error {
        wrong(message).object(&self.source)
    }
}
