//! Claims about threads on one breaker, for every order that their steps can take (`make loom`).
//!
//! loom runs each claim once for each order of loads, stores, exchanges and lockings, weak memory
//! included. It must use the same code as the other build, which `sync` sees to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::thread;

use super::sync::take_stripe;
use super::{Decision, Outcome, Permit, Settings, SharedBreaker, Transition};
use crate::config::{BreakerParameters, FailureRate, HalfOpen, Open, RateWindow, Recovery, Trip};
use crate::report::BreakerState;

/// How often a thread may be interrupted where it need not be. Bugs that need more are rare, and orders without end.
const MAX_PREEMPTIONS: usize = 3;

/// Runs `claim` in every order.
fn in_every_order(claim: impl Fn(Instant) + Sync + Send + 'static) {
    let start = Instant::now();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(MAX_PREEMPTIONS);
    model.check(move || claim(start));
}

fn breaker(trip: Trip, now: Instant) -> Arc<SharedBreaker> {
    let parameters = BreakerParameters {
        trip,
        open: Open { base_duration_ms: 10, max_duration_ms: 10, jitter_percent: 0, honor_retry_after: false },
        half_open: HalfOpen { max_probes: 1, success_threshold: 1, probe_timeout_ms: 50, max_duration_ms: 50 },
        recovery: Recovery::default(),
    };
    SharedBreaker::new(Settings::try_from(&parameters).unwrap(), 1, now)
}

fn failures_in_a_row(count: u32) -> Trip {
    Trip { consecutive_failures: Some(count), ..Trip::default() }
}

fn failure_rate(percent: u8, min_requests: u32, window_ms: u64) -> Trip {
    let window = RateWindow::Time(window_ms);
    Trip { failure_rate: Some(FailureRate { percent, window, min_requests }), ..Trip::default() }
}

fn permit(breaker: &Arc<SharedBreaker>, now: Instant) -> Permit {
    match breaker.admit(now).decision {
        Decision::Admitted(permit) => permit,
        Decision::Refused(refusal) => panic!("refused: {refusal:?}"),
    }
}

/// One request from beginning to end, if it passes.
fn call(breaker: &Arc<SharedBreaker>, outcome: Outcome, now: Instant) -> Option<Transition> {
    match breaker.admit(now).decision {
        Decision::Admitted(permit) => breaker.settle(permit, outcome, now),
        Decision::Refused(_) => None,
    }
}

fn on_stripe<T: 'static>(stripe: usize, run: impl FnOnce() -> T + 'static) -> thread::JoinHandle<T> {
    thread::spawn(move || {
        take_stripe(stripe);
        run()
    })
}

#[test]
fn every_success_is_shown_once_whoever_looks_meanwhile() {
    in_every_order(|now| {
        let shared = breaker(failure_rate(50, 2, 60_000), now);
        let threads: Vec<_> = (0..2)
            .map(|stripe| {
                let shared = Arc::clone(&shared);
                on_stripe(stripe, move || call(&shared, Outcome::Success, now))
            })
            .collect();
        let seen = shared.statistics(now).requests;
        assert!(threads.into_iter().all(|thread| thread.join().unwrap().is_none()));
        assert!(seen <= 2);
        assert_eq!(shared.statistics(now).requests, 2);
    });
}

#[test]
fn threads_that_share_a_stripe_lose_nothing() {
    in_every_order(|now| {
        let shared = breaker(failure_rate(50, 2, 60_000), now);
        let other = Arc::clone(&shared);
        let thread = on_stripe(0, move || call(&other, Outcome::Success, now));
        call(&shared, Outcome::Success, now);
        thread.join().unwrap();
        assert_eq!(shared.statistics(now).requests, 2);
    });
}

#[test]
fn a_straggler_on_a_stripe_is_not_counted_in_a_later_epoch() {
    in_every_order(|now| {
        let shared = breaker(failures_in_a_row(1), now);
        let (other, straggler) = (Arc::clone(&shared), permit(&shared, now));
        let thread = on_stripe(1, move || other.settle(straggler, Outcome::Success, now));
        assert_eq!(call(&shared, Outcome::Failure, now).unwrap().to, BreakerState::Open);
        let later = now + Duration::from_millis(10);
        let probe = permit(&shared, later);
        assert_eq!(shared.settle(probe, Outcome::Success, later).unwrap().to, BreakerState::Closed);
        assert_eq!(thread.join().unwrap(), None);
        assert_eq!(shared.statistics(later).requests, 0, "it was counted after closing");
    });
}

#[test]
fn no_success_is_missing_when_a_share_of_failures_is_judged() {
    in_every_order(|now| {
        let shared = breaker(failure_rate(33, 3, 60_000), now);
        let other = Arc::clone(&shared);
        let thread = on_stripe(1, move || {
            let told = [call(&other, Outcome::Success, now), call(&other, Outcome::Success, now)];
            told.into_iter().flatten().count()
        });
        let told = usize::from(call(&shared, Outcome::Failure, now).is_some());
        assert_eq!(told + thread.join().unwrap(), 1, "one failure of three trips it once, in whatever order they end");
        assert_eq!(shared.statistics(now).state, BreakerState::Open);
    });
}

#[test]
fn a_success_at_the_end_of_a_bucket_is_in_the_window() {
    in_every_order(|now| {
        let shared = breaker(failure_rate(50, 2, 10), now);
        let (other, next_bucket) = (Arc::clone(&shared), now + Duration::from_millis(1));
        let thread = on_stripe(1, move || call(&other, Outcome::Success, now));
        call(&shared, Outcome::Success, next_bucket);
        thread.join().unwrap();
        assert_eq!(shared.statistics(next_bucket).requests, 2);
        assert!(shared.statistics(now + Duration::from_millis(10)).requests >= 1, "both are in the first bucket");
        let gone = now + Duration::from_millis(11);
        assert_eq!(shared.statistics(gone).requests, 0);
    });
}

#[test]
fn a_success_after_the_end_of_a_bucket_is_not_in_it() {
    in_every_order(|now| {
        let shared = breaker(failure_rate(50, 2, 10), now);
        let (other, next_bucket) = (Arc::clone(&shared), now + Duration::from_millis(1));
        let thread = on_stripe(1, move || call(&other, Outcome::Success, next_bucket));
        call(&shared, Outcome::Success, next_bucket);
        thread.join().unwrap();
        assert_eq!(shared.statistics(now + Duration::from_millis(10)).requests, 2, "the first bucket has left");
    });
}

#[test]
fn a_probe_that_is_dropped_gives_its_slot_back() {
    in_every_order(|now| {
        let shared = breaker(failures_in_a_row(1), now);
        call(&shared, Outcome::Failure, now);
        let later = now + Duration::from_millis(10);
        let probe = permit(&shared, later);
        let thread = on_stripe(1, move || drop(probe));
        // Refused as long as the other one holds the only slot.
        let meanwhile = shared.admit(later).decision;
        thread.join().unwrap();
        drop(meanwhile);
        assert!(permit(&shared, later).is_probe());
    });
}
