//! How many buckets a table keeps, and how that changes while it is in use.
//!
//! It must not forget a bucket that was spent from: of a table that has too many, since its bound was lowered, each stays until it
//! is full, and new keys share one bucket until then. A key is found by its shard, so that another number of shards means to move
//! buckets, all at once and under every lock.

use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::shard::Shard;
use super::{Buckets, MAX_TRACKED_KEYS, index};

/// The most shards; each is a lock of its own.
const MAX_SHARDS: usize = 64;

/// Every table has room for so many: a small one that grows can then have all places that there may be.
const LEAST_SHARDS: usize = 16;

const _: () = assert!(MAX_TRACKED_KEYS / LEAST_SHARDS < index::MAX_SLOTS, "a shard can't number its places");

/// A shard has at least so many places: fewer would fill too unevenly.
const LEAST_PLACES: usize = 4_096;

impl Buckets {
    /// Takes another bound, of 1 or more buckets. A bucket that was spent from stays until it is full, whatever the bound.
    pub fn set_most(&self, max_tracked_keys: usize) {
        let mut standing = self.places.lock();
        let places = places(max_tracked_keys);
        if *standing != places {
            *standing = places;
            self.arrange(places);
        }
    }

    /// Gives each shard its part of the places. Where there should be fewer shards, and one could not number all the buckets it
    /// would have, that waits until enough of them are full. To be called with `self.places` locked.
    pub(super) fn arrange(&self, places: usize) {
        let mut locked: Vec<MutexGuard<'_, Shard>> = self.shards.iter().map(|shard| shard.0.lock()).collect();
        let standing = self.among.load(Ordering::Relaxed);
        let wanted = shards(places, self.shards.len());
        let wanted = if fits((wanted, standing), |shard| locked[shard].len()) { wanted } else { standing };
        if wanted != standing {
            self.spread(&mut locked, wanted);
        }
        for (number, shard) in locked.iter_mut().enumerate() {
            shard.set_most(places_of(number, (places, wanted)), wanted);
        }
        self.among.store(wanted, Ordering::Relaxed);
    }

    /// Moves each bucket to where its key chooses it among so many shards.
    fn spread(&self, shards: &mut [MutexGuard<'_, Shard>], among: u32) {
        // Time never goes back for a bucket, wherever it was.
        let times = || shards.iter().map(|shard| shard.latest());
        let latest = (times().map(|(time, _)| time).max(), times().map(|(_, block)| block).max());
        let latest = (latest.0.unwrap_or_default(), latest.1.unwrap_or_default());
        shards.iter_mut().for_each(|shard| shard.set_latest(latest));
        for number in 0..shards.len() {
            let moves = shards[number].take(|hash| chosen(hash, among) != number);
            for (key, bucket) in moves {
                let hash = self.seeds.hash(key);
                shards[chosen(hash, among)].insert((key, hash), bucket);
            }
        }
    }
}

/// The bound within its own bounds.
pub(super) fn places(max_tracked_keys: usize) -> usize {
    max_tracked_keys.clamp(1, MAX_TRACKED_KEYS)
}

/// How many shards a table of so many places has room for, whatever its bound becomes.
pub(super) fn room(places: usize) -> usize {
    (shards(places, MAX_SHARDS) as usize).max(LEAST_SHARDS)
}

/// How many shards of those that it has room for a table of so many places uses: a power of two, of which a mask chooses.
pub(super) fn shards(places: usize, room: usize) -> u32 {
    1 << (places / LEAST_PLACES).clamp(1, room.min(MAX_SHARDS)).ilog2()
}

/// The places of one shard; those that are not in use have none.
pub(super) fn places_of(shard: usize, (places, among): (usize, u32)) -> usize {
    let among = among as usize;
    if shard < among { places / among + usize::from(shard < places % among) } else { 0 }
}

/// The middle bits choose the shard: the others choose the place in it.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "only the bits of the mask count")]
pub(super) fn chosen(hash: u64, among: u32) -> usize {
    ((hash >> 32) as u32 & among.wrapping_sub(1)) as usize
}

/// Whether each of the wanted shards can number the buckets it would have of those that stand.
fn fits((wanted, standing): (u32, u32), len: impl Fn(usize) -> usize) -> bool {
    let together = |shard: u32| -> usize {
        let shards = (shard..standing).step_by(wanted as usize);
        shards.map(|shard| len(shard as usize)).sum()
    };
    (0..wanted).all(|shard| together(shard) <= index::MAX_SLOTS)
}
