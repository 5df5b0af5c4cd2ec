//! Claims about which endpoints may be left out.

use proptest::prelude::*;

use super::super::{Force, MaxOpenPercent, Outcome, SharedBreaker, Standing, Use, choose, uses};
use super::*;
use crate::config::ForcedState::ForcedClosed;

fn percent(percent: u8) -> MaxOpenPercent {
    MaxOpenPercent::try_from(percent).unwrap()
}

/// Usable, or the millisecond it tripped at.
fn standing(tripped_ms: &Option<u64>) -> Standing {
    tripped_ms.map_or(Standing::Usable, |ms| Standing::Unusable { since: at(ms) })
}

fn judged(tripped_ms: &[Option<u64>], most: u8) -> Vec<Use> {
    let standings: Vec<Standing> = tripped_ms.iter().map(standing).collect();
    uses(&standings, percent(most))
}

#[test]
fn one_bad_endpoint_of_three_is_left_out() {
    assert_eq!(judged(&[None, Some(5), None], 50), [Use::Ask, Use::LeaveOut, Use::Ask]);
}

#[test]
fn those_that_tripped_first_stay_out_and_the_rest_are_used_in_spite() {
    let judged = judged(&[Some(30), Some(10), None, Some(20)], 50);
    assert_eq!(judged, [Use::InSpite, Use::LeaveOut, Use::Ask, Use::LeaveOut]);
}

#[test]
fn one_of_several_may_always_be_left_out() {
    assert_eq!(judged(&[Some(1), None, None], 1), [Use::LeaveOut, Use::Ask, Use::Ask]);
    assert_eq!(judged(&[Some(1), Some(2)], 10), [Use::LeaveOut, Use::InSpite]);
}

#[test]
fn a_single_endpoint_is_left_out_only_where_all_may_be() {
    assert_eq!(judged(&[Some(1)], 99), [Use::InSpite]);
    assert_eq!(judged(&[Some(1)], 100), [Use::LeaveOut]);
    assert_eq!(choose(&judged(&[Some(1)], 100), 7), None);
}

#[test]
fn a_share_that_is_none_is_refused() {
    for bad in [0, 101, u8::MAX] {
        assert!(MaxOpenPercent::try_from(bad).unwrap_err().to_string().contains("set it to 1 to 100"));
    }
}

#[test]
fn no_number_of_endpoints_overflows() {
    assert_eq!(percent(100).most_of(usize::MAX), usize::MAX);
    assert_eq!(percent(50).most_of(usize::MAX), usize::MAX / 2);
    assert_eq!(percent(1).most_of(0), 0);
}

#[test]
fn calls_take_turns() {
    let uses = [Use::Ask, Use::LeaveOut, Use::InSpite];
    let chosen: Vec<_> = (0..4).filter_map(|turn| choose(&uses, turn)).collect();
    assert_eq!(chosen, [0, 2, 0, 2]);
    assert_eq!(choose(&[], 0), None);
}

#[test]
fn standing_says_whether_a_request_would_pass() {
    let mut bench = Bench::new(&parameters());
    let usable = |bench: &Bench| bench.breaker.standing(bench.now()) == Standing::Usable;
    assert!(usable(&bench));
    bench = Bench::open(&parameters());
    assert_eq!(bench.breaker.standing(bench.now()), Standing::Unusable { since: at(0) });
    bench.wait(100);
    assert!(usable(&bench), "a probe would pass, and comes only if it is chosen");
    let probe = bench.admitted();
    assert_eq!(bench.breaker.standing(bench.now()), Standing::Unusable { since: at(0) }, "the only slot is taken");
    bench.settle(probe, Outcome::Failure);
    assert_eq!(bench.breaker.standing(bench.now()), Standing::Unusable { since: at(0) }, "it never recovered");
    bench.breaker.force(Some(Force { state: ForcedClosed, until: at(9_000) }), bench.now());
    assert!(usable(&bench));
}

#[test]
fn a_shared_breaker_stands_as_the_one_in_it() {
    let shared = SharedBreaker::new(settings(&parameters()), 1, at(0));
    for _ in 0..3 {
        assert_eq!(shared.standing(at(0)), Standing::Usable);
        let Decision::Admitted(permit) = shared.admit(at(0)).decision else { panic!("refused while closed") };
        shared.settle(permit, Outcome::Failure, at(0));
    }
    assert_eq!(shared.standing(at(99)), Standing::Unusable { since: at(0) });
    assert_eq!(shared.standing(at(100)), Standing::Usable);
}

proptest! {
    #[test]
    fn no_more_than_the_share_is_left_out_and_the_first_ones_are(
        tripped in proptest::collection::vec(proptest::option::of(0..20_u64), 0..40),
        most in 1..=100_u8,
        turn in any::<usize>(),
    ) {
        let judged = judged(&tripped, most);
        prop_assert_eq!(judged.len(), tripped.len());
        let unusable = tripped.iter().flatten().count();
        let left_out = judged.iter().filter(|usage| **usage == Use::LeaveOut).count();
        let share = tripped.len() * usize::from(most) / 100;
        let allowed = if tripped.len() > 1 { share.max(1) } else { share };
        prop_assert_eq!(left_out, unusable.min(allowed));
        for (index, usage) in judged.iter().enumerate() {
            prop_assert_eq!(*usage == Use::Ask, tripped[index].is_none());
            for (other, other_usage) in judged.iter().enumerate() {
                if *usage == Use::LeaveOut && *other_usage == Use::InSpite {
                    prop_assert!((tripped[index], index) < (tripped[other], other), "a later one stays out");
                }
            }
        }
        match choose(&judged, turn) {
            Some(chosen) => prop_assert!(judged[chosen] != Use::LeaveOut),
            None => prop_assert_eq!(left_out, tripped.len()),
        }
    }
}
