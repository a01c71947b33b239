//! Rows of a report, independent of its format: which columns there are, which rows are wanted, and the values of
//! cells.

use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::store::{ContentEncoding, ObjectRef, Objects, StorageClass, Version};
use crate::{Error, ErrorKind, Result, Stage};

/// A metadata field of a report that is used here. The service has a dozen more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportField {
    Name,
    Size,
    Generation,
    Bucket,
    Crc32c,
    StorageClass,
    ContentEncoding,
    Updated,
    TimeDeleted,
    SoftDeleteTime,
}

/// Number of [`ReportField`]s.
pub(super) const FIELDS: usize = 10;

impl ReportField {
    pub(super) const ALL: [Self; FIELDS] = [
        Self::Name,
        Self::Size,
        Self::Generation,
        Self::Bucket,
        Self::Crc32c,
        Self::StorageClass,
        Self::ContentEncoding,
        Self::Updated,
        Self::TimeDeleted,
        Self::SoftDeleteTime,
    ];
    const REQUIRED: [Self; 3] = [Self::Name, Self::Size, Self::Generation];

    /// The service's name for the field, as in `metadataFields` of a report's configuration.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Size => "size",
            Self::Generation => "generation",
            Self::Bucket => "bucket",
            Self::Crc32c => "crc32c",
            Self::StorageClass => "storageClass",
            Self::ContentEncoding => "contentEncoding",
            Self::Updated => "updated",
            Self::TimeDeleted => "timeDeleted",
            Self::SoftDeleteTime => "softDeleteTime",
        }
    }
}

/// The columns of a shard that hold the fields.
#[derive(Clone, Debug)]
pub(super) struct FieldColumns {
    at: [Option<usize>; FIELDS],
    /// Number of columns in all.
    pub(super) width: usize,
}

impl FieldColumns {
    /// Finds the fields in a header. The error doesn't name the shard.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut columns = Self { at: [None; FIELDS], width: 0 };
        let mut seen = String::new();
        for name in names {
            for field in ReportField::ALL.into_iter().filter(|field| field.as_str().eq_ignore_ascii_case(name)) {
                if columns.at[field as usize].replace(columns.width).is_some() {
                    return Err(Error::new(ErrorKind::Config, "a column comes twice")
                        .mismatch("each column once", format_args!("two of the name {name}"))
                        .stage(Stage::List));
                }
            }
            columns.width += 1;
            if seen.len() < 200 {
                seen.push_str(if seen.is_empty() { "" } else { ", " });
                seen.extend(name.chars().take(40).filter(|c| !c.is_control()));
            }
        }
        if columns.at.iter().all(Option::is_none) {
            return Err(Error::new(ErrorKind::Config, "the shard has no header")
                .stage(Stage::List)
                .mismatch("a first row with name, size and generation in it", format_args!("{seen:?}"))
                .hint(
                    "turn on the header in the report's configuration (--csv-header) or choose Parquet, and take the \
                     next report",
                ));
        }
        let missing: Vec<_> = ReportField::REQUIRED
            .into_iter()
            .filter(|field| columns.get(*field).is_none())
            .map(ReportField::as_str)
            .collect();
        if missing.is_empty() {
            return Ok(columns);
        }
        let missing = missing.join(" and ");
        Err(Error::new(ErrorKind::Config, format!("the report has no column {missing}"))
            .stage(Stage::List)
            .mismatch("name, size and generation", format_args!("the columns {seen}"))
            .hint(format!(
                "add {missing} to the metadata fields of the report's configuration (gcloud storage insights \
                 inventory-reports update, --add-metadata-fields), and take the next report"
            )))
    }

    /// The column of a field, counted from 0.
    pub(super) fn get(&self, field: ReportField) -> Option<usize> {
        self.at[field as usize]
    }

    /// The fields that the shard has, with their columns.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ReportField, usize)> {
        ReportField::ALL.into_iter().filter_map(|field| Some((field, self.get(field)?)))
    }
}

/// The value of a column in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReportCell<'a> {
    /// No value, or no such column.
    #[default]
    Null,
    /// The bytes of a text, which isn't empty.
    Text(&'a [u8]),
    /// A whole number; for times, microseconds since 1970. Only Parquet has these.
    #[cfg(any(feature = "parquet", test))]
    Int(i64),
}

impl<'a> ReportCell<'a> {
    fn as_text(self) -> Option<&'a [u8]> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn text(text: &'a [u8]) -> Self {
        if text.is_empty() { Self::Null } else { Self::Text(text) }
    }
}

impl fmt::Display for ReportCell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            #[cfg(any(feature = "parquet", test))]
            Self::Int(number) => number.fmt(f),
            Self::Text(text) => {
                let (start, more) = if text.len() > 80 { (&text[..80], "...") } else { (*text, "") };
                write!(f, "{:?}{more}", String::from_utf8_lossy(start))
            }
        }
    }
}

/// The cells of a row, by `ReportField as usize`.
pub(super) type ReportRow<'a> = [ReportCell<'a>; FIELDS];

/// A cell with an impossible value.
#[derive(Debug)]
pub(super) struct CellMismatch {
    field: ReportField,
    wanted: &'static str,
    got: String,
}

impl CellMismatch {
    /// The error, given the row or line.
    pub(super) fn at(self, row: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Protocol, format!("{row}, column {}: a value that can't be", self.field.as_str()))
            .stage(Stage::List)
            .mismatch(self.wanted, self.got)
            .hint("the shard is damaged, or was changed after the service wrote it: take the original")
    }
}

/// Counts of a report's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InventoryCounts {
    /// All rows: the sum of the counts below.
    pub rows: u64,
    /// Live objects of the bucket, below the prefix.
    pub objects: u64,
    /// Rows of other buckets.
    pub other_buckets: u64,
    /// Rows of the bucket with names that aren't below the prefix.
    pub other_names: u64,
    /// Rows of the bucket with a time of deletion: versions that are no longer live, and soft-deleted objects.
    pub deleted: u64,
}

/// For example `221 rows, 5 of other buckets, 100 of other names, 16 of deleted objects, 100 of objects`.
impl fmt::Display for InventoryCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, objects, other_buckets, other_names, deleted } = self;
        write!(
            f,
            "{rows} rows, {other_buckets} of other buckets, {other_names} of other names, {deleted} of deleted objects, \
             {objects} of objects"
        )
    }
}

impl AddAssign for InventoryCounts {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.objects += other.objects;
        self.other_buckets += other.other_buckets;
        self.other_names += other.other_names;
        self.deleted += other.deleted;
    }
}

/// The result of a piece of a shard.
#[derive(Debug, Default)]
pub(super) struct RowBatch {
    pub(super) objects: Objects,
    pub(super) counts: InventoryCounts,
    /// The bucket of a row of another bucket, for the error where all rows are of other buckets.
    pub(super) other_bucket: Option<String>,
    /// Set if the shard is read again, which makes all rows that came from it before void: the reason.
    pub(super) restarted: Option<Error>,
}

/// Selects the rows that are wanted.
#[derive(Clone, Debug)]
pub(super) struct RowFilter {
    pub(super) bucket: Arc<str>,
    pub(super) prefix: String,
}

impl RowFilter {
    /// Adds the row's object to the batch if it is wanted. Counts the row in any case.
    pub(super) fn apply(&self, row: &ReportRow<'_>, batch: &mut RowBatch) -> Result<(), CellMismatch> {
        let cell = |field: ReportField| row[field as usize];
        let mismatch = |field, wanted| CellMismatch { field, wanted, got: cell(field).to_string() };
        batch.counts.rows += 1;
        if let ReportCell::Text(bucket) = cell(ReportField::Bucket)
            && bucket != self.bucket.as_bytes()
        {
            batch.counts.other_buckets += 1;
            batch.other_bucket.get_or_insert_with(|| String::from_utf8_lossy(bucket).into_owned());
            return Ok(());
        }
        if is_time(cell(ReportField::TimeDeleted)) || is_time(cell(ReportField::SoftDeleteTime)) {
            batch.counts.deleted += 1;
            return Ok(());
        }
        let name = match cell(ReportField::Name) {
            ReportCell::Text(name) if name.len() <= 1_024 => name,
            _ => return Err(mismatch(ReportField::Name, "a name of 1 to 1,024 bytes")),
        };
        if !name.starts_with(self.prefix.as_bytes()) {
            batch.counts.other_names += 1;
            return Ok(());
        }
        let name = std::str::from_utf8(name)
            .ok()
            .filter(|name| !name.contains(['\r', '\n']))
            .ok_or_else(|| mismatch(ReportField::Name, "a name in UTF-8 without CR and LF"))?;
        let crc = cell(ReportField::Crc32c);
        let crc32c = if matches!(crc, ReportCell::Null) {
            None
        } else {
            Some(parse_crc(crc).ok_or_else(|| mismatch(ReportField::Crc32c, "base64 of four bytes"))?)
        };
        let size = match cell(ReportField::Size) {
            // A writer may leave out a zero. The CRC of no bytes is 0.
            ReportCell::Null if crc32c == Some(0) => 0,
            size => parse_number(size).ok_or_else(|| mismatch(ReportField::Size, "a number of bytes"))?,
        };
        let version = parse_number(cell(ReportField::Generation))
            .and_then(|generation| i64::try_from(generation).ok())
            .filter(|generation| *generation > 0)
            .map(Version::Generation)
            .ok_or_else(|| mismatch(ReportField::Generation, "a generation, greater than 0"))?;
        let text = |field| cell(field).as_text().map(|text| std::str::from_utf8(text).unwrap_or("?"));
        let storage_class = text(ReportField::StorageClass).map_or(StorageClass::Unspecified, StorageClass::parse);
        let encoding = text(ReportField::ContentEncoding).map_or(ContentEncoding::Identity, ContentEncoding::parse);
        batch.objects.push(ObjectRef {
            name,
            size,
            version,
            crc32c,
            storage_class,
            encoding,
            updated: parse_time(cell(ReportField::Updated)),
            details: None,
        });
        batch.counts.objects += 1;
        Ok(())
    }
}

/// Whether a cell holds a time. Writers without nulls write 1970 for "never".
fn is_time(cell: ReportCell<'_>) -> bool {
    match cell {
        ReportCell::Null => false,
        #[cfg(any(feature = "parquet", test))]
        ReportCell::Int(micros) => micros != 0,
        ReportCell::Text(text) => !text.starts_with(b"1970-01-01"),
    }
}

/// A whole number that isn't negative.
fn parse_number(cell: ReportCell<'_>) -> Option<u64> {
    match cell {
        ReportCell::Null => None,
        #[cfg(any(feature = "parquet", test))]
        ReportCell::Int(number) => u64::try_from(number).ok(),
        ReportCell::Text(digits) => digits.iter().try_fold(0u64, |number, digit| {
            digit.is_ascii_digit().then(|| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?
        }),
    }
}

/// A CRC: base64 of four big-endian bytes, which always has 8 characters, the last two of them `=`. The service's other
/// exports have CRCs as numbers, which can't be mistaken for base64.
fn parse_crc(cell: ReportCell<'_>) -> Option<u32> {
    let ReportCell::Text(text) = cell else { return parse_number(cell)?.try_into().ok() };
    let mut bytes = [0; 6];
    match STANDARD.decode_slice(text, &mut bytes) {
        Ok(4) if text.len() == 8 => Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        _ if text.ends_with(b"=") => None,
        _ => parse_number(cell)?.try_into().ok(),
    }
}

/// A time: microseconds, or a text like `2024-05-20T06:35:00.123Z`. A space may replace the `T`, and ` UTC`, `+00:00`
/// or nothing the `Z`. `None` for anything else, since no sample depends on it.
fn parse_time(cell: ReportCell<'_>) -> Option<SystemTime> {
    let text = match cell {
        ReportCell::Null => return None,
        #[cfg(any(feature = "parquet", test))]
        ReportCell::Int(micros) => {
            return SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_micros(micros.try_into().ok()?));
        }
        ReportCell::Text(text) => text,
    };
    let text = std::str::from_utf8(text).ok()?;
    let local = ["Z", " UTC", "+00:00", "+00"].iter().find_map(|zone| text.strip_suffix(zone)).unwrap_or(text);
    // The parser takes a time with any positive offset for UTC.
    if local.contains(['+', 'Z']) {
        return None;
    }
    humantime::parse_rfc3339_weak(local).ok()
}
