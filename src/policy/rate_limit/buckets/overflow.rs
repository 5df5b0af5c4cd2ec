//! The bucket of keys for which a table has no place.
//!
//! It must not be a way around a key's own bucket: what a key spends here is remembered, with that of others in one of a fixed
//! number of cells, and the bucket that it is given later begins with it.

use super::super::bucket::{Bucket, Intent, Spending};
use super::super::rate::Rate;
use super::super::verdict::{Ask, Verdict};

/// Few keys pass here at once, since all of them share one rate: so few meet in a cell.
const CELLS: usize = 4_096;

/// The one bucket, and who spent from it.
#[derive(Debug)]
pub(super) struct Overflow {
    latest: u64,
    bucket: Bucket,
    /// When the buckets of a cell's keys would be full, had they had any. Empty until the first key without a place.
    spent: Vec<u64>,
    /// The latest of them.
    latest_spent: u64,
}

impl Overflow {
    pub(super) fn new(rate: &Rate) -> Self {
        Self { latest: 0, bucket: Bucket::full(rate, 0), spent: Vec::new(), latest_spent: 0 }
    }

    /// Decides for a key without a place; what it spent, where it passes.
    pub(super) fn ask(&mut self, hash: u64, (ask, intent): (&Ask, Intent), now: u64) -> (Verdict, Option<Spending>) {
        let now = self.at(now);
        let verdict = self.bucket.ask_shared(ask, intent, now);
        if intent == Intent::Look || verdict.is_refused() {
            return (verdict, None);
        }
        self.remember((hash, self.bucket.weight(ask)), now);
        (verdict, self.bucket.spending(ask, &verdict))
    }

    /// When the bucket of a key is full that is given one now.
    #[inline]
    pub(super) fn full_at(&self, hash: u64, now: u64) -> u64 {
        if self.latest_spent <= now {
            return now;
        }
        self.spent.get(cell(hash)).map_or(now, |spent| now.max(*spent))
    }

    /// Undoes what was spent. The cell keeps it, which can refuse too much for a moment, never allow too much.
    pub(super) fn give_back(&mut self, spending: Spending) {
        self.bucket.give_back(spending);
    }

    /// Takes the rule's own rate.
    pub(super) fn adopt(&mut self, rate: &Rate, now: u64) {
        let now = self.at(now);
        let (before, after) = (u128::from(self.bucket.interval()), u128::from(rate.interval_ns()));
        self.bucket.adopt(rate, now);
        for spent in &mut self.spent {
            let left = u128::from(spent.saturating_sub(now));
            let left = u64::try_from((left * after).div_ceil(before)).unwrap_or(u64::MAX);
            *spent = now.saturating_add(left);
        }
        self.latest_spent = self.spent.iter().copied().max().unwrap_or_default();
    }

    fn remember(&mut self, (hash, weight): (u64, u64), now: u64) {
        if self.spent.is_empty() {
            self.spent = vec![0; CELLS];
        }
        let spent = &mut self.spent[cell(hash)];
        *spent = now.max(*spent).saturating_add(weight);
        self.latest_spent = self.latest_spent.max(*spent);
    }

    fn at(&mut self, now: u64) -> u64 {
        self.latest = self.latest.max(now);
        self.latest
    }
}

#[allow(clippy::cast_possible_truncation, reason = "only the low bits choose")]
fn cell(hash: u64) -> usize {
    (hash >> 48) as usize % CELLS
}
