//! The choice between ways to read, as the epochs of a loader share it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Admission, Choice, Chooser, ChooserConfig, ServiceCeilings};

/// How long the wait for a place goes on without a look. The end of a read ends it; that calls are fewer that wait for
/// the service's leave to begin does not, and is seen by looking.
const LOOK_UP: Duration = Duration::from_millis(10);

/// A [`Chooser`], with a clock and a way to wait for it.
#[derive(Debug)]
pub(crate) struct Auto {
    chooser: Mutex<Chooser>,
    freed: Condvar,
    started: Instant,
}

impl Auto {
    pub(crate) fn new(terms: ChooserConfig) -> Arc<Self> {
        let chooser = Mutex::new(Chooser::new(terms));
        Arc::new(Self { chooser, freed: Condvar::new(), started: Instant::now() })
    }

    fn chooser(&self) -> MutexGuard<'_, Chooser> {
        self.chooser.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn choice(&self) -> Choice {
        self.chooser().choice()
    }

    pub(crate) fn began(&self, (ahead, followed): (bool, bool)) {
        self.chooser().began(self.started.elapsed(), (ahead, followed));
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.chooser().waited(time);
    }

    /// Waits for a place for a group of so many samples and bytes, and bytes held; `None` once the epoch is called off. Blocks.
    pub(crate) fn admit(
        self: &Arc<Self>,
        group: (usize, u64, u64),
        left: u64,
        ceilings: impl Fn() -> ServiceCeilings,
        called_off: impl Fn() -> bool,
    ) -> Option<Admission> {
        let mut chooser = self.chooser();
        while !called_off() {
            if let Some(turn) = chooser.admit(self.started.elapsed(), group, left, &ceilings()) {
                return Some(turn);
            }
            chooser = self.freed.wait_timeout(chooser, LOOK_UP).unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// The place of one read of a turn.
    pub(crate) fn place(self: &Arc<Self>, turn: Admission) -> InFlightRead {
        InFlightRead { auto: Arc::clone(self), turn, began: None, samples: None }
    }
}

/// A place among the reads under way; dropping it frees it, however the read ended.
#[derive(Debug)]
pub(crate) struct InFlightRead {
    auto: Arc<Auto>,
    turn: Admission,
    began: Option<Instant>,
    samples: Option<u64>,
}

impl InFlightRead {
    /// The read begins.
    pub(crate) fn begin(&mut self) {
        self.began = Some(Instant::now());
        self.auto.chooser().begins(self.turn);
        self.auto.freed.notify_all();
    }

    /// The group could not be read joined.
    pub(crate) fn failed(&self) {
        self.auto.chooser().failed(self.auto.started.elapsed(), self.turn);
    }

    /// The read went well.
    pub(crate) fn done(&mut self, samples: usize) {
        self.samples = Some(samples as u64);
    }
}

impl Drop for InFlightRead {
    fn drop(&mut self) {
        let took = self.began.map(|began| began.elapsed());
        let now = self.auto.started.elapsed();
        let mut chooser = self.auto.chooser();
        if self.began.is_none() {
            chooser.begins(self.turn);
        }
        chooser.ended(now, self.turn, self.samples.zip(took));
        drop(chooser);
        self.auto.freed.notify_all();
    }
}
