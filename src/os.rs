//! What only the operating system can do, and no safe function of the standard library asks it to: the one module that
//! may hold `unsafe` code.
#![allow(unsafe_code, reason = "each block says why nothing safe does it, and why it is sound")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use memmap2::Mmap;

/// Has `call` called when the process ends normally: main returns, or `exit` is called.
///
/// # Errors
/// The C library has no room for another.
pub(crate) fn at_exit(call: extern "C" fn()) -> io::Result<()> {
    // SAFETY: Rust runs nothing at the end of a process; only the C library can be asked to. `call` is a function of the
    // right type that lives as long as the program; a panic in it aborts and doesn't unwind into C.
    match unsafe { libc::atexit(call) } {
        0 => Ok(()),
        _ => Err(io::Error::other("atexit() has no room for another function")),
    }
}

/// Ends the process without running exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: no safe function ends a process so. It takes no pointer, has no precondition and doesn't return.
    unsafe { libc::_exit(code) }
}

/// Files and connections that this process may have open at once: the soft limit, which `ulimit -n` sets. `None` where
/// there is none, or the system doesn't tell.
pub(crate) fn open_files() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no safe function tells. The pointer is to a value of the right type that outlives the call, which only
    // writes to it.
    let told = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    (told && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// How the files that the process may have open are divided. All that open files in numbers go by this: half of them are
/// requests under way, an eighth each the idle connections of one client and the segments of a cache, and a quarter is left
/// for the program and for the idle connections of a second client, such as that of a loader with threads of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileShares {
    pub(crate) requests: usize,
    pub(crate) idle_connections: usize,
    pub(crate) cached_segments: usize,
}

/// The shares of this process.
pub(crate) fn file_shares() -> FileShares {
    FileShares::of(open_files())
}

impl FileShares {
    fn of(files: Option<u64>) -> Self {
        // More than anything here opens, so that without a limit nobody waits.
        let files = files.map_or(1 << 20, |files| files.min(1 << 20)) as usize;
        Self { requests: (files / 2).max(1), idle_connections: (files / 8).max(1), cached_segments: files / 8 }
    }
}

/// Has the allocator give freed memory back to the system that it keeps for allocations to come. The C library of most
/// Linux systems keeps what one thread has allocated for that thread, so what many threads have made and one thread uses
/// up stays for good. Takes some milliseconds for each hundred MiB; does nothing elsewhere.
pub(crate) fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no safe function says so to the allocator. It takes no pointer and may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The bytes of a file as memory that all processes share which map it, read when they are touched.
///
/// Whoever writes into the file while it is mapped changes what is read here, and whoever cuts it short has the system
/// end this process with SIGBUS where it reads beyond the end. So map only files that are replaced and never written
/// into, and read what is mapped as bytes that may be anything at any time.
///
/// # Errors
/// The system refuses.
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: sharing pages with other processes is what no safe function does. The map is read-only, and stays valid
    // when the file is removed or replaced. That nobody writes into it is for its owner to keep; what readers do with
    // bytes that change all the same is bounded, since none of them trusts a value that it has read before.
    unsafe { Mmap::map(file) }
}

/// A lock on a whole file. It belongs to the open file: others that open the same file for themselves, in this process
/// too, are kept out, and the system lets go of it when the last handle is closed, by the end of the process at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Beside others that share.
    Shared,
    /// Alone.
    Exclusive,
}

/// Takes a lock, or changes the one that is held, if nobody else is in the way; whether it did. Never waits.
///
/// # Errors
/// The file system has no locks.
pub(crate) fn try_lock(file: &File, lock: Lock) -> io::Result<bool> {
    let how = match lock {
        Lock::Shared => libc::LOCK_SH,
        Lock::Exclusive => libc::LOCK_EX,
    };
    loop {
        // SAFETY: the standard library does this from Rust 1.89 on, and this crate is built with 1.88. It takes no pointer,
        // and the descriptor is open for as long as the reference lives.
        if unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) } == 0 {
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
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_files_fit_together() {
        for files in [Some(0), Some(9), Some(256), Some(1_024), Some(1 << 20), Some(u64::MAX), None] {
            let shares = FileShares::of(files);
            assert!(shares.requests > 0 && shares.idle_connections > 0);
            let all = (shares.requests + 2 * shares.idle_connections + shares.cached_segments) as u64;
            assert!(files.is_none_or(|files| files < 9 || all <= files / 8 * 7), "{files:?}: {shares:?}");
        }
        let usual = FileShares { requests: 512, idle_connections: 128, cached_segments: 128 };
        assert_eq!(FileShares::of(Some(1_024)), usual);
    }
}
