//! Where the bucket of a key stands: an open-addressed table of slot numbers, four bytes each.
//!
//! It must not hold keys: those stand with their buckets, so that a look-up touches one cache line here and one there. A cell has
//! half of its bits from the hash, so that another key's bucket is hardly ever looked at.

/// The fewest cells that memory is taken for; a power of two.
const LEAST_CELLS: usize = 32;

/// The most slots that a cell can name.
pub(super) const MAX_SLOTS: usize = 0xffff;

const SLOT_BITS: u32 = 16;

/// Numbers of slots by hash.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// 0 is a free cell; else the first bits of the hash, and the slot plus 1. As many as a power of two, or none.
    cells: Vec<u32>,
    len: usize,
}

impl Index {
    pub(super) fn memory(&self) -> usize {
        self.cells.capacity() * size_of::<u32>()
    }

    /// The slot of this hash that `is_it`.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        self.position(hash, is_it).map(|position| slot(self.cells[position]))
    }

    /// Adds a slot. `hash_of` tells the hash of one that is here already.
    pub(super) fn insert(&mut self, hash: u64, new: usize, hash_of: impl Fn(usize) -> u64) {
        // A quarter stays free, so that look-ups end soon.
        if (self.len + 1) * 4 > self.cells.len() * 3 {
            self.rebuild(2 * self.cells.len(), hash_of);
        }
        self.len += 1;
        self.put(hash, new);
    }

    /// Takes a slot out, and moves others into the gap so that each is found from its own place on.
    pub(super) fn remove(&mut self, hash: u64, gone: usize, hash_of: impl Fn(usize) -> u64) {
        let Some(mut gap) = self.position(hash, |slot| slot == gone) else { return };
        let mask = self.mask();
        let mut next = (gap + 1) & mask;
        while self.cells[next] != 0 {
            let from_home = next.wrapping_sub(home(hash_of(slot(self.cells[next])), mask)) & mask;
            if from_home >= next.wrapping_sub(gap) & mask {
                self.cells[gap] = self.cells[next];
                gap = next;
            }
            next = (next + 1) & mask;
        }
        self.cells[gap] = 0;
        self.len -= 1;
    }

    /// Gives a slot another number.
    pub(super) fn rename(&mut self, hash: u64, (old, new): (usize, usize)) {
        if let Some(position) = self.position(hash, |slot| slot == old) {
            self.cells[position] = cell(hash, new);
        }
    }

    /// Gives memory back that so many slots do not need.
    pub(super) fn shrink_to(&mut self, slots: usize, hash_of: impl Fn(usize) -> u64) {
        let wanted = 2 * slots.max(self.len);
        if wanted.next_power_of_two() < self.cells.len() {
            self.rebuild(wanted, hash_of);
        }
    }

    #[inline]
    fn position(&self, hash: u64, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let mask = self.mask();
        let mut position = home(hash, mask);
        loop {
            let cell = *self.cells.get(position).filter(|cell| **cell != 0)?;
            if cell >> SLOT_BITS == tag(hash) && is_it(slot(cell)) {
                return Some(position);
            }
            position = (position + 1) & mask;
        }
    }

    fn put(&mut self, hash: u64, new: usize) {
        let mask = self.mask();
        let mut position = home(hash, mask);
        while self.cells[position] != 0 {
            position = (position + 1) & mask;
        }
        self.cells[position] = cell(hash, new);
    }

    fn rebuild(&mut self, cells: usize, hash_of: impl Fn(usize) -> u64) {
        let cells = vec![0; cells.max(LEAST_CELLS).next_power_of_two()];
        let before = std::mem::replace(&mut self.cells, cells);
        for known in before.into_iter().filter(|cell| *cell != 0).map(slot) {
            self.put(hash_of(known), known);
        }
    }

    #[inline]
    fn mask(&self) -> usize {
        self.cells.len().wrapping_sub(1)
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "only the bits of the mask count")]
fn home(hash: u64, mask: usize) -> usize {
    hash as usize & mask
}

/// The first bits, of which the last ones say nothing.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "16 bits")]
fn tag(hash: u64) -> u32 {
    (hash >> 48) as u32
}

#[inline]
fn slot(cell: u32) -> usize {
    (cell as usize & MAX_SLOTS) - 1
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "a slot is below MAX_SLOTS")]
fn cell(hash: u64, slot: usize) -> u32 {
    tag(hash) << SLOT_BITS | (slot + 1) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Slots come, go and change their numbers; each is found, and none that is gone. Few hashes make many meet.
        #[test]
        fn every_slot_is_found_by_its_hash(steps in prop::collection::vec((0..4_u8, 0..200_usize, 0..40_u64), 1..600)) {
            let (mut index, mut hashes): (Index, BTreeMap<usize, u64>) = Default::default();
            for (step, slot, hash) in steps {
                let hash = hash | hash << 48;
                match (step, hashes.get(&slot).copied()) {
                    (0 | 1, None) => {
                        index.insert(hash, slot, |slot| hashes[&slot]);
                        hashes.insert(slot, hash);
                    }
                    (2, Some(known)) => {
                        index.remove(known, slot, |slot| hashes[&slot]);
                        hashes.remove(&slot);
                    }
                    (3, Some(known)) if !hashes.contains_key(&(slot + 1_000)) => {
                        index.rename(known, (slot, slot + 1_000));
                        hashes.remove(&slot);
                        hashes.insert(slot + 1_000, known);
                    }
                    _ => index.shrink_to(hashes.len(), |slot| hashes[&slot]),
                }
                for (slot, hash) in &hashes {
                    prop_assert_eq!(index.find(*hash, |found| found == *slot), Some(*slot));
                }
                prop_assert_eq!(index.len, hashes.len());
                prop_assert_eq!(index.cells.iter().filter(|cell| **cell != 0).count(), hashes.len());
            }
        }
    }

    #[test]
    fn an_empty_index_finds_nothing_and_takes_no_memory() {
        let index = Index::default();
        assert_eq!((index.find(7, |_| true), index.memory()), (None, 0));
    }
}
