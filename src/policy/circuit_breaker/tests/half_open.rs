//! Claims about half-open, where most breakers go wrong.

use std::time::Duration;

use super::super::Outcome;
use super::super::TransitionReason::{HalfOpenTimeout, ProbeFailed, ProbeTimeout};
use super::*;
use crate::report::BreakerState::{Closed, HalfOpen as HalfOpened};

fn with_probes(max_probes: u32) -> BreakerParameters {
    BreakerParameters { half_open: HalfOpen { max_probes, ..parameters().half_open }, ..parameters() }
}

#[test]
fn half_open_is_capped_in_flight() {
    let mut bench = Bench::half_open(&with_probes(2));
    let first = bench.admitted();
    bench.wait(10);
    let _second = bench.admitted();
    let refusal = bench.refused();
    assert_eq!(refusal.state, HalfOpened);
    assert_eq!(refusal.retry_after, Duration::from_millis(40), "when the first lease ends");
    bench.settle(first, Outcome::Neutral);
    let _third = bench.admitted();
    bench.refused();
    assert_eq!(bench.breaker.statistics(bench.now()).probes_in_flight, 2);
}

#[test]
fn dropped_probe_frees_its_slot() {
    let mut bench = Bench::half_open(&parameters());
    let probe = bench.admitted();
    bench.refused();
    bench.breaker.release(probe);
    let _next = bench.admitted();
}

#[test]
fn cancelled_probe_neither_closes_nor_reopens() {
    let mut bench = Bench::half_open(&parameters());
    for _ in 0..10 {
        assert_eq!(bench.call(Outcome::Neutral), None);
    }
    bench.call(Outcome::Success);
    assert_eq!(bench.call(Outcome::Neutral), None);
    assert_eq!(bench.call(Outcome::Success).unwrap().to, Closed);
}

#[test]
fn one_failed_probe_reopens() {
    let mut bench = Bench::half_open(&parameters());
    bench.call(Outcome::Success);
    assert_eq!(bench.call(Outcome::Failure).unwrap().reason, ProbeFailed);
}

#[test]
fn hanging_probe_gives_its_slot_back_by_lease_and_counts_as_failed() {
    let mut bench = Bench::half_open(&parameters());
    let hanging = bench.admitted();
    bench.wait(49);
    assert_eq!(bench.advance(), None);
    bench.wait(1);
    assert_eq!(bench.advance().unwrap().reason, ProbeTimeout);
    assert_eq!(bench.breaker.statistics(bench.now()).probes_in_flight, 0);
    bench.wait(200);
    let _next = bench.admitted();
    assert_eq!(bench.settle(hanging, Outcome::Failure), None, "the probe was judged already");
    assert_eq!(bench.breaker.statistics(bench.now()).probes_in_flight, 1, "it gave back a slot that is another's");
}

#[test]
fn a_success_after_the_lease_counts_as_failed() {
    let mut bench = Bench::half_open(&parameters());
    let slow = bench.admitted();
    bench.wait(50);
    assert_eq!(bench.settle(slow, Outcome::Success).unwrap().reason, ProbeTimeout);
}

#[test]
fn straggler_does_not_close_half_open() {
    let mut bench = Bench::new(&parameters());
    let stragglers: Vec<Ticket> = (0..5).map(|_| bench.admitted()).collect();
    for _ in 0..3 {
        bench.call(Outcome::Failure);
    }
    bench.wait(100);
    bench.advance().unwrap();
    for straggler in stragglers {
        assert_eq!(bench.settle(straggler, Outcome::Success), None);
    }
    assert_eq!(bench.breaker.state(), HalfOpened);
}

#[test]
fn straggler_does_not_reopen_half_open() {
    let mut bench = Bench::new(&parameters());
    let straggler = bench.admitted();
    for _ in 0..3 {
        bench.call(Outcome::Failure);
    }
    bench.wait(100);
    bench.advance().unwrap();
    assert_eq!(bench.settle(straggler, Outcome::Failure), None);
    assert_eq!(bench.breaker.statistics(bench.now()).requests, 0);
}

#[test]
fn straggler_does_not_trip_what_closed_since() {
    let mut bench = Bench::new(&parameters());
    let stragglers: Vec<Ticket> = (0..5).map(|_| bench.admitted()).collect();
    for _ in 0..3 {
        bench.call(Outcome::Failure);
    }
    bench.wait(100);
    bench.call(Outcome::Success);
    bench.call(Outcome::Success);
    for straggler in stragglers {
        assert_eq!(bench.settle(straggler, Outcome::Failure), None);
    }
    assert_eq!(bench.breaker.state(), Closed);
}

#[test]
fn probe_of_an_earlier_half_open_does_not_decide_but_keeps_its_slot() {
    let lasting = BreakerParameters {
        half_open: HalfOpen { max_probes: 2, probe_timeout_ms: 300, ..parameters().half_open },
        ..parameters()
    };
    let mut bench = Bench::half_open(&lasting);
    let old = bench.admitted();
    bench.call(Outcome::Failure).unwrap();
    bench.wait(200);
    let _new = bench.admitted();
    bench.refused();
    assert_eq!(bench.settle(old, Outcome::Failure), None);
    assert_eq!(bench.breaker.state(), HalfOpened);
    let _other = bench.admitted();
}

#[test]
fn idle_half_open_stays_and_is_not_punished() {
    let mut bench = Bench::half_open(&parameters());
    bench.wait(1_000_000);
    assert_eq!(bench.advance(), None);
    let probe = bench.admitted();
    bench.wait(1);
    assert_eq!(bench.settle(probe, Outcome::Success), None);
    bench.wait(1_000_000);
    assert_eq!(bench.advance(), None, "little traffic is no failure");
    assert_eq!(bench.call(Outcome::Success).unwrap().to, Closed);
}

#[test]
fn half_open_whose_probes_never_tell_anything_reopens() {
    let mut bench = Bench::half_open(&parameters());
    for _ in 0..50 {
        assert_eq!(bench.call(Outcome::Neutral), None);
        bench.wait(10);
    }
    assert_eq!(bench.advance().unwrap().reason, HalfOpenTimeout);
    assert_eq!(bench.refused().retry_after, Duration::from_millis(200), "it counts as a failed half-open");
}

#[test]
fn a_success_gives_half_open_its_time_again() {
    let patient = BreakerParameters {
        half_open: HalfOpen { max_probes: 2, success_threshold: 9, probe_timeout_ms: 400, max_duration_ms: 500 },
        ..parameters()
    };
    let mut bench = Bench::half_open(&patient);
    for _ in 0..8 {
        let probe = bench.admitted();
        bench.wait(300);
        assert_eq!(bench.settle(probe, Outcome::Success), None);
    }
    assert!(bench.call(Outcome::Success).is_some());
}
