//! The folder of a cache: its files, and the processes that use it.
//!
//! | name | content |
//! |---|---|
//! | `dataflux-cache` | text that marks the folder as a cache, with a version |
//! | `lock` | number of the last segment created; locked by the process that creates, takes over or removes segments |
//! | `claims` | which process reads which sample from the bucket, see `claims.rs`; locked while it is changed |
//! | `members/` | a file for each process, locked while the process lives; modified when the process makes progress |
//! | `00000001.segment` | samples, see `format.rs`; locked, shared, by all processes that use it |

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::os::{self, FileLock, LockedFile};
use crate::{Error, ErrorKind, Result};

const MARKER: &str = "dataflux-cache";
/// The content of the marker. Its version is that of the folder and of all files in it.
const MARKER_TEXT: &str = "dataflux cache, version 2\n";
const MARKER_PREFIX: &str = "dataflux cache, version ";
const LOCK: &str = "lock";
const CLAIMS: &str = "claims";
const MEMBERS: &str = "members";
/// A folder that the root of a file system has.
const LOST_AND_FOUND: &str = "lost+found";
const SEGMENT_SUFFIX: &str = ".segment";

/// How long opening waits for the lock, which other processes hold for moments only.
const OPENING_LOCK_WAIT: Duration = Duration::from_secs(30);

/// Time between two tries to lock a file. What is done under a lock usually takes less.
const LOCK_POLL_INTERVAL: Duration = Duration::from_micros(200);

/// A folder that is a cache, as one of the processes that use it.
#[derive(Debug)]
pub(super) struct CacheFolder {
    path: PathBuf,
    /// Number of this process among the members; never reused.
    pub(super) member: u64,
    /// This process's file in `members/`.
    member_file: LockedFile,
}

impl CacheFolder {
    /// Opens a folder that is a cache, or makes it one if it is empty or missing.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| unusable(path, error);
        match DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(wrong_folder(path, "the cache is not a folder", "a folder", "something else"));
            }
            created => created.map_err(failed)?,
        }
        if let Some(network) = network_file_system(path) {
            tracing::warn!(
                folder = %path.display(),
                "the cache is on {network}, so that it is as slow as the network, and hosts that share it may read samples \
                 more than once: use a folder on a local disk"
            );
        }

        let mut marker = String::new();
        match File::open(path.join(MARKER)) {
            Ok(file) => drop(file.take(100).read_to_string(&mut marker).map_err(failed)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for entry in fs::read_dir(path).map_err(failed)? {
                    let name = entry.map_err(failed)?.file_name();
                    if ![MARKER, LOCK, CLAIMS, MEMBERS, LOST_AND_FOUND].iter().any(|known| name == *known) {
                        return Err(wrong_folder(
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
        // A process that was killed while it wrote the marker leaves a part of it.
        if !MARKER_TEXT.starts_with(&marker) {
            let version = marker.strip_prefix(MARKER_PREFIX).map(str::trim);
            return Err(match version {
                Some(version) => Error::new(ErrorKind::Config, "the cache was made by another version of dataflux")
                    .object(path.display())
                    .mismatch("version 2", version)
                    .hint("use that version, or another folder, or remove this one"),
                None => wrong_folder(path, "the folder is no cache", "an empty folder or a cache", MARKER),
            });
        }

        let guard = lock(&path.join(LOCK), OPENING_LOCK_WAIT).map_err(failed)?.ok_or_else(|| {
            Error::new(ErrorKind::Io, "another process keeps the cache locked")
                .object(path.display())
                .mismatch(format_args!("its turn within {} s", OPENING_LOCK_WAIT.as_secs()), "none")
                .hint("find a stopped process that uses it (fuser), end it, or use another folder")
        })?;
        if marker != MARKER_TEXT {
            let file = open_private(&path.join(MARKER)).map_err(failed)?;
            file.write_all_at(MARKER_TEXT.as_bytes(), 0).map_err(failed)?;
        }
        let folder = Self::join(path, &guard).map_err(failed)?;
        drop(guard);
        Ok(folder)
    }

    /// Creates a file for this process, and removes those of dead processes.
    fn join(path: &Path, _: &LockedFile) -> io::Result<Self> {
        let members = path.join(MEMBERS);
        DirBuilder::new().recursive(true).mode(0o700).create(&members)?;
        for entry in fs::read_dir(&members)? {
            let other = entry?.path();
            // NFS grants an exclusive lock only on a file that is open for writing.
            let file = OpenOptions::new().read(true).write(true).open(&other);
            if file.and_then(|file| LockedFile::try_lock(file, FileLock::Exclusive)).is_ok_and(|lock| lock.is_some()) {
                let _ = fs::remove_file(other);
            }
        }
        // 0 marks a free slot of the claims table.
        let member = rand::random::<u64>().max(1);
        let member_file = open_private(&members.join(format!("{member:016x}")))?;
        let member_file = LockedFile::try_lock(member_file, FileLock::Exclusive)?.ok_or(io::ErrorKind::WouldBlock)?;
        Ok(Self { path: path.to_owned(), member, member_file })
    }

    /// Whether the process with that number is alive.
    pub(super) fn is_alive(&self, member: u64) -> bool {
        match File::open(self.member_path(member)) {
            Ok(file) => !LockedFile::try_lock(file, FileLock::Shared).is_ok_and(|lock| lock.is_some()),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Records that this process makes progress, for others that wait for its samples.
    pub(super) fn record_progress(&self) {
        // On failure others give this process up after half a minute.
        let _ = self.member_file.set_modified(SystemTime::now());
    }

    /// When a process last made progress; `None` if it is dead.
    pub(super) fn last_progress(&self, member: u64) -> Option<SystemTime> {
        self.member_path(member).metadata().and_then(|data| data.modified()).ok()
    }

    fn member_path(&self, member: u64) -> PathBuf {
        self.path.join(MEMBERS).join(format!("{member:016x}"))
    }

    /// Waits for the lock under which segments are created, taken over and removed. `None` if it is not free within
    /// `max_wait`.
    pub(super) fn lock(&self, max_wait: Duration) -> io::Result<Option<LockedFile>> {
        lock(&self.path.join(LOCK), max_wait)
    }

    /// Waits for the lock under which claims are changed. `None` if it is not free within `max_wait`.
    pub(super) fn lock_claims(&self, max_wait: Duration) -> io::Result<Option<LockedFile>> {
        lock(&self.path.join(CLAIMS), max_wait)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn segment_path(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number:08x}{SEGMENT_SUFFIX}"))
    }

    /// Numbers of the segments in the folder, the oldest first.
    pub(super) fn segment_numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SEGMENT_SUFFIX));
            numbers.extend(number.and_then(|number| u32::from_str_radix(number, 16).ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Creates an empty segment with a number that no segment had before, and locks it to be read.
    pub(super) fn create_segment(&self, guard: &LockedFile) -> io::Result<(u32, LockedFile)> {
        let mut last = [0; 4];
        // The file is shorter before the first segment, and after a write that was cut off.
        let _ = guard.read_exact_at(&mut last, 0);
        let highest = self.segment_numbers()?.last().copied().unwrap_or(0);
        let number = u32::from_le_bytes(last).max(highest).checked_add(1).ok_or(io::ErrorKind::QuotaExceeded)?;
        guard.write_all_at(&number.to_le_bytes(), 0)?;
        let path = self.segment_path(number);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        // No other process can have locked it, since segments are removed under the lock that this process holds.
        let file = LockedFile::try_lock(file, FileLock::Shared)?.ok_or(io::ErrorKind::WouldBlock)?;
        Ok((number, file))
    }
}

impl Drop for CacheFolder {
    fn drop(&mut self) {
        // On failure the next process that opens the cache removes the file.
        let _ = fs::remove_file(self.member_path(self.member));
    }
}

/// Opens or creates a file that only this user may read, since training data may be private.
fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Locks a file. The file is opened anew for each lock, so that threads of one process exclude each other, too.
fn lock(path: &Path, max_wait: Duration) -> io::Result<Option<LockedFile>> {
    let started = Instant::now();
    loop {
        let locked = LockedFile::try_lock(open_private(path)?, FileLock::Exclusive)?;
        if locked.is_some() || started.elapsed() > max_wait {
            return Ok(locked);
        }
        std::thread::sleep(LOCK_POLL_INTERVAL);
    }
}

fn wrong_folder(path: &Path, what: &str, wanted: &str, got: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Config, what)
        .object(path.display())
        .mismatch(wanted, got)
        .hint("name a folder for nothing but the cache: it is made if it isn't there")
}

fn unusable(path: &Path, error: io::Error) -> Error {
    let unusable = Error::new(ErrorKind::Io, "the cache can't be used").object(path.display());
    let unusable = match network_file_system(path) {
        // Lustre and some FUSE file systems have locks only if they are mounted with them.
        Some(network) => unusable.mismatch("a local disk, or a file system with locks (flock)", network),
        None => unusable,
    };
    unusable.hint("name a folder on a local disk that this user may write to, and that isn't full").with_source(error)
}

/// The network file system of a folder, if it is on one.
fn network_file_system(path: &Path) -> Option<&'static str> {
    File::open(path).ok().and_then(|folder| os::network_file_system(&folder))
}
