//! The files below a folder, in the byte order of their names.
//!
//! A folder is read whole and sorted, which takes memory for the names in it. Its own name is sorted with a slash at
//! its end, so that to go into each folder where it stands gives the order of whole names.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::refused::refused;
use crate::store::uri::{ObjectUri, Scheme};
use crate::{Error, ErrorKind, Result};

/// What the name of a file begins and ends with that a write has not renamed yet.
pub(super) const UNFINISHED: (&str, &str) = (".dataflux-", ".new");

/// Which names are wanted. All of these are whole names, below the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameRange {
    pub(super) prefix: String,
    /// The last name or folder that isn't wanted any more.
    pub(super) after: Option<String>,
    /// First name wanted.
    pub(super) start: Option<String>,
    /// First name no longer wanted.
    pub(super) end: Option<String>,
}

impl NameRange {
    fn holds(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
            && self.after.as_deref().is_none_or(|after| name > after)
            && self.start.as_deref().is_none_or(|start| name >= start)
            && self.end.as_deref().is_none_or(|end| name < end)
    }

    /// Whether names that begin with `folder` may be wanted.
    fn overlaps(&self, folder: &str) -> bool {
        let reaches = |bound: &Option<String>| bound.as_deref().is_none_or(|b| folder >= b || b.starts_with(folder));
        (folder.starts_with(&self.prefix) || self.prefix.starts_with(folder))
            && reaches(&self.after)
            && reaches(&self.start)
            && self.end.as_deref().is_none_or(|end| folder < end)
    }
}

/// What a walk finds.
#[derive(Debug)]
pub(super) enum Found {
    File {
        name: String,
        metadata: Metadata,
    },
    /// A folder that the walk doesn't go into, with a slash at its end.
    Folder(String),
}

/// A walk through the files below a root.
#[derive(Debug)]
pub(super) struct Walk {
    root: PathBuf,
    range: NameRange,
    /// Whether folders below the one of the prefix are found themselves, instead of what is in them.
    is_flat: bool,
    /// The folders that the walk is in, from the outermost.
    folders: Vec<Folder>,
}

#[derive(Debug)]
struct Folder {
    /// Its name, with a slash at its end; empty for the root.
    name: String,
    /// Its device and number there, by which a symbolic link to a folder that the walk is in is found.
    identity: Option<(u64, u64)>,
    /// Names of what is in it, folders with a slash at their ends.
    rest: std::vec::IntoIter<String>,
}

impl Walk {
    pub(super) fn new(root: &Path, range: NameRange, is_flat: bool) -> Result<Self> {
        let mut walk = Self { root: root.to_owned(), range, is_flat, folders: Vec::new() };
        let above = walk.range.prefix.rsplit_once('/').map(|(above, _)| above.to_owned());
        match above {
            None => walk.enter(String::new())?,
            Some(above) if is_plain(&above) => walk.enter(above + "/")?,
            // No file has such a name, and the path may lead out of the root.
            Some(_) => {}
        }
        Ok(walk)
    }

    /// The next file or folder. A file that is deleted meanwhile isn't found.
    pub(super) fn next(&mut self) -> Result<Option<Found>> {
        while let Some(folder) = self.folders.last_mut() {
            let Some(entry) = folder.rest.next() else {
                self.folders.pop();
                continue;
            };
            let name = format!("{}{entry}", folder.name);
            if !name.ends_with('/') {
                match self.metadata(&name)? {
                    Some(metadata) => return Ok(Some(Found::File { name, metadata })),
                    None => continue,
                }
            }
            if self.is_flat {
                return Ok(Some(Found::Folder(name)));
            }
            self.enter(name)?;
        }
        Ok(None)
    }

    fn metadata(&self, name: &str) -> Result<Option<Metadata>> {
        match fs::metadata(self.path(name)) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
            Ok(_) => Err(Self::no_file(name)),
            Err(error) if is_gone(&error) && fs::symlink_metadata(self.path(name)).is_err() => Ok(None),
            Err(error) => Err(Self::unreadable(name, error)),
        }
    }

    /// Reads a folder, unless it is gone.
    fn enter(&mut self, name: String) -> Result<()> {
        let path = self.path(&name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(Self::unreadable(&name, error)),
        };
        let identity = identity(&metadata);
        if let Some(above) = self.folders.iter().find(|above| identity.is_some() && above.identity == identity) {
            return Err(Error::new(ErrorKind::Config, "this folder is in itself, by a symbolic link or a mount")
                .object(Self::shown(&name))
                .mismatch("another folder", Self::shown(&above.name))
                .hint("remove the link"));
        }
        let mut rest = Vec::new();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(Self::unreadable(&name, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| Self::unreadable(&name, error))?;
            let own = entry.file_name().into_string().map_err(|own| {
                Error::new(ErrorKind::Config, "a file's name isn't UTF-8")
                    .object(Self::shown(&name))
                    .mismatch("a name in UTF-8", own.display().to_string().escape_debug())
                    .hint("rename the file")
            })?;
            let kind = entry.file_type().map_err(|error| Self::unreadable(&name, error))?;
            let own = if is_folder(&entry.path(), kind) { format!("{own}/") } else { own };
            let whole = format!("{name}{own}");
            let is_wanted = if own.ends_with('/') {
                self.range.overlaps(&whole)
            } else {
                self.range.holds(&whole) && !is_unfinished(&own)
            };
            if is_wanted {
                rest.push(own);
            }
        }
        rest.sort_unstable();
        self.folders.push(Folder { name, identity, rest: rest.into_iter() });
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn shown(name: &str) -> String {
        ObjectUri { scheme: Scheme::File, bucket: "", name }.to_string()
    }

    fn no_file(name: &str) -> Error {
        Error::new(ErrorKind::Config, "this is no file and no folder")
            .object(Self::shown(name))
            .mismatch("a file", "a pipe, a socket or a device")
            .hint("list a folder without it")
    }

    fn unreadable(name: &str, error: io::Error) -> Error {
        let is_broken_link = is_gone(&error);
        let error = refused(error).object(Self::shown(name));
        if is_broken_link {
            return error.hint("it is a symbolic link to a file that isn't there: remove it, or bring the file back");
        }
        error.hint("make it readable, or list a folder without it")
    }
}

/// Whether a file can have this name: no part between its slashes is empty, '.' or '..'.
pub(super) fn is_plain(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
}

/// Whether this is a file that a write has not renamed yet.
fn is_unfinished(own: &str) -> bool {
    own.strip_prefix(UNFINISHED.0).is_some_and(|rest| rest.strip_suffix(UNFINISHED.1).is_some())
}

fn is_folder(path: &Path, kind: FileType) -> bool {
    kind.is_dir() || (kind.is_symlink() && path.is_dir())
}

/// Whether an error says that there is no such file.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have none")]
fn identity(metadata: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}
