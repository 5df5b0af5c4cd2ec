//! What a breaker makes of an answer beside its status: how long it took, and what it says about coming back.

use fusebox_policy::config::{BreakerParameters, ProxyConfig, RateWindow, SlowCallRate, Trip};
use fusebox_policy::report::BreakerState;
use http::StatusCode;

use super::support::{Upstream, config, eventually, get, policy, proxy, state};
use crate::Proxy;

/// The policy of `config` with a slow-call rule that two calls decide and nothing else trips.
pub(crate) fn slow_calls(upstream: &Upstream) -> ProxyConfig {
    let mut settings = config(upstream.address);
    let slow_call_rate =
        SlowCallRate { percent: 100, slower_than_ms: 100, window: RateWindow::Calls(2), min_requests: 2 };
    breaker(&mut settings).trip = Trip { slow_call_rate: Some(slow_call_rate), ..Trip::default() };
    settings
}

fn breaker(settings: &mut ProxyConfig) -> &mut BreakerParameters {
    &mut policy(settings).rules[0].breaker
}

/// How long the only breaker stays open from now on, in seconds.
fn open_seconds(proxy: &Proxy) -> i64 {
    let report = proxy.state().breakers.remove(0).report;
    (report.next_probe_unix_ms.unwrap() - report.since_unix_ms) / 1000
}

#[tokio::test]
async fn calls_that_are_answered_too_late_trip_the_breaker() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&slow_calls(&upstream)).await;
    for _ in 0..2 {
        assert_eq!(get(address, "/late").await.status, StatusCode::OK, "a slow answer is an answer");
    }
    let report = proxy.state().breakers.remove(0).report;
    assert_eq!((report.state, report.reason.as_str()), (BreakerState::Open, "SlowCallRate"));
    assert_eq!(report.slow_percent, Some(100.0));
}

#[tokio::test]
async fn a_body_that_takes_its_time_makes_no_call_slow() {
    let upstream = Upstream::start().await;
    let (proxy, address) = proxy(&slow_calls(&upstream)).await;
    for _ in 0..4 {
        assert_eq!(&get(address, "/trickle").await.body[..], b"late");
    }
    assert_eq!(state(&proxy), BreakerState::Closed);
}

#[tokio::test]
async fn an_upstreams_retry_after_lengthens_the_open_time_up_to_its_maximum() {
    let date = "Fri,%2031%20Dec%209999%2023:59:59%20GMT";
    for (said, seconds) in [("30", 30), ("3600", 60), ("nonsense", 1), (date, 1)] {
        let upstream = Upstream::start().await;
        let mut settings = config(upstream.address);
        breaker(&mut settings).open.base_duration_ms = 1_000;
        breaker(&mut settings).open.honor_retry_after = true;
        let (proxy, address) = proxy(&settings).await;
        for _ in 0..3 {
            get(address, &format!("/retry/{said}")).await;
        }
        assert_eq!(open_seconds(&proxy), seconds, "{said}");
    }
}

#[tokio::test]
async fn a_retry_after_that_the_policy_does_not_honour_changes_nothing() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    breaker(&mut settings).open.base_duration_ms = 1_000;
    let (proxy, address) = proxy(&settings).await;
    for _ in 0..3 {
        get(address, "/retry/30").await;
    }
    assert_eq!(open_seconds(&proxy), 1);
}

/// A proxy whose breaker has just recovered, with a ramp of an hour before it.
pub(crate) async fn recovered(mut settings: ProxyConfig) -> Proxy {
    breaker(&mut settings).open.base_duration_ms = 100;
    breaker(&mut settings).half_open.success_threshold = 1;
    breaker(&mut settings).recovery.ramp_ms = 3_600_000;
    let (proxy, address) = proxy(&settings).await;
    for _ in 0..3 {
        get(address, "/status/503").await;
    }
    eventually("half-open", || state(&proxy) == BreakerState::HalfOpen).await;
    assert_eq!(get(address, "/").await.status, StatusCode::OK);
    assert_eq!(state(&proxy), BreakerState::Closed);
    proxy
}

#[tokio::test]
async fn after_a_recovery_traffic_comes_back_little_by_little() {
    let upstream = Upstream::start().await;
    let proxy = recovered(config(upstream.address)).await;
    let address = proxy.listeners()[0].address;
    let mut refused = 0;
    for _ in 0..20 {
        let answer = get(address, "/").await;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(answer.header("fusebox-policy"), "shop/pay; state=recovering");
            refused += 1;
        }
    }
    assert!(refused >= 10, "{refused} of 20 were refused at the foot of the ramp");
    let view = proxy.state().breakers.remove(0);
    assert_eq!(view.report.state, BreakerState::Closed);
    assert!(view.ramp_end_unix_ms.is_some());
}
