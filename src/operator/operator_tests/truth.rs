//! Pods that should have a sidecar and have none: told of in condition Covered, in status, and as a metric.

use fusebox_testkit::pods::SIDECAR_LABEL;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_asks_for_a_sidecar_and_has_none_is_named_until_it_is_made_anew() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace, pod) = shop(&cluster).await?;
    let operator = Running::start(&cluster, "one", &[]).await?;
    apply_policy(&cluster, &namespace, "payments", "payments").await?;
    condition(&client, &namespace, "payments", ("Covered", "True", "Covered")).await?;

    let workload = || Workload::Deployment("cart".to_owned());
    let bare = PodBuilder::of(&namespace, workload()).create(&client).await?;
    let forged = PodBuilder::of(&namespace, workload()).label(SIDECAR_LABEL.0, SIDECAR_LABEL.1).create(&client).await?;
    condition(&client, &namespace, "payments", ("Covered", "True", "Covered")).await?;
    let labels = json!({"metadata": {"labels": {"fusebox.dev/inject": "enabled"}}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.patch(&namespace, &PatchParams::default(), &Patch::Merge(labels)).await?;
    condition(&client, &namespace, "payments", ("Covered", "False", "SidecarMissing")).await?;

    let policies: Api<CircuitBreakerPolicy> = Api::namespaced(client.clone(), &namespace);
    let status = policies.get("payments").await?.status.context("no status")?;
    let covered = status.conditions.iter().find(|it| it.type_ == "Covered").context("no condition")?;
    let restart = format!("`kubectl rollout restart deployment/cart -n {namespace}`");
    assert!(covered.message.contains(&restart), "{}", covered.message);
    let sidecars = status.sidecars.context("nothing of sidecars")?;
    assert_eq!((sidecars.expected, sidecars.injected), (3, 1), "{sidecars:?}");
    let mut named: Vec<String> = [&bare, &forged].map(|pod| format!("{namespace}/{}", pod.name())).into();
    named.sort();
    assert_eq!(sidecars.findings.iter().map(|it| it.pod.clone()).collect::<Vec<_>>(), named);
    let missing = || {
        operator
            .metrics
            .sidecars_missing
            .with_label_values(&["CircuitBreakerPolicy", namespace.as_str(), "payments"])
            .get()
    };
    assert_eq!(missing(), 2);
    eventually(SOON, "an Event tells it", async || {
        ensure!(operator.metrics.events.with_label_values(&["NotCovered"]).get() == 1, "it does not");
        Ok(())
    })
    .await?;

    bare.delete().await?;
    forged.delete().await?;
    PodBuilder::of(&namespace, workload()).with_sidecar().create(&client).await?;
    condition(&client, &namespace, "payments", ("Covered", "True", "Covered")).await?;
    assert_eq!(missing(), 0);
    pod.delete().await?;
    operator.stop().await.map(drop)
}
