//! A client that goes too far is refused by the server's sidecar, kubectl shows it, and without the policy it is served again.

use anyhow::{Context as _, Result, ensure};
use fusebox_testkit::eventually;

use fusebox_e2e::stage::{PATIENCE, Sidecars, Stage, on_stage};

/// Twenty requests at once; the next one comes a minute later, when the block is over.
const POLICY: &str = "{apiVersion: fusebox.dev/v1alpha1, kind: RateLimit, metadata: {name: payments}, \
     spec: {targetRefs: [{name: payments}], limits: [{name: clients, key: [{clientIP: {}}], \
     rate: {requests: 1, per: 1m, burst: 20}, onExceed: {blockFor: 60s}}]}}";
const BURST: usize = 20;
/// What the columns BLOCKED and READY show.
const SUMMARY: &str = r#"--output=jsonpath={.status.summary.blocked} {.status.conditions[?(@.type=="Ready")].status}"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_client_beyond_its_limit_is_refused_with_transparent_interception() -> Result<()> {
    on_stage("limited-transparent", Sidecars::Transparent, limited_and_freed).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_client_beyond_its_limit_is_refused_with_explicit_interception() -> Result<()> {
    on_stage("limited-explicit", Sidecars::Explicit, limited_and_freed).await
}

async fn limited_and_freed(stage: &Stage) -> Result<()> {
    stage.server("payments", 1).await?;
    stage.apply(POLICY).await?;
    stage.rolled_out("payments").await?;
    stage.client("web", (1, "http://payments")).await?;
    stage.rolled_out("web").await?;

    stage.hears("web", (429, "rate-limited")).await?;
    let web = stage.pod_names("web").await?.pop().context("no client")?;
    let served = stage.answers(&web).await?.iter().filter(|answer| answer.status == 200).count();
    ensure!(served == BURST, "{served} requests passed");
    let server = stage.pod_names("payments").await?.pop().context("no server")?;
    ensure!(stage.calls(&server).await? == BURST, "the application was called {} times", stage.calls(&server).await?);
    eventually(PATIENCE, "kubectl shows the blocked client", async || {
        let seen = stage.kubectl(&["get", "ratelimit", "payments", SUMMARY]).await?;
        ensure!(seen == "1 True", "it shows {seen}");
        Ok(())
    })
    .await?;

    stage.kubectl(&["delete", "ratelimit", "payments"]).await?;
    stage.hears("web", (200, "")).await
}
