//! The admin port: what it says is what is.

use http::StatusCode;

use super::support::{Upstream, config, get, proxy, trip};

#[tokio::test]
async fn metrics_show_exactly_one_state_and_count_every_request() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let admin = proxy.listeners()[1].address;
    trip(&proxy, address).await;
    get(address, "/").await;
    let answer = get(admin, "/metrics").await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    let page = String::from_utf8(answer.body.to_vec()).unwrap();
    let labels = r#"policy_namespace="shop",policy="pay",target_namespace="shop",target="payments",side="client",port="80",rule="""#;
    for line in [
        format!("fusebox_circuit_breaker_state{{{labels},state=\"closed\"}} 0.0"),
        format!("fusebox_circuit_breaker_state{{{labels},state=\"half_open\"}} 0.0"),
        format!("fusebox_circuit_breaker_state{{{labels},state=\"open\"}} 1.0"),
        format!("fusebox_circuit_breaker_state_code{{{labels}}} 2.0"),
        format!("fusebox_circuit_breaker_rejected_total{{{labels}}} 1"),
        format!(
            "fusebox_circuit_breaker_transitions_total{{{labels},from=\"closed\",to=\"open\",reason=\"ConsecutiveFailures\"}} 1"
        ),
        format!("fusebox_requests_total{{{labels},status_class=\"5xx\",error=\"\"}} 3"),
        format!("fusebox_requests_total{{{labels},status_class=\"5xx\",error=\"circuit-open\"}} 1"),
        format!("fusebox_request_duration_seconds_count{{{labels}}} 3"),
        r#"fusebox_proxy_config_generation{policy_namespace="shop",policy="pay",kind="CircuitBreakerPolicy"} 3.0"#
            .to_owned(),
        "# EOF".to_owned(),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert!(page.contains("le=\"+Inf\"") && page.contains("process_resident_memory_bytes "));
}

#[tokio::test]
async fn paths_and_hosts_add_no_series() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let admin = proxy.listeners()[1].address;
    let lines = |page: bytes::Bytes| String::from_utf8_lossy(&page).lines().count();
    get(address, "/first").await;
    let before = lines(get(admin, "/metrics").await.body);
    for number in 0..50 {
        get(address, &format!("/{number}?q={number}")).await;
    }
    assert_eq!(lines(get(admin, "/metrics").await.body), before);
}

#[tokio::test]
async fn health_and_state_answer() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&config(upstream.address)).await;
    let admin = proxy.listeners()[1].address;
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(get(admin, path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(get(admin, "/health").await.json()["status"], "healthy");
    trip(&proxy, address).await;
    let state = get(admin, "/state").await.json();
    assert_eq!(state["listeners"][0]["kind"], "outbound");
    assert_eq!(state["listeners"][0]["address"], address.to_string());
    assert_eq!(state["breakers"][0]["state"], "Open");
    assert_eq!(state["breakers"][0]["key"]["policy"]["name"], "pay");
    assert_eq!(get(admin, "/other").await.status, StatusCode::NOT_FOUND);
}
