//! The engine held against the reference model, over histories that nobody thought of.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::reference::{Allowed, Model, ModelRate, Said, overshoot};
use super::*;

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes, in parts of a thousandth of the interval.
    Wait(u64),
    /// A client asks, with a weight.
    Ask { client: u128, cost: u32 },
    /// The reservation of this number, counted from the last, is given back.
    GiveBack(usize),
    /// The rate becomes that of this number.
    Change(usize),
}

fn steps(clients: u128) -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![Just(0), 1..5_000_u64, 5_000..100_000_u64];
    let step = prop_oneof![
        2 => wait.prop_map(Step::Wait),
        6 => (0..clients, 1..8_u32).prop_map(|(client, cost)| Step::Ask { client, cost }),
        1 => (0..4_usize).prop_map(Step::GiveBack),
    ];
    prop::collection::vec(step, 1..120)
}

fn changing_steps(clients: u128) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..30_000_u64).prop_map(Step::Wait),
        8 => (0..clients, 1..4_u32).prop_map(|(client, cost)| Step::Ask { client, cost }),
        1 => (0..4_usize).prop_map(Step::GiveBack),
        2 => (0..3_usize).prop_map(Step::Change),
    ];
    prop::collection::vec(step, 1..150)
}

fn rates() -> impl Strategy<Value = Rate> {
    (1..2_000_u32, 1..10_000_u64, 1..20_u32).prop_filter_map("a rate that is kept", |(requests, per_ms, burst)| {
        Rate::new(requests, Duration::from_millis(per_ms), burst).ok()
    })
}

fn plain(rate: &Rate) -> ModelRate {
    ModelRate { interval: u64::try_from(rate.interval().as_nanos()).unwrap(), burst: rate.burst() }
}

fn said(verdict: &Verdict) -> Said {
    match verdict.outcome {
        Outcome::Allowed => Said::Passes,
        Outcome::Delayed { .. } => panic!("nobody asked to wait"),
        Outcome::Refused { retry_after: None, .. } => Said::Never,
        Outcome::Refused { retry_after: Some(wait), .. } => Said::Refuses(u64::try_from(wait.as_nanos()).unwrap()),
    }
}

/// A thousandth of the time from one request to the next.
fn tick(rate: &Rate) -> u64 {
    (plain(rate).interval / 1_000).max(1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// With a place for everybody, every answer is the reference's: what passes, for how long it is refused, what remains. Once
    /// something was given back after more was spent, a client may be refused too much, and is never allowed too much.
    #[test]
    fn every_answer_is_that_of_the_reference(rate in rates(), steps in steps(3)) {
        let buckets = table(rate, 100);
        let mut models: BTreeMap<u128, Model> = BTreeMap::new();
        let (mut now, mut held) = (0, Vec::new());
        let mut inexact = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Wait(ticks) => now += ticks * tick(&rate),
                Step::Ask { client, cost } => {
                    let model = models.entry(client).or_insert_with(|| Model::new(plain(&rate)));
                    let (verdict, reservation) = buckets.reserve(key(client), &Ask::new(rate, cost), at(now));
                    if inexact.contains(&client) {
                        prop_assert!(verdict.is_refused() || model.ask(cost, now) == Said::Passes);
                    } else {
                        prop_assert_eq!(said(&verdict), model.ask(cost, now));
                    }
                    if let Some(reservation) = reservation {
                        held.push((client, model.pass(cost, now), reservation));
                    }
                    if inexact.contains(&client) {
                        prop_assert!(verdict.remaining <= model.remaining(now));
                        continue;
                    }
                    prop_assert_eq!(verdict.remaining, model.remaining(now));
                    prop_assert_eq!(verdict.reset_after.is_zero(), model.is_full(now));
                }
                Step::GiveBack(number) if number < held.len() => {
                    let (client, pass, reservation) = held.remove(held.len() - 1 - number);
                    buckets.give_back(reservation);
                    let model = models.get_mut(&client).unwrap();
                    if !model.is_last(pass) {
                        inexact.insert(client);
                    }
                    model.undo(pass);
                }
                Step::GiveBack(_) | Step::Change(_) => {}
            }
        }
    }

    /// Whatever is given back and however rates change, no client ever gets more than its rates x time + burst.
    #[test]
    fn no_change_of_rate_lets_more_pass(
        choice in prop::collection::vec(rates(), 3),
        steps in changing_steps(2),
    ) {
        let buckets = table(choice[0], 100);
        let (mut now, mut rate) = (0, choice[0]);
        let mut history = vec![(0, plain(&rate))];
        let mut held = Vec::new();
        let mut allowed: BTreeMap<u128, Vec<Allowed>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Wait(ticks) => now += ticks * tick(&choice[0]),
                Step::Ask { client, cost } => {
                    if let Some(reservation) = buckets.reserve(key(client), &Ask::new(rate, cost), at(now)).1 {
                        let passes = allowed.entry(client).or_default();
                        passes.push(Allowed { at: now, cost });
                        held.push((client, passes.len() - 1, reservation));
                    }
                }
                Step::GiveBack(number) if number < held.len() => {
                    let (client, pass, reservation) = held.remove(held.len() - 1 - number);
                    buckets.give_back(reservation);
                    allowed.get_mut(&client).unwrap()[pass].cost = 0;
                }
                Step::GiveBack(_) => {}
                Step::Change(number) => {
                    rate = choice[number];
                    history.push((now, plain(&rate)));
                    buckets.set_rates(rate, |_| rate, at(now));
                }
            }
        }
        for passes in allowed.values() {
            prop_assert!(overshoot(passes, &history).is_none(), "{:?}", overshoot(passes, &history));
        }
    }

    /// With fewer places than clients: never more places than allowed; each client within its rate x time + burst, through its
    /// own bucket and the shared one together; and the shared one only where every place holds a bucket that is not full.
    #[test]
    fn eviction_never_hands_out_fresh_quota(rate in rates(), places in 1..6_usize, steps in steps(12)) {
        let buckets = table(rate, places);
        let mut own: BTreeMap<u128, Model> = BTreeMap::new();
        let mut allowed: BTreeMap<u128, Vec<Allowed>> = BTreeMap::new();
        let (mut now, mut held, mut shared) = (0, Vec::new(), false);
        for step in steps {
            match step {
                Step::Wait(ticks) => now += ticks * tick(&rate),
                Step::Ask { client, cost } => {
                    let reservation = buckets.reserve(key(client), &Ask::new(rate, cost), at(now)).1;
                    prop_assert!(buckets.tracked() <= places);
                    let Some(reservation) = reservation else { continue };
                    let passes = allowed.entry(client).or_default();
                    passes.push(Allowed { at: now, cost });
                    let model = own.entry(client).or_insert_with(|| Model::new(plain(&rate)));
                    if reservation.source() == Source::Own {
                        held.push((client, (passes.len() - 1, model.pass(cost, now)), reservation));
                    } else if !shared {
                        // Later, buckets begin with what their keys spent here, which the models do not know.
                        shared = true;
                        let busy = own.values().filter(|model| !model.is_full(now)).count();
                        prop_assert!(busy >= places, "{} of {} places were not full", busy, places);
                    }
                }
                Step::GiveBack(number) if number < held.len() => {
                    let (client, (pass, own_pass), reservation) = held.remove(held.len() - 1 - number);
                    buckets.give_back(reservation);
                    allowed.get_mut(&client).unwrap()[pass].cost = 0;
                    own.get_mut(&client).unwrap().undo(own_pass);
                }
                Step::GiveBack(_) | Step::Change(_) => {}
            }
        }
        for passes in allowed.values() {
            prop_assert!(overshoot(passes, &vec![(0, plain(&rate))]).is_none(), "{:?}", passes);
        }
    }
}
