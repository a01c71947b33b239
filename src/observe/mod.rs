//! Events: what happens while data are listed, read and delivered, for observers that count, log and measure.
//!
//! Where something happens, an [`Event`] is copied into the bounded queue of each [`Observer`] that wants its kind. A
//! thread for each observer empties the queue. An event for which there is no room is lost and counted.

mod channel;
mod event;
mod observer;

pub(crate) use channel::{Events, ObserverThread};
pub use event::{Event, EventKind};
pub use observer::Observer;
pub(crate) use observer::Subscription;
