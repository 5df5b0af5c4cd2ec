//! Who is limited: what tells clients apart, where it is missing or forged, and whatever stands in it.

use fusebox_policy::config::{ApiKey, KeyPart, MissingKey};
use http::{Request, StatusCode};
use http_body_util::Full;

use super::rate_limit_support::{client_ip, field, limit, limited, send, served, server, started, statuses};
use super::support::{Client, Upstream, get, proxy};

#[tokio::test]
async fn each_key_has_a_bucket_of_its_own() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&limited(upstream.address, vec![limit("per-key", 2)])).await;
    assert_eq!(statuses(address, "ada", 3).await, [200, 200, 429]);
    assert_eq!(statuses(address, "bob", 3).await, [200, 200, 429]);
}

#[tokio::test]
async fn a_limit_without_a_key_is_one_bucket_for_all() {
    let upstream = Upstream::start().await;
    let mut all = limit("all", 2);
    all.key.clear();
    let (_proxy, address) = proxy(&limited(upstream.address, vec![all])).await;
    assert_eq!(statuses(address, "ada", 2).await, [200, 200]);
    assert_eq!(statuses(address, "bob", 1).await, [429]);
}

#[tokio::test]
async fn a_request_without_a_key_shares_a_bucket_or_is_skipped_or_refused_as_asked() {
    let upstream = Upstream::start().await;
    let with = |on_missing_key| {
        let mut one = limit("per-key", 1);
        one.on_missing_key = on_missing_key;
        limited(upstream.address, vec![one])
    };
    let (proxy, address) = proxy(&with(MissingKey::SharedBucket)).await;
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
    assert_eq!(get(address, "/").await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        send(address, "/", &[("x-api-key", "")]).await.status,
        StatusCode::TOO_MANY_REQUESTS,
        "empty is missing"
    );
    assert_eq!(statuses(address, "ada", 1).await, [200], "who has a key has a bucket");

    proxy.apply(&with(MissingKey::Skip)).unwrap();
    let skipped = get(address, "/").await;
    assert_eq!((skipped.status, field(&skipped, "ratelimit").len()), (StatusCode::OK, 0));

    proxy.apply(&with(MissingKey::Reject)).unwrap();
    let refused = get(address, "/").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.header("fusebox-policy"), "shop/api; limit=per-key; state=no-key");
    assert_eq!(refused.json()["type"], "https://fusebox.dev/problems/limit-key-missing");
    assert_eq!((refused.header("retry-after"), field(&refused, "ratelimit").len()), ("", 0), "waiting would not help");
}

#[tokio::test]
async fn an_api_key_is_found_in_headers_query_and_cookies() {
    let upstream = Upstream::start().await;
    let mut per_key = limit("per-key", 1);
    per_key.key = vec![KeyPart::ApiKey(ApiKey {
        headers: vec!["X-Api-Key".into()],
        query_parameters: vec!["api_key".into()],
        cookies: vec!["session".into()],
    })];
    per_key.on_missing_key = MissingKey::Reject;
    let (_proxy, address) = proxy(&limited(upstream.address, vec![per_key])).await;
    assert_eq!(send(address, "/?a=b&api_key=a%64a", &[]).await.status, StatusCode::OK);
    assert_eq!(send(address, "/", &[("x-api-key", "ada")]).await.status.as_u16(), 429, "the same key elsewhere");
    assert_eq!(send(address, "/", &[("cookie", "x=y; session=ada")]).await.status.as_u16(), 429);
    assert_eq!(send(address, "/?api_key=bob", &[]).await.status, StatusCode::OK);
    assert_eq!(send(address, "/", &[]).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_forged_forwarded_for_changes_nobodys_bucket() {
    let upstream = Upstream::start().await;
    let with = |hops| {
        let mut by_address = limit("by-address", 2);
        by_address.key = client_ip(hops);
        served(vec![by_address])
    };
    let (_proxy, address) = started(server(upstream.address), &with(0)).await;
    for (number, expected) in [200, 200, 429, 429].into_iter().enumerate() {
        let forged = format!("203.0.113.{number}");
        assert_eq!(send(address, "/", &[("x-forwarded-for", &forged)]).await.status.as_u16(), expected);
    }

    // The proxy before this one appends the peer that it saw; what is left of it is the client's own claim.
    let (_proxy, address) = started(server(upstream.address), &with(1)).await;
    for (number, expected) in [200, 200, 429, 429].into_iter().enumerate() {
        let forged = format!("203.0.113.{number}, 198.51.100.1");
        assert_eq!(send(address, "/", &[("x-forwarded-for", &forged)]).await.status.as_u16(), expected);
    }
    let two_lines = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "198.51.100.2")];
    assert_eq!(send(address, "/", &two_lines).await.status, StatusCode::OK, "another client, in the last line");
    assert_eq!(send(address, "/", &[("x-forwarded-for", "1.1.1.1, ::ffff:198.51.100.1")]).await.status.as_u16(), 429);
    for network in ["2001:db8::1", "2001:db8::ffff:1", "[2001:db8::2]:443"] {
        let expected = if network.starts_with('[') { 429 } else { 200 };
        assert_eq!(send(address, "/", &[("x-forwarded-for", network)]).await.status.as_u16(), expected, "{network}");
    }
}

#[tokio::test]
async fn keys_of_any_size_and_any_bytes_harm_nothing() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&limited(upstream.address, vec![limit("per-key", 1)])).await;
    let long = "x".repeat(9 << 10);
    assert_eq!(statuses(address, &long, 1).await, [200]);
    assert_eq!(statuses(address, &format!("{long}y"), 1).await, [429], "too long is missing, and they share");
    let huge = "x".repeat(1 << 20);
    let mut client = Client::connect(address).await;
    let request = Request::get("/").header("host", "a").header("x-api-key", &huge).body(Full::default()).unwrap();
    if let Ok(answer) = client.send(request).await {
        assert!(answer.status.is_client_error(), "{}", answer.status);
    }
    let bytes = http::HeaderValue::from_bytes(b"\t\"\\{}\xc3\xa4\xe2\x80\xa8%00").unwrap();
    let mut client = Client::connect(address).await;
    for expected in [200, 429] {
        let request = Request::get("/").header("host", "a").header("x-api-key", &bytes).body(Full::default()).unwrap();
        assert_eq!(client.send(request).await.unwrap().status.as_u16(), expected);
    }
    let state = serde_json::to_string(&proxy.state()).unwrap();
    assert!(!state.contains(&long[..100]) && !state.chars().any(char::is_control), "{state}");
}
