//! The choice against a model of the service, in virtual time: every cell of a grid of sizes, latencies and limits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::chooser::{Admission, ReadModeChooser, ReadOutcome};
use super::{
    CallCaps, Ceiling, Ceilings, Choice, ChooserConfig, GroupSize, NeighbourEpochs, ReadMode, ReadPrices, ServiceState,
};

/// A bucket and the machine that reads from it.
#[derive(Clone, Copy, Debug)]
struct SimulatedService {
    size: u64,
    /// Seconds.
    media: f64,
    compose: f64,
    /// Calls a second; infinite without limits.
    reads: f64,
    writes: f64,
    /// What the training loop takes a second.
    takes: f64,
    budget: f64,
    soft_delete: bool,
    regions: bool,
}

impl SimulatedService {
    /// The emulator's profile `gcs`, with its latencies times `scale`.
    fn gcs(size: u64, scale: f64, limits: bool) -> Self {
        let rate = |rate| if limits { rate } else { f64::INFINITY };
        let (reads, writes) = (rate(5_000.0), rate(1_000.0));
        let budget = f64::from(1 << 30);
        Self {
            size,
            media: 0.080 * scale,
            compose: 0.800 * scale,
            reads,
            writes,
            takes: f64::INFINITY,
            budget,
            soft_delete: false,
            regions: false,
        }
    }

    fn sources(&self) -> u64 {
        ((100_000_000.0f64).min(self.budget / 4.0) as u64 / self.size).clamp(1, 32)
    }
}

/// Bytes a second of one stream.
const STREAM: f64 = 60e6;
/// Seconds of both cores for a call and for a byte, and for the bytes of composed objects, which take longer: measured
/// on two cores, emulator included, at 1 KiB and 100 KiB.
const CALL: f64 = 48e-6;
const BYTE: f64 = 0.45e-6 / 1024.0;
const COMPOSED_BYTE: f64 = 0.55e-6 / 1024.0;
/// Composing, reading and deleting.
const GROUP: f64 = 280e-6;
/// Calls of a kind at once.
const MOST_CALLS: usize = 1_024;
/// Samples that may be ahead of the training loop.
const AHEAD: u64 = 65_536;

#[derive(Clone, Copy, Debug, PartialEq)]
enum SimulatedStrategy {
    Always(bool),
    Auto,
}

/// Calls of one kind: at most so many at once, and so many a second.
struct CallLane {
    limit: usize,
    most: usize,
    flying: usize,
    rate: f64,
    next: f64,
    /// Calls until the limit is doubled.
    until: usize,
    waiting: VecDeque<usize>,
}

impl CallLane {
    /// Reads: the limit opens from 64 until it no longer is what holds calls back.
    fn reads(rate: f64, latency: f64) -> Self {
        let most = ((rate * latency * 1.2) as usize).clamp(64, MOST_CALLS);
        Self { limit: 64, most, flying: 0, rate, next: 0.0, until: 64, waiting: VecDeque::new() }
    }

    /// Writes begin at their most.
    fn writes(rate: f64) -> Self {
        Self { limit: MOST_CALLS, most: MOST_CALLS, ..Self::reads(rate, 0.0) }
    }

    fn ended(&mut self) {
        self.flying -= 1;
        self.until = self.until.saturating_sub(1);
        if self.until == 0 && !self.waiting.is_empty() {
            self.limit = (self.limit * 2).min(self.most);
            self.until = self.limit;
        }
    }

    /// When a call that is made now goes out.
    fn token(&mut self, now: f64) -> f64 {
        let at = self.next.max(now);
        self.next = at + 1.0 / self.rate;
        at
    }

    fn ceiling(&self) -> Ceiling {
        Ceiling {
            at_once: self.limit,
            in_flight: self.flying,
            waiting: self.waiting.len(),
            per_second: self.rate.is_finite().then_some(self.rate),
            ..Ceiling::default()
        }
    }
}

/// When, in nanoseconds; a number that decides ties; group, reads, and kind.
type SimulatedEvent = (u64, u64, usize, u64, u8);

#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Occurrence {
    /// Objects of a group arrived that were read directly.
    Read(usize, u64),
    /// A group was composed.
    Made(usize),
    /// Its bytes came.
    Came(usize),
    /// Of either, when the processor is through with it.
    Proved(usize, u64),
    /// Nothing: a moment at which to look around.
    Look,
}

/// A group under way: the samples that it lacks, and its admission.
struct GroupInFlight {
    samples: u64,
    missing: u64,
    admission: Option<Admission>,
    composed: bool,
    began: f64,
}

struct SimulatedEpoch {
    /// Seconds that each epoch took.
    epochs: Vec<f64>,
    chooser: ReadModeChooser,
    /// Groups that were composed.
    composed: u64,
}

impl SimulatedEpoch {
    fn total(&self) -> f64 {
        self.epochs.iter().sum()
    }
}

fn config(world: &SimulatedService) -> ChooserConfig {
    let gib = f64::from(1 << 30);
    let kept = if world.soft_delete { 0.02 * 7.0 / 30.0 / gib } else { 0.0 };
    let prices = if world.regions {
        ReadPrices { direct: 4e-7, composed: 1.04e-5, composed_byte: kept + 0.02 / gib }
    } else {
        ReadPrices { direct: 4e-7, composed: 5.4e-6, composed_byte: kept }
    };
    ChooserConfig {
        caps: CallCaps::default(),
        max_composed_bytes: world.sources() * world.size,
        budget: world.budget as u64,
        objects_per_sample: 1,
        max_ahead: AHEAD,
        bucket_share: 1.0,
        prices,
        pays_for_speed: !world.regions,
    }
}

/// Reads `samples` in each of `epochs`.
fn run(world: SimulatedService, how: SimulatedStrategy, samples: u64, epochs: usize) -> SimulatedEpoch {
    let mut chooser = ReadModeChooser::new(config(&world));
    let mut direct = CallLane::reads(world.reads, world.media + world.size as f64 / STREAM);
    let mut composed = CallLane::writes(world.writes);
    let (mut now, mut processor) = (0.0f64, 0.0f64);
    let (mut took, mut groups) = (Vec::new(), 0);
    // Reads that come at one moment, to have fewer of them to simulate.
    let bundle = if world.size < 1 << 20 { 4 } else { 1 };
    for _ in 0..epochs {
        let started = now;
        // Not a series: each epoch begins when the one before is over.
        chooser.start_epoch(NeighbourEpochs::default());
        let mut events: BinaryHeap<Reverse<SimulatedEvent>> = BinaryHeap::new();
        let mut number = 0;
        let mut push = |events: &mut BinaryHeap<_>, at: f64, what: Occurrence| {
            let (kind, part, count) = match what {
                Occurrence::Read(part, count) => (0, part, count),
                Occurrence::Made(part) => (1, part, 0),
                Occurrence::Came(part) => (2, part, 0),
                Occurrence::Proved(part, count) => (3, part, count),
                Occurrence::Look => (4, 0, 0),
            };
            number += 1;
            events.push(Reverse(((at * 1e9).ceil() as u64, number, part, count, kind)));
        };
        let mut parts: Vec<GroupInFlight> = Vec::new();
        let (mut planned, mut delivered, mut first, mut held) = (0u64, 0u64, 0usize, 0.0f64);
        let (mut takes, mut looked) = (now, now);
        push(&mut events, now, Occurrence::Look);
        while delivered < samples {
            let Reverse((at, _, part, count, kind)) = events.pop().expect("something is under way");
            let before = now;
            now = now.max(at as f64 / 1e9);
            // A loop that is faster than all waits all the time.
            if world.takes.is_infinite() || takes < now {
                let since = if world.takes.is_infinite() { before } else { before.max(takes) };
                chooser.record_wait(Duration::from_secs_f64((now - since).max(0.0)));
            }
            let clock = Duration::from_secs_f64(now);
            match kind {
                0 => {
                    processor = processor.max(now) + count as f64 * (CALL + BYTE * world.size as f64);
                    push(&mut events, processor, Occurrence::Proved(part, count));
                }
                1 => {
                    composed.ended();
                    let bytes = (parts[part].samples * world.size) as f64;
                    let read = direct.token(now);
                    push(&mut events, read + world.media + bytes / STREAM, Occurrence::Came(part));
                }
                2 => {
                    composed.token(now);
                    let bytes = (parts[part].samples * world.size) as f64;
                    processor = processor.max(now) + GROUP + COMPOSED_BYTE * bytes;
                    push(&mut events, processor, Occurrence::Proved(part, parts[part].samples));
                }
                3 => {
                    let GroupInFlight { missing, admission, began, composed: is_composed, .. } = &mut parts[part];
                    *missing -= count;
                    let took = Duration::from_secs_f64(now - *began);
                    if !*is_composed {
                        (0..count).for_each(|_| direct.ended());
                    }
                    if let Some(admission) = *admission {
                        if *is_composed {
                            chooser.end_read(clock, admission, Some(ReadOutcome { samples: count, took }));
                        } else {
                            let outcome = Some(ReadOutcome { samples: 1, took });
                            (0..count).for_each(|_| chooser.end_read(clock, admission, outcome));
                        }
                    }
                }
                _ => {}
            }
            while let Some(part) = parts.get(first).filter(|part| part.missing == 0) {
                // A loop that takes its time.
                if world.takes.is_finite() {
                    if takes > now + 1e-8 {
                        if looked < takes {
                            looked = takes;
                            push(&mut events, takes, Occurrence::Look);
                        }
                        break;
                    }
                    takes = takes.max(now) + part.samples as f64 / world.takes;
                }
                held -= (part.samples * world.size) as f64;
                delivered += part.samples;
                first += 1;
            }
            while planned < samples && planned - delivered < AHEAD {
                let group = world.sources().min(samples - planned);
                let bytes = (group * world.size) as f64;
                if held + bytes > world.budget {
                    break;
                }
                let ceilings = Ceilings { reads: direct.ceiling(), writes: composed.ceiling() };
                let service = ServiceState { ceilings, is_composing_proven: true };
                let left = samples - planned - group;
                let (is_composed, admission) = match how {
                    SimulatedStrategy::Always(is_composed) => {
                        let full = if is_composed { composed.waiting.len() > 64 } else { direct.waiting.len() > 64 };
                        if full {
                            break;
                        }
                        (is_composed, None)
                    }
                    SimulatedStrategy::Auto => {
                        let size = GroupSize {
                            samples: group as usize,
                            may_compose: group > 1,
                            bytes: bytes as u64,
                            held: bytes as u64,
                        };
                        let Some(admission) = chooser.admit(clock, size, left, &service) else {
                            break;
                        };
                        (0..if admission.is_composed { 1 } else { group }).for_each(|_| chooser.begin_read(admission));
                        (admission.is_composed, Some(admission))
                    }
                };
                held += bytes;
                planned += group;
                parts.push(GroupInFlight {
                    samples: group,
                    missing: group,
                    admission,
                    composed: is_composed,
                    began: now,
                });
                groups += u64::from(is_composed);
                if is_composed {
                    composed.waiting.push_back(parts.len() - 1);
                } else {
                    (0..group).for_each(|_| direct.waiting.push_back(parts.len() - 1));
                }
            }
            while composed.flying < composed.limit
                && let Some(part) = composed.waiting.pop_front()
            {
                composed.flying += 1;
                let sent = composed.token(now);
                parts[part].began = now;
                push(&mut events, sent + world.compose, Occurrence::Made(part));
            }
            while direct.flying < direct.limit
                && let Some(&part) = direct.waiting.front()
            {
                let room = (direct.limit - direct.flying).min(bundle);
                let same = direct.waiting.iter().take(room).take_while(|&&other| other == part).count();
                direct.waiting.drain(..same);
                direct.flying += same;
                let sent = (0..same).map(|_| direct.token(now)).fold(0.0, f64::max);
                push(&mut events, sent + world.media + world.size as f64 / STREAM, Occurrence::Read(part, same as u64));
            }
        }
        took.push(now - started);
    }
    SimulatedEpoch { epochs: took, chooser, composed: groups }
}

const SIZES: [u64; 5] = [1 << 10, 32 << 10, 100 << 10, 1 << 20, 16 << 20];

/// Samples that the better of the two fixed modes reads in about `seconds`.
fn samples(world: SimulatedService, seconds: f64) -> u64 {
    let try_out = 60_000_000_000u64.min(20_000 * world.size).max(64 * world.size) / world.size;
    let rate = [false, true]
        .map(|is_composed| try_out as f64 / run(world, SimulatedStrategy::Always(is_composed), try_out, 1).total());
    ((rate[0].max(rate[1]) * seconds) as u64).next_multiple_of(32)
}

#[expect(clippy::print_stdout, reason = "the table, with --nocapture")]
fn grid(seconds: f64, epochs: usize) -> Vec<(SimulatedService, [f64; 3], Choice)> {
    let mut cells = Vec::new();
    for size in SIZES {
        for scale in [0.2, 1.0, 3.0] {
            for limits in [true, false] {
                let world = SimulatedService::gcs(size, scale, limits);
                let samples = samples(world, seconds);
                let [direct, composed, auto] =
                    [SimulatedStrategy::Always(false), SimulatedStrategy::Always(true), SimulatedStrategy::Auto]
                        .map(|how| run(world, how, samples, epochs));
                let rate = |run: &SimulatedEpoch| (samples * epochs as u64) as f64 / run.total();
                let rates = [rate(&direct), rate(&composed), rate(&auto)];
                let share = rates[2] / rates[0].max(rates[1]);
                println!(
                    "{:>8} x{scale:<3} limits {:<5} direct {:>7.0} composed {:>7.0} auto {:>7.0} = {share:.2}  {}",
                    size,
                    limits,
                    rates[0],
                    rates[1],
                    rates[2],
                    auto.chooser.choice()
                );
                cells.push((world, rates, auto.chooser.choice()));
            }
        }
    }
    cells
}

#[test]
fn within_a_tenth_of_the_better_mode_in_every_cell() {
    for (world, [direct, composed, auto], choice) in grid(20.0, 3) {
        assert!(auto >= 0.9 * direct.max(composed), "{world:?}: {direct} {composed} {auto}, {choice:?}");
    }
}

#[test]
fn what_trials_cost_a_single_short_epoch() {
    for (world, [direct, composed, auto], choice) in grid(5.0, 1) {
        assert!(auto >= 0.85 * direct.max(composed), "{world:?}: {direct} {composed} {auto}, {choice:?}");
    }
}

/// Auto alone, for a loop that takes `takes` samples a second for some minutes.
fn slow_loop(takes: f64, change: impl Fn(&mut SimulatedService)) -> SimulatedEpoch {
    let mut world = SimulatedService { takes, ..SimulatedService::gcs(32 << 10, 1.0, true) };
    change(&mut world);
    run(world, SimulatedStrategy::Auto, (takes * 100.0) as u64, 2)
}

/// Either mode brings 2,000 samples a second easily, and composed by 32 they cost less than half.
#[test]
fn speed_that_nobody_uses_is_not_paid_for() {
    let run = slow_loop(2_000.0, |_| {});
    assert_eq!(run.chooser.choice().mode, ReadMode::Composed, "{:?}", run.chooser.choice());
    assert!(run.total() < 1.1 * 200.0, "{:?}", run.epochs);
}

/// With a soft delete of a week, composing is dearer above 53 kB.
#[test]
fn nothing_dearer_is_tried_for_a_loop_that_has_all_it_wants() {
    let run = slow_loop(1_000.0, |world| (world.size, world.soft_delete) = (100 << 10, true));
    assert_eq!(run.chooser.choice().mode, ReadMode::Direct, "{:?}", run.chooser.choice());
}

#[test]
fn where_writes_go_to_two_regions_only_what_is_cheaper_is_composed() {
    let composed = |size| {
        run(
            SimulatedService { regions: true, ..SimulatedService::gcs(size, 0.2, true) },
            SimulatedStrategy::Auto,
            200_000,
            1,
        )
        .composed
    };
    assert_eq!(composed(100 << 10), 0);
    assert!(composed(1 << 10) > 0);
}

#[test]
fn a_small_epoch_tries_nothing() {
    for (samples, tries) in [(2_000, false), (50_000, true)] {
        let run = run(SimulatedService::gcs(1 << 10, 1.0, true), SimulatedStrategy::Auto, samples, 1);
        assert_eq!(run.composed > 0, tries, "{samples}");
    }
}
