//! The bounded table of the buckets of one rule of one limit, for many threads.
//!
//! It must not read a clock, and it must never forget a bucket that was spent from and is not full again: whoever could make
//! it forget would be handed a fresh one. Shards keep threads apart; within one, a lock is held for some tens of nanoseconds.

mod bound;
mod index;
mod overflow;
mod shard;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use self::bound::chosen;
use self::overflow::Overflow;
use self::shard::Shard;
use super::bucket::{Bucket, Intent, Spending};
use super::digest::{KeyId, KeyPrefix};
use super::rate::{Rate, in_ns};
use super::verdict::{Ask, Exceed, Verdict};

/// The most buckets that a table may be asked to keep.
pub const MAX_TRACKED_KEYS: usize = 1_000_000;

/// The buckets of one rule of one limit.
#[derive(Debug)]
pub struct Buckets {
    /// Times are nanoseconds after it.
    origin: Instant,
    seeds: Seeds,
    /// How many of the shards are in use: a power of two. It changes while all of them are locked.
    among: AtomicU32,
    shards: Box<[Padded]>,
    /// How many places there are. Buckets move to other shards only while it is locked, so that whoever goes through all of them
    /// and must miss none holds it.
    places: Mutex<usize>,
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

const _: () = assert!(size_of::<Padded>() == 128, "a shard's head is wider than two cache lines");

/// Makes it impossible to choose keys that meet in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeds([u64; 2]);

impl Buckets {
    /// An empty table of at most `max_tracked_keys` buckets, 1 or more. `rate` is the rule's own, and `seed` must not be known to clients.
    #[must_use]
    pub fn new(rate: Rate, max_tracked_keys: usize, seed: u64, now: Instant) -> Self {
        let places = bound::places(max_tracked_keys);
        let (seeds, room) = (Seeds::new(seed), bound::room(places));
        let among = bound::shards(places, room);
        let shard = |shard| Padded(Mutex::new(Shard::new(bound::places_of(shard, (places, among)), among, seeds)));
        Self {
            origin: now,
            seeds,
            among: AtomicU32::new(among),
            shards: (0..room).map(shard).collect(),
            places: Mutex::new(places),
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
                self.shard(hash).lower((key, hash), |bucket| bucket.give_back(spending));
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
            self.shard(hash).settle((key, hash), spending, now);
        }
    }

    /// Refuses all requests of a key until a moment, where it has a bucket or a place for one.
    pub fn block(&self, key: KeyId, (rate, until): (&Rate, Instant), now: Instant) {
        let (until, now, hash) = (self.since(until), self.since(now), self.seeds.hash(key));
        let mut shard = self.shard(hash);
        let now = shard.at(now);
        let full_at = || self.overflow.lock().full_at(hash, now);
        if let Some(bucket) = shard.bucket((key, hash), (rate, full_at), now) {
            bucket.block(until);
            shard.note_block(until);
        }
    }

    /// Fills the buckets of the client that a person named and ends its blocks; how many there were.
    pub fn fill(&self, client: &KeyPrefix, now: Instant) -> u32 {
        let (now, _unmoved) = (self.since(now), self.places.lock());
        self.shards.iter().map(|shard| shard.0.lock().fill(client, now)).sum()
    }

    /// Takes the rule's own rate, and gives each bucket the rate of its key, at the moment they change: lazily, a bucket
    /// would have refilled at its old rate until its next request.
    pub fn set_rates(&self, rule: Rate, rate_of: impl Fn(KeyId) -> Rate, now: Instant) {
        let (now, _unmoved) = (self.since(now), self.places.lock());
        for shard in &self.shards {
            shard.0.lock().set_rates(&rate_of, now);
        }
        self.overflow.lock().adopt(&rule, now);
    }

    /// Forgets the buckets that are full, which loses nothing. To be called now and then, so that memory follows the clients.
    pub fn forget_full(&self, now: Instant) {
        let (now, places) = (self.since(now), self.places.lock());
        for shard in &self.shards {
            shard.0.lock().forget_full(now);
        }
        if bound::shards(*places, self.shards.len()) != self.among.load(Ordering::Relaxed) {
            self.arrange(*places);
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
        let shard = self.shard(hash);
        let until = shard.get((key, hash)).map(Bucket::blocked_until).filter(|until| *until > now)?;
        self.origin.checked_add(Duration::from_nanos(until))
    }

    /// What a key's bucket holds, in whole requests; a full one where it has none.
    #[must_use]
    pub fn remaining(&self, key: KeyId, rate: &Rate, now: Instant) -> u32 {
        let (now, hash) = (self.since(now), self.seeds.hash(key));
        self.shard(hash).get((key, hash)).map_or(rate.burst(), |bucket| bucket.remaining(now))
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
        let mut shard = self.shard(hash);
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
        let bucket = self.shard(hash).get((key, hash)).copied();
        bucket.map_or(Verdict::untouched(&ask.rate), |mut bucket| bucket.look(&ask.rate, now))
    }

    #[inline]
    fn since(&self, now: Instant) -> u64 {
        in_ns(now.saturating_duration_since(self.origin))
    }

    /// The shard of a key, locked.
    #[inline]
    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        loop {
            let among = self.among.load(Ordering::Relaxed);
            let shard = self.shards[chosen(hash, among)].0.lock();
            // Buckets may have moved before it was locked; while it is, they don't.
            if shard.among() == among {
                return shard;
            }
        }
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
