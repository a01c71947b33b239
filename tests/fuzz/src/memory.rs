//! The memory that a call takes.

use std::sync::Mutex;

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// A mebibyte, in bytes.
pub(crate) const MIB: u64 = 1 << 20;

/// Memory that a call may take beside what is stated: errors, tables of decoders, buffers of threads.
pub(crate) const SLACK: u64 = MIB;

/// Runs `call`, and returns by how many bytes the memory of the process grew meanwhile, at its peak.
pub(crate) fn measured<T>(call: impl FnOnce() -> T) -> (T, u64) {
    /// One measurement at a time: the peak is that of the process.
    static MEASURING: Mutex<()> = Mutex::new(());
    let measuring = MEASURING.lock();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = call();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    drop(measuring);
    (result, peak as u64)
}
