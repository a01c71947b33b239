//! Memory of batches that the training loop is done with, for the next ones.
//!
//! A batch of 256 images of 224 x 224 pixels has 154 MB as `f32`. The allocator gives as much back to the system as
//! soon as the batch is gone, and gets other pages for the next one, which the system clears first. So a dropped
//! [`BatchBuffer`] goes back to the loader, which keeps its memory in a [`BatchPool`].
//!
//! The decode gate bounds the kept bytes with each grant: to its ungranted bytes plus those granted for batches that
//! are not collated yet. Between epochs nothing is kept. While a batch is collated, the total may exceed the budget by
//! that batch. Loaders without a gate, or whose gate counts samples, keep nothing.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, Weak};

use crate::lock::lock;
use crate::os::use_large_pages;

/// Smallest buffers that are kept: below this the allocators of most systems keep the memory themselves.
const MIN_KEPT_BYTES: u64 = 4 << 20;

/// A kept buffer is dropped once so many buffers of its type but of other lengths were taken in a row: the loader no
/// longer has batches of that size. Fewer say nothing. Several threads collate at once, each perhaps a batch of three
/// parts of one type, and an epoch may end with a smaller batch.
const MAX_MISSES: u32 = 16;

/// Buffers of a loader that wait for the next batch.
#[derive(Debug, Default)]
pub(crate) struct BatchPool(Mutex<PoolState>);

#[derive(Debug, Default)]
struct PoolState {
    /// Bytes that may be kept.
    limit: u64,
    /// Capacity of all `buffers`, in bytes.
    bytes: u64,
    /// The longest kept ago first. Nearly all of one type have one size.
    buffers: Vec<PooledBuffer>,
}

/// One buffer, without its type.
#[derive(Debug)]
struct PooledBuffer {
    bytes: u64,
    /// Buffers of other lengths that were taken in its place, in a row.
    misses: u32,
    /// A `Vec` of numbers.
    numbers: Box<dyn Any + Send>,
}

impl BatchPool {
    /// Bounds the bytes that are kept, and returns the buffers that are more. Dropping these may take milliseconds.
    #[must_use]
    pub(crate) fn set_limit(&self, limit: u64) -> impl Sized + use<> {
        let mut state = lock(&self.0);
        state.limit = limit;
        state.make_room(0)
    }

    /// A kept buffer of just this length.
    fn take<T: 'static>(&self, length: usize) -> Option<Vec<T>> {
        let mut state = lock(&self.0);
        let found = state.take(length);
        let unused = state.pass_over::<T>(length);
        drop(state);
        // After the lock, since that may take milliseconds.
        drop(unused);
        found
    }

    fn keep<T: Send + 'static>(&self, numbers: Vec<T>) {
        let bytes = (numbers.capacity() * size_of::<T>()) as u64;
        let mut state = lock(&self.0);
        // The last batch of an epoch is often smaller. Later ones have no use of its buffer.
        let is_smaller = state.buffers.iter().any(|kept| kept.is_of::<T>() && kept.bytes > bytes);
        if bytes < MIN_KEPT_BYTES || bytes > state.limit || is_smaller {
            return;
        }
        let excess = state.make_room(bytes);
        state.bytes += bytes;
        state.buffers.push(PooledBuffer { bytes, misses: 0, numbers: Box::new(numbers) });
        drop(state);
        // After the lock, since that may take milliseconds.
        drop(excess);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.0).bytes
    }
}

impl PooledBuffer {
    fn is_of<T: 'static>(&self) -> bool {
        self.numbers.is::<Vec<T>>()
    }

    fn has_length<T: 'static>(&self, length: usize) -> bool {
        self.numbers.downcast_ref::<Vec<T>>().is_some_and(|numbers| numbers.len() == length)
    }
}

impl PoolState {
    /// Takes out the oldest buffer of just this length.
    fn take<T: 'static>(&mut self, length: usize) -> Option<Vec<T>> {
        let found = self.buffers.iter().position(|kept| kept.has_length::<T>(length))?;
        let kept = self.buffers.remove(found);
        self.bytes -= kept.bytes;
        kept.numbers.downcast::<Vec<T>>().ok().map(|numbers| *numbers)
    }

    /// Notes that a buffer of this length is taken, and takes out those of the type that have missed too many.
    fn pass_over<T: 'static>(&mut self, length: usize) -> Vec<PooledBuffer> {
        for kept in self.buffers.iter_mut().filter(|kept| kept.is_of::<T>()) {
            kept.misses = if kept.has_length::<T>(length) { 0 } else { kept.misses + 1 };
        }
        let unused: Vec<_> = self.buffers.extract_if(.., |kept| kept.misses > MAX_MISSES).collect();
        self.bytes -= unused.iter().map(|kept| kept.bytes).sum::<u64>();
        unused
    }

    /// Takes out buffers, the oldest first, until there is room for so many bytes more.
    fn make_room(&mut self, more: u64) -> Vec<PooledBuffer> {
        let mut excess = Vec::new();
        while !self.buffers.is_empty() && self.bytes.saturating_add(more) > self.limit {
            let kept = self.buffers.remove(0);
            self.bytes -= kept.bytes;
            excess.push(kept);
        }
        excess
    }
}

/// Where the collators of a loader take the memory of batches from. All are equal, since batches don't depend on them.
#[derive(Clone, Debug, Default)]
pub(crate) struct BufferSource(Option<Arc<BatchPool>>);

impl BufferSource {
    pub(crate) fn new(pool: Option<Arc<BatchPool>>) -> Self {
        Self(pool)
    }

    pub(super) fn buffer<T: Copy + Default + Send + 'static>(&self, length: usize) -> BatchBuffer<T> {
        let numbers = self.0.as_ref().and_then(|pool| pool.take(length)).unwrap_or_else(|| {
            let mut numbers = vec![T::default(); length];
            use_large_pages(&mut numbers);
            numbers
        });
        let home = self.0.as_ref().map(|pool| Home { pool: Arc::downgrade(pool), keep: BatchPool::keep::<T> });
        BatchBuffer { numbers, home }
    }
}

impl PartialEq for BufferSource {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for BufferSource {}

/// The numbers of a batch. When this is dropped, on any thread, the loader may keep its memory for a later batch: if
/// it has at least 4 MiB, the loader counts bytes, and the budget has room. A program that needs a `Vec` takes that
/// out with [`into_vec`](Self::into_vec), and the memory with it.
///
/// [`CollateContext::buffer`](crate::CollateContext::buffer) makes one; so does `Vec::into`, of memory that no loader
/// gets back.
///
/// ```
/// use dataflux::BatchBuffer;
///
/// let mut numbers = BatchBuffer::from(vec![0.5_f32, 1.0]);
/// numbers[0] *= 2.0;
/// assert_eq!(numbers.iter().sum::<f32>(), 2.0);
/// assert_eq!(numbers.into_vec(), [1.0, 1.0]);
/// ```
pub struct BatchBuffer<T> {
    numbers: Vec<T>,
    home: Option<Home<T>>,
}

/// The loader that gets a buffer back, if it is still there.
struct Home<T> {
    pool: Weak<BatchPool>,
    /// A function pointer because `Drop` can't require `T: Send + 'static`.
    keep: fn(&BatchPool, Vec<T>),
}

impl<T> BatchBuffer<T> {
    /// The numbers as a `Vec`, without a copy. The loader doesn't get the memory back.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<T> {
        self.home = None;
        std::mem::take(&mut self.numbers)
    }
}

impl<T> Drop for BatchBuffer<T> {
    fn drop(&mut self) {
        if let Some(home) = self.home.take()
            && let Some(pool) = home.pool.upgrade()
        {
            (home.keep)(&pool, std::mem::take(&mut self.numbers));
        }
    }
}

impl<T> Deref for BatchBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.numbers
    }
}

impl<T> DerefMut for BatchBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.numbers
    }
}

impl<T> From<Vec<T>> for BatchBuffer<T> {
    fn from(numbers: Vec<T>) -> Self {
        Self { numbers, home: None }
    }
}

impl<T> Default for BatchBuffer<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

/// A copy, which no loader gets back.
impl<T: Clone> Clone for BatchBuffer<T> {
    fn clone(&self) -> Self {
        self.numbers.clone().into()
    }
}

impl<T: PartialEq> PartialEq for BatchBuffer<T> {
    fn eq(&self, other: &Self) -> bool {
        self.numbers == other.numbers
    }
}

impl<T: fmt::Debug> fmt::Debug for BatchBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.numbers.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 1 << 20;
    const BYTES: u64 = 4 << 20;

    fn source(limit: u64) -> (Arc<BatchPool>, BufferSource) {
        let pool = Arc::<BatchPool>::default();
        drop(pool.set_limit(limit));
        (Arc::clone(&pool), BufferSource::new(Some(pool)))
    }

    #[test]
    fn a_dropped_buffer_is_the_next_one() {
        let (pool, source) = source(3 * BYTES);
        let buffer = source.buffer::<f32>(LENGTH);
        assert!(buffer.iter().all(|number| *number == 0.0));
        let address = buffer.as_ptr();
        std::thread::spawn(move || drop(buffer)).join().unwrap();
        assert_eq!(pool.bytes(), BYTES);
        assert_eq!(source.buffer::<u32>(LENGTH).len(), LENGTH, "one of another type is another one");
        let again = source.buffer::<f32>(LENGTH);
        assert_eq!(again.as_ptr(), address);
        let taken_out = again.into_vec();
        assert_eq!(taken_out.as_ptr(), address);
        drop(source.buffer::<f32>(LENGTH).clone());
        assert_eq!(pool.bytes(), 2 * BYTES, "a `Vec` and a copy don't come back");
        drop(source.buffer::<f32>(LENGTH - 1));
        assert_eq!(pool.bytes(), 2 * BYTES, "nor does the buffer of a smaller batch");
    }

    /// Batches of two parts, one of which has smaller numbers, had new memory for that part.
    #[test]
    fn a_buffer_is_compared_with_those_of_its_type() {
        let (pool, source) = source(8 * BYTES);
        let (large, small) = (source.buffer::<f32>(2 * LENGTH), source.buffer::<u8>(4 * LENGTH));
        let address = small.as_ptr();
        drop(large);
        drop(small);
        assert_eq!(pool.bytes(), 3 * BYTES);
        assert_eq!(source.buffer::<u8>(4 * LENGTH).as_ptr(), address);
    }

    /// One batch that was larger than all others kept its memory, and that of the others wasn't kept.
    #[test]
    fn a_buffer_that_no_batch_takes_is_dropped() {
        let (pool, source) = source(8 * BYTES);
        drop(source.buffer::<f32>(2 * LENGTH));
        let other_type = source.buffer::<u8>(4 * LENGTH);
        drop(other_type);
        for _ in 0..MAX_MISSES {
            drop(source.buffer::<f32>(LENGTH));
        }
        assert_eq!(pool.bytes(), 3 * BYTES);
        // A batch as large as the kept one, and all begins again.
        drop(source.buffer::<f32>(2 * LENGTH));
        for _ in 0..MAX_MISSES {
            drop(source.buffer::<f32>(LENGTH));
        }
        assert_eq!(pool.bytes(), 3 * BYTES);
        drop(source.buffer::<f32>(LENGTH));
        assert_eq!(
            pool.bytes(),
            2 * BYTES,
            "the large one is dropped, the small one and that of another type are kept"
        );
    }

    #[test]
    fn the_oldest_buffer_makes_room() {
        let (pool, source) = source(3 * BYTES);
        let [first, second, third] = [(); 3].map(|()| source.buffer::<f32>(LENGTH));
        let addresses = [second.as_ptr(), third.as_ptr()];
        [first, second, third].into_iter().for_each(drop);
        let first = source.buffer::<f32>(LENGTH);
        assert!(!addresses.contains(&first.as_ptr()), "the oldest is taken");
        drop(pool.set_limit(BYTES));
        assert_eq!(source.buffer::<f32>(LENGTH).as_ptr(), addresses[1], "the newest is left");
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let (pool, source) = source(2 * BYTES);
        let buffers = || [(); 4].map(|()| source.buffer::<f32>(LENGTH));
        drop(buffers());
        assert_eq!(pool.bytes(), 2 * BYTES);
        drop(pool.set_limit(2 * BYTES - 1));
        assert_eq!(pool.bytes(), BYTES);
        let late = buffers();
        drop(pool.set_limit(0));
        drop(late);
        assert_eq!(pool.bytes(), 0);
        drop(pool.set_limit(u64::MAX));
        let late = buffers();
        let weak = Arc::downgrade(&pool);
        drop((pool, source));
        assert!(weak.upgrade().is_none(), "buffers don't keep those of a loader that is gone");
        drop(late);
    }
}
