//! Those that wait for one bucket.
//!
//! It must not know other buckets. The last turn is when the bucket's last reservation is ready, and the others lie before it by
//! what those after them weigh; so that whoever leaves brings all after it forward, and no turn is ever before the bucket allows it.

use std::time::{Duration, Instant};

use super::{Entry, MAX_PRIORITY, SHARE_OF_LOWER, Turn};

/// Waiters of one bucket, in the order in which they came.
#[derive(Debug)]
pub(super) struct Line<W> {
    waiters: Vec<Waiter<W>>,
    /// When all of them may have passed.
    end: Option<Instant>,
    interval: Duration,
    /// How long an empty bucket takes to fill.
    fill: Duration,
    /// Turns since one was for those of lower priority.
    passed_over: u32,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Waiter<W> {
    number: u64,
    priority: u8,
    cost: u32,
    deadline: Instant,
    waiter: W,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self { waiters: Vec::new(), end: None, interval: Duration::ZERO, fill: Duration::ZERO, passed_over: 0 }
    }
}

impl<W> Waiter<W> {
    pub(super) fn new(entry: &Entry, (number, waiter): (u64, W), now: Instant) -> Self {
        let deadline = now + entry.max_delay;
        Self { number, priority: entry.priority.min(MAX_PRIORITY), cost: entry.cost, deadline, waiter }
    }
}

impl<W> Line<W> {
    pub(super) fn enter(&mut self, waiter: Waiter<W>, (entry, now): (&Entry, Instant)) -> Option<()> {
        self.waiters.push(waiter);
        (self.interval, self.fill) = (entry.rate.interval(), entry.rate.fill());
        self.end = now.checked_add(entry.wait).or(self.end);
        Some(())
    }

    pub(super) fn displace(&mut self, cost: u32, priority: u8) -> Option<W> {
        let goes = self.must_go(priority)?;
        let last = self.waiters.iter().rposition(|waiter| waiter.priority == goes && waiter.cost >= cost)?;
        Some(self.take(last).waiter)
    }

    pub(super) fn leave(&mut self, number: u64) -> Option<W> {
        let place = self.waiters.iter().position(|waiter| waiter.number == number)?;
        Some(self.take(place).waiter)
    }

    /// Lets pass whose turn has come, then finds those that have waited as long as they may; whether there were any.
    pub(super) fn due(&mut self, now: Instant, turns: &mut Vec<Turn<W>>) -> bool {
        let before = turns.len();
        while let Some(next) = self.next().filter(|next| self.turn_of(*next).is_some_and(|turn| turn <= now)) {
            let lower = self.waiters.iter().any(|waiter| waiter.priority < self.waiters[next].priority);
            self.passed_over = if lower { self.passed_over + 1 } else { 0 };
            self.make_up_for(next, now);
            turns.push(Turn::Passes(self.waiters.remove(next).waiter));
        }
        while let Some(late) = self.waiters.iter().position(|waiter| waiter.deadline < now) {
            turns.push(Turn::Overdue(self.take(late).waiter));
        }
        turns.len() > before
    }

    /// Puts off all turns by what the bucket lost because this one came late: while it was full, nothing was refilled.
    fn make_up_for(&mut self, waiter: usize, now: Instant) {
        let spare = self.fill.saturating_sub(self.interval.saturating_mul(self.waiters[waiter].cost));
        let late = self.turn_of(waiter).map(|turn| now.saturating_duration_since(turn)).unwrap_or_default();
        let lost = late.saturating_sub(spare);
        self.end = self.end.map(|end| end.checked_add(lost).unwrap_or(end));
    }

    /// The next turn, or the moment after the first deadline.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let turn = self.next().and_then(|next| self.turn_of(next));
        let late = self.waiters.iter().map(|waiter| waiter.deadline).min();
        let late = late.and_then(|late| late.checked_add(Duration::from_nanos(1)));
        turn.into_iter().chain(late).min()
    }

    /// Whose turn is next: the oldest of the highest priority, unless it is one for the others.
    fn next(&self) -> Option<usize> {
        let highest = self.top()?;
        let top = self.waiters.iter().position(|waiter| waiter.priority == highest)?;
        let lower = self.waiters.iter().position(|waiter| waiter.priority < highest);
        Some(lower.filter(|lower| self.is_for_lower((top, *lower))).unwrap_or(top))
    }

    /// Every tenth turn is for the others; and the last one in time for one of them, while they are no more than their share.
    fn is_for_lower(&self, (top, lower): (usize, usize)) -> bool {
        let others = self.waiters.len() - self.count(self.waiters[top].priority);
        let cost = self.waiters[top].cost.saturating_add(self.waiters[lower].cost);
        let too_late = || self.turn(cost).is_some_and(|turn| turn > self.waiters[lower].deadline);
        self.passed_over + 1 >= SHARE_OF_LOWER || (others <= self.share() && too_late())
    }

    fn turn_of(&self, waiter: usize) -> Option<Instant> {
        self.turn(self.waiters[waiter].cost)
    }

    /// When so much may pass from now on: before the end by what all others weigh.
    fn turn(&self, cost: u32) -> Option<Instant> {
        let all: u64 = self.waiters.iter().map(|waiter| u64::from(waiter.cost)).sum();
        let others = u32::try_from(all.saturating_sub(cost.into())).unwrap_or(u32::MAX);
        // Where that is before time began, it may pass at once.
        let end = self.end?;
        Some(self.interval.checked_mul(others).and_then(|before| end.checked_sub(before)).unwrap_or(end))
    }

    /// The priority of which one must go for one of this priority, if one must.
    fn must_go(&self, priority: u8) -> Option<u8> {
        let below = |priority: u8| self.waiters.iter().filter(|waiter| waiter.priority < priority).count();
        if below(priority) > self.share() {
            return self.lowest();
        }
        self.top().filter(|top| *top > priority && below(*top) < self.share())
    }

    /// How many places those of lower priority have for sure.
    fn share(&self) -> usize {
        let waiting = self.waiters.len();
        (waiting / SHARE_OF_LOWER as usize).max(usize::from(waiting > 1))
    }

    fn top(&self) -> Option<u8> {
        self.waiters.iter().map(|waiter| waiter.priority).max()
    }

    fn lowest(&self) -> Option<u8> {
        self.waiters.iter().map(|waiter| waiter.priority).min()
    }

    fn count(&self, priority: u8) -> usize {
        self.waiters.iter().filter(|waiter| waiter.priority == priority).count()
    }

    /// Takes one out that has not passed: what it spent is given back, and brings the others forward.
    fn take(&mut self, place: usize) -> Waiter<W> {
        let waiter = self.waiters.remove(place);
        let before = self.interval.checked_mul(waiter.cost);
        self.end = self.end.and_then(|end| before.and_then(|before| end.checked_sub(before)).or(Some(end)));
        waiter
    }
}
