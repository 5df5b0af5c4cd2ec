//! Claims about slow calls, and about windows over the last so many requests.

use proptest::prelude::*;

use super::super::TransitionReason::{FailureRate as ByFailures, ProbeFailed, ProbeSlow, SlowCallRate as BySlow};
use super::super::window::{CallWindow, Totals};
use super::*;
use crate::report::BreakerState::{Closed, HalfOpen as HalfOpened};

/// Trips by `percent` calls of 500 ms or longer among at least four.
fn slow(percent: u8, window: RateWindow) -> BreakerParameters {
    let slow_call_rate = Some(SlowCallRate { percent, slower_than_ms: 500, window, min_requests: 4 });
    tripping_by(Trip { slow_call_rate, ..Trip::default() })
}

fn after_ms(ms: u64, outcome: Outcome) -> Ended {
    Ended::after(Duration::from_millis(ms), outcome)
}

fn quick() -> Ended {
    after_ms(499, Outcome::Success)
}

fn late() -> Ended {
    after_ms(500, Outcome::Success)
}

#[test]
fn a_share_of_slow_calls_trips_it() {
    for window in [RateWindow::Time(1_000), RateWindow::Calls(4)] {
        let mut bench = Bench::new(&slow(50, window));
        assert_eq!(bench.call(late()), None);
        assert_eq!(bench.call(late()), None);
        assert_eq!(bench.call(quick()), None, "three requests are too few to judge");
        assert_eq!(bench.breaker.statistics(bench.now()).slow_ratio, Some(2.0 / 3.0));
        assert_eq!(bench.call(quick()).unwrap().reason, BySlow);
        assert_eq!(bench.breaker.statistics(bench.now()).slow_ratio, Some(0.5), "what made it open");
    }
}

#[test]
fn a_smaller_share_of_slow_calls_does_not_trip_it() {
    let mut bench = Bench::new(&slow(51, RateWindow::Calls(4)));
    for _ in 0..100 {
        assert_eq!(bench.call(quick()), None);
        assert_eq!(bench.call(late()), None);
    }
}

#[test]
fn a_slow_failure_is_slow_as_well() {
    let mut bench = Bench::new(&slow(100, RateWindow::Calls(10)));
    for _ in 0..3 {
        assert_eq!(bench.call(after_ms(900, Outcome::Failure)), None);
    }
    assert_eq!(bench.call(after_ms(900, Outcome::Failure)).unwrap().reason, BySlow);
}

#[test]
fn a_slow_cancellation_is_neutral() {
    let mut bench = Bench::new(&slow(1, RateWindow::Calls(10)));
    for _ in 0..10 {
        assert_eq!(bench.call(after_ms(900, Outcome::Neutral)), None);
    }
    assert_eq!(bench.breaker.statistics(bench.now()).requests, 0);
}

#[test]
fn without_a_rule_on_it_nothing_is_slow() {
    let mut bench = Bench::half_open(&parameters());
    assert_eq!(bench.call(after_ms(u64::MAX, Outcome::Success)), None);
    assert_eq!(bench.call(after_ms(u64::MAX, Outcome::Success)).unwrap().to, Closed);
    assert_eq!(bench.breaker.statistics(bench.now()).slow_ratio, None);
}

#[test]
fn a_slow_probe_reopens() {
    let trip = Trip { consecutive_failures: Some(3), ..slow(50, RateWindow::Calls(10)).trip };
    let mut bench = Bench::half_open(&tripping_by(trip));
    assert_eq!(bench.call(quick()), None);
    assert_eq!(bench.call(late()).unwrap().reason, ProbeSlow);
    bench.wait(200);
    assert_eq!(bench.call(after_ms(900, Outcome::Failure)).unwrap().reason, ProbeFailed);
}

#[test]
fn the_last_calls_count_however_old_they_are() {
    let failure_rate = Some(FailureRate { percent: 50, window: RateWindow::Calls(4), min_requests: 4 });
    let mut bench = Bench::new(&tripping_by(Trip { failure_rate, ..Trip::default() }));
    for outcome in [Outcome::Failure, Outcome::Success, Outcome::Success] {
        assert_eq!(bench.call(outcome), None);
        bench.wait(86_400_000);
    }
    assert_eq!(bench.breaker.statistics(bench.now()).requests, 3);
    assert_eq!(bench.call(Outcome::Failure).unwrap().reason, ByFailures);
}

#[test]
fn calls_beyond_the_last_ones_do_not_count() {
    let failure_rate = Some(FailureRate { percent: 50, window: RateWindow::Calls(4), min_requests: 4 });
    let mut bench = Bench::new(&tripping_by(Trip { failure_rate, ..Trip::default() }));
    for _ in 0..100 {
        for outcome in [Outcome::Failure, Outcome::Success, Outcome::Success, Outcome::Success] {
            assert_eq!(bench.call(outcome), None);
        }
    }
}

#[test]
fn rules_with_windows_of_their_own_judge_by_them() {
    let failure_rate = Some(FailureRate { percent: 100, window: RateWindow::Calls(2), min_requests: 2 });
    let slow_call_rate =
        Some(SlowCallRate { percent: 50, slower_than_ms: 500, window: RateWindow::Calls(8), min_requests: 8 });
    let both = tripping_by(Trip { failure_rate, slow_call_rate, ..Trip::default() });
    let mut bench = Bench::new(&both);
    for _ in 0..4 {
        assert_eq!(bench.call(late()), None);
    }
    for _ in 0..3 {
        assert_eq!(bench.call(quick()), None);
    }
    assert_eq!(bench.breaker.statistics(bench.now()).requests, 2, "shown is what the failure rate looks at");
    assert_eq!(bench.call(quick()).unwrap().reason, BySlow);
    let mut bench = Bench::new(&both);
    assert_eq!(bench.call(Outcome::Failure), None);
    assert_eq!(bench.call(Outcome::Failure).unwrap().reason, ByFailures);
}

#[test]
fn counters_by_calls_reset_on_closing() {
    let failure_rate = Some(FailureRate { percent: 50, window: RateWindow::Calls(4), min_requests: 4 });
    let trip = Trip { consecutive_failures: Some(3), failure_rate, ..Trip::default() };
    let mut bench = Bench::half_open(&tripping_by(trip));
    assert_eq!(bench.breaker.state(), HalfOpened);
    bench.call(Outcome::Success);
    assert_eq!(bench.call(Outcome::Success).unwrap().to, Closed);
    assert_eq!(bench.breaker.statistics(bench.now()).requests, 0);
    for outcome in [Outcome::Failure, Outcome::Success, Outcome::Success] {
        assert_eq!(bench.call(outcome), None, "calls from before the trip still count");
    }
}

/// What happens to a window over calls: one request, or many good ones at once.
#[derive(Clone, Debug)]
enum Filling {
    One { failed: bool, slow: bool },
    Good(u64),
}

fn any_filling() -> impl Strategy<Value = Filling> {
    let good = prop_oneof![0..5_u64, 60..70_u64, 0..400_u64, Just(u64::MAX)];
    prop_oneof![
        6 => any::<(bool, bool)>().prop_map(|(failed, slow)| Filling::One { failed, slow }),
        1 => good.prop_map(Filling::Good),
    ]
}

proptest! {
    #[test]
    fn a_window_over_calls_holds_exactly_the_last_ones(
        calls in prop_oneof![1..5_u32, 60..70_u32, 120..200_u32],
        fillings in proptest::collection::vec(any_filling(), 0..300),
    ) {
        let mut window = CallWindow::new(calls);
        let mut expected: Vec<Totals> = Vec::new();
        for filling in fillings {
            let (request, count) = match filling {
                Filling::One { failed, slow } => {
                    (Totals { failures: failed.into(), slow: slow.into(), requests: 1 }, 1)
                }
                Filling::Good(count) => (Totals { failures: 0, slow: 0, requests: 1 }, count),
            };
            match filling {
                Filling::One { .. } => window.record(request),
                Filling::Good(count) => window.add_good(count),
            }
            expected.extend((0..count.min(calls.into())).map(|_| request));
            expected.drain(..expected.len().saturating_sub(calls as usize));
            prop_assert_eq!(window.oldest_first().collect::<Vec<_>>(), expected.clone());
            let sum = |part: fn(&Totals) -> u64| expected.iter().map(part).sum::<u64>();
            let totals = Totals { failures: sum(|t| t.failures), slow: sum(|t| t.slow), requests: sum(|t| t.requests) };
            prop_assert_eq!(window.totals(), totals);
        }
    }
}
