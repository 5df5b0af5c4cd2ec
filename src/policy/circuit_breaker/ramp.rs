//! How traffic comes back after a recovery: a share of it that grows from a tenth to all.
//!
//! It must not draw lots: requests that pass are spaced evenly among those that ask, because what has
//! just recovered is felled again by a burst, and a share left to chance has bursts.

use std::time::{Duration, Instant};

/// The share that passes at first is one in this many.
const FIRST_SHARE: u64 = 10;

/// A ramp under way. After `t` of its length `T` the share that passes is `(1 + 9 t / T) / 10`. Each
/// request that asks adds the share of its moment to an account, and passes when that holds a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ramp {
    began: Instant,
    /// In nanoseconds, not 0.
    length: u64,
    /// In units of `1 / (FIRST_SHARE x length)`, so that every share is whole.
    account: u64,
}

impl Ramp {
    /// One that begins now, and lets the first request pass; none where `length` is zero.
    pub(super) fn begin(length: Duration, now: Instant) -> Option<Self> {
        let length = nanoseconds(length);
        (length > 0).then_some(Self { began: now, length, account: (FIRST_SHARE - 1) * length })
    }

    /// One that began then, with this on its account.
    pub(super) fn resume(length: Duration, began: Instant, account: u64) -> Option<Self> {
        Self::begin(length, began).map(|ramp| Self { account, ..ramp })
    }

    /// The account is never over this.
    pub(super) fn most_on_account(length: Duration) -> u64 {
        FIRST_SHARE * nanoseconds(length)
    }

    /// What is on its account.
    pub(super) fn account(&self) -> u64 {
        self.account
    }

    /// From then on everything passes.
    pub(super) fn end(&self) -> Instant {
        let length = Duration::from_nanos(self.length);
        self.began.checked_add(length).unwrap_or(self.began)
    }

    /// Whether this request, which asks now, passes.
    pub(super) fn lets_pass(&mut self, now: Instant) -> bool {
        let whole = FIRST_SHARE * self.length;
        let elapsed = nanoseconds(now.saturating_duration_since(self.began)).min(self.length);
        self.account += self.length + (FIRST_SHARE - 1) * elapsed;
        let passes = self.account >= whole;
        if passes {
            self.account -= whole;
        }
        passes
    }
}

/// Saturating after 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
