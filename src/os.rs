//! Calls of the operating system that the standard library has no safe function for. Beside the file that
//! calls libjpeg-turbo, this is the only one that may contain `unsafe` code.
#![allow(unsafe_code, reason = "each block says why no safe function does it, and why it is sound")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;

use memmap2::{Mmap, MmapMut};

/// Registers `handler` to be called when the process ends normally: main returns, or `exit` is called.
///
/// # Errors
/// When the C library has no room for another handler.
pub(crate) fn at_exit(handler: extern "C" fn()) -> io::Result<()> {
    // SAFETY: only the C library can run code at the end of a process. `handler` is a function of the right type that
    // lives as long as the program. A panic in it aborts and doesn't unwind into C.
    match unsafe { libc::atexit(handler) } {
        0 => Ok(()),
        _ => Err(io::Error::other("atexit() has no room for another function")),
    }
}

/// Ends the process without running exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: no safe function ends a process without exit handlers. `_exit` takes no pointer, has no precondition and
    // doesn't return.
    unsafe { libc::_exit(code) }
}

/// Has the system back memory that nobody has written to yet with large pages, if it is large and they are to be had: a
/// batch of 150 MB then takes 75 page faults instead of 37,000.
pub(crate) fn use_large_pages<T>(values: &mut [T]) {
    advise_large_pages(values.as_mut_ptr().cast(), size_of_val(values));
}

/// As [`use_large_pages`], for `length` bytes of memory from `start` on.
fn advise_large_pages(start: *mut u8, length: usize) {
    /// The large pages of x86-64 and of most other processors.
    const LARGE_PAGE: usize = 2 << 20;

    #[cfg(target_os = "linux")]
    if length >= 2 * LARGE_PAGE {
        let unaligned = start.align_offset(LARGE_PAGE);
        let length = (length - unaligned) / LARGE_PAGE * LARGE_PAGE;
        // SAFETY: no safe function gives this advice. The range begins at a page. The advice changes no byte and no
        // mapping, whoever owns the memory. If it is refused, nothing is different.
        unsafe { libc::madvise(start.wrapping_add(unaligned).cast(), length, libc::MADV_HUGEPAGE) };
    }
}

/// Copies `values` into the memory of a tensor on the CPU, which has as many numbers of the same type, one after the
/// other. Returns the address of that memory, or `None` for a tensor of another kind. With `is_new`, nobody has written
/// to the memory yet, and the system backs it with large pages if it can.
///
/// If the tensor shares its memory with a copy-on-write clone, libtorch gives it other memory first.
#[cfg(feature = "tch")]
pub(crate) fn fill_tensor<T: tch::kind::Element>(
    tensor: &mut tch::Tensor,
    values: &[T],
    is_new: bool,
) -> Option<usize> {
    let fits = tensor.device() == tch::Device::Cpu
        && tensor.f_kind().is_ok_and(|kind| kind == T::KIND)
        && tensor.numel() == values.len()
        && tensor.is_contiguous();
    if !fits {
        return None;
    }
    let memory = tensor.data_ptr().cast::<T>();
    if is_new {
        advise_large_pages(memory.cast(), size_of_val(values));
    }
    // SAFETY: tch has no safe function that copies into a tensor but from another tensor. The tensor has memory for as
    // many numbers of this type as were checked above, libtorch aligns memory for all types of numbers, and `values`
    // are memory of Rust. Nobody else writes meanwhile, as for all functions of tch that change a tensor in place.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), memory, values.len()) };
    Some(memory.addr())
}

/// A tensor of `values` in pinned memory, from which a device of CUDA copies by itself.
///
/// # Errors
/// There is no such device, or no memory left.
#[cfg(feature = "tch")]
pub(crate) fn pinned_tensor<T: tch::kind::Element>(
    values: &[T],
    shape: &[i64],
    device: tch::Device,
) -> Result<tch::Tensor, tch::TchError> {
    if shape.iter().product::<i64>() != values.len() as i64 {
        return Err(tch::TchError::Shape(format!("{} values don't have the shape {shape:?}", values.len())));
    }
    // SAFETY: tch has no safe function that makes a tensor without a copy. The memory has as many numbers of this type
    // as the shape, and outlives the tensor, which nobody writes to and which ends with this function.
    let borrowed = unsafe { tch::Tensor::f_from_blob(values.as_ptr().cast(), shape, &[], T::KIND, tch::Device::Cpu) }?;
    let pinned = borrowed.f_pin_memory(device)?;
    // A tensor whose memory is pinned already comes back as it is, so it must not leave this function.
    if pinned.data_ptr() == borrowed.data_ptr() {
        return tch::Tensor::f_from_slice(values)?.f_view(shape);
    }
    Ok(pinned)
}

/// Number of files and connections that this process may have open at once: the soft limit, which `ulimit -n` sets.
/// `None` if there is no limit, or if the system doesn't report it.
pub(crate) fn open_files() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no safe function returns the limit. The pointer is to a value of the right type that outlives the call,
    // which only writes to it.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    (is_known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// How the files that the process may have open are divided among the parts that open many. Half of them are for
/// requests under way, an eighth each for the idle connections of one client and for the segments of a cache. A quarter
/// is left for the program and for the idle connections of a second client, such as that of a loader with threads of
/// its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileShares {
    pub(crate) requests: usize,
    pub(crate) idle_connections: usize,
    pub(crate) cached_segments: usize,
}

/// The shares of this process.
pub(crate) fn file_shares() -> FileShares {
    FileShares::new(open_files())
}

impl FileShares {
    fn new(files: Option<u64>) -> Self {
        // More than this crate ever opens, so that without a limit nothing waits.
        let files = files.map_or(1 << 20, |files| files.min(1 << 20)) as usize;
        Self { requests: (files / 2).max(1), idle_connections: (files / 8).max(1), cached_segments: files / 8 }
    }
}

/// Returns freed memory that the allocator keeps for later allocations to the system. The C library of most Linux
/// systems keeps memory that one thread has allocated for that thread, so memory that many threads allocate and one
/// thread frees is kept for good. Takes some milliseconds for each hundred MiB. Does nothing on other systems.
pub(crate) fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no safe function asks the allocator for this. `malloc_trim` takes no pointer and may be called at any
    // time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Maps a file. All processes that map the file share its memory, and bytes are read when they are first accessed.
///
/// A process that writes into the file while it is mapped changes the bytes that are read here. If a process truncates
/// the file, the system ends this process with SIGBUS when it reads past the new end. So map only files that are
/// replaced and never written into, and treat mapped bytes as values that may change at any time.
///
/// # Errors
/// When the system refuses.
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: no safe function shares pages with other processes. The map is read-only, and stays valid when the file
    // is removed or replaced. The file's owner ensures that nobody writes into it. If bytes change all the same, the
    // effect is limited, since no reader relies on a value that it has read before.
    unsafe { Mmap::map(file) }
}

/// The bytes of a file in the form of [`map_file`], but read into memory of this process: for files that other
/// processes may change or truncate while they are open.
///
/// # Errors
/// When the system refuses, when there is no memory, or when the file was truncated meanwhile.
pub(crate) fn read_file(mut file: &File) -> io::Result<Mmap> {
    let length = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut memory = MmapMut::map_anon(length)?;
    file.read_exact(&mut memory)?;
    memory.make_read_only()
}

/// The name of the network file system that a file or an open folder is on. `None` if it is on a local disk, or if the
/// system doesn't report it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn network_file_system(file: &File) -> Option<&'static str> {
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: no safe function returns the file system. The descriptor is open for as long as the reference lives, and
    // the pointer is to memory of the right type, which the call only writes to. If the call writes only a part, the
    // rest is zero, which is a valid value of the type.
    let answer = unsafe { (libc::fstatfs(file.as_raw_fd(), answer.as_mut_ptr()) == 0).then(|| answer.assume_init()) }?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "its type differs between systems; the magic numbers have 32 bits"
    )]
    let magic = answer.f_type as u32;
    network_file_system_of(magic)
}

/// Other systems have no magic numbers of file systems.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn network_file_system(_: &File) -> Option<&'static str> {
    None
}

/// The name of the file system with this magic number (`f_type` of `statfs`), if another host may change its files
/// while they are open here. FUSE may be a local disk (ntfs-3g) or a bucket (gcsfuse, JuiceFS), and virtiofs has the
/// same number.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn network_file_system_of(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517B | 0xFE53_4D42 | 0xFF53_4D42 => "SMB",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x0BD0_0BD0 => "Lustre",
        0x00C3_6400 => "Ceph",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x2003_0528 => "OrangeFS",
        0xAAD7_AAEA => "PanFS",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x7461_636F => "OCFS2",
        0x0116_1970 => "GFS2",
        0x786F_4256 => "a shared folder of VirtualBox",
        _ => return None,
    })
}

/// The kind of a lock on a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileLock {
    /// Several holders may share the lock.
    Shared,
    /// One holder has the lock.
    Exclusive,
}

/// An open file that was locked. The lock belongs to the open file, so it excludes everyone who opens the same file
/// again, in this process, too. The system releases it at the latest when the process has ended, and each child that it
/// forked has ended or runs another program. The files of the cache are locked with it.
#[derive(Debug)]
pub(crate) struct LockedFile {
    file: File,
    /// The process that took the lock.
    process: u32,
}

impl LockedFile {
    /// Takes a lock; `None` if another holder excludes that. Never waits. NFS grants an exclusive lock only on a file
    /// that is open for writing, and a shared one only on a file that is open for reading.
    ///
    /// # Errors
    /// When the file system has no locks, or the file isn't open for what the lock needs.
    pub(crate) fn try_lock(file: File, lock: FileLock) -> io::Result<Option<Self>> {
        Ok(try_lock(&file, lock)?.then(|| Self { file, process: std::process::id() }))
    }

    /// Changes the lock that is held; for its parent, too, if a forked child calls it. Returns false, and has no lock
    /// any more, if another holder excludes the new lock, which it may have taken in between.
    ///
    /// # Errors
    /// As for [`try_lock`](Self::try_lock).
    pub(crate) fn try_change(&self, lock: FileLock) -> io::Result<bool> {
        try_lock(&self.file, lock)
    }
}

impl std::ops::Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for LockedFile {
    /// Releases the lock. Closing the file wouldn't while a forked child has it open, which is until it runs another
    /// program, or until it ends. Such a child leaves the lock to its parent.
    fn drop(&mut self) {
        if std::process::id() != self.process {
            return;
        }
        // SAFETY: the standard library has this from Rust 1.89 on, and this crate supports 1.88. `flock` takes no
        // pointer, and the descriptor is open until `self` is gone. If this fails, closing the file releases the lock.
        unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

fn try_lock(file: &File, lock: FileLock) -> io::Result<bool> {
    // Tests follow the rule of NFS on every file system.
    #[cfg(test)]
    if lock == FileLock::Exclusive && !is_open_for_writing(file) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    let operation = match lock {
        FileLock::Shared => libc::LOCK_SH,
        FileLock::Exclusive => libc::LOCK_EX,
    };
    loop {
        // SAFETY: the standard library has this from Rust 1.89 on, and this crate supports 1.88. `flock` takes no
        // pointer, and the descriptor is open for as long as the reference lives.
        if unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

#[cfg(test)]
fn is_open_for_writing(file: &File) -> bool {
    // SAFETY: no safe function returns the flags. `fcntl` takes no pointer here, and the descriptor is open for as long
    // as the reference lives.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that another thread starts has this process's files open until it runs its program, and kept locks.
    #[test]
    fn a_lock_is_released_although_a_child_has_the_file() {
        let path = std::env::temp_dir().join(format!("dataflux-lock-{:016x}", rand::random::<u64>()));
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        for lock in [FileLock::Shared, FileLock::Exclusive] {
            let locked = LockedFile::try_lock(open(), lock).unwrap().unwrap();
            // As a forked child has it: another descriptor of the same open file.
            let of_child = locked.try_clone().unwrap();
            assert!(LockedFile::try_lock(open(), FileLock::Exclusive).unwrap().is_none());
            drop(locked);
            assert!(LockedFile::try_lock(open(), FileLock::Exclusive).unwrap().is_some());
            drop(of_child);
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_shares_of_files_are_within_the_limit() {
        for files in [Some(0), Some(9), Some(256), Some(1_024), Some(1 << 20), Some(u64::MAX), None] {
            let shares = FileShares::new(files);
            assert!(shares.requests > 0 && shares.idle_connections > 0);
            let all = (shares.requests + 2 * shares.idle_connections + shares.cached_segments) as u64;
            assert!(files.is_none_or(|files| files < 9 || all <= files / 8 * 7), "{files:?}: {shares:?}");
        }
        let usual = FileShares { requests: 512, idle_connections: 128, cached_segments: 128 };
        assert_eq!(FileShares::new(Some(1_024)), usual);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn network_file_systems_are_recognized_by_their_magic_numbers() {
        for (magic, name) in [
            (0x6969, Some("NFS")),
            (0x517B, Some("SMB")),
            (0xFF53_4D42, Some("SMB")),
            (0xFE53_4D42, Some("SMB")),
            (0x0102_1997, Some("9p")),
            (0x6573_5546, Some("FUSE")),
            (0x0BD0_0BD0, Some("Lustre")),
            (0x00C3_6400, Some("Ceph")),
            (0x4750_4653, Some("GPFS")),
            // ext4, XFS, btrfs, ZFS, tmpfs, overlay, F2FS.
            (0xEF53, None),
            (0x5846_5342, None),
            (0x9123_683E, None),
            (0x2FC1_2FC1, None),
            (0x0102_1994, None),
            (0x794C_7630, None),
            (0xF2F5_2010, None),
            (0, None),
        ] {
            assert_eq!(network_file_system_of(magic), name, "{magic:#x}");
        }
    }

    /// `/proc` isn't on a network.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_local_file_is_on_no_network_file_system() {
        assert_eq!(network_file_system(&File::open("/proc/self/status").unwrap()), None);
        assert_eq!(network_file_system(&File::open("/proc").unwrap()), None);
    }
}
