//! Only the leader writes, and never after its lease's end.
//!
//! The witness is the API server's audit log, replayed: every successful write of an operator must fall into a term of its
//! own, which starts with its successful write of the lease and ends one lease duration later.

use std::time::Duration;

use anyhow::Result;
use fusebox_e2e::fleet::PATIENCE;
use fusebox_e2e::{Fleet, OperatorOptions, Shop};
use fusebox_testkit::eventually;
use http::StatusCode;
use jiff::Timestamp;

const LEASE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_writes_nothing_after_its_lease_ended() -> Result<()> {
    let mut fleet = Fleet::start(2, &OperatorOptions::short_lease()).await?;
    let shop = Shop::open(&fleet).await?;
    let _web = shop.caller_with_sidecar(&fleet).await?;
    shop.apply_policy(&fleet, "before", "").await?;
    shop.condition(&fleet, "before", ("Programmed", "True", "Programmed")).await?;

    let frozen = fleet.leader().await?;
    fleet.operators[frozen].process.pause().await?;
    shop.apply_policy(&fleet, "during", "side: Server").await?;
    eventually(PATIENCE, "the other operator leads", async || {
        anyhow::ensure!(fleet.leader().await? != frozen);
        Ok(())
    })
    .await?;
    shop.condition(&fleet, "during", ("Accepted", "True", "Accepted")).await?;
    tokio::time::sleep(LEASE).await;

    fleet.operators[frozen].process.resume()?;
    shop.apply_policy(&fleet, "after", "mode: Shadow").await?;
    shop.condition(&fleet, "after", ("Accepted", "False", "Conflicted")).await?;
    tokio::time::sleep(LEASE).await;
    fleet.operators[frozen].ready().await?;
    assert_every_write_has_its_term(&fleet, LEASE)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_frozen_for_two_leases_sees_no_late_write() -> Result<()> {
    let fleet = Fleet::start(2, &OperatorOptions::short_lease()).await?;
    let shop = Shop::open(&fleet).await?;
    let web = shop.caller_with_sidecar(&fleet).await?;
    shop.apply_policy(
        &fleet,
        "payments",
        "trip: {consecutiveFailures: 1}, open: {baseDuration: 100ms, maxDuration: 100ms}",
    )
    .await?;
    web.enforces("payments").await?;

    fleet.cluster.pause_api_server().await?;
    let frozen = tokio::time::Instant::now();
    shop.upstream.set_status(StatusCode::INTERNAL_SERVER_ERROR);
    while frozen.elapsed() < 2 * LEASE {
        web.get("/").await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fleet.cluster.resume_api_server().await?;
    shop.upstream.set_status(StatusCode::OK);
    eventually(PATIENCE, "the breaker closes", async || {
        anyhow::ensure!(web.get("/").await?.status == 200);
        Ok(())
    })
    .await?;
    web.get("/").await?;
    shop.shows(&fleet, "payments", (".status.state", "Closed")).await?;
    assert_every_write_has_its_term(&fleet, LEASE)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_within_lease_and_grace() -> Result<()> {
    let mut fleet = Fleet::start(2, &OperatorOptions::default()).await?;
    let shop = Shop::open(&fleet).await?;
    let leader = fleet.leader().await?;
    fleet.operators[leader].process.kill();
    let killed = tokio::time::Instant::now();
    shop.apply_policy(&fleet, "payments", "").await?;
    shop.condition(&fleet, "payments", ("Accepted", "True", "Accepted")).await?;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(20), "the new leader acted after {took:?}");
    assert_every_write_has_its_term(&fleet, Duration::from_secs(15))
}

/// Replays the audit log and fails on a write outside a term of its writer.
fn assert_every_write_has_its_term(fleet: &Fleet, lease: Duration) -> Result<()> {
    let mut late = Vec::new();
    let mut checked = 0;
    for operator in &fleet.operators {
        let mut term_end: Option<Timestamp> = None;
        for event in fleet.writes_of(operator.identity())? {
            let at = event.request_received_timestamp;
            if event.object.resource == "leases" {
                // The term starts no earlier than the request's arrival.
                term_end = Some(at + lease);
                continue;
            }
            checked += 1;
            if term_end.is_none_or(|end| event.stage_timestamp > end) {
                late.push(format!(
                    "{} {} {} at {at}, term ended {term_end:?}",
                    operator.identity(),
                    event.verb,
                    event.object.resource
                ));
            }
        }
    }
    anyhow::ensure!(checked > 0, "the audit log holds no write of an operator, so this shows nothing");
    anyhow::ensure!(late.is_empty(), "writes outside a term:\n{}", late.join("\n"));
    Ok(())
}
