//! Tables in JSON lines: an object in each line, whose members are the cells.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::rows::{RowUnit, RowsBuilder, shortened, wrong};
use crate::Result;

/// Reads the rows of a file. Empty lines are left out.
///
/// # Errors
/// A line that is no JSON object, or has a member twice.
pub(super) fn read(text: &str, max_bytes: u64) -> Result<RowsBuilder> {
    let mut rows = RowsBuilder::new(max_bytes, RowUnit::Line);
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let Members(cells) = serde_json::from_str(text).map_err(|error| {
            wrong("a line of the table is no JSON object")
                .mismatch(
                    "an object such as {\"file\": \"1.png\", \"label\": \"cat\"}",
                    format_args!("'{}' in line {line}, wrong at column {}", shortened(text), error.column()),
                )
                .hint("correct the line; a table of this kind has an object in each line, and no array around them")
                .with_source(error)
        })?;
        for (name, value) in cells {
            let column = rows.column(&name)?;
            match value {
                Value::Null => {}
                Value::String(text) => rows.set(column, &text)?,
                other => rows.set(column, &other.to_string())?,
            }
        }
        rows.end_row(line)?;
    }
    Ok(rows)
}

/// The members of an object in the order of the text, also those of one name, of which a map would keep the last.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject;

        impl<'de> Visitor<'de> for OfObject {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = object.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(OfObject)
    }
}
