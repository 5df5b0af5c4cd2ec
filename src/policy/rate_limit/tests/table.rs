//! Claims about the bounded table.

use super::*;

/// What an entry may take at most, in bytes.
const BYTES_A_KEY: usize = 100;

#[test]
fn a_bucket_takes_at_most_about_a_hundred_bytes() {
    let (rate, places) = (per_second(1, 1), 65_536);
    let buckets = table(rate, places);
    for client in 0..2 * places as u128 {
        let id = digest(&[&client.to_be_bytes()]).id();
        let _ = buckets.reserve(id, &Ask::new(rate, 1), at(0));
    }
    assert!(buckets.tracked() > places * 98 / 100, "{} of {places} places used", buckets.tracked());
    assert!(buckets.tracked() <= places);
    let bytes = buckets.memory() / places;
    assert!(bytes <= BYTES_A_KEY, "{bytes} bytes a key");
}

#[test]
fn the_fullest_bucket_makes_room_and_no_other() {
    let (rate, buckets) = (per_second(1, 10), table(per_second(1, 10), 3));
    for (client, cost) in [(1, 2), (2, 1), (3, 3)] {
        let _ = buckets.reserve(key(client), &Ask::new(rate, cost), at(0));
    }
    // Only the second is full again.
    assert!(passes(&buckets, 4, rate, SECOND));
    assert_eq!(buckets.tracked(), 3);
    let left = |client| buckets.remaining(key(client), &rate, at(SECOND));
    assert_eq!((left(1), left(3), left(4)), (9, 8, 9));
}

#[test]
fn of_full_buckets_the_one_that_was_full_first_goes() {
    let (rate, buckets) = (per_second(1, 10), table(per_second(1, 10), 3));
    for (client, cost) in [(1, 3), (2, 1), (3, 2)] {
        let _ = buckets.reserve(key(client), &Ask::new(rate, cost), at(0));
    }
    let large = per_second(1, 20);
    for client in [4, 5] {
        assert!(passes(&buckets, client, rate, 5 * SECOND));
    }
    // The first is left: with a larger bucket it goes on from what it held, and a new client begins with a full one.
    assert_eq!(buckets.reserve(key(1), &Ask::new(large, 1), at(5 * SECOND)).0.remaining, 11);
}

#[test]
fn a_new_client_where_nobody_is_full_spends_from_the_one_bucket_that_all_such_share() {
    let (rate, buckets) = (per_second(1, 2), table(per_second(1, 2), 1));
    assert!(passes(&buckets, 1, rate, 0));
    let shared: Vec<bool> = (2..6).map(|client| passes(&buckets, client, rate, 0)).collect();
    assert_eq!(shared, [true, true, false, false]);
    assert_eq!(buckets.tracked(), 1);
    assert!(passes(&buckets, 1, rate, 0), "the one that has a bucket has what it had");
}

#[test]
fn what_was_spent_from_the_shared_bucket_counts_in_the_bucket_that_comes_later() {
    let (rate, buckets) = (per_second(1, 3), table(per_second(1, 3), 1));
    assert!(passes(&buckets, 1, rate, 0));
    assert_eq!((0..9).filter(|_| passes(&buckets, 2, rate, 0)).count(), 3, "from the shared one");
    // A second later the first client's bucket is full and gives its place.
    assert_eq!((0..9).filter(|_| passes(&buckets, 2, rate, SECOND)).count(), 1, "a fresh bucket was handed out");
}

#[test]
fn a_slow_key_of_its_own_quota_gets_no_more_from_the_shared_bucket() {
    let (rate, slow) = (per_second(100, 100), per_second(1, 2));
    let buckets = table(rate, 1);
    assert!(passes(&buckets, 1, rate, 0));
    let slow_passes = (0..50).filter(|_| passes(&buckets, 2, slow, 0)).count();
    assert!(slow_passes <= 2, "{slow_passes} passed of a bucket of 2");
}

#[test]
fn nobody_waits_or_is_blocked_for_the_deeds_of_those_it_shares_with() {
    let (rate, buckets) = (per_second(1, 1), table(per_second(1, 1), 1));
    assert!(passes(&buckets, 1, rate, 0));
    for exceed in [Exceed::Block(Duration::from_secs(60)), Exceed::Delay(Duration::from_secs(60))] {
        let verdict = |client| buckets.reserve(key(client), &Ask { exceed, ..Ask::new(rate, 1) }, at(0)).0;
        let _ = verdict(2);
        assert_eq!(refusal(&verdict(3)), Refusal::OverLimit);
    }
    assert_eq!(buckets.blocked(at(0)), 0);
}

#[test]
fn a_blocked_client_keeps_its_place_until_its_block_ends() {
    let (rate, buckets) = (per_second(1_000, 1), table(per_second(1_000, 1), 1));
    let ask = Ask { exceed: Exceed::Block(Duration::from_secs(10)), ..Ask::new(rate, 1) };
    let _ = buckets.reserve(key(1), &ask, at(0));
    let _ = buckets.reserve(key(1), &ask, at(0));
    // Its bucket has long been full.
    assert!(passes(&buckets, 2, rate, 9 * SECOND));
    assert_eq!(refusal(&buckets.reserve(key(1), &ask, at(9 * SECOND)).0), Refusal::Blocked);
    assert!(passes(&buckets, 2, rate, 10 * SECOND));
    assert_eq!(buckets.blocked_until(key(1), at(10 * SECOND)), None);
    assert!(passes(&buckets, 1, rate, 10 * SECOND), "from the shared one: its place is taken");
}

#[test]
fn blocked_clients_never_exceed_the_bound() {
    let (rate, buckets) = (per_second(1, 1), table(per_second(1, 1), 4));
    let ask = Ask { exceed: Exceed::Block(Duration::from_secs(60)), ..Ask::new(rate, 1) };
    for client in 0..50 {
        let _ = buckets.reserve(key(client), &ask, at(0));
        let _ = buckets.reserve(key(client), &ask, at(0));
        buckets.block(key(client), (&rate, at(60 * SECOND)), at(0));
    }
    assert_eq!((buckets.tracked(), buckets.blocked(at(0))), (4, 4));
}

#[test]
fn a_client_that_a_person_lets_go_has_a_full_bucket_and_no_block() {
    let (rate, buckets) = (per_second(1, 3), table(per_second(1, 3), 10));
    let client = digest(&[b"alice"]);
    let ask = Ask { exceed: Exceed::Block(Duration::from_secs(60)), ..Ask::new(rate, 1) };
    for _ in 0..5 {
        let _ = buckets.reserve(client.id(), &ask, at(0));
    }
    let other = KeyPrefix::parse(&digest(&[b"bob"]).short_hex()).unwrap();
    assert_eq!(buckets.fill(&other, at(0)), 0);
    for name in [client.short_hex(), client.hex()] {
        assert_eq!(buckets.fill(&KeyPrefix::parse(&name).unwrap(), at(0)), 1);
    }
    assert_eq!(buckets.remaining(client.id(), &rate, at(0)), 3);
    assert!(!buckets.reserve(client.id(), &ask, at(0)).0.is_refused());
}

#[test]
fn full_buckets_are_forgotten_with_their_memory_and_others_are_not() {
    let (rate, buckets) = (per_second(1, 5), table(per_second(1, 5), 10_000));
    for client in 0..10_000 {
        assert!(passes(&buckets, client, rate, 0));
    }
    let _ = buckets.reserve(key(7), &Ask::new(rate, 4), at(0));
    let before = buckets.memory();
    buckets.forget_full(at(SECOND));
    assert_eq!(buckets.tracked(), 1);
    assert_eq!(buckets.remaining(key(7), &rate, at(SECOND)), 1);
    assert!(buckets.memory() < before / 10, "{} of {before} bytes are left", buckets.memory());
}

/// A release build takes ten million; this is what a debug build does in seconds. The rest is `make flood`.
const FLOOD: u128 = if cfg!(debug_assertions) { 1_000_000 } else { 10_000_000 };

#[test]
fn millions_of_distinct_keys_change_neither_the_bound_nor_an_established_clients_quota() {
    let rate = Rate::new(60, Duration::from_secs(60), 10).unwrap();
    let buckets = table(rate, 65_536);
    let good = digest(&[b"a client that keeps to its rate"]).id();
    let mut memory = 0;
    // Half a million keys a second, and the good client once a second, from before the flood on.
    assert!(!buckets.reserve(good, &Ask::new(rate, 1), at(0)).0.is_refused());
    for flood in 1..=FLOOD {
        let now = u64::try_from(flood * 2_000).unwrap();
        let _ = buckets.reserve(
            KeyId::from(flood.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
            &Ask::new(rate, 1),
            at(now),
        );
        if flood % 500_000 == 0 {
            let (verdict, reservation) = buckets.reserve(good, &Ask::new(rate, 1), at(now));
            assert_eq!(verdict.outcome, Outcome::Allowed, "after {flood} keys");
            assert_eq!(reservation.unwrap().source(), Source::Own);
            memory = memory.max(buckets.memory());
        }
    }
    assert!(buckets.tracked() <= 65_536);
    assert!(memory <= 65_536 * BYTES_A_KEY, "{memory} bytes");
}
