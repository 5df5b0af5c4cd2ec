//! Pods that ask for nothing get nothing, and the cluster itself does what tests rely on.

use anyhow::{Result, ensure};

use fusebox_e2e::stage::{Sidecars, on_stage};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn without_the_label_a_pod_stays_as_it_is_and_reaches_services_by_name() -> Result<()> {
    on_stage("plain", Sidecars::None, async |stage| {
        stage.server("payments", 1).await?;
        stage.client("web", (1, "http://payments")).await?;
        stage.rolled_out("payments").await?;
        stage.rolled_out("web").await?;
        stage.hears("web", (200, "")).await?;
        for pod in stage.pods("web").await? {
            let spec = pod.spec.unwrap_or_default();
            ensure!(spec.containers.len() == 1 && spec.init_containers.is_none(), "something was injected: {spec:?}");
        }
        Ok(())
    })
    .await
}
