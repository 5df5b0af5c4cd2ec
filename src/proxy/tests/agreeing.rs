//! The metric always equals the state: three pages and the reports, made from one reading.

use proptest::prelude::*;
use serde_json::Value;

use super::endpoints::{by_endpoint, three};
use super::support::{Upstream, config, get, policy, proxy};
use crate::Proxy;

/// The gauge of `name` whose labels hold `label`.
fn gauge(page: &str, name: &str, label: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Holds both pages of the admin port against each other. Nothing may happen meanwhile.
async fn agree(proxy: &Proxy) {
    let admin = proxy.listeners().last().unwrap().address;
    let page = String::from_utf8(get(admin, "/metrics").await.body.to_vec()).unwrap();
    let state = get(admin, "/state").await.json();
    let breaker = &state["breakers"][0];
    let word = match breaker["state"].as_str().unwrap() {
        "Closed" => "closed",
        "HalfOpen" => "half_open",
        _ => "open",
    };
    for each in ["closed", "half_open", "open"] {
        let shown = gauge(&page, "fusebox_circuit_breaker_state", &format!("state=\"{each}\"")).unwrap();
        assert_eq!(shown, f64::from(u8::from(each == word)), "{each} of {breaker}");
        if let Some(members) = breaker["endpoints"]["members"].as_array() {
            let count = gauge(&page, "fusebox_circuit_breaker_endpoints", &format!("state=\"{each}\"")).unwrap();
            let name = |member: &Value| member["state"].as_str().unwrap().to_lowercase() == each.replace('_', "");
            assert_eq!(count, members.iter().filter(|member| name(member)).count() as f64, "{each} of {breaker}");
        }
    }
    let number = |field: &str| breaker[field].as_f64().unwrap_or_default();
    assert_eq!(gauge(&page, "fusebox_circuit_breaker_rejected_total", "").unwrap(), number("rejected"));
    let probes = gauge(&page, "fusebox_circuit_breaker_half_open_probes_in_flight", "").unwrap();
    assert_eq!(probes, number("probesInFlight"));
    let trips = page.lines().filter(|line| line.contains("_transitions_total{") && line.contains("from=\"closed\""));
    let trips: f64 = trips.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum();
    assert_eq!(trips, number("trips"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]
    #[test]
    fn the_metric_always_equals_the_state(steps in proptest::collection::vec(0_u8..4, 1..24), endpoints: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let upstream = Upstream::start().await;
            let (proxy, upstreams) = if endpoints {
                three(&by_endpoint(&upstream, 100)).await
            } else {
                (proxy(&config(upstream.address)).await.0, vec![upstream])
            };
            let address = proxy.listeners()[0].address;
            for step in steps {
                match step {
                    0 => drop(get(address, "/").await),
                    1 => drop(get(address, "/status/503").await),
                    2 => upstreams[0].set_sick(true),
                    _ => upstreams[0].set_sick(false),
                }
                agree(&proxy).await;
            }
        });
    }
}

#[tokio::test]
async fn an_idle_half_open_breaker_is_said_to_be_idle() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).rules[0].breaker.open.base_duration_ms = 100;
    let (proxy, address) = proxy(&settings).await;
    super::support::trip(&proxy, address).await;
    super::support::eventually("half-open", || proxy.state().breakers[0].idle).await;
    agree(&proxy).await;
    let state = get(proxy.listeners()[1].address, "/state").await.json();
    assert_eq!((&state["breakers"][0]["state"], &state["breakers"][0]["idle"]), (&"HalfOpen".into(), &true.into()));
}
