//! Claims about tripping, staying open and closing.

use std::time::Duration;

use super::super::TransitionReason::{ConsecutiveFailures, FailureRate, OpenElapsed, ProbesSucceeded};
use super::super::{Breaker, Outcome};
use super::*;
use crate::report::BreakerState::{Closed, HalfOpen, Open as Opened};

#[test]
fn failures_in_a_row_trip_it() {
    let mut bench = Bench::new(&parameters());
    assert_eq!(bench.call(Outcome::Failure), None);
    assert_eq!(bench.call(Outcome::Failure), None);
    let transition = bench.call(Outcome::Failure).unwrap();
    assert_eq!((transition.from, transition.to), (Closed, Opened));
    assert_eq!(transition.reason, ConsecutiveFailures);
    assert_eq!(transition.at, bench.now());
    let refusal = bench.refused();
    assert_eq!((refusal.state, refusal.forced), (Opened, None));
    assert_eq!(refusal.retry_after, Duration::from_millis(100));
}

#[test]
fn a_success_between_failures_begins_the_row_anew() {
    let mut bench = Bench::new(&parameters());
    for _ in 0..10 {
        assert_eq!(bench.call(Outcome::Failure), None);
        assert_eq!(bench.call(Outcome::Failure), None);
        assert_eq!(bench.call(Outcome::Success), None);
    }
}

#[test]
fn without_trip_rules_it_never_trips() {
    let mut bench = Bench::new(&tripping_by(Trip::default()));
    for _ in 0..10_000 {
        assert_eq!(bench.call(Outcome::Failure), None);
    }
}

#[test]
fn cancellation_neither_trips_nor_clears() {
    let mut bench = Bench::new(&parameters());
    bench.call(Outcome::Failure);
    bench.call(Outcome::Failure);
    for _ in 0..10 {
        assert_eq!(bench.call(Outcome::Neutral), None);
    }
    assert_eq!(bench.breaker.statistics(bench.now()).requests, 2);
    assert!(bench.call(Outcome::Failure).is_some(), "a cancelled request ended the row of failures");
}

#[test]
fn a_share_of_failures_trips_it_once_there_are_enough_requests() {
    let mut bench = Bench::new(&tripping_by(failure_rate(50)));
    assert_eq!(bench.call(Outcome::Failure), None);
    assert_eq!(bench.call(Outcome::Failure), None);
    assert_eq!(bench.call(Outcome::Success), None, "three requests are too few to judge");
    assert_eq!(bench.call(Outcome::Success).unwrap().reason, FailureRate);
}

#[test]
fn a_smaller_share_of_failures_does_not_trip_it() {
    let mut bench = Bench::new(&tripping_by(failure_rate(51)));
    for _ in 0..100 {
        assert_eq!(bench.call(Outcome::Success), None);
        assert_eq!(bench.call(Outcome::Failure), None);
    }
}

#[test]
fn counters_reset_on_closing() {
    let trip =
        Trip { consecutive_failures: Some(3), failure_rate: failure_rate(50).failure_rate, ..failures(3, 60_000) };
    let mut bench = Bench::half_open(&tripping_by(trip));
    bench.call(Outcome::Success);
    assert_eq!(bench.call(Outcome::Success).unwrap().to, Closed);
    assert_eq!(bench.breaker.statistics(bench.now()).requests, 0);
    assert_eq!(bench.call(Outcome::Failure), None);
    assert_eq!(bench.call(Outcome::Failure), None, "failures from before the trip still count");
}

#[test]
fn probes_close_it_again() {
    let mut bench = Bench::open(&parameters());
    bench.wait(99);
    bench.refused();
    bench.wait(1);
    let asked = bench.ask();
    assert_eq!(asked.transition.map(|transition| (transition.to, transition.reason)), Some((HalfOpen, OpenElapsed)));
    let Decision::Admitted(probe) = asked.decision else { panic!("the first probe was refused") };
    assert!(probe.is_probe());
    assert_eq!(bench.settle(probe, Outcome::Success), None);
    let closed = bench.call(Outcome::Success).unwrap();
    assert_eq!((closed.from, closed.to, closed.reason), (HalfOpen, Closed, ProbesSucceeded));
    assert!(!bench.admitted().is_probe());
}

#[test]
fn open_time_is_noticed_without_traffic() {
    let mut bench = Bench::open(&parameters());
    bench.wait(99);
    assert_eq!(bench.advance(), None);
    bench.wait(1);
    assert_eq!(bench.advance().unwrap().reason, OpenElapsed);
    assert_eq!(bench.advance(), None);
}

#[test]
fn open_time_doubles_with_each_failed_half_open_and_is_capped() {
    let mut bench = Bench::open(&parameters());
    for open_ms in [100, 200, 400, 800, 1_000, 1_000, 1_000] {
        assert_eq!(bench.refused().retry_after, Duration::from_millis(open_ms));
        bench.wait(open_ms);
        bench.call(Outcome::Failure).unwrap();
    }
}

#[test]
fn closing_takes_the_open_time_back_to_its_base() {
    let mut bench = Bench::half_open(&parameters());
    bench.call(Outcome::Failure).unwrap();
    bench.wait(200);
    bench.call(Outcome::Success);
    assert_eq!(bench.call(Outcome::Success).unwrap().to, Closed);
    for _ in 0..3 {
        bench.call(Outcome::Failure);
    }
    assert_eq!(bench.refused().retry_after, Duration::from_millis(100));
}

#[test]
fn open_time_stays_capped_after_any_number_of_failed_half_opens() {
    let longest = BreakerParameters {
        open: Open {
            base_duration_ms: 86_400_000,
            max_duration_ms: 86_400_000,
            jitter_percent: 100,
            honor_retry_after: false,
        },
        ..parameters()
    };
    let mut bench = Bench::open(&longest);
    for _ in 0..100 {
        bench.wait(2 * 86_400_000);
        bench.call(Outcome::Failure).unwrap();
        assert!(bench.refused().retry_after <= Duration::from_millis(2 * 86_400_000));
    }
}

#[test]
fn jitter_stays_within_its_share_and_spreads_a_fleet() {
    let jittered = BreakerParameters { open: Open { jitter_percent: 10, ..parameters().open }, ..parameters() };
    let mut open_times: Vec<u64> = (0..200)
        .map(|seed| {
            let breaker = Breaker::new(settings(&jittered), seed, at(0));
            let mut bench = Bench { breaker, now_ms: 0 };
            (0..3).for_each(|_| assert!(bench.call(Outcome::Failure).is_none_or(|transition| transition.to == Opened)));
            u64::try_from(bench.refused().retry_after.as_millis()).unwrap()
        })
        .collect();
    assert!(open_times.iter().all(|open_ms| (100..=110).contains(open_ms)), "{open_times:?}");
    open_times.sort_unstable();
    open_times.dedup();
    assert_eq!(open_times.len(), 11, "not every choice was taken: {open_times:?}");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let jittered = BreakerParameters { open: Open { jitter_percent: 100, ..parameters().open }, ..parameters() };
    let history = || {
        let mut bench = Bench::open(&jittered);
        let mut waits = Vec::new();
        for _ in 0..20 {
            let wait = bench.refused().retry_after;
            waits.push(wait);
            bench.wait(u64::try_from(wait.as_millis()).unwrap());
            bench.call(Outcome::Failure).unwrap();
        }
        waits
    };
    assert_eq!(history(), history());
}

#[test]
fn time_that_goes_back_a_little_between_threads_changes_nothing() {
    let mut bench = Bench::open(&parameters());
    bench.wait(100);
    bench.advance().unwrap();
    let early = bench.breaker.admit(at(bench.now_ms - 60));
    let Decision::Admitted(probe) = early.decision else { panic!("half-open forgot that it is") };
    bench.wait(49);
    assert_eq!(bench.settle(probe, Outcome::Success), None, "the lease began before the half-open did");
}

#[test]
fn statistics_tell_what_happened() {
    let mut bench = Bench::open(&parameters());
    bench.wait(40);
    bench.refused();
    bench.refused();
    let shown = bench.breaker.statistics(bench.now());
    assert_eq!((shown.state, shown.since, shown.reason), (Opened, at(0), Some(ConsecutiveFailures)));
    assert_eq!((shown.trips, shown.last_trip, shown.rejected), (1, Some(at(0)), 2));
    assert_eq!((shown.requests, shown.failure_ratio), (3, Some(1.0)), "what made it open");
    assert_eq!(shown.next_probe, Some(at(100)));
    bench.wait(60);
    bench.call(Outcome::Failure);
    let shown = bench.breaker.statistics(bench.now());
    assert_eq!(shown.trips, 1, "a failed half-open is not a trip");
    let counts: Vec<u64> = shown.transitions.entries().iter().map(|(_, _, count)| *count).collect();
    assert_eq!(counts, [1, 1, 1, 0]);
}
