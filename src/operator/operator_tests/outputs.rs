//! What the operator makes of policies, and that it makes nothing twice.

use fusebox_compiler::objects::{CONFIG_KEY, REVISION_ANNOTATION};
use fusebox_compiler::proxy_config::config_map_name;
use fusebox_policy::config::{ProxyConfig, WorkloadId};
use fusebox_testkit::consistently;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};

use super::*;
use crate::health::{Component, State};
use crate::stores::ERROR_LASTS;

const QUIET: Duration = Duration::from_secs(5);

/// An operator that wrote nothing for this long has come to rest.
const REST: Duration = Duration::from_secs(3);

fn web(namespace: &str) -> WorkloadId {
    WorkloadId { namespace: namespace.into(), kind: "Deployment".into(), name: "web".into() }
}

async fn config(client: &Client, namespace: &str) -> Result<ProxyConfig> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = api.get(&config_map_name(&web(namespace))).await?;
    let config: ProxyConfig = serde_yaml::from_str(&map.data.as_ref().context("no data")?[CONFIG_KEY])?;
    ensure!(map.annotations()[REVISION_ANNOTATION] == config.revision(), "another revision");
    Ok(config)
}

async fn carries(client: &Client, namespace: &str, policies: &[&str]) -> Result<()> {
    eventually(SOON, &format!("the ConfigMap carries {policies:?}"), async || {
        let config = config(client, namespace).await?;
        let names: Vec<&str> = config.policies.iter().map(|policy| policy.id.name.as_str()).collect();
        ensure!(names == policies, "{names:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_becomes_a_config_map_and_conditions_and_nothing_is_written_twice() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace, pod) = shop(&cluster).await?;
    let operator = Running::start(&cluster, "one", &[]).await?;
    apply_policy(&cluster, &namespace, "payments", "payments").await?;
    carries(&client, &namespace, &["payments"]).await?;
    condition(&client, &namespace, "payments", ("Accepted", "True", "Accepted")).await?;
    assert_eq!(config(&client, &namespace).await?.outbound[0].service.name, "payments");

    apply_policy(&cluster, &namespace, "lost", "nobody").await?;
    condition(&client, &namespace, "lost", ("Accepted", "False", "TargetNotFound")).await?;
    apply_policy(&cluster, &namespace, "younger", "payments").await?;
    condition(&client, &namespace, "younger", ("Accepted", "False", "Conflicted")).await?;
    carries(&client, &namespace, &["payments"]).await?;

    nothing_is_written(&cluster).await?;
    somebody_elses_change_is_undone(&cluster, &client, &namespace).await?;
    deletion_prunes(&cluster, &client, &namespace, &pod).await?;
    // A watch that the API server turned away while its storage was young counts as failing for a while.
    eventually(SOON + ERROR_LASTS, "the operator is healthy", async || {
        let report = operator.health.report();
        ensure!(report.status == State::Healthy, "{report:?}");
        Ok(())
    })
    .await?;
    let took = operator.stop().await?;
    assert!(took < Duration::from_secs(5), "stopping took {took:?}");
    Ok(())
}

/// Over a quiet period the audit log shows no write of ours.
pub(super) async fn nothing_is_written(cluster: &Cluster) -> Result<()> {
    let log = cluster.audit_log();
    let mut mark = log.mark()?;
    let mut last_write = std::time::Instant::now();
    eventually(SOON, "the operator comes to rest", async || {
        let since = std::mem::replace(&mut mark, log.mark()?);
        if log.events_since(since)?.iter().any(is_write) {
            last_write = std::time::Instant::now();
        }
        // Longer than statuses and Events are held back.
        ensure!(last_write.elapsed() > REST, "still writing");
        Ok(())
    })
    .await?;
    let mark = log.mark()?;
    consistently(QUIET, "nothing is written", async || {
        let writes: Vec<AuditEvent> = log.events_since(mark)?.into_iter().filter(is_write).collect();
        ensure!(writes.is_empty(), "{writes:?}");
        Ok(())
    })
    .await
}

async fn somebody_elses_change_is_undone(cluster: &Cluster, client: &Client, namespace: &str) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = config_map_name(&web(namespace));
    let patch = Patch::Merge(serde_json::json!({"data": {CONFIG_KEY: "format: 1"}}));
    api.patch(&name, &PatchParams::default(), &patch).await?;
    carries(client, namespace, &["payments"]).await?;
    let added = Patch::Merge(serde_json::json!({"metadata": {"labels": {"team": "shop"}}}));
    api.patch(&name, &PatchParams::default(), &added).await?;
    nothing_is_written(cluster).await?;
    assert_eq!(api.get(&name).await?.labels()["team"], "shop", "what others add is theirs");
    Ok(())
}

/// A ConfigMap is emptied while a pod with a sidecar lives, and deleted after it; one that is not ours never is.
async fn deletion_prunes(cluster: &Cluster, client: &Client, namespace: &str, pod: &TestPod) -> Result<()> {
    let yaml = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{namespace: {namespace}, name: theirs, \
         labels: {{app.kubernetes.io/managed-by: fusebox}}}}\n"
    );
    cluster.apply(&yaml).await?;
    let policies: Api<CircuitBreakerPolicy> = Api::namespaced(client.clone(), namespace);
    for name in ["payments", "younger", "lost"] {
        policies.delete(name, &DeleteParams::default()).await?;
    }
    carries(client, namespace, &[]).await?;
    pod.delete().await?;
    cluster.kubectl_ok(&["delete", "deployment,replicaset", "--all", "--namespace", namespace]).await?;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = config_map_name(&web(namespace));
    eventually(SOON, "the ConfigMap is deleted", async || {
        ensure!(api.get_opt(&name).await?.is_none(), "it is there");
        Ok(())
    })
    .await?;
    ensure!(api.get_opt("theirs").await?.is_some(), "another's ConfigMap was deleted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_crds_the_operator_says_what_to_do_and_goes_on_when_they_are_installed() -> Result<()> {
    let cluster = Cluster::start().await?;
    let operator = Running::start(&cluster, "early", &[]).await?;
    eventually(SOON, "health names the next step", async || {
        let found = operator.health.get(Component::Resources).context("nothing said")?;
        ensure!(found.message.contains("is not installed; run `kubectl apply"), "{found:?}");
        ensure!(found.status == State::Degraded && !operator.health.is_ready(), "{found:?}");
        Ok(())
    })
    .await?;
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    cluster.install_crds(&crds).await?;
    cluster.kubectl_ok(&["create", "namespace", NAMESPACE]).await?;
    eventually(SOON, "it is ready", async || {
        ensure!(operator.health.is_ready(), "{:?}", operator.health.report());
        Ok(())
    })
    .await
}
