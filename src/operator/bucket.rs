//! A token bucket, pure: how many things may happen, and when the next one may.
//!
//! Events and API calls are bounded by it. Time is an argument, so a test of an hour takes none.

use std::time::{Duration, Instant};

/// What a bucket allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// How many at once.
    pub burst: u32,
    /// How long until one more is allowed.
    pub every: Duration,
}

/// The bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    allowance: Allowance,
    /// When the bucket will have been filled up again; in the past when it is full.
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(allowance: Allowance, now: Instant) -> Self {
        Self { allowance, full_at: now }
    }

    /// Takes one if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.wait(now) > Duration::ZERO {
            return false;
        }
        self.reserve(now);
        true
    }

    /// Takes one, of the future if need be, and says how long to wait for it.
    pub fn reserve(&mut self, now: Instant) -> Duration {
        let wait = self.wait(now);
        self.full_at = self.full_at.max(now) + self.allowance.every;
        wait
    }

    /// Changes the allowance; what was taken stays taken, and never is there more than the new burst.
    pub fn allow(&mut self, allowance: Allowance, now: Instant) {
        let taken = self.full_at.saturating_duration_since(now).div_duration_f64(self.allowance.every);
        self.allowance = allowance;
        self.full_at = now + allowance.every.mul_f64(taken.min(f64::from(allowance.burst)));
    }

    /// Whether nothing is missing, so that the bucket can be forgotten.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    fn wait(&self, now: Instant) -> Duration {
        let capacity = self.allowance.every * self.allowance.burst.saturating_sub(1);
        self.full_at.saturating_duration_since(now).saturating_sub(capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWANCE: Allowance = Allowance { burst: 3, every: Duration::from_secs(10) };

    #[test]
    fn the_burst_passes_and_then_one_an_interval() {
        let start = Instant::now();
        let mut bucket = Bucket::new(ALLOWANCE, start);
        let passed: Vec<u64> = (0..60).filter(|second| bucket.take(start + Duration::from_secs(*second))).collect();
        assert_eq!(passed, [0, 1, 2, 10, 20, 30, 40, 50]);
    }

    #[test]
    fn reservations_queue_up_in_order() {
        let start = Instant::now();
        let mut bucket = Bucket::new(ALLOWANCE, start);
        let waits: Vec<u64> = (0..5).map(|_| bucket.reserve(start).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 10, 20]);
    }

    #[test]
    fn a_smaller_allowance_does_not_hand_out_a_new_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Allowance { burst: 100, every: Duration::from_millis(10) }, start);
        (0..100).for_each(|_| assert!(bucket.take(start)));
        bucket.allow(ALLOWANCE, start);
        assert!(!bucket.take(start));
        assert!(bucket.take(start + Duration::from_secs(10)));
    }
}
