//! Names of buckets, and arithmetic at its edges.

use fusebox_policy::config::{PolicyId, Side, TargetId};
use fusebox_policy::rate_limit::{Exceed, Rate};

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

fn spans(requests: u32, per_ms: u64, burst: u32) -> Spans {
    let rate = Rate::new(requests, Duration::from_millis(per_ms), burst).unwrap();
    Spans::new(&Ask { rate, cost: 1, exceed: Exceed::Refuse })
}

fn reading(state: ReadingState, missing_us: u64, missing_part: u64) -> Reading {
    Reading { state, missing_us, missing_part, blocked_us: 0 }
}

#[test]
fn buckets_of_one_policy_share_a_slot_where_one_script_must_reach_them_and_clients_spread_where_not() {
    let together = ["per-key", "all"]
        .map(|name| BucketFamily::new("fusebox", &limit(name, 80), Tag::Policy).bucket(KeyId::from(1)));
    assert!(together.iter().all(|bucket| bucket.as_str().starts_with("fusebox:{shop/payments}:")), "{together:?}");
    assert_ne!(together[0], together[1]);
    let alone = BucketFamily::new("fusebox", &limit("per-key", 80), Tag::Client);
    assert!(alone.bucket(KeyId::from(255)).as_str().starts_with("fusebox:{000000000000000000000000000000ff}:per-key-"));
    assert_ne!(
        alone.bucket(KeyId::from(255)),
        BucketFamily::new("fusebox", &limit("per-key", 81), Tag::Client).bucket(KeyId::from(255))
    );
}

#[test]
fn a_bucket_without_debt_holds_its_burst_and_one_with_a_part_of_a_request_missing_holds_one_less() {
    // Three requests a second: 333,333 microseconds and one third for each.
    let spans = spans(3, 1000, 5);
    assert_eq!(spans.cost(), (333_333, 1));
    assert_eq!(spans.full(), (1_666_666, 2));
    assert_eq!(spans.verdict(reading(ReadingState::Allowed, 0, 0)).remaining, 5);
    assert_eq!(spans.verdict(reading(ReadingState::Allowed, 0, 1)).remaining, 4);
    assert_eq!(spans.verdict(reading(ReadingState::Allowed, 333_333, 1)).remaining, 4);
    assert_eq!(spans.verdict(reading(ReadingState::Allowed, 333_333, 2)).remaining, 3);
}

#[test]
fn waits_are_rounded_up_to_the_microsecond() {
    let spans = spans(3, 1000, 1);
    let verdict = spans.verdict(reading(ReadingState::Beyond, 333_333, 1));
    let wait = Duration::from_micros(333_334);
    let outcome = Outcome::Refused { refusal: Refusal::OverLimit, retry_after: Some(wait) };
    assert_eq!(verdict, Verdict { outcome, remaining: 0, reset_after: wait });
}

#[test]
fn a_client_that_is_refused_for_a_time_is_told_the_later_of_both_moments() {
    let spans = spans(1, 1000, 1);
    let blocked = Reading { blocked_us: 5_000_000, ..reading(ReadingState::Blocked, 500_000, 0) };
    for (blocked_us, later) in [(5_000_000, 5_000), (1, 500)] {
        let retry_after = Some(Duration::from_millis(later));
        let outcome = Outcome::Refused { refusal: Refusal::Blocked, retry_after };
        assert_eq!(spans.verdict(Reading { blocked_us, ..blocked }).outcome, outcome);
    }
}

#[test]
fn what_weighs_more_than_a_full_bucket_is_never_told_to_come_again() {
    let rate = Rate::new(1, Duration::from_secs(1), 3).unwrap();
    let spans = Spans::new(&Ask { rate, cost: 4, exceed: Exceed::Refuse });
    let outcome = Outcome::Refused { refusal: Refusal::OverLimit, retry_after: None };
    assert_eq!(spans.verdict(reading(ReadingState::Beyond, 0, 0)).outcome, outcome);
}

#[test]
fn the_longest_times_stay_exact_in_doubles() {
    let rate = Rate::new(1, Duration::from_secs(366 * 86_400 / 12), 12).unwrap();
    let spans = Spans::new(&Ask { rate, cost: u32::MAX, exceed: Exceed::Refuse });
    let year_2100_us = 4_102_444_800_000_000_u64;
    assert!(year_2100_us + spans.full().0 + spans.cost().0 < 1 << 53);
}
