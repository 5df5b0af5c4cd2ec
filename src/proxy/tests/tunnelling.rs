//! What is not HTTP: TLS and other TCP, servers that speak first, upgrades, CONNECT.

use std::net::SocketAddr;
use std::time::Duration;

use fusebox_policy::config::{Mode, Protocol, ProxyConfig};
use fusebox_policy::report::BreakerState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Client, DEADLINE, Upstream, config, eventually, get, options, policy, proxy, raw, state, trip};
use crate::{Drained, Proxy};

/// A server that says `greeting`, then echoes until the client's end, then says `farewell`.
async fn tcp_server(greeting: &'static [u8], farewell: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(greeting).await.unwrap();
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.write_all(farewell).await;
            });
        }
    });
    address
}

async fn speak(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    hear(stream, bytes).await;
}

async fn hear(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, expected);
}

fn speaking(protocol: Protocol, upstream: SocketAddr) -> ProxyConfig {
    let mut settings = config(upstream);
    settings.outbound[0].protocol = protocol;
    settings
}

/// Where nobody listens.
fn broken_address() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

async fn metrics(proxy: &Proxy) -> String {
    let admin = proxy.listeners().last().unwrap().address;
    let page = get(admin, "/metrics").await.body;
    String::from_utf8_lossy(&page).into_owned()
}

#[tokio::test]
async fn a_client_hello_and_all_that_follows_pass_untouched() {
    let upstream = tcp_server(b"", b"").await;
    let (proxy, address) = proxy(&config(upstream)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    speak(&mut stream, b"\x16\x03\x01\x00\x05hello").await;
    let block = vec![0xA5; 1 << 20];
    let (mut reader, mut writer) = stream.split();
    let mut heard = vec![0; block.len()];
    let (sent, read) = tokio::join!(writer.write_all(&block), reader.read_exact(&mut heard));
    sent.unwrap();
    read.unwrap();
    assert!(heard == block);
    assert_eq!(state(&proxy), BreakerState::Closed);
}

#[tokio::test]
async fn a_client_that_ends_its_sending_still_hears_the_rest() {
    let upstream = tcp_server(b"", b"farewell").await;
    let (proxy, address) = proxy(&speaking(Protocol::Tcp, upstream)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    speak(&mut stream, b"question").await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"farewell");
    let counted = r#"error="""#;
    let page = metrics(&proxy).await;
    let line = page.lines().find(|line| line.starts_with("fusebox_tcp_connections_total")).unwrap();
    assert!(line.contains(counted) && line.ends_with(" 1"), "{line}");
    let received = page.lines().find(|line| line.starts_with("fusebox_tcp_bytes_total") && line.contains("received"));
    assert!(received.unwrap().ends_with(" 8"), "{received:?}");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_whatever_is_said_of_the_port() {
    let upstream = tcp_server(b"220 mail ready\r\n", b"").await;
    for protocol in [Protocol::Detect, Protocol::Tcp] {
        let (_proxy, address) = proxy(&speaking(protocol, upstream)).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        hear(&mut stream, b"220 mail ready\r\n").await;
        speak(&mut stream, b"GET / HTTP/1.1\r\n").await;
    }
}

#[tokio::test]
async fn a_client_that_was_silent_for_long_is_still_recognised_as_http() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    eventually("the upstream was connected to, in case it speaks first", || upstream.connections() == 1).await;
    stream.write_all(b"GET /status/503 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(metrics(&proxy).await.contains(r#"status_class="5xx",error=""} 1"#), "it was counted as a request");
}

#[tokio::test]
async fn first_bytes_that_come_one_by_one_are_recognised() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn a_port_that_speaks_http_only_refuses_the_rest() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&speaking(Protocol::Http, upstream.address)).await;
    let answer = raw(address, "\u{16}\u{3}\u{1}\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn failed_connections_trip_the_breaker_and_an_open_one_closes_at_once() {
    let (proxy, address) = proxy(&speaking(Protocol::Tcp, broken_address())).await;
    for _ in 0..3 {
        assert_eq!(raw(address, "").await, "");
    }
    assert_eq!(state(&proxy), BreakerState::Open);
    let upstream = Upstream::start().await;
    let mut settings = speaking(Protocol::Tcp, upstream.address);
    proxy.apply(&settings).unwrap();
    assert_eq!(state(&proxy), BreakerState::Open, "the state is kept");
    assert_eq!(raw(address, "").await, "");
    assert_eq!(upstream.connections(), 0, "the upstream was not touched");
    let page = metrics(&proxy).await;
    for (error, count) in [("connect-failure", 3), ("circuit-open", 1)] {
        let line = page.lines().find(|line| line.starts_with("fusebox_tcp_connections") && line.contains(error));
        assert!(line.is_some_and(|line| line.ends_with(&format!(" {count}"))), "{error}: {line:?}");
    }

    policy(&mut settings).mode = Mode::Shadow;
    proxy.apply(&settings).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    hear(&mut stream, b"HTTP/1.1 200").await;
}

/// A server that agrees to `Upgrade: echo` and to CONNECT, says a first word at once, and then echoes.
async fn upgrading_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                let answer = if head.starts_with("connect db.shop:5432 ") {
                    "HTTP/1.1 200 Connected\r\n\r\nhello"
                } else if head.contains("upgrade: echo") && head.contains("connection: upgrade") {
                    "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\nx-end: 1\r\n\r\nhello"
                } else {
                    "HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\nno"
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

const UPGRADE: &[u8] = b"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n";

#[tokio::test]
async fn an_upgrade_that_both_ends_want_becomes_a_tunnel() {
    let (proxy, address) = proxy(&config(upgrading_server().await)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(UPGRADE).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: echo") && head.contains("x-end: 1"), "{head}");
    hear(&mut stream, b"hello").await;
    speak(&mut stream, b"\x81\x05frame").await;
    assert_eq!(proxy.state().breakers[0].report.trips, 0);
    drop(stream);
    assert_eq!(proxy.drain().await, Drained::Complete, "the tunnel ended with its client");
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_any_other() {
    let (_proxy, address) = proxy(&config(upgrading_server().await)).await;
    let request = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, close\r\nupgrade: other\r\n\r\n";
    let answer = raw(address, request).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.ends_with("no"), "{answer}");
}

#[tokio::test]
async fn an_open_breaker_refuses_an_upgrade() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    trip(&proxy, address).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(UPGRADE).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("http/1.1 503"));
}

#[tokio::test]
async fn connect_tunnels_to_the_routes_own_destination_if_that_agrees() {
    let (_proxy, address) = proxy(&config(upgrading_server().await)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"CONNECT db.shop:5432 HTTP/1.1\r\nhost: db.shop:5432\r\n\r\n").await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    hear(&mut stream, b"hello").await;
    speak(&mut stream, b"\x16\x03\x01 anything").await;

    let refused = raw(address, "CONNECT other:1 HTTP/1.1\r\nhost: other:1\r\nconnection: close\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 400"), "the destination decides: {refused}");
}

#[tokio::test]
async fn a_tunnel_gets_the_drain_time_and_is_cut_after_it() {
    let upstream = tcp_server(b"", b"").await;
    let mut options = options();
    options.drain_timeout = Duration::from_millis(300);
    let proxy = Proxy::start(options).await.unwrap();
    proxy.apply(&speaking(Protocol::Tcp, upstream)).unwrap();
    let address = proxy.listeners()[0].address;
    let mut stream = TcpStream::connect(address).await.unwrap();
    speak(&mut stream, b"before").await;
    let draining = tokio::spawn(proxy.drain());
    eventually("no new connections are taken", || std::net::TcpStream::connect(address).is_err()).await;
    speak(&mut stream, b"meanwhile").await;
    assert_eq!(draining.await.unwrap(), Drained::CutOff);
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("it was cut");
}

#[tokio::test]
async fn a_kept_connection_outlives_a_silent_second() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let mut client = Client::connect(address).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.body, "ok");
        // Longer than the time after which an idle connection is kept without a parser.
        tokio::time::timeout(Duration::from_millis(2_500), std::future::pending::<()>()).await.unwrap_err();
    }
    assert_eq!(client.get("/").await.body, "ok");
}
