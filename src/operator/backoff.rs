//! Exponential backoff with jitter, as a pure function of the failures so far.
//!
//! It must not read a clock or a random source: the salt is the caller's, so that a thousand
//! objects that failed together don't come back together, and a test sees the same delays twice.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// How long to wait after failures.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub base: Duration,
    /// At most, before jitter.
    pub max: Duration,
    /// Up to this share of the delay is taken off.
    pub jitter_percent: u32,
}

impl Backoff {
    /// The delay after `failures` failures in a row; none after none.
    #[must_use]
    pub fn delay<S: Hash>(&self, failures: u32, salt: &S) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let full = self.base.saturating_mul(1u32.checked_shl(doublings.min(20)).unwrap_or(u32::MAX)).min(self.max);
        let mut hasher = DefaultHasher::new();
        (salt, failures).hash(&mut hasher);
        let share = u32::try_from(hasher.finish() % 1000).unwrap_or_default();
        full - full * self.jitter_percent.min(100) / 100 * share / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { base: Duration::from_millis(500), max: Duration::from_secs(20), jitter_percent: 20 };

    #[test]
    fn delays_double_up_to_the_bound() {
        let steady = Backoff { jitter_percent: 0, ..BACKOFF };
        let delays: Vec<u64> =
            (0..9).map(|failures| u64::try_from(steady.delay(failures, &"key").as_millis()).unwrap()).collect();
        assert_eq!(delays, [0, 500, 1000, 2000, 4000, 8000, 16000, 20000, 20000]);
        assert_eq!(steady.delay(u32::MAX, &"key"), Duration::from_secs(20));
    }

    #[test]
    fn jitter_spreads_equal_failures_and_never_exceeds_the_bound() {
        let delays: std::collections::BTreeSet<Duration> = (0..100).map(|key| BACKOFF.delay(30, &key)).collect();
        assert!(delays.len() > 50);
        assert!(delays.iter().all(|delay| *delay <= BACKOFF.max && *delay >= BACKOFF.max * 4 / 5));
    }
}
