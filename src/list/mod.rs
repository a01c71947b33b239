//! Lists the objects below a prefix.
//!
//! [`Lister`] divides the names among many calls at once. It copes with servers that return empty, short or unsorted
//! pages, ignore offsets or page sizes, or whose tokens never end. [`Filter`] selects the objects that are wanted.
//! [`inventory`] reads reports instead of listing.

mod alphabet;
mod driver;
mod filter;
mod in_order;
pub mod inventory;
mod keyspace;
mod lister;
mod prefix;
mod progress;
mod ranges;
mod sequential;

pub use driver::Page;
pub(crate) use filter::is_hidden;
pub use filter::{Filter, LeftOut, Reason};
pub use keyspace::ListingCut;
pub use lister::{CONCURRENCY, Lister, Pages};
pub use prefix::Prefix;
pub use progress::Progress;

/// The prefix of temporary objects, which composing makes. Listings of samples leave them out.
pub(crate) const TEMPORARY_PREFIX: &str = "dataflux-composed-objects/";

/// Objects to ask for in a page. The documented maximum is 1,000, but the service returns 5,000, which Google's own
/// clients ask for. A server with a lower cap returns fewer.
pub const PAGE_SIZE: u32 = 5_000;

#[cfg(test)]
mod tests;
