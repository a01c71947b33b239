//! From a prefix to the objects below it.
//!
//! [`Lister`] makes many calls at once, which divide the names among themselves. What other servers than the real one do
//! is survived: pages that are empty, short or unsorted, offsets and page sizes that are ignored, a token that never ends.
//! [`Filter`] says which objects are wanted. [`inventory`] reads reports instead of listing.

mod alphabet;
mod filter;
mod in_order;
pub mod inventory;
mod keyspace;
mod lister;
mod prefix;
mod ranges;

pub(crate) use filter::is_hidden;
pub use filter::{Filter, LeftOut, Reason};
pub use lister::{CONCURRENCY, Lister, Page, Pages, Progress};
pub use prefix::Prefix;

/// Objects that composing makes live below this; a listing of samples leaves them out.
pub(crate) const TEMPORARY_PREFIX: &str = "dataflux-composed-objects/";

/// What to ask for in a page. The documented most is 1,000, the service gives 5,000 and Google's own clients ask for
/// it; a server with a lower cap just gives less.
pub const PAGE_SIZE: u32 = 5_000;

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod simulation;
