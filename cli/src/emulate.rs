//! `dataflux emulate`: runs the emulator until it is interrupted.

use anyhow::{Context, Result};
use dataflux_emulator::EmulatorArgs;
use serde::Serialize;

use crate::output;

/// Run an emulator of Google Cloud Storage on this machine, until interrupted
///
/// Everything is kept in memory. With --json the first line on standard output is {"endpoint":"http://127.0.0.1:PORT"}.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dataflux emulate --virtual train:n=1000000,pattern=sequence,size=4096
  dataflux emulate --folder photos=./photos --profile gcs --port 4443
  dataflux emulate --virtual train:n=10000 --faults error=0.05,cut=0.02 --seed 7")]
pub(crate) struct Args {
    #[command(flatten)]
    emulator: EmulatorArgs,
}

#[derive(Serialize)]
struct Ready<'a> {
    endpoint: &'a str,
}

pub(crate) fn run(args: Args, json: bool) -> Result<()> {
    let json = json || args.emulator.json;
    let buckets = args.emulator.virtuals.iter().map(|spec| spec.bucket().to_owned());
    let buckets = buckets.chain(args.emulator.folders.iter().map(|folder| folder.bucket.clone()));
    let bucket = buckets.chain(args.emulator.buckets.iter().cloned()).next();
    let emulator = args.emulator.start().context("the emulator can't start")?;
    // Signals are watched before the endpoint is printed, so that a signal right after that ends the emulator cleanly.
    let signals = emulator.watch_signals().context("the emulator can't watch for signals")?;
    let endpoint = emulator.endpoint();
    if json {
        output::json(&Ready { endpoint })?;
    } else {
        output::write(|out| {
            writeln!(out, "An emulator of Google Cloud Storage serves at {endpoint}. In another terminal:\n")?;
            writeln!(out, "  export STORAGE_EMULATOR_HOST={endpoint}")?;
            match bucket {
                Some(bucket) => writeln!(out, "  dataflux ls --summary gs://{bucket}")?,
                None => writeln!(out, "  curl {endpoint}/storage/v1/b?project=test -d '{{\"name\":\"my-bucket\"}}'")?,
            }
            writeln!(
                out,
                "\nInterrupt (Ctrl-C) to stop. The emulator keeps its objects in memory, so they are lost then."
            )
        })?;
    }
    signals.wait();
    Ok(())
}
