//! Where threads count good requests without a lock, each on a cache line of its own.
//!
//! It must not know what a breaker is: whoever holds the breaker's lock opens the stripes for requests
//! that can decide nothing, and closes them to take what was counted. A request is counted either before
//! they close or not at all, so that every one is in exactly one epoch and the result is as if each had
//! taken the lock. This is what keeps two threads on one breaker from waiting for each other.

use std::time::{Duration, Instant};

use super::sync::{AtomicU64, Ordering, STRIPES, my_stripe};

/// A tally that takes no request.
const CLOSED: u64 = 0;

/// The low bits of a tally are a count, the others the epoch plus one.
const COUNT_BITS: u32 = 24;
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

/// The stripes of one breaker.
#[derive(Debug)]
pub(super) struct Stripes([Stripe; STRIPES]);

/// One of them, with all that counting one request reads. Two cache lines wide, because processors
/// fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    /// [`CLOSED`], or the epoch in which requests are counted and how many were.
    tally: AtomicU64,
    /// Requests that end then or later are not counted here; in nanoseconds after `origin`.
    until: AtomicU64,
    origin: Instant,
    /// Nor are requests that took so long.
    slower_than: Duration,
}

impl Stripes {
    /// Closed ones. Requests that took `slower_than` are never counted here, and times are told after `origin`.
    pub(super) fn new(slower_than: Option<Duration>, origin: Instant) -> Self {
        let slower_than = slower_than.unwrap_or(Duration::MAX);
        Self(std::array::from_fn(|_| Stripe {
            tally: AtomicU64::new(CLOSED),
            until: AtomicU64::new(0),
            origin,
            slower_than,
        }))
    }

    /// The epoch for which this thread's stripe is open, if it is.
    #[inline]
    pub(super) fn epoch(&self) -> Option<u64> {
        let tally = self.0[my_stripe()].tally.load(Ordering::Acquire);
        (tally != CLOSED).then(|| (tally >> COUNT_BITS) - 1)
    }

    /// Counts a request of `epoch` that succeeded at `now`; false if it was not, and the lock must be taken.
    #[inline]
    pub(super) fn count(&self, epoch: u64, took: Duration, now: Instant) -> bool {
        let stripe = &self.0[my_stripe()];
        if took >= stripe.slower_than {
            return false;
        }
        let now = since(stripe.origin, now);
        loop {
            let tally = stripe.tally.load(Ordering::Acquire);
            let open = tally >> COUNT_BITS == epoch.wrapping_add(1) && tally != CLOSED && tally & MAX_COUNT < MAX_COUNT;
            // Read after the tally: an end that is newer than the tally means that the tally has been
            // closed since, and the exchange fails.
            if !open || now >= stripe.until.load(Ordering::Acquire) {
                return false;
            }
            if stripe.tally.compare_exchange(tally, tally + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
    }

    /// Closes all of them; how many requests were counted since they were opened. With the lock held.
    pub(super) fn close(&self) -> u64 {
        let close = |stripe: &Stripe| stripe.tally.swap(CLOSED, Ordering::AcqRel) & MAX_COUNT;
        self.0.iter().map(close).sum()
    }

    /// Opens all of them for requests of `epoch` that end before `until`. With the lock held, after [`Stripes::close`].
    pub(super) fn open(&self, epoch: u64, until: Option<Instant>) {
        for stripe in &self.0 {
            let until = until.map_or(u64::MAX, |until| since(stripe.origin, until));
            stripe.until.store(until, Ordering::Release);
            stripe.tally.store((epoch + 1) << COUNT_BITS, Ordering::Release);
        }
    }
}

/// Nanoseconds from one moment to a later one, for 584 years.
#[inline]
fn since(origin: Instant, now: Instant) -> u64 {
    let since = now.saturating_duration_since(origin);
    since.as_secs().saturating_mul(1_000_000_000).saturating_add(since.subsec_nanos().into())
}
