//! Injected faults: random ones drawn from a seed, and scripted ones.

use std::{
    collections::VecDeque,
    str::FromStr,
    sync::{
        Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    error::Error,
    locks::{lock, read, write},
    random,
    traffic::stats::Call,
};

/// A failure of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The answer is 503, and the call has no effect.
    Error,
    /// The answer is 429, and the call has no effect.
    TooManyRequests,
    /// The answer is this status with the reason `backendError`, and the call has no effect.
    Status(u16),
    /// The connection is reset before the answer, and the call has no effect.
    Reset,
    /// The answer stalls for [`Faults::stall_ms`]: contents half way through, all other answers before their first
    /// byte.
    Stall,
    /// The body ends early without any sign of it: no length is announced, and the end is a regular one. Only calls
    /// that read can have this fault.
    Short,
    /// The connection is closed in the middle of a body whose length was announced. Only calls that read can have this
    /// fault.
    Cut,
    /// One bit of the contents is flipped, while the headers have the right checksums. Only requests for contents can
    /// have this fault.
    Flip,
    /// The call takes effect, and the connection is reset before the answer. Only calls that write can have this fault.
    LostResponse,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::TooManyRequests => "429",
            Self::Status(_) => "status",
            Self::Reset => "reset",
            Self::Stall => "stall",
            Self::Short => "short",
            Self::Cut => "cut",
            Self::Flip => "flip",
            Self::LostResponse => "lost",
        }
    }

    /// Whether this fault is an error answer, and the connection stays intact.
    fn is_answer(self) -> bool {
        matches!(self, Self::Error | Self::TooManyRequests | Self::Status(_))
    }

    fn applies_to(self, call: Call) -> bool {
        match self {
            Self::Flip => call == Call::GetMedia,
            Self::Short | Self::Cut => !call.is_mutation(),
            Self::LostResponse => call.is_mutation(),
            _ => true,
        }
    }
}

/// How often calls fail: probabilities from 0 to 1.
///
/// Written as
/// `error=0.05,429=0.02,reset=0.02,stall=0.01,stall_ms=30000,short=0.02,cut=0.02,flip=0.01,lost=0.05,seed=7`;
/// `retry_after=1` adds that header to 503s and 429s, `lost_compose` loses answers to compositions only, and
/// `only=list|get_media|compose` restricts faults to these calls (`get` stands for `get_media` and `get_metadata`).
///
/// Which call fails is a function of the seed and of the call's number among the calls that can fail, so that a
/// single-threaded client sees the same faults in every run.
///
/// ```
/// let faults: dataflux_emulator::Faults = "error=0.05,flip=0.01,seed=7".parse()?;
/// assert_eq!(faults.error, 0.05);
/// # Ok::<(), dataflux_emulator::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// [`Fault::Error`].
    pub error: f64,
    /// [`Fault::TooManyRequests`].
    pub too_many_requests: f64,
    /// [`Fault::Reset`].
    pub reset: f64,
    /// [`Fault::Stall`].
    pub stall: f64,
    /// How long a stall lasts, in milliseconds; 30,000 by default.
    pub stall_ms: u64,
    /// [`Fault::Short`].
    pub short: f64,
    /// [`Fault::Cut`].
    pub cut: f64,
    /// [`Fault::Flip`].
    pub flip: f64,
    /// [`Fault::LostResponse`], for any call that writes.
    pub lost: f64,
    /// [`Fault::LostResponse`], for compositions, in addition to `lost`.
    pub lost_compose: f64,
    /// The `Retry-After` header of injected 503s and 429s, in seconds; no header when `None`.
    pub retry_after: Option<u64>,
    /// The seed; the emulator's own when `None`.
    pub seed: Option<u64>,
    /// The calls that can fail; all when empty.
    pub only: Vec<Call>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            error: 0.0,
            too_many_requests: 0.0,
            reset: 0.0,
            stall: 0.0,
            stall_ms: 30_000,
            short: 0.0,
            cut: 0.0,
            flip: 0.0,
            lost: 0.0,
            lost_compose: 0.0,
            retry_after: None,
            seed: None,
            only: Vec::new(),
        }
    }
}

impl Faults {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    fn rates(&mut self) -> [(&'static str, &mut f64); 9] {
        [
            ("error", &mut self.error),
            ("429", &mut self.too_many_requests),
            ("reset", &mut self.reset),
            ("stall", &mut self.stall),
            ("short", &mut self.short),
            ("cut", &mut self.cut),
            ("flip", &mut self.flip),
            ("lost", &mut self.lost),
            ("lost_compose", &mut self.lost_compose),
        ]
    }

    /// Maps `drawn`, a number from `[0, 1)`, to a fault of `call`.
    fn pick(&self, call: Call, mut drawn: f64) -> Option<Fault> {
        if !self.only.is_empty() && !self.only.contains(&call) {
            return None;
        }
        let lost = self.lost + if call == Call::Compose { self.lost_compose } else { 0.0 };
        let rates = [
            (Fault::Error, self.error),
            (Fault::TooManyRequests, self.too_many_requests),
            (Fault::Reset, self.reset),
            (Fault::Stall, self.stall),
            (Fault::Short, self.short),
            (Fault::Cut, self.cut),
            (Fault::Flip, self.flip),
            (Fault::LostResponse, lost),
        ];
        rates.into_iter().filter(|(fault, _)| fault.applies_to(call)).find_map(|(fault, rate)| {
            let hit = drawn < rate;
            drawn -= rate;
            hit.then_some(fault)
        })
    }
}

impl FromStr for Faults {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::spec("faults", text, why);
        let mut faults = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| bad(format!("`{part}` is not KEY=VALUE")))?;
            let whole = || value.parse::<u64>().map_err(|_| bad(format!("`{key}` wants a number, got `{value}`")));
            match key {
                "stall_ms" => faults.stall_ms = whole()?,
                "retry_after" => faults.retry_after = Some(whole()?),
                "seed" => faults.seed = Some(whole()?),
                "only" => {
                    for kind in value.split('|') {
                        if kind == "get" {
                            faults.only.extend([Call::GetMedia, Call::GetMetadata]);
                        } else {
                            faults.only.push(kind.parse().map_err(|error: Error| bad(error.to_string()))?);
                        }
                    }
                }
                _ => {
                    let rate = value.parse::<f64>().ok().filter(|rate| (0.0..=1.0).contains(rate));
                    let rate = rate.ok_or_else(|| bad(format!("`{key}` wants a number from 0 to 1, got `{value}`")))?;
                    let mut rates = faults.rates();
                    let Some((_, setting)) = rates.iter_mut().find(|(name, _)| *name == key) else {
                        let known = rates.map(|(name, _)| name).join(", ");
                        return Err(bad(format!(
                            "no setting `{key}`; there are {known}, stall_ms, retry_after, seed, only"
                        )));
                    };
                    **setting = rate;
                }
            }
        }
        Ok(faults)
    }
}

/// Scripted faults of one kind of call.
struct ScriptedFault {
    call: Call,
    fault: Fault,
    /// How many more calls it hits.
    remaining: u64,
}

/// Decides which calls fail.
pub(crate) struct FaultPlan {
    faults: RwLock<Faults>,
    seed: u64,
    calls: AtomicU64,
    scripted: Mutex<VecDeque<ScriptedFault>>,
}

impl FaultPlan {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Self { faults: RwLock::new(faults), seed, calls: AtomicU64::new(0), scripted: Mutex::default() }
    }

    /// Replaces the probabilities and restarts the numbering of calls.
    pub(crate) fn set(&self, faults: Faults) {
        *write(&self.faults) = faults;
        self.calls.store(0, Ordering::Relaxed);
    }

    pub(crate) fn script(&self, call: Call, fault: Fault, count: u64) {
        lock(&self.scripted).push_back(ScriptedFault { call, fault, remaining: count });
    }

    pub(crate) fn stall_length(&self) -> Duration {
        Duration::from_millis(read(&self.faults).stall_ms)
    }

    /// The `Retry-After` header of injected 503s and 429s, in seconds.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        read(&self.faults).retry_after
    }

    /// The fault of a call inside a batch, or `None`. The connection belongs to all calls of the batch, so only error
    /// answers are possible; a scripted fault of another kind is kept for a call outside a batch.
    pub(crate) fn decide_in_batch(&self, call: Call) -> Option<Fault> {
        let next =
            lock(&self.scripted).iter().find(|next| next.call == call && next.remaining > 0).map(|next| next.fault);
        if next.is_some_and(|fault| !fault.is_answer()) {
            return None;
        }
        self.decide(call).filter(|fault| fault.is_answer())
    }

    /// The fault of a call, or `None`. Scripted faults come first.
    pub(crate) fn decide(&self, call: Call) -> Option<Fault> {
        let mut scripted = lock(&self.scripted);
        scripted.retain(|next| next.remaining > 0);
        if let Some(next) = scripted.iter_mut().find(|next| next.call == call) {
            next.remaining -= 1;
            return Some(next.fault);
        }
        drop(scripted);

        let faults = read(&self.faults);
        // A call that cannot fail takes no number, so that the others keep theirs.
        faults.pick(call, 0.0)?;
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        faults.pick(call, random::unit(faults.seed.unwrap_or(self.seed), number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_refuses() {
        let faults: Faults =
            "error=0.05,429=0.02,stall_ms=5,lost_compose=0.5,retry_after=1,seed=7,only=get|list".parse().unwrap();
        assert_eq!(
            faults,
            Faults {
                error: 0.05,
                too_many_requests: 0.02,
                stall_ms: 5,
                lost_compose: 0.5,
                retry_after: Some(1),
                seed: Some(7),
                only: vec![Call::GetMedia, Call::GetMetadata, Call::List],
                ..Faults::none()
            }
        );
        for (text, why) in [("error=2", "from 0 to 1"), ("oops=0.1", "oops"), ("only=x", "x"), ("error", "KEY=VALUE")] {
            let message = text.parse::<Faults>().unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_faults_and_another_gives_others() {
        let run = |seed: u64| {
            let plan = FaultPlan::new("error=0.1,flip=0.1,cut=0.1".parse().unwrap(), seed);
            (0..1_000).map(|_| plan.decide(Call::GetMedia)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        for fault in [Fault::Error, Fault::Flip, Fault::Cut] {
            let hits = run(1).iter().filter(|hit| **hit == Some(fault)).count();
            assert!((60..140).contains(&hits), "{hits} of 1,000 at 0.1");
        }
    }

    #[test]
    fn faults_hit_only_calls_that_they_apply_to() {
        let all = Faults { lost: 1.0, ..Faults::none() };
        assert_eq!(all.pick(Call::Compose, 0.5), Some(Fault::LostResponse));
        assert_eq!(all.pick(Call::GetMedia, 0.5), None);
        let flip = Faults { flip: 1.0, ..Faults::none() };
        assert_eq!((flip.pick(Call::GetMedia, 0.5), flip.pick(Call::List, 0.5)), (Some(Fault::Flip), None));
        let only = Faults { error: 1.0, only: vec![Call::List], ..Faults::none() };
        assert_eq!((only.pick(Call::List, 0.5), only.pick(Call::Delete, 0.5)), (Some(Fault::Error), None));
    }

    #[test]
    fn scripts_come_first_and_end() {
        let plan = FaultPlan::new(Faults::none(), 0);
        plan.script(Call::Compose, Fault::LostResponse, 2);
        plan.script(Call::Compose, Fault::Error, 1);
        let seen: Vec<_> = (0..4).map(|_| plan.decide(Call::Compose)).collect();
        assert_eq!(seen, [Some(Fault::LostResponse), Some(Fault::LostResponse), Some(Fault::Error), None]);
        assert_eq!(plan.decide(Call::List), None);
    }
}
