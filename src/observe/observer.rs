//! [`Observer`], the user's code that gets events.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::event::{Event, EventKind, KindSet};

/// Code that gets events: a type with state of its own, or a closure.
///
/// Observers are for counting, logging and measuring. Each has a thread of its own, `dataflux-events`, which alone
/// calls it, so that it never slows down reads or the training loop. Instead, **events are lost** where an observer
/// doesn't keep up and thousands wait for it; [`EpochStats::events_lost`](crate::EpochStats::events_lost) counts them.
/// Events arrive some ten milliseconds late.
///
/// Register an observer by [`DataLoaderBuilder::observe`](crate::DataLoaderBuilder::observe) for the epochs of one
/// loader, or by [`Client::observe`](crate::store::Client::observe) for everything that is done through a client, the
/// listing included. An observer is dropped after its last event, on its thread. If it panics, the panic is logged, and
/// it gets no more events.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use dataflux::store::{Client, MemoryStore};
/// use std::sync::mpsc;
///
/// use dataflux::{DataLoader, DatafluxDataset, Event, EventKind, Observer};
/// # let store = MemoryStore::new();
/// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// struct Counter {
///     requests: u64,
///     report: mpsc::Sender<u64>,
/// }
///
/// impl Observer for Counter {
///     fn on_event(&mut self, event: &Event) {
///         match event {
///             Event::ObjectRequested { .. } => self.requests += 1,
///             Event::EpochEnded { .. } => _ = self.report.send(self.requests),
///             _ => {}
///         }
///     }
/// }
///
/// let (report, requests) = mpsc::channel();
/// let loader = DataLoader::builder(dataset)
///     .batch_size(10)
///     .observe([EventKind::ObjectRequested, EventKind::EpochEnded], Counter { requests: 0, report })
///     .build()?;
/// for batch in loader.epoch(0)? {
///     println!("{} samples", batch?.len());
/// }
/// loader.close(Duration::from_secs(10));
/// println!("{} requests", requests.recv()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: Send + 'static {
    /// Takes note of an event. It may take its time, but events that come meanwhile may be lost.
    fn on_event(&mut self, event: &Event);
}

impl<F: FnMut(&Event) + Send + 'static> Observer for F {
    fn on_event(&mut self, event: &Event) {
        self(event);
    }
}

/// An observer, and the kinds of events that it gets.
pub(crate) struct Subscription {
    pub(super) kinds: KindSet,
    /// Never locked: it lets settings with an observer be shared, though the observer can't be.
    observer: Mutex<Box<dyn Observer>>,
}

impl Subscription {
    pub(crate) fn new(kinds: impl IntoIterator<Item = EventKind>, observer: impl Observer) -> Self {
        Self { kinds: kinds.into_iter().collect(), observer: Mutex::new(Box::new(observer)) }
    }

    pub(super) fn into_observer(self) -> Box<dyn Observer> {
        self.observer.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("kinds", &self.kinds).finish_non_exhaustive()
    }
}
