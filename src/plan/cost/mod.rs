//! What reading costs: the price list, the bill of calls made, and the forecast for an epoch.

mod forecast;
mod price;
mod table;

pub(crate) use forecast::Affordable;
pub use forecast::{Cost, Forecast, Layout};
pub use price::{Bill, Prices, cold_notice, usd};
pub use table::PriceTable;
