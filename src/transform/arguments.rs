//! Checks of what users give to steps. Each error names the step and the parameter.

use anyhow::ensure;

/// A probability, from 0 to 1.
pub(super) fn check_probability(step: &str, probability: f64) -> anyhow::Result<()> {
    ensure!((0.0..=1.0).contains(&probability), "{step}: probability is {probability}; wanted a number from 0 to 1");
    Ok(())
}

/// A target size of at least one pixel.
pub(super) fn check_size(step: &str, height: u32, width: u32) -> anyhow::Result<()> {
    ensure!(
        height > 0 && width > 0,
        "{step}({height}, {width}) leaves no pixel; wanted a height and a width of at least 1"
    );
    Ok(())
}

/// A range of finite numbers within `lowest` and `highest`, inclusive, whose end is not below its start.
pub(super) fn check_range(
    step: &str,
    parameter: &str,
    range: (f64, f64),
    lowest: f64,
    highest: f64,
) -> anyhow::Result<()> {
    let (low, high) = range;
    ensure!(
        low.is_finite() && high.is_finite() && lowest <= low && low <= high && high <= highest,
        "{step}: {parameter} is ({low}, {high}); wanted two numbers from {lowest} to {highest}, the smaller one first"
    );
    Ok(())
}
