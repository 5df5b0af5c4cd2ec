//! Claims about a table whose bound changes while it is in use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;

use super::reference::{Model, ModelRate, Said};
use super::*;

/// Bounds of one shard, of several, and of all.
const BOUNDS: [usize; 7] = [1, 3, 100, 9_000, 20_000, 65_536, MAX_TRACKED_KEYS];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many nanoseconds pass, and this client sends a request of this weight.
    Ask(u64, u128, u32),
    /// The bound becomes this one of [`BOUNDS`].
    Bound(usize),
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..200 * MS, 0..30_u128, 1..3_u32).prop_map(|(passed, client, cost)| Step::Ask(passed, client, cost)),
        3 => (0..BOUNDS.len()).prop_map(Step::Bound),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    /// Whatever the bound does meanwhile: what passes would have passed from a bucket that nobody could ever have forgotten,
    /// and a table never takes more keys than it may.
    #[test]
    fn a_bound_that_changes_hands_out_nothing(steps in steps()) {
        let (rate, mut bound, mut now) = (per_second(4, 3), 3, 0);
        let buckets = table(rate, bound);
        let mut models: Vec<Model> = (0..30).map(|_| Model::new(ModelRate { interval: SECOND / 4, burst: 3 })).collect();
        for step in steps {
            let before = buckets.tracked();
            match step {
                Step::Ask(passed, client, cost) => {
                    now += passed;
                    let (verdict, reservation) = buckets.reserve(key(client), &Ask::new(rate, cost), at(now));
                    let model = &mut models[usize::try_from(client).unwrap()];
                    if reservation.is_some() {
                        prop_assert_eq!(model.ask(cost, now), Said::Passes, "client {} at {}: {:?}", client, now, verdict);
                        model.pass(cost, now);
                    }
                    prop_assert!(buckets.tracked() <= before.max(bound));
                }
                Step::Bound(number) => {
                    bound = BOUNDS[number];
                    buckets.set_most(bound);
                    prop_assert_eq!(buckets.tracked(), before, "a bucket was lost with the bound");
                }
                Step::Forget => buckets.forget_full(at(now)),
            }
        }
        buckets.forget_full(at(now + 2 * SECOND));
        prop_assert_eq!(buckets.tracked(), 0, "each is found and forgotten once it is full");
    }

    /// Clients that have buckets of their own find in them exactly what they left, however often these move.
    #[test]
    fn a_bucket_holds_the_same_wherever_it_moves(bounds in prop::collection::vec(0..BOUNDS.len(), 1..20)) {
        let (rate, clients) = (per_second(1, 1_000), 300_u32);
        let buckets = table(rate, 65_536);
        for client in 0..clients {
            let _ = buckets.reserve(key(client.into()), &Ask::new(rate, client + 1), at(0));
        }
        for bound in bounds {
            buckets.set_most(BOUNDS[bound]);
        }
        for client in 0..clients {
            prop_assert_eq!(buckets.remaining(key(client.into()), &rate, at(0)), 999 - client);
        }
        prop_assert_eq!(buckets.tracked(), 300);
    }
}

#[test]
fn a_lower_bound_keeps_what_was_spent_from_and_takes_nobody_new_until_it_is_met() {
    let rate = per_second(1, 2);
    let buckets = table(rate, 100);
    for client in 0..50 {
        assert!(passes(&buckets, client, rate, 0));
    }
    assert!(passes(&buckets, 7, rate, 0));
    buckets.set_most(2);
    assert!(!passes(&buckets, 7, rate, 0), "a fresh bucket was handed out");
    let newcomer = buckets.reserve(key(77), &Ask::new(rate, 1), at(0)).1.unwrap();
    assert_eq!((newcomer.source(), buckets.tracked()), (Source::Overflow, 50));
    // All but the seventh are full after a second, and a few of them go for each new key.
    for client in 100..120 {
        let _ = buckets.reserve(key(client), &Ask::new(rate, 1), at(SECOND));
    }
    assert!(buckets.tracked() <= 2, "{} are left", buckets.tracked());
}

#[test]
fn a_higher_bound_has_room_at_once() {
    let rate = per_second(1, 1);
    let buckets = table(rate, 1);
    assert!(passes(&buckets, 0, rate, 0));
    buckets.set_most(65_536);
    let own = |client: u128| {
        let spent = buckets.reserve(key(client), &Ask::new(rate, 1), at(0)).1;
        spent.is_some_and(|spent| spent.source() == Source::Own)
    };
    assert!((1..30_000).all(own), "somebody had to share");
    assert!(!passes(&buckets, 0, rate, 0), "and the first is as it was");
}

#[test]
fn a_table_that_is_too_large_for_fewer_shards_moves_when_enough_of_it_is_full() {
    let (rate, clients) = (per_second(1, 1), 70_000);
    let buckets = table(rate, MAX_TRACKED_KEYS);
    let crowd = |number: u128| digest(&[&number.to_be_bytes()]).id();
    for client in 0..clients {
        let _ = buckets.reserve(crowd(client), &Ask::new(rate, 1), at(0));
    }
    buckets.set_most(1);
    assert_eq!(buckets.tracked(), 70_000);
    assert!((0..clients).all(|client| buckets.reserve(crowd(client), &Ask::new(rate, 1), at(0)).1.is_none()));
    buckets.forget_full(at(SECOND));
    assert_eq!(buckets.tracked(), 0);
    // One shard has the one place: whoever is full makes room, whatever the hash.
    for client in 0..20_u64 {
        let spent = buckets.reserve(key(client.into()), &Ask::new(rate, 1), at((2 + 2 * client) * SECOND)).1;
        assert_eq!(spent.unwrap().source(), Source::Own, "client {client}");
    }
    assert_eq!(buckets.tracked(), 1);
}

#[test]
fn a_bound_that_changes_under_load_hands_nothing_out() {
    let (rate, done) = (per_second(1, 500), AtomicBool::new(false));
    let buckets = table(rate, 1_000);
    let passed: Vec<usize> = thread::scope(|scope| {
        let (buckets, done) = (&buckets, &done);
        let change = scope.spawn(move || {
            let mut changes = 0;
            while !done.load(Ordering::Relaxed) {
                buckets.set_most(BOUNDS[changes % BOUNDS.len()]);
                changes += 1;
            }
            changes
        });
        let count = move || {
            let each = |client| (0..1_000).filter(|_| passes(buckets, client, rate, 0)).count();
            (0..10).map(each).collect::<Vec<usize>>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        let counts: Vec<Vec<usize>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(change.join().unwrap() > 1);
        (0..10).map(|client| counts.iter().map(|of| of[client]).sum()).collect()
    });
    assert!(passed.iter().all(|passed| *passed <= 500), "{passed:?} passed of buckets of 500");
    assert!(passed[0] > 0);
}
