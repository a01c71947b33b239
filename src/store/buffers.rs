//! Reusable buffers for bodies. The system clears fresh memory page by page, which takes longer than receiving the
//! bytes, and the allocator returns the memory of dropped batches to the system.

use std::collections::{BTreeMap, TryReserveError};
use std::mem;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use memmap2::MmapMut;

use crate::budget::Gauge;
use crate::lock::lock;

/// Smallest body that gets a reusable buffer. For smaller ones the allocator has memory without asking the system.
const MIN_SIZE: usize = 16 << 10;

/// Smallest buffer that is mapped from the system instead of allocated. The allocator keeps freed memory in pieces of
/// many sizes, few of which fit the next body: where single and composed objects alternated, it held a third more than
/// the budget. Smaller buffers would be too many, since a process may have 65,530 maps.
const MIN_MAPPED: usize = 64 << 10;

/// A pool of buffers for bodies. The free buffers, those in use and the decoded items that are held of the same budget
/// together never have more bytes than the limit because of the free ones; buffers in use and items may exceed it by
/// themselves. Dropping the pool frees the free buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    limit: usize,
    /// Bytes held of the budget outside of buffers: items that a decoder has made.
    items: Gauge,
    stock: Mutex<Stock>,
}

/// The buffers of a pool. All sizes are capacities in bytes.
#[derive(Debug, Default)]
struct Stock {
    free: BTreeMap<usize, Vec<Memory>>,
    free_bytes: usize,
    used_bytes: usize,
}

impl Buffers {
    /// A pool that keeps free buffers as long as all buffers and `items` together have at most `limit` bytes.
    pub(crate) fn new(limit: u64, items: Gauge) -> Arc<Self> {
        Arc::new(Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), items, stock: Mutex::default() })
    }

    /// Whether a body of this size gets a reusable buffer.
    pub(super) fn serves(&self, size: usize) -> bool {
        (MIN_SIZE..=self.limit).contains(&size)
    }

    /// An empty buffer with room for `size` bytes.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn take(self: &Arc<Self>, size: usize) -> Result<Buffer, TryReserveError> {
        if !self.serves(size) {
            return Ok(Buffer { memory: Memory::new(size)?, pool: Weak::new() });
        }
        let size = round_up(size);
        let mut stock = lock(&self.stock);
        let found = stock.pop(size);
        stock.used_bytes += size;
        let surplus = stock.shrink_to(self.room());
        drop(stock);
        drop(surplus);
        let memory = found.map_or_else(|| Memory::new(size), Ok).inspect_err(|_| {
            lock(&self.stock).used_bytes -= size;
        })?;
        Ok(Buffer { memory, pool: Arc::downgrade(self) })
    }

    /// Takes a buffer back that is no longer in use.
    fn give_back(&self, mut memory: Memory) {
        memory.clear();
        let size = memory.capacity();
        let mut stock = lock(&self.stock);
        stock.used_bytes = stock.used_bytes.saturating_sub(size);
        if stock.used_bytes + stock.free_bytes + size <= self.room() {
            stock.free_bytes += size;
            stock.free.entry(size).or_default().push(memory);
        }
    }

    /// Number of bytes that buffers in use and free ones may have together.
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

    /// Removes free buffers, the largest first, until all buffers are within the limit or no free one is left.
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

/// Rounds a size up by at most a 32nd. Objects of similar sizes then share buffers, and a full memory budget takes at
/// most a 32nd more than its bytes.
fn round_up(size: usize) -> usize {
    let step = 1 << (size.ilog2().saturating_sub(5));
    size.next_multiple_of(step)
}

/// The memory of a buffer, part of which is filled.
#[derive(Debug)]
enum Memory {
    Allocated(Vec<u8>),
    /// A map, and the number of bytes at its start that are filled.
    Mapped(MmapMut, usize),
}

impl Memory {
    fn new(size: usize) -> Result<Self, TryReserveError> {
        // If the process has as many maps as it may have, the allocator may still have memory.
        if size >= MIN_MAPPED
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

/// A buffer that returns to its pool when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Memory,
    pool: Weak<Buffers>,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.memory.bytes().len()
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// When the buffer was taken for fewer.
    pub(super) fn extend(&mut self, more: &[u8]) {
        match &mut self.memory {
            Memory::Allocated(bytes) => bytes.extend_from_slice(more),
            Memory::Mapped(map, filled) => {
                map[*filled..*filled + more.len()].copy_from_slice(more);
                *filled += more.len();
            }
        }
    }

    /// The first `size` bytes, to be overwritten; their present contents are arbitrary.
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

    /// The bytes. When the last reference to them is dropped, the buffer returns to its pool.
    pub(crate) fn freeze(mut self) -> Bytes {
        match &mut self.memory {
            Memory::Allocated(bytes) if self.pool.strong_count() == 0 => mem::take(bytes).into(),
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
        if let Some(pool) = self.pool.upgrade() {
            pool.give_back(mem::take(&mut self.memory));
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
    fn a_buffer_is_reused_by_a_body_of_similar_size() {
        let buffers = Buffers::new(1 << 20, Gauge::default());
        let mut buffer = buffers.take(100 * KIB).unwrap();
        buffer.extend(b"meow");
        let at = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let (slice, rest) = (bytes.slice(1..3), bytes.slice(3..));
        drop((bytes, rest));
        assert_eq!(&slice[..], b"eo", "any part of it keeps the buffer");
        drop(slice);
        assert!(buffers.take(200 * KIB).unwrap().as_ref().as_ptr() != at, "of another size");
        let again = buffers.take(99 * KIB).unwrap();
        assert_eq!((again.as_ref().as_ptr(), again.len()), (at, 0));
    }

    #[tokio::test]
    async fn free_buffers_make_room_for_decoded_items() {
        let budget = Budget::new(1 << 20, Gauge::default());
        let buffers = Buffers::new(budget.bytes(), budget.items());
        let free = || buffers.stock.lock().unwrap().free_bytes;
        drop(buffers.take(512 * KIB).unwrap());
        assert_eq!(free(), 512 * KIB);
        let items = budget.take_for_items(600 << 10).await;
        drop(buffers.take(20 * KIB).unwrap());
        assert_eq!(free(), 20 * KIB, "the large one is gone");
        drop(buffers.take(512 * KIB).unwrap());
        assert_eq!(free(), 0, "there is no room for it");
        drop(items);
        drop(buffers.take(512 * KIB).unwrap());
        assert_eq!(free(), 512 * KIB);
    }

    #[test]
    fn a_buffer_that_outlives_its_pool_is_freed() {
        let buffers = Buffers::new(1 << 20, Gauge::default());
        let mut buffer = buffers.take(100 * KIB).unwrap();
        buffer.extend(b"meow");
        let (bytes, home) = (buffer.freeze(), Arc::downgrade(&buffers));
        drop(buffers);
        assert_eq!(home.strong_count(), 0, "bytes in use keep no free buffers");
        assert_eq!(&bytes[..], b"meow");
    }

    #[test]
    fn no_memory_is_an_error_and_is_not_counted() {
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
                let used = held.iter().filter(|buffer| buffer.pool.strong_count() > 0);
                prop_assert_eq!(stock.used_bytes, used.map(|buffer| buffer.memory.capacity()).sum::<usize>());
                let free = stock.free.iter().map(|(size, all)| size * all.len()).sum::<usize>();
                prop_assert_eq!(stock.free_bytes, free);
                prop_assert!(free == 0 || stock.used_bytes + free <= limit);
            }
        }
    }
}
