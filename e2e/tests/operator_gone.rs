//! The operator being away changes nothing for traffic.

use anyhow::Result;
use fusebox_e2e::fleet::PATIENCE;
use fusebox_e2e::{Fleet, OperatorOptions, Shop};
use fusebox_testkit::eventually;
use http::StatusCode;

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_restarted_without_operator_starts_from_its_config_map_and_trips() -> Result<()> {
    let mut fleet = Fleet::start(1, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let mut web = shop.caller_with_sidecar(&fleet).await?;
    shop.apply_policy(&fleet, "payments", "trip: {consecutiveFailures: 2}, open: {baseDuration: 1m}").await?;
    web.enforces("payments").await?;
    web.mount_config(&fleet, "payments").await?;

    fleet.operators.clear();
    for _ in 0..50 {
        assert_eq!(web.get("/").await?.status, 200, "traffic flows on without the operator");
    }

    web.process.kill();
    web.restart().await?;
    web.enforces("payments").await?;
    assert_eq!(web.get("/").await?.status, 200);
    shop.upstream.set_status(StatusCode::SERVICE_UNAVAILABLE);
    for _ in 0..2 {
        assert_eq!(web.get("/").await?.header("fusebox-error"), "", "the upstream's own answer");
    }
    assert_eq!(web.get("/").await?.header("fusebox-error"), "circuit-open");

    fleet.add_operator(&OperatorOptions::default()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_find_an_operator_that_comes_back_and_its_status_is_true_again() -> Result<()> {
    let mut fleet = Fleet::start(2, &OperatorOptions::short_lease()).await?;
    let shop = Shop::open(&fleet).await?;
    let web = shop.caller_with_sidecar(&fleet).await?;
    shop.apply_policy(&fleet, "payments", "trip: {consecutiveFailures: 1}, open: {baseDuration: 5m}").await?;
    web.enforces("payments").await?;

    let leader = fleet.leader().await?;
    fleet.operators.remove(leader);
    shop.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    web.get("/").await?;
    assert_eq!(web.get("/").await?.header("fusebox-error"), "circuit-open");
    shop.shows(&fleet, "payments", (".status.state", "Open")).await?;

    eventually(PATIENCE, "the fleet's other operator leads", async || {
        anyhow::ensure!(fleet.leader().await? == 0);
        Ok(())
    })
    .await
}
