//! What trips a breaker, what does not, and what clients see.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use fusebox_policy::config::{FailureOn, ForcedState, Mode, PathMatch, RequestMatch};
use fusebox_policy::report::BreakerState;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::Proxy;

use super::support::{Client, Upstream, config, eventually, force, get, policy, proxy, rule, state, trip};

#[tokio::test]
async fn a_refusal_names_policy_and_state_and_says_when_to_retry() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    trip(&proxy, address).await;
    let seen = upstream.requests();

    let answer = get(address, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("fusebox-policy"), "shop/pay; state=open");
    assert_eq!(answer.header("fusebox-error"), "circuit-open");
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    let problem = answer.json();
    assert_eq!(problem["type"], "https://fusebox.dev/problems/circuit-open");
    assert_eq!(problem["status"], 503);
    assert_eq!(problem["policy"], "shop/pay");
    assert_eq!(problem["target"], "shop/payments:80");
    assert_eq!(problem["state"], "open");
    assert_eq!(upstream.requests(), seen, "a refused request never reaches the upstream");
}

#[tokio::test]
async fn a_refused_body_leaves_the_connection_usable() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    trip(&proxy, address).await;
    let mut client = Client::connect(address).await;
    for _ in 0..3 {
        let body = Full::from(Bytes::from(vec![b'x'; 100 << 10]));
        let answer = client.send(Request::post("/echo").header("host", "a").body(body).unwrap()).await.unwrap();
        assert_eq!(answer.header("fusebox-error"), "circuit-open");
    }
}

#[tokio::test]
async fn a_timeout_a_refused_connection_and_a_reset_are_told_apart() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).rules[0].timeout_ms = Some(100);
    let (proxy, address) = proxy(&settings).await;

    let timeout = get(address, "/hang").await;
    assert_eq!((timeout.status, timeout.header("fusebox-error")), (StatusCode::GATEWAY_TIMEOUT, "timeout"));
    assert_eq!(timeout.json()["type"], "https://fusebox.dev/problems/timeout");
    let reset = get(address, "/reset").await;
    assert_eq!((reset.status, reset.header("fusebox-error")), (StatusCode::BAD_GATEWAY, "reset"));
    settings.outbound[0].addresses = vec!["127.0.0.1:1".into()];
    proxy.apply(&settings).unwrap();
    let refused = get(address, "/").await;
    assert_eq!((refused.status, refused.header("fusebox-error")), (StatusCode::BAD_GATEWAY, "connect-failure"));
    assert_eq!(refused.header("fusebox-policy"), "", "only refusals name the policy in a header");

    assert_eq!(state(&proxy), BreakerState::Open, "each of the three counted");
    eventually("the upstream saw the timed-out request end", || upstream.aborted() == 1).await;
}

#[tokio::test]
async fn conditions_that_are_not_chosen_do_not_count() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).rules[0].failure_on = FailureOn::default();
    let (proxy, address) = proxy(&settings).await;
    for path in ["/reset", "/status/500", "/partial", "/status/503"] {
        let _ = Client::connect(address).await.try_get(path).await;
    }
    assert_eq!(state(&proxy), BreakerState::Closed);
}

#[tokio::test]
async fn a_body_that_breaks_off_or_stalls_counts_and_ends_the_clients_connection() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).rules[0].timeout_ms = Some(200);
    let (proxy, address) = proxy(&settings).await;
    for path in ["/partial", "/stall", "/partial"] {
        assert!(Client::connect(address).await.try_get(path).await.is_err(), "{path}");
    }
    eventually("the breaker is open", || state(&proxy) == BreakerState::Open).await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_neutral() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    for _ in 0..2 {
        get(address, "/status/500").await;
    }
    for round in 1..=2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        eventually("the upstream has the request", || upstream.requests() == 2 + round).await;
        drop(stream);
        eventually("the abort reached the upstream", || upstream.aborted() == round).await;
    }
    assert_eq!(state(&proxy), BreakerState::Closed);
    get(address, "/status/500").await;
    assert_eq!(state(&proxy), BreakerState::Open, "aborts did not end the row of failures either");
}

#[tokio::test]
async fn a_broken_request_body_is_the_clients_fault() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    for _ in 0..4 {
        let request = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n";
        let answer = super::support::raw(address, request).await;
        assert!(!answer.contains("HTTP/1.1 5"), "{answer}");
    }
    assert_eq!(state(&proxy), BreakerState::Closed);
    assert_eq!(proxy.state().breakers[0].report.trips, 0);
}

#[tokio::test]
async fn a_body_that_arrives_too_slowly_is_the_clients_fault() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).rules[0].timeout_ms = Some(100);
    let (proxy, address) = proxy(&settings).await;
    for _ in 0..4 {
        let answer =
            super::support::raw(address, "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc").await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("fusebox-error: client-abort"), "{answer}");
    }
    assert_eq!(state(&proxy), BreakerState::Closed);
}

#[tokio::test]
async fn an_upstreams_503_counts_and_its_forged_marker_is_not_believed() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    for _ in 0..3 {
        let answer = get(address, "/forged/503").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!((answer.header("fusebox-error"), answer.header("fusebox-policy")), ("", ""));
    }
    assert_eq!(state(&proxy), BreakerState::Open);
}

/// A proxy whose breaker tripped and became half-open by time alone.
async fn half_open(upstream: &Upstream) -> (Proxy, SocketAddr) {
    let mut settings = config(upstream.address);
    policy(&mut settings).rules[0].breaker.open.base_duration_ms = 200;
    let (proxy, address) = proxy(&settings).await;
    trip(&proxy, address).await;
    eventually("half-open", || state(&proxy) == BreakerState::HalfOpen).await;
    (proxy, address)
}

#[tokio::test]
async fn half_open_shows_without_traffic_and_successes_close_it() {
    let upstream = Upstream::start().await;
    let (proxy, address) = half_open(&upstream).await;
    get(address, "/").await;
    assert_eq!(state(&proxy), BreakerState::HalfOpen);
    get(address, "/").await;
    assert_eq!(state(&proxy), BreakerState::Closed);
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn half_open_refuses_what_is_over_its_probes_and_a_cancelled_probe_gives_its_slot_back() {
    let upstream = Upstream::start().await;
    let (proxy, address) = half_open(&upstream).await;
    let mut probe = TcpStream::connect(address).await.unwrap();
    probe.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    eventually("the probe is out", || proxy.state().breakers[0].probes_in_flight == 1).await;
    let refused = get(address, "/").await;
    assert_eq!(refused.header("fusebox-policy"), "shop/pay; state=half-open");
    drop(probe);
    eventually("the slot is free", || proxy.state().breakers[0].probes_in_flight == 0).await;
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn shadow_lets_everything_pass_and_counts_what_it_would_have_refused() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).mode = Mode::Shadow;
    let (proxy, address) = proxy(&settings).await;
    trip(&proxy, address).await;
    for _ in 0..4 {
        assert_eq!(get(address, "/").await.status, StatusCode::OK);
    }
    let breaker = &proxy.state().breakers[0].report;
    assert_eq!((breaker.state, breaker.mode, breaker.rejected), (BreakerState::Open, Mode::Shadow, 4));
}

#[tokio::test]
async fn shadow_counts_a_timeout_and_lets_the_answer_come() {
    for path in ["/late", "/trickle"] {
        let upstream = Upstream::start().await;
        let mut settings = config(upstream.address);
        policy(&mut settings).mode = Mode::Shadow;
        policy(&mut settings).rules[0].timeout_ms = Some(50);
        let (proxy, address) = proxy(&settings).await;
        for _ in 0..3 {
            let answer = get(address, path).await;
            assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"late"[..]), "{path}");
        }
        assert_eq!(state(&proxy), BreakerState::Open, "{path}");
    }
}

#[tokio::test]
async fn forced_open_refuses_until_its_time_and_then_the_own_state_goes_on() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).force = force(ForcedState::ForcedOpen, Duration::from_secs(2));
    let (proxy, address) = proxy(&settings).await;
    let refused = get(address, "/").await;
    assert_eq!(refused.header("fusebox-policy"), "shop/pay; state=forced-open");
    assert_eq!(refused.json()["state"], "forced-open");
    assert_eq!(proxy.state().breakers[0].report.forced, Some(ForcedState::ForcedOpen));
    assert_eq!(state(&proxy), BreakerState::Closed);
    eventually("the override has ended", || proxy.state().breakers[0].report.forced.is_none()).await;
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn forced_closed_lets_everything_pass_and_releasing_it_refuses_again() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    let (proxy, address) = proxy(&settings).await;
    trip(&proxy, address).await;
    policy(&mut settings).force = force(ForcedState::ForcedClosed, Duration::from_secs(60));
    proxy.apply(&settings).unwrap();
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
    policy(&mut settings).force = None;
    proxy.apply(&settings).unwrap();
    assert_eq!(get(address, "/").await.header("fusebox-policy"), "shop/pay; state=open");
}

#[tokio::test]
async fn an_override_that_is_past_counts_for_nothing() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).force = force(ForcedState::ForcedOpen, Duration::ZERO);
    let (_proxy, address) = proxy(&settings).await;
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn each_rule_has_a_breaker_of_its_own() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    let mut status = rule("status");
    status.matches =
        Some(RequestMatch { path: Some(PathMatch::PathPrefix("/status".into())), ..RequestMatch::default() });
    policy(&mut settings).rules.insert(0, status);
    let (proxy, address) = proxy(&settings).await;
    for _ in 0..3 {
        get(address, "/status/500?x=1").await;
    }
    assert_eq!(get(address, "/status/200").await.json()["rule"], "status");
    assert_eq!(get(address, "/statusless").await.status, StatusCode::OK);
    let states: Vec<_> = proxy.state().breakers.iter().map(|breaker| breaker.report.state).collect();
    assert_eq!(states, [BreakerState::Closed, BreakerState::Open]);
}
