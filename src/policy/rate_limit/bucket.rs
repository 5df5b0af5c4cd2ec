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
    /// When something was spent last.
    spent_at: u64,
    interval: u64,
    /// All that was ever spent, in requests; from a number of its own on, and wrapping.
    spent: u32,
    burst: u32,
    /// What those weigh that wait. It is spent when each of them has its turn, and nobody else may have it until then.
    ahead: u32,
    /// Where its holder lists it, which says nothing here: kept among the rest, it fills a gap that alignment leaves.
    pub(super) position: u32,
    blocked_until: u64,
}

/// What a request spent or will spend, to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spending {
    /// It passed.
    Spent {
        /// In nanoseconds of filling.
        weight: u64,
        /// [`Bucket::spent`] after it.
        spent: u32,
    },
    /// It waits, and weighs so much.
    Ahead(u32),
}

/// Added to what was spent where earlier spendings must not be given back any more. Far more than any bucket holds, and odd: it
/// takes a great number of such changes to make an earlier spending look like a late one.
const VOID: u32 = 0x1d8a_f067;

/// Whether what a request weighs is spent where it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    Spend,
    /// Another limit has refused the request already.
    Look,
}

impl Bucket {
    pub(super) fn full(rate: &Rate, now: u64) -> Self {
        // Different for each bucket that a key has in turn.
        #[allow(clippy::cast_possible_truncation, reason = "the two halves are folded")]
        let spent = (now as u32 ^ (now >> 32) as u32).wrapping_mul(VOID);
        let (interval, burst) = (rate.interval_ns(), rate.burst());
        Self { full_at: now, spent_at: now, interval, spent, burst, ahead: 0, position: 0, blocked_until: 0 }
    }

    /// One that is full at `full_at`, but never emptier than empty.
    pub(super) fn full_at(rate: &Rate, full_at: u64, now: u64) -> Self {
        let latest = now.saturating_add(rate.fill_ns());
        Self { full_at: full_at.min(latest), ..Self::full(rate, now) }
    }

    pub(super) fn interval(&self) -> u64 {
        self.interval
    }

    /// From when on it says nothing of the past, so that forgetting it loses nothing.
    pub(super) fn settled_at(&self) -> u64 {
        self.full_then().max(self.blocked_until)
    }

    pub(super) fn blocked_until(&self) -> u64 {
        self.blocked_until
    }

    /// What it holds, in whole requests.
    pub(super) fn remaining(&self, now: u64) -> u32 {
        let fill = self.interval * u64::from(self.burst);
        // At most the burst, which is a u32.
        u32::try_from(fill.saturating_sub(self.full_then().saturating_sub(now)) / self.interval).unwrap_or(self.burst)
    }

    /// How long a request takes to be refilled, in nanoseconds; at the slower rate where its own is another than the bucket's.
    #[inline]
    pub(super) fn weight(&self, ask: &Ask) -> u64 {
        self.interval.max(ask.rate.interval_ns()).saturating_mul(ask.cost.into())
    }

    pub(super) fn is_blocked(&self, now: u64) -> bool {
        self.blocked_until > now
    }

    /// Names what was just spent, for [`Bucket::give_back`].
    #[inline]
    pub(super) fn spending(&self, ask: &Ask, verdict: &Verdict) -> Option<Spending> {
        match verdict.outcome {
            Outcome::Allowed => Some(Spending::Spent { weight: self.weight(ask), spent: self.spent }),
            Outcome::Delayed { .. } => Some(Spending::Ahead(ask.cost)),
            Outcome::Refused { .. } => None,
        }
    }

    /// Spends what one that waited weighs: its turn has come.
    pub(super) fn settle(&mut self, spending: Spending, now: u64) {
        if let Spending::Ahead(cost) = spending {
            self.ahead = self.ahead.saturating_sub(cost);
            self.spend((cost, self.interval.saturating_mul(cost.into())), now);
        }
    }

    /// When it is full, where those that wait have passed and nothing more is spent.
    #[inline]
    fn full_then(&self) -> u64 {
        self.full_at.saturating_add(self.interval.saturating_mul(self.ahead.into()))
    }

    pub(super) fn block(&mut self, until: u64) {
        self.blocked_until = self.blocked_until.max(until);
    }

    /// Full at once, and not blocked.
    pub(super) fn fill(&mut self, now: u64) {
        (self.full_at, self.ahead, self.blocked_until) = (now, 0, 0);
        self.void(now);
    }

    /// Undoes what was spent, as far as it is certain. Without it the bucket might have been full when something was spent
    /// later, and would have lost what it was refilled with by then: so what was spent later counts as if it all had been
    /// spent last, from a full bucket. Where nothing was spent since, that is exact; so it is for one that waited.
    pub(super) fn give_back(&mut self, spending: Spending) {
        let (weight, spent) = match spending {
            Spending::Spent { weight, spent } => (weight, spent),
            Spending::Ahead(cost) => {
                self.ahead = self.ahead.saturating_sub(cost);
                return;
            }
        };
        let since = self.spent.wrapping_sub(spent);
        if since == 0 {
            // The last one: it leaves no trace in what is said of those before it.
            let cost = u32::try_from(weight.div_ceil(self.interval)).unwrap_or(u32::MAX);
            self.spent = self.spent.wrapping_sub(cost);
        }
        let since = self.interval.saturating_mul(since.into());
        let least = self.spent_at.saturating_add(since).min(self.full_at);
        self.full_at = self.full_at.saturating_sub(weight).max(least);
    }

    /// Takes another rate: it holds as many requests as before, but never more than it can. Debts stay debts.
    pub(super) fn adopt(&mut self, rate: &Rate, now: u64) {
        if (self.interval, self.burst) == (rate.interval_ns(), rate.burst()) {
            return;
        }
        let (fill, new_fill) = (i128::from(self.interval) * i128::from(self.burst), i128::from(rate.fill_ns()));
        let level = fill + i128::from(now) - i128::from(self.full_at);
        // Rounded down, so that no change of a rate adds to a bucket. It can't overflow: 2^64 times 31 days is under 2^117.
        let new_level = (level * i128::from(rate.interval_ns())).div_euclid(i128::from(self.interval)).min(new_fill);
        let missing = u64::try_from(new_fill - new_level).unwrap_or(u64::MAX);
        self.full_at = now.saturating_add(missing.min(2 * in_ns(MAX_FILL)));
        (self.interval, self.burst) = (rate.interval_ns(), rate.burst());
        self.void(now);
    }

    /// Nothing that was spent before is given back from now on.
    fn void(&mut self, now: u64) {
        (self.spent_at, self.spent) = (now, self.spent.wrapping_add(VOID));
    }

    /// Decides on one request at `now`.
    #[inline]
    pub(super) fn ask(&mut self, ask: &Ask, intent: Intent, now: u64) -> Verdict {
        self.adopt(&ask.rate, now);
        let fill = ask.rate.fill_ns();
        self.lapse(now);
        let weight = self.weight(ask);
        let full_then = self.full_then().max(now).saturating_add(weight);
        let missing = full_then.saturating_sub(now.saturating_add(fill));
        let passes = missing == 0 && !self.is_blocked(now);
        let outcome = if passes { Outcome::Allowed } else { self.beyond(ask, missing, now) };
        match outcome {
            Outcome::Allowed if intent == Intent::Spend => self.spend((ask.cost, weight), now),
            Outcome::Delayed { .. } if intent == Intent::Spend => self.ahead = self.ahead.saturating_add(ask.cost),
            Outcome::Allowed | Outcome::Delayed { .. } | Outcome::Refused { .. } => {}
        }
        self.verdict(outcome, now)
    }

    /// Who waited and neither passed nor left does not count for ever: only until all might have passed, and the bucket be full.
    #[inline]
    fn lapse(&mut self, now: u64) {
        if self.ahead > 0 && self.full_then() <= now {
            (self.full_at, self.ahead) = (self.full_then(), 0);
        }
    }

    /// Decides on a request of one of many keys that share the bucket, whatever their rates: none of them gets more than its
    /// own rate, which may be slower, and all together no more than the bucket's. Nobody waits or is blocked for another's deeds.
    pub(super) fn ask_shared(&mut self, ask: &Ask, intent: Intent, now: u64) -> Verdict {
        let depth = ask.rate.fill_ns().min(self.interval * u64::from(self.burst));
        let full_then = self.full_at.max(now).saturating_add(self.weight(ask));
        let missing = full_then.saturating_sub(now.saturating_add(depth));
        if missing > 0 {
            let possible = ask.cost <= ask.rate.burst();
            let retry_after = possible.then(|| Duration::from_nanos(missing));
            return self.verdict(Outcome::Refused { refusal: Refusal::OverLimit, retry_after }, now);
        }
        if intent == Intent::Spend {
            let weight = self.weight(ask);
            self.spend((u32::try_from(weight.div_ceil(self.interval)).unwrap_or(u32::MAX), weight), now);
        }
        self.verdict(Outcome::Allowed, now)
    }

    /// What a request finds that weighs nothing.
    pub(super) fn look(&mut self, rate: &Rate, now: u64) -> Verdict {
        self.adopt(rate, now);
        self.verdict(Outcome::Allowed, now)
    }

    #[inline]
    fn spend(&mut self, (cost, weight): (u32, u64), now: u64) {
        self.full_at = self.full_at.max(now).saturating_add(weight);
        (self.spent_at, self.spent) = (now, self.spent.wrapping_add(cost));
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
        let reset_after = Duration::from_nanos(self.full_then().saturating_sub(now));
        Verdict { outcome, remaining: self.remaining(now), reset_after }
    }
}
