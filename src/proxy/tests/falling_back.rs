//! The fixed answer that a policy gives instead of a refusal.

use std::time::Duration;

use fusebox_policy::config::{AnswerHeader, ForcedState, ProxyConfig, StaticAnswer};
use http::{Method, Request, StatusCode};
use http_body_util::Full;

use super::support::{Client, Upstream, config, force, get, policy, proxy, raw, trip};
use super::support_http2::{Http2Client, Http2Upstream};

fn header(name: &str, value: &str) -> AnswerHeader {
    AnswerHeader { name: name.into(), value: value.into() }
}

/// The policy of `config` with a fixed answer.
pub(crate) fn with_fallback(upstream: &Upstream) -> ProxyConfig {
    let mut settings = config(upstream.address);
    policy(&mut settings).fallback = Some(StaticAnswer {
        status: 200,
        headers: vec![header("content-type", "application/json"), header("x-from", "a"), header("x-from", "b")],
        body: r#"{"items":[]}"#.into(),
    });
    settings
}

#[tokio::test]
async fn a_refused_request_gets_the_fixed_answer_and_it_says_whose_it_is() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&with_fallback(&upstream)).await;
    trip(&proxy, address).await;
    let seen = upstream.requests();
    let answer = get(address, "/").await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &br#"{"items":[]}"#[..]));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("content-length"), "12");
    assert_eq!(answer.headers.get_all("x-from").iter().count(), 2);
    assert_eq!(answer.header("fusebox-policy"), "shop/pay; state=open");
    assert_eq!(upstream.requests(), seen);
    let page = String::from_utf8(get(proxy.listeners()[1].address, "/metrics").await.body.to_vec()).unwrap();
    assert!(page.contains(r#"status_class="2xx",error="circuit-open"} 1"#), "it is counted as refused\n{page}");
}

#[tokio::test]
async fn head_gets_the_length_and_no_body_and_the_connection_stays_usable() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&with_fallback(&upstream)).await;
    trip(&proxy, address).await;
    let mut client = Client::connect(address).await;
    for _ in 0..2 {
        let head = Request::builder().method(Method::HEAD).uri("/").header("host", "a").body(Full::default()).unwrap();
        let answer = client.send(head).await.unwrap();
        assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (StatusCode::OK, "12", 0));
    }
    let text = raw(address, "HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn an_override_is_answered_so_too_and_an_upstreams_failure_is_not() {
    let upstream = Upstream::start().await;
    let mut settings = with_fallback(&upstream);
    let (proxy, address) = proxy(&settings).await;
    let failed = get(address, "/reset").await;
    assert_eq!((failed.status, failed.header("fusebox-error")), (StatusCode::BAD_GATEWAY, "reset"));
    policy(&mut settings).force = force(ForcedState::ForcedOpen, Duration::from_secs(60));
    proxy.apply(&settings).unwrap();
    let answer = get(address, "/").await;
    assert_eq!((answer.status, answer.header("fusebox-policy")), (StatusCode::OK, "shop/pay; state=forced-open"));
}

#[tokio::test]
async fn an_answer_that_could_break_its_connection_is_refused_with_its_field() {
    let upstream = Upstream::start().await;
    let (proxy, _address) = proxy(&with_fallback(&upstream)).await;
    type Break = fn(&mut StaticAnswer);
    let cases: [(&str, Break); 10] = [
        ("status", |answer| answer.status = 101),
        ("status", |answer| answer.status = 600),
        ("body", |answer| answer.status = 204),
        ("body", |answer| answer.body = "x".repeat((64 << 10) + 1)),
        ("headers", |answer| answer.headers = vec![header("x-many", "1"); 33]),
        ("headers[1].name", |answer| answer.headers[1] = header("Transfer-Encoding", "chunked")),
        ("headers[1].name", |answer| answer.headers[1] = header("content-length", "7")),
        ("headers[0].name", |answer| answer.headers[0] = header("x y", "1")),
        ("headers[0].value", |answer| answer.headers[0] = header("x-split", "a\r\nb: c")),
        ("headers[0]", |answer| answer.headers[0] = header("x-long", &"x".repeat(5_000))),
    ];
    for (field, break_it) in cases {
        let mut bad = with_fallback(&upstream);
        break_it(policy(&mut bad).fallback.as_mut().unwrap());
        let error = proxy.apply(&bad).unwrap_err();
        assert_eq!(error.field(), format!("outbound[0].circuitBreaker.fallback.{field}"), "{error}");
    }
}

#[tokio::test]
async fn a_grpc_caller_gets_the_refusal_it_can_read() {
    let (plain, upstream) = (Upstream::start().await, Http2Upstream::start().await);
    let mut settings = with_fallback(&plain);
    settings.outbound[0].addresses = vec![upstream.address.to_string()];
    policy(&mut settings).force = force(ForcedState::ForcedOpen, Duration::from_secs(60));
    let (_proxy, address) = proxy(&settings).await;
    let refused = Http2Client::connect(address).await.call("/only/0", &[]).await;
    assert_eq!((refused.status, refused.grpc_status()), (StatusCode::OK, "14"));
    assert_eq!((refused.header("x-from"), refused.header("fusebox-error")), ("", "circuit-open"));
    assert!(refused.header("grpc-message").contains("forced-open"), "{}", refused.header("grpc-message"));
    assert_eq!(upstream.requests(), 0);
}
