//! Tables in CSV, as RFC 4180 has it, with a header.

use csv_core::{ReadRecordResult, ReaderBuilder};

use super::rows::{RowUnit, RowsBuilder, wrong};
use crate::Result;
use crate::encoding::check_quotes;

/// Reads the rows of a file. Empty lines are left out.
///
/// # Errors
/// A row with more or fewer cells than the header; a quote that doesn't close, or that something follows in its cell; a
/// name of a column that is there twice.
pub(super) fn read(text: &str, delimiter: u8, max_bytes: u64) -> Result<RowsBuilder> {
    if !delimiter.is_ascii() || matches!(delimiter, b'"' | b'\r' | b'\n') {
        return Err(wrong("this can't separate the cells of a CSV file")
            .mismatch("an ASCII character other than quotes and line ends", format_args!("{delimiter:#04x}"))
            .hint("set another with LabelTableReader::delimiter"));
    }
    check_quotes(text.as_bytes(), delimiter).map_err(|error| {
        wrong("the quotes of the table don't match")
            .mismatch("quotes around a whole cell, and two for one within", error)
            .hint("correct the line, or write the table again if it is cut short")
    })?;
    let mut rows = RowsBuilder::new(max_bytes, RowUnit::Line);
    let mut core = ReaderBuilder::new().delimiter(delimiter).build();
    let mut input = text.as_bytes();
    let mut columns: Option<Vec<usize>> = None;
    let (mut record, mut ends) = (vec![0; 1 << 10], vec![0; 64]);
    let (mut filled, mut cells) = (0, 0);
    // `core` takes the CR of a CRLF as the end of a row, and counts no line ends that are passed over here.
    let (mut passed_lines, mut line, mut is_in_row) = (0, 1, false);
    loop {
        while let [end @ (b'\r' | b'\n'), rest @ ..] = input
            && !is_in_row
        {
            passed_lines += u64::from(*end == b'\n');
            input = rest;
        }
        if !is_in_row {
            line = core.line() + passed_lines;
            is_in_row = !input.is_empty();
        }
        let (result, read, written, ended) = core.read_record(input, &mut record[filled..], &mut ends[cells..]);
        input = &input[read..];
        filled += written;
        cells += ended;
        match result {
            // With no input left, the next call ends the last row.
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull => record.resize(record.len() * 2, 0),
            ReadRecordResult::OutputEndsFull => ends.resize(ends.len() * 2, 0),
            ReadRecordResult::Record => {
                end_row(&mut rows, &mut columns, &record[..filled], &ends[..cells], line)?;
                (filled, cells, is_in_row) = (0, 0, false);
            }
            ReadRecordResult::End => break,
        }
    }
    if columns.is_none() {
        return Err(wrong("the table is empty").mismatch("a line with the names of columns", "none").hint(HEADER));
    }
    Ok(rows)
}

const HEADER: &str = "begin the file with a line that names its columns, such as file,label";

fn end_row(
    rows: &mut RowsBuilder,
    columns: &mut Option<Vec<usize>>,
    record: &[u8],
    ends: &[usize],
    line: u64,
) -> Result<()> {
    // The file is text, and the delimiters and quotes between its cells are ASCII.
    let cell = |at: usize| {
        let start = at.checked_sub(1).map_or(0, |before| ends[before]);
        String::from_utf8_lossy(&record[start..ends[at]])
    };
    let Some(columns) = columns else {
        let mut header = Vec::with_capacity(ends.len());
        for at in 0..ends.len() {
            let name = cell(at);
            // Cells keep their spaces, which may be part of a name or a text.
            let column = rows.column(name.trim())?;
            if column != at {
                return Err(wrong("a column of the table is there twice")
                    .mismatch(
                        "each name once in the first line",
                        format_args!("'{name}' as {} and {}", column + 1, at + 1),
                    )
                    .hint("rename one of the columns"));
            }
            header.push(column);
        }
        *columns = Some(header);
        return Ok(());
    };
    if ends.len() != columns.len() {
        return Err(wrong("a row of the table has another number of cells than its first line")
            .mismatch(format_args!("{} cells", columns.len()), format_args!("{} in line {line}", ends.len()))
            .hint("correct the line; a cell with a delimiter in it must be in quotes"));
    }
    for (at, column) in columns.iter().enumerate() {
        rows.set(*column, &cell(at))?;
    }
    rows.end_row(line)
}
