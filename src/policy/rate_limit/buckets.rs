//! The bounded table of the buckets of one rule of one limit, for many threads.
//!
//! It must not read a clock, and it must never forget a bucket that was spent from and is not full again: whoever could make
//! it forget would be handed a fresh one. Shards keep threads apart; within one, a lock is held for some tens of nanoseconds.

mod index;
mod overflow;
mod shard;

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::overflow::Overflow;
use self::shard::Shard;
use super::bucket::{Bucket, Intent, Spending};
use super::digest::{KeyId, KeyPrefix};
use super::rate::{Rate, in_ns};
use super::verdict::{Ask, Exceed, Verdict};

/// The most buckets that a table may be asked to keep.
pub const MAX_TRACKED_KEYS: usize = 1_000_000;

/// The most shards; each is a lock of its own.
const MAX_SHARDS: usize = 64;

const _: () = assert!(MAX_TRACKED_KEYS / MAX_SHARDS < index::MAX_SLOTS, "a shard can't number its places");

/// A shard has at least so many places: fewer would fill too unevenly.
const LEAST_PLACES: usize = 4_096;

/// The buckets of one rule of one limit.
#[derive(Debug)]
pub struct Buckets {
    /// Times are nanoseconds after it.
    origin: Instant,
    seeds: Seeds,
    shards: Box<[Padded]>,
    overflow: Mutex<Overflow>,
}

/// What a request spent, to be given back where another limit refuses it or its client leaves.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is not given back stays spent"]
pub struct Reservation {
    key: KeyId,
    spending: Spending,
    source: Source,
}

/// Whose bucket a request spent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// That of its key.
    Own,
    /// The one that keys share for which there is no place.
    Overflow,
}

/// Two cache lines wide, because processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(Mutex<Shard>);

/// Makes it impossible to choose keys that meet in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeds([u64; 2]);

impl Buckets {
    /// An empty table of at most `max_tracked_keys` buckets, 1 or more. `rate` is the rule's own, and `seed` must not be known to clients.
    #[must_use]
    pub fn new(rate: Rate, max_tracked_keys: usize, seed: u64, now: Instant) -> Self {
        let places = max_tracked_keys.clamp(1, MAX_TRACKED_KEYS);
        // A power of two, of which a mask chooses.
        let shards = 1 << (places / LEAST_PLACES).clamp(1, MAX_SHARDS).ilog2();
        let places_of = |shard: usize| places / shards + usize::from(shard < places % shards);
        let seeds = Seeds::new(seed);
        Self {
            origin: now,
            seeds,
            shards: (0..shards).map(|shard| Padded(Mutex::new(Shard::new(places_of(shard), seeds)))).collect(),
            overflow: Mutex::new(Overflow::new(&rate)),
        }
    }

    /// Asks for one request of `key` to pass, and spends what it weighs where it does.
    #[inline]
    pub fn reserve(&self, key: KeyId, ask: &Ask, now: Instant) -> (Verdict, Option<Reservation>) {
        self.ask((key, Intent::Spend), ask, now)
    }

    /// What [`Buckets::reserve`] would say, with nothing spent. A block begins all the same.
    pub fn check(&self, key: KeyId, ask: &Ask, now: Instant) -> Verdict {
        self.ask((key, Intent::Look), ask, now).0
    }

    /// Undoes a reservation of this table: exactly where nothing was spent from the bucket since, else as far as it is certain.
    /// Giving back can refuse too much for a moment, never allow too much.
    #[allow(clippy::needless_pass_by_value, reason = "what is used up must not be used again")]
    pub fn give_back(&self, reservation: Reservation) {
        let Reservation { key, spending, source } = reservation;
        match source {
            Source::Own => {
                let hash = self.seeds.hash(key);
                self.shard(hash).lock().lower((key, hash), |bucket| bucket.give_back(spending));
            }
            Source::Overflow => self.overflow.lock().give_back(spending),
        }
    }

    /// Spends what one that waited had reserved: its turn has come. Nothing is left to do for a reservation of one that passed at once.
    #[allow(clippy::needless_pass_by_value, reason = "what is used up must not be used again")]
    pub fn settle(&self, reservation: Reservation, now: Instant) {
        let Reservation { key, spending, source } = reservation;
        if source == Source::Own {
            let (hash, now) = (self.seeds.hash(key), self.since(now));
            self.shard(hash).lock().settle((key, hash), spending, now);
        }
    }

    /// Refuses all requests of a key until a moment, where it has a bucket or a place for one.
    pub fn block(&self, key: KeyId, (rate, until): (&Rate, Instant), now: Instant) {
        let (until, now, hash) = (self.since(until), self.since(now), self.seeds.hash(key));
        let mut shard = self.shard(hash).lock();
        let now = shard.at(now);
        let full_at = || self.overflow.lock().full_at(hash, now);
        if let Some(bucket) = shard.bucket((key, hash), (rate, full_at), now) {
            bucket.block(until);
            shard.note_block(until);
        }
    }

    /// Fills the buckets of the client that a person named and ends its blocks; how many there were.
    pub fn fill(&self, client: &KeyPrefix, now: Instant) -> u32 {
        let now = self.since(now);
        self.shards.iter().map(|shard| shard.0.lock().fill(client, now)).sum()
    }

    /// Takes the rule's own rate, and gives each bucket the rate of its key, at the moment they change: lazily, a bucket
    /// would have refilled at its old rate until its next request.
    pub fn set_rates(&self, rule: Rate, rate_of: impl Fn(KeyId) -> Rate, now: Instant) {
        let now = self.since(now);
        for shard in &self.shards {
            shard.0.lock().set_rates(&rate_of, now);
        }
        self.overflow.lock().adopt(&rule, now);
    }

    /// Forgets the buckets that are full, which loses nothing. To be called now and then, so that memory follows the clients.
    pub fn forget_full(&self, now: Instant) {
        let now = self.since(now);
        for shard in &self.shards {
            shard.0.lock().forget_full(now);
        }
    }

    /// Keys with a bucket of their own.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().len()).sum()
    }

    /// Keys that are refused for a time.
    #[must_use]
    pub fn blocked(&self, now: Instant) -> usize {
        let now = self.since(now);
        self.shards.iter().map(|shard| shard.0.lock().blocked(now)).sum()
    }

    /// Until when a key is refused for a time, if it is.
    #[must_use]
    pub fn blocked_until(&self, key: KeyId, now: Instant) -> Option<Instant> {
        let (now, hash) = (self.since(now), self.seeds.hash(key));
        let shard = self.shard(hash).lock();
        let until = shard.get((key, hash)).map(Bucket::blocked_until).filter(|until| *until > now)?;
        self.origin.checked_add(Duration::from_nanos(until))
    }

    /// What a key's bucket holds, in whole requests; a full one where it has none.
    #[must_use]
    pub fn remaining(&self, key: KeyId, rate: &Rate, now: Instant) -> u32 {
        let (now, hash) = (self.since(now), self.seeds.hash(key));
        self.shard(hash).lock().get((key, hash)).map_or(rate.burst(), |bucket| bucket.remaining(now))
    }

    /// The bytes that the table has taken for buckets.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().memory()).sum()
    }

    #[inline]
    fn ask(&self, key: (KeyId, Intent), ask: &Ask, now: Instant) -> (Verdict, Option<Reservation>) {
        let ((key, intent), now) = (key, self.since(now));
        if ask.cost == 0 {
            return (self.weightless(key, ask, now), None);
        }
        let hash = self.seeds.hash(key);
        let mut shard = self.shard(hash).lock();
        let now = shard.at(now);
        let full_at = || self.overflow.lock().full_at(hash, now);
        let Some(bucket) = shard.bucket((key, hash), (&ask.rate, full_at), now) else {
            // With the shard's lock held, or the key might be given a bucket that knows nothing of this.
            let (verdict, spent) = self.overflow.lock().ask(hash, (ask, intent), now);
            let reservation = |spending| Reservation { key, spending, source: Source::Overflow };
            return (verdict, spent.map(reservation));
        };
        let verdict = bucket.ask(ask, intent, now);
        let (spending, blocked_until) = (bucket.spending(ask, &verdict), bucket.blocked_until());
        if blocked_until > now {
            shard.note_block(blocked_until);
        }
        let spending = spending.filter(|_| intent == Intent::Spend);
        (verdict, spending.map(|spending| Reservation { key, spending, source: Source::Own }))
    }

    /// What a request that weighs nothing finds: it takes no place.
    fn weightless(&self, key: KeyId, ask: &Ask, now: u64) -> Verdict {
        let hash = self.seeds.hash(key);
        let bucket = self.shard(hash).lock().get((key, hash)).copied();
        bucket.map_or(Verdict::untouched(&ask.rate), |mut bucket| bucket.look(&ask.rate, now))
    }

    #[inline]
    fn since(&self, now: Instant) -> u64 {
        in_ns(now.saturating_duration_since(self.origin))
    }

    /// The middle bits choose the shard: the others choose the place in it.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "only the bits of the mask count")]
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)].0
    }
}

impl Reservation {
    /// Whose bucket was spent from.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }

    /// The key that it was made for.
    #[must_use]
    pub const fn key(&self) -> KeyId {
        self.key
    }
}

impl Seeds {
    pub(super) fn new(seed: u64) -> Self {
        Self([mixed(seed), mixed(seed.wrapping_add(1))])
    }

    /// A folded product, which spreads every bit of the key over the whole hash.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "the two halves are folded")]
    pub(super) fn hash(&self, key: KeyId) -> u64 {
        let (high, low) = key.words();
        let product = u128::from(high ^ self.0[0]) * u128::from(low ^ self.0[1]);
        (product >> 64) as u64 ^ product as u64
    }
}

impl Ask {
    /// A plain one, which is refused beyond the limit.
    #[must_use]
    pub const fn new(rate: Rate, cost: u32) -> Self {
        Self { rate, cost, exceed: Exceed::Refuse }
    }
}

/// The finalizer of `SplitMix64`: seeds that differ little give words that differ in half their bits.
fn mixed(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
