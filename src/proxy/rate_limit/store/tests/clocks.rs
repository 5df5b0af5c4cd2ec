//! A store whose own clock is set back again and again: what passes is never more than the rate gives in real time.
//!
//! The time is that of this test, from before the first decision to after the last: longer than the store can have reckoned with.

use std::time::SystemTime;

use fusebox_testkit::WallClock;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// As many as there are processes in the test with real proxies.
const CONNECTIONS: usize = 8;

/// What happens one after another: decisions of all connections at once, and the clock, in milliseconds, between them.
#[derive(Clone, Debug)]
struct Round {
    decisions: usize,
    back_ms: u64,
    pause_ms: u64,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let back_ms = prop_oneof![2 => Just(0_u64), 2 => 1_u64..50, 1 => 50_u64..5_000, 1 => Just(300_000_u64)];
    let round = (1_usize..12, back_ms, 0_u64..40).prop_map(|(decisions, back_ms, pause_ms)| Round {
        decisions,
        back_ms,
        pause_ms,
    });
    proptest::collection::vec(round, 1..8)
}

/// A rate that refills between rounds, one that hardly does, and one whose bucket a round empties.
const RATES: [(u32, u64, u32); 3] = [(500, 1_000, 20), (1, 3_600_000, 30), (3, 100, 5)];

async fn passed_at_once(stores: &[SharedStore], demands: &[SharedDemand], decisions: usize) -> Vec<u64> {
    let asked = stores.iter().map(async |store| {
        let mut passed = vec![0; demands.len()];
        for _ in 0..decisions {
            for (demand, count) in demands.iter().zip(&mut passed) {
                *count += u64::from(passes(store, demand).await);
            }
        }
        passed
    });
    let all = futures::future::join_all(asked).await;
    (0..demands.len()).map(|which| all.iter().map(|passed| passed[which]).sum()).collect()
}

#[test]
fn a_clock_that_is_set_back_never_lets_more_pass_than_the_rate_and_the_burst() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let clock = WallClock::new().unwrap();
    let (redis, stores) = runtime.block_on(async {
        let redis = Redis::builder().clock(&clock).start().await.unwrap();
        let stores: Vec<_> = (0..CONNECTIONS).map(|_| started(&single(redis.address()))).collect();
        for store in &stores {
            is_connected(store).await.unwrap();
        }
        (redis, stores)
    });
    let (case, behind_ms) = (std::cell::Cell::new(0_u64), std::cell::Cell::new(0_u64));
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config).run(&rounds(), |rounds| {
        case.set(case.get() + 1);
        let demands: Vec<_> = RATES.iter().map(|rate| demand(&format!("{}-{rate:?}", case.get()), *rate)).collect();
        let (begun, mut passed) = (Instant::now(), vec![0; RATES.len()]);
        for round in &rounds {
            behind_ms.set(behind_ms.get() + round.back_ms);
            let behind = Duration::from_millis(behind_ms.get());
            clock.set(&format!("-{:.3}", behind.as_secs_f64())).unwrap();
            let more = runtime.block_on(async {
                tokio::time::sleep(Duration::from_millis(round.pause_ms)).await;
                passed_at_once(&stores, &demands, round.decisions).await
            });
            passed.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap() + 1;
        for ((requests, per_ms, burst), passed) in RATES.into_iter().zip(passed) {
            let most = u64::from(burst) + us * u64::from(requests) / (per_ms * 1_000);
            prop_assert!(passed <= most, "{passed} of {most} passed in {us} us: {rounds:?}");
        }
        Ok(())
    });
    let told = runtime.block_on(redis.command(&["time"])).unwrap();
    let by_the_store: u64 = told.lines().next().unwrap().parse().unwrap();
    let real = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(by_the_store + behind_ms.get() / 1_000 <= real + 1, "the store's clock was never set back");
    println!("{} cases, the clock is {} ms behind in the end", case.get(), behind_ms.get());
    ran.unwrap();
}
