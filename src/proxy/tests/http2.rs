//! HTTP/2 by prior knowledge on both sides: detection, pooling, leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fusebox_policy::report::BreakerState;
use http::StatusCode;

use super::support::{Client, DEADLINE, Upstream, config, eventually, proxy, state};
use super::support_http2::{Http2Client, Http2Upstream, grpc_request, open_body, staged};

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
    let (upstream, proxy, client) = staged(|upstream| config(upstream.address)).await;
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
    let (upstream, proxy, client) = staged(|upstream| config(upstream.address)).await;
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
    let (upstream, proxy, client) = staged(|upstream| config(upstream.address)).await;
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
    let (_upstream, proxy, client) = staged(|upstream| config(upstream.address)).await;
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

/// A server that refuses each stream without a look at it, the first `refusals` times, then echoes its body; and how many came.
async fn refusing_server(refusals: usize) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let streams = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&streams);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if seen.fetch_add(1, Ordering::SeqCst) < refusals {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            answer.send_data(data, false).unwrap();
                        }
                        answer.send_data(bytes::Bytes::new(), true).unwrap();
                    });
                }
            });
        }
    });
    (address, streams)
}

#[tokio::test]
async fn a_stream_that_was_refused_unseen_goes_out_once_more_with_its_whole_body() {
    let (upstream, streams) = refusing_server(1).await;
    let (proxy, address) = proxy(&config(upstream)).await;
    let client = Http2Client::connect(address).await;
    let answer = client.call("/", &[]).await;
    assert_eq!((answer.status, &answer.body), (StatusCode::OK, &super::support_http2::framed(b"hello")));
    assert_eq!(streams.load(Ordering::SeqCst), 2);
    assert_eq!(state(&proxy), BreakerState::Closed);
}

#[tokio::test]
async fn a_stream_that_is_refused_again_is_a_reset_and_not_sent_a_third_time() {
    let (upstream, streams) = refusing_server(usize::MAX).await;
    let (proxy, address) = proxy(&config(upstream)).await;
    let client = Http2Client::connect(address).await;
    for round in 1..=3 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.header("fusebox-error")), (StatusCode::BAD_GATEWAY, "reset"));
        assert_eq!(streams.load(Ordering::SeqCst), 2 * round);
    }
    assert_eq!(state(&proxy), BreakerState::Open, "each request counts once");
}
