//! Files that are written whole or not at all.

use std::fs::{self, File, Permissions};
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result, Stage};

/// Writes a file beside its destination, and then renames it. Symbolic links are followed, and the permissions of a
/// file that is replaced are kept. `what` says in errors what is written, for example "the manifest".
pub(super) fn save(path: &Path, what: &str, write: impl FnOnce(File) -> io::Result<()>) -> Result<()> {
    let target = SaveTarget::of(path, what)?;
    let written = target.create().and_then(write).and_then(|()| target.replace());
    written.map_err(|error| {
        // The removal often fails for the same reason as the write, which is the error that counts.
        let _ = fs::remove_file(&target.beside);
        unwritable(path, what, error)
    })
}

/// Checks whether [`save`] can write to `path`: makes a file beside `path` and removes it.
pub(super) fn check_save(path: &Path, what: &str) -> Result<()> {
    let target = SaveTarget::of(path, what)?;
    let made = target.create().map(drop);
    made.and(fs::remove_file(&target.beside)).map_err(|error| unwritable(path, what, error))
}

/// Where a file is saved.
struct SaveTarget {
    /// The path with all symbolic links resolved.
    path: PathBuf,
    /// The new file until it is renamed, in the same folder, since files can only be renamed within one file system.
    /// Its name has a constant length, since the name of the file may have the greatest length there is.
    beside: PathBuf,
    /// Permissions of the file that is replaced.
    permissions: Option<Permissions>,
}

impl SaveTarget {
    fn of(path: &Path, what: &str) -> Result<Self> {
        let there = match fs::metadata(path) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unwritable(path, what, error)),
        };
        if let Some(there) = there.as_ref().filter(|there| !there.is_file()) {
            let got = if there.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
            return Err(Error::new(ErrorKind::Config, format!("{what} can't be written over what is no file"))
                .stage(Stage::Manifest)
                .object(path.display())
                .mismatch("a file, or a name that nothing has", got)
                .hint("name another file"));
        }
        let path = resolve_links(path).map_err(|error| unwritable(path, what, error))?;
        let beside = path.with_file_name(format!(".dataflux-{:016x}.new", rand::random::<u64>()));
        Ok(Self { path, beside, permissions: there.map(|there| there.permissions()) })
    }

    fn create(&self) -> io::Result<File> {
        let file = File::create_new(&self.beside)?;
        // Set before the file has contents, which may be confidential.
        if let Some(permissions) = &self.permissions {
            file.set_permissions(permissions.clone())?;
        }
        Ok(file)
    }

    fn replace(&self) -> io::Result<()> {
        fs::rename(&self.beside, &self.path)?;
        // Syncs the new name, which is stored in the folder, where folders can be synced.
        let folder = self.path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// Resolves the symbolic links at the end of a path, which needs not exist.
fn resolve_links(path: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        // A path that can't be read as a link is none.
        let Ok(link) = fs::read_link(&path) else { return Ok(path) };
        path = path.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::other("its symbolic links lead to each other"))
}

fn unwritable(path: &Path, what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{what} can't be written"))
        .stage(Stage::Manifest)
        .object(path.display())
        .hint("name a file in a folder that exists, that you may write to, and that has room")
        .with_source(error)
}
