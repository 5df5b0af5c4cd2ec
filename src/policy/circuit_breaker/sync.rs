//! Where atomics and locks come from: the real ones, or with `--cfg loom` those that loom steps through.
//!
//! Nothing else in this module may name either, or what loom proves would not be what runs.

#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
pub(super) use parking_lot::Mutex;

#[cfg(loom)]
pub(super) use modelled::Mutex;

/// How many stripes a breaker has. More cost memory, fewer make threads meet.
#[cfg(not(loom))]
pub(super) const STRIPES: usize = 4;

/// The fewest that differ.
#[cfg(loom)]
pub(super) const STRIPES: usize = 2;

/// The stripe of this thread: threads take them in turn.
#[cfg(not(loom))]
#[inline]
pub(super) fn my_stripe() -> usize {
    crate::threads::thread_number() % STRIPES
}

#[cfg(loom)]
pub(super) use modelled::{my_stripe, take_stripe};

#[cfg(loom)]
mod modelled {
    use std::cell::Cell;

    loom::thread_local! {
        static MINE: Cell<usize> = Cell::new(0);
    }

    /// The stripe of this thread, 0 unless it took another.
    pub(in super::super) fn my_stripe() -> usize {
        MINE.with(Cell::get)
    }

    /// Makes `stripe` the one of this thread.
    #[cfg(test)]
    pub(in super::super) fn take_stripe(stripe: usize) {
        MINE.with(|mine| mine.set(stripe));
    }

    /// loom's lock, used as the real one is.
    #[derive(Debug)]
    pub(in super::super) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in super::super) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(in super::super) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}
