//! Claims about how long it stays open when the upstream says so, and how traffic comes back.

use super::super::{Force, Outcome};
use super::*;
use crate::config::ForcedState::ForcedClosed;
use crate::report::BreakerState::{Closed, Open as Opened};

fn honoring(jitter_percent: u8) -> BreakerParameters {
    BreakerParameters { open: Open { honor_retry_after: true, jitter_percent, ..parameters().open }, ..parameters() }
}

fn failed_asking(retry_after_ms: u64) -> Ended {
    Ended { retry_after: Some(Duration::from_millis(retry_after_ms)), ..Outcome::Failure.into() }
}

/// One whose last of three failures asked for this.
fn opened_asking(parameters: &BreakerParameters, retry_after_ms: u64) -> Bench {
    let mut bench = Bench::new(parameters);
    bench.call(Outcome::Failure);
    bench.call(Outcome::Failure);
    assert_eq!(bench.call(failed_asking(retry_after_ms)).unwrap().to, Opened);
    bench
}

fn ramping(ramp_ms: u64) -> Bench {
    let mut bench = Bench::half_open(&BreakerParameters { recovery: Recovery { ramp_ms }, ..parameters() });
    bench.call(Outcome::Success);
    assert_eq!(bench.call(Outcome::Success).unwrap().to, Closed);
    bench
}

/// Whether each of so many requests that ask now passes.
fn asks(bench: &mut Bench, count: usize) -> Vec<bool> {
    (0..count).map(|_| matches!(bench.ask().decision, Decision::Admitted(_))).collect()
}

#[test]
fn retry_after_lengthens_the_open_time() {
    assert_eq!(opened_asking(&honoring(0), 700).refused().retry_after, Duration::from_millis(700));
}

#[test]
fn retry_after_does_not_shorten_the_open_time() {
    assert_eq!(opened_asking(&honoring(0), 1).refused().retry_after, Duration::from_millis(100));
}

#[test]
fn retry_after_is_capped() {
    for asked_ms in [1_001, 86_400_000, u64::MAX] {
        assert_eq!(opened_asking(&honoring(0), asked_ms).refused().retry_after, Duration::from_millis(1_000));
    }
    let mut bench = Bench::new(&honoring(0));
    bench.call(Outcome::Failure);
    bench.call(Outcome::Failure);
    bench.call(Ended { retry_after: Some(Duration::MAX), ..Outcome::Failure.into() });
    assert_eq!(bench.refused().retry_after, Duration::from_millis(1_000));
}

#[test]
fn retry_after_is_ignored_unless_honored() {
    assert_eq!(opened_asking(&parameters(), 700).refused().retry_after, Duration::from_millis(100));
}

#[test]
fn retry_after_of_a_failed_probe_counts_too() {
    let mut bench = Bench::half_open(&honoring(0));
    bench.call(failed_asking(700)).unwrap();
    assert_eq!(bench.refused().retry_after, Duration::from_millis(700));
}

#[test]
fn retry_after_of_an_earlier_failure_does_not_count() {
    let mut bench = Bench::new(&honoring(0));
    bench.call(failed_asking(900));
    bench.call(failed_asking(900));
    bench.call(Outcome::Failure).unwrap();
    assert_eq!(bench.refused().retry_after, Duration::from_millis(100));
}

#[test]
fn jitter_spreads_a_fleet_that_was_told_the_same() {
    let mut open_times: Vec<Duration> = (0..200)
        .map(|seed| {
            let breaker = Breaker::new(settings(&honoring(10)), seed, at(0));
            let mut bench = Bench { breaker, now_ms: 0 };
            let told: Vec<_> = (0..3).filter_map(|_| bench.call(failed_asking(500))).collect();
            assert_eq!(told.len(), 1);
            bench.refused().retry_after
        })
        .collect();
    open_times.sort_unstable();
    open_times.dedup();
    assert!(open_times.len() > 25, "{open_times:?}");
    assert!(open_times.iter().all(|time| (500..=550).contains(&time.as_millis())), "{open_times:?}");
}

#[test]
fn traffic_comes_back_evenly_spaced_and_not_in_bursts() {
    let mut bench = ramping(1_000);
    let first = asks(&mut bench, 30);
    let passed: Vec<usize> = (0..30).filter(|index| first[*index]).collect();
    assert_eq!(passed, [0, 10, 20], "a tenth at first, beginning with the first request");
    bench.wait(500);
    let passed = asks(&mut bench, 200).into_iter().filter(|passes| *passes).count();
    assert_eq!(passed, 110, "55 % after half of the time");
    bench.wait(499);
    assert!(asks(&mut bench, 200).into_iter().filter(|passes| *passes).count() >= 199);
}

#[test]
fn after_the_ramp_everything_passes() {
    let mut bench = ramping(1_000);
    assert_eq!(bench.breaker.statistics(bench.now()).ramp_end, Some(at(bench.now_ms + 1_000)));
    bench.wait(1_000);
    assert_eq!(bench.breaker.statistics(bench.now()).ramp_end, None);
    assert!(asks(&mut bench, 100).into_iter().all(|passes| passes));
}

#[test]
fn a_request_that_the_ramp_refuses_is_told_so_and_counted() {
    let mut bench = ramping(1_000);
    let _first = bench.admitted();
    bench.wait(1);
    let refusal = bench.refused();
    assert_eq!((refusal.state, refusal.forced, refusal.ramping), (Closed, None, true));
    assert_eq!(refusal.retry_after, Duration::from_millis(999), "by then everything passes");
    assert_eq!(bench.breaker.statistics(bench.now()).rejected, 1);
}

#[test]
fn a_refusal_while_open_is_not_the_ramp() {
    assert!(!Bench::open(&parameters()).refused().ramping);
}

#[test]
fn it_trips_during_the_ramp() {
    let mut bench = ramping(1_000);
    for _ in 0..3 {
        let ticket = loop {
            if let Decision::Admitted(ticket) = bench.ask().decision {
                break ticket;
            }
        };
        bench.settle(ticket, Outcome::Failure);
    }
    assert_eq!(bench.breaker.state(), Opened);
    assert_eq!(bench.breaker.statistics(bench.now()).ramp_end, None);
}

#[test]
fn a_breaker_that_never_tripped_has_no_ramp() {
    let mut bench = Bench::new(&BreakerParameters { recovery: Recovery { ramp_ms: 1_000 }, ..parameters() });
    assert!(asks(&mut bench, 100).into_iter().all(|passes| passes));
}

#[test]
fn forced_closed_skips_the_ramp() {
    let mut bench = ramping(1_000);
    bench.breaker.force(Some(Force { state: ForcedClosed, until: at(bench.now_ms + 500) }), bench.now());
    assert!(asks(&mut bench, 100).into_iter().all(|passes| passes));
    bench.wait(500);
    assert!(asks(&mut bench, 100).into_iter().any(|passes| !passes), "its time went on, and is not over");
}

#[test]
fn idle_half_open_is_said_to_be_idle() {
    let idle = |bench: &Bench| bench.breaker.statistics(bench.now()).idle;
    let mut bench = Bench::new(&parameters());
    assert!(!idle(&bench), "closed is not idle");
    bench = Bench::half_open(&parameters());
    assert!(idle(&bench));
    let probe = bench.admitted();
    assert!(!idle(&bench), "a probe owes an answer");
    bench.settle(probe, Outcome::Success);
    assert!(idle(&bench), "it waits for the next request");
}

#[test]
fn cancelled_probe_gives_its_permit_back() {
    let mut bench = Bench::half_open(&parameters());
    for _ in 0..3 {
        let probe = bench.admitted();
        bench.refused();
        bench.settle(probe, Outcome::Neutral);
    }
    assert_eq!(bench.breaker.statistics(bench.now()).probes_in_flight, 0);
}
