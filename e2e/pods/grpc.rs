//! A gRPC client and server that know nothing of Fusebox: the breaker opens on UNAVAILABLE and closes again.

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::stage::{PATIENCE, Sidecars, Stage, on_stage};
use fusebox_testkit::eventually;
use fusebox_testkit::images::{GRPC_CLIENT_IMAGE, GRPC_SERVER_IMAGE};

/// gRPC's interoperability server answers with the status that a request asks for.
const GOOD: &str = "{}";
const BAD: &str = r#"{"response_status": {"code": 14, "message": "asked for"}}"#;
/// grpcurl ends with 64 and the status.
const UNAVAILABLE: &str = "78";
/// How many of the last calls say how the client fares now.
const LAST: usize = 3;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_grpc_client_is_refused_while_its_server_is_unavailable() -> Result<()> {
    on_stage("grpc", Sidecars::Transparent, async |stage| {
        let manifest = include_str!("grpc.yaml");
        stage.apply(&manifest.replace("{server}", GRPC_SERVER_IMAGE).replace("{client}", GRPC_CLIENT_IMAGE)).await?;
        let quick = "trip: {consecutiveFailures: 3}, halfOpen: {successThreshold: 1}, \
             open: {baseDuration: 3s, maxDuration: 3s, jitterPercent: 0}";
        stage.protect("ledger", quick).await?;
        stage.rolled_out("ledger").await?;
        stage.rolled_out("web").await?;
        stage.enforced("ledger").await?;
        let web = stage.pod_names("web").await?.pop().context("no client")?;
        says(stage, &web, "0").await?;

        ask(stage, &web, BAD).await?;
        // The server's own pod has a sidecar that could call itself: it counts, and has nothing to open for.
        stage.shows("ledger", ("PartiallyOpen", "1/2")).await?;
        says(stage, &web, UNAVAILABLE).await?;
        ask(stage, &web, GOOD).await?;
        says(stage, &web, "0").await?;
        stage.shows("ledger", ("Closed", "0/2")).await
    })
    .await
}

/// What the client sends from now on.
async fn ask(stage: &Stage, pod: &str, request: &str) -> Result<()> {
    let script = format!("echo '{request}' > /tmp/request");
    stage.exec(pod, "grpcurl", &["sh", "-c", &script]).await.map(drop)
}

/// Waits until grpcurl's last calls ended with this exit code.
async fn says(stage: &Stage, pod: &str, code: &str) -> Result<()> {
    eventually(PATIENCE, &format!("grpcurl ends with {code}"), async || {
        let log = stage.log(pod, "grpcurl").await?;
        let codes: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("ended ")).collect();
        let last = &codes[codes.len().saturating_sub(LAST)..];
        ensure!(last.len() == LAST && last.iter().all(|one| *one == code), "{last:?}");
        Ok(())
    })
    .await
}
