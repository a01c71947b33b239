//! Globs, compiled.

use std::fmt;

use globset::{Glob, GlobBuilder, GlobSet};

use crate::{Error, ErrorKind, Result, Stage};

/// A set of globs, any of which may match.
#[derive(Clone, Default)]
pub(super) struct Globs {
    all: Vec<Glob>,
    set: GlobSet,
    any_case: bool,
}

impl Globs {
    pub(super) fn push(&mut self, glob: &str) -> Result<()> {
        let refused = |why: &dyn fmt::Display, hint: &str| {
            Err(Error::new(ErrorKind::Config, format!("'{glob}' is no glob: {why}")).stage(Stage::List).hint(hint))
        };
        if glob.trim_matches('/').is_empty() {
            return refused(&"it names nothing", "write it as *.jpg, cat/* or raw/");
        }
        if has_non_ascii_class(glob) {
            return refused(
                &"brackets hold single bytes",
                "write other characters than ASCII as {é,è} or match them by *",
            );
        }
        let hint =
            r"write it as *.{jpg,png}, train/**/[0-9]*.png or raw/, and a *, ?, [ or { of a name as \*, \?, \[ or \{";
        let built = self.build(&anchored(glob)).and_then(|built| {
            self.all.push(built);
            GlobSet::new(&self.all)
        });
        match built {
            Ok(set) => self.set = set,
            Err(error) => return refused(error.kind(), hint),
        }
        Ok(())
    }

    fn build(&self, anchored: &str) -> Result<Glob, globset::Error> {
        GlobBuilder::new(anchored)
            .literal_separator(true)
            .backslash_escape(true)
            .empty_alternates(true)
            .case_insensitive(self.any_case)
            .build()
    }

    /// Ignores case in all globs, present and future: those present are built again.
    pub(super) fn ignore_case(&mut self) -> Result<()> {
        self.any_case = true;
        let built = self.all.iter().map(|glob| self.build(glob.glob())).collect::<Result<Vec<_>, _>>();
        let built = built.and_then(|globs| Ok((GlobSet::new(&globs)?, globs)));
        (self.set, self.all) = built.map_err(|error| {
            Error::new(ErrorKind::Config, format!("these globs can't be matched in any case: {}", error.kind()))
                .stage(Stage::List)
                .object(format_args!("{self:?}"))
                .hint("give fewer or shorter globs")
        })?;
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a glob matches a name below the prefix's last slash.
    pub(super) fn matches(&self, below: &str) -> bool {
        // As bytes and not as a path, since paths differ between platforms.
        !self.is_empty() && self.set.is_match_candidate(&globset::Candidate::from_bytes(below))
    }
}

impl fmt::Debug for Globs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(Glob::glob)).finish()
    }
}

/// The glob that matches the whole name below the prefix's last slash.
fn anchored(glob: &str) -> String {
    let (path, all) = glob.strip_suffix('/').map_or((glob, ""), |folder| (folder, "/**"));
    match path.strip_prefix('/') {
        Some(path) => format!("{path}{all}"),
        None if path.contains('/') => format!("{path}{all}"),
        None => format!("**/{path}{all}"),
    }
}

/// Whether brackets contain a character of more than one byte. They would match any one of its bytes, and so no name.
fn has_non_ascii_class(glob: &str) -> bool {
    let mut chars = glob.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '[' => {
                let class = chars.as_str();
                // A bracket that comes first, or right after the negation, is one of the characters.
                let first = class.find(|c| c != '!' && c != '^').unwrap_or_default().min(1);
                let Some(end) = class.char_indices().skip(first + 1).find(|(_, c)| *c == ']') else { return false };
                if !class[..end.0].is_ascii() {
                    return true;
                }
                chars = class[end.0 + 1..].chars();
            }
            _ => {}
        }
    }
    false
}
