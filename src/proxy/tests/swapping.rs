//! New configurations while requests are in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fusebox_policy::config::{PathMatch, RequestMatch, StatusRange};
use fusebox_policy::report::BreakerState;
use http::StatusCode;
use proptest::prelude::*;

use super::support::{Client, Upstream, config, eventually, get, options, policy, proxy, rule, state, trip};
use crate::{HealthStatus, Proxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_swaps_under_traffic_fail_no_request_and_keep_the_state() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    let mut tripped = rule("tripped");
    tripped.matches =
        Some(RequestMatch { path: Some(PathMatch::PathPrefix("/status".into())), ..RequestMatch::default() });
    policy(&mut settings).rules.insert(0, tripped);
    let (proxy, address) = proxy(&settings).await;
    for _ in 0..3 {
        get(address, "/status/500").await;
    }
    let before: Vec<_> = proxy.state().breakers.into_iter().map(|breaker| breaker.report).collect();
    assert_eq!(before[1].state, BreakerState::Open);

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(client.get("/").await.status, StatusCode::OK);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for swap in 0..100_u64 {
        let rule = &mut policy(&mut settings).rules[1];
        rule.timeout_ms = Some(10_000 + swap);
        rule.failure_on.http_status = vec![StatusRange { from: 500, to: 599 - (swap % 10) as u16 }];
        let applied = proxy.apply(&settings).unwrap();
        assert_eq!((applied.kept, applied.fresh, applied.removed), (2, 0, 0));
        let seen = served.load(Ordering::SeqCst);
        eventually("traffic flows under the new configuration", || served.load(Ordering::SeqCst) > seen).await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let after: Vec<_> = proxy.state().breakers.into_iter().map(|breaker| breaker.report).collect();
    assert_eq!(after[1], before[1], "the open breaker is as it was");
    assert_eq!((after[0].state, after[0].trips), (BreakerState::Closed, 0));
}

#[tokio::test]
async fn changed_parameters_start_the_breaker_anew_and_its_counters_stay() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    let (proxy, address) = proxy(&settings).await;
    trip(&proxy, address).await;
    policy(&mut settings).rules[0].breaker.trip.consecutive_failures = Some(4);
    assert_eq!(proxy.apply(&settings).unwrap().fresh, 1);
    assert_eq!(state(&proxy), BreakerState::Closed);
    assert_eq!(proxy.state().breakers[0].report.trips, 1, "trips are counted since the proxy started");
}

#[tokio::test]
async fn a_removed_policy_lets_everything_pass_and_comes_back_fresh() {
    let upstream = Upstream::start().await;
    let settings = config(upstream.address);
    let (proxy, address) = proxy(&settings).await;
    trip(&proxy, address).await;
    let mut without = settings.clone();
    without.outbound[0].circuit_breaker = None;
    assert_eq!(proxy.apply(&without).unwrap().removed, 1);
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
    proxy.apply(&settings).unwrap();
    assert_eq!(state(&proxy), BreakerState::Closed);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_enforced_names_the_field_and_changes_nothing() {
    let upstream = Upstream::start().await;
    let good = config(upstream.address);
    let (proxy, address) = proxy(&good).await;
    trip(&proxy, address).await;
    type Break = fn(&mut fusebox_policy::config::ProxyConfig);
    let cases: [(&str, Break); 11] = [
        ("format", |bad| bad.format = 2),
        ("format", |bad| bad.format = 0),
        ("outbound[1]", |bad| bad.outbound.push(bad.outbound[0].clone())),
        ("outbound[0].addresses[1]", |bad| bad.outbound[0].addresses.push("nowhere".into())),
        ("outbound[0].circuitBreaker.side", |bad| policy(bad).side = fusebox_policy::config::Side::Server),
        ("outbound[0].circuitBreaker.rules", |bad| policy(bad).rules.clear()),
        ("outbound[0].circuitBreaker.rules", |bad| policy(bad).rules[0].name = "last".into()),
        ("outbound[0].circuitBreaker.rules[0].timeoutMs", |bad| policy(bad).rules[0].timeout_ms = Some(0)),
        ("outbound[0].circuitBreaker.rules[0].breaker.open.maxDurationMs", |bad| {
            policy(bad).rules[0].breaker.open.max_duration_ms = 1;
        }),
        ("outbound[0].circuitBreaker.rules[0].failureOn.httpStatus[0]", |bad| {
            policy(bad).rules[0].failure_on.http_status[0].from = 1;
        }),
        ("outbound[0].circuitBreaker.rules[0].match.path.value", |bad| {
            let mut broken = rule("broken");
            let path = Some(PathMatch::RegularExpression("(".into()));
            broken.matches = Some(RequestMatch { path, ..RequestMatch::default() });
            policy(bad).rules.insert(0, broken);
        }),
    ];
    for (field, break_it) in cases {
        let mut bad = good.clone();
        break_it(&mut bad);
        let error = proxy.apply(&bad).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
        assert!(error.to_string().len() > field.len() + 4, "{error}");
        assert_eq!(proxy.state().revision, Some(good.revision()));
    }
    assert_eq!(state(&proxy), BreakerState::Open);
}

#[tokio::test]
async fn a_torn_file_starts_the_proxy_without_policies_and_says_so() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let settings = config(upstream.address);
    let text = serde_yaml::to_string(&settings).unwrap();
    std::fs::write(&path, &text[..text.len() - 40]).unwrap();
    let mut options = options();
    options.config = Some(path.clone());
    options.upstream = vec![format!("shop/payments={}", upstream.address).parse().unwrap()];

    let torn = Proxy::start(options.clone()).await.unwrap();
    assert_eq!(get(torn.listeners()[0].address, "/").await.status, StatusCode::OK);
    assert_eq!(torn.health().config.status, HealthStatus::Degraded);
    let metrics = get(torn.listeners()[1].address, "/metrics").await.body;
    assert!(String::from_utf8_lossy(&metrics).contains("fusebox_proxy_config_refused_total 1"));
    torn.apply(&settings).unwrap();
    assert_eq!(torn.health().config.status, HealthStatus::Healthy, "a good configuration mends it");

    std::fs::write(&path, &text).unwrap();
    let whole = Proxy::start(options).await.unwrap();
    assert_eq!(whole.state().revision, Some(settings.revision()));
    trip(&whole, whole.listeners()[0].address).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_swap_makes_anew_exactly_the_breakers_whose_parameters_changed(
        changes in proptest::collection::vec((0_u8..4, 1_u32..4, any::<bool>()), 1..12)
    ) {
        use crate::enforcer::Enforcer;
        use crate::snapshot::Topology;
        let enforcer = Enforcer::new(Topology::default()).unwrap();
        let mut settings = config("127.0.0.1:1".parse().unwrap());
        for name in ["a", "b", "c"] {
            let mut named = rule(name);
            named.matches = Some(RequestMatch::default());
            policy(&mut settings).rules.insert(0, named);
        }
        enforcer.apply(&settings, "0").unwrap();
        for (index, failures, other) in changes {
            let before = settings.clone();
            let rule = &mut policy(&mut settings).rules[usize::from(index)];
            rule.breaker.trip.consecutive_failures = Some(failures);
            rule.timeout_ms = other.then_some(50);
            let changed = policy(&mut before.clone()).rules[usize::from(index)].breaker != rule.breaker;
            let applied = enforcer.apply(&settings, "1").unwrap();
            prop_assert_eq!((applied.fresh, applied.kept, applied.removed), (usize::from(changed), 4 - usize::from(changed), 0));
        }
    }
}
