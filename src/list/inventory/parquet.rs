//! Shards in Parquet. No other file uses the crate `parquet`.
//!
//! A shard in a bucket is verified by its CRC before any of it is used. Its footer is read first, then one row group
//! after another: the columns that are needed, in as few ranges as possible. Memory holds these columns of one row
//! group.
//!
//! The crate checks much of what a file says, but not everything: of 30,000 files with one to three bytes changed, 31
//! made it panic in an assertion of its bit reader or for lack of a dictionary. Each step runs on a thread of its own,
//! where a panic becomes an error; with `panic = "abort"` it ends the program.

use std::ops::Range;
use std::sync::Arc;

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use futures_util::future::try_join_all;
use futures_util::stream::{self, Stream};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type, Int96Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, FooterTail, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;

use super::row::{FIELDS, FieldColumns, ReportCell, ReportField, RowBatch, RowFilter};
use super::shard::{MAX_HELD_BYTES, Shard, VerifiedFile, off_thread};
use crate::store::Client;
use crate::{Error, ErrorKind, Result, Stage};

/// Rows of a batch, whose names take a few MiB.
const BATCH_ROWS: usize = 32 << 10;

/// Bytes that are read from a file's end at first. The footer of a shard of a million rows is smaller, so one call is
/// enough.
const TAIL: u64 = 64 << 10;

/// Widest gap between two columns that is read with them, since reading it takes no longer than another call's wait for
/// its first byte.
const MAX_GAP: u64 = 1 << 20;

/// The rows of `shard` that are wanted.
pub(super) fn batches<'a>(
    shard: &'a Shard,
    client: &'a Client,
    filter: RowFilter,
) -> impl Stream<Item = Result<RowBatch>> + Send + 'a {
    let reading = ParquetShard { shard, client, filter, file: None, footer: None, next: 0, group: None };
    stream::try_unfold(reading, |mut reading| async move { Ok(reading.next().await?.map(|batch| (batch, reading))) })
}

/// A shard that is being read.
struct ParquetShard<'a> {
    shard: &'a Shard,
    client: &'a Client,
    filter: RowFilter,
    file: Option<VerifiedFile>,
    footer: Option<Arc<ParquetFooter>>,
    /// The row group to read next.
    next: usize,
    /// The row group that is being decoded.
    group: Option<RowGroup>,
}

/// The footer of a file.
struct ParquetFooter {
    metadata: ParquetMetaData,
    columns: FieldColumns,
    /// Rows before each row group, and rows in all.
    before: Vec<u64>,
}

impl ParquetShard<'_> {
    async fn next(&mut self) -> Result<Option<RowBatch>> {
        let Shard { location, size, .. } = self.shard;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(VerifiedFile::new(self.client, location, *size, MAX_HELD_BYTES).await?),
        };
        let footer = match &self.footer {
            Some(footer) => Arc::clone(footer),
            None => Arc::clone(self.footer.insert(read_footer(self.shard, self.client, file).await?)),
        };
        let mut group = match self.group.take() {
            Some(group) => group,
            None if self.next == footer.metadata.num_row_groups() => return Ok(None),
            None => {
                let index = self.next;
                let chunks = read_columns(self.shard, self.client, file, &footer, index).await?;
                self.next += 1;
                off_thread(location, move || RowGroup::open(&footer, index, chunks))
                    .await?
                    .map_err(|error| location.error(error))?
            }
        };
        let filter = self.filter.clone();
        let (group, batch) = off_thread(location, move || {
            let batch = group.next(&filter);
            (group, batch)
        })
        .await?;
        self.group = (group.left > 0).then_some(group);
        batch.map(Some).map_err(|error| location.error(error))
    }
}

async fn read_footer(shard: &Shard, client: &Client, file: &VerifiedFile) -> Result<Arc<ParquetFooter>> {
    let Shard { location, size, .. } = shard;
    let cut = |got: String| {
        location.error(
            Error::new(ErrorKind::Integrity, "the Parquet shard is cut short, or is none")
                .mismatch("a footer that ends in PAR1", got)
                .hint("copy the shard again"),
        )
    };
    if *size < 12 {
        return Err(cut(format!("{size} bytes")));
    }
    let mut tail = file.read(client, size.saturating_sub(TAIL)..*size).await?;
    let end: [u8; 8] = tail[tail.len() - 8..].try_into().map_err(|_| cut("less".to_owned()))?;
    let footer = FooterTail::try_new(&end).map_err(|error| cut(error.to_string()))?;
    if footer.is_encrypted_footer() {
        return Err(cut("an encrypted one".to_owned()));
    }
    let length = footer.metadata_length() as u64 + 8;
    if length + 4 > *size {
        return Err(cut(format!("one of {length} bytes in a file of {size}")));
    }
    if length > tail.len() as u64 {
        tail = file.read(client, size - length..*size).await?;
    }
    let footer = tail.slice(tail.len() - length as usize..tail.len() - 8);
    let footer = off_thread(location, move || ParquetFooter::parse(&footer)).await?;
    footer.map(Arc::new).map_err(|error| location.error(error))
}

/// Reads the needed columns of a row group, in the order of fields.
async fn read_columns(
    shard: &Shard,
    client: &Client,
    file: &VerifiedFile,
    footer: &ParquetFooter,
    index: usize,
) -> Result<Vec<FileChunk>> {
    let group = footer.metadata.row_group(index);
    let mut wanted = Vec::new();
    for (_, at) in footer.columns.iter() {
        let range = column_range(group.column(at), shard.size).map_err(|error| shard.location.error(error))?;
        wanted.push(range);
    }
    let mut ranges = wanted.clone();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut calls: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match calls.last_mut() {
            Some(last) if range.start <= last.end + MAX_GAP => last.end = last.end.max(range.end),
            _ => calls.push(range),
        }
    }
    let read = try_join_all(calls.iter().map(|range| file.read(client, range.clone()))).await?;
    let chunk = |range: Range<u64>| {
        let (call, bytes) =
            calls.iter().zip(&read).find(|(call, _)| call.start <= range.start && range.end <= call.end)?;
        let bytes = bytes.slice((range.start - call.start) as usize..(range.end - call.start) as usize);
        Some(FileChunk { start: range.start, bytes })
    };
    Ok(wanted.into_iter().filter_map(chunk).collect())
}

/// Where a column's bytes are in a file of `size` bytes.
fn column_range(column: &ColumnChunkMetaData, size: u64) -> Result<Range<u64>> {
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let range = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
    let range = range.and_then(|(start, length)| Some(start..start.checked_add(length)?));
    range.filter(|range| range.end <= size).ok_or_else(|| {
        damaged().mismatch(
            format_args!("columns within {size} bytes"),
            format_args!("{} from {start}", column.compressed_size()),
        )
    })
}

fn damaged() -> Error {
    Error::new(ErrorKind::Integrity, "the Parquet shard is damaged").stage(Stage::List).hint("copy the shard again")
}

/// An error of the crate. It can only read files that aren't compressed, or compressed with Snappy or gzip.
fn refused(error: ParquetError) -> Error {
    Error::new(ErrorKind::Integrity, "the Parquet shard can't be read")
        .stage(Stage::List)
        .hint(
            "copy the shard again; where its pages are compressed otherwise than with Snappy or gzip, depend on the crate \
             parquet with the feature for it",
        )
        .with_source(error)
}

impl ParquetFooter {
    fn parse(footer: &[u8]) -> Result<Self> {
        let metadata = ParquetMetaDataReader::decode_metadata(footer).map_err(refused)?;
        let schema = metadata.file_metadata().schema_descr();
        let columns = FieldColumns::of(schema.columns().iter().map(|column| &*column.path().parts()[0]))?;
        for (field, at) in columns.iter() {
            let column = schema.column(at);
            if column.path().parts().len() > 1 || column.max_rep_level() > 0 || column.max_def_level() > 1 {
                return Err(wrong_type(field, "a list or a group"));
            }
        }
        let mut before = vec![0];
        for group in metadata.row_groups() {
            let rows = u64::try_from(group.num_rows()).ok();
            let sum = rows.and_then(|rows| rows.checked_add(before[before.len() - 1])).ok_or_else(damaged)?;
            if group.num_columns() != columns.width {
                return Err(damaged());
            }
            before.push(sum);
        }
        if i64::try_from(before[before.len() - 1]) != Ok(metadata.file_metadata().num_rows()) {
            return Err(damaged().mismatch(
                format_args!("{} rows", metadata.file_metadata().num_rows()),
                format_args!("{} in the row groups", before[before.len() - 1]),
            ));
        }
        Ok(Self { metadata, columns, before })
    }
}

fn wrong_type(field: ReportField, got: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the report's column {} is of a type it can't have", field.as_str()))
        .stage(Stage::List)
        .mismatch("texts, whole numbers or times", got)
        .hint("take a report as the service writes it")
}

/// Bytes of a file from `start` on.
struct FileChunk {
    start: u64,
    bytes: Bytes,
}

impl FileChunk {
    fn from(&self, start: u64, length: Option<usize>) -> ParquetResult<Bytes> {
        let from = start.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let end = length.map_or(Some(self.bytes.len()), |length| from?.checked_add(length));
        match from.zip(end) {
            Some((from, end)) if from <= end && end <= self.bytes.len() => Ok(self.bytes.slice(from..end)),
            _ => Err(ParquetError::EOF(format!("a page from {start} that leaves its column"))),
        }
    }
}

impl Length for FileChunk {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for FileChunk {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start, None)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.from(start, Some(length))
    }
}

/// A row group that is being decoded.
struct RowGroup {
    columns: Vec<(ReportField, ColumnReader)>,
    /// Number of the next row in the file, counted from 1.
    row: u64,
    /// Rows not decoded yet.
    left: u64,
}

impl RowGroup {
    fn open(file: &ParquetFooter, index: usize, chunks: Vec<FileChunk>) -> Result<Self> {
        let group = file.metadata.row_group(index);
        let rows = file.before[index + 1] - file.before[index];
        let columns = file.columns.iter().zip(chunks).map(|((field, at), chunk)| {
            Ok((field, ColumnReader::open(field, group.column(at), chunk, rows as usize)?))
        });
        Ok(Self { columns: columns.collect::<Result<_>>()?, row: file.before[index] + 1, left: rows })
    }

    /// Decodes the next rows.
    fn next(&mut self, filter: &RowFilter) -> Result<RowBatch> {
        let rows = self.left.min(BATCH_ROWS as u64) as usize;
        for (field, column) in &mut self.columns {
            let read = column.fill(rows).map_err(refused)?;
            // A column must not be longer than its row group.
            let is_longer = self.left == rows as u64 && column.skip_row().map_err(refused)?;
            if read != rows || is_longer {
                return Err(damaged().mismatch(
                    format_args!("{} more rows", self.left),
                    format_args!("{} of column {}", if is_longer { "more" } else { "fewer" }, field.as_str()),
                ));
            }
        }
        let mut batch = RowBatch::default();
        for at in 0..rows {
            let mut row = [ReportCell::Null; FIELDS];
            for (field, column) in &mut self.columns {
                row[*field as usize] = column.cell(at);
            }
            let number = self.row + at as u64;
            filter.apply(&row, &mut batch).map_err(|mismatch| mismatch.at(format_args!("row {number}")))?;
        }
        self.row += rows as u64;
        self.left -= rows as u64;
        Ok(batch)
    }
}

/// A column of a row group.
struct ColumnReader {
    values: ColumnValues,
    /// For nullable columns: 1 for each row with a value, 0 for others.
    levels: Vec<i16>,
    is_nullable: bool,
    /// The next value to return.
    next: usize,
    unit: IntegerUnit,
}

enum ColumnValues {
    Text(ColumnReaderImpl<ByteArrayType>, Vec<ByteArray>),
    Int(ColumnReaderImpl<Int64Type>, Vec<i64>),
    Short(ColumnReaderImpl<Int32Type>, Vec<i32>),
    /// Times in the old encoding: a Julian day, and nanoseconds in it.
    Time(ColumnReaderImpl<Int96Type>, Vec<parquet::data_type::Int96>),
}

/// The unit of whole numbers.
#[derive(Clone, Copy)]
enum IntegerUnit {
    One,
    Millis,
    Nanos,
}

impl IntegerUnit {
    fn of(column: &ColumnDescriptor) -> Self {
        match (column.logical_type_ref(), column.converted_type()) {
            (Some(LogicalType::Timestamp(time)), _) => match time.unit {
                TimeUnit::MILLIS => Self::Millis,
                TimeUnit::NANOS => Self::Nanos,
                TimeUnit::MICROS => Self::One,
            },
            (_, ConvertedType::TIMESTAMP_MILLIS) => Self::Millis,
            _ => Self::One,
        }
    }
}

/// Replaces `values` and `levels` by those of the next `rows` rows.
fn fill<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    values: &mut Vec<T::T>,
    levels: &mut Vec<i16>,
    rows: usize,
) -> ParquetResult<usize> {
    values.clear();
    levels.clear();
    Ok(reader.read_records(rows, Some(levels), None, values)?.0)
}

impl ColumnReader {
    fn open(field: ReportField, chunk: &ColumnChunkMetaData, bytes: FileChunk, rows: usize) -> Result<Self> {
        let described = chunk.column_descr_ptr();
        let (is_nullable, unit) = (described.max_def_level() > 0, IntegerUnit::of(&described));
        let pages = SerializedPageReader::new(Arc::new(bytes), chunk, rows, None).map_err(refused)?;
        let pages = Box::new(pages);
        let values = match described.physical_type() {
            Type::BYTE_ARRAY => ColumnValues::Text(ColumnReaderImpl::new(described, pages), Vec::new()),
            Type::INT64 => ColumnValues::Int(ColumnReaderImpl::new(described, pages), Vec::new()),
            Type::INT32 => ColumnValues::Short(ColumnReaderImpl::new(described, pages), Vec::new()),
            Type::INT96 => ColumnValues::Time(ColumnReaderImpl::new(described, pages), Vec::new()),
            other => return Err(wrong_type(field, &other.to_string())),
        };
        Ok(Self { values, levels: Vec::new(), is_nullable, next: 0, unit })
    }

    /// Reads the next `rows` rows. Returns how many there were.
    fn fill(&mut self, rows: usize) -> ParquetResult<usize> {
        self.next = 0;
        let levels = &mut self.levels;
        match &mut self.values {
            ColumnValues::Text(reader, values) => fill(reader, values, levels, rows),
            ColumnValues::Int(reader, values) => fill(reader, values, levels, rows),
            ColumnValues::Short(reader, values) => fill(reader, values, levels, rows),
            ColumnValues::Time(reader, values) => fill(reader, values, levels, rows),
        }
    }

    /// Skips a row. Returns whether there was one.
    fn skip_row(&mut self) -> ParquetResult<bool> {
        let skipped = match &mut self.values {
            ColumnValues::Text(reader, _) => reader.skip_records(1)?,
            ColumnValues::Int(reader, _) => reader.skip_records(1)?,
            ColumnValues::Short(reader, _) => reader.skip_records(1)?,
            ColumnValues::Time(reader, _) => reader.skip_records(1)?,
        };
        Ok(skipped > 0)
    }

    /// The cell of row `at` among those just read. Each row must be asked for once, in order.
    fn cell(&mut self, at: usize) -> ReportCell<'_> {
        if self.is_nullable && self.levels.get(at) != Some(&1) {
            return ReportCell::Null;
        }
        let next = self.next;
        self.next += 1;
        let int = |number: i64| {
            ReportCell::Int(match self.unit {
                IntegerUnit::One => number,
                IntegerUnit::Millis => number.saturating_mul(1_000),
                IntegerUnit::Nanos => number / 1_000,
            })
        };
        match &self.values {
            ColumnValues::Text(_, values) => {
                values.get(next).map_or(ReportCell::Null, |text| ReportCell::text(text.data()))
            }
            ColumnValues::Int(_, values) => values.get(next).map_or(ReportCell::Null, |number| int(*number)),
            ColumnValues::Short(_, values) => {
                values.get(next).map_or(ReportCell::Null, |number| int(i64::from(*number)))
            }
            ColumnValues::Time(_, values) => {
                values.get(next).map_or(ReportCell::Null, |time| ReportCell::Int(time.to_micros()))
            }
        }
    }
}
