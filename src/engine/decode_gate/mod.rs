//! Memory for decoding. Samples that wait for it are served in the order of delivery.
//!
//! The decoded size of an image is known only after its bytes have been read. So the memory budget of a loader with
//! such a decoder has two parts. The planner reserves the first, in the order of delivery, for bytes that are being
//! read. The gate grants the second for items, the copies of them in a batch, and the decoder's working memory: a
//! sample that was read waits in the gate until these are granted, and only then goes to a decode thread. Of items
//! whose size nobody can tell, the gate counts samples instead, and the budget is not divided.
//!
//! **Why this cannot deadlock.** The *front* is the first batch, in the order of delivery, that still lacks a grant.
//! Grants to batches behind it never exceed `DecodeLimits::behind_front` together. Grants to the front itself may take
//! all that is free, and [`GrantLedger::request`] refuses a batch that needs more than `all - behind_front`. Batches
//! before the front have all their grants: they need nothing more to be decoded, collated and delivered, and then give
//! everything back. Working memory is given back when its sample is decoded. So what a sample of the front waits for is
//! always given back, provided that the training loop takes batches; and bytes that are being read come out of the
//! other part, so no read is in the way. Items whose size is only estimated may turn out larger than their grants, and
//! so may items whose headers lie. Batches behind the front may then hold what the front needs, whether the size of its
//! own samples is known or not. So once every sample with a grant is decoded and no batch before the front is left,
//! nothing more would be given back, and the front's samples are let through beyond the limit: those of estimated
//! size, and all of them if the batches behind hold more than they may. Where all sizes are known and true, neither
//! happens.

mod ledger;

use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use crate::budget::Gauge;
use crate::collate::BatchPool;
use crate::lock::lock;

pub(crate) use ledger::{Cancellable, DecodeLimits, DecodeNeed, GrantLedger, NeverFits};

/// Lets jobs through to the decode threads once there is memory for what they make.
pub(crate) struct DecodeGate<J> {
    pub(crate) limits: DecodeLimits,
    ledger: Mutex<GrantLedger<J>>,
    jobs: Sender<J>,
    /// Gauge of granted bytes; `None` if the limits count samples.
    held: Option<Gauge>,
    /// Memory of dropped batches, within [`GrantLedger::keepable`].
    pub(crate) buffers: Arc<BatchPool>,
}

impl<J: Cancellable> DecodeGate<J> {
    pub(crate) fn new(limits: DecodeLimits, jobs: Sender<J>, held: Gauge) -> Arc<Self> {
        let held = limits.counts_bytes.then_some(held);
        Arc::new(Self { limits, ledger: Mutex::new(GrantLedger::new(limits)), jobs, held, buffers: Arc::default() })
    }

    /// Registers a batch of so many samples behind all others, so it is called in the order of delivery.
    pub(crate) fn register(self: &Arc<Self>, samples: usize) -> BatchMemory<J> {
        BatchMemory { number: self.update(|ledger| ledger.register(samples)), gate: Arc::clone(self) }
    }

    /// Sends a sample's job to the decode threads once its memory is granted.
    ///
    /// # Errors
    /// Its batch can never have what it needs.
    pub(crate) fn request(&self, batch: u64, need: DecodeNeed, job: J) -> Result<(), NeverFits> {
        // A job that is refused is dropped after the lock is released.
        let mut job = Some(job);
        self.update(|ledger| ledger.request(batch, need, &mut job))?;
        self.pass_on(job);
        Ok(())
    }

    /// Removes cancelled jobs and sends them to the decode threads, which drop them without decoding.
    pub(crate) fn release_cancelled(&self) {
        let released = self.update(GrantLedger::take_cancelled);
        self.pass_on(released);
    }

    /// Applies `change`, then sends every job that is granted by now to the decode threads.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut GrantLedger<J>) -> R) -> R {
        let mut ledger = lock(&self.ledger);
        let before = ledger.used();
        let result = change(&mut ledger);
        let ready = ledger.take_ready();
        let excess = self.held.as_ref().map(|held| {
            held.replace(before, ledger.used());
            self.buffers.set_limit(ledger.keepable())
        });
        drop(ledger);
        // After the lock, since that may take milliseconds.
        drop(excess);
        self.pass_on(ready);
        result
    }

    fn pass_on(&self, jobs: impl IntoIterator<Item = J>) {
        for job in jobs {
            // If the decode threads have ended, dropping the job closes the channel of its batch, which the iterator
            // reports.
            let _ = self.jobs.send(job);
        }
    }
}

/// What a batch holds; dropping it gives everything back.
pub(crate) struct BatchMemory<J: Cancellable> {
    gate: Arc<DecodeGate<J>>,
    /// The batch's number at the gate.
    pub(crate) number: u64,
}

impl<J: Cancellable> Drop for BatchMemory<J> {
    fn drop(&mut self) {
        self.gate.update(|ledger| ledger.close(self.number));
    }
}

#[cfg(test)]
mod tests;
