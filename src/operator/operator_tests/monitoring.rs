//! Monitoring objects with the real Prometheus CRDs, which may come late.

use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject};

use super::*;
use crate::apply::OutputKind;

async fn of(client: &Client, namespace: &str, kind: OutputKind) -> Result<Vec<DynamicObject>> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    Ok(api.list(&kube::api::ListParams::default()).await?.items)
}

async fn one(client: &Client, namespace: &str, kind: OutputKind) -> Result<DynamicObject> {
    eventually(SOON, &format!("there is one {}", kind.name()), async || {
        let mut found = of(client, namespace, kind).await?;
        ensure!(found.len() == 1, "{}", found.len());
        found.pop().context("checked above")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_crds_that_come_late_are_picked_up_and_what_is_made_of_them_is_valid() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace, _pod) = shop(&cluster).await?;
    let _operator = Running::start(&cluster, "one", &["--service-monitor-label", "release=prometheus"]).await?;
    apply_policy(&cluster, &namespace, "payments", "payments").await?;
    condition(&client, &namespace, "payments", ("Monitored", "False", "CrdMissing")).await?;

    cluster.install_prometheus_crds().await?;
    condition(&client, &namespace, "payments", ("Monitored", "True", "Monitored")).await?;
    let rule = one(&client, &namespace, OutputKind::PrometheusRule).await?;
    assert_eq!(rule.owner_references()[0].name, "payments");
    assert_eq!(rule.labels()["release"], "prometheus");
    let monitor = one(&client, &namespace, OutputKind::ServiceMonitor).await?;
    assert_eq!(monitor.data["spec"]["endpoints"][0]["port"], "metrics");
    let services = of(&client, &namespace, OutputKind::Service).await?;
    let proxies = services.iter().find(|service| service.name_any() == "fusebox-proxies").context("no Service")?;
    assert_eq!(proxies.data["spec"]["clusterIP"], "None");
    outputs::nothing_is_written(&cluster).await?;

    let policies: Api<CircuitBreakerPolicy> = Api::namespaced(client.clone(), &namespace);
    policies.delete("payments", &DeleteParams::default()).await?;
    eventually(SOON, "the rule goes with its policy", async || {
        ensure!(of(&client, &namespace, OutputKind::PrometheusRule).await?.is_empty(), "it is there");
        Ok(())
    })
    .await?;
    one(&client, &namespace, OutputKind::ServiceMonitor).await.map(drop)
}
