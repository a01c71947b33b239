//! Buffers for bodies, used again. Memory fresh from the system has to be cleared, page by page, which takes longer than
//! to receive the bytes; and the allocator gives back to the system what batches let go of.

use std::collections::BTreeMap;
use std::collections::TryReserveError;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use crate::os;

/// Smallest body that gets a buffer of these. What is smaller the allocator has at hand without asking the system.
const SMALLEST: usize = 16 << 10;

/// Bytes of buffers let go of between two times that the allocator gives back what it keeps, at least: a few milliseconds
/// then are nothing beside what it took to fill them.
const KEPT: usize = 32 << 20;

/// Buffers that were let go of, for bodies to come. Together with those in use they never have more bytes than the limit;
/// those in use may have more by themselves. All are free once this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    limit: usize,
    stock: Mutex<Stock>,
}

/// All sizes are capacities in bytes.
#[derive(Debug, Default)]
struct Stock {
    free: BTreeMap<usize, Vec<Vec<u8>>>,
    free_bytes: usize,
    used_bytes: usize,
    /// Given to the allocator since it last gave back what it keeps. Where sizes change, what it keeps of one size is of
    /// no use for another, and comes on top.
    freed_bytes: usize,
}

impl Buffers {
    /// Keeps as many as, with those in use, have up to `limit` bytes.
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), stock: Mutex::default() })
    }

    /// Whether a body of this size would be put into a buffer that was used before, or will be again.
    pub(super) fn serves(&self, size: usize) -> bool {
        (SMALLEST..=self.limit).contains(&size)
    }

    /// An empty buffer that has room for `size` bytes.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn take(self: &Arc<Self>, size: usize) -> Result<Buffer, TryReserveError> {
        if !self.serves(size) {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(size)?;
            return Ok(Buffer { bytes, home: Weak::new() });
        }
        let size = rounded(size);
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stock.pop(size);
        stock.used_bytes += size;
        let surplus = stock.shrink_to(self.limit);
        stock.freed_bytes += surplus.iter().map(Vec::capacity).sum::<usize>();
        let much = stock.freed_bytes >= KEPT.max(self.limit / 16);
        if much {
            stock.freed_bytes = 0;
        }
        drop(stock);
        drop(surplus);
        if much {
            os::give_back_memory();
        }
        let mut buffer = Buffer { bytes: found.unwrap_or_default(), home: Arc::downgrade(self) };
        if let Err(error) = buffer.bytes.try_reserve_exact(size) {
            self.stock.lock().unwrap_or_else(PoisonError::into_inner).used_bytes -= size;
            buffer.home = Weak::new();
            return Err(error);
        }
        Ok(buffer)
    }

    fn give(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let size = bytes.capacity();
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        stock.used_bytes = stock.used_bytes.saturating_sub(size);
        if stock.used_bytes + stock.free_bytes + size <= self.limit {
            stock.free_bytes += size;
            stock.free.entry(size).or_default().push(bytes);
        } else {
            stock.freed_bytes += size;
        }
    }
}

impl Stock {
    fn pop(&mut self, size: usize) -> Option<Vec<u8>> {
        let buffer = self.free.get_mut(&size)?.pop()?;
        self.free_bytes -= size;
        Some(buffer)
    }

    /// Takes out free buffers, the largest first, until all are within the limit or none is left.
    fn shrink_to(&mut self, limit: usize) -> Vec<Vec<u8>> {
        let mut surplus = Vec::new();
        while self.used_bytes + self.free_bytes > limit
            && let Some(mut largest) = self.free.last_entry()
        {
            let size = *largest.key();
            match largest.get_mut().pop() {
                Some(buffer) => {
                    self.free_bytes -= size;
                    surplus.push(buffer);
                }
                None => drop(largest.remove()),
            }
        }
        surplus
    }
}

/// A size rounded up by a 32nd at most, so that objects of about one size share buffers, and a full memory budget
/// takes no more than that beyond its bytes.
fn rounded(size: usize) -> usize {
    let step = 1 << (size.ilog2().saturating_sub(5));
    size.next_multiple_of(step)
}

/// A buffer that goes back to where it came from.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    home: Weak<Buffers>,
}

impl Buffer {
    /// The bytes, whose last owner gives the buffer back.
    pub(crate) fn freeze(mut self) -> Bytes {
        if self.home.strong_count() == 0 { mem::take(&mut self.bytes).into() } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.give(mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1 << 10;

    #[test]
    fn a_buffer_is_used_again_by_a_body_of_about_its_size() {
        let buffers = Buffers::new(1 << 20);
        let mut buffer = buffers.take(100 * KIB).unwrap();
        buffer.bytes.extend_from_slice(b"meow");
        let at = buffer.bytes.as_ptr();
        let bytes = buffer.freeze();
        let (slice, rest) = (bytes.slice(1..3), bytes.slice(3..));
        drop((bytes, rest));
        assert_eq!(&slice[..], b"eo", "held by any part of it");
        drop(slice);
        assert!(buffers.take(200 * KIB).unwrap().bytes.as_ptr() != at, "of another size");
        let again = buffers.take(99 * KIB).unwrap();
        assert_eq!((again.bytes.as_ptr(), again.bytes.len()), (at, 0));
    }

    #[test]
    fn what_outlives_its_buffers_is_free_like_any_other() {
        let buffers = Buffers::new(1 << 20);
        let bytes = buffers.take(100 * KIB).unwrap().freeze();
        drop(buffers);
        drop(bytes);
    }

    #[test]
    fn no_memory_is_an_error_and_counts_for_nothing() {
        let buffers = Buffers::new(u64::MAX);
        buffers.take(isize::MAX as usize - KIB).unwrap_err();
        assert_eq!(buffers.stock.lock().unwrap().used_bytes, 0);
    }

    proptest! {
        #[test]
        fn free_buffers_never_lift_the_sum_above_the_limit(
            limit in 0usize..2_000 * KIB,
            steps in prop::collection::vec((1usize..500 * KIB, any::<prop::sample::Index>(), any::<bool>()), 1..100),
        ) {
            let buffers = Buffers::new(limit as u64);
            let mut held: Vec<Buffer> = Vec::new();
            for (size, which, take) in steps {
                if take || held.is_empty() {
                    let buffer = buffers.take(size).unwrap();
                    prop_assert!(buffer.bytes.capacity() >= size);
                    prop_assert!(buffer.bytes.capacity() <= size + size / 32 + 1);
                    held.push(buffer);
                } else {
                    held.swap_remove(which.index(held.len()));
                }
                let stock = buffers.stock.lock().unwrap();
                let used = held.iter().filter(|buffer| buffer.home.strong_count() > 0);
                prop_assert_eq!(stock.used_bytes, used.map(|buffer| buffer.bytes.capacity()).sum::<usize>());
                let free = stock.free.iter().map(|(size, all)| size * all.len()).sum::<usize>();
                prop_assert_eq!(stock.free_bytes, free);
                prop_assert!(free == 0 || stock.used_bytes + free <= limit);
            }
        }
    }
}
