//! Claims about parameters: every bad number is refused by its field's name.

use super::super::{Answer, FailureClassifier, MAX_COUNT, MAX_PROBES, SettingsError};
use super::*;
use crate::config::{FailureCondition, FailureOn, StatusRange};

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
    let (count_most, probes_most) = (u64::from(MAX_COUNT), u64::from(MAX_PROBES));
    vec![
        ("trip.consecutiveFailures", |p, n| p.trip.consecutive_failures = Some(small(n)), 1, count_most),
        ("trip.failures.count", |p, n| count(p).count = small(n), 1, count_most),
        ("trip.failures.windowMs", |p, n| count(p).window_ms = n, 10, DAY_MS),
        ("trip.failureRate.percent", |p, n| rate(p).percent = u8::try_from(n).unwrap_or(u8::MAX), 1, 100),
        ("trip.failureRate.windowMs", |p, n| rate(p).window = RateWindow::Time(n), 10, DAY_MS),
        ("trip.failureRate.minRequests", |p, n| rate(p).min_requests = small(n), 1, count_most),
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
fn listed_statuses_and_conditions_are_failures() {
    let failure_on = FailureOn {
        http_status: vec![StatusRange { from: 500, to: 503 }, StatusRange { from: 429, to: 429 }],
        conditions: vec![FailureCondition::Timeout, FailureCondition::Timeout],
        ..FailureOn::default()
    };
    let classifier = FailureClassifier::try_from(&failure_on).unwrap();
    for (status, failure) in
        [(200, false), (428, false), (429, true), (499, false), (500, true), (503, true), (504, false)]
    {
        assert_eq!(classifier.is_failure_status(status), failure, "{status}");
    }
    assert_eq!(classifier.outcome(&Answer { status: 404, grpc_status: None }), Outcome::Success);
    assert_eq!(classifier.condition_outcome(FailureCondition::Timeout), Outcome::Failure);
    assert_eq!(classifier.condition_outcome(FailureCondition::Reset), Outcome::Neutral, "no answer is no success");
}

#[test]
fn ranges_that_are_no_statuses_are_refused_by_name() {
    for (from, to) in [(503, 500), (99, 200), (500, 600), (0, 0), (0, u16::MAX)] {
        let http_status = vec![StatusRange { from: 500, to: 599 }, StatusRange { from, to }];
        let error = FailureClassifier::try_from(&FailureOn { http_status, ..FailureOn::default() }).unwrap_err();
        assert_eq!((error.field().as_str(), error.reason()), ("failureOn.httpStatus[1]", "BadStatusRange"));
    }
    let http_status = vec![StatusRange { from: 500, to: 599 }; 65];
    let error = FailureClassifier::try_from(&FailureOn { http_status, ..FailureOn::default() }).unwrap_err();
    assert_eq!((error.field().as_str(), error.reason()), ("failureOn.httpStatus", "TooManyStatusRanges"));
}
