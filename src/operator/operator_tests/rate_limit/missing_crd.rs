//! An older chart's CRDs: the operator goes on with the policies that it knows, and says what is missing.

use super::super::*;
use super::scene::{apply, condition, shop};
use crate::health::{Component, State};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_crd_other_policies_are_served_and_it_is_picked_up_when_it_comes() -> Result<()> {
    let cluster = cluster().await?;
    cluster.kubectl_ok(&["delete", "crd", "ratelimits.fusebox.dev"]).await?;
    let (client, namespace, _pod) = shop(&cluster).await?;
    let operator = Running::start(&cluster, "one", &[]).await?;
    apply_policy(&cluster, &namespace, "payments", "payments").await?;
    super::super::condition(&client, &namespace, "payments", ("Accepted", "True", "Accepted")).await?;
    eventually(SOON, "it is said what is missing", async || {
        let resources = operator.health.get(Component::Resources).context("no word")?;
        ensure!(resources.status == State::Degraded, "{resources:?}");
        ensure!(resources.message.contains("ratelimits.fusebox.dev is not installed"), "{resources:?}");
        Ok(())
    })
    .await?;
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    cluster.install_crds(&crds).await?;
    apply(&cluster, &namespace, "").await?;
    condition(&client, &namespace, ("Accepted", "True", "Accepted")).await.map(drop)
}
