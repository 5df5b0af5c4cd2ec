//! Limits of scope Shared: eight proxies spend from buckets in a real Redis, and the application counts what passes.
//!
//! The bound is that of the bucket: rate x time + burst, with the time from before the first request to after the last answer,
//! which is longer than that between the first decision and the last.

use std::time::Duration;

use anyhow::{Result, ensure};
use fusebox_e2e::replicas::{APPLICATION_PORT, CLIENT_HEADER, Passed, Replicas, Traffic};
use fusebox_policy::config::{
    Exceed, InboundRoute, KeyPart, Limit, LimitHeaders, LimitRule, LimitScope, MissingKey, Mode, PolicyId, Protocol,
    ProxyConfig, Rate, RateLimit, RedisStore, RedisTopology, ShowKeys, Side, StoreFailure, TargetId, WorkloadId,
};
use fusebox_testkit::redis::PRIMARY;
use fusebox_testkit::{FlakyUpstream, Redis, RedisCluster, RedisSentinels, WallClock};

pub(crate) const REPLICAS: usize = 8;

/// The limit of each client.
pub(crate) const RATE: Rate = Rate { requests: 100, per_ms: 1_000, burst: 40 };

pub(crate) const TRAFFIC: Traffic = Traffic { rate: 800, time: Duration::from_secs(3), clients: 1 };

/// A decision may take so long where exactness is counted: a machine that runs other tests is slow, and a late answer is no answer.
pub(crate) const PATIENT_MS: u64 = 2_000;

pub(crate) fn limited(topology: RedisTopology, (on_store_failure, timeout_ms): (StoreFailure, u64)) -> Result<String> {
    let (namespace, name) = ("shop".to_owned(), "payments".to_owned());
    let limit = Limit {
        name: "per-client".to_owned(),
        when: None,
        key: vec![KeyPart::Header(CLIENT_HEADER.to_owned())],
        on_missing_key: MissingKey::Reject,
        rules: vec![LimitRule { name: String::new(), matches: None, rate: RATE }],
        quotas: None,
        costs: Vec::new(),
        on_exceed: Exceed::default(),
        scope: LimitScope::Shared,
    };
    let store = RedisStore {
        topology,
        database: 0,
        username: None,
        password: None,
        tls: None,
        key_prefix: "fusebox".to_owned(),
        timeout_ms,
    };
    let rate_limit = RateLimit {
        policy: PolicyId { namespace: namespace.clone(), name: name.clone() },
        target: TargetId {
            kind: "Service".to_owned(),
            namespace: namespace.clone(),
            name: name.clone(),
            section: String::new(),
        },
        side: Side::Server,
        mode: Mode::Enforce,
        limits: vec![limit],
        store: Some(store),
        on_store_failure,
        headers: LimitHeaders::Standard,
        show_keys: ShowKeys::Hashed,
        max_tracked_keys: 1_000,
    };
    let mut config = ProxyConfig::empty(WorkloadId { namespace, kind: "Deployment".to_owned(), name });
    config.inbound = vec![InboundRoute {
        port: APPLICATION_PORT,
        protocol: Protocol::Detect,
        circuit_breaker: None,
        rate_limit: Some(rate_limit),
    }];
    Ok(serde_yaml::to_string(&config)?)
}

/// Requests that one bucket may let pass in this time.
pub(crate) fn most(time: Duration) -> u64 {
    u64::from(RATE.burst) + time.as_micros() as u64 * u64::from(RATE.requests) / (RATE.per_ms * 1_000)
}

/// No client passed more than its bucket allows, what passed is what the application saw, and the rate was used.
pub(crate) fn assert_exact(application: &FlakyUpstream, passed: &Passed, clients: u32) -> Result<()> {
    let bound = most(passed.time);
    let each: Vec<u64> = (0..clients).map(|client| passed.allowed_of(client)).collect();
    println!("{each:?} passed of at most {bound} each in {:?}; {:?}", passed.time, passed.answers);
    ensure!(passed.other_than(&[200, 429]) == 0, "other answers: {passed:?}");
    ensure!(application.requests() == passed.allowed(), "the application saw others");
    for count in each {
        ensure!(count <= bound, "{} too many", count - bound);
        ensure!(count * 10 >= bound * 8, "only {count} of {bound}: the load was too slow to show anything");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_proxies_let_one_bucket_of_a_redis_pass_exactly() -> Result<()> {
    let redis = Redis::start().await?;
    let single = RedisTopology::Single { address: redis.address().to_string() };
    let replicas = Replicas::start(REPLICAS, &limited(single, (StoreFailure::Closed, PATIENT_MS))?).await?;
    assert_exact(&replicas.application, &replicas.send(TRAFFIC).await?, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_whose_clocks_are_stepped_by_five_minutes_let_no_more_pass() -> Result<()> {
    let redis = Redis::start().await?;
    let single = RedisTopology::Single { address: redis.address().to_string() };
    let config = limited(single, (StoreFailure::Closed, PATIENT_MS))?;
    let clocks = [WallClock::new()?, WallClock::new()?];
    // Of four proxies one's clock goes ahead, one's goes back, and two stay as they are.
    let environment = |number: usize| clocks.get(number).map(WallClock::environment).unwrap_or_default();
    let replicas = Replicas::start_with(4, &config, environment).await?;
    let stepping = async {
        tokio::time::sleep(TRAFFIC.time / 3).await;
        clocks[0].set("+5m")?;
        clocks[1].set("-5m")
    };
    let (passed, stepped) = tokio::join!(replicas.send(TRAFFIC), stepping);
    stepped?;
    assert_exact(&replicas.application, &passed?, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_on_three_nodes_of_a_cluster_pass_exactly() -> Result<()> {
    let cluster = RedisCluster::start().await?;
    let addresses = vec![cluster.nodes[0].address().to_string()];
    let config = limited(RedisTopology::Cluster { addresses }, (StoreFailure::Closed, PATIENT_MS))?;
    let replicas = Replicas::start(REPLICAS, &config).await?;
    let traffic = Traffic { clients: 4, rate: 1_600, ..TRAFFIC };
    assert_exact(&replicas.application, &replicas.send(traffic).await?, traffic.clients)?;
    let mut keys = 0;
    for node in &cluster.nodes {
        keys += node.command(&["dbsize"]).await?.parse::<u32>()?;
    }
    ensure!(keys <= traffic.clients, "{keys} keys for {} clients", traffic.clients);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_failover_of_sentinels_at_most_one_more_burst_passes() -> Result<()> {
    let mut set = RedisSentinels::start().await?;
    let addresses = set.addresses().iter().map(ToString::to_string).collect();
    let sentinels = RedisTopology::Sentinel { addresses, primary: PRIMARY.to_owned() };
    let replicas = Replicas::start(REPLICAS, &limited(sentinels, (StoreFailure::Closed, 200))?).await?;
    let traffic = Traffic { time: Duration::from_secs(10), rate: 400, ..TRAFFIC };
    let failing = async {
        tokio::time::sleep(traffic.time / 5).await;
        set.first.kill();
    };
    let (passed, ()) = tokio::join!(replicas.send(traffic), failing);
    let passed = passed?;
    let bound = most(passed.time) + u64::from(RATE.burst);
    println!("{} passed of at most {bound} in {:?}; {:?}", passed.allowed(), passed.time, passed.answers);
    ensure!(replicas.application.requests() == passed.allowed(), "the application saw others");
    ensure!(passed.allowed() <= bound, "{} too many", passed.allowed() - bound);
    let before = replicas.application.requests();
    let after = replicas.send(Traffic { time: Duration::from_secs(1), ..traffic }).await?;
    ensure!(after.allowed() > 0, "the new primary is not used: {after:?}, {before} before");
    Ok(())
}

/// Kills Redis and starts it again while requests keep coming: what passed before, while it was away, and after it was back.
async fn interrupted(on_failure: StoreFailure) -> Result<[Passed; 3]> {
    let mut redis = Redis::start().await?;
    let single = RedisTopology::Single { address: redis.address().to_string() };
    let replicas = Replicas::start(REPLICAS, &limited(single, (on_failure, 200))?).await?;
    let traffic = Traffic { time: Duration::from_secs(2), ..TRAFFIC };
    let before = replicas.send(traffic).await?;
    redis.kill();
    replicas
        .show("every replica knows that the store is lost", |state| state.to_string().contains("storeLost"))
        .await?;
    let away = replicas.send(traffic).await?;
    redis.restart().await?;
    replicas.show("every replica uses the store again", |state| !state.to_string().contains("storeLost")).await?;
    let after = replicas.send(traffic).await?;
    let sum: u64 = [&before, &away, &after].iter().map(|passed| passed.allowed()).sum();
    ensure!(replicas.application.requests() == sum, "the application saw others than {sum}");
    for (when, passed) in [("before", &before), ("away", &away), ("after", &after)] {
        println!("{on_failure:?}, {when}: {:?} in {:?}, slowest {:?}", passed.answers, passed.time, passed.slowest);
    }
    for passed in [&before, &after] {
        ensure!(passed.allowed() <= most(passed.time), "{} passed with the store", passed.allowed());
        ensure!(passed.allowed() * 10 >= most(passed.time) * 7, "{} passed with the store", passed.allowed());
    }
    Ok([before, away, after])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_everything_passes_where_open_is_declared() -> Result<()> {
    let [_, away, _] = interrupted(StoreFailure::Open).await?;
    ensure!(away.other_than(&[200]) == 0 && away.allowed() > 2 * most(away.time), "{away:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_nothing_passes_where_closed_is_declared() -> Result<()> {
    let [_, away, _] = interrupted(StoreFailure::Closed).await?;
    ensure!(away.allowed() == 0 && away.unanswered == 0, "{away:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_each_replica_passes_its_own_part_where_an_estimate_is_declared() -> Result<()> {
    // Nobody tells these proxies how many they are, so that each takes itself for the only one: the bound is limit x replicas.
    let [_, away, _] = interrupted(StoreFailure::LocalEstimate).await?;
    ensure!(away.allowed() <= REPLICAS as u64 * most(away.time), "{away:?}");
    ensure!(away.allowed() > most(away.time), "{away:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_accepts_and_never_answers_costs_each_request_at_most_the_timeout() -> Result<()> {
    let redis = Redis::start().await?;
    let single = RedisTopology::Single { address: redis.address().to_string() };
    let replicas = Replicas::start(2, &limited(single, (StoreFailure::Open, 100))?).await?;
    redis.pause().await?;
    let hung = replicas.send(Traffic { rate: 100, time: Duration::from_secs(2), clients: 1 }).await?;
    println!("slowest answer with a frozen store {:?}", hung.slowest);
    ensure!(hung.other_than(&[200, 429]) == 0, "{hung:?}");
    ensure!(hung.slowest < Duration::from_millis(1_000), "{:?}", hung.slowest);
    redis.resume()?;
    replicas.show("every replica uses the store again", |state| !state.to_string().contains("storeLost")).await
}
