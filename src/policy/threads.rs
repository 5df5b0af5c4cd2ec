//! A small number for each thread, so that counters can give each a place of its own.
//!
//! It must not say how many places there are: whoever counts takes the remainder.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// This thread's number: threads take them in turn, from 0.
#[inline]
pub(crate) fn thread_number() -> usize {
    const NOT_YET: usize = usize::MAX;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(NOT_YET) };
    }

    let mine = MINE.get();
    if mine != NOT_YET {
        return mine;
    }
    let mine = NEXT.fetch_add(1, Ordering::Relaxed);
    MINE.set(mine);
    mine
}
