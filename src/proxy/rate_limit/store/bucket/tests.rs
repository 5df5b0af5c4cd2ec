//! Names of buckets, and arithmetic at its edges.

use fusebox_policy::config::{PolicyId, Side, TargetId};

use super::*;

fn limit(name: &str, port: u16) -> LimitKey {
    let (namespace, kind) = ("shop".to_owned(), "Service".to_owned());
    LimitKey {
        policy: PolicyId { namespace: namespace.clone(), name: "payments".to_owned() },
        target: TargetId { kind, namespace, name: "payments".to_owned(), section: String::new() },
        side: Side::Server,
        port,
        limit: name.to_owned(),
        rule: String::new(),
    }
}

fn reading(state: ReadingState, missing_us: u64, missing_part: u64) -> Reading {
    Reading { state, missing_us, missing_part, blocked_us: 0 }
}

#[test]
fn buckets_of_one_policy_share_a_slot_where_one_script_must_reach_them_and_clients_spread_where_not() {
    let together = ["per-key", "all"].map(|name| BucketFamily::new("fusebox", &limit(name, 80), Tag::Policy).bucket(1));
    assert!(together.iter().all(|bucket| bucket.as_str().starts_with("fusebox:{shop/payments}:")), "{together:?}");
    assert_ne!(together[0], together[1]);
    let alone = BucketFamily::new("fusebox", &limit("per-key", 80), Tag::Client);
    assert!(alone.bucket(255).as_str().starts_with("fusebox:{000000000000000000000000000000ff}:per-key-"));
    assert_ne!(alone.bucket(255), BucketFamily::new("fusebox", &limit("per-key", 81), Tag::Client).bucket(255));
}

#[test]
fn a_bucket_without_debt_holds_its_burst_and_one_with_a_part_of_a_request_missing_holds_one_less() {
    // Three requests a second: 333,333 microseconds and one third for each.
    let spans = Spans::new(Rate { requests: 3, per_ms: 1000, burst: 5 }, 1);
    assert_eq!(spans.cost(), (333_333, 1));
    assert_eq!(spans.full(), (1_666_666, 2));
    assert_eq!(spans.verdict(reading(ReadingState::Allowed, 0, 0)).remaining, 5);
    assert_eq!(spans.verdict(reading(ReadingState::Allowed, 0, 1)).remaining, 4);
    assert_eq!(spans.verdict(reading(ReadingState::Allowed, 333_333, 1)).remaining, 4);
    assert_eq!(spans.verdict(reading(ReadingState::Allowed, 333_333, 2)).remaining, 3);
}

#[test]
fn waits_are_rounded_up_to_the_microsecond() {
    let spans = Spans::new(Rate { requests: 3, per_ms: 1000, burst: 1 }, 1);
    let verdict = spans.verdict(reading(ReadingState::Beyond, 333_333, 1));
    assert_eq!((verdict.allowed, verdict.remaining), (false, 0));
    assert_eq!(verdict.retry_after, Duration::from_micros(333_334));
    assert_eq!(verdict.reset, Duration::from_micros(333_334));
    assert_eq!(verdict.blocked_for, None);
}

#[test]
fn a_client_that_is_refused_for_a_time_is_told_the_later_of_both_moments() {
    let spans = Spans::new(Rate { requests: 1, per_ms: 1000, burst: 1 }, 1);
    let blocked = Reading { blocked_us: 5_000_000, ..reading(ReadingState::Blocked, 500_000, 0) };
    assert_eq!(spans.verdict(blocked).retry_after, Duration::from_secs(5));
    assert_eq!(spans.verdict(Reading { blocked_us: 1, ..blocked }).retry_after, Duration::from_micros(500_000));
}

#[test]
fn the_longest_times_stay_exact_in_doubles() {
    let spans = Spans::new(Rate { requests: 1, per_ms: u64::MAX, burst: u32::MAX }, u32::MAX);
    let year_2100_us = 4_102_444_800_000_000_u64;
    assert!(year_2100_us + spans.full().0 + spans.cost().0 < 1 << 53);
}
