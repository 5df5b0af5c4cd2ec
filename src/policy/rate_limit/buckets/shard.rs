//! One shard of a table: buckets in one block of memory, an index by key, and a heap by when each is full again.
//!
//! It must not decide on requests. The heap is put right only where something depends on it: a bucket that was spent from is
//! full later than the heap says, which is noticed when its turn to be forgotten comes. So spending costs nothing here.

use super::super::bucket::{Bucket, Spending};
use super::super::digest::{KeyId, KeyPrefix};
use super::super::rate::Rate;
use super::Seeds;
use super::index::Index;

/// The fewest places that memory is taken for.
const LEAST_CAPACITY: usize = 16;

/// Of too many buckets, since the bound was lowered, at most so many are forgotten for one new key: nobody waits for the rest.
const FORGOTTEN_AT_ONCE: usize = 8;

/// A key with its hash.
pub(super) type Hashed = (KeyId, u64);

/// At most so many buckets.
#[derive(Debug)]
pub(super) struct Shard {
    /// The latest time it was told: with threads, one may come with an earlier time than the one before it.
    latest: u64,
    /// No key of it is blocked after this.
    latest_block: u64,
    /// How many places it has, at most [`super::index::MAX_SLOTS`].
    most: u32,
    /// Among how many shards its keys choose it.
    among: u32,
    seeds: Seeds,
    /// Numbers of slots by key.
    index: Index,
    slots: Vec<Slot>,
    /// A binary heap by [`Listed::at`], the least first.
    heap: Vec<Listed>,
}

/// One bucket of one key: one cache line, all that a decision touches.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Slot {
    key: KeyId,
    bucket: Bucket,
}

const _: () = assert!(size_of::<Slot>() == 64, "a bucket is wider than a cache line");

/// A slot in the heap.
#[derive(Clone, Copy, Debug)]
struct Listed {
    /// When its bucket is settled at the earliest.
    at: u64,
    slot: u32,
}

impl Shard {
    pub(super) fn new(most: usize, among: u32, seeds: Seeds) -> Self {
        let (index, slots, heap) = (Index::default(), Vec::new(), Vec::new());
        Self { latest: 0, latest_block: 0, most: number(most), among, seeds, index, slots, heap }
    }

    /// Among how many shards its keys choose it.
    #[inline]
    pub(super) fn among(&self) -> u32 {
        self.among
    }

    /// Takes another number of places, among so many shards. What it has beyond that goes as it is settled.
    pub(super) fn set_most(&mut self, most: usize, among: u32) {
        (self.most, self.among) = (number(most), among);
    }

    /// The latest time it was told, and when its last block ends.
    pub(super) fn latest(&self) -> (u64, u64) {
        (self.latest, self.latest_block)
    }

    pub(super) fn set_latest(&mut self, (latest, latest_block): (u64, u64)) {
        (self.latest, self.latest_block) = (latest, latest_block);
    }

    /// Takes out the buckets of these hashes.
    pub(super) fn take(&mut self, goes: impl Fn(u64) -> bool) -> Vec<(KeyId, Bucket)> {
        let mut taken = Vec::new();
        // From the end: in the place of one that goes comes the last, which stays.
        for slot in (0..self.slots.len()).rev() {
            let Slot { key, bucket } = self.slots[slot];
            if goes(self.seeds.hash(key)) {
                taken.push((key, bucket));
                self.remove(slot);
            }
        }
        taken
    }

    /// The time to decide by: it never goes back.
    #[inline]
    pub(super) fn at(&mut self, now: u64) -> u64 {
        self.latest = self.latest.max(now);
        self.latest
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.heap.capacity() * size_of::<Listed>() + self.index.memory()
    }

    pub(super) fn get(&self, key: Hashed) -> Option<&Bucket> {
        self.find(key).map(|slot| &self.slots[slot].bucket)
    }

    /// The key's bucket: the one it has, or a new one in a free place, or in the place of the bucket that has been full for
    /// longest. None where every place holds one that was spent from, or whose client is refused for a time.
    #[inline]
    pub(super) fn bucket(
        &mut self,
        key: Hashed,
        (rate, full_at): (&Rate, impl FnOnce() -> u64),
        now: u64,
    ) -> Option<&mut Bucket> {
        let slot = match self.find(key) {
            Some(slot) => slot,
            None => self.place(key, (rate, full_at), now)?,
        };
        Some(&mut self.slots[slot].bucket)
    }

    /// Notes that somebody may be blocked until then.
    pub(super) fn note_block(&mut self, until: u64) {
        self.latest_block = self.latest_block.max(until);
    }

    pub(super) fn blocked(&self, now: u64) -> usize {
        if self.latest_block <= now {
            return 0;
        }
        self.slots.iter().filter(|slot| slot.bucket.is_blocked(now)).count()
    }

    /// Changes a key's bucket, where it has one, so that it may be full sooner.
    pub(super) fn lower(&mut self, key: Hashed, change: impl FnOnce(&mut Bucket)) {
        if let Some(slot) = self.find(key) {
            self.lower_slot(slot, change);
        }
    }

    pub(super) fn settle(&mut self, key: Hashed, spending: Spending, now: u64) {
        let now = self.at(now);
        if let Some(slot) = self.find(key) {
            self.slots[slot].bucket.settle(spending, now);
        }
    }

    pub(super) fn fill(&mut self, client: &KeyPrefix, now: u64) -> u32 {
        let now = self.at(now);
        let mut filled = 0;
        for slot in 0..self.slots.len() {
            if client.matches(self.slots[slot].key) {
                self.lower_slot(slot, |bucket| bucket.fill(now));
                filled += 1;
            }
        }
        filled
    }

    pub(super) fn set_rates(&mut self, rate_of: impl Fn(KeyId) -> Rate, now: u64) {
        let now = self.at(now);
        for slot in 0..self.slots.len() {
            let rate = rate_of(self.slots[slot].key);
            self.lower_slot(slot, |bucket| bucket.adopt(&rate, now));
        }
    }

    pub(super) fn forget_full(&mut self, now: u64) {
        let now = self.at(now);
        while let Some(slot) = self.settled(now) {
            self.remove(slot);
        }
        let least = (2 * self.slots.len()).max(LEAST_CAPACITY);
        if self.slots.capacity() > 2 * least {
            self.slots.shrink_to(least);
            self.heap.shrink_to(least);
            let (slots, seeds) = (&self.slots, self.seeds);
            self.index.shrink_to(least, |slot| seeds.hash(slots[slot].key));
        }
    }

    #[inline]
    fn find(&self, (key, hash): Hashed) -> Option<usize> {
        self.index.find(hash, |slot| self.slots[slot].key == key)
    }

    #[cold]
    fn place(&mut self, key: Hashed, new: (&Rate, impl FnOnce() -> u64), now: u64) -> Option<usize> {
        for _ in 0..FORGOTTEN_AT_ONCE {
            if self.has_room() {
                break;
            }
            let slot = self.settled(now)?;
            self.remove(slot);
        }
        let (rate, full_at) = new;
        self.has_room().then(|| self.insert(key, Bucket::full_at(rate, full_at(), now)))
    }

    fn has_room(&self) -> bool {
        self.slots.len() < self.most as usize
    }

    /// The bucket that has been settled for longest, if one is. A bucket is settled no earlier than it is listed, so that the
    /// first whose listing is true comes before all others. Each spending can make one listing untrue, once: that is what
    /// this loop costs in all.
    fn settled(&mut self, now: u64) -> Option<usize> {
        loop {
            let Listed { at, slot } = *self.heap.first()?;
            if at > now {
                return None;
            }
            let settled_at = self.slots[slot as usize].bucket.settled_at();
            if settled_at <= at {
                return Some(slot as usize);
            }
            self.heap[0].at = settled_at;
            self.sift_down(0);
        }
    }

    /// Puts in a bucket of a key that has none, whatever the bound.
    pub(super) fn insert(&mut self, (key, hash): Hashed, mut bucket: Bucket) -> usize {
        let slot = self.slots.len();
        if slot == self.slots.capacity() {
            let left = (self.most as usize).checked_sub(slot).filter(|left| *left > 0);
            let more = slot.max(LEAST_CAPACITY).min(left.unwrap_or(usize::MAX));
            self.slots.reserve_exact(more);
            self.heap.reserve_exact(more);
        }
        let number = number(slot);
        bucket.position = number;
        self.heap.push(Listed { at: bucket.settled_at(), slot: number });
        self.slots.push(Slot { key, bucket });
        let (slots, seeds) = (&self.slots, self.seeds);
        self.index.insert(hash, slot, |slot| seeds.hash(slots[slot].key));
        self.sift_up(slot);
        slot
    }

    fn remove(&mut self, slot: usize) {
        self.unlist(slot);
        let (slots, seeds) = (&self.slots, self.seeds);
        let hash_of = |slot: usize| seeds.hash(slots[slot].key);
        self.index.remove(hash_of(slot), slot, hash_of);
        let last = self.slots.len() - 1;
        if slot != last {
            self.index.rename(hash_of(last), (last, slot));
            self.heap[self.slots[last].bucket.position as usize].slot = number(slot);
        }
        self.slots.swap_remove(slot);
    }

    fn unlist(&mut self, slot: usize) {
        let position = self.slots[slot].bucket.position as usize;
        let last = self.heap.len() - 1;
        self.swap(position, last);
        self.heap.pop();
        if position < last {
            self.sift_up(position);
            self.sift_down(position);
        }
    }

    fn lower_slot(&mut self, slot: usize, change: impl FnOnce(&mut Bucket)) {
        let bucket = &mut self.slots[slot].bucket;
        change(bucket);
        let (settled_at, position) = (bucket.settled_at(), bucket.position as usize);
        if settled_at < self.heap[position].at {
            self.heap[position].at = settled_at;
            self.sift_up(position);
        }
    }

    fn sift_up(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.heap[parent].at <= self.heap[position].at {
                return;
            }
            self.swap(parent, position);
            position = parent;
        }
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let (left, right) = (2 * position + 1, 2 * position + 2);
            if left >= self.heap.len() {
                return;
            }
            let lesser = right < self.heap.len() && self.heap[right].at < self.heap[left].at;
            let child = if lesser { right } else { left };
            if self.heap[position].at <= self.heap[child].at {
                return;
            }
            self.swap(position, child);
            position = child;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for position in [one, other] {
            self.slots[self.heap[position].slot as usize].bucket.position = number(position);
        }
    }
}

/// A shard has at most a million places.
#[allow(clippy::cast_possible_truncation, reason = "at most MAX_TRACKED_KEYS, which 32 bits hold")]
fn number(slot: usize) -> u32 {
    slot as u32
}
