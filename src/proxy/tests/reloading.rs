//! A hundred configurations a second while requests flow: none fails, and no breaker forgets anything.
//!
//! Three seconds of it by default; `FUSEBOX_RELOAD_SECONDS=60` makes it the long run of `make reloads`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fusebox_policy::config::{
    BreakerParameters, OutboundRoute, PathMatch, ProxyConfig, RequestMatch, ServiceId, StatusRange,
};
use fusebox_policy::report::{BreakerReport, BreakerState};
use http::StatusCode;
use tokio::task::JoinSet;

use super::support::{Client, Upstream, config, get, policy, proxy, rule};
use crate::Proxy;

const A_SECOND: u32 = 100;
const CLIENTS: usize = 4;
const OTHER_ROUTES: u16 = 10;

/// How many configurations are applied.
fn reloads() -> u32 {
    let seconds = std::env::var("FUSEBOX_RELOAD_SECONDS").map_or(3, |text| text.parse().expect("a number of seconds"));
    seconds * A_SECOND
}

/// Three rules by path and ten more routes, and open times that no run outlasts.
fn settings(upstream: &Upstream) -> ProxyConfig {
    let mut settings = config(upstream.address);
    policy(&mut settings).rules[0].breaker = outlasting();
    for path in ["/status/500", "/status/502"] {
        let mut by_path = rule(path.trim_start_matches("/status/"));
        by_path.breaker = outlasting();
        by_path.matches = Some(RequestMatch { path: Some(PathMatch::Exact(path.into())), ..RequestMatch::default() });
        policy(&mut settings).rules.insert(0, by_path);
    }
    for number in 0..OTHER_ROUTES {
        let mut route: OutboundRoute = settings.outbound[0].clone();
        route.service = ServiceId { namespace: "shop".into(), name: format!("other-{number}") };
        route.circuit_breaker.as_mut().unwrap().target.name = route.service.name.clone();
        settings.outbound.push(route);
    }
    settings
}

fn outlasting() -> BreakerParameters {
    let mut parameters = rule("").breaker;
    parameters.open.base_duration_ms = 3_600_000;
    parameters.open.max_duration_ms = 3_600_000;
    parameters
}

/// The same with everything changed that does not make breakers anew.
fn changed(settings: &mut ProxyConfig, number: u32) {
    for route in &mut settings.outbound {
        for rule in &mut route.circuit_breaker.as_mut().unwrap().rules {
            rule.timeout_ms = Some(30_000 + u64::from(number));
            rule.failure_on.http_status = vec![StatusRange { from: 500, to: 510 + (number % 50) as u16 }];
        }
    }
}

/// What is known of the rules by path, but for the share in a window that time alone moves on.
fn reports(proxy: &Proxy) -> Vec<BreakerReport> {
    let breakers = proxy.state().breakers.into_iter().map(|breaker| breaker.report);
    breakers
        .filter(|report| report.key.target.name == "payments" && !report.key.rule.is_empty())
        .map(|report| BreakerReport { failure_percent: None, ..report })
        .collect()
}

/// Asks until it is stopped; every answer must be good.
async fn ask(address: std::net::SocketAddr, stop: Arc<AtomicBool>, served: Arc<AtomicUsize>) {
    let mut client = Client::connect(address).await;
    while !stop.load(Ordering::SeqCst) {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
        served.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_a_second_under_load_fail_no_request_and_leave_every_breaker_as_it_was() {
    let upstream = Upstream::start().await;
    let mut settings = settings(&upstream);
    let (proxy, address) = proxy(&settings).await;
    for _ in 0..3 {
        get(address, "/status/500").await;
    }
    for _ in 0..2 {
        get(address, "/status/502").await;
    }
    let before = reports(&proxy);
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(ask(address, Arc::clone(&stop), Arc::clone(&served)));
    }
    let (started, mut longest) = (Instant::now(), Duration::ZERO);
    let mut interval = tokio::time::interval(Duration::from_secs(1) / A_SECOND);
    for number in 0..reloads() {
        interval.tick().await;
        changed(&mut settings, number);
        let begun = Instant::now();
        let applied = proxy.apply(&settings).unwrap();
        longest = longest.max(begun.elapsed());
        assert_eq!((applied.fresh, applied.removed), (0, 0));
    }
    let elapsed = started.elapsed();
    stop.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.expect("no request failed");
    }
    let served = served.load(Ordering::SeqCst);
    println!("{} reloads in {elapsed:?}, {served} requests, longest reload {longest:?}", reloads());
    assert!(served > 0);
    assert_eq!(reports(&proxy), before);
    assert!(before.iter().any(|report| report.state == BreakerState::Open));
    get(address, "/status/502").await;
    let third = reports(&proxy).into_iter().find(|report| report.key.rule == "502").unwrap();
    assert_eq!(third.state, BreakerState::Open, "the two failures before the reloads still count");
}
