//! Scope Endpoint: each pod behind a Service on its own.

use std::time::Duration;

use fusebox_policy::config::{EndpointScope, ForcedState, ProxyConfig, ServiceId};
use fusebox_policy::report::BreakerState;
use fusebox_policy::stream::{Down, ServiceEndpoints, Up};
use http::StatusCode;

use super::operator::{Connected, Stream, connected};
use super::support::{Upstream, config, eventually, force, get, options, policy};
use crate::{BreakerView, Proxy};

/// The policy of `config` with scope Endpoint.
pub(crate) fn by_endpoint(service: &Upstream, max_open_percent: u8) -> ProxyConfig {
    let mut settings = config(service.address);
    policy(&mut settings).endpoint_scope = Some(EndpointScope { max_open_percent });
    settings
}

/// A proxy that was told three endpoints on the command line, in the order of their addresses.
pub(crate) async fn three(settings: &ProxyConfig) -> (Proxy, Vec<Upstream>) {
    let mut upstreams = vec![Upstream::start().await, Upstream::start().await, Upstream::start().await];
    upstreams.sort_by_key(|upstream| upstream.address.to_string());
    let mut options = options();
    options.upstream =
        upstreams.iter().map(|upstream| format!("shop/payments={}", upstream.address).parse().unwrap()).collect();
    let proxy = Proxy::start(options).await.unwrap();
    proxy.apply(settings).unwrap();
    (proxy, upstreams)
}

/// The only rule, as `/state` shows it.
fn rule(proxy: &Proxy) -> BreakerView {
    proxy.state().breakers.remove(0)
}

pub(crate) fn states(proxy: &Proxy) -> Vec<BreakerState> {
    rule(proxy).endpoints.unwrap().members.iter().map(|member| member.breaker.report.state).collect()
}

/// Sends requests until `count` of them were answered with 503 by an upstream.
async fn fail(proxy: &Proxy, count: usize) {
    let mut failed = 0;
    while failed < count {
        let answer = get(proxy.listeners()[0].address, "/").await;
        assert_eq!(answer.header("fusebox-error"), "", "refused by the proxy");
        failed += usize::from(answer.status == StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn one_bad_endpoint_of_three_is_left_out_and_no_client_sees_it_again() {
    let nowhere = Upstream::start().await;
    let (proxy, upstreams) = three(&by_endpoint(&nowhere, 50)).await;
    let address = proxy.listeners()[0].address;
    upstreams[1].set_sick(true);
    fail(&proxy, 3).await;
    assert_eq!(states(&proxy), [BreakerState::Closed, BreakerState::Open, BreakerState::Closed]);
    assert_eq!(rule(&proxy).report.state, BreakerState::Closed, "the rule is as good as its best endpoint");

    let before: Vec<_> = upstreams.iter().map(|upstream: &Upstream| upstream.requests()).collect();
    for _ in 0..40 {
        assert_eq!(get(address, "/").await.status, StatusCode::OK);
    }
    let after: Vec<_> = upstreams.iter().zip(before).map(|(upstream, before)| upstream.requests() - before).collect();
    assert_eq!(after, [20, 0, 20], "what the bad one does not get is spread over all others");
    assert_eq!(nowhere.requests(), 0, "the Service's own address is not used while endpoints are known");
    assert_eq!(rule(&proxy).report.rejected, 0, "no client was refused");
    assert!(rule(&proxy).endpoints.unwrap().members[1].breaker.report.rejected > 0, "requests were kept away from it");
}

#[tokio::test]
async fn an_endpoint_that_is_well_again_comes_back_by_probes_and_no_client_sees_an_error() {
    let nowhere = Upstream::start().await;
    let mut settings = by_endpoint(&nowhere, 50);
    policy(&mut settings).rules[0].breaker.open.base_duration_ms = 100;
    let (proxy, upstreams) = three(&settings).await;
    upstreams[0].set_sick(true);
    fail(&proxy, 3).await;
    upstreams[0].set_sick(false);
    let seen = upstreams[0].requests();
    while states(&proxy)[0] != BreakerState::Closed {
        assert_eq!(get(proxy.listeners()[0].address, "/").await.status, StatusCode::OK);
    }
    assert_eq!(upstreams[0].requests() - seen, 2, "as many probes as it takes to close");
}

#[tokio::test]
async fn no_more_endpoints_are_left_out_than_the_policy_allows() {
    let nowhere = Upstream::start().await;
    let (proxy, upstreams) = three(&by_endpoint(&nowhere, 50)).await;
    let address = proxy.listeners()[0].address;
    for upstream in &upstreams {
        upstream.set_sick(true);
    }
    fail(&proxy, 9).await;
    assert_eq!(states(&proxy), [BreakerState::Open; 3]);
    assert_eq!(rule(&proxy).report.state, BreakerState::Open);
    let members = rule(&proxy).endpoints.unwrap().members;
    assert_eq!(members.iter().filter(|member| member.in_spite).count(), 2, "one of three may be left out");
    let called =
        |upstreams: &[Upstream]| upstreams.iter().map(|upstream: &Upstream| upstream.requests()).sum::<usize>();
    let before = called(&upstreams);
    fail(&proxy, 8).await;
    assert_eq!(called(&upstreams) - before, 8, "calls go to open ones too");

    proxy.apply(&by_endpoint(&nowhere, 100)).unwrap();
    let refused = get(address, "/").await;
    assert_eq!(refused.header("fusebox-policy"), "shop/pay; state=open", "all of them may be left out");
    assert_eq!(rule(&proxy).report.rejected, 1);
}

#[tokio::test]
async fn a_forced_state_holds_for_every_endpoint() {
    let nowhere = Upstream::start().await;
    let mut settings = by_endpoint(&nowhere, 50);
    policy(&mut settings).force = force(ForcedState::ForcedOpen, Duration::from_secs(60));
    let (proxy, upstreams) = three(&settings).await;
    let refused = get(proxy.listeners()[0].address, "/").await;
    assert_eq!(refused.header("fusebox-policy"), "shop/pay; state=forced-open", "not called in spite of it");
    assert_eq!(upstreams.iter().map(|upstream: &Upstream| upstream.requests()).sum::<usize>(), 0);
    assert_eq!(rule(&proxy).report.forced, Some(ForcedState::ForcedOpen));
}

#[tokio::test]
async fn a_share_that_is_none_is_refused_with_its_field() {
    let nowhere = Upstream::start().await;
    let (proxy, _upstreams) = three(&by_endpoint(&nowhere, 50)).await;
    for percent in [0, 101] {
        let error = proxy.apply(&by_endpoint(&nowhere, percent)).unwrap_err();
        assert_eq!(error.field(), "outbound[0].circuitBreaker.endpointScope.maxOpenPercent");
    }
}

#[tokio::test]
async fn endpoints_have_gauges_but_no_series_of_their_own() {
    let nowhere = Upstream::start().await;
    let (proxy, upstreams) = three(&by_endpoint(&nowhere, 50)).await;
    upstreams[2].set_sick(true);
    fail(&proxy, 3).await;
    let page = String::from_utf8(get(proxy.listeners()[1].address, "/metrics").await.body.to_vec()).unwrap();
    let labels = r#"policy_namespace="shop",policy="pay",target_namespace="shop",target="payments",side="client",port="80",rule="""#;
    for (state, count) in [("closed", "2.0"), ("half_open", "0.0"), ("open", "1.0")] {
        let line = format!("fusebox_circuit_breaker_endpoints{{{labels},state=\"{state}\"}} {count}");
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    let line = format!("fusebox_circuit_breaker_state{{{labels},state=\"closed\"}} 1.0");
    assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    assert!(upstreams.iter().all(|upstream| !page.contains(&upstream.address.to_string())));
}

fn told(upstreams: &[&Upstream]) -> Down {
    let addresses = upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
    let service = ServiceId { namespace: "shop".into(), name: "payments".into() };
    Down::Endpoints { services: vec![ServiceEndpoints { service, port: 80, addresses }] }
}

/// A stream that has put `settings` in force.
async fn configured(stream: &mut Stream, settings: &ProxyConfig) {
    stream.configure(settings).await;
    while !matches!(stream.next().await, Up::Ack { .. }) {}
}

/// Waits until so many endpoints are known.
async fn knows(proxy: &Proxy, count: usize) {
    eventually("endpoints are known", || rule(proxy).endpoints.unwrap().members.len() == count).await;
}

#[tokio::test]
async fn endpoints_come_over_the_stream_keep_their_state_over_every_change_and_are_reported() {
    let Connected { upstream: service, operator: _operator, proxy, mut stream, directory: _directory } =
        connected().await;
    let (good, bad, third) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let mut settings = by_endpoint(&service, 50);
    configured(&mut stream, &settings).await;
    get(proxy.listeners()[0].address, "/").await;
    assert_eq!(service.requests(), 1, "without endpoints the Service's own address is used");

    stream.send(&told(&[&good, &bad])).await;
    knows(&proxy, 2).await;
    bad.set_sick(true);
    fail(&proxy, 3).await;
    assert_eq!(service.requests(), 1);
    let open = loop {
        let report = stream.report().await;
        let open = report.breakers.into_iter().find(|breaker| breaker.state == BreakerState::Open);
        if let Some(open) = open {
            break open;
        }
    };
    assert_eq!((open.key.endpoint, open.trips), (bad.address.to_string(), 1));

    stream.send(&told(&[&good, &bad, &third])).await;
    knows(&proxy, 3).await;
    policy(&mut settings).rules[0].timeout_ms = Some(5_000);
    configured(&mut stream, &settings).await;
    let still = states(&proxy).into_iter().filter(|state| *state == BreakerState::Open).count();
    assert_eq!(still, 1, "the breaker is kept by its key");

    stream.send(&told(&[&good, &third])).await;
    knows(&proxy, 2).await;
    loop {
        let report = stream.report().await;
        if report.full && report.breakers.iter().all(|breaker| breaker.key.endpoint != bad.address.to_string()) {
            break;
        }
    }
    stream.send(&told(&[&good, &bad])).await;
    eventually("it is back", || states(&proxy) == [BreakerState::Closed; 2]).await;
}

#[tokio::test]
async fn stale_endpoints_fall_back_to_the_services_address_and_come_back_with_the_operator() {
    let Connected { upstream: service, mut operator, proxy: first, stream, directory } = connected().await;
    drop((first, stream));
    let mut options = operator.options(directory.path());
    options.endpoints_max_age = Duration::from_millis(100);
    let proxy = Proxy::start(options).await.unwrap();
    let address = proxy.listeners()[0].address;
    let mut stream = operator.stream().await;
    let (good, bad) = (Upstream::start().await, Upstream::start().await);
    configured(&mut stream, &by_endpoint(&service, 50)).await;
    stream.send(&told(&[&good, &bad])).await;
    knows(&proxy, 2).await;
    bad.set_sick(true);
    fail(&proxy, 3).await;

    *operator.token.lock() = "other".to_owned();
    operator.cut();
    drop(stream);
    eventually("what was said is stale", || rule(&proxy).endpoints.unwrap().known == "Stale").await;
    assert_eq!(rule(&proxy).report.state, BreakerState::Closed, "now the rule's own breaker decides");
    let before = good.requests();
    for _ in 0..3 {
        assert_eq!(get(address, "/status/500").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(get(address, "/").await.header("fusebox-policy"), "shop/pay; state=open");
    assert_eq!((service.requests(), good.requests()), (3, before));

    *operator.token.lock() = "first".to_owned();
    let mut stream = operator.stream().await;
    stream.send(&told(&[&good, &bad])).await;
    eventually("they are fresh again", || rule(&proxy).endpoints.unwrap().known == "Fresh").await;
    assert!(states(&proxy).contains(&BreakerState::Open), "endpoints that stay keep their breakers");
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
}

#[test]
fn endpoints_over_the_bound_of_one_proxy_go_by_the_services_address() {
    use crate::endpoints::{Known, MAX_ENDPOINT_BREAKERS};
    let (each, rules) = (1_000, MAX_ENDPOINT_BREAKERS / 1_000 + 1);
    let mut settings = config("127.0.0.1:1".parse().unwrap());
    policy(&mut settings).endpoint_scope = Some(EndpointScope { max_open_percent: 50 });
    let template = settings.outbound.remove(0);
    let mut services = Vec::new();
    for number in 0..rules {
        let mut route = template.clone();
        route.service.name = format!("service-{number:02}");
        route.circuit_breaker.as_mut().unwrap().target.name = route.service.name.clone();
        let addresses = (0..each).map(|port| format!("10.0.0.{number}:{}", port + 1)).collect();
        services.push(ServiceEndpoints { service: route.service.clone(), port: 80, addresses });
        settings.outbound.push(route);
    }
    let enforcer = crate::enforcer::Enforcer::new(crate::snapshot::Topology::default()).unwrap();
    enforcer.endpoints(services, std::time::Instant::now());
    enforcer.apply(&settings, "1").unwrap();
    let snapshot = enforcer.snapshot();
    let groups = snapshot.breakers.values().map(|installed| &installed.endpoints.as_ref().unwrap().0);
    let known: Vec<_> = groups.map(|group| (group.members().known, group.members().all.len())).collect();
    assert_eq!(known[..rules - 1], vec![(Known::Fresh, each); rules - 1]);
    assert_eq!(known[rules - 1], (Known::TooMany, 0));
}
