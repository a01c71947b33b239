//! `dataflux`: a command-line tool that lists, downloads, measures and cleans buckets of training data.

mod access;
mod bench;
mod clean;
mod emulate;
mod encodings;
mod failure;
mod filter;
mod get;
mod ls;
mod output;
mod plan;
mod progress;
mod replay;
mod source;
mod value;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::failure::{ReaderGone, Usage};

/// List, download and measure training data in Google Cloud Storage
///
/// Results go to standard output, progress and logs to standard error. Exit codes: 0 success, 1 failure, 2 bad usage.
#[derive(Parser)]
#[command(name = "dataflux", version, max_term_width = 120, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print the result as one JSON object on one line
    #[arg(long, global = true, display_order = 900)]
    json: bool,

    /// Log more to standard error: -v each step, -vv each retry, -vvv everything
    #[arg(short, long, global = true, display_order = 901, action = ArgAction::Count)]
    verbose: u8,
}

const AFTER_HELP: &str = "\
Environment:
  STORAGE_EMULATOR_HOST  the address of an emulator to use instead of Google, such as http://127.0.0.1:4443
  CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE
                         another address of the service, such as a private endpoint; it gets credentials
  HTTPS_PROXY, NO_PROXY  a proxy for the service and token servers, and the hosts to reach without it
  DATAFLUX_LOG           what to log, such as warn or dataflux=debug,hyper=info; -v overrides it
  NO_COLOR               if set to anything, logs have no colours

Credentials are those that gcloud and other Google tools find. An emulator gets none; with --anonymous none are sent.";

#[derive(Subcommand)]
enum Command {
    Ls(ls::Args),
    Get(get::Args),
    Bench(bench::Args),
    Plan(plan::Args),
    Clean(clean::Args),
    Replay(replay::Args),
    Emulate(emulate::Args),
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| failure::without_credentials(error).exit());
    let outcome = start_logging(cli.verbose).and_then(|()| match cli.command {
        Command::Ls(args) => ls::run(&args, cli.json),
        Command::Get(args) => get::run(&args, cli.json),
        Command::Bench(args) => bench::run(&args, cli.json),
        Command::Plan(args) => plan::run(&args, cli.json),
        Command::Clean(args) => clean::run(&args, cli.json),
        Command::Replay(args) => replay::run(&args, cli.json),
        Command::Emulate(args) => emulate::run(args, cli.json),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // As in `dataflux ls | head`: the reader has seen enough.
        Err(error) if error.is::<ReaderGone>() => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<Usage>() {
                Cli::command().error(clap::error::ErrorKind::ValueValidation, usage).exit();
            }
            if error.downcast_ref::<dataflux::Error>().is_some_and(dataflux::Error::is_cancelled) {
                // A signal cancelled the work, and the library ends the process with the signal's code.
                tracing::info!(%error, "cancelled");
                return ExitCode::FAILURE;
            }
            progress::print(&format!("error: {}\n", failure::line(&error)));
            ExitCode::FAILURE
        }
    }
}

fn start_logging(verbose: u8) -> anyhow::Result<()> {
    let wanted = match verbose {
        0 => std::env::var("DATAFLUX_LOG").unwrap_or_default(),
        1 => "warn,dataflux=info".to_owned(),
        2 => "info,dataflux=debug".to_owned(),
        _ => "trace".to_owned(),
    };
    // Without a terminal for a progress bar, the log reports the progress of a slow listing.
    let default = if std::io::stderr().is_terminal() { "warn" } else { "warn,dataflux::progress=info" };
    let wanted = if wanted.trim().is_empty() { default } else { &wanted };
    let filter = EnvFilter::try_new(wanted)
        .map_err(|error| Usage(format!("DATAFLUX_LOG is '{wanted}', which is no log filter: {error}")))?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(|| progress::Stderr).init();
    Ok(())
}
