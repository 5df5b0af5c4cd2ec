//! When a policy's status is looked at and written, pure: time is an argument.
//!
//! A first change is written at once, then at most one write each two seconds, and always the last
//! state in the end. Whoever says a thousand times a second that something changed costs one look
//! each tenth of a second.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// Between two writes of one status, at least.
pub const WRITE_EVERY: Duration = Duration::from_secs(2);

/// Between two writes of one status of which only measured numbers differ, at least.
pub const REFRESH_EVERY: Duration = Duration::from_secs(30);

/// Between two looks at one policy, at least.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Statuses written at once, at most.
pub const MAX_RUNNING: usize = 4;

/// The delays of a status that can't be written.
const BACKOFF: Backoff = Backoff { base: WRITE_EVERY, max: Duration::from_secs(20), jitter_percent: 20 };

/// How a status differs from the one that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Not at all.
    None,
    /// In measured numbers only.
    Numbers,
    /// In a state, a condition, or anything else that somebody waits for.
    Transition,
}

/// What to do about a difference now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write it.
    Write,
    /// Nothing now; there will be another look if it is needed.
    Wait,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It stands.
    Done,
    /// It may or may not stand.
    Failed,
}

/// The pace of every policy.
#[derive(Debug)]
pub struct Pacing<K> {
    entries: BTreeMap<K, Entry>,
    due: BTreeSet<(Instant, K)>,
    running: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    due: Option<Instant>,
    looked: Option<Instant>,
    wrote: Option<Instant>,
    failures: u32,
    running: bool,
    again: bool,
}

impl<K> Default for Pacing<K> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), due: BTreeSet::new(), running: 0 }
    }
}

impl<K: Clone + Ord + std::hash::Hash> Pacing<K> {
    /// Says that a policy's status may differ now.
    pub fn touch(&mut self, key: K, now: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.running {
            entry.again = true;
            return;
        }
        let earliest = entry.looked.map_or(now, |looked| now.max(looked + LOOK_EVERY));
        self.schedule(key, earliest);
    }

    /// Says that a policy's status may differ at that time although nothing happens until then.
    pub fn touch_at(&mut self, key: K, at: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.running {
            // The look that follows the write says so again.
            entry.again = true;
            return;
        }
        self.schedule(key, at);
    }

    /// Takes a policy whose turn it is to be looked at; [`Pacing::looked`] must follow.
    pub fn take(&mut self, now: Instant) -> Option<K> {
        if self.is_busy() || self.next_due()? > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.due = None;
            entry.looked = Some(now);
        }
        Some(key)
    }

    /// Takes what the look found. After [`Decision::Write`], [`Pacing::wrote`] must follow.
    pub fn looked(&mut self, key: &K, difference: Difference, now: Instant) -> Decision {
        let Some(entry) = self.entries.get_mut(key) else {
            return Decision::Wait;
        };
        let every = match difference {
            Difference::None => return Decision::Wait,
            Difference::Numbers => REFRESH_EVERY,
            Difference::Transition => WRITE_EVERY.max(BACKOFF.delay(entry.failures, key)),
        };
        match entry.wrote.map(|wrote| wrote + every).filter(|allowed| *allowed > now) {
            Some(allowed) => {
                self.schedule(key.clone(), allowed);
                Decision::Wait
            }
            None => {
                entry.running = true;
                entry.again = false;
                self.running += 1;
                Decision::Write
            }
        }
    }

    /// Takes how a write ended.
    pub fn wrote(&mut self, key: &K, written: Written, now: Instant) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.running) else {
            return;
        };
        self.running -= 1;
        entry.running = false;
        entry.wrote = Some(now);
        let failed = written == Written::Failed;
        entry.failures = if failed { entry.failures.saturating_add(1) } else { 0 };
        if failed || std::mem::take(&mut entry.again) {
            self.touch(key.clone(), now);
        }
    }

    /// Forgets a policy that is gone, unless it is being written.
    pub fn remove(&mut self, key: &K) {
        if self.entries.get(key).is_some_and(|entry| entry.running) {
            return;
        }
        if let Some(due) = self.entries.remove(key).and_then(|entry| entry.due) {
            self.due.remove(&(due, key.clone()));
        }
    }

    /// When [`Pacing::take`] can next give a policy, as far as time goes.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Whether all places for writes are taken.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.running >= MAX_RUNNING
    }

    /// Policies that wait for a look or a write.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len() + self.running
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the next look to `at`, or leaves it if it is earlier.
    fn schedule(&mut self, key: K, at: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let due = entry.due.map_or(at, |due| due.min(at));
        if let Some(old) = entry.due.replace(due) {
            self.due.remove(&(old, key.clone()));
        }
        self.due.insert((due, key));
    }
}

#[cfg(test)]
mod tests;
