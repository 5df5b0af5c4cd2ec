//! Breakers' states over restarts: what the state file brings back, and what it must not.

use std::path::Path;

use fusebox_policy::report::BreakerState;
use http::StatusCode;

use super::endpoints::{by_endpoint, states};
use super::support::{Upstream, config, eventually, get, options, policy, state, trip};
use crate::{HealthStatus, Options, Proxy};

fn kept_in(directory: &Path) -> Options {
    Options { state_file: Some(directory.join("state")), ..options() }
}

/// A proxy that keeps its state in `directory`, with an open breaker that is in the file already.
async fn opened(directory: &Path, upstream: &Upstream) -> Proxy {
    let proxy = Proxy::start(kept_in(directory)).await.unwrap();
    proxy.apply(&config(upstream.address)).unwrap();
    trip(&proxy, proxy.listeners()[0].address).await;
    saved(directory, r#""state":"Open""#).await;
    proxy
}

async fn saved(directory: &Path, what: &str) {
    let path = directory.join("state");
    eventually("the state is in the file", || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(what)))
        .await;
}

async fn page(proxy: &Proxy) -> String {
    let admin = proxy.listeners().last().unwrap().address;
    String::from_utf8(get(admin, "/metrics").await.body.to_vec()).unwrap()
}

#[tokio::test]
async fn an_open_breaker_is_open_after_a_restart_for_as_long_as_it_was_to_be() {
    let (upstream, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let before = opened(directory.path(), &upstream).await;
    let report = before.state().breakers.remove(0).report;
    drop(before);

    let proxy = Proxy::start(kept_in(directory.path())).await.unwrap();
    assert_eq!(proxy.apply(&config(upstream.address)).unwrap().fresh, 1);
    let again = proxy.state().breakers.remove(0).report;
    assert_eq!((again.state, again.reason), (BreakerState::Open, report.reason));
    let moved_ms = again.next_probe_unix_ms.unwrap() - report.next_probe_unix_ms.unwrap();
    assert!(moved_ms.abs() < 1_000, "the open time ends {moved_ms} ms later than it was to");
    assert_eq!(get(proxy.listeners()[0].address, "/").await.header("fusebox-policy"), "shop/pay; state=open");
    assert!(page(&proxy).await.contains("fusebox_proxy_state_restores_total{result=\"restored\"} 1"));
    assert_eq!(proxy.health().state_file.status, HealthStatus::Healthy);
}

#[tokio::test]
async fn a_restored_breaker_goes_on_without_traffic() {
    let (upstream, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let mut settings = config(upstream.address);
    policy(&mut settings).rules[0].breaker.open.base_duration_ms = 3_000;
    let before = Proxy::start(kept_in(directory.path())).await.unwrap();
    before.apply(&settings).unwrap();
    trip(&before, before.listeners()[0].address).await;
    saved(directory.path(), r#""state":"Open""#).await;
    drop(before);
    let proxy = Proxy::start(kept_in(directory.path())).await.unwrap();
    proxy.apply(&settings).unwrap();
    eventually("half-open by time alone", || state(&proxy) == BreakerState::HalfOpen).await;
}

#[tokio::test]
async fn a_breaker_with_other_parameters_and_a_policy_that_was_gone_start_anew() {
    let (upstream, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    drop(opened(directory.path(), &upstream).await);
    let settings = config(upstream.address);
    let mut other = settings.clone();
    policy(&mut other).rules[0].breaker.trip.consecutive_failures = Some(4);
    let proxy = Proxy::start(kept_in(directory.path())).await.unwrap();
    proxy.apply(&other).unwrap();
    assert_eq!(state(&proxy), BreakerState::Closed);
    proxy.apply(&settings).unwrap();
    assert_eq!(state(&proxy), BreakerState::Closed, "what found its owner is not given out twice");
}

#[tokio::test]
async fn draining_saves_what_changed_last() {
    let (upstream, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let proxy = opened(directory.path(), &upstream).await;
    let mut other = config(upstream.address);
    policy(&mut other).rules[0].breaker.trip.consecutive_failures = Some(4);
    proxy.apply(&other).unwrap();
    get(proxy.listeners()[0].address, "/status/503").await;
    proxy.drain().await;
    let text = std::fs::read_to_string(directory.path().join("state")).unwrap();
    assert!(text.contains(r#""consecutiveFailures":1"#) && !text.contains(r#""state":"Open""#), "{text}");
}

#[tokio::test]
async fn an_endpoints_breaker_survives_too() {
    let (service, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let (good, bad) = (Upstream::start().await, Upstream::start().await);
    bad.set_sick(true);
    let mut options = kept_in(directory.path());
    options.upstream = [&good, &bad].map(|one| format!("shop/payments={}", one.address).parse().unwrap()).to_vec();
    let before = Proxy::start(options.clone()).await.unwrap();
    before.apply(&by_endpoint(&service, 50)).unwrap();
    while !states(&before).contains(&BreakerState::Open) {
        get(before.listeners()[0].address, "/").await;
    }
    saved(directory.path(), r#""state":"Open""#).await;
    drop(before);
    let proxy = Proxy::start(options).await.unwrap();
    proxy.apply(&by_endpoint(&service, 50)).unwrap();
    assert!(states(&proxy).contains(&BreakerState::Open));
    for _ in 0..6 {
        assert_eq!(get(proxy.listeners()[0].address, "/").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_file_that_is_not_what_was_written_starts_the_proxy_clean_and_is_said() {
    let (upstream, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    drop(opened(directory.path(), &upstream).await);
    let path = directory.path().join("state");
    let good = std::fs::read_to_string(&path).unwrap();
    let dated = |by: fn(i64) -> i64| {
        let (first, rest) = good.split_once('\n').unwrap();
        let mut header: serde_json::Value = serde_json::from_str(first).unwrap();
        header["writtenUnixMs"] = by(header["writtenUnixMs"].as_i64().unwrap()).into();
        format!("{header}\n{rest}")
    };
    let cases = [
        ("torn", good[..good.len() - 20].to_owned()),
        ("torn", good.replace("Open", "open")),
        ("torn", String::new()),
        ("torn", "no state at all\n".to_owned()),
        ("foreign", good.replacen("\"format\":1", "\"format\":999", 1)),
        ("future", dated(|then| then + 3_600_000)),
        ("too_old", dated(|then| then - 90_000_000)),
        ("too_long", " ".repeat((16 << 20) + 1)),
    ];
    for (result, text) in cases {
        std::fs::write(&path, text).unwrap();
        let proxy = Proxy::start(kept_in(directory.path())).await.unwrap();
        let health = proxy.health().state_file;
        assert_eq!(health.status, HealthStatus::Degraded, "{result}");
        assert!(health.message.contains("all breakers started closed"), "{result}: {}", health.message);
        proxy.apply(&config(upstream.address)).unwrap();
        assert_eq!(state(&proxy), BreakerState::Closed, "{result}");
        let line = format!("fusebox_proxy_state_restores_total{{result=\"{result}\"}} 1");
        assert!(page(&proxy).await.contains(&line), "{line}");
        eventually("a good file heals it", || proxy.health().state_file.status == HealthStatus::Healthy).await;
        assert!(proxy.health().state_file.message.contains("all breakers started closed"), "the word stays");
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_degraded_and_traffic_flows() {
    let upstream = Upstream::start().await;
    let proxy = Proxy::start(kept_in(Path::new("/nonexistent/place"))).await.unwrap();
    proxy.apply(&config(upstream.address)).unwrap();
    eventually("health says so", || proxy.health().state_file.message.contains("can't be written")).await;
    assert_eq!(proxy.health().status, HealthStatus::Degraded);
    assert_eq!(get(proxy.listeners()[0].address, "/").await.status, StatusCode::OK);
    assert_eq!(proxy.drain().await, crate::Drained::Complete);
}

#[tokio::test]
async fn a_configuration_torn_between_two_sections_is_not_used_and_that_is_said() {
    let (upstream, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let path = directory.path().join("config.yaml");
    let text = fusebox_policy::seal::seal(&serde_yaml::to_string(&config(upstream.address)).unwrap());
    let torn = &text[..text.find("outbound:").unwrap()];
    let rest = torn.split_once('\n').unwrap().1;
    assert!(serde_yaml::from_str::<fusebox_policy::config::ProxyConfig>(rest).is_ok(), "it is whole YAML");
    std::fs::write(&path, torn).unwrap();
    let mut options = options();
    options.config = Some(path.clone());
    options.upstream = vec![format!("shop/payments={}", upstream.address).parse().unwrap()];
    let proxy = Proxy::start(options.clone()).await.unwrap();
    assert!(proxy.health().config.message.contains("torn"), "{}", proxy.health().config.message);
    assert_eq!(proxy.state().revision, None);
    assert_eq!(get(proxy.listeners()[0].address, "/").await.status, StatusCode::OK);
    std::fs::write(&path, text).unwrap();
    assert!(Proxy::start(options).await.unwrap().state().revision.is_some());
}
