//! The folder: who uses it, and its files.
//!
//! | name | what |
//! |---|---|
//! | `dataflux-cache` | what this is, and its version, as text |
//! | `lock` | locked by whoever makes, takes over or removes segments; holds the number of the last one made |
//! | `claims` | who reads what from the bucket: see `claims.rs`; locked by whoever changes that |
//! | `members/` | a file for each process, which has it locked as long as it lives; its time of change is that process's mark |
//! | `00000001.segment` | samples: see `format.rs`; locked, shared, by all who use it |

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::os::{self, FileLock};
use crate::{Error, ErrorKind, Result};

const MARK: &str = "dataflux-cache";
/// The version is that of the folder and of all files in it.
const MARKED: &str = "dataflux cache, version 1\n";
const MARKED_BEFORE_VERSION: &str = "dataflux cache, version ";
const LOCK: &str = "lock";
const CLAIMS: &str = "claims";
const MEMBERS: &str = "members";
/// What the root of a disk has of its own.
const FOUND: &str = "lost+found";
const SEGMENT: &str = ".segment";

/// How long opening waits for others to let go of the folder, who have it for moments.
const AT_OPENING: Duration = Duration::from_secs(30);

/// How long between two looks whether a lock is free: what is done under one takes less.
const LOOK: Duration = Duration::from_micros(200);

/// A folder that is a cache, and this process as one of its users.
#[derive(Debug)]
pub(super) struct CacheFolder {
    path: PathBuf,
    /// Of this user, which no other ever had.
    pub(super) member: u64,
    /// Locked.
    file: File,
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(super) struct FolderLock(pub(super) File);

impl CacheFolder {
    /// Opens a folder, and makes it a cache if it is empty or isn't there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| unusable(path, error);
        match DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(wrong(path, "the cache is not a folder", "a folder", "something else"));
            }
            made => made.map_err(failed)?,
        }
        if let Some(network) = network(path) {
            tracing::warn!(
                folder = %path.display(),
                "the cache is on {network}, so that it is as slow as the network, and hosts that share it may read samples \
                 more than once: use a folder on a local disk"
            );
        }
        let mut mark = String::new();
        match File::open(path.join(MARK)) {
            Ok(file) => drop(file.take(100).read_to_string(&mut mark).map_err(failed)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for entry in fs::read_dir(path).map_err(failed)? {
                    let name = entry.map_err(failed)?.file_name();
                    if ![MARK, LOCK, CLAIMS, MEMBERS, FOUND].iter().any(|known| name == *known) {
                        return Err(wrong(
                            path,
                            "the folder is no cache",
                            "an empty folder or a cache",
                            name.display(),
                        ));
                    }
                }
            }
            Err(error) => return Err(failed(error)),
        }
        // Of one who was killed while writing it there may be a part.
        if !MARKED.starts_with(&mark) {
            let version = mark.strip_prefix(MARKED_BEFORE_VERSION).map(str::trim);
            return Err(match version {
                Some(version) => Error::new(ErrorKind::Config, "the cache was made by a newer version of dataflux")
                    .object(path.display())
                    .mismatch("version 1", version)
                    .hint("use that version, or another folder, or remove this one"),
                None => wrong(path, "the folder is no cache", "an empty folder or a cache", MARK),
            });
        }
        let guard = lock(&path.join(LOCK), AT_OPENING).map_err(failed)?.ok_or_else(|| {
            Error::new(ErrorKind::Io, "another process keeps the cache locked")
                .object(path.display())
                .mismatch(format_args!("its turn within {} s", AT_OPENING.as_secs()), "none")
                .hint("find a stopped process that uses it (fuser), end it, or use another folder")
        })?;
        if mark != MARKED {
            writable(&path.join(MARK)).and_then(|file| file.write_all_at(MARKED.as_bytes(), 0)).map_err(failed)?;
        }
        let folder = Self::join(path, &guard).map_err(failed)?;
        drop(guard);
        Ok(folder)
    }

    /// Makes a file for this process, and removes those of dead ones.
    fn join(path: &Path, _: &FolderLock) -> io::Result<Self> {
        let members = path.join(MEMBERS);
        DirBuilder::new().recursive(true).mode(0o700).create(&members)?;
        for entry in fs::read_dir(&members)? {
            let other = entry?.path();
            // NFS gives an exclusive lock only on a file that is open for writing.
            let file = OpenOptions::new().read(true).write(true).open(&other);
            if file.and_then(|file| os::try_lock(&file, FileLock::Exclusive)).unwrap_or(false) {
                let _ = fs::remove_file(other);
            }
        }
        // 0 is nobody.
        let member = rand::random::<u64>().max(1);
        let file = writable(&members.join(format!("{member:016x}")))?;
        os::try_lock(&file, FileLock::Exclusive)?;
        Ok(Self { path: path.to_owned(), member, file })
    }

    /// Whether the process of that number lives.
    pub(super) fn lives(&self, member: u64) -> bool {
        match File::open(self.member(member)) {
            Ok(file) => !os::try_lock(&file, FileLock::Shared).unwrap_or(false),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Sets the mark of this process, by which others see that something comes of it.
    pub(super) fn set_mark(&self) {
        // Without one, others wait for half a minute.
        let _ = self.file.set_modified(SystemTime::now());
    }

    /// The mark of a process; `None` where it is dead.
    pub(super) fn mark(&self, member: u64) -> Option<SystemTime> {
        self.member(member).metadata().and_then(|data| data.modified()).ok()
    }

    fn member(&self, member: u64) -> PathBuf {
        self.path.join(MEMBERS).join(format!("{member:016x}"))
    }

    /// Waits for the right to make, take over and remove segments; `None` if others have it for too long.
    pub(super) fn lock(&self, patience: Duration) -> io::Result<Option<FolderLock>> {
        lock(&self.path.join(LOCK), patience)
    }

    /// Waits for the right to change claims; `None` as for [`lock`](Self::lock).
    pub(super) fn lock_claims(&self, patience: Duration) -> io::Result<Option<FolderLock>> {
        lock(&self.path.join(CLAIMS), patience)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn segment(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number:08x}{SEGMENT}"))
    }

    /// Numbers of the segments that are there, the oldest first.
    pub(super) fn segments(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SEGMENT));
            numbers.extend(number.and_then(|number| u32::from_str_radix(number, 16).ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Makes a segment without a byte, with a number that none had before.
    pub(super) fn create(&self, guard: &FolderLock) -> io::Result<(u32, File)> {
        let mut last = [0; 4];
        // Shorter before the first, and after a write that was cut off.
        let _ = guard.0.read_exact_at(&mut last, 0);
        let highest = self.segments()?.last().copied().unwrap_or(0);
        let number = u32::from_le_bytes(last).max(highest).checked_add(1).ok_or(io::ErrorKind::QuotaExceeded)?;
        guard.0.write_all_at(&number.to_le_bytes(), 0)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.segment(number))?;
        Ok((number, file))
    }
}

impl Drop for CacheFolder {
    fn drop(&mut self) {
        // Whoever opens the cache next does it otherwise.
        let _ = fs::remove_file(self.member(self.member));
    }
}

/// Training data may be private: nobody else reads it here.
fn writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Opens a file for itself, so that threads of one process keep each other out, too.
fn lock(path: &Path, patience: Duration) -> io::Result<Option<FolderLock>> {
    let file = writable(path)?;
    let started = Instant::now();
    loop {
        if os::try_lock(&file, FileLock::Exclusive)? {
            return Ok(Some(FolderLock(file)));
        }
        if started.elapsed() > patience {
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

fn wrong(path: &Path, what: &str, wanted: &str, got: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Config, what)
        .object(path.display())
        .mismatch(wanted, got)
        .hint("name a folder for nothing but the cache: it is made if it isn't there")
}

fn unusable(path: &Path, error: io::Error) -> Error {
    let unusable = Error::new(ErrorKind::Io, "the cache can't be used").object(path.display());
    let unusable = match network(path) {
        // Lustre and some FUSE file systems have no locks unless they are mounted with them.
        Some(network) => unusable.mismatch("a local disk, or a file system with locks (flock)", network),
        None => unusable,
    };
    unusable.hint("name a folder on a local disk that this user may write to, and that isn't full").with_source(error)
}

/// The network file system that a folder is on, if it is on one.
fn network(path: &Path) -> Option<&'static str> {
    File::open(path).ok().and_then(|folder| os::network_file_system(&folder))
}
