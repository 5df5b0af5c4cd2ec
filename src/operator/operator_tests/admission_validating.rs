//! The validating webhook through kubectl: what is refused, what is warned of, and what is never held up.

use serde_json::json;

use super::admission_stage::{Served, Stage};
use super::*;

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {{namespace: {namespace}, name: {name}}}, spec: {spec}}}"
    )
}

/// A regular expression that only the compiler can tell is none.
const WRONG: &str =
    "{targetRefs: [{name: payments}], rules: [{name: r, match: {path: {type: RegularExpression, value: '(a'}}}]}";

async fn kubectl(stage: &Stage, yaml: &str) -> Result<(bool, String)> {
    let output = stage.cluster.kubectl_with_input(&["apply", "-f", "-"], yaml).await?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_refused_by_field_and_doubts_are_warnings() -> Result<()> {
    let stage = Stage::new("validate", &[]).await?;
    let namespace = stage.namespace.as_str();
    let old = policy(namespace, "old", WRONG);
    assert!(kubectl(&stage, &old).await?.0, "without the webhook only the schema decides");
    let served = Served::start(stage.cluster).await?;
    stage.register_validation(&served).await?;
    let refused = eventually(SOON, "a mistake is refused", async || {
        let (created, said) = kubectl(&stage, &policy(namespace, "wrong", WRONG)).await?;
        if created {
            stage.cluster.kubectl_ok(&["delete", "cb", "wrong", "-n", namespace]).await?;
        }
        ensure!(!created, "not asked yet");
        Ok(said)
    })
    .await?;
    assert!(refused.contains("spec.rules[0].match.path.value"), "{refused}");

    let (created, warned) = kubectl(&stage, &policy(namespace, "early", "{targetRefs: [{name: payments}]}")).await?;
    assert!(created, "{warned}");
    assert!(warned.contains("Warning: spec.targetRefs[0]: Service") && warned.contains("does not exist"), "{warned}");

    let database = ServiceBuilder::cluster_ip(namespace, "database").selector("app", "database");
    database.create(&stage.client).await?;
    let opaque = json!({"metadata": {"annotations": {"fusebox.dev/opaque-ports": "80,8080,5432"}}});
    let services: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(stage.client.clone(), namespace);
    services.patch("database", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(opaque)).await?;
    let tcp = "{targetRefs: [{name: database}], rules: [{name: r, match: {path: {value: /a}}}]}";
    eventually(SOON, "rules on plain TCP are doubtful", async || {
        stage.cluster.kubectl(&["delete", "cb", "tcp", "-n", namespace]).await?;
        let (created, warned) = kubectl(&stage, &policy(namespace, "tcp", tcp)).await?;
        ensure!(created && warned.contains("Warning: spec.rules: has no effect on port"), "{warned}");
        Ok(())
    })
    .await?;

    stage.cluster.kubectl_ok(&["annotate", "cb", "old", "-n", namespace, "team=shop"]).await?;
    stage.cluster.kubectl_ok(&["delete", "cb", "old", "-n", namespace]).await?;
    stage.clear().await
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_taken_while_the_webhook_is_down() -> Result<()> {
    let stage = Stage::new("ignored", &[]).await?;
    let mut served = Served::start(stage.cluster).await?;
    let nobody = fusebox_testkit::ports::Port::reserve()?;
    served.url = format!("https://{}", nobody.address());
    stage.register_validation(&served).await?;
    apply_policy(stage.cluster, &stage.namespace, "payments", "payments").await?;
    stage.clear().await
}
