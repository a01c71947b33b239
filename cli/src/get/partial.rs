//! Partial files that a killed `get` left behind.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Age after which a partial file counts as abandoned. A download whose file exists may wait hours for its turn behind
/// others of the same command, and its file looks like that of a process that is gone.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The folders that have been cleaned of abandoned files.
#[derive(Debug, Default)]
pub(super) struct Swept(Mutex<HashSet<PathBuf>>);

impl Swept {
    /// Removes abandoned files from a folder at the first call for it. No file in the folder may be used as an object's
    /// file before this returns.
    pub(super) fn sweep(&self, folder: &Path) {
        let mut swept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.contains(folder) {
            return;
        }
        swept.insert(folder.to_owned());
        // Files that can't be inspected or removed do no harm.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !is_partial(&entry.file_name()) {
                continue;
            }
            // The metadata of a link itself: it isn't a file, and stays.
            let Ok(about) = entry.metadata() else { continue };
            let age = about.modified().ok().and_then(|written| written.elapsed().ok());
            if about.is_file() && age.is_some_and(|age| age >= ABANDONED_AFTER) {
                let removed = fs::remove_file(entry.path());
                let (path, removed) = (entry.path(), removed.is_ok());
                tracing::info!(path = %path.display(), removed, "found a partial file of an earlier get");
            }
        }
    }
}

/// A letter in both of Unicode's canonical forms, composed and decomposed. A `get` ends the names of probe files with
/// them to find out whether the file system treats them as the same.
pub(super) const FORMS: [&str; 2] = ["\u{e9}", "e\u{301}"];

/// Whether downloads or probes name files like this: `.dataflux-` and 16 hexadecimal digits, followed by a letter for a
/// probe.
fn is_partial(name: &OsStr) -> bool {
    let digits = name.to_str().and_then(|name| name.strip_prefix(".dataflux-"));
    let digits = digits.map(|digits| FORMS.iter().find_map(|form| digits.strip_suffix(form)).unwrap_or(digits));
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}
