//! What the limits decided, as numbers that belong to one rule of one limit.
//!
//! It must only count. The numbers outlive configurations with the buckets they are about.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use fusebox_policy::metrics::{DECISIONS, SOURCES};
use fusebox_policy::rate_limit::Counters;

/// What was decided about a request; in the order of [`DECISIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// It passed at once.
    Allowed,
    /// It passed after it had waited.
    Delayed,
    /// It was beyond the limit.
    Limited,
    /// Its client is refused for a time.
    Blocked,
    /// It has no key, or one without a quota.
    NoKey,
}

/// Who decided; in the order of [`SOURCES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decider {
    /// The buckets in this proxy.
    Proxy,
    /// The store.
    Store,
    /// What is done while the store does not answer.
    Fallback,
}

/// What a full bucket has left.
const WHOLE: u32 = 10_000;

/// The least that was left in a bucket since somebody last asked.
#[derive(Debug)]
pub(crate) struct Least(AtomicU32);

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// What most decisions are: allowed or limited by the proxy's own buckets.
    usual: Counters,
    rest: [[AtomicU64; SOURCES.len()]; DECISIONS.len()],
    overflow: AtomicU64,
    skipped: AtomicU64,
}

impl Default for Least {
    fn default() -> Self {
        Self(AtomicU32::new(WHOLE))
    }
}

impl Least {
    /// A bucket that holds `burst` has so much left.
    pub(crate) fn note(&self, remaining: u32, burst: u32) {
        let part = u64::from(remaining) * u64::from(WHOLE) / u64::from(burst.max(1));
        let part = u32::try_from(part).unwrap_or(WHOLE);
        // Most find that it is not the least, and write nothing.
        if part < self.0.load(Relaxed) {
            self.0.fetch_min(part, Relaxed);
        }
    }

    /// The least so far, 0 to 1; from now on others count.
    pub(crate) fn take(&self) -> f64 {
        f64::from(self.0.swap(WHOLE, Relaxed)) / f64::from(WHOLE)
    }
}

impl Counts {
    /// Counts a decision.
    pub(crate) fn count(&self, decided: Decided, decider: Decider) {
        match (decided, decider) {
            (Decided::Allowed, Decider::Proxy) => self.usual.allowed(),
            (Decided::Limited, Decider::Proxy) => self.usual.limited(),
            _ => {
                self.rest[decided as usize][decider as usize].fetch_add(1, Relaxed);
            }
        }
    }

    /// Counts a request that spent from the bucket which keys without a place share.
    pub(crate) fn overflowed(&self) {
        self.overflow.fetch_add(1, Relaxed);
    }

    /// How often that happened.
    pub(crate) fn overflow(&self) -> u64 {
        self.overflow.load(Relaxed)
    }

    /// Counts a request in Shadow on which the store was not asked, because too many such questions were under way.
    pub(crate) fn skipped(&self) {
        self.skipped.fetch_add(1, Relaxed);
    }

    /// How often that happened.
    pub(crate) fn skips(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    /// Requests that passed, those that waited among them.
    pub(crate) fn allowed(&self) -> u64 {
        self.of(Decided::Allowed) + self.delayed()
    }

    /// Requests that passed after they had waited.
    pub(crate) fn delayed(&self) -> u64 {
        self.of(Decided::Delayed)
    }

    /// Requests that were refused.
    pub(crate) fn limited(&self) -> u64 {
        [Decided::Limited, Decided::Blocked, Decided::NoKey].into_iter().map(|refused| self.of(refused)).sum()
    }

    /// Decisions as (decision, source, count). Those of the proxy itself are there from the beginning, so that the first
    /// one shows as an increase.
    pub(crate) fn decisions(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        self.all().into_iter().zip(DECISIONS).flat_map(|(sources, decision)| {
            sources.into_iter().zip(SOURCES).filter_map(move |(count, source)| {
                (count > 0 || source == SOURCES[0]).then_some((decision, source, count))
            })
        })
    }

    fn of(&self, decided: Decided) -> u64 {
        self.all()[decided as usize].iter().sum()
    }

    fn all(&self) -> [[u64; SOURCES.len()]; DECISIONS.len()] {
        let usual = self.usual.counts();
        let mut all = self.rest.each_ref().map(|sources| sources.each_ref().map(|count| count.load(Relaxed)));
        all[Decided::Allowed as usize][Decider::Proxy as usize] += usual.allowed;
        all[Decided::Limited as usize][Decider::Proxy as usize] += usual.limited;
        all
    }
}

#[cfg(test)]
mod tests {
    use fusebox_policy::metrics::{
        DECISION_ALLOWED, DECISION_BLOCKED, DECISION_DELAYED, DECISION_LIMITED, DECISION_NO_KEY, SOURCE_FALLBACK,
        SOURCE_PROXY, SOURCE_STORE,
    };

    use super::*;

    #[test]
    fn decisions_and_deciders_stand_in_the_order_of_their_words() {
        let decisions = [
            (Decided::Allowed, DECISION_ALLOWED),
            (Decided::Delayed, DECISION_DELAYED),
            (Decided::Limited, DECISION_LIMITED),
            (Decided::Blocked, DECISION_BLOCKED),
            (Decided::NoKey, DECISION_NO_KEY),
        ];
        let deciders =
            [(Decider::Proxy, SOURCE_PROXY), (Decider::Store, SOURCE_STORE), (Decider::Fallback, SOURCE_FALLBACK)];
        for (decided, word) in decisions {
            for (decider, source) in deciders {
                let counts = Counts::default();
                counts.count(decided, decider);
                assert!(counts.decisions().any(|found| found == (word, source, 1)));
            }
        }
    }

    #[test]
    fn the_least_is_told_once() {
        let least = Least::default();
        for (remaining, burst) in [(9, 10), (3, 10), (5, 10), (7, 2)] {
            least.note(remaining, burst);
        }
        assert_eq!((least.take(), least.take()), (0.3, 1.0));
    }

    #[test]
    fn what_waited_was_allowed_and_every_refusal_is_limited() {
        let counts = Counts::default();
        for decided in [Decided::Allowed, Decided::Delayed, Decided::Limited, Decided::Blocked, Decided::NoKey] {
            counts.count(decided, Decider::Proxy);
        }
        assert_eq!((counts.allowed(), counts.delayed(), counts.limited()), (2, 1, 3));
        assert_eq!(counts.decisions().count(), DECISIONS.len());
    }
}
