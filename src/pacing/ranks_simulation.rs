//! Many ranks that start on one bucket at once: the real gates, rates and retry policies, on virtual time.
//!
//! Each rank reads as much as the gates allow, and composes groups that it reads and deletes, as a loader does. After a
//! while it composes no more and deletes what there is. The bucket takes what is documented and not a call
//! more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{BucketGates, CallCaps, CallSlot};
use crate::store::{Decision, Failure, RetryPolicy};
use crate::{Error, ErrorKind};

/// The service's side of one kind of call: tokens that come back at a rate, up to a tenth of a second's worth.
struct ServiceTokens {
    rate: f64,
    left: f64,
    last: Instant,
}

impl ServiceTokens {
    fn new(rate: f64) -> Mutex<Self> {
        Mutex::new(Self { rate, left: rate / 10.0, last: Instant::now() })
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        self.left = (self.left + (now - self.last).as_secs_f64() * self.rate).min((self.rate / 10.0).max(1.0));
        self.last = now;
        let fits = self.left >= 1.0;
        self.left -= f64::from(u8::from(fits));
        fits
    }
}

/// The bucket, and what came of all calls.
struct SimulatedBucket {
    began: Instant,
    reads: Mutex<ServiceTokens>,
    writes: Mutex<ServiceTokens>,
    /// Calls and refused ones of each second.
    seconds: Mutex<Vec<(u64, u64)>>,
    temporaries: AtomicU64,
    composed: AtomicU64,
    read: AtomicU64,
    /// Calls that had to succeed and did not.
    failed: AtomicU64,
}

const REFUSAL: Duration = Duration::from_millis(5);
const READ: Duration = Duration::from_millis(80);
const COMPOSE: Duration = Duration::from_millis(800);

impl SimulatedBucket {
    fn new(reads: f64, writes: f64) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            reads: ServiceTokens::new(reads),
            writes: ServiceTokens::new(writes),
            seconds: Mutex::default(),
            temporaries: AtomicU64::new(0),
            composed: AtomicU64::new(0),
            read: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    fn takes(&self, tokens: &Mutex<ServiceTokens>) -> bool {
        let fits = tokens.lock().unwrap().take();
        let second = self.began.elapsed().as_secs() as usize;
        let mut seconds = self.seconds.lock().unwrap();
        if seconds.len() <= second {
            seconds.resize(second + 1, (0, 0));
        }
        seconds[second].0 += 1;
        seconds[second].1 += u64::from(!fits);
        fits
    }

    /// One call with its tries, as the client makes them; false where the policy gave it up.
    async fn call(
        &self,
        slot: &CallSlot,
        tokens: &Mutex<ServiceTokens>,
        latency: Duration,
        policy: RetryPolicy,
    ) -> bool {
        let began = Instant::now();
        let mut queued = Duration::ZERO;
        for tries in 1.. {
            if self.takes(tokens) {
                sleep(latency).await;
                slot.pacer().answered(latency);
                return true;
            }
            sleep(REFUSAL).await;
            slot.pacer().refused(tries == 1);
            let error = Error::new(ErrorKind::RateLimited, "too many calls").status(429);
            let left = (policy.deadline + queued).saturating_sub(began.elapsed());
            match policy.decide(&Failure::of(&error, true), tries, 0, left, rand::random()) {
                Decision::Wait(wait) => queued += slot.pacer().again(wait).await,
                Decision::GiveUp => return false,
            }
        }
        false
    }
}

async fn read(bucket: Arc<SimulatedBucket>, gates: Arc<BucketGates>) {
    for number in 0.. {
        let slot = gates.reads.acquire(number).await;
        let read = bucket.call(&slot, &bucket.reads, READ, RetryPolicy::default()).await;
        slot.finish(4096);
        bucket.read.fetch_add(u64::from(read), Ordering::Relaxed);
        bucket.failed.fetch_add(u64::from(!read), Ordering::Relaxed);
    }
}

async fn compose(bucket: Arc<SimulatedBucket>, gates: Arc<BucketGates>, mut over: watch::Receiver<bool>) {
    for number in 0.. {
        let slot = tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return,
            slot = gates.writes.acquire(number) => slot,
        };
        let composed = bucket.call(&slot, &bucket.writes, COMPOSE, RetryPolicy::default().for_optional_calls()).await;
        slot.finish(0);
        if !composed {
            // Its objects are read, as others are all the time.
            continue;
        }
        bucket.composed.fetch_add(1, Ordering::Relaxed);
        bucket.temporaries.fetch_add(1, Ordering::Relaxed);
        let slot = gates.reads.acquire(number).await;
        let read = bucket.call(&slot, &bucket.reads, READ, RetryPolicy::default()).await;
        slot.finish(131_072);
        let slot = gates.writes.acquire_background(number).await;
        let deleted = bucket.call(&slot, &bucket.writes, READ, RetryPolicy::default()).await;
        slot.finish(0);
        bucket.temporaries.fetch_sub(u64::from(deleted), Ordering::Relaxed);
        bucket.failed.fetch_add(u64::from(!read) + u64::from(!deleted), Ordering::Relaxed);
    }
}

/// What came of a run.
#[derive(Debug)]
struct RanksOutcome {
    /// The share of calls in the first ten seconds, and in the time after, that was refused.
    refused_at_first: f64,
    refused: f64,
    reads_per_second: f64,
    composes_per_second: f64,
    /// Seconds from the end of the epoch until no temporary was left.
    cleaned_after: f64,
    /// Temporaries that were left then, and calls that failed though they had to succeed.
    left: u64,
    failed: u64,
}

const AT_FIRST: usize = 10;

/// Runs `ranks` that start at once for `seconds`. `knows_world` is whether each knows how many there are.
#[expect(clippy::print_stdout, reason = "the results, with --nocapture")]
async fn run(ranks: u64, seconds: u64, knows_world: bool) -> RanksOutcome {
    let bucket = SimulatedBucket::new(5_000.0, 1_000.0);
    let (end, over) = watch::channel(false);
    let (mut readers, mut composers, mut loops) = (JoinSet::new(), JoinSet::new(), Vec::new());
    let mut loaders = Vec::new();
    for rank in 0..ranks {
        let gates = BucketGates::new(CallCaps::default());
        if knows_world {
            loaders.push(gates.add_loader(rank, ranks, usize::MAX));
        }
        let mut demand = gates.add_loop();
        demand.set_starved(true);
        loops.push(demand);
        // Enough of each that a rank has one that waits for its turn.
        for _ in 0..2 {
            readers.spawn(read(Arc::clone(&bucket), Arc::clone(&gates)));
            composers.spawn(compose(Arc::clone(&bucket), Arc::clone(&gates), over.clone()));
        }
    }
    sleep(Duration::from_secs(seconds)).await;
    let of = |counts: &[(u64, u64)]| {
        let (calls, refused) = counts.iter().fold((0, 0), |sum, second| (sum.0 + second.0, sum.1 + second.1));
        refused as f64 / calls.max(1) as f64
    };
    let counts = bucket.seconds.lock().unwrap().clone();
    let (first, rest) = counts.split_at(AT_FIRST.min(counts.len()));
    let per_second = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / seconds as f64;
    let (refused_at_first, refused) = (of(first), of(rest));
    let (reads_per_second, composes_per_second) = (per_second(&bucket.read), per_second(&bucket.composed));
    let ended = Instant::now();
    readers.shutdown().await;
    end.send_replace(true);
    composers.join_all().await;
    let outcome = RanksOutcome {
        refused_at_first,
        refused,
        reads_per_second,
        composes_per_second,
        cleaned_after: ended.elapsed().as_secs_f64(),
        left: bucket.temporaries.load(Ordering::Relaxed),
        failed: bucket.failed.load(Ordering::Relaxed),
    };
    println!("{ranks} ranks, knows_world {knows_world}, {seconds} s: {outcome:?}");
    outcome
}

/// Refused calls after the first ten seconds, at most; temporaries there are none. What is left of the bucket's rates
/// are the first moments of ranks and what they try above their part.
fn check(outcome: &RanksOutcome) {
    assert!(outcome.refused < 0.05 && outcome.refused_at_first < 0.05, "{outcome:?}");
    assert!(outcome.reads_per_second > 0.8 * 5_000.0 && outcome.composes_per_second > 0.8 * 500.0, "{outcome:?}");
    assert_eq!((outcome.left, outcome.failed), (0, 0), "{outcome:?}");
    assert!(outcome.cleaned_after < 20.0, "the end of the process waits for so long: {outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_ranks_that_start_at_once_are_hardly_refused_and_leave_nothing() {
    check(&run(1_000, 60, true).await);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_ranks_that_start_at_once_are_hardly_refused_and_leave_nothing() {
    check(&run(10_000, 40, true).await);
}

/// Jobs that know nothing of each other each begin with all that a bucket is documented to take.
#[tokio::test(start_paused = true)]
async fn processes_that_do_not_know_of_each_other_find_their_part_and_leave_nothing() {
    let outcome = run(100, 30, false).await;
    assert!(outcome.refused < 0.05 && outcome.reads_per_second > 0.3 * 5_000.0, "{outcome:?}");
    assert_eq!((outcome.left, outcome.failed), (0, 0), "{outcome:?}");
}
