//! Memory of batches that the training loop is done with, for the next ones.
//!
//! A batch of 256 images of 224 x 224 pixels has 154 MB as `f32`. The allocator gives as much back to the system as
//! soon as the batch is gone, and gets other pages for the next one, which the system clears first. So a
//! [`BatchBuffer`] goes back to the loader when it is dropped, by whatever thread. [`BatchPool`] never has more bytes
//! than the memory budget has left, or holds for batches that will be written into them: the gate before the decoder
//! sets that bound with each grant, and 0 once no batch is under way.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, Weak};

use crate::lock::lock;
use crate::os::use_large_pages;

/// Smallest buffers that are kept: below this the allocators of most systems keep the memory themselves.
const MIN_KEPT_BYTES: u64 = 4 << 20;

/// Buffers of a loader that wait for the next batch.
#[derive(Debug, Default)]
pub(crate) struct BatchPool(Mutex<PoolState>);

#[derive(Debug, Default)]
struct PoolState {
    /// Bytes that may be kept.
    limit: u64,
    bytes: u64,
    /// All of one size, except where a loader has batches of several types.
    buffers: Vec<PooledBuffer>,
}

/// One buffer, without its type.
#[derive(Debug)]
pub(crate) struct PooledBuffer {
    bytes: u64,
    /// A `Vec` of numbers.
    numbers: Box<dyn Any + Send>,
}

impl BatchPool {
    /// Bounds the bytes that are kept, and returns the buffers that are more. Dropping these may take milliseconds.
    #[must_use]
    pub(crate) fn set_limit(&self, limit: u64) -> Vec<PooledBuffer> {
        let mut state = lock(&self.0);
        state.limit = limit;
        state.make_room(0)
    }

    /// A kept buffer of just this length.
    fn take<T: 'static>(&self, length: usize) -> Option<Vec<T>> {
        let mut state = lock(&self.0);
        let fits = |kept: &PooledBuffer| kept.numbers.downcast_ref::<Vec<T>>().is_some_and(|kept| kept.len() == length);
        let found = state.buffers.iter().position(fits)?;
        let kept = state.buffers.swap_remove(found);
        state.bytes -= kept.bytes;
        kept.numbers.downcast::<Vec<T>>().ok().map(|numbers| *numbers)
    }

    fn keep<T: Send + 'static>(&self, numbers: Vec<T>) {
        let bytes = (numbers.capacity() * size_of::<T>()) as u64;
        let mut state = lock(&self.0);
        // The last batch of an epoch is often smaller. Later ones have no use of its buffer.
        let is_smaller = state.buffers.iter().any(|kept| kept.bytes > bytes);
        if bytes < MIN_KEPT_BYTES || bytes > state.limit || is_smaller {
            return;
        }
        let excess = state.make_room(bytes);
        state.bytes += bytes;
        state.buffers.push(PooledBuffer { bytes, numbers: Box::new(numbers) });
        drop(state);
        // After the lock, since that may take milliseconds.
        drop(excess);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.0).bytes
    }
}

impl PoolState {
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

/// The numbers of a batch. When this is dropped, by whatever thread, its memory goes back to the loader that made it,
/// for the next batch. A program that needs a `Vec` takes that out with [`into_vec`](Self::into_vec), and the memory
/// with it.
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
