//! Limits of scope Shared over several proxies and a real Redis, and what is done without it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fusebox_policy::config::{
    Exceed, Limit, LimitScope, Mode, PolicyId, ProxyConfig, RedisStore, RedisTopology, ReferenceKind, ShowKeys,
    StoreFailure,
};
use fusebox_policy::stream::{Answer, Command, LiveReplicas, Search, Searched};
use fusebox_testkit::{Redis, RedisCluster};
use http::StatusCode;

use super::rate_limit_support::{limit, rate, reference, send, served, server, started, statuses, value};
use super::support::{Upstream, eventually};
use crate::{Options, Proxy};

fn shared(name: &str, requests: u32) -> Limit {
    Limit { scope: LimitScope::Shared, ..limit(name, requests) }
}

fn settings(store: SocketAddr, limits: Vec<Limit>) -> ProxyConfig {
    let mut settings = served(limits);
    settings.inbound[0].rate_limit.as_mut().unwrap().store = Some(RedisStore {
        topology: RedisTopology::Single { address: store.to_string() },
        database: 0,
        username: None,
        password: None,
        tls: None,
        key_prefix: "fusebox".into(),
        // Long enough for a machine on which many tests run.
        timeout_ms: 2_000,
    });
    settings
}

async fn replicas(upstream: &Upstream, settings: &ProxyConfig) -> Vec<(Proxy, SocketAddr)> {
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(started(server(upstream.address), settings).await);
    }
    for (proxy, _) in &replicas {
        eventually("the store is connected", || proxy.state().limits[0].report.store_error.is_empty()).await;
    }
    replicas
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_replicas_together_allow_the_rate_and_not_one_request_more() {
    let (upstream, redis) = (Upstream::start().await, Redis::start().await.unwrap());
    let settings = settings(redis.address(), vec![shared("per-key", 30), shared("other", 1_000)]);
    let replicas = replicas(&upstream, &settings).await;
    let sending = replicas.iter().map(|(_, address)| statuses(*address, "ada", 25));
    let answers = futures::future::join_all(sending).await.concat();
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 30);
    assert_eq!(upstream.requests(), 30);
    let told = send(replicas[0].1, "/", &[("x-api-key", "bob")]).await;
    let members: Vec<_> = told.header("ratelimit").split(", ").map(str::to_owned).collect();
    assert_eq!(members, ["\"per-key\";r=29;t=120", "\"other\";r=999;t=4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_is_answered_here_once_it_is_certainly_over_its_limit() {
    let (upstream, mut redis) = (Upstream::start().await, Redis::start().await.unwrap());
    let replicas = replicas(&upstream, &settings(redis.address(), vec![shared("per-key", 2)])).await;
    let address = replicas[0].1;
    assert_eq!(statuses(address, "ada", 3).await, [200, 200, 429]);
    let asked = redis.command(&["INFO", "commandstats"]).await.unwrap();
    let count = |text: &str| text.lines().find(|line| line.starts_with("cmdstat_evalsha")).map(str::to_owned);
    assert_eq!(statuses(address, "ada", 20).await, [429; 20]);
    let again = redis.command(&["INFO", "commandstats"]).await.unwrap();
    assert_eq!(count(&asked), count(&again), "the store was not asked again");
    redis.kill();
    assert_eq!(statuses(address, "ada", 1).await, [429], "and need not be there for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_exactly_what_is_declared_is_done_and_with_it_again_the_limit_is_shared_again() {
    for (declared, expected) in [
        (StoreFailure::Open, vec![200; 6]),
        (StoreFailure::Closed, vec![503; 6]),
        (StoreFailure::LocalEstimate, vec![200, 200, 429, 429, 429, 429]),
    ] {
        let (upstream, mut redis) = (Upstream::start().await, Redis::start().await.unwrap());
        let mut settings = settings(redis.address(), vec![shared("per-key", 4)]);
        settings.inbound[0].rate_limit.as_mut().unwrap().on_store_failure = declared;
        let (proxy, address) = started(server(upstream.address), &settings).await;
        let policy = PolicyId { namespace: "shop".into(), name: "api".into() };
        proxy.tell_replicas(vec![LiveReplicas { policy, replicas: 2 }]);
        eventually("the store is connected", || proxy.state().limits[0].report.store_error.is_empty()).await;
        assert_eq!(statuses(address, "bob", 5).await, [200, 200, 200, 200, 429]);
        redis.kill();
        eventually("the loss is seen", || proxy.state().limits[0].report.store_lost_since_unix_ms.is_some()).await;
        assert_eq!(statuses(address, "ada", 6).await, expected, "{declared:?}");
        if declared == StoreFailure::Closed {
            let refused = send(address, "/", &[("x-api-key", "ada")]).await;
            assert_eq!(refused.header("fusebox-policy"), "shop/api; limit=per-key; state=store-lost");
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        }
        redis.restart().await.unwrap();
        eventually("the store is back", || proxy.state().limits[0].report.store_lost_since_unix_ms.is_none()).await;
        assert_eq!(statuses(address, "eve", 5).await, [200, 200, 200, 200, 429], "{declared:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_holds_in_all_replicas_and_a_person_ends_it() {
    let (upstream, redis) = (Upstream::start().await, Redis::start().await.unwrap());
    let mut per_key = shared("per-key", 1);
    per_key.rules[0].rate = rate(1, 100);
    per_key.on_exceed = Exceed { block_for_ms: Some(600_000), delay: None };
    let replicas = replicas(&upstream, &settings(redis.address(), vec![per_key])).await;
    while statuses(replicas[0].1, "ada", 1).await == [200] {}
    tokio::time::sleep(Duration::from_millis(150)).await;
    for (_, address) in &replicas {
        let refused = send(*address, "/", &[("x-api-key", "ada")]).await;
        assert_eq!(refused.header("fusebox-policy"), "shop/api; limit=per-key; state=blocked");
        assert!(refused.header("retry-after").parse::<u64>().unwrap() > 590);
    }
    let policy = PolicyId { namespace: "shop".into(), name: "api".into() };
    for (proxy, _) in &replicas {
        let key_digest = fusebox_policy::rate_limit::digest(&[b"ada"]).hex()[..16].to_owned();
        let command = Command::Unblock { policy: policy.clone(), key_digest, search: Search::Watched };
        proxy.obey(command).await;
    }
    let started = Instant::now();
    assert_eq!(statuses(replicas[1].1, "ada", 1).await, [200]);
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_comes_as_a_reference_and_until_it_is_there_the_declared_failure_holds() {
    let upstream = Upstream::start().await;
    let redis = Redis::builder().setting("requirepass s3cret").start().await.unwrap();
    let mut settings = settings(redis.address(), vec![shared("per-key", 1)]);
    let password = reference(ReferenceKind::Secret, "redis");
    let limits = settings.inbound[0].rate_limit.as_mut().unwrap();
    limits.on_store_failure = StoreFailure::Open;
    limits.store.as_mut().unwrap().password = Some(password.clone());
    let (proxy, address) = started(server(upstream.address), &settings).await;
    assert_eq!(statuses(address, "ada", 3).await, [200; 3]);
    assert_ne!(proxy.state().limits[0].report.store_error, "");
    proxy.tell_references(vec![value(&password, "s3cret\n")]);
    eventually("the store is connected", || proxy.state().limits[0].report.store_error.is_empty()).await;
    assert_eq!(statuses(address, "ada", 2).await, [200, 429]);
    assert!(!format!("{proxy:?}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_shadow_a_stalled_store_costs_a_request_nothing_and_what_it_cannot_be_asked_is_counted() {
    const REQUESTS: usize = 400;
    let (upstream, redis) = (Upstream::start().await, Redis::start().await.unwrap());
    let mut settings = settings(redis.address(), vec![shared("per-key", 5)]);
    let limits = settings.inbound[0].rate_limit.as_mut().unwrap();
    limits.mode = Mode::Shadow;
    limits.on_store_failure = StoreFailure::Closed;
    limits.store.as_mut().unwrap().timeout_ms = 5_000;
    let (proxy, address) = started(server(upstream.address), &settings).await;
    let decided = || {
        let limit = &proxy.state().limits[0];
        (limit.report.allowed, limit.report.limited, limit.skipped)
    };
    // With a store that answers what it says is counted, though nobody waited for it.
    assert_eq!(statuses(address, "ada", 8).await, [200; 8]);
    eventually("the store's word on each of them is counted", || decided() == (5, 3, 0)).await;

    redis.pause().await.unwrap();
    let begun = Instant::now();
    assert_eq!(statuses(address, "bob", REQUESTS).await, vec![200; REQUESTS]);
    let took = begun.elapsed();
    println!("{REQUESTS} requests in shadow took {took:?} with a stalled store");
    assert!(took < Duration::from_millis(4_500), "{took:?}: they waited for the store");
    let (_, _, skipped) = decided();
    assert!(skipped >= 1 && skipped < REQUESTS as u64, "{skipped} were skipped");
    redis.resume().unwrap();
    eventually("every request is counted once", || {
        let (allowed, limited, skipped) = decided();
        allowed + limited + skipped == REQUESTS as u64 + 8
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_shadow_a_redacted_key_is_shown_though_its_request_is_gone() {
    let (upstream, redis) = (Upstream::start().await, Redis::start().await.unwrap());
    let mut per_key = shared("per-key", 1);
    per_key.on_exceed = Exceed { block_for_ms: Some(600_000), delay: None };
    let mut settings = settings(redis.address(), vec![per_key]);
    let limits = settings.inbound[0].rate_limit.as_mut().unwrap();
    (limits.mode, limits.show_keys) = (Mode::Shadow, ShowKeys::Redacted);
    let (proxy, address) = started(server(upstream.address), &settings).await;
    assert_eq!(statuses(address, "sk_live_1234567890", 3).await, [200; 3]);
    let blocked = || proxy.state().limits[0].report.top_blocked.clone();
    eventually("the block is known", || !blocked().is_empty()).await;
    assert_eq!(blocked()[0].key, "sk***90");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_operator_a_name_of_the_pod_itself_is_no_store() {
    let (upstream, redis) = (Upstream::start().await, Redis::start().await.unwrap());
    let mut settings = settings(redis.address(), vec![shared("per-key", 2)]);
    let store = settings.inbound[0].rate_limit.as_mut().unwrap().store.as_mut().unwrap();
    store.topology = RedisTopology::Single { address: format!("localhost:{}", redis.address().port()) };
    let by_hand = started(server(upstream.address), &settings).await;
    assert_eq!(statuses(by_hand.1, "ada", 3).await, [200, 200, 429]);

    let nowhere = tempfile::tempdir().unwrap();
    let control = Options {
        control: vec!["https://127.0.0.1:1".parse().unwrap()],
        control_ca: Some(nowhere.path().join("ca.crt")),
        token_file: Some(nowhere.path().join("token")),
        ..server(upstream.address)
    };
    let (in_a_cluster, _) = started(control, &settings).await;
    let error = || in_a_cluster.state().limits[0].report.store_error.clone();
    eventually("the store is refused", || error().contains("leads back into the pod")).await;
    assert!(error().contains("spec.store.redis.address") && error().contains("localhost:"), "{}", error());
}

/// Blocks `ada` at two replicas, forgets who was watched at one, and lets it go by sixteen digits there.
async fn let_go_by_sixteen_digits(topology: RedisTopology) {
    let upstream = Upstream::start().await;
    let mut per_key = shared("per-key", 1);
    per_key.on_exceed = Exceed { block_for_ms: Some(600_000), delay: None };
    let mut settings = settings("127.0.0.1:1".parse().unwrap(), vec![per_key]);
    settings.inbound[0].rate_limit.as_mut().unwrap().store.as_mut().unwrap().topology = topology;
    let (blocking, address) = started(server(upstream.address), &settings).await;
    assert_eq!(statuses(address, "ada", 3).await, [200, 429, 429]);
    assert_eq!(statuses(address, "bob", 3).await, [200, 429, 429]);
    // This one has never heard of either.
    let (other, _) = started(server(upstream.address), &settings).await;
    let policy = PolicyId { namespace: "shop".into(), name: "api".into() };
    let key_digest = fusebox_policy::rate_limit::digest(&[b"ada"]).hex()[..16].to_owned();
    let unblock = |search| Command::Unblock { policy: policy.clone(), key_digest: key_digest.clone(), search };
    let unsearched = other.obey(unblock(Search::Watched)).await;
    assert_eq!(unsearched, Answer::Unblocked { buckets: 0, searched: None });
    let searched = other.obey(unblock(Search::Store)).await;
    assert_eq!(searched, Answer::Unblocked { buckets: 1, searched: Some(Searched::default()) });
    let again = other.obey(unblock(Search::Store)).await;
    assert_eq!(again, Answer::Unblocked { buckets: 0, searched: Some(Searched::default()) });
    // What the first one remembers of the store's refusal ends with the command that every replica gets.
    assert_eq!(statuses(address, "ada", 1).await, [429]);
    blocking.obey(unblock(Search::Watched)).await;
    assert_eq!(statuses(address, "ada", 1).await, [200]);
    assert_eq!(statuses(address, "bob", 1).await, [429], "nobody else was let go");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_digits_let_a_client_go_that_no_proxy_watches_on_one_server() {
    let redis = Redis::start().await.unwrap();
    let_go_by_sixteen_digits(RedisTopology::Single { address: redis.address().to_string() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_digits_let_a_client_go_that_no_proxy_watches_on_a_cluster() {
    let cluster = RedisCluster::start().await.unwrap();
    let addresses = vec![cluster.nodes[0].address().to_string()];
    let_go_by_sixteen_digits(RedisTopology::Cluster { addresses }).await;
}
