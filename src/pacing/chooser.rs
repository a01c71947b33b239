//! Which way to read small objects: by measurement.
//!
//! Pure: the clock, and what the service allows, are handed in. Reads and composes have ceilings of their own, so there
//! are three ways, in a row: one by one, both at once, all joined. The choice stays with one, looks at the next when it
//! could be better by what is known, and keeps the better of the two by what both brought. A look costs little: on
//! the way from one by one to both at once nothing stops, and what is joined is read ahead of what the loop waits for.

use std::time::Duration;

use super::read_mode::READ_MODES;
use super::{Choice, ReadMode};
use crate::plan::{MAX_SOURCES, Prices};
use crate::store::StorageClass;

/// What the service takes of one kind of call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallCeiling {
    /// Calls at once, at most, now.
    pub(crate) at_once: usize,
    /// Calls under way.
    pub(crate) in_flight: usize,
    /// Calls that wait, and go before those that come now.
    pub(crate) waiting: usize,
    /// Calls a second, where refusals have told.
    pub(crate) rate: Option<f64>,
}

/// What the service takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceCeilings {
    pub(crate) reads: CallCeiling,
    pub(crate) writes: CallCeiling,
    /// Whether composing is known to work, and what it leaves to be deletable; else composes go one by one.
    pub(crate) may_write: bool,
}

/// What the choice goes by, beside measurement.
#[derive(Clone, Debug)]
pub(crate) struct ChooserConfig {
    /// The most bytes of a joined object; 0 where none may be made.
    pub(crate) max_bytes: u64,
    /// Bytes that may be held, from before a compose to the delivery.
    pub(crate) budget: u64,
    /// Samples that may be ahead of the training loop.
    pub(crate) ahead: u64,
    /// The part of what a bucket is documented to take that falls to this process; 1 where no other shares the bucket.
    pub(crate) share: f64,
    pub(crate) prices: Prices,
    /// Whether to compose where that is dearer than reading one by one, if it is faster.
    pub(crate) pay_for_speed: bool,
}

/// The two kinds of groups.
const DIRECT: usize = 0;
const COMPOSED: usize = 1;

/// Leave to read a group in one way; each of its reads is to be told of with [`Chooser::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    /// Whether it is to be joined; if not, each of its samples is a read of its own.
    pub(crate) composed: bool,
    /// Whether there was a choice.
    may_join: bool,
    number: u64,
}

/// How much more a way must promise to be tried: less than noise isn't worth the looking.
const PROMISES: f64 = 1.15;
/// How much more it must promise to be tried before the present one is known to have come to its own.
const PROMISES_MUCH: f64 = 2.0;
/// Reads a second of a bucket that has refused none, as documented.
const READS: f64 = 5_000.0;
/// How much more it must bring to be kept: beyond the noise between two looks.
const KEEPS: f64 = 1.10;
/// What brings this share of another's rate is as good, and the price decides.
const AS_GOOD: f64 = 0.9;
/// A way on trial that brings less than this share is given up at once.
const HARMS: f64 = 0.8;
/// A training loop that waits for less than this share of the time is what holds things up.
const HARDLY_WAITS: f64 = 0.1;
/// A look lasts this long at least, and as long as a composed group takes: those come in bursts of that period.
const LOOK: Duration = Duration::from_millis(300);
/// Groups that a look must see end: of fewer, one more or less is more than noise.
const GROUPS: u64 = 16;
/// Looks until what still grows is judged as it is. Limits on calls double from look to look.
const LOOKS: u32 = 6;
/// Looks that a way on trial has at least until it is given up: what else runs on the machine slows one down, or two.
const FAIR: u32 = 3;
/// What brings so much more in one look is no noise.
const CLEARLY: f64 = 1.5;
/// The weight of a look beside those before it, and of one that sees the worse part of an epoch.
const FRESH: f64 = 0.5;
const FAINT: f64 = 0.1;
/// A trial that has brought nothing for this long, beyond some latencies, is over.
const PATIENCE: Duration = Duration::from_secs(10);
/// When to look again at what was worse; as many times later as it is slower, and doubled each time it is worse again. A look
/// of a second or two at what is half as fast costs a twentieth of this, and what was a bad moment is soon put right.
const AGAIN: Duration = Duration::from_secs(15);
/// The longest until another look: long beside what a look costs.
const SELDOM: Duration = Duration::from_secs(600);
/// Composes that wait for their call, so that none of the bucket's is left unused.
const FEW: usize = 16;
/// What one call costs, in bytes read for the same time of a processor. By this nothing above some 400 KiB is tried.
const CALL_BYTES: f64 = 65_536.0;
/// Writes a second of a bucket that has refused none, as documented.
const WRITES: f64 = 1_000.0;
/// Samples of an epoch below which nothing is tried: they are read before a compose is back.
const WORTH_TRYING: u64 = 2_048;
/// Samples that the mean size is taken of, about.
const MEAN_OF: u64 = 1 << 16;
/// Groups composed to learn how long that takes.
const PROBES: u32 = 2;
/// The first composes are given up when more than one for so many that are under way has failed. A single one is
/// refused, or fails, on any day.
const FAILURES_SHARE: usize = 4;
/// What a compose takes about, before one is back.
const USUAL_LATENCY: Duration = Duration::from_secs(1);
/// Samples by whose size it is decided whether to begin joined.
const SIZED: u64 = 64;
/// Samples that are read one by one before the first compose, since the loop waits for these first: what reads bring in
/// this part of the time that it takes. It begins as early all the same, when these only wait for their calls.
const FIRST: f64 = 0.75;
/// At most this share of an epoch, and of what can be held.
const FIRST_SHARE: f64 = 0.25;

/// What is known of a way.
#[derive(Clone, Copy, Debug, Default)]
struct ModeRecord {
    rate: Option<f64>,
    /// Not to be tried before.
    next: Duration,
    /// Times in a row that it was worse.
    worse: u32,
}

/// What ended since the look began.
#[derive(Clone, Copy, Debug)]
struct ModeTrial {
    since: Duration,
    samples: u64,
    groups: u64,
    waited: Duration,
}

/// The choice of one loader, for all its epochs.
#[expect(clippy::struct_excessive_bools, reason = "none of these hangs on another")]
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    terms: ChooserConfig,
    way: ReadMode,
    /// The way to go back to; another than `way` while that is on trial.
    home: ReadMode,
    reason: String,
    known: [ModeRecord; 3],
    /// Counts changes of way and beginnings of epochs.
    turn: u64,
    turned: Duration,
    /// Reads let through that have not ended, and those of them that have not begun to wait for their calls.
    out: [usize; 2],
    to_begin: [usize; 2],
    /// Those of them that are read one by one and could be joined.
    alone: usize,
    /// Whether a group that began in this turn has ended.
    back: [bool; 2],
    /// Composes of this turn that failed before any has come back.
    failures: usize,
    look: Option<ModeTrial>,
    looks: u32,
    before: f64,
    latency: Option<Duration>,
    probes: u32,
    /// Samples so far, their bytes, and what is held of them: what the means are taken of.
    seen: (u64, u64, u64),
    /// Samples of this epoch that were let through, and that are to be read one by one for a start.
    begun: u64,
    head: u64,
    /// Samples of this epoch in all, as far as they are known.
    all: u64,
    /// The end of an epoch says nothing of a way, and the beginning little.
    ending: bool,
    beginning: bool,
    /// Whether another epoch is read ahead when this one ends.
    followed: bool,
    /// How long the training loop has waited in all.
    waited: Duration,
    /// Whether it hardly waited at the last look.
    idle: bool,
}

impl Chooser {
    pub(crate) fn new(terms: ChooserConfig) -> Self {
        Self {
            terms,
            way: ReadMode::Direct,
            home: ReadMode::Direct,
            reason: "nothing was measured yet".to_owned(),
            known: [ModeRecord::default(); 3],
            turn: 0,
            turned: Duration::ZERO,
            out: [0; 2],
            to_begin: [0; 2],
            alone: 0,
            back: [false; 2],
            failures: 0,
            look: None,
            looks: 0,
            before: 0.0,
            latency: None,
            probes: 0,
            seen: (0, 0, 0),
            begun: 0,
            head: 0,
            all: 0,
            ending: false,
            beginning: false,
            followed: false,
            waited: Duration::ZERO,
            idle: false,
        }
    }

    pub(crate) fn choice(&self) -> Choice {
        Choice {
            way: self.way,
            reason: self.reason.clone(),
            direct: self.known[ReadMode::Direct as usize].rate,
            mixed: self.known[ReadMode::Mixed as usize].rate,
            composed: self.known[ReadMode::Composed as usize].rate,
            compose_latency: self.latency,
        }
    }

    /// An epoch begins, perhaps `ahead` of the end of another, or `followed` by one. Where nothing is ahead, while the first composes are under way, as much is read one by one as can
    /// be.
    pub(crate) fn began(&mut self, now: Duration, (ahead, followed): (bool, bool)) {
        self.begun = 0;
        self.ending = false;
        // Probes of which none is under way and none came back well have failed, which may have been for a while.
        if self.latency.is_none() && self.out[COMPOSED] == 0 {
            self.probes = 0;
        }
        // What the present way brings is known from the epoch before; one look is for the beginning of this one.
        let (looks, before) = (self.looks.min(LOOKS - 2), self.before);
        // In a series of epochs what was composed for the one before comes back in this one, and what comes is the same.
        let goes_on = ahead && self.back[COMPOSED] && self.out[COMPOSED] > 0;
        if goes_on {
            self.look = None;
        } else {
            self.turn(now);
        }
        (self.looks, self.before, self.beginning) = (looks, before, !goes_on);
        self.followed = followed;
        self.head =
            if ahead || self.way == ReadMode::Direct { 0 } else { self.meanwhile().min(self.held() / 4.0) as u64 };
    }

    /// The training loop has waited for data.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Asks how to read a group of `samples` that could be joined, of so many `bytes`, of which so many are `held` with what is made of
    /// them, and with `left` of the epoch to come behind it. `None`
    /// where enough is under way; then it is to be asked again when something has ended.
    pub(crate) fn admit(
        &mut self,
        now: Duration,
        (samples, bytes, held): (usize, u64, u64),
        left: u64,
        ceilings: &ServiceCeilings,
    ) -> Option<Admission> {
        let may_join = samples > 1 && self.terms.max_bytes > 0;
        if may_join {
            self.seen = (self.seen.0 + samples as u64, self.seen.1 + bytes, self.seen.2 + held);
            // Halved now and then, so that the mean follows the data; a group that asks again counts again, which is no matter.
            if self.seen.0 > MEAN_OF {
                self.seen = (self.seen.0 / 2, self.seen.1 / 2, self.seen.2 / 2);
            }
        }
        // What doesn't take long any more is read one by one: a compose would come later, and the loop would wait for it.
        if self.way != ReadMode::Direct && !self.followed && left as f64 <= self.meanwhile() {
            self.ending = true;
        }
        if left == 0 {
            self.ending = true;
        }
        if self.begun == 0 {
            self.all = left.saturating_add(samples as u64);
        }
        self.step(now, left, ceilings);
        if may_join && self.latency.is_none() && self.head == 0 && self.begun >= SIZED && self.gain() > PROMISES {
            self.head = (FIRST * self.reads() * USUAL_LATENCY.as_secs_f64())
                .min(FIRST_SHARE * self.held().min(left as f64)) as u64;
            if self.should_begin_joined(left, ceilings) {
                let reason = "on trial: joined objects of this size are documented to come faster, and cost less";
                self.go(now, ReadMode::Mixed, reason.to_owned());
            }
        }
        // Others of the data set may be what waits, for as long as they last: that holds up nobody who has little out.
        // More composes than begin in about the time that one takes would wait long for their calls, and reads come
        // sooner.
        let few = FEW.min((self.writes(ceilings) / 2.0 * USUAL_LATENCY.as_secs_f64()).ceil() as usize);
        let most = [MAX_SOURCES + ceilings.reads.at_once / 4, few + ceilings.writes.in_flight / 8];
        let waiting = [ceilings.reads.waiting, ceilings.writes.waiting];
        let room = [DIRECT, COMPOSED]
            .map(|lane| self.to_begin[lane] + waiting[lane] < most[lane] || self.out[lane] < most[lane]);
        let composed = if !may_join || self.ending {
            room[DIRECT].then_some(false)?
        } else if self.begun < self.head {
            false
        } else {
            match self.way {
                ReadMode::Direct if self.should_probe(left) => {
                    self.probes += 1;
                    true
                }
                ReadMode::Composed => room[COMPOSED].then_some(true)?,
                ReadMode::Mixed if self.is_first_alone() && self.joins_enough(left) => room[DIRECT].then_some(false)?,
                ReadMode::Mixed if room[COMPOSED] => true,
                // What hasn't begun to wait says that this machine is busy, and reads one by one are more work for it.
                ReadMode::Mixed if waiting[COMPOSED] < most[COMPOSED] => return None,
                ReadMode::Direct | ReadMode::Mixed => room[DIRECT].then_some(false)?,
            }
        };
        self.out[usize::from(composed)] += if composed { 1 } else { samples };
        self.to_begin[usize::from(composed)] += if composed { 1 } else { samples };
        self.begun += samples as u64;
        self.alone += if may_join && !composed { samples } else { 0 };
        Some(Admission { composed, may_join, number: self.turn })
    }

    /// A read of a turn waits for its call.
    pub(crate) fn begins(&mut self, turn: Admission) {
        self.to_begin[usize::from(turn.composed)] -= 1;
    }

    /// A group of a turn could not be read joined. It has yet to end.
    pub(crate) fn failed(&mut self, now: Duration, turn: Admission) {
        if !turn.composed || !self.is_first_trial(turn) {
            return;
        }
        self.failures += 1;
        if self.failures * FAILURES_SHARE > self.out[COMPOSED] {
            self.go_back(now, "the first composes failed");
        }
    }

    /// Whether joining began in this turn, of which none has come back.
    fn is_first_trial(&self, turn: Admission) -> bool {
        self.way == ReadMode::Mixed && self.latency.is_none() && turn.number == self.turn
    }

    /// A read of a turn, which had begun, has ended: well, with so many samples and after so long, or not.
    pub(crate) fn ended(&mut self, now: Duration, turn: Admission, well: Option<(u64, Duration)>) {
        let lane = usize::from(turn.composed);
        self.out[lane] -= 1;
        self.alone -= usize::from(turn.may_join && !turn.composed);
        let Some((samples, took)) = well else { return };
        if turn.composed {
            if self.is_first_trial(turn) && !Self::is_worth_trying(self.reads(), took, self.all) {
                self.latency = Some(took);
                return self.go_back(now, "a compose takes too long for epochs as short as these");
            }
            // The shortest, as long as it is not out of date.
            let latency = self.latency.unwrap_or(took);
            self.latency = Some(took.min(latency + took.saturating_sub(latency) / 1_000));
        }
        if turn.composed && self.is_first_alone() {
            // Until now all that came was read one by one, as fast as the service lets; as is documented, if nothing did.
            let alone = self.look.take().map(|look| (look.samples, now.saturating_sub(look.since)));
            let rate = alone.filter(|&(samples, time)| samples >= GROUPS && !time.is_zero());
            self.known[ReadMode::Direct as usize].rate =
                Some(rate.map_or(self.reads(), |(samples, time)| samples as f64 / time.as_secs_f64()));
        }
        self.back[lane] |= turn.number == self.turn;
        if let Some(look) = &mut self.look {
            look.samples += samples;
            look.groups += 1;
        } else if self.is_settled() {
            self.look = Some(ModeTrial { since: now, samples: 0, groups: 0, waited: self.waited });
        }
    }

    /// Whether what ends now is of this way alone.
    fn is_settled(&self) -> bool {
        !self.ending
            && match self.way {
                ReadMode::Direct => self.back[DIRECT] && self.out[COMPOSED] <= PROBES as usize,
                ReadMode::Mixed => self.back[COMPOSED] || self.is_first_alone(),
                ReadMode::Composed => self.back[COMPOSED] && self.alone == 0,
            }
    }

    /// Whether what ends says what reading one by one brings, since no joined group of the first has come back.
    fn is_first_alone(&self) -> bool {
        self.way == ReadMode::Mixed && !self.back[COMPOSED] && self.known[ReadMode::Direct as usize].rate.is_none()
    }

    fn step(&mut self, now: Duration, left: u64, ceilings: &ServiceCeilings) {
        if self.ending {
            self.look = self.look.filter(|_| self.is_first_alone());
            return;
        }
        if !self.allowed(self.home) {
            self.home = ReadMode::Direct;
            return self.go(now, ReadMode::Direct, "joining would cost more than reading one by one".to_owned());
        }
        let home = self.home;
        let latency = self.latency.unwrap_or_default();
        let least = if self.way == ReadMode::Direct { LOOK } else { LOOK.max(latency) };
        let tells = |look: &ModeTrial| now.saturating_sub(look.since) >= least && look.groups >= GROUPS;
        let Some(look) = self.look.filter(|look| !self.is_first_alone() && tells(look)) else {
            if self.way != home && now.saturating_sub(self.turned) > PATIENCE + latency * 8 {
                self.go_back(now, "it brought nothing for too long");
            }
            return;
        };
        let time = now.saturating_sub(look.since);
        let rate = look.samples as f64 / time.as_secs_f64();
        let busy_loop = self.waited.saturating_sub(look.waited).as_secs_f64() < HARDLY_WAITS * time.as_secs_f64();
        self.idle = busy_loop;
        self.look = Some(ModeTrial { since: now, samples: 0, groups: 0, waited: self.waited });
        let other = self.known[home as usize].rate.unwrap_or_default();
        if self.way != home && busy_loop && self.looks < FAIR && rate < HARMS * other {
            // A loop that stood still meanwhile, as it may at its first step, says nothing of a way on trial.
            self.looks += 1;
            return;
        }
        let first = std::mem::take(&mut self.beginning) || self.before == 0.0;
        let grows = rate > KEEPS * self.before;
        self.looks += 1;
        self.before = rate;
        // What a loop takes that has all it wants is no more than the least that this way could bring.
        let known = &mut self.known[self.way as usize];
        let taken = rate;
        let rate = match known.rate {
            Some(before) if busy_loop => before.max(rate),
            // The first look of an epoch is of its beginning; where there is no other, it counts in the end.
            Some(before) if first => rate.max(before + FAINT * (rate - before)),
            // While it grows it is what it is now.
            Some(before) if !grows || rate < before => before + FRESH * (rate - before),
            _ => rate,
        };
        known.rate = Some(rate);
        if self.way == home {
            if busy_loop {
                self.save(now, taken, left);
            } else {
                self.improve(now, rate, left, ceilings, grows && self.looks < LOOKS);
            }
        } else {
            self.judge(now, rate, ceilings, grows && self.looks < LOOKS, busy_loop);
            if self.way == self.home && !busy_loop {
                self.improve(now, rate, left, ceilings, true);
            }
        }
    }

    /// A way on trial has brought `rate`.
    fn judge(&mut self, now: Duration, rate: f64, ceilings: &ServiceCeilings, grows: bool, busy_loop: bool) {
        let (way, home) = (self.way, self.home);
        // A service lets more calls through at first than it then goes on to take.
        let most = match home {
            ReadMode::Direct => ceilings.reads.rate,
            ReadMode::Composed => ceilings.writes.rate.map(|rate| rate / 2.0 * self.sources()),
            ReadMode::Mixed => None,
        };
        let other = self.known[home as usize].rate.unwrap_or_default().min(most.unwrap_or(f64::INFINITY));
        let cheaper = self.usd(way) < self.usd(home);
        let told = format!("{rate:.0} samples/s, {other:.0} {home}");
        if busy_loop && cheaper {
            self.settle(
                now,
                format!("the training loop, at {rate:.0} samples/s, has all it wants, and this costs less"),
            );
        } else if !busy_loop && (rate > CLEARLY * other || (self.looks > 1 && rate > KEEPS * other)) {
            self.settle(now, told);
        } else if !busy_loop && (self.looks < FAIR || (grows && rate > HARMS * other)) {
            // The limits on calls are still opening.
        } else if !busy_loop && rate > AS_GOOD * other && cheaper {
            self.settle(now, format!("{told}, and this costs less"));
        } else {
            self.go_back(now, &format!("{way} brought {rate:.0} samples/s, {home} {other:.0}"));
        }
    }

    /// Looks for a way that is faster than the present one, which has brought `rate`, and may bring more yet.
    fn improve(&mut self, now: Duration, rate: f64, left: u64, ceilings: &ServiceCeilings, grows: bool) {
        if self.reason.is_empty() || self.looks <= LOOKS && self.turn <= 1 {
            self.reason = format!("{rate:.0} samples/s");
        }
        let Some(latency) = self.latency else { return };
        // Where composing goes on, another way to do so has nothing to wait for.
        if self.home == ReadMode::Direct && !Self::is_worth_trying(rate, latency, left) {
            return;
        }
        let candidates: &[ReadMode] = match self.home {
            ReadMode::Direct | ReadMode::Composed => &[ReadMode::Mixed],
            ReadMode::Mixed => &[ReadMode::Composed, ReadMode::Direct],
        };
        for &way in candidates {
            let known = self.known[way as usize];
            let predicted = self.predict(way, rate, ceilings);
            // It was better than this is now: conditions have changed.
            let was_better = known.worse == 0 && known.rate.is_some_and(|known| known * HARMS > rate);
            let promises = if grows {
                predicted > PROMISES_MUCH * rate.max(self.reads())
            } else {
                predicted > PROMISES * rate
                    || (predicted > rate && self.usd(way) < self.usd(self.home))
                    || known.rate.is_some()
            };
            if self.allowed(way) && (was_better || (promises && now >= known.next)) {
                let reason =
                    format!("on trial: {} brings {rate:.0} samples/s, this may bring {predicted:.0}", self.home);
                return self.go(now, way, reason);
            }
        }
    }

    /// The training loop takes `rate`, and has all it wants: looks for what costs less.
    fn save(&mut self, now: Duration, rate: f64, left: u64) {
        let Some(latency) = self.latency else { return };
        if !Self::is_worth_trying(rate, latency, left) {
            return;
        }
        let held = self.held() / latency.as_secs_f64();
        let cheapest = READ_MODES
            .into_iter()
            .filter(|&way| self.allowed(way))
            .min_by(|a, b| self.usd(*a).total_cmp(&self.usd(*b)));
        let Some(way) = cheapest.filter(|&way| self.usd(way) < AS_GOOD * self.usd(self.home)) else { return };
        let known = self.known[way as usize];
        let sustains = known.rate.map_or(way == ReadMode::Direct || held > 2.0 * rate, |known| known > PROMISES * rate);
        if now >= known.next && sustains {
            self.go(
                now,
                way,
                format!("on trial: the training loop has all it wants at {rate:.0} samples/s, this costs less"),
            );
        }
    }

    /// Samples a second that a way could bring, in view of what the present one does; rather too many than too few, since
    /// only a trial tells.
    fn predict(&self, way: ReadMode, rate: f64, ceilings: &ServiceCeilings) -> f64 {
        let latency = self.latency.unwrap_or_default().as_secs_f64().max(0.001);
        let sources = self.sources();
        // Held from before the compose until the delivery, whatever lies between.
        let held = self.held() / latency;
        // A compose and a delete for each group; where none was refused, there may be no end.
        let writes = ceilings
            .writes
            .rate
            .map_or((self.writes(ceilings) / 2.0 * sources).max(2.0 * rate), |rate| rate / 2.0 * sources);
        let refused = ceilings.reads.rate.is_some_and(|most| rate > HARMS * most);
        let gain = self.gain();
        match (self.home, way) {
            (ReadMode::Direct, _) if refused => (rate + writes).min(held),
            (ReadMode::Direct, _) => (rate + writes).min(rate * gain).min(held),
            // What the service refuses is no less for joining more; a processor would be.
            (ReadMode::Mixed, ReadMode::Composed) => {
                let direct = self.known[ReadMode::Direct as usize].rate.unwrap_or(rate).min(rate);
                let reads = ceilings.reads.rate.is_some();
                if reads { writes.min(held) } else { (rate - direct + direct * gain).min(writes).min(held) }
            }
            (_, way) => self.known[way as usize].rate.unwrap_or(rate),
        }
    }

    /// Whether what a trial joins comes back long before the epoch ends. It goes on in the next one.
    fn is_worth_trying(rate: f64, latency: Duration, left: u64) -> bool {
        left as f64 >= rate * 2.0 * latency.as_secs_f64()
    }

    fn should_probe(&self, left: u64) -> bool {
        self.latency.is_none()
            && self.probes < PROBES
            && self.begun >= SIZED
            && left >= WORTH_TRYING
            && (self.gain() > PROMISES || (self.idle && self.usd(ReadMode::Composed) < self.usd(ReadMode::Direct)))
            && self.allowed(ReadMode::Mixed)
    }

    /// Whether joining is so likely to be worth it, by what is documented and by price, that the first composes are no
    /// probes but as many as the service takes. Reading one by one goes on beside them.
    fn should_begin_joined(&self, left: u64, ceilings: &ServiceCeilings) -> bool {
        let writes = self.writes(ceilings) / 2.0 * self.sources();
        self.way == ReadMode::Direct
            && self.probes == 0
            && ceilings.may_write
            && writes > PROMISES_MUCH * self.reads()
            && Self::is_worth_trying(self.reads(), USUAL_LATENCY, left)
            && self.gain() > PROMISES_MUCH
            && self.usd(ReadMode::Composed) < self.usd(ReadMode::Direct)
            && self.held() > PROMISES_MUCH * self.reads() * USUAL_LATENCY.as_secs_f64()
            && self.allowed(ReadMode::Mixed)
    }

    /// How long a compose takes isn't known yet: then half of what can be held is for reads that come meanwhile, and so is the end
    /// of an epoch that no other follows.
    fn joins_enough(&self, left: u64) -> bool {
        let meanwhile = self.reads() * USUAL_LATENCY.as_secs_f64();
        self.out[COMPOSED] as f64 * self.sources() > self.held() / 2.0
            || (!self.followed && self.out[DIRECT] as f64 + left as f64 <= meanwhile)
    }

    /// Reads a second of this process's share of a bucket that has refused none, as documented.
    fn reads(&self) -> f64 {
        READS * self.terms.share
    }

    /// Writes a second that the service takes of this process, as far as is known.
    fn writes(&self, ceilings: &ServiceCeilings) -> f64 {
        ceilings.writes.rate.unwrap_or(WRITES * self.terms.share)
    }

    /// How many more samples the same work brings when they are joined.
    fn gain(&self) -> f64 {
        (CALL_BYTES + self.size()) / (CALL_BYTES / self.sources() + self.size())
    }

    /// Samples that can be on their way and ahead of the loop.
    fn held(&self) -> f64 {
        let held = (self.seen.2 as f64 / self.seen.0.max(1) as f64).max(1.0);
        (self.terms.budget as f64 / held).min(self.terms.ahead as f64)
    }

    /// Mean bytes of a sample.
    fn size(&self) -> f64 {
        (self.seen.1 as f64 / self.seen.0.max(1) as f64).max(1.0)
    }

    /// Objects in a group.
    fn sources(&self) -> f64 {
        (self.terms.max_bytes as f64 / self.size()).floor().clamp(1.0, MAX_SOURCES as f64)
    }

    /// Samples that are read one by one while something is composed; half of them, since both share a processor.
    fn meanwhile(&self) -> f64 {
        let direct = self.known[ReadMode::Direct as usize].rate.unwrap_or(self.reads());
        direct * self.latency.unwrap_or(USUAL_LATENCY).as_secs_f64() / 2.0
    }

    /// US dollars a sample.
    fn usd(&self, way: ReadMode) -> f64 {
        let (sources, class) = (self.sources(), StorageClass::Standard);
        let direct = self.terms.prices.direct(class, 1);
        let composed = self.terms.prices.composed(class, (sources * self.size()) as u64) / sources;
        match way {
            ReadMode::Direct => direct,
            ReadMode::Composed => composed,
            ReadMode::Mixed => {
                let rate = |way: ReadMode| self.known[way as usize].rate.unwrap_or_default();
                let share = if rate(ReadMode::Mixed) > 0.0 {
                    (rate(ReadMode::Direct) / rate(ReadMode::Mixed)).min(1.0)
                } else {
                    0.5
                };
                direct * share + composed * (1.0 - share)
            }
        }
    }

    /// Whether a way may be taken at all; one by one always may.
    fn allowed(&self, way: ReadMode) -> bool {
        let cheaper = || self.usd(ReadMode::Composed) < self.usd(ReadMode::Direct);
        way == ReadMode::Direct || (self.terms.max_bytes > 0 && (self.terms.pay_for_speed || cheaper()))
    }

    fn turn(&mut self, now: Duration) {
        self.turn += 1;
        self.turned = now;
        (self.look, self.looks, self.before, self.back) = (None, 0, 0.0, [false; 2]);
        self.failures = 0;
    }

    fn go(&mut self, now: Duration, way: ReadMode, reason: String) {
        tracing::info!(from = %self.way, to = %way, reason, "another way to read small objects");
        (self.way, self.reason) = (way, reason);
        if way != self.home {
            self.known[way as usize].rate = None;
        }
        self.turn(now);
    }

    /// How long not to look at what was worse: the worse it is, the more a look costs, and the less it is to be expected
    /// that it got better.
    fn again(&self, worse: ReadMode) -> Duration {
        let best = self.known.iter().filter_map(|known| known.rate).fold(0.0, f64::max);
        let times = best / self.known[worse as usize].rate.unwrap_or(best).max(1.0);
        AGAIN.mul_f64(times.clamp(1.0, 16.0))
    }

    /// Stays with the way on trial.
    fn settle(&mut self, now: Duration, reason: String) {
        tracing::info!(way = %self.way, reason, "settled on a way to read small objects");
        let next = now + self.again(self.home);
        let left = &mut self.known[self.home as usize];
        (left.next, left.worse) = (next, 0);
        self.known[self.way as usize].worse = 0;
        (self.home, self.reason) = (self.way, reason);
        (self.looks, self.before) = (0, 0.0);
    }

    fn go_back(&mut self, now: Duration, reason: &str) {
        let again = self.again(self.way);
        let tried = &mut self.known[self.way as usize];
        tried.next = now + (again * 2u32.saturating_pow(tried.worse)).min(SELDOM);
        tried.worse = (tried.worse + 1).min(8);
        self.go(now, self.home, reason.to_owned());
    }
}

#[cfg(test)]
mod tests;
