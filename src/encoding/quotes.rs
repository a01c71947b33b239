//! Checks the quotes of comma-separated values, which the reader of CSV takes leniently. Pure.

use std::fmt;

/// A place where the quotes of a text break RFC 4180. Lines are counted from 1, and end in LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuoteError {
    /// The cell that begins in this line is quoted, and nothing closes it. All that follows would be in that cell.
    Unclosed { line: usize },
    /// In this line something other than a delimiter or the end of the line follows a closing quote.
    TextBehind { line: usize },
}

impl fmt::Display for QuoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed { line } => write!(f, "no closing quote for the cell that begins in line {line}"),
            Self::TextBehind { line } => write!(f, "text behind a closing quote in line {line}"),
        }
    }
}

/// Where a text is between its cells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    CellStart,
    /// In a cell without quotes, in which quotes are ordinary characters.
    Plain,
    /// In a cell with quotes that begins in this line.
    Quoted {
        line: usize,
    },
    /// Behind a quote in such a cell: the closing one, or the first of two that stand for one.
    Quote {
        line: usize,
    },
}

/// Checks that each quoted cell of a text is closed, and that nothing follows in the same cell.
///
/// A file that is cut short within a quoted cell, or a quote that isn't doubled, would otherwise move text from one
/// cell to another.
pub(crate) fn check_quotes(text: &[u8], delimiter: u8) -> Result<(), QuoteError> {
    if !text.contains(&b'"') {
        return Ok(());
    }

    let (mut state, mut line) = (State::CellStart, 1);
    for &byte in text {
        let is_end = byte == delimiter || matches!(byte, b'\r' | b'\n');
        state = match state {
            State::CellStart if byte == b'"' => State::Quoted { line },
            State::CellStart | State::Plain | State::Quote { .. } if is_end => State::CellStart,
            State::CellStart | State::Plain => State::Plain,
            State::Quoted { line } if byte == b'"' => State::Quote { line },
            State::Quoted { .. } => state,
            State::Quote { line } if byte == b'"' => State::Quoted { line },
            State::Quote { .. } => return Err(QuoteError::TextBehind { line }),
        };
        line += usize::from(byte == b'\n');
    }
    match state {
        State::Quoted { line } => Err(QuoteError::Unclosed { line }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_close_and_nothing_follows_them() {
        for text in
            ["", "a,b\n", "\"a\"", "\"a\",\"b\"\r\n", "\"a\"\"b\"", "\"a\nb\"\n", "5\" disc,a\"b\n", "\"\"", "a,\"\""]
        {
            assert_eq!(check_quotes(text.as_bytes(), b','), Ok(()), "{text:?}");
        }
        for (text, error) in [
            ("a\n\"b", QuoteError::Unclosed { line: 2 }),
            ("a,\"b\n\nc\n", QuoteError::Unclosed { line: 1 }),
            ("\"a\"\"", QuoteError::Unclosed { line: 1 }),
            ("\"\n\"b", QuoteError::TextBehind { line: 2 }),
            ("\"a\" ,b", QuoteError::TextBehind { line: 1 }),
        ] {
            assert_eq!(check_quotes(text.as_bytes(), b','), Err(error), "{text:?}");
        }
        assert_eq!(check_quotes(b"\"a\"\tb", b'\t'), Ok(()));
    }
}
