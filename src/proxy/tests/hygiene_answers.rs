//! What a proxy must refuse or change in an upstream's answers, byte by byte.
//!
//! A refused answer must never reach the client in part, and always counts against the upstream.

use fusebox_policy::report::BreakerState;

use super::recorder::{Recorder, talk};
use super::support::{config, proxy, state};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// The answer to `told`, without the Date line, which is never twice the same.
async fn through(told: &str) -> String {
    let upstream = Recorder::start(told).await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let answer = talk(address, REQUEST).await;
    let Some((before, rest)) = answer.split_once("date: ") else { return answer };
    let (_, after) = rest.split_once("\r\n").expect("a whole line");
    format!("{before}{after}")
}

#[tokio::test]
async fn answers_pass_with_what_concerns_the_client_alone() {
    let cases = [
        (
            "hop-by-hop and nominated headers",
            "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nx-end: 1\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nx-end: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        ),
        (
            "headers that only this proxy may set",
            "HTTP/1.1 503 No\r\nfusebox-error: circuit-open\r\nfusebox-policy: a/b; state=open\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "chunks",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "some interim answers",
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        ),
    ];
    for (name, told, expected) in cases {
        let answer = through(told).await;
        assert_eq!(answer, expected, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_a_reset() {
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(1 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x: 1\r\n".repeat(10_000));
    let bad = [
        ("no HTTP", "SSH-2.0-OpenSSH\r\n\r\n"),
        ("no status", "HTTP/1.1 OK\r\n\r\n"),
        ("a status of two digits", "HTTP/1.1 20 OK\r\n\r\n"),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n"),
        ("a status below 100", "HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n"),
        ("an unknown version", "HTTP/3.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("a folded header", "HTTP/1.1 200 OK\r\nx: 1\r\n y\r\ncontent-length: 0\r\n\r\n"),
        ("a bare CR in a header", "HTTP/1.1 200 OK\r\nx: 1\rset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"),
        ("NUL in a header", "HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 0\r\n\r\n"),
        ("a space before the colon", "HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n"),
        ("a CR in the reason", "HTTP/1.1 200 O\rK\r\ncontent-length: 0\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        ("the same length twice", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab"),
        ("the same length twice in one", "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nab"),
        ("a length with a sign", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab"),
        (
            "a length and chunks",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        ),
        ("an unknown coding", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("a coding that is not the last", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        (
            "an upgrade nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        ),
        ("headers of 1 MiB", &large),
        ("10,000 headers", &many),
    ];
    for (name, told) in bad {
        let upstream = Recorder::start(told).await;
        let (proxy, address) = proxy(&config(upstream.address)).await;
        for _ in 0..3 {
            let answer = talk(address, REQUEST).await;
            assert!(
                answer.starts_with("HTTP/1.1 502") && answer.contains("fusebox-error: reset"),
                "{name}: {answer:?}"
            );
        }
        assert_eq!(state(&proxy), BreakerState::Open, "{name}: three resets trip the breaker");
    }
}

#[tokio::test]
async fn bytes_behind_an_answers_end_never_answer_another_request() {
    let told = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let upstream = Recorder::start(told).await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    for _ in 0..5 {
        let answer = talk(address, REQUEST).await;
        assert!(answer.ends_with("\r\n\r\nok"), "{answer:?}");
    }
}
