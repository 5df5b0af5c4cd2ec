//! A failing Deployment opens the breaker in every pod that enforces it, kubectl shows it, and it closes after the fix.

use anyhow::{Result, ensure};

use fusebox_e2e::stage::{PATIENCE, Sidecars, Stage, on_stage};
use fusebox_testkit::eventually;

const QUICK: &str = "trip: {consecutiveFailures: 3}, halfOpen: {successThreshold: 2}, \
     open: {baseDuration: 3s, maxDuration: 3s, jitterPercent: 0}";
/// On side Client every pod of the namespace that has a sidecar is a caller and counts: servers stay out here.
const NO_SIDECAR: &str = r#"{"spec": {"template": {"metadata": {"labels": {"fusebox.dev/inject": "disabled"}}}}}"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_failing_deployment_opens_its_callers_breakers_with_transparent_interception() -> Result<()> {
    on_stage("callers-transparent", Sidecars::Transparent, callers_open_and_close).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_failing_deployment_opens_its_callers_breakers_with_explicit_interception() -> Result<()> {
    on_stage("callers-explicit", Sidecars::Explicit, callers_open_and_close).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_failing_deployment_opens_its_own_breakers_with_transparent_interception() -> Result<()> {
    on_stage("servers-transparent", Sidecars::Transparent, servers_open_and_close).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_failing_deployment_opens_its_own_breakers_with_explicit_interception() -> Result<()> {
    on_stage("servers-explicit", Sidecars::Explicit, servers_open_and_close).await
}

async fn callers_open_and_close(stage: &Stage) -> Result<()> {
    stage.server("payments", 2).await?;
    stage.kubectl(&["patch", "deployment", "payments", "--patch", NO_SIDECAR]).await?;
    stage.protect("payments", QUICK).await?;
    opens_and_closes(stage).await
}

async fn servers_open_and_close(stage: &Stage) -> Result<()> {
    stage.server("payments", 2).await?;
    stage.protect("payments", &format!("side: Server, {QUICK}")).await?;
    opens_and_closes(stage).await
}

async fn opens_and_closes(stage: &Stage) -> Result<()> {
    stage.called(2).await?;
    stage.shows("payments", ("Closed", "0/2")).await?;

    let servers = stage.pod_names("payments").await?;
    for pod in &servers {
        stage.break_pod(pod).await?;
    }
    stage.hears("web", (503, "circuit-open")).await?;
    stage.shows("payments", ("Open", "2/2")).await?;
    // Half-open between two probes: what kubectl prints is looked at until it is the other.
    eventually(PATIENCE, "kubectl shows Open with its pods", async || {
        let listed = stage.kubectl(&["get", "circuitbreakers"]).await?;
        ensure!(listed.contains(" Open ") && listed.contains(" 2/2 "), "it shows:\n{listed}");
        Ok(())
    })
    .await?;

    for pod in &servers {
        stage.mend_pod(pod).await?;
    }
    stage.hears("web", (200, "")).await?;
    stage.shows("payments", ("Closed", "0/2")).await
}
