//! Claims about one client's bucket.

use super::*;

#[test]
fn a_full_bucket_lets_its_burst_pass_at_once_and_then_one_each_interval() {
    let (rate, buckets) = (per_second(10, 3), table(per_second(10, 3), 10));
    let at_once = (0..5).filter(|_| passes(&buckets, 1, rate, 0)).count();
    assert_eq!(at_once, 3);
    assert!(!passes(&buckets, 1, rate, 100 * MS - 1));
    assert!(passes(&buckets, 1, rate, 100 * MS));
    assert!(!passes(&buckets, 1, rate, 100 * MS));
}

#[test]
fn a_refusal_says_when_the_same_request_passes_and_it_does() {
    let (rate, buckets) = (per_second(3, 2), table(per_second(3, 2), 10));
    let ask = Ask::new(rate, 2);
    let (first, _) = buckets.reserve(key(1), &ask, at(0));
    assert_eq!((first.outcome, first.remaining), (Outcome::Allowed, 0));
    let (refused, _) = buckets.reserve(key(1), &ask, at(5));
    let wait = u64::try_from(retry_after(&refused).unwrap().as_nanos()).unwrap();
    assert_eq!(refusal(&refused), Refusal::OverLimit);
    assert!(buckets.reserve(key(1), &ask, at(5 + wait - 1)).0.is_refused());
    assert!(!buckets.reserve(key(1), &ask, at(5 + wait)).0.is_refused());
}

#[test]
fn a_request_heavier_than_a_full_bucket_never_passes_and_says_so() {
    let (rate, buckets) = (per_second(3, 2), table(per_second(3, 2), 10));
    let (verdict, _) = buckets.reserve(key(1), &Ask::new(rate, 3), at(0));
    assert_eq!(retry_after(&verdict), None);
    assert_eq!(verdict.remaining, 2);
}

#[test]
fn a_request_that_weighs_nothing_passes_an_empty_bucket_and_a_block_and_takes_no_place() {
    let (rate, buckets) = (per_second(1, 1), table(per_second(1, 1), 10));
    assert_eq!(buckets.reserve(key(2), &Ask::new(rate, 0), at(0)).0, Verdict::untouched(&rate));
    assert_eq!(buckets.tracked(), 0);
    assert!(passes(&buckets, 1, rate, 0));
    buckets.block(key(1), (&rate, at(SECOND)), at(0));
    let (verdict, reservation) = buckets.reserve(key(1), &Ask::new(rate, 0), at(0));
    assert_eq!((verdict.outcome, verdict.remaining, reservation), (Outcome::Allowed, 0, None));
}

#[test]
fn a_client_below_its_rate_is_never_refused() {
    let (rate, buckets) = (per_second(7, 1), table(per_second(7, 1), 10));
    let interval = u64::try_from(rate.interval().as_nanos()).unwrap();
    for request in 0..10_000 {
        // Never sooner than one interval after the one before, sometimes later.
        assert!(passes(&buckets, 1, rate, request * (interval + 500) + request % 500));
    }
}

#[test]
fn what_is_given_back_can_be_spent_again_once() {
    let (rate, buckets) = (per_second(1, 2), table(per_second(1, 2), 10));
    let ask = Ask::new(rate, 2);
    let reservation = buckets.reserve(key(1), &ask, at(0)).1.unwrap();
    assert!(!passes(&buckets, 1, rate, 0));
    buckets.give_back(reservation);
    assert!(passes(&buckets, 1, rate, 0) && passes(&buckets, 1, rate, 0) && !passes(&buckets, 1, rate, 0));
}

#[test]
fn what_was_refilled_meanwhile_is_not_given_back_too() {
    let (rate, buckets) = (per_second(1, 2), table(per_second(1, 2), 10));
    let reservation = buckets.reserve(key(1), &Ask::new(rate, 2), at(0)).1.unwrap();
    // Full again, and spent to the last.
    assert!(passes(&buckets, 1, rate, 2 * SECOND) && passes(&buckets, 1, rate, 2 * SECOND));
    buckets.give_back(reservation);
    assert!(!passes(&buckets, 1, rate, 2 * SECOND), "it was given back twice");
}

#[test]
fn what_a_full_bucket_would_have_lost_is_not_given_back() {
    let (rate, buckets) = (per_second(1, 9), table(per_second(1, 9), 10));
    let reservation = buckets.reserve(key(1), &Ask::new(rate, 4), at(0)).1.unwrap();
    assert!(passes(&buckets, 1, rate, SECOND));
    buckets.give_back(reservation);
    // Without the reservation nothing could have been refilled in that second.
    assert_eq!(buckets.remaining(key(1), &rate, at(SECOND)), 8);
}

#[test]
fn a_blocked_client_is_refused_until_then_whatever_its_bucket_holds() {
    let (rate, buckets) = (per_second(10, 2), table(per_second(10, 2), 10));
    let ask = Ask { exceed: Exceed::Block(Duration::from_secs(60)), ..Ask::new(rate, 1) };
    let verdict = |now| buckets.reserve(key(1), &ask, at(now)).0;
    assert!(!verdict(0).is_refused() && !verdict(0).is_refused());
    let begins = verdict(0);
    assert_eq!((refusal(&begins), retry_after(&begins)), (Refusal::BlockBegins, Some(Duration::from_secs(60))));
    let goes_on = verdict(30 * SECOND);
    assert_eq!((refusal(&goes_on), retry_after(&goes_on)), (Refusal::Blocked, Some(Duration::from_secs(30))));
    assert_eq!(
        (buckets.blocked(at(30 * SECOND)), buckets.blocked_until(key(1), at(30 * SECOND))),
        (1, Some(at(60 * SECOND)))
    );
    assert!(verdict(60 * SECOND - 1).is_refused());
    assert!(!verdict(60 * SECOND).is_refused());
    assert_eq!(buckets.blocked(at(60 * SECOND)), 0);
}

#[test]
fn a_request_that_would_wait_too_long_is_refused_at_once_and_spends_nothing() {
    let (rate, buckets) = (per_second(1, 1), table(per_second(1, 1), 10));
    let ask = Ask { exceed: Exceed::Delay(Duration::from_secs(2)), ..Ask::new(rate, 1) };
    let outcome = || buckets.reserve(key(1), &ask, at(0)).0.outcome;
    assert_eq!(outcome(), Outcome::Allowed);
    assert_eq!(outcome(), Outcome::Delayed { wait: Duration::from_secs(1) });
    assert_eq!(outcome(), Outcome::Delayed { wait: Duration::from_secs(2) });
    for _ in 0..3 {
        let refused = Outcome::Refused { refusal: Refusal::OverLimit, retry_after: Some(Duration::from_secs(3)) };
        assert_eq!(outcome(), refused);
    }
}

#[test]
fn who_waits_has_spent_and_leaving_gives_it_back() {
    let (rate, buckets) = (per_second(1, 1), table(per_second(1, 1), 10));
    let ask = Ask { exceed: Exceed::Delay(Duration::from_secs(5)), ..Ask::new(rate, 1) };
    assert!(passes(&buckets, 1, rate, 0));
    let waits = buckets.reserve(key(1), &ask, at(0)).1.unwrap();
    assert!(!passes(&buckets, 1, rate, SECOND), "it overtook the one that waits");
    buckets.give_back(waits);
    assert!(passes(&buckets, 1, rate, SECOND));
}

#[test]
fn what_one_that_waits_reserved_is_spent_at_its_turn_and_not_twice() {
    let (rate, buckets) = (per_second(1, 1), table(per_second(1, 1), 10));
    let ask = Ask { exceed: Exceed::Delay(Duration::from_secs(5)), ..Ask::new(rate, 1) };
    assert!(passes(&buckets, 1, rate, 0));
    let waits = buckets.reserve(key(1), &ask, at(0)).1.unwrap();
    buckets.settle(waits, at(SECOND));
    assert!(!passes(&buckets, 1, rate, 2 * SECOND - 1));
    assert!(passes(&buckets, 1, rate, 2 * SECOND));
}

#[test]
fn one_that_waited_and_was_forgotten_does_not_hold_up_others_for_ever() {
    let (rate, buckets) = (per_second(1, 1), table(per_second(1, 1), 10));
    let ask = Ask { exceed: Exceed::Delay(Duration::from_secs(5)), ..Ask::new(rate, 1) };
    for _ in 0..3 {
        let _ = buckets.reserve(key(1), &ask, at(0));
    }
    assert!(!passes(&buckets, 1, rate, 2 * SECOND));
    assert!(passes(&buckets, 1, rate, 3 * SECOND));
}

#[test]
fn a_larger_bucket_holds_what_the_smaller_one_held() {
    let (small, large) = (per_second(10, 10), per_second(10, 100));
    let buckets = table(small, 10);
    for _ in 0..7 {
        assert!(passes(&buckets, 1, small, 0));
    }
    buckets.set_rates(large, |_| large, at(0));
    assert_eq!(buckets.remaining(key(1), &large, at(0)), 3);
    assert_eq!((0..50).filter(|_| passes(&buckets, 1, large, 0)).count(), 3);
}

#[test]
fn an_empty_bucket_stays_empty_however_its_rate_changes() {
    let fast = per_second(1_000, 1_000);
    let slow = Rate::new(1_000, Duration::from_secs(3_600), 1_000).unwrap();
    let buckets = table(fast, 10);
    assert!(!buckets.reserve(key(1), &Ask::new(fast, 1_000), at(0)).0.is_refused());
    for rate in [slow, fast, slow, fast, slow] {
        buckets.set_rates(rate, |_| rate, at(0));
        assert!(!passes(&buckets, 1, rate, 0));
    }
    // At the fast rate it would be full by now; it has refilled at the slow one.
    assert!(!passes(&buckets, 1, slow, SECOND));
    assert!(passes(&buckets, 1, slow, 4 * SECOND));
}

#[test]
fn a_rate_that_changes_while_nobody_asks_refills_at_each_rate_for_its_time() {
    let (slow, fast) = (per_second(1, 100), per_second(10, 100));
    let buckets = table(slow, 10);
    assert!(!buckets.reserve(key(1), &Ask::new(slow, 100), at(0)).0.is_refused());
    buckets.set_rates(fast, |_| fast, at(5 * SECOND));
    buckets.set_rates(slow, |_| slow, at(6 * SECOND));
    assert_eq!(buckets.remaining(key(1), &slow, at(8 * SECOND)), 5 + 10 + 2);
}

#[test]
fn a_clock_that_stands_still_refills_nothing_and_one_that_goes_back_changes_nothing() {
    let (rate, buckets) = (per_second(10, 2), table(per_second(10, 2), 10));
    assert_eq!((0..100).filter(|_| passes(&buckets, 1, rate, SECOND)).count(), 2);
    assert_eq!((0..100).filter(|_| passes(&buckets, 1, rate, 0)).count(), 0);
    assert!(passes(&buckets, 1, rate, SECOND + 100 * MS));
}

#[test]
fn a_clock_that_jumps_years_ahead_fills_a_bucket_once() {
    let (rate, buckets) = (per_second(10, 2), table(per_second(10, 2), 10));
    assert!(passes(&buckets, 1, rate, 0));
    let far = 200 * 366 * 24 * 3_600 * SECOND;
    assert_eq!((0..100).filter(|_| passes(&buckets, 1, rate, far)).count(), 2);
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let slowest = Rate::new(1, MAX_PERIOD, 11).unwrap();
    let fastest = Rate::new(MAX_REQUESTS, Duration::from_secs(1), MAX_BURST).unwrap();
    let buckets = table(slowest, 10);
    let last = u64::MAX / 2;
    for rate in [slowest, fastest, slowest] {
        buckets.set_rates(rate, |_| rate, at(last));
        let heaviest = Ask { exceed: Exceed::Delay(MAX_DELAY), ..Ask::new(rate, u32::MAX) };
        assert_eq!(retry_after(&buckets.reserve(key(1), &heaviest, at(last)).0), None);
        let whole = Ask { exceed: Exceed::Block(MAX_BLOCK), ..Ask::new(rate, rate.burst()) };
        let _ = buckets.reserve(key(2), &whole, at(last));
        assert!(buckets.remaining(key(2), &rate, at(last)) <= rate.burst());
    }
}
