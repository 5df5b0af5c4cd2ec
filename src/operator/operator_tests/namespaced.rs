//! An operator for some namespaces, which may write only there: it serves them whole, and no other at all.

use fusebox_api::names::FIELD_MANAGER;
use fusebox_compiler::objects::MANAGED_BY;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::ListParams;

use super::outputs::nothing_is_written;
use super::*;

pub(super) const USER: &str = "namespaced-operator";

/// What the operator reads everywhere, as the chart grants it for some namespaces.
const READS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reads}
rules:
- {apiGroups: [fusebox.dev], resources: [circuitbreakerpolicies, ratelimits], verbs: [get, list, watch]}
- {apiGroups: [''], resources: [namespaces, pods, services, configmaps], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [apps], resources: [deployments, statefulsets, daemonsets], verbs: [get, list, watch]}
- {apiGroups: [batch], resources: [jobs, cronjobs], verbs: [get, list, watch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [get, list, watch]}
- {nonResourceURLs: [/.well-known/openid-configuration, /openid/v1/jwks], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reads}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reads}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: namespaced-operator}]
";

pub(super) fn reads() -> String {
    READS.to_owned()
}

/// What it writes, by a Role in one namespace.
pub(super) fn writes(namespace: &str) -> String {
    format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: writes, namespace: {namespace}}}
rules:
- {{apiGroups: [fusebox.dev], resources: [circuitbreakerpolicies/status, ratelimits/status], verbs: [get, patch]}}
- {{apiGroups: [''], resources: [configmaps, services], verbs: [create, patch, delete]}}
- {{apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: writes, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: writes}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {USER}}}]
"
    )
}

/// In its own namespace: lease and authority besides.
pub(super) fn own_rights() -> String {
    let own = "- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, get, update]}\n\
         - {apiGroups: [''], resources: [secrets], verbs: [create, get]}\n---";
    writes(NAMESPACE).replacen("---", own, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_for_one_namespace_serves_it_and_touches_no_other() -> Result<()> {
    let cluster = cluster().await?;
    let (client, served, _pod) = shop(&cluster).await?;
    let (_, other, _other_pod) = shop(&cluster).await?;
    for rights in [READS, &writes(&served), &own_rights()] {
        cluster.apply(rights).await?;
    }
    // What another operator made there is not this one's to delete.
    let standing = format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{namespace: {other}, name: anothers, labels: \
         {{{MANAGED_BY}: {FIELD_MANAGER}}}, annotations: {{{}: hash}}}}}}",
        crate::apply::APPLIED_ANNOTATION
    );
    cluster.apply(&standing).await?;
    for namespace in [&served, &other] {
        apply_policy(&cluster, namespace, "payments", "payments").await?;
    }
    let kubeconfig = cluster.kubeconfig_for_user(USER, None)?;
    let config = cluster.config_from(&kubeconfig).await?;
    let operator = Running::start_with(config, "one", &["--namespaces", &served]).await?;
    condition(&client, &served, "payments", ("Accepted", "True", "Accepted")).await?;
    condition(&client, &served, "payments", ("Programmed", "False", "Pending")).await?;
    let own: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    eventually(SOON, "the authority is published", async || Ok(own.get("fusebox-ca").await?)).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), &served);
    eventually(SOON, "its proxies can be scraped", async || Ok(services.get("fusebox-proxies").await?)).await?;
    nothing_is_written(&cluster).await?;

    let policies: Api<CircuitBreakerPolicy> = Api::namespaced(client.clone(), &other);
    assert_eq!(policies.get("payments").await?.status, None, "a policy elsewhere is another operator's");
    let ours = ListParams::default().labels(&format!("{MANAGED_BY}={FIELD_MANAGER}"));
    let maps = async |namespace: &str| -> Result<Vec<String>> {
        let found = Api::<ConfigMap>::namespaced(client.clone(), namespace).list(&ours).await?;
        Ok(found.items.into_iter().filter_map(|map| map.metadata.name).collect())
    };
    assert_eq!(maps(&other).await?, ["anothers"]);
    assert!(maps(&served).await?.iter().any(|name| name.starts_with("fusebox-deployment-web")));
    let wrong: Vec<AuditEvent> = cluster
        .audit_events()?
        .into_iter()
        .filter(|event| event.user.username == USER && event.is_write())
        .filter(|event| !event.succeeded() || ![served.as_str(), NAMESPACE].contains(&event.object.namespace.as_str()))
        .collect();
    let refused: Vec<&AuditEvent> = wrong.iter().filter(|event| event.response_status.code == 403).collect();
    assert!(refused.is_empty(), "it tried what its role does not allow: {refused:?}");
    assert!(wrong.iter().all(|event| !event.succeeded()), "it wrote elsewhere: {wrong:?}");
    operator.stop().await.map(drop)
}
