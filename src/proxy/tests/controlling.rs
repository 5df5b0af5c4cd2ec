//! The control stream against a small operator of its own: TLS, HTTP/2, lines of JSON.
//!
//! The real operator is tried in the end-to-end tests; here the operator misbehaves on purpose.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox_policy::report::{BreakerState, ProxyReport};
use fusebox_policy::stream::{Down, Up};

use super::operator::{Connected, Operator, connected};
use super::support::{config, eventually, force, get, policy, rule, trip};
use crate::{HealthStatus, Proxy};

#[tokio::test]
async fn a_configuration_is_acknowledged_enforced_and_reported() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    assert!(matches!(stream.next().await, Up::Hello { revision: None, ref policies, .. } if policies.is_empty()));
    assert_eq!(stream.report().await, ProxyReport { full: true, ..ProxyReport::default() });
    eventually("control is healthy", || proxy.health().control.status == HealthStatus::Healthy).await;

    let settings = config(upstream.address);
    stream.configure(&settings).await;
    let expected = Up::Ack { revision: settings.revision(), policies: settings.policies.clone() };
    assert_eq!(stream.next().await, expected);
    assert!(stream.report().await.full, "what is gone after a configuration is said by a full report");

    trip(&proxy, proxy.listeners()[0].address).await;
    let started = Instant::now();
    let report = loop {
        let report = stream.report().await;
        if report.breakers.iter().any(|breaker| breaker.state == BreakerState::Open) {
            break report;
        }
    };
    assert!(started.elapsed() < Duration::from_secs(1), "a transition is told at once");
    assert!(!report.full);
    let breaker = &report.breakers[0];
    assert_eq!((breaker.trips, breaker.reason.as_str()), (1, "ConsecutiveFailures"));
    assert_eq!(breaker.key.policy.name, "pay");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_enforced_is_refused_with_the_field() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    let good = config(upstream.address);
    stream.configure(&good).await;
    let mut bad = good.clone();
    policy(&mut bad).rules[0].timeout_ms = Some(0);
    stream.configure(&bad).await;
    let error = loop {
        if let Up::Nack { revision, error } = stream.next().await {
            assert_eq!(revision, bad.revision());
            break error;
        }
    };
    assert!(error.starts_with("outbound[0].circuitBreaker.rules[0].timeoutMs: "), "{error}");
    assert_eq!(proxy.state().revision, Some(good.revision()));
    assert_eq!(proxy.health().config.status, HealthStatus::Degraded);
}

#[tokio::test]
async fn without_the_operator_traffic_flows_on_and_the_proxy_comes_back() {
    let Connected { upstream, mut operator, proxy, mut stream, directory: _directory } = connected().await;
    let address = proxy.listeners()[0].address;
    let settings = config(upstream.address);
    stream.configure(&settings).await;
    eventually("the configuration is in force", || proxy.state().revision.is_some()).await;

    operator.cut();
    drop(stream);
    eventually("control is degraded", || proxy.health().control.status == HealthStatus::Degraded).await;
    trip(&proxy, address).await;
    let mut stream = operator.stream().await;
    let hello = stream.next().await;
    assert!(matches!(hello, Up::Hello { revision: Some(ref revision), .. } if *revision == settings.revision()));
    let report = stream.report().await;
    assert!(report.full && report.breakers[0].state == BreakerState::Open, "the first report says all: {report:?}");
}

#[tokio::test]
async fn a_refused_token_is_read_again() {
    let mut operator = Operator::start().await;
    *operator.token.lock() = "second".to_owned();
    let directory = tempfile::tempdir().unwrap();
    let options = operator.options(directory.path());
    let token = options.token_file.clone().unwrap();
    let proxy = Proxy::start(options).await.unwrap();
    let refused = Arc::clone(&operator.refused);
    eventually("the first token was refused", || *refused.lock() > 0).await;
    eventually("health says why", || proxy.health().control.message.contains("401")).await;
    std::fs::write(&token, "second").unwrap();
    operator.stream().await;
}

#[tokio::test]
async fn an_operator_with_another_authority_is_not_trusted() {
    let mut operator = Operator::start().await;
    let directory = tempfile::tempdir().unwrap();
    let options = operator.options(directory.path());
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(options.control_ca.as_ref().unwrap(), other.cert.pem()).unwrap();
    let proxy = Proxy::start(options).await.unwrap();
    eventually("the handshake failed", || proxy.health().control.message.contains("certificate")).await;
    assert!(operator.streams.try_recv().is_err());
}

#[tokio::test]
async fn a_ping_is_answered_and_nonsense_ends_the_stream() {
    let mut operator = Operator::start().await;
    let directory = tempfile::tempdir().unwrap();
    let _proxy = Proxy::start(operator.options(directory.path())).await.unwrap();
    let mut stream = operator.stream().await;
    stream.send(&Down::Ping).await;
    while stream.next().await != Up::Pong {}
    stream.down.send_data(Bytes::from_static(b"nonsense\n")).await.unwrap();
    operator.stream().await;
}

#[tokio::test]
async fn a_flapping_breaker_sends_at_most_ten_reports_a_second_and_ends_exact() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    let address = proxy.listeners()[0].address;
    let mut settings = config(upstream.address);
    let breaker = &mut policy(&mut settings).rules[0].breaker;
    breaker.trip.consecutive_failures = Some(1);
    breaker.open.base_duration_ms = 1;
    breaker.open.max_duration_ms = 1;
    breaker.half_open.success_threshold = 1;
    proxy.apply(&settings).unwrap();
    let started = Instant::now();
    // Long enough for several reports, and for enough trips however slow the machine is.
    while started.elapsed() < Duration::from_secs(1) || proxy.state().breakers[0].report.trips <= 20 {
        assert!(started.elapsed() < Duration::from_secs(30), "the breaker hardly trips");
        get(address, "/status/500").await;
        get(address, "/").await;
    }
    let elapsed = started.elapsed().as_millis();
    let trips = proxy.state().breakers[0].report.trips;
    let mut reports = 0;
    loop {
        let report = stream.report().await;
        reports += 1;
        if report.breakers.first().is_some_and(|breaker| breaker.trips >= trips) {
            break;
        }
    }
    assert!(reports <= elapsed / 100 + 3, "{reports} reports in {elapsed} ms");
}

#[tokio::test]
async fn an_override_over_the_stream_is_enforced_at_once() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).rules.insert(0, {
        let mut other = rule("other");
        other.matches =
            Some(fusebox_policy::config::RequestMatch { methods: vec!["PUT".into()], ..Default::default() });
        other
    });
    let forced = fusebox_policy::config::ForcedState::ForcedOpen;
    policy(&mut settings).force = force(forced, Duration::from_secs(60));
    stream.configure(&settings).await;
    while !matches!(stream.next().await, Up::Ack { .. }) {}
    let answer = get(proxy.listeners()[0].address, "/").await;
    assert_eq!(answer.header("fusebox-policy"), "shop/pay; state=forced-open");
    let report = stream.report().await;
    assert!(report.breakers.len() == 2 && report.breakers.iter().all(|breaker| breaker.forced == Some(forced)));
}
