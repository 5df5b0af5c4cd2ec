//! One bucket: the generic cell rate algorithm (ITU-T I.371, annex A) on nanoseconds.
//!
//! It must not know whose bucket it is, nor where it stands. Times are numbers that never go back; whoever holds the bucket
//! sees to that.

use std::time::Duration;

use super::rate::{MAX_FILL, Rate, in_ns};
use super::verdict::{Ask, Exceed, Outcome, Refusal, Verdict};

/// A bucket of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// When it is full (again), where nothing more is spent: the theoretical arrival time. In the past it also says for
    /// how long it has been full, which a larger bucket would have filled with.
    full_at: u64,
    /// When it was last full as something was spent. What is given back counts only if it was spent since then: a bucket
    /// that has been full meanwhile has made up for it already.
    period: u64,
    interval: u64,
    burst: u32,
    blocked_until: u64,
}

/// Whether what a request weighs is spent where it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Spend,
    /// Another limit has refused the request already.
    Look,
}

impl Bucket {
    pub(super) fn full(rate: &Rate, now: u64) -> Self {
        Self { full_at: now, period: now, interval: rate.interval_ns(), burst: rate.burst(), blocked_until: 0 }
    }

    /// From when on it says nothing of the past, so that forgetting it loses nothing.
    pub(super) fn settled_at(&self) -> u64 {
        self.full_at.max(self.blocked_until)
    }

    pub(super) fn blocked_until(&self) -> u64 {
        self.blocked_until
    }

    /// What it holds, in whole requests.
    pub(super) fn remaining(&self, now: u64) -> u32 {
        let fill = self.interval * u64::from(self.burst);
        // At most the burst, which is a u32.
        u32::try_from(fill.saturating_sub(self.full_at.saturating_sub(now)) / self.interval).unwrap_or(self.burst)
    }

    /// How long a request takes to be refilled, in nanoseconds; at the slower rate where its own is another than the bucket's.
    #[inline]
    pub(super) fn weight(&self, ask: &Ask) -> u64 {
        self.interval.max(ask.rate.interval_ns()).saturating_mul(ask.cost.into())
    }

    pub(super) fn is_blocked(&self, now: u64) -> bool {
        self.blocked_until > now
    }

    /// Names what is spent now, for [`Bucket::give_back`].
    pub(super) fn period(&self) -> u64 {
        self.period
    }

    pub(super) fn block(&mut self, until: u64) {
        self.blocked_until = self.blocked_until.max(until);
    }

    /// Full at once, and not blocked.
    pub(super) fn fill(&mut self, now: u64) {
        (self.full_at, self.period, self.blocked_until) = (now, now, 0);
    }

    /// Undoes what was spent in `period`. Exact while the bucket has not been full since; afterwards nothing is owed.
    pub(super) fn give_back(&mut self, period: u64, weight: u64) {
        if period == self.period {
            self.full_at = self.full_at.saturating_sub(weight);
        }
    }

    /// Takes another rate: it holds as many requests as before, but never more than it can. Debts stay debts.
    pub(super) fn adopt(&mut self, rate: &Rate, now: u64) {
        if (self.interval, self.burst) == (rate.interval_ns(), rate.burst()) {
            return;
        }
        let (fill, new_fill) = (i128::from(self.interval) * i128::from(self.burst), i128::from(in_ns(rate.fill())));
        let level = fill + i128::from(now) - i128::from(self.full_at);
        // Rounded down, so that no change of a rate adds to a bucket. It can't overflow: 2^64 times 31 days is under 2^117.
        let new_level = (level * i128::from(rate.interval_ns())).div_euclid(i128::from(self.interval)).min(new_fill);
        let missing = u64::try_from(new_fill - new_level).unwrap_or(u64::MAX);
        self.full_at = now.saturating_add(missing.min(2 * in_ns(MAX_FILL)));
        (self.period, self.interval, self.burst) = (now, rate.interval_ns(), rate.burst());
    }

    /// Decides on one request at `now`.
    #[inline]
    pub(super) fn ask(&mut self, ask: &Ask, intent: Intent, now: u64) -> Verdict {
        self.adopt(&ask.rate, now);
        let fill = in_ns(ask.rate.fill());
        let full_then = self.full_at.max(now).saturating_add(self.weight(ask));
        let missing = full_then.saturating_sub(now.saturating_add(fill));
        let passes = missing == 0 && !self.is_blocked(now);
        let outcome = if passes { Outcome::Allowed } else { self.beyond(ask, missing, now) };
        if intent == Intent::Spend && !matches!(outcome, Outcome::Refused { .. }) {
            self.spend(full_then, now);
        }
        self.verdict(outcome, now)
    }

    /// Decides on a request of one of many keys that share the bucket, whatever their rates: none of them gets more than its
    /// own rate, which may be slower, and all together no more than the bucket's. Nobody waits or is blocked for another's deeds.
    pub(super) fn ask_shared(&mut self, ask: &Ask, intent: Intent, now: u64) -> Verdict {
        let depth = in_ns(ask.rate.fill()).min(self.interval * u64::from(self.burst));
        let full_then = self.full_at.max(now).saturating_add(self.weight(ask));
        let missing = full_then.saturating_sub(now.saturating_add(depth));
        if missing > 0 {
            let possible = ask.cost <= ask.rate.burst();
            let retry_after = possible.then(|| Duration::from_nanos(missing));
            return self.verdict(Outcome::Refused { refusal: Refusal::OverLimit, retry_after }, now);
        }
        if intent == Intent::Spend {
            self.spend(full_then, now);
        }
        self.verdict(Outcome::Allowed, now)
    }

    /// What a request finds that weighs nothing.
    pub(super) fn look(&mut self, rate: &Rate, now: u64) -> Verdict {
        self.adopt(rate, now);
        self.verdict(Outcome::Allowed, now)
    }

    #[inline]
    fn spend(&mut self, full_then: u64, now: u64) {
        if self.full_at <= now {
            self.period = now;
        }
        self.full_at = full_then;
    }

    /// What becomes of a request that `missing` nanoseconds of filling keep from passing.
    #[cold]
    fn beyond(&mut self, ask: &Ask, missing: u64, now: u64) -> Outcome {
        let was_blocked = self.is_blocked(now);
        let possible = ask.cost <= self.burst;
        match ask.exceed {
            Exceed::Delay(longest) if possible && !was_blocked && missing <= in_ns(longest) => {
                return Outcome::Delayed { wait: Duration::from_nanos(missing) };
            }
            Exceed::Block(time) if !was_blocked => self.block(now.saturating_add(in_ns(time))),
            Exceed::Refuse | Exceed::Block(_) | Exceed::Delay(_) => {}
        }
        let refusal = match (was_blocked, self.is_blocked(now)) {
            (true, _) => Refusal::Blocked,
            (false, true) => Refusal::BlockBegins,
            (false, false) => Refusal::OverLimit,
        };
        let wait = missing.max(self.blocked_until.saturating_sub(now));
        Outcome::Refused { refusal, retry_after: possible.then(|| Duration::from_nanos(wait)) }
    }

    #[inline]
    fn verdict(&self, outcome: Outcome, now: u64) -> Verdict {
        let reset_after = Duration::from_nanos(self.full_at.saturating_sub(now));
        Verdict { outcome, remaining: self.remaining(now), reset_after }
    }
}
