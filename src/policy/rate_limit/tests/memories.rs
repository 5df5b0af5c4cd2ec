//! Claims about what is remembered: refusals of the store, the most refused clients, counts.

use super::*;

#[test]
fn a_refusal_of_the_store_is_repeated_until_the_moment_it_named_and_not_after() {
    let refused = RefusedUntil::new(100, 7);
    assert_eq!(refused.certain(key(1), 1, at(0)), None);
    refused.refused(key(1), (1, at(SECOND)), at(0));
    assert_eq!(refused.certain(key(1), 1, at(400 * MS)), Some(Duration::from_millis(600)));
    assert_eq!(refused.certain(key(1), 1, at(SECOND)), None);
    assert_eq!(refused.certain(key(2), 1, at(0)), None);
}

#[test]
fn a_refusal_says_nothing_of_lighter_requests() {
    let refused = RefusedUntil::new(100, 7);
    refused.refused(key(1), (5, at(SECOND)), at(0));
    assert_eq!(refused.certain(key(1), 4, at(0)), None);
    assert!(refused.certain(key(1), 5, at(0)).is_some() && refused.certain(key(1), 6, at(0)).is_some());
    refused.refused(key(1), (1, at(500 * MS)), at(0));
    assert_eq!(refused.certain(key(1), 1, at(0)), Some(Duration::from_millis(500)));
}

#[test]
fn the_memory_of_refusals_is_bounded_and_keeps_the_longest_of_those_that_meet() {
    let refused = RefusedUntil::new(4, 7);
    for client in 0..100 {
        refused.refused(key(client), (1, at(SECOND + u64::try_from(client).unwrap())), at(0));
    }
    let known: Vec<u128> = (0..100).filter(|client| refused.certain(key(*client), 1, at(0)).is_some()).collect();
    assert_eq!(known, [96, 97, 98, 99]);
}

#[test]
fn a_client_that_was_let_go_and_a_changed_rate_are_asked_of_the_store_again() {
    let refused = RefusedUntil::new(100, 7);
    for client in [1, 2] {
        refused.refused(key(client), (1, at(SECOND)), at(0));
    }
    refused.forget(&KeyPrefix::parse(&format!("{:?}", key(1))).unwrap());
    assert_eq!(refused.certain(key(1), 1, at(0)), None);
    assert!(refused.certain(key(2), 1, at(0)).is_some());
    refused.clear();
    assert_eq!(refused.certain(key(2), 1, at(0)), None);
}

fn client(number: u32) -> KeyDigest {
    digest(&[&number.to_be_bytes()])
}

#[test]
fn the_most_refused_clients_are_found_among_thousands() {
    let top = TopKeys::default();
    for round in 0..10_000_u32 {
        // One in four refusals is of client 1, one in eight of client 2, the rest of clients that come once.
        let who = if round % 4 == 0 {
            1
        } else if round % 8 == 1 {
            2
        } else {
            100 + round
        };
        top.refused((client(who), at(0)), None, || format!("client {who}"));
    }
    let shown: Vec<String> = top.top(2).into_iter().map(|key| key.shown).collect();
    assert_eq!(shown, ["client 1", "client 2"]);
    assert_eq!(top.top(1)[0].refused, 2_500);
    assert_eq!(top.top(1_000).len(), MAX_TOP_KEYS);
}

#[test]
fn a_blocked_client_is_not_displaced_by_clients_that_come_once() {
    let top = TopKeys::default();
    top.refused((client(1), at(0)), Some(at(60 * SECOND)), || "blocked".into());
    for number in 100..10_000 {
        top.refused((client(number), at(SECOND)), None, || "once".into());
    }
    let blocked = top.top_blocked(10, at(SECOND));
    assert_eq!((blocked.len(), blocked[0].shown.as_str(), blocked[0].since), (1, "blocked", at(0)));
    assert!(top.top_blocked(10, at(60 * SECOND)).is_empty());
}

#[test]
fn a_block_counts_its_own_refusals_and_ends_when_a_person_says_so() {
    let top = TopKeys::default();
    for _ in 0..5 {
        top.refused((client(1), at(0)), None, String::new);
    }
    for _ in 0..3 {
        top.refused((client(1), at(SECOND)), Some(at(60 * SECOND)), String::new);
    }
    let blocked = top.top_blocked(10, at(SECOND));
    assert_eq!((blocked[0].since, blocked[0].refused), (at(SECOND), 3));
    top.unblock(|digest| *digest == client(1));
    assert!(top.top_blocked(10, at(SECOND)).is_empty());
}

#[test]
fn what_shows_a_key_is_bounded() {
    let top = TopKeys::default();
    top.refused((client(1), at(0)), None, || "é".repeat(10_000));
    assert_eq!(top.top(1)[0].shown.len(), MAX_SHOWN_BYTES);
}

#[test]
fn counters_lose_nothing_between_threads() {
    let counters = Counters::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    counters.allowed();
                    counters.limited();
                    counters.delayed();
                }
            });
        }
    });
    assert_eq!(counters.counts(), Counts { allowed: 40_000, limited: 40_000, delayed: 40_000 });
}
