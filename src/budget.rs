//! The memory budget: how many bytes may be held from the socket to the batch.

mod limit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use limit::memory_limit;

/// The unit in which bytes are counted, so that a budget of terabytes fits the 32 bits of a call of the semaphore.
const UNIT: u64 = 1024;

/// A limit on the bytes that are held at once. Waiters are served in the order in which they asked, so no later group
/// can take the bytes that an earlier one waits for.
///
/// A request for more than the whole budget is granted outside of it, one at a time.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    units: u32,
    shared: Arc<Semaphore>,
    oversize: Arc<Semaphore>,
    held: Gauge,
    items: Gauge,
}

/// The number of bytes held of all budgets that were made with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Counts `after` bytes instead of `before`.
    pub(crate) fn replace(&self, before: u64, after: u64) {
        if after >= before {
            self.0.fetch_add(after - before, Ordering::SeqCst);
        } else {
            self.0.fetch_sub(before - after, Ordering::SeqCst);
        }
    }
}

/// Bytes taken from a [`Budget`]. Dropping the permit gives them back.
#[derive(Debug)]
pub(crate) struct Permit {
    units: OwnedSemaphorePermit,
    bytes: u64,
    held: Gauge,
    /// Where the bytes are counted as well, if they are for items.
    items: Option<Gauge>,
}

impl Permit {
    /// Splits off a permit for `bytes`, or for all bytes if there are fewer, which is given back separately.
    pub(crate) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        // The units that stay must cover the bytes that stay, so a split-off permit may have no unit.
        let spare = (self.units.num_permits() as u64).saturating_sub(self.bytes.div_ceil(UNIT));
        let units = self.units.split(spare as usize).expect("no more units are split off than there are");
        Self { units, bytes, held: self.held.clone(), items: self.items.clone() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes, Ordering::SeqCst);
        if let Some(items) = &self.items {
            items.0.fetch_sub(self.bytes, Ordering::SeqCst);
        }
    }
}

/// Bytes that a group holds of the memory budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupBytes {
    /// Held until the last batch with a sample of the group is delivered.
    pub(crate) until_delivered: u64,
    /// Held until the group is decoded.
    pub(crate) until_decoded: u64,
}

impl GroupBytes {
    /// All bytes that the group holds at once.
    pub(crate) fn total(self) -> u64 {
        self.until_delivered.saturating_add(self.until_decoded)
    }
}

impl Budget {
    pub(crate) fn new(bytes: u64, held: Gauge) -> Self {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1);
        Self {
            units,
            shared: Arc::new(Semaphore::new(units as usize)),
            oversize: Arc::new(Semaphore::new(1)),
            held,
            items: Gauge::default(),
        }
    }

    /// The bytes of this budget that are held for items, which decoders make from the bytes that were read.
    pub(crate) fn items(&self) -> Gauge {
        self.items.clone()
    }

    /// The whole budget in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.units) * UNIT
    }

    /// Whether `bytes` are more than the whole budget.
    fn is_oversize(&self, bytes: u64) -> bool {
        bytes.div_ceil(UNIT) > u64::from(self.units)
    }

    /// Waits for `bytes`.
    ///
    /// # Cancel safety
    /// Dropping the future gives up its place in the queue and takes nothing.
    pub(crate) async fn take(&self, bytes: u64) -> Permit {
        let (semaphore, wanted) = match u32::try_from(bytes.div_ceil(UNIT)) {
            Ok(units) if units <= self.units => (&self.shared, units),
            _ => (&self.oversize, 1),
        };
        let units = Arc::clone(semaphore).acquire_many_owned(wanted).await.expect("the semaphores are never closed");
        self.held.0.fetch_add(bytes, Ordering::SeqCst);
        Permit { units, bytes, held: self.held.clone(), items: None }
    }

    /// Waits for `bytes` that are for items.
    pub(crate) async fn take_for_items(&self, bytes: u64) -> Permit {
        let mut permit = self.take(bytes).await;
        self.items.0.fetch_add(bytes, Ordering::SeqCst);
        permit.items = Some(self.items());
        permit
    }

    /// Counts `bytes` outside of the budget, for a caller that must not wait for any of it.
    pub(crate) fn exceed(&self, bytes: u64) -> Permit {
        let units = Arc::clone(&self.shared).try_acquire_many_owned(0).expect("the semaphores are never closed");
        self.held.0.fetch_add(bytes, Ordering::SeqCst);
        Permit { units, bytes, held: self.held.clone(), items: None }
    }

    /// Checks, before any bytes are taken, that the groups of one batch can be held together. Without this check a
    /// batch could wait for bytes that it holds itself. The error is the lowest budget that suffices.
    pub(crate) fn check(&self, groups: impl Iterator<Item = GroupBytes>) -> Result<(), u64> {
        let (mut kept, mut has_kept_oversize, mut fits) = (0u64, false, true);
        // Units as if nothing were held outside of the budget, by which the lowest budget is computed.
        let (mut all_kept, mut needed) = (0u64, 0);
        for GroupBytes { until_delivered, until_decoded } in groups {
            for (bytes, is_kept) in [(until_delivered, true), (until_decoded, false)] {
                let units = bytes.div_ceil(UNIT);
                needed = needed.max(all_kept.saturating_add(units));
                all_kept = if is_kept { all_kept.saturating_add(units) } else { all_kept };
                if self.is_oversize(bytes) {
                    fits &= !has_kept_oversize;
                    has_kept_oversize |= is_kept;
                } else {
                    fits &= kept + units <= u64::from(self.units);
                    kept += if is_kept { units } else { 0 };
                }
            }
        }
        if fits { Ok(()) } else { Err(needed.saturating_mul(UNIT)) }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use super::*;

    fn pending<F: Future>(future: &mut Pin<Box<F>>) -> bool {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn waiters_are_served_in_order_and_all_bytes_are_given_back() {
        let held = Gauge::default();
        let budget = Budget::new(10 * UNIT, held.clone());
        let first = budget.take(9 * UNIT).await;
        let mut large = Box::pin(budget.take(8 * UNIT));
        assert!(pending(&mut large));
        let mut small = Box::pin(budget.take(UNIT));
        assert!(pending(&mut small), "a later waiter must not overtake");
        drop(first);
        let large = large.await;
        let small = small.await;
        assert_eq!(held.bytes(), 9 * UNIT);
        drop((large, small));
        assert_eq!(held.bytes(), 0);
    }

    #[tokio::test]
    async fn a_permit_is_given_back_in_parts_and_never_early() {
        let held = Gauge::default();
        let budget = Budget::new(4 * UNIT, held.clone());
        let mut permit = budget.take(3 * UNIT + 1).await;
        let mut next = Box::pin(budget.take(2 * UNIT));
        let first = permit.split(UNIT);
        drop(first);
        assert!(pending(&mut next), "2,049 bytes are still held, which is three units of four");
        let second = permit.split(1);
        drop(second);
        let next = next.await;
        assert_eq!(held.bytes(), 4 * UNIT);
        drop(permit.split(u64::MAX));
        drop((permit, next));
        assert_eq!(held.bytes(), 0);
        let mut items = budget.take_for_items(4 * UNIT).await;
        assert_eq!((items.bytes, budget.items().bytes()), (4 * UNIT, 4 * UNIT), "the whole budget is free again");
        drop(items.split(UNIT));
        assert_eq!(budget.items().bytes(), 3 * UNIT);
    }

    #[tokio::test]
    async fn oversize_requests_are_granted_one_at_a_time() {
        let held = Gauge::default();
        let budget = Budget::new(4 * UNIT, held.clone());
        let all = budget.take(4 * UNIT).await;
        let huge = budget.take(1 << 50).await;
        let mut other = Box::pin(budget.take(5 * UNIT));
        assert!(pending(&mut other));
        drop(huge);
        drop((other.await, all));
        assert_eq!(held.bytes(), 0);
    }

    #[tokio::test]
    async fn bytes_outside_of_the_budget_are_granted_at_once_and_counted() {
        let held = Gauge::default();
        let budget = Budget::new(2 * UNIT, held.clone());
        let all = budget.take(2 * UNIT).await;
        let mut next = Box::pin(budget.take(UNIT));
        assert!(pending(&mut next));
        let outside = budget.exceed(3 * UNIT);
        assert_eq!(held.bytes(), 5 * UNIT);
        drop(outside);
        assert!(pending(&mut next), "they had no unit to give back");
        drop((all, next));
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn a_batch_that_can_never_be_held_is_detected() {
        let budget = Budget::new(10 * UNIT, Gauge::default());
        let bytes = |&(delivered, decoded): &(u64, u64)| GroupBytes {
            until_delivered: delivered * UNIT,
            until_decoded: decoded * UNIT,
        };
        let check = |groups: &[(u64, u64)]| budget.check(groups.iter().map(bytes));
        assert_eq!(check(&[(5, 0), (5, 0)]), Ok(()));
        assert_eq!(check(&[(5, 0), (6, 0)]), Err(11 * UNIT));
        assert_eq!(check(&[(2, 8), (2, 6)]), Ok(()));
        assert_eq!(check(&[(2, 8), (2, 7)]), Err(11 * UNIT));
        assert_eq!(check(&[(10, 0), (11, 0)]), Ok(()));
        assert_eq!(check(&[(11, 0), (11, 0)]), Err(22 * UNIT));
        assert_eq!(check(&[(1, 11), (1, 11)]), Ok(()));
    }
}
