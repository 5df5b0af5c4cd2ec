//! Claims about rolling windows.

use super::super::Outcome;
use super::super::TransitionReason::FailureCount as ByCount;
use super::super::window::{TimeWindow, Totals};
use super::*;

const SUCCESS: Totals = Totals { failures: 0, slow: 0, requests: 1 };
const FAILURE: Totals = Totals { failures: 1, slow: 0, requests: 1 };

#[test]
fn failures_within_the_window_trip_it_whatever_is_between() {
    let mut bench = Bench::new(&tripping_by(failures(3, 1_000)));
    for _ in 0..2 {
        bench.call(Outcome::Failure);
        bench.call(Outcome::Success);
        bench.wait(400);
    }
    assert_eq!(bench.call(Outcome::Failure).unwrap().reason, ByCount);
}

#[test]
fn failures_that_left_the_window_do_not_count() {
    let mut bench = Bench::new(&tripping_by(failures(3, 1_000)));
    for _ in 0..100 {
        assert_eq!(bench.call(Outcome::Failure), None);
        bench.wait(500);
    }
}

#[test]
fn a_rate_is_judged_on_what_is_in_the_window() {
    let mut bench = Bench::new(&tripping_by(failure_rate(50)));
    for _ in 0..1_000 {
        bench.call(Outcome::Success);
    }
    bench.wait(1_000);
    for _ in 0..3 {
        assert_eq!(bench.call(Outcome::Failure), None);
    }
    assert!(bench.call(Outcome::Failure).is_some(), "old successes hide new failures");
}

#[test]
fn a_window_long_unused_is_empty_and_keeps_its_phase() {
    let mut window = TimeWindow::new(Duration::from_millis(100), at(0));
    window.record(FAILURE, at(5));
    assert_eq!(window.totals_at(at(99)).requests, 1);
    assert_eq!(window.totals_at(at(100)).requests, 0);
    assert_eq!(window.totals_at(at(u64::from(u32::MAX))).requests, 0);
    window.record(SUCCESS, at(1_000_019));
    assert_eq!(window.last_totals(), SUCCESS);
    assert_eq!(window.bucket_age(at(1_000_019)), Duration::from_millis(9));
}

#[test]
fn reading_a_window_equals_rolling_it() {
    let mut window = TimeWindow::new(Duration::from_millis(100), at(0));
    for ms in (0..400).step_by(3) {
        window.record(if ms % 2 == 0 { FAILURE } else { SUCCESS }, at(ms));
        for later in 0..200 {
            let mut rolled = window.clone();
            rolled.record(Totals::default(), at(ms + later));
            assert_eq!(window.totals_at(at(ms + later)), rolled.last_totals());
        }
    }
}
