//! Patterns of names: which object is which part of which sample. Pure.

use crate::{Error, ErrorKind, Result, Stage};

/// What stands for the stem in a pattern.
const STEM: &str = "{}";

/// A pattern of names with a stem in it, such as `masks/{}.png`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartPattern {
    before: String,
    after: String,
}

impl PartPattern {
    /// # Errors
    /// The pattern doesn't have `{}` exactly once.
    pub(super) fn parse(pattern: &str) -> Result<Self> {
        match pattern.split_once(STEM) {
            Some((before, after)) if !after.contains(STEM) => Ok(Self { before: before.into(), after: after.into() }),
            _ => Err(Error::new(ErrorKind::Config, "this can't be the pattern of a part")
                .stage(Stage::Manifest)
                .mismatch("{} exactly once, for the stem, as in {}.jpg or masks/{}.png", format_args!("'{pattern}'"))
                .hint(
                    "patterns are for what follows the prefix in a name; an object that all samples share is no part",
                )),
        }
    }

    /// The stem of a name that matches. It is never empty.
    fn stem<'a>(&self, name: &'a str) -> Option<&'a str> {
        let stem = name.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        (!stem.is_empty()).then_some(stem)
    }

    /// Appends the name of the part that has this stem.
    pub(super) fn push_name(&self, stem: &str, name: &mut String) {
        for text in [&*self.before, stem, &*self.after] {
            name.push_str(text);
        }
    }

    /// Number of bytes that are the same in all names.
    fn text(&self) -> usize {
        self.before.len() + self.after.len()
    }
}

/// The pattern that a name belongs to, by its index, and the name's stem. Of several patterns that match, it is the one
/// with the most text beside the stem, so that `{}_mask.png` wins over `{}.png`; of those the first.
pub(super) fn owner<'a, 'p>(
    patterns: impl IntoIterator<Item = (usize, &'p PartPattern)>,
    name: &'a str,
) -> Option<(usize, &'a str)> {
    let mut best: Option<(usize, usize, &str)> = None;
    for (index, pattern) in patterns {
        if let Some(stem) = pattern.stem(name)
            && best.is_none_or(|(text, ..)| pattern.text() > text)
        {
            best = Some((pattern.text(), index, stem));
        }
    }
    best.map(|(_, index, stem)| (index, stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_one_stem() {
        for pattern in ["{}", "{}.jpg", "a/{}", "a/{}.b/c"] {
            let parsed = PartPattern::parse(pattern).unwrap();
            let mut name = String::new();
            parsed.push_name("x/y", &mut name);
            assert_eq!(name, pattern.replace("{}", "x/y"));
            assert_eq!(parsed.stem(&name), Some("x/y"));
        }
        for pattern in ["", "a.jpg", "{}{}", "{}/{}.jpg", "{a}"] {
            let error = PartPattern::parse(pattern).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(&format!("got '{pattern}'")), "{error}");
        }
    }

    #[test]
    fn the_stem_is_never_empty_and_never_shared_by_both_ends() {
        let pattern = PartPattern::parse("a{}a").unwrap();
        assert_eq!([pattern.stem("a"), pattern.stem("aa"), pattern.stem("aaa")], [None, None, Some("a")]);
    }

    #[test]
    fn the_pattern_with_the_most_text_wins() {
        let patterns = ["{}.png", "{}_mask.png", "m/{}.png"].map(|text| PartPattern::parse(text).unwrap());
        let owner = |name| owner(patterns.iter().enumerate(), name);
        assert_eq!(owner("1.png"), Some((0, "1")));
        assert_eq!(owner("1_mask.png"), Some((1, "1")));
        assert_eq!(owner("m/1_mask.png"), Some((1, "m/1")));
        assert_eq!(owner("m/1.png"), Some((2, "1")));
        assert_eq!(owner("1.json"), None);
    }
}
