//! Interim answers (1xx): passed on as they come, in order, and never without end.

use fusebox_policy::report::BreakerState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::recorder::{Recorder, talk};
use super::support::{DEADLINE, config, proxy, state};
use super::support_http2::Http2Client;
use crate::pipeline::interim::MAX_INTERIM;

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

fn hints(count: u32) -> String {
    HINT.repeat(count as usize)
}

async fn hear(stream: &mut TcpStream, expected: &str) {
    let mut heard = vec![0; expected.len()];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), expected);
}

#[tokio::test]
async fn an_interim_answer_arrives_while_the_answer_is_still_being_made() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_proxy, address) = proxy(&config(listener.local_addr().unwrap())).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let (mut server, _) = tokio::time::timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    for _ in 0..2 {
        server.write_all(HINT.as_bytes()).await.unwrap();
        hear(&mut client, HINT).await;
    }
    server.write_all(ANSWER.as_bytes()).await.unwrap();
    hear(&mut client, "HTTP/1.1 200 OK\r\n").await;
}

#[tokio::test]
async fn interim_answers_stand_before_their_own_answer_and_after_those_before_it() {
    let upstream = Recorder::start([HINT, ANSWER].concat()).await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    for _ in 0..20 {
        let answers = talk(address, &[REQUEST, REQUEST, LAST_REQUEST].concat()).await;
        let positions: Vec<usize> = answers.match_indices("HTTP/1.1 ").map(|(at, _)| at + 9).collect();
        let statuses: Vec<&str> = positions.iter().map(|at| &answers[*at..*at + 3]).collect();
        assert_eq!(statuses, ["103", "200", "103", "200", "103", "200"], "{answers}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_hears_the_answer_alone() {
    let upstream = Recorder::start([HINT, ANSWER].concat()).await;
    let (_proxy, address) = proxy(&config(upstream.address)).await;
    let answer = talk(address, b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test]
async fn as_many_interim_answers_as_are_allowed_pass_with_their_answer() {
    let upstream = Recorder::start([&hints(MAX_INTERIM), ANSWER].concat()).await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let answer = talk(address, LAST_REQUEST).await;
    assert_eq!(answer.matches("HTTP/1.1 103").count(), MAX_INTERIM as usize);
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    assert_eq!(proxy.state().breakers[0].window_requests, 1);
}

#[tokio::test]
async fn interim_answers_without_end_are_a_reset_and_trip_the_breaker() {
    let upstream = Recorder::start(hints(MAX_INTERIM + 1)).await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    for _ in 0..3 {
        assert_eq!(state(&proxy), BreakerState::Closed);
        let answer = talk(address, LAST_REQUEST).await;
        assert_eq!(answer.matches("HTTP/1.1 103").count(), MAX_INTERIM as usize);
        assert!(answer.contains("HTTP/1.1 502") && answer.contains("fusebox-error: reset"), "{answer}");
    }
    assert_eq!(state(&proxy), BreakerState::Open);
}

#[tokio::test]
async fn http2_interim_answers_are_left_out_and_the_answer_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_proxy, address) = proxy(&config(listener.local_addr().unwrap())).await;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            for _ in 0..3 {
                let hint = http::Response::builder().status(103).header("link", "</a>").body(()).unwrap();
                respond.send_informational(hint).unwrap();
            }
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            body.send_data("ok".into(), true).unwrap();
        }
    });
    let answer = Http2Client::connect(address).await.get("/").await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"ok"[..]));
    server.abort();
}
