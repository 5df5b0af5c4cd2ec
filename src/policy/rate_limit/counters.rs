//! How many requests a limit let pass, refused and delayed, counted by many threads.
//!
//! It must not decide anything. Each thread counts on a stripe of its own, because one number that all write to would cost
//! more than the decision that it counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::threads::thread_number;

/// More cost memory, fewer make threads meet.
const STRIPES: usize = 8;

/// Counters of one rule of one limit.
#[derive(Debug, Default)]
pub struct Counters([Stripe; STRIPES]);

/// What was counted since the counters were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that passed, delayed ones among them.
    pub allowed: u64,
    /// Requests that were refused.
    pub limited: u64,
    /// Requests that waited, whatever came of them.
    pub delayed: u64,
}

/// Two cache lines wide, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    allowed: AtomicU64,
    limited: AtomicU64,
    delayed: AtomicU64,
}

impl Counters {
    /// Counts a request that passed.
    #[inline]
    pub fn allowed(&self) {
        self.stripe().allowed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was refused.
    #[inline]
    pub fn limited(&self) {
        self.stripe().limited.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that begins to wait.
    #[inline]
    pub fn delayed(&self) {
        self.stripe().delayed.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far; requests that are being counted may be missing.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.iter().fold(Counts::default(), |counts, stripe| Counts {
            allowed: counts.allowed + stripe.allowed.load(Ordering::Relaxed),
            limited: counts.limited + stripe.limited.load(Ordering::Relaxed),
            delayed: counts.delayed + stripe.delayed.load(Ordering::Relaxed),
        })
    }

    #[inline]
    fn stripe(&self) -> &Stripe {
        &self.0[thread_number() % STRIPES]
    }
}
