//! Locks that a panic doesn't poison: where this function is used, the data is whole at each point where code may panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks the mutex, also if a thread panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
