//! Pods as the API server sees them: real objects, real owners, real tokens, and a status the test sets.
//!
//! Owns the builder and what a kubelet would do to the object. Nothing runs in these Pods; processes under test are started
//! beside them with their tokens. A kubelet would cost a container runtime and add nothing that the operator can see.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::ports::random;
use crate::workloads::{self, Workload};

/// The audience of the tokens with which proxies talk to the operator.
pub const CONTROL_AUDIENCE: &str = "fusebox-control";
/// Marks a Pod that has a sidecar.
pub const SIDECAR_LABEL: (&str, &str) = ("fusebox.dev/sidecar", "injected");
/// The sidecar's container name.
pub const SIDECAR_CONTAINER: &str = "fusebox-proxy";
/// The node all Pods are bound to: the endpoints controller leaves out Pods of a node that does not exist.
const NODE: &str = "fusebox-test-node";
/// The shortest life of a token that the API server grants.
pub const SHORTEST_TOKEN_SECONDS: i64 = 600;

/// What a Pod is to be.
#[derive(Debug, Clone)]
pub struct PodBuilder {
    namespace: String,
    name: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ports: Vec<(String, u16)>,
    owner: Option<Workload>,
    sidecar: bool,
    service_account: String,
    ip: IpAddr,
}

/// A Pod in a cluster. It stays when this is dropped; it goes with its cluster or by [`TestPod::delete`].
#[derive(Clone)]
pub struct TestPod {
    client: Client,
    namespace: String,
    name: String,
    uid: String,
    service_account: String,
    ip: IpAddr,
}

impl PodBuilder {
    /// A bare Pod of that name, with the default service account and an address of its own in 10.244.0.0/14.
    #[must_use]
    pub fn bare(namespace: &str, name: &str) -> Self {
        Self::new(namespace, Some(name.to_owned()), None)
    }

    /// A Pod of a workload, which is created with its whole chain of owners if it is not there; the Pod's name is made
    /// from the workload's, and it gets the labels the workload's controller would give it, `app: NAME` among them.
    #[must_use]
    pub fn of(namespace: &str, workload: Workload) -> Self {
        Self::new(namespace, None, Some(workload))
    }

    fn new(namespace: &str, name: Option<String>, owner: Option<Workload>) -> Self {
        let [a, b, c, ..] = random().to_be_bytes();
        Self {
            namespace: namespace.to_owned(),
            name,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            ports: Vec::new(),
            owner,
            sidecar: false,
            service_account: "default".to_owned(),
            ip: Ipv4Addr::new(10, 244 + a % 4, b, c.clamp(1, 254)).into(),
        }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a named container port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.ports.push((name.to_owned(), number));
        self
    }

    /// Gives the Pod the sidecar's label and init container.
    #[must_use]
    pub fn with_sidecar(mut self) -> Self {
        self.sidecar = true;
        self.labels.insert(SIDECAR_LABEL.0.to_owned(), SIDECAR_LABEL.1.to_owned());
        self
    }

    /// Runs under another service account than `default`; it is created if it is not there.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// The Pod's address. Loopback addresses never get into EndpointSlices.
    #[must_use]
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.ip = ip;
        self
    }

    /// Creates the Pod and sets its status: running, ready, with its address.
    ///
    /// # Errors
    /// When the API server refuses one of the objects.
    pub async fn create(self, client: &Client) -> Result<TestPod> {
        let pod = self.create_pending(client).await?;
        pod.set_ready().await?;
        Ok(pod)
    }

    /// Creates the Pod and leaves it pending, as before a kubelet has seen it.
    ///
    /// # Errors
    /// When the API server refuses one of the objects.
    pub async fn create_pending(self, client: &Client) -> Result<TestPod> {
        ensure_node(client).await?;
        ensure_service_account(client, &self.namespace, &self.service_account).await?;
        let mut metadata = json!({ "annotations": self.annotations });
        let mut labels = self.labels.clone();
        match (&self.name, &self.owner) {
            (_, Some(workload)) => {
                let owned = workloads::ensure(client, &self.namespace, workload, &self.labels).await?;
                labels = owned.labels;
                metadata["name"] = format!("{}-{:05x}", owned.name_prefix, random() & 0xf_ffff).into();
                metadata["ownerReferences"] = json!([owned.owner_reference]);
            }
            (name, None) => metadata["name"] = json!(name),
        }
        metadata["labels"] = json!(labels);
        let pod: Pod = serde_json::from_value(json!({ "metadata": metadata, "spec": self.spec() }))?;
        let api: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let created = api.create(&PostParams::default(), &pod).await;
        let created = created.with_context(|| format!("cannot create pod {}/{}", self.namespace, pod.name_any()))?;
        Ok(TestPod {
            client: client.clone(),
            name: created.name_any(),
            uid: created.uid().context("the created pod has no uid")?,
            namespace: self.namespace,
            service_account: self.service_account,
            ip: self.ip,
        })
    }

    fn spec(&self) -> Value {
        let ports: Vec<Value> =
            self.ports.iter().map(|(name, number)| json!({"name": name, "containerPort": number})).collect();
        let mut spec = json!({
            "nodeName": NODE,
            "serviceAccountName": self.service_account,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": "example.invalid/app", "ports": ports}],
        });
        if self.sidecar {
            spec["initContainers"] = json!([{"name": SIDECAR_CONTAINER, "image": "example.invalid/fusebox-proxy", "restartPolicy": "Always"}]);
        }
        spec
    }
}

impl TestPod {
    /// The Pod's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Pod's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Pod's UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The Pod's address, also while it is pending.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// A token of the Pod's service account bound to this Pod, for the audience [`CONTROL_AUDIENCE`], for an hour.
    ///
    /// # Errors
    /// When the Pod is gone.
    pub async fn control_token(&self) -> Result<String> {
        self.token(CONTROL_AUDIENCE, 3_600).await
    }

    /// A token of the Pod's service account bound to this Pod. The API server grants no less than 600 seconds.
    ///
    /// # Errors
    /// When the Pod is gone, or the life is too short.
    pub async fn token(&self, audience: &str, seconds: i64) -> Result<String> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(self.name.clone()),
                    uid: Some(self.uid.clone()),
                }),
                expiration_seconds: Some(seconds),
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let answer = accounts.create_token_request(&self.service_account, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("no token bound to pod {}/{}", self.namespace, self.name))?;
        Ok(answer.status.context("the token request has no status")?.token)
    }

    /// Sets the status a kubelet would set once all containers are ready.
    ///
    /// # Errors
    /// When the Pod is gone.
    pub async fn set_ready(&self) -> Result<()> {
        self.set_status("True").await
    }

    /// Sets the status of a running Pod that is not ready.
    ///
    /// # Errors
    /// When the Pod is gone.
    pub async fn set_unready(&self) -> Result<()> {
        self.set_status("False").await
    }

    /// Changes labels; a null value removes one.
    ///
    /// # Errors
    /// When the Pod is gone.
    pub async fn set_labels(&self, labels: &BTreeMap<&str, Option<&str>>) -> Result<()> {
        let patch = json!({ "metadata": { "labels": labels } });
        let patched = self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).with_context(|| format!("cannot label pod {}/{}", self.namespace, self.name))
    }

    /// Deletes the Pod at once.
    ///
    /// # Errors
    /// When the Pod is gone already.
    pub async fn delete(&self) -> Result<()> {
        let deleted = self.api().delete(&self.name, &DeleteParams::default().grace_period(0)).await;
        deleted.map(drop).with_context(|| format!("cannot delete pod {}/{}", self.namespace, self.name))
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn set_status(&self, ready: &str) -> Result<()> {
        let now = jiff::Timestamp::now().to_string();
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": now});
        let status = json!({
            "phase": "Running",
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "startTime": now,
            "conditions": [
                condition("PodScheduled", "True"),
                condition("Initialized", "True"),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ],
        });
        let patch = Patch::Merge(json!({ "status": status }));
        let patched = self.api().patch_status(&self.name, &PatchParams::default(), &patch).await;
        patched.map(drop).with_context(|| format!("cannot set the status of pod {}/{}", self.namespace, self.name))
    }
}

/// Creates a service account unless it is there.
///
/// # Errors
/// When the API server refuses.
pub async fn ensure_service_account(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let mut account = ServiceAccount::default();
    account.metadata.name = Some(name.to_owned());
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    ensure(&accounts, &account).await.with_context(|| format!("cannot create service account {namespace}/{name}"))
}

async fn ensure_node(client: &Client) -> Result<()> {
    let mut node = Node::default();
    node.metadata.name = Some(NODE.to_owned());
    ensure(&Api::all(client.clone()), &node).await.context("cannot create the node of the pods")
}

/// Creates an object unless one of its name is there.
async fn ensure<K>(api: &Api<K>, object: &K) -> Result<()>
where
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(error)) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
