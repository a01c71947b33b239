//! Buffers for bodies, used again. Memory fresh from the system has to be cleared, page by page, which takes longer than
//! to receive the bytes; and the allocator gives back to the system what batches let go of.

use std::collections::{BTreeMap, TryReserveError};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use memmap2::MmapMut;

use crate::budget::Gauge;

/// Smallest body that gets a buffer of these. What is smaller the allocator has at hand without asking the system.
const SMALLEST: usize = 16 << 10;

/// Smallest buffer that is the system's own memory and not the allocator's. That keeps what is freed in pieces of many
/// sizes, of which few fit what comes next: where single objects and joined ones took turns, it came to a third more than
/// the budget. Smaller ones would be too many: a process may have 65,530 maps.
const MAPPED: usize = 64 << 10;

/// Buffers that were let go of, for bodies to come. Together with those in use, and with what else is held of the same
/// budget, they never have more bytes than the limit; the others may have more by themselves. All are free once this is
/// dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    limit: usize,
    /// Bytes held of the budget that are in no buffer: items that a decoder has made.
    items: Gauge,
    stock: Mutex<Stock>,
}

/// All sizes are capacities in bytes.
#[derive(Debug, Default)]
struct Stock {
    free: BTreeMap<usize, Vec<Memory>>,
    free_bytes: usize,
    used_bytes: usize,
}

impl Buffers {
    /// Keeps as many as have, with those in use and with `items`, up to `limit` bytes.
    pub(crate) fn new(limit: u64, items: Gauge) -> Arc<Self> {
        Arc::new(Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), items, stock: Mutex::default() })
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
            return Ok(Buffer { memory: Memory::new(size)?, home: Weak::new() });
        }
        let size = rounded(size);
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stock.pop(size);
        stock.used_bytes += size;
        let surplus = stock.shrink_to(self.room());
        drop(stock);
        drop(surplus);
        let memory = found.map_or_else(|| Memory::new(size), Ok).inspect_err(|_| {
            self.stock.lock().unwrap_or_else(PoisonError::into_inner).used_bytes -= size;
        })?;
        Ok(Buffer { memory, home: Arc::downgrade(self) })
    }

    fn give(&self, mut memory: Memory) {
        memory.clear();
        let size = memory.capacity();
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        stock.used_bytes = stock.used_bytes.saturating_sub(size);
        if stock.used_bytes + stock.free_bytes + size <= self.room() {
            stock.free_bytes += size;
            stock.free.entry(size).or_default().push(memory);
        }
    }

    /// Bytes that buffers in use and free ones may have.
    fn room(&self) -> usize {
        self.limit.saturating_sub(usize::try_from(self.items.bytes()).unwrap_or(usize::MAX))
    }
}

impl Stock {
    fn pop(&mut self, size: usize) -> Option<Memory> {
        let buffer = self.free.get_mut(&size)?.pop()?;
        self.free_bytes -= size;
        Some(buffer)
    }

    /// Takes out free buffers, the largest first, until all are within the limit or none is left.
    fn shrink_to(&mut self, limit: usize) -> Vec<Memory> {
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

/// Bytes in a row, with room for more.
#[derive(Debug)]
enum Memory {
    Allocated(Vec<u8>),
    /// The first so many bytes are filled.
    Mapped(MmapMut, usize),
}

impl Memory {
    fn new(size: usize) -> Result<Self, TryReserveError> {
        // Where the process has all the maps it may have, the allocator may know better.
        if size >= MAPPED
            && let Ok(map) = MmapMut::map_anon(size)
        {
            return Ok(Self::Mapped(map, 0));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size)?;
        Ok(Self::Allocated(bytes))
    }

    fn capacity(&self) -> usize {
        match self {
            Self::Allocated(bytes) => bytes.capacity(),
            Self::Mapped(map, _) => map.len(),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Allocated(bytes) => bytes.clear(),
            Self::Mapped(_, filled) => *filled = 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Allocated(bytes) => bytes,
            Self::Mapped(map, filled) => &map[..*filled],
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::Allocated(Vec::new())
    }
}

/// A buffer that goes back to where it came from.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Memory,
    home: Weak<Buffers>,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.memory.bytes().len()
    }

    /// Adds bytes.
    ///
    /// # Panics
    /// When they are more than the buffer was taken for.
    pub(super) fn extend(&mut self, more: &[u8]) {
        match &mut self.memory {
            Memory::Allocated(bytes) => bytes.extend_from_slice(more),
            Memory::Mapped(map, filled) => {
                map[*filled..*filled + more.len()].copy_from_slice(more);
                *filled += more.len();
            }
        }
    }

    /// Its first `size` bytes, to be written over: what is there is of no use.
    ///
    /// # Panics
    /// When the buffer was taken for fewer.
    pub(crate) fn fill(&mut self, size: usize) -> &mut [u8] {
        match &mut self.memory {
            Memory::Allocated(bytes) => {
                bytes.resize(size, 0);
                bytes
            }
            Memory::Mapped(map, filled) => {
                *filled = size;
                &mut map[..size]
            }
        }
    }

    /// The bytes, whose last owner gives the buffer back.
    pub(crate) fn freeze(mut self) -> Bytes {
        match &mut self.memory {
            Memory::Allocated(bytes) if self.home.strong_count() == 0 => mem::take(bytes).into(),
            _ => Bytes::from_owner(self),
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.memory.bytes()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.give(mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::budget::Budget;

    const KIB: usize = 1 << 10;

    #[test]
    fn a_buffer_is_used_again_by_a_body_of_about_its_size() {
        let buffers = Buffers::new(1 << 20, Gauge::default());
        let mut buffer = buffers.take(100 * KIB).unwrap();
        buffer.extend(b"meow");
        let at = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let (slice, rest) = (bytes.slice(1..3), bytes.slice(3..));
        drop((bytes, rest));
        assert_eq!(&slice[..], b"eo", "held by any part of it");
        drop(slice);
        assert!(buffers.take(200 * KIB).unwrap().as_ref().as_ptr() != at, "of another size");
        let again = buffers.take(99 * KIB).unwrap();
        assert_eq!((again.as_ref().as_ptr(), again.len()), (at, 0));
    }

    #[tokio::test]
    async fn what_a_decoder_holds_of_the_budget_free_buffers_have_not() {
        let budget = Budget::new(1 << 20, Gauge::default());
        let buffers = Buffers::new(budget.bytes(), budget.items());
        let free = || buffers.stock.lock().unwrap().free_bytes;
        drop(buffers.take(512 * KIB).unwrap());
        assert_eq!(free(), 512 * KIB);
        let items = budget.take_for_items(600 << 10).await;
        drop(buffers.take(20 * KIB).unwrap());
        assert_eq!(free(), 20 * KIB, "the large one is gone");
        drop(buffers.take(512 * KIB).unwrap());
        assert_eq!(free(), 0, "nor is there room for it");
        drop(items);
        drop(buffers.take(512 * KIB).unwrap());
        assert_eq!(free(), 512 * KIB);
    }

    #[test]
    fn what_outlives_its_buffers_is_free_like_any_other() {
        let buffers = Buffers::new(1 << 20, Gauge::default());
        let bytes = buffers.take(100 * KIB).unwrap().freeze();
        drop(buffers);
        drop(bytes);
    }

    #[test]
    fn no_memory_is_an_error_and_counts_for_nothing() {
        let buffers = Buffers::new(u64::MAX, Gauge::default());
        buffers.take(isize::MAX as usize - KIB).unwrap_err();
        assert_eq!(buffers.stock.lock().unwrap().used_bytes, 0);
    }

    proptest! {
        #[test]
        fn free_buffers_never_lift_the_sum_above_the_limit(
            limit in 0usize..2_000 * KIB,
            steps in prop::collection::vec((1usize..500 * KIB, any::<prop::sample::Index>(), any::<bool>()), 1..100),
        ) {
            let buffers = Buffers::new(limit as u64, Gauge::default());
            let mut held: Vec<Buffer> = Vec::new();
            for (size, which, take) in steps {
                if take || held.is_empty() {
                    let buffer = buffers.take(size).unwrap();
                    prop_assert!(buffer.memory.capacity() >= size);
                    prop_assert!(buffer.memory.capacity() <= size + size / 32 + 1);
                    held.push(buffer);
                } else {
                    held.swap_remove(which.index(held.len()));
                }
                let stock = buffers.stock.lock().unwrap();
                let used = held.iter().filter(|buffer| buffer.home.strong_count() > 0);
                prop_assert_eq!(stock.used_bytes, used.map(|buffer| buffer.memory.capacity()).sum::<usize>());
                let free = stock.free.iter().map(|(size, all)| size * all.len()).sum::<usize>();
                prop_assert_eq!(stock.free_bytes, free);
                prop_assert!(free == 0 || stock.used_bytes + free <= limit);
            }
        }
    }
}
