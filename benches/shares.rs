//! Measures one rank's share of a bucket that many ranks use, read directly and by `Strategy::Auto`: `cargo bench
//! --bench shares -- [--shares RANKS:WRITES:READS,...] [--seconds S] [--batch-size N] [--strategies direct,auto]
//! [--sharded] [--faults SPEC]`
//!
//! An emulator takes as many writes and reads a second as one rank gets. A process reads from it like a training loop
//! whose steps take no time. It prints the longest wait for a batch, the number of batches, how many calls were
//! refused, and how many temporary objects are left after the process has ended. With `--sharded` the loader knows the
//! number of ranks (`.shard(0, RANKS)`); otherwise it has to find the limits out.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use dataflux::store::{Client, Credentials, GcsConfig, GcsStore};
use dataflux::{DataLoader, DatafluxDataset, Strategy};
use dataflux_emulator::{Emulator, Profile};
use serde_json::{Value, json};

const BUCKET: &str = "shared";

#[derive(Parser)]
struct Args {
    /// What one rank gets: `RANKS:WRITES:READS`, the last two a second
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1:1000:5000,10:100:500,100:10:50,1000:1:5,100:10:500,1000:1:500"
    )]
    shares: Vec<RankShare>,
    /// How long each loop runs; it ends with the batch that it then waits for
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Samples in a batch
    #[arg(long, default_value_t = 256)]
    batch_size: usize,
    /// Bytes of a sample
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Strategies to read by
    #[arg(long, value_delimiter = ',', default_value = "direct,auto")]
    strategies: Vec<String>,
    /// Tell the loader how many ranks there are
    #[arg(long)]
    sharded: bool,
    /// Faults of the emulator, such as `error=0.05,lost=0.05`
    #[arg(long, default_value = "")]
    faults: String,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// The strategy of a process that this one has started
    #[arg(long, hide = true)]
    role: Option<String>,
    #[arg(long, hide = true, default_value = "")]
    endpoint: String,
    #[arg(long, hide = true, default_value_t = 1)]
    ranks: usize,
}

/// What one of `ranks` ranks gets of a bucket, in calls a second.
#[derive(Clone, Copy, Debug)]
struct RankShare {
    ranks: usize,
    writes: f64,
    reads: f64,
}

impl FromStr for RankShare {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let mut next = || parts.next().with_context(|| format!("{text} is not RANKS:WRITES:READS"));
        Ok(Self { ranks: next()?.parse()?, writes: next()?.parse()?, reads: next()?.parse()? })
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    match &args.role {
        None => compare(&args),
        Some(role) => measure(&args, role),
    }
}

fn compare(args: &Args) -> Result<()> {
    println!(
        "batches of {}, samples of {} bytes, {} s a loop, the loader {} of the other ranks",
        args.batch_size,
        args.size,
        args.seconds,
        if args.sharded { "knows" } else { "doesn't know" }
    );
    println!(" ranks  writes/s  reads/s  strategy  longest wait s  at batch  batches  refused of calls  left");
    for share in &args.shares {
        for strategy in &args.strategies {
            let (run, left) = run(args, *share, strategy)?;
            println!(
                "{:6}  {:8}  {:7}  {:8}  {:14.2}  {:8}  {:7}  {:7} of {:5}  {left:4}",
                share.ranks,
                share.writes,
                share.reads,
                strategy,
                run["longest"].as_f64().unwrap_or(f64::NAN),
                run["at"],
                run["batches"],
                run["refused"],
                run["calls"],
            );
        }
    }
    Ok(())
}

/// Reads a share in a process of its own. Returns what the process printed, and how many temporary objects it left.
fn run(args: &Args, share: RankShare, strategy: &str) -> Result<(Value, usize)> {
    let samples = 400_000 * if args.sharded { share.ranks.min(10) } else { 1 };
    let spec = format!("{BUCKET}:n={samples},size={}", args.size);
    let emulator = Emulator::builder().virtual_namespace(spec.parse()?).start()?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--role", strategy, "--endpoint", emulator.endpoint(), "--seconds", &args.seconds.to_string()])
        .args(["--batch-size", &args.batch_size.to_string(), "--ranks", &share.ranks.to_string()]);
    if args.sharded {
        command.arg("--sharded");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("the output is piped")?).lines();
    ensure!(lines.next().transpose()?.as_deref() == Some("open"), "the process did not open the data set");
    // The limits are set after the listing, which is not measured.
    let profile: Profile = format!("gcs,writes_per_s={},reads_per_s={}", share.writes, share.reads).parse()?;
    emulator.set_profile(profile);
    emulator.set_faults(args.faults.parse()?);
    writeln!(child.stdin.take().context("the input is piped")?)?;
    let line = lines.next().transpose()?.context("the process ended without any output")?;
    ensure!(child.wait()?.success(), "the process failed");
    let left = emulator.names(BUCKET).iter().filter(|name| name.starts_with("dataflux-")).count();
    Ok((serde_json::from_str(&line)?, left))
}

fn measure(args: &Args, role: &str) -> Result<()> {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
    let strategy = match role {
        "direct" => Strategy::Direct,
        "auto" => Strategy::Auto,
        "compose" => Strategy::compose(),
        other => bail!("there is no strategy {other}"),
    };
    let config = GcsConfig::new().endpoint(&args.endpoint).credentials(Credentials::Anonymous);
    let client = Client::new(Arc::new(GcsStore::new(config)?));
    let dataset = DatafluxDataset::open_with(client, &format!("gs://{BUCKET}/"))?;
    let mut builder = DataLoader::builder(dataset).batch_size(args.batch_size).shuffle(7).strategy(strategy);
    if args.sharded {
        builder = builder.shard(0, args.ranks);
    }
    let loader = builder.build()?;
    println!("open");
    std::io::stdin().read_line(&mut String::new())?;

    let (mut longest, mut at, mut batches) = (Duration::ZERO, 0, 0);
    let started = Instant::now();
    let mut epoch = loader.epoch(0)?;
    let mut asked = started;
    while started.elapsed() < Duration::from_secs(args.seconds) {
        let Some(batch) = epoch.next() else { break };
        batch?;
        if asked.elapsed() > longest {
            (longest, at) = (asked.elapsed(), batches);
        }
        batches += 1;
        asked = Instant::now();
    }
    drop(epoch);

    let ceilings = loader.ceilings();
    let counts = loader.dataset().client().metrics().snapshot();
    let report = json!({
        "longest": longest.as_secs_f64(),
        "at": at,
        "batches": batches,
        "refused": ceilings.reads.refused + ceilings.writes.refused,
        "calls": counts.get + counts.compose + counts.delete,
    });
    println!("{report}");
    if let Some(choice) = loader.choice() {
        eprintln!("{choice}; {counts:?}; {ceilings:?}");
    }
    Ok(())
}
