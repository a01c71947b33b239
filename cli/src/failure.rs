//! Failures: how they are told, and which are none.

use std::fmt;
use std::io;

/// Arguments that can't work together: exit code 2, as clap has it for those that can't work at all.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Whatever read standard output has closed it.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for ReaderGone {}

/// The failure of a write to standard output.
pub(crate) fn of_stdout(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        ReaderGone.into()
    } else {
        anyhow::Error::new(error).context("standard output can't be written")
    }
}

/// An error and its causes on one line, safe to print: names of objects may hold anything.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let causes: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
    if causes.is_empty() {
        return printable(&error.to_string());
    }
    printable(&format!("{error} (cause: {})", causes.join(": ")))
}

/// Without control characters, which could do anything to a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn one_line_with_causes_and_without_escape_sequences() {
        let error = Err::<(), _>(io::Error::other("first\nsecond")).context("gs://b/\u{1b}[2Jx").unwrap_err();
        assert_eq!(line(&error), r"gs://b/\u{1b}[2Jx (cause: first second)");
        assert_eq!(line(&anyhow::anyhow!("alone")), "alone");
    }

    #[test]
    fn only_a_closed_standard_output_is_no_failure() {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(of_stdout(closed()).is::<ReaderGone>());
        assert!(!of_stdout(io::ErrorKind::StorageFull.into()).is::<ReaderGone>());
        assert!(!anyhow::Error::new(closed()).is::<ReaderGone>(), "a connection may break, too");
    }
}
