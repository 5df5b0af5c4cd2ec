//! What the store has refused, so that the same need not be asked again before it can be true.
//!
//! It must not refuse by itself: it repeats a refusal until the moment that came with it. Nothing refills a bucket earlier, so
//! a client that is certainly over its limit costs the store nothing.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::buckets::Seeds;
use super::digest::{KeyId, KeyPrefix};

/// Refusals that meet in the table at once; one more takes the place of the one that ends first.
const WAYS: usize = 4;

/// The most refusals that a memory may be asked to keep.
pub const MAX_REMEMBERED: usize = 65_536;

/// Refusals of one rule of one limit of scope Shared, at most so many.
#[derive(Debug)]
pub struct RefusedUntil {
    seeds: Seeds,
    sets: Box<[Mutex<[Option<Remembered>; WAYS]>]>,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    key: KeyId,
    cost: u32,
    until: Instant,
}

impl RefusedUntil {
    /// A memory of about `most` refusals. `seed` must not be known to clients.
    #[must_use]
    pub fn new(most: usize, seed: u64) -> Self {
        let sets = most.clamp(1, MAX_REMEMBERED).div_ceil(WAYS);
        Self { seeds: Seeds::new(seed), sets: (0..sets).map(|_| Mutex::default()).collect() }
    }

    /// Remembers that the store refused a request of this cost. `until` is what it named, counted from before it was asked: the
    /// answer took time, and a client must not be refused for that.
    pub fn refused(&self, key: KeyId, (cost, until): (u32, Instant), now: Instant) {
        let new = Remembered { key, cost, until };
        let mut set = self.set(key).lock();
        if let Some(known) = set.iter_mut().flatten().find(|known| known.key == key) {
            // What is refused a small request is refused a large one too, so that the smaller one says more.
            if known.until <= now || cost <= known.cost {
                *known = new;
            }
            return;
        }
        let free = set.iter().position(|place| place.is_none_or(|known| known.until <= now));
        let first = || (0..WAYS).min_by_key(|way| set[*way].map(|known| known.until));
        if let Some(way) = free.or_else(first) {
            set[way] = Some(new);
        }
    }

    /// How long a request of this cost is certainly refused, if it is.
    pub fn certain(&self, key: KeyId, cost: u32, now: Instant) -> Option<Duration> {
        let set = self.set(key).lock();
        let known = set.iter().flatten().find(|known| known.key == key && cost >= known.cost)?;
        known.until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Forgets what is known of one client: its buckets were filled by a person.
    pub fn forget(&self, client: &KeyPrefix) {
        for set in &self.sets {
            for place in set.lock().iter_mut() {
                *place = place.filter(|known| !client.matches(known.key));
            }
        }
    }

    /// Forgets everything: the rate has changed, and refusals of another rate say nothing of this one.
    pub fn clear(&self) {
        for set in &self.sets {
            *set.lock() = [None; WAYS];
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "only the bits below the number of sets count")]
    fn set(&self, key: KeyId) -> &Mutex<[Option<Remembered>; WAYS]> {
        &self.sets[self.seeds.hash(key) as usize % self.sets.len()]
    }
}
