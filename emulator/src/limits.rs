//! Rate limits as values: the time is handed in.

use std::{collections::HashMap, time::Duration};

/// Seconds of a rate that may be used at once.
const BURST: f64 = 0.1;
/// Names remembered before those whose time is over are forgotten.
const NAMES: usize = 10_000;

/// Tokens that come back at a rate, up to a tenth of a second's worth and never less than one.
#[derive(Debug, Default)]
struct TokenBucket {
    used: f64,
    last: Duration,
}

impl TokenBucket {
    fn take(&mut self, now: Duration, rate: f64) -> bool {
        let elapsed = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.used = (self.used - elapsed * rate).max(0.0);
        let fits = self.used + 1.0 <= (rate * BURST).max(1.0);
        if fits {
            self.used += 1.0;
        }
        fits
    }
}

/// What one bucket takes.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    reads: TokenBucket,
    writes: TokenBucket,
    names: HashMap<String, Duration>,
}

impl Limits {
    /// Whether a read at `now` fits `rate` a second; 0 is no limit.
    pub(crate) fn read(&mut self, now: Duration, rate: f64) -> bool {
        rate <= 0.0 || self.reads.take(now, rate)
    }

    /// Whether a write at `now` fits.
    pub(crate) fn write(&mut self, now: Duration, rate: f64) -> bool {
        rate <= 0.0 || self.writes.take(now, rate)
    }

    /// Whether a write to the object `name` at `now` fits.
    pub(crate) fn write_name(&mut self, name: &str, now: Duration, rate: f64) -> bool {
        if rate <= 0.0 {
            return true;
        }
        let gap = Duration::from_secs_f64(1.0 / rate);
        if self.names.get(name).is_some_and(|last| now.saturating_sub(*last) < gap) {
            return false;
        }
        if self.names.len() >= NAMES {
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
        let mut limits = Limits::default();
        let at = Duration::from_millis;
        assert_eq!((0..1_000).filter(|_| limits.write(at(0), 1_000.0)).count(), 100);
        assert_eq!((0..1_000).filter(|_| limits.write(at(10), 1_000.0)).count(), 10);
        assert!((0..2_000).all(|k| limits.write(at(1_000 + k), 1_000.0)));
        assert!((0..10_000).all(|_| limits.read(at(0), 0.0)));
    }

    #[test]
    fn one_write_a_second_to_a_name() {
        let mut limits = Limits::default();
        let at = Duration::from_millis;
        assert!(limits.write_name("a", at(0), 1.0));
        assert!(!limits.write_name("a", at(999), 1.0));
        assert!(limits.write_name("b", at(999), 1.0));
        assert!(limits.write_name("a", at(1_000), 1.0));
        for k in 0..20_000 {
            assert!(limits.write_name(&k.to_string(), at(10_000), 1.0));
            assert!(limits.names.len() <= 20_003);
        }
        assert!(limits.write_name("z", at(20_000), 1.0));
        assert_eq!(limits.names.len(), 1, "all others are over");
    }
}
