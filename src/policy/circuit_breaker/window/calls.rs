//! A window over the last so many requests, at two bits a request.
//!
//! It must not look at time. It counts while it is filled and never adds up, so that a request costs
//! the same in a window of ten and of ten thousand.

use super::Totals;

const WORD_BITS: usize = 64;

/// How one request is written in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct OutcomeLetter(pub(in super::super) Totals);

/// The last requests, as a ring of bits.
#[derive(Clone, Debug)]
pub(in super::super) struct CallWindow {
    /// One bit a place: whether that request failed.
    failed: Box<[u64]>,
    /// One bit a place: whether that request was slow.
    slow: Box<[u64]>,
    /// How many places there are, not 0.
    places: usize,
    /// Where the next request goes; over the oldest one, once all places are taken.
    next: usize,
    totals: Totals,
}

impl CallWindow {
    /// An empty window over `calls` requests.
    pub(in super::super) fn new(calls: u32) -> Self {
        let places = usize::try_from(calls).unwrap_or(usize::MAX).max(1);
        let words = vec![0; places.div_ceil(WORD_BITS)].into_boxed_slice();
        Self { failed: words.clone(), slow: words, places, next: 0, totals: Totals::default() }
    }

    /// Forgets everything.
    pub(in super::super) fn reset(&mut self) {
        self.failed.fill(0);
        self.slow.fill(0);
        (self.next, self.totals) = (0, Totals::default());
    }

    /// Counts one request, and forgets the oldest one where all places are taken.
    pub(in super::super) fn record(&mut self, request: Totals) {
        let (word, bit) = (self.next / WORD_BITS, 1 << (self.next % WORD_BITS));
        // A place that was never taken holds no bits, and is not yet among the requests.
        let taken = self.totals.requests == self.places as u64;
        self.totals.remove(Totals {
            failures: u64::from(self.failed[word] & bit != 0),
            slow: u64::from(self.slow[word] & bit != 0),
            requests: u64::from(taken),
        });
        self.totals.add(request);
        put(&mut self.failed[word], bit, request.failures > 0);
        put(&mut self.slow[word], bit, request.slow > 0);
        self.next = (self.next + 1) % self.places;
    }

    /// Counts requests that neither failed nor were slow, up to 64 at a step.
    pub(in super::super) fn add_good(&mut self, count: u64) {
        // What is left of more requests than there are places is a window full of them, wherever it begins.
        let mut left = usize::try_from(count).unwrap_or(usize::MAX).min(self.places);
        while left > 0 {
            let (word, first) = (self.next / WORD_BITS, self.next % WORD_BITS);
            let run = left.min(WORD_BITS - first).min(self.places - self.next);
            let mask = (u64::MAX >> (WORD_BITS - run)) << first;
            self.totals.failures -= u64::from((self.failed[word] & mask).count_ones());
            self.totals.slow -= u64::from((self.slow[word] & mask).count_ones());
            self.failed[word] &= !mask;
            self.slow[word] &= !mask;
            self.totals.requests = (self.totals.requests + run as u64).min(self.places as u64);
            self.next = (self.next + run) % self.places;
            left -= run;
        }
    }

    /// What is in it.
    pub(in super::super) fn totals(&self) -> Totals {
        self.totals
    }

    /// How many requests it holds at most.
    pub(in super::super) fn places(&self) -> usize {
        self.places
    }

    /// Its requests, oldest first.
    pub(in super::super) fn oldest_first(&self) -> impl Iterator<Item = Totals> {
        let held = usize::try_from(self.totals.requests).unwrap_or(self.places);
        (0..held).map(move |index| {
            let place = (self.next + self.places - held + index) % self.places;
            let (word, bit) = (place / WORD_BITS, 1 << (place % WORD_BITS));
            let (failed, slow) = (self.failed[word] & bit != 0, self.slow[word] & bit != 0);
            Totals { failures: failed.into(), slow: slow.into(), requests: 1 }
        })
    }
}

impl OutcomeLetter {
    /// `.` went well, `f` failed, `s` was slow, `b` both.
    pub(in super::super) fn letter(self) -> char {
        match (self.0.failures > 0, self.0.slow > 0) {
            (false, false) => '.',
            (true, false) => 'f',
            (false, true) => 's',
            (true, true) => 'b',
        }
    }

    /// The request that a letter stands for; none for any other letter.
    pub(in super::super) fn read(letter: char) -> Option<Self> {
        let (failures, slow) = match letter {
            '.' => (0, 0),
            'f' => (1, 0),
            's' => (0, 1),
            'b' => (1, 1),
            _ => return None,
        };
        Some(Self(Totals { failures, slow, requests: 1 }))
    }
}

fn put(word: &mut u64, bit: u64, set: bool) {
    if set {
        *word |= bit;
    } else {
        *word &= !bit;
    }
}
