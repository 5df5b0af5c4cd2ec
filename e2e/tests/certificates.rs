//! A proxy keeps its operator while the operator's authority is replaced.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fusebox_e2e::fleet::SYSTEM_NAMESPACE;
use fusebox_e2e::{Fleet, OperatorOptions, Shop};
use fusebox_testkit::eventually;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

/// An authority for 42 s, leaves for 8 s, known everywhere after 3 s.
const SHORT: [&str; 3] = ["--ca-validity=42s", "--certificate-validity=8s", "--ca-propagation=3s"];
const ROTATED: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_follows_its_operator_to_the_next_authority() -> Result<()> {
    let options = OperatorOptions { flags: SHORT.to_vec(), ..OperatorOptions::short_lease() };
    let fleet = Fleet::start(1, &options).await?;
    let shop = Shop::open(&fleet).await?;
    let mut web = shop.caller_with_sidecar(&fleet).await?;
    shop.apply_policy(&fleet, "before", "").await?;
    web.enforces("before").await?;

    let secrets: Api<Secret> = Api::namespaced(fleet.client.clone(), SYSTEM_NAMESPACE);
    let mut signers = BTreeSet::new();
    eventually(ROTATED, "the first authority is forgotten", async || {
        web.mount_authorities(&fleet).await?;
        let data = secrets.get("fusebox-control-ca").await?.data.context("no data")?;
        signers.insert(data.get("ca.crt").context("no ca.crt")?.0.clone());
        ensure!(signers.len() == 2 && !data.contains_key("rotation.json"), "{} signers", signers.len());
        Ok(())
    })
    .await?;
    web.mount_authorities(&fleet).await?;
    let log = web.process.log();
    ensure!(!log.contains("control stream ended"), "an open stream goes on: {log}");

    // Whoever connects now meets the new authority alone.
    web.restart().await?;
    fleet.kubectl(&["delete", "circuitbreakerpolicy", "before", "-n", web.pod.namespace()]).await?;
    shop.apply_policy(&fleet, "after", "").await?;
    web.enforces("after").await
}
