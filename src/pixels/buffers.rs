//! Memory of images that are done with, for the next ones.
//!
//! An image of usual size takes half a megabyte for its pixels and as much again on the way to its final size. The
//! allocator returns that much memory to the system and gets other pages for the next image, which takes a quarter of
//! the time of decoding. So what one image no longer needs is kept here, up to [`MAX_KEPT_BYTES`], for all threads.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::lock::lock;

/// Bytes that are kept at most, for a whole process. A batch of 256 images of 224 x 224 pixels has 38 MB.
const MAX_KEPT_BYTES: usize = 48 << 20;

/// Below this size the allocator is as good.
const MIN_BYTES: usize = 16 << 10;

/// Buffers by their capacity, which is the memory that they take.
#[derive(Debug)]
struct KeptBuffers {
    bytes: usize,
    by_capacity: BTreeMap<usize, Vec<Vec<u8>>>,
}

static KEPT: Mutex<KeptBuffers> = Mutex::new(KeptBuffers { bytes: 0, by_capacity: BTreeMap::new() });

impl KeptBuffers {
    /// The smallest buffer that holds this many bytes, unless even that is a sixteenth too large: an image that waits
    /// for its batch is counted by its own bytes.
    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let (&found, buffers) = self.by_capacity.range_mut(length..=length + length / 16).next()?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            self.by_capacity.remove(&found);
        }
        self.bytes -= found;
        buffer
    }

    fn keep(&mut self, buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity >= MIN_BYTES && self.bytes + capacity <= MAX_KEPT_BYTES {
            self.bytes += capacity;
            self.by_capacity.entry(capacity).or_default().push(buffer);
        }
    }
}

/// A buffer of this length, whose bytes have any value.
pub(crate) fn buffer(length: usize) -> Vec<u8> {
    let kept = if length < MIN_BYTES { None } else { lock(&KEPT).take(length) };
    match kept {
        Some(mut buffer) => {
            buffer.resize(length, 0);
            buffer
        }
        None => vec![0; length],
    }
}

/// Keeps a buffer for another image.
pub(crate) fn recycle(buffer: Vec<u8>) {
    lock(&KEPT).keep(buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_serves_lengths_a_little_below_its_own_and_the_bound_holds() {
        let mut kept = KeptBuffers { bytes: 0, by_capacity: BTreeMap::new() };
        kept.keep(vec![7; MIN_BYTES - 1]);
        assert_eq!(kept.bytes, 0, "too small to keep");
        let mut shortened = vec![7; 100_000];
        shortened.truncate(10);
        kept.keep(shortened);
        kept.keep(vec![8; 60_000]);
        assert_eq!(kept.bytes, 160_000, "counted by what they take");
        assert!(kept.take(100_001).is_none() && kept.take(40_000).is_none());
        assert_eq!(kept.take(57_000).unwrap().capacity(), 60_000);
        assert_eq!(kept.take(95_000).unwrap().capacity(), 100_000);
        assert_eq!(kept.bytes, 0);
        (0..100).for_each(|_| kept.keep(vec![0; 1 << 20]));
        assert_eq!(kept.bytes, MAX_KEPT_BYTES);
    }
}
