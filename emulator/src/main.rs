//! A Google Cloud Storage JSON API on loopback.

use anyhow::Context;
use clap::Parser;
use dataflux_emulator::EmulatorArgs;

/// A Google Cloud Storage JSON API on loopback, for tests, examples and benchmarks
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    emulator: EmulatorArgs,
}

fn main() -> anyhow::Result<()> {
    Cli::parse().emulator.run(&mut std::io::stdout()).context("the emulator failed")
}
