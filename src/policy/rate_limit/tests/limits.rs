//! Claims about several limits on one request.

use proptest::prelude::*;

use super::*;

const CLIENT: u128 = 1;
const COMMON: u128 = 2;

fn demand(buckets: &Buckets, client: u128, ask: Ask) -> Demand<'_> {
    Demand { buckets, key: key(client), ask }
}

/// `reliability.md`: several limits are checked first and spent after, or a refused client drains the common quota.
#[test]
fn a_refused_client_does_not_drain_the_common_quota() {
    let (own_rate, common_rate) = (per_second(1, 1), per_second(100, 100));
    let (own, common) = (table(own_rate, 10), table(common_rate, 10));
    for order in [false, true] {
        let mut demands =
            vec![demand(&common, COMMON, Ask::new(common_rate, 1)), demand(&own, CLIENT, Ask::new(own_rate, 1))];
        if order {
            demands.reverse();
        }
        for _ in 0..1_000 {
            let _ = decide(&demands, at(0));
        }
    }
    assert_eq!(common.remaining(key(COMMON), &common_rate, at(0)), 99, "only the request that passed was spent");
}

#[test]
fn the_answer_says_the_longest_wait_of_those_that_refuse_and_what_each_said() {
    let (short, long, free) = (per_second(10, 1), per_second(1, 1), per_second(1, 9));
    let tables = [table(short, 10), table(free, 10), table(long, 10)];
    let demands: Vec<Demand<'_>> = tables
        .iter()
        .zip([short, free, long])
        .map(|(buckets, rate)| demand(buckets, CLIENT, Ask::new(rate, 1)))
        .collect();
    assert_eq!(decide(&demands, at(0)).outcome, Outcome::Allowed);
    let decision = decide(&demands, at(0));
    let wait = Some(Duration::from_secs(1));
    assert_eq!(decision.outcome, Outcome::Refused { refusal: Refusal::OverLimit, retry_after: wait });
    assert_eq!((decision.decisive, decision.refusing().collect::<Vec<_>>()), (Some(2), vec![0, 2]));
    assert_eq!(decision.verdicts[1].remaining, 8, "the second was not spent from");
}

#[test]
fn a_limit_that_never_allows_a_request_decides_over_one_that_will() {
    let (rate, small) = (per_second(1, 5), per_second(1, 1));
    let (first, second) = (table(rate, 10), table(small, 10));
    let demands = [demand(&first, CLIENT, Ask::new(rate, 5)), demand(&second, CLIENT, Ask::new(small, 2))];
    let decision = decide(&demands, at(0));
    assert_eq!(decision.decisive, Some(1));
    assert_eq!(decision.outcome, Outcome::Refused { refusal: Refusal::OverLimit, retry_after: None });
}

#[test]
fn what_another_limit_had_reserved_is_shown_as_given_back() {
    let (common_rate, own_rate) = (per_second(10, 10), per_second(1, 1));
    let (common, own) = (table(common_rate, 10), table(own_rate, 10));
    let demands = [demand(&common, COMMON, Ask::new(common_rate, 4)), demand(&own, CLIENT, Ask::new(own_rate, 1))];
    let _ = decide(&demands, at(0));
    let refused = decide(&demands, at(0));
    assert_eq!((refused.verdicts[0].remaining, refused.verdicts[0].reset_after), (6, Duration::from_millis(400)));
}

#[test]
fn a_decision_gives_back_all_that_it_spent() {
    let rate = per_second(1, 1);
    let tables = [table(rate, 10), table(rate, 10)];
    let demands = [demand(&tables[0], CLIENT, Ask::new(rate, 1)), demand(&tables[1], CLIENT, Ask::new(rate, 1))];
    decide(&demands, at(0)).give_back(&demands);
    assert_eq!(decide(&demands, at(0)).outcome, Outcome::Allowed);
}

#[test]
fn every_limit_that_is_exceeded_begins_its_block() {
    let rate = per_second(10, 1);
    let (first, second) = (table(rate, 10), table(rate, 10));
    let block = |seconds| Ask { exceed: Exceed::Block(Duration::from_secs(seconds)), ..Ask::new(rate, 1) };
    let demands = [demand(&first, CLIENT, block(10)), demand(&second, CLIENT, block(20))];
    let _ = decide(&demands, at(0));
    let _ = decide(&demands, at(0));
    assert_eq!((first.blocked(at(0)), second.blocked(at(0))), (1, 1));
}

#[test]
fn a_request_waits_for_the_slowest_of_its_limits_and_not_at_all_where_one_refuses() {
    let (fast, slow) = (per_second(10, 1), per_second(1, 1));
    let (first, second, third) = (table(fast, 10), table(slow, 10), table(slow, 10));
    let delay = |rate| Ask { exceed: Exceed::Delay(Duration::from_secs(5)), ..Ask::new(rate, 1) };
    let two = [demand(&first, CLIENT, delay(fast)), demand(&second, CLIENT, delay(slow))];
    assert_eq!(decide(&two, at(0)).outcome, Outcome::Allowed);
    let waits = decide(&two, at(0));
    assert_eq!((waits.outcome, waits.decisive), (Outcome::Delayed { wait: Duration::from_secs(1) }, Some(1)));
    waits.give_back(&two);
    let _ = third.reserve(key(CLIENT), &Ask::new(slow, 1), at(0));
    let three = [two[0], two[1], demand(&third, CLIENT, Ask::new(slow, 1))];
    assert!(matches!(decide(&three, at(0)).outcome, Outcome::Refused { .. }));
    let again = second.reserve(key(CLIENT), &delay(slow), at(0)).0;
    assert_eq!(again.outcome, Outcome::Delayed { wait: Duration::from_secs(1) }, "the refused one kept a place");
}

proptest! {
    /// With any mixture of limits, what remains is what passed requests spent, and nothing else.
    #[test]
    fn only_requests_that_pass_every_limit_are_spent(
        bursts in prop::collection::vec(1..20_u32, 1..5),
        costs in prop::collection::vec(prop::collection::vec(0..6_u32, 5), 1..40),
    ) {
        let rates: Vec<Rate> = bursts.iter().map(|burst| per_second(1, *burst)).collect();
        let tables: Vec<Buckets> = rates.iter().map(|rate| table(*rate, 10)).collect();
        let mut left = bursts.clone();
        for costs in costs {
            let demands: Vec<Demand<'_>> = tables.iter().zip(&rates).zip(&costs)
                .map(|((buckets, rate), cost)| demand(buckets, CLIENT, Ask::new(*rate, *cost))).collect();
            let fits = left.iter().zip(&costs).all(|(left, cost)| left >= cost);
            prop_assert_eq!(decide(&demands, at(0)).outcome == Outcome::Allowed, fits);
            if fits {
                left.iter_mut().zip(&costs).for_each(|(left, cost)| *left -= cost);
            }
            for ((buckets, rate), left) in tables.iter().zip(&rates).zip(&left) {
                prop_assert_eq!(buckets.remaining(key(CLIENT), rate, at(0)), *left);
            }
        }
    }
}
