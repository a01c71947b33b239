//! Files of comma-separated values.

use std::ops::Range;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use csv_core::{ReadRecordResult, ReaderBuilder};
use ndarray::Array2;

use super::text::text_of;
use super::{Decode, DecodeMemory, ItemMemory};
use crate::collate::Samples;
use crate::encoding::{DEFAULT_MAX_DECOMPRESSED, check_quotes};
use crate::read::RawSample;

/// Decodes CSV files in UTF-8, decompressed if they are [compressed](crate::encoding), to a [`CsvTable`] an object.
///
/// The first line names the columns, unless [`without_header`](Self::without_header) is called. Fields may be quoted as
/// RFC 4180 has it; lines end in CR, LF or both, and empty lines are left out. A line with more or fewer fields than
/// the first one is an error, and so is a quoted field that doesn't close.
///
/// ```no_run
/// use dataflux::{CsvRows, DataLoader, DatafluxDataset, Decode, RawSample};
/// use dataflux::ndarray::Array2;
///
/// # fn main() -> anyhow::Result<()> {
/// let series = |sample: RawSample| -> anyhow::Result<Array2<f32>> {
///     CsvRows::new().decode(sample)?.numbers(["temperature", "humidity"]) // (rows, 2)
/// };
/// let dataset = DatafluxDataset::open("gs://my-bucket/weather/")?.decode(series);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvRows {
    delimiter: u8,
    has_header: bool,
    max_decompressed: u64,
}

impl Default for CsvRows {
    fn default() -> Self {
        Self { delimiter: b',', has_header: true, max_decompressed: DEFAULT_MAX_DECOMPRESSED }
    }
}

impl CsvRows {
    /// Decodes files with commas between fields and the names of columns in the first line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the character between fields, for example `b'\t'`. Characters outside of ASCII are errors when decoding.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// Takes the first line as data. Columns have no names then.
    #[must_use]
    pub fn without_header(mut self) -> Self {
        self.has_header = false;
        self
    }

    /// Sets how many bytes a compressed object may decompress to, and how many the ends of fields may take, four bytes
    /// each: 1 GiB by default.
    #[must_use]
    pub fn max_decompressed(mut self, bytes: u64) -> Self {
        self.max_decompressed = bytes;
        self
    }

    /// A small compressed file of delimiters alone would otherwise become a table of many times its text.
    fn check_fields(&self, fields: usize) -> Result<()> {
        let bytes = fields as u64 * size_of::<u32>() as u64;
        ensure!(
            bytes <= self.max_decompressed,
            "its {fields} fields or more take {bytes} bytes beside their text, and {} are allowed; raise that limit with \
             max_decompressed, or leave it out",
            self.max_decompressed
        );
        Ok(())
    }

    fn read(self, bytes: Vec<u8>) -> Result<CsvTable> {
        ensure!(
            self.delimiter.is_ascii() && !matches!(self.delimiter, b'"' | b'\r' | b'\n'),
            "the delimiter {:#04x} can't separate fields; use another with CsvRows::delimiter",
            self.delimiter
        );
        // Checked as a whole: without quotes and delimiters, which are ASCII, each field is still whole characters.
        let file = text_of(bytes)?;
        let mut input = file.strip_prefix('\u{feff}').unwrap_or(&file).as_bytes();
        if let Err(error) = check_quotes(input, self.delimiter) {
            bail!("it has {error}; correct that line, or upload the object again if it is cut short");
        }
        let mut reader = ReaderBuilder::new().delimiter(self.delimiter).build();
        // Fields never have more bytes than the file. The end of each is counted from the beginning of its row.
        ensure!(
            u32::try_from(input.len()).is_ok(),
            "it has {} bytes, and a table at most 4 GiB; split it",
            input.len()
        );
        let mut text = vec![0; input.len()];
        let (mut row_start, mut filled) = (0, 0);
        let mut row_ends = vec![0; 64];
        let mut fields = 0;
        let mut table = CsvTable::default();
        loop {
            let (result, read, written, ended) =
                reader.read_record(input, &mut text[filled..], &mut row_ends[fields..]);
            input = &input[read..];
            filled += written;
            fields += ended;
            match result {
                // With no input left, the next call ends the last row.
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => text.resize(text.len() + 64, 0),
                ReadRecordResult::OutputEndsFull => {
                    self.check_fields(row_ends.len())?;
                    row_ends.resize(row_ends.len() * 2, 0);
                }
                ReadRecordResult::Record => {
                    if table.ends.is_empty() {
                        table.columns = fields;
                    }
                    ensure!(
                        fields == table.columns,
                        "its row before line {} has {fields} fields, and its first one {}; correct it, or leave it out",
                        reader.line(),
                        table.columns
                    );
                    self.check_fields(table.ends.len() + fields)?;
                    table.ends.extend(row_ends[..fields].iter().map(|end| (row_start + end) as u32));
                    (row_start, fields) = (filled, 0);
                }
                ReadRecordResult::End => break,
            }
        }
        text.truncate(filled);
        text.shrink_to_fit();
        table.ends.shrink_to_fit();
        table.text = String::from_utf8(text).context("its fields are no text")?;
        table.has_header = self.has_header;
        ensure!(!self.has_header || table.columns > 0, "it is empty, and a line with the names of columns was wanted");
        Ok(table)
    }
}

/// The rows of one CSV file. All have the same number of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsvTable {
    /// All fields, without anything between them.
    text: String,
    /// Where each field ends.
    ends: Vec<u32>,
    columns: usize,
    has_header: bool,
}

impl CsvTable {
    /// The names of the columns; none if the file has no header.
    pub fn header(&self) -> impl Iterator<Item = &str> {
        self.line(if self.has_header { 0..self.columns } else { 0..0 })
    }

    /// How many columns there are.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How many rows there are, without the header.
    pub fn len(&self) -> usize {
        self.ends.len().checked_div(self.columns).unwrap_or_default() - usize::from(self.has_header)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fields of each row, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = impl Iterator<Item = &str>> {
        (0..self.len()).map(|row| {
            let first = self.first_field(row);
            self.line(first..first + self.columns)
        })
    }

    /// A field, by the indices of its row and column, both counted from 0.
    pub fn get(&self, row: usize, column: usize) -> Option<&str> {
        (row < self.len() && column < self.columns).then(|| self.field(self.first_field(row) + column))?
    }

    /// The index of the first column of this name.
    ///
    /// # Errors
    /// There is none; the error names those that there are.
    pub fn column(&self, name: &str) -> Result<usize> {
        self.header().position(|column| column == name).with_context(|| {
            const SHOWN: usize = 20;
            let names: Vec<_> = self.header().take(SHOWN).collect();
            format!("it has no column {name:?}; its columns are {names:?}")
        })
    }

    /// The numbers of some columns, as an array of shape (rows, columns). Spaces around numbers are no error.
    ///
    /// # Errors
    /// A column is missing, or a field is no number; the error names its row and column.
    pub fn numbers<T: FromStr>(&self, columns: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Array2<T>> {
        let columns = columns.into_iter().map(|name| self.column(name.as_ref())).collect::<Result<Vec<_>>>()?;
        let mut numbers = Vec::with_capacity(self.len() * columns.len());
        for row in 0..self.len() {
            for column in &columns {
                let field = self.get(row, *column).unwrap_or_default();
                let Ok(number) = field.trim().parse() else {
                    bail!(
                        "its field {field:?} in row {row} (counted from 0) of the column {:?} is no {}; correct it, or \
                         leave it out",
                        self.header().nth(*column).unwrap_or_default(),
                        std::any::type_name::<T>()
                    );
                };
                numbers.push(number);
            }
        }
        Array2::from_shape_vec((self.len(), columns.len()), numbers)
            .context("it has more numbers than an array can have")
    }

    fn first_field(&self, row: usize) -> usize {
        (row + usize::from(self.has_header)) * self.columns
    }

    fn line(&self, fields: Range<usize>) -> impl Iterator<Item = &str> {
        fields.map(|field| self.field(field).unwrap_or_default())
    }

    fn field(&self, index: usize) -> Option<&str> {
        let start = if index == 0 { 0 } else { *self.ends.get(index - 1)? };
        self.text.get(start as usize..*self.ends.get(index)? as usize)
    }
}

impl CsvTable {
    /// Bytes of memory that the table takes.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.text.capacity() + self.ends.capacity() * size_of::<u32>()) as u64
    }
}

impl Decode for CsvRows {
    type Item = CsvTable;
    type Collate = Samples;

    fn decode(&self, sample: RawSample) -> Result<CsvTable> {
        let bytes = sample.decompress(self.max_decompressed)?;
        drop(sample);
        self.read(bytes.into_vec())
    }

    fn collate(&self) -> Samples {
        Samples
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromBytes
    }

    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        /// Bytes of the end of a field, in the table and while its row is read.
        const END_BYTES: u64 = size_of::<u32>() as u64;
        const ROW_END_BYTES: u64 = size_of::<usize>() as u64;
        let memory = sample.decompression_memory(self.max_decompressed);
        let size = memory.size;
        let (fields, columns) = if memory.is_compressed() {
            // Of a compressed file: a field seldom has less than three characters and a delimiter.
            (size / 4, 0)
        } else {
            let ends =
                |bytes: &[u8]| 1 + bytes.iter().filter(|byte| [self.delimiter, b'\n'].contains(byte)).count() as u64;
            let first_line = sample.bytes().split(|byte| *byte == b'\n').next().unwrap_or_default();
            (ends(sample.bytes()), ends(first_line))
        };
        // The text, and the end of each field.
        let item = size.saturating_add(END_BYTES * fields);
        // The file, and the ends, whose buffers grow to twice as many while those before them still exist.
        let ends = 2 * END_BYTES * fields + 3 * ROW_END_BYTES * columns;
        let scratch = size.saturating_add(ends).saturating_add(memory.window);
        Some(DecodeMemory { item, scratch, is_estimate: memory.is_compressed() })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    fn read(file: &str) -> Result<CsvTable> {
        CsvRows::new().read(file.as_bytes().to_vec())
    }

    fn rows(table: &CsvTable) -> Vec<Vec<&str>> {
        table.rows().map(Iterator::collect).collect()
    }

    #[test]
    fn rows_and_columns_are_read() {
        for file in
            ["name,x\r\n\"Mäuse, \"\"two\"\"\",1\r\n,-2.5\r\n", "\u{feff}name,x\n\n\"Mäuse, \"\"two\"\"\",1\n\n,-2.5"]
        {
            let table = read(file).unwrap();
            assert_eq!(table.header().collect::<Vec<_>>(), ["name", "x"]);
            assert_eq!(rows(&table), [["Mäuse, \"two\"", "1"], ["", "-2.5"]]);
            assert_eq!((table.len(), table.columns(), table.is_empty()), (2, 2, false));
            assert_eq!((table.get(1, 1), table.get(1, 2), table.get(2, 0)), (Some("-2.5"), None, None));
            assert_eq!(table.numbers::<f32>(["x", "x"]).unwrap(), array![[1.0, 1.0], [-2.5, -2.5]]);
        }
        let tabs = CsvRows::new().delimiter(b'\t').without_header().read(b"1\t 2\n3\tNaN".to_vec()).unwrap();
        assert_eq!(rows(&tabs), [["1", " 2"], ["3", "NaN"]]);
        assert_eq!(tabs.header().count(), 0);
        let wide = format!("{}\n{}", "x,".repeat(999), "1,".repeat(999));
        assert_eq!((read(&wide).unwrap().columns(), read(&wide).unwrap().len()), (1_000, 1));
    }

    #[test]
    fn quotes_that_do_not_match_are_an_error() {
        for (file, wanted) in [
            ("a,b\n1,\"2\n3,4\n", "no closing quote for the cell that begins in line 2"),
            ("a,b\n1,\"2", "no closing quote for the cell that begins in line 2"),
            ("a,b\n1,\"2\"3\n", "text after a closing quote in line 2"),
        ] {
            let error = read(file).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(rows(&read("a,b\n5\" disc,\"2\n3\"\n").unwrap()), [["5\" disc", "2\n3"]]);
    }

    #[test]
    fn more_fields_than_allowed_are_an_error() {
        let decoder = CsvRows::new().max_decompressed(4_000);
        let error = decoder.read(",".repeat(1_500).into_bytes()).unwrap_err().to_string();
        assert!(error.contains("max_decompressed"), "{error}");
        let error = decoder.read("a\n".repeat(1_500).into_bytes()).unwrap_err().to_string();
        assert!(error.contains("1001 fields"), "{error}");
        assert_eq!(decoder.read("a\n".repeat(900).into_bytes()).unwrap().len(), 899);
    }

    #[test]
    fn files_without_rows() {
        let table = read("a,b\n").unwrap();
        assert_eq!((table.len(), table.columns()), (0, 2));
        assert_eq!(table.numbers::<f32>(["b"]).unwrap().shape(), [0, 1]);
        assert!(read("").unwrap_err().to_string().contains("it is empty"));
        assert!(read("\n\n").unwrap_err().to_string().contains("it is empty"));
        let table = CsvRows::new().without_header().read(Vec::new()).unwrap();
        assert_eq!((table.len(), table.columns(), rows(&table).len()), (0, 0, 0));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let error = read("a,b\n1,2\n3\n4,5\n").unwrap_err().to_string();
        assert!(error.contains("before line 4 has 1 fields, and its first one 2"), "{error}");
        let error = read("a\ncat\n").unwrap().numbers::<f32>(["a"]).unwrap_err().to_string();
        assert!(error.contains("\"cat\" in row 0 (counted from 0) of the column \"a\" is no f32"), "{error}");
        let error = read("a,b\n").unwrap().column("c").unwrap_err().to_string();
        assert!(error.contains("no column \"c\"; its columns are [\"a\", \"b\"]"), "{error}");
        let error = CsvRows::new().read(b"a\n\xff\n".to_vec()).unwrap_err().to_string();
        assert!(error.contains("not UTF-8 at byte 2"), "{error}");
        assert!(CsvRows::new().delimiter(0xe4).read(b"a".to_vec()).unwrap_err().to_string().contains("delimiter 0xe4"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_table_or_an_error(file in "[a\",\\r\\nä]{0,40}", has_header: bool) {
            let decoder = CsvRows { has_header, ..CsvRows::new() };
            if let Ok(table) = decoder.read(file.into_bytes()) {
                prop_assert_eq!(table.rows().map(Iterator::count).sum::<usize>(), table.len() * table.columns());
            }
        }
    }
}
