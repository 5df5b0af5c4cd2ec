//! Shadow with each feature: everything passes, and what would have been done is counted.

use fusebox_policy::config::Mode;
use fusebox_policy::report::BreakerState;
use http::StatusCode;

use super::endpoints::{by_endpoint, states, three};
use super::falling_back::with_fallback;
use super::judging::{recovered, slow_calls};
use super::support::{Upstream, config, get, policy, proxy, state, trip};

#[tokio::test]
async fn slow_calls_open_the_breaker_and_everything_passes() {
    let upstream = Upstream::start().await;
    let mut settings = slow_calls(&upstream);
    policy(&mut settings).mode = Mode::Shadow;
    let (proxy, address) = proxy(&settings).await;
    for _ in 0..2 {
        get(address, "/late").await;
    }
    assert_eq!(state(&proxy), BreakerState::Open);
    for _ in 0..3 {
        assert_eq!(get(address, "/").await.status, StatusCode::OK);
    }
    assert_eq!(proxy.state().breakers[0].report.rejected, 3);
}

#[tokio::test]
async fn a_ramp_refuses_nobody_and_is_counted() {
    let upstream = Upstream::start().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).mode = Mode::Shadow;
    let proxy = recovered(settings).await;
    for _ in 0..20 {
        assert_eq!(get(proxy.listeners()[0].address, "/").await.status, StatusCode::OK);
    }
    assert!(proxy.state().breakers[0].report.rejected >= 10);
}

#[tokio::test]
async fn a_fixed_answer_is_given_to_nobody() {
    let upstream = Upstream::start().await;
    let mut settings = with_fallback(&upstream);
    policy(&mut settings).mode = Mode::Shadow;
    let (proxy, address) = proxy(&settings).await;
    trip(&proxy, address).await;
    let answer = get(address, "/").await;
    assert_eq!((answer.header("fusebox-policy"), &answer.body[..]), ("", &b"ok"[..]));
    assert_eq!(proxy.state().breakers[0].report.rejected, 1);
}

#[tokio::test]
async fn endpoints_take_turns_as_if_none_were_left_out() {
    let nowhere = Upstream::start().await;
    let mut settings = by_endpoint(&nowhere, 100);
    policy(&mut settings).mode = Mode::Shadow;
    let (proxy, upstreams) = three(&settings).await;
    let address = proxy.listeners()[0].address;
    upstreams[0].set_sick(true);
    for _ in 0..9 {
        get(address, "/").await;
    }
    assert_eq!(states(&proxy), [BreakerState::Open, BreakerState::Closed, BreakerState::Closed]);
    let before = upstreams[0].requests();
    for _ in 0..12 {
        get(address, "/").await;
    }
    assert!(upstreams[0].requests() >= before + 3, "the open one gets calls still");
    let view = proxy.state().breakers.remove(0);
    assert_eq!(view.report.rejected, 0, "other endpoints would have taken them");
    assert!(view.endpoints.unwrap().members[0].breaker.report.rejected >= 3, "what would have been kept away");

    for upstream in &upstreams {
        upstream.set_sick(true);
    }
    while states(&proxy) != [BreakerState::Open; 3] {
        get(address, "/").await;
    }
    let before = proxy.state().breakers[0].report.rejected;
    assert_eq!(get(address, "/").await.header("fusebox-error"), "");
    assert_eq!(proxy.state().breakers[0].report.rejected, before + 1, "nobody would have taken it");
}
