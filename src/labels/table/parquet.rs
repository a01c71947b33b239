//! Tables in Parquet. Beside the reader of inventory reports, no other file uses the crate `parquet`.

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::Field;
use serde_json::Value;

use super::rows::{RowUnit, RowsBuilder, wrong};
use crate::{Error, Result};

/// Reads the rows of a file.
///
/// # Errors
/// The file is damaged, or has values that are no texts, numbers, or lists of these.
pub(super) fn read(file: Bytes, max_bytes: u64) -> Result<RowsBuilder> {
    // The crate may panic on damaged files; see `list/inventory/parquet.rs`.
    let outcome = std::thread::scope(|scope| {
        let reading = std::thread::Builder::new().name("dataflux-parquet".to_owned());
        let reading = reading.spawn_scoped(scope, || read_rows(file, max_bytes));
        reading.map(std::thread::ScopedJoinHandle::join)
    });
    match outcome {
        Ok(Ok(rows)) => rows,
        Ok(Err(_panic)) => Err(wrong("the Parquet table can't be read, and its reader panicked").hint(AGAIN)),
        Err(error) => Err(wrong("the system refuses a thread that reads the Parquet table")
            .hint("end other programs, or raise the limit on threads")
            .with_source(error)),
    }
}

const AGAIN: &str = "write the table again, or as CSV; pages may be uncompressed, or compressed with Snappy or gzip";

fn refused(error: ParquetError) -> Error {
    wrong("the Parquet table can't be read").hint(AGAIN).with_source(error)
}

fn read_rows(file: Bytes, max_bytes: u64) -> Result<RowsBuilder> {
    let reader = SerializedFileReader::new(file).map_err(refused)?;
    let mut rows = RowsBuilder::new(max_bytes, RowUnit::Row);
    // Columns without a value in any row are there, too.
    for field in reader.metadata().file_metadata().schema().get_fields() {
        rows.column(field.name())?;
    }
    for (number, row) in (1..).zip(reader.get_row_iter(None).map_err(refused)?) {
        for (name, field) in row.map_err(refused)?.get_column_iter() {
            let column = rows.column(name)?;
            match value_of(field) {
                Some(Value::Null) => {}
                Some(Value::String(text)) => rows.set(column, &text)?,
                Some(other) => rows.set(column, &other.to_string())?,
                None => {
                    return Err(wrong("a value of the table is of a type that labels can't have")
                        .mismatch(
                            "texts, numbers, or lists of these",
                            format_args!("{field} in column '{name}' of row {number}"),
                        )
                        .hint("leave the column out, or write its values as text"));
                }
            }
        }
        rows.end_row(number)?;
    }
    Ok(rows)
}

/// A value as JSON; `None` for types without one here.
fn value_of(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        // The shortest digits, which are those of the value as it was written.
        Field::Float(value) => value.to_string().parse::<f64>().ok()?.into(),
        Field::Double(value) => (*value).into(),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok()?.into(),
        Field::ListInternal(list) => list.elements().iter().map(value_of).collect::<Option<Vec<_>>>()?.into(),
        _ => return None,
    })
}
