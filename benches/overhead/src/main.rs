//! Measures the overhead of loaders for samples that are in memory: this crate, three other loaders for Rust, and a
//! plain loop.
//!
//! Each returns batches of samples, of 1 KiB unless `--size` says otherwise, without decoding them, and the consumer
//! reads every sample once, as a sum of its words. The contenders take turns in rounds, so that other load on the
//! machine affects all alike; the table has medians. Run by `scripts/bench-overhead`.

mod contenders;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use contenders::{Contender, Copied, Shared};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// The work that every contender does in an epoch.
pub struct Workload {
    samples: usize,
    batch: usize,
    shuffled: bool,
    /// Whether this crate also runs with an observer of events.
    observed: bool,
}

/// The samples that a consumer has read in an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    samples: usize,
    bytes: usize,
    sum: u64,
}

impl Seen {
    /// Reads all of a sample once, as training does. So no contender can omit the bytes, and one that has them in a
    /// processor's cache benefits.
    fn look(&mut self, sample: &[u8]) {
        self.samples += 1;
        self.bytes += sample.len();
        let words = sample.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        self.sum = words.fold(self.sum, u64::wrapping_add);
    }
}

/// The `size` bytes of a sample, generated from its number.
fn sample(index: usize, size: usize) -> Vec<u8> {
    let mut state = index as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let mut bytes = Vec::with_capacity(size);
    bytes.push(index as u8);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.push((state >> 56) as u8);
    }
    bytes
}

/// One contender's rounds.
#[derive(Default)]
struct Rounds {
    rates: Vec<f64>,
    cpu: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU time of this process so far.
fn cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(Duration::from_micros((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as u64))
}

/// The shortest time of a round, in which the epoch is repeated.
const MIN_ROUND: Duration = Duration::from_millis(400);

fn main() -> anyhow::Result<()> {
    let mut options = Options { samples: 200_000, size: 1024, batch: 256, rounds: 7, observed: false, only: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--samples" => options.samples = value()?.parse()?,
            "--size" => options.size = value()?.parse()?,
            "--observe" => options.observed = true,
            "--batch" => options.batch = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--only" => options.only = Some(value()?),
            _ => anyhow::bail!(
                "no such option: {word}; there are --samples, --size, --batch, --rounds, --observe and --only"
            ),
        }
    }
    let shared: Vec<Shared> = (0..options.samples).map(|index| Shared(sample(index, options.size).into())).collect();
    let copied: Vec<Copied> = shared.iter().map(|sample| Copied(sample.0.to_vec())).collect();
    println!(
        "{} samples of {} bytes, batches of {}, {} rounds, {} processors ({})",
        options.samples,
        options.size,
        options.batch,
        options.rounds,
        std::thread::available_parallelism()?,
        processor().unwrap_or_default(),
    );
    for shuffled in [true, false] {
        let Options { samples, batch, observed, .. } = options;
        let workload = Workload { samples, batch, shuffled, observed };
        run(&options, &workload, contenders::all(&workload, &shared, &copied)?)?;
    }
    Ok(())
}

struct Options {
    samples: usize,
    /// Bytes of a sample.
    size: usize,
    batch: usize,
    rounds: usize,
    observed: bool,
    /// Only contenders with this in their name.
    only: Option<String>,
}

fn run(options: &Options, workload: &Workload, mut contenders: Vec<Contender<'_>>) -> anyhow::Result<()> {
    if let Some(only) = &options.only {
        contenders.retain(|contender| contender.name.contains(only.as_str()));
    }
    let wanted = (0..workload.samples).fold(Seen::default(), |mut seen, index| {
        seen.look(&sample(index, options.size));
        seen
    });
    // The first round warms up, and checks that every contender returns all samples.
    for contender in &mut contenders {
        let seen = (contender.epoch)().with_context(|| contender.name.clone())?;
        ensure!(seen == wanted, "{} returned {seen:?}, not {wanted:?}", contender.name);
    }
    let mut rounds: Vec<Rounds> = contenders.iter().map(|_| Rounds::default()).collect();
    for _ in 0..options.rounds {
        for (contender, rounds) in contenders.iter_mut().zip(&mut rounds) {
            let (started, used, mut samples) = (Instant::now(), cpu()?, 0);
            while started.elapsed() < MIN_ROUND {
                samples += (contender.epoch)()?.samples;
            }
            rounds.rates.push(samples as f64 / started.elapsed().as_secs_f64());
            rounds.cpu.push((cpu()? - used).as_nanos() as f64 / samples as f64);
        }
    }
    let of = |name: &str| contenders.iter().position(|contender| contender.name == name).map(|at| &rounds[at]);
    // Ratios within each round, so that other load on the machine cancels out.
    let beside = |rounds: &Rounds, other: Option<&Rounds>| {
        let other = other.map_or(&[][..], |other| &other.rates);
        median(&rounds.rates.iter().zip(other).map(|(rate, other)| rate / other).collect::<Vec<_>>())
    };
    println!("\n{}:\n", if workload.shuffled { "shuffled" } else { "in order" });
    println!(
        "| loader | threads | a sample is | million samples/s | of the plain loop | dataflux is | CPU, ns/sample |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (contender, rounds) in contenders.iter().zip(&rounds) {
        println!(
            "| {} | {} | {} | {:.2} | {:.0}% | {:.2} times | {:.0} |",
            contender.name,
            contender.threads,
            contender.sample,
            median(&rounds.rates) / 1e6,
            100.0 * beside(rounds, of("plain loop")),
            of("dataflux").map_or(f64::NAN, |dataflux| beside(dataflux, Some(rounds))),
            median(&rounds.cpu),
        );
    }
    let mut peers: Vec<_> = contenders.iter().zip(&rounds).filter(|(peer, _)| peer.is_threaded_peer()).collect();
    peers.sort_by(|(_, one), (_, other)| median(&other.rates).total_cmp(&median(&one.rates)));
    if let Some((dataflux, (best, peer))) = of("dataflux").zip(peers.first()) {
        println!(
            "\nBeside the best peer with threads ({}, {}): {:.2} times; {:.0}% of the plain loop.",
            best.name,
            best.sample,
            beside(dataflux, Some(peer)),
            100.0 * beside(dataflux, of("plain loop")),
        );
    }
    Ok(())
}

fn processor() -> Option<String> {
    let facts = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = facts.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
