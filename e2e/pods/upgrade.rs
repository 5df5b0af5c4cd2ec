//! The chart of an earlier commit, with that commit's images, upgraded to this one's and rolled back, under traffic.
//!
//! So one version's sidecars meet the other's operators, both ways round. It takes the place of the release that is
//! installed, and leaves this commit's chart behind; `make e2e-upgrade` builds the earlier one.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::stage::{PATIENCE, SYSTEM_NAMESPACE, Sidecars, Stage, on_stage};
use fusebox_testkit::eventually;

/// The packaged chart of the earlier commit; its images are on the node.
const PREVIOUS: &str = "FUSEBOX_PREVIOUS_CHART";
/// How many requests follow each change.
const REQUESTS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the chart and images of an earlier commit: make e2e-upgrade"]
async fn upgrade_and_rollback_lose_no_request_and_no_configuration() -> Result<()> {
    let previous = std::env::var(PREVIOUS).with_context(|| format!("{PREVIOUS} is not set: use make e2e-upgrade"))?;
    on_stage("upgrade", Sidecars::Transparent, async |stage| {
        helm(&["uninstall", "fusebox", "--ignore-not-found", "--wait"]).await?;
        helm(&["install", "fusebox", &previous, "--create-namespace", "--wait", "--timeout=90s"]).await?;
        let outcome = there_and_back(stage).await;
        helm(&["upgrade", "fusebox", &this_chart(), "--wait", "--timeout=90s"]).await?;
        outcome
    })
    .await
}

async fn there_and_back(stage: &Stage) -> Result<()> {
    stage.payments((2, 1), "trip: {consecutiveFailures: 3}").await?;
    let web = stage.pod_names("web").await?.pop().context("no client")?;
    let (before, old) = (stage.answers(&web).await?.len(), sidecar(stage, "payments").await?);

    // New operators, old sidecars: they take a change, and new pods get new sidecars.
    helm(&["upgrade", "fusebox", &this_chart(), "--wait", "--timeout=90s"]).await?;
    stage.protect("payments", "trip: {consecutiveFailures: 4}").await?;
    stage.enforced("payments").await?;
    stage.kubectl(&["rollout", "restart", "deployment/payments"]).await?;
    stage.rolled_out("payments").await?;
    let new = other_sidecar(stage, "payments", &old).await?;
    ensure!(sidecar(stage, "web").await? == old, "the client was not to be restarted");
    stage.goes_on(&web, (stage.answers(&web).await?.len(), REQUESTS)).await?;

    // Old operators, new sidecars.
    helm(&["rollback", "fusebox", "1", "--wait", "--timeout=90s"]).await?;
    stage.protect("payments", "trip: {consecutiveFailures: 5}").await?;
    stage.enforced("payments").await?;
    stage.goes_on(&web, (stage.answers(&web).await?.len(), REQUESTS)).await?;
    println!("{} requests, none lost, from {old} to {new} and back", stage.all_well(&web, before).await?);
    Ok(())
}

/// The image of the sidecars that an application's pods have.
async fn sidecar(stage: &Stage, app: &str) -> Result<String> {
    let pods = stage.pods(app).await?;
    let containers = pods.iter().flat_map(|pod| pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()));
    let sidecar = containers.filter(|container| container.name == "fusebox-proxy");
    let mut images: Vec<_> = sidecar.filter_map(|container| container.image.clone()).collect();
    images.dedup();
    ensure!(images.len() == 1, "{app} has the sidecars {images:?}");
    images.pop().with_context(|| format!("{app} has no sidecar"))
}

/// The image of the sidecars once none has `old` any more: the last pod of a rollout may go a moment after it is over.
async fn other_sidecar(stage: &Stage, app: &str, old: &str) -> Result<String> {
    eventually(PATIENCE, &format!("{app} has other sidecars than {old}"), async || {
        let image = sidecar(stage, app).await?;
        ensure!(image != old, "they still have it");
        Ok(image)
    })
    .await
}

async fn helm(arguments: &[&str]) -> Result<()> {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let run = move || {
        let program = fusebox_testkit::helm::helm()?;
        let output = Command::new(program).args(&arguments).args(["--namespace", SYSTEM_NAMESPACE]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {} failed: {said}", arguments.join(" "));
        Ok(())
    };
    tokio::task::spawn_blocking(run).await.context("helm's task panicked")?
}

fn this_chart() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/fusebox").display().to_string()
}
