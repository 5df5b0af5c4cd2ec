//! What rate limits claim, each claim a test.
//!
//! Time here is a number of nanoseconds; nothing waits, and no test depends on the machine's speed.

mod bound;
mod digests;
mod limits;
mod memories;
mod model;
mod one_bucket;
mod quota_files;
mod recently;
mod reference;
mod settings;
mod table;
mod threads;
mod waiting;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// The time so many nanoseconds after a start that all tests share.
fn at(ns: u64) -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_nanos(ns)
}

/// So many requests a second.
fn per_second(requests: u32, burst: u32) -> Rate {
    Rate::new(requests, Duration::from_secs(1), burst).unwrap()
}

fn key(number: u128) -> KeyId {
    KeyId::from(number)
}

fn table(rate: Rate, places: usize) -> Buckets {
    Buckets::new(rate, places, 7, at(0))
}

/// Sends one plain request; whether it passes.
fn passes(buckets: &Buckets, client: u128, rate: Rate, now: u64) -> bool {
    !buckets.reserve(key(client), &Ask::new(rate, 1), at(now)).0.is_refused()
}

/// How long the request must wait; panics where it passes.
fn retry_after(verdict: &Verdict) -> Option<Duration> {
    match verdict.outcome {
        Outcome::Refused { retry_after, .. } => retry_after,
        outcome => panic!("not refused: {outcome:?}"),
    }
}

fn refusal(verdict: &Verdict) -> Refusal {
    match verdict.outcome {
        Outcome::Refused { refusal, .. } => refusal,
        outcome => panic!("not refused: {outcome:?}"),
    }
}
