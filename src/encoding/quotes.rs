//! Checks the quotes of comma-separated values, which the reader of CSV takes leniently. Pure.

use std::fmt;

/// A place where the quotes of a text break RFC 4180. Lines are counted from 1, and end in CR, LF, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuoteError {
    /// The cell that begins in this line is quoted, and nothing closes it. All that follows would be in that cell.
    Unclosed { line: usize },
    /// In this line something other than a delimiter or the end of the line follows a closing quote.
    TextAfterQuote { line: usize },
}

impl fmt::Display for QuoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed { line } => write!(f, "no closing quote for the cell that begins in line {line}"),
            Self::TextAfterQuote { line } => write!(f, "text after a closing quote in line {line}"),
        }
    }
}

/// How the text so far ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum QuoteState {
    /// Before the first character of a cell.
    CellStart,
    /// In a cell without quotes, in which quotes are ordinary characters.
    Plain,
    /// In a cell with quotes that begins in this line.
    Quoted { begins_at: usize },
    /// After a quote in such a cell: the closing one, or the first of two that stand for one.
    Quote { begins_at: usize },
}

/// Checks that each quoted cell of a text is closed, and that nothing follows in the same cell.
///
/// A file that is cut short within a quoted cell, or a quote that isn't doubled, would otherwise move text from one
/// cell to another.
pub(crate) fn check_quotes(text: &[u8], delimiter: u8) -> Result<(), QuoteError> {
    if !text.contains(&b'"') {
        return Ok(());
    }

    let (mut state, mut line) = (QuoteState::CellStart, 1);
    for (index, &byte) in text.iter().enumerate() {
        let is_end = byte == delimiter || matches!(byte, b'\r' | b'\n');
        state = match state {
            QuoteState::CellStart if byte == b'"' => QuoteState::Quoted { begins_at: line },
            QuoteState::CellStart | QuoteState::Plain | QuoteState::Quote { .. } if is_end => QuoteState::CellStart,
            QuoteState::CellStart | QuoteState::Plain => QuoteState::Plain,
            QuoteState::Quoted { begins_at } if byte == b'"' => QuoteState::Quote { begins_at },
            QuoteState::Quoted { .. } => state,
            QuoteState::Quote { begins_at } if byte == b'"' => QuoteState::Quoted { begins_at },
            QuoteState::Quote { .. } => return Err(QuoteError::TextAfterQuote { line }),
        };
        let ends_line = byte == b'\n' || byte == b'\r' && text.get(index + 1) != Some(&b'\n');
        line += usize::from(ends_line);
    }
    match state {
        QuoteState::Quoted { begins_at } => Err(QuoteError::Unclosed { line: begins_at }),
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
            ("\"\n\"b", QuoteError::TextAfterQuote { line: 2 }),
            ("\"a\" ,b", QuoteError::TextAfterQuote { line: 1 }),
            ("a\r\"b", QuoteError::Unclosed { line: 2 }),
            ("a\r\rb\r\n\"c\rd\"e", QuoteError::TextAfterQuote { line: 5 }),
        ] {
            assert_eq!(check_quotes(text.as_bytes(), b','), Err(error), "{text:?}");
        }
        assert_eq!(check_quotes(b"\"a\"\tb", b'\t'), Ok(()));
    }
}
