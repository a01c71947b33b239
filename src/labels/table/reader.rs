//! Reads tables: from a bucket, a file or a reader, in the format that they have.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;

use super::label_table::{LabelTable, RowKey};
use super::rows::{TableRows, wrong};
use super::{csv, json_lines};
use crate::encoding::Compression;
use crate::io::Io;
use crate::read::Download;
use crate::store::{Client, ContentEncoding, ObjectId, StoreUri, Version};
use crate::{Error, ErrorKind, Result, Stage};

/// The format of a [`LabelTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableFormat {
    /// Comma-separated values, whose first line names the columns.
    Csv,
    /// A JSON object in each line, whose members are the cells.
    JsonLines,
    /// Parquet, with the feature `parquet`.
    Parquet,
}

impl TableFormat {
    /// The format that the suffix of a name stands for: `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.parquet`, in any case.
    fn of_name(name: &str) -> Option<Self> {
        let suffix = name.rsplit_once('.')?.1.to_ascii_lowercase();
        Some(match suffix.as_str() {
            "csv" | "tsv" => Self::Csv,
            "jsonl" | "ndjson" => Self::JsonLines,
            "parquet" => Self::Parquet,
            _ => return None,
        })
    }
}

/// Reads a [`LabelTable`]. Made by [`LabelTable::reader`].
#[derive(Clone, Debug)]
#[must_use = "a reader does nothing until it is given a table"]
pub struct LabelTableReader {
    key: String,
    row_key: RowKey,
    format: Option<TableFormat>,
    delimiter: Option<u8>,
    max_bytes: u64,
}

/// The default of [`LabelTableReader::max_bytes`]: tens of millions of rows with short names.
const DEFAULT_MAX_BYTES: u64 = 1 << 30;

impl LabelTable {
    /// Reads a table whose column `key` has the names of samples.
    pub fn reader(key: impl Into<String>) -> LabelTableReader {
        LabelTableReader::new(key.into())
    }
}

impl LabelTableReader {
    fn new(key: String) -> Self {
        Self { key, row_key: RowKey::default(), format: None, delimiter: None, max_bytes: DEFAULT_MAX_BYTES }
    }

    /// Sets which part of a sample's name is in the key column: by default the name below the prefix.
    pub fn row_key(mut self, row_key: RowKey) -> Self {
        self.row_key = row_key;
        self
    }

    /// Sets the format. By default the suffix of the object or file says it.
    pub fn format(mut self, format: TableFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// Sets the character between the cells of CSV: by default a tabulator if the name ends in `.tsv`, else a comma.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = Some(delimiter);
        self
    }

    /// Sets how many bytes the table may have: as stored, decompressed, and as cells in memory, which are the bytes of
    /// their text and four more for each cell. 1 GiB by default.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Reads an object, such as `gs://my-bucket/labels.csv`, proves it by its CRC32C, and decompresses it if it is
    /// [compressed](crate::encoding). [`LabelTable::source`] says which generation it was. Blocks; may be called from
    /// anywhere.
    ///
    /// # Errors
    /// The URI is invalid; the object doesn't exist, can't be read, or is too large; see [`read`](Self::read).
    pub fn open(self, client: &Client, uri: &str) -> Result<LabelTable> {
        let StoreUri { scheme, bucket, path } = uri.parse()?;
        let id = ObjectId::new(bucket, path.as_str(), Version::None).with_scheme(scheme);
        client.check_scheme(scheme, &id)?;
        let (client, max_bytes) = (client.clone(), self.max_bytes);
        let (bytes, id, encoding) = Io::shared()?.run(async move {
            let meta = client.stat(&id).await.map_err(|error| error.stage(Stage::Manifest))?;
            let id = ObjectId { version: meta.version, ..id };
            if meta.size > max_bytes {
                return Err(too_large(max_bytes, meta.size).object(&id));
            }
            let download = Download::of(&client, id.clone(), meta.size, meta.crc32c);
            let (bytes, _) = download.into_memory().await.map_err(|error| error.stage(Stage::Manifest))?;
            Ok((bytes, id, meta.encoding))
        })?;
        self.parse(bytes, encoding, &path, &id.to_string())
    }

    /// Reads a local file, as [`open`](Self::open) does an object.
    ///
    /// # Errors
    /// The file can't be read, or is too large; see [`read`](Self::read).
    pub fn open_file(self, path: impl AsRef<Path>) -> Result<LabelTable> {
        let path = path.as_ref();
        let source = path.display().to_string();
        let unreadable = |error: std::io::Error| {
            let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
            wrong("the table can't be read").with_kind(kind).object(&source).hint("check the path").with_source(error)
        };
        let bytes = File::open(path).map_err(unreadable).and_then(|file| self.read_all(file, &source))?;
        self.parse(bytes, ContentEncoding::Identity, &source, &source)
    }

    /// Reads a table from anything that can be read, such as bytes in memory: as CSV unless another
    /// [`format`](Self::format) is set. It isn't decompressed.
    ///
    /// ```
    /// use dataflux::{LabelTable, TableFormat};
    ///
    /// let lines = r#"{"file": "1.png", "tags": ["cat", "sofa"]}
    /// {"file": "2.png", "tags": []}"#;
    /// let table = LabelTable::reader("file").format(TableFormat::JsonLines).read(lines.as_bytes())?;
    /// assert_eq!(table.get("1.png", "tags"), Some(r#"["cat","sofa"]"#));
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// The table has no such key column, a row without a key, or two rows of one key that differ; it isn't of its
    /// format; it is too large; reading fails. The error names the table, and the line and column where there is one.
    pub fn read(self, reader: impl Read) -> Result<LabelTable> {
        const SOURCE: &str = "a reader";
        let bytes = self.read_all(reader, SOURCE)?;
        let format = self.format.unwrap_or(TableFormat::Csv);
        Self { format: Some(format), ..self }.parse(bytes, ContentEncoding::Identity, "", SOURCE)
    }

    /// All bytes, within the limit.
    fn read_all(&self, reader: impl Read, source: &str) -> Result<Bytes> {
        let mut bytes = Vec::new();
        let read = reader.take(self.max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| {
            wrong("the table can't be read")
                .with_kind(ErrorKind::Io)
                .object(source)
                .hint("read it again")
                .with_source(error)
        })?;
        if read as u64 > self.max_bytes {
            return Err(too_large(self.max_bytes, "more").object(source));
        }
        Ok(bytes.into())
    }

    fn parse(self, bytes: Bytes, encoding: ContentEncoding, name: &str, source: &str) -> Result<LabelTable> {
        let rows = self.rows(bytes, encoding, name, source).map_err(|error| error.object(source))?;
        Ok(LabelTable::new(rows, self.row_key))
    }

    fn rows(&self, bytes: Bytes, encoding: ContentEncoding, name: &str, source: &str) -> Result<TableRows> {
        let compression = Compression::of(encoding, name).map_err(|error| {
            wrong("the compression of the table is unknown")
                .with_kind(ErrorKind::Unsupported)
                .hint("write the table uncompressed, or compressed with gzip or Zstandard")
                .with_source(error)
        })?;
        let undecompressed = |error: anyhow::Error| {
            wrong("the table can't be decompressed")
                .with_kind(ErrorKind::Integrity)
                .hint(
                    "write the table again; enable the feature that its compression takes; or raise \
                       LabelTableReader::max_bytes",
                )
                .with_source(error)
        };
        let (bytes, name) = match compression {
            None => (bytes, name),
            Some(compression) => {
                let bytes = compression.decompress(&bytes, self.max_bytes).map_err(undecompressed)?;
                let by_name = Compression::of(ContentEncoding::Identity, name).ok().flatten().is_some();
                let name = name.rsplit_once('.').filter(|_| by_name).map_or(name, |(name, _)| name);
                (Bytes::from(bytes), name)
            }
        };
        let format = self.format.or_else(|| TableFormat::of_name(name)).ok_or_else(|| {
            wrong("the format of the table is unknown")
                .mismatch("a name that ends in .csv, .tsv, .jsonl, .ndjson or .parquet", format_args!("'{name}'"))
                .hint("set the format with LabelTableReader::format")
        })?;
        let is_tsv = name.to_ascii_lowercase().ends_with(".tsv");
        let delimiter = self.delimiter.unwrap_or(if is_tsv { b'\t' } else { b',' });
        let rows = match format {
            TableFormat::Csv => csv::read(text_of(&bytes)?, delimiter, self.max_bytes)?,
            TableFormat::JsonLines => json_lines::read(text_of(&bytes)?, self.max_bytes)?,
            #[cfg(feature = "parquet")]
            TableFormat::Parquet => super::parquet::read(bytes, self.max_bytes)?,
            #[cfg(not(feature = "parquet"))]
            TableFormat::Parquet => {
                return Err(wrong("Parquet tables take the feature `parquet` of dataflux")
                    .with_kind(ErrorKind::Unsupported)
                    .hint("enable that feature, or write the table as CSV or JSON lines"));
            }
        };
        rows.finish(source, &self.key)
    }
}

fn too_large(max_bytes: u64, got: impl std::fmt::Display) -> Error {
    wrong("the table is too large")
        .mismatch(format_args!("{max_bytes} bytes at most"), format_args!("{got}"))
        .hint("raise LabelTableReader::max_bytes, or write the columns of labels into a table of their own")
}

/// The text of a file, without the byte order mark that some programs begin it with.
fn text_of(bytes: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = bytes[..at].split(|byte| *byte == b'\n').count();
        wrong("the table is no text in UTF-8")
            .mismatch("UTF-8", format_args!("other bytes in line {line}, at byte {at} of the table"))
            .hint("write it in UTF-8, or set its format with LabelTableReader::format")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}
