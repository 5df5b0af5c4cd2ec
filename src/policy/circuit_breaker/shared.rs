//! One breaker for many threads: a packed word that answers the common case, a lock for the rest.
//!
//! It must not decide anything by itself: whatever the word cannot answer goes to the [`Breaker`].
//! While closed, asking is one atomic load; a healthy breaker without a window is never locked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::admission::{Admission, Decision, Ended, Force, Outcome, Ticket, TicketKind};
use super::endpoints::Standing;
use super::engine::Breaker;
use super::settings::Settings;
use super::snapshot::{Origin, Snapshot, SnapshotError};
use super::statistics::Statistics;
use super::transition::Transition;

/// A circuit breaker that threads share.
#[derive(Debug)]
pub struct SharedBreaker {
    /// What the breaker was when it was last unlocked, as a [`Word`].
    word: AtomicU64,
    /// Successes not yet told to the breaker, to which they change nothing but what is shown.
    untold_successes: AtomicU64,
    breaker: Mutex<Breaker>,
}

/// Leave for one request, from a [`SharedBreaker`]. Dropped without [`Permit::settle`] it is a
/// neutral outcome, and gives a probe's slot back, so that a cancelled request cannot keep one.
#[derive(Debug)]
#[must_use = "a dropped permit is a neutral outcome"]
pub struct Permit {
    breaker: Arc<SharedBreaker>,
    ticket: Option<Ticket>,
}

/// A breaker's epoch, and two bits: whether requests pass without asking, and whether successes
/// need not be told.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl SharedBreaker {
    /// A closed breaker. `seed` decides its jitter.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Arc<Self> {
        Self::share(Breaker::new(settings, seed, now))
    }

    /// A breaker in the state of `snapshot`.
    ///
    /// # Errors
    /// [`SnapshotError`] when the snapshot is not one that a breaker with these settings can have.
    pub fn restore(settings: Settings, snapshot: &Snapshot, origin: Origin) -> Result<Arc<Self>, SnapshotError> {
        Breaker::restore(settings, snapshot, origin).map(Self::share)
    }

    /// Asks for one request to pass.
    #[inline]
    pub fn admit(self: &Arc<Self>, now: Instant) -> Admission<Permit> {
        let word = Word(self.word.load(Ordering::Acquire));
        let admission = if word.passes() {
            let ticket = Ticket { epoch: word.epoch(), kind: TicketKind::Counted };
            Admission { decision: Decision::Admitted(ticket), transition: None }
        } else {
            self.locked(now, |breaker| breaker.admit(now))
        };
        admission.map(|ticket| Permit { breaker: Arc::clone(self), ticket: Some(ticket) })
    }

    /// Tells how a request ended that this breaker let pass.
    #[inline]
    pub fn settle(&self, mut permit: Permit, ended: impl Into<Ended>, now: Instant) -> Option<Transition> {
        permit.ticket.take().and_then(|ticket| self.take_back(ticket, ended.into(), now))
    }

    /// Whether a request would pass at `now`, without a step, as [`Breaker::standing`].
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        if Word(self.word.load(Ordering::Acquire)).passes() {
            return Standing::Usable;
        }
        self.locked(now, |breaker| breaker.standing(now))
    }

    /// Does what is due. To be called now and then, since a breaker nobody asks notices nothing.
    pub fn advance(&self, now: Instant) -> Option<Transition> {
        self.locked(now, |breaker| breaker.advance(now))
    }

    /// Sets or clears a person's word, as [`Breaker::force`].
    pub fn force(&self, force: Option<Force>, now: Instant) {
        self.locked(now, |breaker| breaker.force(force, now));
    }

    /// Shows it as it is at `now`, without a step.
    #[must_use]
    pub fn statistics(&self, now: Instant) -> Statistics {
        self.locked(now, |breaker| breaker.statistics(now))
    }

    /// Its state at `now` as plain data, without a step.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.locked(now, |breaker| breaker.snapshot(now))
    }

    fn share(breaker: Breaker) -> Arc<Self> {
        let word = AtomicU64::new(Word::of(&breaker).0);
        Arc::new(Self { word, untold_successes: AtomicU64::new(0), breaker: Mutex::new(breaker) })
    }

    fn take_back(&self, ticket: Ticket, ended: Ended, now: Instant) -> Option<Transition> {
        self.locked(now, |breaker| breaker.settle(ticket, ended, now))
    }

    fn release(&self, ticket: Ticket) {
        // Only a probe holds anything that must be given back.
        if ticket.is_probe() {
            self.breaker.lock().release(ticket);
        }
    }

    /// Runs `step` with the lock held, and lets the word say what the breaker is then.
    fn locked<T>(&self, _now: Instant, step: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.lock();
        if self.untold_successes.load(Ordering::Relaxed) > 0 {
            breaker.count_good(self.untold_successes.swap(0, Ordering::Relaxed));
        }
        let result = step(&mut breaker);
        let word = Word::of(&breaker);
        // Only written when it changed: a needless store would take the cache line from every other thread.
        if self.word.load(Ordering::Relaxed) != word.0 {
            self.word.store(word.0, Ordering::Release);
        }
        result
    }
}

impl Permit {
    /// Whether the request is a probe of a half-open breaker.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_probe)
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.release(ticket);
        }
    }
}

impl Word {
    const PASSES: u64 = 1;
    const CLEAN: u64 = 2;
    const EPOCH_SHIFT: u32 = 2;

    fn of(breaker: &Breaker) -> Self {
        match breaker.passing_epoch() {
            Some(epoch) if breaker.is_clean() => Self::new(epoch, Self::PASSES | Self::CLEAN),
            Some(epoch) => Self::new(epoch, Self::PASSES),
            None => Self(0),
        }
    }

    fn new(epoch: u64, bits: u64) -> Self {
        // The two bits lost at the top would take centuries of transitions to matter.
        Self(epoch << Self::EPOCH_SHIFT | bits)
    }

    fn passes(self) -> bool {
        self.0 & Self::PASSES != 0
    }

    fn epoch(self) -> u64 {
        self.0 >> Self::EPOCH_SHIFT
    }

    /// Whether a success of `ticket` need not be told: it was counted in this very epoch, and all is clean.
    fn is_clean_for(self, ticket: &Ticket) -> bool {
        let Ticket { epoch, kind } = ticket;
        *kind == TicketKind::Counted && self == Self::new(*epoch, Self::PASSES | Self::CLEAN)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::config::{BreakerParameters, HalfOpen, Open, Recovery, Trip};

    fn shared(trip: Trip) -> Arc<SharedBreaker> {
        let open = Open { base_duration_ms: 100, max_duration_ms: 100, jitter_percent: 0, honor_retry_after: false };
        let half_open = HalfOpen { max_probes: 1, success_threshold: 1, probe_timeout_ms: 50, max_duration_ms: 50 };
        let settings =
            Settings::try_from(&BreakerParameters { trip, open, half_open, recovery: Recovery::default() }).unwrap();
        SharedBreaker::new(settings, 1, Instant::now())
    }

    #[test]
    #[cfg(any())]
    fn healthy_breaker_without_a_window_is_never_locked() {
        let breaker = shared(Trip { consecutive_failures: Some(3), ..Trip::default() });
        let now = Instant::now();
        let locked = breaker.breaker.lock();
        let (done, finished) = mpsc::channel();
        let other = Arc::clone(&breaker);
        let thread = thread::spawn(move || {
            let Decision::Admitted(permit) = other.admit(now).decision else { panic!("refused while closed") };
            assert_eq!(other.settle(permit, Outcome::Success, now), None);
            drop(other.admit(now));
            done.send(()).unwrap();
        });
        let answer = finished.recv_timeout(Duration::from_secs(30));
        drop(locked);
        thread.join().unwrap();
        assert_eq!(answer, Ok(()), "it waited for the lock");
        assert_eq!(breaker.statistics(now).requests, 1);
    }

    #[test]
    fn word_tells_what_the_breaker_is() {
        let breaker = shared(Trip { consecutive_failures: Some(2), ..Trip::default() });
        let now = Instant::now();
        let word = || Word(breaker.word.load(Ordering::Acquire));
        let fail = || {
            let Decision::Admitted(permit) = breaker.admit(now).decision else { panic!("refused while closed") };
            breaker.settle(permit, Outcome::Failure, now)
        };
        assert!(word() == Word::new(0, Word::PASSES | Word::CLEAN));
        assert_eq!(fail(), None);
        assert!(word() == Word::new(0, Word::PASSES), "a success would not end the row of failures");
        assert!(fail().is_some());
        assert!(word() == Word(0));
    }
}
