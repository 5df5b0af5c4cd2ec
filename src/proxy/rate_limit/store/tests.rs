//! Decisions of a real Redis, and what becomes of them when it is away.

mod clocks;
mod deciding;
mod guarded;
mod losing;
mod reference;
mod searching;
mod spreading;

use std::time::Duration;

use fusebox_policy::config::{RedisStore, RedisTopology};
use fusebox_policy::rate_limit::{Ask, Exceed, Outcome, Rate, Refusal};
use fusebox_testkit::{Redis, eventually};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for a machine on which many tests run.
const TIMEOUT_MS: u64 = 2_000;

fn plain(topology: RedisTopology) -> RedisStore {
    RedisStore {
        topology,
        database: 0,
        username: None,
        password: None,
        tls: None,
        key_prefix: "fusebox".to_owned(),
        timeout_ms: TIMEOUT_MS,
    }
}

#[allow(clippy::needless_pass_by_value, reason = "addresses come as text and as values")]
fn single(address: impl ToString) -> RedisStore {
    plain(RedisTopology::Single { address: address.to_string() })
}

fn settings(store: &RedisStore) -> StoreSettings {
    StoreSettings::resolve(store, |_| None).unwrap()
}

fn started(store: &RedisStore) -> SharedStore {
    let shared = SharedStore::start();
    shared.configure(settings(store));
    shared
}

async fn is_connected(store: &SharedStore) -> anyhow::Result<()> {
    eventually(PATIENCE, "the store is connected", async || {
        let state = store.state();
        anyhow::ensure!(matches!(state, StoreState::Connected { .. }), "{state:?}");
        Ok(())
    })
    .await
}

async fn is_lost(store: &SharedStore) -> anyhow::Result<String> {
    eventually(PATIENCE, "the store is lost", async || match store.state() {
        StoreState::Lost { error, .. } => Ok(error),
        state => anyhow::bail!("{state:?}"),
    })
    .await
}

fn bucket(name: &str) -> BucketName {
    BucketName(format!("fusebox:{{{name}}}:test"))
}

fn demand(name: &str, (requests, per_ms, burst): (u32, u64, u32)) -> SharedDemand {
    let rate = Rate::new(requests, Duration::from_millis(per_ms), burst).unwrap();
    SharedDemand { bucket: bucket(name), ask: Ask { rate, cost: 1, exceed: Exceed::Refuse } }
}

fn weighing(cost: u32, demand: SharedDemand) -> SharedDemand {
    SharedDemand { ask: Ask { cost, ..demand.ask }, ..demand }
}

fn blocking(time: Duration, demand: SharedDemand) -> SharedDemand {
    SharedDemand { ask: Ask { exceed: Exceed::Block(time), ..demand.ask }, ..demand }
}

async fn verdict(store: &SharedStore, demand: &SharedDemand) -> Verdict {
    store.decide(std::slice::from_ref(demand)).await.unwrap()[0]
}

/// Why a request is refused, and for how long.
fn refused(verdict: Verdict) -> Option<(Refusal, Duration)> {
    match verdict.outcome {
        Outcome::Refused { refusal, retry_after } => Some((refusal, retry_after.unwrap_or(Duration::MAX))),
        Outcome::Allowed | Outcome::Delayed { .. } => None,
    }
}

/// So few in so long a time that nothing is refilled while a test runs.
fn hourly(name: &str, burst: u32) -> SharedDemand {
    demand(name, (1, 3_600_000, burst))
}

async fn passes(store: &SharedStore, demand: &SharedDemand) -> bool {
    !verdict(store, demand).await.is_refused()
}
