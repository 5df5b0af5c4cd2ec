//! How long to wait before the store is tried again.
//!
//! It must be quick at first, because most losses are short, and random later, so that a store that comes back does not meet
//! every proxy at once.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

/// So many attempts follow the first one at this distance; then the waits double.
const QUICK_ATTEMPTS: u32 = 3;
const QUICK: Duration = Duration::from_secs(1);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(10);

/// A connection that was good for so long begins anew with an attempt at once.
const GOOD: Duration = Duration::from_secs(10);

/// Waits between attempts.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
    /// A connection was made anew at once, and has not proved to be good since.
    was_hasty: bool,
    random: RandomState,
}

impl Patience {
    /// The wait after one more failed attempt.
    pub(super) fn after_failure(&mut self) -> Duration {
        self.failures = (self.failures + 1).min(QUICK_ATTEMPTS + 16);
        let doublings = self.failures.saturating_sub(QUICK_ATTEMPTS);
        let full = QUICK.saturating_mul(1 << doublings).min(LONGEST);
        if doublings == 0 {
            return full;
        }
        let half_ms = u64::try_from(full.as_millis() / 2).unwrap_or(1).max(1);
        full / 2 + Duration::from_millis(self.random.hash_one(self.failures) % half_ms)
    }

    /// The wait after a connection that stood since then.
    pub(super) fn after_loss(&mut self, connected: Instant, now: Instant) -> Duration {
        if now.saturating_duration_since(connected) >= GOOD {
            (self.failures, self.was_hasty) = (0, false);
        }
        if self.was_hasty {
            return self.after_failure();
        }
        self.was_hasty = true;
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_attempts_a_second_apart_are_followed_by_longer_waits() {
        let mut patience = Patience::default();
        for _ in 0..QUICK_ATTEMPTS {
            assert_eq!(patience.after_failure(), QUICK);
        }
        for full in [2, 4, 8, 10, 10, 10] {
            let wait = patience.after_failure();
            assert!(wait >= Duration::from_secs(full) / 2 && wait <= Duration::from_secs(full), "{wait:?} of {full}");
        }
    }

    #[test]
    fn a_connection_that_was_good_for_long_is_made_again_at_once_and_one_that_was_not_is_not() {
        let now = Instant::now();
        let mut patience = Patience::default();
        assert_eq!(patience.after_loss(now, now + QUICK), Duration::ZERO);
        assert_eq!(patience.after_loss(now, now + QUICK), QUICK);
        assert_eq!(patience.after_loss(now, now + GOOD), Duration::ZERO);
        assert_eq!(patience.after_failure(), QUICK);
    }
}
