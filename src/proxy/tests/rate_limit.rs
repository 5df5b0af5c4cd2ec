//! What a limit refuses, what clients are told, and what a refusal must leave alone.

use std::time::Duration;

use bytes::Bytes;
use fusebox_policy::config::{
    Cost, Exceed, KeyPart, LimitHeaders, LimitRule, Mode, PathMatch, ProxyConfig, Rate, RequestMatch,
};
use fusebox_policy::report::BreakerState;
use http::{Request, StatusCode};
use http_body_util::Full;

use super::rate_limit_support::{SLOW, field, limit, limited, limits, rate, send, send_on, statuses};
use super::support::{Client, Upstream, get, policy, proxy, state};
use super::support_http2::{Http2Client, Http2Upstream};

fn on_path(path: &str) -> RequestMatch {
    RequestMatch { path: Some(PathMatch::PathPrefix(path.into())), ..RequestMatch::default() }
}

#[tokio::test]
async fn a_client_gets_its_burst_and_is_then_refused_with_all_that_it_needs_to_know() {
    let upstream = Upstream::start().await;
    let mut per_key = limit("per-key", 60);
    per_key.rules[0].rate = Rate { requests: 60, per_ms: 60_000, burst: 2 };
    let (_proxy, address) = proxy(&limited(upstream.address, vec![per_key])).await;

    let first = send(address, "/", &[("x-api-key", "ada")]).await;
    assert_eq!((first.status, &first.body[..]), (StatusCode::OK, &b"ok"[..]));
    assert_eq!(field(&first, "ratelimit-policy"), ["\"per-key\";q=60;w=60"]);
    assert_eq!(field(&first, "ratelimit"), ["\"per-key\";r=1;t=1"]);
    assert_eq!(first.header("retry-after"), "");
    assert_eq!(field(&send(address, "/", &[("x-api-key", "ada")]).await, "ratelimit"), ["\"per-key\";r=0;t=2"]);

    let refused = send(address, "/", &[("x-api-key", "ada")]).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(field(&refused, "ratelimit-policy"), ["\"per-key\";q=60;w=60"]);
    assert_eq!(field(&refused, "ratelimit"), ["\"per-key\";r=0;t=1"]);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert_eq!(refused.header("fusebox-error"), "rate-limited");
    assert_eq!(refused.header("fusebox-policy"), "shop/api; limit=per-key; state=limited");
    let problem = refused.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(problem["status"], 429);
    assert_eq!(problem["violated-policies"], serde_json::json!(["per-key"]));
    assert_eq!(
        (&problem["policy"], &problem["target"], &problem["limit"]),
        (&"shop/api".into(), &"shop/payments:80".into(), &"per-key".into())
    );
    assert_eq!(upstream.requests(), 2, "a refused request never reaches the upstream");
}

#[tokio::test]
async fn a_rule_has_buckets_and_a_rate_of_its_own() {
    let upstream = Upstream::start().await;
    let mut per_key = limit("per-key", 1);
    let exports = LimitRule { name: "exports".into(), matches: Some(on_path("/exports")), rate: rate(2, SLOW) };
    per_key.rules.insert(0, exports);
    let (_proxy, address) = proxy(&limited(upstream.address, vec![per_key])).await;
    let key = [("x-api-key", "ada")];
    for (path, expected) in [("/exports", 200), ("/", 200), ("/", 429), ("/exports/1", 200), ("/exports", 429)] {
        assert_eq!(send(address, path, &key).await.status.as_u16(), expected, "{path}");
    }
    assert_eq!(send(address, "/exports", &key).await.json()["rule"], "exports");
}

#[tokio::test]
async fn a_limit_concerns_only_what_its_condition_takes() {
    let upstream = Upstream::start().await;
    let mut writes = limit("writes", 1);
    writes.when = Some(RequestMatch { methods: vec!["POST".into()], ..RequestMatch::default() });
    let (_proxy, address) = proxy(&limited(upstream.address, vec![writes])).await;
    let mut client = Client::connect(address).await;
    let mut post = async || {
        let request = Request::post("/").header("host", "a").header("x-api-key", "ada");
        client.send(request.body(Full::default()).unwrap()).await.unwrap().status.as_u16()
    };
    assert_eq!([post().await, post().await], [200, 429]);
    let read = send(address, "/", &[("x-api-key", "ada")]).await;
    assert_eq!((read.status, field(&read, "ratelimit").len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn requests_weigh_what_their_cost_says() {
    let upstream = Upstream::start().await;
    let mut per_key = limit("per-key", 10);
    per_key.costs = vec![Cost { matches: on_path("/heavy"), cost: 4 }, Cost { matches: on_path("/free"), cost: 0 }];
    let (_proxy, address) = proxy(&limited(upstream.address, vec![per_key])).await;
    let key = [("x-api-key", "ada")];
    for (path, expected) in [("/heavy", 200), ("/heavy", 200), ("/heavy", 429), ("/", 200), ("/", 200), ("/", 429)] {
        assert_eq!(send(address, path, &key).await.status.as_u16(), expected, "{path}");
    }
    for _ in 0..3 {
        assert_eq!(send(address, "/free", &key).await.status, StatusCode::OK, "what costs nothing is not limited");
    }
}

#[tokio::test]
async fn a_request_that_one_limit_refuses_spends_from_none() {
    let upstream = Upstream::start().await;
    let mut all = limit("all", 3);
    all.key.clear();
    for limits in [vec![all.clone(), limit("per-key", 1)], vec![limit("per-key", 1), all]] {
        let (_proxy, address) = proxy(&limited(upstream.address, limits)).await;
        assert_eq!(statuses(address, "greedy", 10).await[..2], [200, 429]);
        assert_eq!(statuses(address, "ada", 1).await, [200]);
        assert_eq!(statuses(address, "bob", 1).await, [200], "the refused ones took nothing of what all share");
        assert_eq!(statuses(address, "eve", 1).await, [429]);
    }
}

#[tokio::test]
async fn every_limit_that_concerns_a_request_is_told() {
    let upstream = Upstream::start().await;
    let mut all = limit("all", 3);
    all.key.clear();
    let settings = limited(upstream.address, vec![limit("per-key", 1), all]);
    let (_proxy, address) = proxy(&settings).await;
    let answer = send(address, "/", &[("x-api-key", "ada")]).await;
    assert_eq!(field(&answer, "ratelimit"), ["\"per-key\";r=0;t=3600, \"all\";r=2;t=1200"]);
    assert_eq!(field(&answer, "ratelimit-policy"), ["\"per-key\";q=1;w=3600", "\"all\";q=3;w=3600"]);
}

#[tokio::test]
async fn headers_are_sent_as_asked() {
    let upstream = Upstream::start().await;
    let mut settings = limited(upstream.address, vec![limit("per-key", 1)]);
    limits(&mut settings).headers = LimitHeaders::Legacy;
    let (proxy, address) = proxy(&settings).await;
    let legacy = send(address, "/", &[("x-api-key", "ada")]).await;
    assert_eq!(legacy.header("x-ratelimit-limit"), "1");
    assert_eq!(legacy.header("x-ratelimit-remaining"), "0");
    assert_eq!(legacy.header("x-ratelimit-reset"), "3600");
    assert_eq!(field(&legacy, "ratelimit").len(), 0);

    limits(&mut settings).headers = LimitHeaders::None;
    proxy.apply(&settings).unwrap();
    let none = send(address, "/", &[("x-api-key", "ada")]).await;
    assert_eq!(none.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(none.headers.keys().all(|name| !name.as_str().contains("ratelimit")));
    assert_ne!(none.header("retry-after"), "", "a refusal always says when");
}

#[tokio::test]
async fn in_shadow_everything_passes_and_nobody_is_told() {
    let upstream = Upstream::start().await;
    let mut settings = limited(upstream.address, vec![limit("per-key", 1)]);
    limits(&mut settings).mode = Mode::Shadow;
    let (proxy, address) = proxy(&settings).await;
    for _ in 0..3 {
        let answer = send(address, "/", &[("x-api-key", "ada")]).await;
        assert_eq!((answer.status, field(&answer, "ratelimit").len()), (StatusCode::OK, 0));
    }
    assert_eq!(upstream.requests(), 3);
    let limit = &proxy.state().limits[0].report;
    assert_eq!((limit.mode, limit.allowed, limit.limited), (Mode::Shadow, 1, 2));
}

#[tokio::test]
async fn a_refusal_is_nothing_to_the_breaker() {
    let upstream = Upstream::start().await;
    let mut settings = limited(upstream.address, vec![limit("per-key", 1)]);
    policy(&mut settings).rules[0].failure_on.http_status[0].from = 400;
    let (proxy, address) = proxy(&settings).await;
    assert_eq!(statuses(address, "ada", 10).await[1..], [429; 9]);
    assert_eq!(state(&proxy), BreakerState::Closed);
    assert_eq!(proxy.state().breakers[0].window_requests, 1, "the one that passed");
    let page = String::from_utf8(get(proxy.listeners()[1].address, "/metrics").await.body.to_vec()).unwrap();
    let counted = "status_class=\"4xx\",error=\"rate-limited\"} 9";
    assert!(page.lines().any(|line| line.starts_with("fusebox_requests_total") && line.ends_with(counted)), "{page}");
}

#[tokio::test]
async fn a_refused_body_leaves_the_connection_usable() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&limited(upstream.address, vec![limit("per-key", 1)])).await;
    assert_eq!(statuses(address, "ada", 1).await, [200]);
    let mut client = Client::connect(address).await;
    for _ in 0..3 {
        let body = Full::from(Bytes::from(vec![b'x'; 100 << 10]));
        let request = Request::post("/echo").header("host", "a").header("x-api-key", "ada").body(body).unwrap();
        assert_eq!(client.send(request).await.unwrap().status, StatusCode::TOO_MANY_REQUESTS);
    }
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_client_that_went_too_far_is_refused_until_the_moment_it_is_told() {
    let upstream = Upstream::start().await;
    let mut per_key = limit("per-key", 1);
    // The bucket is full again long before the block ends.
    per_key.rules[0].rate = rate(1, 50);
    per_key.on_exceed = Exceed { block_for_ms: Some(60_000), delay: None };
    let (proxy, address) = proxy(&limited(upstream.address, vec![per_key])).await;
    while statuses(address, "ada", 1).await == [200] {}
    tokio::time::sleep(Duration::from_millis(60)).await;
    let refused = send(address, "/", &[("x-api-key", "ada")]).await;
    assert_eq!(refused.header("fusebox-policy"), "shop/api; limit=per-key; state=blocked");
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((55..=60).contains(&seconds), "{seconds}");
    assert_eq!(field(&refused, "ratelimit"), [format!("\"per-key\";r=0;t={seconds}")]);
    assert_eq!(statuses(address, "bob", 1).await, [200], "nobody else is blocked");
    let report = &proxy.state().limits[0].report;
    assert_eq!((report.blocked_clients, report.top_blocked.len()), (1, 1));
    let blocked = &report.top_blocked[0];
    assert_eq!(blocked.until_unix_ms - blocked.since_unix_ms, 60_000);
}

#[tokio::test]
async fn http2_and_grpc_callers_are_refused_in_their_own_words() {
    let upstream = Http2Upstream::start().await;
    let (_proxy, address) = proxy(&limited(upstream.address, vec![limit("per-key", 1)])).await;
    let client = Http2Client::connect(address).await;
    let key = [("x-api-key", "ada")];
    let passed = client.call("/stream/0", &key).await;
    assert_eq!((passed.grpc_status(), passed.header("ratelimit")), ("0", "\"per-key\";r=0;t=3600"));
    let refused = client.call("/stream/0", &key).await;
    assert_eq!((refused.status, refused.grpc_status()), (StatusCode::OK, "8"), "RESOURCE_EXHAUSTED");
    assert_eq!(refused.header("grpc-message"), "Limit per-key is reached; try again in 3600 s.");
    assert_eq!(refused.header("retry-after"), "3600");
    assert_eq!(refused.header("fusebox-policy"), "shop/api; limit=per-key; state=limited");
    assert_eq!(upstream.requests(), 1);
    let seen = client.get("/head").await;
    assert_eq!(seen.status, StatusCode::OK, "plain HTTP/2, without a key");
    assert_eq!(client.get("/head").await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_configuration_keeps_what_was_spent() {
    let upstream = Upstream::start().await;
    let with = |limits| limited(upstream.address, limits);
    let (proxy, address) = proxy(&with(vec![limit("per-key", 4)])).await;
    assert_eq!(statuses(address, "ada", 3).await, [200; 3]);
    let mut more = limit("per-key", 6);
    more.when = Some(RequestMatch::default());
    let mut settings = with(vec![limit("other", 100), more]);
    limits(&mut settings).max_tracked_keys = 7;
    proxy.apply(&settings).unwrap();
    assert_eq!(statuses(address, "ada", 2).await, [200, 429], "one was left, and a larger bucket adds nothing at once");
    let mut without = with(vec![limit("per-key", 1)]);
    without.outbound[0].rate_limit = None;
    proxy.apply(&without).unwrap();
    assert_eq!(statuses(address, "ada", 2).await, [200; 2]);
    proxy.apply(&with(vec![limit("per-key", 1)])).unwrap();
    assert_eq!(statuses(address, "ada", 2).await, [200, 429], "a limit that was gone begins anew");
}

#[tokio::test]
async fn a_limit_that_cannot_be_enforced_is_refused_with_the_field() {
    let upstream = Upstream::start().await;
    let (proxy, _address) = proxy(&limited(upstream.address, vec![limit("per-key", 1)])).await;
    let refused = |change: &dyn Fn(&mut ProxyConfig)| {
        let mut settings = limited(upstream.address, vec![limit("per-key", 1)]);
        change(&mut settings);
        proxy.apply(&settings).unwrap_err().field().to_owned()
    };
    let root = "outbound[0].rateLimit";
    let first = format!("{root}.limits[per-key]");
    assert_eq!(
        refused(&|settings| limits(settings).side = fusebox_policy::config::Side::Server),
        format!("{root}.side")
    );
    assert_eq!(refused(&|settings| limits(settings).limits[0].rules[0].name = "x".into()), format!("{first}.rules"));
    assert_eq!(
        refused(&|settings| limits(settings).limits[0].name = "a\"b".into()),
        format!("{root}.limits[a\"b].name")
    );
    assert_eq!(refused(&|settings| limits(settings).limits[0].rules[0].rate.per_ms = 0), format!("{first}.rate"));
    assert_eq!(refused(&|settings| limits(settings).max_tracked_keys = 0), format!("{root}.maxTrackedKeys"));
    let header = |settings: &mut ProxyConfig| limits(settings).limits[0].key = vec![KeyPart::Header("a b".into())];
    assert_eq!(refused(&header), format!("{first}.key[0].header"));
    let twice = |settings: &mut ProxyConfig| {
        let again = limits(settings).limits[0].clone();
        limits(settings).limits.push(again);
    };
    assert_eq!(refused(&twice), format!("{root}.limits[1].name"));
    let regex = |settings: &mut ProxyConfig| {
        let path = Some(PathMatch::RegularExpression("(".into()));
        limits(settings).limits[0].when = Some(RequestMatch { path, ..RequestMatch::default() });
    };
    assert_eq!(refused(&regex), format!("{first}.when.path.value"));
    assert_eq!(refused(&|settings| limits(settings).limits = vec![limit("a", 1); 17]), format!("{root}.limits"));
    assert_eq!(refused(&|settings| settings.outbound.push(settings.outbound[0].clone())), "outbound[1]");
}

#[tokio::test]
async fn a_persistent_connection_is_limited_request_by_request() {
    let upstream = Upstream::start().await;
    let (_proxy, address) = proxy(&limited(upstream.address, vec![limit("per-key", 2)])).await;
    let mut client = Client::connect(address).await;
    let mut seen = Vec::new();
    for key in ["ada", "bob", "ada", "bob", "ada", "bob"] {
        seen.push(send_on(&mut client, "/", &[("x-api-key", key)]).await.status.as_u16());
    }
    assert_eq!(seen, [200, 200, 200, 200, 429, 429]);
}
