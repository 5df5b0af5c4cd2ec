//! gRPC: the four shapes of calls, where its status stands, deadlines, cancellation, our own refusals.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox_policy::config::{FailureCondition, GrpcCode, Mode, ProxyConfig};
use fusebox_policy::report::BreakerState;
use http::StatusCode;
use http_body_util::BodyExt;

use super::support::{Client, config, eventually, policy, proxy, state};
use super::support_http2::{Http2Client, Http2Upstream, framed, grpc_request, open_body, staged};

/// The policy of [`config`], counting UNAVAILABLE and nothing else but conditions.
fn grpc_config(upstream: &Http2Upstream) -> ProxyConfig {
    let mut settings = config(upstream.address);
    policy(&mut settings).rules[0].failure_on.grpc_codes = vec![GrpcCode::Unavailable];
    settings
}

#[tokio::test]
async fn unary_and_server_streaming_answers_keep_their_messages_and_trailers() {
    let (_upstream, _proxy, client) = staged(grpc_config).await;
    let unary = client.call("/collect/0", &[("x-custom", "1")]).await;
    assert_eq!((&unary.body, unary.grpc_status()), (&framed(b"hello"), "0"));
    let streamed = client.call("/stream/0", &[]).await;
    let expected = [framed(b"one"), framed(b"two"), framed(b"three")].concat();
    assert_eq!((&streamed.body[..], streamed.grpc_status()), (&expected[..], "0"));
    let seen = client.call("/head", &[]).await.body;
    assert!(String::from_utf8_lossy(&seen).contains("\"te\": \"trailers\""), "TE: trailers is kept");
}

#[tokio::test]
async fn client_and_bidirectional_streams_flow_message_by_message() {
    let (_upstream, _proxy, client) = staged(grpc_config).await;

    let (sender, body) = open_body();
    let collecting = tokio::spawn({
        let client = client.clone();
        async move { client.send(grpc_request("/collect/0", &[], body)).await.unwrap() }
    });
    for part in [&b"a"[..], b"b"] {
        sender.send(framed(part)).unwrap();
    }
    drop(sender);
    let collected = collecting.await.unwrap();
    assert_eq!((&collected.body[..], collected.grpc_status()), (&[framed(b"a"), framed(b"b")].concat()[..], "0"));

    let (sender, body) = open_body();
    let mut echo = client.open(grpc_request("/echo/0", &[], body)).await.unwrap().into_body();
    for part in [&b"ping"[..], b"pong"] {
        sender.send(framed(part)).unwrap();
        let frame = echo.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), framed(part), "each message comes back before the next is sent");
    }
    drop(sender);
    let ended = echo.collect().await.unwrap();
    assert_eq!(ended.trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_status_in_the_trailers_trips_the_breaker() {
    let (_upstream, proxy, client) = staged(grpc_config).await;
    for code in ["5", "0", "14", "5", "14", "14"] {
        assert_eq!(client.call(&format!("/stream/{code}"), &[]).await.grpc_status(), code);
    }
    assert_eq!(state(&proxy), BreakerState::Closed, "NOT_FOUND is no failure, and ends a row of them");
    client.call("/stream/14", &[]).await;
    assert_eq!(state(&proxy), BreakerState::Open);
}

#[tokio::test]
async fn a_status_in_the_only_headers_counts_too() {
    let (_upstream, proxy, client) = staged(grpc_config).await;
    for _ in 0..3 {
        let answer = client.call("/only/14", &[]).await;
        assert_eq!((answer.status, answer.grpc_status()), (StatusCode::OK, "14"));
    }
    assert_eq!(state(&proxy), BreakerState::Open);
}

#[tokio::test]
async fn missing_trailers_are_a_reset_and_the_client_sees_what_came() {
    let upstream = Http2Upstream::start().await;
    let mut settings = grpc_config(&upstream);
    policy(&mut settings).rules[0].failure_on.conditions = vec![FailureCondition::Reset];
    let (proxy, address) = proxy(&settings).await;
    let client = Http2Client::connect(address).await;
    for _ in 0..3 {
        let answer = client.call("/missing", &[]).await;
        assert_eq!((answer.status, &answer.body, answer.grpc_status()), (StatusCode::OK, &framed(b"cut"), ""));
    }
    assert_eq!(state(&proxy), BreakerState::Open);
}

#[tokio::test]
async fn an_http_failure_before_the_grpc_server_is_judged_by_its_status() {
    let (_upstream, proxy, client) = staged(grpc_config).await;
    for _ in 0..3 {
        assert_eq!(client.call("/status/503", &[]).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(state(&proxy), BreakerState::Open);
}

#[tokio::test]
async fn our_refusals_are_read_as_grpc() {
    let (upstream, proxy, client) = staged(grpc_config).await;
    for _ in 0..3 {
        client.call("/only/14", &[]).await;
    }
    assert_eq!(state(&proxy), BreakerState::Open);
    let refused = client.call("/only/0", &[]).await;
    assert_eq!((refused.status, refused.grpc_status()), (StatusCode::OK, "14"));
    assert!(refused.trailers.is_none() && refused.body.is_empty(), "only headers");
    assert_eq!((refused.header("content-type"), refused.header("fusebox-error")), ("application/grpc", "circuit-open"));
    assert_eq!(refused.header("fusebox-policy"), "shop/pay; state=open");
    assert!(refused.header("grpc-message").starts_with("The circuit breaker for shop/payments:80 is open"));
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(upstream.requests(), 3);
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_unavailable() {
    let (_proxy, address) = proxy(&config("127.0.0.1:1".parse().unwrap())).await;
    let answer = Http2Client::connect(address).await.call("/", &[]).await;
    assert_eq!((answer.grpc_status(), answer.header("fusebox-error")), ("14", "connect-failure"));
}

#[tokio::test]
async fn the_rules_timeout_is_a_deadline_that_the_upstream_learns_and_answers_for() {
    let upstream = Http2Upstream::start().await;
    let mut settings = grpc_config(&upstream);
    policy(&mut settings).rules[0].timeout_ms = Some(200);
    let (proxy, address) = proxy(&settings).await;
    let client = Http2Client::connect(address).await;
    let seen = client.call("/head", &[("grpc-timeout", "60S")]).await.body;
    assert!(String::from_utf8_lossy(&seen).contains("\"grpc-timeout\": \"200m\""));
    for round in 1..=3 {
        let answer = client.call("/hang", &[("grpc-timeout", "60S")]).await;
        assert_eq!((answer.status, answer.grpc_status()), (StatusCode::OK, "4"), "{:?}", answer.headers);
        assert_eq!(answer.header("fusebox-error"), "timeout");
        eventually("the upstream's stream was reset", || upstream.aborted() == round).await;
    }
    assert_eq!(state(&proxy), BreakerState::Open);
}

#[tokio::test]
async fn the_callers_own_deadline_is_kept_and_says_nothing_of_the_upstream() {
    let upstream = Http2Upstream::start().await;
    let mut settings = grpc_config(&upstream);
    policy(&mut settings).rules[0].timeout_ms = Some(60_000);
    let (proxy, address) = proxy(&settings).await;
    let client = Http2Client::connect(address).await;
    let started = Instant::now();
    for round in 1..=4 {
        let answer = client.call("/hang", &[("grpc-timeout", "50m")]).await;
        assert_eq!((answer.status, answer.grpc_status()), (StatusCode::OK, "4"));
        eventually("the upstream's stream was reset", || upstream.aborted() == round).await;
    }
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(state(&proxy), BreakerState::Closed);
    let seen = client.call("/head", &[("grpc-timeout", "5S")]).await.body;
    assert!(String::from_utf8_lossy(&seen).contains("\"grpc-timeout\": \"5S\""), "the shorter time is passed on");
}

#[tokio::test]
async fn a_stream_that_outlasts_the_deadline_ends_with_its_status() {
    let upstream = Http2Upstream::start().await;
    let mut settings = grpc_config(&upstream);
    policy(&mut settings).rules[0].timeout_ms = Some(200);
    let (proxy, address) = proxy(&settings).await;
    let client = Http2Client::connect(address).await;
    for round in 1..=3 {
        let answer = client.call("/stall", &[]).await;
        assert_eq!((&answer.body, answer.grpc_status()), (&Bytes::from("first"), "4"));
        eventually("the upstream's stream was reset", || upstream.aborted() == round).await;
    }
    assert_eq!(state(&proxy), BreakerState::Open);
}

#[tokio::test]
async fn in_shadow_the_rules_timeout_is_only_counted() {
    let upstream = Http2Upstream::start().await;
    let mut settings = grpc_config(&upstream);
    policy(&mut settings).mode = Mode::Shadow;
    policy(&mut settings).rules[0].timeout_ms = Some(1);
    let (_proxy, address) = proxy(&settings).await;
    let answer = Http2Client::connect(address).await.call("/hang", &[("grpc-timeout", "300m")]).await;
    assert_eq!(answer.grpc_status(), "4", "the caller's deadline still holds");
}

#[tokio::test]
async fn a_stream_given_up_by_its_client_is_neutral_and_reset_upstream() {
    let (upstream, proxy, client) = staged(grpc_config).await;
    for round in 1..=4 {
        let (sender, body) = open_body();
        let mut answer = client.open(grpc_request("/stall", &[], body)).await.unwrap().into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        drop((answer, sender));
        eventually("the reset reached the upstream", || upstream.aborted() == round).await;
    }
    assert_eq!(state(&proxy), BreakerState::Closed);
}

#[tokio::test]
async fn grpc_over_http1_is_plain_http() {
    let upstream = super::support::Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let request = http::Request::post("/").header("host", "a").header("content-type", "application/grpc-web");
    let body = http_body_util::Full::new(Bytes::from_static(b"x"));
    let answer = Client::connect(address).await.send(request.body(body).unwrap()).await.unwrap();
    assert_eq!(answer.body, "ok");
}
