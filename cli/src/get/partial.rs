//! Partial files that a `get` left which was killed.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long nobody wrote to a partial file that nobody will write to again. A download whose file is there may wait hours
/// for its turn behind others of the same command, and nothing tells it from one of a process that is gone.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// The folders that have been looked through.
#[derive(Debug, Default)]
pub(super) struct Swept(Mutex<HashSet<PathBuf>>);

impl Swept {
    /// Removes from a folder what is abandoned, the first time that it is asked. Nothing in the folder may be taken for an
    /// object's file before this returns.
    pub(super) fn sweep(&self, folder: &Path) {
        let mut swept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.contains(folder) {
            return;
        }
        swept.insert(folder.to_owned());
        // What can't be looked at or removed is in nobody's way.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !is_partial(&entry.file_name()) {
                continue;
            }
            // Of a link, its own: it is no file, and stays.
            let Ok(about) = entry.metadata() else { continue };
            let age = about.modified().ok().and_then(|written| written.elapsed().ok());
            if about.is_file() && age.is_some_and(|age| age >= ABANDONED) {
                let removed = fs::remove_file(entry.path());
                tracing::info!(path = %entry.path().display(), removed = removed.is_ok(), "a partial file of a past get");
            }
        }
    }
}

/// A letter in both of Unicode's canonical forms, composed and decomposed: the end of the name by which a `get` sees
/// whether they are the same to a file system.
pub(super) const FORMS: [&str; 2] = ["\u{e9}", "e\u{301}"];

/// As downloads name them: `.dataflux-` and 16 hexadecimal digits; with a letter behind them where they are none, but
/// looked at how the file system takes names.
fn is_partial(name: &OsStr) -> bool {
    let digits = name.to_str().and_then(|name| name.strip_prefix(".dataflux-"));
    let digits = digits.map(|digits| FORMS.iter().find_map(|form| digits.strip_suffix(form)).unwrap_or(digits));
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}
