//! Shards in CSV: RFC 4180, with any one-byte delimiter, found in the header.
//!
//! Files are read from front to back in pieces, the next one while the last is parsed, and proved at the end: where bytes
//! changed on the way, all that came of the shard is called off and it is read again. Rows are parsed in place: none
//! becomes a `String`.

use std::fmt;

use bytes::Bytes;
use csv_core::ReadRecordResult;
use futures_util::future::join;
use futures_util::stream::{self, Stream};

use super::row::{FIELDS, FieldColumns, ReportCell, RowBatch, RowFilter};
use super::shard::{AGAIN, PIECE, Shard, off_thread};
use crate::store::Client;
use crate::{Error, ErrorKind, Result, Stage};

/// Longest row. Names have at most 1,024 bytes and no other field is longer, so this means a quote that never closes.
const LONGEST_ROW: usize = 1 << 20;

/// The rows of `shard` that are wanted, a batch a piece. `counted` is whether the report's manifest says how many rows
/// there are, which shows a shard that is cut short between two of them.
pub(super) fn batches<'a>(
    shard: &'a Shard,
    client: &'a Client,
    sieve: RowFilter,
    counted: bool,
) -> impl Stream<Item = Result<RowBatch>> + Send + 'a {
    let parser = Some(CsvParser::new(sieve.clone()));
    let client = client.clone();
    let reading = CsvShard { shard, client, sieve, counted, tries: 1, parser, piece: None, next: 0, crc: 0 };
    stream::try_unfold(reading, |mut reading| async move { Ok(reading.next().await?.map(|batch| (batch, reading))) })
}

/// A shard on its way.
struct CsvShard<'a> {
    shard: &'a Shard,
    client: Client,
    sieve: RowFilter,
    counted: bool,
    /// How often it was begun.
    tries: u32,
    /// `None` once the end was parsed.
    parser: Option<CsvParser>,
    /// Read and not yet parsed.
    piece: Option<Bytes>,
    /// Where to read on.
    next: u64,
    /// Of all that was parsed.
    crc: u32,
}

impl CsvShard<'_> {
    async fn next(&mut self) -> Result<Option<RowBatch>> {
        let Some(mut parser) = self.parser.take() else { return Ok(None) };
        let place = &self.shard.place;
        let piece = match self.piece.take() {
            Some(piece) => piece,
            None => self.read(self.next).await?,
        };
        self.next += piece.len() as u64;
        let last = self.next == self.shard.size;
        let crc = self.crc;
        let parse = off_thread(place, move || {
            let mut batch = RowBatch::default();
            let crc = crc32c::crc32c_append(crc, &piece);
            let parsed = parser.push(&piece, &mut batch);
            let ended = parsed.and_then(|()| if last { parser.finish(&mut batch).map(Some) } else { Ok(None) });
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
            Err(error) => Err(place.blame(error)),
        };
        // Rows that make no sense are first of all a sign of bytes that changed on the way.
        let Some(wanted) = place.crc() else { return whole.map(|()| Some(batch)) };
        let got = self.crc_of_all().await?;
        if got == wanted {
            return whole.map(|()| Some(batch));
        }
        let error = place.corrupt(wanted, got).tried(self.tries);
        if self.tries > AGAIN {
            return Err(error);
        }
        self.tries += 1;
        self.client = self.client.repeating();
        (self.parser, self.piece, self.next, self.crc) = (Some(CsvParser::new(self.sieve.clone())), None, 0, 0);
        Ok(Some(RowBatch { again: Some(error), ..RowBatch::default() }))
    }

    async fn read(&self, at: u64) -> Result<Bytes> {
        let end = self.shard.size.min(at + PIECE);
        self.shard.place.read(&self.client, at..end).await
    }

    /// The CRC of the whole file, what wasn't parsed included.
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

    /// Whether all of the file was there. If its CRC is known, that it matches is another question.
    fn check(&self, ending: FileEnd) -> Result<()> {
        let proved = self.shard.place.crc().is_some() || (self.counted && ending != FileEnd::InField);
        if ending == FileEnd::Whole || (proved && ending != FileEnd::InQuotes) {
            return Ok(());
        }
        Err(self.shard.place.blame(
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
    /// After a row of all columns, the last of which isn't used.
    AfterRow,
    /// In the last column of a row, which is used.
    InField,
    /// In quotes.
    InQuotes,
}

/// Rows out of bytes, piece by piece.
pub(super) struct CsvParser {
    sieve: RowFilter,
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
    /// Line on which the row begins, from 1.
    line: u64,
    /// Line ends before rows, which the parser doesn't see: it takes the CR of a CRLF as the end of a row.
    passed: u64,
    /// Last byte of all.
    last: u8,
    quotes: usize,
}

impl CsvParser {
    pub(super) fn new(sieve: RowFilter) -> Self {
        Self {
            sieve,
            core: csv_core::Reader::new(),
            columns: None,
            row: vec![0; 4 << 10],
            row_length: 0,
            ends: vec![0; 32],
            ends_length: 0,
            begun: false,
            line: 1,
            passed: 0,
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
                self.passed += u64::from(*end == b'\n');
                bytes = rest;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            if !self.begun {
                (self.begun, self.line) = (true, self.core.line() + self.passed);
            }
            bytes = &bytes[self.advance(bytes, batch)?.0..];
        }
    }

    /// Parses what has no line end, and tells how the file ends.
    pub(super) fn finish(&mut self, batch: &mut RowBatch) -> Result<FileEnd> {
        let used = |columns: &FieldColumns| columns.iter().any(|(_, at)| at + 1 == columns.width);
        let ending = match &self.columns {
            _ if matches!(self.last, b'\n' | b'\r') && self.quotes.is_multiple_of(2) => FileEnd::Whole,
            _ if !self.quotes.is_multiple_of(2) => FileEnd::InQuotes,
            Some(columns) if !used(columns) => FileEnd::AfterRow,
            _ => FileEnd::InField,
        };
        // Without input the parser takes the input as ended.
        while !self.advance(&[], batch)?.1 {}
        match self.columns {
            Some(_) => Ok(ending),
            None => FieldColumns::of(std::iter::empty()).map(|_| ending),
        }
    }

    /// One step: how many bytes it took, and whether that was the end.
    fn advance(&mut self, bytes: &[u8], batch: &mut RowBatch) -> Result<(usize, bool)> {
        let (result, taken, written, ended) =
            self.core.read_record(bytes, &mut self.row[self.row_length..], &mut self.ends[self.ends_length..]);
        self.row_length += written;
        self.ends_length += ended;
        match result {
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull if self.row.len() < LONGEST_ROW => self.row.resize(self.row.len() * 2, 0),
            ReadRecordResult::OutputEndsFull if self.ends.len() < LONGEST_ROW => {
                self.ends.resize(self.ends.len() * 2, 0);
            }
            ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                return Err(Error::new(ErrorKind::Protocol, format!("{}: the row doesn't end", CsvLine(self.line)))
                    .mismatch("a row of an inventory report", format_args!("more than {LONGEST_ROW} bytes"))
                    .hint("a quote that never closes does that: copy the shard again"));
            }
            ReadRecordResult::Record => {
                self.end_row(batch)?;
                (self.row_length, self.ends_length) = (0, 0);
                self.begun = false;
            }
            ReadRecordResult::End => return Ok((taken, true)),
        }
        Ok((taken, false))
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
        self.sieve.sift(&row, batch).map_err(|misfit| misfit.at(CsvLine(self.line)))
    }
}

/// The first byte that can't be of a column's name: those are letters and digits.
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
