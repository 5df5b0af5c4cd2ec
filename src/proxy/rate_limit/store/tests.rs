//! Decisions of a real Redis, and what becomes of them when it is away.

mod deciding;
mod reference;

use std::time::Duration;

use fusebox_policy::config::{Rate, RedisStore, RedisTopology};
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
    SharedDemand { bucket: bucket(name), rate: Rate { requests, per_ms, burst }, cost: 1, block_for: None }
}

/// So few in so long a time that nothing is refilled while a test runs.
fn hourly(name: &str, burst: u32) -> SharedDemand {
    demand(name, (1, 3_600_000, burst))
}

async fn passes(store: &SharedStore, demand: &SharedDemand) -> bool {
    store.decide(std::slice::from_ref(demand)).await.unwrap()[0].allowed
}
