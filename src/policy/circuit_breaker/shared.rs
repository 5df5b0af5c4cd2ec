//! One breaker for many threads: stripes that take the common case, a lock for the rest.
//!
//! It must not decide anything by itself: whatever could change a decision goes to the [`Breaker`], with
//! the stripes closed. While it is closed and no success could trip it, nobody takes the lock.

use std::sync::Arc;
use std::time::Instant;

use super::admission::{Admission, Decision, Ended, Force, Outcome, Ticket, TicketKind};
use super::endpoints::Standing;
use super::engine::Breaker;
use super::settings::Settings;
use super::snapshot::{Origin, Snapshot, SnapshotError};
use super::statistics::Statistics;
use super::stripes::Stripes;
use super::sync::{AtomicU64, Mutex, Ordering};
use super::transition::Transition;

/// A circuit breaker that threads share.
#[derive(Debug)]
pub struct SharedBreaker {
    /// Open while the breaker is clean: requests pass by them, and successes are counted on them.
    stripes: Stripes,
    /// Whether requests pass without asking where the stripes are closed, as a [`Word`].
    word: AtomicU64,
    breaker: Mutex<Breaker>,
}

/// Leave for one request, to be given to [`SharedBreaker::settle`] of the same breaker. Dropped it is a
/// neutral outcome, and gives a probe's slot back, so that a cancelled request cannot keep one.
#[derive(Debug)]
#[must_use = "a dropped permit is a neutral outcome"]
pub struct Permit {
    /// The address of the breaker that gave it. What this costs is less than what sharing an [`Arc`] costs:
    /// every thread would write to its one counter.
    breaker: usize,
    /// When it was counted, or [`NO_EPOCH`].
    epoch: u64,
    /// Only a probe has anything to give back; apart from the rest, so that the others are three words in registers.
    probe: Option<Box<Probe>>,
}

/// An epoch that never is: in it nothing decides.
const NO_EPOCH: u64 = u64::MAX;

/// A probe's slot, given back when dropped.
#[derive(Debug)]
struct Probe {
    shared: Arc<SharedBreaker>,
    ticket: Option<Ticket>,
}

/// A breaker's epoch plus one while every request passes, or 0 while requests must ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        match self.stripes.epoch() {
            Some(epoch) => self.pass(epoch),
            None => self.ask(now),
        }
    }

    /// Tells how a request ended that this breaker let pass. A permit of another breaker is as if dropped.
    #[inline]
    pub fn settle(&self, permit: Permit, ended: impl Into<Ended>, now: Instant) -> Option<Transition> {
        let Permit { breaker, epoch, probe } = permit;
        let ended = ended.into();
        if let Some(probe) = probe {
            return self.settle_probe(probe, ended, now);
        }
        let good = ended.outcome == Outcome::Success && breaker == self.address();
        if good && self.stripes.count(epoch, ended.took, now) {
            return None;
        }
        self.settle_counted((breaker, epoch), ended, now)
    }

    /// Whether a request would pass at `now`, without a step, as [`Breaker::standing`].
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        if self.passing().is_some() { Standing::Usable } else { self.locked(|breaker| breaker.standing(now)) }
    }

    /// Does what is due. To be called now and then, since a breaker nobody asks notices nothing.
    pub fn advance(&self, now: Instant) -> Option<Transition> {
        // Nothing is ever due while every request passes, and so it costs little to visit thousands.
        if self.passing().is_some() { None } else { self.locked(|breaker| breaker.advance(now)) }
    }

    /// Sets or clears a person's word, as [`Breaker::force`].
    pub fn force(&self, force: Option<Force>, now: Instant) {
        self.locked(|breaker| breaker.force(force, now));
    }

    /// Shows it as it is at `now`, without a step.
    #[must_use]
    pub fn statistics(&self, now: Instant) -> Statistics {
        self.locked(|breaker| breaker.statistics(now))
    }

    /// Its state at `now` as plain data, without a step.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.locked(|breaker| breaker.snapshot(now))
    }

    fn share(breaker: Breaker) -> Arc<Self> {
        let slower_than = breaker.settings.slow_call_rate.map(|rule| rule.slower_than);
        let stripes = Stripes::new(slower_than, breaker.latest);
        let shared = Self { stripes, word: AtomicU64::new(0), breaker: Mutex::new(breaker) };
        shared.locked(|_| ());
        Arc::new(shared)
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    #[inline]
    fn pass(&self, epoch: u64) -> Admission<Permit> {
        let permit = Permit { breaker: self.address(), epoch, probe: None };
        Admission { decision: Decision::Admitted(permit), transition: None }
    }

    #[cold]
    fn ask(self: &Arc<Self>, now: Instant) -> Admission<Permit> {
        if let Some(epoch) = Word(self.word.load(Ordering::Acquire)).epoch() {
            return self.pass(epoch);
        }
        self.locked(|breaker| breaker.admit(now)).map(|ticket| {
            let (epoch, probe) = match ticket.kind {
                TicketKind::Counted => (ticket.epoch, None),
                TicketKind::Untracked => (NO_EPOCH, None),
                TicketKind::Probe(_) => {
                    (ticket.epoch, Some(Box::new(Probe { shared: Arc::clone(self), ticket: Some(ticket) })))
                }
            };
            Permit { breaker: self.address(), epoch, probe }
        })
    }

    #[cold]
    fn settle_counted(&self, permit: (usize, u64), ended: Ended, now: Instant) -> Option<Transition> {
        let (breaker, epoch) = permit;
        let ticket = Ticket { epoch, kind: TicketKind::Counted };
        if breaker == self.address() { self.locked(|breaker| breaker.settle(ticket, ended, now)) } else { None }
    }

    /// Takes the box as it is: a reference to what is in it would keep every permit in memory, not in registers.
    #[cold]
    #[allow(clippy::boxed_local)]
    fn settle_probe(&self, mut probe: Box<Probe>, ended: Ended, now: Instant) -> Option<Transition> {
        if probe.shared.address() != self.address() {
            return None;
        }
        let ticket = probe.ticket.take()?;
        self.locked(|breaker| breaker.settle(ticket, ended, now))
    }

    /// The epoch in which every request passes, if it does.
    fn passing(&self) -> Option<u64> {
        self.stripes.epoch().or_else(|| Word(self.word.load(Ordering::Acquire)).epoch())
    }

    /// Runs `step` with the lock held and the stripes closed, with all they counted told to the breaker.
    fn locked<T>(&self, step: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.lock();
        let good = self.stripes.close();
        if good > 0 {
            breaker.count_good(good);
        }
        let result = step(&mut breaker);
        let word = Word::of(&breaker);
        // Only written when it changed: a needless store would take the cache line from every other thread.
        if self.word.load(Ordering::Relaxed) != word.0 {
            self.word.store(word.0, Ordering::Release);
        }
        if breaker.is_clean() {
            self.stripes.open(breaker.epoch, breaker.windows.stands_until());
        }
        result
    }
}

impl Permit {
    /// Whether the request is a probe of a half-open breaker.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.locked(|breaker| breaker.release(ticket));
        }
    }
}

impl Word {
    fn of(breaker: &Breaker) -> Self {
        Self(breaker.passing_epoch().map_or(0, |epoch| epoch + 1))
    }

    fn epoch(self) -> Option<u64> {
        self.0.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::config::{BreakerParameters, FailureRate, HalfOpen, Open, RateWindow, Recovery, Trip};

    fn shared(trip: Trip) -> Arc<SharedBreaker> {
        let open = Open { base_duration_ms: 100, max_duration_ms: 100, jitter_percent: 0, honor_retry_after: false };
        let half_open = HalfOpen { max_probes: 1, success_threshold: 1, probe_timeout_ms: 50, max_duration_ms: 50 };
        let settings =
            Settings::try_from(&BreakerParameters { trip, open, half_open, recovery: Recovery::default() }).unwrap();
        SharedBreaker::new(settings, 1, Instant::now())
    }

    fn rate() -> FailureRate {
        FailureRate { percent: 50, window: RateWindow::Time(60_000), min_requests: 2 }
    }

    #[test]
    fn clean_breaker_is_never_locked() {
        let breaker = shared(Trip { consecutive_failures: Some(3), failure_rate: Some(rate()), ..Trip::default() });
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
        assert_eq!((word().epoch(), breaker.stripes.epoch()), (Some(0), Some(0)));
        assert_eq!(fail(), None);
        assert_eq!((word().epoch(), breaker.stripes.epoch()), (Some(0), None), "a success would not end the row");
        assert!(fail().is_some());
        assert_eq!((word().epoch(), breaker.stripes.epoch()), (None, None));
    }

    #[test]
    fn a_permit_of_another_breaker_decides_nothing() {
        let (one, other) = (shared(Trip { consecutive_failures: Some(1), ..Trip::default() }), shared(Trip::default()));
        let now = Instant::now();
        let Decision::Admitted(permit) = other.admit(now).decision else { panic!("refused while closed") };
        assert_eq!(one.settle(permit, Outcome::Failure, now), None);
        assert_eq!((one.statistics(now).requests, other.statistics(now).requests), (0, 0));
    }
}
