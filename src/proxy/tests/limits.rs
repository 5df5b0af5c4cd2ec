//! Clients that hold a connection for longer than they may, over real sockets, with limits of a moment.
//!
//! Each is cut or sent away by the limit it breaks and by no other: all but one limit are far beyond the test's own time.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use fusebox_policy::config::{Protocol, ProxyConfig};
use fusebox_policy::report::BreakerState;
use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Client, DEADLINE, Upstream, config, eventually, get, options, state};
use super::support_http2::{Http2Client, Http2Upstream, framed, grpc_request, open_body};
use crate::{Limits, Proxy};

/// The limit under test.
const SHORT: Duration = Duration::from_millis(400);

/// How often a slow client sends a byte: often enough never to be silent.
const DRIP: Duration = Duration::from_millis(20);

const LONG: Duration = Duration::from_secs(600);

/// No limit that a test could meet.
const FAR: Limits =
    Limits { idle: LONG, head: LONG, body: LONG, write: LONG, half_closed: LONG, age: LONG, tunnel_idle: LONG };

async fn limited(limits: Limits, settings: &ProxyConfig) -> (Proxy, SocketAddr) {
    let mut options = options();
    options.limits = limits;
    let proxy = Proxy::start(options).await.unwrap();
    proxy.apply(settings).unwrap();
    let address = proxy.listeners()[0].address;
    (proxy, address)
}

/// Sends `first`, then `drop` again and again; returns what came back until the connection ended.
async fn drip(address: SocketAddr, first: &[u8], drop: &[u8]) -> String {
    let (mut reading, mut writing) = TcpStream::connect(address).await.unwrap().into_split();
    writing.write_all(first).await.unwrap();
    let mut answer = Vec::new();
    let dripping = async {
        let mut interval = tokio::time::interval(DRIP);
        while writing.write_all(drop).await.is_ok() {
            interval.tick().await;
        }
        std::future::pending::<()>().await;
    };
    let hearing = async { while let Ok(1..) = reading.read_buf(&mut answer).await {} };
    tokio::select! {
        () = dripping => {}
        ended = tokio::time::timeout(DEADLINE, hearing) => ended.expect("the connection is cut"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until the other side ends the connection.
async fn ends(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("the connection ends");
}

#[tokio::test]
async fn http1_a_head_that_comes_byte_by_byte_is_cut_and_the_upstream_hears_nothing() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = limited(Limits { head: SHORT, ..FAR }, &config(upstream.address)).await;
    drip(address, b"GET / HTTP/1.1\r\nhost: a\r\nx: ", b"y").await;
    drip(address, b"GE", b"").await;
    assert_eq!(upstream.requests(), 0);
    assert_eq!(get(address, "/").await.body, "ok", "others are served");
}

#[tokio::test]
async fn http1_a_body_that_stops_is_cut_and_does_not_count_against_the_upstream() {
    let upstream = Upstream::start().await;
    let (proxy, address) = limited(Limits { body: SHORT, ..FAR }, &config(upstream.address)).await;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        ends(stream).await;
    }
    assert_eq!((state(&proxy), proxy.state().breakers[0].window_requests), (BreakerState::Closed, 0));
}

#[tokio::test]
async fn http1_a_body_that_comes_slowly_but_comes_is_not_cut() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = limited(Limits { body: SHORT, ..FAR }, &config(upstream.address)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 60\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut interval = tokio::time::interval(DRIP);
    for _ in 0..60 {
        interval.tick().await;
        stream.write_all(b"z").await.unwrap();
    }
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&"z".repeat(60)), "{answer}");
}

#[tokio::test]
async fn http1_a_client_that_stops_reading_is_cut_and_its_upstream_let_go() {
    let upstream = Upstream::start().await;
    let (proxy, address) = limited(Limits { write: SHORT, ..FAR }, &config(upstream.address)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /big/1000000000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let cut = async {
        let mut interval = tokio::time::interval(DRIP);
        while stream.write_all(b"x").await.is_ok() {
            interval.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, cut).await.expect("the connection is cut");
    assert!(upstream.sent() < 100_000_000, "{} bytes are held somewhere", upstream.sent());
    assert_eq!(state(&proxy), BreakerState::Closed);
}

#[tokio::test]
async fn http1_a_silent_connection_is_closed_before_its_first_request_and_after_one() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    settings.outbound[0].protocol = Protocol::Http;
    let (_proxy, address) = limited(Limits { idle: SHORT, ..FAR }, &settings).await;
    ends(TcpStream::connect(address).await.unwrap()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    ends(stream).await;
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn http1_an_old_connection_is_told_to_leave_while_it_is_busy() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = limited(Limits { age: SHORT, ..FAR }, &config(upstream.address)).await;
    let mut client = Client::connect(address).await;
    let busy = async {
        loop {
            match client.try_get("/").await {
                Ok(answer) => assert_eq!(answer.body, "ok", "no answer is lost"),
                Err(error) => break error,
            }
        }
    };
    let error = tokio::time::timeout(DEADLINE, busy).await.expect("the connection ends");
    assert!(error.is_canceled() || error.is_closed(), "between two requests: {error:?}");
}

#[tokio::test]
async fn http2_a_head_that_comes_byte_by_byte_is_cut_and_the_upstream_hears_nothing() {
    let upstream = Http2Upstream::start().await;
    let (_proxy, address) = limited(Limits { idle: SHORT, ..FAR }, &config(upstream.address)).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // A HEADERS frame of 16,000 bytes whose block has begun with a plain GET.
    let head = [&preface[..], &[0, 0x3e, 0x80, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84]].concat();
    drip(address, &head, &[0x86]).await;
    let (_proxy, address) = limited(Limits { head: SHORT, ..FAR }, &config(upstream.address)).await;
    drip(address, &preface[..10], b"").await;
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn http2_a_body_that_stops_is_given_up_and_does_not_count_against_the_upstream() {
    let upstream = Http2Upstream::start().await;
    let (proxy, address) = limited(Limits { body: SHORT, ..FAR }, &config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    for _ in 0..3 {
        let (sender, body) = open_body();
        sender.send(Bytes::from("half")).unwrap();
        let request = Request::post("http://payments.shop/collect").body(body).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("fusebox-error")), (408, "client-abort"));
        drop(sender);
    }
    assert_eq!((state(&proxy), proxy.state().breakers[0].window_requests), (BreakerState::Closed, 0));
    assert_eq!(client.get("/").await.body, "ok", "the connection goes on");
}

#[tokio::test]
async fn http2_a_silent_grpc_stream_is_left_alone() {
    let upstream = Http2Upstream::start().await;
    let (_proxy, address) = limited(Limits { body: DRIP, ..FAR }, &config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    let (sender, body) = open_body();
    let mut echo = client.open(grpc_request("/echo/0", &[], body)).await.unwrap().into_body();
    for part in [&b"ping"[..], b"pong"] {
        tokio::time::timeout(SHORT, std::future::pending::<()>()).await.unwrap_err();
        sender.send(framed(part)).unwrap();
        assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), framed(part));
    }
}

#[tokio::test]
async fn http2_a_client_that_stops_reading_is_cut_and_its_upstream_let_go() {
    let upstream = Http2Upstream::start().await;
    let (_proxy, address) = limited(Limits { write: SHORT, ..FAR }, &config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    let unread = client.try_open("/endless").await.unwrap();
    eventually("the connection is cut", || client.is_closed()).await;
    eventually("the upstream's stream was reset", || upstream.aborted() == 1).await;
    drop(unread);
}

#[tokio::test]
async fn http2_a_client_whose_upstream_is_slow_is_not_cut() {
    let upstream = Http2Upstream::start().await;
    let (_proxy, address) =
        limited(Limits { write: DRIP, body: DRIP, idle: DRIP, ..FAR }, &config(upstream.address)).await;
    let client = Http2Client::connect(address).await;
    let mut waiting = client.try_open("/stall").await.unwrap().into_body();
    assert_eq!(waiting.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    tokio::time::timeout(SHORT, waiting.frame()).await.expect_err("neither an end nor an error");
}

#[tokio::test]
async fn http2_an_idle_and_an_old_connection_are_told_to_leave() {
    let upstream = Http2Upstream::start().await;
    for limits in [Limits { idle: SHORT, ..FAR }, Limits { age: SHORT, ..FAR }] {
        let (_proxy, address) = limited(limits, &config(upstream.address)).await;
        let client = Http2Client::connect(address).await;
        assert_eq!(client.get("/").await.body, "ok");
        eventually("the connection ended", || client.is_closed()).await;
    }
}

#[tokio::test]
async fn a_tunnel_in_which_nobody_speaks_is_ended_and_a_busy_one_is_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = config(listener.local_addr().unwrap());
    settings.outbound[0].protocol = Protocol::Tcp;
    let (_proxy, address) = limited(Limits { tunnel_idle: SHORT, ..FAR }, &settings).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let (mut server, _) = tokio::time::timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    let mut interval = tokio::time::interval(DRIP);
    for _ in 0..2 * SHORT.as_millis() / DRIP.as_millis() {
        interval.tick().await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(tokio::time::timeout(DEADLINE, server.read_u8()).await.unwrap().unwrap(), b'x');
    }
    ends(client).await;
    ends(server).await;
}
