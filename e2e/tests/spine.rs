//! From `kubectl apply` to an open breaker in `kubectl get`, and back.

use std::time::Duration;

use anyhow::Result;
use fusebox_e2e::{Fleet, OperatorOptions, Shop};
use fusebox_testkit::eventually;
use http::StatusCode;

use fusebox_e2e::fleet::PATIENCE;

const QUICK: &str = "trip: {consecutiveFailures: 3}, open: {baseDuration: 10s, maxDuration: 10s, jitterPercent: 0}, \
                     halfOpen: {successThreshold: 2}";

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_trips_a_real_proxy_and_kubectl_shows_it() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let web = shop.caller_with_sidecar(&fleet).await?;
    assert_eq!(web.get("/").await?.status, 200, "traffic flows before there is a policy");

    shop.apply_policy(&fleet, "payments", QUICK).await?;
    shop.condition(&fleet, "payments", ("Programmed", "True", "Programmed")).await?;
    web.enforces("payments").await?;
    assert_eq!(web.get("/").await?.status, 200);
    shop.shows(&fleet, "payments", (".status.state", "Closed")).await?;

    shop.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    for _ in 0..3 {
        assert_eq!(web.get("/").await?.status, 500, "a closed breaker passes the upstream's own answer");
    }
    let before = shop.upstream.requests();
    let refused = web.get("/").await?;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert_eq!(refused.header("fusebox-error"), "circuit-open");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1));
    assert!(refused.header("fusebox-policy").contains("/payments; state=open"), "{:?}", refused.headers);
    assert_eq!(shop.upstream.requests(), before, "a refused request never reaches the upstream");

    // Traffic goes on, so that a probe opens the breaker again however late its state is told.
    eventually(PATIENCE, "kubectl shows the open breaker", async || {
        web.get("/").await?;
        shop.shows_now(&fleet, "payments", (".status.state", "Open")).await
    })
    .await?;
    let tripped = shop.condition(&fleet, "payments", ("Tripped", "True", "Open")).await?;
    assert!(tripped.contains("1"), "{tripped}");
    shop.condition(&fleet, "payments", ("Ready", "True", "Ready")).await?;

    shop.upstream.set_status(StatusCode::OK);
    shop.shows(&fleet, "payments", (".status.state", "HalfOpen")).await?;
    eventually(PATIENCE, "probes close the breaker", async || {
        let status = web.get("/").await?.status;
        anyhow::ensure!(status == 200, "{status}");
        Ok(())
    })
    .await?;
    web.get("/").await?;
    shop.shows(&fleet, "payments", (".status.state", "Closed")).await?;
    shop.condition(&fleet, "payments", ("Tripped", "False", "NotTripped")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_forces_every_proxy_and_its_end_frees_them() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let mut proxies = Vec::new();
    for _ in 0..3 {
        proxies.push(shop.caller_with_sidecar(&fleet).await?);
    }
    shop.apply_policy(&fleet, "payments", "").await?;
    for proxy in &proxies {
        proxy.enforces("payments").await?;
        assert_eq!(proxy.get("/").await?.status, 200);
    }

    let until = jiff::Timestamp::now() + Duration::from_secs(600);
    let force = format!("override: {{state: ForcedOpen, until: \"{until:.0}\", reason: INC-42}}");
    shop.apply_policy(&fleet, "payments", &force).await?;
    for proxy in &proxies {
        answers(proxy, 503).await?;
        let refused = proxy.get("/").await?;
        assert!(refused.header("fusebox-policy").contains("state=forced-open"), "{:?}", refused.headers);
    }
    let message = shop.condition(&fleet, "payments", ("Overridden", "True", "ForcedOpen")).await?;
    assert!(message.contains("INC-42"), "{message}");

    fleet
        .kubectl(&[
            "patch",
            "cb",
            "payments",
            "-n",
            &shop.namespace,
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/spec/override"}]"#,
        ])
        .await?;
    for proxy in &proxies {
        answers(proxy, 200).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_side_policy_guards_the_way_into_the_services_own_pods() -> Result<()> {
    let fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let pod = shop.server(&fleet).await?;
    shop.apply_policy(&fleet, "payments", "side: Server, trip: {consecutiveFailures: 2}, open: {baseDuration: 5m}")
        .await?;
    pod.enforces("payments").await?;
    shop.condition(&fleet, "payments", ("Programmed", "True", "Programmed")).await?;

    shop.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    for _ in 0..2 {
        assert_eq!(pod.get_inbound("/").await?.status, 500);
    }
    let refused = pod.get_inbound("/").await?;
    assert_eq!((refused.status.as_u16(), refused.header("fusebox-error")), (503, "circuit-open"));
    assert_eq!(pod.get("/").await?.status, 500, "the way out is another matter");
    shop.shows(&fleet, "payments", (".status.state", "Open")).await?;
    shop.shows(&fleet, "payments", (".status.targets[0].pods.open", "1")).await
}

async fn answers(proxy: &fusebox_e2e::Sidecar, wanted: u16) -> Result<()> {
    eventually(PATIENCE, &format!("the proxy of {} answers {wanted}", proxy.pod.name()), async || {
        let status = proxy.get("/").await?.status;
        anyhow::ensure!(status == wanted, "it answers {status}");
        Ok(())
    })
    .await
}
