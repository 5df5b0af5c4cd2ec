//! The work queue: one key for each output object, with back-off, a bound on work at once, and no
//! lost wake-ups.
//!
//! It holds keys and never content: who takes a key looks up what is wanted and what stands at that
//! moment, so a thousand changes of one object are one piece of work.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// Keys kept at most. Beyond it a key is refused and counted; the next compilation offers it again.
pub const MAX_KEYS: usize = 65_536;

/// Keys worked on at once.
pub const MAX_RUNNING: usize = 4;

/// The delays of a failing object. They stay under half a minute, so that all has converged within
/// that time after an outage of the API server.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(20), jitter_percent: 20 };

/// How the work on a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What is wanted stands.
    Done,
    /// Try again later.
    Failed,
}

/// The queue.
#[derive(Debug)]
pub struct Queue<K> {
    items: HashMap<K, Item>,
    due: BTreeMap<(Instant, u64), K>,
    running: usize,
    sequence: u64,
    refused: u64,
}

#[derive(Debug)]
struct Item {
    phase: Phase,
    failures: u32,
}

#[derive(Debug)]
enum Phase {
    Waiting,
    Running { again: bool },
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { items: HashMap::new(), due: BTreeMap::new(), running: 0, sequence: 0, refused: 0 }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Asks for work on a key. One that waits out a failure keeps waiting, and one that is being
    /// worked on is taken once more afterwards.
    pub fn push(&mut self, key: K, now: Instant) {
        let is_full = self.items.len() >= MAX_KEYS;
        match self.items.get_mut(&key).map(|item| &mut item.phase) {
            Some(Phase::Running { again }) => *again = true,
            Some(Phase::Waiting) => {}
            None if is_full => self.refused += 1,
            None => self.wait(key, 0, now),
        }
    }

    /// Takes the key that has been due for longest, unless enough is being worked on.
    pub fn take(&mut self, now: Instant) -> Option<K> {
        if self.running >= MAX_RUNNING || self.next_due()? > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        if let Some(item) = self.items.get_mut(&key) {
            item.phase = Phase::Running { again: false };
        }
        self.running += 1;
        Some(key)
    }

    /// Says how the work on a key that was taken ended.
    pub fn finish(&mut self, key: K, outcome: Outcome, now: Instant) {
        let Some(Item { phase: Phase::Running { again }, failures }) = self.items.remove(&key) else {
            return;
        };
        self.running -= 1;
        match (outcome, again) {
            (Outcome::Done, false) => {}
            (Outcome::Done, true) => self.wait(key, 0, now),
            (Outcome::Failed, _) => self.wait(key, failures.saturating_add(1), now),
        }
    }

    /// When [`Queue::take`] can next give a key, as far as time goes.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    /// Whether all places for work are taken.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.running >= MAX_RUNNING
    }

    /// Keys that wait or are being worked on.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Keys that were refused because the queue was full, since it was made.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn wait(&mut self, key: K, failures: u32, now: Instant) {
        self.sequence += 1;
        let slot = (now + BACKOFF.delay(failures, &key), self.sequence);
        self.due.insert(slot, key.clone());
        self.items.insert(key, Item { phase: Phase::Waiting, failures });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_of(keys: &[&'static str], now: Instant) -> Queue<&'static str> {
        let mut queue = Queue::default();
        keys.iter().for_each(|key| queue.push(*key, now));
        queue
    }

    #[test]
    fn many_changes_of_one_object_are_one_piece_of_work() {
        let now = Instant::now();
        let mut queue = queue_of(&["a", "a", "a"], now);
        assert_eq!(queue.take(now), Some("a"));
        assert_eq!(queue.take(now), None);
        queue.finish("a", Outcome::Done, now);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_change_during_the_work_is_not_lost() {
        let now = Instant::now();
        let mut queue = queue_of(&["a"], now);
        queue.take(now);
        queue.push("a", now);
        assert_eq!(queue.take(now), None, "never two at once on one key");
        queue.finish("a", Outcome::Done, now);
        assert_eq!(queue.take(now), Some("a"));
    }

    #[test]
    fn one_failing_object_waits_alone_and_longer_each_time() {
        let mut now = Instant::now();
        let mut queue = queue_of(&["bad", "good"], now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(queue.take(now), Some("bad"));
            queue.finish("bad", Outcome::Failed, now);
            queue.push("bad", now);
            if let Some(key) = queue.take(now) {
                assert_eq!(key, "good", "a new wish does not shorten the wait");
                queue.finish("good", Outcome::Done, now);
            }
            let due = queue.next_due().unwrap();
            waits.push(due - now);
            now = due;
        }
        assert!(waits[0] <= Duration::from_millis(500) && waits[3] > waits[0] * 4);
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(20)));
    }

    #[test]
    fn success_forgets_the_failures() {
        let now = Instant::now();
        let mut queue = queue_of(&["a"], now);
        queue.take(now);
        queue.finish("a", Outcome::Failed, now);
        let later = queue.next_due().unwrap();
        assert_eq!(queue.take(later), Some("a"));
        queue.finish("a", Outcome::Done, later);
        queue.push("a", later);
        assert_eq!(queue.next_due(), Some(later));
    }

    #[test]
    fn no_more_than_the_bound_is_worked_on_at_once() {
        let now = Instant::now();
        let mut queue = queue_of(&["a", "b", "c", "d", "e"], now);
        let taken: Vec<_> = std::iter::from_fn(|| queue.take(now)).collect();
        assert_eq!(taken, ["a", "b", "c", "d"]);
        queue.finish("b", Outcome::Done, now);
        assert_eq!(queue.take(now), Some("e"));
    }

    #[test]
    fn keys_beyond_the_bound_are_refused_and_counted() {
        let now = Instant::now();
        let mut queue = Queue::default();
        (0..=MAX_KEYS).for_each(|key| queue.push(key, now));
        assert_eq!((queue.len(), queue.refused()), (MAX_KEYS, 1));
    }
}
