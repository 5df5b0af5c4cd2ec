//! Claims about a breaker shared by threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;

use super::super::{Outcome, Permit, SharedBreaker, Transition};
use super::*;
use crate::report::BreakerState;

const THREADS: u64 = 4;
const REQUESTS_PER_THREAD: u64 = 20_000;
const MAX_PROBES: u32 = 3;

/// What the threads share: a breaker, a time that all of them push on, and their own count of probes.
struct Ring {
    breaker: Arc<SharedBreaker>,
    now_ms: AtomicU64,
    probes: AtomicU32,
}

fn shared(parameters: &BreakerParameters) -> Arc<SharedBreaker> {
    SharedBreaker::new(settings(parameters), 7, at(0))
}

fn permit(breaker: &Arc<SharedBreaker>, now_ms: u64) -> Option<Permit> {
    match breaker.admit(at(now_ms)).decision {
        Decision::Admitted(permit) => Some(permit),
        Decision::Refused(_) => None,
    }
}

impl Ring {
    /// Sends requests that fail, succeed, hang over others and vanish; the transitions it was told of.
    fn run(&self, thread: u64) -> Vec<Transition> {
        let (mut transitions, mut held) = (Vec::new(), Vec::new());
        for request in 0..REQUESTS_PER_THREAD {
            let dice = dice(request * THREADS + thread);
            let now = at(self.now_ms.fetch_add(u64::from(dice < 40), Ordering::Relaxed));
            let admission = self.breaker.admit(now);
            transitions.extend(admission.transition);
            if let Decision::Admitted(permit) = admission.decision {
                if permit.is_probe() {
                    let in_flight = self.probes.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(in_flight <= MAX_PROBES, "{in_flight} probes in flight");
                }
                held.push(permit);
            }
            if held.len() > usize::try_from(dice % 4).unwrap() {
                transitions.extend(self.finish(held.swap_remove(0), dice));
            }
        }
        transitions.extend(held.into_iter().filter_map(|permit| self.finish(permit, 0)));
        transitions
    }

    fn finish(&self, permit: Permit, dice: u64) -> Option<Transition> {
        if permit.is_probe() {
            self.probes.fetch_sub(1, Ordering::SeqCst);
        }
        let now = at(self.now_ms.load(Ordering::Relaxed));
        match dice {
            0..20 => {
                drop(permit);
                None
            }
            20..40 => self.breaker.settle(permit, Outcome::Neutral, now),
            40..110 => self.breaker.settle(permit, Outcome::Failure, now),
            _ => self.breaker.settle(permit, Outcome::Success, now),
        }
    }
}

/// A number under 256 that looks random (the mixing of splitmix64).
fn dice(seed: u64) -> u64 {
    let mixed = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 56
}

#[test]
fn probes_in_flight_never_exceed_their_cap_and_every_transition_is_told_once() {
    let open = Open { base_duration_ms: 3, max_duration_ms: 12, jitter_percent: 50, honor_retry_after: false };
    // Leases that never end here, so that a probe holds its slot for as long as the thread holds the probe.
    let half_open =
        HalfOpen { max_probes: MAX_PROBES, success_threshold: 2, probe_timeout_ms: 86_400_000, max_duration_ms: 50 };
    let trip = Trip { consecutive_failures: Some(4), failure_rate: failure_rate(60).failure_rate, ..Trip::default() };
    let breaker = shared(&BreakerParameters { trip, open, half_open, recovery: Recovery::default() });
    let ring = Ring { breaker, now_ms: AtomicU64::new(0), probes: AtomicU32::new(0) };
    let mut transitions: Vec<Transition> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let ring = &ring;
                    move || ring.run(thread)
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    transitions.sort_by_key(|transition| transition.epoch);
    let epochs: Vec<u64> = transitions.iter().map(|transition| transition.epoch).collect();
    assert_eq!(epochs, (1..=transitions.len() as u64).collect::<Vec<_>>(), "a transition was lost or told twice");
    let mut state = BreakerState::Closed;
    for transition in &transitions {
        assert_eq!(transition.from, state);
        state = transition.to;
    }
    let shown = ring.breaker.statistics(at(ring.now_ms.load(Ordering::Relaxed)));
    assert_eq!(shown.state, state);
    assert_eq!(shown.transitions.entries().iter().map(|(_, _, count)| count).sum::<u64>(), transitions.len() as u64);
    assert_eq!(shown.probes_in_flight, 0, "every probe ended, and some slots did not come back");
    assert!(shown.transitions.entries().iter().all(|(_, _, count)| *count > 0), "not every change happened: {shown:?}");
}

#[test]
fn successes_that_took_no_lock_are_shown() {
    let breaker = shared(&parameters());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    breaker.settle(permit(&breaker, 5).unwrap(), Outcome::Success, at(5));
                }
            });
        }
    });
    assert_eq!(breaker.statistics(at(5)).requests, THREADS * 1_000);
}

#[test]
fn numbers_are_exact_whatever_threads_do_and_whoever_looks() {
    let window = RateWindow::Time(60_000);
    let trip = Trip {
        failure_rate: Some(FailureRate { percent: 100, window, min_requests: 1_000_000 }),
        slow_call_rate: Some(SlowCallRate { percent: 100, slower_than_ms: 9, window, min_requests: 1_000_000 }),
        ..Trip::default()
    };
    let breaker = shared(&tripping_by(trip));
    let (failures, slow) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (breaker, failures, slow) = (&breaker, &failures, &slow);
            scope.spawn(move || {
                for request in 0..REQUESTS_PER_THREAD {
                    let dice = dice(request * THREADS + thread);
                    let outcome = if dice < 3 { Outcome::Failure } else { Outcome::Success };
                    let took_ms = if dice > 250 { 9 } else { 8 };
                    failures.fetch_add(u64::from(dice < 3), Ordering::Relaxed);
                    slow.fetch_add(u64::from(dice > 250), Ordering::Relaxed);
                    let ended = Ended::after(Duration::from_millis(took_ms), outcome);
                    assert_eq!(breaker.settle(permit(breaker, request).unwrap(), ended, at(request)), None);
                    if dice == 100 {
                        let _ = breaker.statistics(at(request));
                    }
                }
            });
        }
    });
    let shown = breaker.statistics(at(0));
    let all = THREADS * REQUESTS_PER_THREAD;
    assert_eq!(shown.requests, all);
    assert_eq!(shown.failure_ratio, Some(failures.into_inner() as f64 / all as f64));
    assert_eq!(shown.slow_ratio, Some(slow.into_inner() as f64 / all as f64));
}

#[test]
fn dropped_permit_frees_the_probe_slot() {
    let breaker = shared(&parameters());
    for _ in 0..3 {
        breaker.settle(permit(&breaker, 0).unwrap(), Outcome::Failure, at(0));
    }
    let probe = permit(&breaker, 100).unwrap();
    assert!(probe.is_probe());
    assert!(permit(&breaker, 100).is_none());
    drop(probe);
    assert!(permit(&breaker, 100).is_some());
}

#[test]
fn a_failure_among_lock_free_successes_ends_nothing_but_its_own_row() {
    let breaker = shared(&parameters());
    for _ in 0..100 {
        breaker.settle(permit(&breaker, 0).unwrap(), Outcome::Failure, at(0));
        breaker.settle(permit(&breaker, 0).unwrap(), Outcome::Failure, at(0));
        breaker.settle(permit(&breaker, 0).unwrap(), Outcome::Success, at(0));
        breaker.settle(permit(&breaker, 0).unwrap(), Outcome::Success, at(0));
    }
    let shown = breaker.statistics(at(0));
    assert_eq!((shown.state, shown.requests, shown.failure_ratio), (BreakerState::Closed, 400, Some(0.5)));
}
