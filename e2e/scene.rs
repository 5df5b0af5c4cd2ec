//! The scene of most tests: namespace with Service `payments`, its pods, and callers `web` with sidecars.
//!
//! Owns the objects and the upstream behind the Service. It must not apply policies: each test says its own.

use anyhow::Result;
use fusebox_api::CircuitBreakerPolicy;
use fusebox_testkit::pods::{PodBuilder, TestPod};
use fusebox_testkit::upstream::FlakyUpstream;
use fusebox_testkit::{Workload, eventually};
use kube::Api;

use crate::fleet::{Fleet, PATIENCE};
use crate::sidecar::{Sidecar, SidecarOptions};

/// A namespace with a Service `payments` (port 80, named http) and what answers behind it.
pub struct Shop {
    /// The namespace.
    pub namespace: String,
    /// What the Service's address leads to.
    pub upstream: FlakyUpstream,
}

impl Shop {
    /// Makes the namespace, the Service with one pod behind it, and the upstream.
    ///
    /// # Errors
    /// When the API server refuses an object.
    pub async fn open(fleet: &Fleet) -> Result<Self> {
        Self::named(fleet, &fleet.cluster.unique_namespace("shop").await?).await
    }

    /// As [`Shop::open`], in a namespace of this name, which is made if it isn't there.
    ///
    /// # Errors
    /// As [`Shop::open`].
    pub async fn named(fleet: &Fleet, namespace: &str) -> Result<Self> {
        fleet.cluster.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}")).await?;
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: payments, namespace: {namespace}}}, \
             spec: {{selector: {{app: payments}}, ports: [{{name: http, port: 80, targetPort: http}}]}}}}"
        );
        fleet.cluster.apply(&service).await?;
        PodBuilder::of(namespace, Workload::Deployment("payments".into()))
            .port("http", 8080)
            .create(&fleet.client)
            .await?;
        Ok(Self { namespace: namespace.to_owned(), upstream: FlakyUpstream::start().await? })
    }

    /// A caller's pod of Deployment `web`, with the sidecar's marks.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn caller(&self, fleet: &Fleet) -> Result<TestPod> {
        PodBuilder::of(&self.namespace, Workload::Deployment("web".into())).with_sidecar().create(&fleet.client).await
    }

    /// A caller's pod and the proxy process beside it.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub async fn caller_with_sidecar(&self, fleet: &Fleet) -> Result<Sidecar> {
        Sidecar::start(fleet, self.caller(fleet).await?, &self.sidecar_options()).await
    }

    /// A pod behind `payments` with a sidecar in front of its container port, which leads to the upstream.
    ///
    /// # Errors
    /// When pod or proxy does not come up.
    pub async fn server(&self, fleet: &Fleet) -> Result<Sidecar> {
        let workload = Workload::Deployment("payments".into());
        let pod =
            PodBuilder::of(&self.namespace, workload).port("http", 8080).with_sidecar().create(&fleet.client).await?;
        let application = Some(format!("{}/8080", self.upstream.address()));
        Sidecar::start(fleet, pod, &SidecarOptions { application, ..self.sidecar_options() }).await
    }

    /// What a caller's proxy is told: one listener for `payments`, which leads to the upstream.
    #[must_use]
    pub fn sidecar_options(&self) -> SidecarOptions {
        SidecarOptions {
            destination: format!("{}/payments:80", self.namespace),
            upstream: format!("{}/payments={}", self.namespace, self.upstream.address()),
            ..SidecarOptions::default()
        }
    }

    /// Applies a policy for `payments`: `spec` is the rest of its spec, as YAML flow fields.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply_policy(&self, fleet: &Fleet, name: &str, spec: &str) -> Result<()> {
        let separator = if spec.is_empty() { "" } else { ", " };
        let policy = format!(
            "{{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {{name: {name}, namespace: {}}}, \
             spec: {{targetRefs: [{{kind: Service, name: payments}}]{separator}{spec}}}}}",
            self.namespace
        );
        fleet.cluster.apply(&policy).await.map(drop)
    }

    /// A policy as the API server has it.
    ///
    /// # Errors
    /// When it isn't there.
    pub async fn policy(&self, fleet: &Fleet, name: &str) -> Result<CircuitBreakerPolicy> {
        Ok(Api::namespaced(fleet.client.clone(), &self.namespace).get(name).await?)
    }

    /// Waits until `kubectl get cb NAME` shows this value in this jsonpath.
    ///
    /// # Errors
    /// When it doesn't within [`PATIENCE`]; the message says what was last seen.
    pub async fn shows(&self, fleet: &Fleet, name: &str, (path, wanted): (&str, &str)) -> Result<()> {
        eventually(PATIENCE, &format!("cb/{name} shows {path} = {wanted}"), async || {
            self.shows_now(fleet, name, (path, wanted)).await
        })
        .await
    }

    /// Fails unless `kubectl get cb NAME` shows this value in this jsonpath at once.
    ///
    /// # Errors
    /// When it shows something else; the message says what.
    pub async fn shows_now(&self, fleet: &Fleet, name: &str, (path, wanted): (&str, &str)) -> Result<()> {
        let output = format!("jsonpath={{{path}}}");
        let seen = fleet.kubectl(&["get", "cb", name, "-n", &self.namespace, "-o", &output]).await?;
        anyhow::ensure!(seen == wanted, "cb/{name} shows {path} = {seen:?}, not {wanted:?}");
        Ok(())
    }

    /// Waits until a condition of the policy has this status and reason, and returns its message.
    ///
    /// # Errors
    /// When it doesn't within [`PATIENCE`]; the message says what was last seen.
    pub async fn condition(&self, fleet: &Fleet, name: &str, wanted: (&str, &str, &str)) -> Result<String> {
        let (kind, status, reason) = wanted;
        eventually(PATIENCE, &format!("cb/{name} has {kind}={status}, {reason}"), async || {
            let policy = self.policy(fleet, name).await?;
            let conditions = policy.status.map(|status| status.conditions).unwrap_or_default();
            let condition = conditions.iter().find(|condition| condition.type_ == kind);
            match condition {
                Some(found) if found.status == status && found.reason == reason => Ok(found.message.clone()),
                other => anyhow::bail!("it has {other:?}"),
            }
        })
        .await
    }
}
