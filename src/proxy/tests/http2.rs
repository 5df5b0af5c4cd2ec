//! HTTP/2 by prior knowledge on both sides: detection, pooling, leaving.

use fusebox_policy::report::BreakerState;
use http::StatusCode;

use super::support::{Client, DEADLINE, Upstream, config, eventually, proxy, state};
use super::support_http2::{Http2Client, Http2Upstream, grpc_request, open_body};

#[tokio::test]
async fn http2_and_http1_are_told_apart_on_one_port() {
    let upstream = Http2Upstream::start().await;
    let (_http2, address) = proxy(&config(upstream.address)).await;
    let answer = Http2Client::connect(address).await.get("/").await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"ok"[..]));

    let upstream = Upstream::start().await;
    let (_http1, address) = proxy(&config(upstream.address)).await;
    assert_eq!(Client::connect(address).await.get("/").await.body, "ok");
}

#[tokio::test]
async fn authority_and_host_reach_the_upstream_and_agree() {
    let upstream = Http2Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let seen = Http2Client::connect(address).await.get("/head/x?q=1").await.body;
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("http://payments.shop/head/x?q=1"), "{seen}");
    assert!(seen.contains("version: HTTP/2.0"), "{seen}");
    assert!(!seen.contains("\"host\": \"") || seen.contains("\"host\": \"payments.shop\""), "{seen}");
}

#[tokio::test]
async fn streams_share_a_connection_until_it_is_full() {
    let upstream = Http2Upstream::with_streams(4).await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    client.get("/").await;
    let mut bodies = Vec::new();
    for _ in 0..10 {
        let (sender, body) = open_body();
        let answer = client.open(grpc_request("/echo/0", &[], body)).await.unwrap();
        bodies.push((sender, answer));
    }
    assert_eq!((upstream.requests(), upstream.connections()), (11, 3), "ten streams at four a connection");
    drop(bodies);
    for _ in 0..10 {
        client.get("/").await;
    }
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn an_upstream_that_sends_its_clients_away_loses_no_request() {
    let upstream = Http2Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    let (sender, body) = open_body();
    let open = client.open(grpc_request("/echo/0", &[], body)).await.unwrap();
    upstream.send_away();
    for round in 0..20 {
        let answer = client.call("/collect/0", &[]).await;
        assert_eq!((answer.status, answer.grpc_status()), (StatusCode::OK, "0"), "round {round}");
    }
    drop(sender);
    let ended = http_body_util::BodyExt::collect(open.into_body()).await.unwrap();
    assert_eq!(ended.trailers().unwrap()["grpc-status"], "0", "the open stream was finished");
    assert_eq!(state(&proxy), BreakerState::Closed);
    assert!(upstream.connections() > 1);
}

#[tokio::test]
async fn failing_streams_trip_the_breaker_and_refusals_say_so() {
    let upstream = Http2Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/status/503").await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(state(&proxy), BreakerState::Open);
    let refused = client.get("/").await;
    assert_eq!((refused.status, refused.header("fusebox-error")), (StatusCode::SERVICE_UNAVAILABLE, "circuit-open"));
    assert_eq!(upstream.requests(), 3);
}

#[tokio::test]
async fn a_client_that_resets_its_stream_is_neutral_and_the_upstream_learns_of_it() {
    let upstream = Http2Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    for round in 1..=5 {
        let request = tokio::spawn({
            let client = client.clone();
            async move { client.get("/hang").await }
        });
        eventually("the upstream has the request", || upstream.requests() == round).await;
        request.abort();
        eventually("the reset reached the upstream", || upstream.aborted() == round).await;
    }
    assert_eq!(state(&proxy), BreakerState::Closed);
    assert_eq!(proxy.state().breakers[0].report.trips, 0);
    assert_eq!(upstream.connections(), 1, "a stream's end is not the connection's");
}

#[tokio::test]
async fn draining_tells_clients_to_leave_and_finishes_their_streams() {
    let upstream = Http2Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    let (sender, body) = open_body();
    let open = client.open(grpc_request("/echo/0", &[], body)).await.unwrap();
    let draining = tokio::spawn(proxy.drain());
    let told = async { while client.try_get("/").await.is_ok() {} };
    tokio::time::timeout(DEADLINE, told).await.expect("the client is told to leave");
    sender.send(super::support_http2::framed(b"last")).unwrap();
    drop(sender);
    let ended = http_body_util::BodyExt::collect(open.into_body()).await.unwrap();
    assert_eq!(ended.trailers().unwrap()["grpc-status"], "0");
    assert!(ended.to_bytes().ends_with(b"last"));
    assert_eq!(draining.await.unwrap(), crate::Drained::Complete);
}

#[tokio::test]
async fn a_burst_of_first_requests_makes_one_connection() {
    let upstream = Http2Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    let answers = futures::future::join_all((0..50).map(|_| client.get("/"))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!((upstream.requests(), upstream.connections()), (50, 1));
}
