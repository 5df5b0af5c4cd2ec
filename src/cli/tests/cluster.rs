//! `status`, `trip`, `release` and `explain` against a real API server. There is no operator here: the tests write the
//! status that it would, so that each claim about the command stands alone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fusebox_api::CircuitBreakerPolicy;
use fusebox_testkit::pods::PodBuilder;
use fusebox_testkit::{Cluster, eventually};
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::{fusebox, terminal};
use crate::{Exit, execute};

const DEADLINE: Duration = Duration::from_secs(20);

/// A cluster with the resources, and a namespace of one's own.
struct Fixture {
    kubeconfig: String,
    namespace: String,
    cluster: &'static Cluster,
}

impl Fixture {
    async fn new() -> Result<Self> {
        let cluster = Cluster::shared().await?;
        let crds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
        cluster.install_crds(&crds).await?;
        let namespace = cluster.unique_namespace("cli").await?;
        let kubeconfig = cluster.kubeconfig_path().to_str().context("the path is text")?.to_owned();
        Ok(Self { kubeconfig, namespace, cluster })
    }

    async fn policy(&self, name: &str, spec: &Value) -> Result<()> {
        let object = json!({
            "apiVersion": "fusebox.dev/v1alpha1", "kind": "CircuitBreakerPolicy",
            "metadata": { "name": name, "namespace": self.namespace }, "spec": spec,
        });
        self.cluster.apply(&object.to_string()).await.map(drop)
    }

    async fn policies(&self) -> Result<Api<CircuitBreakerPolicy>> {
        Ok(Api::namespaced(self.cluster.client().await?, &self.namespace))
    }

    /// Runs the command in the namespace.
    async fn fusebox(&self, arguments: &[&str]) -> (Exit, String, String) {
        let more = ["--kubeconfig", &self.kubeconfig, "-n", &self.namespace];
        fusebox(&[arguments, &more].concat()).await
    }

    /// Writes the status that an operator would write once all pods acknowledged.
    async fn acknowledge(&self, name: &str) -> Result<()> {
        let policies = self.policies().await?;
        let generation = policies.get(name).await?.metadata.generation;
        let condition = |kind: &str| {
            json!({ "type": kind, "status": "True", "reason": kind, "observedGeneration": generation,
                    "message": "3/3 Ready pods acknowledged", "lastTransitionTime": "2026-01-02T03:04:05Z" })
        };
        let status = json!({ "status": {
            "observedGeneration": generation, "state": "Open",
            "summary": { "target": "payments", "open": "3/3", "failurePercent": 100, "trips": 3 },
            "conditions": [condition("Programmed"), condition("Ready")],
            "sidecars": { "expected": 4, "injected": 3, "findings": [{ "pod": "shop/cart", "problem": "SidecarMissing" }] },
            "targets": [{ "ref": { "name": "payments" }, "accepted": true, "state": "Open", "reason": "ConsecutiveFailures",
                          "pods": { "open": 3, "reporting": 3 }, "trips": 3, "failurePercent": 100 }],
        }});
        policies.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }
}

fn payments() -> Value {
    json!({ "targetRefs": [{ "name": "payments" }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn trip_sets_an_override_under_its_own_manager_and_waits_for_the_fleet() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.policy("payments", &payments()).await?;
    let arguments = ["trip", "payments", "--for", "30m", "--reason", "INC-42"];
    let tripping = fixture.fusebox(&arguments);
    let acknowledging = async {
        let policies = fixture.policies().await?;
        eventually(DEADLINE, "the override is set", async || {
            policies.get("payments").await?.spec.force.context("not yet").map(drop)
        })
        .await?;
        fixture.acknowledge("payments").await
    };
    let ((exit, out, err), acknowledged) = tokio::join!(tripping, acknowledging);
    acknowledged?;
    assert_eq!(exit, Exit::Done, "{err}");
    assert!(out.contains("ForcedOpen until") && out.contains("3/3 Ready pods acknowledged"), "{out}");

    let policy = fixture.policies().await?.get("payments").await?;
    let force = policy.spec.force.context("the override stands")?;
    assert_eq!(force.reason, "INC-42");
    let left = force.until.0.duration_since(Timestamp::now()).as_secs();
    assert!((1_700..=1_800).contains(&left), "{left}");
    let managers: Vec<_> =
        policy.metadata.managed_fields.into_iter().flatten().filter_map(|entry| entry.manager).collect();
    assert!(managers.iter().any(|manager| manager == "fusebox-cli"), "{managers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_does_not_acknowledge_is_unconfirmed() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.policy("payments", &payments()).await?;
    let arguments = ["trip", "payments", "--for", "30m", "--reason", "INC-42", "--timeout", "300ms"];
    let (exit, _, err) = fixture.fusebox(&arguments).await;
    assert!(exit == Exit::Unconfirmed && err.contains("fusebox status payments"), "{err}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn release_clears_what_anybody_set() -> Result<()> {
    let fixture = Fixture::new().await?;
    let until = Timestamp::now() + jiff::SignedDuration::from_mins(5);
    let mut spec = payments();
    spec["override"] = json!({ "state": "ForcedClosed", "until": until.to_string(), "reason": "by kubectl" });
    fixture.policy("payments", &spec).await?;

    let (exit, _, err) = fixture.fusebox(&["trip", "payments", "--for", "1m", "--reason", "x", "--no-wait"]).await;
    assert!(exit == Exit::Failed && err.contains("--take-over"), "{err}");
    let (exit, ..) =
        fixture.fusebox(&["trip", "payments", "--for", "1m", "--reason", "x", "--no-wait", "--take-over"]).await;
    assert_eq!(exit, Exit::Done);

    let (exit, out, err) = fixture.fusebox(&["release", "payments", "--no-wait"]).await;
    assert!(exit == Exit::Done && out.contains("released"), "{err}");
    assert!(fixture.policies().await?.get("payments").await?.spec.force.is_none());
    let (exit, out, _) = fixture.fusebox(&["release", "payments"]).await;
    assert!(exit == Exit::Done && out.contains("no override is set"), "{out}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_a_table_a_policy_and_json() -> Result<()> {
    let fixture = Fixture::new().await?;
    let (exit, out, _) = fixture.fusebox(&["status"]).await;
    assert!(exit == Exit::Done && out.contains("No CircuitBreakerPolicy"), "{out}");
    fixture.policy("payments", &payments()).await?;
    fixture.acknowledge("payments").await?;

    let (exit, out, err) = fixture.fusebox(&["status"]).await;
    assert_eq!(exit, Exit::Done, "{err}");
    let row: Vec<&str> = out.lines().nth(1).context("one policy")?.split_whitespace().collect();
    assert_eq!(row, [&fixture.namespace, "payments", "payments", "Open", "3/3", "100", "3", "-", "True", "-"]);

    let missing = "1 pod without sidecar: shop/cart; restart";
    assert!(out.contains(&format!("{}/payments: {missing}", fixture.namespace)), "{out}");

    let (_, out, _) = fixture.fusebox(&["status", "payments"]).await;
    assert!(out.contains("ConsecutiveFailures") && out.contains("Programmed") && out.contains(missing), "{out}");
    let (_, out, _) = fixture.fusebox(&["status", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&out)?;
    assert_eq!(list["items"][0]["status"]["state"], "Open");
    assert_eq!(list["items"][0]["status"]["sidecars"]["findings"][0]["pod"], "shop/cart");

    let (exit, _, err) = fixture.fusebox(&["status", "ledger"]).await;
    assert!(exit == Exit::Failed && err.contains("does not exist"), "{err}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_rate_limits_beside_breakers_and_by_name() -> Result<()> {
    let fixture = Fixture::new().await?;
    let policy = json!({
        "apiVersion": "fusebox.dev/v1alpha1", "kind": "RateLimit",
        "metadata": { "name": "checkout", "namespace": fixture.namespace },
        "spec": { "targetRefs": [{ "name": "checkout" }],
                  "limits": [{ "name": "per-key", "rate": { "requests": 60, "per": "1m" } }] },
    });
    fixture.cluster.apply(&policy.to_string()).await?;
    let api: Api<fusebox_api::RateLimit> = Api::namespaced(fixture.cluster.client().await?, &fixture.namespace);
    let status = json!({ "status": {
        "summary": { "target": "checkout", "limit": "60/1m", "scope": "Replica", "limitedPercent": 7, "blocked": 1 },
        "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": "",
                         "lastTransitionTime": "2026-01-02T03:04:05Z" }],
        "targets": [{ "ref": { "name": "checkout" }, "limit": "per-key", "accepted": true, "allowed": 93, "limited": 7,
                      "pods": { "reporting": 2 }, "topBlocked": [{ "key": "2bd806c97f0e00af",
                      "since": "2026-01-02T03:04:05Z", "until": "2126-01-02T03:04:05Z" }] }],
    }});
    api.patch_status("checkout", &PatchParams::default(), &Patch::Merge(&status)).await?;

    let (exit, out, err) = fixture.fusebox(&["status"]).await;
    assert_eq!(exit, Exit::Done, "{err}");
    let row: Vec<&str> = out.lines().last().context("a row")?.split_whitespace().collect();
    assert_eq!(row, [&fixture.namespace, "checkout", "checkout", "60/1m", "Replica", "7", "1", "True"], "{out}");
    let (exit, out, err) = fixture.fusebox(&["status", "checkout"]).await;
    assert_eq!(exit, Exit::Done, "{err}");
    assert!(out.contains("RateLimit") && out.contains("client 2bd806c97f0e00af is blocked"), "{out}");
    let (_, out, _) = fixture.fusebox(&["status", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&out)?;
    assert_eq!(list["items"][0]["kind"], "RateLimit");
    let (exit, _, err) = fixture.fusebox(&["limits"]).await;
    assert!(exit == Exit::Failed && err.contains("kubectl get ratelimits"), "{err}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_a_right_is_told_a_command_that_grants_it() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.cluster.apply(include_str!("../../../config/rbac/roles.yaml")).await?;
    fixture.policy("payments", &payments()).await?;
    let person = format!("jane-of-{}", fixture.namespace);
    let kubeconfig = fixture.cluster.kubeconfig_for_user(&person, None)?;
    let kubeconfig = kubeconfig.to_str().context("the path is text")?;
    let jane = async |arguments: &[&str]| fusebox(&[arguments, &["--kubeconfig", kubeconfig]].concat()).await;
    let ns = ["-n", fixture.namespace.as_str()];
    let trip = ["trip", "payments", "--for", "1m", "--reason", "x", "--no-wait", ns[0], ns[1]];

    // Each is refused, and works once somebody who may ran what the refusal says.
    for (arguments, role) in
        [(&["status", ns[0], ns[1]][..], "fusebox-view"), (&trip[..], "fusebox-admin"), (&["status"], "fusebox-view")]
    {
        let (exit, _, err) = jane(arguments).await;
        ensure!(exit == Exit::Failed && err.contains(&format!("ask for ClusterRole {role}")), "{arguments:?}: {err}");
        let command = err.split('`').nth(1).context("a command")?;
        let words: Vec<&str> = command.split(' ').collect();
        ensure!(words[0] == "kubectl" && words.contains(&format!("--user={person}").as_str()), "{command}");
        fixture.cluster.kubectl_ok(&words[1..]).await?;
        eventually(DEADLINE, "the right is known", async || {
            let (exit, _, err) = jane(arguments).await;
            ensure!(exit == Exit::Done, "{arguments:?}: {err}");
            Ok(())
        })
        .await?;
    }

    let stranger = fixture.cluster.kubeconfig_for_user("stranger", None)?;
    let stranger = ["--kubeconfig", stranger.to_str().context("the path is text")?];
    let refused = async |arguments: &[&str]| fusebox(&[arguments, &stranger, &ns].concat()).await;
    for (arguments, role) in [
        (&["status", "payments"][..], "fusebox-view"),
        (&["status", "--watch"], "fusebox-view"),
        (&["release", "payments"], "fusebox-view"),
        (&["explain", "pod/web"], "view"),
    ] {
        let (exit, _, err) = refused(arguments).await;
        let command = format!("--clusterrole={role} --user=stranger");
        ensure!(exit == Exit::Failed && err.contains(&command), "{arguments:?}: {err}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_watch_prints_again_when_a_status_changes() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.policy("payments", &payments()).await?;
    let (mut terminal, out, _) = terminal();
    let words: Vec<std::ffi::OsString> =
        ["fusebox", "status", "--watch", "--kubeconfig", &fixture.kubeconfig, "-n", &fixture.namespace]
            .map(Into::into)
            .into();
    let watching = tokio::spawn(async move { execute(words, &mut terminal).await });
    let shows = async |wanted: &str| {
        eventually(DEADLINE, "the table shows it", async || {
            ensure!(out.text().contains(wanted), "{}", out.text());
            Ok(())
        })
        .await
    };
    shows("Unknown").await?;
    fixture.acknowledge("payments").await?;
    shows("3/3").await?;
    watching.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_applies_to_a_pod_and_why_the_rest_does_not() -> Result<()> {
    let fixture = Fixture::new().await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "payments", "namespace": fixture.namespace },
        "spec": { "selector": { "app": "payments" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    });
    fixture.cluster.apply(&service.to_string()).await?;
    fixture.policy("payments", &payments()).await?;
    fixture.policy("inside", &json!({ "targetRefs": [{ "name": "payments" }], "side": "Server" })).await?;
    fixture.policy("lost", &json!({ "targetRefs": [{ "name": "ledger" }] })).await?;
    let limit = json!({
        "apiVersion": "fusebox.dev/v1alpha1", "kind": "RateLimit",
        "metadata": { "name": "calm", "namespace": fixture.namespace },
        "spec": { "targetRefs": [{ "name": "payments" }], "side": "Client",
                  "limits": [{ "name": "all", "rate": { "requests": 60, "per": "1m" } }] },
    });
    fixture.cluster.apply(&limit.to_string()).await?;
    let client = fixture.cluster.client().await?;
    PodBuilder::bare(&fixture.namespace, "web").with_sidecar().create(&client).await?;
    PodBuilder::bare(&fixture.namespace, "plain").create(&client).await?;

    let (exit, out, err) = fixture.fusebox(&["explain", "pod/web"]).await;
    assert_eq!(exit, Exit::Done, "{err}");
    insta::assert_snapshot!(out.replace(&fixture.namespace, "NAMESPACE"));
    let (_, out, _) = fixture.fusebox(&["explain", "pod/plain"]).await;
    assert!(out.contains("It has no sidecar") && out.contains("payments: out to"), "{out}");
    let (exit, _, err) = fixture.fusebox(&["explain", "pod/absent"]).await;
    assert!(exit == Exit::Failed && err.contains("does not exist"), "{err}");
    Ok(())
}
