//! The script beside a reference that counts tokens, in whole numbers, by the times that the store itself gave.
//!
//! It must not share arithmetic with what it checks: the reference is written the other way round
//! on purpose, and refills a bucket, where the script moves a moment.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::sync::Notify;

use super::super::connection::{Arrival, Connection, Duty};
use super::super::script::Naming;
use super::super::settings::Endpoint;
use super::*;

/// One bucket: what it holds in units of a request divided by the period in microseconds.
#[derive(Clone, Copy, Debug)]
struct Tokens {
    units: u128,
    at_us: u64,
    blocked_until_us: u64,
}

#[derive(Debug, Default)]
struct Reference {
    buckets: HashMap<BucketName, Tokens>,
}

#[derive(Clone, Debug)]
struct Step {
    demands: Vec<(usize, u32)>,
    pause_us: u64,
}

impl Reference {
    /// 0 allowed, 1 beyond, 2 blocked, 3 blocked from now on, with what is left in whole requests, for each demand.
    fn decide(&mut self, demands: &[SharedDemand], now_us: u64) -> Vec<(i64, u128)> {
        let mut states: Vec<(i64, Tokens)> = demands.iter().map(|demand| self.check(demand, now_us)).collect();
        let all = states.iter().all(|(state, _)| *state == 0);
        for (demand, (state, tokens)) in demands.iter().zip(&mut states) {
            if all {
                tokens.units -= u128::from(demand.ask.cost) * demand.ask.rate.per().as_micros();
            } else if let (1, Exceed::Block(time)) = (*state, demand.ask.exceed) {
                (*state, tokens.blocked_until_us) = (3, now_us + u64::try_from(time.as_micros()).unwrap());
            }
            self.buckets.insert(demand.bucket.clone(), *tokens);
        }
        let left = |demand: &SharedDemand, tokens: Tokens| tokens.units / demand.ask.rate.per().as_micros();
        demands.iter().zip(states).map(|(demand, (state, tokens))| (state, left(demand, tokens))).collect()
    }

    fn check(&self, demand: &SharedDemand, now_us: u64) -> (i64, Tokens) {
        let Ask { rate, cost, .. } = demand.ask;
        let per_us = rate.per().as_micros();
        let full = u128::from(rate.burst()) * per_us;
        let before = self.buckets.get(&demand.bucket).copied();
        let before = before.unwrap_or(Tokens { units: full, at_us: now_us, blocked_until_us: 0 });
        let refilled = before.units + u128::from(now_us - before.at_us) * u128::from(rate.requests());
        let tokens = Tokens { units: refilled.min(full), at_us: now_us, ..before };
        let state = match () {
            () if tokens.blocked_until_us > now_us => 2,
            () if tokens.units < u128::from(cost) * per_us => 1,
            () => 0,
        };
        (state, tokens)
    }
}

/// Rates at which something is refilled between any two steps, or hardly ever, with periods that no number of requests divides.
const RATES: [(u32, u64, u32, u64); 6] =
    [(3, 1, 4, 0), (7, 1_000, 3, 0), (999_983, 1_000, 50, 0), (1_000, 7, 2, 3), (11, 13, 5, 40), (1, 86_400_000, 6, 0)];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let demands = proptest::collection::vec((0..RATES.len(), 0_u32..4), 1..4);
    let step = (demands, 0_u64..3_000).prop_map(|(demands, pause_us)| Step { demands, pause_us });
    proptest::collection::vec(step, 1..40)
}

async fn raw(connection: &Connection, demands: &[SharedDemand]) -> Vec<i64> {
    let decision = Decision::new(demands).unwrap();
    connection.ask(&decision.command(Naming::Text), Arrival::Settled).await.unwrap()
}

async fn connection_to(redis: &Redis) -> Connection {
    let endpoint = Endpoint::parse(&redis.address().to_string()).unwrap();
    let wake = Arc::new(Notify::new());
    Connection::open(&settings(&single(redis.address())), &endpoint, (Duty::Keeps, &wake)).await.unwrap()
}

fn demands_of(step: &Step, case: u64) -> Vec<SharedDemand> {
    let mut demands: Vec<SharedDemand> = Vec::new();
    for (number, cost) in &step.demands {
        let (requests, per_ms, burst, block_ms) = RATES[*number];
        let limit = weighing(*cost, demand(&format!("{case}-{number}"), (requests, per_ms, burst)));
        let demand = if block_ms > 0 { blocking(Duration::from_millis(block_ms), limit) } else { limit };
        // A policy's limits are buckets of their own.
        if demands.iter().all(|other| other.bucket != demand.bucket) {
            demands.push(demand);
        }
    }
    demands
}

#[test]
fn every_decision_is_that_of_the_reference() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_redis, connection) = runtime.block_on(async {
        let redis = Redis::start().await.unwrap();
        let connection = connection_to(&redis).await;
        (redis, connection)
    });
    let case = std::cell::Cell::new(0_u64);
    let config = Config { cases: 150, failure_persistence: None, ..Config::default() };
    let ran = TestRunner::new(config).run(&steps(), |steps| {
        case.set(case.get() + 1);
        let mut reference = Reference::default();
        for step in &steps {
            let demands = demands_of(step, case.get());
            let answer = runtime.block_on(async {
                tokio::time::sleep(Duration::from_micros(step.pause_us)).await;
                raw(&connection, &demands).await
            });
            let now_us = u64::try_from(answer[0]).unwrap();
            let expected = reference.decide(&demands, now_us);
            let verdicts = Decision::new(&demands).unwrap().read(&answer).unwrap();
            let decided: Vec<(i64, u128)> = answer[1..]
                .chunks(4)
                .zip(verdicts)
                .map(|(numbers, verdict)| (numbers[0], verdict.remaining.into()))
                .collect();
            prop_assert_eq!(decided, expected, "{:?} at {}", demands, now_us);
        }
        Ok(())
    });
    ran.unwrap();
}

/// Many at once on eight connections: what passed between two moments of the store's clock is what the rate gives and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_connections_together_pass_exactly_the_rate() {
    const RATE: u32 = 2_000;
    const BURST: u32 = 100;
    let redis = Redis::start().await.unwrap();
    let (mut passed, mut first, mut last) = (0_u64, i64::MAX, 0_i64);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let connection = connection_to(&redis).await;
        clients.spawn(async move {
            let (begun, mut answers) = (Instant::now(), Vec::new());
            while begun.elapsed() < Duration::from_secs(1) {
                let answer = raw(&connection, &[demand("a", (RATE, 1_000, BURST))]).await;
                answers.push((answer[0], answer[1]));
            }
            answers
        });
    }
    for (at, state) in clients.join_all().await.into_iter().flatten() {
        (first, last) = (first.min(at), last.max(at));
        passed += u64::from(state == 0);
    }
    let between_us = u64::try_from(last - first).unwrap() + 1;
    let most = u64::from(BURST) + between_us * u64::from(RATE) / 1_000_000;
    println!("{passed} passed of at most {most} in {between_us} us");
    assert!(passed <= most, "{} too many", passed - most);
    assert!(passed * 10 >= most * 7, "the clients were too slow to use the rate");
}
