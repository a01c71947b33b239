//! Injected faults: random ones from a seed, and scripted ones.

use std::{
    collections::VecDeque,
    str::FromStr,
    sync::{
        Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    error::Error,
    lock::{lock, read, write},
    random,
    stats::Call,
};

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// 503, nothing done.
    Error,
    /// 429, nothing done.
    TooManyRequests,
    /// Any other status, with reason `backendError`, nothing done.
    Status(u16),
    /// The connection is reset before the answer, nothing done.
    Reset,
    /// The answer waits for [`Faults::stall_ms`]: contents stop half way, everything else before its first byte.
    Stall,
    /// The body ends early and says so in no way: no length is announced, and the end is a proper one. Only for calls
    /// that read.
    Short,
    /// The connection is closed in the middle of a body whose length was announced. Only for calls that read.
    Cut,
    /// One bit of the contents is flipped; the headers tell the right hashes. Only for contents.
    Flip,
    /// The call happens and the connection is reset before the answer. Only for calls that write.
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

    fn suits(self, call: Call) -> bool {
        match self {
            Self::Flip => call == Call::GetMedia,
            Self::Short | Self::Cut => !call.mutates(),
            Self::LostResponse => call.mutates(),
            _ => true,
        }
    }
}

/// How often calls go wrong: probabilities from 0 to 1.
///
/// Written as `error=0.05,429=0.02,reset=0.02,stall=0.01,stall_ms=30000,short=0.02,cut=0.02,flip=0.01,lost=0.05,seed=7`;
/// `retry_after=1` adds that header to 503s and 429s, `lost_compose` loses answers to compositions only, and
/// `only=list|get_media|compose` spares all other calls (`get` stands for both kinds of it).
///
/// Which call is hit is a function of the seed and of the call's number among the calls that can be hit, so that a
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
    /// How long a stall lasts, in milliseconds; 30,000 unless told.
    pub stall_ms: u64,
    /// [`Fault::Short`].
    pub short: f64,
    /// [`Fault::Cut`].
    pub cut: f64,
    /// [`Fault::Flip`].
    pub flip: f64,
    /// [`Fault::LostResponse`] to any call that writes.
    pub lost: f64,
    /// [`Fault::LostResponse`] to a composition, on top of `lost`.
    pub lost_compose: f64,
    /// Seconds in a `Retry-After` header of injected 503s and 429s.
    pub retry_after: Option<u64>,
    /// The seed; the emulator's own when None.
    pub seed: Option<u64>,
    /// The calls to hit; all when empty.
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

    /// The fault that a number drawn from `[0, 1)` stands for.
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
        rates.into_iter().filter(|(fault, _)| fault.suits(call)).find_map(|(fault, rate)| {
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

/// Decides for each call.
pub(crate) struct FaultPlan {
    faults: RwLock<Faults>,
    seed: u64,
    calls: AtomicU64,
    scripted: Mutex<VecDeque<(Call, Fault, u64)>>,
}

impl FaultPlan {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Self { faults: RwLock::new(faults), seed, calls: AtomicU64::new(0), scripted: Mutex::default() }
    }

    /// Starts over with other probabilities.
    pub(crate) fn set(&self, faults: Faults) {
        *write(&self.faults) = faults;
        self.calls.store(0, Ordering::Relaxed);
    }

    pub(crate) fn script(&self, call: Call, fault: Fault, count: u64) {
        lock(&self.scripted).push_back((call, fault, count));
    }

    pub(crate) fn settings(&self) -> (u64, Option<u64>) {
        let faults = read(&self.faults);
        (faults.stall_ms, faults.retry_after)
    }

    /// As [`decide`](Self::decide), for a call inside a batch: faults that are no answers do not happen to it, and
    /// scripted ones of that sort wait for a call of their own.
    pub(crate) fn decide_status(&self, call: Call) -> Option<Fault> {
        let is_answer = |fault: Fault| matches!(fault, Fault::Error | Fault::TooManyRequests | Fault::Status(_));
        let next = lock(&self.scripted).iter().find(|(kind, _, count)| *kind == call && *count > 0).map(|next| next.1);
        if next.is_some_and(|fault| !is_answer(fault)) {
            return None;
        }
        self.decide(call).filter(|fault| is_answer(*fault))
    }

    /// What goes wrong with this call. Scripted faults come first.
    pub(crate) fn decide(&self, call: Call) -> Option<Fault> {
        let mut scripted = lock(&self.scripted);
        scripted.retain(|(_, _, count)| *count > 0);
        if let Some((_, fault, count)) = scripted.iter_mut().find(|(kind, _, _)| *kind == call) {
            *count -= 1;
            return Some(*fault);
        }
        drop(scripted);
        let faults = read(&self.faults);
        // A call that nothing can hit takes no number, so that others keep theirs.
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
    fn faults_hit_what_they_suit() {
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
