//! The rate limits of a bucket. Pure: the caller passes the time.

use std::{collections::HashMap, time::Duration};

/// How many seconds of its rate a bucket accepts at once.
const BURST_SECONDS: f64 = 0.1;
/// How many names are remembered before the expired ones are removed. Bounds the memory; a removal takes a pass over
/// all names.
const MAX_NAMES: usize = 10_000;

/// A token bucket that refills at a rate. Its capacity is a tenth of a second's tokens, and at least one.
#[derive(Debug, Default)]
struct RateBucket {
    used: f64,
    last: Duration,
}

impl RateBucket {
    fn take(&mut self, now: Duration, rate: f64) -> bool {
        let elapsed = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.used = (self.used - elapsed * rate).max(0.0);
        let fits = self.used + 1.0 <= (rate * BURST_SECONDS).max(1.0);
        if fits {
            self.used += 1.0;
        }
        fits
    }
}

/// The calls that count against the limits of one bucket.
#[derive(Debug, Default)]
pub(crate) struct BucketLimits {
    reads: RateBucket,
    writes: RateBucket,
    /// When each object name was last written.
    names: HashMap<String, Duration>,
}

impl BucketLimits {
    /// Admits a read at time `now`, if `rate` reads a second allow it; 0 is no limit.
    pub(crate) fn admit_read(&mut self, now: Duration, rate: f64) -> bool {
        rate <= 0.0 || self.reads.take(now, rate)
    }

    /// Admits a write at time `now`, if `rate` writes a second allow it; 0 is no limit.
    pub(crate) fn admit_write(&mut self, now: Duration, rate: f64) -> bool {
        rate <= 0.0 || self.writes.take(now, rate)
    }

    /// Admits a write to the object `name` at time `now`, if `rate` writes a second allow it; 0 is no limit.
    pub(crate) fn admit_name_write(&mut self, name: &str, now: Duration, rate: f64) -> bool {
        if rate <= 0.0 {
            return true;
        }
        let gap = Duration::from_secs_f64(1.0 / rate);
        if self.names.get(name).is_some_and(|last| now.saturating_sub(*last) < gap) {
            return false;
        }
        if self.names.len() >= MAX_NAMES {
            self.names.retain(|_, last| now.saturating_sub(*last) < gap);
        }
        self.names.insert(name.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut limits = BucketLimits::default();
        let at = Duration::from_millis;
        assert_eq!((0..1_000).filter(|_| limits.admit_write(at(0), 1_000.0)).count(), 100);
        assert_eq!((0..1_000).filter(|_| limits.admit_write(at(10), 1_000.0)).count(), 10);
        assert!((0..2_000).all(|k| limits.admit_write(at(1_000 + k), 1_000.0)));
        assert!((0..10_000).all(|_| limits.admit_read(at(0), 0.0)));
    }

    #[test]
    fn one_write_a_second_to_a_name() {
        let mut limits = BucketLimits::default();
        let at = Duration::from_millis;
        assert!(limits.admit_name_write("a", at(0), 1.0));
        assert!(!limits.admit_name_write("a", at(999), 1.0));
        assert!(limits.admit_name_write("b", at(999), 1.0));
        assert!(limits.admit_name_write("a", at(1_000), 1.0));
        for k in 0..20_000 {
            assert!(limits.admit_name_write(&k.to_string(), at(10_000), 1.0));
            assert!(limits.names.len() <= 20_003);
        }
        assert!(limits.admit_name_write("z", at(20_000), 1.0));
        assert_eq!(limits.names.len(), 1, "all others have expired");
    }
}
