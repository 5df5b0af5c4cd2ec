//! How long to wait before the operator is tried again.
//!
//! It must be random: when an operator comes back, a thousand proxies must not all call at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first wait, before jitter.
pub(crate) const FIRST: Duration = Duration::from_millis(100);

/// The longest wait.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double, each between half and all of its length.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    random: RandomState,
}

impl Backoff {
    /// Where to begin in the list of addresses, so that a fleet spreads over replicas.
    pub(crate) fn first_attempt(&self) -> usize {
        usize::from(self.random.hash_one(0_u8) as u16)
    }

    /// The wait after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = (self.failures + 1).min(16);
        let half = full / 2;
        let span_us = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(self.random.hash_one(self.failures) % span_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_jittered_down() {
        let mut backoff = Backoff::default();
        let mut full = FIRST;
        for _ in 0..20 {
            let wait = backoff.next();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(LONGEST);
        }
    }
}
