//! What a proxy must refuse or change in HTTP/1 requests and answers, byte by byte.
//!
//! Every case says what the upstream received, or that it received nothing: an answer alone does not show
//! whether two parties could have read one message differently.

use fusebox_policy::config::GrpcCode;
use fusebox_policy::report::BreakerState;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::recorder::{OK, Recorder, talk};
use super::support::{DEADLINE, config, get, options, policy, proxy, state};
use super::support_http2::Http2Client;
use crate::Proxy;

/// One request and its fate.
struct Case {
    name: &'static str,
    sent: &'static str,
    /// What the upstream got; nothing where it got no connection.
    received: &'static str,
    /// How the answer begins; empty where the connection is closed without one.
    answer: &'static str,
}

const fn passed(name: &'static str, sent: &'static str, received: &'static str) -> Case {
    Case { name, sent, received, answer: "HTTP/1.1 200" }
}

const fn refused(name: &'static str, sent: &'static str, answer: &'static str) -> Case {
    Case { name, sent, received: "", answer }
}

/// Runs all cases and tells of every one that went otherwise.
async fn check(cases: &[Case]) {
    let mut wrong = Vec::new();
    for Case { name, sent, received, answer } in cases {
        let upstream = Recorder::start(OK).await;
        let (proxy, address) = proxy(&config(upstream.address)).await;
        let got = talk(address, sent.as_bytes()).await;
        let seen = upstream.received();
        let blamed = proxy.state().breakers[0].report.failure_percent.unwrap_or_default() > 0.0;
        let answered = got.starts_with(answer) && got.is_empty() == answer.is_empty();
        if seen != *received || !answered || blamed || upstream.connections() != usize::from(!received.is_empty()) {
            wrong.push(format!(
                "{name}:\n  received {seen:?}\n  expected {received:?}\n  answered {got:?}, blamed: {blamed}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Requests that pass, and what becomes of them.
const REWRITTEN: &[Case] = &[
    passed(
        "a plain request",
        "GET /a?b=c HTTP/1.1\r\nHost: payments.shop\r\nX-Kept:  1 \r\nConnection: close\r\n\r\n",
        "GET /a?b=c HTTP/1.1\r\nhost: payments.shop\r\nx-kept: 1\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    passed(
        "encoded and plain dots",
        "GET /a/%2e%2E/../b//./%00;c?d=%2f.. HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "GET /a/%2e%2E/../b//./%00;c?d=%2f.. HTTP/1.1\r\nhost: a\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    passed(
        "hop-by-hop and nominated headers",
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, x-secret, host, content-length\r\nx-secret: 1\r\n\
             keep-alive: timeout=5\r\nproxy-connection: x\r\nupgrade: x\r\nte: gzip\r\nx-end: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx-end: 1\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    passed(
        "a client that takes trailers",
        "GET / HTTP/1.1\r\nhost: a\r\nte: gzip;q=0.5, Trailers\r\nconnection: close, te\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nvia: 1.1 fusebox-out-ID\r\nconnection: te\r\n\r\n",
    ),
    passed(
        "an absolute target with another Host",
        "GET http://payments.shop/x?q=1 HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n",
        "GET /x?q=1 HTTP/1.1\r\nhost: payments.shop\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    passed(
        "an absolute target without a path",
        "GET http://payments.shop:80 HTTP/1.1\r\nhost: payments.shop:80\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: payments.shop:80\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    passed(
        "an absolute target with a fragment in the path's place",
        "GET http://payments.shop#/x HTTP/1.1\r\nhost: payments.shop\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: payments.shop\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    passed(
        "an absolute target with a query in the path's place",
        "GET http://payments.shop?q=1 HTTP/1.1\r\nhost: payments.shop\r\nconnection: close\r\n\r\n",
        "GET /?q=1 HTTP/1.1\r\nhost: payments.shop\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    passed(
        "bare line feeds",
        "GET / HTTP/1.1\nhost: a\nx: 1\nconnection: close\n\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    Case {
        name: "HTTP/1.0 goes out as HTTP/1.1",
        sent: "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
        received: "GET / HTTP/1.1\r\nhost: a\r\nvia: 1.0 fusebox-out-ID\r\n\r\n",
        answer: "HTTP/1.0 200",
    },
    passed(
        "an empty line before the request",
        "\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    passed(
        "what only looks like a header of ours, a trace or an address",
        "GET / HTTP/1.1\r\nhost: a\r\nfusebox-policy: x\r\ntraceparent: 00-zz\r\nx-forwarded-for: 1.1.1.1, x\r\n\
             forwarded: for=evil\r\nx-forwarded-proto: https\r\nx-forwarded-host: b\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nfusebox-policy: x\r\ntraceparent: 00-zz\r\nx-forwarded-for: 1.1.1.1, x\r\n\
             forwarded: for=evil\r\nx-forwarded-proto: https\r\nx-forwarded-host: b\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
    passed(
        "others on the way",
        "GET / HTTP/1.1\r\nhost: a\r\nvia: 1.0 edge (x), 2 mesh\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nvia: 1.0 edge (x), 2 mesh\r\nvia: 1.1 fusebox-out-ID\r\n\r\n",
    ),
];

#[tokio::test]
async fn what_is_passed_on_is_rewritten_to_the_last_byte_as_it_must_be() {
    check(REWRITTEN).await;
}

#[tokio::test]
async fn a_body_goes_on_under_one_framing() {
    check(&[
        passed(
            "a length",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nvia: 1.1 fusebox-out-ID\r\n\r\nhello",
        ),
        passed(
            "the same length twice",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nvia: 1.1 fusebox-out-ID\r\n\r\nhello",
        ),
        passed(
            "chunks with extensions",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\nconnection: close\r\n\r\n\
             005;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\nvia: 1.1 fusebox-out-ID\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        passed(
            "CL.TE: the length is dropped, and what it would have covered never becomes a request",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\ntransfer-encoding: chunked\r\n\r\n\
             0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\nvia: 1.1 fusebox-out-ID\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        passed(
            "TE.CL: the same with the lines the other way round",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n\
             5\r\nGET /\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\nvia: 1.1 fusebox-out-ID\r\ntransfer-encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n",
        ),
    ])
    .await;
}

const BAD: &str = "HTTP/1.1 400";

/// Requests that two parties could read differently.
const REFUSED: &[Case] = &[
    refused("no Host", "GET / HTTP/1.1\r\n\r\n", BAD),
    refused("no Host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 400"),
    refused("two Hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", BAD),
    refused("the same Host twice", "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", BAD),
    refused("two Hosts in one", "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n", BAD),
    refused("an empty Host", "GET / HTTP/1.1\r\nhost:\r\n\r\n", BAD),
    refused("a Host with a space", "GET / HTTP/1.1\r\nhost: a b\r\n\r\n", BAD),
    refused("a Host with a path", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", BAD),
    refused("a Host with a user", "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", BAD),
    refused("a Host with a word for a port", "GET / HTTP/1.1\r\nhost: a:b\r\n\r\n", BAD),
    refused("an absolute target without Host", "GET http://a/ HTTP/1.1\r\n\r\n", BAD),
    refused("an absolute target with a user", "GET http://u@a/ HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
    refused("an absolute target of another scheme", "GET https://a/ HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
    refused("a target that is no path", "GET a HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
    refused("an asterisk for another method than OPTIONS", "GET * HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
    refused("a target with a space", "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", BAD),
    refused("a folded header", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n", BAD),
    refused("a folded first header", "GET / HTTP/1.1\r\n host: a\r\n\r\n", BAD),
    refused("a space before the colon", "GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n", BAD),
    refused("a header without a colon", "GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n", BAD),
    refused("a header without a name", "GET / HTTP/1.1\r\nhost: a\r\n: 1\r\n\r\n", BAD),
    refused("NUL in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n", BAD),
    refused("NUL in a name", "GET / HTTP/1.1\r\nhost: a\r\nx\0: 1\r\n\r\n", BAD),
    refused("a bare CR in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\ry: 2\r\n\r\n", BAD),
    refused("a bare CR as a line's end", "GET / HTTP/1.1\rhost: a\r\r", BAD),
    refused("an unknown version", "GET / HTTP/1.2\r\nhost: a\r\n\r\n", BAD),
    refused("HTTP/0.9", "GET /\r\n\r\n", BAD),
    refused("two lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", BAD),
    refused("two lengths in one", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4, 4\r\n\r\nabcd", BAD),
    refused("a negative length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", BAD),
    refused("a length with a sign", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +4\r\n\r\nabcd", BAD),
    refused("a length with a space", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4 4\r\n\r\nabcd", BAD),
    refused("a hexadecimal length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x4\r\n\r\nabcd", BAD),
    refused("an empty length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\n", BAD),
    refused("a length over 64 bits", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551616\r\n\r\n", BAD),
    refused(
        "chunked, identity",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    refused(
        "identity, chunked",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    refused(
        "chunked twice",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    refused(
        "a coding that would lose its name",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    refused("xchunked", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", BAD),
    refused("quoted chunked", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n", BAD),
    refused(
        "chunked behind a vertical tab",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    refused(
        "a space before Transfer-Encoding's colon",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    refused(
        "Transfer-Encoding in HTTP/1.0",
        "POST / HTTP/1.0\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.",
    ),
];

#[tokio::test]
async fn requests_that_two_parties_could_read_differently_never_reach_the_upstream() {
    check(REFUSED).await;
}

#[tokio::test]
async fn a_clients_broken_chunk_is_its_own_error() {
    let broken = [
        ("no number", "zz\r\n"),
        ("a sign", "+5\r\nhello\r\n"),
        ("a prefix", "0x5\r\nhello\r\n"),
        ("a space in the number", "1 0\r\n"),
        ("a size over 64 bits", "fffffffffffffffff\r\n"),
        ("no end", "5\r\nhelloX\r\n0\r\n\r\n"),
        ("a bare line feed", "5\nhello\n0\n\n"),
        ("a line feed in an extension", "5;a\nb\r\nhello\r\n"),
        ("an empty size", "\r\nhello"),
        ("a trailer that is none", "0\r\nnot a header\r\n\r\n"),
        ("a folded trailer", "0\r\nx: 1\r\n y\r\n\r\n"),
    ];
    for (name, chunk) in broken {
        let upstream = Recorder::start(OK).await;
        let (proxy, address) = proxy(&config(upstream.address)).await;
        for _ in 0..3 {
            let sent = format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
            let answer = talk(address, sent.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{name}: {answer:?}");
        }
        let received = upstream.received();
        assert!(!received.contains("0\r\n\r\n"), "{name}: a whole request reached the upstream: {received:?}");
        assert_eq!(state(&proxy), BreakerState::Closed, "{name}");
        assert_eq!(proxy.state().breakers[0].window_requests, 0, "{name}: neutral");
    }
}

#[tokio::test]
async fn chunk_extensions_are_bounded() {
    let upstream = Recorder::start(OK).await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let extension = "x".repeat(40 << 10);
    let sent =
        format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;{extension}\r\na\r\n0\r\n\r\n");
    assert!(talk(address, sent.as_bytes()).await.starts_with("HTTP/1.1 400"));
    assert!(!upstream.received().contains("xxx"));
    assert_eq!(proxy.state().breakers[0].window_requests, 0);
}

#[tokio::test]
async fn a_head_beyond_its_bounds_is_refused_by_the_bound_it_breaks() {
    let cases = [
        ("a target of 33 KiB", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(33 << 10)), "HTTP/1.1 414"),
        ("a target of 64 KiB", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(64 << 10)), "HTTP/1.1 414"),
        ("a target of 1 MiB", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(1 << 20)), "HTTP/1.1 431"),
        ("101 headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(100)), "HTTP/1.1 431"),
        ("10,000 headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(10_000)), "HTTP/1.1 431"),
        (
            "a header of 100 KiB",
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(100 << 10)),
            "HTTP/1.1 431",
        ),
        (
            "headers of 1 MiB",
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
            "HTTP/1.1 431",
        ),
        ("a head without an end", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(1 << 20)), "HTTP/1.1 431"),
    ];
    for (name, sent, answer) in cases {
        let upstream = Recorder::start(OK).await;
        let (_proxy, address) = proxy(&config(upstream.address)).await;
        let got = talk(address, sent.as_bytes()).await;
        // What is answered while the client still sends may be lost with the connection's reset.
        assert!(got.starts_with(answer) || (got.is_empty() && sent.len() > 512 << 10), "{name}: {got:?}");
        assert_eq!(upstream.connections(), 0, "{name}");
    }
}

#[tokio::test]
async fn the_largest_head_within_the_bounds_passes() {
    let upstream = Recorder::start(OK).await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let target = "a".repeat((32 << 10) - 1);
    let sent = format!("GET /{target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{}\r\n", "x: 1\r\n".repeat(98));
    assert!(talk(address, sent.as_bytes()).await.starts_with("HTTP/1.1 200"));
    assert!(upstream.received().starts_with(&format!("GET /{target} HTTP/1.1\r\n")));
}

#[tokio::test]
async fn a_proxy_pointed_at_itself_refuses_the_loop() {
    let mut options = options();
    let reserved = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    options.outbound = vec![format!("{address}=shop/payments:80").parse().unwrap()];
    options.upstream = vec![format!("shop/payments={address}").parse().unwrap()];
    let proxy = Proxy::start(options).await.unwrap();
    let mut settings = config(address);
    policy(&mut settings).rules[0].failure_on.grpc_codes = vec![GrpcCode::Unknown];
    proxy.apply(&settings).unwrap();
    for _ in 0..5 {
        let answer = get(address, "/").await;
        assert_eq!(answer.status, http::StatusCode::LOOP_DETECTED);
        assert_eq!(answer.json()["type"], "https://fusebox.dev/problems/loop");
        let answer = Http2Client::connect(address).await.get("/").await;
        assert_eq!(answer.status, http::StatusCode::LOOP_DETECTED);
        let answer = Http2Client::connect(address).await.call("/", &[]).await;
        assert_eq!(answer.grpc_status(), "2");
    }
    assert_eq!(state(&proxy), BreakerState::Closed, "its own refusals are no failures in itself");
    assert_eq!(proxy.state().breakers[0].window_requests, 0);
}

#[tokio::test]
async fn an_upstream_that_says_loop_is_a_failure_whatever_it_claims() {
    let pretends = "HTTP/1.1 508 Loop Detected\r\nfusebox-error: loop\r\nvia: 1.1 fusebox-out-00000000\r\n\
                    content-type: application/problem+json\r\ncontent-length: 0\r\n\r\n";
    let upstream = Recorder::start(pretends).await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    for _ in 0..3 {
        get(address, "/").await;
    }
    assert_eq!(state(&proxy), BreakerState::Open);
}

#[tokio::test]
async fn a_client_that_ends_its_sending_with_its_request_is_answered() {
    let upstream = Recorder::start(OK).await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    for _ in 0..20 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer:?}");
    }
}
