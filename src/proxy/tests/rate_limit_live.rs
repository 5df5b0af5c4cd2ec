//! What comes down the control stream while requests flow (quotas, keys of tokens, commands), and what goes up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fusebox_policy::config::{
    Exceed, JwtClaim, KeyPart, Limit, MissingKey, PolicyId, Quotas, Rate, ReferenceKind, RequestMatch, ShowKeys,
    UnknownKey,
};
use fusebox_policy::rate_limit::digest;
use fusebox_policy::report::{LimitReport, RecentDecisions};
use fusebox_policy::stream::{Answer, Command, Down, Search, Up};
use http::StatusCode;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::operator::{Connected, Stream, connected};
use super::rate_limit_support::{limit, limited, limits, reference, send, statuses, value};
use super::support::{Upstream, eventually, get, proxy};

fn sha256(key: &str) -> String {
    digest(&[key.as_bytes()]).hex()
}

fn quota_file(entries: &[(&str, u32)]) -> String {
    let line = |(key, requests): &(&str, u32)| format!("  {}: {{requests: {requests}, per: 1h}}\n", sha256(key));
    format!("quotas:\n{}", entries.iter().map(line).collect::<String>())
}

/// One request an hour, but for those whose quota stands in ConfigMap `quotas`.
fn with_quotas(on_unknown_key: UnknownKey) -> Limit {
    let mut per_key = limit("per-key", 1);
    let source = reference(ReferenceKind::ConfigMap, "quotas");
    per_key.quotas = Some(Quotas { source, on_unknown_key });
    per_key
}

#[tokio::test]
async fn a_key_has_the_quota_that_the_file_names_and_a_change_counts_at_once() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&limited(upstream.address, vec![with_quotas(UnknownKey::Default)])).await;
    assert_eq!(statuses(address, "early", 2).await, [200, 429], "before the file is known all have the limit's rate");
    let source = reference(ReferenceKind::ConfigMap, "quotas");
    proxy.tell_references(vec![value(&source, &quota_file(&[("ada", 3)]))]);
    let first = send(address, "/", &[("x-api-key", "ada")]).await;
    assert_eq!(first.header("ratelimit-policy"), "\"per-key\";q=3;w=3600");
    assert_eq!(statuses(address, "ada", 3).await, [200, 200, 429]);
    assert_eq!(statuses(address, "bob", 2).await, [200, 429], "who is not named has the limit's rate");

    proxy.tell_references(vec![value(&source, &quota_file(&[("ada", 100), ("bob", 5)]))]);
    assert_eq!(statuses(address, "ada", 1).await, [429], "a higher quota is no fresh one");
    assert_eq!(statuses(address, "bob", 1).await, [429]);

    proxy.tell_references(vec![value(&source, "quotas: [broken")]);
    let broken = proxy.state().broken_references;
    assert_eq!((broken.len(), &broken[0].reference), (1, &source));
    let told = send(address, "/", &[("x-api-key", "ada")]).await;
    assert_eq!(told.header("ratelimit-policy"), "\"per-key\";q=100;w=3600", "the last good one stays in use");
    proxy.tell_references(vec![value(&source, &quota_file(&[("ada", 2)]))]);
    assert!(proxy.state().broken_references.is_empty());
}

#[tokio::test]
async fn a_key_without_a_quota_shares_or_is_refused_as_asked() {
    let upstream = Upstream::start().await;
    let mut settings = limited(upstream.address, vec![with_quotas(UnknownKey::SharedBucket)]);
    let (proxy, address) = proxy(&settings).await;
    proxy.tell_references(vec![value(&reference(ReferenceKind::ConfigMap, "quotas"), &quota_file(&[("ada", 3)]))]);
    assert_eq!(statuses(address, "eve", 1).await, [200]);
    assert_eq!(statuses(address, "mallory", 1).await, [429], "the bucket of all that are unknown");
    assert_eq!(statuses(address, "ada", 1).await, [200]);
    limits(&mut settings).limits = vec![with_quotas(UnknownKey::Reject)];
    proxy.apply(&settings).unwrap();
    let refused = send(address, "/", &[("x-api-key", "eve")]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.header("fusebox-policy"), "shop/api; limit=per-key; state=unknown-key");
    assert_eq!(refused.json()["type"], "https://fusebox.dev/problems/limit-key-unknown");
}

#[tokio::test]
async fn tokens_that_do_not_hold_share_the_bucket_of_those_without_one() {
    let upstream = Upstream::start().await;
    let keys = reference(ReferenceKind::Secret, "login");
    let claim = JwtClaim {
        claim: "sub".into(),
        header: "authorization".into(),
        issuer: None,
        audiences: Vec::new(),
        keys: keys.clone(),
    };
    let mut per_user = limit("per-user", 1);
    per_user.key = vec![KeyPart::JwtClaim(claim)];
    let mut settings = limited(upstream.address, vec![per_user]);
    let (proxy, address) = proxy(&settings).await;
    let secret = [7; 32];
    let set = json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret)}]});
    let sign = |secret: &[u8], exp: i64| {
        let claims = json!({"sub": "ada", "exp": exp});
        let token =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret)).unwrap();
        format!("Bearer {token}")
    };
    let good = sign(&secret, 4_000_000_000);
    let status = async |token: &str| send(address, "/", &[("authorization", token)]).await.status.as_u16();

    assert_eq!(status(&good).await, 200, "before the keys are known every token is missing");
    let none =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"), URL_SAFE_NO_PAD.encode("{\"sub\":\"ada\"}"));
    proxy.tell_references(vec![value(&keys, &set.to_string())]);
    for token in [none.as_str(), &sign(&[8; 32], 4_000_000_000), &sign(&secret, 1), "garbage", &good[..good.len() - 5]]
    {
        assert_eq!(status(token).await, 429, "{token}");
    }
    assert_eq!([status(&good).await, status(&good).await], [200, 429], "one that holds has a bucket of its own");

    limits(&mut settings).limits[0].on_missing_key = MissingKey::Reject;
    proxy.apply(&settings).unwrap();
    let refused = send(address, "/", &[("authorization", &none)]).await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (StatusCode::UNAUTHORIZED, "Bearer"));
    assert_eq!(status(&good).await, 429, "and the keys are still known");
}

async fn report_of(stream: &mut Stream, wanted: impl Fn(&LimitReport) -> bool) -> LimitReport {
    loop {
        if let Some(found) = stream.report().await.limits.into_iter().find(&wanted) {
            return found;
        }
    }
}

async fn answer(stream: &mut Stream, command: Command) -> Answer {
    stream.send(&Down::Command { id: 7, command }).await;
    loop {
        if let Up::Answer { id, answer } = stream.next().await {
            assert_eq!(id, 7);
            return answer;
        }
    }
}

fn blocking() -> Limit {
    let mut per_key = limit("per-key", 1);
    per_key.on_exceed = Exceed { block_for_ms: Some(60_000), delay: None };
    per_key
}

#[tokio::test]
async fn a_block_is_told_at_once_shown_on_request_and_ended_by_a_person() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    let address = proxy.listeners()[0].address;
    let settings = limited(upstream.address, vec![blocking()]);
    stream.configure(&settings).await;
    eventually("the configuration is in force", || proxy.state().revision.is_some()).await;
    assert_eq!(statuses(address, "ada", 4).await, [200, 429, 429, 429]);
    let started = Instant::now();
    let report = report_of(&mut stream, |limit| limit.blocked_clients == 1).await;
    assert!(started.elapsed() < Duration::from_secs(2), "a block is told at once");
    assert_eq!((report.allowed, report.key.limit.as_str(), report.top_blocked.len()), (1, "per-key", 1));
    assert_eq!(report.top_blocked[0].key, sha256("ada")[..16], "hashed, as the policy says");
    let recent = RecentDecisions { allowed: report.allowed, limited: report.limited };
    assert_eq!(report.recent, Some(recent), "all of it was a moment ago");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let since_last = i64::try_from(now).unwrap() - report.last_limited_unix_ms.unwrap();
    assert!((-1_000..10_000).contains(&since_last), "{since_last} ms");

    let policy = PolicyId { namespace: "shop".into(), name: "api".into() };
    let Answer::TopKeys { keys } = answer(&mut stream, Command::TopKeys { policy: policy.clone(), most: 10 }).await
    else {
        panic!("no keys")
    };
    assert_eq!((keys.len(), keys[0].refused, keys[0].digest.as_str()), (1, 3, &sha256("ada")[..16]));
    assert!(keys[0].blocked_until_unix_ms.is_some());

    let unblock = |key: &str| {
        let (policy, key_digest) = (policy.clone(), sha256(key)[..16].to_owned());
        Command::Unblock { policy, key_digest, search: Search::Watched }
    };
    assert_eq!(answer(&mut stream, unblock("nobody")).await, Answer::Unblocked { buckets: 0, searched: None });
    assert_eq!(answer(&mut stream, unblock("ada")).await, Answer::Unblocked { buckets: 1, searched: None });
    assert_eq!(statuses(address, "ada", 1).await, [200], "with a full bucket");
    report_of(&mut stream, |limit| limit.blocked_clients == 0).await;
}

#[tokio::test]
async fn a_command_that_makes_no_sense_is_answered_with_what_is_wrong() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    stream.configure(&limited(upstream.address, vec![limit("per-key", 1)])).await;
    eventually("the configuration is in force", || proxy.state().revision.is_some()).await;
    let policy = PolicyId { namespace: "shop".into(), name: "api".into() };
    let other = PolicyId { name: "other".into(), ..policy.clone() };
    for command in [
        Command::Unknown,
        Command::TopKeys { policy: other, most: 1 },
        Command::Unblock { policy: policy.clone(), key_digest: "short".into(), search: Search::Watched },
        Command::Unblock { policy, key_digest: "zz".repeat(16), search: Search::Watched },
    ] {
        let said = answer(&mut stream, command.clone()).await;
        assert!(matches!(said, Answer::Failed { ref problem } if !problem.is_empty()), "{command:?}: {said:?}");
    }
}

#[tokio::test]
async fn values_come_over_the_stream_and_broken_ones_are_reported() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    let source = reference(ReferenceKind::ConfigMap, "quotas");
    let values = |text: &str| Down::References { values: vec![value(&source, text)] };
    stream.send(&values(&quota_file(&[("ada", 3)]))).await;
    stream.configure(&limited(upstream.address, vec![with_quotas(UnknownKey::Default)])).await;
    eventually("the configuration is in force", || proxy.state().revision.is_some()).await;
    assert_eq!(statuses(proxy.listeners()[0].address, "ada", 4).await, [200, 200, 200, 429]);
    stream.send(&values("broken: yes")).await;
    while !stream.report().await.broken_references.iter().any(|broken| broken.reference == source) {}
    stream.send(&values(&quota_file(&[]))).await;
    while !stream.report().await.broken_references.is_empty() {}
}

#[tokio::test]
async fn keys_are_shown_redacted_where_the_policy_says_so() {
    let upstream = Upstream::start().await;
    let mut settings = limited(upstream.address, vec![blocking()]);
    limits(&mut settings).show_keys = ShowKeys::Redacted;
    let (proxy, address) = proxy(&settings).await;
    statuses(address, "sk_live_1234567890", 2).await;
    assert_eq!(proxy.state().limits[0].report.top_blocked[0].key, "sk***90");
}

#[tokio::test]
async fn metrics_name_limits_and_never_keys() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&limited(upstream.address, vec![blocking()])).await;
    statuses(address, "ada", 3).await;
    statuses(address, "bob", 1).await;
    let page = get(proxy.listeners()[1].address, "/metrics").await;
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    let labels = r#"policy_namespace="shop",policy="api",target_namespace="shop",target="payments",side="client",port="80",limit="per-key",rule="""#;
    for line in [
        format!("fusebox_rate_limit_decisions_total{{{labels},decision=\"allowed\",source=\"proxy\"}} 2"),
        format!("fusebox_rate_limit_decisions_total{{{labels},decision=\"blocked\",source=\"proxy\"}} 2"),
        format!("fusebox_rate_limit_decisions_total{{{labels},decision=\"limited\",source=\"proxy\"}} 0"),
        format!("fusebox_rate_limit_blocked_clients{{{labels}}} 1.0"),
        format!("fusebox_rate_limit_tracked_keys{{{labels}}} 2.0"),
        format!("fusebox_rate_limit_remaining_ratio{{{labels}}} 0.0"),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("ada") && !page.contains(&sha256("ada")[..16]));
}

#[tokio::test]
async fn buckets_outlive_configurations_that_come_while_requests_flow() {
    const BURST: u32 = 200;
    let upstream = Upstream::start().await;
    let settings = |number: usize| {
        let mut per_key = limit("per-key", BURST);
        // Something else changes each time, and nothing of the rate.
        per_key.when =
            Some(RequestMatch { methods: vec!["GET".into(), format!("M{number}")], ..RequestMatch::default() });
        per_key.rules[0].rate = Rate { requests: BURST, per_ms: 3_600_000, burst: BURST };
        limited(upstream.address, vec![per_key])
    };
    let (proxy, address) = proxy(&settings(0)).await;
    let (stop, passed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, passed) = (Arc::clone(&stop), Arc::clone(&passed));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let allowed =
                        statuses(address, "ada", 10).await.into_iter().filter(|status| *status == 200).count();
                    passed.fetch_add(allowed, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut number = 0;
    let enough = |number: usize| number >= 50 && proxy.state().limits[0].report.limited > 50;
    while !enough(number) {
        number += 1;
        proxy.apply(&settings(number)).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(passed.load(Ordering::Relaxed), BURST as usize);
    assert_eq!(upstream.requests(), BURST as usize);
}
