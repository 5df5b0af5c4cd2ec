//! What policies name: a Secret that is granted by its name, quotas that change live, and a file that can't be used.

use fusebox_policy::config::{Reference, ReferenceKind};
use fusebox_policy::report::BrokenReference;

use super::super::namespaced::{USER, own_rights, reads, writes};
use super::super::operations::stage::authority;
use super::super::*;
use super::scene::{Sidecar, apply, condition, shop};

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_read_once_it_is_granted_by_the_command_that_the_condition_holds() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace, pod) = shop(&cluster).await?;
    for rights in [reads(), writes(&namespace), own_rights()] {
        cluster.apply(&rights).await?;
    }
    let secret = |value: &str| {
        format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{namespace: {namespace}, name: quotas}}, stringData: {{file: {value}}}}}"
        )
    };
    cluster.apply(&secret("first")).await?;
    let config = cluster.config_from(&cluster.kubeconfig_for_user(USER, None)?).await?;
    let operator = Running::start_with(config, "one", &["--namespaces", &namespace]).await?;
    apply(&cluster, &namespace, ", key: [{apiKey: {}}], quotasFrom: {secretRef: {name: quotas, key: file}}").await?;
    let sidecar = Sidecar::connect(operator.control, &authority(&cluster).await?, &pod).await?;
    let message = condition(&client, &namespace, ("ResolvedRefs", "False", "RefNotPermitted")).await?;
    assert!(message.contains("--resource-name=quotas") && message.contains("kubectl create role"), "{message}");
    assert!(sidecar.seen.lock().values.is_empty());
    let refused = |event: &AuditEvent| {
        event.user.username == USER && event.object.resource == "secrets" && event.response_status.code == 403
    };
    let refusals = cluster.audit_events()?.iter().filter(|event| refused(event)).count();
    assert!((1..=2).contains(&refusals), "{refusals} refusals");

    // As the message says, for the user that this operator runs as.
    let role = ["create", "role", "reads-quotas", "-n", &namespace, "--verb=get,list,watch", "--resource=secrets"];
    cluster.kubectl_ok(&[&role[..], &["--resource-name=quotas"]].concat()).await?;
    let user = format!("--user={USER}");
    let binding = ["create", "rolebinding", "reads-quotas", "-n", &namespace, "--role=reads-quotas", &user];
    cluster.kubectl_ok(&binding).await?;
    condition(&client, &namespace, ("ResolvedRefs", "True", "ResolvedRefs")).await?;
    sidecar.has_value("first").await?;
    cluster.apply(&secret("hunter2")).await?;
    sidecar.has_value("hunter2").await?;
    let others = cluster.audit_events()?.into_iter().filter(|event| {
        event.user.username == USER && event.object.resource == "secrets" && event.object.namespace == namespace
    });
    assert!(others.into_iter().all(|event| event.request_uri.contains("metadata.name%3Dquotas")), "only this one");

    cluster.kubectl_ok(&["delete", "secret", "quotas", "-n", &namespace]).await?;
    let message = condition(&client, &namespace, ("ResolvedRefs", "False", "RefNotFound")).await?;
    assert!(message.contains("quotas"), "{message}");
    let written = operator.metrics.text()?;
    assert!(!written.contains("hunter2"), "no value stands in metrics");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_change_live_and_a_file_that_a_pod_cannot_use_is_said() -> Result<()> {
    let cluster = cluster().await?;
    let (client, namespace, pod) = shop(&cluster).await?;
    let operator = Running::start(&cluster, "one", &[]).await?;
    apply(&cluster, &namespace, ", key: [{apiKey: {}}], quotasFrom: {configMapRef: {name: quotas, key: file}}").await?;
    condition(&client, &namespace, ("ResolvedRefs", "False", "RefNotFound")).await?;
    let map = async |entries: &str| {
        let object = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{namespace: {namespace}, name: quotas}}, data: {{{entries}}}}}"
        );
        cluster.apply(&object).await
    };
    map("other: x").await?;
    condition(&client, &namespace, ("ResolvedRefs", "False", "RefNotFound")).await?;
    let sidecar = Sidecar::connect(operator.control, &authority(&cluster).await?, &pod).await?;
    map("file: first").await?;
    sidecar.has_value("first").await?;
    condition(&client, &namespace, ("ResolvedRefs", "True", "ResolvedRefs")).await?;
    let begun = std::time::Instant::now();
    map("file: broken").await?;
    sidecar.has_value("broken").await?;
    println!("a changed quota reached the sidecar {:?} after kubectl began", begun.elapsed());

    let reference = Reference {
        kind: ReferenceKind::ConfigMap,
        namespace: namespace.clone(),
        name: "quotas".into(),
        key: "file".into(),
    };
    sidecar.report(vec![BrokenReference { reference, problem: "line 1 is no quota".into() }]).await?;
    let message = condition(&client, &namespace, ("ResolvedRefs", "False", "InvalidContent")).await?;
    assert!(message.contains("line 1 is no quota"), "{message}");
    sidecar.report(vec![]).await?;
    condition(&client, &namespace, ("ResolvedRefs", "True", "ResolvedRefs")).await.map(drop)
}
