//! Tables of labels and targets, keyed by the names of samples.

mod csv;
mod json_lines;
mod label_table;
#[cfg(feature = "parquet")]
mod parquet;
mod reader;
mod rows;
mod values;

pub use label_table::{LabelTable, RowKey};
pub use reader::{LabelTableReader, TableFormat};

#[cfg(test)]
mod tests;
