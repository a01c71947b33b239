//! Standard output, which gets results and nothing else.

use std::io::{self, BufWriter, Write};
use std::time::SystemTime;

use anyhow::Result;
use serde::Serialize;

use crate::failure;

/// Writes a result, buffered, and flushes it.
pub(crate) fn write(body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    body(&mut out).and_then(|()| out.flush()).map_err(failure::stdout_error)
}

/// Writes a result as one line of JSON.
pub(crate) fn json(result: &impl Serialize) -> Result<()> {
    write(|out| {
        serde_json::to_writer(&mut *out, result)?;
        out.write_all(b"\n")
    })
}

/// Writes a result as a table of names and values.
pub(crate) fn table(rows: &[(&str, String)]) -> Result<()> {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    write(|out| rows.iter().try_for_each(|(name, value)| writeln!(out, "{name:width$}  {value}")))
}

/// Writes a time in the form of RFC 3339, in UTC, to the millisecond, as the service does.
pub(crate) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Writes a number of bytes, rounded to a unit and exact.
pub(crate) fn bytes(bytes: u64) -> String {
    if bytes < 1_024 { format!("{bytes} B") } else { format!("{} ({bytes})", indicatif::HumanBytes(bytes)) }
}
