//! The Helm chart on a real API server: taken whole, upgraded, rolled back and gone, and no more rights than are written down.
//!
//! There is no kubelet here, so nothing says that pods run: that is for the tests on a node.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use fusebox_e2e::fleet::PATIENCE;
use fusebox_testkit::pods::ensure_service_account;
use fusebox_testkit::{Cluster, eventually};

use crate::chart::helm::{NAMESPACE, Rendering, documents, helm, path};
use crate::chart::{CASES, same_or_written};

const SERVICE_ACCOUNT: &str = "system:serviceaccount:fusebox-system:fusebox-operator";

/// The annotation without which the operator deletes nothing.
const APPLIED: &str = "{fusebox.dev/applied: abc}";

/// What the chart may leave behind, and does unless told otherwise.
const KEPT: [&str; 2] = [
    "customresourcedefinition.apiextensions.k8s.io/circuitbreakerpolicies.fusebox.dev",
    "customresourcedefinition.apiextensions.k8s.io/ratelimits.fusebox.dev",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_every_rendering_whole() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.install_prometheus_crds().await?;
    cluster.install_crds(&fusebox_testkit::helm::cert_manager_crds()?).await?;
    for namespace in [NAMESPACE, "shop", "billing"] {
        cluster.kubectl_ok(&["create", "namespace", namespace]).await?;
    }
    for case in CASES {
        let rendered = Rendering::of(case).text()?;
        let arguments = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename", "-"];
        let output = cluster.kubectl_with_input(&arguments, &rendered).await?;
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{case}: {wrong}");
        assert!(!wrong.contains("Warning"), "{case}: {wrong}");
        assert_eq!(said.lines().count(), documents(&rendered)?.len(), "{case}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn install_upgrade_rollback_and_uninstall_leave_only_what_is_to_be_kept() -> Result<()> {
    let cluster = Cluster::start().await?;
    let release = Release::install(&cluster, &[]).await?;
    let installed = release.objects().await?;
    assert!(installed.len() > 15 && installed.contains("deployment.apps/fusebox-operator"), "{installed:?}");

    release.helm(&["upgrade", "--set", "replicas=3", "--set", "webhook.timeoutSeconds=3"])?;
    assert_eq!(release.field("deployment/fusebox-operator", ".spec.replicas").await?, "3");
    assert_eq!(release.objects().await?, installed);

    helm(&["rollback", "fusebox", "1", "--namespace", NAMESPACE], &release.kubeconfig)?;
    assert_eq!(release.field("deployment/fusebox-operator", ".spec.replicas").await?, "2");

    release.uninstall()?;
    release.leaves(&KEPT).await?;

    // The kept CRD is taken over again, and goes where that is asked for.
    release.helm(&["install", "--set", "crds.keep=false"])?;
    release.uninstall()?;
    release.leaves(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_at_uninstall_removes_what_the_operator_made_and_nothing_else() -> Result<()> {
    let cluster = Cluster::start().await?;
    for namespace in [NAMESPACE, "shop", "busy"] {
        cluster.kubectl_ok(&["create", "namespace", namespace]).await?;
    }
    cluster.apply(&Rendering::of("defaults").only("cleanup").text()?).await?;
    cluster.kubectl_ok(&["delete", "job", "fusebox-cleanup", "--namespace", NAMESPACE]).await?;
    cluster.apply(&made("shop", "made", APPLIED)).await?;
    cluster.apply(&made("shop", "labelled-by-somebody", "{}")).await?;
    cluster.apply(&made("busy", "in-use", APPLIED)).await?;
    cluster.apply(&made(NAMESPACE, "fusebox-ca", APPLIED)).await?;
    let secret = ["create", "secret", "generic", "fusebox-control-ca", "--namespace", NAMESPACE];
    cluster.kubectl_ok(&secret).await?;
    ensure_service_account(&cluster.client().await?, "busy", "default").await?;
    cluster
        .kubectl_ok(&["run", "web", "--image=web", "--labels=fusebox.dev/sidecar=injected", "--namespace", "busy"])
        .await?;

    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, "fusebox-cleanup").await?;
    let operator = fusebox_testkit::process::binary_path("fusebox-operator")?;
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(&operator).args(arguments).env("KUBECONFIG", &kubeconfig).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let said = run(&["--namespace", NAMESPACE, "cleanup"])?;
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "deleted ConfigMap fusebox-system/fusebox-ca",
            "deleted ConfigMap shop/made",
            "deleted Secret fusebox-system/fusebox-control-ca",
            "left namespace busy alone: it has pods with sidecars",
            "3 objects deleted",
        ]
    );
    let left = cluster.kubectl_ok(&["get", "configmaps", "--all-namespaces", "--output=name"]).await?;
    assert!(left.contains("configmap/in-use") && left.contains("configmap/labelled-by-somebody"), "{left}");
    assert!(run(&["--namespace", NAMESPACE, "cleanup"])?.contains("0 objects deleted"), "it can be run again");
    Ok(())
}

/// A ConfigMap with the operator's label.
fn made(namespace: &str, name: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{namespace: {namespace}, name: {name}, \
         labels: {{app.kubernetes.io/managed-by: fusebox}}, annotations: {annotations}}}}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_upgrade_nor_rollback_takes_the_operators_fields_back() -> Result<()> {
    let cluster = Cluster::start().await?;
    let release = Release::install(&cluster, &[]).await?;
    let authority = "Y2VydGlmaWNhdGU=";
    let fields = [
        (
            "mutatingwebhookconfiguration/fusebox",
            ".webhooks[*].clientConfig.caBundle",
            "Y2VydGlmaWNhdGU= Y2VydGlmaWNhdGU=",
        ),
        ("validatingwebhookconfiguration/fusebox", ".webhooks[*].clientConfig.caBundle", authority),
        ("apiservice/v1alpha1.ops.fusebox.dev", ".spec.caBundle", authority),
    ];
    for (object, field, _) in fields {
        let patch = if field.starts_with(".spec") {
            format!(r#"[{{"op":"add","path":"/spec/caBundle","value":"{authority}"}}]"#)
        } else {
            let count = if object.starts_with("mutating") { 2 } else { 1 };
            let each = (0..count).map(|at| {
                format!(r#"{{"op":"add","path":"/webhooks/{at}/clientConfig/caBundle","value":"{authority}"}}"#)
            });
            format!("[{}]", each.collect::<Vec<_>>().join(","))
        };
        cluster.kubectl_ok(&["patch", object, "--type=json", "--patch", &patch, "--field-manager=fusebox"]).await?;
    }
    release.helm(&["upgrade", "--set", "webhook.timeoutSeconds=3", "--set", "extraLabels.team=platform"])?;
    for (object, field, expected) in fields {
        assert_eq!(release.field(object, field).await?, expected, "{object} after the upgrade");
    }
    helm(&["rollback", "fusebox", "1", "--namespace", NAMESPACE], &release.kubeconfig)?;
    for (object, field, expected) in fields {
        assert_eq!(release.field(object, field).await?, expected, "{object} after the rollback");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_rights_are_those_of_the_docs() -> Result<()> {
    let written = std::fs::read_to_string(path("docs/rbac.md"))?;
    // What stands over the first list is written by hand.
    let mut text = written.split("\n## ").next().unwrap_or_default().to_owned();
    let cluster = Cluster::start().await?;
    let release = Release::install(&cluster, &[]).await?;
    text += &release.rights("With default values, in its own namespace", NAMESPACE).await?;
    text += &release.rights("With default values, in any other namespace", "default").await?;
    for (verb, resource, namespace) in [
        ("create", "pods/exec", "default"),
        ("create", "pods", "default"),
        ("get", "secrets", "default"),
        ("list", "secrets", NAMESPACE),
        ("get", "secrets:other", NAMESPACE),
        ("create", "rolebindings.rbac.authorization.k8s.io", "default"),
        ("escalate", "clusterroles.rbac.authorization.k8s.io", ""),
        ("patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io:other", ""),
        ("update", "deployments.apps", "default"),
        ("impersonate", "users", ""),
    ] {
        assert!(
            !may(&cluster, SERVICE_ACCOUNT, verb, resource, namespace).await?,
            "{verb} {resource} in {namespace:?}"
        );
    }
    let own = "mutatingwebhookconfigurations.admissionregistration.k8s.io:fusebox";
    assert!(may(&cluster, SERVICE_ACCOUNT, "patch", own, "").await?);
    drop(cluster);

    let cluster = Cluster::start().await?;
    cluster.install_crds(&fusebox_testkit::helm::cert_manager_crds()?).await?;
    for namespace in ["shop", "billing"] {
        cluster.kubectl_ok(&["create", "namespace", namespace]).await?;
    }
    let values = path("charts/golden/namespaced.values.yaml");
    let release = Release::install(&cluster, &["--values", &values]).await?;
    text += &release.rights("With `rbac.namespaces`, in one of them", "shop").await?;
    text += &release.rights("With `rbac.namespaces`, in any other namespace", "default").await?;
    for (verb, resource) in [("create", "configmaps"), ("patch", "circuitbreakerpolicies.fusebox.dev/status")] {
        assert!(may(&cluster, SERVICE_ACCOUNT, verb, resource, "shop").await?, "{verb} {resource}");
        assert!(!may(&cluster, SERVICE_ACCOUNT, verb, resource, "default").await?, "{verb} {resource}");
    }

    let mut differing = Vec::new();
    same_or_written(&path("docs/rbac.md"), &text, &mut differing)?;
    assert!(differing.is_empty(), "`make chart` writes docs/rbac.md anew; read the difference");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_edit_a_namespace_may_edit_its_policies_and_override_them() -> Result<()> {
    let cluster = Cluster::start().await?;
    Release::install(&cluster, &[]).await?;
    let (policies, overrides) = ("circuitbreakerpolicies.fusebox.dev", "circuitbreakerstates.ops.fusebox.dev/override");
    let expectations = [
        ("view", [("get", policies, true), ("create", policies, false), ("create", overrides, false)]),
        ("edit", [("get", policies, true), ("create", policies, true), ("create", overrides, true)]),
        (
            "admin",
            [("get", "explanations.ops.fusebox.dev", true), ("create", policies, true), ("delete", overrides, true)],
        ),
    ];
    for (role, actions) in expectations {
        cluster.kubectl_ok(&["create", "rolebinding", role, "--clusterrole", role, "--user", role]).await?;
        for (verb, resource, allowed) in actions {
            // Aggregation is a controller's work, and takes its time.
            eventually(PATIENCE, &format!("{role} may {verb} {resource}: {allowed}"), async || {
                anyhow::ensure!(may(&cluster, role, verb, resource, "default").await? == allowed);
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

/// The chart, installed as `fusebox` in its namespace.
struct Release<'a> {
    cluster: &'a Cluster,
    kubeconfig: String,
}

impl<'a> Release<'a> {
    async fn install(cluster: &'a Cluster, arguments: &[&str]) -> Result<Self> {
        let release = Self { cluster, kubeconfig: cluster.kubeconfig_path().display().to_string() };
        let all: Vec<&str> = ["install", "--create-namespace"].iter().chain(arguments).copied().collect();
        release.helm(&all)?;
        Ok(release)
    }

    /// Installs or upgrades it; the first argument says which.
    fn helm(&self, arguments: &[&str]) -> Result<String> {
        let chart = path("charts/fusebox");
        let (command, rest) = arguments.split_first().context("no command")?;
        let all: Vec<&str> =
            [command, "fusebox", &chart, "--namespace", NAMESPACE].iter().chain(rest).copied().collect();
        helm(&all, &self.kubeconfig)
    }

    /// Without the hook, whose pod would never run here.
    fn uninstall(&self) -> Result<()> {
        helm(&["uninstall", "fusebox", "--namespace", NAMESPACE, "--no-hooks"], &self.kubeconfig).map(drop)
    }

    /// Every object of any kind that carries the chart's label.
    async fn objects(&self) -> Result<BTreeSet<String>> {
        // Fails where an aggregated API does not answer, and still prints all others.
        let kinds = self.cluster.kubectl(&["api-resources", "--verbs=list,delete", "--output=name"]).await?;
        let kinds = String::from_utf8_lossy(&kinds.stdout).trim().replace('\n', ",");
        let selector = "--selector=app.kubernetes.io/part-of=fusebox";
        let listed = self.cluster.kubectl(&["get", &kinds, "--all-namespaces", selector, "--output=name"]).await?;
        Ok(String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect())
    }

    /// Waits until nothing else is left.
    async fn leaves(&self, expected: &[&str]) -> Result<()> {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        eventually(PATIENCE, &format!("only {expected:?} is left"), async || {
            let left = self.objects().await?;
            anyhow::ensure!(left == expected, "{left:?}");
            Ok(())
        })
        .await
    }

    async fn field(&self, object: &str, field: &str) -> Result<String> {
        let output = format!("--output=jsonpath={{{field}}}");
        self.cluster.kubectl_ok(&["get", object, "--namespace", NAMESPACE, &output]).await
    }

    async fn rights(&self, title: &str, namespace: &str) -> Result<String> {
        let list = ["auth", "can-i", "--list", "--as", SERVICE_ACCOUNT, "--namespace", namespace];
        let table = self.cluster.kubectl_ok(&list).await?;
        let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
        Ok(format!("\n## {title}\n\n```\n{}\n```\n", lines.join("\n")))
    }
}

/// Whether RBAC lets the user do it. The resource is written `plural.group/subresource:name`; kubectl's own `can-i` asks
/// discovery for it, which knows nothing of an aggregated API whose server is away.
async fn may(cluster: &Cluster, user: &str, verb: &str, resource: &str, namespace: &str) -> Result<bool> {
    let (resource, name) = resource.split_once(':').unwrap_or((resource, ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = serde_json::json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": { "user": user, "resourceAttributes": {
            "verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name, "namespace": namespace,
        }},
    });
    let arguments = ["create", "--filename=-", "--output=jsonpath={.status.allowed}"];
    let output = cluster.kubectl_with_input(&arguments, &review.to_string()).await?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout == b"true")
}
