//! Shards in CSV: RFC 4180, with any one-byte delimiter, found in the header.
//!
//! Files are read from front to back in pieces, each while the piece before is parsed, and verified at the end. If
//! bytes changed on the way, the rows that came of the shard are void and the shard is read again. Rows are parsed in
//! place, without a `String` for each.

use std::fmt;

use bytes::Bytes;
use csv_core::ReadRecordResult;
use futures_util::future::join;
use futures_util::stream::{self, Stream};

use super::row::{FIELDS, FieldColumns, ReportCell, RowBatch, RowFilter};
use super::shard::{MAX_REREADS, PIECE, Shard, off_thread};
use crate::store::Client;
use crate::{Error, ErrorKind, Result, Stage};

/// Longest row, in bytes. Names have at most 1,024 bytes and no other field is longer, so a longer row means a quote
/// that is never closed.
const MAX_ROW_BYTES: usize = 1 << 20;

/// The rows of `shard` that are wanted, one batch for each piece. `is_counted` says whether the report's manifest has
/// the number of rows, which shows whether a shard is cut between two rows.
pub(super) fn batches<'a>(
    shard: &'a Shard,
    client: &'a Client,
    filter: RowFilter,
    is_counted: bool,
) -> impl Stream<Item = Result<RowBatch>> + Send + 'a {
    let parser = Some(CsvParser::new(filter.clone()));
    let client = client.clone();
    let reading = CsvShard { shard, client, filter, is_counted, tries: 1, parser, piece: None, next: 0, crc: 0 };
    stream::try_unfold(reading, |mut reading| async move { Ok(reading.next().await?.map(|batch| (batch, reading))) })
}

/// A shard that is being read.
struct CsvShard<'a> {
    shard: &'a Shard,
    client: Client,
    filter: RowFilter,
    is_counted: bool,
    /// How often reading was begun.
    tries: u32,
    /// `None` when the end is parsed.
    parser: Option<CsvParser>,
    /// The piece that is read and not yet parsed.
    piece: Option<Bytes>,
    /// Offset of the next piece to parse.
    next: u64,
    /// CRC32C of the bytes parsed.
    crc: u32,
}

impl CsvShard<'_> {
    async fn next(&mut self) -> Result<Option<RowBatch>> {
        let Some(mut parser) = self.parser.take() else { return Ok(None) };
        let location = &self.shard.location;
        let piece = match self.piece.take() {
            Some(piece) => piece,
            None => self.read(self.next).await?,
        };
        self.next += piece.len() as u64;
        let is_last = self.next == self.shard.size;
        let crc = self.crc;
        let parse = off_thread(location, move || {
            let mut batch = RowBatch::default();
            let crc = crc32c::crc32c_append(crc, &piece);
            let parsed = parser.push(&piece, &mut batch);
            let ended = parsed.and_then(|()| if is_last { parser.finish(&mut batch).map(Some) } else { Ok(None) });
            (parser, batch, crc, ended)
        });
        let (parsed, piece) = join(parse, self.read(self.next)).await;
        let (parser, batch, crc, ended) = parsed?;
        (self.crc, self.piece) = (crc, Some(piece?));
        let whole = match ended {
            Ok(None) => {
                self.parser = Some(parser);
                return Ok(Some(batch));
            }
            Ok(Some(ending)) => self.check(ending),
            Err(error) => Err(location.error(error)),
        };

        // Impossible rows may come from bytes that changed on the way, so the CRC is checked before they are reported.
        let Some(wanted) = location.crc() else { return whole.map(|()| Some(batch)) };
        let got = self.crc_of_all().await?;
        if got == wanted {
            return whole.map(|()| Some(batch));
        }
        let error = location.corrupt(wanted, got).tried(self.tries);
        if self.tries > MAX_REREADS {
            return Err(error);
        }
        self.tries += 1;
        self.client = self.client.repeating();
        (self.parser, self.piece, self.next, self.crc) = (Some(CsvParser::new(self.filter.clone())), None, 0, 0);
        Ok(Some(RowBatch { restarted: Some(error), ..RowBatch::default() }))
    }

    async fn read(&self, at: u64) -> Result<Bytes> {
        let end = self.shard.size.min(at + PIECE);
        self.shard.location.read(&self.client, at..end).await
    }

    /// The CRC of the whole file, including what wasn't parsed.
    async fn crc_of_all(&mut self) -> Result<u32> {
        let (mut at, mut crc) = (self.next, self.crc);
        let mut piece = self.piece.take().unwrap_or_default();
        while at < self.shard.size {
            if piece.is_empty() {
                piece = self.read(at).await?;
            }
            crc = crc32c::crc32c_append(crc, &piece);
            at += piece.len() as u64;
            piece.clear();
        }
        Ok(crc)
    }

    /// Checks that the file isn't cut short, apart from its CRC.
    fn check(&self, ending: FileEnd) -> Result<()> {
        let is_verified = self.shard.location.crc().is_some() || (self.is_counted && ending != FileEnd::InField);
        if ending == FileEnd::Whole || (is_verified && ending != FileEnd::InQuotes) {
            return Ok(());
        }
        Err(self.shard.location.error(
            Error::new(ErrorKind::Integrity, "the shard may be cut short: its last row doesn't end")
                .mismatch("a line end after the last row", "the end of the file")
                .hint("copy the shard again and read it by the report's ..._manifest.json; if it is whole, add a line end"),
        ))
    }
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileEnd {
    /// With a line end.
    Whole,
    /// In the last column of a row, which isn't used.
    AfterRow,
    /// In the last column of a row, which is used, or before that.
    InField,
    /// Within quotes.
    InQuotes,
}

/// Parses rows from pieces of bytes.
pub(super) struct CsvParser {
    filter: RowFilter,
    core: csv_core::Reader,
    /// `None` before the header.
    columns: Option<FieldColumns>,
    /// The row so far, without quotes and delimiters, and where its fields end.
    row: Vec<u8>,
    row_length: usize,
    ends: Vec<usize>,
    ends_length: usize,
    /// Whether a byte of the row has been seen.
    begun: bool,
    /// Line on which the row begins, counted from 1.
    line: u64,
    /// Line ends skipped before rows. `core` doesn't count these, since it takes the CR of a CRLF as the end of a row.
    skipped_lines: u64,
    /// The last byte so far.
    last: u8,
    /// Quotes so far.
    quotes: usize,
}

impl CsvParser {
    pub(super) fn new(filter: RowFilter) -> Self {
        Self {
            filter,
            core: csv_core::Reader::new(),
            columns: None,
            row: vec![0; 4 << 10],
            row_length: 0,
            ends: vec![0; 32],
            ends_length: 0,
            begun: false,
            line: 1,
            skipped_lines: 0,
            last: b'\n',
            quotes: 0,
        }
    }

    /// Parses the next bytes. The first ones must hold the header.
    pub(super) fn push(&mut self, mut bytes: &[u8], batch: &mut RowBatch) -> Result<()> {
        if self.columns.is_none() && self.row_length == 0 {
            bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
            self.core = csv_core::ReaderBuilder::new().delimiter(delimiter(bytes)).build();
        }
        if let Some(last) = bytes.last() {
            self.last = *last;
            self.quotes += bytes.iter().map(|byte| usize::from(*byte == b'"')).sum::<usize>();
        }
        loop {
            while let [end @ (b'\r' | b'\n'), rest @ ..] = bytes
                && !self.begun
            {
                self.skipped_lines += u64::from(*end == b'\n');
                bytes = rest;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            if !self.begun {
                (self.begun, self.line) = (true, self.core.line() + self.skipped_lines);
            }
            bytes = &bytes[self.advance(bytes, batch)?.taken..];
        }
    }

    /// Parses a last row without a line end. Returns how the file ends.
    pub(super) fn finish(&mut self, batch: &mut RowBatch) -> Result<FileEnd> {
        let used = |columns: &FieldColumns| columns.iter().any(|(_, at)| at + 1 == columns.width);
        let ending = match &self.columns {
            _ if matches!(self.last, b'\n' | b'\r') && self.quotes.is_multiple_of(2) => FileEnd::Whole,
            _ if !self.quotes.is_multiple_of(2) => FileEnd::InQuotes,
            Some(columns) if !used(columns) => FileEnd::AfterRow,
            _ => FileEnd::InField,
        };
        // `core` takes empty input as the end of the file.
        while !self.advance(&[], batch)?.is_end {}
        match self.columns {
            Some(_) => Ok(ending),
            None => FieldColumns::of(std::iter::empty()).map(|_| ending),
        }
    }

    /// Parses up to the end of a row, or until a buffer is full.
    fn advance(&mut self, bytes: &[u8], batch: &mut RowBatch) -> Result<ParserStep> {
        let (result, taken, written, ended) =
            self.core.read_record(bytes, &mut self.row[self.row_length..], &mut self.ends[self.ends_length..]);
        self.row_length += written;
        self.ends_length += ended;
        match result {
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull if self.row.len() < MAX_ROW_BYTES => self.row.resize(self.row.len() * 2, 0),
            ReadRecordResult::OutputEndsFull if self.ends.len() < MAX_ROW_BYTES => {
                self.ends.resize(self.ends.len() * 2, 0);
            }
            ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                return Err(Error::new(ErrorKind::Protocol, format!("{}: the row doesn't end", CsvLine(self.line)))
                    .mismatch("a row of an inventory report", format_args!("more than {MAX_ROW_BYTES} bytes"))
                    .hint("a quote that never closes does that: copy the shard again"));
            }
            ReadRecordResult::Record => {
                self.end_row(batch)?;
                (self.row_length, self.ends_length) = (0, 0);
                self.begun = false;
            }
            ReadRecordResult::End => return Ok(ParserStep { taken, is_end: true }),
        }
        Ok(ParserStep { taken, is_end: false })
    }

    fn end_row(&mut self, batch: &mut RowBatch) -> Result<()> {
        let ends = &self.ends[..self.ends_length];
        let field = |at: usize| &self.row[at.checked_sub(1).map_or(0, |before| ends[before])..ends[at]];
        let Some(columns) = &self.columns else {
            let names: Vec<_> = (0..ends.len()).map(|at| String::from_utf8_lossy(field(at)).into_owned()).collect();
            self.columns = Some(FieldColumns::of(names.iter().map(|name| &**name))?);
            return Ok(());
        };
        if ends.len() != columns.width {
            return Err(Error::new(
                ErrorKind::Integrity,
                format!("{}: the row has another number of columns than the header", CsvLine(self.line)),
            )
            .stage(Stage::List)
            .mismatch(format_args!("{} columns", columns.width), format_args!("{}", ends.len()))
            .hint("the shard is cut short, or was changed after the service wrote it: copy it again"));
        }
        let mut row = [ReportCell::Null; FIELDS];
        for (name, at) in columns.iter() {
            row[name as usize] = ReportCell::text(field(at));
        }
        self.filter.apply(&row, batch).map_err(|mismatch| mismatch.at(CsvLine(self.line)))
    }
}

struct ParserStep {
    /// Bytes that were parsed.
    taken: usize,
    /// Whether the end of the file was reached.
    is_end: bool,
}

/// The delimiter of a header: its first byte that can't be part of a column's name.
fn delimiter(header: &[u8]) -> u8 {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'"');
    let first = header.iter().copied().find(|byte| !of_name(byte));
    first.filter(|byte| byte.is_ascii() && !matches!(byte, b'\r' | b'\n')).unwrap_or(b',')
}

struct CsvLine(u64);

impl fmt::Display for CsvLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.0)
    }
}
