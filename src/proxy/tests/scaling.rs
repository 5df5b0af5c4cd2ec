//! From one breaker to ten thousand in one proxy.

use std::time::{Duration, Instant};

use fusebox_policy::config::{CircuitBreaker, OutboundRoute, ProxyConfig, ServiceId};
use fusebox_policy::report::BreakerState;
use http::{Request, StatusCode};
use http_body_util::Full;

use super::support::{Client, Upstream, config, get, options};
use crate::Proxy;

const MANY: usize = 10_000;

/// So many Services with a policy each, all at one upstream.
fn many(upstream: &Upstream, count: usize) -> ProxyConfig {
    let template = config(upstream.address);
    let route = |number: usize| {
        let mut route: OutboundRoute = template.outbound[0].clone();
        route.service = ServiceId { namespace: "shop".into(), name: format!("service-{number}") };
        let policy: &mut CircuitBreaker = route.circuit_breaker.as_mut().unwrap();
        policy.policy.name = format!("policy-{number}");
        policy.target.name = route.service.name.clone();
        route
    };
    ProxyConfig { outbound: (0..count).map(route).collect(), ..template }
}

/// A proxy whose only listener goes by the Host header.
async fn by_host(settings: &ProxyConfig) -> Proxy {
    let mut options = options();
    options.outbound = vec!["127.0.0.1:0".parse().unwrap()];
    let proxy = Proxy::start(options).await.unwrap();
    proxy.apply(settings).unwrap();
    proxy
}

async fn ask(client: &mut Client, number: usize, path: &str) -> StatusCode {
    let host = format!("service-{number}.shop");
    client.send(Request::get(path).header("host", host).body(Full::default()).unwrap()).await.unwrap().status
}

/// The time of one request, over many.
async fn pace(proxy: &Proxy, number: usize) -> Duration {
    const REQUESTS: u32 = 500;
    let mut client = Client::connect(proxy.listeners()[0].address).await;
    let started = Instant::now();
    for _ in 0..REQUESTS {
        assert_eq!(ask(&mut client, number, "/").await, StatusCode::OK);
    }
    started.elapsed() / REQUESTS
}

#[tokio::test]
async fn ten_thousand_breakers_are_in_force_at_once_and_the_pages_stay_bounded() {
    let upstream = Upstream::start().await;
    let settings = many(&upstream, MANY);
    let started = Instant::now();
    let proxy = by_host(&settings).await;
    let built = started.elapsed();
    let admin = proxy.listeners()[1].address;
    let mut client = Client::connect(proxy.listeners()[0].address).await;
    for _ in 0..3 {
        ask(&mut client, MANY - 1, "/status/503").await;
    }
    assert_eq!(ask(&mut client, MANY - 1, "/").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(&mut client, 0, "/").await, StatusCode::OK);

    let started = Instant::now();
    let applied = proxy.apply(&settings).unwrap();
    let rebuilt = started.elapsed();
    assert_eq!((applied.kept, applied.fresh), (MANY, 0));
    println!("{MANY} rules: built in {built:?}, again in {rebuilt:?}");

    let state = get(admin, "/state").await.json();
    let breakers = state["breakers"].as_array().unwrap();
    assert_eq!(breakers.len(), MANY);
    assert_eq!(breakers.iter().filter(|breaker| breaker["state"] == "Open").count(), 1);
    let page = String::from_utf8(get(admin, "/metrics").await.body.to_vec()).unwrap();
    let rules = page.lines().filter(|line| line.starts_with("fusebox_circuit_breaker_state_code{")).count();
    assert_eq!(rules, 1_000);
    assert!(page.contains(r#"target="service-9999",side="client",port="80",rule=""} 2.0"#), "used ones come first");
    assert!(page.contains("fusebox_proxy_metric_series_dropped_total 9000"));
    println!("/metrics has {} bytes", page.len());
}

#[tokio::test]
async fn a_request_finds_its_breaker_among_ten_thousand() {
    let upstream = Upstream::start().await;
    let (few, lots) = (by_host(&many(&upstream, 2)).await, by_host(&many(&upstream, MANY)).await);
    let (alone, among) = (pace(&few, 1).await, pace(&lots, MANY / 2).await);
    println!("a request takes {alone:?} with 2 breakers and {among:?} with {MANY}");
    let open =
        |proxy: &Proxy| proxy.state().breakers.iter().filter(|one| one.report.state == BreakerState::Open).count();
    assert_eq!((open(&few), open(&lots)), (0, 0));
}
