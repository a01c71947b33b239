//! The price list, the bill of calls made, and the forecast of what an epoch costs.

mod forecast;
mod price;
mod table;

pub(crate) use forecast::{Affordable, SampleScale};
pub use forecast::{EpochCost, Forecast, Layout};
pub use price::{Bill, Prices, cold_notice, usd};
pub use table::PriceTable;
