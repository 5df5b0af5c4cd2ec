//! Claims about parameters: every bad number is refused by its field's name.

use super::super::{MAX_COUNT, MAX_PROBES, MAX_WINDOW_CALLS, SettingsError};
use super::*;

const DAY_MS: u64 = 86_400_000;

type Change = fn(&mut BreakerParameters, u64);

/// Every number, how to set it, and its bounds.
fn numbers() -> Vec<(&'static str, Change, u64, u64)> {
    fn count(parameters: &mut BreakerParameters) -> &mut FailureCount {
        parameters.trip.failures.get_or_insert(FailureCount { count: 1, window_ms: 1_000 })
    }
    fn rate(parameters: &mut BreakerParameters) -> &mut FailureRate {
        parameters.trip.failure_rate.get_or_insert(FailureRate {
            percent: 1,
            window: RateWindow::Time(1_000),
            min_requests: 1,
        })
    }
    fn slow(parameters: &mut BreakerParameters) -> &mut SlowCallRate {
        parameters.trip.slow_call_rate.get_or_insert(SlowCallRate {
            percent: 1,
            slower_than_ms: 1,
            window: RateWindow::Time(1_000),
            min_requests: 1,
        })
    }
    let calls_most = u64::from(MAX_WINDOW_CALLS);
    let (count_most, probes_most) = (u64::from(MAX_COUNT), u64::from(MAX_PROBES));
    vec![
        ("trip.consecutiveFailures", |p, n| p.trip.consecutive_failures = Some(small(n)), 1, count_most),
        ("trip.failures.count", |p, n| count(p).count = small(n), 1, count_most),
        ("trip.failures.windowMs", |p, n| count(p).window_ms = n, 10, DAY_MS),
        ("trip.failureRate.percent", |p, n| rate(p).percent = u8::try_from(n).unwrap_or(u8::MAX), 1, 100),
        ("trip.failureRate.windowMs", |p, n| rate(p).window = RateWindow::Time(n), 10, DAY_MS),
        ("trip.failureRate.minRequests", |p, n| rate(p).min_requests = small(n), 1, count_most),
        ("trip.failureRate.calls", |p, n| rate(p).window = RateWindow::Calls(small(n)), 1, calls_most),
        ("trip.slowCallRate.percent", |p, n| slow(p).percent = u8::try_from(n).unwrap_or(u8::MAX), 1, 100),
        ("trip.slowCallRate.slowerThanMs", |p, n| slow(p).slower_than_ms = n, 1, DAY_MS),
        ("trip.slowCallRate.windowMs", |p, n| slow(p).window = RateWindow::Time(n), 10, DAY_MS),
        ("trip.slowCallRate.calls", |p, n| slow(p).window = RateWindow::Calls(small(n)), 1, calls_most),
        ("trip.slowCallRate.minRequests", |p, n| slow(p).min_requests = small(n), 1, count_most),
        ("recovery.rampMs", |p, n| p.recovery.ramp_ms = n, 0, DAY_MS),
        (
            "open.baseDurationMs",
            |p, n| {
                p.open.max_duration_ms = DAY_MS;
                p.open.base_duration_ms = n;
            },
            1,
            DAY_MS,
        ),
        (
            "open.maxDurationMs",
            |p, n| {
                p.open.base_duration_ms = 1;
                p.open.max_duration_ms = n;
            },
            1,
            DAY_MS,
        ),
        ("open.jitterPercent", |p, n| p.open.jitter_percent = u8::try_from(n).unwrap_or(u8::MAX), 0, 100),
        ("halfOpen.maxProbes", |p, n| p.half_open.max_probes = small(n), 1, probes_most),
        ("halfOpen.successThreshold", |p, n| p.half_open.success_threshold = small(n), 1, count_most),
        ("halfOpen.probeTimeoutMs", |p, n| p.half_open.probe_timeout_ms = n, 1, DAY_MS),
        ("halfOpen.maxDurationMs", |p, n| p.half_open.max_duration_ms = n, 1, DAY_MS),
    ]
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn with(change: Change, number: u64) -> Result<Settings, SettingsError> {
    let mut changed = parameters();
    change(&mut changed, number);
    Settings::try_from(&changed)
}

#[test]
fn numbers_at_their_bounds_are_accepted() {
    for (field, change, least, most) in numbers() {
        assert!(with(change, least).is_ok(), "{field} {least}");
        assert!(with(change, most).is_ok(), "{field} {most}");
    }
}

#[test]
fn numbers_outside_their_bounds_are_refused_by_name() {
    for (field, change, least, most) in numbers() {
        for number in [least.checked_sub(1), Some(most + 1), Some(u64::MAX)].into_iter().flatten() {
            let error = with(change, number).unwrap_err();
            assert_eq!((error.field(), error.reason()), (field, "OutOfRange"), "{number}");
            assert!(error.to_string().contains(&format!("set it to {least} to {most}")), "{error}");
        }
    }
}

#[test]
fn longest_open_time_below_the_first_is_refused() {
    let mut changed = parameters();
    changed.open.max_duration_ms = 99;
    let error = Settings::try_from(&changed).unwrap_err();
    assert_eq!((error.field(), error.reason()), ("open.maxDurationMs", "MaxBelowBase"));
    assert!(error.to_string().contains("raise it to 100"), "{error}");
}

#[test]
fn a_rule_that_needs_more_calls_than_it_looks_at_is_refused() {
    let window = RateWindow::Calls(10);
    let failure_rate = Some(FailureRate { percent: 50, window, min_requests: 11 });
    let slow_call_rate = Some(SlowCallRate { percent: 50, slower_than_ms: 1, window, min_requests: 11 });
    let cases = [
        ("trip.failureRate.minRequests", Trip { failure_rate, ..Trip::default() }),
        ("trip.slowCallRate.minRequests", Trip { slow_call_rate, ..Trip::default() }),
    ];
    for (field, trip) in cases {
        let error = Settings::try_from(&tripping_by(trip)).unwrap_err();
        assert_eq!((error.field(), error.reason()), (field, "NeverEnough"));
        assert!(error.to_string().contains("lower it to 10"), "{error}");
    }
}
