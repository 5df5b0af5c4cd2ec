//! Claims about snapshots. That a restored breaker behaves as the one it was is part of the model's property.

use proptest::prelude::*;

use super::super::{
    BucketsSnapshot, MAX_AGE, MAX_SNAPSHOT_BYTES, Outcome, SharedBreaker, Snapshot, SnapshotError, WindowSnapshot,
};
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
        assert_eq!(Snapshot::from_json(&bytes[..end]).unwrap_err().reason(), "SnapshotMalformed", "cut at {end}");
    }
    assert_eq!(Snapshot::from_json(&bytes), Ok(open_snapshot()));
}

#[test]
fn a_snapshot_of_the_old_format_is_refused_by_its_number() {
    let old = br#"{"format":1,"state":"Closed","stateAgeMs":5,"reason":null,"observed":{"ageMs":1}}"#;
    assert_eq!(Snapshot::from_json(old), Err(SnapshotError::Format { found: 1 }));
}

#[test]
fn a_snapshot_longer_than_any_is_refused_unread() {
    let bytes = vec![b' '; MAX_SNAPSHOT_BYTES + 1];
    assert_eq!(Snapshot::from_json(&bytes).unwrap_err().reason(), "SnapshotTooLong");
}

#[test]
fn the_longest_snapshot_can_be_read_again() {
    let failure_rate = Some(FailureRate { percent: 100, window: RateWindow::Calls(10_000), min_requests: 10_000 });
    let slow_call_rate =
        Some(SlowCallRate { percent: 100, slower_than_ms: 1, window: RateWindow::Calls(9_999), min_requests: 9_999 });
    let parameters = tripping_by(Trip { failure_rate, slow_call_rate, ..failures(1_000_000, 60_000) });
    let mut bench = Bench::new(&parameters);
    for number in 0..20_000 {
        bench.call(if number % 2 == 0 { Outcome::Success } else { Outcome::Failure });
    }
    let snapshot = bench.breaker.snapshot(bench.now());
    let bytes = serde_json::to_vec(&snapshot).unwrap();
    assert!(bytes.len() > 20_000, "the windows are not in it");
    let read = Snapshot::from_json(&bytes).unwrap();
    let restored = Breaker::restore(settings(&parameters), &read, origin(0, 0)).unwrap();
    assert_eq!(restored.snapshot(at(0)), snapshot);
}

#[test]
fn a_ramp_goes_on_after_a_restart() {
    let ramping = BreakerParameters { recovery: Recovery { ramp_ms: 1_000 }, ..all_rules() };
    let mut bench = Bench::half_open(&ramping);
    bench.call(Outcome::Success);
    bench.call(Outcome::Success).unwrap();
    let _first = bench.admitted();
    bench.wait(100);
    let mut snapshot = bench.breaker.snapshot(bench.now());
    let restored = Breaker::restore(settings(&ramping), &snapshot, origin(50, bench.now_ms + 50)).unwrap();
    assert_eq!(restored.statistics(at(0)).ramp_end, bench.breaker.statistics(bench.now()).ramp_end);
    let error = restore(&snapshot, origin(0, 0)).unwrap_err();
    assert!(error.to_string().contains("rampAccount"), "these settings have no ramp: {error}");
    snapshot.ramp_account = Some(10_000_000_001);
    let error = Breaker::restore(settings(&ramping), &snapshot, origin(0, 0)).unwrap_err();
    assert!(error.to_string().contains("rampAccount"), "{error}");
}

#[test]
fn calls_that_no_window_can_hold_are_refused() {
    let failure_rate = Some(FailureRate { percent: 100, window: RateWindow::Calls(4), min_requests: 4 });
    let parameters = tripping_by(Trip { failure_rate, ..Trip::default() });
    let mut bench = Bench::new(&parameters);
    bench.call(Outcome::Failure);
    let mut snapshot = bench.breaker.snapshot(bench.now());
    assert_eq!(snapshot.windows, [WindowSnapshot::Calls("f".to_owned())]);
    for bad in [".....", "x", "é", "\0"] {
        snapshot.windows = vec![WindowSnapshot::Calls(bad.to_owned())];
        let error = Breaker::restore(settings(&parameters), &snapshot, origin(0, 0)).unwrap_err();
        assert!(error.to_string().contains("windows"), "{bad}: {error}");
    }
}

/// Reads, restores and uses whatever these bytes are.
fn survive(bytes: &[u8]) {
    let Ok(snapshot) = Snapshot::from_json(bytes) else { return };
    let ramping = BreakerParameters { recovery: Recovery { ramp_ms: 1_000 }, ..all_rules() };
    for parameters in [all_rules(), ramping] {
        let Ok(mut breaker) = Breaker::restore(settings(&parameters), &snapshot, origin(7, 1_000)) else { continue };
        if let Decision::Admitted(ticket) = breaker.admit(at(1_000)).decision {
            breaker.settle(ticket, Outcome::Failure, at(1_001));
        }
        let _ = (breaker.statistics(at(2_000)), breaker.snapshot(at(3_000)), breaker.advance(at(86_400_000)));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_reading_or_restoring_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survive(&bytes);
    }

    #[test]
    fn no_change_of_a_snapshot_makes_restoring_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), "[0-9\",:{}\\[\\]a-zA-Z.-]{0,20}"), 0..4),
    ) {
        let mut text = serde_json::to_string(&open_snapshot()).unwrap();
        for (place, word) in changes {
            let at = place.index(text.len());
            let end = (at + word.len()).min(text.len());
            text.replace_range(at..end, &word);
        }
        survive(text.as_bytes());
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
