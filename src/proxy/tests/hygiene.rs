//! What a proxy must refuse or change in requests and answers.

use super::support::{Upstream, config, get, proxy, raw};

#[tokio::test]
async fn requests_that_two_parties_could_read_differently_are_refused() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let refused = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n",
        "GET https://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
    ];
    for request in refused {
        let answer = raw(address, request).await;
        let status = answer.get(9..12).unwrap_or_default();
        assert!(status == "400" || status == "405", "{request:?} got {answer:?}");
    }
    assert_eq!(upstream.requests(), 0);
    assert_eq!(proxy.state().breakers[0].window_requests, 0);
}

#[tokio::test]
async fn a_chunked_body_beats_a_content_length_and_only_one_goes_on() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let request = "POST /head HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n";
    let answer = raw(address, request).await.to_ascii_lowercase();
    let both = answer.contains("transfer-encoding: chunked") && answer.contains("content-length: 4");
    assert!(answer.starts_with("http/1.1 400") || !both, "{answer}");
}

#[tokio::test]
async fn hop_by_hop_and_nominated_headers_end_here() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let request = "GET /head HTTP/1.1\r\nhost: a\r\nconnection: close, x-secret\r\nx-secret: 1\r\nkeep-alive: 5\r\nte: trailers\r\nupgrade: x\r\nproxy-connection: x\r\nx-end: 1\r\n\r\n";
    let seen = raw(address, request).await.to_ascii_lowercase();
    let (_, head) = seen.split_once("\r\n\r\n").unwrap();
    for name in ["connection:", "x-secret:", "keep-alive:", "te:", "upgrade:", "proxy-connection:"] {
        assert!(!head.lines().any(|line| line.starts_with(name)), "{name} was passed on: {head}");
    }
    assert!(head.contains("x-end: 1") && head.contains("host: a"));
    let answer = get(address, "/hop").await;
    assert_eq!((answer.header("x-hop"), answer.header("keep-alive"), answer.header("x-end")), ("", "", "1"));
}

#[tokio::test]
async fn an_absolute_targets_authority_becomes_the_host() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let request = "GET http://payments.shop/head/x?q=1 HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n";
    let seen = raw(address, request).await.to_ascii_lowercase();
    assert!(seen.contains("get /head/x?q=1 http/1.1"), "{seen}");
    assert!(seen.contains("host: payments.shop") && !seen.contains("host: other"), "{seen}");
}

#[tokio::test]
async fn too_many_or_too_large_headers_are_refused() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(200));
    let large = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(100 << 10));
    for request in [many, large] {
        assert!(raw(address, &request).await.starts_with("HTTP/1.1 431"));
    }
    assert_eq!(upstream.requests(), 0);
}
