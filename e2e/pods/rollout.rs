//! A rolling restart of the server, or of the client, loses no request.

use anyhow::{Context as _, Result, ensure};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use tokio::task::JoinHandle;

use fusebox_e2e::stage::{Sidecars, Stage, on_stage};

/// How many requests follow the restart before the count is made.
const AFTERWARDS: usize = 30;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_rolling_restart_of_the_server_loses_no_request() -> Result<()> {
    on_stage("rollout-server", Sidecars::Transparent, async |stage| {
        stage.payments((2, 1), "trip: {consecutiveFailures: 3}").await?;
        let web = stage.pod_names("web").await?.pop().context("no client")?;
        let before = stage.answers(&web).await?.len();
        stage.kubectl(&["rollout", "restart", "deployment/payments"]).await?;
        stage.rolled_out("payments").await?;
        let restarted = stage.answers(&web).await?.len();
        stage.goes_on(&web, (restarted, AFTERWARDS)).await?;
        println!("{} requests, none lost", stage.all_well(&web, before).await?);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_rolling_restart_of_the_client_loses_no_request() -> Result<()> {
    on_stage("rollout-client", Sidecars::Transparent, async |stage| {
        stage.payments((2, 1), "trip: {consecutiveFailures: 3}").await?;
        let old = stage.pod_names("web").await?.pop().context("no client")?;
        let heard = follow(stage, &old);
        stage.kubectl(&["rollout", "restart", "deployment/web"]).await?;
        stage.rolled_out("web").await?;
        let last = heard.await.context("the log's reader panicked")??;
        let bad: Vec<&String> = last.iter().filter(|line| line.trim() != "200").collect();
        ensure!(!last.is_empty() && bad.is_empty(), "the old pod lost {} of {}: {bad:?}", bad.len(), last.len());
        let new = stage.pod_names("web").await?.pop().context("no client")?;
        stage.goes_on(&new, (0, AFTERWARDS)).await?;
        println!("{} and {} requests, none lost", last.len(), stage.all_well(&new, 0).await?);
        Ok(())
    })
    .await
}

/// All lines of a client's log, until its container ends.
fn follow(stage: &Stage, pod: &str) -> JoinHandle<Result<Vec<String>>> {
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let name = pod.to_owned();
    tokio::spawn(async move {
        let wanted = LogParams { container: Some("curl".to_owned()), follow: true, ..LogParams::default() };
        let lines = pods.log_stream(&name, &wanted).await?.lines();
        Ok(lines.try_collect().await?)
    })
}
