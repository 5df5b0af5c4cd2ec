//! What one decision of a keyed limit costs with 100,000 clients, beside crate `governor`, digest of the key included.
//!
//! It must not judge: it prints medians and ratios of contenders measured side by side, and how long single decisions take.

#![allow(clippy::unwrap_used)]

mod contender;

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fusebox_policy::rate_limit::{Ask, Buckets, KeyId, Rate, digest};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use self::contender::{Contender, REQUESTS, measured, print};

const CLIENTS: usize = 100_000;

/// Room for all of them.
const MAX_TRACKED_KEYS: usize = 131_072;

/// Decisions of each thread that are timed one by one.
const TIMED: usize = 200_000;

/// Coprime to the number of clients, so that each comes once before one comes again, far from the one before it in memory.
const STRIDE: usize = 61_803;

/// Requests a second of each client, and its burst: most pass.
const RATE: u32 = 1_000;

type Other<K> = Arc<DefaultKeyedRateLimiter<K>>;

fn main() {
    print("one decision, 100,000 clients in turn", &measured(contenders()));
    println!("\nsingle decisions on 2 threads, each between two readings of the clock\n");
    println!("{:<46} {:>8} {:>8} {:>8} {:>9}", "contender", "p50 ns", "p99 ns", "p99.9 ns", "greatest");
    let (keys, ours, other) = (keys(), ours(), other());
    timed("fusebox, digest of the text, time given", |number| {
        ask(&ours, digest(&[keys[number].as_bytes()]).id(), Instant::now());
    });
    timed("governor, text", |number| {
        let _ = black_box(other.check_key(&keys[number]));
    });
    timed("nothing", |number| {
        black_box(number);
    });
}

fn contenders() -> Vec<Contender> {
    let mut all = Vec::new();
    for threads in [1, 2] {
        all.push(Contender::new("fusebox, digest of the text, clock read", threads, fusebox_text()));
        all.push(Contender::new("governor, text, its clock", threads, governor_text()));
        all.push(Contender::new("fusebox, digest known, clock read", threads, fusebox_digest()));
        all.push(Contender::new("governor, 128 bits, its clock", threads, governor_digest()));
    }
    all.push(Contender::new("fusebox, every request refused", 1, fusebox_refused()));
    all.push(Contender::new("fusebox, every key a new one, table full", 1, fusebox_flood()));
    all.push(Contender::new("digest of the text alone", 1, digest_alone()));
    all
}

fn keys() -> Arc<Vec<String>> {
    // As long as keys of APIs usually are.
    Arc::new((0..CLIENTS).map(|client| format!("sk-live-{client:032x}")).collect())
}

fn ids() -> Arc<Vec<KeyId>> {
    Arc::new(keys().iter().map(|key| digest(&[key.as_bytes()]).id()).collect())
}

fn rate(requests: u32) -> Rate {
    Rate::new(requests, Duration::from_secs(1), requests).unwrap()
}

fn ours() -> Arc<Buckets> {
    Arc::new(Buckets::new(rate(RATE), MAX_TRACKED_KEYS, 7, Instant::now()))
}

fn other<K: std::hash::Hash + Eq + Clone>() -> Other<K> {
    Arc::new(RateLimiter::dashmap(Quota::per_second(NonZeroU32::new(RATE).unwrap())))
}

fn ask(buckets: &Buckets, key: KeyId, now: Instant) {
    black_box(buckets.reserve(black_box(key), &Ask::new(rate(RATE), 1), now).0);
}

/// Numbers of clients for one measurement, another part of them each time and on each thread.
fn in_turn(next: &AtomicUsize) -> impl Iterator<Item = usize> + use<> {
    let first = next.fetch_add(REQUESTS as usize, Ordering::Relaxed);
    (first..first + REQUESTS as usize).map(|request| request * STRIDE % CLIENTS)
}

fn fusebox_text() -> impl Fn() {
    let (keys, buckets, next) = (keys(), ours(), AtomicUsize::new(0));
    move || in_turn(&next).for_each(|number| ask(&buckets, digest(&[keys[number].as_bytes()]).id(), Instant::now()))
}

fn fusebox_digest() -> impl Fn() {
    let (ids, buckets, next) = (ids(), ours(), AtomicUsize::new(0));
    move || in_turn(&next).for_each(|number| ask(&buckets, ids[number], Instant::now()))
}

fn governor_text() -> impl Fn() {
    let (keys, limiter, next) = (keys(), other(), AtomicUsize::new(0));
    move || {
        for number in in_turn(&next) {
            let _ = black_box(limiter.check_key(black_box(&keys[number])));
        }
    }
}

fn governor_digest() -> impl Fn() {
    let (ids, limiter, next) = (ids(), other(), AtomicUsize::new(0));
    move || {
        for number in in_turn(&next) {
            let _ = black_box(limiter.check_key(black_box(&ids[number].as_u128())));
        }
    }
}

fn fusebox_refused() -> impl Fn() {
    let (ids, next) = (ids(), AtomicUsize::new(0));
    let hourly = Rate::new(1, Duration::from_secs(3_600), 1).unwrap();
    let buckets = Buckets::new(hourly, MAX_TRACKED_KEYS, 7, Instant::now());
    move || {
        for number in in_turn(&next) {
            black_box(buckets.reserve(ids[number], &Ask::new(hourly, 1), Instant::now()).0);
        }
    }
}

fn fusebox_flood() -> impl Fn() {
    let hourly = Rate::new(1, Duration::from_secs(3_600), 1).unwrap();
    let buckets = Buckets::new(hourly, 65_536, 7, Instant::now());
    let next = AtomicUsize::new(0);
    move || {
        let first = next.fetch_add(REQUESTS as usize, Ordering::Relaxed);
        for number in first..first + REQUESTS as usize {
            let id = digest(&[&number.to_be_bytes()]).id();
            black_box(buckets.reserve(id, &Ask::new(hourly, 1), Instant::now()).0);
        }
    }
}

fn digest_alone() -> impl Fn() {
    let (keys, next) = (keys(), AtomicUsize::new(0));
    move || {
        for number in in_turn(&next) {
            black_box(digest(&[keys[number].as_bytes()]).id());
        }
    }
}

/// Times decisions one by one on two threads, after each client came once.
fn timed(name: &str, decide: impl Fn(usize) + Sync) {
    (0..CLIENTS).for_each(&decide);
    let next = AtomicUsize::new(0);
    let run = || {
        let first = next.fetch_add(TIMED, Ordering::Relaxed);
        let one = |request: usize| {
            let began = Instant::now();
            decide(request * STRIDE % CLIENTS);
            began.elapsed().as_nanos()
        };
        (first..first + TIMED).map(one).collect::<Vec<_>>()
    };
    let mut took: Vec<u128> = thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    took.sort_unstable();
    let at = |per_mille: usize| took[(took.len() - 1) * per_mille / 1_000];
    println!("{name:<46} {:>8} {:>8} {:>8} {:>9}", at(500), at(990), at(999), at(1_000));
}
