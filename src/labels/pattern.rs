//! Patterns of names with a label in them.
//!
//! These are no regular expressions: names of data sets need no more, and a pattern reads like the name.

use std::ops::Range;

use crate::{Error, ErrorKind, Result, Stage};

/// A pattern that `{label}` is in.
#[derive(Clone, Debug)]
pub(super) struct NamePattern {
    text: String,
    pieces: Vec<Piece>,
    /// Whether it matches the last part of a name alone: if nothing in it matches a `/`.
    is_of_file: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `*`
    Part,
    /// `**`
    Path,
    /// `{label}`
    Label,
}

impl NamePattern {
    pub(super) fn parse(pattern: &str) -> Result<Self> {
        let wrong = |message: &str, wanted: &str, got: &str| {
            Err(Error::new(ErrorKind::Config, message)
                .stage(Stage::Manifest)
                .object(pattern)
                .mismatch(wanted, got)
                .hint(
                    "write it as the names are, with {label} for the label and * for what differs: \"{label}_*.jpg\"",
                ))
        };
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = pattern;
        while let Some(next) = rest.chars().next() {
            let special = [("{label}", Piece::Label), ("**", Piece::Path), ("*", Piece::Part)]
                .into_iter()
                .find_map(|(sign, piece)| Some((piece, rest.strip_prefix(sign)?)));
            if let Some((piece, after)) = special {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(piece);
                rest = after;
                continue;
            }
            rest = &rest[next.len_utf8()..];
            match next {
                '{' | '}' => {
                    return wrong("this pattern has a brace", "{label}, and \\{ or \\} for a brace", &next.to_string());
                }
                '\\' => {
                    let Some(escaped) = rest.chars().next() else {
                        return wrong("this pattern ends in a backslash", "a character behind it", "the end");
                    };
                    text.push(escaped);
                    rest = &rest[escaped.len_utf8()..];
                }
                other => text.push(other),
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }

        let labels = pieces.iter().filter(|piece| **piece == Piece::Label).count();
        if labels != 1 {
            return wrong("a pattern has the label once", "one {label}", &format!("{labels} of them"));
        }
        let is_variable = |piece: &Piece| !matches!(piece, Piece::Text(_));
        if pieces.windows(2).any(|pair| pair.iter().all(is_variable)) {
            return wrong("two wildcards of a pattern stand side by side", "text between {label} and *", "none");
        }
        let has_slash = pieces.iter().any(|piece| match piece {
            Piece::Text(text) => text.contains('/'),
            piece => *piece == Piece::Path,
        });
        Ok(Self { text: pattern.to_owned(), pieces, is_of_file: !has_slash })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The label in a name; `None` where the name doesn't match.
    pub(super) fn label<'a>(&self, below: &'a str) -> Option<&'a str> {
        let name = if self.is_of_file { below.rsplit('/').next()? } else { below };
        // Whether the pieces from one on are known not to match a name from a byte on. So the time is at most the
        // number of pieces times the square of the name's length.
        let mut failed = vec![false; self.pieces.len() * (name.len() + 1)];
        let label = self.matches(0, name, 0, &mut failed)?;
        name.get(label)
    }

    /// Matches the pieces from `piece` on with the name from `at` on. Returns where the label is; `0..0` if it isn't in
    /// these pieces.
    fn matches(&self, piece: usize, name: &str, at: usize, failed: &mut [bool]) -> Option<Range<usize>> {
        let Some(current) = self.pieces.get(piece) else { return (at == name.len()).then_some(0..0) };
        let state = piece * (name.len() + 1) + at;
        if failed[state] {
            return None;
        }
        let rest = &name[at..];
        let found = match current {
            Piece::Text(text) => rest
                .starts_with(text.as_str())
                .then(|| self.matches(piece + 1, name, at + text.len(), failed))
                .flatten(),
            variable => {
                let least = usize::from(*variable == Piece::Label);
                let most = if *variable == Piece::Path { None } else { rest.find('/') }.unwrap_or(rest.len());
                // What follows is a text or the end.
                let fits = |length: &usize| match self.pieces.get(piece + 1) {
                    Some(Piece::Text(text)) => rest.as_bytes()[*length..].starts_with(text.as_bytes()),
                    _ => *length == rest.len(),
                };
                (least..=most).rev().filter(fits).find_map(|length| {
                    let end = at + length;
                    let found = self.matches(piece + 1, name, end, failed)?;
                    Some(if *variable == Piece::Label { at..end } else { found })
                })
            }
        };
        failed[state] = found.is_none();
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn label<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
        NamePattern::parse(pattern).unwrap().label(name)
    }

    #[test]
    fn labels_are_found_in_names() {
        for (pattern, name, wanted) in [
            ("{label}_*.jpg", "beagle_12.jpg", Some("beagle")),
            ("{label}_*.jpg", "great_pyrenees_12.jpg", Some("great_pyrenees")),
            ("{label}_*.jpg", "any/folder/pug_1.jpg", Some("pug")),
            ("{label}_*.jpg", "pug.jpg", None),
            ("{label}_*.jpg", "_1.jpg", None),
            ("{label}_*.jpg", "pug_1.jpg.txt", None),
            ("{label}_*.jpg", "pug_.jpg", Some("pug")),
            ("{label}.*.jpg", "cat.0.jpg", Some("cat")),
            ("*_{label}.png", "img_07_cat.png", Some("cat")),
            ("*/{label}/*", "2026/cat/tom.png", Some("cat")),
            ("*/{label}/*", "2026/cat/deep/tom.png", None),
            ("**/{label}/*", "a/b/cat/tom.png", Some("cat")),
            ("{label}/**", "cat/a/b.png", Some("cat")),
            ("{label}_**", "pug_1/2.png", Some("pug")),
            ("{label}_**", "any/pug_1.png", None),
            ("{label}", "cat", Some("cat")),
            ("{label}", "dog/cat", Some("cat")),
            ("/{label}", "cat", None),
            ("Bär-{label}ö*", "Bär-Köln", Some("K")),
            ("{label}ö", "höö", Some("hö")),
            ("\\{{label}\\}\\**", "{cat}*1", Some("cat")),
        ] {
            assert_eq!(label(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_an_error() {
        for (pattern, said) in [
            ("*.jpg", "0 of them"),
            ("{label}_{label}", "2 of them"),
            ("{label}*.jpg", "text between"),
            ("*{label}", "text between"),
            ("{class}_*", "a brace"),
            ("{label}_\\", "ends in a backslash"),
            ("", "0 of them"),
        ] {
            let error = NamePattern::parse(pattern).unwrap_err();
            assert!(error.kind() == ErrorKind::Config && error.to_string().contains(said), "{pattern}: {error}");
        }
    }

    /// Without a memory of what failed, this would never end.
    #[test]
    fn a_name_that_nearly_matches_takes_no_long_time() {
        let pattern = format!("{}{{label}}b", "*a".repeat(12));
        assert_eq!(label(&pattern, &"a".repeat(1_000)), None);
        assert_eq!(label(&pattern, &("a".repeat(1_000) + "xb")), Some("x"));
    }

    proptest! {
        #[test]
        fn a_name_made_by_a_pattern_has_its_label(
            label in "[aé]{1,4}",
            texts in prop::collection::vec("[-._é/]{1,2}", 3),
            rest in "[aé]{0,3}",
            other in "[-._aé/]{0,12}",
        ) {
            let pattern = format!("{}*{}{{label}}{}", texts[0], texts[1], texts[2]);
            let pattern = NamePattern::parse(&pattern).unwrap();
            let name = format!("{}{rest}{}{label}{}", texts[0], texts[1], texts[2]);
            // Another split of the name may be the first one that matches.
            prop_assert!(pattern.label(&name).is_some(), "{name}");
            if let Some(found) = pattern.label(&other) {
                prop_assert!(other.contains(found) && !found.is_empty() && !found.contains('/'));
            }
        }
    }
}
