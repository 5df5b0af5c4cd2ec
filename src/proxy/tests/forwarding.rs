//! Carrying traffic well: keep-alive, streaming, resending, routing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use fusebox_policy::config::ServiceId;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Client, Upstream, config, eventually, get, options, proxy, raw};
use crate::Proxy;

#[tokio::test]
async fn one_upstream_connection_serves_many_requests() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let mut client = Client::connect(address).await;
    for path in ["/", "/chunked", "/status/201", "/status/404", "/", "/"] {
        client.get(path).await;
    }
    assert_eq!((upstream.requests(), upstream.connections()), (6, 1));
    get(address, "/").await;
    assert_eq!(upstream.connections(), 1, "another client's request takes the same one");
}

#[tokio::test]
async fn a_request_on_a_dead_kept_connection_is_sent_again_once() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let mut client = Client::connect(address).await;
    for round in 1..=10 {
        assert_eq!(client.get("/dies").await.body, "bye");
        assert_eq!(client.get("/").await.status, StatusCode::OK, "round {round}");
    }
    assert_eq!(proxy.state().breakers[0].report.failure_percent.unwrap_or_default(), 0.0);
}

#[tokio::test]
async fn a_get_that_a_kept_connection_lost_is_sent_twice_and_a_post_never() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let mut client = Client::connect(address).await;
    client.get("/").await;
    assert_eq!(client.get("/reset").await.header("fusebox-error"), "reset");
    assert_eq!(upstream.requests(), 3, "once on the kept connection, once on a new one");
    client.get("/").await;
    let post = Request::post("/reset").header("host", "a").body(Full::from("x")).unwrap();
    assert_eq!(client.send(post).await.unwrap().header("fusebox-error"), "reset");
    assert_eq!(upstream.requests(), 5);
}

#[tokio::test]
async fn a_connection_over_the_bound_waits_and_is_counted() {
    let upstream = Upstream::start().await;
    let mut options = options();
    options.max_connections = 1;
    options.inbound = vec![format!("127.0.0.1:0={}", upstream.address).parse().unwrap()];
    options.upstream = vec![format!("shop/payments={}", upstream.address).parse().unwrap()];
    let proxy = Proxy::start(options).await.unwrap();
    let [address, admin] = [1, 2].map(|index| proxy.listeners()[index].address);
    let mut first = Client::connect(address).await;
    first.get("/").await;
    let second = tokio::spawn(async move { get(address, "/").await });
    let mut pages = Client::connect(admin).await;
    let counted = async {
        while !String::from_utf8_lossy(&pages.get("/metrics").await.body).contains("fusebox_connections_waited_total 1")
        {
        }
    };
    tokio::time::timeout(super::support::DEADLINE, counted).await.expect("the bound is hit");
    assert_eq!(upstream.requests(), 1, "the second request waits");
    drop(first);
    assert_eq!(second.await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn bodies_pass_in_both_directions_whatever_their_framing() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let mut client = Client::connect(address).await;
    let body = Bytes::from(vec![b'y'; 1 << 20]);
    let request = Request::post("/echo").header("host", "a").body(Full::from(body.clone())).unwrap();
    assert_eq!(client.send(request).await.unwrap().body, body);
    let chunked = "GET /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert!(raw(address, chunked).await.ends_with("hello"), "a body on a GET is passed on");
    assert_eq!(client.get("/chunked").await.body, "abc");
    let head = Request::head("/echo").header("host", "a").body(Full::default()).unwrap();
    assert_eq!(client.send(head).await.unwrap().status, StatusCode::OK);
    assert_eq!(client.get("/").await.body, "ok", "a HEAD's answer leaves the connection in step");
}

#[tokio::test]
async fn a_large_body_waits_for_the_client_instead_of_filling_memory() {
    const LENGTH: usize = 256 << 20;
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(format!("GET /big/{LENGTH} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    // Nothing is read until the upstream's sending has come to rest.
    let mut before = 0;
    loop {
        tokio::time::timeout(std::time::Duration::from_millis(300), std::future::pending::<()>()).await.unwrap_err();
        let sent = upstream.sent();
        if sent == before && sent > 0 {
            break;
        }
        before = sent;
    }
    assert!(before < LENGTH / 4, "{before} bytes were taken from the upstream though nobody reads");
    let mut buffer = vec![0; 1 << 20];
    let mut read = 0;
    while read < LENGTH {
        read += client.read(&mut buffer).await.unwrap();
    }
    eventually("all was sent", || upstream.sent() == LENGTH).await;
}

#[tokio::test]
async fn a_service_without_a_policy_passes_untouched() {
    let upstream = Upstream::start().await;
    let mut options = options();
    options.upstream = vec![format!("shop/payments={}", upstream.address).parse().unwrap()];
    let proxy = Proxy::start(options).await.unwrap();
    for _ in 0..10 {
        assert_eq!(get(proxy.listeners()[0].address, "/status/503").await.body, "told");
    }
    assert!(proxy.state().breakers.is_empty());
}

#[tokio::test]
async fn a_service_without_an_address_says_what_to_set() {
    let proxy = Proxy::start(options()).await.unwrap();
    let answer = get(proxy.listeners()[0].address, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("--upstream shop/payments:80=HOST:PORT"), "{detail}");
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_cannot_be_reached() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    settings.outbound[0].addresses.insert(0, "127.0.0.1:1".into());
    let (_proxy, address) = proxy(&settings).await;
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_inbound_listener_goes_to_the_application() {
    let upstream = Upstream::start().await;
    let mut options = options();
    options.inbound = vec![format!("127.0.0.1:0={}/8080", upstream.address).parse().unwrap()];
    let proxy = Proxy::start(options).await.unwrap();
    assert_eq!(get(proxy.listeners()[0].address, "/").await.body, "ok");
}

#[tokio::test]
async fn an_inbound_listener_for_all_addresses_takes_both_families() {
    let upstream = Upstream::start().await;
    let mut options = options();
    options.inbound = vec![format!("0.0.0.0:0={}/8080", upstream.address).parse().unwrap()];
    let proxy = Proxy::start(options).await.unwrap();
    let port = proxy.listeners()[0].address.port();
    let mut loopbacks: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
    // A machine may have no IPv6.
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        loopbacks.push(Ipv6Addr::LOCALHOST.into());
    }
    for ip in loopbacks {
        assert_eq!(get(SocketAddr::new(ip, port), "/").await.body, "ok", "{ip}");
    }
}

#[tokio::test]
async fn without_a_destination_the_host_header_chooses() {
    let (payments, ledger) = (Upstream::start().await, Upstream::start().await);
    let mut settings = config(payments.address);
    let mut second = settings.outbound[0].clone();
    second.service = ServiceId { namespace: "shop".into(), name: "ledger".into() };
    second.addresses = vec![ledger.address.to_string()];
    second.circuit_breaker = None;
    let mut options = options();
    options.outbound = vec!["127.0.0.1:0".parse().unwrap()];
    let proxy = Proxy::start(options).await.unwrap();
    let address = proxy.listeners()[0].address;

    proxy.apply(&settings).unwrap();
    assert_eq!(get(address, "/").await.status, StatusCode::OK, "the only route takes everything");
    settings.outbound.push(second);
    proxy.apply(&settings).unwrap();
    for host in ["ledger.shop", "ledger.shop.svc:80", "ledger.shop.svc.cluster.local", "ledger.shop:8080"] {
        let request = Request::get("/").header("host", host).body(Full::default()).unwrap();
        assert_eq!(Client::connect(address).await.send(request).await.unwrap().status, StatusCode::OK, "{host}");
    }
    assert_eq!((payments.requests(), ledger.requests()), (1, 4));
    let request = Request::get("/").header("host", "other.shop").body(Full::default()).unwrap();
    let answer = Client::connect(address).await.send(request).await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.json()["detail"].as_str().unwrap().contains("ledger.shop, payments.shop"));
}
