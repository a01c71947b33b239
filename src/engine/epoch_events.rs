//! The events of one epoch: its beginning, the batches that are delivered, and its end.

use std::sync::Mutex;
use std::time::Duration;

use crate::lock::lock;
use crate::observe::{Event, EventKind, Events};

/// Sends the events of one epoch. The end is sent once and is the last of them, whether the training loop or the loader
/// ends the epoch.
pub(crate) struct EpochEvents {
    events: Events,
    epoch: u64,
    progress: Mutex<DeliveredSoFar>,
}

#[derive(Clone, Copy, Debug, Default)]
struct DeliveredSoFar {
    batches: u64,
    samples: u64,
    is_complete: bool,
    is_over: bool,
}

/// A batch that is about to be handed to the training loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchDelivery {
    /// Index of the batch in its epoch.
    pub(crate) batch: u64,
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
    /// Whether all other batches of the epoch are known to be delivered.
    pub(crate) is_last: bool,
}

impl EpochEvents {
    /// The events of an epoch that begins now.
    pub(crate) fn begin(events: Events, epoch: u64) -> Self {
        events.send(EventKind::EpochBegun, || Event::EpochBegun { epoch });
        Self { events, epoch, progress: Mutex::default() }
    }

    /// Reports a batch for which the training loop waited. Returns false if the epoch is over: the caller must not
    /// deliver the batch then.
    #[must_use]
    pub(crate) fn deliver(&self, delivery: BatchDelivery, waited: Duration) -> bool {
        let BatchDelivery { batch, samples, bytes, is_last } = delivery;
        // The event is sent under the lock, so that it comes before that of the end. Sending never waits.
        let mut progress = lock(&self.progress);
        if progress.is_over {
            return false;
        }
        progress.batches += 1;
        progress.samples += samples;
        progress.is_complete |= is_last;
        let event = || Event::BatchDelivered { epoch: self.epoch, batch, samples, bytes, waited };
        self.events.send(EventKind::BatchDelivered, event);
        true
    }

    /// Reports the end of the epoch, unless it has been reported. `is_complete` says that no batch is left; if the last
    /// one was delivered, the epoch is complete in any case.
    pub(crate) fn end(&self, is_complete: bool) {
        let mut progress = lock(&self.progress);
        if progress.is_over {
            return;
        }
        progress.is_over = true;
        let (epoch, DeliveredSoFar { batches, samples, .. }) = (self.epoch, *progress);
        let is_complete = is_complete || progress.is_complete;
        let event = || Event::EpochEnded { epoch, batches, samples, is_complete };
        self.events.send(EventKind::EpochEnded, event);
    }

    pub(super) fn is_over(&self) -> bool {
        lock(&self.progress).is_over
    }
}
