//! Claims about snapshots. That a restored breaker behaves as the one it was is part of the model's property.

use super::super::{BucketsSnapshot, MAX_AGE, Outcome, SharedBreaker, Snapshot, SnapshotError, WindowSnapshot};
use super::*;
use crate::report::BreakerState::{HalfOpen as HalfOpened, Open as Opened};

fn all_rules() -> BreakerParameters {
    let trip =
        Trip { consecutive_failures: Some(3), failure_rate: failure_rate(90).failure_rate, ..failures(9, 60_000) };
    tripping_by(trip)
}

fn restore(snapshot: &Snapshot, origin: Origin) -> Result<Breaker, SnapshotError> {
    Breaker::restore(settings(&all_rules()), snapshot, origin)
}

fn open_snapshot() -> Snapshot {
    let mut bench = Bench::open(&all_rules());
    bench.wait(30);
    bench.breaker.snapshot(bench.now())
}

fn buckets(snapshot: &mut Snapshot, window: usize) -> &mut BucketsSnapshot {
    match &mut snapshot.windows[window] {
        WindowSnapshot::Time(buckets) => buckets,
        WindowSnapshot::Calls(_) => panic!("a window over calls"),
    }
}

#[test]
fn an_open_breaker_stays_open_over_a_restart() {
    let mut breaker = restore(&open_snapshot(), origin(20, 7)).unwrap();
    let shown = breaker.statistics(at(7));
    assert_eq!((shown.state, shown.next_probe), (Opened, Some(at(57))));
    assert!(matches!(breaker.admit(at(56)).decision, Decision::Refused(_)));
    assert_eq!(breaker.advance(at(57)).unwrap().to, HalfOpened);
}

#[test]
fn an_open_time_that_ended_meanwhile_leads_to_probes_not_to_closed() {
    let mut breaker = restore(&open_snapshot(), origin(3_600_000, 7)).unwrap();
    let asked = breaker.admit(at(7));
    assert_eq!(asked.transition.unwrap().to, HalfOpened);
    let Decision::Admitted(probe) = asked.decision else { panic!("the probe was refused") };
    assert!(probe.is_probe());
}

#[test]
fn a_snapshot_survives_its_bytes() {
    let snapshot = open_snapshot();
    let bytes = serde_json::to_vec(&snapshot).unwrap();
    assert_eq!(serde_json::from_slice::<Snapshot>(&bytes).unwrap(), snapshot);
    let restored = SharedBreaker::restore(settings(&all_rules()), &snapshot, origin(0, 500)).unwrap();
    assert_eq!(restored.snapshot(at(500)), snapshot);
}

#[test]
fn torn_snapshots_are_refused() {
    let bytes = serde_json::to_vec(&open_snapshot()).unwrap();
    for end in 0..bytes.len() {
        assert!(serde_json::from_slice::<Snapshot>(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn nonsense_snapshots_are_refused_by_field() {
    type Change = fn(&mut Snapshot);
    let cases: [(&str, Change); 15] = [
        ("format", |s| s.format = 1),
        ("openRemainingMs", |s| s.open_remaining_ms = Some(1_001)),
        ("openRemainingMs", |s| s.open_remaining_ms = Some(u64::MAX)),
        ("openRemainingMs", |s| s.open_remaining_ms = None),
        ("openRemainingMs", |s| s.state = HalfOpened),
        ("consecutiveFailures", |s| s.consecutive_failures = 1),
        ("probeSuccesses", |s| s.probe_successes = 1),
        ("reason", |s| s.reason = None),
        ("reason", |s| s.reason = Some(super::super::TransitionReason::ProbesSucceeded)),
        ("stateAgeMs", |s| s.state_age_ms = u64::MAX),
        ("lastTripAgeMs", |s| s.last_trip_age_ms = Some(u64::MAX)),
        ("windows", |s| buckets(s, 0).age_ms = u64::MAX),
        ("windows", |s| buckets(s, 0).failures[3] = 1),
        ("windows", |s| s.windows.truncate(1)),
        ("windows", |s| buckets(s, 1).failures[0] = u32::MAX),
    ];
    for (field, change) in cases {
        let mut snapshot = open_snapshot();
        change(&mut snapshot);
        let error = restore(&snapshot, origin(0, 0)).unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
        assert!(error.reason().starts_with("Snapshot"));
    }
}

#[test]
fn counters_that_would_have_decided_already_are_refused() {
    let mut bench = Bench::new(&all_rules());
    bench.call(Outcome::Failure);
    let mut snapshot = bench.breaker.snapshot(bench.now());
    snapshot.consecutive_failures = 3;
    assert!(restore(&snapshot, origin(0, 0)).unwrap_err().to_string().contains("consecutiveFailures"));
    let bench = Bench::half_open(&all_rules());
    let mut snapshot = bench.breaker.snapshot(bench.now());
    snapshot.probe_successes = 2;
    assert!(restore(&snapshot, origin(0, 0)).unwrap_err().to_string().contains("probeSuccesses"));
}

#[test]
fn the_largest_numbers_that_are_accepted_overflow_nothing() {
    let mut snapshot = open_snapshot();
    snapshot.failed_half_opens = u32::MAX;
    snapshot.state_age_ms = u64::try_from(MAX_AGE.as_millis()).unwrap();
    for index in 0..2 {
        buckets(&mut snapshot, index).failures = [u32::MAX; 10];
        buckets(&mut snapshot, index).slow = [u32::MAX; 10];
        buckets(&mut snapshot, index).requests = [u32::MAX; 10];
    }
    let forever = Origin { seed: 0, elapsed: Duration::MAX, now: at(0) };
    let mut breaker = restore(&snapshot, forever).unwrap();
    let Decision::Admitted(probe) = breaker.admit(at(0)).decision else { panic!("the open time is over") };
    assert_eq!(breaker.settle(probe, Outcome::Failure, at(0)).unwrap().to, Opened);
    assert_eq!(breaker.statistics(at(0)).next_probe, Some(at(1_000)));
}
