//! Claims about a table shared by threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::reference::Allowed;
use super::*;

const THREADS: u64 = 4;
const REQUESTS: u64 = 20_000;

/// A number that looks like chance, the same in every run.
fn dice(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^ word >> 32
}

/// All threads push one time on and ask for few clients, more than there are places; some of what they spend they give back.
#[test]
fn threads_together_never_let_more_pass_than_the_rate() {
    let rate = per_second(1_000, 20);
    let (buckets, time) = (table(rate, 3), AtomicU64::new(0));
    let run = |thread: u64| {
        let mut passed: Vec<(u128, Allowed)> = Vec::new();
        for request in 0..REQUESTS {
            let dice = dice(request * THREADS + thread);
            let now = time.fetch_add(dice % 100_000, Ordering::Relaxed);
            let (client, cost) = (u128::from(dice >> 8 & 3), 1 + u32::try_from(dice >> 16 & 1).unwrap());
            let Some(reservation) = buckets.reserve(key(client), &Ask::new(rate, cost), at(now)).1 else { continue };
            if dice >> 20 & 7 == 0 {
                buckets.give_back(reservation);
            } else {
                passed.push((client, Allowed { at: now, cost }));
            }
        }
        passed
    };
    let passed: Vec<(u128, Allowed)> = thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let end = time.load(Ordering::Relaxed);
    for client in 0..4 {
        let of: Vec<Allowed> = passed.iter().filter(|(who, _)| *who == client).map(|(_, allowed)| *allowed).collect();
        let total: u64 = of.iter().map(|allowed| u64::from(allowed.cost)).sum();
        assert!(total <= 20 + end / MS, "client {client}: {total} in {end} ns");
        assert!(total >= end / MS / 4, "client {client} was starved: {total} in {end} ns");
    }
    assert!(buckets.tracked() <= 3);
}

#[test]
fn threads_that_stand_still_in_time_share_one_burst_exactly() {
    let rate = per_second(1, 1_000);
    let buckets = table(rate, 65_536);
    let passed: usize = thread::scope(|scope| {
        let count = || (0..REQUESTS).filter(|_| passes(&buckets, 1, rate, 0)).count();
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 1_000);
}

#[test]
fn rates_that_change_under_load_hand_nothing_out() {
    let rates = [per_second(1, 100), per_second(1_000, 50), per_second(7, 100)];
    let buckets = table(rates[0], 65_536);
    let count =
        |thread: usize| (0..5_000).filter(|request| passes(&buckets, 1, rates[(request + thread) % 3], 0)).count();
    let change = || (0..500).for_each(|number| buckets.set_rates(rates[number % 3], |_| rates[number % 3], at(0)));
    let passed: usize = thread::scope(|scope| {
        scope.spawn(change);
        let count = &count;
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || count(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(passed <= 100, "{passed} passed of a bucket of 100");
}
